/*
 * Values between Lua and C: addresses and ranges, option tables, property values, errors.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

/* ---- integers -------------------------------------------------------------------------------- */

/* false, with a message pushed, when the value at idx is not an address or size. */
static bool to_u64(lua_State *L, int idx, uint64_t *out, const char *what)
{
    int exact;
    switch (lua_type(L, idx)) {
    case LUA_TNUMBER: {
        lua_Integer i = lua_tointegerx(L, idx, &exact);
        if (!exact) {
            lua_pushfstring(L, "%s: %f is not a whole 64-bit number", what, lua_tonumber(L, idx));
            return false;
        }
        *out = (uint64_t)i;
        return true;
    }
    case LUA_TSTRING: {
        GError *error = NULL;
        if (parse_size(lua_tostring(L, idx), out, &error)) {
            return true;
        }
        lua_pushfstring(L, "%s: %s", what, error->message);
        g_error_free(error);
        return false;
    }
    default:
        lua_pushfstring(L, "%s: an integer or a string like \"2G\" expected, got %s", what,
                        luaL_typename(L, idx));
        return false;
    }
}

uint64_t binding_check_u64(lua_State *L, int arg, const char *what)
{
    uint64_t value = 0;
    if (!to_u64(L, arg, &value, what)) {
        luaL_argerror(L, arg, lua_tostring(L, -1));
    }
    return value;
}

uint64_t binding_check_range(lua_State *L, int arg, uint64_t min, uint64_t max, const char *what)
{
    uint64_t value = binding_check_u64(L, arg, what);
    if (value < min || value > max) {
        char buf[160];
        g_snprintf(buf, sizeof buf, "%s: %#" PRIx64 " is not within %#" PRIx64 "..%#" PRIx64, what,
                   value, min, max);
        luaL_argerror(L, arg, buf);
    }
    return value;
}

/* ---- option tables --------------------------------------------------------------------------- */

void binding_check_keys(lua_State *L, int idx, const char *const *known, const char *what)
{
    idx = lua_absindex(L, idx);
    luaL_checktype(L, idx, LUA_TTABLE);
    luaL_checkstack(L, 4, NULL);
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        lua_pop(L, 1);
        bool found = false;
        const char *key = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        for (unsigned i = 0; key && known[i] && !found; i++) {
            found = strcmp(known[i], key) == 0;
        }
        if (!found && key) {
            const char *near = nearest_word(key, known);
            luaL_error(L, "%s: unknown key '%s'%s%s%s", what, key, near ? "; the nearest is '" : "",
                       near ? near : "", near ? "'" : "");
        } else if (!found) {
            luaL_error(L, "%s: keys are names, got a %s as key", what, luaL_typename(L, -1));
        }
    }
}

int binding_get_key(lua_State *L, int idx, const char *key)
{
    return lua_getfield(L, idx, key);
}

static int scratch_gc(lua_State *L)
{
    GByteArray **array = luaL_checkudata(L, 1, "vmlua.scratch");
    if (*array) {
        g_byte_array_unref(*array);
        *array = NULL;
    }
    return 0;
}

