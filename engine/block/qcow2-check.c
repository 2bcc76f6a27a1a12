/*
 * Checking an image: what refers to which cluster, against what its refcounts say. The counts are
 * those of `qemu-img check`.
 *
 * L2 tables are read once each, in the order of the file, whatever number of L1 tables refers to
 * them; so the time is bounded by the file, not by what a foreign image says.
 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "engine/block/qcow2-check.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

#define BATCH (UINT64_C(1) << 20) /* bytes of L2 tables that are read at once */

#define L2_RESERVED     UINT64_C(0x3f000000000001fe)
#define L1_RESERVED     UINT64_C(0x7f000000000001ff)
#define REFT_RESERVED   UINT64_C(0x1ff)
#define BITMAP_RESERVED UINT64_C(0xff000000000001fe)
#define ALL_SUBCLUSTERS UINT64_C(0xffffffff)

void qcow2_check_report(Qcow2Check *ck, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list ap;

    if (!log_enabled(LOG_STATE)) {
        return;
    }
    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    log_mask(LOG_STATE, "'%s': %s", block_node_name(ck->node), line);
}

bool qcow2_check_step(Qcow2Check *ck, uint64_t steps)
{
    ck->done += steps;
    return !ck->progress || ck->progress(ck->opaque, MIN(ck->done, ck->total), ck->total);
}

/* ---- references ------------------------------------------------------------------------------ */

/* As many as a refcount of this image can say. A cluster that begins at the end of the file may be
 * referred to in part. */
static int add_references(Qcow2Check *ck, uint64_t cluster, uint64_t times)
{
    uint64_t room = qcow2_refcount_max(&ck->t) - qcow2_counts_get(ck->refs, cluster);

    if (times > room) {
        qcow2_check_report(
            ck, "more references to cluster %" G_GUINT64_FORMAT " than can be counted", cluster);
        ck->r.corruptions += times - room;
        times = room;
    }
    ck->clusters = MAX(ck->clusters, cluster + 1);
    return times ? qcow2_counts_add(ck->refs, cluster, (int64_t)times) : 0;
}

/* So many references to each cluster of [offset, offset+bytes). */
static int mark(Qcow2Check *ck, uint64_t offset, uint64_t bytes, uint64_t times, const char *what)
{
    uint64_t end, first = offset >> ck->t.cluster_bits;

    if (bytes == 0 || times == 0) {
        return 0;
    }
    if (__builtin_add_overflow(offset, bytes, &end) ||
        (end > ck->t.file_bytes && end - ck->t.file_bytes >= ck->t.cluster_size)) {
        qcow2_check_report(ck, "%s at %#" G_GINT64_MODIFIER "x is beyond the end of the file", what,
                           offset);
        ck->r.corruptions += times;
        return 0;
    }
    for (uint64_t i = first; i <= (end - 1) >> ck->t.cluster_bits; i++) {
        int error = add_references(ck, i, times);

        if (error) {
            return error;
        }
    }
    return 0;
}

/* The entries of an L1 table, into ck->l2. */
static int mark_l1(Qcow2Check *ck, const uint64_t *l1, uint64_t entries, bool active)
{
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t offset = l1[i] & QCOW2_OFFSET_MASK, n = offset >> ck->t.cluster_bits;
        int error;

        if (l1[i] == 0) {
            continue;
        }
        if (l1[i] & L1_RESERVED) {
            qcow2_check_report(
                ck, "entry %" G_GUINT64_FORMAT " of an L1 table has reserved bits set", i);
            ck->r.corruptions++;
        }
        if (active && !ck->fix && offset &&
            (qcow2_counts_get(ck->stored, n) == 1) != (l1[i] >> 63)) {
            qcow2_check_report(ck, "wrong COPIED flag of an L2 table: %#" G_GINT64_MODIFIER "x",
                               l1[i]);
            ck->r.corruptions++;
        }
        error = mark(ck, offset, ck->t.cluster_size, 1, "an L2 table");
        if (offset % ck->t.cluster_size) {
            qcow2_check_report(ck, "L2 table at %#" G_GINT64_MODIFIER "x is not aligned", offset);
            ck->r.corruptions++;
        } else if (!error && n < ck->clusters) {
            error = qcow2_counts_add(ck->l2, n, 1);
            error = error ? error : active ? qcow2_counts_add(ck->active, n, 1) : 0;
        }
        if (error) {
            return error;
        }
    }
    return 0;
}

