/*
 * A PS/2 keyboard of 102 keys (IBM Personal System/2 Hardware Interface Technical Reference,
 * "Keyboards"): scan code sets 1 to 3, all commands, LEDs, typematic repeat, a queue of 16 bytes.
 *
 * Not emulated: the time of the self test (its result follows the acknowledgement at once), and the
 * shift codes that real keyboards wrap around the cursor keys while Num Lock is on; systems ignore
 * them.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"
#include "engine/hw/input/i8042.h"
#include "engine/hw/input/ps2.h"

enum {
    CMD_LEDS = 0xed,
    CMD_ECHO = 0xee,
    CMD_SCAN_SET = 0xf0,
    CMD_ID = 0xf2,
    CMD_RATE = 0xf3,
    CMD_ENABLE = 0xf4,
    CMD_DISABLE = 0xf5,
    CMD_DEFAULTS = 0xf6,
    CMD_ALL_TYPEMATIC = 0xf7,
    CMD_ALL_MAKE_BREAK = 0xf8,
    CMD_ALL_MAKE = 0xf9,
    CMD_ALL_TYPEMATIC_MAKE_BREAK = 0xfa,
    CMD_KEY_TYPEMATIC = 0xfb,
    CMD_KEY_MAKE_BREAK = 0xfc,
    CMD_KEY_MAKE = 0xfd,
    CMD_RESEND = 0xfe,
    CMD_RESET = 0xff,
};
enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_OK = 0xaa, ECHO = 0xee, ID_1 = 0xab, ID_2 = 0x83 };
enum { PS2_KEY_MAKE = 0, PS2_KEY_BREAK = 1, PS2_KEY_TYPEMATIC = 2 };
enum { MOD_CTRL = 1, MOD_CTRL_R = 2, MOD_SHIFT = 4, MOD_SHIFT_R = 8, MOD_ALT = 16, MOD_ALT_R = 32 };
#define DEFAULT_RATE 0x2b /* after 500 ms, 10.9 a second */
#define OVERRUN_SET1 0xff
#define OVERRUN      0x00
#define CODES_MAX    8 /* of one event of one key */

#define KEY_CODES_(e, name, evdev, set2, set3) { set2, set3 },
static const struct {
    uint16_t set2, set3;
} key_codes[] = { INPUT_KEYS(KEY_CODES_) };

/* ---- the wire ------------------------------------------------------------------------------ */

unsigned ps2_port_room(const Ps2Port *p)
{
    return PS2_QUEUE - p->queue_count;
}

static void port_changed(Ps2Port *p)
{
    if (p->changed) {
        p->changed(p->opaque);
    }
}

void ps2_port_reply(Ps2Port *p, uint8_t byte)
{
    if (p->reply_count < PS2_REPLIES) {
        p->reply[p->reply_count++] = byte;
    }
    port_changed(p);
}

void ps2_port_send(Ps2Port *p, const uint8_t *bytes, unsigned n)
{
    if (n <= ps2_port_room(p)) {
        memcpy(p->queue + p->queue_count, bytes, n);
        p->queue_count += n;
        port_changed(p);
    }
}

void ps2_port_clear(Ps2Port *p)
{
    p->reply_count = p->queue_count = 0;
}

uint8_t ps2_port_take(Ps2Port *p)
{
    uint8_t *bytes = p->reply_count ? p->reply : p->queue;
    uint32_t *count = p->reply_count ? &p->reply_count : &p->queue_count;

    if (*count == 0) {
        return 0;
    }
    p->last = bytes[0];
    memmove(bytes, bytes + 1, --*count);
    return p->last;
}

bool ps2_port_valid(const Ps2Port *p)
{
    return p->reply_count <= PS2_REPLIES && p->queue_count <= PS2_QUEUE;
}

