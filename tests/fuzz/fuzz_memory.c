/*
 * Trees of regions changed by a program of bytes, with accesses from it, two address spaces and a
 * listener. After each commit: the view is sorted and disjoint, at the addresses that the program
 * names it shows what a plain walk of the tree finds there, and the listener has been told of
 * exactly the ranges that are in it.
 */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/core/rcu.h"
#include "engine/memory/memory.h"
#include "tests/fuzz/fuzz.h"

#define REGIONS     14
#define STEPS_BOUND 300
#define RAM_MAX     0x8000

static MemoryRegion regions[REGIONS]; /* 0 and 1 are the roots */
static AddressSpace *spaces[2];
static int event_fd;
static bool nested; /* the handler that accesses memory itself is at work */

static uint64_t io_read(void *opaque, hwaddr addr, unsigned size)
{
    MemoryRegion *mr = opaque;

    FUZZ_CHECK(size == 1 || size == 2 || size == 4 || size == 8);
    FUZZ_CHECK(addr + size <= mr->size || mr->size == MEMORY_REGION_MAX, "%s+%#lx of %#lx",
               memory_region_name(mr), addr, mr->size);
    return addr * 0x0101010101010101u;
}

static void io_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    io_read(opaque, addr, size);
    if (!nested && (data & 3) == 3) { /* a handler may access memory and change the tree */
        MemoryRegion *mr = &regions[2 + data % (REGIONS - 2)];

        nested = true;
        address_space_stn(spaces[data & 1], data, ~data, size, MEMTXATTRS_NONE, NULL);
        if (mr->name) {
            memory_region_set_enabled(mr, data & 4);
        }
        nested = false;
    }
}

static const MemoryRegionOps ops[] = {
    { .read = io_read, .write = io_write },
    { .read = io_read,
      .write = io_write,
      .endianness = DEVICE_BIG_ENDIAN,
      .impl = { .min_access_size = 4, .max_access_size = 4 } },
    { .read = io_read,
      .write = io_write,
      .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
      .impl = { .min_access_size = 1, .max_access_size = 1 } },
    { .read = io_read,
      .write = io_write,
      .valid = { .min_access_size = 2, .max_access_size = 2 },
      .impl = { .min_access_size = 2, .max_access_size = 8, .unaligned = true } },
};

/* ---- the listener: keeps a list of its own ------------------------------------------------- */

static GArray *shown; /* of FlatRange, as told */

static void told_add(MemoryListener *l, const MemorySection *s)
{
    g_array_append_val(shown, s->range);
}

static void told_del(MemoryListener *l, const MemorySection *s)
{
    for (guint i = 0; i < shown->len; i++) {
        const FlatRange *r = &g_array_index(shown, FlatRange, i);

        if (r->addr == s->range.addr && r->last == s->range.last && r->id == s->range.id &&
            r->offset == s->range.offset) {
            g_array_remove_index(shown, i);
            return;
        }
    }
    FUZZ_CHECK(false, "a range goes that was never told: %#lx", s->range.addr);
}

static MemoryListener listener = { .region_add = told_add, .region_del = told_del };

/* ---- the oracle ---------------------------------------------------------------------------- */

/* What is at `at` (relative to the region, any sign), by a plain walk. */
static const MemoryRegion *walk(const MemoryRegion *mr, __int128 at, hwaddr *offset, unsigned depth)
{
    __int128 size = mr->size == MEMORY_REGION_MAX ? (__int128)1 << 64 : (__int128)mr->size;

    FUZZ_CHECK(depth < 64);
    if (!mr->enabled || at < 0 || at >= size) {
        return NULL;
    }
    if (mr->kind == MEMORY_ALIAS) {
        return mr->alias ? walk(mr->alias, at + mr->alias_offset, offset, depth + 1) : NULL;
    }
    if (mr->kind != MEMORY_CONTAINER) {
        *offset = (hwaddr)at;
        return mr;
    }
    for (guint i = 0; mr->subregions && i < mr->subregions->len; i++) {
        const MemoryRegion *child = g_ptr_array_index(mr->subregions, i);
        const MemoryRegion *found = walk(child, at - child->addr, offset, depth + 1);

        if (found) {
            return found;
        }
    }
    return NULL;
}

static void check_at(AddressSpace *as, const FlatView *view, hwaddr addr)
{
    hwaddr offset = 0;
    const MemoryRegion *want = walk(address_space_root(as), addr, &offset, 0);
    const FlatRange *got = flat_view_find(view, addr);

    FUZZ_CHECK((got ? got->mr : NULL) == want, "%s at %#lx: %s, not %s", address_space_name(as),
               addr, got ? got->name : "nothing", want ? want->name : "nothing");
    FUZZ_CHECK(!got || got->offset + (addr - got->addr) == offset, "offset at %#lx", addr);
}

