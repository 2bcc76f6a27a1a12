/*
 * qcow2: what tools do with single bitmaps (add, remove, clear, enable, disable, merge), and what
 * they are told about them.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-bitmap.h"
#include "engine/core/error.h"

#define MAX_NAME    1023
#define MERGE_BYTES (UINT64_C(256) << 20) /* of bits that are merged at a time */

static bool refuse(BlockNode *node, GError **error, const char *format, ...) G_GNUC_PRINTF(3, 4);
static bool refuse(BlockNode *node, GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    return error_set(error, ENGINE_ERROR_INVALID, "'%s': %s", block_node_name(node), text);
}

static bool failed(BlockNode *node, const char *name, int e, GError **error)
{
    errno = e;
    return error_set_errno(error, "'%s': its bitmap '%s'", block_node_name(node), name);
}

static Qcow2Bitmap *find(GArray *maps, const char *name)
{
    for (unsigned i = 0; i < maps->len; i++) {
        Qcow2Bitmap *b = &g_array_index(maps, Qcow2Bitmap, i);

        if (!strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

/* One that can be believed. */
static Qcow2Bitmap *find_sound(BlockNode *node, const Qcow2Tables *t, GArray *maps,
                               const char *name, GError **error)
{
    Qcow2Bitmap *b = find(maps, name);

    if (!b) {
        refuse(node, error, "it has no bitmap '%s'", name);
    } else if (b->flags & QCOW2_BITMAP_IN_USE || !qcow2_bitmap_sound(t, b, t->size)) {
        refuse(node, error, "its bitmap '%s' is inconsistent: it can only be removed", name);
        b = NULL;
    }
    return b;
}

/* ---- adding, removing, clearing -------------------------------------------------------------- */

static bool add(Qcow2BitmapChange *c, const char *name, uint64_t granularity, GError **error)
{
    BlockNode *node = &c->s->parent;
    Qcow2Bitmap b = { .type = QCOW2_BITMAP_DIRTY, .flags = QCOW2_BITMAP_AUTO };
    g_autofree uint64_t *table = NULL;
    uint64_t entries;
    int e;

    granularity = granularity ? granularity : MAX(c->t.cluster_size, 4096);
    b.granularity_bits = (uint8_t)__builtin_ctzll(granularity);
    if (!*name || strlen(name) > MAX_NAME) {
        return refuse(node, error, "a bitmap's name has 1 to %d bytes", MAX_NAME);
    }
    if (find(c->maps, name)) {
        return refuse(node, error, "it has a bitmap '%s' already", name);
    }
    if (granularity & (granularity - 1) || b.granularity_bits < QCOW2_BITMAP_MIN_GRANULARITY ||
        b.granularity_bits > QCOW2_BITMAP_MAX_GRANULARITY) {
        return refuse(node, error, "a bitmap's granularity is a power of 2 from 512 to 2G");
    }
    entries = qcow2_bitmap_table_entries(&c->t, c->t.size, b.granularity_bits);
    if (c->maps->len >= QCOW2_BITMAPS_MAX || entries * c->t.cluster_size > QCOW2_BITMAP_MAX_BYTES) {
        return refuse(node, error, "%s",
                      c->maps->len >= QCOW2_BITMAPS_MAX
                          ? "it has as many bitmaps as there can be"
                          : "a bitmap of that granularity would be too large");
    }
    table = g_new0(uint64_t, entries);
    e = qcow2_bitmap_change_table(c, &b, table, entries);
    if (e) {
        return failed(node, name, e, error);
    }
    g_array_append_val(c->maps, b);
    g_array_index(c->maps, Qcow2Bitmap, c->maps->len - 1).name = g_strdup(name);
    return true;
}

static bool remove_one(Qcow2BitmapChange *c, const char *name, GError **error)
{
    const Qcow2Bitmap *b = find(c->maps, name);
    int e;

    if (!b) {
        return refuse(&c->s->parent, error, "it has no bitmap '%s'", name);
    }
    e = qcow2_bitmap_change_drop_bits(c, b);
    if (e) {
        return failed(&c->s->parent, name, e, error);
    }
    qcow2_bitmap_change_drop(c, b->table_offset, b->table_entries * UINT64_C(8));
    g_array_remove_index(c->maps, (guint)(b - (const Qcow2Bitmap *)(void *)c->maps->data));
    return true;
}

static int clear(Qcow2BitmapChange *c, Qcow2Bitmap *b)
{
    g_autofree uint64_t *table = g_new0(uint64_t, b->table_entries);
    int e = qcow2_bitmap_change_drop_bits(c, b);

    return e ? e : qcow2_bitmap_change_table(c, b, table, b->table_entries);
}

/* ---- merging --------------------------------------------------------------------------------- */

/* Runs of bits of one page of the source, which begins at the disk's byte `at`. */
static bool merge_page(Qcow2Bits *to, uint32_t cluster, const uint8_t *page, uint64_t bits,
                       unsigned granularity, uint64_t at, uint64_t disk)
{
    for (uint64_t i = 0; i < bits && at + (i << granularity) < disk;) {
        uint64_t from = i, start;

        if (i % 8 == 0 && !page[i / 8]) {
            i += 8;
            continue;
        }
        while (i < bits && page[i / 8] >> i % 8 & 1) {
            i++;
        }
        start = at + (from << granularity);
        if (i == from) {
            i++;
        } else if (start < disk && !qcow2_bits_set(to, cluster, start,
                                                   MIN((i - from) << granularity, disk - start))) {
            return false;
        }
    }
    return true;
}

static int collect(const Qcow2Tables *t, const Qcow2Bitmap *from, Qcow2Bits *to, uint32_t cluster)
{
    uint64_t bits = t->cluster_size * 8;
    g_autofree uint8_t *page = g_try_malloc(t->cluster_size);
    g_autofree uint64_t *table = NULL;
    int e = page ? qcow2_table_read(t, from->table_offset, from->table_entries, &table) : ENOMEM;

    for (uint32_t i = 0; !e && i < from->table_entries; i++) {
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;
        uint64_t at = (uint64_t)i * bits << from->granularity_bits;

        if (table[i] == 0 || at >= t->size) {
            continue;
        }
        memset(page, 0xff, t->cluster_size);
        if (offset) {
            e = offset % t->cluster_size || offset >= t->file_bytes
                    ? EIO
                    : block_node_pread(t->file, offset, page, t->cluster_size);
        }
        if (!e && !merge_page(to, cluster, page, bits, from->granularity_bits, at, t->size)) {
            e = ENOMEM;
        }
    }
    return e;
}

/* A page of the target with its old bits, into a new cluster. */
static int merge_into(Qcow2BitmapChange *c, uint64_t *entry, uint8_t *page)
{
    uint64_t offset = *entry & QCOW2_OFFSET_MASK, bytes = c->t.cluster_size;
    g_autofree uint8_t *old = NULL;
    int e;

    if (offset == 0 && *entry & QCOW2_BITMAP_ONES) {
        return 0;
    }
    if (offset) {
        old = g_try_malloc(bytes);
        e = !old ? ENOMEM
            : offset % bytes || offset >= c->t.file_bytes
                ? EIO
                : block_node_pread(c->t.file, offset, old, bytes);
        if (e) {
            return e;
        }
        for (uint64_t i = 0; i < bytes; i++) {
            page[i] |= old[i];
        }
        qcow2_bitmap_change_drop(c, offset, bytes);
    }
    return qcow2_bitmap_change_write(c, page, bytes, entry);
}

static int store_merged(Qcow2BitmapChange *c, Qcow2Bitmap *b, const Qcow2Bits *bits)
{
    g_autofree uint64_t *table = NULL;
    GHashTableIter iter;
    gpointer key, page;
    int e = qcow2_table_read(&c->t, b->table_offset, b->table_entries, &table);

    g_hash_table_iter_init(&iter, bits->pages);
    while (!e && g_hash_table_iter_next(&iter, &key, &page)) {
        e = merge_into(c, &table[(uintptr_t)key], page);
    }
    return e ? e : qcow2_bitmap_change_table(c, b, table, b->table_entries);
}

static bool merge(Qcow2BitmapChange *c, Qcow2Bitmap *to, const Qcow2Tables *t, GArray *maps,
                  BlockNode *source, const char *name, GError **error)
{
    const Qcow2Bitmap *from = find_sound(source, t, maps, name, error);
    uint64_t room = MERGE_BYTES;
    Qcow2Bits bits;
    int e;

    if (!from) {
        return false;
    }
    if (t->size != c->t.size) {
        return refuse(&c->s->parent, error,
                      "bitmaps of disks of %" G_GUINT64_FORMAT " and %" G_GUINT64_FORMAT
                      " bytes cannot be merged",
                      c->t.size, t->size);
    }
    qcow2_bits_init(&bits, to->table_entries, to->granularity_bits, &room);
    e = collect(t, from, &bits, c->s->cluster_size);
    e = e || g_hash_table_size(bits.pages) == 0 ? e : store_merged(c, to, &bits);
    qcow2_bits_clear(&bits);
    return !e || failed(&c->s->parent, to->name, e, error);
}

/* The source may be another image. */
static bool merge_from(Qcow2BitmapChange *c, Qcow2Bitmap *to, BlockNode *source, const char *name,
                       GError **error)
{
    GArray *maps = NULL;
    Qcow2Tables t;
    bool ok;
    int e;

    if (!source || source == &c->s->parent) {
        return merge(c, to, &c->t, c->maps, &c->s->parent, name, error);
    }
    if (!object_dynamic_cast(OBJECT(source), TYPE_BLOCK_QCOW2)) {
        return refuse(source, error, "%s has no bitmaps", block_node_driver(source));
    }
    if (!qcow2_tables_load(&t, block_node_file(source), error)) {
        return false;
    }
    e = qcow2_bitmap_dir_load(&t, &maps);
    ok = !e || failed(source, name, e == EINVAL ? EIO : e, error);
    ok = ok && merge(c, to, &t, maps, source, name, error);
    if (maps) {
        g_array_free(maps, TRUE);
    }
    qcow2_tables_clear(&t);
    return ok;
}

/* ---- what tools call ------------------------------------------------------------------------- */

static bool act(Qcow2BitmapChange *c, const BlockBitmapEdit *edit, GError **error)
{
    Qcow2Bitmap *b;
    int e = 0;

    if (edit->action == BLOCK_BITMAP_ADD) {
        return add(c, edit->name, edit->granularity, error);
    }
    if (edit->action == BLOCK_BITMAP_REMOVE) {
        return remove_one(c, edit->name, error);
    }
    b = find_sound(&c->s->parent, &c->t, c->maps, edit->name, error);
    if (!b) {
        return false;
    }
    switch (edit->action) {
    case BLOCK_BITMAP_CLEAR:
        e = clear(c, b);
        break;
    case BLOCK_BITMAP_ENABLE:
        b->flags |= QCOW2_BITMAP_AUTO;
        break;
    case BLOCK_BITMAP_DISABLE:
        b->flags &= ~QCOW2_BITMAP_AUTO;
        break;
    default:
        return merge_from(c, b, edit->source, edit->source_name, error);
    }
    return !e || failed(&c->s->parent, edit->name, e, error);
}

bool qcow2_bitmap_edit(BlockNode *node, const BlockBitmapEdit *edit, GError **error)
{
    Qcow2 *s = QCOW2(node);
    Qcow2BitmapChange c;
    bool ok;

    if (s->version < 3) {
        return refuse(node, error, "images of version 2 have no bitmaps (img amend -o compat=1.1)");
    }
    if (node->read_only || s->corrupt) {
        return refuse(node, error, "it cannot be written");
    }
    if (!qcow2_bitmap_change_begin(&c, s, error)) {
        return false;
    }
    ok = act(&c, edit, error) && qcow2_bitmap_change_prepare(&c, error) &&
         qcow2_bitmap_change_commit(&c, error);
    return qcow2_bitmap_change_end(&c, ok, error);
}

bool qcow2_bitmaps_fit(Qcow2 *s, uint64_t bytes, GError **error)
{
    Qcow2BitmapChange c;
    bool ok;

    if (!(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return true;
    }
    if (!qcow2_bitmap_change_begin(&c, s, error)) {
        return false;
    }
    ok = qcow2_bitmap_change_length(&c, bytes, error) && qcow2_bitmap_change_prepare(&c, error) &&
         qcow2_bitmap_change_commit(&c, error);
    return qcow2_bitmap_change_end(&c, ok, error);
}

void qcow2_bitmaps_info(Qcow2 *s, void (*add_pair)(void *, const char *, const char *),
                        void *opaque)
{
    GArray *maps = NULL;
    Qcow2Tables t;

    if (!(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) ||
        !qcow2_tables_load(&t, block_node_file(&s->parent), NULL)) {
        return;
    }
    if (qcow2_bitmap_dir_load(&t, &maps) == 0) {
        for (unsigned i = 0; i < maps->len; i++) {
            const Qcow2Bitmap *b = &g_array_index(maps, Qcow2Bitmap, i);
            g_autofree char *line = g_strdup_printf("%s\t%" G_GUINT64_FORMAT "\t%s%s", b->name,
                                                    UINT64_C(1) << MIN(b->granularity_bits, 63),
                                                    b->flags & QCOW2_BITMAP_IN_USE ? "in-use," : "",
                                                    b->flags & QCOW2_BITMAP_AUTO ? "auto" : "");

            add_pair(opaque, "bitmap", line);
        }
        g_array_free(maps, TRUE);
    }
    qcow2_tables_clear(&t);
}
