/* Instances: reference counts, the tree of paths, leaving it, destroy notification. */
#include "engine/qom/qom_priv.h"

#include <string.h>

typedef struct NotifyEntry {
    ObjectNotify fn;
    void *opaque;
} NotifyEntry;

typedef struct Attachment {
    void *data;
    GDestroyNotify free_data;
} Attachment;

static Object *root;

/* ---- making and freeing ------------------------------------------------------------------ */

static void object_init_instance(Object *obj, ObjectClass *klass)
{
    obj->klass = klass;
    obj->ref = 1;
    object_props_init_fields(obj);
    for (unsigned d = 0; d <= klass->type->depth; d++) {
        if (klass->ancestors[d]->instance_init) {
            klass->ancestors[d]->instance_init(obj);
        }
    }
    object_props_init_setters(obj);
    for (unsigned d = 0; d <= klass->type->depth; d++) {
        if (klass->ancestors[d]->instance_post_init) {
            klass->ancestors[d]->instance_post_init(obj);
        }
    }
}

Object *object_new_with_class(ObjectClass *klass, GError **error)
{
    Object *obj;

    if (klass->type->abstract) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                    "type '%s' is abstract and has no instances", klass->type->name);
        return NULL;
    }
    obj = g_malloc0(klass->type->instance_size);
    obj->on_heap = true;
    object_init_instance(obj, klass);
    return obj;
}

Object *object_new(const char *type_name, GError **error)
{
    ObjectClass *klass = object_class_lookup(type_name, error);

    return klass ? object_new_with_class(klass, error) : NULL;
}

void object_initialize(void *data, size_t size, const char *type_name)
{
    g_autoptr(GError) error = NULL;
    ObjectClass *klass = object_class_lookup(type_name, &error);

    if (!klass) {
        qom_bug("cannot initialize an embedded object: %s", error->message);
    }
    if (klass->type->abstract || size < klass->type->instance_size) {
        qom_bug("cannot initialize an embedded '%s' of %zu bytes in %zu bytes%s", type_name,
                klass->type->instance_size, size, klass->type->abstract ? ": it is abstract" : "");
    }
    memset(data, 0, klass->type->instance_size);
    object_init_instance(data, klass);
}

/* Out of the tree; drops the parent's reference. */
static void object_detach(Object *obj)
{
    Object *parent = obj->parent;

    obj->parent = NULL;
    g_hash_table_remove(parent->children, obj->name);
    g_ptr_array_remove(parent->order, obj);
    object_unref(obj);
}

/* The steps that unparenting and the last unref share. The caller holds a reference. */
static void object_leave(Object *obj)
{
    if (obj->gone || obj->leaving) {
        return;
    }
    obj->leaving = true;
    if (obj->klass->unparent) {
        obj->klass->unparent(obj);
    }
    while (obj->order && obj->order->len) {
        Object *child = obj->order->pdata[obj->order->len - 1];

        if (child->leaving) {
            object_detach(child); /* it is its hook, or a notification of it, that ends us */
        } else {
            object_unparent(child);
        }
    }
    obj->gone = true;
    while (obj->notify) {
        NotifyEntry *e = obj->notify->data;

        /* Unlinked first: the callback may remove others, or itself. */
        obj->notify = g_slist_delete_link(obj->notify, obj->notify);
        e->fn(obj, e->opaque);
        g_free(e);
    }
    object_props_clear_links_to(obj);
    obj->leaving = false;
}

static void object_finalize(Object *obj)
{
    g_assert(!obj->parent && !obj->leaving);
    if (!obj->gone) {
        /* Callbacks see an object they may use, but not keep. */
        g_atomic_int_set(&obj->ref, 1);
        object_leave(obj);
        if (!g_atomic_int_dec_and_test(&obj->ref)) {
            qom_bug("a destroy notification of '%s' kept a reference", object_get_name(obj));
        }
    }
    for (int d = (int)obj->klass->type->depth; d >= 0; d--) {
        if (obj->klass->ancestors[d]->instance_finalize) {
            obj->klass->ancestors[d]->instance_finalize(obj);
        }
    }
    object_props_finalize(obj);
    g_clear_pointer(&obj->children, g_hash_table_destroy);
    if (obj->order) {
        g_ptr_array_free(obj->order, true);
    }
    while (obj->attached) {
        Attachment *a = obj->attached->data;

        obj->attached = g_slist_delete_link(obj->attached, obj->attached);
        a->free_data(a->data);
        g_free(a);
    }
    g_clear_pointer(&obj->name, g_free);
    if (obj->on_heap) {
        g_free(obj);
    }
}

Object *object_ref(void *obj)
{
    if (obj) {
        g_atomic_int_inc(&((Object *)obj)->ref);
    }
    return obj;
}

