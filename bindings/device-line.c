/*
 * Class "device", continued: lines in and out, timers.
 *
 * Output lines live in memory that is attached to the device, since the board's wires are kept
 * there. A timer is an object below its device ("device-timer"); those on the machine's clock are
 * saved with the device, in the order in which they were made.
 */
#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/device-script.h"
#include "engine/core/error.h"
#include "engine/core/irq.h"
#include "engine/state/stream.h"

#define LINE_CLASS "vmlua.line"
#define MAX_LINES  1024

/* ---- outputs ------------------------------------------------------------------------------- */

typedef struct OutLine {
    Irq **slot; /* in memory attached to the device */
} OutLine;

static Irq *line_irq(lua_State *L)
{
    OutLine *line = binding_check_userdata(L, 1, LINE_CLASS);

    lua_getiuservalue(L, 1, 1);
    binding_check_object(L, -1, TYPE_DEVICE); /* raises once the device is gone */
    lua_pop(L, 1);
    return *line->slot;
}

static int line_set(lua_State *L)
{
    Irq *irq = line_irq(L);
    int level = lua_isboolean(L, 2) ? lua_toboolean(L, 2) : luaL_checkinteger(L, 2) != 0;

    irq_set(irq, level);
    return 0;
}

static int line_raise(lua_State *L)
{
    irq_raise(line_irq(L));
    return 0;
}

static int line_lower(lua_State *L)
{
    irq_lower(line_irq(L));
    return 0;
}

static int line_pulse(lua_State *L)
{
    irq_pulse(line_irq(L));
    return 0;
}

static int line_get_level(lua_State *L)
{
    lua_pushinteger(L, irq_level(line_irq(L)));
    return 1;
}

static int line_get_connected(lua_State *L)
{
    lua_pushboolean(L, line_irq(L) != NULL);
    return 1;
}

static int line_gc(lua_State *L)
{
    return 0;
}

typedef struct FindLine {
    const char *name;
    bool is_input, found;
} FindLine;

static void find_line(const char *name, bool is_input, unsigned count, void *opaque)
{
    FindLine *f = opaque;

    f->found |= is_input == f->is_input && g_strcmp0(name, f->name) == 0;
}

static void check_new_line(lua_State *L, DeviceState *dev, const char *name, bool is_input)
{
    FindLine f = { name, is_input, false };

    device_lines_foreach(dev, find_line, &f);
    if (f.found) {
        luaL_error(L, "%s has %s line '%s' already", object_get_name((Object *)dev),
                   is_input ? "an input" : "an output", name ? name : "");
    }
}

/* dev:irq_out([name[, n]]): a line, or with n a list of lines. */
static int device_irq_out(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const char *name = luaL_optstring(L, 2, NULL);
    bool list = !lua_isnoneornil(L, 3);
    unsigned n = list ? (unsigned)binding_check_range(L, 3, 1, MAX_LINES, "number of lines") : 1;
    Irq **slots;

    check_new_line(L, dev, name, false);
    slots = g_new0(Irq *, n);
    object_attach((Object *)dev, slots, g_free);
    device_init_irq_out(dev, name, slots, n);
    lua_settop(L, 3);
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        OutLine *line = binding_new_userdata(L, LINE_CLASS, sizeof(*line));
        line->slot = &slots[i];
        lua_pushvalue(L, 1);
        lua_setiuservalue(L, -2, 1);
        lua_rawseti(L, 4, (lua_Integer)i + 1);
    }
    if (!list) {
        lua_rawgeti(L, 4, 1);
    }
    return 1;
}

/* ---- inputs and wires ---------------------------------------------------------------------- */

/* A line that ends in a Lua function. Attached to a device, so that it outlives every wire of it.
 */
typedef struct LuaLine {
    DeviceState *dev;
    ScriptRef *fn;
    Irq *irq;      /* wires only: the one that was made for it */
    bool is_input; /* fn(dev, n, level), else fn(level) */
} LuaLine;

static void lua_line_free(void *data)
{
    LuaLine *l = data;

    if (l->irq) {
        irq_disconnect(l->irq);
        irq_unref(l->irq);
    }
    script_ref_free(l->fn);
    g_free(l);
}

static void lua_line_set(void *opaque, int n, int level)
{
    LuaLine *l = opaque;
    GError *error = NULL;
    lua_State *L;
    int nargs = 1;

    if (!script_main || ((Object *)l->dev)->gone) {
        return;
    }
    if (!l->is_input && l->dev->machine && machine_torturing(l->dev->machine)) {
        return; /* the world outside does not see it */
    }
    L = binding_state();
    if (!script_ref_push(L, l->fn)) {
        return;
    }
    if (l->is_input) {
        binding_push_object(L, l->dev);
        lua_pushinteger(L, n);
        nargs = 3;
    }
    lua_pushinteger(L, level);
    DeviceState *dev = l->dev;
    object_ref(dev); /* the function may take the device away, and this with it */
    if (!binding_call(L, nargs, 0, true, script_ref_what(l->fn), &error)) {
        device_script_failed(dev, error);
    }
    object_unref(dev);
}

