/* The 8254: the six modes against the data sheet's timing diagrams, every way to read, gates, BCD,
 * the line of counter 0, hostile guests, state. */
#include "engine/hw/timer/pit.h"
#include "tests/unit/intc_rig.h"

static DeviceState *pit;
static Irq *irq;
static int level;
static unsigned rises;

static void irq_changed(void *opaque, int n, int new_level)
{
    rises += new_level && !level;
    level = new_level;
}

static int64_t clk_ns(int64_t clk)
{
    return (clk * 1000000000 + PIT_HZ - 1) / PIT_HZ;
}

/* To CLK number n since the test began. */
static void clk(int64_t n)
{
    run_until(clk_ns(n));
}

static void control(unsigned channel, unsigned rw, unsigned mode, bool bcd)
{
    outb(0x43, channel << 6 | rw << 4 | mode << 1 | bcd);
}

static void count16(unsigned channel, unsigned value)
{
    outb(0x40 + channel, value & 0xff);
    outb(0x40 + channel, value >> 8);
}

static unsigned latch16(unsigned channel)
{
    unsigned low;

    outb(0x43, channel << 6);
    low = inb(0x40 + channel);
    return low | inb(0x40 + channel) << 8;
}

static unsigned status(unsigned channel)
{
    outb(0x43, 0xe0 | 2u << channel);
    return inb(0x40 + channel);
}

static void setup(void)
{
    machine_setup();
    pit = device_make(TYPE_ISA_PIT, "pit");
    irq = irq_new(irq_changed, NULL, 0);
    ck_assert(device_connect_irq_out(pit, "irq", 0, irq, NULL));
    level = 0;
    rises = 0;
}

static void teardown(void)
{
    machine_teardown();
    irq_disconnect(irq);
    irq_unref(irq);
}

START_TEST(after_reset_nothing_counts_and_gate_2_is_low)
{
    clk(100000);
    ck_assert_uint_eq(rises, 0);
    ck_assert(pit_get_gate(pit, 0) && pit_get_gate(pit, 1) && !pit_get_gate(pit, 2));
    ck_assert_uint_eq(inb(0x43), 0xff);
    outb(0x40, 5); /* without a mode */
    clk(200000);
    ck_assert_uint_eq(rises, 0);
}
END_TEST

START_TEST(mode_0_rises_once_n_plus_1_clocks_after_the_count)
{
    control(0, 3, 0, false);
    ck_assert_int_eq(level, 0);
    ck_assert_uint_eq(status(0), 0x70); /* OUT low, null count, LSB then MSB */
    count16(0, 1000);
    ck_assert_uint_eq(status(0), 0x70); /* loaded with the next CLK */
    clk(1);
    ck_assert_uint_eq(status(0), 0x30);
    ck_assert_uint_eq(latch16(0), 1000);
    clk(1000);
    ck_assert_uint_eq(latch16(0), 1);
    ck_assert_int_eq(level, 0);
    clk(1001);
    ck_assert_int_eq(level, 1);
    ck_assert_uint_eq(latch16(0), 0);
    clk(1002);
    ck_assert_uint_eq(latch16(0), 0xffff); /* it counts on */
    clk(200000);
    ck_assert_uint_eq(rises, 1);
    outb(0x40, 10); /* the first byte of a new count: low at once */
    ck_assert_int_eq(level, 0);
    clk(300000);
    ck_assert_uint_eq(rises, 1);
    outb(0x40, 0);
    clk(300011);
    ck_assert_uint_eq(rises, 2);
}
END_TEST

START_TEST(mode_0_stops_while_the_gate_is_low)
{
    control(2, 3, 0, false);
    count16(2, 100);
    clk(50);
    ck_assert_uint_eq(latch16(2), 100); /* loaded, though the gate is low */
    pit_set_gate(pit, 2, true);
    clk(90);
    ck_assert_uint_eq(latch16(2), 60);
    pit_set_gate(pit, 2, false);
    clk(500);
    ck_assert_uint_eq(latch16(2), 60);
    ck_assert(!pit_get_out(pit, 2));
    pit_set_gate(pit, 2, true);
    clk(559);
    ck_assert(!pit_get_out(pit, 2));
    clk(560);
    ck_assert(pit_get_out(pit, 2));
}
END_TEST

