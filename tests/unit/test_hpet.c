/* The event timers: capabilities, counter, one-shot and periodic timers, 32 bits, levels, legacy
 * replacement, messages, hostile guests, state. */
#include "tests/unit/intc_rig.h"

#define BASE 0xfed00000u
#define MS   INT64_C(1000000)

static DeviceState *hpet;
static Irq *lines[32], *in_pit, *in_rtc;
static int level[32];
static unsigned rises[32];
static uint64_t msi_addr;
static uint32_t msi_data, msis;

static void changed(void *opaque, int n, int new_level)
{
    rises[n] += new_level && !level[n];
    level[n] = new_level;
}

static void on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    msi_addr = addr;
    msi_data = data;
    msis++;
}

static uint64_t rd(unsigned reg)
{
    return address_space_ldn(machine->memory, BASE + reg, 8, MEMTXATTRS_NONE, NULL);
}

static void wr(unsigned reg, uint64_t value)
{
    address_space_stn(machine->memory, BASE + reg, value, 8, MEMTXATTRS_NONE, NULL);
}

static unsigned rd32(unsigned reg)
{
    return (unsigned)address_space_ldn(machine->memory, BASE + reg, 4, MEMTXATTRS_NONE, NULL);
}

static void wr32(unsigned reg, unsigned value)
{
    address_space_stn(machine->memory, BASE + reg, value, 4, MEMTXATTRS_NONE, NULL);
}

static void setup(void)
{
    machine_setup();
    hpet = DEVICE(object_new("hpet", NULL));
    ck_assert(object_property_parse(OBJECT(hpet), "fsb", "on", NULL));
    memset(level, 0, sizeof(level));
    for (unsigned i = 0; i < 32; i++) {
        lines[i] = irq_new(changed, NULL, (int)i);
        ck_assert(device_connect_irq_out(hpet, "irq", i, lines[i], NULL));
    }
    ck_assert(device_realize(hpet, machine, "hpet", NULL));
    object_unref(hpet);
    memset(rises, 0, sizeof(rises));
    in_pit = device_get_irq_in(hpet, "legacy", 0, NULL);
    in_rtc = device_get_irq_in(hpet, "legacy", 1, NULL);
    machine_set_msi(machine, on_msi, NULL);
    msis = 0;
}

static void teardown(void)
{
    machine_teardown();
    for (unsigned i = 0; i < 32; i++) {
        irq_disconnect(lines[i]);
        irq_unref(lines[i]);
    }
}

enum { LEVEL = 2, ENABLE = 4, PERIODIC = 8, SET = 0x40, BITS32 = 0x100, FSB = 0x4000 };
#define ROUTE(n) ((unsigned)(n) << 9)
#define TN(n)    (0x100u + 0x20u * (n))

START_TEST(it_says_what_it_has)
{
    ck_assert_uint_eq(rd(0), UINT64_C(0x009896808086a201)); /* 10 ns, legacy, 64 bits, 3 timers */
    ck_assert_uint_eq(rd32(4), 10000000);
    ck_assert_uint_eq(rd(0x10), 0);
    ck_assert_uint_eq(rd(TN(0)), UINT64_C(0x00f0000000008030));
    ck_assert_uint_eq(rd(TN(2) + 8), UINT64_MAX);
    ck_assert_uint_eq(rd(TN(3)), 0); /* there is no fourth */
    wr(TN(0), UINT64_MAX);
    ck_assert_uint_eq(rd32(TN(0)) & 0x3e00, 0); /* it has no route 31 */
    wr(TN(0), ROUTE(21));
    ck_assert_uint_eq(rd32(TN(0)) & 0x3e00, ROUTE(21));
}
END_TEST

START_TEST(the_counter_runs_while_it_is_enabled_and_is_written_while_not)
{
    run_until(MS);
    ck_assert_uint_eq(rd(0xf0), 0);
    wr(0xf0, UINT64_C(0xffffffff0));
    wr(0x10, 1);
    run_until(2 * MS);
    ck_assert_uint_eq(rd(0xf0), UINT64_C(0xffffffff0) + 100000);
    ck_assert_uint_eq(rd32(0xf0), (uint32_t)(0xfffffff0u + 100000));
    ck_assert_uint_eq(rd32(0xf4), 0x10);
    wr(0xf0, 5); /* ignored */
    ck_assert_uint_gt(rd(0xf0), 100000);
    wr(0x10, 0);
    run_until(3 * MS);
    ck_assert_uint_eq(rd(0xf0), UINT64_C(0xffffffff0) + 100000);
    wr32(0xf4, 0);
    wr32(0xf0, 7);
    ck_assert_uint_eq(rd(0xf0), 7);
}
END_TEST

