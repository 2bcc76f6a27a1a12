/* IDE channels and disks, register by register: requests, errors, state, hostile guests. */
#include "tests/unit/ide_rig.h"

/* ---- the channel ------------------------------------------------------------------------------
 */

START_TEST(after_reset_both_show_their_signature)
{
    ck_assert_uint_eq(in(STATUS), DRDY | DSC);
    ck_assert_uint_eq(in(ERROR), 1);
    ck_assert_uint_eq(in(COUNT) | in(LOW) << 8 | in(MID) << 16, 0x000101);
    out(DEVICE_REG, 0x10);
    ck_assert_uint_eq(in(MID), 0x14);
    ck_assert_uint_eq(in(HIGH), 0xeb);
    ck_assert_uint_eq(in(STATUS), 0);
}
END_TEST

START_TEST(registers_are_written_to_both_and_read_back_with_their_past)
{
    out(COUNT, 0x12);
    out(COUNT, 0x34);
    out(LOW, 0x56);
    out(LOW, 0x78);
    ck_assert_uint_eq(in(COUNT), 0x34);
    out(CONTROL, 0x80);
    ck_assert_uint_eq(in(COUNT), 0x12);
    ck_assert_uint_eq(in(LOW), 0x56);
    out(DEVICE_REG, 0x10); /* a write to the command block shows the present again */
    ck_assert_uint_eq(in(LOW), 0x78);
}
END_TEST

START_TEST(soft_reset_and_diagnostics_bring_the_signature_back)
{
    out(LOW, 0x99);
    out(DEVICE_REG, 0x10);
    out(CONTROL, 4);
    ck_assert_uint_eq(in(CONTROL)&BSY, BSY);
    out(CONTROL, 0);
    ck_assert_uint_eq(in(LOW), 1);
    ck_assert_uint_eq(in(DEVICE_REG)&0x10, 0);
    out(LOW, 0x99);
    edges = 0;
    out(STATUS, 0x90);
    ck_assert_uint_eq(edges, 1);
    ck_assert_uint_eq(in(ERROR), 1);
    ck_assert_uint_eq(in(LOW), 1);
}
END_TEST

START_TEST(reading_the_status_takes_the_interrupt_back_and_nien_masks_it)
{
    out(STATUS, 0xe1);
    ck_assert_int_eq(level, 1);
    in(CONTROL); /* the alternate status does not */
    ck_assert_int_eq(level, 1);
    in(STATUS);
    ck_assert_int_eq(level, 0);
    out(CONTROL, 2);
    out(STATUS, 0xe1);
    ck_assert_int_eq(level, 0);
    out(CONTROL, 0);
    ck_assert_int_eq(level, 1);
    out(DEVICE_REG, 0x10); /* the other drive has none pending */
    ck_assert_int_eq(level, 0);
}
END_TEST

START_TEST(nobody_at_home_reads_as_a_bus_that_is_pulled_down)
{
    device_unrealize(DEVICE(object_get_child(OBJECT(machine), "hd")));
    ck_assert_uint_eq(in(STATUS), 0x7f); /* the slave alone does not answer for the master */
    out(DEVICE_REG, 0x10);
    ck_assert_uint_eq(in(MID), 0x14); /* and works */
    ck_assert_uint_eq(command(0xa1), DRDY | DSC | DRQ);
    device_unrealize(DEVICE(object_get_child(OBJECT(machine), "cd")));
    ck_assert_uint_eq(in(STATUS), 0x7f);
    ck_assert_uint_eq(in(DATA), 0xffff);
    out(STATUS, 0xec);
}
END_TEST

START_TEST(a_master_alone_answers_for_the_slave_with_status_zero)
{
    device_unrealize(DEVICE(object_get_child(OBJECT(machine), "cd")));
    out(DEVICE_REG, 0x10);
    ck_assert_uint_eq(in(STATUS), 0);
    out(STATUS, 0xec);
    ck_assert_uint_eq(in(STATUS), 0);
    out(DEVICE_REG, 0);
    ck_assert_uint_eq(in(STATUS), DRDY | DSC);
}
END_TEST

/* ---- disks ------------------------------------------------------------------------------------
 */

