/* Types that the tests of the object model share, and how their programs run. */
#pragma once

#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/qom/object.h"
#include "tests/unit/run_suite.h"

#define TYPE_NODE "test-node"
#define TYPE_LEAF "test-leaf"

typedef struct Node {
    Object parent;
    bool flag;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64, size;
    int8_t s8;
    int32_t s32;
    int64_t s64;
    char *text;
    int color;
    double ratio;
    Object *strong, *weak;
    uint64_t via_function;
    GPtrArray *list;
    unsigned inits;
} Node;
typedef struct NodeClass {
    ObjectClass parent_class;
    int (*answer)(Node *n);
    int (*twice)(Node *n);
} NodeClass;
OBJECT_DECLARE_TYPE(Node, NodeClass, NODE, TYPE_NODE)

typedef struct Leaf {
    Node parent;
    uint32_t extra;
} Leaf;
OBJECT_DECLARE_TYPE(Leaf, NodeClass, LEAF, TYPE_LEAF)

static const char *const colors[] = { "red", "green", "blue", NULL };
static GString *trace; /* what ran, in order */

static inline bool get_via_function(Object *obj, const Property *p, PropValue *out, GError **error)
{
    out->uinteger = ((Node *)obj)->via_function;
    return true;
}

static inline bool set_via_function(Object *obj, const Property *p, const PropValue *in,
                                    GError **error)
{
    if (in->uinteger == 13) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_VALUE, "13 is refused");
        return false;
    }
    ((Node *)obj)->via_function = in->uinteger;
    return true;
}

static inline bool get_list(Object *obj, const Property *p, PropValue *out, GError **error)
{
    PropValue v = { .kind = PROP_LIST, .list = ((Node *)obj)->list };

    prop_value_copy(out, &v);
    return true;
}

static inline bool set_list(Object *obj, const Property *p, const PropValue *in, GError **error)
{
    Node *n = (Node *)obj;
    PropValue v;

    prop_value_copy(&v, in);
    g_clear_pointer(&n->list, g_ptr_array_unref);
    n->list = v.list;
    return true;
}

static inline bool get_name(Object *obj, const Property *p, PropValue *out, GError **error)
{
    out->string = g_strdup("fixed");
    return true;
}

static const Property node_props[] = {
    DEFINE_PROP_BOOL("flag", Node, flag, true, "a flag"),
    DEFINE_PROP_UINT8("u8", Node, u8, 8, "eight bits"),
    DEFINE_PROP_UINT16("u16", Node, u16, 0x510, "sixteen bits"),
    DEFINE_PROP_UINT32("u32", Node, u32, 32, "32 bits"),
    DEFINE_PROP_UINT64("u64", Node, u64, UINT64_MAX, "64 bits"),
    DEFINE_PROP_INT32("s32", Node, s32, -32, "signed"),
    DEFINE_PROP_INT64("s64", Node, s64, INT64_MIN, "signed"),
    { .name = "s8", .kind = PROP_INT, .bits = 8, .offset = offsetof(Node, s8) },
    DEFINE_PROP_SIZE("size", Node, size, 4096, "a size"),
    { .name = "text",
      .kind = PROP_STRING,
      .offset = offsetof(Node, text),
      .has_default = true,
      .def = { .kind = PROP_STRING, .string = (char *)(uintptr_t) "hello" } },
    DEFINE_PROP_ENUM("color", Node, color, colors, 1, "one of three"),
    { .name = "ratio", .kind = PROP_DOUBLE, .offset = offsetof(Node, ratio) },
    { .name = "strong",
      .kind = PROP_LINK,
      .link_type = TYPE_NODE,
      .flags = PROP_LINK_STRONG,
      .offset = offsetof(Node, strong) },
    { .name = "weak", .kind = PROP_LINK, .link_type = TYPE_NODE, .offset = offsetof(Node, weak) },
    { .name = "kept", .kind = PROP_LINK, .flags = PROP_LINK_STRONG, .offset = -1 },
    { .name = "kid", .kind = PROP_CHILD, .offset = -1 },
    { .name = "func",
      .kind = PROP_UINT,
      .bits = 16,
      .offset = -1,
      .get = get_via_function,
      .set = set_via_function,
      .has_default = true,
      .def = { .kind = PROP_UINT, .uinteger = 77 } },
    { .name = "list",
      .kind = PROP_LIST,
      .element = PROP_UINT,
      .bits = 8,
      .offset = -1,
      .get = get_list,
      .set = set_list },
    { .name = "fixed", .kind = PROP_STRING, .offset = -1, .get = get_name },
};

