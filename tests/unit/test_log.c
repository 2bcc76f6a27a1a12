/* The log, trace points, sizes, nearest words, errors. */
#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"
#include "tests/unit/engine_error.h"
#include "tests/unit/run_suite.h"

static GString *events; /* what callbacks did, in order */

static void setup(void)
{
    main_loop_init();
    events = g_string_new(NULL);
}

static void teardown(void)
{
    g_string_free(events, TRUE);
    main_loop_finalize();
}

/* ---- log and trace -----------------------------------------------------------------------------
 */

static void sink(LogMask mask, const char *line, void *opaque)
{
    g_string_append_printf(events, "%u:%s|", (unsigned)mask, line);
}

static void guest_error(int i)
{
    log_mask(LOG_GUEST, "bad %d", i);
}

START_TEST(masks_are_parsed_by_name_and_unknown_names_are_errors)
{
    GError *error = NULL;
    uint32_t mask = 0;
    ck_assert(log_parse_mask("guest,unimp", &mask, NULL));
    ck_assert_uint_eq(mask, LOG_GUEST | LOG_UNIMP);
    ck_assert(log_parse_mask("all", &mask, NULL));
    ck_assert_uint_eq(mask, LOG_EXEC * 2 - 1);
    ck_assert(log_parse_mask("none", &mask, NULL));
    ck_assert_uint_eq(mask, 0);
    mask = 77;
    ck_assert(!log_parse_mask("guest,gest", &mask, &error));
    ck_assert_error(error, ENGINE_ERROR_INVALID, "'gest'");
    ck_assert(!log_parse_mask("guest,", &mask, &error));
    ck_assert_error(error, ENGINE_ERROR_INVALID, "''");
    ck_assert(!log_parse_mask("", &mask, &error));
    ck_assert_error(error, ENGINE_ERROR_INVALID, "no log item");
    ck_assert_uint_eq(mask, 77);
}
END_TEST

START_TEST(only_enabled_masks_reach_the_sink)
{
    log_set_sink(sink, NULL);
    log_mask(LOG_CPU, "off");
    log_set_mask(LOG_CPU);
    ck_assert(log_enabled(LOG_CPU));
    ck_assert(!log_enabled(LOG_GUEST));
    log_mask(LOG_CPU, "on %s", "now");
    log_mask(LOG_GUEST, "off");
    ck_assert_str_eq(events->str, "32:on now|");
    log_set_mask(0);
    log_set_sink(NULL, NULL);
}
END_TEST

START_TEST(an_address_filter_takes_ranges_in_three_forms_and_refuses_the_rest)
{
    g_autoptr(GError) error = NULL;

    ck_assert(log_filter_overlaps(0, 0));
    ck_assert(log_set_filter("0x1000..0x1fff,0x5000+0x10,0x9fff-0x10", NULL));
    ck_assert(log_filter_overlaps(0x1fff, 0x2005));
    ck_assert(!log_filter_overlaps(0x2000, 0x4fff));
    ck_assert(log_filter_overlaps(0x500f, 0x500f));
    ck_assert(!log_filter_overlaps(0x5010, 0x5010));
    ck_assert(log_filter_overlaps(0x9ff0, 0x9ff0));
    ck_assert(!log_filter_overlaps(0x9fef, 0x9fef));
    const char *bad[] = { "1", "x..y", "5..4", "1+0", "0..1,", "1..2x", "0-2", "1...2" };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_clear_error(&error);
        ck_assert_msg(!log_set_filter(bad[i], &error), "%s was taken", bad[i]);
        ck_assert_error(error, ENGINE_ERROR_INVALID, "no range");
    }
    ck_assert(!log_filter_overlaps(0x2000, 0x2000)); /* the last good one stands */
    ck_assert(log_set_filter(NULL, NULL));
    ck_assert(log_filter_overlaps(0x2000, 0x2000));
}
END_TEST

START_TEST(control_characters_of_a_guest_are_escaped)
{
    log_set_sink(sink, NULL);
    log_set_mask(LOG_CPU);
    log_mask(LOG_CPU, "a\nb\x1b[2J\tc\n");
    ck_assert_str_eq(events->str, "32:a\\nb\\x1b[2J\tc|");
    log_set_mask(0);
    log_set_sink(NULL, NULL);
}
END_TEST

