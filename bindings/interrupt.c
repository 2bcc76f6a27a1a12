/*
 * Ending Lua code that does not end by itself: Ctrl-C and other requests to end, the budget of
 * callbacks, time limits.
 *
 * There is no permanent count hook (it doubles the time of a tight loop). A signal's handler, on
 * the thread that is meant, puts a hook on the coroutine that runs there; the hook raises the
 * error. For callbacks a watchdog thread looks at a sequence number that every handler call raises;
 * a call that is still the same one after the budget gets such a signal. As handlers hold the
 * engine lock for as long as they run, at most one is watched at a time.
 *
 * Who may be ended where: code of scripts anywhere; the code that runs scripts (the scheduler, the
 * prompt, the launcher) nowhere, as it would lose its task or its prompt. It runs "shielded": a
 * signal that arrives there waits until the loop is asked for its next round. A coroutine begins
 * without the shield, and so does every callback but those made with loop.shielded.
 */
#include <errno.h>
#include <math.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/chardev/tty.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define SIG_INTERRUPT (SIGRTMIN + 3)
/* A handler that takes longer is what Ctrl-C is for. */
#define INTERRUPT_GRACE_NS (200 * NS_PER_MS)
/* What has caught the first error of a request to end gets one at every instruction. */
#define END_GRACE_NS      NS_PER_SEC
#define DEFAULT_BUDGET_NS (10 * NS_PER_SEC)

enum { /* bits of `pending` */
       PENDING_INT = 1 << SCRIPT_INT,
       PENDING_TERM = 1 << SCRIPT_TERM,
       PENDING_HUP = 1 << SCRIPT_HUP,
       PENDING_LIMIT = 1 << SCRIPT_SIGNALS,
       PENDING_SIGNALS = PENDING_LIMIT - 1,
};

static const struct {
    int number;
    const char *why;
} signal_table[SCRIPT_SIGNALS] = {
    [SCRIPT_INT] = { SIGINT, "interrupted" },
    [SCRIPT_TERM] = { SIGTERM, "ended by SIGTERM" },
    [SCRIPT_HUP] = { SIGHUP, "ended by SIGHUP" },
};

static struct {
    ScriptRef *fn;
    bool ends; /* the script that runs ends at once */
} handlers[SCRIPT_SIGNALS];

static int pending; /* atomic */

static struct {
    pthread_t thread;
    bool alive;
    bool quit;             /* atomic */
    bool idle;             /* atomic: asleep until the next handler call */
    sem_t wake;            /* posted by handler calls when idle, by signals, by stop */
    pthread_mutex_t mutex; /* leaf: keeps a thread alive while it is signalled */
    int64_t budget_ns;     /* atomic; 0: no limit */
    uint64_t seq;          /* atomic: raised by each outermost handler call */
    ScriptThread *active;  /* atomic: whose handler call runs */
    int64_t limit_at;      /* atomic; when the main thread's code is ended; 0: never */
    int limit_next;        /* atomic: RUN_END_*, what happens then */
    int limit_now;         /* atomic: the same, on its way to the main thread; RUN_ON: nothing */
    const char *limit_why; /* atomic; interned */
} watch = {
    .mutex = PTHREAD_MUTEX_INITIALIZER,
    .budget_ns = DEFAULT_BUDGET_NS,
};

/* What ended the main thread's code last, for who reports it. */
static struct {
    const char *why;
    char *traceback;
} ended;

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

bool script_signal_pending(void)
{
    return __atomic_load_n(&pending, __ATOMIC_ACQUIRE) != 0;
}

static void set_pending(int bits)
{
    __atomic_or_fetch(&pending, bits, __ATOMIC_RELEASE);
    main_loop_wakeup();
}

static void wake_watch(void)
{
    if (watch.alive) {
        sem_post(&watch.wake);
    }
}

/* ---- the hook that raises ------------------------------------------------------------------- */

/* The traceback at the first error: what catches it, or a chain of them, loses it. */
static void remember(lua_State *L, const ScriptThread *st)
{
    if (st == script_main_thread() && ended.why != st->why) {
        luaL_traceback(L, L, NULL, 0);
        g_free(ended.traceback);
        ended.traceback = g_strdup(lua_tostring(L, -1));
        ended.why = st->why;
        lua_pop(L, 1);
    }
}

