/* Engine core under many threads: what ThreadSanitizer should look at. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/clock.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"
#include "tests/unit/run_suite.h"

#define THREADS 4
#define ROUNDS  2000

static pthread_t threads[THREADS];
static int finished; /* engine lock */

static void setup(void)
{
    main_loop_init();
    finished = 0;
}

static void teardown(void)
{
    main_loop_finalize();
    log_set_sink(NULL, NULL);
}

static void one_finished(void *opaque)
{
    finished++;
}

typedef void (*Work)(int thread, int round);

typedef struct Job {
    Work work;
    int next; /* number of the next thread that starts */
} Job;

static void *run_rounds(void *opaque)
{
    Job *job = opaque;
    Work work = job->work;
    int thread = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
    rcu_thread_register();
    for (int i = 0; i < ROUNDS; i++) {
        work(thread, i);
    }
    rcu_thread_unregister();
    bh_once(one_finished, NULL);
    return NULL;
}

/* Runs `work` on all threads and the main loop (with `meanwhile` between its rounds) here. */
static void run_threads(Work work, void (*meanwhile)(void))
{
    Job job = { work, 0 };
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_rounds, &job), 0);
    }
    while (finished < THREADS) {
        main_loop_iterate(meanwhile == NULL);
        if (meanwhile) {
            meanwhile();
        }
    }
    ck_assert(engine_unlocked_begin(NULL));
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    engine_unlocked_end();
}

/* ---- the lock ------------------------------------------------------------------------------- */

static unsigned long counter;

static void count_locked(int thread, int round)
{
    engine_lock();
    counter++;
    engine_unlock();
}

static void count_here(void)
{
    counter += 1000000;
}

START_TEST(the_lock_excludes_threads_and_the_main_loop)
{
    counter = 0;
    run_threads(count_locked, count_here);
    ck_assert_uint_eq(counter % 1000000, THREADS * ROUNDS);
}
END_TEST

static EngineCond turn_cond;
static int turn;

static void take_turns(int thread, int round)
{
    engine_lock();
    while (turn % THREADS != thread) {
        if (round % 2) {
            engine_cond_wait(&turn_cond);
        } else {
            engine_cond_timedwait(&turn_cond, NS_PER_MS);
        }
    }
    turn++;
    engine_cond_broadcast(&turn_cond);
    engine_unlock();
}

START_TEST(threads_take_turns_on_a_condition)
{
    engine_cond_init(&turn_cond);
    turn = 0;
    run_threads(take_turns, NULL);
    ck_assert_int_eq(turn, THREADS * ROUNDS);
    engine_cond_destroy(&turn_cond);
}
END_TEST

/* ---- RCU ------------------------------------------------------------------------------------ */

typedef struct Box {
    uint64_t value, complement;
    int *freed;
} Box;

static Box *published;
static int boxes_freed, boxes_made;

static Box *box_new(uint64_t value)
{
    Box *box = g_new(Box, 1);
    *box = (Box){ value, ~value, &boxes_freed };
    boxes_made++;
    return box;
}

static void box_free(void *data)
{
    Box *box = data;
    /* Readers may not see this: a torn pair would fail below. */
    box->value = box->complement = 0;
    __atomic_add_fetch(box->freed, 1, __ATOMIC_RELAXED);
    g_free(box);
}

static void read_or_replace(int thread, int round)
{
    rcu_enter();
    Box *box = rcu_load(&published);
    uint64_t value = box->value;
    rcu_enter();
    ck_assert(box->complement == ~value);
    rcu_leave();
    rcu_leave();
    if (round % 16 == thread) {
        engine_lock();
        Box *old = published;
        rcu_publish(&published, box_new((uint64_t)round));
        engine_unlock();
        if (round % 64 == thread) {
            rcu_wait();
            box_free(old);
        } else {
            rcu_defer(box_free, old);
        }
    }
}

START_TEST(readers_see_whole_objects_while_writers_replace_and_free_them)
{
    boxes_freed = boxes_made = 0;
    published = box_new(1);
    run_threads(read_or_replace, NULL);
    ck_assert(engine_unlocked_begin(NULL));
    rcu_drain();
    engine_unlocked_end();
    ck_assert_int_gt(boxes_made, THREADS);
    ck_assert_int_eq(boxes_freed, boxes_made - 1);
    box_free(published);
}
END_TEST

/* ---- bottom halves and timers -----------------------------------------------------------------
 */

static BottomHalf *shared_bh;
static unsigned long shared_runs, scheduled_payload, seen_payload;
static unsigned once_runs;

static void run_shared(void *opaque)
{
    shared_runs++;
    seen_payload = __atomic_load_n(&scheduled_payload, __ATOMIC_RELAXED);
}

static void run_once(void *opaque)
{
    once_runs += *(unsigned *)opaque;
    g_free(opaque);
}

