/* Properties of objects. */
#include "tests/unit/qom_rig.h"

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

int main(void)
{
    Suite *s = suite_create("qom properties");
    TCase *tc = tcase_create("properties");

    module_call_init(MODULE_INIT_QOM);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, defaults_are_set_and_a_subclass_may_change_them);
    tcase_add_loop_test(tc, each_kind_parses_text_or_says_what_is_wrong, 0, G_N_ELEMENTS(texts));
    tcase_add_test(tc, values_convert_between_numbers_only_where_they_fit);
    tcase_add_test(tc, a_property_until_realized_refuses_afterwards);
    tcase_add_test(tc, a_required_link_is_asked_for_by_name);
    tcase_add_test(tc, a_partial_path_means_the_object_of_the_same_machine);
    tcase_add_test(tc, properties_are_listed_once_leaf_first_and_sorted);
    tcase_add_test(tc, a_child_property_is_the_child_of_that_name);
    tcase_add_test_raise_signal(tc, a_property_declared_twice_in_one_class_aborts, SIGABRT);
    return qom_run(s);
}
