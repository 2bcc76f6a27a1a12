/*
 * ATA disks: the commands. ATA/ATAPI-7, volume 1 (the 48-bit and FUA ones included), and DATA SET
 * MANAGEMENT of ACS-2.
 *
 * Reads are made ahead of the host, a whole chunk at a time; PIO writes are collected into one.
 * Where a chunk fails, it is tried again sector by sector, so that the address in the registers is
 * that of the bad one.
 */
#include "engine/hw/ide/ide_priv.h"

#include <errno.h>
#include <string.h>

#define TRIM_MAX_BLOCKS 8 /* as identify data says */

static void next_chunk(IDEDrive *s)
{
    uint32_t most = IDE_BUFFER_SECTORS;

    if (s->careful && !s->is_write) {
        most = s->is_dma ? 1 : s->block; /* the host takes whole blocks */
    }
    s->chunk = MIN(s->left, most);
    s->chunk_lba = s->lba;
    s->chunk_at = 0;
}

/* The transfer has reached its end: the registers show the last sector. */
static void transfer_over(IDEDrive *s, bool interrupt)
{
    ide_set_lba(s, s->lba - 1);
    s->count = s->hob_count = 0;
    ide_finish(s);
    if (interrupt) {
        ide_raise(s);
    }
}

static void bad_sector(IDEDrive *s, uint64_t lba, uint8_t error)
{
    ide_set_lba(s, lba);
    ide_abort(s, error);
}

/* ---- PIO blocks ------------------------------------------------------------------------------ */

static void offer_block(IDEDrive *s)
{
    uint32_t n = MIN(s->block, s->chunk - s->chunk_at);

    ide_offer(s, s->is_write ? IDE_PIO_OUT : IDE_PIO_IN, 512 * s->chunk_at, 512 * n);
    s->chunk_at += n;
}

static void read_next(IDEDrive *s)
{
    next_chunk(s);
    s->op = IDE_OP_READ;
    ide_start_op(s);
}

static void write_chunk(IDEDrive *s)
{
    s->chunk_at = 0;
    s->op = IDE_OP_WRITE;
    ide_start_op(s);
}

/* Data commands that are not reads or writes of sectors have no chunk left when their block goes.
 */
void ata_block_moved(IDEDrive *s)
{
    if (s->phase == IDE_PIO_IN) {
        if (s->chunk_at < s->chunk) {
            offer_block(s);
            ide_raise(s);
        } else if (s->left > 0) {
            read_next(s);
        } else if (s->chunk > 0) {
            transfer_over(s, false);
        } else {
            ide_finish(s);
        }
    } else if (s->chunk == 0) { /* WRITE BUFFER */
        ide_ok(s);
    } else if (s->chunk_at < s->chunk) {
        offer_block(s);
        ide_raise(s);
    } else {
        write_chunk(s);
    }
}

/* ---- DMA ------------------------------------------------------------------------------------- */

static void trim_next(IDEDrive *s);

void ata_dma_moved(IDEDrive *s)
{
    if (s->phase == IDE_DMA_OUT) {
        if (s->command == 0x06) {
            s->chunk_at = 0;
            trim_next(s);
        } else {
            write_chunk(s);
        }
    } else if (s->left > 0) {
        read_next(s);
    } else {
        transfer_over(s, true);
    }
}

/* ---- the medium has answered ----------------------------------------------------------------- */

static void read_done(IDEDrive *s, int error)
{
    if (error) {
        if (s->chunk > 1 && !s->careful) {
            s->careful = true;
            read_next(s);
        } else {
            bad_sector(s, s->chunk_lba, ATA_E_UNC);
        }
        return;
    }
    s->lba += s->chunk;
    s->left -= s->chunk;
    if (s->is_dma) {
        ide_offer(s, IDE_DMA_IN, 0, 512 * s->chunk);
    } else {
        offer_block(s);
        ide_raise(s);
    }
}

