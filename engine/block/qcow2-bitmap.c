/*
 * qcow2: persistent bitmaps stay true. An enabled bitmap has to say of each part of the disk
 * whether it was written to: what is written while the image is open is kept in memory and put into
 * the bitmap when it is closed. In between the bitmap's entry says that it is in use, so that after
 * a crash nobody believes it. Disabled bitmaps, and those that are no good or not understood, are
 * left as they are.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-tables.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

#define FLAG_IN_USE 1u
#define FLAG_AUTO   2u
#define TYPE_DIRTY  1

#define MEMORY \
    (UINT64_C(256) << 20) /* of all bits that are kept; a bitmap that needs more is lost */

typedef struct Bitmap {
    uint64_t flags_at; /* in the file */
    uint32_t flags;
    uint64_t table_offset;
    uint32_t table_entries;
    unsigned granularity_bits;
    GHashTable *pages; /* index in the table → bits that were set: a cluster */
    bool lost;         /* stays marked as in use */
} Bitmap;

typedef struct Qcow2Bitmaps {
    pthread_mutex_t mutex; /* guards pages, lost and used: a leaf lock */
    GArray *maps;          /* of Bitmap: those that are kept true */
    uint64_t used, tables; /* bytes: of pages, of tables */
} Qcow2Bitmaps;

static void bitmap_clear(void *opaque)
{
    g_hash_table_destroy(((Bitmap *)opaque)->pages);
}

static void free_bitmaps(Qcow2 *s)
{
    pthread_mutex_destroy(&s->bitmaps->mutex);
    g_array_free(s->bitmaps->maps, TRUE);
    g_clear_pointer(&s->bitmaps, g_free);
}

static uint64_t get_be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

static int write_flags(Qcow2 *s, const Bitmap *b, uint32_t flags)
{
    uint32_t be = GUINT32_TO_BE(flags);

    return block_node_pwrite(block_node_file(&s->parent), b->flags_at, &be, sizeof(be), 0);
}

static int flush_file(Qcow2 *s)
{
    return block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
}

/* ---- opening --------------------------------------------------------------------------------- */

/* An entry of the directory; those that are not to be kept true are passed over. */
static void take_entry(Qcow2 *s, const Qcow2Tables *t, const uint8_t *p, uint64_t at)
{
    Bitmap b = { .flags_at = t->bitmap_dir + at + 12,
                 .flags = (uint32_t)get_be(p + 12, 4),
                 .table_offset = get_be(p, 8),
                 .table_entries = (uint32_t)get_be(p + 8, 4),
                 .granularity_bits = p[17] };

    if (b.flags & FLAG_IN_USE || !(b.flags & FLAG_AUTO)) {
        return;
    }
    s->bitmaps->tables += b.table_entries * UINT64_C(8);
    b.pages = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    /* Unknown things are not changed, but what is not kept true may not look true. */
    b.lost = p[16] != TYPE_DIRTY || get_be(p + 20, 4) != 0 || b.granularity_bits < 9 ||
             b.granularity_bits > 31 || b.table_offset % t->cluster_size ||
             b.table_offset >= t->file_bytes ||
             s->bitmaps->tables > t->file_bytes + QCOW2_MAX_L1_BYTES;
    g_array_append_val(s->bitmaps->maps, b);
    /* cppcheck-suppress memleak ; the array has it now */
}

/* false: the directory is damaged. */
static bool read_directory(Qcow2 *s, const Qcow2Tables *t, int *e)
{
    uint64_t bytes = t->bitmap_dir_bytes, at = 0;
    g_autofree uint8_t *dir = NULL;

    *e = 0;
    if (t->n_bitmaps == 0 || t->bitmap_dir % t->cluster_size || bytes > QCOW2_BITMAPDIR_MAX ||
        t->bitmap_dir >= t->file_bytes || bytes > t->file_bytes - t->bitmap_dir) {
        return false;
    }
    dir = g_try_malloc(MAX(bytes, 1));
    *e = dir ? block_node_pread(t->file, t->bitmap_dir, dir, bytes) : ENOMEM;
    for (uint32_t i = 0; !*e && i < t->n_bitmaps; i++) {
        uint64_t need = bytes - at < 24 ? UINT64_MAX
                                        : 24 + get_be(dir + at + 18, 2) + get_be(dir + at + 20, 4);

        if (need > bytes - at) {
            return false;
        }
        take_entry(s, t, dir + at, at);
        at = MIN(bytes, at + (need + 7) / 8 * 8);
    }
    return true;
}

/* They are no good: they are not said to be any longer. */
static int give_up(Qcow2 *s)
{
    int e;

    log_warning("'%s': its directory of bitmaps is damaged: they are lost",
                block_node_name(&s->parent));
    s->autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
    e = qcow2_header_write_fields(s);
    return e ? e : flush_file(s);
}

bool qcow2_bitmaps_open(Qcow2 *s, GError **error)
{
    Qcow2Tables t;
    int e;

    if (!qcow2_tables_load(&t, block_node_file(&s->parent), error)) {
        return false;
    }
    s->bitmaps = g_new0(Qcow2Bitmaps, 1);
    pthread_mutex_init(&s->bitmaps->mutex, NULL);
    s->bitmaps->maps = g_array_new(FALSE, FALSE, sizeof(Bitmap));
    g_array_set_clear_func(s->bitmaps->maps, bitmap_clear);
    if (!read_directory(s, &t, &e)) {
        g_array_set_size(s->bitmaps->maps, 0);
        e = give_up(s);
    }
    for (unsigned i = 0; !e && i < s->bitmaps->maps->len; i++) {
        const Bitmap *b = &g_array_index(s->bitmaps->maps, Bitmap, i);

        e = write_flags(s, b, b->flags | FLAG_IN_USE);
    }
    if (!e && s->bitmaps->maps->len > 0) {
        e = flush_file(s);
    }
    qcow2_tables_clear(&t);
    if (e || s->bitmaps->maps->len == 0) {
        free_bitmaps(s);
    }
    if (e) {
        errno = e;
        return error_set_errno(error, "'%s': its bitmaps", block_node_name(&s->parent));
    }
    return true;
}

