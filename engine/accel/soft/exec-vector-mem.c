/*
 * Vector instructions that are not one access to one operand: masked moves and gathers, of which
 * elements that are masked out do not fault; non-temporal integer stores, prefetches, fences, cache
 * line control; EMMS, VZEROUPPER, VZEROALL. SDM volume 2.
 */
#include "engine/accel/soft/soft-vector.h"

/* How an element-wise instruction looks, in SoftInsn.imm. */
#define FORM_WIDE   1u /* elements of 8 bytes */
#define FORM_YMM    2u /* 32 bytes */
#define FORM_QWORDS 4u /* gathers: indices of 8 bytes */
#define FORM_STORE  8u

static uint8_t *vector_at(SoftCpu *c, unsigned n, unsigned byte)
{
    return byte < 16 ? c->fpu + FX_XMM + n * 16 + byte : c->fpu + FX_YMM_HIGH + n * 16 + byte - 16;
}

/* Linear address of an element at `delta` bytes from the operand's address. */
static uint64_t element_linear(SoftCpu *c, const SoftInsn *i, uint64_t delta, unsigned len,
                               bool is_write)
{
    SoftInsn at = *i;

    at.disp = (int64_t)((uint64_t)at.disp + delta);
    return soft_linear(c, &at, len, is_write);
}

/* ---- VMASKMOVPS/PD, VPMASKMOVD/Q: dst or source, vvvv the mask ---------------------------------
 */

static __attribute__((noinline)) void do_maskmov(SoftCpu *c, const SoftInsn *i)
{
    unsigned size = i->imm & FORM_WIDE ? 8 : 4, total = i->imm & FORM_YMM ? 32 : 16;
    unsigned n = i->dst, mask = i->src;
    bool store = i->imm & FORM_STORE;
    uint64_t linear[8];
    uint8_t out[32] = { 0 };

    SOFT_HERE(c, i);
    vec_check_avx(c);
    for (unsigned at = 0; at < total; at += size) {
        if (!(*vector_at(c, mask, at + size - 1) & 0x80)) {
            continue;
        }
        linear[at / size] = element_linear(c, i, at, size, store);
        if (store) {
            soft_probe_write(c, linear[at / size], size);
        } else {
            soft_load_bytes(c, linear[at / size], out + at, size);
        }
    }
    if (store) {
        for (unsigned at = 0; at < total; at += size) {
            if (*vector_at(c, mask, at + size - 1) & 0x80) {
                soft_store_bytes(c, linear[at / size], vector_at(c, n, at), size);
            }
        }
    } else {
        memcpy(vector_at(c, n, 0), out, 16);
        memcpy(vector_at(c, n, 16), out + 16, 16);
    }
}
VEC_HANDLER(exec_maskmov, do_maskmov)

/* ---- MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: [DS:rDI] -----------------------------------------------
 */

static void maskmov_bytes(SoftCpu *c, const SoftInsn *i, const uint8_t *data, const uint8_t *mask,
                          unsigned total)
{
    uint64_t linear[16];

    for (unsigned at = 0; at < total; at++) {
        if (mask[at] & 0x80) {
            linear[at] = element_linear(c, i, at, 1, true);
            soft_probe_write(c, linear[at], 1);
        }
    }
    for (unsigned at = 0; at < total; at++) {
        if (mask[at] & 0x80) {
            soft_store(c, linear[at], data[at], 1);
        }
    }
}

static __attribute__((noinline)) void do_maskmovdqu(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    if (i->imm) {
        vec_check_avx(c);
    } else {
        vec_check_sse(c);
    }
    maskmov_bytes(c, i, vector_at(c, i->dst, 0), vector_at(c, i->src, 0), 16);
}
VEC_HANDLER(exec_maskmovdqu, do_maskmovdqu)

static __attribute__((noinline)) void do_maskmovq(SoftCpu *c, const SoftInsn *i)
{
    unsigned top;

    SOFT_HERE(c, i);
    vec_check_mmx(c);
    top = fx_get16(c, FX_FSW) >> FSW_TOP_SHIFT & 7;
    maskmov_bytes(c, i, c->fpu + FX_ST + ((i->dst - top) & 7) * 16,
                  c->fpu + FX_ST + ((i->src - top) & 7) * 16, 8);
    vec_enter_mmx(c);
}
VEC_HANDLER(exec_maskmovq, do_maskmovq)

/* ---- gathers: dst reg, mask vvvv, index in aux ------------------------------------------------
 */

