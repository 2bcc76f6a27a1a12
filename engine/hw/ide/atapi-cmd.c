/*
 * ATAPI CD-ROM: the commands. SFF-8020i, MMC-2 and -5 (GET CONFIGURATION, GET EVENT STATUS
 * NOTIFICATION). A drive that plays nothing and writes nothing: one data track, one session. Audio
 * tracks and DVD structures are not emulated; an image larger than a CD shows itself as a DVD-ROM.
 */
#include "engine/hw/ide/ide_priv.h"

#include <string.h>

#define CD_MAX_SECTORS (80 * 60 * 75) /* what is larger is a DVD */

enum { SENSE_NOT_READY = 2, SENSE_ILLEGAL = 5, SENSE_ATTENTION = 6 };
enum { EVENT_NONE = 0, EVENT_EJECT_REQUEST = 1, EVENT_NEW_MEDIUM = 2, EVENT_REMOVED = 3 };

static uint32_t total_sectors(const IDEDrive *s)
{
    return (uint32_t)MIN(block_length(s->be) / CD_SECTOR, UINT32_MAX);
}

static void invalid_field(IDEDrive *s)
{
    atapi_fail(s, SENSE_ILLEGAL, 0x24, 0);
}

static void to_msf(uint8_t *out, uint32_t lba)
{
    uint32_t frame = lba + 150;

    out[0] = 0;
    out[1] = (uint8_t)(frame / 75 / 60);
    out[2] = (uint8_t)(frame / 75 % 60);
    out[3] = (uint8_t)(frame % 75);
}

/* ---- what it is ------------------------------------------------------------------------------ */

static void inquiry(IDEDrive *s)
{
    uint8_t *out = s->buffer;

    if (s->packet[1] & 1) { /* vital product data */
        memset(out, 0, 32);
        out[0] = 5;
        out[1] = s->packet[2];
        if (s->packet[2] == 0x00) {
            out[3] = 2;
            out[5] = 0x80;
            atapi_reply(s, 6, s->packet[4]);
        } else if (s->packet[2] == 0x80) {
            const char *serial = s->serial ? s->serial : "VL00000";
            size_t n = MIN(strlen(serial), 20);

            out[3] = (uint8_t)n;
            memcpy(out + 4, serial, n);
            atapi_reply(s, 4 + (uint32_t)n, s->packet[4]);
        } else {
            invalid_field(s);
        }
        return;
    }
    memset(out, ' ', 36);
    out[0] = 5;    /* CD-ROM */
    out[1] = 0x80; /* removable */
    out[2] = 0;
    out[3] = 0x21; /* ATAPI, response as SPC */
    out[4] = 31;
    out[5] = out[6] = out[7] = 0;
    memcpy(out + 8, "VMLUA", 5);
    memcpy(out + 16, "VMLUA DVD-ROM", 13);
    memcpy(out + 32, "1.0", 3);
    atapi_reply(s, 36, s->packet[4]);
}

static void request_sense(IDEDrive *s)
{
    uint8_t *out = s->buffer, key = s->sense_key, asc = s->asc, ascq = s->ascq;

    if (key == 0 && s->attention) {
        key = SENSE_ATTENTION;
        asc = s->attention & ATTENTION_RESET ? 0x29 : 0x28;
        ascq = 0;
        s->attention &= s->attention & ATTENTION_RESET ? (uint8_t)~ATTENTION_RESET : 0;
    }
    memset(out, 0, CD_SENSE_BYTES);
    out[0] = 0x70;
    out[2] = key;
    out[7] = CD_SENSE_BYTES - 8;
    out[12] = asc;
    out[13] = ascq;
    atapi_reply(s, CD_SENSE_BYTES, s->packet[4]);
}

/* ---- mode pages ------------------------------------------------------------------------------ */

static uint32_t page_errors(uint8_t *p)
{
    memset(p, 0, 8);
    p[0] = 0x01;
    p[1] = 6;
    p[3] = 5; /* retries */
    return 8;
}

static uint32_t page_audio(uint8_t *p)
{
    memset(p, 0, 16);
    p[0] = 0x0e;
    p[1] = 14;
    p[2] = 4;
    p[7] = 75;
    p[8] = 1;
    p[9] = p[11] = 0xff;
    p[10] = 2;
    return 16;
}