static void write_done(IDEDrive *s, int error)
{
    if (error) {
        if (s->chunk > 1 && !s->careful) {
            s->careful = true;
            write_chunk(s);
        } else {
            bad_sector(s, s->chunk_lba + s->chunk_at,
                       error == EROFS || error == EPERM ? ATA_E_ABRT : ATA_E_UNC);
        }
        return;
    }
    if (s->careful && ++s->chunk_at < s->chunk) {
        ide_start_op(s);
        return;
    }
    s->lba += s->chunk;
    s->left -= s->chunk;
    if (s->left == 0) {
        transfer_over(s, true);
        return;
    }
    s->careful = false;
    next_chunk(s);
    if (s->is_dma) {
        ide_offer(s, IDE_DMA_OUT, 0, 512 * s->chunk);
    } else {
        offer_block(s);
        ide_raise(s);
    }
}

static void verify_done(IDEDrive *s, int error)
{
    if (error) {
        if (s->chunk > 1 && !s->careful) {
            s->careful = true;
            next_chunk(s);
            ide_start_op(s);
        } else {
            bad_sector(s, s->chunk_lba, ATA_E_UNC);
        }
        return;
    }
    s->lba += s->chunk;
    s->left -= s->chunk;
    if (s->left == 0) {
        transfer_over(s, true);
        return;
    }
    next_chunk(s);
    ide_start_op(s);
}

/* The next entry that asks for something, 64 a block. */
static void trim_next(IDEDrive *s)
{
    while (s->chunk_at < 64 * s->chunk) {
        const uint8_t *p = s->buffer + 8 * (size_t)s->chunk_at;
        uint64_t lba = p[0] | (uint64_t)p[1] << 8 | (uint64_t)p[2] << 16 | (uint64_t)p[3] << 24 |
                       (uint64_t)p[4] << 32 | (uint64_t)p[5] << 40;
        uint32_t n = p[6] | (uint32_t)p[7] << 8;

        if (n > 0) {
            if (lba > s->sectors || n > s->sectors - lba) {
                ide_abort(s, ATA_E_IDNF);
                return;
            }
            s->op = IDE_OP_TRIM;
            ide_start_op(s);
            return;
        }
        s->chunk_at++;
    }
    ide_ok(s);
}

void ata_op_done(IDEDrive *s, int error)
{
    switch (s->op) {
    case IDE_OP_READ:
        read_done(s, error);
        break;
    case IDE_OP_WRITE:
        write_done(s, error);
        break;
    case IDE_OP_VERIFY:
        verify_done(s, error);
        break;
    case IDE_OP_TRIM:
        if (error) {
            ide_abort(s, ATA_E_ABRT);
        } else {
            s->chunk_at++;
            trim_next(s);
        }
        break;
    default:
        if (error) {
            ide_abort(s, ATA_E_ABRT);
        } else {
            ide_ok(s);
        }
        break;
    }
}

/* ---- the start of commands ------------------------------------------------------------------- */

/* Addresses and counts of a command that reads or writes sectors; false: it was ended. */
static bool set_up(IDEDrive *s, bool lba48, bool dma)
{
    uint64_t lba;

    s->is_lba48 = lba48;
    lba = ide_get_lba(s);
    s->left = lba48 ? (uint32_t)(s->hob_count << 8 | s->count) : s->count;
    if (s->left == 0) {
        s->left = lba48 ? 65536 : 256;
    }
    s->is_dma = dma;
    if (dma && !s->channel->dma) {
        ide_abort(s, ATA_E_ABRT);
        return false;
    }
    if (lba >= s->sectors || s->left > s->sectors - lba) {
        ide_abort(s, ATA_E_IDNF);
        return false;
    }
    s->standby = false;
    s->lba = lba;
    s->block = 1;
    return true;
}

static void start_read(IDEDrive *s, bool lba48, bool dma, bool multiple)
{
    if (multiple && s->multiple == 0) {
        ide_abort(s, ATA_E_ABRT);
    } else if (set_up(s, lba48, dma)) {
        s->block = multiple ? s->multiple : 1;
        read_next(s);
    }
}

