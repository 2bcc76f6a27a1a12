/* Handles of Lua functions that are called when something of an object happens: see watch.h. */
#include "bindings/watch.h"

#include "engine/machine/machine.h"

#define WATCH "watch"

/* A handle is a pointer to its watch and counts in it: neither points into the other's memory, as a
 * finaliser may fail to run (a handle that is collected where Lua's stack is full). */

static void watch_unref(void *opaque)
{
    BindingWatch *w = opaque;
    if (--w->ref == 0) {
        g_free(w);
    }
}

void *binding_watch_new(lua_State *L, size_t size, Object *owner, int idx, const char *what,
                        const char *how, void (*disarm)(BindingWatch *w))
{
    luaL_checktype(L, idx, LUA_TFUNCTION);
    BindingWatch **handle = binding_new_userdata(L, WATCH, sizeof(BindingWatch *));
    ScriptRef *fn = script_ref_new(L, idx, owner, what);
    BindingWatch *w = g_malloc0(size);
    w->fn = fn;
    w->owner = object_ref(owner);
    w->ref = 2;
    w->how = how;
    w->disarm = disarm;
    binding_owe(watch_unref, w);
    *handle = w;
    return w;
}

static void watch_disarm(BindingWatch *w)
{
    w->disarm(w);
    object_unref(w->owner);
    w->owner = NULL;
    script_ref_free(w->fn);
    w->fn = NULL;
    watch_unref(w);
}

void binding_watch_gone(BindingWatch *w)
{
    if (w->in_call) {
        w->dead = true;
    } else {
        watch_disarm(w);
    }
}

void binding_watch_pin(BindingWatch *w)
{
    w->in_call++;
}

void binding_watch_unpin(BindingWatch *w)
{
    if (--w->in_call == 0 && w->dead) {
        watch_disarm(w);
    }
}

lua_State *binding_watch_enter(BindingWatch *w)
{
    lua_State *L = binding_state();
    if (w->dead || !script_ref_push(L, w->fn)) {
        return NULL;
    }
    w->hits++;
    binding_watch_pin(w);
    return L;
}

/* An error in a callback pauses the machine that the owner belongs to. */
static void callback_failed(Object *owner, GError *error)
{
    for (Object *o = owner; o; o = o->parent) {
        if (object_dynamic_cast(o, TYPE_MACHINE)) {
            machine_fail(MACHINE(o), error->message);
            g_error_free(error);
            return;
        }
    }
    binding_report(error);
}

void binding_watch_leave(BindingWatch *w, lua_State *L, int nargs)
{
    GError *error = NULL;
    char what[160]; /* the callback may free the function */
    g_strlcpy(what, script_ref_what(w->fn), sizeof what);
    if (!binding_call(L, nargs, 0, true, what, &error)) {
        callback_failed(w->owner, error);
    }
    binding_watch_unpin(w);
}

/* ---- handles ----------------------------------------------------------------------------------
 */

static int handle_gc(lua_State *L)
{
    BindingWatch **h = lua_touserdata(L, 1);
    if (*h) {
        binding_settle(*h);
        *h = NULL;
    }
    return 0;
}

static BindingWatch *check_watch(lua_State *L)
{
    BindingWatch **h = binding_check_userdata(L, 1, WATCH);
    if (!*h) {
        luaL_error(L, "this watch was finalised");
    }
    return *h;
}

static bool is_armed(const BindingWatch *w)
{
    return w->owner && !w->dead;
}

static int handle_remove(lua_State *L)
{
    BindingWatch *w = check_watch(L);
    if (is_armed(w)) {
        binding_watch_gone(w);
    }
    return 0;
}

static int handle_get_hits(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_watch(L)->hits);
    return 1;
}

static int handle_get_how(lua_State *L)
{
    const BindingWatch *w = check_watch(L);
    lua_pushstring(L, is_armed(w) ? w->how : "removed");
    return 1;
}

static int handle_get_armed(lua_State *L)
{
    lua_pushboolean(L, is_armed(check_watch(L)));
    return 1;
}

static const ApiFunction handle_methods[] = {
    { "remove", handle_remove, "()", "Ends it; fine to call twice, and from its own callback." },
    { 0 },
};
static const ApiField handle_fields[] = {
    { "hits", handle_get_hits, NULL, "integer", "How often it called." },
    { "how", handle_get_how, NULL, "string", "How it is served." },
    { "armed", handle_get_armed, NULL, "boolean", "False once removed or its object is gone." },
    { 0 },
};

void binding_open_watch(lua_State *L)
{
    binding_userdata_class(L, WATCH, "A function that is called when something happens.",
                           handle_methods, handle_fields, handle_gc);
}
