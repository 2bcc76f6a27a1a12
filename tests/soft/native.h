/*
 * Running single user-mode instructions on the host CPU, in a child process that can do nothing
 * else: code, data and guard pages at fixed addresses, seccomp, a CPU limit.
 *
 * The child lives in its own signal handler. Each instruction is followed by INT3s; whatever stops
 * it, a fault or an INT3, arrives as a signal with every register in it. The handler notes them,
 * puts the next case's registers in their place and returns. So no stub is needed, and 32-bit code
 * is only another CS.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define CODE_ADDR  UINT64_C(0x10000000) /* one page, readable and executable */
#define CODE_SIZE  4096u
#define CODE_ENTRY (CODE_ADDR + 0x800)
#define DATA_ADDR  UINT64_C(0x20000000) /* two pages, nothing around them */
#define DATA_SIZE  8192u
#define GS_BASE    (DATA_ADDR + 0x40) /* in 64-bit code */
#define CODE_MAX   16

typedef struct CaseRegs {
    uint64_t gpr[16]; /* in the encoding's order */
    uint64_t rip;
    uint32_t flags;
} CaseRegs;

#define FPU_SIZE 832u /* x87, SSE, AVX, in XSAVE's standard format */

typedef struct Case {
    uint8_t code[CODE_MAX];
    uint8_t len;
    bool wide; /* 64-bit code, else 32-bit */
    CaseRegs in;
    uint8_t data[DATA_SIZE];
    bool has_fpu; /* `fpu` counts */
    uint8_t fpu[FPU_SIZE];
} Case;

typedef struct Outcome {
    CaseRegs regs;
    int vector; /* -1: no exception */
    uint32_t error;
    uint64_t cr2;
    uint8_t data[DATA_SIZE];
    uint8_t fpu[FPU_SIZE];
} Outcome;

#define BATCH_MAX 128
typedef struct Batch { /* in memory shared with the child */
    unsigned n;
    unsigned done; /* by the child */
    Case cases[BATCH_MAX];
    Outcome native[BATCH_MAX];
} Batch;

Batch *native_batch_new(void);
/* NULL: fine; else why nothing was compared. *broken: the child died in the middle. */
const char *native_run(Batch *b, bool *broken);
