/* Declared state of script types as fields of handles: dev.count, dev.fifo[3]. */
#include <string.h>

#include "bindings/script-type.h"
#include "engine/core/error.h"

#define ARRAY_META "vmlua.state-array"

typedef struct ScalarType {
    const char *name;
    VMStateKind kind;
    size_t size;
    bool is_signed;
} ScalarType;

static const ScalarType scalar_types[] = {
    { "bool", VMS_BOOL, sizeof(bool), false },
    { "uint8", VMS_U8, 1, false },
    { "uint16", VMS_U16, 2, false },
    { "uint32", VMS_U32, 4, false },
    { "uint64", VMS_U64, 8, false },
    { "int8", VMS_S8, 1, true },
    { "int16", VMS_S16, 2, true },
    { "int32", VMS_S32, 4, true },
    { "int64", VMS_S64, 8, true },
    { "double", VMS_DOUBLE, 8, true },
};

static const ScalarType *scalar_of_kind(VMStateKind kind)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(scalar_types); i++) {
        if (scalar_types[i].kind == kind) {
            return &scalar_types[i];
        }
    }
    return NULL;
}

/* ---- declarations -------------------------------------------------------------------------- */

void script_state_parse(lua_State *L, const char *text, const char *what, StateField *out)
{
    static const char *const names[] = { "bool",  "uint8", "uint16", "uint32", "uint64", "int8",
                                         "int16", "int32", "int64",  "double", "bytes",  NULL };
    char base[16];
    size_t len = strcspn(text, "[:");
    const char *near;

    if (len < sizeof(base)) {
        char *end;
        unsigned long long n;

        memcpy(base, text, len);
        base[len] = '\0';
        n = g_ascii_isdigit(text[len] ? text[len + 1] : '\0')
                ? g_ascii_strtoull(text + len + 1, &end, 10)
                : 0;
        if (strcmp(base, "bytes") == 0 && text[len] == ':') {
            if (!n || *end || n > INT32_MAX) {
                luaL_error(L, "%s: '%s': a length expected, like \"bytes:64\"", what, text);
            }
            out->kind = VMS_BYTES;
            out->size = n;
            return;
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(scalar_types); i++) {
            if (strcmp(base, scalar_types[i].name) != 0) {
                continue;
            }
            out->kind = scalar_types[i].kind;
            out->size = scalar_types[i].size;
            if (text[len] == '[') {
                if (!n || strcmp(end, "]") != 0 || n > INT32_MAX / 8) {
                    luaL_error(L, "%s: '%s': a length expected, like \"uint8[16]\"", what, text);
                }
                out->count = (unsigned)n;
            } else if (text[len]) {
                break;
            }
            return;
        }
    } else {
        base[0] = '\0';
    }
    near = nearest_word(base, names);
    luaL_error(L, "%s: unknown type '%s'%s%s%s", what, text, near ? " (did you mean '" : "",
               near ? near : "", near ? "'?)" : "");
}

size_t script_state_bytes(const StateField *f)
{
    return f->size * (f->count ? f->count : 1);
}

/* ---- scalars ------------------------------------------------------------------------------- */

bool script_state_push(lua_State *L, VMStateKind kind, const void *at, size_t size)
{
    switch (kind) {
    case VMS_BOOL:
        lua_pushboolean(L, *(const bool *)at);
        return true;
    case VMS_U8:
        lua_pushinteger(L, *(const uint8_t *)at);
        return true;
    case VMS_U16:
        lua_pushinteger(L, *(const uint16_t *)at);
        return true;
    case VMS_U32:
        lua_pushinteger(L, *(const uint32_t *)at);
        return true;
    case VMS_U64:
        lua_pushinteger(L, (lua_Integer) * (const uint64_t *)at);
        return true;
    case VMS_S8:
        lua_pushinteger(L, *(const int8_t *)at);
        return true;
    case VMS_S16:
        lua_pushinteger(L, *(const int16_t *)at);
        return true;
    case VMS_S32:
        lua_pushinteger(L, *(const int32_t *)at);
        return true;
    case VMS_S64:
        lua_pushinteger(L, *(const int64_t *)at);
        return true;
    case VMS_DOUBLE:
        lua_pushnumber(L, *(const double *)at);
        return true;
    case VMS_BYTES:
        lua_pushlstring(L, at, size);
        return true;
    case VMS_TIMER: {
        const Timer *t = at;
        if (timer_armed(t)) {
            lua_pushinteger(L, t->expire);
        } else {
            lua_pushnil(L);
        }
        return true;
    }
    default:
        return false;
    }
}

