/* The IDE function of the PIIX3: bus master registers, descriptor tables, DMA commands, TRIM,
 * SMART, 48-bit addresses, state in the middle of transfers, hostile tables. */
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

static BlockBackend *backend(const char *spec, bool discard)
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

static DeviceState *add_drive(const char *type, const char *id, BlockBackend *be, unsigned unit)
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
static void open_board(const char *spec, bool discard)
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

static void close_board(void)
{
    ck_assert(block_drain(NULL, NULL));
}

static void descriptor(unsigned n, uint32_t addr, uint32_t bytes, bool last)
{
    mem_write(TABLE + 8 * n, addr, 4);
    mem_write(TABLE + 8 * n + 4, (bytes & 0xffff) | (last ? LAST : 0), 4);
}

static void start(bool to_memory)
{
    out(BM + BM_STATUS, FAILED | INTERRUPT, 1);
    out(BM + BM_TABLE, TABLE, 4);
    out(BM + BM_COMMAND, to_memory ? TO_MEMORY : 0, 1);
    out(BM + BM_COMMAND, START | (to_memory ? TO_MEMORY : 0), 1);
}

static void registers(unsigned count, uint64_t lba, unsigned device)
{
    out(DEVICE_REG, device, 1);
    out(COUNT, count, 1);
    out(LOW, lba & 0xff, 1);
    out(MID, lba >> 8 & 0xff, 1);
    out(HIGH, lba >> 16 & 0xff, 1);
}

static void registers48(unsigned count, uint64_t lba)
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
static unsigned wait_not_busy(void)
{
    while (in(CONTROL, 1) & BSY) {
        main_loop_iterate(true);
    }
    return in(STATUS, 1);
}

static unsigned command(unsigned code)
{
    out(STATUS, code, 1);
    return wait_not_busy();
}

static void fill_disk(void)
{
    uint8_t *buf = g_malloc(SECTORS * 512);

    for (unsigned i = 0; i < SECTORS * 512; i++) {
        buf[i] = (uint8_t)(i / 512 + i % 512 * 7);
    }
    ck_assert(block_write_wait(disk, 0, buf, SECTORS * 512, 0, NULL));
    g_free(buf);
}

static uint8_t disk_byte(unsigned sector, unsigned at)
{
    return (uint8_t)(sector + at * 7);
}

static void ck_memory_is_disk(uint32_t addr, unsigned sector, unsigned from, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        unsigned at = from + i;

        ck_assert_uint_eq(mem(addr + i, 1), disk_byte(sector + at / 512, at % 512));
    }
}

/* ---- registers ------------------------------------------------------------------------------- */

START_TEST(bus_master_registers_keep_what_they_have_bits_for)
{
    open_board("ram:1M", true);
    for (unsigned n = 0; n < 2; n++) {
        unsigned bm = BM + 8 * n;

        ck_assert_uint_eq(in(bm, 4), 0);
        ck_assert_uint_eq(in(bm + 4, 4), 0);
        out(bm + BM_TABLE, 0xffffffff, 4);
        ck_assert_uint_eq(in(bm + BM_TABLE, 4), 0xfffffffc);
        out(bm + BM_TABLE + 1, 0x12, 1);
        out(bm + BM_TABLE + 2, 0x3456, 2);
        ck_assert_uint_eq(in(bm + BM_TABLE, 4), 0x345612fc);
        out(bm + BM_STATUS, 0xff, 1); /* the two bits of drivers; errors are cleared, not set */
        ck_assert_uint_eq(in(bm + BM_STATUS, 1), 0x60);
        out(bm + 1, 0xff, 1);
        out(bm + 3, 0xff, 1);
        ck_assert_uint_eq(in(bm + 1, 1) | in(bm + 3, 1), 0);
        out(bm + BM_COMMAND, 0xff, 1);
        ck_assert_uint_eq(in(bm + BM_COMMAND, 1), START | TO_MEMORY);
        ck_assert_uint_eq(in(bm + BM_STATUS, 1), 0x60 | ACTIVE);
        out(bm + BM_COMMAND, 0, 1);
        ck_assert_uint_eq(in(bm + BM_STATUS, 1), 0x60);
    }
    device_reset(ide);
    conf_write(IDE, 0x20, BM, 4);
    conf_write(IDE, 4, 7, 2);
    ck_assert_uint_eq(in(BM, 4) | in(BM + 4, 4) | in(BM + 8, 4) | in(BM + 12, 4), 0);
    close_board();
}
END_TEST

