/*
 * Accesses that KVM answers without an exit: ioeventfds (a write becomes a signal on a file
 * descriptor) and coalesced writes (kept in a ring until the next exit).
 *
 * Both are lifted from addresses that a hook watches, and come back when it is removed.
 *
 * The ring is one a VM, mapped behind every vCPU's run area. It is emptied under the engine lock,
 * before any other exit is handled, so a device sees all accesses in the guest's order.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

static bool set_ioeventfd(KvmAccel *a, const KvmIoRange *r, bool assign)
{
    struct kvm_ioeventfd k = {
        .addr = r->addr,
        .len = (uint32_t)r->len,
        .fd = r->ev.fd,
        .datamatch = r->ev.data,
        .flags = (r->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (r->ev.match_data ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return kvm_ioctl(a, a->vm_fd, KVM_IOEVENTFD, &k) == 0;
}

static bool set_coalesced(KvmAccel *a, const KvmIoRange *r, bool on)
{
    struct kvm_coalesced_mmio_zone z = { .addr = r->addr, .size = (uint32_t)r->len, .pio = r->pio };
    return kvm_ioctl(a, a->vm_fd, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO,
                     &z) == 0;
}

static bool can_register(const KvmAccel *a, const KvmIoRange *r)
{
    if (r->coalesced) {
        return kvm_has(a, r->pio ? KC_COALESCED_PIO : KC_COALESCED_MMIO) && r->len <= UINT32_MAX;
    }
    /* An eventfd for "any size" has length 0, and then no data to match. */
    return kvm_has(a, KC_IOEVENTFD) &&
           (r->len == 0 ? kvm_has(a, KC_IOEVENTFD_ANY_LENGTH)
                        : r->len == 1 || r->len == 2 || r->len == 4 || r->len == 8);
}

static bool watched(const KvmAccel *a, const KvmIoRange *r)
{
    uint64_t last = r->addr + (r->len ? r->len - 1 : 7);
    if (last < r->addr) { /* any size, just below the end of memory */
        last = UINT64_MAX;
    }
    for (unsigned i = 0; i < a->armed->len; i++) {
        const EventFilter *f = &g_array_index(a->armed, EventFilter, i);
        if (f->source == (r->pio ? EVENT_PIO : EVENT_MMIO) && f->addr <= last &&
            kvm_filter_last(f) >= r->addr) {
            return true;
        }
    }
    return false;
}

/* What KVM does not take, or a hook watches, exits and is dispatched like any other write. true: a
 * coalesced range was lifted, and the ring is to be emptied of what came from it. That calls
 * devices, which may change the ranges: whoever does it looks at none that he has found before. */
static bool reevaluate(KvmAccel *a, KvmIoRange *r)
{
    bool want = a->vm_fd >= 0 && can_register(a, r) && !watched(a, r);
    if (want == r->registered) {
        return false;
    }
    bool ok = r->coalesced ? set_coalesced(a, r, want) : set_ioeventfd(a, r, want);
    if (!ok && want) {
        log_mask(LOG_MEMORY, "kvm: %s at %#llx: %s; it exits instead",
                 r->coalesced ? "coalescing" : "ioeventfd", (unsigned long long)r->addr,
                 g_strerror(errno));
    }
    r->registered = ok && want;
    return !want && r->coalesced;
}

void kvm_io_hooks_changed(KvmAccel *a)
{
    bool lifted = false;
    for (unsigned i = 0; i < a->io_ranges->len; i++) {
        lifted |= reevaluate(a, &g_array_index(a->io_ranges, KvmIoRange, i));
    }
    if (lifted) {
        kvm_coalesced_drain(a);
    }
}

static void add_range(KvmAccel *a, const KvmIoRange *r)
{
    g_array_append_val(a->io_ranges, *r);
    reevaluate(a, &g_array_index(a->io_ranges, KvmIoRange, a->io_ranges->len - 1));
}

static void remove_at(KvmAccel *a, unsigned i)
{
    KvmIoRange r = g_array_index(a->io_ranges, KvmIoRange, i);
    g_array_remove_index_fast(a->io_ranges, i);
    if (r.registered && a->vm_fd >= 0) {
        if (r.coalesced) {
            set_coalesced(a, &r, false);
            kvm_coalesced_drain(a);
        } else {
            set_ioeventfd(a, &r, false);
        }
    }
}

