/* MSI-X: table, pending bits, messages. See msi.h; PCI Local Bus Specification 3.0, 6.8.2. */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/pci/msi.h"
#include "engine/hw/pci/pci-priv.h"
#include "engine/state/stream.h"

typedef struct PCIMsix {
    unsigned vectors;
    uint8_t *table; /* PCI_MSIX_ENTRY_SIZE a vector, little-endian as the guest sees it */
    uint8_t *pba;   /* a bit a vector */
    uint32_t pba_size;
    MemoryRegion table_mr, pba_mr, bar_mr;
    bool own_bar;
    MsixVectorFn fn;
    void *opaque;
    uint8_t *told; /* a vector: fn was told that it is usable */
} PCIMsix;

static bool function_masked(const PCIDevice *dev)
{
    uint16_t flags = pci_get_word(dev->config + dev->msix_cap + PCI_MSIX_FLAGS);

    return !(flags & PCI_MSIX_FLAGS_ENABLE) || (flags & PCI_MSIX_FLAGS_MASK);
}

static uint8_t *entry(const PCIDevice *dev, unsigned vector)
{
    return dev->msix->table + vector * PCI_MSIX_ENTRY_SIZE;
}

static bool entry_masked(const PCIDevice *dev, unsigned vector)
{
    return entry(dev, vector)[PCI_MSIX_ENTRY_CTRL] & PCI_MSIX_CTRL_MASK;
}

unsigned msix_vectors(const PCIDevice *dev)
{
    return dev->msix_cap ? dev->msix->vectors : 0;
}

bool msix_enabled(const PCIDevice *dev)
{
    return dev->msix_cap &&
           (pci_get_word(dev->config + dev->msix_cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_ENABLE);
}

bool msix_masked(const PCIDevice *dev, unsigned vector)
{
    return vector >= msix_vectors(dev) || function_masked(dev) || entry_masked(dev, vector);
}

void msix_message(const PCIDevice *dev, unsigned vector, uint64_t *addr, uint32_t *data)
{
    *addr = 0;
    *data = 0;
    if (vector < msix_vectors(dev)) {
        const uint8_t *e = entry(dev, vector);

        *addr = pci_get_long(e + PCI_MSIX_ENTRY_ADDR) |
                (uint64_t)pci_get_long(e + PCI_MSIX_ENTRY_ADDR + 4) << 32;
        *data = pci_get_long(e + PCI_MSIX_ENTRY_DATA);
    }
}

/* ---- sending ------------------------------------------------------------------------------- */

static void set_pending(PCIDevice *dev, unsigned vector, bool on)
{
    uint8_t bit = (uint8_t)(1u << (vector % 8)), *byte = &dev->msix->pba[vector / 8];

    *byte = on ? *byte | bit : (uint8_t)(*byte & ~bit);
}

static bool is_pending(const PCIDevice *dev, unsigned vector)
{
    return dev->msix->pba[vector / 8] >> (vector % 8) & 1;
}

static void send(PCIDevice *dev, unsigned vector)
{
    uint64_t addr;
    uint32_t data;

    msix_message(dev, vector, &addr, &data);
    log_mask(LOG_IRQ, "%s: MSI-X %u: %#x to %#" G_GINT64_MODIFIER "x", pci_name(dev), vector, data,
             addr);
    if (!(dev->config[PCI_COMMAND] & PCI_COMMAND_MASTER)) {
        log_of(dev, LOG_GUEST, "%s: MSI-X without being bus master", pci_name(dev));
        return;
    }
    machine_send_msi(dev->parent.machine, addr, data);
}

void msix_notify(PCIDevice *dev, unsigned vector)
{
    if (vector >= msix_vectors(dev) || !msix_enabled(dev)) {
        return;
    }
    if (msix_masked(dev, vector)) {
        set_pending(dev, vector, true);
    } else {
        send(dev, vector);
    }
}

void msix_clear_pending(PCIDevice *dev, unsigned vector)
{
    if (vector < msix_vectors(dev)) {
        set_pending(dev, vector, false);
    }
}

/* The vector may have become usable or not, or have got another message. */
static void vector_changed(PCIDevice *dev, unsigned vector, bool message)
{
    PCIMsix *x = dev->msix;
    bool usable = !msix_masked(dev, vector);
    uint64_t addr;
    uint32_t data;

    if (x->fn && x->told[vector] && (!usable || message)) {
        x->told[vector] = false;
        x->fn(dev, vector, false, 0, 0, x->opaque);
    }
    if (!usable) {
        return;
    }
    if (x->fn && !x->told[vector]) {
        x->told[vector] = true;
        msix_message(dev, vector, &addr, &data);
        x->fn(dev, vector, true, addr, data, x->opaque);
    }
    if (is_pending(dev, vector)) {
        set_pending(dev, vector, false);
        send(dev, vector);
    }
}

static void all_changed(PCIDevice *dev)
{
    for (unsigned v = 0; v < dev->msix->vectors; v++) {
        vector_changed(dev, v, false);
    }
}

void msix_set_vector_notify(PCIDevice *dev, MsixVectorFn fn, void *opaque)
{
    PCIMsix *x = dev->msix;

    if (!x) {
        return;
    }
    for (unsigned v = 0; v < x->vectors; v++) {
        if (x->fn && x->told[v]) {
            x->fn(dev, v, false, 0, 0, x->opaque);
        }
        x->told[v] = false;
    }
    x->fn = fn;
    x->opaque = opaque;
    if (fn && dev->msix_cap) {
        all_changed(dev);
    }
}

/* ---- registers ----------------------------------------------------------------------------- */

static uint64_t get_bytes(const uint8_t *p, unsigned size)
{
    return size == 8 ? pci_get_long(p) | (uint64_t)pci_get_long(p + 4) << 32 : pci_get_long(p);
}

static uint64_t table_read(void *opaque, hwaddr addr, unsigned size)
{
    PCIDevice *dev = opaque;

    return get_bytes(dev->msix->table + addr, size);
}

static void table_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PCIDevice *dev = opaque;
    unsigned vector = (unsigned)(addr / PCI_MSIX_ENTRY_SIZE);
    bool control = addr % PCI_MSIX_ENTRY_SIZE + size > PCI_MSIX_ENTRY_CTRL;
    bool message = addr % PCI_MSIX_ENTRY_SIZE < PCI_MSIX_ENTRY_CTRL;

    pci_set_long(dev->msix->table + addr, (uint32_t)data);
    if (size == 8) {
        pci_set_long(dev->msix->table + addr + 4, (uint32_t)(data >> 32));
    }
    if (control) {
        /* Reserved bits stay 0. */
        pci_set_long(entry(dev, vector) + PCI_MSIX_ENTRY_CTRL,
                     pci_get_long(entry(dev, vector) + PCI_MSIX_ENTRY_CTRL) & PCI_MSIX_CTRL_MASK);
    }
    vector_changed(dev, vector, message);
}

