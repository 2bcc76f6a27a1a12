/*
 * Privileged instructions and those about system state: control and debug registers, MSRs, CPUID,
 * time stamps, TLB, port I/O, HLT, fast system calls.
 */

#include "engine/accel/soft/exec.h"
#include "engine/accel/soft/soft-mmu.h"
#include "engine/accel/soft/soft-sys.h"

static void need_ring0(SoftCpu *c)
{
    if (c->cpl != 0) {
        soft_raise_error(c, EXC_GP, 0);
    }
}

/* ---- control registers ------------------------------------------------------------------- */

/* PAE paging without long mode: entries with reserved bits are refused when they are loaded. */
static void load_pdptes(SoftCpu *c, uint64_t cr3)
{
    uint64_t e[4];

    if (!soft_read_pdptes(c, cr3, e)) {
        soft_raise_error(c, EXC_GP, 0);
    }
    memcpy(c->pdpte, e, sizeof(e));
    c->pdpte_cr3 = cr3;
}

void soft_set_cr0(SoftCpu *c, uint64_t v)
{
    const uint64_t known = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM |
                           CR0_NW | CR0_CD | CR0_PG;
    uint64_t changed;
    bool bad;

    bad = v >> 32 || ((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD));
    v = (v & known) | CR0_ET;
    changed = v ^ c->cr0;
    if ((changed & CR0_PG) && (v & CR0_PG) && (c->efer & EFER_LME)) {
        bad |= !(c->cr4 & CR4_PAE) || c->seg[X86_CS].l;
    }
    if ((changed & CR0_PG) && !(v & CR0_PG)) {
        bad |= c->mode.long_mode || (c->cr4 & CR4_PCIDE);
    }
    if (bad) {
        soft_raise_error(c, EXC_GP, 0);
    }
    if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && (v & CR0_PG) && (c->cr4 & CR4_PAE) &&
        !(c->efer & EFER_LME)) {
        load_pdptes(c, c->cr3);
    }
    if (changed & CR0_PG) {
        if ((v & CR0_PG) && (c->efer & EFER_LME)) {
            c->efer |= EFER_LMA;
        } else {
            c->efer &= ~EFER_LMA;
        }
    }
    c->cr0 = v;
    if (changed & (CR0_PG | CR0_WP | CR0_PE)) {
        soft_tlb_flush(c, true);
    }
    soft_mode_changed(c);
}

void soft_set_cr3(SoftCpu *c, uint64_t v)
{
    if (c->cr4 & CR4_PCIDE) {
        v &= ~(UINT64_C(1) << 63); /* "keep": a TLB may forget what it likes */
    }
    if (soft_lma(c) && v >> c->phys_bits) {
        soft_raise_error(c, EXC_GP, 0);
    }
    if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !soft_lma(c)) {
        load_pdptes(c, v);
    }
    c->cr3 = v;
    soft_tlb_flush(c, false);
}

void soft_set_cr4(SoftCpu *c, uint64_t v)
{
    const uint64_t known = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
                           CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE |
                           CR4_OSXSAVE | CR4_SMEP | CR4_SMAP;
    uint64_t changed = v ^ c->cr4;

    if (v & ~known || (soft_lma(c) && !(v & CR4_PAE)) ||
        ((changed & v & CR4_PCIDE) && (!soft_lma(c) || (c->cr3 & 0xfff)))) {
        soft_raise_error(c, EXC_GP, 0);
    }
    if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && (v & CR4_PAE) &&
        (c->cr0 & CR0_PG) && !soft_lma(c)) {
        load_pdptes(c, c->cr3);
    }
    c->cr4 = v;
    if (changed & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP)) {
        soft_tlb_flush(c, true);
    }
    soft_mode_changed(c);
}

static void set_cr8(SoftCpu *c, uint64_t v)
{
    if (v > 15) {
        soft_raise_error(c, EXC_GP, 0);
    }
    c->cr8 = v;
    if (c->apic) {
        c->apic->set_cr8(c->apic_opaque, (uint8_t)v);
    }
}

static void mov_to_cr(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = c->mode.long_mode ? reg_read64(c, i->src) : reg_read32(c, i->src);

    SOFT_HERE(c, i);
    need_ring0(c);
    soft_need_exit(c);
    c->tlb_wish = true;
    switch (i->aux) {
    case 0:
        soft_set_cr0(c, v);
        break;
    case 2:
        c->cr2 = v;
        break;
    case 3:
        soft_set_cr3(c, v);
        break;
    case 4:
        soft_set_cr4(c, v);
        break;
    default:
        set_cr8(c, v);
        break;
    }
    soft_end_at_next(c, i);
}

