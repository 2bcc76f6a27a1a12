/*
 * PCI devices whose types scripts define: identity, BARs, capabilities, interrupts, configuration
 * space, DMA. What handles of any PCI device can do is in pci.c.
 */
#include <inttypes.h>
#include <string.h>

#include "bindings/device-script.h"
#include "bindings/memory-script.h"
#include "engine/core/error.h"
#include "engine/hw/pci/msi.h"
#include "engine/hw/pci/pci.h"

#define TYPE_SCRIPT_BAR "pci-bar"
#define MAX_IO_BAR      256

/* What ties a BAR to its region: below the device, and gone before the region is. */
typedef struct ScriptBar {
    Object parent;
    PCIDevice *dev; /* NULL once unparented; it holds this object */
    unsigned n;
    Object *region; /* counted */
} ScriptBar;
OBJECT_DECLARE_SIMPLE_TYPE(ScriptBar, SCRIPT_BAR, TYPE_SCRIPT_BAR)

static void bar_unparent(Object *obj)
{
    ScriptBar *b = SCRIPT_BAR(obj);

    if (b->dev) {
        pci_unregister_bar(b->dev, b->n);
        b->dev = NULL;
    }
}

static void bar_finalize(Object *obj)
{
    ScriptBar *b = SCRIPT_BAR(obj);

    if (b->region) {
        object_unref(b->region);
    }
}

static void bar_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = bar_unparent;
}

static const TypeInfo bar_info = {
    .name = TYPE_SCRIPT_BAR,
    .parent = TYPE_OBJECT,
    .doc = "A base address register of a PCI device in Lua",
    .instance_size = sizeof(ScriptBar),
    .instance_finalize = bar_finalize,
    .class_init = bar_class_init,
};

static void register_types(void)
{
    type_register_static(&bar_info);
}
type_init(register_types)

void script_pci_cleanup(DeviceState *dev)
{
    for (unsigned i = object_child_count((Object *)dev); i-- > 0;) {
        Object *child = object_child_at((Object *)dev, i);

        if (child && object_dynamic_cast(child, TYPE_SCRIPT_BAR)) {
            object_unparent(child);
        }
    }
}

/* ---- the key `pci` of qom.type --------------------------------------------------------------- */

static unsigned opt_id(lua_State *L, const char *key, unsigned max, unsigned fallback,
                       const char *what)
{
    lua_Integer value = fallback;

    if (lua_getfield(L, -1, key) != LUA_TNIL) {
        int exact;

        value = lua_tointegerx(L, -1, &exact);
        if (!exact || lua_type(L, -1) != LUA_TNUMBER || value < 0 || value > max) {
            luaL_error(L, "%s: '%s' must be a whole number from 0 to %p", what, key,
                       (void *)(uintptr_t)max);
        }
    }
    lua_pop(L, 1);
    return (unsigned)value;
}

static uint8_t opt_pin(lua_State *L, uint8_t fallback, const char *what)
{
    static const char pins[] = "ABCD";
    uint8_t pin = fallback;

    if (lua_getfield(L, -1, "pin") != LUA_TNIL) {
        size_t len = 0;
        const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : "";
        const char *at = len == 1 ? strchr(pins, *s) : NULL;

        if (!at) {
            luaL_error(L, "%s: 'pin' must be \"A\", \"B\", \"C\" or \"D\"", what);
        }
        pin = (uint8_t)(at - pins + 1);
    }
    lua_pop(L, 1);
    return pin;
}

