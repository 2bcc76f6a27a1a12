/*
 * "overlay": what is written goes to a temporary file that nobody else can open and that is gone
 * with the node; everything else shows through from the node below. -snapshot, and what tests run
 * on.
 *
 * The file is sparse and holds each byte at its own offset; a bitmap says which grains it has. A
 * write that covers a grain in part brings the rest of it along from below.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define GRAIN UINT64_C(4096)
#define MAX_LENGTH \
    (UINT64_C(64) << 40) /* a bitmap of 2 GiB; pages of it appear when they are used */

typedef struct BlockOverlay {
    BlockNode parent;
    BlockNode *store; /* the temporary file */
    uint64_t *map;    /* a bit a grain */
    BlockRanges ranges;
} BlockOverlay;
OBJECT_DECLARE_TYPE(BlockOverlay, BlockNodeClass, BLOCK_OVERLAY, TYPE_BLOCK_OVERLAY)

static bool has_grain(const BlockOverlay *s, uint64_t offset)
{
    uint64_t n = offset / GRAIN;

    return s->map[n / 64] >> (n % 64) & 1;
}

/* How many bytes from `offset` on, up to `bytes`, are held alike; *held: here. */
static uint64_t run_length(const BlockOverlay *s, uint64_t offset, uint64_t bytes, bool *held)
{
    uint64_t at = offset, end = offset + bytes;

    *held = has_grain(s, offset);
    while (at < end && has_grain(s, at) == *held) {
        at = (at / GRAIN + 1) * GRAIN;
    }
    return MIN(at, end) - offset;
}

