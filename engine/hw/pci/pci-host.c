/* Configuration mechanism 1. See pci-host.h. */
#include "engine/hw/pci/pci-host.h"

#include "engine/core/log.h"
#include "engine/hw/pci/pci-priv.h"

#define CONFIG_ENABLE 0x80000000u

/* CONFIG_ADDRESS is a register of 32 bits: narrower accesses are ordinary I/O cycles, of which the
 * byte at 0xcf9 belongs to the reset control register. */
static bool is_reset_port(hwaddr addr, unsigned size)
{
    return addr == 1 && size == 1;
}

static uint64_t address_read(void *opaque, hwaddr addr, unsigned size)
{
    PCIHost *h = opaque;

    if (size == 4 && addr == 0) {
        return h->address;
    }
    if (is_reset_port(addr, size) && h->reset_read) {
        return h->reset_read(h->reset_opaque);
    }
    return UINT64_MAX >> (64 - 8 * size);
}

static void address_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PCIHost *h = opaque;

    if (size == 4 && addr == 0) {
        h->address = (uint32_t)data;
    } else if (is_reset_port(addr, size) && h->reset_write) {
        h->reset_write(h->reset_opaque, (uint8_t)data);
    } else {
        log_of(h->address_io.owner, LOG_GUEST, "CONFIG_ADDRESS: write of %u bytes at %#x", size,
               0xcf8 + (unsigned)addr);
    }
}

static const MemoryRegionOps address_ops = {
    .read = address_read,
    .write = address_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
};

static uint32_t config_register(const PCIHost *h, hwaddr addr)
{
    return (h->address & 0xfc) | (uint32_t)addr;
}

static uint64_t data_read(void *opaque, hwaddr addr, unsigned size)
{
    PCIHost *h = opaque;

    if (!(h->address & CONFIG_ENABLE)) {
        return UINT32_MAX;
    }
    return pci_config_access_read(h->bus, (uint8_t)(h->address >> 16), (uint8_t)(h->address >> 8),
                                  config_register(h, addr), size);
}

static void data_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    PCIHost *h = opaque;

    if (h->address & CONFIG_ENABLE) {
        pci_config_access_write(h->bus, (uint8_t)(h->address >> 16), (uint8_t)(h->address >> 8),
                                config_register(h, addr), (uint32_t)data, size);
    }
}

static const MemoryRegionOps data_ops = {
    .read = data_read,
    .write = data_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4 },
    .impl = { .min_access_size = 1, .max_access_size = 4 },
};

bool pci_host_init(PCIHost *h, DeviceState *dev, PCIBus *bus, GError **error)
{
    h->bus = bus;
    memory_region_finalize(&h->address_io); /* of an earlier life */
    memory_region_finalize(&h->data_io);
    memory_region_init_io(&h->address_io, OBJECT(dev), &address_ops, h, "pci-config-address", 4);
    memory_region_init_io(&h->data_io, OBJECT(dev), &data_ops, h, "pci-config-data", 4);
    return device_map_io(dev, 0xcf8, &h->address_io, error) &&
           device_map_io(dev, 0xcfc, &h->data_io, error);
}

void pci_host_finalize(PCIHost *h)
{
    memory_region_finalize(&h->address_io);
    memory_region_finalize(&h->data_io);
}

void pci_host_set_reset_port(PCIHost *h, uint8_t (*read)(void *opaque),
                             void (*write)(void *opaque, uint8_t value), void *opaque)
{
    h->reset_read = read;
    h->reset_write = write;
    h->reset_opaque = opaque;
}

PCIHost *pci_host_of_bus(PCIBus *bus)
{
    DeviceState *owner = pci_bus_root(bus)->owner;
    PCIHostClass *hc = INTERFACE_GET(owner, TYPE_PCI_HOST);

    return hc && hc->get_host ? hc->get_host(owner) : NULL;
}

static const TypeInfo host_info = {
    .name = TYPE_PCI_HOST,
    .parent = TYPE_INTERFACE,
    .doc = "A host bridge with configuration mechanism 1",
    .class_size = sizeof(PCIHostClass),
};

static void register_host(void)
{
    type_register_static(&host_info);
}
type_init(register_host)
