/*
 * The Linux AIO engine, for direct I/O: one context for the process, owned by the main loop.
 * Whoever holds the engine lock submits; completions come through an eventfd.
 *
 * Beside io_uring, which tries each request without waiting first and gives those that would have
 * to wait to a thread of the kernel: here the submitter does what has to be done, which for most is
 * less than the way to that thread and back.
 */
#include <errno.h>
#include <linux/aio_abi.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/block/transfer.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define MAX_EVENTS 256 /* in the kernel at a time; more wait here */
#define BATCH      32

typedef struct AioReq AioReq;
struct AioReq {
    struct iocb iocb;
    BlockTransfer t;
    AioReq *next; /* while it waits */
};

static struct {
    aio_context_t context;
    unsigned refs;
    int event_fd;
    GSource *source;
    AioReq *waiting, **waiting_last;
    unsigned in_kernel;
    Timer retry; /* the kernel was short of something */
} engine = { .event_fd = -1 };

static void prepare(AioReq *a)
{
    const BlockTransfer *t = &a->t;
    bool writes = t->req->op == BLOCK_OP_WRITE;

    memset(&a->iocb, 0, sizeof(a->iocb));
    a->iocb.aio_data = (uint64_t)(uintptr_t)a;
    a->iocb.aio_lio_opcode = writes ? IOCB_CMD_PWRITEV : IOCB_CMD_PREADV;
    a->iocb.aio_fildes = (uint32_t)t->fd;
    a->iocb.aio_buf = (uint64_t)(uintptr_t)(t->iov + t->first);
    a->iocb.aio_nbytes = t->niov - t->first;
    a->iocb.aio_offset = (int64_t)t->offset;
    a->iocb.aio_flags = IOCB_FLAG_RESFD;
    a->iocb.aio_resfd = (uint32_t)engine.event_fd;
    a->iocb.aio_rw_flags = writes && t->req->flags & BLOCK_FUA ? RWF_DSYNC : 0;
}

static void enqueue(AioReq *a)
{
    a->next = NULL;
    *engine.waiting_last = a;
    engine.waiting_last = &a->next;
}

static void drop_first(void)
{
    engine.waiting = engine.waiting->next;
    if (!engine.waiting) {
        engine.waiting_last = &engine.waiting;
    }
}

static void finish(AioReq *a, int error)
{
    BlockReq *req = a->t.req;

    req->priv = NULL;
    block_transfer_clear(&a->t);
    g_free(a);
    block_req_complete(req, error);
}

static void submit_waiting(void)
{
    while (engine.waiting && engine.in_kernel < MAX_EVENTS) {
        struct iocb *list[BATCH];
        long n = 0, done;

        for (AioReq *a = engine.waiting;
             a && n < BATCH && engine.in_kernel + (unsigned)n < MAX_EVENTS; a = a->next) {
            prepare(a);
            list[n++] = &a->iocb;
        }
        done = syscall(SYS_io_submit, engine.context, n, list);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0 && errno == EAGAIN) {
            timer_arm(&engine.retry, clock_now(clock_realtime()) + NS_PER_MS);
            return;
        }
        if (done <= 0) { /* the first of them cannot be; the next attempt is without it */
            AioReq *a = engine.waiting;
            int error = done < 0 ? errno : EIO;

            drop_first();
            finish(a, error);
            continue;
        }
        for (long i = 0; i < done; i++) {
            drop_first();
        }
        engine.in_kernel += (unsigned)done;
    }
}

static void kick(void)
{
    if (engine.refs > 0 && !block_plugged()) {
        submit_waiting();
    }
}

static void reap(void)
{
    struct io_event events[BATCH];
    struct timespec none = { 0 };
    long n;

    do {
        n = syscall(SYS_io_getevents, engine.context, 0, BATCH, events, &none);
        for (long i = 0; i < n; i++) {
            AioReq *a = (AioReq *)(uintptr_t)events[i].data;
            int error;

            engine.in_kernel--;
            if (block_transfer_result(&a->t, (int64_t)events[i].res, &error)) {
                finish(a, error);
            } else {
                enqueue(a);
            }
        }
    } while (n == BATCH || (n < 0 && errno == EINTR));
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

bool block_aio_ref(GError **error)
{
    if (engine.refs > 0) {
        engine.refs++;
        return true;
    }
    engine.context = 0;
    if (syscall(SYS_io_setup, MAX_EVENTS, &engine.context) < 0) {
        return error_set_errno(error, "aio=native: the kernel refuses it");
    }
    engine.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine.event_fd < 0) {
        error_set_errno(error, "aio=native: no eventfd for it");
        syscall(SYS_io_destroy, engine.context);
        return false;
    }
    engine.source = main_loop_add_fd(engine.event_fd, G_IO_IN, on_event, NULL);
    g_source_set_can_recurse(engine.source, TRUE); /* see uring.c */
    timer_setup(&engine.retry, clock_realtime(), retry_fired, NULL);
    engine.waiting = NULL;
    engine.waiting_last = &engine.waiting;
    engine.in_kernel = 0;
    engine.refs = 1;
    return true;
}

void block_aio_unref(void)
{
    if (--engine.refs > 0) {
        return;
    }
    timer_disarm(&engine.retry);
    g_source_destroy(engine.source);
    g_source_unref(engine.source);
    syscall(SYS_io_destroy, engine.context);
    close(engine.event_fd);
    engine.event_fd = -1;
}

void block_aio_submit(BlockReq *req, int fd)
{
    AioReq *a = g_new(AioReq, 1);

    block_transfer_init(&a->t, req, fd);
    req->priv = a;
    enqueue(a);
    kick();
}

void block_aio_unplugged(void)
{
    kick();
}