START_TEST(mode_1_is_a_retriggerable_one_shot)
{
    control(2, 3, 1, false);
    ck_assert(pit_get_out(pit, 2));
    count16(2, 10);
    clk(50);
    ck_assert(pit_get_out(pit, 2)); /* waits for its trigger */
    ck_assert_uint_eq(status(2) & 0x40, 0x40);
    pit_set_gate(pit, 2, true);
    clk(51);
    ck_assert(!pit_get_out(pit, 2));
    ck_assert_uint_eq(status(2) & 0x40, 0);
    pit_set_gate(pit, 2, false); /* the level does not matter */
    clk(55);
    pit_set_gate(pit, 2, true);
    clk(65);
    ck_assert(!pit_get_out(pit, 2));
    clk(66);
    ck_assert(pit_get_out(pit, 2));
    count16(2, 3); /* no effect before a trigger */
    clk(70);
    ck_assert(pit_get_out(pit, 2));
}
END_TEST

START_TEST(mode_2_divides_by_n)
{
    control(0, 3, 2, false);
    ck_assert_int_eq(level, 1); /* OUT is high from the control word on */
    rises = 0;
    count16(0, 100);
    clk(1);
    ck_assert_uint_eq(latch16(0), 100);
    clk(99);
    ck_assert_uint_eq(latch16(0), 2);
    clk(100);
    ck_assert_uint_eq(latch16(0), 1);
    ck_assert_uint_eq(status(0) & 0x80, 0);
    clk(101);
    ck_assert_uint_eq(latch16(0), 100);
    ck_assert_uint_eq(status(0) & 0x80, 0x80);
    clk(1001);
    ck_assert_uint_eq(rises, 10);
    /* A new count waits for the end of the cycle. */
    clk(1050);
    count16(0, 1000);
    ck_assert_uint_eq(status(0) & 0x40, 0x40);
    ck_assert_uint_eq(latch16(0), 51);
    clk(1101);
    ck_assert_uint_eq(latch16(0), 1000);
    ck_assert_uint_eq(rises, 11);
    clk(2100);
    ck_assert_uint_eq(rises, 11);
    clk(2101);
    ck_assert_uint_eq(rises, 12);
}
END_TEST

START_TEST(mode_2_is_high_while_its_gate_is_low_and_starts_anew)
{
    pit_set_gate(pit, 2, true);
    control(2, 3, 2, false);
    count16(2, 10);
    clk(10);
    ck_assert(!pit_get_out(pit, 2));
    pit_set_gate(pit, 2, false);
    ck_assert(pit_get_out(pit, 2));
    ck_assert_uint_eq(latch16(2), 1);
    clk(100);
    ck_assert_uint_eq(latch16(2), 1);
    pit_set_gate(pit, 2, true);
    clk(101);
    ck_assert_uint_eq(latch16(2), 10);
}
END_TEST

START_TEST(mode_3_is_a_square_wave_for_even_and_odd_counts)
{
    static const unsigned even[] = { 4, 2, 4, 2, 4 }, odd[] = { 4, 2, 0, 4, 2, 4 };
    static const bool even_out[] = { 1, 1, 0, 0, 1 }, odd_out[] = { 1, 1, 1, 0, 0, 1 };

    pit_set_gate(pit, 2, true);
    control(2, 3, 3, false);
    count16(2, 4);
    for (unsigned i = 0; i < G_N_ELEMENTS(even); i++) {
        clk(1 + i);
        ck_assert_uint_eq(latch16(2), even[i]);
        ck_assert_int_eq(pit_get_out(pit, 2), even_out[i]);
    }
    control(2, 3, 3, false);
    count16(2, 5);
    for (unsigned i = 0; i < G_N_ELEMENTS(odd); i++) {
        clk(6 + i);
        ck_assert_uint_eq(latch16(2), odd[i]);
        ck_assert_int_eq(pit_get_out(pit, 2), odd_out[i]);
    }
}
END_TEST

START_TEST(mode_3_takes_a_new_count_at_the_end_of_a_half)
{
    pit_set_gate(pit, 2, true);
    control(2, 3, 3, false);
    count16(2, 100);
    clk(20);
    count16(2, 10);
    clk(50);
    ck_assert(pit_get_out(pit, 2));
    clk(51); /* a low half of the new count */
    ck_assert(!pit_get_out(pit, 2));
    ck_assert_uint_eq(latch16(2), 10);
    clk(55);
    ck_assert(!pit_get_out(pit, 2));
    clk(56);
    ck_assert(pit_get_out(pit, 2));
    clk(61);
    ck_assert(!pit_get_out(pit, 2));
}
END_TEST

