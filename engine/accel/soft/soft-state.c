/*
 * Between the state that all accelerators share and the software CPU's own.
 */
#include <string.h>

#include "engine/accel/soft/soft-accel.h"
#include "engine/accel/soft/soft-translate.h"
#include "engine/core/error.h"

SoftCpu *soft_cpu_new(VCpu *vcpu)
{
    SoftCpu *c = g_aligned_alloc0(1, (sizeof(SoftCpu) + 63) & ~(size_t)63, 64);
    X86CPUState *s;

    c->saved = g_aligned_alloc0(1, (sizeof(X86CPUState) + 63) & ~(size_t)63, 64);
    c->blocks = soft_blocks_new();
    c->vcpu = vcpu;
    c->a20_mask = ~UINT64_C(0);
    c->phys_bits = 40;
    c->tsc_khz = SOFT_TSC_KHZ;
    if (vcpu) {
        c->memory = vcpu->memory;
        c->io = vcpu->io;
    }
    soft_tlb_init(c);
    s = c->saved;
    x86_state_reset(s, !vcpu || vcpu->index == 0);
    soft_msrs_reset(c);
    soft_state_load(c, s);
    return c;
}

void soft_cpu_free(SoftCpu *c)
{
    if (!c) {
        return;
    }
    soft_blocks_free(c->blocks);
    soft_translator_free(c->translator);
    g_aligned_free(c->saved);
    g_aligned_free(c);
}

/* ---- by groups ----------------------------------------------------------------------------- */

static void load_gpr(SoftCpu *c, const X86CPUState *s)
{
    memcpy(c->gpr, s->gpr, sizeof(s->gpr));
    c->gpr[SOFT_GPR_NONE] = 0;
    c->rip = s->rip;
    c->flags = 0;
    soft_set_rflags(c, s->rflags, UINT64_MAX);
}

static void load_system(SoftCpu *c, const X86CPUState *s)
{
    memcpy(c->seg, s->seg, sizeof(c->seg));
    c->gdt = s->gdt;
    c->idt = s->idt;
    c->cr0 = s->cr0;
    c->cr2 = s->cr2;
    c->cr3 = s->cr3;
    c->pdpte_cr3 = UINT64_MAX;
    c->cr4 = s->cr4;
    c->cr8 = s->cr8;
    c->efer = s->efer;
    c->apic_base = s->apic_base;
}

/* CPL is that of SS, as the architecture keeps it; real mode is 0, virtual-8086 mode 3. */
static uint8_t cpl_of(const SoftCpu *c)
{
    if (!(c->cr0 & CR0_PE)) {
        return 0;
    }
    return c->flags & FLAG_VM ? 3 : c->seg[X86_SS].dpl & 3;
}

static void load_events(SoftCpu *c, const X86CPUState *s)
{
    const X86Events *e = &s->events;

    c->inhibit_interrupts = e->interrupt_shadow & (SHADOW_SS | SHADOW_STI);
    c->nmi_pending = e->nmi_pending;
    c->nmi_masked = e->nmi_masked;
    c->triple_fault = e->triple_fault;
    c->halted = s->mp_state == X86_MP_HALTED;
    memset(&c->injected, 0, sizeof(c->injected));
    memset(&c->delivering, 0, sizeof(c->delivering));
    if (e->exception_injected || e->exception_pending) {
        c->injected.valid = true;
        c->injected.vector = e->exception_nr;
        c->injected.has_error = e->exception_has_error;
        c->injected.error = e->exception_error;
        if (e->exception_nr == EXC_PF && e->exception_has_payload) {
            c->cr2 = e->exception_payload;
        }
    } else if (e->interrupt_injected) {
        c->injected.valid = c->injected.is_interrupt = true;
        c->injected.vector = e->interrupt_nr;
        c->injected.soft = e->interrupt_soft;
    } else if (e->nmi_injected) {
        c->nmi_pending = true;
    }
}

void soft_start_at(SoftCpu *c, uint8_t vector)
{
    x86_segment_set_real(&c->seg[X86_CS], (uint16_t)(vector << 8), true);
    c->rip = 0;
    c->wait_sipi = false;
    c->halted = false;
    c->saved->mp_state = X86_MP_RUNNABLE;
    soft_mode_changed(c);
}

void soft_state_load_groups(SoftCpu *c, const X86CPUState *s, unsigned groups)
{
    if (groups & X86_STATE_GPR) {
        load_gpr(c, s);
    }
    if (groups & X86_STATE_SYSTEM) {
        load_system(c, s);
    }
    if (groups & X86_STATE_FPU) {
        c->xcr0 = s->xcr0;
        memcpy(c->fpu, s->xsave, sizeof(c->fpu));
        soft_fpu_normalise(c);
        c->saved->xsave_size = MAX(s->xsave_size, SOFT_FPU_SIZE);
    }
    if (groups & X86_STATE_DEBUG) {
        memcpy(c->dr, s->dr, sizeof(c->dr));
        c->dr6 = s->dr6;
        c->dr7 = s->dr7;
    }
    if (groups & X86_STATE_MSRS) {
        soft_msrs_load(c, s);
    }
    if (groups & X86_STATE_EVENTS) {
        load_events(c, s);
        c->saved->mp_state = s->mp_state;
        c->wait_sipi = s->mp_state == X86_MP_UNINITIALIZED || s->mp_state == X86_MP_INIT_RECEIVED;
        c->saved->events = s->events;
    }
    if (groups & (X86_STATE_GPR | X86_STATE_SYSTEM)) {
        c->cpl = cpl_of(c);
        soft_mode_changed(c);
        soft_tlb_flush(c, true);
        soft_tlb_select(c);
    }
    if (groups & X86_STATE_DEBUG) {
        soft_debug_changed(c);
    }
    if ((groups & X86_STATE_EVENTS) && s->mp_state == X86_MP_SIPI_RECEIVED) {
        soft_start_at(c, (uint8_t)s->events.sipi_vector); /* as KVM has it: on its way */
    }
}

