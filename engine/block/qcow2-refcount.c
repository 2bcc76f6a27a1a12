/*
 * qcow2: which clusters of the file are in use, and how often. Finding room, giving it back.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

/* ---- numbers of 1 to 64 bits ----------------------------------------------------------------- */

uint64_t qcow2_refcount_get(const uint8_t *block, uint32_t order, uint64_t index)
{
    const uint8_t *at = block + ((index << order) >> 3);
    uint64_t value = 0;

    if (order < 3) {
        unsigned bits = 1u << order, shift = (unsigned)((index << order) & 7);

        return at[0] >> shift & ((1u << bits) - 1);
    }
    for (unsigned i = 0; i < 1u << (order - 3); i++) {
        value = value << 8 | at[i];
    }
    return value;
}

void qcow2_refcount_set(uint8_t *block, uint32_t order, uint64_t index, uint64_t value)
{
    uint8_t *at = block + ((index << order) >> 3);

    if (order < 3) {
        unsigned bits = 1u << order, shift = (unsigned)((index << order) & 7);
        unsigned mask = ((1u << bits) - 1) << shift;

        at[0] = (uint8_t)((at[0] & ~mask) | ((value << shift) & mask));
        return;
    }
    for (unsigned i = 1u << (order - 3); i-- > 0; value >>= 8) {
        at[i] = (uint8_t)value;
    }
}

static uint64_t refcount_max(const Qcow2 *s)
{
    return s->refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << s->refcount_bits) - 1;
}

/* The slice that has cluster `ci`'s refcount, and the place in it. *slice NULL: no refcount block
 * (all zero). Drops `lock` where it reads. */
static int slice_of(Qcow2 *s, uint64_t ci, Qcow2Slice **slice, uint64_t *index)
{
    uint64_t i = ci >> s->rb_bits, in_block = ci & ((UINT64_C(1) << s->rb_bits) - 1), block, byte;

    *slice = NULL;
    if (i >= s->rt_entries || !(block = s->rt[i] & ~UINT64_C(511))) {
        return 0;
    }
    if (block & (s->cluster_size - 1)) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "an invalid entry of the refcount table", block);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    byte = ((in_block << s->refcount_order) >> 3) & ~(uint64_t)(s->rb.bytes - 1);
    *index = in_block - ((byte << 3) >> s->refcount_order);
    return qcow2_cache_get(s, &s->rb, block + byte, slice);
}

int qcow2_refcount_of(Qcow2 *s, uint64_t ci, uint64_t *out)
{
    Qcow2Slice *slice;
    uint64_t index;
    int e = slice_of(s, ci, &slice, &index);

    *out = !e && slice ? qcow2_refcount_get(slice->data, s->refcount_order, index) : 0;
    return e;
}

static int change_one(Qcow2 *s, uint64_t ci, int64_t delta, uint64_t *now)
{
    Qcow2Slice *slice;
    uint64_t index, value = 0;
    int e = slice_of(s, ci, &slice, &index);

    if (e) {
        return e;
    }
    if (slice) {
        value = qcow2_refcount_get(slice->data, s->refcount_order, index);
    }
    if (!slice || (delta < 0 && value < (uint64_t)-delta)) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "a refcount below zero", ci << s->cluster_bits);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    if (delta > 0 && (uint64_t)delta > refcount_max(s) - value) {
        return ERANGE;
    }
    *now = value + (uint64_t)delta;
    qcow2_refcount_set(slice->data, s->refcount_order, index, *now);
    qcow2_cache_dirty(&s->rb, slice);
    if (*now == 0 && s->comp_next && ci == s->comp_next >> s->cluster_bits) {
        s->comp_next = s->comp_end = 0;
    }
    return 0;
}

static void can_reuse(Qcow2 *s, uint64_t offset)
{
    Qcow2Free f = { offset, 1, 0 };

    if (s->reuse->len > 0) {
        Qcow2Free *last = &g_array_index(s->reuse, Qcow2Free, s->reuse->len - 1);

        if (last->offset + (last->clusters << s->cluster_bits) == offset) {
            last->clusters++;
            return;
        }
    }
    g_array_append_val(s->reuse, f);
}

int qcow2_refcount_add(Qcow2 *s, uint64_t offset, uint64_t n, int64_t delta)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t now, at = offset + (i << s->cluster_bits);
        int e = change_one(s, at >> s->cluster_bits, delta, &now);

        if (e) {
            return e;
        }
        if (now == 0) {
            qcow2_meta_remove(s, at, 1);
            can_reuse(s, at);
        }
    }
    return 0;
}

/* ---- allocating ------------------------------------------------------------------------------ */

/* Makes the refcounts of up to `want` clusters from `ci` on 1, as far as they are 0 and one slice
 * has them. *n: how many; ENXIO: there is no refcount block. */
