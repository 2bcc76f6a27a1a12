/*
 * Scripts that see the bytes of a chardev pass, or wait for a text in what the guest writes. The
 * source `serial:text "…"` is made of _match and _match_ring by scripts/vmlua/event.lua.
 */
#include "bindings/watch.h"

#include "engine/chardev/chardev.h"
#include "engine/chardev/text-match.h"

#define HOW "bytes written"

/* ---- bytes ------------------------------------------------------------------------------------
 */

typedef struct Tap {
    BindingWatch watch; /* first */
    bool from_guest;    /* which direction */
} Tap;

static void on_bytes(BindingWatch *w, const uint8_t *buf, size_t len)
{
    lua_State *L = binding_watch_enter(w);
    if (L) {
        lua_pushlstring(L, (const char *)buf, len);
        binding_watch_leave(w, L, 1);
    }
}

static void on_tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    Tap *tap = opaque;
    if (from_guest == tap->from_guest) {
        on_bytes(&tap->watch, buf, len);
    }
}

static void chardev_gone(Object *obj, void *opaque)
{
    binding_watch_gone(opaque);
}

static void tap_disarm(BindingWatch *w)
{
    object_remove_destroy_notify(w->owner, chardev_gone, w);
    chardev_remove_tap(CHARDEV(w->owner), on_tap, w);
}

static int chr_on_data(lua_State *L)
{
    static const char *const directions[] = { "from-guest", "to-guest", NULL };
    Chardev *chr = binding_check_object(L, 1, TYPE_CHARDEV);
    const bool from_guest = luaL_checkoption(L, 3, "from-guest", directions) == 0;
    Tap *tap = binding_watch_new(L, sizeof *tap, OBJECT(chr), 2, "chardev tap", HOW, tap_disarm);
    tap->from_guest = from_guest;
    chardev_add_tap(chr, on_tap, tap);
    object_add_destroy_notify(OBJECT(chr), chardev_gone, tap);
    return 1;
}

static void on_script(void *opaque, const uint8_t *buf, size_t len)
{
    on_bytes(opaque, buf, len);
}

static void script_disarm(BindingWatch *w)
{
    object_remove_destroy_notify(w->owner, chardev_gone, w);
    chardev_script_set(CHARDEV(w->owner), NULL, NULL);
}

void binding_chardev_set_script(lua_State *L, Chardev *chr, int idx)
{
    BindingWatch *w = binding_watch_new(L, sizeof *w, OBJECT(chr), idx, "chardev script", HOW,
                                        script_disarm);
    chardev_script_set(chr, on_script, w);
    object_add_destroy_notify(OBJECT(chr), chardev_gone, w);
    lua_pop(L, 1);
}

/* ---- texts ------------------------------------------------------------------------------------
 */

typedef struct TextWatch {
    BindingWatch watch; /* first */
    TextMatch *match;
} TextWatch;

static const char *check_text(lua_State *L, size_t *len)
{
    const char *text = luaL_checklstring(L, 2, len);
    luaL_argcheck(L, *len > 0, 2, "an empty text is everywhere");
    return text;
}

static void text_disarm(BindingWatch *w)
{
    object_remove_destroy_notify(w->owner, chardev_gone, w);
    text_match_free(((TextWatch *)w)->match);
}

static void on_text(void *opaque, uint64_t end)
{
    BindingWatch *w = opaque;
    lua_State *L = binding_watch_enter(w);
    if (L) {
        lua_pushinteger(L, (lua_Integer)end);
        binding_watch_leave(w, L, 1);
    }
}

/* chr:_match(text, fn[, since]) */
static int chr_match(lua_State *L)
{
    Chardev *chr = binding_check_object(L, 1, TYPE_CHARDEV);
    size_t len;
    const char *text = check_text(L, &len);
    const bool look_back = !lua_isnoneornil(L, 4);
    const uint64_t since = look_back ? binding_check_u64(L, 4, "since") : 0;
    TextWatch *w = binding_watch_new(L, sizeof *w, OBJECT(chr), 3, "text source", HOW, text_disarm);
    w->match = text_match_new_bytes(chr, text, len, true, on_text, w);
    object_add_destroy_notify(OBJECT(chr), chardev_gone, w);
    if (look_back) {
        binding_watch_pin(&w->watch);
        text_match_look_back(w->match, since);
        binding_watch_unpin(&w->watch);
    }
    return 1;
}

static void ring_chardev_gone(Object *obj, void *opaque)
{
    binding_ring_gone(opaque);
}

static void ring_disarm(OccurrenceRing *r)
{
    object_remove_destroy_notify(r->owner, ring_chardev_gone, r);
    text_match_free(r->source);
}

static void ring_text(void *opaque, uint64_t end)
{
    binding_ring_add(opaque, end);
}

/* chr:_match_ring(text, n) */
static int chr_match_ring(lua_State *L)
{
    Chardev *chr = binding_check_object(L, 1, TYPE_CHARDEV);
    size_t len;
    const char *text = check_text(L, &len);
    OccurrenceRing *r = binding_ring_new(L, OBJECT(chr), 2, 3, HOW, ring_disarm);
    r->source = text_match_new_bytes(chr, text, len, true, ring_text, r);
    object_add_destroy_notify(OBJECT(chr), ring_chardev_gone, r);
    return 1;
}

static const ApiFunction chardev_methods[] = {
    { "on_data", chr_on_data,
      "(fn: fun(bytes: string), direction?: \"from-guest\"|\"to-guest\"): watch",
      "Calls fn with every piece of bytes that passes." },
    { "_match", chr_match, "(text: string, fn: fun(end_at: integer), since?: integer): watch",
      "Calls fn whenever the guest has written text; with since, what is in the history from that "
      "byte number on counts too. chr:text(…) is the way to say it." },
    { "_match_ring", chr_match_ring, "(text: string, n: integer): text-ring",
      "Keeps the last n times that the guest wrote text; chr:text(…):trace(n) is the way to say "
      "it." },
    { 0 },
};

void binding_open_chardev_watch(lua_State *L)
{
    binding_class(L, TYPE_CHARDEV, NULL, chardev_methods, NULL);
}
