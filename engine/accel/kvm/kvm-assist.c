/*
 * The assist: what KVM reports as KVM_INTERNAL_ERROR_EMULATION is executed by the software CPU on
 * the vCPU's state, and KVM goes on behind it.
 *
 * Moving the state costs about ten ioctls. Where KVM has no hardware under it, failures come in
 * streams (x87, SSE), so the software CPU then goes on for a while after the instruction: 16
 * instructions at first, four times as many whenever KVM fails again in its very next run, half
 * when it did not, never more than `assist-run`. It stops before whatever needs a device, an MSR or
 * KVM's own tables, since devices in the kernel are not to be reached from here; only the
 * instruction that failed may do so. With hardware it is that one instruction.
 *
 * Not seen by KVM: writes of that instruction to page tables, where KVM keeps shadows of them.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <string.h>

#include "engine/accel/assist.h"

#define ASSIST_LEN_MIN 16u
#define VECTOR_UD      6
#define CR4_PGE        (UINT64_C(1) << 7)
#define RFLAGS_IF      (UINT64_C(1) << 9)

static const uint32_t msrs[] = {
    0x174,      0x175,      0x176,      /* SYSENTER */
    0xc0000081, 0xc0000082, 0xc0000083, /* STAR, LSTAR, CSTAR */
    0xc0000084, 0xc0000102, 0xc0000103, /* SFMASK, KERNEL_GS_BASE, TSC_AUX */
    0x10,                               /* TSC: the last */
};

static bool msr_read(void *opaque, uint32_t index, uint64_t *value)
{
    return kvm_msr_get(opaque, index, value);
}

static bool msr_write(void *opaque, uint32_t index, uint64_t value)
{
    return kvm_msr_guest_write(opaque, index, value);
}

static void get_msrs(KvmVcpu *kv, X86CPUState *s)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entries[G_N_ELEMENTS(msrs)];
    } b = { .head = { .nmsrs = G_N_ELEMENTS(msrs) } };
    for (unsigned i = 0; i < G_N_ELEMENTS(msrs); i++) {
        b.entries[i].index = msrs[i];
    }
    int n = kvm_ioctl(kv->a, kv->fd, KVM_GET_MSRS, &b);
    s->n_msrs = 0;
    s->tsc = 0;
    for (int i = 0; i < n; i++) {
        if (b.entries[i].index == 0x10) {
            s->tsc = b.entries[i].data;
        } else {
            x86_msr_set(s, b.entries[i].index, b.entries[i].data);
        }
    }
}

/* Without the capability KVM has queued #UD besides its report. */
static void settle_events(KvmVcpu *kv, X86CPUState *s)
{
    X86Events *e = &s->events;
    if (!kvm_has(kv->a, KC_EXIT_ON_EMULATION_FAILURE) &&
        (e->exception_injected || e->exception_pending) && e->exception_nr == VECTOR_UD) {
        e->exception_injected = e->exception_pending = false;
    }
    if (e->nmi_injected) {
        e->nmi_masked = false; /* its delivery is to come, and masks them */
    }
    e->nmi_pending = false; /* stays with KVM */
    s->mp_state = X86_MP_RUNNABLE;
}

static bool get_state(KvmVcpu *kv, GError **error)
{
    X86CPUState *s = kv->assist_state;
    if (!kvm_get_groups(kv, s,
                        X86_STATE_GPR | X86_STATE_SYSTEM | X86_STATE_FPU | X86_STATE_DEBUG |
                            X86_STATE_EVENTS,
                        error)) {
        return false;
    }
    get_msrs(kv, s);
    settle_events(kv, s);
    return true;
}

static bool put_state(KvmVcpu *kv, const SoftAssistRun *run, GError **error)
{
    X86CPUState *s = kv->assist_state;
    unsigned groups = run->changed;
    X86Msr *gs = x86_msr_find(s, 0xc0000102);
    if (run->flushed) {
        /* KVM drops its translations when CR4.PGE changes. */
        s->cr4 ^= CR4_PGE;
        bool ok = kvm_put_groups(kv, s, X86_STATE_SYSTEM, error);
        s->cr4 ^= CR4_PGE;
        if (!ok) {
            return false;
        }
        groups |= X86_STATE_SYSTEM;
    }
    if ((groups & X86_STATE_MSRS) && gs && !kvm_msr_set(kv, gs->index, gs->value)) {
        return kvm_state_fail(kv, error, "MSR KERNEL_GS_BASE");
    }
    return kvm_put_groups(kv, s, groups, error);
}

/* ---- how far --------------------------------------------------------------------------------- */

static unsigned run_length(KvmVcpu *kv)
{
    KvmAccel *a = kv->a;
    unsigned most = __atomic_load_n(&a->assist_run, __ATOMIC_RELAXED);
    bool again = kv->enters == kv->assist_enter + 1, breaks;
    kv->assist_enter = kv->enters;
    kv->assist_len = again ? kv->assist_len * 4 : kv->assist_len / 2;
    kv->assist_len = MIN(MAX(kv->assist_len, ASSIST_LEN_MIN), 1u << 20);
    pthread_mutex_lock(&a->debug_mutex);
    breaks = a->breaks->len > 0;
    pthread_mutex_unlock(&a->debug_mutex);
    return breaks || kv->stepping || kv->step_watch || kv->stepover ? 0 : MIN(kv->assist_len, most);
}

