/*
 * Class "device": life cycle, ports and MMIO with handlers in Lua, DMA. Lines and timers are in
 * device-line.c.
 *
 * A region with handlers is an object below its device ("device-region"): it has a path, shows in
 * the tree, goes with the device, and views that still show it keep its memory. Its functions are
 * registry references, so that an access builds no string and looks up no name.
 */
#include "engine/hw/core/device.h"

#include <inttypes.h>
#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/device-script.h"
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

#define TYPE_DEVICE_REGION "device-region"
#define DMA_CLASS          "vmlua.dma"
#define DMA_MAX            (1 * GiB)
#define IO_SPACE_SIZE      0x10000

typedef struct DeviceRegion {
    Object parent;
    DeviceState *dev; /* NULL once unparented; not counted: the device holds this object */
    MemoryRegion mr;
    MemoryRegionOps ops;
    ScriptRef *read, *write;
    bool made, io;
    int priority;
    uint8_t sizes; /* that a guest may use: the sum of 1, 2, 4, 8 */
    uint64_t hits;
} DeviceRegion;
OBJECT_DECLARE_SIMPLE_TYPE(DeviceRegion, DEVICE_REGION, TYPE_DEVICE_REGION)

/* ---- a callback of a device ---------------------------------------------------------------- */

void device_script_failed(DeviceState *dev, GError *error)
{
    if (dev && dev->machine) {
        machine_fail(dev->machine, error->message);
        g_error_free(error);
    } else {
        binding_report(error);
    }
}

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
        log_mask(LOG_GUEST, "%s: read of %u bytes at %s+%#" PRIx64 ", which is write-only",
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
        log_mask(LOG_GUEST, "%s: write of %#" PRIx64 " at %s+%#" PRIx64 ", which is read-only",
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

static RegionSpec check_spec(lua_State *L, int idx, bool io, const char *what)
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
    binding_check_keys(L, idx, io ? io_keys : mmio_keys, what);
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
    if (!io && binding_get_key(L, idx, "priority") != LUA_TNIL) {
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

static int new_region(lua_State *L, bool io)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    uint64_t addr = binding_check_u64(L, 2, io ? "port" : "address");
    uint64_t len = binding_check_u64(L, 3, "length");
    uint64_t limit = io ? IO_SPACE_SIZE : UINT64_MAX;
    char what[160], name[160], place[64];
    GError *error = NULL;
    DeviceRegion *r;
    RegionSpec spec;

    g_snprintf(what, sizeof(what), "%s:%s(%#" PRIx64 ", %" PRIu64 ")",
               object_get_name((Object *)dev), io ? "pio" : "mmio", addr, len);
    lua_settop(L, 4);
    spec = check_spec(L, 4, io, what);
    lua_settop(L, 4);
    if (!len || len > limit || addr > limit - len) {
        return luaL_error(L, "%s: does not fit the %s space", what, io ? "I/O port" : "memory");
    }
    if (!dev->machine) {
        return luaL_error(L, "%s: the device is not realized: do this in realize", what);
    }
    r = (DeviceRegion *)object_new(TYPE_DEVICE_REGION, &error);
    if (!r) {
        return binding_raise(L, error);
    }
    r->dev = dev;
    r->io = io;
    if (!add_region_child(dev, r, addr, &error)) {
        object_unref(r);
        return binding_raise(L, error);
    }
    r->priority = spec.priority;
    region_init_ops(r, &spec);
    g_snprintf(place, sizeof(place), "%s-%#" PRIx64, io ? "port" : "mmio", addr);
    g_snprintf(name, sizeof(name), "%s %s", object_get_name((Object *)dev),
               spec.name ? spec.name : place);
    memory_region_init_io(&r->mr, (Object *)r, &r->ops, r, name, len);
    r->made = true;
    binding_push_object(L, r); /* the tree and the handle hold it */
    object_unref(r);

    if (spec.has_read) {
        lua_getfield(L, 4, "read");
        g_snprintf(what, sizeof(what), "%s: read handler", name);
        r->read = script_ref_new(L, -1, (Object *)r, what);
        lua_pop(L, 1);
    }
    if (spec.has_write) {
        lua_getfield(L, 4, "write");
        g_snprintf(what, sizeof(what), "%s: write handler", name);
        r->write = script_ref_new(L, -1, (Object *)r, what);
        lua_pop(L, 1);
    }
    if (!spec.enabled) {
        memory_region_set_enabled(&r->mr, false);
    }
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

/* ---- DMA ----------------------------------------------------------------------------------- */

static DeviceState *dma_device(lua_State *L)
{
    DeviceState *dev;

    binding_check_userdata(L, 1, DMA_CLASS);
    lua_getiuservalue(L, 1, 1);
    dev = binding_check_object(L, -1, TYPE_DEVICE);
    lua_pop(L, 1);
    if (!dev->machine) {
        luaL_error(L, "%s: no DMA before it is realized", object_get_name((Object *)dev));
    }
    return dev;
}

static int dma_result(lua_State *L, DeviceState *dev, const char *what, uint64_t addr, uint64_t len,
                      MemTxResult res)
{
    if (res == MEMTX_OK) {
        return 1;
    }
    lua_pushnil(L);
    lua_pushfstring(L, "%s: DMA %s of %I bytes at %p: %s", object_get_name((Object *)dev), what,
                    (LUAI_UACINT)len, (void *)(uintptr_t)addr,
                    res & MEMTX_DECODE_ERROR ? "nothing answers there" : "refused there");
    return 2;
}

static int dma_read(lua_State *L)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    uint64_t len = binding_check_range(L, 3, 0, DMA_MAX, "length");
    MemTxResult res;
    luaL_Buffer b;
    char *buf = luaL_buffinitsize(L, &b, len);

    res = address_space_read(dev->machine->memory, addr, MEMTXATTRS_NONE, buf, len);
    luaL_pushresultsize(&b, len);
    return dma_result(L, dev, "read", addr, len, res);
}

static int dma_write(lua_State *L)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    size_t len;
    const char *bytes = luaL_checklstring(L, 3, &len);
    MemTxResult res = address_space_write(dev->machine->memory, addr, MEMTXATTRS_NONE, bytes, len);

    lua_pushboolean(L, 1);
    return dma_result(L, dev, "write", addr, len, res);
}

static int dma_load(lua_State *L, unsigned size)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    MemTxResult res = MEMTX_OK;

    lua_pushinteger(
        L, (lua_Integer)address_space_ldn(dev->machine->memory, addr, size, MEMTXATTRS_NONE, &res));
    return dma_result(L, dev, "read", addr, size, res);
}