static void store_integer(void *at, size_t size, lua_Integer v)
{
    switch (size) {
    case 1:
        *(uint8_t *)at = (uint8_t)v;
        break;
    case 2:
        *(uint16_t *)at = (uint16_t)v;
        break;
    case 4:
        *(uint32_t *)at = (uint32_t)v;
        break;
    default:
        *(uint64_t *)at = (uint64_t)v;
    }
}

/* Stores the value at idx; raises with object, name and range when it does not fit. 64 unsigned
 * bits are written as they are: -1 is 0xffffffffffffffff. */
void script_state_store(lua_State *L, Object *obj, const char *name, VMStateKind kind, void *at,
                        size_t size, int idx)
{
    const ScalarType *type = scalar_of_kind(kind);
    lua_Integer v, min, max;
    int exact;

    switch (kind) {
    case VMS_BOOL:
        if (!lua_isboolean(L, idx)) {
            luaL_error(L, "%s: state '%s': true or false expected, got a %s", object_get_name(obj),
                       name, luaL_typename(L, idx));
        }
        *(bool *)at = lua_toboolean(L, idx);
        return;
    case VMS_DOUBLE:
        if (lua_type(L, idx) != LUA_TNUMBER) {
            luaL_error(L, "%s: state '%s': a number expected, got a %s", object_get_name(obj), name,
                       luaL_typename(L, idx));
        }
        *(double *)at = lua_tonumber(L, idx);
        return;
    case VMS_BYTES: {
        size_t len;
        const char *s = lua_type(L, idx) == LUA_TSTRING ? lua_tolstring(L, idx, &len) : NULL;
        if (!s || len > size) {
            luaL_error(L, "%s: state '%s': a string of at most %d bytes expected, got %s",
                       object_get_name(obj), name, (int)size,
                       s ? "a longer one" : luaL_typename(L, idx));
            return;
        }
        memcpy(at, s, len);
        memset((char *)at + len, 0, size - len);
        return;
    }
    default:
        break;
    }
    if (!type) {
        luaL_error(L, "%s: state '%s' cannot be assigned to", object_get_name(obj), name);
        return;
    }
    v = lua_type(L, idx) == LUA_TNUMBER ? lua_tointegerx(L, idx, &exact) : (exact = 0);
    if (!exact) {
        luaL_error(L, "%s: state '%s': a whole number (%s) expected, got %s", object_get_name(obj),
                   name, type->name, luaL_tolstring(L, idx, NULL));
    }
    if (type->size < 8) {
        max = (INT64_C(1) << (8 * type->size - type->is_signed)) - 1;
        min = type->is_signed ? -max - 1 : 0;
        if (v < min || v > max) {
            luaL_error(L, "%s: state '%s': %I does not fit %s (%I to %I)", object_get_name(obj),
                       name, (LUAI_UACINT)v, type->name, (LUAI_UACINT)min, (LUAI_UACINT)max);
        }
    }
    store_integer(at, type->size, v);
}

/* ---- arrays -------------------------------------------------------------------------------- */

typedef struct StateArray {
    const StateField *field;
} StateArray;

static Object *array_object(lua_State *L)
{
    Object *obj;

    lua_getiuservalue(L, 1, 1);
    obj = binding_check_object(L, -1, TYPE_OBJECT);
    lua_pop(L, 1);
    return obj;
}

static const StateField *array_check(lua_State *L)
{
    return ((StateArray *)luaL_checkudata(L, 1, ARRAY_META))->field;
}

/* Raises outside 1..count. */
static void *array_element(lua_State *L, const StateField *f, Object *obj)
{
    int exact;
    lua_Integer i = lua_tointegerx(L, 2, &exact);

    if (!exact || i < 1 || i > (lua_Integer)f->count) {
        luaL_error(L, "%s: state '%s' has elements 1 to %d, no %s", object_get_name(obj), f->name,
                   (int)f->count, luaL_tolstring(L, 2, NULL));
    }
    return (char *)obj + f->offset + (size_t)(i - 1) * f->size;
}

static int array_index(lua_State *L)
{
    const StateField *f = array_check(L);
    Object *obj = array_object(L);

    script_state_push(L, f->kind, array_element(L, f, obj), f->size);
    return 1;
}

static int array_newindex(lua_State *L)
{
    const StateField *f = array_check(L);
    Object *obj = array_object(L);

    script_state_store(L, obj, f->name, f->kind, array_element(L, f, obj), f->size, 3);
    return 0;
}

static int array_len(lua_State *L)
{
    lua_pushinteger(L, array_check(L)->count);
    return 1;
}