static void schedule(int thread, int round)
{
    __atomic_add_fetch(&scheduled_payload, 1, __ATOMIC_RELAXED);
    bh_schedule(shared_bh);
    if (round % 8 == 0) {
        unsigned *one = g_new(unsigned, 1);
        *one = 1;
        bh_once(run_once, one);
    }
    if (round % 32 == 0) {
        main_loop_wakeup();
    }
}

START_TEST(no_scheduling_of_a_bottom_half_is_lost)
{
    shared_bh = bh_new(run_shared, NULL);
    shared_runs = scheduled_payload = seen_payload = once_runs = 0;
    run_threads(schedule, NULL);
    while (main_loop_iterate(false)) {
    }
    ck_assert_uint_ge(shared_runs, 1);
    ck_assert_uint_eq(seen_payload, THREADS * ROUNDS);
    ck_assert_uint_eq(once_runs, THREADS * ROUNDS / 8);
    bh_free(shared_bh);
}
END_TEST

static Timer thread_timers[THREADS];
static unsigned long fired;

static void count_fired(void *opaque)
{
    fired++;
}

static void arm(int thread, int round)
{
    Clock *clock = thread_timers[thread].clock;
    engine_lock();
    timer_arm(&thread_timers[thread], clock_now(clock) + round % 3 * 1000);
    if (round % 5 == 0) {
        timer_disarm(&thread_timers[thread]);
    }
    engine_unlock();
}

START_TEST(timers_armed_from_threads_fire_on_the_main_thread)
{
    Clock *clock = clock_new_virtual();
    clock_start(clock);
    fired = 0;
    for (int i = 0; i < THREADS; i++) {
        timer_setup(&thread_timers[i], i % 2 ? clock : clock_realtime(), count_fired, NULL);
    }
    run_threads(arm, NULL);
    for (int i = 0; i < THREADS; i++) {
        timer_arm(&thread_timers[i], 0);
    }
    unsigned long before = fired;
    while (fired < before + THREADS) {
        main_loop_iterate(true);
    }
    clock_free(clock);
}
END_TEST

static Clock *watched_clock;
static int64_t last_seen[THREADS];

static void read_clock(int thread, int round)
{
    int64_t now = clock_now(watched_clock);
    ck_assert_int_ge(now, last_seen[thread]);
    last_seen[thread] = now;
}

static void stop_and_start(void)
{
    clock_stop(watched_clock);
    int64_t now = clock_now(watched_clock);
    ck_assert_int_eq(clock_now(watched_clock), now);
    clock_start(watched_clock);
}

START_TEST(a_clock_that_is_stopped_and_started_never_runs_backwards_for_readers)
{
    watched_clock = clock_new_virtual();
    clock_start(watched_clock);
    memset(last_seen, 0, sizeof(last_seen));
    run_threads(read_clock, stop_and_start);
    clock_free(watched_clock);
}
END_TEST

/* ---- log --------------------------------------------------------------------------------------
 */

TRACE_POINT(threads_round, "thread=%d round=%d")

static unsigned long lines;

static void count_line(LogMask mask, const char *line, void *opaque)
{
    lines += mask == LOG_TRACE || g_str_has_prefix(line, "cpu thread");
}

static void write_lines(int thread, int round)
{
    log_mask(LOG_CPU, "cpu thread %d", thread);
    log_mask(LOG_GUEST, "guest error %d", round);
    TRACE(threads_round, thread, round);
}

static void switch_masks(void)
{
    log_set_mask(LOG_CPU);
    log_set_mask(LOG_CPU | LOG_GUEST);
    trace_enable("threads_*", false);
    trace_enable("threads_*", true);
}

START_TEST(lines_from_threads_are_whole_and_none_is_lost)
{
    lines = 0;
    log_set_sink(count_line, NULL);
    log_set_mask(LOG_CPU | LOG_GUEST);
    run_threads(write_lines, switch_masks);
    log_set_mask(0);
    trace_enable("*", false);
    ck_assert_uint_eq(lines, THREADS * ROUNDS + trace_threads_round.hits);
}
END_TEST

static Suite *threads_suite(void)
{
    Suite *s = suite_create("core-threads");
    TCase *tc = tcase_create("core-threads");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, the_lock_excludes_threads_and_the_main_loop);
    tcase_add_test(tc, threads_take_turns_on_a_condition);
    tcase_add_test(tc, readers_see_whole_objects_while_writers_replace_and_free_them);
    tcase_add_test(tc, no_scheduling_of_a_bottom_half_is_lost);
    tcase_add_test(tc, timers_armed_from_threads_fire_on_the_main_thread);
    tcase_add_test(tc, a_clock_that_is_stopped_and_started_never_runs_backwards_for_readers);
    tcase_add_test(tc, lines_from_threads_are_whole_and_none_is_lost);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    return run_suite(threads_suite());
}
