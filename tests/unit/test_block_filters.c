/* Filters and overlays of the block layer: what each shows, loses, delays and copies. */
#include "block_rig.h"

static BlockNode *file_node(const char *path, bool read_only)
{
    BlockOpenOptions o = { .format = "raw", .read_only = read_only, .discard = true };
    GError *error = NULL;
    BlockNode *node = block_open(path, &o, &error);

    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    return node;
}

static char *pattern_file(const char *name, uint64_t bytes)
{
    char *path = new_file(name, bytes);
    g_autofree uint8_t *data = g_malloc(bytes);
    FILE *f = fopen(path, "wb");

    for (uint64_t i = 0; i < bytes; i++) {
        data[i] = (uint8_t)(i >> 9 ^ i);
    }
    ck_assert_uint_eq(fwrite(data, 1, bytes, f), bytes);
    fclose(f);
    return path;
}

static BlockNode *top_of(const char *driver, BlockNode *below)
{
    GError *error = NULL;
    BlockNode *top = block_node_on_top(driver, below, &error);

    ck_assert_msg(top != NULL, "%s", error ? error->message : "");
    return top;
}

/* ---- overlay ----------------------------------------------------------------------------------
 */

START_TEST(an_overlay_matches_a_model_and_leaves_what_is_below_alone)
{
    uint64_t size = 3 * MiB + 512 * 3;
    g_autofree char *path = new_file("disk", size), *content = NULL;
    BlockBackend *be = drive_on(top_of("overlay", file_node(path, true)));
    gsize n;

    ck_assert(!block_read_only(be));
    model_run(be, _i ? 512 : 1, 60, true, (uint32_t)_i + 40);
    close_drive(be);
    ck_assert(g_file_get_contents(path, &content, &n, NULL));
    ck_assert_uint_eq(n, size);
    for (gsize i = 0; i < n; i++) { /* an assertion a byte would take minutes */
        if (content[i]) {
            ck_abort_msg("byte %zu was written", (size_t)i);
        }
    }
}
END_TEST

START_TEST(a_part_of_a_grain_keeps_the_rest_from_below)
{
    g_autofree char *path = pattern_file("disk", 64 * KiB);
    BlockBackend *be = drive_on(top_of("overlay", file_node(path, true)));
    uint8_t byte = 0x99, buf[8192];
    BlockStatus st;

    ck_assert(block_write_wait(be, 5000, &byte, 1, 0, NULL));
    ck_assert(block_zero_wait(be, 6000, 10, 0, NULL));
    ck_assert(block_read_wait(be, 4096, buf, sizeof(buf), NULL));
    for (unsigned i = 0; i < sizeof(buf); i++) {
        unsigned at = 4096 + i;
        uint8_t expected = (uint8_t)(at >> 9 ^ at);

        expected = at == 5000 ? 0x99 : at >= 6000 && at < 6010 ? 0 : expected;
        if (buf[i] != expected) {
            ck_abort_msg("byte %u is %#x", at, buf[i]);
        }
    }
    ck_assert(block_status_wait(be, 0, 64 * KiB, &st, NULL));
    ck_assert_uint_eq(st.bytes, 4096);
    ck_assert(!(st.flags & BLOCK_STATUS_ALLOCATED));
    ck_assert_uint_eq(st.depth, 1);
    ck_assert(block_status_wait(be, 4096, 60 * KiB, &st, NULL));
    ck_assert_uint_eq(st.bytes, 4096);
    ck_assert(st.flags & BLOCK_STATUS_ALLOCATED);
    close_drive(be);
}
END_TEST

/* ---- copy on read ------------------------------------------------------------------------------
 */

START_TEST(what_is_read_is_copied_into_the_top)
{
    g_autofree char *path = pattern_file("disk", 256 * KiB);
    BlockBackend *be = drive_on(top_of("copy-on-read", top_of("overlay", file_node(path, true))));
    uint8_t buf[3 * 4096];
    BlockStatus st;

    ck_assert(block_read_wait(be, 8192, buf, sizeof(buf), NULL));
    ck_assert_uint_eq(buf[513], (uint8_t)((8192 + 513) >> 9 ^ (8192 + 513)));
    ck_assert(block_status_wait(be, 8192, 64 * KiB, &st, NULL));
    ck_assert(st.flags & BLOCK_STATUS_ALLOCATED);
    ck_assert_uint_eq(st.bytes, sizeof(buf));
    close_drive(be);
}
END_TEST

