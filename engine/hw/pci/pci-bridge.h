/*
 * PCI-to-PCI bridges: what devices of this kind share. "pci-bridge" is the plain one.
 *
 * A derived type sets PCIDeviceClass.is_bridge, calls pci_bridge_init in its realize and
 * pci_bridge_exit in its exit; its instance starts with PCIBridge.
 */
#pragma once

#include "engine/hw/pci/pci.h"

#define TYPE_PCI_BRIDGE "pci-bridge"

typedef struct PCIBridge {
    PCIDevice parent;
    PCIBus *secondary;
    MemoryRegion memory, io;                          /* of the secondary bus */
    MemoryRegion win_io, win_memory, win_pref;        /* what of them the primary bus shows */
    MemoryRegion vga_memory, vga_io_low, vga_io_high; /* 0xa0000-0xbffff, 0x3b0, 0x3c0 */
    bool windows;                                     /* the regions above are made */
} PCIBridge;

bool pci_bridge_init(PCIDevice *dev, const char *bus_name, GError **error);
void pci_bridge_exit(PCIDevice *dev);
void pci_bridge_finalize(PCIBridge *br); /* its regions; from instance_finalize */

/* For pci.c: the header of type 1. */
void pci_bridge_init_config(PCIDevice *dev);
void pci_bridge_reset_config(PCIDevice *dev);
void pci_bridge_write_config(PCIDevice *dev, uint32_t addr, unsigned len);
void pci_bridge_update(PCIDevice *dev); /* windows by the registers */
