/*
 * qcow2: changes of what an image was created with: its version, names in its header, lazy
 * refcounts.
 *
 * Everything is looked at before anything is changed. From version 3 to 2 zero clusters have to go,
 * which version 2 does not know: they become unallocated, or data of zeroes where something would
 * show through. The header, which says the version, is written last.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2-options.h"
#include "engine/core/error.h"

static bool failed(Qcow2 *s, int e, const char *what, GError **error)
{
    errno = e;
    return error_set_errno(error, "qcow2 '%s': %s", block_node_name(&s->parent), what);
}

/* ---- the backing file ------------------------------------------------------------------------ */

bool qcow2_change_backing(BlockNode *node, const char *filename, const char *format, GError **error)
{
    Qcow2 *s = QCOW2(node);
    bool none = !filename || !*filename;
    char *name = none ? NULL : g_strdup(filename), *old_name = s->backing_name;
    char *old_format = s->backing_format;
    int e;

    if (node->read_only || s->corrupt || (s->data_raw && !none) ||
        (!none && strlen(filename) > QCOW2_MAX_NAME)) {
        g_free(name);
        return error_set(error, ENGINE_ERROR_INVALID, "'%s': another backing file: %s",
                         block_node_name(node),
                         node->read_only || s->corrupt ? "it cannot be written"
                         : s->data_raw                 ? "its data file shows all of the disk"
                                                       : "the name is too long");
    }
    e = qcow2_settle(s);
    if (e) {
        g_free(name);
        return failed(s, e, "another backing file", error);
    }
    s->backing_name = name;
    s->backing_format = none || !format || !*format ? NULL : g_strdup(format);
    if (qcow2_header_write(s, error)) {
        g_free(old_name);
        g_free(old_format);
        return true;
    }
    g_free(s->backing_name);
    g_free(s->backing_format);
    s->backing_name = old_name;
    s->backing_format = old_format;
    return false;
}

/* ---- from version 3 to 2 --------------------------------------------------------------------- */

/* Why version 2 cannot be; NULL: it can. */
static const char *forbids_version_2(const Qcow2 *s)
{
    return s->has_data_file               ? "it has an external data file"
           : s->subclusters > 1           ? "it has extended L2 entries"
           : s->compression != QCOW2_ZLIB ? "it is compressed with zstd"
           : s->refcount_bits != 16       ? "its refcounts do not have 16 bits"
           : s->nb_snapshots > 0          ? "it has internal snapshots"
           : s->autoclear & QCOW2_AUTOCLEAR_BITMAPS
               ? "it has bitmaps (img bitmap --remove takes them away)"
               : NULL;
}

/* One run of zero clusters becomes what version 2 can say. */
static int expand(Qcow2 *s, uint64_t at, uint64_t bytes)
{
    bool opened = block_node_backing(&s->parent) || !s->backing_name;
    uint64_t shown = opened ? qcow2_backed_bytes(s, at, bytes) : bytes;
    size_t room = MAX(s->cluster_size, 1u << 20);
    g_autofree uint8_t *zeroes = NULL;
    int e = 0;

    /* What nothing shows through. */
    shown = MIN(bytes, (shown + s->cluster_size - 1) & ~(uint64_t)(s->cluster_size - 1));
    if (shown < bytes) {
        e = qcow2_discard(s, at + shown, bytes - shown, true);
    }
    zeroes = shown ? g_try_malloc0(room) : NULL;
    e = e ? e : shown && !zeroes ? ENOMEM : 0;
    for (uint64_t done = 0; !e && done < shown;) {
        struct iovec iov = { .iov_base = zeroes, .iov_len = MIN(room, shown - done) };

        e = qcow2_write(s, at + done, iov.iov_len, &iov, 1, 0);
        done += iov.iov_len;
    }
    return e;
}

static int expand_zeroes(Qcow2 *s)
{
    uint64_t length = block_node_length(&s->parent), at = 0;
    int e = 0;

    while (!e && at < length) {
        Qcow2Run run;

        pthread_mutex_lock(&s->lock);
        e = qcow2_map(s, at, length - at, &run);
        pthread_mutex_unlock(&s->lock);
        if (!e && (run.kind == QCOW2_ZERO_PLAIN || run.kind == QCOW2_ZERO_ALLOCATED)) {
            e = expand(s, at, run.bytes);
        }
        at += run.bytes;
    }
    return e;
}

