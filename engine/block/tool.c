/*
 * Single operations of tools on images.
 */
#include "engine/block/tool.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"

static bool unsupported(const BlockNode *node, const char *what, GError **error)
{
    return error_set(error, ENGINE_ERROR_UNSUPPORTED, "'%s': %s has no %s", block_node_name(node),
                     block_node_driver(node), what);
}

/* Runs what the class has under `hook`, or says that it has none. */
#define HOOK(node, hook, what, ...)                                                         \
    (BLOCK_NODE_GET_CLASS(node)->hook ? BLOCK_NODE_GET_CLASS(node)->hook(node, __VA_ARGS__) \
                                      : unsupported(node, what, error))

bool block_image_create(const char *driver, const char *filename, const BlockCreateOption *options,
                        unsigned n, GError **error)
{
    BlockNodeClass *klass = block_driver_find(driver, error);

    if (!klass) {
        return false;
    }
    if (!klass->create) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "driver %s cannot create images", driver);
    }
    return klass->create(filename, options, n, error);
}

bool block_image_resize(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error)
{
    return HOOK(node, resize, "resizing", bytes, preallocation, error);
}

bool block_image_can_check(const BlockNode *node)
{
    return BLOCK_NODE_GET_CLASS(node)->check != NULL;
}

bool block_image_can_compress(const BlockNode *node)
{
    const BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);

    return klass->write_compressed || (klass->compress && klass->write_packed);
}

bool block_image_check(BlockNode *node, int fix, BlockCheckResult *out, BlockProgressFn progress,
                       BlockReportFn report, void *opaque, GError **error)
{
    memset(out, 0, sizeof(*out));
    return HOOK(node, check, "check", fix, out, progress, report, opaque, error);
}

void block_image_info(BlockNode *node,
                      void (*add)(void *opaque, const char *key, const char *value), void *opaque)
{
    if (BLOCK_NODE_GET_CLASS(node)->info) {
        BLOCK_NODE_GET_CLASS(node)->info(node, add, opaque);
    }
}

bool block_image_snapshot_list(BlockNode *node, GArray *out, GError **error)
{
    return HOOK(node, snapshot_list, "snapshots", out, error);
}

bool block_image_snapshot_create(BlockNode *node, const BlockSnapshotInfo *info, GError **error)
{
    return HOOK(node, snapshot_create, "snapshots", info, error);
}

bool block_image_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error)
{
    return HOOK(node, snapshot_goto, "snapshots", id_or_name, error);
}

bool block_image_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error)
{
    return HOOK(node, snapshot_delete, "snapshots", id_or_name, error);
}

bool block_image_bitmap(BlockNode *node, const BlockBitmapEdit *edit, GError **error)
{
    return HOOK(node, bitmap_edit, "bitmaps", edit, error);
}

bool block_image_change_backing(BlockNode *node, const char *filename, const char *format,
                                GError **error)
{
    return HOOK(node, change_backing, "backing files", filename, format, error);
}

bool block_image_make_empty(BlockNode *node, GError **error)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);

    return klass->make_empty ? klass->make_empty(node, error)
                             : unsupported(node, "way to become empty", error);
}

bool block_image_amend(BlockNode *node, const BlockCreateOption *options, unsigned n,
                       GError **error)
{
    return HOOK(node, amend, "options that can be changed", options, n, error);
}

/* ---- what is below --------------------------------------------------------------------------- */

BlockNode *block_image_file(const BlockNode *node)
{
    return block_node_file(node);
}

BlockNode *block_image_backing(const BlockNode *node)
{
    return block_node_backing(node);
}

const char *block_image_filename(const BlockNode *node)
{
    while (node && !node->filename) {
        node = node->file_node;
    }
    return node ? node->filename : NULL;
}

int64_t block_image_actual_size(BlockNode *node)
{
    struct stat st;

    while (node->file_node) {
        node = node->file_node;
    }
    if (!object_dynamic_cast(OBJECT(node), TYPE_BLOCK_FILE) || stat(node->filename, &st) < 0) {
        return -1;
    }
    return (int64_t)st.st_blocks * 512;
}

/* ---- requests -------------------------------------------------------------------------------- */

