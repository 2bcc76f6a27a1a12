/*
 * "isa-debug-exit": a guest's way to end the emulator. Writing v to any of its ports ends the
 * machine with exit code (v << 1) | 1, so that 0 stays what only an orderly end gives. Reads are 0.
 *
 * On a command line QEMU's device of this name sits at port 0x501 unless told otherwise; test
 * guests tell it 0xf4, which is the default here.
 */
#include "engine/core/error.h"
#include "engine/hw/core/device.h"

#define TYPE_ISA_DEBUG_EXIT "isa-debug-exit"

typedef struct DebugExit {
    DeviceState parent;
    MemoryRegion io;
    uint32_t iobase, iosize; /* properties */
} DebugExit;
OBJECT_DECLARE_TYPE(DebugExit, DeviceClass, DEBUG_EXIT, TYPE_ISA_DEBUG_EXIT)

static uint64_t debug_exit_read(void *opaque, hwaddr addr, unsigned size)
{
    return 0;
}

static void debug_exit_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    DebugExit *s = opaque;
    uint32_t code = ((uint32_t)data << 1) | 1;
    g_autofree char *why = g_strdup_printf("isa-debug-exit, value %#x", (uint32_t)data);

    machine_request_shutdown(s->parent.machine, why, (int)code);
}

static const MemoryRegionOps debug_exit_ops = {
    .read = debug_exit_read,
    .write = debug_exit_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
};

static bool debug_exit_realize(DeviceState *dev, GError **error)
{
    DebugExit *s = DEBUG_EXIT(dev);

    if (s->iosize < 1 || s->iosize > 256) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: iosize %u is not in 1..256",
                         object_get_name(OBJECT(dev)), s->iosize);
    }
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &debug_exit_ops, s, object_get_name(OBJECT(dev)),
                          s->iosize);
    return device_map_io(dev, s->iobase, &s->io, error);
}

static const Property debug_exit_properties[] = {
    DEFINE_PROP_UINT32("iobase", DebugExit, iobase, 0xf4, "its first I/O port"),
    DEFINE_PROP_UINT32("iosize", DebugExit, iosize, 4, "how many ports it has"),
};

static void debug_exit_finalize(Object *obj)
{
    memory_region_finalize(&DEBUG_EXIT(obj)->io);
}

static void debug_exit_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = debug_exit_realize;
    dc->no_state = true;
    object_class_add_properties(klass, debug_exit_properties, G_N_ELEMENTS(debug_exit_properties));
}

static const TypeInfo debug_exit_info = {
    .name = TYPE_ISA_DEBUG_EXIT,
    .parent = TYPE_ISA_DEVICE,
    .doc = "Ends the machine with an exit code that the guest chooses",
    .instance_size = sizeof(DebugExit),
    .instance_finalize = debug_exit_finalize,
    .class_init = debug_exit_class_init,
};

static void register_debug_exit(void)
{
    type_register_static(&debug_exit_info);
}
type_init(register_debug_exit)
