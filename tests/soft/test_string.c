/* Repeated string instructions can be left between elements and taken up again. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/rcu.h"
#include "rig.h"

static SoftRig *rig;

static void setup(void)
{
    rig = soft_rig_new();
}
static void teardown(void)
{
    soft_rig_free(rig);
}

static void leave_block(SoftCpu *c, const SoftInsn *i)
{
    c->rip += i->off;
}

/* Runs the instruction at CODE_ENTRY until it is over, `budget` instructions at a time; how often
 * it was entered. */
static unsigned run_in_pieces(SoftCpu *c, const uint8_t *code, unsigned len, int64_t budget,
                              bool single)
{
    SoftBlock *b = g_malloc0(sizeof(SoftBlock) + 2 * sizeof(SoftInsn));
    unsigned times = 0;
    bool ends;

    b->n = 1;
    ck_assert_uint_eq(soft_decode(&c->mode, code, len, &b->insns[0], &ends), len);
    ck_assert(ends);
    b->insns[1] = (SoftInsn){ .fn = leave_block, .off = (uint16_t)len };
    c->rip = CODE_ENTRY;
    while (c->rip == CODE_ENTRY && times < 10000) {
        uint64_t before = c->gpr[X86_RCX], done;
        c->budget = budget;
        c->single = single;
        soft_execute_block(c, b);
        done = before - c->gpr[X86_RCX];
        ck_assert_uint_gt(done, 0);
        ck_assert(!single || done == 1);
        times++;
    }
    c->single = false;
    ck_assert_uint_eq(c->rip, CODE_ENTRY + len);
    g_free(b);
    return times;
}

/* Leaves the CPU in 64-bit code with the data page full of zeros. */
static SoftCpu *ready(void)
{
    static Case t;
    static Outcome o;

    t = (Case){ .code = { 0x90 }, .len = 1, .wide = true, .in.flags = 0x202 };
    soft_rig_run(rig, &t, &o);
    return soft_rig_cpu(rig);
}

static uint64_t data_at(SoftCpu *c, uint64_t offset, unsigned len)
{
    return soft_load(c, DATA_ADDR + offset, len);
}

START_TEST(a_repeated_store_goes_on_where_the_budget_stopped_it)
{
    static const uint8_t rep_stosb[] = { 0xf3, 0xaa };
    SoftCpu *c = ready();

    c->flags |= FLAG_DF; /* downwards: element by element */
    c->gpr[X86_RAX] = 0x5a;
    c->gpr[X86_RCX] = 64;
    c->gpr[X86_RDI] = DATA_ADDR + 163;
    ck_assert_uint_gt(run_in_pieces(c, rep_stosb, 2, 10, false), 4);
    ck_assert_uint_eq(c->gpr[X86_RCX], 0);
    ck_assert_uint_eq(c->gpr[X86_RDI], DATA_ADDR + 99);
    for (unsigned n = 100; n < 164; n++) {
        ck_assert_uint_eq(data_at(c, n, 1), 0x5a);
    }
    ck_assert_uint_eq(data_at(c, 99, 1), 0);
    ck_assert_uint_eq(data_at(c, 164, 1), 0);
}
END_TEST

START_TEST(when_each_instruction_traps_a_repeated_one_does_one_element)
{
    static const uint8_t rep_movsb[] = { 0xf3, 0xa4 };
    SoftCpu *c = ready();

    soft_store(c, DATA_ADDR + 8, 0x8877665544332211, 8);
    c->gpr[X86_RCX] = 8;
    c->gpr[X86_RSI] = DATA_ADDR + 8;
    c->gpr[X86_RDI] = DATA_ADDR + 4092; /* into the next page */
    ck_assert_uint_eq(run_in_pieces(c, rep_movsb, 2, 1000, true), 8);
    ck_assert_uint_eq(data_at(c, 4092, 8), 0x8877665544332211);
}
END_TEST

START_TEST(an_overlapping_copy_upwards_repeats_its_pattern)
{
    static const uint8_t rep_movsb[] = { 0xf3, 0xa4 };
    SoftCpu *c = ready();

    soft_store(c, DATA_ADDR + 16, 0x030201, 4);
    c->gpr[X86_RCX] = 300;
    c->gpr[X86_RSI] = DATA_ADDR + 16;
    c->gpr[X86_RDI] = DATA_ADDR + 19;
    run_in_pieces(c, rep_movsb, 2, 1 << 20, false);
    for (unsigned n = 0; n < 303; n++) {
        ck_assert_uint_eq(data_at(c, 16 + n, 1), n % 3 + 1);
    }
    ck_assert_uint_eq(data_at(c, 16 + 303, 1), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("soft CPU strings");
    TCase *tc = tcase_create("all");
    SRunner *runner;
    int failed;

    rcu_thread_register();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, a_repeated_store_goes_on_where_the_budget_stopped_it);
    tcase_add_test(tc, when_each_instruction_traps_a_repeated_one_does_one_element);
    tcase_add_test(tc, an_overlapping_copy_upwards_repeats_its_pattern);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
