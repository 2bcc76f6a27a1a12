/*
 * ADD to CMP, TEST, and NOT, NEG, INC, DEC. What becomes of their flags: translate-flags.c.
 */
#include "engine/accel/soft/translate.h"

#define ALL FLAGS_ARITH

static uint8_t cc_of(unsigned alu)
{
    switch (alu) {
    case ADD_:
        return CC_ADD;
    case SUB_:
    case CMP_:
        return CC_SUB;
    default:
        return CC_LOGIC;
    }
}

static void store_cc(Xlate *x, bool dst, unsigned reg)
{
    emit_store(x, 3, rm_cpu(dst ? CPU_OFF(cc_dst) : CPU_OFF(cc_src)), reg);
}

/* ---- comparisons ------------------------------------------------------------------------- */

/* Registers: nothing is done until somebody asks. */
static bool compare_registers(Xlate *x, bool test)
{
    const SoftInsn *i = x->i;
    bool imm = i->ops == OPS_RI;
    unsigned a = gpr_of(i->dst), b = gpr_of(i->src);
    Flags f = { .state = FLAGS_COMPARE,
                .known = true,
                .op = test ? CC_LOGIC : CC_SUB,
                .size = i->op_size,
                .dst = loc_reg(a),
                .src = imm ? loc_imm(i->imm) : loc_reg(b) };

    if (!flags_wanted(x)) {
        f.state = FLAGS_DEAD;
    } else if (test && !imm && a == b) {
        f.state = FLAGS_PENDING; /* the result is the register */
    }
    flags_set(x, f, 0);
    return true;
}

static bool compare_memory(Xlate *x, bool test)
{
    const SoftInsn *i = x->i;
    unsigned alu = test ? AND_ : SUB_, size = i->op_size;
    Loc src = loc_stored();

    mem_linear_of(x);
    mem_host_of(x, SOFT_READ, 1u << size);
    if (!flags_wanted(x)) {
        flags_pending(x, CC_LOGIC, loc_stored(), loc_stored(), 0);
        return true;
    }
    if (i->ops == OPS_RM) {
        emit_load(x, size, T2, rm_mem(T1, 0));
        emit_load(x, size, T3, guest_rm(gpr_of(i->dst)));
        if (!test) {
            store_cc(x, false, T2);
        }
        emit_alu(x, size, alu, T3, rm_reg(T2));
    } else {
        emit_load(x, size, T3, rm_mem(T1, 0));
        if (i->ops == OPS_MI) {
            src = loc_imm(i->imm);
            emit_alu_imm(x, size, alu, rm_reg(T3), i->imm);
        } else {
            src = loc_reg(gpr_of(i->src));
            emit_alu(x, size, alu, T3, guest_rm(gpr_of(i->src)));
        }
    }
    store_cc(x, true, T3);
    flags_pending(x, test ? CC_LOGIC : CC_SUB, loc_stored(), src, ALL);
    return true;
}

/* ---- with a result ----------------------------------------------------------------------- */

/* The carry that goes in says which of two ways the flags follow from the values: into T3. */
static void take_carry(Xlate *x, bool wanted)
{
    flags_to_host(x, FLAG_CF);
    if (wanted) {
        emit_op(x, 0, 0x0f92, 0, rm_reg(T3));
        emit_load(x, 0, T3, rm_reg(T3));
    }
}

static void store_with_carry(Xlate *x, unsigned alu)
{
    const SoftInsn *i = x->i;
    unsigned dst = gpr_of(i->dst);

    emit_lea(x, 2, T3, (Mem){ T3, NONE, 0, alu == ADC_ ? CC_ADD : CC_SUB });
    emit_store(x, 0, rm_cpu(CPU_OFF(cc_op)), T3);
    emit_store_imm(x, 0, rm_cpu(CPU_OFF(cc_size)), i->op_size);
    emit_load(x, i->op_size, T2, guest_rm(dst));
    store_cc(x, true, T2);
    flags_set(x, (Flags){ .state = FLAGS_STORED }, ALL);
}

