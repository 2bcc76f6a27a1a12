/*
 * "pci-bridge": a PCI-to-PCI bridge.
 *
 * PCI-to-PCI Bridge Architecture Specification 1.2: header of type 1 (3.2), address ranges (4.3 to
 * 4.5), VGA (12), interrupt routing (9.1), bus reset (11). Configuration: `-device
 * pci-bridge,id=NAME`; its secondary bus is called NAME too (or pci.N) and takes devices by bus=.
 *
 * Not emulated: prefetching and posting (an access is passed on at once), discard timers, the ISA
 * enable bit (kept, without effect: no I/O range is left out), the hot-plug controller.
 */
#include "engine/hw/pci/pci-bridge.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci-priv.h"

#define CONTROL_WRITABLE                                                                     \
    (PCI_BRIDGE_CTL_PARITY | PCI_BRIDGE_CTL_SERR | PCI_BRIDGE_CTL_ISA | PCI_BRIDGE_CTL_VGA | \
     PCI_BRIDGE_CTL_VGA16 | PCI_BRIDGE_CTL_MABORT | PCI_BRIDGE_CTL_RESET | PCI_BRIDGE_CTL_FAST)

static PCIBridge *bridge_of(PCIDevice *dev)
{
    return (PCIBridge *)dev;
}

/* ---- windows ------------------------------------------------------------------------------- */

typedef struct Window {
    uint64_t base, limit; /* limit below base: closed */
} Window;

static Window io_window(const uint8_t *c)
{
    Window w = { (c[PCI_IO_BASE] & 0xf0u) << 8, (c[PCI_IO_LIMIT] & 0xf0u) << 8 | 0xfff };

    return w;
}

static Window memory_window(const uint8_t *c)
{
    Window w = { (uint64_t)(pci_get_word(c + PCI_MEMORY_BASE) & 0xfff0) << 16,
                 (uint64_t)(pci_get_word(c + PCI_MEMORY_LIMIT) & 0xfff0) << 16 | 0xfffff };

    return w;
}

static Window pref_window(const uint8_t *c)
{
    Window w = { (uint64_t)(pci_get_word(c + PCI_PREF_BASE) & 0xfff0) << 16 |
                     (uint64_t)pci_get_long(c + PCI_PREF_BASE_UPPER) << 32,
                 (uint64_t)(pci_get_word(c + PCI_PREF_LIMIT) & 0xfff0) << 16 | 0xfffff |
                     (uint64_t)pci_get_long(c + PCI_PREF_LIMIT_UPPER) << 32 };

    return w;
}

static void set_window(MemoryRegion *primary, MemoryRegion *window, Window w, bool on)
{
    on = on && w.base <= w.limit;
    if (!on) {
        memory_region_set_enabled(window, false);
        return;
    }
    /* A window over all of 2^64 bytes has no size that fits: its last byte stays out. */
    memory_region_set_size(window, MIN(w.limit - w.base, UINT64_MAX - 1) + 1);
    memory_region_set_alias_offset(window, w.base);
    memory_region_set_address(window, w.base);
    memory_region_set_enabled(window, true);
}

void pci_bridge_update(PCIDevice *dev)
{
    PCIBridge *br = bridge_of(dev);
    const uint8_t *c = dev->config;
    uint16_t command = pci_get_word(c + PCI_COMMAND);
    bool vga = pci_get_word(c + PCI_BRIDGE_CONTROL) & PCI_BRIDGE_CTL_VGA;
    bool io = command & PCI_COMMAND_IO, memory = command & PCI_COMMAND_MEMORY;

    if (!br->windows) {
        return;
    }
    memory_region_transaction_begin();
    set_window(dev->bus->io, &br->win_io, io_window(c), io);
    set_window(dev->bus->memory, &br->win_memory, memory_window(c), memory);
    set_window(dev->bus->memory, &br->win_pref, pref_window(c), memory);
    memory_region_set_enabled(&br->vga_memory, vga && memory);
    memory_region_set_enabled(&br->vga_io_low, vga && io);
    memory_region_set_enabled(&br->vga_io_high, vga && io);
    memory_region_transaction_commit();
}

