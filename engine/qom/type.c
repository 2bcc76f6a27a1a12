/*
 * The type registry and the building of classes.
 *
 * A class starts as a copy of its parent's, so inherited methods need no look-up. For every
 * interface it implements it has one InterfaceClass of its own: interfaces that extend another one
 * share a single InterfaceClass of that base (a diamond has one top), which is why a cast to an
 * interface finds the exact one first.
 */
#include "engine/qom/qom_priv.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

G_STATIC_ASSERT(offsetof(TypeImpl, depth) == 0);

static GHashTable *type_table; /* name -> TypeImpl *; engine lock once threads exist */

GQuark object_error_quark(void)
{
    return g_quark_from_static_string("object-error");
}

void qom_bug(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fputs("vmlua: bug in the engine: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

/* ---- the table --------------------------------------------------------------------------- */

static void type_table_add(TypeImpl *type)
{
    if (!type_table) {
        type_table = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_insert(type_table, (gpointer)(uintptr_t)type->name, type);
}

TypeImpl *type_table_get(const char *name)
{
    return type_table && name ? g_hash_table_lookup(type_table, name) : NULL;
}

static gint compare_type_names(gconstpointer a, gconstpointer b)
{
    return strcmp((*(TypeImpl *const *)a)->name, (*(TypeImpl *const *)b)->name);
}

/* All types now known, by name: callbacks may register more. */
static GPtrArray *type_table_sorted(void)
{
    GPtrArray *types = g_ptr_array_new();
    GHashTableIter it;
    gpointer type;

    if (type_table) {
        g_hash_table_iter_init(&it, type_table);
        while (g_hash_table_iter_next(&it, NULL, &type)) {
            g_ptr_array_add(types, type);
        }
    }
    g_ptr_array_sort(types, compare_type_names);
    return types;
}

const char *type_nearest_name(const char *name)
{
    g_autoptr(GPtrArray) types = type_table_sorted();
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (unsigned i = 0; i < types->len; i++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)((TypeImpl *)types->pdata[i])->name);
    }
    return qom_nearest(name, (const char *const *)names->pdata, names->len);
}

static void set_unknown_type(GError **error, const char *prefix, const char *name)
{
    const char *near = type_nearest_name(name);

    g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_UNKNOWN_TYPE, "%s '%s'%s%s%s", prefix, name,
                near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

/* ---- registration ------------------------------------------------------------------------ */

static TypeImpl *type_new(const TypeInfo *info, bool copy)
{
    TypeImpl *type = g_new0(TypeImpl, 1);
    unsigned n = 0;

    type->name = copy ? g_strdup(info->name) : info->name;
    type->doc = copy ? g_strdup(info->doc) : info->doc;
    type->parent_name = copy ? g_strdup(info->parent) : info->parent;
    type->owns_strings = copy;
    type->instance_size = info->instance_size;
    type->class_size = info->class_size;
    type->instance_init = info->instance_init;
    type->instance_post_init = info->instance_post_init;
    type->instance_finalize = info->instance_finalize;
    type->class_init = info->class_init;
    type->class_finalize = info->class_finalize;
    type->class_data = info->class_data;
    type->abstract = info->abstract;
    while (info->interfaces && info->interfaces[n].type) {
        n++;
    }
    type->n_interfaces = n;
    type->interfaces = g_new0(const char *, n);
    for (unsigned i = 0; i < n; i++) {
        const char *name = info->interfaces[i].type;
        type->interfaces[i] = copy ? g_strdup(name) : name;
    }
    return type;
}

static void type_free(TypeImpl *type)
{
    if (type->klass) {
        if (type->class_finalize) {
            type->class_finalize(type->klass);
        }
        class_props_free(type->klass);
        g_slist_free_full(type->klass->interfaces, g_free);
        g_free(type->klass);
    }
    if (type->owns_strings) {
        for (unsigned i = 0; i < type->n_interfaces; i++) {
            g_free((gpointer)(uintptr_t)type->interfaces[i]);
        }
        g_free((gpointer)(uintptr_t)type->name);
        g_free((gpointer)(uintptr_t)type->doc);
        g_free((gpointer)(uintptr_t)type->parent_name);
    }
    g_free(type->interfaces);
    g_free(type);
}

TypeImpl *type_register_static(const TypeInfo *info)
{
    TypeImpl *type, *known;

    if (!info->name || !*info->name) {
        qom_bug("a type without a name (parent '%s')", info->parent ? info->parent : "none");
    }
    known = type_table_get(info->name);
    if (known) {
        qom_bug("type '%s' (parent '%s') is registered twice, first with parent '%s'", info->name,
                info->parent ? info->parent : "none",
                known->parent_name ? known->parent_name : "none");
    }
    type = type_new(info, false);
    type_table_add(type);
    return type;
}

void type_register_static_array(const TypeInfo *infos, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        type_register_static(&infos[i]);
    }
}

TypeImpl *type_register_internal(const TypeInfo *info, GError **error)
{
    TypeImpl *type;

    if (!info->name || !*info->name || strchr(info->name, '/')) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                    "a type needs a name that is not empty and has no '/', not '%s'",
                    info->name ? info->name : "");
        return NULL;
    }
    if (!info->parent) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE, "type '%s' has no parent",
                    info->name);
        return NULL;
    }
    if (type_table_get(info->name)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_DUPLICATE_TYPE,
                    "type '%s' is registered already", info->name);
        return NULL;
    }
    type = type_new(info, true);
    type_table_add(type);
    return type;
}