static __attribute__((noinline)) void do_gather(SoftCpu *c, const SoftInsn *i)
{
    unsigned size = i->imm & FORM_WIDE ? 8 : 4, total = i->imm & FORM_YMM ? 32 : 16;
    unsigned index_size = i->imm & FORM_QWORDS ? 8 : 4, count;
    SoftInsn at = *i;

    SOFT_HERE(c, i);
    vec_check_avx(c);
    count = total / (size > index_size ? size : index_size);
    for (unsigned n = 0; n < count; n++) { /* every element of the mask becomes its sign */
        uint8_t *m = vector_at(c, i->src, n * size);

        memset(m, m[size - 1] & 0x80 ? 0xff : 0, size);
    }
    for (unsigned n = 0; n < count; n++) {
        uint8_t *m = vector_at(c, i->src, n * size);
        uint64_t index, value;

        if (!*m) {
            continue;
        }
        if (index_size == 8) {
            memcpy(&index, vector_at(c, i->aux, n * 8), 8);
        } else {
            int32_t narrow;

            memcpy(&narrow, vector_at(c, i->aux, n * 4), 4);
            index = (uint64_t)(int64_t)narrow;
        }
        at.disp = (int64_t)((uint64_t)i->disp + (index << i->scale));
        value = soft_load(c, soft_linear(c, &at, size, false), size);
        /* Elements already gathered stay so when a later one faults. */
        memcpy(vector_at(c, i->dst, n * size), &value, size);
        memset(m, 0, size);
    }
    for (unsigned byte = count * size; byte < 32; byte++) {
        *vector_at(c, i->dst, byte) = 0;
    }
    memset(vector_at(c, i->src, 0), 0, 16);
    memset(vector_at(c, i->src, 16), 0, 16);
}
VEC_HANDLER(exec_gather, do_gather)

/* ---- no operands, or memory that is not data ------------------------------------------------ */

static void exec_nothing(SoftCpu *c, const SoftInsn *i)
{
    SOFT_NEXT(c, i);
}
static void exec_fence(SoftCpu *c, const SoftInsn *i)
{
    __sync_synchronize();
    SOFT_NEXT(c, i);
}
static void exec_flush(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_host(c, soft_linear(c, i, 1, false), 1, SOFT_READ); /* faults as a load does */
    SOFT_NEXT(c, i);
}
static void exec_movnti(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_store(c, soft_linear(c, i, (unsigned)i->imm, true), c->gpr[i->dst], (unsigned)i->imm);
    SOFT_NEXT(c, i);
}
static void exec_emms(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_mmx(c);
    vec_enter_mmx(c);
    c->fpu[FX_FTW] = 0;
    SOFT_NEXT(c, i);
}
static void exec_vzero(SoftCpu *c, const SoftInsn *i)
{
    unsigned bytes = c->mode.long_mode ? 256 : 128;

    SOFT_HERE(c, i);
    vec_check_avx(c);
    memset(c->fpu + FX_YMM_HIGH, 0, bytes);
    if (i->imm) {
        memset(c->fpu + FX_XMM, 0, bytes);
    }
    SOFT_NEXT(c, i);
}

/* ---- MXCSR ---------------------------------------------------------------------------------- */

static void exec_ldmxcsr(SoftCpu *c, const SoftInsn *i)
{
    uint32_t v;

    SOFT_HERE(c, i);
    if (i->imm) {
        vec_check_avx(c);
    } else {
        vec_check_sse(c);
    }
    v = (uint32_t)soft_load(c, soft_linear(c, i, 4, false), 4);
    if (v & ~soft_thunk_mxcsr_mask()) {
        soft_raise_error(c, EXC_GP, 0);
    }
    fx_set32(c, FX_MXCSR, v);
    SOFT_NEXT(c, i);
}
static void exec_stmxcsr(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    if (i->imm) {
        vec_check_avx(c);
    } else {
        vec_check_sse(c);
    }
    soft_store(c, soft_linear(c, i, 4, true), fx_get32(c, FX_MXCSR), 4);
    SOFT_NEXT(c, i);
}

/* ---- decoding ---------------------------------------------------------------------------- */

static uint8_t reg_number(const ZydisDecodedOperand *o)
{
    return (uint8_t)ZydisRegisterGetId(o->reg.value);
}