static void count(KvmVcpu *kv, const SoftAssistRun *run)
{
    KvmAccel *a = kv->a;
    CpuStats *stats = &kv->cpu->stats;
    __atomic_store_n(&stats->assists, stats->assists + 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&a->assist_instructions, run->ran, __ATOMIC_RELAXED);
    pthread_mutex_lock(&a->debug_mutex);
    uint64_t *n = g_hash_table_lookup(a->assists, run->mnemonic);
    if (!n) {
        n = g_new0(uint64_t, 1);
        g_hash_table_insert(a->assists, (void *)(uintptr_t)run->mnemonic, n);
    }
    ++*n;
    pthread_mutex_unlock(&a->debug_mutex);
}

void kvm_assist_stats(KvmAccel *a, void (*fn)(const char *name, uint64_t value, void *opaque),
                      void *opaque)
{
    GHashTableIter iter;
    void *name, *n;
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) values = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    pthread_mutex_lock(&a->debug_mutex);
    g_hash_table_iter_init(&iter, a->assists);
    while (g_hash_table_iter_next(&iter, &name, &n)) {
        g_ptr_array_add(names, g_strdup_printf("kvm-assist-%s", (const char *)name));
        g_array_append_val(values, *(uint64_t *)n);
    }
    pthread_mutex_unlock(&a->debug_mutex);
    for (unsigned i = 0; i < names->len; i++) {
        fn(g_ptr_array_index(names, i), g_array_index(values, uint64_t, i), opaque);
    }
    fn("kvm-assist-instructions", __atomic_load_n(&a->assist_instructions, __ATOMIC_RELAXED),
       opaque);
}

/* ---- the assist ------------------------------------------------------------------------------ */

static void make(KvmVcpu *kv)
{
    static const SoftHostMsrs ops = { .read = msr_read, .write = msr_write };
    if (!kv->assist) {
        kv->assist = soft_assist_new(kv->cpu, &ops, kv);
        kv->assist_state = g_aligned_alloc0(1, sizeof(X86CPUState), 64);
    }
}

bool kvm_assist(KvmVcpu *kv)
{
    KvmAccel *a = kv->a;
    CpuExit *x = &kv->cpu->exit;
    g_autoptr(GError) error = NULL;
    uint8_t code[15];
    uint64_t pc;
    SoftAssistResult result;
    if (!__atomic_load_n(&a->assist, __ATOMIC_RELAXED)) {
        return false;
    }
    make(kv);
    if (!get_state(kv, &error) || !kvm_linear_pc(kv, &pc)) {
        log_error("kvm: no assist: %s", error ? error->message : "registers cannot be read");
        return false;
    }
    SoftAssistRun run = {
        .state = kv->assist_state,
        .code = code,
        .code_len = kvm_read_code(kv, pc, code, sizeof(code)),
        .more = run_length(kv),
        .a20_closed = __atomic_load_n(&a->a20_closed, __ATOMIC_RELAXED),
    };
    result = soft_assist_run(kv->assist, &run);
    if (result == SOFT_ASSIST_CANNOT) {
        return false;
    }
    count(kv, &run);
    log_mask(LOG_CPU, "kvm: cpu %d: assist for %s at %#llx, %llu instructions", kv->index,
             run.mnemonic, (unsigned long long)pc, (unsigned long long)run.ran);
    if (!put_state(kv, &run, &error)) {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "after an assist: %s", error->message);
        return true;
    }
    kv->run->if_flag = (kv->assist_state->rflags & RFLAGS_IF) != 0;
    /* What a handler fetched in the middle is of the past; what it changed is put back. */
    kv->cpu->state_valid &= kv->cpu->state_dirty;
    *x = (CpuExit){ .kind = CPU_EXIT_INTERRUPTED, .count = 1 };
    if (result == SOFT_ASSIST_SHUTDOWN) {
        x->kind = CPU_EXIT_SHUTDOWN;
    } else if (result == SOFT_ASSIST_HALTED && !kvm_lapic_in_kernel(a)) {
        x->kind = CPU_EXIT_HLT;
    } else if (result == SOFT_ASSIST_HALTED) {
        struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_HALTED };
        kvm_ioctl(a, kv->fd, KVM_SET_MP_STATE, &mp);
    }
    if (result != SOFT_ASSIST_SHUTDOWN) {
        kvm_debug_assisted(kv);
    }
    return true;
}

void kvm_assist_free(KvmVcpu *kv)
{
    soft_assist_free(g_steal_pointer(&kv->assist));
    g_aligned_free(g_steal_pointer(&kv->assist_state));
}

/* User mode's failures are exits too, instead of #UD. */
bool kvm_assist_enable(KvmAccel *a)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = { a->assist } };
    return !kvm_has(a, KC_EXIT_ON_EMULATION_FAILURE) ||
           kvm_ioctl(a, a->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}
