/*
 * Requests to nodes: how they are made, submitted and finished. What finishes on another thread, or
 * within the call that submits, goes through one queue to a bottom half of the main loop.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

#define FINISH_BATCH 256 /* so that a node that answers at once does not starve the loop */

/* A leaf lock. */
static pthread_mutex_t finished_mutex = PTHREAD_MUTEX_INITIALIZER;
static BlockReq *finished_first, **finished_last = &finished_first;
static BottomHalf *finished_bh; /* made with the first request, under the engine lock */

static void run_finished(void *opaque)
{
    for (unsigned i = 0; i < FINISH_BATCH; i++) {
        BlockReq *req;
        bool more;

        pthread_mutex_lock(&finished_mutex);
        req = finished_first;
        if (req) {
            finished_first = req->next;
            if (!finished_first) {
                finished_last = &finished_first;
            }
        }
        more = finished_first;
        pthread_mutex_unlock(&finished_mutex);
        if (!req) {
            return;
        }
        if (more) {
            bh_schedule(finished_bh); /* `done` may run the main loop, which then goes on here */
        }
        req->next = NULL;
        req->done(req);
    }
}

static __thread bool telling; /* this thread tells what is finished, before it does anything else */

void block_tell_begin(void)
{
    telling = true;
}

void block_tell_end(void)
{
    telling = false;
    run_finished(NULL);
}

void block_req_complete(BlockReq *req, int error)
{
    bool first;

    req->error = error;
    req->next = NULL;
    pthread_mutex_lock(&finished_mutex);
    first = !finished_first;
    *finished_last = req;
    finished_last = &req->next;
    pthread_mutex_unlock(&finished_mutex);
    if (first && !telling) {
        bh_schedule(finished_bh);
    }
}

void block_req_done(BlockReq *req, int error)
{
    req->error = error;
    req->done(req);
}

void block_status_below_done(BlockReq *req)
{
    BlockReq *parent = req->opaque;
    BlockStatus *out = parent->status;

    out->flags &= ~(unsigned)BLOCK_STATUS_ALLOCATED;
    out->depth++;
    block_req_done(parent, req->error);
    block_req_free(req);
}

void block_req_init(BlockReq *req, BlockOp op, uint64_t offset, uint64_t bytes,
                    const struct iovec *iov, unsigned niov, uint64_t iov_offset, unsigned flags,
                    BlockReqFn done, void *opaque)
{
    unsigned first = 0, n = 0;
    uint64_t skip = iov_offset, left = bytes;

    memset(req, 0, offsetof(BlockReq, small));
    req->own_iov = NULL;
    req->op = op;
    req->flags = flags;
    req->offset = offset;
    req->bytes = bytes;
    req->done = done;
    req->opaque = opaque;
    req->iov = req->small;
    if (!iov) {
        return;
    }
    while (first < niov && skip >= iov[first].iov_len) {
        skip -= iov[first++].iov_len;
    }
    if (niov - first > BLOCK_INLINE_IOV) {
        req->own_iov = req->iov = g_new(struct iovec, niov - first);
    }
    for (unsigned i = first; i < niov && left > 0; i++, skip = 0) {
        size_t len = MIN(iov[i].iov_len - skip, left);

        if (len > 0) {
            req->iov[n++] = (struct iovec){ .iov_base = (char *)iov[i].iov_base + skip,
                                            .iov_len = len };
            left -= len;
        }
    }
    req->niov = n;
}

void block_req_clear(BlockReq *req)
{
    g_free(req->own_iov);
    req->own_iov = NULL;
}

BlockReq *block_req_new(BlockOp op, uint64_t offset, uint64_t bytes, const struct iovec *iov,
                        unsigned niov, uint64_t iov_offset, unsigned flags, BlockReqFn done,
                        void *opaque)
{
    BlockReq *req = g_new(BlockReq, 1);

    block_req_init(req, op, offset, bytes, iov, niov, iov_offset, flags, done, opaque);
    return req;
}

void block_req_free(BlockReq *req)
{
    if (req) {
        block_req_clear(req);
        g_free(req);
    }
}

/* ---- submitting ------------------------------------------------------------------------------ */

/* Decides what the node's properties say; true: the request is finished with *error. */
static bool finished_by_options(BlockNode *node, BlockReq *req, int *error)
{
    bool writes = req->op == BLOCK_OP_WRITE || req->op == BLOCK_OP_ZERO ||
                  req->op == BLOCK_OP_DISCARD;

    *error = 0;
    if (writes && node->read_only) {
        *error = EROFS;
        return true;
    }
    if (req->offset > BLOCK_MAX_BYTES || req->bytes > BLOCK_MAX_BYTES - req->offset) {
        *error = EINVAL;
        return true;
    }
    if (req->op != BLOCK_OP_FLUSH && req->op != BLOCK_OP_STATUS && req->bytes == 0) {
        return true;
    }
    if (req->op == BLOCK_OP_WRITE && node->detect_zeroes != BLOCK_DETECT_ZEROES_OFF &&
        block_iov_is_zero(req->iov, req->niov)) {
        req->op = BLOCK_OP_ZERO;
        req->niov = 0;
        if (node->detect_zeroes == BLOCK_DETECT_ZEROES_UNMAP) {
            req->flags |= BLOCK_MAY_UNMAP;
        }
    }
    if (req->op == BLOCK_OP_DISCARD && !node->discard) {
        return true;
    }
    if (req->op == BLOCK_OP_ZERO && !node->discard) {
        req->flags &= ~(unsigned)BLOCK_MAY_UNMAP;
    }
    return false;
}

