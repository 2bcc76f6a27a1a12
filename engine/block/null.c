/*
 * "null": takes everything, answers zeroes; for measuring what lies above it.
 * "ram": a disk in memory, gone with its node.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

/* ---- null ------------------------------------------------------------------------------------ */

typedef struct BlockNull {
    BlockNode parent;
    uint64_t size, latency_ns;
    bool read_zeroes;
    BlockReq *waiting; /* in order of their time */
    Timer timer;
} BlockNull;
OBJECT_DECLARE_TYPE(BlockNull, BlockNodeClass, BLOCK_NULL, "block-null")

static int null_sync(BlockNode *node, BlockReq *req)
{
    BlockNull *s = BLOCK_NULL(node);

    if (req->op == BLOCK_OP_READ && s->read_zeroes) {
        block_iov_zero(req->iov, req->niov, 0, req->bytes);
    } else if (req->op == BLOCK_OP_STATUS) {
        req->status->bytes = req->bytes;
        req->status->flags = BLOCK_STATUS_ALLOCATED | (s->read_zeroes ? BLOCK_STATUS_ZERO : 0);
    }
    return 0;
}

typedef struct NullDelay {
    int64_t when;
} NullDelay;

static void null_fire(BlockNull *s, bool all)
{
    int64_t now = clock_now(clock_realtime());

    while (s->waiting) {
        BlockReq *req = s->waiting;
        NullDelay *delay = req->priv;

        if (!all && delay->when > now) {
            timer_arm(&s->timer, delay->when);
            return;
        }
        s->waiting = req->next;
        req->priv = NULL;
        g_free(delay);
        block_req_complete(req, null_sync(&s->parent, req));
    }
    timer_disarm(&s->timer);
}

static void null_timer(void *opaque)
{
    null_fire(opaque, false);
}

static void null_submit(BlockNode *node, BlockReq *req)
{
    BlockNull *s = BLOCK_NULL(node);
    BlockReq **last = &s->waiting;
    NullDelay *delay;

    if (s->latency_ns == 0 || node->drained) {
        block_req_complete(req, null_sync(node, req));
        return;
    }
    delay = g_new(NullDelay, 1);
    delay->when = clock_now(clock_realtime()) + (int64_t)s->latency_ns;
    req->priv = delay;
    req->next = NULL;
    while (*last) {
        last = &(*last)->next;
    }
    *last = req;
    if (s->waiting == req) {
        timer_arm(&s->timer, delay->when);
    }
}

static void null_cancel(BlockNode *node, BlockReq *req)
{
    BlockNull *s = BLOCK_NULL(node);

    for (BlockReq **at = &s->waiting; *at; at = &(*at)->next) {
        if (*at == req) {
            *at = req->next;
            g_free(g_steal_pointer(&req->priv));
            block_req_complete(req, ECANCELED);
            return;
        }
    }
}

static void null_drain(BlockNode *node)
{
    null_fire(BLOCK_NULL(node), true);
}

static bool null_open(BlockNode *node, GError **error)
{
    BlockNull *s = BLOCK_NULL(node);

    if (s->size > BLOCK_MAX_BYTES || s->latency_ns > (uint64_t)(3600 * NS_PER_SEC)) {
        return error_set(error, ENGINE_ERROR_INVALID, "null: size or latency is too large");
    }
    timer_setup(&s->timer, clock_realtime(), null_timer, s);
    node->length = s->size;
    return true;
}

static void null_close(BlockNode *node)
{
    timer_disarm(&BLOCK_NULL(node)->timer);
}

static const Property null_properties[] = {
    DEFINE_PROP_SIZE("size", BlockNull, size, GiB, "bytes that it pretends to have"),
    DEFINE_PROP_UINT64("latency-ns", BlockNull, latency_ns, 0, "nanoseconds until it answers"),
    DEFINE_PROP_BOOL("read-zeroes", BlockNull, read_zeroes, true,
                     "reads give zeroes; off: buffers are left as they are"),
};

