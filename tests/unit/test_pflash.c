/* NOR flash: commands, what stays in the file, protection, identification, state, hostile writes.
 */
#include <glib/gstdio.h>
#include <unistd.h>

#include "pc_rig.h"

#define SIZE  0x20000u
#define FLASH (UINT64_C(0x100000000) - SIZE)

static char *path;
static DeviceState *chip;

static DeviceState *make(bool readonly, GError **error)
{
    DeviceState *dev = DEVICE(object_new("pflash", NULL));
    bool ok;

    ck_assert(object_property_set_str(OBJECT(dev), "file", path, NULL));
    ck_assert(object_property_set_bool(OBJECT(dev), "readonly", readonly, NULL));
    ok = device_realize(dev, machine, "flash", error);
    object_unref(dev);
    return ok ? dev : NULL;
}

static void new_file(size_t size, uint8_t fill)
{
    g_autofree char *bytes = g_malloc(size + 1);
    int fd = g_file_open_tmp("vmlua-flash-XXXXXX", &path, NULL);

    ck_assert_int_ge(fd, 0);
    close(fd);
    memset(bytes, fill, size);
    ck_assert(g_file_set_contents(path, bytes, (gssize)size, NULL));
}

static void add(bool readonly, uint8_t fill)
{
    new_file(SIZE, fill);
    chip = make(readonly, NULL);
    ck_assert_ptr_nonnull(chip);
}

static void drop_file(void)
{
    g_unlink(path);
    g_clear_pointer(&path, g_free);
}

static uint8_t in_file(size_t at)
{
    g_autofree char *bytes = NULL;
    gsize len;

    ck_assert(g_file_get_contents(path, &bytes, &len, NULL));
    ck_assert_uint_eq(len, SIZE);
    return (uint8_t)bytes[at];
}

static uint8_t get(unsigned at)
{
    return (uint8_t)mem(FLASH + at, 1);
}

static void put(unsigned at, uint8_t value)
{
    mem_write(FLASH + at, value, 1);
}

START_TEST(a_byte_is_programmed_and_stays_in_the_file)
{
    add(false, 0xff);
    ck_assert_uint_eq(get(0x1234), 0xff);
    put(0x1234, 0x10);
    put(0x1234, 0x5a);
    ck_assert_uint_eq(get(0), 0x80); /* the status, until it is told otherwise */
    put(0, 0xff);
    ck_assert_uint_eq(get(0x1234), 0x5a);
    put(0x1234, 0x40);
    put(0x1234, 0x0f); /* clears bits, sets none */
    put(0, 0xff);
    ck_assert_uint_eq(get(0x1234), 0x0a);
    object_unparent(OBJECT(chip));
    ck_assert_uint_eq(in_file(0x1234), 0x0a);
    ck_assert_uint_eq(in_file(0x1235), 0xff);
    drop_file();
}
END_TEST

START_TEST(erasing_fills_one_block_with_ones)
{
    add(false, 0x00);
    put(0x2345, 0x20);
    put(0x2345, 0xd0);
    put(0, 0xff);
    ck_assert_uint_eq(get(0x1fff), 0);
    ck_assert_uint_eq(get(0x2000), 0xff);
    ck_assert_uint_eq(get(0x2fff), 0xff);
    ck_assert_uint_eq(get(0x3000), 0);
    put(0x2345, 0x20);
    put(0x2345, 0x55); /* not confirmed */
    ck_assert_uint_eq(get(0), 0xb0);
    put(0, 0x50);
    put(0, 0x70);
    ck_assert_uint_eq(get(0), 0);
    object_unparent(OBJECT(chip));
    ck_assert_uint_eq(in_file(0x2000), 0xff);
    drop_file();
}
END_TEST

