/*
 * Access dispatch: from an address to RAM or to a device's handler.
 *
 * The hot path looks a range up under RCU and copies, or calls a lockless handler there. For a
 * handler under the engine lock it leaves the RCU section first (a handler may change topology, and
 * whoever holds the lock may wait for a grace period), takes the lock and looks again only if the
 * view has changed meanwhile. From then on the region stays: views change under the lock only, and
 * owners of regions that a handler removes are released later, on the main thread.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>

#include "engine/core/log.h"
#include "engine/memory/memory-priv.h"

static inline uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
}

static inline bool is_power_of_two(unsigned n)
{
    return !(n & (n - 1));
}

static inline uint64_t swap_bytes(uint64_t v, unsigned size)
{
    return __builtin_bswap64(v) >> (64 - 8 * size);
}

/* ---- RAM --------------------------------------------------------------------------------- */

/* Aligned accesses are single, as a guest expects of its memory. */
static inline uint64_t ram_load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    if (((uintptr_t)p & (size - 1)) == 0) {
        switch (size) {
        case 1:
            return __atomic_load_n(p, __ATOMIC_RELAXED);
        case 2:
            return GUINT16_FROM_LE(
                __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED));
        case 4:
            return GUINT32_FROM_LE(
                __atomic_load_n((const uint32_t *)(const void *)p, __ATOMIC_RELAXED));
        case 8:
            return GUINT64_FROM_LE(
                __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED));
        default:
            break;
        }
    }
    memcpy(&v, p, size);
    return GUINT64_FROM_LE(v);
}

static inline void ram_store(uint8_t *p, uint64_t data, unsigned size)
{
    uint64_t v = GUINT64_TO_LE(data);

    if (((uintptr_t)p & (size - 1)) == 0) {
        switch (size) {
        case 1:
            __atomic_store_n(p, (uint8_t)data, __ATOMIC_RELAXED);
            return;
        case 2:
            __atomic_store_n((uint16_t *)(void *)p, GUINT16_TO_LE((uint16_t)data),
                             __ATOMIC_RELAXED);
            return;
        case 4:
            __atomic_store_n((uint32_t *)(void *)p, GUINT32_TO_LE((uint32_t)data),
                             __ATOMIC_RELAXED);
            return;
        case 8:
            __atomic_store_n((uint64_t *)(void *)p, v, __ATOMIC_RELAXED);
            return;
        default:
            break;
        }
    }
    memcpy(p, &v, size);
}

/* ---- I/O handlers ------------------------------------------------------------------------ */

/* What a dispatch needs of a region, copied: a handler may take its region out and make the struct
 * anew while calls of the same access are still to come. */
typedef struct Target {
    const MemoryRegionOps *ops;
    void *opaque;
    const MemoryRegion *mr; /* identity and size only */
    Object *owner;
    const char *name;
} Target;

/* One call of a handler; `size` and `off` are what impl allows. *data is little-endian. */
static MemTxResult call_read(const Target *t, hwaddr off, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = t->ops;
    MemTxResult res = MEMTX_OK;
    uint64_t v = ones(size);

    if (ops->read) {
        v = ops->read(t->opaque, off, size);
    } else if (ops->read_attrs) {
        res = ops->read_attrs(t->opaque, off, &v, size, attrs);
    } else {
        if (!attrs.debug) {
            log_of(t->owner, LOG_GUEST,
                   "%s: read of %u bytes at offset 0x%" PRIx64 " of a write-only region", t->name,
                   size, off);
        }
        res = MEMTX_DECODE_ERROR;
    }
    v &= ones(size);
    *data = ops->endianness == DEVICE_BIG_ENDIAN ? swap_bytes(v, size) : v;
    return res;
}

static MemTxResult call_write(const Target *t, hwaddr off, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = t->ops;

    data &= ones(size);
    if (ops->endianness == DEVICE_BIG_ENDIAN) {
        data = swap_bytes(data, size);
    }
    if (ops->write) {
        ops->write(t->opaque, off, data, size);
        return MEMTX_OK;
    }
    if (ops->write_attrs) {
        return ops->write_attrs(t->opaque, off, data, size, attrs);
    }
    if (!attrs.debug) {
        log_of(t->owner, LOG_GUEST,
               "%s: write of %u bytes at offset 0x%" PRIx64 " of a read-only region", t->name, size,
               off);
    }
    return MEMTX_DECODE_ERROR;
}

