/*
 * Scripts that wait for a screen to change: texts that come, and pictures that are followed. The
 * source `screen:text "…"` is made of _watch and _ring by scripts/vmlua/screen.lua.
 */
#include "bindings/watch.h"

#include "engine/display/surface.h"

#define HOW "looks every 10 ms"

static Console *check_alive(lua_State *L)
{
    Console *con = binding_check_object(L, 1, TYPE_CONSOLE);
    if (!con->ops) {
        luaL_error(L, "%s: its device is gone", object_get_name(OBJECT(con)));
    }
    return con;
}

static const char *check_text(lua_State *L)
{
    const char *text = luaL_checkstring(L, 2);
    luaL_argcheck(L, *text, 2, "an empty text is everywhere");
    return text;
}

/* ---- texts that are waited for -----------------------------------------------------------------
 */

typedef struct TextWatch {
    BindingWatch watch; /* first */
    ConsoleWatch *source;
} TextWatch;

static void text_disarm(BindingWatch *w)
{
    console_watch_free(((TextWatch *)w)->source);
}

static void text_gone(void *opaque)
{
    binding_watch_gone(opaque);
}

static void on_text(void *opaque)
{
    BindingWatch *w = opaque;
    lua_State *L = binding_watch_enter(w);
    if (L) {
        lua_pushinteger(L, (lua_Integer)CONSOLE(w->owner)->text_generation);
        binding_watch_leave(w, L, 1);
    }
}

/* screen:_watch(text, fn, already) */
static int con_watch(lua_State *L)
{
    Console *con = check_alive(L);
    const char *text = check_text(L);
    TextWatch *w = binding_watch_new(L, sizeof *w, OBJECT(con), 3, "screen text", HOW, text_disarm);
    w->source = console_watch_text(con, text, lua_toboolean(L, 4), on_text, text_gone, w);
    return 1;
}

static void ring_disarm(OccurrenceRing *r)
{
    console_watch_free(r->source);
}

static void ring_gone(void *opaque)
{
    binding_ring_gone(opaque);
}

static void ring_text(void *opaque)
{
    OccurrenceRing *r = opaque;
    binding_ring_add(r, CONSOLE(r->owner)->text_generation);
}

/* screen:_ring(text, n) */
static int con_ring(lua_State *L)
{
    Console *con = check_alive(L);
    const char *text = check_text(L);
    OccurrenceRing *r = binding_ring_new(L, OBJECT(con), 2, 3, HOW, ring_disarm);
    r->source = console_watch_text(con, text, false, ring_text, ring_gone, r);
    return 1;
}

/* ---- following the picture ---------------------------------------------------------------------
 */

typedef struct Follower {
    BindingWatch watch; /* first */
    ConsoleListener listener;
} Follower;

static BindingWatch *watch_of(ConsoleListener *l)
{
    return (BindingWatch *)((char *)l - offsetof(Follower, listener));
}

static void follower_disarm(BindingWatch *w)
{
    console_remove_listener(CONSOLE(w->owner), &((Follower *)w)->listener);
}

static void follower_resized(ConsoleListener *l, Console *con)
{
    /* What follows it is an update of everything. */
}

static void follower_gone(ConsoleListener *l, Console *con)
{
    binding_watch_gone(watch_of(l));
}

static void follower_updated(ConsoleListener *l, Console *con, const pixman_region32_t *damage)
{
    BindingWatch *w = watch_of(l);
    const pixman_box32_t *box = pixman_region32_extents((pixman_region32_t *)(uintptr_t)damage);
    lua_State *L = binding_watch_enter(w);
    if (L) {
        lua_pushinteger(L, box->x1);
        lua_pushinteger(L, box->y1);
        lua_pushinteger(L, box->x2 - box->x1);
        lua_pushinteger(L, box->y2 - box->y1);
        binding_watch_leave(w, L, 4);
    }
}

static int con_on_change(lua_State *L)
{
    Console *con = check_alive(L);
    const lua_Number seconds = luaL_optnumber(L, 3, 0.04);
    luaL_argcheck(L, seconds >= 0.001 && seconds <= 3600, 3, "0.001 to 3600 seconds expected");
    Follower *f = binding_watch_new(L, sizeof *f, OBJECT(con), 2, "screen change",
                                    "follows the picture", follower_disarm);
    f->listener = (ConsoleListener){ .resized = follower_resized,
                                     .updated = follower_updated,
                                     .gone = follower_gone,
                                     .interval_ns = (int64_t)(seconds * 1e9) };
    console_add_listener(con, &f->listener);
    return 1;
}

static const ApiFunction console_methods[] = {
    { "_watch", con_watch, "(text: string, fn: fun(generation: integer), already: boolean): watch",
      "Calls fn when text comes to stand on the screen; screen:text(…) is the way to say it." },
    { "_ring", con_ring, "(text: string, n: integer): text-ring",
      "Keeps the last n times that text came; screen:text(…):trace(n) is the way to say it." },
    { "on_change", con_on_change,
      "(fn: fun(x: integer, y: integer, width: integer, height: integer), seconds?: number): "
      "watch",
      "Follows the picture as a window does: brings it up to date every so many seconds of real\n"
      "time (0.04) and calls fn with what has changed, where something has. While somebody "
      "follows,\ncursor and blinking characters blink." },
    { 0 },
};

void binding_open_display_watch(lua_State *L)
{
    binding_class(L, TYPE_CONSOLE, NULL, console_methods, NULL);
}
