/*
 * A software CPU in user mode over the same code and data as native.h has, to run single
 * instructions.
 */
#pragma once

#include "engine/accel/soft/soft-priv.h"
#include "native.h"

typedef struct SoftRig SoftRig;

SoftRig *soft_rig_new(void);
void soft_rig_free(SoftRig *r);
SoftCpu *soft_rig_cpu(SoftRig *r); /* to change what a run does not set */
void soft_rig_run(SoftRig *r, const Case *t, Outcome *o);
