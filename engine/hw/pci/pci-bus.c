/* PCI buses: who is where, interrupt lines, configuration access by number. See pci.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci-priv.h"

#define MAX_BUS_DEPTH                                                          \
    32 /* of bridges behind bridges; guards walks over numbers a guest made up \
        */

/* ---- making ------------------------------------------------------------------------------- */

static PCIBus *bus_new(DeviceState *owner, const char *name, MemoryRegion *memory, MemoryRegion *io,
                       GError **error)
{
    PCIBus *bus = PCI_BUS(object_new(TYPE_PCI_BUS, error));

    bus->owner = DEVICE(object_ref(owner));
    bus->memory = memory;
    bus->io = io;
    if (!object_add_child(OBJECT(owner), name, OBJECT(bus), error)) {
        object_unref(bus);
        return NULL;
    }
    object_unref(bus); /* the tree has one */
    return bus;
}

PCIBus *pci_root_bus_new(DeviceState *owner, const char *name, MemoryRegion *memory,
                         MemoryRegion *io, GError **error)
{
    PCIBus *bus = bus_new(owner, name, memory, io, error);

    if (bus) {
        memory_region_init(&bus->nowhere, OBJECT(bus), "pci-nowhere", MEMORY_REGION_MAX);
        bus->nowhere_as = address_space_new(ADDRESS_SPACE_OTHER, &bus->nowhere, "pci-nowhere");
    }
    return bus;
}

PCIBus *pci_secondary_bus_new(PCIDevice *bridge, const char *name, MemoryRegion *memory,
                              MemoryRegion *io, GError **error)
{
    PCIBus *bus = bus_new(&bridge->parent, name, memory, io, error);

    if (bus) {
        bus->bridge = bridge;
    }
    return bus;
}

void pci_bus_close(PCIBus *bus)
{
    bus->set_irq = NULL;
    object_unparent(OBJECT(bus));
}

static void bus_finalize(Object *obj)
{
    PCIBus *bus = PCI_BUS(obj);

    if (bus->nowhere_as) {
        address_space_free(bus->nowhere_as);
        memory_region_finalize(&bus->nowhere);
    }
    object_unref(bus->owner);
}

/* ---- looking ------------------------------------------------------------------------------- */

PCIDevice *pci_bus_device(const PCIBus *bus, int devfn)
{
    return devfn >= 0 && devfn < 256 ? bus->devices[devfn] : NULL;
}

PCIDevice *pci_bus_bridge(const PCIBus *bus)
{
    return bus->bridge;
}

PCIBus *pci_bus_parent(const PCIBus *bus)
{
    return bus->bridge ? bus->bridge->bus : NULL;
}

PCIBus *pci_bus_root(PCIBus *bus)
{
    while (bus->bridge) {
        bus = bus->bridge->bus;
    }
    return bus;
}

uint8_t pci_bus_number(const PCIBus *bus)
{
    return bus->bridge ? bus->bridge->config[PCI_SECONDARY_BUS] : 0;
}

MemoryRegion *pci_bus_memory(const PCIBus *bus)
{
    return bus->memory;
}

MemoryRegion *pci_bus_io(const PCIBus *bus)
{
    return bus->io;
}

void pci_bus_foreach(PCIBus *bus, void (*fn)(PCIDevice *dev, void *opaque), void *opaque)
{
    for (int devfn = 0; devfn < 256; devfn++) {
        if (bus->devices[devfn]) {
            fn(bus->devices[devfn], opaque);
        }
    }
}

static PCIBus *behind(const PCIDevice *dev)
{
    for (unsigned i = 0; i < object_child_count(&dev->parent.parent); i++) {
        Object *child = object_child_at(&dev->parent.parent, i);

        if (is_PCI_BUS(child) && PCI_BUS(child)->bridge == dev) {
            return PCI_BUS(child);
        }
    }
    return NULL;
}

/* The bridge on `bus` that forwards configuration cycles for this number. */
static PCIBus *find_behind(const PCIBus *bus, uint8_t number)
{
    for (int devfn = 0; devfn < 256; devfn++) {
        PCIDevice *dev = bus->devices[devfn];

        if (dev && PCI_DEVICE_GET_CLASS(dev)->is_bridge && dev->config[PCI_SECONDARY_BUS] &&
            dev->config[PCI_SECONDARY_BUS] <= number &&
            number <= dev->config[PCI_SUBORDINATE_BUS]) {
            return behind(dev);
        }
    }
    return NULL;
}