static int claim(Qcow2 *s, uint64_t ci, uint64_t want, uint64_t *n)
{
    unsigned per_slice = (unsigned)(((uint64_t)s->rb.bytes << 3) >> s->refcount_order);
    Qcow2Slice *slice;
    uint64_t index;
    int e = slice_of(s, ci, &slice, &index);

    *n = 0;
    if (e || !slice) {
        return e ? e : ENXIO;
    }
    while (*n < want && index + *n < per_slice &&
           qcow2_refcount_get(slice->data, s->refcount_order, index + *n) == 0) {
        qcow2_refcount_set(slice->data, s->refcount_order, index + *n, 1);
        ++*n;
    }
    if (*n > 0) {
        qcow2_cache_dirty(&s->rb, slice);
    }
    return 0;
}

/* The first free cluster at or behind `ci`, as far as `ci`'s slice goes; else where that ends. */
static int skip_used(Qcow2 *s, uint64_t *ci)
{
    unsigned per_slice = (unsigned)(((uint64_t)s->rb.bytes << 3) >> s->refcount_order);
    Qcow2Slice *slice;
    uint64_t index;
    int e = slice_of(s, *ci, &slice, &index);

    if (e || !slice) {
        return e;
    }
    if (s->refcount_order == 4) {
        const uint16_t *counts = (const uint16_t *)(const void *)slice->data;

        while (index < per_slice && counts[index]) {
            index++, ++*ci;
        }
        return 0;
    }
    while (index < per_slice && qcow2_refcount_get(slice->data, s->refcount_order, index)) {
        index++, ++*ci;
    }
    return 0;
}

static bool take_from_reuse(Qcow2 *s, uint64_t want, uint64_t *ci, uint64_t *n)
{
    while (s->reuse->len > 0) {
        Qcow2Free *last = &g_array_index(s->reuse, Qcow2Free, s->reuse->len - 1);
        uint64_t first = last->offset >> s->cluster_bits, there = MIN(last->clusters, want);
        int e;

        last->offset += there << s->cluster_bits;
        last->clusters -= there;
        if (last->clusters == 0) {
            g_array_set_size(s->reuse, s->reuse->len - 1);
        }
        e = claim(s, first, there, n);
        for (uint64_t i = MAX(*n, 1); i < there && !e; i++) {
            can_reuse(s, (first + i) << s->cluster_bits);
        }
        if (!e && *n > 0) {
            *ci = first;
            return true;
        }
    }
    return false;
}

static int find_any(Qcow2 *s, uint64_t want, uint64_t *ci, uint64_t *n, bool held)
{
    uint64_t at;

    if (take_from_reuse(s, want, ci, n)) {
        return 0;
    }
    for (at = s->free_hint;; at = MAX(at, s->free_hint)) {
        uint64_t before = at;
        int e = skip_used(s, &at);

        if (!e && before <= s->free_hint) { /* nothing is free between the two */
            s->free_hint = MAX(s->free_hint, at);
        }
        e = e ? e : claim(s, at, want, n);
        if (e == ENXIO) {
            e = qcow2_refcount_grow(s, at, held);
        }
        if (e) {
            return e;
        }
        if (*n > 0) {
            *ci = at;
            if (at <= s->free_hint) {
                s->free_hint = MAX(s->free_hint, at + *n);
            }
            return 0;
        }
    }
}

static void unclaim(Qcow2 *s, uint64_t ci, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t now;

        if (change_one(s, ci + i, -1, &now) != 0) {
            return; /* a leak */
        }
        if (now == 0) {
            can_reuse(s, (ci + i) << s->cluster_bits);
        }
    }
}

/* `want` in a row, at the end of the file: for tables, which are few. */
static int find_exactly(Qcow2 *s, uint64_t want, uint64_t *ci, bool held)
{
    uint64_t start = MAX(s->free_hint, s->fresh_from >> s->cluster_bits), have = 0;

    while (have < want) {
        uint64_t n;
        int e = claim(s, start + have, want - have, &n);

        if (e == ENXIO) {
            e = qcow2_refcount_grow(s, start + have, held);
            n = 0;
            if (!e) {
                continue;
            }
        }
        if (!e && n == 0) { /* in use: again behind it */
            unclaim(s, start, have);
            start += have + 1;
            have = 0;
            continue;
        }
        have += n;
        if (e) {
            unclaim(s, start, have);
            return e;
        }
    }
    *ci = start;
    return 0;
}

