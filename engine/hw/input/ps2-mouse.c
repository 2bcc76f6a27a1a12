/*
 * A PS/2 mouse (IBM Personal System/2 Hardware Interface Technical Reference, "Auxiliary device")
 * with the wheel and the two more buttons of Microsoft's IntelliMouse and IntelliMouse Explorer,
 * which a driver asks for by setting sampling rates in the order 200, 100, 80 (id 3) and then 200,
 * 200, 80 (id 4).
 *
 * Motion from outside comes in counts: the resolution is kept and reported, and changes nothing.
 * Not emulated: the time of the self test.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"
#include "engine/hw/input/ps2.h"

enum {
    CMD_SCALE_11 = 0xe6,
    CMD_SCALE_21 = 0xe7,
    CMD_RESOLUTION = 0xe8,
    CMD_STATUS = 0xe9,
    CMD_STREAM = 0xea,
    CMD_READ = 0xeb,
    CMD_WRAP_OFF = 0xec,
    CMD_WRAP_ON = 0xee,
    CMD_REMOTE = 0xf0,
    CMD_ID = 0xf2,
    CMD_RATE = 0xf3,
    CMD_ENABLE = 0xf4,
    CMD_DISABLE = 0xf5,
    CMD_DEFAULTS = 0xf6,
    CMD_RESEND = 0xfe,
    CMD_RESET = 0xff,
};
enum { ACK = 0xfa, NAK = 0xfe, ERROR = 0xfc, SELF_TEST_OK = 0xaa };
enum { ID_STANDARD = 0, ID_WHEEL = 3, ID_EXPLORER = 4 };
enum { STATUS_REMOTE = 0x40, STATUS_ENABLED = 0x20, STATUS_SCALING = 0x10 };
enum { PACKET_ONE = 0x08, PACKET_X_SIGN = 0x10, PACKET_Y_SIGN = 0x20 };
#define MOTION_MAX 255
#define WHEEL_MAX  7
#define BACKLOG    (1 << 20) /* motion kept for a guest that takes none */

static bool anything_new(const Ps2Mouse *m)
{
    return m->dx || m->dy || m->dz || m->buttons != m->reported;
}

/* 2:1 scaling makes fast motion faster; it is for stream mode only. */
static int scaled(const Ps2Mouse *m, int n)
{
    static const uint8_t small[] = { 0, 1, 1, 3, 6, 9 };
    int abs = n < 0 ? -n : n;

    if (!m->scaling || m->remote) {
        return n;
    }
    abs = abs < 6 ? small[abs] : abs * 2;
    return n < 0 ? -abs : abs;
}

static unsigned make_packet(Ps2Mouse *m, uint8_t *out)
{
    int limit = m->scaling && !m->remote ? MOTION_MAX / 2 : MOTION_MAX;
    int dx = CLAMP(m->dx, -limit, limit), dy = CLAMP(m->dy, -limit, limit), sx, sy;
    int dz = CLAMP(m->dz, -WHEEL_MAX, WHEEL_MAX);

    m->dx -= dx;
    m->dy -= dy;
    m->reported = m->buttons;
    sx = scaled(m, dx);
    sy = scaled(m, dy);
    out[0] = (uint8_t)(PACKET_ONE | (m->buttons & 7) | (sx < 0 ? PACKET_X_SIGN : 0) |
                       (sy < 0 ? PACKET_Y_SIGN : 0));
    out[1] = (uint8_t)sx;
    out[2] = (uint8_t)sy;
    if (m->id == ID_STANDARD) {
        m->dz = 0;
        return 3;
    }
    m->dz -= dz;
    out[3] = (uint8_t)(m->id == ID_WHEEL ? dz : (dz & 15) | (m->buttons & 0x18) << 1);
    return 4;
}

static bool streams(const Ps2Mouse *m)
{
    return m->reporting && !m->remote && !m->wrap;
}

/* A packet goes when its time has come and there is room for it. */
static void mouse_update(Ps2Mouse *m)
{
    uint8_t packet[4];
    unsigned n;

    if (!streams(m) || !anything_new(m) || timer_armed(&m->sample) ||
        ps2_port_room(&m->port) < sizeof(packet)) {
        return;
    }
    n = make_packet(m, packet);
    timer_arm(&m->sample, clock_now(m->clock) + NS_PER_SEC / m->rate);
    ps2_port_send(&m->port, packet, n);
}

static void sample_timer(void *opaque)
{
    Ps2Mouse *m = opaque;

    mouse_update(m);
    if (m->input) {
        input_changed(m->input);
    }
}

void ps2_mouse_taken(Ps2Mouse *m)
{
    mouse_update(m);
}

/* ---- events from outside ------------------------------------------------------------------- */

static int32_t add_motion(int32_t sum, int d)
{
    return CLAMP(sum + CLAMP(d, -BACKLOG, BACKLOG), -BACKLOG, BACKLOG);
}

