/*
 * Guest RAM as memory slots of KVM, and its dirty log.
 *
 * The listener gets the old and the new flat view and compares what KVM has with what it should
 * have. A slot that stays is not touched. KVM cannot grow, shrink or split a slot, nor make it
 * read-only: it must be deleted and created again. Where that would show the guest a moment without
 * RAM, or lose dirty bits, it is done with all vCPUs held out of the guest.
 *
 * Dirty pages are fetched by KVM_GET_DIRTY_LOG, which also clears: one call a slot. The two-step
 * form (KVM_CLEAR_DIRTY_LOG) and the dirty ring shorten stalls of guests that run on while it is
 * read; here they are stopped, or the slot is a frame buffer.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>

#include "engine/core/rcu.h"

#define PAGE UINT64_C(4096)
/* KVM counts the pages of a slot in 31 bits. */
#define SLOT_MAX (UINT64_C(1) << 42)

static bool set_slot(KvmAccel *a, const KvmSlot *s, uint64_t size)
{
    if (a->vm_fd < 0) {
        return true; /* the VM is closed */
    }
    struct kvm_userspace_memory_region r = {
        .slot = s->id,
        .flags = size ? s->flags : 0,
        .guest_phys_addr = s->gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)s->ram->host + s->ram_offset,
    };
    a->slot_changes++;
    log_mask(LOG_MEMORY, "kvm: slot %u: %#llx + %#llx flags %u%s", s->id,
             (unsigned long long)s->gpa, (unsigned long long)s->size, r.flags,
             size ? "" : " deleted");
    if (kvm_ioctl(a, a->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0) {
        log_error("kvm: cannot %s RAM at %#llx, %llu KiB of %s: %s; the guest reaches it by exits",
                  size ? "map" : "unmap", (unsigned long long)s->gpa,
                  (unsigned long long)s->size / 1024, s->ram->name, g_strerror(errno));
        return false;
    }
    return true;
}

static void fetch_dirty(KvmAccel *a, const KvmSlot *s)
{
    if (a->vm_fd < 0) {
        return;
    }
    uint64_t pages = s->size / PAGE;
    g_autofree unsigned long *bitmap = g_malloc0((pages + 63) / 64 * 8);
    struct kvm_dirty_log log = { .slot = s->id, .dirty_bitmap = bitmap };
    if (kvm_ioctl(a, a->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0) {
        /* Rather too many than too few. */
        log_warning("kvm: KVM_GET_DIRTY_LOG of %s: %s", s->ram->name, g_strerror(errno));
        ram_block_set_dirty(s->ram, s->ram_offset, s->size);
        return;
    }
    ram_block_merge_dirty(s->ram, s->ram_offset / PAGE, bitmap, pages);
}

/* ---- the slots that a view asks for ------------------------------------------------------- */

/* The part of a range that KVM can map: whole pages, at the same offset in host and guest. */
static bool slot_of_range(const FlatRange *r, KvmSlot *out)
{
    MemoryRegion *mr = r->mr;
    bool rom = mr->kind == MEMORY_ROM || r->readonly;
    if (!mr->ram || !(memory_region_is_ram(mr) || (mr->kind == MEMORY_ROM_DEVICE && r->romd))) {
        return false;
    }
    uint64_t start = (r->addr + PAGE - 1) & ~(PAGE - 1);
    uint64_t end = r->last == UINT64_MAX ? 0 : (r->last + 1) & ~(PAGE - 1);
    uint64_t offset = r->offset + (start - r->addr);
    if (start < r->addr || end <= start || ((uintptr_t)(mr->ram->host + offset) & (PAGE - 1))) {
        log_mask(LOG_MEMORY, "kvm: %s at %#llx is not on page boundaries: reached by exits",
                 mr->name, (unsigned long long)r->addr);
        return false;
    }
    *out = (KvmSlot){
        .gpa = start,
        .size = end - start,
        .ram = mr->ram,
        .ram_offset = offset,
        .flags = (rom || mr->kind == MEMORY_ROM_DEVICE ? KVM_MEM_READONLY : 0) |
                 (r->dirty_clients & ~DIRTY_CODE ? KVM_MEM_LOG_DIRTY_PAGES : 0),
    };
    return true;
}

/* Appends the part of a slot within [first, end), moved up by `by`. */
static void append_part(GArray *out, const KvmSlot *s, uint64_t first, uint64_t end, uint64_t by)
{
    KvmSlot part = *s;
    uint64_t from = MAX(s->gpa, first), to = MIN(s->gpa + s->size, end);

    if (from < to) {
        part.gpa = from + by;
        part.ram_offset += from - s->gpa;
        part.size = to - from;
        g_array_append_val(out, part);
    }
}

/* The second MiB shows the first. */
static GArray *fold_a20(GArray *open)
{
    GArray *out = g_array_new(FALSE, TRUE, sizeof(KvmSlot));

    for (unsigned pass = 0; pass < 3; pass++) {
        for (unsigned i = 0; i < open->len; i++) {
            const KvmSlot *s = &g_array_index(open, KvmSlot, i);

            append_part(out, s, pass == 2 ? 2 * KVM_A20_BIT : 0,
                        pass == 2 ? UINT64_MAX : KVM_A20_BIT, pass == 1 ? KVM_A20_BIT : 0);
        }
    }
    g_array_unref(open);
    return out;
}

static GArray *slots_of_view(const FlatView *view, bool a20_closed)
{
    GArray *out = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    for (unsigned i = 0; view && i < view->n; i++) {
        KvmSlot s;
        if (!slot_of_range(&view->ranges[i], &s)) {
            continue;
        }
        while (s.size > SLOT_MAX) {
            KvmSlot part = s;
            part.size = SLOT_MAX;
            g_array_append_val(out, part);
            s.gpa += SLOT_MAX;
            s.ram_offset += SLOT_MAX;
            s.size -= SLOT_MAX;
        }
        g_array_append_val(out, s);
    }
    return a20_closed ? fold_a20(out) : out;
}

static bool same_place(const KvmSlot *x, const KvmSlot *y)
{
    return x->gpa == y->gpa && x->size == y->size && x->ram == y->ram &&
           x->ram_offset == y->ram_offset && !((x->flags ^ y->flags) & KVM_MEM_READONLY);
}

static bool overlaps(const GArray *sorted, const KvmSlot *s)
{
    unsigned lo = 0, hi = sorted->len;
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        const KvmSlot *m = &g_array_index(sorted, KvmSlot, mid);
        if (m->gpa + m->size <= s->gpa) {
            lo = mid + 1;
        } else if (m->gpa >= s->gpa + s->size) {
            hi = mid;
        } else {
            return true;
        }
    }
    return false;
}