static bool request_result(const BlockNode *node, BlockOp op, uint64_t offset, int e,
                           GError **error)
{
    if (e == 0) {
        return true;
    }
    errno = e;
    if (op == BLOCK_OP_FLUSH) {
        return error_set_errno(error, "'%s': flush", block_node_name(node));
    }
    return error_set_errno(error, "'%s': %s at offset %" G_GUINT64_FORMAT, block_node_name(node),
                           block_op_name(op), offset);
}

bool block_image_request(BlockNode *node, BlockOp op, uint64_t offset, void *buf, uint64_t bytes,
                         unsigned flags, GError **error)
{
    struct iovec iov = { .iov_base = buf, .iov_len = bytes };
    BlockReq req;
    int e = EINVAL;

    if (op == BLOCK_OP_FLUSH ||
        (offset <= block_node_length(node) && bytes <= block_node_length(node) - offset)) {
        block_req_init(&req, op, offset, bytes, buf ? &iov : NULL, buf ? 1 : 0, 0, flags, NULL,
                       NULL);
        e = block_node_sync(node, &req);
        block_req_clear(&req);
    }
    return request_result(node, op, offset, e, error);
}

bool block_image_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *out,
                        GError **error)
{
    BlockReq req;
    int e;

    memset(out, 0, sizeof(*out));
    block_req_init(&req, BLOCK_OP_STATUS, offset, bytes, NULL, 0, 0, 0, NULL, NULL);
    req.status = out;
    e = block_node_sync(node, &req);
    block_req_clear(&req);
    if (e == 0 && (out->bytes == 0 || out->bytes > bytes)) {
        out->bytes = bytes; /* a driver that says nothing about the length */
    }
    return request_result(node, BLOCK_OP_STATUS, offset, e, error);
}

/* ---- what is where --------------------------------------------------------------------------- */

/* A worker asks for all of it, so that it is not one way there and back for each extent. */
typedef struct MapWork {
    BlockWork work;
    BlockNode *node;
    uint64_t offset, end;
    unsigned limit;
    GArray *out;
    int error;
    bool finished; /* main thread */
} MapWork;

static void map_finished(void *opaque)
{
    ((MapWork *)opaque)->finished = true;
}

static bool joins(const BlockStatus *a, const BlockStatus *b)
{
    return a->flags == b->flags && a->depth == b->depth &&
           a->has_host_offset == b->has_host_offset &&
           (!a->has_host_offset || a->host_offset + a->bytes == b->host_offset);
}

static void map_run(BlockWork *work)
{
    MapWork *map = (MapWork *)work;

    while (!map->error && map->offset < map->end) {
        BlockExtent next = { .start = map->offset };
        uint64_t bytes = map->end - map->offset;
        BlockExtent *last = map->out->len ? &g_array_index(map->out, BlockExtent, map->out->len - 1)
                                          : NULL;
        BlockReq req;

        block_req_init(&req, BLOCK_OP_STATUS, map->offset, bytes, NULL, 0, 0, 0, NULL, NULL);
        req.status = &next.status;
        map->error = block_node_sync(map->node, &req);
        block_req_clear(&req);
        if (next.status.bytes == 0 || next.status.bytes > bytes) {
            next.status.bytes = bytes; /* a driver that says nothing about the length */
        }
        if (map->error) {
            break;
        } else if (last && joins(&last->status, &next.status)) {
            last->status.bytes += next.status.bytes;
        } else if (map->out->len == map->limit) {
            break;
        } else {
            g_array_append_val(map->out, next);
        }
        map->offset += next.status.bytes;
    }
    bh_once(map_finished, map);
}

bool block_image_map(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned limit, GArray *out,
                     GError **error)
{
    MapWork map = { .work.run = map_run,
                    .node = node,
                    .offset = offset,
                    .end = offset + bytes,
                    .limit = limit,
                    .out = out };

    block_workers_ref();
    block_work_submit(&map.work);
    while (!map.finished) {
        main_loop_iterate(true);
    }
    block_workers_unref();
    return request_result(node, BLOCK_OP_STATUS, map.offset, map.error, error);
}

bool block_image_close(BlockNode *node, GError **error)
{
    bool ok = node->read_only || !node->opened ||
              block_image_request(node, BLOCK_OP_FLUSH, 0, NULL, 0, 0, error);

    block_node_shut(node);
    return ok;
}
