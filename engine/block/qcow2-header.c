/*
 * qcow2: the header, its extensions and the names behind them. Everything that an image says about
 * itself is checked here, before anything is allocated for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

#define MAX_EXTENSIONS 64

static bool refuse(Qcow2 *s, GError **error, const char *format, ...) G_GNUC_PRINTF(3, 4);
static bool refuse(Qcow2 *s, GError **error, const char *format, ...)
{
    va_list ap;
    char *text;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    error_set(error, ENGINE_ERROR_CORRUPT, "qcow2 '%s': %s", block_node_name(&s->parent), text);
    g_free(text);
    return false;
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_at(Qcow2 *s, uint64_t offset, void *buf, size_t len, const char *what,
                    GError **error)
{
    int e = block_node_pread(block_node_file(&s->parent), offset, buf, len);

    if (e) {
        errno = e;
        return error_set_errno(error, "qcow2 '%s': reading %s", block_node_name(&s->parent), what);
    }
    return true;
}

/* The name of a feature bit, as the image's own table has it. */
static char *feature_name(const uint8_t *table, uint32_t len, uint8_t type, unsigned bit)
{
    for (uint32_t at = 0; table && at + 48 <= len; at += 48) {
        if (table[at] == type && table[at + 1] == bit) {
            g_autofree char *name = g_strndup((const char *)table + at + 2, 46);

            return g_strdup_printf(
                "'%s'",
                g_strcanon(name,
                           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_.",
                           '?'));
        }
    }
    return g_strdup_printf("bit %u", bit);
}

static bool check_features(Qcow2 *s, GError **error)
{
    uint64_t unknown = s->incompatible & ~QCOW2_INCOMPAT_KNOWN;
    const Qcow2Extension *table = NULL;
    GString *names;
    bool ok;

    if (!unknown) {
        return true;
    }
    for (unsigned i = 0; i < s->n_extensions; i++) {
        if (s->extensions[i].type == QCOW2_EXT_FEATURES) {
            table = &s->extensions[i];
        }
    }
    names = g_string_new(NULL);
    for (unsigned bit = 0; bit < 64; bit++) {
        if (unknown >> bit & 1) {
            g_autofree char *name = feature_name(table ? table->data : NULL, table ? table->len : 0,
                                                 0, bit);

            g_string_append_printf(names, "%s%s", names->len ? ", " : "", name);
        }
    }
    ok = error_set(error, ENGINE_ERROR_UNSUPPORTED,
                   "qcow2 '%s': needs features that are not supported: %s",
                   block_node_name(&s->parent), names->str);
    g_string_free(names, TRUE);
    return ok;
}

static bool take_extension(Qcow2 *s, uint32_t type, uint32_t len, const uint8_t *data,
                           GError **error)
{
    char **text = type == QCOW2_EXT_BACKING ? &s->backing_format : &s->data_name;
    Qcow2Extension *ext;

    if (type == QCOW2_EXT_BACKING || type == QCOW2_EXT_DATA_FILE) {
        if (len > QCOW2_MAX_NAME || (type == QCOW2_EXT_BACKING && len > 255)) {
            return refuse(s, error, "a name in its header is too long");
        }
        g_free(*text);
        *text = g_strndup((const char *)data, len);
        return true;
    }
    if (s->n_extensions >= MAX_EXTENSIONS) {
        return refuse(s, error, "more than %d header extensions", MAX_EXTENSIONS);
    }
    ext = &s->extensions[s->n_extensions++];
    ext->type = type;
    ext->len = len;
    ext->data = g_memdup2(data, len);
    return true;
}

static bool parse_extensions(Qcow2 *s, const uint8_t *head, uint32_t at, uint32_t end,
                             GError **error)
{
    s->extensions = g_new0(Qcow2Extension, MAX_EXTENSIONS);
    s->extensions_end = at;
    while (at + 8 <= end) {
        uint32_t type, len;

        memcpy(&type, head + at, 4);
        memcpy(&len, head + at + 4, 4);
        type = GUINT32_FROM_BE(type);
        len = GUINT32_FROM_BE(len);
        at += 8;
        s->extensions_end = at;
        if (type == QCOW2_EXT_END) {
            return true;
        }
        if (len > end - at) {
            return refuse(s, error, "header extension %#x of %u bytes does not fit", type, len);
        }
        if (!take_extension(s, type, len, head + at, error)) {
            return false;
        }
        at += (len + 7) & ~7u;
        s->extensions_end = MIN(at, end);
    }
    return true;
}

bool qcow2_set_extension(Qcow2 *s, uint32_t type, const void *data, uint32_t len)
{
    unsigned at = 0;

    while (at < s->n_extensions && s->extensions[at].type != type) {
        at++;
    }
    if (at == s->n_extensions) {
        if (!data || at == MAX_EXTENSIONS) {
            return !data;
        }
        s->extensions[s->n_extensions++].type = type;
    } else {
        g_free(s->extensions[at].data);
    }
    if (data) {
        s->extensions[at].len = len;
        s->extensions[at].data = g_memdup2(data, len);
        return true;
    }
    s->n_extensions--;
    memmove(s->extensions + at, s->extensions + at + 1,
            (s->n_extensions - at) * sizeof(*s->extensions));
    return true;
}

