/*
 * Clocks and timers. Times are int64_t nanoseconds.
 *
 * CLOCK_KIND_REALTIME  monotonic time of the host, never stops
 * CLOCK_KIND_HOST      wall time of the host (may jump)
 * CLOCK_KIND_VIRTUAL   time of one machine: stops while the machine is paused, is saved and
 * restored with it. Under an accelerator with icount it is a count of executed instructions.
 * realtime and host exist once a process, virtual once a machine.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum { CLOCK_KIND_VIRTUAL, CLOCK_KIND_HOST, CLOCK_KIND_REALTIME } ClockKind;
typedef struct Clock Clock;
typedef void (*TimerFn)(void *opaque);

Clock *clock_realtime(void);
Clock *clock_host(void);
/* A stopped virtual clock at 0. Freed with clock_free, after its timers are gone (a timer left
 * behind is disarmed). */
Clock *clock_new_virtual(void);
void clock_free(Clock *clock);
ClockKind clock_kind(const Clock *clock);
int64_t clock_now(Clock *clock);        /* any thread, lock-free */
void clock_start(Clock *virtual_clock); /* engine lock; both do nothing when already so */
void clock_stop(Clock *virtual_clock);
bool clock_running(const Clock *clock);
/* Engine lock; for restore: timers are re-evaluated. `now` may come from a hostile stream: it is
 * cut to [0, CLOCK_MAX]. */
void clock_set(Clock *virtual_clock, int64_t now);
#define CLOCK_MAX (INT64_MAX / 4) /* 73 years */
/* icount: from now on the time is what `now` returns (NULL: back to host time, without a jump).
 * The main loop then leaves this clock alone: its user calls clock_run_timers when clock_deadline
 * is reached. `deadline_changed` (may be NULL) is told when the earliest timer moves. clock_set
 * moves such a clock by an offset; start and stop do not change its time. While no vCPU runs. */
void clock_set_source(Clock *virtual_clock, int64_t (*now)(void *opaque),
                      void (*deadline_changed)(void *opaque), void *opaque);
/* When a timer should have fired, if that was more than `by` ns before `now` (the main loop is
 * late); else -1. Any thread, lock-free; -1 of a clock with a source. */
int64_t clock_late(const Clock *clock, int64_t now, int64_t by);
int64_t clock_deadline(Clock *clock); /* of its first timer; -1: none. Engine lock */
/* Fires what is due; the main loop does this for clocks on host time. Engine lock. A stopped clock
 * fires nothing. Callbacks may arm, disarm and free any timer, and free the clock. */
void clock_run_timers(Clock *clock);

/* Embedded in its owner. Callbacks run under the engine lock, in order of deadline, on the main
 * thread (with clock_set_source: where its user calls clock_run_timers). A timer fires once for
 * each time it is armed, never early. */
typedef struct Timer {
    Clock *clock;
    TimerFn fn;
    void *opaque;
    int64_t expire;      /* ns; -1 when not armed */
    unsigned heap_index; /* private */
    uint64_t order;      /* private: timers of one deadline fire in the order they were armed */
} Timer;
void timer_setup(Timer *timer, Clock *clock, TimerFn fn, void *opaque);
void timer_arm(Timer *timer, int64_t expire_ns); /* engine lock; re-arming moves it; < 0 means 0 */
void timer_disarm(Timer *timer);                 /* engine lock; fine when not armed */
static inline bool timer_armed(const Timer *timer)
{
    return timer->expire >= 0;
}
