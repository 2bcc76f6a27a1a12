/*
 * qcow2: from a guest's offset to what is there.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

/* ---- entries --------------------------------------------------------------------------------- */

Qcow2Kind qcow2_entry_kind(const Qcow2 *s, Qcow2Entry e, unsigned subcluster)
{
    uint64_t host = e.entry & QCOW2_OFFSET_MASK;
    bool placed = host || (s->has_data_file && (e.entry & QCOW2_COPIED));

    if (e.entry & QCOW2_COMPRESSED) {
        return s->has_data_file ? QCOW2_INVALID : QCOW2_COMPRESSED_DATA;
    }
    if (host & (s->cluster_size - 1)) {
        return QCOW2_INVALID;
    }
    if (s->subclusters > 1) {
        bool data = e.bitmap >> subcluster & 1, zero = e.bitmap >> (32 + subcluster) & 1;

        if ((data && zero) || (data && !placed)) {
            return QCOW2_INVALID;
        }
        return data   ? QCOW2_DATA
               : zero ? (placed ? QCOW2_ZERO_ALLOCATED : QCOW2_ZERO_PLAIN)
                      : (placed ? QCOW2_HOLE : QCOW2_UNALLOCATED);
    }
    if (e.entry & QCOW2_ZERO) {
        return s->version < 3 ? QCOW2_INVALID : placed ? QCOW2_ZERO_ALLOCATED : QCOW2_ZERO_PLAIN;
    }
    return placed ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

Qcow2Entry qcow2_slice_entry(const Qcow2 *s, const Qcow2Slice *slice, unsigned index)
{
    const uint8_t *at = slice->data + (size_t)index * s->l2_entry_bytes;
    Qcow2Entry e = { 0, 0 };

    memcpy(&e.entry, at, 8);
    e.entry = GUINT64_FROM_BE(e.entry);
    if (s->l2_entry_bytes == 16) {
        memcpy(&e.bitmap, at + 8, 8);
        e.bitmap = GUINT64_FROM_BE(e.bitmap);
    }
    return e;
}

void qcow2_slice_set(Qcow2 *s, Qcow2Slice *slice, unsigned index, Qcow2Entry e)
{
    uint8_t *at = slice->data + (size_t)index * s->l2_entry_bytes;
    uint64_t be = GUINT64_TO_BE(e.entry);

    memcpy(at, &be, 8);
    if (s->l2_entry_bytes == 16) {
        be = GUINT64_TO_BE(e.bitmap);
        memcpy(at + 8, &be, 8);
    }
    if (e.entry & (QCOW2_OFFSET_MASK | QCOW2_COPIED | QCOW2_COMPRESSED)) {
        s->need_order = true;
    }
    qcow2_cache_dirty(&s->l2, slice);
}

/* ---- looking up ------------------------------------------------------------------------------ */

/* Bytes from `offset` to the end of what one slice maps, and the entry's place in it. */
static uint64_t slice_reach(const Qcow2 *s, uint64_t offset, unsigned *index)
{
    unsigned n = s->l2.bytes / s->l2_entry_bytes;
    uint64_t span = (uint64_t)n << s->cluster_bits;

    *index = (unsigned)(offset >> s->cluster_bits) & (n - 1);
    return span - (offset & (span - 1));
}

/* Where the slice is that maps `offset`: 0 none; UINT64_MAX: the L1 entry is invalid. */
static uint64_t slice_place(const Qcow2 *s, uint64_t offset, uint64_t *l1_entry)
{
    uint64_t i = offset >> qcow2_l2_shift(s), table, within;

    *l1_entry = i < s->l1_entries ? s->l1[i] : 0;
    table = *l1_entry & QCOW2_OFFSET_MASK;
    if (table & (s->cluster_size - 1)) {
        return UINT64_MAX;
    }
    within = ((offset >> s->cluster_bits) & ((UINT64_C(1) << s->l2_bits) - 1)) * s->l2_entry_bytes;
    return table ? table + (within & ~(uint64_t)(s->l2.bytes - 1)) : 0;
}

/* No L2 table: how far. */
static void no_table(const Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Run *out)
{
    uint64_t at = offset, end = offset + bytes, span = UINT64_C(1) << qcow2_l2_shift(s), entry;

    while (at < end && slice_place(s, at, &entry) == 0) {
        at = (at & ~(span - 1)) + span;
    }
    *out = (Qcow2Run){ .kind = QCOW2_UNALLOCATED, .bytes = MIN(at, end) - offset };
}

/* The run that begins at `offset`, within one slice. */
static void run_in_slice(const Qcow2 *s, const Qcow2Slice *slice, unsigned index, uint64_t offset,
                         uint64_t bytes, Qcow2Run *out)
{
    uint64_t at = offset, end = offset + bytes, next_host = 0;
    bool first = true;

    while (at < end) {
        Qcow2Entry e = qcow2_slice_entry(s, slice, index);
        unsigned sub = (unsigned)((at & (s->cluster_size - 1)) / s->subcluster_size);
        uint64_t host = (e.entry & QCOW2_OFFSET_MASK) + (at & (s->cluster_size - 1));

        for (; sub < s->subclusters && at < end; sub++) {
            Qcow2Kind kind = qcow2_entry_kind(s, e, sub);
            bool placed = kind == QCOW2_DATA || kind == QCOW2_ZERO_ALLOCATED,
                 copied = e.entry & QCOW2_COPIED;
            uint64_t step = s->subcluster_size - (at & (s->subcluster_size - 1));

            if (first) {
                *out = (Qcow2Run){ .kind = kind,
                                   .copied = copied,
                                   .host = kind == QCOW2_COMPRESSED_DATA ? e.entry : host };
                first = false;
            } else if (kind != out->kind || kind == QCOW2_INVALID ||
                       (kind == QCOW2_COMPRESSED_DATA && sub == 0) ||
                       (placed && (host != next_host || copied != out->copied))) {
                out->bytes = at - offset;
                return;
            }
            at += step;
            host += step;
            next_host = host;
        }
        index++;
    }
    out->bytes = MIN(at, end) - offset;
}

/* 0: *out is filled in; else the place of the slice that is not in memory. */
static uint64_t try_map(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Run *out)
{
    uint64_t l1_entry, place = slice_place(s, offset, &l1_entry), reach;
    Qcow2Slice *slice;
    unsigned index;

    if (place == 0) {
        no_table(s, offset, bytes, out);
        return 0;
    }
    if (place == UINT64_MAX) {
        *out = (Qcow2Run){ .kind = QCOW2_INVALID, .host = l1_entry, .bytes = bytes };
        return 0;
    }
    slice = qcow2_cache_find(&s->l2, place);
    if (!slice) {
        return place;
    }
    reach = slice_reach(s, offset, &index);
    run_in_slice(s, slice, index, offset, MIN(bytes, reach), out);
    return 0;
}

bool qcow2_map_cached(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Run *out)
{
    return try_map(s, offset, bytes, out) == 0;
}

int qcow2_map(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Run *out)
{
    uint64_t place;

    while ((place = try_map(s, offset, bytes, out))) {
        Qcow2Slice *slice;
        int e = qcow2_cache_get(s, &s->l2, place, &slice);

        if (e) {
            return e;
        }
    }
    return 0;
}

/* ---- changing -------------------------------------------------------------------------------- */

static void l1_set(Qcow2 *s, uint64_t index, uint64_t entry)
{
    s->l1[index] = entry;
    s->l1_dirty[index / 64 / 64] |= UINT64_C(1) << (index / 64 % 64);
    s->l1_any_dirty = true;
    s->need_order = true;
}

/* A table for L1 entry `index` that is ours alone: a new one, or a copy of the one that snapshots
 * have too. Its first content is in the file before any table points at it. `grow` and `lock` are
 * held; `lock` is dropped meanwhile. */
static int make_l2(Qcow2 *s, uint64_t index)
{
    uint64_t old = s->l1[index] & QCOW2_OFFSET_MASK, place, got;
    BlockNode *file = block_node_file(&s->parent);
    uint8_t *table;
    int e = qcow2_alloc_grow_held(s, 1, true, &place, &got, NULL);

    if (e) {
        return e;
    }
    pthread_mutex_unlock(&s->lock);
    table = g_malloc0(s->cluster_size);
    e = old ? block_node_pread(file, old, table, s->cluster_size) : 0;
    e = e ? e : block_node_pwrite(file, place, table, s->cluster_size, 0);
    g_free(table);
    pthread_mutex_lock(&s->lock);
    if (e || !qcow2_meta_add(s, place, 1)) {
        qcow2_unalloc(s, place, 1);
        return e ? e : ENOMEM;
    }
    qcow2_cache_forget(&s->l2, place, s->cluster_size);
    l1_set(s, index, place | QCOW2_COPIED);
    if (old) {
        qcow2_free_later(s, old, 1);
    }
    return 0;
}

static int need_l2(Qcow2 *s, uint64_t index)
{
    int e = 0;

    pthread_mutex_unlock(&s->lock);
    qcow2_lock_across_io(&s->grow);
    pthread_mutex_lock(&s->lock);
    if (!(s->l1[index] & QCOW2_COPIED) || !(s->l1[index] & QCOW2_OFFSET_MASK)) {
        e = make_l2(s, index);
    }
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&s->grow);
    pthread_mutex_lock(&s->lock);
    return e;
}

