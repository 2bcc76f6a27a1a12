/*
 * qcow2: slices of L2 tables and refcount blocks in memory, up to a bound. Found by their place in
 * the file; the clock decides which clean one makes room.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

#define MIN_SLICES 16

bool qcow2_cache_init(Qcow2Cache *c, uint64_t bytes, uint32_t slice_bytes, bool is_l2)
{
    memset(c, 0, sizeof(*c));
    c->bytes = slice_bytes;
    c->is_l2 = is_l2;
    c->n = (unsigned)MAX(MIN(bytes / slice_bytes, UINT32_MAX / 256), MIN_SLICES);
    c->n_buckets = 1;
    while (c->n_buckets < c->n) {
        c->n_buckets *= 2;
    }
    c->slots = g_try_new0(Qcow2Slice, c->n);
    c->buckets = g_try_new0(Qcow2Slice *, c->n_buckets);
    return c->slots && c->buckets;
}

void qcow2_cache_finalize(Qcow2Cache *c)
{
    for (unsigned i = 0; c->slots && i < c->n; i++) {
        free(c->slots[i].data);
    }
    g_clear_pointer(&c->slots, g_free);
    g_clear_pointer(&c->buckets, g_free);
    c->n = 0;
}

/* ---- waiting --------------------------------------------------------------------------------- */

void qcow2_wait(Qcow2 *s)
{
    bool counts = block_on_worker();

    if (counts) {
        block_worker_waits(true);
    }
    pthread_cond_wait(&s->changed, &s->lock);
    if (counts) {
        block_worker_waits(false);
    }
}

void qcow2_lock_across_io(pthread_mutex_t *mutex)
{
    bool counts;

    if (pthread_mutex_trylock(mutex) == 0) {
        return;
    }
    counts = block_on_worker();
    if (counts) {
        block_worker_waits(true);
    }
    pthread_mutex_lock(mutex);
    if (counts) {
        block_worker_waits(false);
    }
}

/* ---- slices ---------------------------------------------------------------------------------- */

static Qcow2Slice **bucket_of(Qcow2Cache *c, uint64_t offset)
{
    uint64_t h = offset / c->bytes * UINT64_C(0x9e3779b97f4a7c15);

    return &c->buckets[(h >> 32) & (c->n_buckets - 1)];
}

static Qcow2Slice *look_up(Qcow2Cache *c, uint64_t offset)
{
    Qcow2Slice *slice = *bucket_of(c, offset);

    while (slice && slice->offset != offset) {
        slice = slice->chain;
    }
    return slice;
}

static void take_out(Qcow2Cache *c, Qcow2Slice *slice)
{
    Qcow2Slice **at = bucket_of(c, slice->offset);

    while (*at != slice) {
        at = &(*at)->chain;
    }
    *at = slice->chain;
    slice->offset = 0;
    if (slice->dirty) {
        slice->dirty = false;
        c->n_dirty--;
    }
}

Qcow2Slice *qcow2_cache_find(Qcow2Cache *c, uint64_t offset)
{
    Qcow2Slice *slice = look_up(c, offset & ~(uint64_t)(c->bytes - 1));

    if (!slice || slice->loading) {
        return NULL;
    }
    slice->used = true;
    return slice;
}

/* A slot that can be filled; NULL: all are dirty or in use. */
static Qcow2Slice *victim(Qcow2Cache *c)
{
    for (unsigned i = 0; i < 2 * c->n; i++) {
        Qcow2Slice *slice = &c->slots[c->hand];

        c->hand = (c->hand + 1) % c->n;
        if (!slice->offset) {
            return slice;
        }
        if (slice->loading || slice->dirty || slice->writing) {
            continue;
        }
        if (!slice->used) {
            take_out(c, slice);
            return slice;
        }
        slice->used = false;
    }
    return NULL;
}

static int load(Qcow2 *s, Qcow2Cache *c, Qcow2Slice *slice, uint64_t offset)
{
    Qcow2Slice **bucket = bucket_of(c, offset);
    int e;

    if (!slice->data && posix_memalign((void **)&slice->data, MAX(c->bytes, 4096), c->bytes) != 0) {
        slice->data = NULL;
        return ENOMEM;
    }
    slice->offset = offset;
    slice->loading = true;
    slice->chain = *bucket;
    *bucket = slice;
    pthread_mutex_unlock(&s->lock);
    e = block_node_pread(block_node_file(&s->parent), offset, slice->data, c->bytes);
    pthread_mutex_lock(&s->lock);
    slice->loading = false;
    slice->used = true;
    if (e) {
        take_out(c, slice);
    }
    pthread_cond_broadcast(&s->changed);
    return e;
}

/* Every slot is dirty or busy: something has to be written, or waited for. */
static int make_room(Qcow2 *s, Qcow2Cache *c)
{
    int e;

    if (c->n_dirty == 0) {
        qcow2_wait(s);
        return 0;
    }
    pthread_mutex_unlock(&s->lock);
    e = c->is_l2 ? qcow2_write_back(s, false) : qcow2_write_refcounts(s);
    pthread_mutex_lock(&s->lock);
    return e;
}

int qcow2_cache_get(Qcow2 *s, Qcow2Cache *c, uint64_t offset, Qcow2Slice **out)
{
    offset &= ~(uint64_t)(c->bytes - 1);
    for (;;) {
        Qcow2Slice *slice = look_up(c, offset);
        int e = 0;

        if (slice && !slice->loading) {
            slice->used = true;
            *out = slice;
            return 0;
        }
        if (slice) {
            qcow2_wait(s);
            continue;
        }
        slice = victim(c);
        e = slice ? load(s, c, slice, offset) : make_room(s, c);
        if (e) {
            return e;
        }
    }
}

void qcow2_cache_dirty(Qcow2Cache *c, Qcow2Slice *slice)
{
    if (!slice->dirty) {
        slice->dirty = true;
        c->n_dirty++;
    }
}

void qcow2_cache_forget(Qcow2Cache *c, uint64_t offset, uint64_t bytes)
{
    for (uint64_t at = offset; at < offset + bytes; at += c->bytes) {
        Qcow2Slice *slice = look_up(c, at);

        if (slice && !slice->loading && !slice->writing) {
            take_out(c, slice);
        }
    }
}

void qcow2_cache_forget_all(Qcow2Cache *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        if (c->slots[i].offset) {
            take_out(c, &c->slots[i]);
        }
    }
}
