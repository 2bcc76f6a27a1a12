/*
 * "port92": system control port A of PS/2 and later PCs, one byte at I/O port 0x92 (Intel ICH data
 * sheets: "PORT92, Fast A20 and Init Register").
 *
 *   bit 0  INIT_NOW: going from 0 to 1 resets the processor
 *   bit 1  ALT_A20_GATE: level of the line "a20"
 *
 * The other bits read 0. Not emulated: INIT# keeps memory controllers and caches, a reset of the
 * machine does not; guests that use the port to leave protected mode on an 80286 are long gone.
 */
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/core/device.h"

#define TYPE_PORT92 "port92"

enum { PORT92_INIT_NOW = 1 << 0, PORT92_ALT_A20 = 1 << 1 };
#define PORT92_MASK (PORT92_INIT_NOW | PORT92_ALT_A20)

typedef struct Port92 {
    DeviceState parent;
    MemoryRegion io;
    Irq *a20;
    uint8_t value;
    uint32_t iobase; /* property */
} Port92;
OBJECT_DECLARE_TYPE(Port92, DeviceClass, PORT92, TYPE_PORT92)

static uint64_t port92_read(void *opaque, hwaddr addr, unsigned size)
{
    Port92 *s = opaque;

    return s->value;
}

static void port92_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Port92 *s = opaque;
    uint8_t old = s->value;

    if (data & ~(uint64_t)PORT92_MASK) {
        log_of(s, LOG_GUEST, "port92: reserved bits set: %#x", (unsigned)data);
    }
    s->value = data & PORT92_MASK;
    if ((old ^ s->value) & PORT92_ALT_A20) {
        irq_set(s->a20, !!(s->value & PORT92_ALT_A20));
    }
    if (~old & s->value & PORT92_INIT_NOW) {
        machine_request_reset(s->parent.machine, "port 92 fast reset");
    }
}

static const MemoryRegionOps port92_ops = {
    .read = port92_read,
    .write = port92_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static bool port92_post_load(void *opaque, unsigned version, GError **error)
{
    Port92 *s = opaque;

    if (s->value & ~PORT92_MASK) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "reserved bits are set: %#x", s->value);
    }
    return true;
}

static const VMStateField port92_fields[] = { VMSTATE_UINT8(value, Port92), VMSTATE_END() };
static const VMStateDescription vmstate_port92 = {
    .name = "port92",
    .version = 1,
    .minimum_version = 1,
    .post_load = port92_post_load,
    .fields = port92_fields,
};

static bool port92_realize(DeviceState *dev, GError **error)
{
    Port92 *s = PORT92(dev);

    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &port92_ops, s, object_get_name(OBJECT(dev)), 1);
    return device_map_io(dev, s->iobase, &s->io, error);
}

static void port92_reset(DeviceState *dev)
{
    Port92 *s = PORT92(dev);

    s->value = 0;
    irq_set(s->a20, 0);
}

static const Property port92_properties[] = {
    DEFINE_PROP_UINT32("iobase", Port92, iobase, 0x92, "its I/O port"),
};

static void port92_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "a20", &PORT92(obj)->a20, 1);
}

static void port92_finalize(Object *obj)
{
    memory_region_finalize(&PORT92(obj)->io);
}

static void port92_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = port92_realize;
    dc->reset = port92_reset;
    dc->vmsd = &vmstate_port92;
    object_class_add_properties(klass, port92_properties, G_N_ELEMENTS(port92_properties));
}

static const TypeInfo port92_info = {
    .name = TYPE_PORT92,
    .parent = TYPE_ISA_DEVICE,
    .doc = "System control port A: fast A20 gate and fast reset",
    .instance_size = sizeof(Port92),
    .instance_init = port92_init,
    .instance_finalize = port92_finalize,
    .class_init = port92_class_init,
};

static void register_port92(void)
{
    type_register_static(&port92_info);
}
type_init(register_port92)
