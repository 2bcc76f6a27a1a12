/*
 * Nodes: the base class, their life, their properties.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"

static const char *const discard_words[] = { "ignore", "off", "unmap", "on", NULL };
static const char *const detect_zeroes_words[] = { "off", "on", "unmap", NULL };

uint64_t block_node_length(const BlockNode *node)
{
    return __atomic_load_n(&node->length, __ATOMIC_RELAXED);
}

bool block_node_read_only(const BlockNode *node)
{
    return node->read_only;
}

const char *block_node_driver(const BlockNode *node)
{
    return BLOCK_NODE_GET_CLASS(node)->driver;
}

const char *block_node_name(const BlockNode *node)
{
    if (node->node_name) {
        return node->node_name;
    }
    if (node->filename) {
        return node->filename;
    }
    return node->file_node ? block_node_name(node->file_node) : block_node_driver(node);
}

/* ---- life ------------------------------------------------------------------------------------ */

static unsigned chain_depth(const BlockNode *node)
{
    const unsigned file = node->file_node ? chain_depth(node->file_node) : 0;
    const unsigned backing = node->backing_node ? chain_depth(node->backing_node) : 0;

    return MAX(file, backing) + 1;
}

/* What an open node uses stays with it, whatever becomes of the tree. One that belongs to nobody
 * goes below its user, and out of the tree with it. */
static bool take_child(BlockNode *node, Object *link, const char *name, BlockNode **slot,
                       GError **error)
{
    BlockNode *child = (BlockNode *)link;

    if (!child || *slot) {
        return true;
    }
    for (Object *up = OBJECT(node); up; up = up->parent) {
        if (up == link) {
            return error_set(error, ENGINE_ERROR_INVALID, "node '%s' would lie on itself",
                             block_node_name(node));
        }
    }
    if (!block_node_open(child, error)) {
        return false;
    }
    if (!link->parent && !link->gone && !object_add_child(OBJECT(node), name, link, error)) {
        return false;
    }
    *slot = block_node_use(child);
    return true;
}

bool block_node_take_backing(BlockNode *node, GError **error)
{
    return take_child(node, node->backing, "backing", &node->backing_node, error);
}

static void drop_children(BlockNode *node)
{
    block_node_unuse(g_steal_pointer(&node->file_node));
    block_node_unuse(g_steal_pointer(&node->backing_node));
}

static bool open_with_children(BlockNode *node, GError **error)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);
    BlockNode *below;

    if (!take_child(node, node->file, "file", &node->file_node, error) ||
        !take_child(node, node->backing, "backing", &node->backing_node, error)) {
        return false;
    }
    if (chain_depth(node) > BLOCK_MAX_DEPTH) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "node '%s': more than %d nodes on top of each other",
                         block_node_name(node), BLOCK_MAX_DEPTH);
    }
    below = node->file_node;
    if (below && klass->needs_file && !klass->own_store && below->read_only && !node->read_only) {
        if (!node->auto_read_only && !below->auto_read_only) {
            return error_set(error, ENGINE_ERROR_INVALID, "node '%s': '%s' below it is read-only",
                             block_node_name(node), block_node_name(below));
        }
        node->read_only = true;
    }
    node->align = 1;
    return !klass->open || klass->open(node, error);
}

bool block_node_open(BlockNode *node, GError **error)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);
    bool ok;

    if (node->opened) {
        return true;
    }
    if (node->opening) {
        return error_set(error, ENGINE_ERROR_INVALID, "node '%s' would lie on itself",
                         block_node_name(node));
    }
    if (!object_check_required(OBJECT(node), error)) {
        return false;
    }
    if (klass->needs_file && !node->file) {
        return error_set(error, ENGINE_ERROR_INVALID, "node '%s': driver %s needs a node in 'file'",
                         block_node_name(node), klass->driver);
    }
    node->discard = node->discard_mode >= 2;
    node->opening = true;
    ok = open_with_children(node, error);
    node->opening = false;
    if (!ok) {
        drop_children(node);
        return false;
    }
    node->opened = true;
    OBJECT(node)->realized = true;
    return true;
}

static void node_close(BlockNode *node)
{
    if (node->opened) {
        node->opened = false;
        OBJECT(node)->realized = false;
        if (BLOCK_NODE_GET_CLASS(node)->close) {
            BLOCK_NODE_GET_CLASS(node)->close(node);
        }
    }
    drop_children(node);
}

/* A child that was put below its user goes with it. */
static void shut_child(BlockNode *node, BlockNode *child)
{
    bool owned = child && OBJECT(child)->parent == OBJECT(node);

    block_node_unuse(child);
    if (owned) {
        object_unparent(OBJECT(child));
    }
}

void block_node_shut(BlockNode *node)
{
    BlockNode *file = node->file_node, *backing = node->backing_node;

    if (node->users > 0 || !node->opened) {
        return;
    }
    node->opened = false;
    OBJECT(node)->realized = false;
    if (BLOCK_NODE_GET_CLASS(node)->close) {
        BLOCK_NODE_GET_CLASS(node)->close(node);
    }
    node->file_node = node->backing_node = NULL;
    shut_child(node, file);
    shut_child(node, backing);
}

BlockNode *block_node_use(BlockNode *node)
{
    node->users++;
    return (BlockNode *)object_ref(node);
}

void block_node_unuse(BlockNode *node)
{
    if (!node) {
        return;
    }
    if (--node->users == 0 && OBJECT(node)->gone) {
        node_close(node);
    }
    object_unref(node);
}

typedef struct DriverSearch {
    const char *driver;
    BlockNodeClass *found;
    GPtrArray *names;
} DriverSearch;