static void interrupt_hook(lua_State *L, lua_Debug *ar)
{
    ScriptThread *st = script_self();
    if (!st || st->interrupt == RUN_ON) {
        lua_sethook(L, NULL, 0, 0);
        return;
    }
    if (st->shield) {
        lua_sethook(L, NULL, 0, 0);
        script_interrupt_over(st, false);
        return;
    }
    if (st->interrupt == RUN_END_ONCE) {
        st->interrupt = RUN_ON;
        st->by_signal = 0;
        lua_sethook(L, NULL, 0, 0);
    }
    remember(L, st);
    luaL_where(L, 0); /* what runs; in a hook its caller would be level 1 */
    lua_pushstring(L, st->why ? st->why : "interrupted");
    lua_concat(L, 2);
    lua_error(L);
}

static void set_interrupt_hook(ScriptThread *st)
{
    lua_State *L = st->running;
    if (L) {
        lua_sethook(L, interrupt_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                    1);
    }
}

static void interrupt_main(ScriptThread *st, int how, const char *why, bool by_signal)
{
    st->why = why;
    st->interrupt_depth = st->depth;
    st->interrupt = how;
    st->by_signal = by_signal;
    set_interrupt_hook(st);
}

/* The code that was meant has returned, or shielded code goes on. Ctrl-C that nothing was ended by
 * is not lost. */
void script_interrupt_over(ScriptThread *st, bool taken)
{
    const bool by_signal = st->by_signal;
    st->interrupt = RUN_ON;
    st->by_signal = 0;
    if (by_signal && !taken) {
        set_pending(PENDING_INT);
    }
}

void script_interrupt_after_coroutine(ScriptThread *st, bool failed)
{
    if (G_LIKELY(st->interrupt == RUN_ON)) {
        return;
    }
    if (__atomic_load_n(&watch.active, __ATOMIC_RELAXED) == st) {
        set_interrupt_hook(st); /* the callback is to end, not one of its coroutines */
    } else if (failed && st->interrupt == RUN_END_HOLD) {
        script_interrupt_over(st, true); /* a task has been ended: the scheduler goes on */
    } else if (st->shield) {
        script_interrupt_over(st, false);
    } else {
        set_interrupt_hook(st);
    }
}

/* ---- the shield --------------------------------------------------------------------------------
 */

/* Ctrl-C that came while shielded code ran in the middle of a script's is the script's. */
void script_shield_set(ScriptThread *st, int shield)
{
    st->shield = shield;
    if (G_UNLIKELY(script_signal_pending()) && !shield && !st->in_poll &&
        st == script_main_thread() && st->interrupt == RUN_ON &&
        (__atomic_fetch_and(&pending, ~PENDING_INT, __ATOMIC_ACQ_REL) & PENDING_INT)) {
        interrupt_main(st, RUN_END_ONCE, signal_table[SCRIPT_INT].why, true);
    }
}

static int shielded_call(lua_State *L)
{
    ScriptThread *st = script_self();
    int saved = st ? st->shield : 0;
    if (st) {
        st->shield = 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    if (st) {
        script_shield_set(st, saved);
    }
    return lua_gettop(L);
}

bool script_is_shielded(lua_State *L, int idx)
{
    return lua_tocfunction(L, idx) == shielded_call;
}

void script_push_shielded(lua_State *L, int idx)
{
    lua_pushvalue(L, idx);
    lua_pushcclosure(L, shielded_call, 1);
}

/* ---- the watchdog ------------------------------------------------------------------------------
 */

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

/* Nanoseconds until the main thread's time is over; that it is, is told to it. */
static int64_t watch_limit(int64_t now)
{
    int64_t at = __atomic_load_n(&watch.limit_at, __ATOMIC_ACQUIRE);
    if (at == 0) {
        return INT64_MAX;
    }
    if (now < at) {
        return at - now;
    }
    int how = __atomic_exchange_n(&watch.limit_next, RUN_END_HOLD, __ATOMIC_ACQ_REL);
    int64_t again = how == RUN_END_HOLD ? 0 : now + END_GRACE_NS;
    if (__atomic_compare_exchange_n(&watch.limit_at, &at, again, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&watch.limit_now, how, __ATOMIC_RELEASE);
        pthread_kill(script_main_thread()->thread, SIG_INTERRUPT);
    }
    return END_GRACE_NS;
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
        int64_t limit = watch_limit(now);
        int bits = __atomic_load_n(&pending, __ATOMIC_ACQUIRE) & PENDING_SIGNALS;
        if (seq != seen) {
            seen = seq;
            since = now;
            quiet = 0;
        }
        if (!st) {
            if (++quiet > 2 && limit == INT64_MAX) {
                __atomic_store_n(&watch.idle, true, __ATOMIC_SEQ_CST);
                if (!__atomic_load_n(&watch.active, __ATOMIC_SEQ_CST)) {
                    while (sem_wait(&watch.wake) == -1 && errno == EINTR) {
                    }
                }
                __atomic_store_n(&watch.idle, false, __ATOMIC_SEQ_CST);
                quiet = 0;
                continue;
            }
        } else if (bits && now - since >= INTERRUPT_GRACE_NS) {
            /* Ctrl-C has done its work; a request to end still ends the rest. */
            __atomic_and_fetch(&pending, ~PENDING_INT, __ATOMIC_ACQ_REL);
            watch_end(seen, bits & PENDING_TERM  ? signal_table[SCRIPT_TERM].why
                            : bits & PENDING_HUP ? signal_table[SCRIPT_HUP].why
                                                 : signal_table[SCRIPT_INT].why);
        } else if (budget > 0 && now - since >= budget) {
            watch_end(seen, "ran longer than its budget");
        }
        int64_t nap = budget > 0 ? CLAMP(budget / 4, NS_PER_MS, NS_PER_SEC) : NS_PER_SEC;
        watch_sleep(MIN(bits ? INTERRUPT_GRACE_NS : nap, limit));
    }
    return NULL;
}

