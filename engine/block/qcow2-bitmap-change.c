/* qcow2: changing the set of persistent bitmaps as a whole: see qcow2-bitmap.h. */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-bitmap.h"
#include "engine/core/error.h"

static bool failed(Qcow2 *s, int e, GError **error)
{
    errno = e;
    return error_set_errno(error, "'%s': its bitmaps", block_node_name(&s->parent));
}

/* ---- clusters -------------------------------------------------------------------------------- */

int qcow2_bitmap_change_alloc(Qcow2BitmapChange *c, uint64_t clusters, uint64_t *offset)
{
    Qcow2Free made = { .clusters = clusters };
    uint64_t got;
    int e;

    pthread_mutex_lock(&c->s->lock);
    e = qcow2_alloc(c->s, clusters, true, &made.offset, &got, NULL);
    pthread_mutex_unlock(&c->s->lock);
    if (!e) {
        g_array_append_val(c->made, made);
        *offset = made.offset;
    }
    return e;
}

void qcow2_bitmap_change_drop(Qcow2BitmapChange *c, uint64_t offset, uint64_t bytes)
{
    Qcow2Free old = { .offset = offset, .clusters = qcow2_clusters(c->s, bytes) };
    bool wrong;

    if (bytes == 0) {
        return;
    }
    pthread_mutex_lock(&c->s->lock);
    /* What a damaged directory names may be something else: then it stays. */
    wrong = offset % c->s->cluster_size || offset >= c->t.file_bytes ||
            bytes > c->t.file_bytes - offset + c->s->cluster_size ||
            qcow2_meta_overlaps(c->s, offset, bytes);
    pthread_mutex_unlock(&c->s->lock);
    if (!wrong) {
        g_array_append_val(c->drop, old);
    }
}

int qcow2_bitmap_change_write(Qcow2BitmapChange *c, const void *data, uint64_t bytes,
                              uint64_t *offset)
{
    uint64_t clusters = MAX(qcow2_clusters(c->s, bytes), 1), all = clusters << c->s->cluster_bits;
    g_autofree uint8_t *padded = g_try_malloc0(all);
    int e = padded ? qcow2_bitmap_change_alloc(c, clusters, offset) : ENOMEM;

    if (e) {
        return e;
    }
    memcpy(padded, data, bytes);
    return block_node_pwrite(block_node_file(&c->s->parent), *offset, padded, all, 0);
}

int qcow2_bitmap_change_table(Qcow2BitmapChange *c, Qcow2Bitmap *b, const uint64_t *table,
                              uint64_t entries)
{
    g_autofree uint64_t *be = g_try_new(uint64_t, entries);
    uint64_t place;
    int e;

    if (!be) {
        return ENOMEM;
    }
    for (uint64_t i = 0; i < entries; i++) {
        be[i] = GUINT64_TO_BE(table[i]);
    }
    e = qcow2_bitmap_change_write(c, be, entries * 8, &place);
    if (!e) {
        if (b->table_offset) {
            qcow2_bitmap_change_drop(c, b->table_offset, b->table_entries * UINT64_C(8));
        }
        b->table_offset = place;
        b->table_entries = (uint32_t)entries;
    }
    return e;
}

int qcow2_bitmap_change_drop_bits(Qcow2BitmapChange *c, const Qcow2Bitmap *b)
{
    g_autofree uint64_t *table = NULL;
    int e;

    if (b->table_offset % c->t.cluster_size || b->table_offset >= c->t.file_bytes ||
        b->table_entries * c->t.cluster_size > QCOW2_BITMAP_MAX_BYTES) {
        return 0; /* nobody can say what is its */
    }
    e = qcow2_table_read(&c->t, b->table_offset, b->table_entries, &table);
    for (uint32_t i = 0; !e && i < b->table_entries; i++) {
        if (table[i] & QCOW2_OFFSET_MASK) {
            qcow2_bitmap_change_drop(c, table[i] & QCOW2_OFFSET_MASK, c->t.cluster_size);
        }
    }
    return e;
}

/* ---- another length -------------------------------------------------------------------------- */

