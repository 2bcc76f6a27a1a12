/*
 * Copying images: what the sources show, piece by piece, on several workers.
 *
 * The pieces are handed out in order of their offsets, under the job's mutex; there also the
 * sources are asked what is data and what is known to be zero, so that a hole of any size costs one
 * question. With in_order one worker writes what is ready, piece after piece, while the others read
 * and compress ahead: nobody waits to be woken when his turn has come.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/block/copy_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define PIECE_BYTES (1024 * KiB)
#define MAX_SPARSE  (1 * MiB)
#define MAX_CLUSTER (2 * MiB)
#define WAKE_AT     2 /* free rooms: not for each single one */

/* ---- handing out pieces ---------------------------------------------------------------------- */

static uint64_t source_length(const CopyJob *c, unsigned i)
{
    uint64_t length = block_node_length(c->sources->pdata[i]);

    /* Images of tools are whole sectors; one alone is taken as it is. */
    return c->sources->len > 1 ? (length + BLOCK_SECTOR_SIZE - 1) & ~UINT64_C(511) : length;
}

static CopyKind kind_of(const CopyJob *c, const BlockStatus *st)
{
    if (c->spec.reference) {
        return (st->flags & BLOCK_STATUS_ALLOCATED) ? COPY_NOTHING : COPY_DATA;
    }
    if (st->depth > c->spec.max_depth ||
        (c->spec.max_depth == 0 && !(st->flags & BLOCK_STATUS_ALLOCATED))) {
        return COPY_NOTHING;
    }
    return st->flags & BLOCK_STATUS_ZERO ? COPY_ZERO : COPY_DATA;
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
    if (c->known.kind == COPY_DATA) {
        c->known_end = MIN(end, (c->known_end + cluster - 1) & ~(cluster - 1));
        c->known.has_host = false;
    } else if ((c->known_end & ~(cluster - 1)) > c->position) {
        c->known_end &= ~(cluster - 1);
    } else {
        c->known.kind = COPY_DATA;
        c->known.has_host = false;
        c->known_end = MIN(end, (c->position + cluster) & ~(cluster - 1));
    }
    return 0;
}

static bool costs_nothing(const CopyJob *c, CopyKind kind)
{
    return kind == COPY_NOTHING ||
           (kind == COPY_ZERO && c->spec.target_is_zero && c->spec.sparse > 0);
}

/* The next piece that has to be copied. False: none is left, or the job ends. */
static bool next_piece(CopyJob *c, CopyPiece *p)
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

/* ---- workers --------------------------------------------------------------------------------- */

static void piece_done(CopyJob *c, const CopyRoom *room)
{
    block_job_add_done(&c->job, room->p.bytes);
    block_job_pace(&c->job, c->spec.rate, __atomic_load_n(&c->job.done, __ATOMIC_RELAXED));
}

/* Each its own pieces. */
static void work_in_any_order(CopyJob *c, CopyRoom *room)
{
    BlockJob *job = &c->job;
    bool more;

    while (!block_job_stopped(job)) {
        pthread_mutex_lock(&job->mutex);
        more = next_piece(c, &room->p);
        pthread_mutex_unlock(&job->mutex);
        if (!more || !copy_read(c, room) || !copy_write(c, room)) {
            break;
        }
        piece_done(c, room);
    }
}

/* With the mutex, as all of these. */
static bool write_one(CopyJob *c, CopyRoom *room)
{
    BlockJob *job = &c->job;
    bool ok;

    c->ready[c->turn % COPY_MAX_ROOMS] = NULL;
    c->writing = true;
    pthread_mutex_unlock(&job->mutex);
    ok = copy_write(c, room);
    if (ok) {
        piece_done(c, room);
    }
    pthread_mutex_lock(&job->mutex);
    c->writing = false;
    c->turn++;
    room->next = c->free;
    c->free = room;
    c->n_free++;
    if (c->exhausted && c->turn == c->next_turn) {
        pthread_cond_broadcast(&job->cond); /* everybody is through */
    } else if (c->sleeping > 0 && c->n_free >= WAKE_AT) {
        pthread_cond_signal(&job->cond); /* there is room again; this one would use it too */
    }
    return ok;
}

