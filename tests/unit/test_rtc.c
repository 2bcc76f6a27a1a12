/* The real-time clock: registers, updates, alarm, periodic and update interrupts, calendar, RAM,
 * resets, hostile guests, state. On the machine's clock, which the test turns. */
#include "engine/hw/timer/rtc.h"
#include "tests/unit/intc_rig.h"

#define SEC INT64_C(1000000000)
#define MS  INT64_C(1000000)

static DeviceState *rtc;
static Irq *irq, *nmi, *alarm_line;
static int level, nmi_level;
static unsigned rises, alarms;

static void irq_changed(void *opaque, int n, int new_level)
{
    rises += new_level && !level;
    level = new_level;
}

static void nmi_changed(void *opaque, int n, int new_level)
{
    nmi_level = new_level;
}

static void alarm_changed(void *opaque, int n, int new_level)
{
    alarms += new_level != 0;
}

static DeviceState *rtc_make(const char *id, unsigned iobase, const char *base, const char *drift)
{
    DeviceState *dev = DEVICE(object_new(TYPE_RTC, NULL));
    g_autoptr(GError) error = NULL;

    ck_assert(object_property_parse(OBJECT(dev), "clock", "vm", NULL));
    ck_assert(object_property_parse(OBJECT(dev), "base", base, NULL));
    ck_assert(object_property_parse(OBJECT(dev), "driftfix", drift, NULL));
    ck_assert(object_property_set_uint(OBJECT(dev), "iobase", iobase, NULL));
    ck_assert_msg(device_realize(dev, machine, id, &error), "%s", error ? error->message : "");
    object_unref(dev);
    return dev;
}

static void setup(void)
{
    machine_setup();
    rtc = rtc_make("rtc", 0x70, "2024-02-28T23:59:58", "none");
    irq = irq_new(irq_changed, NULL, 0);
    nmi = irq_new(nmi_changed, NULL, 0);
    ck_assert(device_connect_irq_out(rtc, "irq", 0, irq, NULL));
    ck_assert(device_connect_irq_out(rtc, "nmi-mask", 0, nmi, NULL));
    alarm_line = irq_new(alarm_changed, NULL, 0);
    ck_assert(device_connect_irq_out(rtc, "alarm", 0, alarm_line, NULL));
    level = nmi_level = 0;
    rises = alarms = 0;
}

static void teardown(void)
{
    machine_teardown();
    irq_disconnect(irq);
    irq_unref(irq);
    irq_disconnect(nmi);
    irq_unref(nmi);
    irq_disconnect(alarm_line);
    irq_unref(alarm_line);
}

static unsigned get(unsigned index)
{
    outb(0x70, index);
    return inb(0x71);
}

static void put(unsigned index, unsigned value)
{
    outb(0x70, index);
    outb(0x71, value);
}

#define ck_time(h, m, s)                        \
    do {                                        \
        ck_assert_uint_eq(get(RTC_HOURS), h);   \
        ck_assert_uint_eq(get(RTC_MINUTES), m); \
        ck_assert_uint_eq(get(RTC_SECONDS), s); \
    } while (0)
#define ck_date(c, y, m, d)                          \
    do {                                             \
        ck_assert_uint_eq(get(RTC_CENTURY), c);      \
        ck_assert_uint_eq(get(RTC_YEAR), y);         \
        ck_assert_uint_eq(get(RTC_MONTH), m);        \
        ck_assert_uint_eq(get(RTC_DAY_OF_MONTH), d); \
    } while (0)

START_TEST(it_begins_with_the_date_that_it_was_given_and_registers_of_a_pc)
{
    ck_time(0x23, 0x59, 0x58);
    ck_date(0x20, 0x24, 0x02, 0x28);
    ck_assert_uint_eq(get(RTC_DAY_OF_WEEK), 4); /* a Wednesday */
    ck_assert_uint_eq(get(RTC_REG_A), 0x26);
    ck_assert_uint_eq(get(RTC_REG_B), 0x02);
    ck_assert_uint_eq(get(RTC_REG_C), 0x00);
    ck_assert_uint_eq(get(RTC_REG_D), 0x80);
    ck_assert_uint_eq(inb(0x70), 0xff);
}
END_TEST

