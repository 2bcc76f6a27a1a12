/* The IDE function of the PIIX3: bus master registers, descriptor tables, DMA commands, state in
 * the middle of transfers, hostile tables. */
#include "tests/unit/ide_dma_rig.h"

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
    tcase_add_test(tc, a_transfer_goes_on_from_saved_state);
    tcase_add_loop_test(tc, a_request_in_flight_is_made_again, 0, 2);
    tcase_add_test(tc, a_hostile_stream_is_refused_or_harmless);
    tcase_add_loop_test(tc, a_hostile_guest_gets_nowhere, 0, 8);
    return run_suite(s);
}
