/* A floppy controller with a DMA controller and two disks, for their tests. */
#pragma once

#include <stdio.h>
#include <unistd.h>

#include "engine/block/block.h"
#include "engine/hw/dma/isa-dma.h"
#include "tests/unit/intc_rig.h"

static DeviceState *fdc, *dma;
static BlockBackend *disk[2];
static MemoryRegion ram;
static uint8_t *memory;
static char path[2][64];
static Irq *irq;
static int level;
static unsigned rises;
static uint8_t result[16];
static unsigned results;

static inline void irq_changed(void *opaque, int n, int new_level)
{
    rises += new_level && !level;
    level = new_level;
}

/* Each sector is filled with its number, and begins with it in 16 bits. */
static inline uint8_t sector_byte(unsigned lba, unsigned i)
{
    return (uint8_t)(i == 0 ? lba & 0xff : i == 1 ? lba >> 8 : lba * 7 + i);
}

static inline void make_image(unsigned n, uint64_t bytes)
{
    int fd;
    FILE *f;

    g_strlcpy(path[n], "/tmp/vmlua-fdc-XXXXXX", sizeof(path[n]));
    fd = mkstemp(path[n]);
    ck_assert_int_ge(fd, 0);
    f = fdopen(fd, "wb");
    for (uint64_t i = 0; i < bytes; i++) {
        fputc(sector_byte((unsigned)(i / 512), i % 512), f);
    }
    fclose(f);
}

static inline BlockBackend *open_disk(unsigned n, bool read_only)
{
    BlockOpenOptions options = { .format = "raw", .read_only = read_only };
    g_autoptr(GError) error = NULL;
    BlockNode *node = block_open(path[n], &options, &error);
    BlockBackend *be;

    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    be = block_backend_new(OBJECT(machine), n ? "fdb" : "fda", node, &error);
    ck_assert_msg(be != NULL, "%s", error ? error->message : "");
    object_unref(node);
    return be;
}

static inline void make_fdc(uint64_t bytes, const char *type, bool read_only)
{
    g_autoptr(GError) error = NULL;

    make_image(0, bytes);
    disk[0] = open_disk(0, read_only);
    fdc = DEVICE(object_new("isa-fdc", NULL));
    ck_assert(object_property_set_link(OBJECT(fdc), "drive-a", OBJECT(disk[0]), NULL));
    ck_assert(object_property_set_link(OBJECT(fdc), "dma", OBJECT(dma), NULL));
    ck_assert(object_property_parse(OBJECT(fdc), "type-a", type, NULL));
    ck_assert(object_property_parse(OBJECT(fdc), "type-b", "1.44M", NULL));
    ck_assert(device_connect_irq_out(fdc, "irq", 0, irq, NULL));
    ck_assert_msg(device_realize(fdc, machine, "fdc", &error), "%s", error ? error->message : "");
    object_unref(fdc);
    level = 0;
    rises = 0;
}

static inline void setup(void)
{
    machine_setup();
    ck_assert(memory_region_init_ram(&ram, OBJECT(machine), "ram", 1 << 20, NULL));
    memory_region_add_subregion(&machine->memory_root, 0, &ram);
    memory = memory_region_get_ram_ptr(&ram);
    dma = device_make(TYPE_ISA_DMA, "dma");
    irq = irq_new(irq_changed, NULL, 0);
    path[0][0] = path[1][0] = 0;
}

static inline void teardown(void)
{
    memory_region_del_subregion(&machine->memory_root, &ram);
    memory_region_finalize(&ram);
    machine_teardown();
    irq_disconnect(irq);
    irq_unref(irq);
    for (unsigned i = 0; i < 2; i++) {
        if (path[i][0]) {
            unlink(path[i]);
        }
    }
}

/* Until an interrupt, a result or a byte is there: timers and the block layer do their work. */
static inline void wait_event(void)
{
    for (unsigned i = 0; i < 1000000 && !level; i++) {
        run_until(now_ns + 100000);
        main_loop_iterate(block_in_flight(disk[0]) > 0);
    }
    ck_assert_int_eq(level, 1);
}

static inline void send(const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        ck_assert_uint_eq(inb(0x3f4) & 0xc0, 0x80);
        outb(0x3f5, bytes[i]);
    }
}
#define SEND(...)                             \
    do {                                      \
        const uint8_t b_[] = { __VA_ARGS__ }; \
        send(b_, sizeof(b_));                 \
    } while (0)

static inline void take_results(void)
{
    for (results = 0; (inb(0x3f4) & 0xd0) == 0xd0 && results < sizeof(result); results++) {
        result[results] = (uint8_t)inb(0x3f5);
    }
}
#define ck_results(...)                             \
    do {                                            \
        const uint8_t w_[] = { __VA_ARGS__ };       \
        take_results();                             \
        ck_assert_uint_eq(results, sizeof(w_));     \
        for (unsigned i_ = 0; i_ < results; i_++) { \
            ck_assert_uint_eq(result[i_], w_[i_]);  \
        }                                           \
    } while (0)

/* Out of reset, interrupts told, 500 kb/s, DMA. */
static inline void start(void)
{
    outb(0x3f2, 0x0c);
    wait_event();
    for (unsigned i = 0; i < 4; i++) {
        SEND(0x08);
        take_results();
        ck_assert_uint_eq(result[0], 0xc0 | i);
    }
    ck_assert_int_eq(level, 0);
    outb(0x3f7, 0);
    SEND(0x03, 0xdf, 0x02);
    outb(0x3f2, 0x1c);
}

static inline void program_dma(unsigned mode, unsigned addr, unsigned bytes)
{
    outb(0x0a, 6);
    outb(0x0c, 0);
    outb(0x0b, mode | 2);
    outb(0x81, addr >> 16);
    outb(0x04, addr & 0xff);
    outb(0x04, addr >> 8 & 0xff);
    outb(0x05, (bytes - 1) & 0xff);
    outb(0x05, (bytes - 1) >> 8);
    outb(0x0a, 2);
}
enum { TO_MEMORY = 0x44, FROM_MEMORY = 0x48, VERIFY = 0x40 };

static inline void seek(unsigned unit, unsigned track)
{
    SEND(0x0f, (uint8_t)unit, (uint8_t)track);
    ck_assert_uint_eq(inb(0x3f4) & 15, 1u << unit);
    wait_event();
    SEND(0x08);
    ck_results((uint8_t)(0x20 | unit), (uint8_t)track);
    ck_assert_int_eq(level, 0);
}

static inline void ck_sector(const uint8_t *data, unsigned lba)
{
    for (unsigned i = 0; i < 512; i++) {
        ck_assert_msg(data[i] == sector_byte(lba, i), "sector %u, byte %u", lba, i);
    }
}

static inline void ck_image(unsigned n, unsigned lba, uint8_t byte)
{
    uint8_t buf[512];
    FILE *f = fopen(path[n], "rb");

    fseek(f, (long)lba * 512, SEEK_SET);
    ck_assert_uint_eq(fread(buf, 1, 512, f), 512);
    fclose(f);
    for (unsigned i = 0; i < 512; i++) {
        ck_assert_uint_eq(buf[i], byte);
    }
}
