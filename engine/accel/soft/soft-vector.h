/*
 * What the files of the vector and x87 instructions share.
 */
#pragma once

#include <Zydis/Zydis.h>
#include <string.h>

#include "engine/accel/soft/soft-priv.h"
#include "engine/accel/soft/soft-thunk.h"

#define VEC_LIKELY(x)   __builtin_expect(!!(x), 1)
#define VEC_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define VEC_INLINE      static inline __attribute__((always_inline))

enum {
    VEC_CR0_PE = 1 << 0,
    VEC_CR0_MP = 1 << 1,
    VEC_CR0_EM = 1 << 2,
    VEC_CR0_TS = 1 << 3,
    VEC_CR0_NE = 1 << 5,
    VEC_CR4_OSFXSR = 1 << 9,
    VEC_CR4_OSXMMEXCPT = 1 << 10,
    VEC_CR4_OSXSAVE = 1 << 18,
    VEC_XCR0 = 7, /* the components that are interpreted: x87, SSE, AVX */
    FSW_TOP_SHIFT = 11,
    FSW_ES = 1 << 7,
    FSW_B = 1 << 15,
    FPU_EXCEPTIONS = 0x3f,
};

/* A handler around a body that has locals in memory: by itself it could not end in a tail call. */
#define VEC_HANDLER(name, body)                     \
    static void name(SoftCpu *c, const SoftInsn *i) \
    {                                               \
        body(c, i);                                 \
        SOFT_NEXT(c, i);                            \
    }

static inline uint16_t fx_get16(const SoftCpu *c, unsigned at)
{
    uint16_t v;
    memcpy(&v, c->fpu + at, sizeof(v));
    return v;
}
static inline uint32_t fx_get32(const SoftCpu *c, unsigned at)
{
    uint32_t v;
    memcpy(&v, c->fpu + at, sizeof(v));
    return v;
}
static inline uint64_t fx_get64(const SoftCpu *c, unsigned at)
{
    uint64_t v;
    memcpy(&v, c->fpu + at, sizeof(v));
    return v;
}
static inline void fx_set16(SoftCpu *c, unsigned at, uint16_t v)
{
    memcpy(c->fpu + at, &v, sizeof(v));
}
static inline void fx_set32(SoftCpu *c, unsigned at, uint32_t v)
{
    memcpy(c->fpu + at, &v, sizeof(v));
}
static inline void fx_set64(SoftCpu *c, unsigned at, uint64_t v)
{
    memcpy(c->fpu + at, &v, sizeof(v));
}

/* ---- whether the instruction may run: #UD, #NM ----------------------------------------------- */

VEC_INLINE void vec_check_sse(SoftCpu *c)
{
    if (VEC_UNLIKELY((c->cr0 & (VEC_CR0_EM | VEC_CR0_TS)) || !(c->cr4 & VEC_CR4_OSFXSR))) {
        soft_raise(c, (c->cr0 & VEC_CR0_EM) || !(c->cr4 & VEC_CR4_OSFXSR) ? EXC_UD : EXC_NM);
    }
}
/* In real and virtual-8086 mode there is no VEX prefix. */
VEC_INLINE void vec_check_avx(SoftCpu *c)
{
    if (VEC_UNLIKELY(!(c->cr4 & VEC_CR4_OSXSAVE) || (c->xcr0 & 6) != 6 || !(c->cr0 & VEC_CR0_PE) ||
                     (c->flags & FLAG_VM))) {
        soft_raise(c, EXC_UD);
    }
    if (VEC_UNLIKELY(c->cr0 & VEC_CR0_TS)) {
        soft_raise(c, EXC_NM);
    }
}
VEC_INLINE void vec_check_x87(SoftCpu *c)
{
    if (VEC_UNLIKELY(c->cr0 & (VEC_CR0_EM | VEC_CR0_TS))) {
        soft_raise(c, EXC_NM);
    }
}
/* An x87 exception that waits: from the flags and masks themselves, so that a state in which ES
 * does not fit them cannot reach the host's CPU. */
static inline bool x87_pending(const SoftCpu *c)
{
    return fx_get16(c, FX_FSW) & ~fx_get16(c, FX_FCW) & FPU_EXCEPTIONS;
}
/* With CR0.NE clear the exception would go out by FERR#, which nothing is connected to: the CPU
 * goes on as with IGNNE# asserted. */
VEC_INLINE void x87_check_pending(SoftCpu *c)
{
    if (VEC_UNLIKELY(x87_pending(c)) && (c->cr0 & VEC_CR0_NE)) {
        soft_raise(c, EXC_MF);
    }
}
VEC_INLINE void vec_check_mmx(SoftCpu *c)
{
    if (VEC_UNLIKELY(c->cr0 & (VEC_CR0_EM | VEC_CR0_TS))) {
        soft_raise(c, c->cr0 & VEC_CR0_EM ? EXC_UD : EXC_NM);
    }
    x87_check_pending(c);
}

/* An MMX instruction numbers the registers physically and makes all of them valid. */
void vec_enter_mmx(SoftCpu *c);
/* Before TOP becomes `top` other than by a push or pop: the area has the registers from TOP on. */
void x87_turn(SoftCpu *c, unsigned top);
/* FSW's summary bits follow its flags and FCW's masks. */
void x87_update_summary(SoftCpu *c);
void x87_init(SoftCpu *c);

/* The decoders of the files: false when they do not know the instruction. */
bool vec_decode_memory(SoftDecode *d, SoftInsn *out); /* exec-vector-mem.c */
bool vec_decode_x87(SoftDecode *d, SoftInsn *out);    /* exec-x87.c */
bool vec_decode_fxsave(SoftDecode *d, SoftInsn *out); /* exec-fxsave.c */
