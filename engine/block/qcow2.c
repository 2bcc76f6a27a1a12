/*
 * "qcow2": images of versions 2 and 3 as QEMU's "qcow2 image file format" describes them. The
 * driver: properties, opening and closing. qcow2_priv.h says which file does what, and in which
 * order things are written.
 *
 * Not supported: encryption. Lazy refcounts are an option of the format that is never made use of:
 * refcounts are in order at any time, so the dirty bit is not set; one that is found set is
 * repaired.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/block/qcow2_priv.h"
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

#define DEFAULT_L2_CACHE                                                    \
    (32 * MiB) /* 256 GiB of clusters of 64 KiB; only what is used is there \
                */
#define DEFAULT_RB_CACHE (4 * MiB)
#define SLICE_BYTES      4096

static int qcow2_probe(const uint8_t *buf, size_t len, const char *filename)
{
    uint32_t magic, version;

    if (len < 8) {
        return 0;
    }
    memcpy(&magic, buf, 4);
    memcpy(&version, buf + 4, 4);
    version = GUINT32_FROM_BE(version);
    return GUINT32_FROM_BE(magic) == QCOW2_MAGIC && version >= 2 && version <= 3 ? 100 : 0;
}

/* ---- files that the header names ------------------------------------------------------------- */

static const char *file_name(const BlockNode *node)
{
    const BlockNode *file = block_node_file(node);

    while (file && !file->filename) {
        file = block_node_file(file);
    }
    return file ? file->filename : NULL;
}

/* Names are relative to the folder of the image that has them. */
static char *resolve(Qcow2 *s, const char *name)
{
    const char *own = file_name(&s->parent), *colon = strchr(name, ':');
    g_autofree char *folder = NULL;

    if (g_str_has_prefix(name, "file:")) {
        name = colon + 1;
        colon = NULL;
    }
    if (name[0] == '/' || !own || g_str_has_prefix(name, "json:") ||
        (colon && memchr(name, '/', (size_t)(colon - name)) == NULL)) {
        return g_strdup(name);
    }
    folder = g_path_get_dirname(own);
    return strcmp(folder, ".") ? g_build_filename(folder, name, NULL) : g_strdup(name);
}

/* As the image's own file was opened. */
static void inherit(Qcow2 *s, BlockOpenOptions *o)
{
    static const char *const cache[] = { "writeback", "none", "writethrough", "directsync",
                                         "unsafe" };
    static const char *const aio[] = { "auto", "io_uring", "threads", "native" };
    BlockNode *file = block_node_file(&s->parent);
    char *text;

    while (file->file_node) {
        file = file->file_node;
    }
    if (strcmp(block_node_driver(file), "file") != 0) {
        return;
    }
    text = object_property_get_str(OBJECT(file), "cache", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cache); i++) {
        o->cache = g_strcmp0(text, cache[i]) ? o->cache : (BlockCacheMode)i;
    }
    g_free(text);
    text = object_property_get_str(OBJECT(file), "aio", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(aio); i++) {
        o->aio = g_strcmp0(text, aio[i]) ? o->aio : (BlockAioEngine)i;
    }
    g_free(text);
    text = object_property_get_str(OBJECT(file), "locking", NULL);
    o->no_lock = !g_strcmp0(text, "off");
    g_free(text);
}

/* The images that are being opened on top of each other: main thread. */
typedef struct Opening {
    dev_t dev;
    ino_t ino;
    struct Opening *above;
} Opening;
static Opening *opening;

static bool leads_back(const char *name)
{
    struct stat st;

    if (stat(name, &st) < 0) {
        return false;
    }
    for (const Opening *o = opening; o; o = o->above) {
        if (o->dev == st.st_dev && o->ino == st.st_ino) {
            return true;
        }
    }
    return false;
}