START_TEST(a_guest_cannot_write_more_than_a_hundred_lines_at_once)
{
    log_set_sink(sink, NULL);
    log_set_mask(LOG_GUEST | LOG_CPU);
    for (int i = 0; i < 5000; i++) {
        guest_error(i);
    }
    for (int i = 0; i < 300; i++) {
        log_mask(LOG_CPU, "ours are not limited");
    }
    log_set_mask(0);
    g_auto(GStrv) lines = g_strsplit(events->str, "|", -1);
    unsigned guest = 0, counted = 0, ours = 0;
    for (char **l = lines; *l; l++) {
        guest += g_str_has_prefix(*l, "1:bad");
        counted += strstr(*l, "more lines") != NULL;
        ours += g_str_has_prefix(*l, "32:");
    }
    /* A second may have passed on a slow host: then there was another hundred. */
    ck_assert_uint_ge(guest, 100);
    ck_assert_uint_lt(guest, 5000);
    ck_assert_uint_eq(guest % 100, 0);
    ck_assert_uint_eq(counted, guest / 100 - 1);
    ck_assert_uint_eq(ours, 300);
    g_string_truncate(events, 0);
    main_loop_finalize(); /* what was held back is counted at the latest here */
    ck_assert_ptr_nonnull(strstr(events->str, "1:("));
    main_loop_init();
    log_set_sink(NULL, NULL);
}
END_TEST

TRACE_POINT(test_second, "reg=%u value=%#x")
TRACE_POINT(test_first, "only a text")

START_TEST(trace_points_are_listed_in_order_and_switched_by_glob)
{
    log_set_sink(sink, NULL);
    TRACE(test_second, 1u, 2u);
    ck_assert_str_eq(events->str, "");
    for (TracePoint *p = trace_first(); p->next; p = p->next) {
        ck_assert_int_lt(strcmp(p->name, p->next->name), 0);
    }
    ck_assert_uint_eq(trace_enable("test_*", true), 2);
    ck_assert_uint_eq(trace_enable("test_[f]irst", false), 1);
    ck_assert_uint_eq(trace_enable("no_such_*", true), 0);
    TRACE(test_second, 3u, 4u);
    TRACE(test_first);
    ck_assert_ptr_nonnull(strstr(events->str, " test_second: reg=3 value=0x4|"));
    ck_assert_ptr_null(strstr(events->str, "only a text"));
    ck_assert_uint_eq(trace_test_second.hits, 1);
    ck_assert_uint_eq(trace_test_first.hits, 0);
    trace_enable("*", false);
    log_set_sink(NULL, NULL);
}
END_TEST

START_TEST(a_log_file_is_written_and_a_bad_path_is_an_error)
{
    GError *error = NULL;
    g_autofree char *dir = g_dir_make_tmp("vmlua-test-XXXXXX", NULL);
    g_autofree char *pattern = g_strdup_printf("%s/log-%%d", dir);
    g_autofree char *path = g_strdup_printf("%s/log-%d", dir, (int)getpid());
    g_autofree char *text = NULL;
    g_autofree char *bad = g_strdup_printf("%s/none/log", dir);

    log_set_mask(LOG_IRQ);
    ck_assert(log_set_file(pattern, NULL));
    log_mask(LOG_IRQ, "line %d", 4);
    ck_assert(!log_set_file(bad, &error));
    ck_assert_error(error, ENGINE_ERROR_IO, "none/log");
    log_mask(LOG_IRQ, "still here");
    ck_assert(log_set_file(NULL, NULL));
    log_set_mask(0);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_str_eq(text, "irq: line 4\nirq: still here\n");
    unlink(path);
    rmdir(dir);
}
END_TEST

/* ---- sizes, words, errors
 * ------------------------------------------------------------------------ */

static const struct {
    const char *text;
    uint64_t bytes;
} good_sizes[] = {
    { "0", 0 },
    { "123", 123 },
    { "123b", 123 },
    { "64K", 64 * KiB },
    { "64k", 64 * KiB },
    { "1.5G", 3 * GiB / 2 },
    { "2G", 2 * GiB },
    { "1T", UINT64_C(1) << 40 },
    { "1P", UINT64_C(1) << 50 },
    { "15E", UINT64_C(15) << 60 },
    { "0x1000", 0x1000 },
    { "0X1fK", 31 * KiB },
    { "0x1E", 0x1e },
    { "0xffffffffffffffff", UINT64_MAX },
    { "18446744073709551615", UINT64_MAX },
    { "0.5b", 0 },
    { "1.1K", 1126 },
    { "0.000000000000000001E", 1 },
    { "007", 7 },
};
static const char *const bad_sizes[] = {
    "",
    " ",
    " 1",
    "1 ",
    "-1",
    "+1",
    "K",
    "1KB",
    "1KiB",
    "1x",
    "0x",
    "0xg",
    "1.",
    ".5",
    "1.K",
    "1..5",
    "1e3",
    "1.5.5",
    "abc",
    "1,5K",
    "0x1.5",
    "1K1",
    "16E",
    "99999999999999999999",
    "18446744073709551616",
    "0x10000000000000000",
    "15.99999999E1",
    "0.0000000000000000001K",
    "20000000P",
    "\xc3\xa9",
    "1\n",
    "inf",
    "nan",
};

