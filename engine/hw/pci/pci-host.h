/*
 * Host bridges with configuration mechanism 1 (PCI 3.0, 3.2.2.3.2): CONFIG_ADDRESS at 0xcf8,
 * CONFIG_DATA at 0xcfc, and the byte port 0xcf9 of the reset control register beside it, which
 * another device may claim. Embedded in host bridge devices. Engine lock.
 */
#pragma once

#include "engine/hw/pci/pci.h"

#define PCI_RESET_CONTROL_PORT 0xcf9

typedef struct PCIHost {
    PCIBus *bus;
    MemoryRegion address_io, data_io;
    uint32_t address;
    uint8_t (*reset_read)(void *opaque);
    void (*reset_write)(void *opaque, uint8_t value);
    void *reset_opaque;
} PCIHost;

/* From the realize of `dev`, after its bus was made. */
bool pci_host_init(PCIHost *h, DeviceState *dev, PCIBus *bus, GError **error);
void pci_host_finalize(PCIHost *h);
/* Who answers byte accesses to 0xcf9; NULL functions: nobody. */
void pci_host_set_reset_port(PCIHost *h, uint8_t (*read)(void *opaque),
                             void (*write)(void *opaque, uint8_t value), void *opaque);

/* The host bridge a root bus belongs to, found by the interface below; NULL: not of this kind. */
#define TYPE_PCI_HOST "pci-host"
typedef struct PCIHostClass {
    InterfaceClass parent_class;
    PCIHost *(*get_host)(DeviceState *dev);
} PCIHostClass;
PCIHost *pci_host_of_bus(PCIBus *bus);
