/*
 * MSRs between KVM and X86CPUState: which there are, their power-on values, the TSC among them.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MSR_TSC          0x10u
#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_EFER         0xc0000080u
#define MSR_FS_BASE      0xc0000100u
#define MSR_GS_BASE      0xc0000101u

typedef struct MsrBatch {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[X86_MSR_MAX + 2];
} MsrBatch;

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Held in other groups, or not saved through MSRs. */
static bool msr_elsewhere(uint32_t index)
{
    return index == MSR_TSC || index == MSR_APIC_BASE || index == MSR_EFER ||
           index == MSR_FS_BASE || index == MSR_GS_BASE;
}

static bool msr_is_pmu(uint32_t index)
{
    return (index >= 0xc1 && index <= 0xd2) || (index >= 0x186 && index <= 0x197) ||
           (index >= 0x309 && index <= 0x30d) || (index >= 0x38d && index <= 0x390) ||
           (index >= 0x4c1 && index <= 0x4d2) || (index >= 0xc0010000 && index <= 0xc0010007) ||
           (index >= 0xc0010200 && index <= 0xc001020b) ||
           (index >= 0xc0000300 && index <= 0xc0000302);
}

static uint32_t *read_list(KvmAccel *a, unsigned long request, unsigned *n)
{
    struct kvm_msr_list probe = { .nmsrs = 0 };
    *n = 0;
    if (kvm_ioctl(a, a->sys_fd, request, &probe) < 0 && errno != E2BIG) {
        return NULL;
    }
    struct kvm_msr_list *l = g_malloc0(sizeof(*l) + (probe.nmsrs + 1) * sizeof(uint32_t));
    l->nmsrs = probe.nmsrs;
    uint32_t *out = NULL;
    if (kvm_ioctl(a, a->sys_fd, request, l) == 0) {
        out = g_memdup2((const void *)l->indices, MAX(l->nmsrs, 1) * sizeof(uint32_t));
        *n = l->nmsrs;
        qsort(out, *n, sizeof(uint32_t), compare_u32);
    }
    g_free(l);
    return out;
}

/* Reads the MSRs of a list, those that can be read; returns how many. */
static unsigned read_msrs(KvmVcpu *kv, const uint32_t *list, unsigned n, X86Msr *out)
{
    struct kvm_msrs *m = g_malloc0(sizeof(*m) + MAX(n, 1) * sizeof(m->entries[0]));
    unsigned got = 0, from = 0;
    while (from < n) {
        m->nmsrs = n - from;
        for (unsigned i = from; i < n; i++) {
            m->entries[i - from] = (struct kvm_msr_entry){ .index = list[i] };
        }
        int r = kvm_ioctl(kv->a, kv->fd, KVM_GET_MSRS, m);
        for (int i = 0; i < r; i++) {
            out[got++] = (X86Msr){ .index = m->entries[i].index, .value = m->entries[i].data };
        }
        from += (unsigned)MAX(r, 0) + 1; /* the one that stopped it is left out */
    }
    g_free(m);
    return got;
}

/* Those of KVM's list that a vCPU of this VM really has. */
static bool build_list(KvmVcpu *kv, GError **error)
{
    KvmAccel *a = kv->a;
    unsigned n, asked = 0, kept = 0, left_out = 0;
    g_autofree uint32_t *all = read_list(a, KVM_GET_MSR_INDEX_LIST, &n);
    if (!all) {
        return kvm_state_fail(kv, error, "KVM_GET_MSR_INDEX_LIST");
    }
    for (unsigned i = 0; i < n; i++) {
        if (!msr_elsewhere(all[i]) && (asked == 0 || all[i] != all[asked - 1])) {
            all[asked++] = all[i];
        }
    }
    g_autofree X86Msr *have = g_new(X86Msr, MAX(asked, 1));
    n = read_msrs(kv, all, asked, have);
    a->msr_list = g_new(uint32_t, X86_MSR_MAX);
    /* Should they be more than a state holds, performance counters are what a guest misses least.
     */
    for (unsigned i = 0; i < n; i++) {
        if (kept == X86_MSR_MAX || (n > X86_MSR_MAX && msr_is_pmu(have[i].index))) {
            left_out++;
        } else {
            a->msr_list[kept++] = have[i].index;
        }
    }
    if (left_out) {
        log_mask(LOG_STATE, "kvm: %u MSRs are left out of saved state, it holds %d", left_out,
                 X86_MSR_MAX);
    }
    a->n_msrs = kept;
    g_free(a->feature_msrs);
    a->feature_msrs = read_list(a, KVM_GET_MSR_FEATURE_INDEX_LIST, &a->n_feature_msrs);
    return true;
}

/* The values at power-on are what reset gives back, for every MSR that a reset state does not
 * name. */
bool kvm_msrs_init(KvmVcpu *kv, GError **error)
{
    KvmAccel *a = kv->a;
    if (!a->msr_list && !build_list(kv, error)) {
        return false;
    }
    if (!kv->msr_reset) {
        kv->msr_reset = g_new0(X86Msr, MAX(a->n_msrs, 1));
        if (read_msrs(kv, a->msr_list, a->n_msrs, kv->msr_reset) != a->n_msrs) {
            g_clear_pointer(&kv->msr_reset, g_free);
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "kvm: vCPU %d has other MSRs than the first", kv->index);
        }
    }
    return true;
}