static const Property leaf_props[] = {
    { .name = "must",
      .kind = PROP_LINK,
      .flags = PROP_REQUIRED,
      .offset = -1,
      .link_type = TYPE_NODE },
    { .name = "u16", /* repeats its parent's, with another default and lifetime */
      .kind = PROP_UINT,
      .bits = 16,
      .flags = PROP_UNTIL_REALIZED,
      .offset = offsetof(Node, u16),
      .has_default = true,
      .def = { .kind = PROP_UINT, .uinteger = 99 } },
};

static inline int node_answer(Node *n)
{
    return 42;
}

static inline int leaf_twice(Node *n)
{
    return 2 * NODE_GET_CLASS(n)->answer(n);
}

static inline void node_class_init(ObjectClass *klass, const void *data)
{
    ((NodeClass *)klass)->answer = node_answer;
    object_class_add_properties(klass, node_props, G_N_ELEMENTS(node_props));
}

static inline void leaf_class_init(ObjectClass *klass, const void *data)
{
    ck_assert_str_eq(data, "leaf data");
    ((NodeClass *)klass)->twice = leaf_twice;
    object_class_add_properties(klass, leaf_props, G_N_ELEMENTS(leaf_props));
}

static inline void note(const char *what, Object *obj)
{
    if (trace) {
        g_string_append_printf(trace, "%s ", what);
    }
}

static inline void node_init(Object *obj)
{
    ck_assert_uint_eq(((Node *)obj)->u8, 8); /* field defaults come first */
    note("node-init", obj);
}
static inline void leaf_init(Object *obj)
{
    note("leaf-init", obj);
}
static inline void node_post_init(Object *obj)
{
    note("node-post", obj);
}
static inline void leaf_post_init(Object *obj)
{
    note("leaf-post", obj);
}
static inline void node_finalize(Object *obj)
{
    g_clear_pointer(&((Node *)obj)->list, g_ptr_array_unref);
    note("node-fini", obj);
}
static inline void leaf_finalize(Object *obj)
{
    note("leaf-fini", obj);
}

/* The leaf is registered before its parent: order does not matter. */
static const TypeInfo types[] = {
    {
        .name = TYPE_LEAF,
        .parent = TYPE_NODE,
        .instance_size = sizeof(Leaf),
        .instance_init = leaf_init,
        .instance_post_init = leaf_post_init,
        .instance_finalize = leaf_finalize,
        .class_init = leaf_class_init,
        .class_data = "leaf data",
    },
    {
        .name = TYPE_NODE,
        .parent = TYPE_OBJECT,
        .doc = "A node of the tests",
        .instance_size = sizeof(Node),
        .class_size = sizeof(NodeClass),
        .instance_init = node_init,
        .instance_post_init = node_post_init,
        .instance_finalize = node_finalize,
        .class_init = node_class_init,
    },
    { .name = "test-abstract", .parent = TYPE_NODE, .abstract = true },
    { .name = "test-orphan", .parent = "test-nowhere" },
    { .name = "test-loop-a", .parent = "test-loop-b" },
    { .name = "test-loop-b", .parent = "test-loop-a" },
};

static inline void register_test_types(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_test_types)

static inline Node *node_new(void)
{
    return NODE(object_new(TYPE_NODE, NULL));
}

static inline Node *node_at(Object *parent, const char *name)
{
    Node *n = node_new();
    ck_assert(object_add_child(parent, name, (Object *)n, NULL));
    object_unref(n);
    return n;
}

static inline void assert_error(GError **error, ObjectError code, const char *part)
{
    ck_assert_ptr_nonnull(*error);
    ck_assert_msg((*error)->domain == OBJECT_ERROR && (*error)->code == (int)code,
                  "error %d instead of %d: %s", (*error)->code, code, (*error)->message);
    ck_assert_msg(strstr((*error)->message, part) != NULL, "'%s' is not in: %s", part,
                  (*error)->message);
    g_clear_error(error);
}

static inline int qom_run(Suite *suite)
{
    int failed = run_suite(suite);

    object_model_finalize();
    return failed;
}