START_TEST(copies_and_writes_do_not_overtake_each_other)
{
    g_autofree char *path = new_file("disk", 2 * MiB);
    BlockBackend *be = drive_on(top_of("copy-on-read", top_of("overlay", file_node(path, true))));

    model_run(be, 512, 60, true, 99);
    close_drive(be);
}
END_TEST

/* ---- throttle ----------------------------------------------------------------------------------
 */

START_TEST(a_throttle_holds_requests_back_and_a_drain_lets_them_go)
{
    GError *error = NULL;
    BlockNode *node = block_node_new("throttle", &error), *ram = file_node("ram:1M", false);
    Result r[20] = { { 0 } };
    uint8_t buf[4096];
    unsigned finished = 0;
    BlockBackend *be;

    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(ram), &error));
    ck_assert(object_property_parse(OBJECT(node), "bps-total", "4096", &error));
    object_unref(ram);
    be = drive_on(node);
    for (unsigned i = 0; i < 20; i++) {
        block_read(be, 0, buf, sizeof(buf), on_done, &r[i]);
    }
    LOOP_UNTIL(r[0].finished);
    for (unsigned i = 0; i < 20; i++) {
        finished += r[i].finished;
    }
    ck_assert_uint_lt(finished, 20); /* the rest would take twenty seconds */
    ck_assert(block_drain(be, &error));
    for (unsigned i = 0; i < 20; i++) {
        ck_assert(r[i].finished && r[i].error == 0);
    }
    close_drive(be);
}
END_TEST

START_TEST(a_waiting_request_can_be_cancelled)
{
    GError *error = NULL;
    BlockNode *node = block_node_new("throttle", &error), *ram = file_node("ram:1M", false);
    Result r[3] = { { 0 } };
    uint8_t buf[4096];
    BlockAio *aio = NULL;
    BlockBackend *be;

    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(ram), &error));
    ck_assert(object_property_parse(OBJECT(node), "iops-read", "1", &error));
    ck_assert(object_property_parse(OBJECT(node), "iops-read-max", "2", &error));
    object_unref(ram);
    be = drive_on(node);
    for (unsigned i = 0; i < 3; i++) {
        aio = block_read(be, 0, buf, sizeof(buf), on_done, &r[i]);
    }
    if (!r[2].finished) {
        block_cancel(aio);
    }
    LOOP_UNTIL(r[2].finished);
    ck_assert(r[2].error == ECANCELED || r[2].error == 0);
    close_drive(be);
}
END_TEST

START_TEST(limits_that_contradict_each_other_are_refused)
{
    static const char *const wrong[][4] = {
        { "iops-total", "10", "iops-read", "5" },
        { "bps-read-max", "10", "iops-size", "0" },
        { "bps-read", "10", "bps-read-max", "5" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        GError *error = NULL;
        BlockNode *node = block_node_new("throttle", &error), *ram = file_node("ram:1M", false);

        ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(ram), &error));
        object_unref(ram);
        ck_assert(object_property_parse(OBJECT(node), wrong[i][0], wrong[i][1], &error));
        ck_assert(object_property_parse(OBJECT(node), wrong[i][2], wrong[i][3], &error));
        ck_assert(!block_node_open(node, &error));
        g_clear_error(&error);
        object_unref(node);
    }
}
END_TEST

/* ---- faults ------------------------------------------------------------------------------------
 */

typedef struct Plan {
    uint64_t at; /* which request; 0: every */
    BlockOp op;
    BlockFault fault;
    unsigned seen;
} Plan;

static void planned(void *opaque, BlockScriptRequest *r)
{
    Plan *p = opaque;
    BlockFault none = { .torn = -1 };

    p->seen++;
    if (block_script_op(r) == p->op && (!p->at || block_script_index(r) == p->at)) {
        block_fault_resolve(r, &p->fault);
    } else {
        block_fault_resolve(r, &none);
    }
}

static const BlockScriptOps planned_ops = { planned };

