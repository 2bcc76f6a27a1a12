/*
 * qcow2: zeroes and discards: clusters, and subclusters, that read as zeroes without data. On
 * workers, as in qcow2-cow.c.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

#define ALL_ZERO UINT64_C(0xffffffff00000000) /* of a bitmap of subclusters */

/* The guest's length, to whole clusters: what is behind the end counts as written. */
static uint64_t rounded_length(const Qcow2 *s)
{
    return qcow2_clusters(s, block_node_length(&s->parent)) << s->cluster_bits;
}

static bool broken(const Qcow2 *s, Qcow2Entry e, uint64_t from, uint64_t to)
{
    for (uint64_t sub = from / s->subcluster_size; sub <= (to - 1) / s->subcluster_size; sub++) {
        if (qcow2_entry_kind(s, e, (unsigned)sub) == QCOW2_INVALID) {
            return true;
        }
    }
    return false;
}

/* ---- zeroes ---------------------------------------------------------------------------------- */

static int write_zero_buffer(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint8_t *zeroes = g_try_malloc0(bytes);
    struct iovec iov = { zeroes, bytes };
    int e = zeroes ? qcow2_write(s, offset, bytes, &iov, 1, 0) : ENOMEM;

    g_free(zeroes);
    return e;
}

/* The clusters of an external data file keep their places: the zeroes go there. */
static int zero_in_data_file(Qcow2 *s, uint64_t offset, uint64_t bytes, unsigned flags)
{
    Qcow2Run run;
    int e;

    pthread_mutex_lock(&s->lock);
    e = qcow2_map(s, offset, bytes, &run);
    pthread_mutex_unlock(&s->lock);
    if (!e && (s->data_raw || run.kind == QCOW2_DATA)) {
        e = block_node_sync_op(s->data, BLOCK_OP_ZERO, offset, bytes, flags & ~(unsigned)BLOCK_FUA);
    }
    return e;
}

/* The new entry of a cluster of which [from, to) (offsets in it) becomes zero; false: that needs
 * data. Clusters are zeroed whole where there are no subclusters. */
static bool zeroed_entry(const Qcow2 *s, Qcow2Entry old, uint64_t from, uint64_t to, bool unmap,
                         bool backed, Qcow2Entry *out)
{
    Qcow2Kind kind = qcow2_entry_kind(s, old, 0);
    bool whole = from == 0 && to == s->cluster_size, mine = old.entry & QCOW2_COPIED;
    uint64_t bits = qcow2_covered(s, 0, from, to),
             place = old.entry & (QCOW2_OFFSET_MASK | QCOW2_COPIED);

    *out = old;
    if (kind == QCOW2_COMPRESSED_DATA && !whole) {
        return false;
    }
    if (s->version < 3) { /* there is no flag: only what has no data reads as zeroes */
        *out = (Qcow2Entry){ 0, 0 };
        return !backed && (unmap || kind == QCOW2_UNALLOCATED || kind == QCOW2_COMPRESSED_DATA);
    }
    if (kind == QCOW2_COMPRESSED_DATA || (whole && (unmap || !mine) && !s->has_data_file)) {
        place = 0;
    }
    if (s->subclusters == 1) {
        if (kind != QCOW2_UNALLOCATED || backed) {
            *out = (Qcow2Entry){ place | QCOW2_ZERO, 0 };
        }
        return true;
    }
    if (kind == QCOW2_COMPRESSED_DATA) {
        old.bitmap = 0;
    }
    *out = (Qcow2Entry){ place, (old.bitmap & ~bits) | bits << 32 };
    if (place && unmap && (uint32_t)out->bitmap == 0 && !s->has_data_file) {
        out->entry = 0;
    }
    return true;
}

/* The clusters, or subclusters, of [offset, offset+*bytes) within one slice. *bytes: how far it
 * got; ENOTSUP: the next cluster needs data. */
static int zero_units(Qcow2 *s, uint64_t offset, uint64_t *bytes, unsigned flags)
{
    bool unmap = (flags & BLOCK_MAY_UNMAP) && !(flags & BLOCK_NO_UNMAP);
    uint64_t at = offset, end = offset + *bytes, slice_span;
    BlockNode *backing = block_node_backing(&s->parent);
    Qcow2Run run;
    int e;

    pthread_mutex_lock(&s->lock);
    e = s->corrupt ? EIO : qcow2_map(s, offset, *bytes, &run);
    if (!e && run.kind == QCOW2_UNALLOCATED && (!backing || offset >= block_node_length(backing))) {
        at = offset + run.bytes; /* zeroes as it is */
        goto out;
    }
    slice_span = (uint64_t)(s->l2.bytes / s->l2_entry_bytes) << s->cluster_bits;
    end = MIN(end, (offset & ~(slice_span - 1)) + slice_span);
    while (at < end && !e) {
        uint64_t stop = MIN(end, qcow2_cluster_start(s, at) + s->cluster_size);
        Qcow2Entry old, new;
        Qcow2Slice *slice;
        unsigned index;

        e = qcow2_slice_for_write(s, at, &slice, &index);
        if (e) {
            break;
        }
        old = qcow2_slice_entry(s, slice, index);
        if (broken(s, old, qcow2_within(s, at), qcow2_within(s, stop - 1) + 1)) {
            e = EIO;
        } else if (!zeroed_entry(s, old, qcow2_within(s, at), qcow2_within(s, stop - 1) + 1, unmap,
                                 backing && at < block_node_length(backing), &new)) {
            e = ENOTSUP;
        } else if (new.entry != old.entry || new.bitmap != old.bitmap) {
            qcow2_slice_set(s, slice, index, new);
            if ((old.entry ^ new.entry) & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED)) {
                qcow2_free_entry(s, old.entry);
            }
        }
        at = e ? at : stop;
    }
