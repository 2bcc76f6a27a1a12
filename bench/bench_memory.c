/*
 * What the memory model costs: accesses by kind and by the way the range is found, commits in a
 * tree of 1,000 regions, snapshots of RAM. Prints figures; passes or fails on nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"
#include "engine/state/ram-snapshot.h"

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * NS_PER_SEC + ts.tv_nsec;
}

static void report(const char *what, int64_t ns, unsigned long n)
{
    double each = (double)ns / (double)n;

    if (each < 10000) {
        printf("%-56s %8.1f ns\n", what, each);
    } else {
        printf("%-56s %8.1f us\n", what, each / 1000);
    }
}

static uint64_t reg_read(void *opaque, hwaddr addr, unsigned size)
{
    return *(uint64_t *)opaque + addr;
}

static void reg_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    *(uint64_t *)opaque = data;
}

static const MemoryRegionOps reg_ops = {
    .read = reg_read,
    .write = reg_write,
    .valid = { .unaligned = true },
};
static const MemoryRegionOps byte_ops = {
    .read = reg_read,
    .write = reg_write,
    .impl = { .max_access_size = 1 },
};

/* ---- accesses ---------------------------------------------------------------------------- */

#define LOOPS 2000000

static void bench_access(AddressSpace *as, const char *what, const hwaddr *addrs, unsigned n,
                         unsigned size, bool is_write)
{
    MemoryCache cache = { 0 };
    uint64_t data = 0;
    int64_t start = now_ns();

    for (unsigned i = 0, k = 0; i < LOOPS; i++) {
        address_space_access(as, &cache, addrs[k], MEMTXATTRS_NONE, &data, size, is_write);
        k = k + 1 < n ? k + 1 : 0;
    }
    report(what, now_ns() - start, LOOPS);
}

static void bench_accesses(void)
{
    MemoryRegion root, ram, *regs = g_new0(MemoryRegion, 200);
    uint64_t state = 0;
    AddressSpace *as;
    hwaddr spread[64];

    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    if (!memory_region_init_ram(&ram, NULL, "ram", 16 * MiB, NULL)) {
        exit(1);
    }
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_transaction_begin();
    for (unsigned i = 0; i < 200; i++) {
        memory_region_init_io(&regs[i], NULL, i == 199 ? &byte_ops : &reg_ops, &state, "reg",
                              0x100);
        if (i % 2) {
            memory_region_set_lockless(&regs[i]);
        }
        memory_region_add_subregion(&root, GiB + i * 0x1000, &regs[i]);
    }
    memory_region_transaction_commit();
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "bench");

    printf("-- address_space_access, 4 bytes, 201 ranges\n");
    bench_access(as, "RAM read, last hit", (hwaddr[]){ 0x1000 }, 1, 4, false);
    bench_access(as, "RAM write, last hit", (hwaddr[]){ 0x1000 }, 1, 4, true);
    memory_region_set_log(&ram, true, DIRTY_SNAPSHOT);
    bench_access(as, "RAM write, last hit, dirty log on", (hwaddr[]){ 0x1000 }, 1, 4, true);
    memory_region_set_log(&ram, false, DIRTY_SNAPSHOT);
    bench_access(as, "I/O read under a lock that is held, last hit", (hwaddr[]){ GiB }, 1, 4,
                 false);
    engine_unlock();
    bench_access(as, "I/O read that takes the lock, last hit", (hwaddr[]){ GiB }, 1, 4, false);
    bench_access(as, "I/O write that takes the lock, last hit", (hwaddr[]){ GiB }, 1, 4, true);
    bench_access(as, "I/O read, lockless, last hit", (hwaddr[]){ GiB + 0x1000 }, 1, 4, false);
    bench_access(as, "I/O read, lockless, split into 4 single bytes",
                 (hwaddr[]){ GiB + 199 * 0x1000 }, 1, 4, false);
    bench_access(as, "unassigned read", (hwaddr[]){ 3 * GiB }, 1, 4, false);
    for (unsigned i = 0; i < 64; i++) {
        spread[i] = GiB + (i * 77 % 100 * 2 + 1) * 0x1000;
    }
    spread[0] = 0x2000;
    bench_access(as, "I/O read, lockless, binary search each time", spread, 64, 4, false);
    for (unsigned i = 0; i < 64; i++) {
        spread[i] = GiB + (i * 77 % 100 * 2) * 0x1000;
    }
    bench_access(as, "I/O read that takes the lock, binary search each time", spread, 64, 4, false);
    engine_lock();

    address_space_free(as);
    memory_region_finalize(&root);
    memory_region_finalize(&ram);
    memory_reclaim();
    for (unsigned i = 0; i < 200; i++) {
        memory_region_finalize(&regs[i]);
    }
    g_free(regs);
}

/* ---- commits ----------------------------------------------------------------------------- */

