/*
 * CPUID policies: leaves, features, and the answer to a query.
 *
 * Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.
 */
#include "engine/cpu/cpuid.h"

#include <string.h>

#include "engine/core/error.h"

#define CPUID_EXTENDED   0x80000000u
#define CPUID_HYPERVISOR 0x40000000u
#define CPUID_RANGE_MASK 0xf0000000u

CpuidPolicy *cpuid_policy_new(void)
{
    return g_new0(CpuidPolicy, 1);
}

CpuidPolicy *cpuid_policy_copy(const CpuidPolicy *p)
{
    return p ? g_memdup2(p, sizeof(*p)) : NULL;
}

CpuidEntry *cpuid_policy_find(CpuidPolicy *p, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < p->n; i++) {
        CpuidEntry *e = &p->entries[i];

        if (e->function == function && (!e->has_index || e->index == index)) {
            return e;
        }
    }
    return NULL;
}

static const CpuidEntry *find_const(const CpuidPolicy *p, uint32_t function, uint32_t index)
{
    return cpuid_policy_find((CpuidPolicy *)(uintptr_t)p, function, index);
}

bool cpuid_policy_set(CpuidPolicy *p, const CpuidEntry *e, GError **error)
{
    for (unsigned i = 0; i < p->n; i++) {
        CpuidEntry *old = &p->entries[i];

        if (old->function == e->function &&
            (!old->has_index || !e->has_index || old->index == e->index)) {
            *old = *e;
            return true;
        }
    }
    if (p->n >= CPUID_MAX_ENTRIES) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "CPUID leaf %#x.%u: the policy is full with %d leaves", e->function,
                         e->index, CPUID_MAX_ENTRIES);
    }
    p->entries[p->n++] = *e;
    return true;
}

static uint32_t *entry_reg(CpuidEntry *e, CpuidReg reg)
{
    switch (reg) {
    case CPUID_EAX:
        return &e->eax;
    case CPUID_EBX:
        return &e->ebx;
    case CPUID_ECX:
        return &e->ecx;
    case CPUID_EDX:
    default:
        return &e->edx;
    }
}

bool cpuid_policy_get_feature(CpuidPolicy *p, const CpuidFeature *f)
{
    CpuidEntry *e = cpuid_policy_find(p, f->function, f->index);

    return e && (*entry_reg(e, f->reg) >> f->bit & 1);
}

void cpuid_policy_set_feature(CpuidPolicy *p, const CpuidFeature *f, bool on)
{
    CpuidEntry *e = cpuid_policy_find(p, f->function, f->index);
    uint32_t bit = UINT32_C(1) << f->bit, *reg;

    if (!e) {
        CpuidEntry fresh = { .function = f->function,
                             .index = f->index,
                             .has_index = f->function == 7 || f->function == 0xd };

        if (!on || !cpuid_policy_set(p, &fresh, NULL)) {
            return;
        }
        e = cpuid_policy_find(p, f->function, f->index);
        /* A leaf beyond the range that leaf 0 announces could not be seen. */
        CpuidEntry *base = cpuid_policy_find(p, f->function & CPUID_RANGE_MASK, 0);

        if (base && base->eax < f->function) {
            base->eax = f->function;
        }
        /* Leaf 7's EAX is its highest subleaf. */
        CpuidEntry *seven = f->function == 7 ? cpuid_policy_find(p, 7, 0) : NULL;

        if (seven && seven->eax < f->index) {
            seven->eax = f->index;
        }
    }
    reg = entry_reg(e, f->reg);
    *reg = on ? *reg | bit : *reg & ~bit;
}

/* ---- query ------------------------------------------------------------------------------- */

bool cpuid_policy_is_amd(const CpuidPolicy *p)
{
    const CpuidEntry *e = find_const(p, 0, 0);

    return e && ((e->ebx == 0x68747541 && e->edx == 0x69746e65 && e->ecx == 0x444d4163) ||
                 (e->ebx == 0x6f677948 && e->edx == 0x6e65476e && e->ecx == 0x656e6975));
}

/* Whether the range that `function` is of announces it. */
static bool in_range(const CpuidPolicy *p, uint32_t function)
{
    uint32_t base = 0;
    const CpuidEntry *e;

    if (function >= CPUID_EXTENDED) {
        base = function & 0xffff0000u; /* 0x80000000; 0xc0000000 of Centaur */
    } else if ((function & CPUID_RANGE_MASK) == CPUID_HYPERVISOR) {
        base = function & 0xffffff00u; /* several interfaces at 0x100 each */
    }
    e = find_const(p, base, 0);
    return e && function <= e->eax;
}

void cpuid_policy_query(const CpuidPolicy *p, uint32_t function, uint32_t index, uint32_t out[4])
{
    const CpuidEntry *e;

    memset(out, 0, 4 * sizeof(out[0]));
    if (!in_range(p, function)) {
        const CpuidEntry *base = find_const(p, 0, 0);

        /* Intel: the data of the highest basic leaf. AMD: zeros. */
        if (!base || cpuid_policy_is_amd(p)) {
            return;
        }
        function = base->eax;
    }
    e = find_const(p, function, index);
    if (e) {
        out[CPUID_EAX] = e->eax;
        out[CPUID_EBX] = e->ebx;
        out[CPUID_ECX] = e->ecx;
        out[CPUID_EDX] = e->edx;
    } else if (function == 0xb || function == 0x1f) {
        /* Beyond the last level ECX[7:0] gives the index back and EDX the id all the same. */
        const CpuidEntry *first = find_const(p, function, 0);

        out[CPUID_ECX] = index & 0xff;
        out[CPUID_EDX] = first ? first->edx : 0;
    }
}