void kvm_io_forget(KvmAccel *a)
{
    while (a->io_ranges->len) {
        remove_at(a, a->io_ranges->len - 1);
    }
}

static bool is_pio(const MemoryListener *l)
{
    const KvmAccel *a = l->opaque;
    return l == &a->io_listener;
}

static KvmIoRange range_of_eventfd(const MemoryListener *l, const MemoryRegionIoeventfd *ev)
{
    return (
        KvmIoRange){ .pio = is_pio(l), .addr = ev->range.addr, .len = ev->range.size, .ev = *ev };
}

static void io_eventfd_add(MemoryListener *l, const MemorySection *s,
                           const MemoryRegionIoeventfd *ev)
{
    KvmIoRange r = range_of_eventfd(l, ev);
    add_range(l->opaque, &r);
}

static void io_eventfd_del(MemoryListener *l, const MemorySection *s,
                           const MemoryRegionIoeventfd *ev)
{
    KvmAccel *a = l->opaque;
    for (unsigned i = 0; i < a->io_ranges->len; i++) {
        const KvmIoRange *r = &g_array_index(a->io_ranges, KvmIoRange, i);
        if (!r->coalesced && r->pio == is_pio(l) && r->addr == ev->range.addr &&
            r->len == ev->range.size && r->ev.fd == ev->fd && r->ev.match_data == ev->match_data &&
            (!ev->match_data || r->ev.data == ev->data)) {
            remove_at(a, i);
            return;
        }
    }
}

static void io_coalesced_add(MemoryListener *l, const MemorySection *s, hwaddr addr, uint64_t len)
{
    KvmIoRange r = { .pio = is_pio(l), .coalesced = true, .addr = addr, .len = len };
    add_range(l->opaque, &r);
}

static void io_coalesced_del(MemoryListener *l, const MemorySection *s, hwaddr addr, uint64_t len)
{
    KvmAccel *a = l->opaque;
    for (unsigned i = 0; i < a->io_ranges->len; i++) {
        const KvmIoRange *r = &g_array_index(a->io_ranges, KvmIoRange, i);
        if (r->coalesced && r->pio == is_pio(l) && r->addr == addr && r->len == len) {
            remove_at(a, i);
            return;
        }
    }
}

void kvm_io_init_listener(KvmAccel *a, MemoryListener *l)
{
    l->eventfd_add = io_eventfd_add;
    l->eventfd_del = io_eventfd_del;
    l->coalesced_add = io_coalesced_add;
    l->coalesced_del = io_coalesced_del;
}

/* ---- the ring ----------------------------------------------------------------------------- */

/* With or without the engine lock. The ring's contents are written by the kernel from what the
 * guest wrote: sizes and indices are checked before use. */
void kvm_coalesced_drain(KvmAccel *a)
{
    struct kvm_coalesced_mmio_ring *ring = a->ring;
    bool locked = engine_lock_held();
    if (!ring) {
        return;
    }
    if (!locked) {
        engine_lock();
    }
    /* A device's handler may change the topology, which comes here again. */
    if (!a->draining) {
        a->draining = true;
        /* What was written before this exit is one ring at most. Without the bound other vCPUs that
         * go on writing could keep this one here, and everybody else out of the engine lock. */
        for (uint32_t n = 0; n < a->ring_slots && kvm_coalesced_pending(a); n++) {
            uint32_t first = ring->first % a->ring_slots;
            struct kvm_coalesced_mmio e = ring->coalesced_mmio[first];
            uint64_t data = 0;
            /* Freed before the dispatch: a handler that takes long does not stop other vCPUs. */
            __atomic_store_n(&ring->first, (first + 1) % a->ring_slots, __ATOMIC_RELEASE);
            if (e.len == 0 || e.len > sizeof(e.data)) {
                continue;
            }
            memcpy(&data, e.data, e.len);
            a->coalesced_writes++;
            const AccelConfig *c = &a->parent.config;
            address_space_access(e.pio ? c->io : c->memory,
                                 e.pio ? &a->ring_io_cache : &a->ring_memory_cache, e.phys_addr,
                                 MEMTXATTRS_NONE, &data, e.len, true);
        }
        a->draining = false;
    }
    if (!locked) {
        engine_unlock();
    }
}
