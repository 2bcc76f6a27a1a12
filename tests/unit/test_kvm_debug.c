/* Breakpoints and single steps on KVM. */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>

#define FUNC(n)    (GUEST_ADDR + 0x100 + 16 * (n))
#define COUNTER(n) (0x7e00 + 4 * (n))
#define ROUNDS     10
#define SMP_FUNC   (GUEST_ADDR + 0x200)

typedef struct Hits {
    unsigned n, per_cpu[2];
    uint64_t last_rip, wrong;
    uint64_t expect;
    EventAction action;
} Hits;

static EventAction count(void *opaque, VCpu *cpu, EventRecord *x)
{
    Hits *h = opaque;
    h->n++;
    h->per_cpu[cpu->index & 1]++;
    h->last_rip = x->rip;
    h->wrong += x->rip != h->expect || x->addr != h->expect;
    return h->action;
}

static EventHook *watch(Rig *r, uint64_t addr, Hits *h)
{
    h->expect = addr;
    return rig_hook(r, EVENT_EXEC, addr, 1, count, h);
}

/* How breakpoints beyond the fourth are made. INT3 is tested in protected mode: KVM without
 * hardware gives it to the guest in real mode. */
static void by_steps(Rig *r, bool steps)
{
    ck_assert(object_property_set_bool(OBJECT(r->m->accel), "step-breakpoints", steps, NULL));
}

static void start_rounds(Rig *r, unsigned rounds, bool steps)
{
    by_steps(r, steps);
    rig_start(r, steps ? "breaks" : "breaks32");
    rig_poke(r, GUEST_PARAM, rounds, 2);
}

START_TEST(a_hardware_breakpoint_fires_each_time_and_the_instruction_still_runs)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Hits h = { 0 };
    start_rounds(r, ROUNDS, true);
    ck_assert_str_eq(event_hook_how(watch(r, FUNC(0), &h)), "hw breakpoint 1/4");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(h.n, ROUNDS);
    ck_assert_uint_eq(h.wrong, 0);
    for (unsigned i = 0; i < 6; i++) {
        ck_assert_uint_eq(rig_peek(r, COUNTER(i)), ROUNDS);
    }
    rig_free(r);
}
END_TEST

static void six_breakpoints(bool steps)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Hits h[6] = { 0 };
    EventHook *hooks[6];
    uint8_t before[256], paused[256], after[256];
    start_rounds(r, ROUNDS, steps);
    address_space_read(r->m->memory, FUNC(0), MEMTXATTRS_DEBUG, before, sizeof(before));
    for (unsigned i = 0; i < 6; i++) {
        g_autofree char *how = i < 4 ? g_strdup_printf("hw breakpoint %u/4", i + 1)
                                     : g_strdup(steps ? "single steps" : "sw breakpoint");
        hooks[i] = watch(r, FUNC(i), &h[i]);
        ck_assert_str_eq(event_hook_how(hooks[i]), how);
    }
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    address_space_read(r->m->memory, FUNC(0), MEMTXATTRS_DEBUG, paused, sizeof(paused));
    ck_assert_mem_eq(before, paused, sizeof(before));
    for (unsigned i = 0; i < 6; i++) {
        ck_assert_msg(h[i].n == ROUNDS, "breakpoint %u: %u hits", i, h[i].n);
        ck_assert_uint_eq(h[i].wrong, 0);
        ck_assert_uint_eq(rig_peek(r, COUNTER(i)), ROUNDS);
        event_hook_remove(hooks[i]);
    }
    rig_set_entry(r);
    rig_run(r);
    for (unsigned i = 0; i < 6; i++) {
        ck_assert_uint_eq(h[i].n, ROUNDS);
        ck_assert_uint_eq(rig_peek(r, COUNTER(i)), 2 * ROUNDS);
    }
    address_space_read(r->m->memory, FUNC(0), MEMTXATTRS_DEBUG, after, sizeof(after));
    ck_assert_mem_eq(before, after, sizeof(before));
    rig_free(r);
}

START_TEST(more_breakpoints_than_debug_registers_all_fire_and_leave_no_trace)
{
    six_breakpoints(false);
}
END_TEST

START_TEST(breakpoints_by_single_steps_all_fire_too)
{
    six_breakpoints(true);
}
END_TEST

