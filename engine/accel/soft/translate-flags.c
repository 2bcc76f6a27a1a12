/*
 * The guest's flags in translated code.
 *
 * They are the interpreter's: cc_op, cc_size, cc_dst, cc_src. But nothing is stored as long as they
 * follow from registers that still hold what they are made of, and nothing at all when nobody can
 * ask: `live` says who may, going backwards from the end of the block, where everything counts. An
 * instruction that can fault, or whose handler is called, asks for all of them; on its slow way
 * they are stored then. The host's flags are used when they are the guest's anyway, and made from
 * the values else.
 */
#include "engine/accel/soft/translate.h"

#define ALL FLAGS_ARITH
#define ZSP (FLAG_ZF | FLAG_SF | FLAG_PF)

const uint16_t cond_flags[COND_FLAGS_N] = { FLAG_OF,           FLAG_CF,
                                            FLAG_ZF,           FLAG_CF | FLAG_ZF,
                                            FLAG_SF,           FLAG_PF,
                                            FLAG_SF | FLAG_OF, FLAG_ZF | FLAG_SF | FLAG_OF };

/* ---- who wants them ---------------------------------------------------------------------- */

typedef struct Effect {
    uint32_t uses, sets;
} Effect;

static bool may_fault(const SoftInsn *i)
{
    switch (i->ops) {
    case OPS_M:
    case OPS_RM:
    case OPS_MR:
    case OPS_MI:
        return i->kind != KIND_LEA && i->kind != KIND_NOP;
    default:
        return i->kind == KIND_PUSH || i->kind == KIND_POP || i->kind == KIND_LEAVE ||
               i->kind == KIND_CALL || i->kind == KIND_RET || i->kind == KIND_DIV ||
               i->kind == KIND_IDIV;
    }
}

static Effect shift_effect(const SoftInsn *i)
{
    bool rotates = i->kind == KIND_ROL || i->kind == KIND_ROR;
    bool none = !(i->imm & (i->op_size == 3 ? 63 : 31));

    if (i->ops != OPS_RI && i->ops != OPS_MI) {
        return (Effect){ 0, 0 }; /* a count of 0 keeps them */
    }
    return (Effect){ 0, none ? 0 : rotates ? FLAG_CF | FLAG_OF : ALL };
}

static Effect carry_rotation_effect(const SoftInsn *i)
{
    bool none = i->ops != OPS_RI || !(i->imm & (i->op_size == 3 ? 63 : 31));

    return (Effect){ FLAG_CF, none ? 0 : FLAG_CF | FLAG_OF };
}

static Effect effect_of(const SoftInsn *i)
{
    switch ((SoftKind)i->kind) {
    case KIND_OTHER:
    case KIND_SYSTEM:
        return (Effect){ ALL, 0 };
    case KIND_ADC:
    case KIND_SBB:
        return (Effect){ FLAG_CF, ALL };
    case KIND_ADD:
    case KIND_OR:
    case KIND_AND:
    case KIND_SUB:
    case KIND_XOR:
    case KIND_CMP:
    case KIND_TEST:
    case KIND_NEG:
    case KIND_IMUL:
    case KIND_IMUL3:
    case KIND_MUL:
    case KIND_IMUL1:
    case KIND_XADD:
    case KIND_CMPXCHG:
        return (Effect){ 0, ALL };
    case KIND_INC:
    case KIND_DEC:
        return (Effect){ 0, ALL & ~(uint32_t)FLAG_CF };
    case KIND_ROL:
    case KIND_ROR:
    case KIND_SHL:
    case KIND_SHR:
    case KIND_SAR:
        return shift_effect(i);
    case KIND_RCL:
    case KIND_RCR:
        return carry_rotation_effect(i);
    case KIND_BT:
    case KIND_BTS:
    case KIND_BTR:
    case KIND_BTC:
        return (Effect){ 0, FLAG_CF };
    case KIND_SET:
    case KIND_CMOV:
    case KIND_JCC:
        return (Effect){ cond_flags[i->aux >> 1 & 7], 0 };
    default:
        return (Effect){ 0, 0 };
    }
}

void flags_analyse(Xlate *x)
{
    const SoftBlock *b = x->b;
    uint32_t live = ALL;

    for (unsigned k = b->n; k-- > 0;) {
        const SoftInsn *i = &b->insns[k];
        Effect e = effect_of(i);

        x->live[k] = live;
        live = may_fault(i) ? ALL : e.uses | (live & ~e.sets);
    }
}

static uint32_t kept_after(const Xlate *x)
{
    return x->live[x->k] & ~effect_of(x->i).sets;
}

bool flags_lost(const Xlate *x)
{
    return x->flags.state == FLAGS_DEAD && (kept_after(x) | effect_of(x->i).uses);
}

/* ---- values ------------------------------------------------------------------------------ */

static uint64_t size_mask(unsigned size)
{
    return ~UINT64_C(0) >> (64 - (8u << size));
}

