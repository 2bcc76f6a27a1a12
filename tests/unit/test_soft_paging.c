/* Page walks, the software TLB, and accesses through it. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/soft_core_rig.h"

/* ---- paging -------------------------------------------------------------------------------- */

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX (UINT64_C(1) << 63)

enum {
    PAGING_32,
    PAGING_32_LARGE,
    PAGING_PAE,
    PAGING_PAE_LARGE,
    PAGING_4,
    PAGING_4_2M,
    PAGING_4_1G
};
#define LINEAR UINT64_C(0x403000) /* in every table: entry 1 of the last directory level */

static uint64_t leaf_at, upper_at;
static unsigned entry_size;

/* Tables at 0x10000 that map LINEAR's page to 0x3000 of a page (or large page) at 0. */
static void make_tables(int kind, uint64_t upper, uint64_t leaf)
{
    memset(mem + 0x10000, 0, 0x8000);
    c->cr3 = 0x10000;
    c->cr0 = CR0_PE | CR0_PG;
    c->cr4 = kind <= PAGING_32_LARGE ? CR4_PSE : CR4_PAE;
    c->efer = kind >= PAGING_4 ? EFER_LMA | EFER_LME : 0;
    entry_size = kind <= PAGING_32_LARGE ? 4 : 8;
    upper_at = 0;
    switch (kind) {
    case PAGING_32:
        upper_at = 0x10004;
        leaf_at = 0x11000 + 3 * 4;
        put32(upper_at, (uint32_t)(0x11000 | upper));
        put32(leaf_at, (uint32_t)(0x3000 | leaf));
        break;
    case PAGING_32_LARGE:
        leaf_at = 0x10004;
        put32(leaf_at, (uint32_t)(0 | leaf | PS));
        break;
    case PAGING_PAE:
    case PAGING_PAE_LARGE:
        put64(0x10000, 0x11000 | P);
        break;
    default:
        put64(0x10000, 0x12000 | P | W | U);
        put64(0x12000, 0x11000 | P | W | U);
        break;
    }
    if (kind == PAGING_PAE || kind == PAGING_4) {
        upper_at = 0x11010;
        leaf_at = 0x13000 + 3 * 8;
        put64(upper_at, 0x13000 | upper);
        put64(leaf_at, 0x3000 | leaf);
    } else if (kind == PAGING_PAE_LARGE || kind == PAGING_4_2M) {
        leaf_at = 0x11010;
        put64(leaf_at, 0 | leaf | PS);
    } else if (kind == PAGING_4_1G) {
        leaf_at = 0x12000;
        put64(leaf_at, 0 | leaf | PS);
    }
}

static uint64_t leaf_value(void)
{
    return entry_size == 4 ? (uint32_t)get64(leaf_at) : get64(leaf_at);
}

static uint64_t target(int kind)
{
    return kind == PAGING_4_1G ? LINEAR : 0x3000;
}

typedef struct Rights {
    bool u, w, nx;
} Rights;

/* The manual's rules as a table of questions, apart from the walk's own order. */
static int expected_error(Rights upper, Rights leaf, unsigned access, bool user, bool wp, bool smep,
                          bool smap, bool ac, bool nxe)
{
    bool u = upper.u && leaf.u, w = upper.w && leaf.w, nx = nxe && (upper.nx || leaf.nx);
    bool denied = (user && !u) || (access == SOFT_WRITE && !w && (user || wp)) ||
                  (access == SOFT_FETCH && nx) || (access == SOFT_FETCH && !user && u && smep) ||
                  (access != SOFT_FETCH && !user && u && smap && !ac);

    if (!denied) {
        return -1;
    }
    return PF_PRESENT | (access == SOFT_WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0) |
           (access == SOFT_FETCH && (smep || nxe) ? PF_FETCH : 0);
}