static void start_write(IDEDrive *s, bool lba48, bool dma, bool multiple)
{
    if ((multiple && s->multiple == 0) || block_read_only(s->be)) {
        ide_abort(s, ATA_E_ABRT);
        return;
    }
    if (!set_up(s, lba48, dma)) {
        return;
    }
    s->is_write = true;
    s->block = multiple ? s->multiple : 1;
    next_chunk(s);
    if (dma) {
        ide_offer(s, IDE_DMA_OUT, 0, 512 * s->chunk);
    } else {
        offer_block(s); /* without an interrupt: the host has just asked for it */
    }
}

static void start_verify(IDEDrive *s, bool lba48)
{
    if (set_up(s, lba48, false)) {
        next_chunk(s);
        s->op = IDE_OP_VERIFY;
        ide_start_op(s);
    }
}

static void start_flush(IDEDrive *s)
{
    s->op = IDE_OP_FLUSH;
    ide_start_op(s);
}

static void start_trim(IDEDrive *s)
{
    uint32_t blocks = (uint32_t)(s->hob_count << 8 | s->count);

    if (!(s->feature & 1) || blocks == 0 || blocks > TRIM_MAX_BLOCKS || !s->channel->dma ||
        !block_can_discard(s->be)) {
        ide_abort(s, ATA_E_ABRT);
        return;
    }
    s->is_dma = true;
    s->chunk = blocks;
    ide_offer(s, IDE_DMA_OUT, 0, 512 * blocks);
}

static void send_block(IDEDrive *s)
{
    s->chunk = s->left = 0;
    ide_offer(s, IDE_PIO_IN, 0, 512);
    ide_raise(s);
}

static void set_multiple(IDEDrive *s)
{
    if (s->count > IDE_MAX_MULTIPLE || (s->count & (s->count - 1)) != 0) {
        ide_abort(s, ATA_E_ABRT);
        return;
    }
    s->multiple = s->count;
    ide_ok(s);
}

/* The guest's idea of the geometry, for commands that use cylinders and heads. */
static void set_geometry(IDEDrive *s)
{
    if (s->count == 0) {
        ide_abort(s, ATA_E_ABRT);
        return;
    }
    s->cur_heads = (s->device & 15u) + 1;
    s->cur_secs = s->count;
    ide_ok(s);
}

static void native_max(IDEDrive *s, bool lba48)
{
    s->is_lba48 = lba48;
    s->device |= ATA_LBA;
    ide_set_lba(s, lba48 ? s->sectors - 1 : MIN(s->sectors, UINT64_C(1) << 28) - 1);
    ide_ok(s);
}

static void seek(IDEDrive *s)
{
    if (ide_get_lba(s) >= s->sectors) {
        ide_abort(s, ATA_E_IDNF);
    } else {
        ide_ok(s);
    }
}

static void power(IDEDrive *s, bool standby)
{
    s->standby = standby;
    ide_ok(s);
}

static void smart(IDEDrive *s)
{
    if (!ata_smart(s)) {
        ide_abort(s, ATA_E_ABRT);
    } else if (s->used > 0) {
        send_block(s);
    } else {
        ide_ok(s);
    }
}

/* What disks and CD-ROMs both know; true: it was one of these. */
static bool execute_common(IDEDrive *s)
{
    switch (s->command) {
    case 0x94:
    case 0xe0: /* STANDBY IMMEDIATE */
    case 0x96:
    case 0xe2: /* STANDBY */
        power(s, true);
        return true;
    case 0x95:
    case 0xe1: /* IDLE IMMEDIATE */
    case 0x97:
    case 0xe3: /* IDLE */
        power(s, false);
        return true;
    case 0x98:
    case 0xe5: /* CHECK POWER MODE */
        s->count = s->standby ? 0x00 : 0xff;
        ide_ok(s);
        return true;
    case 0x99:
    case 0xe6: /* SLEEP */
        ide_ok(s);
        s->sleeping = true;
        return true;
    case 0xe7: /* FLUSH CACHE */
        start_flush(s);
        return true;
    case 0xef: /* SET FEATURES */
        if (ata_set_features(s)) {
            ide_ok(s);
        } else {
            ide_abort(s, ATA_E_ABRT);
        }
        return true;
    default:
        return false;
    }
}

