/*
 * Regions that scripts make: m:region, "memory-region" objects, back ends of RAM.
 *
 * A script's region is a QOM object with an embedded MemoryRegion, a child of <machine>/regions: it
 * has a path, shows up in the tree, and goes with its machine.
 */
#include <inttypes.h>
#include <string.h>

#include "bindings/memory-script.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"
#include "engine/memory/ram.h"

#define TYPE_REGION "memory-region"

/* ---- region objects ------------------------------------------------------------------------ */

typedef struct RegionObject {
    Object parent;
    MemoryRegion mr;
    bool made, saved;
    Machine *machine; /* not counted: the machine holds this object */
} RegionObject;
OBJECT_DECLARE_SIMPLE_TYPE(RegionObject, REGION_OBJECT, TYPE_REGION)

static void region_gone(Object *obj, void *opaque)
{
    RegionObject *r = REGION_OBJECT(obj);
    if (r->saved) {
        r->saved = false;
        machine_remove_ram(r->machine, &r->mr);
    }
    if (r->mr.container) {
        memory_region_del_subregion(r->mr.container, &r->mr);
    }
    while (r->made && r->mr.subregions && r->mr.subregions->len) {
        memory_region_del_subregion(&r->mr, g_ptr_array_index(r->mr.subregions, 0));
    }
}

static void region_finalize(Object *obj)
{
    RegionObject *r = REGION_OBJECT(obj);
    if (r->made) {
        memory_region_finalize(&r->mr);
    }
}

static bool region_prop_size(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_SIZE;
    out->uinteger = REGION_OBJECT(obj)->mr.size;
    return true;
}

static const Property region_props[] = {
    { .name = "size",
      .doc = "Bytes; 0xffffffffffffffff stands for 2^64",
      .kind = PROP_SIZE,
      .bits = 64,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = region_prop_size },
};

static void region_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, region_props, G_N_ELEMENTS(region_props));
}

static const TypeInfo region_info = {
    .name = TYPE_REGION,
    .parent = TYPE_OBJECT,
    .doc = "A piece of an address space that a script made: RAM, ROM, an alias or a container",
    .instance_size = sizeof(RegionObject),
    .instance_finalize = region_finalize,
    .class_init = region_class_init,
};

static void register_types(void)
{
    type_register_static(&region_info);
}
type_init(register_types)

MemoryRegion *script_check_region(lua_State *L, int arg)
{
    return &((RegionObject *)binding_check_object(L, arg, TYPE_REGION))->mr;
}

/* ---- regions from scripts ------------------------------------------------------------------ */

static const char *const region_keys[] = { "kind",   "name", "size",  "backend", "of",
                                           "offset", "data", "saved", NULL };

typedef struct RegionSpec {
    const char *kind, *name, *data;
    uint64_t size, offset;
    size_t data_len;
    bool has_size, saved;
    RegionObject *of;
    MemoryBackend *backend;
} RegionSpec;

/* Reads the table at 2; raises on what is wrong with it. */
static RegionSpec check_region_spec(lua_State *L)
{
    RegionSpec spec = { .saved = true };
    binding_check_keys(L, 2, region_keys, "region");
    binding_get_key(L, 2, "kind");
    spec.kind = luaL_optstring(L, -1, "ram");
    binding_get_key(L, 2, "name");
    spec.name = luaL_optstring(L, -1, spec.kind);
    if (strchr(spec.name, '/') || !*spec.name) {
        luaL_error(L, "region: the name '%s' is empty or has a slash", spec.name);
    }
    if (binding_get_key(L, 2, "size") != LUA_TNIL) {
        spec.size = binding_check_u64(L, lua_gettop(L), "size");
        spec.has_size = true;
        if (!spec.size) {
            luaL_error(L, "region %s: a size of 0", spec.name);
        }
    }
    if (binding_get_key(L, 2, "offset") != LUA_TNIL) {
        spec.offset = binding_check_u64(L, lua_gettop(L), "offset");
    }
    if (binding_get_key(L, 2, "of") != LUA_TNIL) {
        spec.of = binding_check_object(L, lua_gettop(L), TYPE_REGION);
    }
    if (binding_get_key(L, 2, "backend") != LUA_TNIL) {
        spec.backend = binding_check_object(L, lua_gettop(L), TYPE_MEMORY_BACKEND);
    }
    if (binding_get_key(L, 2, "data") != LUA_TNIL) {
        spec.data = luaL_checklstring(L, lua_gettop(L), &spec.data_len);
    }
    if (binding_get_key(L, 2, "saved") != LUA_TNIL) {
        spec.saved = lua_toboolean(L, -1);
    }
    if (spec.data && !spec.has_size) {
        spec.size = (spec.data_len + RAM_PAGE_SIZE - 1) & ~(RAM_PAGE_SIZE - 1);
        spec.has_size = true;
    }
    if (spec.data && spec.data_len > spec.size) {
        luaL_error(L, "region %s: %I bytes of data in a region of %I", spec.name,
                   (lua_Integer)spec.data_len, (lua_Integer)spec.size);
    }
    return spec; /* the strings stay anchored in the table at 2 */
}

