/*
 * Calling Lua from C, and ending what runs too long: the traceback handler, the budget's watchdog,
 * Ctrl-C.
 *
 * There is no permanent count hook (it doubles the time of a tight loop). The watchdog thread looks
 * at a sequence number that every handler call raises; a call that is still the same one after the
 * budget gets a signal on its thread, whose handler puts a hook on the coroutine that runs there.
 * As handlers hold the engine lock for as long as they run, at most one is watched at a time.
 */
#include <errno.h>
#include <lualib.h>
#include <math.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/chardev/tty.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define SIG_INTERRUPT (SIGRTMIN + 3)
#define INTERRUPT_GRACE_NS                                                 \
    (200 * NS_PER_MS) /* a handler that takes longer is what Ctrl-C is for \
                       */
#define DEFAULT_BUDGET_NS   (10 * NS_PER_SEC)
#define TRACEBACK_LEVEL_OWN 1

/* ---- the interrupt hook ------------------------------------------------------------------- */

static void interrupt_hook(lua_State *L, lua_Debug *ar)
{
    ScriptThread *st = script_self();
    if (!st || st->interrupt == RUN_ON) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (st->interrupt == RUN_END_ONCE) {
        st->interrupt = RUN_ON;
        lua_sethook(L, NULL, 0, 0);
    }
    luaL_error(L, "%s", st->why ? st->why : "interrupted");
}

static void set_interrupt_hook(ScriptThread *st)
{
    lua_State *L = st->running;
    if (L) {
        lua_sethook(L, interrupt_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                    1);
    }
}

static void on_interrupt_signal(int sig)
{
    ScriptThread *st = script_self();
    if (st && st->interrupt != RUN_ON) {
        set_interrupt_hook(st);
    }
}

/* ---- the watchdog ------------------------------------------------------------------------- */

static struct {
    pthread_t thread;
    bool alive;
    bool quit;             /* atomic */
    bool idle;             /* atomic: asleep until the next handler call */
    sem_t wake;            /* posted by handler calls when idle, by Ctrl-C, by stop */
    pthread_mutex_t mutex; /* leaf: keeps a thread alive while it is signalled */
    int64_t budget_ns;     /* atomic; 0: no limit */
    uint64_t seq;          /* atomic: raised by each outermost handler call */
    ScriptThread *active;  /* atomic: whose handler call runs */
} watch = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .budget_ns = DEFAULT_BUDGET_NS,
};

static volatile sig_atomic_t sigint_pending;
static ScriptRef *sigint_fn;

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static void watch_sleep(int64_t ns)
{
    int64_t until = now_ns() + ns;
    struct timespec ts = { .tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC };
    while (sem_clockwait(&watch.wake, CLOCK_MONOTONIC, &ts) == -1 && errno == EINTR) {
    }
}

static void watch_end(uint64_t seq, const char *why)
{
    pthread_mutex_lock(&watch.mutex);
    ScriptThread *st = __atomic_load_n(&watch.active, __ATOMIC_ACQUIRE);
    if (st && __atomic_load_n(&watch.seq, __ATOMIC_ACQUIRE) == seq) {
        st->why = why;
        st->interrupt_depth = st->depth;
        st->interrupt = RUN_END_HOLD;
        pthread_kill(st->thread, SIG_INTERRUPT);
    }
    pthread_mutex_unlock(&watch.mutex);
}

static void *watch_main(void *unused)
{
    uint64_t seen = 0;
    int64_t since = 0;
    unsigned quiet = 0;

    while (!__atomic_load_n(&watch.quit, __ATOMIC_ACQUIRE)) {
        ScriptThread *st = __atomic_load_n(&watch.active, __ATOMIC_ACQUIRE);
        uint64_t seq = __atomic_load_n(&watch.seq, __ATOMIC_ACQUIRE);
        int64_t budget = __atomic_load_n(&watch.budget_ns, __ATOMIC_RELAXED);
        int64_t now = now_ns();
        if (seq != seen) {
            seen = seq;
            since = now;
            quiet = 0;
        }
        if (!st) {
            if (++quiet > 2) {
                __atomic_store_n(&watch.idle, true, __ATOMIC_SEQ_CST);
                if (!__atomic_load_n(&watch.active, __ATOMIC_SEQ_CST)) {
                    while (sem_wait(&watch.wake) == -1 && errno == EINTR) {
                    }
                }
                __atomic_store_n(&watch.idle, false, __ATOMIC_SEQ_CST);
                quiet = 0;
                continue;
            }
        } else if (sigint_pending && now - since >= INTERRUPT_GRACE_NS) {
            sigint_pending = 0;
            watch_end(seen, "interrupted");
        } else if (budget > 0 && now - since >= budget) {
            watch_end(seen, "ran longer than its budget");
        }
        int64_t nap = budget > 0 ? CLAMP(budget / 4, NS_PER_MS, NS_PER_SEC) : NS_PER_SEC;
        watch_sleep(sigint_pending ? INTERRUPT_GRACE_NS : nap);
    }
    return NULL;
}