static Rm stored_rm(bool dst)
{
    return rm_cpu(dst ? CPU_OFF(cc_dst) : CPU_OFF(cc_src));
}

/* Zero-extended into a register. */
static void value_in(Xlate *x, const Flags *f, bool dst, unsigned reg)
{
    const Loc *l = dst ? &f->dst : &f->src;

    if (f->state == FLAGS_STORED || l->kind == LOC_STORED) {
        emit_load(x, 3, reg, stored_rm(dst));
    } else if (l->kind == LOC_REG) {
        emit_load(x, f->size, reg, guest_rm(l->reg));
    } else {
        emit_imm(x, reg, l->imm & size_mask(f->size));
    }
}

/* reg op= the second operand. Only MOVs besides. */
static void with_source(Xlate *x, const Flags *f, unsigned alu, unsigned reg, unsigned scratch)
{
    if (f->state == FLAGS_STORED || f->src.kind == LOC_STORED) {
        emit_alu(x, f->size, alu, reg, stored_rm(false));
    } else if (f->src.kind == LOC_REG) {
        emit_alu(x, f->size, alu, reg, guest_rm(f->src.reg));
    } else if (f->size < 3 || fits32(f->src.imm)) {
        emit_alu_imm(x, f->size, alu, rm_reg(reg), f->src.imm);
    } else {
        emit_imm(x, scratch, f->src.imm);
        emit_alu(x, 3, alu, reg, rm_reg(scratch));
    }
}

static void store_value(Xlate *x, const Flags *f, bool dst)
{
    const Loc *l = dst ? &f->dst : &f->src;
    uint64_t imm = l->imm & size_mask(f->size);

    if (l->kind == LOC_STORED) {
        return;
    }
    if (l->kind == LOC_IMM && fits32(imm)) {
        emit_store_imm(x, 3, stored_rm(dst), imm);
    } else if (l->kind == LOC_REG && host_of[l->reg] != NONE &&
               (f->size == 3 || (f->size == 2 && !x->wide))) {
        emit_store(x, 3, stored_rm(dst), host_of[l->reg]);
    } else {
        value_in(x, f, dst, T2);
        emit_store(x, 3, stored_rm(dst), T2);
    }
}

void flags_store(Xlate *x, const Flags *f)
{
    if (f->state == FLAGS_STORED || f->state == FLAGS_DEAD) {
        return;
    }
    if (f->state == FLAGS_COMPARE) {
        value_in(x, f, true, T2);
        with_source(x, f, f->op == CC_SUB ? SUB_ : AND_, T2, T3);
        emit_store(x, 3, stored_rm(true), T2);
        x->host = ALL;
    } else {
        store_value(x, f, true);
    }
    if (f->op != CC_LOGIC) {
        store_value(x, f, false);
    }
    emit_store_imm(x, 1, rm_cpu(CPU_OFF(cc_op)), f->op | (unsigned)f->size << 8);
}

void flags_save(Xlate *x)
{
    if (x->flags.state == FLAGS_PENDING || x->flags.state == FLAGS_COMPARE) {
        flags_store(x, &x->flags);
        x->flags.state = FLAGS_STORED;
        x->flags.known = true;
        x->flags.guess = false;
    }
}

static bool refers_to(const Flags *f, unsigned n)
{
    return (f->state == FLAGS_PENDING || f->state == FLAGS_COMPARE) &&
           ((f->dst.kind == LOC_REG && f->dst.reg == n) ||
            (f->src.kind == LOC_REG && f->src.reg == n));
}

void flags_before_write(Xlate *x, unsigned n)
{
    if (!refers_to(&x->flags, n)) {
        return;
    }
    if (kept_after(x)) {
        flags_save(x);
    } else {
        x->drop = true;
    }
}

void flags_set(Xlate *x, Flags f, uint32_t host)
{
    x->flags = f;
    x->host = host;
    x->drop = false;
}

void flags_pending(Xlate *x, unsigned cc, Loc dst, Loc src, uint32_t host)
{
    Flags f = { .state = FLAGS_PENDING,
                .known = true,
                .op = (uint8_t)cc,
                .size = x->i->op_size,
                .dst = dst,
                .src = src };

    if (!flags_wanted(x)) {
        f.state = FLAGS_DEAD;
    }
    flags_set(x, f, host);
}

/* ---- the host's flags -------------------------------------------------------------------- */

static void call_flags(Xlate *x)
{
    emit_call_to(x, x->t->flags);
    x->host = ALL;
}

/* Of the result alone. */
static void result_to_host(Xlate *x, const Flags *f)
{
    if (f->state == FLAGS_STORED || f->dst.kind == LOC_STORED) {
        emit_alu_imm(x, f->size, CMP_, stored_rm(true), 0);
    } else {
        emit_alu_imm(x, f->size, CMP_, guest_rm(f->dst.reg), 0);
    }
    x->host = ZSP;
}

