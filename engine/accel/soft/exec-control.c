/*
 * Control and debug registers, and what drops translations: MOV to and from CRn and DRn, CLTS,
 * INVLPG, INVPCID, WBINVD and INVD.
 */
#include "engine/accel/soft/exec.h"
#include "engine/accel/soft/soft-block.h"
#include "engine/accel/soft/soft-mmu.h"
#include "engine/accel/soft/soft-sys.h"

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
    soft_need_ring0(c);
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
    soft_need_ring0(c);
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
    soft_need_ring0(c);
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
    soft_need_ring0(c);
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
    soft_need_ring0(c);
    soft_need_exit(c);
    c->tlb_wish = true;
    at = soft_offset(c, i);
    if (!c->mode.long_mode) {
        at = (uint32_t)(at + c->seg[i->seg].base);
    } else if (i->seg >= X86_FS) {
        at += c->seg[i->seg].base;
    }
    soft_tlb_flush_page(c, at);
    if (soft_code_dropped(c)) {
        soft_end_early(c, i);
        return;
    }
    SOFT_NEXT(c, i);
}

static void invpcid(SoftCpu *c, const SoftInsn *i)
{
    uint64_t at, pcid, linear, type;
    bool bad;

    SOFT_HERE(c, i);
    if (!soft_protected(c)) {
        soft_raise(c, EXC_UD);
    }
    soft_need_ring0(c);
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
    soft_need_ring0(c);
    SOFT_NEXT(c, i);
}

/* ---- decoding ---------------------------------------------------------------------------- */

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
            return soft_take(d, out, n ? mov_from_cr : mov_to_cr, id, n == 0);
        }
        if (k == ZYDIS_REGCLASS_DEBUG) {
            unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);

            return id < 8 && soft_take(d, out, n ? mov_from_dr : mov_to_dr, id, n == 0);
        }
    }
    return false;
}

bool soft_decode_control(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return decode_mov(d, out);
    case ZYDIS_MNEMONIC_CLTS:
        return soft_take(d, out, clts, 0, true);
    case ZYDIS_MNEMONIC_INVLPG:
        return soft_take(d, out, invlpg, 0, false);
    case ZYDIS_MNEMONIC_INVPCID:
        return soft_take(d, out, invpcid, 0, true);
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return soft_take(d, out, cache_nop, 0, false);
    default:
        return false;
    }
}
