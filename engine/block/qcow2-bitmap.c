/*
 * qcow2: persistent bitmaps stay true. An enabled bitmap has to say of each part of the disk
 * whether it was written to: what is written while the image is open is kept in memory and put into
 * the bitmap when it is closed. In between the bitmap's entry says that it is in use, so that after
 * a crash nobody believes it. Disabled bitmaps, and those that are no good or not understood, are
 * left as they are.
 */
#include "engine/block/qcow2-bitmap.h"

#include <errno.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"

#define MEMORY \
    (UINT64_C(256) << 20) /* of all bits that are kept; a bitmap that needs more is lost */

typedef struct Bitmap {
    uint64_t at; /* of its entry, in the file */
    uint32_t flags;
    uint64_t table_offset;
    Qcow2Bits bits;
    bool lost; /* stays marked as in use */
} Bitmap;

typedef struct Qcow2Bitmaps {
    pthread_mutex_t mutex; /* guards bits, lost and room: a leaf lock */
    GArray *maps;          /* of Bitmap: those that are kept true */
    uint64_t room;         /* bytes that are left for pages */
} Qcow2Bitmaps;

static void bitmap_clear(void *opaque)
{
    qcow2_bits_clear(&((Bitmap *)opaque)->bits);
}

static void free_bitmaps(Qcow2 *s)
{
    pthread_mutex_destroy(&s->bitmaps->mutex);
    g_array_free(s->bitmaps->maps, TRUE);
    g_clear_pointer(&s->bitmaps, g_free);
}

static int write_flags(Qcow2 *s, const Bitmap *b, uint32_t flags)
{
    uint32_t be = GUINT32_TO_BE(flags);

    return block_node_pwrite(block_node_file(&s->parent), b->at + 12, &be, sizeof(be), 0);
}

static int flush_file(Qcow2 *s)
{
    return block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
}

/* ---- bits in memory -------------------------------------------------------------------------- */

void qcow2_bits_init(Qcow2Bits *bits, uint32_t table_entries, unsigned granularity_bits,
                     uint64_t *room)
{
    *bits = (Qcow2Bits){ .pages = g_hash_table_new_full(NULL, NULL, NULL, g_free),
                         .room = room,
                         .table_entries = table_entries,
                         .granularity_bits = granularity_bits };
}

void qcow2_bits_clear(Qcow2Bits *bits)
{
    g_clear_pointer(&bits->pages, g_hash_table_destroy);
}

