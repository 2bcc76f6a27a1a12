/*
 * The KVM accelerator: type, host device, capabilities, creation and end of a VM.
 *
 * Source: Documentation/virt/kvm/api.rst of the Linux kernel. Nested virtualisation is not offered
 * to guests (supported_cpuid leaves VMX and SVM out), because its state is not saved.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* KVM on Intel wants four pages of guest-physical addresses for itself in real mode: below the last
 * 16 MiB, where boards have firmware flash. */
#define KVM_IDENTITY_ADDR UINT64_C(0xfeffc000)
#define KVM_TSS_ADDR      UINT64_C(0xfeffd000)

#define CPUID_1_ECX_VMX        (1u << 5)
#define CPUID_80000001_ECX_SVM (1u << 2)

static const struct {
    const char *name;
    int number;
    bool required;
    const char *what;
} cap_table[KC_COUNT] = {
#define X(cap, req, text) [KC_##cap] = { "KVM_CAP_" #cap, KVM_CAP_##cap, req, text },
    KVM_CAP_TABLE(X)
#undef X
};

int kvm_ioctl(KvmAccel *a, int fd, unsigned long request, void *arg)
{
    struct timespec t0, t1;
    int r;
    if (G_UNLIKELY(a && a->time_ioctls)) {
        clock_gettime(CLOCK_MONOTONIC, &t0);
    }
    do {
        r = ioctl(fd, request, arg);
    } while (r < 0 && errno == EINTR);
    if (G_UNLIKELY(a && a->time_ioctls)) {
        int saved = errno;
        clock_gettime(CLOCK_MONOTONIC, &t1);
        uint64_t ns = (t1.tv_sec - t0.tv_sec) * NS_PER_SEC + t1.tv_nsec - t0.tv_nsec;
        __atomic_fetch_add(&a->ioctl_ns, ns, __ATOMIC_RELAXED);
        __atomic_fetch_add(&a->ioctl_count, 1, __ATOMIC_RELAXED);
        errno = saved;
    }
    return r;
}

int kvm_ioctl_val(KvmAccel *a, int fd, unsigned long request, unsigned long arg)
{
    return kvm_ioctl(a, fd, request, (void *)(uintptr_t)arg);
}

const char *kvm_cap_name(KvmCap cap)
{
    return cap_table[cap].name;
}

bool kvm_require(const KvmAccel *a, KvmCap cap, GError **error)
{
    if (kvm_has(a, cap)) {
        return true;
    }
    return error_set(error, ENGINE_ERROR_UNSUPPORTED, "kvm: this host's KVM lacks %s (%s)",
                     cap_table[cap].name, cap_table[cap].what);
}

static const char *default_device(void)
{
    const char *path = getenv("VMLUA_KVM_DEVICE");
    return path && *path ? path : "/dev/kvm";
}

/* Opens the device and checks the API version; -1 + error says what the user can do about it. */
static int open_device(const char *path, GError **error)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        int err = errno;
        const char *hint = "";
        if (err == ENOENT) {
            hint = ": the kernel module kvm_intel or kvm_amd is not loaded, or virtualisation is "
                   "switched off in the firmware";
        } else if (err == EACCES || err == EPERM) {
            hint = ": the user needs read and write permission, usually by being in the group kvm";
        } else if (err == ENODEV || err == ENXIO) {
            hint = ": the device node has no driver behind it";
        }
        error_set(error, ENGINE_ERROR_UNSUPPORTED, "kvm: cannot open %s: %s%s", path,
                  g_strerror(err), hint);
        return -1;
    }
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        if (version < 0) {
            error_set(error, ENGINE_ERROR_UNSUPPORTED, "kvm: %s is not a KVM device: %s", path,
                      g_strerror(errno));
        } else {
            error_set(error, ENGINE_ERROR_UNSUPPORTED,
                      "kvm: %s speaks KVM API version %d, needed is %d", path, version,
                      KVM_API_VERSION);
        }
        close(fd);
        return -1;
    }
    return fd;
}

