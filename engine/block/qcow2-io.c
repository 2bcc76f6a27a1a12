/*
 * qcow2: requests.
 *
 * The fast path: everything that a request needs to know is in memory, and it changes no mapping.
 * Then it goes to the file at once, from the thread that submits it. Everything else runs on a
 * worker, a few for one image at a time. Those that may change the mapping of the same clusters
 * wait for each other; requests to other clusters do not wait for them.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"
#include "engine/core/units.h"

#define MAX_SLOW 16 /* of one image on workers */
#define MAX_RUNS 32 /* of a request that takes the fast path */

static void slow_submit(Qcow2Op *op);

/* ---- operations in flight; `lock` held ------------------------------------------------------- */

static void op_begin(Qcow2Op *op)
{
    Qcow2 *s = op->s;

    op->seq = ++s->seq;
    op->prev = s->ops_last;
    op->next = NULL;
    *(s->ops_last ? &s->ops_last->next : &s->ops) = op;
    s->ops_last = op;
    s->n_changing += op->changes;
}

static Qcow2Op *op_unlink(Qcow2Op *op)
{
    Qcow2 *s = op->s;
    Qcow2Op *waiters = op->waiters;

    *(op->prev ? &op->prev->next : &s->ops) = op->next;
    *(op->next ? &op->next->prev : &s->ops_last) = op->prev;
    if (op->changes) {
        s->n_changing--;
        pthread_cond_broadcast(&s->changed);
    }
    op->waiters = NULL;
    return waiters;
}

/* One that changes the mapping of any of these clusters. */
static Qcow2Op *changer_of(const Qcow2 *s, uint64_t start, uint64_t end)
{
    unsigned left = s->n_changing;

    for (Qcow2Op *op = s->ops; op && left > 0; op = op->next) {
        if (op->changes) {
            left--;
            if (op->start < end && start < op->end) {
                return op;
            }
        }
    }
    return NULL;
}

/* No lock held. */
static void op_end(Qcow2Op *op)
{
    Qcow2 *s = op->s;
    Qcow2Op *waiter;

    pthread_mutex_lock(&s->lock);
    waiter = op_unlink(op);
    pthread_mutex_unlock(&s->lock);
    while (waiter) {
        Qcow2Op *next = waiter->queue_next;

        slow_submit(waiter);
        waiter = next;
    }
}

static Qcow2Op *op_new(Qcow2 *s, BlockReq *req)
{
    Qcow2Op *op = g_new0(Qcow2Op, 1);

    op->s = s;
    op->req = req;
    op->start = qcow2_cluster_start(s, req->offset);
    op->end = qcow2_cluster_start(s, req->offset + req->bytes + s->cluster_size - 1);
    return op;
}

static bool writes(const BlockReq *req)
{
    return req->op == BLOCK_OP_WRITE || req->op == BLOCK_OP_ZERO || req->op == BLOCK_OP_DISCARD;
}

/* ---- the slow path --------------------------------------------------------------------------- */

/* The request's work; it is registered. */
static int perform(Qcow2 *s, BlockReq *req)
{
    int e = 0;

    switch (req->op) {
    case BLOCK_OP_READ:
        return qcow2_read(s, req->offset, req->bytes, req->iov, req->niov, 0);
    case BLOCK_OP_WRITE:
        e = qcow2_write(s, req->offset, req->bytes, req->iov, req->niov, 0);
        break;
    case BLOCK_OP_ZERO:
        e = qcow2_zero(s, req->offset, req->bytes, req->flags);
        break;
    case BLOCK_OP_DISCARD:
        return qcow2_discard(s, req->offset, req->bytes, false);
    case BLOCK_OP_STATUS:
        return qcow2_status(s, req->offset, req->bytes, req->status);
    case BLOCK_OP_FLUSH:
        return qcow2_write_back(s, true);
    case BLOCK_OP_COUNT:
        return ENOTSUP;
    }
    return !e && (req->flags & BLOCK_FUA) ? qcow2_write_back(s, true) : e;
}

/* The next one that waits for a worker takes this one's place. `lock` held: once it is released,
 * and the operation that ends here with it, the image may be closed if there is no next one. */
static Qcow2Op *slow_leave(Qcow2 *s)
{
    Qcow2Op *next = s->slow_first;

    if (next) {
        s->slow_first = next->queue_next;
        if (!s->slow_first) {
            s->slow_last = &s->slow_first;
        }
    } else {
        s->slow_running--;
    }
    return next;
}

