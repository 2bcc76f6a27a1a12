/* Accesses of RAM and ROM, by pointer too; locks, handlers that change what they are reached
 * through. */
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/unit/probe_rig.h"

/* ---- RAM and ROM ------------------------------------------------------------------------- */

START_TEST(ram_takes_every_size_and_alignment_and_marks_the_pages_it_changes)
{
    MemoryRegion ram;
    uint8_t model[64], *host;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", MiB, NULL));
    memory_region_add_subregion(&root, 0, &ram);
    host = memory_region_get_ram_ptr(&ram);
    for (unsigned i = 0; i < sizeof(model); i++) {
        model[i] = (uint8_t)(i * 37);
    }
    memcpy(host, model, sizeof(model));
    for (unsigned size = 1; size <= 8; size++) {
        for (unsigned at = 0; at < 16; at++) {
            uint64_t v = 0, w = UINT64_C(0x1122334455667788) * (at + 1);

            memcpy(&v, model + at, size);
            ck_assert_uint_eq(load(at, size, MEMTX_OK), v);
            store(at, size, w, MEMTX_OK);
            memcpy(model + at, &w, size);
            ck_assert_int_eq(memcmp(host, model, sizeof(model)), 0);
        }
    }
    memory_region_set_log(&ram, true, DIRTY_CODE);
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, MiB, DIRTY_CODE));
    store(0x2ffe, 4, 1, MEMTX_OK);
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, 0x2000, DIRTY_CODE));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x2000, 0x1000, DIRTY_CODE));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x3000, 0x1000, DIRTY_CODE));
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, MiB, DIRTY_CODE));
    ck_assert_int_eq(address_space_write(as, 0x5fff, MEMTXATTRS_NONE, "ab", 2), MEMTX_OK);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x5000, 1, DIRTY_CODE));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x6000, 1, DIRTY_CODE));
    memory_region_finalize(&ram);
}
END_TEST

START_TEST(rom_reads_as_memory_ignores_writes_and_is_filled_by_write_rom)
{
    Probe *p = probe_new(0x2000, 0x10);
    MemoryRegion rom;
    char buf[8] = { 0 };

    log_set_mask(LOG_GUEST);
    ck_assert(memory_region_init_rom(&rom, NULL, "bios", 0x1000, NULL));
    memory_region_add_subregion(&root, 0x1000, &rom);
    ck_assert_int_eq(address_space_write_rom(as, 0x1ffc, "abcdefgh", 8), MEMTX_DECODE_ERROR);
    ck_assert_calls(p, "");
    ck_assert_uint_eq(load(0x1ffc, 4, MEMTX_OK), 0x64636261);
    store(0x1ffc, 4, 0, MEMTX_ERROR);
    ck_assert(strstr(logged->str, "bios: write of 4 bytes to read-only memory at 0x1ffc"));
    ck_assert_int_eq(address_space_write(as, 0x1000, MEMTXATTRS_NONE, buf, 8), MEMTX_ERROR);
    ck_assert_uint_eq(load(0x1ffc, 4, MEMTX_OK), 0x64636261);
    memory_region_finalize(&rom);
    probe_free(p);
}
END_TEST

START_TEST(a_rom_device_reads_from_memory_in_romd_mode_and_writes_to_its_handlers)
{
    Probe *p = probe_new(0x100, 0x10);
    MemoryRegion flash;

    ck_assert(memory_region_init_rom_device(&flash, NULL, &p->ops, p, "flash", 0x1000, NULL));
    memory_region_add_subregion(&root, 0x1000, &flash);
    ck_assert_int_eq(address_space_write_rom(as, 0x1000, "\1\2\3\4", 4), MEMTX_OK);
    ck_assert_uint_eq(load(0x1000, 4, MEMTX_OK), 0x04030201);
    ck_assert_calls(p, "");
    store(0x1000, 1, 0x90, MEMTX_OK);
    ck_assert_calls(p, "w0:1=90");
    memory_region_rom_device_set_romd(&flash, false);
    ck_assert_uint_eq(load(0x1000, 1, MEMTX_OK), 0x90);
    ck_assert_calls(p, "r0:1=90");
    memory_region_rom_device_set_romd(&flash, true);
    ck_assert_uint_eq(load(0x1000, 1, MEMTX_OK), 0x01);
    memory_region_finalize(&flash);
    probe_free(p);
}
END_TEST