START_TEST(the_ports_of_a_channel_follow_command_register_and_timing)
{
    open_board("ram:1M", true);
    ck_assert_uint_eq(in(STATUS, 1), DRDY | DSC);
    conf_write(IDE, 0x40, 0, 2); /* IDETIM without decode enable */
    ck_assert_uint_eq(in(STATUS, 1), 0xff);
    conf_write(IDE, 0x40, 0x8000, 2);
    conf_write(IDE, 4, 6, 2);
    ck_assert_uint_eq(in(STATUS, 1), 0xff);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), 0xff);
    conf_write(IDE, 4, 7, 2);
    ck_assert_uint_eq(in(STATUS, 1), DRDY | DSC);
    ck_assert_uint_eq(in(0x177, 1), 0x7f); /* nobody on the second channel */
    close_board();
}
END_TEST

/* ---- transfers ------------------------------------------------------------------------------- */

typedef struct Way {
    unsigned read, write;
    bool lba48;
} Way;
static const Way ways[] = {
    { 0xc8, 0xca, false }, { 0xc9, 0xcb, false }, { 0x25, 0x35, true }, { 0x25, 0x3d, true }
};

static void address(const Way *w, unsigned count, uint64_t lba)
{
    if (w->lba48) {
        registers48(count, lba);
    } else {
        registers(count, lba, 0x40);
    }
}

START_TEST(sectors_go_to_memory_and_back_in_pieces_of_any_size)
{
    const Way *w = &ways[_i];
    static const uint32_t pieces[] = { 2, 510, 1024, 6, 3 * 512 - 6 };
    uint32_t addr = BUFFER;

    open_board("ram:1M", true);
    fill_disk();
    for (unsigned i = 0; i < G_N_ELEMENTS(pieces); i++) {
        descriptor(i, addr, pieces[i], i == G_N_ELEMENTS(pieces) - 1);
        addr += pieces[i] + 64; /* apart from each other */
    }
    address(w, 6, 40);
    start(true);
    ck_assert_uint_eq(command(w->read), DRDY | DSC);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    addr = BUFFER;
    for (unsigned i = 0, at = 0; i < G_N_ELEMENTS(pieces); at += pieces[i++]) {
        ck_memory_is_disk(addr, 40, at, pieces[i]);
        addr += pieces[i] + 64;
    }
    ck_assert_uint_eq(in(LOW, 1), 45); /* the last sector */
    ck_assert_uint_eq(in(COUNT, 1), 0);

    /* The same pieces to another place, and that is read back in one. */
    address(w, 6, 100);
    start(false);
    ck_assert_uint_eq(command(w->write), DRDY | DSC);
    descriptor(0, 2 * BOUNDARY, 6 * 512, true);
    address(w, 6, 100);
    start(true);
    command(w->read);
    ck_memory_is_disk(2 * BOUNDARY, 40, 0, 6 * 512);
    close_board();
}
END_TEST

START_TEST(an_interrupt_comes_with_the_last_byte_and_goes_with_the_status)
{
    open_board("ram:1M", true);
    descriptor(0, BUFFER, 512, true);
    registers(1, 0, 0x40);
    start(true);
    out(STATUS, 0xc8, 1);
    ck_assert_int_eq(rig_level[14], 0);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), ACTIVE);
    while (in(CONTROL, 1) & BSY) {
        main_loop_iterate(true);
    }
    ck_assert_int_eq(rig_level[14], 1);
    ck_assert_int_eq(rig_level[15], 0);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    in(STATUS, 1);
    ck_assert_int_eq(rig_level[14], 0);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT); /* until it is cleared here */
    out(BM + BM_STATUS, INTERRUPT, 1);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), 0);
    close_board();
}
END_TEST

START_TEST(the_engine_may_start_before_or_after_the_command)
{
    open_board("ram:1M", true);
    fill_disk();
    descriptor(0, BUFFER, 1024, true);
    registers(2, 9, 0x40);
    out(STATUS, 0xc8, 1);
    for (unsigned i = 0; i < 20; i++) {
        main_loop_iterate(false);
    }
    block_drain(disk, NULL);
    ck_assert_uint_eq(in(CONTROL, 1), DRDY | DSC | DRQ); /* it waits for the engine */
    start(true);
    ck_assert_uint_eq(wait_not_busy(), DRDY | DSC);
    ck_memory_is_disk(BUFFER, 9, 0, 1024);
    close_board();
}
END_TEST

