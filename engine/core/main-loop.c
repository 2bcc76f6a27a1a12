/*
 * The main loop.
 *
 * Our poll function is the only place where the main thread gives up the engine lock between two
 * callbacks. It also refines GLib's timeout, which counts milliseconds, to the first timer's
 * nanosecond.
 */
#include "engine/core/main-loop.h"

#include <errno.h>
#include <glib-unix.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engine/core/core_priv.h"
#include "engine/core/lock.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/qom/module.h"

/* What the main thread does, so that a wake-up costs a system call only when it sleeps. */
enum { LOOP_RUNS, LOOP_SLEEPS, LOOP_WOKEN };

static struct {
    GMainContext *context;
    GSource *timers, *bottom_halves, *clock_set;
    GPollFD wake;
    int clock_set_fd;
    int state;           /* atomic */
    int64_t sleep_until; /* engine lock; CLOCK_MONOTONIC; INT64_MIN while not in poll */
    MainLoopGate *gates; /* engine lock, with the next three */
    unsigned gates_closed, gates_waiting, rounds;
    EngineCond gate_opened;
    bool gate_opened_ready;
} loop = { .wake.fd = -1, .sleep_until = INT64_MIN };

static __thread bool on_main_thread;

struct BottomHalf {
    void (*fn)(void *opaque);
    void *opaque;
    bool scheduled, once;
    uint64_t order;
    BottomHalf *next, **prev; /* while scheduled */
};

/* A leaf lock: nothing is called and no other lock taken while it is held. */
static pthread_mutex_t bh_mutex = PTHREAD_MUTEX_INITIALIZER;
static BottomHalf *bh_first, **bh_last = &bh_first;
static uint64_t bh_order;

GMainContext *main_loop_context(void)
{
    return loop.context;
}

bool main_loop_is_main_thread(void)
{
    return on_main_thread;
}

