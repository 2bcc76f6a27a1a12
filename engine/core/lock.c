/* The engine lock. */
#include "engine/core/lock.h"

#include <errno.h>
#include <time.h>

#include "engine/core/core_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

/*
 * Two mutexes make one lock. `lock_mutex` is the lock. A thread that finds it taken queues on
 * `lock_turn`, whose owner is the one that waits for lock_mutex. engine_lock may overtake the queue
 * (no convoy of vCPUs handing the lock to each other with a context switch each time),
 * engine_lock_fair may not.
 */
static pthread_mutex_t lock_mutex = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP;
static pthread_mutex_t lock_turn = PTHREAD_MUTEX_INITIALIZER;

__thread unsigned long engine_lock_count;
static __thread bool lock_held;
static __thread unsigned lock_no_unlock;
static __thread bool lock_dropped; /* between engine_unlocked_begin and _end */
static __thread unsigned lock_refused;
static bool (*unlock_veto)(void);

static void engine_lock_queued(void)
{
    pthread_mutex_lock(&lock_turn);
    pthread_mutex_lock(&lock_mutex);
    pthread_mutex_unlock(&lock_turn);
}

void engine_lock(void)
{
    g_assert(!lock_held && !lock_refused);
    if (pthread_mutex_trylock(&lock_mutex) != 0) {
        engine_lock_queued();
    }
    lock_held = true;
    engine_lock_count++;
}

void engine_lock_fair(void)
{
    g_assert(!lock_held);
    engine_lock_queued();
    lock_held = true;
}

void engine_unlock(void)
{
    g_assert(lock_held);
    g_assert(lock_no_unlock == 0);
    lock_held = false;
    pthread_mutex_unlock(&lock_mutex);
}

bool engine_lock_held(void)
{
    return lock_held;
}

void engine_set_unlock_veto(bool (*veto)(void))
{
    unlock_veto = veto;
}

bool engine_may_unlock(void)
{
    return lock_held && lock_no_unlock == 0 && !(unlock_veto && unlock_veto());
}

bool engine_unlocked_begin(GError **error)
{
    g_assert(lock_held);
    if (!engine_may_unlock()) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "cannot wait here: a device handler, callback or finaliser is running");
    }
    engine_unlock();
    lock_dropped = true;
    return true;
}

void engine_unlocked_end(void)
{
    g_assert(lock_dropped);
    lock_dropped = false;
    engine_lock();
}

void engine_no_unlock_begin(void)
{
    g_assert(lock_held);
    lock_no_unlock++;
}

void engine_no_unlock_end(void)
{
    g_assert(lock_held && lock_no_unlock > 0);
    lock_no_unlock--;
}

void engine_lock_refuse_begin(void)
{
    lock_refused++;
}

void engine_lock_refuse_end(void)
{
    g_assert(lock_refused > 0);
    lock_refused--;
}

void engine_cond_init(EngineCond *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&cond->cond, &attr);
    pthread_condattr_destroy(&attr);
}

void engine_cond_destroy(EngineCond *cond)
{
    pthread_cond_destroy(&cond->cond);
}

void engine_cond_wait(EngineCond *cond)
{
    g_assert(engine_may_unlock());
    lock_held = false;
    pthread_cond_wait(&cond->cond, &lock_mutex);
    lock_held = true;
}

bool engine_cond_timedwait(EngineCond *cond, int64_t timeout_ns)
{
    g_assert(engine_may_unlock());
    int64_t until;
    if (__builtin_add_overflow(monotonic_ns(), MAX(timeout_ns, 0), &until)) {
        until = INT64_MAX;
    }
    struct timespec ts = { .tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC };
    lock_held = false;
    int r = pthread_cond_timedwait(&cond->cond, &lock_mutex, &ts);
    lock_held = true;
    return r != ETIMEDOUT;
}

void engine_cond_broadcast(EngineCond *cond)
{
    pthread_cond_broadcast(&cond->cond);
}
