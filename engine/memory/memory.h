/*
 * The memory model: trees of regions, address spaces, flat views, access dispatch.
 *
 * A MemoryRegion is a node of a tree: container, RAM, ROM, ROM-device, I/O or alias, with a
 * priority among its siblings. An AddressSpace renders a root region into a FlatView: sorted,
 * disjoint ranges, found by binary search or the caller's last hit. Views are published under RCU:
 * readers never take a lock, writers hold the engine lock and commit a transaction once.
 *
 * Addresses are hwaddr (uint64_t). Sizes are uint64_t bytes; a region of 2^64 bytes is
 * MEMORY_REGION_MAX and covers everything.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/qom/object.h"

typedef uint64_t hwaddr;
typedef struct MemoryRegion MemoryRegion;
typedef struct AddressSpace AddressSpace;
typedef struct FlatView FlatView;
typedef struct FlatRange FlatRange;
typedef struct MemoryListener MemoryListener;
typedef struct RamBlock RamBlock;

#define MEMORY_REGION_MAX UINT64_MAX /* stands for 2^64 */

/* Result of an access; several fragments are OR-ed. */
typedef enum {
    MEMTX_OK = 0,
    MEMTX_ERROR = 1 << 0,        /* the device refused */
    MEMTX_DECODE_ERROR = 1 << 1, /* nothing there, or not of this size */
} MemTxResult;

typedef struct MemTxAttrs {
    int16_t cpu;        /* index of the vCPU that accesses, -1: not a vCPU */
    uint16_t requester; /* PCI bus/device/function of a bus master; 0 otherwise */
    bool debug; /* from a script or debugger: no side effects wanted, no logging of unassigned */
} MemTxAttrs;
#define MEMTXATTRS_NONE  ((MemTxAttrs){ .cpu = -1 })
#define MEMTXATTRS_DEBUG ((MemTxAttrs){ .cpu = -1, .debug = true })

typedef enum { DEVICE_LITTLE_ENDIAN, DEVICE_BIG_ENDIAN } DeviceEndian;

/*
 * Handlers of an I/O region. `addr` is relative to the region, `size` 1, 2, 4 or 8, data in the low
 * bytes. Called with the engine lock unless the region is lockless. Use either read/write or the
 * _attrs forms.
 */
typedef struct MemoryRegionOps {
    uint64_t (*read)(void *opaque, hwaddr addr, unsigned size);
    void (*write)(void *opaque, hwaddr addr, uint64_t data, unsigned size);
    MemTxResult (*read_attrs)(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                              MemTxAttrs attrs);
    MemTxResult (*write_attrs)(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                               MemTxAttrs attrs);
    /* May be NULL. A read without effects, of what atomics show: without the engine lock, in an RCU
     * section. False: not this one, it goes to `read`. For what guests poll. */
    bool (*read_now)(void *opaque, hwaddr addr, unsigned size, uint64_t *data);
    DeviceEndian endianness;
    /* What a guest may do; outside it the access is MEMTX_DECODE_ERROR and logged. 0 means 1 and 8
     * (max 4 for port I/O anyway). */
    struct {
        unsigned min_access_size, max_access_size;
        bool unaligned;
        bool (*accepts)(void *opaque, hwaddr addr, unsigned size, bool is_write, MemTxAttrs attrs);
    } valid;
    /* What the handlers implement (0 means 1 and 8). The core splits wider accesses; for narrower
     * ones it reads the whole aligned unit and extracts, and a narrower write reads the unit,
     * merges and writes it back: a device whose reads have side effects sets valid.min_access_size
     * too. */
    struct {
        unsigned min_access_size, max_access_size;
        bool unaligned;
    } impl;
} MemoryRegionOps;

typedef enum {
    MEMORY_CONTAINER,
    MEMORY_RAM,
    MEMORY_ROM, /* RAM that the guest cannot write; writes are ignored and logged as guest errors */
    MEMORY_ROM_DEVICE, /* reads from RAM while in ROMD mode, writes (and reads outside ROMD mode) go
                          to ops */
    MEMORY_IO,
    MEMORY_ALIAS,
} MemoryKind;