void main_loop_wakeup(void)
{
    if (__atomic_exchange_n(&loop.state, LOOP_WOKEN, __ATOMIC_SEQ_CST) == LOOP_SLEEPS) {
        int saved = errno; /* we may be in a signal handler */
        uint64_t one = 1;
        while (write(loop.wake.fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
        errno = saved;
    }
}

bool main_loop_sleeps(void)
{
    return loop.sleep_until != INT64_MIN;
}

void main_loop_deadline_moved(int64_t when)
{
    if (when < loop.sleep_until) {
        loop.sleep_until = when; /* one wake-up is enough for several earlier deadlines */
        main_loop_wakeup();
    }
}

/* ---- gates ---------------------------------------------------------------------------------- */

#define ROUNDS_MAX 256

void main_loop_gate_set(MainLoopGate *gate, bool closed)
{
    ENGINE_LOCK_ASSERT();
    if (gate->closed == closed) {
        return;
    }
    gate->closed = closed;
    if (closed) {
        loop.gates_closed++;
    } else if (--loop.gates_closed == 0) {
        engine_cond_broadcast(&loop.gate_opened);
    }
}

static void gate_stop_waiting(MainLoopGate *gate)
{
    if (gate->waiting) {
        gate->waiting = false;
        loop.gates_waiting--;
    }
}

void main_loop_gate_add(MainLoopGate *gate, void (*drained)(void *opaque), void *opaque)
{
    ENGINE_LOCK_ASSERT();
    if (!loop.gate_opened_ready) {
        engine_cond_init(&loop.gate_opened);
        loop.gate_opened_ready = true;
    }
    *gate = (MainLoopGate){ .drained = drained, .opaque = opaque, .next = loop.gates };
    loop.gates = gate;
}

void main_loop_gate_remove(MainLoopGate *gate)
{
    ENGINE_LOCK_ASSERT();
    MainLoopGate **p = &loop.gates;
    while (*p != gate) {
        p = &(*p)->next;
    }
    *p = gate->next;
    main_loop_gate_set(gate, false);
    gate_stop_waiting(gate);
}

void main_loop_gate_wait(MainLoopGate *gate)
{
    ENGINE_LOCK_ASSERT();
    main_loop_gate_set(gate, false);
    if (!gate->waiting) {
        gate->waiting = true;
        loop.gates_waiting++;
        loop.rounds = 0;
        main_loop_wakeup();
    }
}

/* Owners may not add or remove gates here. */
static void gates_drained(void)
{
    loop.rounds = 0;
    for (MainLoopGate *gate = loop.gates; gate; gate = gate->next) {
        if (gate->waiting) {
            gate_stop_waiting(gate);
            gate->drained(gate->opaque);
        }
    }
}

/* ---- poll ----------------------------------------------------------------------------------- */

static void loop_drain_wake(GPollFD *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (fds[i].fd == loop.wake.fd && fds[i].revents) {
            uint64_t count;
            while (read(loop.wake.fd, &count, sizeof(count)) < 0 && errno == EINTR) {
            }
        }
    }
}

static gboolean timers_due(GSource *source);
static gboolean bh_pending(GSource *source);

static int loop_poll(GPollFD *fds, unsigned n, int timeout_ms)
{
    G_STATIC_ASSERT(sizeof(GPollFD) == sizeof(struct pollfd));
    if (!on_main_thread) {
        return poll((struct pollfd *)fds, n, timeout_ms);
    }
    bool unlock = engine_may_unlock();
    int64_t until = engine_lock_held() ? clocks_next_deadline() : DEADLINE_NONE;
    int64_t now = monotonic_ns();
    if (timeout_ms >= 0) {
        until = MIN(until, now + timeout_ms * NS_PER_MS);
    }
    if (unlock && loop.gates_waiting) {
        until = now;
    }
    /* A wake-up since the last poll turns this one into a look; one that comes from here on finds
     * LOOP_SLEEPS and writes to the eventfd. */
    int runs = LOOP_RUNS;
    if (until > now && !__atomic_compare_exchange_n(&loop.state, &runs, LOOP_SLEEPS, false,
                                                    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        until = now;
    }
    int64_t left = MAX(until - now, 0);
    struct timespec ts = { .tv_sec = left / NS_PER_SEC, .tv_nsec = left % NS_PER_SEC };
    if (unlock) {
        loop.sleep_until = until;
        engine_unlock();
    }
    int r = ppoll((struct pollfd *)fds, n, until == DEADLINE_NONE ? NULL : &ts, NULL);
    int saved = errno;
    __atomic_exchange_n(&loop.state, LOOP_RUNS, __ATOMIC_SEQ_CST);
    if (unlock) {
        engine_lock_fair();
        loop.sleep_until = INT64_MIN;
        while (loop.gates_closed) {
            engine_cond_wait(&loop.gate_opened);
        }
        bool idle = r <= 0 && timeout_ms != 0 && !bh_pending(NULL) && !timers_due(NULL);
        if (loop.gates_waiting && (idle || ++loop.rounds > ROUNDS_MAX)) {
            gates_drained();
        }
    }
    if (r > 0) {
        loop_drain_wake(fds, n);
    }
    errno = saved;
    return r;
}

bool main_loop_iterate(bool block)
{
    g_assert(on_main_thread && engine_may_unlock());
    return g_main_context_iteration(loop.context, block);
}

/* ---- sources -------------------------------------------------------------------------------- */

static gboolean timers_due(GSource *source)
{
    int64_t first = clocks_next_deadline();
    return first != DEADLINE_NONE && first <= monotonic_ns();
}

static gboolean timers_prepare(GSource *source, int *timeout_ms)
{
    *timeout_ms = -1; /* loop_poll knows it better */
    return timers_due(source);
}

static gboolean timers_dispatch(GSource *source, GSourceFunc fn, void *opaque)
{
    clocks_run_due();
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs timers_funcs = {
    .prepare = timers_prepare,
    .check = timers_due,
    .dispatch = timers_dispatch,
};

static gboolean bh_pending(GSource *source)
{
    pthread_mutex_lock(&bh_mutex);
    bool pending = bh_first != NULL;
    pthread_mutex_unlock(&bh_mutex);
    return pending;
}

static gboolean bh_prepare(GSource *source, int *timeout_ms)
{
    *timeout_ms = -1;
    return bh_pending(source);
}

static void bh_unlink_locked(BottomHalf *bh)
{
    *bh->prev = bh->next;
    if (bh->next) {
        bh->next->prev = bh->prev;
    } else {
        bh_last = bh->prev;
    }
    bh->scheduled = false;
}

/* The first one if it was scheduled before `limit`; sets what to call. */
static bool bh_pop(uint64_t limit, void (**fn)(void *opaque), void **opaque)
{
    pthread_mutex_lock(&bh_mutex);
    BottomHalf *bh = bh_first;
    if (!bh || bh->order >= limit) {
        pthread_mutex_unlock(&bh_mutex);
        return false;
    }
    bh_unlink_locked(bh);
    *fn = bh->fn;
    *opaque = bh->opaque;
    bool once = bh->once;
    pthread_mutex_unlock(&bh_mutex);
    if (once) {
        g_free(bh);
    }
    return true;
}

static gboolean bh_dispatch(GSource *source, GSourceFunc unused, void *unused_opaque)
{
    void (*fn)(void *opaque);
    void *opaque;
    /* Those scheduled from here on wait for the next round: one that schedules itself again lets
     * other events in. */
    pthread_mutex_lock(&bh_mutex);
    uint64_t limit = bh_order;
    pthread_mutex_unlock(&bh_mutex);

    while (bh_pop(limit, &fn, &opaque)) {
        fn(opaque);
    }
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs bh_funcs = {
    .prepare = bh_prepare,
    .check = bh_pending,
    .dispatch = bh_dispatch,
};

static GSource *loop_add_source(GSourceFuncs *funcs, const char *name)
{
    GSource *source = g_source_new(funcs, sizeof(GSource));
    g_source_set_static_name(source, name);
    /* A callback may run a round of the loop itself: timers and bottom halves go on in it. */
    g_source_set_can_recurse(source, TRUE);
    g_source_attach(source, loop.context);
    return source;
}

GSource *main_loop_add_fd(int fd, GIOCondition cond, FdCallback fn, void *opaque)
{
    GSource *source = g_unix_fd_source_new(fd, cond);
    g_source_set_callback(source, G_SOURCE_FUNC(fn), opaque, NULL);
    g_source_attach(source, loop.context);
    return source;
}

/* ---- bottom halves -------------------------------------------------------------------------- */

BottomHalf *bh_new(void (*fn)(void *opaque), void *opaque)
{
    BottomHalf *bh = g_new0(BottomHalf, 1);
    bh->fn = fn;
    bh->opaque = opaque;
    return bh;
}

void bh_schedule(BottomHalf *bh)
{
    pthread_mutex_lock(&bh_mutex);
    bool was_scheduled = bh->scheduled;
    if (!was_scheduled) {
        bh->scheduled = true;
        bh->order = bh_order++;
        bh->next = NULL;
        bh->prev = bh_last;
        *bh_last = bh;
        bh_last = &bh->next;
    }
    pthread_mutex_unlock(&bh_mutex);
    if (!was_scheduled && !on_main_thread) {
        main_loop_wakeup();
    }
}

void bh_cancel(BottomHalf *bh)
{
    ENGINE_LOCK_ASSERT();
    pthread_mutex_lock(&bh_mutex);
    if (bh->scheduled) {
        bh_unlink_locked(bh);
    }
    pthread_mutex_unlock(&bh_mutex);
}

void bh_free(BottomHalf *bh)
{
    if (bh) {
        bh_cancel(bh);
        g_free(bh);
    }
}

void bh_once(void (*fn)(void *opaque), void *opaque)
{
    BottomHalf *bh = bh_new(fn, opaque);
    bh->once = true;
    bh_schedule(bh);
}

/* ---- set-up --------------------------------------------------------------------------------- */

static gboolean host_clock_was_set(int fd, GIOCondition cond, void *opaque)
{
    uint64_t expirations;
    /* Fails with ECANCELED when the clock was set; either way the next poll computes anew. */
    return read(fd, &expirations, sizeof(expirations)) < 0 && errno != ECANCELED && errno != EAGAIN
               ? G_SOURCE_REMOVE
               : G_SOURCE_CONTINUE;
}

/* Timers of the host clock wait for a wall time: when somebody sets that clock, a poll under way
 * sleeps for the wrong time and must be woken. */
static void loop_watch_host_clock(void)
{
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    struct itimerspec far = { .it_value.tv_sec = INT64_C(1) << 33 };
    if (fd < 0) {
        return; /* then they are late after such a jump, no worse */
    }
    if (timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far, NULL) < 0) {
        close(fd);
        return;
    }
    loop.clock_set = main_loop_add_fd(fd, G_IO_IN, host_clock_was_set, NULL);
    loop.clock_set_fd = fd;
}

void main_loop_init(void)
{
    g_assert(!loop.context);
    on_main_thread = true;
    rcu_thread_register();
    log_start_time();
    module_call_init(MODULE_INIT_TRACE);
    module_call_init(MODULE_INIT_QOM);

    loop.context = g_main_context_ref(g_main_context_default());
    loop.sleep_until = INT64_MIN;
    loop.wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (loop.wake.fd < 0) {
        g_error("eventfd: %s", g_strerror(errno));
    }
    loop.wake.events = G_IO_IN;
    g_main_context_add_poll(loop.context, &loop.wake, G_PRIORITY_HIGH);
    g_main_context_set_poll_func(loop.context, loop_poll);
    loop.timers = loop_add_source(&timers_funcs, "timers");
    loop.bottom_halves = loop_add_source(&bh_funcs, "bottom halves");
    loop_watch_host_clock();
    /* The kernel rounds ppoll's timeout up by this, 50 µs unless told otherwise. */
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
    engine_lock();
}

static void loop_drop_source(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

void main_loop_finalize(void)
{
    g_assert(on_main_thread && loop.context);
    /* Deferred work may schedule bottom halves and these defer again: a few rounds settle it. */
    for (int round = 0; round < 16; round++) {
        bh_dispatch(NULL, NULL, NULL);
        engine_unlock();
        rcu_drain();
        engine_lock();
        if (!bh_pending(NULL)) {
            break;
        }
    }
    loop_drop_source(&loop.timers);
    loop_drop_source(&loop.bottom_halves);
    if (loop.clock_set) {
        loop_drop_source(&loop.clock_set);
        close(loop.clock_set_fd);
    }
    g_main_context_remove_poll(loop.context, &loop.wake);
    g_main_context_set_poll_func(loop.context, NULL);
    close(loop.wake.fd);
    loop.wake.fd = -1;
    g_main_context_unref(loop.context);
    loop.context = NULL;
    log_flush_suppressed();
    engine_unlock();
    rcu_thread_unregister();
    on_main_thread = false;
}
