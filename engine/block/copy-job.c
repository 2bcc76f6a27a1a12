/*
 * Copying images: what the sources show, piece by piece, on several workers.
 *
 * The pieces are handed out in order of their offsets, under the job's mutex; there also the
 * sources are asked what is data and what is known to be zero, so that a hole of any size costs one
 * question. With in_order each piece has a turn to write; reading and compressing go on in
 * parallel.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/file_priv.h"
#include "engine/block/job_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define PIECE_BYTES (1 * MiB)
#define MAX_SPARSE  (1 * MiB)
#define MAX_CLUSTER (2 * MiB)

typedef enum { KIND_DATA, KIND_ZERO, KIND_NOTHING } PieceKind;

typedef struct Piece {
    PieceKind kind;
    BlockNode *source;
    uint64_t from, at, bytes; /* in the source; in the target */
    uint64_t turn;
    bool has_host; /* the source's file has these bytes at `host` */
    uint64_t host;
} Piece;

typedef struct CopyJob {
    BlockJob job;
    BlockCopySpec spec;
    GPtrArray *sources; /* those of spec.sources */
    uint64_t piece, grain;
    /* Under the mutex: what is handed out next. */
    unsigned source;
    uint64_t source_start, position; /* in the target */
    uint64_t known_end;              /* up to here `known` tells what there is */
    Piece known;
    uint64_t next_turn, turn;
    uint64_t salvaged; /* atomic */
    bool no_offload;   /* atomic: the kernel does not want to */
    /* With a reference: from here on the target has nothing below, so zeroing what it does not hold
     * would change nothing, and the reference would show through later. */
    uint64_t zeroes_below;
} CopyJob;

/* What a worker works with. */
typedef struct Room {
    char *data, *other, *packed;
    size_t packed_room;
    size_t *packed_len; /* of each cluster; 0: not smaller */
} Room;

/* ---- handing out pieces ---------------------------------------------------------------------- */

static uint64_t source_length(const CopyJob *c, unsigned i)
{
    uint64_t length = block_node_length(c->sources->pdata[i]);

    /* Images of tools are whole sectors; one alone is taken as it is. */
    return c->sources->len > 1 ? (length + BLOCK_SECTOR_SIZE - 1) & ~UINT64_C(511) : length;
}

static PieceKind kind_of(const CopyJob *c, const BlockStatus *st)
{
    if (c->spec.reference) {
        return (st->flags & BLOCK_STATUS_ALLOCATED) ? KIND_NOTHING : KIND_DATA;
    }
    if (st->depth > c->spec.max_depth ||
        (c->spec.max_depth == 0 && !(st->flags & BLOCK_STATUS_ALLOCATED))) {
        return KIND_NOTHING;
    }
    return st->flags & BLOCK_STATUS_ZERO ? KIND_ZERO : KIND_DATA;
}

/* Asks the source what is at the position. Whole clusters: one that is data somewhere is data. */
static int look(CopyJob *c)
{
    BlockNode *source = c->sources->pdata[c->source];
    uint64_t from = c->position - c->source_start, real = block_node_length(source);
    uint64_t end = c->source_start + source_length(c, c->source), cluster = c->spec.cluster;
    BlockStatus st = { .bytes = end - c->position, .flags = BLOCK_STATUS_ZERO };
    int e = from < real ? block_job_status(source, from, real - from, &st) : 0;

    c->known.kind = kind_of(c, &st);
    c->known.source = source;
    c->known.has_host = st.has_host_offset && st.depth == 0;
    c->known.host = st.host_offset;
    c->known.from = from;
    c->known_end = c->position + st.bytes;
    if (e || cluster <= 1 || c->known_end >= end) {
        return e;
    }
    if (c->known.kind == KIND_DATA) {
        c->known_end = MIN(end, (c->known_end + cluster - 1) & ~(cluster - 1));
        c->known.has_host = false;
    } else if ((c->known_end & ~(cluster - 1)) > c->position) {
        c->known_end &= ~(cluster - 1);
    } else {
        c->known.kind = KIND_DATA;
        c->known.has_host = false;
        c->known_end = MIN(end, (c->position + cluster) & ~(cluster - 1));
    }
    return 0;
}

static bool costs_nothing(const CopyJob *c, PieceKind kind)
{
    return kind == KIND_NOTHING ||
           (kind == KIND_ZERO && c->spec.target_is_zero && c->spec.sparse > 0);
}