void script_pci_read(lua_State *L, int spec, ScriptType *st, ObjectClass *parent)
{
    static const char *const keys[] = { "vendor",    "device",  "class",
                                        "revision",  "pin",     "subsystem_vendor",
                                        "subsystem", "express", NULL };
    const PCIDeviceClass *pc = (const PCIDeviceClass *)object_class_dynamic_cast(parent,
                                                                                 TYPE_PCI_DEVICE);
    bool plain = pc && !strcmp(object_class_get_name(parent), TYPE_PCI_DEVICE);
    char what[160];

    g_snprintf(what, sizeof(what), "type '%s': pci", st->name);
    st->is_pci = pc != NULL;
    if (pc) {
        st->pci = st->parent ? st->parent->pci
                             : (ScriptPci){ .vendor = pc->vendor_id,
                                            .device = pc->device_id,
                                            .class_code = pc->class_code,
                                            .revision = pc->revision,
                                            .subsystem_vendor = pc->subsystem_vendor_id,
                                            .subsystem = pc->subsystem_id,
                                            .express = pc->is_express };
    }
    st->config_read = script_opt_function(L, spec, "config_read", st->name);
    st->config_write = script_opt_function(L, spec, "config_write", st->name);
    if (!pc && (st->config_read || st->config_write)) {
        luaL_error(L, "type '%s': config_read and config_write are for types below 'pci-device'",
                   st->name);
    }
    if (lua_getfield(L, spec, "pci") == LUA_TNIL) {
        if (plain && !script_opt_bool(L, spec, "abstract", false, st->name)) {
            luaL_error(L, "%s: a PCI device needs one: { vendor =, device =, class = }", what);
        }
        lua_pop(L, 1);
        return;
    }
    if (!pc || !lua_istable(L, -1)) {
        luaL_error(L, pc ? "%s: a table expected" : "%s: it is for types below 'pci-device'", what);
    }
    binding_check_keys(L, lua_gettop(L), keys, what);
    st->pci.vendor = (uint16_t)opt_id(L, "vendor", 0xfffe, st->pci.vendor, what);
    st->pci.device = (uint16_t)opt_id(L, "device", 0xffff, st->pci.device, what);
    st->pci.class_code = opt_id(L, "class", 0xffffff, st->pci.class_code, what);
    st->pci.revision = (uint8_t)opt_id(L, "revision", 0xff, st->pci.revision, what);
    st->pci.subsystem_vendor = (uint16_t)opt_id(L, "subsystem_vendor", 0xffff,
                                                st->pci.subsystem_vendor, what);
    st->pci.subsystem = (uint16_t)opt_id(L, "subsystem", 0xffff, st->pci.subsystem, what);
    st->pci.pin = opt_pin(L, st->pci.pin, what);
    st->pci.express = script_opt_bool(L, lua_gettop(L), "express", st->pci.express, what);
    if (!st->pci.vendor) {
        luaL_error(L, "%s: no vendor", what);
    }
    lua_pop(L, 1);
}

/* ---- configuration space --------------------------------------------------------------------- */

/* The parent's hook sees an access first; the value that a function of config_read answers is what
 * the next one is given. */
static uint32_t config_read(PCIDevice *dev, uint32_t addr, unsigned len)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of((Object *)dev);
    unsigned n = script_type_chain(st, chain);
    uint32_t value = st->root->c_config_read ? st->root->c_config_read(dev, addr, len)
                                             : pci_default_config_read(dev, addr, len);

    for (unsigned i = 0; i < n; i++) {
        lua_State *L = chain[i]->config_read ? binding_state() : NULL;
        GError *error = NULL;

        if (!L || !script_ref_push(L, chain[i]->config_read)) {
            continue;
        }
        binding_push_object(L, dev);
        lua_pushinteger(L, addr);
        lua_pushinteger(L, len);
        lua_pushinteger(L, value);
        if (!binding_call(L, 4, 1, true, script_ref_what(chain[i]->config_read), &error)) {
            device_script_failed(&dev->parent, error);
            return value;
        }
        if (lua_isinteger(L, -1)) {
            value = (uint32_t)lua_tointeger(L, -1) & (UINT32_MAX >> (32 - 8 * len));
        } else if (!lua_isnil(L, -1)) {
            error_set(&error, ENGINE_ERROR_SCRIPT, "%s: a whole number expected, got a %s",
                      script_ref_what(chain[i]->config_read), luaL_typename(L, -1));
            device_script_failed(&dev->parent, error);
        }
        lua_pop(L, 1);
    }
    return value;
}

