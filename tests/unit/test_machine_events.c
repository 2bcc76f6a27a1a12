/* Machines: requests from handlers, hooks, several in one process, lines. */
#include <check.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/irq.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "fake-rig.h"
#include "tests/unit/run_suite.h"

/* ---- what devices ask for from their handlers ------------------------------------------- */

typedef enum {
    DO_PAUSE = 1,
    DO_FAIL,
    DO_RESET,
    DO_SHUTDOWN,
    DO_CLOSE,
    DO_PAUSE_RESUME,
    DO_REFUSED,
} Deed;

typedef struct Doer {
    Machine *m;
    MemoryRegion mr;
    unsigned writes;
    unsigned refusals;
} Doer;

/* A device whose register asks for what machines are asked for. */
static void doer_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    Doer *d = opaque;
    GError *error = NULL;

    d->writes++;
    switch ((Deed)value) {
    case DO_PAUSE:
        machine_pause(d->m, "the guest asked");
        ck_assert_int_eq(d->m->state, RUN_STATE_RUNNING); /* not before the handler returned */
        break;
    case DO_FAIL:
        machine_fail(d->m, "the device broke");
        machine_fail(d->m, "a consequence");
        machine_pause(d->m, "lost");
        ck_assert(!machine_resume(d->m, &error));
        ck_error(error, "the device broke");
        break;
    case DO_RESET:
        machine_request_reset(d->m, "port 0xcf9");
        break;
    case DO_SHUTDOWN:
        machine_request_shutdown(d->m, "isa-debug-exit", 33);
        machine_request_reset(d->m, "too late");
        break;
    case DO_CLOSE:
        machine_close(d->m);
        machine_close(d->m);
        break;
    case DO_PAUSE_RESUME:
        machine_pause(d->m, "never mind");
        ok(machine_resume(d->m, &error), error);
        break;
    case DO_REFUSED:
        d->refusals += !machine_reset(d->m, NULL);
        d->refusals += !machine_snapshot(d->m, NULL);
        d->refusals += !machine_save_devices(d->m, NULL);
        d->refusals += !machine_step(d->m, cpu_current(), NULL);
        d->refusals += !machine_add_cpu(d->m, NULL, NULL);
        break;
    }
}

static const MemoryRegionOps doer_ops = { .write = doer_write };

static void doer_add(Doer *d, Machine *m)
{
    d->m = m;
    d->writes = d->refusals = 0;
    memory_region_init_io(&d->mr, NULL, &doer_ops, d, "doer", 1);
    memory_region_add_subregion(&m->io_root, 0x700, &d->mr);
}

START_TEST(a_device_may_pause_the_machine_from_its_handler)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, DO_PAUSE, 1), FAKE_OUT(0x601, 2, 1),
                                        FAKE_GOTO(0) };
    static Doer d;
    Machine *m = fake_machine(2, IRQCHIP_ON);

    doer_add(&d, m);
    FAKE_LOAD(cpu_at(m, 0), program);
    FAKE_LOAD(cpu_at(m, 1), asleep);
    for (unsigned i = 1; i <= 300; i++) {
        resume(m);
        fake_wait_state(m, RUN_STATE_PAUSED);
        ck_assert_str_eq(m->reason, "the guest asked");
        ck_assert_uint_eq(d.writes, i);
        ok(cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
        ck_assert_uint_eq(cpu_at(m, 0)->state->rip, 1); /* not one instruction further */
    }
    machine_close(m);
    memory_region_finalize(&d.mr);
}
END_TEST

START_TEST(a_failure_in_a_handler_is_the_machines_reason)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, DO_FAIL, 1), FAKE_GOTO(0) };
    static Doer d;
    Machine *m = fake_machine(1, IRQCHIP_ON);

    doer_add(&d, m);
    FAKE_LOAD(cpu_at(m, 0), program);
    for (unsigned i = 0; i < 3; i++) {
        resume(m); /* whoever mended the device may go on */
        fake_wait_state(m, RUN_STATE_ERROR);
        ck_assert_str_eq(m->reason, "the device broke");
    }
    machine_close(m);
    memory_region_finalize(&d.mr);
}
END_TEST

