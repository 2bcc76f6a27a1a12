/*
 * "copy-on-read": what is read from below the top image is written into it on the way, so that the
 * next read finds it there.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/units.h"

#define PIECE (1 * MiB)

typedef struct BlockCor {
    BlockNode parent;
    BlockRanges ranges; /* a copy may not overtake a write to the same place */
} BlockCor;
OBJECT_DECLARE_TYPE(BlockCor, BlockNodeClass, BLOCK_COR, "block-copy-on-read")

/* A request while it is here: a read goes piece by piece, a write at once. */
typedef struct Copy {
    BlockCor *s;
    BlockReq *req, sub;
    BlockRange range;
    BlockStatus status;
    uint64_t at, n; /* of the request's bytes */
    uint8_t *buf;
    BlockReqFn done;
    void *opaque;
} Copy;

static void finish(Copy *copy, int error)
{
    BlockReq *req = copy->req;

    block_range_unlock(&copy->s->ranges, &copy->range);
    g_free(copy->buf);
    g_free(copy);
    block_req_complete(req, error);
}

static void next_piece(Copy *copy);

static void sub_submit(Copy *copy, BlockOp op, const struct iovec *iov, unsigned niov,
                       uint64_t iov_offset, BlockReqFn done)
{
    block_req_init(&copy->sub, op, copy->req->offset + copy->at, copy->n, iov, niov, iov_offset, 0,
                   done, copy);
    copy->sub.status = op == BLOCK_OP_STATUS ? &copy->status : NULL;
    block_node_submit(block_node_file(&copy->s->parent), &copy->sub);
}

static void piece_over(BlockReq *req)
{
    Copy *copy = req->opaque;

    block_req_clear(req);
    copy->at += copy->n;
    next_piece(copy);
}

static void piece_read(BlockReq *req)
{
    Copy *copy = req->opaque;
    struct iovec iov = { copy->buf, copy->n };

    block_req_clear(req);
    if (req->error) {
        finish(copy, req->error);
        return;
    }
    block_iov_from_buf(copy->req->iov, copy->req->niov, copy->at, copy->buf, copy->n);
    /* That the copy fails does not harm the read. */
    sub_submit(copy, BLOCK_OP_WRITE, &iov, 1, 0, piece_over);
}

static void held_read(BlockReq *req)
{
    Copy *copy = req->opaque;

    if (req->error) {
        block_req_clear(req);
        finish(copy, req->error);
        return;
    }
    piece_over(req);
}

static void status_known(BlockReq *req)
{
    Copy *copy = req->opaque;
    struct iovec iov;
    bool held = req->error || (copy->status.flags & BLOCK_STATUS_ALLOCATED);

    block_req_clear(req);
    if (!req->error && copy->status.bytes > 0) {
        copy->n = MIN(copy->n, copy->status.bytes);
    }
    if (held) {
        sub_submit(copy, BLOCK_OP_READ, copy->req->iov, copy->req->niov, copy->at, held_read);
        return;
    }
    if (!copy->buf) {
        copy->buf = g_malloc(PIECE);
    }
    iov = (struct iovec){ copy->buf, copy->n };
    sub_submit(copy, BLOCK_OP_READ, &iov, 1, 0, piece_read);
}

static void next_piece(Copy *copy)
{
    if (copy->at >= copy->req->bytes) {
        finish(copy, 0);
        return;
    }
    copy->n = MIN(copy->req->bytes - copy->at, PIECE);
    sub_submit(copy, BLOCK_OP_STATUS, NULL, 0, 0, status_known);
}

static void start_read(void *opaque)
{
    next_piece(opaque);
}

static void write_done(BlockReq *req)
{
    Copy *copy = req->opaque;

    req->done = copy->done;
    req->opaque = copy->opaque;
    block_range_unlock(&copy->s->ranges, &copy->range);
    g_free(copy);
    req->done(req);
}

static void start_write(void *opaque)
{
    Copy *copy = opaque;

    copy->done = copy->req->done;
    copy->opaque = copy->req->opaque;
    copy->req->done = write_done;
    copy->req->opaque = copy;
    block_node_submit(block_node_file(&copy->s->parent), copy->req);
}

static void cor_submit(BlockNode *node, BlockReq *req)
{
    BlockCor *s = BLOCK_COR(node);
    Copy *copy;

    if (req->op == BLOCK_OP_FLUSH || req->op == BLOCK_OP_STATUS ||
        block_node_file(node)->read_only) {
        block_node_submit(block_node_file(node), req);
        return;
    }
    copy = g_new0(Copy, 1);
    copy->s = s;
    copy->req = req;
    block_range_lock(&s->ranges, &copy->range, req->offset, req->offset + req->bytes,
                     req->op != BLOCK_OP_READ, req->op == BLOCK_OP_READ ? start_read : start_write,
                     copy);
}

static bool cor_open(BlockNode *node, GError **error)
{
    node->length = block_node_length(block_node_file(node));
    node->discard = block_node_file(node)->discard;
    return true;
}

static void cor_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "copy-on-read";
    node->is_filter = node->needs_file = true;
    node->open = cor_open;
    node->submit = cor_submit;
}

static const TypeInfo cor_info = {
    .name = "block-copy-on-read",
    .parent = TYPE_BLOCK_NODE,
    .doc = "Copies what is read from a backing image into the top one",
    .instance_size = sizeof(BlockCor),
    .class_init = cor_class_init,
};

static void register_cor(void)
{
    type_register_static(&cor_info);
}
type_init(register_cor)
