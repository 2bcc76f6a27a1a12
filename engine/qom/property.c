/* Properties of classes and objects: look-up, fields, defaults, links, get and set. */
#include "engine/qom/prop-value.h"

#include <string.h>

/* ---- declaring --------------------------------------------------------------------------- */

/* A wrong declaration is a bug of whoever wrote it; scripts' are checked by the bindings. NULL: it
 * is fine. */
static const char *property_defect(const Property *p, size_t instance_size)
{
    unsigned bits = p->bits;

    if (!p->name || !*p->name) {
        return "has no name";
    }
    if ((p->kind == PROP_INT || p->kind == PROP_UINT) && bits != 8 && bits != 16 && bits != 32 &&
        bits != 64 && (bits || property_is_field(p))) {
        return "is an integer of a strange width";
    }
    if (p->kind == PROP_ENUM && (!p->words || !p->words[0])) {
        return "is an enum without words";
    }
    if (property_is_field(p)) {
        size_t size = property_field_size(p);
        if (!size || (size_t)p->offset + size > instance_size) {
            return "is a field outside the instance, or of a kind that cannot be one";
        }
    } else if (!p->get && !p->set && !property_is_kept_link(p) && p->kind != PROP_CHILD) {
        return "has neither a field nor functions";
    }
    if (p->has_default && (p->def.kind != p->kind || p->kind == PROP_LINK ||
                           p->kind == PROP_CHILD || (!property_is_field(p) && !p->set))) {
        return "has a default of another kind, or that nothing can store";
    }
    return NULL;
}

static void property_check(const Property *p, const char *type_name, size_t instance_size)
{
    const char *defect = property_defect(p, instance_size);

    if (defect) {
        qom_bug("property '%s' of type '%s' %s", p->name ? p->name : "", type_name, defect);
    }
}

void object_class_add_properties(ObjectClass *klass, const Property *props, size_t n)
{
    if (klass->reserved) {
        qom_bug("properties are added to class '%s' after its class_init", klass->type->name);
    }
    if (!klass->props) {
        klass->props = g_hash_table_new(g_str_hash, g_str_equal);
    }
    for (size_t i = 0; i < n; i++) {
        property_check(&props[i], klass->type->name, klass->type->instance_size);
        if (!g_hash_table_insert(klass->props, (gpointer)(uintptr_t)props[i].name,
                                 (gpointer)(uintptr_t)&props[i])) {
            qom_bug("class '%s' declares property '%s' twice", klass->type->name, props[i].name);
        }
    }
}

static gint compare_prop_names(gconstpointer a, gconstpointer b)
{
    return strcmp((*(const Property *const *)a)->name, (*(const Property *const *)b)->name);
}

static GPtrArray *sorted_props(GHashTable *table)
{
    GPtrArray *props = g_ptr_array_new();
    GHashTableIter it;
    gpointer p;

    if (table) {
        g_hash_table_iter_init(&it, table);
        while (g_hash_table_iter_next(&it, NULL, &p)) {
            g_ptr_array_add(props, p);
        }
    }
    g_ptr_array_sort(props, compare_prop_names);
    return props;
}

void class_props_build(ObjectClass *klass, const ObjectClass *parent)
{
    ClassProps *cp = g_new0(ClassProps, 1);
    g_autoptr(GPtrArray) order = NULL;
    GHashTableIter it;
    gpointer name, prop;

    cp->all = g_hash_table_new(g_str_hash, g_str_equal);
    cp->fields = g_ptr_array_new();
    cp->setters = g_ptr_array_new();
    cp->strings = g_ptr_array_new();
    if (parent) {
        const ClassProps *pp = parent->reserved;

        g_hash_table_iter_init(&it, pp->all);
        while (g_hash_table_iter_next(&it, &name, &prop)) {
            g_hash_table_insert(cp->all, name, prop);
        }
        /* Even one whose name a subclass repeats with another field. */
        g_ptr_array_extend(cp->strings, pp->strings, NULL, NULL);
    }
    order = sorted_props(klass->props);
    for (unsigned i = 0; i < order->len; i++) {
        const Property *p = order->pdata[i];

        g_hash_table_replace(cp->all, (gpointer)(uintptr_t)p->name, order->pdata[i]);
        if (p->kind == PROP_STRING && p->offset >= 0 &&
            !g_ptr_array_find(cp->strings, GSIZE_TO_POINTER(p->offset), NULL)) {
            g_ptr_array_add(cp->strings, GSIZE_TO_POINTER(p->offset));
        }
    }
    g_ptr_array_unref(g_steal_pointer(&order));
    order = sorted_props(cp->all);
    for (unsigned i = 0; i < order->len; i++) {
        const Property *p = order->pdata[i];

        if (p->has_default) {
            g_ptr_array_add(property_is_field(p) ? cp->fields : cp->setters, order->pdata[i]);
        }
    }
    klass->reserved = cp;
}

