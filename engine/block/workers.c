/*
 * Worker threads: for system calls that block, and slow work of formats. Started when work waits
 * and no thread is idle, up to a bound, which those that only wait for a child's worker do not
 * count towards; joined when the last user is gone.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "engine/block/block_priv.h"
#include "engine/core/lock.h"

#define MAX_WORKERS 64   /* that work */
#define MAX_THREADS 2048 /* with those that wait for other workers */

/* Everything but `refs` is guarded by `mutex`, a leaf lock. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    BlockWork *first, **last;
    pthread_t threads[MAX_THREADS];
    unsigned n, idle, queued, waiting;
    bool stop;
    unsigned refs; /* engine lock */
} pool = { .mutex = PTHREAD_MUTEX_INITIALIZER,
           .work = PTHREAD_COND_INITIALIZER,
           .last = &pool.first };

static __thread bool on_worker;

bool block_on_worker(void)
{
    return on_worker;
}

static void *worker_main(void *opaque)
{
    on_worker = true;
    pthread_setname_np(pthread_self(), "block-worker");
    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        BlockWork *work = pool.first;

        if (!work) {
            if (pool.stop) {
                break;
            }
            pool.idle++;
            pthread_cond_wait(&pool.work, &pool.mutex);
            pool.idle--;
            continue;
        }
        pool.first = work->next;
        if (!pool.first) {
            pool.last = &pool.first;
        }
        pool.queued--;
        pthread_mutex_unlock(&pool.mutex);
        work->run(work);
        pthread_mutex_lock(&pool.mutex);
    }
    pthread_mutex_unlock(&pool.mutex);
    return NULL;
}

void block_workers_ref(void)
{
    pool.refs++;
}

void block_workers_unref(void)
{
    unsigned n;

    if (--pool.refs > 0) {
        return;
    }
    pthread_mutex_lock(&pool.mutex);
    pool.stop = true;
    n = pool.n;
    pthread_cond_broadcast(&pool.work);
    pthread_mutex_unlock(&pool.mutex);
    for (unsigned i = 0; i < n; i++) {
        pthread_join(pool.threads[i], NULL);
    }
    pool.n = 0;
    pool.stop = false;
}

/* Signals stay with the threads that handle them. Called with the pool's lock. */
static bool start_worker(void)
{
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&pool.threads[pool.n], NULL, worker_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        pool.n++;
    }
    return error == 0;
}

static bool want_worker(void)
{
    return pool.idle < pool.queued && pool.n - pool.waiting < MAX_WORKERS && pool.n < MAX_THREADS;
}

void block_worker_waits(bool begins)
{
    pthread_mutex_lock(&pool.mutex);
    pool.waiting += begins ? 1 : -1u;
    if (begins && want_worker()) {
        start_worker();
    }
    pthread_mutex_unlock(&pool.mutex);
}

void block_work_submit(BlockWork *work)
{
    bool alone = false;

    work->next = NULL;
    pthread_mutex_lock(&pool.mutex);
    *pool.last = work;
    pool.last = &work->next;
    pool.queued++;
    if (want_worker()) {
        alone = !start_worker() && pool.n == 0;
    }
    if (alone) {
        /* No thread at all can be made: the work is the last in the queue, which was empty. */
        pool.first = NULL;
        pool.last = &pool.first;
        pool.queued--;
    } else {
        pthread_cond_signal(&pool.work);
    }
    pthread_mutex_unlock(&pool.mutex);
    if (alone) {
        work->run(work);
    }
}

bool block_work_remove(BlockWork *work)
{
    bool found = false;

    pthread_mutex_lock(&pool.mutex);
    for (BlockWork **at = &pool.first; *at; at = &(*at)->next) {
        if (*at == work) {
            *at = work->next;
            if (!*at) {
                pool.last = at;
            }
            pool.queued--;
            found = true;
            break;
        }
    }
    pthread_mutex_unlock(&pool.mutex);
    return found;
}