START_TEST(mode_4_strobes_once)
{
    pit_set_gate(pit, 2, true);
    control(2, 3, 4, false);
    count16(2, 10);
    clk(10);
    ck_assert(pit_get_out(pit, 2));
    clk(11);
    ck_assert(!pit_get_out(pit, 2));
    clk(12);
    ck_assert(pit_get_out(pit, 2));
    ck_assert_uint_eq(latch16(2), 0xffff);
    clk(11 + 65536);
    ck_assert(pit_get_out(pit, 2));
}
END_TEST

START_TEST(mode_5_strobes_after_a_trigger)
{
    control(2, 3, 5, false);
    count16(2, 10);
    clk(100);
    ck_assert(pit_get_out(pit, 2));
    pit_set_gate(pit, 2, true);
    clk(110);
    ck_assert(pit_get_out(pit, 2));
    clk(111);
    ck_assert(!pit_get_out(pit, 2));
    clk(112);
    ck_assert(pit_get_out(pit, 2));
}
END_TEST

START_TEST(bcd_counts_in_decimal)
{
    pit_set_gate(pit, 2, true);
    control(2, 3, 0, true);
    count16(2, 0x1000);
    clk(2);
    ck_assert_uint_eq(latch16(2), 0x0999);
    clk(1001);
    ck_assert_uint_eq(latch16(2), 0);
    clk(1002);
    ck_assert_uint_eq(latch16(2), 0x9999);
    count16(2, 0); /* 10000 */
    clk(1004);
    ck_assert_uint_eq(latch16(2), 0x9999);
}
END_TEST

START_TEST(halves_are_written_and_read_alone_or_in_turn)
{
    pit_set_gate(pit, 2, true);
    control(2, 1, 2, false);
    outb(0x42, 200);
    clk(11);
    ck_assert_uint_eq(inb(0x42), 190);
    control(2, 2, 2, false);
    outb(0x42, 4);
    clk(13);
    ck_assert_uint_eq(inb(0x42), 3); /* 0x3ff */
    control(2, 3, 2, false);
    count16(2, 0x1234);
    clk(14);
    ck_assert_uint_eq(inb(0x42), 0x34);
    ck_assert_uint_eq(inb(0x42), 0x12);
    ck_assert_uint_eq(inb(0x42), 0x34);
}
END_TEST

START_TEST(a_latched_count_stays_until_it_is_read)
{
    pit_set_gate(pit, 2, true);
    control(2, 3, 2, false);
    count16(2, 1000);
    clk(101);
    outb(0x43, 0x80);
    clk(200);
    outb(0x43, 0x80); /* ignored: the first is unread */
    ck_assert_uint_eq(inb(0x42), 900 & 0xff);
    ck_assert_uint_eq(inb(0x42), 900 >> 8);
    outb(0x43, 0xc8); /* read-back: count and status; the status comes first */
    clk(300);
    ck_assert_uint_eq(inb(0x42), 0xb4);
    ck_assert_uint_eq(inb(0x42), 801 & 0xff);
    ck_assert_uint_eq(inb(0x42), 801 >> 8);
    outb(0x43, 0xc8);
    control(2, 3, 2, false); /* a control word forgets it */
    count16(2, 500);
    clk(301);
    ck_assert_uint_eq(inb(0x42), 500 & 0xff);
}
END_TEST

START_TEST(a_debuggers_read_disturbs_nothing)
{
    pit_set_gate(pit, 2, true);
    control(2, 3, 2, false);
    count16(2, 0x1234);
    clk(1);
    outb(0x43, 0x80);
    ck_assert_uint_eq(address_space_ldn(machine->io, 0x42, 1, MEMTXATTRS_DEBUG, NULL), 0x34);
    ck_assert_uint_eq(inb(0x42), 0x34);
    ck_assert_uint_eq(inb(0x42), 0x12);
}
END_TEST

START_TEST(late_timers_lose_edges_but_no_time)
{
    control(0, 3, 2, false);
    rises = 0;
    count16(0, 1000);
    now_ns = clk_ns(5500);
    clock_run_timers(machine->clock);
    ck_assert_uint_eq(rises, 1);
    clk(6000);
    ck_assert_uint_eq(rises, 1);
    clk(6001);
    ck_assert_uint_eq(rises, 2);
}
END_TEST

