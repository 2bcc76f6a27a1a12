/* The event hub on its own: filters, order, limits, removal, arming, rings, threads. */
#include <check.h>
#include <pthread.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/cpu/event.h"
#include "tests/unit/run_suite.h"

typedef struct ArmLog {
    unsigned armed, disarmed;
    bool refuse;
    int64_t time;
} ArmLog;

static EventHub *hub;
static ArmLog arm_log;

static bool test_arm(void *opaque, const EventFilter *f, char **how, GError **error)
{
    ck_assert_ptr_eq(opaque, &arm_log);
    if (arm_log.refuse) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "cannot watch %s",
                         event_source_name(f->source));
    }
    arm_log.armed++;
    *how = g_strdup_printf("armed %u", arm_log.armed);
    return true;
}

static void test_disarm(void *opaque, const EventFilter *f)
{
    arm_log.disarmed++;
}

static int64_t test_now(void *opaque)
{
    return __atomic_add_fetch(&arm_log.time, 1, __ATOMIC_RELAXED);
}

static void setup(void)
{
    const EventArmOps ops = { test_arm, test_disarm, test_now, &arm_log };

    main_loop_init();
    memset(&arm_log, 0, sizeof(arm_log));
    hub = event_hub_new(&ops);
}

static void teardown(void)
{
    event_hub_free(hub);
    hub = NULL;
    ck_assert_uint_eq(arm_log.armed, arm_log.disarmed);
    main_loop_finalize();
}

/* A hook that keeps what it saw. */
typedef struct Seen {
    unsigned calls, destroyed;
    EventAction action;
    EventRecord last;
    unsigned order;    /* position among all calls */
    EventHook *remove; /* from inside the call */
    EventHook *self;
    bool in_call;
} Seen;

static unsigned call_order;

static EventAction see(void *opaque, VCpu *cpu, EventRecord *x)
{
    Seen *s = opaque;

    ck_assert(engine_lock_held());
    ck_assert_uint_eq(s->destroyed, 0);
    s->in_call = true;
    s->calls++;
    s->order = ++call_order;
    s->last = *x;
    if (s->remove) {
        event_hook_remove(g_steal_pointer(&s->remove));
    }
    s->in_call = false;
    return s->action;
}

static void gone(void *opaque)
{
    Seen *s = opaque;

    ck_assert(engine_lock_held());
    ck_assert(!s->in_call);
    s->destroyed++;
}

static EventHook *add(Seen *s, EventFilter f)
{
    GError *error = NULL;
    EventHook *h = event_hook_add(hub, &f, see, s, gone, &error);

    ck_assert_msg(h, "%s", error ? error->message : "?");
    s->self = h;
    return h;
}

static unsigned fire(EventSource source, uint64_t addr, uint64_t value, uint8_t size, bool write)
{
    EventRecord x = {
        .source = source, .addr = addr, .value = value, .size = size, .write = write
    };

    return event_hub_fire(hub, NULL, &x);
}

static unsigned out(uint64_t port, uint64_t value, uint8_t size)
{
    return fire(EVENT_PIO, port, value, size, true);
}

#define PIO(...) ((EventFilter){ .source = EVENT_PIO, .cpu = -1, ##__VA_ARGS__ })

START_TEST(nothing_is_armed_until_a_hook_is_there)
{
    static Seen s = { 0 };
    EventHook *h;

    for (unsigned i = 0; i < EVENT_SOURCES; i++) {
        ck_assert(!event_hub_armed(hub, i));
    }
    h = add(&s, PIO(.addr = 0x80));
    ck_assert(event_hub_armed(hub, EVENT_PIO));
    ck_assert(!event_hub_armed(hub, EVENT_MMIO));
    event_hook_remove(h);
    ck_assert(!event_hub_armed(hub, EVENT_PIO));
    ck_assert_uint_eq(s.destroyed, 1);
    ck_assert_uint_eq(out(0x80, 1, 1), EVENT_CONTINUE);
    ck_assert_uint_eq(s.calls, 0);
}
END_TEST

