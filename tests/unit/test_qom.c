/* Modules, types, interfaces, instances, casts. */
#include "tests/unit/qom_rig.h"

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
    g_autofree char *endless = g_strnfill(1000, 'x');
    ck_assert_ptr_null(object_new(endless, &error));
    ck_assert_ptr_null(strstr(error->message, "did you mean"));
    assert_error(&error, OBJECT_ERROR_UNKNOWN_TYPE, "xxxxxxxxxxxxxxxx");
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

int main(void)
{
    Suite *s = suite_create("qom");
    TCase *tc = tcase_create("types");

    module_call_init(MODULE_INIT_QOM);
    suite_add_tcase(s, tc);
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
    tcase_add_test(tc, init_runs_parents_first_and_finalize_leaf_first);
    tcase_add_test(tc, an_embedded_object_leaves_its_memory_alone);
    tcase_add_test_raise_signal(tc, an_embedded_object_in_too_little_memory_aborts, SIGABRT);
    tcase_add_test(tc, casts_pass_descendants_and_null);
    tcase_add_test_raise_signal(tc, a_failed_instance_cast_aborts, SIGABRT);
    tcase_add_test_raise_signal(tc, a_failed_instance_cast_aborts_when_the_slot_is_known, SIGABRT);
    tcase_add_test_raise_signal(tc, a_failed_class_cast_aborts, SIGABRT);
    tcase_add_test(tc, the_model_can_be_taken_down_whole);
    return qom_run(s);
}