START_TEST(time_carries_through_a_leap_day_and_the_end_of_a_month)
{
    run_until(2 * SEC);
    ck_time(0x00, 0x00, 0x00);
    ck_date(0x20, 0x24, 0x02, 0x29);
    ck_assert_uint_eq(get(RTC_DAY_OF_WEEK), 5);
    run_until(2 * SEC + 86400 * SEC);
    ck_date(0x20, 0x24, 0x03, 0x01);
    ck_assert_uint_eq(get(RTC_DAY_OF_WEEK), 6);
    rtc_set_time(rtc, INT64_C(4102444799)); /* 2099-12-31 23:59:59 */
    ck_date(0x20, 0x99, 0x12, 0x31);
    run_until(3 * SEC + 86400 * SEC);
    ck_date(0x21, 0x00, 0x01, 0x01);
    ck_time(0, 0, 0);
    ck_assert_int_eq(rtc_get_time(rtc), INT64_C(4102444800));
}
END_TEST

START_TEST(every_date_of_four_centuries_is_one_day_after_the_last)
{
    static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
    int64_t day = -719162 + 1899 * 365 + 1899 / 4 - 1899 / 100 + 1899 / 400; /* 1900-01-01 */

    put(RTC_REG_B, 0x06); /* binary */
    for (unsigned year = 1900; year < 2300; year++) {
        bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

        for (unsigned month = 1; month <= 12; month++) {
            unsigned last = days[month - 1] + (month == 2 && leap);

            for (unsigned d = 1; d <= last; d++, day++) {
                if (d != 1 && d != last) {
                    continue;
                }
                rtc_set_time(rtc, day * 86400 + 3599);
                ck_assert_uint_eq(rtc_get_nvram(rtc, RTC_CENTURY), year / 100);
                ck_assert_uint_eq(rtc_get_nvram(rtc, RTC_YEAR), year % 100);
                ck_assert_uint_eq(rtc_get_nvram(rtc, RTC_MONTH), month);
                ck_assert_uint_eq(rtc_get_nvram(rtc, RTC_DAY_OF_MONTH), d);
                ck_assert_int_eq(rtc_get_time(rtc), day * 86400 + 3599);
            }
        }
    }
}
END_TEST

START_TEST(hours_have_two_forms_and_bytes_two_codes)
{
    static const struct {
        unsigned b, hour, byte;
    } cases[] = {
        { 0x02, 0, 0x00 },  { 0x02, 23, 0x23 }, { 0x06, 0, 0 },     { 0x06, 23, 23 },
        { 0x00, 0, 0x12 },  { 0x00, 1, 0x01 },  { 0x00, 11, 0x11 }, { 0x00, 12, 0x92 },
        { 0x00, 13, 0x81 }, { 0x00, 23, 0x91 }, { 0x04, 0, 12 },    { 0x04, 12, 0x8c },
        { 0x04, 23, 0x8b },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        put(RTC_REG_B, cases[i].b);
        rtc_set_time(rtc, INT64_C(1700006400) / 86400 * 86400 + cases[i].hour * 3600 + 3599);
        ck_assert_uint_eq(get(RTC_HOURS), cases[i].byte);
        ck_assert_uint_eq(get(RTC_SECONDS), cases[i].b & 4 ? 59 : 0x59);
        run_until(now_ns + SEC);
        rtc_set_time(rtc, rtc_get_time(rtc)); /* what it shows is what it reads */
        ck_assert_int_eq(rtc_get_time(rtc) % 86400, (cases[i].hour + 1) % 24 * 3600);
    }
}
END_TEST

START_TEST(writes_of_one_field_leave_the_others_alone)
{
    /* As firmware sets a date, without SET, through a 31st of February. */
    put(RTC_DAY_OF_MONTH, 0x31);
    put(RTC_MONTH, 0x02);
    put(RTC_DAY_OF_MONTH, 0x10);
    put(RTC_HOURS, 0x07);
    ck_date(0x20, 0x24, 0x02, 0x10);
    ck_time(0x07, 0x59, 0x58);
    run_until(1 * SEC);
    ck_time(0x07, 0x59, 0x59);
}
END_TEST

