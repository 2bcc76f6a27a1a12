/* `object.state`: the saved state of any device, of C or of scripts, by name. */
#include <stdlib.h>
#include <string.h>

#include "bindings/script-type.h"

#define PROXY_META "vmlua.state"

/* A userdata with the path so far behind it ("" at the top, else "fifo.data" or "regs[2]"). */

typedef struct Scalar {
    VMStateKind kind;
    void *field;
    size_t size;
    size_t path; /* offset of its text in the byte array */
} Scalar;
typedef struct Walk {
    const char *path; /* wanted */
    size_t len;
    bool found;
    bool below; /* something has it as a prefix */
    Scalar scalar;
    unsigned elements; /* of "path[n]": the highest n + 1 */
} Walk;

static const VMStateDescription *object_vmsd(Object *obj)
{
    const ScriptType *st = script_type_of(obj);
    DeviceState *dev = (DeviceState *)object_dynamic_cast(obj, TYPE_DEVICE);

    if (dev) {
        const DeviceClass *dc = DEVICE_GET_CLASS(dev);
        return dc->get_vmsd ? dc->get_vmsd(dev) : dc->vmsd;
    }
    return st ? &st->vmsd : NULL;
}

static void walk_one(const char *path, VMStateKind kind, void *field, size_t size, void *data)
{
    Walk *w = data;
    const char *rest = path + w->len;

    if (strncmp(path, w->path, w->len) != 0) {
        return;
    }
    if (!*rest) {
        w->found = true;
        w->scalar = (Scalar){ .kind = kind, .field = field, .size = size };
    } else if (*rest == '[') {
        unsigned long n = strtoul(rest + 1, NULL, 10) + 1;
        w->below = true;
        w->elements = MAX(w->elements, (unsigned)n);
    } else if (*rest == '.') {
        w->below = true;
    }
}

static Object *proxy_object(lua_State *L, const char **path)
{
    Object *obj;

    *path = luaL_checkudata(L, 1, PROXY_META);
    lua_getiuservalue(L, 1, 1);
    obj = binding_check_object(L, -1, TYPE_OBJECT);
    lua_pop(L, 1);
    return obj;
}

/* Pushes a proxy for `path` of the handle at idx. */
static void push_proxy(lua_State *L, int handle, const char *path)
{
    size_t n = strlen(path) + 1;
    char *ud;

    handle = lua_absindex(L, handle);
    ud = lua_newuserdatauv(L, n, 1);
    memcpy(ud, path, n);
    lua_pushvalue(L, handle);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, PROXY_META);
}

int script_state_push_proxy(lua_State *L)
{
    binding_check_object(L, 1, TYPE_OBJECT);
    push_proxy(L, 1, "");
    return 1;
}

/* Pushes the path of key (at idx 2) below `path`. */
static const char *push_path(lua_State *L, const char *path)
{
    int exact;
    lua_Integer i = lua_tointegerx(L, 2, &exact);

    if (exact && lua_type(L, 2) == LUA_TNUMBER) {
        if (i < 1) {
            luaL_error(L, "state: indices begin at 1, not %I", (LUAI_UACINT)i);
        }
        return lua_pushfstring(L, "%s[%I]", path, (LUAI_UACINT)(i - 1));
    }
    if (lua_type(L, 2) != LUA_TSTRING) {
        luaL_error(L, "state: a name or an index expected as the key, got a %s",
                   luaL_typename(L, 2));
    }
    return *path ? lua_pushfstring(L, "%s.%s", path, lua_tostring(L, 2)) : lua_tostring(L, 2);
}

static Walk proxy_find(lua_State *L, Object **obj, const char **full)
{
    const char *path;
    const VMStateDescription *vmsd;
    Walk w = { 0 };

    *obj = proxy_object(L, &path);
    *full = push_path(L, path);
    vmsd = object_vmsd(*obj);
    w.path = *full;
    w.len = strlen(*full);
    if (vmsd) {
        vmstate_foreach_scalar(vmsd, *obj, walk_one, &w);
    }
    if (!w.found && !w.below) {
        luaL_error(L, "%s: no state '%s'", object_get_name(*obj), *full);
    }
    return w;
}

