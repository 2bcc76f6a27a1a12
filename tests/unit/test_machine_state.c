/* Saved state of machines on the test accelerator: streams, snapshots, what a reset puts back. */
#include <check.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/irq.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "fake-rig.h"
#include "tests/unit/run_suite.h"

/* ---- saved state ------------------------------------------------------------------------- */

typedef struct Toy {
    uint32_t value;
    Timer timer;
    unsigned fired;
    Machine *m;
    bool fail_load, fail_once;
} Toy;

static bool toy_post_load(void *opaque, unsigned version, GError **error)
{
    Toy *t = opaque;

    if (t->fail_load || t->fail_once) {
        t->fail_once = false;
        return error_set(error, ENGINE_ERROR_CORRUPT, "the toy refuses");
    }
    return true;
}

static const VMStateDescription vmstate_toy = {
    .name = "toy",
    .version = 1,
    .minimum_version = 1,
    .post_load = toy_post_load,
    .fields = (const VMStateField[]){ VMSTATE_UINT32(value, Toy), VMSTATE_TIMER(timer, Toy),
                                      VMSTATE_END() },
};

static void toy_fire(void *opaque)
{
    ((Toy *)opaque)->fired++;
}

static void toy_add(Toy *t, Machine *m)
{
    GError *error = NULL;

    t->m = m;
    timer_setup(&t->timer, m->clock, toy_fire, t);
    ok(machine_register_state(m, "toy", 0, &vmstate_toy, t, &error), error);
}

static uint64_t ram(Machine *m, uint64_t addr)
{
    return address_space_ldn(m->memory, addr, 8, MEMTXATTRS_DEBUG, NULL);
}

static void set_ram(Machine *m, uint64_t addr, uint64_t v)
{
    address_space_stn(m->memory, addr, v, 8, MEMTXATTRS_NONE, NULL);
}

START_TEST(a_restored_machine_is_what_it_was)
{
    Machine *m = fake_machine(2, IRQCHIP_ON);
    Toy t = { .value = 5 };
    Snapshot *s;
    GBytes *before, *after;
    GError *error = NULL;

    toy_add(&t, m);
    clock_set(m->clock, 1000);
    timer_arm(&t.timer, 5000);
    set_ram(m, 0x3000, 111);
    irq_raise(machine_gsi(m, 3));
    fake_accel(m)->counter = 9;
    ok(cpu_modify_state(cpu_at(m, 1), X86_STATE_ALL, NULL), NULL);
    cpu_at(m, 1)->state->gpr[X86_R15] = 0xabc;
    cpu_at(m, 1)->state->xsave[700] = 3;
    cpu_at(m, 1)->state->events.nmi_pending = true;
    x86_msr_set(cpu_at(m, 1)->state, 0x277, 4);
    before = machine_save_devices(m, &error);
    ok(before != NULL, error);
    s = machine_snapshot(m, &error);
    ok(s != NULL, error);
    ck_assert_uint_gt(snapshot_device_bytes(s), 1000);

    t.value = 6;
    timer_arm(&t.timer, 1);
    clock_set(m->clock, 77);
    set_ram(m, 0x3000, 222);
    irq_lower(machine_gsi(m, 3));
    fake_accel(m)->counter = 10;
    cpu_at(m, 1)->state->gpr[X86_R15] = 0;
    cpu_at(m, 1)->state->xsave[700] = 0;
    cpu_at(m, 1)->state->events.nmi_pending = false;
    x86_msr_set(cpu_at(m, 1)->state, 0x277, 5);

    ok(machine_restore(m, s, &error), error);
    ck_assert_uint_eq(machine_restore_count(m), 1);
    ck_assert_uint_eq(t.value, 5);
    ck_assert_int_eq(t.timer.expire, 5000);
    ck_assert_int_eq(clock_now(m->clock), 1000);
    ck_assert_uint_eq(ram(m, 0x3000), 111);
    ck_assert_int_eq(irq_level(machine_gsi(m, 3)), 1);
    ck_assert_uint_eq(fake_accel(m)->lines[3], 1);
    ck_assert_uint_eq(fake_accel(m)->counter, 9);
    after = machine_save_devices(m, &error);
    ok(after != NULL, error);
    ck_assert(g_bytes_equal(before, after));
    g_bytes_unref(before);
    g_bytes_unref(after);
    timer_disarm(&t.timer);
    snapshot_unref(s);
    machine_close(m);
}
END_TEST