START_TEST(while_set_is_on_the_time_stands_still_and_no_update_is_seen)
{
    put(RTC_REG_B, 0x92);
    ck_assert_uint_eq(get(RTC_REG_B), 0x82); /* SET clears UIE */
    put(RTC_SECONDS, 0x30);
    run_until(10 * SEC + 999 * MS);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x30);
    ck_assert_uint_eq(get(RTC_REG_A) & 0x80, 0);
    ck_assert_uint_eq(get(RTC_REG_C), 0x40); /* the divider runs on */
    put(RTC_REG_B, 0x02);
    run_until(11 * SEC);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x31);
}
END_TEST

START_TEST(uip_announces_the_update_and_the_registers_change_at_its_end)
{
    run_until(SEC - 2229 * 1000);
    ck_assert_uint_eq(get(RTC_REG_A), 0x26);
    run_until(SEC - 2228 * 1000);
    ck_assert_uint_eq(get(RTC_REG_A), 0xa6);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x58);
    run_until(SEC - 1);
    ck_assert_uint_eq(get(RTC_REG_A), 0xa6);
    run_until(SEC);
    ck_assert_uint_eq(get(RTC_REG_A), 0x26);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x59);
    put(RTC_REG_A, 0xff); /* UIP cannot be written */
    ck_assert_uint_eq(get(RTC_REG_A), 0x7f);
}
END_TEST

START_TEST(a_divider_held_in_reset_starts_half_a_second_before_the_first_update)
{
    run_until(700 * MS);
    put(RTC_REG_A, 0x76);
    run_until(5 * SEC);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x58);
    get(RTC_REG_C);
    put(RTC_REG_A, 0x26);
    run_until(5 * SEC + 499 * MS);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x58);
    run_until(5 * SEC + 500 * MS);
    ck_assert_uint_eq(get(RTC_SECONDS), 0x59);
    ck_assert_uint_eq(get(RTC_REG_C) & 0x10, 0x10);
}
END_TEST

START_TEST(the_update_interrupt_comes_once_a_second_and_reading_c_ends_it)
{
    put(RTC_REG_B, 0x12);
    run_until(SEC - 1);
    ck_assert_int_eq(level, 0);
    run_until(SEC);
    ck_assert_int_eq(level, 1);
    ck_assert_uint_eq(get(RTC_REG_C) & 0xb0, 0x90);
    ck_assert_int_eq(level, 0);
    ck_assert_uint_eq(get(RTC_REG_C), 0);
    run_until(2 * SEC);
    ck_assert_uint_eq(rises, 2);
    run_until(10 * SEC); /* not answered: nothing more */
    ck_assert_uint_eq(rises, 2);
    put(RTC_REG_B, 0x02); /* the enable gates the line, not the flag */
    ck_assert_int_eq(level, 0);
    put(RTC_REG_B, 0x12);
    ck_assert_int_eq(level, 1);
}
END_TEST

START_TEST(flags_are_set_whether_or_not_they_interrupt)
{
    run_until(1500 * MS);
    ck_assert_uint_eq(get(RTC_REG_C), 0x50);
    ck_assert_uint_eq(get(RTC_REG_C), 0x00);
    ck_assert_uint_eq(rises, 0);
    ck_assert_int_eq(clock_deadline(machine->clock), -1); /* and cost nothing meanwhile */
}
END_TEST

START_TEST(the_alarm_comes_at_its_time)
{
    put(RTC_HOURS_ALARM, 0x00);
    put(RTC_MINUTES_ALARM, 0x01);
    put(RTC_SECONDS_ALARM, 0x05);
    put(RTC_REG_B, 0x22);
    run_until(67 * SEC - 1);
    ck_assert_uint_eq(rises, 0);
    run_until(67 * SEC);
    ck_assert_uint_eq(rises, 1);
    ck_assert_uint_eq(get(RTC_REG_C) & 0xa0, 0xa0);
    run_until((67 + 86400) * SEC - 1);
    ck_assert_uint_eq(rises, 1);
    run_until((67 + 86400) * SEC);
    ck_assert_uint_eq(rises, 2);
}
END_TEST

