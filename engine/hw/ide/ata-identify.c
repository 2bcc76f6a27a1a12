/*
 * What drives say of themselves: IDENTIFY (PACKET) DEVICE, SET FEATURES, SMART. ATA/ATAPI-7;
 * SMART's data as in SFF-8035i, with counters of a disk that is always well.
 */
#include "engine/hw/ide/ide_priv.h"

#include <string.h>

static void word(uint8_t *out, unsigned n, unsigned value)
{
    put_le16(out + 2 * n, (uint16_t)value);
}

/* The first character of each pair is in the high byte; padded with blanks. */
static void text(uint8_t *out, unsigned first, unsigned words, const char *s)
{
    for (unsigned i = 0; i < 2 * words; i++) {
        out[2 * first + (i ^ 1)] = *s ? (uint8_t)*s++ : ' ';
    }
}

static void names(const IDEDrive *s, uint8_t *out)
{
    g_autofree char *made = g_strdup_printf("VL%05u",
                                            (OBJECT(s->channel)->name[4] - '0') * 2u + s->unit + 1);
    const char *serial = s->serial ? s->serial : block_serial(s->be);

    text(out, 10, 10, serial ? serial : made);
    text(out, 23, 4, s->firmware ? s->firmware : "1.0");
    text(out, 27, 20, s->model ? s->model : s->is_cd ? "VMLUA DVD-ROM" : "VMLUA HARDDISK");
}

static void checksum(uint8_t *out)
{
    uint8_t sum = 0;

    out[510] = 0xa5;
    for (unsigned i = 0; i < 511; i++) {
        sum += out[i];
    }
    out[511] = (uint8_t)-sum;
}

static void transfer_modes(const IDEDrive *s, uint8_t *out)
{
    uint8_t mode = s->dma_mode;

    word(out, 53, 7); /* words 54-58, 64-70 and 88 count */
    word(out, 64, 3); /* PIO modes 3 and 4 */
    for (unsigned i = 65; i <= 68; i++) {
        word(out, i, 120); /* nanoseconds */
    }
    if (s->channel->dma) {
        word(out, 63, 7 | ((mode & 0xe0) == 0x20 ? 0x100u << (mode & 7) : 0));
        word(out, 88, 0x3f | ((mode & 0xe0) == 0x40 ? 0x100u << (mode & 7) : 0));
    }
    word(out, 93, s->unit == 0 ? 0x6001 : 0x6100); /* 80 wires; how it was told its number */
}

void ata_identify(IDEDrive *s, uint8_t *out)
{
    uint64_t chs = (uint64_t)s->cyls * s->heads * s->secs;
    uint64_t cur_cyls = MIN(MIN(chs, s->sectors) / (s->cur_heads * s->cur_secs), 65535);
    uint64_t cur = cur_cyls * s->cur_heads * s->cur_secs;
    uint32_t lba28 = (uint32_t)MIN(s->sectors, 0x0fffffff);
    unsigned dma = s->channel->dma ? 0x100 : 0;
    bool wc = block_write_cache(s->be);

    memset(out, 0, 512);
    word(out, 0, 0x0040);
    word(out, 1, s->cyls);
    word(out, 3, s->heads);
    word(out, 6, s->secs);
    names(s, out);
    word(out, 47, 0x8000 | IDE_MAX_MULTIPLE);
    word(out, 48, 1);
    word(out, 49, 0x2e00 | dma); /* LBA, IORDY, standby timer as the standard says */
    word(out, 50, 0x4000);
    word(out, 51, 0x0200);
    transfer_modes(s, out);
    word(out, 54, (unsigned)cur_cyls);
    word(out, 55, s->cur_heads);
    word(out, 56, s->cur_secs);
    word(out, 57, (uint16_t)cur);
    word(out, 58, (uint16_t)(cur >> 16));
    word(out, 59, s->multiple ? 0x100 | s->multiple : 0);
    word(out, 60, (uint16_t)lba28);
    word(out, 61, (uint16_t)(lba28 >> 16));
    word(out, 80, 0x00f0); /* ATA-4 to ATA-7 */
    word(out, 82, 0x7069); /* NOP, buffers, look-ahead, write cache, power, SMART */
    word(out, 83, 0x7400); /* FLUSH CACHE (EXT), 48-bit addresses */
    word(out, 84, 0x4040 | (s->wwn ? 0x100 : 0)); /* FUA */
    word(out, 85, 0x7008 | (s->smart ? 1 : 0) | (wc ? 0x20 : 0) | (s->read_ahead ? 0x40 : 0));
    word(out, 86, 0x3400);
    word(out, 87, 0x4040 | (s->wwn ? 0x100 : 0));
    for (unsigned i = 0; i < 4; i++) {
        word(out, 100 + i, (uint16_t)(s->sectors >> (16 * i)));
        word(out, 108 + i, (uint16_t)(s->wwn >> (48 - 16 * i)));
    }
    word(out, 106, 0x4000); /* one logical sector a physical one */
    if (block_can_discard(s->be) && dma) {
        word(out, 105, 8);
        word(out, 169, 1);
    }
    checksum(out);
}

void atapi_identify(IDEDrive *s, uint8_t *out)
{
    unsigned dma = s->channel->dma ? 0x100 : 0;

    memset(out, 0, 512);
    word(out, 0, 0x85c0); /* ATAPI, CD-ROM, removable, DRQ within 50 us, 12 bytes a packet */
    names(s, out);
    word(out, 49, 0x0a00 | dma);
    transfer_modes(s, out);
    word(out, 71, 30); /* ns until the bus is free after PACKET, SERVICE */
    word(out, 72, 30);
    word(out, 80, 0x00f0);
    word(out, 82, 0x4210); /* NOP, DEVICE RESET, PACKET */
    word(out, 83, 0x5000); /* FLUSH CACHE */
    word(out, 84, 0x4000);
    word(out, 85, 0x4210);
    word(out, 86, 0x1000);
    word(out, 87, 0x4000);
    checksum(out);
}

