/* RAM snapshots: random histories against full copies, sharing, zero pages, statistics, errors. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"
#include "engine/state/ram-snapshot.h"
#include "tests/unit/run_suite.h"

static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 20) % below);
}

typedef struct Ram {
    MemoryRegion mr;
    uint8_t *host;
    uint64_t size;
} Ram;

static void ram_init(Ram *r, const char *name, uint64_t size)
{
    GError *error = NULL;

    ck_assert_msg(memory_region_init_ram(&r->mr, NULL, name, size, &error), "%s",
                  error ? error->message : "");
    r->host = memory_region_get_ram_ptr(&r->mr);
    r->size = size;
}

static void ram_write(Ram *r, uint64_t at, const void *data, uint64_t len)
{
    memcpy(r->host + at, data, len);
    memory_region_set_dirty(&r->mr, at, len);
}

static void ram_fill(Ram *r, uint64_t page, uint64_t pages, uint8_t value)
{
    memset(r->host + page * RAM_PAGE_SIZE, value, pages * RAM_PAGE_SIZE);
    memory_region_set_dirty(&r->mr, page * RAM_PAGE_SIZE, pages * RAM_PAGE_SIZE);
}

static RamSnapshotStats stats_of(RamTracker *t, RamSnapshot *s)
{
    RamSnapshotStats st;

    ram_snapshot_stats(t, s, &st);
    return st;
}

static void setup(void)
{
    main_loop_init();
}

static void teardown(void)
{
    main_loop_finalize();
}

/* ---- against full copies ----------------------------------------------------------------- */

#define BLOCKS 3
#define SNAPS  8

typedef struct Copy {
    RamSnapshot *s;
    uint8_t *bytes[BLOCKS];
} Copy;

static void random_writes(Ram *ram)
{
    for (unsigned n = rnd(40); n-- > 0;) {
        Ram *r = &ram[rnd(BLOCKS)];
        uint64_t pages = r->size / RAM_PAGE_SIZE, page = rnd((uint32_t)pages);
        uint32_t word = rnd(4) ? rnd(UINT32_MAX) : 0;

        switch (rnd(6)) {
        case 0: /* a run, maybe of zeros */
            ram_fill(r, page, 1 + rnd((uint32_t)MIN(pages - page, 100)),
                     rnd(2) ? 0 : (uint8_t)rnd(256));
            break;
        case 1: /* marked, not changed */
            memory_region_set_dirty(&r->mr, page * RAM_PAGE_SIZE, 1);
            break;
        default:
            ram_write(r, page * RAM_PAGE_SIZE + rnd(1023) * 4, &word, sizeof(word));
            break;
        }
    }
}

static void copy_free(RamTracker *t, Copy *c)
{
    ram_snapshot_free(t, c->s);
    for (unsigned i = 0; i < BLOCKS; i++) {
        g_free(c->bytes[i]);
    }
    memset(c, 0, sizeof(*c));
}

static void run_history(unsigned long seed)
{
    static const uint64_t sizes[BLOCKS] = { RAM_PAGE_SIZE, 130 * RAM_PAGE_SIZE,
                                            5000 * RAM_PAGE_SIZE };
    RamTracker *t = ram_tracker_new(NULL, NULL);
    Copy copies[SNAPS] = { 0 };
    Ram ram[BLOCKS];
    char name[] = "ram0";

    rng_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned i = 0; i < BLOCKS; i++) {
        name[3] = (char)('0' + i);
        ram_init(&ram[i], name, sizes[i]);
        ram_tracker_add(t, name, &ram[i].mr);
    }
    random_writes(ram);
    for (unsigned step = 0; step < 60; step++) {
        Copy *c = &copies[rnd(SNAPS)];

        random_writes(ram);
        if (!c->s) {
            c->s = ram_snapshot_take(t, NULL);
            for (unsigned i = 0; i < BLOCKS; i++) {
                c->bytes[i] = g_memdup2(ram[i].host, ram[i].size);
            }
        } else if (rnd(3) == 0) {
            copy_free(t, c);
        } else {
            ck_assert(ram_snapshot_restore(t, c->s, NULL));
            for (unsigned i = 0; i < BLOCKS; i++) {
                ck_assert_msg(!memcmp(c->bytes[i], ram[i].host, ram[i].size),
                              "seed %lu: block %u differs after the restore of step %u", seed, i,
                              step);
            }
        }
    }
    for (unsigned i = 0; i < SNAPS; i++) {
        copy_free(t, &copies[i]);
    }
    ck_assert_uint_eq(stats_of(t, NULL).bytes_held, 0);
    ram_tracker_free(t);
    for (unsigned i = 0; i < BLOCKS; i++) {
        memory_region_finalize(&ram[i].mr);
    }
}