static void slow_run(BlockWork *work)
{
    Qcow2Op *op = (Qcow2Op *)work, *other, *next;
    BlockReq *req = op->req;
    Qcow2 *s = op->s;
    int e;

    pthread_mutex_lock(&s->lock);
    op->changes = writes(req);
    other = op->changes ? changer_of(s, op->start, op->end) : NULL;
    if (other) { /* it comes back when that one has ended */
        op->queue_next = other->waiters;
        other->waiters = op;
        next = slow_leave(s);
        pthread_mutex_unlock(&s->lock);
        if (next) {
            block_work_submit(&next->work);
        }
        return;
    }
    if (req->op != BLOCK_OP_FLUSH) {
        op_begin(op);
    }
    pthread_mutex_unlock(&s->lock);
    e = __atomic_load_n(&req->cancelled, __ATOMIC_RELAXED) ? ECANCELED : perform(s, req);
    if (req->op != BLOCK_OP_FLUSH) {
        op_end(op);
    }
    g_free(op);
    pthread_mutex_lock(&s->lock);
    next = slow_leave(s);
    pthread_mutex_unlock(&s->lock);
    if (next) {
        block_work_submit(&next->work);
    }
    block_req_complete(req, e);
}

static void slow_submit(Qcow2Op *op)
{
    Qcow2 *s = op->s;
    bool now;

    op->work.run = slow_run;
    pthread_mutex_lock(&s->lock);
    now = s->slow_running < MAX_SLOW;
    if (now) {
        s->slow_running++;
    } else {
        op->queue_next = NULL;
        *s->slow_last = op;
        s->slow_last = &op->queue_next;
    }
    pthread_mutex_unlock(&s->lock);
    if (now) {
        block_work_submit(&op->work);
    }
}

/* On this thread, which waits for its turn. */
static void begin_here(Qcow2Op *op)
{
    Qcow2 *s = op->s;

    pthread_mutex_lock(&s->lock);
    while (op->changes && changer_of(s, op->start, op->end)) {
        qcow2_wait(s);
    }
    op_begin(op);
    pthread_mutex_unlock(&s->lock);
}

int qcow2_sync(BlockNode *node, BlockReq *req)
{
    Qcow2 *s = QCOW2(node);
    Qcow2Op *op;
    int e;

    if (G_UNLIKELY(s->broken)) {
        return EIO;
    }
    if (req->op == BLOCK_OP_FLUSH) {
        return qcow2_write_back(s, true);
    }
    if (req->offset > node->length || req->bytes > node->length - req->offset) {
        return EINVAL;
    }
    if (s->bitmaps && writes(req)) {
        qcow2_bitmaps_written(s, req->offset, req->bytes);
    }
    op = op_new(s, req);
    op->changes = writes(req);
    begin_here(op);
    e = perform(s, req);
    op_end(op);
    g_free(op);
    return e;
}

int qcow2_write_packed(BlockNode *node, uint64_t offset, const void *packed, size_t len)
{
    Qcow2 *s = QCOW2(node);
    BlockReq req;
    Qcow2Op *op;
    int e;

    if (node->read_only || s->has_data_file) {
        return node->read_only ? EROFS : ENOTSUP;
    }
    if (s->broken) {
        return EIO;
    }
    if (offset >= node->length || offset & (s->cluster_size - 1) || len == 0 ||
        len >= s->cluster_size) {
        return EINVAL;
    }
    block_req_init(&req, BLOCK_OP_WRITE, offset, MIN(s->cluster_size, node->length - offset), NULL,
                   0, 0, 0, NULL, NULL);
    if (s->bitmaps) {
        qcow2_bitmaps_written(s, offset, req.bytes);
    }
    op = op_new(s, &req);
    op->changes = true;
    begin_here(op);
    e = qcow2_store_packed(s, offset, packed, len);
    op_end(op);
    g_free(op);
    return e;
}

/* ---- the fast path --------------------------------------------------------------------------- */

typedef struct Plan {
    Qcow2Run runs[MAX_RUNS];
    unsigned n;
} Plan;

/* `lock` held. */
static bool plan_request(Qcow2 *s, const BlockReq *req, Plan *plan)
{
    bool is_write = req->op == BLOCK_OP_WRITE;
    uint64_t at = 0;

    for (plan->n = 0; at < req->bytes; plan->n++) {
        Qcow2Run *run = &plan->runs[plan->n];

        if (plan->n == MAX_RUNS || !qcow2_map_cached(s, req->offset + at, req->bytes - at, run)) {
            return false;
        }
        if (is_write ? run->kind != QCOW2_DATA || !run->copied ||
                           (!s->has_data_file && qcow2_meta_overlaps(s, run->host, run->bytes))
                     : run->kind == QCOW2_COMPRESSED_DATA || run->kind == QCOW2_INVALID) {
            return false;
        }
        at += run->bytes;
    }
    return true;
}

