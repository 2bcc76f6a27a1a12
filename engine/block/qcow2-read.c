/*
 * qcow2: reading through the mapping, and what is known of a range.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

/* ---- reading, on a worker -------------------------------------------------------------------- */

static int read_child(BlockNode *child, uint64_t offset, uint64_t bytes, const struct iovec *iov,
                      unsigned niov, uint64_t iov_offset)
{
    BlockReq req;
    int e;

    block_req_init(&req, BLOCK_OP_READ, offset, bytes, iov, niov, iov_offset, 0, NULL, NULL);
    e = block_node_sync(child, &req);
    block_req_clear(&req);
    return e;
}

/* How much of a range without data the backing file shows; the rest is zeroes. */
uint64_t qcow2_backed_bytes(const Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    BlockNode *backing = block_node_backing(&s->parent);
    uint64_t length = backing ? block_node_length(backing) : 0;

    return offset >= length ? 0 : MIN(bytes, length - offset);
}

static int read_compressed(Qcow2 *s, const Qcow2Run *run, uint64_t offset, uint64_t bytes,
                           const struct iovec *iov, unsigned niov, uint64_t iov_offset)
{
    uint8_t *cluster = g_try_malloc(s->cluster_size);
    int e = cluster ? qcow2_decompress(s, run->host, cluster) : ENOMEM;

    if (!e) {
        block_iov_from_buf(iov, niov, iov_offset, cluster + (offset & (s->cluster_size - 1)),
                           bytes);
    }
    g_free(cluster);
    return e;
}

static int read_run(Qcow2 *s, const Qcow2Run *run, uint64_t offset, const struct iovec *iov,
                    unsigned niov, uint64_t iov_offset)
{
    uint64_t below = 0;
    int e = 0;

    switch (run->kind) {
    case QCOW2_DATA:
        return read_child(s->data, run->host, run->bytes, iov, niov, iov_offset);
    case QCOW2_COMPRESSED_DATA:
        return read_compressed(s, run, offset, run->bytes, iov, niov, iov_offset);
    case QCOW2_INVALID:
        qcow2_mark_corrupt(s, "an invalid L2 entry", run->host);
        return EIO;
    case QCOW2_UNALLOCATED:
    case QCOW2_HOLE:
        below = qcow2_backed_bytes(s, offset, run->bytes);
        e = below ? read_child(block_node_backing(&s->parent), offset, below, iov, niov, iov_offset)
                  : 0;
        break;
    case QCOW2_ZERO_PLAIN:
    case QCOW2_ZERO_ALLOCATED:
        break;
    }
    block_iov_zero(iov, niov, iov_offset + below, run->bytes - below);
    return e;
}

int qcow2_read(Qcow2 *s, uint64_t offset, uint64_t bytes, const struct iovec *iov, unsigned niov,
               uint64_t iov_offset)
{
    int e = 0;

    while (bytes > 0 && !e) {
        Qcow2Run run;

        pthread_mutex_lock(&s->lock);
        e = qcow2_map(s, offset, bytes, &run);
        pthread_mutex_unlock(&s->lock);
        e = e ? e : read_run(s, &run, offset, iov, niov, iov_offset);
        offset += run.bytes;
        iov_offset += run.bytes;
        bytes -= run.bytes;
    }
    return e;
}

/* What a run has, into a buffer; false: not without waiting. */
static bool run_now(Qcow2 *s, const Qcow2Run *run, uint64_t offset, char *buf)
{
    uint64_t below = 0;

    switch (run->kind) {
    case QCOW2_DATA:
        return block_node_read_now(s->data, run->host, buf, run->bytes);
    case QCOW2_COMPRESSED_DATA:
    case QCOW2_INVALID:
        return false;
    case QCOW2_UNALLOCATED:
    case QCOW2_HOLE:
        below = qcow2_backed_bytes(s, offset, run->bytes);
        if (below && !block_node_read_now(block_node_backing(&s->parent), offset, buf, below)) {
            return false;
        }
        break;
    case QCOW2_ZERO_PLAIN:
    case QCOW2_ZERO_ALLOCATED:
        break;
    }
    memset(buf + below, 0, run->bytes - below);
    return true;
}

/* With the lock held to the end: what is mapped stays where it is. */
bool qcow2_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len)
{
    Qcow2 *s = QCOW2(node);
    bool ok = !s->broken && offset <= node->length && len <= node->length - offset;

    pthread_mutex_lock(&s->lock);
    for (uint64_t done = 0; ok && done < len;) {
        Qcow2Run run;

        ok = qcow2_map_cached(s, offset + done, len - done, &run) &&
             run_now(s, &run, offset + done, (char *)buf + done);
        done += ok ? run.bytes : 0;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

/* ---- status ---------------------------------------------------------------------------------- */

/* What the run says by itself; false: the backing file has to be asked about out->bytes. */
static bool status_of_run(const Qcow2 *s, const Qcow2Run *run, uint64_t offset, BlockStatus *out)
{
    uint64_t below;

    out->bytes = run->bytes;
    out->flags = BLOCK_STATUS_ALLOCATED;
    switch (run->kind) {
    case QCOW2_ZERO_ALLOCATED:
        out->has_host_offset = true;
        out->host_offset = run->host;
        out->flags |= BLOCK_STATUS_ZERO;
        return true;
    case QCOW2_ZERO_PLAIN:
        out->flags |= BLOCK_STATUS_ZERO;
        return true;
    case QCOW2_DATA:
        out->has_host_offset = true;
        out->host_offset = run->host;
        out->flags |= BLOCK_STATUS_DATA;
        return true;
    case QCOW2_COMPRESSED_DATA:
        out->flags |= BLOCK_STATUS_DATA | BLOCK_STATUS_COMPRESSED;
        return true;
    default:
        break;
    }
    below = qcow2_backed_bytes(s, offset, run->bytes);
    out->bytes = below ? below : run->bytes;
    out->flags = below ? 0 : BLOCK_STATUS_ZERO;
    return !below;
}

int qcow2_status(Qcow2 *s, uint64_t offset, uint64_t bytes, BlockStatus *out)
{
    Qcow2Run run;
    BlockReq req;
    int e;

    pthread_mutex_lock(&s->lock);
    e = qcow2_map(s, offset, bytes, &run);
    pthread_mutex_unlock(&s->lock);
    if (e || run.kind == QCOW2_INVALID) {
        return e ? e : EIO;
    }
    if (status_of_run(s, &run, offset, out)) {
        return 0;
    }
    block_req_init(&req, BLOCK_OP_STATUS, offset, out->bytes, NULL, 0, 0, 0, NULL, NULL);
    req.status = out;
    e = block_node_sync(block_node_backing(&s->parent), &req);
    block_req_clear(&req);
    out->flags &= ~(unsigned)BLOCK_STATUS_ALLOCATED;
    out->depth++;
    return e;
}

bool qcow2_fast_status(Qcow2 *s, BlockReq *req)
{
    Qcow2Run run;
    BlockReq *below;
    bool known;

    pthread_mutex_lock(&s->lock);
    known = qcow2_map_cached(s, req->offset, req->bytes, &run);
    pthread_mutex_unlock(&s->lock);
    if (!known || run.kind == QCOW2_INVALID) {
        return false;
    }
    if (status_of_run(s, &run, req->offset, req->status)) {
        block_req_complete(req, 0);
        return true;
    }
    below = block_req_new(BLOCK_OP_STATUS, req->offset, req->status->bytes, NULL, 0, 0, 0,
                          block_status_below_done, req);
    below->status = req->status;
    block_node_submit(block_node_backing(&s->parent), below);
    return true;
}
