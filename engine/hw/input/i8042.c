/*
 * "i8042": the keyboard controller of a PS/2 compatible PC, with its keyboard and mouse (IBM
 * Personal System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
 * Controller"; Intel UPI-41/42 for the parts below it).
 *
 *   ports  0x60  output buffer, data to the devices and arguments
 *          0x64  status, commands
 *   lines  outputs "kbd-irq" (line 1 of a PC), "aux-irq" (line 12), "a20", "key" (a pulse as a key
 *          goes down, whatever the controller does with it: what wakes a machine)
 *
 * The lines are high while the output buffer holds a byte of that device. Answers appear at once;
 * bytes that nobody asked for (scan codes, packets) follow each other after property `throttle`, as
 * on a wire, so that a handler that reads port 0x60 twice sees the same byte twice.
 *
 * Not emulated: the password (commands A4 to A6 say that there is none), the diagnostic dump, and
 * pulses on pins other than the reset.
 */
#include "engine/hw/input/i8042-priv.h"

#include "engine/core/error.h"
#include "engine/core/units.h"

enum {
    STATUS_OBF = 0x01,
    STATUS_SYS = 0x04,
    STATUS_CMD = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20,
    STATUS_TIMEOUT = 0x40,
};
/* ---- translation --------------------------------------------------------------------------- */

uint8_t i8042_translate(uint8_t code)
{
    static const uint8_t table[0x85] = {
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
        0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
        0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
        0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
        0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
        0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
        0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
        0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
        0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, 0x80, 0x81, 0x82, 0x41, 0x54,
    };

    return code < sizeof(table) ? table[code] : code;
}

/* ---- the output buffer --------------------------------------------------------------------- */

static void update_lines(I8042State *s)
{
    bool kbd = s->source != SOURCE_NONE && !s->aux && s->ram[CTR] & CTR_KBD_INT;
    bool aux = s->source != SOURCE_NONE && s->aux && s->ram[CTR] & CTR_AUX_INT;

    if (irq_level(s->kbd_irq) != kbd) {
        irq_set(s->kbd_irq, kbd);
    }
    if (irq_level(s->aux_irq) != aux) {
        irq_set(s->aux_irq, aux);
    }
}

static void put_output(I8042State *s, uint8_t source, uint8_t byte, bool aux, bool timeout)
{
    s->source = source;
    s->output = byte;
    s->aux = aux;
    s->timeout = timeout;
}

/* false: it was a prefix, which the translation keeps to itself. */
static bool put_scan_code(I8042State *s, uint8_t byte)
{
    if (s->ram[CTR] & CTR_TRANSLATE) {
        if (byte == 0xf0) {
            s->break_prefix = true;
            return false;
        }
        byte = i8042_translate(byte);
        byte |= s->break_prefix ? 0x80 : 0;
        s->break_prefix = false;
    }
    put_output(s, SOURCE_KBD, byte, false, false);
    return true;
}

static bool port_ready(const I8042State *s, const Ps2Port *p, uint8_t off)
{
    return !(s->ram[CTR] & off) && !ps2_port_empty(p) &&
           !(ps2_port_unasked(p) && timer_armed(&s->throttle_timer));
}

static bool fill_output(I8042State *s)
{
    if (s->reply_count) {
        I8042Reply r = s->reply[0];

        s->reply_count--;
        for (unsigned i = 0; i < s->reply_count; i++) {
            s->reply[i] = s->reply[i + 1];
        }
        put_output(s, SOURCE_CONTROLLER, r.byte, r.aux, r.timeout);
        return true;
    }
    while (port_ready(s, &s->kbd.port, CTR_KBD_OFF)) {
        if (put_scan_code(s, ps2_port_take(&s->kbd.port))) {
            return true;
        }
    }
    if (s->has_mouse && port_ready(s, &s->mouse.port, CTR_AUX_OFF)) {
        put_output(s, SOURCE_AUX, ps2_port_take(&s->mouse.port), true, false);
        ps2_mouse_taken(&s->mouse);
        return true;
    }
    return false;
}

/* Gives the guest the next byte, if there is room for it. Bytes that the devices add meanwhile are
 * seen by the loop that runs already. */
static void i8042_update(I8042State *s)
{
    if (s->working) {
        return;
    }
    s->working = true;
    if (s->source == SOURCE_NONE) {
        fill_output(s);
    }
    s->working = false;
    update_lines(s);
}

static void port_changed(void *opaque)
{
    i8042_update(opaque);
}

static void throttle_timer(void *opaque)
{
    i8042_update(opaque);
}