START_TEST(snapshots_nest_and_remember_whether_the_machine_ran)
{
    Machine *m = RUNNING(2, busy);
    Snapshot *running, *paused;
    GError *error = NULL;
    uint64_t count;

    running = machine_snapshot(m, &error);
    ok(running != NULL, error);
    ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    machine_pause(m, "for a look");
    ok(cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
    count = cpu_at(m, 0)->state->gpr[X86_RBX];
    paused = machine_snapshot(m, &error);
    ok(paused != NULL, error);
    resume(m);
    for (unsigned i = 0; i < 30; i++) {
        ok(machine_restore(m, paused, &error), error);
        ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
        ck_assert_str_eq(m->reason, "for a look");
        ok(cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
        ck_assert_uint_eq(cpu_at(m, 0)->state->gpr[X86_RBX], count);
        ok(machine_restore(m, running, &error), error);
        ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    }
    snapshot_ref(running);
    snapshot_unref(running);
    snapshot_unref(running);
    ok(machine_restore(m, paused, &error), error);
    ck_assert_uint_eq(fake_cpu(cpu_at(m, 0))->torn, 0);
    machine_close(m);
    ck_assert_uint_gt(snapshot_device_bytes(paused), 0);
    snapshot_unref(paused); /* after its machine */
}
END_TEST

START_TEST(a_failed_restore_leaves_an_error_until_reset_or_restored)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Toy t = { .value = 5 };
    Snapshot *s;
    GError *error = NULL;

    toy_add(&t, m);
    s = machine_snapshot(m, &error);
    ok(s != NULL, error);
    t.fail_load = true;
    ck_assert(!machine_restore(m, s, &error));
    ck_error(error, "the toy refuses");
    ck_assert_int_eq(m->state, RUN_STATE_ERROR);
    ck_assert_ptr_nonnull(strstr(m->reason, "the toy refuses"));
    ck_assert(!machine_resume(m, &error));
    ck_error(error, "half a state");
    ck_assert_ptr_null(machine_snapshot(m, &error));
    ck_error(error, "half a state");
    ok(machine_reset(m, &error), error);
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    ck_assert(!machine_restore(m, s, &error));
    g_clear_error(&error);
    t.fail_load = false;
    ok(machine_restore(m, s, &error), error);
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    snapshot_unref(s);
    machine_close(m);
}
END_TEST

START_TEST(a_failed_restore_leaves_the_machine_as_it_was)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Toy t = { .value = 5 };
    Snapshot *s;
    GError *error = NULL;

    toy_add(&t, m);
    s = machine_snapshot(m, &error);
    ok(s != NULL, error);
    t.value = 6;
    ok(cpu_modify_state(cpu_at(m, 0), X86_STATE_GPR, &error), error);
    cpu_at(m, 0)->state->gpr[X86_RBX] = 0x77;
    t.fail_once = true;
    ck_assert(!machine_restore(m, s, &error));
    ck_error(error, "the toy refuses");
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    ck_assert_uint_eq(machine_restore_count(m), 0);
    ck_assert_uint_eq(t.value, 6);
    ck_assert_uint_eq(cpu_at(m, 0)->state->gpr[X86_RBX], 0x77);
    ok(machine_restore(m, s, &error), error);
    ck_assert_uint_eq(t.value, 5);
    snapshot_unref(s);
    machine_close(m);
}
END_TEST

START_TEST(a_snapshot_goes_into_another_machine_of_the_same_shape)
{
    Machine *a = fake_machine(1, IRQCHIP_ON), *b = fake_machine(1, IRQCHIP_ON);
    Machine *two = fake_machine(2, IRQCHIP_ON);
    GError *error = NULL;
    Snapshot *s;

    ok(cpu_modify_state(cpu_at(a, 0), X86_STATE_GPR, &error), error);
    cpu_at(a, 0)->state->gpr[X86_RBX] = 0x1234;
    s = machine_snapshot(a, &error);
    ok(machine_restore(b, s, &error), error);
    ck_assert_int_eq(b->state, RUN_STATE_PAUSED);
    ck_assert_uint_eq(cpu_at(b, 0)->state->gpr[X86_RBX], 0x1234);
    ck_assert_uint_eq(machine_restore_count(b), 1);
    ck_assert(!machine_restore(two, s, &error));
    ck_error(error, "has no 'cpu' 1");
    ck_assert_int_eq(two->state, RUN_STATE_PAUSED);
    ck_assert_uint_eq(machine_restore_count(two), 0);
    machine_close(two);
    machine_close(a);
    ck_assert(!machine_restore(b, s, &error));
    ck_error(error, "is closed");
    snapshot_unref(s);
    machine_close(b);
}
END_TEST