START_TEST(random_writes_takes_restores_and_frees_agree_with_full_copies)
{
    const char *only = getenv("VMLUA_SEED");

    for (unsigned long seed = 1; seed <= 12; seed++) {
        run_history(only ? strtoul(only, NULL, 0) : seed);
    }
}
END_TEST

/* ---- what it costs ----------------------------------------------------------------------- */

START_TEST(a_take_copies_only_what_changed_and_shares_the_rest)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    RamSnapshot *a, *b;
    uint64_t held;
    Ram ram;

    ram_init(&ram, "ram", 4 * MiB);
    ram_tracker_add(t, "ram", &ram.mr);
    ram_fill(&ram, 0, 1024, 0x11);
    a = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(stats_of(t, a).pages_copied, 1024);
    ck_assert_uint_eq(stats_of(t, a).pages_held, 1024);
    held = stats_of(t, a).bytes_held;
    ck_assert_uint_ge(held, 4 * MiB);

    ram_fill(&ram, 10, 3, 0x22);
    b = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(stats_of(t, b).pages_copied, 3);
    ck_assert_uint_eq(stats_of(t, b).pages_held, 1024);
    ck_assert_uint_lt(stats_of(t, b).bytes_held, held + 8 * RAM_PAGE_SIZE);

    ram_fill(&ram, 500, 1, 0x33);
    ck_assert(ram_snapshot_restore(t, a, NULL));
    ck_assert_uint_eq(stats_of(t, a).pages_copied, 4);
    ck_assert_uint_eq(ram.host[10 * RAM_PAGE_SIZE], 0x11);
    ck_assert_uint_eq(ram.host[500 * RAM_PAGE_SIZE], 0x11);
    ck_assert(ram_snapshot_restore(t, a, NULL));
    ck_assert_uint_eq(stats_of(t, a).pages_copied, 0);
    ram_snapshot_free(t, a);
    ck_assert(ram_snapshot_restore(t, b, NULL));
    ck_assert_uint_eq(stats_of(t, b).pages_copied, 3);
    ck_assert_uint_eq(ram.host[12 * RAM_PAGE_SIZE], 0x22);
    ram_snapshot_free(t, b);
    ck_assert_uint_eq(stats_of(t, NULL).bytes_held, 0);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

START_TEST(pages_of_zeros_cost_nothing)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    RamSnapshot *s;
    Ram ram;

    ram_init(&ram, "ram", MiB);
    ram_tracker_add(t, "ram", &ram.mr);
    ram_fill(&ram, 0, 256, 0); /* populated, but zero */
    s = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(stats_of(t, s).pages_copied, 0);
    ck_assert_uint_eq(stats_of(t, s).pages_held, 0);
    ck_assert_uint_eq(stats_of(t, s).bytes_held, 0);
    ram_fill(&ram, 7, 1, 0xaa);
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert_uint_eq(ram.host[7 * RAM_PAGE_SIZE + 5], 0);
    ram_snapshot_free(t, s);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

