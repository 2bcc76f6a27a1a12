/* PCI for scripts: configuration space, BARs, what is on a bus. */
#include "engine/hw/pci/pci.h"

#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/script-type.h"

static PCIDevice *check_device(lua_State *L)
{
    PCIDevice *dev = binding_check_object(L, 1, TYPE_PCI_DEVICE);

    if (!dev->bus) {
        luaL_error(L, "%s: not realized", object_get_name((Object *)dev));
    }
    return dev;
}

static uint32_t check_offset(lua_State *L, const PCIDevice *dev, unsigned size)
{
    return (uint32_t)binding_check_range(L, 2, 0, dev->config_size - size, "offset");
}

static unsigned opt_size(lua_State *L, int arg)
{
    lua_Integer size = luaL_optinteger(L, arg, 4);

    if (size != 1 && size != 2 && size != 4) {
        luaL_argerror(L, arg, "1, 2 or 4 expected");
    }
    return (unsigned)size;
}

static int l_config_read(lua_State *L)
{
    PCIDevice *dev = check_device(L);
    unsigned size = opt_size(L, 3);
    uint32_t offset = check_offset(L, dev, size);
    PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);
    uint32_t value = pc->config_read ? pc->config_read(dev, offset, size)
                                     : pci_default_config_read(dev, offset, size);

    lua_pushinteger(L, value);
    return 1;
}

static int l_config_write(lua_State *L)
{
    PCIDevice *dev = check_device(L);
    unsigned size = opt_size(L, 4);
    uint32_t offset = check_offset(L, dev, size);
    uint32_t value = (uint32_t)binding_check_range(L, 3, 0, UINT32_MAX, "value");
    PCIDeviceClass *pc = PCI_DEVICE_GET_CLASS(dev);

    (pc->config_write ? pc->config_write : pci_default_config_write)(dev, offset, value, size);
    return 0;
}

static int l_bars(lua_State *L)
{
    PCIDevice *dev = check_device(L);
    int n = 0;

    lua_newtable(L);
    for (unsigned i = 0; i < PCI_NUM_REGIONS; i++) {
        const PCIRegion *r = &dev->regions[i];

        if (!r->memory) {
            continue;
        }
        lua_newtable(L);
        lua_pushinteger(L, i);
        lua_setfield(L, -2, "bar");
        lua_pushstring(L, i == PCI_ROM_SLOT ? "rom" : r->type & PCI_BAR_IO ? "io" : "memory");
        lua_setfield(L, -2, "kind");
        lua_pushinteger(L, (lua_Integer)r->size);
        lua_setfield(L, -2, "size");
        if (r->addr != PCI_UNMAPPED) {
            lua_pushinteger(L, (lua_Integer)r->addr);
            lua_setfield(L, -2, "addr");
        }
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int get_slot(lua_State *L)
{
    lua_pushinteger(L, PCI_SLOT(check_device(L)->devfn));
    return 1;
}

static int get_function(lua_State *L)
{
    lua_pushinteger(L, PCI_FUNCTION(check_device(L)->devfn));
    return 1;
}

static int get_pci_bus(lua_State *L)
{
    binding_push_object(L, check_device(L)->bus);
    return 1;
}

static int bus_devices(lua_State *L)
{
    PCIBus *bus = binding_check_object(L, 1, TYPE_PCI_BUS);
    int n = 0;

    lua_newtable(L);
    for (int devfn = 0; devfn < 256; devfn++) {
        PCIDevice *dev = pci_bus_device(bus, devfn);

        if (dev) {
            binding_push_object(L, dev);
            lua_rawseti(L, -2, ++n);
        }
    }
    return 1;
}

static int machine_pci(lua_State *L)
{
    binding_push_object(L, pci_machine_bus(binding_check_object(L, 1, TYPE_MACHINE)));
    return 1;
}

static const ApiFunction device_methods[] = {
    { "config_read", l_config_read, "(self, offset: integer, size?: 1|2|4): integer",
      "Reads its configuration space, as the guest would (4 bytes)." },
    { "config_write", l_config_write, "(self, offset: integer, value: integer, size?: 1|2|4)",
      "Writes it, as the guest would (4 bytes)." },
    { "bars", l_bars, "(self): { bar: integer, kind: string, size: integer, addr: integer? }[]",
      "Its base address registers and option ROM; addr while the guest has it mapped." },
    { NULL },
};
static const ApiField device_fields[] = {
    { "slot", get_slot, NULL, "integer", "Its slot on the bus, 0 to 31." },
    { "func", get_function, NULL, "integer", "Its function in the slot, 0 to 7." },
    { "pci_bus", get_pci_bus, NULL, "pci-bus", "The bus it is on." },
    { NULL },
};
static const ApiFunction bus_methods[] = {
    { "devices", bus_devices, "(self): pci-device[]", "Its devices, by slot and function." },
    { NULL },
};
static int machine_get_suspended(lua_State *L)
{
    lua_pushboolean(L, machine_suspended(binding_check_object(L, 1, TYPE_MACHINE)));
    return 1;
}

static int machine_get_waking(lua_State *L)
{
    lua_pushboolean(L, machine_waking(binding_check_object(L, 1, TYPE_MACHINE)));
    return 1;
}

static const ApiField machine_fields[] = {
    { "waking", machine_get_waking, NULL, "boolean",
      "In reset handlers: whether the reset is the end of a sleep." },
    { "suspended", machine_get_suspended, NULL, "boolean",
      "Whether it sleeps (S3): no vCPU runs until something wakes it." },
    { "pci", machine_pci, NULL, "pci-bus?", "Its first PCI bus." },
    { NULL },
};

/* Devices are below their bus; vm.NAME finds them there too, also behind bridges. */
static Object *find_below(Object *obj, const char *name, unsigned depth)
{
    for (unsigned i = 0; depth < 16 && i < object_child_count(obj); i++) {
        Object *child = object_child_at(obj, i), *found;
        bool is_device = object_dynamic_cast(child, TYPE_PCI_DEVICE) != NULL;

        if (is_device && child->name && !strcmp(child->name, name)) {
            return child;
        }
        if ((is_device || object_dynamic_cast(child, TYPE_PCI_BUS) ||
             object_dynamic_cast(child, TYPE_SYS_DEVICE)) &&
            (found = find_below(child, name, depth + 1))) {
            return found;
        }
    }
    return NULL;
}

static bool get_device(lua_State *L, Object *obj, const char *key)
{
    Object *found = object_get_child(obj, key) ? NULL : find_below(obj, key, 0);

    if (!found) {
        return false;
    }
    binding_push_object(L, found);
    return true;
}

static const BindingMembers machine_members = { .get = get_device };

void binding_open_pci(lua_State *L)
{
    binding_class(L, TYPE_PCI_DEVICE, "A device on a PCI bus.", device_methods, device_fields);
    binding_class(L, TYPE_PCI_BUS, "A PCI bus.", bus_methods, NULL);
    binding_class(L, TYPE_MACHINE, NULL, NULL, machine_fields);
    binding_class_members(TYPE_MACHINE, &machine_members);
    script_pci_open(L);
}
