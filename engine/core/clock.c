/* Clocks and timers: one heap of timers a clock. */
#include "engine/core/clock.h"

#include <glib.h>
#include <time.h>

#include "engine/core/core_priv.h"
#include "engine/core/lock.h"
#include "engine/core/units.h"

typedef struct ClockSource {
    int64_t (*now)(void *opaque);
    void (*deadline_changed)(void *opaque);
    void *opaque;
    int64_t offset; /* atomic */
} ClockSource;

#define STATE_CHANGES INT64_MIN

struct Clock {
    ClockKind kind;
    /* Of a virtual clock on host time, atomic, so that readers need no lock: (now << 1) while it
     * stands, ((now - monotonic) << 1 | 1) while it runs, STATE_CHANGES in between. */
    int64_t state;
    ClockSource *source;  /* atomic; NULL: host time */
    GSList *past_sources; /* readers may still look at them */
    Timer **heap;
    unsigned n, capacity;
    int64_t first; /* atomic: expiry of the first timer; CLOCK_MAX: none */
    uint64_t order;
    unsigned runs; /* clock_run_timers up the stack */
    bool freed;    /* by a callback of such a run */
    struct Clock *next;
};

static Clock host_clock = { .kind = CLOCK_KIND_HOST, .first = CLOCK_MAX };
static Clock realtime_clock = { .kind = CLOCK_KIND_REALTIME,
                                .first = CLOCK_MAX,
                                .next = &host_clock };
static Clock *clocks = &realtime_clock; /* engine lock */
static unsigned long clocks_changes;

static int64_t timespec_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

int64_t monotonic_ns(void)
{
    return timespec_ns(CLOCK_MONOTONIC);
}

Clock *clock_realtime(void)
{
    return &realtime_clock;
}

Clock *clock_host(void)
{
    return &host_clock;
}

ClockKind clock_kind(const Clock *clock)
{
    return clock->kind;
}

static int64_t virtual_now(const Clock *c)
{
    ClockSource *source = __atomic_load_n(&c->source, __ATOMIC_ACQUIRE);
    if (source) {
        return source->now(source->opaque) + __atomic_load_n(&source->offset, __ATOMIC_RELAXED);
    }
    for (;;) {
        int64_t state = __atomic_load_n(&c->state, __ATOMIC_ACQUIRE);
        if (state == STATE_CHANGES) {
            continue;
        }
        if (!(state & 1)) {
            return state >> 1;
        }
        /* A clock that was stopped in between would be shown beyond the time at which it stands. */
        int64_t now = (state >> 1) + monotonic_ns();
        if (__atomic_load_n(&c->state, __ATOMIC_ACQUIRE) == state) {
            return now;
        }
    }
}

int64_t clock_now(Clock *clock)
{
    switch (clock->kind) {
    case CLOCK_KIND_VIRTUAL:
        return virtual_now(clock);
    case CLOCK_KIND_HOST:
        return timespec_ns(CLOCK_REALTIME);
    default:
        return monotonic_ns();
    }
}

bool clock_running(const Clock *clock)
{
    return clock->kind != CLOCK_KIND_VIRTUAL ||
           (__atomic_load_n(&clock->state, __ATOMIC_RELAXED) & 1);
}

/* As CLOCK_MONOTONIC; DEADLINE_NONE when the main loop has nothing to do for this clock. */
static int64_t clock_host_deadline(Clock *c)
{
    if (c->n == 0 || c->source || !clock_running(c)) {
        return DEADLINE_NONE;
    }
    int64_t expire = c->heap[0]->expire, when;
    if (c->kind == CLOCK_KIND_REALTIME) {
        return expire;
    }
    int64_t left = expire - clock_now(c);
    return __builtin_add_overflow(left, monotonic_ns(), &when) ? DEADLINE_NONE : when;
}

int64_t clocks_next_deadline(void)
{
    int64_t first = DEADLINE_NONE;
    for (Clock *c = clocks; c; c = c->next) {
        first = MIN(first, clock_host_deadline(c));
    }
    return first;
}

static void clock_deadline_moved(Clock *c)
{
    if (c->source) {
        if (c->source->deadline_changed) {
            c->source->deadline_changed(c->source->opaque);
        }
    } else if (main_loop_sleeps()) {
        int64_t when = clock_host_deadline(c);
        if (when != DEADLINE_NONE) {
            main_loop_deadline_moved(when);
        }
    }
}

/* ---- the heap ----------------------------------------------------------------------------- */

static bool timer_before(const Timer *a, const Timer *b)
{
    return a->expire != b->expire ? a->expire < b->expire : a->order < b->order;
}

