/*
 * What the handlers of integer instructions share: operands, memory, flags, stack, and the choice
 * of a handler by form and size at decode time.
 *
 * A handler exists once for each operand size and form, made by macros, so that none of its
 * decisions is left for run time. Naming: add32_rm is ADD r32, m32.
 */
#pragma once

#include <Zydis/Zydis.h>
#include <string.h>

#include "engine/accel/soft/soft-priv.h"

#define LIKELY(x)   __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Guest memory as the host sees it: any alignment, any other type's bytes. */
typedef uint8_t Mem8 __attribute__((may_alias));
typedef uint16_t Mem16 __attribute__((may_alias, aligned(1)));
typedef uint32_t Mem32 __attribute__((may_alias, aligned(1)));
typedef uint64_t Mem64 __attribute__((may_alias, aligned(1)));

#define FOR_SIZES(M)      M(8, 0) M(16, 1) M(32, 2) M(64, 3)
#define FOR_WIDE_SIZES(M) M(16, 1) M(32, 2) M(64, 3)

/* ---- registers --------------------------------------------------------------------------- */

#define READ_REG(N)                                                          \
    static inline uint##N##_t reg_read##N(const SoftCpu *c, unsigned offset) \
    {                                                                        \
        uint##N##_t v;                                                       \
        memcpy(&v, (const uint8_t *)c->gpr + offset, sizeof(v));             \
        return v;                                                            \
    }
READ_REG(8)
READ_REG(16)
READ_REG(32)
READ_REG(64)
#undef READ_REG

static inline void reg_write8(SoftCpu *c, unsigned offset, uint8_t v)
{
    memcpy((uint8_t *)c->gpr + offset, &v, sizeof(v));
}
static inline void reg_write16(SoftCpu *c, unsigned offset, uint16_t v)
{
    memcpy((uint8_t *)c->gpr + offset, &v, sizeof(v));
}
static inline void reg_write64(SoftCpu *c, unsigned offset, uint64_t v)
{
    memcpy((uint8_t *)c->gpr + offset, &v, sizeof(v));
}
/* A 32-bit result clears the upper half of its register. */
static inline void reg_write32(SoftCpu *c, unsigned offset, uint32_t v)
{
    reg_write64(c, offset, v);
}
/* The low part of a register by number, of a size known at run time only. */
static inline uint64_t gpr_read(const SoftCpu *c, unsigned n, unsigned size)
{
    return size == 3 ? c->gpr[n] : c->gpr[n] & ((1ull << (8u << size)) - 1);
}
static inline void gpr_write(SoftCpu *c, unsigned n, unsigned size, uint64_t v)
{
    if (size == 1) {
        reg_write16(c, SOFT_REG(n), (uint16_t)v);
    } else {
        c->gpr[n] = size == 2 ? (uint32_t)v : v;
    }
}

/* ---- flags ------------------------------------------------------------------------------- */

#define SIZE_MASK(size) (~0ull >> (64 - (8u << (size))))
#define SIGN_BIT(size)  (1ull << ((8u << (size)) - 1))

/* cc_dst and cc_src are zero-extended from their size. ADC and SBB stand for a carry of 1: with a
 * carry of 0 they leave ADD and SUB behind, so that two values are enough to find every flag. */