static bool loop_refused(Qcow2 *s, const char *name, GError **error)
{
    return error_set(error, ENGINE_ERROR_INVALID,
                     "qcow2 '%s': its chain of backing files leads back to '%s'",
                     block_node_name(&s->parent), name);
}

static bool open_backing(Qcow2 *s, GError **error)
{
    BlockNode *node = &s->parent, *backing;
    BlockOpenOptions o = { .format = s->backing_format,
                           .read_only = true,
                           .depth = node->depth + 1 };
    g_autofree char *name = NULL;
    const char *own = file_name(node);
    Opening here = { .above = opening };
    struct stat st;
    bool ok;

    if (!s->backing_name || node->backing_node || node->no_backing) {
        return true;
    }
    name = resolve(s, s->backing_name);
    inherit(s, &o);
    if (own && leads_back(own)) { /* what is described in JSON has no name to look at below */
        return loop_refused(s, own, error);
    }
    if (own && stat(own, &st) == 0) {
        here.dev = st.st_dev;
        here.ino = st.st_ino;
        opening = &here;
    }
    if (leads_back(name)) {
        opening = here.above;
        return loop_refused(s, name, error);
    }
    backing = block_open(name, &o, error);
    opening = here.above;
    if (!backing) {
        g_prefix_error(error, "qcow2 '%s': backing file: ", block_node_name(node));
        return false;
    }
    ok = object_property_set_link(OBJECT(node), "backing", OBJECT(backing), error) &&
         block_node_take_backing(node, error);
    object_unref(backing);
    return ok;
}

static bool open_data_file(Qcow2 *s, GError **error)
{
    BlockNode *node = &s->parent;
    BlockOpenOptions o = { .format = "raw",
                           .read_only = node->read_only,
                           .discard = node->discard };
    const char *given = s->data_file_name && *s->data_file_name ? s->data_file_name : NULL;
    g_autofree char *name = NULL;
    BlockNode *data;

    s->data = block_node_file(node);
    if (!s->has_data_file) {
        return !given || error_set(error, ENGINE_ERROR_INVALID,
                                   "qcow2 '%s' has no external data file", block_node_name(node));
    }
    if (!given && !s->data_name) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "qcow2 '%s' needs an external data file and does not name it",
                         block_node_name(node));
    }
    name = given ? g_strdup(given) : resolve(s, s->data_name);
    inherit(s, &o);
    data = block_open(name, &o, error);
    if (!data) {
        g_prefix_error(error, "qcow2 '%s': data file: ", block_node_name(node));
        return false;
    }
    if (!object_add_child(OBJECT(node), "data-file", OBJECT(data), error)) {
        object_unref(data);
        return false;
    }
    s->data = block_node_use(data);
    object_unref(data);
    return true;
}

