/*
 * qom.type{…}: reads what a script says of a type, checks all of it, registers it.
 *
 * What is being built belongs to a userdata, so that any step may raise; it is handed to the type
 * at the very end.
 */
#include "bindings/script-type.h"

#include <string.h>

#include "engine/core/error.h"

#define MAX_STATE_BYTES (64u << 20) /* of one type: larger things are RAM regions */
#define BUILDER         "vmlua.type-builder"

static const char *const type_keys[] = {
    "name",    "parent",          "doc",          "abstract", "properties", "state",
    "version", "minimum_version", "interfaces",   "methods",  "requires",   "init",
    "realize", "reset",           "unrealize",    "pre_save", "post_load",  "user_creatable",
    "pci",     "config_read",     "config_write", NULL,
};

/* ---- freeing ------------------------------------------------------------------------------- */

static void prop_data_free(void *data)
{
    ScriptProp *sp = data;

    script_ref_free(sp->get);
    script_ref_free(sp->set);
    g_free(sp->name);
    g_free(sp->doc);
    g_free(sp->link_type);
    g_strfreev(sp->words);
    g_free(sp);
}

static void state_field_free(void *data)
{
    StateField *f = data;

    g_free(f->name);
    g_free(f->type);
    g_free(f);
}

static void property_clear(void *data)
{
    Property *p = data;

    prop_value_clear(&p->def);
}

void script_type_free(ScriptType *st)
{
    ScriptRef **refs[] = { &st->init,     &st->realize,   &st->reset,       &st->unrealize,
                           &st->pre_save, &st->post_load, &st->config_read, &st->config_write };

    for (unsigned i = 0; i < G_N_ELEMENTS(refs); i++) {
        script_ref_free(*refs[i]);
    }
    g_array_free(st->props, true);
    g_ptr_array_free(st->prop_data, true);
    g_ptr_array_free(st->fields, true);
    g_ptr_array_free(st->needs, true);
    g_hash_table_destroy(st->state);
    g_hash_table_destroy(st->methods);
    g_array_free(st->vmsd_fields, true);
    g_free(st->name);
    g_free(st->doc);
    g_free(st);
}

static int builder_gc(lua_State *L)
{
    ScriptType **slot = luaL_checkudata(L, 1, BUILDER);

    if (*slot) {
        script_type_free(*slot);
        *slot = NULL;
    }
    return 0;
}

