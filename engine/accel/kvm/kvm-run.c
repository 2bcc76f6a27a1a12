/*
 * KVM_RUN and what it returns with: one exit, translated into the terms of cpu/exit.h.
 *
 * An access of which KVM waits for the answer (a port, MMIO, MSR, hypercall) is `pending` until the
 * next KVM_RUN. kvm_vcpu_finish_exit completes it without running guest code, by immediate_exit:
 * KVM finishes the access first and then returns EINTR.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/core/rcu.h"
#include "engine/core/trace.h"

/* Not in the oldest headers this builds with. */
#define EXIT_MEMORY_FAULT 39

TRACE_POINT(kvm_exit, "cpu=%d reason=%u ret=%d errno=%d")

void kvm_exit_fail(KvmVcpu *kv, CpuExitKind kind, const char *format, ...)
{
    CpuExit *x = &kv->cpu->exit;
    va_list ap;
    x->kind = kind;
    x->write = false;
    x->size = 0;
    x->count = 1;
    x->addr = x->value = 0;
    x->data = NULL;
    va_start(ap, format);
    vsnprintf(x->message, sizeof(x->message), format, ap);
    va_end(ap);
}

/* ---- failures that need words ------------------------------------------------------------ */

unsigned kvm_read_code(KvmVcpu *kv, uint64_t pc, uint8_t *buf, unsigned len)
{
    unsigned done = 0;
    while (done < len) {
        struct kvm_translation t = { .linear_address = pc + done };
        if (kvm_ioctl(kv->a, kv->fd, KVM_TRANSLATE, &t) < 0 || !t.valid) {
            break;
        }
        uint64_t n = MIN(len - done, 4096 - (t.physical_address & 4095));
        rcu_enter();
        const void *p = address_space_translate_ram(kv->cpu->memory, t.physical_address, &n, false);
        if (p) {
            memcpy(buf + done, p, n);
        }
        rcu_leave();
        if (!p) {
            break;
        }
        kvm_hide_breakpoints(&kv->a->parent, t.physical_address, buf + done, n);
        done += n;
    }
    return done;
}

static void describe_place(KvmVcpu *kv, char *out, size_t size, const uint8_t *insn, unsigned n)
{
    struct kvm_sregs s = { 0 };
    struct kvm_regs r = { 0 };
    uint8_t buf[15];
    uint64_t pc = 0;
    kvm_ioctl(kv->a, kv->fd, KVM_GET_REGS, &r);
    kvm_ioctl(kv->a, kv->fd, KVM_GET_SREGS, &s);
    if (!n && kvm_linear_pc(kv, &pc)) {
        n = kvm_read_code(kv, pc, buf, sizeof(buf));
        insn = buf;
    }
    const char *mode = !(s.cr0 & 1)          ? "real mode"
                       : s.efer & (1u << 10) ? (s.cs.l ? "long mode" : "compatibility mode")
                       : s.cs.db             ? "32-bit mode"
                                             : "16-bit protected mode";
    int len = snprintf(out, size, "at %04x:%llx (%s)", s.cs.selector, (unsigned long long)r.rip,
                       mode);
    if (n && len > 0 && (size_t)len < size) {
        len += snprintf(out + len, size - len, ", instruction bytes");
        for (unsigned i = 0; i < n && (size_t)len + 4 < size; i++) {
            len += snprintf(out + len, size - len, " %02x", insn[i]);
        }
    }
}

static void internal_error(KvmVcpu *kv)
{
    static const char *const names[] = { NULL, "cannot emulate an instruction",
                                         "two exceptions at once",
                                         "an exit while an event was being delivered",
                                         "an exit that KVM does not know" };
    struct kvm_run *run = kv->run;
    uint32_t sub = run->internal.suberror;
    unsigned n = 0;
    char place[160];
    if (sub == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        n = MIN(run->emulation_failure.insn_size, 15);
    }
    describe_place(kv, place, sizeof(place), run->emulation_failure.insn_bytes, n);
    const char *name = sub < G_N_ELEMENTS(names) ? names[sub] : NULL;
    if (name && sub == KVM_INTERNAL_ERROR_EMULATION) {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "KVM %s %s", name, place);
    } else {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "KVM internal error %u (%s, data %llx %llx) %s",
                      sub, name ? name : "unknown",
                      run->internal.ndata > 0 ? (unsigned long long)run->internal.data[0] : 0,
                      run->internal.ndata > 1 ? (unsigned long long)run->internal.data[1] : 0,
                      place);
    }
    kv->cpu->exit.addr = sub;
}

