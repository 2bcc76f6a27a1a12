/*
 * Control flow: jumps, calls and returns, loops, software interrupts, BOUND, UD. What changes CS is
 * done by soft-transfer.c and soft-interrupt.c.
 *
 * A handler here is the last of its block: it sets rip and returns. Relative targets are offsets
 * from the block's first byte (SOFT_I_RELATIVE).
 */
#include "engine/accel/soft/exec.h"

/* ---- targets ------------------------------------------------------------------------------- */

/* 64-bit code: an address that is not canonical is the jump's fault, not the fetch's. */
static inline void jump_long(SoftCpu *c, const SoftInsn *i, uint64_t target)
{
    if (UNLIKELY(!CANONICAL(target))) {
        SOFT_HERE(c, i);
        soft_raise_error(c, EXC_GP, 0);
    }
    c->rip = target;
}
/* The rest: the operand size cuts the target, the code segment bounds it. */
static inline uint64_t target_legacy(SoftCpu *c, const SoftInsn *i, uint64_t target)
{
    target = i->op_size == 1 ? (uint16_t)target : (uint32_t)target;
    if (UNLIKELY(!c->flat_segments && target > c->seg[X86_CS].limit)) {
        SOFT_HERE(c, i);
        soft_raise_error(c, EXC_GP, 0);
    }
    return target;
}
/* rip after an instruction: 16-bit code wraps. */
static inline uint64_t next_rip(const SoftCpu *c, const SoftInsn *i)
{
    uint64_t rip = soft_next_rip(c, i);
    return c->mode.long_mode ? rip : (uint32_t)rip;
}

/* ---- conditional jumps --------------------------------------------------------------------- */

#define JUMP_ON(CC)                                             \
    static void jcc##CC##_long(SoftCpu *c, const SoftInsn *i)   \
    {                                                           \
        if (cc_condition(c, CC)) {                              \
            jump_long(c, i, c->rip + i->imm);                   \
        } else {                                                \
            c->rip += i->off + i->len;                          \
        }                                                       \
    }                                                           \
    static void jcc##CC##_legacy(SoftCpu *c, const SoftInsn *i) \
    {                                                           \
        if (cc_condition(c, CC)) {                              \
            c->rip = target_legacy(c, i, c->rip + i->imm);      \
        } else {                                                \
            c->rip = next_rip(c, i);                            \
        }                                                       \
    }
#define FOR_CONDITIONS(M) \
    M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
FOR_CONDITIONS(JUMP_ON)
#define JUMP_ROW(CC) { jcc##CC##_legacy, jcc##CC##_long },
static const SoftExec jump_on[16][2] = { FOR_CONDITIONS(JUMP_ROW) };

/* ---- counted jumps ------------------------------------------------------------------------- */

static inline void counted(SoftCpu *c, const SoftInsn *i, bool taken)
{
    if (!taken) {
        c->rip = next_rip(c, i);
    } else if (c->mode.long_mode) {
        jump_long(c, i, c->rip + i->imm);
    } else {
        c->rip = target_legacy(c, i, c->rip + i->imm);
    }
}
static void jcxz(SoftCpu *c, const SoftInsn *i)
{
    counted(c, i, gpr_read(c, X86_RCX, i->addr_size) == 0);
}
/* A jump that faults leaves the count alone. */
#define LOOP(NAME, CONDITION)                                                            \
    static void NAME(SoftCpu *c, const SoftInsn *i)                                      \
    {                                                                                    \
        uint64_t n = (gpr_read(c, X86_RCX, i->addr_size) - 1) & SIZE_MASK(i->addr_size); \
        counted(c, i, n != 0 && (CONDITION));                                            \
        gpr_write(c, X86_RCX, i->addr_size, n);                                          \
    }
LOOP(loop_any, true)
LOOP(loop_zero, cc_zero(c))
LOOP(loop_not_zero, !cc_zero(c))

/* ---- JMP, CALL, RET ------------------------------------------------------------------------ */

static void jmp_long(SoftCpu *c, const SoftInsn *i)
{
    jump_long(c, i, c->rip + i->imm);
}
static void jmp_legacy(SoftCpu *c, const SoftInsn *i)
{
    c->rip = target_legacy(c, i, c->rip + i->imm);
}
static void call_long(SoftCpu *c, const SoftInsn *i)
{
    uint64_t target = c->rip + i->imm;

    SOFT_HERE(c, i);
    if (UNLIKELY(!CANONICAL(target))) {
        soft_raise_error(c, EXC_GP, 0);
    }
    stack_push(c, soft_next_rip(c, i), 8, true);
    c->rip = target;
}
static void call_legacy(SoftCpu *c, const SoftInsn *i)
{
    uint64_t target = target_legacy(c, i, c->rip + i->imm);

    SOFT_HERE(c, i);
    stack_push(c, next_rip(c, i), 1u << i->op_size, false);
    c->rip = target;
}

