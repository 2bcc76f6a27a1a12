/* The vCPU: page walks, exits, threads. Runs on the test accelerator. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/cpu/cpu.h"
#include "fake-rig.h"
#include "tests/unit/run_suite.h"

/* ---- page walks -------------------------------------------------------------------------- */

static void poke(Machine *m, uint64_t addr, uint64_t value, unsigned size)
{
    address_space_stn(m->memory, addr, value, size, MEMTXATTRS_NONE, NULL);
}

static uint64_t translate(VCpu *cpu, uint64_t vaddr)
{
    GError *error = NULL;
    uint64_t paddr = 0;

    ok(cpu_translate(cpu, vaddr, &paddr, &error), error);
    return paddr;
}

static void paging(VCpu *cpu, uint64_t cr3, uint64_t cr4, bool lma)
{
    ok(cpu_modify_state(cpu, X86_STATE_SYSTEM, NULL), NULL);
    cpu->state->cr0 = 0x80000011;
    cpu->state->cr3 = cr3;
    cpu->state->cr4 = cr4;
    cpu->state->efer = lma ? 0x500 : 0;
}

START_TEST(an_unpaged_address_is_physical_and_ends_at_4_gib)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;

    ck_assert_uint_eq(translate(cpu, 0x12345), 0x12345);
    ck_assert(!cpu_translate(cpu, UINT64_C(0x100000000), &paddr, &error));
    ck_error(error, "above 4 GiB");
    machine_close(m);
}
END_TEST

START_TEST(thirty_two_bit_paging_knows_small_large_and_pse36_pages)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;

    paging(cpu, 0x1000, 0x10, false);
    poke(m, 0x1000 + 4 * 1, 0x2001, 4);
    poke(m, 0x2000 + 4 * 3, 0x7003, 4);
    poke(m, 0x1000 + 4 * 2, 0x00c00081 | 5 << 13, 4);
    ck_assert_uint_eq(translate(cpu, 0x00403123), 0x7123);
    ck_assert_uint_eq(translate(cpu, 0x00812345), UINT64_C(0x500c12345));
    ck_assert(!cpu_translate(cpu, 0x00404000, &paddr, &error));
    ck_error(error, "page table entry at 0x2010 is not present");
    ck_assert(!cpu_translate(cpu, 0xfff00000, &paddr, &error));
    ck_error(error, "page directory entry");
    ck_assert(!cpu_translate(cpu, UINT64_C(0x100403123), &paddr, &error));
    ck_error(error, "not in long mode");
    /* Without CR4.PSE bit 7 of a directory entry means nothing. */
    paging(cpu, 0x1000, 0, false);
    ck_assert(!cpu_translate(cpu, 0x00812345, &paddr, &error));
    ck_error(error, "not in RAM");
    machine_close(m);
}
END_TEST

START_TEST(pae_paging_walks_three_levels)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);

    paging(cpu, 0x1020, 0x20, false);
    poke(m, 0x1020 + 8 * 3, 0x2001, 8);
    poke(m, 0x2000 + 8 * 1, 0x3003, 8);
    poke(m, 0x3000 + 8 * 2, UINT64_C(0x8000000123456003), 8);
    poke(m, 0x2000 + 8 * 2, UINT64_C(0x0000000200a00083), 8);
    ck_assert_uint_eq(translate(cpu, 0xc0202abc), UINT64_C(0x123456abc));
    ck_assert_uint_eq(translate(cpu, 0xc0412345), UINT64_C(0x200a12345));
    machine_close(m);
}
END_TEST

START_TEST(four_level_paging_knows_all_page_sizes_and_canonical_addresses)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;

    paging(cpu, 0x1000, 0x20, true);
    poke(m, 0x1000 + 8 * 256, 0x2003, 8);
    poke(m, 0x2000 + 8 * 1, UINT64_C(0x140000083), 8);
    poke(m, 0x2000 + 8 * 0, 0x3003, 8);
    poke(m, 0x3000 + 8 * 1, 0x800083, 8);
    poke(m, 0x3000 + 8 * 0, 0x4003, 8);
    poke(m, 0x4000 + 8 * 5, 0x9003, 8);
    ck_assert_uint_eq(translate(cpu, UINT64_C(0xffff800000005678)), 0x9678);
    ck_assert_uint_eq(translate(cpu, UINT64_C(0xffff800000212345)), 0x812345);
    ck_assert_uint_eq(translate(cpu, UINT64_C(0xffff800052345678)), UINT64_C(0x152345678));
    ck_assert(!cpu_translate(cpu, UINT64_C(0x0000800000005678), &paddr, &error));
    ck_error(error, "not a canonical address");
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "PML4 entry at 0x1000 is not present");
    poke(m, 0x1000, 0x2083, 8);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "reserved bit 7");
    paging(cpu, 0x1000, 0x1020, true);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "5-level");
    machine_close(m);
}
END_TEST