static int mark_snapshot(Qcow2Check *ck, const Qcow2Snapshot *sn)
{
    g_autofree uint64_t *l1 = NULL;
    int error;

    if (sn->l1_offset % ck->t.cluster_size || sn->l1_size * UINT64_C(8) > QCOW2_MAX_L1_BYTES) {
        qcow2_check_report(ck, "the L1 table of snapshot '%s' is too large or not aligned",
                           sn->name);
        ck->r.corruptions++;
        return 0;
    }
    error = mark(ck, sn->l1_offset, sn->l1_size * UINT64_C(8), 1, "the L1 table of a snapshot");
    error = error ? error : qcow2_table_read(&ck->t, sn->l1_offset, sn->l1_size, &l1);
    return error ? error : mark_l1(ck, l1, sn->l1_size, false);
}

/* Snapshots whose L1 tables lie on each other are damaged, and could be read without end. */
static int mark_snapshots(Qcow2Check *ck)
{
    uint64_t read = 0;
    int error = 0;

    if (!ck->snapshots) {
        return 0;
    }
    if (ck->t.data_file && ck->snapshots->len > 0) {
        qcow2_check_report(ck, "snapshots in an image with a data file");
        ck->r.corruptions++;
    }
    for (unsigned i = 0; !error && i < ck->snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(ck->snapshots, Qcow2Snapshot, i);

        if (ck->t.version == 3 && sn->extra_size < 16) {
            qcow2_check_report(ck, "snapshot '%s' says too little about itself", sn->name);
            ck->r.corruptions++;
        }
        read += sn->l1_size * UINT64_C(8);
        if (read > 16 * ck->t.file_bytes + QCOW2_MAX_L1_BYTES) {
            ck->r.corruptions++;
            continue;
        }
        error = mark_snapshot(ck, sn);
        if (!error && !qcow2_check_step(ck, 1)) {
            error = ECANCELED;
        }
    }
    return error ? error
                 : mark(ck, ck->t.snapshots_offset, ck->snapshots_bytes, 1, "the snapshot table");
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

static int mark_bitmap(Qcow2Check *ck, uint64_t offset, uint32_t entries)
{
    g_autofree uint64_t *table = NULL;
    int error = mark(ck, offset, entries * UINT64_C(8), 1, "a bitmap's table");

    if (offset % ck->t.cluster_size || offset >= ck->t.file_bytes ||
        entries * UINT64_C(8) > QCOW2_MAX_L1_BYTES) {
        ck->r.corruptions++;
        return error;
    }
    error = error ? error : qcow2_table_read(&ck->t, offset, entries, &table);
    for (uint32_t i = 0; !error && i < entries; i++) {
        uint64_t data = table[i] & QCOW2_OFFSET_MASK;

        if (table[i] & BITMAP_RESERVED || (data && table[i] & 1) || data % ck->t.cluster_size) {
            qcow2_check_report(ck, "entry %u of a bitmap's table is damaged", i);
            ck->r.corruptions++;
        } else if (data) {
            error = mark(ck, data, ck->t.cluster_size, 1, "a bitmap");
        }
    }
    return error;
}

static uint64_t get_be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

static int mark_bitmaps(Qcow2Check *ck)
{
    uint64_t bytes = ck->t.bitmap_dir_bytes, at = 0;
    g_autofree uint8_t *dir = NULL;
    int error;

    if (ck->t.n_bitmaps == 0) {
        return 0;
    }
    error = mark(ck, ck->t.bitmap_dir, bytes, 1, "the directory of bitmaps");
    if (error || bytes > QCOW2_BITMAPDIR_MAX || ck->t.bitmap_dir % ck->t.cluster_size ||
        ck->t.bitmap_dir >= ck->t.file_bytes || bytes > ck->t.file_bytes - ck->t.bitmap_dir) {
        ck->r.corruptions += !error;
        return error;
    }
    dir = g_try_malloc(MAX(bytes, 1));
    error = dir ? block_node_pread(ck->t.file, ck->t.bitmap_dir, dir, bytes) : ENOMEM;
    for (uint32_t i = 0; !error && i < ck->t.n_bitmaps; i++) {
        uint64_t need = bytes - at < 24 ? UINT64_MAX
                                        : 24 + get_be(dir + at + 18, 2) + get_be(dir + at + 20, 4);

        if (need > bytes - at) {
            qcow2_check_report(ck, "the directory of bitmaps is damaged");
            ck->r.corruptions++;
            break;
        }
        error = mark_bitmap(ck, get_be(dir + at, 8), (uint32_t)get_be(dir + at + 8, 4));
        at = MIN(bytes, at + (need + 7) / 8 * 8);
    }
    return error;
}

/* ---- L2 tables ------------------------------------------------------------------------------- */

/* An L2 table that is looked at. */
typedef struct L2Table {
    uint64_t offset, times;
    bool active;
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
    ck->r.allocated_clusters++;
    ck->r.fragmented_clusters += l2->next && offset != l2->next;
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
    if (l2->active) { /* they are read in pieces anyhow */
        ck->r.allocated_clusters++;
        ck->r.compressed_clusters++;
        ck->r.fragmented_clusters++;
    }
    return mark(ck, offset, bytes, l2->times, "a compressed cluster");
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
    if (entry & L2_RESERVED || (words == 2 && entry & QCOW2_ZERO)) {
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
            ck->r.corruptions++;
        }
    }
    return ck->t.data_file ? 0 : mark(ck, offset, ck->t.cluster_size, l2->times, "a data cluster");
}

