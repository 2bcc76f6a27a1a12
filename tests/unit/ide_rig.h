/* An IDE adapter on the ISA bus with a disk and a CD-ROM drive. */
#pragma once

#include "engine/block/block.h"
#include "engine/core/units.h"
#include "engine/state/stream.h"
#include "tests/unit/board_rig.h"

enum { DATA = 0x1f0, ERROR, COUNT, LOW, MID, HIGH, DEVICE_REG, STATUS, CONTROL = 0x3f6 };
enum { BSY = 0x80, DRDY = 0x40, DSC = 0x10, DRQ = 0x08, ERR = 0x01 };
#define SECTORS 1024

static Machine *machine;
static DeviceState *adapter;
static BlockBackend *disk, *cd;
static Irq *line;
static unsigned edges;
static int level;

static inline void line_changed(void *opaque, int n, int now)
{
    edges += now && !level;
    level = now;
}

static inline void make_machine(void)
{
    main_loop_init();
    machine = machine_new("test-board", "m0", NULL);
    object_ref(machine);
    adapter = DEVICE(object_new("isa-ide", NULL));
    line = irq_new(line_changed, NULL, 0);
    ck_assert(device_connect_irq_out(adapter, "irq", 0, line, NULL));
    ck_assert(device_realize(adapter, machine, "ide", NULL));
    disk = cd = NULL;
    edges = 0;
    level = 0;
}

static inline BlockBackend *ram_drive(const char *id, const char *spec)
{
    BlockOpenOptions o = { .format = "raw", .discard = true };
    GError *error = NULL;
    BlockNode *node = block_open(spec, &o, &error);
    BlockBackend *be;

    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    be = block_backend_new(OBJECT(machine), id, node, &error);
    object_unref(node);
    ck_assert_ptr_nonnull(be);
    return be;
}

static inline DeviceState *add_drive(const char *type, const char *id, BlockBackend *be,
                                     unsigned unit)
{
    DeviceState *dev = DEVICE(object_new(type, NULL));
    GError *error = NULL;

    if (be) {
        ck_assert(object_property_set_link(OBJECT(dev), "drive", OBJECT(be), &error));
    }
    ck_assert(object_property_set_uint(OBJECT(dev), "unit", unit, &error));
    ck_assert_msg(device_realize(dev, machine, id, &error), "%s", error ? error->message : "");
    object_unref(dev);
    return dev;
}

static inline void setup(void)
{
    make_machine();
    disk = ram_drive("d0", "ram:512K");
    cd = ram_drive("c0", "ram:1M");
    add_drive("ide-hd", "hd", disk, 0);
    add_drive("ide-cd", "cd", cd, 1);
}

static inline void teardown(void)
{
    ck_assert(block_drain(NULL, NULL));
    object_unref(adapter);
    machine_close(machine);
    settle();
    object_unref(machine);
    irq_unref(line);
    settle();
    main_loop_finalize();
}

static inline unsigned in(unsigned port)
{
    return (unsigned)address_space_ldn(machine->io, port, port == DATA ? 2 : 1, MEMTXATTRS_NONE,
                                       NULL);
}

static inline void out(unsigned port, unsigned value)
{
    address_space_stn(machine->io, port, value, port == DATA ? 2 : 1, MEMTXATTRS_NONE, NULL);
}

static inline unsigned wait_not_busy(void)
{
    while (in(CONTROL)&BSY) {
        main_loop_iterate(true);
    }
    return in(STATUS);
}

static inline void registers(unsigned count, uint64_t lba, unsigned device)
{
    out(DEVICE_REG, device);
    out(COUNT, count);
    out(LOW, lba & 0xff);
    out(MID, lba >> 8 & 0xff);
    out(HIGH, lba >> 16 & 0xff);
}

static inline unsigned command(unsigned code)
{
    out(STATUS, code);
    return wait_not_busy();
}

static inline void read_words(uint16_t *to, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        to[i] = (uint16_t)in(DATA);
    }
}

static inline void write_words(uint16_t value, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        out(DATA, value);
    }
}
