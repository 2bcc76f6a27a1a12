/*
 * Class "device", continued: ports and MMIO with handlers in Lua.
 *
 * A region with handlers is an object below its device ("device-region"): it has a path, shows in
 * the tree, goes with the device, and views that still show it keep its memory. Its functions are
 * registry references, so that an access builds no string and looks up no name.
 */
#include <inttypes.h>
#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/device-script.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

#define IO_SPACE_SIZE 0x10000

typedef struct DeviceRegion {
    Object parent;
    DeviceState *dev; /* NULL once unparented; not counted: the device holds this object */
    MemoryRegion mr;
    MemoryRegionOps ops;
    ScriptRef *read, *write;
    bool made, io;
    bool fixed; /* mapped by a PCI bus */
    int priority;
    uint8_t sizes; /* that a guest may use: the sum of 1, 2, 4, 8 */
    uint64_t hits;
} DeviceRegion;
OBJECT_DECLARE_SIMPLE_TYPE(DeviceRegion, DEVICE_REGION, TYPE_DEVICE_REGION)

/* ---- accesses ------------------------------------------------------------------------------ */

static uint64_t region_read(void *opaque, hwaddr addr, unsigned size)
{
    DeviceRegion *r = opaque;
    DeviceState *dev = r->dev;
    uint64_t value = UINT64_MAX;
    GError *error = NULL;
    lua_State *L;
    int exact;

    r->hits++;
    if (G_UNLIKELY(!dev || !script_main)) {
        return UINT64_MAX;
    }
    if (!r->read) {
        log_of(dev, LOG_GUEST, "%s: read of %u bytes at %s+%#" PRIx64 ", which is write-only",
               object_get_name((Object *)dev), size, r->mr.name, addr);
        return UINT64_MAX;
    }
    L = binding_state();
    if (!script_ref_push(L, r->read)) {
        return UINT64_MAX;
    }
    binding_push_object(L, dev);
    lua_pushinteger(L, (lua_Integer)addr);
    lua_pushinteger(L, size);
    object_ref(r); /* the handler may take its own region away */
    if (G_LIKELY(binding_call(L, 3, 1, true, script_ref_what(r->read), &error))) {
        value = (uint64_t)lua_tointegerx(L, -1, &exact);
        if (G_UNLIKELY(!exact || lua_type(L, -1) != LUA_TNUMBER)) {
            value = UINT64_MAX;
            if (!lua_isnil(L, -1)) { /* nothing: as where nothing is */
                error_set(&error, ENGINE_ERROR_SCRIPT, "%s: a whole number expected, got a %s",
                          script_ref_what(r->read), luaL_typename(L, -1));
            }
        }
        lua_pop(L, 1);
    }
    if (G_UNLIKELY(error)) {
        device_script_failed(r->dev, error);
    }
    object_unref(r);
    return value;
}

static void region_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    DeviceRegion *r = opaque;
    DeviceState *dev = r->dev;
    GError *error = NULL;
    lua_State *L;

    r->hits++;
    if (G_UNLIKELY(!dev || !script_main)) {
        return;
    }
    if (!r->write) {
        log_of(dev, LOG_GUEST, "%s: write of %#" PRIx64 " at %s+%#" PRIx64 ", which is read-only",
               object_get_name((Object *)dev), data, r->mr.name, addr);
        return;
    }
    L = binding_state();
    if (!script_ref_push(L, r->write)) {
        return;
    }
    binding_push_object(L, dev);
    lua_pushinteger(L, (lua_Integer)addr);
    lua_pushinteger(L, size);
    lua_pushinteger(L, (lua_Integer)data);
    object_ref(r);
    if (G_UNLIKELY(!binding_call(L, 4, 0, true, script_ref_what(r->write), &error))) {
        device_script_failed(r->dev, error);
    }
    object_unref(r);
}

