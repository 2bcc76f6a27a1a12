/*
 * "raw": the bytes of the node below as they are, or a part of them.
 *
 * The guard: an image whose format was guessed to be raw shall not be guessed otherwise the next
 * time, because its guest wrote the header of another format into it (whose backing file would then
 * be any file of the host). Such a write of the first bytes is refused; `format=raw` says that it
 * is raw, and takes everything.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

typedef struct BlockRaw {
    BlockNode parent;
    uint64_t offset, size; /* properties; size 0: up to the end */
} BlockRaw;
OBJECT_DECLARE_TYPE(BlockRaw, BlockNodeClass, BLOCK_RAW, TYPE_BLOCK_RAW)

/* What the first bytes would be after the write is another format's beginning. */
static bool disguises(BlockRaw *s, const BlockReq *req)
{
    uint8_t head[BLOCK_SECTOR_SIZE] = { 0 };
    size_t from = req->offset, len;
    const char *format;

    if (!s->parent.probed || req->op != BLOCK_OP_WRITE || req->offset >= sizeof(head)) {
        return false;
    }
    /* Less than a sector: what is before it counts too. Devices write sectors, so this is rare, and
     * a refusal too many does less harm than one too few. */
    len = MIN(sizeof(head) - from, req->bytes);
    block_iov_to_buf(req->iov, req->niov, 0, head + from, len);
    if (from > 0 && from < 8) {
        return true;
    }
    format = block_probe_buffer(head, sizeof(head), NULL);
    return strcmp(format, "raw") != 0;
}

static int admit(BlockRaw *s, BlockReq *req)
{
    if (s->size > 0 && req->op != BLOCK_OP_FLUSH &&
        (req->offset > s->size || req->bytes > s->size - req->offset)) {
        return EINVAL;
    }
    if (G_UNLIKELY(disguises(s, req))) {
        log_warning("'%s' was taken for a raw image, and a write would make it look like another "
                    "format: refused (format=raw allows it)",
                    block_node_name(&s->parent));
        return EPERM;
    }
    req->offset += s->offset;
    return 0;
}

static void raw_submit(BlockNode *node, BlockReq *req)
{
    int error = admit(BLOCK_RAW(node), req);

    if (error) {
        block_req_complete(req, error);
    } else {
        block_node_submit(block_node_file(node), req);
    }
}

static int raw_sync(BlockNode *node, BlockReq *req)
{
    int error = admit(BLOCK_RAW(node), req);

    return error ? error : block_node_sync(block_node_file(node), req);
}

static bool raw_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len)
{
    BlockRaw *s = BLOCK_RAW(node);

    if (s->size > 0 && (offset > s->size || len > s->size - offset)) {
        return false;
    }
    return block_node_read_now(block_node_file(node), offset + s->offset, buf, len);
}

static bool raw_open(BlockNode *node, GError **error)
{
    BlockRaw *s = BLOCK_RAW(node);
    uint64_t below = block_node_length(block_node_file(node));

    if (s->offset > below || s->size > below - s->offset) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "raw: offset %" G_GUINT64_FORMAT " and size %" G_GUINT64_FORMAT
                         " do not fit into '%s' of %" G_GUINT64_FORMAT " bytes",
                         s->offset, s->size, block_node_name(node), below);
    }
    node->length = s->size ? s->size : below - s->offset;
    node->align = block_node_file(node)->align;
    if (!node->discard_mode) {
        node->discard = block_node_file(node)->discard;
    }
    return true;
}

static bool raw_resize(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error)
{
    BlockRaw *s = BLOCK_RAW(node);
    BlockNode *file = block_node_file(node);

    if (s->size > 0) {
        return error_set(error, ENGINE_ERROR_INVALID, "raw: a node with a fixed size");
    }
    if (bytes > BLOCK_MAX_BYTES - s->offset || !BLOCK_NODE_GET_CLASS(file)->resize) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "'%s' cannot be resized",
                         block_node_name(file));
    }
    if (!BLOCK_NODE_GET_CLASS(file)->resize(file, bytes + s->offset, preallocation, error)) {
        return false;
    }
    node->length = bytes;
    return true;
}

static int raw_probe(const uint8_t *buf, size_t len, const char *filename)
{
    return 1; /* anything is raw if it is nothing else */
}

static const Property raw_properties[] = {
    DEFINE_PROP_SIZE("offset", BlockRaw, offset, 0, "where it begins in the node below"),
    DEFINE_PROP_SIZE("size", BlockRaw, size, 0, "how much of it there is (0: all)"),
};

static void raw_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "raw";
    node->is_format = true;
    node->needs_file = true;
    node->open = raw_open;
    node->submit = raw_submit;
    node->sync = raw_sync;
    node->read_now = raw_read_now;
    node->probe = raw_probe;
    node->resize = raw_resize;
    object_class_add_properties(klass, raw_properties, G_N_ELEMENTS(raw_properties));
}

static const TypeInfo raw_info = {
    .name = TYPE_BLOCK_RAW,
    .parent = TYPE_BLOCK_NODE,
    .doc = "The bytes of a file as they are",
    .instance_size = sizeof(BlockRaw),
    .class_init = raw_class_init,
};

static void register_raw(void)
{
    type_register_static(&raw_info);
}
type_init(register_raw)