static bool make_region(RegionObject *r, const RegionSpec *spec, GError **error)
{
    Object *owner = OBJECT(r);
    const bool rom = strcmp(spec->kind, "rom") == 0;
    if (strcmp(spec->kind, "alias") == 0) {
        if (!spec->of) {
            return error_set(error, ENGINE_ERROR_INVALID, "alias %s: 'of' names no region",
                             spec->name);
        }
        uint64_t size = spec->has_size ? spec->size
                                       : spec->of->mr.size - MIN(spec->offset, spec->of->mr.size);
        if (!size) {
            return error_set(error, ENGINE_ERROR_INVALID, "alias %s: begins past the end of %s",
                             spec->name, spec->of->mr.name);
        }
        memory_region_init_alias(&r->mr, owner, spec->name, &spec->of->mr, spec->offset, size);
        return true;
    }
    if (strcmp(spec->kind, "ram") != 0 && !rom && strcmp(spec->kind, "container") != 0) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "region %s: unknown kind '%s' (ram, rom, alias, container)", spec->name,
                         spec->kind);
    }
    if (spec->backend) {
        if (!spec->backend->block && !memory_backend_realize(spec->backend, error)) {
            return false;
        }
        memory_region_init_ram_block(&r->mr, owner, spec->name, spec->backend->block);
        if (rom) {
            memory_region_set_readonly(&r->mr, true);
        }
        return true;
    }
    if (!spec->has_size) {
        return error_set(error, ENGINE_ERROR_INVALID, "region %s: no size", spec->name);
    }
    if (strcmp(spec->kind, "container") == 0) {
        memory_region_init(&r->mr, owner, spec->name, spec->size);
        return true;
    }
    if (spec->size % RAM_PAGE_SIZE) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "region %s: %s of %" PRIu64 " bytes is not a multiple of 4 KiB",
                         spec->name, spec->kind, spec->size);
    }
    return rom ? memory_region_init_rom(&r->mr, owner, spec->name, spec->size, error)
               : memory_region_init_ram(&r->mr, owner, spec->name, spec->size, error);
}

/* The new region, in the tree below its machine; NULL + error. */
static RegionObject *new_region(Machine *m, const RegionSpec *spec, GError **error)
{
    Object *dir = object_get_container(OBJECT(m), "regions");
    Object *obj = object_new(TYPE_REGION, error);
    if (!obj) {
        return NULL;
    }
    RegionObject *r = REGION_OBJECT(obj);
    r->machine = m;
    r->made = make_region(r, spec, error);
    if (!r->made || !object_add_child(dir, spec->name, obj, error)) {
        object_unref(obj);
        return NULL;
    }
    object_add_destroy_notify(obj, region_gone, NULL);
    uint8_t *host = memory_region_get_ram_ptr(&r->mr);
    if (host && r->mr.kind != MEMORY_ALIAS) {
        if (spec->data) {
            memcpy(host, spec->data, spec->data_len);
        }
        if (spec->saved) {
            machine_add_ram(m, spec->name, &r->mr);
            r->saved = true;
        }
    }
    object_unref(obj);
    return r;
}

static int machine_region(lua_State *L)
{
    Machine *m = binding_check_object(L, 1, TYPE_MACHINE);
    luaL_checktype(L, 2, LUA_TTABLE);
    const RegionSpec spec = check_region_spec(L);
    GError *error = NULL;
    RegionObject *r = new_region(m, &spec, &error);
    if (!r) {
        return error->code == ENGINE_ERROR_INVALID && error->domain == ENGINE_ERROR
                   ? binding_raise(L, error)
                   : binding_fail(L, error);
    }
    binding_push_object(L, r);
    return 1;
}

