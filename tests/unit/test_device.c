/* Devices: life cycle and its undoing, mappings, lines. */
#include "tests/unit/device_rig.h"

static GString *events; /* what devices did, in order */

/* ---- a device that fails where it is told to ------------------------------------------------ */

#define TYPE_TEST_DEVICE "test-device"

typedef struct TestDevice {
    DeviceState parent;
    MemoryRegion io, mem;
    Irq *out[2];
    Irq *late;
    uint32_t port, value;
    char *tag;      /* property, required */
    bool fail_late; /* property: after everything is mapped */
    bool fail_mute; /* property: without saying why */
    Object *child;  /* not counted; made by realize when `composite` */
    bool composite;
    int last_n, last_level;
    unsigned inputs;
} TestDevice;
OBJECT_DECLARE_TYPE(TestDevice, DeviceClass, TEST_DEVICE, TYPE_TEST_DEVICE)

static unsigned devices_alive;

static uint64_t test_read(void *opaque, hwaddr addr, unsigned size)
{
    return ((TestDevice *)opaque)->value;
}

static void test_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    ((TestDevice *)opaque)->value = (uint32_t)data;
}

static const MemoryRegionOps test_ops = {
    .read = test_read,
    .write = test_write,
    .impl = { .min_access_size = 1, .max_access_size = 4 },
};

static void test_input(void *opaque, int n, int level)
{
    TestDevice *s = TEST_DEVICE(opaque);

    s->inputs++;
    s->last_n = n;
    s->last_level = level;
}

static bool test_realize(DeviceState *dev, GError **error)
{
    TestDevice *s = TEST_DEVICE(dev);

    g_string_append_printf(events, "realize:%s ", s->tag);
    memory_region_finalize(&s->io);
    memory_region_finalize(&s->mem);
    memory_region_init_io(&s->io, OBJECT(dev), &test_ops, s, s->tag, 4);
    memory_region_init_io(&s->mem, OBJECT(dev), &test_ops, s, s->tag, 0x1000);
    device_init_irq_out(dev, "late", &s->late, 1);
    if (!device_map_io(dev, s->port, &s->io, error) ||
        !device_map_memory(dev, 0xfed00000, &s->mem, 0, error)) {
        return false;
    }
    if (s->composite) {
        s->child = object_new(TYPE_TEST_DEVICE, error);
        object_property_set_str(s->child, "tag", "child", NULL);
        object_property_set_uint(s->child, "port", s->port + 0x100, NULL);
        device_unmap(dev, &s->mem); /* the part takes the same page */
        bool ok = device_realize_at(DEVICE(s->child), dev->machine, OBJECT(dev), "part", error);
        object_unref(s->child);
        if (!ok) {
            return false;
        }
    }
    if (s->fail_late) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s fails as asked", s->tag);
    }
    return !s->fail_mute;
}

static void test_unrealize(DeviceState *dev)
{
    ck_assert_ptr_nonnull(dev->machine);
    g_string_append_printf(events, "unrealize:%s ", TEST_DEVICE(dev)->tag);
}

static void test_reset(DeviceState *dev)
{
    g_string_append_printf(events, "reset:%s ", TEST_DEVICE(dev)->tag);
    TEST_DEVICE(dev)->value = 0x11;
}

static void test_init(Object *obj)
{
    TestDevice *s = TEST_DEVICE(obj);

    devices_alive++;
    device_init_irq_in(&s->parent, "in", test_input, 3);
    device_init_irq_in(&s->parent, NULL, test_input, 1);
    device_init_irq_out(&s->parent, "out", s->out, 2);
}

static void test_finalize(Object *obj)
{
    memory_region_finalize(&TEST_DEVICE(obj)->io);
    memory_region_finalize(&TEST_DEVICE(obj)->mem);
    devices_alive--;
}

static const VMStateField test_fields[] = {
    VMSTATE_UINT32(value, TestDevice),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_test = {
    .name = "test-device",
    .version = 1,
    .minimum_version = 1,
    .fields = test_fields,
};

static const Property test_properties[] = {
    { .name = "tag",
      .doc = "its name in messages",
      .kind = PROP_STRING,
      .offset = offsetof(TestDevice, tag),
      .flags = PROP_UNTIL_REALIZED | PROP_REQUIRED },
    DEFINE_PROP_UINT32("port", TestDevice, port, 0x100, "port"),
    DEFINE_PROP_BOOL("fail-late", TestDevice, fail_late, false, "fails"),
    DEFINE_PROP_BOOL("fail-mute", TestDevice, fail_mute, false, "fails without a reason"),
    DEFINE_PROP_BOOL("composite", TestDevice, composite, false, "has a part"),
};

static void test_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = test_realize;
    dc->unrealize = test_unrealize;
    dc->reset = test_reset;
    dc->vmsd = &vmstate_test;
    object_class_add_properties(klass, test_properties, G_N_ELEMENTS(test_properties));
}

