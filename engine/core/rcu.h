/*
 * Read-copy-update over liburcu (memb flavour): readers of memory topology and hook tables take no
 * lock.
 *
 * Every thread that reads calls rcu_thread_register first (vCPU threads and the main thread do).
 * Pointers are published with rcu_publish and read with rcu_load. Under ThreadSanitizer the
 * wrappers tell it of the ordering that liburcu gives.
 */
#pragma once

#include <stdbool.h>

void rcu_thread_register(void); /* once a thread; nests */
void rcu_thread_unregister(void);
void rcu_enter(void); /* read-side section; nests; never blocks; may not wait for a grace period */
void rcu_leave(void);
void rcu_wait(
    void); /* a grace period. Not inside a section; drops nothing: keep it off hot paths */
/* Calls fn(data) after a grace period, on a thread of liburcu, without the engine lock. */
void rcu_defer(void (*fn)(void *data), void *data);
void rcu_drain(void); /* waits until everything deferred before has run */

#define rcu_load(pp)       __atomic_load_n((pp), __ATOMIC_ACQUIRE)
#define rcu_publish(pp, v) __atomic_store_n((pp), (v), __ATOMIC_RELEASE)
