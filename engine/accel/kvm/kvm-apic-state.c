/*
 * Between the saved form of local APICs and KVM's: X86CPUState.lapic, which is the page of
 * registers as KVM_GET_LAPIC shows it, with APIC base, TSC deadline and activity beside it.
 *
 * KVM's timer counts the host's time. What is saved is the count at the moment at which the
 * machine's clock stopped.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <string.h>

#include "engine/cpu/cpu-apic.h"

enum {
    REG_ID = 0x20,
    REG_TPR = 0x80,
    REG_LDR = 0xd0,
    REG_DFR = 0xe0,
    REG_SVR = 0xf0,
    REG_ISR = 0x100,
    REG_TMR = 0x180,
    REG_IRR = 0x200,
    REG_ESR = 0x280,
    REG_ICR = 0x300,
    REG_ICR_HIGH = 0x310,
    REG_LVT = 0x320,
    REG_INITIAL = 0x380,
    REG_CURRENT = 0x390,
    REG_DIVIDE = 0x3e0,
};

static uint32_t reg(const X86CPUState *s, unsigned at)
{
    uint32_t v;

    memcpy(&v, s->lapic + at, sizeof(v));
    return v;
}

static void set_reg(X86CPUState *s, unsigned at, uint32_t v)
{
    memcpy(s->lapic + at, &v, sizeof(v));
}

static int64_t virtual_now(const KvmAccel *a)
{
    return a->parent.config.clock ? clock_now(a->parent.config.clock) : 0;
}

/* ---- the count at the stop ------------------------------------------------------------------ */

void kvm_apic_note_count(KvmVcpu *kv)
{
    struct kvm_lapic_state page;

    kv->stopped_count_valid = kvm_lapic_in_kernel(kv->a) &&
                              kvm_ioctl(kv->a, kv->fd, KVM_GET_LAPIC, &page) == 0;
    if (kv->stopped_count_valid) {
        memcpy(&kv->stopped_count, page.regs + REG_CURRENT, sizeof(kv->stopped_count));
    }
}

void kvm_apic_show_count(KvmVcpu *kv, X86CPUState *s)
{
    if (kv->a->clock_stopped && kv->stopped_count_valid) {
        set_reg(s, REG_CURRENT, kv->stopped_count);
    }
}

/* ---- from KVM ------------------------------------------------------------------------------- */

/* A one-shot whose count is 0 has gone off, perhaps after the guest was last entered: KVM keeps
 * that where no ioctl shows it. Neither requested nor in service: it goes off again, as KVM has it
 * when it loads such registers. */
static bool may_have_been_missed(const ApicState *a)
{
    uint32_t lvt = a->lvt[LVT_TIMER], vector = lvt & LVT_VECTOR;

    return !(lvt & LVT_MASKED) &&
           !((a->irr[vector >> 5] | a->isr[vector >> 5]) >> (vector & 31) & 1);
}

static void timer_from_kvm(KvmAccel *accel, ApicState *a, const X86CPUState *s)
{
    int64_t now = virtual_now(accel), divisor = apic_state_divisor(a), left;
    uint32_t count = reg(s, REG_CURRENT);

    a->timer_due = -1;
    if (apic_state_timer_mode(a) == TIMER_TSC_DEADLINE) {
        int64_t ticks = (int64_t)(a->tsc_deadline - s->tsc);

        if (a->tsc_deadline && s->tsc_khz) {
            __int128 due = now + (__int128)MAX(ticks, 0) * 1000000 / s->tsc_khz;

            a->timer_due = due > CLOCK_MAX ? CLOCK_MAX : (int64_t)due;
        }
        a->initial_count = 0;
        return;
    }
    if (!a->initial_count) {
        return;
    }
    left = (int64_t)MIN(count, a->initial_count) * divisor;
    a->timer_start = now + left - (int64_t)a->initial_count * divisor;
    if (left || apic_state_timer_mode(a) == TIMER_PERIODIC || may_have_been_missed(a)) {
        a->timer_due = MIN(now + left, CLOCK_MAX);
    }
}

static uint64_t msr(const X86CPUState *s, uint32_t index)
{
    for (unsigned i = 0; i < MIN(s->n_msrs, X86_MSR_MAX); i++) {
        if (s->msrs[i].index == index) {
            return s->msrs[i].value;
        }
    }
    return 0;
}

static void apic_from_kvm(KvmAccel *accel, ApicState *a, const X86CPUState *s)
{
    memset(a, 0, sizeof(*a));
    a->base = s->apic_base;
    a->tpr = reg(s, REG_TPR) & 0xff;
    a->ldr = a->base & APIC_BASE_X2APIC ? 0 : reg(s, REG_LDR);
    a->dfr = reg(s, REG_DFR);
    a->svr = reg(s, REG_SVR);
    a->esr = reg(s, REG_ESR);
    a->icr = reg(s, REG_ICR);
    a->icr_high = reg(s, REG_ICR_HIGH);
    for (unsigned i = 0; i < LVTS; i++) {
        a->lvt[i] = reg(s, REG_LVT + i * 16);
    }
    for (unsigned i = 0; i < 8; i++) {
        a->isr[i] = reg(s, REG_ISR + i * 16);
        a->tmr[i] = reg(s, REG_TMR + i * 16);
        a->irr[i] = reg(s, REG_IRR + i * 16);
    }
    a->isr[0] &= 0xffff0000;
    a->irr[0] &= 0xffff0000;
    a->initial_count = reg(s, REG_INITIAL);
    a->divide = reg(s, REG_DIVIDE) & 0xb;
    a->tsc_deadline = msr(s, MSR_TSC_DEADLINE);
    a->tsc_khz = s->tsc_khz;
    timer_from_kvm(accel, a, s);
}

