/* The small ISA devices that talk: serial port, debug console, debug exit. */
#include "tests/unit/device_rig.h"

/* ---- the serial port ----------------------------------------------------------------------- */

static DeviceState *make_device(const char *type, const char *prop, const char *value)
{
    g_autoptr(GError) error = NULL;
    Object *obj = object_new(type, &error);

    ck_assert_msg(obj != NULL, "%s", error ? error->message : "");
    if (prop) {
        ck_assert(object_property_parse(obj, prop, value, &error));
    }
    return DEVICE(obj);
}

static void add(DeviceState *dev)
{
    g_autoptr(GError) error = NULL;
    bool ok = device_realize(dev, machine, NULL, &error);

    ck_assert_msg(ok, "%s", error ? error->message : "");
    object_unref(dev); /* the machine holds it */
}

static void ck_not_added(DeviceState *dev, const char *why)
{
    g_autoptr(GError) error = NULL;

    ck_assert(!device_realize(dev, machine, NULL, &error));
    ck_assert_msg(strstr(error->message, why) != NULL, "the message is: %s", error->message);
    object_unref(dev);
}

START_TEST(serial_ports_take_the_standard_places_in_turn)
{
    static const struct {
        unsigned iobase, irq;
    } expected[] = { { 0x3f8, 4 }, { 0x2f8, 3 }, { 0x3e8, 4 }, { 0x2e8, 3 } };

    for (unsigned i = 0; i < 4; i++) {
        DeviceState *dev = make_device("isa-serial", NULL, NULL);

        add(dev);
        ck_assert_uint_eq(object_property_get_uint(OBJECT(dev), "iobase", NULL),
                          expected[i].iobase);
        ck_assert_int_eq(object_property_get_int(OBJECT(dev), "irq", NULL), expected[i].irq);
        ck_assert_int_eq(object_property_get_int(OBJECT(dev), "index", NULL), (int)i);
        ck_assert_uint_eq(inp(expected[i].iobase + 5, 1), 0x60);
    }
    ck_not_added(make_device("isa-serial", NULL, NULL), "iobase");
    add(make_device("isa-serial", "iobase", "0x1000"));
    ck_not_added(make_device("isa-serial", "iobase", "0x3fc"), "overlaps");
    ck_not_added(make_device("isa-serial", "index", "4"), "index 4");
}
END_TEST

START_TEST(wide_accesses_to_a_serial_port_are_several_narrow_ones)
{
    uint64_t value;

    add(make_device("isa-serial", NULL, NULL));
    outp(0x3fb, 0x83, 1);
    outp(0x3f8, 0x0180, 2);
    ck_assert_uint_eq(inp(0x3f8, 1), 0x80);
    ck_assert_uint_eq(inp(0x3f9, 1), 0x01);
    ck_assert_uint_eq(inp(0x3f8, 2), 0x0180);
    value = inp(0x3fc, 4); /* MCR LSR MSR SCR */
    ck_assert_uint_eq(value, 0x00006000);
    outp(0x3ff, 0x5a, 1);
    ck_assert_uint_eq(inp(0x3fc, 4), 0x5a006000);
}
END_TEST

START_TEST(a_debuggers_read_takes_no_byte_away)
{
    DeviceState *dev = make_device("isa-serial", NULL, NULL);
    Chardev *chr = chardev_new_from_text("null", NULL);

    ck_assert(object_property_set_link(OBJECT(dev), "chardev", OBJECT(chr), NULL));
    add(dev);
    chardev_receive(chr, (const uint8_t *)"x", 1);
    ck_assert_uint_eq(address_space_ldn(machine->io, 0x3f8, 1, MEMTXATTRS_DEBUG, NULL), 'x');
    ck_assert_uint_eq(inp(0x3fd, 1), 0x61);
    ck_assert_uint_eq(inp(0x3f8, 1), 'x');
    ck_assert_uint_eq(inp(0x3fd, 1), 0x60);
    object_unref(chr);
}
END_TEST

START_TEST(a_chardev_serves_one_device_and_outlives_none_of_them_badly)
{
    DeviceState *a = make_device("isa-serial", NULL, NULL);
    DeviceState *c = make_device("isa-serial", NULL, NULL);
    Chardev *chr = chardev_new_from_text("ring,id=r0", NULL);
    uint8_t byte;

    ck_assert(object_property_set_link(OBJECT(a), "chardev", OBJECT(chr), NULL));
    ck_assert(object_property_set_link(OBJECT(c), "chardev", OBJECT(chr), NULL));
    add(a);
    ck_not_added(c, "r0");
    ck_assert_uint_eq(inp(0x2fd, 1), 0xff); /* and took its ports back */
    outp(0x3f8, '1', 1);
    ck_assert_uint_eq(chardev_ring_read(chr, &byte, 1), 1);
    ck_assert(object_add_child(object_get_root(), "r0", OBJECT(chr), NULL));
    object_unparent(OBJECT(chr)); /* gone under the device's feet */
    object_unref(chr);
    outp(0x3f8, '2', 1);
    ck_assert_uint_eq(inp(0x3fd, 1), 0x60);
    object_unparent(OBJECT(a));
    ck_assert_uint_eq(inp(0x3fd, 1), 0xff);
}
END_TEST

static void note_level(void *opaque, int n, int level)
{
    *(int *)opaque = level;
}