static bool read_one(CopyJob *c)
{
    CopyRoom *room = c->free;
    bool ok;

    if (!next_piece(c, &room->p)) {
        c->exhausted = true;
        pthread_cond_broadcast(&c->job.cond);
        return true;
    }
    c->free = room->next;
    c->n_free--;
    pthread_mutex_unlock(&c->job.mutex);
    ok = copy_read(c, room);
    pthread_mutex_lock(&c->job.mutex);
    c->ready[room->p.turn % COPY_MAX_ROOMS] = room;
    return ok;
}

/* Whoever finds the next piece ready and nobody writing writes; who finds none reads ahead. A piece
 * that gets ready is seen by whoever has read it, so only room and the end have to be waited for.
 */
static void work_in_order(CopyJob *c)
{
    BlockJob *job = &c->job;
    bool ok = true;

    pthread_mutex_lock(&job->mutex);
    while (ok && !block_job_stopped(job)) {
        CopyRoom *room = c->writing ? NULL : c->ready[c->turn % COPY_MAX_ROOMS];

        if (room) {
            ok = write_one(c, room);
        } else if (c->free && !c->exhausted) {
            ok = read_one(c);
        } else if (c->exhausted && c->turn == c->next_turn) {
            break;
        } else {
            c->sleeping++;
            pthread_cond_wait(&job->cond, &job->mutex);
            c->sleeping--;
        }
    }
    pthread_mutex_unlock(&job->mutex);
}

static void copy_work(BlockJob *job)
{
    CopyJob *c = (CopyJob *)job;
    CopyRoom *room;

    if (c->spec.in_order) {
        work_in_order(c);
        return;
    }
    pthread_mutex_lock(&job->mutex);
    room = c->free;
    c->free = room->next;
    pthread_mutex_unlock(&job->mutex);
    work_in_any_order(c, room);
}

/* ---- making ---------------------------------------------------------------------------------- */

static bool make_rooms(CopyJob *c, unsigned n)
{
    bool wanted[3] = { true, c->spec.reference, c->spec.compress };

    for (unsigned i = 0; i < 3; i++) {
        c->memory[i] = wanted[i] ? block_job_buffer(n * c->piece) : NULL;
        if (wanted[i] && !c->memory[i]) {
            return false;
        }
    }
    c->n_rooms = n;
    for (unsigned i = 0; i < n; i++) {
        CopyRoom *room = &c->rooms[i];

        room->data = c->memory[0] + i * c->piece;
        room->other = c->memory[1] ? c->memory[1] + i * c->piece : NULL;
        room->packed = c->memory[2] ? c->memory[2] + i * c->piece : NULL;
        room->needs = g_malloc(c->piece / c->grain + 1);
        if (c->spec.compress) {
            room->packed_len = g_new0(size_t, c->piece / c->spec.cluster);
        }
        room->next = c->free;
        c->free = room;
        c->n_free++;
    }
    return true;
}

static void copy_free(BlockJob *job)
{
    CopyJob *c = (CopyJob *)job;

    for (unsigned i = 0; i < c->n_rooms; i++) {
        g_free(c->rooms[i].needs);
        g_free(c->rooms[i].packed_len);
    }
    for (unsigned i = 0; i < 3; i++) {
        free(c->memory[i]);
    }
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
    unsigned workers;

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
    workers = CLAMP(spec->workers ? spec->workers : 8, 1, BLOCK_JOB_MAX_WORKERS);
    if (!make_rooms(c, workers + (c->spec.in_order ? 2 : 0))) {
        error_set(error, ENGINE_ERROR_LIMIT, "no memory to copy with");
        block_job_free(&c->job);
        return NULL;
    }
    block_job_start(&c->job, workers);
    return &c->job;
}

uint64_t block_copy_salvaged(const BlockJob *job)
{
    return __atomic_load_n(&((const CopyJob *)job)->salvaged, __ATOMIC_RELAXED);
}