static bool access_valid(const Target *t, hwaddr off, unsigned size, bool is_write,
                         MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = t->ops;
    unsigned max = ops->valid.max_access_size;

    if (size < ops->valid.min_access_size || (max && size > max)) {
        return false;
    }
    if (!ops->valid.unaligned && (off & (size - 1))) {
        return false;
    }
    return !ops->valid.accepts || ops->valid.accepts(t->opaque, off, size, is_write, attrs);
}

/* An access that the handlers do not implement as it is: in aligned units, or parts of units. */
static MemTxResult dispatch_adjusted(const Target *t, hwaddr off, uint64_t *data, unsigned size,
                                     bool is_write, MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = t->ops;
    unsigned min = MAX(ops->impl.min_access_size, 1);
    unsigned max = ops->impl.max_access_size ? ops->impl.max_access_size : 8;
    uint64_t in = *data, out = 0;
    MemTxResult res = MEMTX_OK;
    unsigned n;

    for (unsigned done = 0; done < size; done += n) {
        hwaddr at = off + done, base;
        unsigned unit = floor_power_of_two(MIN(size - done, max));
        unsigned shift;
        uint64_t v;

        while (!ops->impl.unaligned && (at & (unit - 1))) {
            unit /= 2;
        }
        if (unit >= min) {
            n = unit;
            if (is_write) {
                res |= call_write(t, at, in >> (8 * done), unit, attrs);
            } else {
                res |= call_read(t, at, &v, unit, attrs);
                out |= v << (8 * done);
            }
            continue;
        }
        base = at & ~(hwaddr)(min - 1);
        n = MIN(size - done, min - (unsigned)(at - base));
        shift = 8 * (unsigned)(at - base);
        if (min - 1 > __atomic_load_n(&t->mr->size, __ATOMIC_RELAXED) - 1 - base) {
            res |= MEMTX_DECODE_ERROR; /* a unit that sticks out of the region is none */
            out |= ones(n) << (8 * done);
            continue;
        }
        res |= call_read(t, base, &v, min, attrs);
        if (is_write) {
            v &= ~(ones(n) << shift);
            v |= ((in >> (8 * done)) & ones(n)) << shift;
            res |= call_write(t, base, v, min, attrs);
        } else {
            out |= ((v >> shift) & ones(n)) << (8 * done);
        }
    }
    if (!is_write) {
        *data = out;
    }
    return res;
}

/* A guest can point a bus master at a device's registers, its own too: handlers then nest. Real
 * boards nest two or three deep. */
#define MAX_NESTED 16

static __thread unsigned nested;

static MemTxResult refuse_nested(const Target *t, hwaddr off, uint64_t *data, unsigned size,
                                 bool is_write)
{
    log_of(t->owner, LOG_GUEST, "%s: access at offset 0x%" PRIx64 " refused: handlers nest %u deep",
           t->name, off, nested);
    if (!is_write) {
        *data = ones(size);
    }
    return MEMTX_ERROR;
}

/* `size` is a power of two; the whole access lies in the region. Under the lock, or lockless. */
static MemTxResult dispatch_io(const Target *t, hwaddr off, uint64_t *data, unsigned size,
                               bool is_write, MemTxAttrs attrs)
{
    const MemoryRegionOps *ops = t->ops;
    MemTxResult res;
    unsigned max;

    if (G_UNLIKELY(nested >= MAX_NESTED)) {
        return refuse_nested(t, off, data, size, is_write);
    }
    if (G_UNLIKELY(!access_valid(t, off, size, is_write, attrs))) {
        if (!attrs.debug) {
            log_of(t->owner, LOG_GUEST, "%s: invalid %s of %u bytes at offset 0x%" PRIx64, t->name,
                   is_write ? "write" : "read", size, off);
        }
        if (!is_write) {
            *data = ones(size);
        }
        return MEMTX_DECODE_ERROR;
    }
    max = ops->impl.max_access_size;
    nested++;
    if (G_LIKELY(size >= ops->impl.min_access_size && (!max || size <= max) &&
                 (ops->impl.unaligned || !(off & (size - 1))))) {
        res = is_write ? call_write(t, off, *data, size, attrs)
                       : call_read(t, off, data, size, attrs);
    } else {
        res = dispatch_adjusted(t, off, data, size, is_write, attrs);
    }
    nested--;
    return res;
}

