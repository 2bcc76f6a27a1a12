/* i440FX: shadowing by PAM, the SMRAM window, what is where, state. */
#include <glib/gstdio.h>
#include <unistd.h>

#include "pc_rig.h"

#define ROM 0xf0000

static char rom_path[] = "/tmp/vmlua-test-rom-XXXXXX";

/* A ROM of 128 KiB, each byte its page's number with the highest bit set. */
static void add_rom(void)
{
    g_autofree uint8_t *image = g_malloc(128 << 10);
    DeviceState *dev = DEVICE(object_new("bios-rom", NULL));
    char path[sizeof(rom_path)];
    int fd;

    memcpy(path, rom_path, sizeof(path));
    fd = g_mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    for (unsigned i = 0; i < 128 << 10; i++) {
        image[i] = (uint8_t)(0x80 | i >> 12);
    }
    ck_assert(g_file_set_contents(path, (char *)image, 128 << 10, NULL));
    ck_assert(object_property_set_str(OBJECT(dev), "file", path, NULL));
    ck_assert(device_realize(dev, machine, "bios", NULL));
    object_unref(dev);
    unlink(path);
}

START_TEST(the_rom_is_below_one_mebibyte_and_below_four_gibibytes)
{
    add_rom();
    ck_assert_uint_eq(mem(0xe0000, 1), 0x80);
    ck_assert_uint_eq(mem(0xfffff, 1), 0x9f);
    ck_assert_uint_eq(mem(0xfffe0000, 1), 0x80);
    ck_assert_uint_eq(mem(0xffffffff, 1), 0x9f);
    ck_assert_uint_eq(mem(0xc0000, 4), 0xffffffff);
    ck_assert_uint_eq(mem(0xa0000, 4), 0xffffffff);
    mem_write(0x9ffff, 0x77, 1);
    ck_assert_uint_eq(mem(0x9ffff, 1), 0x77);
    mem_write(0x100000, 0x78, 1);
    ck_assert_uint_eq(mem(0x100000, 1), 0x78);
}
END_TEST

START_TEST(the_four_states_of_a_segment_read_and_write_the_right_side)
{
    add_rom();
    mem_write(ROM, 0x11, 1);
    ck_assert_uint_eq(mem(ROM, 1), 0x90); /* PCI, PCI */
    conf_write(0, 0x59, 0x20, 1);         /* reads PCI, writes RAM */
    ck_assert_uint_eq(mem(ROM, 1), 0x90);
    ck_assert_int_eq(mem_write(ROM, 0x22, 1), MEMTX_OK);
    ck_assert_uint_eq(mem(ROM, 1), 0x90);
    conf_write(0, 0x59, 0x10, 1); /* reads RAM, writes PCI */
    ck_assert_uint_eq(mem(ROM, 1), 0x22);
    mem_write(ROM, 0x33, 1);
    ck_assert_uint_eq(mem(ROM, 1), 0x22);
    conf_write(0, 0x59, 0x30, 1); /* RAM, RAM */
    ck_assert_uint_eq(mem(ROM, 1), 0x22);
    mem_write(ROM, 0x44, 1);
    ck_assert_uint_eq(mem(ROM, 1), 0x44);
    conf_write(0, 0x59, 0x00, 1);
    ck_assert_uint_eq(mem(ROM, 1), 0x90);
    ck_assert_uint_eq(((uint8_t *)memory_region_get_ram_ptr(&rig_ram))[ROM], 0x44);
}
END_TEST

START_TEST(a_rom_can_be_copied_over_itself)
{
    uint8_t page[4096];

    add_rom();
    conf_write(0, 0x59, 0x20, 1);
    for (hwaddr a = ROM; a < 0x100000; a += sizeof(page)) {
        address_space_read(machine->memory, a, MEMTXATTRS_NONE, page, sizeof(page));
        ck_assert_int_eq(
            address_space_write(machine->memory, a, MEMTXATTRS_NONE, page, sizeof(page)), MEMTX_OK);
    }
    conf_write(0, 0x59, 0x10, 1);
    for (hwaddr a = ROM; a < 0x100000; a += 4096) {
        ck_assert_uint_eq(mem(a, 1), 0x80 | (a - 0xe0000) >> 12);
    }
}
END_TEST

