/* What happens with an exit of the vCPU: devices, hooks, traces. Runs on the test accelerator. */
#include "tests/unit/cpu_rig.h"

/* ---- exits ------------------------------------------------------------------------------- */

START_TEST(accesses_reach_devices_and_answers_reach_registers)
{
    static const FakeStep program[] = {
        FAKE_OUT(0x500, 0x41, 1),
        FAKE_MMIO_WRITE(0xd0000010, 0x55aa, 4),
        FAKE_IN(0x500, 2),
        FAKE_KIND(CPU_EXIT_SHUTDOWN),
    };
    Bench b;

    bench_open(&b);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(b.port.last, 0x41);
    ck_assert_uint_eq(b.mmio.last, 0x55aa);
    ck_assert_uint_eq(rax(b.cpu), 0x1001);
    ck_assert_uint_eq(b.cpu->stats.exits[CPU_EXIT_PIO], 2);
    ck_assert_uint_eq(b.cpu->stats.exits[CPU_EXIT_MMIO], 1);
    ck_assert_uint_eq(b.cpu->stats.locked, 4); /* three accesses, and telling of the fault */
    ck_assert_str_eq(b.m->reason, "triple fault");
    ck_assert_int_eq(b.cpu->last[2].kind, CPU_EXIT_PIO);
    ck_assert_uint_eq(b.cpu->last[2].value, 0x1001);
    ck_assert_int_eq(b.cpu->last[3].kind, CPU_EXIT_SHUTDOWN);
    bench_close(&b);
}
END_TEST

START_TEST(an_unassigned_port_reads_as_ones)
{
    static const FakeStep program[] = { FAKE_IN(0x777, 2), FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;

    bench_open(&b);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 0xffff);
    bench_close(&b);
}
END_TEST

START_TEST(string_accesses_reach_the_device_item_by_item)
{
    static uint8_t data[64] = { 'h', 'e', 'l', 'l', 'o' };
    static uint8_t zeros[64];
    const FakeStep program[] = {
        { FAKE_EXIT,
          { .kind = CPU_EXIT_PIO,
            .write = true,
            .size = 1,
            .count = 5,
            .addr = 0x500,
            .data = data } },
        { FAKE_EXIT,
          { .kind = CPU_EXIT_PIO, .size = 2, .count = 4, .addr = 0x500, .data = zeros } },
        FAKE_KIND(CPU_EXIT_SHUTDOWN),
    };
    Bench b;

    bench_open(&b);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(b.port.writes, 5);
    ck_assert_mem_eq(b.port.bytes, "hello", 5);
    ck_assert_uint_eq(b.port.reads, 4);
    ck_assert_uint_eq(rax(b.cpu), UINT64_C(0x1004100310021001));
    bench_close(&b);
}
END_TEST

START_TEST(an_accelerator_that_gives_up_leaves_the_machine_in_error)
{
    static const FakeStep program[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_INTERNAL_ERROR, .message = "cannot emulate 0f 0b" } },
    };
    Bench b;
    GError *error = NULL;

    bench_open(&b);
    FAKE_LOAD(b.cpu, program);
    ok(machine_resume(b.m, &error), error);
    fake_wait_state(b.m, RUN_STATE_ERROR);
    ck_assert_str_eq(b.m->reason, "cpu 0: cannot emulate 0f 0b");
    bench_close(&b);
}
END_TEST

START_TEST(exit_kinds_without_sense_are_unknown_not_fatal)
{
    static const FakeStep program[] = { FAKE_KIND((CpuExitKind)99) };
    Bench b;
    GError *error = NULL;

    bench_open(&b);
    FAKE_LOAD(b.cpu, program);
    ok(machine_resume(b.m, &error), error);
    fake_wait_state(b.m, RUN_STATE_ERROR);
    ck_assert_str_eq(b.m->reason, "cpu 0: unknown");
    ck_assert_str_eq(cpu_exit_kind_name((CpuExitKind)99), "invalid");
    bench_close(&b);
}
END_TEST

typedef struct Answer {
    EventAction action;
    uint64_t value;
    bool fault;
    unsigned calls;
    EventRecord seen;
    bool set_rbx;
} Answer;

static EventAction answer(void *opaque, VCpu *cpu, EventRecord *x)
{
    Answer *a = opaque;

    ck_assert(engine_lock_held());
    ck_assert(!engine_may_unlock());
    a->calls++;
    a->seen = *x;
    if (a->set_rbx) {
        ok(cpu_modify_state(cpu, X86_STATE_GPR, NULL), NULL);
        cpu->state->gpr[X86_RBX] = 0x5555;
    }
    x->fault = a->fault;
    x->value = a->value;
    return a->action;
}

static EventHook *hook(Bench *b, EventFilter f, Answer *a)
{
    GError *error = NULL;
    EventHook *h;

    f.cpu = -1;
    h = event_hook_add(b->m->events, &f, answer, a, NULL, &error);
    ok(h != NULL, error);
    return h;
}

START_TEST(a_hook_answers_in_the_place_of_the_device)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_OUT(0x500, 7, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_HANDLED, .value = 0x77 };

    bench_open(&b);
    hook(&b, (EventFilter){ .source = EVENT_PIO, .addr = 0x500, .len = 1 }, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(a.calls, 2);
    ck_assert_uint_eq(b.port.reads + b.port.writes, 0);
    ck_assert_uint_eq(rax(b.cpu), 0x77);
    bench_close(&b);
}
END_TEST

