/*
 * MSR accesses that a hook watches: a filter makes KVM leave them to user space.
 *
 * What a hook does not answer is done with KVM_GET_MSRS and KVM_SET_MSRS, which reach the value
 * that the guest's own access would have. KVM trusts these calls more than a guest, so writes of
 * MSRs that only describe the processor are refused here, as they are to a guest.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>

#define MSR_UCODE_REV 0x8bu
#define X2APIC_FIRST  0x800u
#define X2APIC_LAST   0x8ffu
#define BITMAP_MSRS   (KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8u)

typedef struct OneMsr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
} OneMsr;

bool kvm_msr_get(KvmVcpu *kv, uint32_t index, uint64_t *value)
{
    OneMsr m = { .head = { .nmsrs = 1 }, .entry = { .index = index } };
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_MSRS, &m) != 1) {
        return false;
    }
    *value = m.entry.data;
    return true;
}

bool kvm_msr_set(KvmVcpu *kv, uint32_t index, uint64_t value)
{
    OneMsr m = { .head = { .nmsrs = 1 }, .entry = { .index = index, .data = value } };
    return kvm_ioctl(kv->a, kv->fd, KVM_SET_MSRS, &m) == 1;
}

bool kvm_msr_guest_write(KvmVcpu *kv, uint32_t index, uint64_t value)
{
    const KvmAccel *a = kv->a;
    if (index == MSR_UCODE_REV) {
        return true; /* ignored by processors: the way to ask for the revision */
    }
    for (unsigned i = 0; i < a->n_feature_msrs; i++) {
        /* In both lists are some that a guest may write (0xc0011029 and the like): those whose
         * saved value changes are state, not description. */
        if (a->feature_msrs[i] == index && index != 0xc0011029u) {
            return false;
        }
    }
    return kvm_msr_set(kv, index, value);
}

/* ---- the filter --------------------------------------------------------------------------- */

typedef struct Window {
    uint32_t base;
    uint8_t read[KVM_MSR_FILTER_MAX_BITMAP_SIZE], write[KVM_MSR_FILTER_MAX_BITMAP_SIZE];
    bool reads, writes;
} Window;

static void deny(Window *w, uint32_t first, uint32_t last, unsigned directions)
{
    for (uint32_t i = first; i <= last; i++) {
        uint32_t bit = i - w->base;
        if (directions & EVENT_READS) {
            w->read[bit / 8] &= ~(1u << bit % 8);
            w->reads = true;
        }
        if (directions & EVENT_WRITES) {
            w->write[bit / 8] &= ~(1u << bit % 8);
            w->writes = true;
        }
        if (i == UINT32_MAX) {
            break;
        }
    }
}

/* Windows are aligned, so two never overlap. false: more than a filter holds. */
static bool add_to_windows(GPtrArray *windows, const EventFilter *f)
{
    unsigned directions = f->directions ? f->directions : EVENT_READS | EVENT_WRITES;
    uint64_t first = f->addr, last = MIN(kvm_filter_last(f), UINT32_MAX);
    if (last - first >= (uint64_t)BITMAP_MSRS * KVM_MSR_FILTER_MAX_RANGES) {
        return false;
    }
    while (first <= last) {
        uint32_t base = (uint32_t)(first - first % BITMAP_MSRS);
        uint64_t end = MIN(last, (uint64_t)base + BITMAP_MSRS - 1);
        Window *w = NULL;
        for (unsigned i = 0; i < windows->len && !w; i++) {
            Window *x = g_ptr_array_index(windows, i);
            w = x->base == base ? x : NULL;
        }
        if (!w) {
            w = g_new0(Window, 1);
            w->base = base;
            memset(w->read, 0xff, sizeof(w->read));
            memset(w->write, 0xff, sizeof(w->write));
            g_ptr_array_add(windows, w);
        }
        deny(w, (uint32_t)first, (uint32_t)end, directions);
        first = end + 1;
    }
    return true;
}

