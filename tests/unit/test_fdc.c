/* The floppy controller: registers, commands, reading with DMA and without, disks of all formats.
 */
#include "tests/unit/fdc_rig.h"

/* ---- registers and commands ---------------------------------------------------------------- */

START_TEST(after_reset_it_is_held_in_reset_until_dor_lets_it_go)
{
    make_fdc(1474560, "auto", false);
    ck_assert_uint_eq(inb(0x3f2), 0);
    ck_assert_uint_eq(inb(0x3f4), 0);
    outb(0x3f5, 0x10);
    outb(0x3f2, 0x0c);
    ck_assert_uint_eq(inb(0x3f4), 0);
    run_until(now_ns + 1000000);
    ck_assert_uint_eq(inb(0x3f4), 0x80);
    ck_assert_int_eq(level, 1);
    outb(0x3f2, 0x04); /* the gate of interrupt and DMA */
    ck_assert_int_eq(level, 0);
    outb(0x3f2, 0x0c);
    ck_assert_int_eq(level, 1);
    outb(0x3f4, 0x80); /* DSR: resets, and lets go */
    ck_assert_uint_eq(inb(0x3f4), 0);
    wait_event();
    for (unsigned i = 0; i < 4; i++) {
        SEND(0x08);
        ck_results(0xc0 | i, 0);
    }
    SEND(0x08); /* nothing more to tell */
    ck_results(0x80);
    outb(0x3f3, 0xff);
    ck_assert_uint_eq(inb(0x3f3), 3);
    ck_assert_uint_eq(inb(0x3f0), 0xff);
}
END_TEST

START_TEST(without_polling_a_reset_is_silent)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x13, 0, 0x10, 0);
    SEND(0x94); /* locked: it stays */
    ck_results(0x10);
    outb(0x3f2, 0x08);
    outb(0x3f2, 0x0c);
    run_until(now_ns + 10000000);
    ck_assert_int_eq(level, 0);
    SEND(0x14);
    ck_results(0x00);
    outb(0x3f2, 0x08);
    outb(0x3f2, 0x0c);
    wait_event();
}
END_TEST

START_TEST(commands_that_move_nothing_answer)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x10);
    ck_results(0x90);
    SEND(0x18); /* PART ID: newer chips */
    ck_results(0x80);
    SEND(0x1f);
    ck_results(0x80);
    SEND(0x13, 0, 0x57, 0x05);
    SEND(0x03, 0x12, 0x34);
    SEND(0x12, 0x83);
    seek(0, 9);
    SEND(0x0e);
    ck_results(9, 0, 0, 0, 0x12, 0x34, 0, 0x03, 0x57, 0x05);
    SEND(0x04, 0x00);
    ck_results(0x28);
    SEND(0x07, 0x00);
    wait_event();
    SEND(0x08);
    ck_results(0x20, 0);
    SEND(0x04, 0x04);
    ck_results(0x3c);
}
END_TEST

START_TEST(heads_move_absolutely_relatively_and_not_beyond_their_ends)
{
    make_fdc(1474560, "auto", false);
    start();
    seek(0, 40);
    SEND(0xcf, 0x00, 5);
    wait_event();
    SEND(0x08);
    ck_results(0x20, 45);
    SEND(0x8f, 0x00, 100);
    wait_event();
    SEND(0x08);
    ck_results(0x20, 0);
    SEND(0x0f, 0x04, 200);
    wait_event();
    SEND(0x08);
    ck_results(0x24, 85);
    /* Both at once: each is told. */
    SEND(0x0f, 0x00, 3);
    SEND(0x0f, 0x01, 4);
    wait_event();
    SEND(0x08);
    ck_results(0x20, 3);
    ck_assert_int_eq(level, 1);
    SEND(0x08);
    ck_results(0x21, 4);
    SEND(0x07, 0x02); /* no such drive */
    wait_event();
    SEND(0x08);
    ck_results(0x72, 0);
}
END_TEST

/* ---- reading ------------------------------------------------------------------------------- */