static void fail_entry(KvmVcpu *kv)
{
    char place[160];
    uint64_t reason = kv->run->fail_entry.hardware_entry_failure_reason;
    describe_place(kv, place, sizeof(place), NULL, 0);
    kvm_exit_fail(kv, CPU_EXIT_FAIL_ENTRY,
                  "the host processor refused to enter the guest, hardware reason %#llx%s %s",
                  (unsigned long long)reason, reason == 0x80000021 ? " (invalid guest state)" : "",
                  place);
    kv->cpu->exit.addr = reason;
}

static void run_failed(KvmVcpu *kv, int err)
{
    char place[160];
    if (err == EINTR || err == EAGAIN) {
        /* EAGAIN: woken from waiting for a start-up message. */
        kv->cpu->exit.kind = CPU_EXIT_INTERRUPTED;
        return;
    }
    describe_place(kv, place, sizeof(place), NULL, 0);
    if (err == EFAULT && kv->run->exit_reason == EXIT_MEMORY_FAULT) {
        uint64_t gpa;
        memcpy(&gpa, kv->run->padding + 8, sizeof(gpa));
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "no host memory behind guest address %#llx %s",
                      (unsigned long long)gpa, place);
    } else if (err == EFAULT) {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR,
                      "the host memory behind guest RAM cannot be accessed (was a file cut "
                      "short?) %s",
                      place);
    } else if (err == ENOSPC) {
        /* Its room for page tables is a share of what its slots hold. */
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR,
                      "this machine has no RAM, and KVM runs nothing without any (-accel soft "
                      "does) %s",
                      place);
    } else {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "KVM_RUN: %s %s", g_strerror(err), place);
    }
}

/* ---- translation ------------------------------------------------------------------------- */

static void exit_io(KvmVcpu *kv)
{
    struct kvm_run *run = kv->run;
    CpuExit *x = &kv->cpu->exit;
    x->kind = CPU_EXIT_PIO;
    x->write = run->io.direction == KVM_EXIT_IO_OUT;
    x->size = run->io.size;
    x->count = run->io.count;
    x->addr = run->io.port;
    x->data = x->count == 1 ? NULL : (char *)run + run->io.data_offset;
    x->value = 0;
    if (x->write && x->count == 1) {
        memcpy(&x->value, (char *)run + run->io.data_offset, MIN(x->size, 8));
    }
    kv->pending = true;
}

static void exit_mmio(KvmVcpu *kv)
{
    struct kvm_run *run = kv->run;
    CpuExit *x = &kv->cpu->exit;
    x->kind = CPU_EXIT_MMIO;
    x->data = NULL;
    x->write = run->mmio.is_write;
    x->size = MIN(run->mmio.len, 8);
    x->count = 1;
    x->addr = kvm_a20_mask(kv->a, run->mmio.phys_addr);
    x->value = 0;
    if (x->write) {
        memcpy(&x->value, run->mmio.data, x->size);
    }
    kv->pending = true;
}

static void exit_msr(KvmVcpu *kv, bool write)
{
    struct kvm_run *run = kv->run;
    CpuExit *x = &kv->cpu->exit;
    x->kind = write ? CPU_EXIT_WRMSR : CPU_EXIT_RDMSR;
    x->write = write;
    x->size = 8;
    x->count = 1;
    x->addr = run->msr.index;
    x->handled = x->msr_fault = false;
    x->value = write ? run->msr.data : 0;
    if (!write) {
        x->msr_fault = !kvm_msr_get(kv, run->msr.index, &x->value);
    }
    kv->pending = true;
}

static void exit_hypercall(KvmVcpu *kv, uint64_t nr, const uint64_t *args)
{
    CpuExit *x = &kv->cpu->exit;
    x->kind = CPU_EXIT_HYPERCALL;
    x->write = false;
    x->size = 8;
    x->count = 1;
    x->addr = nr;
    x->value = 0;
    x->handled = false;
    memcpy(x->args, args, sizeof(x->args));
    kv->pending = true;
}