void object_unref(void *obj)
{
    if (obj && g_atomic_int_dec_and_test(&((Object *)obj)->ref)) {
        object_finalize(obj);
    }
}

const char *object_get_typename(const Object *obj)
{
    return obj->klass->type->name;
}

const char *object_get_name(const Object *obj)
{
    return obj->name ? obj->name : obj == root ? "/" : object_get_typename(obj);
}

/* ---- destroy notification ---------------------------------------------------------------- */

void object_add_destroy_notify(Object *obj, ObjectNotify fn, void *opaque)
{
    NotifyEntry *e = g_new(NotifyEntry, 1);

    e->fn = fn;
    e->opaque = opaque;
    obj->notify = g_slist_append(obj->notify, e);
}

void object_remove_destroy_notify(Object *obj, ObjectNotify fn, void *opaque)
{
    for (GSList *l = obj->notify; l; l = l->next) {
        NotifyEntry *e = l->data;
        if (e->fn == fn && e->opaque == opaque) {
            obj->notify = g_slist_delete_link(obj->notify, l);
            g_free(e);
            return;
        }
    }
}

void object_attach(Object *obj, void *data, GDestroyNotify free_data)
{
    Attachment *a = g_new(Attachment, 1);

    a->data = data;
    a->free_data = free_data;
    obj->attached = g_slist_prepend(obj->attached, a);
}

/* ---- the tree ---------------------------------------------------------------------------- */

Object *object_get_root(void)
{
    if (!root) {
        root = object_new(TYPE_CONTAINER, NULL);
        if (!root) {
            qom_bug("the object tree is used before module_call_init(MODULE_INIT_QOM)");
        }
    }
    return root;
}

void object_model_finalize(void)
{
    if (root) {
        object_unparent(root);
        g_clear_pointer(&root, object_unref);
    }
    type_table_free();
}

static bool child_name_ok(const char *name)
{
    return name && *name && strnlen(name, OBJECT_NAME_MAX + 1) <= OBJECT_NAME_MAX &&
           !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

/* Levels below obj; no more than `most` are looked at. */
static unsigned levels_below(const Object *obj, unsigned most)
{
    unsigned deepest = 0;

    for (guint i = 0; most && obj->order && i < obj->order->len; i++) {
        const unsigned levels = 1 + levels_below(g_ptr_array_index(obj->order, i), most - 1);
        deepest = MAX(deepest, levels); /* a macro that evaluates twice */
    }
    return deepest;
}

bool object_add_child(Object *parent, const char *name, Object *child, GError **error)
{
    unsigned depth = 1;

    if (!child_name_ok(name)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED,
                    "%s: '%.*s' is not a name for a child (not empty, no '/', at most %d bytes)",
                    object_get_name(parent), OBJECT_NAME_MAX, name ? name : "", OBJECT_NAME_MAX);
        return false;
    }
    if (parent->gone || child->gone) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED, "cannot add '%s' to %s: %s is gone",
                    name, object_get_name(parent), object_get_name(parent->gone ? parent : child));
        return false;
    }
    if (parent->leaving) { /* what its going adds would have to go before it, without an end */
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED, "cannot add '%s' to %s: %s is going",
                    name, object_get_name(parent), object_get_name(parent));
        return false;
    }
    if (child->parent || child == root) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED,
                    "cannot add '%s' to %s: it is in the tree already", name,
                    object_get_name(parent));
        return false;
    }
    for (Object *o = parent; o; o = o->parent, depth++) {
        if (o == child) {
            g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED, "cannot add '%s' below itself",
                        name);
            return false;
        }
    }
    if (depth > OBJECT_TREE_DEPTH ||
        depth + levels_below(child, OBJECT_TREE_DEPTH) > OBJECT_TREE_DEPTH) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED,
                    "cannot add '%s' to %s: the tree would be more than %d levels deep", name,
                    object_get_name(parent), OBJECT_TREE_DEPTH);
        return false;
    }
    if (object_get_child(parent, name)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_DUPLICATE_NAME, "%s has a child '%s' already",
                    object_get_name(parent), name);
        return false;
    }
    if (!parent->children) {
        parent->children = g_hash_table_new(g_str_hash, g_str_equal);
        parent->order = g_ptr_array_new();
    }
    g_free(child->name);
    child->name = g_strdup(name);
    child->parent = parent;
    g_hash_table_insert(parent->children, child->name, object_ref(child));
    g_ptr_array_add(parent->order, child);
    return true;
}

void object_unparent(Object *obj)
{
    if (!obj || obj->gone || obj->leaving) {
        return;
    }
    object_ref(obj);
    object_leave(obj);
    if (obj->parent) {
        object_detach(obj);
    }
    object_unref(obj);
}

