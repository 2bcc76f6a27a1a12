/*
 * Flat views: a tree of regions rendered into sorted, disjoint ranges.
 *
 * The tree is walked once in order of precedence, which gives the visible leaves as pieces: of two
 * pieces that overlap, the earlier one wins. A sweep over the pieces sorted by address, with the
 * pieces that are open at the present address in a heap by precedence, then cuts them into ranges:
 * O(n log n) in the number of leaves, whatever overlaps what.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/log.h"
#include "engine/memory/memory-priv.h"

/* Bounds on what a script can make us render: no board comes near either. */
#define MAX_DEPTH 128
#define MAX_NODES (1u << 20)

typedef struct Piece {
    hwaddr addr;
    uint64_t last;
    MemoryRegion *mr;
    hwaddr offset;
    bool readonly;
} Piece;

typedef struct Key {
    hwaddr addr;
    unsigned piece; /* index: lower wins */
} Key;

/* Scratch space, kept between commits. Engine lock. */
static struct {
    Piece *pieces;
    Key *keys, *keys2;
    unsigned *heap;
    FlatRange *ranges; /* a sweep over n pieces gives at most 2n - 1 */
    unsigned n, cap;
    unsigned nodes;
    bool overflow;
} scratch;

static unsigned long last_generation = 1;

static void scratch_grow(void)
{
    scratch.cap = scratch.cap ? scratch.cap * 2 : 256;
    scratch.pieces = g_renew(Piece, scratch.pieces, scratch.cap);
    scratch.keys = g_renew(Key, scratch.keys, scratch.cap);
    scratch.keys2 = g_renew(Key, scratch.keys2, scratch.cap);
    scratch.heap = g_renew(unsigned, scratch.heap, scratch.cap);
    scratch.ranges = g_renew(FlatRange, scratch.ranges, 2 * scratch.cap);
}

/* `base` is where the region's byte 0 lies; it may be negative or beyond 2^64 (aliases, children
 * that stick out). [lo, hi] is what can be seen of it. */
static void collect(MemoryRegion *mr, __int128 base, __int128 lo, __int128 hi, bool readonly,
                    unsigned depth)
{
    __int128 last = base + memory_region_size128(mr) - 1;

    if (!mr->enabled) {
        return;
    }
    lo = MAX(lo, base);
    hi = MIN(hi, last);
    if (lo > hi) {
        return;
    }
    if (depth > MAX_DEPTH || ++scratch.nodes > MAX_NODES) {
        scratch.overflow = true;
        return;
    }
    readonly |= mr->readonly;
    if (mr->kind == MEMORY_CONTAINER) {
        for (guint i = 0; mr->subregions && i < mr->subregions->len && !scratch.overflow; i++) {
            MemoryRegion *child = g_ptr_array_index(mr->subregions, i);

            collect(child, base + child->addr, lo, hi, readonly, depth + 1);
        }
    } else if (mr->kind == MEMORY_ALIAS) {
        if (mr->alias) {
            collect(mr->alias, base - mr->alias_offset, lo, hi, readonly, depth + 1);
        }
    } else {
        if (scratch.n == scratch.cap) {
            scratch_grow();
        }
        scratch.pieces[scratch.n++] = (Piece){
            .addr = (hwaddr)lo,
            .last = (uint64_t)hi,
            .mr = mr,
            .offset = (hwaddr)(lo - base),
            .readonly = readonly || mr->kind == MEMORY_ROM,
        };
    }
}