START_TEST(only_an_enabled_alarm_raises_the_line_that_wakes_a_machine)
{
    put(RTC_HOURS_ALARM, 0xff);
    put(RTC_MINUTES_ALARM, 0xff);
    put(RTC_SECONDS_ALARM, 0xff);
    put(RTC_REG_B, 0x12); /* each update interrupts, alarms do not */
    run_until(3 * SEC);
    ck_assert_uint_eq(get(RTC_REG_C) & 0x20, 0x20);
    ck_assert_uint_eq(rises, 1);
    ck_assert_uint_eq(alarms, 0);
    put(RTC_REG_B, 0x22);
    run_until(5 * SEC);
    ck_assert_uint_eq(alarms, 1);
    get(RTC_REG_C);
    run_until(6 * SEC);
    ck_assert_uint_eq(alarms, 2);
}
END_TEST

START_TEST(alarm_bytes_may_match_anything_or_nothing)
{
    put(RTC_HOURS_ALARM, 0xc0);
    put(RTC_MINUTES_ALARM, 0xff);
    put(RTC_SECONDS_ALARM, 0x30);
    put(RTC_REG_B, 0x22);
    for (unsigned i = 0; i < 3; i++) { /* every minute, at half past */
        run_until((32 + 60 * i) * SEC);
        ck_assert_uint_eq(get(RTC_REG_C) & 0xa0, 0xa0);
        ck_assert_uint_eq(rises, i + 1);
    }
    put(RTC_SECONDS_ALARM, 0xc0); /* every second */
    run_until(153 * SEC);
    ck_assert_uint_eq(rises, 4);
    get(RTC_REG_C);
    run_until(154 * SEC);
    ck_assert_uint_eq(rises, 5);
    get(RTC_REG_C);
    put(RTC_SECONDS_ALARM, 0x5a); /* no BCD */
    run_until(100000 * SEC);
    ck_assert_uint_eq(rises, 5);
    put(RTC_SECONDS_ALARM, 0x60);
    run_until(200000 * SEC);
    ck_assert_uint_eq(rises, 5);
}
END_TEST

START_TEST(periodic_interrupts_have_the_rates_of_the_data_sheet)
{
    static const unsigned per_second[] = { 0,   256, 128, 8192, 4096, 2048, 1024, 512,
                                           256, 128, 64,  32,   16,   8,    4,    2 };

    for (unsigned rs = 0; rs < 16; rs++) {
        int64_t begin;

        put(RTC_REG_A, 0x60 | rs);
        put(RTC_REG_B, 0x42);
        get(RTC_REG_C);
        put(RTC_REG_A, 0x20 | rs);
        rises = 0;
        begin = now_ns;
        while (clock_deadline(machine->clock) >= 0 &&
               clock_deadline(machine->clock) <= begin + SEC) {
            run_until(clock_deadline(machine->clock));
            if (level) {
                ck_assert_uint_eq(get(RTC_REG_C) & 0xc0, 0xc0);
            }
        }
        ck_assert_uint_eq(rises, per_second[rs]);
        now_ns = begin + SEC;
    }
}
END_TEST

START_TEST(with_slew_no_periodic_interrupt_is_lost)
{
    DeviceState *slow = rtc_make("slow", 0x170, "utc", "slew");
    unsigned taken = 0;

    outb(0x170, RTC_REG_A);
    outb(0x171, 0x26); /* 1024 Hz */
    outb(0x170, RTC_REG_B);
    outb(0x171, 0x42);
    outb(0x170, RTC_REG_C);
    run_until(SEC); /* a second in which the guest does nothing */
    while (now_ns < 2 * SEC) {
        int64_t next = clock_deadline(machine->clock);

        taken += !!(inb(0x171) & 0x40);
        next = clock_deadline(machine->clock);
        ck_assert_int_ge(next, 0);
        run_until(next);
    }
    ck_assert_uint_ge(taken, 2047);
    ck_assert_uint_le(taken, 2049);
    device_unrealize(slow);
}
END_TEST