/* Dirty log clients, one bit each. */
enum {
    DIRTY_SNAPSHOT = 1 << 0, /* state/ */
    DIRTY_DISPLAY = 1 << 1,
    DIRTY_CODE = 1 << 2, /* translated or decoded code of the software CPU */
    DIRTY_CLIENTS = 3,
};

/* Embedded in its owner; fields are private to engine/memory except where noted. */
struct MemoryRegion {
    MemoryKind kind;
    bool enabled, readonly, romd_mode, lockless, may_overlap;
    bool mapped_once;      /* a view has shown it: readers may still do so for a grace period */
    uint8_t dirty_clients; /* atomic: clients that log this region */
    uint32_t visit;        /* stamp of the last walk up the tree */
    int32_t priority;
    uint64_t id; /* unique in the process for each init, so that a struct used anew is not mistaken
                    for the region that it was */
    char *name;
    Object *owner; /* keeps the memory of this struct; referenced by views that show the region. May
                      be NULL for regions that outlive every address space */
    hwaddr addr;   /* in its container */
    uint64_t size;
    MemoryRegion *container;
    GPtrArray *subregions; /* highest priority first; equal priority: last added first */
    const MemoryRegionOps *ops;
    void *opaque;
    RamBlock *ram;
    MemoryRegion *alias;
    hwaddr alias_offset;
    GPtrArray *aliases; /* regions that are aliases of this one */
    GArray *ioeventfds; /* of MemoryRegionIoeventfd */
    GArray *coalesced;  /* of MemoryRange */
};

typedef struct MemoryRange {
    hwaddr addr;
    uint64_t size;
} MemoryRange;
typedef struct MemoryRegionIoeventfd {
    MemoryRange range; /* size 0: any size */
    bool match_data;
    uint64_t data;
    int fd; /* an eventfd; the caller keeps it open until removed */
} MemoryRegionIoeventfd;

/* ---- making regions (none is in an address space yet; no lock needed) -------------------- */

/* `name` is copied. size 0 is refused by assertion: sizes that come from scripts are checked in the
 * bindings. */
void memory_region_init(MemoryRegion *mr, Object *owner, const char *name, uint64_t size);
void memory_region_init_io(MemoryRegion *mr, Object *owner, const MemoryRegionOps *ops,
                           void *opaque, const char *name, uint64_t size);
/* Anonymous RAM. Fails when the host has not enough address space. */
bool memory_region_init_ram(MemoryRegion *mr, Object *owner, const char *name, uint64_t size,
                            GError **error);
/* RAM of a block (a back end's or a shared one); takes its own reference. */
void memory_region_init_ram_block(MemoryRegion *mr, Object *owner, const char *name,
                                  RamBlock *block);
bool memory_region_init_rom(MemoryRegion *mr, Object *owner, const char *name, uint64_t size,
                            GError **error);
bool memory_region_init_rom_device(MemoryRegion *mr, Object *owner, const MemoryRegionOps *ops,
                                   void *opaque, const char *name, uint64_t size, GError **error);
/* As above over RAM that is there already (shadow RAM, flash): reads come from it while in ROMD
 * mode, writes go to ops. Takes its own reference. */
void memory_region_init_rom_device_block(MemoryRegion *mr, Object *owner,
                                         const MemoryRegionOps *ops, void *opaque, const char *name,
                                         RamBlock *block);
void memory_region_init_alias(MemoryRegion *mr, Object *owner, const char *name, MemoryRegion *orig,
                              hwaddr offset, uint64_t size);
/* Frees what init made. Should not be in a container any more, nor contain anything; where it does
 * (a device that dies with a hidden region mapped) it is taken out. Aliases of it show nothing from
 * then on. Views that still show a region keep its owner alive, so an owner calls this from its
 * instance_finalize; RAM goes after a grace period. Does nothing on a zeroed struct. Engine lock
 * once it was in a tree. */
void memory_region_finalize(MemoryRegion *mr);

