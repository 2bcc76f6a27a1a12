/*
 * Thunks: guest vector and x87 instructions that the host's CPU executes.
 *
 * A thunk loads the operands of one instruction from where pointers say, runs the instruction on
 * fixed host registers and stores the results back. The registers' numbers are not part of it, so
 * that there are only some ten thousand different ones: opcode, form, length, immediate.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The XSAVE area in SoftCpu.fpu: standard format, of which x87, SSE and AVX are interpreted. */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FDP = 16,
    FX_MXCSR = 24,
    FX_MXCSR_MASK = 28,
    FX_ST = 32,
    FX_XMM = 160,
    FX_XMM_END = 416,
    FX_LEGACY = 512,
    FX_XSTATE_BV = 512,
    FX_XCOMP_BV = 520,
    FX_YMM_HIGH = 576,
    FX_END = 832
};
#define MXCSR_FLAGS   0x3fu
#define MXCSR_MASKS   0x1f80u
#define MXCSR_DEFAULT 0x1f80u

/* Where an operand is encoded; what kind of register it is. */
enum { SLOT_REG, SLOT_RM, SLOT_VVVV, SLOT_IS4, SLOTS };
enum { SLOT_NONE, SLOT_VECTOR, SLOT_MMX, SLOT_GPR };

/* Register of a slot in the canonical encoding: vectors and MMX by this, a GPR is always RAX. */
#define SLOT_HOST_REG(slot) ((slot) + 1)

/* What a thunk does around the instruction: also its identity. */
typedef struct ThunkSpec {
    uint8_t code[15], len; /* memory operand at [rsi] */
    uint8_t load[SLOTS], store[SLOTS];
    bool vex;   /* vectors are stored with their upper half */
    bool upper; /* … and loaded with it */
    bool xmm0_load, xmm0_store;
    bool mxcsr;     /* run with the guest's, which gets the flags */
    bool flags_in;  /* `mem` is RFLAGS instead of a pointer */
    bool flags_out; /* returns RFLAGS */
    bool lengths;   /* RAX and RDX are read: PCMPESTRx */
    bool index;     /* RCX is written: PCMPxSTRI */
    bool x87;       /* runs with the whole x87 state */
} ThunkSpec;

/* `slot` pointers: vectors and MMX: fpu + 16 * number; GPR: its place. */
typedef uint64_t (*ThunkFn)(uint8_t *fpu, void *mem, void *reg, void *rm, void *vvvv, void *is4);

typedef struct VecOp { /* shared by all instructions that look the same; never freed */
    ThunkFn fn;
    ThunkSpec spec;
    uint8_t mem_len;    /* bytes; 0: no memory operand */
    uint8_t align_mask; /* of the linear address: #GP */
    bool mem_write;
    bool gpr; /* a slot is a GPR */
} VecOp;

/* Finds or makes the one that equals *op (but for fn). NULL: the host gives no executable memory.
 * Any thread. */
const VecOp *soft_thunk_get(const VecOp *op);

/* Runs a thunk with exceptions that the guest has unmasked: false when one was raised; then no
 * register but MXCSR has changed, which has the flags as the host's CPU sets them. */
bool soft_thunk_run_unmasked(const VecOp *op, uint8_t *fpu, void *mem, void *const slot[SLOTS],
                             uint64_t *result);

/* Bits of MXCSR that this host knows, 16 of them at most. */
uint32_t soft_thunk_mxcsr_mask(void);

/* What of the host's CPU thunks may use. */
typedef enum {
    HOST_MMX = 1 << 0,
    HOST_SSE2 = 1 << 1,
    HOST_SSE3 = 1 << 2,
    HOST_SSSE3 = 1 << 3,
    HOST_SSE41 = 1 << 4,
    HOST_SSE42 = 1 << 5,
    HOST_AES = 1 << 6,
    HOST_PCLMUL = 1 << 7,
    HOST_SHA = 1 << 8,
    HOST_AVX = 1 << 9,
    HOST_F16C = 1 << 10,
    HOST_FMA = 1 << 11,
    HOST_AVX2 = 1 << 12,
} HostFeature;
unsigned soft_thunk_host_features(void);