START_TEST(a_buffer_is_written_as_one)
{
    add(false, 0xff);
    put(0x100, 0xe8);
    ck_assert_uint_eq(get(0x100), 0x80);
    put(0x100, 3);
    for (unsigned i = 0; i < 4; i++) {
        put(0x100 + i, (uint8_t)(0x30 + i));
    }
    put(0x100, 0xd0);
    put(0, 0xff);
    ck_assert_uint_eq(mem(FLASH + 0x100, 4), 0x33323130);
    drop_file();
}
END_TEST

START_TEST(a_protected_chip_says_so_and_keeps_its_bytes)
{
    add(true, 0x77);
    put(0, 0x10);
    put(0, 0x00);
    ck_assert_uint_eq(get(0), 0x92);
    put(0, 0x20);
    put(0, 0xd0);
    put(0, 0x70);
    ck_assert_uint_eq(get(0) & 0x22, 0x22);
    put(0, 0xff);
    ck_assert_uint_eq(get(0), 0x77);
    drop_file();
}
END_TEST

START_TEST(it_says_who_it_is)
{
    add(false, 0xff);
    put(0, 0x98);
    ck_assert_uint_eq(get(0x10), 'Q');
    ck_assert_uint_eq(get(0x11), 'R');
    ck_assert_uint_eq(get(0x12), 'Y');
    ck_assert_uint_eq(get(0x27), 17);
    ck_assert_uint_eq(get(0x2d), SIZE / 4096 - 1);
    ck_assert_uint_eq(get(0x2f), 0x10);
    put(0, 0x90);
    ck_assert_uint_eq(get(0), 0x89);
    drop_file();
}
END_TEST

START_TEST(files_that_are_no_flash_are_refused)
{
    static const size_t sizes[] = { 0, 100, 4097 };

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GError) error = NULL;

        new_file(sizes[i], 0);
        ck_assert(!make(false, &error));
        ck_assert_ptr_nonnull(strstr(error->message, "whole blocks"));
        drop_file();
    }
    g_autoptr(GError) error = NULL;
    path = g_strdup("/nonexistent/flash");
    ck_assert(!make(false, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "/nonexistent/flash"));
    g_clear_pointer(&path, g_free);
}
END_TEST

START_TEST(saved_state_goes_on_in_the_middle_of_a_buffer)
{
    g_autoptr(GBytes) bytes = NULL;
    g_autoptr(GError) error = NULL;

    add(false, 0xff);
    put(0x100, 0xe8);
    put(0x100, 1);
    put(0x100, 0x11);
    bytes = rig_save(chip);
    device_reset(chip);
    ck_assert_uint_eq(get(0x100), 0xff);
    ck_assert_msg(rig_load(chip, bytes, &error), "%s", error ? error->message : "");
    put(0x101, 0x22);
    put(0x100, 0xd0);
    put(0, 0xff);
    ck_assert_uint_eq(mem(FLASH + 0x100, 2), 0x2211);
    drop_file();
}
END_TEST

START_TEST(random_writes_do_no_harm)
{
    uint64_t seed = 11;

    add(false, 0xff);
    for (unsigned i = 0; i < 20000; i++) {
        static const uint8_t commands[] = { 0xff, 0x70, 0x50, 0x90, 0x98, 0x10, 0xe8, 0x20, 0x60 };
        uint8_t value = rig_random(&seed) % 4 ? (uint8_t)rig_random(&seed)
                                              : commands[rig_random(&seed) % sizeof(commands)];

        mem_write(FLASH + rig_random(&seed) % SIZE, value, 1u << rig_random(&seed) % 4);
        mem(FLASH + rig_random(&seed) % SIZE, 1u << rig_random(&seed) % 4);
    }
    drop_file();
}
END_TEST

RIG_MAIN("pflash", a_byte_is_programmed_and_stays_in_the_file, erasing_fills_one_block_with_ones,
         a_buffer_is_written_as_one, a_protected_chip_says_so_and_keeps_its_bytes,
         it_says_who_it_is, files_that_are_no_flash_are_refused,
         saved_state_goes_on_in_the_middle_of_a_buffer, random_writes_do_no_harm)
