/*
 * Moves: MOV, MOVZX, MOVSX, MOVSXD, MOVNTI, MOVBE, LEA, CMOVcc, SETcc, XLAT, the sign extensions of
 * the accumulator, and what moves flags (LAHF, SAHF, CLC, STC, CMC, CLD, STD); no-operations.
 *
 * MOV to and from segment, control and debug registers is in the system group.
 */
#include "engine/accel/soft/exec.h"

/* ---- MOV --------------------------------------------------------------------------------- */

#define MOVES(N, S)                                        \
    static void mov##N##_rr(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        reg_write##N(c, i->dst, reg_read##N(c, i->src));   \
        SOFT_NEXT(c, i);                                   \
    }                                                      \
    static void mov##N##_ri(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        reg_write##N(c, i->dst, (uint##N##_t)i->imm);      \
        SOFT_NEXT(c, i);                                   \
    }                                                      \
    static void mov##N##_rm(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        reg_write##N(c, i->dst, LOAD_OPERAND(c, i, N));    \
        SOFT_NEXT(c, i);                                   \
    }                                                      \
    static void mov##N##_mr(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        STORE_OPERAND(c, i, N, reg_read##N(c, i->src));    \
        SOFT_NEXT(c, i);                                   \
    }                                                      \
    static void mov##N##_mi(SoftCpu *c, const SoftInsn *i) \
    {                                                      \
        STORE_OPERAND(c, i, N, (uint##N##_t)i->imm);       \
        SOFT_NEXT(c, i);                                   \
    }
FOR_SIZES(MOVES)

#define ROW(NAME, FORM)                                                   \
    {                                                                     \
        NAME##8_##FORM, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
static const HandlerSet mov_set = { { ROW(mov, rr), ROW(mov, ri), ROW(mov, rm), ROW(mov, mr),
                                      ROW(mov, mi) } };

/* ---- widening moves ---------------------------------------------------------------------- */

#define WIDEN(NAME, FROM, TO, TYPE)                                              \
    static void NAME##FROM##_##TO##_rr(SoftCpu *c, const SoftInsn *i)            \
    {                                                                            \
        reg_write##TO(c, i->dst, (uint##TO##_t)(TYPE)reg_read##FROM(c, i->src)); \
        SOFT_NEXT(c, i);                                                         \
    }                                                                            \
    static void NAME##FROM##_##TO##_rm(SoftCpu *c, const SoftInsn *i)            \
    {                                                                            \
        reg_write##TO(c, i->dst, (uint##TO##_t)(TYPE)LOAD_OPERAND(c, i, FROM));  \
        SOFT_NEXT(c, i);                                                         \
    }
#define WIDENS(TO, S)              \
    WIDEN(movzx, 8, TO, uint8_t)   \
    WIDEN(movzx, 16, TO, uint16_t) \
    WIDEN(movsx, 8, TO, int8_t)    \
    WIDEN(movsx, 16, TO, int16_t)  \
    WIDEN(movsx, 32, TO, int32_t)
FOR_WIDE_SIZES(WIDENS)
/* [sign][from][register, memory][to] */
#define WIDEN_TO(NAME, FORM)                                       \
    {                                                              \
        NULL, NAME##_16_##FORM, NAME##_32_##FORM, NAME##_64_##FORM \
    }
static const SoftExec widen_set[2][3][2][4] = {
    { { WIDEN_TO(movzx8, rr), WIDEN_TO(movzx8, rm) },
      { WIDEN_TO(movzx16, rr), WIDEN_TO(movzx16, rm) } },
    { { WIDEN_TO(movsx8, rr), WIDEN_TO(movsx8, rm) },
      { WIDEN_TO(movsx16, rr), WIDEN_TO(movsx16, rm) },
      { WIDEN_TO(movsx32, rr), WIDEN_TO(movsx32, rm) } },
};

static bool decode_widen(const SoftDecode *d, SoftInsn *out, bool sign)
{
    bool mem = d->ops[1].type == ZYDIS_OPERAND_TYPE_MEMORY;
    unsigned from = exec_size(d->ops[1].size);

    out->op_size = (uint8_t)exec_size(d->ops[0].size);
    out->dst = exec_reg(d->ops[0].reg.value);
    if (!mem) {
        out->src = exec_reg(d->ops[1].reg.value);
    }
    if (from == 3 || (from == 2 && !sign)) {
        return false;
    }
    out->fn = widen_set[sign][from][mem][out->op_size];
    return out->fn;
}

/* ---- MOVBE ------------------------------------------------------------------------------- */

#define MOVBES(N, S)                                                        \
    static void movbe##N##_rm(SoftCpu *c, const SoftInsn *i)                \
    {                                                                       \
        reg_write##N(c, i->dst, __builtin_bswap##N(LOAD_OPERAND(c, i, N))); \
        SOFT_NEXT(c, i);                                                    \
    }                                                                       \
    static void movbe##N##_mr(SoftCpu *c, const SoftInsn *i)                \
    {                                                                       \
        STORE_OPERAND(c, i, N, __builtin_bswap##N(reg_read##N(c, i->src))); \
        SOFT_NEXT(c, i);                                                    \
    }
FOR_WIDE_SIZES(MOVBES)
static const HandlerSet movbe_set = {
    .fn = { [FORM_RM] = { NULL, movbe16_rm, movbe32_rm, movbe64_rm },
            [FORM_MR] = { NULL, movbe16_mr, movbe32_mr, movbe64_mr } }
};

/* ---- LEA --------------------------------------------------------------------------------- */

#define LEAS(N, S)                                               \
    static void lea##N(SoftCpu *c, const SoftInsn *i)            \
    {                                                            \
        reg_write##N(c, i->dst, (uint##N##_t)soft_offset(c, i)); \
        SOFT_NEXT(c, i);                                         \
    }
FOR_WIDE_SIZES(LEAS)
static void lea_plain(SoftCpu *c, const SoftInsn *i)
{
    c->gpr[i->dst / 8] = c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (uint64_t)i->disp;
    SOFT_NEXT(c, i);
}

static bool decode_lea(const SoftDecode *d, SoftInsn *out)
{
    static const SoftExec fn[4] = { NULL, lea16, lea32, lea64 };

    out->op_size = (uint8_t)exec_size(d->ops[0].size);
    out->dst = exec_reg(d->ops[0].reg.value);
    out->fn = fn[out->op_size];
    if (out->op_size == 3 && out->addr_size == 3 && !(out->flags & SOFT_I_RIP_RELATIVE)) {
        out->fn = lea_plain;
    }
    return true;
}

/* ---- CMOVcc, SETcc ----------------------------------------------------------------------- */

/* CMOVcc reads its source whatever the condition says, and clears the upper half of a 32-bit
 * destination even when it does not move. */
#define CMOVS(N, S)                                                                    \
    static void cmov##N##_rr(SoftCpu *c, const SoftInsn *i)                            \
    {                                                                                  \
        bool yes = cc_condition(c, i->aux);                                            \
        reg_write##N(c, i->dst, reg_read##N(c, yes ? i->src : i->dst));                \
        SOFT_NEXT(c, i);                                                               \
    }                                                                                  \
    static void cmov##N##_rm(SoftCpu *c, const SoftInsn *i)                            \
    {                                                                                  \
        uint##N##_t v = LOAD_OPERAND(c, i, N);                                         \
        reg_write##N(c, i->dst, cc_condition(c, i->aux) ? v : reg_read##N(c, i->dst)); \
        SOFT_NEXT(c, i);                                                               \
    }
FOR_WIDE_SIZES(CMOVS)
static const HandlerSet cmov_set = { .fn = {
                                         [FORM_RR] = { NULL, cmov16_rr, cmov32_rr, cmov64_rr },
                                         [FORM_RM] = { NULL, cmov16_rm, cmov32_rm, cmov64_rm } } };

static void setcc_r(SoftCpu *c, const SoftInsn *i)
{
    reg_write8(c, i->dst, cc_condition(c, i->aux));
    SOFT_NEXT(c, i);
}
static void setcc_m(SoftCpu *c, const SoftInsn *i)
{
    STORE_OPERAND(c, i, 8, cc_condition(c, i->aux));
    SOFT_NEXT(c, i);
}
static const HandlerSet setcc_set = { .fn = { [FORM_RR] = { setcc_r }, [FORM_MR] = { setcc_m } } };

/* ---- the accumulator --------------------------------------------------------------------- */

static void xlat(SoftCpu *c, const SoftInsn *i)
{
    uint64_t a = c->gpr[X86_RBX] + (uint8_t)c->gpr[X86_RAX];
    SOFT_HERE(c, i);
    a &= SIZE_MASK(i->addr_size);
    reg_write8(c, SOFT_REG(X86_RAX), LOAD(c, 8, soft_segment_linear(c, i->seg, a, 1, false)));
    SOFT_NEXT(c, i);
}

static void cbw(SoftCpu *c, const SoftInsn *i)
{
    reg_write16(c, SOFT_REG(X86_RAX), (uint16_t)(int8_t)c->gpr[X86_RAX]);
    SOFT_NEXT(c, i);
}
static void cwde(SoftCpu *c, const SoftInsn *i)
{
    c->gpr[X86_RAX] = (uint32_t)(int16_t)c->gpr[X86_RAX];
    SOFT_NEXT(c, i);
}
static void cdqe(SoftCpu *c, const SoftInsn *i)
{
    c->gpr[X86_RAX] = (uint64_t)(int32_t)c->gpr[X86_RAX];
    SOFT_NEXT(c, i);
}
static void cwd(SoftCpu *c, const SoftInsn *i)
{
    reg_write16(c, SOFT_REG(X86_RDX), (c->gpr[X86_RAX] & 0x8000) ? 0xffff : 0);
    SOFT_NEXT(c, i);
}
static void cdq(SoftCpu *c, const SoftInsn *i)
{
    c->gpr[X86_RDX] = (c->gpr[X86_RAX] & 0x80000000u) ? UINT32_MAX : 0;
    SOFT_NEXT(c, i);
}
static void cqo(SoftCpu *c, const SoftInsn *i)
{
    c->gpr[X86_RDX] = (int64_t)c->gpr[X86_RAX] < 0 ? UINT64_MAX : 0;
    SOFT_NEXT(c, i);
}

/* ---- flags ------------------------------------------------------------------------------- */

static void lahf(SoftCpu *c, const SoftInsn *i)
{
    uint32_t f = soft_flags_arith(c);
    reg_write8(c, SOFT_REG_HIGH(X86_RAX),
               (uint8_t)((f & (FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF)) | 2));
    SOFT_NEXT(c, i);
}
static void sahf(SoftCpu *c, const SoftInsn *i)
{
    uint32_t kept = cc_overflow(c) ? FLAG_OF : 0;
    cc_set_flags(c, kept | (reg_read8(c, SOFT_REG_HIGH(X86_RAX)) &
                            (FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF)));
    SOFT_NEXT(c, i);
}
static void clc(SoftCpu *c, const SoftInsn *i)
{
    cc_set_flags(c, soft_flags_arith(c) & ~(uint32_t)FLAG_CF);
    SOFT_NEXT(c, i);
}
static void stc(SoftCpu *c, const SoftInsn *i)
{
    cc_set_flags(c, soft_flags_arith(c) | FLAG_CF);
    SOFT_NEXT(c, i);
}
static void cmc(SoftCpu *c, const SoftInsn *i)
{
    cc_set_flags(c, soft_flags_arith(c) ^ FLAG_CF);
    SOFT_NEXT(c, i);
}
static void cld(SoftCpu *c, const SoftInsn *i)
{
    c->flags &= ~(uint32_t)FLAG_DF;
    SOFT_NEXT(c, i);
}
static void std(SoftCpu *c, const SoftInsn *i)
{
    c->flags |= FLAG_DF;
    SOFT_NEXT(c, i);
}
static void salc(SoftCpu *c, const SoftInsn *i)
{
    reg_write8(c, SOFT_REG(X86_RAX), cc_carry(c) ? 0xff : 0);
    SOFT_NEXT(c, i);
}

/* NOP in all its lengths, hints, and prefetches: those never fault. */
static void nop(SoftCpu *c, const SoftInsn *i)
{
    SOFT_NEXT(c, i);
}

static void pause_loop(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_spin_wait(c);
    soft_end_at_next(c, i);
}

/* ---- decoding ---------------------------------------------------------------------------- */

static bool decode_xlat(const SoftDecode *d, SoftInsn *out)
{
    /* Its operand is implied: only the segment may be overridden. */
    for (unsigned n = 0; n < d->insn->operand_count; n++) {
        if (d->ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            out->seg = (uint8_t)(d->ops[n].mem.segment - ZYDIS_REGISTER_ES);
            out->fn = xlat;
            return true;
        }
    }
    return false;
}

static bool decode_conditional(const SoftDecode *d, SoftInsn *out)
{
    static const struct {
        ZydisMnemonic cmov, set;
    } names[16] = {
        { ZYDIS_MNEMONIC_CMOVO, ZYDIS_MNEMONIC_SETO },
        { ZYDIS_MNEMONIC_CMOVNO, ZYDIS_MNEMONIC_SETNO },
        { ZYDIS_MNEMONIC_CMOVB, ZYDIS_MNEMONIC_SETB },
        { ZYDIS_MNEMONIC_CMOVNB, ZYDIS_MNEMONIC_SETNB },
        { ZYDIS_MNEMONIC_CMOVZ, ZYDIS_MNEMONIC_SETZ },
        { ZYDIS_MNEMONIC_CMOVNZ, ZYDIS_MNEMONIC_SETNZ },
        { ZYDIS_MNEMONIC_CMOVBE, ZYDIS_MNEMONIC_SETBE },
        { ZYDIS_MNEMONIC_CMOVNBE, ZYDIS_MNEMONIC_SETNBE },
        { ZYDIS_MNEMONIC_CMOVS, ZYDIS_MNEMONIC_SETS },
        { ZYDIS_MNEMONIC_CMOVNS, ZYDIS_MNEMONIC_SETNS },
        { ZYDIS_MNEMONIC_CMOVP, ZYDIS_MNEMONIC_SETP },
        { ZYDIS_MNEMONIC_CMOVNP, ZYDIS_MNEMONIC_SETNP },
        { ZYDIS_MNEMONIC_CMOVL, ZYDIS_MNEMONIC_SETL },
        { ZYDIS_MNEMONIC_CMOVNL, ZYDIS_MNEMONIC_SETNL },
        { ZYDIS_MNEMONIC_CMOVLE, ZYDIS_MNEMONIC_SETLE },
        { ZYDIS_MNEMONIC_CMOVNLE, ZYDIS_MNEMONIC_SETNLE },
    };
    for (unsigned cc = 0; cc < 16; cc++) {
        if (d->insn->mnemonic == names[cc].cmov) {
            out->aux = (uint16_t)cc;
            return exec_pick(d, out, &cmov_set);
        }
        if (d->insn->mnemonic == names[cc].set) {
            out->aux = (uint16_t)cc;
            return exec_pick_one(d, out, &setcc_set);
        }
    }
    return false;
}

static bool simple(SoftInsn *out, SoftExec fn)
{
    out->fn = fn;
    return true;
}

bool exec_decode_move(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVNTI:
        return exec_pick(d, out, &mov_set);
    case ZYDIS_MNEMONIC_MOVZX:
        return decode_widen(d, out, false);
    case ZYDIS_MNEMONIC_MOVSX:
        return decode_widen(d, out, true);
    case ZYDIS_MNEMONIC_MOVSXD:
        /* Without REX.W it is a plain move, of the low half when 16 bits are asked for. */
        if (d->ops[0].size == 64) {
            return decode_widen(d, out, true);
        }
        if (!exec_pick(d, out, &mov_set)) {
            return false;
        }
        return true;
    case ZYDIS_MNEMONIC_MOVBE:
        return exec_pick(d, out, &movbe_set);
    case ZYDIS_MNEMONIC_LEA:
        return decode_lea(d, out);
    case ZYDIS_MNEMONIC_XLAT:
        return decode_xlat(d, out);
    case ZYDIS_MNEMONIC_CBW:
        return simple(out, cbw);
    case ZYDIS_MNEMONIC_CWDE:
        return simple(out, cwde);
    case ZYDIS_MNEMONIC_CDQE:
        return simple(out, cdqe);
    case ZYDIS_MNEMONIC_CWD:
        return simple(out, cwd);
    case ZYDIS_MNEMONIC_CDQ:
        return simple(out, cdq);
    case ZYDIS_MNEMONIC_CQO:
        return simple(out, cqo);
    case ZYDIS_MNEMONIC_LAHF:
        return simple(out, lahf);
    case ZYDIS_MNEMONIC_SAHF:
        return simple(out, sahf);
    case ZYDIS_MNEMONIC_CLC:
        return simple(out, clc);
    case ZYDIS_MNEMONIC_STC:
        return simple(out, stc);
    case ZYDIS_MNEMONIC_CMC:
        return simple(out, cmc);
    case ZYDIS_MNEMONIC_CLD:
        return simple(out, cld);
    case ZYDIS_MNEMONIC_STD:
        return simple(out, std);
    case ZYDIS_MNEMONIC_SALC:
        return simple(out, salc);
    case ZYDIS_MNEMONIC_PAUSE:
        out->fn = pause_loop;
        d->ends = true;
        return true;
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
        return simple(out, nop);
    default:
        return decode_conditional(d, out);
    }
}