static bool region_accepts(void *opaque, hwaddr addr, unsigned size, bool is_write,
                           MemTxAttrs attrs)
{
    const DeviceRegion *r = opaque;

    return (r->sizes & size) != 0;
}

/* ---- the type ------------------------------------------------------------------------------ */

static void region_unparent(Object *obj)
{
    DeviceRegion *r = DEVICE_REGION(obj);

    if (r->dev && r->mr.container) {
        device_unmap(r->dev, &r->mr);
    }
    r->dev = NULL;
}

static void region_finalize(Object *obj)
{
    DeviceRegion *r = DEVICE_REGION(obj);

    if (r->made) {
        memory_region_finalize(&r->mr);
    }
    script_ref_free(r->read);
    script_ref_free(r->write);
}

static void region_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = region_unparent;
}

static const TypeInfo region_info = {
    .name = TYPE_DEVICE_REGION,
    .parent = TYPE_OBJECT,
    .doc = "Ports or MMIO of a device, with handlers in Lua",
    .instance_size = sizeof(DeviceRegion),
    .instance_finalize = region_finalize,
    .class_init = region_class_init,
};

static void register_types(void)
{
    type_register_static(&region_info);
}
type_init(register_types)

/* ---- dev:pio, dev:mmio --------------------------------------------------------------------- */

