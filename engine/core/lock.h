/*
 * The engine lock: one mutex over devices, topology, timers and the lua_State.
 *
 * Order of all locks: docs/locking.md. RAM, lockless regions, ioeventfds, coalesced ranges and
 * exits that no hook matches do not take it. It is not recursive: taking it twice on a thread is a
 * bug and aborts instead of hanging.
 */
#pragma once

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

void engine_lock(void);
void engine_unlock(void);
bool engine_lock_held(void); /* by this thread; exact in every build */
/* How often this thread has taken it: statistics tell by it what needed the lock. */
extern __thread unsigned long engine_lock_count;

/*
 * Drops the lock around a call that blocks, and takes it again. Refused (false + error, lock kept)
 * where other code up the stack relies on the lock: in a device handler, a script callback or a
 * finaliser, i.e. between engine_no_unlock_begin and _end on this thread. After a refusal
 * engine_unlocked_end must not be called.
 */
bool engine_unlocked_begin(GError **error);
void engine_unlocked_end(void);
void engine_no_unlock_begin(void); /* nests */
void engine_no_unlock_end(void);
/* This thread holds something that comes after the engine lock in the order of locks: to take the
 * lock in between is a bug, and aborts instead of hanging now and then. Nests. */
void engine_lock_refuse_begin(void);
void engine_lock_refuse_end(void);
/* Asked besides, with the lock held: whether code runs that must not lose the lock and that nobody
 * could mark as such (a finaliser of a script, which any allocation may run). Set once. */
void engine_set_unlock_veto(bool (*veto)(void));
bool engine_may_unlock(void); /* this thread holds the lock, and nobody up its stack forbids */

/* A condition that is waited for with the engine lock. Waiting is refused where dropping the lock
 * is (asserted). Spurious wake-ups happen: test in a loop. */
typedef struct EngineCond {
    pthread_cond_t cond;
} EngineCond;
void engine_cond_init(EngineCond *cond);
void engine_cond_destroy(EngineCond *cond);
void engine_cond_wait(EngineCond *cond);
/* false after `timeout_ns` of CLOCK_MONOTONIC. */
bool engine_cond_timedwait(EngineCond *cond, int64_t timeout_ns);
void engine_cond_broadcast(EngineCond *cond);

#define ENGINE_LOCK_ASSERT() g_assert(engine_lock_held())
