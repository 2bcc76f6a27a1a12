/* Engine core: lock, main loop, bottom halves, clocks and timers, log, trace points, sizes, words,
 * RCU. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"

/* An opaque pointer to a constant text. */
#define TEXT(s) ((void *)(uintptr_t)(s))

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

static void note(void *opaque)
{
    ck_assert(engine_lock_held());
    ck_assert(main_loop_is_main_thread());
    g_string_append(events, opaque);
}

/* Runs the loop until `text` was noted. A hang ends by Check's timeout. */
static void loop_until(const char *text)
{
    while (!strstr(events->str, text)) {
        main_loop_iterate(true);
    }
}

#define ck_assert_error(e, code_, text)                                                      \
    do {                                                                                     \
        ck_assert_ptr_nonnull(e);                                                            \
        ck_assert((e)->domain == ENGINE_ERROR);                                              \
        ck_assert_int_eq((e)->code, (code_));                                                \
        ck_assert_msg(strstr((e)->message, (text)) != NULL, "message is: %s", (e)->message); \
        g_clear_error(&(e));                                                                 \
    } while (0)

/* ---- the lock ------------------------------------------------------------------------------ */

START_TEST(the_lock_is_held_after_init_and_can_be_dropped_for_a_blocking_call)
{
    ck_assert(engine_lock_held());
    ck_assert(engine_may_unlock());
    ck_assert(engine_unlocked_begin(NULL));
    ck_assert(!engine_lock_held());
    ck_assert(!engine_may_unlock());
    engine_unlocked_end();
    ck_assert(engine_lock_held());
}
END_TEST

START_TEST(dropping_the_lock_is_refused_while_a_handler_relies_on_it)
{
    GError *error = NULL;
    engine_no_unlock_begin();
    engine_no_unlock_begin();
    engine_no_unlock_end();
    ck_assert(!engine_may_unlock());
    ck_assert(!engine_unlocked_begin(&error));
    ck_assert_error(error, ENGINE_ERROR_BUSY, "handler");
    ck_assert(engine_lock_held());
    engine_no_unlock_end();
    ck_assert(engine_unlocked_begin(NULL));
    engine_unlocked_end();
}
END_TEST

static void *take_lock(void *opaque)
{
    engine_lock();
    *(int *)opaque += 1;
    engine_unlock();
    return NULL;
}

START_TEST(a_thread_gets_the_lock_only_while_it_is_dropped)
{
    int taken = 0;
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, take_lock, &taken), 0);
    ck_assert_int_eq(taken, 0);
    ck_assert(engine_unlocked_begin(NULL));
    pthread_join(thread, NULL);
    engine_unlocked_end();
    ck_assert_int_eq(taken, 1);
}
END_TEST

START_TEST(a_thread_that_waits_gets_the_lock_while_the_loop_is_busy)
{
    /* A bottom half that always schedules itself keeps the loop from ever sleeping. */
    int taken = 0;
    pthread_t thread;
    BottomHalf *bh = bh_new(note, TEXT(""));
    ck_assert_int_eq(pthread_create(&thread, NULL, take_lock, &taken), 0);
    while (!taken) {
        bh_schedule(bh);
        main_loop_iterate(true);
    }
    bh_free(bh);
    ck_assert(engine_unlocked_begin(NULL));
    pthread_join(thread, NULL);
    engine_unlocked_end();
}
END_TEST

static EngineCond cond;
static int cond_stage;

static void *answer_condition(void *opaque)
{
    engine_lock();
    while (cond_stage != 1) {
        engine_cond_wait(&cond);
    }
    cond_stage = 2;
    engine_cond_broadcast(&cond);
    engine_unlock();
    return NULL;
}

START_TEST(conditions_hand_over_and_time_out)
{
    pthread_t thread;
    engine_cond_init(&cond);
    ck_assert(!engine_cond_timedwait(&cond, 1000));
    ck_assert(!engine_cond_timedwait(&cond, -1));
    ck_assert(engine_lock_held());
    ck_assert_int_eq(pthread_create(&thread, NULL, answer_condition, NULL), 0);
    cond_stage = 1;
    engine_cond_broadcast(&cond);
    while (cond_stage != 2) {
        engine_cond_timedwait(&cond, INT64_MAX);
    }
    ck_assert(engine_unlocked_begin(NULL));
    pthread_join(thread, NULL);
    engine_unlocked_end();
    engine_cond_destroy(&cond);
}
END_TEST

