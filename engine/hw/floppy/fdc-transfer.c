/*
 * Execution of the commands that move data: sector by sector, between the block layer and the DMA
 * channel or the data port.
 *
 *     start ──► sector ──► disk ──► host ──► next sector …  ──► result        reading
 *               sector ──► host ──► disk ──► next sector …  ──► result        writing, formatting
 *               sector ──► disk ──► host, compare ──► next sector …           scanning
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"
#include "engine/hw/floppy/fdc-priv.h"

#define MT           0x80 /* of the command byte: both sides */
#define MFM          0x40
#define VERIFY_COUNT 0x80 /* EC, of the drive byte */
#define MISSING_NS   (200 * NS_PER_US)
#define SCAN_ANY     0xff

/* With the block layer; it outlives a reset of the controller. */
struct FdcIo {
    Fdc *fdc; /* NULL: nobody waits for it any more */
    uint8_t buf[FDC_SECTOR];
};

static FdDrive *exec_drive(Fdc *s)
{
    return s->unit < FDC_DRIVES ? &s->drive[s->unit] : NULL;
}

static bool is_scan(uint8_t op)
{
    return op == FDC_OP_SCAN_EQUAL || op == FDC_OP_SCAN_LOW || op == FDC_OP_SCAN_HIGH;
}

/* ---- the end of a command ------------------------------------------------------------------ */

static void finish(Fdc *s)
{
    s->wait = FDC_WAIT_NONE;
    if (s->dma) {
        isa_dma_set_request(s->dma, s->dma_channel, false);
    }
    s->st[0] = (uint8_t)((s->st[0] & ~4) | s->head << 2); /* the one it ended with */
    memcpy(s->result, s->st, 3);
    s->result[3] = s->cylinder;
    s->result[4] = s->side;
    s->result[5] = s->sector;
    s->result[6] = s->size;
    fdc_set_result(s, 7, true);
}

static void fail(Fdc *s, uint8_t st1, uint8_t st2)
{
    s->st[0] |= ST0_ABNORMAL;
    s->st[1] |= st1;
    s->st[2] |= st2;
    finish(s);
}

/* As after two turns of the disk without what was looked for. */
static void fail_later(Fdc *s, uint8_t st1, uint8_t st2)
{
    s->st[0] |= ST0_ABNORMAL;
    s->st[1] |= st1;
    s->st[2] |= st2;
    s->wait = FDC_WAIT_TIME;
    timer_arm(&s->exec_timer, clock_now(device_clock(&s->parent)) + MISSING_NS);
}

void fdc_exec_timer(void *opaque)
{
    Fdc *s = opaque;

    if (s->phase == FDC_PHASE_EXECUTE && s->wait == FDC_WAIT_TIME) {
        finish(s);
        fdc_update_irq(s);
    }
}

/* What the result shows is the sector after the last one. false: there is none in this command. */
static bool next_sector(Fdc *s)
{
    bool both = s->command[0] & MT && s->op != FDC_OP_READ_TRACK;

    if (s->sector != s->last_sector) {
        s->sector++;
        return true;
    }
    s->sector = 1;
    if (both) {
        s->side ^= 1;
        s->head ^= 1;
        if (s->head == 1) {
            return true;
        }
    }
    s->cylinder++;
    return false;
}

/* ---- the disk's side ----------------------------------------------------------------------- */

static void disk_done(Fdc *s, int error);

static void request_done(void *opaque, int error)
{
    FdcIo *io = opaque;
    Fdc *s = io->fdc;

    if (s) {
        s->request = NULL;
        if (!error && !s->writing) {
            memcpy(is_scan(s->op) ? s->other : s->data, io->buf, FDC_SECTOR);
        }
        disk_done(s, error);
        fdc_update_irq(s);
    }
    g_free(io);
}

void fdc_forget_request(Fdc *s)
{
    if (s->request) {
        s->request->fdc = NULL;
        s->request = NULL;
    }
}