static void become_version_2(Qcow2 *s)
{
    s->version = 2;
    s->header_length = QCOW2_HEADER_V2;
    s->header.version = GUINT32_TO_BE(2);
    s->incompatible = s->compatible = s->autoclear = 0;
    qcow2_set_extension(s, QCOW2_EXT_FEATURES, NULL, 0);
    qcow2_set_extension(s, QCOW2_EXT_BITMAPS, NULL, 0);
}

static void become_version_3(Qcow2 *s)
{
    s->version = 3;
    s->header_length = QCOW2_HEADER_V3;
    s->header.version = GUINT32_TO_BE(3);
    s->header.header_length = GUINT32_TO_BE(QCOW2_HEADER_V3);
    s->header.refcount_order = GUINT32_TO_BE(4);
}

/* ---- options --------------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return !strcmp(a ? a : "", b ? b : "");
}

/* What the image has already is no change. */
static bool possible(const Qcow2 *s, const char *key, const Qcow2Options *want)
{
    unsigned version = want->version ? want->version : s->version;

    return !strcmp(key, "lazy_refcounts")     ? version >= 3 || !want->lazy
           : !strcmp(key, "cluster_size")     ? want->cluster_size == s->cluster_size
           : !strcmp(key, "refcount_bits")    ? want->refcount_bits == s->refcount_bits
           : !strcmp(key, "extended_l2")      ? want->extended_l2 == (s->subclusters > 1)
           : !strcmp(key, "compression_type") ? want->compression == s->compression
           : !strcmp(key, "preallocation")    ? !strcmp(want->preallocation, "off")
           : !strcmp(key, "data_file_raw")    ? want->data_raw == s->data_raw
           : !strcmp(key, "data_file")        ? s->has_data_file == !!want->data_file
           : !strcmp(key, "backing_file")     ? same_text(want->backing, s->backing_name)
           : !strcmp(key, "backing_fmt")      ? same_text(want->backing_format, s->backing_format)
                                              : true;
}

static bool check(Qcow2 *s, const BlockCreateOption *options, unsigned n, Qcow2Options *want,
                  GError **error)
{
    const char *why = NULL;

    for (unsigned i = 0; i < n; i++) {
        if (!qcow2_option_parse(&options[i], want, error)) {
            return false;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        if (!possible(s, options[i].key, want)) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "qcow2 '%s': %s cannot be changed to %s", block_node_name(&s->parent),
                             options[i].key, options[i].value);
        }
    }
    if (s->version == 3 && want->version == 2) {
        why = forbids_version_2(s);
    }
    return !why || error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "qcow2 '%s' cannot become version 2 (compat=0.10): %s",
                             block_node_name(&s->parent), why);
}

bool qcow2_amend(BlockNode *node, const BlockCreateOption *options, unsigned n, GError **error)
{
    Qcow2 *s = QCOW2(node);
    Qcow2Options want = { .preallocation = "off" };
    bool down;
    int e;

    if (node->read_only || s->corrupt) {
        return error_set(error, ENGINE_ERROR_INVALID, "qcow2 '%s' cannot be written",
                         block_node_name(node));
    }
    if (!check(s, options, n, &want, error)) {
        return false;
    }
    down = s->version == 3 && want.version == 2;
    e = down ? expand_zeroes(s) : 0;
    e = e ? e : qcow2_settle(s);
    if (e) {
        return failed(s, e, "writing its tables", error);
    }
    if (down) {
        become_version_2(s);
    } else if (s->version == 2 && want.version == 3) {
        become_version_3(s);
    }
    for (unsigned i = 0; i < n; i++) {
        if (!strcmp(options[i].key, "lazy_refcounts") && s->version >= 3) {
            s->compatible = want.lazy ? s->compatible | QCOW2_COMPAT_LAZY
                                      : s->compatible & ~QCOW2_COMPAT_LAZY;
        }
    }
    if (want.data_file) {
        g_free(s->data_name);
        s->data_name = g_strdup(want.data_file);
    }
    return qcow2_header_write(s, error) &&
           (!want.has_size || want.size == block_node_length(node) ||
            qcow2_resize(node, want.size, "off", error));
}