static uint32_t page_capabilities(const IDEDrive *s, uint8_t *p)
{
    memset(p, 0, 22);
    p[0] = 0x2a;
    p[1] = 20;
    p[2] = 0x3b; /* reads CD-R, CD-RW, method 2, DVD-ROM */
    p[4] = 0x70; /* multisession, mode 2 */
    p[5] = 0;
    p[6] = 0x29 | (block_medium_locked(s->be) ? 2 : 0); /* tray, ejects, locks */
    put_be16(p + 8, 706);                               /* KB/s */
    put_be16(p + 12, 512);                              /* KB of buffer */
    put_be16(p + 14, 706);
    return 22;
}

static uint8_t medium_type(const IDEDrive *s)
{
    return block_tray_open(s->be) ? 0x71 : !block_inserted(s->be) ? 0x70 : 0x01;
}

static void mode_sense(IDEDrive *s, bool ten)
{
    uint8_t *out = s->buffer, page = s->packet[2] & 0x3f, control = s->packet[2] >> 6;
    uint32_t head = ten ? 8 : 4, n = head, max = ten ? get_be16(s->packet + 7) : s->packet[4];
    bool all = page == 0x3f;

    if (control == 3) { /* saved values: there are none */
        atapi_fail(s, SENSE_ILLEGAL, 0x39, 0);
        return;
    }
    memset(out, 0, head);
    if (page == 0x01 || all) {
        n += page_errors(out + n);
    }
    if (page == 0x0e || all) {
        n += page_audio(out + n);
    }
    if (page == 0x2a || all) {
        n += page_capabilities(s, out + n);
    }
    if (n == head) {
        invalid_field(s);
        return;
    }
    if (control == 1) { /* what could be changed: nothing */
        for (uint32_t at = head; at < n; at += 2u + out[at + 1]) {
            memset(out + at + 2, 0, out[at + 1]);
        }
    }
    if (ten) {
        put_be16(out, (uint16_t)(n - 2));
        out[2] = medium_type(s);
    } else {
        out[0] = (uint8_t)(n - 1);
        out[1] = medium_type(s);
    }
    atapi_reply(s, n, max);
}

static void mode_select(IDEDrive *s)
{
    uint32_t n = s->packet[0] == 0x15 ? s->packet[4] : get_be16(s->packet + 7);

    if (n == 0) {
        atapi_succeed(s);
        return;
    }
    s->cd_out = true;
    s->lba_mid = (uint8_t)n;
    s->lba_high = (uint8_t)(n >> 8);
    s->count = 0;
    if (s->is_dma) {
        ide_offer(s, IDE_DMA_OUT, 0, n);
    } else {
        ide_offer(s, IDE_PIO_OUT, 0, (n + 1) & ~1u);
        ide_raise(s);
    }
}

/* Nothing in the pages can be changed that would make a difference: known ones are taken. */
void atapi_data_out(IDEDrive *s)
{
    bool ten = s->packet[0] == 0x55;
    uint32_t n = ten ? get_be16(s->packet + 7) : s->packet[4], at = ten ? 8 : 4;

    for (; at + 2 <= n; at += 2u + s->buffer[at + 1]) {
        uint8_t page = s->buffer[at] & 0x3f;

        if ((page != 0x01 && page != 0x0e && page != 0x2a && page != 0x0d) ||
            at + 2u + s->buffer[at + 1] > n) {
            atapi_fail(s, SENSE_ILLEGAL, 0x26, 0);
            return;
        }
    }
    atapi_succeed(s);
}

/* ---- the disc -------------------------------------------------------------------------------- */

static void read_toc(IDEDrive *s)
{
    uint8_t *out = s->buffer, format = s->packet[2] & 15, track = s->packet[6];
    uint32_t max = get_be16(s->packet + 7), total = total_sectors(s), n = 4;
    bool msf = s->packet[1] & 2;

    if (format == 0) {
        format = s->packet[9] >> 6; /* where SFF-8020i has it */
    }
    memset(out, 0, 64);
    out[2] = out[3] = 1; /* first and last track, or session */
    switch (format) {
    case 0:
        if (track > 1 && track != 0xaa) {
            invalid_field(s);
            return;
        }
        for (unsigned t = track == 0xaa ? 1 : 0; t < 2; t++, n += 8) {
            out[n + 1] = 0x14; /* data */
            out[n + 2] = t ? 0xaa : 1;
            if (msf) {
                to_msf(out + n + 4, t ? total : 0);
            } else {
                put_be32(out + n + 4, t ? total : 0);
            }
        }
        break;
    case 1: /* sessions: the last begins at 0 */
        out[n + 1] = 0x14;
        out[n + 2] = 1;
        if (msf) {
            to_msf(out + n + 4, 0);
        }
        n += 8;
        break;
    case 2: { /* as it is in the lead-in */
        static const uint8_t points[] = { 0xa0, 0xa1, 0xa2, 0x01 };

        for (unsigned i = 0; i < 4; i++, n += 11) {
            uint8_t *p = out + n;

            p[0] = 1;
            p[1] = 0x14;
            p[3] = points[i];
            if (points[i] <= 0x01 || points[i] == 0xa2) {
                to_msf(p + 7, points[i] == 0xa2 ? total : 0);
            } else {
                p[8] = 1;
            }
        }
        break;
    }
    default:
        invalid_field(s);
        return;
    }
    put_be16(out, (uint16_t)(n - 2));
    atapi_reply(s, n, max);
}

