/*
 * Scripts that wait for a screen to change: texts that come, and pictures that are followed. The
 * source `screen:text "…"` is made of _watch and _ring by scripts/vmlua/screen.lua.
 */
#include "bindings/binding.h"

#include "engine/display/surface.h"
#include "engine/machine/machine.h"

#define WATCH    "console-watch"
#define RING     "console-ring"
#define FOLLOWER "console-follower"
#define RING_MAX 1000000

static Console *check_alive(lua_State *L)
{
    Console *con = binding_check_object(L, 1, TYPE_CONSOLE);
    if (!con->ops) {
        luaL_error(L, "%s: its device is gone", object_get_name(OBJECT(con)));
    }
    return con;
}

/* ---- texts that are waited for -----------------------------------------------------------------
 */

typedef struct TextWatch {
    Console *con;
    ConsoleWatch *watch;
    ScriptRef *fn;
    struct WatchBox *box; /* NULL: its handle was collected */
    uint64_t hits;
    bool in_call, dead;
} TextWatch;
typedef struct WatchBox {
    TextWatch *watch; /* NULL: removed */
    uint64_t hits;
} WatchBox;

static void watch_free(TextWatch *w)
{
    if (w->box) {
        w->box->hits = w->hits;
        w->box->watch = NULL;
    }
    console_watch_free(w->watch);
    script_ref_free(w->fn);
    object_unref(w->con);
    g_free(w);
}

static void watch_drop(TextWatch *w)
{
    if (w->in_call) {
        w->dead = true;
    } else {
        watch_free(w);
    }
}

static void watch_gone(void *opaque)
{
    watch_drop(opaque);
}

/* An error in a callback pauses the machine that the screen belongs to. */
static void callback_failed(Console *con, GError *error)
{
    for (Object *o = OBJECT(con); o; o = o->parent) {
        if (object_dynamic_cast(o, TYPE_MACHINE)) {
            machine_fail(MACHINE(o), error->message);
            g_error_free(error);
            return;
        }
    }
    binding_report(error);
}

static void on_text(void *opaque)
{
    TextWatch *w = opaque;
    lua_State *L = binding_state();
    GError *error = NULL;
    w->hits++;
    if (!script_ref_push(L, w->fn)) {
        return;
    }
    char what[160];
    g_strlcpy(what, script_ref_what(w->fn), sizeof what);
    lua_pushinteger(L, (lua_Integer)w->con->text_generation);
    w->in_call = true;
    if (!binding_call(L, 1, 0, true, what, &error)) {
        callback_failed(w->con, error);
    }
    w->in_call = false;
    if (w->dead) {
        watch_free(w);
    }
}

/* screen:_watch(text, fn, already) */
static int con_watch(lua_State *L)
{
    Console *con = check_alive(L);
    const char *text = luaL_checkstring(L, 2);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    luaL_argcheck(L, *text, 2, "an empty text is everywhere");
    const bool already = lua_toboolean(L, 4);
    WatchBox *box = binding_new_userdata(L, WATCH, sizeof *box);
    ScriptRef *fn = script_ref_new(L, 3, OBJECT(con), "screen text");
    TextWatch *w = g_new0(TextWatch, 1);
    w->fn = fn;
    w->con = CONSOLE(object_ref(con));
    w->box = box;
    box->watch = w;
    w->watch = console_watch_text(con, text, already, on_text, watch_gone, w);
    return 1;
}

static int watch_gc(lua_State *L)
{
    /* A watch belongs to its screen, not to its handle: it stays armed. */
    WatchBox *box = lua_touserdata(L, 1);
    if (box->watch) {
        box->watch->box = NULL;
        box->watch = NULL;
    }
    return 0;
}

static int watch_remove(lua_State *L)
{
    WatchBox *box = binding_check_userdata(L, 1, WATCH);
    TextWatch *w = box->watch;
    if (w) {
        box->hits = w->hits;
        box->watch = NULL;
        w->box = NULL;
        watch_drop(w);
    }
    return 0;
}

static int watch_get_hits(lua_State *L)
{
    const WatchBox *box = binding_check_userdata(L, 1, WATCH);
    lua_pushinteger(L, (lua_Integer)(box->watch ? box->watch->hits : box->hits));
    return 1;
}

static int watch_get_how(lua_State *L)
{
    const WatchBox *box = binding_check_userdata(L, 1, WATCH);
    lua_pushstring(L, box->watch ? "looks every 10 ms" : "removed");
    return 1;
}

static int watch_get_armed(lua_State *L)
{
    const WatchBox *box = binding_check_userdata(L, 1, WATCH);
    lua_pushboolean(L, box->watch != NULL);
    return 1;
}

/* ---- rings ----------------------------------------------------------------------------------- */

typedef struct Occurrence {
    uint64_t generation;
    int64_t time; /* of the machine */
} Occurrence;