/* ---- while it is open ------------------------------------------------------------------------ */

static uint8_t *page_of(Qcow2 *s, Bitmap *b, uint64_t index)
{
    gpointer key = (gpointer)(uintptr_t)index;
    uint8_t *page = g_hash_table_lookup(b->pages, key);

    if (!page && s->bitmaps->used + s->cluster_size <= MEMORY) {
        page = g_try_malloc0(s->cluster_size);
        if (page) {
            s->bitmaps->used += s->cluster_size;
            g_hash_table_insert(b->pages, key, page);
        }
    }
    return page;
}

/* Bits [first, last] of one page, numbered within it. */
static void set_bits(uint8_t *page, uint64_t first, uint64_t last)
{
    while (first <= last && first % 8) {
        page[first / 8] |= (uint8_t)(1u << first % 8);
        first++;
    }
    if (last + 1 > first) {
        memset(page + first / 8, 0xff, (last + 1 - first) / 8);
        first += (last + 1 - first) / 8 * 8;
    }
    while (first <= last) {
        page[first / 8] |= (uint8_t)(1u << first % 8);
        first++;
    }
}

static void mark_written(Qcow2 *s, Bitmap *b, uint64_t offset, uint64_t bytes)
{
    uint64_t bits = (uint64_t)s->cluster_size * 8, first = offset >> b->granularity_bits;
    uint64_t last = (offset + bytes - 1) >> b->granularity_bits;

    while (!b->lost && first <= last && first / bits < b->table_entries) {
        uint8_t *page = page_of(s, b, first / bits);
        uint64_t end = MIN(last, first | (bits - 1));

        if (!page) {
            b->lost = true;
            return;
        }
        set_bits(page, first % bits, end % bits);
        first = end + 1;
    }
}

void qcow2_bitmaps_written(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0) {
        return;
    }
    pthread_mutex_lock(&s->bitmaps->mutex);
    for (unsigned i = 0; i < s->bitmaps->maps->len; i++) {
        mark_written(s, &g_array_index(s->bitmaps->maps, Bitmap, i), offset, bytes);
    }
    pthread_mutex_unlock(&s->bitmaps->mutex);
}

/* ---- closing --------------------------------------------------------------------------------- */

/* The bits of one page into the cluster that the table names, or into a new one; *entry: changed.
 */
static int store_page(Qcow2 *s, uint64_t *entry, uint8_t *page)
{
    BlockNode *file = block_node_file(&s->parent);
    uint64_t offset = *entry & QCOW2_OFFSET_MASK, got;
    g_autofree uint8_t *old = NULL;
    int e;

    if (offset == 0 && *entry & 1) {
        return 0; /* all are set as it is */
    }
    if (offset == 0) {
        pthread_mutex_lock(&s->lock);
        e = qcow2_alloc(s, 1, true, &offset, &got, NULL);
        pthread_mutex_unlock(&s->lock);
        *entry = e ? *entry : offset;
        return e ? e : block_node_pwrite(file, offset, page, s->cluster_size, 0);
    }
    if (offset % s->cluster_size) {
        return EIO;
    }
    old = g_try_malloc(s->cluster_size);
    e = old ? block_node_pread(file, offset, old, s->cluster_size) : ENOMEM;
    for (uint32_t i = 0; !e && i < s->cluster_size; i++) {
        page[i] |= old[i];
    }
    return e ? e : block_node_pwrite(file, offset, page, s->cluster_size, 0);
}

static int store_bitmap(Qcow2 *s, const Qcow2Tables *t, const Bitmap *b)
{
    g_autofree uint64_t *table = NULL;
    GHashTableIter iter;
    gpointer key, page;
    int e = qcow2_table_read(t, b->table_offset, b->table_entries, &table);

    g_hash_table_iter_init(&iter, b->pages);
    while (!e && g_hash_table_iter_next(&iter, &key, &page)) {
        e = store_page(s, &table[(uintptr_t)key], page);
    }
    /* What the table names now is counted before it is named. */
    e = e ? e : qcow2_write_back(s, true);
    e = e ? e : qcow2_write_refcounts(s);
    e = e ? e : flush_file(s);
    e = e ? e : qcow2_table_write(t, b->table_offset, table, b->table_entries);
    return e ? e : flush_file(s);
}

void qcow2_bitmaps_close(Qcow2 *s)
{
    Qcow2Tables t;
    int e = 0;

    if (s->corrupt || !qcow2_tables_load(&t, block_node_file(&s->parent), NULL)) {
        free_bitmaps(s);
        return;
    }
    for (unsigned i = 0; !e && i < s->bitmaps->maps->len; i++) {
        const Bitmap *b = &g_array_index(s->bitmaps->maps, Bitmap, i);

        if (!b->lost) {
            e = g_hash_table_size(b->pages) ? store_bitmap(s, &t, b) : 0;
            e = e ? e : write_flags(s, b, b->flags);
        }
    }
    e = e ? e : flush_file(s);
    if (e) {
        log_warning("'%s': storing its bitmaps: %s", block_node_name(&s->parent), g_strerror(e));
    }
    qcow2_tables_clear(&t);
    free_bitmaps(s);
}
