/*
 * Registers between KVM and X86CPUState, one group at a time.
 *
 * Order of putting (each step may depend on those before): system registers (EFER, CR0, APIC base),
 * general registers, XCR0, the XSAVE area, debug registers, LAPIC, MSRs with the TSC deadline last,
 * events, run state.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XSAVE_BV_OFFSET   512
#define XSAVE_LEGACY_SIZE 576
#define FXSAVE_MXCSR      24
#define FXSAVE_ST0        32
#define FXSAVE_XMM0       160
#define LAPIC_SIZE        X86_LAPIC_REGS

bool kvm_state_fail(KvmVcpu *kv, GError **error, const char *what)
{
    return error_set_errno(error, "kvm: %s of vCPU %d", what, kv->index);
}

/* ---- general and system registers --------------------------------------------------------- */

static void regs_to_state(const struct kvm_regs *r, X86CPUState *s)
{
    s->gpr[X86_RAX] = r->rax;
    s->gpr[X86_RCX] = r->rcx;
    s->gpr[X86_RDX] = r->rdx;
    s->gpr[X86_RBX] = r->rbx;
    s->gpr[X86_RSP] = r->rsp;
    s->gpr[X86_RBP] = r->rbp;
    s->gpr[X86_RSI] = r->rsi;
    s->gpr[X86_RDI] = r->rdi;
    memcpy(&s->gpr[X86_R8], &r->r8, 8 * sizeof(uint64_t));
    s->rip = r->rip;
    s->rflags = r->rflags;
}

static void regs_from_state(struct kvm_regs *r, const X86CPUState *s)
{
    r->rax = s->gpr[X86_RAX];
    r->rcx = s->gpr[X86_RCX];
    r->rdx = s->gpr[X86_RDX];
    r->rbx = s->gpr[X86_RBX];
    r->rsp = s->gpr[X86_RSP];
    r->rbp = s->gpr[X86_RBP];
    r->rsi = s->gpr[X86_RSI];
    r->rdi = s->gpr[X86_RDI];
    memcpy(&r->r8, &s->gpr[X86_R8], 8 * sizeof(uint64_t));
    r->rip = s->rip;
    r->rflags = s->rflags | 2;
}

static bool get_gpr(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    if (kv->regs_cached) {
        regs_to_state(&kv->run->s.regs.regs, s);
    } else {
        struct kvm_regs r;
        if (kvm_ioctl(kv->a, kv->fd, KVM_GET_REGS, &r) < 0) {
            return kvm_state_fail(kv, error, "KVM_GET_REGS");
        }
        regs_to_state(&r, s);
    }
    return true;
}

static bool put_gpr(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    struct kvm_regs r;
    regs_from_state(&r, s);
    kv->regs_cached = false;
    kv->run->ready_for_interrupt_injection = 0; /* was said of other flags */
    return kvm_ioctl(kv->a, kv->fd, KVM_SET_REGS, &r) == 0 ||
           kvm_state_fail(kv, error, "KVM_SET_REGS");
}

static void seg_to_state(const struct kvm_segment *k, X86Segment *s)
{
    *s = (X86Segment){ .base = k->base,
                       .limit = k->limit,
                       .selector = k->selector,
                       .type = k->type & 15,
                       .dpl = k->dpl & 3,
                       .present = k->present,
                       .s = k->s,
                       .db = k->db,
                       .l = k->l,
                       .g = k->g,
                       .avl = k->avl,
                       .unusable = k->unusable };
}

static void seg_from_state(struct kvm_segment *k, const X86Segment *s)
{
    *k = (struct kvm_segment){ .base = s->base,
                               .limit = s->limit,
                               .selector = s->selector,
                               .type = s->type,
                               .dpl = s->dpl,
                               .present = s->present,
                               .s = s->s,
                               .db = s->db,
                               .l = s->l,
                               .g = s->g,
                               .avl = s->avl,
                               .unusable = s->unusable || !s->present };
}

/* kvm_sregs and kvm_sregs2 are alike up to apic_base; what follows is the pending interrupt there,
 * and flags and PDPTRs here. The PDPTRs are loaded from memory again, as a write of CR3 does. */
