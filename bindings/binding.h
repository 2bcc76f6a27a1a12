/*
 * What every file of bindings/ shares: handles, errors, calls into Lua, and declarations that are
 * also the documentation.
 *
 * The engine lock is the Lua lock: every function here needs it. A binding has three parts: read
 * arguments (may raise, owns nothing); engine work (no Lua call); push results. See
 * docs/bindings.md for the ten rules.
 */
#pragma once

#include <glib.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu/cpu.h"
#include "engine/qom/object.h"

struct Irq;

/* ---- declarations: functions with their documentation ----------------------------------- */

typedef struct ApiFunction {
    const char *name;
    lua_CFunction fn;
    const char *sig; /* LuaLS: "(addr: integer|string, len: integer): string" */
    const char *doc; /* one line, or several: the first is the summary */
} ApiFunction;       /* lists end with name NULL */
typedef struct ApiField {
    const char *name;
    lua_CFunction get; /* (handle) -> value */
    lua_CFunction set; /* (handle, value); NULL: read-only, assignment raises */
    const char *type;  /* LuaLS: "integer" */
    const char *doc;
} ApiField;

/* Makes package.preload[name] (name is "vmlua.core.loop" …). */
void binding_module(lua_State *L, const char *name, const char *doc, const ApiFunction *functions);
/* Adds methods and fields to handles of a QOM type and its descendants. Scripts add more through
 * vmlua.core.qom.methods(type). */
void binding_class(lua_State *L, const char *qom_type, const char *doc, const ApiFunction *methods,
                   const ApiField *fields);
/* A userdata class that is not an object (hooks, snapshots, timers). `gc` drops what it holds; it
 * may run inside any allocation (rule 3). */
void binding_userdata_class(lua_State *L, const char *name, const char *doc,
                            const ApiFunction *methods, const ApiField *fields, lua_CFunction gc);
void *binding_new_userdata(lua_State *L, const char *name,
                           size_t size); /* zeroed, one user value */
void *binding_check_userdata(lua_State *L, int arg, const char *name);

/* A growing buffer that a userdata on the stack owns: what a binding collects before it pushes
 * results survives no raise otherwise. Pushes the userdata; freed by the garbage collector. */
GByteArray *binding_scratch(lua_State *L);

/* ---- objects ----------------------------------------------------------------------------- */

/* Pushes the one handle of an object (nil for NULL). It holds one reference until the object is
 * unparented or the handle collected. */
void binding_push_object(lua_State *L, void *obj);
/* The object behind a handle: raises "bad argument #1 (x86-cpu expected, got string)" or "serial0:
 * is gone". */
void *binding_check_object(lua_State *L, int arg, const char *qom_type);
void *binding_opt_object(lua_State *L, int arg, const char *qom_type); /* nil/none: NULL */
/* NULL when not a live handle of that type; raises nothing. */
void *binding_test_object(lua_State *L, int arg, const char *qom_type);
/* Members of handles that no table lists (registers of a vCPU, declared state of a script's type):
 * asked after methods and fields, before QOM properties, leaf types first. `get` pushes one value
 * and returns true, or pushes nothing and returns false; `set` likewise says whether it took the
 * value at idx. Both may raise. `list` (may be NULL) calls add(name, opaque) for completion. */
typedef struct BindingMembers {
    bool (*get)(lua_State *L, Object *obj, const char *key);
    bool (*set)(lua_State *L, Object *obj, const char *key, int idx);
    void (*list)(Object *obj, void (*add)(const char *name, void *opaque), void *opaque);
} BindingMembers;
void binding_class_members(const char *qom_type, const BindingMembers *members);
/* The open tables of a type, made on first use: name -> function (handle, …); each falls back to
 * the parent type's. Scripts add to them. */
void binding_push_methods(lua_State *L, const char *qom_type);
void binding_push_getters(lua_State *L, const char *qom_type); /* (handle) -> value */
void binding_push_setters(lua_State *L, const char *qom_type); /* (handle, value) */
/* A Lua table that belongs to the object and lives until the object is gone: what scripts and
 * bindings remember about it. */