static BlockBackend *faulty(const char *path, bool is_volatile, BlockNode **filter)
{
    GError *error = NULL;
    BlockBackend *be = drive_on(file_node(path, false));

    *filter = block_node_new("fault", &error);
    ck_assert(object_property_set_bool(OBJECT(*filter), "volatile", is_volatile, &error));
    ck_assert_msg(block_insert_filter(be, *filter, &error), "%s", error ? error->message : "");
    return be;
}

START_TEST(the_chosen_request_fails_and_no_other)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .at = 3, .op = BLOCK_OP_READ, .fault = { .error = EIO, .torn = -1 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, false, &filter);
    uint8_t buf[512];

    block_script_set(filter, &planned_ops, &plan);
    for (unsigned i = 1; i <= 5; i++) {
        ck_assert_int_eq(block_read_wait(be, 0, buf, 512, NULL), i != 3);
    }
    ck_assert_uint_eq(plan.seen, 5);
    close_drive(be);
}
END_TEST

START_TEST(a_torn_write_leaves_its_beginning)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .op = BLOCK_OP_WRITE, .fault = { .error = EIO, .torn = 700 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, _i, &filter);
    uint8_t buf[2048];

    block_script_set(filter, &planned_ops, &plan);
    memset(buf, 7, sizeof(buf));
    ck_assert(!block_write_wait(be, 0, buf, sizeof(buf), 0, NULL));
    ck_assert(block_read_wait(be, 0, buf, sizeof(buf), NULL));
    ck_assert_uint_eq(buf[699], 7);
    ck_assert_uint_eq(buf[700], 0);
    close_drive(be);
}
END_TEST

START_TEST(a_delayed_request_comes_later_and_a_drain_hurries_it)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .at = 1,
                  .op = BLOCK_OP_READ,
                  .fault = { .delay_ns = 3600 * NS_PER_SEC, .torn = -1 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, false, &filter);
    Result slow = { 0 }, fast = { 0 };
    uint8_t buf[512];

    block_script_set(filter, &planned_ops, &plan);
    block_read(be, 0, buf, 512, on_done, &slow);
    block_read(be, 0, buf, 512, on_done, &fast);
    LOOP_UNTIL(fast.finished);
    ck_assert(!slow.finished);
    ck_assert(block_drain(be, NULL));
    ck_assert(slow.finished);
    close_drive(be);
}
END_TEST

START_TEST(a_power_cut_loses_what_was_not_flushed_and_nothing_else)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .at = 5, .op = BLOCK_OP_WRITE, .fault = { .power_cut = true, .torn = -1 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, true, &filter);
    uint8_t buf[512];

    block_script_set(filter, &planned_ops, &plan);
    memset(buf, 1, sizeof(buf));
    ck_assert(block_write_wait(be, 0, buf, 512, 0, NULL));
    ck_assert(block_flush_wait(be, NULL));
    ck_assert(block_write_wait(be, 512, buf, 512, 0, NULL));
    ck_assert(block_read_wait(be, 512, buf, 512, NULL)); /* the cache shows it */
    ck_assert_uint_eq(buf[0], 1);
    ck_assert(!block_write_wait(be, 1024, buf, 512, 0, NULL));
    ck_assert(!block_read_wait(be, 0, buf, 512, NULL));
    block_script_set(filter, NULL, NULL);
    block_fault_power_on(filter);
    ck_assert(block_read_wait(be, 0, buf, 512, NULL));
    ck_assert_uint_eq(buf[0], 1);
    ck_assert(block_read_wait(be, 512, buf, 512, NULL));
    ck_assert_uint_eq(buf[0], 0);
    close_drive(be);
}
END_TEST

START_TEST(a_power_cut_may_keep_some_writes)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .at = 65,
                  .op = BLOCK_OP_WRITE,
                  .fault = {
                      .power_cut = true, .torn = -1, .keep_some = true, .keep_seed = 4711 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, true, &filter);
    uint8_t buf[512];
    unsigned kept = 0;

    block_script_set(filter, &planned_ops, &plan);
    memset(buf, 1, sizeof(buf));
    for (unsigned i = 0; i < 64; i++) {
        ck_assert(block_write_wait(be, 512 * i, buf, 512, 0, NULL));
    }
    ck_assert(!block_write_wait(be, 0, buf, 512, 0, NULL));
    block_script_set(filter, NULL, NULL);
    block_fault_power_on(filter);
    for (unsigned i = 0; i < 64; i++) {
        ck_assert(block_read_wait(be, 512 * i, buf, 512, NULL));
        kept += buf[0];
    }
    ck_assert_uint_gt(kept, 5);
    ck_assert_uint_lt(kept, 59);
    close_drive(be);
}
END_TEST

