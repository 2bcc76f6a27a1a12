/* What the tests of the PIIX3's IDE function share: a board with a disk, descriptors, commands. */
#pragma once

#include <errno.h>
#include <stdlib.h>

#include "engine/block/block.h"
#include "engine/core/units.h"
#include "tests/unit/pc_rig.h"

enum { DATA = 0x1f0, ERROR, COUNT, LOW, MID, HIGH, DEVICE_REG, STATUS, CONTROL = 0x3f6 };
enum { BSY = 0x80, DRDY = 0x40, DSC = 0x10, DRQ = 0x08, ERR = 0x01 };
enum { ABRT = 0x04, IDNF = 0x10, UNC = 0x40 };
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_TABLE = 4 };
enum { START = 1, TO_MEMORY = 8, ACTIVE = 1, FAILED = 2, INTERRUPT = 4 };
#define BM       0xc000
#define IDE      PCI_DEVFN(1, 1)
#define SECTORS  2048
#define TABLE    0x1000
#define BUFFER   0x10000
#define LAST     UINT32_C(0x80000000)
#define BOUNDARY (64 * KiB)

static DeviceState *ide;
static BlockBackend *disk;

__attribute__((unused)) static BlockBackend *backend(const char *spec, bool discard)
{
    BlockOpenOptions o = { .format = "raw", .discard = discard };
    GError *error = NULL;
    BlockNode *node = block_open(spec, &o, &error);
    BlockBackend *be;

    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    be = block_backend_new(OBJECT(machine), NULL, node, &error);
    object_unref(node);
    ck_assert_ptr_nonnull(be);
    return be;
}

__attribute__((unused)) static DeviceState *add_drive(const char *type, const char *id,
                                                      BlockBackend *be, unsigned unit)
{
    DeviceState *dev = DEVICE(object_new(type, NULL));
    GError *error = NULL;

    ck_assert(object_property_set_link(OBJECT(dev), "drive", OBJECT(be), &error));
    ck_assert(object_property_set_uint(OBJECT(dev), "unit", unit, &error));
    ck_assert_msg(device_realize(dev, machine, id, &error), "%s", error ? error->message : "");
    object_unref(dev);
    return dev;
}

/* The controller as a system has it after it was found: decoding, bus master, BAR 4. */
__attribute__((unused)) static void open_board(const char *spec, bool discard)
{
    ide = rig_add("piix3-ide", "1.1", "ide");
    for (unsigned n = 0; n < 2; n++) {
        ck_assert(device_connect_irq_out(ide, "irq", n, machine_gsi(machine, 14 + n), NULL));
    }
    disk = backend(spec, discard);
    add_drive("ide-hd", "hd", disk, 0);
    conf_write(IDE, 0x20, BM, 4);
    conf_write(IDE, 4, 7, 2);
}

__attribute__((unused)) static void close_board(void)
{
    ck_assert(block_drain(NULL, NULL));
}

__attribute__((unused)) static void descriptor(unsigned n, uint32_t addr, uint32_t bytes, bool last)
{
    mem_write(TABLE + 8 * n, addr, 4);
    mem_write(TABLE + 8 * n + 4, (bytes & 0xffff) | (last ? LAST : 0), 4);
}

__attribute__((unused)) static void start(bool to_memory)
{
    out(BM + BM_STATUS, FAILED | INTERRUPT, 1);
    out(BM + BM_TABLE, TABLE, 4);
    out(BM + BM_COMMAND, to_memory ? TO_MEMORY : 0, 1);
    out(BM + BM_COMMAND, START | (to_memory ? TO_MEMORY : 0), 1);
}

__attribute__((unused)) static void registers(unsigned count, uint64_t lba, unsigned device)
{
    out(DEVICE_REG, device, 1);
    out(COUNT, count, 1);
    out(LOW, lba & 0xff, 1);
    out(MID, lba >> 8 & 0xff, 1);
    out(HIGH, lba >> 16 & 0xff, 1);
}

__attribute__((unused)) static void registers48(unsigned count, uint64_t lba)
{
    out(DEVICE_REG, 0x40, 1);
    out(COUNT, count >> 8, 1);
    out(COUNT, count & 0xff, 1);
    for (unsigned i = 0; i < 3; i++) {
        out(LOW + i, lba >> (24 + 8 * i) & 0xff, 1);
        out(LOW + i, lba >> (8 * i) & 0xff, 1);
    }
}

/* Until it neither waits for the medium nor has anything left to do; the status. */
__attribute__((unused)) static unsigned wait_not_busy(void)
{
    while (in(CONTROL, 1) & BSY) {
        main_loop_iterate(true);
    }
    return in(STATUS, 1);
}

__attribute__((unused)) static unsigned command(unsigned code)
{
    out(STATUS, code, 1);
    return wait_not_busy();
}

__attribute__((unused)) static void fill_disk(void)
{
    uint8_t *buf = g_malloc(SECTORS * 512);

    for (unsigned i = 0; i < SECTORS * 512; i++) {
        buf[i] = (uint8_t)(i / 512 + i % 512 * 7);
    }
    ck_assert(block_write_wait(disk, 0, buf, SECTORS * 512, 0, NULL));
    g_free(buf);
}

__attribute__((unused)) static uint8_t disk_byte(unsigned sector, unsigned at)
{
    return (uint8_t)(sector + at * 7);
}

__attribute__((unused)) static void ck_memory_is_disk(uint32_t addr, unsigned sector, unsigned from,
                                                      unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        unsigned at = from + i;

        ck_assert_uint_eq(mem(addr + i, 1), disk_byte(sector + at / 512, at % 512));
    }
}

__attribute__((unused)) static unsigned first_byte(unsigned sector)
{
    uint8_t buf[512];

    ck_assert(block_read_wait(disk, sector * 512, buf, 512, NULL));
    return buf[0];
}