void binding_push_data(lua_State *L, Object *obj);
/* References dropped by __gc wait here until the main loop drains them. */
void binding_defer_unref(Object *obj);
void binding_defer(void (*fn)(void *data), void *data);
/* fn(data) is what a handle's finaliser will ask for with binding_settle(data), which defers it.
 * Lua gives up a finaliser that finds no stack: for those fn runs when the state was closed. `data`
 * is one handle's alone. Engine lock. */
void binding_owe(void (*fn)(void *data), void *data);
void binding_settle(void *data);

/* Whether a __gc of a script runs: inside any allocation, so perhaps in the middle of a binding
 * that still uses what the script wants to take away. That is done by binding_defer then. (What
 * waits is refused by itself: engine_may_unlock.) */
bool binding_in_finaliser(lua_State *L);

/* A line as a value (userdata "vmlua.irq"), with a reference of its own; nil for NULL. */
void binding_push_irq(lua_State *L, struct Irq *irq);
struct Irq *binding_check_irq(lua_State *L, int arg); /* borrowed; raises on anything else */

/* ---- values and errors ------------------------------------------------------------------- */

/* An address or size: an integer (its 64 bits), or a string like "2G", "0x7c00". Raises with
 * `what`. */
uint64_t binding_check_u64(lua_State *L, int arg, const char *what);
/* An integer within [min, max] (unsigned compare). */
uint64_t binding_check_range(lua_State *L, int arg, uint64_t min, uint64_t max, const char *what);
/* Raises on a key of the table at idx that is not in `known` (NULL-terminated), naming it and the
 * nearest. */
void binding_check_keys(lua_State *L, int idx, const char *const *known, const char *what);
/* t[key] pushed; returns its type. */
int binding_get_key(lua_State *L, int idx, const char *key);
/* Pushes nil, message; frees the error; returns 2: `return binding_fail(L, error)`. For the outside
 * world failing. */
int binding_fail(lua_State *L, GError *error);
/* Pushes true, or nil, message: `return binding_result(L, f(x, &error), &error)`. */
int binding_result(lua_State *L, bool ok, GError **error);
/* Frees the error and raises its message with position. For wrong use. Never returns. */
int binding_raise(lua_State *L, GError *error);
void binding_push_prop_value(lua_State *L, const PropValue *v, const Property *p);
/* false + error when the Lua value cannot be a value of that kind. */
bool binding_to_prop_value(lua_State *L, int idx, const Property *p, PropValue *out,
                           GError **error);

/* ---- calling Lua ------------------------------------------------------------------------- */

/* The lua_State of the calling thread: the main one, or a vCPU thread's own (made by
 * thread_started). */
lua_State *binding_state(void);
/* The one wrapper through which C calls Lua: function and nargs on the stack; traceback handler,
 * stack checked, budget watched, and engine_no_unlock_begin/end around it when `in_handler`. false
 * + error (ENGINE_ERROR_SCRIPT, message with traceback), results absent. */
typedef struct ScriptRef ScriptRef;
bool binding_call(lua_State *L, int nargs, int nresults, bool in_handler, const char *what,
                  GError **error);
/* Reports an error of a callback that has no caller to tell (a timer, a watch): to the function
 * given to loop.on_error, else to stderr. Frees the error. */
void binding_report(GError *error);
/* Calls `ref` with the nargs values on top of the stack and no results; an error is reported. */
void binding_invoke(lua_State *L, ScriptRef *ref, int nargs, bool in_handler);
/* Seconds a callback from C may run before it is ended with an error (0: no limit). Default 10. */
void binding_set_budget(double seconds);

/* A Lua function (or any value) that C keeps until script_ref_free or until its owner is gone,
 * whichever is first. */
/* `owner` may be NULL (process-wide). `what` names the callback in errors: "pio hook at
 * board.lua:12". */