static uint32_t take_slot_id(KvmAccel *a)
{
    if (a->free_slots->len) {
        uint32_t id = g_array_index(a->free_slots, uint32_t, a->free_slots->len - 1);
        g_array_set_size(a->free_slots, a->free_slots->len - 1);
        return id;
    }
    return a->next_slot++;
}

static void set_log_flag(KvmAccel *a, KvmSlot *s, uint32_t flags)
{
    uint32_t old = s->flags;
    if (old == flags) {
        return;
    }
    if ((old & KVM_MEM_LOG_DIRTY_PAGES) && !(flags & KVM_MEM_LOG_DIRTY_PAGES)) {
        fetch_dirty(a, s);
    }
    s->flags = flags;
    if (!set_slot(a, s, s->size)) {
        s->flags = old;
    }
}

static void delete_slot(KvmAccel *a, KvmSlot *s)
{
    if (s->flags & KVM_MEM_LOG_DIRTY_PAGES) {
        fetch_dirty(a, s);
    }
    set_slot(a, s, 0);
    g_array_append_val(a->free_slots, s->id);
    ram_block_unref(s->ram);
    s->ram = NULL;
}

/* Whether the guest could notice the way from the old slots to the new. */
static bool needs_hold(const GArray *gone, const GArray *fresh)
{
    for (unsigned i = 0; i < gone->len; i++) {
        const KvmSlot *s = &g_array_index(gone, KvmSlot, i);
        if ((s->flags & KVM_MEM_LOG_DIRTY_PAGES) || overlaps(fresh, s)) {
            return true;
        }
    }
    return false;
}

