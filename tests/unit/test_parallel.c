/* The parallel port: registers, bytes to the chardev, busy and acknowledge, the interrupt, state.
 */
#include "engine/chardev/chardev.h"
#include "tests/unit/intc_rig.h"

static DeviceState *port;
static Chardev *ring;
static Irq *irq;
static int level;
static unsigned rises;

static void irq_changed(void *opaque, int n, int new_level)
{
    rises += new_level && !level;
    level = new_level;
}

static void setup(void)
{
    machine_setup();
    ring = chardev_new_from_text("ring", NULL);
    ck_assert_ptr_nonnull(ring);
    port = DEVICE(object_new("isa-parallel", NULL));
    ck_assert(object_property_set_link(OBJECT(port), "chardev", OBJECT(ring), NULL));
    irq = irq_new(irq_changed, NULL, 0);
    ck_assert(device_connect_irq_out(port, "irq", 0, irq, NULL));
    ck_assert(device_realize(port, machine, "lpt1", NULL));
    object_unref(port);
    level = 0;
    rises = 0;
}

static void teardown(void)
{
    chardev_close(ring);
    object_unref(ring);
    machine_teardown();
    irq_disconnect(irq);
    irq_unref(irq);
}

static void strobe(uint8_t byte, unsigned control)
{
    outb(0x378, byte);
    outb(0x37a, control | 1);
    outb(0x37a, control);
}

static size_t printed(uint8_t *buf, size_t len)
{
    return chardev_ring_read(ring, buf, len);
}

START_TEST(registers_read_back_what_they_keep)
{
    ck_assert_uint_eq(inb(0x37a), 0xcc);
    ck_assert_uint_eq(inb(0x379), 0xdf);
    for (unsigned v = 0; v < 256; v += 17) {
        outb(0x378, v);
        ck_assert_uint_eq(inb(0x378), v);
    }
    outb(0x37a, 0xee);
    ck_assert_uint_eq(inb(0x37a), 0xee);
    ck_assert_uint_eq(inb(0x378), 0xff); /* direction: in */
    outb(0x37a, 0x0e);
    ck_assert_uint_eq(inb(0x37a), 0xce);
    outb(0x379, 0); /* cannot be written */
    ck_assert_uint_eq(inb(0x379), 0xdf);
    device_reset(port);
    ck_assert_uint_eq(inb(0x378), 0);
}
END_TEST

START_TEST(a_strobe_sends_the_byte_and_the_printer_acknowledges)
{
    uint8_t buf[8];

    strobe('A', 0x0c);
    ck_assert_uint_eq(printed(buf, 8), 1);
    ck_assert_uint_eq(buf[0], 'A');
    ck_assert_uint_eq(inb(0x379), 0x5f); /* busy */
    run_until(now_ns + 5000);
    ck_assert_uint_eq(inb(0x379), 0x1f); /* acknowledges */
    run_until(now_ns + 5000);
    ck_assert_uint_eq(inb(0x379), 0xdf);
    ck_assert_uint_eq(rises, 0);
    outb(0x378, 'B');
    ck_assert_uint_eq(printed(buf, 8), 0); /* not without a strobe */
    strobe('B', 0x0c);
    strobe('C', 0x0c); /* while it is busy */
    ck_assert_uint_eq(printed(buf, 8), 1);
    ck_assert_uint_eq(buf[0], 'B');
}
END_TEST

START_TEST(the_interrupt_comes_with_the_end_of_the_acknowledgement)
{
    strobe('A', 0x1c);
    run_until(now_ns + 9999);
    ck_assert_int_eq(level, 0);
    run_until(now_ns + 1);
    ck_assert_int_eq(level, 1);
    ck_assert_uint_eq(inb(0x379), 0xdf); /* answers it */
    ck_assert_int_eq(level, 0);
    strobe('B', 0x1c);
    run_until(now_ns + 10000);
    ck_assert_uint_eq(rises, 2);
    outb(0x37a, 0x0c);
    ck_assert_int_eq(level, 0);
}
END_TEST

/* The host's timers do not run here at all: only time goes on. */
START_TEST(a_guest_that_polls_waits_for_no_timer_of_the_host)
{
    uint8_t buf[8];

    strobe('A', 0x1c);
    now_ns += 7000;
    ck_assert_uint_eq(inb(0x379), 0x1f);
    ck_assert_uint_eq(rises, 0);
    now_ns += 3000;
    ck_assert_uint_eq(inb(0x379), 0xdf);
    ck_assert_uint_eq(rises, 1); /* and was answered by that read */
    ck_assert_int_eq(level, 0);
    strobe('B', 0x1c);
    now_ns += 20000;
    strobe('C', 0x1c); /* the printer is ready for it, whether it was asked or not */
    ck_assert_uint_eq(printed(buf, 8), 3);
    ck_assert_uint_eq(rises, 2);
    run_until(now_ns + 10000);
    ck_assert_uint_eq(inb(0x379), 0xdf);
}
END_TEST

START_TEST(init_resets_the_printer)
{
    strobe('A', 0x1c);
    outb(0x37a, 0x18);
    run_until(now_ns + 100000);
    ck_assert_uint_eq(rises, 0);
    ck_assert_uint_eq(inb(0x379), 0xdf);
}
END_TEST

START_TEST(state_saved_while_the_printer_is_busy_goes_on)
{
    strobe('A', 0x1c);
    g_autoptr(GBytes) saved = save_device(port);
    device_reset(port);
    ck_assert(load_device(port, saved));
    ck_assert_uint_eq(inb(0x379), 0x5f);
    run_until(now_ns + 10000);
    ck_assert_int_eq(level, 1);
}
END_TEST

START_TEST(the_index_chooses_ports_and_mistakes_are_named)
{
    DeviceState *dev = DEVICE(object_new("isa-parallel", NULL));
    g_autoptr(GError) error = NULL;

    object_property_parse(OBJECT(dev), "index", "3", NULL);
    ck_assert(!device_realize(dev, machine, "lpt4", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "index 3"));
    object_unref(dev);
    dev = DEVICE(object_new("isa-parallel", NULL));
    object_property_parse(OBJECT(dev), "index", "1", NULL);
    ck_assert(device_realize(dev, machine, "lpt2", NULL));
    object_unref(dev);
    outb(0x278, 0x55);
    ck_assert_uint_eq(inb(0x278), 0x55);
    outb(0x27a, 1); /* nobody takes it */
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    GRand *rand = g_rand_new_with_seed(378);

    for (unsigned i = 0; i < 100000; i++) {
        unsigned p = 0x378 + g_rand_int(rand) % 3;

        if (g_rand_boolean(rand)) {
            address_space_stn(machine->io, p, g_rand_int(rand), 1u << g_rand_int(rand) % 3,
                              MEMTXATTRS_NONE, NULL);
        } else {
            address_space_ldn(machine->io, p, 1u << g_rand_int(rand) % 3, MEMTXATTRS_NONE, NULL);
        }
        run_until(now_ns + g_rand_int(rand) % 4000);
    }
    g_rand_free(rand);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, registers_read_back_what_they_keep);
    tcase_add_test(tc, a_strobe_sends_the_byte_and_the_printer_acknowledges);
    tcase_add_test(tc, the_interrupt_comes_with_the_end_of_the_acknowledgement);
    tcase_add_test(tc, a_guest_that_polls_waits_for_no_timer_of_the_host);
    tcase_add_test(tc, init_resets_the_printer);
    tcase_add_test(tc, state_saved_while_the_printer_is_busy_goes_on);
    tcase_add_test(tc, the_index_chooses_ports_and_mistakes_are_named);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("parallel", setup, teardown, add);
}
