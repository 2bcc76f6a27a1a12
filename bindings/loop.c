/*
 * vmlua.core.loop: the main loop for scripts. Everything that waits is built on these callbacks
 * (scripts/vmlua/sched.lua); nothing here yields.
 */
#include <errno.h>
#include <glib-unix.h>
#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/machine/machine.h"

#define TIMER_CLASS  "vmlua.timer"
#define WATCH_CLASS  "vmlua.watch"
#define LATER_BATCH  1000 /* functions run before the loop looks at other events again */
#define MAX_DELAY_NS (INT64_MAX / 4)

/* ---- iterate -----------------------------------------------------------------------------------
 */

static int l_iterate(lua_State *L)
{
    bool block = lua_isnoneornil(L, 1) || lua_toboolean(L, 1);
    GError *error = NULL;
    binding_check_signals(L);
    if (!binding_iterate(L, block, &error)) {
        return binding_raise(L, error);
    }
    binding_check_signals(L);
    return 0;
}

static int l_may_wait(lua_State *L)
{
    lua_pushboolean(L, main_loop_is_main_thread() && engine_may_unlock());
    return 1;
}

/* ---- later
 * --------------------------------------------------------------------------------------- */

static GQueue later_queue = G_QUEUE_INIT;
static BottomHalf *later_bh;

static void later_run(void *opaque)
{
    /* A signal is told between rounds of the loop: what one function puts off must not keep it from
     * that. */
    for (unsigned i = 0; i < LATER_BATCH && !script_signal_pending(); i++) {
        ScriptRef *fn = g_queue_pop_head(&later_queue);
        if (!fn) {
            return;
        }
        if (script_main) { /* the loop is run down after Lua is gone */
            binding_invoke(binding_state(), fn, 0, false);
        }
        script_ref_free(fn);
    }
    bh_schedule(later_bh);
}

static int l_later(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    ScriptRef *fn = script_ref_new(L, 1, NULL, "deferred function");
    if (!later_bh) {
        later_bh = bh_new(later_run, NULL);
    }
    g_queue_push_tail(&later_queue, fn);
    bh_schedule(later_bh);
    return 0;
}

/* ---- timers
 * ---------------------------------------------------------------------------------------- */

/* Shared by the userdata and, while armed, by the clock. */
typedef struct ScriptTimer {
    Timer timer;
    ScriptRef *fn;
    Object *machine; /* whose clock it is on; NULL: realtime */
    bool collected;  /* the userdata is gone: freed once disarmed */
    bool running;
} ScriptTimer;

static void timer_machine_gone(Object *obj, void *opaque)
{
    ScriptTimer *t = opaque;
    timer_disarm(&t->timer);
    t->machine = NULL;
    script_ref_free(t->fn);
    t->fn = NULL;
    if (t->collected && !t->running) {
        g_free(t);
    }
}

static void timer_end(ScriptTimer *t)
{
    timer_disarm(&t->timer);
    if (t->machine) {
        object_remove_destroy_notify(t->machine, timer_machine_gone, t);
        t->machine = NULL;
    }
    script_ref_free(t->fn);
    t->fn = NULL;
}

static void timer_fire(void *opaque)
{
    ScriptTimer *t = opaque;
    ScriptRef *fn = t->fn;
    t->fn = NULL;
    t->running = true;
    timer_end(t);
    if (fn) {
        binding_invoke(binding_state(), fn, 0, false);
        script_ref_free(fn);
    }
    t->running = false;
    if (t->collected) {
        g_free(t);
    }
}

static void timer_collected(void *data)
{
    ScriptTimer *t = data;
    t->collected = true;
    if (!timer_armed(&t->timer) && !t->running) {
        timer_end(t);
        g_free(t);
    }
}

static int timer_gc(lua_State *L)
{
    ScriptTimer **p = lua_touserdata(L, 1);
    if (*p) {
        binding_defer(timer_collected, *p);
        *p = NULL;
    }
    return 0;
}