static bool get_system(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    union {
        struct kvm_sregs one;
        struct kvm_sregs2 two;
    } u;
    bool two = kvm_has(kv->a, KC_SREGS2);
    if (kvm_ioctl(kv->a, kv->fd, two ? KVM_GET_SREGS2 : KVM_GET_SREGS, &u) < 0) {
        return kvm_state_fail(kv, error, "KVM_GET_SREGS");
    }
    const struct kvm_sregs *k = &u.one;
    seg_to_state(&k->es, &s->seg[X86_ES]);
    seg_to_state(&k->cs, &s->seg[X86_CS]);
    seg_to_state(&k->ss, &s->seg[X86_SS]);
    seg_to_state(&k->ds, &s->seg[X86_DS]);
    seg_to_state(&k->fs, &s->seg[X86_FS]);
    seg_to_state(&k->gs, &s->seg[X86_GS]);
    seg_to_state(&k->ldt, &s->seg[X86_LDT]);
    seg_to_state(&k->tr, &s->seg[X86_TR]);
    s->gdt = (X86Table){ .base = k->gdt.base, .limit = k->gdt.limit };
    s->idt = (X86Table){ .base = k->idt.base, .limit = k->idt.limit };
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8;
    s->efer = k->efer;
    s->apic_base = k->apic_base;
    return true;
}

static bool put_system(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    union {
        struct kvm_sregs one;
        struct kvm_sregs2 two;
    } u;
    memset(&u, 0, sizeof(u));
    bool two = kvm_has(kv->a, KC_SREGS2);
    struct kvm_sregs *k = &u.one;
    seg_from_state(&k->es, &s->seg[X86_ES]);
    seg_from_state(&k->cs, &s->seg[X86_CS]);
    seg_from_state(&k->ss, &s->seg[X86_SS]);
    seg_from_state(&k->ds, &s->seg[X86_DS]);
    seg_from_state(&k->fs, &s->seg[X86_FS]);
    seg_from_state(&k->gs, &s->seg[X86_GS]);
    seg_from_state(&k->ldt, &s->seg[X86_LDT]);
    seg_from_state(&k->tr, &s->seg[X86_TR]);
    k->gdt.base = s->gdt.base;
    k->gdt.limit = s->gdt.limit;
    k->idt.base = s->idt.base;
    k->idt.limit = s->idt.limit;
    k->cr0 = s->cr0;
    k->cr2 = s->cr2;
    k->cr3 = s->cr3;
    k->cr4 = s->cr4;
    k->cr8 = s->cr8;
    k->efer = s->efer;
    k->apic_base = s->apic_base;
    if (kvm_ioctl(kv->a, kv->fd, two ? KVM_SET_SREGS2 : KVM_SET_SREGS, &u) < 0) {
        if (errno == EINVAL) {
            return error_set(
                error, ENGINE_ERROR_INVALID,
                "kvm: vCPU %d cannot have this state: cr0 %#llx, cr4 %#llx, efer %#llx, "
                "apic_base %#llx",
                kv->index, (unsigned long long)s->cr0, (unsigned long long)s->cr4,
                (unsigned long long)s->efer, (unsigned long long)s->apic_base);
        }
        return kvm_state_fail(kv, error, "KVM_SET_SREGS");
    }
    /* Without a LAPIC in the kernel, KVM_RUN takes the priority from here; and what it last said
     * about interrupts does not hold for the new state. */
    kv->run->cr8 = s->cr8;
    kv->run->ready_for_interrupt_injection = 0;
    return true;
}

bool kvm_linear_pc(KvmVcpu *kv, uint64_t *pc)
{
    struct kvm_regs r;
    struct kvm_sregs s;
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_REGS, &r) < 0 ||
        kvm_ioctl(kv->a, kv->fd, KVM_GET_SREGS, &s) < 0) {
        return false;
    }
    bool long_mode = (s.efer & (1u << 10)) && s.cs.l;
    *pc = long_mode ? r.rip : (uint32_t)(s.cs.base + r.rip);
    return true;
}

/* ---- floating point and vectors ----------------------------------------------------------- */

