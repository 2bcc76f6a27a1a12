/*
 * FXSAVE, FXRSTOR and the XSAVE family: SDM volume 1 chapters 10.5 and 13, volume 2. The components
 * are x87, SSE and AVX; XSAVES and XRSTORS are not offered.
 *
 * The area of SoftCpu holds all three whether they are in their initial state or not; which of them
 * are in use is found by looking.
 */
#include "engine/accel/soft/soft-vector.h"

enum { X87 = 1, SSE = 2, AVX = 4 };

static bool all_zero(const uint8_t *p, unsigned len)
{
    uint64_t any = 0;

    for (unsigned n = 0; n < len; n += 8) {
        uint64_t v;

        memcpy(&v, p + n, 8);
        any |= v;
    }
    return !any;
}

/* Outside of 64-bit code only half of the vector registers are reached. */
static unsigned vector_bytes(const SoftCpu *c)
{
    return c->mode.long_mode ? 256 : 128;
}

uint64_t soft_fpu_in_use(const SoftCpu *c)
{
    uint64_t in_use = 0;

    if (fx_get16(c, FX_FCW) != 0x37f || fx_get16(c, FX_FSW) || c->fpu[FX_FTW] ||
        fx_get16(c, FX_FOP) || fx_get64(c, FX_FIP) || fx_get64(c, FX_FDP) ||
        !all_zero(c->fpu + FX_ST, 128)) {
        in_use |= X87;
    }
    if (!all_zero(c->fpu + FX_XMM, 256)) {
        in_use |= SSE;
    }
    if (!all_zero(c->fpu + FX_YMM_HIGH, 256)) {
        in_use |= AVX;
    }
    return in_use;
}

void soft_fpu_normalise(SoftCpu *c)
{
    uint64_t in_use = fx_get64(c, FX_XSTATE_BV);

    if (!(in_use & X87)) {
        x87_init(c);
        memset(c->fpu + FX_ST, 0, 128);
    }
    if (!(in_use & SSE)) {
        memset(c->fpu + FX_XMM, 0, 256);
    }
    if (!(in_use & AVX)) {
        memset(c->fpu + FX_YMM_HIGH, 0, 256);
    }
    fx_set64(c, FX_XSTATE_BV, in_use | VEC_XCR0);
    fx_set16(c, FX_FCW, (fx_get16(c, FX_FCW) & 0x1f3f) | 0x40);
    c->fpu[FX_FTW + 1] = 0;
    for (unsigned n = 0; n < 8; n++) {
        memset(c->fpu + FX_ST + n * 16 + 10, 0, 6);
    }
    fx_set32(c, FX_MXCSR, fx_get32(c, FX_MXCSR) & soft_thunk_mxcsr_mask());
    fx_set32(c, FX_MXCSR_MASK, soft_thunk_mxcsr_mask());
    x87_update_summary(c);
}

void soft_fpu_describe(const SoftCpu *c, uint8_t *area)
{
    uint64_t bv = fx_get64(c, FX_XSTATE_BV);
    uint32_t mask = soft_thunk_mxcsr_mask(); /* x87 thunks leave the host's there */

    memcpy(area + FX_MXCSR_MASK, &mask, sizeof(mask));
    bv = (bv & ~(uint64_t)VEC_XCR0) | X87 | SSE | (soft_fpu_in_use(c) & AVX);
    memcpy(area + FX_XSTATE_BV, &bv, sizeof(bv));
}

/* ---- pieces of the image ------------------------------------------------------------------ */

/* Bytes 0..23: 64-bit pointers, or 32-bit ones with selectors (which read as 0). */
static void pointers_out(const SoftCpu *c, uint8_t *image, bool wide)
{
    memcpy(image, c->fpu, 24);
    image[FX_FTW + 1] = 0;
    if (!wide) {
        memset(image + FX_FIP + 4, 0, 4);
        memset(image + FX_FDP + 4, 0, 4);
    }
}

static void x87_in(SoftCpu *c, const uint8_t *image, bool wide)
{
    memcpy(c->fpu, image, 24);
    if (!wide) {
        memset(c->fpu + FX_FIP + 4, 0, 4);
        memset(c->fpu + FX_FDP + 4, 0, 4);
    }
    fx_set16(c, FX_FCW, (fx_get16(c, FX_FCW) & 0x1f3f) | 0x40);
    fx_set16(c, FX_FOP, fx_get16(c, FX_FOP) & 0x7ff);
    c->fpu[FX_FTW + 1] = 0;
    for (unsigned n = 0; n < 8; n++) {
        memcpy(c->fpu + FX_ST + n * 16, image + FX_ST + n * 16, 10);
    }
    x87_update_summary(c);
}

