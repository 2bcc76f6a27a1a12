/* The commands of the floppy controller: how long each is, and those that move no data. */
#include "engine/core/log.h"
#include "engine/core/units.h"
#include "engine/hw/floppy/fdc-priv.h"

enum {
    CMD_READ_TRACK = 0x02,
    CMD_SPECIFY = 0x03,
    CMD_SENSE_DRIVE = 0x04,
    CMD_WRITE = 0x05,
    CMD_READ = 0x06,
    CMD_RECALIBRATE = 0x07,
    CMD_SENSE_INTERRUPT = 0x08,
    CMD_WRITE_DELETED = 0x09,
    CMD_READ_ID = 0x0a,
    CMD_READ_DELETED = 0x0c,
    CMD_FORMAT = 0x0d,
    CMD_DUMP = 0x0e,
    CMD_SEEK = 0x0f,
    CMD_VERSION = 0x10,
    CMD_SCAN_EQUAL = 0x11,
    CMD_PERPENDICULAR = 0x12,
    CMD_CONFIGURE = 0x13,
    CMD_LOCK = 0x14,
    CMD_VERIFY = 0x16,
    CMD_SCAN_LOW = 0x19,
    CMD_SCAN_HIGH = 0x1d,
    CMD_RELATIVE_SEEK = 0x8f,
};
enum { ST3_WP = 0x40, ST3_READY = 0x20, ST3_TRACK0 = 0x10, ST3_TWO_SIDES = 0x08 };
#define VERSION_82077 0x90
#define SEEK_NS       (100 * NS_PER_US)
#define MAX_TRACK     85 /* where the heads stop */
#define DIRECTION     0x40

/* Bits of the first byte that say which command it is, and its length with parameters. */
static const struct {
    uint8_t mask, value, length;
} commands[] = {
    { 0x1f, CMD_READ, 9 },
    { 0x3f, CMD_WRITE, 9 },
    { 0x9f, CMD_READ_TRACK, 9 },
    { 0x1f, CMD_READ_DELETED, 9 },
    { 0x3f, CMD_WRITE_DELETED, 9 },
    { 0x1f, CMD_VERIFY, 9 },
    { 0x1f, CMD_SCAN_EQUAL, 9 },
    { 0x1f, CMD_SCAN_LOW, 9 },
    { 0x1f, CMD_SCAN_HIGH, 9 },
    { 0xbf, CMD_FORMAT, 6 },
    { 0xbf, CMD_READ_ID, 2 },
    { 0xff, CMD_RECALIBRATE, 2 },
    { 0xff, CMD_SENSE_INTERRUPT, 1 },
    { 0xff, CMD_SPECIFY, 3 },
    { 0xff, CMD_SENSE_DRIVE, 2 },
    { 0xff, CMD_CONFIGURE, 4 },
    { 0xff, CMD_SEEK, 3 },
    { 0xbf, CMD_RELATIVE_SEEK, 3 },
    { 0xff, CMD_DUMP, 1 },
    { 0xff, CMD_VERSION, 1 },
    { 0xff, CMD_PERPENDICULAR, 2 },
    { 0x7f, CMD_LOCK, 1 },
};

/* -1: there is no such command. */
static int find_command(uint8_t first)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(commands); i++) {
        if ((first & commands[i].mask) == commands[i].value) {
            return (int)i;
        }
    }
    return -1;
}

unsigned fdc_command_length(uint8_t first)
{
    int i = find_command(first);

    return i < 0 ? 1 : commands[i].length;
}

static void done(Fdc *s)
{
    s->phase = FDC_PHASE_COMMAND;
    s->command_pos = 0;
}

static void invalid(Fdc *s)
{
    s->result[0] = ST0_INVALID;
    fdc_set_result(s, 1, false);
}

/* ---- moving heads -------------------------------------------------------------------------- */

static void start_seek(Fdc *s, unsigned unit, unsigned target, uint8_t st0)
{
    s->seek_target[unit] = (uint8_t)MIN(target, MAX_TRACK);
    s->seek_st0[unit] = st0;
    s->seeking |= (uint8_t)(1u << unit);
    s->sought &= (uint8_t) ~(1u << unit);
    timer_arm(&s->seek_timer, clock_now(device_clock(&s->parent)) + SEEK_NS);
    done(s);
}

void fdc_seek_done(Fdc *s)
{
    for (unsigned unit = 0; unit < 4; unit++) {
        if (!(s->seeking >> unit & 1)) {
            continue;
        }
        if (unit < FDC_DRIVES && s->drive[unit].kind != FD_NONE) {
            fd_drive_step_to(&s->drive[unit], s->seek_target[unit]);
        } else if (s->command[0] == CMD_RECALIBRATE) {
            s->seek_st0[unit] |= ST0_ABNORMAL | ST0_CHECK; /* no drive says that it is at track 0 */
        }
    }
    if (s->seeking) {
        s->sought |= s->seeking;
        s->seeking = 0;
        s->interrupt = true;
    }
}

static void seek(Fdc *s)
{
    unsigned unit = s->command[1] & 3;

    start_seek(s, unit, s->command[2], (uint8_t)(ST0_SEEK_END | (s->command[1] & 7)));
}

