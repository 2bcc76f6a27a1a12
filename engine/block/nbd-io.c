/*
 * "nbd": requests. Each goes to the server in parts as large as it takes, one after the other; what
 * is no whole number of its blocks takes a detour through a buffer.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/nbd_priv.h"
#include "engine/core/units.h"

#define ZERO_PART   (1 * GiB) /* of trim and write-zeroes, which carry no data */
#define ZERO_WRITE  (1 * MiB) /* where zeroes have to be written */
#define STATUS_PART (2 * GiB)

static void send_op(NbdOp *op);

/* ---- the end of a request -------------------------------------------------------------------- */

static void finish(NbdOp *op, int error)
{
    BlockNbd *s = op->s;
    BlockReq *req = op->req;

    if (!error && op->bounce && req->op == BLOCK_OP_READ) {
        block_iov_from_buf(req->iov, req->niov, 0, op->bounce + (req->offset - op->start),
                           req->bytes);
    }
    if (!error && req->op == BLOCK_OP_STATUS) {
        uint64_t before = req->offset - op->start; /* from the beginning of the server's block */

        *req->status = op->status;
        req->status->bytes = op->status.bytes > before ? MIN(op->status.bytes - before, req->bytes)
                                                       : 1;
    }
    if (op->range.end > op->range.start) {
        block_range_unlock(&s->ranges, &op->range);
    }
    g_free(op->bounce);
    g_free(op);
    block_req_complete(req, error);
}

static void wait_for_connection(NbdOp *op)
{
    BlockNbd *s = op->s;

    if (s->hopeless || __atomic_load_n(&s->parent.drained, __ATOMIC_RELAXED)) {
        finish(op, EIO);
        return;
    }
    op->next = NULL;
    *s->waiting_last = op;
    s->waiting_last = &op->next;
}

void nbd_fail_waiting(BlockNbd *s)
{
    while (s->waiting) {
        NbdOp *op = s->waiting;

        s->waiting = op->next;
        if (!s->waiting) {
            s->waiting_last = &s->waiting;
        }
        finish(op, EIO);
    }
}

void nbd_send_waiting(BlockNbd *s)
{
    NbdOp *op = s->waiting;

    s->waiting = NULL;
    s->waiting_last = &s->waiting;
    while (op) {
        NbdOp *next = op->next;

        send_op(op);
        op = next;
    }
}

/* What the request writes, in its place in the blocks. */
static void fill_bounce(NbdOp *op)
{
    BlockReq *req = op->req;
    char *at = op->bounce + (req->offset - op->start);

    if (req->op == BLOCK_OP_ZERO) {
        memset(at, 0, req->bytes);
    } else {
        block_iov_to_buf(req->iov, req->niov, 0, at, req->bytes);
    }
}

/* A part is done; the next one, or the end. */
static void part_done(NbdOp *op)
{
    BlockNbd *s = op->s;

    if (op->again) {
        op->again = false;
        if (s->state == NBD_UP) {
            send_op(op);
        } else {
            wait_for_connection(op);
        }
        return;
    }
    if (op->error) {
        finish(op, op->error);
        return;
    }
    op->at += op->part;
    if (op->reads_first) {
        if (op->at >= op->end) { /* the blocks around the write are there: now it */
            op->reads_first = false;
            op->at = op->start;
            fill_bounce(op);
        }
    } else if (op->flushes || op->kind == BLOCK_OP_STATUS) {
        finish(op, 0);
        return;
    } else if (op->at >= op->end) {
        op->flushes = (op->req->flags & BLOCK_FUA) && !s->can_fua && s->can_flush &&
                      (op->kind == BLOCK_OP_WRITE || op->kind == BLOCK_OP_ZERO);
        if (!op->flushes) {
            finish(op, 0);
            return;
        }
    }
    send_op(op);
}

void nbd_settle(void *opaque)
{
    BlockNbd *s = opaque;
    NbdOp *op = s->settled, *next, *in_order = NULL;

    s->settled = NULL;
    for (; op; op = next) { /* the list is the wrong way round */
        next = op->next;
        op->next = in_order;
        in_order = op;
    }
    for (op = in_order; op; op = next) {
        next = op->next;
        part_done(op);
    }
    if (s->hopeless && s->state != NBD_UP) {
        nbd_fail_waiting(s);
    }
    nbd_rewatch(s);
}

static void settle(NbdOp *op, int error, bool again)
{
    BlockNbd *s = op->s;

    op->again = again;
    op->error = error;
    op->next = s->settled;
    s->settled = op;
    bh_schedule(s->bh);
}

/* What libnbd knows of an op: it may outlive it. */
typedef struct NbdSent {
    NbdOp *op; /* NULL: it has its answer */
} NbdSent;

/* Both are called by libnbd, which holds its lock: nothing of it may be called from here. */
static int completed(void *opaque, int *error)
{
    NbdSent *sent = opaque;
    NbdOp *op = sent->op;
    bool again = *error == ENOTCONN || *error == ESHUTDOWN;

    sent->op = NULL;
    op->answered = op->submitting;
    settle(op, again ? 0 : *error, again);
    /* libnbd still uses the command where the connection goes while it is being sent: it is retired
     * by send_op then. */
    return !op->submitting;
}

