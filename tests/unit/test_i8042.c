/* The keyboard controller: status, commands, buffer, lines; state and hostile guests with both
 * devices. */
#include "tests/unit/i8042_rig.h"

/* ---- controller ---------------------------------------------------------------------------- */

START_TEST(status_tells_who_wrote_last_and_what_waits)
{
    ck_assert_uint_eq(inb(0x64), 0x10);
    outb(0x64, 0xaa);
    ck_assert_uint_eq(inb(0x64), 0x1d); /* output full, system flag, command, not locked */
    ck_assert_uint_eq(inb(0x60), 0x55);
    ck_assert_uint_eq(inb(0x64), 0x1c);
    ck_assert_uint_eq(inb(0x60), 0x55); /* the buffer keeps its byte */
    outb(0x60, 0xee);
    ck_assert_uint_eq(inb(0x64), 0x15);
    ck_assert_uint_eq(inb(0x60), 0xee);
}
END_TEST

START_TEST(a_key_that_goes_down_pulses_its_line_even_while_nobody_scans)
{
    tell(0xf5);
    ck_assert_uint_eq(rises[KEY], 0);
    ck_assert_str_eq(press(INPUT_KEY_A), "");
    ck_assert_str_eq(release(INPUT_KEY_A), "");
    ck_assert_uint_eq(rises[KEY], 1);
    ck_assert_int_eq(level[KEY], 0);
}
END_TEST

START_TEST(the_ram_is_read_and_written_and_its_first_byte_is_the_command_byte)
{
    ck_assert_str_eq(ask(0x20), "43");
    for (unsigned i = 1; i < 32; i++) {
        outb(0x64, 0x60 + i);
        outb(0x60, 0x80 + i);
    }
    for (unsigned i = 1; i < 32; i++) {
        char want[4];

        snprintf(want, sizeof(want), "%02x", 0x80 + i);
        ck_assert_str_eq(ask(0x20 + i), want);
    }
    ctr(0xff);
    ck_assert_str_eq(ask(0x20), "7f");
    ck_assert_str_eq(ask(0xae), "");
    ck_assert_str_eq(ask(0x20), "6f");
    ck_assert_str_eq(ask(0xa8), "");
    ck_assert_str_eq(ask(0x20), "4f");
    ck_assert_str_eq(ask(0xad), "");
    ck_assert_str_eq(ask(0xa7), "");
    ck_assert_str_eq(ask(0x20), "7f");
}
END_TEST

START_TEST(its_commands_answer)
{
    static const struct {
        unsigned command;
        const char *answer;
    } cases[] = { { 0xaa, "55" }, { 0xab, "00" }, { 0xa9, "00" }, { 0xa4, "f1" }, { 0xc0, "b0" },
                  { 0xe0, "03" }, { 0xa6, "" },   { 0xac, "" },   { 0x00, "" },   { 0xff, "" } };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        ck_assert_str_eq(ask(cases[i].command), cases[i].answer);
    }
    outb(0x64, 0xc1);
    ck_assert_uint_eq(inb(0x64) & 0xf0, 0x00);
    outb(0x64, 0xc2);
    ck_assert_uint_eq(inb(0x64) & 0xf0, 0xb0);
    outb(0x64, 0xa5); /* a password: up to the zero it does not go to the keyboard */
    ck_assert_str_eq(tell(0xff), "");
    ck_assert_str_eq(tell(0xf2), "");
    ck_assert_str_eq(tell(0x00), "");
    ck_assert_str_eq(tell(0xee), "ee");
}
END_TEST

START_TEST(bytes_can_be_put_into_the_buffer_as_from_either_device)
{
    outb(0x64, 0xd2);
    outb(0x60, 0x77);
    ck_assert_uint_eq(inb(0x64) & 0x21, 0x01);
    ck_assert_int_eq(level[KBD], 1);
    ck_assert_uint_eq(inb(0x60), 0x77);
    ck_assert_int_eq(level[KBD], 0);
    outb(0x64, 0xd3);
    outb(0x60, 0x78);
    ck_assert_uint_eq(inb(0x64) & 0x21, 0x21);
    ck_assert_int_eq(level[AUX], 1);
    ck_assert_int_eq(level[KBD], 0);
    ck_assert_uint_eq(inb(0x60), 0x78);
    ck_assert_int_eq(level[AUX], 0);
}
END_TEST

START_TEST(the_output_port_has_a20_the_reset_and_the_lines)
{
    ck_assert_int_eq(level[A20], 1);
    ck_assert_str_eq(ask(0xd0), "cf");
    outb(0x64, 0xd1);
    outb(0x60, 0x01);
    ck_assert_int_eq(level[A20], 0);
    ck_assert_str_eq(ask(0xd0), "cd");
    outb(0x64, 0xdf);
    ck_assert_int_eq(level[A20], 1);
    outb(0x64, 0xdd);
    ck_assert_int_eq(level[A20], 0);
    outb(0x60, 0xee);
    outb(0x64, 0xd0);
    ck_assert_uint_eq(inb(0x60), 0xee);
    ck_assert_uint_eq(inb(0x60), 0xdd); /* as it was when it was asked: OBF was set */
    device_reset(kbc);
    ck_assert_int_eq(level[A20], 1);
}
END_TEST

