/*
 * What reads memory and writes it in one piece: locked arithmetic, XADD, CMPXCHG; and the bit
 * tests.
 *
 * The host's locked instruction is used on the guest's memory, as the handlers do. Flags come from
 * doing the same again on the old value; those of locked logic, which gives none, and those that a
 * bit test keeps are taken from the host's RFLAGS.
 */
#include "engine/accel/soft/translate.h"

#define ALL FLAGS_ARITH

static void lock(Xlate *x)
{
    if (x->i->flags & SOFT_I_LOCK) {
        emit8(x, 0xf0);
    }
}

/* The operand's host address in T1, writable. */
static void open_operand(Xlate *x)
{
    mem_linear_of(x);
    mem_host_of(x, SOFT_WRITE, 1u << x->i->op_size);
}

/* T2 = the host's RFLAGS. */
static void take_host_flags(Xlate *x)
{
    emit8(x, 0x9c); /* PUSHF */
    emit8(x, 0x41); /* POP R14 */
    emit8(x, 0x5e);
}

/* ---- sums -------------------------------------------------------------------------------- */

/* XADD of T3 to memory; then T3 is the old value, zero-extended. */
static void exchange_add(Xlate *x)
{
    unsigned size = x->i->op_size;

    emit8(x, 0xf0);
    emit_op(x, size, size ? 0x0fc1 : 0x0fc0, T3, rm_mem(T1, 0));
    emit_load(x, size, T3, rm_reg(T3));
    x->host = 0;
}

static bool locked_sum(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size, alu = i->kind == KIND_ADD ? ADD_ : SUB_;
    bool imm = i->ops == OPS_MI;
    Loc src = imm ? loc_imm(i->imm) : loc_reg(gpr_of(i->src));
    uint8_t cc = alu == ADD_ ? CC_ADD : CC_SUB;

    open_operand(x);
    if (!flags_wanted(x)) {
        unsigned reg = imm ? 0 : guest_in(x, src.reg, T2);

        emit8(x, 0xf0);
        if (imm) {
            emit_alu_imm(x, size, alu, rm_mem(T1, 0), i->imm);
        } else {
            emit_alu_to(x, size, alu, rm_mem(T1, 0), reg);
        }
        flags_pending(x, cc, loc_stored(), src, 0);
        return true;
    }
    if (imm) {
        emit_imm(x, T3, alu == ADD_ ? i->imm : 0 - i->imm);
    } else {
        emit_load(x, 3, T3, guest_rm(src.reg));
        if (alu == SUB_) {
            emit_op(x, 3, 0xf7, 3, rm_reg(T3)); /* NEG */
        }
    }
    exchange_add(x);
    if (imm) {
        emit_alu_imm(x, size, alu, rm_reg(T3), i->imm);
    } else {
        emit_alu(x, size, alu, T3, guest_rm(src.reg));
    }
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T3);
    flags_pending(x, cc, loc_stored(), src, ALL);
    return true;
}

static bool locked_one(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size;
    bool dec = i->kind == KIND_DEC;
    Loc carry = loc_imm(0);

    open_operand(x);
    if (!flags_wanted(x)) {
        emit8(x, 0xf0);
        emit_op(x, size, size ? 0xff : 0xfe, dec, rm_mem(T1, 0));
        x->host = 0;
        return true;
    }
    if (x->live[x->k] & FLAG_CF) {
        carry = flags_keep_carry(x);
    }
    emit_imm(x, T3, dec ? UINT64_MAX : 1);
    exchange_add(x);
    emit_op(x, size, size ? 0xff : 0xfe, dec, rm_reg(T3));
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T3);
    flags_pending(x, dec ? CC_DEC : CC_INC, loc_stored(), carry, ALL & ~(uint32_t)FLAG_CF);
    return true;
}

static bool exchange_and_add(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size, n = gpr_of(i->src);

    if (i->ops != OPS_MR) {
        return false;
    }
    open_operand(x);
    flags_before_write(x, n);
    emit_load(x, size, T3, guest_rm(n));
    if (flags_wanted(x)) {
        emit_store(x, 3, rm_cpu(CPU_OFF(cc_src)), T3);
    }
    lock(x);
    emit_op(x, size, size ? 0x0fc1 : 0x0fc0, T3, rm_mem(T1, 0));
    if (flags_wanted(x)) {
        emit_load(x, size, T2, rm_reg(T3));
        emit_alu(x, size, ADD_, T2, rm_cpu(CPU_OFF(cc_src)));
        emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T2);
    }
    guest_set(x, n, size, T3);
    flags_pending(x, CC_ADD, loc_stored(), loc_stored(), ALL);
    return true;
}

/* ---- logic ------------------------------------------------------------------------------- */

static bool locked_logic(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size, alu = (unsigned)i->kind - KIND_ADD, reg = 0;
    bool imm = i->ops == OPS_MI;

    open_operand(x);
    if (!imm) {
        reg = guest_in(x, gpr_of(i->src), T2);
    }
    emit8(x, 0xf0);
    if (imm) {
        emit_alu_imm(x, size, alu, rm_mem(T1, 0), i->imm);
    } else {
        emit_alu_to(x, size, alu, rm_mem(T1, 0), reg);
    }
    if (!flags_wanted(x)) {
        flags_set(x, (Flags){ .state = FLAGS_DEAD }, 0);
        return true;
    }
    take_host_flags(x);
    emit_alu_imm(x, 2, AND_, rm_reg(T2), ALL & ~(uint32_t)FLAG_AF);
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T2);
    emit_store_imm(x, 1, rm_cpu(CPU_OFF(cc_op)), CC_FLAGS | size << 8);
    /* The handler leaves a result behind instead. */
    flags_set(
        x, (Flags){ .state = FLAGS_STORED, .guess = true, .op = CC_FLAGS, .size = i->op_size }, 0);
    return true;
}