/* The second operand stays findable: in its register, in the instruction, or in cc_src. */
static Loc keep_source(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned dst = gpr_of(i->dst), src = gpr_of(i->src), size = i->op_size;

    if (i->ops == OPS_RI) {
        return loc_imm(i->imm);
    }
    if (i->ops == OPS_RR && src != dst) {
        return loc_reg(src);
    }
    if (i->ops == OPS_RR) {
        emit_load(x, size, T2, guest_rm(src));
    } else {
        emit_load(x, size, T2, rm_mem(T1, 0));
    }
    store_cc(x, false, T2);
    return loc_stored();
}

/* `value`: the register that has the second operand already, or NONE. */
static void operate(Xlate *x, unsigned alu, unsigned value)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size, n = gpr_of(i->dst);
    Rm dst = guest_rm(n);
    unsigned reg = dst.reg;

    if (reg == NONE) {
        reg = value == NONE ? T2 : T1;
        emit_load(x, 3, reg, dst);
    }
    if (value != NONE) {
        emit_alu(x, size, alu, reg, rm_reg(value));
    } else if (i->ops == OPS_RI) {
        emit_alu_imm(x, size, alu, rm_reg(reg), i->imm);
    } else if (i->ops == OPS_RR) {
        emit_alu(x, size, alu, reg, guest_rm(gpr_of(i->src)));
    } else {
        emit_alu(x, size, alu, reg, rm_mem(T1, 0));
    }
    if (dst.reg == NONE) {
        emit_store(x, 3, dst, reg); /* a 32-bit result has cleared the upper half */
    }
}

static bool to_register(Xlate *x, unsigned alu)
{
    const SoftInsn *i = x->i;
    bool carry = alu == ADC_ || alu == SBB_, wanted = flags_wanted(x);
    unsigned n = gpr_of(i->dst);
    Loc src = loc_stored();
    unsigned value = NONE;

    if (i->ops == OPS_RM) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_READ, 1u << i->op_size);
    }
    if (carry) {
        take_carry(x, wanted);
    }
    if (wanted && (cc_of(alu) != CC_LOGIC || carry)) {
        src = keep_source(x);
        value = i->ops == OPS_RM ? T2 : NONE; /* memory is read once */
        if (carry && src.kind == LOC_REG) {
            emit_load(x, i->op_size, T2, guest_rm(src.reg));
            store_cc(x, false, T2);
        } else if (carry && src.kind == LOC_IMM) {
            emit_imm(x, T2, src.imm & (~UINT64_C(0) >> (64 - (8u << i->op_size))));
            store_cc(x, false, T2);
        }
    }
    flags_before_write(x, n);
    operate(x, alu, value);
    if (carry && wanted) {
        store_with_carry(x, alu);
    } else {
        flags_pending(x, cc_of(alu), loc_reg(n), src, ALL);
    }
    return true;
}

static bool to_memory(Xlate *x, unsigned alu)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size;
    Loc src = i->ops == OPS_MI ? loc_imm(i->imm) : loc_reg(gpr_of(i->src));

    if (alu == ADC_ || alu == SBB_) {
        return false;
    }
    mem_linear_of(x);
    mem_host_of(x, SOFT_WRITE, 1u << size);
    if (!flags_wanted(x)) {
        if (i->ops == OPS_MI) {
            emit_alu_imm(x, size, alu, rm_mem(T1, 0), i->imm);
        } else {
            emit_alu_to(x, size, alu, rm_mem(T1, 0), guest_in(x, src.reg, T2));
        }
        flags_pending(x, cc_of(alu), loc_stored(), src, 0);
        return true;
    }
    emit_load(x, size, T3, rm_mem(T1, 0));
    if (i->ops == OPS_MI) {
        emit_alu_imm(x, size, alu, rm_reg(T3), i->imm);
    } else {
        emit_alu(x, size, alu, T3, guest_rm(src.reg));
    }
    emit_store(x, size, rm_mem(T1, 0), T3);
    store_cc(x, true, T3);
    flags_pending(x, cc_of(alu), loc_stored(), src, ALL);
    return true;
}