static LuaLine *lua_line_new(lua_State *L, DeviceState *dev, int fn, const char *what,
                             bool is_input)
{
    ScriptRef *ref = script_ref_new(L, fn, (Object *)dev, what);
    LuaLine *l = g_new0(LuaLine, 1);

    l->dev = dev;
    l->fn = ref;
    l->is_input = is_input;
    object_attach((Object *)dev, l, lua_line_free);
    return l;
}

/* dev:irq_in(name, n, fn) */
static int device_irq_in(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const char *name = luaL_optstring(L, 2, NULL);
    unsigned n = (unsigned)binding_check_range(L, 3, 1, MAX_LINES, "number of lines");
    char what[160];

    luaL_checktype(L, 4, LUA_TFUNCTION);
    check_new_line(L, dev, name, true);
    g_snprintf(what, sizeof(what), "%s: input line '%s'", object_get_name((Object *)dev),
               name ? name : "");
    device_init_irq_in_opaque(dev, name, lua_line_set, lua_line_new(L, dev, 4, what, true), n);
    return 0;
}

/* dev:irq([name[, n]]): an input, to connect something to. */
static int device_irq(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const char *name = luaL_optstring(L, 2, NULL);
    unsigned n = lua_isnoneornil(L, 3) ? 0 : (unsigned)binding_check_range(L, 3, 0, MAX_LINES, "n");
    GError *error = NULL;
    Irq *irq = device_get_irq_in(dev, name, n, &error);

    if (!irq) {
        return binding_raise(L, error);
    }
    binding_push_irq(L, irq);
    return 1;
}

/* dev:connect(name, n, line): a line, the number of a GSI, a function(level), or nil. */
static int device_connect(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const char *name = luaL_optstring(L, 2, NULL);
    unsigned n = lua_isnoneornil(L, 3) ? 0 : (unsigned)binding_check_range(L, 3, 0, MAX_LINES, "n");
    GError *error = NULL;
    LuaLine *wire = NULL;
    Irq *irq = NULL;
    bool ok;

    switch (lua_type(L, 4)) {
    case LUA_TNIL:
    case LUA_TNONE:
        break;
    case LUA_TNUMBER:
        if (!dev->machine) {
            return luaL_error(L,
                              "%s: not realized, so it has no machine whose GSI %d could be "
                              "connected",
                              object_get_name((Object *)dev), (int)luaL_checkinteger(L, 4));
        }
        irq = machine_gsi(dev->machine, (unsigned)binding_check_range(L, 4, 0, 4095, "GSI"));
        if (!irq) {
            return luaL_error(L, "%s: the machine has no GSI %d", object_get_name((Object *)dev),
                              (int)lua_tointeger(L, 4));
        }
        break;
    case LUA_TFUNCTION: {
        char what[160];
        g_snprintf(what, sizeof(what), "%s: what output line '%s' is connected to",
                   object_get_name((Object *)dev), name ? name : "");
        wire = lua_line_new(L, dev, 4, what, false);
        wire->irq = irq = irq_new(lua_line_set, wire, (int)n);
        break;
    }
    default:
        irq = binding_check_irq(L, 4);
    }
    ok = device_connect_irq_out(dev, name, n, irq, &error);
    return ok ? 0 : binding_raise(L, error);
}

typedef struct ListedLine {
    const char *name; /* the device's */
    bool is_input;
    unsigned count;
} ListedLine;

static void collect_line(const char *name, bool is_input, unsigned count, void *opaque)
{
    ListedLine l = { name, is_input, count };

    g_byte_array_append(opaque, (const guint8 *)&l, sizeof(l));
}

