/* Machines: how they are found and made, run, paused, reset, closed. */
#include <check.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/irq.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "fake-rig.h"
#include "tests/unit/run_suite.h"

/* ---- finding and making ------------------------------------------------------------------ */

START_TEST(a_machine_class_is_found_by_name_then_alias_then_default)
{
    GError *error = NULL;
    MachineClass *klass = MACHINE_CLASS(object_class_by_name(TYPE_TEST_MACHINE));

    ck_assert_ptr_eq(select_machine("test-machine", NULL), klass);
    ck_assert_ptr_eq(select_machine("tm", NULL), klass);
    ck_assert_ptr_eq(select_machine(NULL, NULL), klass);
    ck_assert_ptr_eq(find_default_machine(), klass);
    ck_assert_ptr_null(select_machine("test-machin", &error));
    ck_error(error, "did you mean 'test-machine'?");
    ck_assert_ptr_null(select_machine("zzzzzzzzzzzzzz", &error));
    ck_error(error, "there is no machine 'zzzzzzzzzzzzzz'");
    ck_assert_ptr_null(select_machine("machine", &error)); /* abstract */
    g_clear_error(&error);
    klass->is_default = false;
    ck_assert_ptr_null(select_machine(NULL, &error));
    ck_error(error, "none is the default");
    klass->is_default = true;
}
END_TEST

START_TEST(machines_are_numbered_and_names_are_unique)
{
    GError *error = NULL;
    Machine *a = machine_new(TYPE_TEST_MACHINE, NULL, &error);
    Machine *b = machine_new(TYPE_TEST_MACHINE, NULL, &error);
    Machine *c = machine_new("tm", "mine", &error);
    g_autofree char *path = object_get_canonical_path(OBJECT(c));

    ck_assert_str_eq(OBJECT(a)->name, "test-machine-0");
    ck_assert_str_eq(OBJECT(b)->name, "test-machine-1");
    ck_assert_str_eq(path, "/machines/mine");
    ck_assert_ptr_null(machine_new("tm", "mine", &error));
    ck_error(error, "mine");
    ck_assert_ptr_null(machine_new("tm", "a/b", &error));
    g_clear_error(&error);
    ck_assert_ptr_null(machine_new("x86-cpu", NULL, &error));
    g_clear_error(&error);
    machine_close(a);
    a = machine_new(TYPE_TEST_MACHINE, NULL, &error);
    ck_assert_str_eq(OBJECT(a)->name, "test-machine-0");
    machine_close(c);
    machine_close(b);
    machine_close(a);
}
END_TEST

START_TEST(accelerators_are_found_by_short_name_and_auto_takes_what_works)
{
    const char *const named[] = { "failing", "test", NULL };
    const char *const bad[] = { "tset", NULL };
    const char *const only[] = { "failing", NULL };
    GError *error = NULL;
    g_autofree char *why = NULL;
    g_autofree char *why2 = NULL;

    ck_assert_str_eq(accel_find("test", NULL)->short_name, "test");
    ck_assert_ptr_null(accel_find("nope", &error));
    ck_error(error, "failing, ");
    ck_assert_str_eq(accel_select(named, &why, NULL)->short_name, "test");
    ck_assert_ptr_nonnull(strstr(why, "failing: /dev/nothing is missing"));
    ck_assert_ptr_null(accel_select(bad, NULL, &error));
    ck_error(error, "'tset'");
    ck_assert_ptr_null(accel_select(only, NULL, &error));
    ck_error(error,
             "used: failing: /dev/nothing is missing"); /* said once, though it says so itself */
    ck_assert_ptr_nonnull(accel_select(NULL, &why2, NULL)); /* auto: at least the test's */
    ck_assert_ptr_nonnull(why2);
}
END_TEST

START_TEST(an_incomplete_machine_does_not_run_and_says_what_is_missing)
{
    GError *error = NULL;
    Machine *m = machine_new("tm", NULL, &error);

    ck_assert(!machine_resume(m, &error));
    ck_error(error, "is not complete");
    ck_assert(!machine_finish_init(m, &error));
    ck_error(error, "no accelerator");
    ck_assert_ptr_null(machine_add_cpu(m, NULL, &error));
    ck_error(error, "no accelerator");
    ck_assert(!machine_reset(m, &error));
    ck_error(error, "not complete");
    ck_assert_ptr_null(machine_snapshot(m, &error));
    ck_error(error, "not complete");
    machine_close(m);
    m = fake_bare_machine(IRQCHIP_OFF);
    ck_assert(!machine_finish_init(m, &error));
    ck_error(error, "no vCPU");
    ck_assert(!machine_set_accel(m, accel_find("test", NULL), IRQCHIP_OFF, false, &error));
    ck_error(error, "already has");
    machine_fail(m, "the board is wrong");
    machine_add_cpu(m, NULL, NULL);
    ck_assert(!machine_finish_init(m, &error));
    ck_error(error, "the board is wrong");
    ck_assert(!machine_resume(m, &error));
    ck_error(error, "the board is wrong");
    machine_close(m);
}
END_TEST

