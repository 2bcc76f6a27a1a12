/*
 * "pvpanic": a port by which a guest says that it has panicked.
 *
 * pvpanic device specification (QEMU's documentation): one byte at an I/O port, 0x505. Reading
 * gives the events that the device knows; writing a bit reports the event: bit 0, the guest
 * panicked and needs attention; bit 1, it has loaded a crash kernel that goes on.
 *
 * Property on-panic says what follows the first: pause (default), shutdown, reset or none. Lua: the
 * port is a source like any other, `vm:pio{port=0x505, write=true}`.
 */
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/core/device.h"

#define TYPE_PVPANIC "pvpanic"

enum { PVPANIC_PANICKED = 1 << 0, PVPANIC_CRASH_LOADED = 1 << 1, PVPANIC_ALL = 3 };
enum { ON_PAUSE, ON_SHUTDOWN, ON_RESET, ON_NONE };
static const char *const on_panic_words[] = { "pause", "shutdown", "reset", "none", NULL };

typedef struct PvPanic {
    DeviceState parent;
    MemoryRegion io;
    uint32_t iobase;
    uint8_t events;
    int on_panic;
} PvPanic;
OBJECT_DECLARE_TYPE(PvPanic, DeviceClass, PVPANIC, TYPE_PVPANIC)

static uint64_t pvpanic_read(void *opaque, hwaddr addr, unsigned size)
{
    return ((PvPanic *)opaque)->events;
}

static void pvpanic_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PvPanic *s = opaque;
    Machine *m = s->parent.machine;

    data &= s->events;
    if (data & PVPANIC_CRASH_LOADED) {
        log_of(s, LOG_GUEST, "%s: the guest panicked, its crash kernel goes on",
               object_get_name(OBJECT(s)));
    }
    if (!(data & PVPANIC_PANICKED)) {
        return;
    }
    switch (s->on_panic) {
    case ON_PAUSE:
        machine_pause(m, "guest panicked");
        break;
    case ON_SHUTDOWN:
        machine_request_shutdown(m, "guest panicked", 1);
        break;
    case ON_RESET:
        machine_request_reset(m, "guest panicked");
        break;
    default:
        log_of(s, LOG_GUEST, "%s: the guest panicked", object_get_name(OBJECT(s)));
        break;
    }
}

static const MemoryRegionOps pvpanic_ops = {
    .read = pvpanic_read,
    .write = pvpanic_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static bool pvpanic_realize(DeviceState *dev, GError **error)
{
    PvPanic *s = PVPANIC(dev);

    if (s->events & ~PVPANIC_ALL) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: events %#x is not within 0..3",
                         object_get_name(OBJECT(dev)), s->events);
    }
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &pvpanic_ops, s, object_get_name(OBJECT(dev)), 1);
    return device_map_io(dev, s->iobase, &s->io, error);
}

static const Property pvpanic_properties[] = {
    DEFINE_PROP_UINT32("iobase", PvPanic, iobase, 0x505, "its I/O port"),
    DEFINE_PROP_UINT8("events", PvPanic, events, PVPANIC_ALL, "events that it knows"),
    DEFINE_PROP_ENUM("on-panic", PvPanic, on_panic, on_panic_words, ON_PAUSE,
                     "what a panic leads to"),
};

static void pvpanic_finalize(Object *obj)
{
    memory_region_finalize(&PVPANIC(obj)->io);
}

static void pvpanic_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = pvpanic_realize;
    dc->no_state = true;
    object_class_add_properties(klass, pvpanic_properties, G_N_ELEMENTS(pvpanic_properties));
}

static const TypeInfo pvpanic_info = {
    .name = TYPE_PVPANIC,
    .parent = TYPE_ISA_DEVICE,
    .doc = "Tells that the guest has panicked",
    .instance_size = sizeof(PvPanic),
    .instance_finalize = pvpanic_finalize,
    .class_init = pvpanic_class_init,
};

static void register_pvpanic(void)
{
    type_register_static(&pvpanic_info);
}
type_init(register_pvpanic)
