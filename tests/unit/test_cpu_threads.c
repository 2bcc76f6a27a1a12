/* vCPU threads: work, stopping, registers, halts and what wakes from them. */
#include "tests/unit/cpu_rig.h"

/* ---- threads ----------------------------------------------------------------------------- */

static void note_thread(VCpu *cpu, void *opaque)
{
    ck_assert_ptr_eq(cpu_current(), cpu);
    ck_assert(engine_lock_held());
    ck_assert(!fake_cpu(cpu)->unfinished);
    ++*(unsigned *)opaque;
}

START_TEST(work_runs_on_the_vcpus_thread_whether_it_runs_or_is_stopped)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } }, FAKE_IN(0x777, 1), FAKE_GOTO(0) };
    Machine *m = fake_machine(2, IRQCHIP_ON);
    unsigned n = 0;

    FAKE_LOAD(cpu_at(m, 0), program);
    FAKE_LOAD(cpu_at(m, 1), program);
    cpu_run_on(cpu_at(m, 0), note_thread, &n);
    ok(machine_resume(m, NULL), NULL);
    for (unsigned i = 0; i < 500; i++) {
        cpu_run_on(cpu_at(m, i & 1), note_thread, &n);
    }
    ck_assert_uint_eq(n, 501);
    machine_pause(m, "test");
    ck_assert_uint_eq(fake_cpu(cpu_at(m, 0))->torn, 0);
    machine_close(m);
}
END_TEST

START_TEST(a_sleeping_guest_is_stopped_by_a_signal)
{
    static const FakeStep program[] = { { FAKE_SLEEP, { 0 } }, FAKE_GOTO(0) };
    Machine *m = fake_machine(3, IRQCHIP_ON);

    for (unsigned i = 0; i < 3; i++) {
        FAKE_LOAD(cpu_at(m, i), program);
    }
    for (unsigned i = 0; i < 1000; i++) {
        ok(machine_resume(m, NULL), NULL);
        machine_pause(m, "test");
        ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    }
    machine_close(m);
}
END_TEST

START_TEST(registers_of_a_running_vcpu_are_refused)
{
    static const FakeStep program[] = { { FAKE_SLEEP, { 0 } }, FAKE_GOTO(0) };
    Machine *m = fake_machine(1, IRQCHIP_ON);
    GError *error = NULL;

    FAKE_LOAD(cpu_at(m, 0), program);
    ok(machine_resume(m, NULL), NULL);
    ck_assert(!cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, &error));
    ck_assert(g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_BUSY));
    ck_error(error, "cpu 0 is running");
    ck_assert(!cpu_modify_state(cpu_at(m, 0), X86_STATE_GPR, &error));
    g_clear_error(&error);
    machine_close(m);
}
END_TEST

START_TEST(changed_registers_reach_the_accelerator_before_the_guest_runs)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } }, FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;

    bench_open(&b);
    b.m->on_triple_fault = ON_EVENT_PAUSE;
    FAKE_LOAD(b.cpu, program);
    b.cpu->state->gpr[X86_RBX] = 41;
    ok(machine_resume(b.m, NULL), NULL);
    fake_wait_state(b.m, RUN_STATE_PAUSED);
    ok(cpu_fetch_state(b.cpu, X86_STATE_GPR, NULL), NULL);
    ck_assert_uint_eq(b.cpu->state->gpr[X86_RBX], 42);
    ck_assert_uint_eq(b.cpu->state_dirty, 0);
    bench_close(&b);
}
END_TEST

START_TEST(changed_registers_survive_a_run_that_is_cut_short)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } }, FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    FakeCpu *f;
    Bench b;

    bench_open(&b);
    b.m->on_triple_fault = ON_EVENT_PAUSE;
    FAKE_LOAD(b.cpu, program);
    f = fake_cpu(b.cpu);
    f->cut_short = true;
    b.cpu->state->gpr[X86_RBX] = 41;
    ok(machine_resume(b.m, NULL), NULL);
    while (__atomic_load_n(&f->runs, __ATOMIC_SEQ_CST) == 0) {
        engine_unlock();
        sched_yield();
        engine_lock();
    }
    machine_pause(b.m, "test");
    ok(cpu_fetch_state(b.cpu, X86_STATE_ALL, NULL), NULL);
    ck_assert_uint_eq(b.cpu->state->gpr[X86_RBX], 41);
    ok(machine_resume(b.m, NULL), NULL);
    fake_wait_state(b.m, RUN_STATE_PAUSED);
    ok(cpu_fetch_state(b.cpu, X86_STATE_GPR, NULL), NULL);
    ck_assert_uint_eq(b.cpu->state->gpr[X86_RBX], 42);
    bench_close(&b);
}
END_TEST

static EventAction raise_irq(void *opaque, VCpu *cpu, EventRecord *x)
{
    fake_raise_irq(opaque);
    return EVENT_CONTINUE;
}