static void stateless_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->vmsd = NULL;
}

static const TypeInfo test_types[] = {
    {
        .name = TYPE_TEST_DEVICE,
        .parent = TYPE_DEVICE,
        .doc = "Fails where it is told to",
        .instance_size = sizeof(TestDevice),
        .instance_init = test_init,
        .instance_finalize = test_finalize,
        .class_init = test_class_init,
    },
    {
        .name = "test-device-without-state",
        .parent = TYPE_TEST_DEVICE,
        .doc = "Forgot to declare its saved state",
        .class_init = stateless_class_init,
    },
};

static void register_test_types(void)
{
    type_register_static_array(test_types, G_N_ELEMENTS(test_types));
}
type_init(register_test_types)

static void setup(void)
{
    events = g_string_new(NULL);
    rig_open();
}

static void teardown(void)
{
    rig_close();
    g_string_free(events, TRUE);
    ck_assert_uint_eq(devices_alive, 0);
}

static TestDevice *make(const char *tag, uint32_t port)
{
    Object *obj = object_new(TYPE_TEST_DEVICE, NULL);

    ck_assert(object_property_set_str(obj, "tag", tag, NULL));
    ck_assert(object_property_set_uint(obj, "port", port, NULL));
    return TEST_DEVICE(obj);
}

static void realize(TestDevice *s, const char *id)
{
    g_autoptr(GError) error = NULL;
    bool ok = device_realize(&s->parent, machine, id, &error);

    ck_assert_msg(ok, "%s", error ? error->message : "");
}

static void ck_refused(TestDevice *s, const char *id, const char *why)
{
    g_autoptr(GError) error = NULL;

    ck_assert(!device_realize(&s->parent, machine, id, &error));
    ck_assert_ptr_nonnull(error);
    ck_assert_msg(strstr(error->message, why) != NULL, "the message is: %s", error->message);
}

static void count_state(const char *name, uint32_t instance, const VMStateDescription *vmsd,
                        void *obj, void *opaque)
{
    (*(unsigned *)opaque)++;
}

