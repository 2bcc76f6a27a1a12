/* The object model: types, classes, interfaces, instances, the tree, properties, links. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/qom/object.h"

/* ---- types under test -------------------------------------------------------------------- */

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

static bool get_via_function(Object *obj, const Property *p, PropValue *out, GError **error)
{
    out->uinteger = ((Node *)obj)->via_function;
    return true;
}

static bool set_via_function(Object *obj, const Property *p, const PropValue *in, GError **error)
{
    if (in->uinteger == 13) {
        g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_VALUE, "13 is refused");
        return false;
    }
    ((Node *)obj)->via_function = in->uinteger;
    return true;
}

static bool get_list(Object *obj, const Property *p, PropValue *out, GError **error)
{
    PropValue v = { .kind = PROP_LIST, .list = ((Node *)obj)->list };

    prop_value_copy(out, &v);
    return true;
}

static bool set_list(Object *obj, const Property *p, const PropValue *in, GError **error)
{
    Node *n = (Node *)obj;
    PropValue v;

    prop_value_copy(&v, in);
    g_clear_pointer(&n->list, g_ptr_array_unref);
    n->list = v.list;
    return true;
}

static bool get_name(Object *obj, const Property *p, PropValue *out, GError **error)
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

static int node_answer(Node *n)
{
    return 42;
}

static int leaf_twice(Node *n)
{
    return 2 * NODE_GET_CLASS(n)->answer(n);
}

static void node_class_init(ObjectClass *klass, const void *data)
{
    ((NodeClass *)klass)->answer = node_answer;
    object_class_add_properties(klass, node_props, G_N_ELEMENTS(node_props));
}

static void leaf_class_init(ObjectClass *klass, const void *data)
{
    ck_assert_str_eq(data, "leaf data");
    ((NodeClass *)klass)->twice = leaf_twice;
    object_class_add_properties(klass, leaf_props, G_N_ELEMENTS(leaf_props));
}

static void note(const char *what, Object *obj)
{
    if (trace) {
        g_string_append_printf(trace, "%s ", what);
    }
}

static void node_init(Object *obj)
{
    ck_assert_uint_eq(((Node *)obj)->u8, 8); /* field defaults come first */
    note("node-init", obj);
}
static void leaf_init(Object *obj)
{
    note("leaf-init", obj);
}
static void node_post_init(Object *obj)
{
    note("node-post", obj);
}
static void leaf_post_init(Object *obj)
{
    note("leaf-post", obj);
}
static void node_finalize(Object *obj)
{
    g_clear_pointer(&((Node *)obj)->list, g_ptr_array_unref);
    note("node-fini", obj);
}
static void leaf_finalize(Object *obj)
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

static void register_test_types(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_test_types)

static Node *node_new(void)
{
    return NODE(object_new(TYPE_NODE, NULL));
}

static Node *node_at(Object *parent, const char *name)
{
    Node *n = node_new();
    ck_assert(object_add_child(parent, name, (Object *)n, NULL));
    object_unref(n);
    return n;
}

static void assert_error(GError **error, ObjectError code, const char *part)
{
    ck_assert_ptr_nonnull(*error);
    ck_assert_msg((*error)->domain == OBJECT_ERROR && (*error)->code == (int)code,
                  "error %d instead of %d: %s", (*error)->code, code, (*error)->message);
    ck_assert_msg(strstr((*error)->message, part) != NULL, "'%s' is not in: %s", part,
                  (*error)->message);
    g_clear_error(error);
}

/* ---- modules and types ------------------------------------------------------------------- */

static int module_runs, late_runs;
static void late_module(void)
{
    late_runs++;
}
static void one_module(void)
{
    module_runs++;
    register_module_init(late_module, MODULE_INIT_TRACE);
}

START_TEST(module_functions_run_once_and_late_ones_too)
{
    register_module_init(one_module, MODULE_INIT_TRACE);
    module_call_init(MODULE_INIT_TRACE);
    module_call_init(MODULE_INIT_TRACE);
    ck_assert_int_eq(module_runs, 1);
    ck_assert_int_eq(late_runs, 1);
    register_module_init(late_module, MODULE_INIT_TRACE);
    module_call_init(MODULE_INIT_TRACE);
    ck_assert_int_eq(late_runs, 2);
}
END_TEST

START_TEST(a_type_registered_before_its_parent_works)
{
    Object *obj = object_new(TYPE_LEAF, NULL);

    ck_assert_str_eq(object_get_typename(obj), TYPE_LEAF);
    ck_assert_str_eq(object_class_get_name(object_class_get_parent(obj->klass)), TYPE_NODE);
    ck_assert_uint_eq(type_depth(obj->klass->type), 2);
    ck_assert_str_eq(type_get_doc(type_table_get(TYPE_NODE)), "A node of the tests");
    object_unref(obj);
}
END_TEST

START_TEST(methods_are_inherited_and_overridden)
{
    Node *leaf = NODE(object_new(TYPE_LEAF, NULL));

    ck_assert_int_eq(LEAF_GET_CLASS(leaf)->twice(leaf), 84);
    ck_assert_ptr_null(((NodeClass *)object_class_by_name(TYPE_NODE))->twice);
    object_unref(leaf);
}
END_TEST