START_TEST(a_range_matches_every_access_that_touches_it)
{
    static Seen s = { 0 };

    add(&s, PIO(.addr = 0x80, .len = 4));
    out(0x7f, 0, 1);
    out(0x84, 0, 1);
    ck_assert_uint_eq(s.calls, 0);
    out(0x80, 0, 1);
    out(0x83, 0, 1);
    out(0x7e, 0, 4); /* 7e 7f 80 81 */
    out(0x83, 0, 2);
    ck_assert_uint_eq(s.calls, 4);
}
END_TEST

START_TEST(ranges_at_the_end_of_the_space_do_not_wrap)
{
    static Seen all = { 0 }, last = { 0 };
    EventFilter f = { .source = EVENT_MMIO, .addr = 1, .len = UINT64_MAX, .cpu = -1 };

    add(&all, f);
    f.addr = UINT64_MAX;
    f.len = 1;
    add(&last, f);
    fire(EVENT_MMIO, 0, 0, 1, true);
    ck_assert_uint_eq(all.calls, 0);
    fire(EVENT_MMIO, UINT64_MAX - 3, 0, 4, true);
    ck_assert_uint_eq(all.calls, 1);
    ck_assert_uint_eq(last.calls, 1);
    fire(EVENT_MMIO, UINT64_MAX, 0, 8, true);
    ck_assert_uint_eq(last.calls, 2);
    fire(EVENT_MMIO, UINT64_MAX - 8, 0, 4, true);
    ck_assert_uint_eq(last.calls, 2);
}
END_TEST

START_TEST(sizes_directions_values_and_vcpus_are_matched)
{
    static Seen size = { 0 }, writes = { 0 }, reads = { 0 }, value = { 0 }, cpu1 = { 0 };
    EventFilter f = PIO(.addr = 1);
    EventRecord x = { .source = EVENT_PIO, .cpu = 1, .addr = 1, .size = 1 };

    add(&size, PIO(.addr = 1, .sizes = 2 | 4));
    add(&writes, PIO(.addr = 1, .directions = EVENT_WRITES));
    add(&reads, PIO(.addr = 1, .directions = EVENT_READS));
    add(&value, PIO(.addr = 1, .mask = 0xf0, .value = 0x50));
    f.cpu = 1;
    add(&cpu1, f);
    out(1, 0x5a, 1);
    out(1, 0x6a, 2);
    out(1, 0x15a, 4);
    fire(EVENT_PIO, 1, 0, 1, false);
    ck_assert_uint_eq(size.calls, 2);
    ck_assert_uint_eq(writes.calls, 3);
    ck_assert_uint_eq(reads.calls, 1);
    ck_assert_uint_eq(value.calls, 3); /* two writes, and a read has no value yet */
    ck_assert_uint_eq(cpu1.calls, 0);
    event_hub_fire(hub, NULL, &x);
    ck_assert_uint_eq(cpu1.calls, 1);
}
END_TEST

START_TEST(filters_without_sense_are_refused)
{
    static Seen s = { 0 };
    GError *error = NULL;
    const EventFilter bad[] = {
        { .source = EVENT_SOURCES }, { .source = (EventSource)-1 }, PIO(.sizes = 3 | 16),
        PIO(.directions = 4),        PIO(.mask = 1, .value = 2),
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        ck_assert_ptr_null(event_hook_add(hub, &bad[i], see, &s, gone, &error));
        ck_assert(g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_INVALID));
        g_clear_error(&error);
    }
    ck_assert_uint_eq(s.destroyed, 0);
    ck_assert_ptr_null(event_ring_add(hub, &PIO(.addr = 1), 0, &error));
    g_clear_error(&error);
    ck_assert_ptr_null(event_ring_add(hub, &PIO(.addr = 1), UINT32_MAX, &error));
    g_clear_error(&error);
}
END_TEST

