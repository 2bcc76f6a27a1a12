/*
 * "file": its requests. Aligned reads and writes go to the kernel's queues (Linux AIO past the
 * host's cache, io_uring through it) where there are any, and flushes to io_uring; everything else,
 * and what direct I/O cannot take as it is, to a worker thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/block/file_priv.h"
#include "engine/core/units.h"

#define BOUNCE_BYTES (1 << 20)
#define ZERO_BYTES   (64 << 10)
#define LARGE_BYTES  (256 << 10)

/* See write_at_once. */
#define AT_ONCE_BYTES (64 << 10)
#define AT_ONCE_NS    (INT64_C(250) * 1000)
#define AT_ONCE_SHARE 50
#define PAGE          4096

/* ---- plain transfers, in pieces as the kernel takes them ------------------------------------- */

static int transfer(int fd, bool is_write, struct iovec *iov, unsigned niov, uint64_t offset,
                    int flags)
{
    while (niov > 0) {
        int n = (int)MIN(niov, IOV_MAX);
        ssize_t r = is_write ? pwritev2(fd, iov, n, (off_t)offset, flags)
                             : preadv(fd, iov, n, (off_t)offset);

        if (r < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno;
        }
        if (r == 0 && is_write) {
            return ENOSPC;
        }
        /* The end of the file. When it is within a sector, direct I/O refuses to go on from there.
         */
        if (r == 0 || (!is_write && (offset + (uint64_t)r) % BLOCK_SECTOR_SIZE &&
                       (size_t)r < block_iov_bytes(iov, (unsigned)n))) {
            block_iov_zero(iov, niov, (uint64_t)r, UINT64_MAX);
            return 0;
        }
        offset += (uint64_t)r;
        while (niov > 0 && (size_t)r >= iov->iov_len) {
            r -= (ssize_t)iov->iov_len;
            iov++;
            niov--;
        }
        if (niov > 0) {
            iov->iov_base = (char *)iov->iov_base + r;
            iov->iov_len -= (size_t)r;
        }
    }
    return 0;
}

static int transfer_buf(int fd, bool is_write, void *buf, size_t len, uint64_t offset, int flags)
{
    struct iovec iov = { .iov_base = buf, .iov_len = len };

    return transfer(fd, is_write, &iov, 1, offset, flags);
}

