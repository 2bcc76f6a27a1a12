/*
 * Instructions about segments: moves of segment registers, far pointers, LDTR and TR, the
 * descriptor tables, and what asks about selectors (LAR LSL VERR VERW ARPL).
 */
#include "engine/accel/soft/exec.h"
#include "engine/accel/soft/soft-sys.h"

/* Operands in memory have SOFT_GPR_NONE's offset as their register. */
#define IN_MEMORY 0xff

static uint16_t read_selector(SoftCpu *c, const SoftInsn *i, unsigned reg)
{
    if (reg == IN_MEMORY) {
        return (uint16_t)soft_load(c, soft_linear(c, i, 2, false), 2);
    }
    return reg_read16(c, reg);
}

/* A selector or machine status word into a register of op_size, or 16 bits of memory. */
static void write_word(SoftCpu *c, const SoftInsn *i, uint64_t v)
{
    if (i->dst == IN_MEMORY) {
        soft_store(c, soft_linear(c, i, 2, true), v & 0xffff, 2);
    } else if (i->op_size == 1) {
        reg_write16(c, i->dst, (uint16_t)v);
    } else {
        reg_write64(c, i->dst, i->op_size == 2 ? (uint32_t)v : v);
    }
}

static void need_segments(SoftCpu *c)
{
    if (!soft_segmented(c)) {
        soft_raise(c, EXC_UD);
    }
}
static void check_umip(SoftCpu *c)
{
    if ((c->cr4 & CR4_UMIP) && c->cpl > 0) {
        soft_raise_error(c, EXC_GP, 0);
    }
}

/* ---- segment registers ------------------------------------------------------------------- */

static void mov_from_seg(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    write_word(c, i, c->seg[i->aux].selector);
    SOFT_NEXT(c, i);
}

static void after_segment(SoftCpu *c, const SoftInsn *i)
{
    soft_end_at_next(c, i);
    /* Of several in a row only the first has the effect. */
    if (i->aux == X86_SS && !(c->shadow_over & SHADOW_SS)) {
        c->inhibit_interrupts = SHADOW_SS;
    }
}

static void mov_to_seg(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_load_segment(c, i->aux, read_selector(c, i, i->src));
    after_segment(c, i);
}

static void push_seg(SoftCpu *c, const SoftInsn *i)
{
    SoftStack s;

    SOFT_HERE(c, i);
    soft_stack_present(c, &s);
    soft_push(c, &s, c->seg[i->aux].selector, i->op_size);
    soft_set_sp(c, &s);
    SOFT_NEXT(c, i);
}

static void pop_seg(SoftCpu *c, const SoftInsn *i)
{
    SoftStack s;
    uint64_t v;

    SOFT_HERE(c, i);
    soft_stack_present(c, &s);
    v = soft_pop(c, &s, i->op_size);
    soft_load_segment(c, i->aux, (uint16_t)v);
    soft_set_sp(c, &s);
    after_segment(c, i);
}

static void load_far_pointer(SoftCpu *c, const SoftInsn *i)
{
    unsigned len = 1u << i->op_size;
    uint64_t at, v;

    SOFT_HERE(c, i);
    at = soft_linear(c, i, len + 2, false);
    v = soft_load(c, at, len);
    soft_load_segment(c, i->aux, (uint16_t)soft_load(c, at + len, 2));
    if (i->op_size == 1) {
        reg_write16(c, i->dst, (uint16_t)v);
    } else {
        reg_write64(c, i->dst, v);
    }
    soft_end_at_next(c, i);
}

/* ---- LDTR, TR ---------------------------------------------------------------------------- */

static void sldt_str(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    need_segments(c);
    check_umip(c);
    write_word(c, i, c->seg[i->aux].selector);
    SOFT_NEXT(c, i);
}

