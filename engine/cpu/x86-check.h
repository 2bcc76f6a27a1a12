/* Whether a state fits a CPUID policy. */
#pragma once

#include "engine/cpu/cpuid.h"
#include "engine/cpu/x86-state.h"

/* What the guest has switched on (CR4, EFER, XCR0, x2APIC mode) has to be in the policy, or the
 * guest would meet a processor without it: false + error that names the first that is not. */
bool x86_state_check(const X86CPUState *s, CpuidPolicy *policy, GError **error);