START_TEST(each_register_has_its_segments)
{
    for (unsigned i = 0; i < 12; i++) {
        hwaddr addr = 0xc0000 + i * 0x4000;
        unsigned reg = 0x5a + i / 2, shift = i % 2 * 4;

        conf_write(0, reg, 3u << shift, 1);
        mem_write(addr, 0xa0 + i, 1);
        mem_write(addr + 0x3fff, 0xb0 + i, 1);
        ck_assert_uint_eq(mem(addr, 1), 0xa0 + i);
        ck_assert_uint_eq(mem(addr + 0x3fff, 1), 0xb0 + i);
        ck_assert_uint_eq(mem(addr + 0x4000, 1), 0xff);
        ck_assert_uint_eq(mem(addr - 1, 1), 0xff);
        conf_write(0, reg, 0, 1);
        ck_assert_uint_eq(mem(addr, 1), 0xff);
    }
}
END_TEST

START_TEST(smram_shows_ram_while_open_and_is_locked_for_good)
{
    mem_write(0xa0000, 0x12, 1);
    ck_assert_uint_eq(mem(0xa0000, 1), 0xff);
    ck_assert_uint_eq(conf_read(0, 0x72, 1), 0x02);
    conf_write(0, 0x72, 0x85, 1); /* a reserved bit, and the window's place, which is fixed */
    ck_assert_uint_eq(conf_read(0, 0x72, 1), 0x02);
    conf_write(0, 0x72, 0x4a, 1);
    mem_write(0xa0000, 0x12, 1);
    ck_assert_uint_eq(mem(0xa0000, 1), 0x12);
    conf_write(0, 0x72, 0x0a, 1);
    ck_assert_uint_eq(mem(0xa0000, 1), 0xff);
    conf_write(0, 0x72, 0x5a, 1); /* locked: never open again */
    ck_assert_uint_eq(conf_read(0, 0x72, 1), 0x1a);
    conf_write(0, 0x72, 0x4a, 1);
    ck_assert_uint_eq(conf_read(0, 0x72, 1), 0x1a);
    ck_assert_uint_eq(mem(0xa0000, 1), 0xff);
    device_reset(DEVICE(pci_bus_device(rig_bus, 0)));
    ck_assert_uint_eq(conf_read(0, 0x72, 1), 0x02);
}
END_TEST

START_TEST(reset_shows_the_rom_again_and_state_brings_shadowing_back)
{
    DeviceState *dev = DEVICE(pci_bus_device(rig_bus, 0));
    g_autoptr(GBytes) bytes = NULL;
    g_autoptr(GError) error = NULL;

    add_rom();
    conf_write(0, 0x59, 0x30, 1);
    mem_write(ROM, 0x55, 1);
    conf_write(0, 0x59, 0x10, 1);
    bytes = rig_save(dev);
    device_reset(dev);
    ck_assert_uint_eq(mem(ROM, 1), 0x90);
    ck_assert_msg(rig_load(dev, bytes, &error), "%s", error ? error->message : "");
    ck_assert_uint_eq(mem(ROM, 1), 0x55);
}
END_TEST

START_TEST(segments_flipped_at_random_keep_ram_and_rom_apart)
{
    uint64_t seed = 7;
    uint8_t shadow = 0;

    add_rom();
    for (unsigned i = 0; i < 2000; i++) {
        uint8_t mode = rig_random(&seed) & 3, value = (uint8_t)(rig_random(&seed) & 0x7f);

        conf_write(0, 0x59, (uint32_t)mode << 4, 1);
        conf_write(0, 0x5a + rig_random(&seed) % 6, rig_random(&seed), 1);
        mem_write(ROM + 5, value, 1);
        shadow = mode & 2 ? value : shadow;
        ck_assert_uint_eq(mem(ROM + 5, 1), mode & 1 ? shadow : 0x90);
    }
}
END_TEST

START_TEST(its_identity_is_that_of_the_board)
{
    ck_assert_uint_eq(conf_read(0, 0, 4), 0x12378086);
    ck_assert_uint_eq(conf_read(0, 8, 4), 0x06000002);
    ck_assert_uint_eq(conf_read(0, 0x2c, 4), 0x11001af4);
}
END_TEST

RIG_MAIN("i440fx", the_rom_is_below_one_mebibyte_and_below_four_gibibytes,
         the_four_states_of_a_segment_read_and_write_the_right_side,
         a_rom_can_be_copied_over_itself, each_register_has_its_segments,
         smram_shows_ram_while_open_and_is_locked_for_good,
         reset_shows_the_rom_again_and_state_brings_shadowing_back,
         segments_flipped_at_random_keep_ram_and_rom_apart, its_identity_is_that_of_the_board)