void block_node_submit(BlockNode *node, BlockReq *req)
{
    int error;

    if (G_UNLIKELY(!finished_bh)) {
        finished_bh = bh_new(run_finished, NULL);
    }
    req->node = node;
    if (finished_by_options(node, req, &error)) {
        block_req_complete(req, error);
        return;
    }
    BLOCK_NODE_GET_CLASS(node)->submit(node, req);
}

bool block_node_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);

    return klass->read_now && klass->read_now(node, offset, buf, len);
}

void block_node_cancel(BlockReq *req)
{
    BlockNode *node = req->node;

    __atomic_store_n(&req->cancelled, true, __ATOMIC_RELAXED);
    if (node && BLOCK_NODE_GET_CLASS(node)->cancel) {
        BLOCK_NODE_GET_CLASS(node)->cancel(node, req);
    }
}

/* ---- waiting --------------------------------------------------------------------------------- */

typedef struct SyncWait {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool finished;
    BlockNode *node;
    BlockReq *req;
} SyncWait;

static void sync_done(BlockReq *req)
{
    SyncWait *wait = req->opaque;

    pthread_mutex_lock(&wait->mutex);
    wait->finished = true;
    pthread_cond_signal(&wait->cond);
    pthread_mutex_unlock(&wait->mutex);
}

static void submit_for_worker(void *opaque)
{
    SyncWait *wait = opaque;

    block_node_submit(wait->node, wait->req);
}

int block_node_sync(BlockNode *node, BlockReq *req)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);
    SyncWait wait = { .mutex = PTHREAD_MUTEX_INITIALIZER,
                      .cond = PTHREAD_COND_INITIALIZER,
                      .node = node,
                      .req = req };
    int error;

    req->node = node;
    if (klass->sync && (!klass->sync_on_workers || block_on_worker())) {
        return finished_by_options(node, req, &error) ? error : klass->sync(node, req);
    }
    req->done = sync_done;
    /* Not returned from before it is finished. */
    req->opaque = &wait; /* cppcheck-suppress autoVariables */
    if (block_on_worker()) {
        bh_once(submit_for_worker, &wait);
        block_worker_waits(true);
        pthread_mutex_lock(&wait.mutex);
        while (!wait.finished) {
            pthread_cond_wait(&wait.cond, &wait.mutex);
        }
        pthread_mutex_unlock(&wait.mutex);
        block_worker_waits(false);
    } else {
        if (!main_loop_is_main_thread() || !engine_may_unlock()) {
            return EBUSY;
        }
        object_ref(OBJECT(node));
        block_node_submit(node, req);
        while (!wait.finished) {
            main_loop_iterate(true);
        }
        object_unref(OBJECT(node));
    }
    pthread_mutex_destroy(&wait.mutex);
    pthread_cond_destroy(&wait.cond);
    return req->error;
}

static int sync_buffer(BlockNode *node, BlockOp op, uint64_t offset, void *buf, size_t len,
                       unsigned flags)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };
    BlockReq req;
    int error;

    block_req_init(&req, op, offset, len, &iov, 1, 0, flags, NULL, NULL);
    error = block_node_sync(node, &req);
    block_req_clear(&req);
    return error;
}

int block_node_pread(BlockNode *node, uint64_t offset, void *buf, size_t len)
{
    return sync_buffer(node, BLOCK_OP_READ, offset, buf, len, 0);
}

int block_node_pwrite(BlockNode *node, uint64_t offset, const void *buf, size_t len, unsigned flags)
{
    return sync_buffer(node, BLOCK_OP_WRITE, offset, (void *)(uintptr_t)buf, len, flags);
}

int block_node_sync_op(BlockNode *node, BlockOp op, uint64_t offset, uint64_t bytes, unsigned flags)
{
    BlockReq req;

    block_req_init(&req, op, offset, bytes, NULL, 0, 0, flags, NULL, NULL);
    return block_node_sync(node, &req);
}

/* ---- groups ---------------------------------------------------------------------------------- */

BlockGroup *block_group_new(BlockReq *parent, void (*finish)(BlockGroup *, int), void *opaque)
{
    BlockGroup *group = g_new0(BlockGroup, 1);

    group->parent = parent;
    group->finish = finish;
    group->opaque = opaque;
    group->pending = 1; /* until block_group_end */
    return group;
}