/* Called with every signal blocked, so that the thread inherits that. */
static void watch_start(void)
{
    struct sigaction sa = { .sa_handler = on_interrupt_signal, .sa_flags = SA_RESTART };
    sigset_t all, old;

    sigemptyset(&sa.sa_mask);
    sigaction(SIG_INTERRUPT, &sa, NULL);
    sem_init(&watch.wake, 0, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    watch.alive = pthread_create(&watch.thread, NULL, watch_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void script_watch_stop(void)
{
    if (watch.alive) {
        __atomic_store_n(&watch.quit, true, __ATOMIC_RELEASE);
        sem_post(&watch.wake);
        pthread_join(watch.thread, NULL);
        sem_destroy(&watch.wake);
        watch.alive = false;
        watch.quit = false;
    }
}

/* A vCPU's thread blocks all signals but its kick. */
void script_watch_admit(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIG_INTERRUPT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* After this the watchdog holds no pointer to the thread. */
void script_watch_forget(ScriptThread *st)
{
    g_assert(__atomic_load_n(&watch.active, __ATOMIC_ACQUIRE) != st);
    pthread_mutex_lock(&watch.mutex);
    pthread_mutex_unlock(&watch.mutex);
}

void binding_set_budget(double seconds)
{
    int64_t ns = seconds <= 0 || !isfinite(seconds)
                     ? 0
                     : (int64_t)(MIN(seconds, 1e9) * (double)NS_PER_SEC);
    __atomic_store_n(&watch.budget_ns, ns, __ATOMIC_RELAXED);
    if (watch.alive) {
        sem_post(&watch.wake);
    }
}

static void watch_enter(ScriptThread *st)
{
    if (G_UNLIKELY(!watch.alive)) {
        watch_start();
    }
    __atomic_add_fetch(&watch.seq, 1, __ATOMIC_RELEASE);
    __atomic_store_n(&watch.active, st, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&watch.idle, __ATOMIC_SEQ_CST))) {
        sem_post(&watch.wake);
    }
}

static void watch_leave(ScriptThread *st)
{
    __atomic_store_n(&watch.active, NULL, __ATOMIC_RELEASE);
}

/* ---- the one way in ------------------------------------------------------------------------ */

/* Turns any error value into text with a traceback. */
static int message_handler(lua_State *L)
{
    const char *msg = lua_tostring(L, 1);
    if (!msg) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) {
            msg = lua_tostring(L, -1);
        } else {
            msg = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
        }
    }
    luaL_traceback(L, L, msg, TRACEBACK_LEVEL_OWN);
    return 1;
}

bool binding_call(lua_State *L, int nargs, int nresults, bool in_handler, const char *what,
                  GError **error)
{
    ScriptThread *st = script_self();
    int base = lua_gettop(L) - nargs; /* where the function is */
    g_assert(base >= 1);
    lua_State *saved_running = NULL;
    bool saved_poll = false, watched = false;

    if (!lua_checkstack(L, LUA_MINSTACK + (nresults > 0 ? nresults : 0))) {
        lua_settop(L, base - 1);
        return error_set(error, ENGINE_ERROR_SCRIPT, "%s: the Lua stack is full", what);
    }
    lua_pushcfunction(L, message_handler);
    lua_insert(L, base);
    if (st) {
        saved_running = st->running;
        saved_poll = st->in_poll;
        st->running = L;
        st->in_poll = 0;
        st->depth++;
        if (in_handler && !__atomic_load_n(&watch.active, __ATOMIC_RELAXED)) {
            watched = true;
            watch_enter(st);
        }
    }
    if (in_handler) {
        engine_no_unlock_begin();
    }
    int status = lua_pcall(L, nargs, nresults, base);
    if (in_handler) {
        engine_no_unlock_end();
    }
    if (st) {
        if (watched) {
            watch_leave(st);
        }
        if (G_UNLIKELY(st->interrupt != RUN_ON) && (watched || st->depth <= st->interrupt_depth)) {
            st->interrupt = RUN_ON;
            lua_sethook(L, NULL, 0, 0);
        }
        st->depth--;
        st->running = saved_running;
        st->in_poll = saved_poll;
    }
    lua_remove(L, base);
    if (G_LIKELY(status == LUA_OK)) {
        return true;
    }
    const char *msg = lua_tostring(L, -1);
    g_set_error(error, ENGINE_ERROR, ENGINE_ERROR_SCRIPT, "%s%s%s", what ? what : "",
                what ? ": " : "", msg ? msg : "(an error without a message)");
    lua_settop(L, base - 1);
    return false;
}

/* ---- coroutines: Lua's own, keeping track of which one runs --------------------------------- */

