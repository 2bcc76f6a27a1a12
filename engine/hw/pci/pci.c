/* PCI devices: configuration space, INTx, capabilities, saved state. See pci.h. */
#include "engine/hw/pci/pci.h"

#include <inttypes.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci-bridge.h"
#include "engine/hw/pci/pci-priv.h"
#include "engine/state/stream.h"

#define pci_name(dev) pci_name(dev)

/* ---- configuration space ------------------------------------------------------------------- */

static uint32_t get_bytes(const uint8_t *p, unsigned len)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < len; i++) {
        value |= (uint32_t)p[i] << (8 * i);
    }
    return value;
}

uint32_t pci_default_config_read(PCIDevice *dev, uint32_t addr, unsigned len)
{
    if (addr + len > dev->config_size) {
        return UINT32_MAX;
    }
    return get_bytes(dev->config + addr, len);
}

static bool touches_mapping(const PCIDevice *dev, uint32_t addr, unsigned len)
{
    return pci_config_touches(addr, len, PCI_COMMAND, 2) ||
           pci_config_touches(addr, len, PCI_BASE_ADDRESS(0), 24) ||
           pci_config_touches(addr, len, pci_bar_register(dev, PCI_ROM_SLOT), 4);
}

void pci_default_config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len)
{
    uint32_t old_msi = dev->msi_cap ? pci_get_long(dev->config + dev->msi_cap) : 0;

    if (addr + len > dev->config_size) {
        return;
    }
    for (unsigned i = 0; i < len; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i)), *reg = &dev->config[addr + i];
        uint8_t wmask = dev->wmask[addr + i];

        *reg = (uint8_t)((*reg & ~wmask) | (byte & wmask));
        *reg &= (uint8_t) ~(byte & dev->w1cmask[addr + i]);
    }
    if (touches_mapping(dev, addr, len)) {
        pci_update_mappings(dev);
    }
    if (pci_config_touches(addr, len, PCI_COMMAND, 2)) {
        pci_update_irq(dev, true);
    }
    if (PCI_DEVICE_GET_CLASS(dev)->is_bridge) {
        pci_bridge_write_config(dev, addr, len);
    }
    msi_write_config(dev, addr, old_msi, len);
    msix_write_config(dev, addr, len);
}

/* ---- capabilities -------------------------------------------------------------------------- */

static bool range_free(const PCIDevice *dev, unsigned at, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        if (dev->used[at + i]) {
            return false;
        }
    }
    return true;
}

uint8_t pci_add_capability(PCIDevice *dev, uint8_t id, uint8_t offset, uint8_t size, GError **error)
{
    unsigned at = offset ? offset : PCI_CONFIG_HEADER, need = (size + 3u) & ~3u;

    while (at + need <= PCI_CONFIG_SIZE && !range_free(dev, at, need)) {
        if (offset) {
            error_set(error, ENGINE_ERROR_INVALID,
                      "%s: capability %#x at %#x of %u bytes lies on another", pci_name(dev), id,
                      offset, size);
            return 0;
        }
        at += 4;
    }
    if (at + need > PCI_CONFIG_SIZE) {
        error_set(error, ENGINE_ERROR_LIMIT, "%s: no room for capability %#x of %u bytes",
                  pci_name(dev), id, size);
        return 0;
    }
    memset(dev->config + at, 0, need);
    memset(dev->wmask + at, 0, need);
    memset(dev->w1cmask + at, 0, need);
    memset(dev->used + at, 0xff, need);
    memset(dev->cmask + at, 0, need);
    dev->config[at + PCI_CAP_ID] = id;
    dev->config[at + PCI_CAP_NEXT] = dev->config[PCI_CAPABILITY_LIST];
    dev->cmask[at + PCI_CAP_ID] = dev->cmask[at + PCI_CAP_NEXT] = 0xff;
    dev->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
    dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    return (uint8_t)at;
}

uint8_t pci_find_capability(const PCIDevice *dev, uint8_t id)
{
    unsigned at = dev->config[PCI_CAPABILITY_LIST];

    if (!(dev->config[PCI_STATUS] & PCI_STATUS_CAP_LIST)) {
        return 0;
    }
    for (unsigned i = 0; at >= PCI_CONFIG_HEADER && i < 48; i++) {
        if (dev->config[at + PCI_CAP_ID] == id) {
            return (uint8_t)at;
        }
        at = dev->config[at + PCI_CAP_NEXT];
    }
    return 0;
}

/* ---- interrupts ---------------------------------------------------------------------------- */