/* A call's push comes before the look at its target. */
#define INDIRECT(FORM, LONG_VALUE, LEGACY_VALUE)                  \
    static void jmp_long_##FORM(SoftCpu *c, const SoftInsn *i)    \
    {                                                             \
        jump_long(c, i, LONG_VALUE);                              \
    }                                                             \
    static void jmp_legacy_##FORM(SoftCpu *c, const SoftInsn *i)  \
    {                                                             \
        c->rip = target_legacy(c, i, LEGACY_VALUE);               \
    }                                                             \
    static void call_long_##FORM(SoftCpu *c, const SoftInsn *i)   \
    {                                                             \
        SOFT_HERE(c, i);                                          \
        uint64_t target = LONG_VALUE;                             \
        if (UNLIKELY(!CANONICAL(target))) {                       \
            soft_probe_write(c, c->gpr[X86_RSP] - 8, 8);          \
            soft_raise_error(c, EXC_GP, 0);                       \
        }                                                         \
        stack_push(c, soft_next_rip(c, i), 8, true);              \
        c->rip = target;                                          \
    }                                                             \
    static void call_legacy_##FORM(SoftCpu *c, const SoftInsn *i) \
    {                                                             \
        SOFT_HERE(c, i);                                          \
        uint64_t target = target_legacy(c, i, LEGACY_VALUE);      \
        stack_push(c, next_rip(c, i), 1u << i->op_size, false);   \
        c->rip = target;                                          \
    }
INDIRECT(r, reg_read64(c, i->dst), reg_read32(c, i->dst))
INDIRECT(m, LOAD_OPERAND(c, i, 64),
         soft_load(c, mem_linear(c, i, 1u << i->op_size, false), 1u << i->op_size))

/* imm: bytes to drop beyond the return address. */
static void ret_long(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    uint64_t target = soft_load(c, c->gpr[X86_RSP], 8);
    jump_long(c, i, target);
    c->gpr[X86_RSP] += 8 + i->imm;
}
static void ret_legacy(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size;

    SOFT_HERE(c, i);
    c->rip = target_legacy(c, i, stack_peek(c, 0, len, false));
    stack_drop(c, len + i->imm, false);
}

/* ---- far transfers ------------------------------------------------------------------------- */

static void jmp_far(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_far_jump(c, i->aux, i->imm, i->op_size, next_rip(c, i));
}
static void call_far(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_far_call(c, i->aux, i->imm, i->op_size, next_rip(c, i));
}
/* The offset comes first, the selector behind it. */
static uint16_t far_pointer(SoftCpu *c, const SoftInsn *i, uint64_t *offset)
{
    const unsigned len = 1u << i->op_size;
    uint8_t b[10];

    soft_load_bytes(c, mem_linear(c, i, len + 2, false), b, len + 2);
    *offset = 0;
    memcpy(offset, b, len);
    return (uint16_t)(b[len] | b[len + 1] << 8);
}
static void jmp_far_m(SoftCpu *c, const SoftInsn *i)
{
    uint64_t offset;
    uint16_t selector = far_pointer(c, i, &offset);
    soft_far_jump(c, selector, offset, i->op_size, next_rip(c, i));
}
static void call_far_m(SoftCpu *c, const SoftInsn *i)
{
    uint64_t offset;
    uint16_t selector = far_pointer(c, i, &offset);
    soft_far_call(c, selector, offset, i->op_size, next_rip(c, i));
}
static void ret_far(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_far_return(c, i->op_size, (unsigned)i->imm);
}
static void iret(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_iret(c, i->op_size);
}

/* ---- software interrupts and deliberate faults ---------------------------------------------- */

static void int_n(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_interrupt(c, (unsigned)i->imm & 255, SOFT_INT_SOFTWARE, false, 0, next_rip(c, i));
}
static void int3(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_interrupt(c, EXC_BP, SOFT_INT_SOFTWARE, false, 0, next_rip(c, i));
}
static void int1(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_interrupt(c, EXC_DB, SOFT_INT_ICEBP, false, 0, next_rip(c, i));
}
static void into(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    if (cc_overflow(c)) {
        soft_interrupt(c, EXC_OF, SOFT_INT_SOFTWARE, false, 0, next_rip(c, i));
    } else {
        c->rip = next_rip(c, i);
    }
}
/* Two bounds in memory, lower first, both signed and within. */
static void bound(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size, shift = 64 - 8 * len;
    uint64_t linear = mem_linear(c, i, len, false), low = soft_load(c, linear, len), high;

    mem_linear(c, i, 2 * len, false); /* the second one's faults come after the first one's */
    high = soft_load(c, linear + len, len);
    int64_t v = (int64_t)(gpr_read(c, i->dst / 8, i->op_size) << shift);
    if (v < (int64_t)(low << shift) || v > (int64_t)(high << shift)) {
        soft_raise(c, EXC_BR);
    }
    SOFT_NEXT(c, i);
}
static void undefined(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_raise(c, EXC_UD);
}

