/*
 * The assist: guests full of what KVM without hardware cannot emulate. With hardware they run too,
 * and count no assist.
 */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>

#include "engine/qom/object.h"

static void set_assist(Rig *r, bool on)
{
    const PropValue v = { .kind = PROP_BOOL, .boolean = on };
    ck_assert(object_property_set(OBJECT(r->m->accel), "assist", &v, NULL));
}

static void set_run(Rig *r, unsigned n)
{
    const PropValue v = { .kind = PROP_UINT, .uinteger = n };
    ck_assert(object_property_set(OBJECT(r->m->accel), "assist-run", &v, NULL));
}

static void expect(Rig *r, const uint32_t *values, unsigned n)
{
    for (unsigned i = 0; i < MIN(n, r->n); i++) {
        ck_assert_msg(r->got[i].value == values[i], "value %u is %#llx, should be %#x", i,
                      (unsigned long long)r->got[i].value, values[i]);
    }
    ck_assert_msg(r->finished, "%s", r->m->reason ? r->m->reason : "not finished");
    ck_assert_uint_eq(r->n, n);
}

static const unsigned runs[] = { 0, 1, 16, 4096 };

START_TEST(protected_mode_runs_interrupts_x87_sse_and_xsave)
{
    static const uint32_t values[] = { 0x103, 0x006, 6, 0x37f, 3, 3, 1000, 0x203, 0x303 };
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);

    set_run(r, runs[_i]);
    rig_start(r, "assist32");
    rig_run(r);
    expect(r, values, G_N_ELEMENTS(values));
    ck_assert_uint_eq(r->got[4].addr, MMIO_DEVICE + 0x40); /* FISTP to the device */
    rig_free(r);
}
END_TEST

START_TEST(long_mode_enters_user_mode_and_comes_back)
{
    static const uint32_t values[] = { 0x12340, 1, 2, 0x11, 0x25, 0x23, 2 };
    Rig *r = rig_new(_i & 1 ? IRQCHIP_ON : IRQCHIP_OFF, false, 1 * MiB);

    set_run(r, runs[_i / 2]);
    rig_start(r, "assist64");
    rig_run(r);
    if (r->n > 3 && r->got[3].value == 0xe06) {
        printf("ok 1 - user mode # SKIP this KVM raises #UD in user mode and does not report it\n");
        r->n = 3;
        expect(r, values, 3);
    } else {
        expect(r, values, G_N_ELEMENTS(values));
    }
    rig_free(r);
}
END_TEST

START_TEST(assists_are_counted_by_vcpu_and_by_instruction)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    uint64_t n;

    set_run(r, 0);
    rig_start(r, "assist32");
    rig_run(r);
    n = rig_cpu(r, 0)->stats.assists;
    if (n == 0) {
        printf("ok 1 - assists # SKIP this KVM emulates everything\n");
    } else {
        ck_assert_uint_gt(n, 1000); /* the stream */
        ck_assert_uint_ge(rig_stat(r, "kvm-assist-addss"), 1000);
        ck_assert_uint_ge(rig_stat(r, "kvm-assist-instructions"), n);
    }
    rig_free(r);
}
END_TEST

START_TEST(a_stream_of_failures_is_run_in_one_go)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);

    set_run(r, 4096);
    rig_start(r, "assist32");
    rig_run(r);
    ck_assert(r->finished);
    ck_assert_uint_lt(rig_cpu(r, 0)->stats.assists, 100);
    rig_free(r);
}
END_TEST

START_TEST(a_snapshot_between_assists_goes_on_as_it_was)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    Snapshot *s;
    GError *err = NULL;
    uint64_t first;

    rig_start(r, "assist64");
    rig_run(r);
    ck_assert(r->finished);
    s = machine_snapshot(r->m, &err);
    ck_assert_ptr_nonnull(s);
    first = rig_cpu(r, 0)->state->rip;
    ck_assert(machine_restore(r->m, s, &err));
    ck_assert(cpu_fetch_state(rig_cpu(r, 0), X86_STATE_ALL, &err));
    ck_assert_uint_eq(rig_cpu(r, 0)->state->rip, first);
    snapshot_unref(s);
    rig_free(r);
}
END_TEST

START_TEST(without_the_assist_the_guest_stops_with_an_error)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);

    set_assist(r, false);
    rig_start(r, "assist32");
    rig_run(r);
    ck_assert_uint_eq(rig_cpu(r, 0)->stats.assists, 0);
    if (r->finished) {
        printf("ok 1 - assist=off # SKIP this KVM emulates everything\n");
    } else {
        ck_assert_int_eq(r->m->state, RUN_STATE_ERROR);
        ck_assert_msg(strstr(r->m->reason, "cannot emulate") != NULL, "%s", r->m->reason);
    }
    rig_free(r);
}
END_TEST

static bool hook_seen;
static unsigned on_mmio(void *opaque, VCpu *cpu, EventRecord *x)
{
    GError *err = NULL;

    hook_seen = true;
    /* In the middle of an assisted instruction registers can be looked at and set. */
    ck_assert(cpu_fetch_state(cpu, X86_STATE_GPR, &err));
    ck_assert(cpu_modify_state(cpu, X86_STATE_GPR, &err));
    cpu->state->gpr[X86_RBX] = 0x500;
    return 0;
}

START_TEST(a_hook_on_the_device_of_an_assisted_instruction_may_set_registers)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);

    rig_start(r, "assist32");
    hook_seen = false;
    rig_hook(r, EVENT_MMIO, MMIO_DEVICE + 0x40, 4, on_mmio, NULL);
    rig_run(r);
    ck_assert(r->finished && hook_seen);
    ck_assert_uint_eq(r->got[r->n - 1].value, 0x700); /* RBX at the end: two handlers later */
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_loop_test(tc, protected_mode_runs_interrupts_x87_sse_and_xsave, 0, 4);
    tcase_add_loop_test(tc, long_mode_enters_user_mode_and_comes_back, 0, 8);
    tcase_add_test(tc, assists_are_counted_by_vcpu_and_by_instruction);
    tcase_add_test(tc, a_stream_of_failures_is_run_in_one_go);
    tcase_add_test(tc, a_snapshot_between_assists_goes_on_as_it_was);
    tcase_add_test(tc, without_the_assist_the_guest_stops_with_an_error);
    tcase_add_test(tc, a_hook_on_the_device_of_an_assisted_instruction_may_set_registers);
}

int main(void)
{
    return rig_main("kvm-assist", add);
}
