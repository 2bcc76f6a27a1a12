/*
 * Privileged instructions and those about system state: MSRs, CPUID, time stamps, port I/O, HLT,
 * fast system calls. Control and debug registers are in exec-control.c, segments in exec-segment.c.
 */
#include "engine/accel/soft/exec.h"
#include "engine/accel/soft/soft-sys.h"

/* ---- MSRs, CPUID, time --------------------------------------------------------------------- */

static void put_edx_eax(SoftCpu *c, uint64_t v)
{
    c->gpr[X86_RAX] = (uint32_t)v;
    c->gpr[X86_RDX] = v >> 32;
}
static uint64_t edx_eax(const SoftCpu *c)
{
    return (uint32_t)c->gpr[X86_RAX] | c->gpr[X86_RDX] << 32;
}
static bool hooked(const SoftCpu *c, EventSource source)
{
    return c->vcpu && event_hub_armed(c->vcpu->events, source);
}

static void rdmsr(SoftCpu *c, const SoftInsn *i)
{
    uint32_t index = (uint32_t)c->gpr[X86_RCX];
    uint64_t v = 0;
    bool ok;

    SOFT_HERE(c, i);
    soft_need_ring0(c);
    soft_need_exit(c);
    ok = soft_rdmsr(c, index, &v);
    if (hooked(c, EVENT_MSR)) {
        c->vcpu->exit = (CpuExit){ .kind = CPU_EXIT_RDMSR,
                                   .size = 8,
                                   .count = 1,
                                   .addr = index,
                                   .value = v,
                                   .msr_fault = !ok };
        soft_offer_exit(c);
        v = c->vcpu->exit.value;
        ok = !c->vcpu->exit.msr_fault;
    }
    if (!ok) {
        soft_raise_error(c, EXC_GP, 0);
    }
    put_edx_eax(c, v);
    SOFT_NEXT(c, i);
}

static void wrmsr(SoftCpu *c, const SoftInsn *i)
{
    uint32_t index = (uint32_t)c->gpr[X86_RCX];
    uint64_t v = edx_eax(c);
    bool ok, done = false;

    SOFT_HERE(c, i);
    soft_need_ring0(c);
    soft_need_exit(c);
    if (hooked(c, EVENT_MSR)) {
        c->vcpu->exit = (CpuExit){
            .kind = CPU_EXIT_WRMSR, .write = true, .size = 8, .count = 1, .addr = index, .value = v
        };
        soft_offer_exit(c);
        v = c->vcpu->exit.value;
        done = c->vcpu->exit.handled;
        ok = !c->vcpu->exit.msr_fault;
    }
    if (!done) {
        ok = soft_wrmsr(c, index, v);
    }
    if (!ok) {
        soft_raise_error(c, EXC_GP, 0);
    }
    soft_end_at_next(c, i);
}

static void exec_cpuid(SoftCpu *c, const SoftInsn *i)
{
    uint32_t out[4];

    SOFT_HERE(c, i);
    soft_need_exit(c);
    soft_cpuid(c, (uint32_t)c->gpr[X86_RAX], (uint32_t)c->gpr[X86_RCX], out);
    c->gpr[X86_RAX] = out[0];
    c->gpr[X86_RBX] = out[1];
    c->gpr[X86_RCX] = out[2];
    c->gpr[X86_RDX] = out[3];
    SOFT_NEXT(c, i);
}

static void check_tsd(SoftCpu *c)
{
    if ((c->cr4 & CR4_TSD) && c->cpl != 0) {
        soft_raise_error(c, EXC_GP, 0);
    }
}

static void rdtsc(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    check_tsd(c);
    soft_wait_for_timers(c);
    put_edx_eax(c, soft_tsc(c));
    if (i->aux) { /* RDTSCP */
        c->gpr[X86_RCX] = (uint32_t)c->msr.tsc_aux;
    }
    SOFT_NEXT(c, i);
}

/* There are no counters: every index is out of range. */
static void rdpmc(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_raise_error(c, EXC_GP, 0);
}

