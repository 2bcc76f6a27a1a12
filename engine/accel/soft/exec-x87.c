/*
 * x87: arithmetic by thunks that carry the whole state to the host's FPU and back; control, status
 * and environment here. SDM volume 1 chapter 8, volume 2.
 *
 * FIP, FDP and FOP are kept as guest values after every non-control instruction; FCS and FDS read
 * as 0, as CPUs do that report them deprecated (CPUID.7.0:EBX[13]).
 */
#include "engine/accel/soft/soft-vector.h"

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

void x87_update_summary(SoftCpu *c)
{
    uint16_t fsw = fx_get16(c, FX_FSW) & (uint16_t) ~(FSW_ES | FSW_B);

    fx_set16(c, FX_FSW, x87_pending(c) ? fsw | FSW_ES | FSW_B : fsw);
}

void x87_turn(SoftCpu *c, unsigned top)
{
    unsigned by = top - (fx_get16(c, FX_FSW) >> FSW_TOP_SHIFT);
    uint8_t st[128];

    if (by & 7) {
        memcpy(st, c->fpu + FX_ST, sizeof(st));
        for (unsigned n = 0; n < 8; n++) {
            memcpy(c->fpu + FX_ST + n * 16, st + ((n + by) & 7) * 16, 16);
        }
    }
}

void x87_init(SoftCpu *c)
{
    x87_turn(c, 0);
    fx_set16(c, FX_FCW, 0x37f);
    fx_set16(c, FX_FSW, 0);
    c->fpu[FX_FTW] = 0;
    fx_set16(c, FX_FOP, 0);
    fx_set64(c, FX_FIP, 0);
    fx_set64(c, FX_FDP, 0);
}

/* ---- arithmetic -------------------------------------------------------------------------- */

/* In SoftInsn.aux with the 11 bits of the opcode. */
#define X87_CONTROL 0x8000u /* leaves the pointers alone */

typedef struct Held { /* what the host's CPU must not see or must not change */
    uint16_t fcw, fsw, fop;
    uint64_t fip, fdp;
    bool ignored; /* an exception that waits while CR0.NE is clear */
} Held;

static inline void hold(SoftCpu *c, Held *h)
{
    x87_check_pending(c);
    h->fop = fx_get16(c, FX_FOP);
    h->fip = fx_get64(c, FX_FIP);
    h->fdp = fx_get64(c, FX_FDP);
    h->ignored = VEC_UNLIKELY(x87_pending(c));
    if (VEC_UNLIKELY(h->ignored)) {
        h->fcw = fx_get16(c, FX_FCW);
        h->fsw = fx_get16(c, FX_FSW);
        fx_set16(c, FX_FCW, h->fcw | FPU_EXCEPTIONS);
        fx_set16(c, FX_FSW, h->fsw & (uint16_t) ~(FSW_ES | FSW_B));
    }
}

static inline void release(SoftCpu *c, const SoftInsn *i, const Held *h)
{
    if (i->aux & X87_CONTROL) {
        fx_set16(c, FX_FOP, h->fop);
        fx_set64(c, FX_FIP, h->fip);
    } else {
        fx_set16(c, FX_FOP, i->aux);
        fx_set64(c, FX_FIP, c->mode.long_mode ? soft_rip(c, i) : (uint32_t)soft_rip(c, i));
    }
    fx_set64(c, FX_FDP, h->fdp);
    if (VEC_UNLIKELY(h->ignored)) {
        fx_set16(c, FX_FCW, h->fcw);
        fx_set16(c, FX_FSW, fx_get16(c, FX_FSW) | (h->fsw & FPU_EXCEPTIONS));
        x87_update_summary(c);
    }
}

