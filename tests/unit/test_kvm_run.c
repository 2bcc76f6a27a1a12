/*
 * Starting, pausing, kicking, resuming and ending vCPUs of KVM, many times. VMLUA_LONG=1: ten times
 * as often. Meant to be run under ThreadSanitizer too.
 */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>

static uint32_t wanted;

static bool counted(Rig *r)
{
    return rig_peek(r, 0x7f00) > wanted;
}

START_TEST(a_guest_that_never_exits_pauses_and_goes_on_every_time)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "spin");
    for (unsigned i = 0; i < rig_rounds(5000); i++) {
        rig_resume(r);
        if (i % 8 == 0) {
            wanted = rig_peek(r, 0x7f00);
            rig_until(r, counted);
        }
        rig_pause(r);
        ck_assert_int_eq(r->m->state, RUN_STATE_PAUSED);
        ck_assert(rig_cpu(r, 0)->stopped);
        GError *err = NULL;
        ck_assert_msg(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_GPR, &err), "%s",
                      err ? err->message : "");
        ck_assert_uint_ge(rig_cpu(r, 0)->state->rip, GUEST_ADDR);
        ck_assert_uint_lt(rig_cpu(r, 0)->state->rip, GUEST_ADDR + 16);
    }
    rig_free(r);
}
END_TEST

START_TEST(a_guest_full_of_exits_pauses_with_no_access_half_done)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "mmioloop");
    rig_poke(r, GUEST_PARAM + 2, 0, 2);
    for (unsigned i = 0; i < rig_rounds(3000); i++) {
        unsigned before = r->n;
        GError *err = NULL;
        rig_resume(r);
        while (r->n == before && r->m->state == RUN_STATE_RUNNING) {
            main_loop_iterate(false);
        }
        rig_pause(r);
        ck_assert_msg(r->m->state == RUN_STATE_PAUSED, "%s", r->m->reason);
        unsigned seen = r->n;
        ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_ALL, &err));
        ck_assert(cpu_modify_state(rig_cpu(r, 0), X86_STATE_ALL, &err));
        ck_assert_uint_eq(r->n, seen);
        r->n = 0;
    }
    rig_free(r);
}
END_TEST

START_TEST(machines_are_made_run_and_closed_over_and_over)
{
    for (unsigned i = 0; i < rig_rounds(1000); i++) {
        Rig *r = rig_new(i % 3 == 0   ? IRQCHIP_ON
                         : i % 3 == 1 ? IRQCHIP_SPLIT
                                      : IRQCHIP_OFF,
                         i % 3 == 0, 1 * MiB);
        rig_add_cpu(r);
        if (i % 2 && i % 3 != 2) {
            rig_add_cpu(r);
        }
        rig_start(r, "spin");
        if (i % 4) {
            rig_resume(r);
        }
        rig_free(r);
    }
}
END_TEST

START_TEST(two_machines_run_beside_each_other)
{
    Rig *a = rig_new(IRQCHIP_OFF, false, 1 * MiB), *b = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(a, "spin");
    rig_start(b, "pio");
    rig_resume(a);
    rig_run(b);
    ck_assert(b->finished);
    rig_free(b);
    wanted = rig_peek(a, 0x7f00);
    rig_until(a, counted);
    rig_pause(a);
    rig_free(a);
}
END_TEST

typedef struct Closer {
    Rig *closes;    /* NULL: nothing */
    unsigned after; /* so many writes of the guest */
} Closer;

static EventAction close_another(void *opaque, VCpu *cpu, EventRecord *x)
{
    Closer *c = opaque;
    if (c->closes && c->after-- == 0) {
        machine_close(c->closes->m); /* on a vCPU's thread: done soon after */
        c->closes = NULL;
    }
    return EVENT_CONTINUE;
}

/* Machines that all run, some busy with exits, closed in random order: by the main thread, by a
 * hook of their own, or by a hook of another. */