void soft_state_load(SoftCpu *c, const X86CPUState *s)
{
    soft_state_load_groups(c, s, X86_STATE_ALL);
}

static void store_events(const SoftCpu *c, X86CPUState *s)
{
    X86Events *e = &s->events;

    *e = (X86Events){ .nmi_pending = c->nmi_pending,
                      .nmi_masked = c->nmi_masked,
                      .interrupt_shadow = c->inhibit_interrupts,
                      .triple_fault = c->triple_fault,
                      .sipi_vector = c->saved->events.sipi_vector };
    if (__atomic_load_n(&c->attention, __ATOMIC_RELAXED) & SOFT_ATTN_NMI) {
        e->nmi_pending = true;
    }
    if (c->injected.valid) {
        e->exception_injected = !c->injected.is_interrupt;
        e->interrupt_injected = c->injected.is_interrupt;
        e->interrupt_soft = c->injected.soft;
        e->interrupt_nr = c->injected.vector;
        e->exception_nr = c->injected.vector;
        e->exception_has_error = c->injected.has_error;
        e->exception_error = c->injected.error;
    }
    s->mp_state = c->halted ? X86_MP_HALTED : c->wait_sipi ? c->saved->mp_state : X86_MP_RUNNABLE;
}

/* In the middle of an instruction (a device looks at its reader) it is that instruction's start. */
static uint64_t rip_now(const SoftCpu *c)
{
    uint64_t rip = c->block && c->insn ? c->rip + c->insn->off : c->rip;

    return c->mode.long_mode ? rip : (uint32_t)rip;
}

void soft_state_store_groups(const SoftCpu *c, X86CPUState *s, unsigned groups)
{
    if (groups & X86_STATE_GPR) {
        memcpy(s->gpr, c->gpr, sizeof(s->gpr));
        s->rip = rip_now(c);
        s->rflags = soft_rflags(c);
    }
    if (groups & X86_STATE_SYSTEM) {
        memcpy(s->seg, c->seg, sizeof(s->seg));
        s->seg[X86_SS].dpl = c->cpl;
        s->gdt = c->gdt;
        s->idt = c->idt;
        s->cr0 = c->cr0;
        s->cr2 = c->cr2;
        s->cr3 = c->cr3;
        s->cr4 = c->cr4;
        s->cr8 = c->cr8;
        s->efer = c->efer;
        s->apic_base = c->apic_base;
    }
    if (groups & X86_STATE_FPU) {
        s->xcr0 = c->xcr0;
        s->xsave_size = c->saved->xsave_size;
        memcpy(s->xsave, c->fpu, sizeof(c->fpu));
        soft_fpu_describe(c, s->xsave);
    }
    if (groups & X86_STATE_DEBUG) {
        memcpy(s->dr, c->dr, sizeof(s->dr));
        s->dr6 = c->dr6;
        s->dr7 = c->dr7;
    }
    if (groups & X86_STATE_MSRS) {
        soft_msrs_store(c, s);
    }
    if (groups & X86_STATE_LAPIC) {
        s->has_lapic = false; /* the board's device saves it */
    }
    if (groups & X86_STATE_EVENTS) {
        store_events(c, s);
    }
}

void soft_state_store(const SoftCpu *c, X86CPUState *s)
{
    soft_state_store_groups(c, s, X86_STATE_ALL);
}

/* What another accelerator's guest may have asked its hypervisor for, by MSRs that mean nothing
 * here. */
bool soft_check_state(VCpu *cpu, GError **error)
{
    static const struct {
        uint32_t index;
        uint64_t mask;
        const char *what;
    } paravirtual[] = {
        { 0x12, 1, "KVM's paravirtual clock" },
        { 0x4b564d01, 1, "KVM's paravirtual clock" },
        { 0x4b564d02, 1, "KVM's asynchronous page faults" },
        { 0x4b564d03, 1, "KVM's steal time" },
        { 0x4b564d04, 1, "KVM's paravirtual EOI" },
        { 0x40000000, UINT64_MAX, "Hyper-V's interfaces" },
        { 0xda0, UINT64_MAX, "supervisor state components (IA32_XSS)" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(paravirtual); i++) {
        const X86Msr *m = x86_msr_find(cpu->state, paravirtual[i].index);

        if (m && (m->value & paravirtual[i].mask)) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "the saved guest uses %s (MSR %#x), which the software CPU has not",
                             paravirtual[i].what, paravirtual[i].index);
        }
    }
    if (cpu->state->events.smm || cpu->state->events.smm_pending) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "the saved guest is in system management mode, which the software CPU "
                         "has not");
    }
    return true;
}