static int device_lines(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    GByteArray *found = binding_scratch(L);
    size_t n;

    device_lines_foreach(dev, collect_line, found);
    n = found->len / sizeof(ListedLine);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        const ListedLine *l = &((ListedLine *)(void *)found->data)[i];

        lua_createtable(L, 0, 3);
        lua_pushstring(L, l->name);
        lua_setfield(L, -2, "name");
        lua_pushboolean(L, l->is_input);
        lua_setfield(L, -2, "input");
        lua_pushinteger(L, l->count);
        lua_setfield(L, -2, "count");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* ---- timers -------------------------------------------------------------------------------- */

typedef struct DeviceTimer {
    Object parent;
    DeviceState *dev; /* NULL once unparented */
    Timer timer;
    ScriptRef *fn;
} DeviceTimer;
OBJECT_DECLARE_SIMPLE_TYPE(DeviceTimer, DEVICE_TIMER, TYPE_DEVICE_TIMER)

static void timer_fired(void *opaque)
{
    DeviceTimer *t = opaque;
    GError *error = NULL;
    lua_State *L;

    if (!t->dev || !script_main) {
        return;
    }
    L = binding_state();
    if (!script_ref_push(L, t->fn)) {
        return;
    }
    binding_push_object(L, t->dev);
    binding_push_object(L, t);
    object_ref(t);
    if (!binding_call(L, 2, 0, true, script_ref_what(t->fn), &error)) {
        device_script_failed(t->dev, error);
    }
    object_unref(t);
}

static void timer_unparent(Object *obj)
{
    DeviceTimer *t = DEVICE_TIMER(obj);

    if (t->dev) {
        timer_disarm(&t->timer);
    }
    t->dev = NULL;
}

static void timer_finalize(Object *obj)
{
    script_ref_free(DEVICE_TIMER(obj)->fn);
}

static void timer_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = timer_unparent;
}

static const TypeInfo timer_info = {
    .name = TYPE_DEVICE_TIMER,
    .parent = TYPE_OBJECT,
    .doc = "A timer of a device, with a callback in Lua",
    .instance_size = sizeof(DeviceTimer),
    .instance_finalize = timer_finalize,
    .class_init = timer_class_init,
};

static void register_types(void)
{
    type_register_static(&timer_info);
}
type_init(register_types)

/* dev:timer(fn[, clock]) */
static int device_timer(lua_State *L)
{
    static const char *const clocks[] = { "virtual", "host", "realtime", NULL };
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    int kind;
    char name[64];
    GError *error = NULL;
    DeviceTimer *t;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    kind = luaL_checkoption(L, 3, "virtual", clocks);
    if (!dev->machine) {
        return luaL_error(L, "%s: a timer belongs to a realized device: make it in realize",
                          object_get_name((Object *)dev));
    }
    for (unsigned n = 0;; n++) {
        g_snprintf(name, sizeof(name), "timer-%u", n);
        if (!object_get_child((Object *)dev, name)) {
            break;
        }
    }
    t = (DeviceTimer *)object_new(TYPE_DEVICE_TIMER, &error);
    if (!t || !object_add_child((Object *)dev, name, (Object *)t, &error)) {
        object_unref(t);
        return binding_raise(L, error);
    }
    timer_setup(&t->timer,
                kind == 0   ? dev->machine->clock
                : kind == 1 ? clock_host()
                            : clock_realtime(),
                timer_fired, t);
    t->dev = dev;
    binding_push_object(L, t); /* the tree and the handle hold it */
    object_unref(t);
    g_snprintf(name, sizeof(name), "%.40s: timer", object_get_name((Object *)dev));
    t->fn = script_ref_new(L, 2, (Object *)t, name);
    return 1;
}

static int timer_lua_arm(lua_State *L)
{
    DeviceTimer *t = binding_check_object(L, 1, TYPE_DEVICE_TIMER);
    lua_Integer ns = luaL_checkinteger(L, 2);

    luaL_argcheck(L, ns >= 0, 2, "a time in nanoseconds, from 0, expected");
    timer_arm(&t->timer, ns);
    return 0;
}

static int timer_lua_after(lua_State *L)
{
    DeviceTimer *t = binding_check_object(L, 1, TYPE_DEVICE_TIMER);
    lua_Integer ns = luaL_checkinteger(L, 2);
    int64_t at;

    luaL_argcheck(L, ns >= 0, 2, "a time in nanoseconds, from 0, expected");
    if (__builtin_add_overflow(clock_now(t->timer.clock), ns, &at)) {
        at = INT64_MAX;
    }
    timer_arm(&t->timer, at);
    return 0;
}

static int timer_lua_cancel(lua_State *L)
{
    DeviceTimer *t = binding_check_object(L, 1, TYPE_DEVICE_TIMER);

    timer_disarm(&t->timer);
    return 0;
}

static int timer_get_expires(lua_State *L)
{
    DeviceTimer *t = binding_check_object(L, 1, TYPE_DEVICE_TIMER);

    if (!timer_armed(&t->timer)) {
        return 0;
    }
    lua_pushinteger(L, t->timer.expire);
    return 1;
}

static int timer_get_now(lua_State *L)
{
    DeviceTimer *t = binding_check_object(L, 1, TYPE_DEVICE_TIMER);

    lua_pushinteger(L, clock_now(t->timer.clock));
    return 1;
}