static void pause_at(unsigned fillers, bool steps)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Hits other = { 0 }, h = { .action = EVENT_PAUSE };
    start_rounds(r, 4, steps);
    for (unsigned i = 0; i < fillers; i++) {
        watch(r, 0x100 + i, &other);
    }
    watch(r, FUNC(2), &h);
    for (unsigned i = 0; i < 4; i++) {
        rig_run(r);
        ck_assert_int_eq(r->m->state, RUN_STATE_PAUSED);
        ck_assert(!r->finished);
        ck_assert_uint_eq(h.n, i + 1);
        ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
        ck_assert_uint_eq(rig_cpu(r, 0)->state->rip, FUNC(2));
        ck_assert_uint_eq(rig_peek(r, COUNTER(1)), i + 1);
        ck_assert_uint_eq(rig_peek(r, COUNTER(2)), i);
    }
    rig_run(r);
    ck_assert(r->finished);
    ck_assert_uint_eq(h.n, 4);
    ck_assert_uint_eq(other.n, 0);
    rig_free(r);
}

START_TEST(a_machine_pauses_exactly_at_a_hardware_breakpoint_and_goes_on_from_it)
{
    pause_at(0, true);
}
END_TEST

START_TEST(a_machine_pauses_exactly_at_a_software_breakpoint_and_goes_on_from_it)
{
    pause_at(4, false);
}
END_TEST

START_TEST(a_machine_pauses_exactly_at_a_breakpoint_by_single_steps)
{
    pause_at(4, true);
}
END_TEST

START_TEST(a_software_breakpoint_is_hidden_from_readers_while_the_machine_runs)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Hits other = { 0 }, h = { 0 };
    AccelClass *k = ACCEL_GET_CLASS(r->m->accel);
    start_rounds(r, 0, false);
    rig_poke(r, GUEST_PARAM, 0, 2); /* 65536 rounds */
    uint8_t was[4], raw[4];
    address_space_read(r->m->memory, FUNC(5), MEMTXATTRS_DEBUG, was, 4);
    for (unsigned i = 0; i < 4; i++) {
        watch(r, 0x100 + i, &other);
    }
    watch(r, FUNC(5), &h);
    rig_resume(r);
    while (h.n == 0 && r->m->state == RUN_STATE_RUNNING) {
        main_loop_iterate(false);
    }
    address_space_read(r->m->memory, FUNC(5), MEMTXATTRS_DEBUG, raw, 4);
    k->hide_breakpoints(r->m->accel, FUNC(5), raw, 4);
    ck_assert_mem_eq(raw, was, 4);
    rig_pause(r);
    address_space_read(r->m->memory, FUNC(5), MEMTXATTRS_DEBUG, raw, 4);
    ck_assert_mem_eq(raw, was, 4);
    rig_free(r);
}
END_TEST

START_TEST(a_single_step_is_one_instruction_also_over_port_accesses)
{
    static const uint64_t rips[] = { 0x1001, 0x1004, 0x1005, 0x1007, 0x100a, 0x100b,
                                     0x100e, 0x1011, 0x1012, 0x1013, 0x1014 };
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    GError *err = NULL;
    rig_start(r, "step");
    for (unsigned i = 0; i < G_N_ELEMENTS(rips); i++) {
        ck_assert_msg(machine_step(r->m, rig_cpu(r, 0), &err), "%s", err ? err->message : "");
        rig_wait(r);
        ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_GPR, &err));
        ck_assert_msg(rig_cpu(r, 0)->state->rip == rips[i], "step %u ends at %#llx, not %#llx (%s)",
                      i, (unsigned long long)rig_cpu(r, 0)->state->rip, (unsigned long long)rips[i],
                      r->m->reason);
    }
    ck_assert_uint_eq(r->next_source, 1);
    ck_assert_uint_eq(r->n, 2);
    rig_run(r);
    ck_assert(r->finished);
    rig_free(r);
}
END_TEST

START_TEST(a_step_onto_a_breakpoint_fires_it_once)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Hits h = { 0 };
    rig_start(r, "step");
    watch(r, 0x1001, &h);
    for (unsigned i = 0; i < 2; i++) {
        ck_assert(machine_step(r->m, rig_cpu(r, 0), NULL));
        rig_wait(r);
    }
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_GPR, NULL));
    ck_assert_uint_eq(rig_cpu(r, 0)->state->rip, 0x1004);
    ck_assert_uint_eq(h.n, 1);
    rig_run(r);
    ck_assert(r->finished);
    ck_assert_uint_eq(h.n, 1);
    rig_free(r);
}
END_TEST

