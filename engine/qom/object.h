/*
 * The object model: types, classes, instances, interfaces, one tree of paths.
 *
 * Names and meaning follow QEMU's QOM, because its users know them. What is different: a cast is a
 * compare of a class pointer's ancestor table (no string), properties are typed values rather than
 * visitors, and each carries a doc line, a default and a "settable until realized" flag.
 *
 * Locking: the type registry is filled before threads exist and later only under the engine lock.
 * Reference counts are atomic; the last reference is dropped under the engine lock. The tree and
 * properties are guarded by the engine lock. Casts, typed or by name, need no lock.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/qom/module.h"

typedef struct TypeImpl TypeImpl;
typedef struct TypeInfo TypeInfo;
typedef struct Object Object;
typedef struct ObjectClass ObjectClass;
typedef struct InterfaceClass InterfaceClass;
typedef struct Property Property;
typedef struct PropertyInfo PropertyInfo;
typedef struct PropValue PropValue;

#define TYPE_OBJECT    "object"
#define TYPE_INTERFACE "interface"
#define TYPE_CONTAINER "container" /* an object that only has children */

/* ---- types ------------------------------------------------------------------------------- */

typedef struct InterfaceInfo {
    const char *type; /* a descendant of TYPE_INTERFACE; a list of them ends with { NULL } */
} InterfaceInfo;

struct TypeInfo {
    const char *name;
    const char *parent; /* NULL: only TYPE_OBJECT and TYPE_INTERFACE; others name one */
    const char *doc;    /* one line, for humans: lists and help */

    size_t instance_size;                    /* 0: the parent's */
    void (*instance_init)(Object *obj);      /* parents first; may not fail */
    void (*instance_post_init)(Object *obj); /* after all instance_init, parents first */
    void (*instance_finalize)(Object *obj);  /* children first (leaf type to root) */

    bool abstract;
    size_t class_size; /* 0: the parent's */
    void (*class_init)(ObjectClass *klass, const void *data);
    void (*class_finalize)(ObjectClass *klass);
    const void *class_data; /* handed to class_init */

    /* May be NULL. A class that implements an interface implements all that it extends, each once:
     * where two interfaces extend a third, both and the class share one implementation of it.
     * Methods are therefore called through the cast to the interface that declares them. */
    const InterfaceInfo *interfaces;
};

/* Errors of the object model. Domain OBJECT_ERROR. */
typedef enum {
    OBJECT_ERROR_UNKNOWN_TYPE,
    OBJECT_ERROR_DUPLICATE_TYPE,
    OBJECT_ERROR_BAD_TYPE, /* abstract, a size smaller than the parent's, not an interface, a cycle
                            */
    OBJECT_ERROR_UNKNOWN_PROPERTY,
    OBJECT_ERROR_BAD_VALUE, /* wrong kind, out of range, not one of the enum's words, wrong link
                               type */
    OBJECT_ERROR_READ_ONLY,
    OBJECT_ERROR_REALIZED, /* settable only until realized */
    OBJECT_ERROR_DUPLICATE_NAME,
    OBJECT_ERROR_NOT_FOUND,
    OBJECT_ERROR_FAILED,
} ObjectError;
#define OBJECT_ERROR (object_error_quark())
GQuark object_error_quark(void);

/* Registers a type whose TypeInfo (and the strings in it) outlive the process. A duplicate name is
 * a bug in the engine and aborts with both names; `type_register_internal` is the fallible form. */
TypeImpl *type_register_static(const TypeInfo *info);
void type_register_static_array(const TypeInfo *infos, size_t n);
/* Copies `info` and its strings (used for types that scripts make). NULL + error on a duplicate
 * name. The parent need not exist yet: it is looked up when the class is first needed. */
TypeImpl *type_register_internal(const TypeInfo *info, GError **error);
/* Like type_register_internal, but also checks at once that parent and interfaces exist and sizes
 * fit, by building the class; nothing is registered when that fails. */
TypeImpl *type_register_checked(const TypeInfo *info, GError **error);

TypeImpl *type_table_get(const char *name); /* NULL when unknown */
const char *type_get_name(const TypeImpl *type);
const char *type_get_doc(const TypeImpl *type);
TypeImpl *type_get_parent(TypeImpl *type); /* NULL for roots and unknown parents */
bool type_is_abstract(const TypeImpl *type);
size_t type_instance_size(const TypeImpl *type); /* of a type whose class is built */
bool type_is_ancestor(TypeImpl *type,
                      TypeImpl *target); /* also true for interfaces and for itself */