static void config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of((Object *)dev);
    unsigned n = script_type_chain(st, chain);

    (st->root->c_config_write ? st->root->c_config_write : pci_default_config_write)(dev, addr,
                                                                                     value, len);
    for (unsigned i = 0; i < n; i++) {
        lua_State *L = chain[i]->config_write ? binding_state() : NULL;
        GError *error = NULL;

        if (!L || !script_ref_push(L, chain[i]->config_write)) {
            continue;
        }
        binding_push_object(L, dev);
        lua_pushinteger(L, addr);
        lua_pushinteger(L, len);
        lua_pushinteger(L, value);
        if (!binding_call(L, 4, 0, true, script_ref_what(chain[i]->config_write), &error)) {
            device_script_failed(&dev->parent, error);
            return;
        }
    }
}

void script_pci_class_init(ScriptType *st, ObjectClass *klass)
{
    PCIDeviceClass *pc = (PCIDeviceClass *)klass;

    if (st->root == st) {
        st->c_config_read = pc->config_read;
        st->c_config_write = pc->config_write;
    }
    pc->vendor_id = st->pci.vendor;
    pc->device_id = st->pci.device;
    pc->class_code = st->pci.class_code;
    pc->revision = st->pci.revision;
    pc->subsystem_vendor_id = st->pci.subsystem_vendor;
    pc->subsystem_id = st->pci.subsystem;
    pc->is_express = st->pci.express;
    if (st->config_read) {
        pc->config_read = config_read;
    }
    if (st->config_write) {
        pc->config_write = config_write;
    }
}

void script_pci_realize(const ScriptType *st, DeviceState *dev)
{
    if (st->pci.pin) {
        PCI_DEVICE(dev)->config[PCI_INTERRUPT_PIN] = st->pci.pin;
    }
}

/* ---- what a device does in realize ----------------------------------------------------------- */

/* Of a script type, between the begin and the end of its realize. */
static PCIDevice *check_realizing(lua_State *L, const char *what)
{
    PCIDevice *dev = binding_check_object(L, 1, TYPE_PCI_DEVICE);

    if (!script_type_of((Object *)dev)) {
        luaL_error(L, "%s: %s is for devices in Lua", pci_name(dev), what);
    }
    if (!dev->parent.realizing) {
        luaL_error(L, "%s: %s is for the device's realize function", pci_name(dev), what);
    }
    return dev;
}

typedef struct BarKind {
    const char *name;
    uint8_t type;
} BarKind;

static const BarKind bar_kinds[] = {
    { "io", PCI_BAR_IO },
    { "memory", PCI_BAR_MEM32 },
    { "memory64", PCI_BAR_MEM64 },
    { "prefetchable", PCI_BAR_MEM32 | PCI_BAR_PREFETCH },
    { "prefetchable64", PCI_BAR_MEM64 | PCI_BAR_PREFETCH },
};

static uint8_t check_kind(lua_State *L, int arg)
{
    const char *word = luaL_checkstring(L, arg);

    for (unsigned i = 0; i < G_N_ELEMENTS(bar_kinds); i++) {
        if (!strcmp(word, bar_kinds[i].name)) {
            return bar_kinds[i].type;
        }
    }
    luaL_argerror(L, arg, "io, memory, memory64, prefetchable or prefetchable64 expected");
    return 0;
}

static bool bar_taken(const PCIDevice *dev, unsigned n)
{
    const PCIRegion *below = n ? &dev->regions[n - 1] : NULL;

    return dev->regions[n].memory ||
           (below && below->memory && !(below->type & PCI_BAR_IO) && below->type & PCI_BAR_MEM64);
}

