/*
 * The timer of a local APIC (SDM 3A 11.5.4): one-shot and periodic, counting nanoseconds of virtual
 * time divided by the divide configuration, and TSC-deadline.
 *
 * The count is computed when read. Periods shorter than 20 us are seen at most that often: a guest
 * must not keep the main loop from all else.
 */
#include "engine/hw/intc/apic-priv.h"

#define MIN_PERIOD_NS 20000

static int64_t apic_now(LocalApic *a)
{
    return clock_now(device_clock(&a->set->parent));
}

static int64_t period(const LocalApic *a)
{
    return a->r.initial_count * apic_state_divisor(&a->r);
}

/* When the guest's TSC reaches `tsc`, in virtual time. */
static int64_t tsc_to_ns(const LocalApic *a, uint64_t tsc)
{
    /* Values are 64-bit and wrap: a deadline that is far ahead by it has passed. */
    uint64_t ticks = tsc - a->r.tsc_offset;
    uint32_t khz = a->r.tsc_khz ? a->r.tsc_khz : a->set->tsc_khz;
    unsigned __int128 ns = (unsigned __int128)ticks * 1000000u / khz;

    if (ticks >> 63) {
        return 0;
    }
    /* Round up: never early. */
    if ((unsigned __int128)ticks * 1000000u % khz) {
        ns++;
    }
    return ns > CLOCK_MAX ? CLOCK_MAX : (int64_t)ns;
}

/* The next expiry after `now`; -1: none. */
static int64_t next_expiry(const LocalApic *a, int64_t now)
{
    int64_t length;

    switch (apic_timer_mode(a)) {
    case TIMER_TSC_DEADLINE:
        return a->r.tsc_deadline ? tsc_to_ns(a, a->r.tsc_deadline) : -1;
    case TIMER_PERIODIC:
        length = period(a);
        if (!length) {
            return -1;
        }
        return a->r.timer_start + ((now - a->r.timer_start) / length + 1) * length;
    case TIMER_ONE_SHOT:
        length = period(a);
        return length && now < a->r.timer_start + length ? a->r.timer_start + length : -1;
    default:
        return -1;
    }
}

void apic_timer_rearm(LocalApic *a)
{
    int64_t at = next_expiry(a, apic_now(a));

    if (at < 0 || at > CLOCK_MAX) {
        timer_disarm(&a->timer);
        return;
    }
    if (apic_timer_mode(a) == TIMER_PERIODIC) {
        at = MAX(at, a->r.timer_fired + MIN_PERIOD_NS);
    }
    timer_arm(&a->timer, at);
}

static void expired(void *opaque)
{
    LocalApic *a = opaque;

    if (a->id >= a->set->cpus) {
        return; /* a stream that was refused has armed it */
    }
    a->r.timer_fired = apic_now(a);
    if (apic_timer_mode(a) == TIMER_TSC_DEADLINE) {
        a->r.tsc_deadline = 0;
    }
    apic_lvt_deliver(a, LVT_TIMER);
    apic_timer_rearm(a);
}

void apic_timer_setup(LocalApic *a)
{
    timer_setup(&a->timer, device_clock(&a->set->parent), expired, a);
}

uint32_t apic_timer_count(LocalApic *a)
{
    int64_t e = apic_now(a) - a->r.timer_start, length = period(a);

    if (!length || apic_timer_mode(a) >= TIMER_TSC_DEADLINE) {
        return 0;
    }
    if (apic_timer_mode(a) == TIMER_PERIODIC) {
        e %= length;
    } else if (e >= length) {
        return 0;
    }
    return a->r.initial_count - (uint32_t)(MAX(e, 0) / apic_state_divisor(&a->r));
}

void apic_timer_load(LocalApic *a, uint32_t count)
{
    if (apic_timer_mode(a) == TIMER_TSC_DEADLINE) {
        return; /* writes of the count are ignored in this mode */
    }
    a->r.initial_count = count;
    a->r.timer_start = apic_now(a);
    apic_timer_rearm(a);
}

/* The count stays what it is; from now on it moves at the new rate. */
void apic_timer_set_divide(LocalApic *a, uint32_t value)
{
    uint32_t left = apic_timer_count(a);

    a->r.divide = value & 0xb;
    if (a->r.initial_count) {
        a->r.timer_start = apic_now(a) - (a->r.initial_count - left) * apic_state_divisor(&a->r);
    }
    apic_timer_rearm(a);
}

void apic_timer_set_lvt(LocalApic *a, uint32_t value)
{
    unsigned old = apic_timer_mode(a);

    a->r.lvt[LVT_TIMER] = value;
    if ((old == TIMER_TSC_DEADLINE) != (apic_timer_mode(a) == TIMER_TSC_DEADLINE)) {
        /* Changing to or from this mode disarms the timer. */
        a->r.initial_count = 0;
        a->r.tsc_deadline = 0;
    }
    if (old != apic_timer_mode(a)) {
        apic_timer_rearm(a);
    }
}

void apic_timer_set_deadline(LocalApic *a, uint64_t tsc)
{
    if (apic_timer_mode(a) == TIMER_TSC_DEADLINE) {
        a->r.tsc_deadline = tsc;
        apic_timer_rearm(a);
    }
}
