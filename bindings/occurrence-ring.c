/* The last n times that something of an object happened, kept without a call into Lua: watch.h. */
#include "bindings/watch.h"

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
    *box = r;
    lua_pushvalue(L, text_idx);
    lua_setiuservalue(L, -2, 1);
    return r;
}

void binding_ring_add(OccurrenceRing *r, uint64_t value)
{
    r->list[r->total++ % r->n] = (Occurrence){ value, r->clock ? clock_now(r->clock) : 0 };
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
    binding_ring_gone(opaque);
    g_free(opaque);
}

static int ring_gc(lua_State *L)
{
    OccurrenceRing **box = lua_touserdata(L, 1);
    if (*box) {
        binding_defer(ring_free, *box);
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

static int ring_list(lua_State *L)
{
    lua_settop(L, 1);
    check_ring(L);
    /* A copy: a finaliser may remove the ring in any of the allocations below. */
    GByteArray *copy = binding_scratch(L);
    const OccurrenceRing *r = check_ring(L);
    const unsigned count = (unsigned)MIN(r->total, r->n);
    for (uint64_t i = r->total - count; i < r->total; i++) {
        g_byte_array_append(copy, (const guint8 *)&r->list[i % r->n], sizeof r->list[0]);
    }
    lua_getiuservalue(L, 1, 1);
    const int text = lua_gettop(L);
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
        const Occurrence x = ((const Occurrence *)(const void *)copy->data)[i];
        lua_createtable(L, 0, 4);
        lua_pushliteral(L, "text");
        lua_setfield(L, -2, "kind");
        lua_pushvalue(L, text);
        lua_setfield(L, -2, "text");
        lua_pushinteger(L, (lua_Integer)x.value);
        lua_setfield(L, -2, "value");
        lua_pushinteger(L, x.time);
        lua_setfield(L, -2, "time");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int ring_remove(lua_State *L)
{
    OccurrenceRing **box = binding_check_userdata(L, 1, RING);
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
    const OccurrenceRing *r = check_ring(L);
    lua_pushstring(L, r->owner ? r->how : "closed");
    return 1;
}

static const ApiFunction ring_methods[] = {
    { "list", ring_list, "(): table[]",
      "What it holds, oldest first: text, time, kind, and value (of a chardev the number of the "
      "byte after\nthe text, of a screen its generation)." },
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
