/*
 * PCI: devices, buses, configuration space, BARs, INTx lines, DMA. See docs/pci.md.
 * MSI and MSI-X are in msi.h, host bridges in pci-host.h, PCI-to-PCI bridges in pci-bridge.h.
 *
 * All functions: engine lock. A device:
 *
 *     typedef struct Foo { PCIDevice parent; MemoryRegion mmio; … } Foo;
 *     static bool foo_realize(PCIDevice *pci, GError **error)
 *     {
 *         memory_region_init_io(&s->mmio, OBJECT(pci), &foo_ops, s, "foo", 0x1000);
 *         pci_register_bar(pci, 0, PCI_BAR_MEM32, &s->mmio);
 *         pci->config[PCI_INTERRUPT_PIN] = 1;
 *         return true;
 *     }
 *     class_init: PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass); pc->realize = foo_realize;
 *                 pc->vendor_id = …; pc->device_id = …; pc->class_code = …;
 *                 DEVICE_CLASS(klass)->vmsd = &vmstate_foo;
 *     fields:     VMSTATE_PCI_DEVICE(parent, Foo), …
 *
 * It sets PCIDeviceClass.realize, .exit and .reset instead of those of DeviceClass. Regions of BARs
 * are finalized in instance_finalize, as ever.
 */
#pragma once

#include "engine/hw/core/device.h"
#include "engine/hw/pci/pci-regs.h"

#define TYPE_PCI_DEVICE "pci-device"
#define TYPE_PCI_BUS    "pci-bus"

typedef struct PCIBus PCIBus;
typedef struct PCIDevice PCIDevice;

#define PCI_NUM_BARS    6
#define PCI_ROM_SLOT    6 /* the expansion ROM among the regions */
#define PCI_NUM_REGIONS 7
#define PCI_NUM_PINS    4
#define PCI_UNMAPPED    UINT64_MAX

typedef struct PCIRegion {
    MemoryRegion *memory; /* NULL: no such BAR */
    uint64_t size;        /* power of two */
    uint64_t addr;        /* where it is mapped, on its bus; PCI_UNMAPPED: nowhere */
    uint8_t type;         /* PCI_BAR_* */
} PCIRegion;

struct PCIDevice {
    DeviceState parent;
    Object *bus_link;   /* property "bus": NULL means the machine's first */
    char *addr;         /* property "addr": "slot" or "slot.function", hexadecimal */
    char *romfile;      /* property: NULL means the class' own; "" none */
    int32_t bootindex;  /* property: place in the boot order; -1: not named there */
    bool multifunction; /* property: other functions may follow in this slot */
    bool rombar;        /* property: the option ROM is in a BAR */

    PCIBus *bus; /* from realize on */
    int devfn;
    uint32_t config_size;
    /* config_size bytes each, from realize on: the registers; bits that software may write; bits
     * that it clears by writing ones; bits that never change (a saved state that differs there is
     * refused); bytes that belong to a capability or the header. */
    uint8_t *config, *wmask, *w1cmask, *cmask, *used;
    PCIRegion regions[PCI_NUM_REGIONS];
    MemoryRegion rom;
    bool has_rom;
    uint8_t irq_state; /* what the device drives, a bit a pin; INTx disable not yet applied */
    uint8_t irq_sent;  /* what the bus was told */
    uint8_t msi_cap, msix_cap; /* offset of the capability; 0: none */
    struct PCIMsix *msix;
};

typedef struct PCIDeviceClass {
    DeviceClass parent_class;
    uint16_t vendor_id, device_id;
    uint16_t subsystem_vendor_id, subsystem_id; /* both 0: the emulated board's (1af4:1100) */
    uint8_t revision;
    uint32_t class_code; /* 24 bits */
    bool is_bridge;      /* header type 1 */
    bool is_express;     /* 4 KiB of configuration space */
    const char *romfile; /* default option ROM, a file name in the firmware folders; may be NULL */

    /* `config` is filled in by the class already; the bus does not show the device yet. On failure
     * it has undone what it did. */
    bool (*realize)(PCIDevice *dev, GError **error);
    void (*exit)(PCIDevice *dev);  /* undoes realize; may be NULL */
    void (*reset)(PCIDevice *dev); /* after the configuration space was reset; may be NULL */
    /* NULL: pci_default_config_read/write, which an own one calls (first, or at its end).
     * `addr` + `len` never leave the space; len is 1, 2 or 4. */
    uint32_t (*config_read)(PCIDevice *dev, uint32_t addr, unsigned len);
    void (*config_write)(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len);
} PCIDeviceClass;
OBJECT_DECLARE_TYPE(PCIDevice, PCIDeviceClass, PCI_DEVICE, TYPE_PCI_DEVICE)

static inline const char *pci_name(const PCIDevice *dev)
{
    return object_get_name(&dev->parent.parent);
}

/* ---- configuration space ----------------------------------------------------------------- */

