/*
 * Base address registers: where they are, what they ask for, and regions that move with them.
 *
 * PCI Local Bus Specification 3.0, 6.2.5.
 */
#include <string.h>

#include "engine/hw/pci/pci-priv.h"

unsigned pci_bar_register(const PCIDevice *dev, unsigned n)
{
    if (n == PCI_ROM_SLOT) {
        return PCI_DEVICE_GET_CLASS(dev)->is_bridge ? PCI_BRIDGE_ROM_ADDRESS : PCI_ROM_ADDRESS;
    }
    return PCI_BASE_ADDRESS(n);
}

static uint64_t bar_raw(const PCIDevice *dev, unsigned n)
{
    const uint8_t *reg = dev->config + pci_bar_register(dev, n);

    if (n != PCI_ROM_SLOT && (dev->regions[n].type & PCI_BAR_MEM64) &&
        !(dev->regions[n].type & PCI_BAR_IO)) {
        return pci_get_long(reg) | (uint64_t)pci_get_long(reg + 4) << 32;
    }
    return pci_get_long(reg);
}

/* Where the BAR would be decoded now. Addresses at which sizing leaves it (all ones), and 0, where
 * it is after reset, are nowhere: software that sizes a BAR without switching decoding off first
 * would otherwise hide RAM or the interrupt controllers for a moment. */
static uint64_t bar_wanted(const PCIDevice *dev, unsigned n)
{
    const PCIRegion *r = &dev->regions[n];
    uint16_t command = pci_get_word(dev->config + PCI_COMMAND);
    uint64_t addr, last;

    if (r->type & PCI_BAR_IO) {
        addr = bar_raw(dev, n) & ~(r->size - 1);
        if (!(command & PCI_COMMAND_IO) || addr == 0 || addr + r->size - 1 >= 0xffff) {
            return PCI_UNMAPPED;
        }
        return addr;
    }
    if (!(command & PCI_COMMAND_MEMORY)) {
        return PCI_UNMAPPED;
    }
    addr = bar_raw(dev, n);
    if (n == PCI_ROM_SLOT && !(addr & PCI_ROM_ENABLE)) {
        return PCI_UNMAPPED;
    }
    addr &= ~(r->size - 1);
    if (addr == 0 || __builtin_add_overflow(addr, r->size - 1, &last) || last == UINT64_MAX) {
        return PCI_UNMAPPED;
    }
    if (!(r->type & PCI_BAR_MEM64) && last >= UINT32_MAX) {
        return PCI_UNMAPPED;
    }
    return addr;
}

static MemoryRegion *bar_space(const PCIDevice *dev, unsigned n)
{
    return dev->regions[n].type & PCI_BAR_IO ? dev->bus->io : dev->bus->memory;
}

static void bar_move(PCIDevice *dev, unsigned n, uint64_t addr)
{
    PCIRegion *r = &dev->regions[n];

    if (r->addr != PCI_UNMAPPED && r->memory->container == bar_space(dev, n)) {
        memory_region_del_subregion(bar_space(dev, n), r->memory);
    }
    r->addr = addr;
    if (addr != PCI_UNMAPPED) {
        memory_region_add_subregion_overlap(bar_space(dev, n), addr, r->memory, 1);
    }
}

void pci_update_mappings(PCIDevice *dev)
{
    bool changed = false;

    for (unsigned n = 0; n < PCI_NUM_REGIONS; n++) {
        PCIRegion *r = &dev->regions[n];
        uint64_t addr;

        if (!r->memory || (addr = bar_wanted(dev, n)) == r->addr) {
            continue;
        }
        if (!changed) {
            memory_region_transaction_begin();
            changed = true;
        }
        bar_move(dev, n, addr);
    }
    if (changed) {
        memory_region_transaction_commit();
    }
}

void pci_unmap(PCIDevice *dev)
{
    memory_region_transaction_begin();
    for (unsigned n = 0; n < PCI_NUM_REGIONS; n++) {
        if (dev->regions[n].memory && dev->regions[n].addr != PCI_UNMAPPED) {
            bar_move(dev, n, PCI_UNMAPPED);
        }
    }
    memory_region_transaction_commit();
}

void pci_register_bar(PCIDevice *dev, unsigned n, uint8_t type, MemoryRegion *memory)
{
    PCIRegion *r = &dev->regions[n];
    unsigned reg = pci_bar_register(dev, n);
    uint64_t size = memory->size, wmask = ~(size - 1);
    bool wide = !(type & PCI_BAR_IO) && (type & PCI_BAR_MEM64) && n != PCI_ROM_SLOT;

    g_assert(n < PCI_NUM_REGIONS && !r->memory && (size & (size - 1)) == 0);
    g_assert(size >= (type & PCI_BAR_IO ? 4 : 16) && (!wide || n + 1 < PCI_NUM_BARS));
    g_assert(wide || size <= UINT64_C(1) << 31);
    r->memory = memory;
    r->size = size;
    r->type = type;
    r->addr = PCI_UNMAPPED;
    if (n == PCI_ROM_SLOT) {
        wmask |= PCI_ROM_ENABLE;
    } else {
        pci_set_long(dev->config + reg, type);
    }
    pci_set_long(dev->wmask + reg, (uint32_t)wmask);
    pci_set_long(dev->cmask + reg, (uint32_t)~wmask);
    if (wide) {
        pci_set_long(dev->wmask + reg + 4, (uint32_t)(wmask >> 32));
        pci_set_long(dev->cmask + reg + 4, (uint32_t)(~wmask >> 32));
    }
}

void pci_unregister_bar(PCIDevice *dev, unsigned n)
{
    PCIRegion *r = &dev->regions[n];
    unsigned reg = pci_bar_register(dev, n), size = 4;

    if (!r->memory) {
        return;
    }
    if (r->addr != PCI_UNMAPPED) {
        bar_move(dev, n, PCI_UNMAPPED);
    }
    if (!(r->type & PCI_BAR_IO) && (r->type & PCI_BAR_MEM64) && n != PCI_ROM_SLOT) {
        size = 8;
    }
    r->memory = NULL;
    memset(dev->config + reg, 0, size);
    memset(dev->wmask + reg, 0, size);
    memset(dev->cmask + reg, 0, size);
}

uint64_t pci_bar_address(const PCIDevice *dev, unsigned n)
{
    return n < PCI_NUM_REGIONS && dev->regions[n].memory ? dev->regions[n].addr : PCI_UNMAPPED;
}
