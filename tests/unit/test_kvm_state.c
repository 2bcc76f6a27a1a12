/* Registers of every group go into KVM and come back the same. */
#include "tests/unit/kvm_rig.h"

#include <stdio.h>
#include <x86intrin.h>

static uint64_t rng = 0x9e3779b97f4a7c15;

static uint64_t rnd(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static Rig *make(IrqchipMode mode)
{
    Rig *r = rig_new(mode, false, 1 * MiB);
    GError *err = NULL;
    rig_start(r, "spin");
    /* Into KVM, and all groups fetched from there. */
    VCpu *cpu = rig_cpu(r, 0);
    ck_assert_msg(cpu->ops->put_state(cpu, X86_STATE_ALL, &err), "%s", err ? err->message : "");
    cpu->state_dirty = 0;
    ck_assert_msg(cpu->ops->get_state(cpu, X86_STATE_ALL, &err), "%s", err ? err->message : "");
    return r;
}

/* Puts what cpu->state holds, forgets it, fetches it: the result is in cpu->state, what was put in
 * *was. */
static void round_trip(VCpu *cpu, unsigned groups, X86CPUState *was)
{
    GError *err = NULL;
    *was = *cpu->state;
    ck_assert_msg(cpu->ops->put_state(cpu, groups, &err), "%s", err ? err->message : "");
    memset(cpu->state, 0xee, sizeof(*cpu->state));
    ck_assert_msg(cpu->ops->get_state(cpu, groups, &err), "%s", err ? err->message : "");
}

static X86CPUState was;

START_TEST(general_registers_come_back_as_they_were_put)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    for (unsigned i = 0; i < 50; i++) {
        for (unsigned k = 0; k < X86_GPRS; k++) {
            cpu->state->gpr[k] = rnd();
        }
        cpu->state->rip = rnd() >> 17;
        cpu->state->rflags = (rnd() & 0x244cd5) | 2;
        round_trip(cpu, X86_STATE_GPR, &was);
        ck_assert_mem_eq(cpu->state->gpr, was.gpr, sizeof(was.gpr));
        ck_assert_uint_eq(cpu->state->rip, was.rip);
        ck_assert_uint_eq(cpu->state->rflags, was.rflags);
    }
    rig_free(r);
}
END_TEST

static void random_segment(X86Segment *s, unsigned type)
{
    *s = (X86Segment){ .base = rnd() & 0xffffffff,
                       .limit = (uint32_t)(rnd() & 0xfffff) << 12 | 0xfff,
                       .selector = (uint16_t)(rnd() & 0xfff8),
                       .type = (uint8_t)type,
                       .present = true,
                       .s = type != 2 && type != 11,
                       .db = type != 2 && type != 11,
                       .g = true,
                       .avl = rnd() & 1 };
}

START_TEST(segments_tables_and_control_registers_come_back_as_they_were_put)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    for (unsigned i = 0; i < 50; i++) {
        X86CPUState *s = cpu->state;
        for (unsigned k = X86_ES; k <= X86_GS; k++) {
            random_segment(&s->seg[k], k == X86_CS ? 11 : 3);
        }
        random_segment(&s->seg[X86_LDT], 2);
        random_segment(&s->seg[X86_TR], 11);
        s->gdt = (X86Table){ .base = rnd() & 0xffffffff, .limit = (uint16_t)rnd() };
        s->idt = (X86Table){ .base = rnd() & 0xffffffff, .limit = (uint16_t)rnd() };
        s->cr0 = 0x11 | (rnd() & 0x50020);
        s->cr2 = rnd() & 0xffffffff;
        s->cr3 = rnd() & 0xfffff000;
        s->cr4 = rnd() & 0x6d8;
        s->cr8 = rnd() & 15;
        s->efer = rnd() & 1;
        s->apic_base = 0xfee00900;
        round_trip(cpu, X86_STATE_SYSTEM, &was);
        for (unsigned k = 0; k < X86_SEGS; k++) {
            const X86Segment *a = &cpu->state->seg[k], *b = &was.seg[k];
            ck_assert_msg(a->base == b->base && a->limit == b->limit &&
                              a->selector == b->selector && a->type == b->type &&
                              a->present == b->present && a->db == b->db && a->g == b->g &&
                              a->s == b->s && a->avl == b->avl,
                          "segment %u", k);
        }
        ck_assert_uint_eq(cpu->state->gdt.base, was.gdt.base);
        ck_assert_uint_eq(cpu->state->gdt.limit, was.gdt.limit);
        ck_assert_uint_eq(cpu->state->idt.base, was.idt.base);
        ck_assert_uint_eq(cpu->state->idt.limit, was.idt.limit);
        ck_assert_uint_eq(cpu->state->cr0, was.cr0);
        ck_assert_uint_eq(cpu->state->cr2, was.cr2);
        ck_assert_uint_eq(cpu->state->cr3, was.cr3);
        ck_assert_uint_eq(cpu->state->cr4, was.cr4);
        ck_assert_uint_eq(cpu->state->cr8, was.cr8);
        ck_assert_uint_eq(cpu->state->efer, was.efer);
        ck_assert_uint_eq(cpu->state->apic_base, was.apic_base);
    }
    rig_free(r);
}
END_TEST

