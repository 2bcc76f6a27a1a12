/* Read-copy-update: what is not inline. */
#include "engine/core/rcu.h"

#include <glib.h>
#include <pthread.h>

#include "engine/core/lock.h"

/*
 * liburcu orders readers and grace periods with membarrier, which ThreadSanitizer cannot see. Each
 * end of a section releases on one tag, each end of a grace period acquires it: everything that
 * sections did before they ended happens before what follows the grace period.
 */
#ifdef RCU_TSAN
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
static char tsan_sections;
#define TSAN_ACQUIRE(tag) __tsan_acquire(tag)
#define TSAN_RELEASE(tag) __tsan_release(tag)

void rcu_enter(void)
{
    if (!URCU_TLS(urcu_memb_reader).registered) {
        rcu_not_registered();
    }
    urcu_memb_read_lock();
}

void rcu_leave(void)
{
    __tsan_release(&tsan_sections);
    urcu_memb_read_unlock();
}
#else
#define TSAN_ACQUIRE(tag) ((void)0)
#define TSAN_RELEASE(tag) ((void)0)
#endif

typedef struct RcuDeferred {
    struct rcu_head head; /* first */
    void (*fn)(void *data);
    void *data;
} RcuDeferred;

static __thread unsigned rcu_registrations;
static __thread bool rcu_registered_here; /* false on liburcu's own thread, which is registered */

void rcu_thread_register(void)
{
    if (rcu_registrations++ == 0 && !URCU_TLS(urcu_memb_reader).registered) {
        urcu_memb_register_thread();
        rcu_registered_here = true;
    }
}

void rcu_thread_unregister(void)
{
    g_assert(rcu_registrations > 0);
    if (--rcu_registrations == 0 && rcu_registered_here) {
        g_assert(!rcu_in_section());
        urcu_memb_unregister_thread();
        rcu_registered_here = false;
    }
}

void rcu_not_registered(void)
{
    g_error("rcu_enter on a thread that did not call rcu_thread_register");
}

void rcu_wait(void)
{
    g_assert(!engine_lock_held() && !rcu_in_section());
    urcu_memb_synchronize_rcu();
    TSAN_ACQUIRE(&tsan_sections);
}

static void rcu_run_deferred(struct rcu_head *head)
{
    RcuDeferred *d = (RcuDeferred *)head;
    TSAN_ACQUIRE(&tsan_sections);
    TSAN_ACQUIRE(d);
    d->fn(d->data);
    g_free(d);
}

void rcu_defer(void (*fn)(void *data), void *data)
{
    RcuDeferred *d = g_new(RcuDeferred, 1);
    d->fn = fn;
    d->data = data;
    TSAN_RELEASE(d);
    /* call_rcu needs a registered caller: it reads its table of worker threads in a section. */
    rcu_thread_register();
    urcu_memb_call_rcu(&d->head, rcu_run_deferred);
    rcu_thread_unregister();
}

/* Deferred functions run on one thread in the order they came, so one more of them marks the end of
 * all before it. (liburcu's own barrier does the same where ThreadSanitizer cannot follow.) */
typedef struct RcuMark {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool reached;
} RcuMark;

static void rcu_reach_mark(void *data)
{
    RcuMark *mark = data;
    pthread_mutex_lock(&mark->mutex);
    mark->reached = true;
    pthread_cond_signal(&mark->cond);
    pthread_mutex_unlock(&mark->mutex);
}

void rcu_drain(void)
{
    g_assert(!engine_lock_held() && !rcu_in_section());
    RcuMark mark = { .mutex = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
    rcu_defer(rcu_reach_mark, &mark);
    pthread_mutex_lock(&mark.mutex);
    while (!mark.reached) {
        pthread_cond_wait(&mark.cond, &mark.mutex);
    }
    pthread_mutex_unlock(&mark.mutex);
    pthread_mutex_destroy(&mark.mutex);
    pthread_cond_destroy(&mark.cond);
}
