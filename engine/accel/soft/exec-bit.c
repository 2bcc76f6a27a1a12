/*
 * Bits: BT BTS BTR BTC, BSF BSR, TZCNT LZCNT POPCNT, BSWAP, CRC32, BMI1, BMI2 and ADX.
 *
 * Undefined by the manual: all flags but CF after the bit tests (kept here, as processors do); all
 * but ZF after BSF and BSR (kept); those but CF and ZF after TZCNT and LZCNT (kept); AF, PF of ANDN
 * and the BLS family, also SF of BEXTR (as after a logic instruction). BSF and BSR of 0 leave their
 * destination alone, as both makers' processors do. BSWAP of a 16-bit register gives 0.
 */
#include "engine/accel/soft/exec.h"

static inline void set_carry(SoftCpu *c, bool carry)
{
    cc_set_flags(c, (soft_flags_arith(c) & ~(uint32_t)FLAG_CF) | (carry ? FLAG_CF : 0));
}

/* ---- bit tests --------------------------------------------------------------------------- */

/* A bit offset in a register is signed and reaches beyond the operand. */
static __attribute__((noinline)) uint64_t bit_linear(SoftCpu *c, const SoftInsn *i, bool is_write)
{
    SoftInsn t = *i;
    uint64_t bit = gpr_read(c, i->src / 8, i->op_size);
    unsigned shift = 64 - (8u << i->op_size);
    int64_t offset = (int64_t)(bit << shift) >> shift;

    SOFT_HERE(c, i);
    t.disp += (offset >> (3 + i->op_size)) * (1 << i->op_size);
    return soft_linear(c, &t, 1u << i->op_size, is_write);
}

#define BIT_WRITE(NAME, N, EXPR)                                                                \
    static void NAME##N##_rr(SoftCpu *c, const SoftInsn *i)                                     \
    {                                                                                           \
        const unsigned n = reg_read8(c, i->src) & (N - 1);                                      \
        uint##N##_t a = reg_read##N(c, i->dst), bit = (uint##N##_t)((uint##N##_t)1 << n);       \
        reg_write##N(c, i->dst, (uint##N##_t)(EXPR));                                           \
        set_carry(c, a &bit);                                                                   \
        SOFT_NEXT(c, i);                                                                        \
    }                                                                                           \
    static void NAME##N##_ri(SoftCpu *c, const SoftInsn *i)                                     \
    {                                                                                           \
        const unsigned n = i->imm & (N - 1);                                                    \
        uint##N##_t a = reg_read##N(c, i->dst), bit = (uint##N##_t)((uint##N##_t)1 << n);       \
        reg_write##N(c, i->dst, (uint##N##_t)(EXPR));                                           \
        set_carry(c, a &bit);                                                                   \
        SOFT_NEXT(c, i);                                                                        \
    }                                                                                           \
    BIT_MEMORY(NAME, N, mr, RMW_AT, reg_read8(c, i->src), bit_linear(c, i, true), EXPR)         \
    BIT_MEMORY(NAME, N, mi, RMW_AT, i->imm, mem_linear(c, i, N / 8, true), EXPR)                \
    BIT_MEMORY(NAME, N, lmr, RMW_LOCKED_AT, reg_read8(c, i->src), bit_linear(c, i, true), EXPR) \
    BIT_MEMORY(NAME, N, lmi, RMW_LOCKED_AT, i->imm, mem_linear(c, i, N / 8, true), EXPR)
#define BIT_MEMORY(NAME, N, FORM, HOW, INDEX, LINEAR, EXPR)                           \
    static void NAME##N##_##FORM(SoftCpu *c, const SoftInsn *i)                       \
    {                                                                                 \
        const uint##N##_t bit = (uint##N##_t)((uint##N##_t)1 << ((INDEX) & (N - 1))); \
        HOW(c, LINEAR, N, a, r, EXPR);                                                \
        (void)r;                                                                      \
        set_carry(c, a &bit);                                                         \
        SOFT_NEXT(c, i);                                                              \
    }
#define BIT_READ(N, FORM, INDEX, VALUE)                       \
    static void bt##N##_##FORM(SoftCpu *c, const SoftInsn *i) \
    {                                                         \
        uint##N##_t a = (VALUE);                              \
        set_carry(c, a >> ((INDEX) & (N - 1)) & 1);           \
        SOFT_NEXT(c, i);                                      \
    }