static bool add_range(struct kvm_msr_filter *k, unsigned *n, const Window *w, uint8_t *bitmap,
                      uint32_t flags)
{
    if (*n == KVM_MSR_FILTER_MAX_RANGES) {
        return false;
    }
    uint64_t count = MIN((uint64_t)BITMAP_MSRS, (UINT64_C(1) << 32) - w->base);
    k->ranges[(*n)++] = (struct kvm_msr_filter_range){
        .flags = flags, .nmsrs = (uint32_t)count, .base = w->base, .bitmap = bitmap
    };
    return true;
}

static bool windows_to_filter(GPtrArray *windows, struct kvm_msr_filter *k)
{
    unsigned n = 0;
    for (unsigned i = 0; i < windows->len; i++) {
        Window *w = g_ptr_array_index(windows, i);
        bool same = !memcmp(w->read, w->write, sizeof(w->read));
        if (same && !add_range(k, &n, w, w->read, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)) {
            return false;
        }
        if (!same && w->reads && !add_range(k, &n, w, w->read, KVM_MSR_FILTER_READ)) {
            return false;
        }
        if (!same && w->writes && !add_range(k, &n, w, w->write, KVM_MSR_FILTER_WRITE)) {
            return false;
        }
    }
    return true;
}

static bool check_filter(const EventFilter *f, GError **error)
{
    if (f->addr > UINT32_MAX) {
        return error_set(error, ENGINE_ERROR_INVALID, "MSR %#llx: MSR numbers have 32 bits",
                         (unsigned long long)f->addr);
    }
    if (f->addr >= X2APIC_FIRST && kvm_filter_last(f) <= X2APIC_LAST) {
        return error_set(
            error, ENGINE_ERROR_UNSUPPORTED,
            "MSR %#llx belongs to the x2APIC, which KVM never leaves to user space; use "
            "the soft accelerator",
            (unsigned long long)f->addr);
    }
    return true;
}

bool kvm_msr_update(KvmAccel *a, GError **error)
{
    g_autoptr(GPtrArray) windows = g_ptr_array_new_with_free_func(g_free);
    struct kvm_msr_filter k = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
    bool any = false, fits = true;
    for (unsigned i = 0; i < a->armed->len; i++) {
        const EventFilter *f = &g_array_index(a->armed, EventFilter, i);
        if (f->source == EVENT_MSR) {
            if (!check_filter(f, error)) {
                return false;
            }
            any = true;
            fits = fits && add_to_windows(windows, f);
        }
    }
    if (!any && !a->msr_exits) {
        return true;
    }
    if (any && (!kvm_require(a, KC_X86_USER_SPACE_MSR, error) ||
                !kvm_require(a, KC_X86_MSR_FILTER, error))) {
        return false;
    }
    uint8_t nothing = 0;
    if (!fits || !windows_to_filter(windows, &k)) {
        /* More than a filter can name: all exit, and the hub's own filters sort them out. KVM wants
         * one range to be named. */
        memset(&k, 0, sizeof(k));
        k.flags = KVM_MSR_FILTER_DEFAULT_DENY;
        k.ranges[0] = (struct kvm_msr_filter_range){ .flags = KVM_MSR_FILTER_READ |
                                                              KVM_MSR_FILTER_WRITE,
                                                     .nmsrs = 1,
                                                     .base = 0,
                                                     .bitmap = &nothing };
    }
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR,
                                  .args = { any ? KVM_MSR_EXIT_REASON_FILTER : 0 } };
    if (any && kvm_ioctl(a, a->vm_fd, KVM_ENABLE_CAP, &cap) < 0) {
        return error_set_errno(error, "kvm: cannot enable MSR exits");
    }
    if (kvm_ioctl(a, a->vm_fd, KVM_X86_SET_MSR_FILTER, &k) < 0) {
        return error_set_errno(error, "kvm: KVM_X86_SET_MSR_FILTER");
    }
    /* Exits are switched off after the filter: the other way round a filtered MSR would fault. */
    if (!any) {
        kvm_ioctl(a, a->vm_fd, KVM_ENABLE_CAP, &cap);
    }
    a->msr_exits = any;
    return true;
}