void class_props_free(ObjectClass *klass)
{
    ClassProps *cp = klass->reserved;

    g_clear_pointer(&klass->props, g_hash_table_destroy);
    if (cp) {
        g_hash_table_destroy(cp->all);
        g_ptr_array_free(cp->fields, true);
        g_ptr_array_free(cp->setters, true);
        g_ptr_array_free(cp->strings, true);
        g_free(cp);
    }
}

static void free_property(gpointer data)
{
    Property *p = data;

    g_free((gpointer)(uintptr_t)p->name);
    g_free(p);
}

bool object_add_property(Object *obj, const Property *prop, GError **error)
{
    Property *copy;

    property_check(prop, object_get_typename(obj), obj->klass->type->instance_size);
    if (object_find_property(obj, prop->name)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_DUPLICATE_NAME,
                    "%s has a property '%s' already", object_get_name(obj), prop->name);
        return false;
    }
    if (!obj->props) {
        obj->props = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, free_property);
    }
    copy = g_memdup2(prop, sizeof(*prop));
    copy->name = g_strdup(prop->name);
    g_hash_table_insert(obj->props, (gpointer)(uintptr_t)copy->name, copy);
    return true;
}

const Property *object_class_find_property(ObjectClass *klass, const char *name)
{
    const ClassProps *cp = klass->reserved;

    return cp ? g_hash_table_lookup(cp->all, name) : NULL;
}

const Property *object_find_property(Object *obj, const char *name)
{
    const Property *p = obj->props ? g_hash_table_lookup(obj->props, name) : NULL;

    return p ? p : object_class_find_property(obj->klass, name);
}

void object_class_property_foreach(ObjectClass *klass,
                                   void (*fn)(const Property *, ObjectClass *owner, void *),
                                   void *opaque)
{
    for (ObjectClass *c = klass; c; c = object_class_get_parent(c)) {
        g_autoptr(GPtrArray) props = sorted_props(c->props);

        for (unsigned i = 0; i < props->len; i++) {
            const Property *p = props->pdata[i];
            if (object_class_find_property(klass, p->name) == p) {
                fn(p, c, opaque);
            }
        }
    }
}

typedef struct ForeachCall {
    void (*fn)(const Property *, void *);
    void *opaque;
} ForeachCall;

static void foreach_class_property(const Property *p, ObjectClass *owner, void *opaque)
{
    ForeachCall *call = opaque;

    call->fn(p, call->opaque);
}

void object_property_foreach(Object *obj, void (*fn)(const Property *, void *), void *opaque)
{
    g_autoptr(GPtrArray) props = sorted_props(obj->props);
    ForeachCall call = { fn, opaque };

    for (unsigned i = 0; i < props->len; i++) {
        fn(props->pdata[i], opaque);
    }
    object_class_property_foreach(obj->klass, foreach_class_property, &call);
}

/* ---- defaults and the end -------------------------------------------------------------------- */

void object_props_init_fields(Object *obj)
{
    const ClassProps *cp = obj->klass->reserved;

    for (unsigned i = 0; i < cp->fields->len; i++) {
        const Property *p = cp->fields->pdata[i];
        object_property_store_field(obj, p, &p->def);
    }
}

void object_props_init_setters(Object *obj)
{
    const ClassProps *cp = obj->klass->reserved;

    for (unsigned i = 0; i < cp->setters->len; i++) {
        const Property *p = cp->setters->pdata[i];
        g_autoptr(GError) error = NULL;
        PropValue v;

        if (!object_property_convert(obj, p, &p->def, &v, &error) || !p->set(obj, p, &v, &error)) {
            qom_bug("the default of property '%s' of type '%s' is refused: %s", p->name,
                    object_get_typename(obj), error ? error->message : "no reason given");
        }
        prop_value_clear(&v);
    }
}

