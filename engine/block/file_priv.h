/* Shared by file.c and file-io.c. */
#pragma once

#include <pthread.h>

#include "engine/block/block_priv.h"

typedef struct BlockFile {
    BlockNode parent;
    int cache;   /* property: BlockCacheMode */
    int aio;     /* property: BlockAioEngine */
    int locking; /* property: auto, on, off */
    int fd;
    bool use_uring;                             /* for what aio does not take too: flushes */
    bool use_aio;                               /* reads and writes past the host's cache */
    bool is_device;                             /* a block device */
    bool direct;                                /* O_DIRECT: see align and mem_align */
    bool volatile_ok;                           /* cache=unsafe: flushes do nothing */
    uint32_t mem_align;                         /* of buffers */
    bool no_nowait;                             /* likewise; engine lock */
    bool no_zero_range, no_punch, no_seek_hole; /* atomic: the file system has said so */
    int64_t slow_until; /* real time, ns; engine lock: small writes go to threads until then */
    bool reserves;      /* giving a large write its place first is faster than with it */
    pthread_mutex_t rewriting; /* around a detour that writes; leaf */
    BlockRanges ranges;        /* direct writes: a detour rewrites whole blocks */
} BlockFile;
OBJECT_DECLARE_TYPE(BlockFile, BlockNodeClass, BLOCK_FILE, TYPE_BLOCK_FILE)

int block_file_sync(BlockNode *node, BlockReq *req);
void block_file_submit(BlockNode *node, BlockReq *req);
bool block_file_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len);
void block_file_cancel(BlockNode *node, BlockReq *req);
/* Copies between the files below two nodes, offsets in these files: errno; ENOTSUP: there are none.
 * Any thread. */
int block_file_copy_range(BlockNode *from, uint64_t from_at, BlockNode *to, uint64_t to_at,
                          uint64_t bytes);