static void heap_put(Clock *c, unsigned i, Timer *t)
{
    c->heap[i] = t;
    t->heap_index = i;
}

static void heap_up(Clock *c, unsigned i, Timer *t)
{
    while (i > 0 && timer_before(t, c->heap[(i - 1) / 2])) {
        heap_put(c, i, c->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(c, i, t);
}

static void heap_down(Clock *c, unsigned i, Timer *t)
{
    for (;;) {
        unsigned child = 2 * i + 1;
        if (child + 1 < c->n && timer_before(c->heap[child + 1], c->heap[child])) {
            child++;
        }
        if (child >= c->n || !timer_before(c->heap[child], t)) {
            break;
        }
        heap_put(c, i, c->heap[child]);
        i = child;
    }
    heap_put(c, i, t);
}

static void heap_remove(Clock *c, Timer *t)
{
    unsigned i = t->heap_index;
    Timer *last = c->heap[--c->n];
    if (last == t) {
        return;
    }
    if (i > 0 && timer_before(last, c->heap[(i - 1) / 2])) {
        heap_up(c, i, last);
    } else {
        heap_down(c, i, last);
    }
}

static void heap_changed(Clock *c)
{
    __atomic_store_n(&c->first, c->n ? c->heap[0]->expire : CLOCK_MAX, __ATOMIC_RELAXED);
}

int64_t clock_late(const Clock *c, int64_t now, int64_t by)
{
    int64_t first = __atomic_load_n(&c->first, __ATOMIC_RELAXED);

    return now - first > by && clock_running(c) && !__atomic_load_n(&c->source, __ATOMIC_RELAXED)
               ? first
               : -1;
}

void timer_setup(Timer *timer, Clock *clock, TimerFn fn, void *opaque)
{
    *timer = (Timer){ .clock = clock, .fn = fn, .opaque = opaque, .expire = -1 };
}

void timer_arm(Timer *timer, int64_t expire_ns)
{
    ENGINE_LOCK_ASSERT();
    Clock *c = timer->clock;
    expire_ns = MAX(expire_ns, 0);
    int64_t first = c->n ? c->heap[0]->expire : -1;
    bool armed = timer_armed(timer);

    if (armed && expire_ns == timer->expire) {
        return;
    }
    if (!armed && c->n == c->capacity) {
        c->capacity = c->capacity ? c->capacity * 2 : 8;
        c->heap = g_renew(Timer *, c->heap, c->capacity);
    }
    bool later = armed && expire_ns > timer->expire;
    timer->expire = expire_ns;
    timer->order = c->order++;
    if (!armed) {
        heap_up(c, c->n++, timer);
    } else if (later) {
        heap_down(c, timer->heap_index, timer);
    } else {
        heap_up(c, timer->heap_index, timer);
    }
    heap_changed(c);
    if (c->heap[0]->expire != first) {
        clock_deadline_moved(c);
    }
}

void timer_disarm(Timer *timer)
{
    ENGINE_LOCK_ASSERT();
    if (!timer_armed(timer)) {
        return;
    }
    Clock *c = timer->clock;
    bool was_first = c->heap[0] == timer;
    heap_remove(c, timer);
    timer->expire = -1;
    heap_changed(c);
    /* The main loop only wakes up once for nothing; a source stops its user at the deadline. */
    if (was_first && c->source) {
        clock_deadline_moved(c);
    }
}

int64_t clock_deadline(Clock *clock)
{
    ENGINE_LOCK_ASSERT();
    return clock->n ? clock->heap[0]->expire : -1;
}

static void clock_destroy(Clock *c)
{
    g_slist_free_full(c->past_sources, g_free);
    g_free(c->source);
    g_free(c->heap);
    g_free(c);
}

void clock_run_timers(Clock *clock)
{
    ENGINE_LOCK_ASSERT();
    if (clock->n == 0 || (!clock->source && !clock_running(clock))) {
        return;
    }
    int64_t now = clock_now(clock);
    /* Timers that a callback arms for a time that has passed fire in this run too, in order, but
     * one that always does so may not keep the main loop here. */
    unsigned budget = 2 * clock->n + 64;

    clock->runs++;
    while (clock->n && !clock->freed && clock->heap[0]->expire <= now && budget-- > 0) {
        Timer *t = clock->heap[0];
        heap_remove(clock, t);
        t->expire = -1;
        heap_changed(clock);
        t->fn(t->opaque);
    }
    if (--clock->runs == 0 && clock->freed) {
        clock_destroy(clock);
    } else if (!clock->freed && clock->source) {
        clock_deadline_moved(clock);
    }
}

void clocks_run_due(void)
{
    unsigned long changes = clocks_changes;
    for (Clock *c = clocks; c; c = c->next) {
        if (clock_host_deadline(c) != DEADLINE_NONE) {
            clock_run_timers(c);
        }
        if (changes != clocks_changes) {
            return; /* c may be gone; what is still due is found again at the next round */
        }
    }
}

/* ---- virtual clocks ----------------------------------------------------------------------- */

Clock *clock_new_virtual(void)
{
    ENGINE_LOCK_ASSERT();
    Clock *c = g_new0(Clock, 1);
    c->kind = CLOCK_KIND_VIRTUAL;
    c->first = CLOCK_MAX;
    c->next = clocks;
    clocks = c;
    clocks_changes++;
    return c;
}

void clock_free(Clock *clock)
{
    if (!clock) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    g_assert(clock->kind == CLOCK_KIND_VIRTUAL);
    Clock **p = &clocks;
    while (*p != clock) {
        p = &(*p)->next;
    }
    *p = clock->next;
    clocks_changes++;
    for (unsigned i = 0; i < clock->n; i++) {
        clock->heap[i]->expire = -1;
    }
    clock->n = 0;
    if (clock->runs) {
        clock->freed = true;
    } else {
        clock_destroy(clock);
    }
}

/* Readers wait from before the host's time is taken until the new state stands: none can have
 * returned a later time than the one at which the clock goes on. */
static int64_t virtual_change_begin(Clock *c, int64_t *monotonic)
{
    int64_t state = c->state;
    __atomic_store_n(&c->state, STATE_CHANGES, __ATOMIC_SEQ_CST);
    *monotonic = monotonic_ns();
    return (state >> 1) + (state & 1 ? *monotonic : 0);
}

static void virtual_change_end(Clock *c, int64_t now, bool run, int64_t monotonic)
{
    int64_t state = run ? ((now - monotonic) * 2) | 1 : now * 2;
    __atomic_store_n(&c->state, state, __ATOMIC_RELEASE);
}

static void virtual_set(Clock *c, int64_t now, bool run)
{
    int64_t monotonic;
    virtual_change_begin(c, &monotonic);
    virtual_change_end(c, now, run, monotonic);
}

static void virtual_run(Clock *c, bool run)
{
    int64_t monotonic;
    int64_t now = virtual_change_begin(c, &monotonic);
    virtual_change_end(c, now, run, monotonic);
}

void clock_start(Clock *virtual_clock)
{
    ENGINE_LOCK_ASSERT();
    if (!clock_running(virtual_clock)) {
        virtual_run(virtual_clock, true);
        clock_deadline_moved(virtual_clock);
    }
}

void clock_stop(Clock *virtual_clock)
{
    ENGINE_LOCK_ASSERT();
    if (virtual_clock->kind == CLOCK_KIND_VIRTUAL && clock_running(virtual_clock)) {
        virtual_run(virtual_clock, false);
    }
}

void clock_set(Clock *virtual_clock, int64_t now)
{
    ENGINE_LOCK_ASSERT();
    g_assert(virtual_clock->kind == CLOCK_KIND_VIRTUAL);
    now = CLAMP(now, 0, CLOCK_MAX);
    ClockSource *source = virtual_clock->source;
    if (source) {
        __atomic_store_n(&source->offset, now - source->now(source->opaque), __ATOMIC_RELAXED);
    } else {
        virtual_set(virtual_clock, now, clock_running(virtual_clock));
    }
    clock_deadline_moved(virtual_clock);
}

void clock_set_source(Clock *virtual_clock, int64_t (*now)(void *opaque),
                      void (*deadline_changed)(void *opaque), void *opaque)
{
    ENGINE_LOCK_ASSERT();
    g_assert(virtual_clock->kind == CLOCK_KIND_VIRTUAL);
    ClockSource *old = virtual_clock->source, *new = NULL;
    if (now) {
        new = g_new0(ClockSource, 1);
        new->now = now;
        new->deadline_changed = deadline_changed;
        new->opaque = opaque;
    } else if (old) {
        virtual_set(virtual_clock, virtual_now(virtual_clock), clock_running(virtual_clock));
    }
    __atomic_store_n(&virtual_clock->source, new, __ATOMIC_RELEASE);
    if (old) {
        virtual_clock->past_sources = g_slist_prepend(virtual_clock->past_sources, old);
    }
    clock_deadline_moved(virtual_clock);
}