START_TEST(sectors_are_read_by_dma_until_the_terminal_count)
{
    make_fdc(1474560, "auto", false);
    start();
    program_dma(TO_MEMORY, 0x8000, 3 * 512);
    SEND(0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    ck_assert_uint_eq(inb(0x3f4), 0x10);
    wait_event();
    ck_results(0x00, 0, 0, 0, 0, 4, 2);
    ck_assert_int_eq(level, 0);
    for (unsigned i = 0; i < 3; i++) {
        ck_sector(memory + 0x8000 + 512 * i, i);
    }
    ck_assert_uint_eq(memory[0x8000 + 3 * 512], 0);
}
END_TEST

START_TEST(a_transfer_goes_on_with_the_other_side)
{
    make_fdc(1474560, "auto", false);
    start();
    seek(0, 79);
    program_dma(TO_MEMORY, 0x8000, 21 * 512);
    SEND(0xe6, 0x00, 79, 0, 17, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0x40, 0x80, 0, 80, 0, 1, 2); /* 21 sectors are not left: it ends after side 1 */
    ck_sector(memory + 0x8000, 79 * 36 + 16);
    ck_sector(memory + 0x8000 + 2 * 512, 79 * 36 + 18);
    ck_sector(memory + 0x8000 + 19 * 512, 79 * 36 + 35);
}
END_TEST

START_TEST(what_is_not_there_is_told_by_its_status)
{
    make_fdc(1474560, "auto", false);
    start();
    program_dma(TO_MEMORY, 0x8000, 512);
    SEND(0xe6, 0x00, 5, 0, 1, 2, 18, 0x1b, 0xff); /* the heads are elsewhere */
    wait_event();
    ck_results(0x40, 0x04, 0x10, 5, 0, 1, 2);
    SEND(0xe6, 0x00, 0, 0, 19, 2, 19, 0x1b, 0xff); /* no such sector */
    wait_event();
    ck_results(0x40, 0x04, 0, 0, 0, 19, 2);
    SEND(0xe6, 0x00, 0, 0, 1, 3, 18, 0x1b, 0xff); /* no such size */
    wait_event();
    ck_results(0x40, 0x04, 0, 0, 0, 1, 3);
    SEND(0xe6, 0x04, 0, 0, 1, 2, 18, 0x1b, 0xff); /* side and head differ */
    wait_event();
    ck_results(0x44, 0x04, 0, 0, 0, 1, 2);
    SEND(0xa6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff); /* FM */
    wait_event();
    ck_results(0x40, 0x05, 0, 0, 0, 1, 2);
    SEND(0xe6, 0x01, 0, 0, 1, 2, 18, 0x1b, 0xff); /* an empty drive */
    wait_event();
    ck_results(0x41, 0x05, 0, 0, 0, 1, 2);
    SEND(0xe6, 0x03, 0, 0, 1, 2, 18, 0x1b, 0xff); /* no drive */
    wait_event();
    ck_results(0x43, 0x05, 0, 0, 0, 1, 2);
    outb(0x3f7, 2); /* 250 kb/s */
    SEND(0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0x40, 0x01, 0, 0, 0, 1, 2);
}
END_TEST

START_TEST(implied_seeks_move_the_heads)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x13, 0, 0x40, 0);
    program_dma(TO_MEMORY, 0x8000, 512);
    SEND(0x46, 0x04, 7, 1, 3, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0x04, 0, 0, 7, 1, 4, 2);
    ck_sector(memory + 0x8000, 7 * 36 + 18 + 2);
}
END_TEST

START_TEST(a_masked_channel_holds_the_transfer_until_it_opens)
{
    make_fdc(1474560, "auto", false);
    start();
    outb(0x0a, 6);
    SEND(0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    for (unsigned i = 0; i < 100 || block_in_flight(disk[0]); i++) {
        run_until(now_ns + 1000000);
        main_loop_iterate(false);
    }
    ck_assert_int_eq(level, 0);
    ck_assert_uint_eq(inb(0x08) & 0x40, 0x40); /* its request */
    program_dma(TO_MEMORY, 0x8000, 512);
    wait_event();
    ck_results(0, 0, 0, 0, 0, 2, 2);
    ck_sector(memory + 0x8000, 0);
}
END_TEST

START_TEST(without_dma_bytes_come_through_the_data_port)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x03, 0xdf, 0x03);
    SEND(0x46, 0x00, 0, 0, 18, 2, 18, 0x1b, 0xff);
    wait_event(); /* the first byte is there */
    for (unsigned i = 0; i < 512; i++) {
        ck_assert_uint_eq(inb(0x3f4), 0xf0);
        ck_assert_uint_eq(inb(0x3f5), sector_byte(17, i));
    }
    wait_event();
    ck_results(0x40, 0x80, 0, 1, 0, 1, 2); /* nobody gives a terminal count */
}
END_TEST