static uint64_t pba_read(void *opaque, hwaddr addr, unsigned size)
{
    PCIDevice *dev = opaque;

    return get_bytes(dev->msix->pba + addr, size);
}

static void pba_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    log_of(opaque, LOG_GUEST, "%s: write to the pending bits of MSI-X", object_get_name(opaque));
}

/* 6.8.2: whole aligned dwords and qwords; anything else is undefined. */
static const MemoryRegionOps table_ops = {
    .read = table_read,
    .write = table_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 8 },
};
static const MemoryRegionOps pba_ops = {
    .read = pba_read,
    .write = pba_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 8 },
};

void msix_write_config(PCIDevice *dev, uint32_t addr, unsigned len)
{
    if (!dev->msix_cap || !pci_config_touches(addr, len, dev->msix_cap + PCI_MSIX_FLAGS, 2)) {
        return;
    }
    if (msix_enabled(dev)) {
        pci_set_irq(dev, 0);
    }
    all_changed(dev);
}

static void mask_all(PCIMsix *x)
{
    memset(x->table, 0, x->vectors * PCI_MSIX_ENTRY_SIZE);
    memset(x->pba, 0, x->pba_size);
    for (unsigned v = 0; v < x->vectors; v++) {
        x->table[v * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_CTRL] = PCI_MSIX_CTRL_MASK;
    }
}

void msix_reset(PCIDevice *dev)
{
    if (!dev->msix_cap) {
        return;
    }
    dev->config[dev->msix_cap + PCI_MSIX_FLAGS + 1] &= (uint8_t) ~(
        (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASK) >> 8);
    mask_all(dev->msix);
    all_changed(dev);
}

/* ---- saved state --------------------------------------------------------------------------- */

void msix_save(StateWriter *w, const PCIDevice *dev)
{
    state_put_u32(w, dev->msix->vectors);
    state_put_bytes(w, dev->msix->table, dev->msix->vectors * PCI_MSIX_ENTRY_SIZE);
    state_put_bytes(w, dev->msix->pba, dev->msix->pba_size);
}

bool msix_load(StateReader *r, PCIDevice *dev, GError **error)
{
    PCIMsix *x = dev->msix;
    uint32_t vectors = state_get_u32(r);

    if (vectors != x->vectors || !state_get_bytes(r, x->table, x->vectors * PCI_MSIX_ENTRY_SIZE) ||
        !state_get_bytes(r, x->pba, x->pba_size)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: %u MSI-X vectors, not %u", pci_name(dev),
                         vectors, x->vectors);
    }
    for (unsigned v = 0; v < x->vectors; v++) {
        entry(dev, v)[PCI_MSIX_ENTRY_CTRL] &= PCI_MSIX_CTRL_MASK;
        memset(entry(dev, v) + PCI_MSIX_ENTRY_CTRL + 1, 0, 3);
        /* Its user learns the message again. */
        if (x->fn && x->told[v]) {
            x->told[v] = false;
            x->fn(dev, v, false, 0, 0, x->opaque);
        }
        if (x->fn && !msix_masked(dev, v)) {
            uint64_t addr;
            uint32_t data;

            x->told[v] = true;
            msix_message(dev, v, &addr, &data);
            x->fn(dev, v, true, addr, data, x->opaque);
        }
    }
    return true;
}