START_TEST(a_read_only_alias_shields_ram_and_devices_from_writes)
{
    Probe *p = probe_new(0x10000, 0x10);
    MemoryRegion ram, low, io;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x1000, NULL));
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_init_alias(&low, NULL, "pam", &ram, 0x800, 0x100);
    memory_region_set_readonly(&low, true);
    memory_region_add_subregion(&root, 0x8000, &low);
    memory_region_init_alias(&io, NULL, "io", &p->mr, 0, 0x10);
    memory_region_set_readonly(&io, true);
    memory_region_add_subregion(&root, 0x9000, &io);
    store(0x810, 2, 0x4241, MEMTX_OK);
    ck_assert_uint_eq(load(0x8010, 2, MEMTX_OK), 0x4241);
    store(0x8010, 2, 0, MEMTX_ERROR);
    ck_assert_uint_eq(load(0x810, 2, MEMTX_OK), 0x4241);
    store(0x9000, 1, 0, MEMTX_ERROR);
    ck_assert_calls(p, "");
    ck_assert_uint_eq(load(0x9000, 1, MEMTX_OK), 0x10);
    memory_region_set_readonly(&low, false);
    store(0x8010, 2, 0x4443, MEMTX_OK);
    ck_assert_uint_eq(load(0x810, 2, MEMTX_OK), 0x4443);
    memory_region_finalize(&low);
    memory_region_finalize(&io);
    memory_region_finalize(&ram);
    probe_free(p);
}
END_TEST

START_TEST(a_pointer_to_ram_ends_with_its_range_and_respects_read_only)
{
    MemoryRegion ram, rom;
    uint64_t len = 0x10000;
    uint8_t *host;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x2000, NULL));
    ck_assert(memory_region_init_rom(&rom, NULL, "rom", 0x1000, NULL));
    memory_region_add_subregion(&root, 0x1000, &ram);
    memory_region_add_subregion(&root, 0x3000, &rom);
    host = memory_region_get_ram_ptr(&ram);
    ck_assert_ptr_eq(address_space_translate_ram(as, 0x1800, &len, true), host + 0x800);
    ck_assert_uint_eq(len, 0x1800);
    len = 16;
    ck_assert_ptr_eq(address_space_translate_ram(as, 0x2ff0, &len, true), host + 0x1ff0);
    ck_assert_uint_eq(len, 16);
    ck_assert_ptr_null(address_space_translate_ram(as, 0x3000, &len, true));
    ck_assert_ptr_nonnull(address_space_translate_ram(as, 0x3000, &len, false));
    ck_assert_ptr_null(address_space_translate_ram(as, 0x4000, &len, false));
    memory_region_set_log(&ram, true, DIRTY_SNAPSHOT);
    address_space_mark_dirty(as, 0, UINT64_MAX);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0, 0x1000, DIRTY_SNAPSHOT));
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x1000, 0x1000, DIRTY_SNAPSHOT));
    memory_region_finalize(&ram);
    memory_region_finalize(&rom);
}
END_TEST

/* ---- locks and reentrance ---------------------------------------------------------------- */

START_TEST(a_handler_runs_under_the_lock_out_of_rcu_and_a_lockless_one_the_other_way_round)
{
    Probe *p = probe_new(0, 0x10), *q = probe_new(0x100, 0x10);

    memory_region_set_lockless(&q->mr);
    engine_unlock();
    load(0, 1, MEMTX_OK);
    ck_assert(!engine_lock_held());
    load(0x100, 1, MEMTX_OK);
    ck_assert(!engine_lock_held() && !rcu_in_section());
    engine_lock();
    ck_assert(p->lock_held && !p->may_unlock && !p->in_rcu);
    ck_assert(!q->lock_held && q->in_rcu);
    load(0, 1, MEMTX_OK);
    ck_assert(engine_lock_held() && engine_may_unlock());
    ck_assert(p->lock_held && !p->may_unlock);
    probe_free(p);
    probe_free(q);
}
END_TEST

static void move_on_call(Probe *p)
{
    memory_region_set_address(&p->mr, p->mr.addr ^ 0x1000);
}

static void vanish_on_call(Probe *p)
{
    if (p->mr.container) {
        memory_region_del_subregion(&root, &p->mr);
    }
}

START_TEST(a_handler_may_move_or_remove_its_own_region_in_the_middle_of_an_access)
{
    Probe *p = probe_new(0, 0x10);
    MemoryCache cache = { 0 };
    uint64_t v;

    p->hook = move_on_call;
    ck_assert_int_eq(address_space_access(as, &cache, 4, MEMTXATTRS_NONE, &v, 4, false), MEMTX_OK);
    ck_assert_uint_eq(v, 0x17161514);
    ck_assert_int_eq(address_space_access(as, &cache, 4, MEMTXATTRS_NONE, &v, 4, false),
                     MEMTX_DECODE_ERROR);
    ck_assert_int_eq(address_space_access(as, &cache, 0x1004, MEMTXATTRS_NONE, &v, 4, false),
                     MEMTX_OK);
    ck_assert_uint_eq(load(4, 4, MEMTX_OK), 0x17161514);
    p->hook = vanish_on_call;
    p->ops.impl.max_access_size = 1; /* several calls after it is gone */
    ck_assert_uint_eq(load(0x1004, 4, MEMTX_OK), 0x17161514);
    load(0x1004, 4, MEMTX_DECODE_ERROR);
    probe_free(p);
}
END_TEST

