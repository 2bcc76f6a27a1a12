/* Changing all of an image's metadata at once: see qcow2-rewrite.h. */
#include "engine/block/qcow2-rewrite.h"

#include <errno.h>
#include <string.h>

#define MAX_CLUSTERS (UINT64_C(1) << 37) /* that are allocated */
#define OFFSET_END   (UINT64_C(1) << 55) /* L1 and L2 entries reach no further */

void qcow2_rewrite_init(Qcow2Rewrite *rw, const Qcow2Tables *t, Qcow2Counts *old, Qcow2Counts *now,
                        bool fresh)
{
    *rw = (Qcow2Rewrite){ .t = t,
                          .old = old,
                          .now = now,
                          .fresh = fresh,
                          .size = t->size,
                          .l1_offset = t->l1_offset,
                          .l1_size = t->l1_size,
                          .snapshots_offset = t->snapshots_offset,
                          .n_snapshots = t->n_snapshots };
    qcow2_counts_grow(old, MAX_CLUSTERS);
    qcow2_counts_grow(now, MAX_CLUSTERS);
}

int qcow2_rewrite_begin(Qcow2Rewrite *rw, const Qcow2Tables *t)
{
    Qcow2Counts *old, *now;
    int error = qcow2_counts_load(t, &old);

    memset(rw, 0, sizeof(*rw));
    if (error) {
        return error;
    }
    now = qcow2_counts_copy(old);
    if (!now) {
        qcow2_counts_free(old);
        return ENOMEM;
    }
    qcow2_rewrite_init(rw, t, old, now, false);
    return 0;
}

void qcow2_rewrite_clear(Qcow2Rewrite *rw)
{
    qcow2_counts_free(g_steal_pointer(&rw->old));
    qcow2_counts_free(g_steal_pointer(&rw->now));
    g_clear_pointer(&rw->table, g_free);
    g_clear_pointer(&rw->replaced, g_free);
}

int qcow2_rewrite_alloc(Qcow2Rewrite *rw, uint64_t clusters, uint64_t *offset)
{
    uint64_t at = MAX(rw->cursor, 1), run = 0;

    /* Ends: what is beyond the last counted cluster is free. */
    while (run < clusters) {
        bool is_free = !qcow2_counts_get(rw->old, at + run) && !qcow2_counts_get(rw->now, at + run);

        if (is_free) {
            run++;
        } else {
            at += run + 1;
            run = 0;
        }
    }
    if ((at + clusters) > OFFSET_END >> rw->t->cluster_bits || at + clusters > MAX_CLUSTERS) {
        return EFBIG;
    }
    for (uint64_t i = 0; i < clusters; i++) {
        int error = qcow2_counts_set(rw->now, at + i, 1);

        if (error) {
            return error;
        }
    }
    if (clusters == 1) {
        rw->cursor = at + 1; /* nothing below it becomes free before the end */
    }
    *offset = at << rw->t->cluster_bits;
    return 0;
}

int qcow2_rewrite_ref(Qcow2Rewrite *rw, uint64_t offset, uint64_t bytes, int64_t delta)
{
    uint64_t end;

    if (bytes == 0) {
        return 0;
    }
    if (__builtin_add_overflow(offset, bytes - 1, &end)) {
        return ERANGE;
    }
    for (uint64_t i = offset >> rw->t->cluster_bits; i <= end >> rw->t->cluster_bits; i++) {
        int error = qcow2_counts_add(rw->now, i, delta);

        if (error) {
            return error;
        }
    }
    return 0;
}

int qcow2_rewrite_snapshots(Qcow2Rewrite *rw, const GArray *snapshots, uint64_t old_bytes)
{
    GByteArray *bytes = qcow2_snapshots_pack(rw->t, snapshots);
    uint64_t size = rw->t->cluster_size, clusters = (bytes->len + size - 1) / size, offset = 0;
    int error = qcow2_rewrite_ref(rw, rw->t->snapshots_offset, old_bytes, -1);

    if (!error && bytes->len > QCOW2_SNAPTABLE_MAX) {
        error = EFBIG;
    }
    if (!error && clusters > 0) {
        guint len = bytes->len;

        error = qcow2_rewrite_alloc(rw, clusters, &offset);
        g_byte_array_set_size(bytes, (guint)(clusters * size));
        memset(bytes->data + len, 0, bytes->len - len);
        error = error ? error : block_node_pwrite(rw->t->file, offset, bytes->data, bytes->len, 0);
    }
    rw->snapshots_offset = offset;
    rw->n_snapshots = snapshots->len;
    g_byte_array_free(bytes, TRUE);
    return error;
}

