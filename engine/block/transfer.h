/* A read, write or flush while the kernel has it: its own vectors, which a short transfer moves. */
#pragma once

#include "engine/block/block_priv.h"

typedef struct BlockTransfer {
    BlockReq *req;
    int fd;
    uint64_t offset;
    struct iovec *iov;
    unsigned niov, first;
    struct iovec small[BLOCK_INLINE_IOV];
} BlockTransfer;

void block_transfer_init(BlockTransfer *t, BlockReq *req, int fd);
void block_transfer_clear(BlockTransfer *t);
/* What the kernel said: bytes, or -errno. false: it has to be given to the kernel again, what is
 * left of it. true: *error is the result; reads beyond the end of the file have become zeroes. */
bool block_transfer_result(BlockTransfer *t, int64_t res, int *error);