START_TEST(a_halted_vcpu_waits_for_an_interrupt_that_it_may_take)
{
    static const FakeStep program[] = { FAKE_KIND(CPU_EXIT_HLT), FAKE_OUT(0x500, 1, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    unsigned n = 0;

    bench_open(&b);
    b.m->on_triple_fault = ON_EVENT_PAUSE;
    FAKE_LOAD(b.cpu, program);
    ok(machine_resume(b.m, NULL), NULL);
    while (!b.cpu->halted) {
        cpu_run_on(b.cpu, note_thread, &n);
    }
    /* IF is clear: the line alone does not wake it. */
    fake_raise_irq(b.cpu);
    cpu_run_on(b.cpu, note_thread, &n);
    cpu_run_on(b.cpu, note_thread, &n);
    ck_assert(b.cpu->halted);
    machine_pause(b.m, "stop during HLT");
    ck_assert_int_eq(b.m->state, RUN_STATE_PAUSED);
    ck_assert(b.cpu->halted);
    ok(cpu_modify_state(b.cpu, X86_STATE_GPR, NULL), NULL);
    b.cpu->state->rflags |= 0x200;
    fake_cpu(b.cpu)->hw.rflags |= 0x200;
    ok(machine_resume(b.m, NULL), NULL); /* the line is still up: looked at again */
    fake_wait_state(b.m, RUN_STATE_PAUSED);
    ck_assert_str_eq(b.m->reason, "triple fault");
    ck_assert_uint_eq(b.port.writes, 1);
    bench_close(&b);
}
END_TEST

START_TEST(interrupts_from_other_threads_wake_a_halted_vcpu_every_time)
{
    static const FakeStep sleeper[] = { FAKE_KIND(CPU_EXIT_HLT), FAKE_OUT(0x600, 1, 1),
                                        FAKE_GOTO(0) };
    static const FakeStep waker[] = { FAKE_OUT(0x601, 1, 1), FAKE_GOTO(0) };
    Machine *m = fake_machine(2, IRQCHIP_OFF);
    EventFilter f = { .source = EVENT_PIO, .addr = 0x601, .cpu = -1 };
    GError *error = NULL;

    ok(event_hook_add(m->events, &f, raise_irq, cpu_at(m, 0), NULL, &error) != NULL, error);
    FAKE_LOAD(cpu_at(m, 0), sleeper);
    FAKE_LOAD(cpu_at(m, 1), waker);
    cpu_at(m, 0)->state->rflags |= 0x200;
    cpu_at(m, 1)->halted = false; /* no SIPI comes from the test accelerator */
    ok(machine_resume(m, NULL), NULL);
    while (__atomic_load_n(&cpu_at(m, 0)->stats.exits[CPU_EXIT_HLT], __ATOMIC_RELAXED) < 2000) {
        main_loop_iterate(false);
    }
    machine_pause(m, "test");
    machine_close(m);
}
END_TEST

typedef struct LocklessAsk {
    VCpu *target;
} LocklessAsk;

static void lockless_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    LocklessAsk *a = opaque;

    ck_assert(!engine_lock_held());
    fake_raise_irq(a->target);
}

static const MemoryRegionOps lockless_ops = { .write = lockless_write };

START_TEST(a_lockless_device_is_reached_without_the_lock)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, 1, 1), FAKE_OUT(0x777, 1, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    static LocklessAsk ask;
    MemoryRegion mr;
    Bench b;

    bench_open(&b);
    ask.target = b.cpu;
    memory_region_init_io(&mr, NULL, &lockless_ops, &ask, "lockless", 1);
    memory_region_set_lockless(&mr);
    memory_region_add_subregion(&b.m->io_root, 0x700, &mr);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(b.cpu->stats.locked, 1); /* only for telling of the triple fault */
    bench_close(&b);
    memory_region_finalize(&mr);
}
END_TEST

START_TEST(a_lockless_device_may_wake_a_halted_vcpu)
{
    static const FakeStep sleeper[] = { FAKE_KIND(CPU_EXIT_HLT), FAKE_GOTO(0) };
    static const FakeStep waker[] = { FAKE_OUT(0x700, 1, 1), FAKE_GOTO(0) };
    Machine *m = fake_machine(2, IRQCHIP_OFF);
    LocklessAsk ask = { cpu_at(m, 0) };
    MemoryRegion mr;

    memory_region_init_io(&mr, NULL, &lockless_ops, &ask, "lockless", 1);
    memory_region_set_lockless(&mr);
    memory_region_add_subregion(&m->io_root, 0x700, &mr);
    FAKE_LOAD(cpu_at(m, 0), sleeper);
    FAKE_LOAD(cpu_at(m, 1), waker);
    cpu_at(m, 0)->state->rflags |= 0x200;
    cpu_at(m, 1)->halted = false;
    ok(machine_resume(m, NULL), NULL);
    while (__atomic_load_n(&cpu_at(m, 0)->stats.exits[CPU_EXIT_HLT], __ATOMIC_RELAXED) < 1000) {
        main_loop_iterate(false);
    }
    machine_close(m);
    memory_region_finalize(&mr);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpu threads");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, work_runs_on_the_vcpus_thread_whether_it_runs_or_is_stopped);
    tcase_add_test(tc, a_sleeping_guest_is_stopped_by_a_signal);
    tcase_add_test(tc, registers_of_a_running_vcpu_are_refused);
    tcase_add_test(tc, changed_registers_reach_the_accelerator_before_the_guest_runs);
    tcase_add_test(tc, changed_registers_survive_a_run_that_is_cut_short);
    tcase_add_test(tc, a_halted_vcpu_waits_for_an_interrupt_that_it_may_take);
    tcase_add_test(tc, interrupts_from_other_threads_wake_a_halted_vcpu_every_time);
    tcase_add_test(tc, a_lockless_device_is_reached_without_the_lock);
    tcase_add_test(tc, a_lockless_device_may_wake_a_halted_vcpu);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