static uint8_t *page_of(Qcow2Bits *bits, uint32_t cluster_size, uint64_t index)
{
    gpointer key = (gpointer)(uintptr_t)index;
    uint8_t *page = g_hash_table_lookup(bits->pages, key);

    if (!page && *bits->room >= cluster_size) {
        page = g_try_malloc0(cluster_size);
        if (page) {
            *bits->room -= cluster_size;
            g_hash_table_insert(bits->pages, key, page);
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

bool qcow2_bits_set(Qcow2Bits *bits, uint32_t cluster_size, uint64_t offset, uint64_t bytes)
{
    uint64_t per = (uint64_t)cluster_size * 8, first = offset >> bits->granularity_bits;
    uint64_t last = (offset + bytes - 1) >> bits->granularity_bits;

    while (first <= last && first / per < bits->table_entries) {
        uint8_t *page = page_of(bits, cluster_size, first / per);
        uint64_t end = MIN(last, first | (per - 1));

        if (!page) {
            return false;
        }
        set_bits(page, first % per, end % per);
        first = end + 1;
    }
    return true;
}

/* The bits of one page into the cluster that the table names, or into a new one; *entry: changed.
 */
static int store_page(Qcow2 *s, uint64_t *entry, uint8_t *page)
{
    BlockNode *file = block_node_file(&s->parent);
    uint64_t offset = *entry & QCOW2_OFFSET_MASK, got;
    g_autofree uint8_t *old = NULL;
    int e;

    if (offset == 0 && *entry & QCOW2_BITMAP_ONES) {
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

int qcow2_bits_store(Qcow2 *s, const Qcow2Bits *bits, uint64_t *table)
{
    GHashTableIter iter;
    gpointer key, page;
    int e = 0;

    g_hash_table_iter_init(&iter, bits->pages);
    while (!e && g_hash_table_iter_next(&iter, &key, &page)) {
        e = store_page(s, &table[(uintptr_t)key], page);
    }
    return e;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Those that are not to be kept true are passed over. */
static void take_entry(Qcow2 *s, const Qcow2Tables *t, const Qcow2Bitmap *entry, uint64_t *tables)
{
    Bitmap b = { .at = entry->at, .flags = entry->flags, .table_offset = entry->table_offset };

    if (b.flags & QCOW2_BITMAP_IN_USE || !(b.flags & QCOW2_BITMAP_AUTO)) {
        return;
    }
    *tables += entry->table_entries * UINT64_C(8);
    /* Unknown things are not changed, but what is not kept true may not look true. */
    b.lost = !qcow2_bitmap_sound(t, entry, block_node_length(&s->parent)) ||
             *tables > t->file_bytes + QCOW2_MAX_L1_BYTES;
    qcow2_bits_init(&b.bits, entry->table_entries, MIN(entry->granularity_bits, 63),
                    &s->bitmaps->room);
    g_array_append_val(s->bitmaps->maps, b);
    /* cppcheck-suppress memleak ; the array has it now */
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

static int mark_all_in_use(Qcow2 *s)
{
    int e = 0;

    for (unsigned i = 0; !e && i < s->bitmaps->maps->len; i++) {
        const Bitmap *b = &g_array_index(s->bitmaps->maps, Bitmap, i);

        e = write_flags(s, b, b->flags | QCOW2_BITMAP_IN_USE);
    }
    return e || s->bitmaps->maps->len == 0 ? e : flush_file(s);
}

bool qcow2_bitmaps_open(Qcow2 *s, GError **error)
{
    uint64_t tables = 0;
    GArray *entries;
    Qcow2Tables t;
    int e;

    if (!qcow2_tables_load(&t, block_node_file(&s->parent), error)) {
        return false;
    }
    s->bitmaps = g_new0(Qcow2Bitmaps, 1);
    pthread_mutex_init(&s->bitmaps->mutex, NULL);
    s->bitmaps->room = MEMORY;
    s->bitmaps->maps = g_array_new(FALSE, FALSE, sizeof(Bitmap));
    g_array_set_clear_func(s->bitmaps->maps, bitmap_clear);
    e = qcow2_bitmap_dir_load(&t, &entries);
    if (e == EINVAL || (!e && entries->len == 0)) {
        e = give_up(s);
    }
    for (unsigned i = 0; entries && i < entries->len; i++) {
        take_entry(s, &t, &g_array_index(entries, Qcow2Bitmap, i), &tables);
    }
    if (entries) {
        g_array_free(entries, TRUE);
    }
    qcow2_tables_clear(&t);
    e = e ? e : mark_all_in_use(s);
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

void qcow2_bitmaps_written(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    if (bytes == 0) {
        return;
    }
    pthread_mutex_lock(&s->bitmaps->mutex);
    for (unsigned i = 0; i < s->bitmaps->maps->len; i++) {
        Bitmap *b = &g_array_index(s->bitmaps->maps, Bitmap, i);

        b->lost = b->lost || !qcow2_bits_set(&b->bits, s->cluster_size, offset, bytes);
    }
    pthread_mutex_unlock(&s->bitmaps->mutex);
}

/* ---- closing --------------------------------------------------------------------------------- */

static int store_bitmap(Qcow2 *s, const Qcow2Tables *t, const Bitmap *b)
{
    g_autofree uint64_t *table = NULL;
    int e = qcow2_table_read(t, b->table_offset, b->bits.table_entries, &table);

    e = e ? e : qcow2_bits_store(s, &b->bits, table);
    /* What the table names now is counted before it is named. */
    e = e ? e : qcow2_write_back(s, true);
    e = e ? e : qcow2_write_refcounts(s);
    e = e ? e : flush_file(s);
    e = e ? e : qcow2_table_write(t, b->table_offset, table, b->bits.table_entries);
    return e ? e : flush_file(s);
}

void qcow2_bitmaps_close(Qcow2 *s)
{
    Qcow2Tables t;
    int e = 0;

    if (s->corrupt || s->broken || !qcow2_tables_load(&t, block_node_file(&s->parent), NULL)) {
        free_bitmaps(s);
        return;
    }
    for (unsigned i = 0; !e && i < s->bitmaps->maps->len; i++) {
        const Bitmap *b = &g_array_index(s->bitmaps->maps, Bitmap, i);

        if (!b->lost) {
            e = g_hash_table_size(b->bits.pages) ? store_bitmap(s, &t, b) : 0;
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