int script_region_add_to(lua_State *L, MemoryRegion *container, const char *container_name)
{
    hwaddr addr = binding_check_u64(L, 2, "address");
    RegionObject *r = binding_check_object(L, 3, TYPE_REGION);
    const bool overlap = !lua_isnoneornil(L, 4);
    const lua_Integer priority = luaL_optinteger(L, 4, 0);
    luaL_argcheck(L, priority >= INT32_MIN && priority <= INT32_MAX, 4, "priority out of range");
    if (r->mr.container) {
        return luaL_error(L, "%s is already mapped in %s", r->mr.name, r->mr.container->name);
    }
    for (const MemoryRegion *c = container; c; c = c->container) {
        if (c == &r->mr) {
            return luaL_error(L, "%s cannot contain itself", r->mr.name);
        }
    }
    GError *error = NULL;
    if (!memory_region_add_subregion_checked(container, addr, &r->mr, (int)priority, overlap,
                                             &error)) {
        g_prefix_error(&error, "%s: ", container_name);
        return binding_raise(L, error);
    }
    lua_settop(L, 3);
    return 1;
}

static int region_add(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    if (r->mr.kind != MEMORY_CONTAINER) {
        return luaL_error(L, "%s is %s, not a container", r->mr.name,
                          memory_region_kind_name(r->mr.kind));
    }
    return script_region_add_to(L, &r->mr, r->mr.name);
}

static int region_unmap(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    if (r->mr.container) {
        memory_region_del_subregion(r->mr.container, &r->mr);
    }
    return 0;
}

static int region_move(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    memory_region_set_address(&r->mr, binding_check_u64(L, 2, "address"));
    return 0;
}

static int region_enable(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    memory_region_set_enabled(&r->mr, lua_toboolean(L, 2));
    return 0;
}

static int region_readonly(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    memory_region_set_readonly(&r->mr, lua_toboolean(L, 2));
    return 0;
}

static int region_set_offset(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    luaL_argcheck(L, r->mr.kind == MEMORY_ALIAS, 1, "an alias is expected");
    memory_region_set_alias_offset(&r->mr, binding_check_u64(L, 2, "offset"));
    return 0;
}

static int region_get_kind(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    lua_pushstring(L, memory_region_kind_name(r->mr.kind));
    return 1;
}

static int region_get_addr(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    if (!r->mr.container) {
        return 0;
    }
    lua_pushinteger(L, (lua_Integer)r->mr.addr);
    return 1;
}

static int region_get_resident(lua_State *L)
{
    RegionObject *r = binding_check_object(L, 1, TYPE_REGION);
    lua_pushinteger(L, r->mr.ram ? (lua_Integer)ram_block_resident_bytes(r->mr.ram) : 0);
    return 1;
}

static int backend_complete(lua_State *L)
{
    MemoryBackend *be = binding_check_object(L, 1, TYPE_MEMORY_BACKEND);
    GError *error = NULL;
    if (!be->block && !memory_backend_realize(be, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction region_methods[] = {
    { "add", region_add,
      "(addr: integer|string, region: memory-region, priority?: integer): memory-region",
      "Maps a region into this container." },
    { "unmap", region_unmap, "()", "Takes it out of what it is mapped in." },
    { "move", region_move, "(addr: integer|string)", "Changes its address in its container." },
    { "enable", region_enable, "(on: boolean)", "Shows or hides it." },
    { "set_readonly", region_readonly, "(on: boolean)", "Whether the guest may write it." },
    { "set_offset", region_set_offset, "(offset: integer|string)",
      "Moves the window of an alias." },
    { 0 },
};
static const ApiField region_fields[] = {
    { "kind", region_get_kind, NULL, "string", "\"ram\", \"rom\", \"alias\" or \"container\"." },
    { "addr", region_get_addr, NULL, "integer?",
      "Where it is in its container; nil while unmapped." },
    { "resident", region_get_resident, NULL, "integer", "Bytes of host memory it occupies now." },
    { 0 },
};

static const ApiFunction backend_methods[] = {
    { "complete", backend_complete, "(self): boolean?, string?",
      "Allocates by its properties, which are fixed from then on; nil and why not." },
    { 0 },
};
static const ApiFunction machine_methods[] = {
    { "region", machine_region,
      "(spec: { kind?: string, name?: string, size?: integer|string, backend?: memory-backend, "
      "of?: memory-region, offset?: integer|string, data?: string, saved?: boolean }): "
      "memory-region",
      "Makes RAM (the default), \"rom\", an \"alias\" of another region or a \"container\"; map it "
      "with vm.memory:add. RAM is part of snapshots unless saved = false." },
    { 0 },
};

void binding_open_region(lua_State *L)
{
    binding_class(L, TYPE_MEMORY_BACKEND, "Where RAM comes from.", backend_methods, NULL);
    binding_class(L, TYPE_REGION, "A region that a script made.", region_methods, region_fields);
    binding_class(L, TYPE_MACHINE, NULL, machine_methods, NULL);
}