static const VMStateField ps2_port_fields[] = {
    VMSTATE_UINT8_VARRAY(reply, Ps2Port, reply_count),
    VMSTATE_UINT32(reply_count, Ps2Port),
    VMSTATE_UINT8_VARRAY(queue, Ps2Port, queue_count),
    VMSTATE_UINT32(queue_count, Ps2Port),
    VMSTATE_UINT8(last, Ps2Port),
    VMSTATE_END(),
};
const VMStateDescription vmstate_ps2_port = {
    .name = "ps2-port",
    .version = 1,
    .minimum_version = 1,
    .fields = ps2_port_fields,
};

/* ---- scan codes ---------------------------------------------------------------------------- */

static unsigned add_code(uint8_t *out, unsigned n, unsigned set, uint16_t code, bool down)
{
    uint8_t low = code & 0xff;

    if (code >> 8) {
        out[n++] = (uint8_t)(code >> 8);
    }
    if (set == 1) {
        low = (uint8_t)(i8042_translate(low) | (down ? 0 : 0x80));
    } else if (!down) {
        out[n++] = 0xf0;
    }
    out[n++] = low;
    return n;
}

/* Print and Pause are other keys together with a modifier, as they were on the 84 keys before. */
static unsigned add_print(const Ps2Keyboard *k, uint8_t *out, bool down)
{
    unsigned set = k->scan_set, n = 0;

    if (k->modifiers & (MOD_ALT | MOD_ALT_R)) {
        return add_code(out, 0, set, 0x84, down);
    }
    if (k->modifiers & (MOD_CTRL | MOD_CTRL_R | MOD_SHIFT | MOD_SHIFT_R)) {
        return add_code(out, 0, set, 0xe07c, down);
    }
    n = add_code(out, n, set, down ? 0xe012 : 0xe07c, down);
    return add_code(out, n, set, down ? 0xe07c : 0xe012, down);
}

static unsigned add_pause(const Ps2Keyboard *k, uint8_t *out, bool down)
{
    unsigned set = k->scan_set, n = 0;

    if (!down) { /* it was sent with the make */
        return 0;
    }
    if (k->modifiers & (MOD_CTRL | MOD_CTRL_R)) {
        n = add_code(out, n, set, 0xe07e, true);
        return add_code(out, n, set, 0xe07e, false);
    }
    out[n++] = 0xe1;
    n = add_code(out, n, set, 0x14, true);
    n = add_code(out, n, set, 0x77, true);
    out[n++] = 0xe1;
    n = add_code(out, n, set, 0x14, false);
    return add_code(out, n, set, 0x77, false);
}

static unsigned key_bytes(const Ps2Keyboard *k, InputKey key, bool down, uint8_t *out)
{
    if (k->scan_set == 3) {
        uint16_t code = key_codes[key].set3;

        if (!code || (!down && !(k->set3_key[code] & PS2_KEY_BREAK))) {
            return 0;
        }
        return add_code(out, 0, 3, code, down);
    }
    if (key == INPUT_KEY_PRINT) {
        return add_print(k, out, down);
    }
    if (key == INPUT_KEY_PAUSE) {
        return add_pause(k, out, down);
    }
    return add_code(out, 0, k->scan_set, key_codes[key].set2, down);
}

/* ---- typematic ----------------------------------------------------------------------------- */

static int64_t repeat_delay(const Ps2Keyboard *k)
{
    return ((k->rate >> 5 & 3) + 1) * 250 * NS_PER_MS;
}

static int64_t repeat_period(const Ps2Keyboard *k)
{
    return (8 + (k->rate & 7)) * (INT64_C(1) << (k->rate >> 3 & 3)) * 4170 * NS_PER_US;
}

static void stop_repeat(Ps2Keyboard *k)
{
    k->repeat_key = INPUT_KEY_COUNT;
    timer_disarm(&k->repeat);
}

static bool repeats(const Ps2Keyboard *k, InputKey key)
{
    return key != INPUT_KEY_PAUSE &&
           (k->scan_set != 3 || k->set3_key[key_codes[key].set3] & PS2_KEY_TYPEMATIC);
}