static MemTxResult dispatch_unassigned(AddressSpace *as, hwaddr addr, uint64_t *data, unsigned size,
                                       bool is_write, MemTxAttrs attrs)
{
    const Unassigned *u = rcu_load(&as->unassigned);

    if (u->fn && u->fn(u->opaque, as, addr, data, size, is_write, attrs)) {
        if (!is_write) {
            *data &= ones(size);
        }
        return MEMTX_OK;
    }
    if (!attrs.debug && log_enabled(LOG_UNASSIGNED)) {
        if (is_write) {
            log_mask(LOG_UNASSIGNED,
                     "%s: unassigned write of %u bytes at 0x%" PRIx64 ", value 0x%" PRIx64,
                     as->name, size, addr, *data & ones(size));
        } else {
            log_mask(LOG_UNASSIGNED, "%s: unassigned read of %u bytes at 0x%" PRIx64, as->name,
                     size, addr);
        }
    }
    if (!is_write) {
        *data = ones(size);
    }
    return MEMTX_DECODE_ERROR;
}

MemTxResult memory_refuse_write(const FlatRange *r, hwaddr addr, unsigned size, MemTxAttrs attrs)
{
    if (!attrs.debug) {
        log_of(r->owner, LOG_GUEST, "%s: write of %u bytes to read-only memory at 0x%" PRIx64,
               r->name, size, addr);
    }
    return MEMTX_ERROR;
}

/* ---- one access within one range --------------------------------------------------------- */

static inline const FlatRange *lookup(const View *view, MemoryCache *cache, hwaddr addr)
{
    const FlatRange *r;

    if (cache && G_LIKELY(cache->generation == view->pub.generation)) {
        r = cache->range;
        if (G_LIKELY(addr - r->addr <= r->last - r->addr)) {
            return r;
        }
    }
    r = flat_view_find(&view->pub, addr);
    if (cache && r) {
        cache->generation = view->pub.generation;
        cache->range = r;
    }
    return r;
}

/* The eventfd that a write rings instead of calling the handler; -1: none. */
static int find_eventfd(const View *view, hwaddr addr, uint64_t data, unsigned size)
{
    unsigned lo = 0, hi = view->n_eventfds;

    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        if (view->eventfds[mid].ev.range.addr < addr) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    for (; lo < view->n_eventfds && view->eventfds[lo].ev.range.addr == addr; lo++) {
        const MemoryRegionIoeventfd *ev = &view->eventfds[lo].ev;
        if ((!ev->range.size || ev->range.size == size) &&
            (!ev->match_data || ev->data == (data & ones(size)))) {
            return ev->fd;
        }
    }
    return -1;
}

/* How much of [addr, addr + len) one fragment may take: up to the end of its range (or of the gap)
 * and, outside of RAM, one access that is valid there. */
uint64_t memory_fragment(const View *view, hwaddr addr, uint64_t len, bool is_write)
{
    unsigned i = flat_view_lower_bound(&view->pub, addr);
    const FlatRange *r = i < view->pub.n ? &view->pub.ranges[i] : NULL;
    uint64_t left; /* minus one */
    hwaddr off;
    unsigned n, max = 8;
    bool unaligned = false;

    if (r && r->addr <= addr) {
        left = r->last - addr;
        off = r->offset + (addr - r->addr);
        if (flat_range_is_direct(r, is_write) || (is_write && r->readonly)) {
            return len - 1 > left ? left + 1 : len;
        }
        max = r->ops->valid.max_access_size;
        max = max && max < 8 ? max : 8;
        unaligned = r->ops->valid.unaligned;
    } else {
        left = (r ? r->addr : 0) - 1 - addr;
        off = addr;
        unaligned = true;
    }
    n = floor_power_of_two(MIN(MIN(len - 1, left), (uint64_t)max - 1) + 1);
    while (!unaligned && (off & (n - 1))) {
        n /= 2;
    }
    return n;
}

static MemTxResult access_fragments(AddressSpace *as, MemoryCache *cache, hwaddr addr,
                                    MemTxAttrs attrs, uint64_t *data, unsigned size, bool is_write)
{
    MemTxResult res = MEMTX_OK;
    uint64_t out = 0;
    unsigned n;

    for (unsigned done = 0; done < size; done += n) {
        hwaddr at = addr + done;
        uint64_t v = *data >> (8 * done);

        if (at < addr) { /* beyond 2^64 */
            out |= ones(size - done) << (8 * done);
            res |= MEMTX_DECODE_ERROR;
            break;
        }
        rcu_enter();
        n = (unsigned)memory_fragment(rcu_load(&as->view), at, size - done, is_write);
        rcu_leave();
        n = floor_power_of_two(n);
        res |= address_space_access(as, cache, at, attrs, &v, n, is_write);
        out |= (v & ones(n)) << (8 * done);
    }
    if (!is_write) {
        *data = out;
    }
    return res;
}