void kvm_apics_get(KvmAccel *a, PcChipStates *s)
{
    for (unsigned i = 0; i < MIN(a->vcpus->len, s->apics); i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);

        if (kv && kv->cpu && kv->cpu->state->has_lapic) {
            apic_from_kvm(a, &s->apic[i], kv->cpu->state);
        }
    }
}

/* ---- to KVM --------------------------------------------------------------------------------- */

static void timer_to_kvm(KvmAccel *accel, const ApicState *a, X86CPUState *s)
{
    int64_t left = a->timer_due - virtual_now(accel), count;

    x86_msr_set(s, MSR_TSC_DEADLINE, a->tsc_deadline);
    if (apic_state_timer_mode(a) == TIMER_TSC_DEADLINE) {
        return;
    }
    if (a->timer_due < 0) {
        return; /* with an initial count, KVM would let it go off at once */
    }
    count = (MAX(left, 0) + apic_state_divisor(a) - 1) / apic_state_divisor(a);
    if (apic_state_timer_mode(a) == TIMER_PERIODIC) {
        count = MAX(count, 1); /* 0 is a whole period */
    }
    set_reg(s, REG_INITIAL, a->initial_count);
    set_reg(s, REG_CURRENT, (uint32_t)MIN(count, (int64_t)a->initial_count));
}

/* What is asked of the processor, as its state when it has been done. */
static void requests_to_kvm(const ApicState *a, X86CPUState *s, CpuidPolicy *cpuid, bool bsp)
{
    if (a->requests & CPU_APIC_INIT) {
        CpuidEntry *signature = cpuid ? cpuid_policy_find(cpuid, 1, 0) : NULL;

        x86_state_init(s, bsp, signature ? signature->eax : 0);
    }
    if ((a->requests & CPU_APIC_SIPI) &&
        (s->mp_state == X86_MP_UNINITIALIZED || s->mp_state == X86_MP_INIT_RECEIVED)) {
        s->mp_state = X86_MP_SIPI_RECEIVED;
        s->events.sipi_vector = a->sipi_vector;
    }
    if (a->requests & CPU_APIC_NMI) {
        s->events.nmi_pending = true;
    }
}

static bool apic_to_kvm(KvmVcpu *kv, const ApicState *a, GError **error)
{
    X86CPUState *s = kv->cpu->state;
    bool x2 = a->base & APIC_BASE_X2APIC;

    if (a->extint || (a->requests & CPU_APIC_SMI)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "kvm: local APIC %d is about to deliver %s, which KVM's cannot hold",
                         kv->index, a->extint ? "an ExtINT message" : "an SMI");
    }
    memcpy(s->lapic, kv->lapic_reset, sizeof(s->lapic));
    s->has_lapic = true;
    s->apic_base = a->base;
    s->cr8 = a->tpr >> 4;
    set_reg(s, REG_ID, (uint32_t)kv->index << 24);
    set_reg(s, REG_TPR, a->tpr);
    if (!x2) { /* KVM makes that of the ID */
        set_reg(s, REG_LDR, a->ldr);
    }
    set_reg(s, REG_DFR, a->dfr);
    set_reg(s, REG_SVR, a->svr);
    set_reg(s, REG_ESR, a->esr);
    set_reg(s, REG_ICR, a->icr);
    set_reg(s, REG_ICR_HIGH, a->icr_high);
    for (unsigned i = 0; i < LVTS; i++) {
        set_reg(s, REG_LVT + i * 16, a->lvt[i]);
    }
    for (unsigned i = 0; i < 8; i++) {
        set_reg(s, REG_ISR + i * 16, a->isr[i]);
        set_reg(s, REG_TMR + i * 16, a->tmr[i]);
        set_reg(s, REG_IRR + i * 16, a->irr[i]);
    }
    set_reg(s, REG_INITIAL, 0);
    set_reg(s, REG_CURRENT, 0);
    set_reg(s, REG_DIVIDE, a->divide);
    timer_to_kvm(kv->a, a, s);
    requests_to_kvm(a, s, kv->cpu->cpuid, kv->index == 0);
    cpu_state_replaced(kv->cpu);
    return true;
}

bool kvm_apics_put(KvmAccel *a, const PcChipStates *s, GError **error)
{
    for (unsigned i = 0; i < MIN(a->vcpus->len, s->apics); i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);

        if (kv && kv->cpu && !apic_to_kvm(kv, &s->apic[i], error)) {
            return false;
        }
    }
    return true;
}
