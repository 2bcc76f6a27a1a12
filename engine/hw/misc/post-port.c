/*
 * "isa-post": the diagnostics port of a PC: firmware writes the number of what it tests.
 *
 * Port 0x80 holds a byte (IBM PC AT Technical Reference: manufacturing checkpoint port; also an
 * unused DMA page register, so it reads back). Writing it is also how software waits for about a
 * microsecond: it costs a byte here. Its values are a source: `vm:pio{port=0x80, write=true}`.
 */
#include "engine/core/error.h"
#include "engine/hw/core/device.h"

#define TYPE_ISA_POST "isa-post"

typedef struct PostPort {
    DeviceState parent;
    MemoryRegion io;
    uint8_t value; /* atomic: written without the lock */
    uint32_t iobase;
} PostPort;
OBJECT_DECLARE_TYPE(PostPort, DeviceClass, ISA_POST, TYPE_ISA_POST)

static uint64_t post_read(void *opaque, hwaddr addr, unsigned size)
{
    return __atomic_load_n(&((PostPort *)opaque)->value, __ATOMIC_RELAXED);
}

static void post_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    __atomic_store_n(&((PostPort *)opaque)->value, (uint8_t)data, __ATOMIC_RELAXED);
}

static const MemoryRegionOps post_ops = {
    .read = post_read,
    .write = post_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static const VMStateField post_fields[] = { VMSTATE_UINT8(value, PostPort), VMSTATE_END() };
static const VMStateDescription vmstate_post = {
    .name = TYPE_ISA_POST,
    .version = 1,
    .minimum_version = 1,
    .fields = post_fields,
};

static bool post_realize(DeviceState *dev, GError **error)
{
    PostPort *s = ISA_POST(dev);

    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &post_ops, s, object_get_name(OBJECT(dev)), 1);
    memory_region_set_lockless(&s->io);
    return device_map_io(dev, s->iobase, &s->io, error);
}

static void post_reset(DeviceState *dev)
{
    post_write(dev, 0, 0, 1);
}

static const Property post_properties[] = {
    DEFINE_PROP_UINT32("iobase", PostPort, iobase, 0x80, "its I/O port"),
    DEFINE_PROP_UINT8("value", PostPort, value, 0, "what was last written"),
};

static void post_finalize(Object *obj)
{
    memory_region_finalize(&ISA_POST(obj)->io);
}

static void post_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = post_realize;
    dc->reset = post_reset;
    dc->vmsd = &vmstate_post;
    object_class_add_properties(klass, post_properties, G_N_ELEMENTS(post_properties));
}

static const TypeInfo post_info = {
    .name = TYPE_ISA_POST,
    .parent = TYPE_ISA_DEVICE,
    .doc = "Diagnostics port 0x80",
    .instance_size = sizeof(PostPort),
    .instance_finalize = post_finalize,
    .class_init = post_class_init,
};

static void register_post(void)
{
    type_register_static(&post_info);
}
type_init(register_post)
