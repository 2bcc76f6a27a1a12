/*
 * What the files of the system part share: descriptors, stacks of other privilege levels, error
 * codes.
 */
#pragma once

#include "engine/accel/soft/soft-priv.h"

enum { /* types of system descriptors */
       SYS_TSS16 = 1,
       SYS_LDT = 2,
       SYS_TSS16_BUSY = 3,
       SYS_CALL16 = 4,
       SYS_TASK_GATE = 5,
       SYS_INT16 = 6,
       SYS_TRAP16 = 7,
       SYS_TSS = 9,
       SYS_TSS_BUSY = 11,
       SYS_CALL = 12,
       SYS_INT = 14,
       SYS_TRAP = 15,
};
enum { SEG_CODE = 8, SEG_CONFORMING = 4, SEG_WRITABLE = 2, SEG_READABLE = 2, SEG_ACCESSED = 1 };

static inline bool soft_protected(const SoftCpu *c)
{
    return c->cr0 & CR0_PE;
}
static inline bool soft_v86(const SoftCpu *c)
{
    return c->flags & FLAG_VM;
}
/* Selectors and descriptors count: neither real nor virtual-8086 mode. */
static inline bool soft_segmented(const SoftCpu *c)
{
    return soft_protected(c) && !soft_v86(c);
}
static inline bool soft_lma(const SoftCpu *c)
{
    return c->efer & EFER_LMA;
}
static inline unsigned soft_iopl(const SoftCpu *c)
{
    return c->flags >> 12 & 3;
}
static inline bool soft_canonical(uint64_t v)
{
    return (uint64_t)((int64_t)(v << 16) >> 16) == v;
}
static inline bool soft_null(uint16_t selector)
{
    return !(selector & 0xfffc);
}

/* Raises with a selector as error code, with the EXT bit of a delivery in progress. */
static inline _Noreturn void soft_fault(SoftCpu *c, unsigned vector, uint16_t selector)
{
    soft_raise_error(c, vector, (selector & 0xfffcu) | c->ext);
}
static inline _Noreturn void soft_gp(SoftCpu *c)
{
    soft_raise_error(c, EXC_GP, c->ext);
}

/* ---- descriptors, as 64 bits ------------------------------------------------------------- */

static inline unsigned desc_type(uint64_t d)
{
    return d >> 40 & 15;
}
static inline bool desc_s(uint64_t d)
{
    return d >> 44 & 1;
}
static inline unsigned desc_dpl(uint64_t d)
{
    return d >> 45 & 3;
}
static inline bool desc_present(uint64_t d)
{
    return d >> 47 & 1;
}
static inline bool desc_l(uint64_t d)
{
    return d >> 53 & 1;
}
static inline bool desc_db(uint64_t d)
{
    return d >> 54 & 1;
}
static inline bool desc_is_code(uint64_t d)
{
    return desc_s(d) && (desc_type(d) & SEG_CODE);
}
static inline uint16_t gate_selector(uint64_t d)
{
    return (uint16_t)(d >> 16);
}
static inline uint32_t gate_offset(uint64_t d)
{
    return (uint32_t)(d & 0xffff) | (uint32_t)(d >> 32 & 0xffff0000u);
}
void soft_segment_from_descriptor(X86Segment *s, uint16_t selector, uint64_t d, uint64_t high);
/* Sets the accessed bit in its table. */
void soft_mark_accessed(SoftCpu *c, uint16_t selector, uint64_t d);
/* Writes the type of a system descriptor: busy and not. */
void soft_set_system_type(SoftCpu *c, uint16_t selector, uint64_t d, unsigned type);

/* ---- code segments and stacks for control transfers ----------------------------------------- */

/* Raises what a transfer to this address raises: limit, or not canonical. */
void soft_check_target(SoftCpu *c, const X86Segment *cs, uint64_t rip, uint16_t error);
/* CS:RIP and the CPL; mode follows. */
void soft_enter_code(SoftCpu *c, const X86Segment *cs, uint64_t rip, unsigned cpl);
/* The same of a transfer after which the mode is as before if CS and the CPL are: others may have
 * changed only with these, or while 64-bit code does not look at them. */
void soft_enter_code_again(SoftCpu *c, const X86Segment *cs, uint64_t rip, unsigned cpl);
/* A stack segment for privilege `cpl`, with the checks of a transfer; raises `vector` (#TS, #GP;
 * not present: #SS). */
void soft_check_stack_segment(SoftCpu *c, uint16_t selector, unsigned cpl, unsigned vector,
                              X86Segment *out);
void soft_null_stack(X86Segment *ss, unsigned cpl);

typedef struct SoftStack {
    X86Segment ss;
    uint64_t sp, mask;
    unsigned cpl;
    bool flat; /* 64-bit: canonical check only */
    uint32_t error;
} SoftStack;
void soft_stack_present(SoftCpu *c, SoftStack *s);
void soft_stack_init(SoftCpu *c, SoftStack *s, const X86Segment *ss, uint64_t sp, unsigned cpl,
                     bool code64, uint32_t error);
void soft_push(SoftCpu *c, SoftStack *s, uint64_t value, unsigned size); /* size: log2 bytes */
uint64_t soft_pop(SoftCpu *c, SoftStack *s, unsigned size);
/* Several, the first one first. */
void soft_push_all(SoftCpu *c, SoftStack *s, const uint64_t *values, unsigned n, unsigned size);
void soft_pop_all(SoftCpu *c, SoftStack *s, uint64_t *values, unsigned n, unsigned size);
void soft_set_sp(SoftCpu *c, const SoftStack *s); /* RSP as wide as the stack is */
/* SS:ESP of a privilege level from the TSS; raises #TS. */
void soft_tss_stack(SoftCpu *c, unsigned cpl, uint16_t *ss, uint64_t *esp);
uint64_t soft_tss_rsp(SoftCpu *c, unsigned offset);
/* After a return to an outer level: data segments that it may not use become null. */
void soft_drop_data_segments(SoftCpu *c);
/* Segment registers as virtual-8086 mode has them. */
void soft_segment_v86(X86Segment *s, uint16_t selector);

/* ---- the handlers of system instructions ------------------------------------------------- */

static inline void soft_need_ring0(SoftCpu *c)
{
    if (c->cpl != 0) {
        soft_raise_error(c, EXC_GP, 0);
    }
}
static inline bool soft_take(SoftDecode *d, SoftInsn *out, SoftExec fn, unsigned aux, bool ends)
{
    out->fn = fn;
    out->aux = (uint16_t)aux;
    d->ends = ends;
    return true;
}
bool soft_decode_control(SoftDecode *d, SoftInsn *out); /* exec-control.c */
bool soft_decode_segment(SoftDecode *d, SoftInsn *out); /* exec-segment.c */