START_TEST(taking_the_lock_twice_aborts)
{
    engine_lock();
}
END_TEST

START_TEST(waiting_on_a_condition_in_a_handler_aborts)
{
    engine_cond_init(&cond);
    engine_no_unlock_begin();
    engine_cond_timedwait(&cond, 0);
}
END_TEST

/* ---- main loop and bottom halves ------------------------------------------------------------ */

START_TEST(a_bottom_half_runs_once_however_often_it_was_scheduled)
{
    BottomHalf *bh = bh_new(note, TEXT("x"));
    bh_schedule(bh);
    bh_schedule(bh);
    ck_assert(main_loop_iterate(false));
    ck_assert(!main_loop_iterate(false));
    ck_assert_str_eq(events->str, "x");
    bh_schedule(bh);
    ck_assert(main_loop_iterate(true));
    ck_assert_str_eq(events->str, "xx");
    bh_free(bh);
}
END_TEST

START_TEST(bottom_halves_run_in_the_order_they_were_scheduled)
{
    bh_once(note, TEXT("1"));
    bh_once(note, TEXT("2"));
    bh_once(note, TEXT("3"));
    ck_assert(main_loop_iterate(false));
    ck_assert_str_eq(events->str, "123");
}
END_TEST

START_TEST(a_cancelled_bottom_half_does_not_run)
{
    BottomHalf *a = bh_new(note, TEXT("a")), *b = bh_new(note, TEXT("b")),
               *c = bh_new(note, TEXT("c"));
    bh_schedule(a);
    bh_schedule(b);
    bh_schedule(c);
    bh_cancel(c);
    bh_cancel(a);
    bh_cancel(a);
    ck_assert(main_loop_iterate(false));
    bh_schedule(c);
    bh_free(c);
    bh_free(NULL);
    ck_assert(!main_loop_iterate(false));
    ck_assert_str_eq(events->str, "b");
    bh_free(a);
    bh_free(b);
}
END_TEST

static BottomHalf *self;

static void free_self(void *opaque)
{
    bh_free(self);
    self = NULL;
    note(opaque);
}

static void schedule_self(void *opaque)
{
    bh_schedule(self);
    note(opaque);
}

START_TEST(a_bottom_half_may_free_itself)
{
    self = bh_new(free_self, TEXT("gone"));
    bh_schedule(self);
    ck_assert(main_loop_iterate(false));
    ck_assert_str_eq(events->str, "gone");
}
END_TEST

START_TEST(a_bottom_half_that_schedules_itself_runs_once_a_round)
{
    self = bh_new(schedule_self, TEXT("s"));
    bh_schedule(self);
    ck_assert(main_loop_iterate(false));
    ck_assert_str_eq(events->str, "s");
    ck_assert(main_loop_iterate(true));
    ck_assert_str_eq(events->str, "ss");
    bh_free(self);
}
END_TEST

static void iterate_inside(void *opaque)
{
    bh_once(note, TEXT("inner"));
    while (!strstr(events->str, "inner")) {
        main_loop_iterate(true);
    }
    note(opaque);
}

START_TEST(bottom_halves_run_in_a_nested_round)
{
    bh_once(iterate_inside, TEXT(" outer"));
    loop_until("outer");
    ck_assert_str_eq(events->str, "inner outer");
}
END_TEST

static void *schedule_from_thread(void *opaque)
{
    bh_schedule(opaque);
    return NULL;
}

START_TEST(a_bottom_half_from_another_thread_wakes_the_loop)
{
    pthread_t thread;
    BottomHalf *bh = bh_new(note, TEXT("woken"));
    ck_assert_int_eq(pthread_create(&thread, NULL, schedule_from_thread, bh), 0);
    loop_until("woken");
    pthread_join(thread, NULL);
    bh_free(bh);
}
END_TEST

START_TEST(a_wakeup_before_the_poll_is_not_lost)
{
    main_loop_wakeup();
    ck_assert(!main_loop_iterate(true));
}
END_TEST

static gboolean read_fd(int fd, GIOCondition c, void *opaque)
{
    char ch;
    if (read(fd, &ch, 1) != 1) {
        return G_SOURCE_REMOVE;
    }
    char text[2] = { ch, 0 };
    note(text);
    return G_SOURCE_CONTINUE;
}