START_TEST(the_guests_own_int3_is_its_own_while_software_breakpoints_are_in_use)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Hits other = { 0 };
    by_steps(r, true);
    rig_start(r, "int3");
    for (unsigned i = 0; i < 5; i++) {
        watch(r, 0x100 + i, &other);
    }
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    ck_assert_uint_eq(r->n, 1);
    ck_assert_uint_eq(r->got[0].value, 0x33);
    ck_assert_uint_eq(other.n, 0);
    rig_free(r);
}
END_TEST

START_TEST(a_breakpoint_set_and_removed_while_the_guest_runs_fires_in_between)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    start_rounds(r, 0, false);
    rig_resume(r);
    for (unsigned i = 0; i < rig_rounds(200) && r->m->state == RUN_STATE_RUNNING; i++) {
        Hits h[5] = { 0 };
        EventHook *hooks[5];
        for (unsigned k = 0; k < 5; k++) {
            hooks[k] = watch(r, FUNC(k), &h[k]);
        }
        while (h[4].n < 3 && r->m->state == RUN_STATE_RUNNING) {
            main_loop_iterate(false);
        }
        for (unsigned k = 0; k < 5; k++) {
            event_hook_remove(hooks[k]);
            ck_assert_uint_eq(h[k].wrong, 0);
        }
    }
    rig_pause(r);
    ck_assert_msg(strcmp(r->m->reason, "test") == 0 || r->finished, "%s", r->m->reason);
    rig_free(r);
}
END_TEST

/* Both processors call one function with a breakpoint on it; each call is seen. */
static void smp_breaks(unsigned fillers, bool steps, unsigned hits)
{
    Rig *r = rig_new(IRQCHIP_ON, false, 1 * MiB);
    Hits other = { 0 }, h = { 0 };
    by_steps(r, steps);
    rig_add_cpu(r);
    rig_add_cpu(r);
    rig_start(r, "smpbreak");
    for (unsigned i = 0; i < fillers; i++) {
        watch(r, 0x100 + i, &other);
    }
    watch(r, SMP_FUNC, &h);
    rig_resume(r);
    while ((h.per_cpu[0] < hits || h.per_cpu[1] < hits) && r->m->state == RUN_STATE_RUNNING) {
        main_loop_iterate(false);
    }
    rig_pause(r);
    ck_assert_str_eq(r->m->reason, "test");
    for (unsigned c = 0; c < 2; c++) {
        unsigned ran = rig_peek(r, 0x7d04 + 8 * c);
        ck_assert_msg(ran == h.per_cpu[c] || ran + 1 == h.per_cpu[c],
                      "cpu %u ran it %u times, was seen %u times", c, ran, h.per_cpu[c]);
    }
    ck_assert_uint_eq(h.wrong, 0);
    ck_assert_msg(other.n == 0, "%u hits of others, last at %#llx, per cpu %u %u", other.n,
                  (unsigned long long)other.last_rip, other.per_cpu[0], other.per_cpu[1]);
    rig_free(r);
}

START_TEST(two_processors_are_both_stopped_by_one_hardware_breakpoint)
{
    smp_breaks(0, false, rig_rounds(1000));
}
END_TEST

START_TEST(no_processor_slips_past_a_software_breakpoint_that_another_steps_over)
{
    smp_breaks(4, false, rig_rounds(1000));
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, a_hardware_breakpoint_fires_each_time_and_the_instruction_still_runs);
    tcase_add_test(tc, more_breakpoints_than_debug_registers_all_fire_and_leave_no_trace);
    tcase_add_test(tc, breakpoints_by_single_steps_all_fire_too);
    tcase_add_test(tc, a_machine_pauses_exactly_at_a_breakpoint_by_single_steps);
    tcase_add_test(tc, a_machine_pauses_exactly_at_a_hardware_breakpoint_and_goes_on_from_it);
    tcase_add_test(tc, a_machine_pauses_exactly_at_a_software_breakpoint_and_goes_on_from_it);
    tcase_add_test(tc, a_software_breakpoint_is_hidden_from_readers_while_the_machine_runs);
    tcase_add_test(tc, a_single_step_is_one_instruction_also_over_port_accesses);
    tcase_add_test(tc, a_step_onto_a_breakpoint_fires_it_once);
    tcase_add_test(tc, the_guests_own_int3_is_its_own_while_software_breakpoints_are_in_use);
    tcase_add_test(tc, a_breakpoint_set_and_removed_while_the_guest_runs_fires_in_between);
    tcase_add_test(tc, two_processors_are_both_stopped_by_one_hardware_breakpoint);
    tcase_add_test(tc, no_processor_slips_past_a_software_breakpoint_that_another_steps_over);
}

int main(void)
{
    return rig_main("kvm debug", add);
}