static void disk_request(Fdc *s, uint64_t offset)
{
    FdDrive *d = exec_drive(s);
    uint64_t length = block_length(d->be);
    size_t len = offset < length ? (size_t)MIN(length - offset, FDC_SECTOR) : 0;
    FdcIo *io;

    s->wait = FDC_WAIT_DISK;
    if (len < FDC_SECTOR && s->writing) {
        log_of(s, LOG_UNIMP, "isa-fdc: a write beyond the end of an image that is cut short");
        fail(s, ST1_DE, ST2_DD);
        return;
    }
    if (len == 0) {
        memset(is_scan(s->op) ? s->other : s->data, 0, FDC_SECTOR);
        disk_done(s, 0);
        return;
    }
    io = g_new0(FdcIo, 1);
    io->fdc = s;
    s->request = io;
    if (!s->writing) {
        block_read(d->be, offset, io->buf, len, request_done, io);
    } else if (s->op == FDC_OP_FORMAT) {
        memset(io->buf, s->command[5], FDC_SECTOR);
        block_write(d->be, offset, io->buf, FDC_SECTOR, 0, request_done, io);
    } else {
        memcpy(io->buf, s->data, FDC_SECTOR);
        block_write(d->be, offset, io->buf, FDC_SECTOR, 0, request_done, io);
    }
}

static void disk_sector(Fdc *s, bool writing)
{
    FdDrive *d = exec_drive(s);

    s->writing = writing;
    if (!d || !d->be || !d->format) { /* taken out meanwhile */
        fail(s, ST1_MA, 0);
        return;
    }
    d->next_sector = (uint8_t)(s->sector % d->format->sectors + 1);
    disk_request(s, fd_drive_offset(d, d->track, s->head, s->sector));
}

void fdc_resume_request(Fdc *s)
{
    if (s->phase == FDC_PHASE_EXECUTE && s->wait == FDC_WAIT_DISK) {
        disk_sector(s, s->writing);
    }
}

/* ---- one sector ---------------------------------------------------------------------------- */

static bool right_track(Fdc *s, const FdDrive *d)
{
    if (s->cylinder != d->track) {
        fail_later(s, ST1_ND, ST2_WC | (s->cylinder == 0xff ? ST2_BC : 0));
        return false;
    }
    return true;
}

static void want_host(Fdc *s, FdcWait wait, unsigned len)
{
    s->wait = (uint8_t)wait;
    s->pos = 0;
    s->len = (uint16_t)len;
    fdc_pump(s);
}

static void begin_sector(Fdc *s)
{
    const FdDrive *d = exec_drive(s);

    if (!d->format || s->head >= d->format->heads || d->track >= d->format->tracks) {
        fail_later(s, ST1_MA | ST1_ND, 0);
        return;
    }
    if (!right_track(s, d)) {
        return;
    }
    if (s->side != s->head || s->size != FDC_SIZE || s->sector == 0 ||
        s->sector > d->format->sectors) {
        fail_later(s, ST1_ND, 0);
        return;
    }
    if (s->op == FDC_OP_WRITE) {
        want_host(s, FDC_WAIT_FROM_HOST, FDC_SECTOR);
    } else {
        disk_sector(s, false);
    }
}

static void after_sector(Fdc *s)
{
    if (s->terminal) {
        next_sector(s);
        finish(s);
    } else if (next_sector(s)) {
        begin_sector(s);
    } else if (s->op == FDC_OP_VERIFY || is_scan(s->op)) {
        finish(s); /* they end with their last sector */
    } else {
        fail(s, ST1_EN, 0); /* the host wanted more, or gave no terminal count */
    }
}