static bool decode_maskmov(SoftDecode *d, SoftInsn *out, bool wide)
{
    bool store = d->mem_op == 0;

    if (!d->has_mem || !(soft_thunk_host_features() & HOST_AVX)) {
        return false;
    }
    out->dst = reg_number(&d->ops[store ? 2 : 0]);
    out->src = reg_number(&d->ops[1]);
    out->imm = (wide ? FORM_WIDE : 0) | (d->insn->raw.vex.L ? FORM_YMM : 0) |
               (store ? FORM_STORE : 0);
    out->fn = exec_maskmov;
    return true;
}

static bool decode_gather(SoftDecode *d, SoftInsn *out, bool wide, bool qwords)
{
    const ZydisDecodedOperandMem *m = &d->ops[1].mem;
    uint8_t index;

    if (d->ops[1].type != ZYDIS_OPERAND_TYPE_MEMORY || !(soft_thunk_host_features() & HOST_AVX2)) {
        return false;
    }
    index = (uint8_t)ZydisRegisterGetId(m->index);
    out->dst = reg_number(&d->ops[0]);
    out->src = reg_number(&d->ops[2]);
    out->aux = index;
    if (out->dst == out->src || out->dst == index || out->src == index) {
        return false;
    }
    out->base = m->base == ZYDIS_REGISTER_NONE ? SOFT_GPR_NONE
                                               : (uint8_t)ZydisRegisterGetId(m->base);
    out->index = SOFT_GPR_NONE;
    out->scale = (uint8_t)__builtin_ctz(m->scale ? m->scale : 1);
    out->disp = m->disp.has_displacement ? m->disp.value : 0;
    out->imm = (wide ? FORM_WIDE : 0) | (qwords ? FORM_QWORDS : 0) |
               (d->insn->raw.vex.L ? FORM_YMM : 0);
    out->fn = exec_gather;
    return true;
}

/* The memory operand is rDI in DS or an override. */
static bool decode_maskmov_rdi(SoftDecode *d, SoftInsn *out, SoftExec fn, bool vex)
{
    if (vex && !(soft_thunk_host_features() & HOST_AVX)) {
        return false;
    }
    out->seg = X86_DS;
    for (unsigned n = 0; n < d->insn->operand_count; n++) {
        const ZydisDecodedOperand *o = &d->ops[n];

        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            out->seg = (uint8_t)(o->mem.segment - ZYDIS_REGISTER_ES);
        } else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
            out->dst = reg_number(o);
        } else if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
            out->src = reg_number(o);
        }
    }
    out->base = X86_RDI;
    out->index = SOFT_GPR_NONE;
    out->scale = 0;
    out->disp = 0;
    out->imm = vex;
    out->fn = fn;
    return true;
}

bool vec_decode_memory(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
        out->fn = exec_nothing;
        return true;
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
        out->fn = exec_fence;
        return true;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB:
        out->fn = exec_flush;
        return d->has_mem;
    case ZYDIS_MNEMONIC_MOVNTI:
        out->dst = reg_number(&d->ops[1]);
        out->imm = d->ops[0].size / 8;
        out->fn = exec_movnti;
        return d->has_mem && (out->imm == 4 || out->imm == 8);
    case ZYDIS_MNEMONIC_EMMS:
        out->fn = exec_emms;
        return true;
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER:
        out->imm = d->insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL;
        out->fn = exec_vzero;
        return soft_thunk_host_features() & HOST_AVX;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        out->imm = d->insn->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
        out->fn = exec_ldmxcsr;
        return d->has_mem;
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
        out->imm = d->insn->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR;
        out->fn = exec_stmxcsr;
        return d->has_mem;
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
        return decode_maskmov(d, out, false);
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return decode_maskmov(d, out, true);
    case ZYDIS_MNEMONIC_MASKMOVQ:
        return decode_maskmov_rdi(d, out, exec_maskmovq, false);
    case ZYDIS_MNEMONIC_MASKMOVDQU:
        return decode_maskmov_rdi(d, out, exec_maskmovdqu, false);
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return decode_maskmov_rdi(d, out, exec_maskmovdqu, true);
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VGATHERDPS:
        return decode_gather(d, out, false, false);
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VGATHERDPD:
        return decode_gather(d, out, true, false);
    case ZYDIS_MNEMONIC_VPGATHERQD:
    case ZYDIS_MNEMONIC_VGATHERQPS:
        return decode_gather(d, out, false, true);
    case ZYDIS_MNEMONIC_VPGATHERQQ:
    case ZYDIS_MNEMONIC_VGATHERQPD:
        return decode_gather(d, out, true, true);
    default:
        return false;
    }
}
