/*
 * The main loop: a GLib main context whose poll runs without the engine lock, plus bottom halves.
 *
 * Everything that GLib dispatches from it (timers, fd watches, idle functions, bottom halves) runs
 * on the main thread with the engine lock held.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* Once, on the main thread, before anything else of the engine: RCU, clocks, log, module lists.
 * Takes the engine lock; it is held from then on except around poll and in engine_unlocked_begin.
 */
void main_loop_init(void);
void main_loop_finalize(void);
GMainContext *main_loop_context(void);
bool main_loop_is_main_thread(void);
/* One round: blocks for the next event when `block`. Returns whether anything was dispatched. Main
 * thread, lock held, not in a handler that refuses unlocking. */
bool main_loop_iterate(bool block);
/* From any thread or a signal handler: makes a blocked iterate return. */
void main_loop_wakeup(void);

/* Watches a file descriptor on the main context. The callback returns G_SOURCE_CONTINUE or
 * G_SOURCE_REMOVE. */
typedef gboolean (*FdCallback)(int fd, GIOCondition cond, void *opaque);
GSource *main_loop_add_fd(int fd, GIOCondition cond, FdCallback fn,
                          void *opaque); /* caller: g_source_destroy + unref */

/*
 * A gate: somebody lets the main loop dispatch only at points of his own choosing (a machine whose
 * time is a count of instructions: what comes from outside may reach it at defined counts only).
 * While any gate is closed the main loop waits after its poll. Engine lock for all of them.
 */
typedef struct MainLoopGate {
    bool closed, waiting; /* read by the owner */
    void (*drained)(void *opaque);
    void *opaque;
    struct MainLoopGate *next;
} MainLoopGate;
void main_loop_gate_add(MainLoopGate *gate, void (*drained)(void *opaque), void *opaque); /* open */
void main_loop_gate_remove(MainLoopGate *gate);
void main_loop_gate_set(MainLoopGate *gate, bool closed);
/* Opens it; `drained` is called on the main thread, with the lock, once a round of the loop found
 * nothing (or, so that a busy loop starves nobody, after many rounds). */
void main_loop_gate_wait(MainLoopGate *gate);

/* Bottom halves: run fn(opaque) once, soon, on the main thread with the lock held, however often
 * scheduled before that. */
typedef struct BottomHalf BottomHalf;
BottomHalf *bh_new(void (*fn)(void *opaque), void *opaque);
void bh_schedule(BottomHalf *bh);                     /* any thread, with or without the lock */
void bh_cancel(BottomHalf *bh);                       /* engine lock */
void bh_free(BottomHalf *bh);                         /* engine lock; also from its own callback */
void bh_once(void (*fn)(void *opaque), void *opaque); /* one shot, freed after it ran; any thread */