static void read_capacity(IDEDrive *s)
{
    put_be32(s->buffer, total_sectors(s) - 1);
    put_be32(s->buffer + 4, CD_SECTOR);
    atapi_reply(s, 8, 8);
}

static void read_disc_information(IDEDrive *s)
{
    uint8_t *out = s->buffer;

    if ((s->packet[1] & 7) != 0) {
        invalid_field(s);
        return;
    }
    memset(out, 0, 34);
    put_be16(out, 32);
    out[2] = 0x0e; /* complete disc, complete session */
    out[3] = out[4] = out[5] = out[6] = 1;
    out[7] = 0x20; /* unrestricted use */
    memset(out + 16, 0xff, 8);
    atapi_reply(s, 34, get_be16(s->packet + 7));
}

static void read_track_information(IDEDrive *s)
{
    uint8_t *out = s->buffer, kind = s->packet[1] & 3;
    uint32_t what = get_be32(s->packet + 2), total = total_sectors(s);

    if (kind == 0 ? what >= total : what != 1) {
        invalid_field(s);
        return;
    }
    memset(out, 0, 36);
    put_be16(out, 34);
    out[2] = out[3] = 1;
    out[5] = 4;
    out[6] = 1;
    put_be32(out + 24, total);
    atapi_reply(s, 36, get_be16(s->packet + 7));
}

static void read_subchannel(IDEDrive *s)
{
    uint8_t *out = s->buffer;

    memset(out, 0, 16);
    out[1] = 0x15; /* no audio status */
    if (!(s->packet[2] & 0x40)) {
        atapi_reply(s, 4, get_be16(s->packet + 7));
    } else if (s->packet[3] == 1) {
        put_be16(out + 2, 12);
        out[4] = 1;
        out[5] = 0x14;
        out[6] = out[7] = 1;
        atapi_reply(s, 16, get_be16(s->packet + 7));
    } else {
        invalid_field(s);
    }
}

/* ---- features and events --------------------------------------------------------------------- */

static uint32_t feature(uint8_t *p, unsigned code, uint8_t flags, uint8_t bytes)
{
    put_be16(p, (uint16_t)code);
    p[2] = flags;
    p[3] = bytes;
    memset(p + 4, 0, bytes);
    return 4u + bytes;
}

static void get_configuration(IDEDrive *s)
{
    uint8_t *out = s->buffer, kind = s->packet[1] & 3;
    uint32_t from = get_be16(s->packet + 2), max = get_be16(s->packet + 7), n = 8;
    bool in = block_inserted(s->be), dvd = in && total_sectors(s) > CD_MAX_SECTORS;
    unsigned profile = !in ? 0 : dvd ? 0x10 : 0x08;

    if (kind == 3) {
        invalid_field(s);
        return;
    }
    memset(out, 0, 8);
    put_be16(out + 6, (uint16_t)profile);
#define WANTED(_code, _current) \
    (kind == 2 ? from == (_code) : from <= (_code) && (kind == 0 || (_current)))
    if (WANTED(0, true)) { /* profiles */
        uint8_t *p = out + n;

        n += feature(p, 0, 3, 8);
        put_be16(p + 4, 0x10);
        p[6] = profile == 0x10;
        put_be16(p + 8, 0x08);
        p[10] = profile == 0x08;
    }
    if (WANTED(1, true)) { /* core: ATAPI, device busy events */
        uint8_t *p = out + n;

        n += feature(p, 1, 0x0b, 8);
        put_be32(p + 4, 2);
        p[8] = 1;
    }
    if (WANTED(3, true)) { /* removable: tray, ejects, locks */
        uint8_t *p = out + n;

        n += feature(p, 3, 3, 4);
        p[4] = 0x29;
    }
    if (WANTED(0x10, in)) { /* random readable */
        uint8_t *p = out + n;

        n += feature(p, 0x10, in ? 1 : 0, 8);
        put_be32(p + 4, CD_SECTOR);
        put_be16(p + 8, 1);
    }
    if (WANTED(0x1e, in && !dvd)) { /* CD read */
        n += feature(out + n, 0x1e, 8 | (in && !dvd ? 1 : 0), 4);
    }
    if (WANTED(0x1f, dvd)) { /* DVD read */
        n += feature(out + n, 0x1f, dvd ? 1 : 0, 0);
    }
#undef WANTED
    put_be32(out, n - 4);
    atapi_reply(s, n, max);
}