/* A list of access sizes as the sum of its members; 0 when the key is absent. */
static unsigned opt_sizes(lua_State *L, int idx, const char *key, const char *what)
{
    unsigned sizes = 0;

    if (binding_get_key(L, idx, key) == LUA_TNIL) {
        lua_pop(L, 1);
        return 0;
    }
    if (lua_isinteger(L, -1)) { /* one size, as a number */
        lua_createtable(L, 1, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
    }
    if (!lua_istable(L, -1)) {
        luaL_error(L, "%s: %s: a list of access sizes expected, got a %s", what, key,
                   luaL_typename(L, -1));
    }
    for (lua_Integer i = 1, n = luaL_len(L, -1); i <= n; i++) {
        int exact;
        lua_Integer size;

        lua_geti(L, -1, i);
        size = lua_tointegerx(L, -1, &exact);
        if (!exact || (size != 1 && size != 2 && size != 4 && size != 8)) {
            luaL_error(L, "%s: %s: access sizes are 1, 2, 4 and 8, not %s", what, key,
                       luaL_tolstring(L, -1, NULL));
        }
        sizes |= (unsigned)size;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    if (!sizes) {
        luaL_error(L, "%s: %s: no size is left", what, key);
    }
    return sizes;
}

static unsigned lowest_size(unsigned sizes)
{
    return sizes & -sizes;
}

static unsigned highest_size(unsigned sizes)
{
    return 1u << (31 - __builtin_clz(sizes));
}

typedef struct RegionSpec {
    unsigned sizes, impl;
    bool unaligned, big_endian, has_read, has_write, enabled;
    int priority;
    const char *name;
} RegionSpec;

static void want_function(lua_State *L, int idx, const char *key, const char *what, bool *has)
{
    int type = binding_get_key(L, idx, key);

    if (type != LUA_TNIL && type != LUA_TFUNCTION) {
        luaL_error(L, "%s: %s: a function expected, got a %s", what, key, lua_typename(L, type));
    }
    *has = type == LUA_TFUNCTION;
    lua_pop(L, 1);
}

/* `placed`: somebody else says where, and above what. */
static RegionSpec check_spec(lua_State *L, int idx, bool io, bool placed, const char *what)
{
    static const char *const io_keys[] = { "read",   "write", "sizes",   "impl", "unaligned",
                                           "endian", "name",  "enabled", NULL };
    static const char *const mmio_keys[] = { "read",   "write", "sizes",   "impl",     "unaligned",
                                             "endian", "name",  "enabled", "priority", NULL };
    static const char *const endians[] = { "little", "big", NULL };
    RegionSpec spec = { .enabled = true };

    luaL_checktype(L, idx, LUA_TTABLE);
    if (binding_get_key(L, idx, "lockless") != LUA_TNIL) {
        luaL_error(L,
                   "%s: handlers in Lua need the engine lock, so a region of theirs cannot be "
                   "lockless",
                   what);
    }
    lua_pop(L, 1);
    binding_check_keys(L, idx, io || placed ? io_keys : mmio_keys, what);
    want_function(L, idx, "read", what, &spec.has_read);
    want_function(L, idx, "write", what, &spec.has_write);
    if (!spec.has_read && !spec.has_write) {
        luaL_error(L, "%s: neither a read nor a write function", what);
    }
    spec.sizes = opt_sizes(L, idx, "sizes", what);
    spec.sizes = spec.sizes ? spec.sizes : io ? 7 : 15;
    spec.impl = opt_sizes(L, idx, "impl", what);
    if (spec.impl & (spec.impl + lowest_size(spec.impl | 16))) {
        luaL_error(L, "%s: impl: a size between the smallest and the largest is left out", what);
    }
    spec.impl = spec.impl ? spec.impl : spec.sizes;
    if (binding_get_key(L, idx, "unaligned") != LUA_TNIL) {
        luaL_checktype(L, -1, LUA_TBOOLEAN);
        spec.unaligned = lua_toboolean(L, -1);
    }
    if (binding_get_key(L, idx, "enabled") != LUA_TNIL) {
        luaL_checktype(L, -1, LUA_TBOOLEAN);
        spec.enabled = lua_toboolean(L, -1);
    }
    if (binding_get_key(L, idx, "endian") != LUA_TNIL) {
        spec.big_endian = luaL_checkoption(L, lua_gettop(L), NULL, endians) == 1;
    }
    if (!io && !placed && binding_get_key(L, idx, "priority") != LUA_TNIL) {
        lua_Integer p = luaL_checkinteger(L, -1);
        luaL_argcheck(L, p >= INT32_MIN && p <= INT32_MAX, idx, "priority out of range");
        spec.priority = (int)p;
    }
    if (binding_get_key(L, idx, "name") != LUA_TNIL) {
        spec.name = luaL_checkstring(L, -1); /* held by the table */
    }
    return spec;
}

static bool region_map(DeviceRegion *r, hwaddr addr, GError **error)
{
    return r->io ? device_map_io(r->dev, (uint32_t)addr, &r->mr, error)
                 : device_map_memory(r->dev, addr, &r->mr, r->priority, error);
}

/* "port-0x510", "mmio-0xfed00000"; numbered when two of a device begin at one address. */
static bool add_region_child(DeviceState *dev, DeviceRegion *r, hwaddr addr, GError **error)
{
    for (unsigned n = 0;; n++) {
        g_autofree char *name = n ? g_strdup_printf("%s-%#" PRIx64 "-%u", r->io ? "port" : "mmio",
                                                    addr, n)
                                  : g_strdup_printf("%s-%#" PRIx64, r->io ? "port" : "mmio", addr);

        if (!object_get_child((Object *)dev, name)) {
            return object_add_child((Object *)dev, name, (Object *)r, error);
        }
    }
}

static void region_init_ops(DeviceRegion *r, const RegionSpec *spec)
{
    r->sizes = (uint8_t)spec->sizes;
    r->ops.read = region_read;
    r->ops.write = region_write;
    r->ops.endianness = spec->big_endian ? DEVICE_BIG_ENDIAN : DEVICE_LITTLE_ENDIAN;
    r->ops.valid.min_access_size = lowest_size(spec->sizes);
    r->ops.valid.max_access_size = highest_size(spec->sizes);
    r->ops.valid.unaligned = spec->unaligned;
    if (spec->sizes != 1 && spec->sizes != 3 && spec->sizes != 7 && spec->sizes != 15) {
        r->ops.valid.accepts = region_accepts;
    }
    r->ops.impl.min_access_size = lowest_size(spec->impl);
    r->ops.impl.max_access_size = highest_size(spec->impl);
    r->ops.impl.unaligned = spec->unaligned;
}

static void take_handler(lua_State *L, DeviceRegion *r, int handlers, const char *key,
                         ScriptRef **ref)
{
    char what[200];

    if (binding_get_key(L, handlers, key) == LUA_TFUNCTION) {
        g_snprintf(what, sizeof(what), "%s: %s handler", r->mr.name, key);
        *ref = script_ref_new(L, -1, (Object *)r, what);
    }
    lua_pop(L, 1);
}

/* A child of the device, by `place` or by where it will be mapped first; pushes its handle. */
static DeviceRegion *make_region(lua_State *L, DeviceState *dev, int handlers, bool io,
                                 uint64_t addr, uint64_t len, const char *place, const char *what)
{
    int top = lua_gettop(L);
    RegionSpec spec = check_spec(L, handlers, io, place != NULL, what);
    char name[160], where[64];
    GError *error = NULL;
    DeviceRegion *r;
    bool ok;

    lua_settop(L, top);
    if (!dev->machine) {
        luaL_error(L, "%s: the device is not realized: do this in realize", what);
    }
    r = (DeviceRegion *)object_new(TYPE_DEVICE_REGION, &error);
    if (!r) {
        binding_raise(L, error);
        return NULL;
    }
    r->dev = dev;
    r->io = io;
    ok = place ? object_add_child((Object *)dev, place, (Object *)r, &error)
               : add_region_child(dev, r, addr, &error);
    if (!ok) {
        object_unref(r);
        binding_raise(L, error);
        return NULL;
    }
    r->priority = spec.priority;
    region_init_ops(r, &spec);
    g_snprintf(where, sizeof(where), "%s-%#" PRIx64, io ? "port" : "mmio", addr);
    g_snprintf(name, sizeof(name), "%s %s", object_get_name((Object *)dev),
               spec.name ? spec.name
               : place   ? place
                         : where);
    memory_region_init_io(&r->mr, (Object *)r, &r->ops, r, name, len);
    r->made = true;
    binding_push_object(L, r); /* the tree and the handle hold it */
    object_unref(r);
    take_handler(L, r, handlers, "read", &r->read);
    take_handler(L, r, handlers, "write", &r->write);
    if (!spec.enabled) {
        memory_region_set_enabled(&r->mr, false);
    }
    return r;
}

Object *device_region_make(lua_State *L, DeviceState *dev, int handlers, bool io, uint64_t len,
                           const char *place, const char *what)
{
    DeviceRegion *r = make_region(L, dev, handlers, io, 0, len, place, what);

    r->fixed = true;
    return (Object *)r;
}

MemoryRegion *device_region_memory(Object *region)
{
    return &DEVICE_REGION(region)->mr;
}

static int new_region(lua_State *L, bool io)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    uint64_t addr = binding_check_u64(L, 2, io ? "port" : "address");
    uint64_t len = binding_check_u64(L, 3, "length");
    uint64_t limit = io ? IO_SPACE_SIZE : UINT64_MAX;
    GError *error = NULL;
    char what[160];
    DeviceRegion *r;

    g_snprintf(what, sizeof(what), "%s:%s(%#" PRIx64 ", %" PRIu64 ")",
               object_get_name((Object *)dev), io ? "pio" : "mmio", addr, len);
    lua_settop(L, 4);
    if (!len || len > limit || addr > limit - len) {
        return luaL_error(L, "%s: does not fit the %s space", what, io ? "I/O port" : "memory");
    }
    r = make_region(L, dev, 4, io, addr, len, NULL, what);
    if (!region_map(r, addr, &error)) {
        object_unparent((Object *)r);
        return binding_raise(L, error);
    }
    return 1;
}

static int device_pio(lua_State *L)
{
    return new_region(L, true);
}

static int device_mmio(lua_State *L)
{
    return new_region(L, false);
}

/* ---- the region's methods ------------------------------------------------------------------ */

static int region_move(lua_State *L)
{
    DeviceRegion *r = binding_check_object(L, 1, TYPE_DEVICE_REGION);
    uint64_t addr = binding_check_u64(L, 2, r->io ? "port" : "address");
    uint64_t limit = r->io ? IO_SPACE_SIZE : UINT64_MAX;
    hwaddr old = r->mr.addr;
    bool mapped = r->mr.container != NULL;
    GError *error = NULL;
    bool ok;

    if (r->fixed) {
        return luaL_error(L, "%s: the guest maps it, by its base address register", r->mr.name);
    }
    if (r->mr.size > limit || addr > limit - r->mr.size) {
        return luaL_error(L, "%s does not fit at %p", r->mr.name, (void *)(uintptr_t)addr);
    }
    memory_region_transaction_begin();
    if (mapped) {
        device_unmap(r->dev, &r->mr);
    }
    ok = region_map(r, addr, &error);
    if (!ok && mapped) {
        region_map(r, old, NULL); /* where it was is still free */
    }
    memory_region_transaction_commit();
    return ok ? 0 : binding_raise(L, error);
}

static int region_enable(lua_State *L)
{
    DeviceRegion *r = binding_check_object(L, 1, TYPE_DEVICE_REGION);

    luaL_checktype(L, 2, LUA_TBOOLEAN);
    memory_region_set_enabled(&r->mr, lua_toboolean(L, 2));
    return 0;
}

static int region_get_hits(lua_State *L)
{
    DeviceRegion *r = binding_check_object(L, 1, TYPE_DEVICE_REGION);

    lua_pushinteger(L, (lua_Integer)r->hits);
    return 1;
}

static int region_get_addr(lua_State *L)
{
    DeviceRegion *r = binding_check_object(L, 1, TYPE_DEVICE_REGION);

    lua_pushinteger(L, (lua_Integer)r->mr.addr);
    return 1;
}

static int region_get_len(lua_State *L)
{
    DeviceRegion *r = binding_check_object(L, 1, TYPE_DEVICE_REGION);

    lua_pushinteger(L, (lua_Integer)r->mr.size);
    return 1;
}

static int region_get_enabled(lua_State *L)
{
    DeviceRegion *r = binding_check_object(L, 1, TYPE_DEVICE_REGION);

    lua_pushboolean(L, r->mr.enabled);
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "pio", device_pio,
      "(self, port: integer|string, len: integer, handlers: RegionHandlers): device-region",
      "Answers I/O ports. read(dev, off, size) -> value, write(dev, off, size, value); sizes = "
      "{1, 2, 4}\nis what a guest may use, impl = {…} what the functions take (other accesses are "
      "split);\nunaligned, endian = \"little\"|\"big\", enabled, name." },
    { "mmio", device_mmio,
      "(self, addr: integer|string, len: integer|string, handlers: RegionHandlers): device-region",
      "Answers a range of memory; as pio, with sizes up to 8 and a priority." },
    { NULL },
};

static const ApiFunction region_methods[] = {
    { "move", region_move, "(self, addr: integer|string)",
      "Maps it at another address; an overlap is an error and changes nothing." },
    { "enable", region_enable, "(self, on: boolean)", "Shows it to the guest, or hides it." },
    { NULL },
};
static const ApiField region_fields[] = {
    { "hits", region_get_hits, NULL, "integer", "How often it was accessed." },
    { "addr", region_get_addr, NULL, "integer", "Its first port or address." },
    { "len", region_get_len, NULL, "integer", "Its length in bytes." },
    { "enabled", region_get_enabled, NULL, "boolean", "Whether the guest sees it." },
    { NULL },
};

void device_regions_open(lua_State *L)
{
    binding_class(L, TYPE_DEVICE, NULL, methods, NULL);
    binding_class(L, TYPE_DEVICE_REGION, "Ports or MMIO that a script answers.", region_methods,
                  region_fields);
}