START_TEST(a_complete_machine_takes_no_more_parts)
{
    GError *error = NULL;
    Machine *m = fake_machine(1, IRQCHIP_ON);

    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    ck_assert_ptr_null(machine_add_cpu(m, cpuid_policy_new(), &error));
    ck_error(error, "is complete");
    ck_assert(!machine_finish_init(m, &error));
    ck_error(error, "is complete");
    machine_close(m);
}
END_TEST

START_TEST(failures_of_the_accelerator_leave_a_machine_that_can_be_closed)
{
    GError *error = NULL;
    Machine *m = machine_new("tm", NULL, &error);
    AccelClass *failing = ACCEL_CLASS(object_class_by_name(TYPE_FAILING_ACCEL));

    ck_assert(!machine_set_accel(m, failing, IRQCHIP_ON, false, &error));
    ck_error(error, "no virtual machine for you");
    ck_assert_ptr_null(m->accel);
    ck_assert(!machine_set_accel(m, accel_find("test", NULL), IRQCHIP_SPLIT, true, &error));
    ck_error(error, "PIT");
    ok(machine_set_accel(m, accel_find("test", NULL), IRQCHIP_ON, false, &error), error);
    fake_accel(m)->fail_vcpu = true;
    ck_assert_ptr_null(machine_add_cpu(m, NULL, &error));
    ck_error(error, "vCPU refused by the test");
    ck_assert_uint_eq(m->cpus->len, 0);
    for (unsigned i = 0; i < 8; i++) {
        ck_assert_ptr_nonnull(machine_add_cpu(m, NULL, &error));
    }
    ck_assert_ptr_null(machine_add_cpu(m, NULL, &error));
    ck_error(error, "at most 8 vCPUs");
    machine_close(m);
}
END_TEST

/* ---- run control ------------------------------------------------------------------------- */

START_TEST(thousands_of_pauses_lose_no_request_and_tear_no_access)
{
    Machine *m = RUNNING(3, busy);

    for (unsigned i = 0; i < 2000; i++) {
        machine_pause(m, "test");
        ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
        ck_assert(!clock_running(m->clock));
        for (unsigned c = 0; c < 3; c++) {
            ck_assert(cpu_at(m, c)->stopped);
            ck_assert(!fake_cpu(cpu_at(m, c))->unfinished);
        }
        resume(m);
        ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    }
    machine_pause(m, "over");
    ck_assert_str_eq(m->reason, "over");
    for (unsigned c = 0; c < 3; c++) {
        ck_assert_uint_eq(fake_cpu(cpu_at(m, c))->torn, 0);
    }
    machine_close(m);
}
END_TEST

START_TEST(thousands_of_resets_while_running)
{
    GError *error = NULL;
    Machine *m = RUNNING(2, asleep);

    for (unsigned i = 0; i < 1000; i++) {
        ok(machine_reset(m, &error), error);
        ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    }
    machine_pause(m, "test");
    ok(machine_reset(m, &error), error);
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    ck_assert_uint_eq(cpu_at(m, 0)->state->rip, 0xfff0);
    ck_assert_uint_eq(cpu_at(m, 0)->state->gpr[X86_RDX], 0x806f8);
    ck_assert_uint_eq(cpu_at(m, 1)->state->mp_state, X86_MP_UNINITIALIZED);
    ck_assert_uint_eq(cpu_at(m, 1)->state->lapic[0x23], 1);
    machine_close(m);
}
END_TEST

START_TEST(hundreds_of_machines_are_made_and_closed_in_every_state)
{
    for (unsigned i = 0; i < 300; i++) {
        Machine *m = fake_machine(2, i & 1 ? IRQCHIP_ON : IRQCHIP_OFF);

        fake_load(cpu_at(m, 0), i & 2 ? busy : asleep,
                  i & 2 ? G_N_ELEMENTS(busy) : G_N_ELEMENTS(asleep));
        if (i % 3) {
            resume(m);
        }
        if (i % 3 == 2) {
            machine_pause(m, "test");
        }
        machine_close(m);
    }
    while (main_loop_iterate(false)) {
    }
}
END_TEST

