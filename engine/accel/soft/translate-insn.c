/*
 * Moves, the stack, and what else is neither arithmetic nor control flow.
 */
#include "engine/accel/soft/translate.h"

static unsigned stack_size(const Xlate *x)
{
    return x->wide ? 3 : 2;
}

/* rSP += n. */
static void move_stack(Xlate *x, int32_t n)
{
    flags_before_write(x, X86_RSP);
    emit_lea(x, stack_size(x), host_of[X86_RSP], (Mem){ host_of[X86_RSP], NONE, 0, n });
}

/* What T1 points to into a guest register. */
static void load_guest(Xlate *x, unsigned n, unsigned size)
{
    flags_before_write(x, n);
    if (host_of[n] == NONE) {
        emit_load(x, size, T2, rm_mem(T1, 0));
        guest_set(x, n, size, T2);
    } else if (size < 2) { /* the rest of the register stays */
        emit_op(x, size, size ? 0x8b : 0x8a, host_of[n], rm_mem(T1, 0));
    } else {
        emit_load(x, size, host_of[n], rm_mem(T1, 0));
    }
}

/* ---- MOV --------------------------------------------------------------------------------- */

static void move_register(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), size = i->op_size;

    flags_before_write(x, n);
    if (host_of[n] == NONE) {
        guest_set(x, n, size, guest_in(x, gpr_of(i->src), T2));
    } else {
        emit_op(x, size, size ? 0x8b : 0x8a, host_of[n], guest_rm(gpr_of(i->src)));
    }
}

static void move_immediate(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), size = i->op_size;
    uint64_t imm = size == 2 ? (uint32_t)i->imm : i->imm;

    flags_before_write(x, n);
    if (size < 2) {
        emit_store_imm(x, size, guest_rm(n), imm);
    } else if (host_of[n] != NONE) {
        emit_imm(x, host_of[n], imm);
    } else if (fits32(imm)) {
        emit_store_imm(x, 3, guest_rm(n), imm);
    } else {
        emit_imm(x, T2, imm);
        emit_store(x, 3, guest_rm(n), T2);
    }
}

static bool move(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = i->op_size;

    switch (i->ops) {
    case OPS_RR:
        move_register(x);
        return true;
    case OPS_RI:
        move_immediate(x);
        return true;
    case OPS_RM:
        mem_linear_of(x);
        mem_host_of(x, SOFT_READ, 1u << size);
        load_guest(x, gpr_of(i->dst), size);
        return true;
    case OPS_MR:
        mem_linear_of(x);
        mem_host_of(x, SOFT_WRITE, 1u << size);
        emit_store(x, size, rm_mem(T1, 0), guest_in(x, gpr_of(i->src), T2));
        return true;
    default:
        mem_linear_of(x);
        mem_host_of(x, SOFT_WRITE, 1u << size);
        emit_store_imm(x, size, rm_mem(T1, 0), i->imm);
        return true;
    }
}

static bool move_wider(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), reg = host_of[n] == NONE ? T3 : host_of[n];
    unsigned op = i->kind == KIND_MOVZX ? (i->width ? 0x0fb7 : 0x0fb6 | OP_BYTE_RM)
                  : i->width == 2       ? 0x63
                  : i->width            ? 0x0fbf
                                        : 0x0fbe | OP_BYTE_RM;
    Rm from = guest_rm(gpr_of(i->src));

    if (i->ops == OPS_RM) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_READ, 1u << i->width);
        from = rm_mem(T1, 0);
    }
    flags_before_write(x, n);
    if (reg == T3 && i->op_size == 1) {
        emit_load(x, 3, T3, guest_rm(n));
    }
    emit_op(x, i->op_size, op, reg, from);
    if (reg == T3) {
        emit_store(x, 3, guest_rm(n), T3);
    }
    return true;
}

