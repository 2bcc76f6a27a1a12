/* Hooks on instructions and on memory accesses: soft-hooks.c. */
#pragma once

#include "engine/accel/soft/soft-accel.h"

typedef struct SoftHookRange {
    uint64_t first, last;
    uint64_t max_last; /* of this and all earlier ones */
} SoftHookRange;
/* What is armed, as vCPUs read it under RCU. */
typedef struct SoftHooks {
    uint32_t generation;
    bool names; /* a filter wants mnemonic or category */
    unsigned n_exec, n_insn, n_mem;
    SoftHookRange *exec; /* sorted by first */
    EventFilter *insn;
    EventFilter *mem; /* EVENT_MEM and EVENT_MEM_PHYS; fetches are here too */
} SoftHooks;

/* Engine lock. */
void soft_hooks_arm(SoftAccel *a, const EventFilter *f);
void soft_hooks_disarm(SoftAccel *a, const EventFilter *f);
void soft_hooks_free(SoftAccel *a);

/* On the vCPU's thread, inside the run loop's RCU section. */
void soft_hooks_update(SoftCpu *c); /* after SOFT_ATTN_HOOKS */
/* Whether anybody wants to know of the instruction at `linear` before it is executed. */
bool soft_hooks_match(const SoftCpu *c, uint64_t linear, const uint8_t *code, unsigned len);
/* The handler of such an instruction; SoftBlock.orig has its own. */
void soft_exec_hooked(SoftCpu *c, const SoftInsn *i);
bool soft_hooks_page(const SoftCpu *c, uint64_t linear, uint64_t paddr, unsigned access);
/* An access to a page of which that is true: the value that is read or written in the end. `paddr`
 * has the physical addresses of the first `first` bytes and of the rest. */
uint64_t soft_hooks_access(SoftCpu *c, uint64_t linear, const uint64_t paddr[2], unsigned first,
                           unsigned len, uint64_t value, uint64_t old, bool is_write);