void pci_update_irq(PCIDevice *dev, bool tell)
{
    uint16_t command = pci_get_word(dev->config + PCI_COMMAND);
    uint8_t now = command & PCI_COMMAND_INTX_OFF ? 0 : dev->irq_state;
    uint8_t changed = now ^ dev->irq_sent;

    if (dev->irq_state) {
        dev->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    } else {
        dev->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
    }
    dev->irq_sent = now;
    for (int pin = 0; pin < PCI_NUM_PINS; pin++) {
        if (changed >> pin & 1) {
            pci_bus_pin(dev, pin, now >> pin & 1 ? 1 : -1, tell);
        }
    }
}

void pci_set_irq(PCIDevice *dev, int level)
{
    unsigned pin;

    if (!dev->bus || !dev->config) {
        return;
    }
    pin = dev->config[PCI_INTERRUPT_PIN];
    if (pin < 1 || pin > PCI_NUM_PINS) {
        return;
    }
    dev->irq_state = level ? (uint8_t)(dev->irq_state | 1u << (pin - 1))
                           : (uint8_t)(dev->irq_state & ~(1u << (pin - 1)));
    pci_update_irq(dev, true);
}

static void line_set(void *opaque, int n, int level)
{
    pci_set_irq(opaque, level);
}

Irq *pci_irq_line(PCIDevice *dev)
{
    return irq_new(line_set, dev, 0);
}

/* ---- DMA ----------------------------------------------------------------------------------- */

AddressSpace *pci_dma_space(PCIDevice *dev)
{
    for (PCIDevice *d = dev; d; d = d->bus->bridge) {
        if (!(d->config[PCI_COMMAND] & PCI_COMMAND_MASTER)) {
            return pci_bus_root(dev->bus)->nowhere_as;
        }
    }
    return dev->parent.machine->memory;
}

uint16_t pci_requester(const PCIDevice *dev)
{
    return (uint16_t)(pci_bus_number(dev->bus) << 8 | dev->devfn);
}

MemTxAttrs pci_dma_attrs(const PCIDevice *dev)
{
    return (MemTxAttrs){ .cpu = -1, .requester = pci_requester(dev) };
}

static MemTxResult dma_result(PCIDevice *dev, hwaddr addr, MemTxResult res)
{
    if (res != MEMTX_OK) {
        log_of(dev, LOG_GUEST, "%s: DMA at %#" PRIx64 " %s", pci_name(dev), addr,
               dev->config[PCI_COMMAND] & PCI_COMMAND_MASTER ? "reaches nothing"
                                                             : "without being bus master");
    }
    return res;
}

MemTxResult pci_dma_read(PCIDevice *dev, hwaddr addr, void *buf, uint64_t len)
{
    return dma_result(dev, addr,
                      address_space_read(pci_dma_space(dev), addr, pci_dma_attrs(dev), buf, len));
}

MemTxResult pci_dma_write(PCIDevice *dev, hwaddr addr, const void *buf, uint64_t len)
{
    return dma_result(dev, addr,
                      address_space_write(pci_dma_space(dev), addr, pci_dma_attrs(dev), buf, len));
}

/* ---- saved state --------------------------------------------------------------------------- */

static void put_config(StateWriter *w, const void *field, const VMStateField *f)
{
    const PCIDevice *dev = field;

    state_put_u32(w, dev->config_size);
    state_put_bytes(w, dev->config, dev->config_size);
}

static bool get_config(StateReader *r, void *field, const VMStateField *f, GError **error)
{
    PCIDevice *dev = field;
    uint8_t bytes[PCIE_CONFIG_SIZE];
    uint32_t size = state_get_u32(r);

    if (size != dev->config_size || !state_get_bytes(r, bytes, size)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: configuration space of %u bytes, not %u",
                         pci_name(dev), size, dev->config_size);
    }
    for (unsigned i = 0; i < size; i++) {
        if ((bytes[i] ^ dev->config[i]) & dev->cmask[i]) {
            return error_set(error, ENGINE_ERROR_CORRUPT,
                             "%s: configuration byte %#x is %#04x, here %#04x", pci_name(dev), i,
                             bytes[i], dev->config[i]);
        }
    }
    memcpy(dev->config, bytes, size);
    return true;
}

static void put_msix(StateWriter *w, const void *field, const VMStateField *f)
{
    msix_save(w, field);
}

static bool get_msix(StateReader *r, void *field, const VMStateField *f, GError **error)
{
    return msix_load(r, field, error);
}

static bool has_msix(const void *opaque, unsigned version)
{
    return ((const PCIDevice *)opaque)->msix_cap != 0;
}