START_TEST(a_tiny_count_does_not_swamp_the_host)
{
    unsigned fired = 0;
    int64_t next;

    control(0, 1, 2, false);
    outb(0x40, 2);
    while ((next = clock_deadline(machine->clock)) >= 0 && next <= 1000000) {
        now_ns = MAX(now_ns, next);
        clock_run_timers(machine->clock);
        fired++;
    }
    ck_assert_uint_le(fired, 51);
    ck_assert_uint_ge(rises, 40);
    outb(0x43, 0x10); /* 1 in mode 0 as well */
    outb(0x40, 1);
    clk(PIT_HZ);
    ck_assert_int_eq(level, 1);
}
END_TEST

START_TEST(state_saved_in_the_middle_of_a_cycle_goes_on)
{
    g_autoptr(GBytes) bytes = NULL;

    control(0, 3, 2, false);
    count16(0, 1000);
    outb(0x40, 0x11); /* half a new count */
    clk(500);
    outb(0x43, 0x00);
    inb(0x40); /* half of what was latched */
    bytes = save_device(pit);
    device_reset(pit);
    ck_assert_int_eq(clock_deadline(machine->clock), -1);
    rises = 0;
    ck_assert(load_device(pit, bytes));
    ck_assert_uint_eq(inb(0x40), 501 >> 8);
    clk(1000);
    ck_assert_uint_eq(latch16(0), 1);
    clk(1001);
    ck_assert_uint_ge(rises, 1);
    ck_assert_uint_eq(latch16(0), 1000);
    outb(0x40, 0x22);
    clk(2001);
    ck_assert_uint_eq(latch16(0), 0x2211);
}
END_TEST

/* Whatever is written: no crash, and the line has the level that status shows, but for the single
 * low CLK of mode 2. */
START_TEST(no_guest_can_break_it)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(8254);

    for (unsigned i = 0; i < 100000; i++) {
        switch (g_rand_int(rand) % 8) {
        case 0:
            inb(0x40 + g_rand_int(rand) % 4);
            break;
        case 1:
            pit_set_gate(pit, g_rand_int(rand) % 3, g_rand_boolean(rand));
            break;
        case 2:
            run_until(now_ns + g_rand_int(rand) % 200000);
            break;
        case 3:
        case 4:
            outb(0x43, g_rand_int(rand) & 0xff);
            break;
        default:
            outb(0x40 + g_rand_int(rand) % 3,
                 g_rand_boolean(rand) ? g_rand_int(rand) & 3 : g_rand_int(rand) & 0xff);
            break;
        }
        outb(0x43, 0xfe); /* settles the line, and latches nothing */
        ck_assert_int_eq(level, pit_get_out(pit, 0));
    }
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, after_reset_nothing_counts_and_gate_2_is_low);
    tcase_add_test(tc, mode_0_rises_once_n_plus_1_clocks_after_the_count);
    tcase_add_test(tc, mode_0_stops_while_the_gate_is_low);
    tcase_add_test(tc, mode_1_is_a_retriggerable_one_shot);
    tcase_add_test(tc, mode_2_divides_by_n);
    tcase_add_test(tc, mode_2_is_high_while_its_gate_is_low_and_starts_anew);
    tcase_add_test(tc, mode_3_is_a_square_wave_for_even_and_odd_counts);
    tcase_add_test(tc, mode_3_takes_a_new_count_at_the_end_of_a_half);
    tcase_add_test(tc, mode_4_strobes_once);
    tcase_add_test(tc, mode_5_strobes_after_a_trigger);
    tcase_add_test(tc, bcd_counts_in_decimal);
    tcase_add_test(tc, halves_are_written_and_read_alone_or_in_turn);
    tcase_add_test(tc, a_latched_count_stays_until_it_is_read);
    tcase_add_test(tc, a_debuggers_read_disturbs_nothing);
    tcase_add_test(tc, late_timers_lose_edges_but_no_time);
    tcase_add_test(tc, a_tiny_count_does_not_swamp_the_host);
    tcase_add_test(tc, state_saved_in_the_middle_of_a_cycle_goes_on);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("pit", setup, teardown, add);
}