GByteArray *binding_scratch(lua_State *L)
{
    GByteArray **array = lua_newuserdatauv(L, sizeof(GByteArray *), 0);
    *array = NULL;
    if (luaL_newmetatable(L, "vmlua.scratch")) {
        lua_pushcfunction(L, scratch_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    *array = g_byte_array_new();
    return *array;
}

/* ---- errors ---------------------------------------------------------------------------------- */

int binding_fail(lua_State *L, GError *error)
{
    char buf[1024];
    g_strlcpy(buf, error ? error->message : "unknown error", sizeof buf);
    g_clear_error(&error);
    lua_pushnil(L);
    lua_pushstring(L, buf);
    return 2;
}

int binding_result(lua_State *L, bool ok, GError **error)
{
    if (!ok) {
        return binding_fail(L, *error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

int binding_raise(lua_State *L, GError *error)
{
    char buf[4096];
    g_strlcpy(buf, error ? error->message : "unknown error", sizeof buf);
    g_clear_error(&error);
    return luaL_error(L, "%s", buf);
}

/* ---- property values ---------------------------------------------------------------------------
 */

static void push_scalar(lua_State *L, const PropValue *v, const Property *p)
{
    switch (v->kind) {
    case PROP_BOOL:
        lua_pushboolean(L, v->boolean);
        break;
    case PROP_INT:
        lua_pushinteger(L, v->integer);
        break;
    case PROP_UINT:
    case PROP_SIZE:
        lua_pushinteger(L, (lua_Integer)v->uinteger);
        break;
    case PROP_ENUM:
        if (p && p->words) {
            lua_pushstring(L, p->words[v->integer]);
        } else {
            lua_pushinteger(L, v->integer);
        }
        break;
    case PROP_STRING:
        lua_pushstring(L, v->string); /* nil for NULL */
        break;
    case PROP_LINK:
    case PROP_CHILD:
        binding_push_object(L, v->object);
        break;
    case PROP_DOUBLE:
        lua_pushnumber(L, v->number);
        break;
    case PROP_LIST:
        lua_pushnil(L);
        break;
    }
}

void binding_push_prop_value(lua_State *L, const PropValue *v, const Property *p)
{
    luaL_checkstack(L, 6, NULL);
    if (v->kind != PROP_LIST) {
        push_scalar(L, v, p);
        return;
    }
    lua_createtable(L, v->list ? (int)v->list->len : 0, 0);
    for (guint i = 0; v->list && i < v->list->len; i++) {
        push_scalar(L, g_ptr_array_index(v->list, i), p);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

static bool to_scalar(lua_State *L, int idx, PropKind want, PropValue *out, GError **error)
{
    int exact;
    Object *obj;

    switch (lua_type(L, idx)) {
    case LUA_TNIL:
        if (want == PROP_STRING) {
            *out = (PropValue){ .kind = PROP_STRING };
            return true;
        }
        if (want == PROP_LINK) {
            *out = (PropValue){ .kind = PROP_LINK };
            return true;
        }
        break;
    case LUA_TBOOLEAN:
        *out = (PropValue){ .kind = PROP_BOOL, .boolean = lua_toboolean(L, idx) };
        return true;
    case LUA_TNUMBER: {
        if (want == PROP_DOUBLE) {
            *out = (PropValue){ .kind = PROP_DOUBLE, .number = lua_tonumber(L, idx) };
            return true;
        }
        lua_Integer i = lua_tointegerx(L, idx, &exact);
        if (!exact) {
            *out = (PropValue){ .kind = PROP_DOUBLE, .number = lua_tonumber(L, idx) };
        } else if (i < 0) {
            *out = (PropValue){ .kind = PROP_INT, .integer = i };
        } else {
            *out = (PropValue){ .kind = PROP_UINT, .uinteger = (uint64_t)i };
        }
        return true;
    }
    case LUA_TSTRING:
        if (strlen(lua_tostring(L, idx)) != lua_rawlen(L, idx)) {
            return error_set(error, ENGINE_ERROR_INVALID, "a string with a NUL in it");
        }
        *out = (PropValue){ .kind = PROP_STRING, .string = g_strdup(lua_tostring(L, idx)) };
        return true;
    case LUA_TUSERDATA:
        obj = binding_test_object(L, idx, TYPE_OBJECT);
        if (obj) {
            *out = (PropValue){ .kind = PROP_LINK, .object = object_ref(obj) };
            return true;
        }
        return error_set(error, ENGINE_ERROR_INVALID, "not a live object");
    default:
        break;
    }
    return error_set(error, ENGINE_ERROR_INVALID, "a %s cannot be its value",
                     luaL_typename(L, idx));
}

bool binding_to_prop_value(lua_State *L, int idx, const Property *p, PropValue *out, GError **error)
{
    PropKind want = p ? p->kind : PROP_STRING;
    idx = lua_absindex(L, idx);
    /* 64 unsigned bits are written as they are: -1 is 0xffffffffffffffff. */
    if (lua_isinteger(L, idx) && (want == PROP_SIZE || (want == PROP_UINT && p->bits == 64))) {
        *out = (PropValue){ .kind = PROP_UINT, .uinteger = (uint64_t)lua_tointeger(L, idx) };
        return true;
    }
    if (want != PROP_LIST) {
        return to_scalar(L, idx, want, out, error);
    }
    if (!lua_istable(L, idx)) {
        return error_set(error, ENGINE_ERROR_INVALID, "a table expected, got %s",
                         luaL_typename(L, idx));
    }
    lua_checkstack(L, 4);
    *out = (PropValue){ .kind = PROP_LIST, .list = prop_list_new() };
    for (lua_Unsigned i = 1, n = lua_rawlen(L, idx); i <= n; i++) {
        PropValue *item = g_new0(PropValue, 1);
        lua_rawgeti(L, idx, (lua_Integer)i);
        bool ok = to_scalar(L, -1, p->element, item, error);
        lua_pop(L, 1);
        g_ptr_array_add(out->list, item);
        if (!ok) {
            g_prefix_error(error, "[%d]: ", (int)i);
            prop_value_clear(out);
            return false;
        }
    }
    return true;
}
