/*
 * qcow2: new images.
 *
 * A new image is header, refcount table, refcount blocks and an L1 table without entries, one after
 * the other; everything else is done by the driver on the image it opens then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/block/qcow2-options.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

typedef Qcow2Options Options;

static bool parse_bool(const BlockCreateOption *o, bool *out, GError **error)
{
    bool on = !strcmp(o->value, "on") || !strcmp(o->value, "true") || !strcmp(o->value, "yes");

    if (!on && strcmp(o->value, "off") && strcmp(o->value, "false") && strcmp(o->value, "no")) {
        return error_set(error, ENGINE_ERROR_INVALID, "qcow2: %s=%s: on or off", o->key, o->value);
    }
    *out = on;
    return true;
}

static bool parse_version(const BlockCreateOption *o, unsigned *out, GError **error)
{
    static const char *const words[] = { "0.10", "v2", "1.1", "v3", NULL };

    for (unsigned i = 0; words[i]; i++) {
        if (!strcmp(o->value, words[i])) {
            *out = i < 2 ? 2 : 3;
            return true;
        }
    }
    return error_set(error, ENGINE_ERROR_INVALID, "qcow2: %s=%s: 0.10 (v2) or 1.1 (v3)", o->key,
                     o->value);
}

static bool parse_compression(const BlockCreateOption *o, uint8_t *out, GError **error)
{
    *out = !strcmp(o->value, "zstd") ? QCOW2_ZSTD : QCOW2_ZLIB;
    return *out == QCOW2_ZSTD || !strcmp(o->value, "zlib") ||
           error_set(error, ENGINE_ERROR_INVALID, "qcow2: %s=%s: zlib or zstd", o->key, o->value);
}

bool qcow2_option_parse(const BlockCreateOption *o, Options *out, GError **error)
{
    static const char *const keys[] = {
        "size",           "version",     "compat",           "cluster_size",  "refcount_bits",
        "lazy_refcounts", "extended_l2", "compression_type", "preallocation", "backing_file",
        "backing_fmt",    "data_file",   "data_file_raw",    "nocow",         NULL
    };
    const char *near;

    if (!strcmp(o->key, "size")) {
        out->has_size = true;
        return parse_size(o->value, &out->size, error);
    } else if (!strcmp(o->key, "compat") || !strcmp(o->key, "version")) {
        return parse_version(o, &out->version, error);
    } else if (!strcmp(o->key, "cluster_size")) {
        return parse_size(o->value, &out->cluster_size, error);
    } else if (!strcmp(o->key, "refcount_bits")) {
        return parse_size(o->value, &out->refcount_bits, error);
    } else if (!strcmp(o->key, "lazy_refcounts")) {
        return parse_bool(o, &out->lazy, error);
    } else if (!strcmp(o->key, "extended_l2")) {
        return parse_bool(o, &out->extended_l2, error);
    } else if (!strcmp(o->key, "compression_type")) {
        return parse_compression(o, &out->compression, error);
    } else if (!strcmp(o->key, "preallocation")) {
        out->preallocation = o->value;
        return true;
    } else if (!strcmp(o->key, "backing_file")) {
        out->backing = *o->value ? o->value : NULL;
        return true;
    } else if (!strcmp(o->key, "backing_fmt")) {
        out->backing_format = *o->value ? o->value : NULL;
        return true;
    } else if (!strcmp(o->key, "data_file")) {
        out->data_file = *o->value ? o->value : NULL;
        return true;
    } else if (!strcmp(o->key, "data_file_raw")) {
        return parse_bool(o, &out->data_raw, error);
    } else if (!strcmp(o->key, "nocow")) {
        return parse_bool(o, &out->nocow, error);
    } else if (!strncmp(o->key, "encrypt", 7)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "qcow2: %s: encrypted images are not supported", o->key);
    }
    near = nearest_word(o->key, keys);
    return error_set(error, ENGINE_ERROR_INVALID, "qcow2: unknown creation option '%s'%s%s%s",
                     o->key, near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static bool is_power(uint64_t n, uint64_t min, uint64_t max)
{
    return n >= min && n <= max && (n & (n - 1)) == 0;
}

static bool check_options(const Options *o, GError **error)
{
    static const char *const modes[] = { "off", "metadata", "falloc", "full", NULL };
    const char *wrong = NULL;

    if (!is_power(o->cluster_size, 512, 2 * MiB)) {
        wrong = "cluster_size has to be a power of 2 from 512 to 2M";
    } else if (!is_power(o->refcount_bits, 1, 64)) {
        wrong = "refcount_bits has to be a power of 2 from 1 to 64";
    } else if (!g_strv_contains(modes, o->preallocation)) {
        wrong = "preallocation is off, metadata, falloc or full";
    } else if (o->version < 3 && (o->refcount_bits != 16 || o->lazy || o->extended_l2 ||
                                  o->compression != QCOW2_ZLIB || o->data_file)) {
        wrong = "compat=0.10 has refcount_bits=16 and compression_type=zlib only, and no "
                "lazy_refcounts, extended_l2 or data_file";
    } else if (o->extended_l2 && o->cluster_size < 16 * KiB) {
        wrong = "extended_l2 needs a cluster_size of 16K or more";
    } else if (o->extended_l2 && o->backing && strcmp(o->preallocation, "off") != 0) {
        wrong = NULL; /* subclusters of preallocated clusters stay unallocated */
    } else if (o->backing && strcmp(o->preallocation, "off") != 0) {
        wrong = "a backing file and preallocation exclude each other";
    } else if (o->backing && !o->backing_format) {
        wrong = "a backing_file needs its backing_fmt: guessing could be led astray by its content";
    } else if (o->data_raw && !o->data_file) {
        wrong = "data_file_raw needs a data_file";
    } else if (o->data_raw && o->backing) {
        wrong = "data_file_raw and a backing file exclude each other";
    } else if (o->size % BLOCK_SECTOR_SIZE) {
        wrong = "the size has to be a multiple of 512";
    } else if (o->backing && strlen(o->backing) > QCOW2_MAX_NAME) {
        wrong = "the name of the backing file is too long (1023)";
    } else if (o->data_file && strlen(o->data_file) > QCOW2_MAX_NAME) {
        wrong = "the name of the data file is too long (1023)";
    }
    return !wrong || error_set(error, ENGINE_ERROR_INVALID, "qcow2: %s", wrong);
}

