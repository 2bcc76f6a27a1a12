/* The architectural state: registers by name, reset, dump, segments; CPUID policies. */
#include <check.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/cpu/cpuid.h"
#include "engine/cpu/x86-state.h"
#include "tests/unit/run_suite.h"

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
    ck_assert(x86_register_set(s, r, 6));
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
    ck_assert(!x86_register_set(s, x86_register_find("msr:0x9999"), 1));
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

static CpuidPolicy *host_like_policy(bool amd)
{
    CpuidPolicy *p = cpuid_policy_new();

    put_leaf(p, 0, -1, amd ? 0x10 : 0x16, amd ? 0x68747541 : 0, amd ? 0x444d4163 : 0,
             amd ? 0x69746e65 : 0);
    put_leaf(p, 1, -1, 0, 0x05100800, 0, 1u << 28);
    put_leaf(p, 4, 0, 0xfc01c121, 0, 0, 0);
    put_leaf(p, 4, 3, 0xfc03c163, 0, 0, 0);
    for (int i = 0; i < 5; i++) {
        put_leaf(p, 0xb, i, 7, 8, 9, 10);
    }
    put_leaf(p, 0x80000000, -1, 0x8000001e, 0, 0, 0);
    put_leaf(p, 0x80000001, -1, 0, 0, 2, 0);
    put_leaf(p, 0x80000008, -1, 0, 0, 0x4007, 0);
    put_leaf(p, 0x8000001d, 0, 0x3ffc121, 0, 0, 0);
    put_leaf(p, 0x8000001d, 3, 0x3ffc163, 0, 0, 0);
    put_leaf(p, 0x8000001e, -1, 7, 7, 7, 0);
    return p;
}

static CpuTopology topology(unsigned sockets, unsigned dies, unsigned cores, unsigned threads,
                            unsigned cpus)
{
    CpuTopology t = { sockets, dies, cores, threads };

    ck_assert(cpu_topology_check(&t, cpus, NULL));
    return t;
}

START_TEST(cpus_of_which_nothing_is_said_are_the_cores_of_one_socket)
{
    g_autofree CpuidPolicy *p = host_like_policy(false);
    CpuTopology t = topology(0, 0, 0, 0, 6);
    uint32_t out[4];

    ck_assert(cpuid_policy_set_topology(p, 5, &t, NULL));
    cpuid_policy_query(p, 1, 0, out);
    ck_assert_uint_eq(out[1], 0x05080800);
    ck_assert_uint_eq(out[3], 1u << 28);
    cpuid_policy_query(p, 4, 0, out);
    ck_assert_uint_eq(out[0], 7u << 26 | 0x121);
    cpuid_policy_query(p, 4, 3, out);
    ck_assert_uint_eq(out[0], 7u << 26 | 7u << 14 | 0x163);
    cpuid_policy_query(p, 0xb, 0, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 0, 1, 0x100, 5 }), sizeof(out));
    cpuid_policy_query(p, 0xb, 1, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 3, 6, 0x201, 5 }), sizeof(out));
    cpuid_policy_query(p, 0xb, 2, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 0, 0, 2, 5 }), sizeof(out));
    cpuid_policy_query(p, 0xb, 9, out);
    ck_assert_uint_eq(out[2], 9);
    ck_assert_uint_eq(out[3], 5);
}
END_TEST

START_TEST(a_cpu_alone_shares_nothing)
{
    g_autofree CpuidPolicy *p = host_like_policy(false);
    CpuTopology t = topology(1, 1, 1, 1, 1);
    uint32_t out[4];

    ck_assert(cpuid_policy_set_topology(p, 0, &t, NULL));
    cpuid_policy_query(p, 1, 0, out);
    ck_assert_uint_eq(out[1], 0x00010800);
    ck_assert_uint_eq(out[3], 0);
    cpuid_policy_query(p, 4, 3, out);
    ck_assert_uint_eq(out[0], 0x163);
    cpuid_policy_query(p, 0xb, 1, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 0, 1, 0x201, 0 }), sizeof(out));
}
END_TEST

START_TEST(sockets_cores_and_threads_show_in_every_leaf)
{
    g_autofree CpuidPolicy *p = host_like_policy(false);
    CpuTopology t = topology(2, 1, 4, 2, 16);
    uint32_t out[4];

    ck_assert(cpuid_policy_set_topology(p, 11, &t, NULL));
    cpuid_policy_query(p, 1, 0, out);
    ck_assert_uint_eq(out[1], 0x0b080800);
    cpuid_policy_query(p, 4, 0, out);
    ck_assert_uint_eq(out[0], 3u << 26 | 1u << 14 | 0x121);
    cpuid_policy_query(p, 4, 3, out);
    ck_assert_uint_eq(out[0], 3u << 26 | 7u << 14 | 0x163);
    cpuid_policy_query(p, 0xb, 0, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 1, 2, 0x100, 11 }), sizeof(out));
    cpuid_policy_query(p, 0xb, 1, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 3, 8, 0x201, 11 }), sizeof(out));
}
END_TEST