static void shift_to_host(Xlate *x, const Flags *f)
{
    value_in(x, f, false, T2);
    emit_op(x, f->size, f->size ? 0xd1 : 0xd0,
            f->op == CC_SHL   ? 4
            : f->op == CC_SHR ? 5
                              : 7,
            rm_reg(T2));
    x->host = ALL & ~(uint32_t)FLAG_AF;
}

static void one_to_host(Xlate *x, const Flags *f)
{
    value_in(x, f, false, T3);
    value_in(x, f, true, T2);
    emit_alu_imm(x, f->size, f->op == CC_INC ? SUB_ : ADD_, rm_reg(T2), 1);
    emit_bit0(x, T3);
    emit_op(x, f->size, f->size ? 0xff : 0xfe, f->op == CC_INC ? 0 : 1, rm_reg(T2));
    x->host = ALL;
}

/* The operation is done again. */
static void sum_to_host(Xlate *x, const Flags *f)
{
    bool adds = f->op == CC_ADD || f->op == CC_ADC, carry = f->op == CC_ADC || f->op == CC_SBB;

    value_in(x, f, true, T2);
    with_source(x, f, adds ? SUB_ : ADD_, T2, T3);
    if (carry) {
        emit_alu_imm(x, f->size, adds ? SUB_ : ADD_, rm_reg(T2), 1);
        emit8(x, 0xf9); /* STC */
    }
    with_source(x, f, carry ? (adds ? ADC_ : SBB_) : adds ? ADD_ : CMP_, T2, T3);
    x->host = ALL;
}

static void compare_to_host(Xlate *x, const Flags *f)
{
    unsigned reg = T2;

    if (f->dst.kind == LOC_REG && host_of[f->dst.reg] != NONE) {
        reg = host_of[f->dst.reg];
    } else {
        value_in(x, f, true, T2);
    }
    if (f->op == CC_SUB) {
        with_source(x, f, CMP_, reg, T3);
    } else {
        value_in(x, f, false, T3);
        emit_op(x, f->size, f->size ? 0x85 : 0x84, T3, rm_reg(reg));
    }
    x->host = ALL;
}

static void bits_to_host(Xlate *x, uint32_t need)
{
    if (need == FLAG_CF) {
        emit_load(x, 2, T2, stored_rm(true));
        emit_bit0(x, T2);
        x->host = FLAG_CF;
        return;
    }
    emit_load(x, 3, T2, stored_rm(true));
    emit8(x, 0x41); /* PUSH R14; POPF: nothing but arithmetic flags is in there */
    emit8(x, 0x56);
    emit8(x, 0x9d);
    x->host = ALL;
}

void flags_to_host_of(Xlate *x, const Flags *f, uint32_t need)
{
    if (f->state == FLAGS_COMPARE) {
        compare_to_host(x, f);
    } else if (f->op == CC_FLAGS) {
        bits_to_host(x, need);
    } else if (!(need & ~(uint32_t)ZSP) || f->op == CC_LOGIC) {
        result_to_host(x, f); /* comparing with 0 clears CF and OF, as a logic instruction does */
        x->host = f->op == CC_LOGIC ? ALL & ~(uint32_t)FLAG_AF : ZSP;
    } else if (f->op == CC_INC || f->op == CC_DEC) {
        one_to_host(x, f);
    } else if (f->op >= CC_SHL) {
        shift_to_host(x, f);
    } else {
        sum_to_host(x, f);
    }
}

void flags_to_host(Xlate *x, uint32_t need)
{
    const Flags *f = &x->flags;
    size_t from;
    FlagsCall *call;

    if ((x->host & need) == need) {
        return;
    }
    if (f->state == FLAGS_DEAD) {
        x->failed = true; /* cannot be: `live` and this file disagree */
        return;
    }
    if (f->state != FLAGS_STORED || f->known) {
        flags_to_host_of(x, f, need);
        return;
    }
    if (!f->guess || x->n_calls == G_N_ELEMENTS(x->calls)) {
        call_flags(x);
        return;
    }
    /* What made them when the block was translated will mostly have made them. */
    emit_op(x, 1, 0x81, 7, rm_cpu(CPU_OFF(cc_op)));
    emit8(x, f->op);
    emit8(x, f->size);
    from = emit_jcc(x, 5);
    flags_to_host_of(x, f, need);
    call = &x->calls[x->n_calls++];
    call->from = from;
    call->back = x->at;
}

Loc flags_keep_carry(Xlate *x)
{
    const Flags *f = &x->flags;
    bool known = f->state != FLAGS_DEAD && (f->state != FLAGS_STORED || f->known);

    if (known && f->op == CC_LOGIC) {
        return loc_imm(0);
    }
    if (known && (f->op == CC_INC || f->op == CC_DEC)) {
        return f->state == FLAGS_STORED ? loc_stored() : f->src;
    }
    flags_to_host(x, FLAG_CF);
    emit_op(x, 0, 0x0f92, 0, rm_reg(T2)); /* SETC */
    emit_load(x, 0, T2, rm_reg(T2));
    emit_store(x, 3, rm_cpu(CPU_OFF(cc_src)), T2);
    return loc_stored();
}