static void recalibrate(Fdc *s)
{
    unsigned unit = s->command[1] & 3;

    start_seek(s, unit, 0, (uint8_t)(ST0_SEEK_END | unit));
}

static void relative_seek(Fdc *s)
{
    unsigned unit = s->command[1] & 3;
    int track = unit < FDC_DRIVES ? s->drive[unit].track : 0;

    track += s->command[0] & DIRECTION ? s->command[2] : -s->command[2];
    start_seek(s, unit, (unsigned)MAX(track, 0), (uint8_t)(ST0_SEEK_END | (s->command[1] & 7)));
}

static void sense_interrupt(Fdc *s)
{
    unsigned unit;

    if (s->reset_senses > 0) {
        unit = 4u - s->reset_senses--;
        s->result[0] = (uint8_t)(ST0_POLLED | unit);
        s->interrupt = false;
    } else if (s->sought) {
        unit = (unsigned)__builtin_ctz(s->sought);
        s->sought &= (uint8_t) ~(1u << unit);
        s->result[0] = s->seek_st0[unit];
        s->interrupt = s->sought != 0;
    } else {
        s->interrupt = false;
        invalid(s);
        return;
    }
    s->result[1] = unit < FDC_DRIVES ? s->drive[unit].track : 0;
    fdc_set_result(s, 2, false);
}

static void sense_drive(Fdc *s)
{
    unsigned unit = s->command[1] & 3;
    uint8_t st3 = (uint8_t)(ST3_READY | ST3_TWO_SIDES | (s->command[1] & 7));

    if (unit < FDC_DRIVES && s->drive[unit].kind != FD_NONE) {
        st3 |= s->drive[unit].track == 0 ? ST3_TRACK0 : 0;
        st3 |= fd_drive_write_protected(&s->drive[unit]) ? ST3_WP : 0;
    }
    s->result[0] = st3;
    fdc_set_result(s, 1, false);
}

/* ---- settings ------------------------------------------------------------------------------ */

static void dump(Fdc *s)
{
    for (unsigned i = 0; i < 4; i++) {
        s->result[i] = i < FDC_DRIVES ? s->drive[i].track : 0;
    }
    s->result[4] = s->specify[0];
    s->result[5] = s->specify[1];
    s->result[6] = s->last_sector;
    s->result[7] = (uint8_t)(s->locked << 7 | (s->perpendicular & 0x3f));
    s->result[8] = s->config;
    s->result[9] = s->pretrack;
    fdc_set_result(s, 10, false);
}

static void set_lock(Fdc *s)
{
    s->locked = s->command[0] & 0x80;
    s->result[0] = (uint8_t)(s->locked << 4);
    fdc_set_result(s, 1, false);
}

void fdc_execute(Fdc *s)
{
    int i = find_command(s->command[0]);

    switch (i < 0 ? -1 : commands[i].value) {
    case CMD_READ:
        fdc_start_transfer(s, FDC_OP_READ);
        break;
    case CMD_WRITE:
    case CMD_WRITE_DELETED: /* images keep no marks: the data is what counts */
        fdc_start_transfer(s, FDC_OP_WRITE);
        break;
    case CMD_READ_TRACK:
        fdc_start_transfer(s, FDC_OP_READ_TRACK);
        break;
    case CMD_READ_DELETED:
        fdc_start_transfer(s, FDC_OP_READ_DELETED);
        break;
    case CMD_VERIFY:
        fdc_start_transfer(s, FDC_OP_VERIFY);
        break;
    case CMD_SCAN_EQUAL:
        fdc_start_transfer(s, FDC_OP_SCAN_EQUAL);
        break;
    case CMD_SCAN_LOW:
        fdc_start_transfer(s, FDC_OP_SCAN_LOW);
        break;
    case CMD_SCAN_HIGH:
        fdc_start_transfer(s, FDC_OP_SCAN_HIGH);
        break;
    case CMD_FORMAT:
        fdc_start_transfer(s, FDC_OP_FORMAT);
        break;
    case CMD_READ_ID:
        fdc_start_read_id(s);
        break;
    case CMD_SEEK:
        seek(s);
        break;
    case CMD_RELATIVE_SEEK:
        relative_seek(s);
        break;
    case CMD_RECALIBRATE:
        recalibrate(s);
        break;
    case CMD_SENSE_INTERRUPT:
        sense_interrupt(s);
        break;
    case CMD_SENSE_DRIVE:
        sense_drive(s);
        break;
    case CMD_SPECIFY:
        s->specify[0] = s->command[1];
        s->specify[1] = s->command[2];
        done(s);
        break;
    case CMD_CONFIGURE:
        s->config = s->command[2] & 0x7f;
        s->pretrack = s->command[3];
        done(s);
        break;
    case CMD_PERPENDICULAR:
        s->perpendicular = s->command[1] & 0x80 ? s->command[1] & 0x3f
                                                : (s->perpendicular & 0x3c) | (s->command[1] & 3);
        done(s);
        break;
    case CMD_DUMP:
        dump(s);
        break;
    case CMD_VERSION:
        s->result[0] = VERSION_82077;
        fdc_set_result(s, 1, false);
        break;
    case CMD_LOCK:
        set_lock(s);
        break;
    default:
        log_of(s, LOG_GUEST, "isa-fdc: unknown command %#x", s->command[0]);
        invalid(s);
        break;
    }
}
