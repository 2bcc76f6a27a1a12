/*
 * Message-signalled interrupts of PCI devices: MSI (PCI 3.0, 6.8.1) and MSI-X (6.8.2).
 *
 * Messages leave through machine_send_msi: to the accelerator's local APICs or to those in user
 * space. State is saved with VMSTATE_PCI_DEVICE. Engine lock.
 */
#pragma once

#include "engine/hw/pci/pci.h"

/* From realize. `offset` 0: any place. `vectors`: 1, 2, 4 … 32. */
bool msi_init(PCIDevice *dev, uint8_t offset, unsigned vectors, bool is_64bit, bool maskable,
              GError **error);
bool msi_enabled(const PCIDevice *dev);
unsigned msi_vectors_granted(const PCIDevice *dev);
/* Sent, or left pending while masked. Vectors beyond those granted become the last granted one.
 * Nothing while MSI is off: the device uses pci_set_irq then. */
void msi_notify(PCIDevice *dev, unsigned vector);

/* From realize; the regions of both BARs are containers that the caller registered (or will) and
 * have room at these offsets: 16 bytes a vector in the table, a bit (in whole 8 bytes) in the
 * pending array. */
bool msix_init(PCIDevice *dev, unsigned vectors, MemoryRegion *table_bar, unsigned table_bar_n,
               uint32_t table_offset, MemoryRegion *pba_bar, unsigned pba_bar_n,
               uint32_t pba_offset, uint8_t cap_offset, GError **error);
/* Both in a BAR of their own. */
bool msix_init_exclusive_bar(PCIDevice *dev, unsigned vectors, unsigned bar, GError **error);
unsigned msix_vectors(const PCIDevice *dev); /* 0: no MSI-X */
bool msix_enabled(const PCIDevice *dev);
bool msix_masked(const PCIDevice *dev, unsigned vector);
void msix_notify(PCIDevice *dev, unsigned vector); /* sent, or left pending while masked */
void msix_clear_pending(PCIDevice *dev, unsigned vector);
void msix_message(const PCIDevice *dev, unsigned vector, uint64_t *addr, uint32_t *data);
/* For devices whose interrupts bypass msix_notify (irqfds): told when a vector becomes usable
 * (enabled, unmasked; also when its message changed: unuse, use) or stops being so. NULL: nobody.
 */
typedef void (*MsixVectorFn)(PCIDevice *dev, unsigned vector, bool usable, uint64_t addr,
                             uint32_t data, void *opaque);
void msix_set_vector_notify(PCIDevice *dev, MsixVectorFn fn, void *opaque);
