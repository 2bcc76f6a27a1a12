/*
 * Hooks and rings: vm:_hook(filter, fn) and vm:_ring(filter, n), on which scripts/vmlua/event.lua
 * builds the sources and verbs.
 *
 * A hook belongs to its machine: it stays armed when its handle is collected.
 */
#include "bindings/event-object.h"

#include <string.h>

#include "bindings/insn.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

#define HOOK "event-hook"
#define RING "event-ring"

#define RING_MAX 1000000

/* Of the hub while it is armed, and of its handle: neither points into the other's memory, as a
 * finaliser may fail to run (a handle that is collected where Lua's stack is full). */
typedef struct ScriptHook {
    unsigned ref;
    EventHook *hook; /* NULL: removed */
    ScriptRef *fn;
    Machine *machine;
    uint64_t hits; /* after removal */
    char how[64];
} ScriptHook;

typedef struct ScriptRing {
    EventRing *ring; /* NULL: removed */
    Machine *machine;
} ScriptRing;

/* ---- hooks --------------------------------------------------------------------------------- */

static EventAction call_result(lua_State *L, GError **error)
{
    EventAction action = EVENT_CONTINUE;
    const int type = lua_type(L, -1);
    if (type == LUA_TBOOLEAN && lua_toboolean(L, -1)) {
        action = EVENT_HANDLED;
    } else if (type == LUA_TSTRING && strcmp(lua_tostring(L, -1), "pause") == 0) {
        action = EVENT_PAUSE;
    } else if (type != LUA_TNIL && type != LUA_TBOOLEAN) {
        error_set(error, ENGINE_ERROR_SCRIPT,
                  "a hook returns nothing, true (handled) or \"pause\", not %s",
                  type == LUA_TSTRING ? lua_tostring(L, -1) : luaL_typename(L, -1));
    }
    lua_pop(L, 1);
    return action;
}

/* What binding_call needs on the stack, pushed under its protection the first time a thread gets
 * here: later calls allocate nothing. */
static EventAction on_event(void *opaque, VCpu *cpu, EventRecord *x)
{
    ScriptHook *h = opaque;
    lua_State *L = binding_state();
    GError *error = NULL;
    EventAction action = EVENT_CONTINUE;
    if (!script_ref_push(L, h->fn)) {
        return EVENT_CONTINUE;
    }
    ScriptThread *st = script_self();
    if (cpu && st && st->cpu == cpu && st->cpu_handle != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, st->cpu_handle);
    } else {
        binding_push_object(L, cpu);
        if (cpu && st && st->cpu == cpu) {
            lua_pushvalue(L, -1);
            st->cpu_handle = luaL_ref(L, LUA_REGISTRYINDEX);
        }
    }
    EventBox *box = event_object_push(L);
    /* The hook may remove itself in its callback: what is needed after that is kept here. */
    Machine *m = h->machine;
    char what[160];
    g_strlcpy(what, script_ref_what(h->fn), sizeof what);
    box->record = x;
    box->cpu = cpu;
    /* The userdata may be collected as soon as it is off the stack: it is reset through a copy kept
     * on it. */
    lua_pushvalue(L, -1);
    lua_insert(L, -4);
    const bool ok = binding_call(L, 2, 1, true, what, &error);
    box->record = NULL;
    if (ok) {
        action = call_result(L, &error);
        if (error) {
            g_prefix_error(&error, "%s: ", what);
        }
    }
    lua_pop(L, 1);
    if (cpu) {
        __atomic_fetch_add(&cpu->stats.script, 1, __ATOMIC_RELAXED);
    }
    if (error) {
        machine_fail(m, error->message);
        g_error_free(error);
    }
    return action;
}

static void hook_unref(void *opaque)
{
    ScriptHook *h = opaque;
    if (--h->ref == 0) {
        g_free(h);
    }
}

static void hook_disarmed(ScriptHook *h)
{
    if (h->hook) {
        h->hits = event_hook_hits(h->hook);
        h->hook = NULL;
    }
}

static void hook_gone(gpointer opaque)
{
    ScriptHook *h = opaque;
    hook_disarmed(h);
    script_ref_free(h->fn);
    hook_unref(h);
}

static int hook_gc(lua_State *L)
{
    ScriptHook **box = lua_touserdata(L, 1);
    if (*box) {
        binding_settle(*box);
        *box = NULL;
    }
    return 0;
}

