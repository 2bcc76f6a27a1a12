/*
 * Internal snapshots. What they do to the image happens as a whole or not at all (qcow2-rewrite.h):
 * the active L1 and its L2 tables get copies with the COPIED flags that the new refcounts ask for,
 * a snapshot keeps the tables that were there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/qcow2-rewrite.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

typedef struct Change {
    Qcow2 *s;
    Qcow2Tables t;
    GArray *snapshots; /* of Qcow2Snapshot */
    uint64_t snapshots_bytes;
    uint64_t *l1; /* the active one */
    Qcow2Rewrite rw;
} Change;

static void change_clear(Change *c)
{
    qcow2_rewrite_clear(&c->rw);
    qcow2_tables_clear(&c->t);
    g_clear_pointer(&c->l1, g_free);
    if (c->snapshots) {
        g_array_free(g_steal_pointer(&c->snapshots), TRUE);
    }
}

static bool set_why(GError **error, BlockNode *node, const char *doing, int e)
{
    switch (e) {
    case EOVERFLOW:
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "'%s': %s: its refcounts are too narrow for more snapshots",
                         block_node_name(node), doing);
    case ERANGE:
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "'%s': %s: its refcounts are wrong, check the image first",
                         block_node_name(node), doing);
    default:
        errno = e;
        return error_set_errno(error, "'%s': %s", block_node_name(node), doing);
    }
}

static bool change_begin(Change *c, BlockNode *node, bool write, const char *doing, GError **error)
{
    Qcow2 *s = QCOW2(node);
    int e = 0;

    memset(c, 0, sizeof(*c));
    c->s = s;
    if (write && (node->read_only || s->corrupt)) {
        return error_set(error, ENGINE_ERROR_INVALID, "'%s': %s: it is %s", block_node_name(node),
                         doing, node->read_only ? "read-only" : "corrupt");
    }
    if (s->has_data_file) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "'%s': %s: an image with a data file has no snapshots",
                         block_node_name(node), doing);
    }
    e = qcow2_settle(s);
    if (e) {
        return set_why(error, node, doing, e);
    }
    if (!qcow2_tables_load(&c->t, block_node_file(node), error) ||
        !qcow2_snapshots_load(&c->t, &c->snapshots, &c->snapshots_bytes, error)) {
        change_clear(c);
        return false;
    }
    if (write) {
        e = qcow2_table_read(&c->t, c->t.l1_offset, c->t.l1_size, &c->l1);
        e = e ? e : qcow2_rewrite_begin(&c->rw, &c->t);
    }
    if (e) {
        change_clear(c);
        return set_why(error, node, doing, e);
    }
    return true;
}

/* Writes it, or does not: either way the driver goes on with what the file says. */
static bool change_end(Change *c, const char *doing, int e, GError **error)
{
    BlockNode *node = &c->s->parent;
    bool ok;

    e = e ? e : qcow2_rewrite_commit(&c->rw);
    if (!e && node->discard) {
        qcow2_rewrite_discard(&c->rw);
    }
    change_clear(c);
    if (e) {
        set_why(error, node, doing, e);
    }
    ok = qcow2_reload(c->s, e ? NULL : error);
    return ok && !e;
}

/* ---- trees of tables ------------------------------------------------------------------------- */

/* The L2 table of an entry of L1; *skip: there is none. A table may not be there twice: no sound
 * image has that, and a foreign one could be endless. */
static int read_l2(Change *c, uint64_t entry, Qcow2Counts *seen, bool *skip, uint64_t **out)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK, n = offset >> c->t.cluster_bits;
    int e;

    *skip = offset == 0;
    *out = NULL;
    if (offset == 0) {
        return 0;
    }
    if (offset % c->t.cluster_size || offset >= c->t.file_bytes || qcow2_counts_get(seen, n)) {
        return ERANGE;
    }
    e = qcow2_counts_set(seen, n, 1);
    return e ? e : qcow2_table_read(&c->t, offset, c->t.cluster_size / 8, out);
}