static inline uint16_t pci_get_word(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t pci_get_long(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline void pci_set_word(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void pci_set_long(uint8_t *p, uint32_t v)
{
    pci_set_word(p, (uint16_t)v);
    pci_set_word(p + 2, (uint16_t)(v >> 16));
}

uint32_t pci_default_config_read(PCIDevice *dev, uint32_t addr, unsigned len);
void pci_default_config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len);
/* Whether [addr, addr+len) touches [first, first+n): for config_write overrides. */
static inline bool pci_config_touches(uint32_t addr, unsigned len, uint32_t first, unsigned n)
{
    return addr < first + n && first < addr + len;
}

/* BAR n (0-5; a 64-bit one takes n+1 too) shows `memory`, whose size is a power of two, at least 4
 * (I/O, at most 256 bytes by the specification, more is allowed here) or 16 bytes. From realize. */
void pci_register_bar(PCIDevice *dev, unsigned n, uint8_t type, MemoryRegion *memory);
/* Undoes it, for regions that go before their device does. */
void pci_unregister_bar(PCIDevice *dev, unsigned n);
uint64_t pci_bar_address(const PCIDevice *dev, unsigned n); /* PCI_UNMAPPED while it is nowhere */

/* The offset of a new capability of `size` bytes with this ID, first in the list; `offset` 0: the
 * first free place. 0 + error when there is none. Its bytes are 0 and read-only but for the ID. */
uint8_t pci_add_capability(PCIDevice *dev, uint8_t id, uint8_t offset, uint8_t size,
                           GError **error);
uint8_t pci_find_capability(const PCIDevice *dev, uint8_t id); /* 0: none */

/* ---- interrupts, DMA --------------------------------------------------------------------- */

/* The INTx# line that PCI_INTERRUPT_PIN names; level. Nothing without a pin. */
void pci_set_irq(PCIDevice *dev, int level);
/* The same as a line to hand to a device core; the caller unrefs it (in exit). */
Irq *pci_irq_line(PCIDevice *dev);

/* Where the device's own accesses go: the machine's memory while it (and each bridge above it) may
 * be bus master, else a space in which nothing answers. Asked anew for each transfer. */
AddressSpace *pci_dma_space(PCIDevice *dev);
MemTxAttrs pci_dma_attrs(const PCIDevice *dev);
MemTxResult pci_dma_read(PCIDevice *dev, hwaddr addr, void *buf, uint64_t len);
MemTxResult pci_dma_write(PCIDevice *dev, hwaddr addr, const void *buf, uint64_t len);

/* Bus, device, function as a requester. */
uint16_t pci_requester(const PCIDevice *dev);

/* ---- buses ------------------------------------------------------------------------------- */

typedef void (*PCISetIrqFn)(void *opaque, int line, int level);
/* The line (0 …) of the bus on which pin (0-3) of devfn arrives. */
typedef int (*PCIMapIrqFn)(void *opaque, int devfn, int pin);

/* A root bus below `owner` (a host bridge) as `name`; BARs are mapped into `memory` and `io`. */
PCIBus *pci_root_bus_new(DeviceState *owner, const char *name, MemoryRegion *memory,
                         MemoryRegion *io, GError **error);
/* What the lines of a root bus lead to; lines of several devices are OR-ed. n_lines <= 32. */
void pci_bus_set_irqs(PCIBus *bus, PCISetIrqFn set, PCIMapIrqFn map, void *opaque, int n_lines);
/* Levels are sent again, after routing changed. */
void pci_bus_update_irqs(PCIBus *bus);
int pci_bus_line_level(const PCIBus *bus, int line);
PCIDevice *pci_bus_device(const PCIBus *bus, int devfn); /* NULL: none */
PCIBus *pci_bus_parent(const PCIBus *bus);               /* NULL: root */
PCIDevice *pci_bus_bridge(const PCIBus *bus);            /* what it is behind; NULL: root */
uint8_t pci_bus_number(const PCIBus *bus);
MemoryRegion *pci_bus_memory(const PCIBus *bus);
MemoryRegion *pci_bus_io(const PCIBus *bus);
/* All devices of the bus in order of devfn; not those behind its bridges. */
void pci_bus_foreach(PCIBus *bus, void (*fn)(PCIDevice *dev, void *opaque), void *opaque);
/* The bus with this number at or below `root`; NULL. */
PCIBus *pci_find_bus(PCIBus *root, uint8_t number);
/* The first root bus of a machine; NULL: none. */
PCIBus *pci_machine_bus(Machine *m);

/* Configuration access by number, as host bridges make them: all ones where nothing is. */
uint32_t pci_config_access_read(PCIBus *root, uint8_t bus, uint8_t devfn, uint32_t addr,
                                unsigned len);
void pci_config_access_write(PCIBus *root, uint8_t bus, uint8_t devfn, uint32_t addr,
                             uint32_t value, unsigned len);

/* ---- saved state ------------------------------------------------------------------------- */

extern const VMStateDescription vmstate_pci_device;
#define VMSTATE_PCI_DEVICE(f, S) VMSTATE_STRUCT(f, S, vmstate_pci_device)
