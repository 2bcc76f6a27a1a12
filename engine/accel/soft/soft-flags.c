/*
 * Flags: the six arithmetic ones from what made them, and RFLAGS as a whole.
 *
 * With r the result and b the second operand, both zero-extended from the operand's size, the first
 * operand of an addition is r - b, of a subtraction r + b. CC_ADC and CC_SBB stand for a carry of 1
 * that went in; with a carry of 0 handlers leave CC_ADD and CC_SUB behind.
 */
#include "engine/accel/soft/soft-priv.h"

uint32_t soft_flags_arith(const SoftCpu *c)
{
    unsigned bits = 8u << c->cc_size;
    uint64_t mask = ~UINT64_C(0) >> (64 - bits), sign = UINT64_C(1) << (bits - 1);
    uint64_t r = c->cc_dst & mask, b = c->cc_src & mask, a;
    unsigned carry_in = c->cc_op == CC_ADC || c->cc_op == CC_SBB;
    uint32_t f;

    if (c->cc_op == CC_FLAGS) {
        return (uint32_t)c->cc_dst & FLAGS_ARITH;
    }
    f = r == 0 ? FLAG_ZF : 0;
    f |= r & sign ? FLAG_SF : 0;
    f |= __builtin_parity((unsigned)r & 0xff) ? 0 : FLAG_PF;
    switch ((CcOp)c->cc_op) {
    case CC_ADD:
    case CC_ADC:
        a = (r - b - carry_in) & mask;
        f |= r < b || (carry_in && r == b) ? FLAG_CF : 0;
        f |= (a ^ b ^ r) & FLAG_AF;
        f |= (a ^ r) & (b ^ r) & sign ? FLAG_OF : 0;
        break;
    case CC_SUB:
    case CC_SBB:
        a = (r + b + carry_in) & mask;
        f |= a < b || (carry_in && a == b) ? FLAG_CF : 0;
        f |= (a ^ b ^ r) & FLAG_AF;
        f |= (a ^ b) & (a ^ r) & sign ? FLAG_OF : 0;
        break;
    case CC_INC:
        f |= c->cc_src & 1 ? FLAG_CF : 0;
        f |= (r & 15) == 0 ? FLAG_AF : 0;
        f |= r == sign ? FLAG_OF : 0;
        break;
    case CC_DEC:
        f |= c->cc_src & 1 ? FLAG_CF : 0;
        f |= (r & 15) == 15 ? FLAG_AF : 0;
        f |= r == sign - 1 ? FLAG_OF : 0;
        break;
    case CC_SHL:
        f |= b & sign ? FLAG_CF : 0;
        f |= (r ^ b) & sign ? FLAG_OF : 0;
        break;
    case CC_SHR:
        f |= b & 1 ? FLAG_CF : 0;
        f |= b & sign ? FLAG_OF : 0;
        break;
    case CC_SAR:
        f |= b & 1 ? FLAG_CF : 0;
        break;
    case CC_LOGIC:
    case CC_FLAGS:
        break;
    }
    return f;
}

uint64_t soft_rflags(const SoftCpu *c)
{
    return (c->flags & ~(uint32_t)FLAGS_ARITH) | soft_flags_arith(c) | 2;
}

void soft_set_rflags(SoftCpu *c, uint64_t v, uint64_t mask)
{
    const uint32_t defined = FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT |
                             FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID;
    uint32_t m = (uint32_t)mask & defined;

    if (m & FLAGS_ARITH) {
        uint32_t f = soft_flags_arith(c);

        c->cc_dst = (f & ~m) | ((uint32_t)v & m & FLAGS_ARITH);
        c->cc_op = CC_FLAGS;
    }
    m &= ~(uint32_t)FLAGS_ARITH;
    c->flags = (c->flags & ~(m | FLAGS_ARITH)) | ((uint32_t)v & m) | 2;
}

bool soft_condition(const SoftCpu *c, unsigned cc)
{
    uint32_t f = soft_flags_arith(c);
    bool less = !(f & FLAG_SF) != !(f & FLAG_OF), v;

    switch (cc >> 1 & 7) {
    case 0:
        v = f & FLAG_OF;
        break;
    case 1:
        v = f & FLAG_CF;
        break;
    case 2:
        v = f & FLAG_ZF;
        break;
    case 3:
        v = f & (FLAG_CF | FLAG_ZF);
        break;
    case 4:
        v = f & FLAG_SF;
        break;
    case 5:
        v = f & FLAG_PF;
        break;
    case 6:
        v = less;
        break;
    default:
        v = less || (f & FLAG_ZF);
        break;
    }
    return v != (cc & 1);
}