START_TEST(a_refusal_of_the_accelerator_is_the_error_of_the_call)
{
    static Seen s = { 0 };
    GError *error = NULL;

    arm_log.refuse = true;
    ck_assert_ptr_null(event_hook_add(hub, &PIO(.addr = 1), see, &s, gone, &error));
    ck_assert_str_eq(error->message, "cannot watch pio");
    g_clear_error(&error);
    ck_assert(!event_hub_armed(hub, EVENT_PIO));
    ck_assert_uint_eq(s.destroyed, 0);
}
END_TEST

START_TEST(hooks_are_asked_in_order_of_addition_until_one_answers)
{
    static Seen first = { 0 }, second = { .action = EVENT_PAUSE },
                third = { .action = EVENT_HANDLED };
    static Seen fourth = { 0 };

    /* Added with falling addresses, so that the table's order is another one. */
    add(&first, PIO(.addr = 0x70, .len = 0x20));
    add(&second, PIO(.addr = 0x60, .len = 0x30));
    add(&third, PIO(.addr = 0x80));
    add(&fourth, PIO(.addr = 0, .len = 0x1000));
    ck_assert_uint_eq(out(0x80, 1, 1), EVENT_HANDLED | EVENT_PAUSE);
    ck_assert_uint_lt(first.order, second.order);
    ck_assert_uint_lt(second.order, third.order);
    ck_assert_uint_eq(fourth.calls, 0);
    ck_assert_uint_eq(out(0x81, 1, 1), EVENT_PAUSE);
    ck_assert_uint_eq(fourth.calls, 1);
}
END_TEST

START_TEST(more_hooks_than_fit_in_the_fast_list_are_all_asked_in_order)
{
    static Seen s[40];

    memset(s, 0, sizeof(s));
    for (unsigned i = 0; i < 40; i++) {
        add(&s[i], PIO(.addr = 100 - i, .len = 200));
    }
    out(100, 0, 1);
    for (unsigned i = 0; i < 40; i++) {
        ck_assert_uint_eq(s[i].calls, 1);
        ck_assert(i == 0 || s[i].order == s[i - 1].order + 1);
    }
}
END_TEST

START_TEST(skip_and_limit_count_matches_and_calls)
{
    static Seen s = { 0 };
    EventHook *h = add(&s, PIO(.addr = 1, .skip = 2, .limit = 3));

    out(1, 0, 1);
    out(1, 0, 1);
    ck_assert_uint_eq(s.calls, 0);
    ck_assert_uint_eq(event_hook_hits(h), 0);
    out(1, 0, 1);
    out(1, 0, 1);
    ck_assert_uint_eq(event_hook_hits(h), 2);
    ck_assert_uint_eq(s.destroyed, 0);
    out(1, 0, 1); /* the third call: it goes after that */
    ck_assert_uint_eq(s.calls, 3);
    ck_assert_uint_eq(s.destroyed, 1);
    out(1, 0, 1);
    ck_assert_uint_eq(s.calls, 3);
    ck_assert(!event_hub_armed(hub, EVENT_PIO));
}
END_TEST

START_TEST(a_hook_may_remove_itself_and_is_destroyed_after_its_call)
{
    static Seen s = { 0 };

    add(&s, PIO(.addr = 1));
    s.remove = s.self;
    out(1, 0, 1);
    ck_assert_uint_eq(s.calls, 1);
    ck_assert_uint_eq(s.destroyed, 1);
    out(1, 0, 1);
    ck_assert_uint_eq(s.calls, 1);
}
END_TEST

START_TEST(a_hook_that_removes_a_later_one_silences_it_at_once)
{
    static Seen a = { 0 }, b = { 0 };

    add(&a, PIO(.addr = 1));
    add(&b, PIO(.addr = 1));
    a.remove = b.self;
    out(1, 0, 1);
    ck_assert_uint_eq(a.calls, 1);
    ck_assert_uint_eq(b.calls, 0);
    ck_assert_uint_eq(b.destroyed, 1);
}
END_TEST