static void repeat_timer(void *opaque)
{
    Ps2Keyboard *k = opaque;
    uint8_t bytes[CODES_MAX];
    unsigned n;

    if (k->repeat_key >= INPUT_KEY_COUNT || !k->scanning) {
        return;
    }
    n = key_bytes(k, k->repeat_key, true, bytes);
    ps2_port_send(&k->port, bytes, n); /* a guest that does not listen hears fewer */
    timer_arm(&k->repeat, clock_now(k->clock) + repeat_period(k));
}

/* ---- keys from outside --------------------------------------------------------------------- */

static void note_modifier(Ps2Keyboard *k, InputKey key, bool down)
{
    unsigned bit = key == INPUT_KEY_CTRL      ? MOD_CTRL
                   : key == INPUT_KEY_CTRL_R  ? MOD_CTRL_R
                   : key == INPUT_KEY_SHIFT   ? MOD_SHIFT
                   : key == INPUT_KEY_SHIFT_R ? MOD_SHIFT_R
                   : key == INPUT_KEY_ALT     ? MOD_ALT
                   : key == INPUT_KEY_ALT_R   ? MOD_ALT_R
                                              : 0;

    k->modifiers = (uint8_t)(down ? k->modifiers | bit : k->modifiers & ~bit);
}

static void keyboard_overrun(Ps2Keyboard *k)
{
    uint8_t code = k->scan_set == 1 ? OVERRUN_SET1 : OVERRUN;

    if (ps2_port_room(&k->port)) {
        ps2_port_send(&k->port, &code, 1);
    } else {
        k->port.queue[PS2_QUEUE - 1] = code;
    }
}

static void keyboard_key(void *opaque, InputKey key, bool down)
{
    Ps2Keyboard *k = opaque;
    uint8_t bytes[CODES_MAX];
    unsigned n;

    note_modifier(k, key, down);
    if (down && k->pressed) {
        k->pressed(k->port.opaque);
    }
    if (!k->scanning) {
        return;
    }
    n = key_bytes(k, key, down, bytes);
    if (n > ps2_port_room(&k->port)) {
        keyboard_overrun(k);
    } else if (n) {
        ps2_port_send(&k->port, bytes, n);
    }
    if (down && repeats(k, key)) {
        k->repeat_key = (uint16_t)key;
        timer_arm(&k->repeat, clock_now(k->clock) + repeat_delay(k));
    } else if (down || key == k->repeat_key) {
        stop_repeat(k);
    }
}

static bool keyboard_room(void *opaque)
{
    Ps2Keyboard *k = opaque;

    return k->scanning && ps2_port_room(&k->port) >= CODES_MAX;
}

static bool keyboard_idle(void *opaque)
{
    Ps2Keyboard *k = opaque;

    return ps2_port_empty(&k->port);
}

static const InputKeyboardOps keyboard_ops = {
    .key = keyboard_key,
    .room = keyboard_room,
    .idle = keyboard_idle,
};

/* ---- commands ------------------------------------------------------------------------------ */

static uint8_t set3_default(InputKey key)
{
    switch (key) {
    case INPUT_KEY_CTRL:
    case INPUT_KEY_SHIFT:
    case INPUT_KEY_SHIFT_R:
    case INPUT_KEY_ALT:
    case INPUT_KEY_CAPS_LOCK:
        return PS2_KEY_BREAK;
    case INPUT_KEY_ESC:
    case INPUT_KEY_F1 ... INPUT_KEY_F10:
    case INPUT_KEY_F11:
    case INPUT_KEY_F12:
    case INPUT_KEY_PRINT:
    case INPUT_KEY_SCROLL_LOCK:
    case INPUT_KEY_PAUSE:
    case INPUT_KEY_INSERT:
    case INPUT_KEY_HOME:
    case INPUT_KEY_END:
    case INPUT_KEY_PGUP:
    case INPUT_KEY_PGDN:
    case INPUT_KEY_ALT_R:
    case INPUT_KEY_CTRL_R:
    case INPUT_KEY_META_L:
    case INPUT_KEY_META_R:
    case INPUT_KEY_MENU:
    case INPUT_KEY_NUM_LOCK:
    case INPUT_KEY_KP_7 ... INPUT_KEY_KP_6:
    case INPUT_KEY_KP_1 ... INPUT_KEY_KP_DECIMAL:
    case INPUT_KEY_KP_ENTER:
    case INPUT_KEY_KP_DIVIDE:
    case INPUT_KEY_KP_MULTIPLY:
        return PS2_KEY_MAKE;
    default:
        return PS2_KEY_TYPEMATIC;
    }
}

