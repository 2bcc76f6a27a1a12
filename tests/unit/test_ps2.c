/* The keyboard and the mouse behind the controller: codes, commands, packets, queues. */
#include "tests/unit/i8042_rig.h"

/* ---- keyboard ------------------------------------------------------------------------------ */

START_TEST(sets_1_2_and_3_have_the_codes_of_ibm)
{
    static const struct {
        InputKey key;
        const char *set1, *set1_up, *set2, *set2_up, *set3, *set3_up;
    } cases[] = {
        { INPUT_KEY_A, "1e", "9e", "1c", "f0 1c", "1c", "" },
        { INPUT_KEY_ESC, "01", "81", "76", "f0 76", "08", "" },
        { INPUT_KEY_F7, "41", "c1", "83", "f0 83", "37", "" },
        { INPUT_KEY_F12, "58", "d8", "07", "f0 07", "5e", "" },
        { INPUT_KEY_SHIFT, "2a", "aa", "12", "f0 12", "12", "f0 12" },
        { INPUT_KEY_CTRL, "1d", "9d", "14", "f0 14", "11", "f0 11" },
        { INPUT_KEY_CTRL_R, "e0 1d", "e0 9d", "e0 14", "e0 f0 14", "58", "" },
        { INPUT_KEY_DELETE, "e0 53", "e0 d3", "e0 71", "e0 f0 71", "64", "" },
        { INPUT_KEY_KP_ENTER, "e0 1c", "e0 9c", "e0 5a", "e0 f0 5a", "79", "" },
        { INPUT_KEY_KP_SUBTRACT, "4a", "ca", "7b", "f0 7b", "84", "" },
        { INPUT_KEY_NUM_LOCK, "45", "c5", "77", "f0 77", "76", "" },
        { INPUT_KEY_SCROLL_LOCK, "46", "c6", "7e", "f0 7e", "5f", "" },
        { INPUT_KEY_LESS, "56", "d6", "61", "f0 61", "13", "" },
        { INPUT_KEY_META_L, "e0 5b", "e0 db", "e0 1f", "e0 f0 1f", "8b", "" },
        { INPUT_KEY_PRINT, "e0 2a e0 37", "e0 b7 e0 aa", "e0 12 e0 7c", "e0 f0 7c e0 f0 12", "57",
          "" },
        { INPUT_KEY_PAUSE, "e1 1d 45 e1 9d c5", "", "e1 14 77 e1 f0 14 f0 77", "", "62", "" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        InputKey key = cases[i].key;

        ctr(0x43); /* set 2, translated */
        ck_assert_str_eq(press(key), cases[i].set1);
        ck_assert_str_eq(release(key), cases[i].set1_up);
        ctr(0x03);
        ck_assert_str_eq(press(key), cases[i].set2);
        ck_assert_str_eq(release(key), cases[i].set2_up);
        ck_assert_str_eq(tell(0xf0), "fa");
        ck_assert_str_eq(tell(0x01), "fa");
        ck_assert_str_eq(press(key), cases[i].set1);
        ck_assert_str_eq(release(key), cases[i].set1_up);
        tell(0xf0);
        ck_assert_str_eq(tell(0x03), "fa");
        ck_assert_str_eq(press(key), cases[i].set3);
        ck_assert_str_eq(release(key), cases[i].set3_up);
        tell(0xf0);
        ck_assert_str_eq(tell(0x00), "fa 03");
        ck_assert_str_eq(tell(0xf0), "fa");
        ck_assert_str_eq(tell(0x04), "fe");
        tell(0xf0);
        tell(0x02);
    }
}
END_TEST

START_TEST(print_and_pause_change_with_modifiers)
{
    press(INPUT_KEY_ALT);
    ck_assert_str_eq(press(INPUT_KEY_PRINT), "54");
    ck_assert_str_eq(release(INPUT_KEY_PRINT), "d4");
    release(INPUT_KEY_ALT);
    press(INPUT_KEY_SHIFT);
    ck_assert_str_eq(press(INPUT_KEY_PRINT), "e0 37");
    ck_assert_str_eq(release(INPUT_KEY_PRINT), "e0 b7");
    release(INPUT_KEY_SHIFT);
    press(INPUT_KEY_CTRL);
    ck_assert_str_eq(press(INPUT_KEY_PAUSE), "e0 46 e0 c6");
    ck_assert_str_eq(release(INPUT_KEY_PAUSE), "");
}
END_TEST

START_TEST(every_key_has_codes_of_its_own)
{
    for (unsigned set = 1; set <= 2; set++) {
        GHashTable *seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

        ctr(set == 1 ? 0x43 : 0x03);
        for (unsigned key = 0; key < INPUT_KEY_COUNT; key++) {
            char *codes = g_strdup(press(key));

            release(key);
            ck_assert_msg(codes[0], "%s sends nothing", input_key_name(key));
            ck_assert_msg(g_hash_table_add(seen, codes), "%s sends %s as another does",
                          input_key_name(key), codes);
        }
        g_hash_table_destroy(seen);
    }
}
END_TEST

START_TEST(the_keyboards_commands_answer)
{
    ck_assert_str_eq(tell(0xee), "ee");
    ck_assert_str_eq(tell(0xfe), "ee"); /* resend */
    ctr(0x03);
    ck_assert_str_eq(tell(0xf2), "fa ab 83");
    ck_assert_str_eq(tell(0xff), "fa aa");
    ck_assert_str_eq(tell(0x01), "fe"); /* no command */
    ck_assert_str_eq(tell(0xf3), "fa");
    ck_assert_str_eq(tell(0x20), "fa");
    ck_assert_str_eq(tell(0xed), "fa");
    ck_assert_uint_eq(input_get_leds(input), 0);
    ck_assert_str_eq(tell(0x05), "fa");
    ck_assert_uint_eq(input_get_leds(input), INPUT_LED_SCROLL | INPUT_LED_CAPS);
    tell(0xed); /* a command in place of the argument */
    ck_assert_str_eq(tell(0xf4), "fa");
    ck_assert_uint_eq(input_get_leds(input), INPUT_LED_SCROLL | INPUT_LED_CAPS);
    ck_assert_str_eq(tell(0xff), "fa aa");
    ck_assert_uint_eq(input_get_leds(input), 0);
}
END_TEST

START_TEST(a_disabled_keyboard_sends_nothing_and_a_disabled_wire_waits)
{
    tell(0xf5);
    ck_assert(!input_keyboard_room(input));
    ck_assert_str_eq(press(INPUT_KEY_B), "");
    ck_assert_str_eq(release(INPUT_KEY_B), "");
    tell(0xf4);
    ck_assert(input_keyboard_room(input));
    outb(0x64, 0xad);
    ck_assert_str_eq(press(INPUT_KEY_B), "");
    ck_assert(!input_keyboard_idle(input));
    outb(0x64, 0xae);
    ck_assert_str_eq(drain(), "30");
    ck_assert(input_keyboard_idle(input));
}
END_TEST

START_TEST(set_3_keys_send_what_each_was_told_to)
{
    ctr(0x03);
    tell(0xf0);
    tell(0x03);
    ck_assert_str_eq(tell(0xf8), "fa"); /* all: make and break */
    ck_assert_str_eq(press(INPUT_KEY_A), "1c");
    ck_assert_str_eq(release(INPUT_KEY_A), "f0 1c");
    ck_assert_str_eq(tell(0xf9), "fa"); /* all: make */
    press(INPUT_KEY_A);
    ck_assert_str_eq(release(INPUT_KEY_A), "");
    ck_assert_str_eq(tell(0xfc), "fa"); /* these: make and break */
    ck_assert_str_eq(tell(0x1c), "fa");
    ck_assert_str_eq(tell(0x32), "fa");
    ck_assert_str_eq(tell(0xf4), "fa");
    press(INPUT_KEY_A);
    ck_assert_str_eq(release(INPUT_KEY_A), "f0 1c");
    press(INPUT_KEY_B);
    ck_assert_str_eq(release(INPUT_KEY_B), "f0 32");
    press(INPUT_KEY_C);
    ck_assert_str_eq(release(INPUT_KEY_C), "");
    tell(0xfa);
    press(INPUT_KEY_C);
    ck_assert_str_eq(release(INPUT_KEY_C), "f0 21");
    tell(0xfd);
    tell(0x21);
    tell(0xf4);
    press(INPUT_KEY_C);
    ck_assert_str_eq(release(INPUT_KEY_C), "");
    tell(0xf7);
    press(INPUT_KEY_C);
    ck_assert_str_eq(release(INPUT_KEY_C), "");
}
END_TEST

static unsigned repeats_within(int64_t ns)
{
    int64_t end = now_ns + ns;
    unsigned n = 0;

    while (now_ns < end) {
        run_until(now_ns + MS);
        if (inb(0x64) & 1) {
            ck_assert_uint_eq(inb(0x60), 0x1e);
            n++;
        }
    }
    return n;
}

START_TEST(a_held_key_repeats_after_a_while_at_its_rate)
{
    int64_t begin = now_ns;

    ck_assert_str_eq(press(INPUT_KEY_A), "1e");
    run_until(begin + 499 * MS);
    ck_assert_uint_eq(inb(0x64) & 1, 0);
    run_until(begin + 501 * MS);
    ck_assert_uint_eq(inb(0x64) & 1, 1);
    inb(0x60);
    ck_assert_uint_eq(repeats_within(1000 * MS), 10); /* 10.9 a second */
    ck_assert_str_eq(release(INPUT_KEY_A), "9e");
    ck_assert_uint_eq(repeats_within(1000 * MS), 0);
    tell(0xf3);
    tell(0x00); /* 250 ms, 30 a second */
    press(INPUT_KEY_A);
    ck_assert_uint_eq(repeats_within(240 * MS), 0);
    ck_assert_uint_ge(repeats_within(1000 * MS), 29);
    release(INPUT_KEY_A);
    tell(0xf3);
    tell(0x7f); /* 1 s, 2 a second */
    press(INPUT_KEY_A);
    ck_assert_uint_eq(repeats_within(990 * MS), 0);
    ck_assert_uint_eq(repeats_within(2000 * MS), 4);
    press(INPUT_KEY_B); /* the last key is the one that repeats */
    release(INPUT_KEY_A);
    run_until(now_ns + 1100 * MS);
    ck_assert_str_eq(drain(), "30");
}
END_TEST

START_TEST(a_full_queue_ends_with_the_overrun_code)
{
    for (unsigned i = 0; i < 24; i++) {
        input_key(input, INPUT_KEY_A + i % 4, i % 8 < 4);
    }
    /* One byte is in the output buffer, 16 in the queue. */
    const char *got = drain();
    ck_assert_msg(strlen(got) < 17 * 3, "%s", got);
    ck_assert_str_eq(got + strlen(got) - 2, "ff"); /* 00, translated */
    ck_assert_str_eq(press(INPUT_KEY_Z), "2c");
}
END_TEST

START_TEST(room_means_that_no_key_is_lost)
{
    unsigned n = 0;

    while (input_keyboard_room(input)) {
        input_key(input, INPUT_KEY_PRINT, n++ % 2 == 0);
        ck_assert_uint_lt(n, 10);
    }
    ck_assert_uint_ge(n, 2);
    ck_assert_ptr_null(strstr(drain(), "ff"));
    ck_assert(input_keyboard_room(input));
}
END_TEST

START_TEST(a_key_that_is_down_already_does_nothing)
{
    press(INPUT_KEY_A);
    ck_assert_str_eq(press(INPUT_KEY_A), "");
    release(INPUT_KEY_A);
    ck_assert_str_eq(release(INPUT_KEY_A), "");
    press(INPUT_KEY_CTRL);
    press(INPUT_KEY_B);
    input_release_all(input);
    ck_assert_str_eq(drain(), "9d b0");
}
END_TEST

START_TEST(names_of_keys_are_found_and_mistakes_are_helped)
{
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < INPUT_KEY_COUNT; i++) {
        ck_assert_uint_eq(input_key_from_name(input_key_name(i), NULL), i);
    }
    ck_assert_uint_eq(input_key_from_name("enter", NULL), INPUT_KEY_RET);
    ck_assert_uint_eq(input_key_from_evdev(28), INPUT_KEY_RET);
    ck_assert_uint_eq(input_key_from_evdev(999), INPUT_KEY_COUNT);
    ck_assert_uint_eq(input_key_from_name("delet", &error), INPUT_KEY_COUNT);
    ck_assert_ptr_nonnull(strstr(error->message, "delete"));
}
END_TEST

