/* CPUID policies built by a program of bytes, with a check of every answer that can be foreseen. */
#include <string.h>

#include "engine/cpu/cpuid.h"
#include "tests/fuzz/fuzz.h"

static const uint32_t bases[] = { 0, 0x40000000, 0x40000100, 0x80000000, 0x80000000, 0xc0000000 };

static uint32_t a_leaf(FuzzInput *in)
{
    uint8_t how = fuzz_u8(in);

    return how % 8 == 7 ? fuzz_u32(in) : bases[how % G_N_ELEMENTS(bases)] + (how >> 3);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_engine_init();
    return 0;
}

static void set_leaf(FuzzInput *in, CpuidPolicy *p)
{
    CpuidEntry e = { .function = a_leaf(in), .index = fuzz_u8(in) & 3 };
    const CpuidEntry *found;
    GError *error = NULL;
    bool ok;

    e.has_index = fuzz_u8(in) & 1;
    e.eax = fuzz_u32(in);
    e.ebx = fuzz_u32(in);
    e.ecx = fuzz_u32(in);
    e.edx = fuzz_u32(in);
    ok = cpuid_policy_set(p, &e, &error);
    fuzz_outcome(ok, error);
    if (ok) {
        found = cpuid_policy_find(p, e.function, e.index);
        FUZZ_CHECK(found && !memcmp(found, &e, sizeof(e)), "leaf %#x.%u", e.function, e.index);
    }
}

static void set_feature(FuzzInput *in, CpuidPolicy *p)
{
    unsigned n;
    const CpuidFeature *all = cpuid_features(&n);
    const CpuidFeature *f = &all[fuzz_u16(in) % n];
    bool on = fuzz_u8(in) & 1, full = p->n == CPUID_MAX_ENTRIES;

    cpuid_policy_set_feature(p, f, on);
    FUZZ_CHECK(full || cpuid_policy_get_feature(p, f) == on, "%s", f->name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    CpuidPolicy *p = cpuid_policy_new(), *copy;

    while (in.left > 0) {
        uint32_t out[4];

        switch (fuzz_u8(&in) % 5) {
        case 0:
        case 1:
            set_leaf(&in, p);
            break;
        case 2:
            set_feature(&in, p);
            break;
        case 3: {
            CpuTopology t = { fuzz_u8(&in), fuzz_u8(&in), fuzz_u8(&in), fuzz_u8(&in) };
            unsigned count = 1 + fuzz_u8(&in);

            if (cpu_topology_check(&t, count, NULL)) {
                cpuid_policy_set_topology(p, fuzz_u8(&in) % count, &t, NULL);
            }
            break;
        }
        case 4:
            cpuid_policy_query(p, a_leaf(&in), fuzz_u8(&in), out);
            break;
        }
        FUZZ_CHECK(p->n <= CPUID_MAX_ENTRIES);
    }
    copy = cpuid_policy_copy(p);
    for (unsigned i = 0; i < p->n; i++) {
        uint32_t one[4], two[4];

        cpuid_policy_query(p, p->entries[i].function, p->entries[i].index, one);
        cpuid_policy_query(copy, p->entries[i].function, p->entries[i].index, two);
        FUZZ_CHECK(!memcmp(one, two, sizeof(one)));
    }
    g_free(copy);
    g_free(p);
    return 0;
}