static void lldt_ltr(SoftCpu *c, const SoftInsn *i)
{
    bool tr = i->aux == X86_TR;
    uint64_t d, high = 0;
    uint16_t selector;
    unsigned type;

    SOFT_HERE(c, i);
    need_segments(c);
    soft_need_ring0(c);
    selector = read_selector(c, i, i->dst);
    if (soft_null(selector)) {
        if (tr) {
            soft_raise_error(c, EXC_GP, 0);
        }
        c->seg[X86_LDT] = (X86Segment){ .selector = selector, .unusable = true };
        soft_end_at_next(c, i);
        return;
    }
    if (selector & 4) {
        soft_fault(c, EXC_GP, selector);
    }
    d = soft_descriptor(c, selector, EXC_GP, soft_lma(c) ? &high : NULL);
    type = desc_type(d);
    if (desc_s(d) ||
        (tr ? type != SYS_TSS && (soft_lma(c) || type != SYS_TSS16) : type != SYS_LDT)) {
        soft_fault(c, EXC_GP, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
    if (soft_lma(c) &&
        !soft_canonical((d >> 16 & 0xffffff) | (d >> 32 & 0xff000000u) | high << 32)) {
        soft_fault(c, EXC_GP, selector);
    }
    if (tr) {
        soft_set_system_type(c, selector, d, type | 2);
        d |= UINT64_C(2) << 40;
    }
    soft_segment_from_descriptor(&c->seg[i->aux], selector, d, high);
    soft_end_at_next(c, i);
}

/* ---- GDTR, IDTR, machine status word ----------------------------------------------------- */

static void sgdt_sidt(SoftCpu *c, const SoftInsn *i)
{
    const X86Table *t = i->aux ? &c->idt : &c->gdt;
    unsigned len = c->mode.long_mode ? 8 : 4;
    uint64_t at;

    SOFT_HERE(c, i);
    check_umip(c);
    at = soft_linear(c, i, len + 2, true);
    soft_probe_write(c, at, len + 2);
    soft_store(c, at, t->limit, 2);
    soft_store(c, at + 2, t->base, len);
    SOFT_NEXT(c, i);
}

static void lgdt_lidt(SoftCpu *c, const SoftInsn *i)
{
    X86Table *t = i->aux ? &c->idt : &c->gdt;
    unsigned len = c->mode.long_mode ? 8 : 4;
    uint64_t at, base;
    uint16_t limit;

    SOFT_HERE(c, i);
    soft_need_ring0(c);
    at = soft_linear(c, i, len + 2, false);
    limit = (uint16_t)soft_load(c, at, 2);
    base = soft_load(c, at + 2, len);
    if (c->mode.long_mode && !soft_canonical(base)) {
        soft_raise_error(c, EXC_GP, 0);
    }
    t->base = i->op_size == 1 && !c->mode.long_mode ? base & 0xffffff : base;
    t->limit = limit;
    SOFT_NEXT(c, i);
}

static void smsw(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    check_umip(c);
    write_word(c, i, c->cr0);
    SOFT_NEXT(c, i);
}

static void lmsw(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v;

    SOFT_HERE(c, i);
    soft_need_ring0(c);
    v = read_selector(c, i, i->dst);
    /* It can set PE, never clear it. */
    soft_set_cr0(c, (c->cr0 & ~UINT64_C(14)) | (v & 15));
    soft_end_at_next(c, i);
}

/* ---- questions about selectors ------------------------------------------------------------- */

/* The descriptor of a selector, when it is inside its table. */
static bool peek_descriptor(SoftCpu *c, uint16_t selector, uint64_t *d)
{
    const X86Segment *ldt = &c->seg[X86_LDT];
    uint64_t base = selector & 4 ? ldt->base : c->gdt.base;
    uint32_t limit = selector & 4 ? ldt->limit : c->gdt.limit;

    if (soft_null(selector) || (selector & 0xfff8u) + 7 > limit ||
        ((selector & 4) && (ldt->unusable || soft_null(ldt->selector)))) {
        return false;
    }
    *d = soft_load_system(c, base + (selector & 0xfff8u), 8);
    return true;
}

static bool visible(const SoftCpu *c, uint16_t selector, uint64_t d)
{
    if (desc_is_code(d) && (desc_type(d) & SEG_CONFORMING)) {
        return true;
    }
    return desc_dpl(d) >= c->cpl && desc_dpl(d) >= (selector & 3u);
}

static bool can_ask(const SoftCpu *c, uint64_t d, bool lsl)
{
    static const uint16_t types[2][2] = {
        { 0x1a3e | 1 << 9, 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12 }, /* LAR: legacy, long mode */
        { 0x0a0e, 1 << 2 | 1 << 9 | 1 << 11 },                    /* LSL */
    };

    return desc_s(d) || (types[lsl][soft_lma(c)] >> desc_type(d) & 1);
}

static void answer(SoftCpu *c, bool yes)
{
    soft_set_rflags(c, yes ? FLAG_ZF : 0, FLAG_ZF);
}

static void lar_lsl(SoftCpu *c, const SoftInsn *i)
{
    uint16_t selector;
    uint64_t d, v;
    bool lsl = i->aux, yes;

    SOFT_HERE(c, i);
    need_segments(c);
    selector = read_selector(c, i, i->src);
    yes = peek_descriptor(c, selector, &d) && can_ask(c, d, lsl) && visible(c, selector, d);
    answer(c, yes);
    if (yes) {
        X86Segment s;

        soft_segment_from_descriptor(&s, selector, d, 0);
        v = lsl ? s.limit : (uint32_t)(d >> 32) & 0x00f0ff00;
        write_word(c, i, v);
    }
    SOFT_NEXT(c, i);
}

static void verr_verw(SoftCpu *c, const SoftInsn *i)
{
    uint16_t selector;
    uint64_t d;
    bool yes;

    SOFT_HERE(c, i);
    need_segments(c);
    selector = read_selector(c, i, i->dst);
    yes = peek_descriptor(c, selector, &d) && desc_s(d) && visible(c, selector, d);
    if (yes) {
        bool code = desc_type(d) & SEG_CODE, two = desc_type(d) & 2;

        yes = i->aux ? !code && two : !code || two;
    }
    answer(c, yes);
    SOFT_NEXT(c, i);
}

static void arpl(SoftCpu *c, const SoftInsn *i)
{
    uint64_t at = 0;
    uint16_t dst, rpl = reg_read16(c, i->src) & 3;
    bool raise;

    SOFT_HERE(c, i);
    need_segments(c);
    if (i->dst == IN_MEMORY) {
        at = soft_linear(c, i, 2, true);
        dst = (uint16_t)soft_load(c, at, 2);
    } else {
        dst = reg_read16(c, i->dst);
    }
    raise = (dst & 3) < rpl;
    if (raise) {
        dst = (uint16_t)((dst & ~3) | rpl);
        if (i->dst == IN_MEMORY) {
            soft_store(c, at, dst, 2);
        } else {
            reg_write16(c, i->dst, dst);
        }
    }
    answer(c, raise);
    SOFT_NEXT(c, i);
}

/* ---- decoding ------------------------------------------------------------------------------ */

static bool segment_register(const ZydisDecodedOperand *op, uint16_t *seg)
{
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
        ZydisRegisterGetClass(op->reg.value) != ZYDIS_REGCLASS_SEGMENT) {
        return false;
    }
    /* Zydis counts as the encoding does: ES CS SS DS FS GS. */
    *seg = (uint16_t)ZydisRegisterGetId(op->reg.value);
    return true;
}

static bool take(SoftDecode *d, SoftInsn *out, SoftExec fn, unsigned aux, bool ends)
{
    out->fn = fn;
    out->aux = (uint16_t)aux;
    d->ends = ends;
    return true;
}

static bool decode_mov(SoftDecode *d, SoftInsn *out)
{
    uint16_t seg;

    if (segment_register(&d->ops[1], &seg)) {
        if (d->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER) {
            out->op_size = (uint8_t)exec_size(d->ops[0].size);
        }
        return take(d, out, mov_from_seg, seg, false);
    }
    if (segment_register(&d->ops[0], &seg)) {
        if (seg == X86_CS) {
            return false;
        }
        return take(d, out, mov_to_seg, seg, true);
    }
    return false;
}

bool soft_decode_segment(SoftDecode *d, SoftInsn *out)
{
    uint16_t seg;

    if (d->insn->operand_count_visible > 0 && d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        out->dst = IN_MEMORY;
    }
    if (d->insn->operand_count_visible > 1 && d->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        out->src = IN_MEMORY;
    }
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return decode_mov(d, out);
    case ZYDIS_MNEMONIC_PUSH:
        return segment_register(&d->ops[0], &seg) && take(d, out, push_seg, seg, false);
    case ZYDIS_MNEMONIC_POP:
        return segment_register(&d->ops[0], &seg) && take(d, out, pop_seg, seg, true);
    case ZYDIS_MNEMONIC_LES:
        return take(d, out, load_far_pointer, X86_ES, true);
    case ZYDIS_MNEMONIC_LDS:
        return take(d, out, load_far_pointer, X86_DS, true);
    case ZYDIS_MNEMONIC_LSS:
        return take(d, out, load_far_pointer, X86_SS, true);
    case ZYDIS_MNEMONIC_LFS:
        return take(d, out, load_far_pointer, X86_FS, true);
    case ZYDIS_MNEMONIC_LGS:
        return take(d, out, load_far_pointer, X86_GS, true);
    case ZYDIS_MNEMONIC_SLDT:
        return take(d, out, sldt_str, X86_LDT, false);
    case ZYDIS_MNEMONIC_STR:
        return take(d, out, sldt_str, X86_TR, false);
    case ZYDIS_MNEMONIC_LLDT:
        return take(d, out, lldt_ltr, X86_LDT, true);
    case ZYDIS_MNEMONIC_LTR:
        return take(d, out, lldt_ltr, X86_TR, true);
    case ZYDIS_MNEMONIC_SGDT:
        return take(d, out, sgdt_sidt, 0, false);
    case ZYDIS_MNEMONIC_SIDT:
        return take(d, out, sgdt_sidt, 1, false);
    case ZYDIS_MNEMONIC_LGDT:
        return take(d, out, lgdt_lidt, 0, false);
    case ZYDIS_MNEMONIC_LIDT:
        return take(d, out, lgdt_lidt, 1, false);
    case ZYDIS_MNEMONIC_SMSW:
        return take(d, out, smsw, 0, false);
    case ZYDIS_MNEMONIC_LMSW:
        return take(d, out, lmsw, 0, true);
    case ZYDIS_MNEMONIC_LAR:
        return take(d, out, lar_lsl, 0, false);
    case ZYDIS_MNEMONIC_LSL:
        return take(d, out, lar_lsl, 1, false);
    case ZYDIS_MNEMONIC_VERR:
        return take(d, out, verr_verw, 0, false);
    case ZYDIS_MNEMONIC_VERW:
        return take(d, out, verr_verw, 1, false);
    case ZYDIS_MNEMONIC_ARPL:
        return take(d, out, arpl, 0, false);
    default:
        return false;
    }
}
