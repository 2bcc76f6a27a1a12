/* The 8259A pair: initialization, priorities, triggers, every end of interrupt, poll, cascade,
 * spurious interrupts, hostile guests, state. */
#include "engine/hw/intc/pic.h"
#include "tests/unit/intc_rig.h"

static DeviceState *pic;
static Irq *intr;
static int intr_level;

static void intr_changed(void *opaque, int n, int level)
{
    intr_level = level;
}

static void line(unsigned n, int level)
{
    irq_set(device_get_irq_in(pic, NULL, n, NULL), level);
}

static unsigned read_reg(unsigned port, unsigned ocw3)
{
    outb(port, ocw3);
    return inb(port);
}
static unsigned irr(unsigned port)
{
    return read_reg(port, 0x0a);
}
static unsigned isr(unsigned port)
{
    return read_reg(port, 0x0b);
}

/* As a PC's firmware does: vectors 8 and 0x70, everything unmasked. */
static void init_pair(unsigned icw4)
{
    outb(0x20, 0x11);
    outb(0x21, 0x08);
    outb(0x21, 0x04);
    outb(0x21, icw4);
    outb(0xa0, 0x11);
    outb(0xa1, 0x70);
    outb(0xa1, 0x02);
    outb(0xa1, icw4);
}

static void setup(void)
{
    machine_setup();
    intr_level = 0;
    pic = device_make(TYPE_ISA_PIC, "pic");
    intr = irq_new(intr_changed, NULL, 0);
    ck_assert(device_connect_irq_out(pic, "intr", 0, intr, NULL));
    init_pair(0x01);
}

static void teardown(void)
{
    machine_teardown();
    irq_disconnect(intr);
    irq_unref(intr);
}

START_TEST(registers_read_back_and_are_zero_after_reset)
{
    outb(0x21, 0x5a);
    outb(0xa1, 0xa5);
    ck_assert_uint_eq(inb(0x21), 0x5a);
    ck_assert_uint_eq(inb(0xa1), 0xa5);
    outb(0x4d0, 0xff);
    outb(0x4d1, 0xff);
    ck_assert_uint_eq(inb(0x4d0), 0xf8); /* 0, 1 and 2 are always edges */
    ck_assert_uint_eq(inb(0x4d1), 0xde); /* so are 8 and 13 */
    line(3, 1);
    device_reset(pic);
    ck_assert_uint_eq(inb(0x21) | inb(0xa1) | inb(0x4d0) | inb(0x4d1), 0);
    ck_assert_uint_eq(irr(0x20) | irr(0xa0) | isr(0x20) | isr(0xa0), 0);
    ck_assert_int_eq(intr_level, 0);
}
END_TEST

START_TEST(an_edge_is_one_interrupt_and_the_line_must_fall_before_the_next)
{
    line(4, 1);
    ck_assert_int_eq(intr_level, 1);
    ck_assert_uint_eq(irr(0x20), 0x10);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0c);
    ck_assert_int_eq(intr_level, 0);
    ck_assert_uint_eq(irr(0x20), 0);
    ck_assert_uint_eq(isr(0x20), 0x10);
    outb(0x20, 0x20);
    ck_assert_uint_eq(isr(0x20), 0);
    line(4, 1);
    ck_assert_int_eq(intr_level, 0);
    line(4, 0);
    line(4, 1);
    ck_assert_int_eq(intr_level, 1);
}
END_TEST

START_TEST(a_level_interrupts_until_its_line_falls)
{
    outb(0x4d0, 0x20);
    line(5, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0d);
    ck_assert_uint_eq(irr(0x20), 0x20);
    ck_assert_int_eq(intr_level, 0);
    outb(0x20, 0x20);
    ck_assert_int_eq(intr_level, 1);
    line(5, 0);
    ck_assert_int_eq(intr_level, 0);
    ck_assert_uint_eq(irr(0x20), 0);
}
END_TEST

START_TEST(a_change_of_the_trigger_takes_what_the_line_shows)
{
    line(5, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0d);
    outb(0x20, 0x20);
    ck_assert_uint_eq(irr(0x20), 0);
    outb(0x4d0, 0x20);
    ck_assert_uint_eq(irr(0x20), 0x20);
    outb(0x4d0, 0);
    ck_assert_uint_eq(irr(0x20), 0);
}
END_TEST