Object *object_get_child(Object *obj, const char *name)
{
    return obj->children ? g_hash_table_lookup(obj->children, name) : NULL;
}

unsigned object_child_count(const Object *obj)
{
    return obj->order ? obj->order->len : 0;
}

Object *object_child_at(const Object *obj, unsigned index)
{
    return index < object_child_count(obj) ? obj->order->pdata[index] : NULL;
}

Object *object_make_container(Object *from, const char *path, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    Object *first_made = NULL;

    for (unsigned i = 0; parts[i]; i++) {
        Object *next;

        if (!*parts[i]) {
            continue;
        }
        next = object_get_child(from, parts[i]);
        if (!next) {
            next = object_new(TYPE_CONTAINER, error);
            if (!next || !object_add_child(from, parts[i], next, error)) {
                object_unref(next);
                if (first_made) {
                    object_unparent(first_made);
                }
                return NULL;
            }
            first_made = first_made ? first_made : next;
            object_unref(next); /* its parent holds it */
        }
        from = next;
    }
    return from;
}

Object *object_get_container(Object *from, const char *path)
{
    g_autoptr(GError) error = NULL;
    Object *container = object_make_container(from, path, &error);

    if (!container) {
        qom_bug("container '%s': %s", path, error->message);
    }
    return container;
}

/* ---- paths ------------------------------------------------------------------------------- */

char *object_get_canonical_path(const Object *obj)
{
    GString *path = g_string_new(NULL);

    for (; obj != root; obj = obj->parent) {
        if (!obj || !obj->parent) {
            g_string_free(path, true);
            return NULL;
        }
        g_string_prepend(path, obj->name);
        g_string_prepend_c(path, '/');
    }
    if (!path->len) {
        g_string_append_c(path, '/');
    }
    return g_string_free(path, false);
}

static Object *resolve_parts(Object *from, char **parts)
{
    for (; from && *parts; parts++) {
        if (**parts) {
            from = object_get_child(from, *parts);
        }
    }
    return from;
}

static bool type_matches(Object *obj, const char *type_name)
{
    return !type_name || object_dynamic_cast(obj, type_name);
}

/* Depth of the tree is bounded by what the engine and scripts build, not by a guest. */
static Object *resolve_partial(Object *from, char **parts, const char *type_name, bool *ambiguous)
{
    Object *found = resolve_parts(from, parts);

    if (found && !type_matches(found, type_name)) {
        found = NULL;
    }
    for (unsigned i = 0; i < object_child_count(from) && !*ambiguous; i++) {
        Object *below = resolve_partial(object_child_at(from, i), parts, type_name, ambiguous);
        if (below && found && below != found) {
            *ambiguous = true;
        }
        found = below ? below : found;
    }
    return *ambiguous ? NULL : found;
}

static bool is_below(const Object *obj, const Object *top)
{
    while (obj && obj != top) {
        obj = obj->parent;
    }
    return obj != NULL;
}

static Object *resolve(Object *from, const char *path, const char *type_name, bool *ambiguous)
{
    g_auto(GStrv) parts = NULL;
    bool unused;

    if (!ambiguous) {
        ambiguous = &unused;
    }
    *ambiguous = false;
    if (!path || !*path) {
        return NULL;
    }
    parts = g_strsplit(path, "/", -1);
    if (*path == '/') {
        Object *obj = resolve_parts(object_get_root(), parts);
        return obj && is_below(obj, from) && type_matches(obj, type_name) ? obj : NULL;
    }
    return resolve_partial(from, parts, type_name, ambiguous);
}

Object *object_resolve_path(const char *path, bool *ambiguous)
{
    return resolve(object_get_root(), path, NULL, ambiguous);
}

Object *object_resolve_path_type(const char *path, const char *type_name, bool *ambiguous)
{
    return resolve(object_get_root(), path, type_name, ambiguous);
}

Object *object_resolve_path_at(Object *from, const char *path, bool *ambiguous)
{
    return resolve(from, path, NULL, ambiguous);
}

/* ---- roots ------------------------------------------------------------------------------- */

static const TypeInfo root_types[] = {
    {
        .name = TYPE_OBJECT,
        .doc = "The root of all types with instances",
        .instance_size = sizeof(Object),
        .class_size = sizeof(ObjectClass),
        .abstract = true,
    },
    {
        .name = TYPE_INTERFACE,
        .doc = "The root of all interfaces",
        .class_size = sizeof(InterfaceClass),
        .abstract = true,
    },
    {
        .name = TYPE_CONTAINER,
        .parent = TYPE_OBJECT,
        .doc = "An object that only has children",
    },
};

static void register_root_types(void)
{
    type_register_static_array(root_types, G_N_ELEMENTS(root_types));
}
type_init(register_root_types)
