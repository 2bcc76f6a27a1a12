/*
 * CPUID policy: what a vCPU's CPUID answers. Built from what the accelerator supports, a model (a
 * list of leaves, made in Lua) and features that the user switched on or off by name.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct CpuidEntry {
    uint32_t function, index;
    bool has_index; /* the leaf depends on ECX */
    uint32_t eax, ebx, ecx, edx;
} CpuidEntry;

#define CPUID_MAX_ENTRIES 128
typedef struct CpuidPolicy {
    unsigned n;
    CpuidEntry entries[CPUID_MAX_ENTRIES];
} CpuidPolicy;

typedef enum { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX } CpuidReg;
typedef struct CpuidFeature {
    const char
        *name; /* "avx2": as Linux spells it in /proc/cpuinfo, QEMU's spelling accepted too */
    uint32_t function, index;
    CpuidReg reg;
    uint8_t bit;
} CpuidFeature;
const CpuidFeature *cpuid_feature_find(const char *name); /* NULL: unknown */
const CpuidFeature *cpuid_features(unsigned *n);

CpuidPolicy *cpuid_policy_new(void);
CpuidPolicy *cpuid_policy_copy(const CpuidPolicy *p);
CpuidEntry *cpuid_policy_find(CpuidPolicy *p, uint32_t function, uint32_t index);
/* Adds or replaces; false + ENGINE_ERROR_LIMIT when full. */
bool cpuid_policy_set(CpuidPolicy *p, const CpuidEntry *e, GError **error);
bool cpuid_policy_get_feature(CpuidPolicy *p, const CpuidFeature *f);
void cpuid_policy_set_feature(CpuidPolicy *p, const CpuidFeature *f, bool on);
bool cpuid_policy_is_amd(const CpuidPolicy *p); /* or Hygon */

/* Threads a core, cores a die, dies a socket. */
typedef struct CpuTopology {
    uint32_t sockets, dies, cores, threads;
} CpuTopology;
/* Fills in what is 0: cores of one socket if all are, else 1. false + error: so many CPUs do not
 * fit, or their APIC ids would have gaps. */
bool cpu_topology_check(CpuTopology *t, unsigned cpus, GError **error);
/* Leaves that say which vCPU this is and with whom it shares what: 1, 4, 0xb, 0x1f and AMD's, for
 * the vCPU `index`, whose APIC id that is. `t` is checked. false + error: the policy has no room
 * for them. */
bool cpuid_policy_set_topology(CpuidPolicy *p, unsigned index, const CpuTopology *t,
                               GError **error);
/* CPUID as the guest executes it: basic and extended ranges, out-of-range leaves as Intel defines.
 */
void cpuid_policy_query(const CpuidPolicy *p, uint32_t function, uint32_t index, uint32_t out[4]);