START_TEST(rights_of_both_levels_decide_as_the_manual_says_in_every_paging_mode)
{
    for (int kind = PAGING_32; kind <= PAGING_4_1G; kind++) {
        bool small = kind == PAGING_32 || kind == PAGING_PAE || kind == PAGING_4;
        bool nx_possible = kind >= PAGING_PAE;

        for (unsigned bits = 0; bits < 1u << 12; bits++) {
            Rights upper = { bits & 1, bits & 2, bits & 4 },
                   leaf = { bits & 8, bits & 16, bits & 32 };
            bool user = bits & 64, wp = bits & 128, smep = bits & 256, smap = bits & 512;
            bool ac = bits & 1024, nxe = bits & 2048;

            if (!small) {
                upper = (Rights){ true, true, false };
            }
            if (((upper.nx || leaf.nx) && !nxe) || (nxe && !nx_possible)) {
                continue;
            }
            make_tables(kind, P | (upper.w ? W : 0) | (upper.u ? U : 0) | (upper.nx ? NX : 0),
                        P | (leaf.w ? W : 0) | (leaf.u ? U : 0) | (leaf.nx ? NX : 0));
            c->cr0 |= wp ? CR0_WP : 0;
            c->cr4 |= (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0);
            c->efer |= nxe ? EFER_NXE : 0;
            flat_segments(2, kind >= PAGING_4, user ? 3 : 0);
            c->flags |= ac ? FLAG_AC : 0;
            for (unsigned access = SOFT_READ; access <= SOFT_FETCH; access++) {
                int want = expected_error(upper, leaf, access, user, wp, smep, smap, ac, nxe);
                uint64_t v = 0;
                int got;

                put64(target(kind), 0x9090909090909090);
                c->cr2 = 0;
                got = try_access(LINEAR, 1, access, &v);
                ck_assert_msg(got == (want < 0 ? -1 : EXC_PF) &&
                                  (want < 0 || (int)c->raised.error == want),
                              "kind %d bits %x access %u: fault %d error %x, expected %x", kind,
                              bits, access, got, c->raised.error, (unsigned)want);
                ck_assert(want < 0 || c->cr2 == LINEAR);
            }
        }
    }
}
END_TEST

START_TEST(accessed_and_dirty_bits_are_set_at_use_and_dirty_only_by_a_write)
{
    for (int kind = PAGING_32; kind <= PAGING_4_1G; kind++) {
        uint64_t v = 0;

        make_tables(kind, P | W | U, P | W | U);
        flat_segments(2, kind >= PAGING_4, 0);
        ck_assert_int_eq(try_access(LINEAR, 4, SOFT_READ, &v), -1);
        ck_assert_uint_eq(leaf_value() & (A | D), A);
        if (upper_at) {
            ck_assert_uint_eq(mem[upper_at] & (A | D), A);
        }
        ck_assert_int_eq(try_access(LINEAR, 4, SOFT_WRITE, &v), -1);
        ck_assert_uint_eq(leaf_value() & (A | D), A | D);
        if (upper_at) {
            ck_assert_uint_eq(mem[upper_at] & (A | D), A);
        }
    }
}
END_TEST

START_TEST(missing_and_reserved_entries_fault_with_their_codes)
{
    for (int kind = PAGING_32; kind <= PAGING_4_1G; kind++) {
        uint64_t v = 0;

        make_tables(kind, P | W | U, W | U);
        flat_segments(2, kind >= PAGING_4, 3);
        ck_assert_int_eq(try_access(LINEAR, 1, SOFT_WRITE, &v), EXC_PF);
        ck_assert_uint_eq(c->raised.error, PF_WRITE | PF_USER);
        if (kind == PAGING_32) {
            continue; /* has no reserved bits */
        }
        make_tables(kind, P | W | U,
                    P | W | U | (kind == PAGING_32_LARGE ? 1 << 21 : UINT64_C(1) << 51));
        flat_segments(2, kind >= PAGING_4, 0);
        ck_assert_int_eq(try_access(LINEAR, 1, SOFT_READ, &v), EXC_PF);
        ck_assert_uint_eq(c->raised.error, PF_PRESENT | PF_RESERVED);
        if (kind >= PAGING_PAE) {
            make_tables(kind, P | W | U, P | W | U | NX); /* NX is reserved while EFER.NXE is 0 */
            soft_tlb_flush(c, true);
            ck_assert_int_eq(try_access(LINEAR, 1, SOFT_READ, &v), EXC_PF);
            ck_assert_uint_eq(c->raised.error, PF_PRESENT | PF_RESERVED);
        }
    }
}
END_TEST

