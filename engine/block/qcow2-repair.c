/*
 * Repairing an image by what a check found: refcounts in place where their block is sound, else a
 * new refcount structure; then the COPIED flags, the snapshot table, the dirty and corrupt bits.
 *
 * In between, refcounts are rather too high than too low: they are raised before they are lowered.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-check.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

/* ---- refcounts ------------------------------------------------------------------------------- */

/* Whether the count of a cluster is to become that of its references now. */
static bool may_fix(Qcow2Check *ck, uint64_t cluster, bool raise)
{
    uint64_t stored = qcow2_counts_get(ck->stored, cluster);
    uint64_t refs = qcow2_counts_get(ck->refs, cluster);

    if (raise) {
        return refs > stored && ck->fix & BLOCK_FIX_ERRORS && refs <= qcow2_refcount_max(&ck->t);
    }
    return refs < stored && ck->fix & BLOCK_FIX_LEAKS && !ck->lost_snapshots;
}

static int fix_block(Qcow2Check *ck, uint64_t index, bool raise, uint8_t *block)
{
    uint64_t per = qcow2_refblock_entries(&ck->t), first = index * per;
    uint64_t end = MIN(first + per, ck->clusters), offset = ck->t.reftable[index];
    uint64_t fixed = 0;
    int error = 0;

    for (uint64_t i = first; i < end && !error; i++) {
        uint64_t refs = qcow2_counts_get(ck->refs, i);

        if (!may_fix(ck, i, raise)) {
            continue;
        }
        if (fixed++ == 0) {
            error = block_node_pread(ck->t.file, offset, block, ck->t.cluster_size);
        }
        if (!error) {
            qcow2_refcount_set(block, ck->t.refcount_order, i - first, refs);
            error = qcow2_counts_set(ck->stored, i, refs);
        }
    }
    if (!error && fixed) {
        error = block_node_pwrite(ck->t.file, offset, block, ck->t.cluster_size, 0);
        *(raise ? &ck->r.corruptions_fixed : &ck->r.leaks_fixed) += error ? 0 : fixed;
    }
    return error;
}

static int fix_in_place(Qcow2Check *ck)
{
    g_autofree uint8_t *block = g_malloc(ck->t.cluster_size);
    int error = 0;

    for (unsigned raise = 2; !error && raise-- > 0;) {
        for (uint64_t i = 0; !error && i < ck->t.reftable_entries; i++) {
            error = ck->t.reftable[i] ? fix_block(ck, i, raise, block) : 0;
        }
        error = error ? error : block_node_sync_op(ck->t.file, BLOCK_OP_FLUSH, 0, 0, 0);
    }
    return error;
}

/* A new refcount structure from nothing but the references. */
static int rebuild(Qcow2Check *ck)
{
    Qcow2Counts *old = qcow2_counts_copy(ck->refs), *now = qcow2_counts_copy(ck->plain);
    Qcow2Rewrite rw;
    int error;

    if (!old || !now) {
        qcow2_counts_free(old);
        qcow2_counts_free(now);
        return ENOMEM;
    }
    qcow2_rewrite_init(&rw, &ck->t, old, now, true);
    error = qcow2_rewrite_commit(&rw);
    if (!error) {
        ck->r.corruptions_fixed += ck->r.corruptions;
        ck->r.leaks_fixed += ck->r.leaks;
        qcow2_counts_free(ck->stored);
        ck->stored = g_steal_pointer(&rw.now);
    }
    qcow2_rewrite_clear(&rw);
    return error;
}

/* ---- the COPIED flag ------------------------------------------------------------------------- */

static bool wrong_flag(const Qcow2Check *ck, uint64_t entry, bool always)
{
    uint64_t n = (entry & QCOW2_OFFSET_MASK) >> ck->t.cluster_bits;

    return (always || qcow2_counts_get(ck->stored, n) == 1) != (entry >> 63);
}