static void get_event_status(IDEDrive *s)
{
    uint8_t *out = s->buffer;

    if (!(s->packet[1] & 1)) { /* asynchronous */
        invalid_field(s);
        return;
    }
    memset(out, 0, 8);
    out[3] = 0x10; /* of the classes, media is supported */
    if (!(s->packet[4] & 0x10)) {
        out[2] = 0x80; /* nothing that was asked for */
        put_be16(out, 2);
        atapi_reply(s, 4, get_be16(s->packet + 7));
        return;
    }
    put_be16(out, 6);
    out[2] = 4;
    out[4] = s->media_event;
    out[5] = (block_tray_open(s->be) ? 1 : 0) | (block_inserted(s->be) ? 2 : 0);
    s->media_event = EVENT_NONE;
    atapi_reply(s, 8, get_be16(s->packet + 7));
}

static void mechanism_status(IDEDrive *s)
{
    memset(s->buffer, 0, 8);
    s->buffer[1] = block_tray_open(s->be) ? 0x10 : 0;
    s->buffer[5] = 1;
    atapi_reply(s, 8, get_be16(s->packet + 8));
}

/* ---- the tray -------------------------------------------------------------------------------- */

static void start_stop(IDEDrive *s)
{
    bool start = s->packet[4] & 1, load_eject = s->packet[4] & 2;

    if (!load_eject || (s->packet[4] >> 4) != 0) {
        s->standby = !start;
        atapi_succeed(s);
        return;
    }
    if (!start && s->locked) {
        atapi_fail(s, block_inserted(s->be) ? SENSE_ILLEGAL : SENSE_NOT_READY, 0x53, 2);
        return;
    }
    if (block_tray_open(s->be) == start) {
        block_set_tray(s->be, !start);
        if (start && block_inserted(s->be)) {
            s->attention |= ATTENTION_MEDIUM;
            s->media_event = EVENT_NEW_MEDIUM;
        }
    }
    atapi_succeed(s);
}

static void prevent_removal(IDEDrive *s)
{
    s->locked = s->packet[4] & 1;
    block_lock_medium(s->be, s->locked);
    atapi_succeed(s);
}

static void media_changed(void *opaque, bool loaded)
{
    IDEDrive *s = opaque;

    s->sectors = block_length(s->be) / 512;
    if (loaded) {
        s->attention |= ATTENTION_MEDIUM;
        s->media_event = EVENT_NEW_MEDIUM;
    } else {
        s->media_event = EVENT_REMOVED;
        s->locked = block_medium_locked(s->be);
    }
}

static void eject_request(void *opaque, bool force)
{
    IDE_DRIVE(opaque)->media_event = EVENT_EJECT_REQUEST;
}

static void stop_machine(void *opaque, const char *reason)
{
    machine_pause(IDE_DRIVE(opaque)->parent.machine, reason);
}

const BlockDeviceOps atapi_block_ops = { .media_changed = media_changed,
                                         .eject_request = eject_request,
                                         .stop = stop_machine,
                                         .removable = true };

/* ---- reading --------------------------------------------------------------------------------- */

static void read_cd(IDEDrive *s)
{
    uint32_t lba = get_be32(s->packet + 2);
    uint32_t n = (uint32_t)s->packet[6] << 16 | get_be16(s->packet + 7);
    uint8_t wanted = s->packet[9] & 0xf8, type = s->packet[1] >> 2 & 7;

    if (type > 2 || s->packet[10] & 7) { /* mode 1 is all there is; no subchannel */
        atapi_fail(s, SENSE_ILLEGAL, type > 2 ? 0x64 : 0x24, 0);
        return;
    }
    switch (wanted) {
    case 0x00:
        atapi_read(s, lba, n, CD_SECTOR, 0);
        break;
    case 0x10: /* user data */
        atapi_read(s, lba, n, CD_SECTOR, wanted);
        break;
    case 0xf8: /* everything */
        atapi_read(s, lba, n, CD_RAW_SECTOR, wanted);
        break;
    default:
        invalid_field(s);
        break;
    }
}