START_TEST(a_triple_fault_does_what_was_chosen)
{
    static const FakeStep program[] = { FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    static const struct {
        OnEvent policy;
        bool no_reboot;
        RunState state;
    } cases[] = {
        { ON_EVENT_DEFAULT, true, RUN_STATE_SHUTDOWN },
        { ON_EVENT_PAUSE, false, RUN_STATE_PAUSED },
        { ON_EVENT_SHUTDOWN, false, RUN_STATE_SHUTDOWN },
        { ON_EVENT_RESET, true, RUN_STATE_SHUTDOWN },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Machine *m = fake_machine(1, IRQCHIP_ON);

        m->on_triple_fault = cases[i].policy;
        m->no_reboot = cases[i].no_reboot;
        FAKE_LOAD(cpu_at(m, 0), program);
        resume(m);
        fake_wait_state(m, cases[i].state);
        ck_assert_str_eq(m->reason, "triple fault");
        machine_close(m);
    }
}
END_TEST

START_TEST(system_events_of_the_guest_reach_the_machine)
{
    static const FakeStep off[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_SYSTEM_EVENT, .addr = CPU_EVENT_SHUTDOWN } },
    };
    static const FakeStep crash[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_SYSTEM_EVENT, .addr = CPU_EVENT_CRASH } },
    };
    static const FakeStep unknown[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_SYSTEM_EVENT, .addr = 77 } },
    };
    Machine *m = fake_machine(1, IRQCHIP_ON);

    FAKE_LOAD(cpu_at(m, 0), crash);
    resume(m);
    fake_wait_state(m, RUN_STATE_PAUSED);
    ck_assert_str_eq(m->reason, "the guest reported a crash");
    FAKE_LOAD(cpu_at(m, 0), unknown);
    resume(m);
    fake_wait_state(m, RUN_STATE_ERROR);
    ck_assert_ptr_nonnull(strstr(m->reason, "77"));
    FAKE_LOAD(cpu_at(m, 0), off);
    resume(m);
    fake_wait_state(m, RUN_STATE_SHUTDOWN);
    machine_close(m);
}
END_TEST

typedef struct Order {
    Machine *m;
    char log[16];
    unsigned n;
} Order;

static void reset_a(void *opaque)
{
    ((Order *)opaque)->log[((Order *)opaque)->n++] = 'a';
}

static void reset_once(void *opaque)
{
    Order *o = opaque;

    o->log[o->n++] = 'o';
    machine_remove_reset(o->m, reset_once, o);
}

static void reset_b(void *opaque)
{
    Order *o = opaque;

    o->log[o->n++] = 'b';
    ck_assert_uint_eq(cpu_at(o->m, 0)->state->gpr[X86_RBX], 7); /* vCPUs come after devices */
}

START_TEST(reset_handlers_run_in_order_and_may_remove_themselves)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Order o = { m };
    GError *error = NULL;

    machine_add_reset(m, reset_a, &o);
    machine_add_reset(m, reset_once, &o);
    machine_add_reset(m, reset_b, &o);
    for (unsigned i = 0; i < 2; i++) {
        ok(cpu_modify_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
        cpu_at(m, 0)->state->gpr[X86_RBX] = 7;
        ok(machine_reset(m, &error), error);
    }
    ck_assert_str_eq(o.log, "aobab");
    machine_close(m);
}
END_TEST

static void note_state(Machine *m, RunState state, void *opaque)
{
    Order *o = opaque;

    ck_assert_int_eq(m->state, state);
    ck_assert(engine_lock_held());
    o->log[o->n++] = run_state_name(state)[0];
    if (state == RUN_STATE_SHUTDOWN) {
        machine_remove_notify(m, note_state, o);
    }
}

START_TEST(every_change_of_state_is_told_after_it_happened)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    EventFilter f = { .source = EVENT_STATUS, .len = UINT64_MAX, .cpu = -1 };
    EventRing *ring = event_ring_add(m->events, &f, 8, NULL);
    EventRecord r[8];
    Order o = { m };

    FAKE_LOAD(cpu_at(m, 0), asleep);
    machine_add_notify(m, note_state, &o);
    resume(m);
    machine_pause(m, "x");
    machine_pause(m, "again");
    resume(m);
    resume(m);
    machine_fail(m, "y");
    machine_request_shutdown(m, "z", 0);
    fake_wait_state(m, RUN_STATE_SHUTDOWN);
    ck_assert_str_eq(o.log, "rpres");
    ck_assert_uint_eq(event_ring_copy(ring, r, 8), 5);
    ck_assert_uint_eq(r[4].addr, RUN_STATE_SHUTDOWN);
    event_ring_remove(ring);
    machine_close(m);
    ck_assert_str_eq(o.log, "rpres");
}
END_TEST

