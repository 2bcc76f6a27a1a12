/*
 * Interfaces of C that scripts implement: what C calls through a function pointer of the
 * interface's class reaches the Lua method of that name.
 *
 * The interface lists its methods (InterfaceMethod in engine/qom/object.h). For each that a
 * script's type defines, the implementer's interface class gets a closure made by libffi; one
 * closure serves all types, as it looks the method up in the object that it is called for. Closures
 * live as long as the process: a class may be used after Lua is gone, and then answers with
 * nothing.
 */
#include <ffi.h>
#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/script-type.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/machine/machine.h"

#define MAX_ARGS 8

typedef struct Bridge {
    const InterfaceMethod *method;
    ffi_cif cif;
    ffi_type *types[MAX_ARGS + 1];
    ffi_closure *closure;
    void *code;
    const char *args; /* of the signature, after the object; up to ')' */
} Bridge;

static GHashTable *bridges; /* const InterfaceMethod * -> Bridge *; engine lock */

static ffi_type *type_of(char kind)
{
    switch (kind) {
    case 'v':
        return &ffi_type_void;
    case 'b':
        return sizeof(bool) == 1 ? &ffi_type_uint8 : &ffi_type_uint;
    case 'i':
        return &ffi_type_sint32;
    case 'u':
        return &ffi_type_uint32;
    case 'l':
        return &ffi_type_sint64;
    case 'q':
        return &ffi_type_uint64;
    case 's':
    case 'o':
    case 'e':
        return &ffi_type_pointer;
    default:
        return NULL;
    }
}

/* ---- a call ------------------------------------------------------------------------------------
 */

static void push_arg(lua_State *L, char kind, const void *at)
{
    switch (kind) {
    case 'b':
        lua_pushboolean(L, *(const bool *)at);
        break;
    case 'i':
        lua_pushinteger(L, *(const int32_t *)at);
        break;
    case 'u':
        lua_pushinteger(L, *(const uint32_t *)at);
        break;
    case 'l':
    case 'q':
        lua_pushinteger(L, *(const int64_t *)at);
        break;
    case 's':
        lua_pushstring(L, *(const char *const *)at);
        break;
    default:
        binding_push_object(L, *(void *const *)at);
        break;
    }
}

/* The result at -2, a message at -1 if there is one. Results narrower than a register fill it. */
static bool take_result(lua_State *L, char kind, void *ret, GError **error)
{
    const lua_Integer v = lua_tointeger(L, -2);
    const bool whole = lua_isinteger(L, -2);

    if (lua_type(L, -1) == LUA_TSTRING && !lua_toboolean(L, -2)) {
        return error_set(error, ENGINE_ERROR_SCRIPT, "%s", lua_tostring(L, -1));
    }
    switch (kind) {
    case 'v':
        return true;
    case 'b':
        if (!lua_isboolean(L, -2) && !lua_isnil(L, -2)) {
            break;
        }
        *(ffi_arg *)ret = lua_toboolean(L, -2);
        return true;
    case 'i':
        if (!whole || v < INT32_MIN || v > INT32_MAX) {
            break;
        }
        *(ffi_sarg *)ret = v;
        return true;
    case 'u':
        if (!whole || v < 0 || v > UINT32_MAX) {
            break;
        }
        *(ffi_arg *)ret = (ffi_arg)v;
        return true;
    default:
        if (!whole) {
            break;
        }
        *(ffi_sarg *)ret = v;
        return true;
    }
    return error_set(error, ENGINE_ERROR_SCRIPT, "%s expected as the result, got %s",
                     kind == 'b'   ? "true or false"
                     : kind == 'i' ? "a whole number of 32 bits"
                     : kind == 'u' ? "a whole number from 0 of 32 bits"
                                   : "a whole number",
                     whole ? lua_tostring(L, -2) : luaL_typename(L, -2));
}

static bool call_method(const Bridge *b, Object *self, void *ret, void **args, GError **error)
{
    const char kind = b->method->signature[0];
    const char *type = object_get_typename(self);
    char what[160];
    int nargs = 1;
    bool ok;

    g_snprintf(what, sizeof what, "%s.%s", type, b->method->name);
    if (!script_main) {
        return error_set(error, ENGINE_ERROR_GONE, "%s: its script is gone", what);
    }
    lua_State *L = binding_state();
    const int top = lua_gettop(L);
    binding_push_methods(L, type);
    if (lua_getfield(L, -1, b->method->name) != LUA_TFUNCTION) {
        lua_settop(L, top);
        return error_set(error, ENGINE_ERROR_SCRIPT, "%s: there is no such method any more", what);
    }
    binding_push_object(L, self);
    for (const char *a = b->args; *a != ')' && *a != 'e'; a++) {
        push_arg(L, *a, args[nargs]);
        nargs++;
    }
    ok = binding_call(L, nargs, 2, true, what, error);
    if (ok && !take_result(L, kind, ret, error)) {
        g_prefix_error(error, "%s: ", what);
        ok = false;
    } else if (ok && kind == 'b' && lua_isnil(L, -2) && strchr(b->args, 'e')) {
        *(ffi_arg *)ret = true; /* as in realize: it said nothing against it */
    } else if (ok && kind == 'b' && !*(ffi_arg *)ret && strchr(b->args, 'e')) {
        ok = error_set(error, ENGINE_ERROR_SCRIPT, "%s: refused", what);
    }
    lua_settop(L, top);
    return ok;
}

