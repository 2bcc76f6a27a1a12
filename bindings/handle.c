/*
 * Handles: the one userdata through which Lua sees an object.
 *
 * An identity table with weak values maps objects to handles. A handle holds one reference through
 * a box; when the object is unparented for good the box lets go and the handle turns inert. A
 * collected handle only puts its box on a list that the main loop drains, since __gc can run inside
 * any allocation.
 *
 * Looking up handle.key: methods and fields of the class chain (open tables that scripts may add
 * to), members that C answers by name (BindingMembers), QOM properties, children; else an error
 * that names the nearest.
 */
#include "bindings/handle-priv.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

typedef struct HandleBox {
    Object *obj; /* NULL: inert */
    char *name;  /* for "serial0: is gone" */
    struct HandleBox *next, **prev;
} HandleBox;
typedef struct Handle {
    const void *magic; /* &handle_magic: tells handles from other userdata with one compare */
    HandleBox *box;
} Handle;

static const char handle_magic = 'h';
static const char identity_key = 'i';
static GHashTable *metatables; /* ObjectClass * -> ClassInfo * */
static HandleBox *boxes;       /* all: a handle's finaliser may fail to run, see box_new */

/* ---- deferred work ------------------------------------------------------------------------- */

typedef struct Deferred {
    void (*fn)(void *data);
    void *data;
} Deferred;
static GArray *deferred;
static BottomHalf *deferred_bh;

void script_drain_deferred(void)
{
    ENGINE_LOCK_ASSERT();
    while (deferred && deferred->len) {
        GArray *batch = deferred;
        deferred = g_array_new(FALSE, FALSE, sizeof(Deferred));
        for (guint i = 0; i < batch->len; i++) {
            Deferred *d = &g_array_index(batch, Deferred, i);
            d->fn(d->data);
        }
        g_array_free(batch, TRUE);
    }
}

static void drain_bh(void *opaque)
{
    script_drain_deferred();
}

void binding_defer(void (*fn)(void *data), void *data)
{
    ENGINE_LOCK_ASSERT();
    Deferred d = { fn, data };
    if (!deferred) {
        deferred = g_array_new(FALSE, FALSE, sizeof(Deferred));
    }
    g_array_append_val(deferred, d);
    if (deferred_bh) {
        bh_schedule(deferred_bh);
    }
}

void binding_defer_unref(Object *obj)
{
    binding_defer(object_unref, obj);
}

static GHashTable *owed; /* data: function */