START_TEST(ltim_makes_every_input_a_level)
{
    outb(0x20, 0x19);
    outb(0x21, 0x08);
    outb(0x21, 0x04);
    outb(0x21, 0x01);
    line(0, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 8);
    outb(0x20, 0x20);
    ck_assert_int_eq(intr_level, 1);
    line(0, 0);
    ck_assert_int_eq(intr_level, 0);
}
END_TEST

START_TEST(priorities_nest_and_masks_hold_back)
{
    line(5, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0d);
    line(6, 1);
    ck_assert_int_eq(intr_level, 0); /* lower than what is served */
    line(1, 1);
    ck_assert_int_eq(intr_level, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x09);
    ck_assert_uint_eq(isr(0x20), 0x22);
    outb(0x20, 0x20); /* the highest in service */
    ck_assert_uint_eq(isr(0x20), 0x20);
    outb(0x21, 0x40);
    outb(0x20, 0x20);
    ck_assert_int_eq(intr_level, 0);
    ck_assert_uint_eq(irr(0x20), 0x40); /* masked, not lost */
    outb(0x21, 0);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0e);
    outb(0x20, 0x66); /* specific */
    ck_assert_uint_eq(isr(0x20), 0);
}
END_TEST

START_TEST(the_slave_interrupts_through_input_2)
{
    line(2, 1); /* not connected on a PC */
    ck_assert_int_eq(intr_level, 0);
    line(12, 1);
    ck_assert_uint_eq(irr(0xa0), 0x10);
    ck_assert_uint_eq(irr(0x20), 0x04);
    ck_assert_int_eq(pic_acknowledge(pic), 0x74);
    ck_assert_uint_eq(isr(0x20), 0x04);
    ck_assert_uint_eq(isr(0xa0), 0x10);
    line(9, 1); /* higher in the slave, but the master serves its level already */
    ck_assert_int_eq(intr_level, 0);
    line(1, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x09);
    outb(0x20, 0x20);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ck_assert_int_eq(pic_acknowledge(pic), 0x71);
}
END_TEST

START_TEST(special_fully_nested_mode_lets_the_slave_interrupt_itself)
{
    init_pair(0x11);
    line(12, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x74);
    line(9, 1);
    ck_assert_int_eq(intr_level, 1);
    line(3, 1); /* but what is below the slave waits */
    ck_assert_int_eq(pic_acknowledge(pic), 0x71);
    ck_assert_int_eq(intr_level, 0);
    ck_assert_uint_eq(isr(0xa0), 0x12);
    outb(0xa0, 0x20);
    outb(0xa0, 0x20);
    outb(0x20, 0x20);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0b);
}
END_TEST

START_TEST(special_mask_mode_lets_lower_levels_through)
{
    line(3, 1);
    pic_acknowledge(pic);
    line(6, 1);
    ck_assert_int_eq(intr_level, 0);
    outb(0x21, 0x08);
    ck_assert_int_eq(intr_level, 0);
    outb(0x20, 0x68);
    ck_assert_int_eq(intr_level, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0e);
    outb(0x20, 0x20); /* not the masked one */
    ck_assert_uint_eq(isr(0x20), 0x08);
    outb(0x20, 0x20);
    ck_assert_uint_eq(isr(0x20), 0x08);
    outb(0x20, 0x48);
    outb(0x20, 0x20);
    ck_assert_uint_eq(isr(0x20), 0);
}
END_TEST

START_TEST(automatic_eoi_leaves_nothing_in_service_and_can_rotate)
{
    init_pair(0x03);
    line(3, 1);
    line(4, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0b);
    ck_assert_uint_eq(isr(0x20), 0);
    ck_assert_int_eq(intr_level, 1);
    outb(0x20, 0x80); /* rotate */
    ck_assert_int_eq(pic_acknowledge(pic), 0x0c);
    line(4, 0);
    line(4, 1);
    line(5, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0d); /* 4 is the lowest now */
    ck_assert_int_eq(pic_acknowledge(pic), 0x0c);
    outb(0x20, 0x00);
}
END_TEST

START_TEST(two_requests_of_a_slave_with_automatic_eoi_both_arrive)
{
    init_pair(0x03);
    line(9, 1);
    line(10, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x71);
    ck_assert_int_eq(intr_level, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x72);
    ck_assert_int_eq(intr_level, 0);
}
END_TEST