/* ---- the first clusters ---------------------------------------------------------------------- */

typedef struct Layout {
    uint64_t rt, blocks, l1; /* clusters of each */
    uint64_t l1_entries, used;
    unsigned cluster_bits, order;
} Layout;

static bool lay_out(const Options *o, Layout *l, GError **error)
{
    unsigned entry = o->extended_l2 ? 16 : 8;
    uint64_t per_block, reach = o->cluster_size / entry * o->cluster_size;

    l->cluster_bits = (unsigned)__builtin_ctzll(o->cluster_size);
    l->order = (unsigned)__builtin_ctzll(o->refcount_bits);
    l->l1_entries = o->size / reach + (o->size % reach != 0);
    if (o->size > BLOCK_MAX_BYTES || l->l1_entries > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "qcow2: clusters of %" G_GUINT64_FORMAT
                         " bytes do not reach to %" G_GUINT64_FORMAT,
                         o->cluster_size, o->size);
    }
    l->l1 = MAX((8 * l->l1_entries + o->cluster_size - 1) >> l->cluster_bits, 1);
    per_block = (o->cluster_size * 8) >> l->order;
    l->rt = l->blocks = 1;
    for (;;) {
        uint64_t blocks, rt;

        l->used = 1 + l->rt + l->blocks + l->l1;
        blocks = (l->used + per_block - 1) / per_block;
        rt = (8 * blocks + o->cluster_size - 1) >> l->cluster_bits;
        if (blocks <= l->blocks && rt <= l->rt) {
            return true;
        }
        l->blocks = MAX(blocks, l->blocks);
        l->rt = MAX(rt, l->rt);
    }
}

static int write_refcounts(BlockNode *file, const Layout *l)
{
    size_t cluster = (size_t)1 << l->cluster_bits;
    uint64_t per_block = ((uint64_t)cluster * 8) >> l->order, *rt = g_malloc0(l->rt * cluster);
    uint8_t *block = g_malloc(cluster);
    int e = 0;

    for (uint64_t b = 0; b < l->blocks && !e; b++) {
        memset(block, 0, cluster);
        for (uint64_t c = b * per_block; c < MIN(l->used, (b + 1) * per_block); c++) {
            qcow2_refcount_set(block, l->order, c - b * per_block, 1);
        }
        rt[b] = GUINT64_TO_BE((1 + l->rt + b) << l->cluster_bits);
        e = block_node_pwrite(file, (1 + l->rt + b) << l->cluster_bits, block, cluster, 0);
    }
    e = e ? e : block_node_pwrite(file, cluster, rt, l->rt * cluster, 0);
    g_free(block);
    g_free(rt);
    return e;
}

