/*
 * "VGA": the standard VGA on PCI, 1234:1111, as Bochs and QEMU have it (docs/specs/standard-vga.txt
 * there).
 *
 *   BAR 0  video memory, prefetchable     BAR 2  4 KiB of registers (vga-vbe.c)
 *   ROM    the VGA BIOS: vgabios-stdvga.bin of SeaBIOS
 *   3b4-3da, 1ce-1d0, a0000-bffff: as every VGA, on the bus it is on
 *
 * Not emulated: the ports and a0000 answer whatever the command register says, so that guests that
 * never set it (and they are common) have a screen; there is no interrupt.
 */
#include "engine/core/error.h"
#include "engine/hw/display/vga-priv.h"
#include "engine/hw/pci/pci.h"

typedef struct VgaPci {
    PCIDevice parent;
    VgaCore vga;
} VgaPci;
OBJECT_DECLARE_TYPE(VgaPci, PCIDeviceClass, VGA_PCI, TYPE_VGA_PCI)

static void take_out(MemoryRegion *mr)
{
    if (mr->container) {
        memory_region_del_subregion(mr->container, mr);
    }
}

static void unmap(VgaPci *s)
{
    memory_region_transaction_begin();
    for (unsigned i = 0; i < VGA_PORT_RANGES; i++) {
        take_out(&s->vga.ports[i].mr);
    }
    take_out(&s->vga.window);
    memory_region_transaction_commit();
}

static bool vga_pci_realize(PCIDevice *pci, GError **error)
{
    VgaPci *s = VGA_PCI(pci);
    bool ok;

    if (!vga_core_realize(&s->vga, DEVICE(pci), error)) {
        return false;
    }
    memory_region_transaction_begin();
    ok = memory_region_add_subregion_checked(pci_bus_memory(pci->bus), VGA_WINDOW_BASE,
                                             &s->vga.window, 1, false, error);
    for (unsigned i = 0; ok && i < VGA_PORT_RANGES; i++) {
        VgaPorts *p = &s->vga.ports[i];

        ok = memory_region_add_subregion_checked(pci_bus_io(pci->bus), p->port, &p->mr, 0, false,
                                                 error);
    }
    if (!ok) {
        unmap(s);
    }
    memory_region_transaction_commit();
    if (!ok) {
        vga_core_unrealize(&s->vga);
        return false;
    }
    pci_register_bar(pci, 0, PCI_BAR_MEM32 | PCI_BAR_PREFETCH, &s->vga.vram);
    pci_register_bar(pci, 2, PCI_BAR_MEM32, &s->vga.mmio);
    return true;
}

static void vga_pci_exit(PCIDevice *pci)
{
    VgaPci *s = VGA_PCI(pci);

    unmap(s);
    vga_core_unrealize(&s->vga);
}

static void vga_pci_reset(PCIDevice *pci)
{
    vga_core_reset(&VGA_PCI(pci)->vga);
}

static void vga_pci_finalize(Object *obj)
{
    vga_core_finalize(&VGA_PCI(obj)->vga);
}

static const VMStateField vga_pci_fields[] = {
    VMSTATE_PCI_DEVICE(parent, VgaPci),
    VMSTATE_STRUCT(vga, VgaPci, vmstate_vga_core),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_vga_pci = {
    .name = "VGA",
    .version = 1,
    .minimum_version = 1,
    .fields = vga_pci_fields,
};

static const Property vga_pci_properties[] = {
    VGA_CORE_PROPERTIES(VgaPci, vga),
};

static void vga_pci_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = vga_pci_realize;
    pc->exit = vga_pci_exit;
    pc->reset = vga_pci_reset;
    pc->vendor_id = 0x1234;
    pc->device_id = 0x1111;
    pc->revision = 2;
    pc->class_code = 0x030000;
    pc->romfile = "vgabios-stdvga.bin";
    DEVICE_CLASS(klass)->vmsd = &vmstate_vga_pci;
    DEVICE_CLASS(klass)->user_creatable = true;
    object_class_add_properties(klass, vga_pci_properties, G_N_ELEMENTS(vga_pci_properties));
}

static const TypeInfo vga_pci_info = {
    .name = TYPE_VGA_PCI,
    .parent = TYPE_PCI_DEVICE,
    .doc = "Standard VGA with Bochs VBE",
    .instance_size = sizeof(VgaPci),
    .instance_finalize = vga_pci_finalize,
    .class_init = vga_pci_class_init,
};

static void register_types(void)
{
    type_register_static(&vga_pci_info);
}
type_init(register_types)