TypeImpl *type_register_checked(const TypeInfo *info, GError **error)
{
    TypeImpl *type = type_register_internal(info, error);

    if (type && !type_initialize(type, error)) {
        g_hash_table_remove(type_table, type->name);
        type_free(type);
        return NULL;
    }
    return type;
}

void type_table_free(void)
{
    GPtrArray *types = type_table_sorted();

    /* Leaves first: a class_finalize may look at its parent's class. */
    for (int depth = OBJECT_CLASS_DEPTH; depth >= 0; depth--) {
        for (unsigned i = 0; i < types->len; i++) {
            TypeImpl *type = types->pdata[i];
            if (type && (int)type->depth == depth) {
                g_hash_table_remove(type_table, type->name);
                type_free(type);
                types->pdata[i] = NULL;
            }
        }
    }
    g_ptr_array_free(types, true);
    g_clear_pointer(&type_table, g_hash_table_destroy);
}

/* ---- questions --------------------------------------------------------------------------- */

const char *type_get_name(const TypeImpl *type)
{
    return type->name;
}

const char *type_get_doc(const TypeImpl *type)
{
    return type->doc;
}

TypeImpl *type_get_parent(TypeImpl *type)
{
    return type->parent ? type->parent : type_table_get(type->parent_name);
}

bool type_is_abstract(const TypeImpl *type)
{
    return type->abstract;
}

size_t type_instance_size(const TypeImpl *type)
{
    return type->instance_size;
}

static bool is_ancestor_bounded(TypeImpl *type, TypeImpl *target, unsigned budget)
{
    for (; type && budget; type = type_get_parent(type), budget--) {
        if (type == target) {
            return true;
        }
        for (unsigned i = 0; i < type->n_interfaces; i++) {
            if (is_ancestor_bounded(type_table_get(type->interfaces[i]), target, budget - 1)) {
                return true;
            }
        }
    }
    return false;
}

/* Works before the classes are built, so it is bounded against types that are their own ancestor.
 */
bool type_is_ancestor(TypeImpl *type, TypeImpl *target)
{
    return target && is_ancestor_bounded(type, target, OBJECT_CLASS_DEPTH + 1);
}

/* ---- building classes -------------------------------------------------------------------- */

static InterfaceClass *class_find_interface(const ObjectClass *klass, const TypeImpl *iface)
{
    for (GSList *l = klass->interfaces; l; l = l->next) {
        InterfaceClass *ic = l->data;
        if (ic->interface_type == iface) {
            return ic;
        }
    }
    return NULL;
}

/* `from` is the parent's implementation, or the interface's own class with its default methods. */
static void class_add_interface(ObjectClass *klass, TypeImpl *iface, const void *from)
{
    InterfaceClass *ic;

    if (class_find_interface(klass, iface)) {
        return;
    }
    ic = g_malloc0(iface->class_size);
    memcpy(ic, from, iface->class_size);
    ic->parent_class.interfaces = NULL;
    ic->parent_class.props = NULL;
    ic->parent_class.reserved = NULL;
    ic->concrete_class = klass;
    ic->interface_type = iface;
    klass->interfaces = g_slist_append(klass->interfaces, ic);
}

/* The interface and those it extends, the topmost first. */
static void class_add_interface_chain(ObjectClass *klass, TypeImpl *iface)
{
    for (unsigned d = 1; d <= iface->depth; d++) {
        TypeImpl *t = iface->klass->ancestors[d];
        class_add_interface(klass, t, t->klass);
    }
}