static void exit_other(KvmVcpu *kv)
{
    struct kvm_run *run = kv->run;
    CpuExit *x = &kv->cpu->exit;
    switch (run->exit_reason) {
    case KVM_EXIT_FAIL_ENTRY:
        fail_entry(kv);
        return;
    case KVM_EXIT_INTERNAL_ERROR:
        if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION ||
            (!kvm_debug_emulation_failure(kv) && !kvm_assist(kv))) {
            internal_error(kv);
        }
        return;
    case KVM_EXIT_X86_RDMSR:
        exit_msr(kv, false);
        return;
    case KVM_EXIT_X86_WRMSR:
        exit_msr(kv, true);
        return;
    case KVM_EXIT_HYPERCALL: {
        uint64_t args[6];
        memcpy(args, (const void *)run->hypercall.args, sizeof(args));
        exit_hypercall(kv, run->hypercall.nr, args);
        return;
    }
    case KVM_EXIT_XEN:
        if (run->xen.type == KVM_EXIT_XEN_HCALL) {
            /* Xen's convention has the arguments elsewhere than everybody else's. */
            struct kvm_regs r = { 0 };
            if (kv->regs_cached) {
                r = run->s.regs.regs;
            } else {
                kvm_ioctl(kv->a, kv->fd, KVM_GET_REGS, &r);
            }
            const uint64_t args[6] = { r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp };
            exit_hypercall(kv, run->xen.u.hcall.input, args);
            return;
        }
        break;
    case KVM_EXIT_SYSTEM_EVENT:
        x->kind = CPU_EXIT_SYSTEM_EVENT;
        x->addr = run->system_event.type;
        x->value = run->system_event.ndata ? run->system_event.data[0] : 0;
        return;
    case KVM_EXIT_IOAPIC_EOI:
        x->kind = CPU_EXIT_IOAPIC_EOI;
        x->value = run->eoi.vector;
        return;
    case KVM_EXIT_SET_TPR: /* the guest lowered its priority; lines are looked at on entry */
    case KVM_EXIT_X86_BUS_LOCK:
        x->kind = CPU_EXIT_INTERRUPTED;
        return;
    case KVM_EXIT_UNKNOWN:
        kvm_exit_fail(kv, CPU_EXIT_UNKNOWN, "KVM does not know hardware exit reason %#llx",
                      (unsigned long long)run->hw.hardware_exit_reason);
        x->addr = run->exit_reason;
        return;
    default:
        break;
    }
    char place[160];
    describe_place(kv, place, sizeof(place), NULL, 0);
    kvm_exit_fail(kv, CPU_EXIT_UNKNOWN, "KVM exit reason %u is not handled, %s", run->exit_reason,
                  place);
    x->addr = run->exit_reason;
}

static void translate(KvmVcpu *kv)
{
    CpuExit *x = &kv->cpu->exit;
    x->message[0] = '\0';
    switch (kv->run->exit_reason) {
    case KVM_EXIT_IO:
        exit_io(kv);
        break;
    case KVM_EXIT_MMIO:
        exit_mmio(kv);
        break;
    case KVM_EXIT_HLT:
        /* An interrupt that waits for the end of STI's shadow ends this halt at once. */
        x->kind = __atomic_load_n(&kv->intr, __ATOMIC_ACQUIRE) && kv->run->if_flag
                      ? CPU_EXIT_INTERRUPTED
                      : CPU_EXIT_HLT;
        if (kv->stepping) {
            /* The instruction is done; the step must not wait for the one after it. The vCPU's
             * `halted` needs the engine lock, which may not be taken in a hold. */
            kv->step_halted = true;
            kvm_debug_step_done(kv);
        }
        break;
    case KVM_EXIT_SHUTDOWN:
        x->kind = CPU_EXIT_SHUTDOWN;
        break;
    case KVM_EXIT_DEBUG:
        kvm_debug_exit(kv);
        break;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        x->kind = CPU_EXIT_IRQ_WINDOW;
        break;
    case KVM_EXIT_INTR:
        x->kind = CPU_EXIT_INTERRUPTED;
        break;
    default:
        exit_other(kv);
        break;
    }
}

/* ---- entry ------------------------------------------------------------------------------- */

bool kvm_enter(KvmVcpu *kv, bool now)
{
    KvmAccel *a = kv->a;
    struct kvm_run *run = kv->run;
    __atomic_store_n(&kv->in_run, 1, __ATOMIC_SEQ_CST);
    /* Looked at after in_run is set: who changes them next finds this vCPU and kicks it. */
    if (G_UNLIKELY(__atomic_load_n(&a->hold.active, __ATOMIC_SEQ_CST) && !kv->exempt)) {
        __atomic_store_n(&kv->in_run, 0, __ATOMIC_SEQ_CST);
        kvm_hold_wait(kv);
        return false;
    }
    if (G_UNLIKELY(kv->debug_gen != __atomic_load_n(&a->debug_gen, __ATOMIC_SEQ_CST) && !now)) {
        __atomic_store_n(&kv->in_run, 0, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&a->hold.active, __ATOMIC_SEQ_CST)) {
            kvm_hold_notify(a);
        }
        return false;
    }
    if (now) {
        __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    }
    run->kvm_valid_regs = __atomic_load_n(&a->want_regs, __ATOMIC_RELAXED);
    kv->pending = false;
    kv->tsc_shown_valid = false;
    kv->enters++;

    int r = ioctl(kv->fd, KVM_RUN, 0);
    int err = errno;

    __atomic_store_n(&kv->in_run, 0, __ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&a->hold.active, __ATOMIC_SEQ_CST))) {
        kvm_hold_notify(a);
    }
    kv->regs_cached = run->kvm_valid_regs & KVM_SYNC_X86_REGS;
    kv->cpu->gpr_at_hand = kv->regs_cached && !now;
    TRACE(kvm_exit, kv->index, run->exit_reason, r, r < 0 ? err : 0);
    if (G_UNLIKELY(now)) {
        __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&kv->kicked, __ATOMIC_SEQ_CST)) {
            __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        }
    }
    if (G_UNLIKELY(r < 0)) {
        if (err == EINTR && !now) {
            /* In this order: a kick that comes between the two leaves immediate_exit set. */
            __atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
            __atomic_store_n(&kv->kicked, 0, __ATOMIC_SEQ_CST);
        }
        kv->cpu->exit.message[0] = '\0';
        run_failed(kv, err);
        return true;
    }
    translate(kv);
    return true;
}