/* The host bytes that an L2 entry refers to; false: none. */
static bool entry_range(const Change *c, uint64_t entry, uint64_t *offset, uint64_t *bytes)
{
    if (entry & QCOW2_COMPRESSED) {
        qcow2_compressed_range(&c->t, entry, offset, bytes);
        return true;
    }
    *offset = entry & QCOW2_OFFSET_MASK;
    *bytes = c->t.cluster_size;
    return *offset != 0;
}

/* References from the entries of a table. */
static int ref_l2(Change *c, const uint64_t *l2, int64_t delta)
{
    int e = 0;

    for (uint64_t i = 0; !e && i < qcow2_l2_entries(&c->t); i++) {
        uint64_t offset, bytes;

        if (entry_range(c, l2[i * qcow2_l2_words(&c->t)], &offset, &bytes)) {
            e = qcow2_rewrite_ref(&c->rw, offset, bytes, delta);
        }
    }
    return e;
}

static Qcow2Counts *new_seen(const Change *c)
{
    return qcow2_counts_new(c->t.file_bytes / c->t.cluster_size + 1, QCOW2_COUNTS_MEMORY);
}

/* One reference less to all that an L1 table leads to, itself included. */
static int drop_tree(Change *c, const uint64_t *l1, uint64_t entries, uint64_t l1_offset)
{
    Qcow2Counts *seen = new_seen(c);
    int e = seen ? qcow2_rewrite_ref(&c->rw, l1_offset, entries * 8, -1) : EFBIG;

    for (uint64_t i = 0; !e && i < entries; i++) {
        g_autofree uint64_t *l2 = NULL;
        bool skip;

        e = read_l2(c, l1[i], seen, &skip, &l2);
        if (!e && !skip) {
            e = qcow2_rewrite_ref(&c->rw, l1[i] & QCOW2_OFFSET_MASK, 1, -1);
            e = e ? e : ref_l2(c, l2, -1);
        }
    }
    qcow2_counts_free(seen);
    return e;
}

/* COPIED where the count will be one. */
static uint64_t with_flag(const Change *c, uint64_t entry)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_COMPRESSED || offset == 0) {
        return entry;
    }
    entry &= ~QCOW2_COPIED;
    return qcow2_counts_get(c->rw.now, offset >> c->t.cluster_bits) == 1 ? entry | QCOW2_COPIED
                                                                         : entry;
}

static bool set_flags(const Change *c, uint64_t *l2)
{
    bool changed = false;

    for (uint64_t i = 0; i < qcow2_l2_entries(&c->t); i++) {
        uint64_t *entry = &l2[i * qcow2_l2_words(&c->t)], with = with_flag(c, *entry);

        changed |= with != *entry;
        *entry = with;
    }
    return changed;
}

static int store_l2(Change *c, const uint64_t *l2, uint64_t *l1_entry)
{
    uint64_t offset;
    int e = qcow2_rewrite_alloc(&c->rw, 1, &offset);

    *l1_entry = e ? 0 : offset | QCOW2_COPIED;
    return e ? e : qcow2_table_write(&c->t, offset, l2, c->t.cluster_size / 8);
}

/* A new active L1, padded to whole clusters. */
static int store_l1(Change *c, const uint64_t *l1, uint32_t entries)
{
    uint64_t per = c->t.cluster_size / 8, clusters = MAX((entries + per - 1) / per, 1);
    g_autofree uint64_t *padded = g_try_malloc0(clusters * c->t.cluster_size);
    int e = padded ? qcow2_rewrite_alloc(&c->rw, clusters, &c->rw.l1_offset) : ENOMEM;

    if (e) {
        return e;
    }
    memcpy(padded, l1, entries * UINT64_C(8));
    c->rw.l1_size = entries;
    return qcow2_table_write(&c->t, c->rw.l1_offset, padded, clusters * per);
}

/* Makes a tree the active one by copies of its tables; what it leads to is referred to once more.
 * `entries` of l1; the new one has at least `least`. */