void binding_owe(void (*fn)(void *data), void *data)
{
    ENGINE_LOCK_ASSERT();
    if (!owed) {
        owed = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_insert(owed, data, (gpointer)(uintptr_t)fn);
}

void binding_settle(void *data)
{
    gpointer fn;
    if (owed && g_hash_table_steal_extended(owed, data, NULL, &fn)) {
        binding_defer((void (*)(void *))(uintptr_t)fn, data);
    }
}

static void settle_all(void)
{
    GHashTable *rest = g_steal_pointer(&owed);
    GHashTableIter i;
    gpointer data, fn;
    if (!rest) {
        return;
    }
    g_hash_table_iter_init(&i, rest);
    while (g_hash_table_iter_next(&i, &data, &fn)) {
        ((void (*)(void *))(uintptr_t)fn)(data);
    }
    g_hash_table_destroy(rest);
}

/* ---- boxes --------------------------------------------------------------------------------- */

static void box_object_gone(Object *obj, void *opaque)
{
    HandleBox *box = opaque;
    box->name = g_strdup(obj->name ? obj->name : object_get_typename(obj));
    box->obj = NULL;
    if (script_main) {
        /* The address may be reused as soon as the reference is dropped. */
        lua_State *L = script_main;
        lua_checkstack(L, 4);
        lua_rawgetp(L, LUA_REGISTRYINDEX, &identity_key);
        lua_pushnil(L);
        lua_rawsetp(L, -2, obj);
        lua_pop(L, 1);
    }
    /* Not now: whoever is taking the object out still uses it. */
    binding_defer_unref(obj);
}

/* Lua gives up a finaliser that it has no stack for (of Lua's or of C's): the box of such a handle
 * stays in the list until the state is closed. Its object goes when it leaves the tree, all the
 * same.
 */
static HandleBox *box_new(void)
{
    HandleBox *box = g_new0(HandleBox, 1);
    box->next = boxes;
    box->prev = &boxes;
    if (boxes) {
        boxes->prev = &box->next;
    }
    boxes = box;
    return box;
}

static void box_free(void *data)
{
    HandleBox *box = data;
    if (box->obj) {
        object_remove_destroy_notify(box->obj, box_object_gone, box);
        object_unref(box->obj);
    }
    *box->prev = box->next;
    if (box->next) {
        box->next->prev = box->prev;
    }
    g_free(box->name);
    g_free(box);
}

static Handle *handle_at(lua_State *L, int arg)
{
    Handle *h = lua_touserdata(L, arg);
    if (h && lua_type(L, arg) == LUA_TUSERDATA && lua_rawlen(L, arg) == sizeof *h &&
        h->magic == &handle_magic) {
        return h;
    }
    return NULL;
}

static Object *handle_live(lua_State *L, Handle *h)
{
    if (G_UNLIKELY(!h->box || !h->box->obj)) {
        luaL_error(L, "%s: is gone", h->box && h->box->name ? h->box->name : "object");
    }
    return h->box->obj;
}

void *binding_test_object(lua_State *L, int arg, const char *qom_type)
{
    Handle *h = handle_at(L, arg);
    if (!h || !h->box || !h->box->obj) {
        return NULL;
    }
    return object_dynamic_cast(h->box->obj, qom_type);
}

void *binding_check_object(lua_State *L, int arg, const char *qom_type)
{
    Handle *h = handle_at(L, arg);
    if (G_UNLIKELY(!h)) {
        luaL_typeerror(L, arg, qom_type);
        return NULL;
    }
    Object *obj = handle_live(L, h);
    Object *cast = object_dynamic_cast(obj, qom_type);
    if (G_UNLIKELY(!cast)) {
        luaL_argerror(
            L, arg, lua_pushfstring(L, "%s expected, got %s", qom_type, object_get_typename(obj)));
    }
    return cast;
}

void *binding_opt_object(lua_State *L, int arg, const char *qom_type)
{
    return lua_isnoneornil(L, arg) ? NULL : binding_check_object(L, arg, qom_type);
}

ClassInfo *handle_class_info(ObjectClass *klass)
{
    return g_hash_table_lookup(metatables, klass);
}

/* What a metamethod was made with; a script may call it with the handle of another class. */
static const ClassInfo *info_of(lua_State *L, const Object *obj)
{
    const ClassInfo *info = lua_touserdata(L, lua_upvalueindex(4));
    if (G_UNLIKELY(!info || info->klass != obj->klass)) {
        luaL_argerror(L, 1, "a handle of another class");
    }
    return info;
}

/* ---- access -------------------------------------------------------------------------------- */

static void add_name(const char *name, const char *what, void *opaque)
{
    g_ptr_array_add(opaque, g_strdup(name));
}

static int raise_unknown(lua_State *L, Object *obj, const char *key)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    char buf[512];

    script_handle_members(L, obj, add_name, names);
    g_ptr_array_add(names, NULL);
    const char *near = nearest_word(key, (const char *const *)names->pdata);
    g_snprintf(buf, sizeof buf, "%s (%s) has no member '%.100s'%s%s%s",
               obj->name ? obj->name : "object", object_get_typename(obj), key,
               near ? "; the nearest is '" : "", near ? near : "", near ? "'" : "");
    g_ptr_array_free(names, TRUE);
    return luaL_error(L, "%s", buf);
}

static const char *check_key(lua_State *L)
{
    if (lua_type(L, 2) != LUA_TSTRING) {
        luaL_error(L, "a member's name is expected as the key, got a %s", luaL_typename(L, 2));
    }
    return lua_tostring(L, 2);
}