/* Gives KVM the answer of the last exit. */
static void answer(KvmVcpu *kv)
{
    struct kvm_run *run = kv->run;
    const CpuExit *x = &kv->cpu->exit;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        if (run->io.direction == KVM_EXIT_IO_IN && run->io.count == 1) {
            memcpy((char *)run + run->io.data_offset, &x->value, MIN(run->io.size, 8));
        }
        break;
    case KVM_EXIT_MMIO:
        if (!run->mmio.is_write) {
            memcpy(run->mmio.data, &x->value, MIN(run->mmio.len, 8));
        }
        break;
    case KVM_EXIT_X86_RDMSR:
        run->msr.data = x->value;
        run->msr.error = x->msr_fault;
        break;
    case KVM_EXIT_X86_WRMSR:
        run->msr.error = x->handled ? x->msr_fault
                                    : !kvm_msr_guest_write(kv, run->msr.index, run->msr.data);
        break;
    case KVM_EXIT_HYPERCALL:
        run->hypercall.ret = x->handled ? x->value : (uint64_t)-1000; /* -KVM_ENOSYS */
        break;
    case KVM_EXIT_XEN:
        run->xen.u.hcall.result = x->handled
                                      ? x->value
                                      : kvm_hypercall_default(kv, x, run->xen.u.hcall.longmode,
                                                              run->xen.u.hcall.cpl);
        break;
    default:
        break;
    }
}

static bool fatal(CpuExitKind kind)
{
    return kind == CPU_EXIT_SHUTDOWN || kind == CPU_EXIT_FAIL_ENTRY ||
           kind == CPU_EXIT_INTERNAL_ERROR || kind == CPU_EXIT_UNKNOWN;
}

void kvm_vcpu_run(VCpu *cpu)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (G_UNLIKELY(cpu->state_dirty) && !kvm_flush_state(kv)) {
        return;
    }
    if (G_UNLIKELY(kv->has_stash)) {
        kv->has_stash = false;
        cpu->exit = kv->stash;
        return;
    }
    if (kv->pending) {
        answer(kv);
    }
    if (G_UNLIKELY(__atomic_load_n(&kv->intr, __ATOMIC_RELAXED) ||
                   kv->run->request_interrupt_window)) {
        kvm_inject_intr(kv);
    }
    for (;;) {
        if (G_UNLIKELY(kvm_debug_attention(kv)) && kvm_debug_before_run(kv)) {
            break;
        }
        bool entered = kvm_enter(kv, false);
        while (G_UNLIKELY(kv->step_watch) && entered && cpu->exit.kind == CPU_EXIT_DEBUG &&
               cpu->exit.value == 0) {
            entered = kvm_enter(kv, false);
        }
        if (G_LIKELY(entered)) {
            break;
        }
    }
    if (G_UNLIKELY(kv->stepping && fatal(cpu->exit.kind))) {
        kv->stepping = false;
    }
    if (G_UNLIKELY(kv->step_halted)) {
        kv->step_halted = false;
        engine_lock();
        cpu->halted = true;
        engine_unlock();
    }
    if (G_UNLIKELY(kvm_coalesced_pending(kv->a))) {
        kvm_coalesced_drain(kv->a);
    }
}

/* Registers that a handler changed are left in cpu->state: cpu.c brings them together with what the
 * finished access did. */
void kvm_vcpu_finish_exit(VCpu *cpu)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv->pending) {
        return;
    }
    /* An access that crosses pages or is wider than 8 bytes comes in a few pieces. */
    for (unsigned i = 0; kv->pending && i < 64; i++) {
        answer(kv);
        while (!kvm_enter(kv, true)) {
        }
        if (kvm_coalesced_pending(kv->a)) {
            kvm_coalesced_drain(kv->a);
        }
        if (kv->pending) {
            cpu_handle_exit(cpu);
        } else if (cpu->exit.kind != CPU_EXIT_INTERRUPTED) {
            kv->stash = cpu->exit;
            kv->has_stash = true;
        }
    }
    kv->pending = kv->regs_cached = false;
    cpu->state_valid &= cpu->state_dirty;
}