/* ---- mouse --------------------------------------------------------------------------------- */

START_TEST(the_mouse_answers_with_its_id_and_its_settings)
{
    ck_assert_str_eq(tell_mouse(0xff), "fa aa 00");
    ck_assert_uint_ge(rises[AUX], 3);
    ck_assert_str_eq(tell_mouse(0xf2), "fa 00");
    ck_assert_str_eq(tell_mouse(0xe9), "fa 00 02 64");
    tell_mouse(0xe8);
    ck_assert_str_eq(tell_mouse(0x03), "fa");
    tell_mouse(0xf3);
    ck_assert_str_eq(tell_mouse(40), "fa");
    tell_mouse(0xe7);
    tell_mouse(0xf4);
    ck_assert_str_eq(tell_mouse(0xe9), "fa 30 03 28");
    tell_mouse(0xf0);
    ck_assert_str_eq(tell_mouse(0xe9), "fa 70 03 28");
    ck_assert_str_eq(tell_mouse(0xf6), "fa");
    ck_assert_str_eq(tell_mouse(0xe9), "fa 00 02 64");
    tell_mouse(0xf3);
    ck_assert_str_eq(tell_mouse(41), "fe"); /* no such rate */
    tell_mouse(0xe8);
    ck_assert_str_eq(tell_mouse(4), "fe");
    ck_assert_str_eq(tell_mouse(0x12), "fe");
}
END_TEST