static int l_timer(lua_State *L)
{
    lua_Integer ns = luaL_checkinteger(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    Machine *m = binding_opt_object(L, 3, TYPE_MACHINE);
    luaL_argcheck(L, ns >= 0, 1, "a delay of at least 0 ns expected");
    ScriptTimer **p = binding_new_userdata(L, TIMER_CLASS, sizeof(ScriptTimer *));
    ScriptRef *fn = script_ref_new(L, 2, NULL, "timer");
    ScriptTimer *t = g_new0(ScriptTimer, 1);
    *p = t;
    t->fn = fn;
    Clock *clock = m ? m->clock : clock_realtime();
    timer_setup(&t->timer, clock, timer_fire, t);
    if (m) {
        t->machine = OBJECT(m);
        object_add_destroy_notify(t->machine, timer_machine_gone, t);
    }
    timer_arm(&t->timer, clock_now(clock) + MIN(ns, MAX_DELAY_NS));
    return 1;
}

static int l_timer_cancel(lua_State *L)
{
    ScriptTimer **p = binding_check_userdata(L, 1, TIMER_CLASS);
    if (*p) {
        timer_end(*p);
    }
    return 0;
}

static int l_timer_armed(lua_State *L)
{
    ScriptTimer **p = binding_check_userdata(L, 1, TIMER_CLASS);
    lua_pushboolean(L, *p && timer_armed(&(*p)->timer));
    return 1;
}

static const ApiFunction timer_methods[] = {
    { "cancel", l_timer_cancel, "(self)", "Stops the timer; fine when it has fired." },
    { "__close", l_timer_cancel, NULL, NULL },
    { NULL },
};
static const ApiField timer_fields[] = {
    { "armed", l_timer_armed, NULL, "boolean", "Whether it is still to fire." },
    { NULL },
};

/* ---- file descriptors
 * -------------------------------------------------------------------------------- */

typedef struct ScriptWatch {
    GSource *source;
    ScriptRef *fn;
    int fd;
    bool collected, running;
} ScriptWatch;

static void watch_end(ScriptWatch *w)
{
    if (w->source) {
        g_source_destroy(w->source);
        g_source_unref(w->source);
        w->source = NULL;
    }
    if (!w->running) {
        script_ref_free(w->fn);
        w->fn = NULL;
    }
}

static gboolean watch_ready(int fd, GIOCondition cond, void *opaque)
{
    ScriptWatch *w = opaque;
    lua_State *L = binding_state();
    w->running = true;
    lua_pushstring(L, cond & (G_IO_IN | G_IO_PRI)                ? "r"
                      : cond & G_IO_OUT                          ? "w"
                      : cond & (G_IO_HUP | G_IO_ERR | G_IO_NVAL) ? "hup"
                                                                 : "");
    binding_invoke(L, w->fn, 1, false);
    w->running = false;
    if (!w->source) {
        script_ref_free(w->fn);
        w->fn = NULL;
        if (w->collected) {
            g_free(w);
        }
        return G_SOURCE_REMOVE;
    }
    return G_SOURCE_CONTINUE;
}

/* A watch stays armed without its userdata: it belongs to the loop until removed. */
static void watch_collected(void *data)
{
    ScriptWatch *w = data;
    w->collected = true;
    if (!w->source && !w->running) {
        g_free(w);
    }
}

static int watch_gc(lua_State *L)
{
    ScriptWatch **p = lua_touserdata(L, 1);
    if (*p) {
        binding_defer(watch_collected, *p);
        *p = NULL;
    }
    return 0;
}

static int l_watch(lua_State *L)
{
    static const char *const modes[] = { "r", "w", "rw", NULL };
    static const GIOCondition conds[] = { G_IO_IN | G_IO_HUP | G_IO_ERR,
                                          G_IO_OUT | G_IO_HUP | G_IO_ERR,
                                          G_IO_IN | G_IO_OUT | G_IO_HUP | G_IO_ERR };
    int fd = (int)binding_check_range(L, 1, 0, INT32_MAX, "fd");
    int mode = luaL_checkoption(L, 2, NULL, modes);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    ScriptWatch **p = binding_new_userdata(L, WATCH_CLASS, sizeof(ScriptWatch *));
    ScriptRef *fn = script_ref_new(L, 3, NULL, "watch");
    ScriptWatch *w = g_new0(ScriptWatch, 1);
    *p = w;
    w->fn = fn;
    w->fd = fd;
    w->source = main_loop_add_fd(fd, conds[mode], watch_ready, w);
    return 1;
}

static int l_watch_remove(lua_State *L)
{
    ScriptWatch **p = binding_check_userdata(L, 1, WATCH_CLASS);
    if (*p) {
        watch_end(*p);
    }
    return 0;
}

static const ApiFunction watch_methods[] = {
    { "remove", l_watch_remove, "(self)", "Stops watching." },
    { "__close", l_watch_remove, NULL, NULL },
    { NULL },
};

/* ---- signals
 * ------------------------------------------------------------------------------------------ */

static ScriptRef *opt_function(lua_State *L, int arg, const char *what)
{
    if (lua_isnoneornil(L, arg)) {
        return NULL;
    }
    luaL_checktype(L, arg, LUA_TFUNCTION);
    return script_ref_new(L, arg, NULL, what);
}

/* Pushes what was there before. */
static int replaced(lua_State *L, ScriptRef *before)
{
    if (!script_ref_push(L, before)) {
        lua_pushnil(L);
    }
    script_ref_free(before);
    return 1;
}

static int l_on_sigint(lua_State *L)
{
    luaL_checkstack(L, 4, NULL);
    return replaced(L, binding_on_signal(SCRIPT_INT, opt_function(L, 1, "Ctrl-C handler"), true));
}

static struct {
    const char *const name;
    const int number;
    GSource *source;
    ScriptRef *fn;
} loop_signals[] = { { "usr1", SIGUSR1, NULL, NULL }, { "winch", SIGWINCH, NULL, NULL } };

static gboolean signal_arrived(void *opaque)
{
    size_t i = GPOINTER_TO_SIZE(opaque);
    binding_invoke(binding_state(), loop_signals[i].fn, 0, false);
    return G_SOURCE_CONTINUE;
}

static void set_loop_signal(size_t i, ScriptRef *fn)
{
    if (fn && !loop_signals[i].source) {
        GSource *s = g_unix_signal_source_new(loop_signals[i].number);
        g_source_set_callback(s, signal_arrived, GSIZE_TO_POINTER(i), NULL);
        g_source_attach(s, main_loop_context());
        loop_signals[i].source = s;
    } else if (!fn && loop_signals[i].source) {
        g_source_destroy(loop_signals[i].source);
        g_source_unref(loop_signals[i].source);
        loop_signals[i].source = NULL;
    }
    loop_signals[i].fn = fn;
}

void script_loop_close(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(loop_signals); i++) {
        ScriptRef *fn = loop_signals[i].fn;
        set_loop_signal(i, NULL);
        script_ref_free(fn);
    }
}