MemTxResult address_space_access(AddressSpace *as, MemoryCache *cache, hwaddr addr,
                                 MemTxAttrs attrs, uint64_t *data, unsigned size, bool is_write)
{
    MemTxResult res;
    bool locked = false; /* by us */

    for (;;) {
        const View *view;
        const FlatRange *r;
        unsigned long generation;
        Target t;
        hwaddr off;
        int eventfd = -1;

        rcu_enter();
        view = rcu_load(&as->view);
        r = lookup(view, cache, addr);
        if (G_UNLIKELY(!r)) {
            /* A single access if it ends before the next range and before 2^64. */
            if (!is_power_of_two(size) || size - 1 > UINT64_MAX - addr ||
                memory_fragment(view, addr, size, is_write) < size) {
                goto fragments;
            }
            res = dispatch_unassigned(as, addr, data, size, is_write, attrs);
            rcu_leave();
            break;
        }
        if (G_UNLIKELY(size - 1 > r->last - addr)) {
            goto fragments;
        }
        if (flat_range_is_direct(r, is_write)) {
            uint8_t *host = flat_range_host(r, addr);

            if (is_write) {
                ram_store(host, *data, size);
                ram_block_set_dirty(r->ram, r->offset + (addr - r->addr), size);
            } else {
                *data = ram_load(host, size);
            }
            rcu_leave();
            res = MEMTX_OK;
            break;
        }
        if (G_UNLIKELY(is_write && r->readonly)) {
            res = memory_refuse_write(r, addr, size, attrs);
            rcu_leave();
            break;
        }
        if (G_UNLIKELY(!is_power_of_two(size))) {
            goto fragments;
        }
        t = (Target){
            .ops = r->ops, .opaque = r->opaque, .mr = r->mr, .owner = r->owner, .name = r->name
        };
        off = r->offset + (addr - r->addr);
        /* Accelerators that know of eventfds never get here; the rest, and hooked ranges, do. */
        if (G_UNLIKELY(is_write && view->n_eventfds)) {
            eventfd = find_eventfd(view, addr, *data, size);
        }
        if (!is_write && t.ops->read_now && t.ops->read_now(t.opaque, off, size, data)) {
            rcu_leave();
            res = MEMTX_OK;
            break;
        }
        if (r->lockless && eventfd < 0) {
            res = dispatch_io(&t, off, data, size, is_write, attrs);
            rcu_leave();
            break;
        }
        generation = view->pub.generation;
        rcu_leave();
        if (!locked && !engine_lock_held()) {
            engine_lock();
            locked = true;
            if (G_UNLIKELY(as->view->pub.generation != generation)) {
                continue;
            }
        }
        if (G_UNLIKELY(eventfd >= 0)) {
            /* Under the lock the descriptor is still its owner's: it is taken out of the view
             * first. */
            eventfd_write(eventfd, 1);
            res = MEMTX_OK;
            break;
        }
        /* The lock may not be given up while a handler relies on it. */
        engine_no_unlock_begin();
        res = dispatch_io(&t, off, data, size, is_write, attrs);
        engine_no_unlock_end();
        break;
    fragments:
        rcu_leave();
        res = access_fragments(as, cache, addr, attrs, data, size, is_write);
        break;
    }
    if (locked) {
        engine_unlock();
    }
    return res;
}

uint64_t address_space_ldn(AddressSpace *as, hwaddr addr, unsigned size, MemTxAttrs attrs,
                           MemTxResult *res)
{
    uint64_t v = 0;
    MemTxResult r = address_space_access(as, NULL, addr, attrs, &v, size, false);

    if (res) {
        *res = r;
    }
    return v;
}

void address_space_stn(AddressSpace *as, hwaddr addr, uint64_t val, unsigned size, MemTxAttrs attrs,
                       MemTxResult *res)
{
    MemTxResult r = address_space_access(as, NULL, addr, attrs, &val, size, true);

    if (res) {
        *res = r;
    }
}
