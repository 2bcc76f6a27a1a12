/*
 * The io_uring engine: one ring for the process, owned by the main loop. Whoever holds the engine
 * lock submits; completions come through an eventfd. No thread hop: the kernel finishes a request,
 * the main loop wakes and calls `done`.
 */
#include <errno.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/block/transfer.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define RING_ENTRIES 256

/* One request in the ring. */
struct BlockUringReq {
    BlockTransfer t;
    bool in_kernel;
    BlockUringReq *next; /* while it waits for room in the ring */
};

static struct {
    struct io_uring ring;
    unsigned refs;
    int event_fd;
    GSource *source;
    BlockUringReq *waiting, **waiting_last;
    unsigned in_kernel;
    unsigned prepared; /* entries that the kernel has not seen */
    unsigned plugged;
    bool reaping;
    Timer retry; /* the kernel was short of something */
} engine = { .event_fd = -1 };

static void prepare(BlockUringReq *u, struct io_uring_sqe *sqe)
{
    const BlockTransfer *t = &u->t;

    switch (t->req->op) {
    case BLOCK_OP_READ:
        io_uring_prep_readv(sqe, t->fd, t->iov + t->first, t->niov - t->first, t->offset);
        break;
    case BLOCK_OP_WRITE:
        io_uring_prep_writev(sqe, t->fd, t->iov + t->first, t->niov - t->first, t->offset);
        if (t->req->flags & BLOCK_FUA) {
            sqe->rw_flags = RWF_DSYNC;
        }
        break;
    default:
        io_uring_prep_fsync(sqe, t->fd, IORING_FSYNC_DATASYNC);
        break;
    }
    io_uring_sqe_set_data(sqe, u);
    u->in_kernel = true;
    engine.in_kernel++;
    engine.prepared++;
}

static void tell_kernel(void)
{
    while (engine.prepared > 0) {
        int n = io_uring_submit(&engine.ring);

        if (n > 0) {
            engine.prepared -= MIN((unsigned)n, engine.prepared);
        } else if (n != -EINTR) {
            /* EAGAIN, EBUSY: the kernel is short of memory or its queue is full. What is prepared
             * stays in the ring, and goes with the next completion, request or tick. */
            timer_arm(&engine.retry, clock_now(clock_realtime()) + NS_PER_MS);
            break;
        }
    }
}

static void fill_ring(void)
{
    while (engine.waiting) {
        BlockUringReq *u = engine.waiting;
        struct io_uring_sqe *sqe = io_uring_get_sqe(&engine.ring);

        if (!sqe) {
            tell_kernel();
            sqe = io_uring_get_sqe(&engine.ring);
        }
        if (!sqe) {
            return;
        }
        engine.waiting = u->next;
        if (!engine.waiting) {
            engine.waiting_last = &engine.waiting;
        }
        prepare(u, sqe);
    }
}

static void enqueue(BlockUringReq *u)
{
    u->next = NULL;
    *engine.waiting_last = u;
    engine.waiting_last = &u->next;
}

static void reap(void);

/* What the kernel can answer at once (data in its cache) is answered when it has been told. */
static void kick(void)
{
    if (engine.plugged == 0 && !engine.reaping) {
        fill_ring();
        tell_kernel();
        reap();
    }
}

static void finish(BlockUringReq *u, int error)
{
    BlockReq *req = u->t.req;

    req->priv = NULL;
    block_transfer_clear(&u->t);
    g_free(u);
    block_req_complete(req, error);
}

static void completed(BlockUringReq *u, int res)
{
    int error;

    u->in_kernel = false;
    engine.in_kernel--;
    if (block_transfer_result(&u->t, res, &error)) {
        finish(u, error);
    } else {
        enqueue(u);
    }
}

static void reap(void)
{
    struct io_uring_cqe *cqe;

    engine.reaping = true;
    while (io_uring_peek_cqe(&engine.ring, &cqe) == 0) {
        BlockUringReq *u = io_uring_cqe_get_data(cqe);
        int res = cqe->res;

        io_uring_cqe_seen(&engine.ring, cqe);
        if (u) {
            completed(u, res);
        }
    }
    engine.reaping = false;
}

static void retry_fired(void *opaque)
{
    kick();
}

static gboolean on_event(int fd, GIOCondition cond, void *opaque)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
    block_tell_begin();
    reap();
    kick();
    block_tell_end();
    return G_SOURCE_CONTINUE;
}

bool block_uring_ref(GError **error)
{
    int r;

    if (engine.refs > 0) {
        engine.refs++;
        return true;
    }
    r = io_uring_queue_init(RING_ENTRIES, &engine.ring, IORING_SETUP_CLAMP);
    if (r < 0) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "aio=io_uring: the kernel refuses it: %s",
                         g_strerror(-r));
    }
    engine.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = engine.event_fd < 0 ? -errno : io_uring_register_eventfd(&engine.ring, engine.event_fd);
    if (r < 0) {
        if (engine.event_fd >= 0) {
            close(engine.event_fd);
        }
        io_uring_queue_exit(&engine.ring);
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "aio=io_uring: no eventfd for it: %s",
                         g_strerror(-r));
    }
    engine.source = main_loop_add_fd(engine.event_fd, G_IO_IN, on_event, NULL);
    /* It never runs the loop itself; and GLib takes the descriptor of a source that may not recurse
     * out of its poll and puts it back, each with a wake-up of its own. */
    g_source_set_can_recurse(engine.source, TRUE);
    timer_setup(&engine.retry, clock_realtime(), retry_fired, NULL);
    engine.waiting = NULL;
    engine.waiting_last = &engine.waiting;
    engine.refs = 1;
    return true;
}

void block_uring_unref(void)
{
    if (--engine.refs > 0) {
        return;
    }
    timer_disarm(&engine.retry);
    g_source_destroy(engine.source);
    g_source_unref(engine.source);
    io_uring_queue_exit(&engine.ring);
    close(engine.event_fd);
    engine.event_fd = -1;
}

void block_uring_submit(BlockReq *req, int fd)
{
    BlockUringReq *u = g_new(BlockUringReq, 1);

    block_transfer_init(&u->t, req, fd);
    u->in_kernel = false;
    req->priv = u;
    enqueue(u);
    kick();
}

void block_uring_cancel(BlockReq *req)
{
    BlockUringReq *u = req->priv;

    if (!u) {
        return;
    }
    if (u->in_kernel) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&engine.ring);

        if (sqe) { /* the answer to the cancellation itself carries no request */
            io_uring_prep_cancel(sqe, u, 0);
            io_uring_sqe_set_data(sqe, NULL);
            engine.prepared++;
            kick();
        }
        return;
    }
    for (BlockUringReq **at = &engine.waiting; *at; at = &(*at)->next) {
        if (*at == u) {
            *at = u->next;
            if (!*at) {
                engine.waiting_last = at;
            }
            finish(u, ECANCELED);
            return;
        }
    }
}

void block_plug(void)
{
    engine.plugged++;
}

void block_unplug(void)
{
    if (--engine.plugged == 0) {
        if (engine.refs > 0) {
            kick();
        }
        block_aio_unplugged();
    }
}

bool block_plugged(void)
{
    return engine.plugged > 0;
}