static void exec_reg(SoftCpu *c, const SoftInsn *i)
{
    const VecOp *op = (const VecOp *)(uintptr_t)i->imm;
    uint64_t flags;
    Held h;

    SOFT_HERE(c, i);
    vec_check_x87(c);
    hold(c, &h);
    if (op->spec.flags_in) {
        flags = (uint64_t)(soft_flags_arith(c) & FLAGS_ARITH) | 0x202;
        flags = op->fn(c->fpu, (void *)(uintptr_t)flags, NULL, NULL, NULL, NULL);
        if (op->spec.flags_out) {
            c->cc_op = CC_FLAGS;
            c->cc_dst = flags & FLAGS_ARITH;
        }
    } else {
        op->fn(c->fpu, NULL, NULL, NULL, NULL, NULL);
    }
    release(c, i, &h);
    SOFT_NEXT(c, i);
}

static uint64_t operand_offset(const SoftCpu *c, const SoftInsn *i, uint64_t linear)
{
    if (c->mode.long_mode) {
        return i->seg >= X86_FS ? linear - c->seg[i->seg].base : linear;
    }
    return (uint32_t)(linear - c->seg[i->seg].base);
}

/* The operand crosses a page or is not plain RAM. */
static __attribute__((noinline)) void run_staged(SoftCpu *c, const VecOp *op, uint64_t linear,
                                                 Held *h)
{
    uint8_t stage[16] = { 0 };

    if (!op->mem_write) {
        soft_load_bytes(c, linear, stage, op->mem_len);
        hold(c, h);
        op->fn(c->fpu, stage, NULL, NULL, NULL, NULL);
        return;
    }
    soft_probe_write(c, linear, op->mem_len);
    hold(c, h);
    op->fn(c->fpu, stage, NULL, NULL, NULL, NULL);
    /* An exception other than an inexact result leaves memory as it was. */
    if (!(fx_get16(c, FX_FSW) & ~fx_get16(c, FX_FCW) & 0x1f)) {
        soft_store_bytes(c, linear, stage, op->mem_len);
    }
}

static __attribute__((noinline)) void do_mem(SoftCpu *c, const SoftInsn *i)
{
    const VecOp *op = (const VecOp *)(uintptr_t)i->imm;
    uint64_t linear;
    void *mem;
    Held h;

    SOFT_HERE(c, i);
    vec_check_x87(c);
    x87_check_pending(c);
    linear = soft_linear(c, i, op->mem_len, op->mem_write);
    mem = soft_host(c, linear, op->mem_len, op->mem_write ? SOFT_WRITE : SOFT_READ);
    if (VEC_LIKELY(mem)) {
        hold(c, &h);
        op->fn(c->fpu, mem, NULL, NULL, NULL, NULL);
    } else {
        run_staged(c, op, linear, &h);
    }
    h.fdp = operand_offset(c, i, linear);
    release(c, i, &h);
}
VEC_HANDLER(exec_mem, do_mem)

/* ---- control and status ------------------------------------------------------------------ */

static void exec_fwait(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    if ((c->cr0 & (VEC_CR0_MP | VEC_CR0_TS)) == (VEC_CR0_MP | VEC_CR0_TS)) {
        soft_raise(c, EXC_NM);
    }
    x87_check_pending(c);
    SOFT_NEXT(c, i);
}
static void exec_fninit(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_x87(c);
    x87_init(c);
    SOFT_NEXT(c, i);
}
static void exec_fnclex(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_x87(c);
    fx_set16(c, FX_FSW, fx_get16(c, FX_FSW) & 0x7f00);
    SOFT_NEXT(c, i);
}
static void exec_fldcw(SoftCpu *c, const SoftInsn *i)
{
    uint16_t v;

    SOFT_HERE(c, i);
    vec_check_x87(c);
    x87_check_pending(c);
    v = (uint16_t)soft_load(c, soft_linear(c, i, 2, false), 2);
    fx_set16(c, FX_FCW, (v & 0x1f3f) | 0x40);
    x87_update_summary(c);
    SOFT_NEXT(c, i);
}
static void exec_fnstcw(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_x87(c);
    soft_store(c, soft_linear(c, i, 2, true), fx_get16(c, FX_FCW), 2);
    SOFT_NEXT(c, i);
}
static void exec_fnstsw(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_x87(c);
    soft_store(c, soft_linear(c, i, 2, true), fx_get16(c, FX_FSW), 2);
    SOFT_NEXT(c, i);
}
static void exec_fnstsw_ax(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_x87(c);
    c->gpr[X86_RAX] = (c->gpr[X86_RAX] & ~UINT64_C(0xffff)) | fx_get16(c, FX_FSW);
    SOFT_NEXT(c, i);
}
static void exec_nop(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_x87(c);
    SOFT_NEXT(c, i);
}