START_TEST(a_watched_descriptor_calls_back_until_it_says_remove)
{
    int fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    GSource *source = main_loop_add_fd(fds[0], G_IO_IN | G_IO_HUP, read_fd, NULL);
    ck_assert(!main_loop_iterate(false));
    ck_assert_int_eq(write(fds[1], "ab", 2), 2);
    loop_until("ab");
    close(fds[1]);
    while (!g_source_is_destroyed(source)) {
        main_loop_iterate(true);
    }
    g_source_unref(source);
    close(fds[0]);
}
END_TEST

START_TEST(deferred_work_left_at_finalize_is_done)
{
    main_loop_finalize();
    main_loop_init();
    GString *kept = events;
    rcu_defer((void (*)(void *))g_free, g_malloc(10)); /* a leak otherwise, under ASan */
    bh_once(note, TEXT("late"));
    main_loop_finalize();
    ck_assert_str_eq(kept->str, "late");
    main_loop_init();
}
END_TEST

/* ---- clocks and timers ----------------------------------------------------------------------- */

static Timer timers[4];

START_TEST(timers_fire_in_order_of_deadline_then_of_arming)
{
    Clock *clock = clock_new_virtual();
    const char *names[] = { "a", "b", "c", "d" };
    for (int i = 0; i < 4; i++) {
        timer_setup(&timers[i], clock, note, TEXT(names[i]));
        ck_assert(!timer_armed(&timers[i]));
    }
    ck_assert_int_eq(clock_deadline(clock), -1);
    timer_arm(&timers[0], 300);
    timer_arm(&timers[1], 100);
    timer_arm(&timers[2], 100);
    timer_arm(&timers[3], 200);
    ck_assert_int_eq(clock_deadline(clock), 100);
    clock_run_timers(clock);
    ck_assert_str_eq(events->str, ""); /* it stands */
    clock_start(clock);
    clock_set(clock, 250);
    loop_until("d");
    ck_assert_int_eq(strncmp(events->str, "bcd", 3), 0);
    loop_until("a");
    ck_assert(!timer_armed(&timers[0]));
    ck_assert_int_eq(clock_deadline(clock), -1);
    clock_free(clock);
}
END_TEST

START_TEST(rearming_moves_a_timer_and_disarming_silences_it)
{
    Clock *clock = clock_new_virtual();
    timer_setup(&timers[0], clock, note, TEXT("a"));
    timer_setup(&timers[1], clock, note, TEXT("b"));
    timer_setup(&timers[2], clock, note, TEXT("c"));
    timer_arm(&timers[0], 10);
    timer_arm(&timers[1], 20);
    timer_arm(&timers[2], 15);
    timer_arm(&timers[0], 30);
    timer_arm(&timers[1], -5);
    timer_disarm(&timers[2]);
    timer_disarm(&timers[2]);
    ck_assert_int_eq(clock_deadline(clock), 0);
    clock_set(clock, 1000);
    clock_start(clock);
    loop_until("a");
    ck_assert_str_eq(events->str, "ba");
    clock_free(clock);
}
END_TEST

static void disarm_others(void *opaque)
{
    timer_disarm(&timers[1]);
    timer_arm(&timers[2], 0);
    note(opaque);
}

static void rearm_self(void *opaque)
{
    timer_arm(opaque, clock_now(((Timer *)opaque)->clock));
    g_string_append_c(events, 'r');
}

START_TEST(a_callback_may_disarm_and_arm_others)
{
    Clock *clock = clock_new_virtual();
    clock_set(clock, 1000);
    clock_start(clock);
    timer_setup(&timers[0], clock, disarm_others, TEXT("0"));
    timer_setup(&timers[1], clock, note, TEXT("1"));
    timer_setup(&timers[2], clock, note, TEXT("2"));
    timer_arm(&timers[0], 1);
    timer_arm(&timers[1], 2);
    loop_until("2");
    ck_assert_str_eq(events->str, "02");
    clock_free(clock);
}
END_TEST

START_TEST(a_timer_that_rearms_itself_for_now_does_not_hold_the_loop)
{
    timer_setup(&timers[0], clock_realtime(), rearm_self, &timers[0]);
    timer_setup(&timers[1], clock_realtime(), note, TEXT("done"));
    timer_arm(&timers[0], 0);
    timer_arm(&timers[1], clock_now(clock_realtime()) + 100 * NS_PER_US);
    loop_until("done");
    timer_disarm(&timers[0]);
}
END_TEST