START_TEST(x87_and_vector_registers_come_back_as_they_were_put)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    ck_assert_uint_ge(cpu->state->xsave_size, 576);
    for (unsigned i = 0; i < 20; i++) {
        uint8_t *x = cpu->state->xsave;
        memset(x, 0, sizeof(cpu->state->xsave));
        x[0] = 0x7f;
        x[1] = 3;
        x[24] = 0x80; /* MXCSR 1f80 */
        x[25] = 0x1f;
        x[512] = 3; /* x87 and SSE are in use */
        for (unsigned k = 0; k < 256; k++) {
            x[160 + k] = (uint8_t)rnd();
        }
        for (unsigned k = 0; k < 8; k++) {
            for (unsigned b = 0; b < 10; b++) {
                x[32 + 16 * k + b] = (uint8_t)rnd();
            }
        }
        x[4] = 0xff; /* all eight in use */
        cpu->state->xcr0 = 1;
        round_trip(cpu, X86_STATE_FPU, &was);
        ck_assert_uint_eq(cpu->state->xcr0, was.xcr0);
        ck_assert_mem_eq(cpu->state->xsave + 32, was.xsave + 32, 128);
        ck_assert_mem_eq(cpu->state->xsave + 160, was.xsave + 160, 256);
        ck_assert_mem_eq(cpu->state->xsave, was.xsave, 4);
        ck_assert_mem_eq(cpu->state->xsave + 24, was.xsave + 24, 4);
    }
    rig_free(r);
}
END_TEST

START_TEST(debug_registers_come_back_as_they_were_put)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    for (unsigned i = 0; i < 20; i++) {
        for (unsigned k = 0; k < 4; k++) {
            cpu->state->dr[k] = rnd() >> 17;
        }
        cpu->state->dr6 = 0xffff0ff0 | (rnd() & 0xf);
        cpu->state->dr7 = 0x400 | (rnd() & 0xff);
        round_trip(cpu, X86_STATE_DEBUG, &was);
        ck_assert_mem_eq(cpu->state->dr, was.dr, sizeof(was.dr));
        ck_assert_uint_eq(cpu->state->dr6, was.dr6);
        ck_assert_uint_eq(cpu->state->dr7, was.dr7);
    }
    rig_free(r);
}
END_TEST

START_TEST(model_specific_registers_come_back_as_they_were_put)
{
    static const uint32_t free_ones[] = { 0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000102 };
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    ck_assert_uint_gt(cpu->state->n_msrs, 10);
    for (unsigned i = 1; i < cpu->state->n_msrs; i++) {
        ck_assert_uint_lt(cpu->state->msrs[i - 1].index, cpu->state->msrs[i].index);
    }
    for (unsigned i = 0; i < 20; i++) {
        for (unsigned k = 0; k < G_N_ELEMENTS(free_ones); k++) {
            X86Msr *m = x86_msr_find(cpu->state, free_ones[k]);
            ck_assert_msg(m != NULL, "MSR %#x", free_ones[k]);
            m->value = rnd() >> 17;
        }
        x86_msr_find(cpu->state, 0x277)->value = 0x0007010600070106 ^ (i & 1);
        cpu->state->tsc = rnd() >> 20;
        round_trip(cpu, X86_STATE_MSRS, &was);
        ck_assert_uint_eq(cpu->state->n_msrs, was.n_msrs);
        for (unsigned k = 0; k < was.n_msrs; k++) {
            ck_assert_msg(cpu->state->msrs[k].value == was.msrs[k].value,
                          "MSR %#x: %#llx put, %#llx read", was.msrs[k].index,
                          (unsigned long long)was.msrs[k].value,
                          (unsigned long long)cpu->state->msrs[k].value);
        }
        /* A KVM that interprets always shows the host's TSC. */
        if ((__rdtsc() - cpu->state->tsc) >> 36) {
            ck_assert_msg((cpu->state->tsc - was.tsc) >> 36 == 0,
                          "round %u: TSC %#llx put, %#llx read", i, (unsigned long long)was.tsc,
                          (unsigned long long)cpu->state->tsc);
        }
    }
    rig_free(r);
}
END_TEST

