/* What the files of engine/core share and nobody else sees. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Takes the lock behind threads that already wait for it. For the main loop, which releases it
 * around every poll: without this a busy loop would take it back before a woken vCPU gets there. */
void engine_lock_fair(void);

/* clock.c, all under the engine lock: the clocks that the main loop drives (host time). */
#define DEADLINE_NONE INT64_MAX
int64_t clocks_next_deadline(void); /* as CLOCK_MONOTONIC ns; DEADLINE_NONE without any */
void clocks_run_due(void);
int64_t monotonic_ns(void);

/* main-loop.c: whether it is in poll, and has to be told that the first deadline of some clock
 * moved to CLOCK_MONOTONIC `when`. Engine lock. */
bool main_loop_sleeps(void);
void main_loop_deadline_moved(int64_t when);

/* log.c: tells of messages that were held back and not yet counted. */
void log_flush_suppressed(void);
void log_start_time(void); /* from here the times of trace lines count */
