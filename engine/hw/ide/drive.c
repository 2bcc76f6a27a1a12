/*
 * IDE drives: what disks and CD-ROMs have in common: life, requests to the medium, moving data to
 * the host, reset. ATA/ATAPI-7.
 *
 * A command is a walk through phases (IDEPhase); where it waits for the medium, `op` says for what,
 * so that a restored drive can ask again. A request owns the buffer while it is on its way: a drive
 * that is reset leaves both behind and goes on with a new buffer.
 */
#include "engine/hw/ide/ide_priv.h"

#include <errno.h>
#include <string.h>

#include "engine/core/error.h"

struct IDERequest {
    IDEDrive *s; /* NULL: it was left behind */
    uint8_t *buffer;
    BlockAio *aio;
};

/* ---- requests to the medium ------------------------------------------------------------------ */

void ide_leave_request(IDEDrive *s, bool cancel)
{
    IDERequest *r = s->request;

    if (!r) {
        return;
    }
    s->request = NULL;
    s->buffer = g_malloc0(IDE_BUFFER_BYTES);
    r->s = NULL;
    if (cancel) {
        block_cancel(r->aio);
    }
}

/* What was to be written is written all the same: the guest may count on it. */
void ide_drop_request(IDEDrive *s)
{
    ide_leave_request(s, s->op == IDE_OP_READ || s->op == IDE_OP_VERIFY);
    s->op = IDE_OP_NONE;
}

static void op_done(IDEDrive *s, int error)
{
    if (s->command == 0xa0) {
        atapi_op_done(s, error);
    } else {
        ata_op_done(s, error);
    }
}

static void request_done(void *opaque, int error)
{
    IDERequest *r = opaque;
    IDEDrive *s = r->s;

    if (!s) {
        g_free(r->buffer);
        g_free(r);
        return;
    }
    s->request = NULL;
    g_free(r);
    op_done(s, error);
}

/* One entry of a TRIM list; false: it says nothing, or nothing that is possible. */
static bool trim_range(IDEDrive *s, uint64_t *lba, uint32_t *n)
{
    const uint8_t *p = s->buffer + 8 * (size_t)s->chunk_at;
    uint64_t entry = 0;

    for (unsigned i = 0; i < 8; i++) {
        entry |= (uint64_t)p[i] << (8 * i);
    }
    *lba = entry & 0xffffffffffff;
    *n = (uint32_t)(entry >> 48);
    return *lba <= s->sectors && *n <= s->sectors - *lba;
}

static void submit(IDEDrive *s, IDERequest *r)
{
    uint32_t sector = s->is_cd ? CD_SECTOR : 512, n = s->chunk;
    uint64_t at = s->chunk_lba;
    uint8_t *buf = s->buffer;
    unsigned fua = s->command == 0x3d || s->command == 0xce ? BLOCK_FUA : 0;

    switch (s->op) {
    case IDE_OP_READ:
    case IDE_OP_VERIFY:
        r->aio = block_read(s->be, at * sector, buf, (size_t)n * sector, request_done, r);
        break;
    case IDE_OP_WRITE:
        if (s->careful) {
            at += s->chunk_at;
            buf += 512 * (size_t)s->chunk_at;
            n = 1;
        }
        r->aio = block_write(s->be, at * 512, buf, (size_t)n * 512, fua, request_done, r);
        break;
    case IDE_OP_TRIM:
        if (!trim_range(s, &at, &n)) {
            at = 0;
            n = 0;
        }
        r->aio = block_discard(s->be, at * 512, (uint64_t)n * 512, request_done, r);
        break;
    default:
        r->aio = block_flush(s->be, request_done, r);
        break;
    }
}

static bool read_now(IDEDrive *s)
{
    uint32_t sector = s->is_cd ? CD_SECTOR : 512;

    return s->op == IDE_OP_READ && s->at_once < IDE_MAX_AT_ONCE &&
           block_read_now(s->be, s->chunk_lba * sector, s->buffer, (size_t)s->chunk * sector);
}

