/*
 * Integer arithmetic and logic (ADD … XOR, CMP, TEST, NOT, NEG, INC, DEC), the exchanges (XCHG,
 * XADD, CMPXCHG and its 8- and 16-byte forms), and the decoder of the integer group.
 *
 * Source: Intel SDM volume 2.
 */
#include "engine/accel/soft/exec.h"

/* ---- two operands ------------------------------------------------------------------------ */

/* NAME, whether the result is written, the carry that comes in, the result of a and b, how the
 * flags follow from it. */
#define ALU(NAME, N, S, WRITE, CARRY, RESULT, CC)                           \
    static void NAME##N##_rr(SoftCpu *c, const SoftInsn *i)                 \
    {                                                                       \
        const unsigned cin = CARRY;                                         \
        uint##N##_t a = reg_read##N(c, i->dst), b = reg_read##N(c, i->src); \
        uint##N##_t r = (uint##N##_t)(RESULT);                              \
        WRITE(reg_write##N(c, i->dst, r));                                  \
        (void)cin;                                                          \
        cc_set(c, CC, S, r, b);                                             \
        SOFT_NEXT(c, i);                                                    \
    }                                                                       \
    static void NAME##N##_ri(SoftCpu *c, const SoftInsn *i)                 \
    {                                                                       \
        const unsigned cin = CARRY;                                         \
        uint##N##_t a = reg_read##N(c, i->dst), b = (uint##N##_t)i->imm;    \
        uint##N##_t r = (uint##N##_t)(RESULT);                              \
        WRITE(reg_write##N(c, i->dst, r));                                  \
        (void)cin;                                                          \
        cc_set(c, CC, S, r, b);                                             \
        SOFT_NEXT(c, i);                                                    \
    }                                                                       \
    static void NAME##N##_rm(SoftCpu *c, const SoftInsn *i)                 \
    {                                                                       \
        const unsigned cin = CARRY;                                         \
        uint##N##_t b = LOAD_OPERAND(c, i, N), a = reg_read##N(c, i->dst);  \
        uint##N##_t r = (uint##N##_t)(RESULT);                              \
        WRITE(reg_write##N(c, i->dst, r));                                  \
        (void)cin;                                                          \
        cc_set(c, CC, S, r, b);                                             \
        SOFT_NEXT(c, i);                                                    \
    }
#define ALU_RMW(NAME, FORM, N, S, HOW, OPERAND, CARRY, RESULT, CC) \
    static void NAME##N##_##FORM(SoftCpu *c, const SoftInsn *i)    \
    {                                                              \
        const unsigned cin = CARRY;                                \
        const uint##N##_t b = (uint##N##_t)(OPERAND);              \
        HOW(c, i, N, a, r, RESULT);                                \
        (void)cin;                                                 \
        cc_set(c, CC, S, r, b);                                    \
        SOFT_NEXT(c, i);                                           \
    }
#define ALU_READ(NAME, FORM, N, S, OPERAND, RESULT, CC)                          \
    static void NAME##N##_##FORM(SoftCpu *c, const SoftInsn *i)                  \
    {                                                                            \
        const uint##N##_t a = LOAD_OPERAND(c, i, N), b = (uint##N##_t)(OPERAND); \
        uint##N##_t r = (uint##N##_t)(RESULT);                                   \
        cc_set(c, CC, S, r, b);                                                  \
        SOFT_NEXT(c, i);                                                         \
    }
#define YES(x) x
#define NO(x) \
    do {      \
    } while (0)
#define ALU_WRITING(NAME, N, S, CARRY, RESULT, CC)                                  \
    ALU(NAME, N, S, YES, CARRY, RESULT, CC)                                         \
    ALU_RMW(NAME, mr, N, S, RMW, reg_read##N(c, i->src), CARRY, RESULT, CC)         \
    ALU_RMW(NAME, mi, N, S, RMW, i->imm, CARRY, RESULT, CC)                         \
    ALU_RMW(NAME, lmr, N, S, RMW_LOCKED, reg_read##N(c, i->src), CARRY, RESULT, CC) \
    ALU_RMW(NAME, lmi, N, S, RMW_LOCKED, i->imm, CARRY, RESULT, CC)
#define ALU_TESTING(NAME, N, S, RESULT, CC)                      \
    ALU(NAME, N, S, NO, 0, RESULT, CC)                           \
    ALU_READ(NAME, mr, N, S, reg_read##N(c, i->src), RESULT, CC) \
    ALU_READ(NAME, mi, N, S, i->imm, RESULT, CC)

#define ARITH(N, S)                                                         \
    ALU_WRITING(add, N, S, 0, a + b, CC_ADD)                                \
    ALU_WRITING(adc, N, S, cc_carry(c), a + b + cin, cin ? CC_ADC : CC_ADD) \
    ALU_WRITING(sub, N, S, 0, a - b, CC_SUB)                                \
    ALU_WRITING(sbb, N, S, cc_carry(c), a - b - cin, cin ? CC_SBB : CC_SUB) \
    ALU_WRITING(and, N, S, 0, a &b, CC_LOGIC)                               \
    ALU_WRITING(or, N, S, 0, a | b, CC_LOGIC)                               \
    ALU_WRITING(xor, N, S, 0, a ^ b, CC_LOGIC)                              \
    ALU_TESTING(cmp, N, S, a - b, CC_SUB)                                   \
    ALU_TESTING(test, N, S, a &b, CC_LOGIC)
FOR_SIZES(ARITH)

#define ROW(NAME, FORM)                                                   \
    {                                                                     \
        NAME##8_##FORM, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
#define SET_WRITING(NAME)                                                              \
    {                                                                                  \
        {                                                                              \
            ROW(NAME, rr), ROW(NAME, ri), ROW(NAME, rm), ROW(NAME, mr), ROW(NAME, mi), \
                ROW(NAME, lmr), ROW(NAME, lmi)                                         \
        }                                                                              \
    }
#define SET_TESTING(NAME)                                                             \
    {                                                                                 \
        {                                                                             \
            ROW(NAME, rr), ROW(NAME, ri), ROW(NAME, rm), ROW(NAME, mr), ROW(NAME, mi) \
        }                                                                             \
    }
static const HandlerSet add_set = SET_WRITING(add), adc_set = SET_WRITING(adc),
                        sub_set = SET_WRITING(sub), sbb_set = SET_WRITING(sbb),
                        and_set = SET_WRITING(and), or_set = SET_WRITING(or),
                        xor_set = SET_WRITING(xor), cmp_set = SET_TESTING(cmp),
                        test_set = SET_TESTING(test);

/* ---- one operand ------------------------------------------------------------------------- */

#define UNARY(NAME, N, RESULT, FLAGS)                                      \
    static void NAME##N##_r(SoftCpu *c, const SoftInsn *i)                 \
    {                                                                      \
        uint##N##_t a = reg_read##N(c, i->dst), r = (uint##N##_t)(RESULT); \
        reg_write##N(c, i->dst, r);                                        \
        FLAGS;                                                             \
        SOFT_NEXT(c, i);                                                   \
    }                                                                      \
    static void NAME##N##_m(SoftCpu *c, const SoftInsn *i)                 \
    {                                                                      \
        RMW(c, i, N, a, r, RESULT);                                        \
        FLAGS;                                                             \
        SOFT_NEXT(c, i);                                                   \
    }                                                                      \
    static void NAME##N##_lm(SoftCpu *c, const SoftInsn *i)                \
    {                                                                      \
        RMW_LOCKED(c, i, N, a, r, RESULT);                                 \
        FLAGS;                                                             \
        SOFT_NEXT(c, i);                                                   \
    }
#define UNARIES(N, S)                                          \
    UNARY(not, N, ~a, (void)a)                                 \
    UNARY(neg, N, 0 - a, cc_set(c, CC_SUB, S, r, a))           \
    UNARY(inc, N, a + 1, cc_set(c, CC_INC, S, r, cc_carry(c))) \
    UNARY(dec, N, a - 1, cc_set(c, CC_DEC, S, r, cc_carry(c)))
FOR_SIZES(UNARIES)

#define SET_UNARY(NAME)                    \
    {                                      \
        .fn = {                            \
            [FORM_RR] = ROW(NAME, r),      \
            [FORM_MR] = ROW(NAME, m),      \
            [FORM_LOCK_MR] = ROW(NAME, lm) \
        }                                  \
    }
static const HandlerSet not_set = SET_UNARY(not ), neg_set = SET_UNARY(neg),
                        inc_set = SET_UNARY(inc), dec_set = SET_UNARY(dec);

/* ---- exchanges --------------------------------------------------------------------------- */

#define CMPXCHG_MEMORY(N, S, form, READ_MODIFY_WRITE)                                        \
    static void cmpxchg##N##_##form(SoftCpu *c, const SoftInsn *i)                           \
    {                                                                                        \
        const uint##N##_t a = reg_read##N(c, SOFT_REG(X86_RAX)), v = reg_read##N(c, i->src); \
        READ_MODIFY_WRITE(c, i, N, b, r, b == a ? v : b);                                    \
        (void)r;                                                                             \
        if (a != b) {                                                                        \
            reg_write##N(c, SOFT_REG(X86_RAX), b);                                           \
        }                                                                                    \
        cc_set(c, CC_SUB, S, (uint##N##_t)(a - b), b);                                       \
        SOFT_NEXT(c, i);                                                                     \
    }
/* XCHG with memory is locked whether the prefix is there or not. */
#define EXCHANGES(N, S)                                                                            \
    static void xchg##N##_rr(SoftCpu *c, const SoftInsn *i)                                        \
    {                                                                                              \
        uint##N##_t a = reg_read##N(c, i->dst), b = reg_read##N(c, i->src);                        \
        reg_write##N(c, i->dst, b);                                                                \
        reg_write##N(c, i->src, a);                                                                \
        SOFT_NEXT(c, i);                                                                           \
    }                                                                                              \
    static void xchg##N##_lmr(SoftCpu *c, const SoftInsn *i)                                       \
    {                                                                                              \
        RMW_LOCKED(c, i, N, a, r, reg_read##N(c, i->src));                                         \
        (void)r;                                                                                   \
        reg_write##N(c, i->src, a);                                                                \
        SOFT_NEXT(c, i);                                                                           \
    }                                                                                              \
    static void xadd##N##_rr(SoftCpu *c, const SoftInsn *i)                                        \
    {                                                                                              \
        uint##N##_t a = reg_read##N(c, i->dst), b = reg_read##N(c, i->src);                        \
        uint##N##_t r = (uint##N##_t)(a + b);                                                      \
        reg_write##N(c, i->src, a);                                                                \
        reg_write##N(c, i->dst, r);                                                                \
        cc_set(c, CC_ADD, S, r, b);                                                                \
        SOFT_NEXT(c, i);                                                                           \
    }                                                                                              \
    static void xadd##N##_mr(SoftCpu *c, const SoftInsn *i)                                        \
    {                                                                                              \
        uint##N##_t b = reg_read##N(c, i->src);                                                    \
        RMW(c, i, N, a, r, a + b);                                                                 \
        reg_write##N(c, i->src, a);                                                                \
        cc_set(c, CC_ADD, S, r, b);                                                                \
        SOFT_NEXT(c, i);                                                                           \
    }                                                                                              \
    static void xadd##N##_lmr(SoftCpu *c, const SoftInsn *i)                                       \
    {                                                                                              \
        uint##N##_t b = reg_read##N(c, i->src);                                                    \
        RMW_LOCKED(c, i, N, a, r, a + b);                                                          \
        reg_write##N(c, i->src, a);                                                                \
        cc_set(c, CC_ADD, S, r, b);                                                                \
        SOFT_NEXT(c, i);                                                                           \
    }                                                                                              \
    /* When the comparison fails only the accumulator is written: of a 32-bit destination register \
     * the upper half stays. Memory is written in any case, if only with its own value. */         \
    static void cmpxchg##N##_rr(SoftCpu *c, const SoftInsn *i)                                     \
    {                                                                                              \
        uint##N##_t a = reg_read##N(c, SOFT_REG(X86_RAX)), b = reg_read##N(c, i->dst);             \
        if (a == b) {                                                                              \
            reg_write##N(c, i->dst, reg_read##N(c, i->src));                                       \
        } else {                                                                                   \
            reg_write##N(c, SOFT_REG(X86_RAX), b);                                                 \
        }                                                                                          \
        cc_set(c, CC_SUB, S, (uint##N##_t)(a - b), b);                                             \
        SOFT_NEXT(c, i);                                                                           \
    }                                                                                              \
    CMPXCHG_MEMORY(N, S, mr, RMW)                                                                  \
    CMPXCHG_MEMORY(N, S, lmr, RMW_LOCKED)
FOR_SIZES(EXCHANGES)
static const HandlerSet xchg_set = {
    .fn = { [FORM_RR] = ROW(xchg, rr), [FORM_MR] = ROW(xchg, lmr), [FORM_LOCK_MR] = ROW(xchg, lmr) }
};
static const HandlerSet xadd_set = {
    .fn = { [FORM_RR] = ROW(xadd, rr), [FORM_MR] = ROW(xadd, mr), [FORM_LOCK_MR] = ROW(xadd, lmr) }
};
static const HandlerSet cmpxchg_set = { .fn = { [FORM_RR] = ROW(cmpxchg, rr),
                                                [FORM_MR] = ROW(cmpxchg, mr),
                                                [FORM_LOCK_MR] = ROW(cmpxchg, lmr) } };

static void cc_set_zero(SoftCpu *c, bool zero)
{
    cc_set_flags(c, (soft_flags_arith(c) & ~(uint32_t)FLAG_ZF) | (zero ? FLAG_ZF : 0));
}

static void cmpxchg8b(SoftCpu *c, const SoftInsn *i)
{
    const uint64_t a = c->gpr[X86_RDX] << 32 | (uint32_t)c->gpr[X86_RAX];
    const uint64_t v = c->gpr[X86_RCX] << 32 | (uint32_t)c->gpr[X86_RBX];
    RMW_LOCKED(c, i, 64, b, r, b == a ? v : b);
    (void)r;
    if (a != b) {
        c->gpr[X86_RAX] = (uint32_t)b;
        c->gpr[X86_RDX] = b >> 32;
    }
    cc_set_zero(c, a == b);
    SOFT_NEXT(c, i);
}

/* The host's own instruction: compilers reach it only through a library that may take a lock. */
static bool cas128(void *p, uint64_t expected[2], uint64_t lo, uint64_t hi)
{
    bool ok;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(ok), "+m"(*(char(*)[16])p), "+a"(expected[0]), "+d"(expected[1])
                     : "b"(lo), "c"(hi)
                     : "memory");
    return ok;
}

static void cmpxchg16b(SoftCpu *c, const SoftInsn *i)
{
    uint64_t linear = mem_linear(c, i, 16, true);
    uint64_t b[2] = { c->gpr[X86_RAX], c->gpr[X86_RDX] };
    bool equal;
    if (linear & 15) {
        soft_raise_error(c, EXC_GP, 0);
    }
    void *p = mem_host(c, linear, 16);
    if (p) {
        equal = cas128(p, b, c->gpr[X86_RBX], c->gpr[X86_RCX]);
    } else {
        uint64_t m[2], n[2] = { c->gpr[X86_RBX], c->gpr[X86_RCX] };
        soft_probe_write(c, linear, 16);
        soft_exclusive_begin(c);
        soft_load_bytes(c, linear, m, 16);
        equal = m[0] == b[0] && m[1] == b[1];
        soft_store_bytes(c, linear, equal ? n : m, 16);
        soft_exclusive_end(c);
        memcpy(b, m, sizeof(b));
    }
    if (!equal) {
        c->gpr[X86_RAX] = b[0];
        c->gpr[X86_RDX] = b[1];
    }
    cc_set_zero(c, equal);
    SOFT_NEXT(c, i);
}

/* ---- decoding ---------------------------------------------------------------------------- */

bool exec_is_gpr(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15;
}

uint8_t exec_reg(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
        return SOFT_REG_HIGH(r - ZYDIS_REGISTER_AH);
    }
    if (r < ZYDIS_REGISTER_AX) { /* SPL to R15B stand behind AH to BH */
        return SOFT_REG(r < ZYDIS_REGISTER_SPL ? r - ZYDIS_REGISTER_AL
                                               : r - ZYDIS_REGISTER_SPL + X86_RSP);
    }
    return SOFT_REG(ZydisRegisterGetId(r) & 15);
}

static bool operand_reg(const ZydisDecodedOperand *op, uint8_t *offset)
{
    if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !exec_is_gpr(op->reg.value)) {
        return false;
    }
    *offset = exec_reg(op->reg.value);
    return true;
}

bool exec_pick(const SoftDecode *d, SoftInsn *out, const HandlerSet *set)
{
    const ZydisDecodedOperand *a = &d->ops[0], *b = &d->ops[1];
    bool lock = out->flags & SOFT_I_LOCK;
    Form form;

    out->op_size = (uint8_t)exec_size(a->size);
    if (a->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        if (b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            out->imm = b->imm.value.u;
            form = lock ? FORM_LOCK_MI : FORM_MI;
        } else if (operand_reg(b, &out->src)) {
            form = lock ? FORM_LOCK_MR : FORM_MR;
        } else {
            return false;
        }
    } else if (!operand_reg(a, &out->dst)) {
        return false;
    } else if (b->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        out->imm = b->imm.value.u;
        form = FORM_RI;
    } else if (b->type == ZYDIS_OPERAND_TYPE_MEMORY) {
        form = FORM_RM;
    } else if (operand_reg(b, &out->src)) {
        form = FORM_RR;
    } else {
        return false;
    }
    out->fn = set->fn[form][out->op_size];
    return out->fn;
}

bool exec_pick_one(const SoftDecode *d, SoftInsn *out, const HandlerSet *set)
{
    Form form = FORM_RR;
    out->op_size = (uint8_t)exec_size(d->ops[0].size);
    if (d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        form = (out->flags & SOFT_I_LOCK) ? FORM_LOCK_MR : FORM_MR;
    } else if (!operand_reg(&d->ops[0], &out->dst)) {
        return false;
    }
    out->fn = set->fn[form][out->op_size];
    return out->fn;
}

/* XCHG names its memory operand first or second; the handlers want it first. */
static bool decode_xchg(const SoftDecode *d, SoftInsn *out)
{
    SoftDecode swapped = *d;
    ZydisDecodedOperand ops[2];
    if (d->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY) {
        ops[0] = d->ops[1];
        ops[1] = d->ops[0];
        swapped.ops = ops;
    }
    return exec_pick(&swapped, out, &xchg_set);
}

bool soft_decode_int(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        return exec_pick(d, out, &add_set);
    case ZYDIS_MNEMONIC_ADC:
        return exec_pick(d, out, &adc_set);
    case ZYDIS_MNEMONIC_SUB:
        return exec_pick(d, out, &sub_set);
    case ZYDIS_MNEMONIC_SBB:
        return exec_pick(d, out, &sbb_set);
    case ZYDIS_MNEMONIC_AND:
        return exec_pick(d, out, &and_set);
    case ZYDIS_MNEMONIC_OR:
        return exec_pick(d, out, &or_set);
    case ZYDIS_MNEMONIC_XOR:
        return exec_pick(d, out, &xor_set);
    case ZYDIS_MNEMONIC_CMP:
        return exec_pick(d, out, &cmp_set);
    case ZYDIS_MNEMONIC_TEST:
        return exec_pick(d, out, &test_set);
    case ZYDIS_MNEMONIC_NOT:
        return exec_pick_one(d, out, &not_set);
    case ZYDIS_MNEMONIC_NEG:
        return exec_pick_one(d, out, &neg_set);
    case ZYDIS_MNEMONIC_INC:
        return exec_pick_one(d, out, &inc_set);
    case ZYDIS_MNEMONIC_DEC:
        return exec_pick_one(d, out, &dec_set);
    case ZYDIS_MNEMONIC_XCHG:
        return decode_xchg(d, out);
    case ZYDIS_MNEMONIC_XADD:
        return exec_pick(d, out, &xadd_set);
    case ZYDIS_MNEMONIC_CMPXCHG:
        return exec_pick(d, out, &cmpxchg_set);
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        out->fn = cmpxchg8b;
        return true;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        out->fn = cmpxchg16b;
        return true;
    default:
        return exec_decode_move(d, out) || exec_decode_shift(d, out) || exec_decode_bit(d, out) ||
               exec_decode_stack(d, out) || exec_decode_muldiv(d, out) || exec_decode_bcd(d, out);
    }
}
