/* The floppy controller: writing, formatting, comparing; state in the middle of it, hostile guests.
 */
#include "tests/unit/fdc_rig.h"

/* ---- writing ------------------------------------------------------------------------------- */

START_TEST(sectors_are_written_by_dma)
{
    make_fdc(1474560, "auto", false);
    start();
    seek(0, 3);
    memset(memory + 0x9000, 0x5a, 1024);
    program_dma(FROM_MEMORY, 0x9000, 1024);
    SEND(0xc5, 0x00, 3, 0, 18, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0x04, 0, 0, 3, 1, 2, 2);
    ck_image(0, 3 * 36 + 17, 0x5a);
    ck_image(0, 3 * 36 + 18, 0x5a);
}
END_TEST

START_TEST(a_terminal_count_in_a_sector_fills_it_with_zeroes)
{
    uint8_t want[512] = { 0 }, got[512];
    FILE *f;

    make_fdc(1474560, "auto", false);
    start();
    memset(memory + 0x9000, 0x77, 512);
    memset(want, 0x77, 100);
    program_dma(FROM_MEMORY, 0x9000, 100);
    SEND(0x45, 0x00, 0, 0, 2, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0, 0, 0, 0, 0, 3, 2);
    f = fopen(path[0], "rb");
    fseek(f, 512, SEEK_SET);
    ck_assert_uint_eq(fread(got, 1, 512, f), 512);
    fclose(f);
    ck_assert_mem_eq(got, want, 512);
}
END_TEST

START_TEST(without_dma_bytes_are_written_through_the_data_port)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x03, 0xdf, 0x03);
    SEND(0x45, 0x00, 0, 0, 18, 2, 18, 0x1b, 0xff);
    for (unsigned i = 0; i < 512; i++) {
        ck_assert_uint_eq(inb(0x3f4), 0xb0);
        ck_assert_int_eq(level, 1);
        outb(0x3f5, 0x42);
    }
    ck_assert_int_eq(level, 0);
    wait_event();
    ck_results(0x40, 0x80, 0, 1, 0, 1, 2);
    ck_image(0, 17, 0x42);
}
END_TEST

START_TEST(a_track_is_formatted_with_the_byte_that_was_given)
{
    make_fdc(1474560, "auto", false);
    start();
    seek(0, 10);
    for (unsigned i = 0; i < 18; i++) {
        memory[0x9000 + 4 * i] = 10;
        memory[0x9001 + 4 * i] = 1;
        memory[0x9002 + 4 * i] = (uint8_t)(i + 1);
        memory[0x9003 + 4 * i] = 2;
    }
    program_dma(FROM_MEMORY, 0x9000, 72);
    SEND(0x4d, 0x04, 2, 18, 0x54, 0xf6);
    wait_event();
    ck_results(0x04, 0, 0, 10, 1, 18, 2);
    for (unsigned i = 0; i < 18; i++) {
        ck_image(0, 10 * 36 + 18 + i, 0xf6);
    }
    memory[0x9002] = 50; /* a sector that the image cannot hold */
    program_dma(FROM_MEMORY, 0x9000, 72);
    SEND(0x4d, 0x04, 2, 18, 0x54, 0x00);
    wait_event();
    take_results();
    ck_assert_uint_eq(result[0], 0x44);
    ck_assert_uint_eq(result[1], 0x04);
}
END_TEST

START_TEST(a_write_protected_disk_is_not_written)
{
    make_fdc(1474560, "auto", true);
    start();
    SEND(0x04, 0x00);
    ck_results(0x78);
    program_dma(FROM_MEMORY, 0x9000, 512);
    SEND(0xc5, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0x40, 0x02, 0, 0, 0, 1, 2);
    SEND(0x4d, 0x00, 2, 18, 0x54, 0xf6);
    wait_event();
    take_results();
    ck_assert_uint_eq(result[1], 0x02);
}
END_TEST

START_TEST(verify_reads_without_moving_anything)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x56, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    wait_event();
    ck_results(0, 0, 0, 1, 0, 1, 2);
    SEND(0xd6, 0x80, 0, 0, 18, 2, 18, 0x1b, 3); /* so many sectors */
    wait_event();
    ck_results(0x04, 0, 0, 0, 1, 3, 2);
}
END_TEST

START_TEST(scans_compare_disk_and_host)
{
    make_fdc(1474560, "auto", false);
    start();
    for (unsigned i = 0; i < 512; i++) {
        memory[0x9000 + i] = sector_byte(2, i);
    }
    program_dma(FROM_MEMORY, 0x9000,
                512); /* sector 3 holds what is looked for, sector 1 does not */
    outb(0x0b, 0x5a); /* again and again: auto-initialise */
    SEND(0x51, 0x00, 0, 0, 3, 2, 18, 0x1b, 1);
    wait_event();
    ck_results(0, 0, 0x08, 0, 0, 3, 2);
    SEND(0x51, 0x00, 0, 0, 1, 2, 18, 0x1b, 1);
    wait_event();
    ck_results(0, 0, 0x04, 0, 0, 2, 2); /* the terminal count came with the first */
    memset(memory + 0x9000, 0xff, 512); /* anything matches */
    SEND(0x51, 0x00, 0, 0, 5, 2, 18, 0x1b, 1);
    wait_event();
    ck_results(0, 0, 0x08, 0, 0, 5, 2);
    memset(memory + 0x9000, 0xfe, 512);
    SEND(0x59, 0x00, 0, 0, 1, 2, 1, 0x1b, 1); /* disk lower */
    wait_event();
    take_results();
    ck_assert_uint_eq(result[2] & 0x0c, 0x00);
    SEND(0x5d, 0x00, 0, 0, 1, 2, 1, 0x1b, 1); /* disk higher */
    wait_event();
    take_results();
    ck_assert_uint_eq(result[2] & 0x0c, 0x04);
}
END_TEST