START_TEST(a_length_of_0_is_64_kib_and_lists_may_be_longer_or_shorter_than_the_transfer)
{
    open_board("ram:1M", true);
    fill_disk();
    /* Longer: the engine stays active, and says so beside the interrupt. */
    descriptor(0, BOUNDARY, 0, false);
    descriptor(1, 2 * BOUNDARY, 0, true);
    registers(0, 0, 0x40); /* 256 sectors: 128 KiB */
    start(true);
    ck_assert_uint_eq(command(0xc8), DRDY | DSC);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    ck_memory_is_disk(BOUNDARY, 0, 0, 2 * BOUNDARY);
    registers(3, 0, 0x40);
    start(true);
    ck_assert_uint_eq(command(0xc8), DRDY | DSC);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT | ACTIVE);
    out(BM + BM_COMMAND, 0, 1);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    /* Shorter: the engine stops, the drive waits without an interrupt, and goes on with more. */
    descriptor(0, BUFFER, 700, true);
    registers(3, 0, 0x40);
    start(true);
    out(STATUS, 0xc8, 1);
    block_drain(disk, NULL);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), 0);
    ck_assert_uint_eq(in(CONTROL, 1), DRDY | DSC | DRQ);
    ck_assert_int_eq(rig_level[14], 0);
    out(BM + BM_COMMAND, TO_MEMORY, 1);
    descriptor(0, BUFFER + 700, 3 * 512 - 700, true);
    start(true);
    ck_assert_uint_eq(wait_not_busy(), DRDY | DSC);
    ck_memory_is_disk(BUFFER, 0, 0, 3 * 512);
    close_board();
}
END_TEST

/* ---- what goes wrong --------------------------------------------------------------------------
 */

static void reset_drive(void)
{
    out(BM + BM_COMMAND, 0, 1);
    out(CONTROL, 4, 1);
    out(CONTROL, 0, 1);
    block_drain(disk, NULL);
    in(STATUS, 1);
}

/* Of a read of 4 sectors: the engine's status, when nothing moves any more. */
static unsigned read_by(uint32_t table, unsigned engine)
{
    out(BM + BM_STATUS, FAILED | INTERRUPT, 1);
    out(BM + BM_TABLE, table, 4);
    out(BM + BM_COMMAND, engine, 1);
    registers(4, 0, 0x40);
    out(STATUS, 0xc8, 1);
    block_drain(disk, NULL);
    for (unsigned i = 0; i < 50; i++) {
        main_loop_iterate(false);
    }
    return in(BM + BM_STATUS, 1);
}

START_TEST(tables_and_buffers_that_are_nowhere_end_in_an_error_of_the_engine)
{
    open_board("ram:1M", true);
    fill_disk();
    ck_assert_uint_eq(read_by(0x40000000, START | TO_MEMORY), FAILED);
    reset_drive();
    ck_assert_uint_eq(read_by(0xfffffff8, START | TO_MEMORY), FAILED);
    reset_drive();
    descriptor(0, 0x40000000, 2048, true);
    ck_assert_uint_eq(read_by(TABLE, START | TO_MEMORY), FAILED);
    reset_drive();
    descriptor(0, RIG_RAM - 1024, 2048, true); /* half of it is there */
    ck_assert_uint_eq(read_by(TABLE, START | TO_MEMORY), FAILED);
    reset_drive();
    conf_write(IDE, 4, 3, 2); /* no bus master */
    descriptor(0, BUFFER, 2048, true);
    mem_write(BUFFER, 0, 4);
    ck_assert_uint_eq(read_by(TABLE, START | TO_MEMORY), FAILED);
    ck_assert_uint_eq(mem(BUFFER, 4), 0);
    conf_write(IDE, 4, 7, 2);
    reset_drive();
    /* The wrong direction moves nothing, and the right one does after it. */
    ck_assert_uint_eq(read_by(TABLE, START), ACTIVE);
    ck_assert_uint_eq(in(CONTROL, 1), DRDY | DSC | DRQ);
    out(BM + BM_COMMAND, 0, 1);
    start(true);
    ck_assert_uint_eq(wait_not_busy(), DRDY | DSC);
    ck_memory_is_disk(BUFFER, 0, 0, 2048);
    close_board();
}
END_TEST

START_TEST(a_transfer_over_its_own_table_ends)
{
    open_board("ram:1M", true);
    descriptor(0, TABLE, 512, false); /* zeros from the disk: descriptors of 64 KiB at 0 */
    for (unsigned i = 1; i < 64; i++) {
        descriptor(i, TABLE, 2, false);
    }
    ck_assert_uint_eq(read_by(TABLE, START | TO_MEMORY), ACTIVE | INTERRUPT);
    ck_assert_uint_eq(mem(TABLE, 8), 0);
    close_board();
}
END_TEST

