/*
 * References from C to Lua values (callbacks), and the table of an object's script data: both live
 * until their owner is gone.
 */
#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"

struct ScriptRef {
    int ref; /* in the registry; LUA_NOREF once the owner is gone */
    Object *owner;
    ScriptRef *next, **prev; /* in the owner's list */
    char *what;
};

/* What one object owns. */
typedef struct Owner {
    Object *obj;
    ScriptRef *refs;
    int data; /* registry reference of the data table */
} Owner;

static GHashTable *owners; /* Object * -> Owner * */
static ScriptRef *error_fn;

void script_refs_open(void)
{
    owners = g_hash_table_new(NULL, NULL);
}

static void drop(int *ref)
{
    if (*ref != LUA_NOREF && script_main) {
        lua_checkstack(script_main, 4);
        luaL_unref(script_main, LUA_REGISTRYINDEX, *ref);
    }
    *ref = LUA_NOREF;
}

static void owner_gone(Object *obj, void *opaque)
{
    Owner *owner = opaque;
    if (owners) {
        g_hash_table_remove(owners, obj);
    }
    for (ScriptRef *r = owner->refs, *next; r; r = next) {
        next = r->next;
        drop(&r->ref);
        r->owner = NULL;
        r->next = NULL;
        r->prev = NULL;
    }
    drop(&owner->data);
    g_free(owner);
}

static Owner *owner_get(Object *obj)
{
    Owner *owner = g_hash_table_lookup(owners, obj);
    if (!owner) {
        owner = g_new0(Owner, 1);
        owner->obj = obj;
        owner->data = LUA_NOREF;
        g_hash_table_insert(owners, obj, owner);
        object_add_destroy_notify(obj, owner_gone, owner);
    }
    return owner;
}

void script_refs_close(void)
{
    GHashTable *table = owners;
    GHashTableIter it;
    void *value;

    owners = NULL;
    g_hash_table_iter_init(&it, table);
    while (g_hash_table_iter_next(&it, NULL, &value)) {
        Owner *owner = value;
        object_remove_destroy_notify(owner->obj, owner_gone, owner);
        owner_gone(owner->obj, owner);
    }
    g_hash_table_destroy(table);
}

/* "pio hook at board.lua:12" */
static char *describe(lua_State *L, int idx, const char *what)
{
    lua_Debug ar;
    if (!lua_isfunction(L, idx)) {
        return g_strdup(what);
    }
    lua_pushvalue(L, idx);
    if (!lua_getinfo(L, ">S", &ar) || ar.linedefined <= 0) {
        return g_strdup(what);
    }
    return g_strdup_printf("%s at %s:%d", what, ar.short_src, ar.linedefined);
}

ScriptRef *script_ref_new(lua_State *L, int idx, Object *owner, const char *what)
{
    ENGINE_LOCK_ASSERT();
    luaL_checkstack(L, 4, NULL);
    lua_pushvalue(L, idx);
    int ref = luaL_ref(L,
                       LUA_REGISTRYINDEX); /* the only step that may raise: nothing is owned yet */
    ScriptRef *r = g_new0(ScriptRef, 1);
    r->ref = ref;
    r->what = describe(L, idx, what);
    if (owner && owners) {
        Owner *o = owner_get(owner);
        r->owner = owner;
        r->next = o->refs;
        r->prev = &o->refs;
        if (r->next) {
            r->next->prev = &r->next;
        }
        o->refs = r;
    }
    return r;
}

void script_ref_free(ScriptRef *ref)
{
    if (!ref) {
        return;
    }
    if (ref->prev) {
        *ref->prev = ref->next;
        if (ref->next) {
            ref->next->prev = ref->prev;
        }
    }
    drop(&ref->ref);
    g_free(ref->what);
    g_free(ref);
}

bool script_ref_push(lua_State *L, ScriptRef *ref)
{
    if (!ref || ref->ref == LUA_NOREF) {
        return false;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref->ref);
    return true;
}

const char *script_ref_what(const ScriptRef *ref)
{
    return ref->what;
}

void binding_push_data(lua_State *L, Object *obj)
{
    luaL_checkstack(L, 6, NULL);
    Owner *owner = owners ? g_hash_table_lookup(owners, obj) : NULL;
    if (owner && owner->data != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, owner->data);
        return;
    }
    lua_newtable(L);
    if (!owners || obj->gone) {
        return;
    }
    lua_pushvalue(L, -1);
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    owner_get(obj)->data = ref;
}

/* ---- callbacks that nobody waits for ------------------------------------------------------- */

void binding_on_error(ScriptRef *fn)
{
    script_ref_free(error_fn);
    error_fn = fn;
}

void binding_report(GError *error)
{
    static bool reporting;

    lua_State *L = script_main ? binding_state() : NULL;
    if (L && !reporting && script_ref_push(L, error_fn)) {
        GError *second = NULL;
        reporting = true;
        lua_pushstring(L, error->message);
        if (!binding_call(L, 1, 0, false, NULL, &second)) {
            log_error("%s", second->message);
            g_clear_error(&second);
        } else {
            g_clear_error(&error);
        }
        reporting = false;
    }
    if (error) {
        log_error("%s", error->message);
        g_error_free(error);
    }
}

void binding_invoke(lua_State *L, ScriptRef *ref, int nargs, bool in_handler)
{
    GError *error = NULL;
    if (!script_ref_push(L, ref)) {
        lua_pop(L, nargs);
        return;
    }
    lua_insert(L, -(nargs + 1));
    char *what = g_strdup(ref->what); /* the call may free its own reference */
    if (!binding_call(L, nargs, 0, in_handler, what, &error)) {
        binding_report(error);
    }
    g_free(what);
}
