/*
 * vCPUs of KVM: creation, the kick, CPUID, TSC frequency.
 *
 * KVM never forgets a vCPU before its VM ends, and refuses to create its number again. So a vCPU
 * that is destroyed here is parked and used again by the next one with that index.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int kick_signal(void)
{
    return SIGRTMIN + 5;
}

/* Nothing to do: what counts is that KVM_RUN returns EINTR. */
static void kick_handler(int sig)
{
}

static void install_kick_handler(void)
{
    /* SA_RESTART: other system calls of a vCPU thread go on; KVM_RUN returns all the same. */
    struct sigaction sa = { .sa_handler = kick_handler, .sa_flags = SA_RESTART };
    sigemptyset(&sa.sa_mask);
    sigaction(kick_signal(), &sa, NULL);
}

/*
 * No wake-up is lost: the flags are set before `in_run` is looked at, and the vCPU sets `in_run`
 * before KVM looks at immediate_exit. So either KVM_RUN returns at once, or the signal finds it.
 * Requests that the kick is for were set before it, and the vCPU's loop looks at them after every
 * exit, after immediate_exit was cleared.
 */
static void mark_kicked(KvmVcpu *kv)
{
    __atomic_store_n(&kv->kicked, 1, __ATOMIC_SEQ_CST);
    __atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

/* For the hold: cpu-thread.c does not know of it. */
void kvm_kick(KvmVcpu *kv)
{
    mark_kicked(kv);
    if (__atomic_load_n(&kv->in_run, __ATOMIC_SEQ_CST)) {
        pthread_kill(kv->thread, kick_signal());
    }
}

void kvm_vcpu_kick(VCpu *cpu)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (kv) {
        mark_kicked(kv); /* cpu-thread.c sends the signal */
    }
}

void kvm_vcpu_free(KvmVcpu *kv)
{
    if (!kv) {
        return;
    }
    if (kv->run) {
        munmap(kv->run, kv->a->run_size);
    }
    if (kv->fd >= 0) {
        close(kv->fd);
    }
    kvm_assist_free(kv);
    g_free(kv->cpuid);
    g_free(kv->msr_reset);
    free(kv->xsave_buf);
    g_free(kv);
}

static KvmVcpu *find_parked(KvmAccel *a, int index)
{
    return index < (int)a->vcpus->len ? g_ptr_array_index(a->vcpus, index) : NULL;
}