static bool is_aligned(const BlockFile *s, const BlockReq *req)
{
    if (!s->direct) {
        return true;
    }
    if (((req->offset | req->bytes) & (s->parent.align - 1)) != 0) {
        return false;
    }
    for (unsigned i = 0; i < req->niov; i++) {
        if ((((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) & (s->mem_align - 1)) != 0) {
            return false;
        }
    }
    return true;
}

/* Direct I/O of a request that is not aligned: whole blocks through an aligned buffer. A write
 * reads the blocks first that it covers partly. Those that were submitted have their range locked;
 * those that a worker does here itself (a format's) share no bytes, but blocks: one at a time.
 * The file may get longer than the write, up to a block of zeroes: to cut that off could cut off
 * what somebody else has written behind it meanwhile. */
static int bounce(BlockFile *s, BlockReq *req, int flags)
{
    uint64_t align = MAX(s->parent.align, s->mem_align), end = req->offset + req->bytes;
    uint64_t at = req->offset & ~(align - 1);
    bool is_write = req->op == BLOCK_OP_WRITE;
    size_t room = MAX(BOUNCE_BYTES, align);
    char *buf;
    int error = 0;

    if (posix_memalign((void **)&buf, align, room) != 0) {
        return ENOMEM;
    }
    if (is_write) {
        pthread_mutex_lock(&s->rewriting);
    }
    while (at < end && !error) {
        uint64_t stop = MIN(at + room, (end + align - 1) & ~(align - 1));
        uint64_t from = MAX(at, req->offset), to = MIN(stop, end);

        if (!is_write || from != at || to != stop) {
            error = transfer_buf(s->fd, false, buf, stop - at, at, 0);
        }
        if (is_write && !error) {
            block_iov_to_buf(req->iov, req->niov, from - req->offset, buf + (from - at), to - from);
            error = transfer_buf(s->fd, true, buf, stop - at, at, flags);
        } else if (!error) {
            block_iov_from_buf(req->iov, req->niov, from - req->offset, buf + (from - at),
                               to - from);
        }
        at = stop;
    }
    if (is_write) {
        pthread_mutex_unlock(&s->rewriting);
    }
    free(buf);
    return error;
}

static void grow_to(BlockNode *node, uint64_t end)
{
    uint64_t length = block_node_length(node);

    while (length < end && !__atomic_compare_exchange_n(&node->length, &length, end, true,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static int do_fallocate(BlockFile *s, int mode, uint64_t offset, uint64_t bytes)
{
    int r;

    do {
        r = fallocate(s->fd, mode, (off_t)offset, (off_t)bytes);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? errno : 0;
}

/* Some file systems take longer to reserve room page by page for what is written into nothing than
 * to give it its place at once. A hint. */
static void reserve(BlockFile *s, const BlockReq *req)
{
    if (s->reserves && req->op == BLOCK_OP_WRITE && req->bytes >= LARGE_BYTES && !s->direct &&
        (req->flags & BLOCK_FRESH || req->offset >= block_node_length(&s->parent))) {
        do_fallocate(s, FALLOC_FL_KEEP_SIZE, req->offset, req->bytes);
    }
}

static int do_transfer(BlockFile *s, BlockReq *req)
{
    bool is_write = req->op == BLOCK_OP_WRITE;
    int flags = is_write && (req->flags & BLOCK_FUA) && !s->volatile_ok ? RWF_DSYNC : 0, error;

    reserve(s, req);
    if (!is_aligned(s, req)) {
        error = bounce(s, req, flags);
    } else {
        struct iovec *iov = g_memdup2(req->iov, req->niov * sizeof(*iov));

        error = transfer(s->fd, is_write, iov, req->niov, req->offset, flags);
        g_free(iov);
    }
    if (is_write && !error) {
        grow_to(&s->parent, req->offset + req->bytes);
    }
    return error;
}

static int do_flush(BlockFile *s)
{
    while (fdatasync(s->fd) < 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

/* A file system that cannot say whether it would have to wait says so once. */
bool block_file_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len)
{
    BlockFile *s = BLOCK_FILE(node);
    struct iovec iov = { .iov_base = buf, .iov_len = len };
    ssize_t r;

    if (s->direct || s->no_nowait) {
        return false;
    }
    r = preadv2(s->fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
    if (r < 0 && errno == EOPNOTSUPP) {
        s->no_nowait = true;
    }
    return r >= 0 && (size_t)r == len;
}

/* ---- holes ----------------------------------------------------------------------------------- */

static bool unsupported(int e)
{
    return e == EOPNOTSUPP || e == ENOTTY || e == ENOSYS || e == EINVAL || e == EPERM;
}

static int punch(BlockFile *s, uint64_t offset, uint64_t bytes)
{
    int e;

    if (__atomic_load_n(&s->no_punch, __ATOMIC_RELAXED)) {
        return EOPNOTSUPP;
    }
    e = do_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
    if (unsupported(e)) {
        __atomic_store_n(&s->no_punch, true, __ATOMIC_RELAXED);
        e = EOPNOTSUPP;
    }
    return e;
}

static int do_discard(BlockFile *s, BlockReq *req)
{
    uint64_t length = block_node_length(&s->parent), bytes = req->bytes;
    int e;

    if (req->offset >= length) {
        return 0;
    }
    bytes = MIN(bytes, length - req->offset);
    if (s->is_device) {
        uint64_t range[2] = { req->offset, bytes };

        e = ioctl(s->fd, BLKDISCARD, range) < 0 ? errno : 0;
        return unsupported(e) ? 0 : e;
    }
    e = punch(s, req->offset, bytes);
    return e == EOPNOTSUPP ? 0 : e;
}

static int write_zeroes_slowly(BlockFile *s, uint64_t offset, uint64_t bytes)
{
    char *zeroes = g_malloc0(ZERO_BYTES);
    struct iovec iov = { .iov_base = zeroes };
    BlockReq req;
    int error = 0;

    while (bytes > 0 && !error) {
        size_t n = MIN(bytes, ZERO_BYTES);

        iov.iov_len = n;
        block_req_init(&req, BLOCK_OP_WRITE, offset, n, &iov, 1, 0, 0, NULL, NULL);
        error = do_transfer(s, &req);
        block_req_clear(&req);
        offset += n;
        bytes -= n;
    }
    g_free(zeroes);
    return error;
}

static int zero_fast(BlockFile *s, const BlockReq *req)
{
    uint64_t end = req->offset + req->bytes, length = block_node_length(&s->parent);
    int e = EOPNOTSUPP;

    if (s->is_device) {
        uint64_t range[2] = { req->offset, req->bytes };

        e = (end & 511) || (req->offset & 511)    ? EOPNOTSUPP
            : ioctl(s->fd, BLKZEROOUT, range) < 0 ? errno
                                                  : 0;
        return unsupported(e) ? EOPNOTSUPP : e;
    }
    if ((req->flags & BLOCK_MAY_UNMAP) && !(req->flags & BLOCK_NO_UNMAP)) {
        e = req->offset < length ? punch(s, req->offset, MIN(end, length) - req->offset) : 0;
        if (!e && end > length) {
            e = ftruncate(s->fd, (off_t)end) < 0 ? errno : 0;
        }
    }
    if (e == EOPNOTSUPP && !__atomic_load_n(&s->no_zero_range, __ATOMIC_RELAXED)) {
        e = do_fallocate(s, FALLOC_FL_ZERO_RANGE, req->offset, req->bytes);
        if (unsupported(e)) {
            __atomic_store_n(&s->no_zero_range, true, __ATOMIC_RELAXED);
            e = EOPNOTSUPP;
        }
    }
    return e;
}

static int do_zero(BlockFile *s, BlockReq *req)
{
    int e = zero_fast(s, req);

    if (e == EOPNOTSUPP) {
        e = req->flags & BLOCK_NO_FALLBACK ? ENOTSUP
                                           : write_zeroes_slowly(s, req->offset, req->bytes);
    }
    if (!e) {
        grow_to(&s->parent, req->offset + req->bytes);
        if ((req->flags & BLOCK_FUA) && !s->volatile_ok) {
            e = do_flush(s);
        }
    }
    return e;
}

static int do_status(BlockFile *s, BlockReq *req)
{
    BlockStatus *out = req->status;
    uint64_t length = block_node_length(&s->parent), end = req->offset + req->bytes;
    off_t data, hole;

    out->has_host_offset = true;
    out->host_offset = req->offset;
    out->bytes = req->bytes;
    if (req->offset >= length) {
        out->flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
        return 0;
    }
    end = MIN(end, length);
    out->bytes = end - req->offset;
    out->flags = BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED;
    if (s->is_device || __atomic_load_n(&s->no_seek_hole, __ATOMIC_RELAXED)) {
        return 0;
    }
    data = lseek(s->fd, (off_t)req->offset, SEEK_DATA);
    if (data < 0 && errno != ENXIO) {
        __atomic_store_n(&s->no_seek_hole, true, __ATOMIC_RELAXED);
        return 0;
    }
    if (data < 0 || (uint64_t)data > req->offset) {
        out->flags = BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED;
        out->bytes = (data < 0 ? end : MIN((uint64_t)data, end)) - req->offset;
        return 0;
    }
    hole = lseek(s->fd, (off_t)req->offset, SEEK_HOLE);
    if (hole > data) {
        out->bytes = MIN((uint64_t)hole, end) - req->offset;
    }
    return 0;
}

int block_file_sync(BlockNode *node, BlockReq *req)
{
    BlockFile *s = BLOCK_FILE(node);

    switch (req->op) {
    case BLOCK_OP_READ:
    case BLOCK_OP_WRITE:
        return do_transfer(s, req);
    case BLOCK_OP_FLUSH:
        return s->volatile_ok ? 0 : do_flush(s);
    case BLOCK_OP_DISCARD:
        return do_discard(s, req);
    case BLOCK_OP_ZERO:
        return do_zero(s, req);
    case BLOCK_OP_STATUS:
        return do_status(s, req);
    case BLOCK_OP_COUNT:
        break;
    }
    return ENOTSUP;
}

/* ---- asynchronously -------------------------------------------------------------------------- */

/* What a request needs beyond itself while it is here. */
typedef struct FileJob {
    BlockWork work;
    BlockFile *s;
    BlockReq *req;
    BlockRange range;
    BlockReqFn done; /* of the request, while ours is in its place */
    void *opaque;
    bool on_worker;
} FileJob;

static void job_run(BlockWork *work)
{
    FileJob *job = (FileJob *)work;
    BlockReq *req = job->req;

    block_req_complete(req, block_file_sync(&job->s->parent, req));
}

static void job_done(BlockReq *req)
{
    FileJob *job = req->opaque;

    if (req->op == BLOCK_OP_WRITE && !req->error) {
        grow_to(&job->s->parent, req->offset + req->bytes);
    }
    req->done = job->done;
    req->opaque = job->opaque;
    req->priv = NULL;
    if (job->range.end > job->range.start) {
        block_range_unlock(&job->s->ranges, &job->range);
    }
    g_free(job);
    req->done(req);
}

/*
 * A short write into the host's cache takes a few microseconds, less than the way to a thread and
 * back: it is made here. It may have to wait all the same (the host writes back what is dirty, the
 * file is on a network): one that did sends those that follow to threads, for so much longer that
 * waiting here is a small part of the time at worst. Whole pages only: nothing has to be read
 * first.
 */
static bool write_at_once(BlockFile *s, BlockReq *req)
{
    int64_t before, took;
    int error;

    if (s->direct || req->op != BLOCK_OP_WRITE || req->flags & BLOCK_FUA ||
        s->cache == BLOCK_CACHE_WRITETHROUGH || req->bytes > AT_ONCE_BYTES ||
        (req->offset | req->bytes) % PAGE || req->niov > BLOCK_INLINE_IOV ||
        s->aio == BLOCK_AIO_THREADS) {
        return false;
    }
    before = clock_now(clock_realtime());
    if (before < s->slow_until) {
        return false;
    }
    error = do_transfer(s, req);
    took = clock_now(clock_realtime()) - before;
    if (took > AT_ONCE_NS) {
        s->slow_until = before + took * AT_ONCE_SHARE;
    }
    block_req_complete(req, error);
    return true;
}

static void submit_to_kernel(BlockFile *s, BlockReq *req)
{
    if (s->use_aio && req->op != BLOCK_OP_FLUSH) {
        block_aio_submit(req, s->fd);
    } else {
        block_uring_submit(req, s->fd);
    }
}

static void job_start(void *opaque)
{
    FileJob *job = opaque;

    if (__atomic_load_n(&job->req->cancelled, __ATOMIC_RELAXED)) {
        block_req_complete(job->req, ECANCELED);
    } else if (job->on_worker) {
        job->req->priv = job;
        block_work_submit(&job->work);
    } else {
        submit_to_kernel(job->s, job->req);
    }
}

void block_file_submit(BlockNode *node, BlockReq *req)
{
    BlockFile *s = BLOCK_FILE(node);
    bool transfers = req->op == BLOCK_OP_READ || req->op == BLOCK_OP_WRITE;
    bool aligned = !transfers || is_aligned(s, req);
    bool writes = req->op == BLOCK_OP_WRITE || req->op == BLOCK_OP_ZERO ||
                  req->op == BLOCK_OP_DISCARD;
    /* The ring copies from the host's cache on the thread that submits: what is large would hold it
     * up, and several workers copy faster. */
    bool large = !s->direct && req->bytes >= LARGE_BYTES;
    bool in_kernel = transfers
                         ? aligned && !large && req->niov <= IOV_MAX && (s->use_aio || s->use_uring)
                         : req->op == BLOCK_OP_FLUSH && s->use_uring;
    FileJob *job;

    if (req->op == BLOCK_OP_FLUSH && s->volatile_ok) {
        block_req_complete(req, 0);
        return;
    }
    if (s->volatile_ok) {
        req->flags &= ~(unsigned)BLOCK_FUA;
    }
    if (write_at_once(s, req)) {
        return;
    }
    if (in_kernel && req->op != BLOCK_OP_WRITE) {
        submit_to_kernel(s, req);
        return;
    }
    job = g_new0(FileJob, 1);
    job->work.run = job_run;
    job->s = s;
    job->req = req;
    job->done = req->done;
    job->opaque = req->opaque;
    job->on_worker = !in_kernel;
    req->done = job_done;
    req->opaque = job;
    if (s->direct && writes && s->parent.align > 1) {
        uint64_t align = MAX(s->parent.align, s->mem_align);
        uint64_t start = req->offset & ~(align - 1);

        /* A write that rewrites its neighbours' bytes is alone in its blocks. */
        block_range_lock(&s->ranges, &job->range, start,
                         (req->offset + req->bytes + align - 1) & ~(align - 1), aligned, job_start,
                         job);
        return;
    }
    job_start(job);
}

void block_file_cancel(BlockNode *node, BlockReq *req)
{
    BlockFile *s = BLOCK_FILE(node);
    bool mine = req->done == job_done;
    FileJob *job = mine ? req->opaque : NULL;

    if (!req->priv) {
        return; /* it waits for its range and will look, or is finished */
    }
    if (mine && job->on_worker) {
        if (block_work_remove(&job->work)) {
            block_req_complete(req, ECANCELED);
        }
    } else if (s->use_uring && (!s->use_aio || req->op == BLOCK_OP_FLUSH)) {
        block_uring_cancel(req);
    }
}