/* The numbers of the header: what they may be, and what follows from them. */
static bool check_numbers(Qcow2 *s, const Qcow2Header *h, GError **error)
{
    uint32_t l2_entries;

    if (s->cluster_bits < QCOW2_MIN_CLUSTER_BITS || s->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return refuse(s, error, "clusters of 2^%u bytes", s->cluster_bits);
    }
    if (GUINT32_FROM_BE(h->crypt_method) != 0) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "qcow2 '%s' is encrypted (%s): encrypted images are not supported",
                         block_node_name(&s->parent),
                         GUINT32_FROM_BE(h->crypt_method) == 1   ? "AES"
                         : GUINT32_FROM_BE(h->crypt_method) == 2 ? "LUKS"
                                                                 : "unknown method");
    }
    if (s->refcount_order > 6) {
        return refuse(s, error, "refcounts of 2^%u bits", s->refcount_order);
    }
    s->cluster_size = 1u << s->cluster_bits;
    s->refcount_bits = 1u << s->refcount_order;
    s->rb_bits = s->cluster_bits + 3 - s->refcount_order;
    s->subclusters = s->incompatible & QCOW2_INCOMPAT_EXTL2 ? 32 : 1;
    s->subcluster_size = s->cluster_size / s->subclusters;
    if (s->subcluster_size < 512) {
        return refuse(s, error, "extended L2 entries need clusters of 16 KiB or more");
    }
    s->l2_entry_bytes = s->subclusters > 1 ? 16 : 8;
    l2_entries = s->cluster_size / s->l2_entry_bytes;
    s->l2_bits = (uint32_t)__builtin_ctz(l2_entries);
    if (s->header_length > s->cluster_size) {
        return refuse(s, error, "a header of %u bytes", s->header_length);
    }
    if (s->compression > QCOW2_ZSTD) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "qcow2 '%s': unknown compression type %u",
                         block_node_name(&s->parent), s->compression);
    }
    if ((s->compression != QCOW2_ZLIB) != !!(s->incompatible & QCOW2_INCOMPAT_COMPRESSION)) {
        return refuse(s, error, "compression type and its feature bit do not agree");
    }
    return true;
}

static bool table_ok(Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    return (offset & (s->cluster_size - 1)) == 0 && offset <= BLOCK_MAX_BYTES &&
           bytes <= BLOCK_MAX_BYTES - offset && (bytes == 0 || offset > 0);
}

static bool check_tables(Qcow2 *s, const Qcow2Header *h, GError **error)
{
    uint64_t size = GUINT64_FROM_BE(h->size), need;

    s->l1_entries = GUINT32_FROM_BE(h->l1_entries);
    s->l1_offset = GUINT64_FROM_BE(h->l1_offset);
    s->rt_offset = GUINT64_FROM_BE(h->rt_offset);
    s->rt_clusters = GUINT32_FROM_BE(h->rt_clusters);
    s->nb_snapshots = GUINT32_FROM_BE(h->nb_snapshots);
    s->snapshots_offset = GUINT64_FROM_BE(h->snapshots_offset);
    if (size > BLOCK_MAX_BYTES) {
        return refuse(s, error, "a size of %" G_GUINT64_FORMAT " bytes", size);
    }
    need = (size >> qcow2_l2_shift(s)) + ((size & ((UINT64_C(1) << qcow2_l2_shift(s)) - 1)) != 0);
    if (s->l1_entries > QCOW2_MAX_L1_BYTES / 8) {
        return refuse(s, error, "an L1 table of %u entries is too large", s->l1_entries);
    }
    if (need > s->l1_entries) {
        return refuse(s, error,
                      "an L1 table of %u entries is too small for %" G_GUINT64_FORMAT " bytes",
                      s->l1_entries, size);
    }
    if ((uint64_t)s->rt_clusters << s->cluster_bits > QCOW2_MAX_RT_BYTES) {
        return refuse(s, error, "a refcount table of %u clusters is too large", s->rt_clusters);
    }
    if (s->rt_clusters == 0 && !s->parent.for_check) {
        return refuse(s, error, "no refcount table");
    }
    if (!table_ok(s, s->l1_offset, 8 * (uint64_t)s->l1_entries)) {
        return refuse(s, error, "its L1 table is at an invalid place");
    }
    if (!table_ok(s, s->rt_offset, (uint64_t)s->rt_clusters << s->cluster_bits)) {
        return refuse(s, error, "its refcount table is at an invalid place");
    }
    if (s->nb_snapshots > QCOW2_MAX_SNAPSHOTS) {
        return refuse(s, error, "%u snapshots", s->nb_snapshots);
    }
    __atomic_store_n(&s->parent.length, size, __ATOMIC_RELAXED);
    return true;
}

