/*
 * Between the files on vCPUs: registers as members (cpu-register.c), the rest (cpu.c).
 */
#pragma once

#include "bindings/binding.h"
#include "engine/cpu/cpu.h"

VCpu *script_check_cpu(lua_State *L);
/* These raise where the vCPU runs, or its accelerator fails. */
void script_cpu_fetch(lua_State *L, VCpu *cpu, unsigned groups);
void script_cpu_modify(lua_State *L, VCpu *cpu, unsigned groups);

void binding_open_cpu_register(lua_State *L); /* part of binding_open_cpu */