static unsigned depth, deepest;

static void bite_own_tail(Probe *p)
{
    depth++;
    deepest = MAX(deepest, depth);
    address_space_stn(as, 0, 1, 1, MEMTXATTRS_NONE, NULL);
    depth--;
}

START_TEST(a_device_that_a_guest_lets_access_itself_is_stopped_before_the_stack_ends)
{
    Probe *p = probe_new(0, 0x10);

    log_set_mask(LOG_GUEST);
    p->hook = bite_own_tail;
    store(0, 1, 1, MEMTX_OK);
    ck_assert_uint_eq(deepest, 16);
    ck_assert(strstr(logged->str, "probe: access at offset 0x0 refused"));
    p->hook = NULL;
    store(0, 1, 1, MEMTX_OK);
    probe_free(p);
}
END_TEST

START_TEST(a_write_that_an_eventfd_waits_for_rings_it_and_spares_the_device)
{
    Probe *p = probe_new(0x1000, 0x40);
    int any = eventfd(0, EFD_NONBLOCK), nine = eventfd(0, EFD_NONBLOCK);
    MemoryRegionIoeventfd a = { .range = { 0x10, 0 }, .fd = any };
    MemoryRegionIoeventfd b = { .range = { 0x20, 4 }, .match_data = true, .data = 9, .fd = nine };
    eventfd_t rung = 0;

    memory_region_add_eventfd(&p->mr, &a);
    memory_region_add_eventfd(&p->mr, &b);
    store(0x1010, 1, 5, MEMTX_OK);
    store(0x1010, 4, 6, MEMTX_OK);
    store(0x1020, 4, UINT64_C(0xf00000009), MEMTX_OK);
    ck_assert_calls(p, "");
    ck_assert(eventfd_read(any, &rung) == 0 && rung == 2);
    ck_assert(eventfd_read(nine, &rung) == 0 && rung == 1);
    /* Another value, another size, a read, another address: the device's. */
    store(0x1020, 4, 8, MEMTX_OK);
    store(0x1020, 2, 9, MEMTX_OK);
    load(0x1010, 1, MEMTX_OK);
    store(0x1011, 1, 1, MEMTX_OK);
    ck_assert_calls(p, "w20:4=8 w20:2=9 r10:1=20 w11:1=1");
    memory_region_del_eventfd(&p->mr, &a);
    store(0x1010, 1, 7, MEMTX_OK);
    ck_assert_calls(p, "w10:1=7");
    ck_assert(eventfd_read(any, &rung) < 0 && eventfd_read(nine, &rung) < 0);
    memory_region_del_eventfd(&p->mr, &b);
    close(any);
    close(nine);
    probe_free(p);
}
END_TEST

START_TEST(a_cached_hit_is_not_used_after_a_change)
{
    Probe *p = probe_new(0, 0x10), *q = probe_new(0x1000, 0x10);
    MemoryCache cache = { 0 };
    uint64_t v;

    q->bytes[0] = 0xaa;
    address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false);
    address_space_access(as, &cache, 0x1000, MEMTXATTRS_NONE, &v, 1, false);
    ck_assert_uint_eq(v, 0xaa);
    address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false);
    ck_assert_uint_eq(v, 0x10);
    memory_region_set_enabled(&p->mr, false);
    ck_assert_int_eq(address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false),
                     MEMTX_DECODE_ERROR);
    memory_region_set_address(&q->mr, 0);
    address_space_access(as, &cache, 0, MEMTXATTRS_NONE, &v, 1, false);
    ck_assert_uint_eq(v, 0xaa);
    probe_free(p);
    probe_free(q);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory direct");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, ram_takes_every_size_and_alignment_and_marks_the_pages_it_changes);
    tcase_add_test(tc, rom_reads_as_memory_ignores_writes_and_is_filled_by_write_rom);
    tcase_add_test(tc, a_rom_device_reads_from_memory_in_romd_mode_and_writes_to_its_handlers);
    tcase_add_test(tc, a_read_only_alias_shields_ram_and_devices_from_writes);
    tcase_add_test(tc, a_pointer_to_ram_ends_with_its_range_and_respects_read_only);
    tcase_add_test(tc,
                   a_handler_runs_under_the_lock_out_of_rcu_and_a_lockless_one_the_other_way_round);
    tcase_add_test(tc, a_handler_may_move_or_remove_its_own_region_in_the_middle_of_an_access);
    tcase_add_test(tc, a_device_that_a_guest_lets_access_itself_is_stopped_before_the_stack_ends);
    tcase_add_test(tc, a_write_that_an_eventfd_waits_for_rings_it_and_spares_the_device);
    tcase_add_test(tc, a_cached_hit_is_not_used_after_a_change);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