static void check_bar(lua_State *L, const PCIDevice *dev, unsigned n, uint8_t type, uint64_t size)
{
    bool io = type & PCI_BAR_IO, wide = !io && type & PCI_BAR_MEM64;
    uint64_t most = io ? MAX_IO_BAR : wide ? UINT64_C(1) << 47 : UINT64_C(1) << 31;

    if (size & (size - 1) || size < (io ? 4 : 16) || size > most) {
        luaL_error(L,
                   "%s: BAR %d: %I bytes: a power of two from %d is expected, of at most %I here",
                   pci_name(dev), (int)n, (LUAI_UACINT)size, io ? 4 : 16, (LUAI_UACINT)most);
    }
    if (bar_taken(dev, n) || (wide && (n == PCI_NUM_BARS - 1 || dev->regions[n + 1].memory))) {
        luaL_error(L, "%s: BAR %d: %s", pci_name(dev), (int)n,
                   wide ? "it and the next are not both free" : "it is taken already");
    }
}

static void tie_bar(lua_State *L, PCIDevice *dev, unsigned n, uint8_t type, Object *region,
                    MemoryRegion *mr)
{
    g_autofree char *name = g_strdup_printf("bar%u", n);
    GError *error = NULL;
    ScriptBar *b = (ScriptBar *)object_new(TYPE_SCRIPT_BAR, &error);
    bool ok;

    if (b) {
        b->n = n;
        b->region = object_ref(region);
        ok = object_add_child((Object *)dev, name, (Object *)b, &error);
        if (ok) {
            pci_register_bar(dev, n, type, mr);
            b->dev = dev;
        }
        object_unref(b);
        if (ok) {
            return;
        }
    }
    g_clear_pointer(&name, g_free); /* raising frees nothing */
    binding_raise(L, error);
}

/* dev:bar(n, kind, size, handlers) or dev:bar(n, kind, region) */
static int device_bar(lua_State *L)
{
    PCIDevice *dev = check_realizing(L, "bar");
    unsigned n = (unsigned)binding_check_range(L, 2, 0, PCI_NUM_BARS - 1, "BAR");
    uint8_t type = check_kind(L, 3);
    char what[160], place[32];
    Object *region;

    if (!lua_istable(L, 5)) {
        MemoryRegion *mr = script_check_region(L, 4);

        if (mr->container) {
            return luaL_error(L, "%s: BAR %d: the region is mapped already", pci_name(dev), (int)n);
        }
        check_bar(L, dev, n, type, mr->size);
        tie_bar(L, dev, n, type, binding_check_object(L, 4, TYPE_OBJECT), mr);
        lua_settop(L, 4);
        return 1;
    }
    check_bar(L, dev, n, type, binding_check_u64(L, 4, "size"));
    g_snprintf(what, sizeof(what), "%s:bar(%u)", pci_name(dev), n);
    g_snprintf(place, sizeof(place), "region-bar%u", n);
    region = device_region_make(L, &dev->parent, 5, type & PCI_BAR_IO,
                                binding_check_u64(L, 4, "size"), place, what);
    tie_bar(L, dev, n, type, region, device_region_memory(region));
    return 1;
}

static int device_capability(lua_State *L)
{
    PCIDevice *dev = check_realizing(L, "capability");
    uint8_t id = (uint8_t)binding_check_range(L, 2, 0, 0xff, "ID");
    size_t len, n_writable = 0;
    const char *bytes = luaL_checklstring(L, 3, &len);
    const char *writable = luaL_optlstring(L, 4, NULL, &n_writable);
    GError *error = NULL;
    uint8_t at;

    luaL_argcheck(L, len <= PCI_CONFIG_SIZE - PCI_CONFIG_HEADER - 2, 3, "too long");
    luaL_argcheck(L, n_writable <= len, 4, "longer than the bytes");
    luaL_argcheck(L, id != PCI_CAP_MSI && id != PCI_CAP_MSIX, 2,
                  "MSI and MSI-X: use_msi and use_msix make theirs");
    at = pci_add_capability(dev, id, 0, (uint8_t)(len + 2), &error);
    if (!at) {
        return binding_raise(L, error);
    }
    memcpy(dev->config + at + 2, bytes, len);
    for (size_t i = 0; i < n_writable; i++) {
        dev->wmask[at + 2 + i] = (uint8_t)writable[i];
    }
    for (size_t i = 0; i < len; i++) {
        dev->cmask[at + 2 + i] = (uint8_t)~dev->wmask[at + 2 + i];
    }
    lua_pushinteger(L, at);
    return 1;
}

