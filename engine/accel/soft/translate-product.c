/* Multiplications, whose flags follow from no result, and divisions. */
#include "engine/accel/soft/translate.h"

/* CF and OF say whether the product did not fit; the others are 0. */
static void product_flags(Xlate *x)
{
    if (!flags_wanted(x)) {
        flags_set(x, (Flags){ .state = FLAGS_DEAD }, FLAG_CF | FLAG_OF);
        return;
    }
    emit_op(x, 0, 0x0f92, 0, rm_reg(T2)); /* SETC */
    emit_load(x, 0, T2, rm_reg(T2));
    emit_op(x, 2, 0x69, T2, rm_reg(T2));
    emit32(x, FLAG_CF | FLAG_OF);
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T2);
    emit_store_imm(x, 0, rm_cpu(CPU_OFF(cc_op)), CC_FLAGS);
    flags_set(x, (Flags){ .state = FLAGS_STORED, .known = true, .op = CC_FLAGS }, 0);
}

static Rm factor(Xlate *x, unsigned n)
{
    const SoftInsn *i = x->i;

    if (i->ops != OPS_RM && i->ops != OPS_M) {
        return guest_rm(n);
    }
    mem_linear_of(x);
    mem_host_of(x, SOFT_READ, 1u << i->op_size);
    return rm_mem(T1, 0);
}

/* One operand: rAX, and rDX unless it has 8 bits, which are the host's own. */
static bool multiply_accumulator(Xlate *x)
{
    const SoftInsn *i = x->i;
    Rm b = factor(x, gpr_of(i->dst));

    flags_before_write(x, X86_RAX);
    flags_before_write(x, X86_RDX);
    emit_op(x, i->op_size, i->op_size ? 0xf7 : 0xf6, i->kind == KIND_MUL ? 4 : 5, b);
    product_flags(x);
    return true;
}

bool translate_product(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), size = i->op_size, reg;
    bool three = i->kind == KIND_IMUL3;
    Rm b;

    if (i->kind == KIND_MUL || i->kind == KIND_IMUL1) {
        return multiply_accumulator(x);
    }
    b = factor(x, gpr_of(i->src));
    flags_before_write(x, n);
    reg = host_of[n] == NONE ? T3 : host_of[n];
    if (reg == T3 && (!three || size == 1)) {
        emit_load(x, 3, T3, guest_rm(n));
    }
    if (three) {
        emit_op(x, size, 0x69, reg, b);
        emit8(x, (uint8_t)i->imm);
        emit8(x, (uint8_t)(i->imm >> 8));
        if (size > 1) {
            emit8(x, (uint8_t)(i->imm >> 16));
            emit8(x, (uint8_t)(i->imm >> 24));
        }
    } else {
        emit_op(x, size, 0x0faf, reg, b);
    }
    if (reg == T3) {
        emit_store(x, 3, guest_rm(n), T3);
    }
    product_flags(x);
    return true;
}

/* ---- divisions --------------------------------------------------------------------------- */

/* What would raise #DE is the handler's, and so is a signed dividend that is wider than rAX or a
 * divisor of 0 or -1. The divisor is in T3. */
static void check_divisor(Xlate *x)
{
    unsigned size = x->i->op_size;

    if (x->i->kind == KIND_DIV) {
        emit_alu(x, size, CMP_, RDX, rm_reg(T3));
        slow_jcc(x, 3); /* not below */
        return;
    }
    emit_store(x, 3, rm_reg(T2), RAX);
    emit_shift_imm(x, size, 7, rm_reg(T2), (8u << size) - 1);
    emit_alu(x, size, CMP_, T2, rm_reg(RDX));
    slow_jcc(x, 5);
    emit_lea(x, 3, T2, (Mem){ T3, NONE, 0, 1 });
    emit_alu_imm(x, size, CMP_, rm_reg(T2), 1);
    slow_jcc(x, 6); /* not above */
}

/* No flag changes, as the handlers have it; rAX and rDX are the host's own. */
bool translate_divide(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size;
    Rm b;

    if (size == 0) {
        return false;
    }
    b = factor(x, gpr_of(i->dst));
    flags_before_write(x, X86_RAX);
    flags_before_write(x, X86_RDX);
    emit_load(x, size, T3, b);
    check_divisor(x);
    emit_op(x, size, 0xf7, i->kind == KIND_DIV ? 6 : 7, rm_reg(T3));
    x->host = 0;
    return true;
}