void block_group_end(BlockGroup *group)
{
    if (--group->pending > 0) {
        return;
    }
    if (group->finish) {
        group->finish(group, group->error);
    } else {
        block_req_complete(group->parent, group->error);
    }
    g_free(group);
}

static void group_part_done(BlockReq *req)
{
    BlockGroup *group = req->opaque;

    if (req->error && !group->error) {
        group->error = req->error;
    }
    block_req_free(req);
    block_group_end(group);
}

void block_group_add(BlockGroup *group, BlockNode *node, BlockOp op, uint64_t at, uint64_t bytes,
                     const struct iovec *iov, unsigned niov, uint64_t iov_offset, unsigned flags)
{
    group->pending++;
    block_node_submit(
        node, block_req_new(op, at, bytes, iov, niov, iov_offset, flags, group_part_done, group));
}

/* ---- vectors --------------------------------------------------------------------------------- */

uint64_t block_iov_bytes(const struct iovec *iov, unsigned niov)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < niov; i++) {
        if (__builtin_add_overflow(sum, iov[i].iov_len, &sum)) {
            return UINT64_MAX;
        }
    }
    return sum;
}

typedef enum { IOV_ZERO, IOV_TO_BUF, IOV_FROM_BUF } IovAction;

static void iov_walk(const struct iovec *iov, unsigned niov, uint64_t from, uint64_t bytes,
                     IovAction action, char *buf)
{
    for (unsigned i = 0; i < niov && bytes > 0; i++) {
        size_t len = iov[i].iov_len;
        char *at = iov[i].iov_base;

        if (from >= len) {
            from -= len;
            continue;
        }
        at += from;
        len = MIN(len - from, bytes);
        from = 0;
        bytes -= len;
        switch (action) {
        case IOV_ZERO:
            memset(at, 0, len);
            break;
        case IOV_TO_BUF:
            memcpy(buf, at, len);
            buf += len;
            break;
        case IOV_FROM_BUF:
            memcpy(at, buf, len);
            buf += len;
            break;
        }
    }
}

void block_iov_zero(const struct iovec *iov, unsigned niov, uint64_t from, uint64_t bytes)
{
    iov_walk(iov, niov, from, bytes, IOV_ZERO, NULL);
}

void block_iov_to_buf(const struct iovec *iov, unsigned niov, uint64_t from, void *buf, size_t len)
{
    iov_walk(iov, niov, from, len, IOV_TO_BUF, buf);
}

void block_iov_from_buf(const struct iovec *iov, unsigned niov, uint64_t from, const void *buf,
                        size_t len)
{
    iov_walk(iov, niov, from, len, IOV_FROM_BUF, (char *)(uintptr_t)buf);
}

bool block_buf_is_zero(const void *buf, size_t len)
{
    const unsigned char *p = buf;
    size_t head = MIN(len, 16);

    for (size_t i = 0; i < head; i++) {
        if (p[i]) {
            return false;
        }
    }
    /* The first bytes are zero, so all are when each equals the one 16 before it. */
    return len <= 16 || memcmp(p, p + 16, len - 16) == 0;
}

bool block_iov_is_zero(const struct iovec *iov, unsigned niov)
{
    for (unsigned i = 0; i < niov; i++) {
        if (!block_buf_is_zero(iov[i].iov_base, iov[i].iov_len)) {
            return false;
        }
    }
    return true;
}

/* ---- ranges ---------------------------------------------------------------------------------- */

/* The list is in order of arrival, so that nobody starves: a range waits for all before it. */
static bool range_free(const BlockRanges *ranges, const BlockRange *range)
{
    for (const BlockRange *r = ranges->first; r != range; r = r->next) {
        if (r->start < range->end && range->start < r->end && !(r->shared && range->shared)) {
            return false;
        }
    }
    return true;
}

void block_range_lock(BlockRanges *ranges, BlockRange *range, uint64_t start, uint64_t end,
                      bool shared, void (*acquired)(void *opaque), void *opaque)
{
    BlockRange **last = &ranges->first;

    range->start = start;
    range->end = end;
    range->shared = shared;
    range->acquired = acquired;
    range->opaque = opaque;
    range->next = NULL;
    while (*last) {
        last = &(*last)->next;
    }
    *last = range;
    range->holds = range_free(ranges, range);
    if (range->holds) {
        acquired(opaque);
    }
}

static BlockRange *next_free(BlockRanges *ranges)
{
    for (BlockRange *r = ranges->first; r; r = r->next) {
        if (!r->holds && range_free(ranges, r)) {
            return r;
        }
    }
    return NULL;
}

void block_range_unlock(BlockRanges *ranges, BlockRange *range)
{
    BlockRange **at = &ranges->first, *r;

    while (*at != range) {
        at = &(*at)->next;
    }
    *at = range->next;
    while (
        (r = next_free(ranges))) { /* from the start each time: what they call changes the list */
        r->holds = true;
        r->acquired(r->opaque);
    }
}