static bool nothing_dirty(const Qcow2 *s)
{
    return s->l2.n_dirty == 0 && !s->l1_any_dirty && !s->writing_back && !s->wb_lost;
}

static void fast_done(BlockReq *req)
{
    Qcow2Op *op = req->opaque;

    req->done = op->done;
    req->opaque = op->opaque;
    op_end(op);
    g_free(op);
    req->done(req);
}

static void fast_group_done(BlockGroup *group, int error)
{
    Qcow2Op *op = group->opaque;

    op_end(op);
    g_free(op);
    block_req_complete(group->parent, error);
}

static void add_backed(Qcow2 *s, BlockGroup *group, const BlockReq *req, uint64_t at,
                       uint64_t bytes)
{
    uint64_t below = qcow2_backed_bytes(s, req->offset + at, bytes);

    if (below) {
        block_group_add(group, block_node_backing(&s->parent), BLOCK_OP_READ, req->offset + at,
                        below, req->iov, req->niov, at, 0);
    }
    block_iov_zero(req->iov, req->niov, at + below, bytes - below);
}

static void start_fast(Qcow2Op *op, const Plan *plan)
{
    Qcow2 *s = op->s;
    BlockReq *req = op->req;
    BlockGroup *group;
    uint64_t at = 0;

    if (plan->n == 1 && plan->runs[0].kind == QCOW2_DATA) {
        op->done = req->done;
        op->opaque = req->opaque;
        req->done = fast_done;
        req->opaque = op;
        req->offset = plan->runs[0].host;
        block_node_submit(s->data, req);
        return;
    }
    group = block_group_new(req, fast_group_done, op);
    for (unsigned i = 0; i < plan->n; i++) {
        const Qcow2Run *run = &plan->runs[i];

        if (run->kind == QCOW2_DATA) {
            block_group_add(group, s->data, req->op, run->host, run->bytes, req->iov, req->niov, at,
                            req->flags);
        } else if (run->kind == QCOW2_UNALLOCATED || run->kind == QCOW2_HOLE) {
            add_backed(s, group, req, at, run->bytes);
        } else {
            block_iov_zero(req->iov, req->niov, at, run->bytes);
        }
        at += run->bytes;
    }
    block_group_end(group);
}

static void submit_transfer(Qcow2 *s, BlockReq *req)
{
    Qcow2Op *op = op_new(s, req);
    bool fast;
    Plan plan;

    pthread_mutex_lock(&s->lock);
    fast = plan_request(s, req, &plan);
    if (fast && req->op == BLOCK_OP_WRITE) {
        fast = !s->corrupt && !changer_of(s, op->start, op->end) &&
               (!(req->flags & BLOCK_FUA) || nothing_dirty(s));
    }
    if (fast) {
        op_begin(op);
    }
    pthread_mutex_unlock(&s->lock);
    if (fast) {
        start_fast(op, &plan);
    } else {
        slow_submit(op);
    }
}

static void submit_flush(Qcow2 *s, BlockReq *req)
{
    bool clean;

    pthread_mutex_lock(&s->lock);
    clean = nothing_dirty(s) && s->frees->len == 0;
    pthread_mutex_unlock(&s->lock);
    if (!clean) {
        slow_submit(op_new(s, req));
    } else if (!s->has_data_file) {
        block_node_submit(block_node_file(&s->parent), req);
    } else {
        BlockGroup *group = block_group_new(req, NULL, NULL);

        block_group_add(group, s->data, BLOCK_OP_FLUSH, 0, 0, NULL, 0, 0, 0);
        block_group_add(group, block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, NULL, 0, 0, 0);
        block_group_end(group);
    }
}

void qcow2_submit(BlockNode *node, BlockReq *req)
{
    Qcow2 *s = QCOW2(node);

    if (G_UNLIKELY(s->broken)) {
        block_req_complete(req, EIO);
        return;
    }
    if (req->op == BLOCK_OP_FLUSH) {
        submit_flush(s, req);
        return;
    }
    if (req->offset > node->length || req->bytes > node->length - req->offset) {
        block_req_complete(req, EINVAL);
        return;
    }
    if (s->bitmaps && writes(req)) {
        qcow2_bitmaps_written(s, req->offset, req->bytes);
    }
    if (req->op == BLOCK_OP_READ || req->op == BLOCK_OP_WRITE) {
        submit_transfer(s, req);
    } else if (req->op != BLOCK_OP_STATUS || !qcow2_fast_status(s, req)) {
        slow_submit(op_new(s, req));
    }
}