START_TEST(a_table_of_the_smallest_pieces_is_walked)
{
    open_board("ram:1M", true);
    fill_disk();
    for (unsigned i = 0; i < 4 * 256; i++) {
        descriptor(i, BUFFER + 2 * i, 2, i == 4 * 256 - 1);
    }
    ck_assert_uint_eq(read_by(TABLE, START | TO_MEMORY), INTERRUPT);
    ck_memory_is_disk(BUFFER, 0, 0, 2048);
    close_board();
}
END_TEST

START_TEST(addresses_beyond_the_end_are_not_found_and_leave_the_engine_waiting)
{
    open_board("ram:1M", true);
    descriptor(0, BUFFER, 1024, true);
    registers(2, SECTORS - 1, 0x40);
    start(true);
    ck_assert_uint_eq(command(0xc8), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), IDNF);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), ACTIVE | INTERRUPT);
    registers(1, SECTORS - 1, 0x40);
    ck_assert_uint_eq(command(0xc8) & ERR, 0);
    close_board();
}
END_TEST

typedef struct Plan {
    uint64_t bad; /* the byte whose reads or writes fail */
    BlockOp op;
} Plan;

static void fail_at(void *opaque, BlockScriptRequest *r)
{
    const Plan *p = opaque;
    uint64_t at = block_script_offset(r);
    bool hit = block_script_op(r) == p->op &&
               (p->op == BLOCK_OP_FLUSH || (p->bad >= at && p->bad < at + block_script_bytes(r)));
    BlockFault fault = { .error = hit ? EIO : 0, .torn = -1 };

    block_fault_resolve(r, &fault);
}

static const BlockScriptOps fail_ops = { fail_at };

static void insert_fault(Plan *plan)
{
    GError *error = NULL;
    BlockNode *filter = block_node_new("fault", &error);

    ck_assert_msg(block_insert_filter(disk, filter, &error), "%s", error ? error->message : "");
    block_script_set(filter, &fail_ops, plan);
}

START_TEST(errors_of_the_medium_are_found_to_the_sector)
{
    Plan plan = { .bad = 13 * 512 + 5, .op = BLOCK_OP_READ };

    open_board("ram:1M", true);
    insert_fault(&plan);
    descriptor(0, BUFFER, 8 * 512, true);
    registers(8, 10, 0x40);
    start(true);
    ck_assert_uint_eq(command(0xc8), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), UNC);
    ck_assert_uint_eq(in(LOW, 1), 13);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), ACTIVE | INTERRUPT);
    out(BM + BM_COMMAND, 0, 1);
    plan.op = BLOCK_OP_WRITE;
    registers48(8, 10);
    start(false);
    ck_assert_uint_eq(command(0x35), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), UNC);
    ck_assert_uint_eq(in(LOW, 1), 13);
    registers(8, 10, 0x40); /* a verify is a read */
    plan.op = BLOCK_OP_READ;
    ck_assert_uint_eq(command(0x40), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(LOW, 1), 13);
    close_board();
}
END_TEST

START_TEST(a_flush_says_whether_the_medium_has_it)
{
    Plan plan = { .op = BLOCK_OP_FLUSH };

    open_board("ram:1M", true);
    ck_assert_uint_eq(command(0xe7), DRDY | DSC);
    ck_assert_uint_eq(command(0xea), DRDY | DSC);
    insert_fault(&plan);
    ck_assert_uint_eq(command(0xea), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), ABRT);
    ck_assert_int_eq(rig_level[14], 0); /* reading the status took it back */
    close_board();
}
END_TEST

/* ---- DATA SET MANAGEMENT -----------------------------------------------------------------------
 */

static void range(unsigned n, uint64_t lba, unsigned sectors)
{
    mem_write(BUFFER + 8 * n, lba | (uint64_t)sectors << 48, 8);
}

static unsigned trim(unsigned blocks)
{
    descriptor(0, BUFFER, 512 * MAX(blocks, 1), true);
    start(false);
    out(ERROR, 0, 1);
    out(ERROR, 1, 1); /* TRIM */
    registers48(blocks, 0);
    return command(0x06);
}

static unsigned first_byte(unsigned sector)
{
    uint8_t buf[512];

    ck_assert(block_read_wait(disk, sector * 512, buf, 512, NULL));
    return buf[0];
}

static void clear_list(void)
{
    for (unsigned i = 0; i < 64 * 8; i++) {
        range(i, 0, 0);
    }
}