START_TEST(machines_that_run_are_closed_in_any_order)
{
    enum { N = 3 };
    unsigned seed = 4242;
    for (unsigned round = 0; round < rig_rounds(300); round++) {
        Rig *rigs[N];
        Closer closers[N];
        for (unsigned i = 0; i < N; i++) {
            unsigned kind = (unsigned)rand_r(&seed) % 3;
            rigs[i] = rig_new(kind == 0   ? IRQCHIP_ON
                              : kind == 1 ? IRQCHIP_SPLIT
                                          : IRQCHIP_OFF,
                              false, 1 * MiB);
            rig_add_cpu(rigs[i]);
            if (rand_r(&seed) % 2) {
                rig_add_cpu(rigs[i]);
            }
            rig_start(rigs[i], rand_r(&seed) % 2 ? "mmioloop" : "spin");
            rig_poke(rigs[i], GUEST_PARAM + 2, 0, 2);
        }
        for (unsigned i = 0; i < N; i++) {
            unsigned whom = (unsigned)rand_r(&seed) % (2 * N);
            closers[i] = (Closer){ .closes = whom < N ? rigs[whom] : NULL,
                                   .after = (unsigned)rand_r(&seed) % 20 };
            object_ref(rigs[i]->m);
            rig_hook(rigs[i], EVENT_MMIO, MMIO_DEVICE, 4096, close_another, &closers[i]);
            rig_resume(rigs[i]);
        }
        for (unsigned i = (unsigned)rand_r(&seed) % 60; i > 0; i--) {
            main_loop_iterate(false);
        }
        for (unsigned first = (unsigned)rand_r(&seed) % N, i = 0; i < N; i++) {
            machine_close(rigs[(first + i) % N]->m);
        }
        for (unsigned i = 0; i < N; i++) {
            while (rigs[i]->m->state != RUN_STATE_CLOSED) {
                main_loop_iterate(true);
            }
        }
        for (unsigned i = 0; i < N; i++) {
            Machine *m = rigs[i]->m;
            rig_free(rigs[i]);
            object_unref(m);
        }
    }
}
END_TEST

START_TEST(a_vcpu_that_ended_can_be_started_again)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    GError *err = NULL;
    rig_start(r, "pio");
    VCpu *cpu = rig_cpu(r, 0);
    for (unsigned i = 0; i < 20; i++) {
        cpu_stop_thread(cpu);
        ck_assert_msg(cpu_start_thread(cpu, &err), "%s", err ? err->message : "");
        ck_assert_msg(ACCEL_GET_CLASS(r->m->accel)->set_cpuid(cpu, &err), "%s",
                      err ? err->message : "");
        cpu_reset(cpu);
        rig_set_entry(r);
        r->finished = false;
        rig_run(r);
        ck_assert_msg(r->finished, "%s", r->m->reason);
    }
    rig_free(r);
}
END_TEST

static void add_one(VCpu *cpu, void *opaque)
{
    (*(unsigned *)opaque)++;
}

START_TEST(work_for_a_running_vcpu_is_done_between_two_entries)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    unsigned n = 0;
    rig_start(r, "spin");
    rig_resume(r);
    for (unsigned i = 0; i < rig_rounds(5000); i++) {
        cpu_run_on(rig_cpu(r, 0), add_one, &n);
    }
    ck_assert_uint_eq(n, rig_rounds(5000));
    rig_pause(r);
    rig_free(r);
}
END_TEST

typedef struct Kicker {
    VCpu *cpu;
    bool end;
} Kicker;

static gpointer kick_always(gpointer opaque)
{
    Kicker *k = opaque;
    while (!__atomic_load_n(&k->end, __ATOMIC_RELAXED)) {
        cpu_kick(k->cpu);
        g_thread_yield();
    }
    return NULL;
}

START_TEST(kicks_from_other_threads_change_nothing_that_the_guest_does)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "pio");
    Kicker k = { .cpu = rig_cpu(r, 0) };
    GThread *t = g_thread_new("kicker", kick_always, &k);
    for (unsigned i = 0; i < rig_rounds(200); i++) {
        r->n = 0;
        r->next_source = 0;
        r->finished = false;
        rig_set_entry(r);
        rig_run(r);
        ck_assert_msg(r->finished, "%s", r->m->reason);
        ck_assert_uint_eq(r->next_source, 3007);
        ck_assert_uint_eq(r->got[17].value, 7);
    }
    __atomic_store_n(&k.end, true, __ATOMIC_RELAXED);
    g_thread_join(t);
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, a_guest_that_never_exits_pauses_and_goes_on_every_time);
    tcase_add_test(tc, a_guest_full_of_exits_pauses_with_no_access_half_done);
    tcase_add_test(tc, machines_are_made_run_and_closed_over_and_over);
    tcase_add_test(tc, two_machines_run_beside_each_other);
    tcase_add_test(tc, machines_that_run_are_closed_in_any_order);
    tcase_add_test(tc, a_vcpu_that_ended_can_be_started_again);
    tcase_add_test(tc, work_for_a_running_vcpu_is_done_between_two_entries);
    tcase_add_test(tc, kicks_from_other_threads_change_nothing_that_the_guest_does);
}

int main(void)
{
    return rig_main("kvm run", add);
}
