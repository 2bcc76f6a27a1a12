/*
 * Shifts and rotations.
 *
 * Rotations leave flags that follow from no result: one is translated where nobody wants more than
 * its carry at once, the rest is its handler's.
 */
#include "engine/accel/soft/translate.h"

#define ALL FLAGS_ARITH

static const uint8_t host_kind[] = { 0, 1, 4, 5, 7, 2, 3 }; /* from KIND_ROL on, in the encoding */

static unsigned count_of(const SoftInsn *i)
{
    return (unsigned)i->imm & (i->op_size == 3 ? 63 : 31);
}

static bool rotates(const SoftInsn *i)
{
    return i->kind == KIND_ROL || i->kind == KIND_ROR || i->kind == KIND_RCL || i->kind == KIND_RCR;
}

/* The operand in the host's register, of all its bits; written back by shift_back. */
static unsigned shift_in(Xlate *x, unsigned scratch)
{
    return guest_in(x, gpr_of(x->i->dst), scratch);
}

static void shift_back(Xlate *x, unsigned reg)
{
    Rm dst = guest_rm(gpr_of(x->i->dst));

    if (dst.reg == NONE) {
        emit_store(x, 3, dst, reg);
    }
}

/* The last bit out, as cc_src has it: the value shifted by one less. */
static void keep_last(Xlate *x, unsigned reg)
{
    const SoftInsn *i = x->i;
    unsigned n = count_of(i);

    emit_load(x, i->op_size, T2, rm_reg(reg));
    if (n > 1) {
        emit_shift_imm(x, i->op_size, host_kind[i->kind - KIND_ROL], rm_reg(T2), n - 1);
    }
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_src)), T2);
}

static uint8_t cc_of(const SoftInsn *i)
{
    return i->kind == KIND_SHL ? CC_SHL : i->kind == KIND_SHR ? CC_SHR : CC_SAR;
}

static void shifted(Xlate *x, Loc dst)
{
    const SoftInsn *i = x->i;
    unsigned n = count_of(i);
    uint32_t host = FLAG_ZF | FLAG_SF | FLAG_PF | (n <= (8u << i->op_size) ? FLAG_CF : 0u) |
                    (n == 1 ? FLAG_OF : 0u);
    Flags f = { .state = flags_wanted(x) ? FLAGS_PENDING : FLAGS_DEAD,
                .known = true,
                .op = cc_of(i),
                .size = i->op_size,
                .dst = dst,
                .src = loc_stored() };

    flags_set(x, f, host);
}

static bool shift_register(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned reg, n = gpr_of(i->dst);

    reg = shift_in(x, T3);
    if (flags_wanted(x)) {
        keep_last(x, reg);
    }
    emit_shift_imm(x, i->op_size, host_kind[i->kind - KIND_ROL], rm_reg(reg), count_of(i));
    shift_back(x, reg);
    shifted(x, loc_reg(n));
    return true;
}

static bool shift_memory(Xlate *x)
{
    const SoftInsn *i = x->i;

    mem_linear_of(x);
    mem_host_of(x, SOFT_WRITE, 1u << i->op_size);
    emit_load(x, i->op_size, T3, rm_mem(T1, 0));
    if (flags_wanted(x)) {
        keep_last(x, T3);
    }
    emit_shift_imm(x, i->op_size, host_kind[i->kind - KIND_ROL], rm_reg(T3), count_of(i));
    emit_store(x, i->op_size, rm_mem(T1, 0), T3);
    if (flags_wanted(x)) {
        emit_load(x, i->op_size, T3, rm_reg(T3));
        emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T3);
    }
    shifted(x, loc_stored());
    return true;
}

static bool rotate(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned reg;

    if (i->ops != OPS_RI || (x->live[x->k] & ~(uint32_t)FLAG_CF)) {
        return false;
    }
    if (i->kind == KIND_RCL || i->kind == KIND_RCR) {
        flags_to_host(x, FLAG_CF);
    }
    reg = shift_in(x, T3);
    emit_shift_imm(x, i->op_size, host_kind[i->kind - KIND_ROL], rm_reg(reg), count_of(i));
    shift_back(x, reg);
    flags_set(x, (Flags){ .state = FLAGS_DEAD }, FLAG_CF);
    return true;
}

static void shift_by_cl(Xlate *x, unsigned reg)
{
    emit_op(x, x->i->op_size, x->i->op_size ? 0xd3 : 0xd2, host_kind[x->i->kind - KIND_ROL],
            rm_reg(reg));
    x->host = 0;
}

/* A count of 0 changes no flag: all is stored before, and something else after any other. */
static bool shift_count(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size, reg, n = gpr_of(i->dst);
    size_t over;

    if (i->kind == KIND_RCL || i->kind == KIND_RCR || (rotates(i) && flags_wanted(x))) {
        return false;
    }
    if (!flags_wanted(x)) {
        flags_before_write(x, n);
        reg = shift_in(x, T3);
        shift_by_cl(x, reg);
        shift_back(x, reg);
        flags_set(x, (Flags){ .state = FLAGS_DEAD }, 0);
        return true;
    }
    x->failed |= flags_lost(x);
    flags_save(x);
    reg = shift_in(x, T3);
    emit_load(x, size, T2, rm_reg(reg));
    emit_op(x, 0, 0xf6, 0, rm_reg(RCX)); /* TEST */
    emit8(x, size == 3 ? 63 : 31);
    over = emit_jcc(x, 4);
    emit_lea(x, 3, RCX, (Mem){ RCX, NONE, 0, -1 });
    shift_by_cl(x, T2);
    emit_lea(x, 3, RCX, (Mem){ RCX, NONE, 0, 1 });
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_src)), T2);
    emit_store_imm(x, 1, rm_cpu(CPU_OFF(cc_op)), cc_of(i) | size << 8);
    emit_load(x, size, T2, rm_reg(reg));
    shift_by_cl(x, T2);
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T2);
    emit_land(x, over);
    shift_by_cl(x, reg);
    shift_back(x, reg);
    flags_set(x, (Flags){ .state = FLAGS_STORED }, 0);
    return true;
}

bool translate_shift(Xlate *x)
{
    const SoftInsn *i = x->i;

    if (i->ops == OPS_RR) { /* the count is CL */
        return shift_count(x);
    }
    if ((i->ops != OPS_RI && i->ops != OPS_MI) || !count_of(i)) {
        return false;
    }
    if (rotates(i)) {
        return rotate(x);
    }
    return i->ops == OPS_RI ? shift_register(x) : shift_memory(x);
}
