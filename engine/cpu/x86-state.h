/*
 * The architectural state of one x86 vCPU, shared by every accelerator, saved state, debugger and
 * scripts.
 *
 * Sources: Intel SDM volumes 1 and 3A, AMD APM volume 2. The field order is not an ABI; the saved
 * form is vmstate_x86_cpu.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/state/vmstate.h"

enum { /* index into gpr[]: the encoding order */
       X86_RAX,
       X86_RCX,
       X86_RDX,
       X86_RBX,
       X86_RSP,
       X86_RBP,
       X86_RSI,
       X86_RDI,
       X86_R8,
       X86_R9,
       X86_R10,
       X86_R11,
       X86_R12,
       X86_R13,
       X86_R14,
       X86_R15,
       X86_GPRS,
};
enum { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_LDT, X86_TR, X86_SEGS };

typedef struct X86Segment {
    uint64_t base;
    uint32_t limit; /* bytes - 1, after granularity */
    uint16_t selector;
    uint8_t type; /* descriptor type, 4 bits */
    uint8_t dpl;
    bool present, s, db, l, g, avl, unusable;
} X86Segment;
typedef struct X86Table {
    uint64_t base;
    uint16_t limit;
} X86Table;

#define X86_MSR_MAX 160
#define X86_XSAVE_MAX                                                                              \
    8192 /* an area of standard format, XCR0 of AVX-512 and AMX tiles' headers included up to this \
            size */
#define X86_LAPIC_REGS 1024

typedef struct X86Msr {
    uint32_t index;
    uint64_t value;
} X86Msr;

typedef enum {
    X86_MP_RUNNABLE,
    X86_MP_UNINITIALIZED,
    X86_MP_INIT_RECEIVED,
    X86_MP_HALTED,
    X86_MP_SIPI_RECEIVED
} X86MpState;

typedef struct X86Events { /* what is pending or being delivered */
    bool exception_injected, exception_pending, exception_has_error;
    uint8_t exception_nr;
    uint32_t exception_error;
    uint64_t exception_payload;
    bool exception_has_payload;
    bool interrupt_injected, interrupt_soft;
    uint8_t interrupt_nr;
    uint8_t interrupt_shadow; /* bit 0: after MOV SS, bit 1: after STI */
    bool nmi_injected, nmi_pending, nmi_masked;
    uint32_t sipi_vector;
    bool smm, smm_pending, smm_inside_nmi;
    bool triple_fault;
} X86Events;

typedef struct X86CPUState {
    uint64_t gpr[X86_GPRS];
    uint64_t rip, rflags;
    X86Segment seg[X86_SEGS];
    X86Table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base;
    uint64_t dr[4], dr6, dr7;
    uint64_t xcr0;
    uint64_t tsc;
    uint32_t tsc_khz;    /* its rate; 0: not known */
    uint32_t xsave_size; /* bytes of xsave[] in use, 512 legacy + 64 header at least */
    uint8_t xsave[X86_XSAVE_MAX] __attribute__((aligned(64)));
    uint32_t n_msrs;
    X86Msr msrs[X86_MSR_MAX];      /* sorted by index */
    bool has_lapic;                /* the accelerator's, saved in the form of pc-chips.h */
    uint8_t lapic[X86_LAPIC_REGS]; /* the first KiB of the LAPIC page */
    X86MpState mp_state;
    X86Events events;
} X86CPUState;

/* Groups of the state: what has been fetched, and what was changed and must go back. */
enum {
    X86_STATE_GPR = 1 << 0,    /* gpr, rip, rflags */
    X86_STATE_SYSTEM = 1 << 1, /* segments, tables, control registers, efer, apic_base */
    X86_STATE_FPU = 1 << 2,    /* xsave, xcr0 */
    X86_STATE_DEBUG = 1 << 3,  /* dr */
    X86_STATE_MSRS = 1 << 4,   /* msrs, tsc, tsc_khz */
    X86_STATE_LAPIC = 1 << 5,
    X86_STATE_EVENTS = 1 << 6, /* events, mp_state */
    X86_STATE_ALL = (1 << 7) - 1,
};

extern const VMStateDescription vmstate_x86_cpu;

/* The state after RESET (SDM 3A table 10-1): real mode, CS f000:fff0 base 0xffff0000, boot
 * processor or waiting for SIPI. */
void x86_state_reset(X86CPUState *s, bool is_bsp);
/* What the groups (X86_STATE_*) hold. */
void x86_state_copy(X86CPUState *to, const X86CPUState *from, unsigned groups);
/* The state after INIT: FPU, MSRs, time, CR0's cache bits and the APIC base stay. RDX is the
 * processor's signature. */
void x86_state_init(X86CPUState *s, bool is_bsp, uint32_t signature);

/* Register access by name, as the manuals spell it in lower case: "rax" "eax" "ax" "al" "ah" "r8d"
 * "rip" "eip" "rflags" "cs" (selector) "cs.base" "cs.limit" "gdtr.base" "cr0" "dr7" "efer" "xcr0"
 * "mxcsr" "fcw" "fsw" "st0".."st7" and "xmm0".."ymm15" (bytes, not by this function) and
 * "msr:0x1b". */
typedef struct X86Register {
    const char *name;
    uint16_t offset; /* in X86CPUState; private */
    uint8_t size;    /* bytes: 1 2 4 8 */
    uint8_t shift;   /* of "ah" */
    unsigned group;  /* X86_STATE_* it belongs to */
    uint32_t msr;    /* of "msr:…": its index; private otherwise */
} X86Register;
const X86Register *x86_register_find(const char *name); /* NULL: unknown */
const X86Register *x86_registers(unsigned *n);          /* all, in manual order */
uint64_t x86_register_get(const X86CPUState *s, const X86Register *r);
/* A 32-bit write clears the upper half of its 64-bit register, as the CPU does. A write of an MSR
 * that is not in the state adds it, so that the accelerator says what it thinks of it; false: there
 * is no room for it. */
bool x86_register_set(X86CPUState *s, const X86Register *r, uint64_t value);
/* Vector and x87 registers as bytes, lowest first: "st0".."st7" (10, by stack position),
 * "xmm0".."xmm15" (16), "ymm0".."ymm15" (32). Group X86_STATE_FPU. size and get return the length,
 * 0 for another name. Set of a shorter value clears the rest; false: unknown name, too long, or an
 * upper half that this CPU has not. */
#define X86_VECTOR_MAX 32
unsigned x86_vector_size(const char *name);
unsigned x86_vector_get(const X86CPUState *s, const char *name, uint8_t out[X86_VECTOR_MAX]);
bool x86_vector_set(X86CPUState *s, const char *name, const uint8_t *value, unsigned len);
/* The slot of an MSR, NULL when the state has none. */
X86Msr *x86_msr_find(X86CPUState *s, uint32_t index);
/* Adds or changes; false when the table is full. */
bool x86_msr_set(X86CPUState *s, uint32_t index, uint64_t value);
/* Segment load as the CPU does it in real mode: base = selector * 16, limit 64 KiB, data or code.
 */
void x86_segment_set_real(X86Segment *seg, uint16_t selector, bool code);
/* Flat 4 GiB (or 64-bit code when `l`) segment. */
void x86_segment_set_flat(X86Segment *seg, uint16_t selector, bool code, bool l, uint8_t dpl);
char *
x86_state_dump(const X86CPUState *s); /* several lines, as debuggers show registers; caller frees */