static ScriptHook *check_hook(lua_State *L)
{
    ScriptHook **box = binding_check_userdata(L, 1, HOOK);
    if (!*box) {
        luaL_error(L, "this hook was finalised");
    }
    return *box;
}

static int hook_remove(lua_State *L)
{
    ScriptHook *h = check_hook(L);
    if (h->hook) {
        EventHook *hook = h->hook;
        hook_disarmed(h);
        event_hook_remove(hook);
    }
    return 0;
}

static int hook_get_hits(lua_State *L)
{
    const ScriptHook *h = check_hook(L);
    lua_pushinteger(L, (lua_Integer)(h->hook ? event_hook_hits(h->hook) : h->hits));
    return 1;
}

static int hook_get_how(lua_State *L)
{
    lua_pushstring(L, check_hook(L)->how);
    return 1;
}

static int hook_get_armed(lua_State *L)
{
    lua_pushboolean(L, check_hook(L)->hook != NULL);
    return 1;
}

/* ---- filters ------------------------------------------------------------------------------- */

static const char *const filter_keys[] = { "source", "addr",  "len",        "sizes",    "reads",
                                           "writes", "value", "mask",       "cpu",      "skip",
                                           "limit",  "kind",  "fetches",    "mnemonic", "category",
                                           "cpls",   "bytes", "bytes_mask", NULL };

static uint64_t filter_u64(lua_State *L, const char *key, uint64_t def)
{
    uint64_t v = def;
    if (binding_get_key(L, 2, key) != LUA_TNIL) {
        v = binding_check_u64(L, lua_gettop(L), key);
    }
    lua_pop(L, 1);
    return v;
}

static bool filter_bool(lua_State *L, const char *key)
{
    binding_get_key(L, 2, key);
    const bool v = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return v;
}

/* The number of the exit that `kind` in the filter names; none: any. */
static uint64_t filter_exit_kind(lua_State *L)
{
    const char *names[CPU_EXIT_KINDS + 1];
    uint64_t kind = EVENT_EXIT_ANY;
    if (binding_get_key(L, 2, "kind") != LUA_TNIL) {
        const char *name = luaL_checkstring(L, -1);
        for (int i = 0; i < CPU_EXIT_KINDS; i++) {
            names[i] = cpu_exit_kind_name((CpuExitKind)i);
            kind = strcmp(name, names[i]) == 0 ? (uint64_t)i : kind;
        }
        names[CPU_EXIT_KINDS] = NULL;
        if (kind == EVENT_EXIT_ANY) {
            const char *nearest = nearest_word(name, names);
            luaL_error(L,
                       nearest ? "unknown exit kind '%s' (did you mean '%s'?)"
                               : "unknown exit kind '%s'",
                       name, nearest);
        }
    }
    lua_pop(L, 1);
    return kind;
}

/* The table at 2. */
static EventFilter check_filter(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TTABLE);
    binding_check_keys(L, 2, filter_keys, "event filter");
    binding_get_key(L, 2, "source");
    const char *name = luaL_checkstring(L, -1);
    int source = 0;
    while (source < EVENT_SOURCES && strcmp(name, event_source_name((EventSource)source)) != 0) {
        source++;
    }
    if (source == EVENT_SOURCES) {
        luaL_error(L, "unknown event source '%s'", name);
    }
    lua_pop(L, 1);
    EventFilter f = {
        .source = (EventSource)source,
        .addr = filter_u64(L, "addr", 0),
        .len = filter_u64(L, "len", 1),
        .sizes = (uint8_t)filter_u64(L, "sizes", 0),
        .directions = (uint8_t)((filter_bool(L, "reads") ? EVENT_READS : 0) |
                                (filter_bool(L, "writes") ? EVENT_WRITES : 0) |
                                (filter_bool(L, "fetches") ? EVENT_FETCHES : 0)),
        .mask = filter_u64(L, "mask", 0),
        .value = filter_u64(L, "value", 0),
        .cpu = (int)filter_u64(L, "cpu", 0) - 1,
        .skip = filter_u64(L, "skip", 0),
        .limit = filter_u64(L, "limit", 0),
    };
    if (f.source == EVENT_INSN) {
        f.insn = insn_check_filter(L);
    }
    if (f.source == EVENT_EXIT) {
        f.addr = filter_exit_kind(L);
    }
    return f;
}