static lua_Integer opt_number(lua_State *L, const char *key, lua_Integer fallback)
{
    lua_Integer value = fallback;

    if (binding_get_key(L, 2, key) != LUA_TNIL) {
        value = luaL_checkinteger(L, -1);
    }
    lua_pop(L, 1);
    return value;
}

static int device_use_msi(lua_State *L)
{
    static const char *const keys[] = { "vectors", "maskable", NULL };
    PCIDevice *dev = check_realizing(L, "use_msi");
    lua_Integer vectors = 1;
    bool maskable = false;
    GError *error = NULL;

    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        binding_check_keys(L, 2, keys, "use_msi");
        vectors = opt_number(L, "vectors", 1);
        maskable = script_opt_bool(L, 2, "maskable", false, "use_msi");
    }
    if (vectors < 1 || vectors > 32 || vectors & (vectors - 1)) {
        return luaL_error(L, "%s: use_msi: 1, 2, 4, 8, 16 or 32 vectors expected, got %I",
                          pci_name(dev), (LUAI_UACINT)vectors);
    }
    if (dev->msi_cap) {
        return luaL_error(L, "%s: use_msi: it has MSI already", pci_name(dev));
    }
    return msi_init(dev, 0, (unsigned)vectors, true, maskable, &error) ? 0
                                                                       : binding_raise(L, error);
}