START_TEST(a_guest_reset_starts_the_machine_again_and_no_reboot_ends_it)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } },
                                        FAKE_OUT(0x700, DO_RESET, 1),
                                        { FAKE_COUNT, { 0 } } };
    static Doer d;
    Machine *m = fake_machine(1, IRQCHIP_ON);
    EventFilter f = { .source = EVENT_RESET, .cpu = -1 };
    EventRing *resets = event_ring_add(m->events, &f, 4, NULL);
    GError *error = NULL;

    doer_add(&d, m);
    FAKE_LOAD(cpu_at(m, 0), program);
    resume(m);
    while (event_ring_total(resets) == 0) {
        main_loop_iterate(true);
    }
    ck_assert_int_eq(m->state, RUN_STATE_RUNNING); /* RIP is 0xfff0 now: the test guest sleeps */
    machine_pause(m, "look");
    ok(cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
    ck_assert_uint_eq(cpu_at(m, 0)->state->rip, 0xfff0);
    ck_assert_uint_eq(cpu_at(m, 0)->state->gpr[X86_RBX], 0);
    m->no_reboot = true;
    FAKE_LOAD(cpu_at(m, 0), program);
    resume(m);
    fake_wait_state(m, RUN_STATE_SHUTDOWN);
    ck_assert_str_eq(m->reason, "port 0xcf9");
    ck_assert_uint_eq(event_ring_total(resets), 1);
    ck_assert(!machine_resume(m, &error));
    ck_error(error, "has shut down");
    ok(machine_reset(m, &error), error);
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    resume(m);
    event_ring_remove(resets);
    machine_close(m);
    memory_region_finalize(&d.mr);
}
END_TEST

START_TEST(a_shutdown_from_a_handler_keeps_its_exit_code)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, DO_SHUTDOWN, 1), FAKE_GOTO(0) };
    static Doer d;
    Machine *m = fake_machine(1, IRQCHIP_ON);

    doer_add(&d, m);
    FAKE_LOAD(cpu_at(m, 0), program);
    resume(m);
    fake_wait_state(m, RUN_STATE_SHUTDOWN);
    ck_assert_int_eq(m->exit_code, 33);
    ck_assert_str_eq(m->reason, "isa-debug-exit");
    ck_assert_uint_eq(d.writes, 1);
    machine_pause(m, "no");
    machine_fail(m, "no");
    ck_assert_int_eq(m->state, RUN_STATE_SHUTDOWN);
    machine_close(m);
    memory_region_finalize(&d.mr);
}
END_TEST

START_TEST(a_machine_may_be_closed_from_its_own_device)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, DO_CLOSE, 1), FAKE_GOTO(0) };

    for (unsigned i = 0; i < 50; i++) {
        static Doer d;
        Machine *m = fake_machine(2, IRQCHIP_ON);

        object_ref(m);
        doer_add(&d, m);
        FAKE_LOAD(cpu_at(m, 0), program);
        FAKE_LOAD(cpu_at(m, 1), busy);
        resume(m);
        fake_wait_state(m, RUN_STATE_CLOSED);
        ck_assert_uint_eq(d.writes, 1);
        ck_assert(OBJECT(m)->gone);
        ck_assert(!machine_resume(m, NULL));
        ck_assert_ptr_null(machine_gsi(m, 1));
        machine_close(m);
        machine_pause(m, "no");
        machine_request_reset(m, "no");
        machine_request_shutdown(m, "no", 1);
        memory_region_finalize(&d.mr);
        object_unref(m);
    }
}
END_TEST

START_TEST(a_pause_taken_back_in_the_same_handler_leaves_the_machine_running)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, DO_PAUSE_RESUME, 1), FAKE_GOTO(0) };
    static Doer d;
    Machine *m = fake_machine(1, IRQCHIP_ON);

    doer_add(&d, m);
    FAKE_LOAD(cpu_at(m, 0), program);
    resume(m);
    while (__atomic_load_n(&cpu_at(m, 0)->stats.exits[CPU_EXIT_PIO], __ATOMIC_RELAXED) < 2000) {
        main_loop_iterate(false);
    }
    ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    machine_close(m);
    memory_region_finalize(&d.mr);
}
END_TEST

START_TEST(what_needs_waiting_is_refused_on_a_vcpu_thread)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, DO_REFUSED, 1),
                                        FAKE_OUT(0x700, DO_PAUSE, 1) };
    static Doer d;
    Machine *m = fake_machine(1, IRQCHIP_ON);

    doer_add(&d, m);
    FAKE_LOAD(cpu_at(m, 0), program);
    resume(m);
    fake_wait_state(m, RUN_STATE_PAUSED);
    ck_assert_uint_eq(d.refusals, 5);
    machine_close(m);
    memory_region_finalize(&d.mr);
}
END_TEST

/* ---- hooks and several machines ---------------------------------------------------------- */

static EventAction count_call(void *opaque, VCpu *cpu, EventRecord *x)
{
    ++*(unsigned *)opaque;
    return EVENT_HANDLED;
}