/* ---- making -------------------------------------------------------------------------------- */

bool msix_init(PCIDevice *dev, unsigned vectors, MemoryRegion *table_bar, unsigned table_bar_n,
               uint32_t table_offset, MemoryRegion *pba_bar, unsigned pba_bar_n,
               uint32_t pba_offset, uint8_t cap_offset, GError **error)
{
    PCIMsix *x = dev->msix;
    uint64_t table_size = (uint64_t)vectors * PCI_MSIX_ENTRY_SIZE;
    uint32_t pba_size = (vectors + 63) / 64 * 8;
    uint8_t at;

    if (vectors < 1 || vectors > PCI_MSIX_MAX || (table_offset | pba_offset) % 8 != 0 ||
        table_offset + table_size > table_bar->size ||
        (uint64_t)pba_offset + pba_size > pba_bar->size ||
        (table_bar == pba_bar && table_offset < pba_offset + pba_size &&
         pba_offset < table_offset + table_size)) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: %u MSI-X vectors do not fit",
                         pci_name(dev), vectors);
    }
    at = pci_add_capability(dev, PCI_CAP_MSIX, cap_offset, PCI_MSIX_CAP_LENGTH, error);
    if (!at) {
        return false;
    }
    if (!x) {
        x = dev->msix = g_new0(PCIMsix, 1);
    }
    x->vectors = vectors;
    x->table = g_malloc0(table_size);
    x->pba = g_malloc0(pba_size);
    x->told = g_malloc0(vectors);
    x->pba_size = pba_size;
    mask_all(x);
    dev->msix_cap = at;
    pci_set_word(dev->config + at + PCI_MSIX_FLAGS, (uint16_t)(vectors - 1));
    pci_set_word(dev->wmask + at + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASK);
    pci_set_long(dev->config + at + PCI_MSIX_TABLE, table_offset | table_bar_n);
    pci_set_long(dev->config + at + PCI_MSIX_PBA, pba_offset | pba_bar_n);
    pci_set_word(dev->cmask + at + PCI_MSIX_FLAGS,
                 (uint16_t) ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASK));
    memset(dev->cmask + at + PCI_MSIX_TABLE, 0xff, 8);
    memory_region_init_io(&x->table_mr, OBJECT(dev), &table_ops, dev, "msix-table", table_size);
    memory_region_init_io(&x->pba_mr, OBJECT(dev), &pba_ops, dev, "msix-pba", pba_size);
    memory_region_add_subregion_overlap(table_bar, table_offset, &x->table_mr, 1);
    memory_region_add_subregion_overlap(pba_bar, pba_offset, &x->pba_mr, 1);
    return true;
}

bool msix_init_exclusive_bar(PCIDevice *dev, unsigned vectors, unsigned bar, GError **error)
{
    uint32_t pba_offset = (vectors * PCI_MSIX_ENTRY_SIZE + 0x7ffu) & ~0x7ffu, size = 0x1000;
    PCIMsix *x;

    if (vectors < 1 || vectors > PCI_MSIX_MAX) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: %u MSI-X vectors", pci_name(dev),
                         vectors);
    }
    while (size < pba_offset + (vectors + 63) / 64 * 8) {
        size *= 2;
    }
    x = dev->msix = g_new0(PCIMsix, 1);
    x->own_bar = true;
    memory_region_init(&x->bar_mr, OBJECT(dev), "msix-bar", size);
    if (!msix_init(dev, vectors, &x->bar_mr, bar, 0, &x->bar_mr, bar, pba_offset, 0, error)) {
        return false;
    }
    pci_register_bar(dev, bar, PCI_BAR_MEM32, &x->bar_mr);
    return true;
}

void msix_uninit(PCIDevice *dev)
{
    PCIMsix *x = dev->msix;

    if (!x) {
        return;
    }
    msix_set_vector_notify(dev, NULL, NULL);
    dev->msix_cap = 0;
    if (x->table_mr.container) {
        memory_region_del_subregion(x->table_mr.container, &x->table_mr);
    }
    if (x->pba_mr.container) {
        memory_region_del_subregion(x->pba_mr.container, &x->pba_mr);
    }
}

/* When nobody looks at its regions any more. */
void msix_finalize(PCIDevice *dev)
{
    PCIMsix *x = dev->msix;

    if (!x) {
        return;
    }
    memory_region_finalize(&x->table_mr);
    memory_region_finalize(&x->pba_mr);
    if (x->own_bar) {
        memory_region_finalize(&x->bar_mr);
    }
    g_free(x->table);
    g_free(x->pba);
    g_free(x->told);
    g_free(x);
    dev->msix = NULL;
}