static void close_data_file(Qcow2 *s)
{
    if (s->data && s->data != block_node_file(&s->parent)) {
        object_unparent(OBJECT(s->data));
        block_node_unuse(s->data);
    }
    s->data = NULL;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static uint64_t *read_table(Qcow2 *s, uint64_t offset, uint64_t entries, const char *what,
                            GError **error)
{
    uint64_t *table = g_try_malloc0(8 * MAX(entries, 1));
    int e = table ? 0 : ENOMEM;

    if (!e && entries > 0) {
        e = block_node_pread(block_node_file(&s->parent), offset, table, 8 * entries);
    }
    if (e) {
        g_free(table);
        errno = e;
        error_set_errno(error, "qcow2 '%s': reading the %s", block_node_name(&s->parent), what);
        return NULL;
    }
    for (uint64_t i = 0; i < entries; i++) {
        table[i] = GUINT64_FROM_BE(table[i]);
    }
    return table;
}

/* L1, refcount table, what is known of free clusters. */
static bool load_tables(Qcow2 *s, GError **error)
{
    uint64_t length = block_node_length(block_node_file(&s->parent));

    s->rt_entries = (uint32_t)(((uint64_t)s->rt_clusters << s->cluster_bits) / 8);
    s->l1 = read_table(s, s->l1_offset, s->l1_entries, "L1 table", error);
    s->rt = s->l1 ? read_table(s, s->rt_offset, s->rt_entries, "refcount table", error) : NULL;
    if (!s->rt) {
        return false;
    }
    for (uint32_t i = 0; i < s->rt_entries; i++) {
        s->rt[i] &= ~UINT64_C(511);
    }
    s->l1_dirty = g_new0(uint64_t, s->l1_entries / 64 / 64 + 1);
    s->l1_any_dirty = false;
    s->free_hint = 0;
    s->fresh_from = qcow2_clusters(s, length) << s->cluster_bits;
    s->comp_next = s->comp_end = 0;
    s->comp_buf_entry = 0;
    g_array_set_size(s->reuse, 0);
    if (!qcow2_meta_build(s)) {
        return error_set(error, ENGINE_ERROR_LIMIT, "qcow2 '%s': no memory for its tables",
                         block_node_name(&s->parent));
    }
    return true;
}

static void free_tables(Qcow2 *s)
{
    g_clear_pointer(&s->l1, g_free);
    g_clear_pointer(&s->rt, g_free);
    g_clear_pointer(&s->l1_dirty, g_free);
    g_clear_pointer(&s->meta, g_free);
    s->meta_slots = s->meta_used = 0;
}

bool qcow2_reload(Qcow2 *s, GError **error)
{
    qcow2_cache_forget_all(&s->l2);
    qcow2_cache_forget_all(&s->rb);
    free_tables(s);
    qcow2_header_free(s);
    s->broken = !qcow2_header_read(s, error) || !load_tables(s, error);
    return !s->broken;
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool make_caches(Qcow2 *s, GError **error)
{
    uint32_t slice = MIN(s->cluster_size, SLICE_BYTES);
    uint64_t all = 0, size = s->l2_cache_size ? s->l2_cache_size : DEFAULT_L2_CACHE;

    if (s->l2_cache_entry_size) {
        if (s->l2_cache_entry_size < 512 || s->l2_cache_entry_size > s->cluster_size ||
            s->l2_cache_entry_size & (s->l2_cache_entry_size - 1)) {
            return error_set(
                error, ENGINE_ERROR_INVALID,
                "qcow2 '%s': l2-cache-entry-size has to be a power of 2 from 512 to the "
                "cluster size of %u",
                block_node_name(&s->parent), s->cluster_size);
        }
        slice = (uint32_t)s->l2_cache_entry_size;
    }
    all = (uint64_t)s->l1_entries << s->cluster_bits; /* no more than there can be */
    if (!qcow2_cache_init(&s->l2, MIN(size, MAX(all, 1)), slice, true) ||
        !qcow2_cache_init(&s->rb,
                          s->refcount_cache_size ? s->refcount_cache_size : DEFAULT_RB_CACHE,
                          MIN(s->cluster_size, SLICE_BYTES), false)) {
        return error_set(error, ENGINE_ERROR_LIMIT, "qcow2 '%s': no memory for its caches",
                         block_node_name(&s->parent));
    }
    return true;
}

/* What the feature bits ask for before somebody writes. */
static bool honour_features(Qcow2 *s, GError **error)
{
    uint64_t keep = QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA;
    BlockNode *node = &s->parent;
    int e;

    s->corrupt = s->incompatible & QCOW2_INCOMPAT_CORRUPT;
    if (node->read_only || node->for_check) {
        return true;
    }
    if (s->corrupt) {
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "qcow2 '%s' is marked as corrupt: it can be read (read-only), or repaired "
                         "(img check -r all)",
                         block_node_name(node));
    }
    if ((s->incompatible & QCOW2_INCOMPAT_DIRTY) && !qcow2_repair_dirty(s, error)) {
        return false;
    }
    if (s->autoclear & ~keep) { /* of what nobody here knows, and so will not keep true */
        s->autoclear &= keep;
        e = qcow2_header_write_fields(s);
        e = e ? e : block_node_sync_op(block_node_file(node), BLOCK_OP_FLUSH, 0, 0, 0);
        if (e) {
            errno = e;
            return error_set_errno(error, "qcow2 '%s': writing the header", block_node_name(node));
        }
    }
    return !(s->autoclear & QCOW2_AUTOCLEAR_BITMAPS) || qcow2_bitmaps_open(s, error);
}

static bool open_steps(Qcow2 *s, GError **error)
{
    BlockNode *node = &s->parent;

    if (s->snapshot && *s->snapshot && !node->read_only) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "qcow2 '%s': a snapshot can only be opened read-only",
                         block_node_name(node));
    }
    return qcow2_header_read(s, error) && qcow2_snapshots_check(s, error) &&
           make_caches(s, error) && load_tables(s, error) && open_data_file(s, error) &&
           honour_features(s, error) &&
           (!s->snapshot || !*s->snapshot || qcow2_snapshot_open(s, s->snapshot, error)) &&
           open_backing(s, error);
}