/* ---- decoding ------------------------------------------------------------------------------ */

static bool decode_jcc(const SoftDecode *d, SoftInsn *out)
{
    static const ZydisMnemonic names[16] = {
        ZYDIS_MNEMONIC_JO, ZYDIS_MNEMONIC_JNO, ZYDIS_MNEMONIC_JB,  ZYDIS_MNEMONIC_JNB,
        ZYDIS_MNEMONIC_JZ, ZYDIS_MNEMONIC_JNZ, ZYDIS_MNEMONIC_JBE, ZYDIS_MNEMONIC_JNBE,
        ZYDIS_MNEMONIC_JS, ZYDIS_MNEMONIC_JNS, ZYDIS_MNEMONIC_JP,  ZYDIS_MNEMONIC_JNP,
        ZYDIS_MNEMONIC_JL, ZYDIS_MNEMONIC_JNL, ZYDIS_MNEMONIC_JLE, ZYDIS_MNEMONIC_JNLE,
    };
    for (unsigned cc = 0; cc < 16; cc++) {
        if (d->insn->mnemonic == names[cc]) {
            out->aux = (uint16_t)cc;
            out->fn = jump_on[cc][d->mode->long_mode];
            return true;
        }
    }
    return false;
}

static bool decode_jmp_call(const SoftDecode *d, SoftInsn *out, bool call)
{
    const ZydisDecodedOperand *op = &d->ops[0];
    const bool lm = d->mode->long_mode;

    if (d->insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        if (op->type == ZYDIS_OPERAND_TYPE_POINTER) {
            out->aux = op->ptr.segment;
            out->imm = op->ptr.offset;
            out->fn = call ? call_far : jmp_far;
        } else {
            out->fn = call ? call_far_m : jmp_far_m;
        }
        return true;
    }
    switch (op->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        out->dst = exec_reg(op->reg.value);
        out->fn = lm ? (call ? call_long_r : jmp_long_r) : (call ? call_legacy_r : jmp_legacy_r);
        return true;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        out->fn = lm ? (call ? call_long_m : jmp_long_m) : (call ? call_legacy_m : jmp_legacy_m);
        return true;
    default:
        out->fn = lm ? (call ? call_long : jmp_long) : (call ? call_legacy : jmp_legacy);
        return true;
    }
}

static bool decode_ret(const SoftDecode *d, SoftInsn *out)
{
    out->imm = d->insn->operand_count_visible && d->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE
                   ? d->ops[0].imm.value.u & 0xffff
                   : 0;
    out->fn = d->insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ? ret_far
              : d->mode->long_mode                               ? ret_long
                                                                 : ret_legacy;
    return true;
}

bool soft_decode_flow(SoftDecode *d, SoftInsn *out)
{
    out->op_size = (uint8_t)exec_size(d->insn->operand_width);
    d->ends = true;
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return decode_jmp_call(d, out, false);
    case ZYDIS_MNEMONIC_CALL:
        return decode_jmp_call(d, out, true);
    case ZYDIS_MNEMONIC_RET:
        return decode_ret(d, out);
    case ZYDIS_MNEMONIC_JCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
        out->fn = jcxz;
        return true;
    case ZYDIS_MNEMONIC_LOOP:
        out->fn = loop_any;
        return true;
    case ZYDIS_MNEMONIC_LOOPE:
        out->fn = loop_zero;
        return true;
    case ZYDIS_MNEMONIC_LOOPNE:
        out->fn = loop_not_zero;
        return true;
    case ZYDIS_MNEMONIC_INT:
        out->imm = d->ops[0].imm.value.u;
        out->fn = int_n;
        return true;
    case ZYDIS_MNEMONIC_INT3:
        out->fn = int3;
        return true;
    case ZYDIS_MNEMONIC_INT1:
        out->fn = int1;
        return true;
    case ZYDIS_MNEMONIC_INTO:
        out->fn = into;
        return true;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        out->op_size = d->insn->mnemonic == ZYDIS_MNEMONIC_IRET    ? 1
                       : d->insn->mnemonic == ZYDIS_MNEMONIC_IRETD ? 2
                                                                   : 3;
        out->flags |= SOFT_I_TF_TRAP;
        out->fn = iret;
        return true;
    case ZYDIS_MNEMONIC_BOUND:
        d->ends = false;
        out->dst = exec_reg(d->ops[0].reg.value);
        out->op_size = (uint8_t)exec_size(d->ops[0].size);
        out->fn = bound;
        return true;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
        out->fn = undefined;
        return true;
    default:
        if (decode_jcc(d, out)) {
            return true;
        }
        d->ends = false;
        return false;
    }
}