static void free_clock(void *opaque)
{
    clock_free(opaque);
    note(TEXT("freed"));
}

START_TEST(a_callback_may_free_its_clock)
{
    Clock *clock = clock_new_virtual();
    timer_setup(&timers[0], clock, free_clock, clock);
    timer_setup(&timers[1], clock, note, TEXT("never"));
    timer_arm(&timers[0], 0);
    timer_arm(&timers[1], 1);
    clock_start(clock);
    loop_until("freed");
    ck_assert(!timer_armed(&timers[1]));
    main_loop_iterate(false);
    ck_assert_str_eq(events->str, "freed");
}
END_TEST

START_TEST(a_virtual_clock_stands_while_stopped_and_goes_on_from_there)
{
    Clock *clock = clock_new_virtual();
    ck_assert_int_eq(clock_now(clock), 0);
    ck_assert(!clock_running(clock));
    clock_set(clock, 5000);
    ck_assert_int_eq(clock_now(clock), 5000);
    clock_start(clock);
    clock_start(clock);
    int64_t before = clock_now(clock);
    ck_assert_int_ge(before, 5000);
    clock_stop(clock);
    int64_t stopped = clock_now(clock);
    ck_assert_int_ge(stopped, before);
    timer_setup(&timers[0], clock_realtime(), note, TEXT("x"));
    timer_arm(&timers[0], clock_now(clock_realtime()) + 50000);
    loop_until("x");
    ck_assert_int_eq(clock_now(clock), stopped);
    clock_set(clock, INT64_MAX);
    ck_assert_int_eq(clock_now(clock), CLOCK_MAX);
    clock_set(clock, -7);
    ck_assert_int_eq(clock_now(clock), 0);
    clock_free(clock);
    clock_free(NULL);
}
END_TEST

START_TEST(two_virtual_clocks_are_independent)
{
    Clock *a = clock_new_virtual(), *b = clock_new_virtual();
    timer_setup(&timers[0], a, note, TEXT("a"));
    timer_setup(&timers[1], b, note, TEXT("b"));
    timer_arm(&timers[0], 1000);
    timer_arm(&timers[1], 10);
    clock_start(a);
    loop_until("a");
    ck_assert_str_eq(events->str, "a");
    ck_assert_int_eq(clock_now(b), 0);
    clock_start(b);
    loop_until("b");
    clock_free(a);
    clock_free(b);
}
END_TEST

START_TEST(timers_of_the_host_and_realtime_clocks_fire_and_never_early)
{
    timer_setup(&timers[0], clock_realtime(), note, TEXT("r"));
    timer_setup(&timers[1], clock_host(), note, TEXT("h"));
    int64_t r = clock_now(clock_realtime()) + 300000, h = clock_now(clock_host()) + 200000;
    timer_arm(&timers[0], r);
    timer_arm(&timers[1], h);
    loop_until("r");
    ck_assert_int_ge(clock_now(clock_realtime()), r);
    loop_until("h");
    ck_assert(clock_kind(clock_host()) == CLOCK_KIND_HOST);
    ck_assert(clock_running(clock_host()));
}
END_TEST

static void *arm_from_thread(void *opaque)
{
    engine_lock();
    timer_arm(opaque, clock_now(clock_realtime()));
    engine_unlock();
    return NULL;
}

START_TEST(a_timer_armed_on_another_thread_ends_a_longer_sleep)
{
    pthread_t thread;
    timer_setup(&timers[0], clock_realtime(), note, TEXT("far"));
    timer_setup(&timers[1], clock_realtime(), note, TEXT("near"));
    timer_arm(&timers[0], INT64_MAX);
    ck_assert_int_eq(pthread_create(&thread, NULL, arm_from_thread, &timers[1]), 0);
    loop_until("near");
    pthread_join(thread, NULL);
    timer_disarm(&timers[0]);
}
END_TEST

static int64_t instructions;
static int deadline_changes;

static int64_t icount(void *opaque)
{
    return instructions;
}

static void deadline_changed(void *opaque)
{
    deadline_changes++;
}