/* ---- timers in the saved state ------------------------------------------------------------- */

/* The n-th timer of the device that is on the machine's clock; NULL after the last. */
static DeviceTimer *virtual_timer(Object *dev, unsigned *child)
{
    while (*child < object_child_count(dev)) {
        Object *obj = object_child_at(dev, (*child)++);
        DeviceTimer *t = (DeviceTimer *)object_dynamic_cast(obj, TYPE_DEVICE_TIMER);
        if (t && clock_kind(t->timer.clock) == CLOCK_KIND_VIRTUAL) {
            return t;
        }
    }
    return NULL;
}

static unsigned count_timers(Object *dev)
{
    unsigned child = 0, n = 0;

    while (virtual_timer(dev, &child)) {
        n++;
    }
    return n;
}

static void put_timers(StateWriter *w, const void *field, const VMStateField *f)
{
    Object *dev = (Object *)(uintptr_t)field;
    unsigned child = 0;
    DeviceTimer *t;

    state_put_u32(w, count_timers(dev));
    while ((t = virtual_timer(dev, &child)) != NULL) {
        state_put_u64(w, (uint64_t)t->timer.expire);
    }
}

static bool get_timers(StateReader *r, void *field, const VMStateField *f, GError **error)
{
    Object *dev = field;
    unsigned n = count_timers(dev), child = 0;
    uint32_t saved = state_get_u32(r);
    DeviceTimer *t;

    if (saved != n) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: %u timers were saved, it has %u",
                         object_get_name(dev), saved, n);
    }
    while ((t = virtual_timer(dev, &child)) != NULL) {
        int64_t expire = (int64_t)state_get_u64(r);
        if (expire < 0) {
            timer_disarm(&t->timer);
        } else {
            timer_arm(&t->timer, expire);
        }
    }
    return true;
}

const VMStateField script_timers_field = {
    .name = "timers",
    .kind = VMS_CUSTOM,
    .offset = 0,
    .count_offset = -1,
    .put = put_timers,
    .get = get_timers,
};

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "irq_out", device_irq_out, "(self, name?: string, n?: integer): vmlua.line|vmlua.line[]",
      "Declares an output line (with n: that many, as a list) that a board connects." },
    { "irq_in", device_irq_in,
      "(self, name: string?, n: integer, fn: fun(dev: device, n: integer, level: integer))",
      "Declares n input lines, numbered from 0." },
    { "irq", device_irq, "(self, name?: string, n?: integer): vmlua.irq",
      "An input line, to connect an output of another device to." },
    { "connect", device_connect,
      "(self, name: string?, n: integer?, line: vmlua.irq|integer|fun(level: integer)|nil)",
      "Connects output n of that name to an input, a GSI of the machine, a function, or nothing." },
    { "lines", device_lines, "(self): { name: string?, input: boolean, count: integer }[]",
      "The lines that the device declares." },
    { "timer", device_timer,
      "(self, fn: fun(dev: device, timer: device-timer), clock?: "
      "\"virtual\"|\"host\"|\"realtime\"): device-timer",
      "A timer, not armed yet; on the machine's clock it is saved with the device." },
    { NULL },
};
static const ApiFunction line_methods[] = {
    { "set", line_set, "(self, level: boolean|integer)", "Drives the line." },
    { "raise", line_raise, "(self)", "Drives the line high." },
    { "lower", line_lower, "(self)", "Drives the line low." },
    { "pulse", line_pulse, "(self)", "High, then low." },
    { NULL },
};
static const ApiField line_fields[] = {
    { "level", line_get_level, NULL, "integer", "What was last driven; 0 when not connected." },
    { "connected", line_get_connected, NULL, "boolean", "Whether it ends anywhere." },
    { NULL },
};
static const ApiFunction timer_methods[] = {
    { "arm", timer_lua_arm, "(self, ns: integer)", "Fires once, at that time of its clock." },
    { "after", timer_lua_after, "(self, ns: integer)", "Fires once, that much later than now." },
    { "cancel", timer_lua_cancel, "(self)", "Does not fire." },
    { NULL },
};
static const ApiField timer_fields[] = {
    { "expires", timer_get_expires, NULL, "integer?", "When it fires; nil while not armed." },
    { "now", timer_get_now, NULL, "integer", "The time of its clock, in nanoseconds." },
    { NULL },
};

void device_lines_open(lua_State *L)
{
    binding_class(L, TYPE_DEVICE, NULL, methods, NULL);
    binding_class(L, TYPE_DEVICE_TIMER, "A timer of a device.", timer_methods, timer_fields);
    binding_userdata_class(L, LINE_CLASS, "An output line of a device.", line_methods, line_fields,
                           line_gc);
}