static void fpu_to_xsave(const struct kvm_fpu *f, uint8_t *x)
{
    memset(x, 0, XSAVE_LEGACY_SIZE);
    memcpy(x, &f->fcw, 2);
    memcpy(x + 2, &f->fsw, 2);
    x[4] = f->ftwx;
    memcpy(x + 6, &f->last_opcode, 2);
    memcpy(x + 8, &f->last_ip, 8);
    memcpy(x + 16, &f->last_dp, 8);
    memcpy(x + FXSAVE_MXCSR, &f->mxcsr, 4);
    memcpy(x + FXSAVE_ST0, f->fpr, sizeof(f->fpr));
    memcpy(x + FXSAVE_XMM0, f->xmm, sizeof(f->xmm));
    x[XSAVE_BV_OFFSET] = 3;
}

static void fpu_from_xsave(struct kvm_fpu *f, const uint8_t *x)
{
    memset(f, 0, sizeof(*f));
    memcpy(&f->fcw, x, 2);
    memcpy(&f->fsw, x + 2, 2);
    f->ftwx = x[4];
    memcpy(&f->last_opcode, x + 6, 2);
    memcpy(&f->last_ip, x + 8, 8);
    memcpy(&f->last_dp, x + 16, 8);
    memcpy(&f->mxcsr, x + FXSAVE_MXCSR, 4);
    memcpy(f->fpr, x + FXSAVE_ST0, sizeof(f->fpr));
    memcpy(f->xmm, x + FXSAVE_XMM0, sizeof(f->xmm));
}

static bool get_fpu(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    KvmAccel *a = kv->a;
    s->xsave_size = CLAMP(kv->xsave_size, XSAVE_LEGACY_SIZE, X86_XSAVE_MAX);
    if (kvm_has(a, KC_XSAVE)) {
        bool big = a->caps[KC_XSAVE2] > (int)sizeof(struct kvm_xsave);
        if (kvm_ioctl(a, kv->fd, big ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, kv->xsave_buf) < 0) {
            return kvm_state_fail(kv, error, "KVM_GET_XSAVE");
        }
        memcpy(s->xsave, kv->xsave_buf, s->xsave_size);
    } else {
        struct kvm_fpu f;
        if (kvm_ioctl(a, kv->fd, KVM_GET_FPU, &f) < 0) {
            return kvm_state_fail(kv, error, "KVM_GET_FPU");
        }
        s->xsave_size = XSAVE_LEGACY_SIZE;
        fpu_to_xsave(&f, s->xsave);
    }
    s->xcr0 = 1;
    if (kvm_has(a, KC_XCRS)) {
        struct kvm_xcrs x;
        if (kvm_ioctl(a, kv->fd, KVM_GET_XCRS, &x) < 0) {
            return kvm_state_fail(kv, error, "KVM_GET_XCRS");
        }
        for (unsigned i = 0; i < MIN(x.nr_xcrs, KVM_MAX_XCRS); i++) {
            if (x.xcrs[i].xcr == 0) {
                s->xcr0 = x.xcrs[i].value;
            }
        }
    }
    return true;
}

static bool put_fpu(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    KvmAccel *a = kv->a;
    if (kvm_has(a, KC_XCRS)) {
        struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs = { { .xcr = 0, .value = s->xcr0 | 1 } } };
        if (kvm_ioctl(a, kv->fd, KVM_SET_XCRS, &x) < 0) {
            if (errno == EINVAL) {
                return error_set(
                    error, ENGINE_ERROR_INVALID,
                    "kvm: vCPU %d: this host or CPUID policy does not allow xcr0 %#llx", kv->index,
                    (unsigned long long)s->xcr0);
            }
            return kvm_state_fail(kv, error, "KVM_SET_XCRS");
        }
    }
    if (!kvm_has(a, KC_XSAVE)) {
        struct kvm_fpu f;
        fpu_from_xsave(&f, s->xsave);
        return kvm_ioctl(a, kv->fd, KVM_SET_FPU, &f) == 0 ||
               kvm_state_fail(kv, error, "KVM_SET_FPU");
    }
    uint32_t room = MAX(a->caps[KC_XSAVE2], (int)sizeof(struct kvm_xsave));
    uint32_t used = MIN(s->xsave_size, X86_XSAVE_MAX);
    if (used > room) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "kvm: vCPU %d: a processor state of %u bytes, this host's has %u",
                         kv->index, used, room);
    }
    memset(kv->xsave_buf, 0, room);
    memcpy(kv->xsave_buf, s->xsave, used);
    if (kvm_ioctl(a, kv->fd, KVM_SET_XSAVE, kv->xsave_buf) < 0) {
        uint64_t bv;
        memcpy(&bv, s->xsave + XSAVE_BV_OFFSET, sizeof(bv));
        if (errno == EINVAL) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "kvm: vCPU %d: this host cannot load processor state with components "
                             "%#llx",
                             kv->index, (unsigned long long)bv);
        }
        return kvm_state_fail(kv, error, "KVM_SET_XSAVE");
    }
    return true;
}