static void check_view(AddressSpace *as, hwaddr addr)
{
    const FlatView *view;

    rcu_enter();
    view = address_space_flat_view(as);
    for (unsigned i = 0; i < view->n; i++) {
        const FlatRange *r = &view->ranges[i];

        FUZZ_CHECK(r->addr <= r->last);
        FUZZ_CHECK(i == 0 || view->ranges[i - 1].last < r->addr);
        check_at(as, view, r->addr);
        check_at(as, view, r->last);
        check_at(as, view, r->addr - 1);
        check_at(as, view, r->last + 1);
    }
    check_at(as, view, addr);
    if (as == spaces[0]) {
        FUZZ_CHECK(shown->len == view->n, "%u told, %u there", shown->len, view->n);
    }
    rcu_leave();
}

/* ---- the program --------------------------------------------------------------------------- */

static uint64_t a_size(FuzzInput *in)
{
    uint64_t size = fuzz_odd(in);

    return size ? size : 1;
}

static void make(FuzzInput *in, unsigned n)
{
    MemoryRegion *mr = &regions[n];
    g_autofree char *name = g_strdup_printf("r%u", n);
    uint8_t kind = fuzz_u8(in);
    const MemoryRegionOps *o = &ops[(kind >> 4) % G_N_ELEMENTS(ops)];
    uint64_t size = a_size(in);
    GError *error = NULL;
    bool ok = true;

    if (mr->name) {
        memory_region_finalize(mr);
        memset(mr, 0, sizeof(*mr));
    }
    switch (kind % 8) {
    case 0:
    case 1:
        memory_region_init(mr, NULL, name, size);
        break;
    case 2:
    case 3:
        memory_region_init_io(mr, NULL, o, mr, name, size);
        break;
    case 4:
        ok = memory_region_init_ram(mr, NULL, name, 1 + size % RAM_MAX, &error);
        break;
    case 5:
        ok = memory_region_init_rom(mr, NULL, name, 1 + size % RAM_MAX, &error);
        break;
    case 6:
        ok = memory_region_init_rom_device(mr, NULL, o, mr, name, 1 + size % RAM_MAX, &error);
        break;
    default: {
        MemoryRegion *target = &regions[fuzz_u8(in) % REGIONS];

        if (target->name && target != mr) {
            memory_region_init_alias(mr, NULL, name, target, fuzz_odd(in), size);
        } else {
            memory_region_init(mr, NULL, name, size);
        }
        break;
    }
    }
    fuzz_outcome(ok, error);
    if (!ok) {
        memset(mr, 0, sizeof(*mr));
    }
}

static void change(FuzzInput *in, MemoryRegion *mr, uint8_t how)
{
    switch (how % 11) {
    case 0:
        memory_region_set_enabled(mr, fuzz_u8(in) & 1);
        break;
    case 1:
        memory_region_set_address(mr, fuzz_odd(in));
        break;
    case 2: {
        MemoryKind kind = memory_region_kind(mr);
        uint64_t size = a_size(in);

        if (kind == MEMORY_CONTAINER || kind == MEMORY_ALIAS || kind == MEMORY_IO) {
            memory_region_set_size(mr, size);
        }
        break;
    }
    case 3:
        if (memory_region_kind(mr) == MEMORY_ALIAS) {
            memory_region_set_alias_offset(mr, fuzz_odd(in));
        }
        break;
    case 4:
        memory_region_set_readonly(mr, fuzz_u8(in) & 1);
        break;
    case 5:
        if (memory_region_kind(mr) == MEMORY_ROM_DEVICE) {
            memory_region_rom_device_set_romd(mr, fuzz_u8(in) & 1);
        }
        break;
    case 6: {
        MemoryRegionIoeventfd ev = { .range = { fuzz_odd(in), 1u << fuzz_u8(in) % 4 },
                                     .match_data = fuzz_u8(in) & 1,
                                     .data = fuzz_u8(in),
                                     .fd = event_fd };

        if (!mr->ioeventfds || mr->ioeventfds->len < 8) {
            memory_region_add_eventfd(mr, &ev);
        } else {
            ev = g_array_index(mr->ioeventfds, MemoryRegionIoeventfd, 0);
            memory_region_del_eventfd(mr, &ev);
        }
        break;
    }
    case 7: {
        hwaddr offset = fuzz_odd(in);

        memory_region_add_coalescing(mr, offset, a_size(in));
        break;
    }
    case 8:
        memory_region_clear_coalescing(mr);
        break;
    case 9:
        memory_region_set_log(mr, fuzz_u8(in) & 1, DIRTY_DISPLAY);
        break;
    default:
        if (mr->container) {
            memory_region_del_subregion(mr->container, mr);
        }
        break;
    }
}