START_TEST(sizes_parse)
{
    uint64_t bytes = 1;
    GError *error = NULL;
    ck_assert_msg(parse_size(good_sizes[_i].text, &bytes, &error), "%s", good_sizes[_i].text);
    ck_assert_msg(bytes == good_sizes[_i].bytes, "%s is %" G_GUINT64_FORMAT, good_sizes[_i].text,
                  bytes);
    ck_assert_ptr_null(error);
}
END_TEST

START_TEST(bad_sizes_are_errors_that_quote_them)
{
    uint64_t bytes = 42;
    GError *error = NULL;
    ck_assert_msg(!parse_size(bad_sizes[_i], &bytes, &error), "'%s' is %" G_GUINT64_FORMAT,
                  bad_sizes[_i], bytes);
    ck_assert_uint_eq(bytes, 42);
    ck_assert_ptr_nonnull(strstr(error->message, bad_sizes[_i]));
    g_clear_error(&error);
    ck_assert(!parse_size(bad_sizes[_i], &bytes, NULL));
}
END_TEST

START_TEST(the_nearest_word_is_found_and_far_ones_are_not)
{
    static const char *const words[] = { "serial", "parallel", "memory",   "no-reboot",
                                         "m",      "device",   "debugcon", NULL };
    static const char *const none[] = { NULL };
    ck_assert_str_eq(nearest_word("seral", words), "serial");
    ck_assert_str_eq(nearest_word("sreial", words), "serial");
    ck_assert_str_eq(nearest_word("SERIAL", words), "serial");
    ck_assert_str_eq(nearest_word("no_reboot", words), "no-reboot");
    ck_assert_str_eq(nearest_word("paralel", words), "parallel");
    ck_assert_str_eq(nearest_word("dev", words), "device");
    ck_assert_str_eq(nearest_word("serial", words), "serial");
    ck_assert_ptr_null(nearest_word("xyzzy", words));
    ck_assert_ptr_null(nearest_word("q", words));
    ck_assert_ptr_null(nearest_word("", words));
    ck_assert_ptr_null(nearest_word("serial", none));
    g_autofree char *giant = g_strnfill(100000, 'a');
    ck_assert_ptr_null(nearest_word(giant, words));
}
END_TEST

START_TEST(errno_is_put_behind_the_prefix_and_kept)
{
    GError *error = NULL;
    errno = ENOENT;
    ck_assert(!error_set_errno(&error, "open '%s'", "x.img"));
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_error(error, ENGINE_ERROR_IO, "open 'x.img': No such file");
    ck_assert(!error_set_errno(NULL, "nobody listens"));
    ck_assert(!error_set(NULL, ENGINE_ERROR_GONE, "nobody listens"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("log");
    TCase *tc = tcase_create("log");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, masks_are_parsed_by_name_and_unknown_names_are_errors);
    tcase_add_test(tc, only_enabled_masks_reach_the_sink);
    tcase_add_test(tc, an_address_filter_takes_ranges_in_three_forms_and_refuses_the_rest);
    tcase_add_test(tc, control_characters_of_a_guest_are_escaped);
    tcase_add_test(tc, a_guest_cannot_write_more_than_a_hundred_lines_at_once);
    tcase_add_test(tc, trace_points_are_listed_in_order_and_switched_by_glob);
    tcase_add_test(tc, a_log_file_is_written_and_a_bad_path_is_an_error);
    tcase_add_loop_test(tc, sizes_parse, 0, G_N_ELEMENTS(good_sizes));
    tcase_add_loop_test(tc, bad_sizes_are_errors_that_quote_them, 0, G_N_ELEMENTS(bad_sizes));
    tcase_add_test(tc, the_nearest_word_is_found_and_far_ones_are_not);
    tcase_add_test(tc, errno_is_put_behind_the_prefix_and_kept);
    return run_suite(suite);
}