static EventAction fire_again(void *opaque, VCpu *cpu, EventRecord *x)
{
    Seen *s = opaque;

    s->in_call = true;
    if (++s->calls == 1) {
        fire(EVENT_PIO, x->addr, 0, 1, true);
        ck_assert_uint_eq(s->destroyed, 0); /* its outer call still runs */
    } else {
        event_hook_remove(s->self);
        ck_assert_uint_eq(s->destroyed, 0);
    }
    s->in_call = false;
    return EVENT_CONTINUE;
}

START_TEST(a_hook_removed_in_a_nested_call_is_destroyed_after_the_outer_one)
{
    static Seen s = { 0 };
    EventHook *h = event_hook_add(hub, &PIO(.addr = 1), fire_again, &s, gone, NULL);

    s.self = h;
    out(1, 0, 1);
    ck_assert_uint_eq(s.calls, 2);
    ck_assert_uint_eq(s.destroyed, 1);
}
END_TEST

START_TEST(identical_hooks_share_what_is_armed)
{
    static Seen a = { 0 }, b = { 0 }, c = { 0 };
    EventHook *ha = add(&a, PIO(.addr = 1, .mask = 1, .value = 1));
    EventHook *hb = add(&b, PIO(.addr = 1, .skip = 3));
    EventHook *hc = add(&c, PIO(.addr = 1, .len = 2));

    ck_assert_uint_eq(arm_log.armed, 2);
    ck_assert_str_eq(event_hook_how(ha), "armed 1");
    ck_assert_str_eq(event_hook_how(hb), "armed 1");
    ck_assert_str_eq(event_hook_how(hc), "armed 2");
    event_hook_remove(ha);
    ck_assert_uint_eq(arm_log.disarmed, 0);
    event_hook_remove(hb);
    ck_assert_uint_eq(arm_log.disarmed, 1);
    ck_assert_uint_eq(event_hook_filter(hc)->directions, EVENT_READS | EVENT_WRITES);
}
END_TEST

START_TEST(exit_any_matches_every_kind)
{
    static Seen s = { 0 };
    EventFilter f = { .source = EVENT_EXIT, .addr = EVENT_EXIT_ANY, .cpu = -1 };

    add(&s, f);
    for (unsigned i = 0; i < CPU_EXIT_KINDS; i++) {
        fire(EVENT_EXIT, i, 0, 0, true);
    }
    ck_assert_uint_eq(s.calls, CPU_EXIT_KINDS);
}
END_TEST

START_TEST(records_carry_the_time_of_the_machine)
{
    static Seen s = { 0 };

    add(&s, PIO(.addr = 1));
    out(2, 0, 1);
    ck_assert_int_eq(arm_log.time, 0); /* nobody asked */
    out(1, 0, 1);
    ck_assert_int_eq(s.last.time, 1);
}
END_TEST

static void count_hook(EventHook *hook, void *opaque)
{
    ++*(unsigned *)opaque;
    event_hook_remove(hook);
}

START_TEST(hooks_are_listed_and_may_be_removed_meanwhile)
{
    static Seen a = { 0 }, b = { 0 };
    unsigned n = 0;

    add(&a, PIO(.addr = 1));
    add(&b, PIO(.addr = 2));
    event_hub_foreach(hub, count_hook, &n);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(a.destroyed + b.destroyed, 2);
}
END_TEST