/* ---- the refcount structure ------------------------------------------------------------------ */

/* Whether block `index` says something else than before; *used: whether it counts anything. */
static bool block_differs(const Qcow2Rewrite *rw, uint64_t index, bool *used)
{
    uint64_t per = qcow2_refblock_entries(rw->t), first = index * per, end = first + per;
    bool differs = rw->fresh;

    *used = false;
    for (uint64_t i = first; i < end && !(*used && differs); i++) {
        uint64_t a, b;

        if (i % QCOW2_COUNTS_PAGE == 0 || i == first) { /* skip what has no page in either */
            a = MIN(qcow2_counts_next(rw->old, i), qcow2_counts_next(rw->now, i));
            if (a > i) {
                i = MIN(a, end) - 1;
                continue;
            }
        }
        a = qcow2_counts_get(rw->old, i);
        b = qcow2_counts_get(rw->now, i);
        *used |= b != 0;
        differs |= a != b;
    }
    return differs;
}

static bool is_replaced(const Qcow2Rewrite *rw, uint64_t index)
{
    return rw->replaced[index / 64] >> (index % 64) & 1;
}

/* Block `index` gets a new cluster if it has to; *again: counts have changed by that. */
static int place_block(Qcow2Rewrite *rw, uint64_t index, bool *again)
{
    bool used, differs = block_differs(rw, index, &used);
    int error = 0;

    if (differs && !is_replaced(rw, index)) {
        rw->replaced[index / 64] |= UINT64_C(1) << (index % 64);
        *again = true;
        if (rw->table[index]) {
            error = rw->fresh ? 0 : qcow2_rewrite_ref(rw, rw->table[index], 1, -1);
            rw->table[index] = 0;
        }
    }
    if (!error && used && !rw->table[index]) {
        rw->replaced[index / 64] |= UINT64_C(1) << (index % 64);
        *again = true;
        error = qcow2_rewrite_alloc(rw, 1, &rw->table[index]);
    }
    return error;
}

/* The first block from `index` on that counts or counted anything: counts of foreign images can be
 * far apart. */
static uint64_t next_block(const Qcow2Rewrite *rw, uint64_t index)
{
    uint64_t per = qcow2_refblock_entries(rw->t), first = index * per;
    uint64_t next = MIN(qcow2_counts_next(rw->old, first), qcow2_counts_next(rw->now, first));

    return next == UINT64_MAX ? next : MAX(index, next / per);
}

static uint64_t entries_needed(const Qcow2Rewrite *rw)
{
    uint64_t per = qcow2_refblock_entries(rw->t);

    return MAX((qcow2_counts_end(rw->now) + per - 1) / per, 1);
}

/* A table of at least so many entries, the old blocks in it. */
static int place_table(Qcow2Rewrite *rw, uint64_t entries)
{
    uint64_t per_cluster = rw->t->cluster_size / 8;
    uint64_t clusters = (MAX(entries, rw->fresh ? 0 : rw->t->reftable_entries) + per_cluster - 1) /
                        per_cluster;
    uint64_t before = rw->entries, words;
    int error = 0;

    if (clusters * rw->t->cluster_size > QCOW2_MAX_RT_BYTES) {
        return EFBIG;
    }
    if (rw->table_offset) { /* one that turned out too small */
        error = qcow2_rewrite_ref(rw, rw->table_offset, before * 8, -1);
    }
    words = before ? before / 64 + 1 : 0;
    rw->entries = clusters * per_cluster;
    rw->table = g_renew(uint64_t, rw->table, rw->entries);
    memset(rw->table + before, 0, (rw->entries - before) * 8);
    rw->replaced = g_renew(uint64_t, rw->replaced, rw->entries / 64 + 1);
    memset(rw->replaced + words, 0, (rw->entries / 64 + 1 - words) * 8);
    return error ? error : qcow2_rewrite_alloc(rw, clusters, &rw->table_offset);
}

