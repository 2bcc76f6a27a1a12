/* What IDE drives make of their medium, by DMA: errors to the sector, flushes, TRIM, addresses of
 * 48 bits, SMART, CD sectors. */
#include "tests/unit/ide_dma_rig.h"

/* ---- errors ------------------------------------------------------------------------------------
 */

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

int main(void)
{
    Suite *s = suite_create("ide-medium");
    TCase *tc = tcase_create("ide-medium");

    tcase_add_checked_fixture(tc, rig_setup, rig_teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, errors_of_the_medium_are_found_to_the_sector);
    tcase_add_test(tc, a_flush_says_whether_the_medium_has_it);
    tcase_add_test(tc, trim_discards_the_ranges_of_its_list);
    tcase_add_test(tc, a_trim_that_cannot_be_is_refused);
    tcase_add_test(tc, a_disk_that_does_not_discard_knows_no_trim);
    tcase_add_test(tc, addresses_of_48_bits_reach_where_28_do_not);
    tcase_add_test(tc, smart_has_attributes_thresholds_and_logs);
    tcase_add_test(tc, cd_sectors_come_by_dma_and_errors_by_sense);
    return run_suite(s);
}
