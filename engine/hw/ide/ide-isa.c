/*
 * One IDE channel of an ISA adapter: PIO only. ANSI X3.221, ATA-2.
 *
 * Ports   iobase .. +7 command block (0x1f0), ctrl control block (0x3f6)
 * Line    irq (14)
 */
#include "engine/hw/ide/ide.h"

#include "engine/core/error.h"

typedef struct ISAIDE {
    DeviceState parent;
    MemoryRegion command, control;
    IDEChannel *channel;
    Irq *irq;
    uint32_t iobase, ctrl, irq_number;
} ISAIDE;
OBJECT_DECLARE_TYPE(ISAIDE, DeviceClass, ISA_IDE, "isa-ide")

static void line_changed(void *opaque, int n, int level)
{
    irq_set(ISA_IDE(opaque)->irq, level);
}

static bool isa_ide_realize(DeviceState *dev, GError **error)
{
    ISAIDE *s = ISA_IDE(dev);

    if (!s->channel) {
        s->channel = ide_channel_new(dev, 0, error);
        if (!s->channel) {
            return false;
        }
        s->channel->irq = irq_new(line_changed, s, 0);
    }
    memory_region_finalize(&s->command);
    memory_region_finalize(&s->control);
    memory_region_init_io(&s->command, OBJECT(s), &ide_command_ops, s->channel, "ide-command", 8);
    memory_region_init_io(&s->control, OBJECT(s), &ide_control_ops, s->channel, "ide-control", 1);
    return device_map_io(dev, s->iobase, &s->command, error) &&
           device_map_io(dev, s->ctrl, &s->control, error);
}

static void isa_ide_reset(DeviceState *dev)
{
    ide_channel_reset(ISA_IDE(dev)->channel);
}

static void isa_ide_instance_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", &ISA_IDE(obj)->irq, 1);
}

static void isa_ide_finalize(Object *obj)
{
    ISAIDE *s = ISA_IDE(obj);

    memory_region_finalize(&s->command);
    memory_region_finalize(&s->control);
    object_unref(s->channel);
}

static const VMStateField isa_ide_fields[] = {
    VMSTATE_STRUCT_POINTER(channel, ISAIDE, vmstate_ide_channel),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_isa_ide = {
    .name = "isa-ide",
    .version = 1,
    .minimum_version = 1,
    .fields = isa_ide_fields,
};

static const Property isa_ide_properties[] = {
    DEFINE_PROP_UINT32("iobase", ISAIDE, iobase, 0x1f0, "port of the command block"),
    DEFINE_PROP_UINT32("ctrl", ISAIDE, ctrl, 0x3f6, "port of the control block"),
    DEFINE_PROP_UINT32("irq", ISAIDE, irq_number, 14, "its interrupt"),
};

static void isa_ide_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = isa_ide_realize;
    dc->reset = isa_ide_reset;
    dc->vmsd = &vmstate_isa_ide;
    dc->user_creatable = true;
    object_class_add_properties(klass, isa_ide_properties, G_N_ELEMENTS(isa_ide_properties));
}

static const TypeInfo isa_ide_info = {
    .name = "isa-ide",
    .parent = TYPE_ISA_DEVICE,
    .doc = "An IDE channel for two drives, without DMA",
    .instance_size = sizeof(ISAIDE),
    .instance_init = isa_ide_instance_init,
    .instance_finalize = isa_ide_finalize,
    .class_init = isa_ide_class_init,
};

static void register_isa_ide(void)
{
    type_register_static(&isa_ide_info);
}
type_init(register_isa_ide)