START_TEST(tables_that_lie_nowhere_or_name_themselves_end_in_a_fault_or_a_page)
{
    uint64_t v = 0;

    make_tables(PAGING_4, P | W | U, P | W | U);
    flat_segments(2, true, 0);
    c->cr3 = 0x700000000; /* nothing there: all ones, so reserved bits are set */
    ck_assert_int_eq(try_access(LINEAR, 1, SOFT_READ, &v), EXC_PF);
    ck_assert_uint_eq(c->raised.error, PF_PRESENT | PF_RESERVED);
    c->cr3 = 0x10000;
    put64(0x10000 + 511 * 8, 0x10000 | P | W);
    soft_tlb_flush(c, true);
    ck_assert_int_eq(try_access(0xfffffffffffff000, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v & ~UINT64_C(0xfff), 0x12000);
    ck_assert_int_eq(try_access(0x0000800000000000, 8, SOFT_READ, &v), EXC_GP);
    ck_assert_int_eq(try_access(0x00007ffffffffffc, 8, SOFT_READ, &v), EXC_PF);
}
END_TEST

START_TEST(an_entry_stays_until_it_is_flushed_and_a_global_one_over_cr3_loads)
{
    uint64_t v = 0;

    for (int global = 0; global < 2; global++) {
        make_tables(PAGING_4, P | W | U, P | W | U | (global ? G : 0));
        c->cr4 |= CR4_PGE;
        flat_segments(2, true, 0);
        put64(0x3000, 0x1111);
        put64(0x5000, 0x2222);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, 0x1111);
        put64(leaf_at, 0x5000 | P | W | U);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, 0x1111); /* architecturally stale */
        soft_tlb_flush(c, false);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, global ? 0x1111 : 0x2222);
        put64(leaf_at, 0x5000 | P | W | U);
        soft_tlb_flush_page(c, LINEAR + 5);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, 0x2222);
    }
}
END_TEST

START_TEST(flushing_one_address_of_a_large_page_forgets_all_of_it)
{
    uint64_t v = 0;

    make_tables(PAGING_4_2M, 0, P | W | U);
    flat_segments(2, true, 0);
    put64(0x3000, 0x1111);
    put64(0x203000, 0x2222);
    ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
    put64(leaf_at, 0x200000 | P | W | U | PS);
    soft_tlb_flush_page(c, LINEAR + 0x100000);
    ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0x2222);
}
END_TEST

/* ---- accesses ------------------------------------------------------------------------------ */

START_TEST(a_write_over_two_pages_changes_nothing_when_the_second_faults)
{
    uint64_t v = 0x8877665544332211;

    make_tables(PAGING_4, P | W | U, P | W | U);
    flat_segments(2, true, 0);
    put64(0x3ff8, 0);
    ck_assert_int_eq(try_access(LINEAR + 0xffc, 8, SOFT_WRITE, &v), EXC_PF);
    ck_assert_uint_eq(c->cr2, LINEAR + 0x1000);
    ck_assert_uint_eq(get64(0x3ff8), 0);
    put64(leaf_at + 8, 0x6000 | P | W);
    ck_assert_int_eq(try_access(LINEAR + 0xffc, 8, SOFT_WRITE, &v), -1);
    ck_assert_uint_eq(get64(0x3ff8), UINT64_C(0x4433221100000000));
    ck_assert_uint_eq(get64(0x6000) & 0xffffffff, 0x88776655);
    v = 0;
    ck_assert_int_eq(try_access(LINEAR + 0xffc, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0x8877665544332211);
}
END_TEST

START_TEST(devices_are_reached_at_each_access_and_nowhere_reads_as_ones)
{
    uint64_t v = 0xabcd;

    ck_assert_int_eq(try_access(MMIO + 8, 4, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0x55667788);
    ck_assert_int_eq(try_access(MMIO + 8, 4, SOFT_READ, &v), -1);
    ck_assert_uint_eq(mmio_calls, 2);
    v = 0xabcd;
    ck_assert_int_eq(try_access(MMIO, 2, SOFT_WRITE, &v), -1);
    ck_assert_uint_eq(mmio_last, 0xabcd);
    ck_assert_int_eq(try_access(0x40000000, 4, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0xffffffff);
    ck_assert_ptr_null(soft_host(c, MMIO, 4, SOFT_READ));
}
END_TEST

START_TEST(memory_that_moves_is_found_at_its_new_place_when_the_guest_runs_again)
{
    uint64_t v = 0;

    put64(0x5000, 77);
    soft_rcu_enter(c);
    ck_assert_int_eq(try_access(0x5000, 8, SOFT_READ, &v), -1);
    soft_rcu_leave(c);
    memory_region_set_address(&ram, 0x1000000);
    soft_rcu_enter(c);
    ck_assert_int_eq(try_access(0x5000, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, UINT64_MAX);
    ck_assert_int_eq(try_access(0x1005000, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 77);
    soft_rcu_leave(c);
}
END_TEST

START_TEST(pages_written_through_the_tlb_are_dirty_again_after_the_log_was_read)
{
    uint64_t v = 1;

    memory_region_set_log(&ram, true, DIRTY_DISPLAY);
    soft_rcu_enter(c);
    ck_assert_int_eq(try_access(0x5000, 4, SOFT_WRITE, &v), -1);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x5000, 0x1000, DIRTY_DISPLAY));
    ck_assert_int_eq(try_access(0x5004, 4, SOFT_WRITE, &v), -1); /* hits: nobody is told yet */
    soft_attention(c, SOFT_ATTN_SYNC);
    soft_rcu_leave(c);
    soft_rcu_enter(c);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x5000, 0x1000, DIRTY_DISPLAY));
    soft_rcu_leave(c);
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0x5000, 0x1000, DIRTY_DISPLAY));
}
END_TEST