PCIBus *pci_find_bus(PCIBus *root, uint8_t number)
{
    PCIBus *bus = root;

    for (int depth = 0; bus && depth < MAX_BUS_DEPTH; depth++) {
        if (pci_bus_number(bus) == number) {
            return bus;
        }
        bus = find_behind(bus, number);
    }
    return NULL;
}

static PCIBus *find_root(Object *obj, unsigned depth)
{
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        Object *child = object_child_at(obj, i);

        if (is_PCI_BUS(child) && !PCI_BUS(child)->bridge) {
            return PCI_BUS(child);
        }
        if (depth < 4 && child->realized) {
            PCIBus *found = find_root(child, depth + 1);

            if (found) {
                return found;
            }
        }
    }
    return NULL;
}

PCIBus *pci_machine_bus(Machine *m)
{
    return find_root(OBJECT(m), 0);
}

/* ---- placing a device ---------------------------------------------------------------------- */

/* "1f", "0x1f.7": slot and function are hexadecimal, as PCI addresses are written. */
static bool parse_addr(PCIDevice *dev, int *devfn, GError **error)
{
    char *end;
    unsigned long slot, fn = 0;
    bool ok = g_ascii_isxdigit(dev->addr[0]);

    slot = strtoul(dev->addr, &end, 16);
    if (ok && *end == '.') {
        ok = g_ascii_isdigit(end[1]);
        fn = strtoul(end + 1, &end, 16);
    }
    if (!ok || *end || slot >= PCI_SLOTS || fn >= PCI_FUNCTIONS) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: addr: expected slot (0-1f) or slot.function (0-7), got '%s'",
                         pci_name(dev), dev->addr);
    }
    *devfn = PCI_DEVFN(slot, fn);
    return true;
}

static bool slot_free(const PCIBus *bus, int slot)
{
    for (int fn = 0; fn < PCI_FUNCTIONS; fn++) {
        if (bus->devices[PCI_DEVFN(slot, fn)]) {
            return false;
        }
    }
    return true;
}

/* Software looks at functions 1-7 only where function 0 says that there are some. */
static bool check_functions(PCIDevice *dev, const PCIBus *bus, int devfn, GError **error)
{
    int slot = PCI_SLOT(devfn);
    const PCIDevice *first = bus->devices[PCI_DEVFN(slot, 0)];

    if (PCI_FUNCTION(devfn) != 0) {
        return !first || first->multifunction ||
               error_set(error, ENGINE_ERROR_INVALID,
                         "%s: addr %x.%x: %s in function 0 of the slot is not multifunction",
                         pci_name(dev), slot, PCI_FUNCTION(devfn), pci_name(first));
    }
    return dev->multifunction || slot_free(bus, slot) ||
           error_set(error, ENGINE_ERROR_INVALID,
                     "%s: addr %x.0: the slot has other functions, so this one is to be "
                     "multifunction",
                     pci_name(dev), slot);
}

bool pci_bus_place(PCIDevice *dev, GError **error)
{
    PCIBus *bus = dev->bus_link ? PCI_BUS(dev->bus_link) : pci_machine_bus(dev->parent.machine);
    int devfn = -1;

    if (!bus) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: the machine has no PCI bus",
                         pci_name(dev));
    }
    if (bus->owner->machine != dev->parent.machine) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: bus %s belongs to no part of %s",
                         pci_name(dev), object_get_name(OBJECT(bus)),
                         object_get_name(OBJECT(dev->parent.machine)));
    }
    if (dev->addr && dev->addr[0]) {
        if (!parse_addr(dev, &devfn, error)) {
            return false;
        }
        if (bus->devices[devfn]) {
            return error_set(error, ENGINE_ERROR_INVALID, "%s: addr %x.%x of %s is taken by %s",
                             pci_name(dev), PCI_SLOT(devfn), PCI_FUNCTION(devfn),
                             object_get_name(OBJECT(bus)), pci_name(bus->devices[devfn]));
        }
    } else {
        /* Slot 0 is the host bridge's on a root bus, and not used behind a bridge by convention. */
        for (int slot = 1; slot < PCI_SLOTS && devfn < 0; slot++) {
            devfn = slot_free(bus, slot) ? PCI_DEVFN(slot, 0) : -1;
        }
        if (devfn < 0) {
            return error_set(error, ENGINE_ERROR_LIMIT, "%s: no slot of %s is free", pci_name(dev),
                             object_get_name(OBJECT(bus)));
        }
    }
    if (!check_functions(dev, bus, devfn, error)) {
        return false;
    }
    dev->bus = bus;
    dev->devfn = devfn;
    return true;
}