START_TEST(a_clock_with_a_source_counts_what_the_source_counts)
{
    Clock *clock = clock_new_virtual();
    instructions = 100;
    clock_set_source(clock, icount, deadline_changed, NULL);
    ck_assert_int_eq(clock_now(clock), 100);
    deadline_changes = 0;
    timer_setup(&timers[0], clock, note, TEXT("a"));
    timer_setup(&timers[1], clock, note, TEXT("b"));
    timer_arm(&timers[0], 200);
    ck_assert_int_eq(deadline_changes, 1);
    timer_arm(&timers[1], 300);
    ck_assert_int_eq(deadline_changes, 1);
    instructions = 199;
    clock_run_timers(clock);
    ck_assert_str_eq(events->str, "");
    instructions = 200;
    main_loop_iterate(false); /* not the loop's to fire */
    ck_assert_str_eq(events->str, "");
    clock_run_timers(clock);
    ck_assert_str_eq(events->str, "a");
    ck_assert_int_eq(clock_deadline(clock), 300);
    clock_set(clock, 1000);
    ck_assert_int_eq(clock_now(clock), 1000);
    instructions += 5;
    ck_assert_int_eq(clock_now(clock), 1005);
    timer_disarm(&timers[1]);
    clock_set_source(clock, NULL, NULL, NULL);
    ck_assert_int_eq(clock_now(clock), 1005);
    clock_free(clock);
}
END_TEST

START_TEST(many_timers_with_random_moves_fire_in_order)
{
    enum { N = 500 };
    Clock *clock = clock_new_virtual();
    Timer *t = g_new(Timer, N);
    instructions = 0;
    clock_set_source(clock, icount, NULL, NULL);
    srand(7);
    for (int i = 0; i < N; i++) {
        timer_setup(&t[i], clock, note, TEXT("."));
    }
    for (int i = 0; i < 5 * N; i++) {
        Timer *x = &t[rand() % N];
        if (rand() % 4 == 0) {
            timer_disarm(x);
        } else {
            timer_arm(x, rand() % 1000);
        }
    }
    for (instructions = 0; instructions < 1000; instructions++) {
        size_t due = 0, fired = events->len;
        for (int i = 0; i < N; i++) {
            due += t[i].expire == instructions;
            ck_assert(!timer_armed(&t[i]) || t[i].expire >= instructions);
        }
        clock_run_timers(clock);
        ck_assert_uint_eq(events->len - fired, due);
    }
    ck_assert_uint_gt(events->len, N / 4);
    clock_free(clock);
    g_free(t);
}
END_TEST

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
    ck_assert_uint_eq(mask, LOG_TRACE * 2 - 1);
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

/* ---- RCU ---------------------------------------------------------------------------------------
 */

static void defer_note(void *opaque)
{
    ck_assert(!engine_lock_held());
    g_string_append(events, opaque); /* rcu_drain orders this for us */
}

static void defer_again(void *opaque)
{
    defer_note(opaque);
    rcu_defer(defer_note, TEXT("nested"));
}

START_TEST(deferred_functions_run_in_order_after_a_grace_period)
{
    rcu_enter();
    ck_assert(rcu_in_section());
    rcu_enter();
    rcu_leave();
    ck_assert(rcu_in_section());
    rcu_defer(defer_note, TEXT("1"));
    rcu_defer(defer_note, TEXT("2"));
    rcu_defer(defer_again, TEXT("3"));
    ck_assert_str_eq(events->str, ""); /* cannot have run: we are in a section */
    rcu_leave();
    ck_assert(!rcu_in_section());
    ck_assert(engine_unlocked_begin(NULL));
    rcu_wait();
    rcu_drain();
    ck_assert_int_eq(strncmp(events->str, "123", 3), 0);
    rcu_drain();
    engine_unlocked_end();
    ck_assert_str_eq(events->str, "123nested");
}
END_TEST

static void *defer_unregistered(void *opaque)
{
    rcu_defer(defer_note, opaque);
    rcu_thread_register();
    rcu_thread_register();
    rcu_enter();
    rcu_leave();
    rcu_thread_unregister();
    rcu_enter();
    rcu_leave();
    rcu_thread_unregister();
    return NULL;
}

