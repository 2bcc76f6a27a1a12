/*
 * "isa-vga": the standard VGA on the ISA bus, for boards without PCI and for tests. Ports as in
 * vga-regs.c and vga-vbe.c, memory at a0000-bffff. `lfb` says where linear VBE modes have their
 * frame buffer (e0000000, where drivers of Bochs' card look for it); 0: nowhere, they are reached
 * through banks. Its BIOS (vgabios-isavga.bin) is the board's: option ROM memory at c0000.
 */
#include "engine/core/error.h"
#include "engine/hw/display/vga-priv.h"

typedef struct IsaVga {
    DeviceState parent;
    VgaCore vga;
    uint64_t lfb;
} IsaVga;
OBJECT_DECLARE_TYPE(IsaVga, DeviceClass, ISA_VGA, TYPE_VGA_ISA)

static bool isa_vga_realize(DeviceState *dev, GError **error)
{
    IsaVga *s = ISA_VGA(dev);
    bool ok;

    if (!vga_core_realize(&s->vga, dev, error)) {
        return false;
    }
    ok = device_map_memory(dev, VGA_WINDOW_BASE, &s->vga.window, 1, error) &&
         (!s->lfb || device_map_memory(dev, s->lfb, &s->vga.vram, 0, error));
    for (unsigned i = 0; ok && i < VGA_PORT_RANGES; i++) {
        ok = device_map_io(dev, s->vga.ports[i].port, &s->vga.ports[i].mr, error);
    }
    if (!ok) {
        vga_core_unrealize(&s->vga);
    }
    return ok;
}

static void isa_vga_unrealize(DeviceState *dev)
{
    vga_core_unrealize(&ISA_VGA(dev)->vga);
}

static void isa_vga_reset(DeviceState *dev)
{
    vga_core_reset(&ISA_VGA(dev)->vga);
}

static void isa_vga_finalize(Object *obj)
{
    vga_core_finalize(&ISA_VGA(obj)->vga);
}

static const VMStateField isa_vga_fields[] = {
    VMSTATE_STRUCT(vga, IsaVga, vmstate_vga_core),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_isa_vga = {
    .name = "isa-vga",
    .version = 1,
    .minimum_version = 1,
    .fields = isa_vga_fields,
};

static const Property isa_vga_properties[] = {
    VGA_CORE_PROPERTIES(IsaVga, vga),
    DEFINE_PROP_UINT64("lfb", IsaVga, lfb, 0xe0000000,
                       "where its frame buffer is in memory; 0: nowhere"),
};

static void isa_vga_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = isa_vga_realize;
    dc->unrealize = isa_vga_unrealize;
    dc->reset = isa_vga_reset;
    dc->vmsd = &vmstate_isa_vga;
    dc->user_creatable = true;
    object_class_add_properties(klass, isa_vga_properties, G_N_ELEMENTS(isa_vga_properties));
}

static const TypeInfo isa_vga_info = {
    .name = TYPE_VGA_ISA,
    .parent = TYPE_ISA_DEVICE,
    .doc = "Standard VGA with Bochs VBE on the ISA bus",
    .instance_size = sizeof(IsaVga),
    .instance_finalize = isa_vga_finalize,
    .class_init = isa_vga_class_init,
};

static void register_types(void)
{
    type_register_static(&isa_vga_info);
}
type_init(register_types)