static void mxcsr_out(const SoftCpu *c, uint8_t *image)
{
    uint32_t mask = soft_thunk_mxcsr_mask();

    memcpy(image + FX_MXCSR, c->fpu + FX_MXCSR, 4);
    memcpy(image + FX_MXCSR_MASK, &mask, 4);
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint64_t aligned_operand(SoftCpu *c, const SoftInsn *i, unsigned len, unsigned align,
                                bool is_write)
{
    uint64_t linear = soft_linear(c, i, len, is_write);

    if (linear & (align - 1)) {
        soft_raise_error(c, EXC_GP, 0);
    }
    return linear;
}

/* ---- FXSAVE, FXRSTOR ----------------------------------------------------------------------- */

static __attribute__((noinline)) void do_fxsave(SoftCpu *c, const SoftInsn *i)
{
    unsigned end = FX_XMM + vector_bytes(c);
    uint8_t image[FX_XMM_END];
    uint64_t linear;

    SOFT_HERE(c, i);
    vec_check_x87(c);
    linear = aligned_operand(c, i, FX_LEGACY, 16, true);
    soft_probe_write(c, linear, FX_LEGACY);
    memcpy(image, c->fpu, sizeof(image));
    pointers_out(c, image, i->aux);
    mxcsr_out(c, image);
    soft_store_bytes(c, linear, image, end);
}
VEC_HANDLER(exec_fxsave, do_fxsave)

static __attribute__((noinline)) void do_fxrstor(SoftCpu *c, const SoftInsn *i)
{
    uint8_t image[FX_LEGACY];
    uint64_t linear;

    SOFT_HERE(c, i);
    vec_check_x87(c);
    linear = aligned_operand(c, i, FX_LEGACY, 16, false);
    soft_load_bytes(c, linear, image, FX_LEGACY);
    if (get32(image + FX_MXCSR) & ~soft_thunk_mxcsr_mask()) {
        soft_raise_error(c, EXC_GP, 0);
    }
    x87_in(c, image, i->aux);
    memcpy(c->fpu + FX_MXCSR, image + FX_MXCSR, 4);
    memcpy(c->fpu + FX_XMM, image + FX_XMM, vector_bytes(c));
}
VEC_HANDLER(exec_fxrstor, do_fxrstor)

/* ---- XSAVE family ------------------------------------------------------------------------- */

static void check_xsave(SoftCpu *c)
{
    if (!(c->cr4 & VEC_CR4_OSXSAVE)) {
        soft_raise(c, EXC_UD);
    }
    if (c->cr0 & VEC_CR0_TS) {
        soft_raise(c, EXC_NM);
    }
}

static uint64_t requested(const SoftCpu *c)
{
    return (uint32_t)c->gpr[X86_RAX] & c->xcr0 & VEC_XCR0;
}

/* Bytes that an access to components reaches: AVX is the last one and has the same place in both
 * formats. */
static unsigned image_len(uint64_t components)
{
    return components & AVX ? FX_END : FX_YMM_HIGH;
}

static void store_components(SoftCpu *c, uint64_t linear, uint64_t which, bool mxcsr, bool wide)
{
    uint8_t head[FX_ST];

    pointers_out(c, head, wide);
    mxcsr_out(c, head);
    if (which & X87) {
        soft_store_bytes(c, linear, head, FX_MXCSR);
        soft_store_bytes(c, linear + FX_ST, c->fpu + FX_ST, 128);
    }
    if (mxcsr) {
        soft_store_bytes(c, linear + FX_MXCSR, head + FX_MXCSR, 8);
    }
    if (which & SSE) {
        soft_store_bytes(c, linear + FX_XMM, c->fpu + FX_XMM, vector_bytes(c));
    }
    if (which & AVX) {
        soft_store_bytes(c, linear + FX_YMM_HIGH, c->fpu + FX_YMM_HIGH, vector_bytes(c));
    }
}

enum { FORM_64 = 1, FORM_OPT = 2 }; /* SoftInsn.aux */

static void exec_xsave(SoftCpu *c, const SoftInsn *i)
{
    uint64_t linear, rfbm, in_use, bv;
    unsigned len;

    SOFT_HERE(c, i);
    check_xsave(c);
    rfbm = requested(c);
    len = image_len(rfbm);
    linear = aligned_operand(c, i, len, 64, true);
    soft_probe_write(c, linear, len);
    bv = soft_load(c, linear + FX_XSTATE_BV, 8);
    in_use = soft_fpu_in_use(c);
    store_components(c, linear, i->aux & FORM_OPT ? rfbm & in_use : rfbm, rfbm & (SSE | AVX),
                     i->aux & FORM_64);
    soft_store(c, linear + FX_XSTATE_BV, (bv & ~rfbm) | (in_use & rfbm), 8);
    SOFT_NEXT(c, i);
}

static void exec_xsavec(SoftCpu *c, const SoftInsn *i)
{
    uint64_t linear, rfbm, in_use;
    unsigned len;

    SOFT_HERE(c, i);
    check_xsave(c);
    rfbm = requested(c);
    len = image_len(rfbm);
    linear = aligned_operand(c, i, len, 64, true);
    soft_probe_write(c, linear, len);
    in_use = soft_fpu_in_use(c);
    if (fx_get32(c, FX_MXCSR) != MXCSR_DEFAULT) {
        in_use |= SSE; /* the compacted format has MXCSR as part of it */
    }
    in_use &= rfbm;
    store_components(c, linear, in_use, in_use & SSE, i->aux & FORM_64);
    soft_store(c, linear + FX_XSTATE_BV, in_use, 8);
    soft_store(c, linear + FX_XCOMP_BV, rfbm | UINT64_C(1) << 63, 8);
    SOFT_NEXT(c, i);
}

static __attribute__((noinline)) void do_xrstor(SoftCpu *c, const SoftInsn *i)
{
    uint8_t image[FX_END] = { 0 };
    uint64_t linear, rfbm, bv, comp;
    bool compacted, mxcsr;

    SOFT_HERE(c, i);
    check_xsave(c);
    rfbm = requested(c);
    linear = aligned_operand(c, i, image_len(rfbm), 64, false);
    soft_load_bytes(c, linear, image, image_len(rfbm));
    bv = get64(image + FX_XSTATE_BV);
    comp = get64(image + FX_XCOMP_BV);
    compacted = comp >> 63;
    comp &= ~(UINT64_C(1) << 63);
    /* The whole header is checked: 48 reserved bytes when compacted, 16 with XCOMP_BV otherwise. */
    if ((bv & ~(c->xcr0 & VEC_XCR0)) ||
        (compacted ? (comp & ~(c->xcr0 & VEC_XCR0)) || (bv & ~comp) ||
                         !all_zero(image + FX_XSTATE_BV + 16, 48)
                   : comp || get64(image + FX_XSTATE_BV + 16))) {
        soft_raise_error(c, EXC_GP, 0);
    }
    mxcsr = compacted ? rfbm & bv & SSE : rfbm & (SSE | AVX);
    if (mxcsr && (get32(image + FX_MXCSR) & ~soft_thunk_mxcsr_mask())) {
        soft_raise_error(c, EXC_GP, 0);
    }
    if (mxcsr) {
        memcpy(c->fpu + FX_MXCSR, image + FX_MXCSR, 4);
    } else if (compacted && (rfbm & SSE)) {
        fx_set32(c, FX_MXCSR, MXCSR_DEFAULT);
    }
    if (rfbm & X87) {
        if (bv & X87) {
            x87_in(c, image, i->aux & FORM_64);
        } else {
            x87_init(c);
            memset(c->fpu + FX_ST, 0, 128);
        }
    }
    if (rfbm & SSE) {
        if (!(bv & SSE)) {
            memset(image + FX_XMM, 0, 256);
        }
        memcpy(c->fpu + FX_XMM, image + FX_XMM, vector_bytes(c));
    }
    if (rfbm & AVX) {
        if (!(bv & AVX)) {
            memset(image + FX_YMM_HIGH, 0, 256);
        }
        memcpy(c->fpu + FX_YMM_HIGH, image + FX_YMM_HIGH, vector_bytes(c));
    }
}
VEC_HANDLER(exec_xrstor, do_xrstor)

bool vec_decode_fxsave(SoftDecode *d, SoftInsn *out)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        out->fn = exec_fxsave;
        out->aux = d->insn->mnemonic == ZYDIS_MNEMONIC_FXSAVE64;
        break;
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        out->fn = exec_fxrstor;
        out->aux = d->insn->mnemonic == ZYDIS_MNEMONIC_FXRSTOR64;
        break;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
        out->fn = exec_xsave;
        out->aux = d->insn->mnemonic == ZYDIS_MNEMONIC_XSAVE64 ? FORM_64 : 0;
        break;
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        out->fn = exec_xsave;
        out->aux = FORM_OPT | (d->insn->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64 ? FORM_64 : 0);
        break;
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
        out->fn = exec_xsavec;
        out->aux = d->insn->mnemonic == ZYDIS_MNEMONIC_XSAVEC64 ? FORM_64 : 0;
        break;
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        out->fn = exec_xrstor;
        out->aux = d->insn->mnemonic == ZYDIS_MNEMONIC_XRSTOR64 ? FORM_64 : 0;
        break;
    default:
        return false;
    }
    return d->has_mem;
}
