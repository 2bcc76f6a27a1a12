/*
 * qcow2: growing and shrinking; an image that holds nothing any more.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-bitmap.h"
#include "engine/core/error.h"

static bool failed(Qcow2 *s, int e, const char *what, GError **error)
{
    errno = e;
    return error_set_errno(error, "qcow2 '%s': %s", block_node_name(&s->parent), what);
}

static uint64_t l1_needed(const Qcow2 *s, uint64_t bytes)
{
    unsigned shift = qcow2_l2_shift(s);

    return (bytes >> shift) + ((bytes & ((UINT64_C(1) << shift) - 1)) != 0);
}

/* A larger L1 table in another place; the header is written by the caller, who gives the old one
 * back then. */
static int move_l1(Qcow2 *s, uint64_t entries)
{
    uint64_t clusters = qcow2_clusters(s, 8 * entries), place, got, *be, *l1;
    int e;

    pthread_mutex_lock(&s->lock);
    e = qcow2_alloc(s, clusters, true, &place, &got, NULL);
    pthread_mutex_unlock(&s->lock);
    if (e) {
        return e;
    }
    be = g_malloc0(clusters << s->cluster_bits);
    for (uint32_t i = 0; i < s->l1_entries; i++) {
        be[i] = GUINT64_TO_BE(s->l1[i]);
    }
    e = block_node_pwrite(block_node_file(&s->parent), place, be, clusters << s->cluster_bits, 0);
    g_free(be);
    pthread_mutex_lock(&s->lock);
    if (e || !qcow2_meta_add(s, place, clusters)) {
        qcow2_unalloc(s, place, clusters);
        pthread_mutex_unlock(&s->lock);
        return e ? e : ENOMEM;
    }
    l1 = g_new0(uint64_t, entries);
    memcpy(l1, s->l1, 8 * (size_t)s->l1_entries);
    g_free(s->l1);
    g_free(s->l1_dirty);
    s->l1 = l1;
    s->l1_dirty = g_new0(uint64_t, entries / 64 / 64 + 1);
    s->l1_any_dirty = false;
    qcow2_free_later(s, s->l1_offset, qcow2_clusters(s, 8 * (uint64_t)s->l1_entries));
    s->l1_offset = place;
    s->l1_entries = (uint32_t)entries;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* `node->length` on disk, with bitmaps for it (NULL: there are none); what was written before it is
 * there first, what waits for it after. */
static int commit_size(Qcow2 *s, uint64_t bytes, Qcow2BitmapChange *maps)
{
    uint64_t old = block_node_length(&s->parent);
    int e = qcow2_write_refcounts(s);

    e = e ? e : qcow2_flush_files(s);
    if (e) {
        return e;
    }
    __atomic_store_n(&s->parent.length, bytes, __ATOMIC_RELAXED);
    if (maps) {
        e = qcow2_bitmap_change_commit(maps, NULL) ? 0 : EIO;
    } else {
        e = qcow2_header_write_fields(s);
    }
    if (e) {
        __atomic_store_n(&s->parent.length, old, __ATOMIC_RELAXED);
        s->broken = true; /* which it is has to be read */
    }
    return e ? e : qcow2_settle(s);
}

static int resize_data_file(Qcow2 *s, uint64_t bytes, const char *preallocation)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(s->data);
    uint64_t length = block_node_length(s->data);
    GError *error = NULL;
    int e = 0;

    if (s->has_data_file && klass->resize && (s->data_raw ? bytes != length : bytes < length) &&
        !klass->resize(s->data, bytes, preallocation, &error)) {
        g_error_free(error);
        e = EIO;
    }
    return e;
}

/* ---- preallocation --------------------------------------------------------------------------- */