static inline void cc_set(SoftCpu *c, CcOp op, unsigned size, uint64_t dst, uint64_t src)
{
    c->cc_op = (uint8_t)op;
    c->cc_size = (uint8_t)size;
    c->cc_dst = dst;
    c->cc_src = src;
}
static inline void cc_set_flags(SoftCpu *c, uint32_t flags)
{
    c->cc_op = CC_FLAGS;
    c->cc_dst = flags;
}
static inline bool cc_carry(const SoftCpu *c)
{
    switch (c->cc_op) {
    case CC_FLAGS:
        return c->cc_dst & FLAG_CF;
    case CC_ADD:
        return c->cc_dst < c->cc_src;
    case CC_ADC:
        return c->cc_dst <= c->cc_src;
    case CC_SUB:
        return c->cc_dst > (~c->cc_src & SIZE_MASK(c->cc_size));
    case CC_SBB:
        return c->cc_dst >= (~c->cc_src & SIZE_MASK(c->cc_size));
    case CC_INC:
    case CC_DEC:
        return c->cc_src;
    case CC_SHL:
        return c->cc_src & SIGN_BIT(c->cc_size);
    case CC_SHR:
    case CC_SAR:
        return c->cc_src & 1;
    default:
        return false;
    }
}
static inline bool cc_zero(const SoftCpu *c)
{
    return c->cc_op == CC_FLAGS ? (c->cc_dst & FLAG_ZF) != 0 : c->cc_dst == 0;
}
static inline bool cc_sign(const SoftCpu *c)
{
    return c->cc_op == CC_FLAGS ? (c->cc_dst & FLAG_SF) != 0
                                : (c->cc_dst & SIGN_BIT(c->cc_size)) != 0;
}
static inline bool cc_parity(const SoftCpu *c)
{
    return c->cc_op == CC_FLAGS ? (c->cc_dst & FLAG_PF) != 0
                                : !__builtin_parity((uint8_t)c->cc_dst);
}
static inline bool cc_overflow(const SoftCpu *c)
{
    uint64_t r = c->cc_dst, b = c->cc_src, a;
    switch (c->cc_op) {
    case CC_FLAGS:
        return r & FLAG_OF;
    case CC_ADD:
    case CC_ADC:
        a = r - b - (c->cc_op == CC_ADC);
        return (a ^ r) & (b ^ r) & SIGN_BIT(c->cc_size);
    case CC_SUB:
    case CC_SBB:
        a = r + b + (c->cc_op == CC_SBB);
        return (a ^ b) & (a ^ r) & SIGN_BIT(c->cc_size);
    case CC_INC:
        return r == SIGN_BIT(c->cc_size);
    case CC_DEC:
        return r == SIGN_BIT(c->cc_size) - 1;
    case CC_SHL:
        return (r ^ b) & SIGN_BIT(c->cc_size);
    case CC_SHR:
        return b & SIGN_BIT(c->cc_size);
    default:
        return false;
    }
}
/* After CMP and SUB, the usual case, the operands themselves are compared. */
static inline bool cc_less(const SoftCpu *c)
{
    if (LIKELY(c->cc_op == CC_SUB)) {
        unsigned shift = 64 - (8u << c->cc_size);
        return (int64_t)((c->cc_dst + c->cc_src) << shift) < (int64_t)(c->cc_src << shift);
    }
    return cc_sign(c) != cc_overflow(c);
}
/* `cc` is a constant wherever speed matters. */
static inline __attribute__((always_inline)) bool cc_condition(const SoftCpu *c, unsigned cc)
{
    bool r;
    switch (cc >> 1) {
    case 0:
        r = cc_overflow(c);
        break;
    case 1:
        r = cc_carry(c);
        break;
    case 2:
        r = cc_zero(c);
        break;
    case 3:
        r = cc_zero(c) || cc_carry(c);
        break;
    case 4:
        r = cc_sign(c);
        break;
    case 5:
        r = cc_parity(c);
        break;
    case 6:
        r = cc_less(c);
        break;
    default:
        r = cc_zero(c) || cc_less(c);
        break;
    }
    return r != (cc & 1);
}
/* SF, ZF and PF of a result. */
static inline uint32_t flags_of_result(uint64_t r, unsigned size)
{
    uint32_t f = (r & SIGN_BIT(size)) ? FLAG_SF : 0;
    f |= (r & SIZE_MASK(size)) == 0 ? FLAG_ZF : 0;
    return f | (__builtin_parity((uint8_t)r) ? 0 : FLAG_PF);
}