/* ---- registers ----------------------------------------------------------------------------- */

static void notify_input(I8042State *s)
{
    input_changed(s->kbd.input);
}

static MemTxResult data_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    I8042State *s = opaque;
    uint8_t source = s->source;

    *data = s->output;
    if (attrs.debug || source == SOURCE_NONE) {
        return MEMTX_OK;
    }
    s->source = SOURCE_NONE;
    s->timeout = false;
    update_lines(s); /* low first: an edge for the next byte */
    if ((source == SOURCE_KBD || source == SOURCE_AUX) && s->throttle_us) {
        timer_arm(&s->throttle_timer,
                  clock_now(device_clock(&s->parent)) + s->throttle_us * NS_PER_US);
    }
    i8042_update(s);
    if (source != SOURCE_CONTROLLER) {
        notify_input(s);
    }
    return MEMTX_OK;
}

static MemTxResult data_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    I8042State *s = opaque;

    s->last_was_command = false;
    if (s->command) {
        i8042_argument(s, (uint8_t)data);
    } else {
        i8042_set_ctr_bit(s, CTR_KBD_OFF, false);
        s->break_prefix = false;
        ps2_keyboard_write(&s->kbd, (uint8_t)data);
    }
    i8042_update(s);
    return MEMTX_OK;
}

static uint64_t status_read(void *opaque, hwaddr addr, unsigned size)
{
    I8042State *s = opaque;
    uint8_t value = (uint8_t)(s->ram[CTR] & CTR_SYS ? STATUS_SYS : 0) | STATUS_UNLOCKED;

    value |= s->last_was_command ? STATUS_CMD : 0;
    value |= s->source != SOURCE_NONE ? STATUS_OBF : 0;
    value |= s->source != SOURCE_NONE && s->aux ? STATUS_AUX : 0;
    value |= s->timeout ? STATUS_TIMEOUT : 0;
    return s->polling ? (value & 0x0f) | (s->polled & 0xf0) : value;
}

static void command_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    I8042State *s = opaque;

    s->last_was_command = true;
    i8042_command(s, (uint8_t)data);
    i8042_update(s);
}

static const MemoryRegionOps data_ops = {
    .read_attrs = data_read,
    .write_attrs = data_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};
static const MemoryRegionOps command_ops = {
    .read = status_read,
    .write = command_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool i8042_post_load(void *opaque, unsigned version, GError **error)
{
    I8042State *s = opaque;

    if (s->source > SOURCE_AUX || s->reply_count > REPLIES || s->ram[CTR] & CTR_RESERVED ||
        (s->command && !i8042_takes_argument(s->command)) ||
        s->output_port & ~(OUT_RESET | OUT_A20)) {
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "the keyboard controller is in an impossible state");
    }
    irq_restore_level(s->kbd_irq, s->source != SOURCE_NONE && !s->aux && s->ram[CTR] & CTR_KBD_INT);
    irq_restore_level(s->aux_irq, s->source != SOURCE_NONE && s->aux && s->ram[CTR] & CTR_AUX_INT);
    irq_restore_level(s->a20, !!(s->output_port & OUT_A20));
    return true;
}

