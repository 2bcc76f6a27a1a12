/*
 * ATAPI: packets, replies in blocks or by DMA, reading of CD sectors, errors as sense data.
 * SFF-8020i, ATA/ATAPI-7 (PACKET).
 */
#include "engine/hw/ide/ide_priv.h"

#include <errno.h>
#include <string.h>

#include "engine/core/error.h"

/* ---- the end of a packet command ------------------------------------------------------------- */

void atapi_succeed(IDEDrive *s)
{
    s->sense_key = s->asc = s->ascq = 0;
    s->cd_reading = s->cd_out = false;
    s->cd_left = s->reply_left = 0;
    ide_finish(s);
    s->count = ATAPI_IO | ATAPI_COD;
    ide_raise(s);
}

void atapi_fail(IDEDrive *s, uint8_t key, uint8_t asc, uint8_t ascq)
{
    s->cd_reading = s->cd_out = false;
    s->cd_left = s->reply_left = 0;
    ide_finish(s);
    s->sense_key = key;
    s->asc = asc;
    s->ascq = ascq;
    s->status = ATA_DRDY | ATA_ERR;
    s->error = (uint8_t)(key << 4) | ATA_E_ABRT;
    s->count = ATAPI_IO | ATAPI_COD;
    ide_raise(s);
}

/* ---- packets --------------------------------------------------------------------------------- */

void atapi_packet_command(IDEDrive *s)
{
    if (s->feature & 2) { /* overlapped: not offered */
        ide_abort(s, ATA_E_ABRT);
        s->count = ATAPI_IO | ATAPI_COD;
        return;
    }
    s->is_dma = s->feature & 1;
    if (s->is_dma && !s->channel->dma) {
        ide_abort(s, ATA_E_ABRT);
        return;
    }
    s->byte_limit = s->lba_mid | (uint32_t)s->lba_high << 8;
    if (s->byte_limit == 0 || s->byte_limit == 0xffff) {
        s->byte_limit = 0xfffe;
    }
    s->standby = false;
    s->cd_reading = s->cd_out = false;
    s->count = ATAPI_COD;
    ide_offer(s, IDE_PACKET, 0, CD_PACKET); /* drives of this kind raise no interrupt here */
}

/* ---- replies --------------------------------------------------------------------------------- */

/* The next block of what is in the buffer from s->pos on. An odd limit counts for the last block
 * only. */
static void offer_reply(IDEDrive *s, uint32_t from)
{
    uint32_t n = s->reply_left;

    if (s->is_dma) {
        s->reply_left = 0;
        s->count = ATAPI_IO;
        ide_offer(s, IDE_DMA_IN, from, n);
        return;
    }
    if (n > s->byte_limit) {
        n = MAX(s->byte_limit & ~1u, 2);
    }
    s->reply_left -= n;
    s->lba_mid = (uint8_t)n;
    s->lba_high = (uint8_t)(n >> 8);
    s->count = ATAPI_IO;
    ide_offer(s, IDE_PIO_IN, from, n);
    ide_raise(s);
}

void atapi_reply(IDEDrive *s, uint32_t bytes, uint32_t max)
{
    bytes = MIN(bytes, max);
    if (bytes == 0) {
        atapi_succeed(s);
        return;
    }
    s->reply_left = bytes;
    offer_reply(s, 0);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void read_next(IDEDrive *s)
{
    /* In the buffer a sector takes what the host gets of it. */
    s->chunk = MIN(s->cd_left, IDE_BUFFER_BYTES / s->cd_unit);
    s->chunk_lba = s->lba;
    s->op = IDE_OP_READ;
    ide_start_op(s);
}

void atapi_read(IDEDrive *s, uint32_t lba, uint32_t n, uint32_t unit, uint32_t flags)
{
    uint32_t total = (uint32_t)(block_length(s->be) / CD_SECTOR);

    if (lba > total || n > total - lba) {
        atapi_fail(s, 5, 0x21, 0);
        return;
    }
    if (n == 0 || flags == 0) {
        atapi_succeed(s);
        return;
    }
    s->cd_reading = true;
    s->cd_left = n;
    s->cd_unit = unit;
    s->cd_flags = flags;
    s->lba = lba;
    read_next(s);
}

static uint8_t bcd(uint32_t v)
{
    return (uint8_t)(v / 10 << 4 | v % 10);
}

/* From user data to whole sectors, last first because they grow. The error codes are left zero:
 * drives correct before they send, and nobody checks again. */
static void make_raw(IDEDrive *s)
{
    for (uint32_t i = s->chunk; i-- > 0;) {
        uint8_t *to = s->buffer + (size_t)i * CD_RAW_SECTOR;
        uint32_t frame = (uint32_t)s->chunk_lba + i + 150;

        memmove(to + 16, s->buffer + (size_t)i * CD_SECTOR, CD_SECTOR);
        memset(to, 0xff, 12);
        to[0] = to[11] = 0;
        to[12] = bcd(frame / 75 / 60);
        to[13] = bcd(frame / 75 % 60);
        to[14] = bcd(frame % 75);
        to[15] = 1;
        memset(to + 16 + CD_SECTOR, 0, CD_RAW_SECTOR - 16 - CD_SECTOR);
    }
}

void atapi_op_done(IDEDrive *s, int error)
{
    if (s->op != IDE_OP_READ) { /* SYNCHRONIZE CACHE */
        atapi_succeed(s);
        return;
    }
    if (error == ENOMEDIUM) {
        atapi_fail(s, 2, 0x3a, 0);
        return;
    }
    if (error == EINVAL) {
        atapi_fail(s, 5, 0x21, 0);
        return;
    }
    if (error) {
        if (s->chunk > 1) { /* what can be read is handed over first */
            s->chunk = 1;
            ide_start_op(s);
        } else {
            atapi_fail(s, 3, 0x11, 0);
        }
        return;
    }
    if (s->cd_unit == CD_RAW_SECTOR) {
        make_raw(s);
    }
    s->lba += s->chunk;
    s->cd_left -= s->chunk;
    s->reply_left = s->chunk * s->cd_unit;
    offer_reply(s, 0);
}

static void reply_over(IDEDrive *s)
{
    if (s->cd_reading && s->cd_left > 0) {
        s->status = ATA_BSY;
        read_next(s);
    } else {
        atapi_succeed(s);
    }
}

void atapi_block_moved(IDEDrive *s)
{
    if (s->cd_out) {
        s->cd_out = false;
        atapi_data_out(s);
    } else if (s->reply_left > 0) {
        offer_reply(s, s->end);
    } else {
        reply_over(s);
    }
}

void atapi_dma_moved(IDEDrive *s)
{
    if (s->cd_out) {
        s->cd_out = false;
        atapi_data_out(s);
    } else {
        reply_over(s);
    }
}
