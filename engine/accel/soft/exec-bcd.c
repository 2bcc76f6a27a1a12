/*
 * Decimal arithmetic: AAA AAS AAM AAD DAA DAS. Not in 64-bit code.
 *
 * Undefined by the manual: OF always, SF, ZF and PF after AAA and AAS, AF and CF after AAM and AAD.
 */
#include "engine/accel/soft/exec.h"

#define AL SOFT_REG(X86_RAX)
#define AH SOFT_REG_HIGH(X86_RAX)
#define AX SOFT_REG(X86_RAX)

static bool adjusts(const SoftCpu *c, uint32_t flags)
{
    return (reg_read8(c, AL) & 15) > 9 || (flags & FLAG_AF);
}

static void ascii_adjust(SoftCpu *c, int sign)
{
    uint32_t f = soft_flags_arith(c);
    bool adjust = adjusts(c, f);
    uint16_t ax = reg_read16(c, AX);

    if (adjust) {
        ax = (uint16_t)(ax + sign * 0x106);
    }
    reg_write16(c, AX, ax & 0xff0f);
    cc_set_flags(c, (f & FLAG_OF) | flags_of_result(ax & 15, 0) | (adjust ? FLAG_AF | FLAG_CF : 0));
}
static void aaa(SoftCpu *c, const SoftInsn *i)
{
    ascii_adjust(c, 1);
    SOFT_NEXT(c, i);
}
static void aas(SoftCpu *c, const SoftInsn *i)
{
    ascii_adjust(c, -1);
    SOFT_NEXT(c, i);
}

static void decimal_adjust(SoftCpu *c, int sign)
{
    uint32_t f = soft_flags_arith(c), carry = 0, half = 0;
    uint8_t old = reg_read8(c, AL), al = old;

    if (adjusts(c, f)) {
        half = FLAG_AF;
        /* DAS borrows here only when the low digit's 6 does not fit. */
        carry = (f & FLAG_CF) || (sign < 0 ? old < 6 : old > 0xf9) ? FLAG_CF : 0;
        al = (uint8_t)(al + sign * 6);
    }
    if (old > 0x99 || (f & FLAG_CF)) {
        al = (uint8_t)(al + sign * 0x60);
        carry = FLAG_CF;
    } else if (sign > 0) {
        carry = 0;
    }
    reg_write8(c, AL, al);
    cc_set_flags(c, (f & FLAG_OF) | flags_of_result(al, 0) | half | carry);
}
static void daa(SoftCpu *c, const SoftInsn *i)
{
    decimal_adjust(c, 1);
    SOFT_NEXT(c, i);
}
static void das(SoftCpu *c, const SoftInsn *i)
{
    decimal_adjust(c, -1);
    SOFT_NEXT(c, i);
}

static void aam(SoftCpu *c, const SoftInsn *i)
{
    uint8_t base = (uint8_t)i->imm, al = reg_read8(c, AL);

    SOFT_HERE(c, i);
    if (base != 0) {
        reg_write8(c, AH, al / base);
        reg_write8(c, AL, al % base);
        cc_set(c, CC_LOGIC, 0, al % base, 0);
        SOFT_NEXT(c, i);
    }
    soft_raise(c, EXC_DE);
}
static void aad(SoftCpu *c, const SoftInsn *i)
{
    uint8_t al = (uint8_t)(reg_read8(c, AL) + reg_read8(c, AH) * (uint8_t)i->imm);

    reg_write16(c, AX, al);
    cc_set(c, CC_LOGIC, 0, al, 0);
    SOFT_NEXT(c, i);
}

bool exec_decode_bcd(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_AAA:
        out->fn = aaa;
        return true;
    case ZYDIS_MNEMONIC_AAS:
        out->fn = aas;
        return true;
    case ZYDIS_MNEMONIC_DAA:
        out->fn = daa;
        return true;
    case ZYDIS_MNEMONIC_DAS:
        out->fn = das;
        return true;
    case ZYDIS_MNEMONIC_AAM:
        out->imm = d->ops[0].imm.value.u;
        out->fn = aam;
        return true;
    case ZYDIS_MNEMONIC_AAD:
        out->imm = d->ops[0].imm.value.u;
        out->fn = aad;
        return true;
    default:
        return false;
    }
}