START_TEST(a_volatile_cache_matches_a_model)
{
    g_autofree char *path = new_file("disk", 2 * MiB);
    BlockNode *filter;
    BlockBackend *be = faulty(path, true, &filter);

    model_run(be, 512, 40, false, 5);
    close_drive(be);
}
END_TEST

/* ---- policies ----------------------------------------------------------------------------------
 */

typedef struct Device {
    unsigned stops;
    char *reason;
} Device;

static void dev_stop(void *opaque, const char *reason)
{
    Device *d = opaque;

    d->stops++;
    g_free(d->reason);
    d->reason = g_strdup(reason);
}

static const BlockDeviceOps dev_ops = { .stop = dev_stop };

START_TEST(an_error_stops_the_machine_and_the_request_is_tried_again)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .at = 1, .op = BLOCK_OP_WRITE, .fault = { .error = ENOSPC, .torn = -1 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, false, &filter);
    Result w = { 0 }, f = { 0 };
    Device d = { 0 };
    uint8_t buf[512] = { 3 };
    GError *error = NULL;

    ck_assert(block_attach(be, &dev_ops, &d, true, &error));
    block_script_set(filter, &planned_ops, &plan);
    block_write(be, 0, buf, 512, 0, on_done, &w);
    block_flush(be, on_done, &f);
    LOOP_UNTIL(d.stops);
    ck_assert_ptr_nonnull(strstr(d.reason, "No space"));
    ck_assert_uint_eq(block_held_back(be), 1);
    ck_assert(block_drain(be, &error)); /* what is held back is not in flight */
    ck_assert(!w.finished && !f.finished);
    block_retry(be);
    LOOP_UNTIL(w.finished && f.finished);
    ck_assert(!w.error && !f.error);
    block_detach(be);
    g_free(d.reason);
    close_drive(be);
}
END_TEST

START_TEST(errors_are_ignored_or_reported_as_the_policy_says)
{
    g_autofree char *path = new_file("disk", MiB);
    Plan plan = { .op = BLOCK_OP_READ, .fault = { .error = EIO, .torn = -1 } };
    BlockNode *filter;
    BlockBackend *be = faulty(path, false, &filter);
    GError *error = NULL;
    uint8_t buf[512];

    block_script_set(filter, &planned_ops, &plan);
    ck_assert(!block_read_wait(be, 0, buf, 512, NULL));
    ck_assert(object_property_parse(OBJECT(be), "rerror", "ignore", &error));
    ck_assert(block_read_wait(be, 0, buf, 512, NULL));
    close_drive(be);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block-filters");
    TCase *tc = tcase_create("filters");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, an_overlay_matches_a_model_and_leaves_what_is_below_alone, 0, 2);
    tcase_add_test(tc, a_part_of_a_grain_keeps_the_rest_from_below);
    tcase_add_test(tc, what_is_read_is_copied_into_the_top);
    tcase_add_test(tc, copies_and_writes_do_not_overtake_each_other);
    tcase_add_test(tc, a_throttle_holds_requests_back_and_a_drain_lets_them_go);
    tcase_add_test(tc, a_waiting_request_can_be_cancelled);
    tcase_add_test(tc, limits_that_contradict_each_other_are_refused);
    tcase_add_test(tc, the_chosen_request_fails_and_no_other);
    tcase_add_loop_test(tc, a_torn_write_leaves_its_beginning, 0, 2);
    tcase_add_test(tc, a_delayed_request_comes_later_and_a_drain_hurries_it);
    tcase_add_test(tc, a_power_cut_loses_what_was_not_flushed_and_nothing_else);
    tcase_add_test(tc, a_power_cut_may_keep_some_writes);
    tcase_add_test(tc, a_volatile_cache_matches_a_model);
    tcase_add_test(tc, an_error_stops_the_machine_and_the_request_is_tried_again);
    tcase_add_test(tc, errors_are_ignored_or_reported_as_the_policy_says);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