START_TEST(a_hook_that_only_watches_changes_nothing)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_OUT(0x500, 7, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_CONTINUE, .value = 0x77 };

    bench_open(&b);
    hook(&b, (EventFilter){ .source = EVENT_PIO, .addr = 0x500, .len = 1 }, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(a.calls, 2);
    ck_assert_uint_eq(b.port.last, 7);
    ck_assert_uint_eq(rax(b.cpu), 0x1001);
    bench_close(&b);
}
END_TEST

START_TEST(a_hook_that_pauses_lets_the_access_finish_first)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_OUT(0x500, 7, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_PAUSE };
    EventFilter f = { .source = EVENT_PIO, .addr = 0x500, .len = 1, .directions = EVENT_READS };

    bench_open(&b);
    hook(&b, f, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_str_eq(b.m->reason, "hook on pio 0x500");
    ck_assert_uint_eq(rax(b.cpu), 0x1001);
    ck_assert_uint_eq(b.cpu->state->rip, 1);
    ck_assert_uint_eq(b.port.writes, 0);
    bench_close(&b);
}
END_TEST

START_TEST(registers_that_a_hook_sets_survive_the_end_of_the_access)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_CONTINUE, .set_rbx = true };

    bench_open(&b);
    hook(&b, (EventFilter){ .source = EVENT_PIO, .addr = 0x500, .len = 1 }, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 0x1001); /* what IN read is not lost either */
    ck_assert_uint_eq(b.cpu->state->gpr[X86_RBX], 0x5555);
    ck_assert_uint_eq(b.cpu->state->rip, 2);
    bench_close(&b);
}
END_TEST

START_TEST(msr_and_hypercall_hooks_answer_or_leave_it_to_the_accelerator)
{
    static const FakeStep program[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_RDMSR, .addr = 0x10, .value = 123 } },
        { FAKE_EXIT, { .kind = CPU_EXIT_WRMSR, .write = true, .addr = 0x11, .value = 9 } },
        { FAKE_EXIT, { .kind = CPU_EXIT_HYPERCALL, .addr = 42, .args = { 1, 2, 3 } } },
        FAKE_KIND(CPU_EXIT_SHUTDOWN),
    };
    Bench b;
    Answer read = { EVENT_HANDLED, .value = 456 }, write = { EVENT_HANDLED, .fault = true };
    Answer call = { EVENT_CONTINUE };
    EventHook *h;

    bench_open(&b);
    h = hook(&b, (EventFilter){ .source = EVENT_MSR, .addr = 0x10 }, &read);
    hook(&b, (EventFilter){ .source = EVENT_MSR, .addr = 0x11, .directions = EVENT_WRITES },
         &write);
    hook(&b, (EventFilter){ .source = EVENT_HYPERCALL, .addr = 42 }, &call);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 456);
    ck_assert_uint_eq(read.calls, 1);
    ck_assert(read.seen.internal);
    ck_assert_uint_eq(write.calls, 1);
    ck_assert_uint_eq(write.seen.value, 9);
    ck_assert_uint_eq(call.seen.args[2], 3);
    event_hook_remove(h);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 123);
    bench_close(&b);
}
END_TEST

START_TEST(a_hook_on_an_exit_sees_it_first_and_may_swallow_it)
{
    static const FakeStep program[] = { FAKE_KIND(CPU_EXIT_SHUTDOWN), FAKE_OUT(0x500, 1, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_HANDLED };
    EventFilter f = { .source = EVENT_EXIT, .addr = CPU_EXIT_SHUTDOWN, .limit = 1 };

    bench_open(&b);
    hook(&b, f, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(a.calls, 1);
    ck_assert_uint_eq(a.seen.addr, CPU_EXIT_SHUTDOWN);
    ck_assert_uint_eq(b.port.writes, 1);
    bench_close(&b);
}
END_TEST

START_TEST(a_trace_keeps_reads_with_their_answers)
{
    static const FakeStep program[] = { FAKE_OUT(0x500, 9, 1), FAKE_IN(0x500, 2),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    EventFilter f = { .source = EVENT_PIO, .addr = 0x500, .cpu = -1 };
    EventRecord out[4];
    EventRing *ring;
    GError *error = NULL;

    bench_open(&b);
    ring = event_ring_add(b.m->events, &f, 4, &error);
    ok(ring != NULL, error);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(event_ring_copy(ring, out, 4), 2);
    ck_assert(out[0].write && out[0].value == 9);
    ck_assert(!out[1].write && out[1].value == 0x1001);
    event_ring_remove(ring);
    bench_close(&b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpu");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, accesses_reach_devices_and_answers_reach_registers);
    tcase_add_test(tc, an_unassigned_port_reads_as_ones);
    tcase_add_test(tc, string_accesses_reach_the_device_item_by_item);
    tcase_add_test(tc, an_accelerator_that_gives_up_leaves_the_machine_in_error);
    tcase_add_test(tc, exit_kinds_without_sense_are_unknown_not_fatal);
    tcase_add_test(tc, a_hook_answers_in_the_place_of_the_device);
    tcase_add_test(tc, a_hook_that_only_watches_changes_nothing);
    tcase_add_test(tc, a_hook_that_pauses_lets_the_access_finish_first);
    tcase_add_test(tc, registers_that_a_hook_sets_survive_the_end_of_the_access);
    tcase_add_test(tc, msr_and_hypercall_hooks_answer_or_leave_it_to_the_accelerator);
    tcase_add_test(tc, a_hook_on_an_exit_sees_it_first_and_may_swallow_it);
    tcase_add_test(tc, a_trace_keeps_reads_with_their_answers);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
