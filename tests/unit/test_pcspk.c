/* System control port B: gate and output of timer 2, refresh toggle, tone, state. */
#include "engine/hw/timer/pit.h"
#include "tests/unit/intc_rig.h"

static DeviceState *speaker, *pit;
static int sound;
static Irq *line;

static void sound_changed(void *opaque, int n, int level)
{
    sound = level;
}

static void setup(void)
{
    machine_setup();
    pit = device_make(TYPE_ISA_PIT, "pit");
    speaker = DEVICE(object_new("isa-pcspk", NULL));
    ck_assert(object_property_set_link(OBJECT(speaker), "pit", OBJECT(pit), NULL));
    ck_assert(device_realize(speaker, machine, "speaker", NULL));
    object_unref(speaker);
    sound = 0;
    line = irq_new(sound_changed, NULL, 0);
    ck_assert(device_connect_irq_out(speaker, "sound", 0, line, NULL));
}

static void teardown(void)
{
    machine_teardown();
    irq_disconnect(line);
    irq_unref(line);
}

static uint64_t frequency(void)
{
    return object_property_get_uint(OBJECT(speaker), "frequency", NULL);
}

static void tone(unsigned count)
{
    outb(0x43, 0xb6);
    outb(0x42, count & 0xff);
    outb(0x42, count >> 8);
}

START_TEST(four_bits_are_kept_and_the_gate_follows_the_first)
{
    ck_assert_uint_eq(inb(0x61) & 0x0f, 0);
    outb(0x61, 0xff);
    ck_assert_uint_eq(inb(0x61) & 0xcf, 0x0f);
    ck_assert(pit_get_gate(pit, 2));
    outb(0x61, 0xfe);
    ck_assert(!pit_get_gate(pit, 2));
    ck_assert_int_eq(sound, 1);
    device_reset(speaker);
    ck_assert_uint_eq(inb(0x61) & 0x0f, 0);
    ck_assert_int_eq(sound, 0);
}
END_TEST

START_TEST(the_output_of_timer_2_is_bit_5)
{
    outb(0x61, 1);
    outb(0x43, 0xb0); /* mode 0: low until the count has run out */
    outb(0x42, 100);
    outb(0x42, 0);
    ck_assert_uint_eq(inb(0x61) & 0x20, 0);
    now_ns += 80000;
    ck_assert_uint_eq(inb(0x61) & 0x20, 0);
    now_ns += 10000;
    ck_assert_uint_eq(inb(0x61) & 0x20, 0x20);
}
END_TEST

START_TEST(the_refresh_bit_toggles_every_15_microseconds)
{
    unsigned changes = 0, last = inb(0x61) & 0x10;

    for (unsigned i = 0; i < 1000; i++) {
        unsigned now;

        now_ns += 1000;
        now = inb(0x61) & 0x10;
        changes += now != last;
        last = now;
    }
    ck_assert_uint_ge(changes, 65);
    ck_assert_uint_le(changes, 67);
}
END_TEST

START_TEST(the_tone_is_the_frequency_of_timer_2_while_both_bits_are_on)
{
    ck_assert_uint_eq(frequency(), 0);
    tone(1193);
    ck_assert_uint_eq(frequency(), 0);
    outb(0x61, 3);
    run_until(now_ns + 10000);
    ck_assert_uint_eq(frequency(), 1000);
    ck_assert_int_eq(sound, 1);
    outb(0x61, 1);
    ck_assert_uint_eq(frequency(), 0);
    ck_assert_int_eq(sound, 0);
    outb(0x61, 3);
    tone(2712);
    run_until(now_ns + 10000);
    ck_assert_uint_eq(frequency(), 440);
}
END_TEST

START_TEST(state_comes_back_and_impossible_state_is_refused)
{
    tone(1193);
    outb(0x61, 3);
    g_autoptr(GBytes) saved = save_device(speaker);
    device_reset(speaker);
    ck_assert(load_device(speaker, saved));
    ck_assert_uint_eq(inb(0x61) & 0x0f, 3);
}
END_TEST

START_TEST(it_needs_a_timer)
{
    DeviceState *dev = DEVICE(object_new("isa-pcspk", NULL));
    g_autoptr(GError) error = NULL;

    ck_assert(!device_realize(dev, machine, "second", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "pit"));
    object_unref(dev);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, four_bits_are_kept_and_the_gate_follows_the_first);
    tcase_add_test(tc, the_output_of_timer_2_is_bit_5);
    tcase_add_test(tc, the_refresh_bit_toggles_every_15_microseconds);
    tcase_add_test(tc, the_tone_is_the_frequency_of_timer_2_while_both_bits_are_on);
    tcase_add_test(tc, state_comes_back_and_impossible_state_is_refused);
    tcase_add_test(tc, it_needs_a_timer);
}

int main(void)
{
    return run_tests("pcspk", setup, teardown, add);
}