/* upvalues: methods, getters, setters, ClassInfo */
static int handle_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    if (lua_gettable(L, lua_upvalueindex(1)) != LUA_TNIL) {
        return 1;
    }
    Handle *h = handle_at(L, 1);
    if (!h) {
        return luaL_typeerror(L, 1, "object");
    }
    const char *key = check_key(L);
    if (strcmp(key, "gone") == 0) {
        lua_pushboolean(L, !h->box || !h->box->obj);
        return 1;
    }
    if (strcmp(key, "status") == 0 && (!h->box || !h->box->obj)) {
        lua_pushliteral(L, "closed"); /* the one question that may be asked of a closed machine */
        return 1;
    }
    Object *obj = handle_live(L, h);
    const ClassInfo *info = info_of(L, obj);
    lua_pushvalue(L, 2);
    if (lua_gettable(L, lua_upvalueindex(2)) != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        return 1;
    }
    for (unsigned i = 0; info->members[i]; i++) {
        if (info->members[i]->get && info->members[i]->get(L, obj, key)) {
            return 1;
        }
    }
    const Property *prop = object_find_property(obj, key);
    if (prop) {
        PropValue value = { 0 };
        GError *error = NULL;
        if (!object_property_get(obj, key, &value, &error)) {
            return binding_raise(L, error);
        }
        binding_push_prop_value(L, &value, prop);
        prop_value_clear(&value);
        return 1;
    }
    Object *child = object_get_child(obj, key);
    if (child) {
        binding_push_object(L, child);
        return 1;
    }
    return raise_unknown(L, obj, key);
}

static int handle_newindex(lua_State *L)
{
    Handle *h = handle_at(L, 1);
    if (!h) {
        return luaL_typeerror(L, 1, "object");
    }
    const char *key = check_key(L);
    Object *obj = handle_live(L, h);
    const ClassInfo *info = info_of(L, obj);
    lua_pushvalue(L, 2);
    if (lua_gettable(L, lua_upvalueindex(3)) != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_pushvalue(L, 3);
        lua_call(L, 2, 0);
        return 0;
    }
    for (unsigned i = 0; info->members[i]; i++) {
        if (info->members[i]->set && info->members[i]->set(L, obj, key, 3)) {
            return 0;
        }
    }
    const Property *prop = object_find_property(obj, key);
    if (prop) {
        PropValue value = { 0 };
        GError *error = NULL;
        if (!binding_to_prop_value(L, 3, prop, &value, &error)) {
            g_prefix_error(&error, "%s.%s: ", obj->name ? obj->name : object_get_typename(obj),
                           key);
            return binding_raise(L, error);
        }
        bool ok = object_property_set(obj, key, &value, &error);
        prop_value_clear(&value);
        return ok ? 0 : binding_raise(L, error);
    }
    lua_settop(L, 2);
    lua_pushvalue(L, 2);
    bool readable = lua_gettable(L, lua_upvalueindex(2)) != LUA_TNIL;
    lua_pushvalue(L, 2);
    readable = lua_gettable(L, lua_upvalueindex(1)) != LUA_TNIL || readable;
    if (readable || object_get_child(obj, key)) {
        return luaL_error(L, "%s.%s cannot be assigned to",
                          obj->name ? obj->name : object_get_typename(obj), key);
    }
    return raise_unknown(L, obj, key);
}

static int handle_gc(lua_State *L)
{
    Handle *h = handle_at(L, 1);
    if (h && h->box) {
        if (h->box->obj) {
            info_of(L, h->box->obj);
        }
        binding_defer(box_free, h->box);
        h->box = NULL;
    }
    return 0;
}

/* `local vm <close> = …`: the class' close method, else its remove. */
static int handle_close(lua_State *L)
{
    Handle *h = handle_at(L, 1);
    if (!h || !h->box || !h->box->obj) {
        return 0;
    }
    info_of(L, h->box->obj);
    lua_settop(L, 1);
    lua_pushliteral(L, "close");
    if (lua_gettable(L, lua_upvalueindex(1)) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_pushliteral(L, "remove");
        lua_gettable(L, lua_upvalueindex(1));
    }
    lua_pushvalue(L, 1);
    lua_call(L, 1, 0);
    return 0;
}