/* Builds the class once: parents first, then interfaces, then class_init. false + error on an
 * unknown parent. */
bool type_initialize(TypeImpl *type, GError **error);
/* The known type name nearest to a misspelt one, NULL if none is near. */
const char *type_nearest_name(const char *name);
/* At the very end of the process: drops the root, runs class_finalize, forgets all types. Nothing
 * of the object model may be used afterwards. */
void object_model_finalize(void);

/* ---- classes ----------------------------------------------------------------------------- */

/* Saved state has lengths of names in bytes. */
#define OBJECT_NAME_MAX    200 /* bytes of an object's, a property's, a field's name */
#define OBJECT_TYPE_MAX    128 /* of a type's: names of its instances begin with it */
#define OBJECT_TREE_DEPTH  256 /* below a root: what walks a tree may recurse */
#define OBJECT_CLASS_DEPTH 12  /* longest chain of parents that the cast table holds */

struct ObjectClass {
    TypeImpl *type;
    /* ancestors[d] is this class' ancestor at depth d (root is 0): a cast is one load and compare.
     */
    TypeImpl *ancestors[OBJECT_CLASS_DEPTH];
    GSList *interfaces; /* of InterfaceClass *, private to object.c */
    GHashTable *props;  /* name -> Property *, this class' own; private */
    void *reserved;     /* private */
    /* Runs first when an instance is unparented for good, before its children are (a device
     * unrealizes here). Inherited; an override calls its parent's. */
    void (*unparent)(Object *obj);
};

/* A function pointer in an interface's class that a script may implement as the method `name`:
 * RESULT (*)(Object *self, ARGS…), called under the engine lock. */
typedef struct InterfaceMethod {
    const char *name;
    size_t offset; /* in the class struct */
    /* Result and arguments after the object, as "b(uq)": v nothing, b bool, i int32_t, u uint32_t,
     * l int64_t, q uint64_t; arguments also s const char *, o Object *, and at the end e GError **.
     * A script's error is that error, else the machine's. */
    const char *signature;
    const char *doc;
    bool required; /* an implementer without it is refused, where the interface has no default */
} InterfaceMethod;

struct InterfaceClass {
    ObjectClass parent_class;
    ObjectClass *concrete_class; /* the class that implements it */
    TypeImpl *interface_type;
    const InterfaceMethod *methods; /* set by its class_init; ends with name NULL. May be NULL */
};

/* The class of a type, built if need be; NULL + nothing raised when the name is unknown. */
ObjectClass *object_class_by_name(const char *name);
/* As above, with the reason: an unknown name (and the nearest one) or what keeps it from being
 * built. */
ObjectClass *object_class_lookup(const char *name, GError **error);
const char *object_class_get_name(const ObjectClass *klass);
ObjectClass *object_class_get_parent(ObjectClass *klass);
bool object_class_is_abstract(const ObjectClass *klass);
/* NULL when `klass` is not (a descendant or implementer of) `type_name`. */
ObjectClass *object_class_dynamic_cast(ObjectClass *klass, const char *type_name);
/* Visits every class that descends from or implements `implements_type` (NULL: all), in the order
 * of type names. */
void object_class_foreach(void (*fn)(ObjectClass *klass, void *opaque), const char *implements_type,
                          bool include_abstract, void *opaque);
/* GSList of ObjectClass *, sorted by name; the caller frees the list only. */
GSList *object_class_get_list(const char *implements_type, bool include_abstract);

/* ---- instances --------------------------------------------------------------------------- */

struct Object {
    ObjectClass *klass;
    int ref;        /* atomic */
    bool gone;      /* unparented for good: handles to it are inert (see object_unparent) */
    bool on_heap;   /* made by object_new; private */
    bool leaving;   /* object_unparent is at work; private */
    bool realized;  /* set by the device layer; properties with PROP_UNTIL_REALIZED then refuse */
    char *name;     /* in its parent; owned; kept after it was unparented, for messages */
    Object *parent; /* not counted: the parent holds the reference */
    GHashTable *children; /* name -> Object *, with one reference each; NULL until the first child;
                             private */
    GPtrArray *order;     /* children in the order they were added; private */
    GHashTable *props; /* instance properties, name -> Property *; NULL until the first; private */
    GSList *notify;    /* destroy notifications; private */
    GHashTable *links; /* what its link properties point at; private */
    GSList *linked_from; /* links that point at it; private */
    GSList *attached;    /* see object_attach; private */
};

