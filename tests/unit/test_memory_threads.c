/*
 * Readers against a writer: threads dispatch accesses while the main thread adds, moves and removes
 * regions. To be run under ThreadSanitizer and AddressSanitizer as well.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"
#include "tests/unit/run_suite.h"

#define READERS   3
#define CHANGES   3000
#define RAM_AT    0x100000
#define RAM_SIZE  0x40000
#define DEVICE_AT 0x1000
#define REUSED_AT 0x80000
#define DEVICES   8
#define MAGIC     0x600d

static MemoryRegion root, ram;
static AddressSpace *as;
static int stop;                 /* atomic */
static unsigned long reads;      /* atomic: all accesses made */
static unsigned long bad_ram;    /* atomic: reads of RAM that saw a hole or another value */
static unsigned long bad_device; /* atomic: answers that no device gives */
static unsigned long device_hits;

/* ---- devices that come and go ------------------------------------------------------------ */

typedef struct Device {
    Object parent;
    MemoryRegion mr;
    MemoryRegion shadow; /* an alias of mr */
    uint64_t magic;      /* spoiled by the finaliser */
} Device;

static unsigned devices_alive; /* engine lock */

static uint64_t device_read(void *opaque, hwaddr addr, unsigned size)
{
    Device *d = opaque;

    return d->magic;
}

static void device_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Device *d = opaque;

    /* Moves itself while other threads look it up. */
    ck_assert(engine_lock_held());
    if (d->mr.container) {
        memory_region_set_address(&d->mr, d->mr.addr ^ 0x100);
    }
}

static const MemoryRegionOps device_ops = { .read = device_read, .write = device_write };

static void device_finalize(Object *obj)
{
    Device *d = (Device *)obj;

    ck_assert(engine_lock_held() && main_loop_is_main_thread());
    memory_region_finalize(&d->shadow);
    memory_region_finalize(&d->mr);
    d->magic = 0xdead;
    devices_alive--;
}

static const TypeInfo device_type = {
    .name = "thread-device",
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(Device),
    .instance_finalize = device_finalize,
};

static Device *device_new(unsigned i)
{
    Device *d = (Device *)object_new("thread-device", NULL);

    d->magic = MAGIC;
    memory_region_init_io(&d->mr, &d->parent, &device_ops, d, "device", 0x80);
    memory_region_init_alias(&d->shadow, &d->parent, "shadow", &d->mr, 0x10, 0x40);
    if (i % 2) {
        memory_region_set_lockless(&d->mr);
    }
    devices_alive++;
    return d;
}

/* ---- readers ----------------------------------------------------------------------------- */

static uint32_t expected(uint64_t offset)
{
    return (uint32_t)(offset * 2654435761u) | 1;
}

static gpointer reader(gpointer opaque)
{
    MemoryCache cache = { 0 };
    uint64_t state = (uintptr_t)opaque * 7919 + 1, v;
    uint8_t buf[64];

    rcu_thread_register();
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        uint64_t offset, at;
        MemTxResult res;

        state = state * 6364136223846793005u + 1442695040888963407u;
        offset = (state >> 33) % (RAM_SIZE / 4) * 4;
        v = 0;
        res = address_space_access(as, &cache, RAM_AT + offset, MEMTXATTRS_NONE, &v, 4, false);
        if (res != MEMTX_OK || v != expected(offset)) {
            __atomic_fetch_add(&bad_ram, 1, __ATOMIC_RELAXED);
        }
        if (offset + sizeof(buf) <= RAM_SIZE) {
            uint32_t word;

            res = address_space_read(as, RAM_AT + offset, MEMTXATTRS_NONE, buf, sizeof(buf));
            memcpy(&word, buf + 60, 4);
            if (res != MEMTX_OK || word != expected(offset + 60)) {
                __atomic_fetch_add(&bad_ram, 1, __ATOMIC_RELAXED);
            }
        }
        /* Whole or unaligned, in one access or in parts, from whatever is there at the moment. */
        res = address_space_access(as, &cache, REUSED_AT, MEMTXATTRS_DEBUG, &v, 2, false);
        if (res == MEMTX_OK ? v != MAGIC : v != 0xffff) {
            __atomic_fetch_add(&bad_device, 1, __ATOMIC_RELAXED);
        }
        address_space_access(as, &cache, REUSED_AT + 0xfd, MEMTXATTRS_DEBUG, &v, 8, false);
        address_space_read(as, REUSED_AT + 1, MEMTXATTRS_DEBUG, buf, 7);
        g_free(address_space_describe(as, REUSED_AT));
        /* A locked device is even; both places where it may be. */
        at = DEVICE_AT + (state >> 20) % (2 * DEVICES) * 0x100;
        res = address_space_access(as, &cache, at, MEMTXATTRS_DEBUG, &v, 2, false);
        if (res == MEMTX_OK ? v != MAGIC : v != 0xffff) {
            __atomic_fetch_add(&bad_device, 1, __ATOMIC_RELAXED);
        }
        if (res == MEMTX_OK) {
            __atomic_fetch_add(&device_hits, 1, __ATOMIC_RELAXED);
        }
        if ((state >> 40) % 16 == 0) {
            at = DEVICE_AT + (state >> 20) % DEVICES / 2 * 0x400; /* even devices only */
            address_space_access(as, &cache, at, MEMTXATTRS_DEBUG, &v, 2, true);
        }
        __atomic_fetch_add(&reads, 1, __ATOMIC_RELEASE);
    }
    rcu_thread_unregister();
    return NULL;
}