START_TEST(read_track_reads_from_its_first_sector)
{
    make_fdc(1474560, "auto", false);
    start();
    program_dma(TO_MEMORY, 0x8000, 18 * 512);
    SEND(0x42, 0x00, 0, 0, 5, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0, 0, 0, 1, 0, 1, 2);
    for (unsigned i = 0; i < 18; i++) {
        ck_sector(memory + 0x8000 + 512 * i, i);
    }
}
END_TEST

START_TEST(read_id_shows_the_sectors_as_they_come_by)
{
    make_fdc(1474560, "auto", false);
    start();
    for (unsigned i = 0; i < 20; i++) {
        SEND(0x4a, 0x04);
        wait_event();
        ck_results(0x04, 0, 0, 0, 1, (uint8_t)(i % 18 + 1), 2);
    }
    SEND(0x0a, 0x00); /* FM */
    wait_event();
    take_results();
    ck_assert_uint_eq(result[0], 0x40);
}
END_TEST

START_TEST(read_deleted_marks_a_sector_that_is_not)
{
    make_fdc(1474560, "auto", false);
    start();
    program_dma(TO_MEMORY, 0x8000, 1024);
    SEND(0xcc, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0, 0, 0x40, 0, 0, 2, 2);
    ck_sector(memory + 0x8000, 0);
}
END_TEST

/* ---- disks --------------------------------------------------------------------------------- */