/* The next piece that has to be copied. False: none is left, or the job ends. */
static bool next_piece(CopyJob *c, Piece *p)
{
    BlockJob *job = &c->job;
    int e = 0;

    while (!block_job_stopped(job) && c->position < job->total) {
        if (c->position >= c->source_start + source_length(c, c->source)) {
            c->source_start += source_length(c, c->source);
            c->source++;
            continue;
        }
        if (c->position >= c->known_end && (e = look(c)) != 0) {
            break;
        }
        *p = c->known;
        p->at = c->position;
        p->from = c->position - c->source_start;
        p->host += p->from - c->known.from;
        p->bytes = c->known_end - c->position;
        if (!costs_nothing(c, p->kind)) {
            /* Pieces begin at multiples of their size. */
            p->bytes = MIN(p->bytes, c->piece - (c->position & (c->piece - 1)));
            c->position += p->bytes;
            p->turn = c->next_turn++;
            return true;
        }
        c->position += p->bytes;
        block_job_add_done(job, p->bytes);
    }
    if (e) {
        pthread_mutex_unlock(&job->mutex);
        block_job_fail_at(job, c->sources->pdata[c->source], "asking what is allocated",
                          c->position - c->source_start, e);
        pthread_mutex_lock(&job->mutex);
    }
    return false;
}

/* ---- turns ----------------------------------------------------------------------------------- */

static bool wait_turn(CopyJob *c, const Piece *p)
{
    bool ok = true;

    if (c->spec.in_order) {
        pthread_mutex_lock(&c->job.mutex);
        while (c->turn != p->turn && !block_job_stopped(&c->job)) {
            pthread_cond_wait(&c->job.cond, &c->job.mutex);
        }
        ok = !block_job_stopped(&c->job);
        pthread_mutex_unlock(&c->job.mutex);
    }
    return ok;
}