/* ---- the writer -------------------------------------------------------------------------- */

static Device *devices[DEVICES];
static MemoryRegion reused; /* made anew in place, as RAM and as a device in turn */

static void reuse(unsigned n)
{
    static uint64_t magic = MAGIC * UINT64_C(0x100010001);
    static Device dummy = { .magic = MAGIC * UINT64_C(0x100010001) };

    memory_region_finalize(&reused);
    if (n % 2) {
        ck_assert(memory_region_init_ram(&reused, NULL, "reused", RAM_PAGE_SIZE, NULL));
        memcpy(memory_region_get_ram_ptr(&reused), &magic, sizeof(magic));
    } else {
        memory_region_init_io(&reused, NULL, &device_ops, &dummy, "reused", 0x100);
        if (n % 4) {
            memory_region_set_lockless(&reused);
        }
    }
    memory_region_add_subregion(&root, REUSED_AT, &reused);
}

static void remove_device(unsigned i)
{
    memory_region_transaction_begin();
    memory_region_del_subregion(&root, &devices[i]->mr);
    memory_region_del_subregion(&root, &devices[i]->shadow);
    memory_region_transaction_commit();
    object_unref(devices[i]);
    devices[i] = NULL;
}

static void change(unsigned n)
{
    unsigned i = n * 7 % DEVICES;
    static MemoryRegion hole;

    switch (n % 5) {
    case 0: /* RAM is taken out and put back within one transaction: never missing */
        memory_region_transaction_begin();
        memory_region_del_subregion(&root, &ram);
        memory_region_add_subregion_overlap(&root, RAM_AT, &ram, n % 3);
        memory_region_transaction_commit();
        break;
    case 1: /* cuts the range of RAM in two and makes it whole again */
        memory_region_init_alias(&hole, NULL, "window", &ram, 0x8000, 0x1000);
        memory_region_add_subregion_overlap(&root, RAM_AT + 0x8000, &hole, 10);
        memory_region_finalize(&hole);
        reuse(n / 5);
        break;
    default:
        if (devices[i]) {
            remove_device(i);
        } else {
            devices[i] = device_new(i);
            memory_region_transaction_begin();
            memory_region_add_subregion_overlap(&root, DEVICE_AT + i * 0x200, &devices[i]->mr, 0);
            memory_region_add_subregion_overlap(&root, 0x10000 + i * 0x100, &devices[i]->shadow, 0);
            memory_region_transaction_commit();
        }
        break;
    }
}