/* One of SCAN's: host and disk byte by byte, FF on either side matches. */
static bool scan_holds(const Fdc *s, bool *equal)
{
    bool holds = true;

    *equal = true;
    for (unsigned i = 0; i < FDC_SECTOR; i++) {
        uint8_t disk = s->other[i], host = s->data[i];

        if (disk == host || disk == SCAN_ANY || host == SCAN_ANY) {
            continue;
        }
        *equal = false;
        holds = holds && (s->op == FDC_OP_SCAN_LOW    ? disk < host
                          : s->op == FDC_OP_SCAN_HIGH ? disk > host
                                                      : false);
    }
    return holds;
}

static void scanned(Fdc *s)
{
    bool equal;
    bool holds = scan_holds(s, &equal);
    uint8_t step = s->command[8] == 2 ? 2 : 1;

    if (holds) {
        s->st[2] = (uint8_t)((s->st[2] & ~ST2_SN) | (equal ? ST2_SH : 0));
        finish(s);
        return;
    }
    s->st[2] |= ST2_SN;
    if (step == 2 && s->sector != s->last_sector) {
        s->sector++;
    }
    after_sector(s);
}

static void disk_done(Fdc *s, int error)
{
    if (error) {
        fail(s,
             error == EROFS       ? ST1_NW
             : error == ENOMEDIUM ? ST1_MA
                                  : ST1_DE,
             error == EROFS || error == ENOMEDIUM ? 0 : ST2_DD);
        return;
    }
    switch (s->op) {
    case FDC_OP_VERIFY:
        if (s->command[1] & VERIFY_COUNT) {
            s->command[8]--;
            s->terminal = s->command[8] == 0;
        }
        after_sector(s);
        break;
    case FDC_OP_WRITE:
        after_sector(s);
        break;
    case FDC_OP_FORMAT:
        s->formatted++;
        if (s->formatted >= s->command[3] || s->terminal) {
            finish(s);
        } else {
            want_host(s, FDC_WAIT_FROM_HOST, 4);
        }
        break;
    default:
        want_host(s, is_scan(s->op) ? FDC_WAIT_FROM_HOST : FDC_WAIT_TO_HOST, FDC_SECTOR);
        break;
    }
}

/* ---- the host's side ----------------------------------------------------------------------- */

static void format_sector(Fdc *s)
{
    FdDrive *d = exec_drive(s);

    if (s->pos < 4) { /* the terminal count came in the middle */
        finish(s);
        return;
    }
    s->cylinder = s->data[0];
    s->side = s->data[1];
    s->sector = s->data[2];
    s->size = s->data[3];
    if (!d->format || s->cylinder != d->track || s->side != s->head || s->size != FDC_SIZE ||
        s->sector == 0 || s->sector > d->format->sectors) {
        log_of(s, LOG_UNIMP, "isa-fdc: formatting track %u with a sector %u/%u/%u of size %u",
               d->track, s->cylinder, s->side, s->sector, s->size);
        fail(s, ST1_ND, 0);
        return;
    }
    disk_sector(s, true);
}

void fdc_host_done(Fdc *s)
{
    if (s->dma) {
        isa_dma_set_request(s->dma, s->dma_channel, false);
    }
    if (s->op == FDC_OP_FORMAT) {
        format_sector(s);
    } else if (s->op == FDC_OP_WRITE) {
        /* What is left of a sector that was cut short is zeroes. */
        memset(s->data + s->pos, 0, (size_t)(FDC_SECTOR - s->pos));
        disk_sector(s, true);
    } else if (is_scan(s->op)) {
        memset(s->data + s->pos, SCAN_ANY, (size_t)(FDC_SECTOR - s->pos));
        scanned(s);
    } else if (s->op == FDC_OP_READ_DELETED) {
        /* Images have no deleted sectors: this one is of the other kind, and the last. */
        s->st[2] |= ST2_CM;
        s->terminal = true;
        after_sector(s);
    } else {
        after_sector(s);
    }
}

