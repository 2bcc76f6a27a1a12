/* MSI: the capability and its messages. See msi.h; PCI Local Bus Specification 3.0, 6.8.1. */
#include "engine/hw/pci/msi.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci-priv.h"

/* Registers of the capability, by its form. */
static bool is_64bit(const PCIDevice *dev)
{
    return dev->config[dev->msi_cap + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_64BIT;
}

static bool is_maskable(const PCIDevice *dev)
{
    return pci_get_word(dev->config + dev->msi_cap + PCI_MSI_FLAGS) & PCI_MSI_FLAGS_MASK;
}

static uint8_t *msi_mask(const PCIDevice *dev)
{
    return dev->config + dev->msi_cap + (is_64bit(dev) ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32);
}

static uint8_t *msi_pending(const PCIDevice *dev)
{
    return dev->config + dev->msi_cap + (is_64bit(dev) ? PCI_MSI_PENDING_64 : PCI_MSI_PENDING_32);
}

bool msi_init(PCIDevice *dev, uint8_t offset, unsigned vectors, bool wide, bool maskable,
              GError **error)
{
    uint8_t size = (uint8_t)((wide ? 14 : 10) + (maskable ? 10 : 0)), at;
    unsigned order = 0;

    g_assert(vectors >= 1 && vectors <= 32 && (vectors & (vectors - 1)) == 0);
    while (1u << order < vectors) {
        order++;
    }
    at = pci_add_capability(dev, PCI_CAP_MSI, offset, size, error);
    if (!at) {
        return false;
    }
    dev->msi_cap = at;
    pci_set_word(dev->config + at + PCI_MSI_FLAGS,
                 (uint16_t)(order << 1 | (wide ? PCI_MSI_FLAGS_64BIT : 0) |
                            (maskable ? PCI_MSI_FLAGS_MASK : 0)));
    pci_set_word(dev->wmask + at + PCI_MSI_FLAGS, PCI_MSI_FLAGS_QSIZE | PCI_MSI_FLAGS_ENABLE);
    pci_set_word(dev->cmask + at + PCI_MSI_FLAGS,
                 (uint16_t) ~(PCI_MSI_FLAGS_QSIZE | PCI_MSI_FLAGS_ENABLE));
    pci_set_long(dev->wmask + at + PCI_MSI_ADDRESS_LO, 0xfffffffc);
    if (wide) {
        pci_set_long(dev->wmask + at + PCI_MSI_ADDRESS_HI, UINT32_MAX);
    }
    pci_set_word(dev->wmask + at + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 0xffff);
    if (maskable) {
        pci_set_long(dev->wmask + (msi_mask(dev) - dev->config), UINT32_MAX >> (32 - vectors));
    }
    return true;
}

bool msi_enabled(const PCIDevice *dev)
{
    return dev->msi_cap && (dev->config[dev->msi_cap + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_ENABLE);
}

static unsigned vectors_of(const PCIDevice *dev)
{
    return 1u << ((dev->config[dev->msi_cap + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_QMASK) >> 1);
}

unsigned msi_vectors_granted(const PCIDevice *dev)
{
    unsigned granted, has;

    if (!dev->msi_cap) {
        return 0;
    }
    /* Software may write more than it was offered, also the reserved codes. */
    granted = 1u << ((dev->config[dev->msi_cap + PCI_MSI_FLAGS] & PCI_MSI_FLAGS_QSIZE) >> 4);
    has = vectors_of(dev);
    return MIN(granted, has);
}

static void send(PCIDevice *dev, unsigned vector)
{
    const uint8_t *cap = dev->config + dev->msi_cap;
    uint64_t addr = pci_get_long(cap + PCI_MSI_ADDRESS_LO);
    uint32_t data = pci_get_word(cap + (is_64bit(dev) ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32));

    if (is_64bit(dev)) {
        addr |= (uint64_t)pci_get_long(cap + PCI_MSI_ADDRESS_HI) << 32;
    }
    /* The device changes the low bits only. */
    data = (data & ~(msi_vectors_granted(dev) - 1)) | vector;
    log_mask(LOG_IRQ, "%s: MSI %u: %#x to %#" G_GINT64_MODIFIER "x", pci_name(dev), vector, data,
             addr);
    if (!(dev->config[PCI_COMMAND] & PCI_COMMAND_MASTER)) {
        log_of(dev, LOG_GUEST, "%s: MSI without being bus master", pci_name(dev));
        return;
    }
    machine_send_msi(dev->parent.machine, addr, data);
}

void msi_notify(PCIDevice *dev, unsigned vector)
{
    if (!msi_enabled(dev)) {
        return;
    }
    vector = MIN(vector, msi_vectors_granted(dev) - 1);
    if (is_maskable(dev) && (pci_get_long(msi_mask(dev)) >> vector & 1)) {
        pci_set_long(msi_pending(dev), pci_get_long(msi_pending(dev)) | 1u << vector);
        return;
    }
    send(dev, vector);
}

static void send_pending(PCIDevice *dev)
{
    uint32_t pending;

    if (!msi_enabled(dev) || !is_maskable(dev)) {
        return;
    }
    pending = pci_get_long(msi_pending(dev)) & ~pci_get_long(msi_mask(dev));
    pci_set_long(msi_pending(dev), pci_get_long(msi_pending(dev)) & ~pending);
    for (unsigned v = 0; v < 32; v++) {
        if (pending >> v & 1) {
            send(dev, MIN(v, msi_vectors_granted(dev) - 1));
        }
    }
}

void msi_write_config(PCIDevice *dev, uint32_t addr, uint32_t old, unsigned len)
{
    if (!dev->msi_cap || !pci_config_touches(addr, len, dev->msi_cap, 24)) {
        return;
    }
    if (msi_enabled(dev) && !(old >> 16 & PCI_MSI_FLAGS_ENABLE)) {
        /* INTx# is not used from now on. */
        pci_set_irq(dev, 0);
    }
    send_pending(dev);
}

void msi_reset(PCIDevice *dev)
{
    uint8_t *cap = dev->config + dev->msi_cap;

    if (!dev->msi_cap) {
        return;
    }
    pci_set_word(cap + PCI_MSI_FLAGS, pci_get_word(cap + PCI_MSI_FLAGS) &
                                          (uint16_t) ~(PCI_MSI_FLAGS_QSIZE | PCI_MSI_FLAGS_ENABLE));
    pci_set_long(cap + PCI_MSI_ADDRESS_LO, 0);
    if (is_64bit(dev)) {
        pci_set_long(cap + PCI_MSI_ADDRESS_HI, 0);
    }
    pci_set_word(cap + (is_64bit(dev) ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 0);
    if (is_maskable(dev)) {
        pci_set_long(msi_mask(dev), 0);
        pci_set_long(msi_pending(dev), 0);
    }
}

bool msi_check(const PCIDevice *dev, GError **error)
{
    if (dev->msi_cap && is_maskable(dev) && vectors_of(dev) < 32 &&
        (pci_get_long(msi_pending(dev)) | pci_get_long(msi_mask(dev))) >> vectors_of(dev)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: MSI vectors it does not have",
                         pci_name(dev));
    }
    return true;
}
