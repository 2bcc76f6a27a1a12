/* See transfer.h. */
#include "engine/block/transfer.h"

#include <errno.h>
#include <string.h>

void block_transfer_init(BlockTransfer *t, BlockReq *req, int fd)
{
    t->req = req;
    t->fd = fd;
    t->offset = req->offset;
    t->niov = req->niov;
    t->first = 0;
    t->iov = req->niov > BLOCK_INLINE_IOV ? g_new(struct iovec, req->niov) : t->small;
    memcpy(t->iov, req->iov, req->niov * sizeof(*t->iov));
}

void block_transfer_clear(BlockTransfer *t)
{
    if (t->iov != t->small) {
        g_free(t->iov);
    }
}

/* What has been transferred is cut from the front of the vectors; true: nothing is left. */
static bool advance(BlockTransfer *t, size_t n)
{
    t->offset += n;
    while (t->first < t->niov && n >= t->iov[t->first].iov_len) {
        n -= t->iov[t->first++].iov_len;
    }
    if (t->first < t->niov) {
        t->iov[t->first].iov_base = (char *)t->iov[t->first].iov_base + n;
        t->iov[t->first].iov_len -= n;
    }
    return t->first == t->niov;
}

bool block_transfer_result(BlockTransfer *t, int64_t res, int *error)
{
    bool reads = t->req->op == BLOCK_OP_READ;

    *error = 0;
    if (res == -EINTR || res == -EAGAIN) {
        return false;
    }
    if (res < 0) {
        *error = (int)-res;
        return true;
    }
    if (t->req->op == BLOCK_OP_FLUSH || advance(t, (size_t)res)) {
        return true;
    }
    /* The end of the file; when it is within a sector, direct I/O refuses to go on from there. */
    if (reads && (res == 0 || t->offset % BLOCK_SECTOR_SIZE)) {
        block_iov_zero(t->iov + t->first, t->niov - t->first, 0, UINT64_MAX);
        return true;
    }
    if (res > 0) {
        return false;
    }
    *error = ENOSPC;
    return true;
}