static bool pci_post_load(void *opaque, unsigned version, GError **error)
{
    PCIDevice *dev = opaque;

    if (dev->irq_state >> PCI_NUM_PINS) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: interrupt pins %#x", pci_name(dev),
                         dev->irq_state);
    }
    if (!msi_check(dev, error)) {
        return false;
    }
    if (PCI_DEVICE_GET_CLASS(dev)->is_bridge) {
        pci_bridge_update(dev);
    }
    pci_update_mappings(dev);
    /* The router saves its own view of the lines. */
    pci_update_irq(dev, false);
    return true;
}

static const VMStateField pci_fields[] = {
    { .name = "config",
      .kind = VMS_CUSTOM,
      .count_offset = -1,
      .put = put_config,
      .get = get_config },
    VMSTATE_UINT8(irq_state, PCIDevice),
    { .name = "msix",
      .kind = VMS_CUSTOM,
      .count_offset = -1,
      .exists = has_msix,
      .put = put_msix,
      .get = get_msix },
    VMSTATE_END(),
};
const VMStateDescription vmstate_pci_device = {
    .name = "pci-device",
    .version = 1,
    .minimum_version = 1,
    .post_load = pci_post_load,
    .fields = pci_fields,
};

/* ---- life cycle ---------------------------------------------------------------------------- */

static void free_config(PCIDevice *dev)
{
    uint8_t **arrays[] = { &dev->config, &dev->wmask, &dev->w1cmask, &dev->cmask, &dev->used };

    for (unsigned i = 0; i < G_N_ELEMENTS(arrays); i++) {
        g_free(*arrays[i]);
        *arrays[i] = NULL;
    }
}

static void make_config(PCIDevice *dev)
{
    PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    uint32_t size = pc->is_express ? PCIE_CONFIG_SIZE : PCI_CONFIG_SIZE;
    uint8_t *config;

    free_config(dev);
    dev->config_size = size;
    config = dev->config = g_malloc0(size);
    dev->wmask = g_malloc0(size);
    dev->w1cmask = g_malloc0(size);
    dev->cmask = g_malloc0(size);
    dev->used = g_malloc0(size);
    memset(dev->used, 0xff, PCI_CONFIG_HEADER);
    memset(dev->regions, 0, sizeof(dev->regions));
    for (unsigned n = 0; n < PCI_NUM_REGIONS; n++) {
        dev->regions[n].addr = PCI_UNMAPPED;
    }
    dev->msi_cap = dev->msix_cap = dev->irq_state = dev->irq_sent = 0;

    pci_set_word(config + PCI_VENDOR_ID, pc->vendor_id);
    pci_set_word(config + PCI_DEVICE_ID, pc->device_id);
    config[PCI_REVISION_ID] = pc->revision;
    config[PCI_CLASS_PROG] = (uint8_t)pc->class_code;
    pci_set_word(config + PCI_CLASS_DEVICE, (uint16_t)(pc->class_code >> 8));
    config[PCI_HEADER_TYPE] = (uint8_t)((pc->is_bridge ? PCI_HEADER_BRIDGE : PCI_HEADER_NORMAL) |
                                        (dev->multifunction ? PCI_HEADER_MULTI : 0));
    pci_set_long(dev->cmask + PCI_VENDOR_ID, UINT32_MAX);
    pci_set_long(dev->cmask + PCI_REVISION_ID, UINT32_MAX);
    dev->cmask[PCI_HEADER_TYPE] = 0xff;
    dev->cmask[PCI_CAPABILITY_LIST] = 0xff;
    dev->cmask[PCI_STATUS] = PCI_STATUS_CAP_LIST;
    if (!pc->is_bridge) {
        bool own = pc->subsystem_vendor_id || pc->subsystem_id;

        pci_set_word(config + PCI_SUBSYSTEM_VENDOR_ID,
                     own ? pc->subsystem_vendor_id : PCI_VENDOR_REDHAT);
        pci_set_word(config + PCI_SUBSYSTEM_ID, own ? pc->subsystem_id : PCI_SUBDEVICE_QEMU);
        pci_set_long(dev->cmask + PCI_SUBSYSTEM_VENDOR_ID, UINT32_MAX);
    }
    dev->cmask[PCI_INTERRUPT_PIN] = 0xff;

    pci_set_word(dev->wmask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY |
                                               PCI_COMMAND_MASTER | PCI_COMMAND_SERR |
                                               PCI_COMMAND_INTX_OFF);
    pci_set_word(dev->w1cmask + PCI_STATUS, PCI_STATUS_W1C);
    dev->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
    dev->wmask[PCI_INTERRUPT_LINE] = 0xff;
    if (pc->is_bridge) {
        pci_bridge_init_config(dev);
    }
}