START_TEST(a_one_shot_fires_once_at_its_match)
{
    wr(0x10, 1);
    wr(TN(1), ENABLE | ROUTE(20));
    wr(TN(1) + 8, 100000);
    run_until(MS - 10);
    ck_assert_uint_eq(rises[20], 0);
    run_until(MS);
    ck_assert_uint_eq(rises[20], 1);
    ck_assert_int_eq(level[20], 0);
    ck_assert_uint_eq(rd(0x20), 0); /* edges have no status */
    run_until(100 * MS);
    ck_assert_uint_eq(rises[20], 1);
    wr(TN(1) + 8, rd(0xf0)); /* right now */
    run_until(now_ns + MS);
    ck_assert_uint_eq(rises[20], 2);
    wr(TN(1) + 8, rd(0xf0) - 1); /* past: not before the counter has come around */
    run_until(now_ns + 1000 * MS);
    ck_assert_uint_eq(rises[20], 2);
}
END_TEST

START_TEST(a_32_bit_timer_comes_around)
{
    wr(0x10, 1);
    wr(TN(0), ENABLE | BITS32 | ROUTE(22));
    run_until(10 * MS);
    wr32(TN(0) + 8, rd32(0xf0) - 100);
    run_until(now_ns + 42900 * MS);
    ck_assert_uint_eq(rises[22], 0);
    run_until(now_ns + 100 * MS);
    ck_assert_uint_eq(rises[22], 1);
}
END_TEST

START_TEST(a_periodic_timer_fires_at_each_period)
{
    wr(0x10, 1);
    wr(TN(0), ENABLE | PERIODIC | SET | ROUTE(20));
    wr(TN(0) + 8, 200000); /* first at 2 ms */
    wr(TN(0) + 8, 100000); /* then each ms */
    ck_assert_uint_eq(rd32(TN(0)) & SET, 0);
    run_until(2 * MS - 10);
    ck_assert_uint_eq(rises[20], 0);
    run_until(2 * MS);
    ck_assert_uint_eq(rises[20], 1);
    ck_assert_uint_eq(rd(TN(0) + 8), 300000);
    run_until(12 * MS);
    ck_assert_uint_eq(rises[20], 11);
    now_ns += 1000 * MS; /* a late host: one interrupt, and the phase is kept */
    clock_run_timers(machine->clock);
    ck_assert_uint_eq(rises[20], 12);
    ck_assert_uint_eq(rd(TN(0) + 8), 101300000);
    wr(0x10, 0);
    run_until(now_ns + 100 * MS);
    ck_assert_uint_eq(rises[20], 12);
}
END_TEST

START_TEST(a_level_stays_until_its_status_is_written)
{
    wr(0x10, 1);
    wr(TN(2), ENABLE | LEVEL | ROUTE(23));
    wr(TN(2) + 8, 1000);
    run_until(MS);
    ck_assert_int_eq(level[23], 1);
    ck_assert_uint_eq(rd(0x20), 4);
    wr(0x20, 1);
    ck_assert_int_eq(level[23], 1);
    wr32(0x20, 4);
    ck_assert_int_eq(level[23], 0);
    ck_assert_uint_eq(rd(0x20), 0);
    wr(TN(2), LEVEL | ROUTE(23)); /* disabled: the status tells, the line does not */
    wr(TN(2) + 8, rd(0xf0) + 1000);
    run_until(now_ns + MS);
    ck_assert_uint_eq(rd(0x20), 4);
    ck_assert_int_eq(level[23], 0);
    wr(TN(2), ENABLE | LEVEL | ROUTE(23));
    ck_assert_int_eq(level[23], 1);
}
END_TEST

START_TEST(legacy_replacement_takes_the_lines_of_pit_and_clock)
{
    irq_raise(in_pit);
    irq_raise(in_rtc);
    ck_assert_int_eq(level[0], 1);
    ck_assert_int_eq(level[8], 1);
    irq_lower(in_pit);
    ck_assert_int_eq(level[0], 0);
    wr(TN(0), ENABLE | PERIODIC | SET);
    wr(TN(0) + 8, 100000);
    wr(TN(1), ENABLE);
    wr(TN(1) + 8, 50000);
    rises[0] = rises[8] = 0;
    wr(0x10, 3);
    ck_assert_int_eq(level[8], 0); /* the clock is cut off */
    irq_raise(in_pit);
    ck_assert_uint_eq(rises[0], 0);
    run_until(now_ns + 5 * MS);
    ck_assert_uint_eq(rises[0], 5);
    ck_assert_uint_eq(rises[8], 1);
    wr(0x10, 1);
    ck_assert_int_eq(level[0], 1);
    ck_assert_int_eq(level[8], 1);
}
END_TEST