START_TEST(a_ring_keeps_the_last_matches_oldest_first)
{
    EventRing *ring = event_ring_add(hub, &PIO(.addr = 1, .len = 0x100), 3, NULL);
    EventRecord r[5];

    ck_assert_uint_eq(event_ring_copy(ring, r, 5), 0);
    for (unsigned i = 1; i <= 5; i++) {
        out(i, i * 10, 1);
    }
    ck_assert_uint_eq(event_ring_total(ring), 5);
    ck_assert_uint_eq(event_ring_copy(ring, r, 5), 3);
    ck_assert_uint_eq(r[0].value, 30);
    ck_assert_uint_eq(r[2].value, 50);
    ck_assert_uint_eq(event_ring_copy(ring, r, 2), 2);
    ck_assert_uint_eq(r[0].value, 40);
    ck_assert_uint_eq(event_hook_hits(event_ring_hook(ring)), 5);
    event_hook_remove(event_ring_hook(ring));
    ck_assert_ptr_null(event_ring_hook(ring));
    out(1, 0, 1);
    ck_assert_uint_eq(event_ring_total(ring), 5); /* readable, but over */
    event_ring_remove(ring);
}
END_TEST

START_TEST(a_ring_sees_what_a_hook_answered)
{
    static Seen s = { .action = EVENT_HANDLED };
    EventRing *ring;

    add(&s, PIO(.addr = 1));
    ring = event_ring_add(hub, &PIO(.addr = 1, .limit = 1), 3, NULL);
    out(1, 5, 1);
    out(1, 6, 1);
    ck_assert_uint_eq(event_ring_total(ring), 1);
    event_ring_remove(ring);
}
END_TEST

START_TEST(a_ring_outlives_its_hub)
{
    EventRing *ring = event_ring_add(hub, &PIO(.addr = 1), 3, NULL);
    EventRecord r;

    out(1, 5, 1);
    event_hub_free(hub);
    hub = event_hub_new(NULL);
    ck_assert_uint_eq(event_ring_copy(ring, &r, 1), 1);
    event_ring_remove(ring);
}
END_TEST

/* ---- against a naive model --------------------------------------------------------------- */

static uint32_t random_below(uint32_t *seed, uint32_t n)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % n;
}

START_TEST(random_hooks_match_as_a_linear_search_would)
{
    enum { N = 60 };
    static Seen s[N];
    EventFilter f[N];
    uint32_t seed = 12345;

    memset(s, 0, sizeof(s));
    for (unsigned i = 0; i < N; i++) {
        f[i] = PIO(.addr = random_below(&seed, 200),
                   .len = 1 + random_below(&seed, i % 7 ? 5 : 150));
        add(&s[i], f[i]);
        if (i % 5 == 4) {
            unsigned victim = random_below(&seed, i);

            if (s[victim].self) {
                event_hook_remove(g_steal_pointer(&s[victim].self));
            }
        }
    }
    for (unsigned k = 0; k < 2000; k++) {
        uint64_t addr = random_below(&seed, 210);
        uint8_t size = (uint8_t)(1u << random_below(&seed, 3));

        for (unsigned i = 0; i < N; i++) {
            s[i].calls = 0;
        }
        out(addr, 0, size);
        for (unsigned i = 0; i < N; i++) {
            bool want = s[i].self && addr < f[i].addr + f[i].len && addr + size > f[i].addr;

            ck_assert_msg(s[i].calls == want, "access %u/%u, hook %u (%u+%u): %u calls",
                          (unsigned)addr, size, i, (unsigned)f[i].addr, (unsigned)f[i].len,
                          s[i].calls);
        }
    }
}
END_TEST

