/* Where property values are kept: fields of the instance struct, and links tracked from both ends.
 */
#include "engine/qom/prop-value.h"

size_t property_field_size(const Property *p)
{
    switch (p->kind) {
    case PROP_BOOL:
        return sizeof(bool);
    case PROP_INT:
    case PROP_UINT:
        return p->bits / 8;
    case PROP_SIZE:
        return sizeof(uint64_t);
    case PROP_DOUBLE:
        return sizeof(double);
    case PROP_STRING:
        return sizeof(char *);
    case PROP_ENUM:
        return sizeof(int);
    case PROP_LINK:
        return sizeof(Object *);
    default:
        return 0;
    }
}

bool property_is_field(const Property *p)
{
    return p->offset >= 0 && !p->get && !p->set;
}

bool property_is_kept_link(const Property *p)
{
    return p->kind == PROP_LINK && p->offset < 0 && !p->get && !p->set;
}

/* ---- links ------------------------------------------------------------------------------- */

void property_link_drop(LinkRef *link)
{
    Object *target = link->target;

    if (link->prop->offset >= 0) {
        *(Object **)((char *)link->holder + link->prop->offset) = NULL;
    }
    target->linked_from = g_slist_remove(target->linked_from, link);
    g_hash_table_steal(link->holder->links, link->prop->name);
    if (link->counted) {
        object_unref(target);
    }
    g_free(link);
}

void object_property_store_link(Object *obj, const Property *prop, Object *target)
{
    LinkRef *old = obj->links ? g_hash_table_lookup(obj->links, prop->name) : NULL;
    LinkRef *link = NULL;

    if (target) {
        link = g_new0(LinkRef, 1);
        link->holder = obj;
        link->target = target;
        link->prop = prop;
        /* A link to itself would keep an object that is in no tree alive for ever. */
        link->counted = (prop->flags & PROP_LINK_STRONG) && target != obj;
        if (link->counted) {
            object_ref(target);
        }
        target->linked_from = g_slist_prepend(target->linked_from, link);
    }
    if (old) {
        property_link_drop(old); /* after the new reference: both may be the same object */
    }
    if (link) {
        if (!obj->links) {
            obj->links = g_hash_table_new(g_str_hash, g_str_equal);
        }
        g_hash_table_insert(obj->links, (gpointer)(uintptr_t)prop->name, link);
        if (prop->offset >= 0) {
            *(Object **)((char *)obj + prop->offset) = target;
        }
    }
}

void object_props_clear_links_to(Object *obj)
{
    while (obj->linked_from) {
        property_link_drop(obj->linked_from->data);
    }
}

/* ---- fields ------------------------------------------------------------------------------ */

void object_property_store_field(Object *obj, const Property *p, const PropValue *v)
{
    void *field = (char *)obj + p->offset;

    switch (p->kind) {
    case PROP_BOOL:
        *(bool *)field = v->boolean;
        break;
    case PROP_INT:
    case PROP_UINT: {
        /* Range-checked before; the low bytes are the value in both signs. */
        uint64_t u = v->uinteger;
        switch (p->bits) {
        case 8:
            *(uint8_t *)field = (uint8_t)u;
            break;
        case 16:
            *(uint16_t *)field = (uint16_t)u;
            break;
        case 32:
            *(uint32_t *)field = (uint32_t)u;
            break;
        default:
            *(uint64_t *)field = u;
        }
        break;
    }
    case PROP_SIZE:
        *(uint64_t *)field = v->uinteger;
        break;
    case PROP_DOUBLE:
        *(double *)field = v->number;
        break;
    case PROP_STRING: {
        char *old = *(char **)field;
        *(char **)field = g_strdup(v->string);
        g_free(old);
        break;
    }
    case PROP_ENUM:
        *(int *)field = (int)v->integer;
        break;
    case PROP_LINK:
        object_property_store_link(obj, p, v->object);
        break;
    default:
        g_assert_not_reached();
    }
}

void property_field_load(Object *obj, const Property *p, PropValue *out)
{
    const void *field = (char *)obj + p->offset;

    out->kind = p->kind;
    switch (p->kind) {
    case PROP_BOOL:
        out->boolean = *(const bool *)field;
        break;
    case PROP_INT:
        out->integer = p->bits == 8    ? *(const int8_t *)field
                       : p->bits == 16 ? *(const int16_t *)field
                       : p->bits == 32 ? *(const int32_t *)field
                                       : *(const int64_t *)field;
        break;
    case PROP_UINT:
        out->uinteger = p->bits == 8    ? *(const uint8_t *)field
                        : p->bits == 16 ? *(const uint16_t *)field
                        : p->bits == 32 ? *(const uint32_t *)field
                                        : *(const uint64_t *)field;
        break;
    case PROP_SIZE:
        out->uinteger = *(const uint64_t *)field;
        break;
    case PROP_DOUBLE:
        out->number = *(const double *)field;
        break;
    case PROP_STRING:
        out->string = g_strdup(*(char *const *)field);
        break;
    case PROP_ENUM:
        out->integer = *(const int *)field;
        break;
    case PROP_LINK:
        out->object = object_ref(*(Object *const *)field);
        break;
    default:
        g_assert_not_reached();
    }
}