START_TEST(the_first_take_of_an_untouched_block_does_not_populate_it)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    RamSnapshot *s;
    Ram ram;

    ram_init(&ram, "big", GiB);
    ram_tracker_add(t, "big", &ram.mr);
    ram_fill(&ram, 3, 2, 1);
    ram_fill(&ram, 200000, 1, 1);
    s = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(stats_of(t, s).pages_copied, 3);
    ck_assert_uint_lt(ram_block_resident_bytes(ram.mr.ram), 8 * MiB);
    ram_fill(&ram, 100000, 1, 1);
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert_uint_eq(stats_of(t, s).pages_copied, 1);
    ck_assert_uint_lt(ram_block_resident_bytes(ram.mr.ram), 8 * MiB);
    ram_snapshot_free(t, s);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

START_TEST(shared_memory_is_found_through_its_file_without_populating_it)
{
    int fd = memfd_create("test", MFD_CLOEXEC);
    RamTracker *t = ram_tracker_new(NULL, NULL);
    MemoryRegion mr;
    RamBlock *block;
    RamSnapshot *s;
    uint8_t byte = 9;

    ck_assert_int_eq(ftruncate(fd, (off_t)(256 * MiB)), 0);
    /* Written by somebody else: never in our page table. */
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)(100 * MiB)), 1);
    block = ram_block_new_fd("shm", 256 * MiB, fd, true, false, RAM_PAGE_SIZE, NULL);
    ck_assert_ptr_nonnull(block);
    memory_region_init_ram_block(&mr, NULL, "shm", block);
    ram_block_unref(block);
    ram_tracker_add(t, "shm", &mr);
    s = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(stats_of(t, s).pages_held, 1);
    ck_assert_uint_le(ram_block_resident_bytes(block), 2 * MiB);
    block->host[100 * MiB] = 1;
    memory_region_set_dirty(&mr, 100 * MiB, 1);
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert_uint_eq(block->host[100 * MiB], 9);
    ram_snapshot_free(t, s);
    ram_tracker_free(t);
    memory_region_finalize(&mr);
}
END_TEST

START_TEST(pages_written_again_before_the_next_take_reuse_their_copy)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    RamSnapshot *keep, *s;
    uint64_t held;
    Ram ram;

    ram_init(&ram, "ram", MiB);
    ram_tracker_add(t, "ram", &ram.mr);
    keep = ram_snapshot_take(t, NULL);
    ram_fill(&ram, 0, 64, 1);
    s = ram_snapshot_take(t, NULL);
    held = stats_of(t, s).bytes_held;
    ram_snapshot_free(t, s);
    for (unsigned i = 2; i < 50; i++) {
        ram_fill(&ram, 0, 64, (uint8_t)i);
        s = ram_snapshot_take(t, NULL);
        ck_assert_uint_eq(stats_of(t, s).bytes_held, held);
        ram_snapshot_free(t, s);
    }
    ram_snapshot_free(t, keep);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

/* ---- who is told ------------------------------------------------------------------------- */

START_TEST(a_restore_is_seen_by_other_dirty_clients_and_logging_ends_with_the_last_snapshot)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    RamSnapshot *s;
    Ram ram;

    ram_init(&ram, "vga", MiB);
    ram_tracker_add(t, "vga", &ram.mr);
    memory_region_set_log(&ram.mr, true, DIRTY_DISPLAY);
    ck_assert_uint_eq(ram.mr.dirty_clients, DIRTY_DISPLAY);
    s = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(ram.mr.dirty_clients, DIRTY_DISPLAY | DIRTY_SNAPSHOT);
    ram_fill(&ram, 5, 1, 1);
    ck_assert(memory_region_test_and_clear_dirty(&ram.mr, 0, MiB, DIRTY_DISPLAY));
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert(!memory_region_test_and_clear_dirty(&ram.mr, 0, 5 * RAM_PAGE_SIZE, DIRTY_DISPLAY));
    ck_assert(memory_region_test_and_clear_dirty(&ram.mr, 5 * RAM_PAGE_SIZE, 1, DIRTY_DISPLAY));
    ck_assert(!memory_region_test_and_clear_dirty(&ram.mr, 0, MiB, DIRTY_SNAPSHOT));
    ram_snapshot_free(t, s);
    ck_assert_uint_eq(ram.mr.dirty_clients, DIRTY_DISPLAY);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

