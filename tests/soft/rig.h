/* A software CPU at CPL 3 whose memory is a case's: code and data where the native child has them.
 */
#pragma once

#include "engine/accel/soft/soft-priv.h"
#include "native.h"

typedef struct SoftRig SoftRig;
SoftRig *soft_rig_new(void);
void soft_rig_free(SoftRig *rig);
SoftCpu *soft_rig_cpu(SoftRig *rig);
/* From now on what can be is translated to host code, at once; false: there can be none. */
bool soft_rig_translate(SoftRig *rig);
/* Executes the case's instruction once. */
void soft_rig_run(SoftRig *rig, const Case *c, Outcome *o);

/* Several instructions as one block, from a state in which the flags are lazy. */
typedef struct SequenceState {
    uint64_t gpr[16], rip;
    uint32_t rflags; /* as a start: without the arithmetic ones */
    uint8_t cc_op, cc_size;
    uint64_t cc_dst, cc_src;
    bool cold; /* nothing is in the software TLB */
    int vector;
    uint32_t error;
    uint64_t cr2, icount;
    int64_t budget;
    uint8_t data[DATA_SIZE];
} SequenceState;
/* false: the bytes are no block. */
bool soft_rig_sequence(SoftRig *rig, bool wide, const uint8_t *code, unsigned len);
unsigned soft_rig_insns(const SoftRig *rig);
/* As often as wanted: with the same host code when translated. */
void soft_rig_enter(SoftRig *rig, const SequenceState *s, bool translated, SequenceState *out);