static ScriptType **builder_new(lua_State *L)
{
    ScriptType **slot = lua_newuserdatauv(L, sizeof(*slot), 0);
    ScriptType *st;

    *slot = NULL;
    if (luaL_newmetatable(L, BUILDER)) {
        lua_pushcfunction(L, builder_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    st = g_new0(ScriptType, 1);
    st->props = g_array_new(false, true, sizeof(Property));
    g_array_set_clear_func(st->props, property_clear);
    st->prop_data = g_ptr_array_new_with_free_func(prop_data_free);
    st->fields = g_ptr_array_new_with_free_func(state_field_free);
    st->needs = g_ptr_array_new_with_free_func(g_free);
    st->state = g_hash_table_new(g_str_hash, g_str_equal);
    st->methods = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    st->vmsd_fields = g_array_new(false, true, sizeof(VMStateField));
    *slot = st;
    return slot;
}

/* ---- small readers ------------------------------------------------------------------------- */

const char *script_opt_string(lua_State *L, int spec, const char *key, const char *what)
{
    const char *s = NULL;

    if (lua_getfield(L, spec, key) != LUA_TNIL) {
        if (lua_type(L, -1) != LUA_TSTRING) {
            luaL_error(L, "%s: '%s' must be a string, not a %s", what, key, luaL_typename(L, -1));
        }
        s = lua_tostring(L, -1); /* stays alive: the table holds it */
    }
    lua_pop(L, 1);
    return s;
}

bool script_opt_bool(lua_State *L, int spec, const char *key, bool fallback, const char *what)
{
    bool b = fallback;

    if (lua_getfield(L, spec, key) != LUA_TNIL) {
        if (!lua_isboolean(L, -1)) {
            luaL_error(L, "%s: '%s' must be true or false, not a %s", what, key,
                       luaL_typename(L, -1));
        }
        b = lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
    return b;
}

static unsigned opt_version(lua_State *L, int spec, const char *key, unsigned fallback,
                            const char *what)
{
    lua_Integer v = fallback;

    if (lua_getfield(L, spec, key) != LUA_TNIL) {
        int exact;
        v = lua_tointegerx(L, -1, &exact);
        if (!exact || v < 1 || v > INT32_MAX) {
            luaL_error(L, "%s: '%s' must be a whole number from 1", what, key);
        }
    }
    lua_pop(L, 1);
    return (unsigned)v;
}

ScriptRef *script_opt_function(lua_State *L, int spec, const char *key, const char *what)
{
    ScriptRef *ref = NULL;

    if (lua_getfield(L, spec, key) != LUA_TNIL) {
        char name[160];
        if (!lua_isfunction(L, -1)) {
            luaL_error(L, "%s: '%s' must be a function, not a %s", what, key, luaL_typename(L, -1));
        }
        g_snprintf(name, sizeof(name), "%s.%s", what, key);
        ref = script_ref_new(L, -1, NULL, name);
    }
    lua_pop(L, 1);
    return ref;
}

bool script_name_ok(const char *name, bool dashes)
{
    if ((!g_ascii_isalpha(*name) && *name != '_') || strlen(name) > OBJECT_NAME_MAX) {
        return false;
    }
    for (; *name; name++) {
        if (!g_ascii_isalnum(*name) && *name != '_' && !(dashes && *name == '-')) {
            return false;
        }
    }
    return true;
}

/* A field or method of handles would hide the member: that is said now, not found out later. */
void script_check_not_hidden(lua_State *L, int spec, const ScriptType *st, const char *parent,
                             const char *name, const char *what)
{
    bool hidden;

    binding_push_methods(L, parent);
    binding_push_getters(L, parent);
    hidden = lua_getfield(L, -2, name) != LUA_TNIL;
    hidden = lua_getfield(L, -2, name) != LUA_TNIL || hidden;
    lua_pop(L, 4);
    if (lua_getfield(L, spec, "methods") == LUA_TTABLE) {
        hidden = lua_getfield(L, -1, name) != LUA_TNIL || hidden;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    if (hidden) {
        luaL_error(L, "type '%s': %s '%s' would be hidden by the method or field of that name",
                   st->name, what, name);
    }
}

/* Pushes the string keys of the table at idx as a sorted list; returns their number. */
int script_sorted_keys(lua_State *L, int idx, const char *what)
{
    lua_Integer n = 0;

    idx = lua_absindex(L, idx);
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) != LUA_TSTRING) {
            luaL_error(L, "%s: names are expected as keys, not a %s", what, luaL_typename(L, -1));
        }
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, ++n);
    }
    lua_getglobal(L, "table");
    lua_getfield(L, -1, "sort");
    lua_remove(L, -2);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 0);
    return (int)n;
}

size_t script_lay_out(ScriptType *st, size_t size, size_t align)
{
    size_t at = (st->instance_end + align - 1) / align * align;

    st->instance_end = at + size;
    return at;
}

/* ---- declared state ------------------------------------------------------------------------ */

static void read_state(lua_State *L, int spec, ScriptType *st, ObjectClass *parent)
{
    char what[160];
    size_t total = 0;
    int n;

    if (lua_getfield(L, spec, "state") == LUA_TNIL) {
        lua_pop(L, 1);
        return;
    }
    g_snprintf(what, sizeof(what), "type '%s': state", st->name);
    if (!lua_istable(L, -1)) {
        luaL_error(L, "%s: a table expected, got a %s", what, luaL_typename(L, -1));
    }
    n = script_sorted_keys(L, -1, what);
    for (int i = 1; i <= n; i++) {
        StateField *f = g_new0(StateField, 1);
        const char *name;

        g_ptr_array_add(st->fields, f);
        lua_rawgeti(L, -1, i);
        name = lua_tostring(L, -1);
        f->name = g_strdup(name);
        g_snprintf(what, sizeof(what), "type '%s': state '%s'", st->name, name);
        if (!script_name_ok(name, false)) {
            luaL_error(L, "%s: a name has letters, digits and '_' only", what);
        }
        if (g_hash_table_contains(st->state, name)) {
            luaL_error(L, "%s: the parent has a state of that name", what);
        }
        if (object_class_find_property(parent, name)) {
            luaL_error(L, "%s: the parent has a property of that name", what);
        }
        for (guint k = 0; k < st->props->len; k++) {
            if (strcmp(g_array_index(st->props, Property, k).name, name) == 0) {
                luaL_error(L, "%s: it is a property too", what);
            }
        }
        script_check_not_hidden(L, spec, st, object_class_get_name(parent), name, "state");
        lua_pushvalue(L, -1);
        if (lua_gettable(L, -4) != LUA_TSTRING) {
            luaL_error(L, "%s: a type like \"uint32\" or \"uint8[16]\" expected, got a %s", what,
                       luaL_typename(L, -1));
        }
        f->type = g_strdup(lua_tostring(L, -1));
        script_state_parse(L, f->type, what, f);
        total += script_state_bytes(f);
        if (total > MAX_STATE_BYTES) {
            luaL_error(L, "%s: more than %d MiB of state", what, (int)(MAX_STATE_BYTES >> 20));
        }
        f->offset = script_lay_out(st, script_state_bytes(f), f->kind == VMS_BYTES ? 1 : f->size);
        g_hash_table_insert(st->state, f->name, f);
        lua_pop(L, 2);
    }
    lua_pop(L, 2);
}

