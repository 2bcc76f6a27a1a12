/*
 * Shifts and rotations: SHL SHR SAR ROL ROR RCL RCR SHLD SHRD.
 *
 * Counts are taken modulo 32, or 64 for 64-bit operands. A count of 0 changes no flag, but memory
 * is still accessed for writing. Undefined by the manual and left as they come: OF for counts other
 * than 1, AF always, CF of SHL and SHR for counts beyond the operand's width, SHLD and SHRD of
 * 16 bits by more than 16.
 */
#include "engine/accel/soft/exec.h"

#define COUNT_MASK(N) ((N) == 64 ? 63u : 31u)

/* Each takes the old value and a masked count; flags() runs after the write, for counts but 0. */
#define SHIFT_VALUES(N, S)                                                                  \
    static inline uint##N##_t shl##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        return (uint##N##_t)((uint64_t)a << n);                                             \
    }                                                                                       \
    static inline void shl##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        cc_set(c, CC_SHL, S, r, (uint##N##_t)((uint64_t)a << (n - 1)));                     \
    }                                                                                       \
    static inline uint##N##_t shr##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        return (uint##N##_t)((uint64_t)a >> n);                                             \
    }                                                                                       \
    static inline void shr##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        cc_set(c, CC_SHR, S, r, (uint##N##_t)((uint64_t)a >> (n - 1)));                     \
    }                                                                                       \
    static inline uint##N##_t sar##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        return (uint##N##_t)((int64_t)(int##N##_t)a >> n);                                  \
    }                                                                                       \
    static inline void sar##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        cc_set(c, CC_SAR, S, r, (uint##N##_t)((int64_t)(int##N##_t)a >> (n - 1)));          \
    }                                                                                       \
    static inline uint##N##_t rol##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        n &= N - 1;                                                                         \
        return (uint##N##_t)(n ? a << n | a >> (N - n) : a);                                \
    }                                                                                       \
    static inline void rol##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        set_carry_overflow(c, r & 1, (r ^ r << (N - 1)) >> (N - 1) & 1);                    \
    }                                                                                       \
    static inline uint##N##_t ror##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        n &= N - 1;                                                                         \
        return (uint##N##_t)(n ? a >> n | a << (N - n) : a);                                \
    }                                                                                       \
    static inline void ror##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        set_carry_overflow(c, r >> (N - 1) & 1, (r >> (N - 1) ^ r >> (N - 2)) & 1);         \
    }                                                                                       \
    /* The carry takes part: N + 1 bits go round. */                                        \
    static inline uint##N##_t rcl##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        uint64_t cf = cc_carry(c);                                                          \
        n %= N + 1;                                                                         \
        if (n == 0) {                                                                       \
            return a;                                                                       \
        }                                                                                   \
        return (uint##N##_t)((n == N ? 0 : (uint64_t)a << n) | cf << (n - 1) |              \
                             (n == 1 ? 0 : (uint64_t)a >> (N + 1 - n)));                    \
    }                                                                                       \
    static inline void rcl##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        n %= N + 1;                                                                         \
        bool cf = n ? a >> (N - n) & 1 : cc_carry(c);                                       \
        set_carry_overflow(c, cf, cf ^ (r >> (N - 1) & 1));                                 \
    }                                                                                       \
    static inline uint##N##_t rcr##N(const SoftCpu *c, uint##N##_t a, unsigned n)           \
    {                                                                                       \
        uint64_t cf = cc_carry(c);                                                          \
        n %= N + 1;                                                                         \
        if (n == 0) {                                                                       \
            return a;                                                                       \
        }                                                                                   \
        return (uint##N##_t)((n == N ? 0 : (uint64_t)a >> n) | cf << (N - n) |              \
                             (n == 1 ? 0 : (uint64_t)a << (N + 1 - n)));                    \
    }                                                                                       \
    static inline void rcr##N##_flags(SoftCpu *c, uint##N##_t a, uint##N##_t r, unsigned n) \
    {                                                                                       \
        n %= N + 1;                                                                         \
        bool cf = n ? a >> (n - 1) & 1 : cc_carry(c);                                       \
        set_carry_overflow(c, cf, (r >> (N - 1) ^ r >> (N - 2)) & 1);                       \
    }