/* ---- debug registers, LAPIC --------------------------------------------------------------- */

static bool get_debug(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    struct kvm_debugregs d;
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_DEBUGREGS, &d) < 0) {
        return kvm_state_fail(kv, error, "KVM_GET_DEBUGREGS");
    }
    memcpy(s->dr, (const void *)d.db, sizeof(s->dr));
    s->dr6 = d.dr6;
    s->dr7 = d.dr7;
    return true;
}

static bool put_debug(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    struct kvm_debugregs d = { .dr6 = (uint32_t)s->dr6, .dr7 = (uint32_t)s->dr7 };
    memcpy((void *)d.db, s->dr, sizeof(s->dr));
    return kvm_ioctl(kv->a, kv->fd, KVM_SET_DEBUGREGS, &d) == 0 ||
           kvm_state_fail(kv, error, "KVM_SET_DEBUGREGS");
}

static bool get_lapic(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    s->has_lapic = kvm_lapic_in_kernel(kv->a);
    if (!s->has_lapic) {
        return true;
    }
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_LAPIC, s->lapic) < 0) {
        return kvm_state_fail(kv, error, "KVM_GET_LAPIC");
    }
    kvm_apic_show_count(kv, s);
    return true;
}

/* A state without LAPIC registers is that of a reset. */
static bool put_lapic(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    if (!kvm_lapic_in_kernel(kv->a)) {
        return true;
    }
    uint8_t regs[LAPIC_SIZE];
    memcpy(regs, s->has_lapic ? s->lapic : kv->lapic_reset, sizeof(regs));
    return kvm_ioctl(kv->a, kv->fd, KVM_SET_LAPIC, regs) == 0 ||
           kvm_state_fail(kv, error, "KVM_SET_LAPIC");
}

/* ---- events and run state ----------------------------------------------------------------- */

static bool get_events(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    struct kvm_vcpu_events e = { 0 };
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_VCPU_EVENTS, &e) < 0) {
        return kvm_state_fail(kv, error, "KVM_GET_VCPU_EVENTS");
    }
    s->events = (X86Events){
        .exception_injected = e.exception.injected,
        .exception_pending = kvm_has(kv->a, KC_EXCEPTION_PAYLOAD) && e.exception.pending,
        .exception_has_error = e.exception.has_error_code,
        .exception_nr = e.exception.nr,
        .exception_error = e.exception.error_code,
        .exception_payload = e.exception_payload,
        .exception_has_payload = e.exception_has_payload,
        .interrupt_injected = e.interrupt.injected,
        .interrupt_soft = e.interrupt.soft,
        .interrupt_nr = e.interrupt.nr,
        .interrupt_shadow = e.interrupt.shadow,
        .nmi_injected = e.nmi.injected,
        .nmi_pending = e.nmi.pending,
        .nmi_masked = e.nmi.masked,
        .sipi_vector = e.sipi_vector,
        .smm = e.smi.smm,
        .smm_pending = e.smi.pending,
        .smm_inside_nmi = e.smi.smm_inside_nmi,
        .triple_fault = (e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) && e.triple_fault.pending,
    };
    s->mp_state = X86_MP_RUNNABLE;
    if (kvm_lapic_in_kernel(kv->a)) {
        struct kvm_mp_state mp;
        if (kvm_ioctl(kv->a, kv->fd, KVM_GET_MP_STATE, &mp) < 0) {
            return kvm_state_fail(kv, error, "KVM_GET_MP_STATE");
        }
        if (mp.mp_state <= KVM_MP_STATE_SIPI_RECEIVED) {
            s->mp_state = (X86MpState)mp.mp_state;
        }
    }
    return true;
}