static int copy_tree(Change *c, const uint64_t *l1, uint32_t entries, uint32_t least)
{
    uint32_t size = MAX(entries, least);
    g_autofree uint64_t *copy = g_try_malloc0(MAX(size, 1) * UINT64_C(8));
    Qcow2Counts *seen = new_seen(c);
    int e = copy && seen ? 0 : ENOMEM;

    for (uint32_t i = 0; !e && i < entries; i++) {
        g_autofree uint64_t *l2 = NULL;
        bool skip;

        e = read_l2(c, l1[i], seen, &skip, &l2);
        if (e || skip) {
            continue;
        }
        /* Every cluster has the reference of the tree that is copied and that of the copy, or will
         * have lost one of the tree that was active: the flags can be set when all is counted. */
        e = ref_l2(c, l2, 1);
        if (!e) {
            set_flags(c, l2);
            e = store_l2(c, l2, &copy[i]);
        }
    }
    qcow2_counts_free(seen);
    return e ? e : store_l1(c, copy, size);
}

/* ---- listing --------------------------------------------------------------------------------- */

bool qcow2_snapshot_list(BlockNode *node, GArray *out, GError **error)
{
    Change c;

    if (QCOW2(node)->has_data_file) {
        return true;
    }
    if (!change_begin(&c, node, false, "listing snapshots", error)) {
        return false;
    }
    for (unsigned i = 0; i < c.snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(c.snapshots, Qcow2Snapshot, i);
        BlockSnapshotInfo info = { .vm_state_size = sn->vm_state_size,
                                   .disk_size = sn->disk_size,
                                   .date_sec = sn->date_sec,
                                   .date_nsec = sn->date_nsec,
                                   .vm_clock_ns = sn->vm_clock_ns,
                                   .icount = sn->icount };

        g_strlcpy(info.id, sn->id, sizeof(info.id));
        g_strlcpy(info.name, sn->name, sizeof(info.name));
        g_array_append_val(out, info);
    }
    change_clear(&c);
    return true;
}

/* By id, else by name; -1: none. */
static int find(const GArray *snapshots, const char *id_or_name)
{
    for (unsigned by_name = 0; by_name < 2; by_name++) {
        for (unsigned i = 0; i < snapshots->len; i++) {
            const Qcow2Snapshot *sn = &g_array_index(snapshots, Qcow2Snapshot, i);

            if (!strcmp(by_name ? sn->name : sn->id, id_or_name)) {
                return (int)i;
            }
        }
    }
    return -1;
}

static bool not_found(const Qcow2Tables *t, const char *id_or_name, GError **error)
{
    return error_set(error, ENGINE_ERROR_INVALID, "'%s' has no snapshot '%s'",
                     block_node_name(t->file), id_or_name);
}

static int snapshot_l1(Change *c, const Qcow2Snapshot *sn, uint64_t **out)
{
    *out = NULL;
    if (sn->l1_offset % c->t.cluster_size || sn->l1_offset >= c->t.file_bytes ||
        sn->l1_size * UINT64_C(8) > QCOW2_MAX_L1_BYTES) {
        return ERANGE;
    }
    return qcow2_table_read(&c->t, sn->l1_offset, sn->l1_size, out);
}

/* ---- creating -------------------------------------------------------------------------------- */

/* One more than the largest number among the ids. */
static char *new_id(const GArray *snapshots)
{
    uint64_t max = 0;

    for (unsigned i = 0; i < snapshots->len; i++) {
        uint64_t n = g_ascii_strtoull(g_array_index(snapshots, Qcow2Snapshot, i).id, NULL, 10);

        max = n < UINT64_MAX ? MAX(max, n) : max;
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT, max + 1);
}

static void add_snapshot(Change *c, const BlockSnapshotInfo *info)
{
    int64_t now = g_get_real_time();
    Qcow2Snapshot sn = { .l1_offset = c->t.l1_offset,
                         .l1_size = c->t.l1_size,
                         .date_sec = (uint32_t)info->date_sec,
                         .date_nsec = info->date_nsec,
                         .vm_clock_ns = info->vm_clock_ns,
                         .vm_state_size = info->vm_state_size,
                         .disk_size = c->t.size,
                         .icount = info->icount };

    if (!info->date_sec) {
        sn.date_sec = (uint32_t)(now / 1000000);
        sn.date_nsec = (uint32_t)(now % 1000000 * 1000);
    }
    sn.id = *info->id ? g_strndup(info->id, sizeof(info->id)) : new_id(c->snapshots);
    sn.name = g_strndup(info->name, sizeof(info->name));
    g_array_append_val(c->snapshots, sn);
    /* cppcheck-suppress memleak ; the array has it now */
}