static void mouse_motion(void *opaque, int dx, int dy)
{
    Ps2Mouse *m = opaque;

    m->dx = add_motion(m->dx, dx);
    m->dy = add_motion(m->dy, -CLAMP(dy, -BACKLOG, BACKLOG));
    mouse_update(m);
}

static void mouse_wheel(void *opaque, int steps)
{
    Ps2Mouse *m = opaque;

    m->dz = add_motion(m->dz, steps);
    mouse_update(m);
}

static void mouse_buttons(void *opaque, unsigned mask)
{
    Ps2Mouse *m = opaque;

    m->buttons = (uint8_t)(m->id == ID_EXPLORER ? mask : mask & 7);
    mouse_update(m);
}

/* Merging motion loses nothing, merging a press with its release would. */
static bool mouse_room(void *opaque)
{
    Ps2Mouse *m = opaque;

    return streams(m) ? !anything_new(m) : m->buttons == m->reported;
}

static bool mouse_idle(void *opaque)
{
    Ps2Mouse *m = opaque;

    return ps2_port_empty(&m->port) && mouse_room(m);
}

static const InputPointerOps mouse_ops = {
    .motion = mouse_motion,
    .buttons = mouse_buttons,
    .wheel = mouse_wheel,
    .room = mouse_room,
    .idle = mouse_idle,
};

/* ---- commands ------------------------------------------------------------------------------ */

static void forget_motion(Ps2Mouse *m)
{
    m->dx = m->dy = m->dz = 0;
    m->reported = m->buttons;
    m->port.queue_count = 0;
    timer_disarm(&m->sample);
}

static void set_defaults(Ps2Mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->scaling = m->remote = m->reporting = m->wrap = false;
    forget_motion(m);
}

static bool rate_known(uint8_t rate)
{
    return rate == 10 || rate == 20 || rate == 40 || rate == 60 || rate == 80 || rate == 100 ||
           rate == 200;
}

static void set_rate(Ps2Mouse *m, uint8_t rate)
{
    m->rate = rate;
    if (rate == 80 && m->knock[0] == 200 && m->knock[1] == 100) {
        m->id = ID_WHEEL;
    } else if (rate == 80 && m->knock[0] == 200 && m->knock[1] == 200 && m->id != ID_STANDARD) {
        m->id = ID_EXPLORER;
    }
    m->knock[0] = m->knock[1];
    m->knock[1] = rate;
}

static void reply_status(Ps2Mouse *m)
{
    unsigned b = m->buttons;

    ps2_port_reply(&m->port,
                   (uint8_t)((m->remote ? STATUS_REMOTE : 0) | (m->reporting ? STATUS_ENABLED : 0) |
                             (m->scaling ? STATUS_SCALING : 0) | (b & INPUT_BUTTON_LEFT ? 4 : 0) |
                             (b & INPUT_BUTTON_MIDDLE ? 2 : 0) | (b & INPUT_BUTTON_RIGHT ? 1 : 0)));
    ps2_port_reply(&m->port, m->resolution);
    ps2_port_reply(&m->port, m->rate);
}

static void reply_packet(Ps2Mouse *m)
{
    uint8_t packet[4];
    unsigned n = make_packet(m, packet);

    for (unsigned i = 0; i < n; i++) {
        ps2_port_reply(&m->port, packet[i]);
    }
}

static void mouse_argument(Ps2Mouse *m, uint8_t byte)
{
    uint8_t command = m->command;
    bool good = command == CMD_RATE ? rate_known(byte) : byte <= 3;

    m->command = 0;
    if (!good) {
        log_of(m->port.opaque, LOG_GUEST, "ps2-mouse: command %#x with %u", command, byte);
        ps2_port_reply(&m->port, NAK);
        return;
    }
    if (command == CMD_RATE) {
        set_rate(m, byte);
    } else {
        m->resolution = byte;
    }
    ps2_port_reply(&m->port, ACK);
}

static bool known(uint8_t command)
{
    return command >= CMD_SCALE_11 && command != 0xed && command != 0xef && command != 0xf1 &&
           (command <= CMD_DEFAULTS || command >= CMD_RESEND);
}

