/* Shared by the files of engine/qom only. */
#pragma once

#include "engine/qom/object.h"

struct TypeImpl {
    unsigned depth; /* first: type_depth() of object.h reads it */
    const char *name;
    const char *doc;
    const char *parent_name;
    size_t instance_size; /* as registered until the class is built, then never 0 for instances */
    size_t class_size;
    void (*instance_init)(Object *obj);
    void (*instance_post_init)(Object *obj);
    void (*instance_finalize)(Object *obj);
    void (*class_init)(ObjectClass *klass, const void *data);
    void (*class_finalize)(ObjectClass *klass);
    const void *class_data;
    bool abstract;
    bool owns_strings; /* made by type_register_internal/_checked */
    bool initializing;
    unsigned n_interfaces;
    const char **interfaces;
    TypeImpl *parent; /* known once the class is built */
    ObjectClass *klass;
};

/* What a finished class knows of its properties, inherited ones included. */
typedef struct ClassProps {
    GHashTable *all;    /* name -> const Property *, the leaf-most of each name */
    GPtrArray *fields;  /* defaults that are stored into fields before instance_init */
    GPtrArray *setters; /* defaults that go through `set` after instance_init */
    GPtrArray *strings; /* offsets of string fields: freed after instance_finalize */
} ClassProps;

/* One link from a holder's property to a target; in holder->links and target->linked_from. */
typedef struct LinkRef {
    Object *holder;
    Object *target;
    const Property *prop;
    bool counted;
} LinkRef;

void class_props_build(ObjectClass *klass, const ObjectClass *parent);
void class_props_free(ObjectClass *klass);
void object_props_init_fields(Object *obj);
void object_props_init_setters(Object *obj);
/* Frees strings and drops links; after instance_finalize. */
void object_props_finalize(Object *obj);
/* Makes every link that points at obj NULL. */
void object_props_clear_links_to(Object *obj);
void type_table_free(void);

/* Private doubles of core's helpers: qom includes nothing of ours. */
bool qom_parse_size(const char *text, uint64_t *bytes);
const char *qom_nearest(const char *word, const char *const *words, unsigned n);
G_NORETURN void qom_bug(const char *format, ...) G_GNUC_PRINTF(1, 2);