static KvmVcpu *make_vcpu(KvmAccel *a, int index, GError **error)
{
    KvmVcpu *kv = g_new0(KvmVcpu, 1);
    kv->a = a;
    kv->index = index;
    kv->fd = kvm_ioctl_val(a, a->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (kv->fd < 0) {
        error_set_errno(error, "kvm: cannot create vCPU %d", index);
        kvm_vcpu_free(kv);
        return NULL;
    }
    kv->run = mmap(NULL, a->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, kv->fd, 0);
    if (kv->run == MAP_FAILED) {
        kv->run = NULL;
        error_set_errno(error, "kvm: cannot map the run area of vCPU %d", index);
        kvm_vcpu_free(kv);
        return NULL;
    }
    size_t size = MAX(a->caps[KC_XSAVE2], (int)sizeof(struct kvm_xsave));
    if (posix_memalign(&kv->xsave_buf, 64, size)) {
        kv->xsave_buf = NULL;
        error_set(error, ENGINE_ERROR_LIMIT, "kvm: no memory for vCPU %d", index);
        kvm_vcpu_free(kv);
        return NULL;
    }
    return kv;
}

/* The VM's ring is seen behind every vCPU's run area; the first that is there to stay serves. */
static void find_ring(KvmAccel *a, KvmVcpu *kv)
{
    int page = a->caps[KC_COALESCED_MMIO];
    size_t end = ((size_t)page + 1) * getpagesize();
    if (page > 0 && end <= a->run_size && !a->ring) {
        a->ring = (void *)((char *)kv->run + (size_t)page * getpagesize());
        a->ring_slots = (getpagesize() - sizeof(*a->ring)) / sizeof(a->ring->coalesced_mmio[0]);
    }
}

bool kvm_vcpu_create(VCpu *cpu, GError **error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    KvmAccel *a = KVM_ACCEL(cpu->accel);
    KvmVcpu *kv = find_parked(a, cpu->index);
    if (kv && kv->cpu) {
        return error_set(error, ENGINE_ERROR_INVALID, "kvm: vCPU %d exists already", cpu->index);
    }
    if (!kvm_irq_create(a, error)) {
        return false;
    }
    pthread_once(&once, install_kick_handler);
    bool fresh = !kv;
    if (fresh) {
        kv = make_vcpu(a, cpu->index, error);
        if (!kv) {
            return false;
        }
    }
    kv->cpu = cpu;
    kv->thread = pthread_self();
    kv->kicked = 0;
    kv->run->immediate_exit = 0;
    kv->pending = kv->has_stash = kv->regs_cached = false;
    kv->stepping = kv->stepover = kv->step_halted = false;
    kv->debug_gen = 0;
    kv->intr = kv->nmi = false;
    cpu->hlt_in_accel = kvm_lapic_in_kernel(a);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    if (fresh) {
        if (kvm_lapic_in_kernel(a) && kvm_ioctl(a, kv->fd, KVM_GET_LAPIC, kv->lapic_reset) < 0) {
            error_set_errno(error, "kvm: KVM_GET_LAPIC of vCPU %d", cpu->index);
            kvm_vcpu_free(kv);
            return false;
        }
        pthread_mutex_lock(&a->hold.mutex);
        if (a->vcpus->len <= (unsigned)cpu->index) {
            g_ptr_array_set_size(a->vcpus, cpu->index + 1);
        }
        g_ptr_array_index(a->vcpus, cpu->index) = kv;
        pthread_mutex_unlock(&a->hold.mutex);
        find_ring(a, kv);
    }
    __atomic_store_n((KvmVcpu **)(void *)&cpu->accel_data, kv, __ATOMIC_RELEASE);
    return true;
}

void kvm_vcpu_destroy(VCpu *cpu)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return;
    }
    /* The KvmVcpu itself stays until the VM ends: a kick that is under way may still look at it. */
    __atomic_store_n((KvmVcpu **)(void *)&cpu->accel_data, NULL, __ATOMIC_RELEASE);
    /* Whoever begins a hold on another vCPU's thread signals this one's under the mutex, if it saw
     * it in the guest: from here on nobody does, and the thread may end. */
    pthread_mutex_lock(&kv->a->hold.mutex);
    kv->cpu = NULL;
    pthread_mutex_unlock(&kv->a->hold.mutex);
}

/* ---- CPUID ------------------------------------------------------------------------------- */

static struct kvm_cpuid2 *get_supported(int fd, GError **error)
{
    for (unsigned n = 128; n <= 4096; n *= 2) {
        struct kvm_cpuid2 *c = g_malloc0(sizeof(*c) + n * sizeof(struct kvm_cpuid_entry2));
        c->nent = n;
        if (ioctl(fd, KVM_GET_SUPPORTED_CPUID, c) == 0) {
            return c;
        }
        g_free(c);
        if (errno != E2BIG) {
            break;
        }
    }
    error_set_errno(error, "kvm: KVM_GET_SUPPORTED_CPUID");
    return NULL;
}

CpuidPolicy *kvm_supported_cpuid(GError **error)
{
    const char *path = g_getenv("VMLUA_KVM_DEVICE");
    path = path && *path ? path : "/dev/kvm";
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(error, "kvm: cannot open %s", path);
        return NULL;
    }
    g_autofree struct kvm_cpuid2 *c = get_supported(fd, error);
    if (!c) {
        close(fd);
        return NULL;
    }
    CpuidPolicy *p = cpuid_policy_new();
    for (unsigned i = 0; i < c->nent; i++) {
        const struct kvm_cpuid_entry2 *k = &c->entries[i];
        CpuidEntry e = { .function = k->function,
                         .index = k->index,
                         .has_index = k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                         .eax = k->eax,
                         .ebx = k->ebx,
                         .ecx = k->ecx,
                         .edx = k->edx };
        if (e.function == 1) {
            e.ecx &= ~(1u << 5); /* VMX: nested state is not saved */
            if (ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
                e.ecx |= 1u << 24;
            }
        } else if (e.function == 0x80000001) {
            e.ecx &= ~(1u << 2); /* SVM */
        }
        if (!cpuid_policy_set(p, &e, error)) {
            g_free(p);
            close(fd);
            return NULL;
        }
    }
    close(fd);
    return p;
}