START_TEST(trim_discards_the_ranges_of_its_list)
{
    uint16_t id[256];

    open_board("ram:1M", true);
    fill_disk();
    command(0xec);
    for (unsigned i = 0; i < 256; i++) {
        id[i] = (uint16_t)in(DATA, 2);
    }
    ck_assert_uint_eq(id[169], 1);
    ck_assert_uint_eq(id[105], 8);
    clear_list();
    range(1, 100, 8); /* entries without sectors say nothing, wherever they are */
    range(63, 2000, 48);
    range(64, 500, 1); /* of the second block */
    ck_assert_uint_eq(trim(2), DRDY | DSC);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    ck_assert_uint_eq(first_byte(99), 99);
    ck_assert_uint_eq(first_byte(100) | first_byte(107), 0);
    ck_assert_uint_eq(first_byte(108), 108);
    ck_assert_uint_eq(first_byte(2000 & ~7u) | first_byte(SECTORS - 1), 0);
    ck_assert_uint_eq(first_byte(501), 501 & 0xff);
    close_board();
}
END_TEST

START_TEST(a_trim_that_cannot_be_is_refused)
{
    open_board("ram:1M", true);
    fill_disk();
    clear_list();
    range(0, SECTORS - 1, 2);
    range(1, 0, 8);
    ck_assert_uint_eq(trim(1), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), IDNF);
    ck_assert_uint_eq(first_byte(1), 1); /* nothing after the bad range */
    range(0, UINT64_C(0xffffffffffff), 0xffff);
    ck_assert_uint_eq(trim(1), DRDY | DSC | ERR);
    range(0, 0, 0);
    ck_assert_uint_eq(trim(0), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), ABRT);
    ck_assert_uint_eq(trim(9), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), ABRT);
    out(ERROR, 0, 1); /* another function of DATA SET MANAGEMENT */
    registers48(1, 0);
    ck_assert_uint_eq(command(0x06), DRDY | DSC | ERR);
    close_board();
}
END_TEST

START_TEST(a_disk_that_does_not_discard_knows_no_trim)
{
    open_board("ram:1M", false);
    fill_disk();
    clear_list();
    range(0, 0, 8);
    ck_assert_uint_eq(trim(1), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), ABRT);
    ck_assert_uint_eq(first_byte(1), 1);
    command(0xec);
    for (unsigned i = 0; i < 256; i++) {
        ck_assert_uint_eq(in(DATA, 2) & (i == 169 || i == 105 ? 0xffff : 0), 0);
    }
    close_board();
}
END_TEST

/* ---- large disks, SMART ------------------------------------------------------------------------
 */

START_TEST(addresses_of_48_bits_reach_where_28_do_not)
{
    const uint64_t sectors = (UINT64_C(4) << 40) / 512, far = UINT64_C(0x123456789);
    uint16_t id[256];

    open_board("null:4T", true);
    command(0xec);
    for (unsigned i = 0; i < 256; i++) {
        id[i] = (uint16_t)in(DATA, 2);
    }
    ck_assert_uint_eq(id[60] | (uint32_t)id[61] << 16, 0x0fffffff);
    ck_assert_uint_eq(id[100] | (uint64_t)id[101] << 16 | (uint64_t)id[102] << 32, sectors);
    ck_assert_uint_eq(command(0x27), DRDY | DSC);
    out(CONTROL, 0x80, 1);
    ck_assert_uint_eq(in(LOW, 1) | in(MID, 1) << 8, (sectors - 1) >> 24 & 0xffff);
    out(CONTROL, 0, 1);
    descriptor(0, BUFFER, 512, true);
    mem_write(BUFFER, 0x55, 1);
    registers48(1, far);
    start(true);
    ck_assert_uint_eq(command(0x25), DRDY | DSC);
    ck_assert_uint_eq(mem(BUFFER, 1), 0);
    ck_assert_uint_eq(in(LOW, 1), far & 0xff);
    out(CONTROL, 0x80, 1);
    ck_assert_uint_eq(in(LOW, 1), far >> 24 & 0xff);
    out(CONTROL, 0, 1);
    /* A count of 0 is 65536 sectors; the last ones of the disk, one too many. */
    for (unsigned i = 0; i < 512; i++) {
        descriptor(i, BOUNDARY, 0, i == 511);
    }
    registers48(0, sectors - 65536);
    start(true);
    ck_assert_uint_eq(command(0x25), DRDY | DSC);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    registers48(0, sectors - 65535);
    ck_assert_uint_eq(command(0x25), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR, 1), IDNF);
    close_board();
}
END_TEST

static unsigned smart(unsigned function, unsigned count, unsigned low)
{
    out(ERROR, function, 1);
    registers(count, UINT64_C(0xc24f00) | low, 0);
    return command(0xb0);
}

static void read_page(uint8_t page[512])
{
    uint8_t sum = 0;

    for (unsigned i = 0; i < 256; i++) {
        unsigned w = in(DATA, 2);

        page[2 * i] = (uint8_t)w;
        page[2 * i + 1] = (uint8_t)(w >> 8);
    }
    for (unsigned i = 0; i < 512; i++) {
        sum += page[i];
    }
    ck_assert_uint_eq(sum, 0);
}