static bool load_address(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), size = MIN(i->op_size, i->addr_size);
    unsigned reg = host_of[n] == NONE ? T3 : host_of[n];
    Mem m;

    if (x->wide ? i->addr_size < 2 || ((i->flags & SOFT_I_RIP_RELATIVE) && i->addr_size != 3)
                : i->addr_size != 2) {
        return false;
    }
    if ((i->flags & SOFT_I_RIP_RELATIVE) && !mem_simple(x)) {
        return false;
    }
    flags_before_write(x, n);
    m = mem_of(x);
    if (reg == T3 && size == 1) {
        emit_load(x, 3, T3, guest_rm(n));
    }
    if (m.base == NONE && m.index == NONE) {
        emit_imm(x, T1, (uint64_t)(int64_t)m.disp);
        emit_store(x, size, rm_reg(reg), T1);
    } else {
        emit_lea(x, size, reg, m);
    }
    if (reg == T3) {
        emit_store(x, 3, guest_rm(n), T3);
    }
    return true;
}

/* ---- the stack --------------------------------------------------------------------------- */

static bool push(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = stack_size(x);
    int32_t len = 1 << size;

    if (i->op_size != size) {
        return false;
    }
    if (i->ops == OPS_M) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_READ, (unsigned)len);
        emit_load(x, size, T2, rm_mem(T1, 0));
        emit_store(x, 3, rm_cpu(CPU_OFF(pushed)), T2);
    }
    mem_stack(x, -len);
    mem_host_of(x, SOFT_WRITE, (unsigned)len);
    if (i->ops == OPS_I) {
        emit_store_imm(x, size, rm_mem(T1, 0), i->imm);
    } else if (i->ops == OPS_R) {
        emit_store(x, size, rm_mem(T1, 0), guest_in(x, gpr_of(i->dst), T2));
    } else {
        emit_load(x, 3, T2, rm_cpu(CPU_OFF(pushed)));
        emit_store(x, size, rm_mem(T1, 0), T2);
    }
    move_stack(x, -len);
    return true;
}

static bool pop(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned size = stack_size(x);

    if (i->op_size != size || i->ops != OPS_R) {
        return false;
    }
    mem_stack(x, 0);
    mem_host_of(x, SOFT_READ, 1u << size);
    move_stack(x, 1 << size);
    load_guest(x, gpr_of(i->dst), size);
    return true;
}

static bool leave(Xlate *x)
{
    unsigned size = stack_size(x);

    if (x->i->op_size != size) {
        return false;
    }
    emit_lea(x, size, T1, (Mem){ host_of[X86_RBP], NONE, 0, 0 });
    mem_host_of(x, SOFT_READ, 1u << size);
    flags_before_write(x, X86_RSP);
    emit_lea(x, size, host_of[X86_RSP], (Mem){ host_of[X86_RBP], NONE, 0, 1 << size });
    load_guest(x, X86_RBP, size);
    return true;
}

/* ---- exchanges and the accumulator --------------------------------------------------------- */

static bool exchange(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned a = gpr_of(i->dst), b = gpr_of(i->src), size = i->op_size;

    if (i->ops == OPS_MR) { /* locked, as the host's is */
        mem_linear_of(x);
        mem_host_of(x, SOFT_WRITE, 1u << size);
        flags_before_write(x, b);
        emit_load(x, 3, T2, guest_rm(b));
        emit_op(x, size, size ? 0x87 : 0x86, T2, rm_mem(T1, 0));
        guest_set(x, b, size, T2);
        return true;
    }
    flags_before_write(x, a);
    flags_before_write(x, b);
    emit_load(x, 3, T1, guest_rm(a));
    emit_load(x, 3, T3, guest_rm(b));
    guest_set(x, a, size, T3);
    guest_set(x, b, size, T1);
    return true;
}

static bool swap_bytes(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned n = gpr_of(i->dst), reg;

    if (i->op_size < 2) {
        return false;
    }
    flags_before_write(x, n);
    reg = guest_in(x, n, T2);
    if (i->op_size == 3 || reg >= 8) {
        emit8(x, 0x40 | (i->op_size == 3 ? 8u : 0) | (reg >= 8 ? 1 : 0));
    }
    emit8(x, 0x0f);
    emit8(x, 0xc8 | (reg & 7));
    if (host_of[n] == NONE) {
        emit_store(x, 3, guest_rm(n), reg);
    }
    return true;
}