static void seek(IDEDrive *s)
{
    if (get_be32(s->packet + 2) >= total_sectors(s)) {
        atapi_fail(s, SENSE_ILLEGAL, 0x21, 0);
    } else {
        atapi_succeed(s);
    }
}

/* ---- dispatch -------------------------------------------------------------------------------- */

enum { NEEDS_MEDIUM = 1, IGNORES_ATTENTION = 2 };
typedef struct PacketCommand {
    uint8_t code, flags;
    void (*run)(IDEDrive *s);
} PacketCommand;

static void mode_sense_6(IDEDrive *s)
{
    mode_sense(s, false);
}

static void mode_sense_10(IDEDrive *s)
{
    mode_sense(s, true);
}

static void read_10(IDEDrive *s)
{
    atapi_read(s, get_be32(s->packet + 2), get_be16(s->packet + 7), CD_SECTOR, 0x10);
}

static void read_12(IDEDrive *s)
{
    atapi_read(s, get_be32(s->packet + 2), get_be32(s->packet + 6), CD_SECTOR, 0x10);
}

static void flush(IDEDrive *s)
{
    s->op = IDE_OP_FLUSH;
    ide_start_op(s);
}

static const PacketCommand commands[] = {
    { 0x00, NEEDS_MEDIUM, atapi_succeed }, /* TEST UNIT READY */
    { 0x03, IGNORES_ATTENTION, request_sense },
    { 0x12, IGNORES_ATTENTION, inquiry },
    { 0x15, 0, mode_select },
    { 0x1a, 0, mode_sense_6 },
    { 0x1b, 0, start_stop },
    { 0x1e, 0, prevent_removal },
    { 0x25, NEEDS_MEDIUM, read_capacity },
    { 0x28, NEEDS_MEDIUM, read_10 },
    { 0x2b, NEEDS_MEDIUM, seek },
    { 0x35, 0, flush },
    { 0x42, NEEDS_MEDIUM, read_subchannel },
    { 0x43, NEEDS_MEDIUM, read_toc },
    { 0x46, IGNORES_ATTENTION, get_configuration },
    { 0x4a, IGNORES_ATTENTION, get_event_status },
    { 0x4b, NEEDS_MEDIUM, atapi_succeed }, /* PAUSE/RESUME */
    { 0x4e, 0, atapi_succeed },            /* STOP PLAY/SCAN */
    { 0x51, NEEDS_MEDIUM, read_disc_information },
    { 0x52, NEEDS_MEDIUM, read_track_information },
    { 0x55, 0, mode_select },
    { 0x5a, 0, mode_sense_10 },
    { 0xa8, NEEDS_MEDIUM, read_12 },
    { 0xbb, 0, atapi_succeed }, /* SET CD SPEED */
    { 0xbd, 0, mechanism_status },
    { 0xbe, NEEDS_MEDIUM, read_cd },
};

void atapi_execute(IDEDrive *s)
{
    const PacketCommand *c = NULL;

    s->phase = IDE_IDLE;
    s->status = ATA_BSY;
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (commands[i].code == s->packet[0]) {
            c = &commands[i];
        }
    }
    if (s->attention && !(c && c->flags & IGNORES_ATTENTION)) {
        bool reset = s->attention & ATTENTION_RESET;

        s->attention &= (uint8_t) ~(reset ? ATTENTION_RESET : ATTENTION_MEDIUM);
        atapi_fail(s, SENSE_ATTENTION, reset ? 0x29 : 0x28, 0);
    } else if (!c) {
        log_of(s, LOG_UNIMP, "%s: packet command %#x", OBJECT(s)->name, s->packet[0]);
        atapi_fail(s, SENSE_ILLEGAL, 0x20, 0);
    } else if (c->flags & NEEDS_MEDIUM && !block_inserted(s->be)) {
        atapi_fail(s, SENSE_NOT_READY, 0x3a, block_tray_open(s->be) ? 2 : 1);
    } else {
        c->run(s);
    }
}