static void set_defaults(Ps2Keyboard *k)
{
    k->rate = DEFAULT_RATE;
    k->scan_set = 2;
    memset(k->set3_key, PS2_KEY_TYPEMATIC, sizeof(k->set3_key));
    for (unsigned i = 0; i < INPUT_KEY_COUNT; i++) {
        k->set3_key[key_codes[i].set3] = set3_default(i);
    }
    k->set3_key[0] = PS2_KEY_MAKE;
    stop_repeat(k);
}

static void set_leds(Ps2Keyboard *k, uint8_t leds)
{
    k->leds = leds & 7;
    if (k->input) {
        input_set_leds(k->input, k, k->leds);
    }
}

static void set_all_keys(Ps2Keyboard *k, uint8_t kind)
{
    memset(k->set3_key, kind, sizeof(k->set3_key));
}

/* The argument of a command, or of FB to FD one of a list that any command ends. */
static void keyboard_argument(Ps2Keyboard *k, uint8_t byte)
{
    uint8_t command = k->command;

    k->command = 0;
    if (command == CMD_SCAN_SET && byte > 3) {
        ps2_port_reply(&k->port, RESEND); /* there is none */
        return;
    }
    ps2_port_reply(&k->port, ACK);
    switch (command) {
    case CMD_LEDS:
        set_leds(k, byte);
        break;
    case CMD_SCAN_SET:
        if (byte == 0) {
            ps2_port_reply(&k->port, k->scan_set);
        } else {
            k->scan_set = byte;
            k->port.queue_count = 0;
        }
        break;
    case CMD_RATE:
        k->rate = byte & 0x7f;
        break;
    default: /* CMD_KEY_* */
        if (byte < PS2_SET3_CODES) {
            k->set3_key[byte] = command == CMD_KEY_TYPEMATIC    ? PS2_KEY_TYPEMATIC
                                : command == CMD_KEY_MAKE_BREAK ? PS2_KEY_BREAK
                                                                : PS2_KEY_MAKE;
        }
        k->command = command;
        break;
    }
}

static bool takes_argument(uint8_t command)
{
    return command == CMD_LEDS || command == CMD_SCAN_SET || command == CMD_RATE ||
           (command >= CMD_KEY_TYPEMATIC && command <= CMD_KEY_MAKE);
}

static void keyboard_command(Ps2Keyboard *k, uint8_t byte)
{
    switch (byte) {
    case CMD_ECHO:
        ps2_port_reply(&k->port, ECHO);
        return;
    case CMD_RESEND:
        ps2_port_reply(&k->port, k->port.last);
        return;
    case CMD_ID:
        ps2_port_reply(&k->port, ACK);
        ps2_port_reply(&k->port, ID_1);
        ps2_port_reply(&k->port, ID_2);
        return;
    case CMD_ENABLE:
        k->port.queue_count = 0;
        k->scanning = true;
        stop_repeat(k);
        break;
    case CMD_DISABLE:
    case CMD_DEFAULTS:
        k->port.queue_count = 0;
        set_defaults(k);
        k->scanning = byte == CMD_DEFAULTS;
        break;
    case CMD_ALL_TYPEMATIC:
        set_all_keys(k, PS2_KEY_TYPEMATIC);
        break;
    case CMD_ALL_MAKE_BREAK:
        set_all_keys(k, PS2_KEY_BREAK);
        break;
    case CMD_ALL_MAKE:
        set_all_keys(k, PS2_KEY_MAKE);
        break;
    case CMD_ALL_TYPEMATIC_MAKE_BREAK:
        set_all_keys(k, PS2_KEY_TYPEMATIC | PS2_KEY_BREAK);
        break;
    case CMD_RESET:
        ps2_keyboard_reset(k);
        ps2_port_reply(&k->port, ACK);
        ps2_port_reply(&k->port, SELF_TEST_OK);
        return;
    default:
        if (!takes_argument(byte)) {
            log_of(k->port.opaque, LOG_GUEST, "ps2-keyboard: unknown command %#x", byte);
            ps2_port_reply(&k->port, RESEND);
            return;
        }
        k->command = byte;
        break;
    }
    ps2_port_reply(&k->port, ACK);
}

