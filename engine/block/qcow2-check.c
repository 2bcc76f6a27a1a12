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

#define MAX_REPORTS     1000 /* of a pass: a foreign image may have any number */
#define L1_RESERVED     UINT64_C(0x7f000000000001ff)
#define REFT_RESERVED   UINT64_C(0x1ff)
#define BITMAP_RESERVED UINT64_C(0xff000000000001fe)

void qcow2_check_report(Qcow2Check *ck, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list ap;

    ck->reported++;
    if (!log_enabled(LOG_STATE) && (!ck->report || ck->reported > MAX_REPORTS)) {
        return;
    }
    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    log_mask(LOG_STATE, "'%s': %s", block_node_name(ck->node), line);
    if (ck->report && ck->reported <= MAX_REPORTS) {
        ck->report(ck->opaque, line);
    }
}

void qcow2_check_report_rest(Qcow2Check *ck)
{
    g_autofree char *line = NULL;

    if (ck->report && ck->reported > MAX_REPORTS) {
        line = g_strdup_printf("… and %" G_GUINT64_FORMAT " more (-d state shows all)",
                               ck->reported - MAX_REPORTS);
        ck->report(ck->opaque, line);
    }
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

int qcow2_check_mark(Qcow2Check *ck, uint64_t offset, uint64_t bytes, uint64_t times,
                     const char *what)
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

/* Tables that lie on each other are damaged, and could be read without end: false when there are
 * more than the file can hold many times over. */
static bool may_read(Qcow2Check *ck, uint64_t bytes)
{
    ck->tables += bytes;
    if (ck->tables > 16 * ck->t.file_bytes + QCOW2_MAX_L1_BYTES) {
        qcow2_check_report(ck, "tables lie on each other");
        ck->r.corruptions++;
        return false;
    }
    return true;
}

/* A table that is not where a table can be is looked into all the same: what it refers to is not
 * lost when somebody puts its entry right by hand. */
static int note_odd(Qcow2Check *ck, uint64_t offset, bool active)
{
    Qcow2OddTable odd = { offset, active };

    if (offset < ck->t.file_bytes && may_read(ck, ck->t.cluster_size)) {
        g_array_append_val(ck->odd, odd);
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
        error = qcow2_check_mark(ck, offset, ck->t.cluster_size, 1, "an L2 table");
        if (offset % ck->t.cluster_size) {
            qcow2_check_report(ck, "L2 table at %#" G_GINT64_MODIFIER "x is not aligned", offset);
            ck->r.corruptions++;
            error = error ? error : note_odd(ck, offset, active);
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
    error = qcow2_check_mark(ck, sn->l1_offset, sn->l1_size * UINT64_C(8), 1,
                             "the L1 table of a snapshot");
    error = error ? error : qcow2_table_read(&ck->t, sn->l1_offset, sn->l1_size, &l1);
    return error ? error : mark_l1(ck, l1, sn->l1_size, false);
}

static int mark_snapshots(Qcow2Check *ck)
{
    int error = 0;

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
        if (!may_read(ck, sn->l1_size * UINT64_C(8))) {
            continue;
        }
        error = mark_snapshot(ck, sn);
        if (!error && !qcow2_check_step(ck, 1)) {
            error = ECANCELED;
        }
    }
    return error ? error
                 : qcow2_check_mark(ck, ck->t.snapshots_offset, ck->snapshots_bytes, 1,
                                    "the snapshot table");
}

/* ---- bitmaps --------------------------------------------------------------------------------- */

static int mark_bitmap(Qcow2Check *ck, uint64_t offset, uint32_t entries)
{
    g_autofree uint64_t *table = NULL;
    int error = qcow2_check_mark(ck, offset, entries * UINT64_C(8), 1, "a bitmap's table");

    if (offset % ck->t.cluster_size || offset >= ck->t.file_bytes ||
        entries * UINT64_C(8) > QCOW2_MAX_L1_BYTES) {
        ck->r.corruptions++;
        return error;
    }
    if (error || !may_read(ck, entries * UINT64_C(8))) {
        return error;
    }
    error = qcow2_table_read(&ck->t, offset, entries, &table);
    for (uint32_t i = 0; !error && i < entries; i++) {
        uint64_t data = table[i] & QCOW2_OFFSET_MASK;

        if (table[i] & BITMAP_RESERVED || (data && table[i] & 1) || data % ck->t.cluster_size) {
            qcow2_check_report(ck, "entry %u of a bitmap's table is damaged", i);
            ck->r.corruptions++;
        } else if (data) {
            error = qcow2_check_mark(ck, data, ck->t.cluster_size, 1, "a bitmap");
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
    error = qcow2_check_mark(ck, ck->t.bitmap_dir, bytes, 1, "the directory of bitmaps");
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

/* ---- refcounts ------------------------------------------------------------------------------- */

/* The counts of one block, into ck->stored. */
static int read_refblock(Qcow2Check *ck, uint64_t index, uint64_t offset, uint8_t *block)
{
    uint64_t per = qcow2_refblock_entries(&ck->t), first = index * per;
    int error = block_node_pread(ck->t.file, offset, block, ck->t.cluster_size);

    for (uint64_t i = 0; !error && i < per && first + i < qcow2_counts_clusters(ck->stored); i++) {
        uint64_t count = qcow2_refcount_get(block, ck->t.refcount_order, i);

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
    int error = qcow2_check_mark(ck, ck->t.reftable_offset, ck->t.reftable_entries * 8, 1,
                                 "the refcount table");

    for (uint64_t i = 0; !error && i < ck->t.reftable_entries; i++) {
        uint64_t offset = refblock_offset(ck, i);

        if (offset == 0 || ck->t.reftable[i] & REFT_RESERVED) {
            continue;
        }
        error = qcow2_check_mark(ck, offset, ck->t.cluster_size, 1, "a refcount block");
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
        if (stored == refs || (stored > refs && ck->lost_snapshots)) {
            continue;
        }
        qcow2_check_report(ck,
                           "%s cluster %" G_GUINT64_FORMAT ": refcount %" G_GUINT64_FORMAT
                           ", %" G_GUINT64_FORMAT " references",
                           stored < refs ? "wrong" : "leaked", i, stored, refs);
        ck->rebuild |= stored == 0;
        ck->r.corruptions += stored < refs;
        ck->r.leaks += stored > refs;
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
    int e;

    memset(&ck->r, 0, sizeof(ck->r));
    ck->rebuild = false;
    ck->tables = ck->reported = 0;
    ck->odd = g_array_new(FALSE, FALSE, sizeof(Qcow2OddTable));
    ck->clusters = (ck->t.file_bytes + ck->t.cluster_size - 1) >> ck->t.cluster_bits;
    ck->refs = new_counts(ck);
    ck->stored = new_counts(ck);
    ck->l2 = new_counts(ck);
    ck->active = new_counts(ck);
    if (!ck->refs || !ck->stored || !ck->l2 || !ck->active) {
        return EFBIG;
    }
    e = qcow2_snapshots_load_some(&ck->t, &ck->snapshots, &ck->snapshots_bytes);
    if (e) {
        return e;
    }
    ck->lost_snapshots = ck->t.n_snapshots - ck->snapshots->len;
    if (ck->lost_snapshots) {
        qcow2_check_report(ck, "entry %u of the snapshot table is damaged", ck->snapshots->len);
        ck->r.corruptions++;
    }
    ck->r.total_clusters = (ck->t.size >> ck->t.cluster_bits) +
                           (ck->t.size % ck->t.cluster_size != 0);
    ck->done = 0;
    ck->total = 1 + ck->t.reftable_entries + ck->snapshots->len + ck->t.l1_size;
    return qcow2_table_read(&ck->t, ck->t.l1_offset, ck->t.l1_size, &ck->l1);
}

int qcow2_check_pass(Qcow2Check *ck)
{
    int error = prepare(ck);

    error = error ? error : read_refcounts(ck);
    error = error ? error : qcow2_check_mark(ck, 0, ck->t.cluster_size, 1, "the header");
    error = error ? error
                  : qcow2_check_mark(ck, ck->t.l1_offset, ck->t.l1_size * UINT64_C(8), 1,
                                     "the L1 table");
    error = error ? error : mark_l1(ck, ck->l1, ck->t.l1_size, true);
    error = error ? error : mark_snapshots(ck);
    error = error ? error : qcow2_check_visit(ck, qcow2_check_l2);
    error = error ? error : qcow2_check_odd(ck);
    error = error
                ? error
                : qcow2_check_mark(ck, ck->t.crypt_offset, ck->t.crypt_bytes, 1, "the LUKS header");
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
    if (ck->odd) {
        g_array_free(g_steal_pointer(&ck->odd), TRUE);
    }
    if (ck->snapshots) {
        g_array_free(g_steal_pointer(&ck->snapshots), TRUE);
    }
    qcow2_tables_clear(&ck->t);
}