START_TEST(a_stream_of_another_shape_is_refused_by_name)
{
    Machine *m = fake_machine(1, IRQCHIP_ON), *two = fake_machine(2, IRQCHIP_ON);
    Toy t = { .value = 5 };
    GError *error = NULL;
    GBytes *one_cpu = machine_save_devices(m, NULL), *two_cpus = machine_save_devices(two, NULL);
    GBytes *with_toy, *garbage = g_bytes_new_static("VMLUAST", 8);

    ck_assert(!machine_load_devices(m, two_cpus, &error));
    ck_error(error, "has a 'cpu' 1");
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    ck_assert(!machine_load_devices(two, one_cpu, &error));
    ck_error(error, "has no 'cpu' 1");
    ok(machine_load_devices(m, one_cpu, &error) && machine_reset(m, &error), error);
    toy_add(&t, m);
    with_toy = machine_save_devices(m, &error);
    ok(with_toy != NULL, error);
    ck_assert(!machine_load_devices(m, one_cpu, &error));
    ck_error(error, "has no 'toy' 0");
    machine_unregister_state(m, &vmstate_toy, &t);
    ck_assert(!machine_load_devices(m, with_toy, &error));
    ck_error(error, "has a 'toy' 0");
    ck_assert(!machine_load_devices(m, garbage, &error));
    g_clear_error(&error);
    g_bytes_unref(one_cpu);
    g_bytes_unref(two_cpus);
    g_bytes_unref(with_toy);
    g_bytes_unref(garbage);
    machine_close(m);
    machine_close(two);
}
END_TEST

START_TEST(names_of_saved_state_are_unique_and_not_the_machines_own)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Toy t = { 0 }, u = { 0 };
    GError *error = NULL;

    toy_add(&t, m);
    ck_assert(!machine_register_state(m, "toy", 0, &vmstate_toy, &u, &error));
    ck_error(error, "already saved state called 'toy' 0");
    ok(machine_register_state(m, "toy", 1, &vmstate_toy, &u, &error), error);
    ck_assert(!machine_register_state(m, "cpu", 0, &vmstate_toy, &u, &error));
    ck_error(error, "machine's own");
    machine_unregister_state(m, &vmstate_toy, &t);
    machine_unregister_state(m, &vmstate_toy, &t);
    machine_close(m);
}
END_TEST

START_TEST(registers_that_cannot_be_had_fail_the_snapshot_not_the_machine)
{
    Machine *m = RUNNING(1, busy);
    GError *error = NULL;

    while (__atomic_load_n(&cpu_at(m, 0)->stats.exits[CPU_EXIT_PIO], __ATOMIC_RELAXED) == 0) {
        main_loop_iterate(false);
    }
    fake_accel(m)->fail_get = true;
    ck_assert_ptr_null(machine_snapshot(m, &error));
    ck_error(error, "registers refused by the test");
    ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    fake_accel(m)->fail_get = false;
    machine_pause(m, "test");
    ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    machine_close(m);
}
END_TEST

START_TEST(reset_puts_the_accelerators_devices_back)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    GError *error = NULL;

    fake_accel(m)->counter = 7;
    ok(machine_reset(m, &error), error);
    ck_assert_uint_eq(fake_accel(m)->counter, 0);
    machine_close(m);
}
END_TEST

START_TEST(msrs_go_back_to_what_the_accelerator_made_them)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    GError *error = NULL;
    VCpu *cpu = cpu_at(m, 0);

    ok(cpu_modify_state(cpu, X86_STATE_MSRS, &error), error);
    x86_msr_set(cpu->state, 0x277, 1);
    x86_msr_set(cpu->state, 0x999, 1);
    ok(machine_reset(m, &error), error);
    ck_assert_uint_eq(cpu->state->n_msrs, 2);
    ck_assert_uint_eq(x86_msr_find(cpu->state, 0x277)->value, UINT64_C(0x0007040600070406));
    machine_close(m);
}
END_TEST