/* What needs a LAPIC in the kernel, taken away where there is none. */
static void drop_lapic_features(struct kvm_cpuid_entry2 *e)
{
    if (e->function == 1) {
        e->ecx &= ~(1u << 21 | 1u << 24); /* x2APIC, TSC deadline */
    } else if (e->function == 0x40000001) {
        e->eax &= ~(1u << 6 | 1u << 7 | 1u << 11 | 1u << 4 | 1u << 14); /* PV EOI, unhalt, IPI,
                                                                           async page faults */
    }
}

static uint32_t xsave_size_of(const CpuidPolicy *p, uint32_t limit)
{
    for (unsigned i = 0; i < p->n; i++) {
        const CpuidEntry *e = &p->entries[i];
        if (e->function == 0xd && e->index == 0) {
            return CLAMP(e->ecx, 576, limit);
        }
    }
    return 576;
}

bool kvm_set_cpuid(VCpu *cpu, GError **error)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return error_set(error, ENGINE_ERROR_GONE, "kvm: vCPU %d is gone", cpu->index);
    }
    KvmAccel *a = kv->a;
    const CpuidPolicy *p = cpu->cpuid;
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[CPUID_MAX_ENTRIES];
    } *c = g_malloc0(sizeof(*c));
    c->head.nent = p ? p->n : 0;
    for (unsigned i = 0; i < c->head.nent; i++) {
        const CpuidEntry *e = &p->entries[i];
        c->entries[i] = (struct kvm_cpuid_entry2){
            .function = e->function,
            .index = e->index,
            .flags = e->has_index ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = e->eax,
            .ebx = e->ebx,
            .ecx = e->ecx,
            .edx = e->edx,
        };
        if (!kvm_lapic_in_kernel(a)) {
            drop_lapic_features(&c->entries[i]);
        }
    }
    size_t size = sizeof(c->head) + c->head.nent * sizeof(c->entries[0]);
    /* After its first run a vCPU keeps its CPUID: one that was parked gets what it had, or nothing.
     */
    bool same = kv->cpuid && kv->cpuid_size == size && memcmp(kv->cpuid, c, size) == 0;
    int r = same ? 0 : kvm_ioctl(a, kv->fd, KVM_SET_CPUID2, c);
    int err = errno;
    if (r == 0 && !same) {
        g_free(kv->cpuid);
        kv->cpuid = g_memdup2(c, size);
        kv->cpuid_size = size;
    }
    g_free(c);
    if (r < 0) {
        errno = err;
        return error_set_errno(error, "kvm: KVM_SET_CPUID2 of vCPU %d (%u leaves)", cpu->index,
                               p ? p->n : 0);
    }
    uint32_t limit = MIN(MAX(a->caps[KC_XSAVE2], (int)sizeof(struct kvm_xsave)), X86_XSAVE_MAX);
    kv->xsave_size = p ? xsave_size_of(p, limit) : 576;
    return kvm_msrs_init(kv, error);
}

bool kvm_set_tsc_khz(VCpu *cpu, uint32_t khz, GError **error)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return error_set(error, ENGINE_ERROR_GONE, "kvm: vCPU %d is gone", cpu->index);
    }
    int now = kvm_ioctl_val(kv->a, kv->fd, KVM_GET_TSC_KHZ, 0);
    if (now == (int)khz) {
        return true;
    }
    if (!kvm_has(kv->a, KC_TSC_CONTROL)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "kvm: a TSC of %u kHz: this host's is %d kHz, and its KVM lacks %s", khz,
                         now, kvm_cap_name(KC_TSC_CONTROL));
    }
    if (kvm_ioctl_val(kv->a, kv->fd, KVM_SET_TSC_KHZ, khz) < 0) {
        return error_set_errno(error, "kvm: KVM_SET_TSC_KHZ %u", khz);
    }
    return true;
}
