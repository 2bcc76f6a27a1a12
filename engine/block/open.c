/*
 * From a file's name to nodes: protocols, probing by content, the chain that -drive means.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/describe.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

typedef struct ProbeSearch {
    const uint8_t *buf;
    size_t len;
    const char *filename;
    int best;
    const char *driver;
} ProbeSearch;

static void probe_visit(ObjectClass *klass, void *opaque)
{
    ProbeSearch *search = opaque;
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);
    int score = node->probe ? node->probe(search->buf, search->len, search->filename) : 0;

    if (score > search->best) {
        search->best = score;
        search->driver = node->driver;
    }
}

const char *block_probe_buffer(const uint8_t *buf, size_t len, const char *filename)
{
    ProbeSearch search = { .buf = buf, .len = len, .filename = filename, .driver = "raw" };

    object_class_foreach(probe_visit, TYPE_BLOCK_NODE, false, &search);
    return search.driver;
}

const char *block_probe(BlockNode *file, GError **error)
{
    uint8_t buf[BLOCK_PROBE_BYTES] = { 0 };
    size_t len = MIN(sizeof(buf), block_node_length(file));
    int e = len > 0 ? block_node_pread(file, 0, buf, len) : 0;

    if (e) {
        errno = e;
        error_set_errno(error, "'%s': reading its beginning", block_node_name(file));
        return NULL;
    }
    return block_probe_buffer(buf, len, file->filename);
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool set_words(BlockNode *node, const char *key, const char *const *words, int value,
                      GError **error)
{
    return object_property_set_str(OBJECT(node), key, words[value], error);
}

static bool set_file_options(BlockNode *node, const BlockOpenOptions *o, GError **error)
{
    static const char *const cache[] = { "writeback", "none", "writethrough", "directsync",
                                         "unsafe" };
    static const char *const aio[] = { "auto", "io_uring", "threads", "native" };
    static const char *const locking[] = { "auto", "off" };

    return set_words(node, "cache", cache, (int)o->cache, error) &&
           set_words(node, "aio", aio, (int)o->aio, error) &&
           set_words(node, "locking", locking, o->no_lock, error);
}

static bool set_common_options(BlockNode *node, const BlockOpenOptions *o, GError **error)
{
    return object_property_set_bool(OBJECT(node), "read-only", o->read_only, error) &&
           object_property_set_bool(OBJECT(node), "auto-read-only", o->auto_read_only, error) &&
           object_property_set_str(OBJECT(node), "discard", o->discard ? "unmap" : "ignore", error);
}

typedef struct PrefixSearch {
    const char *filename, *driver;
} PrefixSearch;

static void prefix_visit(ObjectClass *klass, void *opaque)
{
    PrefixSearch *search = opaque;
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    for (const char *const *p = node->prefixes; p && *p; p++) {
        if (g_str_has_prefix(search->filename, *p)) {
            search->driver = node->driver;
        }
    }
}

/* The driver whose names begin like this one; NULL + error: it belongs to one that is not built in.
 * "file" for everything else. */
static const char *driver_by_prefix(const char *filename, GError **error)
{
    PrefixSearch search = { .filename = filename };

    object_class_foreach(prefix_visit, TYPE_BLOCK_NODE, false, &search);
    if (!search.driver && (g_str_has_prefix(filename, "nbd:") ||
                           g_str_has_prefix(filename, "nbds:") || strstr(filename, "+unix://"))) {
        error_set(error, ENGINE_ERROR_UNSUPPORTED,
                  "'%s': this build has no NBD client (libnbd was missing when it was made)",
                  filename);
        return NULL;
    }
    return search.driver ? search.driver : "file";
}

/* "null:1G", "ram:64M": a driver and its size. */
static BlockNode *sized_node(const char *filename, GError **error)
{
    const char *colon = strchr(filename, ':');
    char *driver = g_strndup(filename, (gsize)(colon - filename));
    BlockNode *node = block_node_new(driver, error);

    g_free(driver);
    if (node && colon[1] && !object_property_parse(OBJECT(node), "size", colon + 1, error)) {
        object_unref(node);
        return NULL;
    }
    return node;
}

static bool name_node(BlockNode *node, const char *filename, const BlockOpenOptions *o,
                      GError **error)
{
    if (BLOCK_NODE_GET_CLASS(node)->parse_filename) {
        return BLOCK_NODE_GET_CLASS(node)->parse_filename(node, filename, error);
    }
    if (g_str_has_prefix(filename, "file:")) {
        filename += strlen("file:");
    }
    return object_property_set_str(OBJECT(node), "filename", filename, error) &&
           set_file_options(node, o, error);
}

/* "null:1G", "ram:64M", "nbd://…", "file:PATH", or a path. A path with a colon in it is written
 * with "./" or "file:" before it, unless the part before the colon is no driver. */
static BlockNode *protocol_node(const char *filename, const BlockOpenOptions *o, GError **error)
{
    BlockNode *node = NULL;
    const char *driver;

    if (g_str_has_prefix(filename, BLOCK_JSON_PREFIX)) {
        return block_open_json(filename, o, error);
    }
    if (g_str_has_prefix(filename, "null:") || g_str_has_prefix(filename, "ram:")) {
        node = sized_node(filename, error);
    } else if ((driver = driver_by_prefix(filename, error))) {
        node = block_node_new(driver, error);
        if (node && !name_node(node, filename, o, error)) {
            object_unref(g_steal_pointer(&node));
        }
    }
    if (node && set_common_options(node, o, error) && block_node_open(node, error)) {
        return node;
    }
    object_unref(node);
    return NULL;
}

BlockNode *block_open_file(const char *filename, const BlockOpenOptions *options, GError **error)
{
    return protocol_node(filename, options, error);
}

const char *block_node_probe(BlockNode *node, GError **error)
{
    return block_probe(node, error);
}

BlockNode *block_open(const char *filename, const BlockOpenOptions *options, GError **error)
{
    static const BlockOpenOptions defaults;
    static const char *const zeroes[] = { "off", "on", "unmap" };
    const BlockOpenOptions *o = options ? options : &defaults;
    const char *format = o->format;
    BlockNode *file, *node;

    if (o->depth > BLOCK_MAX_DEPTH) {
        error_set(error, ENGINE_ERROR_LIMIT, "'%s': more than %d images on top of each other",
                  filename, BLOCK_MAX_DEPTH);
        return NULL;
    }
    if (g_str_has_prefix(filename, BLOCK_JSON_PREFIX)) {
        return block_open_json(filename, o, error);
    }
    file = protocol_node(filename, o, error);
    if (!file) {
        return NULL;
    }
    if (!format) {
        format = block_probe(file, error);
    }
    node = format ? block_node_new(format, error) : NULL;
    if (node && !BLOCK_NODE_GET_CLASS(node)->is_format) {
        error_set(error, ENGINE_ERROR_INVALID, "'%s': '%s' is no image format", filename, format);
        object_unref(g_steal_pointer(&node));
    }
    if (node) {
        node->probed = !o->format;
        node->depth = o->depth;
        node->no_backing = o->no_backing;
        node->for_check = o->for_check;
        if (!set_common_options(node, o, error) ||
            !set_words(node, "detect-zeroes", zeroes, (int)o->detect_zeroes, error) ||
            !object_property_set_link(OBJECT(node), "file", OBJECT(file), error) ||
            !block_node_open(node, error)) {
            object_unref(g_steal_pointer(&node));
        }
    }
    object_unref(file);
    return node;
}