START_TEST(ram_keeps_its_bytes_through_a_reset_and_interrupts_do_not)
{
    for (unsigned i = 0x0e; i < 0x80; i++) {
        if (i != RTC_CENTURY) {
            put(i, i ^ 0x5a);
        }
    }
    for (unsigned i = 0; i < 0x80; i++) {
        outb(0x72, i);
        ck_assert_uint_eq(inb(0x72), i);
        outb(0x73, i ^ 0xa5);
    }
    put(RTC_REG_B, 0x7a);
    run_until(SEC);
    ck_assert_int_eq(level, 1);
    outb(0x70, 0x80);
    ck_assert_int_eq(nmi_level, 1);
    device_reset(rtc);
    ck_assert_int_eq(nmi_level, 0);
    ck_assert_int_eq(level, 0);
    ck_assert_uint_eq(get(RTC_REG_B), 0x02);
    ck_assert_uint_eq(get(RTC_REG_C), 0);
    ck_time(0x23, 0x59, 0x59);
    for (unsigned i = 0x0e; i < 0x80; i++) {
        if (i != RTC_CENTURY) {
            ck_assert_uint_eq(get(i), i ^ 0x5a);
            ck_assert_uint_eq(rtc_get_nvram(rtc, i), i ^ 0x5a);
        }
    }
    for (unsigned i = 0; i < 0x80; i++) {
        outb(0x72, i);
        ck_assert_uint_eq(inb(0x73), i ^ 0xa5);
    }
    rtc_set_nvram(rtc, 0xff, 0x77);
    ck_assert_uint_eq(inb(0x73), 0x77);
}
END_TEST

START_TEST(a_debuggers_read_answers_no_interrupt)
{
    put(RTC_REG_B, 0x12);
    run_until(SEC);
    outb(0x70, RTC_REG_C);
    ck_assert_uint_eq(address_space_ldn(machine->io, 0x71, 1, MEMTXATTRS_DEBUG, NULL) & 0x90, 0x90);
    ck_assert_int_eq(level, 1);
    ck_assert_uint_eq(inb(0x71) & 0x90, 0x90);
    ck_assert_int_eq(level, 0);
}
END_TEST

START_TEST(registers_c_and_d_cannot_be_written)
{
    put(RTC_REG_C, 0xff);
    put(RTC_REG_D, 0x00);
    ck_assert_uint_eq(get(RTC_REG_C), 0);
    ck_assert_uint_eq(get(RTC_REG_D), 0x80);
}
END_TEST

START_TEST(a_base_that_is_no_date_is_refused_by_name)
{
    static const char *const bad[] = { "yesterday",
                                       "2023-02-29",
                                       "2024-13-01",
                                       "2024-01-01T25:00:00",
                                       "2024-01-01x",
                                       "2024-01-01T10:00:00Z",
                                       "" };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        DeviceState *dev = DEVICE(object_new(TYPE_RTC, NULL));
        g_autoptr(GError) error = NULL;

        ck_assert(object_property_set_str(OBJECT(dev), "base", bad[i], NULL));
        ck_assert(object_property_set_uint(OBJECT(dev), "iobase", 0x170, NULL));
        ck_assert(!device_realize(dev, machine, "bad", &error));
        ck_assert_ptr_nonnull(strstr(error->message, "base"));
        object_unref(dev);
    }
}
END_TEST

START_TEST(utc_and_localtime_are_the_hosts)
{
    DeviceState *utc = rtc_make("utc", 0x170, "utc", "none");
    time_t now = time(NULL);
    struct tm tm;

    ck_assert_int_le(llabs(rtc_get_time(utc) - now), 5);
    device_unrealize(utc);
    DeviceState *local = rtc_make("local", 0x170, "localtime", "none");
    now = time(NULL);
    localtime_r(&now, &tm);
    ck_assert_int_le(llabs(rtc_get_time(local) - now - tm.tm_gmtoff), 5);
}
END_TEST