static int resume_tracked(lua_State *L, lua_State *co, int nargs)
{
    ScriptThread *st = script_self();
    lua_State *saved = NULL;
    int nresults;

    if (!lua_checkstack(co, nargs)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, nargs);
    if (st) {
        saved = st->running;
        st->running = co;
    }
    int status = lua_resume(co, L, nargs, &nresults);
    if (st) {
        st->running = saved;
        if (G_UNLIKELY(st->interrupt == RUN_END_HOLD)) {
            if (status != LUA_OK && status != LUA_YIELD &&
                __atomic_load_n(&watch.active, __ATOMIC_RELAXED) != st) {
                st->interrupt = RUN_ON; /* Ctrl-C has ended a task: the scheduler goes on */
            } else {
                set_interrupt_hook(st);
            }
        }
    }
    if (status == LUA_OK || status == LUA_YIELD) {
        if (!lua_checkstack(L, nresults + 1)) {
            lua_pop(co, nresults);
            lua_pushliteral(L, "too many results to resume");
            return -1;
        }
        lua_xmove(co, L, nresults);
        return nresults;
    }
    lua_xmove(co, L, 1);
    return -1;
}

static int co_resume(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "thread");
    int n = resume_tracked(L, co, lua_gettop(L) - 1);
    if (n < 0) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushboolean(L, 1);
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int co_wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = resume_tracked(L, co, lua_gettop(L));
    if (n >= 0) {
        return n;
    }
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        /* Closes its pending variables; the error they may raise replaces the first. */
        status = lua_resetthread(co);
        if (status != LUA_OK) {
            lua_xmove(co, L, 1);
        }
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int co_wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, co_wrapped, 1);
    return 1;
}

void script_coroutines_open(lua_State *L)
{
    lua_getglobal(L, "coroutine");
    lua_pushcfunction(L, co_resume);
    lua_setfield(L, -2, "resume");
    lua_pushcfunction(L, co_wrap);
    lua_setfield(L, -2, "wrap");
    lua_pop(L, 1);
}

/* ---- Ctrl-C ---------------------------------------------------------------------------------- */

/* The hook that ends a script runs between Lua's instructions: a function in C that does not come
 * back (a pattern with exponential cost) never gets there, and the main loop waits for its lock.
 * So the third Ctrl-C that finds the first two unanswered ends the process. */
static bool is_deaf(const ScriptThread *main_thread)
{
    static uint64_t last_seq;
    static unsigned unanswered;
    const uint64_t seq = __atomic_load_n(&watch.seq, __ATOMIC_ACQUIRE);
    const bool same_call = __atomic_load_n(&watch.active, __ATOMIC_ACQUIRE) && seq == last_seq;

    last_seq = seq;
    unanswered = sigint_pending || same_call || main_thread->interrupt != RUN_ON ? unanswered + 1
                                                                                 : 0;
    return unanswered >= 2;
}

static void on_sigint(int sig)
{
    static int64_t last;
    ScriptThread *st = script_main_thread();
    int saved = errno;

    if (!pthread_equal(pthread_self(), st->thread)) {
        pthread_kill(st->thread, SIGINT);
    } else if (is_deaf(st)) {
        static const char message[] = "vmlua: interrupted, without waiting for what runs\n";
        tty_restore_in_signal();
        ssize_t n = write(STDERR_FILENO, message, sizeof message - 1);
        (void)n;
        _exit(130);
    } else if (st->in_poll || !st->running) {
        sigint_pending = 1;
        main_loop_wakeup();
        if (__atomic_load_n(&watch.active, __ATOMIC_RELAXED)) {
            sem_post(&watch.wake); /* perhaps a callback on a vCPU thread loops */
        }
    } else {
        int64_t now = now_ns();
        st->why = "interrupted";
        st->interrupt_depth = st->depth;
        /* Twice in a short time: the script catches errors in a loop. */
        st->interrupt = last && now - last < 2 * NS_PER_SEC ? RUN_END_HOLD : RUN_END_ONCE;
        last = now;
        set_interrupt_hook(st);
    }
    errno = saved;
}

void binding_install_sigint(void)
{
    struct sigaction sa = { .sa_handler = on_sigint, .sa_flags = SA_RESTART };
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
}

void binding_on_sigint(ScriptRef *fn)
{
    ENGINE_LOCK_ASSERT();
    script_ref_free(sigint_fn);
    sigint_fn = fn;
}

void binding_check_sigint(lua_State *L)
{
    if (G_LIKELY(!sigint_pending)) {
        return;
    }
    sigint_pending = 0;
    if (sigint_fn && script_ref_push(L, sigint_fn)) {
        lua_call(L, 0, 0);
        return;
    }
    luaL_error(L, "interrupted");
}

bool binding_iterate(lua_State *L, bool block, GError **error)
{
    ScriptThread *st = script_self();
    if (!main_loop_is_main_thread() || !engine_may_unlock()) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "waiting is refused inside a callback from the engine: start a task "
                         "(sched.spawn) that waits");
    }
    st->in_poll = 1;
    if (!sigint_pending) {
        main_loop_iterate(block);
    }
    st->in_poll = 0;
    return true;
}