static void rdpid(SoftCpu *c, const SoftInsn *i)
{
    reg_write64(c, i->dst, (uint32_t)c->msr.tsc_aux);
    SOFT_NEXT(c, i);
}

static void rdrand(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = 0;
    bool ok = soft_random(c, &v);

    SOFT_HERE(c, i);
    if (i->op_size == 1) {
        reg_write16(c, i->dst, (uint16_t)v);
    } else {
        reg_write64(c, i->dst, i->op_size == 2 ? (uint32_t)v : v);
    }
    soft_set_rflags(c, ok ? FLAG_CF : 0, FLAGS_ARITH);
    SOFT_NEXT(c, i);
}

static void need_osxsave(SoftCpu *c)
{
    if (!(c->cr4 & CR4_OSXSAVE)) {
        soft_raise(c, EXC_UD);
    }
}

static void xgetbv(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    need_osxsave(c);
    /* 1: what is in use. That a part is said to be, though it is not, is allowed. */
    if ((uint32_t)c->gpr[X86_RCX] > 1) {
        soft_raise_error(c, EXC_GP, 0);
    }
    put_edx_eax(c, c->xcr0);
    SOFT_NEXT(c, i);
}

static void xsetbv(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = edx_eax(c);
    uint32_t leaf[4];

    SOFT_HERE(c, i);
    need_osxsave(c);
    soft_need_ring0(c);
    soft_need_exit(c);
    soft_cpuid(c, 0xd, 0, leaf);
    if ((uint32_t)c->gpr[X86_RCX] || !(v & 1) || (v & ~(leaf[0] | (uint64_t)leaf[3] << 32)) ||
        ((v & 4) && !(v & 2))) {
        soft_raise_error(c, EXC_GP, 0);
    }
    c->xcr0 = v;
    soft_end_at_next(c, i);
}

/* ---- FS and GS bases, AC ------------------------------------------------------------------- */

static void swapgs(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = c->msr.kernel_gs_base;

    SOFT_HERE(c, i);
    if (!c->mode.long_mode) {
        soft_raise(c, EXC_UD);
    }
    soft_need_ring0(c);
    c->msr.kernel_gs_base = c->seg[X86_GS].base;
    c->seg[X86_GS].base = v;
    SOFT_NEXT(c, i);
}

static void check_fsgsbase(SoftCpu *c)
{
    if (!c->mode.long_mode || !(c->cr4 & CR4_FSGSBASE)) {
        soft_raise(c, EXC_UD);
    }
}

static void read_base(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    check_fsgsbase(c);
    reg_write64(c, i->dst, i->op_size == 3 ? c->seg[i->aux].base : (uint32_t)c->seg[i->aux].base);
    SOFT_NEXT(c, i);
}

static void write_base(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = i->op_size == 3 ? reg_read64(c, i->dst) : reg_read32(c, i->dst);

    SOFT_HERE(c, i);
    check_fsgsbase(c);
    if (!soft_canonical(v)) {
        soft_raise_error(c, EXC_GP, 0);
    }
    c->seg[i->aux].base = v;
    SOFT_NEXT(c, i);
}