/* Bits from `valid` on are cleared; a new cluster when that changes something. */
static int trim_page(Qcow2BitmapChange *c, uint64_t *entry, uint64_t valid)
{
    uint64_t offset = *entry & QCOW2_OFFSET_MASK, bytes = c->t.cluster_size;
    g_autofree uint8_t *page = g_try_malloc(bytes), *before = NULL;
    int e = page ? 0 : ENOMEM;

    if (*entry == 0 || valid >= bytes * 8) {
        return 0;
    }
    if (offset % bytes || (offset && offset >= c->t.file_bytes)) {
        return EIO;
    }
    if (!e && offset) {
        e = block_node_pread(c->t.file, offset, page, bytes);
    } else if (!e) {
        memset(page, 0xff, bytes);
    }
    if (e) {
        return e;
    }
    before = g_memdup2(page, bytes);
    if (valid % 8) {
        page[valid / 8] &= (uint8_t)((1u << valid % 8) - 1);
    }
    memset(page + (valid + 7) / 8, 0, bytes - (valid + 7) / 8);
    if (memcmp(before, page, bytes) == 0) {
        return 0;
    }
    if (offset) {
        qcow2_bitmap_change_drop(c, offset, bytes);
    }
    *entry = 0;
    return block_buf_is_zero(page, bytes) ? 0 : qcow2_bitmap_change_write(c, page, bytes, entry);
}

static int change_length(Qcow2BitmapChange *c, Qcow2Bitmap *b, uint64_t before, uint64_t bytes)
{
    unsigned g = b->granularity_bits;
    uint64_t per = c->t.cluster_size * 8, kept = MIN(before, bytes);
    uint64_t bits = (kept >> g) + ((kept & ((UINT64_C(1) << g) - 1)) != 0);
    uint64_t entries = qcow2_bitmap_table_entries(&c->t, bytes, g), last = bits / per;
    g_autofree uint64_t *old = NULL, *table = g_try_new0(uint64_t, entries);
    int e = table ? qcow2_table_read(&c->t, b->table_offset, b->table_entries, &old) : ENOMEM;

    for (uint64_t i = 0; !e && i < b->table_entries; i++) {
        bool whole = i < last, partly = i == last && bits % per;

        if (i < entries && (whole || partly)) {
            table[i] = old[i];
            e = partly ? trim_page(c, &table[i], bits % per) : 0;
        } else if (old[i] & QCOW2_OFFSET_MASK) {
            qcow2_bitmap_change_drop(c, old[i] & QCOW2_OFFSET_MASK, c->t.cluster_size);
        }
    }
    if (e || (entries == b->table_entries && memcmp(old, table, entries * 8) == 0)) {
        return e;
    }
    return qcow2_bitmap_change_table(c, b, table, entries);
}

bool qcow2_bitmap_change_length(Qcow2BitmapChange *c, uint64_t bytes, GError **error)
{
    BlockNode *node = &c->s->parent;
    uint64_t before = block_node_length(node);

    for (unsigned i = 0; i < c->maps->len; i++) {
        Qcow2Bitmap *b = &g_array_index(c->maps, Qcow2Bitmap, i);
        int e;

        if (b->flags & QCOW2_BITMAP_IN_USE || !qcow2_bitmap_sound(&c->t, b, before)) {
            return error_set(
                error, ENGINE_ERROR_INVALID,
                "'%s': its bitmap '%s' is inconsistent: the image keeps its size until "
                "that is removed (img bitmap --remove)",
                block_node_name(node), b->name);
        }
        if (qcow2_bitmap_table_entries(&c->t, bytes, b->granularity_bits) * c->t.cluster_size >
            QCOW2_BITMAP_MAX_BYTES) {
            return error_set(error, ENGINE_ERROR_LIMIT,
                             "'%s': its bitmap '%s' is too fine for a disk of %" G_GUINT64_FORMAT
                             " bytes",
                             block_node_name(node), b->name, bytes);
        }
        e = change_length(c, b, before, bytes);
        if (e) {
            return failed(c->s, e, error);
        }
    }
    return true;
}

/* ---- from the beginning to the end ----------------------------------------------------------- */

static void clear_change(Qcow2BitmapChange *c)
{
    if (c->maps) {
        g_array_free(g_steal_pointer(&c->maps), TRUE);
    }
    g_array_free(g_steal_pointer(&c->made), TRUE);
    g_array_free(g_steal_pointer(&c->drop), TRUE);
    qcow2_tables_clear(&c->t);
}