/* `want` becomes the list of slots. Both lists are sorted by address and without overlaps. */
static void apply(KvmAccel *a, GArray *want)
{
    g_autoptr(GArray) gone = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    g_autoptr(GArray) fresh = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    g_autoptr(GArray) kept = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    unsigned i = 0, j = 0;
    while (i < a->slots->len || j < want->len) {
        KvmSlot *old = i < a->slots->len ? &g_array_index(a->slots, KvmSlot, i) : NULL;
        KvmSlot *new = j < want->len ? &g_array_index(want, KvmSlot, j) : NULL;
        if (old && new &&same_place(old, new)) {
            set_log_flag(a, old, new->flags);
            g_array_append_val(kept, *old);
            i++;
            j++;
        } else if (old && (!new || old->gpa <= new->gpa)) {
            g_array_append_val(gone, *old);
            i++;
        } else {
            g_array_append_val(fresh, *new);
            j++;
        }
    }
    if (!gone->len && !fresh->len) {
        return;
    }
    bool hold = needs_hold(gone, fresh);
    if (hold) {
        kvm_hold_begin(a, NULL);
    }
    for (i = 0; i < gone->len; i++) {
        delete_slot(a, &g_array_index(gone, KvmSlot, i));
    }
    for (i = 0; i < fresh->len; i++) {
        KvmSlot *s = &g_array_index(fresh, KvmSlot, i);
        if (a->free_slots->len == 0 && a->next_slot >= (uint32_t)a->caps[KC_NR_MEMSLOTS]) {
            log_error(
                "kvm: all %d memory slots of this host are in use; RAM at %#llx is reached by "
                "exits",
                a->caps[KC_NR_MEMSLOTS], (unsigned long long)s->gpa);
            continue;
        }
        s->id = take_slot_id(a);
        if (set_slot(a, s, s->size)) {
            ram_block_ref(s->ram);
            g_array_append_val(kept, *s);
        } else {
            g_array_append_val(a->free_slots, s->id);
        }
    }
    if (hold) {
        kvm_hold_end(a, NULL);
    }
    /* `kept` has old slots, then new ones: bring them into order. */
    g_array_set_size(a->slots, 0);
    unsigned n_old = kept->len;
    for (i = 1; i < kept->len; i++) {
        if (g_array_index(kept, KvmSlot, i).gpa < g_array_index(kept, KvmSlot, i - 1).gpa) {
            n_old = i;
            break;
        }
    }
    for (i = 0, j = n_old; i < n_old || j < kept->len;) {
        bool first = j >= kept->len || (i < n_old && g_array_index(kept, KvmSlot, i).gpa <
                                                         g_array_index(kept, KvmSlot, j).gpa);
        unsigned *k = first ? &i : &j;
        g_array_append_val(a->slots, g_array_index(kept, KvmSlot, *k));
        (*k)++;
    }
}

/* ---- the listener ------------------------------------------------------------------------- */

/* Also for changes of who logs: the views' dirty_clients say it. */
static void memory_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    KvmAccel *a = l->opaque;
    g_autoptr(GArray) want = slots_of_view(new_view, a->a20_closed);
    apply(a, want);
}

void kvm_set_a20(Accel *accel, bool open)
{
    KvmAccel *a = KVM_ACCEL(accel);
    g_autoptr(GArray) want = NULL;
    __atomic_store_n(&a->a20_closed, !open, __ATOMIC_RELAXED);
    if (!a->memory_listener.as) {
        return; /* the first commit does it */
    }
    rcu_enter();
    want = slots_of_view(address_space_flat_view(a->parent.config.memory), !open);
    rcu_leave();
    apply(a, want);
}

static void for_slots_of(KvmAccel *a, const MemorySection *sec,
                         void (*fn)(KvmAccel *a, KvmSlot *s, uint32_t arg), uint32_t arg)
{
    for (unsigned i = 0; i < a->slots->len; i++) {
        KvmSlot *s = &g_array_index(a->slots, KvmSlot, i);
        /* A folded slot has its RAM elsewhere: asked too often does no harm. */
        if (a->a20_closed ||
            (s->gpa <= sec->range.last && s->gpa + s->size - 1 >= sec->range.addr)) {
            fn(a, s, arg);
        }
    }
}

static void slot_sync(KvmAccel *a, KvmSlot *s, uint32_t arg)
{
    if (s->flags & KVM_MEM_LOG_DIRTY_PAGES) {
        fetch_dirty(a, s);
    }
}

static void memory_log_sync(MemoryListener *l, const MemorySection *s)
{
    for_slots_of(l->opaque, s, slot_sync, 0);
}

void kvm_memory_register(KvmAccel *a)
{
    a->memory_listener = (MemoryListener){
        .commit = memory_commit,
        .log_sync = memory_log_sync,
        .priority = 10,
        .opaque = a,
    };
    kvm_io_init_listener(a, &a->memory_listener);
    memory_listener_register(&a->memory_listener, a->parent.config.memory);
    a->io_listener = (MemoryListener){ .priority = 10, .opaque = a };
    kvm_io_init_listener(a, &a->io_listener);
    memory_listener_register(&a->io_listener, a->parent.config.io);
}

void kvm_memory_unregister(KvmAccel *a)
{
    if (a->memory_listener.as) {
        memory_listener_unregister(&a->memory_listener);
        a->memory_listener.as = NULL;
    }
    if (a->io_listener.as) {
        memory_listener_unregister(&a->io_listener);
        a->io_listener.as = NULL;
    }
    /* Whatever the unregistering did not replay. */
    g_autoptr(GArray) none = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    apply(a, none);
}
