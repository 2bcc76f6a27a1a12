/* Ticks that no processor has taken in time: what is owed, when it is sent, when it is forgotten;
 * of the PIT and the HPET, through the I/O APIC and the PIC. */
#include "engine/hw/intc/ioapic.h"
#include "engine/hw/intc/pic.h"
#include "tests/unit/intc_rig.h"

#define MS   INT64_C(1000000)
#define HPET 0xfed00000u

static DeviceState *ioapic, *pic;
static unsigned messages, vector_of_last;

static void take_message(void *opaque, uint64_t addr, uint32_t data)
{
    messages++;
    vector_of_last = data & 0xff;
}

static void ioapic_write(unsigned reg, uint32_t value)
{
    address_space_stn(machine->memory, 0xfec00000, reg, 4, MEMTXATTRS_NONE, NULL);
    address_space_stn(machine->memory, 0xfec00010, value, 4, MEMTXATTRS_NONE, NULL);
}

static void hpet_write(unsigned reg, uint64_t value)
{
    address_space_stn(machine->memory, HPET + reg, value, 8, MEMTXATTRS_NONE, NULL);
}

/* Line 0 is on pin 2 of the I/O APIC, as vector 0x30, and on input 0 of the PIC, as on a PC. */
static void setup(void)
{
    machine_setup();
    messages = 0;
    pic = device_make("isa-pic", "pic");
    ioapic = device_make(TYPE_IOAPIC, "ioapic");
    machine_set_msi(machine, take_message, &messages);
    ck_assert(machine_connect_gsi(machine, 0, device_get_irq_in(pic, NULL, 0, NULL), NULL));
    ck_assert(machine_connect_gsi(machine, 0, device_get_irq_in(ioapic, NULL, 2, NULL), NULL));
    ioapic_write(0x14, 0x30);
}

static void teardown(void)
{
    machine_teardown();
}

/* The main loop comes `ns` later than it wanted. */
static void be_late(int64_t ns)
{
    now_ns += ns;
    clock_run_timers(machine->clock);
}

/* As often as there is something, and a bound. */
static unsigned take_all(void)
{
    unsigned n = 0;

    while (messages > n && n < 5000) {
        n++;
        machine_vector_taken(machine, 0x30);
    }
    messages = 0;
    return n;
}

static DeviceState *make_pit(void)
{
    DeviceState *pit = device_make("isa-pit", "pit");

    ck_assert(device_connect_irq_out(pit, "irq", 0, machine_gsi(machine, 0), NULL));
    return pit;
}

static void program_pit(unsigned count)
{
    outb(0x43, 0x34);
    outb(0x40, count & 0xff);
    outb(0x40, count >> 8);
}

START_TEST(periods_that_the_host_missed_come_one_after_the_other)
{
    make_pit();
    program_pit(1193);
    messages = 0;
    be_late(40 * MS + MS / 2);
    ck_assert_uint_eq(messages, 1);
    ck_assert_uint_eq(vector_of_last, 0x30);
    ck_assert_uint_eq(take_all(), 40);
    be_late(MS);
    ck_assert_uint_eq(take_all(), 1);
}
END_TEST

START_TEST(ticks_that_no_processor_took_are_owed)
{
    make_pit();
    program_pit(1193);
    messages = 0;
    run_until(now_ns + 25 * MS + MS / 2); /* each in time, but nobody takes them */
    messages = 1;                         /* and the local APIC knows of one */
    ck_assert_uint_eq(take_all(), 25);
    machine_vector_taken(machine, 0x30); /* from elsewhere, with nothing owed */
    ck_assert_uint_eq(messages, 0);
}
END_TEST

START_TEST(the_pic_tells_of_them_too)
{
    unsigned n = 0, masked = 0;

    make_pit();
    ioapic_write(0x14, 0x10030); /* masked */
    outb(0x20, 0x11);
    outb(0x21, 0x20);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0x21, 0xfe);
    program_pit(1193);
    be_late(30 * MS + MS / 2);
    while (n < 100 && pic_acknowledge(pic) == 0x20) {
        n++;
        outb(0x20, 0x20);
    }
    ck_assert_uint_eq(n, 30);
    outb(0x21, 0xff);
    be_late(30 * MS);
    outb(0x21, 0xfe);
    while (masked < 100 && pic_acknowledge(pic) == 0x20) {
        masked++;
        outb(0x20, 0x20);
    }
    ck_assert_uint_eq(masked, 1); /* the edge that the PIC kept */
}
END_TEST

START_TEST(what_is_owed_is_forgotten_when_the_timer_is_programmed_or_a_mask_goes)
{
    DeviceState *pit = make_pit();

    program_pit(1193);
    be_late(10 * MS + MS / 2);
    program_pit(1193);
    messages = 1;
    ck_assert_uint_eq(take_all(), 1);
    be_late(10 * MS + MS / 2);
    device_reset(pit);
    messages = 1;
    ck_assert_uint_eq(take_all(), 1);
    program_pit(1193);
    ioapic_write(0x14, 0x10030);
    be_late(10 * MS + MS / 2);
    messages = 0;
    ioapic_write(0x14, 0x30);
    ck_assert_uint_eq(take_all(), 0);
    be_late(MS);
    ck_assert_uint_eq(take_all(), 1);
}
END_TEST

START_TEST(a_guest_that_takes_none_for_long_is_not_flooded)
{
    make_pit();
    program_pit(1193);
    messages = 0;
    be_late(100000 * MS);
    be_late(100000 * MS);
    messages = 1;
    ck_assert_uint_le(take_all(), 1001);
}
END_TEST

START_TEST(event_timers_make_up_for_theirs)
{
    DeviceState *hpet = device_make("hpet", "hpet");

    ck_assert(device_connect_irq_out(hpet, "irq", 0, machine_gsi(machine, 0), NULL));
    hpet_write(0x100, 0x4c); /* periodic, enabled, the comparator is set */
    hpet_write(0x108, 100000);
    hpet_write(0x108, 100000); /* each millisecond */
    hpet_write(0x10, 3);       /* on line 0 */
    messages = 0;
    be_late(40 * MS + MS / 2);
    ck_assert_uint_eq(take_all(), 40);
    be_late(40 * MS);
    hpet_write(0x10, 2);
    messages = 1;
    ck_assert_uint_eq(take_all(), 1);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, periods_that_the_host_missed_come_one_after_the_other);
    tcase_add_test(tc, ticks_that_no_processor_took_are_owed);
    tcase_add_test(tc, the_pic_tells_of_them_too);
    tcase_add_test(tc, what_is_owed_is_forgotten_when_the_timer_is_programmed_or_a_mask_goes);
    tcase_add_test(tc, a_guest_that_takes_none_for_long_is_not_flooded);
    tcase_add_test(tc, event_timers_make_up_for_theirs);
}

int main(void)
{
    return run_tests("ticks", setup, teardown, add);
}