/* Clusters for [from, to), whose content is zeroes; `data`: written to the host too. */
static int preallocate(Qcow2 *s, uint64_t from, uint64_t to, const char *mode)
{
    bool written = !strcmp(mode, "full") || !strcmp(mode, "falloc");
    uint64_t at = qcow2_cluster_start(s, from);
    int e = 0;

    while (at < to && !e) {
        uint64_t want = qcow2_clusters(s, to - at), place = at, got = want, i;
        bool fresh = s->has_data_file;

        pthread_mutex_lock(&s->lock);
        want = MIN(want, (UINT64_C(64) << 20) / s->cluster_size);
        got = want;
        if (!s->has_data_file) {
            e = qcow2_alloc(s, want, false, &place, &got, &fresh);
        }
        pthread_mutex_unlock(&s->lock);
        if (e) {
            return e;
        }
        if (written) {
            e = block_node_sync_op(s->data, BLOCK_OP_ZERO, place, got << s->cluster_bits,
                                   BLOCK_NO_UNMAP);
        } else if (!fresh) {
            e = block_node_sync_op(s->data, BLOCK_OP_ZERO, place, got << s->cluster_bits, 0);
        } else if (place + (got << s->cluster_bits) > block_node_length(s->data)) {
            uint8_t last[BLOCK_SECTOR_SIZE] = {
                0
            }; /* no table points behind the end of the file */

            e = block_node_pwrite(s->data, place + (got << s->cluster_bits) - sizeof(last), last,
                                  sizeof(last), 0);
        }
        pthread_mutex_lock(&s->lock);
        for (i = 0; i < got && !e; i++) {
            Qcow2Entry entry = { (place + (i << s->cluster_bits)) | QCOW2_COPIED, 0 }, old;
            Qcow2Slice *slice;
            unsigned index;

            e = qcow2_slice_for_write(s, at + (i << s->cluster_bits), &slice, &index);
            if (e) {
                break;
            }
            old = qcow2_slice_entry(s, slice, index);
            if (old.entry & (QCOW2_OFFSET_MASK | QCOW2_COMPRESSED)) { /* the first one, perhaps */
                if (!s->has_data_file) {
                    qcow2_unalloc(s, place + (i << s->cluster_bits), 1);
                }
                continue;
            }
            entry.bitmap = s->subclusters > 1 && !s->backing_name ? UINT32_MAX : 0;
            qcow2_slice_set(s, slice, index, entry);
        }
        pthread_mutex_unlock(&s->lock);
        at += got << s->cluster_bits;
    }
    return e;
}

int qcow2_preallocate(Qcow2 *s, uint64_t from, uint64_t to, const char *mode)
{
    return preallocate(s, from, to, mode);
}

/* ---- resizing -------------------------------------------------------------------------------- */

static int shrink(Qcow2 *s, uint64_t bytes, Qcow2BitmapChange *maps)
{
    uint64_t old = block_node_length(&s->parent);
    uint64_t from = qcow2_clusters(s, bytes) << s->cluster_bits;
    int e = 0;

    if (from < old) {
        e = qcow2_discard(s, from, old - from, true);
    }
    e = e ? e : qcow2_settle(s);
    /* What is behind the end in the last cluster must not come back when the image grows again. */
    if (!e && bytes & (s->cluster_size - 1)) {
        e = qcow2_zero(s, bytes, MIN(from, old) - bytes, 0);
        e = e ? e : qcow2_settle(s);
    }
    return e ? e : commit_size(s, bytes, maps);
}

static int grow(Qcow2 *s, uint64_t bytes, const char *preallocation, Qcow2BitmapChange *maps)
{
    uint64_t old = block_node_length(&s->parent), entries = l1_needed(s, bytes);
    int e = qcow2_settle(s);

    if (!e && entries > s->l1_entries) {
        e = move_l1(s, entries);
    }
    e = e ? e : commit_size(s, bytes, maps);
    if (!e && strcmp(preallocation, "off") != 0) {
        e = preallocate(s, old, bytes, preallocation);
        e = e ? e : qcow2_settle(s);
    }
    return e;
}