static EventAction contrary(void *opaque, VCpu *cpu, EventRecord *x)
{
    Machine *m = opaque;

    switch (x->addr) {
    case RUN_STATE_RUNNING:
        machine_pause(m, "no");
        break;
    case RUN_STATE_PAUSED:
        machine_resume(m, NULL);
        break;
    case RUN_STATE_ERROR:
        machine_fail(m, "again");
        break;
    default:
        break;
    }
    return EVENT_CONTINUE;
}

static EventAction reset_again(void *opaque, VCpu *cpu, EventRecord *x)
{
    machine_request_reset(opaque, "again");
    return EVENT_CONTINUE;
}

START_TEST(hooks_that_ask_for_the_opposite_do_not_hold_up_the_main_loop)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    EventFilter status = { .source = EVENT_STATUS, .len = UINT64_MAX, .cpu = -1 };
    EventFilter reset = { .source = EVENT_RESET, .cpu = -1 };
    GError *error = NULL;

    FAKE_LOAD(cpu_at(m, 0), asleep);
    event_hook_add(m->events, &status, contrary, m, NULL, &error);
    event_hook_add(m->events, &reset, reset_again, m, NULL, &error);
    resume(m);
    for (unsigned i = 0; i < 50; i++) {
        main_loop_iterate(false);
    }
    ok(machine_reset(m, &error), error);
    for (unsigned i = 0; i < 50; i++) {
        main_loop_iterate(false);
    }
    machine_fail(m, "enough");
    for (unsigned i = 0; i < 50; i++) {
        main_loop_iterate(false);
    }
    machine_close(m); /* the test is that it comes here */
}
END_TEST

START_TEST(a_single_step_runs_one_instruction_and_pauses)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } },
                                        { FAKE_COUNT, { 0 } },
                                        { FAKE_COUNT, { 0 } } };
    Machine *m = fake_machine(2, IRQCHIP_ON);
    GError *error = NULL;

    FAKE_LOAD(cpu_at(m, 0), program);
    FAKE_LOAD(cpu_at(m, 1), program);
    for (unsigned i = 1; i <= 2; i++) {
        ok(machine_step(m, cpu_at(m, 0), &error), error);
        ck_assert(!machine_step(m, cpu_at(m, 0), &error));
        g_clear_error(&error);
        fake_wait_state(m, RUN_STATE_PAUSED);
        ck_assert_str_eq(m->reason, "step");
        ok(cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
        ck_assert_uint_eq(cpu_at(m, 0)->state->gpr[X86_RBX], i);
        ck_assert_uint_eq(fake_cpu(cpu_at(m, 1))->runs, 0);
    }
    machine_close(m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("machine");
    TCase *tc = tcase_create("machine");

    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_machine_class_is_found_by_name_then_alias_then_default);
    tcase_add_test(tc, machines_are_numbered_and_names_are_unique);
    tcase_add_test(tc, accelerators_are_found_by_short_name_and_auto_takes_what_works);
    tcase_add_test(tc, an_incomplete_machine_does_not_run_and_says_what_is_missing);
    tcase_add_test(tc, a_complete_machine_takes_no_more_parts);
    tcase_add_test(tc, failures_of_the_accelerator_leave_a_machine_that_can_be_closed);
    tcase_add_test(tc, thousands_of_pauses_lose_no_request_and_tear_no_access);
    tcase_add_test(tc, thousands_of_resets_while_running);
    tcase_add_test(tc, hundreds_of_machines_are_made_and_closed_in_every_state);
    tcase_add_test(tc, a_triple_fault_does_what_was_chosen);
    tcase_add_test(tc, system_events_of_the_guest_reach_the_machine);
    tcase_add_test(tc, reset_handlers_run_in_order_and_may_remove_themselves);
    tcase_add_test(tc, every_change_of_state_is_told_after_it_happened);
    tcase_add_test(tc, hooks_that_ask_for_the_opposite_do_not_hold_up_the_main_loop);
    tcase_add_test(tc, a_single_step_runs_one_instruction_and_pauses);
    return run_suite(s);
}
