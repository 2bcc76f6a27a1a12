/*
 * Accesses of any length: copies from and to RAM, everything else in pieces through dispatch.c; and
 * RAM by pointer.
 */
#include <string.h>

#include "engine/memory/memory-priv.h"

/* ---- any length -------------------------------------------------------------------------- */

/*
 * What others write while it is copied is seen or not, as on a bus. ThreadSanitizer would call that
 * a race: for it the side that is RAM is read and written as atomic bytes.
 */
#ifdef RCU_TSAN
static void copy_from_ram(uint8_t *to, const uint8_t *ram, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        to[i] = __atomic_load_n(&ram[i], __ATOMIC_RELAXED);
    }
}

static void copy_to_ram(uint8_t *ram, const uint8_t *from, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        __atomic_store_n(&ram[i], from[i], __ATOMIC_RELAXED);
    }
}
#else
#define copy_from_ram memcpy
#define copy_to_ram   memcpy
#endif

/* So long a copy at most in one RCU section. */
#define COPY_CHUNK (UINT64_C(4) << 20)

typedef enum { BULK_READ, BULK_WRITE, BULK_WRITE_ROM } BulkKind;

static bool bulk_direct(const FlatRange *r, BulkKind kind)
{
    if (kind == BULK_WRITE_ROM) {
        return r->ram && !r->ram->readonly;
    }
    return flat_range_is_direct(r, kind == BULK_WRITE);
}

static MemTxResult bulk(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, uint8_t *buf,
                        const uint8_t *from, uint64_t len, BulkKind kind)
{
    MemoryCache cache = { 0 };
    MemTxResult res = MEMTX_OK;
    uint64_t n;

    for (uint64_t done = 0; done < len; done += n) {
        hwaddr at = addr + done;
        const View *view;
        const FlatRange *r;
        uint64_t v = 0;

        if (at < addr) {
            if (kind == BULK_READ) {
                memset(buf + done, 0xff, len - done);
            }
            return res | MEMTX_DECODE_ERROR;
        }
        rcu_enter();
        view = rcu_load(&as->view);
        r = flat_view_find(&view->pub, at);
        if (r && bulk_direct(r, kind)) {
            n = MIN(MIN(len - done - 1, r->last - at), COPY_CHUNK - 1) + 1;
            if (kind == BULK_READ) {
                copy_from_ram(buf + done, flat_range_host(r, at), n);
            } else {
                copy_to_ram(flat_range_host(r, at), from + done, n);
                ram_block_set_dirty(r->ram, r->offset + (at - r->addr), n);
            }
            rcu_leave();
            continue;
        }
        if (kind == BULK_WRITE_ROM || (kind == BULK_WRITE && r && r->readonly)) {
            /* To the end of the range or gap, all at once. */
            unsigned i = flat_view_lower_bound(&view->pub, at);
            uint64_t last = r                 ? r->last
                            : i < view->pub.n ? view->pub.ranges[i].addr - 1
                                              : UINT64_MAX;

            n = MIN(len - done - 1, last - at) + 1;
            if (kind == BULK_WRITE) {
                res |= memory_refuse_write(r, at, (unsigned)MIN(n, UINT_MAX), attrs);
            } else {
                res |= r && r->ram ? MEMTX_ERROR : MEMTX_DECODE_ERROR;
            }
            rcu_leave();
            continue;
        }
        n = memory_fragment(view, at, len - done, kind == BULK_WRITE);
        rcu_leave();
        n = floor_power_of_two(n); /* the view may have changed: access looks again */
        if (kind == BULK_WRITE) {
            memcpy(&v, from + done, n);
            v = GUINT64_FROM_LE(v);
        }
        res |= address_space_access(as, &cache, at, attrs, &v, (unsigned)n, kind == BULK_WRITE);
        if (kind == BULK_READ) {
            v = GUINT64_TO_LE(v);
            memcpy(buf + done, &v, n);
        }
    }
    return res;
}

MemTxResult address_space_read(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, void *buf,
                               uint64_t len)
{
    return bulk(as, addr, attrs, buf, NULL, len, BULK_READ);
}

MemTxResult address_space_write(AddressSpace *as, hwaddr addr, MemTxAttrs attrs, const void *buf,
                                uint64_t len)
{
    return bulk(as, addr, attrs, NULL, buf, len, BULK_WRITE);
}

MemTxResult address_space_write_rom(AddressSpace *as, hwaddr addr, const void *buf, uint64_t len)
{
    return bulk(as, addr, MEMTXATTRS_DEBUG, NULL, buf, len, BULK_WRITE_ROM);
}

/* ---- RAM by pointer ---------------------------------------------------------------------- */

void *address_space_translate_ram(AddressSpace *as, hwaddr addr, uint64_t *len, bool is_write)
{
    void *host = NULL;
    const FlatRange *r;

    rcu_enter();
    r = flat_view_find(&rcu_load(&as->view)->pub, addr);
    if (r && *len && flat_range_is_direct(r, is_write)) {
        *len = MIN(*len - 1, r->last - addr) + 1;
        host = flat_range_host(r, addr);
    }
    rcu_leave();
    return host;
}

void address_space_mark_dirty(AddressSpace *as, hwaddr addr, uint64_t len)
{
    const FlatView *view;
    uint64_t last;

    if (!len) {
        return;
    }
    last = len - 1 > UINT64_MAX - addr ? UINT64_MAX : addr + len - 1;
    rcu_enter();
    view = &rcu_load(&as->view)->pub;
    for (unsigned i = flat_view_lower_bound(view, addr); i < view->n; i++) {
        const FlatRange *r = &view->ranges[i];
        hwaddr lo = MAX(r->addr, addr);
        uint64_t hi = MIN(r->last, last);

        if (r->addr > last) {
            break;
        }
        if (r->ram) {
            ram_block_set_dirty(r->ram, r->offset + (lo - r->addr), hi - lo + 1);
        }
    }
    rcu_leave();
}