static void released(void *opaque)
{
    NbdSent *sent = opaque;

    if (sent->op && !sent->op->submitting) {
        settle(sent->op, 0, true); /* the handle was closed before the answer came */
    }
    g_free(sent);
}

/* ---- sending --------------------------------------------------------------------------------- */

static int extent(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                  size_t n_entries, int *error)
{
    NbdOp *op = opaque;
    bool hole, zero;

    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || n_entries < 2) {
        return 0;
    }
    hole = entries[1] & LIBNBD_STATE_HOLE;
    zero = entries[1] & LIBNBD_STATE_ZERO;
    op->status.bytes = CLAMP(entries[0], 1, op->part);
    op->status.flags = BLOCK_STATUS_ALLOCATED | (zero ? BLOCK_STATUS_ZERO : 0) |
                       (hole ? 0 : BLOCK_STATUS_DATA);
    /* A hole without zeroes holds nothing that is known: it has to be read. */
    if (hole && !zero) {
        op->status.flags |= BLOCK_STATUS_DATA;
    }
    return 0;
}

static char *part_buffer(const NbdOp *op)
{
    if (op->bounce) {
        return op->bounce + (op->at - op->start);
    }
    return (char *)op->req->iov[0].iov_base + (op->at - op->req->offset);
}

static uint32_t zero_flags(const NbdOp *op)
{
    unsigned f = op->req->flags;

    return ((f & BLOCK_MAY_UNMAP) && !(f & BLOCK_NO_UNMAP) ? 0 : LIBNBD_CMD_FLAG_NO_HOLE) |
           ((f & BLOCK_NO_FALLBACK) && op->s->can_fast_zero ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
}

static int64_t send_part(NbdOp *op, nbd_completion_callback done)
{
    BlockNbd *s = op->s;
    uint64_t left = op->end - op->at;
    uint32_t fua = (op->req->flags & BLOCK_FUA) && s->can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
    nbd_extent_callback extents = { .callback = extent, .user_data = op };

    if (op->flushes) {
        return libnbd.aio_flush(s->h, done, 0);
    }
    op->part = MIN(left, s->part_max);
    switch (op->kind) {
    case BLOCK_OP_READ:
        return libnbd.aio_pread(s->h, part_buffer(op), op->part, op->at, done, 0);
    case BLOCK_OP_WRITE:
        if (op->reads_first) {
            return libnbd.aio_pread(s->h, part_buffer(op), op->part, op->at, done, 0);
        }
        return libnbd.aio_pwrite(s->h, part_buffer(op), op->part, op->at, done, fua);
    case BLOCK_OP_ZERO:
        if (s->can_zero) {
            op->part = MIN(left, ZERO_PART);
            return libnbd.aio_zero(s->h, op->part, op->at, done, fua | zero_flags(op));
        }
        op->part = MIN(op->part, ZERO_WRITE);
        return libnbd.aio_pwrite(s->h, op->bounce, op->part, op->at, done, fua);
    case BLOCK_OP_DISCARD:
        op->part = MIN(left, ZERO_PART);
        return libnbd.aio_trim(s->h, op->part, op->at, done, 0);
    case BLOCK_OP_STATUS:
        op->part = MIN(left, STATUS_PART);
        return libnbd.aio_block_status(s->h, op->part, op->at, extents, done,
                                       LIBNBD_CMD_FLAG_REQ_ONE);
    default:
        return libnbd.aio_flush(s->h, done, 0);
    }
}

static void send_op(NbdOp *op)
{
    BlockNbd *s = op->s;
    NbdSent *sent;
    nbd_completion_callback done = { .callback = completed, .free = released };
    int64_t cookie;
    int e = 0;

    if (s->state != NBD_UP) {
        wait_for_connection(op);
        return;
    }
    done.user_data = sent = g_new(NbdSent, 1);
    sent->op = op;
    op->submitting = true;
    op->answered = false;
    cookie = send_part(op, done);
    op->submitting = false;
    if (op->answered && cookie >= 0) {
        libnbd.aio_command_completed(s->h, (uint64_t)cookie);
    } else if (!op->answered && cookie < 0) {
        e = libnbd.get_errno();
        e = e ? e : EIO;
    }
    if (libnbd.aio_is_dead(s->h) || libnbd.aio_is_closed(s->h)) {
        if (e) {
            settle(op, 0, true);
        }
        nbd_lost(s, cookie < 0 ? libnbd.get_error() : NULL);
        return;
    }
    if (e) {
        finish(op, e);
    }
    nbd_rewatch(s);
}

/* ---- taking requests ------------------------------------------------------------------------- */

/* True: nothing has to be sent, with this result. */
static bool answered_here(BlockNbd *s, BlockReq *req, int *error)
{
    *error = 0;
    switch (req->op) {
    case BLOCK_OP_FLUSH:
        return !s->can_flush;
    case BLOCK_OP_DISCARD:
        return !s->can_trim;
    case BLOCK_OP_ZERO:
        *error = ENOTSUP;
        return (req->flags & BLOCK_NO_FALLBACK) && !s->can_fast_zero;
    case BLOCK_OP_STATUS:
        if (!s->can_status) {
            req->status->bytes = req->bytes;
            req->status->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
            req->status->has_host_offset = true;
            req->status->host_offset = req->offset;
        }
        return !s->can_status;
    default:
        return false;
    }
}

static void start(void *opaque)
{
    send_op(opaque);
}

/* A write of less than the server's blocks: they are read, changed and written, and nobody else
 * writes them meanwhile. A trim gets smaller, to whole blocks. */
static void align_op(NbdOp *op, uint64_t align)
{
    BlockReq *req = op->req;
    uint64_t end = req->offset + req->bytes;

    if (req->op == BLOCK_OP_DISCARD) {
        op->at = (req->offset + align - 1) & ~(align - 1);
        op->end = MAX(op->at, end & ~(align - 1));
        return;
    }
    op->at = req->offset & ~(align - 1);
    op->end = MIN((end + align - 1) & ~(align - 1), MAX(block_node_length(&op->s->parent), end));
}

static bool make_bounce(NbdOp *op)
{
    BlockReq *req = op->req;
    bool unaligned = op->at != req->offset || op->end != req->offset + req->bytes;
    uint64_t bytes = op->end - op->at;

    op->start = op->at;
    op->kind = req->op;
    if (req->op == BLOCK_OP_ZERO && !unaligned) {
        op->bounce = op->s->can_zero ? NULL : g_try_malloc0(MIN(bytes, ZERO_WRITE));
        return op->s->can_zero || op->bounce;
    }
    if (req->op == BLOCK_OP_ZERO) {
        op->kind = BLOCK_OP_WRITE;
    }
    if ((op->kind != BLOCK_OP_READ && op->kind != BLOCK_OP_WRITE) ||
        (req->niov == 1 && !unaligned)) {
        return true;
    }
    op->bounce = g_try_malloc0(bytes);
    op->reads_first = op->kind == BLOCK_OP_WRITE && unaligned;
    if (op->bounce && op->kind == BLOCK_OP_WRITE && !unaligned) {
        fill_bounce(op);
    }
    return op->bounce != NULL;
}

/* Zeroes of any length that begin or end within a block: the blocks at both ends apart. */
static bool split_zero(BlockNode *node, BlockReq *req)
{
    uint64_t align = node->align, end = req->offset + req->bytes;
    uint64_t first = (req->offset + align - 1) & ~(align - 1), last = end & ~(align - 1);
    BlockGroup *group;

    if (req->op != BLOCK_OP_ZERO || (first == req->offset && last == end) || first >= last) {
        return false;
    }
    group = block_group_new(req, NULL, NULL);
    if (first > req->offset) {
        block_group_add(group, node, BLOCK_OP_ZERO, req->offset, first - req->offset, NULL, 0, 0,
                        req->flags);
    }
    block_group_add(group, node, BLOCK_OP_ZERO, first, last - first, NULL, 0, 0, req->flags);
    if (last < end) {
        block_group_add(group, node, BLOCK_OP_ZERO, last, end - last, NULL, 0, 0, req->flags);
    }
    block_group_end(group);
    return true;
}

void nbd_submit(BlockNode *node, BlockReq *req)
{
    BlockNbd *s = BLOCK_NBD(node);
    uint64_t length = block_node_length(node), align = node->align;
    NbdOp *op;
    int error;

    if (req->op != BLOCK_OP_FLUSH && (req->offset > length || req->bytes > length - req->offset)) {
        block_req_complete(req, EINVAL);
        return;
    }
    if (answered_here(s, req, &error)) {
        block_req_complete(req, error);
        return;
    }
    if (split_zero(node, req)) {
        return;
    }
    op = g_new0(NbdOp, 1);
    op->s = s;
    op->req = req;
    align_op(op, align);
    op->status = (BlockStatus){ .bytes = req->bytes,
                                .flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED,
                                .has_host_offset = true,
                                .host_offset = req->offset };
    if (req->op == BLOCK_OP_DISCARD && op->at >= op->end) {
        finish(op, 0);
    } else if (!make_bounce(op)) {
        finish(op, ENOMEM);
    } else if (align > 1 && (req->op == BLOCK_OP_WRITE || req->op == BLOCK_OP_ZERO)) {
        block_range_lock(&s->ranges, &op->range, op->at, op->end, !op->reads_first, start, op);
    } else {
        send_op(op);
    }
}

void nbd_cancel(BlockNode *node, BlockReq *req)
{
    BlockNbd *s = BLOCK_NBD(node);

    for (NbdOp **at = &s->waiting; *at; at = &(*at)->next) {
        NbdOp *op = *at;

        if (op->req == req) {
            *at = op->next;
            if (!op->next) {
                s->waiting_last = at;
            }
            finish(op, ECANCELED);
            return;
        }
    }
}
