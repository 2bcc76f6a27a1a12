/* Engine core: the lock, the main loop, bottom halves, RCU. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "tests/unit/core_rig.h"

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

int main(void)
{
    Suite *suite = suite_create("core");
    TCase *tc = tcase_create("core");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
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
    tcase_add_test(tc, deferred_functions_run_in_order_after_a_grace_period);
    tcase_add_test(tc, any_thread_may_defer_and_registration_nests);
    tcase_add_test_raise_signal(tc, waiting_for_a_grace_period_with_the_lock_aborts, SIGABRT);
    return run_suite(suite);
}