static bool read_names(Qcow2 *s, const Qcow2Header *h, GError **error)
{
    uint64_t at = GUINT64_FROM_BE(h->backing_offset);
    uint32_t len = GUINT32_FROM_BE(h->backing_len), first = s->header_length, end = s->cluster_size;
    g_autofree uint8_t *head = NULL;

    if (at) {
        if (len > QCOW2_MAX_NAME || at > s->cluster_size - len) {
            return refuse(s, error,
                          "the name of its backing file is too long or at an invalid place");
        }
        end = MIN(end, (uint32_t)at);
    }
    head = g_malloc0(s->cluster_size);
    if (!read_at(s, 0, head, s->cluster_size, "the header", error)) {
        return false;
    }
    if (at && len > 0) {
        s->backing_name = g_strndup((const char *)head + at, len);
    }
    return parse_extensions(s, head, first, end, error);
}

bool qcow2_header_read(Qcow2 *s, GError **error)
{
    Qcow2Header *h = &s->header;

    memset(h, 0, sizeof(*h));
    if (!read_at(s, 0, h, sizeof(*h), "the header", error)) {
        return false;
    }
    s->version = GUINT32_FROM_BE(h->version);
    if (GUINT32_FROM_BE(h->magic) != QCOW2_MAGIC) {
        return refuse(s, error, "not a qcow2 image");
    }
    if (s->version != 2 && s->version != 3) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "qcow2 '%s': version %u is not supported (2 and 3 are)",
                         block_node_name(&s->parent), s->version);
    }
    s->cluster_bits = GUINT32_FROM_BE(h->cluster_bits);
    s->header_length = s->version == 2 ? QCOW2_HEADER_V2 : GUINT32_FROM_BE(h->header_length);
    if (s->header_length < (s->version == 2 ? QCOW2_HEADER_V2 : QCOW2_HEADER_V3) ||
        s->header_length % 8) {
        return refuse(s, error, "a header of %u bytes", s->header_length);
    }
    if (s->header_length < QCOW2_HEADER_BYTES) {
        memset((uint8_t *)h + s->header_length, 0, QCOW2_HEADER_BYTES - s->header_length);
    }
    s->incompatible = GUINT64_FROM_BE(h->incompatible);
    s->compatible = GUINT64_FROM_BE(h->compatible);
    s->autoclear = GUINT64_FROM_BE(h->autoclear);
    s->refcount_order = s->version == 2 ? 4 : GUINT32_FROM_BE(h->refcount_order);
    s->compression = h->compression_type;
    s->has_data_file = s->incompatible & QCOW2_INCOMPAT_DATA_FILE;
    s->data_raw = s->has_data_file && (s->autoclear & QCOW2_AUTOCLEAR_RAW_DATA);
    if (s->cluster_bits < QCOW2_MIN_CLUSTER_BITS || s->cluster_bits > QCOW2_MAX_CLUSTER_BITS ||
        s->header_length > (1u << s->cluster_bits)) {
        return refuse(s, error, "clusters of 2^%u bytes, a header of %u", s->cluster_bits,
                      s->header_length);
    }
    s->cluster_size = 1u << s->cluster_bits;
    /* The extensions have the names of the features. */
    return read_names(s, h, error) && check_features(s, error) && check_numbers(s, h, error) &&
           check_tables(s, h, error);
}

void qcow2_header_free(Qcow2 *s)
{
    for (unsigned i = 0; i < s->n_extensions; i++) {
        g_free(s->extensions[i].data);
    }
    g_clear_pointer(&s->extensions, g_free);
    s->n_extensions = 0;
    g_clear_pointer(&s->backing_name, g_free);
    g_clear_pointer(&s->backing_format, g_free);
    g_clear_pointer(&s->data_name, g_free);
}

/* ---- damage -----------------------------------------------------------------------------------
 */

void qcow2_mark_corrupt(Qcow2 *s, const char *what, uint64_t offset)
{
    bool first;

    pthread_mutex_lock(&s->lock);
    first = !s->corrupt;
    s->corrupt = true;
    if (s->version >= 3 && !s->parent.read_only) {
        s->incompatible |= QCOW2_INCOMPAT_CORRUPT;
    }
    pthread_mutex_unlock(&s->lock);
    if (!first) {
        return;
    }
    log_error("qcow2 '%s' is corrupt: %s at %#" G_GINT64_MODIFIER
              "x; it is not written to any more",
              block_node_name(&s->parent), what, offset);
    if (s->version >= 3 && !s->parent.read_only && qcow2_header_write_fields(s) != 0) {
        log_error("qcow2 '%s': its corrupt bit could not be written", block_node_name(&s->parent));
    }
}
