/*
 * qcow2: more refcounts: a block for clusters that had none, a larger table of blocks.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

static int pwrite_file(Qcow2 *s, uint64_t offset, const void *buf, size_t len)
{
    return block_node_pwrite(block_node_file(&s->parent), offset, buf, len, 0);
}

/* A refcount block for entry `i`, in the first of the clusters that it counts: it counts itself.
 * `grow` and `lock` are held. */
static int add_block(Qcow2 *s, uint64_t i)
{
    uint64_t place = (i << s->rb_bits) << s->cluster_bits, entry = GUINT64_TO_BE(place);
    uint8_t *block;
    int e;

    if (qcow2_meta_overlaps(s, place, s->cluster_size)) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "metadata in a cluster that is counted as free", place);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    s->fresh_from = MAX(s->fresh_from, place + s->cluster_size);
    pthread_mutex_unlock(&s->lock);
    block = g_malloc0(s->cluster_size);
    qcow2_refcount_set(block, s->refcount_order, 0, 1);
    e = pwrite_file(s, place, block, s->cluster_size);
    g_free(block);
    e = e ? e : block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
    e = e ? e : pwrite_file(s, s->rt_offset + 8 * i, &entry, 8);
    pthread_mutex_lock(&s->lock);
    if (!e && !qcow2_meta_add(s, place, 1)) {
        e = ENOMEM;
    }
    if (!e) {
        qcow2_cache_forget(&s->rb, place, s->cluster_size);
        s->rt[i] = place;
        s->need_order = true;
    }
    return e;
}

typedef struct NewTable {
    uint64_t start, blocks, clusters; /* first cluster; of refcount blocks, then of the table */
    uint32_t entries;
} NewTable;

/* A table that reaches to entry `i`: it lies, behind refcount blocks for itself, where that entry's
 * clusters begin, which nobody can have used. */
static int plan_table(const Qcow2 *s, uint64_t i, NewTable *t)
{
    uint64_t want = MAX(i + 1, (uint64_t)s->rt_entries + s->rt_entries / 2), bytes;

    t->start = i << s->rb_bits;
    t->blocks = 1;
    for (;;) {
        uint64_t blocks;

        bytes = 8 * MAX(want, i + t->blocks + 1);
        t->clusters = qcow2_clusters(s, bytes);
        blocks = ((t->clusters + t->blocks) >> s->rb_bits) + 1;
        if (blocks <= t->blocks) {
            break;
        }
        t->blocks = blocks;
    }
    if (t->clusters << s->cluster_bits > QCOW2_MAX_RT_BYTES) {
        return EFBIG;
    }
    t->entries = (uint32_t)((t->clusters << s->cluster_bits) / 8);
    return 0;
}

static int write_table(Qcow2 *s, const NewTable *t, const uint64_t *rt)
{
    uint64_t place = t->start << s->cluster_bits, used = t->blocks + t->clusters;
    uint64_t in_block = UINT64_C(1) << s->rb_bits;
    uint8_t *block = g_malloc(s->cluster_size);
    uint64_t *be = g_new(uint64_t, t->entries);
    int e = 0;

    for (uint64_t b = 0; b < t->blocks && !e; b++) {
        memset(block, 0, s->cluster_size);
        for (uint64_t c = b * in_block; c < MIN(used, (b + 1) * in_block); c++) {
            qcow2_refcount_set(block, s->refcount_order, c - b * in_block, 1);
        }
        e = pwrite_file(s, place + (b << s->cluster_bits), block, s->cluster_size);
    }
    for (uint32_t i = 0; i < t->entries; i++) {
        be[i] = GUINT64_TO_BE(rt[i]);
    }
    e = e ? e : pwrite_file(s, place + (t->blocks << s->cluster_bits), be, 8 * (size_t)t->entries);
    g_free(block);
    g_free(be);
    return e ? e : block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
}

/* `grow` and `lock` are held. */
static int grow_table(Qcow2 *s, uint64_t i)
{
    NewTable t;
    uint64_t old = s->rt_offset, old_clusters = s->rt_clusters, *rt;
    int e = plan_table(s, i, &t);

    if (e) {
        return e;
    }
    if (qcow2_meta_overlaps(s, t.start << s->cluster_bits,
                            (t.blocks + t.clusters) << s->cluster_bits)) {
        return EIO;
    }
    rt = g_new0(uint64_t, t.entries);
    memcpy(rt, s->rt, 8 * (size_t)s->rt_entries);
    for (uint64_t b = 0; b < t.blocks; b++) {
        rt[i + b] = (t.start + b) << s->cluster_bits;
    }
    s->fresh_from = MAX(s->fresh_from, (t.start + t.blocks + t.clusters) << s->cluster_bits);
    pthread_mutex_unlock(&s->lock);
    e = write_table(s, &t, rt);
    pthread_mutex_lock(&s->lock);
    if (!e && !qcow2_meta_add(s, t.start << s->cluster_bits, t.blocks + t.clusters)) {
        e = ENOMEM;
    }
    if (e) {
        g_free(rt);
        return e;
    }
    g_free(s->rt);
    s->rt = rt;
    s->rt_entries = t.entries;
    s->rt_offset = (t.start + t.blocks) << s->cluster_bits;
    s->rt_clusters = (uint32_t)t.clusters;
    s->need_order = true;
    pthread_mutex_unlock(&s->lock);
    e = qcow2_header_write_fields(s);
    e = e ? e : block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
    pthread_mutex_lock(&s->lock);
    if (e) { /* which of the two the header names is not known: no more changes */
        s->corrupt = true;
        return e;
    }
    qcow2_free_later(s, old, old_clusters);
    return 0;
}

/* `lock` is held; so is `grow` if `held`. */
int qcow2_refcount_grow(Qcow2 *s, uint64_t ci, bool held)
{
    uint64_t i = ci >> s->rb_bits;
    int e = 0;

    if (!held) {
        pthread_mutex_unlock(&s->lock);
        qcow2_lock_across_io(&s->grow);
        pthread_mutex_lock(&s->lock);
    }
    if (s->corrupt) {
        e = EIO;
    } else if (i >= s->rt_entries) {
        e = grow_table(s, i);
    } else if (!s->rt[i]) {
        e = add_block(s, i);
    }
    if (!held) {
        pthread_mutex_unlock(&s->lock);
        pthread_mutex_unlock(&s->grow);
        pthread_mutex_lock(&s->lock);
    }
    return e;
}
