/*
 * "file": copying between two files without reading and writing here.
 */
#include <errno.h>
#include <unistd.h>

#include "engine/block/file_priv.h"

static BlockFile *as_file(BlockNode *node)
{
    while (node && !object_dynamic_cast(OBJECT(node), TYPE_BLOCK_FILE)) {
        node = node->file_node;
    }
    return (BlockFile *)node;
}

int block_file_copy_range(BlockNode *from, uint64_t from_at, BlockNode *to, uint64_t to_at,
                          uint64_t bytes)
{
    BlockFile *a = as_file(from), *b = as_file(to);
    off_t in = (off_t)from_at, out = (off_t)to_at;

    if (!a || !b || a->is_device || b->is_device) {
        return ENOTSUP;
    }
    while (bytes > 0) {
        ssize_t n = copy_file_range(a->fd, &in, b->fd, &out, bytes, 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? errno : EIO;
        }
        bytes -= (uint64_t)n;
    }
    return 0;
}