static int handle_tostring(lua_State *L)
{
    Handle *h = handle_at(L, 1);
    if (!h) {
        return luaL_typeerror(L, 1, "object");
    }
    if (!h->box || !h->box->obj) {
        lua_pushfstring(L, "%s (gone)", h->box && h->box->name ? h->box->name : "object");
        return 1;
    }
    Object *obj = h->box->obj;
    lua_pushfstring(L, "%s (%s)", obj->name ? obj->name : "(unnamed)", object_get_typename(obj));
    return 1;
}

static int handle_eq(lua_State *L)
{
    Handle *a = handle_at(L, 1), *b = handle_at(L, 2);
    lua_pushboolean(L, a && b && a->box && b->box && a->box->obj && a->box->obj == b->box->obj);
    return 1;
}

static ClassInfo *make_class_info(lua_State *L, ObjectClass *klass)
{
    static const luaL_Reg meta[] = {
        { "__index", handle_index },
        { "__newindex", handle_newindex },
        { "__gc", handle_gc },
        { "__close", handle_close },
        { "__tostring", handle_tostring },
        { "__eq", handle_eq },
        { NULL, NULL },
    };
    const char *name = object_class_get_name(klass);
    TypeTables *t = handle_tables(L, name);
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    ClassInfo *info = lua_newuserdatauv(L, sizeof *info, 0);
    memset(info, 0, sizeof *info);
    info->klass = klass;
    handle_find_members(info, klass);
    lua_pushvalue(L, -1);
    info->self = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_createtable(L, 0, 10);
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->methods);
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->getters);
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->setters);
    lua_pushlightuserdata(L, info);
    for (const luaL_Reg *m = meta; m->name; m++) {
        for (int i = 0; i < 4; i++) {
            lua_pushvalue(L, -4);
        }
        lua_pushcclosure(L, m->func, 4);
        lua_setfield(L, -6, m->name);
    }
    lua_pop(L, 4);
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    info->metatable = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pop(L, 1);
    g_hash_table_insert(metatables, klass, info);
    return info;
}

void binding_push_object(lua_State *L, void *ptr)
{
    Object *obj = ptr;
    luaL_checkstack(L, 8, NULL);
    if (!obj) {
        lua_pushnil(L);
        return;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &identity_key);
    if (lua_rawgetp(L, -1, obj) != LUA_TNIL &&
        ((Handle *)lua_touserdata(L, -1))->box) { /* else a script has called its __gc */
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    ClassInfo *info = handle_class_info(obj->klass);
    if (!info) {
        info = make_class_info(L, obj->klass);
    }
    Handle *h = lua_newuserdatauv(L, sizeof *h, 1);
    h->magic = &handle_magic;
    h->box = NULL;
    lua_rawgeti(L, LUA_REGISTRYINDEX, info->metatable);
    lua_setmetatable(L, -2);
    if (obj->gone) { /* reachable from its last callbacks: inert from the start */
        h->box = box_new();
        h->box->name = g_strdup(obj->name ? obj->name : object_get_typename(obj));
        lua_remove(L, -2);
        return;
    }
    lua_pushvalue(L, -1);
    lua_rawsetp(L, -3, obj);
    HandleBox *box = box_new();
    box->obj = object_ref(obj);
    object_add_destroy_notify(obj, box_object_gone, box);
    h->box = box;
    lua_remove(L, -2);
}

/* ---- set-up -------------------------------------------------------------------------------- */

void script_handles_open(lua_State *L)
{
    handle_classes_open();
    metatables = g_hash_table_new(NULL, NULL);
    deferred_bh = bh_new(drain_bh, NULL);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &identity_key);
}

void script_handles_close(void)
{
    settle_all();
    while (boxes) {
        box_free(boxes);
    }
    script_drain_deferred(); /* objects that went with them */
    handle_classes_close();
    g_clear_pointer(&metatables, g_hash_table_destroy);
    bh_free(deferred_bh);
    deferred_bh = NULL;
    if (deferred) {
        g_array_free(deferred, TRUE);
        deferred = NULL;
    }
}