/* What belongs to the instruction stream: an NMI or a message to the LAPIC that came since the
 * state was read stays. */
static bool put_own_events(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    const X86Events *v = &s->events;
    struct kvm_vcpu_events e = {
        .interrupt = { .shadow = v->interrupt_shadow },
        .nmi = { .masked = v->nmi_masked },
        .flags = KVM_VCPUEVENT_VALID_SHADOW,
    };
    return kvm_ioctl(kv->a, kv->fd, KVM_SET_VCPU_EVENTS, &e) == 0 ||
           kvm_state_fail(kv, error, "KVM_SET_VCPU_EVENTS");
}

static bool put_events(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    kv->run->ready_for_interrupt_injection = 0;
    const X86Events *v = &s->events;
    struct kvm_vcpu_events e = {
        .exception = { .injected = v->exception_injected,
                       .nr = v->exception_nr,
                       .has_error_code = v->exception_has_error,
                       .error_code = v->exception_error },
        .interrupt = { .injected = v->interrupt_injected,
                       .nr = v->interrupt_nr,
                       .soft = v->interrupt_soft,
                       .shadow = v->interrupt_shadow },
        .nmi = { .injected = v->nmi_injected, .pending = v->nmi_pending, .masked = v->nmi_masked },
        .sipi_vector = v->sipi_vector,
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
                 KVM_VCPUEVENT_VALID_SHADOW,
    };
    if (kvm_has(kv->a, KC_EXCEPTION_PAYLOAD)) {
        e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
        e.exception.pending = v->exception_pending;
        e.exception_has_payload = v->exception_has_payload;
        e.exception_payload = v->exception_payload;
    } else if (v->exception_pending) {
        e.exception.injected = 1;
    }
    if (v->smm || v->smm_pending) {
        e.flags |= KVM_VCPUEVENT_VALID_SMM;
        e.smi.smm = v->smm;
        e.smi.pending = v->smm_pending;
        e.smi.smm_inside_nmi = v->smm_inside_nmi;
    }
    if (kvm_has(kv->a, KC_X86_TRIPLE_FAULT_EVENT)) {
        e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        e.triple_fault.pending = v->triple_fault;
    }
    if (kvm_ioctl(kv->a, kv->fd, KVM_SET_VCPU_EVENTS, &e) < 0) {
        if (errno == EINVAL && (v->smm || v->smm_pending)) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "kvm: vCPU %d: this host's KVM lacks KVM_CAP_X86_SMM (the state is in "
                             "system management mode)",
                             kv->index);
        }
        return kvm_state_fail(kv, error, "KVM_SET_VCPU_EVENTS");
    }
    if (kvm_lapic_in_kernel(kv->a)) {
        struct kvm_mp_state mp = { .mp_state = (uint32_t)s->mp_state };
        if (kvm_ioctl(kv->a, kv->fd, KVM_SET_MP_STATE, &mp) < 0) {
            return kvm_state_fail(kv, error, "KVM_SET_MP_STATE");
        }
    }
    return true;
}

/* ---- all ---------------------------------------------------------------------------------- */

static KvmVcpu *live(VCpu *cpu, GError **error)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        error_set(error, ENGINE_ERROR_GONE, "kvm: vCPU %d is gone", cpu->index);
    }
    return kv;
}

bool kvm_get_state(VCpu *cpu, unsigned groups, GError **error)
{
    KvmVcpu *kv = live(cpu, error);
    X86CPUState *s = cpu->state;
    return kv && (!(groups & X86_STATE_GPR) || get_gpr(kv, s, error)) &&
           (!(groups & X86_STATE_SYSTEM) || get_system(kv, s, error)) &&
           (!(groups & X86_STATE_FPU) || get_fpu(kv, s, error)) &&
           (!(groups & X86_STATE_DEBUG) || get_debug(kv, s, error)) &&
           (!(groups & X86_STATE_MSRS) || kvm_get_msrs(kv, s, error)) &&
           (!(groups & X86_STATE_LAPIC) || get_lapic(kv, s, error)) &&
           (!(groups & X86_STATE_EVENTS) || get_events(kv, s, error));
}