/* A new instance with one reference, all instance_init run. NULL + error: unknown or abstract type.
 */
Object *object_new(const char *type_name, GError **error);
Object *object_new_with_class(ObjectClass *klass, GError **error);
/* For embedded objects of `size` bytes, whose memory the embedder owns. Aborts on a wrong size (a
 * bug). */
void object_initialize(void *data, size_t size, const char *type_name);
Object *object_ref(void *obj); /* NULL is passed through */
void object_unref(void *obj);  /* NULL is ignored; the last one finalizes */
const char *object_get_typename(const Object *obj);
/* For messages: the name in the tree, else the type's. */
const char *object_get_name(const Object *obj);

/* Destroy notification: runs once, when the object is unparented for good (object_unparent) or
 * finalized, whichever is first. It may not take the object back. Engine lock held. */
typedef void (*ObjectNotify)(Object *obj, void *opaque);
void object_add_destroy_notify(Object *obj, ObjectNotify fn, void *opaque);
void object_remove_destroy_notify(Object *obj, ObjectNotify fn, void *opaque);

/* Hands over memory that must live as long as the object's own: freed with it, last attached first,
 * after every instance_finalize. */
void object_attach(Object *obj, void *data, GDestroyNotify free_data);

/* The tree. A child is referenced by its parent. Names: no '/', not empty. */
bool object_add_child(Object *parent, const char *name, Object *child, GError **error);
/* Takes the object and all below it out of the tree for good: its class' `unparent` runs, then its
 * children leave (last added first), `gone` becomes true, notifications run, link properties that
 * point at it become NULL (so cycles of links go away), the parent's reference is dropped. Safe to
 * call twice, on an object that was never in the tree, and on what is above from a hook or
 * notification of one that goes. Nothing is added below an object that is going. */
void object_unparent(Object *obj);
Object *object_get_root(void); /* "/", process-wide */
/* The object at a path below `root` ("machines"), made of TYPE_CONTAINERs where it is missing. */
Object *object_get_container(Object *root, const char *path);
/* The same for a path from outside: NULL and an error for what is no path of names, or too deep. */
Object *object_make_container(Object *root, const char *path, GError **error);
Object *object_get_child(Object *obj, const char *name);
unsigned object_child_count(const Object *obj);
Object *object_child_at(const Object *obj, unsigned index); /* in order of addition */
/* "/machines/pc-0/com1"; NULL when not in the tree. The caller frees. */
char *object_get_canonical_path(const Object *obj);
/* An absolute path, or a partial one ("com1", "pci.0/nic") that is unique in the whole tree.
 * *ambiguous may be NULL; with a type, only objects of that type count. Borrowed. */
Object *object_resolve_path(const char *path, bool *ambiguous);
Object *object_resolve_path_type(const char *path, const char *type_name, bool *ambiguous);
/* As above, but only `root` and what is below it is found, and ambiguity counted there. */
Object *object_resolve_path_at(Object *root, const char *path, bool *ambiguous);

/* ---- casts ------------------------------------------------------------------------------- */

/* NULL when obj is NULL or of another type. By name: hash lookup; use the typed macros where it is
 * hot. */
Object *object_dynamic_cast(Object *obj, const char *type_name);
/* As above, but a failure is a bug: prints both types and the place, aborts. */
Object *object_dynamic_cast_assert(Object *obj, const char *type_name, const char *file, int line);
ObjectClass *object_class_dynamic_cast_assert(ObjectClass *klass, const char *type_name,
                                              const char *file, int line);
/* Slow half of the typed casts: resolves the name once into *slot (a static of the caller) and
 * checks. */
void *object_cast_slow(void *obj, const char *type_name, TypeImpl **slot, const char *where);
void *object_class_cast_slow(void *klass, const char *type_name, TypeImpl **slot,
                             const char *where);
/* Depth of a type in its chain of parents; object is 0. Set when the class is built. */
static inline unsigned type_depth(const TypeImpl *type)
{
    return *(const unsigned *)type; /* TypeImpl starts with its depth: object.c asserts it */
}

#define OBJECT(obj)               ((Object *)(obj))
#define OBJECT_CLASS(klass)       ((ObjectClass *)(klass))
#define OBJECT_GET_CLASS_RAW(obj) (((Object *)(obj))->klass)