static bool check_caps(int fd, int caps[KC_COUNT], GError **error)
{
    g_autoptr(GString) missing = g_string_new(NULL);
    for (unsigned i = 0; i < KC_COUNT; i++) {
        int r = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)cap_table[i].number);
        caps[i] = r > 0 ? r : 0;
        if (cap_table[i].required && !caps[i]) {
            g_string_append_printf(missing, "%s%s (%s)", missing->len ? ", " : "",
                                   cap_table[i].name, cap_table[i].what);
        }
    }
    if (missing->len) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "kvm: this host's KVM lacks %s",
                         missing->str);
    }
    return true;
}

static bool kvm_available(GError **error)
{
    int caps[KC_COUNT];
    int fd = open_device(default_device(), error);
    if (fd < 0) {
        return false;
    }
    bool ok = check_caps(fd, caps, error);
    close(fd);
    return ok;
}

/* KVM without vmx or svm under it interprets every instruction: it works, and is slower than an
 * emulator in user space. */
static bool kvm_preferred(void)
{
    uint32_t eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_1_ECX_VMX)) {
        return true;
    }
    return __get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & CPUID_80000001_ECX_SVM);
}

static bool create_vm(KvmAccel *a, GError **error)
{
    /* EINTR: another thread of the process took a signal. */
    do {
        a->vm_fd = ioctl(a->sys_fd, KVM_CREATE_VM, 0UL);
    } while (a->vm_fd < 0 && errno == EINTR);
    if (a->vm_fd >= 0) {
        return true;
    }
    const char *hint = "";
    if (errno == EBUSY) {
        hint = " (another hypervisor uses the processor's virtualisation)";
    } else if (errno == ENOMEM) {
        hint = " (the host is out of memory)";
    }
    return error_set(error, ENGINE_ERROR_IO, "kvm: cannot create a VM: %s%s", g_strerror(errno),
                     hint);
}

static bool enable_cap(KvmAccel *a, uint32_t number, uint64_t arg)
{
    struct kvm_enable_cap cap = { .cap = number, .args = { arg } };
    return kvm_ioctl(a, a->vm_fd, KVM_ENABLE_CAP, &cap) == 0;
}