/* ---- changing the tree (engine lock) ----------------------------------------------------- */

/* Nests; listeners and views are updated once, at the outermost commit. */
void memory_region_transaction_begin(void);
void memory_region_transaction_commit(void);

/* Overlap with an enabled sibling of the same priority is a mistake of the board: warned about in
 * LOG_MEMORY by the first, refused by the checked form (false + error naming both and the range)
 * unless one was added with memory_region_add_subregion_overlap. A region that has a container
 * already, or that would become part of itself (also through aliases), is refused by all: the
 * unchecked forms warn. The checked form also refuses what lies wholly outside of the container. A
 * move keeps the place among siblings of the same priority. */
void memory_region_add_subregion(MemoryRegion *container, hwaddr addr, MemoryRegion *mr);
void memory_region_add_subregion_overlap(MemoryRegion *container, hwaddr addr, MemoryRegion *mr,
                                         int priority);
bool memory_region_add_subregion_checked(MemoryRegion *container, hwaddr addr, MemoryRegion *mr,
                                         int priority, bool may_overlap, GError **error);
void memory_region_del_subregion(MemoryRegion *container, MemoryRegion *mr);
void memory_region_set_enabled(MemoryRegion *mr, bool enabled);
void memory_region_set_address(MemoryRegion *mr, hwaddr addr);
void memory_region_set_size(MemoryRegion *mr, uint64_t size);
void memory_region_set_alias_offset(MemoryRegion *mr, hwaddr offset);
void memory_region_set_readonly(MemoryRegion *mr, bool readonly);
void memory_region_rom_device_set_romd(MemoryRegion *mr, bool romd_mode);
/* Handlers then run without the engine lock, on any vCPU thread at once, inside an RCU section:
 * they may not wait for the lock or for a grace period. */
void memory_region_set_lockless(MemoryRegion *mr);
/* An eventfd is told to listeners while its whole range is visible. Both make no copy of the fd. */
void memory_region_add_eventfd(MemoryRegion *mr, const MemoryRegionIoeventfd *ev);
void memory_region_del_eventfd(MemoryRegion *mr, const MemoryRegionIoeventfd *ev);
/* Writes of the range may be buffered by the accelerator and delivered later, in order, before any
 * other exit. */
void memory_region_add_coalescing(MemoryRegion *mr, hwaddr offset, uint64_t size);
void memory_region_clear_coalescing(MemoryRegion *mr);

static inline const char *memory_region_name(const MemoryRegion *mr)
{
    return mr->name;
}
MemoryKind memory_region_kind(const MemoryRegion *mr);
const char *memory_region_kind_name(MemoryKind kind);
static inline bool memory_region_is_ram(const MemoryRegion *mr)
{
    return mr->kind == MEMORY_RAM || mr->kind == MEMORY_ROM;
}
void *memory_region_get_ram_ptr(MemoryRegion *mr); /* NULL when it has no RAM */

/* Dirty logging of one region for one client: switches logging in every address space that shows
 * it. An alias stands for its target; a region without RAM is left alone. Engine lock. */
void memory_region_set_log(MemoryRegion *mr, bool on, unsigned client);
void memory_region_set_dirty(MemoryRegion *mr, hwaddr offset, uint64_t size); /* any thread */
/* Fetches what the accelerators know (log_sync of listeners). Engine lock. */
void memory_region_sync_dirty(MemoryRegion *mr);
/* Atomically tests and clears; `offset` is within the region. */
bool memory_region_test_and_clear_dirty(MemoryRegion *mr, hwaddr offset, uint64_t size,
                                        unsigned client);

/* ---- address spaces ---------------------------------------------------------------------- */

typedef enum { ADDRESS_SPACE_MEMORY, ADDRESS_SPACE_IO, ADDRESS_SPACE_OTHER } AddressSpaceKind;

/* `root` outlives it. `name` is copied. Engine lock. */
AddressSpace *address_space_new(AddressSpaceKind kind, MemoryRegion *root, const char *name);
/* Its listeners are told region_del for everything and are removed. No thread accesses it any more.
 */