static unsigned states(void)
{
    unsigned n = 0;

    machine_state_foreach(machine, count_state, &n);
    return n;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

START_TEST(a_realized_device_is_in_the_tree_mapped_reset_and_saved)
{
    TestDevice *s = make("a", 0x100);
    unsigned before = states();
    g_autofree char *path = NULL;
    g_autoptr(GError) error = NULL;

    realize(s, "dev0");
    path = object_get_canonical_path(OBJECT(s));
    ck_assert_str_eq(path, "/machines/m0/dev0");
    ck_assert_str_eq(events->str, "realize:a reset:a ");
    ck_assert_uint_eq(inp(0x100, 4), 0x11);
    outp(0x100, 0x22, 4);
    ck_assert_uint_eq(inp(0x100, 4), 0x22);
    ck_assert_uint_eq(states(), before + 1);
    ck_assert(!object_property_set_uint(OBJECT(s), "port", 1, &error));
    ck_assert_int_eq(error->code, OBJECT_ERROR_REALIZED);
    g_clear_error(&error);
    ck_assert(!device_realize(&s->parent, machine, "again", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "realized already"));
    object_unref(s);
}
END_TEST

static void check_nothing_is_left(TestDevice *s, unsigned states_before, unsigned children_before)
{
    ck_assert(OBJECT(s)->gone);
    ck_assert_ptr_null(OBJECT(s)->parent);
    ck_assert(!OBJECT(s)->realized);
    ck_assert_ptr_null(s->parent.machine);
    ck_assert_uint_eq(states(), states_before);
    ck_assert_uint_eq(object_child_count(OBJECT(machine)), children_before);
    ck_assert_uint_eq(inp(0x100, 4), 0xffffffff);
    g_string_truncate(events, 0);
    device_reset(&s->parent);
    ck_assert_str_eq(events->str, "");
}

START_TEST(a_device_that_fails_to_realize_leaves_nothing_behind)
{
    static const char *const how[] = { "fail-late", "fail-mute" };
    unsigned n = states(), children = object_child_count(OBJECT(machine));
    TestDevice *s = make("a", 0x100);

    ck_assert(object_property_set_bool(OBJECT(s), how[_i], true, NULL));
    ck_refused(s, "dev0", _i == 0 ? "a fails as asked" : "could not be realized");
    check_nothing_is_left(s, n, children);
    object_unref(s);
}
END_TEST

START_TEST(a_composite_device_that_fails_takes_its_parts_along)
{
    unsigned n = states(), children = object_child_count(OBJECT(machine));
    TestDevice *s = make("a", 0x100);

    ck_assert(object_property_set_bool(OBJECT(s), "composite", true, NULL));
    ck_assert(object_property_set_bool(OBJECT(s), "fail-late", true, NULL));
    ck_refused(s, "dev0", "fails as asked");
    ck_assert_ptr_nonnull(strstr(events->str, "unrealize:child"));
    check_nothing_is_left(s, n, children);
    ck_assert_uint_eq(inp(0x200, 4), 0xffffffff);
    object_unref(s);
}
END_TEST

START_TEST(a_device_without_declared_state_is_refused_and_unrealized)
{
    unsigned n = states(), children = object_child_count(OBJECT(machine));
    TestDevice *s = TEST_DEVICE(object_new("test-device-without-state", NULL));

    ck_assert(object_property_set_str(OBJECT(s), "tag", "a", NULL));
    ck_refused(s, NULL, "test-device-without-state");
    ck_assert_str_eq(events->str, "realize:a unrealize:a ");
    check_nothing_is_left(s, n, children);
    object_unref(s);
}
END_TEST

START_TEST(a_missing_required_property_is_named)
{
    TestDevice *s = TEST_DEVICE(object_new(TYPE_TEST_DEVICE, NULL));

    ck_refused(s, "dev0", "tag");
    ck_assert_str_eq(events->str, "");
    object_unref(s);
}
END_TEST

START_TEST(names_are_made_up_and_duplicates_refused)
{
    TestDevice *a = make("a", 0x100), *c = make("c", 0x300);

    device_map_memory(&a->parent, 0, &a->mem, 0, NULL); /* before realize: refused, not fatal */
    realize(a, NULL);
    ck_assert_str_eq(OBJECT(a)->name, "test-device-0");
    ck_assert_ptr_null(a->parent.id);
    ck_refused(c, "test-device-0", "test-device-0");
    ck_assert(!OBJECT(c)->gone); /* it never came in: the same object may try another name */
    ck_refused(c, "with/slash", "with/slash");
    object_unparent(OBJECT(a));
    realize(c, "c0");
    ck_assert_str_eq(c->parent.id, "c0");
    object_unref(a);
    object_unref(c);
}
END_TEST

START_TEST(unparenting_unrealizes_first_and_parts_after_the_whole)
{
    TestDevice *s = make("whole", 0x100);

    ck_assert(object_property_set_bool(OBJECT(s), "composite", true, NULL));
    realize(s, "dev0");
    g_string_truncate(events, 0);
    object_unparent(OBJECT(s));
    ck_assert_str_eq(events->str, "unrealize:whole unrealize:child ");
    ck_assert_uint_eq(inp(0x100, 4), 0xffffffff);
    ck_assert_uint_eq(inp(0x200, 4), 0xffffffff);
    settle();
    ck_assert_uint_eq(devices_alive, 1); /* the part has gone already */
    object_unref(s);
}
END_TEST

START_TEST(an_unrealized_device_can_be_realized_again)
{
    TestDevice *s = make("a", 0x100);

    realize(s, "dev0");
    device_unrealize(&s->parent);
    device_unrealize(&s->parent);
    ck_assert_uint_eq(inp(0x100, 4), 0xffffffff);
    ck_assert(object_property_set_uint(OBJECT(s), "port", 0x180, NULL));
    realize(s, NULL);
    ck_assert_str_eq(OBJECT(s)->name, "dev0");
    ck_assert_uint_eq(inp(0x180, 4), 0x11);
    object_unref(s);
}
END_TEST

START_TEST(closing_the_machine_unrealizes_its_devices)
{
    TestDevice *a = make("a", 0x100), *c = make("c", 0x300);
    g_autoptr(GError) error = NULL;

    realize(a, NULL);
    machine_close(machine);
    while (main_loop_iterate(false)) {
    }
    ck_assert_ptr_nonnull(strstr(events->str, "unrealize:a"));
    ck_assert(OBJECT(a)->gone);
    ck_assert(!device_realize(&c->parent, machine, NULL, &error));
    object_unref(a);
    object_unref(c);
}
END_TEST

START_TEST(a_place_outside_of_the_machine_is_refused)
{
    TestDevice *s = make("a", 0x100);
    g_autoptr(GError) error = NULL;

    ck_assert(!device_realize_at(&s->parent, machine, object_get_root(), "dev0", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "m0"));
    object_unref(s);
}
END_TEST

START_TEST(a_reset_gives_the_first_state_back)
{
    TestDevice *s = make("a", 0x100);

    realize(s, NULL);
    outp(0x100, 0x99, 4);
    g_string_truncate(events, 0);
    device_reset(&s->parent);
    ck_assert_str_eq(events->str, "reset:a ");
    ck_assert_uint_eq(inp(0x100, 4), 0x11);
    object_unref(s);
}
END_TEST

START_TEST(instance_numbers_stay_when_others_go)
{
    TestDevice *d[3];
    TestDevice *again;

    for (unsigned i = 0; i < 3; i++) {
        g_autofree char *tag = g_strdup_printf("d%u", i);

        d[i] = make(tag, 0x100 * (i + 1));
        /* One memory page for all: only the first keeps it. */
        realize(d[i], tag);
        device_unmap(&d[i]->parent, &d[i]->mem);
        ck_assert_uint_eq(d[i]->parent.instance_id, i);
    }
    object_unparent(OBJECT(d[1]));
    ck_assert_uint_eq(d[2]->parent.instance_id, 2);
    again = make("again", 0x500);
    realize(again, "again");
    ck_assert_uint_eq(again->parent.instance_id, 1);
    for (unsigned i = 0; i < 3; i++) {
        object_unref(d[i]);
    }
    object_unref(again);
}
END_TEST

/* ---- mappings ------------------------------------------------------------------------------ */

START_TEST(an_overlap_is_refused_with_both_names)
{
    TestDevice *a = make("first", 0x100), *c = make("second", 0x102);

    realize(a, NULL);
    ck_refused(c, NULL, "first");
    ck_assert_uint_eq(inp(0x100, 4), 0x11);
    object_unref(a);
    object_unref(c);
    c = make("second", 0x200); /* its memory overlaps: the ports are given back */
    ck_refused(c, NULL, "second");
    ck_assert_uint_eq(inp(0x200, 4), 0xffffffff);
    object_unref(c);
}
END_TEST

START_TEST(ports_beyond_the_last_are_refused)
{
    static const uint32_t ports[] = { 0xfffd, 0x10000, 0xfffffffe };

    for (unsigned i = 0; i < G_N_ELEMENTS(ports); i++) {
        TestDevice *s = make("far", ports[i]);

        ck_refused(s, NULL, "does not fit");
        object_unref(s);
    }
    TestDevice *s = make("last", 0xfffc);
    realize(s, NULL);
    object_unref(s);
}
END_TEST

/* ---- lines --------------------------------------------------------------------------------- */

static void note_line(const char *name, bool is_input, unsigned count, void *opaque)
{
    g_string_append_printf(opaque, "%s%s:%u ", is_input ? "<" : ">", name ? name : "", count);
}

START_TEST(an_output_reaches_the_input_it_is_connected_to)
{
    TestDevice *s = make("a", 0x100);
    g_autoptr(GError) error = NULL;
    Irq *in2, *unnamed;

    realize(s, NULL);
    in2 = device_get_irq_in(&s->parent, "in", 2, &error);
    unnamed = device_get_irq_in(&s->parent, NULL, 0, &error);
    ck_assert_ptr_nonnull(in2);
    ck_assert_ptr_eq(device_get_irq_in(&s->parent, "in", 2, NULL), in2);
    irq_raise(s->out[1]); /* connected to nothing */
    ck_assert(device_connect_irq_out(&s->parent, "out", 1, in2, &error));
    irq_raise(s->out[1]);
    ck_assert_int_eq(s->last_n, 2);
    ck_assert_int_eq(s->last_level, 1);
    /* A rewired line takes what it carries along. */
    ck_assert(device_connect_irq_out(&s->parent, "out", 1, unnamed, &error));
    ck_assert_int_eq(s->last_n, 0);
    ck_assert_int_eq(s->last_level, 1);
    ck_assert(device_connect_irq_out(&s->parent, "out", 1, NULL, &error));
    s->inputs = 0;
    irq_lower(s->out[1]);
    ck_assert_uint_eq(s->inputs, 0);
    object_unref(s);
}
END_TEST

START_TEST(wrong_line_names_and_numbers_are_named)
{
    TestDevice *s = make("a", 0x100);
    g_autoptr(GError) error = NULL;
    GString *list = g_string_new(NULL);

    realize(s, "dev0");
    ck_assert_ptr_null(device_get_irq_in(&s->parent, "im", 0, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "did you mean 'in'"));
    g_clear_error(&error);
    ck_assert_ptr_null(device_get_irq_in(&s->parent, "in", 3, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "0 to 2"));
    g_clear_error(&error);
    ck_assert(!device_connect_irq_out(&s->parent, NULL, 0, NULL, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "dev0"));
    g_clear_error(&error);
    ck_assert_ptr_null(device_get_irq_in(&s->parent, "out", 0, &error)); /* the other direction */
    device_lines_foreach(&s->parent, note_line, list);
    ck_assert_str_eq(list->str, "<in:3 <:1 >out:2 >late:1 ");
    g_string_truncate(list, 0);
    device_unrealize(&s->parent);
    device_lines_foreach(&s->parent, note_line, list);
    ck_assert_str_eq(list->str, "<in:3 <:1 >out:2 "); /* what realize declared has gone */
    g_string_free(list, TRUE);
    object_unref(s);
}
END_TEST

START_TEST(lines_of_a_device_that_went_are_dead)
{
    TestDevice *a = make("a", 0x100), *c = make("c", 0x300);
    Irq *in;

    realize(a, "a");
    device_unmap(&a->parent, &a->mem);
    realize(c, "c");
    in = irq_ref(device_get_irq_in(&c->parent, "in", 0, NULL));
    ck_assert(device_connect_irq_out(&a->parent, "out", 0, in, NULL));
    object_unparent(OBJECT(c));
    c->inputs = 0;
    irq_raise(a->out[0]);
    irq_raise(in);
    ck_assert_uint_eq(c->inputs, 0);
    ck_assert_ptr_null(device_get_irq_in(&c->parent, "in", 0, NULL));
    object_unparent(OBJECT(a));
    ck_assert_ptr_null(a->out[0]);
    irq_unref(in);
    object_unref(a);
    object_unref(c);
}
END_TEST

/* ---- on a complete machine ------------------------------------------------------------------ */

START_TEST(a_machine_reset_reaches_devices_until_they_are_unrealized)
{
    TestDevice *s = make("a", 0x100);
    g_autoptr(GError) error = NULL;

    complete();
    realize(s, NULL);
    outp(0x100, 0x99, 4);
    g_string_truncate(events, 0);
    ck_assert_msg(machine_reset(machine, &error), "%s", error ? error->message : "");
    ck_assert_str_eq(events->str, "reset:a ");
    ck_assert_uint_eq(inp(0x100, 4), 0x11);
    object_unparent(OBJECT(s));
    g_string_truncate(events, 0);
    ck_assert(machine_reset(machine, NULL));
    ck_assert_str_eq(events->str, "");
    object_unref(s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, a_realized_device_is_in_the_tree_mapped_reset_and_saved);
    tcase_add_loop_test(tc, a_device_that_fails_to_realize_leaves_nothing_behind, 0, 2);
    tcase_add_test(tc, a_composite_device_that_fails_takes_its_parts_along);
    tcase_add_test(tc, a_device_without_declared_state_is_refused_and_unrealized);
    tcase_add_test(tc, a_missing_required_property_is_named);
    tcase_add_test(tc, names_are_made_up_and_duplicates_refused);
    tcase_add_test(tc, unparenting_unrealizes_first_and_parts_after_the_whole);
    tcase_add_test(tc, an_unrealized_device_can_be_realized_again);
    tcase_add_test(tc, closing_the_machine_unrealizes_its_devices);
    tcase_add_test(tc, a_place_outside_of_the_machine_is_refused);
    tcase_add_test(tc, a_reset_gives_the_first_state_back);
    tcase_add_test(tc, instance_numbers_stay_when_others_go);
    tcase_add_test(tc, an_overlap_is_refused_with_both_names);
    tcase_add_test(tc, ports_beyond_the_last_are_refused);
    tcase_add_test(tc, an_output_reaches_the_input_it_is_connected_to);
    tcase_add_test(tc, wrong_line_names_and_numbers_are_named);
    tcase_add_test(tc, lines_of_a_device_that_went_are_dead);
    tcase_add_test(tc, a_machine_reset_reaches_devices_until_they_are_unrealized);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
