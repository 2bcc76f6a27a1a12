/* Time as a count of instructions: soft-icount.c. */
#pragma once

#include "engine/accel/soft/soft-accel.h"
#include "engine/core/main-loop.h"

typedef struct SoftIcount SoftIcount;

SoftIcount *
soft_icount_new(SoftAccel *a); /* engine lock, as what follows unless it says otherwise */
void soft_icount_free(SoftIcount *ic);
/* On the vCPU's thread without the lock: waits for the vCPU's turn. False: it is to leave. */
bool soft_icount_begin(SoftCpu *c, int64_t *budget);
void soft_icount_end(SoftCpu *c);
/* On the vCPU's thread, with or without the lock. */
void soft_icount_publish(SoftCpu *c); /* the clock shows the present instruction's time */
void soft_icount_rebudget(SoftCpu *c);
void soft_icount_yield(SoftCpu *c); /* a waiting loop: another vCPU's turn */
uint64_t soft_icount_random(SoftIcount *ic);

void soft_icount_gone(SoftIcount *ic); /* a vCPU's thread ends */
void soft_icount_idle(VCpu *cpu);
/* Whether a halted vCPU goes on now: there is work, and it has the turn. */
bool soft_icount_may_wake(VCpu *cpu);
bool soft_has_work(VCpu *cpu); /* soft.c: whatever the turn */
uint64_t soft_icount_count(const SoftIcount *ic);
extern const VMStateDescription soft_icount_vmstate; /* over the SoftAccel */