static bool is_interface_class(const ObjectClass *klass)
{
    return strcmp(klass->ancestors[0]->name, TYPE_INTERFACE) == 0;
}

/* Resolves what the type names, and sizes. Changes nothing but the type's own numbers. */
static bool type_resolve(TypeImpl *type, GError **error)
{
    TypeImpl *parent = NULL;
    size_t least_class = sizeof(ObjectClass);
    size_t least_instance = 0;

    if (type->parent_name) {
        parent = type_table_get(type->parent_name);
        if (!parent) {
            g_autofree char *prefix = g_strdup_printf("type '%s': unknown parent", type->name);
            set_unknown_type(error, prefix, type->parent_name);
            return false;
        }
        if (!type_initialize(parent, error)) {
            return false;
        }
        least_class = parent->class_size;
        least_instance = parent->instance_size;
        if (parent->depth + 1 >= OBJECT_CLASS_DEPTH) {
            g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                        "type '%s': more than %d levels of parents", type->name,
                        OBJECT_CLASS_DEPTH);
            return false;
        }
    }
    if ((type->class_size && type->class_size < least_class) ||
        (type->instance_size && type->instance_size < least_instance)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                    "type '%s': class size %zu or instance size %zu is smaller than that of its "
                    "parent '%s' (%zu, %zu)",
                    type->name, type->class_size, type->instance_size,
                    parent ? parent->name : "none", least_class, least_instance);
        return false;
    }
    if (parent && is_interface_class(parent->klass) &&
        (type->instance_size || type->n_interfaces)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                    "interface '%s' cannot have instances or implement interfaces", type->name);
        return false;
    }
    for (unsigned i = 0; i < type->n_interfaces; i++) {
        TypeImpl *iface = type_table_get(type->interfaces[i]);
        if (!iface) {
            g_autofree char *prefix = g_strdup_printf("type '%s': unknown interface", type->name);
            set_unknown_type(error, prefix, type->interfaces[i]);
            return false;
        }
        if (!type_initialize(iface, error)) {
            return false;
        }
        if (!is_interface_class(iface->klass)) {
            g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                        "type '%s': '%s' is not an interface", type->name, iface->name);
            return false;
        }
    }
    type->parent = parent;
    type->depth = parent ? parent->depth + 1 : 0;
    if (!type->class_size) {
        type->class_size = least_class;
    }
    if (!type->instance_size) {
        type->instance_size = least_instance;
    }
    return true;
}

static void type_build(TypeImpl *type)
{
    TypeImpl *parent = type->parent;
    ObjectClass *klass = g_malloc0(type->class_size);

    if (parent) {
        memcpy(klass, parent->klass, parent->class_size);
    }
    klass->type = type;
    klass->ancestors[type->depth] = type;
    klass->interfaces = NULL;
    klass->props = NULL;
    klass->reserved = NULL;
    if (parent && is_interface_class(klass)) {
        type->abstract = true;
    }
    for (GSList *l = parent ? parent->klass->interfaces : NULL; l; l = l->next) {
        InterfaceClass *ic = l->data;
        class_add_interface(klass, ic->interface_type, ic);
    }
    for (unsigned i = 0; i < type->n_interfaces; i++) {
        class_add_interface_chain(klass, type_table_get(type->interfaces[i]));
    }
    type->klass = klass;
    if (type->class_init) {
        type->class_init(klass, type->class_data);
    }
    class_props_build(klass, parent ? parent->klass : NULL);
}

bool type_initialize(TypeImpl *type, GError **error)
{
    bool ok;

    if (type->klass) {
        return true;
    }
    if (type->initializing) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_TYPE,
                    "type '%s' is its own ancestor or interface", type->name);
        return false;
    }
    type->initializing = true;
    ok = type_resolve(type, error);
    if (ok) {
        type_build(type);
    }
    type->initializing = false;
    return ok;
}

/* ---- classes ----------------------------------------------------------------------------- */

ObjectClass *object_class_by_name(const char *name)
{
    TypeImpl *type = type_table_get(name);

    return type && type_initialize(type, NULL) ? type->klass : NULL;
}

ObjectClass *object_class_lookup(const char *name, GError **error)
{
    TypeImpl *type = type_table_get(name);

    if (!type) {
        set_unknown_type(error, "unknown type", name ? name : "");
        return NULL;
    }
    return type_initialize(type, error) ? type->klass : NULL;
}

