/*
 * What CPUID says about sockets, dies, cores and threads.
 *
 * A vCPU's APIC id is its index. Software takes the id apart into fields of whole bits, so each
 * level below the topmost must have a power of two of members: cpu_topology_check.
 *
 * Intel SDM volume 2A, CPUID (leaves 1, 4, 0xb, 0x1f) and 3A, "Detecting Hardware Multi-Threading
 * Support and Topology"; AMD APM volume 3, appendix E (0x80000001, 8, 0x1d, 0x1e).
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/cpu/cpuid.h"

#define TOPOLOGY_MAX 32768u /* bits of all fields together stay far below 32 */

/* Level types of leaves 0xb and 0x1f. */
enum { LEVEL_INVALID = 0, LEVEL_SMT = 1, LEVEL_CORE = 2, LEVEL_DIE = 5 };

static bool power_of_two(unsigned n)
{
    return (n & (n - 1)) == 0;
}

bool cpu_topology_check(CpuTopology *t, unsigned cpus, GError **error)
{
    if (!t->sockets && !t->dies && !t->cores && !t->threads) {
        *t = (CpuTopology){ 1, 1, cpus, 1 };
    }
    t->dies = MAX(t->dies, 1);
    t->threads = MAX(t->threads, 1);
    t->cores = MAX(t->cores, 1);
    t->sockets = MAX(t->sockets, 1);

    const unsigned below[] = { t->threads, t->cores, t->dies, t->sockets };
    const char *const names[] = { "threads", "cores", "dies", "sockets" };
    uint64_t all = 1;
    unsigned top = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(below); i++) {
        if (__builtin_mul_overflow(all, below[i], &all)) {
            all = UINT64_MAX;
        }
        top = below[i] > 1 ? i : top;
    }
    if (all < cpus) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%u CPUs do not fit into sockets=%u dies=%u cores=%u threads=%u", cpus,
                         t->sockets, t->dies, t->cores, t->threads);
    }
    if (all > TOPOLOGY_MAX) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "sockets=%u dies=%u cores=%u threads=%u are more than %u CPUs", t->sockets,
                         t->dies, t->cores, t->threads, TOPOLOGY_MAX);
    }
    for (unsigned i = 0; i < top; i++) {
        if (!power_of_two(below[i])) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "%s=%u below %s=%u: only the topmost level may be other than a power "
                             "of two, because APIC ids have whole bits for each level",
                             names[i], below[i], names[top], below[top]);
        }
    }
    return true;
}

/* Bits of an APIC id that tell n members apart. */
static unsigned id_bits(unsigned n)
{
    unsigned bits = 0;

    while (bits < 16 && (1u << bits) < n) {
        bits++;
    }
    return bits;
}

/* The host's levels go, whatever their number. */
static void drop_leaf(CpuidPolicy *p, uint32_t leaf)
{
    unsigned n = 0;

    for (unsigned i = 0; i < p->n; i++) {
        if (p->entries[i].function != leaf) {
            p->entries[n++] = p->entries[i];
        }
    }
    p->n = n;
}

/* EAX: by how many bits the id is shifted for the number of the next level; EBX: logical processors
 * of this level in the next. */
static bool set_levels(CpuidPolicy *p, uint32_t leaf, unsigned apic_id, const CpuTopology *t,
                       GError **error)
{
    unsigned smt = id_bits(t->threads), core = smt + id_bits(t->cores),
             die = core + id_bits(t->dies);
    bool dies = leaf == 0x1f && t->dies > 1;
    unsigned n = 0;
    CpuidEntry levels[4] = { { leaf, 0, true, smt, t->threads, LEVEL_SMT << 8 } };

    n = 1;
    if (dies) {
        levels[n++] = (CpuidEntry){ leaf, 1, true, core, t->cores * t->threads, LEVEL_CORE << 8 };
        levels[n++] = (CpuidEntry){ leaf,          2, true, die, t->dies * t->cores * t->threads,
                                    LEVEL_DIE << 8 };
    } else {
        levels[n++] = (CpuidEntry){ leaf,           1, true, die, t->dies * t->cores * t->threads,
                                    LEVEL_CORE << 8 };
    }
    levels[n] = (CpuidEntry){ leaf, n, true, 0, 0, LEVEL_INVALID << 8 };
    n++;
    drop_leaf(p, leaf);
    for (unsigned i = 0; i < n; i++) {
        levels[i].index = i;
        levels[i].ebx &= 0xffff;
        levels[i].ecx |= i;
        levels[i].edx = apic_id;
        if (!cpuid_policy_set(p, &levels[i], error)) {
            return false;
        }
    }
    return true;
}