START_TEST(msrs_that_a_state_does_not_name_go_back_to_power_on)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    x86_msr_find(cpu->state, 0x175)->value = 0x1234;
    round_trip(cpu, X86_STATE_MSRS, &was);
    ck_assert_uint_eq(x86_msr_find(cpu->state, 0x175)->value, 0x1234);
    cpu->state->n_msrs = 0;
    round_trip(cpu, X86_STATE_MSRS, &was);
    ck_assert_uint_eq(x86_msr_find(cpu->state, 0x175)->value, 0);
    rig_free(r);
}
END_TEST

/* Which values are refused differs between versions of KVM: one of these is, everywhere. */
START_TEST(an_msr_value_that_kvm_refuses_is_named)
{
    static const X86Msr bad[] = { { 0x277, 0x0202020202020202 },     /* no such memory type */
                                  { 0xc0000082, UINT64_C(1) << 63 }, /* not canonical */
                                  { 0x1d9, UINT64_C(1) << 50 },      /* reserved */
                                  { 0x10a, ~UINT64_C(0) },           { 0x345, ~UINT64_C(0) },
                                  { 0x140, UINT64_C(0xff00) } };
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    unsigned refused = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        GError *err = NULL;
        X86Msr *m = x86_msr_find(cpu->state, bad[i].index);
        if (!m) {
            continue;
        }
        uint64_t old = m->value;
        m->value = bad[i].value;
        if (!cpu->ops->put_state(cpu, X86_STATE_MSRS, &err)) {
            g_autofree char *index = g_strdup_printf("MSR %#x", bad[i].index);
            ck_assert_msg(strstr(err->message, index) != NULL, "%s", err->message);
            g_error_free(err);
            refused++;
        }
        m->value = old;
    }
    ck_assert_uint_gt(refused, 0);
    rig_free(r);
}
END_TEST

START_TEST(a_tsc_that_nobody_changed_does_not_lose_time)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    GError *err = NULL;
    for (unsigned i = 0; i < 100; i++) {
        uint64_t shown = cpu->state->tsc;
        ck_assert(cpu->ops->put_state(cpu, X86_STATE_MSRS, &err));
        ck_assert(cpu->ops->get_state(cpu, X86_STATE_MSRS, &err));
        ck_assert_uint_ge(cpu->state->tsc, shown);
    }
    rig_free(r);
}
END_TEST

START_TEST(the_local_apic_comes_back_and_a_state_without_one_resets_it)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    ck_assert(cpu->state->has_lapic);
    cpu->state->lapic[0xf0] = 0xff; /* spurious vector, on */
    cpu->state->lapic[0xf1] = 1;
    cpu->state->lapic[0x80] = 0x20;  /* task priority */
    cpu->state->lapic[0x320] = 0x44; /* timer vector, masked */
    cpu->state->lapic[0x322] = 1;
    cpu->state->lapic[0x210] = 0x80; /* vector 7 + 32*1 requested: IRR is 0x200.. */
    round_trip(cpu, X86_STATE_LAPIC, &was);
    ck_assert(cpu->state->has_lapic);
    static const unsigned offsets[] = { 0x20, 0x80, 0xf0, 0x210, 0x320, 0x350 };
    for (unsigned i = 0; i < G_N_ELEMENTS(offsets); i++) {
        ck_assert_msg(memcmp(cpu->state->lapic + offsets[i], was.lapic + offsets[i], 4) == 0,
                      "register %#x", offsets[i]);
    }
    cpu->state->has_lapic = false; /* a reset state of an accelerator without one */
    round_trip(cpu, X86_STATE_LAPIC, &was);
    ck_assert_uint_eq(cpu->state->lapic[0x80], 0);
    rig_free(r);

    r = make(IRQCHIP_OFF);
    ck_assert(!rig_cpu(r, 0)->state->has_lapic);
    rig_free(r);
}
END_TEST