void fdc_pump(Fdc *s)
{
    bool to_host = s->wait == FDC_WAIT_TO_HOST;
    size_t moved;

    if (s->phase != FDC_PHASE_EXECUTE || (!to_host && s->wait != FDC_WAIT_FROM_HOST) ||
        !fdc_uses_dma(s)) {
        return; /* without DMA the data port moves bytes */
    }
    if (!s->dma || !(s->dor & DOR_DMA)) {
        return;
    }
    isa_dma_set_request(s->dma, s->dma_channel, true);
    moved = to_host ? isa_dma_write(s->dma, s->dma_channel, s->data + s->pos,
                                    (size_t)(s->len - s->pos), &s->terminal)
                    : isa_dma_read(s->dma, s->dma_channel, s->data + s->pos,
                                   (size_t)(s->len - s->pos), &s->terminal);
    s->pos = (uint16_t)(s->pos + moved);
    if (s->pos == s->len || s->terminal) {
        fdc_host_done(s);
    }
}

/* ---- the beginning ------------------------------------------------------------------------- */

/* What a head finds under it. false: nothing that it can read, and the command ends. */
static bool readable(Fdc *s, bool mfm)
{
    const FdDrive *d = exec_drive(s);

    if (!d || !d->format || !mfm || (s->check_rate && s->rate != d->rate)) {
        fail_later(s, ST1_MA | (d && d->format && mfm ? 0 : ST1_ND), 0);
        return false;
    }
    return true;
}

static void begin(Fdc *s)
{
    s->phase = FDC_PHASE_EXECUTE;
    s->wait = FDC_WAIT_NONE;
    s->unit = s->command[1] & 3;
    s->head = s->command[1] >> 2 & 1;
    s->st[0] = (uint8_t)(s->head << 2 | s->unit);
    s->st[1] = s->st[2] = 0;
    s->terminal = s->writing = false;
    s->formatted = 0;
    s->pos = s->len = 0;
}

static void begin_format(Fdc *s, const FdDrive *d)
{
    s->cylinder = d->track;
    s->side = s->head;
    s->sector = 1;
    s->size = s->command[2];
    if (s->head >= d->format->heads || d->track >= d->format->tracks) {
        fail_later(s, ST1_MA, 0);
    } else if (s->command[3] == 0) {
        finish(s);
    } else {
        want_host(s, FDC_WAIT_FROM_HOST, 4);
    }
}

void fdc_start_transfer(Fdc *s, FdcOp op)
{
    FdDrive *d;

    begin(s);
    s->op = (uint8_t)op;
    s->cylinder = s->command[2];
    s->side = s->command[3];
    s->sector = op == FDC_OP_READ_TRACK ? 1 : s->command[4];
    s->size = s->command[5];
    s->last_sector = s->command[6];
    if (!readable(s, s->command[0] & MFM)) {
        return;
    }
    d = exec_drive(s);
    if ((op == FDC_OP_WRITE || op == FDC_OP_FORMAT) && fd_drive_write_protected(d)) {
        fail(s, ST1_NW, 0);
        return;
    }
    if (op == FDC_OP_FORMAT) {
        begin_format(s, d);
        return;
    }
    if (s->config & CONFIG_EIS && s->cylinder < d->format->tracks) {
        fd_drive_step_to(d, s->cylinder);
    }
    begin_sector(s);
}

void fdc_start_read_id(Fdc *s)
{
    FdDrive *d;

    begin(s);
    s->cylinder = s->side = s->sector = s->size = 0;
    if (!readable(s, s->command[0] & MFM)) {
        return;
    }
    d = exec_drive(s);
    if (s->head >= d->format->heads || d->track >= d->format->tracks) {
        fail_later(s, ST1_MA, 0);
        return;
    }
    s->cylinder = d->track;
    s->side = s->head;
    s->sector = d->next_sector;
    s->size = FDC_SIZE;
    d->next_sector = (uint8_t)(s->sector % d->format->sectors + 1);
    s->wait = FDC_WAIT_TIME;
    timer_arm(&s->exec_timer, clock_now(device_clock(&s->parent)) + MISSING_NS);
}