static void end_turn(CopyJob *c)
{
    if (c->spec.in_order) {
        pthread_mutex_lock(&c->job.mutex);
        c->turn++;
        pthread_cond_broadcast(&c->job.cond);
        pthread_mutex_unlock(&c->job.mutex);
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* In halves, down to sectors; what cannot be read is zero. */
static void read_what_is_left(CopyJob *c, BlockNode *source, uint64_t from, char *buf, size_t bytes)
{
    size_t half = (bytes / 2 + BLOCK_SECTOR_SIZE - 1) & ~(size_t)(BLOCK_SECTOR_SIZE - 1);

    if (bytes == 0 || block_job_stopped(&c->job) ||
        block_node_pread(source, from, buf, bytes) == 0) {
        return;
    }
    if (bytes <= BLOCK_SECTOR_SIZE) {
        memset(buf, 0, bytes);
        __atomic_add_fetch(&c->salvaged, bytes, __ATOMIC_RELAXED);
        return;
    }
    read_what_is_left(c, source, from, buf, half);
    read_what_is_left(c, source, from + half, buf + half, bytes - half);
}

static bool read_piece(CopyJob *c, const Piece *p, char *buf)
{
    uint64_t length = block_node_length(p->source);
    size_t n = MIN(p->bytes, length - MIN(length, p->from));
    int e = 0;

    if (p->kind == KIND_ZERO) {
        memset(buf, 0, p->bytes);
        return true;
    }
    memset(buf + n, 0, p->bytes - n);
    if (n > 0) {
        e = block_node_pread(p->source, p->from, buf, n);
    }
    if (e && c->spec.salvage) {
        read_what_is_left(c, p->source, p->from, buf, n);
        e = 0;
    }
    if (e) {
        block_job_fail_at(&c->job, p->source, "reading", p->from, e);
    }
    return e == 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool write_zeroes(CopyJob *c, uint64_t at, uint64_t bytes)
{
    int e = c->spec.target_is_zero
                ? 0
                : block_node_sync_op(c->spec.target, BLOCK_OP_ZERO, at, bytes, BLOCK_MAY_UNMAP);

    if (e) {
        block_job_fail_at(&c->job, c->spec.target, "writing zeroes", at, e);
    }
    return e == 0;
}

static bool write_data(CopyJob *c, uint64_t at, const char *buf, size_t bytes)
{
    int e = block_node_pwrite(c->spec.target, at, buf, bytes, 0);

    if (e) {
        block_job_fail_at(&c->job, c->spec.target, "writing", at, e);
    }
    return e == 0;
}

/* What a grain of the piece needs: 0 nothing, 1 zeroes, 2 data. */
static int grain_needs(const CopyJob *c, const char *buf, const char *other, size_t n)
{
    if (other && memcmp(buf, other, n) == 0) {
        return 0;
    }
    return c->spec.sparse > 0 && block_buf_is_zero(buf, n) ? 1 : 2;
}

/* Runs of grains of one kind, each in one request. */
static bool write_runs(CopyJob *c, const Piece *p, const char *buf, const char *other)
{
    uint64_t done = 0;

    while (done < p->bytes) {
        uint64_t run = 0, n;
        int needs = -1;

        while (done + run < p->bytes) {
            uint64_t at = p->at + done + run;
            int this;

            n = MIN(p->bytes - done - run, c->grain - (at & (c->grain - 1)));
            this = grain_needs(c, buf + done + run, other ? other + done + run : NULL, n);
            if (needs >= 0 && this != needs) {
                break;
            }
            needs = this;
            run += n;
        }
        if (needs == 1 && c->spec.reference && p->at + done + run > c->zeroes_below) {
            needs = 2;
        }
        if ((needs == 1 && !write_zeroes(c, p->at + done, run)) ||
            (needs == 2 && !write_data(c, p->at + done, buf + done, run))) {
            return false;
        }
        done += run;
    }
    return true;
}

static void pack_clusters(CopyJob *c, const Piece *p, Room *room)
{
    BlockNode *target = c->spec.target;
    size_t cluster = c->spec.cluster, at = 0;

    for (uint64_t done = 0, i = 0; done < p->bytes; done += cluster, i++) {
        size_t n = MIN(cluster, p->bytes - done);

        room->packed_len[i] = 0;
        if (n < cluster) {
            memset(room->data + done + n, 0, cluster - n); /* the end of the image */
        }
        if (!block_buf_is_zero(room->data + done, n)) {
            room->packed_len[i] = BLOCK_NODE_GET_CLASS(target)->compress(
                target, room->data + done, cluster, room->packed + at, cluster);
            at += room->packed_len[i];
        }
    }
}

static bool write_cluster_slowly(CopyJob *c, uint64_t at, const char *buf, size_t n)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(c->spec.target);
    GError *error = NULL;

    if (!klass->write_compressed) {
        return write_data(c, at, buf, n);
    }
    if (!klass->write_compressed(c->spec.target, at, buf, n, &error)) {
        block_job_fail(&c->job, error);
        return false;
    }
    return true;
}

static bool write_packed(CopyJob *c, const Piece *p, Room *room, bool in_halves)
{
    BlockNode *target = c->spec.target;
    size_t cluster = c->spec.cluster, at = 0;

    for (uint64_t done = 0, i = 0; done < p->bytes; done += cluster, i++) {
        size_t n = MIN(cluster, p->bytes - done);
        int e = 0;

        if (in_halves && room->packed_len[i] > 0) {
            e = BLOCK_NODE_GET_CLASS(target)->write_packed(target, p->at + done, room->packed + at,
                                                           room->packed_len[i]);
            at += room->packed_len[i];
        } else if (block_buf_is_zero(room->data + done, n) && c->spec.sparse > 0) {
            if (!write_zeroes(c, p->at + done, n)) {
                return false;
            }
        } else if (in_halves) {
            if (!write_data(c, p->at + done, room->data + done, n)) {
                return false;
            }
        } else if (!write_cluster_slowly(c, p->at + done, room->data + done, n)) {
            return false;
        }
        if (e) {
            block_job_fail_at(&c->job, target, "writing", p->at + done, e);
            return false;
        }
    }
    return true;
}

/* ---- a piece --------------------------------------------------------------------------------- */

/* True: the kernel has copied it. */
static bool offloaded(CopyJob *c, const Piece *p)
{
    BlockNode *target = c->spec.target;
    BlockStatus st;
    int e;

    if (!c->spec.offload || p->kind != KIND_DATA || !p->has_host ||
        __atomic_load_n(&c->no_offload, __ATOMIC_RELAXED) ||
        block_job_status(target, p->at, p->bytes, &st) != 0 || !st.has_host_offset ||
        st.bytes < p->bytes || st.depth != 0) {
        return false;
    }
    e = block_file_copy_range(p->source, p->host, target, st.host_offset, p->bytes);
    if (e) {
        __atomic_store_n(&c->no_offload, true, __ATOMIC_RELAXED);
    }
    return e == 0;
}

static bool copy_piece(CopyJob *c, const Piece *p, Room *room)
{
    BlockNodeClass *target = BLOCK_NODE_GET_CLASS(c->spec.target);
    bool in_halves = target->compress && target->write_packed, ok;

    if (p->kind == KIND_ZERO && c->spec.sparse > 0) {
        return wait_turn(c, p) && write_zeroes(c, p->at, p->bytes);
    }
    if (offloaded(c, p)) {
        return true;
    }
    if (!read_piece(c, p, room->data)) {
        return false;
    }
    if (c->spec.reference) {
        uint64_t length = block_node_length(c->spec.reference);
        size_t n = MIN(p->bytes, length - MIN(length, p->at));
        int e = n > 0 ? block_node_pread(c->spec.reference, p->at, room->other, n) : 0;

        memset(room->other + n, 0, p->bytes - n);
        if (e) {
            block_job_fail_at(&c->job, c->spec.reference, "reading", p->at, e);
            return false;
        }
    }
    if (c->spec.compress && in_halves) {
        pack_clusters(c, p, room);
    }
    if (!wait_turn(c, p)) {
        return false;
    }
    ok = c->spec.compress ? write_packed(c, p, room, in_halves)
                          : write_runs(c, p, room->data, c->spec.reference ? room->other : NULL);
    return ok;
}

static bool room_init(const CopyJob *c, Room *room)
{
    bool ok;

    room->data = block_job_buffer(c->piece);
    room->other = c->spec.reference ? block_job_buffer(c->piece) : NULL;
    ok = room->data && (room->other || !c->spec.reference);
    if (c->spec.compress) {
        room->packed = block_job_buffer(c->piece);
        room->packed_len = g_new0(size_t, c->piece / c->spec.cluster);
        ok = ok && room->packed;
    }
    return ok;
}

static void copy_work(BlockJob *job)
{
    CopyJob *c = (CopyJob *)job;
    Room room = { 0 };
    Piece p;
    bool more;

    if (!room_init(c, &room)) {
        block_job_fail(job,
                       g_error_new(ENGINE_ERROR, ENGINE_ERROR_LIMIT, "no memory to copy with"));
    }
    while (!block_job_stopped(job)) {
        pthread_mutex_lock(&job->mutex);
        more = next_piece(c, &p);
        pthread_mutex_unlock(&job->mutex);
        if (!more || !copy_piece(c, &p, &room)) {
            break;
        }
        end_turn(c);
        block_job_add_done(job, p.bytes);
        block_job_pace(job, c->spec.rate, __atomic_load_n(&job->done, __ATOMIC_RELAXED));
    }
    free(room.data);
    free(room.other);
    free(room.packed);
    g_free(room.packed_len);
}

static void copy_free(BlockJob *job)
{
    CopyJob *c = (CopyJob *)job;

    g_ptr_array_free(c->sources, TRUE);
}

static const BlockJobOps copy_ops = { .work = copy_work, .free = copy_free };

static bool spec_is_sound(const BlockCopySpec *spec, uint64_t total, GError **error)
{
    uint64_t cluster = spec->cluster;

    if (spec->n_sources == 0 || (cluster & (cluster - 1)) || cluster > MAX_CLUSTER ||
        spec->sparse > MAX_SPARSE || (spec->compress && cluster < BLOCK_SECTOR_SIZE)) {
        return error_set(error, ENGINE_ERROR_INVALID, "copy: sources, cluster or sparse size");
    }
    if (spec->compress && !block_image_can_compress(spec->target)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "'%s': %s cannot be compressed",
                         block_node_name(spec->target), block_node_driver(spec->target));
    }
    if (total > block_node_length(spec->target)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "'%s' has %" G_GUINT64_FORMAT " bytes, less than the %" G_GUINT64_FORMAT
                         " to be copied",
                         block_node_name(spec->target), block_node_length(spec->target), total);
    }
    if (block_node_read_only(spec->target)) {
        return error_set(error, ENGINE_ERROR_INVALID, "'%s' is read-only",
                         block_node_name(spec->target));
    }
    return true;
}