const char *object_class_get_name(const ObjectClass *klass)
{
    return klass->type->name;
}

ObjectClass *object_class_get_parent(ObjectClass *klass)
{
    return klass->type->parent ? klass->type->parent->klass : NULL;
}

bool object_class_is_abstract(const ObjectClass *klass)
{
    return klass->type->abstract;
}

/* The class' own ancestor of that name, found without the type table: callable on any thread. */
static TypeImpl *class_find_ancestor(const ObjectClass *klass, const char *type_name)
{
    for (int d = (int)klass->type->depth; d >= 0; d--) {
        const char *name = klass->ancestors[d]->name;
        if (name == type_name || strcmp(name, type_name) == 0) {
            return klass->ancestors[d];
        }
    }
    return NULL;
}

static InterfaceClass *class_find_interface_name(const ObjectClass *klass, const char *type_name)
{
    for (GSList *l = klass->interfaces; l; l = l->next) {
        InterfaceClass *ic = l->data;
        if (strcmp(ic->interface_type->name, type_name) == 0) {
            return ic;
        }
    }
    /* Every implemented interface has its own entry, except the root of them all. */
    return klass->interfaces && strcmp(type_name, TYPE_INTERFACE) == 0 ? klass->interfaces->data
                                                                       : NULL;
}

ObjectClass *object_class_dynamic_cast(ObjectClass *klass, const char *type_name)
{
    if (!klass) {
        return NULL;
    }
    if (class_find_ancestor(klass, type_name)) {
        return klass;
    }
    return (ObjectClass *)class_find_interface_name(klass, type_name);
}

ObjectClass *object_class_dynamic_cast_assert(ObjectClass *klass, const char *type_name,
                                              const char *file, int line)
{
    ObjectClass *found = object_class_dynamic_cast(klass, type_name);

    if (klass && !found) {
        qom_bug("%s:%d: class '%s' is not a '%s'", file, line, klass->type->name, type_name);
    }
    return found;
}

Object *object_dynamic_cast(Object *obj, const char *type_name)
{
    return obj && object_class_dynamic_cast(obj->klass, type_name) ? obj : NULL;
}

Object *object_dynamic_cast_assert(Object *obj, const char *type_name, const char *file, int line)
{
    if (obj && !object_class_dynamic_cast(obj->klass, type_name)) {
        qom_bug("%s:%d: object '%s' of type '%s' is not a '%s'", file, line, object_get_name(obj),
                object_get_typename(obj), type_name);
    }
    return obj;
}

void *object_cast_slow(void *obj, const char *type_name, TypeImpl **slot, const char *where)
{
    TypeImpl *type;

    if (!obj) {
        return NULL;
    }
    type = class_find_ancestor(((Object *)obj)->klass, type_name);
    if (type) {
        __atomic_store_n(slot, type, __ATOMIC_RELAXED);
        return obj;
    }
    return object_dynamic_cast_assert(obj, type_name, where, 0);
}

void *object_class_cast_slow(void *klass, const char *type_name, TypeImpl **slot, const char *where)
{
    TypeImpl *type;

    if (!klass) {
        return NULL;
    }
    type = class_find_ancestor(klass, type_name);
    if (type) {
        __atomic_store_n(slot, type, __ATOMIC_RELAXED);
        return klass;
    }
    return object_class_dynamic_cast_assert(klass, type_name, where, 0);
}

void object_class_foreach(void (*fn)(ObjectClass *klass, void *opaque), const char *implements_type,
                          bool include_abstract, void *opaque)
{
    g_autoptr(GPtrArray) types = type_table_sorted();
    TypeImpl *target = implements_type ? type_table_get(implements_type) : NULL;

    if (implements_type && !target) {
        return;
    }
    for (unsigned i = 0; i < types->len; i++) {
        TypeImpl *type = types->pdata[i];
        if (target && !type_is_ancestor(type, target)) {
            continue;
        }
        /* Whether it is abstract is settled by building it; a type whose parent is unknown is not
         * a class (yet). */
        if (type_initialize(type, NULL) && (include_abstract || !type->abstract)) {
            fn(type->klass, opaque);
        }
    }
}

static void prepend_class(ObjectClass *klass, void *opaque)
{
    GSList **list = opaque;

    *list = g_slist_prepend(*list, klass);
}

GSList *object_class_get_list(const char *implements_type, bool include_abstract)
{
    GSList *list = NULL;

    object_class_foreach(prepend_class, implements_type, include_abstract, &list);
    return g_slist_reverse(list);
}