START_TEST(identify_tells_size_and_features_with_a_checksum)
{
    uint16_t id[256];
    uint8_t sum = 0;

    out(DEVICE_REG, 0x40);
    ck_assert_uint_eq(command(0xec), DRDY | DSC | DRQ);
    read_words(id, 256);
    ck_assert_uint_eq(in(STATUS), DRDY | DSC);
    ck_assert_uint_eq(id[0], 0x40);
    ck_assert_uint_eq(id[60] | id[61] << 16, SECTORS);
    ck_assert_uint_eq(id[100], SECTORS);
    ck_assert_uint_eq(id[47] & 0xff, 16);
    ck_assert_uint_eq(id[49] & 0x300, 0x200); /* LBA; no DMA on this adapter */
    ck_assert_uint_eq(id[83] & 0x7400, 0x7400);
    ck_assert_uint_eq(id[27], 'V' << 8 | 'M');
    for (unsigned i = 0; i < 512; i++) {
        sum += ((uint8_t *)id)[i];
    }
    ck_assert_uint_eq(sum, 0);
}
END_TEST

typedef struct Way {
    unsigned read, write, per_block;
    bool lba48;
} Way;
static const Way ways[] = { { 0x20, 0x30, 1, false },
                            { 0x24, 0x34, 1, true },
                            { 0xc4, 0xc5, 4, false },
                            { 0x29, 0x39, 4, true },
                            { 0x29, 0xce, 4, true } };

START_TEST(sectors_are_written_and_read_back_in_every_pio_way)
{
    const Way *w = &ways[_i];
    uint16_t got[256];
    unsigned n = 10, done = 0;

    out(COUNT, 4);
    ck_assert_uint_eq(command(0xc6), DRDY | DSC);
    if (w->lba48) {
        registers(0, 0, 0x40);
    }
    registers(n, 100, 0x40);
    edges = 0;
    ck_assert_uint_eq(command(w->write), DRDY | DSC | DRQ);
    ck_assert_uint_eq(edges, 0); /* none before the first block */
    while (done < n) {
        unsigned block = MIN(w->per_block, n - done);

        ck_assert_uint_eq(in(CONTROL)&DRQ, DRQ);
        for (unsigned i = 0; i < block; i++) {
            write_words((uint16_t)(0x1100 + done + i), 256);
        }
        done += block;
        wait_not_busy();
    }
    ck_assert_uint_eq(in(STATUS), DRDY | DSC);
    ck_assert_uint_eq(edges, (n + w->per_block - 1) / w->per_block);
    if (w->lba48) {
        registers(0, 0, 0x40);
    }
    registers(n, 100, 0x40);
    ck_assert_uint_eq(command(w->read), DRDY | DSC | DRQ);
    for (unsigned i = 0; i < n; i++) {
        while (in(CONTROL)&BSY) {
            main_loop_iterate(true);
        }
        read_words(got, 256);
        ck_assert_uint_eq(got[0], 0x1100 + i);
        ck_assert_uint_eq(got[255], 0x1100 + i);
    }
    ck_assert_uint_eq(in(STATUS), DRDY | DSC);
    ck_assert_uint_eq(in(LOW), 109);
    ck_assert_uint_eq(in(COUNT), 0);
}
END_TEST

START_TEST(cylinders_heads_and_sectors_lead_to_the_same_place)
{
    uint8_t buf[512];
    uint16_t got[256];

    memset(buf, 0x42, sizeof(buf));
    ck_assert(block_write_wait(disk, 512 * (16 * 63 * 0 + 63 * 2 + 4), buf, 512, 0, NULL));
    registers(1, 5, 0x02); /* head 2, sector 5, cylinder 0 */
    ck_assert_uint_eq(command(0x20), DRDY | DSC | DRQ);
    read_words(got, 256);
    ck_assert_uint_eq(got[0], 0x4242);
    registers(1, 0, 0x02); /* there is no sector 0 */
    ck_assert_uint_eq(command(0x20) & ERR, ERR);
    ck_assert_uint_eq(in(ERROR), 0x10);
}
END_TEST

START_TEST(addresses_beyond_the_end_and_unknown_commands_fail)
{
    registers(1, SECTORS, 0x40);
    ck_assert_uint_eq(command(0x20), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR), 0x10);
    registers(2, SECTORS - 1, 0x40);
    ck_assert_uint_eq(command(0x30), DRDY | DSC | ERR);
    registers(1, SECTORS - 1, 0x40);
    ck_assert_uint_eq(command(0x40), DRDY | DSC);
    ck_assert_uint_eq(command(0x00), DRDY | DSC | ERR);
    ck_assert_uint_eq(in(ERROR), 0x04);
    ck_assert_uint_eq(command(0xf2), DRDY | DSC | ERR); /* security is not offered */
    ck_assert_uint_eq(command(0xc8), DRDY | DSC | ERR); /* no DMA here */
    ck_assert_uint_eq(command(0xa0), DRDY | DSC | ERR); /* no packets for disks */
    out(COUNT, 3);
    ck_assert_uint_eq(command(0xc6), DRDY | DSC | ERR); /* no power of two */
    out(COUNT, 0);
    ck_assert_uint_eq(command(0xc6), DRDY | DSC);
    registers(1, 0, 0x40);
    ck_assert_uint_eq(command(0xc4), DRDY | DSC | ERR); /* multiple mode is off */
}
END_TEST