BlockJob *block_copy_start(const BlockCopySpec *spec, BlockJobFn done, void *opaque, GError **error)
{
    CopyJob *c = g_new0(CopyJob, 1);
    uint64_t total = 0, sparse = 512;

    c->spec = *spec;
    c->spec.sources = NULL;
    c->spec.in_order = spec->in_order && !spec->offload;
    c->sources = g_ptr_array_new();
    for (unsigned i = 0; i < spec->n_sources; i++) {
        g_ptr_array_add(c->sources, spec->sources[i]);
    }
    for (unsigned i = 0; i < spec->n_sources; i++) {
        total += source_length(c, i);
    }
    if (!spec_is_sound(spec, total, error)) {
        g_ptr_array_free(c->sources, TRUE);
        g_free(c);
        return NULL;
    }
    block_job_init(&c->job, &copy_ops, done, opaque);
    for (unsigned i = 0; i < spec->n_sources; i++) {
        block_job_hold(&c->job, spec->sources[i]);
    }
    block_job_hold(&c->job, spec->target);
    if (spec->reference) {
        BlockNode *below = block_node_backing(spec->target);

        block_job_hold(&c->job, spec->reference);
        c->zeroes_below = below ? block_node_length(below) : 0;
    }
    while (sparse * 2 <= spec->sparse) {
        sparse *= 2;
    }
    c->job.total = total;
    c->grain = MAX(MAX(sparse, spec->cluster), spec->target->align);
    /* Smaller pieces where each takes long: nobody waits long for his turn. */
    c->piece = MAX(c->spec.compress ? PIECE_BYTES / 4 : PIECE_BYTES, c->grain);
    block_job_start(&c->job, spec->workers ? spec->workers : 8);
    return &c->job;
}

uint64_t block_copy_salvaged(const BlockJob *job)
{
    return __atomic_load_n(&((const CopyJob *)job)->salvaged, __ATOMIC_RELAXED);
}