void ps2_keyboard_write(Ps2Keyboard *k, uint8_t byte)
{
    bool room = keyboard_room(k), idle = keyboard_idle(k);

    k->port.reply_count = 0; /* a new byte ends the answer to the one before */
    if (k->command && byte < CMD_LEDS) {
        keyboard_argument(k, byte);
    } else {
        k->command = 0;
        keyboard_command(k, byte);
    }
    if (k->input && (room != keyboard_room(k) || idle != keyboard_idle(k))) {
        input_changed(k->input);
    }
}

/* ---- life ---------------------------------------------------------------------------------- */

void ps2_keyboard_reset(Ps2Keyboard *k)
{
    ps2_port_clear(&k->port);
    k->port.last = 0;
    k->command = 0;
    k->modifiers = 0;
    k->scanning = true;
    set_defaults(k);
    set_leds(k, 0);
}

void ps2_keyboard_realize(Ps2Keyboard *k, Input *input, Clock *clock)
{
    k->clock = clock;
    timer_setup(&k->repeat, clock, repeat_timer, k);
    k->input = (Input *)object_ref(input);
    input_add_keyboard(input, &keyboard_ops, k);
}

void ps2_keyboard_unrealize(Ps2Keyboard *k)
{
    if (k->input) {
        timer_disarm(&k->repeat);
        input_remove(k->input, k);
        object_unref(g_steal_pointer(&k->input));
    }
}

static bool keyboard_post_load(void *opaque, unsigned version, GError **error)
{
    Ps2Keyboard *k = opaque;

    if (!ps2_port_valid(&k->port) || k->scan_set < 1 || k->scan_set > 3 || k->leds > 7 ||
        k->rate > 0x7f || k->repeat_key > INPUT_KEY_COUNT ||
        (k->command && !takes_argument(k->command))) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the keyboard is in an impossible state");
    }
    for (unsigned i = 0; i < PS2_SET3_CODES; i++) {
        if (k->set3_key[i] > (PS2_KEY_BREAK | PS2_KEY_TYPEMATIC)) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "kind of key %#x", i);
        }
    }
    if (k->repeat_key == INPUT_KEY_COUNT) {
        timer_disarm(&k->repeat);
    }
    set_leds(k, k->leds);
    return true;
}

static const VMStateField ps2_keyboard_fields[] = {
    VMSTATE_STRUCT(port, Ps2Keyboard, vmstate_ps2_port),
    VMSTATE_UINT8(scan_set, Ps2Keyboard),
    VMSTATE_UINT8(command, Ps2Keyboard),
    VMSTATE_UINT8(leds, Ps2Keyboard),
    VMSTATE_UINT8(rate, Ps2Keyboard),
    VMSTATE_BOOL(scanning, Ps2Keyboard),
    VMSTATE_UINT8(modifiers, Ps2Keyboard),
    VMSTATE_UINT16(repeat_key, Ps2Keyboard),
    VMSTATE_BYTES(set3_key, Ps2Keyboard),
    VMSTATE_TIMER(repeat, Ps2Keyboard),
    VMSTATE_END(),
};
const VMStateDescription vmstate_ps2_keyboard = {
    .name = "ps2-keyboard",
    .version = 1,
    .minimum_version = 1,
    .post_load = keyboard_post_load,
    .fields = ps2_keyboard_fields,
};
