/* A qcow2 image's metadata as it lies in the file: see qcow2-tables.h. */
#include "engine/block/qcow2-tables.h"

#include <errno.h>
#include <string.h>

#include "engine/core/error.h"

#define MAX_EXTENSIONS 1024

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

static void put16(GByteArray *out, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    g_byte_array_append(out, (const guint8 *)&v, 2);
}

static void put32(GByteArray *out, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    g_byte_array_append(out, (const guint8 *)&v, 4);
}

static void put64(GByteArray *out, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    g_byte_array_append(out, (const guint8 *)&v, 8);
}

/* ---- tables ---------------------------------------------------------------------------------- */

int qcow2_table_read(const Qcow2Tables *t, uint64_t offset, uint64_t entries, uint64_t **out)
{
    uint64_t bytes = entries * 8, there = 0;
    uint64_t *table = g_try_malloc0(MAX(bytes, 8));
    int error = 0;

    *out = NULL;
    if (!table) {
        return ENOMEM;
    }
    if (offset < t->file_bytes) {
        there = MIN(bytes, t->file_bytes - offset);
        error = there ? block_node_pread(t->file, offset, table, there) : 0;
    }
    if (error) {
        g_free(table);
        return error;
    }
    for (uint64_t i = 0; i < (there + 7) / 8; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    *out = table;
    return 0;
}

int qcow2_table_write(const Qcow2Tables *t, uint64_t offset, const uint64_t *table,
                      uint64_t entries)
{
    g_autofree uint64_t *out = g_try_malloc(MAX(entries * 8, 8));

    if (!out) {
        return ENOMEM;
    }
    for (uint64_t i = 0; i < entries; i++) {
        out[i] = GUINT64_TO_BE(table[i]);
    }
    return block_node_pwrite(t->file, offset, out, entries * 8, 0);
}

unsigned qcow2_l2_words(const Qcow2Tables *t)
{
    return t->extended_l2 ? 2 : 1;
}

uint64_t qcow2_l2_entries(const Qcow2Tables *t)
{
    return t->cluster_size / 8 / qcow2_l2_words(t);
}

uint64_t qcow2_refblock_entries(const Qcow2Tables *t)
{
    return t->cluster_size * 8 >> t->refcount_order;
}

uint64_t qcow2_refcount_max(const Qcow2Tables *t)
{
    return t->refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1 << t->refcount_order)) - 1;
}

void qcow2_compressed_range(const Qcow2Tables *t, uint64_t entry, uint64_t *offset, uint64_t *bytes)
{
    unsigned x = 62 - (t->cluster_bits - 8);
    uint64_t sectors = (entry & (QCOW2_COMPRESSED - 1)) >> x;

    *offset = entry & ((UINT64_C(1) << x) - 1);
    *bytes = (sectors + 1) * 512 - *offset % 512;
}

static int load_refblock(const Qcow2Tables *t, Qcow2Counts *counts, uint64_t index, uint8_t *block)
{
    uint64_t offset = t->reftable[index] & QCOW2_REFBLOCKS;
    uint64_t per = qcow2_refblock_entries(t), first = index * per;
    int error;

    if (offset == 0 || first >= qcow2_counts_clusters(counts)) {
        return 0;
    }
    if (offset % t->cluster_size || offset >= t->file_bytes) {
        return EIO;
    }
    error = block_node_pread(t->file, offset, block, t->cluster_size);
    for (uint64_t i = 0; !error && i < per; i++) {
        uint64_t count = qcow2_refcount_get(block, t->refcount_order, i);

        if (count > 0) {
            error = qcow2_counts_set(counts, first + i, count);
        }
    }
    return error;
}

int qcow2_counts_load(const Qcow2Tables *t, Qcow2Counts **out)
{
    uint64_t per = qcow2_refblock_entries(t), clusters;
    g_autofree uint8_t *block = g_malloc(t->cluster_size);
    Qcow2Counts *counts;
    int error = 0;

    if (__builtin_mul_overflow(t->reftable_entries, per, &clusters)) {
        clusters = UINT64_MAX;
    }
    /* Counts of what is beyond the end of the file are kept as well: room that is reserved. */
    counts = qcow2_counts_new(MIN(clusters, (UINT64_C(1) << 37)), QCOW2_COUNTS_MEMORY);
    for (uint64_t i = 0; !error && i < t->reftable_entries; i++) {
        error = load_refblock(t, counts, i, block);
    }
    if (error) {
        qcow2_counts_free(counts);
        counts = NULL;
    }
    *out = counts;
    return error;
}

/* ---- the header ------------------------------------------------------------------------------ */

static void take_extension(Qcow2Tables *t, uint32_t type, const uint8_t *data, uint32_t len)
{
    if (type == QCOW2_EXT_BITMAPS && len >= 24 && t->autoclear & QCOW2_AUTOCLEAR_BITMAPS) {
        t->n_bitmaps = MIN(be32(data), QCOW2_BITMAPS_MAX);
        t->bitmap_dir_bytes = be64(data + 8);
        t->bitmap_dir = be64(data + 16);
    } else if (type == QCOW2_EXT_CRYPTO && len >= 16) {
        t->crypt_offset = be64(data);
        t->crypt_bytes = be64(data + 8);
    }
}

