/* The vCPU: registers, reset, CPUID, page walks, exits, threads. Runs on the test accelerator. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/cpu/cpu.h"
#include "fake-accel.h"

static void setup(void)
{
    main_loop_init();
}

static void teardown(void)
{
    ck_assert_uint_eq(fake_accels_alive, 0);
    main_loop_finalize();
}

static void ok(bool result, GError *error)
{
    ck_assert_msg(result && !error, "%s", error ? error->message : "failed without an error");
}

#define ck_error(error, text)                                                                \
    do {                                                                                     \
        ck_assert_ptr_nonnull(error);                                                        \
        ck_assert_msg(strstr((error)->message, (text)), "'%s' lacks '%s'", (error)->message, \
                      (text));                                                               \
        g_clear_error(&(error));                                                             \
    } while (0)

/* ---- registers --------------------------------------------------------------------------- */

static X86CPUState *new_state(void)
{
    X86CPUState *s = g_aligned_alloc0(1, sizeof(*s), 64);

    x86_state_reset(s, true);
    return s;
}

START_TEST(reset_puts_the_documented_values)
{
    X86CPUState *s = new_state();

    ck_assert_uint_eq(s->rip, 0xfff0);
    ck_assert_uint_eq(s->rflags, 2);
    ck_assert_uint_eq(s->seg[X86_CS].selector, 0xf000);
    ck_assert_uint_eq(s->seg[X86_CS].base, 0xffff0000);
    ck_assert_uint_eq(s->seg[X86_CS].limit, 0xffff);
    ck_assert_uint_eq(s->seg[X86_TR].type, 11);
    ck_assert(!s->seg[X86_TR].s);
    ck_assert_uint_eq(s->cr0, 0x60000010);
    ck_assert_uint_eq(s->dr6, 0xffff0ff0);
    ck_assert_uint_eq(s->dr7, 0x400);
    ck_assert_uint_eq(s->apic_base, 0xfee00900);
    ck_assert_uint_eq(s->mp_state, X86_MP_RUNNABLE);
    ck_assert_uint_eq(x86_register_get(s, x86_register_find("fcw")), 0x40);
    ck_assert_uint_eq(x86_register_get(s, x86_register_find("mxcsr")), 0x1f80);
    x86_state_reset(s, false);
    ck_assert_uint_eq(s->apic_base, 0xfee00800);
    ck_assert_uint_eq(s->mp_state, X86_MP_UNINITIALIZED);
    g_aligned_free(s);
}
END_TEST

START_TEST(every_register_reads_back_what_was_written_and_touches_no_other)
{
    X86CPUState *s = new_state(), *before = new_state();
    unsigned n;
    const X86Register *r = x86_registers(&n);

    ck_assert_uint_gt(n, 100);
    for (unsigned i = 0; i < n; i++) {
        uint64_t mask = r[i].size == 8 ? UINT64_MAX : (UINT64_C(1) << 8 * r[i].size) - 1;
        uint64_t v = UINT64_C(0x1122334455667788) & mask;

        ck_assert_ptr_eq(x86_register_find(r[i].name), &r[i]);
        if (strchr(r[i].name, '.') && r[i].size == 1) {
            v = 1; /* flags and small fields of a descriptor */
        }
        memset(s, 0, sizeof(*s));
        x86_register_set(s, &r[i], v);
        ck_assert_msg(x86_register_get(s, &r[i]) == v, "%s", r[i].name);
        x86_register_set(s, &r[i], 0);
        s->xsave[512] = 0; /* a register of the FPU marks its component as in use */
        memset(before, 0, sizeof(*before));
        ck_assert_msg(memcmp(s, before, sizeof(*s)) == 0, "%s leaves traces", r[i].name);
    }
    g_aligned_free(s);
    g_aligned_free(before);
}
END_TEST

START_TEST(parts_of_a_register_are_written_as_the_cpu_does)
{
    X86CPUState *s = new_state();

    s->gpr[X86_RAX] = UINT64_C(0x1111222233334444);
    x86_register_set(s, x86_register_find("al"), 0xaa);
    ck_assert_uint_eq(s->gpr[X86_RAX], UINT64_C(0x11112222333344aa));
    x86_register_set(s, x86_register_find("ah"), 0xbb);
    ck_assert_uint_eq(s->gpr[X86_RAX], UINT64_C(0x111122223333bbaa));
    ck_assert_uint_eq(x86_register_get(s, x86_register_find("ah")), 0xbb);
    x86_register_set(s, x86_register_find("ax"), 0xcccc);
    ck_assert_uint_eq(s->gpr[X86_RAX], UINT64_C(0x111122223333cccc));
    x86_register_set(s, x86_register_find("eax"), UINT64_C(0xfffffffff0000001));
    ck_assert_uint_eq(s->gpr[X86_RAX], 0xf0000001);
    x86_register_set(s, x86_register_find("r9b"), 0x1ff);
    ck_assert_uint_eq(s->gpr[X86_R9], 0xff);
    x86_register_set(s, x86_register_find("cs.dpl"), 7);
    ck_assert_uint_eq(s->seg[X86_CS].dpl, 3);
    x86_register_set(s, x86_register_find("cs.l"), 0x100);
    ck_assert_uint_eq(s->seg[X86_CS].l, 1);
    g_aligned_free(s);
}
END_TEST

START_TEST(unknown_register_names_are_unknown)
{
    static const char *const bad[] = { "",       "raxx",   "RAX",    "r16",
                                       "cs.",    "cs.foo", "msr:",   "msr:x",
                                       "msr:-1", "msr: 1", "msr:1z", "msr:0x100000000",
                                       "dr4",    "cr1" };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        ck_assert_msg(!x86_register_find(bad[i]), "'%s'", bad[i]);
    }
}
END_TEST