START_TEST(pending_events_and_the_run_state_come_back)
{
    Rig *r = make(IRQCHIP_ON);
    VCpu *cpu = rig_cpu(r, 0);
    for (unsigned i = 0; i < 3; i++) {
        X86Events *e = &cpu->state->events;
        memset(e, 0, sizeof(*e));
        cpu->state->mp_state = X86_MP_RUNNABLE;
        if (i == 0) {
            e->exception_pending = e->exception_has_error = true;
            e->exception_nr = 14;
            e->exception_error = 2;
            e->exception_has_payload = true;
            e->exception_payload = 0x1234;
        } else if (i == 1) {
            e->interrupt_injected = true;
            e->interrupt_nr = 0x31;
            e->nmi_masked = true;
            cpu->state->mp_state = X86_MP_HALTED;
        } else {
            e->nmi_pending = true;
            e->sipi_vector = 0x9a;
            e->interrupt_shadow = 2;
        }
        round_trip(cpu, X86_STATE_EVENTS, &was);
        const X86Events *a = &cpu->state->events, *b = &was.events;
        ck_assert_int_eq(a->exception_pending, b->exception_pending);
        ck_assert_int_eq(a->exception_nr, b->exception_nr);
        ck_assert_uint_eq(a->exception_error, b->exception_error);
        ck_assert_uint_eq(a->exception_payload, b->exception_payload);
        ck_assert_int_eq(a->interrupt_injected, b->interrupt_injected);
        ck_assert_int_eq(a->interrupt_nr, b->interrupt_nr);
        ck_assert_int_eq(a->nmi_pending, b->nmi_pending);
        ck_assert_int_eq(a->nmi_masked, b->nmi_masked);
        ck_assert_int_eq(a->interrupt_shadow, b->interrupt_shadow);
        ck_assert_int_eq(cpu->state->mp_state, was.mp_state);
    }
    rig_free(r);
}
END_TEST

START_TEST(cpuid_offers_no_nested_virtualisation_and_is_accepted_as_it_is)
{
    GError *err = NULL;
    AccelClass *k = accel_find("kvm", &err);
    g_autofree CpuidPolicy *p = k->supported_cpuid(&err);
    ck_assert_msg(p != NULL, "%s", err ? err->message : "");
    ck_assert_uint_eq(cpuid_policy_find(p, 1, 0)->ecx & (1u << 5), 0);
    ck_assert_uint_ne(cpuid_policy_find(p, 1, 0)->ecx & (1u << 31), 0);
    Rig *r = make(IRQCHIP_OFF);
    rig_free(r);
}
END_TEST

START_TEST(a_tsc_frequency_that_the_host_cannot_give_is_refused_by_name)
{
    Rig *r = make(IRQCHIP_ON);
    GError *err = NULL;
    AccelClass *k = ACCEL_GET_CLASS(r->m->accel);
    if (!k->set_tsc_khz(rig_cpu(r, 0), 123456, &err)) {
        ck_assert_msg(strstr(err->message, "123456") != NULL, "%s", err->message);
        g_error_free(err);
    }
    rig_free(r);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, general_registers_come_back_as_they_were_put);
    tcase_add_test(tc, segments_tables_and_control_registers_come_back_as_they_were_put);
    tcase_add_test(tc, x87_and_vector_registers_come_back_as_they_were_put);
    tcase_add_test(tc, debug_registers_come_back_as_they_were_put);
    tcase_add_test(tc, model_specific_registers_come_back_as_they_were_put);
    tcase_add_test(tc, msrs_that_a_state_does_not_name_go_back_to_power_on);
    tcase_add_test(tc, an_msr_value_that_kvm_refuses_is_named);
    tcase_add_test(tc, a_tsc_that_nobody_changed_does_not_lose_time);
    tcase_add_test(tc, the_local_apic_comes_back_and_a_state_without_one_resets_it);
    tcase_add_test(tc, pending_events_and_the_run_state_come_back);
    tcase_add_test(tc, cpuid_offers_no_nested_virtualisation_and_is_accepted_as_it_is);
    tcase_add_test(tc, a_tsc_frequency_that_the_host_cannot_give_is_refused_by_name);
}

int main(void)
{
    return rig_main("kvm state", add);
}