/* What the inline question answers "no" to, no hook may want; and it answers "no" often. */
START_TEST(the_gate_hides_nothing_from_random_hooks)
{
    enum { N = 4 };
    uint32_t seed = 777;
    unsigned noes = 0;

    for (unsigned round = 0; round < 300; round++) {
        static Seen s[N];
        EventSource source = round & 1 ? EVENT_MMIO : EVENT_PIO;
        uint64_t base = round & 2 ? UINT64_MAX - 0x1fff : 0;
        unsigned n = 1 + random_below(&seed, N);

        memset(s, 0, sizeof(s));
        for (unsigned i = 0; i < n; i++) {
            EventFilter f = { .source = source, .cpu = -1 };

            f.addr = base + random_below(&seed, 0x1fff);
            f.len = 1 + random_below(&seed, round % 5 ? 20 : 400);
            f.directions = (uint8_t)random_below(&seed, 4);
            if (random_below(&seed, 2)) {
                f.mask = random_below(&seed, 16) | (uint64_t)random_below(&seed, 4) << 40;
                f.value = f.mask &
                          (random_below(&seed, 16) | (uint64_t)random_below(&seed, 4) << 40);
            }
            add(&s[i], f);
        }
        for (unsigned k = 0; k < 200; k++) {
            const EventFilter *near = event_hook_filter(s[random_below(&seed, n)].self);
            uint64_t addr = near->addr + random_below(&seed, 40) - 10;
            uint64_t value = random_below(&seed, 16) | (uint64_t)random_below(&seed, 4) << 40;
            uint8_t size = (uint8_t)(1u << random_below(&seed, 4));
            bool write = random_below(&seed, 2), wants;
            unsigned calls = 0;

            wants = event_hub_wants(hub, source, addr, size, write, value);
            for (unsigned i = 0; i < n; i++) {
                s[i].calls = 0;
            }
            fire(source, addr, value, size, write);
            for (unsigned i = 0; i < n; i++) {
                calls += s[i].calls;
            }
            ck_assert_msg(wants || calls == 0, "round %u: %#llx/%u %s was wanted", round,
                          (unsigned long long)addr, size, write ? "write" : "read");
            noes += !wants;
        }
        for (unsigned i = 0; i < n; i++) {
            event_hook_remove(s[i].self);
        }
        ck_assert(!event_hub_wants(hub, source, base, 8, true, 0));
    }
    ck_assert_uint_gt(noes, 10000);
}
END_TEST

START_TEST(one_hook_lets_only_its_port_direction_and_value_through_the_gate)
{
    static Seen s = { 0 };
    EventHook *h = add(&s,
                       PIO(.addr = 0x80, .directions = EVENT_WRITES, .mask = 0xff, .value = 0x77));
    unsigned passed = 0;

    ck_assert(event_hub_wants(hub, EVENT_PIO, 0x80, 1, true, 0x77));
    ck_assert(event_hub_wants(hub, EVENT_PIO, 0x80, 1, true, 0x177));
    ck_assert(!event_hub_wants(hub, EVENT_PIO, 0x80, 1, true, 0x78));
    ck_assert(!event_hub_wants(hub, EVENT_PIO, 0x80, 1, false, 0x77));
    ck_assert(!event_hub_wants(hub, EVENT_PIO, 0x81, 1, true, 0x77));
    ck_assert(event_hub_wants(hub, EVENT_PIO, 0x7f, 2, true, 0x77));
    for (unsigned port = 0; port < 0x10000; port++) {
        passed += event_hub_wants(hub, EVENT_PIO, port, 1, true, 0x77);
    }
    ck_assert_uint_eq(passed, 0x10000 / 64);
    event_hook_remove(h);
    h = add(&s, ((EventFilter){ .source = EVENT_EXIT, .addr = CPU_EXIT_SHUTDOWN, .cpu = -1 }));
    for (unsigned kind = 0; kind < CPU_EXIT_KINDS; kind++) {
        ck_assert(event_hub_wants(hub, EVENT_EXIT, kind, 1, false, 0) ==
                  (kind == CPU_EXIT_SHUTDOWN));
    }
    event_hook_remove(h);
}
END_TEST

/* ---- threads ----------------------------------------------------------------------------- */

typedef struct Firer {
    pthread_t thread;
    unsigned rounds;
    unsigned handled;
} Firer;

static void *fire_thread(void *opaque)
{
    Firer *f = opaque;

    rcu_thread_register();
    for (unsigned i = 0; i < f->rounds; i++) {
        f->handled += out(i % 16, i, 1) == EVENT_HANDLED;
    }
    rcu_thread_unregister();
    return NULL;
}

static EventAction handled(void *opaque, VCpu *cpu, EventRecord *x)
{
    ck_assert(engine_lock_held());
    ++*(unsigned *)opaque; /* the lock guards it: TSan would tell */
    return EVENT_HANDLED;
}