START_TEST(msrs_are_registers_and_stay_sorted)
{
    X86CPUState *s = new_state();
    const X86Register *r = x86_register_find("msr:0x1b");

    ck_assert_ptr_nonnull(r);
    ck_assert_ptr_eq(r, x86_register_find("msr:27"));
    ck_assert_uint_eq(x86_register_get(s, r), 0);
    x86_register_set(s, x86_register_find("msr:0xc0000080"), 5);
    x86_register_set(s, r, 6);
    x86_register_set(s, x86_register_find("msr:0x277"), 7);
    ck_assert_uint_eq(s->n_msrs, 3);
    ck_assert_uint_eq(s->msrs[0].index, 0x1b);
    ck_assert_uint_eq(s->msrs[1].index, 0x277);
    ck_assert_uint_eq(s->msrs[2].index, 0xc0000080);
    ck_assert_uint_eq(x86_register_get(s, r), 6);
    for (uint32_t i = 0; i < X86_MSR_MAX + 10; i++) {
        x86_msr_set(s, 0x1000 + i, i);
    }
    ck_assert_uint_eq(s->n_msrs, X86_MSR_MAX);
    ck_assert(!x86_msr_set(s, 0x9999, 1));
    g_aligned_free(s);
}
END_TEST

START_TEST(vector_registers_are_bytes)
{
    X86CPUState *s = new_state();
    uint8_t in[32], out[32];

    for (unsigned i = 0; i < 32; i++) {
        in[i] = (uint8_t)(i + 1);
    }
    s->xsave_size = 832;
    ck_assert(x86_vector_set(s, "ymm3", in, 32));
    ck_assert_uint_eq(x86_vector_get(s, "ymm3", out), 32);
    ck_assert_mem_eq(in, out, 32);
    ck_assert_uint_eq(x86_vector_get(s, "xmm3", out), 16);
    ck_assert_mem_eq(in, out, 16);
    ck_assert(x86_vector_set(s, "st7", in, 10));
    ck_assert(!x86_vector_set(s, "st7", in, 11));
    ck_assert(!x86_vector_set(s, "xmm16", in, 1));
    ck_assert(!x86_vector_set(s, "xmm01", in, 1));
    ck_assert_uint_eq(x86_vector_get(s, "st8", out), 0);
    s->xsave_size = 576;
    ck_assert(!x86_vector_set(s, "ymm0", in, 1));
    ck_assert_uint_eq(x86_vector_get(s, "ymm3", out), 32);
    ck_assert_uint_eq(out[16], 0);
    g_aligned_free(s);
}
END_TEST

START_TEST(a_dump_names_mode_and_flags)
{
    X86CPUState *s = new_state();
    g_autofree char *real = x86_state_dump(s);
    g_autofree char *long_mode = NULL;

    ck_assert_ptr_nonnull(strstr(real, "real mode, runnable"));
    ck_assert_ptr_nonnull(strstr(real, "CS   f000 base=00000000ffff0000"));
    s->cr0 |= 1;
    s->efer = 0x500;
    s->seg[X86_CS].l = true;
    s->rflags = 0x202;
    long_mode = x86_state_dump(s);
    ck_assert_ptr_nonnull(strstr(long_mode, "64-bit mode"));
    ck_assert_ptr_nonnull(strstr(long_mode, "[IF]"));
    g_aligned_free(s);
}
END_TEST

START_TEST(segments_are_made_as_the_cpu_loads_them)
{
    X86Segment g;

    x86_segment_set_real(&g, 0x1234, false);
    ck_assert_uint_eq(g.base, 0x12340);
    ck_assert_uint_eq(g.type, 3);
    x86_segment_set_flat(&g, 8, true, true, 3);
    ck_assert(g.l && !g.db && g.g && g.present);
    ck_assert_uint_eq(g.dpl, 3);
    x86_segment_set_flat(&g, 16, false, true, 0);
    ck_assert(!g.l && g.db);
}
END_TEST

/* ---- CPUID ------------------------------------------------------------------------------- */

static void put_leaf(CpuidPolicy *p, uint32_t function, int index, uint32_t eax, uint32_t ebx,
                     uint32_t ecx, uint32_t edx)
{
    CpuidEntry e = { function, index < 0 ? 0 : (uint32_t)index, index >= 0, eax, ebx, ecx, edx };

    ck_assert(cpuid_policy_set(p, &e, NULL));
}

START_TEST(out_of_range_leaves_give_the_highest_basic_leaf_on_intel_and_zeros_on_amd)
{
    g_autofree CpuidPolicy *p = cpuid_policy_new();
    uint32_t out[4];

    put_leaf(p, 0, -1, 7, 0x756e6547, 0x6c65746e, 0x49656e69);
    put_leaf(p, 1, -1, 0x806f8, 1, 2, 3);
    put_leaf(p, 7, 0, 1, 0xb, 0xc, 0xd);
    put_leaf(p, 0x80000000, -1, 0x80000001, 0, 0, 0);
    put_leaf(p, 0x40000000, -1, 0x40000001, 0x4b4d564b, 0, 0);
    cpuid_policy_query(p, 1, 55, out);
    ck_assert_uint_eq(out[0], 0x806f8); /* ECX does not matter for leaf 1 */
    cpuid_policy_query(p, 7, 1, out);
    ck_assert_uint_eq(out[1], 0); /* a missing subleaf in range */
    cpuid_policy_query(p, 4, 0, out);
    ck_assert_uint_eq(out[0], 0); /* a missing leaf in range */
    cpuid_policy_query(p, 0x16, 0, out);
    ck_assert_uint_eq(out[1], 0xb);
    cpuid_policy_query(p, 0x80000055, 0, out);
    ck_assert_uint_eq(out[1], 0xb);
    cpuid_policy_query(p, 0x40000001, 0, out);
    ck_assert_uint_eq(out[1], 0);
    cpuid_policy_query(p, 0x40000555, 0, out);
    ck_assert_uint_eq(out[1], 0xb);
    cpuid_policy_query(p, 0xffffffff, 0, out);
    ck_assert_uint_eq(out[1], 0xb);
    put_leaf(p, 0, -1, 7, 0x68747541, 0x444d4163, 0x69746e65);
    cpuid_policy_query(p, 0x16, 0, out);
    ck_assert_uint_eq(out[0] | out[1] | out[2] | out[3], 0);
}
END_TEST