START_TEST(smart_has_attributes_thresholds_and_logs)
{
    uint8_t data[512], limits[512], log[512];

    open_board("ram:1M", true);
    ck_assert_uint_eq(smart(0xd0, 0, 0), DRDY | DSC | DRQ);
    read_page(data);
    ck_assert_uint_eq(smart(0xd1, 0, 0), DRDY | DSC | DRQ);
    read_page(limits);
    for (unsigned i = 2; i < 2 + 30 * 12; i += 12) {
        ck_assert_uint_eq(data[i], limits[i]); /* the same attributes, none below its threshold */
        ck_assert(data[i] == 0 || data[i + 3] > limits[i + 1]);
    }
    ck_assert_uint_eq(smart(0xd2, 0xf1, 0), DRDY | DSC);
    ck_assert_uint_eq(smart(0xd2, 0x12, 0), DRDY | DSC | ERR);
    ck_assert_uint_eq(smart(0xd4, 0, 1), DRDY | DSC);
    ck_assert_uint_eq(smart(0xd4, 0, 0x40), DRDY | DSC | ERR);
    ck_assert_uint_eq(smart(0xd5, 1, 0), DRDY | DSC | DRQ);
    for (unsigned i = 0; i < 256; i++) {
        ck_assert_uint_eq(in(DATA, 2) & 0xff, i == 0 || i == 1 || i == 6 ? 1 : 0);
    }
    ck_assert_uint_eq(smart(0xd5, 1, 1), DRDY | DSC | DRQ);
    read_page(log);
    ck_assert_uint_eq(smart(0xd5, 1, 0x33), DRDY | DSC | ERR);
    ck_assert_uint_eq(smart(0xd5, 2, 0), DRDY | DSC | ERR);
    ck_assert_uint_eq(smart(0xee, 0, 0), DRDY | DSC | ERR);
    ck_assert_uint_eq(smart(0xd9, 0, 0), DRDY | DSC);
    ck_assert_uint_eq(smart(0xda, 0, 0), DRDY | DSC | ERR);
    ck_assert_uint_eq(smart(0xd8, 0, 0), DRDY | DSC);
    ck_assert_uint_eq(smart(0xda, 0, 0), DRDY | DSC);
    ck_assert_uint_eq(in(MID, 1) | in(HIGH, 1) << 8, 0xc24f);
    close_board();
}
END_TEST

/* ---- ATAPI by DMA ------------------------------------------------------------------------------
 */

static unsigned cd_read(uint32_t lba, unsigned blocks)
{
    const uint8_t p[12] = {
        0x28, 0, (uint8_t)(lba >> 24), (uint8_t)(lba >> 16), (uint8_t)(lba >> 8), (uint8_t)lba,
        0,    0, (uint8_t)blocks
    };

    out(DEVICE_REG, 0x10, 1);
    out(ERROR, 1, 1); /* by DMA */
    out(MID, 0, 1);
    out(HIGH, 0, 1);
    ck_assert_uint_eq(command(0xa0) & DRQ, DRQ);
    for (unsigned i = 0; i < 12; i += 2) {
        out(DATA, p[i] | p[i + 1] << 8, 2);
    }
    return wait_not_busy();
}

START_TEST(cd_sectors_come_by_dma_and_errors_by_sense)
{
    uint8_t sector[2048];
    BlockBackend *cd;

    open_board("ram:1M", true);
    cd = backend("ram:1M", true);
    for (unsigned i = 0; i < sizeof(sector); i++) {
        sector[i] = (uint8_t)(i * 3);
    }
    ck_assert(block_write_wait(cd, 7 * 2048, sector, sizeof(sector), 0, NULL));
    add_drive("ide-cd", "cd", cd, 1);
    cd_read(0, 1); /* takes the unit attention of power-on */
    out(BM + BM_COMMAND, 0, 1);
    descriptor(0, BUFFER, 2048, false);
    descriptor(1, BUFFER + 2048, 2048, true);
    start(true);
    ck_assert_uint_eq(cd_read(6, 2) & (ERR | DRQ), 0);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    ck_assert_uint_eq(mem(BUFFER + 2048 + 100, 1), (uint8_t)300);
    ck_assert_uint_eq(mem(BUFFER + 100, 1), 0);
    start(true);
    ck_assert_uint_eq(cd_read(512, 1) & ERR, ERR); /* beyond the last sector */
    ck_assert_uint_eq(in(ERROR, 1) >> 4, 5);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), ACTIVE | INTERRUPT);
    start(true);
    ck_assert_uint_eq(cd_read(511, 2) & ERR, ERR);
    ck_assert(block_drain(cd, NULL));
    close_board();
}
END_TEST