START_TEST(dies_show_in_leaf_0x1f_which_then_is_there)
{
    g_autofree CpuidPolicy *p = host_like_policy(false);
    CpuTopology t = topology(2, 2, 2, 2, 16);
    uint32_t out[4];

    ck_assert(cpuid_policy_set_topology(p, 15, &t, NULL));
    cpuid_policy_query(p, 0, 0, out);
    ck_assert_uint_eq(out[0], 0x1f);
    cpuid_policy_query(p, 0x1f, 1, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 2, 4, 0x201, 15 }), sizeof(out));
    cpuid_policy_query(p, 0x1f, 2, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 3, 8, 0x502, 15 }), sizeof(out));
    cpuid_policy_query(p, 0x1f, 3, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 0, 0, 3, 15 }), sizeof(out));
    cpuid_policy_query(p, 0xb, 1, out);
    ck_assert_mem_eq(out, ((uint32_t[]){ 3, 8, 0x201, 15 }), sizeof(out));
}
END_TEST

START_TEST(amd_has_its_own_leaves_for_the_same)
{
    g_autofree CpuidPolicy *p = host_like_policy(true);
    CpuTopology t = topology(2, 1, 4, 2, 16);
    uint32_t out[4];

    ck_assert(cpuid_policy_set_topology(p, 13, &t, NULL));
    cpuid_policy_query(p, 0x80000001, 0, out);
    ck_assert_uint_eq(out[2], 2);
    cpuid_policy_query(p, 0x80000008, 0, out);
    ck_assert_uint_eq(out[2], 0x3007);
    cpuid_policy_query(p, 0x8000001d, 0, out);
    ck_assert_uint_eq(out[0], 1u << 14 | 0x121);
    cpuid_policy_query(p, 0x8000001d, 3, out);
    ck_assert_uint_eq(out[0], 7u << 14 | 0x163);
    cpuid_policy_query(p, 0x8000001e, 0, out);
    ck_assert_uint_eq(out[0], 13);
    ck_assert_uint_eq(out[1], 2 | 1u << 8);
    ck_assert_uint_eq(out[2], 1);
}
END_TEST

START_TEST(a_policy_without_room_for_the_levels_is_an_error)
{
    g_autofree CpuidPolicy *p = host_like_policy(false);
    CpuTopology t = topology(1, 2, 2, 2, 8);
    GError *error = NULL;

    for (uint32_t i = 0; p->n < CPUID_MAX_ENTRIES; i++) {
        ck_assert(cpuid_policy_set(p, &(CpuidEntry){ .function = 0x40000100 + i }, NULL));
    }
    /* The host's leaf 0xb leaves five, which its new levels and those of leaf 0x1f do not fit into.
     */
    ck_assert(!cpuid_policy_set_topology(p, 0, &t, &error));
    ck_error(error, "CPUID leaf 0x1f.");
    g_clear_error(&error);
}
END_TEST

START_TEST(topologies_that_cannot_be_are_refused_by_name)
{
    GError *error = NULL;
    CpuTopology t = { .sockets = 1, .cores = 2 };

    ck_assert(!cpu_topology_check(&t, 3, &error));
    ck_error(error, "3 CPUs do not fit");
    g_clear_error(&error);
    t = (CpuTopology){ .sockets = 2, .cores = 3 };
    ck_assert(!cpu_topology_check(&t, 6, &error));
    ck_error(error, "cores=3 below sockets=2");
    g_clear_error(&error);
    t = (CpuTopology){ .sockets = 1, .cores = 3, .threads = 2 };
    ck_assert(cpu_topology_check(&t, 6, &error));
    t = (CpuTopology){ .sockets = 1, .cores = 1, .threads = 3 };
    ck_assert(cpu_topology_check(&t, 3, &error));
    t = (CpuTopology){ UINT32_MAX, UINT32_MAX, 4, UINT32_MAX };
    ck_assert(!cpu_topology_check(&t, 3, &error));
    g_clear_error(&error);
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

static Suite *x86_suite(void)
{
    Suite *s = suite_create("x86");
    TCase *tc = tcase_create("state");

    suite_add_tcase(s, tc);
    tcase_add_test(tc, reset_puts_the_documented_values);
    tcase_add_test(tc, every_register_reads_back_what_was_written_and_touches_no_other);
    tcase_add_test(tc, parts_of_a_register_are_written_as_the_cpu_does);
    tcase_add_test(tc, unknown_register_names_are_unknown);
    tcase_add_test(tc, msrs_are_registers_and_stay_sorted);
    tcase_add_test(tc, vector_registers_are_bytes);
    tcase_add_test(tc, a_dump_names_mode_and_flags);
    tcase_add_test(tc, segments_are_made_as_the_cpu_loads_them);
    tcase_add_test(tc, out_of_range_leaves_give_the_highest_basic_leaf_on_intel_and_zeros_on_amd);
    tcase_add_test(tc, cpus_of_which_nothing_is_said_are_the_cores_of_one_socket);
    tcase_add_test(tc, a_cpu_alone_shares_nothing);
    tcase_add_test(tc, sockets_cores_and_threads_show_in_every_leaf);
    tcase_add_test(tc, dies_show_in_leaf_0x1f_which_then_is_there);
    tcase_add_test(tc, amd_has_its_own_leaves_for_the_same);
    tcase_add_test(tc, a_policy_without_room_for_the_levels_is_an_error);
    tcase_add_test(tc, topologies_that_cannot_be_are_refused_by_name);
    tcase_add_test(tc, features_have_one_bit_each_and_both_spellings);
    tcase_add_test(tc, a_full_policy_says_so);
    return s;
}

int main(void)
{
    return run_suite(x86_suite());
}
