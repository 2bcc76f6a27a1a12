/* Clocks and timers. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "tests/unit/core_rig.h"

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

START_TEST(a_clock_says_when_its_first_timer_is_late)
{
    Clock *clock = clock_new_virtual();
    timer_setup(&timers[0], clock, note, TEXT("a"));
    ck_assert_int_eq(clock_late(clock, CLOCK_MAX, 0), -1);
    timer_arm(&timers[0], 1000);
    ck_assert_int_eq(clock_late(clock, 5000, 100), -1); /* it stands */
    clock_start(clock);
    ck_assert_int_eq(clock_late(clock, 1100, 100), -1);
    ck_assert_int_eq(clock_late(clock, 1101, 100), 1000);
    timer_arm(&timers[0], CLOCK_MAX / 2);
    ck_assert_int_eq(clock_late(clock, 5000, 100), -1);
    timer_arm(&timers[0], 10);
    timer_disarm(&timers[0]);
    ck_assert_int_eq(clock_late(clock, 5000, 100), -1);
    clock_free(clock);
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

int main(void)
{
    Suite *suite = suite_create("clock");
    TCase *tc = tcase_create("clock");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    tcase_add_test(tc, timers_fire_in_order_of_deadline_then_of_arming);
    tcase_add_test(tc, rearming_moves_a_timer_and_disarming_silences_it);
    tcase_add_test(tc, a_callback_may_disarm_and_arm_others);
    tcase_add_test(tc, a_timer_that_rearms_itself_for_now_does_not_hold_the_loop);
    tcase_add_test(tc, a_callback_may_free_its_clock);
    tcase_add_test(tc, a_virtual_clock_stands_while_stopped_and_goes_on_from_there);
    tcase_add_test(tc, a_clock_says_when_its_first_timer_is_late);
    tcase_add_test(tc, two_virtual_clocks_are_independent);
    tcase_add_test(tc, timers_of_the_host_and_realtime_clocks_fire_and_never_early);
    tcase_add_test(tc, a_timer_armed_on_another_thread_ends_a_longer_sleep);
    tcase_add_test(tc, a_clock_with_a_source_counts_what_the_source_counts);
    tcase_add_test(tc, many_timers_with_random_moves_fire_in_order);
    return run_suite(suite);
}