START_TEST(the_serial_interrupt_line_is_connected_by_the_board)
{
    DeviceState *dev = make_device("isa-serial", NULL, NULL);
    int level = 0;
    Irq *irq = irq_new(note_level, &level, 4);

    add(dev);
    ck_assert(device_connect_irq_out(dev, "irq", 0, irq, NULL));
    outp(0x3fc, 0x08, 1);
    outp(0x3f9, 0x02, 1);
    ck_assert_int_eq(level, 1);
    ck_assert_uint_eq(inp(0x3fa, 1), 0x02);
    ck_assert_int_eq(level, 0);
    irq_unref(irq);
}
END_TEST

/* ---- debug console and debug exit ---------------------------------------------------------- */

START_TEST(the_debug_console_prints_and_answers)
{
    static const char *const types[] = { "debugcon", "isa-debugcon" };
    DeviceState *dev = make_device(types[_i], NULL, NULL);
    Chardev *chr = chardev_new_from_text("ring", NULL);
    uint8_t buf[4] = { 0 };

    ck_assert(object_property_set_link(OBJECT(dev), "chardev", OBJECT(chr), NULL));
    add(dev);
    outp(0xe9, 'o', 1);
    outp(0xe9, 'k', 1);
    ck_assert_uint_eq(inp(0xe9, 1), 0xe9);
    ck_assert_uint_eq(chardev_ring_read(chr, buf, 3), 2);
    ck_assert_str_eq((char *)buf, "ok");
    ck_not_added(make_device(types[_i], "readback", "256"), "readback");
    ck_not_added(make_device(types[_i], NULL, NULL), "overlaps");
    object_unparent(OBJECT(dev));
    outp(0xe9, '!', 1);
    ck_assert_uint_eq(chardev_ring_count(chr), 0);
    ck_assert(chardev_attach(chr, &(ChardevHandlers){ 0 }, NULL, NULL)); /* free again */
    chardev_detach(chr);
    object_unref(chr);
}
END_TEST

START_TEST(the_debug_exit_ends_the_machine_with_the_guests_code)
{
    add(make_device("isa-debug-exit", NULL, NULL));
    ck_assert_uint_eq(inp(0xf4, 1), 0);
    outp(0xf4, 0x10, 4);
    while (machine->state != RUN_STATE_SHUTDOWN) {
        main_loop_iterate(true);
    }
    ck_assert_int_eq(machine->exit_code, 0x21);
    ck_not_added(make_device("isa-debug-exit", "iosize", "0"), "iosize");
}
END_TEST

/* ---- on a complete machine ------------------------------------------------------------------ */

START_TEST(a_snapshot_brings_a_serial_port_and_its_interrupt_back)
{
    DeviceState *dev = make_device("isa-serial", NULL, NULL);
    Chardev *chr = chardev_new_from_text("ring", NULL);
    g_autoptr(GError) error = NULL;
    Snapshot *snapshot;

    complete();
    ck_assert(object_property_set_link(OBJECT(dev), "chardev", OBJECT(chr), NULL));
    add(dev);
    ck_assert(device_connect_irq_out(dev, "irq", 0, machine_gsi(machine, 4), NULL));
    outp(0x3fb, 0x03, 1);
    outp(0x3fa, 0x01, 1);
    outp(0x3fc, 0x08, 1);
    outp(0x3f9, 0x01, 1);
    chardev_receive(chr, (const uint8_t *)"abc", 3);
    ck_assert_int_eq(irq_level(machine_gsi(machine, 4)), 1);
    snapshot = machine_snapshot(machine, &error);
    ck_assert_msg(snapshot != NULL, "%s", error ? error->message : "");

    for (int round = 0; round < 2; round++) {
        ck_assert_uint_eq(inp(0x3f8, 1), 'a');
        ck_assert_uint_eq(inp(0x3f8, 1), 'b');
        ck_assert_uint_eq(inp(0x3f8, 1), 'c');
        ck_assert_int_eq(irq_level(machine_gsi(machine, 4)), 0);
        ck_assert_uint_eq(fake_accel(machine)->lines[4], 0);
        outp(0x3fb, 0x80, 1);
        ck_assert_msg(machine_restore(machine, snapshot, &error), "%s",
                      error ? error->message : "");
        ck_assert_int_eq(irq_level(machine_gsi(machine, 4)), 1);
        ck_assert_uint_eq(fake_accel(machine)->lines[4], 1);
        ck_assert_uint_eq(inp(0x3fb, 1), 0x03);
    }
    snapshot_unref(snapshot);
    object_unref(chr);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("isa char");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, rig_open, rig_close);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, serial_ports_take_the_standard_places_in_turn);
    tcase_add_test(tc, wide_accesses_to_a_serial_port_are_several_narrow_ones);
    tcase_add_test(tc, a_debuggers_read_takes_no_byte_away);
    tcase_add_test(tc, a_chardev_serves_one_device_and_outlives_none_of_them_badly);
    tcase_add_test(tc, the_serial_interrupt_line_is_connected_by_the_board);
    tcase_add_loop_test(tc, the_debug_console_prints_and_answers, 0, 2);
    tcase_add_test(tc, the_debug_exit_ends_the_machine_with_the_guests_code);
    tcase_add_test(tc, a_snapshot_brings_a_serial_port_and_its_interrupt_back);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