START_TEST(small_commands_answer)
{
    ck_assert_uint_eq(command(0xe7), DRDY | DSC);
    ck_assert_uint_eq(command(0xea), DRDY | DSC);
    ck_assert_uint_eq(command(0xe5), DRDY | DSC);
    ck_assert_uint_eq(in(COUNT), 0xff);
    ck_assert_uint_eq(command(0xe0), DRDY | DSC);
    command(0xe5);
    ck_assert_uint_eq(in(COUNT), 0);
    out(DEVICE_REG, 0x40);
    ck_assert_uint_eq(command(0xf8), DRDY | DSC);
    ck_assert_uint_eq(in(LOW) | in(MID) << 8, SECTORS - 1);
    ck_assert_uint_eq(command(0x10), DRDY | DSC);
    out(ERROR, 0x82);
    ck_assert_uint_eq(command(0xef), DRDY | DSC);
    ck_assert(!block_write_cache(disk));
    out(ERROR, 0x02);
    ck_assert_uint_eq(command(0xef), DRDY | DSC);
    ck_assert(block_write_cache(disk));
    out(ERROR, 0x77);
    ck_assert_uint_eq(command(0xef), DRDY | DSC | ERR);
    out(ERROR, 3);
    out(COUNT, 0x0c);
    ck_assert_uint_eq(command(0xef), DRDY | DSC);
    out(COUNT, 0x42);
    ck_assert_uint_eq(command(0xef), DRDY | DSC | ERR); /* no DMA here */
}
END_TEST

START_TEST(a_sleeping_disk_is_woken_by_a_reset_only)
{
    command(0xe6);
    edges = 0;
    out(STATUS, 0xec);
    ck_assert_uint_eq(edges, 0);
    ck_assert_uint_eq(in(STATUS)&DRQ, 0);
    out(CONTROL, 4);
    out(CONTROL, 0);
    ck_assert_uint_eq(command(0xec) & DRQ, DRQ);
}
END_TEST

START_TEST(smart_is_well_and_needs_its_key)
{
    uint16_t page[256];

    out(ERROR, 0xd0);
    out(MID, 0);
    out(HIGH, 0);
    ck_assert_uint_eq(command(0xb0), DRDY | DSC | ERR);
    out(ERROR, 0xda);
    out(MID, 0x4f);
    out(HIGH, 0xc2);
    ck_assert_uint_eq(command(0xb0), DRDY | DSC);
    ck_assert_uint_eq(in(MID), 0x4f);
    out(ERROR, 0xd0);
    ck_assert_uint_eq(command(0xb0), DRDY | DSC | DRQ);
    read_words(page, 256);
    ck_assert_uint_eq(page[0], 1);
    out(ERROR, 0xd9);
    ck_assert_uint_eq(command(0xb0), DRDY | DSC);
    out(ERROR, 0xd0);
    ck_assert_uint_eq(command(0xb0), DRDY | DSC | ERR);
}
END_TEST

START_TEST(a_reset_leaves_a_request_behind)
{
    uint16_t id[256];

    registers(0, 0, 0x40);
    out(STATUS, 0x20);
    ck_assert_uint_eq(in(CONTROL)&BSY, BSY);
    out(CONTROL, 4);
    out(CONTROL, 0);
    ck_assert_uint_eq(command(0xec), DRDY | DSC | DRQ);
    ck_assert(block_drain(disk, NULL));
    read_words(id, 256);
    ck_assert_uint_eq(id[0], 0x40); /* the request's data did not come here */
}
END_TEST

/* ---- state, hostile guests ---------------------------------------------------------------------
 */

static DeviceState *disk_device(void)
{
    return DEVICE(object_get_child(OBJECT(machine), "hd"));
}

/* The machine is not complete enough to be saved as a whole: the disk alone. */
static GBytes *save_disk(void)
{
    StateWriter *w = state_writer_new();

    state_section_begin(w, "hd", 0, 1);
    vmstate_save(w, disk_device()->vmsd, disk_device());
    state_section_end(w);
    return state_writer_finish(w);
}

