/* Page walks of the vCPU: all modes, tables that point nowhere, virtual reads and writes. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/cpu/cpu.h"
#include "fake-rig.h"
#include "tests/unit/run_suite.h"

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

int main(void)
{
    Suite *suite = suite_create("mmu");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, an_unpaged_address_is_physical_and_ends_at_4_gib);
    tcase_add_test(tc, thirty_two_bit_paging_knows_small_large_and_pse36_pages);
    tcase_add_test(tc, pae_paging_walks_three_levels);
    tcase_add_test(tc, four_level_paging_knows_all_page_sizes_and_canonical_addresses);
    tcase_add_test(tc, tables_that_point_nowhere_or_at_themselves_end_the_walk);
    tcase_add_test(tc, virtual_reads_and_writes_follow_pages_that_are_not_neighbours);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