START_TEST(topology_gives_each_vcpu_a_package_of_its_own)
{
    g_autofree CpuidPolicy *p = cpuid_policy_new();
    uint32_t out[4];

    put_leaf(p, 0, -1, 0x1f, 0, 0, 0);
    put_leaf(p, 1, -1, 0, 0x05100800, 0, 1u << 28);
    put_leaf(p, 4, 0, 0xfc01c121, 0, 0, 0);
    for (int i = 0; i < 5; i++) {
        put_leaf(p, 0xb, i, 7, 8, 9, 10);
    }
    put_leaf(p, 0x80000000, -1, 0x80000008, 0, 0, 0);
    put_leaf(p, 0x80000008, -1, 0, 0, 0x4007, 0);
    cpuid_policy_set_topology(p, 5, 6);
    cpuid_policy_query(p, 1, 0, out);
    ck_assert_uint_eq(out[1], 0x05010800);
    ck_assert_uint_eq(out[3], 0);
    cpuid_policy_query(p, 4, 0, out);
    ck_assert_uint_eq(out[0], 0x121);
    cpuid_policy_query(p, 0xb, 0, out);
    ck_assert_uint_eq(out[1], 1);
    ck_assert_uint_eq(out[2], 0x100);
    ck_assert_uint_eq(out[3], 5);
    cpuid_policy_query(p, 0xb, 9, out);
    ck_assert_uint_eq(out[2], 9);
    ck_assert_uint_eq(out[3], 5);
    cpuid_policy_query(p, 0x1f, 1, out);
    ck_assert_uint_eq(out[2], 0x201);
    cpuid_policy_query(p, 0x80000008, 0, out);
    ck_assert_uint_eq(out[2], 0x3000);
}
END_TEST

START_TEST(features_have_one_bit_each_and_both_spellings)
{
    unsigned n;
    const CpuidFeature *f = cpuid_features(&n);
    g_autofree CpuidPolicy *p = cpuid_policy_new();

    ck_assert_uint_gt(n, 250);
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_lt(f[i].bit, 32);
        ck_assert_ptr_eq(cpuid_feature_find(f[i].name), &f[i]);
    }
    ck_assert_ptr_eq(cpuid_feature_find("no-such-thing"), NULL);
    ck_assert_uint_eq(cpuid_feature_find("sse4.1")->bit, cpuid_feature_find("sse4_1")->bit);
    ck_assert_uint_eq(cpuid_feature_find("tsc-deadline")->bit, 24);
    ck_assert_ptr_eq(cpuid_feature_find("avx512-vbmi2"), cpuid_feature_find("avx512_vbmi2"));
    put_leaf(p, 0, -1, 1, 0, 0, 0);
    put_leaf(p, 1, -1, 0, 0, 0, 0);
    f = cpuid_feature_find("avx2");
    ck_assert(!cpuid_policy_get_feature(p, f));
    cpuid_policy_set_feature(p, f, false);
    ck_assert_uint_eq(p->n, 2);
    cpuid_policy_set_feature(p, f, true);
    ck_assert(cpuid_policy_get_feature(p, f));
    ck_assert_uint_eq(cpuid_policy_find(p, 0, 0)->eax, 7); /* or no guest would see it */
    cpuid_policy_set_feature(p, cpuid_feature_find("avx_vnni"), true);
    ck_assert_uint_eq(cpuid_policy_find(p, 7, 0)->eax, 1);
    cpuid_policy_set_feature(p, f, false);
    ck_assert(!cpuid_policy_get_feature(p, f));
}
END_TEST

START_TEST(a_full_policy_says_so)
{
    g_autofree CpuidPolicy *p = cpuid_policy_new();
    GError *error = NULL;
    CpuidEntry e = { .function = 4, .has_index = true };

    for (e.index = 0; e.index < CPUID_MAX_ENTRIES; e.index++) {
        ck_assert(cpuid_policy_set(p, &e, NULL));
    }
    ck_assert(!cpuid_policy_set(p, &e, &error));
    ck_assert(g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_LIMIT));
    ck_error(error, "0x4.128");
}
END_TEST

/* ---- page walks -------------------------------------------------------------------------- */

static void poke(Machine *m, uint64_t addr, uint64_t value, unsigned size)
{
    address_space_stn(m->memory, addr, value, size, MEMTXATTRS_NONE, NULL);
}

static uint64_t translate(VCpu *cpu, uint64_t vaddr)
{
    GError *error = NULL;
    uint64_t paddr = 0;

    ok(cpu_translate(cpu, vaddr, &paddr, &error), error);
    return paddr;
}

static void paging(VCpu *cpu, uint64_t cr3, uint64_t cr4, bool lma)
{
    ok(cpu_modify_state(cpu, X86_STATE_SYSTEM, NULL), NULL);
    cpu->state->cr0 = 0x80000011;
    cpu->state->cr3 = cr3;
    cpu->state->cr4 = cr4;
    cpu->state->efer = lma ? 0x500 : 0;
}

START_TEST(an_unpaged_address_is_physical_and_ends_at_4_gib)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;

    ck_assert_uint_eq(translate(cpu, 0x12345), 0x12345);
    ck_assert(!cpu_translate(cpu, UINT64_C(0x100000000), &paddr, &error));
    ck_error(error, "above 4 GiB");
    machine_close(m);
}
END_TEST

START_TEST(thirty_two_bit_paging_knows_small_large_and_pse36_pages)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;

    paging(cpu, 0x1000, 0x10, false);
    poke(m, 0x1000 + 4 * 1, 0x2001, 4);
    poke(m, 0x2000 + 4 * 3, 0x7003, 4);
    poke(m, 0x1000 + 4 * 2, 0x00c00081 | 5 << 13, 4);
    ck_assert_uint_eq(translate(cpu, 0x00403123), 0x7123);
    ck_assert_uint_eq(translate(cpu, 0x00812345), UINT64_C(0x500c12345));
    ck_assert(!cpu_translate(cpu, 0x00404000, &paddr, &error));
    ck_error(error, "page table entry at 0x2010 is not present");
    ck_assert(!cpu_translate(cpu, 0xfff00000, &paddr, &error));
    ck_error(error, "page directory entry");
    ck_assert(!cpu_translate(cpu, UINT64_C(0x100403123), &paddr, &error));
    ck_error(error, "not in long mode");
    /* Without CR4.PSE bit 7 of a directory entry means nothing. */
    paging(cpu, 0x1000, 0, false);
    ck_assert(!cpu_translate(cpu, 0x00812345, &paddr, &error));
    ck_error(error, "not in RAM");
    machine_close(m);
}
END_TEST

