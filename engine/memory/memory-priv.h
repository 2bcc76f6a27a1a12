/* What the files of engine/memory share. Not for others. */
#pragma once

#include "engine/core/lock.h"
#include "engine/core/rcu.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"

typedef struct ViewEventfd {
    MemoryRegionIoeventfd ev; /* range absolute */
    FlatRange range;
} ViewEventfd;

typedef struct ViewCoalesced {
    MemoryRange at; /* absolute, cut to what is visible */
    FlatRange range;
} ViewCoalesced;

/* A published view; `pub` is what readers see. */
typedef struct View {
    FlatView pub;
    unsigned n_eventfds, n_coalesced;
    ViewEventfd *eventfds;    /* sorted */
    ViewCoalesced *coalesced; /* sorted */
} View;

typedef struct Unassigned {
    UnassignedFn fn;
    void *opaque;
} Unassigned;

struct AddressSpace {
    View *view;             /* RCU; written under the engine lock */
    Unassigned *unassigned; /* RCU; never NULL */
    AddressSpaceKind kind;
    bool stale; /* engine lock: its tree changed in this transaction */
    MemoryRegion *root;
    char *name;
    GPtrArray *listeners; /* engine lock; of MemoryListener, rising priority */
};

/* flatview.c */
View *flat_view_render(MemoryRegion *root); /* engine lock */
void flat_view_free(View *view);
/* The orders that a view's eventfds and coalesced ranges are in. */
int memory_order_eventfds(const MemoryRegionIoeventfd *a, const MemoryRegionIoeventfd *b);
int memory_order_ranges(const MemoryRange *a, const MemoryRange *b);
/* Index of the first range that ends at or after addr; n when there is none. */
unsigned flat_view_lower_bound(const FlatView *view, hwaddr addr);

/* region.c: stamps every region that `mr` is part of, itself included, upwards through containers
 * and aliases; returns the stamp. */
uint32_t memory_region_stamp_up(MemoryRegion *mr);

/* address-space.c */
void address_spaces_mark_stale(uint32_t stamp); /* those with a stamped root */
void address_spaces_commit(void);

static inline __int128 memory_region_size128(const MemoryRegion *mr)
{
    return mr->size == MEMORY_REGION_MAX ? (__int128)1 << 64 : (__int128)mr->size;
}
/* Whether an access can be done with memcpy. */
static inline bool flat_range_is_direct(const FlatRange *r, bool is_write)
{
    if (!r->ram) {
        return false;
    }
    if (r->kind == MEMORY_ROM_DEVICE) {
        return !is_write && r->romd;
    }
    return !is_write || !r->readonly;
}
static inline uint8_t *flat_range_host(const FlatRange *r, hwaddr addr)
{
    return r->ram->host + r->offset + (addr - r->addr);
}
/* Largest power of two that is not above n. */
static inline unsigned floor_power_of_two(uint64_t n)
{
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

/* dispatch.c. In an RCU section: how much of an access from addr on is one access of a device, or
 * lies in one range of RAM. */
uint64_t memory_fragment(const View *view, hwaddr addr, uint64_t len, bool is_write);
/* Logs a write to ROM, and is its result. */
MemTxResult memory_refuse_write(const FlatRange *r, hwaddr addr, unsigned size, MemTxAttrs attrs);