static bool setup_vm(KvmAccel *a, GError **error)
{
    uint64_t identity = KVM_IDENTITY_ADDR;
    if (kvm_has(a, KC_SET_IDENTITY_MAP_ADDR) &&
        kvm_ioctl(a, a->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0) {
        return error_set_errno(error, "kvm: KVM_SET_IDENTITY_MAP_ADDR");
    }
    if (kvm_ioctl_val(a, a->vm_fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0) {
        return error_set_errno(error, "kvm: KVM_SET_TSS_ADDR");
    }
    if (kvm_has(a, KC_EXCEPTION_PAYLOAD) && !enable_cap(a, KVM_CAP_EXCEPTION_PAYLOAD, 1)) {
        a->caps[KC_EXCEPTION_PAYLOAD] = 0;
    }
    if (kvm_has(a, KC_X86_TRIPLE_FAULT_EVENT) &&
        !enable_cap(a, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1)) {
        a->caps[KC_X86_TRIPLE_FAULT_EVENT] = 0;
    }
    kvm_assist_enable(a);
    return true;
}

static bool kvm_create(Accel *accel, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);
    a->sys_fd = open_device(a->device_path, error);
    if (a->sys_fd < 0 || !check_caps(a->sys_fd, a->caps, error) || !create_vm(a, error)) {
        return false;
    }
    /* Some capabilities are only known for a VM (KVM_CAP_XSAVE2), and may be fewer there. */
    if (!check_caps(a->vm_fd, a->caps, error)) {
        return false;
    }
    int max = a->caps[KC_MAX_VCPUS];
    if (accel->config.max_cpus > (unsigned)max) {
        return error_set(error, ENGINE_ERROR_LIMIT, "kvm: %u vCPUs asked for, this host allows %d",
                         accel->config.max_cpus, max);
    }
    int size = ioctl(a->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0UL);
    if (size < (int)sizeof(struct kvm_run)) {
        return error_set_errno(error, "kvm: KVM_GET_VCPU_MMAP_SIZE");
    }
    a->run_size = size;
    a->clock_stopped = true; /* until the machine runs */
    if (!setup_vm(a, error) || !kvm_irq_check(a, error)) {
        return false;
    }
    kvm_memory_register(a);
    return true;
}

static void kvm_destroy(Accel *accel)
{
    KvmAccel *a = KVM_ACCEL(accel);
    /* The VM goes first, and with it slots, ioeventfds and lines, instead of one by one: each would
     * wait for a grace period of the kernel. */
    a->ring = NULL;
    g_ptr_array_set_size(a->vcpus, 0);
    if (a->vm_fd >= 0) {
        close(a->vm_fd);
        a->vm_fd = -1;
    }
    if (a->sys_fd >= 0) {
        close(a->sys_fd);
        a->sys_fd = -1;
    }
    kvm_memory_unregister(a);
    kvm_io_forget(a);
    g_array_set_size(a->armed, 0);
    g_array_set_size(a->breaks, 0);
    g_clear_pointer(&a->routes, g_free);
    g_clear_pointer(&a->msr_list, g_free);
    g_clear_pointer(&a->feature_msrs, g_free);
}

static void kvm_stats(Accel *accel, void (*fn)(const char *name, uint64_t value, void *opaque),
                      void *opaque)
{
    KvmAccel *a = KVM_ACCEL(accel);
    fn("kvm-slots", a->slots->len, opaque);
    fn("kvm-slot-changes", a->slot_changes, opaque);
    fn("kvm-holds", __atomic_load_n(&a->holds, __ATOMIC_RELAXED), opaque);
    fn("kvm-coalesced-writes", a->coalesced_writes, opaque);
    fn("kvm-ioctls", __atomic_load_n(&a->ioctl_count, __ATOMIC_RELAXED), opaque);
    kvm_assist_stats(a, fn, opaque);
    fn("kvm-ioctl-ns", __atomic_load_n(&a->ioctl_ns, __ATOMIC_RELAXED), opaque);
}

static void kvm_instance_init(Object *obj)
{
    KvmAccel *a = (KvmAccel *)obj;
    a->sys_fd = a->vm_fd = -1;
    a->device_path = g_strdup(default_device());
    a->step_breaks = !kvm_preferred();
    a->assist = true;
    a->assist_run = kvm_preferred() ? 0 : 4096;
    a->assists = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
    a->vcpus = g_ptr_array_new_with_free_func((GDestroyNotify)kvm_vcpu_free);
    a->slots = g_array_new(FALSE, TRUE, sizeof(KvmSlot));
    a->free_slots = g_array_new(FALSE, TRUE, sizeof(uint32_t));
    a->io_ranges = g_array_new(FALSE, TRUE, sizeof(KvmIoRange));
    a->armed = g_array_new(FALSE, TRUE, sizeof(EventFilter));
    a->breaks = g_array_new(FALSE, TRUE, sizeof(KvmBreak));
    pthread_mutex_init(&a->debug_mutex, NULL);
    kvm_hold_init(&a->hold);
}

static void kvm_instance_finalize(Object *obj)
{
    KvmAccel *a = (KvmAccel *)obj;
    g_free(a->device_path);
    g_ptr_array_free(a->vcpus, TRUE);
    g_array_free(a->slots, TRUE);
    g_array_free(a->free_slots, TRUE);
    g_array_free(a->io_ranges, TRUE);
    g_array_free(a->armed, TRUE);
    g_array_free(a->breaks, TRUE);
    g_hash_table_destroy(a->assists);
    pthread_mutex_destroy(&a->debug_mutex);
    kvm_hold_destroy(&a->hold);
}

static bool get_device_path(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_STRING;
    out->string = g_strdup(((KvmAccel *)obj)->device_path);
    return true;
}

static bool set_device_path(Object *obj, const Property *prop, const PropValue *in, GError **error)
{
    KvmAccel *a = (KvmAccel *)obj;
    if (a->vm_fd >= 0) {
        return error_set(error, ENGINE_ERROR_BUSY, "kvm-accel: device-path: the VM already exists");
    }
    g_free(a->device_path);
    a->device_path = g_strdup(in->string ? in->string : default_device());
    return true;
}

static bool get_assist(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_BOOL;
    out->boolean = ((KvmAccel *)obj)->assist;
    return true;
}

static bool set_assist(Object *obj, const Property *prop, const PropValue *in, GError **error)
{
    KvmAccel *a = (KvmAccel *)obj;
    __atomic_store_n(&a->assist, in->boolean, __ATOMIC_RELAXED);
    return a->vm_fd < 0 || kvm_assist_enable(a) || error_set_errno(error, "kvm-accel: assist");
}

static const Property kvm_props[] = {
    { .name = "assist",
      .doc = "The software CPU executes instructions that KVM reports it cannot emulate",
      .kind = PROP_BOOL,
      .offset = -1,
      .get = get_assist,
      .set = set_assist },
    { .name = "assist-run",
      .doc = "How many instructions it may go on after such a one, while they need no device; 0 "
             "where KVM has hardware under it",
      .kind = PROP_UINT,
      .bits = 32,
      .offset = offsetof(KvmAccel, assist_run) },
    { .name = "device-path",
      .doc = "The KVM device; VMLUA_KVM_DEVICE in the environment changes the default",
      .kind = PROP_STRING,
      .offset = -1,
      .get = get_device_path,
      .set = set_device_path },
    { .name = "step-breakpoints",
      .doc = "Breakpoints beyond the four of the processor by single steps instead of INT3; the "
             "default where KVM has no hardware under it, because its interpreter keeps INT3 to "
             "itself",
      .kind = PROP_BOOL,
      .offset = offsetof(KvmAccel, step_breaks) },
    { .name = "time-ioctls",
      .doc = "Count and time the ioctls other than KVM_RUN, for the statistics",
      .kind = PROP_BOOL,
      .has_default = true,
      .def = { .kind = PROP_BOOL, .boolean = false },
      .offset = offsetof(KvmAccel, time_ioctls) },
};

static void kvm_class_init(ObjectClass *klass, const void *data)
{
    AccelClass *ac = (AccelClass *)klass;
    ac->short_name = "kvm";
    ac->available = kvm_available;
    ac->preferred = kvm_preferred;
    ac->create = kvm_create;
    ac->destroy = kvm_destroy;
    ac->vcpu_create = kvm_vcpu_create;
    ac->vcpu_destroy = kvm_vcpu_destroy;
    ac->vcpu_run = kvm_vcpu_run;
    ac->vcpu_finish_exit = kvm_vcpu_finish_exit;
    ac->vcpu_kick = kvm_vcpu_kick;
    ac->vcpu_has_work = kvm_vcpu_has_work;
    ac->get_state = kvm_get_state;
    ac->put_state = kvm_put_state;
    ac->check_state = kvm_check_state;
    ac->set_cpuid = kvm_set_cpuid;
    ac->supported_cpuid = kvm_supported_cpuid;
    ac->set_gsi = kvm_set_gsi;
    ac->send_msi = kvm_send_msi;
    ac->add_irqfd = kvm_add_irqfd;
    ac->del_irqfd = kvm_del_irqfd;
    ac->route_msi = kvm_route_msi;
    ac->inject_nmi = kvm_inject_nmi;
    ac->set_intr = kvm_set_intr;
    ac->set_a20 = kvm_set_a20;
    ac->arm = kvm_arm;
    ac->disarm = kvm_disarm;
    ac->step = kvm_step;
    ac->hide_breakpoints = kvm_hide_breakpoints;
    ac->set_tsc_khz = kvm_set_tsc_khz;
    ac->clock_changed = kvm_clock_changed;
    ac->vmstate = kvm_vmstate;
    ac->chips = kvm_chips;
    ac->chips_get = kvm_chips_get;
    ac->chips_put = kvm_chips_put;
    ac->mute_pit = kvm_mute_pit;
    ac->speaker_frequency = kvm_speaker_frequency;
    ac->stats = kvm_stats;
    object_class_add_properties(klass, kvm_props, G_N_ELEMENTS(kvm_props));
}

static const TypeInfo kvm_accel_info = {
    .name = TYPE_KVM_ACCEL,
    .parent = TYPE_ACCEL,
    .doc = "Runs guests on Linux KVM",
    .instance_size = sizeof(KvmAccel),
    .instance_init = kvm_instance_init,
    .instance_finalize = kvm_instance_finalize,
    .class_init = kvm_class_init,
};

static void kvm_register_types(void)
{
    type_register_static(&kvm_accel_info);
}
type_init(kvm_register_types)