START_TEST(priorities_rotate_by_command)
{
    line(2 + 1, 1);
    line(6, 1);
    outb(0x20, 0xc4); /* 4 is the lowest: 5 6 7 0 1 2 3 4 */
    ck_assert_int_eq(pic_acknowledge(pic), 0x0e);
    outb(0x20, 0xa0); /* rotate on non-specific: 7 0 1 … 6 */
    line(6, 0);
    line(6, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0b);
    outb(0x20, 0xe3); /* rotate on specific 3: 4 5 6 7 0 … */
    line(0, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0e);
    outb(0x20, 0x40); /* no operation */
    ck_assert_uint_eq(isr(0x20), 0x40);
}
END_TEST

START_TEST(a_request_that_goes_before_the_acknowledge_is_spurious)
{
    ck_assert_int_eq(pic_acknowledge(pic), 0x0f);
    ck_assert_uint_eq(isr(0x20), 0);
    outb(0x4d1, 0x08);
    line(11, 1);
    ck_assert_int_eq(intr_level, 1);
    line(11, 0);
    /* The master has latched the slave's edge; the slave has nothing any more. */
    ck_assert_int_eq(pic_acknowledge(pic), 0x77);
    ck_assert_uint_eq(isr(0xa0), 0);
    ck_assert_uint_eq(isr(0x20), 0x04);
}
END_TEST

START_TEST(a_poll_acknowledges_one_chip)
{
    line(4, 1);
    line(9, 1);
    outb(0x20, 0x0c);
    ck_assert_uint_eq(inb(0x20), 0x82);
    ck_assert_uint_eq(isr(0x20), 0x04);
    outb(0xa0, 0x0c);
    ck_assert_uint_eq(inb(0xa1), 0x81); /* any read of the chip */
    ck_assert_uint_eq(isr(0xa0), 0x02);
    ck_assert_uint_eq(inb(0xa1), 0);
    outb(0xa0, 0x0c);
    ck_assert_uint_eq(inb(0xa0) & 0x80, 0);
    /* A debugger's read disturbs nothing. */
    outb(0x20, 0x20);
    outb(0x20, 0x0c);
    address_space_ldn(machine->io, 0x20, 1, MEMTXATTRS_DEBUG, NULL);
    ck_assert_uint_eq(inb(0x20), 0x84);
}
END_TEST

START_TEST(initialization_forgets_edges_and_masks_and_keeps_levels)
{
    outb(0x4d0, 0x20);
    line(4, 1);
    line(5, 1);
    outb(0x21, 0xff);
    outb(0x20, 0xc2);
    init_pair(0x01);
    ck_assert_uint_eq(inb(0x21), 0);
    ck_assert_uint_eq(irr(0x20), 0x20);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0d);
    /* Without ICW4, and without a slave (no ICW3). */
    init_pair(0x13);
    outb(0x20, 0x12);
    outb(0x21, 0x40);
    outb(0x21, 0xaa);
    ck_assert_uint_eq(inb(0x21), 0xaa);
    outb(0x21, 0);
    ck_assert_int_eq(pic_acknowledge(pic), 0x45);
    ck_assert_uint_eq(isr(0x20), 0x20); /* not automatic */
}
END_TEST

START_TEST(the_slaves_request_survives_an_initialization_of_the_master)
{
    outb(0x4d1, 0x08);
    line(11, 1);
    outb(0x20, 0x11);
    outb(0x21, 0x08);
    outb(0x21, 0x04);
    outb(0x21, 0x01);
    ck_assert_int_eq(intr_level, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x73);
}
END_TEST