START_TEST(the_interrupt_follows_the_buffer_and_its_enable)
{
    input_key(input, INPUT_KEY_A, true);
    ck_assert_int_eq(level[KBD], 1);
    ctr(0x42);
    ck_assert_int_eq(level[KBD], 0);
    ctr(0x43);
    ck_assert_int_eq(level[KBD], 1);
    ck_assert_uint_eq(inb(0x60), 0x1e);
    ck_assert_int_eq(level[KBD], 0);
    input_key(input, INPUT_KEY_A, false);
    wait_wire();
    ck_assert_uint_eq(rises[KBD], 3);
}
END_TEST

START_TEST(a_second_byte_that_nobody_asked_for_takes_its_time)
{
    input_key(input, INPUT_KEY_UP, true);
    ck_assert_uint_eq(inb(0x60), 0xe0);
    ck_assert_uint_eq(inb(0x64) & 1, 0);
    ck_assert_uint_eq(inb(0x60), 0xe0);
    run_until(now_ns + 99000);
    ck_assert_uint_eq(inb(0x64) & 1, 0);
    run_until(now_ns + 1000);
    ck_assert_uint_eq(inb(0x64) & 1, 1);
    ck_assert_uint_eq(inb(0x60), 0x48);
    ck_assert_uint_eq(rises[KBD], 2);
    outb(0x60, 0xf2); /* answers come at once */
    ck_assert_uint_eq(inb(0x60), 0xfa);
    ck_assert_uint_eq(inb(0x60), 0xab);
    ck_assert_uint_eq(inb(0x60), 0x41); /* 83, translated */
}
END_TEST

/* ---- both ---------------------------------------------------------------------------------- */

START_TEST(state_saved_in_the_middle_of_codes_and_packets_goes_on)
{
    tell(0xed);
    tell(0x02);
    tell_mouse(0xf4);
    input_key(input, INPUT_KEY_PRINT, true);
    input_motion(input, 7, 0);
    ck_assert_uint_eq(inb(0x60), 0xe0);
    g_autoptr(GBytes) saved = save_device(kbc);
    device_reset(kbc);
    ck_assert_uint_eq(input_get_leds(input), 0);
    ck_assert(load_device(kbc, saved));
    ck_assert_uint_eq(input_get_leds(input), INPUT_LED_NUM);
    ck_assert_str_eq(drain(), "2a e0 37 08 07 00");
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    GRand *rand = g_rand_new_with_seed(8042);

    for (unsigned i = 0; i < 300000; i++) {
        unsigned port = g_rand_boolean(rand) ? 0x60 : 0x64;

        switch (g_rand_int(rand) % 8) {
        case 0:
            input_key(input, g_rand_int(rand) % INPUT_KEY_COUNT, g_rand_boolean(rand));
            break;
        case 1:
            input_motion(input, (int)g_rand_int(rand), (int)g_rand_int(rand));
            input_buttons(input, g_rand_int(rand));
            input_wheel(input, (int)g_rand_int(rand));
            break;
        case 2:
            run_until(now_ns + g_rand_int(rand) % (10 * MS));
            break;
        case 3:
            inb(port);
            break;
        default:
            outb(port, g_rand_int(rand) & (g_rand_boolean(rand) ? 0xff : 0x7f) &
                           ~(port == 0x64 && i % 2 ? 0x10u : 0u));
            break;
        }
    }
    device_reset(kbc);
    input_release_all(input);
    drain();
    ck_assert_str_eq(tell(0xee), "ee");
    g_rand_free(rand);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, status_tells_who_wrote_last_and_what_waits);
    tcase_add_test(tc, a_key_that_goes_down_pulses_its_line_even_while_nobody_scans);
    tcase_add_test(tc, the_ram_is_read_and_written_and_its_first_byte_is_the_command_byte);
    tcase_add_test(tc, its_commands_answer);
    tcase_add_test(tc, bytes_can_be_put_into_the_buffer_as_from_either_device);
    tcase_add_test(tc, the_output_port_has_a20_the_reset_and_the_lines);
    tcase_add_test(tc, the_interrupt_follows_the_buffer_and_its_enable);
    tcase_add_test(tc, a_second_byte_that_nobody_asked_for_takes_its_time);
    tcase_add_test(tc, state_saved_in_the_middle_of_codes_and_packets_goes_on);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("i8042", setup, teardown, add);
}