/* ---- interrupt lines ----------------------------------------------------------------------- */

void pci_bus_set_irqs(PCIBus *bus, PCISetIrqFn set, PCIMapIrqFn map, void *opaque, int n_lines)
{
    g_assert(!bus->bridge && n_lines <= (int)G_N_ELEMENTS(bus->irq_count));
    bus->set_irq = set;
    bus->map_irq = map;
    bus->irq_opaque = opaque;
    bus->n_lines = set ? n_lines : 0;
}

void pci_bus_pin(PCIDevice *dev, int pin, int delta, bool tell)
{
    PCIBus *bus = dev->bus;
    int devfn = dev->devfn, line;

    /* Behind a bridge pins rotate by slot (PCI-to-PCI Bridge 1.2, 9.1). */
    while (bus->bridge) {
        pin = (pin + PCI_SLOT(devfn)) % PCI_NUM_PINS;
        devfn = bus->bridge->devfn;
        bus = bus->bridge->bus;
        if (!bus) {
            return; /* the bridge leaves, and takes its lines down itself */
        }
    }
    if (!bus->set_irq) {
        return;
    }
    line = bus->map_irq(bus->irq_opaque, devfn, pin);
    if (line < 0 || line >= bus->n_lines) {
        return;
    }
    bus->irq_count[line] = (uint16_t)(bus->irq_count[line] + delta);
    if (tell) {
        bus->set_irq(bus->irq_opaque, line, bus->irq_count[line] != 0);
    }
}

void pci_bus_update_irqs(PCIBus *bus)
{
    for (int line = 0; line < bus->n_lines; line++) {
        bus->set_irq(bus->irq_opaque, line, bus->irq_count[line] != 0);
    }
}

int pci_bus_line_level(const PCIBus *bus, int line)
{
    return line >= 0 && line < bus->n_lines && bus->irq_count[line] != 0;
}

/* ---- configuration access ------------------------------------------------------------------ */

static PCIDevice *find_device(PCIBus *root, uint8_t number, uint8_t devfn, uint32_t addr,
                              unsigned len)
{
    PCIBus *bus = pci_find_bus(root, number);
    PCIDevice *dev = bus ? bus->devices[devfn] : NULL;

    return dev && addr + len <= dev->config_size ? dev : NULL;
}

uint32_t pci_config_access_read(PCIBus *root, uint8_t bus, uint8_t devfn, uint32_t addr,
                                unsigned len)
{
    PCIDevice *dev = find_device(root, bus, devfn, addr, len);
    uint32_t value = UINT32_MAX;

    if (dev) {
        PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);

        value = pc->config_read ? pc->config_read(dev, addr, len)
                                : pci_default_config_read(dev, addr, len);
    }
    return len < 4 ? value & ((1u << (8 * len)) - 1) : value;
}

void pci_config_access_write(PCIBus *root, uint8_t bus, uint8_t devfn, uint32_t addr,
                             uint32_t value, unsigned len)
{
    PCIDevice *dev = find_device(root, bus, devfn, addr, len);
    PCIDeviceClass *pc;

    if (!dev) {
        return;
    }
    pc = PCI_DEVICE_GET_CLASS(dev);
    if (pc->config_write) {
        pc->config_write(dev, addr, value, len);
    } else {
        pci_default_config_write(dev, addr, value, len);
    }
}

/* ---- the type ------------------------------------------------------------------------------ */

static const TypeInfo bus_info = {
    .name = TYPE_PCI_BUS,
    .parent = TYPE_OBJECT,
    .doc = "A PCI bus: its devices are below it",
    .instance_size = sizeof(PCIBus),
    .instance_finalize = bus_finalize,
};

static void register_bus(void)
{
    type_register_static(&bus_info);
}
type_init(register_bus)