static bool locked_not(Xlate *x)
{
    unsigned size = x->i->op_size;

    open_operand(x);
    emit8(x, 0xf0);
    emit_op(x, size, size ? 0xf7 : 0xf6, 2, rm_mem(T1, 0));
    return true;
}

/* ---- CMPXCHG ----------------------------------------------------------------------------- */

/* rAX is the host's own, and has the old value behind it whether that was equal or not. */
static bool compare_and_exchange(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size, reg;

    if (i->ops != OPS_MR) {
        return false;
    }
    open_operand(x);
    flags_before_write(x, X86_RAX);
    reg = guest_in(x, gpr_of(i->src), T2);
    emit_load(x, size, T3, rm_reg(RAX));
    lock(x);
    emit_op(x, size, size ? 0x0fb1 : 0x0fb0, reg, rm_mem(T1, 0));
    if (flags_wanted(x)) {
        emit_load(x, size, T2, rm_reg(RAX));
        emit_store(x, 3, rm_cpu(CPU_OFF(cc_src)), T2);
        emit_alu(x, size, SUB_, T3, rm_reg(T2));
        emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T3);
    }
    flags_pending(x, CC_SUB, loc_stored(), loc_stored(), ALL);
    return true;
}

/* ---- bits -------------------------------------------------------------------------------- */

/* All flags but CF as CC_FLAGS has them; keeps T1. */
static void keep_flags(Xlate *x)
{
    flags_save(x);
    emit_call_to(x, x->t->flags);
    take_host_flags(x);
    emit_alu_imm(x, 2, AND_, rm_reg(T2), ALL & ~(uint32_t)FLAG_CF);
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T2);
}

/* CF from the host's to those, or alone. */
static void set_carry(Xlate *x, bool alone)
{
    emit_op(x, 0, 0x0f92, 0, rm_reg(T3)); /* SETC */
    emit_load(x, 0, T3, rm_reg(T3));
    if (alone) {
        emit_store(x, 3, rm_cpu(CPU_OFF(cc_dst)), T3);
    } else {
        emit_alu_to(x, 2, OR_, rm_cpu(CPU_OFF(cc_dst)), T3);
    }
    emit_store_imm(x, 0, rm_cpu(CPU_OFF(cc_op)), CC_FLAGS);
    flags_set(x, (Flags){ .state = FLAGS_STORED, .known = true, .op = CC_FLAGS },
              alone ? FLAG_CF : 0);
}

static void bit_of_register(Xlate *x)
{
    static const uint8_t opcode[] = { 0xa3, 0xab, 0xb3, 0xbb };
    const SoftInsn *i = x->i;
    unsigned kind = (unsigned)i->kind - KIND_BT, n = gpr_of(i->dst);
    unsigned reg = guest_in(x, n, T2); /* not in memory: a bit string starts there */

    if (i->ops == OPS_RI) {
        emit_op(x, i->op_size, 0x0fba, 4 + kind, rm_reg(reg));
        emit8(x, (uint8_t)i->imm);
    } else {
        emit_op(x, i->op_size, 0x0f00u | opcode[kind], guest_in(x, gpr_of(i->src), T3),
                rm_reg(reg));
    }
    if (kind && host_of[n] == NONE) {
        emit_store(x, 3, guest_rm(n), reg);
    }
}

/* Only CF changes. A bit offset in a register reaches beyond the operand in memory: that is the
 * handler's. */
bool translate_bit(Xlate *x)
{
    const SoftInsn *i = x->i;
    bool only_carry = !(x->live[x->k] & ~(uint32_t)FLAG_CF);

    if ((i->ops != OPS_RR && i->ops != OPS_RI && i->ops != OPS_MI) ||
        (!only_carry && flags_lost(x))) {
        return false;
    }
    if (i->ops == OPS_MI) {
        mem_linear_of(x);
        mem_host_of(x, i->kind == KIND_BT ? SOFT_READ : SOFT_WRITE, 1u << i->op_size);
    }
    if (!only_carry) {
        keep_flags(x);
    }
    if (i->ops == OPS_MI) {
        lock(x);
        emit_op(x, i->op_size, 0x0fba, 4 + (unsigned)i->kind - KIND_BT, rm_mem(T1, 0));
        emit8(x, (uint8_t)i->imm);
    } else {
        bit_of_register(x);
    }
    if (only_carry && i->ops != OPS_MI) {
        flags_set(x, (Flags){ .state = FLAGS_DEAD }, FLAG_CF);
    } else {
        set_carry(x, only_carry); /* as on the slow way */
    }
    return true;
}

bool translate_atomic(Xlate *x)
{
    bool locked = x->i->flags & SOFT_I_LOCK;

    switch ((SoftKind)x->i->kind) {
    case KIND_ADD:
    case KIND_SUB:
        return locked && locked_sum(x);
    case KIND_INC:
    case KIND_DEC:
        return locked && locked_one(x);
    case KIND_OR:
    case KIND_AND:
    case KIND_XOR:
        return locked && locked_logic(x);
    case KIND_NOT:
        return locked && locked_not(x);
    case KIND_XADD:
        return exchange_and_add(x);
    case KIND_CMPXCHG:
        return compare_and_exchange(x);
    case KIND_BTS:
    case KIND_BTR:
    case KIND_BTC:
        return translate_bit(x);
    default:
        return false;
    }
}