/* Levels 1 and 2 belong to a core, what is beyond to a die. */
static void set_caches(CpuidPolicy *p, const CpuTopology *t)
{
    unsigned package = 1u << (id_bits(t->threads) + id_bits(t->cores) + id_bits(t->dies));

    for (unsigned i = 0; i < p->n; i++) {
        CpuidEntry *e = &p->entries[i];
        unsigned level = e->eax >> 5 & 7, sharing;

        if ((e->function != 4 && e->function != 0x8000001d) || !(e->eax & 0x1f)) {
            continue;
        }
        sharing = level >= 3 ? t->threads * t->cores : t->threads;
        if (e->function == 4) {
            /* Ids that may share it, and ids of cores in the package: both less one, in powers of
             * two, as fields of the id are. */
            sharing = 1u << id_bits(sharing);
            e->eax = (e->eax & 0x3fff) | (MIN(sharing, 0x1000u) - 1) << 14 |
                     (MIN(package >> id_bits(t->threads), 64u) - 1) << 26;
        } else {
            e->eax = (e->eax & ~(0xfffu << 14)) | (MIN(sharing, 0x1000u) - 1) << 14;
        }
    }
}

static void set_amd(CpuidPolicy *p, unsigned index, const CpuTopology *t)
{
    unsigned in_package = t->dies * t->cores * t->threads;
    unsigned bits = id_bits(t->threads) + id_bits(t->cores) + id_bits(t->dies);
    CpuidEntry *e = cpuid_policy_find(p, 0x80000008, 0);

    if (e) {
        /* Logical processors less one; how many bits of the id number them. */
        e->ecx = (e->ecx & ~0xf0ffu) | MIN(bits, 15u) << 12 | MIN(in_package - 1, 0xffu);
    }
    e = cpuid_policy_find(p, 0x80000001, 0);
    if (e) {
        /* CmpLegacy: several cores without hyper-threading in the old sense. Intel has 0 here. */
        e->ecx &= ~(1u << 1);
        e->ecx |= cpuid_policy_is_amd(p) && in_package > 1 ? 1u << 1 : 0;
    }
    e = cpuid_policy_find(p, 0x8000001e, 0);
    if (e) {
        e->eax = index;
        e->ebx = (index / t->threads % (t->cores * t->dies) & 0xff) | MIN(t->threads - 1, 0xffu)
                                                                          << 8;
        /* A node is a die. */
        e->ecx = (index / (t->threads * t->cores) & 0xff) | MIN(t->dies - 1, 7u) << 8;
    }
}

bool cpuid_policy_set_topology(CpuidPolicy *p, unsigned index, const CpuTopology *t, GError **error)
{
    CpuidEntry *base = cpuid_policy_find(p, 0, 0), *e;
    uint32_t max_basic = base ? base->eax : 0;
    unsigned in_package = 1u << (id_bits(t->threads) + id_bits(t->cores) + id_bits(t->dies));

    e = cpuid_policy_find(p, 1, 0);
    if (e) {
        /* Initial APIC id, ids of logical processors a package; CLFLUSH size and brand stay. */
        e->ebx = (e->ebx & 0x0000ffff) | MIN(in_package, 0xffu) << 16 | (index & 0xff) << 24;
        e->edx &= ~(1u << 28); /* HTT: that number counts */
        e->edx |= in_package > 1 ? 1u << 28 : 0;
    }
    set_caches(p, t);
    if (max_basic >= 0xb) {
        if (t->dies > 1 && max_basic < 0x1f && !cpuid_policy_is_amd(p)) {
            base->eax = max_basic = 0x1f; /* leaf 0xb has no dies */
        }
        if (!set_levels(p, 0xb, index, t, error)) {
            return false;
        }
    }
    if (max_basic >= 0x1f && !set_levels(p, 0x1f, index, t, error)) {
        return false;
    }
    set_amd(p, index, t);
    return true;
}