void ide_start_op(IDEDrive *s)
{
    IDERequest *r;

    s->phase = IDE_BUSY;
    s->status = ATA_BSY | (s->status & (ATA_DRDY | ATA_DSC));
    if (read_now(s)) {
        s->at_once++;
        op_done(s, 0);
        return;
    }
    r = g_new0(IDERequest, 1);
    s->at_once = 0;
    r->s = s;
    r->buffer = s->buffer;
    s->request = r;
    submit(s, r);
}

/* ---- data to and from the host --------------------------------------------------------------- */

void ide_offer(IDEDrive *s, IDEPhase phase, uint32_t from, uint32_t bytes)
{
    s->phase = (uint8_t)phase;
    s->pos = from;
    s->end = from + bytes;
    s->status = ATA_DRDY | ATA_DSC | ATA_DRQ;
    if (phase == IDE_DMA_IN || phase == IDE_DMA_OUT) {
        ide_dma_pump(s);
    }
}

void ide_data_moved(IDEDrive *s)
{
    s->status &= (uint8_t)~ATA_DRQ;
    if (s->phase == IDE_PACKET) {
        memcpy(s->packet, s->buffer, CD_PACKET);
        atapi_execute(s);
    } else if (s->command == 0xa0) {
        atapi_block_moved(s);
    } else {
        ata_block_moved(s);
    }
}

void ide_dma_pump(IDEDrive *s)
{
    IDEChannel *ch = s->channel;
    bool in = s->phase == IDE_DMA_IN, error = false;

    if (!ch->dma || !ch->dma->ready(ch->dma_opaque, in)) {
        return;
    }
    s->pos += (uint32_t)ch->dma->move(ch->dma_opaque, s->buffer + s->pos, s->end - s->pos, in,
                                      &error);
    if (s->pos < s->end) {
        return; /* until the guest comes with more descriptors, or a reset */
    }
    s->status = (s->status & (uint8_t)~ATA_DRQ) | ATA_BSY;
    if (s->command == 0xa0) {
        atapi_dma_moved(s);
    } else {
        ata_dma_moved(s);
    }
}

/* ---- the end of commands --------------------------------------------------------------------- */

void ide_finish(IDEDrive *s)
{
    bool dma = s->is_dma;

    s->phase = IDE_IDLE;
    s->op = IDE_OP_NONE;
    s->is_dma = false;
    s->careful = false;
    s->status = ATA_DRDY | ATA_DSC;
    s->error = 0;
    if (dma && s->channel->dma) {
        s->channel->dma->done(s->channel->dma_opaque, false);
    }
}

void ide_ok(IDEDrive *s)
{
    ide_finish(s);
    ide_raise(s);
}

void ide_abort(IDEDrive *s, uint8_t error)
{
    ide_finish(s);
    s->status = ATA_DRDY | ATA_DSC | ATA_ERR;
    s->error = error;
    ide_raise(s);
}

void ide_execute(IDEDrive *s, uint8_t command)
{
    if (s->sleeping && command != 0x08) {
        log_of(s, LOG_GUEST, "%s: command %#x while it sleeps: only a reset wakes it",
               OBJECT(s)->name, command);
        return;
    }
    s->command = command;
    s->at_once = 0;
    s->is_lba48 = s->is_dma = s->is_write = s->careful = false;
    s->error = 0;
    s->left = s->chunk = s->chunk_at = 0;
    if (command == 0xa0 && s->is_cd) {
        atapi_packet_command(s);
    } else {
        ata_execute(s);
    }
}

/* ---- addresses ------------------------------------------------------------------------------- */

uint64_t ide_get_lba(const IDEDrive *s)
{
    uint64_t low = s->lba_low | (uint64_t)s->lba_mid << 8 | (uint64_t)s->lba_high << 16;

    if (s->is_lba48) {
        return low | (uint64_t)s->hob_low << 24 | (uint64_t)s->hob_mid << 32 |
               (uint64_t)s->hob_high << 40;
    }
    if (s->device & ATA_LBA) {
        return low | (uint64_t)(s->device & 15) << 24;
    }
    if (s->lba_low == 0 || s->lba_low > s->cur_secs || (s->device & 15u) >= s->cur_heads) {
        return UINT64_MAX;
    }
    return ((uint64_t)(s->lba_mid | s->lba_high << 8) * s->cur_heads + (s->device & 15)) *
               s->cur_secs +
           s->lba_low - 1;
}