uint32_t kvm_tsc_khz(KvmVcpu *kv)
{
    int khz = kvm_ioctl_val(kv->a, kv->fd, KVM_GET_TSC_KHZ, 0);
    return khz > 0 ? (uint32_t)khz : 0;
}

bool kvm_get_msrs(KvmVcpu *kv, X86CPUState *s, GError **error)
{
    KvmAccel *a = kv->a;
    if (!kvm_msrs_init(kv, error)) {
        return false;
    }
    MsrBatch b = { .head = { .nmsrs = a->n_msrs + 1 } };
    for (unsigned i = 0; i < a->n_msrs; i++) {
        b.entries[i].index = a->msr_list[i];
    }
    b.entries[a->n_msrs].index = MSR_TSC;
    int r = kvm_ioctl(a, kv->fd, KVM_GET_MSRS, &b);
    if (r < 0) {
        return kvm_state_fail(kv, error, "KVM_GET_MSRS");
    }
    if ((unsigned)r <= a->n_msrs) {
        return error_set(error, ENGINE_ERROR_IO, "kvm: vCPU %d: MSR %#x can no longer be read",
                         kv->index, b.entries[r].index);
    }
    s->n_msrs = a->n_msrs;
    for (unsigned i = 0; i < a->n_msrs; i++) {
        s->msrs[i] = (X86Msr){ .index = b.entries[i].index, .value = b.entries[i].data };
    }
    s->tsc = kv->tsc_shown = b.entries[a->n_msrs].data;
    s->tsc_khz = kvm_tsc_khz(kv);
    kv->tsc_shown_valid = true;
    return true;
}

static const X86Msr *find_msr(const X86Msr *msrs, unsigned n, uint32_t index)
{
    for (unsigned i = 0; i < n; i++) {
        if (msrs[i].index == index) {
            return &msrs[i];
        }
    }
    return NULL;
}

/* Some MSRs can be set only before the first run, or only to what they are: then what they are is
 * good enough if it is what is asked for. */
static bool put_batch(KvmVcpu *kv, MsrBatch *b, GError **error)
{
    unsigned done = 0, total = b->head.nmsrs;
    while (done < total) {
        b->head.nmsrs = total - done;
        int r = kvm_ioctl(kv->a, kv->fd, KVM_SET_MSRS, b);
        if (r < 0) {
            return kvm_state_fail(kv, error, "KVM_SET_MSRS");
        }
        if ((unsigned)r == total - done) {
            return true;
        }
        const struct kvm_msr_entry *e = &b->entries[r];
        uint64_t now = 0;
        if (!kvm_msr_get(kv, e->index, &now) || now != e->data) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "kvm: vCPU %d: this host's KVM refuses %#llx for MSR %#x (it holds "
                             "%#llx)",
                             kv->index, (unsigned long long)e->data, e->index,
                             (unsigned long long)now);
        }
        unsigned skip = (unsigned)r + 1;
        memmove(b->entries, b->entries + skip, (total - done - skip) * sizeof(b->entries[0]));
        done += skip;
    }
    return true;
}

bool kvm_put_msrs(KvmVcpu *kv, const X86CPUState *s, GError **error)
{
    KvmAccel *a = kv->a;
    if (!kvm_msrs_init(kv, error)) {
        return false;
    }
    MsrBatch b = { .head = { 0 } };
    unsigned n = 0, state_n = MIN(s->n_msrs, X86_MSR_MAX);
    uint64_t deadline = 0;
    bool has_deadline = false;
    for (unsigned i = 0; i < a->n_msrs; i++) {
        const X86Msr *m = find_msr(s->msrs, state_n, a->msr_list[i]);
        uint64_t value = m ? m->value : kv->msr_reset[i].value;
        if (a->msr_list[i] == MSR_TSC_DEADLINE) {
            deadline = value;
            has_deadline = kvm_lapic_in_kernel(a);
            continue;
        }
        b.entries[n++] = (struct kvm_msr_entry){ .index = a->msr_list[i], .data = value };
    }
    for (unsigned i = 0; i < state_n; i++) {
        if (!bsearch(&s->msrs[i].index, a->msr_list, a->n_msrs, sizeof(uint32_t), compare_u32) &&
            !msr_elsewhere(s->msrs[i].index) && s->msrs[i].value) {
            log_mask(LOG_STATE, "kvm: vCPU %d: MSR %#x (%#llx) does not exist on this host",
                     kv->index, s->msrs[i].index, (unsigned long long)s->msrs[i].value);
        }
    }
    /* A TSC that nobody changed since it was read is not written back: it would lose the time
     * between. (KVM without hardware under it takes writes and goes on showing the host's TSC.) */
    if (!kv->tsc_shown_valid || s->tsc != kv->tsc_shown) {
        b.entries[n++] = (struct kvm_msr_entry){ .index = MSR_TSC, .data = s->tsc };
        kv->tsc_shown_valid = false;
    }
    /* The deadline is compared with the TSC, so it comes after it. */
    if (has_deadline) {
        b.entries[n++] = (struct kvm_msr_entry){ .index = MSR_TSC_DEADLINE, .data = deadline };
    }
    b.head.nmsrs = n;
    return put_batch(kv, &b, error);
}