/* On the main thread: its time is over. */
static void limit_reached(ScriptThread *st)
{
    int how = __atomic_exchange_n(&watch.limit_now, RUN_ON, __ATOMIC_ACQ_REL);
    if (how == RUN_ON) {
        return;
    }
    if (st->in_poll || !st->running) {
        set_pending(PENDING_LIMIT);
    } else if (!st->shield) {
        interrupt_main(st, how, __atomic_load_n(&watch.limit_why, __ATOMIC_ACQUIRE), false);
    }
}

static void on_interrupt_signal(int sig)
{
    ScriptThread *st = script_self();
    int saved = errno;

    if (st && st == script_main_thread()) {
        limit_reached(st);
    }
    if (st && st->interrupt != RUN_ON) {
        set_interrupt_hook(st);
    }
    errno = saved;
}

static void watch_start(void)
{
    struct sigaction sa = { .sa_handler = on_interrupt_signal, .sa_flags = SA_RESTART };
    sigset_t all, old;

    sigemptyset(&sa.sa_mask);
    sigaction(SIG_INTERRUPT, &sa, NULL);
    sem_init(&watch.wake, 0, 0);
    sigfillset(&all); /* inherited: no signal is handled on that thread */
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
        watch.alive = false; /* before the semaphore goes: a signal handler posts it */
        sem_destroy(&watch.wake);
        watch.quit = false;
        watch.limit_at = 0;
    }
    g_free(ended.traceback);
    ended.traceback = NULL;
    ended.why = NULL;
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

bool script_watch_enter(ScriptThread *st)
{
    if (__atomic_load_n(&watch.active, __ATOMIC_RELAXED)) {
        return false;
    }
    if (G_UNLIKELY(!watch.alive)) {
        watch_start();
    }
    __atomic_add_fetch(&watch.seq, 1, __ATOMIC_RELEASE);
    __atomic_store_n(&watch.active, st, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&watch.idle, __ATOMIC_SEQ_CST))) {
        sem_post(&watch.wake);
    }
    return true;
}

void script_watch_leave(ScriptThread *st)
{
    __atomic_store_n(&watch.active, NULL, __ATOMIC_RELEASE);
}

void binding_set_budget(double seconds)
{
    int64_t ns = seconds <= 0 || !isfinite(seconds)
                     ? 0
                     : (int64_t)(MIN(seconds, 1e9) * (double)NS_PER_SEC);
    __atomic_store_n(&watch.budget_ns, ns, __ATOMIC_RELAXED);
    wake_watch();
}

static void limit_at(int64_t at, int how, const char *why)
{
    __atomic_store_n(&watch.limit_why, why, __ATOMIC_RELEASE);
    __atomic_store_n(&watch.limit_next, how, __ATOMIC_RELEASE);
    __atomic_store_n(&watch.limit_at, at, __ATOMIC_RELEASE);
    if (at) {
        wake_watch();
    }
}

void script_limit(double seconds, const char *why)
{
    __atomic_store_n(&watch.limit_at, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&watch.limit_now, RUN_ON, __ATOMIC_RELEASE);
    __atomic_and_fetch(&pending, ~PENDING_LIMIT, __ATOMIC_ACQ_REL);
    if (seconds > 0) {
        if (!watch.alive) {
            watch_start();
        }
        limit_at(now_ns() + (int64_t)(MIN(seconds, 1e9) * (double)NS_PER_SEC), RUN_END_ONCE,
                 g_intern_string(why));
    }
}

const char *script_ended_by(const char **traceback)
{
    *traceback = ended.traceback;
    return ended.why;
}

void script_ended_forget(void)
{
    ended.why = NULL;
}

/* ---- signals ------------------------------------------------------------------------------------
 */