/* ---- saved state
 * --------------------------------------------------------------------------------- */

static DeviceState *drive(void)
{
    return DEVICE(object_get_child(OBJECT(machine), "hd"));
}

static void load_both(GBytes *adapter, GBytes *of_drive)
{
    GError *error = NULL;

    ck_assert_msg(rig_load(ide, adapter, &error), "%s", error ? error->message : "");
    ck_assert_msg(rig_load(drive(), of_drive, &error), "%s", error ? error->message : "");
}

START_TEST(a_transfer_goes_on_from_saved_state)
{
    GBytes *adapter, *of_drive;

    open_board("ram:1M", true);
    fill_disk();
    descriptor(0, BUFFER, 1000, true);
    registers(3, 20, 0x40);
    start(true);
    out(STATUS, 0xc8, 1);
    block_drain(disk, NULL);
    ck_assert_uint_eq(in(CONTROL, 1), DRDY | DSC | DRQ); /* in the middle of the second sector */
    adapter = rig_save(ide);
    of_drive = rig_save(drive());
    device_reset(ide);
    device_reset(drive());
    ck_assert_uint_eq(in(STATUS, 1), 0xff);
    load_both(adapter, of_drive);
    ck_assert_uint_eq(in(BM + BM_TABLE, 4), TABLE);
    out(BM + BM_COMMAND, TO_MEMORY, 1);
    descriptor(0, BUFFER + 1000, 536, true);
    start(true);
    ck_assert_uint_eq(wait_not_busy(), DRDY | DSC);
    ck_memory_is_disk(BUFFER, 20, 0, 1536);
    g_bytes_unref(adapter);
    g_bytes_unref(of_drive);
    close_board();
}
END_TEST

/* A request on its way to the medium, reads and writes: it is made again, with its engine. */
START_TEST(a_request_in_flight_is_made_again)
{
    GBytes *adapter, *of_drive;

    open_board("ram:1M", true);
    fill_disk();
    for (unsigned i = 0; i < 512; i++) {
        mem_write(BUFFER + i, 0xa0 + _i, 1);
    }
    descriptor(0, BUFFER, 512, true);
    registers(1, 33, 0x40);
    block_quiesce_begin(disk);
    start(_i == 0);
    out(STATUS, _i == 0 ? 0xc8 : 0xca, 1);
    ck_assert_uint_eq(in(CONTROL, 1) & BSY, BSY);
    adapter = rig_save(ide);
    of_drive = rig_save(drive());
    device_reset(drive());
    device_reset(ide);
    block_quiesce_end(disk);
    block_drain(disk, NULL);
    fill_disk();
    load_both(adapter, of_drive);
    ck_assert_uint_eq(in(CONTROL, 1) & BSY, BSY);
    ck_assert_uint_eq(wait_not_busy(), DRDY | DSC);
    ck_assert_uint_eq(in(BM + BM_STATUS, 1), INTERRUPT);
    ck_assert_uint_eq(_i == 0 ? mem(BUFFER, 1) : first_byte(33), _i == 0 ? 33 : 0xa1);
    g_bytes_unref(adapter);
    g_bytes_unref(of_drive);
    close_board();
}
END_TEST

/* Loads what may be no section at all; whether it was taken. */
static bool load_hostile(GBytes *bytes)
{
    StateReader *r = state_reader_new(bytes, NULL);
    const char *name;
    uint32_t instance, version;
    bool ok = r && state_next_section(r, &name, &instance, &version) &&
              vmstate_load(r, DEVICE_GET_CLASS(ide)->vmsd, ide, NULL);

    state_reader_free(r);
    return ok;
}

START_TEST(a_hostile_stream_is_refused_or_harmless)
{
    unsigned taken = 0;
    GBytes *state;
    gsize len;

    open_board("ram:1M", true);
    descriptor(0, BUFFER, 1000, true);
    registers(3, 20, 0x40);
    start(true);
    out(STATUS, 0xc8, 1);
    block_drain(disk, NULL);
    state = rig_save(ide);
    g_bytes_get_data(state, &len);
    for (gsize at = 0; at + 4 < len; at++) {
        uint8_t *copy = g_memdup2(g_bytes_get_data(state, NULL), len);
        uint32_t crc;
        GBytes *bytes;

        copy[at] ^= 0xff;
        crc = GUINT32_TO_LE(state_crc32c(0, copy, len - 4)); /* the sum is right again */
        memcpy(copy + len - 4, &crc, 4);
        bytes = g_bytes_new_take(copy, len);
        taken += load_hostile(bytes);
        g_bytes_unref(bytes);
        conf_write(IDE, 0x20, BM, 4);
        conf_write(IDE, 4, 7, 2);
        out(STATUS, 0xc8, 1);
        out(BM + BM_COMMAND, START | TO_MEMORY, 1);
        block_drain(disk, NULL);
    }
    ck_assert_uint_gt(taken, 0);
    ck_assert_uint_lt(taken, len - 4);
    g_bytes_unref(state);
    close_board();
}
END_TEST