static int fix_copied_l2(Qcow2Check *ck, uint64_t cluster, uint64_t *words)
{
    unsigned per = qcow2_l2_words(&ck->t);
    uint64_t fixed = 0;

    if (!qcow2_counts_get(ck->active, cluster)) {
        return 0;
    }
    for (uint64_t i = 0; i < qcow2_l2_entries(&ck->t); i++) {
        uint64_t entry = GUINT64_FROM_BE(words[i * per]);
        bool placed = entry & QCOW2_OFFSET_MASK || (ck->t.data_file && entry & QCOW2_COPIED);

        if (!(entry & QCOW2_COMPRESSED) && placed && wrong_flag(ck, entry, ck->t.data_file)) {
            words[i * per] = GUINT64_TO_BE(entry ^ QCOW2_COPIED);
            fixed++;
        }
    }
    ck->r.corruptions_fixed += fixed;
    return fixed ? block_node_pwrite(ck->t.file, cluster << ck->t.cluster_bits, words,
                                     ck->t.cluster_size, 0)
                 : 0;
}

static int fix_copied(Qcow2Check *ck)
{
    uint64_t fixed = 0;
    int error;

    for (uint64_t i = 0; i < ck->t.l1_size; i++) {
        if (ck->l1[i] & QCOW2_OFFSET_MASK && wrong_flag(ck, ck->l1[i], false)) {
            ck->l1[i] ^= QCOW2_COPIED;
            fixed++;
        }
    }
    error = fixed ? qcow2_table_write(&ck->t, ck->t.l1_offset, ck->l1, ck->t.l1_size) : 0;
    ck->r.corruptions_fixed += error ? 0 : fixed;
    return error ? error : qcow2_check_visit(ck, fix_copied_l2);
}

/* ---- the snapshot table ---------------------------------------------------------------------- */

/* Entries of version 3 have to say how large the disk was. */
static bool snapshots_incomplete(const Qcow2Check *ck, uint64_t *n)
{
    *n = 0;
    for (unsigned i = 0; ck->t.version == 3 && i < ck->snapshots->len; i++) {
        *n += g_array_index(ck->snapshots, Qcow2Snapshot, i).extra_size < 16;
    }
    return *n > 0;
}

static int fix_snapshots(Qcow2Check *ck, uint64_t n, uint64_t old_bytes)
{
    Qcow2Rewrite rw;
    int error = qcow2_rewrite_begin(&rw, &ck->t);

    error = error ? error : qcow2_rewrite_snapshots(&rw, ck->snapshots, old_bytes);
    error = error ? error : qcow2_rewrite_commit(&rw);
    ck->r.corruptions_fixed += error ? 0 : n;
    qcow2_rewrite_clear(&rw);
    return error;
}

int qcow2_check_repair(Qcow2Check *ck)
{
    uint64_t incomplete;
    bool errors = ck->fix & BLOCK_FIX_ERRORS;
    int error = 0;

    /* Those that cannot be read go, and nothing else is done before what is left is known to be
     * all.
     */
    if (ck->lost_snapshots) {
        return errors ? fix_snapshots(ck, 1, 0) : 0;
    }
    if (ck->rebuild) {
        error = errors ? rebuild(ck) : 0;
    } else if (ck->r.corruptions || ck->r.leaks) {
        error = fix_in_place(ck);
    }
    if (error || (ck->rebuild && !errors)) {
        return error;
    }
    /* Leaks alone do not tell whether the other half of a wrong flag is right. */
    if (errors || (ck->r.corruptions == 0 && ck->r.check_errors == 0)) {
        error = fix_copied(ck);
        error = error ? error : block_node_sync_op(ck->t.file, BLOCK_OP_FLUSH, 0, 0, 0);
    }
    if (!error && errors && snapshots_incomplete(ck, &incomplete)) {
        GError *why = NULL;

        /* The refcount table may be another one by now. */
        qcow2_tables_clear(&ck->t);
        if (!qcow2_tables_load(&ck->t, ck->t.file, &why)) {
            g_clear_error(&why);
            return EIO;
        }
        error = fix_snapshots(ck, incomplete, ck->snapshots_bytes);
    }
    return error;
}

/* ---- what tools call ------------------------------------------------------------------------- */

static bool failed(Qcow2Check *ck, int e, GError **error)
{
    qcow2_check_clear(ck);
    if (e == ENOMEM || e == EFBIG) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "'%s': checking it takes more memory than there is for it",
                         block_node_name(ck->node));
    }
    errno = e;
    return error_set_errno(error, "'%s': checking it", block_node_name(ck->node));
}