static void stac_clac(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    if (c->cpl != 0) {
        soft_raise(c, EXC_UD);
    }
    soft_set_rflags(c, i->aux ? FLAG_AC : 0, FLAG_AC);
    soft_tlb_select(c);
    soft_end_at_next(c, i);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

/* CLI and STI: IOPL in protected and virtual-8086 mode (no VME, no PVI here). */
static void check_iopl(SoftCpu *c)
{
    if (soft_protected(c) && c->cpl > soft_iopl(c)) {
        soft_raise_error(c, EXC_GP, 0);
    }
}

static void cli(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    check_iopl(c);
    c->flags &= ~(uint32_t)FLAG_IF;
    SOFT_NEXT(c, i);
}

static void sti(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    check_iopl(c);
    if (!(c->flags & FLAG_IF)) {
        c->flags |= FLAG_IF;
        c->inhibit_interrupts = SHADOW_STI;
    }
    soft_end_at_next(c, i);
}

static void hlt(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_need_ring0(c);
    soft_need_exit(c);
    c->halted = true;
    soft_end_at_next(c, i);
}

/* ---- port I/O -------------------------------------------------------------------------------- */

void soft_check_port(SoftCpu *c, uint16_t port, unsigned len)
{
    const X86Segment *tr = &c->seg[X86_TR];
    uint32_t at;
    uint64_t bits;

    if (!soft_protected(c) || (!soft_v86(c) && c->cpl <= soft_iopl(c))) {
        return;
    }
    if (!tr->present || tr->unusable || (tr->type & 9) != 9 || tr->limit < 103) {
        soft_raise_error(c, EXC_GP, 0);
    }
    at = (uint32_t)soft_load_system(c, tr->base + 102, 2) + port / 8;
    /* Two bytes are always read, so that a port range may cross. */
    if (at + 1 > tr->limit) {
        soft_raise_error(c, EXC_GP, 0);
    }
    bits = soft_load_system(c, tr->base + at, 2) >> (port % 8);
    if (bits & ((1u << len) - 1)) {
        soft_raise_error(c, EXC_GP, 0);
    }
}

uint32_t soft_in(SoftCpu *c, uint16_t port, unsigned len)
{
    uint32_t v;

    soft_check_port(c, port, len);
    v = soft_port_access(c, port, 0, len, false);
    soft_debug_port(c, port, len);
    return v;
}

void soft_out(SoftCpu *c, uint16_t port, uint32_t value, unsigned len)
{
    soft_check_port(c, port, len);
    soft_port_access(c, port, value, len, true);
    soft_debug_port(c, port, len);
}

static uint16_t port_of(const SoftCpu *c, const SoftInsn *i)
{
    return i->aux ? (uint16_t)c->gpr[X86_RDX] : (uint8_t)i->imm;
}

static void exec_in(SoftCpu *c, const SoftInsn *i)
{
    uint32_t v;

    SOFT_HERE(c, i);
    v = soft_in(c, port_of(c, i), 1u << i->op_size);
    if (i->op_size == 0) {
        reg_write8(c, SOFT_REG(X86_RAX), (uint8_t)v);
    } else if (i->op_size == 1) {
        reg_write16(c, SOFT_REG(X86_RAX), (uint16_t)v);
    } else {
        c->gpr[X86_RAX] = v;
    }
    SOFT_NEXT(c, i);
}

static void exec_out(SoftCpu *c, const SoftInsn *i)
{
    uint32_t v = (uint32_t)gpr_read(c, X86_RAX, i->op_size);

    SOFT_HERE(c, i);
    soft_out(c, port_of(c, i), v, 1u << i->op_size);
    SOFT_NEXT(c, i);
}

/* ---- system calls, hypercalls ---------------------------------------------------------------- */

static void exec_syscall(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_syscall(c, soft_next_rip(c, i));
}
static void exec_sysret(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_sysret(c, i->op_size);
}
static void exec_sysenter(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_sysenter(c);
}
static void exec_sysexit(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_sysexit(c, i->op_size);
}

/* Without virtualisation there is nobody to call: #UD, unless a hook answers. */
static void vmcall(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    if (hooked(c, EVENT_HYPERCALL)) {
        CpuExit *e = &c->vcpu->exit;

        *e = (CpuExit){ .kind = CPU_EXIT_HYPERCALL,
                        .size = c->mode.long_mode ? 8 : 4,
                        .count = 1,
                        .addr = c->gpr[X86_RAX],
                        .args = { c->gpr[X86_RBX], c->gpr[X86_RCX], c->gpr[X86_RDX],
                                  c->gpr[X86_RSI] } };
        soft_offer_exit(c);
        if (e->handled) {
            c->gpr[X86_RAX] = c->mode.long_mode ? e->value : (uint32_t)e->value;
            SOFT_NEXT(c, i);
        }
    }
    soft_raise(c, EXC_UD);
}

/* ---- decoding ----------------------------------------------------------------------------------
 */

static bool decode_port(SoftDecode *d, SoftInsn *out, bool in)
{
    const ZydisDecodedOperand *data = &d->ops[in ? 0 : 1], *port = &d->ops[in ? 1 : 0];

    out->op_size = (uint8_t)exec_size(data->size);
    if (port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        out->imm = port->imm.value.u;
    }
    return soft_take(d, out, in ? exec_in : exec_out, port->type == ZYDIS_OPERAND_TYPE_REGISTER,
                     false);
}

static bool decode_wide(SoftDecode *d, SoftInsn *out, SoftExec fn)
{
    out->op_size = d->insn->raw.rex.W ? 3 : 2;
    return soft_take(d, out, fn, 0, true);
}

bool soft_decode_system(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDMSR:
        return soft_take(d, out, rdmsr, 0, false);
    case ZYDIS_MNEMONIC_WRMSR:
        return soft_take(d, out, wrmsr, 0, true);
    case ZYDIS_MNEMONIC_CPUID:
        return soft_take(d, out, exec_cpuid, 0, false);
    case ZYDIS_MNEMONIC_RDTSC:
        return soft_take(d, out, rdtsc, 0, false);
    case ZYDIS_MNEMONIC_RDTSCP:
        return soft_take(d, out, rdtsc, 1, false);
    case ZYDIS_MNEMONIC_RDPMC:
        return soft_take(d, out, rdpmc, 0, true);
    case ZYDIS_MNEMONIC_RDPID:
        return soft_take(d, out, rdpid, 0, false);
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        out->op_size = (uint8_t)exec_size(d->ops[0].size);
        return soft_take(d, out, rdrand, 0, false);
    case ZYDIS_MNEMONIC_XGETBV:
        return soft_take(d, out, xgetbv, 0, false);
    case ZYDIS_MNEMONIC_XSETBV:
        return soft_take(d, out, xsetbv, 0, true);
    case ZYDIS_MNEMONIC_SWAPGS:
        return soft_take(d, out, swapgs, 0, false);
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: {
        ZydisMnemonic m = d->insn->mnemonic;
        bool fs = m == ZYDIS_MNEMONIC_RDFSBASE || m == ZYDIS_MNEMONIC_WRFSBASE;
        bool rd = m == ZYDIS_MNEMONIC_RDFSBASE || m == ZYDIS_MNEMONIC_RDGSBASE;

        out->op_size = (uint8_t)exec_size(d->ops[0].size);
        return soft_take(d, out, rd ? read_base : write_base, fs ? X86_FS : X86_GS, false);
    }
    case ZYDIS_MNEMONIC_STAC:
        return soft_take(d, out, stac_clac, 1, true);
    case ZYDIS_MNEMONIC_CLAC:
        return soft_take(d, out, stac_clac, 0, true);
    case ZYDIS_MNEMONIC_CLI:
        return soft_take(d, out, cli, 0, false);
    case ZYDIS_MNEMONIC_STI:
        return soft_take(d, out, sti, 0, true);
    case ZYDIS_MNEMONIC_HLT:
        return soft_take(d, out, hlt, 0, true);
    case ZYDIS_MNEMONIC_IN:
        return decode_port(d, out, true);
    case ZYDIS_MNEMONIC_OUT:
        return decode_port(d, out, false);
    case ZYDIS_MNEMONIC_SYSCALL:
        return soft_take(d, out, exec_syscall, 0, true);
    case ZYDIS_MNEMONIC_SYSRET:
        return decode_wide(d, out, exec_sysret);
    case ZYDIS_MNEMONIC_SYSENTER:
        return soft_take(d, out, exec_sysenter, 0, true);
    case ZYDIS_MNEMONIC_SYSEXIT:
        return decode_wide(d, out, exec_sysexit);
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
        return soft_take(d, out, vmcall, 0, true);
    default:
        return soft_decode_control(d, out) || soft_decode_segment(d, out);
    }
}
