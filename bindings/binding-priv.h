/*
 * Private to bindings/: the state of threads that run Lua, the registry of declarations, handles.
 */
#pragma once

#include <pthread.h>
#include <signal.h>

#include "bindings/binding.h"

enum { /* ScriptThread.interrupt */
       RUN_ON,
       RUN_END_ONCE, /* one error, which the script may catch */
       RUN_END_HOLD, /* an error at every instruction until the outermost call has returned */
};

/* One a thread that may enter Lua. Fields written by the thread itself (or its signal handler)
 * unless noted. */
typedef struct ScriptThread {
    lua_State *L;
    lua_State *volatile running; /* the coroutine that runs at the moment: where a hook must go */
    pthread_t thread;
    int anchor;     /* of L in the registry; LUA_NOREF for the main state */
    VCpu *cpu;      /* NULL: main thread */
    int cpu_handle; /* registry reference of the vCPU's handle */
    int event;      /* registry reference of the event object that hooks get */
    void *event_box;
    unsigned depth;                  /* of binding_call */
    unsigned interrupt_depth;        /* the call that an interrupt ends */
    volatile sig_atomic_t interrupt; /* RUN_*; also written by the watchdog */
    volatile sig_atomic_t in_poll;   /* main thread: no Lua code is running */
    volatile sig_atomic_t by_signal; /* the interrupt is Ctrl-C, which is not to be lost */
    volatile sig_atomic_t shield;    /* main thread: code that signals do not end */
    const char *volatile why;        /* message of the interrupt */
} ScriptThread;

extern lua_State *script_main; /* NULL before bindings_open and after bindings_close */
ScriptThread *script_self(void);
void script_self_set(ScriptThread *st);
ScriptThread *script_main_thread(void);

/* call.c */
void script_coroutines_open(lua_State *L); /* replaces coroutine.resume and wrap */

/* loop.c */
void script_loop_close(void);

/* interrupt.c */
typedef enum { SCRIPT_INT, SCRIPT_TERM, SCRIPT_HUP, SCRIPT_SIGNALS } ScriptSignal;
void script_watch_admit(void); /* on the thread that is to be watched */
void script_watch_forget(ScriptThread *st);
void script_watch_stop(void); /* joins the watchdog */
/* A call from the engine begins: false when an outer one is watched already. */
bool script_watch_enter(ScriptThread *st);
void script_watch_leave(ScriptThread *st);
bool script_signal_pending(void);
/* The interrupt of this thread is over; `taken`: something was ended by it. */
void script_interrupt_over(ScriptThread *st, bool taken);
void script_interrupt_after_coroutine(ScriptThread *st, bool failed);
void script_interrupt_answered(void); /* the next Ctrl-C is a first one */
bool script_is_shielded(lua_State *L, int idx);
void script_push_shielded(lua_State *L, int idx);
void script_shield_set(ScriptThread *st, int shield);
/* Ends the main thread's code after so many seconds, with an error that says why; 0: not. */
void script_limit(double seconds, const char *why);
/* Why the hook last ended code of the main thread, and where; NULL: it did not. */
const char *script_ended_by(const char **traceback);
void script_ended_forget(void);
/* What a signal does while no script's code runs: takes the reference, returns the former. With
 * `ends` the code that runs at the moment is ended, too. NULL: Ctrl-C raises "interrupted" where a
 * script waits, the others do what they do by default. */
ScriptRef *binding_on_signal(ScriptSignal which, ScriptRef *fn, bool ends);

int script_sandbox(lua_State *L); /* sandbox.c: a function of vmlua.core.process */
int script_pidfile(lua_State *L); /* pidfile.c: the same */
void script_pidfile_remove(void); /* async-signal-safe */

/* The list of everything declared, for api.c. */
typedef enum { DECL_MODULE, DECL_CLASS, DECL_USERDATA } DeclKind;
typedef struct Declaration {
    DeclKind kind;
    const char *name, *doc;
    const ApiFunction *functions;
    const ApiField *fields;
} Declaration;
extern GArray *script_declarations; /* of Declaration */
void script_declare(DeclKind kind, const char *name, const char *doc, const ApiFunction *functions,
                    const ApiField *fields);

/* handle.c */
void script_handles_open(lua_State *L);
void script_handles_close(void); /* after the state was closed */
void script_drain_deferred(void);
/* handle-class.c. Calls add() for every member name of a live handle: methods, fields, members,
 * properties, children. `what` is "method", "field", "property" or "child". */
void script_handle_members(lua_State *L, Object *obj,
                           void (*add)(const char *name, const char *what, void *opaque),
                           void *opaque);
/* ref.c: callbacks whose owner goes */
void script_refs_open(void);
void script_refs_close(void);
void binding_on_error(ScriptRef *fn); /* takes the reference */
/* bundle.c: uses the bytecode in `file` for modules whose source in `scripts` has not changed. A
 * file that is missing, damaged or of another version is as none. */
void bundle_open(lua_State *L, const char *file, const char *scripts, const char *version);
void bundle_close(void);

bool script_bool_key(lua_State *L, int idx, const char *key); /* machine-class.c */
void binding_open_machine_class(lua_State *L); /* these are parts of binding_open_machine */
void binding_open_machine_state(lua_State *L);