static void driver_visit(ObjectClass *klass, void *opaque)
{
    DriverSearch *search = opaque;
    BlockNodeClass *node_class = BLOCK_NODE_CLASS(klass);

    g_ptr_array_add(search->names, (gpointer)(uintptr_t)node_class->driver);
    if (!g_strcmp0(node_class->driver, search->driver)) {
        search->found = node_class;
    }
}

BlockNodeClass *block_driver_find(const char *driver, GError **error)
{
    DriverSearch search = { .driver = driver, .names = g_ptr_array_new() };

    object_class_foreach(driver_visit, TYPE_BLOCK_NODE, false, &search);
    g_ptr_array_add(search.names, NULL);
    if (!search.found) {
        const char *near = nearest_word(driver, (const char *const *)search.names->pdata);

        error_set(error, ENGINE_ERROR_INVALID, "unknown block driver '%s'%s%s%s", driver,
                  near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    g_ptr_array_free(search.names, TRUE);
    return search.found;
}

typedef struct DriverList {
    void (*fn)(const char *driver, ObjectClass *klass, void *opaque);
    void *opaque;
} DriverList;

static void driver_list_visit(ObjectClass *klass, void *opaque)
{
    DriverList *list = opaque;

    list->fn(BLOCK_NODE_CLASS(klass)->driver, klass, list->opaque);
}

void block_drivers_foreach(void (*fn)(const char *driver, ObjectClass *klass, void *opaque),
                           void *opaque)
{
    DriverList list = { fn, opaque };

    object_class_foreach(driver_list_visit, TYPE_BLOCK_NODE, false, &list);
}

BlockNode *block_node_new(const char *driver, GError **error)
{
    BlockNodeClass *klass = block_driver_find(driver, error);

    return klass ? BLOCK_NODE(object_new_with_class(OBJECT_CLASS(klass), error)) : NULL;
}

BlockNode *block_node_on_top(const char *driver, BlockNode *node, GError **error)
{
    BlockNode *top = block_node_new(driver, error);

    if (top) {
        top->read_only = node->read_only && !BLOCK_NODE_GET_CLASS(top)->own_store;
        top->discard_mode = node->discard ? 2 : 0;
        if (!object_property_set_link(OBJECT(top), "file", OBJECT(node), error) ||
            !block_node_open(top, error)) {
            object_unref(top);
            top = NULL;
        }
    }
    object_unref(node);
    return top;
}

BlockNode *block_node_snapshot(BlockNode *node, GError **error)
{
    return block_node_on_top("overlay", node, error);
}

/* ---- draining -------------------------------------------------------------------------------- */

void block_node_drain_begin(BlockNode *node)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);

    if (__atomic_fetch_add(&node->drained, 1, __ATOMIC_RELAXED) == 0 && klass->drain) {
        klass->drain(node);
    }
    if (node->file_node) {
        block_node_drain_begin(block_node_file(node));
    }
    if (node->backing_node) {
        block_node_drain_begin(block_node_backing(node));
    }
}

void block_node_drain_end(BlockNode *node)
{
    __atomic_fetch_sub(&node->drained, 1, __ATOMIC_RELAXED);
    if (node->file_node) {
        block_node_drain_end(block_node_file(node));
    }
    if (node->backing_node) {
        block_node_drain_end(block_node_backing(node));
    }
}

/* ---- type ------------------------------------------------------------------------------------ */

static bool get_length(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_SIZE;
    out->uinteger = block_node_length(BLOCK_NODE(obj));
    return true;
}

static bool get_driver(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_STRING;
    out->string = g_strdup(block_node_driver(BLOCK_NODE(obj)));
    return true;
}

static const Property node_properties[] = {
    DEFINE_PROP_STRING("node-name", BlockNode, node_name, "the name that others refer to it by"),
    DEFINE_PROP_BOOL("read-only", BlockNode, read_only, false, "refuse writes"),
    DEFINE_PROP_BOOL("auto-read-only", BlockNode, auto_read_only, false,
                     "read-only where it cannot be written"),
    DEFINE_PROP_ENUM("discard", BlockNode, discard_mode, discard_words, 0,
                     "what becomes of the guest's discards: unmap gives the space back"),
    DEFINE_PROP_ENUM("detect-zeroes", BlockNode, detect_zeroes, detect_zeroes_words, 0,
                     "writes of nothing but zeroes become zeroing (on), or holes (unmap)"),
    { .name = "length",
      .doc = "bytes that it shows",
      .kind = PROP_SIZE,
      .bits = 64,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_length },
    { .name = "driver",
      .doc = "what it is",
      .kind = PROP_STRING,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_driver },
    DEFINE_PROP_LINK("file", BlockNode, file, TYPE_BLOCK_NODE, "the node below it"),
    DEFINE_PROP_LINK("backing", BlockNode, backing, TYPE_BLOCK_NODE,
                     "the node that shows through where it holds nothing"),
};

static void node_unparent(Object *obj)
{
    BlockNode *node = BLOCK_NODE(obj);

    if (node->users == 0) {
        node_close(node);
    }
}

static void node_finalize(Object *obj)
{
    node_close(BLOCK_NODE(obj));
}

static void node_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = node_unparent;
    object_class_add_properties(klass, node_properties, G_N_ELEMENTS(node_properties));
}

static const TypeInfo node_info = {
    .name = TYPE_BLOCK_NODE,
    .parent = TYPE_OBJECT,
    .doc = "A part of the way from a disk to the file that holds it",
    .instance_size = sizeof(BlockNode),
    .instance_finalize = node_finalize,
    .class_size = sizeof(BlockNodeClass),
    .class_init = node_class_init,
    .abstract = true,
};

static void register_node(void)
{
    type_register_static(&node_info);
}
type_init(register_node)