/* Rotations touch only these two. */
static inline void set_carry_overflow(SoftCpu *c, bool carry, bool overflow)
{
    uint32_t f = soft_flags_arith(c) & ~(uint32_t)(FLAG_CF | FLAG_OF);
    cc_set_flags(c, f | (carry ? FLAG_CF : 0) | (overflow ? FLAG_OF : 0));
}
FOR_SIZES(SHIFT_VALUES)

#define SHIFT_FORM(NAME, N, FORM, COUNT)                              \
    static void NAME##N##_r##FORM(SoftCpu *c, const SoftInsn *i)      \
    {                                                                 \
        const unsigned n = (COUNT)&COUNT_MASK(N);                     \
        uint##N##_t a = reg_read##N(c, i->dst), r = NAME##N(c, a, n); \
        reg_write##N(c, i->dst, r);                                   \
        if (LIKELY(n)) {                                              \
            NAME##N##_flags(c, a, r, n);                              \
        }                                                             \
        SOFT_NEXT(c, i);                                              \
    }                                                                 \
    static void NAME##N##_m##FORM(SoftCpu *c, const SoftInsn *i)      \
    {                                                                 \
        const unsigned n = (COUNT)&COUNT_MASK(N);                     \
        RMW(c, i, N, a, r, NAME##N(c, a, n));                         \
        if (LIKELY(n)) {                                              \
            NAME##N##_flags(c, a, r, n);                              \
        }                                                             \
        SOFT_NEXT(c, i);                                              \
    }
#define SHIFT(NAME, N)                       \
    SHIFT_FORM(NAME, N, i, (unsigned)i->imm) \
    SHIFT_FORM(NAME, N, c, reg_read8(c, SOFT_REG(X86_RCX)))
#define SHIFTS(N, S) \
    SHIFT(shl, N)    \
    SHIFT(shr, N)    \
    SHIFT(sar, N)    \
    SHIFT(rol, N)    \
    SHIFT(ror, N)    \
    SHIFT(rcl, N)    \
    SHIFT(rcr, N)
FOR_SIZES(SHIFTS)

/* [memory][count in CL][size] */
#define SHIFT_ROW(NAME, FORM)                                             \
    {                                                                     \
        NAME##8_##FORM, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
#define SHIFT_SET(NAME)                               \
    {                                                 \
        { SHIFT_ROW(NAME, ri), SHIFT_ROW(NAME, rc) }, \
        {                                             \
            SHIFT_ROW(NAME, mi), SHIFT_ROW(NAME, mc)  \
        }                                             \
    }
enum { SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHIFT_KINDS };
static const SoftExec shift_set[SHIFT_KINDS][2][2][4] = { SHIFT_SET(shl), SHIFT_SET(shr),
                                                          SHIFT_SET(sar), SHIFT_SET(rol),
                                                          SHIFT_SET(ror), SHIFT_SET(rcl),
                                                          SHIFT_SET(rcr) };

/* ---- double shifts ----------------------------------------------------------------------- */

/* Bits of two operands as one value of 2N; 16-bit counts beyond 16 take bits of the destination
 * again, as processors do. */
#define DOUBLE_VALUES(N)                                                        \
    static inline uint##N##_t shld##N(uint##N##_t a, uint##N##_t b, unsigned n) \
    {                                                                           \
        if (n == 0) {                                                           \
            return a;                                                           \
        }                                                                       \
        if (n > N) {                                                            \
            return (uint##N##_t)(b << (n - N) | (uint64_t)a >> (2 * N - n));    \
        }                                                                       \
        return (uint##N##_t)((n == N ? 0 : a << n) | b >> (N - n));             \
    }                                                                           \
    static inline uint##N##_t shrd##N(uint##N##_t a, uint##N##_t b, unsigned n) \
    {                                                                           \
        if (n == 0) {                                                           \
            return a;                                                           \
        }                                                                       \
        if (n > N) {                                                            \
            return (uint##N##_t)(b >> (n - N) | (uint64_t)a << (2 * N - n));    \
        }                                                                       \
        return (uint##N##_t)((n == N ? 0 : a >> n) | b << (N - n));             \
    }
#define DOUBLE_FORM(NAME, N, S, FORM, COUNT, LAST)                    \
    static void NAME##N##_r##FORM(SoftCpu *c, const SoftInsn *i)      \
    {                                                                 \
        const unsigned n = (COUNT)&COUNT_MASK(N);                     \
        const uint##N##_t b = reg_read##N(c, i->src);                 \
        uint##N##_t a = reg_read##N(c, i->dst), r = NAME##N(a, b, n); \
        reg_write##N(c, i->dst, r);                                   \
        if (n) {                                                      \
            double_flags(c, S, a, r, LAST);                           \
        }                                                             \
        SOFT_NEXT(c, i);                                              \
    }                                                                 \
    static void NAME##N##_m##FORM(SoftCpu *c, const SoftInsn *i)      \
    {                                                                 \
        const unsigned n = (COUNT)&COUNT_MASK(N);                     \
        const uint##N##_t b = reg_read##N(c, i->src);                 \
        RMW(c, i, N, a, r, NAME##N(a, b, n));                         \
        if (n) {                                                      \
            double_flags(c, S, a, r, LAST);                           \
        }                                                             \
        SOFT_NEXT(c, i);                                              \
    }
static inline void double_flags(SoftCpu *c, unsigned size, uint64_t a, uint64_t r, bool last)
{
    cc_set_flags(c, flags_of_result(r, size) | (last ? FLAG_CF : 0) |
                        (((a ^ r) & SIGN_BIT(size)) ? FLAG_OF : 0));
}
#define DOUBLES(N, S)                                                                 \
    DOUBLE_VALUES(N)                                                                  \
    DOUBLE_FORM(shld, N, S, i, (unsigned)i->imm, shld##N(a, b, n - 1) >> (N - 1) & 1) \
    DOUBLE_FORM(shld, N, S, c, reg_read8(c, SOFT_REG(X86_RCX)),                       \
                shld##N(a, b, n - 1) >> (N - 1) & 1)                                  \
    DOUBLE_FORM(shrd, N, S, i, (unsigned)i->imm, shrd##N(a, b, n - 1) & 1)            \
    DOUBLE_FORM(shrd, N, S, c, reg_read8(c, SOFT_REG(X86_RCX)), shrd##N(a, b, n - 1) & 1)
FOR_WIDE_SIZES(DOUBLES)
#define DOUBLE_ROW(NAME, FORM)                                  \
    {                                                           \
        NULL, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
static const SoftExec double_set[2][2][2][4] = {
    { { DOUBLE_ROW(shld, ri), DOUBLE_ROW(shld, rc) },
      { DOUBLE_ROW(shld, mi), DOUBLE_ROW(shld, mc) } },
    { { DOUBLE_ROW(shrd, ri), DOUBLE_ROW(shrd, rc) },
      { DOUBLE_ROW(shrd, mi), DOUBLE_ROW(shrd, mc) } },
};

/* ---- decoding ---------------------------------------------------------------------------- */

static bool pick_shift(const SoftDecode *d, SoftInsn *out, const SoftExec set[2][2][4],
                       const ZydisDecodedOperand *count)
{
    bool mem = d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool cl = count->type == ZYDIS_OPERAND_TYPE_REGISTER;

    out->op_size = (uint8_t)exec_size(d->ops[0].size);
    if (!mem) {
        out->dst = exec_reg(d->ops[0].reg.value);
    }
    if (!cl) {
        out->imm = count->imm.value.u;
    }
    out->fn = set[mem][cl][out->op_size];
    return out->fn;
}

bool exec_decode_shift(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
        return pick_shift(d, out, shift_set[SHL], &d->ops[1]);
    case ZYDIS_MNEMONIC_SHR:
        return pick_shift(d, out, shift_set[SHR], &d->ops[1]);
    case ZYDIS_MNEMONIC_SAR:
        return pick_shift(d, out, shift_set[SAR], &d->ops[1]);
    case ZYDIS_MNEMONIC_ROL:
        return pick_shift(d, out, shift_set[ROL], &d->ops[1]);
    case ZYDIS_MNEMONIC_ROR:
        return pick_shift(d, out, shift_set[ROR], &d->ops[1]);
    case ZYDIS_MNEMONIC_RCL:
        return pick_shift(d, out, shift_set[RCL], &d->ops[1]);
    case ZYDIS_MNEMONIC_RCR:
        return pick_shift(d, out, shift_set[RCR], &d->ops[1]);
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        out->src = exec_reg(d->ops[1].reg.value);
        return pick_shift(d, out, double_set[d->insn->mnemonic == ZYDIS_MNEMONIC_SHRD], &d->ops[2]);
    default:
        return false;
    }
}