static bool one_pass(Qcow2Check *ck, BlockNode *node, int fix, GError **error)
{
    int e;

    *ck = (Qcow2Check){ .node = node,
                        .fix = fix,
                        .progress = ck->progress,
                        .report = ck->report,
                        .opaque = ck->opaque };
    if (!qcow2_tables_load(&ck->t, block_node_file(node), error)) {
        return false;
    }
    e = qcow2_check_pass(ck);
    return e ? failed(ck, e, error) : true;
}

/* Nothing is wrong any more: the bits that said so go. */
static int clear_bits(Qcow2Check *ck)
{
    uint64_t bits = ck->t.incompatible;
    uint64_t now = GUINT64_TO_BE(bits & ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT));

    if (ck->t.version < 3 || GUINT64_TO_BE(bits) == now) {
        return 0;
    }
    return block_node_pwrite(ck->t.file, 72, &now, sizeof(now), BLOCK_FUA);
}

static bool is_clean(const Qcow2Check *ck)
{
    return !ck->r.corruptions && !ck->r.leaks && !ck->r.check_errors;
}

/* Check, repair, check again; the numbers are those of the last check and what was put right. The
 * findings that are told are those of the first. */
static bool check_file(BlockNode *node, int fix, BlockCheckResult *out, BlockProgressFn progress,
                       BlockReportFn report, void *opaque, GError **error)
{
    Qcow2Check ck = { .progress = progress, .report = report, .opaque = opaque };
    uint64_t fixed = 0, leaks_fixed = 0;
    int e = 0;

    if (!one_pass(&ck, node, 0, error)) {
        return false;
    }
    qcow2_check_report_rest(&ck);
    ck.report = NULL;
    for (unsigned round = 0; fix && round < 2 && !is_clean(&ck); round++) {
        bool again = ck.lost_snapshots;

        qcow2_check_clear(&ck);
        if (!one_pass(&ck, node, fix, error)) {
            return false;
        }
        e = qcow2_check_repair(&ck);
        if (e) {
            return failed(&ck, e, error);
        }
        fixed += ck.r.corruptions_fixed;
        leaks_fixed += ck.r.leaks_fixed;
        qcow2_check_clear(&ck);
        if (!one_pass(&ck, node, 0, error)) {
            return false;
        }
        if (!again) {
            break;
        }
    }
    if (fix && !ck.r.corruptions && !ck.r.check_errors) {
        e = clear_bits(&ck);
    }
    *out = ck.r;
    out->corruptions_fixed = fixed;
    out->leaks_fixed = leaks_fixed;
    if (e) {
        return failed(&ck, e, error);
    }
    qcow2_check_clear(&ck);
    return true;
}

bool qcow2_check(BlockNode *node, int fix, BlockCheckResult *out, BlockProgressFn progress,
                 BlockReportFn report, void *opaque, GError **error)
{
    Qcow2 *s = QCOW2(node);
    bool ok;
    int e = qcow2_settle(s);

    memset(out, 0, sizeof(*out));
    if (e) {
        errno = e;
        return error_set_errno(error, "'%s': writing its metadata", block_node_name(node));
    }
    if (fix && node->read_only) {
        return error_set(error, ENGINE_ERROR_INVALID, "'%s' is read-only: it cannot be repaired",
                         block_node_name(node));
    }
    ok = check_file(node, fix, out, progress, report, opaque, error);
    return (!fix || qcow2_reload(s, ok ? error : NULL)) && ok;
}

bool qcow2_repair_dirty(Qcow2 *s, GError **error)
{
    BlockCheckResult r;

    if (!check_file(&s->parent, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS, &r, NULL, NULL, NULL, error)) {
        return false;
    }
    if (r.corruptions || r.check_errors) {
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "'%s' was not closed and cannot be repaired: %" G_GUINT64_FORMAT
                         " errors are left",
                         block_node_name(&s->parent), r.corruptions + r.check_errors);
    }
    if (r.leaks_fixed || r.corruptions_fixed) {
        log_warning("'%s' was not closed: its refcounts are repaired", block_node_name(&s->parent));
    }
    return qcow2_reload(s, error);
}