START_TEST(motion_and_buttons_make_packets_once_reporting_is_on)
{
    input_motion(input, 5, 5);
    ck_assert_str_eq(drain(), "");
    ck_assert_str_eq(tell_mouse(0xf4), "fa");
    input_motion(input, 5, -3);
    ck_assert_uint_eq(inb(0x64) & 0x21, 0x21);
    ck_assert_str_eq(drain(), "08 05 03"); /* up is positive */
    run_until(now_ns + 20 * MS);
    input_motion(input, -1, 1);
    ck_assert_str_eq(drain(), "38 ff ff");
    run_until(now_ns + 20 * MS);
    input_buttons(input, INPUT_BUTTON_LEFT | INPUT_BUTTON_MIDDLE);
    ck_assert_str_eq(drain(), "0d 00 00");
    run_until(now_ns + 20 * MS);
    input_buttons(input, 0);
    ck_assert_str_eq(drain(), "08 00 00");
    tell_mouse(0xf5);
    input_motion(input, 9, 9);
    ck_assert_str_eq(drain(), "");
}
END_TEST

START_TEST(large_motion_is_split_and_nothing_is_lost)
{
    int x = 0, y = 0;

    tell_mouse(0xf4);
    input_motion(input, 1000, -700);
    for (unsigned i = 0; i < 10; i++) {
        run_until(now_ns + 20 * MS);
        while (inb(0x64) & 1) {
            unsigned head = inb(0x60);

            wait_wire();
            x += (int)inb(0x60) - (head & 0x10 ? 256 : 0);
            wait_wire();
            y += (int)inb(0x60) - (head & 0x20 ? 256 : 0);
            wait_wire();
        }
    }
    ck_assert_int_eq(x, 1000);
    ck_assert_int_eq(y, 700);
}
END_TEST