START_TEST(snapshots_taken_while_the_guest_runs_are_whole)
{
    Machine *m = fake_machine(2, IRQCHIP_ON);
    GError *error = NULL;

    FAKE_LOAD(cpu_at(m, 0), busy);
    FAKE_LOAD(cpu_at(m, 1), asleep);
    resume(m);
    for (unsigned i = 0; i < 200; i++) {
        Snapshot *s = machine_snapshot(m, &error);
        uint64_t stored, counted;

        ok(s != NULL, error);
        ok(machine_restore(m, s, &error), error);
        machine_pause(m, "look");
        /* RBX counts, then is stored: they are never more than one step apart. */
        ok(cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, NULL), NULL);
        counted = cpu_at(m, 0)->state->gpr[X86_RBX];
        stored = ram(m, 0x2000);
        ck_assert_uint_le(counted - stored, 1);
        resume(m);
        snapshot_unref(s);
    }
    for (unsigned c = 0; c < 2; c++) {
        ck_assert_uint_eq(fake_cpu(cpu_at(m, c))->torn, 0);
    }
    machine_close(m);
}
END_TEST

/* ---- torture ----------------------------------------------------------------------------- */

/* A device that forgets: `lost` is reset and not saved; with `drift` what is saved is never what
 * was loaded. */
typedef struct Forgetful {
    uint32_t kept, lost;
    bool drift;
} Forgetful;

static bool forgetful_post_load(void *opaque, unsigned version, GError **error)
{
    Forgetful *f = opaque;

    f->kept += f->drift;
    return true;
}

static const VMStateDescription vmstate_forgetful = {
    .name = "forgetful",
    .version = 1,
    .minimum_version = 1,
    .post_load = forgetful_post_load,
    .fields = (const VMStateField[]){ VMSTATE_UINT32(kept, Forgetful), VMSTATE_END() },
};

static void forgetful_reset(void *opaque)
{
    Forgetful *f = opaque;

    f->kept = f->lost = 0;
}

static void count_call(void *opaque)
{
    (*(unsigned *)opaque)++;
}

static void count_state(Machine *m, RunState state, void *opaque)
{
    (*(unsigned *)opaque)++;
}

START_TEST(torture_puts_back_what_is_saved_and_nothing_else)
{
    Machine *m = fake_machine(2, IRQCHIP_ON);
    Forgetful f = { .kept = 1, .lost = 2 };
    unsigned resets = 0, notes = 0;
    GError *error = NULL;
    bool done = false;

    ok(machine_register_state(m, "forgetful", 0, &vmstate_forgetful, &f, &error), error);
    machine_add_reset(m, forgetful_reset, &f);
    machine_add_reset_watch(m, count_call, &resets);
    machine_add_notify(m, count_state, &notes);
    clock_set(m->clock, 1000);
    set_ram(m, 0x3000, 111);
    irq_raise(machine_gsi(m, 3));
    fake_accel(m)->counter = 9;
    for (int kind = TORTURE_SNAPSHOT; kind <= TORTURE_STREAM; kind++) {
        f.lost = 2;
        ok(machine_torture(m, kind, &done, &error), error);
        ck_assert(done);
        ck_assert_uint_eq(f.kept, 1);
        ck_assert_uint_eq(f.lost, 0);
        ck_assert_int_eq(clock_now(m->clock), 1000);
        ck_assert_uint_eq(ram(m, 0x3000), 111);
        ck_assert_int_eq(irq_level(machine_gsi(m, 3)), 1);
        ck_assert_uint_eq(fake_accel(m)->counter, 9);
    }
    ck_assert_uint_eq(resets + notes, 0);
    ck_assert_uint_eq(machine_restore_count(m), 0);
    machine_unregister_state(m, &vmstate_forgetful, &f);
    machine_close(m);
}
END_TEST