static void dispatch(ffi_cif *cif, void *ret, void **args, void *opaque)
{
    const Bridge *b = opaque;
    Object *self = *(Object **)args[0];
    const bool has_error = cif->nargs > 1 && b->args[cif->nargs - 2] == 'e';
    GError *error = NULL;

    ENGINE_LOCK_ASSERT();
    if (b->method->signature[0] != 'v') {
        *(ffi_arg *)ret = 0;
    }
    object_ref(self);
    if (!call_method(b, self, ret, args, &error)) {
        DeviceState *dev = (DeviceState *)object_dynamic_cast(self, TYPE_DEVICE);
        if (b->method->signature[0] != 'v') {
            *(ffi_arg *)ret = 0;
        }
        if (has_error) {
            g_propagate_error(*(GError ***)args[cif->nargs - 1], error);
        } else if (dev && dev->machine) {
            machine_fail(dev->machine, error->message);
            g_error_free(error);
        } else {
            binding_report(error);
        }
    }
    object_unref(self);
}

/* ---- making
 * -------------------------------------------------------------------------------------- */

/* "b(us)": what it returns, then what it takes after the object. */
static bool prepare(Bridge *b)
{
    const char *s = b->method->signature;
    unsigned n = 0;

    if (!s[0] || !type_of(s[0]) || strchr("soe", s[0]) || s[1] != '(') {
        return false;
    }
    b->args = s + 2;
    b->types[n++] = &ffi_type_pointer;
    for (const char *a = b->args; *a != ')'; a++) {
        const bool last = a[0] && a[1] == ')';
        if (n > MAX_ARGS || *a == 'v' || !*a || !type_of(*a) || (*a == 'e' && !last)) {
            return false;
        }
        b->types[n++] = type_of(*a);
    }
    b->closure = ffi_closure_alloc(sizeof *b->closure, &b->code);
    return b->closure &&
           ffi_prep_cif(&b->cif, FFI_DEFAULT_ABI, n, type_of(s[0]), b->types) == FFI_OK &&
           ffi_prep_closure_loc(b->closure, &b->cif, dispatch, b, b->code) == FFI_OK;
}

static void *bridge_to(const InterfaceMethod *m)
{
    Bridge *b;

    if (!bridges) {
        bridges = g_hash_table_new(NULL, NULL);
    }
    b = g_hash_table_lookup(bridges, m);
    if (!b) {
        b = g_new0(Bridge, 1);
        b->method = m;
        if (!prepare(b)) {
            g_error("interface method '%s': bad signature '%s'", m->name, m->signature);
        }
        g_hash_table_insert(bridges, (gpointer)(uintptr_t)m, b);
    }
    return b->code;
}

/* From class_init: the interface classes of `klass` are its own copies. */
void script_interfaces_fill(const ScriptType *st, ObjectClass *klass)
{
    for (GSList *l = klass->interfaces; l; l = l->next) {
        InterfaceClass *ic = l->data;
        for (const InterfaceMethod *m = ic->methods; m && m->name; m++) {
            if (g_hash_table_contains(st->methods, m->name)) {
                *(void **)((char *)ic + m->offset) = bridge_to(m);
            }
        }
    }
}

/* Raises where the type lacks a method that the interface has no default for. */
void script_interface_check(lua_State *L, const ScriptType *st, ObjectClass *iface, int merged,
                            int parent_methods)
{
    const InterfaceClass *ic = (const InterfaceClass *)iface;

    if (strcmp(type_get_name(iface->ancestors[0]), TYPE_INTERFACE) != 0) {
        return; /* registering will say that it is none */
    }
    for (const InterfaceMethod *m = ic->methods; m && m->name; m++) {
        bool found = lua_getfield(L, merged, m->name) == LUA_TFUNCTION;
        found = lua_getfield(L, parent_methods, m->name) == LUA_TFUNCTION || found;
        lua_pop(L, 2);
        if (!found && m->required && !*(void *const *)((const char *)ic + m->offset)) {
            luaL_error(L, "type '%s': interface '%s' requires the method '%s'", st->name,
                       object_class_get_name(iface), m->name);
        }
    }
}