START_TEST(any_thread_may_defer_and_registration_nests)
{
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, defer_unregistered, TEXT("t")), 0);
    ck_assert(engine_unlocked_begin(NULL));
    pthread_join(thread, NULL);
    rcu_drain();
    engine_unlocked_end();
    ck_assert_str_eq(events->str, "t");
}
END_TEST

START_TEST(waiting_for_a_grace_period_with_the_lock_aborts)
{
    rcu_wait();
}
END_TEST

static Suite *core_suite(void)
{
    Suite *s = suite_create("core");
    TCase *tc = tcase_create("core");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_lock_is_held_after_init_and_can_be_dropped_for_a_blocking_call);
    tcase_add_test(tc, dropping_the_lock_is_refused_while_a_handler_relies_on_it);
    tcase_add_test(tc, a_thread_gets_the_lock_only_while_it_is_dropped);
    tcase_add_test(tc, a_thread_that_waits_gets_the_lock_while_the_loop_is_busy);
    tcase_add_test(tc, conditions_hand_over_and_time_out);
    tcase_add_test_raise_signal(tc, taking_the_lock_twice_aborts, SIGABRT);
    tcase_add_test_raise_signal(tc, waiting_on_a_condition_in_a_handler_aborts, SIGABRT);
    tcase_add_test(tc, a_bottom_half_runs_once_however_often_it_was_scheduled);
    tcase_add_test(tc, bottom_halves_run_in_the_order_they_were_scheduled);
    tcase_add_test(tc, a_cancelled_bottom_half_does_not_run);
    tcase_add_test(tc, a_bottom_half_may_free_itself);
    tcase_add_test(tc, a_bottom_half_that_schedules_itself_runs_once_a_round);
    tcase_add_test(tc, bottom_halves_run_in_a_nested_round);
    tcase_add_test(tc, a_bottom_half_from_another_thread_wakes_the_loop);
    tcase_add_test(tc, a_wakeup_before_the_poll_is_not_lost);
    tcase_add_test(tc, a_watched_descriptor_calls_back_until_it_says_remove);
    tcase_add_test(tc, deferred_work_left_at_finalize_is_done);
    tcase_add_test(tc, timers_fire_in_order_of_deadline_then_of_arming);
    tcase_add_test(tc, rearming_moves_a_timer_and_disarming_silences_it);
    tcase_add_test(tc, a_callback_may_disarm_and_arm_others);
    tcase_add_test(tc, a_timer_that_rearms_itself_for_now_does_not_hold_the_loop);
    tcase_add_test(tc, a_callback_may_free_its_clock);
    tcase_add_test(tc, a_virtual_clock_stands_while_stopped_and_goes_on_from_there);
    tcase_add_test(tc, two_virtual_clocks_are_independent);
    tcase_add_test(tc, timers_of_the_host_and_realtime_clocks_fire_and_never_early);
    tcase_add_test(tc, a_timer_armed_on_another_thread_ends_a_longer_sleep);
    tcase_add_test(tc, a_clock_with_a_source_counts_what_the_source_counts);
    tcase_add_test(tc, many_timers_with_random_moves_fire_in_order);
    tcase_add_test(tc, masks_are_parsed_by_name_and_unknown_names_are_errors);
    tcase_add_test(tc, only_enabled_masks_reach_the_sink);
    tcase_add_test(tc, control_characters_of_a_guest_are_escaped);
    tcase_add_test(tc, a_guest_cannot_write_more_than_a_hundred_lines_at_once);
    tcase_add_test(tc, trace_points_are_listed_in_order_and_switched_by_glob);
    tcase_add_test(tc, a_log_file_is_written_and_a_bad_path_is_an_error);
    tcase_add_loop_test(tc, sizes_parse, 0, G_N_ELEMENTS(good_sizes));
    tcase_add_loop_test(tc, bad_sizes_are_errors_that_quote_them, 0, G_N_ELEMENTS(bad_sizes));
    tcase_add_test(tc, the_nearest_word_is_found_and_far_ones_are_not);
    tcase_add_test(tc, errno_is_put_behind_the_prefix_and_kept);
    tcase_add_test(tc, deferred_functions_run_in_order_after_a_grace_period);
    tcase_add_test(tc, any_thread_may_defer_and_registration_nests);
    tcase_add_test_raise_signal(tc, waiting_for_a_grace_period_with_the_lock_aborts, SIGABRT);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    SRunner *sr = srunner_create(core_suite());
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