/* ---- environment ------------------------------------------------------------------------- */

/* The full tag word from the abridged one and the registers' contents. */
static uint16_t full_tags(const SoftCpu *c)
{
    unsigned top = fx_get16(c, FX_FSW) >> FSW_TOP_SHIFT & 7, tags = 0;

    for (unsigned r = 0; r < 8; r++) {
        const uint8_t *st = c->fpu + FX_ST + ((r - top) & 7) * 16;
        unsigned exponent, tag;
        uint64_t mantissa;

        memcpy(&mantissa, st, 8);
        exponent = (st[8] | st[9] << 8) & 0x7fffu;
        if (!(c->fpu[FX_FTW] >> r & 1)) {
            tag = TAG_EMPTY;
        } else if (exponent == 0 && mantissa == 0) {
            tag = TAG_ZERO;
        } else if (exponent == 0 || exponent == 0x7fff || !(mantissa >> 63)) {
            tag = TAG_SPECIAL;
        } else {
            tag = TAG_VALID;
        }
        tags |= tag << r * 2;
    }
    return (uint16_t)tags;
}

static bool is_real_format(const SoftCpu *c)
{
    return !(c->cr0 & VEC_CR0_PE) || (c->flags & FLAG_VM);
}

/* 14 or 28 bytes by operand size; real-address and protected format. */
static unsigned store_environment(const SoftCpu *c, unsigned op_size, uint8_t out[28])
{
    uint32_t fip = fx_get32(c, FX_FIP), fdp = fx_get32(c, FX_FDP);
    uint16_t fop = fx_get16(c, FX_FOP) & 0x7ff;

    if (op_size == 1) {
        uint16_t w[7] = { fx_get16(c, FX_FCW), fx_get16(c, FX_FSW), full_tags(c) };

        w[3] = (uint16_t)fip;
        w[5] = (uint16_t)fdp;
        if (is_real_format(c)) {
            w[4] = (uint16_t)((fip >> 16 & 15) << 12 | fop);
            w[6] = (uint16_t)((fdp >> 16 & 15) << 12);
        }
        memcpy(out, w, sizeof(w));
        return 14;
    }
    uint32_t l[7] = { 0xffff0000 | fx_get16(c, FX_FCW), 0xffff0000 | fx_get16(c, FX_FSW),
                      0xffff0000 | full_tags(c) };

    if (is_real_format(c)) {
        l[3] = 0xffff0000 | (fip & 0xffff);
        l[4] = (fip >> 16) << 12 | fop;
        l[5] = 0xffff0000 | (fdp & 0xffff);
        l[6] = (fdp >> 16) << 12;
    } else {
        l[3] = fip;
        l[4] = (uint32_t)fop << 16;
        l[5] = fdp;
        l[6] = 0xffff0000;
    }
    memcpy(out, l, sizeof(l));
    return 28;
}