static bool widen_accumulator(Xlate *x)
{
    const SoftInsn *i = x->i;
    bool both = i->kind == KIND_WIDEN_AD;

    flags_before_write(x, both ? X86_RDX : X86_RAX);
    if (i->width == 1) {
        emit8(x, 0x66);
    } else if (i->width == 3) {
        emit8(x, 0x48);
    }
    emit8(x, both ? 0x99 : 0x98); /* the registers are the host's own */
    return true;
}

/* ---- conditions -------------------------------------------------------------------------- */

static bool set_byte(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned cc = i->aux & 15;

    if (i->ops == OPS_M) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_WRITE, 1);
        flags_to_host(x, cond_flags[cc >> 1]);
        emit_op(x, 0, 0x0f90 | cc, 0, rm_mem(T1, 0));
        return true;
    }
    flags_before_write(x, gpr_of(i->dst));
    flags_to_host(x, cond_flags[cc >> 1]);
    emit_op(x, 0, 0x0f90 | cc, 0, guest_rm(gpr_of(i->dst)));
    return true;
}

static bool move_if(Xlate *x)
{
    const SoftInsn *i = x->i;
    unsigned cc = i->aux & 15, n = gpr_of(i->dst);
    Rm from = guest_rm(gpr_of(i->src));
    unsigned reg;

    if (i->ops == OPS_RM) {
        mem_linear_of(x);
        mem_host_of(x, SOFT_READ, 1u << i->op_size);
        from = rm_mem(T1, 0);
    }
    flags_before_write(x, n);
    flags_to_host(x, cond_flags[cc >> 1]);
    reg = guest_in(x, n, T3);
    emit_op(x, i->op_size, 0x0f40 | cc, reg, from);
    if (reg == T3) {
        emit_store(x, 3, guest_rm(n), T3);
    }
    return true;
}

bool translate_insn(Xlate *x)
{
    const SoftInsn *i = x->i;
    bool mem = i->ops == OPS_M || i->ops == OPS_RM || i->ops == OPS_MR || i->ops == OPS_MI;

    if (mem && i->kind != KIND_LEA && i->kind != KIND_NOP && !mem_simple(x)) {
        return false;
    }
    if (i->flags & SOFT_I_LOCK && i->kind != KIND_XCHG) {
        return translate_atomic(x);
    }
    switch ((SoftKind)i->kind) {
    case KIND_NOP:
        return true;
    case KIND_MOV:
        return move(x);
    case KIND_MOVZX:
    case KIND_MOVSX:
        return move_wider(x);
    case KIND_LEA:
        return load_address(x);
    case KIND_PUSH:
        return push(x);
    case KIND_POP:
        return pop(x);
    case KIND_LEAVE:
        return leave(x);
    case KIND_XCHG:
        return exchange(x);
    case KIND_BSWAP:
        return swap_bytes(x);
    case KIND_WIDEN_A:
    case KIND_WIDEN_AD:
        return widen_accumulator(x);
    case KIND_SET:
        return set_byte(x);
    case KIND_CMOV:
        return move_if(x);
    case KIND_BT:
    case KIND_BTS:
    case KIND_BTR:
    case KIND_BTC:
        return translate_bit(x);
    case KIND_NOT:
    case KIND_NEG:
    case KIND_INC:
    case KIND_DEC:
        return translate_unary(x);
    case KIND_ROL:
    case KIND_ROR:
    case KIND_SHL:
    case KIND_SHR:
    case KIND_SAR:
    case KIND_RCL:
    case KIND_RCR:
        return translate_shift(x);
    case KIND_IMUL:
    case KIND_IMUL3:
    case KIND_MUL:
    case KIND_IMUL1:
        return translate_product(x);
    case KIND_DIV:
    case KIND_IDIV:
        return translate_divide(x);
    case KIND_XADD:
    case KIND_CMPXCHG:
        return translate_atomic(x);
    default:
        return i->kind >= KIND_ADD && i->kind <= KIND_TEST && translate_alu(x);
    }
}
