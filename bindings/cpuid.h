/* CPUID policies as userdata: shared by cpu.c and machine.c. */
#pragma once

#include "bindings/binding.h"
#include "engine/cpu/cpuid.h"

#define CPUID_POLICY "cpuid-policy"

/* Pushes a userdata that takes the policy over; NULL pushes nil. */
void binding_push_cpuid(lua_State *L, CpuidPolicy *policy);
/* Borrowed from the userdata at `arg`. */
CpuidPolicy *binding_check_cpuid(lua_State *L, int arg);
void binding_open_cpuid(lua_State *L); /* vmlua.core.cpuid; called by binding_open_cpu */
