/* What the files of engine/hw/pci share. */
#pragma once

#include "engine/hw/pci/pci.h"

struct PCIBus {
    Object parent;
    DeviceState *owner; /* counted: the bus shows regions that are in it */
    PCIDevice *bridge;  /* NULL: a root bus. Not counted: it owns the bus */
    MemoryRegion *memory, *io;
    PCIDevice *devices[256];
    /* Root buses only. */
    PCISetIrqFn set_irq;
    PCIMapIrqFn map_irq;
    void *irq_opaque;
    int n_lines;
    uint16_t irq_count[32]; /* devices that assert a line */
    MemoryRegion nowhere;   /* what a device that may not be bus master reaches */
    AddressSpace *nowhere_as;
};
OBJECT_DECLARE_TYPE(PCIBus, ObjectClass, PCI_BUS, TYPE_PCI_BUS)

/* ---- pci-bus.c --------------------------------------------------------------------------- */

PCIBus *pci_secondary_bus_new(PCIDevice *bridge, const char *name, MemoryRegion *memory,
                              MemoryRegion *io, GError **error);
void pci_bus_close(PCIBus *bus);                    /* its owner goes */
bool pci_bus_place(PCIDevice *dev, GError **error); /* finds bus and devfn; takes no slot yet */
PCIBus *pci_bus_root(PCIBus *bus);
/* The line that the INTx pin arrives on has one source more or less. `tell`: whoever listens. */
void pci_bus_pin(PCIDevice *dev, int pin, int delta, bool tell);

/* ---- pci-bar.c --------------------------------------------------------------------------- */

unsigned pci_bar_register(const PCIDevice *dev, unsigned n); /* its offset */
void pci_update_mappings(PCIDevice *dev);
void pci_unmap(PCIDevice *dev);

/* ---- pci.c ------------------------------------------------------------------------------- */

void pci_update_irq(PCIDevice *dev, bool tell);

/* ---- pci-rom.c --------------------------------------------------------------------------- */

bool pci_add_rom(PCIDevice *dev, GError **error);

/* ---- msi.c, msix.c ----------------------------------------------------------------------- */

void msi_write_config(PCIDevice *dev, uint32_t addr, uint32_t old_flags, unsigned len);
void msi_reset(PCIDevice *dev);
bool msi_check(const PCIDevice *dev, GError **error); /* after load */
void msix_write_config(PCIDevice *dev, uint32_t addr, unsigned len);
void msix_reset(PCIDevice *dev);
void msix_uninit(PCIDevice *dev);   /* regions out of the BARs */
void msix_finalize(PCIDevice *dev); /* frees */
void msix_save(StateWriter *w, const PCIDevice *dev);
bool msix_load(StateReader *r, PCIDevice *dev, GError **error);