static int device_use_msix(lua_State *L)
{
    static const char *const keys[] = { "vectors", "bar", NULL };
    PCIDevice *dev = check_realizing(L, "use_msix");
    lua_Integer vectors, bar;
    GError *error = NULL;

    luaL_checktype(L, 2, LUA_TTABLE);
    binding_check_keys(L, 2, keys, "use_msix");
    vectors = opt_number(L, "vectors", 1);
    bar = opt_number(L, "bar", -1);
    if (bar < 0 || bar >= PCI_NUM_BARS || bar_taken(dev, (unsigned)bar)) {
        return luaL_error(L, "%s: use_msix: a bar of its own expected, 0 to %d", pci_name(dev),
                          PCI_NUM_BARS - 1);
    }
    if (vectors < 1 || vectors > PCI_MSIX_MAX) {
        return luaL_error(L, "%s: use_msix: 1 to %d vectors expected, got %I", pci_name(dev),
                          PCI_MSIX_MAX, (LUAI_UACINT)vectors);
    }
    if (dev->msix_cap) {
        return luaL_error(L, "%s: use_msix: it has MSI-X already", pci_name(dev));
    }
    return msix_init_exclusive_bar(dev, (unsigned)vectors, (unsigned)bar, &error)
               ? 0
               : binding_raise(L, error);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

static PCIDevice *check_on_bus(lua_State *L)
{
    PCIDevice *dev = binding_check_object(L, 1, TYPE_PCI_DEVICE);

    if (!dev->bus) {
        luaL_error(L, "%s: not realized", pci_name(dev));
    }
    if (!script_type_of((Object *)dev)) {
        luaL_error(L, "%s: only a device in Lua is interrupted for by scripts", pci_name(dev));
    }
    return dev;
}

static int device_set_irq(lua_State *L)
{
    PCIDevice *dev = check_on_bus(L);

    luaL_checktype(L, 2, LUA_TBOOLEAN);
    if (!dev->config[PCI_INTERRUPT_PIN]) {
        return luaL_error(L, "%s: it has no interrupt pin: say pci = { pin = \"A\" } in its type",
                          pci_name(dev));
    }
    pci_set_irq(dev, lua_toboolean(L, 2));
    return 0;
}

static int device_notify_msi(lua_State *L)
{
    PCIDevice *dev = check_on_bus(L);
    unsigned vector = (unsigned)binding_check_range(
        L, lua_isnoneornil(L, 2) ? (lua_pushinteger(L, 0), lua_gettop(L)) : 2, 0, PCI_MSIX_MAX - 1,
        "vector");
    bool sent = true;

    if (msix_enabled(dev)) {
        if (vector >= msix_vectors(dev)) {
            return luaL_error(L, "%s: vector %d: it has %d", pci_name(dev), (int)vector,
                              (int)msix_vectors(dev));
        }
        msix_notify(dev, vector);
    } else if (msi_enabled(dev)) {
        msi_notify(dev, vector);
    } else {
        sent = false;
    }
    lua_pushboolean(L, sent);
    return 1;
}

static int get_msi_enabled(lua_State *L)
{
    PCIDevice *dev = binding_check_object(L, 1, TYPE_PCI_DEVICE);

    lua_pushboolean(L, dev->bus && msi_enabled(dev));
    return 1;
}

static int get_msix_enabled(lua_State *L)
{
    PCIDevice *dev = binding_check_object(L, 1, TYPE_PCI_DEVICE);

    lua_pushboolean(L, dev->bus && msix_enabled(dev));
    return 1;
}

/* ---- DMA ------------------------------------------------------------------------------------- */

AddressSpace *device_dma_space(DeviceState *dev, MemTxAttrs *attrs)
{
    PCIDevice *pci = (PCIDevice *)object_dynamic_cast((Object *)dev, TYPE_PCI_DEVICE);

    *attrs = MEMTXATTRS_NONE;
    if (!pci || !pci->bus) {
        return dev->machine->memory;
    }
    *attrs = pci_dma_attrs(pci);
    return pci_dma_space(pci);
}

/* ---- declarations ---------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "bar", device_bar,
      "(self, n: integer, kind: "
      "\"io\"|\"memory\"|\"memory64\"|\"prefetchable\"|\"prefetchable64\", "
      "size: integer|string|memory-region, handlers?: RegionHandlers): device-region|memory-region",
      "Devices in Lua, in realize: a base address register, with handlers as of pio and mmio, or "
      "over a region of\nthe machine's, like RAM. The guest maps it." },
    { "capability", device_capability,
      "(self, id: integer, bytes: string, writable?: string): integer",
      "Devices in Lua, in realize: adds a capability, of which bytes follow ID and link; a mask "
      "says "
      "what the guest\nmay write. Answers its offset." },
    { "use_msi", device_use_msi, "(self, options?: { vectors?: integer, maskable?: boolean })",
      "Devices in Lua, in realize: it can send message-signalled interrupts." },
    { "use_msix", device_use_msix, "(self, options: { vectors?: integer, bar: integer })",
      "Devices in Lua, in realize: it has MSI-X, in a BAR of its own." },
    { "set_irq", device_set_irq, "(self, level: boolean)",
      "Devices in Lua: drives its interrupt pin." },
    { "notify", device_notify_msi, "(self, vector?: integer): boolean",
      "Devices in Lua: sends a message by MSI-X or MSI, whichever the guest has switched on; "
      "false: "
      "neither, so\nthat the pin is to be used." },
    { NULL },
};
static const ApiField fields[] = {
    { "msi_enabled", get_msi_enabled, NULL, "boolean", "Whether the guest uses MSI." },
    { "msix_enabled", get_msix_enabled, NULL, "boolean", "Whether the guest uses MSI-X." },
    { NULL },
};

void script_pci_open(lua_State *L)
{
    binding_class(L, TYPE_PCI_DEVICE, NULL, methods, fields);
}