static int proxy_index(lua_State *L)
{
    Object *obj;
    const char *full;
    Walk w = proxy_find(L, &obj, &full);

    if (!w.found) {
        lua_getiuservalue(L, 1, 1);
        push_proxy(L, -1, full);
        return 1;
    }
    return script_state_push(L, w.scalar.kind, w.scalar.field, w.scalar.size);
}

static int proxy_newindex(lua_State *L)
{
    Object *obj;
    const char *full;
    Walk w = proxy_find(L, &obj, &full);

    if (!w.found) {
        return luaL_error(L, "%s: state '%s' is not a single value", object_get_name(obj), full);
    }
    script_state_store(L, obj, full, w.scalar.kind, w.scalar.field, w.scalar.size, 3);
    return 0;
}

static int proxy_len(lua_State *L)
{
    const char *path;
    Object *obj = proxy_object(L, &path);
    const VMStateDescription *vmsd = object_vmsd(obj);
    Walk w = { .path = path, .len = strlen(path) };

    if (vmsd) {
        vmstate_foreach_scalar(vmsd, obj, walk_one, &w);
    }
    lua_pushinteger(L, w.elements);
    return 1;
}

typedef struct Collect {
    const char *path;
    size_t len;
    GByteArray *names; /* next components, each with its NUL, in order, repetitions left in */
} Collect;

static void collect_one(const char *path, VMStateKind kind, void *field, size_t size, void *data)
{
    Collect *c = data;
    const char *rest = path + c->len;
    size_t n;

    if (strncmp(path, c->path, c->len) != 0) {
        return;
    }
    if (c->len && *rest == '.') {
        rest++;
    } else if (c->len && *rest != '[') {
        return;
    }
    n = *rest == '[' ? strcspn(rest, "]") + 1 : strcspn(rest, ".[");
    if (n) {
        g_byte_array_append(c->names, (const guint8 *)rest, (guint)n);
        g_byte_array_append(c->names, (const guint8 *)"", 1);
    }
}

/* Iterates over a list of keys made at the start: names in the order of the declaration, indices
 * from 1. Upvalues: the list of keys; the position is the key before. */
static int proxy_next(lua_State *L)
{
    lua_Integer at = lua_tointeger(L, lua_upvalueindex(2)) + 1;

    lua_settop(L, 1);
    lua_pushinteger(L, at);
    lua_replace(L, lua_upvalueindex(2));
    if (lua_rawgeti(L, lua_upvalueindex(1), at) == LUA_TNIL) {
        return 1;
    }
    lua_pushvalue(L, 2);
    lua_gettable(L, 1);
    return 2;
}

static int proxy_pairs(lua_State *L)
{
    const char *path;
    Object *obj = proxy_object(L, &path);
    const VMStateDescription *vmsd = object_vmsd(obj);
    Collect c = { .path = path, .len = strlen(path), .names = binding_scratch(L) };
    const char *last = "";
    lua_Integer n = 0;

    if (vmsd) {
        vmstate_foreach_scalar(vmsd, obj, collect_one, &c);
    }
    lua_newtable(L);
    for (guint i = 0; i < c.names->len;) {
        const char *name = (const char *)c.names->data + i;
        if (strcmp(name, last) != 0) {
            if (*name == '[') {
                lua_pushinteger(L, (lua_Integer)strtoul(name + 1, NULL, 10) + 1);
            } else {
                lua_pushstring(L, name);
            }
            lua_rawseti(L, -2, ++n);
        }
        last = name;
        i += (guint)strlen(name) + 1;
    }
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, proxy_next, 2);
    lua_pushvalue(L, 1);
    return 2;
}

static int proxy_tostring(lua_State *L)
{
    const char *path;
    Object *obj = proxy_object(L, &path);

    lua_pushfstring(L, "%s.state%s%s", object_get_name(obj), *path && *path != '[' ? "." : "",
                    path);
    return 1;
}

void script_state_proxy_open(lua_State *L)
{
    static const luaL_Reg proxy[] = {
        { "__index", proxy_index }, { "__newindex", proxy_newindex }, { "__len", proxy_len },
        { "__pairs", proxy_pairs }, { "__tostring", proxy_tostring }, { NULL, NULL },
    };

    luaL_newmetatable(L, PROXY_META);
    luaL_setfuncs(L, proxy, 0);
    lua_pop(L, 1);
}