START_TEST(pae_paging_walks_three_levels)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);

    paging(cpu, 0x1020, 0x20, false);
    poke(m, 0x1020 + 8 * 3, 0x2001, 8);
    poke(m, 0x2000 + 8 * 1, 0x3003, 8);
    poke(m, 0x3000 + 8 * 2, UINT64_C(0x8000000123456003), 8);
    poke(m, 0x2000 + 8 * 2, UINT64_C(0x0000000200a00083), 8);
    ck_assert_uint_eq(translate(cpu, 0xc0202abc), UINT64_C(0x123456abc));
    ck_assert_uint_eq(translate(cpu, 0xc0412345), UINT64_C(0x200a12345));
    machine_close(m);
}
END_TEST

START_TEST(four_level_paging_knows_all_page_sizes_and_canonical_addresses)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;

    paging(cpu, 0x1000, 0x20, true);
    poke(m, 0x1000 + 8 * 256, 0x2003, 8);
    poke(m, 0x2000 + 8 * 1, UINT64_C(0x140000083), 8);
    poke(m, 0x2000 + 8 * 0, 0x3003, 8);
    poke(m, 0x3000 + 8 * 1, 0x800083, 8);
    poke(m, 0x3000 + 8 * 0, 0x4003, 8);
    poke(m, 0x4000 + 8 * 5, 0x9003, 8);
    ck_assert_uint_eq(translate(cpu, UINT64_C(0xffff800000005678)), 0x9678);
    ck_assert_uint_eq(translate(cpu, UINT64_C(0xffff800000212345)), 0x812345);
    ck_assert_uint_eq(translate(cpu, UINT64_C(0xffff800052345678)), UINT64_C(0x152345678));
    ck_assert(!cpu_translate(cpu, UINT64_C(0x0000800000005678), &paddr, &error));
    ck_error(error, "not a canonical address");
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "PML4 entry at 0x1000 is not present");
    poke(m, 0x1000, 0x2083, 8);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "reserved bit 7");
    paging(cpu, 0x1000, 0x1020, true);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "5-level");
    machine_close(m);
}
END_TEST

START_TEST(tables_that_point_nowhere_or_at_themselves_end_the_walk)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    uint64_t paddr;
    uint8_t buf[16];

    /* A recursive entry: every level is the same page. */
    paging(cpu, 0x1000, 0x20, true);
    poke(m, 0x1000, 0x1003, 8);
    ck_assert_uint_eq(translate(cpu, 0x234), 0x1234);
    poke(m, 0x1000, UINT64_C(0x000fffffffff0003), 8);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "is not in RAM (unassigned)");
    paging(cpu, UINT64_C(0x000ffffffffff000), 0x20, true);
    ck_assert(!cpu_translate(cpu, 0, &paddr, &error));
    ck_error(error, "PML4");
    paging(cpu, 0xfffff000, 0x20, false);
    ck_assert(!cpu_translate(cpu, 0xffffffff, &paddr, &error));
    ck_error(error, "not in RAM");
    ck_assert(!cpu_read_virtual(cpu, UINT64_MAX - 3, buf, 16, &error));
    ck_error(error, "wraps");
    ck_assert(cpu_read_virtual(cpu, UINT64_MAX, buf, 0, &error));
    machine_close(m);
}
END_TEST

START_TEST(virtual_reads_and_writes_follow_pages_that_are_not_neighbours)
{
    Machine *m = fake_machine(1, IRQCHIP_ON);
    VCpu *cpu = g_ptr_array_index(m->cpus, 0);
    GError *error = NULL;
    char out[9] = "";

    paging(cpu, 0x1000, 0, false);
    poke(m, 0x1000, 0x2001, 4);
    poke(m, 0x2000 + 4 * 8, 0x9001, 4);
    poke(m, 0x2000 + 4 * 9, 0x5001, 4);
    ok(cpu_write_virtual(cpu, 0x8ffc, "abcdefgh", 8, &error), error);
    ck_assert_uint_eq(address_space_ldn(m->memory, 0x9ffc, 4, MEMTXATTRS_NONE, NULL), 0x64636261);
    ck_assert_uint_eq(address_space_ldn(m->memory, 0x5000, 4, MEMTXATTRS_NONE, NULL), 0x68676665);
    ok(cpu_read_virtual(cpu, 0x8ffc, out, 8, &error), error);
    ck_assert_str_eq(out, "abcdefgh");
    ck_assert(!cpu_read_virtual(cpu, 0x9ffc, out, 8, &error));
    ck_error(error, "0xa000");
    machine_close(m);
}
END_TEST

/* ---- exits ------------------------------------------------------------------------------- */

typedef struct Device {
    uint64_t reads, writes, last;
    uint8_t bytes[32];
} Device;

static uint64_t device_read(void *opaque, hwaddr addr, unsigned size)
{
    Device *d = opaque;

    d->reads++;
    return 0x1000 + d->reads;
}

static void device_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    Device *d = opaque;

    d->bytes[d->writes++ % sizeof(d->bytes)] = (uint8_t)value;
    d->last = value;
}

static const MemoryRegionOps device_ops = { .read = device_read, .write = device_write };

typedef struct Bench {
    Machine *m;
    VCpu *cpu;
    Device port, mmio;
    MemoryRegion port_mr, mmio_mr;
} Bench;