out:
    pthread_mutex_unlock(&s->lock);
    *bytes = at - offset;
    return e == ENOTSUP && at > offset ? 0 : e;
}

/* Less than a unit, or what cannot be marked. */
static int zero_with_data(Qcow2 *s, uint64_t offset, uint64_t bytes, unsigned flags)
{
    bool zero;
    int e;

    pthread_mutex_lock(&s->lock);
    e = qcow2_sees_zeroes(s, offset, offset + bytes, &zero);
    pthread_mutex_unlock(&s->lock);
    if (e || zero) {
        return e;
    }
    return flags & BLOCK_NO_FALLBACK ? ENOTSUP : write_zero_buffer(s, offset, bytes);
}

int qcow2_zero(Qcow2 *s, uint64_t offset, uint64_t bytes, unsigned flags)
{
    uint64_t end = offset + bytes, unit = s->version < 3 ? s->cluster_size : s->subcluster_size;
    uint64_t length = block_node_length(&s->parent);
    int e = 0;

    if (end == length) {
        end = rounded_length(s);
    }
    while (offset < MIN(end, length) && !e) {
        uint64_t next = MIN((offset & ~(unit - 1)) + unit, end), n;

        if (offset & (unit - 1) || end - offset < unit) {
            n = next - offset;
            e = zero_with_data(s, offset, MIN(n, length - offset), flags);
            offset += n;
            continue;
        }
        n = (end & ~(unit - 1)) - offset;
        if (s->has_data_file) {
            Qcow2Run run;

            pthread_mutex_lock(&s->lock);
            e = qcow2_map(s, offset, MIN(n, length - offset), &run);
            pthread_mutex_unlock(&s->lock);
            if (!e && run.kind == QCOW2_DATA) {
                e = zero_in_data_file(s, offset, run.bytes, flags);
                offset += e ? 0 : run.bytes;
                continue;
            }
            n = MIN(n, (run.bytes + unit - 1) & ~(unit - 1));
            e = e             ? e
                : s->data_raw ? zero_in_data_file(s, offset, MIN(n, length - offset), flags)
                              : 0;
        }
        e = e ? e : zero_units(s, offset, &n, flags);
        if (e == ENOTSUP) {
            n = MIN(s->cluster_size - qcow2_within(s, offset), end - offset);
            e = zero_with_data(s, offset, MIN(n, length - offset), flags);
        }
        offset += n;
    }
    return e;
}

/* ---- discards -------------------------------------------------------------------------------- */

/* What becomes of a discarded cluster; false: it stays. */
static bool discarded_entry(const Qcow2 *s, Qcow2Entry old, bool full, Qcow2Entry *out)
{
    bool backed = block_node_backing(&s->parent);

    *out = (Qcow2Entry){ 0, 0 };
    if (full) {
        return true;
    }
    if (s->version < 3) {
        return !backed; /* it would show what is below, not zeroes */
    }
    if (qcow2_entry_kind(s, old, 0) == QCOW2_UNALLOCATED && s->subclusters == 1 && !backed) {
        return false;
    }
    if (s->subclusters > 1) {
        out->bitmap = ALL_ZERO;
        return old.entry || old.bitmap || backed;
    }
    out->entry = QCOW2_ZERO;
    return true;
}

static int discard_in_slice(Qcow2 *s, uint64_t offset, uint64_t end, bool full, uint64_t *next)
{
    Qcow2Run run;
    int e = s->corrupt ? EIO : qcow2_map(s, offset, end - offset, &run);
    uint64_t span = (uint64_t)(s->l2.bytes / s->l2_entry_bytes) << s->cluster_bits, stop;

    *next = offset;
    if (e) {
        return e;
    }
    if (run.kind == QCOW2_UNALLOCATED && (full || !block_node_backing(&s->parent))) {
        *next = MIN(end, offset + run.bytes);
        return 0;
    }
    stop = MIN(end, (offset & ~(span - 1)) + span);
    for (uint64_t at = offset; at < stop; at += s->cluster_size) {
        Qcow2Entry old, new;
        Qcow2Slice *slice;
        unsigned index;

        e = qcow2_slice_for_write(s, at, &slice, &index);
        if (e) {
            return e;
        }
        old = qcow2_slice_entry(s, slice, index);
        if (discarded_entry(s, old, full, &new) &&
            (old.entry != new.entry || old.bitmap != new.bitmap)) {
            qcow2_slice_set(s, slice, index, new);
            qcow2_free_entry(s, old.entry);
        }
        *next = at + s->cluster_size;
    }
    return 0;
}

int qcow2_discard(Qcow2 *s, uint64_t offset, uint64_t bytes, bool full)
{
    uint64_t end = offset + bytes;
    int e = 0;

    if (end == block_node_length(&s->parent)) {
        end = rounded_length(s);
    }
    end = qcow2_cluster_start(s, end);
    offset = qcow2_cluster_start(s, offset + s->cluster_size - 1);
    if (offset >= end) {
        return 0;
    }
    if (s->has_data_file && !full) {
        return qcow2_zero(s, offset, MIN(end, block_node_length(&s->parent)) - offset,
                          BLOCK_MAY_UNMAP);
    }
    while (offset < end && !e) {
        pthread_mutex_lock(&s->lock);
        e = discard_in_slice(s, offset, end, full, &offset);
        pthread_mutex_unlock(&s->lock);
    }
    return e;
}