/* ---- state and hostile guests -------------------------------------------------------------- */

START_TEST(state_saved_while_the_block_layer_works_goes_on)
{
    make_fdc(1474560, "auto", false);
    start();
    program_dma(TO_MEMORY, 0x8000, 2 * 512);
    SEND(0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    g_autoptr(GBytes) saved = save_device(fdc), dma_saved = save_device(dma);
    device_reset(fdc);
    ck_assert(block_drain(disk[0], NULL));
    ck_assert(load_device(dma, dma_saved));
    ck_assert(load_device(fdc, saved));
    wait_event();
    ck_results(0, 0, 0, 0, 0, 3, 2);
    ck_sector(memory + 0x8000, 0);
    ck_sector(memory + 0x8200, 1);
}
END_TEST

START_TEST(state_saved_between_bytes_and_results_goes_on)
{
    make_fdc(1474560, "auto", false);
    start();
    SEND(0x03, 0xdf, 0x03);
    SEND(0x46, 0x00, 0, 0, 2, 2, 2, 0x1b, 0xff);
    wait_event();
    for (unsigned i = 0; i < 100; i++) {
        inb(0x3f5);
    }
    g_autoptr(GBytes) saved = save_device(fdc);
    device_reset(fdc);
    ck_assert(load_device(fdc, saved));
    for (unsigned i = 100; i < 512; i++) {
        ck_assert_uint_eq(inb(0x3f5), sector_byte(1, i));
    }
    ck_assert_uint_eq(inb(0x3f5), 0x40);
    g_autoptr(GBytes) in_result = save_device(fdc);
    device_reset(fdc);
    ck_assert(load_device(fdc, in_result));
    ck_results(0x80, 0, 1, 0, 1, 2);
}
END_TEST

START_TEST(a_reset_in_the_middle_of_a_transfer_forgets_it)
{
    make_fdc(1474560, "auto", false);
    start();
    program_dma(TO_MEMORY, 0x8000, 512);
    SEND(0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    outb(0x3f2, 0x08);
    ck_assert(block_drain(disk[0], NULL));
    ck_assert_uint_eq(memory[0x8000 + 2], 0);
    start();
    SEND(0x10);
    ck_results(0x90);
    SEND(0xe6, 0x00, 0, 0, 1, 2, 18, 0x1b, 0xff);
    object_unparent(OBJECT(fdc)); /* and so does its end */
    ck_assert(block_drain(disk[0], NULL));
}
END_TEST

START_TEST(no_guest_can_break_it)
{
    GRand *rand = g_rand_new_with_seed(82077);

    make_fdc(1474560, "auto", false);
    for (unsigned i = 0; i < 200000; i++) {
        unsigned port = 0x3f0 + g_rand_int(rand) % 8;

        switch (g_rand_int(rand) % 8) {
        case 0:
            outb(port, g_rand_int(rand) & 0xff);
            break;
        case 1:
            outb(0x3f2, 0x0c);
            break;
        case 2:
            inb(port);
            break;
        case 3:
            outb(g_rand_int(rand) % 16, g_rand_int(rand) & 0xff);
            break;
        case 4:
            run_until(now_ns + g_rand_int(rand) % 1000000);
            main_loop_iterate(false);
            break;
        default: {
            static const uint8_t likely[] = {
                0xe6, 0xc5, 0x46, 0x4d, 0x0f, 0x07, 0x08, 0x51, 0x56,
                0x42, 0x4a, 0,    1,    2,    18,   3,    0xdf, 0x13
            };
            outb(0x3f5, likely[g_rand_int(rand) % sizeof(likely)]);
            break;
        }
        }
    }
    device_reset(fdc);
    ck_assert(block_drain(disk[0], NULL));
    device_reset(dma);
    start();
    SEND(0x10);
    ck_results(0x90);
    g_rand_free(rand);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, sectors_are_written_by_dma);
    tcase_add_test(tc, a_terminal_count_in_a_sector_fills_it_with_zeroes);
    tcase_add_test(tc, without_dma_bytes_are_written_through_the_data_port);
    tcase_add_test(tc, a_track_is_formatted_with_the_byte_that_was_given);
    tcase_add_test(tc, a_write_protected_disk_is_not_written);
    tcase_add_test(tc, verify_reads_without_moving_anything);
    tcase_add_test(tc, scans_compare_disk_and_host);
    tcase_add_test(tc, state_saved_while_the_block_layer_works_goes_on);
    tcase_add_test(tc, state_saved_between_bytes_and_results_goes_on);
    tcase_add_test(tc, a_reset_in_the_middle_of_a_transfer_forgets_it);
    tcase_add_test(tc, no_guest_can_break_it);
}

int main(void)
{
    return run_tests("fdc write", setup, teardown, add);
}