static void bench_open(Bench *b)
{
    memset(b, 0, sizeof(*b));
    b->m = fake_machine(1, IRQCHIP_OFF);
    b->cpu = g_ptr_array_index(b->m->cpus, 0);
    memory_region_init_io(&b->port_mr, NULL, &device_ops, &b->port, "port", 8);
    memory_region_init_io(&b->mmio_mr, NULL, &device_ops, &b->mmio, "mmio", 0x1000);
    memory_region_add_subregion(&b->m->io_root, 0x500, &b->port_mr);
    memory_region_add_subregion(&b->m->memory_root, 0xd0000000, &b->mmio_mr);
}

static void bench_close(Bench *b)
{
    machine_close(b->m);
    memory_region_finalize(&b->port_mr);
    memory_region_finalize(&b->mmio_mr);
}

/* Runs until the guest executes its last step, a triple fault that pauses. */
static void run_program(Bench *b, const FakeStep *program, unsigned n)
{
    GError *error = NULL;

    b->m->on_triple_fault = ON_EVENT_PAUSE;
    fake_load(b->cpu, program, n);
    ok(machine_resume(b->m, &error), error);
    fake_wait_state(b->m, RUN_STATE_PAUSED);
    ck_assert_uint_eq(fake_cpu(b->cpu)->torn, 0);
}

static uint64_t rax(VCpu *cpu)
{
    ok(cpu_fetch_state(cpu, X86_STATE_GPR, NULL), NULL);
    return cpu->state->gpr[X86_RAX];
}

START_TEST(accesses_reach_devices_and_answers_reach_registers)
{
    static const FakeStep program[] = {
        FAKE_OUT(0x500, 0x41, 1),
        FAKE_MMIO_WRITE(0xd0000010, 0x55aa, 4),
        FAKE_IN(0x500, 2),
        FAKE_KIND(CPU_EXIT_SHUTDOWN),
    };
    Bench b;

    bench_open(&b);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(b.port.last, 0x41);
    ck_assert_uint_eq(b.mmio.last, 0x55aa);
    ck_assert_uint_eq(rax(b.cpu), 0x1001);
    ck_assert_uint_eq(b.cpu->stats.exits[CPU_EXIT_PIO], 2);
    ck_assert_uint_eq(b.cpu->stats.exits[CPU_EXIT_MMIO], 1);
    ck_assert_uint_eq(b.cpu->stats.locked, 4); /* three accesses, and telling of the fault */
    ck_assert_str_eq(b.m->reason, "triple fault");
    ck_assert_int_eq(b.cpu->last[2].kind, CPU_EXIT_PIO);
    ck_assert_uint_eq(b.cpu->last[2].value, 0x1001);
    ck_assert_int_eq(b.cpu->last[3].kind, CPU_EXIT_SHUTDOWN);
    bench_close(&b);
}
END_TEST

START_TEST(an_unassigned_port_reads_as_ones)
{
    static const FakeStep program[] = { FAKE_IN(0x777, 2), FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;

    bench_open(&b);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 0xffff);
    bench_close(&b);
}
END_TEST

START_TEST(string_accesses_reach_the_device_item_by_item)
{
    static uint8_t data[64] = { 'h', 'e', 'l', 'l', 'o' };
    static uint8_t zeros[64];
    const FakeStep program[] = {
        { FAKE_EXIT,
          { .kind = CPU_EXIT_PIO,
            .write = true,
            .size = 1,
            .count = 5,
            .addr = 0x500,
            .data = data } },
        { FAKE_EXIT,
          { .kind = CPU_EXIT_PIO, .size = 2, .count = 4, .addr = 0x500, .data = zeros } },
        FAKE_KIND(CPU_EXIT_SHUTDOWN),
    };
    Bench b;

    bench_open(&b);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(b.port.writes, 5);
    ck_assert_mem_eq(b.port.bytes, "hello", 5);
    ck_assert_uint_eq(b.port.reads, 4);
    ck_assert_uint_eq(rax(b.cpu), UINT64_C(0x1004100310021001));
    bench_close(&b);
}
END_TEST

START_TEST(an_accelerator_that_gives_up_leaves_the_machine_in_error)
{
    static const FakeStep program[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_INTERNAL_ERROR, .message = "cannot emulate 0f 0b" } },
    };
    Bench b;
    GError *error = NULL;

    bench_open(&b);
    FAKE_LOAD(b.cpu, program);
    ok(machine_resume(b.m, &error), error);
    fake_wait_state(b.m, RUN_STATE_ERROR);
    ck_assert_str_eq(b.m->reason, "cpu 0: cannot emulate 0f 0b");
    bench_close(&b);
}
END_TEST

START_TEST(exit_kinds_without_sense_are_unknown_not_fatal)
{
    static const FakeStep program[] = { FAKE_KIND((CpuExitKind)99) };
    Bench b;
    GError *error = NULL;

    bench_open(&b);
    FAKE_LOAD(b.cpu, program);
    ok(machine_resume(b.m, &error), error);
    fake_wait_state(b.m, RUN_STATE_ERROR);
    ck_assert_str_eq(b.m->reason, "cpu 0: unknown");
    ck_assert_str_eq(cpu_exit_kind_name((CpuExitKind)99), "invalid");
    bench_close(&b);
}
END_TEST

typedef struct Answer {
    EventAction action;
    uint64_t value;
    bool fault;
    unsigned calls;
    EventRecord seen;
    bool set_rbx;
} Answer;

static EventAction answer(void *opaque, VCpu *cpu, EventRecord *x)
{
    Answer *a = opaque;

    ck_assert(engine_lock_held());
    ck_assert(!engine_may_unlock());
    a->calls++;
    a->seen = *x;
    if (a->set_rbx) {
        ok(cpu_modify_state(cpu, X86_STATE_GPR, NULL), NULL);
        cpu->state->gpr[X86_RBX] = 0x5555;
    }
    x->fault = a->fault;
    x->value = a->value;
    return a->action;
}

static EventHook *hook(Bench *b, EventFilter f, Answer *a)
{
    GError *error = NULL;
    EventHook *h;

    f.cpu = -1;
    h = event_hook_add(b->m->events, &f, answer, a, NULL, &error);
    ok(h != NULL, error);
    return h;
}