static void count_gone(void *opaque)
{
    ++*(unsigned *)opaque;
}

START_TEST(hooks_come_and_go_while_other_threads_fire)
{
    enum { THREADS = 3 };
    Firer f[THREADS] = { 0 };
    unsigned calls = 0, total = 0;
    EventRing *ring = NULL;

    for (unsigned i = 0; i < THREADS; i++) {
        f[i].rounds = 20000;
        pthread_create(&f[i].thread, NULL, fire_thread, &f[i]);
    }
    for (unsigned i = 0; i < 1500; i++) {
        unsigned dead = 0;
        EventHook *h = event_hook_add(hub, &PIO(.addr = i % 16, .len = 4), handled, &calls, NULL,
                                      NULL);
        EventHook *other = event_hook_add(hub, &PIO(.addr = i % 7), handled, &dead, count_gone,
                                          NULL);

        if (i % 10 == 0) {
            if (ring) {
                event_ring_remove(ring);
            }
            ring = event_ring_add(hub, &PIO(.addr = 0, .len = 8), 16, NULL);
        }
        ck_assert(engine_unlocked_begin(NULL));
        sched_yield();
        engine_unlocked_end();
        event_hook_remove(h);
        calls += dead; /* under the lock */
        dead = 0;
        event_hook_remove(other);
        ck_assert_uint_eq(dead, 1);
    }
    event_ring_remove(ring);
    ck_assert(engine_unlocked_begin(NULL));
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(f[i].thread, NULL);
        total += f[i].handled;
    }
    engine_unlocked_end();
    ck_assert_uint_eq(total, calls); /* every call happened, none after its hook was gone */
}
END_TEST

static Suite *event_suite(void)
{
    Suite *s = suite_create("event");
    TCase *tc = tcase_create("event");

    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, nothing_is_armed_until_a_hook_is_there);
    tcase_add_test(tc, a_range_matches_every_access_that_touches_it);
    tcase_add_test(tc, ranges_at_the_end_of_the_space_do_not_wrap);
    tcase_add_test(tc, sizes_directions_values_and_vcpus_are_matched);
    tcase_add_test(tc, filters_without_sense_are_refused);
    tcase_add_test(tc, a_refusal_of_the_accelerator_is_the_error_of_the_call);
    tcase_add_test(tc, hooks_are_asked_in_order_of_addition_until_one_answers);
    tcase_add_test(tc, more_hooks_than_fit_in_the_fast_list_are_all_asked_in_order);
    tcase_add_test(tc, skip_and_limit_count_matches_and_calls);
    tcase_add_test(tc, a_hook_may_remove_itself_and_is_destroyed_after_its_call);
    tcase_add_test(tc, a_hook_that_removes_a_later_one_silences_it_at_once);
    tcase_add_test(tc, a_hook_removed_in_a_nested_call_is_destroyed_after_the_outer_one);
    tcase_add_test(tc, identical_hooks_share_what_is_armed);
    tcase_add_test(tc, exit_any_matches_every_kind);
    tcase_add_test(tc, records_carry_the_time_of_the_machine);
    tcase_add_test(tc, hooks_are_listed_and_may_be_removed_meanwhile);
    tcase_add_test(tc, a_ring_keeps_the_last_matches_oldest_first);
    tcase_add_test(tc, a_ring_sees_what_a_hook_answered);
    tcase_add_test(tc, a_ring_outlives_its_hub);
    tcase_add_test(tc, random_hooks_match_as_a_linear_search_would);
    tcase_add_test(tc, the_gate_hides_nothing_from_random_hooks);
    tcase_add_test(tc, one_hook_lets_only_its_port_direction_and_value_through_the_gate);
    tcase_add_test(tc, hooks_come_and_go_while_other_threads_fire);
    return s;
}

int main(void)
{
    return run_suite(event_suite());
}