void address_space_free(AddressSpace *as);
const char *address_space_name(const AddressSpace *as);
MemoryRegion *address_space_root(const AddressSpace *as);
AddressSpaceKind address_space_kind(const AddressSpace *as);
/* Calls fn for each address space alive, in order of creation. Engine lock. */
void address_space_foreach(void (*fn)(AddressSpace *as, void *opaque), void *opaque);

/* References to owners that past views held are dropped on the main thread some time after a
 * commit. This does it now: waits for a grace period. Main thread, engine lock (given up
 * meanwhile), not in an RCU section or a handler; for tests and before process exit. */
void memory_reclaim(void);

/* Reads and writes any length and alignment, splitting at range ends and, in I/O regions, by what
 * is valid there. Takes the engine lock itself where a region needs it and this thread does not
 * hold it (so: not inside an RCU section). Unassigned reads give all ones. Writes to ROM are
 * ignored and MEMTX_ERROR. Marks RAM dirty. Bytes beyond 2^64 are MEMTX_DECODE_ERROR, they do not
 * wrap. */
MemTxResult address_space_read(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, void *buf,
                               uint64_t len);
MemTxResult address_space_write(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, const void *buf,
                                uint64_t len);
/* As write, but also into ROM, and never into I/O regions (those bytes are skipped and
 * MEMTX_DECODE_ERROR): for loaders and debuggers. */
MemTxResult address_space_write_rom(AddressSpace *as, hwaddr addr, const void *buf, uint64_t len);
uint64_t address_space_ldn(AddressSpace *as, hwaddr addr, unsigned size, MemTxAttrs attrs,
                           MemTxResult *res); /* little-endian */
void address_space_stn(AddressSpace *as, hwaddr addr, uint64_t val, unsigned size, MemTxAttrs attrs,
                       MemTxResult *res);

/* A caller's memo of where it last hit; zero it first. Valid for one address space. */
typedef struct MemoryCache {
    unsigned long generation;
    const FlatRange *range;
} MemoryCache;
/* The hot path of accelerators: one aligned or unaligned access of 1..8 bytes at `addr`, `*data`
 * little-endian value. Enters RCU, finds the range through `cache` (may be NULL), takes the engine
 * lock only where needed; not called inside an RCU section. A size that the region does not take is
 * MEMTX_DECODE_ERROR and reads as ones; an access over the end of a range is made in parts, each in
 * its region. Handlers that run under the lock are out of the RCU section and may change topology.
 * They may access memory themselves; where a guest makes them nest without end, the 17th is
 * MEMTX_ERROR. */
MemTxResult address_space_access(AddressSpace *as, MemoryCache *cache, hwaddr addr,
                                 MemTxAttrs attrs, uint64_t *data, unsigned size, bool is_write);
/* Host pointer to RAM at addr if [addr, addr+*len) starts in RAM (and is writable when is_write);
 * *len is cut at the end of the range. NULL otherwise. Valid inside the caller's RCU section, or
 * while the block is referenced. Writers call address_space_mark_dirty after. */
void *address_space_translate_ram(AddressSpace *as, hwaddr addr, uint64_t *len, bool is_write);
void address_space_mark_dirty(AddressSpace *as, hwaddr addr, uint64_t len);

/* What happens on an access that no region answers; returning true means handled (*data filled).
 * Called without taking the engine lock, in an RCU section, in which it may not wait for the lock.
 * NULL: all ones, writes ignored. Setting: engine lock. */
typedef bool (*UnassignedFn)(void *opaque, AddressSpace *as, hwaddr addr, uint64_t *data,
                             unsigned size, bool is_write, MemTxAttrs attrs);
void address_space_set_unassigned(AddressSpace *as, UnassignedFn fn, void *opaque);

/* ---- flat views -------------------------------------------------------------------------- */