#define BITS(N, S)                                                             \
    BIT_READ(N, rr, reg_read8(c, i->src), reg_read##N(c, i->dst))              \
    BIT_READ(N, ri, i->imm, reg_read##N(c, i->dst))                            \
    BIT_READ(N, mr, reg_read8(c, i->src), LOAD(c, N, bit_linear(c, i, false))) \
    BIT_READ(N, mi, i->imm, LOAD_OPERAND(c, i, N))                             \
    BIT_WRITE(bts, N, a | bit)                                                 \
    BIT_WRITE(btr, N, a & ~bit)                                                \
    BIT_WRITE(btc, N, a ^ bit)
FOR_WIDE_SIZES(BITS)

#define ROW(NAME, FORM)                                         \
    {                                                           \
        NULL, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
#define BIT_SET(NAME)                        \
    {                                        \
        .fn = {                              \
            [FORM_RR] = ROW(NAME, rr),       \
            [FORM_RI] = ROW(NAME, ri),       \
            [FORM_MR] = ROW(NAME, mr),       \
            [FORM_MI] = ROW(NAME, mi),       \
            [FORM_LOCK_MR] = ROW(NAME, lmr), \
            [FORM_LOCK_MI] = ROW(NAME, lmi)  \
        }                                    \
    }
static const HandlerSet bts_set = BIT_SET(bts), btr_set = BIT_SET(btr), btc_set = BIT_SET(btc);
static const HandlerSet bt_set = { .fn = { [FORM_RR] = ROW(bt, rr),
                                           [FORM_RI] = ROW(bt, ri),
                                           [FORM_MR] = ROW(bt, mr),
                                           [FORM_MI] = ROW(bt, mi) } };

/* ---- one source, one destination --------------------------------------------------------- */

#define FROM_SOURCE(NAME, N, S, ...)                        \
    static void NAME##N##_rr(SoftCpu *c, const SoftInsn *i) \
    {                                                       \
        const unsigned size = S;                            \
        uint##N##_t a = reg_read##N(c, i->src);             \
        (void)size;                                         \
        __VA_ARGS__;                                        \
        SOFT_NEXT(c, i);                                    \
    }                                                       \
    static void NAME##N##_rm(SoftCpu *c, const SoftInsn *i) \
    {                                                       \
        const unsigned size = S;                            \
        uint##N##_t a = LOAD_OPERAND(c, i, N);              \
        (void)size;                                         \
        __VA_ARGS__;                                        \
        SOFT_NEXT(c, i);                                    \
    }
static inline void set_zero(SoftCpu *c, bool zero)
{
    cc_set_flags(c, (soft_flags_arith(c) & ~(uint32_t)FLAG_ZF) | (zero ? FLAG_ZF : 0));
}
static inline void set_carry_zero(SoftCpu *c, bool carry, bool zero)
{
    cc_set_flags(c, (soft_flags_arith(c) & ~(uint32_t)(FLAG_ZF | FLAG_CF)) | (carry ? FLAG_CF : 0) |
                        (zero ? FLAG_ZF : 0));
}
#define WRITE_COUNT(N, COUNT)             \
    uint##N##_t r = (uint##N##_t)(COUNT); \
    reg_write##N(c, i->dst, r)
#define WRITE_UNLESS_ZERO(N, COUNT)                    \
    if (a) {                                           \
        reg_write##N(c, i->dst, (uint##N##_t)(COUNT)); \
    }                                                  \
    set_zero(c, a == 0)
#define SCANS(N, S)                                                                 \
    FROM_SOURCE(bsf, N, S, WRITE_UNLESS_ZERO(N, __builtin_ctzll(a)))                \
    FROM_SOURCE(bsr, N, S, WRITE_UNLESS_ZERO(N, 63 - __builtin_clzll(a)))           \
    FROM_SOURCE(tzcnt, N, S, WRITE_COUNT(N, a ? __builtin_ctzll(a) : N);            \
                set_carry_zero(c, a == 0, r == 0))                                  \
    FROM_SOURCE(lzcnt, N, S, WRITE_COUNT(N, a ? __builtin_clzll(a) - (64 - N) : N); \
                set_carry_zero(c, a == 0, r == 0))                                  \
    FROM_SOURCE(popcnt, N, S, WRITE_COUNT(N, __builtin_popcountll(a));              \
                cc_set_flags(c, r == 0 ? FLAG_ZF : 0))
FOR_WIDE_SIZES(SCANS)
/* Of the lowest set bit. */
#define BLS(NAME, N, S, EXPR, CARRY)              \
    FROM_SOURCE(NAME, N, S, WRITE_COUNT(N, EXPR); \
                cc_set_flags(c, flags_of_result(r, size) | ((CARRY) ? FLAG_CF : 0)))
BLS(blsi, 32, 2, a &(0 - a), a != 0)
BLS(blsi, 64, 3, a &(0 - a), a != 0)
BLS(blsr, 32, 2, a &(a - 1), a == 0)
BLS(blsr, 64, 3, a &(a - 1), a == 0)
BLS(blsmsk, 32, 2, a ^ (a - 1), a == 0)
BLS(blsmsk, 64, 3, a ^ (a - 1), a == 0)
#define ROW2(NAME, FORM)                             \
    {                                                \
        NULL, NULL, NAME##32_##FORM, NAME##64_##FORM \
    }
#define SOURCE_SET(NAME, R)                                        \
    {                                                              \
        .fn = { [FORM_RR] = R(NAME, rr), [FORM_RM] = R(NAME, rm) } \
    }
static const HandlerSet bsf_set = SOURCE_SET(bsf, ROW), bsr_set = SOURCE_SET(bsr, ROW),
                        tzcnt_set = SOURCE_SET(tzcnt, ROW), lzcnt_set = SOURCE_SET(lzcnt, ROW),
                        popcnt_set = SOURCE_SET(popcnt, ROW), blsi_set = SOURCE_SET(blsi, ROW2),
                        blsr_set = SOURCE_SET(blsr, ROW2), blsmsk_set = SOURCE_SET(blsmsk, ROW2);

/* ---- BSWAP, ADX -------------------------------------------------------------------------- */

static void bswap16_r(SoftCpu *c, const SoftInsn *i)
{
    reg_write16(c, i->dst, 0);
    SOFT_NEXT(c, i);
}
static void bswap32_r(SoftCpu *c, const SoftInsn *i)
{
    reg_write32(c, i->dst, __builtin_bswap32(reg_read32(c, i->dst)));
    SOFT_NEXT(c, i);
}
static void bswap64_r(SoftCpu *c, const SoftInsn *i)
{
    reg_write64(c, i->dst, __builtin_bswap64(reg_read64(c, i->dst)));
    SOFT_NEXT(c, i);
}
static const HandlerSet bswap_set = { .fn = {
                                          [FORM_RR] = { NULL, bswap16_r, bswap32_r, bswap64_r } } };

#define ADD_WITH(NAME, N, S, FLAG, GET)                                                \
    FROM_SOURCE(NAME, N, S, {                                                          \
        uint##N##_t d = reg_read##N(c, i->dst), r;                                     \
        bool carry = __builtin_add_overflow(d, a, &r);                                 \
        carry |= __builtin_add_overflow(r, (uint##N##_t)(GET), &r);                    \
        reg_write##N(c, i->dst, r);                                                    \
        cc_set_flags(c, (soft_flags_arith(c) & ~(uint32_t)FLAG) | (carry ? FLAG : 0)); \
    })
ADD_WITH(adcx, 32, 2, FLAG_CF, cc_carry(c))
ADD_WITH(adcx, 64, 3, FLAG_CF, cc_carry(c))
ADD_WITH(adox, 32, 2, FLAG_OF, cc_overflow(c))
ADD_WITH(adox, 64, 3, FLAG_OF, cc_overflow(c))
static const HandlerSet adcx_set = SOURCE_SET(adcx, ROW2), adox_set = SOURCE_SET(adox, ROW2);

/* ---- CRC32 ------------------------------------------------------------------------------- */

/* Castagnoli's polynomial, reflected, by half bytes. */
static uint32_t crc32c(uint32_t crc, uint64_t v, unsigned bytes)
{
    static const uint32_t table[16] = { 0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
                                        0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
                                        0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
                                        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75 };
    for (unsigned n = 0; n < 2 * bytes; n++) {
        crc = crc >> 4 ^ table[(crc ^ v) & 15];
        v >>= 4;
    }
    return crc;
}
#define CRCS(N, S) \
    FROM_SOURCE(crc, N, S, reg_write32(c, i->dst, crc32c(reg_read32(c, i->dst), a, N / 8)))
FOR_SIZES(CRCS)

/* ---- three operands ---------------------------------------------------------------------- */

/* x is the register or memory operand, y the other source, whose register is in aux. */
#define THREE(NAME, N, S, BODY)                                                   \
    static void NAME##N##_rr(SoftCpu *c, const SoftInsn *i)                       \
    {                                                                             \
        const unsigned size = S;                                                  \
        const uint##N##_t x = reg_read##N(c, i->src), y = reg_read##N(c, i->aux); \
        uint##N##_t r;                                                            \
        (void)size, (void)y;                                                      \
        BODY;                                                                     \
        reg_write##N(c, i->dst, r);                                               \
        SOFT_NEXT(c, i);                                                          \
    }                                                                             \
    static void NAME##N##_rm(SoftCpu *c, const SoftInsn *i)                       \
    {                                                                             \
        const unsigned size = S;                                                  \
        const uint##N##_t x = LOAD_OPERAND(c, i, N), y = reg_read##N(c, i->aux);  \
        uint##N##_t r;                                                            \
        (void)size, (void)y;                                                      \
        BODY;                                                                     \
        reg_write##N(c, i->dst, r);                                               \
        SOFT_NEXT(c, i);                                                          \
    }
static uint64_t deposit(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (; mask; mask &= mask - 1, v >>= 1) {
        r |= (v & 1) ? mask & (0 - mask) : 0;
    }
    return r;
}
static uint64_t extract(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (unsigned n = 0; mask; mask &= mask - 1, n++) {
        r |= (v & mask & (0 - mask)) ? 1ull << n : 0;
    }
    return r;
}
static uint64_t low_bits(uint64_t v, unsigned n)
{
    return n >= 64 ? v : v & ((1ull << n) - 1);
}
static uint64_t bit_field(uint64_t v, unsigned start, unsigned len)
{
    return start >= 64 ? 0 : low_bits(v >> start, len);
}
#define THREES(N, S)                                                                     \
    THREE(andn, N, S, r = x & ~y; cc_set(c, CC_LOGIC, size, r, 0))                       \
    THREE(bextr, N, S, r = (uint##N##_t)bit_field(x, y & 255, y >> 8 & 255);             \
          cc_set(c, CC_LOGIC, size, r, 0))                                               \
    THREE(bzhi, N, S, r = (uint##N##_t)low_bits(x, y & 255);                             \
          cc_set_flags(c, flags_of_result(r, size) | ((y & 255) > N - 1 ? FLAG_CF : 0))) \
    THREE(pdep, N, S, r = (uint##N##_t)deposit(y, x))                                    \
    THREE(pext, N, S, r = (uint##N##_t)extract(y, x))                                    \
    THREE(shlx, N, S, r = x << (y & (N - 1)))                                            \
    THREE(shrx, N, S, r = x >> (y & (N - 1)))                                            \
    THREE(sarx, N, S, r = (uint##N##_t)((int##N##_t)x >> (y & (N - 1))))                 \
    THREE(rorx, N, S, r = x >> (i->imm & (N - 1)) | x << ((0 - i->imm) & (N - 1)))
THREES(32, 2)
THREES(64, 3)

/* Of two destinations that are the same register the high half stays. */
static void mulx_write(SoftCpu *c, const SoftInsn *i, uint64_t low, uint64_t high)
{
    c->gpr[i->aux / 8] = low;
    c->gpr[i->dst / 8] = high;
}
static void mulx32_rr(SoftCpu *c, const SoftInsn *i)
{
    uint64_t p = (uint64_t)(uint32_t)c->gpr[X86_RDX] * reg_read32(c, i->src);
    mulx_write(c, i, (uint32_t)p, p >> 32);
    SOFT_NEXT(c, i);
}
static void mulx32_rm(SoftCpu *c, const SoftInsn *i)
{
    uint64_t p = (uint64_t)(uint32_t)c->gpr[X86_RDX] * LOAD_OPERAND(c, i, 32);
    mulx_write(c, i, (uint32_t)p, p >> 32);
    SOFT_NEXT(c, i);
}
static void mulx64_rr(SoftCpu *c, const SoftInsn *i)
{
    unsigned __int128 p = (unsigned __int128)c->gpr[X86_RDX] * reg_read64(c, i->src);
    mulx_write(c, i, (uint64_t)p, (uint64_t)(p >> 64));
    SOFT_NEXT(c, i);
}
static void mulx64_rm(SoftCpu *c, const SoftInsn *i)
{
    unsigned __int128 p = (unsigned __int128)c->gpr[X86_RDX] * LOAD_OPERAND(c, i, 64);
    mulx_write(c, i, (uint64_t)p, (uint64_t)(p >> 64));
    SOFT_NEXT(c, i);
}

/* ---- decoding ---------------------------------------------------------------------------- */

/* [64-bit][memory] */
#define THREE_SET(NAME)               \
    {                                 \
        { NAME##32_rr, NAME##32_rm }, \
        {                             \
            NAME##64_rr, NAME##64_rm  \
        }                             \
    }
static bool pick_three(const SoftDecode *d, SoftInsn *out, const SoftExec set[2][2], unsigned rm,
                       unsigned other)
{
    bool mem = d->ops[rm].type == ZYDIS_OPERAND_TYPE_MEMORY;

    out->op_size = (uint8_t)exec_size(d->ops[0].size);
    out->dst = exec_reg(d->ops[0].reg.value);
    if (!mem) {
        out->src = exec_reg(d->ops[rm].reg.value);
    }
    if (d->ops[other].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        out->imm = d->ops[other].imm.value.u;
        out->aux = SOFT_REG(0);
    } else {
        out->aux = exec_reg(d->ops[other].reg.value);
    }
    out->fn = set[out->op_size == 3][mem];
    return true;
}

static bool decode_bmi(const SoftDecode *d, SoftInsn *out)
{
    static const SoftExec andn[2][2] = THREE_SET(andn), bextr[2][2] = THREE_SET(bextr),
                          bzhi[2][2] = THREE_SET(bzhi), pdep[2][2] = THREE_SET(pdep),
                          pext[2][2] = THREE_SET(pext), shlx[2][2] = THREE_SET(shlx),
                          shrx[2][2] = THREE_SET(shrx), sarx[2][2] = THREE_SET(sarx),
                          rorx[2][2] = THREE_SET(rorx), mulx[2][2] = THREE_SET(mulx);
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_ANDN:
        return pick_three(d, out, andn, 2, 1);
    case ZYDIS_MNEMONIC_PDEP:
        return pick_three(d, out, pdep, 2, 1);
    case ZYDIS_MNEMONIC_PEXT:
        return pick_three(d, out, pext, 2, 1);
    case ZYDIS_MNEMONIC_MULX:
        return pick_three(d, out, mulx, 2, 1);
    case ZYDIS_MNEMONIC_BEXTR:
        return d->insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
               pick_three(d, out, bextr, 1, 2);
    case ZYDIS_MNEMONIC_BZHI:
        return pick_three(d, out, bzhi, 1, 2);
    case ZYDIS_MNEMONIC_SHLX:
        return pick_three(d, out, shlx, 1, 2);
    case ZYDIS_MNEMONIC_SHRX:
        return pick_three(d, out, shrx, 1, 2);
    case ZYDIS_MNEMONIC_SARX:
        return pick_three(d, out, sarx, 1, 2);
    case ZYDIS_MNEMONIC_RORX:
        return pick_three(d, out, rorx, 1, 2);
    case ZYDIS_MNEMONIC_BLSI:
        return exec_pick(d, out, &blsi_set);
    case ZYDIS_MNEMONIC_BLSR:
        return exec_pick(d, out, &blsr_set);
    case ZYDIS_MNEMONIC_BLSMSK:
        return exec_pick(d, out, &blsmsk_set);
    default:
        return false;
    }
}

static bool decode_crc32(const SoftDecode *d, SoftInsn *out)
{
    static const SoftExec fn[2][4] = { { crc8_rr, crc16_rr, crc32_rr, crc64_rr },
                                       { crc8_rm, crc16_rm, crc32_rm, crc64_rm } };
    bool mem = d->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY;

    out->dst = exec_reg(d->ops[0].reg.value);
    if (!mem) {
        out->src = exec_reg(d->ops[1].reg.value);
    }
    out->op_size = (uint8_t)exec_size(d->ops[1].size);
    out->fn = fn[mem][out->op_size];
    return true;
}

bool exec_decode_bit(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
        return exec_pick(d, out, &bt_set);
    case ZYDIS_MNEMONIC_BTS:
        return exec_pick(d, out, &bts_set);
    case ZYDIS_MNEMONIC_BTR:
        return exec_pick(d, out, &btr_set);
    case ZYDIS_MNEMONIC_BTC:
        return exec_pick(d, out, &btc_set);
    case ZYDIS_MNEMONIC_BSF:
        return exec_pick(d, out, &bsf_set);
    case ZYDIS_MNEMONIC_BSR:
        return exec_pick(d, out, &bsr_set);
    case ZYDIS_MNEMONIC_TZCNT:
        return exec_pick(d, out, &tzcnt_set);
    case ZYDIS_MNEMONIC_LZCNT:
        return exec_pick(d, out, &lzcnt_set);
    case ZYDIS_MNEMONIC_POPCNT:
        return exec_pick(d, out, &popcnt_set);
    case ZYDIS_MNEMONIC_BSWAP:
        return exec_pick_one(d, out, &bswap_set);
    case ZYDIS_MNEMONIC_ADCX:
        return exec_pick(d, out, &adcx_set);
    case ZYDIS_MNEMONIC_ADOX:
        return exec_pick(d, out, &adox_set);
    case ZYDIS_MNEMONIC_CRC32:
        return decode_crc32(d, out);
    default:
        return decode_bmi(d, out);
    }
}