START_TEST(state_saved_before_an_alarm_goes_on_to_it)
{
    put(RTC_HOURS_ALARM, 0xc0);
    put(RTC_MINUTES_ALARM, 0x00);
    put(RTC_SECONDS_ALARM, 0x10);
    put(RTC_REG_A, 0x2f);
    put(RTC_REG_B, 0x62);
    put(0x50, 0x99);
    run_until(5 * SEC + 100 * MS);
    get(RTC_REG_C);
    g_autoptr(GBytes) saved = save_device(rtc);
    device_reset(rtc);
    put(0x50, 0);
    ck_assert(load_device(rtc, saved));
    rises = 0;
    run_until(5 * SEC + 500 * MS);
    ck_assert_uint_eq(rises, 1);
    ck_assert_uint_eq(get(RTC_REG_C), 0xc0);
    run_until(12 * SEC);
    ck_assert_uint_eq(get(RTC_REG_C) & 0x20, 0x20);
    ck_assert_uint_eq(get(0x50), 0x99);
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    GRand *rand = g_rand_new_with_seed(146818);

    for (unsigned i = 0; i < 200000; i++) {
        unsigned port = 0x70 + g_rand_int(rand) % 4, size = 1u << g_rand_int(rand) % 3;

        if (g_rand_boolean(rand)) {
            address_space_stn(machine->io, port, g_rand_int(rand), size, MEMTXATTRS_NONE, NULL);
        } else {
            address_space_ldn(machine->io, port, size, MEMTXATTRS_NONE, NULL);
        }
        if (g_rand_int(rand) % 8 == 0) {
            run_until(now_ns + g_rand_int(rand) % (10 * MS));
        }
        if (g_rand_int(rand) % 1024 == 0) {
            now_ns += (int64_t)g_rand_int(rand) * 1000000;
        }
    }
    rtc_get_time(rtc);
    device_reset(rtc);
    ck_assert_uint_eq(get(RTC_REG_D), 0x80);
    g_rand_free(rand);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, it_begins_with_the_date_that_it_was_given_and_registers_of_a_pc);
    tcase_add_test(tc, time_carries_through_a_leap_day_and_the_end_of_a_month);
    tcase_add_test(tc, every_date_of_four_centuries_is_one_day_after_the_last);
    tcase_add_test(tc, hours_have_two_forms_and_bytes_two_codes);
    tcase_add_test(tc, writes_of_one_field_leave_the_others_alone);
    tcase_add_test(tc, while_set_is_on_the_time_stands_still_and_no_update_is_seen);
    tcase_add_test(tc, uip_announces_the_update_and_the_registers_change_at_its_end);
    tcase_add_test(tc, a_divider_held_in_reset_starts_half_a_second_before_the_first_update);
    tcase_add_test(tc, the_update_interrupt_comes_once_a_second_and_reading_c_ends_it);
    tcase_add_test(tc, flags_are_set_whether_or_not_they_interrupt);
    tcase_add_test(tc, the_alarm_comes_at_its_time);
    tcase_add_test(tc, only_an_enabled_alarm_raises_the_line_that_wakes_a_machine);
    tcase_add_test(tc, alarm_bytes_may_match_anything_or_nothing);
    tcase_add_test(tc, periodic_interrupts_have_the_rates_of_the_data_sheet);
    tcase_add_test(tc, with_slew_no_periodic_interrupt_is_lost);
    tcase_add_test(tc, ram_keeps_its_bytes_through_a_reset_and_interrupts_do_not);
    tcase_add_test(tc, a_debuggers_read_answers_no_interrupt);
    tcase_add_test(tc, registers_c_and_d_cannot_be_written);
    tcase_add_test(tc, a_base_that_is_no_date_is_refused_by_name);
    tcase_add_test(tc, utc_and_localtime_are_the_hosts);
    tcase_add_test(tc, state_saved_before_an_alarm_goes_on_to_it);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("rtc", setup, teardown, add);
}