static int l_on_signal(lua_State *L)
{
    static const char *const names[] = { "term", "hup", "usr1", "winch", NULL };
    static const ScriptSignal ending[] = { SCRIPT_TERM, SCRIPT_HUP };
    int which = luaL_checkoption(L, 1, NULL, names);
    bool ends = lua_toboolean(L, 3);
    luaL_checkstack(L, 4, NULL);
    ScriptRef *fn = opt_function(L, 2, "signal handler");
    if ((size_t)which < G_N_ELEMENTS(ending)) {
        return replaced(L, binding_on_signal(ending[which], fn, ends));
    }
    size_t i = (size_t)which - G_N_ELEMENTS(ending);
    ScriptRef *before = loop_signals[i].fn;
    set_loop_signal(i, fn);
    return replaced(L, before);
}

static int l_shielded(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    script_push_shielded(L, 1);
    return 1;
}

static int l_answered(lua_State *L)
{
    script_interrupt_answered();
    return 0;
}

static int l_limit(lua_State *L)
{
    double seconds = luaL_optnumber(L, 1, 0);
    luaL_argcheck(L, seconds >= 0, 1, "a time of 0 or more seconds expected");
    script_limit(seconds, luaL_optstring(L, 2, "ran for too long"));
    return 0;
}

static int l_ended_by(lua_State *L)
{
    const char *traceback, *why = script_ended_by(&traceback);
    if (!why) {
        lua_pushnil(L);
        return 1;
    }
    lua_pushstring(L, why);
    lua_pushstring(L, traceback);
    script_ended_forget();
    return 2;
}

static int l_on_error(lua_State *L)
{
    ScriptRef *fn = NULL;
    if (!lua_isnoneornil(L, 1)) {
        luaL_checktype(L, 1, LUA_TFUNCTION);
        fn = script_ref_new(L, 1, NULL, "error handler");
    }
    binding_on_error(fn);
    return 0;
}

/* ---- clocks and limits
 * ----------------------------------------------------------------------------------- */

static int l_now(lua_State *L)
{
    static const char *const names[] = { "realtime", "host", NULL };
    int which = luaL_checkoption(L, 1, "realtime", names);
    lua_pushinteger(L, clock_now(which == 0 ? clock_realtime() : clock_host()));
    return 1;
}