struct FlatRange {
    hwaddr addr;
    uint64_t last;    /* inclusive: a range may end at 2^64-1 */
    MemoryRegion *mr; /* a leaf: RAM, ROM, ROM-device or I/O */
    hwaddr offset;    /* of addr within mr */
    uint64_t id;      /* of mr: ranges are the same only if this is */
    /* Of mr, for readers without the lock: a region's struct may be made anew by its owner while an
     * old view is still being read. */
    Object *owner;
    const char *name;
    RamBlock *ram;
    const MemoryRegionOps *ops;
    void *opaque;
    MemoryKind kind;
    bool lockless;
    bool readonly; /* ROM, or seen through something read-only: writes never reach it */
    bool romd;     /* a ROM device in ROMD mode */
    uint8_t dirty_clients;
};
struct FlatView {
    unsigned n;
    unsigned long generation; /* unique in the process, never 0 */
    FlatRange *ranges;        /* sorted by addr */
};
/* Inside rcu_enter/rcu_leave. */
const FlatView *address_space_flat_view(AddressSpace *as);
const FlatRange *flat_view_find(const FlatView *view, hwaddr addr); /* NULL: unassigned */

/* ---- listeners --------------------------------------------------------------------------- */

/* A piece of a flat view as a listener sees it. */
typedef struct MemorySection {
    AddressSpace *as;
    FlatRange range;
} MemorySection;

/*
 * Callbacks run at commit under the engine lock, for address spaces in which something changed, in
 * this order: begin; eventfd_del, coalesced_del; region_del; region_add or region_nop and then
 * log_start/log_stop, by rising address; eventfd_add, coalesced_add; commit. The new view is
 * already published; regions and RAM of the old one stay until every callback has returned. commit
 * gets the complete views: a listener that must not leave a window without RAM (memory slots of an
 * accelerator) works from them alone. A topology change made by a callback is committed after the
 * present one. Callbacks register and unregister no listeners.
 */
struct MemoryListener {
    void (*begin)(MemoryListener *l);
    void (*region_add)(MemoryListener *l, const MemorySection *s);
    void (*region_del)(MemoryListener *l, const MemorySection *s);
    void (*region_nop)(MemoryListener *l, const MemorySection *s); /* unchanged by this commit */
    void (*log_start)(MemoryListener *l, const MemorySection *s, uint8_t old_clients,
                      uint8_t new_clients);
    void (*log_stop)(MemoryListener *l, const MemorySection *s, uint8_t old_clients,
                     uint8_t new_clients);
    void (*log_sync)(MemoryListener *l, const MemorySection *s);
    void (*eventfd_add)(MemoryListener *l, const MemorySection *s,
                        const MemoryRegionIoeventfd *ev); /* ev->range: absolute */
    void (*eventfd_del)(MemoryListener *l, const MemorySection *s, const MemoryRegionIoeventfd *ev);
    void (*coalesced_add)(MemoryListener *l, const MemorySection *s, hwaddr addr, uint64_t len);
    void (*coalesced_del)(MemoryListener *l, const MemorySection *s, hwaddr addr, uint64_t len);
    void (*commit)(MemoryListener *l, const FlatView *old_view, const FlatView *new_view);
    int priority; /* region_add in rising order, region_del in falling */
    void *opaque;
    AddressSpace *as; /* set by register */
};
/* Registering replays the present view as additions; unregistering replays it as deletions. Engine
 * lock. */
void memory_listener_register(MemoryListener *l, AddressSpace *as);
void memory_listener_unregister(MemoryListener *l);

/* ---- introspection ----------------------------------------------------------------------- */

/* Depth-first over a region's tree, priority order, as `info mtree` prints it. `addr` is absolute.
 * Engine lock. */
typedef void (*MemoryTreeFn)(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque);
void memory_region_tree_foreach(MemoryRegion *root, MemoryTreeFn fn, void *opaque);
/* log_sync of everything that is logged in `as`. Engine lock. */
void address_space_sync_dirty(AddressSpace *as);
/* Finds what is at `addr`: for messages ("ram @ 0x1000", "com1 @ 0x3f8", "unassigned"). The caller
 * frees. */
char *address_space_describe(AddressSpace *as, hwaddr addr);