static void count_sync(void *opaque)
{
    ++*(unsigned *)opaque;
}

START_TEST(the_dirty_bitmaps_are_synced_before_each_take_and_restore)
{
    unsigned syncs = 0;
    RamTracker *t = ram_tracker_new(count_sync, &syncs);
    RamSnapshot *s;
    Ram ram;

    ram_init(&ram, "ram", MiB);
    ram_tracker_add(t, "ram", &ram.mr);
    s = ram_snapshot_take(t, NULL);
    ck_assert_uint_eq(syncs, 1);
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert_uint_eq(syncs, 2);
    ram_snapshot_free(t, s);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

/* ---- mistakes and other machines --------------------------------------------------------- */

START_TEST(a_snapshot_of_another_shape_is_refused_and_changes_nothing)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    GError *error = NULL;
    RamSnapshot *s;
    Ram a, b, c;

    ram_init(&a, "a", MiB);
    ram_init(&b, "b", MiB);
    ram_init(&c, "b", 2 * MiB);
    ram_tracker_add(t, "a", &a.mr);
    s = ram_snapshot_take(t, NULL);
    ram_fill(&a, 0, 1, 7);

    ram_tracker_add(t, "b", &b.mr);
    ck_assert(!ram_snapshot_restore(t, s, &error));
    ck_assert_str_eq(error->message, "the snapshot has no RAM 'b'");
    g_clear_error(&error);
    ck_assert_uint_eq(a.host[0], 7);
    ram_snapshot_free(t, s);

    s = ram_snapshot_take(t, NULL);
    ram_fill(&a, 0, 1, 8);
    ram_tracker_remove(t, &b.mr);
    ck_assert(!ram_snapshot_restore(t, s, &error));
    ck_assert_str_eq(error->message, "the machine has no RAM 'b', the snapshot has");
    g_clear_error(&error);
    ram_tracker_add(t, "b", &c.mr);
    ck_assert(!ram_snapshot_restore(t, s, &error));
    ck_assert_str_eq(error->message, "RAM 'b' has 2097152 bytes, 1048576 in the snapshot");
    g_clear_error(&error);
    ck_assert_uint_eq(a.host[0], 8);

    /* The same block back: nothing is known of it, all of it is restored. */
    ram_tracker_remove(t, &c.mr);
    ram_fill(&b, 9, 1, 9);
    ram_tracker_add(t, "b", &b.mr);
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert_uint_eq(a.host[0], 7);
    ck_assert_uint_eq(b.host[9 * RAM_PAGE_SIZE], 0);
    ram_snapshot_free(t, s);
    ram_tracker_free(t);
    memory_region_finalize(&a.mr);
    memory_region_finalize(&b.mr);
    memory_region_finalize(&c.mr);
}
END_TEST

/* What the process has mapped, and so much more, is all it may have. */
static void limit_memory(uint64_t more)
{
    struct rlimit limit;
    unsigned long pages;
    FILE *f = fopen("/proc/self/statm", "r");

    ck_assert(f && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &limit), 0);
    limit.rlim_cur = more == RLIM_INFINITY ? limit.rlim_max : pages * RAM_PAGE_SIZE + more;
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
}