START_TEST(wider_accesses_are_two_cycles)
{
    address_space_stn(machine->io, 0x20, 0x5a0a, 2, MEMTXATTRS_NONE, NULL);
    ck_assert_uint_eq(inb(0x21), 0x5a);
    ck_assert_uint_eq(address_space_ldn(machine->io, 0x20, 2, MEMTXATTRS_NONE, NULL), 0x5a00);
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    static const unsigned ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
    g_autoptr(GRand) rand = g_rand_new_with_seed(4711);
    uint8_t lines[16] = { 0 };

    for (unsigned i = 0; i < 100000; i++) {
        unsigned port = ports[g_rand_int(rand) % G_N_ELEMENTS(ports)];

        switch (g_rand_int(rand) % 5) {
        case 0:
            inb(port);
            break;
        case 1: {
            unsigned n = g_rand_int(rand) % 16;

            line(n, lines[n] = !lines[n]);
            break;
        }
        case 2:
            if (intr_level) {
                int vector = pic_acknowledge(pic);

                ck_assert_int_ge(vector, 0);
                ck_assert_int_lt(vector, 256);
            }
            break;
        default:
            outb(port, g_rand_int(rand) & 0xff);
            break;
        }
        /* An output that is up has an unmasked request behind it. */
        if (intr_level) {
            GBytes *before = save_device(pic);
            unsigned request;

            outb(0x20, 0x0a); /* may be the poll's read: then it is answered */
            request = inb(0x20);
            ck_assert_uint_ne(request, 0);
            ck_assert(load_device(pic, before));
            g_bytes_unref(before);
        }
    }
}
END_TEST

START_TEST(state_saved_in_the_middle_of_everything_goes_on)
{
    g_autoptr(GBytes) bytes = NULL;

    line(1, 1);
    line(10, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x09);
    outb(0xa0, 0x11); /* half-way through an initialization */
    outb(0xa1, 0x50);
    line(14, 1);
    bytes = save_device(pic);
    device_reset(pic);
    ck_assert_int_eq(intr_level, 0);
    ck_assert(load_device(pic, bytes));
    ck_assert_uint_eq(isr(0x20), 0x02);
    outb(0xa1, 0x02);
    outb(0xa1, 0x01);
    outb(0x20, 0x20);
    ck_assert_int_eq(intr_level, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x56);
}
END_TEST

START_TEST(the_machine_leads_its_lines_and_acknowledges_here)
{
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 16; i++) {
        ck_assert(machine_connect_gsi(machine, i, device_get_irq_in(pic, NULL, i, NULL), &error));
    }
    irq_raise(machine_gsi(machine, 4));
    ck_assert_int_eq(intr_level, 1);
    ck_assert_int_eq(pic_acknowledge(pic), 0x0c);
    ck_assert(!machine_connect_gsi(machine, MACHINE_MAX_GSI, intr, &error));
    ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    for (unsigned i = 1; i < MACHINE_GSI_PINS; i++) {
        ck_assert(machine_connect_gsi(machine, 3, intr, &error));
    }
    ck_assert(!machine_connect_gsi(machine, 3, intr, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "line 3"));
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, registers_read_back_and_are_zero_after_reset);
    tcase_add_test(tc, an_edge_is_one_interrupt_and_the_line_must_fall_before_the_next);
    tcase_add_test(tc, a_level_interrupts_until_its_line_falls);
    tcase_add_test(tc, a_change_of_the_trigger_takes_what_the_line_shows);
    tcase_add_test(tc, ltim_makes_every_input_a_level);
    tcase_add_test(tc, priorities_nest_and_masks_hold_back);
    tcase_add_test(tc, the_slave_interrupts_through_input_2);
    tcase_add_test(tc, special_fully_nested_mode_lets_the_slave_interrupt_itself);
    tcase_add_test(tc, special_mask_mode_lets_lower_levels_through);
    tcase_add_test(tc, automatic_eoi_leaves_nothing_in_service_and_can_rotate);
    tcase_add_test(tc, two_requests_of_a_slave_with_automatic_eoi_both_arrive);
    tcase_add_test(tc, priorities_rotate_by_command);
    tcase_add_test(tc, a_request_that_goes_before_the_acknowledge_is_spurious);
    tcase_add_test(tc, a_poll_acknowledges_one_chip);
    tcase_add_test(tc, initialization_forgets_edges_and_masks_and_keeps_levels);
    tcase_add_test(tc, the_slaves_request_survives_an_initialization_of_the_master);
    tcase_add_test(tc, wider_accesses_are_two_cycles);
    tcase_add_test(tc, no_guest_can_break_it);
    tcase_add_test(tc, state_saved_in_the_middle_of_everything_goes_on);
    tcase_add_test(tc, the_machine_leads_its_lines_and_acknowledges_here);
}

int main(void)
{
    return run_tests("pic", setup, teardown, add);
}