/* The first entry of L1 that maps nothing of the disk: where the state of a machine begins. */
static uint32_t disk_l1_entries(const Change *c, uint64_t size)
{
    uint64_t per = c->t.cluster_size * qcow2_l2_entries(&c->t);

    return (uint32_t)MIN(size / per + (size % per != 0), UINT32_MAX);
}

bool qcow2_snapshot_create(BlockNode *node, const BlockSnapshotInfo *info, GError **error)
{
    static const char doing[] = "taking a snapshot";
    Change c;
    int e;

    if (!change_begin(&c, node, true, doing, error)) {
        return false;
    }
    if ((*info->id && find(c.snapshots, info->id) >= 0) ||
        c.snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        change_clear(&c);
        return error_set(error, ENGINE_ERROR_INVALID, "'%s': %s: %s", block_node_name(node), doing,
                         *info->id ? "there is one with that id" : "it has too many");
    }
    /* The snapshot takes the tables that are there; the disk goes on with copies, and without the
     * machine's state behind its end. */
    add_snapshot(&c, info);
    e = copy_tree(&c, c.l1, MIN(c.t.l1_size, disk_l1_entries(&c, c.t.size)), c.t.l1_size);
    e = e ? e : qcow2_rewrite_snapshots(&c.rw, c.snapshots, c.snapshots_bytes);
    return change_end(&c, doing, e, error);
}

/* ---- going back ------------------------------------------------------------------------------ */

static int goto_snapshot(Change *c, const Qcow2Snapshot *sn)
{
    g_autofree uint64_t *l1 = NULL;
    int e = snapshot_l1(c, sn, &l1);

    if (e) {
        return e;
    }
    if (sn->disk_size > BLOCK_MAX_BYTES ||
        disk_l1_entries(c, sn->disk_size) * UINT64_C(8) > QCOW2_MAX_L1_BYTES) {
        return ERANGE;
    }
    c->rw.size = sn->disk_size;
    e = copy_tree(c, l1, sn->l1_size, disk_l1_entries(c, sn->disk_size));
    return e ? e : drop_tree(c, c->l1, c->t.l1_size, c->t.l1_offset);
}

static const Qcow2Snapshot *begin_with(Change *c, BlockNode *node, const char *doing,
                                       const char *id_or_name, GError **error)
{
    int at;

    if (!change_begin(c, node, true, doing, error)) {
        return NULL;
    }
    at = find(c->snapshots, id_or_name);
    if (at < 0) {
        not_found(&c->t, id_or_name, error);
        change_clear(c);
        return NULL;
    }
    return &g_array_index(c->snapshots, Qcow2Snapshot, at);
}

bool qcow2_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error)
{
    static const char doing[] = "going back to a snapshot";
    uint64_t before = block_node_length(node), size;
    const Qcow2Snapshot *sn;
    Qcow2 *s = QCOW2(node);
    Change c;

    sn = begin_with(&c, node, doing, id_or_name, error);
    if (!sn) {
        return false;
    }
    size = sn->disk_size;
    /* At no time do bitmaps say less than the disk holds. */
    if (size > before) {
        change_clear(&c);
        sn = qcow2_bitmaps_fit(s, size, error) ? begin_with(&c, node, doing, id_or_name, error)
                                               : NULL;
        if (!sn) {
            return false;
        }
    }
    if (s->bitmaps && MAX(size, before) <= BLOCK_MAX_BYTES) {
        qcow2_bitmaps_written(s, 0, MAX(size, before));
    }
    return change_end(&c, doing, goto_snapshot(&c, sn), error) &&
           (size >= before || qcow2_bitmaps_fit(s, size, error));
}

