/*
 * What the callback of a hook gets as `x`: the fields of an event that it reads and writes.
 *
 * One userdata a thread, reused: it points at the event while the callback runs and at nothing
 * afterwards.
 */
#include "bindings/event-object.h"

#include <inttypes.h>
#include <string.h>

#include "bindings/insn.h"

#define EVENT "event"

static const char event_magic = 'e';

static EventBox *event_at_1(lua_State *L)
{
    EventBox *box = lua_touserdata(L, 1);
    if (G_UNLIKELY(!box || lua_type(L, 1) != LUA_TUSERDATA || lua_rawlen(L, 1) != sizeof *box ||
                   box->magic != &event_magic)) {
        luaL_typeerror(L, 1, EVENT);
    }
    return box;
}

static EventBox *check_event(lua_State *L)
{
    EventBox *box = event_at_1(L);
    if (G_UNLIKELY(!box->record)) {
        luaL_error(L, "this event is over: copy what you need inside the callback");
    }
    return box;
}

static uint64_t event_rip(lua_State *L, const EventBox *box)
{
    if (!box->record->rip && box->cpu) {
        GError *error = NULL;
        if (!cpu_fetch_state(box->cpu, X86_STATE_GPR, &error)) {
            binding_raise(L, error);
        }
        box->record->rip = box->cpu->state->rip;
    }
    return box->record->rip;
}

static bool is_memory(EventSource source)
{
    return source == EVENT_MEM || source == EVENT_MEM_PHYS;
}

bool event_push_memory_field(lua_State *L, const EventRecord *r, const char *key)
{
    const bool fetch = r->args[EVENT_ARG_ACCESS] == EVENT_FETCHES;
    if (!is_memory(r->source)) {
        return false;
    }
    if (strcmp(key, "old") == 0) {
        if (r->write) {
            lua_pushinteger(L, (lua_Integer)r->args[EVENT_ARG_OLD]);
        } else {
            lua_pushnil(L);
        }
    } else if (strcmp(key, "fetch") == 0) {
        lua_pushboolean(L, fetch);
    } else if (strcmp(key, "linear") == 0 || strcmp(key, "paddr") == 0) {
        const bool own = (r->source == EVENT_MEM) == (key[0] == 'l');
        if (!own && fetch) {
            lua_pushnil(L);
        } else {
            lua_pushinteger(L, (lua_Integer)(own ? r->addr : r->args[EVENT_ARG_OTHER]));
        }
    } else {
        return false;
    }
    return true;
}

static int event_index(lua_State *L)
{
    const EventBox *box = check_event(L);
    const EventRecord *r = box->record;
    const char *key = lua_tostring(L, 2);
    if (!key) {
        return luaL_error(L, "an event has no field of type %s", luaL_typename(L, 2));
    }
    if (strcmp(key, "value") == 0) {
        lua_pushinteger(L, (lua_Integer)r->value);
    } else if (strcmp(key, "addr") == 0) {
        lua_pushinteger(L, (lua_Integer)r->addr);
    } else if (strcmp(key, "write") == 0) {
        lua_pushboolean(L, r->write);
    } else if (strcmp(key, "size") == 0) {
        lua_pushinteger(L, r->size);
    } else if (strcmp(key, "cpu") == 0) {
        if (r->cpu >= 0) {
            lua_pushinteger(L, r->cpu + 1);
        } else {
            lua_pushnil(L);
        }
    } else if (strcmp(key, "rip") == 0) {
        lua_pushinteger(L, (lua_Integer)event_rip(L, box));
    } else if (strcmp(key, "time") == 0) {
        lua_pushinteger(L, r->time);
    } else if (strcmp(key, "kind") == 0) {
        lua_pushstring(L, event_source_name(r->source));
    } else if (strcmp(key, "fault") == 0) {
        lua_pushboolean(L, r->fault);
    } else if (strcmp(key, "args") == 0) {
        lua_createtable(L, (int)G_N_ELEMENTS(r->args), 0);
        for (unsigned i = 0; i < G_N_ELEMENTS(r->args); i++) {
            lua_pushinteger(L, (lua_Integer)r->args[i]);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
    } else if (!insn_push_field(L, r, key) && !event_push_memory_field(L, r, key)) {
        return luaL_error(L,
                          "an event has no field '%s' (addr, value, size, write, cpu, rip, time, "
                          "kind, args, fault%s)",
                          key,
                          r->source == EVENT_INSN ? ", len, bytes, mnemonic, category, text, "
                                                    "operands, cpl"
                          : is_memory(r->source)  ? ", old, fetch, linear, paddr"
                                                  : "");
    }
    return 1;
}

static int event_newindex(lua_State *L)
{
    const EventBox *box = check_event(L);
    const char *key = luaL_checkstring(L, 2);
    if (strcmp(key, "value") == 0) {
        box->record->value = (uint64_t)luaL_checkinteger(L, 3);
    } else if (strcmp(key, "fault") == 0) {
        luaL_checktype(L, 3, LUA_TBOOLEAN);
        box->record->fault = lua_toboolean(L, 3);
    } else {
        return luaL_error(L, "an event's %s cannot be assigned to (value and fault can)", key);
    }
    return 0;
}

/* "pio write of 1 byte at 0x80: 0x41 (cpu 1)" */
static int event_tostring(lua_State *L)
{
    const EventBox *box = event_at_1(L);
    const EventRecord *r = box->record;
    char text[160], cpu[24] = "";

    if (!r) {
        lua_pushliteral(L, "event (over)");
        return 1;
    }
    if (r->cpu >= 0) {
        g_snprintf(cpu, sizeof cpu, " (cpu %d)", r->cpu + 1);
    }
    if (r->size) {
        g_snprintf(text, sizeof text, "%s %s of %u byte%s at 0x%" PRIx64 ": 0x%" PRIx64 "%s",
                   event_source_name(r->source), r->write ? "write" : "read", r->size,
                   r->size == 1 ? "" : "s", r->addr, r->value, cpu);
    } else {
        g_snprintf(text, sizeof text, "%s 0x%" PRIx64 ": 0x%" PRIx64 "%s",
                   event_source_name(r->source), r->addr, r->value, cpu);
    }
    lua_pushstring(L, text);
    return 1;
}

static EventBox *new_event(lua_State *L)
{
    EventBox *box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = (EventBox){ .magic = &event_magic };
    luaL_setmetatable(L, EVENT);
    return box;
}

EventBox *event_object_push(lua_State *L)
{
    ScriptThread *st = script_self();
    if (!st) {
        return new_event(L);
    }
    EventBox *box = st->event_box;
    if (!box) {
        box = new_event(L);
        lua_pushvalue(L, -1);
        st->event = luaL_ref(L, LUA_REGISTRYINDEX);
        st->event_box = box;
    } else if (box->record) {
        box = new_event(L);
    } else {
        lua_rawgeti(L, LUA_REGISTRYINDEX, st->event);
    }
    return box;
}

void event_object_open(lua_State *L)
{
    static const luaL_Reg meta[] = {
        { "__index", event_index },
        { "__newindex", event_newindex },
        { "__tostring", event_tostring },
        { NULL, NULL },
    };
    luaL_newmetatable(L, EVENT);
    luaL_setfuncs(L, meta, 0);
    lua_pop(L, 1);
}