void object_props_finalize(Object *obj)
{
    const ClassProps *cp = obj->klass->reserved;

    if (obj->links) {
        GHashTableIter it;
        gpointer link;

        g_hash_table_iter_init(&it, obj->links);
        while (g_hash_table_iter_next(&it, NULL, &link)) {
            property_link_drop(link);
            g_hash_table_iter_init(&it, obj->links);
        }
        g_clear_pointer(&obj->links, g_hash_table_destroy);
    }
    for (unsigned i = 0; i < cp->strings->len; i++) {
        g_clear_pointer((char **)((char *)obj + GPOINTER_TO_SIZE(cp->strings->pdata[i])), g_free);
    }
    g_clear_pointer(&obj->props, g_hash_table_destroy);
}

/* ---- get and set ------------------------------------------------------------------------- */

static void add_prop_name(const Property *p, void *opaque)
{
    g_ptr_array_add(opaque, (gpointer)(uintptr_t)p->name);
}

static const Property *find_or_fail(Object *obj, const char *name, GError **error)
{
    const Property *p = object_find_property(obj, name);

    if (!p) {
        g_autoptr(GPtrArray) names = g_ptr_array_new();
        const char *near;

        object_property_foreach(obj, add_prop_name, names);
        near = qom_nearest(name, (const char *const *)names->pdata, names->len);
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_UNKNOWN_PROPERTY,
                    "%s: a '%s' has no property '%s'%s%s%s", object_get_name(obj),
                    object_get_typename(obj), name, near ? " (did you mean '" : "",
                    near ? near : "", near ? "'?)" : "");
    }
    return p;
}

static bool get_value(Object *obj, const Property *p, PropValue *out, GError **error)
{
    *out = (PropValue){ .kind = p->kind };
    if (p->get) {
        bool ok = p->get(obj, p, out, error);
        if (!ok) {
            *out = (PropValue){ 0 };
        }
        return ok;
    }
    if (p->offset >= 0 && property_field_size(p)) {
        property_field_load(obj, p, out);
        return true;
    }
    if (p->kind == PROP_CHILD) {
        out->object = object_ref(object_get_child(obj, p->name));
        return true;
    }
    if (p->kind == PROP_LINK) {
        LinkRef *link = obj->links ? g_hash_table_lookup(obj->links, p->name) : NULL;
        out->object = object_ref(link ? link->target : NULL);
        return true;
    }
    g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED, "%s: property '%s' cannot be read",
                object_get_name(obj), p->name);
    *out = (PropValue){ 0 };
    return false;
}

bool object_property_get(Object *obj, const char *name, PropValue *out, GError **error)
{
    const Property *p = find_or_fail(obj, name, error);

    if (!p) {
        *out = (PropValue){ 0 };
        return false;
    }
    return get_value(obj, p, out, error);
}

static bool check_settable(Object *obj, const Property *p, GError **error)
{
    if ((p->flags & PROP_READ_ONLY) || p->kind == PROP_CHILD || (p->get && !p->set)) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_READ_ONLY, "%s: property '%s' is read-only",
                    object_get_name(obj), p->name);
        return false;
    }
    if ((p->flags & PROP_UNTIL_REALIZED) && obj->realized) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_REALIZED,
                    "%s: property '%s' cannot change once the device is realized",
                    object_get_name(obj), p->name);
        return false;
    }
    return true;
}

static bool set_converted(Object *obj, const Property *p, const PropValue *in, GError **error)
{
    PropValue v;
    bool ok;

    if (!object_property_convert(obj, p, in, &v, error)) {
        return false;
    }
    if (p->set) {
        ok = p->set(obj, p, &v, error);
    } else if (property_is_kept_link(p)) {
        object_property_store_link(obj, p, v.object);
        ok = true;
    } else {
        object_property_store_field(obj, p, &v);
        ok = true;
    }
    prop_value_clear(&v);
    return ok;
}

bool object_property_set(Object *obj, const char *name, const PropValue *in, GError **error)
{
    const Property *p = find_or_fail(obj, name, error);

    return p && check_settable(obj, p, error) && set_converted(obj, p, in, error);
}