static void bench_commits(void)
{
    enum { N = 1000, ROUNDS = 2000 };
    MemoryRegion root, groups[10], *regs = g_new0(MemoryRegion, N);
    uint64_t state = 0;
    AddressSpace *as;
    int64_t start;

    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "bench");
    start = now_ns();
    for (unsigned i = 0; i < 10; i++) {
        memory_region_init(&groups[i], NULL, "group", 0x1000000);
        memory_region_add_subregion(&root, i * UINT64_C(0x1000000), &groups[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        memory_region_init_io(&regs[i], NULL, &reg_ops, &state, "reg", 0x1000);
        memory_region_add_subregion_overlap(&groups[i % 10], (i * 7919 % N) * UINT64_C(0x2000),
                                            &regs[i], (int)(i % 3));
    }
    printf("-- commit of one change in a tree of 1,000 regions\n");
    report("(building it: each of 1,000 additions)", now_ns() - start, N);

    start = now_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        memory_region_set_enabled(&regs[i % N], false);
        memory_region_set_enabled(&regs[i % N], true);
    }
    report("disable or enable", now_ns() - start, 2 * ROUNDS);
    start = now_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        memory_region_set_address(&regs[i % N], regs[i % N].addr ^ 0x1000);
    }
    report("move", now_ns() - start, ROUNDS);
    start = now_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        MemoryRegion *mr = &regs[i % N], *in = mr->container;

        memory_region_del_subregion(in, mr);
        memory_region_add_subregion_overlap(in, mr->addr, mr, mr->priority);
    }
    report("remove or add", now_ns() - start, 2 * ROUNDS);
    start = now_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        memory_region_transaction_begin();
        for (unsigned k = 0; k < 10; k++) {
            memory_region_set_address(&regs[(i + k) % N], regs[(i + k) % N].addr ^ 0x1000);
        }
        memory_region_transaction_commit();
    }
    report("ten moves in one transaction", now_ns() - start, ROUNDS);

    address_space_free(as);
    memory_region_finalize(&root);
    for (unsigned i = 0; i < 10; i++) {
        memory_region_finalize(&groups[i]);
    }
    memory_reclaim();
    for (unsigned i = 0; i < N; i++) {
        memory_region_finalize(&regs[i]);
    }
    g_free(regs);
}

/* ---- snapshots --------------------------------------------------------------------------- */

static void dirty_pages(MemoryRegion *mr, uint8_t *host, unsigned n, unsigned salt)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t at = ((uint64_t)i * 163 + salt * 7) % 32768 * RAM_PAGE_SIZE;

        memset(host + at + 64, (int)(salt + i) | 1, 64);
        memory_region_set_dirty(mr, at + 64, 64);
    }
}

static void bench_snapshots(void)
{
    enum { ROUNDS = 200 };
    RamTracker *t = ram_tracker_new(NULL, NULL);
    int64_t start, take = 0, restore = 0, restore_base = 0, release = 0;
    RamSnapshot *base, *s;
    RamSnapshotStats st;
    MemoryRegion mr;
    uint8_t *host;

    if (!memory_region_init_ram(&mr, NULL, "ram", 128 * MiB, NULL)) {
        exit(1);
    }
    host = memory_region_get_ram_ptr(&mr);
    ram_tracker_add(t, "ram", &mr);
    printf("-- RAM snapshots, 128 MiB\n");
    for (uint64_t at = 0; at < 128 * MiB; at += RAM_PAGE_SIZE) {
        host[at] = 1;
    }
    start = now_ns();
    base = ram_snapshot_take(t, NULL);
    report("first take, every page in use", now_ns() - start, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        dirty_pages(&mr, host, 200, i);
        start = now_ns();
        s = ram_snapshot_take(t, NULL);
        take += now_ns() - start;
        dirty_pages(&mr, host, 200, i);
        start = now_ns();
        ram_snapshot_restore(t, s, NULL);
        restore += now_ns() - start;
        start = now_ns();
        ram_snapshot_restore(t, base, NULL);
        restore_base += now_ns() - start;
        start = now_ns();
        ram_snapshot_free(t, s);
        release += now_ns() - start;
    }
    report("take, 200 dirty pages", take, ROUNDS);
    report("restore of it, the same 200 pages dirty", restore, ROUNDS);
    report("restore of the first, 200 pages differ, none dirty", restore_base, ROUNDS);
    report("free", release, ROUNDS);
    start = now_ns();
    for (unsigned i = 0; i < ROUNDS; i++) {
        ram_snapshot_restore(t, base, NULL);
    }
    report("restore with nothing to do", now_ns() - start, ROUNDS);
    ram_snapshot_stats(t, base, &st);
    printf("%-56s %8" PRIu64 " KiB\n", "held for the first snapshot", st.bytes_held / KiB);
    ram_snapshot_free(t, base);
    ram_tracker_free(t);
    memory_region_finalize(&mr);
}

int main(void)
{
    struct utsname u;

    uname(&u);
    printf("%s %s\n", u.sysname, u.release);
    main_loop_init();
    bench_accesses();
    bench_commits();
    bench_snapshots();
    main_loop_finalize();
    return 0;
}