/* ---- deleting -------------------------------------------------------------------------------- */

/* Flags of the active tables where counts have become one: in copies. */
static int refresh_flags(Change *c)
{
    Qcow2Counts *seen = new_seen(c);
    bool changed = false;
    int e = seen ? 0 : EFBIG;

    for (uint32_t i = 0; !e && i < c->t.l1_size; i++) {
        g_autofree uint64_t *l2 = NULL;
        uint64_t entry = c->l1[i];
        bool skip;

        e = read_l2(c, entry, seen, &skip, &l2);
        if (e || skip) {
            continue;
        }
        if (set_flags(c, l2)) {
            e = qcow2_rewrite_ref(&c->rw, entry & QCOW2_OFFSET_MASK, 1, -1);
            e = e ? e : store_l2(c, l2, &c->l1[i]);
        } else {
            c->l1[i] = with_flag(c, entry);
        }
        changed |= c->l1[i] != entry;
    }
    qcow2_counts_free(seen);
    if (e || !changed) {
        return e;
    }
    e = qcow2_rewrite_ref(&c->rw, c->t.l1_offset, c->t.l1_size * UINT64_C(8), -1);
    return e ? e : store_l1(c, c->l1, c->t.l1_size);
}

static int delete_snapshot(Change *c, unsigned at)
{
    const Qcow2Snapshot *sn = &g_array_index(c->snapshots, Qcow2Snapshot, at);
    g_autofree uint64_t *l1 = NULL;
    int e = snapshot_l1(c, sn, &l1);

    e = e ? e : drop_tree(c, l1, sn->l1_size, sn->l1_offset);
    if (e) {
        return e;
    }
    g_array_remove_index(c->snapshots, at);
    e = qcow2_rewrite_snapshots(&c->rw, c->snapshots, c->snapshots_bytes);
    return e ? e : refresh_flags(c);
}

bool qcow2_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error)
{
    static const char doing[] = "deleting a snapshot";
    Change c;
    int at;

    if (!change_begin(&c, node, true, doing, error)) {
        return false;
    }
    at = find(c.snapshots, id_or_name);
    if (at < 0) {
        not_found(&c.t, id_or_name, error);
        change_clear(&c);
        return false;
    }
    return change_end(&c, doing, delete_snapshot(&c, (unsigned)at), error);
}

/* ---- when an image is opened ----------------------------------------------------------------- */

bool qcow2_snapshot_open(Qcow2 *s, const char *id_or_name, GError **error)
{
    BlockNode *node = &s->parent;
    const Qcow2Snapshot *sn;
    uint64_t *l1 = NULL;
    Change c;
    int at, e;

    if (!change_begin(&c, node, false, "opening a snapshot", error)) {
        return false;
    }
    at = find(c.snapshots, id_or_name);
    if (at < 0) {
        not_found(&c.t, id_or_name, error);
        change_clear(&c);
        return false;
    }
    sn = &g_array_index(c.snapshots, Qcow2Snapshot, at);
    e = sn->disk_size > BLOCK_MAX_BYTES || disk_l1_entries(&c, sn->disk_size) > sn->l1_size
            ? ERANGE
            : snapshot_l1(&c, sn, &l1);
    if (!e) {
        g_free(s->l1);
        s->l1 = l1;
        s->l1_entries = sn->l1_size;
        s->l1_offset = sn->l1_offset;
        node->length = sn->disk_size;
        node->read_only = true;
    }
    change_clear(&c);
    return e ? set_why(error, node, "opening a snapshot", e) : true;
}

bool qcow2_snapshots_check(Qcow2 *s, GError **error)
{
    Qcow2Tables t;
    GArray *snapshots = NULL;
    bool ok = qcow2_tables_load(&t, block_node_file(&s->parent), error) &&
              qcow2_snapshots_load(&t, &snapshots, &s->snapshots_bytes, error);

    if (snapshots) {
        g_array_free(snapshots, TRUE);
    }
    qcow2_tables_clear(&t);
    if (!ok && s->parent.for_check) { /* which will say so */
        g_clear_error(error);
        return true;
    }
    return ok;
}
