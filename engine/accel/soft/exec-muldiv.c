/*
 * MUL IMUL DIV IDIV.
 *
 * Undefined by the manual: SF, ZF, AF and PF after the multiplications (0 here), all flags after
 * the divisions (kept).
 */
#include "engine/accel/soft/exec.h"

typedef __int128 int128_t;
typedef unsigned __int128 uint128_t;

static inline void set_product_flags(SoftCpu *c, bool overflow)
{
    cc_set_flags(c, overflow ? FLAG_CF | FLAG_OF : 0);
}

/* ---- widening multiplication of the accumulator -------------------------------------------- */

#define ACCUMULATOR(NAME, N, BODY)                         \
    static void NAME##N##_r(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        const uint##N##_t b = reg_read##N(c, i->dst);      \
        SOFT_HERE(c, i);                                   \
        BODY;                                              \
        SOFT_NEXT(c, i);                                   \
    }                                                      \
    static void NAME##N##_m(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        const uint##N##_t b = LOAD_OPERAND(c, i, N);       \
        BODY;                                              \
        SOFT_NEXT(c, i);                                   \
    }

static inline void multiply8(SoftCpu *c, uint16_t p, bool overflow)
{
    reg_write16(c, SOFT_REG(X86_RAX), p);
    set_product_flags(c, overflow);
}
#define MULTIPLY(N, WIDE)                                             \
    static inline void multiply##N(SoftCpu *c, WIDE p, bool overflow) \
    {                                                                 \
        reg_write##N(c, SOFT_REG(X86_RAX), (uint##N##_t)p);           \
        reg_write##N(c, SOFT_REG(X86_RDX), (uint##N##_t)(p >> N));    \
        set_product_flags(c, overflow);                               \
    }
MULTIPLY(16, uint32_t)
MULTIPLY(32, uint64_t)
MULTIPLY(64, uint128_t)