START_TEST(torture_finds_what_loading_changes)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Forgetful f = { .drift = true };
    GError *error = NULL;
    bool done = false;

    ok(machine_register_state(m, "forgetful", 0, &vmstate_forgetful, &f, &error), error);
    ck_assert(!machine_torture(m, TORTURE_STREAM, &done, &error));
    ck_error(error, "'forgetful' 0 saved, loaded and saved again differs");
    ck_assert_int_eq(m->state, RUN_STATE_ERROR);
    /* A machine that has only half a state is left alone until it is reset. */
    ok(machine_torture(m, TORTURE_STREAM, &done, &error), error);
    ck_assert(!done);
    f.drift = false;
    ok(machine_reset(m, &error), error);
    ok(machine_torture(m, TORTURE_STREAM, &done, &error), error);
    ck_assert(done);
    machine_unregister_state(m, &vmstate_forgetful, &f);
    machine_close(m);
}
END_TEST

/* One of two devices on a line, which drives it by what it knows. */
typedef struct Sharer {
    Machine *m;
    uint8_t level;
} Sharer;

static bool sharer_post_load(void *opaque, unsigned version, GError **error)
{
    Sharer *s = opaque;

    irq_set(machine_gsi(s->m, 4), s->level);
    return true;
}

static const VMStateDescription vmstate_sharer = {
    .name = "sharer",
    .version = 1,
    .minimum_version = 1,
    .post_load = sharer_post_load,
    .fields = (const VMStateField[]){ VMSTATE_UINT8(level, Sharer), VMSTATE_END() },
};

START_TEST(a_line_that_two_devices_share_has_its_level_again)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    Sharer one = { m, 1 }, other = { m, 0 };
    GError *error = NULL;
    bool done;

    ok(machine_register_state(m, "sharer", 0, &vmstate_sharer, &one, &error), error);
    ok(machine_register_state(m, "sharer", 1, &vmstate_sharer, &other, &error), error);
    irq_raise(machine_gsi(m, 4));
    ok(machine_torture(m, TORTURE_SNAPSHOT, &done, &error), error);
    ck_assert_int_eq(irq_level(machine_gsi(m, 4)), 1);
    ck_assert_uint_eq(fake_accel(m)->lines[4], 1);
    irq_lower(machine_gsi(m, 4)); /* lines move again */
    ck_assert_uint_eq(fake_accel(m)->lines[4], 0);
    machine_unregister_state(m, &vmstate_sharer, &one);
    machine_unregister_state(m, &vmstate_sharer, &other);
    machine_close(m);
}
END_TEST

START_TEST(a_machine_that_runs_goes_on_under_torture)
{
    Machine *m = RUNNING(2, busy);
    GError *error = NULL;
    bool done;

    for (unsigned i = 0; i < 50; i++) {
        ok(machine_torture(m, i % 2 ? TORTURE_SNAPSHOT : TORTURE_STREAM, &done, &error), error);
        ck_assert(done);
        ck_assert_int_eq(m->state, RUN_STATE_RUNNING);
    }
    for (unsigned c = 0; c < 2; c++) {
        ck_assert_uint_eq(fake_cpu(cpu_at(m, c))->torn, 0);
    }
    machine_close(m);
}
END_TEST

static Suite *machine_state_suite(void)
{
    Suite *s = suite_create("machine-state");
    TCase *tc = tcase_create("state");

    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, a_restored_machine_is_what_it_was);
    tcase_add_test(tc, snapshots_nest_and_remember_whether_the_machine_ran);
    tcase_add_test(tc, a_failed_restore_leaves_an_error_until_reset_or_restored);
    tcase_add_test(tc, a_failed_restore_leaves_the_machine_as_it_was);
    tcase_add_test(tc, a_snapshot_goes_into_another_machine_of_the_same_shape);
    tcase_add_test(tc, a_stream_of_another_shape_is_refused_by_name);
    tcase_add_test(tc, names_of_saved_state_are_unique_and_not_the_machines_own);
    tcase_add_test(tc, registers_that_cannot_be_had_fail_the_snapshot_not_the_machine);
    tcase_add_test(tc, reset_puts_the_accelerators_devices_back);
    tcase_add_test(tc, msrs_go_back_to_what_the_accelerator_made_them);
    tcase_add_test(tc, snapshots_taken_while_the_guest_runs_are_whole);
    tcase_add_test(tc, torture_puts_back_what_is_saved_and_nothing_else);
    tcase_add_test(tc, torture_finds_what_loading_changes);
    tcase_add_test(tc, a_line_that_two_devices_share_has_its_level_again);
    tcase_add_test(tc, a_machine_that_runs_goes_on_under_torture);
    return s;
}

int main(void)
{
    return run_suite(machine_state_suite());
}
