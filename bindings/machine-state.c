/*
 * A machine's state as scripts see it: being told of changes, snapshots, device state as a string.
 */
#include <string.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

#define WATCH_CLASS    "vmlua.machine-watch"
#define SNAPSHOT_CLASS "vmlua.snapshot"

static Machine *check_machine(lua_State *L, int arg)
{
    return binding_check_object(L, arg, TYPE_MACHINE);
}

/* ---- being told ----------------------------------------------------------------------------- */

/* Shared by the userdata and the machine's lists; freed when both have let go. */
typedef struct MachineWatch {
    Machine *m; /* NULL: not in its lists any more */
    ScriptRef *fn;
    bool on_reset, collected, unlinking;
} MachineWatch;

static void watch_notify(Machine *m, RunState state, void *opaque)
{
    MachineWatch *w = opaque;
    if (w->fn && script_main) {
        lua_State *L = binding_state();
        lua_pushstring(L, run_state_name(state));
        lua_pushstring(L, m->reason);
        binding_invoke(L, w->fn, 2, true);
    }
}

static void watch_reset(void *opaque)
{
    MachineWatch *w = opaque;
    GError *error = NULL;
    if (!w->fn || !script_main) {
        return;
    }
    lua_State *L = binding_state();
    Machine *m = w->m;
    char *what = g_strdup(script_ref_what(w->fn)); /* the handler may remove itself */
    if (script_ref_push(L, w->fn) && !binding_call(L, 0, 0, true, what, &error)) {
        machine_fail(m, error->message);
        g_error_free(error);
    }
    g_free(what);
}

static void watch_machine_gone(Object *obj, void *opaque);

static void watch_unlink(void *data)
{
    MachineWatch *w = data;
    if (w->m) {
        object_remove_destroy_notify(OBJECT(w->m), watch_machine_gone, w);
        if (w->on_reset) {
            machine_remove_reset(w->m, watch_reset, w);
        } else {
            machine_remove_notify(w->m, watch_notify, w);
        }
        w->m = NULL;
    }
    w->unlinking = false;
    if (w->collected) {
        g_free(w);
    }
}

static void watch_stop(MachineWatch *w)
{
    script_ref_free(w->fn);
    w->fn = NULL;
    if (!w->unlinking) {
        /* From the main loop: the lists of the machine may be being walked now. */
        w->unlinking = true;
        binding_defer(watch_unlink, w);
    }
}

static void watch_machine_gone(Object *obj, void *opaque)
{
    MachineWatch *w = opaque;
    if (w->on_reset) {
        machine_remove_reset(w->m, watch_reset, w);
    } else {
        machine_remove_notify(w->m, watch_notify, w);
    }
    w->m = NULL;
    watch_stop(w);
}

static void watch_collected(void *data)
{
    MachineWatch *w = data;
    w->collected = true;
    if (!w->m && !w->unlinking) {
        g_free(w);
    }
}

static int watch_remove(lua_State *L)
{
    MachineWatch **w = binding_check_userdata(L, 1, WATCH_CLASS);
    if (*w && (*w)->fn) {
        watch_stop(*w);
    }
    return 0;
}

/* A watch belongs to its machine: without its userdata it goes on until the machine is closed. */
static int watch_gc(lua_State *L)
{
    MachineWatch **w = lua_touserdata(L, 1);
    if (*w) {
        binding_defer(watch_collected, *w);
        *w = NULL;
    }
    return 0;
}