static bool load_disk(GBytes *state, GError **error)
{
    StateReader *r = state_reader_new(state, NULL);
    const char *name;
    uint32_t instance, version;
    bool ok = state_next_section(r, &name, &instance, &version) &&
              vmstate_load(r, disk_device()->vmsd, disk_device(), error);

    state_reader_free(r);
    return ok;
}

START_TEST(a_transfer_goes_on_from_saved_state)
{
    uint16_t words[256];
    uint8_t buf[512 * 8];
    GError *error = NULL;
    GBytes *state;

    for (unsigned i = 0; i < sizeof(buf); i++) {
        buf[i] = (uint8_t)(i >> 9);
    }
    ck_assert(block_write_wait(disk, 0, buf, sizeof(buf), 0, NULL));
    registers(8, 0, 0x40);
    command(0x20);
    read_words(words, 256);
    read_words(words, 100); /* in the middle of the second sector */
    state = save_disk();
    out(CONTROL, 4);
    out(CONTROL, 0);
    ck_assert_msg(load_disk(state, &error), "%s", error ? error->message : "");
    read_words(words, 156);
    ck_assert_uint_eq(words[155], 0x0101);
    for (unsigned i = 2; i < 8; i++) {
        read_words(words, 256);
        ck_assert_uint_eq(words[0], i << 8 | i);
    }
    ck_assert_uint_eq(in(STATUS), DRDY | DSC);
    g_bytes_unref(state);
}
END_TEST

START_TEST(a_request_to_the_medium_is_made_again_after_loading)
{
    GError *error = NULL;
    uint16_t words[256];
    GBytes *state;

    registers(1, 7, 0x40);
    block_quiesce_begin(disk); /* so that it is still on its way */
    out(STATUS, 0x20);
    state = save_disk();
    block_quiesce_end(disk);
    wait_not_busy();
    ck_assert(load_disk(state, &error));
    ck_assert_uint_eq(in(CONTROL)&BSY, BSY);
    ck_assert_uint_eq(wait_not_busy() & DRQ, DRQ);
    read_words(words, 256);
    g_bytes_unref(state);
}
END_TEST

typedef struct Disturb {
    GRand *rand;
    unsigned n, target;
} Disturb;

static void disturb_field(const char *path, VMStateKind kind, void *field, size_t size, void *data)
{
    Disturb *d = data;

    if (g_str_has_prefix(path, "buffer")) {
        return; /* its bytes may be anything */
    }
    if (d->n++ == d->target && kind != VMS_BYTES && kind != VMS_BOOL) {
        uint32_t value = g_rand_boolean(d->rand) ? g_rand_int(d->rand)
                                                 : (uint32_t)g_rand_int_range(d->rand, 0, 300);

        memcpy(field, &value, MIN(size, sizeof(value)));
    }
}

/* Whatever a stream says, what is loaded leads out of no buffer. */
START_TEST(a_hostile_stream_is_refused_or_harmless)
{
    GRand *rand = g_rand_new_with_seed((guint32)_i + 9);
    const char *name = _i & 1 ? "cd" : "hd";

    for (unsigned round = 0; round < 30; round++) {
        DeviceState *dev = DEVICE(object_get_child(OBJECT(machine), name));
        StateWriter *w = state_writer_new();
        const char *section;
        uint32_t instance, version;
        GBytes *bytes;
        StateReader *r;

        out(DEVICE_REG, _i & 1 ? 0x50 : 0x40);
        registers((unsigned)g_rand_int_range(rand, 0, 256), 3, _i & 1 ? 0x50 : 0x40);
        out(STATUS, _i & 1 ? 0xa0 : g_rand_boolean(rand) ? 0x20 : 0x30);
        for (unsigned i = 0; i < 3; i++) {
            Disturb d = { .rand = rand, .target = (unsigned)g_rand_int_range(rand, 0, 70) };

            vmstate_foreach_scalar(dev->vmsd, dev, disturb_field, &d);
        }
        state_section_begin(w, name, 0, 1);
        vmstate_save(w, dev->vmsd, dev);
        state_section_end(w);
        bytes = state_writer_finish(w);
        r = state_reader_new(bytes, NULL);
        ck_assert(state_next_section(r, &section, &instance, &version));
        if (vmstate_load(r, dev->vmsd, dev, NULL)) {
            for (unsigned i = 0; i < 600; i++) {
                out(DATA, i);
                in(DATA);
                if (i % 64 == 0) {
                    main_loop_iterate(false);
                }
            }
        }
        state_reader_free(r);
        g_bytes_unref(bytes);
        device_reset(dev);
        ck_assert(block_drain(NULL, NULL));
    }
    g_rand_free(rand);
}
END_TEST