START_TEST(a_hook_answers_in_the_place_of_the_device)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_OUT(0x500, 7, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_HANDLED, .value = 0x77 };

    bench_open(&b);
    hook(&b, (EventFilter){ .source = EVENT_PIO, .addr = 0x500, .len = 1 }, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(a.calls, 2);
    ck_assert_uint_eq(b.port.reads + b.port.writes, 0);
    ck_assert_uint_eq(rax(b.cpu), 0x77);
    bench_close(&b);
}
END_TEST

START_TEST(a_hook_that_only_watches_changes_nothing)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_OUT(0x500, 7, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_CONTINUE, .value = 0x77 };

    bench_open(&b);
    hook(&b, (EventFilter){ .source = EVENT_PIO, .addr = 0x500, .len = 1 }, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(a.calls, 2);
    ck_assert_uint_eq(b.port.last, 7);
    ck_assert_uint_eq(rax(b.cpu), 0x1001);
    bench_close(&b);
}
END_TEST

START_TEST(a_hook_that_pauses_lets_the_access_finish_first)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_OUT(0x500, 7, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_PAUSE };
    EventFilter f = { .source = EVENT_PIO, .addr = 0x500, .len = 1, .directions = EVENT_READS };

    bench_open(&b);
    hook(&b, f, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_str_eq(b.m->reason, "hook on pio 0x500");
    ck_assert_uint_eq(rax(b.cpu), 0x1001);
    ck_assert_uint_eq(b.cpu->state->rip, 1);
    ck_assert_uint_eq(b.port.writes, 0);
    bench_close(&b);
}
END_TEST

START_TEST(registers_that_a_hook_sets_survive_the_end_of_the_access)
{
    static const FakeStep program[] = { FAKE_IN(0x500, 2), FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_CONTINUE, .set_rbx = true };

    bench_open(&b);
    hook(&b, (EventFilter){ .source = EVENT_PIO, .addr = 0x500, .len = 1 }, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 0x1001); /* what IN read is not lost either */
    ck_assert_uint_eq(b.cpu->state->gpr[X86_RBX], 0x5555);
    ck_assert_uint_eq(b.cpu->state->rip, 2);
    bench_close(&b);
}
END_TEST

START_TEST(msr_and_hypercall_hooks_answer_or_leave_it_to_the_accelerator)
{
    static const FakeStep program[] = {
        { FAKE_EXIT, { .kind = CPU_EXIT_RDMSR, .addr = 0x10, .value = 123 } },
        { FAKE_EXIT, { .kind = CPU_EXIT_WRMSR, .write = true, .addr = 0x11, .value = 9 } },
        { FAKE_EXIT, { .kind = CPU_EXIT_HYPERCALL, .addr = 42, .args = { 1, 2, 3 } } },
        FAKE_KIND(CPU_EXIT_SHUTDOWN),
    };
    Bench b;
    Answer read = { EVENT_HANDLED, .value = 456 }, write = { EVENT_HANDLED, .fault = true };
    Answer call = { EVENT_CONTINUE };
    EventHook *h;

    bench_open(&b);
    h = hook(&b, (EventFilter){ .source = EVENT_MSR, .addr = 0x10 }, &read);
    hook(&b, (EventFilter){ .source = EVENT_MSR, .addr = 0x11, .directions = EVENT_WRITES },
         &write);
    hook(&b, (EventFilter){ .source = EVENT_HYPERCALL, .addr = 42 }, &call);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 456);
    ck_assert_uint_eq(read.calls, 1);
    ck_assert(read.seen.internal);
    ck_assert_uint_eq(write.calls, 1);
    ck_assert_uint_eq(write.seen.value, 9);
    ck_assert_uint_eq(call.seen.args[2], 3);
    event_hook_remove(h);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(rax(b.cpu), 123);
    bench_close(&b);
}
END_TEST

START_TEST(a_hook_on_an_exit_sees_it_first_and_may_swallow_it)
{
    static const FakeStep program[] = { FAKE_KIND(CPU_EXIT_SHUTDOWN), FAKE_OUT(0x500, 1, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    Answer a = { EVENT_HANDLED };
    EventFilter f = { .source = EVENT_EXIT, .addr = CPU_EXIT_SHUTDOWN, .limit = 1 };

    bench_open(&b);
    hook(&b, f, &a);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(a.calls, 1);
    ck_assert_uint_eq(a.seen.addr, CPU_EXIT_SHUTDOWN);
    ck_assert_uint_eq(b.port.writes, 1);
    bench_close(&b);
}
END_TEST

START_TEST(a_trace_keeps_reads_with_their_answers)
{
    static const FakeStep program[] = { FAKE_OUT(0x500, 9, 1), FAKE_IN(0x500, 2),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    EventFilter f = { .source = EVENT_PIO, .addr = 0x500, .cpu = -1 };
    EventRecord out[4];
    EventRing *ring;
    GError *error = NULL;

    bench_open(&b);
    ring = event_ring_add(b.m->events, &f, 4, &error);
    ok(ring != NULL, error);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(event_ring_copy(ring, out, 4), 2);
    ck_assert(out[0].write && out[0].value == 9);
    ck_assert(!out[1].write && out[1].value == 0x1001);
    event_ring_remove(ring);
    bench_close(&b);
}
END_TEST

/* ---- threads ----------------------------------------------------------------------------- */

static VCpu *cpu_at(Machine *m, unsigned i)
{
    return g_ptr_array_index(m->cpus, i);
}

static void note_thread(VCpu *cpu, void *opaque)
{
    ck_assert_ptr_eq(cpu_current(), cpu);
    ck_assert(engine_lock_held());
    ck_assert(!fake_cpu(cpu)->unfinished);
    ++*(unsigned *)opaque;
}

START_TEST(work_runs_on_the_vcpus_thread_whether_it_runs_or_is_stopped)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } }, FAKE_IN(0x777, 1), FAKE_GOTO(0) };
    Machine *m = fake_machine(2, IRQCHIP_ON);
    unsigned n = 0;

    FAKE_LOAD(cpu_at(m, 0), program);
    FAKE_LOAD(cpu_at(m, 1), program);
    cpu_run_on(cpu_at(m, 0), note_thread, &n);
    ok(machine_resume(m, NULL), NULL);
    for (unsigned i = 0; i < 500; i++) {
        cpu_run_on(cpu_at(m, i & 1), note_thread, &n);
    }
    ck_assert_uint_eq(n, 501);
    machine_pause(m, "test");
    ck_assert_uint_eq(fake_cpu(cpu_at(m, 0))->torn, 0);
    machine_close(m);
}
END_TEST