/* ---- SET FEATURES ---------------------------------------------------------------------------- */

static bool set_transfer_mode(IDEDrive *s)
{
    uint8_t mode = s->count, n = mode & 7;

    switch (mode >> 3) {
    case 0: /* PIO default */
        if (n > 1) {
            return false;
        }
        s->pio_mode = 0;
        return true;
    case 1:
        if (n > 4) {
            return false;
        }
        s->pio_mode = n;
        return true;
    case 4: /* multiword DMA */
        if (n > 2 || !s->channel->dma) {
            return false;
        }
        s->dma_mode = mode;
        return true;
    case 8: /* ultra DMA */
        if (n > 5 || !s->channel->dma) {
            return false;
        }
        s->dma_mode = mode;
        return true;
    default:
        return false;
    }
}

bool ata_set_features(IDEDrive *s)
{
    switch (s->feature) {
    case 0x03:
        return set_transfer_mode(s);
    case 0x66: /* keep settings over a soft reset: they are kept */
    case 0xcc:
        return true;
    }
    if (s->is_cd) {
        return false;
    }
    switch (s->feature) {
    case 0x02:
        block_set_write_cache(s->be, true);
        return true;
    case 0x82: /* what the cache holds is written with the next flush at the latest */
        block_set_write_cache(s->be, false);
        return true;
    case 0x55:
        s->read_ahead = false;
        return true;
    case 0xaa:
        s->read_ahead = true;
        return true;
    default:
        return false;
    }
}

/* ---- SMART ----------------------------------------------------------------------------------- */

typedef struct SmartAttribute {
    uint8_t id, flags, value, threshold;
    uint8_t raw;
} SmartAttribute;
static const SmartAttribute attributes[] = {
    { 0x01, 0x03, 100, 6, 0 },    /* raw read errors */
    { 0x03, 0x03, 100, 0, 16 },   /* spin-up time */
    { 0x04, 0x02, 100, 20, 100 }, /* starts and stops */
    { 0x05, 0x03, 100, 36, 0 },   /* reallocated sectors */
    { 0x09, 0x03, 100, 0, 1 },    /* hours */
    { 0x0c, 0x03, 100, 0, 0 },    /* power cycles */
    { 0xbe, 0x03, 69, 50, 31 },   /* temperature */
};

static void smart_checksum(uint8_t *out)
{
    uint8_t sum = 0;

    for (unsigned i = 0; i < 511; i++) {
        sum += out[i];
    }
    out[511] = (uint8_t)-sum;
}

static void smart_read(IDEDrive *s, bool thresholds)
{
    uint8_t *out = s->buffer;

    memset(out, 0, 512);
    out[0] = 1;
    for (unsigned i = 0; i < G_N_ELEMENTS(attributes); i++) {
        const SmartAttribute *a = &attributes[i];
        uint8_t *p = out + 2 + 12 * i;

        p[0] = a->id;
        if (thresholds) {
            p[1] = a->threshold;
        } else {
            p[1] = a->flags;
            p[3] = a->value;
            p[4] = a->value; /* the worst so far */
            p[5] = a->raw;
        }
    }
    if (!thresholds) {
        out[362] = 2;    /* off-line data collection: completed */
        out[364] = 1;    /* it would take a second */
        out[367] = 0x01; /* execute off-line immediate is known */
        out[368] = 3;    /* data is saved before power modes, and on its own */
        out[372] = 2;    /* minutes of a short self-test */
        out[373] = 2;
    }
    smart_checksum(out);
    s->used = 512;
}

/* The log directory, or an empty error or self-test log. */
static bool smart_log(IDEDrive *s)
{
    uint8_t *out = s->buffer;

    if (s->count != 1) {
        return false;
    }
    memset(out, 0, 512);
    out[0] = 1;
    switch (s->lba_low) {
    case 0x00:
        out[2] = 1;  /* log 1: one sector */
        out[12] = 1; /* log 6 */
        break;
    case 0x01:
    case 0x06:
        smart_checksum(out);
        break;
    default:
        return false;
    }
    s->used = 512;
    return true;
}

bool ata_smart(IDEDrive *s)
{
    s->used = 0;
    if (s->lba_mid != 0x4f || s->lba_high != 0xc2) {
        return false;
    }
    if (!s->smart && s->feature != 0xd8) {
        return false;
    }
    switch (s->feature) {
    case 0xd0:
        smart_read(s, false);
        return true;
    case 0xd1:
        smart_read(s, true);
        return true;
    case 0xd2:
        s->smart_autosave = s->count == 0xf1;
        return s->count == 0xf1 || s->count == 0;
    case 0xd3: /* SAVE ATTRIBUTE VALUES */
        return true;
    case 0xd4: /* EXECUTE OFF-LINE IMMEDIATE: done at once */
        return s->lba_low == 0 || s->lba_low == 1 || s->lba_low == 2;
    case 0xd5:
        return smart_log(s);
    case 0xd8:
        s->smart = true;
        return true;
    case 0xd9:
        s->smart = false;
        return true;
    case 0xda: /* RETURN STATUS: the signature unchanged means well */
        return true;
    default:
        return false;
    }
}
