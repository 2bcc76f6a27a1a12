/*
 * Read-copy-update over liburcu (memb flavour): readers of memory topology and hook tables take no
 * lock.
 *
 * Every thread that reads calls rcu_thread_register first (vCPU threads and the main thread do).
 * Pointers are published with rcu_publish and read with rcu_load. Under ThreadSanitizer the
 * wrappers tell it of the ordering that liburcu gives.
 *
 * A thread may take the engine lock inside a section. Hence nobody may wait for a grace period
 * while holding it: rcu_wait and rcu_drain assert that the caller neither holds the lock nor is in
 * a section. rcu_defer is always allowed.
 *
 * liburcu is LGPL and linked dynamically; the inline functions used here are those that its header
 * names as free to be used by any code.
 */
#pragma once

#include <stdbool.h>
#include <urcu/urcu-memb.h>

#include <urcu/static/urcu-memb.h>

void rcu_thread_register(void); /* once a thread; nests */
void rcu_thread_unregister(void);
void rcu_wait(void); /* a grace period */
/* Calls fn(data) after a grace period, on a thread of liburcu, without the engine lock, in order of
 * the calls. */
void rcu_defer(void (*fn)(void *data), void *data);
void rcu_drain(void); /* waits until everything deferred before has run */

#if defined(__SANITIZE_THREAD__)
#define RCU_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RCU_TSAN 1
#endif
#endif
void rcu_not_registered(void) __attribute__((noreturn, cold));

/* A read-side section; nests; never waits for a grace period. */
#ifdef RCU_TSAN
/* Out of line: liburcu's own accesses are not for ThreadSanitizer to judge, and what a section did
 * is announced as coming before later grace periods. */
void rcu_enter(void);
void rcu_leave(void);
#else
static inline void rcu_enter(void)
{
    if (__builtin_expect(!URCU_TLS(urcu_memb_reader).registered, 0)) {
        rcu_not_registered();
    }
    _urcu_memb_read_lock();
}

static inline void rcu_leave(void)
{
    _urcu_memb_read_unlock();
}
#endif

static inline bool rcu_in_section(void)
{
    return _urcu_memb_read_ongoing() != 0;
}

#define rcu_load(pp)       __atomic_load_n((pp), __ATOMIC_ACQUIRE)
#define rcu_publish(pp, v) __atomic_store_n((pp), (v), __ATOMIC_RELEASE)