static void leave_bus(PCIDevice *dev)
{
    pci_unmap(dev);
    msix_uninit(dev);
    if (dev->bus->devices[dev->devfn] == dev) {
        dev->bus->devices[dev->devfn] = NULL;
    }
    object_unref(dev->bus);
    dev->bus = NULL;
}

static void silence(PCIDevice *dev)
{
    dev->irq_state = 0;
    pci_update_irq(dev, true);
}

static bool pci_realize(DeviceState *qdev, GError **error)
{
    PCIDevice *dev = PCI_DEVICE(qdev);
    PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);

    if (!pci_bus_place(dev, error)) {
        return false;
    }
    object_ref(dev->bus);
    msix_finalize(dev); /* of an earlier life */
    memory_region_finalize(&dev->rom);
    make_config(dev);
    if (pc->realize && !pc->realize(dev, error)) {
        leave_bus(dev);
        return false;
    }
    if (!pci_add_rom(dev, error)) {
        if (pc->exit) {
            pc->exit(dev);
        }
        leave_bus(dev);
        return false;
    }
    dev->bus->devices[dev->devfn] = dev;
    return true;
}

static void pci_unrealize(DeviceState *qdev)
{
    PCIDevice *dev = PCI_DEVICE(qdev);
    PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);

    silence(dev);
    pci_unmap(dev);
    if (pc->exit) {
        pc->exit(dev);
    }
    leave_bus(dev);
}

static void pci_reset(DeviceState *qdev)
{
    PCIDevice *dev = PCI_DEVICE(qdev);
    PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);

    silence(dev);
    pci_set_word(dev->config + PCI_COMMAND, 0);
    pci_set_word(dev->config + PCI_STATUS,
                 pci_get_word(dev->config + PCI_STATUS) & (uint16_t)~PCI_STATUS_W1C);
    dev->config[PCI_CACHE_LINE_SIZE] = 0;
    dev->config[PCI_INTERRUPT_LINE] = 0;
    for (unsigned n = 0; n < PCI_NUM_REGIONS; n++) {
        const PCIRegion *r = &dev->regions[n];
        uint8_t *reg = dev->config + pci_bar_register(dev, n);

        if (!r->memory) {
            continue;
        }
        pci_set_long(reg, n == PCI_ROM_SLOT ? 0 : r->type);
        if (n != PCI_ROM_SLOT && !(r->type & PCI_BAR_IO) && (r->type & PCI_BAR_MEM64)) {
            pci_set_long(reg + 4, 0);
        }
    }
    pci_update_mappings(dev);
    msi_reset(dev);
    msix_reset(dev);
    if (pc->is_bridge) {
        pci_bridge_reset_config(dev);
    }
    if (pc->reset) {
        pc->reset(dev);
    }
}

static const Property pci_properties[] = {
    DEFINE_PROP_LINK("bus", PCIDevice, bus_link, TYPE_PCI_BUS,
                     "the bus it is on (the machine's first)"),
    DEFINE_PROP_STRING("addr", PCIDevice, addr,
                       "slot or slot.function on the bus, hexadecimal (the first free slot)"),
    DEFINE_PROP_BOOL("multifunction", PCIDevice, multifunction, false,
                     "function 0 of a slot that has more"),
    DEFINE_PROP_STRING("romfile", PCIDevice, romfile,
                       "image of the option ROM (the device's own); empty: none"),
    DEFINE_PROP_BOOL("rombar", PCIDevice, rombar, true, "the option ROM has a BAR"),
    DEFINE_PROP_INT32("bootindex", PCIDevice, bootindex, -1,
                      "place in the firmware's boot order; -1: none"),
};

static void pci_finalize(Object *obj)
{
    PCIDevice *dev = PCI_DEVICE(obj);

    msix_finalize(dev);
    memory_region_finalize(&dev->rom);
    free_config(dev);
}

static void pci_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = pci_realize;
    dc->unrealize = pci_unrealize;
    dc->reset = pci_reset;
    dc->vmsd = &vmstate_pci_device; /* of a device without more */
    dc->user_creatable = true;
    object_class_add_properties(klass, pci_properties, G_N_ELEMENTS(pci_properties));
}

static const TypeInfo pci_info = {
    .name = TYPE_PCI_DEVICE,
    .parent = TYPE_DEVICE,
    .doc = "A device on a PCI bus",
    .instance_size = sizeof(PCIDevice),
    .instance_finalize = pci_finalize,
    .class_size = sizeof(PCIDeviceClass),
    .class_init = pci_class_init,
    .abstract = true,
};

static void register_pci(void)
{
    type_register_static(&pci_info);
}
type_init(register_pci)