static int load_extensions(Qcow2Tables *t, uint64_t at)
{
    uint64_t end = MIN(t->cluster_size, t->file_bytes), backing = be64(t->header + 8);

    if (backing > 0) {
        end = MIN(end, backing);
    }
    for (unsigned i = 0; i < MAX_EXTENSIONS && at + 8 <= end; i++) {
        uint8_t head[8], data[24] = { 0 };
        uint32_t type, len;
        int error = block_node_pread(t->file, at, head, 8);

        type = be32(head);
        len = be32(head + 4);
        if (error || type == 0) {
            return error;
        }
        if (len > end - at - 8) {
            return EINVAL;
        }
        error = len ? block_node_pread(t->file, at + 8, data, MIN(len, sizeof(data))) : 0;
        if (error) {
            return error;
        }
        take_extension(t, type, data, len);
        at += 8 + ((uint64_t)len + 7) / 8 * 8;
    }
    return 0;
}

static const char *parse_header(Qcow2Tables *t)
{
    const uint8_t *h = t->header;

    t->version = be32(h + 4);
    t->cluster_bits = be32(h + 20);
    t->size = be64(h + 24);
    t->l1_size = be32(h + 36);
    t->l1_offset = be64(h + 40);
    t->reftable_offset = be64(h + 48);
    t->reftable_clusters = be32(h + 56);
    t->n_snapshots = be32(h + 60);
    t->snapshots_offset = be64(h + 64);
    t->refcount_order = 4;
    if (be32(h) != QCOW2_MAGIC || t->version < 2 || t->version > 3) {
        return "it is no qcow2 image";
    }
    if (t->version == 3) {
        t->incompatible = be64(h + 72);
        t->autoclear = be64(h + 88);
        t->refcount_order = be32(h + 96);
    }
    if (t->cluster_bits < 9 || t->cluster_bits > 21 || t->refcount_order > 6) {
        return "its cluster or refcount size is out of range";
    }
    t->cluster_size = UINT64_C(1) << t->cluster_bits;
    t->data_file = t->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    t->extended_l2 = t->incompatible & QCOW2_INCOMPAT_EXTL2;
    if ((uint64_t)t->l1_size * 8 > QCOW2_MAX_L1_BYTES || t->l1_offset % t->cluster_size ||
        t->l1_offset > INT64_MAX) {
        return "its L1 table is too large or not aligned";
    }
    if (t->reftable_clusters * t->cluster_size > QCOW2_MAX_RT_BYTES ||
        t->reftable_offset % t->cluster_size || t->reftable_offset > INT64_MAX) {
        return "its refcount table is too large or not aligned";
    }
    if (t->n_snapshots > QCOW2_MAX_SNAPSHOTS || t->snapshots_offset % t->cluster_size ||
        t->snapshots_offset > INT64_MAX) {
        return "its snapshot table is too large or not aligned";
    }
    return NULL;
}

bool qcow2_tables_load(Qcow2Tables *t, BlockNode *file, GError **error)
{
    uint64_t header_bytes;
    const char *wrong;
    int e;

    memset(t, 0, sizeof(*t));
    t->file = file;
    t->file_bytes = block_node_length(file);
    e = block_node_pread(file, 0, t->header, MIN(sizeof(t->header), t->file_bytes));
    if (!e) {
        wrong = parse_header(t);
        if (wrong) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "'%s': %s", block_node_name(file), wrong);
        }
        header_bytes = t->version == 3 ? be32(t->header + 100) : 72;
        e = load_extensions(t, header_bytes);
    }
    if (!e) {
        t->reftable_entries = t->reftable_clusters * t->cluster_size / 8;
        e = qcow2_table_read(t, t->reftable_offset, t->reftable_entries, &t->reftable);
    }
    if (e) {
        errno = e;
        return error_set_errno(error, "'%s': reading its header and refcount table",
                               block_node_name(file));
    }
    return true;
}

