/*
 * The saved state of IDE drives: in the middle of anything, and what of it no guest can bring
 * about. A request that was on its way is made again.
 */
#include "engine/hw/ide/ide_priv.h"

#include "engine/core/error.h"

static void drive_pre_save(void *opaque)
{
    IDEDrive *s = opaque;

    s->used = s->phase == IDE_IDLE ? 0 : IDE_BUFFER_BYTES;
    s->write_cache = s->be ? block_write_cache(s->be) : true;
}

static bool drive_pre_load(void *opaque, GError **error)
{
    IDEDrive *s = opaque;

    ide_leave_request(s, true); /* it belongs to a past that will not have been */
    if (s->be) {
        block_forget_held_back(s->be);
    }
    return true;
}

/* Positions and counts that a guest cannot bring about would lead out of the buffer. */
static bool disk_is_possible(const IDEDrive *s)
{
    bool moves = s->chunk > 0 || s->left > 0;

    if (s->command == 0xa0 || s->phase == IDE_PACKET || s->chunk > IDE_BUFFER_SECTORS ||
        (moves && s->block == 0 && s->command != 0x06)) {
        return false;
    }
    if (s->op == IDE_OP_TRIM) {
        return s->chunk_at < 64 * s->chunk || s->phase != IDE_BUSY;
    }
    return s->chunk_at <= s->chunk &&
           !(s->op == IDE_OP_WRITE && s->careful && s->chunk_at >= s->chunk);
}

static bool cd_is_possible(const IDEDrive *s)
{
    bool reads = s->cd_reading || s->cd_left > 0 || s->op == IDE_OP_READ;

    if (s->op != IDE_OP_NONE && s->op != IDE_OP_READ && s->op != IDE_OP_FLUSH) {
        return false;
    }
    if (s->command != 0xa0) { /* what it knows of ATA moves no sectors */
        return !reads && s->left == 0 && s->chunk == 0 && s->phase != IDE_PACKET;
    }
    if (reads && s->cd_unit != CD_SECTOR && s->cd_unit != CD_RAW_SECTOR) {
        return false;
    }
    return s->left == 0 && (uint64_t)s->chunk * MAX(s->cd_unit, CD_SECTOR) <= IDE_BUFFER_BYTES &&
           s->reply_left <= IDE_BUFFER_BYTES - s->end;
}

static bool drive_is_possible(const IDEDrive *s)
{
    bool pio = s->phase == IDE_PIO_IN || s->phase == IDE_PIO_OUT || s->phase == IDE_PACKET;

    return s->phase < IDE_PHASES && s->op < IDE_OPS && s->pos <= s->end &&
           s->end <= IDE_BUFFER_BYTES && s->left <= 65536 && s->block <= 256 &&
           s->multiple <= IDE_MAX_MULTIPLE && s->cur_heads > 0 && s->cur_heads <= 16 &&
           s->cur_secs > 0 && s->cur_secs <= 255 && s->byte_limit <= 65536 &&
           s->reply_left <= IDE_BUFFER_BYTES && (s->phase != IDE_BUSY || s->op != IDE_OP_NONE) &&
           (s->phase == IDE_IDLE || s->used == IDE_BUFFER_BYTES) && (!pio || s->pos < s->end) &&
           (s->phase != IDE_PACKET || s->end == CD_PACKET) &&
           (s->is_cd ? cd_is_possible(s) : disk_is_possible(s));
}

static bool drive_post_load(void *opaque, unsigned version, GError **error)
{
    IDEDrive *s = opaque;

    if (!drive_is_possible(s)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: no drive can be in this state",
                         OBJECT(s)->name);
    }
    if (s->be) {
        block_set_write_cache(s->be, s->write_cache);
        block_lock_medium(s->be, s->locked);
        if (s->phase == IDE_BUSY) {
            s->at_once = IDE_MAX_AT_ONCE; /* the rest of the machine is not there yet */
            ide_start_op(s);
        }
    }
    return true;
}