/* ---- memory ------------------------------------------------------------------------------ */

/* Linear address of the memory operand; notes where a fault would be. */
static inline uint64_t mem_linear(SoftCpu *c, const SoftInsn *i, unsigned len, bool is_write)
{
    SOFT_HERE(c, i);
    return soft_linear(c, i, len, is_write);
}
/* Host memory of a read-modify-write access; the write's faults are raised. NULL: the slow way. */
static inline void *mem_host(SoftCpu *c, uint64_t linear, unsigned len)
{
    void *p = soft_tlb_hit(c->tlb_now[SOFT_WRITE], linear, len);
    return LIKELY(p) ? p : soft_host(c, linear, len, SOFT_WRITE);
}

#define LOAD(c, N, linear)        ((uint##N##_t)soft_load((c), (linear), (N) / 8))
#define STORE(c, N, linear, v)    soft_store((c), (linear), (v), (N) / 8)
#define LOAD_OPERAND(c, i, N)     LOAD(c, N, mem_linear((c), (i), (N) / 8, false))
#define STORE_OPERAND(c, i, N, v) STORE(c, N, mem_linear((c), (i), (N) / 8, true), v)

/* Atomic exchange on guest RAM: at any alignment, as the guest's own LOCK would be. */
#define ATOMIC_CAS(N)                                                                  \
    __attribute__((no_sanitize("alignment"))) static inline bool atomic_cas##N(        \
        void *p, uint##N##_t *expected, uint##N##_t desired)                           \
    {                                                                                  \
        return __atomic_compare_exchange_n((uint##N##_t *)p, expected, desired, false, \
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
    }
ATOMIC_CAS(8)
ATOMIC_CAS(16)
ATOMIC_CAS(32)
ATOMIC_CAS(64)
#undef ATOMIC_CAS

/*
 * Read, modify, write: `a` is the old value, `expr` the new one, which must have no side effect.
 * Nothing the guest can see changes before the last fault. In host memory in place; else
 * (I/O memory, a page boundary) by a load and a store, the write's faults first.
 */
#define RMW_AT(c, linear, N, a, r, expr)              \
    uint##N##_t a, r;                                 \
    do {                                              \
        uint64_t linear_ = (linear);                  \
        Mem##N *p_ = mem_host((c), linear_, (N) / 8); \
        if (LIKELY(p_)) {                             \
            a = *p_;                                  \
            r = (uint##N##_t)(expr);                  \
            *p_ = r;                                  \
        } else {                                      \
            soft_probe_write((c), linear_, (N) / 8);  \
            a = LOAD((c), N, linear_);                \
            r = (uint##N##_t)(expr);                  \
            STORE((c), N, linear_, r);                \
        }                                             \
    } while (0)
#define RMW_LOCKED_AT(c, linear, N, a, r, expr)       \
    uint##N##_t a, r;                                 \
    do {                                              \
        uint64_t linear_ = (linear);                  \
        Mem##N *p_ = mem_host((c), linear_, (N) / 8); \
        if (LIKELY(p_)) {                             \
            a = *p_;                                  \
            do {                                      \
                r = (uint##N##_t)(expr);              \
            } while (!atomic_cas##N(p_, &a, r));      \
        } else {                                      \
            soft_probe_write((c), linear_, (N) / 8);  \
            soft_exclusive_begin(c);                  \
            soft_probe_write((c), linear_, (N) / 8);  \
            a = LOAD((c), N, linear_);                \
            r = (uint##N##_t)(expr);                  \
            STORE((c), N, linear_, r);                \
            soft_exclusive_end(c);                    \
        }                                             \
    } while (0)
#define RMW(c, i, N, a, r, expr) RMW_AT(c, mem_linear((c), (i), (N) / 8, true), N, a, r, expr)
#define RMW_LOCKED(c, i, N, a, r, expr) \
    RMW_LOCKED_AT(c, mem_linear((c), (i), (N) / 8, true), N, a, r, expr)

/* ---- stack ------------------------------------------------------------------------------- */

/* `lm`, a constant: 64-bit code, whose stack is flat. */
static inline uint64_t stack_linear(SoftCpu *c, uint64_t sp, unsigned len, bool is_write, bool lm)
{
    if (lm || LIKELY(c->flat_segments && sp + len <= UINT64_C(1) << 32)) {
        return sp;
    }
    return soft_segment_linear(c, X86_SS, sp, len, is_write);
}
static inline uint64_t stack_mask(const SoftCpu *c, uint64_t sp)
{
    return c->mode.stack_size == 3 ? sp : c->mode.stack_size == 2 ? (uint32_t)sp : (uint16_t)sp;
}
static inline void stack_set(SoftCpu *c, uint64_t sp, bool lm)
{
    gpr_write(c, X86_RSP, lm ? 3 : c->mode.stack_size, sp);
}
/* The store comes first: a fault leaves the stack pointer alone. */
static inline void stack_push(SoftCpu *c, uint64_t v, unsigned len, bool lm)
{
    uint64_t sp = c->gpr[X86_RSP] - len;
    if (!lm) {
        sp = stack_mask(c, sp);
    }
    soft_store(c, stack_linear(c, sp, len, true, lm), v, len);
    stack_set(c, sp, lm);
}
/* The caller drops it when nothing can fault any more. */
static inline uint64_t stack_peek(SoftCpu *c, unsigned skip, unsigned len, bool lm)
{
    uint64_t sp = c->gpr[X86_RSP] + skip;
    if (!lm) {
        sp = stack_mask(c, sp);
    }
    return soft_load(c, stack_linear(c, sp, len, false, lm), len);
}
static inline void stack_drop(SoftCpu *c, uint64_t len, bool lm)
{
    stack_set(c, c->gpr[X86_RSP] + len, lm);
}

#define CANONICAL(a) ((uint64_t)((int64_t)((a) << 16) >> 16) == (a))

/* ---- leaving a block --------------------------------------------------------------------- */

#ifndef SOFT_END
/* After an instruction that ends its block: on to the next one. */
#define SOFT_END(c, i)                      \
    do {                                    \
        (c)->rip = soft_next_rip((c), (i)); \
        return;                             \
    } while (0)
#endif

/* ---- choosing a handler ------------------------------------------------------------------ */

typedef enum { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORM_LOCK_MR, FORM_LOCK_MI } Form;
#define FORMS 7
typedef struct HandlerSet { /* by form and size; NULL: no such instruction */
    SoftExec fn[FORMS][4];
} HandlerSet;

bool exec_is_gpr(ZydisRegister r);
uint8_t exec_reg(ZydisRegister r); /* offset of a general register, of any size */
static inline unsigned exec_size(unsigned bits)
{
    return bits <= 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : 3;
}
/* Two operands, register, memory or immediate: sets dst, src, imm, op_size and fn. */
bool exec_pick(const SoftDecode *d, SoftInsn *out, const HandlerSet *set);
/* One operand, in the rows RR (register), MR (memory) and LOCK_MR. */
bool exec_pick_one(const SoftDecode *d, SoftInsn *out, const HandlerSet *set);

bool exec_decode_shift(SoftDecode *d, SoftInsn *out);  /* exec-shift.c */
bool exec_decode_bit(SoftDecode *d, SoftInsn *out);    /* exec-bit.c */
bool exec_decode_muldiv(SoftDecode *d, SoftInsn *out); /* exec-muldiv.c */
bool exec_decode_bcd(SoftDecode *d, SoftInsn *out);    /* exec-bcd.c */
bool exec_decode_move(SoftDecode *d, SoftInsn *out);   /* exec-move.c */
bool exec_decode_stack(SoftDecode *d, SoftInsn *out);  /* exec-stack.c */
