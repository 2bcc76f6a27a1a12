/* Decoded blocks and the run loop: code that changes, moves, ends. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/soft_core_rig.h"

/* ---- running ------------------------------------------------------------------------------- */

static void run_at(uint64_t rip, int64_t instructions)
{
    c->rip = rip;
    c->icount = 0;
    ck_assert_int_eq(soft_run(c, instructions), SOFT_STOP_BUDGET);
}

static void put_code(uint64_t at, const void *code, unsigned len)
{
    ck_assert_uint_eq(address_space_write(as, at, MEMTXATTRS_NONE, code, len), MEMTX_OK);
}

START_TEST(a_loop_runs_until_its_budget_is_used_up)
{
    put_code(0x1000, "\x40\xeb\xfd", 3); /* inc eax; jmp to it */
    c->gpr[X86_RAX] = 0;
    run_at(0x1000, 2000);
    ck_assert_uint_eq(c->gpr[X86_RAX], 1000);
    ck_assert_uint_eq(c->icount, 2000);
    ck_assert_uint_eq(c->rip, 0x1000);
}
END_TEST

START_TEST(code_that_writes_the_next_instruction_executes_what_it_wrote)
{
    /* mov byte [0x1008], 42; mov al, 1; jmp $ */
    put_code(0x1000, "\xc6\x05\x08\x10\x00\x00\x2a\xb0\x01\xeb\xfe", 11);
    run_at(0x1000, 20);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 42);
    /* The same once more, now that the block was known: the byte goes back and forth. */
    put_code(0x1008, "\x01", 1);
    run_at(0x1007, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 1);
    run_at(0x1000, 20);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 42);
}
END_TEST

START_TEST(a_locked_write_into_the_running_block_counts_for_the_next_instruction)
{
    /* mov ecx, 41; lock xadd [0x100d], cl … the immediate below; mov al, 1; jmp $ */
    put_code(0x1000, "\xb1\x29\xf0\x0f\xc0\x0d\x0d\x10\x00\x00\x90\x90\xb0\x01\xeb\xfe", 16);
    run_at(0x1000, 20);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 42);
}
END_TEST

START_TEST(code_seen_at_two_addresses_is_one_and_changes_in_both)
{
    MemoryRegion alias;

    memory_region_init_alias(&alias, NULL, "alias", &ram, 0, 0x10000);
    memory_region_add_subregion(&root, 0x2000000, &alias);
    put_code(0x1000, "\xb0\x01\xeb\xfe", 4);
    run_at(0x2001000, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 1);
    put_code(0x1001, "\x07", 1);
    run_at(0x2001000, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 7);
    memory_region_del_subregion(&root, &alias);
    memory_region_finalize(&alias);
}
END_TEST

START_TEST(data_beside_code_does_not_drop_it_and_writes_of_devices_to_code_do)
{
    uint64_t made = 0, again = 0, flushes = 0;

    /* inc dword [0x1800]; jmp to it: the page holds both */
    put_code(0x1000, "\xff\x05\x00\x18\x00\x00\xeb\xf8", 8);
    put32(0x1800, 0);
    run_at(0x1000, 2);
    soft_blocks_count(c, &made, &flushes);
    run_at(0x1000, 2000);
    soft_blocks_count(c, &again, &flushes);
    ck_assert_uint_eq(made, again);
    ck_assert_uint_eq(get64(0x1800) & 0xffffffff, 1001);
    put_code(0x1001, "\x0d", 1); /* a device makes it DEC */
    run_at(0x1000, 2000);
    ck_assert_uint_eq(get64(0x1800) & 0xffffffff, 1);
}
END_TEST

START_TEST(an_instruction_over_a_page_boundary_runs_and_follows_changes_of_both_pages)
{
    put_code(0x1ffe, "\xb8\x78\x56\x34\x12\xeb\xfe", 7); /* mov eax, 0x12345678; jmp $ */
    run_at(0x1ffe, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x12345678);
    put_code(0x2002, "\x99", 1);
    run_at(0x1ffe, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x99345678);
    put_code(0x1fff, "\x11", 1);
    run_at(0x1ffe, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x99345611);
}
END_TEST

START_TEST(code_in_device_memory_runs_byte_by_byte)
{
    /* The device reads 88 77 66 55 44 33 22 11: mov [edi+0x66], dh; push ebp; inc esp; … */
    c->gpr[X86_RDI] = 0x3000;
    c->gpr[X86_RDX] = 0x5a00;
    c->gpr[X86_RSP] = 0x4000;
    run_at(MMIO, 2);
    ck_assert_uint_eq(mem[0x3066], 0x5a);
    ck_assert_uint_eq(c->rip, MMIO + 4);
}
END_TEST

START_TEST(a_kick_ends_an_endless_loop)
{
    put_code(0x1000, "\xeb\xfe", 2);
    c->rip = 0x1000;
    soft_attention(c, SOFT_ATTN_KICK);
    ck_assert_int_eq(soft_run(c, INT64_MAX), SOFT_STOP_KICKED);
    ck_assert_uint_eq(c->rip, 0x1000);
}
END_TEST

START_TEST(a_step_executes_one_instruction)
{
    put_code(0x1000, "\x40\x40\x40\xeb\xfe", 5);
    c->gpr[X86_RAX] = 0;
    for (unsigned i = 1; i <= 3; i++) {
        c->rip = 0x1000 + i - 1;
        c->step = true;
        ck_assert_int_eq(soft_run(c, INT64_MAX), SOFT_STOP_DEBUG);
        ck_assert_uint_eq(c->debug_stop, CPU_DEBUG_STEP);
        ck_assert_uint_eq(c->gpr[X86_RAX], i);
        ck_assert_uint_eq(c->rip, 0x1000 + i);
    }
}
END_TEST

START_TEST(the_cache_survives_more_code_than_it_holds)
{
    /* 2000 rounds over changing code: the arena is emptied and used anew. */
    for (unsigned round = 0; round < 300; round++) {
        for (uint64_t at = 0x100000; at < 0x140000; at += 0x400) {
            const uint8_t code[] = { 0xb0, (uint8_t)round, 0xe9, 0xf9, 0x03, 0, 0 };

            memcpy(mem + at, code, sizeof(code));
            ram_block_set_dirty(ram.ram, at, sizeof(code));
        }
        put_code(0x140000, "\xeb\xfe", 2);
        run_at(0x100000, 600);
        ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, round & 0xff);
        ck_assert_uint_eq(c->rip, 0x140000);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("soft-blocks");
    TCase *tc = tcase_create("blocks");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_loop_runs_until_its_budget_is_used_up);
    tcase_add_test(tc, code_that_writes_the_next_instruction_executes_what_it_wrote);
    tcase_add_test(tc, a_locked_write_into_the_running_block_counts_for_the_next_instruction);
    tcase_add_test(tc, code_seen_at_two_addresses_is_one_and_changes_in_both);
    tcase_add_test(tc, data_beside_code_does_not_drop_it_and_writes_of_devices_to_code_do);
    tcase_add_test(tc, an_instruction_over_a_page_boundary_runs_and_follows_changes_of_both_pages);
    tcase_add_test(tc, code_in_device_memory_runs_byte_by_byte);
    tcase_add_test(tc, a_kick_ends_an_endless_loop);
    tcase_add_test(tc, a_step_executes_one_instruction);
    tcase_add_test(tc, the_cache_survives_more_code_than_it_holds);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