ScriptRef *script_ref_new(lua_State *L, int idx, Object *owner, const char *what);
void script_ref_free(ScriptRef *ref);               /* NULL is fine; engine lock */
bool script_ref_push(lua_State *L, ScriptRef *ref); /* false (nothing pushed): owner closed */
const char *
script_ref_what(const ScriptRef *ref); /* with the place where the function was defined */

/* Ctrl-C ends the running script, or, when none runs, is told to the function of loop.on_sigint. */
void binding_install_sigint(void);
/* Tells the functions that wait for signals what came in; raises where a script waits and nobody
 * takes the signal, or who does says that the wait is to end. */
void binding_check_signals(lua_State *L);
/* One round of the main loop for a script: not from handlers. false + error where it is refused. */
bool binding_iterate(lua_State *L, bool block, GError **error);

/* ---- set-up ------------------------------------------------------------------------------ */

lua_State *bindings_open(int argc, char **argv); /* main thread, once; loads all modules below */
void bindings_close(
    void); /* closes machines that are left, the state, checks for leaks in debug builds */
/* A thread state for a vCPU, from its CpuHost; anchored until bindings_thread_end. */
void bindings_thread_begin(VCpu *cpu);
void bindings_thread_end(VCpu *cpu);

/* One a file; each registers its modules and classes. */
void binding_open_api(lua_State *L); /* vmlua.core.api: docs of everything declared here */
void binding_open_loop(
    lua_State *L);                   /* vmlua.core.loop: iterate, timers, fds, processes, signals */
void binding_open_log(lua_State *L); /* vmlua.core.log: masks, trace points */
void binding_open_qom(lua_State *L); /* vmlua.core.qom: types, classes, tree; class "object" */
void binding_open_device(lua_State *L);  /* class "device": ports, MMIO, lines, timers, DMA */
void binding_open_memory(lua_State *L);  /* vmlua.core.memory: address spaces, regions, back ends */
void binding_open_cpu(lua_State *L);     /* class "x86-cpu", CPUID */
void binding_open_event(lua_State *L);   /* hooks and rings */
void binding_open_irq(lua_State *L);     /* lines as values */
void binding_open_machine(lua_State *L); /* vmlua.core.machine, class "machine", snapshots */
void binding_open_chardev(lua_State *L); /* vmlua.core.chardev, class "chardev" */
void binding_open_chardev_front(lua_State *L); /* dev:front: the device's end */
void binding_open_watch(lua_State *L);         /* classes of watch.h */
void binding_open_occurrence_ring(lua_State *L);
void binding_open_chardev_watch(lua_State *L);  /* chr:on_data, chr:text(…) */
void binding_open_input(lua_State *L);          /* class "input": keys and pointers */
void binding_open_rtc(lua_State *L);            /* class "mc146818rtc" */
void binding_open_display(lua_State *L);        /* class "console", vm.screen */
void binding_open_display_watch(lua_State *L);  /* screen:text "…", screen:on_change */
void binding_open_block_script(lua_State *L);   /* vmlua.core.blockscript */
void binding_open_block(lua_State *L);          /* vmlua.core.block, drives and their nodes */
void binding_open_block_job(lua_State *L);      /* vmlua.core.blockjob: copy, compare, measure */
void binding_open_block_tool(lua_State *L);     /* vmlua.core.blocktool: whole images */
void binding_open_temporary_file(lua_State *L); /* by it */
int binding_temporary_file(lua_State *L);       /* (path): a function of it */
void binding_open_edit(lua_State *L);    /* vmlua.core.edit: a line editor driven by the loop */
void binding_open_fs(lua_State *L);      /* vmlua.core.fs: files, folders, environment */
void binding_open_process(lua_State *L); /* vmlua.core.process: child processes */
void binding_open_pci(lua_State *L);     /* classes "pci-device", "pci-bus"; vm.pci */
void binding_open_fw_cfg(lua_State *L);  /* class "fw_cfg", vmlua.core.firmware */