static void fill_header(const Options *o, const Layout *l, Qcow2Header *h)
{
    memset(h, 0, sizeof(*h));
    h->magic = GUINT32_TO_BE(QCOW2_MAGIC);
    h->version = GUINT32_TO_BE(o->version);
    h->cluster_bits = GUINT32_TO_BE(l->cluster_bits);
    h->size = GUINT64_TO_BE(o->size);
    h->l1_entries = GUINT32_TO_BE((uint32_t)l->l1_entries);
    h->l1_offset = GUINT64_TO_BE((1 + l->rt + l->blocks) << l->cluster_bits);
    h->rt_offset = GUINT64_TO_BE(UINT64_C(1) << l->cluster_bits);
    h->rt_clusters = GUINT32_TO_BE((uint32_t)l->rt);
    if (o->version < 3) {
        return;
    }
    h->incompatible = GUINT64_TO_BE((o->data_file ? QCOW2_INCOMPAT_DATA_FILE : 0) |
                                    (o->compression ? QCOW2_INCOMPAT_COMPRESSION : 0) |
                                    (o->extended_l2 ? QCOW2_INCOMPAT_EXTL2 : 0));
    h->compatible = GUINT64_TO_BE(o->lazy ? QCOW2_COMPAT_LAZY : 0);
    h->autoclear = GUINT64_TO_BE(o->data_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0);
    h->refcount_order = GUINT32_TO_BE(l->order);
    h->header_length = GUINT32_TO_BE(o->compression ? QCOW2_HEADER_BYTES : QCOW2_HEADER_V3);
    h->compression_type = o->compression;
}

static void put_extension(GByteArray *out, uint32_t type, const void *data, size_t len)
{
    static const uint8_t zeroes[8];
    uint32_t words[2] = { GUINT32_TO_BE(type), GUINT32_TO_BE((uint32_t)len) };

    g_byte_array_append(out, (const uint8_t *)words, sizeof(words));
    g_byte_array_append(out, data, (guint)len);
    g_byte_array_append(out, zeroes, (8 - len % 8) % 8);
}

/* What the bits mean, for programs that do not know them. */
static void put_feature_names(GByteArray *out)
{
    static const struct {
        uint8_t type, bit;
        const char *name;
    } names[] = {
        { 0, 0, "dirty bit" },
        { 0, 1, "corrupt bit" },
        { 0, 2, "external data file" },
        { 0, 3, "compression type" },
        { 0, 4, "extended L2 entries" },
        { 1, 0, "lazy refcounts" },
        { 2, 0, "bitmaps" },
        { 2, 1, "raw external data" },
    };
    uint8_t table[G_N_ELEMENTS(names) * 48] = { 0 };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        table[i * 48] = names[i].type;
        table[i * 48 + 1] = names[i].bit;
        g_strlcpy((char *)table + i * 48 + 2, names[i].name, 46);
    }
    put_extension(out, QCOW2_EXT_FEATURES, table, sizeof(table));
}

static int write_header(BlockNode *file, const Options *o, const Layout *l)
{
    GByteArray *out = g_byte_array_new();
    Qcow2Header h;
    guint header;
    int e;

    fill_header(o, l, &h);
    header = o->version < 3 ? QCOW2_HEADER_V2 : GUINT32_FROM_BE(h.header_length);
    g_byte_array_append(out, (const uint8_t *)&h, header);
    if (o->backing_format) {
        put_extension(out, QCOW2_EXT_BACKING, o->backing_format, strlen(o->backing_format));
    }
    if (o->data_file) {
        put_extension(out, QCOW2_EXT_DATA_FILE, o->data_file, strlen(o->data_file));
    }
    if (o->version >= 3 &&
        (out->len + 48 * 8 + 16 + (o->backing ? strlen(o->backing) : 0)) <= o->cluster_size) {
        put_feature_names(out);
    }
    put_extension(out, QCOW2_EXT_END, "", 0);
    if (o->backing) {
        h.backing_offset = GUINT64_TO_BE(out->len);
        h.backing_len = GUINT32_TO_BE((uint32_t)strlen(o->backing));
        g_byte_array_append(out, (const uint8_t *)o->backing, (guint)strlen(o->backing));
        memcpy(out->data, &h, header);
    }
    if (out->len > o->cluster_size) {
        e = ENAMETOOLONG;
    } else {
        header = out->len;
        g_byte_array_set_size(out, (guint)o->cluster_size);
        memset(out->data + header, 0, o->cluster_size - header);
        e = block_node_pwrite(file, 0, out->data, out->len, 0);
    }
    g_byte_array_free(out, TRUE);
    return e;
}

/* ---- making ---------------------------------------------------------------------------------- */

static char *beside(const char *image, const char *name)
{
    g_autofree char *folder = NULL;

    if (name[0] == '/') {
        return g_strdup(name);
    }
    folder = g_path_get_dirname(image);
    return strcmp(folder, ".") ? g_build_filename(folder, name, NULL) : g_strdup(name);
}

static const char *plain_name(const char *filename)
{
    return g_str_has_prefix(filename, "file:") ? filename + 5 : filename;
}