START_TEST(packets_come_no_faster_than_the_sampling_rate)
{
    unsigned packets = 0;
    int64_t end;

    tell_mouse(0xf3);
    tell_mouse(20);
    tell_mouse(0xf4);
    end = now_ns + 1000 * MS;
    while (now_ns < end) {
        input_motion(input, 1, 0);
        run_until(now_ns + MS);
        if (inb(0x64) & 1) {
            drain();
            packets++;
        }
    }
    ck_assert_uint_ge(packets, 19);
    ck_assert_uint_le(packets, 21);
}
END_TEST

static void knock(unsigned a, unsigned b, unsigned c)
{
    unsigned rates[] = { a, b, c };

    for (unsigned i = 0; i < 3; i++) {
        tell_mouse(0xf3);
        tell_mouse(rates[i]);
    }
}

START_TEST(the_wheel_and_more_buttons_come_after_their_knocks)
{
    knock(200, 200, 80);
    ck_assert_str_eq(tell_mouse(0xf2), "fa 00"); /* only after the first */
    knock(200, 100, 80);
    ck_assert_str_eq(tell_mouse(0xf2), "fa 03");
    tell_mouse(0xf4);
    input_wheel(input, -2);
    ck_assert_str_eq(drain(), "08 00 00 fe");
    run_until(now_ns + 20 * MS);
    input_wheel(input, 9);
    ck_assert_str_eq(drain(), "08 00 00 07");
    run_until(now_ns + 20 * MS);
    ck_assert_str_eq(drain(), "08 00 00 02");
    knock(200, 200, 80);
    ck_assert_str_eq(tell_mouse(0xf2), "fa 04");
    run_until(now_ns + 20 * MS);
    input_buttons(input, INPUT_BUTTON_SIDE | INPUT_BUTTON_EXTRA);
    ck_assert_str_eq(drain(), "08 00 00 30");
    run_until(now_ns + 20 * MS);
    input_buttons(input, 0);
    input_wheel(input, -1);
    run_until(now_ns + 20 * MS);
    ck_assert_str_eq(drain(), "08 00 00 00 08 00 00 0f");
    ck_assert_str_eq(tell_mouse(0xff), "fa aa 00");
}
END_TEST

