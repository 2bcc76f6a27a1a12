/*
 * The one lua_State of the process, the thread states of vCPUs, and the order of setting up and
 * taking down.
 */
#include "bindings/binding-priv.h"

#include <lualib.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/machine/machine.h"

#pragma weak binding_open_qom
#pragma weak binding_open_device

lua_State *script_main;
static ScriptThread main_thread;
static _Thread_local ScriptThread *self_thread;

ScriptThread *script_self(void)
{
    return self_thread;
}

void script_self_set(ScriptThread *st)
{
    self_thread = st;
}

ScriptThread *script_main_thread(void)
{
    return &main_thread;
}

lua_State *binding_state(void)
{
    ENGINE_LOCK_ASSERT();
    /* A thread that is not a vCPU's and not the main one (an I/O thread that took the lock) borrows
     * the main state: while the lock is held nobody else runs on it. */
    lua_State *L = self_thread ? self_thread->L : script_main;
    lua_checkstack(L, 2 * LUA_MINSTACK);
    return L;
}

/* VMLUA_GC=stress collects after every few kilobytes, =full after every allocation: what a binding
 * forgot to anchor dies at once. */
static void set_gc_mode(lua_State *L)
{
    const char *mode = getenv("VMLUA_GC");
    if (!mode || !*mode) {
        return;
    }
    if (strcmp(mode, "stress") == 0) {
        lua_gc(L, LUA_GCINC, 104, 1000, 40);
    } else if (strcmp(mode, "full") == 0) {
        lua_gc(L, LUA_GCINC, 1, 1000, 40);
    } else if (strcmp(mode, "generational") == 0) {
        lua_gc(L, LUA_GCGEN, 0, 0);
    } else {
        log_warning("VMLUA_GC=%s: known modes are stress, full and generational", mode);
    }
}

bool binding_in_finaliser(lua_State *L)
{
    /* While it runs one, the collector refuses all that is asked of it. */
    return lua_gc(L, LUA_GCCOUNT) < 0;
}

static bool finaliser_runs(void)
{
    return script_main && binding_in_finaliser(script_main);
}

lua_State *bindings_open(int argc, char **argv)
{
    lua_State *L = luaL_newstate();
    if (!L) {
        return NULL;
    }
    script_main = L;
    main_thread = (ScriptThread){
        .L = L,
        .running = L,
        .thread = pthread_self(),
        .anchor = LUA_NOREF,
        .cpu_handle = LUA_NOREF,
        .event = LUA_NOREF,
    };
    self_thread = &main_thread;
    engine_set_unlock_veto(finaliser_runs);
    luaL_openlibs(L);
    set_gc_mode(L);
    script_coroutines_open(L);
    script_refs_open();
    script_handles_open(L);

    binding_open_api(L);
    binding_open_loop(L);
    binding_open_fs(L);
    binding_open_process(L);
    binding_open_log(L);
    if (binding_open_qom && binding_open_device) {
        binding_open_qom(L);
        binding_open_device(L);
    }
    binding_open_irq(L);
    binding_open_memory(L);
    binding_open_cpu(L);
    binding_open_event(L);
    binding_open_watch(L);
    binding_open_occurrence_ring(L);
    binding_open_machine(L);
    binding_open_chardev(L);
    binding_open_chardev_front(L);
    binding_open_block(L);
    binding_open_block_script(L);
    binding_open_chardev_watch(L);
    binding_open_block_tool(L);
    binding_open_block_job(L);
    binding_open_input(L);
    binding_open_rtc(L);
    binding_open_display(L);
    binding_open_display_watch(L);
    binding_open_pci(L);
    binding_open_fw_cfg(L);
    binding_open_edit(L);

    lua_createtable(L, argc, 1);
    for (int i = 0; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_setglobal(L, "arg");
    return L;
}

static void close_machines(void)
{
    Object *dir = object_get_child(object_get_root(), "machines");
    /* A close that fails to take its machine out would loop forever: each is tried once. */
    for (unsigned n = dir ? object_child_count(dir) : 0; n > 0; n--) {
        Object *obj = object_child_at(dir, object_child_count(dir) - 1);
        if (!object_dynamic_cast(obj, TYPE_MACHINE)) {
            continue;
        }
        object_ref(obj);
        machine_close(MACHINE(obj));
        object_unref(obj);
    }
}

void bindings_close(void)
{
    if (!script_main) {
        return;
    }
    for (int i = 0; i < SCRIPT_SIGNALS; i++) {
        script_ref_free(binding_on_signal(i, NULL, false));
    }
    script_loop_close();
    close_machines();
    script_watch_stop();
    lua_State *L = script_main;
    lua_settop(L, 0);
    script_main = NULL; /* destroy notifications must not touch a state that is going */
    lua_close(L);
    script_drain_deferred();
    script_refs_close();
    script_handles_close();
    self_thread = NULL;
}

void bindings_thread_begin(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    g_assert(!self_thread);
    if (!script_main) {
        return;
    }
    ScriptThread *st = g_new0(ScriptThread, 1);
    lua_State *M = script_main;
    lua_checkstack(M, LUA_MINSTACK);
    st->L = lua_newthread(M);
    st->running = st->L;
    st->anchor = luaL_ref(M, LUA_REGISTRYINDEX);
    st->thread = pthread_self();
    st->cpu = cpu;
    st->cpu_handle = LUA_NOREF;
    st->event = LUA_NOREF;
    cpu->script = st;
    self_thread = st;
    script_watch_admit();
}

void bindings_thread_end(VCpu *cpu)
{
    ENGINE_LOCK_ASSERT();
    ScriptThread *st = cpu->script;
    if (!st) {
        return;
    }
    cpu->script = NULL;
    self_thread = NULL;
    script_watch_forget(st);
    if (script_main) {
        luaL_unref(script_main, LUA_REGISTRYINDEX, st->cpu_handle);
        luaL_unref(script_main, LUA_REGISTRYINDEX, st->event);
        luaL_unref(script_main, LUA_REGISTRYINDEX, st->anchor);
    }
    g_free(st);
}
