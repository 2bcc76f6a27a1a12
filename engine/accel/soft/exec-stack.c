/*
 * The stack: PUSH POP PUSHA POPA PUSHF POPF ENTER LEAVE. Segment registers are pushed and popped by
 * the system group.
 *
 * Each handler exists for 64-bit code, whose stack is flat, and for the rest, whose stack pointer
 * has 16 or 32 bits.
 */
#include "engine/accel/soft/exec.h"

#define STACK(N, TAG, LM)                                                          \
    static void push##N##TAG##_r(SoftCpu *c, const SoftInsn *i)                    \
    {                                                                              \
        SOFT_HERE(c, i);                                                           \
        stack_push(c, reg_read##N(c, i->dst), N / 8, LM);                          \
        SOFT_NEXT(c, i);                                                           \
    }                                                                              \
    static void push##N##TAG##_i(SoftCpu *c, const SoftInsn *i)                    \
    {                                                                              \
        SOFT_HERE(c, i);                                                           \
        stack_push(c, (uint##N##_t)i->imm, N / 8, LM);                             \
        SOFT_NEXT(c, i);                                                           \
    }                                                                              \
    static void push##N##TAG##_m(SoftCpu *c, const SoftInsn *i)                    \
    {                                                                              \
        uint##N##_t v = LOAD_OPERAND(c, i, N);                                     \
        stack_push(c, v, N / 8, LM);                                               \
        SOFT_NEXT(c, i);                                                           \
    }                                                                              \
    /* The stack pointer moves first: POP rSP leaves the value that was popped. */ \
    static void pop##N##TAG##_r(SoftCpu *c, const SoftInsn *i)                     \
    {                                                                              \
        SOFT_HERE(c, i);                                                           \
        uint##N##_t v = (uint##N##_t)stack_peek(c, 0, N / 8, LM);                  \
        stack_drop(c, N / 8, LM);                                                  \
        reg_write##N(c, i->dst, v);                                                \
        SOFT_NEXT(c, i);                                                           \
    }                                                                              \
    /* An address that contains rSP is computed with the pointer already moved. */ \
    static void pop##N##TAG##_m(SoftCpu *c, const SoftInsn *i)                     \
    {                                                                              \
        SOFT_HERE(c, i);                                                           \
        uint##N##_t v = (uint##N##_t)stack_peek(c, 0, N / 8, LM);                  \
        STORE(c, N, pop_linear(c, i, N / 8), v);                                   \
        stack_drop(c, N / 8, LM);                                                  \
        SOFT_NEXT(c, i);                                                           \
    }

static __attribute__((noinline)) uint64_t pop_linear(SoftCpu *c, const SoftInsn *i, unsigned len)
{
    SoftInsn t = *i;
    if (t.base == X86_RSP) {
        t.disp += len;
    }
    return soft_linear(c, &t, len, true);
}
STACK(16, , false)
STACK(32, , false)
STACK(16, long, true)
STACK(64, long, true)

/* ---- all registers ------------------------------------------------------------------------- */

static void pusha(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size;
    uint64_t sp = c->gpr[X86_RSP];

    SOFT_HERE(c, i);
    for (unsigned n = X86_RAX; n <= X86_RDI; n++) {
        sp = stack_mask(c, sp - len);
        soft_store(c, stack_linear(c, sp, len, true, false), gpr_read(c, n, i->op_size), len);
    }
    stack_set(c, sp, false);
    SOFT_NEXT(c, i);
}
static void popa(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size;
    uint64_t v[8];

    SOFT_HERE(c, i);
    for (unsigned n = 0; n < 8; n++) {
        v[n] = stack_peek(c, n * len, len, false);
    }
    stack_drop(c, 8 * len, false);
    for (unsigned n = 0; n < 8; n++) {
        if (X86_RDI - n != X86_RSP) {
            gpr_write(c, X86_RDI - n, i->op_size, v[n]);
        }
    }
    SOFT_NEXT(c, i);
}

/* ---- flags --------------------------------------------------------------------------------- */

static unsigned iopl(const SoftCpu *c)
{
    return (c->flags & FLAG_IOPL) >> 12;
}

#define CR4_VME_BIT 1u

static void pushf_any(SoftCpu *c, const SoftInsn *i)
{
    uint64_t v = soft_rflags(c) & ~(uint64_t)(FLAG_VM | FLAG_RF);

    SOFT_HERE(c, i);
    if ((c->flags & FLAG_VM) && iopl(c) < 3) {
        if (!(c->cr4 & CR4_VME_BIT) || i->op_size != 1) {
            soft_raise_error(c, EXC_GP, 0);
        }
        v = (v & ~(uint64_t)FLAG_IF) | FLAG_IOPL | ((v & FLAG_VIF) ? FLAG_IF : 0);
    }
    stack_push(c, v, 1u << i->op_size, c->mode.long_mode);
    SOFT_NEXT(c, i);
}

/* Ends its block: an interrupt or a trap may be due now. */
static void popf_any(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size;
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID, v;

    SOFT_HERE(c, i);
    v = stack_peek(c, 0, len, c->mode.long_mode);
    if (!(c->flags & FLAG_VM)) {
        mask |= c->cpl == 0 ? FLAG_IOPL : 0;
        mask |= c->cpl <= iopl(c) ? FLAG_IF : 0;
    } else if (iopl(c) == 3) {
        mask |= FLAG_IF;
    } else {
        if (!(c->cr4 & CR4_VME_BIT) || i->op_size != 1 || (v & FLAG_TF) ||
            ((v & FLAG_IF) && (c->flags & FLAG_VIP))) {
            soft_raise_error(c, EXC_GP, 0);
        }
        v |= (v & FLAG_IF) ? FLAG_VIF : 0;
        mask |= FLAG_VIF;
    }
    if (i->op_size == 1) {
        mask &= 0xffff | FLAG_VIF;
    }
    stack_drop(c, len, c->mode.long_mode);
    soft_set_rflags(c, v, mask);
    SOFT_END(c, i);
}

/* ---- frames -------------------------------------------------------------------------------- */

/* The new frame's lowest byte must be writable, although nothing is written there: LEAVE and the
 * callee's pushes rely on it. */
static void enter(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size, size = (unsigned)i->imm & 0xffff, level = i->aux & 31;
    const bool lm = c->mode.long_mode;
    uint64_t sp = c->gpr[X86_RSP] - len, bp = c->gpr[X86_RBP], frame;

    SOFT_HERE(c, i);
    sp = stack_mask(c, sp);
    soft_store(c, stack_linear(c, sp, len, true, lm), gpr_read(c, X86_RBP, i->op_size), len);
    frame = sp;
    for (unsigned n = 1; n < level; n++) {
        bp = stack_mask(c, bp - len);
        uint64_t v = soft_load(c, stack_linear(c, bp, len, false, lm), len);
        sp = stack_mask(c, sp - len);
        soft_store(c, stack_linear(c, sp, len, true, lm), v, len);
    }
    if (level) {
        sp = stack_mask(c, sp - len);
        soft_store(c, stack_linear(c, sp, len, true, lm), frame, len);
    }
    sp = stack_mask(c, sp - size);
    soft_probe_write(c, stack_linear(c, sp, len, true, lm), len);
    gpr_write(c, X86_RBP, i->op_size, frame);
    stack_set(c, sp, lm);
    SOFT_NEXT(c, i);
}

static void leave_any(SoftCpu *c, const SoftInsn *i)
{
    const unsigned len = 1u << i->op_size;
    uint64_t sp = stack_mask(c, c->gpr[X86_RBP]);

    SOFT_HERE(c, i);
    uint64_t v = soft_load(c, stack_linear(c, sp, len, false, false), len);
    stack_set(c, sp + len, false);
    gpr_write(c, X86_RBP, i->op_size, v);
    SOFT_NEXT(c, i);
}
static void leave64(SoftCpu *c, const SoftInsn *i)
{
    uint64_t sp = c->gpr[X86_RBP];

    SOFT_HERE(c, i);
    c->gpr[X86_RBP] = soft_load(c, sp, 8);
    c->gpr[X86_RSP] = sp + 8;
    SOFT_NEXT(c, i);
}

/* ---- decoding ------------------------------------------------------------------------------ */

/* [push, pop][register, immediate, memory][size] */
enum { TO_REG, TO_IMM, TO_MEM };
static const SoftExec stack_set_legacy[2][3][4] = {
    { { NULL, push16_r, push32_r }, { NULL, push16_i, push32_i }, { NULL, push16_m, push32_m } },
    { { NULL, pop16_r, pop32_r }, { NULL }, { NULL, pop16_m, pop32_m } },
};
static const SoftExec stack_set_long[2][3][4] = {
    { { NULL, push16long_r, NULL, push64long_r },
      { NULL, push16long_i, NULL, push64long_i },
      { NULL, push16long_m, NULL, push64long_m } },
    { { NULL, pop16long_r, NULL, pop64long_r },
      { NULL },
      { NULL, pop16long_m, NULL, pop64long_m } },
};

static bool decode_push_pop(const SoftDecode *d, SoftInsn *out, bool pop)
{
    const ZydisDecodedOperand *op = &d->ops[0];
    unsigned form = TO_MEM;

    if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        form = TO_IMM;
        out->imm = op->imm.value.u;
    } else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
        if (!exec_is_gpr(op->reg.value)) {
            return false;
        }
        form = TO_REG;
        out->dst = exec_reg(op->reg.value);
    }
    out->op_size = (uint8_t)exec_size(d->insn->operand_width);
    out->fn = (d->mode->long_mode ? stack_set_long : stack_set_legacy)[pop][form][out->op_size];
    return out->fn;
}

static bool sized(const SoftDecode *d, SoftInsn *out, SoftExec fn, unsigned size)
{
    out->op_size = (uint8_t)size;
    out->fn = fn;
    return true;
}

bool exec_decode_stack(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return decode_push_pop(d, out, false);
    case ZYDIS_MNEMONIC_POP:
        return decode_push_pop(d, out, true);
    case ZYDIS_MNEMONIC_PUSHA:
        return sized(d, out, pusha, 1);
    case ZYDIS_MNEMONIC_PUSHAD:
        return sized(d, out, pusha, 2);
    case ZYDIS_MNEMONIC_POPA:
        return sized(d, out, popa, 1);
    case ZYDIS_MNEMONIC_POPAD:
        return sized(d, out, popa, 2);
    case ZYDIS_MNEMONIC_PUSHF:
        return sized(d, out, pushf_any, 1);
    case ZYDIS_MNEMONIC_PUSHFD:
        return sized(d, out, pushf_any, 2);
    case ZYDIS_MNEMONIC_PUSHFQ:
        return sized(d, out, pushf_any, 3);
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        d->ends = true;
        out->flags |= SOFT_I_TF_TRAP;
        return sized(d, out, popf_any,
                     d->insn->mnemonic == ZYDIS_MNEMONIC_POPF    ? 1
                     : d->insn->mnemonic == ZYDIS_MNEMONIC_POPFD ? 2
                                                                 : 3);
    case ZYDIS_MNEMONIC_ENTER:
        out->imm = d->ops[0].imm.value.u;
        out->aux = (uint16_t)d->ops[1].imm.value.u;
        return sized(d, out, enter, exec_size(d->insn->operand_width));
    case ZYDIS_MNEMONIC_LEAVE:
        sized(d, out, leave_any, exec_size(d->insn->operand_width));
        if (out->op_size == 3) {
            out->fn = leave64;
        }
        return true;
    default:
        return false;
    }
}