static void free_state(Qcow2 *s)
{
    close_data_file(s);
    free_tables(s);
    qcow2_header_free(s);
    qcow2_cache_finalize(&s->l2);
    qcow2_cache_finalize(&s->rb);
    g_clear_pointer(&s->comp_buf, g_free);
    g_array_free(s->frees, TRUE);
    g_array_free(s->reuse, TRUE);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->header_lock);
    pthread_mutex_destroy(&s->grow);
    pthread_mutex_destroy(&s->lock);
    block_workers_unref();
}

static bool qcow2_open(BlockNode *node, GError **error)
{
    Qcow2 *s = QCOW2(node);

    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->grow, NULL);
    pthread_mutex_init(&s->header_lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->frees = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->reuse = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    s->slow_last = &s->slow_first;
    s->corrupt = s->broken = s->need_order = s->writing_back = s->rb_writing = false;
    s->wb_started = s->wb_done = s->wb_failed = s->seq = 0;
    s->wb_lost = 0;
    block_workers_ref();
    if (!open_steps(s, error)) {
        free_state(s);
        return false;
    }
    node->align = MIN(block_node_file(node)->align, s->cluster_size);
    if (!node->discard_mode) {
        node->discard = block_node_file(node)->discard;
    }
    return true;
}

static void qcow2_close(BlockNode *node)
{
    Qcow2 *s = QCOW2(node);

    if (!node->read_only) {
        int e;

        if (s->bitmaps) {
            qcow2_bitmaps_close(s);
        }
        e = s->corrupt || s->broken ? 0 : qcow2_settle(s);
        if (e) {
            log_error("qcow2 '%s': writing its tables while it is closed: %s",
                      block_node_name(node), g_strerror(e));
        }
    }
    free_state(s);
}

static void add_info(void (*add)(void *, const char *, const char *), void *opaque, const char *key,
                     const char *format, ...) G_GNUC_PRINTF(4, 5);
static void add_info(void (*add)(void *, const char *, const char *), void *opaque, const char *key,
                     const char *format, ...)
{
    va_list ap;
    char *text;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    add(opaque, key, text);
    g_free(text);
}

