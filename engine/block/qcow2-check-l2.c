/* Checking an image: its L2 tables, and what their entries refer to. */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-check.h"

#define BATCH           (UINT64_C(1) << 20) /* bytes of L2 tables that are read at once */
#define L2_RESERVED     UINT64_C(0x3f000000000001fe)
#define ALL_SUBCLUSTERS UINT64_C(0xffffffff)

/* ---- L2 tables ------------------------------------------------------------------------------- */

/* An L2 table that is looked at. */
typedef struct L2Table {
    uint64_t offset, times;        /* that it is referred to */
    uint64_t active;               /* of them, from the active L1 table */
    uint64_t *words;               /* host order */
    uint64_t next;                 /* where the next cluster would be in a row; 0: none yet */
    uint64_t dirty_from, dirty_to; /* words that were put right */
} L2Table;

static void set_entry(Qcow2Check *ck, L2Table *l2, uint64_t index, uint64_t entry, uint64_t bitmap)
{
    unsigned words = qcow2_l2_words(&ck->t);

    l2->words[index * words] = entry;
    if (words == 2) {
        l2->words[index * 2 + 1] = bitmap;
    }
    if (l2->dirty_from >= l2->dirty_to) {
        l2->dirty_from = index * words;
    }
    l2->dirty_to = (index + 1) * words;
    ck->r.corruptions_fixed++;
}

/* Wrong; put right as zeroes when that is allowed. true: done. */
static bool wrong(Qcow2Check *ck, L2Table *l2, uint64_t index, const char *what)
{
    bool fix = ck->fix & BLOCK_FIX_ERRORS;

    qcow2_check_report(
        ck, "%sentry %" G_GUINT64_FORMAT " of the L2 table at %#" G_GINT64_MODIFIER "x: %s",
        fix ? "repaired: " : "", index, l2->offset, what);
    if (!fix) {
        ck->r.corruptions += l2->times;
        return false;
    }
    set_entry(ck, l2, index, ck->t.extended_l2 || ck->t.version < 3 ? 0 : QCOW2_ZERO,
              ALL_SUBCLUSTERS << 32);
    return true;
}

static void count_fragments(Qcow2Check *ck, L2Table *l2, uint64_t offset)
{
    ck->r.allocated_clusters += l2->active;
    ck->r.fragmented_clusters += l2->next && offset != l2->next ? l2->active : 0;
    l2->next = offset + ck->t.cluster_size;
}

static int check_compressed(Qcow2Check *ck, L2Table *l2, uint64_t index, uint64_t entry,
                            uint64_t bitmap)
{
    uint64_t offset, bytes;

    if (entry & QCOW2_COPIED) {
        qcow2_check_report(ck, "a compressed cluster has the COPIED flag");
        ck->r.corruptions += l2->times;
    }
    if (ck->t.data_file) {
        wrong(ck, l2, index, "a compressed cluster in an image with a data file");
        return 0;
    }
    if (bitmap) {
        wrong(ck, l2, index, "a compressed cluster with subclusters");
        return 0;
    }
    qcow2_compressed_range(&ck->t, entry, &offset, &bytes);
    ck->r.allocated_clusters += l2->active;
    ck->r.compressed_clusters += l2->active;
    ck->r.fragmented_clusters += l2->active; /* they are read in pieces anyhow */
    return qcow2_check_mark(ck, offset, bytes, l2->times, "a compressed cluster");
}

/* The flag says that the refcount is one; of standard clusters with a place. */
static bool wrong_copied(const Qcow2Check *ck, uint64_t entry)
{
    uint64_t n = (entry & QCOW2_OFFSET_MASK) >> ck->t.cluster_bits;

    return (ck->t.data_file || qcow2_counts_get(ck->stored, n) == 1) != (entry >> 63);
}

static int check_entry(Qcow2Check *ck, L2Table *l2, uint64_t index)
{
    unsigned words = qcow2_l2_words(&ck->t);
    uint64_t entry = l2->words[index * words], bitmap = words == 2 ? l2->words[index * 2 + 1] : 0;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    bool zero = words == 1 && entry & QCOW2_ZERO, data;

    if (entry == 0 && bitmap == 0) {
        return 0;
    }
    if (entry & QCOW2_COMPRESSED) {
        return check_compressed(ck, l2, index, entry, bitmap);
    }
    if (entry & L2_RESERVED) {
        qcow2_check_report(ck, "an L2 entry has reserved bits set: %#" G_GINT64_MODIFIER "x",
                           entry);
        ck->r.corruptions += l2->times;
    }
    if (offset == 0 && !(ck->t.data_file && entry & QCOW2_COPIED)) { /* it has no place */
        if (bitmap & ALL_SUBCLUSTERS) {
            wrong(ck, l2, index, "subclusters without a place");
        }
        return 0;
    }
    if (bitmap >> 32 & bitmap & ALL_SUBCLUSTERS) {
        if (wrong(ck, l2, index, "subclusters that are allocated and zero")) {
            return 0;
        }
    }
    data = words == 2 ? bitmap & ALL_SUBCLUSTERS : !zero;
    if (offset % ck->t.cluster_size) {
        if (data) {
            qcow2_check_report(ck, "a data cluster at %#" G_GINT64_MODIFIER "x is not aligned",
                               offset);
            ck->r.corruptions += l2->times;
        } else if (wrong(ck, l2, index, "a preallocated cluster that is not aligned")) {
            return 0;
        }
    }
    if (l2->active) {
        count_fragments(ck, l2, offset);
        if (!ck->fix && wrong_copied(ck, entry)) {
            qcow2_check_report(ck, "wrong COPIED flag: %#" G_GINT64_MODIFIER "x", entry);
            ck->r.corruptions += l2->active;
        }
    }
    return ck->t.data_file
               ? 0
               : qcow2_check_mark(ck, offset, ck->t.cluster_size, l2->times, "a data cluster");
}