/* Registers keep their physical places. */
static void load_environment(SoftCpu *c, unsigned op_size, const uint8_t *in)
{
    uint32_t l[7];
    uint64_t fip, fdp;
    uint16_t fop = 0;
    unsigned abridged = 0;

    if (op_size == 1) {
        uint16_t w[7];

        memcpy(w, in, sizeof(w));
        for (unsigned n = 0; n < 7; n++) {
            l[n] = w[n];
        }
        fip = l[3];
        fdp = l[5];
        if (is_real_format(c)) {
            fip |= (l[4] >> 12 & 15) << 16;
            fdp |= (l[6] >> 12 & 15) << 16;
            fop = l[4] & 0x7ff;
        }
    } else {
        memcpy(l, in, sizeof(l));
        if (is_real_format(c)) {
            fip = (l[3] & 0xffff) | (uint64_t)(l[4] >> 12 & 0xffff) << 16;
            fdp = (l[5] & 0xffff) | (uint64_t)(l[6] >> 12 & 0xffff) << 16;
            fop = l[4] & 0x7ff;
        } else {
            fip = l[3];
            fop = l[4] >> 16 & 0x7ff;
            fdp = l[5];
        }
    }
    for (unsigned r = 0; r < 8; r++) {
        abridged |= (l[2] >> r * 2 & 3) != TAG_EMPTY ? 1u << r : 0;
    }
    fx_set16(c, FX_FCW, (l[0] & 0x1f3f) | 0x40);
    x87_turn(c, l[1] >> FSW_TOP_SHIFT & 7);
    fx_set16(c, FX_FSW, (uint16_t)l[1]);
    c->fpu[FX_FTW] = (uint8_t)abridged;
    fx_set16(c, FX_FOP, fop);
    fx_set64(c, FX_FIP, fip);
    fx_set64(c, FX_FDP, fdp);
    x87_update_summary(c);
}

static __attribute__((noinline)) void do_fnstenv(SoftCpu *c, const SoftInsn *i)
{
    unsigned len = i->op_size == 1 ? 14 : 28;
    uint8_t env[28];

    SOFT_HERE(c, i);
    vec_check_x87(c);
    store_environment(c, i->op_size, env);
    soft_store_bytes(c, soft_linear(c, i, len, true), env, len);
    fx_set16(c, FX_FCW, fx_get16(c, FX_FCW) | FPU_EXCEPTIONS);
    x87_update_summary(c);
}
VEC_HANDLER(exec_fnstenv, do_fnstenv)
static __attribute__((noinline)) void do_fldenv(SoftCpu *c, const SoftInsn *i)
{
    unsigned len = i->op_size == 1 ? 14 : 28;
    uint8_t env[28];

    SOFT_HERE(c, i);
    vec_check_x87(c);
    x87_check_pending(c);
    soft_load_bytes(c, soft_linear(c, i, len, false), env, len);
    load_environment(c, i->op_size, env);
}
VEC_HANDLER(exec_fldenv, do_fldenv)
static __attribute__((noinline)) void do_fnsave(SoftCpu *c, const SoftInsn *i)
{
    unsigned len = i->op_size == 1 ? 14 : 28;
    uint8_t image[28 + 80];

    SOFT_HERE(c, i);
    vec_check_x87(c);
    store_environment(c, i->op_size, image);
    for (unsigned n = 0; n < 8; n++) {
        memcpy(image + len + n * 10, c->fpu + FX_ST + n * 16, 10);
    }
    soft_store_bytes(c, soft_linear(c, i, len + 80, true), image, len + 80);
    x87_init(c);
}
VEC_HANDLER(exec_fnsave, do_fnsave)
static __attribute__((noinline)) void do_frstor(SoftCpu *c, const SoftInsn *i)
{
    unsigned len = i->op_size == 1 ? 14 : 28;
    uint8_t image[28 + 80];

    SOFT_HERE(c, i);
    vec_check_x87(c);
    x87_check_pending(c);
    soft_load_bytes(c, soft_linear(c, i, len + 80, false), image, len + 80);
    load_environment(c, i->op_size, image);
    for (unsigned n = 0; n < 8; n++) {
        memcpy(c->fpu + FX_ST + n * 16, image + len + n * 10, 10);
    }
}
VEC_HANDLER(exec_frstor, do_frstor)

/* ---- decoding ---------------------------------------------------------------------------- */

/* 14- or 28-byte environment: an operand-size prefix, else the code's default; 64-bit code has the
 * 28-byte one. */
static uint8_t environment_size(const SoftDecode *d)
{
    return d->insn->operand_width == 16 ? 1 : 2;
}

