/*
 * A C module for the functional tests of interfaces: two interfaces with function pointers, a C
 * type that implements one of them, and functions that call through the pointers as C devices
 * would.
 */
#include <lauxlib.h>
#include <string.h>

#include "bindings/binding.h"
#include "engine/core/error.h"
#include "engine/qom/object.h"

#define TYPE_CLICKER "test-clicker"
#define TYPE_COUNTER "test-counter"

typedef struct ClickerClass {
    InterfaceClass parent_class;
    bool (*click)(Object *self, uint32_t times, const char *how, GError **error);
    void (*settle)(Object *self, bool on, Object *other);
    int32_t (*level)(Object *self);
} ClickerClass;

typedef struct CounterClass {
    ClickerClass parent_class;
    uint64_t (*count)(Object *self, int64_t from, uint64_t to);
    uint32_t (*narrow)(Object *self, int32_t by);
} CounterClass;

static int32_t default_level(Object *self)
{
    return -7;
}

static const InterfaceMethod clicker_methods[] = {
    { "click", offsetof(ClickerClass, click), "b(use)", "Clicks so often.", true },
    { "settle", offsetof(ClickerClass, settle), "v(bo)", "Comes to rest.", false },
    { "level", offsetof(ClickerClass, level), "i()", "How far it is.", true },
    { NULL },
};
static const InterfaceMethod counter_methods[] = {
    { "count", offsetof(CounterClass, count), "q(lq)", "Counts.", false },
    { "narrow", offsetof(CounterClass, narrow), "u(i)", "Counts less.", false },
    { NULL },
};

static void clicker_class_init(ObjectClass *klass, const void *data)
{
    ClickerClass *k = (ClickerClass *)klass;
    k->parent_class.methods = clicker_methods;
    k->level = default_level;
}

static void counter_class_init(ObjectClass *klass, const void *data)
{
    ((InterfaceClass *)klass)->methods = counter_methods;
}

static bool c_click(Object *self, uint32_t times, const char *how, GError **error)
{
    return times == 1;
}

static void c_type_class_init(ObjectClass *klass, const void *data)
{
    ClickerClass *k = (ClickerClass *)object_class_dynamic_cast(klass, TYPE_CLICKER);
    k->click = c_click;
}

static int answer(lua_State *L, GError *error)
{
    if (error) {
        lua_pushnil(L);
        lua_pushstring(L, error->message);
        g_error_free(error);
        return 2;
    }
    return 1;
}

static void *implementation(lua_State *L, const char *type, Object **obj)
{
    *obj = binding_check_object(L, 1, "object");
    void *k = INTERFACE_GET(*obj, type);
    if (!k) {
        luaL_error(L, "it does not implement %s", type);
    }
    return k;
}

static int l_click(lua_State *L)
{
    Object *obj;
    const ClickerClass *k = implementation(L, TYPE_CLICKER, &obj);
    GError *error = NULL;
    bool ok = k->click(obj, (uint32_t)luaL_checkinteger(L, 2), luaL_optstring(L, 3, NULL), &error);
    lua_pushboolean(L, ok);
    return answer(L, error);
}

static int l_settle(lua_State *L)
{
    Object *obj;
    const ClickerClass *k = implementation(L, TYPE_CLICKER, &obj);
    Object *other = binding_opt_object(L, 3, "object");
    if (k->settle) {
        k->settle(obj, lua_toboolean(L, 2), other);
    }
    lua_pushboolean(L, k->settle != NULL);
    return 1;
}

static int l_level(lua_State *L)
{
    Object *obj;
    const ClickerClass *k = implementation(L, TYPE_CLICKER, &obj);
    lua_pushinteger(L, k->level(obj));
    return 1;
}

static int l_count(lua_State *L)
{
    Object *obj;
    const CounterClass *k = implementation(L, TYPE_COUNTER, &obj);
    lua_pushinteger(
        L, (lua_Integer)k->count(obj, luaL_checkinteger(L, 2), (uint64_t)luaL_checkinteger(L, 3)));
    return 1;
}

static int l_narrow(lua_State *L)
{
    Object *obj;
    const CounterClass *k = implementation(L, TYPE_COUNTER, &obj);
    lua_pushinteger(L, k->narrow(obj, (int32_t)luaL_checkinteger(L, 2)));
    return 1;
}

static const luaL_Reg functions[] = {
    { "click", l_click }, { "settle", l_settle }, { "level", l_level },
    { "count", l_count }, { "narrow", l_narrow }, { NULL, NULL },
};

int luaopen_clicker(lua_State *L);
int luaopen_clicker(lua_State *L)
{
    static const TypeInfo types[] = {
        { .name = TYPE_CLICKER,
          .parent = TYPE_INTERFACE,
          .doc = "Something that clicks",
          .class_size = sizeof(ClickerClass),
          .class_init = clicker_class_init },
        { .name = TYPE_COUNTER,
          .parent = TYPE_CLICKER,
          .doc = "Something that clicks and counts",
          .class_size = sizeof(CounterClass),
          .class_init = counter_class_init },
    };
    static const InterfaceInfo faces[] = { { TYPE_CLICKER }, { NULL } };
    static const TypeInfo c_type = {
        .name = "test-c-clicker",
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(Object),
        .class_init = c_type_class_init,
        .interfaces = faces,
    };

    if (!type_table_get(TYPE_CLICKER)) {
        type_register_static(&types[0]);
        type_register_static(&types[1]);
        type_register_static(&c_type);
    }
    luaL_newlib(L, functions);
    return 1;
}