/* ---- methods and interfaces ---------------------------------------------------------------- */

void script_merge_methods(lua_State *L, int from, int to, int parent_methods, bool keep,
                          const char *what)
{
    from = lua_absindex(L, from);
    lua_pushnil(L);
    while (lua_next(L, from)) {
        bool known = false;

        if (lua_type(L, -2) != LUA_TSTRING || !lua_isfunction(L, -1)) {
            luaL_error(L, "%s: a table of named functions expected, found a %s with a %s key", what,
                       luaL_typename(L, -1), luaL_typename(L, -2));
        }
        if (keep) {
            lua_pushvalue(L, -2);
            known = lua_rawget(L, to) != LUA_TNIL;
            lua_pushvalue(L, -3);
            known = lua_gettable(L, parent_methods) != LUA_TNIL || known;
            lua_pop(L, 2);
        }
        if (known) {
            lua_pop(L, 1);
        } else {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_rawset(L, to);
        }
    }
}

static void check_needs(lua_State *L, ScriptType *st, ScriptType *iface, int merged,
                        int parent_methods)
{
    for (guint i = 0; i < iface->needs->len; i++) {
        const char *name = iface->needs->pdata[i];
        bool found = lua_getfield(L, merged, name) == LUA_TFUNCTION;

        found = lua_getfield(L, parent_methods, name) == LUA_TFUNCTION || found;
        lua_pop(L, 2);
        if (!found) {
            luaL_error(L, "type '%s': interface '%s' requires the method '%s'", st->name,
                       iface->name, name);
        }
    }
}

unsigned script_read_interfaces(lua_State *L, int spec, ScriptType *st, int merged,
                                int parent_methods, InterfaceInfo *names, unsigned max)
{
    unsigned n = 0;
    char what[256];

    if (lua_getfield(L, spec, "interfaces") == LUA_TNIL) {
        lua_pop(L, 1);
        return 0;
    }
    g_snprintf(what, sizeof(what), "type '%s': interfaces", st->name);
    if (!lua_istable(L, -1)) {
        luaL_error(L, "%s: a table expected, got a %s", what, luaL_typename(L, -1));
    }
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        bool listed = lua_isinteger(L, -2) && lua_type(L, -1) == LUA_TSTRING;

        if (!listed && (lua_type(L, -2) != LUA_TSTRING || !lua_istable(L, -1))) {
            luaL_error(L, "%s: a name, or name = { methods }, expected", what);
        }
        if (n == max) {
            luaL_error(L, "%s: more than %d", what, (int)max);
        }
        names[n].type = lua_tostring(L, listed ? -1 : -2); /* held by the table */
        if (!listed) {
            g_snprintf(what, sizeof(what), "type '%s': interface '%s'", st->name, names[n].type);
            script_merge_methods(L, -1, merged, parent_methods, false, what);
        }
        n++;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return n;
}

void script_finish_interfaces(lua_State *L, ScriptType *st, const InterfaceInfo *names, unsigned n,
                              int merged, int parent_methods)
{
    for (unsigned i = 0; i < n; i++) {
        GError *error = NULL;
        ObjectClass *klass = object_class_lookup(names[i].type, &error);

        if (!klass) {
            g_prefix_error(&error, "type '%s': interface: ", st->name);
            binding_raise(L, error);
            return;
        }
        /* The nearest first: what a base of the interface defines too does not replace it. */
        for (TypeImpl *t = klass->type; t; t = type_get_parent(t)) {
            binding_push_methods(L, type_get_name(t));
            script_merge_methods(L, -1, merged, parent_methods, true, type_get_name(t));
            lua_pop(L, 1);
        }
        for (TypeImpl *t = klass->type; t; t = type_get_parent(t)) {
            ScriptType *iface = script_type_of_impl(t);
            if (iface) {
                check_needs(L, st, iface, merged, parent_methods);
            }
            script_interface_check(L, st, object_class_by_name(type_get_name(t)), merged,
                                   parent_methods);
        }
    }
}

void script_read_needs(lua_State *L, int spec, ScriptType *st)
{
    if (lua_getfield(L, spec, "requires") != LUA_TNIL) {
        if (!st->is_interface || !lua_istable(L, -1)) {
            luaL_error(L, "type '%s': 'requires' is a list of method names of an interface",
                       st->name);
        }
        for (lua_Unsigned i = 1, n = lua_rawlen(L, -1); i <= n; i++) {
            if (lua_rawgeti(L, -1, (lua_Integer)i) != LUA_TSTRING) {
                luaL_error(L, "type '%s': 'requires' is a list of method names", st->name);
            }
            g_ptr_array_add(st->needs, g_strdup(lua_tostring(L, -1)));
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}