void qcow2_tables_clear(Qcow2Tables *t)
{
    g_clear_pointer(&t->reftable, g_free);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static void snapshot_clear(void *opaque)
{
    Qcow2Snapshot *sn = opaque;

    g_free(sn->extra);
    g_free(sn->id);
    g_free(sn->name);
}

/* One entry at *at of the table's bytes, which may be longer than the table. */
static bool parse_snapshot(const Qcow2Tables *t, const uint8_t *data, uint64_t len, uint64_t *at,
                           Qcow2Snapshot *sn)
{
    uint64_t start = *at, left = len - start, need;
    const uint8_t *p = data + start, *extra = p + 40;
    uint16_t id_len, name_len;

    if (left < 40) {
        return false;
    }
    id_len = be16(p + 12);
    name_len = be16(p + 14);
    memset(sn, 0, sizeof(*sn));
    sn->extra_size = be32(p + 36);
    need = UINT64_C(40) + sn->extra_size + id_len + name_len;
    if (sn->extra_size > QCOW2_EXTRA_MAX || need > left) {
        return false;
    }
    sn->l1_offset = be64(p);
    sn->l1_size = be32(p + 8);
    sn->date_sec = be32(p + 16);
    sn->date_nsec = be32(p + 20);
    sn->vm_clock_ns = be64(p + 24);
    sn->vm_state_size = sn->extra_size >= 8 ? be64(extra) : be32(p + 32);
    sn->disk_size = sn->extra_size >= 16 ? be64(extra + 8) : t->size;
    sn->icount = sn->extra_size >= 24 ? be64(extra + 16) : UINT64_MAX;
    sn->extra = g_memdup2(extra, sn->extra_size);
    sn->id = g_strndup((const char *)extra + sn->extra_size, id_len);
    sn->name = g_strndup((const char *)extra + sn->extra_size + id_len, name_len);
    *at = MIN(len, start + (need + 7) / 8 * 8);
    return true;
}

int qcow2_snapshots_load_some(const Qcow2Tables *t, GArray **out, uint64_t *bytes)
{
    GArray *all = g_array_new(FALSE, TRUE, sizeof(Qcow2Snapshot));
    uint64_t there = t->snapshots_offset < t->file_bytes ? t->file_bytes - t->snapshots_offset : 0;
    uint64_t len = t->n_snapshots ? MIN(there, QCOW2_SNAPTABLE_MAX) : 0, at = 0;
    g_autofree uint8_t *data = NULL;
    int e;

    g_array_set_clear_func(all, snapshot_clear);
    /* So much as the entries can need at most: an entry is 40 bytes, 1 KiB and two short strings.
     */
    len = MIN(len, t->n_snapshots * (UINT64_C(40) + QCOW2_EXTRA_MAX + 2 * 65536));
    data = g_try_malloc(MAX(len, 1));
    e = !data ? ENOMEM : len ? block_node_pread(t->file, t->snapshots_offset, data, len) : 0;
    for (uint32_t i = 0; !e && i < t->n_snapshots; i++) {
        Qcow2Snapshot sn;

        if (!parse_snapshot(t, data, len, &at, &sn)) {
            break;
        }
        g_array_append_val(all, sn);
    }
    if (e) {
        g_array_free(all, TRUE);
        return e;
    }
    *out = all;
    *bytes = at;
    return 0;
}

bool qcow2_snapshots_load(const Qcow2Tables *t, GArray **out, uint64_t *bytes, GError **error)
{
    GArray *all;
    int e = qcow2_snapshots_load_some(t, &all, bytes);

    if (e) {
        errno = e;
        return error_set_errno(error, "'%s': reading its snapshot table", block_node_name(t->file));
    }
    if (all->len < t->n_snapshots) {
        error_set(error, ENGINE_ERROR_CORRUPT, "'%s': entry %u of its snapshot table is damaged",
                  block_node_name(t->file), all->len);
        g_array_free(all, TRUE);
        return false;
    }
    *out = all;
    return true;
}

/* Extra data that nobody here knows stays behind what is known; what is known is always there. */
static void pack_extra(GByteArray *out, const Qcow2Snapshot *sn)
{
    bool with_icount = sn->icount != UINT64_MAX || sn->extra_size >= 24;

    put32(out, MAX(sn->extra_size, with_icount ? 24 : 16));
    put64(out, sn->vm_state_size);
    put64(out, sn->disk_size);
    if (with_icount) {
        put64(out, sn->icount);
    }
    if (sn->extra_size > (with_icount ? 24 : 16)) {
        unsigned known = with_icount ? 24 : 16;

        g_byte_array_append(out, sn->extra + known, sn->extra_size - known);
    }
}

GByteArray *qcow2_snapshots_pack(const Qcow2Tables *t, const GArray *snapshots)
{
    GByteArray *out = g_byte_array_new();

    for (unsigned i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *sn = &g_array_index(snapshots, Qcow2Snapshot, i);
        static const uint8_t zeroes[8];

        put64(out, sn->l1_offset);
        put32(out, sn->l1_size);
        put16(out, (uint16_t)strlen(sn->id));
        put16(out, (uint16_t)strlen(sn->name));
        put32(out, sn->date_sec);
        put32(out, sn->date_nsec);
        put64(out, sn->vm_clock_ns);
        put32(out, sn->vm_state_size > UINT32_MAX ? 0 : (uint32_t)sn->vm_state_size);
        pack_extra(out, sn);
        g_byte_array_append(out, (const guint8 *)sn->id, (guint)strlen(sn->id));
        g_byte_array_append(out, (const guint8 *)sn->name, (guint)strlen(sn->name));
        g_byte_array_append(out, zeroes, (8 - out->len % 8) % 8);
    }
    return out;
}