static int add_watch(lua_State *L, bool on_reset, const char *what)
{
    Machine *m = check_machine(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    MachineWatch **ud = binding_new_userdata(L, WATCH_CLASS, sizeof(MachineWatch *));
    ScriptRef *fn = script_ref_new(L, 2, OBJECT(m), what);
    MachineWatch *w = g_new0(MachineWatch, 1);
    *ud = w;
    w->m = m;
    w->fn = fn;
    w->on_reset = on_reset;
    object_add_destroy_notify(OBJECT(m), watch_machine_gone, w);
    if (on_reset) {
        machine_add_reset_watch(m, watch_reset, w);
    } else {
        machine_add_notify(m, watch_notify, w);
    }
    return 1;
}

static int l_notify(lua_State *L)
{
    return add_watch(L, false, "state watch");
}

static int l_on_reset(lua_State *L)
{
    return add_watch(L, true, "reset handler");
}

/* ---- snapshots ------------------------------------------------------------------------------ */

static void drop_snapshot(void *data)
{
    snapshot_unref(data);
}

static int snapshot_gc(lua_State *L)
{
    Snapshot **s = lua_touserdata(L, 1);
    if (*s) {
        binding_defer(drop_snapshot, *s);
        *s = NULL;
    }
    return 0;
}

static int snapshot_release(lua_State *L)
{
    binding_check_userdata(L, 1, SNAPSHOT_CLASS);
    return snapshot_gc(L);
}

static Snapshot *check_snapshot(lua_State *L, int arg)
{
    Snapshot **s = binding_check_userdata(L, arg, SNAPSHOT_CLASS);
    luaL_argcheck(L, *s, arg, "the snapshot was released");
    return *s;
}

static int l_snapshot(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    Snapshot **ud = binding_new_userdata(L, SNAPSHOT_CLASS, sizeof(Snapshot *));
    GError *error = NULL;
    *ud = machine_snapshot(m, &error);
    return *ud ? 1 : binding_raise(L, error);
}

static int l_restore(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    Snapshot *s = check_snapshot(L, 2);
    GError *error = NULL;
    return machine_restore(m, s, &error) ? 0 : binding_raise(L, error);
}

static int l_torture(lua_State *L)
{
    static const char *const kinds[] = { "snapshot", "stream", NULL };
    Machine *m = check_machine(L, 1);
    TortureKind kind = (TortureKind)luaL_checkoption(L, 2, NULL, kinds);
    GError *error = NULL;
    bool done;

    if (!machine_torture(m, kind, &done, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, done);
    return 1;
}

static int l_snapshot_bytes(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)snapshot_device_bytes(check_snapshot(L, 1)));
    return 1;
}

static void drop_bytes(void *data)
{
    g_bytes_unref(data);
}

static int l_save_devices(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    GError *error = NULL;
    GBytes *bytes = machine_save_devices(m, &error);
    if (!bytes) {
        return binding_raise(L, error);
    }
    /* Dropped by the loop: the push below may raise for want of memory. */
    binding_defer(drop_bytes, bytes);
    gsize len;
    const char *data = g_bytes_get_data(bytes, &len);
    lua_pushlstring(L, data, len);
    return 1;
}

static int l_load_devices(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    GError *error = NULL;
    GBytes *bytes = g_bytes_new(data, len);
    bool ok = machine_load_devices(m, bytes, &error);
    g_bytes_unref(bytes);
    if (!ok) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

/* ---- tables --------------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "notify", l_notify, "(self, fn: fun(status: string, reason: string?)): machine-watch",
      "Calls fn after each change of status; belongs to the machine until removed." },
    { "on_reset", l_on_reset, "(self, fn: function): machine-watch",
      "Calls fn at each reset, in order of addition." },
    { "snapshot", l_snapshot, "(self): snapshot",
      "The present state of the whole machine as a value, in memory." },
    { "restore", l_restore, "(self, s: snapshot)",
      "Goes back to a snapshot, of this machine or of another of the same shape." },
    { "_torture", l_torture, "(self, kind: \"snapshot\"|\"stream\"): boolean?, string?",
      "Saves its state, spoils it, puts it back and compares; false: not now. The test runner's "
      "--torture." },
    { "save_devices", l_save_devices, "(self): string",
      "State of devices and vCPUs, without RAM, as a binary string." },
    { "load_devices", l_load_devices, "(self, state: string): boolean?, string?",
      "Puts such a state back." },
    { NULL },
};

static const ApiFunction watch_methods[] = {
    { "remove", watch_remove, "(self)", "Is not told any more." },
    { "__close", watch_remove, NULL, NULL },
    { NULL },
};
static const ApiFunction snapshot_methods[] = {
    { "release", snapshot_release, "(self)",
      "Frees what it holds, before the garbage collector does." },
    { "__close", snapshot_release, NULL, NULL },
    { NULL },
};
static const ApiField snapshot_fields[] = {
    { "device_bytes", l_snapshot_bytes, NULL, "integer", "Size of the state of its devices." },
    { NULL },
};

void binding_open_machine_state(lua_State *L)
{
    binding_class(L, TYPE_MACHINE, NULL, methods, NULL);
    binding_userdata_class(L, WATCH_CLASS, "A function that is told of a machine's state.",
                           watch_methods, NULL, watch_gc);
    binding_userdata_class(L, SNAPSHOT_CLASS, "A machine's state at one moment.", snapshot_methods,
                           snapshot_fields, snapshot_gc);
}