START_TEST(tables_that_point_nowhere_or_at_themselves_end_the_walk)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;
    uint8_t buf[16];

    /* A recursive entry: every level is the same page. */
    paging(cpu, 0x1000, 0x20, true);
    poke(m, 0x1000, 0x1003, 8);
    ck_assert_uint_eq(translate(cpu, 0x234), 0x1234);
    poke(m, 0x1000, UINT64_C(0x000fffffffff0003), 8);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "is not in RAM (unassigned)");
    paging(cpu, UINT64_C(0x000ffffffffff000), 0x20, true);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "PML4");
    paging(cpu, 0xfffff000, 0x20, false);
    ck_assert(!cpu_translate(cpu, 0xffffffff, &paddr, &error));
    ck_error(error, "not in RAM");
    ck_assert(!cpu_read_virtual(cpu, UINT64_MAX - 3, buf, 16, &error));
    ck_error(error, "wraps");
    ck_assert(cpu_read_virtual(cpu, UINT64_MAX, buf, 0, &error));
    machine_close(m);
}
END_TEST

START_TEST(virtual_reads_and_writes_follow_pages_that_are_not_neighbours)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    char out[9] = "";

    paging(cpu, 0x1000, 0, false);
    poke(m, 0x1000, 0x2001, 4);
    poke(m, 0x2000 + 4 * 8, 0x9001, 4);
    poke(m, 0x2000 + 4 * 9, 0x5001, 4);
    ok(cpu_write_virtual(cpu, 0x8ffc, "abcdefgh", 8, &error), error);
    ck_assert_uint_eq(address_space_ldn(m->memory, 0x9ffc, 4, MEMTXATTRS_NONE, NULL), 0x64636261);
    ck_assert_uint_eq(address_space_ldn(m->memory, 0x5000, 4, MEMTXATTRS_NONE, NULL), 0x68676665);
    ok(cpu_read_virtual(cpu, 0x8ffc, out, 8, &error), error);
    ck_assert_str_eq(out, "abcdefgh");
    ck_assert(!cpu_read_virtual(cpu, 0x9ffc, out, 8, &error));
    ck_error(error, "0xa000");
    machine_close(m);
}
END_TEST

/* ---- exits ------------------------------------------------------------------------------- */

typedef struct Device {
    uint64_t reads, writes, last;
    uint8_t bytes[32];
} Device;

static uint64_t device_read(void *opaque, hwaddr addr, unsigned size)
{
    Device *d = opaque;

    d->reads++;
    return 0x1000 + d->reads;
}

static void device_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    Device *d = opaque;

    d->bytes[d->writes++ % sizeof(d->bytes)] = (uint8_t)value;
    d->last = value;
}

static const MemoryRegionOps device_ops = { .read = device_read, .write = device_write };

typedef struct Bench {
    Machine *m;
    VCpu *cpu;
    Device port, mmio;
    MemoryRegion port_mr, mmio_mr;
} Bench;

static void bench_open(Bench *b)
{
    memset(b, 0, sizeof(*b));
    b->m = fake_machine(1, IRQCHIP_OFF);
    b->cpu = g_ptr_array_index(b->m->cpus, 0);
    memory_region_init_io(&b->port_mr, NULL, &device_ops, &b->port, "port", 8);
    memory_region_init_io(&b->mmio_mr, NULL, &device_ops, &b->mmio, "mmio", 0x1000);
    memory_region_add_subregion(&b->m->io_root, 0x500, &b->port_mr);
    memory_region_add_subregion(&b->m->memory_root, 0xd0000000, &b->mmio_mr);
}

static void bench_close(Bench *b)
{
    machine_close(b->m);
    memory_region_finalize(&b->port_mr);
    memory_region_finalize(&b->mmio_mr);
}

/* Runs until the guest executes its last step, a triple fault that pauses. */
static void run_program(Bench *b, const FakeStep *program, unsigned n)
{
    GError *error = NULL;

    b->m->on_triple_fault = ON_EVENT_PAUSE;
    fake_load(b->cpu, program, n);
    ok(machine_resume(b->m, &error), error);
    fake_wait_state(b->m, RUN_STATE_PAUSED);
    ck_assert_uint_eq(fake_cpu(b->cpu)->torn, 0);
}

static uint64_t rax(VCpu *cpu)
{
    ok(cpu_fetch_state(cpu, X86_STATE_GPR, NULL), NULL);
    return cpu->state->gpr[X86_RAX];
}

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

static Suite *cpu_suite(void)
{
    Suite *s = suite_create("cpu");
    TCase *tc = tcase_create("mmu");

    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, an_unpaged_address_is_physical_and_ends_at_4_gib);
    tcase_add_test(tc, thirty_two_bit_paging_knows_small_large_and_pse36_pages);
    tcase_add_test(tc, pae_paging_walks_three_levels);
    tcase_add_test(tc, four_level_paging_knows_all_page_sizes_and_canonical_addresses);
    tcase_add_test(tc, tables_that_point_nowhere_or_at_themselves_end_the_walk);
    tcase_add_test(tc, virtual_reads_and_writes_follow_pages_that_are_not_neighbours);

    tc = tcase_create("exits");
    suite_add_tcase(s, tc);
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

    tc = tcase_create("threads");
    suite_add_tcase(s, tc);
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
    return s;
}

int main(void)
{
    return run_suite(cpu_suite());
}