static int array_next(lua_State *L)
{
    lua_Integer i = luaL_optinteger(L, 2, 0) + 1;

    if (i > (lua_Integer)array_check(L)->count) {
        lua_pushnil(L);
        return 1;
    }
    lua_settop(L, 1);
    lua_pushinteger(L, i);
    array_index(L);
    lua_pushinteger(L, i);
    lua_insert(L, -2);
    return 2;
}

static int array_pairs(lua_State *L)
{
    array_check(L);
    lua_pushcfunction(L, array_next);
    lua_pushvalue(L, 1);
    lua_pushinteger(L, 0);
    return 3;
}

static int array_tostring(lua_State *L)
{
    const StateField *f = array_check(L);

    lua_pushfstring(L, "%s (%s)", f->name, f->type);
    return 1;
}

/* One proxy a field and handle: kept in the handle's own user value, so that the collector sees the
 * circle. */
static void push_array(lua_State *L, Object *obj, const StateField *f)
{
    StateArray *a;

    luaL_checkstack(L, 8, NULL);
    binding_push_object(L, obj);
    if (lua_getiuservalue(L, -1, 1) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, -3, 1);
    }
    if (lua_rawgetp(L, -1, f) == LUA_TNIL) {
        lua_pop(L, 1);
        a = lua_newuserdatauv(L, sizeof(*a), 1);
        a->field = f;
        lua_pushvalue(L, -3);
        lua_setiuservalue(L, -2, 1);
        luaL_setmetatable(L, ARRAY_META);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, -3, f);
    }
    lua_replace(L, -3);
    lua_pop(L, 1);
}

static void store_array(lua_State *L, Object *obj, const StateField *f, int idx)
{
    lua_Integer n;

    idx = lua_absindex(L, idx);
    if (!lua_istable(L, idx) && !luaL_testudata(L, idx, ARRAY_META)) {
        luaL_error(L, "%s: state '%s': a table of at most %d values expected, got a %s",
                   object_get_name(obj), f->name, (int)f->count, luaL_typename(L, idx));
    }
    n = luaL_len(L, idx);
    if (n < 0 || n > (lua_Integer)f->count) {
        luaL_error(L, "%s: state '%s': %d values for %d elements", object_get_name(obj), f->name,
                   (int)n, (int)f->count);
    }
    /* All are checked before the first is stored. */
    for (int pass = 0; pass < 2; pass++) {
        uint64_t scratch;
        for (lua_Integer i = 1; i <= n; i++) {
            void *at = pass ? (char *)obj + f->offset + (size_t)(i - 1) * f->size
                            : (void *)&scratch;
            lua_geti(L, idx, i);
            script_state_store(L, obj, f->name, f->kind, at, f->size, -1);
            lua_pop(L, 1);
        }
    }
    memset((char *)obj + f->offset + (size_t)n * f->size, 0,
           ((size_t)f->count - (size_t)n) * f->size);
}

/* ---- members of handles -------------------------------------------------------------------- */

static const StateField *find_field(Object *obj, const char *key)
{
    const ScriptType *st = script_type_of(obj);

    return st ? g_hash_table_lookup(st->state, key) : NULL;
}

static bool members_get(lua_State *L, Object *obj, const char *key)
{
    const StateField *f = find_field(obj, key);

    if (!f) {
        return false;
    }
    if (f->count) {
        push_array(L, obj, f);
    } else {
        script_state_push(L, f->kind, (char *)obj + f->offset, f->size);
    }
    return true;
}

static bool members_set(lua_State *L, Object *obj, const char *key, int idx)
{
    const StateField *f = find_field(obj, key);

    if (!f) {
        return false;
    }
    if (f->count) {
        store_array(L, obj, f, idx);
    } else {
        script_state_store(L, obj, f->name, f->kind, (char *)obj + f->offset, f->size, idx);
    }
    return true;
}

static void members_list(Object *obj, void (*add)(const char *name, void *opaque), void *opaque)
{
    const ScriptType *st = script_type_of(obj);
    GHashTableIter it;
    gpointer name;

    if (st) {
        g_hash_table_iter_init(&it, st->state);
        while (g_hash_table_iter_next(&it, &name, NULL)) {
            add(name, opaque);
        }
    }
}

const BindingMembers script_state_members = { members_get, members_set, members_list };

void script_state_open(lua_State *L)
{
    static const luaL_Reg array[] = {
        { "__index", array_index }, { "__newindex", array_newindex }, { "__len", array_len },
        { "__pairs", array_pairs }, { "__tostring", array_tostring }, { NULL, NULL },
    };

    luaL_newmetatable(L, ARRAY_META);
    luaL_setfuncs(L, array, 0);
    lua_pop(L, 1);
    script_state_proxy_open(L);
}