void ide_set_lba(IDEDrive *s, uint64_t lba)
{
    if (!s->is_lba48 && !(s->device & ATA_LBA)) {
        uint64_t cylinder = lba / (s->cur_heads * s->cur_secs);
        uint32_t rest = (uint32_t)(lba % (s->cur_heads * s->cur_secs));

        s->lba_low = (uint8_t)(rest % s->cur_secs + 1);
        s->lba_mid = (uint8_t)cylinder;
        s->lba_high = (uint8_t)(cylinder >> 8);
        s->device = (s->device & 0xf0) | (uint8_t)(rest / s->cur_secs);
        return;
    }
    s->lba_low = (uint8_t)lba;
    s->lba_mid = (uint8_t)(lba >> 8);
    s->lba_high = (uint8_t)(lba >> 16);
    if (s->is_lba48) {
        s->hob_low = (uint8_t)(lba >> 24);
        s->hob_mid = (uint8_t)(lba >> 32);
        s->hob_high = (uint8_t)(lba >> 40);
    } else {
        s->device = (s->device & 0xf0) | ((lba >> 24) & 15);
    }
}

/* ---- reset ----------------------------------------------------------------------------------- */

void ide_set_signature(IDEDrive *s)
{
    s->error = 1; /* passed its test */
    s->count = s->lba_low = 1;
    s->lba_mid = s->is_cd ? 0x14 : 0;
    s->lba_high = s->is_cd ? 0xeb : 0;
    s->hob_count = s->hob_low = s->hob_mid = s->hob_high = s->hob_feature = 0;
    s->device = ATA_DEV_ONES | (s->device & ATA_DEV);
    if (!s->is_cd) {
        s->device &= ATA_DEV | ATA_DEV_ONES;
    }
}

void ide_drive_reset(IDEDrive *s, bool power_on)
{
    ide_drop_request(s);
    s->phase = IDE_IDLE;
    s->is_dma = s->careful = s->is_lba48 = false;
    s->command = 0;
    s->irq_pending = false;
    s->sleeping = s->standby = false;
    s->feature = 0;
    s->device = ATA_DEV_ONES;
    ide_set_signature(s);
    s->status = s->is_cd ? 0 : ATA_DRDY | ATA_DSC;
    s->cd_reading = s->cd_out = false;
    s->cd_left = s->reply_left = 0;
    if (s->is_cd) {
        s->attention |= ATTENTION_RESET;
    }
    if (!power_on) {
        return;
    }
    s->cur_heads = s->heads;
    s->cur_secs = s->secs;
    s->multiple = IDE_MAX_MULTIPLE;
    s->dma_mode = s->channel->dma ? 0x40 | 5 : 0;
    s->pio_mode = 4;
    s->read_ahead = s->smart = s->smart_autosave = true;
    s->sense_key = s->asc = s->ascq = 0;
    s->media_event = 0;
    if (s->locked) {
        s->locked = false;
        block_lock_medium(s->be, false);
    }
}

/* ---- a medium that comes and goes, errors that stop the machine ------------------------------ */

static void stop_machine(void *opaque, const char *reason)
{
    machine_pause(IDE_DRIVE(opaque)->parent.machine, reason);
}

static void length_changed(void *opaque, bool loaded)
{
    IDEDrive *s = opaque;

    s->sectors = block_length(s->be) / 512;
}

static const BlockDeviceOps disk_ops = { .stop = stop_machine, .media_changed = length_changed };

static void run_state_changed(Machine *m, RunState state, void *opaque)
{
    IDEDrive *s = opaque;

    if (state == RUN_STATE_RUNNING && s->be && block_held_back(s->be) > 0) {
        block_retry(s->be);
    }
}

static bool quiesce_begin(void *opaque, GError **error)
{
    IDEDrive *s = opaque;

    block_quiesce_begin(s->be);
    if (!block_drain(s->be, error)) {
        block_quiesce_end(s->be);
        return false;
    }
    return true;
}