START_TEST(an_unknown_parent_is_an_error_that_names_both)
{
    GError *error = NULL;

    ck_assert_ptr_null(object_new("test-orphan", &error));
    assert_error(&error, OBJECT_ERROR_UNKNOWN_TYPE, "test-nowhere");
    ck_assert_ptr_null(object_class_by_name("test-orphan"));
    /* Once the parent appears it can be built. */
    ck_assert(type_register_internal(&(TypeInfo){ .name = "test-nowhere", .parent = TYPE_NODE },
                                     NULL) != NULL);
    Object *obj = object_new("test-orphan", &error);
    ck_assert_ptr_nonnull(obj);
    object_unref(obj);
}
END_TEST

START_TEST(an_unknown_type_suggests_the_nearest)
{
    GError *error = NULL;

    ck_assert_ptr_null(object_new("test-laef", &error));
    assert_error(&error, OBJECT_ERROR_UNKNOWN_TYPE, "did you mean 'test-leaf'");
    ck_assert_ptr_null(object_new("zzzzzzzzzzzzzzzz", &error));
    ck_assert_ptr_null(strstr(error->message, "did you mean"));
    assert_error(&error, OBJECT_ERROR_UNKNOWN_TYPE, "zzzzzzzzzzzzzzzz");
}
END_TEST