static void make_window(PCIBridge *br, MemoryRegion *primary, MemoryRegion *window,
                        MemoryRegion *secondary, const char *name, uint64_t base, uint64_t size)
{
    memory_region_init_alias(window, OBJECT(br), name, secondary, base, size);
    memory_region_set_enabled(window, false);
    memory_region_add_subregion_overlap(primary, base, window, 1);
}

static void make_windows(PCIBridge *br)
{
    MemoryRegion *memory = br->parent.bus->memory, *io = br->parent.bus->io;

    memory_region_transaction_begin();
    make_window(br, io, &br->win_io, &br->io, "pci-bridge-io", 0, 0x1000);
    make_window(br, memory, &br->win_memory, &br->memory, "pci-bridge-mem", 0, 0x100000);
    make_window(br, memory, &br->win_pref, &br->memory, "pci-bridge-pref", 0, 0x100000);
    make_window(br, memory, &br->vga_memory, &br->memory, "pci-bridge-vga", 0xa0000, 0x20000);
    make_window(br, io, &br->vga_io_low, &br->io, "pci-bridge-vga-low", 0x3b0, 12);
    make_window(br, io, &br->vga_io_high, &br->io, "pci-bridge-vga-high", 0x3c0, 32);
    memory_region_transaction_commit();
    br->windows = true;
}

static void drop_windows(PCIBridge *br)
{
    MemoryRegion *windows[] = { &br->win_io,     &br->win_memory, &br->win_pref,
                                &br->vga_memory, &br->vga_io_low, &br->vga_io_high };

    memory_region_transaction_begin();
    for (unsigned i = 0; i < G_N_ELEMENTS(windows); i++) {
        if (windows[i]->container) {
            memory_region_del_subregion(windows[i]->container, windows[i]);
        }
    }
    memory_region_transaction_commit();
    br->windows = false;
}

/* ---- the header ---------------------------------------------------------------------------- */

void pci_bridge_init_config(PCIDevice *dev)
{
    uint8_t *c = dev->config, *w = dev->wmask;

    memset(w + PCI_PRIMARY_BUS, 0xff, 4);
    w[PCI_IO_BASE] = w[PCI_IO_LIMIT] = 0xf0;
    pci_set_word(w + PCI_MEMORY_BASE, 0xfff0);
    pci_set_word(w + PCI_MEMORY_LIMIT, 0xfff0);
    pci_set_word(w + PCI_PREF_BASE, 0xfff0);
    pci_set_word(w + PCI_PREF_LIMIT, 0xfff0);
    memset(w + PCI_PREF_BASE_UPPER, 0xff, 8);
    pci_set_word(w + PCI_BRIDGE_CONTROL, CONTROL_WRITABLE);
    pci_set_word(dev->w1cmask + PCI_SEC_STATUS, PCI_STATUS_W1C);
    pci_set_word(c + PCI_PREF_BASE, 1); /* 64 bits */
    pci_set_word(c + PCI_PREF_LIMIT, 1);
    dev->cmask[PCI_PREF_BASE] = dev->cmask[PCI_PREF_LIMIT] = 0x0f;
    dev->cmask[PCI_IO_BASE] = dev->cmask[PCI_IO_LIMIT] = 0x0f;
    pci_set_word(c + PCI_STATUS, PCI_STATUS_66MHZ | PCI_STATUS_FAST_BACK);
    pci_set_word(c + PCI_SEC_STATUS, PCI_STATUS_66MHZ | PCI_STATUS_FAST_BACK);
}

void pci_bridge_reset_config(PCIDevice *dev)
{
    uint8_t *c = dev->config;

    memset(c + PCI_PRIMARY_BUS, 0, 4);
    /* Closed: bases above limits. */
    c[PCI_IO_BASE] = 0xf0;
    c[PCI_IO_LIMIT] = 0;
    pci_set_word(c + PCI_MEMORY_BASE, 0xfff0);
    pci_set_word(c + PCI_MEMORY_LIMIT, 0);
    pci_set_word(c + PCI_PREF_BASE, 0xfff1);
    pci_set_word(c + PCI_PREF_LIMIT, 1);
    memset(c + PCI_PREF_BASE_UPPER, 0, 8);
    pci_set_word(c + PCI_BRIDGE_CONTROL, 0);
    pci_set_word(c + PCI_SEC_STATUS, pci_get_word(c + PCI_SEC_STATUS) & (uint16_t)~PCI_STATUS_W1C);
    pci_bridge_update(dev);
}