#define BUFFER_FIELD                                                                         \
    {                                                                                        \
        .name = "buffer", .kind = VMS_U8, .offset = offsetof(IDEDrive, buffer), .size = 1,   \
        .count = IDE_BUFFER_BYTES, .count_offset = offsetof(IDEDrive, used), .pointer = true \
    }
static const VMStateField drive_fields[] = {
    VMSTATE_UINT8(feature, IDEDrive),
    VMSTATE_UINT8(count, IDEDrive),
    VMSTATE_UINT8(lba_low, IDEDrive),
    VMSTATE_UINT8(lba_mid, IDEDrive),
    VMSTATE_UINT8(lba_high, IDEDrive),
    VMSTATE_UINT8(device, IDEDrive),
    VMSTATE_UINT8(hob_feature, IDEDrive),
    VMSTATE_UINT8(hob_count, IDEDrive),
    VMSTATE_UINT8(hob_low, IDEDrive),
    VMSTATE_UINT8(hob_mid, IDEDrive),
    VMSTATE_UINT8(hob_high, IDEDrive),
    VMSTATE_UINT8(status, IDEDrive),
    VMSTATE_UINT8(error, IDEDrive),
    VMSTATE_UINT8(command, IDEDrive),
    VMSTATE_BOOL(irq_pending, IDEDrive),
    VMSTATE_UINT32(cur_heads, IDEDrive),
    VMSTATE_UINT32(cur_secs, IDEDrive),
    VMSTATE_UINT32(multiple, IDEDrive),
    VMSTATE_UINT8(dma_mode, IDEDrive),
    VMSTATE_UINT8(pio_mode, IDEDrive),
    VMSTATE_BOOL(read_ahead, IDEDrive),
    VMSTATE_BOOL(write_cache, IDEDrive),
    VMSTATE_BOOL(smart, IDEDrive),
    VMSTATE_BOOL(smart_autosave, IDEDrive),
    VMSTATE_BOOL(sleeping, IDEDrive),
    VMSTATE_BOOL(standby, IDEDrive),
    VMSTATE_UINT8(phase, IDEDrive),
    VMSTATE_UINT8(op, IDEDrive),
    VMSTATE_BOOL(is_lba48, IDEDrive),
    VMSTATE_BOOL(is_dma, IDEDrive),
    VMSTATE_BOOL(is_write, IDEDrive),
    VMSTATE_BOOL(careful, IDEDrive),
    VMSTATE_UINT32(block, IDEDrive),
    VMSTATE_UINT64(lba, IDEDrive),
    VMSTATE_UINT32(left, IDEDrive),
    VMSTATE_UINT64(chunk_lba, IDEDrive),
    VMSTATE_UINT32(chunk, IDEDrive),
    VMSTATE_UINT32(chunk_at, IDEDrive),
    VMSTATE_UINT32(pos, IDEDrive),
    VMSTATE_UINT32(end, IDEDrive),
    VMSTATE_UINT32(used, IDEDrive),
    BUFFER_FIELD,
    VMSTATE_BYTES(packet, IDEDrive),
    VMSTATE_UINT8(sense_key, IDEDrive),
    VMSTATE_UINT8(asc, IDEDrive),
    VMSTATE_UINT8(ascq, IDEDrive),
    VMSTATE_UINT8(attention, IDEDrive),
    VMSTATE_UINT8(media_event, IDEDrive),
    VMSTATE_UINT32(byte_limit, IDEDrive),
    VMSTATE_UINT32(cd_left, IDEDrive),
    VMSTATE_UINT32(cd_unit, IDEDrive),
    VMSTATE_UINT32(cd_flags, IDEDrive),
    VMSTATE_UINT32(reply_left, IDEDrive),
    VMSTATE_BOOL(cd_reading, IDEDrive),
    VMSTATE_BOOL(cd_out, IDEDrive),
    VMSTATE_BOOL(locked, IDEDrive),
    VMSTATE_END(),
};
const VMStateDescription vmstate_ide_drive = {
    .name = "ide-drive",
    .version = 1,
    .minimum_version = 1,
    .pre_save = drive_pre_save,
    .pre_load = drive_pre_load,
    .post_load = drive_post_load,
    .fields = drive_fields,
};