static int machine_hook(lua_State *L)
{
    Machine *m = binding_check_object(L, 1, TYPE_MACHINE);
    const EventFilter filter = check_filter(L);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    char what[48];
    g_snprintf(what, sizeof what, "%s hook", event_source_name(filter.source));
    ScriptHook **box = binding_new_userdata(L, HOOK, sizeof *box);
    /* Owned by the machine's user value: closing the machine lets go of the function. */
    ScriptRef *fn = script_ref_new(L, 3, OBJECT(m), what);
    ScriptHook *h = g_new0(ScriptHook, 1);
    h->ref = 1;
    h->fn = fn;
    h->machine = m;
    GError *error = NULL;
    h->hook = event_hook_add(m->events, &filter, on_event, h, hook_gone, &error);
    if (!h->hook) {
        script_ref_free(fn);
        g_free(h);
        return binding_raise(L, error);
    }
    h->ref++;
    binding_owe(hook_unref, h);
    *box = h;
    const char *how = event_hook_how(h->hook);
    g_strlcpy(h->how, how ? how : "", sizeof h->how);
    return 1;
}

/* ---- rings --------------------------------------------------------------------------------- */

static void ring_free(void *data)
{
    ScriptRing *r = data;
    if (r->ring) {
        event_ring_remove(r->ring);
    }
    object_unref(r->machine);
    g_free(r);
}

static int ring_gc(lua_State *L)
{
    ScriptRing **box = lua_touserdata(L, 1);
    if (*box) {
        binding_settle(*box);
        *box = NULL;
    }
    return 0;
}