static void build_vmsd(lua_State *L, int spec, ScriptType *st, ObjectClass *parent)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH];
    unsigned n = script_type_chain(st, chain);
    const VMStateField end = { .name = NULL };
    char what[160];

    g_snprintf(what, sizeof(what), "type '%s'", st->name);
    st->vmsd.version = opt_version(L, spec, "version", 1, what);
    st->vmsd.minimum_version = opt_version(L, spec, "minimum_version", st->vmsd.version, what);
    if (st->vmsd.minimum_version > st->vmsd.version) {
        luaL_error(L, "%s: minimum_version %d is above version %d", what,
                   (int)st->vmsd.minimum_version, (int)st->vmsd.version);
    }
    if (st->is_device && !st->parent) {
        const DeviceClass *dc = (const DeviceClass *)parent;
        st->c_vmsd = dc->vmsd;
    }
    if (st->root->c_vmsd) {
        VMStateField f = {
            .name = "parent", .kind = VMS_STRUCT, .count_offset = -1, .vmsd = st->root->c_vmsd
        };
        g_array_append_val(st->vmsd_fields, f);
    }
    for (unsigned k = 0; k < n; k++) {
        for (guint i = 0; i < chain[k]->fields->len; i++) {
            const StateField *s = chain[k]->fields->pdata[i];
            VMStateField f = { .name = s->name,
                               .kind = s->kind,
                               .offset = s->offset,
                               .size = s->size,
                               .count = s->count,
                               .count_offset = -1 };
            g_array_append_val(st->vmsd_fields, f);
        }
    }
    if (st->is_device) {
        g_array_append_val(st->vmsd_fields, script_timers_field);
    }
    g_array_append_val(st->vmsd_fields, end);
    st->vmsd.name = st->name;
    st->vmsd.fields = (const VMStateField *)st->vmsd_fields->data;
}

/* ---- qom.type ------------------------------------------------------------------------------ */

static void refuse_keys(lua_State *L, int spec, const ScriptType *st, const char *const *keys,
                        const char *why)
{
    for (; *keys; keys++) {
        if (lua_getfield(L, spec, *keys) != LUA_TNIL) {
            luaL_error(L, "type '%s': '%s' is for %s", st->name, *keys, why);
        }
        lua_pop(L, 1);
    }
}

static void read_hooks(lua_State *L, int spec, ScriptType *st)
{
    static const char *const device_keys[] = { "realize", "reset", "unrealize", "user_creatable",
                                               NULL };
    static const char *const instance_keys[] = { "properties", "state",           "init",
                                                 "pre_save",   "post_load",       "interfaces",
                                                 "version",    "minimum_version", NULL };

    if (!st->is_device) {
        refuse_keys(L, spec, st, device_keys, "types below 'device'");
    }
    if (st->is_interface) {
        refuse_keys(L, spec, st, instance_keys, "types with instances, not for interfaces");
    }
    st->init = script_opt_function(L, spec, "init", st->name);
    st->realize = script_opt_function(L, spec, "realize", st->name);
    st->reset = script_opt_function(L, spec, "reset", st->name);
    st->unrealize = script_opt_function(L, spec, "unrealize", st->name);
    st->pre_save = script_opt_function(L, spec, "pre_save", st->name);
    st->post_load = script_opt_function(L, spec, "post_load", st->name);
    st->user_creatable = script_opt_bool(L, spec, "user_creatable", true, st->name);
}