START_TEST(readers_never_miss_ram_nor_reach_a_device_that_is_dead)
{
    GThread *threads[READERS];
    uint8_t *host;

    main_loop_init();
    type_register_static(&device_type);
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    ck_assert(memory_region_init_ram(&ram, NULL, "ram", RAM_SIZE, NULL));
    host = memory_region_get_ram_ptr(&ram);
    for (uint64_t at = 0; at < RAM_SIZE; at += 4) {
        uint32_t v = expected(at);

        memcpy(host + at, &v, 4);
    }
    memory_region_add_subregion(&root, RAM_AT, &ram);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "threads");
    for (unsigned i = 0; i < READERS; i++) {
        threads[i] = g_thread_new("reader", reader, (gpointer)(uintptr_t)(i + 1));
    }
    for (unsigned n = 0; n < CHANGES || !__atomic_load_n(&device_hits, __ATOMIC_RELAXED); n++) {
        unsigned long before = __atomic_load_n(&reads, __ATOMIC_ACQUIRE);

        change(n);
        if (n % 8 == 0) {
            main_loop_iterate(false);
        }
        /* Let each change be seen, at least while there is somebody who moves on. */
        while (n % 16 == 0 && __atomic_load_n(&reads, __ATOMIC_ACQUIRE) == before) {
            main_loop_iterate(false);
        }
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    engine_unlock();
    for (unsigned i = 0; i < READERS; i++) {
        g_thread_join(threads[i]);
    }
    engine_lock();
    ck_assert_uint_eq(bad_ram, 0);
    ck_assert_uint_eq(bad_device, 0);
    ck_assert_uint_gt(device_hits, 0);
    for (unsigned i = 0; i < DEVICES; i++) {
        if (devices[i]) {
            remove_device(i);
        }
    }
    address_space_free(as);
    memory_reclaim();
    ck_assert_uint_eq(devices_alive, 0);
    memory_region_finalize(&root);
    memory_region_finalize(&ram);
    memory_region_finalize(&reused);
    main_loop_finalize();
}
END_TEST

/* ---- dirty bits -------------------------------------------------------------------------- */

#define DIRTY_PAGES  64
#define DIRTY_ROUNDS 3000

static RamBlock *block;
static uint8_t seen[DIRTY_PAGES];          /* the collector's copy of byte 0 of each page */
static unsigned rounds_begun, rounds_done; /* atomic */

/* Writes each page a few times in a row: of the later writes the page is still marked, unless the
 * collector takes the mark at that moment. */
static gpointer dirtier(gpointer opaque)
{
    for (unsigned round = 1; round <= DIRTY_ROUNDS; round++) {
        while (__atomic_load_n(&rounds_begun, __ATOMIC_ACQUIRE) < round) {
            g_thread_yield();
        }
        for (unsigned i = 0; i < 4 * DIRTY_PAGES; i++) {
            uint8_t *p = block->host + i / 4 * RAM_PAGE_SIZE;

            __atomic_store_n(p, __atomic_load_n(p, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
            ram_block_set_dirty(block, i / 4 * RAM_PAGE_SIZE, 1);
        }
        __atomic_store_n(&rounds_done, round, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void collect(uint64_t first, uint64_t n, void *opaque)
{
    for (uint64_t page = first; page < first + n; page++) {
        seen[page] = __atomic_load_n(block->host + page * RAM_PAGE_SIZE, __ATOMIC_RELAXED);
    }
}

START_TEST(no_write_is_lost_between_marking_a_page_and_taking_the_mark)
{
    GThread *thread;
    unsigned lost = 0;

    main_loop_init();
    block = ram_block_new_anonymous("dirty", DIRTY_PAGES * RAM_PAGE_SIZE, NULL);
    ram_block_enable_dirty(block, DIRTY_SNAPSHOT);
    thread = g_thread_new("dirtier", dirtier, NULL);
    for (unsigned round = 1; round <= DIRTY_ROUNDS; round++) {
        __atomic_store_n(&rounds_begun, round, __ATOMIC_RELEASE);
        while (__atomic_load_n(&rounds_done, __ATOMIC_ACQUIRE) < round) {
            ram_block_take_dirty(block, DIRTY_SNAPSHOT, collect, NULL);
        }
        ram_block_take_dirty(block, DIRTY_SNAPSHOT, collect, NULL);
        for (unsigned page = 0; page < DIRTY_PAGES; page++) {
            lost += seen[page] != block->host[page * RAM_PAGE_SIZE];
        }
    }
    g_thread_join(thread);
    ck_assert_uint_eq(lost, 0);
    ram_block_unref(block);
    main_loop_finalize();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory threads");
    TCase *tc = tcase_create("all");

    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, readers_never_miss_ram_nor_reach_a_device_that_is_dead);
    tcase_add_test(tc, no_write_is_lost_between_marking_a_page_and_taking_the_mark);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
