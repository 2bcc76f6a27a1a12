/*
 * Comparing two images, piece by piece, on several workers. Pieces are handed out from the
 * beginning, so the first difference is known once all that were handed out before it are through.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/job_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define PIECE_BYTES (1 * MiB)

typedef struct CompareJob {
    BlockJob job;
    BlockNode *node[2];
    bool strict;
    /* Under the mutex. */
    uint64_t position;
    uint64_t known_end[2];
    BlockStatus status[2];
    BlockCompareResult result;
    uint64_t result_at;
    int failed;
    uint64_t failed_at;
} CompareJob;

typedef struct Piece {
    uint64_t at, bytes;
    bool zero[2];
    bool differs; /* in what is allocated */
} Piece;

static void found(CompareJob *c, BlockCompareResult result, uint64_t at)
{
    pthread_mutex_lock(&c->job.mutex);
    if (c->result == BLOCK_COMPARE_SAME || at < c->result_at) {
        c->result = result;
        c->result_at = at;
    }
    pthread_mutex_unlock(&c->job.mutex);
}

static void failed(CompareJob *c, int which, uint64_t at, int e)
{
    pthread_mutex_lock(&c->job.mutex);
    if (!c->job.error) {
        c->failed = which;
        c->failed_at = at;
    }
    pthread_mutex_unlock(&c->job.mutex);
    block_job_fail_at(&c->job, c->node[which], "reading", at, e);
}

/* Beyond its end an image is zero. Called with the mutex. */
static int look(CompareJob *c, int i)
{
    uint64_t length = block_node_length(c->node[i]);
    BlockStatus *st = &c->status[i];
    int e;

    if (c->position < c->known_end[i]) {
        return 0;
    }
    if (c->position >= length) {
        *st = (BlockStatus){ .bytes = c->job.total - c->position, .flags = BLOCK_STATUS_ZERO };
        c->known_end[i] = c->job.total;
        return 0;
    }
    e = block_job_status(c->node[i], c->position, length - c->position, st);
    c->known_end[i] = c->position + st->bytes;
    return e;
}

static bool next_piece(CompareJob *c, Piece *p)
{
    while (!block_job_stopped(&c->job) && c->position < c->job.total &&
           c->result == BLOCK_COMPARE_SAME) {
        uint64_t shared, mask = BLOCK_STATUS_DATA | BLOCK_STATUS_ZERO;
        bool both;

        for (int i = 0; i < 2; i++) {
            int e = look(c, i);

            if (e) {
                pthread_mutex_unlock(&c->job.mutex);
                failed(c, i, c->position, e);
                pthread_mutex_lock(&c->job.mutex);
                return false;
            }
            p->zero[i] = c->status[i].flags & BLOCK_STATUS_ZERO;
        }
        p->at = c->position;
        p->differs = c->strict && ((c->status[0].flags ^ c->status[1].flags) & mask) != 0;
        shared = MIN(c->known_end[0], c->known_end[1]) - c->position;
        both = p->zero[0] && p->zero[1] && !p->differs;
        p->bytes = both ? shared : MIN(shared, PIECE_BYTES - (c->position & (PIECE_BYTES - 1)));
        c->position += p->bytes;
        if (!both) {
            return true;
        }
        block_job_add_done(&c->job, p->bytes);
    }
    return false;
}

/* The sector of the first byte that differs. */
static uint64_t first_difference(const char *a, const char *b, uint64_t bytes)
{
    uint64_t i = 0;

    while (i < bytes) {
        size_t n = MIN(BLOCK_SECTOR_SIZE, bytes - i);

        if (memcmp(a + i, b + i, n) != 0) {
            return i;
        }
        i += n;
    }
    return bytes;
}

static bool compare_piece(CompareJob *c, const Piece *p, char *buf[2])
{
    if (p->differs) {
        found(c, BLOCK_COMPARE_ALLOCATION, p->at);
        return true;
    }
    for (int i = 0; i < 2; i++) {
        int e = p->zero[i] ? 0 : block_node_pread(c->node[i], p->at, buf[i], p->bytes);

        if (e) {
            failed(c, i, p->at, e);
            return false;
        }
    }
    if (p->zero[0] || p->zero[1]) {
        char *one = buf[p->zero[0] ? 1 : 0], *zeroes = buf[p->zero[0] ? 0 : 1];

        if (!block_buf_is_zero(one, p->bytes)) {
            memset(zeroes, 0, p->bytes);
            found(c, BLOCK_COMPARE_CONTENT, p->at + first_difference(one, zeroes, p->bytes));
        }
    } else if (memcmp(buf[0], buf[1], p->bytes) != 0) {
        found(c, BLOCK_COMPARE_CONTENT, p->at + first_difference(buf[0], buf[1], p->bytes));
    }
    return true;
}

static void compare_work(BlockJob *job)
{
    CompareJob *c = (CompareJob *)job;
    char *buf[2] = { block_job_buffer(PIECE_BYTES), block_job_buffer(PIECE_BYTES) };
    Piece p;
    bool more = buf[0] && buf[1];

    if (!more) {
        block_job_fail(job,
                       g_error_new(ENGINE_ERROR, ENGINE_ERROR_LIMIT, "no memory to compare with"));
    }
    while (more) {
        pthread_mutex_lock(&job->mutex);
        more = next_piece(c, &p);
        pthread_mutex_unlock(&job->mutex);
        more = more && compare_piece(c, &p, buf);
        if (more) {
            block_job_add_done(job, p.bytes);
        }
    }
    free(buf[0]);
    free(buf[1]);
}

static const BlockJobOps compare_ops = { .work = compare_work };

BlockJob *block_compare_start(BlockNode *a, BlockNode *b, bool strict, unsigned workers,
                              BlockJobFn done, void *opaque, GError **error)
{
    CompareJob *c = g_new0(CompareJob, 1);

    block_job_init(&c->job, &compare_ops, done, opaque);
    block_job_hold(&c->job, a);
    block_job_hold(&c->job, b);
    c->node[0] = a;
    c->node[1] = b;
    c->strict = strict;
    c->job.total = MAX(block_node_length(a), block_node_length(b));
    block_job_start(&c->job, workers ? workers : 4);
    return &c->job;
}

BlockCompareResult block_compare_result(const BlockJob *job, uint64_t *offset)
{
    const CompareJob *c = (const CompareJob *)job;

    *offset = c->result_at;
    return c->result;
}

int block_compare_failed(const BlockJob *job, uint64_t *offset)
{
    const CompareJob *c = (const CompareJob *)job;

    *offset = c->failed_at;
    return c->failed;
}