static bool in_use_again(Qcow2 *s, GError **error)
{
    return !(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || s->bitmaps || qcow2_bitmaps_open(s, error);
}

bool qcow2_bitmap_change_begin(Qcow2BitmapChange *c, Qcow2 *s, GError **error)
{
    int e;

    memset(c, 0, sizeof(*c));
    c->s = s;
    c->made = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    c->drop = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    if (s->bitmaps) {
        qcow2_bitmaps_close(s);
    }
    e = qcow2_settle(s);
    if (!e && !qcow2_tables_load(&c->t, block_node_file(&s->parent), error)) {
        clear_change(c);
        in_use_again(s, NULL);
        return false;
    }
    e = e ? e : qcow2_bitmap_dir_load(&c->t, &c->maps);
    if (e) {
        clear_change(c);
        in_use_again(s, NULL);
        return failed(s, e == EINVAL ? EIO : e, error);
    }
    return true;
}

static void put_be(uint8_t *p, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        p[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
    }
}

static GByteArray *pack_directory(const GArray *maps)
{
    GByteArray *out = g_byte_array_new();
    static const uint8_t zeroes[8];

    for (unsigned i = 0; i < maps->len; i++) {
        const Qcow2Bitmap *b = &g_array_index(maps, Qcow2Bitmap, i);
        uint8_t head[24] = { 0 };
        guint name = (guint)strlen(b->name);

        put_be(head, b->table_offset, 8);
        put_be(head + 8, b->table_entries, 4);
        put_be(head + 12, b->flags, 4);
        head[16] = b->type;
        head[17] = b->granularity_bits;
        put_be(head + 18, name, 2);
        put_be(head + 20, b->extra_size, 4);
        g_byte_array_append(out, head, sizeof(head));
        g_byte_array_append(out, b->extra, b->extra_size);
        g_byte_array_append(out, (const guint8 *)b->name, name);
        g_byte_array_append(out, zeroes, (8 - out->len % 8) % 8);
    }
    return out;
}

bool qcow2_bitmap_change_prepare(Qcow2BitmapChange *c, GError **error)
{
    g_autoptr(GByteArray) dir = pack_directory(c->maps);
    uint8_t extension[24] = { 0 };
    uint64_t place = 0;
    Qcow2 *s = c->s;
    int e = dir->len > QCOW2_BITMAPDIR_MAX ? EFBIG : 0;

    if (c->maps->len > 0) {
        e = e ? e : qcow2_bitmap_change_write(c, dir->data, dir->len, &place);
    }
    if (e) {
        return failed(s, e, error);
    }
    if (c->t.n_bitmaps > 0) {
        qcow2_bitmap_change_drop(c, c->t.bitmap_dir, c->t.bitmap_dir_bytes);
    }
    put_be(extension, c->maps->len, 4);
    put_be(extension + 8, dir->len, 8);
    put_be(extension + 16, place, 8);
    c->prepared = true;
    if (c->maps->len > 0) {
        s->autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    } else {
        s->autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
    }
    if (!qcow2_set_extension(s, QCOW2_EXT_BITMAPS, c->maps->len ? extension : NULL,
                             sizeof(extension))) {
        return error_set(error, ENGINE_ERROR_LIMIT, "'%s' has too many header extensions",
                         block_node_name(&s->parent));
    }
    return true;
}

bool qcow2_bitmap_change_commit(Qcow2BitmapChange *c, GError **error)
{
    Qcow2 *s = c->s;
    /* What is to be given back waits: the header that still counts may need it. */
    int e = qcow2_write_refcounts(s);

    e = e ? e : qcow2_flush_files(s);
    if (e) {
        return failed(s, e, error);
    }
    if (!qcow2_header_write(s, error)) {
        return false;
    }
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < c->drop->len; i++) {
        const Qcow2Free *f = &g_array_index(c->drop, Qcow2Free, i);

        qcow2_free_later(s, f->offset, f->clusters);
    }
    pthread_mutex_unlock(&s->lock);
    g_array_set_size(c->made, 0);
    c->prepared = false;
    e = qcow2_settle(s);
    return !e || failed(s, e, error);
}

bool qcow2_bitmap_change_end(Qcow2BitmapChange *c, bool ok, GError **error)
{
    Qcow2 *s = c->s;

    if (!ok) {
        error = NULL;             /* it is told already */
        s->broken |= c->prepared; /* the header in memory is not the one of the file */
        pthread_mutex_lock(&s->lock);
        for (unsigned i = 0; !s->broken && i < c->made->len; i++) {
            const Qcow2Free *f = &g_array_index(c->made, Qcow2Free, i);

            qcow2_unalloc(s, f->offset, f->clusters);
        }
        pthread_mutex_unlock(&s->lock);
        qcow2_settle(s);
    }
    clear_change(c);
    return (s->broken || in_use_again(s, error)) && ok;
}