START_TEST(a_host_without_room_is_an_error_and_costs_nothing_that_there_was)
{
    RamTracker *t = ram_tracker_new(NULL, NULL);
    GError *error = NULL;
    RamSnapshot *old, *s;
    Ram ram;

    ram_init(&ram, "ram", 8 * MiB);
    ram_tracker_add(t, "ram", &ram.mr);
    ram_fill(&ram, 0, 10, 1);
    old = ram_snapshot_take(t, NULL);
    ram_fill(&ram, 5, 2000, 2);

    limit_memory(MiB - 64 * KiB);
    ck_assert_ptr_null(ram_snapshot_take(t, &error));
    limit_memory(RLIM_INFINITY);
    ck_assert_ptr_nonnull(error);
    ck_assert_str_eq(error->message,
                     "RAM 'ram': no room for the copies of a snapshot: Cannot allocate memory");
    g_clear_error(&error);

    ck_assert_uint_eq(ram.host[100 * RAM_PAGE_SIZE], 2);
    s = ram_snapshot_take(t, NULL);
    ram_fill(&ram, 0, 2048, 3);
    ck_assert(ram_snapshot_restore(t, old, NULL));
    ck_assert_uint_eq(ram.host[9 * RAM_PAGE_SIZE], 1);
    ck_assert_uint_eq(ram.host[10 * RAM_PAGE_SIZE], 0);
    ck_assert(ram_snapshot_restore(t, s, NULL));
    ck_assert_uint_eq(ram.host[4 * RAM_PAGE_SIZE], 1);
    ck_assert_uint_eq(ram.host[2004 * RAM_PAGE_SIZE], 2);
    ck_assert_uint_eq(ram.host[2005 * RAM_PAGE_SIZE], 0);
    ram_snapshot_free(t, s);
    ram_snapshot_free(t, old);
    ck_assert_uint_eq(stats_of(t, NULL).bytes_held, 0);
    ram_tracker_free(t);
    memory_region_finalize(&ram.mr);
}
END_TEST

START_TEST(a_snapshot_can_be_restored_into_another_machine_of_the_same_shape)
{
    RamTracker *t = ram_tracker_new(NULL, NULL), *u = ram_tracker_new(NULL, NULL);
    RamSnapshot *s, *own;
    Ram a, b;

    ram_init(&a, "a", MiB);
    ram_init(&b, "b", MiB);
    ram_tracker_add(t, "ram", &a.mr);
    ram_tracker_add(u, "ram", &b.mr);
    ram_fill(&a, 3, 2, 0x33);
    ram_fill(&b, 100, 5, 0x44);
    s = ram_snapshot_take(t, NULL);
    ck_assert(ram_snapshot_restore(u, s, NULL));
    ck_assert_int_eq(memcmp(a.host, b.host, MiB), 0);
    ck_assert_uint_eq(b.mr.dirty_clients, 0);
    own = ram_snapshot_take(u, NULL);
    ram_fill(&b, 3, 200, 0x55);
    ck_assert(ram_snapshot_restore(u, s, NULL));
    ck_assert_int_eq(memcmp(a.host, b.host, MiB), 0);
    ram_fill(&b, 50, 3, 0x66);
    ck_assert(ram_snapshot_restore(u, own, NULL));
    ck_assert_int_eq(memcmp(a.host, b.host, MiB), 0);
    ram_snapshot_free(u, own);
    ram_snapshot_free(t, s);
    ram_tracker_free(u);
    ram_tracker_free(t);
    memory_region_finalize(&a.mr);
    memory_region_finalize(&b.mr);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ram snapshot");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, random_writes_takes_restores_and_frees_agree_with_full_copies);
    tcase_add_test(tc, a_take_copies_only_what_changed_and_shares_the_rest);
    tcase_add_test(tc, pages_of_zeros_cost_nothing);
    tcase_add_test(tc, the_first_take_of_an_untouched_block_does_not_populate_it);
    tcase_add_test(tc, shared_memory_is_found_through_its_file_without_populating_it);
    tcase_add_test(tc, pages_written_again_before_the_next_take_reuse_their_copy);
    tcase_add_test(
        tc, a_restore_is_seen_by_other_dirty_clients_and_logging_ends_with_the_last_snapshot);
    tcase_add_test(tc, the_dirty_bitmaps_are_synced_before_each_take_and_restore);
    tcase_add_test(tc, a_snapshot_of_another_shape_is_refused_and_changes_nothing);
    tcase_add_test(tc, a_host_without_room_is_an_error_and_costs_nothing_that_there_was);
    tcase_add_test(tc, a_snapshot_can_be_restored_into_another_machine_of_the_same_shape);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