static int check_l2(Qcow2Check *ck, uint64_t cluster, uint64_t *words)
{
    uint64_t n = qcow2_l2_entries(&ck->t), count = n * qcow2_l2_words(&ck->t);
    L2Table l2 = { .offset = cluster << ck->t.cluster_bits,
                   .times = qcow2_counts_get(ck->l2, cluster),
                   .active = qcow2_counts_get(ck->active, cluster),
                   .words = words };
    int error = 0;

    for (uint64_t i = 0; i < count; i++) {
        words[i] = GUINT64_FROM_BE(words[i]);
    }
    for (uint64_t i = 0; !error && i < n; i++) {
        error = check_entry(ck, &l2, i);
    }
    if (!error && l2.dirty_from < l2.dirty_to) {
        error = qcow2_table_write(&ck->t, l2.offset + l2.dirty_from * 8, words + l2.dirty_from,
                                  l2.dirty_to - l2.dirty_from);
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

/* ---- refcounts ------------------------------------------------------------------------------- */

/* The counts of one block, into ck->stored. */
static int read_refblock(Qcow2Check *ck, uint64_t index, uint64_t offset, uint8_t *block)
{
    uint64_t per = qcow2_refblock_entries(&ck->t), first = index * per;
    int error = block_node_pread(ck->t.file, offset, block, ck->t.cluster_size);

    for (uint64_t i = 0; !error && i < per && first + i < qcow2_counts_clusters(ck->stored); i++) {
        uint64_t count = qcow2_refblock_get(block, i, ck->t.refcount_order);

        error = count ? qcow2_counts_set(ck->stored, first + i, count) : 0;
    }
    return error;
}

/* 0: no such block. */
static uint64_t refblock_offset(const Qcow2Check *ck, uint64_t index)
{
    uint64_t offset = ck->t.reftable[index] & QCOW2_REFBLOCKS;

    return offset % ck->t.cluster_size || offset >> ck->t.cluster_bits >= ck->clusters ? 0 : offset;
}

static void check_refblock_entry(Qcow2Check *ck, uint64_t index)
{
    uint64_t entry = ck->t.reftable[index], offset = entry & QCOW2_REFBLOCKS;
    uint64_t per = qcow2_refblock_entries(&ck->t), first = index * per;
    const char *what = NULL;

    if (entry & REFT_RESERVED) {
        what = "has reserved bits";
    } else if (offset % ck->t.cluster_size) {
        what = "is not aligned";
        ck->r.check_errors += first < ck->clusters ? MIN(per, ck->clusters - first) : 0;
    } else if (offset >> ck->t.cluster_bits >= ck->clusters) {
        what = "is beyond the end of the file";
    }
    if (what) {
        qcow2_check_report(ck, "refcount block %" G_GUINT64_FORMAT " %s", index, what);
        ck->r.corruptions++;
        ck->rebuild = true;
    }
}

/* What is stored. */
static int read_refcounts(Qcow2Check *ck)
{
    g_autofree uint8_t *block = g_malloc(ck->t.cluster_size);
    int error = 0;

    if (ck->t.reftable_entries == 0) {
        ck->r.corruptions++;
        ck->rebuild = true;
    }
    for (uint64_t i = 0; !error && i < ck->t.reftable_entries; i++) {
        if (ck->t.reftable[i]) {
            uint64_t offset = refblock_offset(ck, i);

            check_refblock_entry(ck, i);
            error = offset ? read_refblock(ck, i, offset, block) : 0;
        }
        if (!error && i % 64 == 0 && !qcow2_check_step(ck, 64)) {
            error = ECANCELED;
        }
    }
    return error;
}

static int mark_refcounts(Qcow2Check *ck)
{
    int error = mark(ck, ck->t.reftable_offset, ck->t.reftable_entries * 8, 1,
                     "the refcount table");

    for (uint64_t i = 0; !error && i < ck->t.reftable_entries; i++) {
        uint64_t offset = refblock_offset(ck, i);

        if (offset == 0 || ck->t.reftable[i] & REFT_RESERVED) {
            continue;
        }
        error = mark(ck, offset, ck->t.cluster_size, 1, "a refcount block");
        if (qcow2_counts_get(ck->refs, offset >> ck->t.cluster_bits) != 1) {
            qcow2_check_report(ck, "refcount block %" G_GUINT64_FORMAT " lies on something else",
                               i);
            ck->r.corruptions++;
            ck->rebuild = true;
        }
    }
    return error;
}

/* What is stored against what was found. */
static void compare(Qcow2Check *ck)
{
    uint64_t end = MIN(ck->clusters, MAX(qcow2_counts_end(ck->refs), qcow2_counts_end(ck->stored)));

    for (uint64_t i = 0; i < end; i++) {
        uint64_t stored, refs;

        if (i % QCOW2_COUNTS_PAGE == 0) {
            i = MIN(qcow2_counts_next(ck->refs, i), qcow2_counts_next(ck->stored, i));
            if (i >= end) {
                break;
            }
        }
        stored = qcow2_counts_get(ck->stored, i);
        refs = qcow2_counts_get(ck->refs, i);
        if (stored == refs) {
            continue;
        }
        qcow2_check_report(ck,
                           "%s cluster %" G_GUINT64_FORMAT ": refcount %" G_GUINT64_FORMAT
                           ", %" G_GUINT64_FORMAT " references",
                           stored < refs ? "wrong" : "leaked", i, stored, refs);
        ck->rebuild |= stored == 0;
        *(stored < refs ? &ck->r.corruptions : &ck->r.leaks) += 1;
    }
    ck->r.image_end_offset = end << ck->t.cluster_bits;
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static Qcow2Counts *new_counts(const Qcow2Check *ck)
{
    return qcow2_counts_new(ck->clusters + 1, QCOW2_COUNTS_MEMORY);
}

static int prepare(Qcow2Check *ck)
{
    GError *error = NULL;

    memset(&ck->r, 0, sizeof(ck->r));
    ck->rebuild = false;
    ck->clusters = (ck->t.file_bytes + ck->t.cluster_size - 1) >> ck->t.cluster_bits;
    ck->refs = new_counts(ck);
    ck->stored = new_counts(ck);
    ck->l2 = new_counts(ck);
    ck->active = new_counts(ck);
    if (!ck->refs || !ck->stored || !ck->l2 || !ck->active) {
        return EFBIG;
    }
    if (!qcow2_snapshots_load(&ck->t, &ck->snapshots, &ck->snapshots_bytes, &error)) {
        qcow2_check_report(ck, "%s", error->message);
        g_clear_error(&error);
        ck->r.corruptions++;
    }
    ck->r.total_clusters = (ck->t.size >> ck->t.cluster_bits) +
                           (ck->t.size % ck->t.cluster_size != 0);
    ck->done = 0;
    ck->total = 1 + ck->t.reftable_entries + (ck->snapshots ? ck->snapshots->len : 0) +
                ck->t.l1_size;
    return qcow2_table_read(&ck->t, ck->t.l1_offset, ck->t.l1_size, &ck->l1);
}

int qcow2_check_pass(Qcow2Check *ck)
{
    int error = prepare(ck);

    error = error ? error : read_refcounts(ck);
    error = error ? error : mark(ck, 0, ck->t.cluster_size, 1, "the header");
    error = error ? error
                  : mark(ck, ck->t.l1_offset, ck->t.l1_size * UINT64_C(8), 1, "the L1 table");
    error = error ? error : mark_l1(ck, ck->l1, ck->t.l1_size, true);
    error = error ? error : mark_snapshots(ck);
    error = error ? error : qcow2_check_visit(ck, check_l2);
    error = error ? error : mark(ck, ck->t.crypt_offset, ck->t.crypt_bytes, 1, "the LUKS header");
    error = error ? error : mark_bitmaps(ck);
    if (!error && ck->fix) {
        ck->plain = qcow2_counts_copy(ck->refs);
        error = ck->plain ? 0 : ENOMEM;
    }
    error = error ? error : mark_refcounts(ck);
    if (!error) {
        compare(ck);
    }
    return error;
}

void qcow2_check_clear(Qcow2Check *ck)
{
    qcow2_counts_free(g_steal_pointer(&ck->refs));
    qcow2_counts_free(g_steal_pointer(&ck->plain));
    qcow2_counts_free(g_steal_pointer(&ck->stored));
    qcow2_counts_free(g_steal_pointer(&ck->l2));
    qcow2_counts_free(g_steal_pointer(&ck->active));
    g_clear_pointer(&ck->l1, g_free);
    if (ck->snapshots) {
        g_array_free(g_steal_pointer(&ck->snapshots), TRUE);
    }
    qcow2_tables_clear(&ck->t);
}