static double tv_seconds(const struct timeval *tv)
{
    return (double)tv->tv_sec + (double)tv->tv_usec * 1e-6;
}

static int l_cpu_time(lua_State *L)
{
    static const char *const names[] = { "process", "thread", "children", NULL };
    static const int who[] = { RUSAGE_SELF, RUSAGE_THREAD, RUSAGE_CHILDREN };
    struct rusage ru;
    getrusage(who[luaL_checkoption(L, 1, "process", names)], &ru);
    lua_pushnumber(L, tv_seconds(&ru.ru_utime));
    lua_pushnumber(L, tv_seconds(&ru.ru_stime));
    return 2;
}

static int l_rss(lua_State *L)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%*s %ld", &pages) != 1) {
            pages = 0;
        }
        fclose(f);
    }
    lua_pushinteger(L, (lua_Integer)pages * sysconf(_SC_PAGESIZE));
    return 1;
}

static int l_budget(lua_State *L)
{
    binding_set_budget(luaL_checknumber(L, 1));
    return 0;
}

static const ApiFunction functions[] = {
    { "iterate", l_iterate, "(block: boolean?)",
      "One round of the main loop; waits for an event unless block is false. Refused in "
      "callbacks." },
    { "may_wait", l_may_wait, "(): boolean",
      "Whether iterate is possible here: on the main thread and not inside a callback." },
    { "later", l_later, "(fn: function)", "Calls fn soon, from the main loop; from any callback." },
    { "timer", l_timer, "(ns: integer, fn: function, machine: machine?): timer",
      "Calls fn once after that many nanoseconds of real time, or of a machine's virtual time." },
    { "watch", l_watch, "(fd: integer, mode: \"r\"|\"w\"|\"rw\", fn: fun(what: string)): watch",
      "Calls fn whenever the file descriptor is ready; stays until removed." },
    { "now", l_now, "(clock: \"realtime\"|\"host\"?): integer",
      "Nanoseconds of a clock: monotonic, or wall time since 1970." },
    { "cpu_time", l_cpu_time, "(whose: \"process\"|\"thread\"|\"children\"?): number, number",
      "Seconds of CPU time spent: in user mode, in the kernel." },
    { "rss", l_rss, "(): integer", "Bytes of memory of this process that are resident." },
    { "on_sigint", l_on_sigint, "(fn: (fun(): boolean?)?): function?",
      "What Ctrl-C does while no script's code runs; nil: the waiting script raises "
      "\"interrupted\", and so it does where fn returns true. Returns what it was." },
    { "on_signal", l_on_signal,
      "(name: \"term\"|\"hup\"|\"usr1\"|\"winch\", fn: (fun(): boolean?)?, ends: boolean?): "
      "function?",
      "Calls fn from the main loop when the process gets that signal. With `ends`, term and hup "
      "also "
      "end the script's code that runs at the moment; where fn returns true, the script that "
      "waits. "
      "Returns what it was." },
    { "shielded", l_shielded, "(fn: function): function",
      "A function that signals do not end in the middle: they wait for the next round of the loop. "
      "For what runs scripts; it may not yield, and what it resumes is not shielded." },
    { "answered", l_answered, "()",
      "Ctrl-C has been answered: the next one is not a second one to the same script." },
    { "limit", l_limit, "(seconds: number?, why: string?)",
      "Ends the code that runs on the main thread after so many seconds with an error; 0: no "
      "longer. "
      "Not while it waits in a round of the loop that shielded code asked for." },
    { "ended_by", l_ended_by, "(): string?, string?",
      "Why code of this thread was last ended by a signal or a limit, and its traceback; asked for "
      "once." },
    { "on_error", l_on_error, "(fn: fun(message: string)?)",
      "Who is told of errors in callbacks that have no caller; nil: standard error." },
    { "budget", l_budget, "(seconds: number)",
      "How long a callback on a vCPU or in a device may run before it is ended; 0: for ever." },
    { NULL },
};

void binding_open_loop(lua_State *L)
{
    binding_module(L, "vmlua.core.loop", "The main loop: callbacks, timers, file descriptors.",
                   functions);
    binding_userdata_class(L, TIMER_CLASS, "A timer that was set with loop.timer.", timer_methods,
                           timer_fields, timer_gc);
    binding_userdata_class(L, WATCH_CLASS, "A watched file descriptor.", watch_methods, NULL,
                           watch_gc);
}