static void mov_from_cr(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v;

    SOFT_HERE(c, i);
    need_ring0(c);
    switch (i->aux) {
    case 0:
        v = c->cr0;
        break;
    case 2:
        v = c->cr2;
        break;
    case 3:
        v = c->cr3;
        break;
    case 4:
        v = c->cr4;
        break;
    default:
        if (c->apic) {
            c->cr8 = c->apic->get_cr8(c->apic_opaque);
        }
        v = c->cr8;
        break;
    }
    reg_write64(c, i->dst, c->mode.long_mode ? v : (uint32_t)v);
    SOFT_NEXT(c, i);
}

static void clts(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    need_ring0(c);
    c->cr0 &= ~CR0_TS;
    soft_end_at_next(c, i);
}

/* ---- debug registers ----------------------------------------------------------------------- */

static unsigned debug_register(SoftCpu *c, const SoftInsn *i)
{
    unsigned n = i->aux;

    if (n == 4 || n == 5) {
        if (c->cr4 & CR4_DE) {
            soft_raise(c, EXC_UD);
        }
        n += 2;
    }
    need_ring0(c);
    if (c->dr7 & 1 << 13) {
        c->dr6 |= DR6_BD;
        soft_raise(c, EXC_DB);
    }
    return n;
}

static void mov_to_dr(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = c->mode.long_mode ? reg_read64(c, i->src) : reg_read32(c, i->src);
    unsigned n;

    SOFT_HERE(c, i);
    n = debug_register(c, i);
    if (n < 4) {
        c->dr[n] = v;
    } else if (v >> 32) {
        soft_raise_error(c, EXC_GP, 0);
    } else if (n == 6) {
        c->dr6 = (v & 0xe00f) | 0xffff0ff0;
    } else {
        c->dr7 = (v & 0xffff23ff) | 0x400;
    }
    soft_debug_changed(c);
    soft_end_at_next(c, i);
}

static void mov_from_dr(SoftCpu *c, const SoftInsn *i)
{
    unsigned n;
    uint64_t v;

    SOFT_HERE(c, i);
    n = debug_register(c, i);
    v = n < 4 ? c->dr[n] : n == 6 ? c->dr6 : c->dr7;
    reg_write64(c, i->dst, c->mode.long_mode ? v : (uint32_t)v);
    SOFT_NEXT(c, i);
}

/* ---- TLB and caches ------------------------------------------------------------------------ */

static void invlpg(SoftCpu *c, const SoftInsn *i)
{
    uint64_t at;

    SOFT_HERE(c, i);
    need_ring0(c);
    soft_need_exit(c);
    c->tlb_wish = true;
    at = soft_offset(c, i);
    if (!c->mode.long_mode) {
        at = (uint32_t)(at + c->seg[i->seg].base);
    } else if (i->seg >= X86_FS) {
        at += c->seg[i->seg].base;
    }
    soft_tlb_flush_page(c, at);
    soft_end_at_next(c, i);
}

static void invpcid(SoftCpu *c, const SoftInsn *i)
{
    uint64_t at, pcid, linear, type;
    bool bad;

    SOFT_HERE(c, i);
    if (!soft_protected(c)) {
        soft_raise(c, EXC_UD);
    }
    need_ring0(c);
    soft_need_exit(c);
    type = c->mode.long_mode ? reg_read64(c, i->dst) : reg_read32(c, i->dst);
    at = soft_linear(c, i, 16, false);
    pcid = soft_load(c, at, 8);
    linear = soft_load(c, at + 8, 8);
    bad = type > 3 || pcid >> 12 || (type == 0 && !soft_canonical(linear)) ||
          (type <= 1 && pcid && !(c->cr4 & CR4_PCIDE));
    if (bad) {
        soft_raise_error(c, EXC_GP, 0);
    }
    c->tlb_wish = true;
    soft_tlb_flush(c, type == 2 || type == 0);
    soft_end_at_next(c, i);
}

/* WBINVD, INVD: caches are the host's. */
static void cache_nop(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    need_ring0(c);
    SOFT_NEXT(c, i);
}

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
    need_ring0(c);
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
    need_ring0(c);
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
    need_ring0(c);
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
    need_ring0(c);
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
    need_ring0(c);
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

static bool take(SoftDecode *d, SoftInsn *out, SoftExec fn, unsigned aux, bool ends)
{
    out->fn = fn;
    out->aux = (uint16_t)aux;
    d->ends = ends;
    return true;
}

