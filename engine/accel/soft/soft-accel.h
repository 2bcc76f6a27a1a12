/* The accelerator object: soft.c, and who looks at the other vCPUs. */
#pragma once

#include <pthread.h>

#include "engine/accel/soft/soft-priv.h"

#define TYPE_SOFT_ACCEL "soft-accel"

struct SoftAccel {
    Accel parent;
    SoftCpu **cpus; /* max_cpus of them, RCU: NULL where there is none */
    MemoryListener listener;
    bool translate;            /* hot blocks become host code */
    uint32_t translate_after;  /* executions */
    struct SoftIcount *icount; /* NULL: time is the host's */
    struct {
        uint64_t count, left, random; /* `random` is the generator's state, also between saves */
        uint32_t turn;
    } icount_saved;
    bool a20_closed;           /* atomic */
    pthread_mutex_t exclusive; /* of the vCPU that runs alone */
    SoftCpu *alone;            /* atomic: that vCPU */
    uint64_t started, starts;  /* when the clock was last started, and how often. Engine lock */
    bool logging;              /* atomic: somebody reads dirty logs */
    GArray *armed;             /* of EventFilter: hooks on instructions and memory; engine lock */
    struct SoftHooks *hooks;   /* RCU; NULL: none */
    uint32_t hooks_generation; /* engine lock */
};
typedef struct SoftAccelClass {
    AccelClass parent_class;
} SoftAccelClass;
OBJECT_DECLARE_TYPE(SoftAccel, SoftAccelClass, SOFT_ACCEL, TYPE_SOFT_ACCEL)

bool soft_check_state(VCpu *cpu, GError **error); /* soft-state.c: AccelClass.check_state */