static void quiesce_end(void *opaque)
{
    block_quiesce_end(IDE_DRIVE(opaque)->be);
}

static const MachineQuiesceOps quiesce_ops = { quiesce_begin, quiesce_end };

/* ---- life ------------------------------------------------------------------------------------ */

static IDEChannel *find_channel(Object *at, uint32_t unit)
{
    for (unsigned i = 0; i < object_child_count(at); i++) {
        Object *child = object_child_at(at, i);
        IDEChannel *ch = is_IDE_CHANNEL(child) ? IDE_CHANNEL(child) : NULL;

        if (ch && (unit < 2 ? !ch->drives[unit] : !ch->drives[0] || !ch->drives[1])) {
            return ch;
        }
        ch = find_channel(child, unit);
        if (ch) {
            return ch;
        }
    }
    return NULL;
}

static bool find_place(IDEDrive *s, GError **error)
{
    IDEChannel *ch = (IDEChannel *)s->channel_link;

    if (s->unit != UINT32_MAX && s->unit > 1) {
        return error_set(error, ENGINE_ERROR_INVALID, "unit=%u: a channel has units 0 and 1",
                         s->unit);
    }
    if (!ch) {
        ch = find_channel(OBJECT(s->parent.machine), s->unit);
    }
    if (!ch) {
        return error_set(error, ENGINE_ERROR_INVALID, "no IDE channel has a free place");
    }
    if (s->unit == UINT32_MAX) {
        s->unit = ch->drives[0] ? 1 : 0;
    }
    if (ch->drives[s->unit]) {
        return error_set(error, ENGINE_ERROR_BUSY, "unit %u of %s is taken by '%s'", s->unit,
                         OBJECT(ch)->name, OBJECT(ch->drives[s->unit])->name);
    }
    s->channel = ch;
    if (!s->channel_link) { /* whoever asks is told where it is, as with the unit */
        object_property_store_link(OBJECT(s), object_find_property(OBJECT(s), "bus"), OBJECT(ch));
    }
    return true;
}

static bool find_geometry(IDEDrive *s, GError **error)
{
    BlockGeometry g;

    s->sectors = block_length(s->be) / 512;
    if (s->is_cd) {
        s->heads = s->secs = 1;
        return true;
    }
    if (s->sectors == 0 || s->sectors > (UINT64_C(1) << 48)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "drive '%s': %" G_GUINT64_FORMAT " bytes make no disk", block_label(s->be),
                         block_length(s->be));
    }
    if (!s->cyls && !s->heads && !s->secs) {
        block_guess_geometry(s->be, &g);
        s->cyls = g.cylinders;
        s->heads = g.heads;
        s->secs = g.sectors;
    }
    if (s->cyls < 1 || s->cyls > 65535 || s->heads < 1 || s->heads > 16 || s->secs < 1 ||
        s->secs > 255) {
        return error_set(
            error, ENGINE_ERROR_INVALID,
            "cyls=%u heads=%u secs=%u: 1-65535, 1-16 and 1-255 are possible, all three "
            "or none are given",
            s->cyls, s->heads, s->secs);
    }
    return true;
}

static bool drive_realize(DeviceState *dev, GError **error)
{
    IDEDrive *s = IDE_DRIVE(dev);
    BlockBackend *be = (BlockBackend *)s->drive_link;

    s->is_cd = IDE_DRIVE_GET_CLASS(dev)->is_cd;
    if (!be && !s->is_cd) {
        return error_set(error, ENGINE_ERROR_INVALID, "an IDE disk needs a drive");
    }
    if (!find_place(s, error)) {
        return false;
    }
    if (!be) {
        g_autofree char *name = g_strdup_printf("empty-%s-%u", OBJECT(s->channel)->name, s->unit);

        be = block_backend_new(OBJECT(dev), name, NULL, error);
        if (!be) {
            return false;
        }
    }
    if (!block_attach(be, s->is_cd ? &atapi_block_ops : &disk_ops, s, false, error)) {
        return false;
    }
    s->be = (BlockBackend *)object_ref(be);
    if (!find_geometry(s, error)) {
        block_detach(be);
        object_unref(g_steal_pointer(&s->be));
        return false;
    }
    if (!s->buffer) {
        s->buffer = g_malloc0(IDE_BUFFER_BYTES);
    }
    s->channel->drives[s->unit] = s;
    object_ref(s->channel);
    machine_add_notify(dev->machine, run_state_changed, s);
    machine_add_quiesce(dev->machine, &quiesce_ops, s);
    return true;
}