START_TEST(hooks_come_and_go_while_vcpus_run)
{
    Machine *m = RUNNING(3, busy);
    unsigned calls = 0;

    for (unsigned i = 0; i < 1000; i++) {
        EventFilter f = { .source = EVENT_PIO, .addr = 0x600 + i % 2, .cpu = i % 5 ? -1 : 1 };
        GError *error = NULL;
        EventHook *h = event_hook_add(m->events, &f, count_call, &calls, NULL, &error);

        ok(h != NULL, error);
        main_loop_iterate(false);
        if (i % 10 == 0) {
            while (event_hook_hits(h) == 0) {
                main_loop_iterate(false);
            }
        }
        event_hook_remove(h);
    }
    ck_assert_uint_gt(calls, 100);
    ck_assert_uint_eq(fake_accel(m)->arms, fake_accel(m)->disarms);
    machine_close(m);
}
END_TEST

static void count_gone(void *opaque)
{
    ++*(unsigned *)opaque;
}

START_TEST(closing_a_machine_removes_its_hooks)
{
    Machine *m = RUNNING(2, busy);
    unsigned gone = 0;
    static unsigned calls;
    EventFilter f = { .source = EVENT_PIO, .addr = 0x600, .cpu = -1 };

    event_hook_add(m->events, &f, count_call, &calls, NULL, NULL);
    for (unsigned i = 0; i < 10; i++) {
        EventFilter other = { .source = EVENT_MMIO, .addr = i, .cpu = -1 };

        event_hook_add(m->events, &other, count_call, &gone, count_gone, NULL);
    }
    machine_close(m);
    ck_assert_uint_eq(gone, 10);
}
END_TEST

START_TEST(sources_that_the_machine_cannot_serve_are_errors)
{
    GError *error = NULL;
    Machine *m = fake_machine(1, IRQCHIP_ON);
    const struct {
        EventFilter f;
        const char *text;
    } bad[] = {
        { { .source = EVENT_EXIT, .addr = CPU_EXIT_HLT, .cpu = -1 }, "HLT does not exit" },
        { { .source = EVENT_EXIT, .addr = 99, .cpu = -1 }, "not a kind of exit" },
        { { .source = EVENT_IRQ, .addr = MACHINE_MAX_GSI, .cpu = -1 }, "no interrupt line" },
        { { .source = EVENT_PIO, .addr = 0x20, .cpu = -1 }, "out of sight" },
        { { .source = EVENT_PIO, .addr = 0x21, .cpu = 5 }, "no vCPU 5" },
    };
    static unsigned calls;

    fake_accel(m)->refuse_port = 0x20;
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        ck_assert_ptr_null(event_hook_add(m->events, &bad[i].f, count_call, &calls, NULL, &error));
        ck_error(error, bad[i].text);
    }
    machine_close(m);
    m = machine_new("tm", NULL, NULL);
    ck_assert_ptr_null(event_hook_add(m->events, &bad[3].f, count_call, &calls, NULL, &error));
    ck_error(error, "no accelerator yet");
    machine_close(m);
}
END_TEST

START_TEST(two_machines_run_apart_and_close_in_any_order)
{
    for (unsigned i = 0; i < 100; i++) {
        Machine *a = RUNNING(1, busy), *b = RUNNING(2, asleep);

        ck_assert_str_ne(OBJECT(a)->name, OBJECT(b)->name);
        machine_pause(i & 2 ? a : b, "test");
        ck_assert_int_eq((i & 2 ? b : a)->state, RUN_STATE_RUNNING);
        machine_close(i & 1 ? a : b);
        /* What is left is as it was: running, unless it is the one that was paused. */
        ck_assert_int_eq((i & 1 ? b : a)->state,
                         !(i & 1) == !!(i & 2) ? RUN_STATE_PAUSED : RUN_STATE_RUNNING);
        machine_close(i & 1 ? b : a);
    }
}
END_TEST

START_TEST(a_vcpu_of_one_machine_may_pause_and_close_another)
{
    static const FakeStep pauser[] = { FAKE_OUT(0x700, DO_PAUSE, 1),
                                       FAKE_OUT(0x701, DO_CLOSE, 1),
                                       { FAKE_SLEEP, { 0 } } };
    static Doer pause, close;
    Machine *a = fake_machine(1, IRQCHIP_ON), *b = RUNNING(2, busy);

    pause.m = close.m = b;
    memory_region_init_io(&pause.mr, NULL, &doer_ops, &pause, "pause", 1);
    memory_region_init_io(&close.mr, NULL, &doer_ops, &close, "close", 1);
    memory_region_add_subregion(&a->io_root, 0x700, &pause.mr);
    memory_region_add_subregion(&a->io_root, 0x701, &close.mr);
    object_ref(b);
    FAKE_LOAD(cpu_at(a, 0), pauser);
    resume(a);
    fake_wait_state(b, RUN_STATE_CLOSED);
    ck_assert_int_eq(a->state, RUN_STATE_RUNNING);
    object_unref(b);
    machine_close(a);
    memory_region_finalize(&pause.mr);
    memory_region_finalize(&close.mr);
}
END_TEST

