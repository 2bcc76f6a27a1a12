/* The tree of objects: paths, children, links, who goes when. */
#include "tests/unit/qom_rig.h"

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

/* What the hook of one that goes does, it does to this. */
static Object *victim;
static unsigned added;

static void end_victim(Object *obj)
{
    note_unparent(obj);
    object_unparent(victim);
}

static void add_to_victim(Object *obj)
{
    Object *n = (Object *)node_new();
    g_autofree char *name = g_strdup_printf("again-%u", added);

    /* Bounded, so that a test which fails ends. */
    if (added < 100 && object_add_child(victim, name, n, NULL)) {
        added++;
    }
    object_unref(n);
}

static void meddler_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = data ? add_to_victim : end_victim;
}

static Object *meddler_below(Object *parent, const void *data)
{
    Object *obj;

    type_register_static(&(TypeInfo){ .name = "test-meddler",
                                      .parent = TYPE_NODE,
                                      .class_init = meddler_class_init,
                                      .class_data = data });
    obj = object_new("test-meddler", NULL);
    ck_assert(object_add_child(parent, "meddler", obj, NULL));
    object_unref(obj);
    return obj;
}

START_TEST(one_that_goes_may_take_what_it_is_below_along)
{
    Object *top = (Object *)node_at(object_get_root(), "top");
    Object *middle = (Object *)node_at(top, "middle");
    Object *one = object_ref(meddler_below(middle, NULL));

    node_at(middle, "two");
    victim = top;
    trace = g_string_new(NULL);
    object_ref(top);
    object_unparent(one);
    ck_assert(one->gone && !one->parent && top->gone && !top->parent);
    ck_assert_uint_eq(object_child_count(top), 0);
    ck_assert_msg(g_str_has_prefix(trace->str, "hook-meddler(0) node-fini node-fini"), "%s",
                  trace->str);
    object_unref(one);
    ck_assert_int_eq(top->ref, 1);
    object_unref(top);
    ck_assert_str_eq(trace->str, "hook-meddler(0) node-fini node-fini node-fini node-fini ");
    g_string_free(trace, true);
    trace = NULL;
}
END_TEST

static void notified_end_victim(Object *obj, void *opaque)
{
    object_unparent(victim);
}

START_TEST(a_notification_may_take_what_its_object_is_below_along)
{
    Object *top = (Object *)node_at(object_get_root(), "top");
    Object *one = (Object *)node_at(top, "one");

    victim = top;
    object_add_destroy_notify(one, notified_end_victim, NULL);
    object_unparent(one);
    ck_assert_ptr_null(object_get_child(object_get_root(), "top"));
}
END_TEST

START_TEST(nothing_is_added_below_an_object_that_is_going)
{
    Object *top = (Object *)node_at(object_get_root(), "top");

    victim = top;
    meddler_below(top, "adds");
    object_unparent(top);
    ck_assert_uint_eq(added, 0);
    ck_assert_ptr_null(object_get_child(object_get_root(), "top"));
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

int main(void)
{
    Suite *s = suite_create("qom tree");
    TCase *tc = tcase_create("tree");

    module_call_init(MODULE_INIT_QOM);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, paths_resolve_canonical_and_partial);
    tcase_add_test(tc, an_ambiguous_partial_path_is_told_apart_from_an_unknown_one);
    tcase_add_test(tc, bad_children_are_refused_with_the_reason);
    tcase_add_test(tc, a_destroy_notification_runs_once);
    tcase_add_test_raise_signal(tc, a_destroy_notification_that_keeps_a_dead_object_aborts,
                                SIGABRT);
    tcase_add_test(tc, attached_memory_is_freed_after_the_object_last_first);
    tcase_add_test(tc, unparenting_runs_the_class_hook_then_children_then_notifications);
    tcase_add_test(tc, one_that_goes_may_take_what_it_is_below_along);
    tcase_add_test(tc, a_notification_may_take_what_its_object_is_below_along);
    tcase_add_test(tc, nothing_is_added_below_an_object_that_is_going);
    tcase_add_test(tc, cycles_of_strong_links_go_away_at_teardown);
    tcase_add_test(tc, a_weak_link_becomes_null_with_its_target);
    tcase_add_test(tc, setting_a_link_again_moves_its_reference);
    return qom_run(s);
}