static bool decode_control(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_FWAIT:
        out->fn = exec_fwait;
        return true;
    case ZYDIS_MNEMONIC_FNINIT:
        out->fn = exec_fninit;
        return true;
    case ZYDIS_MNEMONIC_FNCLEX:
        out->fn = exec_fnclex;
        return true;
    case ZYDIS_MNEMONIC_FLDCW:
        out->fn = exec_fldcw;
        return d->has_mem;
    case ZYDIS_MNEMONIC_FNSTCW:
        out->fn = exec_fnstcw;
        return d->has_mem;
    case ZYDIS_MNEMONIC_FNSTSW:
        out->fn = d->has_mem ? exec_fnstsw : exec_fnstsw_ax;
        return true;
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        out->fn = exec_nop;
        return true;
    case ZYDIS_MNEMONIC_FNSTENV:
        out->fn = exec_fnstenv;
        break;
    case ZYDIS_MNEMONIC_FLDENV:
        out->fn = exec_fldenv;
        break;
    case ZYDIS_MNEMONIC_FNSAVE:
        out->fn = exec_fnsave;
        break;
    case ZYDIS_MNEMONIC_FRSTOR:
        out->fn = exec_frstor;
        break;
    default:
        return false;
    }
    out->op_size = environment_size(d);
    return d->has_mem;
}

bool vec_decode_x87(SoftDecode *d, SoftInsn *out)
{
    const ZydisDecodedInstruction *insn = d->insn;
    uint8_t modrm;
    const VecOp *found;
    VecOp op;

    if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT ||
        insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
        ((insn->opcode & 0xf8) != 0xd8 && insn->opcode != 0x9b)) {
        return false;
    }
    if (decode_control(d, out)) {
        return true;
    }
    if (insn->opcode == 0x9b) {
        return false;
    }
    memset(&op, 0, sizeof(op)); /* padding too: the spec is compared as bytes */
    op.spec.x87 = true;
    modrm = (uint8_t)(insn->raw.modrm.mod << 6 | insn->raw.modrm.reg << 3 | insn->raw.modrm.rm);
    op.spec.code[0] = insn->opcode;
    op.spec.code[1] = insn->raw.modrm.mod == 3 ? modrm : (uint8_t)(insn->raw.modrm.reg << 3 | 6);
    op.spec.len = 2;
    if (insn->raw.modrm.mod != 3) {
        const ZydisDecodedOperand *o = &d->ops[d->mem_op];

        if (!d->has_mem || o->size == 0 || o->size > 80) {
            return false;
        }
        op.mem_len = (uint8_t)(o->size / 8);
        op.mem_write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FCOMI:
    case ZYDIS_MNEMONIC_FCOMIP:
    case ZYDIS_MNEMONIC_FUCOMI:
    case ZYDIS_MNEMONIC_FUCOMIP:
        op.spec.flags_out = true;
        op.spec.flags_in = true; /* an unmasked exception leaves them */
        break;
    case ZYDIS_MNEMONIC_FCMOVB:
    case ZYDIS_MNEMONIC_FCMOVBE:
    case ZYDIS_MNEMONIC_FCMOVE:
    case ZYDIS_MNEMONIC_FCMOVNB:
    case ZYDIS_MNEMONIC_FCMOVNBE:
    case ZYDIS_MNEMONIC_FCMOVNE:
    case ZYDIS_MNEMONIC_FCMOVNU:
    case ZYDIS_MNEMONIC_FCMOVU:
        op.spec.flags_in = true;
        break;
    default:
        break;
    }
    found = soft_thunk_get(&op);
    if (!found) {
        return false;
    }
    out->imm = (uintptr_t)found;
    out->aux = (uint16_t)((insn->opcode & 7) << 8 | modrm);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FNOP:
    case ZYDIS_MNEMONIC_FINCSTP:
    case ZYDIS_MNEMONIC_FDECSTP:
    case ZYDIS_MNEMONIC_FFREE:
    case ZYDIS_MNEMONIC_FFREEP:
        out->aux |= X87_CONTROL;
        break;
    default:
        break;
    }
    out->fn = op.mem_len ? exec_mem : exec_reg;
    return true;
}