static int place_structure(Qcow2Rewrite *rw)
{
    bool again = true;
    int error = place_table(rw, entries_needed(rw));

    if (!error && !rw->fresh) {
        memcpy(rw->table, rw->t->reftable, rw->t->reftable_entries * 8);
        error = qcow2_rewrite_ref(rw, rw->t->reftable_offset,
                                  rw->t->reftable_clusters * rw->t->cluster_size, -1);
        /* Reserved bits are not carried on. */
        for (uint64_t i = 0; i < rw->t->reftable_entries; i++) {
            rw->table[i] &= QCOW2_REFBLOCKS;
        }
    }
    /* Ends: a block is replaced once and given a cluster once, the table grows up to its limit. */
    while (!error && again) {
        uint64_t needed = entries_needed(rw);

        again = false;
        if (needed > rw->entries) {
            error = place_table(rw, needed + needed / 8);
            again = true;
        }
        for (uint64_t i = next_block(rw, 0); !error && i < rw->entries; i = next_block(rw, i + 1)) {
            error = place_block(rw, i, &again);
        }
    }
    return error;
}

static int write_block(Qcow2Rewrite *rw, uint64_t index, uint8_t *block)
{
    uint64_t per = qcow2_refblock_entries(rw->t), first = index * per;
    uint64_t max = qcow2_refcount_max(rw->t);

    memset(block, 0, rw->t->cluster_size);
    for (uint64_t i = 0; i < per; i++) {
        uint64_t count = qcow2_counts_get(rw->now, first + i);

        if (count > max) {
            return EOVERFLOW;
        }
        if (count > 0) {
            qcow2_refcount_set(block, rw->t->refcount_order, i, count);
        }
    }
    return block_node_pwrite(rw->t->file, rw->table[index], block, rw->t->cluster_size, 0);
}

static void put_be(uint8_t *p, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
    }
}

static int write_header(const Qcow2Rewrite *rw)
{
    uint8_t header[QCOW2_HEADER_V2];

    memcpy(header, rw->t->header, sizeof(header));
    put_be(header + 24, rw->size, 8);
    put_be(header + 36, rw->l1_size, 4);
    put_be(header + 40, rw->l1_offset, 8);
    put_be(header + 48, rw->table_offset, 8);
    put_be(header + 56, rw->entries * 8 >> rw->t->cluster_bits, 4);
    put_be(header + 60, rw->n_snapshots, 4);
    put_be(header + 64, rw->snapshots_offset, 8);
    return block_node_pwrite(rw->t->file, 0, header, sizeof(header), 0);
}

int qcow2_rewrite_commit(Qcow2Rewrite *rw)
{
    BlockNode *file = rw->t->file;
    g_autofree uint8_t *block = g_malloc(rw->t->cluster_size);
    int error = place_structure(rw);

    for (uint64_t i = 0; !error && i < rw->entries; i++) {
        if (is_replaced(rw, i) && rw->table[i]) {
            error = write_block(rw, i, block);
        }
    }
    error = error ? error : qcow2_table_write(rw->t, rw->table_offset, rw->table, rw->entries);
    error = error ? error : block_node_sync_op(file, BLOCK_OP_FLUSH, 0, 0, 0);
    error = error ? error : write_header(rw);
    return error ? error : block_node_sync_op(file, BLOCK_OP_FLUSH, 0, 0, 0);
}

void qcow2_rewrite_discard(const Qcow2Rewrite *rw)
{
    uint64_t at = qcow2_counts_next(rw->old, 0), start = UINT64_MAX;

    for (; at != UINT64_MAX; at++) {
        bool freed = qcow2_counts_get(rw->old, at) && !qcow2_counts_get(rw->now, at);

        if (freed && start == UINT64_MAX) {
            start = at;
        } else if (!freed && start != UINT64_MAX) {
            /* A hint: that it fails is no harm. */
            block_node_sync_op(rw->t->file, BLOCK_OP_DISCARD, start << rw->t->cluster_bits,
                               (at - start) << rw->t->cluster_bits, 0);
            start = UINT64_MAX;
        }
        if (at % QCOW2_COUNTS_PAGE == 0) {
            uint64_t next = qcow2_counts_next(rw->old, at);

            at = next == UINT64_MAX ? next - 1 : MAX(at, next);
        }
    }
}