static int machine_ring(lua_State *L)
{
    Machine *m = binding_check_object(L, 1, TYPE_MACHINE);
    const EventFilter filter = check_filter(L);
    const unsigned n = (unsigned)binding_check_range(L, 3, 1, RING_MAX, "ring size");
    ScriptRing **box = binding_new_userdata(L, RING, sizeof *box), *r;
    GError *error = NULL;
    EventRing *ring = event_ring_add(m->events, &filter, n, &error);
    if (!ring) {
        return binding_raise(L, error);
    }
    r = g_new(ScriptRing, 1);
    *r = (ScriptRing){ .ring = ring, .machine = MACHINE(object_ref(OBJECT(m))) };
    binding_owe(ring_free, r);
    *box = r;
    lua_pushinteger(L, n);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

static ScriptRing *check_ring(lua_State *L)
{
    ScriptRing **box = binding_check_userdata(L, 1, RING);
    if (!*box || !(*box)->ring) {
        luaL_error(L, "this ring was removed");
    }
    return *box;
}

/* What only some sources have. */
static const char *const ring_extra[] = { "len", "bytes", "text",   "cpl",
                                          "old", "fetch", "linear", "paddr" };

static int ring_list(lua_State *L)
{
    check_ring(L);
    lua_getiuservalue(L, 1, 1);
    const unsigned max = (unsigned)lua_tointeger(L, -1);
    EventRecord *records = lua_newuserdatauv(L, max * sizeof *records, 0);
    /* A finaliser may have removed it in the allocation. */
    const unsigned n = event_ring_copy(check_ring(L)->ring, records, max);
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        const EventRecord *r = &records[i];
        lua_createtable(L, 0, 8);
        const struct {
            const char *key;
            int64_t value;
        } ints[] = { { "addr", (int64_t)r->addr }, { "value", (int64_t)r->value },
                     { "size", r->size },          { "rip", (int64_t)r->rip },
                     { "time", r->time },          { "cpu", r->cpu + 1 } };
        for (unsigned k = 0; k < G_N_ELEMENTS(ints) - (r->cpu < 0); k++) {
            lua_pushinteger(L, ints[k].value);
            lua_setfield(L, -2, ints[k].key);
        }
        lua_pushboolean(L, r->write);
        lua_setfield(L, -2, "write");
        lua_pushstring(L, event_source_name(r->source));
        lua_setfield(L, -2, "kind");
        for (unsigned k = 0; k < G_N_ELEMENTS(ring_extra); k++) {
            if (insn_push_field(L, r, ring_extra[k]) ||
                event_push_memory_field(L, r, ring_extra[k])) {
                lua_setfield(L, -2, ring_extra[k]);
            }
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int ring_remove(lua_State *L)
{
    ScriptRing **box = binding_check_userdata(L, 1, RING);
    if (*box && (*box)->ring) {
        event_ring_remove((*box)->ring);
        (*box)->ring = NULL;
    }
    return 0;
}

static int ring_get_total(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)event_ring_total(check_ring(L)->ring));
    return 1;
}

static int ring_get_how(lua_State *L)
{
    const EventHook *hook = event_ring_hook(check_ring(L)->ring);
    lua_pushstring(L, hook ? event_hook_how(hook) : "");
    return 1;
}

/* ---- what is armed ------------------------------------------------------------------------- */

/* Copies: a finaliser may remove the hook while it is pushed. */
typedef struct ListedHook {
    EventSource source;
    uint64_t addr, len, hits;
    char how[64];
} ListedHook;

static void list_hook(EventHook *hook, void *opaque)
{
    const EventFilter *f = event_hook_filter(hook);
    ListedHook l = {
        .source = f->source,
        .addr = f->addr,
        .len = f->len,
        .hits = event_hook_hits(hook),
    };
    g_strlcpy(l.how, event_hook_how(hook), sizeof l.how);
    g_byte_array_append(opaque, (const guint8 *)&l, sizeof l);
}

static int machine_hooks(lua_State *L)
{
    Machine *m = binding_check_object(L, 1, TYPE_MACHINE);
    GByteArray *list = binding_scratch(L);
    event_hub_foreach(m->events, list_hook, list);
    const ListedHook *hooks = (const ListedHook *)(const void *)list->data;
    const unsigned n = list->len / sizeof *hooks;
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        const ListedHook *f = &hooks[i];
        lua_createtable(L, 0, 5);
        lua_pushstring(L, event_source_name(f->source));
        lua_setfield(L, -2, "source");
        lua_pushinteger(L, (lua_Integer)f->addr);
        lua_setfield(L, -2, "addr");
        lua_pushinteger(L, (lua_Integer)f->len);
        lua_setfield(L, -2, "len");
        lua_pushinteger(L, (lua_Integer)f->hits);
        lua_setfield(L, -2, "hits");
        lua_pushstring(L, f->how);
        lua_setfield(L, -2, "how");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const ApiFunction hook_methods[] = {
    { "remove", hook_remove, "()", "Disarms it; fine to call twice, and from its own callback." },
    { 0 },
};
static const ApiField hook_fields[] = {
    { "hits", hook_get_hits, NULL, "integer", "How often it matched." },
    { "how", hook_get_how, NULL, "string",
      "How it is served: \"port exit\", \"hw breakpoint 1/4\", …" },
    { "armed", hook_get_armed, NULL, "boolean",
      "False once removed, used up, or its machine closed." },
    { 0 },
};
static const ApiFunction ring_methods[] = {
    { "list", ring_list, "(): table[]",
      "What it holds, oldest first: addr, value, size, write, cpu, rip, time, kind; of "
      "instructions "
      "len, bytes, text, cpl besides, of memory accesses old, fetch, linear, paddr." },
    { "remove", ring_remove, "()", "Disarms and frees it." },
    { 0 },
};
static const ApiField ring_fields[] = {
    { "total", ring_get_total, NULL, "integer", "How many events it has seen." },
    { "how", ring_get_how, NULL, "string", "How it is served." },
    { 0 },
};
static const ApiFunction machine_methods[] = {
    { "_hook", machine_hook,
      "(filter: table, fn: fun(cpu: x86-cpu?, x: event): boolean|string|nil): event-hook",
      "Arms a hook; vm:pio{…}:on(fn) and the other sources are the way to say it." },
    { "_ring", machine_ring, "(filter: table, n: integer): event-ring",
      "Arms a ring of the last n events." },
    { "hooks", machine_hooks, "(): table[]",
      "Everything that is armed: source, addr, len, hits, how." },
    { 0 },
};

void binding_open_event(lua_State *L)
{
    event_object_open(L);
    binding_userdata_class(L, HOOK, "An armed hook.", hook_methods, hook_fields, hook_gc);
    binding_userdata_class(L, RING, "A ring of the last events.", ring_methods, ring_fields,
                           ring_gc);
    binding_class(L, TYPE_MACHINE, NULL, machine_methods, NULL);
}
