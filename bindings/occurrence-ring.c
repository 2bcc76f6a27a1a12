/* The last n times that something of an object happened, kept without a call into Lua: watch.h. */
#include "bindings/watch.h"

#include <string.h>

#include "engine/machine/machine.h"

#define RING     "text-ring"
#define RING_MAX 1000000

static Clock *clock_of(Object *obj)
{
    for (; obj; obj = obj->parent) {
        if (object_dynamic_cast(obj, TYPE_MACHINE)) {
            return MACHINE(obj)->clock;
        }
    }
    return NULL;
}

void binding_ring_gone(OccurrenceRing *r)
{
    if (r->owner) {
        r->disarm(r);
        object_unref(r->owner);
        r->owner = NULL;
        r->clock = NULL;
    }
}

static void ring_free(void *opaque)
{
    OccurrenceRing *r = opaque;

    binding_ring_gone(r);
    for (unsigned i = 0; i < r->n; i++) {
        g_free(r->list[i].text);
    }
    g_free(r);
}

OccurrenceRing *binding_ring_new(lua_State *L, Object *owner, int text_idx, int n_idx,
                                 const char *how, void (*disarm)(OccurrenceRing *r))
{
    const unsigned n = (unsigned)binding_check_range(L, n_idx, 1, RING_MAX, "ring size");
    OccurrenceRing **box = binding_new_userdata(L, RING, sizeof *box);
    OccurrenceRing *r = g_malloc0(sizeof *r + n * sizeof r->list[0]);

    r->n = n;
    r->owner = object_ref(owner);
    r->clock = clock_of(owner);
    r->how = how;
    r->disarm = disarm;
    binding_owe(ring_free, r);
    *box = r;
    lua_pushvalue(L, text_idx);
    lua_setiuservalue(L, -2, 1);
    return r;
}

void binding_ring_add_line(OccurrenceRing *r, uint64_t value, const char *text, const char *mask)
{
    Occurrence *x = &r->list[r->total++ % r->n];

    g_free(x->text);
    *x = (Occurrence){ .value = value,
                       .time = r->clock ? clock_now(r->clock) : 0,
                       .text = g_strdup(text),
                       .mask = mask };
}

void binding_ring_add(OccurrenceRing *r, uint64_t value)
{
    binding_ring_add_line(r, value, NULL, NULL);
}

static int ring_gc(lua_State *L)
{
    OccurrenceRing **box = lua_touserdata(L, 1);
    if (*box) {
        binding_settle(*box);
        *box = NULL;
    }
    return 0;
}

static OccurrenceRing *check_ring(lua_State *L)
{
    OccurrenceRing **box = binding_check_userdata(L, 1, RING);
    if (!*box) {
        luaL_error(L, "this ring was removed");
    }
    return *box;
}

/* What the ring holds, oldest first, as `count` Occurrences and behind them the texts of those that
 * have one, each ended by 0. A copy: a finaliser may remove the ring in any allocation. */
static const GByteArray *copy_ring(lua_State *L, unsigned *count)
{
    GByteArray *copy = binding_scratch(L);
    const OccurrenceRing *r = check_ring(L);
    *count = (unsigned)MIN(r->total, r->n);
    const uint64_t first = r->total - *count;
    for (uint64_t i = first; i < r->total; i++) {
        g_byte_array_append(copy, (const guint8 *)&r->list[i % r->n], sizeof r->list[0]);
    }
    for (uint64_t i = first; i < r->total; i++) {
        const char *text = r->list[i % r->n].text;
        if (text) {
            g_byte_array_append(copy, (const guint8 *)text, (guint)strlen(text) + 1);
        }
    }
    return copy;
}

static int ring_list(lua_State *L)
{
    unsigned count;
    lua_settop(L, 1);
    check_ring(L);
    const GByteArray *copy = copy_ring(L, &count);
    const Occurrence *list = (const Occurrence *)(const void *)copy->data;
    const char *own = (const char *)(list + count);
    lua_getiuservalue(L, 1, 1);
    const int text = lua_gettop(L);
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
        const Occurrence *x = &list[i];
        lua_createtable(L, 0, 5);
        lua_pushstring(L, x->mask ? "log" : "text");
        lua_setfield(L, -2, "kind");
        if (x->text) {
            lua_pushstring(L, own);
            own += strlen(own) + 1;
        } else {
            lua_pushvalue(L, text);
        }
        lua_setfield(L, -2, "text");
        lua_pushstring(L, x->mask);
        lua_setfield(L, -2, "mask");
        lua_pushinteger(L, (lua_Integer)x->value);
        lua_setfield(L, -2, "value");
        lua_pushinteger(L, x->time);
        lua_setfield(L, -2, "time");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int ring_remove(lua_State *L)
{
    OccurrenceRing **box = binding_check_userdata(L, 1, RING);
    if (*box) {
        binding_ring_gone(*box);
        binding_settle(*box);
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
    const OccurrenceRing *r = check_ring(L);
    lua_pushstring(L, r->owner ? r->how : "closed");
    return 1;
}

static const ApiFunction ring_methods[] = {
    { "list", ring_list, "(): table[]",
      "What it holds, oldest first: text, time, kind, and value (of a chardev the number of the "
      "byte after\nthe text, of a screen its generation, of a device's log the number of the line, "
      "which has a mask, too)." },
    { "remove", ring_remove, "()", "Ends and frees it." },
    { 0 },
};
static const ApiField ring_fields[] = {
    { "total", ring_get_total, NULL, "integer", "How often the text came." },
    { "how", ring_get_how, NULL, "string", "How it is served." },
    { 0 },
};

void binding_open_occurrence_ring(lua_State *L)
{
    binding_userdata_class(L, RING, "A ring of the last times a text came.", ring_methods,
                           ring_fields, ring_gc);
}
