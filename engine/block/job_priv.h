/*
 * Jobs: work through whole images on several workers at a time. What is common to all: workers,
 * progress, the first error, cancelling, the end on the main loop.
 */
#pragma once

#include <pthread.h>

#include "engine/block/block_priv.h"

#define JOB_ALIGN 4096 /* of buffers: direct I/O takes them as they are */

typedef struct BlockJobWorker {
    BlockWork work;
    BlockJob *job;
} BlockJobWorker;

typedef struct BlockJobOps {
    void (*work)(BlockJob *job); /* on each worker; returns when nothing is left to do */
    void (*free)(BlockJob *job); /* what the job has beyond the common part */
} BlockJobOps;

struct BlockJob {
    const BlockJobOps *ops;
    pthread_mutex_t mutex;
    pthread_cond_t cond;  /* a turn has come, or the job ends */
    uint64_t done, total; /* atomic */
    bool stop;            /* atomic: cancelled, failed, or there is nothing more to learn */
    bool cancelled;       /* under the mutex */
    GError *error;        /* the first; under the mutex */
    unsigned running;     /* atomic: workers that have not returned */
    int64_t start_ns;
    BlockJobWorker workers[BLOCK_JOB_MAX_WORKERS];
    BlockJobFn finished;
    void *opaque;
    GPtrArray *nodes; /* BlockNode, in use until the end */
};

/* Sets up the common part of a zeroed job. */
void block_job_init(BlockJob *job, const BlockJobOps *ops, BlockJobFn finished, void *opaque);
void block_job_hold(BlockJob *job, BlockNode *node);
void block_job_start(BlockJob *job, unsigned workers);
/* Any thread. The first error counts; its reference is taken. */
void block_job_fail(BlockJob *job, GError *error);
void block_job_fail_at(BlockJob *job, BlockNode *node, const char *what, uint64_t offset, int e);
/* Nothing more is to be done, and it is no error. */
void block_job_stop(BlockJob *job);
bool block_job_stopped(const BlockJob *job);
void block_job_add_done(BlockJob *job, uint64_t bytes);
/* Sleeps until `bytes` may have gone by at that rate. */
void block_job_pace(BlockJob *job, uint64_t rate, uint64_t bytes);
void *block_job_buffer(size_t bytes); /* aligned; NULL: no memory; free() */
/* For work that is on the main loop alone: it is finished with what block_job_fail said. */
void block_job_finish_soon(BlockJob *job);
int block_job_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *out);