static void add(FuzzInput *in)
{
    MemoryRegion *container = &regions[fuzz_u8(in) % REGIONS];
    MemoryRegion *mr = &regions[2 + fuzz_u8(in) % (REGIONS - 2)];
    uint8_t how = fuzz_u8(in);
    hwaddr addr = fuzz_odd(in);
    GError *error = NULL;

    if (!container->name || !mr->name || memory_region_kind(container) != MEMORY_CONTAINER) {
        return;
    }
    if (how & 1) {
        fuzz_outcome(memory_region_add_subregion_checked(container, addr, mr, (int8_t)how / 32,
                                                         how & 2, &error),
                     error);
    } else {
        memory_region_add_subregion_overlap(container, addr, mr, (int8_t)how / 32);
    }
}

static void bulk(FuzzInput *in, AddressSpace *as, hwaddr addr, bool write)
{
    uint8_t buf[96] = { 0 };
    uint64_t len = fuzz_u8(in) % sizeof(buf);

    if (write) {
        address_space_write(as, addr, MEMTXATTRS_NONE, buf, len);
        address_space_write_rom(as, addr, buf, len);
    } else {
        address_space_read(as, addr, MEMTXATTRS_NONE, buf, len);
    }
}

static void visit(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque)
{
    FUZZ_CHECK(mr->name && depth < 64);
}

static void step(FuzzInput *in, unsigned *open)
{
    uint8_t op = fuzz_u8(in);
    AddressSpace *as = spaces[op >> 7];
    unsigned n = 2 + fuzz_u8(in) % (REGIONS - 2);

    switch (op % 12) {
    case 0:
        make(in, n);
        break;
    case 1 ... 3:
        add(in);
        break;
    case 4 ... 6:
        if (regions[n].name) {
            change(in, &regions[n], op >> 3);
        }
        break;
    case 7:
        if (*open < 3) {
            memory_region_transaction_begin();
            (*open)++;
        }
        break;
    case 8:
        if (*open > 0) {
            memory_region_transaction_commit();
            (*open)--;
        }
        break;
    case 9: {
        hwaddr addr = fuzz_odd(in);
        uint64_t data = fuzz_u64(in);

        address_space_access(as, NULL, addr, MEMTXATTRS_NONE, &data, 1 + (op >> 4) % 8, op & 4);
        break;
    }
    case 10:
        bulk(in, as, fuzz_odd(in), op & 16);
        break;
    default: {
        hwaddr addr = fuzz_odd(in);

        g_free(address_space_describe(as, addr));
        memory_region_tree_foreach(address_space_root(as), visit, NULL);
        address_space_mark_dirty(as, addr, fuzz_u16(in));
        address_space_sync_dirty(as);
        break;
    }
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_engine_init();
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    shown = g_array_new(FALSE, FALSE, sizeof(FlatRange));
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs;
    FuzzInput in = { data, size };
    unsigned open = 0;

    memory_region_init(&regions[0], NULL, "root0", MEMORY_REGION_MAX);
    memory_region_init(&regions[1], NULL, "root1", 0x10000);
    spaces[0] = address_space_new(ADDRESS_SPACE_MEMORY, &regions[0], "memory");
    spaces[1] = address_space_new(ADDRESS_SPACE_IO, &regions[1], "io");
    memory_listener_register(&listener, spaces[0]);
    for (unsigned i = 0; i < STEPS_BOUND && in.left > 0; i++) {
        step(&in, &open);
        if (open == 0) {
            check_view(spaces[0], fuzz_odd(&in));
            check_view(spaces[1], fuzz_odd(&in));
        }
    }
    while (open-- > 0) {
        memory_region_transaction_commit();
    }
    check_view(spaces[0], 0);
    memory_listener_unregister(&listener);
    FUZZ_CHECK(shown->len == 0);
    address_space_free(spaces[0]);
    address_space_free(spaces[1]);
    for (unsigned i = REGIONS; i-- > 0;) {
        memory_region_finalize(&regions[i]);
    }
    if (++runs % 32 == 0) {
        fuzz_settle();
    }
    memset(regions, 0, sizeof(regions));
    return 0;
}