START_TEST(a_sleeping_guest_is_stopped_by_a_signal)
{
    static const FakeStep program[] = { { FAKE_SLEEP, { 0 } }, FAKE_GOTO(0) };
    Machine *m = fake_machine(3, IRQCHIP_ON);

    for (unsigned i = 0; i < 3; i++) {
        FAKE_LOAD(cpu_at(m, i), program);
    }
    for (unsigned i = 0; i < 1000; i++) {
        ok(machine_resume(m, NULL), NULL);
        machine_pause(m, "test");
        ck_assert_int_eq(m->state, RUN_STATE_PAUSED);
    }
    machine_close(m);
}
END_TEST

START_TEST(registers_of_a_running_vcpu_are_refused)
{
    static const FakeStep program[] = { { FAKE_SLEEP, { 0 } }, FAKE_GOTO(0) };
    Machine *m = fake_machine(1, IRQCHIP_ON);
    GError *error = NULL;

    FAKE_LOAD(cpu_at(m, 0), program);
    ok(machine_resume(m, NULL), NULL);
    ck_assert(!cpu_fetch_state(cpu_at(m, 0), X86_STATE_GPR, &error));
    ck_assert(g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_BUSY));
    ck_error(error, "cpu 0 is running");
    ck_assert(!cpu_modify_state(cpu_at(m, 0), X86_STATE_GPR, &error));
    g_clear_error(&error);
    machine_close(m);
}
END_TEST