bool translate_alu(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned alu = i->kind == KIND_TEST ? CMP_ : (unsigned)i->kind - KIND_ADD;
    bool registers = i->ops == OPS_RR || i->ops == OPS_RI;

    if (i->kind == KIND_TEST || i->kind == KIND_CMP) {
        return registers ? compare_registers(x, i->kind == KIND_TEST)
                         : compare_memory(x, i->kind == KIND_TEST);
    }
    return registers || i->ops == OPS_RM ? to_register(x, alu) : to_memory(x, alu);
}

/* ---- one operand ------------------------------------------------------------------------- */

static bool invert(Xlate *x, Rm rm)
{
    emit_op(x, x->i->op_size, x->i->op_size ? 0xf7 : 0xf6, 2, rm);
    return true;
}

/* The operation on a register, which holds the value zero-extended or is the guest's own. */
static void do_unary(Xlate *x, unsigned reg)
{
    const SoftInsn *i = x->i;

    if (i->kind == KIND_NEG) {
        emit_op(x, i->op_size, i->op_size ? 0xf7 : 0xf6, 3, rm_reg(reg));
    } else {
        emit_op(x, i->op_size, i->op_size ? 0xff : 0xfe, i->kind == KIND_DEC, rm_reg(reg));
    }
}

bool translate_unary(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), size = i->op_size, reg;
    bool mem = i->ops == OPS_M, neg = i->kind == KIND_NEG;
    /* Of memory the carry, too: on the slow way it is where the handler of INC and DEC puts it. */
    bool wanted = x->live[x->k] & (neg || mem ? ALL : ALL & ~(uint32_t)FLAG_CF);
    uint32_t host = x->host & FLAG_CF;
    Loc src = loc_imm(0);

    if (mem) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_WRITE, 1u << size);
        host = 0;
    }
    if (i->kind == KIND_NOT) {
        if (mem) {
            return invert(x, rm_mem(T1, 0));
        }
        flags_before_write(x, n);
        if (host_of[n] == NONE && size == 2) {
            emit_load(x, 2, T2, guest_rm(n));
            invert(x, rm_reg(T2));
            emit_store(x, 3, guest_rm(n), T2);
            return true;
        }
        return invert(x, guest_rm(n));
    }
    if (wanted && !neg && (x->live[x->k] & FLAG_CF)) {
        src = flags_keep_carry(x);
        host = x->host & FLAG_CF;
    } else if (!mem && !wanted) {
        flags_before_write(x, n);
        host = x->host & FLAG_CF;
    }
    reg = mem || host_of[n] == NONE ? T3 : host_of[n];
    if (reg == T3) {
        emit_load(x, mem ? size : 3, T3, mem ? rm_mem(T1, 0) : guest_rm(n));
    }
    if (wanted && neg) {
        emit_load(x, size, T2, rm_reg(reg));
        store_cc(x, false, T2);
        src = loc_stored();
    }
    do_unary(x, reg);
    if (mem) {
        emit_store(x, size, rm_mem(T1, 0), T3);
    } else if (reg == T3) {
        emit_store(x, 3, guest_rm(n), T3);
    }
    host = neg ? ALL : host | (ALL & ~(uint32_t)FLAG_CF);
    if (!wanted) {
        x->host = host;
        if (neg) {
            flags_pending(x, CC_SUB, loc_stored(), loc_stored(), host);
        }
        return true;
    }
    if (mem) {
        store_cc(x, true, T3);
    }
    flags_pending(x,
                  neg                   ? CC_SUB
                  : i->kind == KIND_INC ? CC_INC
                                        : CC_DEC,
                  mem ? loc_stored() : loc_reg(n), src, host);
    return true;
}