static void qcow2_info(BlockNode *node, void (*add)(void *, const char *, const char *),
                       void *opaque)
{
    Qcow2 *s = QCOW2(node);

    add(opaque, "compat", s->version == 2 ? "0.10" : "1.1");
    add_info(add, opaque, "cluster-size", "%u", s->cluster_size);
    if (s->backing_name) {
        g_autofree char *full = resolve(s, s->backing_name);

        add(opaque, "backing-filename", s->backing_name);
        add(opaque, "full-backing-filename", full);
    }
    if (s->backing_format) {
        add(opaque, "backing-filename-format", s->backing_format);
    }
    add_info(add, opaque, "snapshots", "%u", s->nb_snapshots);
    add(opaque, "compression-type", s->compression == QCOW2_ZSTD ? "zstd" : "zlib");
    add_info(add, opaque, "refcount-bits", "%u", s->refcount_bits);
    if (s->version == 2) {
        return;
    }
    add(opaque, "lazy-refcounts", s->compatible & QCOW2_COMPAT_LAZY ? "true" : "false");
    add(opaque, "corrupt", s->incompatible & QCOW2_INCOMPAT_CORRUPT ? "true" : "false");
    add(opaque, "extended-l2", s->subclusters > 1 ? "true" : "false");
    if (s->data_name) {
        add(opaque, "data-file", s->data_name);
    }
    if (s->has_data_file) {
        add(opaque, "data-file-raw", s->data_raw ? "true" : "false");
    }
    qcow2_bitmaps_info(s, add, opaque);
    add(opaque, "dirty-flag", s->incompatible & QCOW2_INCOMPAT_DIRTY ? "true" : "false");
}

/* ---- type ------------------------------------------------------------------------------------ */

static const Property qcow2_properties[] = {
    DEFINE_PROP_SIZE("l2-cache-size", Qcow2, l2_cache_size, 0,
                     "bytes of L2 tables kept in memory, at most (0: what the image needs, up to "
                     "32 MiB, which is 256 GiB in clusters of 64 KiB)"),
    DEFINE_PROP_SIZE("l2-cache-entry-size", Qcow2, l2_cache_entry_size, 0,
                     "bytes that are read and dropped at a time (0: 4 KiB)"),
    DEFINE_PROP_SIZE("refcount-cache-size", Qcow2, refcount_cache_size, 0,
                     "bytes of refcount blocks kept in memory, at most (0: 4 MiB)"),
    DEFINE_PROP_BOOL("lazy-refcounts", Qcow2, lazy_refcounts, false,
                     "accepted; refcounts are always written in order"),
    DEFINE_PROP_STRING("overlap-check", Qcow2, overlap_check,
                       "accepted; writes to metadata that is in memory are always refused"),
    DEFINE_PROP_STRING("data-file-name", Qcow2, data_file_name,
                       "the external data file, instead of the one that the image names"),
    DEFINE_PROP_STRING("snapshot", Qcow2, snapshot,
                       "show this internal snapshot (id or name), read-only"),
};

static void qcow2_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "qcow2";
    node->is_format = node->needs_file = true;
    node->sync_on_workers = true;
    node->open = qcow2_open;
    node->close = qcow2_close;
    node->submit = qcow2_submit;
    node->sync = qcow2_sync;
    node->read_now = qcow2_read_now;
    node->probe = qcow2_probe;
    node->create = qcow2_create;
    node->resize = qcow2_resize;
    node->check = qcow2_check;
    node->info = qcow2_info;
    node->compress = qcow2_compress;
    node->write_packed = qcow2_write_packed;
    node->make_empty = qcow2_make_empty;
    node->amend = qcow2_amend;
    node->snapshot_list = qcow2_snapshot_list;
    node->snapshot_create = qcow2_snapshot_create;
    node->snapshot_goto = qcow2_snapshot_goto;
    node->snapshot_delete = qcow2_snapshot_delete;
    node->bitmap_edit = qcow2_bitmap_edit;
    node->change_backing = qcow2_change_backing;
    object_class_add_properties(klass, qcow2_properties, G_N_ELEMENTS(qcow2_properties));
}

static const TypeInfo qcow2_info_type = {
    .name = TYPE_BLOCK_QCOW2,
    .parent = TYPE_BLOCK_NODE,
    .doc = "QEMU's image format: grows with what is written, backing files, snapshots",
    .instance_size = sizeof(Qcow2),
    .class_init = qcow2_class_init,
};

static void register_qcow2(void)
{
    type_register_static(&qcow2_info_type);
}
type_init(register_qcow2)