typedef struct TextRing {
    Console *con;
    ConsoleWatch *watch; /* NULL: removed, or its screen is gone */
    uint64_t total;
    unsigned n;
    Occurrence list[];
} TextRing;

static void ring_text(void *opaque)
{
    TextRing *r = opaque;
    r->list[r->total++ % r->n] = (Occurrence){ r->con->text_generation,
                                               r->con->clock ? clock_now(r->con->clock) : 0 };
}

static void ring_disarm(TextRing *r)
{
    console_watch_free(r->watch);
    r->watch = NULL;
}

static void ring_gone(void *opaque)
{
    ring_disarm(opaque);
}

static void ring_free(void *opaque)
{
    TextRing *r = opaque;
    ring_disarm(r);
    object_unref(r->con);
    g_free(r);
}

static int ring_gc(lua_State *L)
{
    TextRing **box = lua_touserdata(L, 1);
    if (*box) {
        binding_defer(ring_free, *box);
        *box = NULL;
    }
    return 0;
}

/* screen:_ring(text, n) */
static int con_ring(lua_State *L)
{
    Console *con = check_alive(L);
    const char *text = luaL_checkstring(L, 2);
    luaL_argcheck(L, *text, 2, "an empty text is everywhere");
    const unsigned n = (unsigned)binding_check_range(L, 3, 1, RING_MAX, "ring size");
    TextRing **box = binding_new_userdata(L, RING, sizeof *box);
    TextRing *r = g_malloc0(sizeof *r + n * sizeof r->list[0]);
    r->n = n;
    r->con = CONSOLE(object_ref(con));
    r->watch = console_watch_text(con, text, false, ring_text, ring_gone, r);
    *box = r;
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

static TextRing *check_ring(lua_State *L)
{
    TextRing **box = binding_check_userdata(L, 1, RING);
    if (!*box) {
        luaL_error(L, "this ring was removed");
    }
    return *box;
}

static int ring_list(lua_State *L)
{
    const TextRing *r = check_ring(L);
    const unsigned count = (unsigned)MIN(r->total, r->n);
    const uint64_t first = r->total - count;
    lua_getiuservalue(L, 1, 1);
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
        const Occurrence x = r->list[(first + i) % r->n];
        lua_createtable(L, 0, 4);
        lua_pushliteral(L, "text");
        lua_setfield(L, -2, "kind");
        lua_pushvalue(L, 2);
        lua_setfield(L, -2, "text");
        lua_pushinteger(L, (lua_Integer)x.generation);
        lua_setfield(L, -2, "value");
        lua_pushinteger(L, x.time);
        lua_setfield(L, -2, "time");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int ring_remove(lua_State *L)
{
    TextRing **box = binding_check_userdata(L, 1, RING);
    if (*box) {
        ring_free(*box);
        *box = NULL;
    }
    return 0;
}

static int ring_get_total(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_ring(L)->total);
    return 1;
}

static int ring_get_how(lua_State *L)
{
    lua_pushstring(L, check_ring(L)->watch ? "looks every 10 ms" : "closed");
    return 1;
}

/* ---- following the picture ---------------------------------------------------------------------
 */

typedef struct Follower {
    ConsoleListener listener; /* first */
    Console *con;             /* NULL once its screen is gone */
    ScriptRef *fn;
    struct FollowerBox *box; /* NULL: its handle was collected */
    uint64_t hits;
    bool in_call, dead;
} Follower;
typedef struct FollowerBox {
    Follower *follower; /* NULL: removed */
    uint64_t hits;
} FollowerBox;

static void follower_free(Follower *f)
{
    if (f->box) {
        f->box->hits = f->hits;
        f->box->follower = NULL;
    }
    console_remove_listener(f->con, &f->listener);
    script_ref_free(f->fn);
    object_unref(f->con);
    g_free(f);
}

static void follower_drop(Follower *f)
{
    if (f->in_call) {
        f->dead = true;
    } else {
        follower_free(f);
    }
}

static void follower_resized(ConsoleListener *l, Console *con)
{
    /* What follows it is an update of everything. */
}

static void follower_gone(ConsoleListener *l, Console *con)
{
    follower_drop((Follower *)(void *)l);
}

static void follower_updated(ConsoleListener *l, Console *con, const pixman_region32_t *damage)
{
    Follower *f = (Follower *)(void *)l;
    const pixman_box32_t *box = pixman_region32_extents((pixman_region32_t *)(uintptr_t)damage);
    lua_State *L = binding_state();
    GError *error = NULL;
    f->hits++;
    if (!script_ref_push(L, f->fn)) {
        return;
    }
    char what[160];
    g_strlcpy(what, script_ref_what(f->fn), sizeof what);
    lua_pushinteger(L, box->x1);
    lua_pushinteger(L, box->y1);
    lua_pushinteger(L, box->x2 - box->x1);
    lua_pushinteger(L, box->y2 - box->y1);
    f->in_call = true;
    if (!binding_call(L, 4, 0, true, what, &error)) {
        callback_failed(con, error);
    }
    f->in_call = false;
    if (f->dead) {
        follower_free(f);
    }
}

static int con_on_change(lua_State *L)
{
    Console *con = check_alive(L);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    const lua_Number seconds = luaL_optnumber(L, 3, 0.04);
    luaL_argcheck(L, seconds >= 0.001 && seconds <= 3600, 3, "0.001 to 3600 seconds expected");
    FollowerBox *box = binding_new_userdata(L, FOLLOWER, sizeof *box);
    ScriptRef *fn = script_ref_new(L, 2, OBJECT(con), "screen change");
    Follower *f = g_new0(Follower, 1);
    f->fn = fn;
    f->con = CONSOLE(object_ref(con));
    f->box = box;
    f->listener = (ConsoleListener){ .resized = follower_resized,
                                     .updated = follower_updated,
                                     .gone = follower_gone,
                                     .interval_ns = (int64_t)(seconds * 1e9) };
    box->follower = f;
    console_add_listener(con, &f->listener);
    return 1;
}

static int follower_gc(lua_State *L)
{
    /* It belongs to its screen, not to its handle. */
    FollowerBox *box = lua_touserdata(L, 1);
    if (box->follower) {
        box->follower->box = NULL;
        box->follower = NULL;
    }
    return 0;
}

static int follower_remove(lua_State *L)
{
    FollowerBox *box = binding_check_userdata(L, 1, FOLLOWER);
    Follower *f = box->follower;
    if (f) {
        box->hits = f->hits;
        box->follower = NULL;
        f->box = NULL;
        follower_drop(f);
    }
    return 0;
}

static int follower_get_hits(lua_State *L)
{
    const FollowerBox *box = binding_check_userdata(L, 1, FOLLOWER);
    lua_pushinteger(L, (lua_Integer)(box->follower ? box->follower->hits : box->hits));
    return 1;
}

static int follower_get_armed(lua_State *L)
{
    const FollowerBox *box = binding_check_userdata(L, 1, FOLLOWER);
    lua_pushboolean(L, box->follower != NULL);
    return 1;
}

static const ApiFunction console_methods[] = {
    { "_watch", con_watch,
      "(text: string, fn: fun(generation: integer), already: boolean): console-watch",
      "Calls fn when text comes to stand on the screen; screen:text(…) is the way to say it." },
    { "_ring", con_ring, "(text: string, n: integer): console-ring",
      "Keeps the last n times that text came; screen:text(…):trace(n) is the way to say it." },
    { "on_change", con_on_change,
      "(fn: fun(x: integer, y: integer, width: integer, height: integer), seconds?: number): "
      "console-follower",
      "Follows the picture as a window does: brings it up to date every so many seconds of real\n"
      "time (0.04) and calls fn with what has changed, where something has. While somebody "
      "follows,\ncursor and blinking characters blink." },
    { 0 },
};
static const ApiFunction watch_methods[] = {
    { "remove", watch_remove, "()", "Ends it; fine to call twice, and from its own callback." },
    { 0 },
};
static const ApiField watch_fields[] = {
    { "hits", watch_get_hits, NULL, "integer", "How often it called." },
    { "how", watch_get_how, NULL, "string", "How it is served." },
    { "armed", watch_get_armed, NULL, "boolean", "False once removed or its screen is gone." },
    { 0 },
};
static const ApiFunction follower_methods[] = {
    { "remove", follower_remove, "()", "Ends it; fine to call twice, and from its own callback." },
    { 0 },
};
static const ApiField follower_fields[] = {
    { "hits", follower_get_hits, NULL, "integer", "How often it called." },
    { "armed", follower_get_armed, NULL, "boolean", "False once removed or its screen is gone." },
    { 0 },
};
static const ApiFunction ring_methods[] = {
    { "list", ring_list, "(): table[]", "What it holds, oldest first: text, value, time, kind." },
    { "remove", ring_remove, "()", "Ends and frees it." },
    { 0 },
};
static const ApiField ring_fields[] = {
    { "total", ring_get_total, NULL, "integer", "How often the text came." },
    { "how", ring_get_how, NULL, "string", "How it is served." },
    { 0 },
};

void binding_open_display_watch(lua_State *L)
{
    binding_userdata_class(L, WATCH, "A function that waits for a text on a screen.", watch_methods,
                           watch_fields, watch_gc);
    binding_userdata_class(L, FOLLOWER, "A function that follows a screen's picture.",
                           follower_methods, follower_fields, follower_gc);
    binding_userdata_class(L, RING, "A ring of the last times a text came on a screen.",
                           ring_methods, ring_fields, ring_gc);
    binding_class(L, TYPE_CONSOLE, NULL, console_methods, NULL);
}