static void mouse_command(Ps2Mouse *m, uint8_t byte)
{
    if (byte == CMD_RESEND) {
        ps2_port_reply(&m->port, m->port.last);
        return;
    }
    if (!known(byte)) {
        log_of(m->port.opaque, LOG_GUEST, "ps2-mouse: unknown command %#x", byte);
        ps2_port_reply(&m->port, NAK);
        return;
    }
    if (byte == CMD_RESET) {
        ps2_mouse_reset(m);
    }
    ps2_port_reply(&m->port, ACK);
    switch (byte) {
    case CMD_SCALE_11:
    case CMD_SCALE_21:
        m->scaling = byte == CMD_SCALE_21;
        break;
    case CMD_RESOLUTION:
    case CMD_RATE:
        m->command = byte;
        break;
    case CMD_STATUS:
        reply_status(m);
        break;
    case CMD_STREAM:
        m->remote = false;
        forget_motion(m);
        break;
    case CMD_REMOTE:
        m->remote = true;
        forget_motion(m);
        break;
    case CMD_READ:
        reply_packet(m);
        break;
    case CMD_WRAP_OFF:
        m->wrap = false;
        break;
    case CMD_WRAP_ON:
        m->wrap = true;
        forget_motion(m);
        break;
    case CMD_ID:
        ps2_port_reply(&m->port, m->id);
        break;
    case CMD_ENABLE:
        m->reporting = true;
        forget_motion(m);
        break;
    case CMD_DISABLE:
        m->reporting = false;
        forget_motion(m);
        break;
    case CMD_DEFAULTS:
        set_defaults(m);
        break;
    case CMD_RESET:
        ps2_port_reply(&m->port, SELF_TEST_OK);
        ps2_port_reply(&m->port, m->id);
        break;
    default:
        break;
    }
}

void ps2_mouse_write(Ps2Mouse *m, uint8_t byte)
{
    m->port.reply_count = 0;
    if (m->wrap && byte != CMD_WRAP_OFF && byte != CMD_RESET) {
        ps2_port_reply(&m->port, byte);
    } else if (m->command) {
        mouse_argument(m, byte);
    } else {
        mouse_command(m, byte);
    }
    mouse_update(m);
    if (m->input) {
        input_changed(m->input);
    }
}

/* ---- life ---------------------------------------------------------------------------------- */

void ps2_mouse_reset(Ps2Mouse *m)
{
    ps2_port_clear(&m->port);
    m->port.last = 0;
    m->id = ID_STANDARD;
    m->command = 0;
    m->knock[0] = m->knock[1] = 0;
    set_defaults(m);
}

void ps2_mouse_realize(Ps2Mouse *m, Input *input, Clock *clock)
{
    m->clock = clock;
    timer_setup(&m->sample, clock, sample_timer, m);
    m->input = (Input *)object_ref(input);
    input_add_pointer(input, &mouse_ops, m);
}

void ps2_mouse_unrealize(Ps2Mouse *m)
{
    if (m->input) {
        timer_disarm(&m->sample);
        input_remove(m->input, m);
        object_unref(g_steal_pointer(&m->input));
    }
}

static bool mouse_post_load(void *opaque, unsigned version, GError **error)
{
    Ps2Mouse *m = opaque;
    int64_t sum = INT64_C(0) + (m->dx < 0 ? -(int64_t)m->dx : m->dx);

    sum = MAX(sum, m->dy < 0 ? -(int64_t)m->dy : m->dy);
    sum = MAX(sum, m->dz < 0 ? -(int64_t)m->dz : m->dz);
    if (!ps2_port_valid(&m->port) || !rate_known(m->rate) || m->resolution > 3 ||
        (m->id != ID_STANDARD && m->id != ID_WHEEL && m->id != ID_EXPLORER) ||
        (m->command && m->command != CMD_RATE && m->command != CMD_RESOLUTION) ||
        m->buttons > INPUT_BUTTONS || m->reported > INPUT_BUTTONS || sum > BACKLOG) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the mouse is in an impossible state");
    }
    return true;
}

static const VMStateField ps2_mouse_fields[] = {
    VMSTATE_STRUCT(port, Ps2Mouse, vmstate_ps2_port),
    VMSTATE_UINT8(id, Ps2Mouse),
    VMSTATE_UINT8(command, Ps2Mouse),
    VMSTATE_UINT8(rate, Ps2Mouse),
    VMSTATE_UINT8(resolution, Ps2Mouse),
    VMSTATE_UINT8_ARRAY(knock, Ps2Mouse),
    VMSTATE_BOOL(remote, Ps2Mouse),
    VMSTATE_BOOL(wrap, Ps2Mouse),
    VMSTATE_BOOL(reporting, Ps2Mouse),
    VMSTATE_BOOL(scaling, Ps2Mouse),
    VMSTATE_UINT8(buttons, Ps2Mouse),
    VMSTATE_UINT8(reported, Ps2Mouse),
    VMSTATE_INT32(dx, Ps2Mouse),
    VMSTATE_INT32(dy, Ps2Mouse),
    VMSTATE_INT32(dz, Ps2Mouse),
    VMSTATE_TIMER(sample, Ps2Mouse),
    VMSTATE_END(),
};
const VMStateDescription vmstate_ps2_mouse = {
    .name = "ps2-mouse",
    .version = 1,
    .minimum_version = 1,
    .post_load = mouse_post_load,
    .fields = ps2_mouse_fields,
};