START_TEST(in_remote_mode_packets_are_asked_for)
{
    tell_mouse(0xf0);
    tell_mouse(0xf4);
    input_motion(input, 3, 0);
    input_motion(input, 4, 0);
    ck_assert_str_eq(drain(), "");
    ck_assert_str_eq(tell_mouse(0xeb), "fa 08 07 00");
    ck_assert_str_eq(tell_mouse(0xeb), "fa 08 00 00");
    tell_mouse(0xea);
    input_motion(input, 1, 0);
    ck_assert_str_eq(drain(), "08 01 00");
}
END_TEST

START_TEST(in_wrap_mode_bytes_come_back)
{
    ck_assert_str_eq(tell_mouse(0xee), "fa");
    ck_assert_str_eq(tell_mouse(0x55), "55");
    ck_assert_str_eq(tell_mouse(0xf2), "f2");
    ck_assert_str_eq(tell_mouse(0xec), "fa");
    ck_assert_str_eq(tell_mouse(0xf2), "fa 00");
}
END_TEST

START_TEST(scaling_makes_fast_motion_faster)
{
    static const int in[] = { 0, 1, 2, 3, 4, 5, 6, 10 }, out[] = { 0, 1, 1, 3, 6, 9, 12, 20 };

    tell_mouse(0xe7);
    tell_mouse(0xf4);
    for (unsigned i = 1; i < G_N_ELEMENTS(in); i++) {
        char want[16];

        run_until(now_ns + 20 * MS);
        input_motion(input, in[i], 0);
        snprintf(want, sizeof(want), "08 %02x 00", out[i]);
        ck_assert_str_eq(drain(), want);
    }
    tell_mouse(0xf0);
    input_motion(input, 10, 0);
    ck_assert_str_eq(tell_mouse(0xeb), "fa 08 0a 00"); /* not in remote mode */
}
END_TEST

START_TEST(without_a_mouse_its_commands_time_out)
{
    DeviceState *dev = DEVICE(object_new(TYPE_I8042, NULL));

    device_unrealize(kbc);
    ck_assert(!input_has_keyboard(input));
    ck_assert(object_property_parse(OBJECT(dev), "mouse", "off", NULL));
    ck_assert(device_realize(dev, machine, "second", NULL));
    object_unref(dev);
    ck_assert(input_has_keyboard(input));
    ck_assert(!input_has_pointer(input));
    ck_assert(!input_motion(input, 1, 1));
    outb(0x64, 0xd4);
    outb(0x60, 0xff);
    ck_assert_uint_eq(inb(0x64) & 0x61, 0x61);
    ck_assert_uint_eq(inb(0x60), 0xfe);
    ck_assert_uint_eq(inb(0x64) & 0x41, 0);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, sets_1_2_and_3_have_the_codes_of_ibm);
    tcase_add_test(tc, print_and_pause_change_with_modifiers);
    tcase_add_test(tc, every_key_has_codes_of_its_own);
    tcase_add_test(tc, the_keyboards_commands_answer);
    tcase_add_test(tc, a_disabled_keyboard_sends_nothing_and_a_disabled_wire_waits);
    tcase_add_test(tc, set_3_keys_send_what_each_was_told_to);
    tcase_add_test(tc, a_held_key_repeats_after_a_while_at_its_rate);
    tcase_add_test(tc, a_full_queue_ends_with_the_overrun_code);
    tcase_add_test(tc, room_means_that_no_key_is_lost);
    tcase_add_test(tc, a_key_that_is_down_already_does_nothing);
    tcase_add_test(tc, names_of_keys_are_found_and_mistakes_are_helped);
    tcase_add_test(tc, the_mouse_answers_with_its_id_and_its_settings);
    tcase_add_test(tc, motion_and_buttons_make_packets_once_reporting_is_on);
    tcase_add_test(tc, large_motion_is_split_and_nothing_is_lost);
    tcase_add_test(tc, packets_come_no_faster_than_the_sampling_rate);
    tcase_add_test(tc, the_wheel_and_more_buttons_come_after_their_knocks);
    tcase_add_test(tc, in_remote_mode_packets_are_asked_for);
    tcase_add_test(tc, in_wrap_mode_bytes_come_back);
    tcase_add_test(tc, scaling_makes_fast_motion_faster);
    tcase_add_test(tc, without_a_mouse_its_commands_time_out);
}

int main(void)
{
    return run_tests("ps2", setup, teardown, add);
}