bool kvm_put_state(VCpu *cpu, unsigned groups, GError **error)
{
    KvmVcpu *kv = live(cpu, error);
    const X86CPUState *s = cpu->state;
    if (kv && (groups & X86_STATE_SYSTEM) && (groups & X86_STATE_EVENTS)) {
        kv->has_stash = false; /* of a past that this state replaces */
    }
    return kv && (!(groups & X86_STATE_SYSTEM) || put_system(kv, s, error)) &&
           (!(groups & X86_STATE_GPR) || put_gpr(kv, s, error)) &&
           (!(groups & X86_STATE_FPU) || put_fpu(kv, s, error)) &&
           (!(groups & X86_STATE_DEBUG) || put_debug(kv, s, error)) &&
           (!(groups & X86_STATE_LAPIC) || put_lapic(kv, s, error)) &&
           (!(groups & X86_STATE_MSRS) || kvm_put_msrs(kv, s, error)) &&
           (!(groups & X86_STATE_EVENTS) || put_events(kv, s, error));
}

bool kvm_get_groups(KvmVcpu *kv, X86CPUState *s, unsigned groups, GError **error)
{
    return (!(groups & X86_STATE_GPR) || get_gpr(kv, s, error)) &&
           (!(groups & X86_STATE_SYSTEM) || get_system(kv, s, error)) &&
           (!(groups & X86_STATE_FPU) || get_fpu(kv, s, error)) &&
           (!(groups & X86_STATE_DEBUG) || get_debug(kv, s, error)) &&
           (!(groups & X86_STATE_EVENTS) || get_events(kv, s, error));
}

bool kvm_put_groups(KvmVcpu *kv, const X86CPUState *s, unsigned groups, GError **error)
{
    return (!(groups & X86_STATE_SYSTEM) || put_system(kv, s, error)) &&
           (!(groups & X86_STATE_GPR) || put_gpr(kv, s, error)) &&
           (!(groups & X86_STATE_FPU) || put_fpu(kv, s, error)) &&
           (!(groups & X86_STATE_DEBUG) || put_debug(kv, s, error)) &&
           (!(groups & X86_STATE_EVENTS) || put_own_events(kv, s, error));
}

bool kvm_flush_state(KvmVcpu *kv)
{
    VCpu *cpu = kv->cpu;
    g_autoptr(GError) err = NULL;
    unsigned groups = cpu->state_dirty;
    if (!kvm_put_state(cpu, groups, &err)) {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "%s", err->message);
        return false;
    }
    cpu->state_dirty = 0;
    return true;
}

/* A loaded state is put at once, so that a refusal is known while there is a way back. It stays
 * dirty: memory, from which KVM loads the PDPTRs, may be still to come. */
bool kvm_check_state(VCpu *cpu, GError **error)
{
    KvmVcpu *kv = live(cpu, error);
    uint32_t khz = kv ? kvm_tsc_khz(kv) : 0, want = cpu->state->tsc_khz;
    uint32_t apart = want > khz ? want - khz : khz - want;
    if (!kv) {
        return false;
    }
    /* 250 ppm are what NTP puts right. */
    if (want && khz && apart > khz / 4000 && !kvm_set_tsc_khz(cpu, want, NULL) &&
        !kv->a->tsc_warned) {
        kv->a->tsc_warned = true;
        log_warning("kvm: the guest's TSC ran at %u kHz, this host's at %u kHz: a guest that "
                    "measures time by it will be wrong",
                    want, khz);
    }
    return kvm_put_state(cpu, X86_STATE_ALL, error);
}

/* All vCPUs get their state before the first of them runs: an INIT or SIPI that one sends must not
 * meet another whose reset state is still to come. What fails here is tried again, and reported, by
 * the vCPU itself. Engine lock. */
void kvm_flush_stopped(KvmAccel *a)
{
    for (unsigned i = 0; i < a->vcpus->len; i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);
        VCpu *cpu = kv ? kv->cpu : NULL;
        if (cpu && cpu->stopped && cpu->state_dirty && kvm_put_state(cpu, cpu->state_dirty, NULL)) {
            cpu->state_dirty = 0;
        }
    }
}