static void null_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "null";
    node->open = null_open;
    node->close = null_close;
    node->submit = null_submit;
    node->cancel = null_cancel;
    node->drain = null_drain;
    object_class_add_properties(klass, null_properties, G_N_ELEMENTS(null_properties));
}

/* ---- ram ------------------------------------------------------------------------------------- */

typedef struct BlockRam {
    BlockNode parent;
    uint64_t size;
    char *data; /* pages appear when they are written */
} BlockRam;
OBJECT_DECLARE_TYPE(BlockRam, BlockNodeClass, BLOCK_RAM, "block-ram")

static int ram_sync(BlockNode *node, BlockReq *req)
{
    BlockRam *s = BLOCK_RAM(node);

    if (req->op != BLOCK_OP_FLUSH &&
        (req->offset > s->size || req->bytes > s->size - req->offset)) {
        return EINVAL;
    }
    switch (req->op) {
    case BLOCK_OP_READ:
        block_iov_from_buf(req->iov, req->niov, 0, s->data + req->offset, req->bytes);
        break;
    case BLOCK_OP_WRITE:
        block_iov_to_buf(req->iov, req->niov, 0, s->data + req->offset, req->bytes);
        break;
    case BLOCK_OP_ZERO:
    case BLOCK_OP_DISCARD: {
        /* Whole pages go back to the host. */
        uint64_t end = req->offset + req->bytes;
        uint64_t first = (req->offset + 4095) & ~UINT64_C(4095), last = end & ~UINT64_C(4095);

        if (first >= last || madvise(s->data + first, last - first, MADV_DONTNEED) < 0) {
            memset(s->data + req->offset, 0, req->bytes);
            break;
        }
        memset(s->data + req->offset, 0, first - req->offset);
        memset(s->data + last, 0, end - last);
        break;
    }
    case BLOCK_OP_STATUS:
        req->status->bytes = req->bytes;
        req->status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA;
        break;
    default:
        break;
    }
    return 0;
}

static void ram_submit(BlockNode *node, BlockReq *req)
{
    block_req_complete(req, ram_sync(node, req));
}

static bool ram_open(BlockNode *node, GError **error)
{
    BlockRam *s = BLOCK_RAM(node);

    if (s->size == 0 || s->size > BLOCK_MAX_BYTES) {
        return error_set(error, ENGINE_ERROR_INVALID, "ram: a disk of %" G_GUINT64_FORMAT " bytes",
                         s->size);
    }
    s->data = mmap(NULL, s->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->data == MAP_FAILED) {
        s->data = NULL;
        return error_set_errno(error, "ram: a disk of %" G_GUINT64_FORMAT " bytes", s->size);
    }
    node->length = s->size;
    return true;
}

static void ram_close(BlockNode *node)
{
    BlockRam *s = BLOCK_RAM(node);

    munmap(s->data, s->size);
    s->data = NULL;
}

static const Property ram_properties[] = {
    DEFINE_PROP_SIZE("size", BlockRam, size, 64 * MiB, "bytes"),
};

static void ram_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "ram";
    node->open = ram_open;
    node->close = ram_close;
    node->submit = ram_submit;
    object_class_add_properties(klass, ram_properties, G_N_ELEMENTS(ram_properties));
}

static const TypeInfo null_types[] = {
    { .name = "block-null",
      .parent = TYPE_BLOCK_NODE,
      .doc = "A disk that forgets everything",
      .instance_size = sizeof(BlockNull),
      .class_init = null_class_init },
    { .name = "block-ram",
      .parent = TYPE_BLOCK_NODE,
      .doc = "A disk in memory",
      .instance_size = sizeof(BlockRam),
      .class_init = ram_class_init },
};

static void register_null(void)
{
    type_register_static_array(null_types, G_N_ELEMENTS(null_types));
}
type_init(register_null)
