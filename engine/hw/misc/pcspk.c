/*
 * "isa-pcspk": system control port B of a PC, with the loudspeaker (IBM Personal System/2 Hardware
 * Interface Technical Reference, "System control port B"; Intel 82371SB data sheet, "NMISC").
 *
 *   port  0x61  bit 0  gate of PIT channel 2          bit 4  toggles with each memory refresh
 *               bit 1  speaker data                   bit 5  output of PIT channel 2
 *               bit 2  parity check off               bit 6  channel check (never)
 *               bit 3  channel check off              bit 7  parity error (never)
 *   line  output "sound": high while the speaker is driven
 *
 * Needs the PIT as a device. An accelerator that has the PIT inside serves this port too:
 * "accel-pcspk" is then what shows the tone, without a port, line or state of its own.
 * The tone is property "frequency": what a script or a sound back end asks for. Nothing plays it
 * here.
 */
#include "engine/core/error.h"
#include "engine/hw/core/device.h"
#include "engine/hw/timer/pit.h"

#define TYPE_PC_SPEAKER "isa-pcspk"

enum {
    PORTB_GATE2 = 0x01,
    PORTB_SPEAKER = 0x02,
    PORTB_WRITABLE = 0x0f,
    PORTB_REFRESH = 0x10,
    PORTB_OUT2 = 0x20,
};
#define REFRESH_NS 15085 /* between two refresh cycles: 18 counts of channel 1 */

typedef struct PCSpeaker {
    DeviceState parent;
    MemoryRegion io;
    Irq *sound;
    uint8_t value;
    Object *pit; /* property */
} PCSpeaker;
OBJECT_DECLARE_TYPE(PCSpeaker, DeviceClass, PC_SPEAKER, TYPE_PC_SPEAKER)

static DeviceState *speaker_pit(const PCSpeaker *s)
{
    return DEVICE(s->pit);
}

static uint64_t speaker_read(void *opaque, hwaddr addr, unsigned size)
{
    PCSpeaker *s = opaque;
    uint8_t value = s->value;

    value |= clock_now(device_clock(&s->parent)) / REFRESH_NS & 1 ? PORTB_REFRESH : 0;
    value |= pit_get_out(speaker_pit(s), 2) ? PORTB_OUT2 : 0;
    return value;
}

static void speaker_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PCSpeaker *s = opaque;
    bool sound = data & PORTB_SPEAKER;

    s->value = data & PORTB_WRITABLE;
    pit_set_gate(speaker_pit(s), 2, s->value & PORTB_GATE2);
    if (irq_level(s->sound) != sound) {
        irq_set(s->sound, sound);
    }
}

static const MemoryRegionOps speaker_ops = {
    .read = speaker_read,
    .write = speaker_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static bool get_frequency(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    PCSpeaker *s = PC_SPEAKER(obj);
    bool on = obj->realized && (s->value & PORTB_SPEAKER) && (s->value & PORTB_GATE2);

    *out = (PropValue){ .kind = PROP_UINT,
                        .uinteger = on ? pit_get_frequency(speaker_pit(s), 2) : 0 };
    return true;
}

static bool speaker_post_load(void *opaque, unsigned version, GError **error)
{
    PCSpeaker *s = opaque;

    if (s->value & ~PORTB_WRITABLE) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "reserved bits are set: %#x", s->value);
    }
    irq_restore_level(s->sound, !!(s->value & PORTB_SPEAKER));
    return true;
}

static const VMStateField speaker_fields[] = { VMSTATE_UINT8(value, PCSpeaker), VMSTATE_END() };
static const VMStateDescription vmstate_speaker = {
    .name = "isa-pcspk",
    .version = 1,
    .minimum_version = 1,
    .post_load = speaker_post_load,
    .fields = speaker_fields,
};

static bool speaker_realize(DeviceState *dev, GError **error)
{
    PCSpeaker *s = PC_SPEAKER(dev);

    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &speaker_ops, s, "port61", 1);
    return device_map_io(dev, 0x61, &s->io, error);
}

static void speaker_reset(DeviceState *dev)
{
    PCSpeaker *s = PC_SPEAKER(dev);

    s->value = 0;
    if (speaker_pit(s)->machine) {
        pit_set_gate(speaker_pit(s), 2, false);
    }
    irq_set(s->sound, 0);
}

static const Property speaker_properties[] = {
    { .name = "pit",
      .doc = "the timer whose channel 2 makes the tone",
      .kind = PROP_LINK,
      .flags = PROP_UNTIL_REALIZED | PROP_LINK_STRONG | PROP_REQUIRED,
      .link_type = TYPE_ISA_PIT,
      .offset = offsetof(PCSpeaker, pit) },
    { .name = "frequency",
      .doc = "of the tone that it makes now, in Hz; 0: none",
      .kind = PROP_UINT,
      .bits = 32,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_frequency },
};

static void speaker_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "sound", &PC_SPEAKER(obj)->sound, 1);
}

static void speaker_finalize(Object *obj)
{
    memory_region_finalize(&PC_SPEAKER(obj)->io);
}

static void speaker_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = speaker_realize;
    dc->reset = speaker_reset;
    dc->vmsd = &vmstate_speaker;
    object_class_add_properties(klass, speaker_properties, G_N_ELEMENTS(speaker_properties));
}

static const TypeInfo speaker_info = {
    .name = TYPE_PC_SPEAKER,
    .parent = TYPE_ISA_DEVICE,
    .doc = "System control port B: the PC's loudspeaker, gate and output of timer 2",
    .instance_size = sizeof(PCSpeaker),
    .instance_init = speaker_init,
    .instance_finalize = speaker_finalize,
    .class_init = speaker_class_init,
};

/* ---- "accel-pcspk" ------------------------------------------------------------------------- */

static bool get_accel_frequency(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    DeviceState *dev = DEVICE(obj);

    *out = (PropValue){ .kind = PROP_UINT,
                        .uinteger = dev->machine ? machine_speaker_frequency(dev->machine) : 0 };
    return true;
}

static const Property accel_speaker_properties[] = {
    { .name = "frequency",
      .doc = "of the tone that it makes now, in Hz; 0: none",
      .kind = PROP_UINT,
      .bits = 32,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_accel_frequency },
};

static void accel_speaker_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->no_state = true;
    object_class_add_properties(klass, accel_speaker_properties,
                                G_N_ELEMENTS(accel_speaker_properties));
}

static const TypeInfo accel_speaker_info = {
    .name = "accel-pcspk",
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's loudspeaker where the accelerator has the PIT",
    .instance_size = sizeof(DeviceState),
    .class_init = accel_speaker_class_init,
};

static void register_speaker(void)
{
    type_register_static(&speaker_info);
    type_register_static(&accel_speaker_info);
}
type_init(register_speaker)
