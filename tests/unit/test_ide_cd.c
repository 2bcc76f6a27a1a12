/* CD-ROM drives: packet commands, media, sense. */
#include "tests/unit/ide_rig.h"

/* ---- CD-ROMs -----------------------------------------------------------------------------------
 */

static unsigned packet(const uint8_t *p, unsigned limit)
{
    out(DEVICE_REG, 0x10);
    out(ERROR, 0);
    out(MID, limit & 0xff);
    out(HIGH, limit >> 8);
    ck_assert_uint_eq(command(0xa0) & DRQ, DRQ);
    ck_assert_uint_eq(in(COUNT)&3, 1);
    for (unsigned i = 0; i < 6; i++) {
        out(DATA, p[2 * i] | (unsigned)p[2 * i + 1] << 8);
    }
    return wait_not_busy();
}

static void clear_attention(void)
{
    static const uint8_t ready[12] = { 0 };

    ck_assert_uint_eq(packet(ready, 0xfffe) & ERR, ERR);
    ck_assert_uint_eq(in(ERROR) >> 4, 6);
    ck_assert_uint_eq(packet(ready, 0xfffe) & ERR, 0);
}

START_TEST(an_identify_for_disks_is_refused_with_the_signature)
{
    out(DEVICE_REG, 0x10);
    ck_assert_uint_eq(command(0xec) & ERR, ERR);
    ck_assert_uint_eq(in(MID), 0x14);
    ck_assert_uint_eq(in(HIGH), 0xeb);
    ck_assert_uint_eq(command(0xa1), DRDY | DSC | DRQ);
    ck_assert_uint_eq(in(DATA), 0x85c0);
}
END_TEST

START_TEST(the_first_packet_after_a_reset_meets_a_unit_attention)
{
    static const uint8_t ready[12] = { 0 }, sense[12] = { 3, 0, 0, 0, 18 },
                         inquiry[12] = { 0x12, 0, 0, 0, 36 };
    uint16_t data[18];

    ck_assert_uint_eq(packet(inquiry, 0xfffe) & (DRQ | ERR),
                      DRQ); /* which this one does not mind */
    ck_assert_uint_eq(in(MID) | in(HIGH) << 8, 36);
    read_words(data, 18);
    ck_assert_uint_eq(data[0], 0x8005);
    ck_assert_uint_eq(packet(ready, 0xfffe) & ERR, ERR);
    ck_assert_uint_eq(packet(sense, 0xfffe) & DRQ, DRQ);
    read_words(data, 9);
    ck_assert_uint_eq(data[1] & 15, 6);
    ck_assert_uint_eq(data[6] & 0xff, 0x29);
    ck_assert_uint_eq(packet(ready, 0xfffe) & ERR, 0);
}
END_TEST

START_TEST(cd_sectors_come_in_blocks_of_the_limit)
{
    static const uint8_t read10[12] = { 0x28, 0, 0, 0, 0, 5, 0, 0, 3 }, capacity[12] = { 0x25 };
    g_autofree uint8_t *content = g_malloc(3 * 2048);
    uint16_t words[1024];
    unsigned got = 0;

    for (unsigned i = 0; i < 3 * 2048; i++) {
        content[i] = (uint8_t)(i * 7 >> 3);
    }
    ck_assert(block_write_wait(cd, 5 * 2048, content, 3 * 2048, 0, NULL));
    clear_attention();
    ck_assert_uint_eq(packet(capacity, 0xfffe) & DRQ, DRQ);
    read_words(words, 4);
    ck_assert_uint_eq(words[1] >> 8 | (words[1] & 0xff) << 8, 511);
    packet(read10, 1000);
    while (in(CONTROL)&DRQ) {
        unsigned n = in(MID) | in(HIGH) << 8;

        ck_assert_uint_le(n, 1000);
        ck_assert_uint_eq(in(COUNT)&3, 2);
        read_words(words, n / 2);
        ck_assert_int_eq(memcmp(words, content + got, n), 0);
        got += n;
        wait_not_busy();
    }
    ck_assert_uint_eq(got, 3 * 2048);
    ck_assert_uint_eq(in(COUNT)&3, 3);
}
END_TEST

START_TEST(what_is_not_on_the_disc_is_refused)
{
    static const uint8_t far[12] = { 0x28, 0, 0, 0, 2, 0, 0, 0, 1 },
                         many[12] = { 0xa8, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };
    static const uint8_t unknown[12] = { 0xf7 }, capacity[12] = { 0x25 };
    GError *error = NULL;

    clear_attention();
    ck_assert_uint_eq(packet(far, 0xfffe) & ERR, ERR);
    ck_assert_uint_eq(in(ERROR) >> 4, 5);
    ck_assert_uint_eq(packet(many, 0xfffe) & ERR, ERR);
    ck_assert_uint_eq(packet(unknown, 0xfffe) & ERR, ERR);
    ck_assert(block_eject(cd, false, &error));
    ck_assert_uint_eq(packet(capacity, 0xfffe) & ERR, ERR);
    ck_assert_uint_eq(in(ERROR) >> 4, 2);
}
END_TEST

START_TEST(a_locked_door_a_change_and_the_events_of_it)
{
    static const uint8_t lock[12] = { 0x1e, 0, 0, 0, 1 }, unlock[12] = { 0x1e }, ready[12] = { 0 };
    static const uint8_t events[12] = { 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8 },
                         eject[12] = { 0x1b, 0, 0, 0, 2 };
    GError *error = NULL;
    BlockNode *other = block_open("ram:2M", NULL, &error);
    uint16_t words[4];

    clear_attention();
    packet(lock, 0xfffe);
    ck_assert(block_medium_locked(cd));
    ck_assert(!block_eject(cd, false, &error));
    g_clear_error(&error);
    packet(events, 0xfffe);
    read_words(words, 4);
    ck_assert_uint_eq(words[2] & 0xff, 1); /* somebody pressed the button */
    ck_assert_uint_eq(packet(eject, 0xfffe) & ERR, ERR);
    packet(unlock, 0xfffe);
    ck_assert(block_change_medium(cd, other, false, &error));
    object_unref(other);
    ck_assert_uint_eq(packet(ready, 0xfffe) & ERR, ERR);
    ck_assert_uint_eq(in(ERROR) >> 4, 6);
    packet(events, 0xfffe);
    read_words(words, 4);
    ck_assert_uint_eq(words[2], 0x0202); /* new medium; it is there */
    ck_assert_uint_eq(packet(eject, 0xfffe) & ERR, 0);
    ck_assert(block_tray_open(cd));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ide cd");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, an_identify_for_disks_is_refused_with_the_signature);
    tcase_add_test(tc, the_first_packet_after_a_reset_meets_a_unit_attention);
    tcase_add_test(tc, cd_sectors_come_in_blocks_of_the_limit);
    tcase_add_test(tc, what_is_not_on_the_disc_is_refused);
    tcase_add_test(tc, a_locked_door_a_change_and_the_events_of_it);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