static void mark(BlockOverlay *s, uint64_t offset, uint64_t bytes)
{
    for (uint64_t n = offset / GRAIN; n <= (offset + bytes - 1) / GRAIN; n++) {
        s->map[n / 64] |= UINT64_C(1) << (n % 64);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

static void overlay_read(BlockOverlay *s, BlockReq *req)
{
    BlockGroup *group = block_group_new(req, NULL, NULL);
    uint64_t done = 0;

    while (done < req->bytes) {
        bool held;
        uint64_t n = run_length(s, req->offset + done, req->bytes - done, &held);

        block_group_add(group, held ? s->store : block_node_file(&s->parent), BLOCK_OP_READ,
                        req->offset + done, n, req->iov, req->niov, done, 0);
        done += n;
    }
    block_group_end(group);
}

static bool overlay_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len)
{
    BlockOverlay *s = BLOCK_OVERLAY(node);

    for (uint64_t done = 0, n; done < len; done += n) {
        bool held;

        n = run_length(s, offset + done, len - done, &held);
        if (!block_node_read_now(held ? s->store : block_node_file(node), offset + done,
                                 (char *)buf + done, n)) {
            return false;
        }
    }
    return true;
}

static void overlay_status(BlockOverlay *s, BlockReq *req)
{
    bool held;
    uint64_t n = run_length(s, req->offset, req->bytes, &held);
    BlockReq *below;

    if (held) {
        req->status->bytes = n;
        req->status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA;
        block_req_complete(req, 0);
        return;
    }
    below = block_req_new(BLOCK_OP_STATUS, req->offset, n, NULL, 0, 0, 0, block_status_below_done,
                          req);
    below->status = req->status;
    block_node_submit(block_node_file(&s->parent), below);
}

/* ---- writing --------------------------------------------------------------------------------- */

typedef struct Cow {
    BlockOverlay *s;
    BlockReq *req;
    BlockRange range;
    uint32_t head, tail; /* bytes that come from below, before and after the request's */
    uint8_t *edges;      /* two grains */
} Cow;

static void cow_finish(Cow *cow, int error)
{
    BlockReq *req = cow->req;

    if (!error) {
        mark(cow->s, req->offset, req->bytes);
    }
    block_range_unlock(&cow->s->ranges, &cow->range);
    g_free(cow->edges);
    g_free(cow);
    block_req_complete(req, error);
}

static void stored(BlockGroup *group, int error)
{
    cow_finish(group->opaque, error);
}

static void cow_store(BlockGroup *reads, int error)
{
    Cow *cow = reads->opaque;
    BlockReq *req = cow->req;
    uint64_t end = req->offset + req->bytes;
    struct iovec head = { cow->edges, cow->head }, tail = { cow->edges + GRAIN, cow->tail };
    BlockGroup *group;

    if (error) {
        cow_finish(cow, error);
        return;
    }
    group = block_group_new(NULL, stored, cow);
    if (cow->head) {
        block_group_add(group, cow->s->store, BLOCK_OP_WRITE, req->offset - cow->head, cow->head,
                        &head, 1, 0, 0);
    }
    if (cow->tail) {
        block_group_add(group, cow->s->store, BLOCK_OP_WRITE, end, cow->tail, &tail, 1, 0, 0);
    }
    if (req->op == BLOCK_OP_WRITE) {
        block_group_add(group, cow->s->store, BLOCK_OP_WRITE, req->offset, req->bytes, req->iov,
                        req->niov, 0, 0);
    } else {
        block_group_add(group, cow->s->store, BLOCK_OP_ZERO, req->offset, req->bytes, NULL, 0, 0,
                        BLOCK_MAY_UNMAP);
    }
    block_group_end(group);
}

static void cow_start(void *opaque)
{
    Cow *cow = opaque;
    BlockOverlay *s = cow->s;
    BlockReq *req = cow->req;
    uint64_t end = req->offset + req->bytes;
    BlockGroup *reads = block_group_new(NULL, cow_store, cow);

    if (req->offset % GRAIN && !has_grain(s, req->offset)) {
        cow->head = (uint32_t)(req->offset % GRAIN);
    }
    if (end % GRAIN && end < s->parent.length && !has_grain(s, end)) {
        cow->tail = (uint32_t)MIN(GRAIN - end % GRAIN, s->parent.length - end);
    }
    if (cow->head || cow->tail) {
        struct iovec head, tail;

        cow->edges = g_malloc(2 * GRAIN);
        head = (struct iovec){ cow->edges, cow->head };
        tail = (struct iovec){ cow->edges + GRAIN, cow->tail };
        if (cow->head) {
            block_group_add(reads, block_node_file(&s->parent), BLOCK_OP_READ,
                            req->offset - cow->head, cow->head, &head, 1, 0, 0);
        }
        if (cow->tail) {
            block_group_add(reads, block_node_file(&s->parent), BLOCK_OP_READ, end, cow->tail,
                            &tail, 1, 0, 0);
        }
    }
    block_group_end(reads);
}

static void overlay_submit(BlockNode *node, BlockReq *req)
{
    BlockOverlay *s = BLOCK_OVERLAY(node);
    Cow *cow;

    if (req->op != BLOCK_OP_FLUSH &&
        (req->offset > node->length || req->bytes > node->length - req->offset)) {
        block_req_complete(req, EINVAL);
        return;
    }
    switch (req->op) {
    case BLOCK_OP_READ:
        overlay_read(s, req);
        break;
    case BLOCK_OP_STATUS:
        overlay_status(s, req);
        break;
    case BLOCK_OP_FLUSH:
        block_req_complete(req, 0); /* nothing of it shall last */
        break;
    default:
        cow = g_new0(Cow, 1);
        cow->s = s;
        cow->req = req;
        block_range_lock(&s->ranges, &cow->range, req->offset / GRAIN * GRAIN,
                         (req->offset + req->bytes + GRAIN - 1) / GRAIN * GRAIN, false, cow_start,
                         cow);
        break;
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static BlockNode *make_store(uint64_t length, GError **error)
{
    const char *folder = g_getenv("TMPDIR");
    g_autofree char *path = g_build_filename(folder && *folder ? folder : "/var/tmp",
                                             "vmlua-overlay-XXXXXX", NULL);
    BlockNode *store = NULL;
    int fd = mkostemp(path, O_CLOEXEC);

    if (fd < 0) {
        error_set_errno(error, "temporary file '%s'", path);
        return NULL;
    }
    if (ftruncate(fd, (off_t)length) < 0) {
        error_set_errno(error, "temporary file '%s' of %" G_GUINT64_FORMAT " bytes", path, length);
    } else {
        store = block_node_new("file", error);
    }
    if (store && (!object_property_set_str(OBJECT(store), "filename", path, error) ||
                  !object_property_set_str(OBJECT(store), "cache", "unsafe", error) ||
                  !object_property_set_str(OBJECT(store), "locking", "off", error) ||
                  !object_property_set_str(OBJECT(store), "discard", "unmap", error) ||
                  !block_node_open(store, error))) {
        object_unref(g_steal_pointer(&store));
    }
    close(fd);
    unlink(path);
    return store;
}

static bool overlay_open(BlockNode *node, GError **error)
{
    BlockOverlay *s = BLOCK_OVERLAY(node);
    uint64_t length = block_node_length(block_node_file(node));
    BlockNode *store;

    if (length > MAX_LENGTH) {
        return error_set(error, ENGINE_ERROR_LIMIT, "overlay: '%s' is larger than 64 TiB",
                         block_node_name(node));
    }
    store = make_store(length, error);
    if (!store) {
        return false;
    }
    s->map = g_try_malloc0(8 * (length / GRAIN / 64 + 1));
    if (!s->map) {
        object_unref(store);
        return error_set(error, ENGINE_ERROR_LIMIT, "overlay: no memory for '%s'",
                         block_node_name(node));
    }
    s->store = block_node_use(store);
    object_unref(store);
    node->length = length;
    node->discard = true;
    return true;
}

static void overlay_close(BlockNode *node)
{
    BlockOverlay *s = BLOCK_OVERLAY(node);

    block_node_unuse(g_steal_pointer(&s->store));
    g_free(g_steal_pointer(&s->map));
}

static void overlay_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "overlay";
    node->needs_file = true;
    node->own_store = true;
    node->open = overlay_open;
    node->close = overlay_close;
    node->submit = overlay_submit;
    node->read_now = overlay_read_now;
}

static const TypeInfo overlay_info = {
    .name = TYPE_BLOCK_OVERLAY,
    .parent = TYPE_BLOCK_NODE,
    .doc = "Keeps writes in a temporary file",
    .instance_size = sizeof(BlockOverlay),
    .class_init = overlay_class_init,
};

static void register_overlay(void)
{
    type_register_static(&overlay_info);
}
type_init(register_overlay)
