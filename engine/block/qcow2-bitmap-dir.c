/* qcow2: the directory of persistent bitmaps in the file. */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-bitmap.h"

#define ENTRY_BYTES 24 /* before extra data and name */

static uint64_t get_be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

static void bitmap_clear(void *opaque)
{
    g_free(((Qcow2Bitmap *)opaque)->name);
    g_free(((Qcow2Bitmap *)opaque)->extra);
}

/* The name lies behind the extra data. */
static void take_entry(GArray *out, const uint8_t *p, uint64_t at)
{
    uint16_t name = (uint16_t)get_be(p + 18, 2);
    Qcow2Bitmap b = { .at = at,
                      .table_offset = get_be(p, 8),
                      .table_entries = (uint32_t)get_be(p + 8, 4),
                      .flags = (uint32_t)get_be(p + 12, 4),
                      .type = p[16],
                      .granularity_bits = p[17],
                      .extra_size = (uint32_t)get_be(p + 20, 4) };

    b.extra = g_memdup2(p + ENTRY_BYTES, b.extra_size);
    b.name = g_strndup((const char *)p + ENTRY_BYTES + b.extra_size, name);
    g_array_append_val(out, b);
    /* cppcheck-suppress memleak ; the array has it now */
}

int qcow2_bitmap_dir_load(const Qcow2Tables *t, GArray **out)
{
    GArray *maps = g_array_new(FALSE, FALSE, sizeof(Qcow2Bitmap));
    uint64_t bytes = t->bitmap_dir_bytes, at = 0;
    g_autofree uint8_t *dir = NULL;
    int e = 0;

    g_array_set_clear_func(maps, bitmap_clear);
    if (t->n_bitmaps > 0 &&
        (t->bitmap_dir % t->cluster_size || bytes > QCOW2_BITMAPDIR_MAX ||
         t->bitmap_dir >= t->file_bytes || bytes > t->file_bytes - t->bitmap_dir)) {
        e = EINVAL;
    } else if (t->n_bitmaps > 0) {
        dir = g_try_malloc(MAX(bytes, 1));
        e = dir ? block_node_pread(t->file, t->bitmap_dir, dir, bytes) : ENOMEM;
    }
    for (uint32_t i = 0; !e && i < t->n_bitmaps; i++) {
        uint64_t left = bytes - at, need = UINT64_MAX;

        if (left >= ENTRY_BYTES) {
            need = ENTRY_BYTES + get_be(dir + at + 18, 2) + get_be(dir + at + 20, 4);
        }
        if (need > left) {
            e = EINVAL;
            break;
        }
        take_entry(maps, dir + at, t->bitmap_dir + at);
        at = MIN(bytes, at + (need + 7) / 8 * 8);
    }
    if (e) {
        g_array_free(maps, TRUE);
        maps = NULL;
    }
    *out = maps;
    return e;
}

uint64_t qcow2_bitmap_table_entries(const Qcow2Tables *t, uint64_t disk, unsigned granularity_bits)
{
    uint64_t bits = (disk >> granularity_bits) +
                    ((disk & ((UINT64_C(1) << granularity_bits) - 1)) != 0);
    uint64_t per_cluster = t->cluster_size * 8;

    return MAX(bits / per_cluster + (bits % per_cluster != 0), 1);
}

bool qcow2_bitmap_sound(const Qcow2Tables *t, const Qcow2Bitmap *b, uint64_t disk)
{
    return b->type == QCOW2_BITMAP_DIRTY && b->extra_size == 0 &&
           !(b->flags & ~(QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO)) &&
           b->granularity_bits >= QCOW2_BITMAP_MIN_GRANULARITY &&
           b->granularity_bits <= QCOW2_BITMAP_MAX_GRANULARITY &&
           b->table_offset % t->cluster_size == 0 && b->table_offset > 0 &&
           b->table_offset < t->file_bytes &&
           b->table_entries >= qcow2_bitmap_table_entries(t, disk, b->granularity_bits) &&
           b->table_entries * t->cluster_size <= QCOW2_BITMAP_MAX_BYTES;
}