START_TEST(a_timer_can_send_a_message)
{
    wr(0x10, 1);
    wr(TN(1), ENABLE | FSB);
    wr(TN(1) + 0x10, UINT64_C(0xfee0100000000031));
    wr(TN(1) + 8, 1000);
    run_until(MS);
    ck_assert_uint_eq(msis, 1);
    ck_assert_uint_eq(msi_addr, 0xfee01000);
    ck_assert_uint_eq(msi_data, 0x31);
}
END_TEST

START_TEST(a_tiny_period_does_not_swamp_the_host)
{
    wr(0x10, 1);
    wr(TN(0), ENABLE | PERIODIC | ROUTE(20));
    wr(TN(0) + 8, 1);
    run_until(10 * MS);
    ck_assert_uint_le(rises[20], 501);
    ck_assert_uint_ge(rises[20], 400);
}
END_TEST

START_TEST(state_saved_between_two_periods_goes_on)
{
    wr(0x10, 1);
    wr(TN(0), ENABLE | PERIODIC | SET | ROUTE(20));
    wr(TN(0) + 8, 100000);
    wr(TN(2), ENABLE | LEVEL | ROUTE(23));
    wr(TN(2) + 8, 150000);
    run_until(3 * MS + MS / 2);
    g_autoptr(GBytes) saved = save_device(hpet);
    device_reset(hpet);
    ck_assert_int_eq(level[23], 0);
    ck_assert(load_device(hpet, saved));
    rises[20] = 0;
    run_until(4 * MS - 10);
    ck_assert_uint_eq(rises[20], 0);
    run_until(5 * MS);
    ck_assert_uint_eq(rises[20], 2);
    ck_assert_uint_eq(rd(0x20), 4);
    ck_assert_uint_eq(rd(0xf0), 500000);
}
END_TEST

START_TEST(a_number_of_timers_that_cannot_be_is_refused)
{
    DeviceState *dev = DEVICE(object_new("hpet", NULL));
    g_autoptr(GError) error = NULL;

    object_property_set_uint(OBJECT(dev), "timers", 33, NULL);
    object_property_set_uint(OBJECT(dev), "base", 0xfed10000, NULL);
    ck_assert(!device_realize(dev, machine, "second", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "timers"));
    object_unref(dev);
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    GRand *rand = g_rand_new_with_seed(1000);

    for (unsigned i = 0; i < 100000; i++) {
        unsigned reg = g_rand_int(rand) % (g_rand_boolean(rand) ? 0x180 : 0x400);
        unsigned size = 1u << g_rand_int(rand) % 4;
        uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

        value >>= g_rand_int(rand) % 64;
        if (g_rand_boolean(rand)) {
            address_space_stn(machine->memory, BASE + reg, value, size, MEMTXATTRS_NONE, NULL);
        } else {
            address_space_ldn(machine->memory, BASE + reg, size, MEMTXATTRS_NONE, NULL);
        }
        if (g_rand_int(rand) % 8 == 0) {
            run_until(now_ns + g_rand_int(rand) % MS);
        }
    }
    device_reset(hpet);
    ck_assert_uint_eq(rd(0x10), 0);
    g_rand_free(rand);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, it_says_what_it_has);
    tcase_add_test(tc, the_counter_runs_while_it_is_enabled_and_is_written_while_not);
    tcase_add_test(tc, a_one_shot_fires_once_at_its_match);
    tcase_add_test(tc, a_32_bit_timer_comes_around);
    tcase_add_test(tc, a_periodic_timer_fires_at_each_period);
    tcase_add_test(tc, a_level_stays_until_its_status_is_written);
    tcase_add_test(tc, legacy_replacement_takes_the_lines_of_pit_and_clock);
    tcase_add_test(tc, a_timer_can_send_a_message);
    tcase_add_test(tc, a_tiny_period_does_not_swamp_the_host);
    tcase_add_test(tc, state_saved_between_two_periods_goes_on);
    tcase_add_test(tc, a_number_of_timers_that_cannot_be_is_refused);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("hpet", setup, teardown, add);
}