static void execute_on_cd(IDEDrive *s)
{
    switch (s->command) {
    case 0x08: /* DEVICE RESET: without an interrupt */
        ide_drop_request(s);
        s->phase = IDE_IDLE;
        s->sleeping = false;
        s->is_dma = false;
        ide_set_signature(s);
        s->status = 0;
        break;
    case 0xa1: /* IDENTIFY PACKET DEVICE */
        atapi_identify(s, s->buffer);
        send_block(s);
        break;
    case 0xec: /* IDENTIFY DEVICE: refused with the signature in the registers */
    case 0x20:
        ide_set_signature(s);
        ide_abort(s, ATA_E_ABRT);
        break;
    default:
        ide_abort(s, ATA_E_ABRT);
        break;
    }
}

static void execute_on_disk(IDEDrive *s)
{
    uint8_t command = s->command;

    switch (command) {
    case 0x06:
        start_trim(s);
        break;
    case 0x20: /* READ SECTORS, and without retries */
    case 0x21:
        start_read(s, false, false, false);
        break;
    case 0x24:
        start_read(s, true, false, false);
        break;
    case 0x25: /* READ DMA EXT */
        start_read(s, true, true, false);
        break;
    case 0x27: /* READ NATIVE MAX ADDRESS EXT */
        native_max(s, true);
        break;
    case 0x29:
        start_read(s, true, false, true);
        break;
    case 0x30: /* WRITE SECTORS */
    case 0x31:
    case 0x3c: /* WRITE VERIFY */
        start_write(s, false, false, false);
        break;
    case 0x34:
        start_write(s, true, false, false);
        break;
    case 0x35:
    case 0x3d: /* WRITE DMA EXT, and FUA */
        start_write(s, true, true, false);
        break;
    case 0x39:
    case 0xce: /* WRITE MULTIPLE EXT, and FUA */
        start_write(s, true, false, true);
        break;
    case 0x40: /* READ VERIFY SECTORS */
    case 0x41:
        start_verify(s, false);
        break;
    case 0x42:
        start_verify(s, true);
        break;
    case 0x91: /* INITIALIZE DEVICE PARAMETERS */
        set_geometry(s);
        break;
    case 0xb0:
        smart(s);
        break;
    case 0xc4: /* READ MULTIPLE */
        start_read(s, false, false, true);
        break;
    case 0xc5: /* WRITE MULTIPLE */
        start_write(s, false, false, true);
        break;
    case 0xc6: /* SET MULTIPLE MODE */
        set_multiple(s);
        break;
    case 0xc8: /* READ DMA */
    case 0xc9:
        start_read(s, false, true, false);
        break;
    case 0xca: /* WRITE DMA */
    case 0xcb:
        start_write(s, false, true, false);
        break;
    case 0xe4: /* READ BUFFER */
        send_block(s);
        break;
    case 0xe8: /* WRITE BUFFER */
        ide_offer(s, IDE_PIO_OUT, 0, 512);
        break;
    case 0xea: /* FLUSH CACHE EXT */
        start_flush(s);
        break;
    case 0xec: /* IDENTIFY DEVICE */
        ata_identify(s, s->buffer);
        send_block(s);
        break;
    case 0xf8: /* READ NATIVE MAX ADDRESS */
        native_max(s, false);
        break;
    default:
        if ((command & 0xf0) == 0x10) { /* RECALIBRATE */
            ide_ok(s);
        } else if ((command & 0xf0) == 0x70) {
            seek(s);
        } else {
            log_of(s, LOG_UNIMP, "%s: ATA command %#x", OBJECT(s)->name, command);
            ide_abort(s, ATA_E_ABRT);
        }
        break;
    }
}

void ata_execute(IDEDrive *s)
{
    if (s->command == 0x00) { /* NOP always fails */
        ide_abort(s, ATA_E_ABRT);
    } else if (execute_common(s)) {
        return;
    } else if (s->is_cd) {
        execute_on_cd(s);
    } else {
        execute_on_disk(s);
    }
}
