/*
 * The common part of jobs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/block/job_priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define HUGE_PAGE ((size_t)2 * MiB)

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

void block_job_init(BlockJob *job, const BlockJobOps *ops, BlockJobFn finished, void *opaque)
{
    pthread_condattr_t attr;

    job->ops = ops;
    job->finished = finished;
    job->opaque = opaque;
    job->nodes = g_ptr_array_new();
    job->start_ns = now_ns();
    pthread_mutex_init(&job->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&job->cond, &attr);
    pthread_condattr_destroy(&attr);
    block_workers_ref();
}

void block_job_hold(BlockJob *job, BlockNode *node)
{
    g_ptr_array_add(job->nodes, block_node_use(node));
}

static void drop_nodes(BlockJob *job)
{
    for (guint i = 0; i < job->nodes->len; i++) {
        block_node_unuse(job->nodes->pdata[i]);
    }
    g_ptr_array_set_size(job->nodes, 0);
}

/* Main loop. */
static void job_finished(void *opaque)
{
    BlockJob *job = opaque;
    BlockJobFn finished = job->finished;

    drop_nodes(job);
    if (!job->error && job->cancelled) {
        errno = ECANCELED;
        error_set_errno(&job->error, "it was ended");
    }
    finished(job->opaque, job->error);
}

void block_job_finish_soon(BlockJob *job)
{
    bh_once(job_finished, job);
}

static void worker_run(BlockWork *work)
{
    BlockJob *job = ((BlockJobWorker *)work)->job;

    job->ops->work(job);
    if (__atomic_sub_fetch(&job->running, 1, __ATOMIC_ACQ_REL) == 0) {
        block_job_finish_soon(job);
    }
}

void block_job_start(BlockJob *job, unsigned workers)
{
    job->running = workers = CLAMP(workers, 1, BLOCK_JOB_MAX_WORKERS);
    for (unsigned i = 0; i < workers; i++) {
        job->workers[i].work.run = worker_run;
        job->workers[i].job = job;
        block_work_submit(&job->workers[i].work);
    }
}

void block_job_free(BlockJob *job)
{
    if (!job) {
        return;
    }
    drop_nodes(job);
    if (job->ops->free) {
        job->ops->free(job);
    }
    g_clear_error(&job->error);
    g_ptr_array_free(job->nodes, TRUE);
    pthread_mutex_destroy(&job->mutex);
    pthread_cond_destroy(&job->cond);
    block_workers_unref();
    g_free(job);
}

void block_job_progress(const BlockJob *job, uint64_t *done, uint64_t *total)
{
    *done = __atomic_load_n(&job->done, __ATOMIC_RELAXED);
    *total = __atomic_load_n(&job->total, __ATOMIC_RELAXED);
}

void block_job_add_done(BlockJob *job, uint64_t bytes)
{
    __atomic_add_fetch(&job->done, bytes, __ATOMIC_RELAXED);
}

bool block_job_stopped(const BlockJob *job)
{
    return __atomic_load_n(&job->stop, __ATOMIC_RELAXED);
}

static void stop_locked(BlockJob *job)
{
    __atomic_store_n(&job->stop, true, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&job->cond);
}

void block_job_stop(BlockJob *job)
{
    pthread_mutex_lock(&job->mutex);
    stop_locked(job);
    pthread_mutex_unlock(&job->mutex);
}

void block_job_cancel(BlockJob *job)
{
    pthread_mutex_lock(&job->mutex);
    job->cancelled = true;
    stop_locked(job);
    pthread_mutex_unlock(&job->mutex);
}

void block_job_fail(BlockJob *job, GError *error)
{
    pthread_mutex_lock(&job->mutex);
    if (job->error) {
        g_error_free(error);
    } else {
        job->error = error;
    }
    stop_locked(job);
    pthread_mutex_unlock(&job->mutex);
}

void block_job_fail_at(BlockJob *job, BlockNode *node, const char *what, uint64_t offset, int e)
{
    GError *error = NULL;

    errno = e;
    error_set_errno(&error, "'%s': %s at offset %" G_GUINT64_FORMAT, block_node_name(node), what,
                    offset);
    block_job_fail(job, error);
}

void block_job_pace(BlockJob *job, uint64_t rate, uint64_t bytes)
{
    double seconds = rate ? (double)bytes / (double)rate : 0;
    int64_t until = job->start_ns + (int64_t)(seconds * 1e9);
    struct timespec ts = { .tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC };

    if (!rate) {
        return;
    }
    pthread_mutex_lock(&job->mutex);
    while (!block_job_stopped(job) && now_ns() < until) {
        pthread_cond_timedwait(&job->cond, &job->mutex, &ts);
    }
    pthread_mutex_unlock(&job->mutex);
}

void *block_job_buffer(size_t bytes)
{
    bool large = bytes >= HUGE_PAGE / 2;
    void *buf;

    if (posix_memalign(&buf, large ? HUGE_PAGE : JOB_ALIGN,
                       large ? (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1) : bytes) != 0) {
        return NULL;
    }
    if (large) { /* a hint: fewer pages to fault in, and fewer pieces for the device */
        madvise(buf, (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), MADV_HUGEPAGE);
    }
    return buf;
}

int block_job_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *out)
{
    BlockReq req;
    int e;

    memset(out, 0, sizeof(*out));
    block_req_init(&req, BLOCK_OP_STATUS, offset, bytes, NULL, 0, 0, 0, NULL, NULL);
    req.status = out;
    e = block_node_sync(node, &req);
    block_req_clear(&req);
    if (e == 0 && (out->bytes == 0 || out->bytes > bytes)) {
        out->bytes = bytes;
    }
    return e;
}
