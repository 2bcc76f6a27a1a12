/* KVM: every exit. */
#include "tests/unit/kvm_rig.h"

static void setup(void)
{
    main_loop_init();
    module_call_init(MODULE_INIT_QOM);
}

static void teardown(void)
{
    main_loop_finalize();
}

START_TEST(port_accesses_of_every_size_reach_the_device_in_order)
{
    Rig *r = rig_new(IRQCHIP_OFF, false, 1 * MiB);
    rig_start(r, "pio");
    rig_run(r);
    ck_assert_msg(r->finished, "%s", r->m->reason);
    static const RigValue want[] = {
        { 0x500, 0x11, 1 },   { 0x500, 0x2211, 2 }, { 0x500, 0x44332211, 4 }, { 0x500, 1, 4 },
        { 0x500, 2, 4 },      { 0x500, 3, 4 },      { 0x500, 10, 1 },         { 0x500, 11, 1 },
        { 0x500, 12, 1 },     { 0x500, 13, 1 },     { 0x500, 14, 1 },         { 0x500, 0x1001, 2 },
        { 0x500, 0x1002, 2 }, { 0x500, 0x1003, 2 }, { 0x500, 4, 4 },          { 0x500, 5, 4 },
        { 0x500, 6, 4 },      { 0x500, 7, 4 },
    };
    ck_assert_uint_ge(r->n, G_N_ELEMENTS(want));
    for (unsigned i = 0; i < G_N_ELEMENTS(want); i++) {
        ck_assert_msg(r->got[i].value == want[i].value && r->got[i].size == want[i].size,
                      "write %u is %#lx size %u", i, (long)r->got[i].value, r->got[i].size);
    }
    ck_assert_uint_eq(r->next_source, 7 + 3000);
    rig_free(r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kvm");
    TCase *tc = tcase_create("exits");
    tcase_set_timeout(tc, 20);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, port_accesses_of_every_size_reach_the_device_in_order);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