/* Where a backing file is longer than the image was, what it holds there must not appear. */
static int hide_backing(Qcow2 *s, uint64_t old, uint64_t bytes)
{
    BlockNode *backing = block_node_backing(&s->parent);
    uint64_t length = backing ? block_node_length(backing) : 0;

    if (length <= old) {
        return 0;
    }
    if (s->bitmaps) {
        qcow2_bitmaps_written(s, old, MIN(length, bytes) - old);
    }
    return qcow2_zero(s, old, MIN(length, bytes) - old, 0);
}

static int change_length(Qcow2 *s, uint64_t bytes, const char *mode, Qcow2BitmapChange *maps)
{
    return bytes < block_node_length(&s->parent) ? shrink(s, bytes, maps)
                                                 : grow(s, bytes, mode, maps);
}

/* Bitmaps are for the size of the disk: they change with it, at the same moment. */
static bool with_bitmaps(Qcow2 *s, uint64_t bytes, const char *mode, GError **error)
{
    Qcow2BitmapChange c;
    bool ok;
    int e;

    if (!(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        e = change_length(s, bytes, mode, NULL);
        return !e || failed(s, e, "resizing", error);
    }
    if (!qcow2_bitmap_change_begin(&c, s, error)) {
        return false;
    }
    ok = qcow2_bitmap_change_length(&c, bytes, error) && qcow2_bitmap_change_prepare(&c, error);
    if (ok) {
        e = change_length(s, bytes, mode, &c);
        ok = !e || failed(s, e, "resizing", error);
    }
    return qcow2_bitmap_change_end(&c, ok, error);
}

bool qcow2_resize(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error)
{
    Qcow2 *s = QCOW2(node);
    uint64_t old = block_node_length(node);
    const char *mode = preallocation ? preallocation : "off";
    static const char *const modes[] = { "off", "metadata", "falloc", "full", NULL };
    int e;

    if (!g_strv_contains(modes, mode)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "qcow2: unknown preallocation '%s' (off, metadata, falloc, full)", mode);
    }
    if (node->read_only || s->corrupt) {
        return error_set(error, ENGINE_ERROR_INVALID, "qcow2 '%s' is %s", block_node_name(node),
                         s->corrupt ? "corrupt" : "read-only");
    }
    if (bytes % BLOCK_SECTOR_SIZE) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "qcow2 '%s': a size of %" G_GUINT64_FORMAT " is not a multiple of 512",
                         block_node_name(node), bytes);
    }
    if (s->nb_snapshots > 0 && (s->version < 3 || bytes < old)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "qcow2 '%s': an image with internal snapshots cannot be %s",
                         block_node_name(node), bytes < old ? "made smaller" : "resized");
    }
    if (bytes > BLOCK_MAX_BYTES || l1_needed(s, bytes) > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "qcow2 '%s': clusters of %u bytes do not reach so far",
                         block_node_name(node), s->cluster_size);
    }
    if (bytes < old && strcmp(mode, "off") != 0) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "qcow2 '%s': preallocation is for images that grow",
                         block_node_name(node));
    }
    if (bytes != old && !with_bitmaps(s, bytes, mode, error)) {
        return false;
    }
    e = 0;
    if (bytes > old) {
        e = hide_backing(s, old, bytes);
        e = e ? e : qcow2_settle(s);
    }
    e = e ? e : resize_data_file(s, bytes, "off");
    return !e || failed(s, e, "resizing", error);
}

bool qcow2_make_empty(BlockNode *node, GError **error)
{
    Qcow2 *s = QCOW2(node);
    uint64_t length = block_node_length(node);
    int e = node->read_only ? EROFS : s->corrupt ? EIO : 0;

    if (!e && length > 0) {
        if (s->bitmaps) {
            qcow2_bitmaps_written(s, 0, length);
        }
        e = qcow2_discard(s, 0, length, true);
    }
    e = e ? e : qcow2_settle(s);
    return !e || failed(s, e, "emptying it", error);
}