START_TEST(a_hostile_guest_gets_nowhere)
{
    GRand *rand = g_rand_new_with_seed((guint32)_i + 1);

    for (unsigned i = 0; i < 30000; i++) {
        unsigned port = (unsigned)g_rand_int_range(rand, 0, 9),
                 value = (unsigned)g_rand_int_range(rand, 0, 256);

        if (port == 8) {
            out(CONTROL, value & (g_rand_int_range(rand, 0, 8) ? 2 : 0xff));
        } else if (g_rand_boolean(rand) || port == 0) {
            unsigned width = 1u << g_rand_int_range(rand, 0, 3);

            address_space_ldn(machine->io, 0x1f0 + port, width, MEMTXATTRS_NONE, NULL);
            if (port == 0) {
                address_space_stn(machine->io, 0x1f0, g_rand_int(rand), width, MEMTXATTRS_NONE,
                                  NULL);
            }
        } else {
            static const uint8_t likely[] = { 0x20, 0x30, 0xa0, 0xc4, 0xc5, 0xec, 0xa1,
                                              0x24, 0x34, 0x06, 0x40, 0xb0, 0xc6, 0xef,
                                              0x90, 0x08, 0xe7, 0xc8, 0xca };

            if (port == 7 && g_rand_boolean(rand)) {
                value = likely[g_rand_int_range(rand, 0, G_N_ELEMENTS(likely))];
            }
            out(0x1f0 + port, value);
        }
        if (i % 16 == 0) {
            main_loop_iterate(false);
        }
    }
    g_rand_free(rand);
}
END_TEST

START_TEST(drives_that_cannot_be_are_refused)
{
    GError *error = NULL;
    DeviceState *dev = DEVICE(object_new("ide-hd", NULL));

    ck_assert(!device_realize(dev, machine, "x", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "needs a drive"));
    g_clear_error(&error);
    object_unref(dev);
    dev = DEVICE(object_new("ide-cd", NULL));
    ck_assert(!device_realize(dev, machine, "y", &error)); /* the channel is full */
    g_clear_error(&error);
    object_unref(dev);
    device_unrealize(DEVICE(object_get_child(OBJECT(machine), "cd")));
    dev = DEVICE(object_new("ide-hd", NULL));
    ck_assert(object_property_set_link(OBJECT(dev), "drive", OBJECT(disk), &error));
    ck_assert(!device_realize(dev, machine, "z", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "in use"));
    g_clear_error(&error);
    object_unref(dev);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ide");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, after_reset_both_show_their_signature);
    tcase_add_test(tc, registers_are_written_to_both_and_read_back_with_their_past);
    tcase_add_test(tc, soft_reset_and_diagnostics_bring_the_signature_back);
    tcase_add_test(tc, reading_the_status_takes_the_interrupt_back_and_nien_masks_it);
    tcase_add_test(tc, nobody_at_home_reads_as_a_bus_that_is_pulled_down);
    tcase_add_test(tc, a_master_alone_answers_for_the_slave_with_status_zero);
    tcase_add_test(tc, identify_tells_size_and_features_with_a_checksum);
    tcase_add_loop_test(tc, sectors_are_written_and_read_back_in_every_pio_way, 0,
                        G_N_ELEMENTS(ways));
    tcase_add_test(tc, cylinders_heads_and_sectors_lead_to_the_same_place);
    tcase_add_test(tc, addresses_beyond_the_end_and_unknown_commands_fail);
    tcase_add_test(tc, small_commands_answer);
    tcase_add_test(tc, a_sleeping_disk_is_woken_by_a_reset_only);
    tcase_add_test(tc, smart_is_well_and_needs_its_key);
    tcase_add_test(tc, a_reset_leaves_a_request_behind);
    tcase_add_test(tc, a_transfer_goes_on_from_saved_state);
    tcase_add_test(tc, a_request_to_the_medium_is_made_again_after_loading);
    tcase_add_loop_test(tc, a_hostile_stream_is_refused_or_harmless, 0, 8);
    tcase_add_loop_test(tc, a_hostile_guest_gets_nowhere, 0, 4);
    tcase_add_test(tc, drives_that_cannot_be_are_refused);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