int qcow2_slice_for_write(Qcow2 *s, uint64_t offset, Qcow2Slice **slice, unsigned *index)
{
    uint64_t i = offset >> qcow2_l2_shift(s), place, l1_entry;
    int e;

    if (i >= s->l1_entries) {
        return EINVAL;
    }
    place = slice_place(s, offset, &l1_entry);
    if (place == UINT64_MAX) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "an invalid L1 entry", l1_entry);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    if (place == 0 || !(l1_entry & QCOW2_COPIED)) {
        e = need_l2(s, i);
        if (e) {
            return e;
        }
        place = slice_place(s, offset, &l1_entry);
    }
    slice_reach(s, offset, index);
    return qcow2_cache_get(s, &s->l2, place, slice);
}

int qcow2_entry_get(Qcow2 *s, uint64_t offset, Qcow2Entry *out)
{
    uint64_t l1_entry, place = slice_place(s, offset, &l1_entry);
    Qcow2Slice *slice;
    unsigned index;
    int e;

    *out = (Qcow2Entry){ 0, 0 };
    if (place == 0 || place == UINT64_MAX) {
        return place ? EIO : 0;
    }
    e = qcow2_cache_get(s, &s->l2, place, &slice);
    if (!e) {
        slice_reach(s, offset, &index);
        *out = qcow2_slice_entry(s, slice, index);
    }
    return e;
}