static bool make_file(const char *filename, const BlockCreateOption *options, unsigned n,
                      GError **error)
{
    BlockNodeClass *klass = block_driver_find("file", error);
    const char *colon = strchr(filename, ':');
    g_autofree char *prefix = colon ? g_strndup(filename, (gsize)(colon - filename)) : NULL;
    struct stat st;

    if (prefix && strcmp(prefix, "file") && !strchr(prefix, '/') &&
        block_driver_find(prefix, NULL)) {
        return true; /* it is there */
    }
    if (stat(plain_name(filename), &st) == 0 && S_ISBLK(st.st_mode)) {
        return true;
    }
    return klass && klass->create(plain_name(filename), options, n, error);
}

/* The size of the image below, for an overlay whose own is not given. */
static bool size_of_backing(const char *filename, Options *o, GError **error)
{
    BlockOpenOptions open = { .format = o->backing_format, .read_only = true, .depth = 1 };
    g_autofree char *name = beside(plain_name(filename), plain_name(o->backing));
    BlockNode *node = block_open(name, &open, error);

    if (!node) {
        g_prefix_error(error, "qcow2: the size of the backing file: ");
        return false;
    }
    o->size = (block_node_length(node) + BLOCK_SECTOR_SIZE - 1) &
              ~(uint64_t)(BLOCK_SECTOR_SIZE - 1);
    block_node_shut(node);
    object_unref(node);
    return true;
}

static bool make_data_file(const char *filename, const Options *o, GError **error)
{
    g_autofree char *name = o->data_file ? beside(plain_name(filename), o->data_file) : NULL;
    g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, o->size);
    BlockCreateOption option = { "size", size };

    return !name || make_file(name, &option, 1, error);
}

static bool preallocate(BlockNode *file, const Options *o, GError **error)
{
    BlockNode *node = block_node_new("qcow2", error);
    const char *mode = o->preallocation;
    bool ok;
    int e;

    if (node) {
        node->no_backing = true;
    }
    ok = node && object_property_set_link(OBJECT(node), "file", OBJECT(file), error) &&
         block_node_open(node, error);
    if (ok) {
        e = qcow2_preallocate(QCOW2(node), 0, o->size, mode);
        e = e ? e : qcow2_settle(QCOW2(node));
        block_node_shut(node);
        errno = e;
        ok = !e || error_set_errno(error, "qcow2: preallocation");
    }
    object_unref(node);
    return ok;
}

static bool write_image(const char *filename, const Options *o, GError **error)
{
    BlockNode *raw, *file;
    BlockOpenOptions open = { .format = "raw" };
    Layout l = { 0 };
    bool ok = lay_out(o, &l, error);
    int e;

    if (!ok || !make_file(filename, NULL, 0, error) || !make_data_file(filename, o, error)) {
        return false;
    }
    raw = block_open(filename, &open, error);
    if (!raw) {
        return false;
    }
    file = block_node_file(raw);
    /* The header comes last: what is not finished is no image. */
    e = write_refcounts(file, &l);
    if (!e) {
        uint64_t bytes = l.l1 << l.cluster_bits;

        e = block_node_sync_op(file, BLOCK_OP_ZERO, (1 + l.rt + l.blocks) << l.cluster_bits, bytes,
                               0);
    }
    e = e ? e : write_header(file, o, &l);
    e = e ? e : block_node_sync_op(file, BLOCK_OP_FLUSH, 0, 0, 0);
    if (e) {
        errno = e;
        error_set_errno(error, "qcow2 '%s': creating it", filename);
    }
    ok = !e;
    if (ok && strcmp(o->preallocation, "off") != 0 && o->size > 0) {
        ok = preallocate(file, o, error);
    }
    block_node_shut(raw);
    object_unref(raw);
    return ok;
}

bool qcow2_create(const char *filename, const BlockCreateOption *options, unsigned n,
                  GError **error)
{
    Options o = {
        .cluster_size = 64 * KiB, .refcount_bits = 16, .version = 3, .preallocation = "off"
    };

    for (unsigned i = 0; i < n; i++) {
        if (!qcow2_option_parse(&options[i], &o, error)) {
            return false;
        }
    }
    if (!check_options(&o, error)) {
        return false;
    }
    if (!o.has_size && !o.backing) {
        return error_set(error, ENGINE_ERROR_INVALID, "qcow2: a new image needs a size");
    }
    if (!o.has_size && !size_of_backing(filename, &o, error)) {
        return false;
    }
    /* A raw data file can only be read by itself when every cluster has its place. */
    if (o.data_raw && !strcmp(o.preallocation, "off")) {
        o.preallocation = "metadata";
    }
    return write_image(filename, &o, error);
}