/* ---- a hostile guest ---------------------------------------------------------------------------
 */

START_TEST(a_hostile_guest_gets_nowhere)
{
    static const uint8_t likely[] = { 0xc8, 0xca, 0x25, 0x35, 0x3d, 0x06, 0xa0,
                                      0x20, 0x30, 0xc4, 0xec, 0x08, 0xe7 };
    uint64_t seed = (uint64_t)_i + 1;

    open_board("ram:1M", true);
    add_drive("ide-cd", "cd", backend("ram:1M", true), 1);
    for (unsigned i = 0; i < 20000; i++) {
        uint32_t r = rig_random(&seed);

        switch (r >> 8 & 7) {
        case 0:
            mem_write(TABLE + (r >> 16 & 0xfff), rig_random(&seed), 4);
            break;
        case 1:
            descriptor(r >> 16 & 63, rig_random(&seed) % (RIG_RAM + 4096), rig_random(&seed),
                       r & 1);
            break;
        case 2:
            out(BM + (r >> 16 & 15), rig_random(&seed), 1u << (r & 1));
            break;
        case 3:
            out(BM + BM_TABLE, r & 7 ? TABLE + (r >> 16 & 0xff8) : rig_random(&seed), 4);
            break;
        case 4:
            out(STATUS, r & 15 ? likely[(r >> 16) % sizeof(likely)] : r >> 16 & 0xff, 1);
            break;
        case 5:
            out(BM + BM_COMMAND, r >> 16 & 9, 1);
            break;
        case 6:
            out(ERROR + (r >> 16) % 6, r >> 24, 1);
            in(DATA, 1u << (r & 1));
            break;
        default:
            if (r & 1) {
                out(CONTROL, r >> 16 & 63 ? 0 : 4, 1);
            } else {
                out(DATA, r, 1 + (r >> 16 & 1));
            }
            break;
        }
        if (i % 8 == 0) {
            main_loop_iterate(false);
        }
    }
    close_board();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ide-dma");
    TCase *tc = tcase_create("ide-dma");

    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, bus_master_registers_keep_what_they_have_bits_for);
    tcase_add_test(tc, the_ports_of_a_channel_follow_command_register_and_timing);
    tcase_add_loop_test(tc, sectors_go_to_memory_and_back_in_pieces_of_any_size, 0,
                        G_N_ELEMENTS(ways));
    tcase_add_test(tc, an_interrupt_comes_with_the_last_byte_and_goes_with_the_status);
    tcase_add_test(tc, the_engine_may_start_before_or_after_the_command);
    tcase_add_test(tc,
                   a_length_of_0_is_64_kib_and_lists_may_be_longer_or_shorter_than_the_transfer);
    tcase_add_test(tc, tables_and_buffers_that_are_nowhere_end_in_an_error_of_the_engine);
    tcase_add_test(tc, a_transfer_over_its_own_table_ends);
    tcase_add_test(tc, a_table_of_the_smallest_pieces_is_walked);
    tcase_add_test(tc, addresses_beyond_the_end_are_not_found_and_leave_the_engine_waiting);
    tcase_add_test(tc, errors_of_the_medium_are_found_to_the_sector);
    tcase_add_test(tc, a_flush_says_whether_the_medium_has_it);
    tcase_add_test(tc, trim_discards_the_ranges_of_its_list);
    tcase_add_test(tc, a_trim_that_cannot_be_is_refused);
    tcase_add_test(tc, a_disk_that_does_not_discard_knows_no_trim);
    tcase_add_test(tc, addresses_of_48_bits_reach_where_28_do_not);
    tcase_add_test(tc, smart_has_attributes_thresholds_and_logs);
    tcase_add_test(tc, cd_sectors_come_by_dma_and_errors_by_sense);
    tcase_add_test(tc, a_transfer_goes_on_from_saved_state);
    tcase_add_loop_test(tc, a_request_in_flight_is_made_again, 0, 2);
    tcase_add_test(tc, a_hostile_stream_is_refused_or_harmless);
    tcase_add_loop_test(tc, a_hostile_guest_gets_nowhere, 0, 8);
    return run_suite(s);
}