static void start_layout(ScriptType *st, ObjectClass *parent, size_t parent_size)
{
    st->parent = script_type_of_impl(parent->type);
    st->root = st->parent ? st->parent->root : st;
    st->is_device = object_class_dynamic_cast(parent, TYPE_DEVICE) != NULL;
    /* An implementer can be cast to it too; only interfaces descend from it. */
    st->is_interface = strcmp(type_get_name(parent->ancestors[0]), TYPE_INTERFACE) == 0;
    st->instance_end = parent_size;
    if (st->parent) {
        GHashTableIter it;
        gpointer name, field;

        g_hash_table_iter_init(&it, st->parent->state);
        while (g_hash_table_iter_next(&it, &name, &field)) {
            g_hash_table_insert(st->state, name, field);
        }
    } else if (!st->is_interface) {
        st->instance_offset = script_lay_out(st, sizeof(ScriptInstance), 16);
    }
}

int script_type_define(lua_State *L)
{
    enum { SPEC = 1, SLOT, MERGED, PARENT_METHODS };
    InterfaceInfo interfaces[33] = { { NULL } };
    unsigned n_interfaces;
    GError *error = NULL;
    ObjectClass *parent;
    const char *name, *parent_name;
    TypeInfo info = { 0 };
    ScriptType **slot, *st;
    TypeImpl *impl;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_checkstack(L, 40, NULL);
    binding_check_keys(L, SPEC, type_keys, "qom.type");
    name = script_opt_string(L, SPEC, "name", "qom.type");
    if (!name || !*name) {
        return luaL_error(L, "qom.type: a type needs a name");
    }
    if (strlen(name) > OBJECT_TYPE_MAX) {
        return luaL_error(L, "qom.type: a type's name has at most %d bytes", OBJECT_TYPE_MAX);
    }
    parent_name = script_opt_string(L, SPEC, "parent", name);
    if (!parent_name) {
        return luaL_error(L, "type '%s': no parent given, like parent = \"device\"", name);
    }
    if (type_table_get(name)) {
        return luaL_error(L, "type '%s' is registered already", name);
    }
    parent = object_class_lookup(parent_name, &error);
    if (!parent) {
        g_prefix_error(&error, "type '%s': parent: ", name);
        return binding_raise(L, error);
    }

    slot = builder_new(L);
    st = *slot;
    st->name = g_strdup(name);
    st->doc = g_strdup(script_opt_string(L, SPEC, "doc", name));
    start_layout(st, parent, type_instance_size(parent->type));
    script_pci_read(L, SPEC, st, parent);
    read_hooks(L, SPEC, st);
    script_read_needs(L, SPEC, st);

    lua_newtable(L);
    binding_push_methods(L, parent_name);
    if (lua_getfield(L, SPEC, "methods") != LUA_TNIL) {
        if (!lua_istable(L, -1)) {
            return luaL_error(L, "type '%s': methods: a table expected, got a %s", name,
                              luaL_typename(L, -1));
        }
        script_merge_methods(L, -1, MERGED, PARENT_METHODS, false, name);
    }
    lua_pop(L, 1);
    n_interfaces = script_read_interfaces(L, SPEC, st, MERGED, PARENT_METHODS, interfaces,
                                          G_N_ELEMENTS(interfaces) - 1);
    script_finish_interfaces(L, st, interfaces, n_interfaces, MERGED, PARENT_METHODS);
    lua_pushnil(L);
    while (lua_next(L, MERGED)) {
        g_hash_table_add(st->methods, g_strdup(lua_tostring(L, -2)));
        lua_pop(L, 1);
    }
    if (!st->is_interface) {
        script_read_properties(L, SPEC, st, parent);
        read_state(L, SPEC, st, parent);
        build_vmsd(L, SPEC, st, parent);
    }

    info.name = st->name;
    info.parent = parent_name;
    info.doc = st->doc;
    info.abstract = script_opt_bool(L, SPEC, "abstract", false, name);
    info.interfaces = interfaces;
    info.instance_size = st->is_interface ? 0 : st->instance_end;
    script_type_fill_info(st, &info);
    impl = type_register_checked(&info, &error);
    if (!impl) {
        return binding_raise(L, error);
    }
    *slot = NULL; /* the type's now: class_finalize frees it */
    script_type_register_class(L, st, impl);
    binding_push_methods(L, type_get_name(impl));
    lua_pushnil(L);
    while (lua_next(L, MERGED)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    return 0;
}
