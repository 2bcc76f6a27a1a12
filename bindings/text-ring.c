/*
 * chr:_match_ring(text, n): the last n times that the guest wrote a text, kept without a call into
 * Lua. What chr:text(…):trace(n) of scripts/vmlua/event.lua answers.
 */
#include "bindings/binding.h"

#include "engine/chardev/chardev.h"
#include "engine/chardev/text-match.h"
#include "engine/core/clock.h"
#include "engine/machine/machine.h"

#define TEXT_RING     "text-ring"
#define TEXT_RING_MAX 1000000

typedef struct Occurrence {
    uint64_t end; /* the number of the byte after it */
    int64_t time; /* of the machine */
} Occurrence;

typedef struct TextRing {
    TextMatch *match; /* NULL: removed, or its chardev is gone */
    Chardev *chr;
    Clock *clock; /* NULL: the chardev belongs to no machine */
    uint64_t total;
    unsigned n;
    Occurrence list[];
} TextRing;

static void on_text(void *opaque, uint64_t end)
{
    TextRing *r = opaque;

    r->list[r->total++ % r->n] = (Occurrence){ end, r->clock ? clock_now(r->clock) : 0 };
}

static void chardev_gone(Object *obj, void *opaque);

static void disarm(TextRing *r)
{
    if (r->match) {
        object_remove_destroy_notify(OBJECT(r->chr), chardev_gone, r);
        text_match_free(r->match);
        r->match = NULL;
        r->chr = NULL;
        r->clock = NULL;
    }
}

static void chardev_gone(Object *obj, void *opaque)
{
    disarm(opaque);
}

static void ring_free(void *opaque)
{
    disarm(opaque);
    g_free(opaque);
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

static Clock *clock_of(Object *obj)
{
    for (; obj; obj = obj->parent) {
        if (object_dynamic_cast(obj, TYPE_MACHINE)) {
            return MACHINE(obj)->clock;
        }
    }
    return NULL;
}

static int match_ring(lua_State *L)
{
    Chardev *chr = binding_check_object(L, 1, TYPE_CHARDEV);
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    luaL_argcheck(L, len > 0, 2, "an empty text is everywhere");
    const unsigned n = (unsigned)binding_check_range(L, 3, 1, TEXT_RING_MAX, "ring size");
    TextRing **box = binding_new_userdata(L, TEXT_RING, sizeof *box);
    TextRing *r = g_malloc0(sizeof *r + n * sizeof r->list[0]);

    r->n = n;
    r->chr = chr;
    r->clock = clock_of(OBJECT(chr));
    r->match = text_match_new_bytes(chr, text, len, true, on_text, r);
    object_add_destroy_notify(OBJECT(chr), chardev_gone, r);
    *box = r;
    lua_pushvalue(L, 2);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

static TextRing *check_ring(lua_State *L)
{
    TextRing **box = binding_check_userdata(L, 1, TEXT_RING);
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
        /* The engine lock is held: the guest writes nothing meanwhile. */
        const Occurrence x = r->list[(first + i) % r->n];
        lua_createtable(L, 0, 4);
        lua_pushliteral(L, "text");
        lua_setfield(L, -2, "kind");
        lua_pushvalue(L, 2);
        lua_setfield(L, -2, "text");
        lua_pushinteger(L, (lua_Integer)x.end);
        lua_setfield(L, -2, "value");
        lua_pushinteger(L, x.time);
        lua_setfield(L, -2, "time");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int ring_remove(lua_State *L)
{
    TextRing **box = binding_check_userdata(L, 1, TEXT_RING);
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
    lua_pushstring(L, check_ring(L)->match ? "bytes written" : "closed");
    return 1;
}

static const ApiFunction chardev_methods[] = {
    { "_match_ring", match_ring, "(text: string, n: integer): text-ring",
      "Keeps the last n times that the guest wrote text; chr:text(…):trace(n) is the way to say "
      "it." },
    { 0 },
};
static const ApiFunction ring_methods[] = {
    { "list", ring_list, "(): table[]",
      "What it holds, oldest first: text, value (the number of the byte after it), time, kind." },
    { "remove", ring_remove, "()", "Ends and frees it." },
    { 0 },
};
static const ApiField ring_fields[] = {
    { "total", ring_get_total, NULL, "integer", "How often the text was written." },
    { "how", ring_get_how, NULL, "string", "How it is served." },
    { 0 },
};

void binding_open_text_ring(lua_State *L)
{
    binding_userdata_class(L, TEXT_RING, "A ring of the last times a text was written.",
                           ring_methods, ring_fields, ring_gc);
    binding_class(L, TYPE_CHARDEV, NULL, chardev_methods, NULL);
}