static int dma_store(lua_State *L, unsigned size)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    uint64_t value = (uint64_t)luaL_checkinteger(L, 3);
    MemTxResult res = MEMTX_OK;

    address_space_stn(dev->machine->memory, addr, value, size, MEMTXATTRS_NONE, &res);
    lua_pushboolean(L, 1);
    return dma_result(L, dev, "write", addr, size, res);
}

#define DMA_SIZED(bits)                        \
    static int dma_read_u##bits(lua_State *L)  \
    {                                          \
        return dma_load(L, (bits) / 8);        \
    }                                          \
    static int dma_write_u##bits(lua_State *L) \
    {                                          \
        return dma_store(L, (bits) / 8);       \
    }
DMA_SIZED(8)
DMA_SIZED(16)
DMA_SIZED(32)
DMA_SIZED(64)

static int dma_gc(lua_State *L)
{
    return 0;
}

static int field_dma(lua_State *L)
{
    binding_check_object(L, 1, TYPE_DEVICE);
    binding_new_userdata(L, DMA_CLASS, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static int device_lua_realize(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    Machine *m = binding_check_object(L, 2, TYPE_MACHINE);
    const char *id = luaL_optstring(L, 3, NULL);
    Object *parent = binding_opt_object(L, 4, TYPE_OBJECT);
    GError *error = NULL;

    if (!device_realize_at(dev, m, parent ? parent : (Object *)m, id, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int device_lua_unrealize(lua_State *L)
{
    device_unrealize(binding_check_object(L, 1, TYPE_DEVICE));
    return 0;
}

static int device_lua_reset(lua_State *L)
{
    device_reset(binding_check_object(L, 1, TYPE_DEVICE));
    return 0;
}

void script_device_cleanup(DeviceState *dev)
{
    Object *obj = (Object *)dev;

    for (unsigned i = object_child_count(obj); i-- > 0;) {
        Object *child = object_child_at(obj, i);
        if (child && (object_dynamic_cast(child, TYPE_DEVICE_REGION) ||
                      object_dynamic_cast(child, TYPE_DEVICE_TIMER))) {
            object_unparent(child);
        }
    }
}

/* dev:log([mask,] text) */
static int device_log(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const char *text = luaL_checkstring(L, lua_isnoneornil(L, 3) ? 2 : 3);
    uint32_t mask = LOG_SCRIPT;

    if (!lua_isnoneornil(L, 3)) {
        GError *error = NULL;
        if (!log_parse_mask(luaL_checkstring(L, 2), &mask, &error)) {
            return binding_raise(L, error);
        }
    }
    if (log_enabled((LogMask)mask)) {
        static LogSite site;
        log_write((LogMask)mask, &site, "%s: %s", object_get_name((Object *)dev), text);
    }
    return 0;
}

static int field_machine(lua_State *L)
{
    binding_push_object(L, ((DeviceState *)binding_check_object(L, 1, TYPE_DEVICE))->machine);
    return 1;
}

static int field_id(lua_State *L)
{
    lua_pushstring(L, ((DeviceState *)binding_check_object(L, 1, TYPE_DEVICE))->id);
    return 1;
}

static int field_realized(lua_State *L)
{
    lua_pushboolean(L, ((Object *)binding_check_object(L, 1, TYPE_DEVICE))->realized);
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "realize", device_lua_realize,
      "(self, machine: machine, id?: string, parent?: object): boolean?, string?",
      "Puts the device into a machine; nil and why when it refuses." },
    { "unrealize", device_lua_unrealize, "(self)",
      "Takes it out of the machine's address spaces, reset and saved state." },
    { "reset", device_lua_reset, "(self)", "Resets this device alone." },
    { "pio", device_pio,
      "(self, port: integer|string, len: integer, handlers: RegionHandlers): device-region",
      "Answers I/O ports. read(dev, off, size) -> value, write(dev, off, size, value); sizes = "
      "{1, 2, 4}\nis what a guest may use, impl = {…} what the functions take (other accesses are "
      "split);\nunaligned, endian = \"little\"|\"big\", enabled, name." },
    { "mmio", device_mmio,
      "(self, addr: integer|string, len: integer|string, handlers: RegionHandlers): device-region",
      "Answers a range of memory; as pio, with sizes up to 8 and a priority." },
    { "log", device_log, "(self, mask: string, text: string)",
      "A line in the log, under the mask (\"guest\", \"unimp\", …) and the device's name." },
    { NULL },
};
static const ApiField fields[] = {
    { "machine", field_machine, NULL, "machine?", "The machine that it is realized in." },
    { "id", field_id, NULL, "string?", "The name that the user gave it." },
    { "realized", field_realized, NULL, "boolean", "Whether it is part of a machine." },
    { "dma", field_dma, NULL, "vmlua.dma", "Access to the machine's memory, as a bus master." },
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

static const ApiFunction dma_methods[] = {
    { "read", dma_read, "(self, addr: integer|string, len: integer): string?, string?",
      "The bytes there; nil and why when something refused." },
    { "write", dma_write, "(self, addr: integer|string, bytes: string): boolean?, string?",
      "Writes bytes; nil and why when something refused." },
    { "read_u8", dma_read_u8, "(self, addr: integer|string): integer?, string?", "One byte." },
    { "read_u16", dma_read_u16, "(self, addr: integer|string): integer?, string?",
      "Two bytes, little-endian." },
    { "read_u32", dma_read_u32, "(self, addr: integer|string): integer?, string?",
      "Four bytes, little-endian." },
    { "read_u64", dma_read_u64, "(self, addr: integer|string): integer?, string?",
      "Eight bytes, little-endian." },
    { "write_u8", dma_write_u8, "(self, addr: integer|string, value: integer): boolean?, string?",
      "One byte." },
    { "write_u16", dma_write_u16, "(self, addr: integer|string, value: integer): boolean?, string?",
      "Two bytes, little-endian." },
    { "write_u32", dma_write_u32, "(self, addr: integer|string, value: integer): boolean?, string?",
      "Four bytes, little-endian." },
    { "write_u64", dma_write_u64, "(self, addr: integer|string, value: integer): boolean?, string?",
      "Eight bytes, little-endian." },
    { NULL },
};

void binding_open_device(lua_State *L)
{
    binding_class(L, TYPE_DEVICE, "A device of a machine, in C or in Lua.", methods, fields);
    binding_class(L, TYPE_DEVICE_REGION, "Ports or MMIO that a script answers.", region_methods,
                  region_fields);
    binding_userdata_class(L, DMA_CLASS, "Memory as a device sees it.", dma_methods, NULL, dma_gc);
    device_lines_open(L);
}