bool object_property_parse(Object *obj, const char *name, const char *text, GError **error)
{
    const Property *p = find_or_fail(obj, name, error);
    PropValue v;
    bool ok;

    if (!p || !check_settable(obj, p, error) || !property_value_parse(obj, p, text, &v, error)) {
        return false;
    }
    ok = set_converted(obj, p, &v, error);
    prop_value_clear(&v);
    return ok;
}

bool object_property_set_bool(Object *obj, const char *name, bool value, GError **error)
{
    return object_property_set(obj, name, &(PropValue){ .kind = PROP_BOOL, .boolean = value },
                               error);
}

bool object_property_set_uint(Object *obj, const char *name, uint64_t value, GError **error)
{
    return object_property_set(obj, name, &(PropValue){ .kind = PROP_UINT, .uinteger = value },
                               error);
}

bool object_property_set_int(Object *obj, const char *name, int64_t value, GError **error)
{
    return object_property_set(obj, name, &(PropValue){ .kind = PROP_INT, .integer = value },
                               error);
}

bool object_property_set_str(Object *obj, const char *name, const char *value, GError **error)
{
    PropValue v = { .kind = PROP_STRING, .string = (char *)(uintptr_t)value };

    return object_property_set(obj, name, &v, error);
}

bool object_property_set_link(Object *obj, const char *name, Object *value, GError **error)
{
    return object_property_set(obj, name, &(PropValue){ .kind = PROP_LINK, .object = value },
                               error);
}

/* Reads a property as if it were one of kind `as`. */
static bool get_as(Object *obj, const char *name, PropKind as, PropValue *out, GError **error)
{
    const Property wanted = { .name = name, .kind = as, .bits = 64, .offset = -1 };
    PropValue v;
    bool ok;

    *out = (PropValue){ 0 };
    if (!object_property_get(obj, name, &v, error)) {
        return false;
    }
    if (as == PROP_STRING && v.kind != PROP_STRING) {
        out->kind = PROP_STRING;
        out->string = prop_value_to_string(&v, object_find_property(obj, name));
        ok = true;
    } else {
        ok = object_property_convert(obj, &wanted, &v, out, error);
    }
    prop_value_clear(&v);
    return ok;
}

uint64_t object_property_get_uint(Object *obj, const char *name, GError **error)
{
    PropValue v;

    return get_as(obj, name, PROP_UINT, &v, error) ? v.uinteger : 0;
}

int64_t object_property_get_int(Object *obj, const char *name, GError **error)
{
    PropValue v;

    return get_as(obj, name, PROP_INT, &v, error) ? v.integer : 0;
}

bool object_property_get_bool(Object *obj, const char *name, GError **error)
{
    PropValue v;

    return get_as(obj, name, PROP_BOOL, &v, error) && v.boolean;
}

char *object_property_get_str(Object *obj, const char *name, GError **error)
{
    PropValue v;

    return get_as(obj, name, PROP_STRING, &v, error) ? v.string : NULL;
}

Object *object_property_get_link(Object *obj, const char *name, GError **error)
{
    PropValue v;
    Object *target;

    if (!get_as(obj, name, PROP_LINK, &v, error)) {
        return NULL;
    }
    target = v.object;
    prop_value_clear(&v); /* still held by whoever the link or child is kept by */
    return target;
}

typedef struct RequiredCheck {
    Object *obj;
    const char *missing;
} RequiredCheck;

static void check_one_required(const Property *p, void *opaque)
{
    RequiredCheck *check = opaque;
    PropValue v;
    bool set;

    if (!(p->flags & PROP_REQUIRED) || check->missing) {
        return;
    }
    set = get_value(check->obj, p, &v, NULL);
    if (set && p->kind == PROP_STRING) {
        set = v.string != NULL;
    } else if (set && (p->kind == PROP_LINK || p->kind == PROP_CHILD)) {
        set = v.object != NULL;
    } else if (set && p->kind == PROP_LIST) {
        set = v.list && v.list->len;
    }
    prop_value_clear(&v);
    if (!set) {
        check->missing = p->name;
    }
}

bool object_check_required(Object *obj, GError **error)
{
    RequiredCheck check = { obj, NULL };

    object_property_foreach(obj, check_one_required, &check);
    if (check.missing) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_FAILED, "%s: property '%s' must be set",
                    object_get_name(obj), check.missing);
        return false;
    }
    return true;
}