static const VMStateField i8042_reply_fields[] = {
    VMSTATE_UINT8(byte, I8042Reply),
    VMSTATE_BOOL(aux, I8042Reply),
    VMSTATE_BOOL(timeout, I8042Reply),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_i8042_reply = {
    .name = "i8042-reply",
    .version = 1,
    .minimum_version = 1,
    .fields = i8042_reply_fields,
};
static const VMStateField i8042_fields[] = {
    VMSTATE_STRUCT(kbd, I8042State, vmstate_ps2_keyboard),
    VMSTATE_STRUCT(mouse, I8042State, vmstate_ps2_mouse),
    VMSTATE_TIMER(throttle_timer, I8042State),
    VMSTATE_BYTES(ram, I8042State),
    VMSTATE_UINT8(command, I8042State),
    VMSTATE_UINT8(output, I8042State),
    VMSTATE_UINT8(source, I8042State),
    VMSTATE_BOOL(aux, I8042State),
    VMSTATE_BOOL(timeout, I8042State),
    VMSTATE_BOOL(last_was_command, I8042State),
    VMSTATE_BOOL(break_prefix, I8042State),
    VMSTATE_BOOL(polling, I8042State),
    VMSTATE_UINT8(polled, I8042State),
    VMSTATE_UINT8(output_port, I8042State),
    VMSTATE_STRUCT_ARRAY(reply, I8042State, vmstate_i8042_reply),
    VMSTATE_UINT32(reply_count, I8042State),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_i8042 = {
    .name = "i8042",
    .version = 1,
    .minimum_version = 1,
    .post_load = i8042_post_load,
    .fields = i8042_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static void key_pressed(void *opaque)
{
    I8042State *s = opaque;

    irq_raise(s->key);
    irq_lower(s->key);
}

static bool i8042_realize(DeviceState *dev, GError **error)
{
    I8042State *s = I8042(dev);
    Input *input = input_of(OBJECT(dev->machine));

    memory_region_finalize(&s->io_data); /* of an earlier life */
    memory_region_finalize(&s->io_command);
    memory_region_init_io(&s->io_data, OBJECT(dev), &data_ops, s, "i8042-data", 1);
    memory_region_init_io(&s->io_command, OBJECT(dev), &command_ops, s, "i8042-command", 1);
    if (!device_map_io(dev, 0x60, &s->io_data, error) ||
        !device_map_io(dev, 0x64, &s->io_command, error)) {
        return false;
    }
    timer_setup(&s->throttle_timer, device_clock(dev), throttle_timer, s);
    s->kbd.port.changed = s->mouse.port.changed = port_changed;
    s->kbd.port.opaque = s->mouse.port.opaque = s;
    s->kbd.pressed = key_pressed;
    ps2_keyboard_realize(&s->kbd, input, device_clock(dev));
    if (s->has_mouse) {
        ps2_mouse_realize(&s->mouse, input, device_clock(dev));
    } else {
        timer_setup(&s->mouse.sample, device_clock(dev), throttle_timer, s);
    }
    return true;
}

static void i8042_unrealize(DeviceState *dev)
{
    I8042State *s = I8042(dev);

    timer_disarm(&s->throttle_timer);
    timer_disarm(&s->mouse.sample);
    ps2_keyboard_unrealize(&s->kbd);
    ps2_mouse_unrealize(&s->mouse);
}

/* As firmware would leave the command byte: guests without any have keys and their interrupts. */
static void i8042_reset(DeviceState *dev)
{
    I8042State *s = I8042(dev);

    s->source = SOURCE_NONE;
    s->output = s->command = s->polled = 0;
    s->aux = s->timeout = s->last_was_command = s->break_prefix = s->polling = false;
    s->reply_count = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(s->ram); i++) {
        s->ram[i] = 0;
    }
    s->ram[CTR] = CTR_KBD_INT | CTR_AUX_INT | CTR_TRANSLATE;
    s->output_port = OUT_RESET | OUT_A20;
    timer_disarm(&s->throttle_timer);
    ps2_keyboard_reset(&s->kbd);
    ps2_mouse_reset(&s->mouse);
    irq_set(s->a20, 1);
    irq_set(s->kbd_irq, 0);
    irq_set(s->aux_irq, 0);
    notify_input(s);
}

static const Property i8042_properties[] = {
    DEFINE_PROP_UINT32("throttle", I8042State, throttle_us, 100,
                       "microseconds between two bytes that the guest did not ask for"),
    DEFINE_PROP_BOOL("mouse", I8042State, has_mouse, true, "a mouse is plugged in"),
};

static void i8042_init(Object *obj)
{
    I8042State *s = I8042(obj);

    device_init_irq_out(DEVICE(obj), "kbd-irq", &s->kbd_irq, 1);
    device_init_irq_out(DEVICE(obj), "aux-irq", &s->aux_irq, 1);
    device_init_irq_out(DEVICE(obj), "a20", &s->a20, 1);
    device_init_irq_out(DEVICE(obj), "key", &s->key, 1);
    s->kbd.repeat.expire = s->mouse.sample.expire = -1;
}

static void i8042_finalize(Object *obj)
{
    memory_region_finalize(&I8042(obj)->io_data);
    memory_region_finalize(&I8042(obj)->io_command);
}

static void i8042_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = i8042_realize;
    dc->unrealize = i8042_unrealize;
    dc->reset = i8042_reset;
    dc->vmsd = &vmstate_i8042;
    object_class_add_properties(klass, i8042_properties, G_N_ELEMENTS(i8042_properties));
}

static const TypeInfo i8042_info = {
    .name = TYPE_I8042,
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's keyboard controller with a PS/2 keyboard and mouse",
    .instance_size = sizeof(I8042State),
    .instance_init = i8042_init,
    .instance_finalize = i8042_finalize,
    .class_init = i8042_class_init,
};

static void register_i8042(void)
{
    type_register_static(&i8042_info);
}
type_init(register_i8042)