#define MULTIPLICATIONS(N, WIDE)                                                              \
    ACCUMULATOR(mul, N, u##WIDE p = (u##WIDE)reg_read##N(c, SOFT_REG(X86_RAX)) * b;           \
                multiply##N(c, p, (uint##N##_t)(p >> N) != 0))                                \
    ACCUMULATOR(imul, N,                                                                      \
                WIDE p = (WIDE)(int##N##_t)reg_read##N(c, SOFT_REG(X86_RAX)) * (int##N##_t)b; \
                multiply##N(c, (u##WIDE)p, p != (int##N##_t)p))
MULTIPLICATIONS(8, int16_t)
MULTIPLICATIONS(16, int32_t)
MULTIPLICATIONS(32, int64_t)
MULTIPLICATIONS(64, int128_t)

/* ---- IMUL with two or three operands ------------------------------------------------------- */

#define PRODUCT(N, WIDE, FORM, A, B)                               \
    static void product##N##_##FORM(SoftCpu *c, const SoftInsn *i) \
    {                                                              \
        WIDE p = (WIDE)(int##N##_t)(A) * (int##N##_t)(B);          \
        reg_write##N(c, i->dst, (uint##N##_t)p);                   \
        set_product_flags(c, p != (int##N##_t)p);                  \
        SOFT_NEXT(c, i);                                           \
    }
#define PRODUCTS(N, WIDE)                                                \
    PRODUCT(N, WIDE, rr, reg_read##N(c, i->src), reg_read##N(c, i->dst)) \
    PRODUCT(N, WIDE, rm, LOAD_OPERAND(c, i, N), reg_read##N(c, i->dst))  \
    PRODUCT(N, WIDE, rri, reg_read##N(c, i->src), i->imm)                \
    PRODUCT(N, WIDE, rmi, LOAD_OPERAND(c, i, N), i->imm)
PRODUCTS(16, int32_t)
PRODUCTS(32, int64_t)
PRODUCTS(64, int128_t)

/* ---- divisions ----------------------------------------------------------------------------- */

static inline void divide8(SoftCpu *c, uint8_t b)
{
    uint16_t a = reg_read16(c, SOFT_REG(X86_RAX));
    if (b == 0 || a / b > UINT8_MAX) {
        soft_raise(c, EXC_DE);
    }
    reg_write16(c, SOFT_REG(X86_RAX), (uint16_t)((a % b) << 8 | a / b));
}
static inline void divide16(SoftCpu *c, uint16_t b)
{
    uint32_t a = (uint32_t)reg_read16(c, SOFT_REG(X86_RDX)) << 16 |
                 reg_read16(c, SOFT_REG(X86_RAX));
    if (b == 0 || a / b > UINT16_MAX) {
        soft_raise(c, EXC_DE);
    }
    reg_write16(c, SOFT_REG(X86_RAX), (uint16_t)(a / b));
    reg_write16(c, SOFT_REG(X86_RDX), (uint16_t)(a % b));
}
static inline void divide32(SoftCpu *c, uint32_t b)
{
    uint64_t a = c->gpr[X86_RDX] << 32 | (uint32_t)c->gpr[X86_RAX];
    if (b == 0 || a >> 32 >= b) {
        soft_raise(c, EXC_DE);
    }
    c->gpr[X86_RAX] = a / b;
    c->gpr[X86_RDX] = a % b;
}
/* The quotient fits: high < b. */
static inline uint64_t divide128(uint64_t high, uint64_t low, uint64_t b, uint64_t *remainder)
{
    uint64_t q;
    __asm__("divq %4" : "=a"(q), "=d"(*remainder) : "a"(low), "d"(high), "r"(b) : "cc");
    return q;
}
static inline void divide64(SoftCpu *c, uint64_t b)
{
    if (b <= c->gpr[X86_RDX]) { /* 0 is among them */
        soft_raise(c, EXC_DE);
    }
    c->gpr[X86_RAX] = divide128(c->gpr[X86_RDX], c->gpr[X86_RAX], b, &c->gpr[X86_RDX]);
}

/* By magnitudes: neither the smallest number nor -1 is a special case. Truncates towards 0, the
 * remainder has the dividend's sign. */
static inline void divide_signed(SoftCpu *c, uint64_t high, uint64_t low, int64_t divisor,
                                 uint64_t limit, uint64_t *quotient, uint64_t *remainder)
{
    bool negative = (int64_t)high < 0, opposite = negative != (divisor < 0);
    uint64_t b = divisor < 0 ? 0 - (uint64_t)divisor : (uint64_t)divisor, q;

    if (negative) {
        low = 0 - low;
        high = ~high + (low == 0);
    }
    if (high >= b) {
        soft_raise(c, EXC_DE);
    }
    q = divide128(high, low, b, remainder);
    if (q > limit || (q == limit && !opposite)) {
        soft_raise(c, EXC_DE);
    }
    *quotient = opposite ? 0 - q : q;
    *remainder = negative ? 0 - *remainder : *remainder;
}
static inline void idivide8(SoftCpu *c, uint8_t b)
{
    int64_t a = (int16_t)c->gpr[X86_RAX];
    uint64_t q, r;
    divide_signed(c, a < 0 ? UINT64_MAX : 0, (uint64_t)a, (int8_t)b, 1u << 7, &q, &r);
    reg_write16(c, SOFT_REG(X86_RAX), (uint16_t)(r << 8 | (uint8_t)q));
}
static inline void idivide16(SoftCpu *c, uint16_t b)
{
    int64_t a = (int32_t)((uint32_t)c->gpr[X86_RDX] << 16 | (uint16_t)c->gpr[X86_RAX]);
    uint64_t q, r;
    divide_signed(c, a < 0 ? UINT64_MAX : 0, (uint64_t)a, (int16_t)b, 1u << 15, &q, &r);
    reg_write16(c, SOFT_REG(X86_RAX), (uint16_t)q);
    reg_write16(c, SOFT_REG(X86_RDX), (uint16_t)r);
}
static inline void idivide32(SoftCpu *c, uint32_t b)
{
    int64_t a = (int64_t)(c->gpr[X86_RDX] << 32 | (uint32_t)c->gpr[X86_RAX]);
    uint64_t q, r;
    divide_signed(c, a < 0 ? UINT64_MAX : 0, (uint64_t)a, (int32_t)b, 1u << 31, &q, &r);
    c->gpr[X86_RAX] = (uint32_t)q;
    c->gpr[X86_RDX] = (uint32_t)r;
}
static inline void idivide64(SoftCpu *c, uint64_t b)
{
    uint64_t q, r;
    divide_signed(c, c->gpr[X86_RDX], c->gpr[X86_RAX], (int64_t)b, 1ull << 63, &q, &r);
    c->gpr[X86_RAX] = q;
    c->gpr[X86_RDX] = r;
}
#define DIVISIONS(N, S)                  \
    ACCUMULATOR(div, N, divide##N(c, b)) \
    ACCUMULATOR(idiv, N, idivide##N(c, b))
FOR_SIZES(DIVISIONS)

/* ---- decoding ------------------------------------------------------------------------------ */

#define ROW(NAME, FORM)                                                   \
    {                                                                     \
        NAME##8_##FORM, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
#define ONE_SET(NAME)                                                \
    {                                                                \
        .fn = { [FORM_RR] = ROW(NAME, r), [FORM_MR] = ROW(NAME, m) } \
    }
static const HandlerSet mul_set = ONE_SET(mul), imul_set = ONE_SET(imul), div_set = ONE_SET(div),
                        idiv_set = ONE_SET(idiv);
static const HandlerSet product_set = {
    .fn = { [FORM_RR] = { NULL, product16_rr, product32_rr, product64_rr },
            [FORM_RM] = { NULL, product16_rm, product32_rm, product64_rm } }
};
static const HandlerSet product_imm_set = {
    .fn = { [FORM_RR] = { NULL, product16_rri, product32_rri, product64_rri },
            [FORM_RM] = { NULL, product16_rmi, product32_rmi, product64_rmi } }
};

static bool decode_imul(const SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->operand_count_visible) {
    case 1:
        return exec_pick_one(d, out, &imul_set);
    case 2:
        return exec_pick(d, out, &product_set);
    default:
        out->imm = d->ops[2].imm.value.u;
        return exec_pick(d, out, &product_imm_set);
    }
}

bool exec_decode_muldiv(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MUL:
        return exec_pick_one(d, out, &mul_set);
    case ZYDIS_MNEMONIC_IMUL:
        return decode_imul(d, out);
    case ZYDIS_MNEMONIC_DIV:
        return exec_pick_one(d, out, &div_set);
    case ZYDIS_MNEMONIC_IDIV:
        return exec_pick_one(d, out, &idiv_set);
    default:
        return false;
    }
}