static void drive_unrealize(DeviceState *dev)
{
    IDEDrive *s = IDE_DRIVE(dev);

    machine_remove_quiesce(dev->machine, &quiesce_ops, s);
    machine_remove_notify(dev->machine, run_state_changed, s);
    ide_drop_request(s);
    s->irq_pending = false;
    s->channel->drives[s->unit] = NULL;
    ide_update_irq(s->channel);
    object_unref(g_steal_pointer(&s->channel));
    block_detach(s->be);
    object_unref(g_steal_pointer(&s->be));
}

static void drive_reset(DeviceState *dev)
{
    IDEDrive *s = IDE_DRIVE(dev);

    ide_drive_reset(s, true);
    s->attention = s->is_cd ? ATTENTION_RESET : 0;
    ide_update_irq(s->channel);
}

static void drive_finalize(Object *obj)
{
    g_free(IDE_DRIVE(obj)->buffer);
}

static const Property drive_properties[] = {
    DEFINE_PROP_LINK("bus", IDEDrive, channel_link, TYPE_IDE_CHANNEL,
                     "the channel; none: the first with a free place"),
    DEFINE_PROP_UINT32("unit", IDEDrive, unit, UINT32_MAX,
                       "0: master, 1: slave; none: what is free"),
    DEFINE_PROP_LINK("drive", IDEDrive, drive_link, TYPE_BLOCK_BACKEND, "what it reads and writes"),
    DEFINE_PROP_STRING("serial", IDEDrive, serial, "serial number (20 characters)"),
    DEFINE_PROP_STRING("model", IDEDrive, model, "model (40 characters)"),
    DEFINE_PROP_STRING("ver", IDEDrive, firmware, "firmware revision (8 characters)"),
    DEFINE_PROP_INT32("bootindex", IDEDrive, bootindex, -1,
                      "place in the firmware's boot order; -1: none"),
    DEFINE_PROP_UINT64("wwn", IDEDrive, wwn, 0, "world wide name; 0: none"),
};
static const Property disk_properties[] = {
    DEFINE_PROP_UINT32("cyls", IDEDrive, cyls, 0, "cylinders; 0: as the partition table implies"),
    DEFINE_PROP_UINT32("heads", IDEDrive, heads, 0, "heads"),
    DEFINE_PROP_UINT32("secs", IDEDrive, secs, 0, "sectors a track"),
};

static void drive_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = drive_realize;
    dc->unrealize = drive_unrealize;
    dc->reset = drive_reset;
    dc->vmsd = &vmstate_ide_drive;
    object_class_add_properties(klass, drive_properties, G_N_ELEMENTS(drive_properties));
}

static void hd_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->user_creatable = true;
    object_class_add_properties(klass, disk_properties, G_N_ELEMENTS(disk_properties));
}

static void cd_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->user_creatable = true;
    IDE_DRIVE_CLASS(klass)->is_cd = true;
}

static const TypeInfo drive_types[] = {
    { .name = TYPE_IDE_DRIVE,
      .parent = TYPE_DEVICE,
      .doc = "A drive on an IDE channel",
      .instance_size = sizeof(IDEDrive),
      .instance_finalize = drive_finalize,
      .class_size = sizeof(IDEDriveClass),
      .class_init = drive_class_init,
      .abstract = true },
    { .name = TYPE_IDE_HD,
      .parent = TYPE_IDE_DRIVE,
      .doc = "IDE (ATA) hard disk",
      .class_init = hd_class_init },
    { .name = TYPE_IDE_CD,
      .parent = TYPE_IDE_DRIVE,
      .doc = "IDE (ATAPI) CD-ROM",
      .class_init = cd_class_init },
};

static void register_drives(void)
{
    type_register_static_array(drive_types, G_N_ELEMENTS(drive_types));
}
type_init(register_drives)
