/*
 * The software CPU as the helper of another accelerator: runs an instruction that this one cannot,
 * on a copy of its vCPU's state. On the vCPU's thread, without the engine lock; devices are reached
 * through the vCPU's own address spaces and exits.
 */
#pragma once

#include "engine/cpu/cpu.h"

typedef struct SoftAssist SoftAssist;

/* MSRs that live in the accelerator. false: #GP. */
typedef struct SoftHostMsrs {
    bool (*read)(void *opaque, uint32_t index, uint64_t *value);
    bool (*write)(void *opaque, uint32_t index, uint64_t value);
} SoftHostMsrs;

typedef enum {
    SOFT_ASSIST_DONE,
    SOFT_ASSIST_HALTED,
    SOFT_ASSIST_SHUTDOWN, /* triple fault */
    SOFT_ASSIST_CANNOT,   /* nothing was done: the software CPU does not have it either */
} SoftAssistResult;

typedef struct SoftAssistRun {
    X86CPUState *state;  /* GPR, SYSTEM, FPU, DEBUG, EVENTS, tsc and the MSRs that are known */
    const uint8_t *code; /* the instruction, as far as it could be read */
    unsigned code_len;
    unsigned more; /* instructions after the first, as long as they need nobody but RAM */
    bool a20_closed;
    /* Answers. */
    unsigned changed;     /* X86_STATE_* groups */
    uint64_t ran;         /* instructions */
    bool flushed;         /* translations were dropped: the accelerator's own are to go too */
    const char *mnemonic; /* of the first; static */
} SoftAssistRun;

SoftAssist *soft_assist_new(VCpu *cpu, const SoftHostMsrs *msrs, void *opaque);
void soft_assist_free(SoftAssist *a); /* NULL is ignored */
SoftAssistResult soft_assist_run(SoftAssist *a, SoftAssistRun *run);