START_TEST(types_that_are_their_own_ancestor_are_refused)
{
    GError *error = NULL;

    ck_assert_ptr_null(object_new("test-loop-a", &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "its own ancestor");
    ck_assert(!type_is_ancestor(type_table_get("test-loop-a"), type_table_get(TYPE_NODE)));
    ck_assert(type_is_ancestor(type_table_get("test-loop-a"), type_table_get("test-loop-b")));
}
END_TEST

START_TEST(a_duplicate_name_is_an_error_for_scripts)
{
    GError *error = NULL;

    ck_assert_ptr_null(
        type_register_internal(&(TypeInfo){ .name = TYPE_NODE, .parent = TYPE_OBJECT }, &error));
    assert_error(&error, OBJECT_ERROR_DUPLICATE_TYPE, TYPE_NODE);
    ck_assert_ptr_null(
        type_register_internal(&(TypeInfo){ .name = "", .parent = TYPE_OBJECT }, &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "needs a name");
    ck_assert_ptr_null(type_register_internal(&(TypeInfo){ .name = "test-no-parent" }, &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "no parent");
}
END_TEST

START_TEST(a_duplicate_static_name_aborts)
{
    type_register_static(&(TypeInfo){ .name = TYPE_NODE, .parent = TYPE_OBJECT });
}
END_TEST

START_TEST(checked_registration_leaves_nothing_behind_on_failure)
{
    GError *error = NULL;
    TypeInfo info = { .name = "test-checked", .parent = "test-nod" };
    InterfaceInfo not_interface[] = { { TYPE_NODE }, { NULL } };
    InterfaceInfo unknown[] = { { "test-no-interface" }, { NULL } };

    ck_assert_ptr_null(type_register_checked(&info, &error));
    assert_error(&error, OBJECT_ERROR_UNKNOWN_TYPE, "did you mean 'test-node'");
    ck_assert_ptr_null(type_table_get("test-checked"));
    info.parent = TYPE_NODE;
    info.instance_size = sizeof(Object);
    ck_assert_ptr_null(type_register_checked(&info, &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "smaller than that of its parent");
    info.instance_size = 0;
    info.interfaces = not_interface;
    ck_assert_ptr_null(type_register_checked(&info, &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "'test-node' is not an interface");
    info.interfaces = unknown;
    ck_assert_ptr_null(type_register_checked(&info, &error));
    assert_error(&error, OBJECT_ERROR_UNKNOWN_TYPE, "test-no-interface");
    info.interfaces = NULL;
    ck_assert_ptr_nonnull(type_register_checked(&info, &error));
}
END_TEST

START_TEST(a_chain_of_parents_that_is_too_long_is_refused)
{
    GError *error = NULL;
    g_autofree char *parent = g_strdup(TYPE_OBJECT);
    bool ok = true;
    int depth;

    for (depth = 1; ok && depth < 40; depth++) {
        g_autofree char *name = g_strdup_printf("test-depth-%d", depth);
        ok = type_register_checked(&(TypeInfo){ .name = name, .parent = parent }, &error) != NULL;
        g_free(parent);
        parent = g_steal_pointer(&name);
    }
    ck_assert_int_eq(depth - 1, OBJECT_CLASS_DEPTH);
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "levels of parents");
}
END_TEST

START_TEST(an_abstract_type_has_no_instances)
{
    GError *error = NULL;

    ck_assert_ptr_null(object_new("test-abstract", &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "abstract");
    ck_assert_ptr_null(object_new(TYPE_OBJECT, &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "abstract");
}
END_TEST

START_TEST(class_lists_are_sorted_and_filtered)
{
    GSList *all = object_class_get_list(TYPE_NODE, true);
    GSList *concrete = object_class_get_list(TYPE_NODE, false);

    ck_assert_int_eq(g_slist_length(all), 3);
    ck_assert_str_eq(object_class_get_name(all->data), "test-abstract");
    ck_assert_str_eq(object_class_get_name(g_slist_nth_data(all, 2)), TYPE_NODE);
    ck_assert_int_eq(g_slist_length(concrete), 2);
    ck_assert_ptr_null(object_class_get_list("test-unknown", true));
    g_slist_free(all);
    g_slist_free(concrete);
}
END_TEST

/* ---- interfaces -------------------------------------------------------------------------- */

typedef struct FaceClass {
    InterfaceClass parent_class;
    const char *(*face)(void);
} FaceClass;
typedef struct SideClass {
    FaceClass parent_class;
    const char *(*side)(void);
} SideClass;

static const char *face_default(void)
{
    return "default";
}
static const char *face_diamond(void)
{
    return "diamond";
}
static const char *side_left(void)
{
    return "left";
}
static void face_class_init(ObjectClass *klass, const void *data)
{
    ((FaceClass *)klass)->face = face_default;
}
static void diamond_class_init(ObjectClass *klass, const void *data)
{
    ((FaceClass *)object_class_dynamic_cast(klass, "test-face"))->face = face_diamond;
    ((SideClass *)object_class_dynamic_cast(klass, "test-left"))->side = side_left;
}

static void register_diamond(void)
{
    static const InterfaceInfo both[] = { { "test-left" }, { "test-right" }, { NULL } };
    static const InterfaceInfo again[] = { { "test-right" }, { "test-extra" }, { NULL } };
    /* Again in an order that only works when names are resolved late. */
    static const TypeInfo infos[] = {
        { .name = "test-diamond-child", .parent = "test-diamond", .interfaces = again },
        { .name = "test-diamond",
          .parent = TYPE_NODE,
          .interfaces = both,
          .class_init = diamond_class_init },
        { .name = "test-left", .parent = "test-face", .class_size = sizeof(SideClass) },
        { .name = "test-right", .parent = "test-face", .class_size = sizeof(SideClass) },
        { .name = "test-extra", .parent = TYPE_INTERFACE },
        { .name = "test-face",
          .parent = TYPE_INTERFACE,
          .class_size = sizeof(FaceClass),
          .class_init = face_class_init },
    };

    type_register_static_array(infos, G_N_ELEMENTS(infos));
}

START_TEST(a_diamond_of_interfaces_has_one_top)
{
    register_diamond();
    for (unsigned i = 0; i < 2; i++) {
        Object *obj = object_new(i ? "test-diamond-child" : "test-diamond", NULL);
        FaceClass *face = INTERFACE_GET(obj, "test-face");
        SideClass *left = INTERFACE_GET(obj, "test-left");
        SideClass *right = INTERFACE_GET(obj, "test-right");

        ck_assert_str_eq(face->face(), "diamond");
        ck_assert_str_eq(left->side(), "left");
        ck_assert_ptr_null(right->side);
        ck_assert_ptr_eq(face->parent_class.concrete_class, obj->klass);
        ck_assert_ptr_ne(left, right);
        ck_assert_ptr_nonnull(object_dynamic_cast(obj, "test-face"));
        ck_assert_ptr_nonnull(object_dynamic_cast(obj, TYPE_INTERFACE));
        ck_assert((INTERFACE_GET(obj, "test-extra") != NULL) == (i == 1));
        ck_assert_int_eq(g_slist_length(obj->klass->interfaces), 3 + i);
        object_unref(obj);
    }
    /* The interface itself is untouched by its implementers. */
    ck_assert_str_eq(((FaceClass *)object_class_by_name("test-face"))->face(), "default");
    GSList *faces = object_class_get_list("test-face", false);
    ck_assert_int_eq(g_slist_length(faces), 2);
    g_slist_free(faces);
    ck_assert(type_is_ancestor(type_table_get("test-diamond-child"), type_table_get("test-face")));
    ck_assert_ptr_null(object_dynamic_cast(object_get_root(), "test-face"));
}
END_TEST

START_TEST(an_interface_has_no_instances_and_implements_none)
{
    GError *error = NULL;
    InterfaceInfo faces[] = { { "test-left" }, { NULL } };

    register_diamond();
    ck_assert_ptr_null(object_new("test-face", &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "abstract");
    ck_assert_ptr_null(type_register_checked(
        &(TypeInfo){ .name = "test-bad-face", .parent = "test-face", .interfaces = faces },
        &error));
    assert_error(&error, OBJECT_ERROR_BAD_TYPE, "interface 'test-bad-face'");
}
END_TEST

/* ---- instances and casts ----------------------------------------------------------------- */

START_TEST(init_runs_parents_first_and_finalize_leaf_first)
{
    trace = g_string_new(NULL);
    object_unref(object_new(TYPE_LEAF, NULL));
    ck_assert_str_eq(trace->str, "node-init leaf-init node-post leaf-post leaf-fini node-fini ");
    g_string_free(trace, true);
    trace = NULL;
}
END_TEST

START_TEST(an_embedded_object_leaves_its_memory_alone)
{
    Leaf leaf;

    object_initialize(&leaf, sizeof(leaf), TYPE_LEAF);
    ck_assert_uint_eq(leaf.parent.u16, 99);
    leaf.extra = 5;
    object_unref(&leaf);
    ck_assert_uint_eq(leaf.extra, 5);
}
END_TEST

START_TEST(an_embedded_object_in_too_little_memory_aborts)
{
    Node node;

    object_initialize(&node, sizeof(node), TYPE_LEAF);
}
END_TEST

START_TEST(casts_pass_descendants_and_null)
{
    Object *obj = object_new(TYPE_LEAF, NULL);

    for (int i = 0; i < 2; i++) { /* first through the slow half, then inline */
        ck_assert_ptr_eq(NODE(obj), (Node *)obj);
        ck_assert_ptr_eq(LEAF(obj), (Leaf *)obj);
        ck_assert_ptr_eq(NODE_CLASS(obj->klass), (NodeClass *)obj->klass);
        ck_assert_ptr_null(NODE(NULL));
        ck_assert(is_LEAF(obj));
        ck_assert(!is_LEAF(object_get_root()));
        ck_assert(!is_LEAF(NULL));
    }
    ck_assert_ptr_null(object_dynamic_cast(obj, "test-abstract"));
    ck_assert_ptr_null(object_dynamic_cast(NULL, TYPE_NODE));
    ck_assert_ptr_null(object_class_dynamic_cast(NULL, TYPE_NODE));
    object_unref(obj);
}
END_TEST

START_TEST(a_failed_instance_cast_aborts)
{
    LEAF(node_new());
}
END_TEST

START_TEST(a_failed_instance_cast_aborts_when_the_slot_is_known)
{
    LEAF(object_new(TYPE_LEAF, NULL));
    LEAF(node_new());
}
END_TEST

START_TEST(a_failed_class_cast_aborts)
{
    LEAF_CLASS(object_class_by_name(TYPE_NODE));
}
END_TEST

/* ---- the tree ---------------------------------------------------------------------------- */

START_TEST(paths_resolve_canonical_and_partial)
{
    Object *machines = object_get_container(object_get_root(), "machines");
    Node *pc = node_at(machines, "pc");
    Node *bus = node_at((Object *)pc, "pci.0");
    Node *nic = node_at((Object *)bus, "nic");
    Node *other = node_at(machines, "other");
    Node *com = node_at((Object *)other, "com1");
    bool ambiguous = true;
    g_autofree char *path = object_get_canonical_path((Object *)nic);

    ck_assert_str_eq(path, "/machines/pc/pci.0/nic");
    ck_assert_ptr_eq(object_resolve_path(path, &ambiguous), nic);
    ck_assert(!ambiguous);
    ck_assert_ptr_eq(object_resolve_path("pci.0/nic", NULL), nic);
    ck_assert_ptr_eq(object_resolve_path("com1", NULL), com);
    ck_assert_ptr_eq(object_resolve_path("/", NULL), object_get_root());
    ck_assert_ptr_eq(object_get_container(object_get_root(), "/machines"), machines);
    ck_assert_ptr_null(object_resolve_path("", NULL));
    ck_assert_ptr_null(object_resolve_path("/machines/none", NULL));
    ck_assert_ptr_null(object_resolve_path("none", &ambiguous));
    ck_assert(!ambiguous);
    ck_assert_ptr_null(object_resolve_path_at((Object *)pc, "com1", NULL));
    ck_assert_ptr_null(object_resolve_path_at((Object *)pc, "/machines/other/com1", NULL));
    ck_assert_ptr_eq(object_resolve_path_at((Object *)pc, "nic", NULL), nic);
    ck_assert_uint_eq(object_child_count((Object *)machines), 2);
    ck_assert_ptr_eq(object_child_at((Object *)machines, 1), other);
    ck_assert_ptr_null(object_child_at((Object *)machines, 2));
}
END_TEST

START_TEST(an_ambiguous_partial_path_is_told_apart_from_an_unknown_one)
{
    Object *root = object_get_root();
    Object *a = (Object *)node_at(root, "a"), *b = (Object *)node_at(root, "b");
    Object *leaf = object_new(TYPE_LEAF, NULL);
    bool ambiguous;

    node_at(a, "com1");
    ck_assert(object_add_child(b, "com1", leaf, NULL));
    object_unref(leaf);
    ck_assert_ptr_null(object_resolve_path("com1", &ambiguous));
    ck_assert(ambiguous);
    ck_assert_ptr_eq(object_resolve_path("b/com1", &ambiguous), leaf);
    ck_assert(!ambiguous);
    ck_assert_ptr_eq(object_resolve_path_type("com1", TYPE_LEAF, &ambiguous), leaf);
    ck_assert(!ambiguous);
    ck_assert_ptr_null(object_resolve_path_type("/b/com1", TYPE_CONTAINER, NULL));
}
END_TEST

START_TEST(bad_children_are_refused_with_the_reason)
{
    GError *error = NULL;
    Object *root = object_get_root();
    Object *a = (Object *)node_at(root, "a");
    Object *b = (Object *)node_at(a, "b");
    Node *n = node_new();

    ck_assert(!object_add_child(root, "a", (Object *)n, &error));
    assert_error(&error, OBJECT_ERROR_DUPLICATE_NAME, "child 'a' already");
    ck_assert(!object_add_child(root, "x/y", (Object *)n, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "not a name");
    ck_assert(!object_add_child(root, "", (Object *)n, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "not a name");
    ck_assert(!object_add_child(root, "again", b, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "in the tree already");
    ck_assert(!object_add_child((Object *)n, "self", (Object *)n, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "below itself");
    ck_assert(!object_add_child(b, "root", root, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "in the tree already");
    object_ref(b);
    object_unparent(a);
    ck_assert(b->gone && !b->parent);
    ck_assert_ptr_null(object_get_canonical_path(b));
    ck_assert_str_eq(object_get_name(b), "b");
    ck_assert(!object_add_child(root, "b", b, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "b is gone");
    ck_assert(!object_add_child(b, "n", (Object *)n, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "b is gone");
    object_unref(b);
    object_unref(n);
}
END_TEST

static int notified;
static void count_notify(Object *obj, void *opaque)
{
    ck_assert(obj->gone);
    notified++;
    object_unparent(obj); /* harmless */
    g_free(object_get_canonical_path(obj));
}
static void remove_other(Object *obj, void *opaque)
{
    object_remove_destroy_notify(obj, count_notify, opaque);
}

START_TEST(a_destroy_notification_runs_once)
{
    Node *n = node_at(object_get_root(), "n");

    object_add_destroy_notify((Object *)n, count_notify, NULL);
    object_ref(n);
    object_unparent((Object *)n);
    ck_assert_int_eq(notified, 1);
    object_unparent((Object *)n);
    object_unref(n);
    ck_assert_int_eq(notified, 1);

    n = node_new(); /* never in the tree: at the last unref */
    object_add_destroy_notify((Object *)n, count_notify, NULL);
    object_unref(n);
    ck_assert_int_eq(notified, 2);

    n = node_new(); /* one callback may remove another */
    object_add_destroy_notify((Object *)n, remove_other, trace);
    object_add_destroy_notify((Object *)n, count_notify, trace);
    object_unref(n);
    ck_assert_int_eq(notified, 2);
}
END_TEST

static void note_attached(gpointer data)
{
    g_string_append_printf(trace, "%s ", (const char *)data);
}

START_TEST(attached_memory_is_freed_after_the_object_last_first)
{
    Node *n = node_new();

    trace = g_string_new(NULL);
    object_attach((Object *)n, (gpointer)(uintptr_t) "first", note_attached);
    object_attach((Object *)n, (gpointer)(uintptr_t) "second", note_attached);
    object_unparent((Object *)n);
    ck_assert_str_eq(trace->str, "");
    object_unref(n);
    ck_assert_str_eq(trace->str, "node-fini second first ");
    g_string_free(trace, true);
    trace = NULL;
}
END_TEST

static void keep_object(Object *obj, void *opaque)
{
    object_ref(obj);
}

START_TEST(a_destroy_notification_that_keeps_a_dead_object_aborts)
{
    Node *n = node_new();

    object_add_destroy_notify((Object *)n, keep_object, NULL);
    object_unref(n);
}
END_TEST

static void note_name(Object *obj, void *opaque)
{
    g_string_append_printf(trace, "%s ", object_get_name(obj));
}
static void note_unparent(Object *obj)
{
    g_string_append_printf(trace, "hook-%s(%u) ", object_get_name(obj), object_child_count(obj));
}
static void hooked_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = note_unparent;
}

START_TEST(unparenting_runs_the_class_hook_then_children_then_notifications)
{
    Object *top, *below;

    type_register_static(
        &(TypeInfo){ .name = "test-hooked", .parent = TYPE_NODE, .class_init = hooked_class_init });
    top = object_new("test-hooked", NULL);
    ck_assert(object_add_child(object_get_root(), "top", top, NULL));
    object_unref(top);
    for (int i = 0; i < 2; i++) {
        below = (Object *)node_at(top, i ? "two" : "one");
        object_add_destroy_notify(below, note_name, NULL);
    }
    object_add_destroy_notify(top, note_name, NULL);
    trace = g_string_new(NULL);
    object_unparent(top);
    ck_assert_msg(g_str_has_prefix(trace->str, "hook-top(2) two "), "%s", trace->str);
    ck_assert_msg(strstr(trace->str, "one node-fini top node-fini") != NULL, "%s", trace->str);
    g_string_free(trace, true);
    trace = NULL;
}
END_TEST

START_TEST(cycles_of_strong_links_go_away_at_teardown)
{
    Object *box = object_get_container(object_get_root(), "box");
    Node *a = node_at(box, "a"), *b = node_at(box, "b"), *c = node_new();

    ck_assert(object_property_set_link((Object *)a, "strong", (Object *)b, NULL));
    ck_assert(object_property_set_link((Object *)b, "strong", (Object *)a, NULL));
    ck_assert(object_property_set_link((Object *)b, "kept", (Object *)a, NULL));
    ck_assert(object_property_set_link((Object *)c, "strong", (Object *)a, NULL));
    ck_assert(object_property_set_link((Object *)c, "kept", (Object *)c, NULL)); /* itself */
    ck_assert_int_eq(a->parent.ref, 4);
    trace = g_string_new(NULL);
    object_unparent(box);
    ck_assert_str_eq(trace->str, "node-fini node-fini ");
    ck_assert_ptr_null(c->strong);
    object_unref(c);
    ck_assert_str_eq(trace->str, "node-fini node-fini node-fini ");
    g_string_free(trace, true);
    trace = NULL;
}
END_TEST

START_TEST(a_weak_link_becomes_null_with_its_target)
{
    Node *a = node_new(), *b = node_new();

    ck_assert(object_property_set_link((Object *)a, "weak", (Object *)b, NULL));
    ck_assert_int_eq(b->parent.ref, 1);
    ck_assert_ptr_eq(a->weak, b);
    object_unref(b);
    ck_assert_ptr_null(a->weak);
    b = node_new(); /* and the holder may die first */
    ck_assert(object_property_set_link((Object *)a, "weak", (Object *)b, NULL));
    object_unref(a);
    object_unref(b);
}
END_TEST

START_TEST(setting_a_link_again_moves_its_reference)
{
    Node *a = node_new(), *b = node_new(), *c = node_new();
    GError *error = NULL;

    ck_assert(object_property_set_link((Object *)a, "strong", (Object *)b, NULL));
    ck_assert(object_property_set_link((Object *)a, "strong", (Object *)b, NULL));
    ck_assert_int_eq(b->parent.ref, 2);
    ck_assert(object_property_set_link((Object *)a, "strong", (Object *)c, NULL));
    ck_assert_int_eq(b->parent.ref, 1);
    ck_assert_ptr_eq(object_property_get_link((Object *)a, "strong", NULL), c);
    ck_assert(object_property_set_link((Object *)a, "strong", NULL, NULL));
    ck_assert_int_eq(c->parent.ref, 1);
    ck_assert_ptr_null(a->strong);
    object_unparent((Object *)b);
    ck_assert(!object_property_set_link((Object *)a, "strong", (Object *)b, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "is gone");
    object_unref(a);
    object_unref(b);
    object_unref(c);
}
END_TEST

/* ---- properties -------------------------------------------------------------------------- */

START_TEST(defaults_are_set_and_a_subclass_may_change_them)
{
    Node *n = node_new();
    Node *leaf = NODE(object_new(TYPE_LEAF, NULL));

    ck_assert(n->flag);
    ck_assert_uint_eq(n->u16, 0x510);
    ck_assert_uint_eq(n->u64, UINT64_MAX);
    ck_assert_int_eq(n->s32, -32);
    ck_assert(n->s64 == INT64_MIN);
    ck_assert_uint_eq(n->size, 4096);
    ck_assert_str_eq(n->text, "hello");
    ck_assert_int_eq(n->color, 1);
    ck_assert_uint_eq(n->via_function, 77);
    ck_assert_uint_eq(leaf->u16, 99);
    object_unref(n);
    object_unref(leaf);
}
END_TEST

/* Every kind of property from text: what is read back, or the error. */
static const struct {
    const char *prop, *text, *back; /* back NULL: refused */
    const char *error;
} texts[] = {
    { "flag", "off", "off" },
    { "flag", "true", "on" },
    { "flag", "2", NULL, "neither on nor off" },
    { "flag", "", NULL, "neither on nor off" },
    { "u8", "255", "255" },
    { "u8", "256", NULL, "256 is out of range (0 to 255)" },
    { "u8", "-1", NULL, "-1 is out of range" },
    { "u8", "1x", NULL, "not a whole number" },
    { "u8", "", NULL, "not a whole number" },
    { "u8", "0x", NULL, "not a whole number" },
    { "u8", "0x7f", "127" },
    { "u8", "010", "10" },
    { "u16", "65536", NULL, "(0 to 65535)" },
    { "u32", "0xffffffff", "4294967295" },
    { "u32", "0x100000000", NULL, "out of range" },
    { "u64", "18446744073709551615", "18446744073709551615" },
    { "u64", "18446744073709551616", NULL, "not a whole number" },
    { "s8", "-128", "-128" },
    { "s8", "-129", NULL, "(-128 to 127)" },
    { "s8", "128", NULL, "(-128 to 127)" },
    { "s32", "-2147483648", "-2147483648" },
    { "s32", "2147483648", NULL, "out of range" },
    { "s64", "-9223372036854775808", "-9223372036854775808" },
    { "s64", "9223372036854775807", "9223372036854775807" },
    { "s64", "9223372036854775808", NULL, "out of range" },
    { "s64", "-9223372036854775809", NULL, "not a whole number" },
    { "size", "64K", "65536" },
    { "size", "1.5g", "1610612736" },
    { "size", "0x1000", "4096" },
    { "size", "10b", "10" },
    { "size", "15E", "17293822569102704640" },
    { "size", "16E", NULL, "not a size" },
    { "size", "1.5", NULL, "not a size" },
    { "size", "K", NULL, "not a size" },
    { "size", "-1", NULL, "not a size" },
    { "size", "1KB", NULL, "not a size" },
    { "size", "99999999999999999999", NULL, "not a size" },
    { "text", "", "" },
    { "text", "any, text", "any, text" },
    { "color", "blue", "blue" },
    { "color", "grean", NULL, "did you mean 'green'" },
    { "color", "1", NULL, "not one of red, green, blue" },
    { "ratio", "2.5", "2.5" },
    { "ratio", "2.5z", NULL, "not a number" },
    { "strong", "/peer", "/peer" },
    { "strong", "", "" },
    { "strong", "nobody", NULL, "no object 'nobody'" },
    { "strong", "/", NULL, "'/' is a 'container', not a 'test-node'" },
    { "kept", "peer", "/peer" },
    { "func", "5", "5" },
    { "func", "13", NULL, "13 is refused" },
    { "func", "70000", NULL, "out of range" },
    { "list", "1, 2,0xff", "1,2,255" },
    { "list", "", "" },
    { "list", "1,256", NULL, "element 2" },
    { "list", "1,,2", NULL, "element 2" },
    { "fixed", "x", NULL, "read-only" },
    { "kid", "peer", NULL, "read-only" },
    { "u17", "1", NULL, "did you mean 'u16'" },
};

START_TEST(each_kind_parses_text_or_says_what_is_wrong)
{
    Object *peer = (Object *)node_at(object_get_root(), "peer");
    Object *n = (Object *)node_at(object_get_root(), "n");
    const char *prop = texts[_i].prop, *text = texts[_i].text;
    g_autofree char *before = object_property_get_str(n, prop, NULL);
    g_autofree char *after = NULL;
    GError *error = NULL;
    bool ok = object_property_parse(n, prop, text, &error);

    ck_assert_ptr_nonnull(peer);
    after = object_property_get_str(n, prop, NULL);
    if (texts[_i].back) {
        ck_assert_msg(ok, "%s=%s: %s", prop, text, error ? error->message : "no error set");
        ck_assert_str_eq(after, texts[_i].back);
    } else {
        ck_assert_msg(!ok, "%s=%s was accepted", prop, text);
        ck_assert_msg(strstr(error->message, texts[_i].error) != NULL, "%s", error->message);
        ck_assert_msg(g_str_has_prefix(error->message, "n: ") || strstr(error->message, "13 is") ||
                          g_str_has_prefix(error->message, "element"),
                      "does not name the object: %s", error->message);
        ck_assert_pstr_eq(after, before);
        g_clear_error(&error);
    }
}
END_TEST

START_TEST(values_convert_between_numbers_only_where_they_fit)
{
    Object *n = (Object *)node_new();
    PropValue v = { .kind = PROP_DOUBLE, .number = 200 };
    GError *error = NULL;

    ck_assert(object_property_set(n, "u8", &v, NULL));
    ck_assert_uint_eq(((Node *)n)->u8, 200);
    v.number = 200.5;
    ck_assert(!object_property_set(n, "u8", &v, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "uint8 expected, got double");
    v.number = 0x1p64;
    ck_assert(!object_property_set(n, "u64", &v, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "expected");
    ck_assert(object_property_set_int(n, "ratio", -3, NULL));
    ck_assert(((Node *)n)->ratio == -3);
    ck_assert(!object_property_set_uint(n, "ratio", UINT64_MAX, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "exactly");
    ck_assert(!object_property_set_int(n, "u64", -1, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "-1 is out of range");
    ck_assert(!object_property_set_str(n, "u8", "5", &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "got string '5'");
    ck_assert(!object_property_set_bool(n, "u8", true, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "got bool 'on'");
    ck_assert(!object_property_set_uint(n, "flag", 1, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "bool expected");
    ck_assert(!object_property_set_uint(n, "text", 1, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "string expected");
    ck_assert(!object_property_set_uint(n, "color", 1, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "enum(red|green|blue) expected");
    ck_assert(!object_property_set_uint(n, "list", 1, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "list<uint8> expected");
    ck_assert(!object_property_set_uint(n, "strong", 1, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "link<test-node> expected");
    ck_assert(!object_property_set_link(n, "u8", n, &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "uint8 expected");
    ck_assert(object_property_set_str(n, "text", NULL, NULL));
    ck_assert_ptr_null(((Node *)n)->text);
    ck_assert(object_property_get_bool(n, "flag", NULL));
    ck_assert_int_eq(object_property_get_int(n, "s32", NULL), -32);
    ck_assert_uint_eq(object_property_get_uint(n, "s32", &error), 0);
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "out of range");
    object_unref(n);
}
END_TEST

START_TEST(a_property_until_realized_refuses_afterwards)
{
    Object *n = (Object *)node_new();
    GError *error = NULL;

    n->realized = true;
    ck_assert(!object_property_set_uint(n, "u8", 1, &error));
    assert_error(&error, OBJECT_ERROR_REALIZED, "'u8' cannot change");
    ck_assert(object_property_set_uint(n, "func", 1, NULL)); /* not flagged */
    object_unref(n);
}
END_TEST

START_TEST(a_required_link_is_asked_for_by_name)
{
    Object *leaf = object_new(TYPE_LEAF, NULL);
    GError *error = NULL;

    ck_assert(!object_check_required(leaf, &error));
    assert_error(&error, OBJECT_ERROR_FAILED, "'must' must be set");
    ck_assert(object_property_set_link(leaf, "must", leaf, NULL));
    ck_assert(object_check_required(leaf, NULL));
    object_unref(leaf);
}
END_TEST

START_TEST(a_partial_path_means_the_object_of_the_same_machine)
{
    Object *machines = object_get_container(object_get_root(), "machines");
    Object *m[2], *dev[2], *chr[2];
    GError *error = NULL;

    for (int i = 0; i < 2; i++) {
        m[i] = (Object *)node_at(machines, i ? "m1" : "m0");
        dev[i] = (Object *)node_at(m[i], "dev");
        chr[i] = (Object *)node_at(m[i], "chr");
    }
    for (int i = 0; i < 2; i++) {
        ck_assert(object_property_parse(dev[i], "weak", "chr", NULL));
        ck_assert_ptr_eq(((Node *)dev[i])->weak, chr[i]);
    }
    ck_assert(!object_property_parse(machines, "weak", "chr", &error));
    g_clear_error(&error);
    Object *outside = (Object *)node_new();
    ck_assert(!object_property_parse(outside, "weak", "chr", &error));
    assert_error(&error, OBJECT_ERROR_BAD_VALUE, "'chr' is ambiguous");
    object_unref(outside);
}
END_TEST

static void note_class_prop(const Property *p, ObjectClass *owner, void *opaque)
{
    g_string_append_printf(opaque, "%s:%s ", object_class_get_name(owner), p->name);
}
static void note_prop(const Property *p, void *opaque)
{
    g_string_append_printf(opaque, "%s ", p->name);
}

START_TEST(properties_are_listed_once_leaf_first_and_sorted)
{
    g_autoptr(GString) s = g_string_new(NULL);
    Object *leaf = object_new(TYPE_LEAF, NULL);
    Property own = { .name = "own", .kind = PROP_LINK, .offset = -1 };
    GError *error = NULL;

    object_class_property_foreach(leaf->klass, note_class_prop, s);
    ck_assert_msg(
        g_str_has_prefix(s->str, "test-leaf:must test-leaf:u16 test-node:color test-node:fixed "),
        "%s", s->str);
    ck_assert_ptr_null(strstr(s->str, "test-node:u16"));
    ck_assert(object_add_property(leaf, &own, NULL));
    ck_assert(!object_add_property(leaf, &own, &error));
    assert_error(&error, OBJECT_ERROR_DUPLICATE_NAME, "'own'");
    g_string_truncate(s, 0);
    object_property_foreach(leaf, note_prop, s);
    ck_assert(g_str_has_prefix(s->str, "own must u16 "));
    ck_assert(object_property_set_link(leaf, "own", object_get_root(), NULL));
    ck_assert_ptr_eq(object_property_get_link(leaf, "own", NULL), object_get_root());
    object_unref(leaf);
}
END_TEST

START_TEST(a_child_property_is_the_child_of_that_name)
{
    Object *n = (Object *)node_new();
    Object *kid = (Object *)node_at(n, "kid");

    ck_assert_ptr_eq(object_property_get_link(n, "kid", NULL), kid);
    object_unref(n);
}
END_TEST

START_TEST(a_property_declared_twice_in_one_class_aborts)
{
    static const Property twice[] = {
        DEFINE_PROP_UINT8("x", Node, u8, 0, ""),
        DEFINE_PROP_UINT8("x", Node, u8, 0, ""),
    };
    object_class_add_properties(object_class_by_name(TYPE_NODE), twice, 2);
}
END_TEST

static int class_finalized;
static void finalize_class(ObjectClass *klass)
{
    ck_assert_str_eq(object_class_get_name(object_class_get_parent(klass)), TYPE_NODE);
    class_finalized++;
}

START_TEST(the_model_can_be_taken_down_whole)
{
    ck_assert(type_register_checked(&(TypeInfo){ .name = "test-finalized",
                                                 .parent = TYPE_NODE,
                                                 .class_finalize = finalize_class },
                                    NULL) != NULL);
    node_at(object_get_container(object_get_root(), "a/b"), "n");
    object_model_finalize();
    ck_assert_int_eq(class_finalized, 1);
    ck_assert_ptr_null(type_table_get(TYPE_NODE));
}
END_TEST

static Suite *qom_suite(void)
{
    Suite *s = suite_create("qom");
    TCase *tc = tcase_create("types");

    tcase_add_test(tc, module_functions_run_once_and_late_ones_too);
    tcase_add_test(tc, a_type_registered_before_its_parent_works);
    tcase_add_test(tc, methods_are_inherited_and_overridden);
    tcase_add_test(tc, an_unknown_parent_is_an_error_that_names_both);
    tcase_add_test(tc, an_unknown_type_suggests_the_nearest);
    tcase_add_test(tc, types_that_are_their_own_ancestor_are_refused);
    tcase_add_test(tc, a_duplicate_name_is_an_error_for_scripts);
    tcase_add_test_raise_signal(tc, a_duplicate_static_name_aborts, SIGABRT);
    tcase_add_test(tc, checked_registration_leaves_nothing_behind_on_failure);
    tcase_add_test(tc, a_chain_of_parents_that_is_too_long_is_refused);
    tcase_add_test(tc, an_abstract_type_has_no_instances);
    tcase_add_test(tc, class_lists_are_sorted_and_filtered);
    tcase_add_test(tc, a_diamond_of_interfaces_has_one_top);
    tcase_add_test(tc, an_interface_has_no_instances_and_implements_none);
    suite_add_tcase(s, tc);

    tc = tcase_create("instances");
    tcase_add_test(tc, init_runs_parents_first_and_finalize_leaf_first);
    tcase_add_test(tc, an_embedded_object_leaves_its_memory_alone);
    tcase_add_test_raise_signal(tc, an_embedded_object_in_too_little_memory_aborts, SIGABRT);
    tcase_add_test(tc, casts_pass_descendants_and_null);
    tcase_add_test_raise_signal(tc, a_failed_instance_cast_aborts, SIGABRT);
    tcase_add_test_raise_signal(tc, a_failed_instance_cast_aborts_when_the_slot_is_known, SIGABRT);
    tcase_add_test_raise_signal(tc, a_failed_class_cast_aborts, SIGABRT);
    suite_add_tcase(s, tc);

    tc = tcase_create("tree");
    tcase_add_test(tc, paths_resolve_canonical_and_partial);
    tcase_add_test(tc, an_ambiguous_partial_path_is_told_apart_from_an_unknown_one);
    tcase_add_test(tc, bad_children_are_refused_with_the_reason);
    tcase_add_test(tc, a_destroy_notification_runs_once);
    tcase_add_test_raise_signal(tc, a_destroy_notification_that_keeps_a_dead_object_aborts,
                                SIGABRT);
    tcase_add_test(tc, attached_memory_is_freed_after_the_object_last_first);
    tcase_add_test(tc, unparenting_runs_the_class_hook_then_children_then_notifications);
    tcase_add_test(tc, cycles_of_strong_links_go_away_at_teardown);
    tcase_add_test(tc, a_weak_link_becomes_null_with_its_target);
    tcase_add_test(tc, setting_a_link_again_moves_its_reference);
    suite_add_tcase(s, tc);

    tc = tcase_create("properties");
    tcase_add_test(tc, defaults_are_set_and_a_subclass_may_change_them);
    tcase_add_loop_test(tc, each_kind_parses_text_or_says_what_is_wrong, 0, G_N_ELEMENTS(texts));
    tcase_add_test(tc, values_convert_between_numbers_only_where_they_fit);
    tcase_add_test(tc, a_property_until_realized_refuses_afterwards);
    tcase_add_test(tc, a_required_link_is_asked_for_by_name);
    tcase_add_test(tc, a_partial_path_means_the_object_of_the_same_machine);
    tcase_add_test(tc, properties_are_listed_once_leaf_first_and_sorted);
    tcase_add_test(tc, a_child_property_is_the_child_of_that_name);
    tcase_add_test_raise_signal(tc, a_property_declared_twice_in_one_class_aborts, SIGABRT);
    tcase_add_test(tc, the_model_can_be_taken_down_whole);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    SRunner *sr;
    int failed;

    module_call_init(MODULE_INIT_QOM);
    sr = srunner_create(qom_suite());
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    object_model_finalize();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