/* ---- lines ------------------------------------------------------------------------------- */

static EventAction swallow(void *opaque, VCpu *cpu, EventRecord *x)
{
    ++*(unsigned *)opaque;
    ck_assert_ptr_null(cpu);
    return x->value ? EVENT_HANDLED : EVENT_CONTINUE;
}

START_TEST(lines_carry_changes_to_the_accelerator_and_hooks_may_hold_them_back)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Irq *irq = irq_ref(machine_gsi(m, 4));
    EventFilter f = { .source = EVENT_IRQ, .addr = 4, .cpu = -1 };
    unsigned calls = 0, before = fake_accel(m)->gsi_calls;

    irq_raise(irq);
    irq_raise(irq);
    ck_assert_uint_eq(fake_accel(m)->lines[4], 1);
    ck_assert_uint_eq(fake_accel(m)->gsi_calls, before + 1);
    irq_lower(irq);
    ck_assert_uint_eq(fake_accel(m)->lines[4], 0);
    event_hook_add(m->events, &f, swallow, &calls, NULL, NULL);
    irq_pulse(irq);
    ck_assert_uint_eq(calls, 2);
    ck_assert_uint_eq(fake_accel(m)->gsi_calls, before + 3);
    ck_assert_ptr_null(machine_gsi(m, MACHINE_MAX_GSI));
    ck_assert_ptr_eq(machine_gsi(m, 4), irq);
    machine_close(m);
    irq_raise(irq); /* nobody is there any more */
    irq_unref(irq);
}
END_TEST

static void observe(void *opaque, int n, int level)
{
    ++*(unsigned *)opaque;
}

static Irq *observed;
static void observe_once(void *opaque, int n, int level)
{
    ++*(unsigned *)opaque;
    irq_remove_observer(observed, observe_once, opaque);
    irq_remove_observer(observed, observe_once, opaque);
}

static void drop_self(void *opaque, int n, int level)
{
    irq_unref(*(Irq **)opaque);
}

START_TEST(observers_see_changes_only_and_may_remove_themselves)
{
    unsigned handled = 0, seen = 0, once = 0;
    Irq *irq = irq_new(observe, &handled, 7), *dying;

    observed = irq;
    irq_add_observer(irq, observe_once, &once);
    irq_add_observer(irq, observe, &seen);
    irq_set(irq, 1);
    irq_set(irq, 1);
    irq_set(irq, 0);
    ck_assert_uint_eq(handled, 3);
    ck_assert_uint_eq(seen, 2);
    ck_assert_uint_eq(once, 1);
    irq_restore_level(irq, 1);
    ck_assert_int_eq(irq_level(irq), 1);
    ck_assert_uint_eq(seen, 2);
    irq_disconnect(irq);
    irq_lower(irq);
    ck_assert_uint_eq(handled, 3);
    irq_unref(irq);
    irq_set(NULL, 1);
    irq_unref(NULL);
    ck_assert_int_eq(irq_level(NULL), 0);
    dying = irq_new(drop_self, &dying, 0);
    irq_set(dying, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("machine events");
    TCase *tc = tcase_create("machine events");

    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_device_may_pause_the_machine_from_its_handler);
    tcase_add_test(tc, a_failure_in_a_handler_is_the_machines_reason);
    tcase_add_test(tc, a_guest_reset_starts_the_machine_again_and_no_reboot_ends_it);
    tcase_add_test(tc, a_shutdown_from_a_handler_keeps_its_exit_code);
    tcase_add_test(tc, a_machine_may_be_closed_from_its_own_device);
    tcase_add_test(tc, a_pause_taken_back_in_the_same_handler_leaves_the_machine_running);
    tcase_add_test(tc, what_needs_waiting_is_refused_on_a_vcpu_thread);
    tcase_add_test(tc, hooks_come_and_go_while_vcpus_run);
    tcase_add_test(tc, closing_a_machine_removes_its_hooks);
    tcase_add_test(tc, sources_that_the_machine_cannot_serve_are_errors);
    tcase_add_test(tc, two_machines_run_apart_and_close_in_any_order);
    tcase_add_test(tc, a_vcpu_of_one_machine_may_pause_and_close_another);
    tcase_add_test(tc, lines_carry_changes_to_the_accelerator_and_hooks_may_hold_them_back);
    tcase_add_test(tc, observers_see_changes_only_and_may_remove_themselves);
    return run_suite(s);
}