static bool decode_mov(SoftDecode *d, SoftInsn *out)
{
    for (unsigned n = 0; n < 2; n++) {
        const ZydisDecodedOperand *op = &d->ops[n];
        ZydisRegisterClass k;

        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER) {
            continue;
        }
        k = ZydisRegisterGetClass(op->reg.value);
        if (k == ZYDIS_REGCLASS_CONTROL) {
            unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);

            if (id != 0 && id != 2 && id != 3 && id != 4 && id != 8) {
                return false;
            }
            return take(d, out, n ? mov_from_cr : mov_to_cr, id, n == 0);
        }
        if (k == ZYDIS_REGCLASS_DEBUG) {
            unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);

            return id < 8 && take(d, out, n ? mov_from_dr : mov_to_dr, id, n == 0);
        }
    }
    return false;
}

static bool decode_port(SoftDecode *d, SoftInsn *out, bool in)
{
    const ZydisDecodedOperand *data = &d->ops[in ? 0 : 1], *port = &d->ops[in ? 1 : 0];

    out->op_size = (uint8_t)exec_size(data->size);
    if (port->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        out->imm = port->imm.value.u;
    }
    return take(d, out, in ? exec_in : exec_out, port->type == ZYDIS_OPERAND_TYPE_REGISTER, false);
}

static bool decode_wide(SoftDecode *d, SoftInsn *out, SoftExec fn)
{
    out->op_size = d->insn->raw.rex.W ? 3 : 2;
    return take(d, out, fn, 0, true);
}

bool soft_decode_system(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return decode_mov(d, out) || soft_decode_segment(d, out);
    case ZYDIS_MNEMONIC_CLTS:
        return take(d, out, clts, 0, true);
    case ZYDIS_MNEMONIC_INVLPG:
        return take(d, out, invlpg, 0, true);
    case ZYDIS_MNEMONIC_INVPCID:
        return take(d, out, invpcid, 0, true);
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return take(d, out, cache_nop, 0, false);
    case ZYDIS_MNEMONIC_RDMSR:
        return take(d, out, rdmsr, 0, false);
    case ZYDIS_MNEMONIC_WRMSR:
        return take(d, out, wrmsr, 0, true);
    case ZYDIS_MNEMONIC_CPUID:
        return take(d, out, exec_cpuid, 0, false);
    case ZYDIS_MNEMONIC_RDTSC:
        return take(d, out, rdtsc, 0, false);
    case ZYDIS_MNEMONIC_RDTSCP:
        return take(d, out, rdtsc, 1, false);
    case ZYDIS_MNEMONIC_RDPMC:
        return take(d, out, rdpmc, 0, true);
    case ZYDIS_MNEMONIC_RDPID:
        return take(d, out, rdpid, 0, false);
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        out->op_size = (uint8_t)exec_size(d->ops[0].size);
        return take(d, out, rdrand, 0, false);
    case ZYDIS_MNEMONIC_XGETBV:
        return take(d, out, xgetbv, 0, false);
    case ZYDIS_MNEMONIC_XSETBV:
        return take(d, out, xsetbv, 0, true);
    case ZYDIS_MNEMONIC_SWAPGS:
        return take(d, out, swapgs, 0, false);
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE: {
        ZydisMnemonic m = d->insn->mnemonic;
        bool fs = m == ZYDIS_MNEMONIC_RDFSBASE || m == ZYDIS_MNEMONIC_WRFSBASE;
        bool rd = m == ZYDIS_MNEMONIC_RDFSBASE || m == ZYDIS_MNEMONIC_RDGSBASE;

        out->op_size = (uint8_t)exec_size(d->ops[0].size);
        return take(d, out, rd ? read_base : write_base, fs ? X86_FS : X86_GS, false);
    }
    case ZYDIS_MNEMONIC_STAC:
        return take(d, out, stac_clac, 1, true);
    case ZYDIS_MNEMONIC_CLAC:
        return take(d, out, stac_clac, 0, true);
    case ZYDIS_MNEMONIC_CLI:
        return take(d, out, cli, 0, false);
    case ZYDIS_MNEMONIC_STI:
        return take(d, out, sti, 0, true);
    case ZYDIS_MNEMONIC_HLT:
        return take(d, out, hlt, 0, true);
    case ZYDIS_MNEMONIC_IN:
        return decode_port(d, out, true);
    case ZYDIS_MNEMONIC_OUT:
        return decode_port(d, out, false);
    case ZYDIS_MNEMONIC_SYSCALL:
        return take(d, out, exec_syscall, 0, true);
    case ZYDIS_MNEMONIC_SYSRET:
        return decode_wide(d, out, exec_sysret);
    case ZYDIS_MNEMONIC_SYSENTER:
        return take(d, out, exec_sysenter, 0, true);
    case ZYDIS_MNEMONIC_SYSEXIT:
        return decode_wide(d, out, exec_sysexit);
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
        return take(d, out, vmcall, 0, true);
    default:
        return soft_decode_segment(d, out);
    }
}
