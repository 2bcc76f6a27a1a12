/*
 * "debugcon": the debug console of Bochs and QEMU. A byte written to its port (0xe9) is printed; a
 * read gives a fixed value, by which guests find it. "isa-debugcon" is its name on command lines.
 */
#include "engine/chardev/chardev.h"
#include "engine/core/error.h"
#include "engine/hw/core/device.h"

#define TYPE_DEBUGCON "debugcon"

typedef struct DebugCon {
    DeviceState parent;
    MemoryRegion io;
    Chardev *chr; /* counted, while realized */
    /* properties */
    uint32_t iobase, readback;
    Object *chardev;
} DebugCon;
OBJECT_DECLARE_TYPE(DebugCon, DeviceClass, DEBUGCON, TYPE_DEBUGCON)

static uint64_t debugcon_read(void *opaque, hwaddr addr, unsigned size)
{
    DebugCon *s = opaque;

    return s->readback & 0xff;
}

static void debugcon_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    DebugCon *s = opaque;
    uint8_t byte = (uint8_t)data;

    chardev_write(s->chr, &byte, 1);
}

static const MemoryRegionOps debugcon_ops = {
    .read = debugcon_read,
    .write = debugcon_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* It is written to only: what the outside sends is taken and forgotten. */
static const ChardevHandlers debugcon_handlers = { 0 };

static bool debugcon_realize(DeviceState *dev, GError **error)
{
    DebugCon *s = DEBUGCON(dev);
    Chardev *chr = s->chardev ? CHARDEV(s->chardev) : NULL;

    if (s->readback > 0xff) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: readback %#x is not a byte",
                         object_get_name(OBJECT(dev)), s->readback);
    }
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &debugcon_ops, s, object_get_name(OBJECT(dev)), 1);
    if (!device_map_io(dev, s->iobase, &s->io, error)) {
        return false;
    }
    if (chr && !chardev_attach(chr, &debugcon_handlers, s, error)) {
        return false;
    }
    s->chr = object_ref(chr) ? chr : NULL;
    return true;
}

static void debugcon_unrealize(DeviceState *dev)
{
    DebugCon *s = DEBUGCON(dev);

    if (s->chr) {
        chardev_detach(s->chr);
        object_unref(s->chr);
        s->chr = NULL;
    }
}

static const Property debugcon_properties[] = {
    DEFINE_PROP_UINT32("iobase", DebugCon, iobase, 0xe9, "its I/O port"),
    DEFINE_PROP_UINT32("readback", DebugCon, readback, 0xe9, "what a read of the port gives"),
    DEFINE_PROP_LINK("chardev", DebugCon, chardev, TYPE_CHARDEV, "what prints the bytes"),
};

static void debugcon_finalize(Object *obj)
{
    memory_region_finalize(&DEBUGCON(obj)->io);
}

static void debugcon_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = debugcon_realize;
    dc->unrealize = debugcon_unrealize;
    dc->no_state = true;
    object_class_add_properties(klass, debugcon_properties, G_N_ELEMENTS(debugcon_properties));
}

static const TypeInfo types[] = {
    {
        .name = TYPE_DEBUGCON,
        .parent = TYPE_ISA_DEVICE,
        .doc = "Debug console at one I/O port",
        .instance_size = sizeof(DebugCon),
        .instance_finalize = debugcon_finalize,
        .class_init = debugcon_class_init,
    },
    {
        .name = "isa-debugcon",
        .parent = TYPE_DEBUGCON,
        .doc = "Debug console at one I/O port (debugcon by its other name)",
    },
};

static void register_types(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_types)