START_TEST(changed_registers_reach_the_accelerator_before_the_guest_runs)
{
    static const FakeStep program[] = { { FAKE_COUNT, { 0 } }, FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;

    bench_open(&b);
    b.m->on_triple_fault = ON_EVENT_PAUSE;
    FAKE_LOAD(b.cpu, program);
    b.cpu->state->gpr[X86_RBX] = 41;
    ok(machine_resume(b.m, NULL), NULL);
    fake_wait_state(b.m, RUN_STATE_PAUSED);
    ok(cpu_fetch_state(b.cpu, X86_STATE_GPR, NULL), NULL);
    ck_assert_uint_eq(b.cpu->state->gpr[X86_RBX], 42);
    ck_assert_uint_eq(b.cpu->state_dirty, 0);
    bench_close(&b);
}
END_TEST

static EventAction raise_irq(void *opaque, VCpu *cpu, EventRecord *x)
{
    fake_raise_irq(opaque);
    return EVENT_CONTINUE;
}

START_TEST(a_halted_vcpu_waits_for_an_interrupt_that_it_may_take)
{
    static const FakeStep program[] = { FAKE_KIND(CPU_EXIT_HLT), FAKE_OUT(0x500, 1, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    Bench b;
    unsigned n = 0;

    bench_open(&b);
    b.m->on_triple_fault = ON_EVENT_PAUSE;
    FAKE_LOAD(b.cpu, program);
    ok(machine_resume(b.m, NULL), NULL);
    while (!b.cpu->halted) {
        cpu_run_on(b.cpu, note_thread, &n);
    }
    /* IF is clear: the line alone does not wake it. */
    fake_raise_irq(b.cpu);
    cpu_run_on(b.cpu, note_thread, &n);
    cpu_run_on(b.cpu, note_thread, &n);
    ck_assert(b.cpu->halted);
    machine_pause(b.m, "stop during HLT");
    ck_assert_int_eq(b.m->state, RUN_STATE_PAUSED);
    ck_assert(b.cpu->halted);
    ok(cpu_modify_state(b.cpu, X86_STATE_GPR, NULL), NULL);
    b.cpu->state->rflags |= 0x200;
    fake_cpu(b.cpu)->hw.rflags |= 0x200;
    ok(machine_resume(b.m, NULL), NULL); /* the line is still up: looked at again */
    fake_wait_state(b.m, RUN_STATE_PAUSED);
    ck_assert_str_eq(b.m->reason, "triple fault");
    ck_assert_uint_eq(b.port.writes, 1);
    bench_close(&b);
}
END_TEST

START_TEST(interrupts_from_other_threads_wake_a_halted_vcpu_every_time)
{
    static const FakeStep sleeper[] = { FAKE_KIND(CPU_EXIT_HLT), FAKE_OUT(0x600, 1, 1),
                                        FAKE_GOTO(0) };
    static const FakeStep waker[] = { FAKE_OUT(0x601, 1, 1), FAKE_GOTO(0) };
    Machine *m = fake_machine(2, IRQCHIP_OFF);
    EventFilter f = { .source = EVENT_PIO, .addr = 0x601, .cpu = -1 };
    GError *error = NULL;

    ok(event_hook_add(m->events, &f, raise_irq, cpu_at(m, 0), NULL, &error) != NULL, error);
    FAKE_LOAD(cpu_at(m, 0), sleeper);
    FAKE_LOAD(cpu_at(m, 1), waker);
    cpu_at(m, 0)->state->rflags |= 0x200;
    cpu_at(m, 1)->halted = false; /* no SIPI comes from the test accelerator */
    ok(machine_resume(m, NULL), NULL);
    while (__atomic_load_n(&cpu_at(m, 0)->stats.exits[CPU_EXIT_HLT], __ATOMIC_RELAXED) < 2000) {
        main_loop_iterate(false);
    }
    machine_pause(m, "test");
    machine_close(m);
}
END_TEST

typedef struct LocklessAsk {
    VCpu *target;
} LocklessAsk;

static void lockless_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    LocklessAsk *a = opaque;

    ck_assert(!engine_lock_held());
    fake_raise_irq(a->target);
}

static const MemoryRegionOps lockless_ops = { .write = lockless_write };

START_TEST(a_lockless_device_is_reached_without_the_lock)
{
    static const FakeStep program[] = { FAKE_OUT(0x700, 1, 1), FAKE_OUT(0x777, 1, 1),
                                        FAKE_KIND(CPU_EXIT_SHUTDOWN) };
    static LocklessAsk ask;
    MemoryRegion mr;
    Bench b;

    bench_open(&b);
    ask.target = b.cpu;
    memory_region_init_io(&mr, NULL, &lockless_ops, &ask, "lockless", 1);
    memory_region_set_lockless(&mr);
    memory_region_add_subregion(&b.m->io_root, 0x700, &mr);
    run_program(&b, program, G_N_ELEMENTS(program));
    ck_assert_uint_eq(b.cpu->stats.locked, 1); /* only for telling of the triple fault */
    bench_close(&b);
    memory_region_finalize(&mr);
}
END_TEST

START_TEST(a_lockless_device_may_wake_a_halted_vcpu)
{
    static const FakeStep sleeper[] = { FAKE_KIND(CPU_EXIT_HLT), FAKE_GOTO(0) };
    static const FakeStep waker[] = { FAKE_OUT(0x700, 1, 1), FAKE_GOTO(0) };
    Machine *m = fake_machine(2, IRQCHIP_OFF);
    LocklessAsk ask = { cpu_at(m, 0) };
    MemoryRegion mr;

    memory_region_init_io(&mr, NULL, &lockless_ops, &ask, "lockless", 1);
    memory_region_set_lockless(&mr);
    memory_region_add_subregion(&m->io_root, 0x700, &mr);
    FAKE_LOAD(cpu_at(m, 0), sleeper);
    FAKE_LOAD(cpu_at(m, 1), waker);
    cpu_at(m, 0)->state->rflags |= 0x200;
    cpu_at(m, 1)->halted = false;
    ok(machine_resume(m, NULL), NULL);
    while (__atomic_load_n(&cpu_at(m, 0)->stats.exits[CPU_EXIT_HLT], __ATOMIC_RELAXED) < 1000) {
        main_loop_iterate(false);
    }
    machine_close(m);
    memory_region_finalize(&mr);
}
END_TEST

static Suite *cpu_suite(void)
{
    Suite *s = suite_create("cpu");
    TCase *tc = tcase_create("state");

    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, reset_puts_the_documented_values);
    tcase_add_test(tc, every_register_reads_back_what_was_written_and_touches_no_other);
    tcase_add_test(tc, parts_of_a_register_are_written_as_the_cpu_does);
    tcase_add_test(tc, unknown_register_names_are_unknown);
    tcase_add_test(tc, msrs_are_registers_and_stay_sorted);
    tcase_add_test(tc, vector_registers_are_bytes);
    tcase_add_test(tc, a_dump_names_mode_and_flags);
    tcase_add_test(tc, segments_are_made_as_the_cpu_loads_them);
    tcase_add_test(tc, out_of_range_leaves_give_the_highest_basic_leaf_on_intel_and_zeros_on_amd);
    tcase_add_test(tc, topology_gives_each_vcpu_a_package_of_its_own);
    tcase_add_test(tc, features_have_one_bit_each_and_both_spellings);
    tcase_add_test(tc, a_full_policy_says_so);

    tc = tcase_create("mmu");
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, an_unpaged_address_is_physical_and_ends_at_4_gib);
    tcase_add_test(tc, thirty_two_bit_paging_knows_small_large_and_pse36_pages);
    tcase_add_test(tc, pae_paging_walks_three_levels);
    tcase_add_test(tc, four_level_paging_knows_all_page_sizes_and_canonical_addresses);
    tcase_add_test(tc, tables_that_point_nowhere_or_at_themselves_end_the_walk);
    tcase_add_test(tc, virtual_reads_and_writes_follow_pages_that_are_not_neighbours);

    tc = tcase_create("exits");
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, accesses_reach_devices_and_answers_reach_registers);
    tcase_add_test(tc, an_unassigned_port_reads_as_ones);
    tcase_add_test(tc, string_accesses_reach_the_device_item_by_item);
    tcase_add_test(tc, an_accelerator_that_gives_up_leaves_the_machine_in_error);
    tcase_add_test(tc, exit_kinds_without_sense_are_unknown_not_fatal);
    tcase_add_test(tc, a_hook_answers_in_the_place_of_the_device);
    tcase_add_test(tc, a_hook_that_only_watches_changes_nothing);
    tcase_add_test(tc, a_hook_that_pauses_lets_the_access_finish_first);
    tcase_add_test(tc, registers_that_a_hook_sets_survive_the_end_of_the_access);
    tcase_add_test(tc, msr_and_hypercall_hooks_answer_or_leave_it_to_the_accelerator);
    tcase_add_test(tc, a_hook_on_an_exit_sees_it_first_and_may_swallow_it);
    tcase_add_test(tc, a_trace_keeps_reads_with_their_answers);

    tc = tcase_create("threads");
    suite_add_tcase(s, tc);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, work_runs_on_the_vcpus_thread_whether_it_runs_or_is_stopped);
    tcase_add_test(tc, a_sleeping_guest_is_stopped_by_a_signal);
    tcase_add_test(tc, registers_of_a_running_vcpu_are_refused);
    tcase_add_test(tc, changed_registers_reach_the_accelerator_before_the_guest_runs);
    tcase_add_test(tc, a_halted_vcpu_waits_for_an_interrupt_that_it_may_take);
    tcase_add_test(tc, interrupts_from_other_threads_wake_a_halted_vcpu_every_time);
    tcase_add_test(tc, a_lockless_device_is_reached_without_the_lock);
    tcase_add_test(tc, a_lockless_device_may_wake_a_halted_vcpu);
    return s;
}

int main(void)
{
    SRunner *sr = srunner_create(cpu_suite());
    int failed;

    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