START_TEST(disks_of_all_formats_are_read_to_their_last_sector)
{
    static const struct {
        unsigned kib, tracks, heads, sectors, rate;
        const char *type, *kind;
    } cases[] = {
        { 160, 40, 1, 8, 1, "auto", "1.2M" },     { 180, 40, 1, 9, 1, "auto", "1.2M" },
        { 320, 40, 2, 8, 2, "360K", "360K" },     { 360, 40, 2, 9, 1, "auto", "1.2M" },
        { 360, 40, 2, 9, 2, "360K", "360K" },     { 720, 80, 2, 9, 2, "auto", "1.44M" },
        { 1200, 80, 2, 15, 0, "auto", "1.2M" },   { 1440, 80, 2, 18, 0, "auto", "1.44M" },
        { 1440, 80, 2, 18, 0, "2.88M", "2.88M" }, { 1680, 80, 2, 21, 0, "auto", "1.44M" },
        { 2880, 80, 2, 36, 3, "auto", "2.88M" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        unsigned track = cases[i].tracks - 1, head = cases[i].heads - 1, n = cases[i].sectors;
        g_autofree char *kind = NULL;

        make_fdc((uint64_t)cases[i].kib * 1024, cases[i].type, false);
        kind = object_property_get_str(OBJECT(fdc), "kind-a", NULL);
        ck_assert_str_eq(kind, cases[i].kind);
        start();
        outb(0x3f7, cases[i].rate);
        seek(0, track);
        program_dma(TO_MEMORY, 0x8000, 512);
        SEND(0xe6, (uint8_t)(head << 2), (uint8_t)track, (uint8_t)head, (uint8_t)n, 2, (uint8_t)n,
             0x1b, 0xff);
        wait_event();
        take_results();
        ck_assert_msg((result[0] & 0xc0) == 0, "%uK: status %#x %#x", cases[i].kib, result[0],
                      result[1]);
        ck_sector(memory + 0x8000, cases[i].kib * 2 - 1);
        object_unparent(OBJECT(fdc));
        object_unparent(OBJECT(disk[0]));
        settle();
        unlink(path[0]);
        path[0][0] = 0;
    }
}
END_TEST

START_TEST(an_image_that_is_cut_short_reads_as_zeroes_behind_its_end)
{
    make_fdc(10 * 512 + 100, "1.44M", false);
    start();
    outb(0x3f7, 2); /* the smallest format that holds it is 720K */
    program_dma(TO_MEMORY, 0x8000, 9 * 512);
    memset(memory + 0x8000, 0xee, 9 * 512);
    SEND(0xe6, 0x04, 0, 1, 1, 2, 9, 0x1b, 0xff);
    wait_event();
    take_results();
    ck_assert_uint_eq(result[0] & 0xc0, 0);
    ck_sector(memory + 0x8000, 9);
    ck_assert_uint_eq(memory[0x8000 + 512 + 99], sector_byte(10, 99));
    ck_assert_uint_eq(memory[0x8000 + 512 + 100], 0);
    ck_assert_uint_eq(memory[0x8000 + 1024], 0);
    program_dma(FROM_MEMORY, 0x8000, 512);
    SEND(0xc5, 0x04, 0, 1, 5, 2, 9, 0x1b, 0xff);
    wait_event();
    take_results();
    ck_assert_uint_eq(result[1], 0x20);
}
END_TEST

START_TEST(the_change_line_tells_of_another_disk_until_the_heads_move)
{
    BlockOpenOptions options = { .format = "raw" };
    BlockNode *node;

    make_fdc(1474560, "auto", false);
    make_image(1, 737280);
    start();
    ck_assert_uint_eq(inb(0x3f7), 0);
    ck_assert(block_eject(disk[0], false, NULL));
    ck_assert_uint_eq(inb(0x3f7), 0x80);
    seek(0, 5);
    ck_assert_uint_eq(inb(0x3f7), 0x80); /* nothing is in it */
    node = block_open(path[1], &options, NULL);
    ck_assert_ptr_nonnull(node);
    ck_assert(block_change_medium(disk[0], node, false, NULL));
    object_unref(node);
    ck_assert_uint_eq(inb(0x3f7), 0x80);
    seek(0, 5); /* no step, no change */
    ck_assert_uint_eq(inb(0x3f7), 0x80);
    seek(0, 0);
    ck_assert_uint_eq(inb(0x3f7), 0);
    outb(0x3f2, 0x1d); /* the other drive is empty */
    ck_assert_uint_eq(inb(0x3f7), 0x80);
    outb(0x3f2, 0x1c);
    outb(0x3f7, 2);
    program_dma(TO_MEMORY, 0x8000, 512);
    SEND(0xe6, 0x00, 0, 0, 9, 2, 9, 0x1b, 0xff);
    wait_event();
    ck_results(4, 0, 0, 0, 1, 1, 2);
    ck_sector(memory + 0x8000, 8);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, after_reset_it_is_held_in_reset_until_dor_lets_it_go);
    tcase_add_test(tc, without_polling_a_reset_is_silent);
    tcase_add_test(tc, commands_that_move_nothing_answer);
    tcase_add_test(tc, heads_move_absolutely_relatively_and_not_beyond_their_ends);
    tcase_add_test(tc, sectors_are_read_by_dma_until_the_terminal_count);
    tcase_add_test(tc, a_transfer_goes_on_with_the_other_side);
    tcase_add_test(tc, what_is_not_there_is_told_by_its_status);
    tcase_add_test(tc, implied_seeks_move_the_heads);
    tcase_add_test(tc, a_masked_channel_holds_the_transfer_until_it_opens);
    tcase_add_test(tc, without_dma_bytes_come_through_the_data_port);
    tcase_add_test(tc, read_track_reads_from_its_first_sector);
    tcase_add_test(tc, read_id_shows_the_sectors_as_they_come_by);
    tcase_add_test(tc, read_deleted_marks_a_sector_that_is_not);
    tcase_add_test(tc, disks_of_all_formats_are_read_to_their_last_sector);
    tcase_add_test(tc, an_image_that_is_cut_short_reads_as_zeroes_behind_its_end);
    tcase_add_test(tc, the_change_line_tells_of_another_disk_until_the_heads_move);
}

int main(void)
{
    return run_tests("fdc", setup, teardown, add);
}