static void reset_device(PCIDevice *dev, void *opaque)
{
    device_reset(&dev->parent);
}

void pci_bridge_write_config(PCIDevice *dev, uint32_t addr, unsigned len)
{
    if (pci_config_touches(addr, len, PCI_COMMAND, 2) ||
        pci_config_touches(addr, len, PCI_IO_BASE, 2) ||
        pci_config_touches(addr, len, PCI_MEMORY_BASE, 20) ||
        pci_config_touches(addr, len, PCI_BRIDGE_CONTROL, 2)) {
        pci_bridge_update(dev);
    }
    if (pci_config_touches(addr, len, PCI_BRIDGE_CONTROL, 2) &&
        (pci_get_word(dev->config + PCI_BRIDGE_CONTROL) & PCI_BRIDGE_CTL_RESET)) {
        pci_bus_foreach(bridge_of(dev)->secondary, reset_device, NULL);
    }
}

/* ---- life cycle ---------------------------------------------------------------------------- */

void pci_bridge_finalize(PCIBridge *br)
{
    MemoryRegion *regions[] = { &br->win_io,     &br->win_memory,  &br->win_pref, &br->vga_memory,
                                &br->vga_io_low, &br->vga_io_high, &br->memory,   &br->io };

    for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++) {
        memory_region_finalize(regions[i]);
    }
}

bool pci_bridge_init(PCIDevice *dev, const char *bus_name, GError **error)
{
    PCIBridge *br = bridge_of(dev);

    pci_bridge_finalize(br); /* of an earlier life */
    memory_region_init(&br->memory, OBJECT(dev), "pci-bridge-secondary", MEMORY_REGION_MAX);
    memory_region_init(&br->io, OBJECT(dev), "pci-bridge-secondary-io", 0x10000);
    br->secondary = pci_secondary_bus_new(dev, bus_name, &br->memory, &br->io, error);
    if (!br->secondary) {
        return false;
    }
    make_windows(br);
    return true;
}

/* Devices on the secondary bus are below it in the tree and leave with it. */
void pci_bridge_exit(PCIDevice *dev)
{
    PCIBridge *br = bridge_of(dev);

    pci_bus_close(br->secondary);
    br->secondary = NULL;
    drop_windows(br);
}

/* ---- "pci-bridge" -------------------------------------------------------------------------- */

typedef struct PlainBridge {
    PCIBridge br;
} PlainBridge;
OBJECT_DECLARE_TYPE(PlainBridge, PCIDeviceClass, PLAIN_BRIDGE, TYPE_PCI_BRIDGE)

static const VMStateField plain_fields[] = { VMSTATE_PCI_DEVICE(br.parent, PlainBridge),
                                             VMSTATE_END() };
static const VMStateDescription vmstate_plain = {
    .name = TYPE_PCI_BRIDGE,
    .version = 1,
    .minimum_version = 1,
    .fields = plain_fields,
};

static bool plain_realize(PCIDevice *dev, GError **error)
{
    const char *name = dev->parent.id ? dev->parent.id : pci_name(dev);

    return pci_bridge_init(dev, name, error);
}

static void plain_finalize(Object *obj)
{
    pci_bridge_finalize(&PLAIN_BRIDGE(obj)->br);
}

static void plain_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = plain_realize;
    pc->exit = pci_bridge_exit;
    pc->vendor_id = PCI_VENDOR_REDHAT2;
    pc->device_id = 0x0001;
    pc->class_code = PCI_CLASS_BRIDGE_PCI;
    pc->is_bridge = true;
    DEVICE_CLASS(klass)->vmsd = &vmstate_plain;
}

static const TypeInfo plain_info = {
    .name = TYPE_PCI_BRIDGE,
    .parent = TYPE_PCI_DEVICE,
    .doc = "PCI-to-PCI bridge with a bus of its own behind it",
    .instance_size = sizeof(PlainBridge),
    .instance_finalize = plain_finalize,
    .class_init = plain_class_init,
};

static void register_bridge(void)
{
    type_register_static(&plain_info);
}
type_init(register_bridge)