static int alloc(Qcow2 *s, uint64_t want, bool exact, uint64_t *offset, uint64_t *got, bool *fresh,
                 bool held)
{
    uint64_t ci = 0, n = want;
    int e;

    if (s->corrupt) {
        return EIO;
    }
    if (exact && want > 1) {
        e = find_exactly(s, want, &ci, held);
    } else {
        e = find_any(s, want, &ci, &n, held);
    }
    if (e) {
        return e;
    }
    *offset = ci << s->cluster_bits;
    *got = n;
    if (ci == 0 || ci >= BLOCK_MAX_BYTES >> s->cluster_bits) {
        e = EFBIG;
    } else if (qcow2_meta_overlaps(s, *offset, n << s->cluster_bits)) {
        e = EIO;
    }
    if (ci == 0 || e == EIO) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "metadata in a cluster that is counted as free", *offset);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    if (e) {
        unclaim(s, ci, n);
        return e;
    }
    if (fresh) {
        *fresh = *offset >= s->fresh_from;
    }
    s->fresh_from = MAX(s->fresh_from, *offset + (n << s->cluster_bits));
    return 0;
}

int qcow2_alloc(Qcow2 *s, uint64_t want, bool exact, uint64_t *offset, uint64_t *got, bool *fresh)
{
    return alloc(s, want, exact, offset, got, fresh, false);
}

int qcow2_alloc_grow_held(Qcow2 *s, uint64_t want, bool exact, uint64_t *offset, uint64_t *got,
                          bool *fresh)
{
    return alloc(s, want, exact, offset, got, fresh, true);
}

void qcow2_unalloc(Qcow2 *s, uint64_t offset, uint64_t clusters)
{
    unclaim(s, offset >> s->cluster_bits, clusters);
}

int qcow2_alloc_bytes(Qcow2 *s, uint32_t bytes, uint64_t *offset)
{
    uint64_t place, got, now;
    int e;

    for (;;) {
        uint64_t room = s->comp_end - s->comp_next;

        if (s->comp_next && bytes <= room) {
            *offset = s->comp_next;
            /* The cluster is there for the one that allocated it; each further user counts. */
            if (s->comp_next & (s->cluster_size - 1)) {
                e = change_one(s, s->comp_next >> s->cluster_bits, 1, &now);
                if (e == ERANGE) {
                    s->comp_next = s->comp_end = 0;
                    continue;
                }
                if (e) {
                    return e;
                }
            }
            s->comp_next += bytes;
            if ((s->comp_next & (s->cluster_size - 1)) == 0) {
                s->comp_next = s->comp_end = 0;
            }
            return 0;
        }
        e = alloc(s, 1, false, &place, &got, NULL, false);
        if (e) {
            return e;
        }
        s->comp_next = place;
        s->comp_end = place + s->cluster_size;
    }
}

/* ---- giving back ----------------------------------------------------------------------------- */

void qcow2_free_later(Qcow2 *s, uint64_t offset, uint64_t clusters)
{
    Qcow2Free f = { offset, clusters, s->seq };

    if (s->frees->len > 0) {
        Qcow2Free *last = &g_array_index(s->frees, Qcow2Free, s->frees->len - 1);

        if (last->offset + (last->clusters << s->cluster_bits) == offset) {
            last->clusters += clusters;
            last->seq = s->seq;
            return;
        }
    }
    g_array_append_val(s->frees, f);
}

/* The host gets its space back, before anybody can be given the cluster: only what nobody else
 * uses. */
static void discard_unused(Qcow2 *s, const Qcow2Free *f)
{
    uint64_t start = f->offset, end = f->offset;

    for (uint64_t i = 0; i <= f->clusters; i++) {
        uint64_t count = 0, at = f->offset + (i << s->cluster_bits);

        if (i < f->clusters) {
            pthread_mutex_lock(&s->lock);
            if (qcow2_refcount_of(s, at >> s->cluster_bits, &count) != 0) {
                count = 0;
            }
            pthread_mutex_unlock(&s->lock);
        }
        if (count == 1) {
            end = at + s->cluster_size;
            continue;
        }
        if (end > start) { /* a hint: failing is no harm */
            block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_DISCARD, start, end - start,
                               0);
        }
        start = end = at + s->cluster_size;
    }
}

int qcow2_apply_frees(Qcow2 *s, GArray *frees)
{
    int e = 0;

    for (unsigned i = 0; i < frees->len; i++) {
        Qcow2Free f = g_array_index(frees, Qcow2Free, i);
        bool used;

        pthread_mutex_lock(&s->lock);
        used = s->ops && s->ops->seq <= f.seq;
        if (used || e) {
            g_array_append_val(s->frees, f);
        }
        pthread_mutex_unlock(&s->lock);
        if (used || e) {
            continue;
        }
        if (s->parent.discard) {
            discard_unused(s, &f);
        }
        pthread_mutex_lock(&s->lock);
        e = qcow2_refcount_add(s, f.offset, f.clusters, -1);
        pthread_mutex_unlock(&s->lock);
    }
    g_array_free(frees, TRUE);
    return e;
}