/* Stable merge sort; boards give mostly sorted or reversed input, which costs one pass. */
static Key *sort_keys(unsigned n)
{
    Key *from = scratch.keys, *to = scratch.keys2, *swap;
    bool rising = true, falling = true;

    for (unsigned i = 1; i < n; i++) {
        rising &= from[i - 1].addr <= from[i].addr;
        falling &= from[i - 1].addr > from[i].addr;
    }
    if (rising) {
        return from;
    }
    if (falling) {
        for (unsigned i = 0; i < n; i++) {
            to[i] = from[n - 1 - i];
        }
        return to;
    }
    for (unsigned width = 1; width < n; width *= 2) {
        for (unsigned start = 0; start < n; start += 2 * width) {
            unsigned i = start, mid = MIN(start + width, n), j = mid;
            unsigned end = MIN(start + 2 * width, n);

            for (unsigned k = start; k < end; k++) {
                if (i < mid && (j >= end || from[i].addr <= from[j].addr)) {
                    to[k] = from[i++];
                } else {
                    to[k] = from[j++];
                }
            }
        }
        swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static void heap_push(unsigned *n, unsigned piece)
{
    unsigned *heap = scratch.heap, i = (*n)++;

    while (i && heap[(i - 1) / 2] > piece) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = piece;
}

static void heap_pop(unsigned *n)
{
    unsigned *heap = scratch.heap, piece = heap[--(*n)], i = 0, child;

    while ((child = 2 * i + 1) < *n) {
        if (child + 1 < *n && heap[child + 1] < heap[child]) {
            child++;
        }
        if (heap[child] >= piece) {
            break;
        }
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = piece;
}

static unsigned emit(unsigned n, const Piece *p, hwaddr addr, uint64_t last)
{
    FlatRange *prev = n ? &scratch.ranges[n - 1] : NULL;
    hwaddr offset = p->offset + (addr - p->addr);

    if (prev && prev->mr == p->mr && prev->last + 1 == addr && prev->readonly == p->readonly &&
        prev->offset + (addr - prev->addr) == offset) {
        prev->last = last;
        return n;
    }
    scratch.ranges[n] = (FlatRange){
        .addr = addr,
        .last = last,
        .mr = p->mr,
        .offset = offset,
        .id = p->mr->id,
        .owner = p->mr->owner,
        .name = p->mr->name,
        .ram = p->mr->ram,
        .ops = p->mr->ops,
        .opaque = p->mr->opaque,
        .kind = p->mr->kind,
        .lockless = p->mr->lockless,
        .readonly = p->readonly,
        .romd = p->mr->kind == MEMORY_ROM_DEVICE && p->mr->romd_mode,
        .dirty_clients = p->mr->dirty_clients,
    };
    p->mr->mapped_once = true;
    return n + 1;
}

static unsigned sweep(const Key *keys)
{
    unsigned open = 0, next = 0, out = 0;
    hwaddr pos = 0;

    for (;;) {
        const Piece *top;
        bool cut = false;

        while (open && scratch.pieces[scratch.heap[0]].last < pos) {
            heap_pop(&open);
        }
        if (!open) {
            if (next == scratch.n) {
                return out;
            }
            pos = keys[next].addr;
            heap_push(&open, keys[next++].piece);
        }
        top = &scratch.pieces[scratch.heap[0]];
        /* What begins under `top` waits in the heap; what begins above it cuts it here. */
        while (next < scratch.n && keys[next].addr <= top->last) {
            unsigned piece = keys[next].piece;

            if (piece < scratch.heap[0]) {
                if (keys[next].addr > pos) {
                    out = emit(out, top, pos, keys[next].addr - 1);
                    pos = keys[next].addr;
                }
                heap_push(&open, piece);
                next++;
                cut = true;
                break;
            }
            if (scratch.pieces[piece].last > top->last) {
                heap_push(&open, piece);
            }
            next++;
        }
        if (cut) {
            continue;
        }
        out = emit(out, top, pos, top->last);
        if (top->last == UINT64_MAX) {
            return out;
        }
        pos = top->last + 1;
    }
}

#define ORDER(x, y)                    \
    do {                               \
        if ((x) != (y)) {              \
            return (x) < (y) ? -1 : 1; \
        }                              \
    } while (0)

int memory_order_eventfds(const MemoryRegionIoeventfd *a, const MemoryRegionIoeventfd *b)
{
    ORDER(a->range.addr, b->range.addr);
    ORDER(a->range.size, b->range.size);
    ORDER(a->match_data, b->match_data);
    ORDER(a->data, b->data);
    ORDER(a->fd, b->fd);
    return 0;
}

int memory_order_ranges(const MemoryRange *a, const MemoryRange *b)
{
    ORDER(a->addr, b->addr);
    ORDER(a->size, b->size);
    return 0;
}

static int compare_eventfds(const void *pa, const void *pb)
{
    return memory_order_eventfds(&((const ViewEventfd *)pa)->ev, &((const ViewEventfd *)pb)->ev);
}

static int compare_coalesced(const void *pa, const void *pb)
{
    return memory_order_ranges(&((const ViewCoalesced *)pa)->at, &((const ViewCoalesced *)pb)->at);
}

static void collect_extras(View *view)
{
    GArray *evs = NULL, *cos = NULL;

    for (unsigned i = 0; i < view->pub.n; i++) {
        const FlatRange *r = &view->pub.ranges[i];
        uint64_t first = r->offset, last = r->offset + (r->last - r->addr);

        for (guint k = 0; r->mr->ioeventfds && k < r->mr->ioeventfds->len; k++) {
            ViewEventfd e = { .ev = g_array_index(r->mr->ioeventfds, MemoryRegionIoeventfd, k),
                              .range = *r };
            uint64_t span = MAX(e.ev.range.size, 1) - 1;

            if (e.ev.range.addr < first || e.ev.range.addr > last ||
                span > last - e.ev.range.addr) {
                continue;
            }
            e.ev.range.addr = e.ev.range.addr - first + r->addr;
            evs = evs ? evs : g_array_new(FALSE, FALSE, sizeof(e));
            g_array_append_val(evs, e);
        }
        for (guint k = 0; r->mr->coalesced && k < r->mr->coalesced->len; k++) {
            MemoryRange m = g_array_index(r->mr->coalesced, MemoryRange, k);
            uint64_t mlast = m.size - 1 > UINT64_MAX - m.addr ? UINT64_MAX : m.addr + m.size - 1;
            uint64_t lo = MAX(m.addr, first), hi = MIN(mlast, last);
            ViewCoalesced c = { .range = *r };

            if (lo > hi) {
                continue;
            }
            c.at = (MemoryRange){ .addr = lo - first + r->addr,
                                  .size = hi - lo == UINT64_MAX ? UINT64_MAX : hi - lo + 1 };
            cos = cos ? cos : g_array_new(FALSE, FALSE, sizeof(c));
            g_array_append_val(cos, c);
        }
    }
    if (evs) {
        view->n_eventfds = evs->len;
        view->eventfds = (ViewEventfd *)(void *)g_array_free(evs, FALSE);
        qsort(view->eventfds, view->n_eventfds, sizeof(ViewEventfd), compare_eventfds);
    }
    if (cos) {
        view->n_coalesced = cos->len;
        view->coalesced = (ViewCoalesced *)(void *)g_array_free(cos, FALSE);
        qsort(view->coalesced, view->n_coalesced, sizeof(ViewCoalesced), compare_coalesced);
    }
}

View *flat_view_render(MemoryRegion *root)
{
    View *view = g_new0(View, 1);
    const Key *keys;

    scratch.n = scratch.nodes = 0;
    scratch.overflow = false;
    collect(root, 0, 0, UINT64_MAX, false, 0);
    if (scratch.overflow) {
        log_warning("the memory tree '%s' is too deep or too large: parts of it are left out",
                    root->name);
    }
    for (unsigned i = 0; i < scratch.n; i++) {
        scratch.keys[i] = (Key){ .addr = scratch.pieces[i].addr, .piece = i };
    }
    keys = sort_keys(scratch.n);
    view->pub.n = sweep(keys);
    view->pub.generation = __atomic_add_fetch(&last_generation, 1, __ATOMIC_RELAXED);
    view->pub.ranges = g_memdup2(scratch.ranges, view->pub.n * sizeof(FlatRange));
    collect_extras(view);
    return view;
}

void flat_view_free(View *view)
{
    if (view) {
        g_free(view->pub.ranges);
        g_free(view->eventfds);
        g_free(view->coalesced);
        g_free(view);
    }
}

unsigned flat_view_lower_bound(const FlatView *view, hwaddr addr)
{
    const FlatRange *base = view->ranges;
    unsigned n = view->n;

    /* Without a branch that depends on the data: the loop runs log2(n) times for any address. */
    if (!n) {
        return 0;
    }
    while (n > 1) {
        unsigned half = n / 2;

        base = base[half - 1].last < addr ? base + half : base;
        n -= half;
    }
    return (unsigned)(base - view->ranges) + (base->last < addr);
}

const FlatRange *flat_view_find(const FlatView *view, hwaddr addr)
{
    unsigned i = flat_view_lower_bound(view, addr);

    return i < view->n && view->ranges[i].addr <= addr ? &view->ranges[i] : NULL;
}