/*
 * OBJECT_DECLARE_TYPE(SerialState, SerialClass, SERIAL, TYPE_SERIAL) makes
 *   SerialState *SERIAL(const void *obj)             checked cast of an instance (NULL passes)
 *   SerialClass *SERIAL_CLASS(const void *klass)     checked cast of a class
 *   SerialClass *SERIAL_GET_CLASS(const void *obj)
 *   bool is_SERIAL(obj)                              without abort
 */
#define OBJECT_DECLARE_TYPE(InstanceType, ClassType, MODULE, TYPE_NAME)                           \
    __attribute__((unused)) static TypeImpl *MODULE##_type_slot;                                  \
    __attribute__((unused)) static inline InstanceType *MODULE(const void *obj)                   \
    {                                                                                             \
        TypeImpl *t = __atomic_load_n(&MODULE##_type_slot, __ATOMIC_RELAXED);                     \
        if (G_LIKELY(obj && t && ((const Object *)obj)->klass->ancestors[type_depth(t)] == t)) {  \
            return (InstanceType *)(uintptr_t)obj;                                                \
        }                                                                                         \
        return object_cast_slow((void *)(uintptr_t)obj, TYPE_NAME, &MODULE##_type_slot, #MODULE); \
    }                                                                                             \
    __attribute__((unused)) static inline ClassType *MODULE##_CLASS(const void *klass)            \
    {                                                                                             \
        TypeImpl *t = __atomic_load_n(&MODULE##_type_slot, __ATOMIC_RELAXED);                     \
        if (G_LIKELY(t && ((const ObjectClass *)klass)->ancestors[type_depth(t)] == t)) {         \
            return (ClassType *)(uintptr_t)klass;                                                 \
        }                                                                                         \
        return object_class_cast_slow((void *)(uintptr_t)klass, TYPE_NAME, &MODULE##_type_slot,   \
                                      #MODULE);                                                   \
    }                                                                                             \
    __attribute__((unused)) static inline ClassType *MODULE##_GET_CLASS(const void *obj)          \
    {                                                                                             \
        return MODULE##_CLASS(((const Object *)obj)->klass);                                      \
    }                                                                                             \
    __attribute__((unused)) static inline bool is_##MODULE(const void *obj)                       \
    {                                                                                             \
        TypeImpl *t = __atomic_load_n(&MODULE##_type_slot, __ATOMIC_RELAXED);                     \
        if (obj && t && ((const Object *)obj)->klass->ancestors[type_depth(t)] == t) {            \
            return true;                                                                          \
        }                                                                                         \
        return object_dynamic_cast((Object *)(uintptr_t)obj, TYPE_NAME) != NULL;                  \
    }
#define OBJECT_DECLARE_SIMPLE_TYPE(InstanceType, MODULE, TYPE_NAME) \
    OBJECT_DECLARE_TYPE(InstanceType, ObjectClass, MODULE, TYPE_NAME)
/* The implementation that `obj` gives of an interface: (FooClass *)INTERFACE_GET(obj, TYPE_FOO),
 * NULL if none. */
#define INTERFACE_GET(obj, type_name) \
    ((void *)object_class_dynamic_cast(OBJECT_GET_CLASS_RAW(obj), type_name))

/* ---- properties -------------------------------------------------------------------------- */

typedef enum {
    PROP_BOOL,
    PROP_INT,    /* signed, `bits` wide */
    PROP_UINT,   /* unsigned, `bits` wide */
    PROP_SIZE,   /* uint64; strings with K M G T P E suffixes are accepted */
    PROP_STRING, /* NULL allowed */
    PROP_ENUM,   /* one of `words`; kept as int index */
    PROP_LINK,   /* a counted or uncounted reference to an object of `link_type`; NULL allowed */
    PROP_CHILD,  /* read-only: an object below this one */
    PROP_LIST,   /* of PROP_INT/UINT/STRING/LINK elements (`element`) */
    PROP_DOUBLE,
} PropKind;

struct PropValue {
    PropKind kind;
    union {
        bool boolean;
        int64_t integer;   /* PROP_INT, PROP_ENUM (index) */
        uint64_t uinteger; /* PROP_UINT, PROP_SIZE */
        double number;
        char *string;    /* owned */
        Object *object;  /* PROP_LINK/PROP_CHILD: counted while in a PropValue */
        GPtrArray *list; /* of PropValue *, owned */
    };
};
void prop_value_clear(PropValue *value); /* frees what it owns; safe on a zeroed one */
void prop_value_copy(PropValue *to, const PropValue *from);
GPtrArray *prop_list_new(void); /* for PropValue.list: frees its elements with itself */
void prop_list_add(GPtrArray *list, const PropValue *element);            /* copies */
char *prop_value_to_string(const PropValue *value, const Property *prop); /* caller frees */

enum {
    PROP_UNTIL_REALIZED = 1 << 0, /* settable until realized (what most device properties are) */
    PROP_READ_ONLY = 1 << 1,
    PROP_LINK_STRONG = 1 << 2, /* the link holds a reference */
    PROP_REQUIRED = 1 << 3,    /* realize fails, with the name, while unset (links and strings) */
    PROP_HIDDEN = 1 << 4,      /* not in help lists */
};

const char *prop_kind_name(PropKind kind); /* "bool", "int", "uint", "size", … */
/* "uint16", "link<chardev>", "list<string>", "enum(a|b)": for help. The caller frees. */
char *property_type_string(const Property *prop);

typedef bool (*PropGet)(Object *obj, const Property *prop, PropValue *out, GError **error);
/* `in` has already been converted to the property's kind and range-checked. */
typedef bool (*PropSet)(Object *obj, const Property *prop, const PropValue *in, GError **error);

struct Property {
    const char *name;
    const char *doc;
    PropKind kind;
    unsigned flags;
    uint8_t bits;             /* PROP_INT, PROP_UINT: 8 16 32 64 */
    PropKind element;         /* PROP_LIST */
    const char *const *words; /* PROP_ENUM: NULL-terminated */
    const char *link_type;    /* PROP_LINK, PROP_CHILD */
    bool has_default;
    PropValue def; /* the string is static, or owned by a script-made class */
    /* Either a field of the instance struct (offset, get and set NULL) or functions. Field types:
     * bool, (u)int8..64_t, uint64_t (size), char * (owned), int (enum), Object * (link), double.
     * Strings and links in fields are freed by the object model, after instance_finalize; a link
     * field is changed only by setting the property. A link with neither field nor functions is
     * kept by the object model; a child with neither is the child of that name. PROP_LIST needs
     * functions. A default without a field is set through `set`, after instance_init. */
    ptrdiff_t offset; /* -1 when not a field */
    PropGet get;
    PropSet set;
    const void *opaque; /* for get and set */
};

#define PROP_FIELD_(_name, _State, _field, _kind, _bits, _flags, _doc)                   \
    .name = (_name), .doc = (_doc), .kind = (_kind), .bits = (_bits), .flags = (_flags), \
    .offset = offsetof(_State, _field)
#define DEFINE_PROP_BOOL(n, S, f, d, doc)                                                    \
    {                                                                                        \
        PROP_FIELD_(n, S, f, PROP_BOOL, 0, PROP_UNTIL_REALIZED, doc), .has_default = true,   \
                                                                      .def = {               \
                                                                          .kind = PROP_BOOL, \
                                                                          .boolean = (d)     \
                                                                      }                      \
    }
#define DEFINE_PROP_UINT_(n, S, f, b, d, doc)                                                \
    {                                                                                        \
        PROP_FIELD_(n, S, f, PROP_UINT, b, PROP_UNTIL_REALIZED, doc), .has_default = true,   \
                                                                      .def = {               \
                                                                          .kind = PROP_UINT, \
                                                                          .uinteger = (d)    \
                                                                      }                      \
    }
#define DEFINE_PROP_UINT8(n, S, f, d, doc)  DEFINE_PROP_UINT_(n, S, f, 8, d, doc)
#define DEFINE_PROP_UINT16(n, S, f, d, doc) DEFINE_PROP_UINT_(n, S, f, 16, d, doc)
#define DEFINE_PROP_UINT32(n, S, f, d, doc) DEFINE_PROP_UINT_(n, S, f, 32, d, doc)
#define DEFINE_PROP_UINT64(n, S, f, d, doc) DEFINE_PROP_UINT_(n, S, f, 64, d, doc)
#define DEFINE_PROP_INT32(n, S, f, d, doc)                                                  \
    {                                                                                       \
        PROP_FIELD_(n, S, f, PROP_INT, 32, PROP_UNTIL_REALIZED, doc), .has_default = true,  \
                                                                      .def = {              \
                                                                          .kind = PROP_INT, \
                                                                          .integer = (d)    \
                                                                      }                     \
    }
#define DEFINE_PROP_INT64(n, S, f, d, doc)                                                  \
    {                                                                                       \
        PROP_FIELD_(n, S, f, PROP_INT, 64, PROP_UNTIL_REALIZED, doc), .has_default = true,  \
                                                                      .def = {              \
                                                                          .kind = PROP_INT, \
                                                                          .integer = (d)    \
                                                                      }                     \
    }
#define DEFINE_PROP_SIZE(n, S, f, d, doc)                                                     \
    {                                                                                         \
        PROP_FIELD_(n, S, f, PROP_SIZE, 64, PROP_UNTIL_REALIZED, doc), .has_default = true,   \
                                                                       .def = {               \
                                                                           .kind = PROP_SIZE, \
                                                                           .uinteger = (d)    \
                                                                       }                      \
    }
#define DEFINE_PROP_STRING(n, S, f, doc)                               \
    {                                                                  \
        PROP_FIELD_(n, S, f, PROP_STRING, 0, PROP_UNTIL_REALIZED, doc) \
    }
#define DEFINE_PROP_ENUM(n, S, f, w, d, doc)                          \
    {                                                                 \
        PROP_FIELD_(n, S, f, PROP_ENUM, 0, PROP_UNTIL_REALIZED, doc), \
            .words = (w), .has_default = true, .def = {               \
                .kind = PROP_ENUM,                                    \
                .integer = (d)                                        \
            }                                                         \
    }
#define DEFINE_PROP_LINK(n, S, f, type, doc)                                             \
    {                                                                                    \
        PROP_FIELD_(n, S, f, PROP_LINK, 0, PROP_UNTIL_REALIZED | PROP_LINK_STRONG, doc), \
            .link_type = (type)                                                          \
    }

size_t property_field_size(const Property *p); /* bytes; 0: of a kind that is never a field */
/* Adds properties to a class, from class_init; `props` outlives the class (static, or owned by the
 * type). A subclass may repeat a name to change default or doc. */
void object_class_add_properties(ObjectClass *klass, const Property *props, size_t n);
/* Adds one to an instance. The Property is copied (shallow). false: duplicate name. */
bool object_add_property(Object *obj, const Property *prop, GError **error);
const Property *object_find_property(Object *obj, const char *name);
const Property *object_class_find_property(ObjectClass *klass, const char *name);
/* Calls fn for each property, the leaf class' first, each name once, sorted within a class. */
void object_class_property_foreach(ObjectClass *klass,
                                   void (*fn)(const Property *, ObjectClass *owner, void *),
                                   void *opaque);
void object_property_foreach(Object *obj, void (*fn)(const Property *, void *), void *opaque);

/* Unknown property: the message names the object, the property and the nearest known one. *out owns
 * what it holds. */
bool object_property_get(Object *obj, const char *name, PropValue *out, GError **error);
/* Converts between numeric kinds where the value fits exactly, strings to enum, size and link (a
 * path: absolute, or partial and then looked for from the object's own surroundings outwards). */
bool object_property_set(Object *obj, const char *name, const PropValue *in, GError **error);
/* From text, as on a command line: on/off/true/false, 0x10, "2G", enum words, paths. */
bool object_property_parse(Object *obj, const char *name, const char *text, GError **error);
bool object_property_set_bool(Object *obj, const char *name, bool value, GError **error);
bool object_property_set_uint(Object *obj, const char *name, uint64_t value, GError **error);
bool object_property_set_int(Object *obj, const char *name, int64_t value, GError **error);
bool object_property_set_str(Object *obj, const char *name, const char *value, GError **error);
bool object_property_set_link(Object *obj, const char *name, Object *value, GError **error);
/* On failure: 0, false, NULL. The caller frees the string; the object is borrowed. */
uint64_t object_property_get_uint(Object *obj, const char *name, GError **error);
int64_t object_property_get_int(Object *obj, const char *name, GError **error);
bool object_property_get_bool(Object *obj, const char *name, GError **error);
char *object_property_get_str(Object *obj, const char *name, GError **error);
Object *object_property_get_link(Object *obj, const char *name, GError **error);
/* What object_property_set does first: `in` as a value of the property's kind, range-checked. *out
 * owns what it holds; it holds nothing on failure. obj may be NULL (then a link's path must be
 * absolute or unique). */
bool object_property_convert(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                             GError **error);
/* For `set` functions of a property that also has an offset: stores the converted value there. */
void object_property_store_field(Object *obj, const Property *prop, const PropValue *value);
/* For `set` functions of links: stores the (checked) target as a field or kept link would be. */
void object_property_store_link(Object *obj, const Property *prop, Object *target);
/* true when every PROP_REQUIRED property is set; otherwise the error names the first that is not.
 */
bool object_check_required(Object *obj, GError **error);