START_TEST(segments_are_checked_for_limit_direction_and_type)
{
    struct {
        uint8_t type;
        uint32_t limit;
        uint64_t offset;
        unsigned len;
        bool write;
        int vector;
    } cases[] = {
        { 3, 0xfff, 0xffc, 4, true, -1 },          { 3, 0xfff, 0xffd, 4, true, EXC_GP },
        { 1, 0xfff, 0, 1, true, EXC_GP },          { 1, 0xfff, 0, 1, false, -1 },
        { 0xb, 0xfff, 0, 1, false, -1 },           { 9, 0xfff, 0, 1, false, EXC_GP },
        { 0xb, 0xfff, 0, 1, true, EXC_GP },        { 7, 0xfff, 0xfff, 1, true, EXC_GP },
        { 7, 0xfff, 0x1000, 4, true, -1 },         { 7, 0xfff, 0xffffffff, 1, true, -1 },
        { 7, 0xfff, 0xffffffff, 2, true, EXC_GP },
    };

    c->flat_segments = false;
    for (volatile unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        volatile int vector = -1;

        c->seg[X86_DS] = (X86Segment){ .base = 0x1000,
                                       .limit = cases[i].limit,
                                       .type = cases[i].type,
                                       .s = true,
                                       .db = true,
                                       .present = true };
        if (sigsetjmp(c->escape, 0) == 0) {
            uint64_t linear = soft_segment_linear(c, X86_DS, cases[i].offset, cases[i].len,
                                                  cases[i].write);

            ck_assert_uint_eq(linear, (uint32_t)(0x1000 + cases[i].offset));
        } else {
            vector = c->raised.vector;
        }
        ck_assert_msg(vector == cases[i].vector, "case %u: %d", i, vector);
    }
    c->seg[X86_SS] = c->seg[X86_DS];
    if (sigsetjmp(c->escape, 0) == 0) {
        soft_segment_linear(c, X86_SS, 0, 1, false);
        ck_abort_msg("below an expand-down stack");
    }
    ck_assert_uint_eq(c->raised.vector, EXC_SS);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("soft-paging");
    TCase *tc = tcase_create("paging");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, rights_of_both_levels_decide_as_the_manual_says_in_every_paging_mode);
    tcase_add_test(tc, accessed_and_dirty_bits_are_set_at_use_and_dirty_only_by_a_write);
    tcase_add_test(tc, missing_and_reserved_entries_fault_with_their_codes);
    tcase_add_test(tc, tables_that_lie_nowhere_or_name_themselves_end_in_a_fault_or_a_page);
    tcase_add_test(tc, an_entry_stays_until_it_is_flushed_and_a_global_one_over_cr3_loads);
    tcase_add_test(tc, flushing_one_address_of_a_large_page_forgets_all_of_it);
    tcase_add_test(tc, a_write_over_two_pages_changes_nothing_when_the_second_faults);
    tcase_add_test(tc, devices_are_reached_at_each_access_and_nowhere_reads_as_ones);
    tcase_add_test(tc, memory_that_moves_is_found_at_its_new_place_when_the_guest_runs_again);
    tcase_add_test(tc, pages_written_through_the_tlb_are_dirty_again_after_the_log_was_read);
    tcase_add_test(tc, segments_are_checked_for_limit_direction_and_type);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