static int check_table(Qcow2Check *ck, L2Table *l2)
{
    uint64_t n = qcow2_l2_entries(&ck->t), count = n * qcow2_l2_words(&ck->t);
    int error = 0;

    for (uint64_t i = 0; i < count; i++) {
        l2->words[i] = GUINT64_FROM_BE(l2->words[i]);
    }
    for (uint64_t i = 0; !error && i < n; i++) {
        error = check_entry(ck, l2, i);
    }
    if (!error && l2->dirty_from < l2->dirty_to) {
        error = qcow2_table_write(&ck->t, l2->offset + l2->dirty_from * 8,
                                  l2->words + l2->dirty_from, l2->dirty_to - l2->dirty_from);
    }
    return error;
}

int qcow2_check_l2(Qcow2Check *ck, uint64_t cluster, uint64_t *words)
{
    L2Table l2 = { .offset = cluster << ck->t.cluster_bits,
                   .times = qcow2_counts_get(ck->l2, cluster),
                   .active = qcow2_counts_get(ck->active, cluster),
                   .words = words };

    return check_table(ck, &l2);
}

int qcow2_check_odd(Qcow2Check *ck)
{
    g_autofree uint64_t *words = ck->odd->len ? g_try_malloc(ck->t.cluster_size) : NULL;
    int error = ck->odd->len && !words ? ENOMEM : 0;

    for (unsigned i = 0; !error && i < ck->odd->len; i++) {
        const Qcow2OddTable *odd = &g_array_index(ck->odd, Qcow2OddTable, i);
        uint64_t there = MIN(ck->t.cluster_size, ck->t.file_bytes - odd->offset);
        L2Table l2 = { .offset = odd->offset, .times = 1, .active = odd->active, .words = words };

        memset((uint8_t *)words + there, 0, ck->t.cluster_size - there);
        error = block_node_pread(ck->t.file, odd->offset, words, there);
        error = error ? error : check_table(ck, &l2);
        if (!error && !qcow2_check_step(ck, 1)) {
            error = ECANCELED;
        }
    }
    return error;
}

/* Clusters of L2 tables in a row from `at` on, at most so many. */
static uint64_t l2_run(const Qcow2Check *ck, uint64_t at, uint64_t max)
{
    uint64_t n = 0;

    while (n < max && qcow2_counts_get(ck->l2, at + n)) {
        n++;
    }
    return n;
}

int qcow2_check_visit(Qcow2Check *ck, Qcow2CheckVisit visit)
{
    uint64_t batch = MAX(BATCH >> ck->t.cluster_bits, 1), at = qcow2_counts_next(ck->l2, 0);
    g_autofree uint8_t *buf = g_try_malloc(batch << ck->t.cluster_bits);

    if (!buf) {
        return ENOMEM;
    }
    while (at < ck->clusters) {
        uint64_t n = l2_run(ck, at, batch), offset = at << ck->t.cluster_bits;
        uint64_t bytes = MIN(n << ck->t.cluster_bits, ck->t.file_bytes - offset);
        int error;

        if (n == 0) {
            at = at % QCOW2_COUNTS_PAGE == QCOW2_COUNTS_PAGE - 1 ? qcow2_counts_next(ck->l2, at + 1)
                                                                 : at + 1;
            continue;
        }
        memset(buf + bytes, 0, (n << ck->t.cluster_bits) - bytes);
        error = block_node_pread(ck->t.file, offset, buf, bytes);
        for (uint64_t i = 0; !error && i < n; i++) {
            /* Aligned as memory is: a cluster is 512 bytes at least. */
            error = visit(ck, at + i, (uint64_t *)(void *)(buf + (i << ck->t.cluster_bits)));
        }
        if (!error && !qcow2_check_step(ck, n)) {
            error = ECANCELED;
        }
        if (error) {
            return error;
        }
        at += n;
    }
    return 0;
}
