/* Between the files of cpu/. */
#pragma once

#include "engine/cpu/cpu.h"

void cpu_set_current(VCpu *cpu);
/* Puts what a handler changed during an access over the registers that the finished access left.
 * Engine lock, on the vCPU's thread, after finish_exit. */
void cpu_merge_exit_state(VCpu *cpu);