/* The hook that ends a script runs between Lua's instructions: a function in C that does not come
 * back (a pattern with exponential cost) never gets there, and the main loop waits for its lock.
 * So the third Ctrl-C that finds the first two unanswered ends the process. */
static bool is_deaf(const ScriptThread *main_thread)
{
    static uint64_t last_seq;
    static unsigned unanswered;
    const uint64_t seq = __atomic_load_n(&watch.seq, __ATOMIC_ACQUIRE);
    const bool same_call = __atomic_load_n(&watch.active, __ATOMIC_ACQUIRE) && seq == last_seq;
    const bool before = script_signal_pending() || same_call || main_thread->interrupt != RUN_ON;

    last_seq = seq;
    unanswered = before ? unanswered + 1 : 0;
    return unanswered >= 2;
}

static void end_process(int sig)
{
    static const char message[] = "vmlua: interrupted, without waiting for what runs\n";
    tty_restore_in_signal();
    script_pidfile_remove();
    ssize_t n = write(STDERR_FILENO, message, sizeof message - 1);
    (void)n;
    _exit(128 + sig);
}

static int64_t last_sigint;

static void end_running(ScriptThread *st, int which)
{
    const char *why = signal_table[which].why;
    int64_t now = now_ns();

    if (which == SCRIPT_INT) {
        /* Twice in a short time: the script catches errors in a loop. */
        bool again = last_sigint && now - last_sigint < 2 * NS_PER_SEC;
        last_sigint = now;
        interrupt_main(st, again ? RUN_END_HOLD : RUN_END_ONCE, why, true);
        return;
    }
    interrupt_main(st, watch.alive ? RUN_END_ONCE : RUN_END_HOLD, why, false);
    limit_at(now + END_GRACE_NS, RUN_END_HOLD, why);
}

static void on_signal(int sig)
{
    ScriptThread *st = script_main_thread();
    int saved = errno;
    int which = sig == SIGINT ? SCRIPT_INT : sig == SIGTERM ? SCRIPT_TERM : SCRIPT_HUP;

    if (!pthread_equal(pthread_self(), st->thread)) {
        pthread_kill(st->thread, sig);
    } else if (is_deaf(st)) {
        end_process(sig);
    } else {
        bool ends = st->running && !st->in_poll && !st->shield;
        if (ends && handlers[which].ends) {
            end_running(st, which);
        }
        if (!ends || which != SCRIPT_INT) {
            set_pending(1 << which);
            if (__atomic_load_n(&watch.active, __ATOMIC_RELAXED)) {
                wake_watch(); /* perhaps a callback on a vCPU thread loops */
            }
        }
    }
    errno = saved;
}

static void catch_signal(int which, bool on)
{
    struct sigaction sa = { .sa_handler = on ? on_signal : SIG_DFL, .sa_flags = SA_RESTART };
    sigemptyset(&sa.sa_mask);
    sigaction(signal_table[which].number, &sa, NULL);
}

void binding_install_sigint(void)
{
    handlers[SCRIPT_INT].ends = true;
    catch_signal(SCRIPT_INT, true);
}

ScriptRef *binding_on_signal(ScriptSignal which, ScriptRef *fn, bool ends)
{
    ENGINE_LOCK_ASSERT();
    ScriptRef *before = handlers[which].fn;
    handlers[which].fn = fn;
    handlers[which].ends = ends || which == SCRIPT_INT;
    if (which != SCRIPT_INT) {
        catch_signal(which, fn != NULL);
    }
    return before;
}

/* The line that runs is the one that Ctrl-C ended before, or it is not. */
void script_interrupt_answered(void)
{
    last_sigint = 0;
}

void binding_check_signals(lua_State *L)
{
    int bits = __atomic_exchange_n(&pending, 0, __ATOMIC_ACQ_REL);
    const ScriptThread *st = script_self();
    const char *why = NULL;

    if (G_LIKELY(!bits)) {
        return;
    }
    for (int i = 0; i < SCRIPT_SIGNALS; i++) {
        if (!(bits & 1 << i)) {
            continue;
        }
        if (handlers[i].fn && script_ref_push(L, handlers[i].fn)) {
            lua_call(L, 0, 1);
            if (lua_toboolean(L, -1) && !(st && st->shield)) {
                why = signal_table[i].why;
            }
            lua_pop(L, 1);
        } else {
            why = signal_table[i].why;
        }
    }
    if ((bits & PENDING_LIMIT) && !(st && st->shield)) {
        why = __atomic_load_n(&watch.limit_why, __ATOMIC_ACQUIRE);
    }
    if (why) {
        luaL_error(L, "%s", why);
    }
}
