/*
 * Measuring speed: requests to a backend as a device makes them, on the main loop, so many at a
 * time.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/job_priv.h"
#include "engine/core/error.h"

typedef struct BenchJob BenchJob;
typedef struct Slot {
    BenchJob *bench;
    char *buf;
    BlockOp op;
} Slot;

struct BenchJob {
    BlockJob job;
    BlockBenchSpec spec;
    BlockBackend *be; /* one reference */
    uint64_t started, since_flush, flushed;
    uint64_t offset;
    unsigned in_flight;
    bool flushing, ended;
    Slot *slots, flush;
    unsigned *idle, n_idle; /* a stack of slots */
    char *memory;
};

static void pump(BenchJob *b);

static void request_done(void *opaque, int error)
{
    Slot *slot = opaque;
    BenchJob *b = slot->bench;

    b->in_flight--;
    if (slot->op == BLOCK_OP_FLUSH) {
        b->flushing = false;
    } else {
        b->idle[b->n_idle++] = (unsigned)(slot - b->slots);
        block_job_add_done(&b->job, 1);
    }
    if (error && error != ECANCELED) {
        GError *e = NULL;

        errno = error;
        error_set_errno(&e, "'%s': %s", block_label(b->be), block_op_name(slot->op));
        block_job_fail(&b->job, e);
    }
    pump(b);
}

static void start_one(BenchJob *b)
{
    Slot *slot = &b->slots[b->idle[--b->n_idle]];
    uint64_t length = block_length(b->be);

    b->offset %= length;
    if (b->offset > length - b->spec.bytes) {
        b->offset = 0;
    }
    slot->op = b->spec.op;
    b->in_flight++;
    b->started++;
    if (b->spec.op == BLOCK_OP_WRITE) {
        b->since_flush++;
        block_write(b->be, b->offset, slot->buf, b->spec.bytes, 0, request_done, slot);
    } else {
        block_read(b->be, b->offset, slot->buf, b->spec.bytes, request_done, slot);
    }
    b->offset += b->spec.step;
}

/* A flush is due: false when it has to wait for what is in flight. */
static bool start_flush(BenchJob *b)
{
    if (b->flushing || (b->spec.drain && b->in_flight > 0)) {
        return false;
    }
    b->since_flush = 0;
    b->flushing = true;
    b->in_flight++;
    block_flush(b->be, request_done, &b->flush);
    return true;
}

static void pump(BenchJob *b)
{
    bool stop = block_job_stopped(&b->job);

    block_plug();
    while (!stop && b->n_idle > 0 && b->started < b->spec.count) {
        if (b->spec.flush_interval > 0 && b->since_flush >= b->spec.flush_interval &&
            !start_flush(b)) {
            break;
        }
        if (b->flushing && b->spec.drain) {
            break;
        }
        start_one(b);
    }
    block_unplug();
    if (b->in_flight == 0 && !b->ended && (stop || b->started >= b->spec.count)) {
        b->ended = true;
        block_job_finish_soon(&b->job);
    }
}

static void bench_free(BlockJob *job)
{
    BenchJob *b = (BenchJob *)job;

    object_unref(b->be);
    free(b->memory);
    g_free(b->slots);
    g_free(b->idle);
}

static const BlockJobOps bench_ops = { .free = bench_free };

BlockJob *block_bench_start(BlockBackend *be, const BlockBenchSpec *spec, BlockJobFn done,
                            void *opaque, GError **error)
{
    uint64_t room, each = (spec->bytes + JOB_ALIGN - 1) & ~(uint64_t)(JOB_ALIGN - 1);
    BenchJob *b;

    if (spec->bytes == 0 || spec->bytes > BLOCK_MAX_REQUEST || spec->bytes > block_length(be) ||
        spec->depth == 0 || __builtin_mul_overflow(each, spec->depth, &room) ||
        room > BLOCK_MAX_REQUEST * 4) {
        error_set(error, ENGINE_ERROR_INVALID,
                  "'%s': requests of that size and number do not fit the image or the memory",
                  block_label(be));
        return NULL;
    }
    b = g_new0(BenchJob, 1);
    block_job_init(&b->job, &bench_ops, done, opaque);
    b->spec = *spec;
    b->spec.step = spec->step ? spec->step : spec->bytes;
    b->be = (BlockBackend *)object_ref(be);
    b->offset = spec->offset;
    b->slots = g_new0(Slot, spec->depth);
    b->idle = g_new0(unsigned, spec->depth);
    b->flush = (Slot){ .bench = b, .op = BLOCK_OP_FLUSH };
    b->job.total = spec->count;
    b->memory = block_job_buffer(room);
    if (!b->memory) {
        error_set(error, ENGINE_ERROR_LIMIT, "no memory for the requests");
        block_job_free(&b->job);
        return NULL;
    }
    memset(b->memory, spec->pattern, room);
    for (unsigned i = 0; i < spec->depth; i++) {
        b->slots[i].bench = b;
        b->slots[i].buf = b->memory + i * each;
        b->idle[b->n_idle++] = i;
    }
    pump(b);
    return &b->job;
}
