/*
 * Hypercalls that a hook watches.
 *
 * KVM answers VMCALL and VMMCALL itself and returns -KVM_ENOSYS for numbers it does not know,
 * without an exit. The one general way to see them is its Xen support: a VM whose hypercalls are
 * declared to be Xen's hands every one to user space. Then KVM's own hypercalls come here too, and
 * those that guests rely on are done as KVM does them (Documentation/virt/kvm/x86/hypercalls.rst).
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <linux/kvm_para.h>

bool kvm_hypercall_update(KvmAccel *a, GError **error)
{
    unsigned users = 0;
    for (unsigned i = 0; i < a->armed->len; i++) {
        users += g_array_index(a->armed, EventFilter, i).source == EVENT_HYPERCALL;
    }
    if ((users != 0) == (a->hypercall_users != 0)) {
        a->hypercall_users = users;
        return true;
    }
    if (!(a->caps[KC_XEN_HVM] & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "hypercalls: KVM answers them inside the kernel, and this host's lacks "
                         "%s with hypercall interception (a kernel with CONFIG_KVM_XEN has it); "
                         "use the soft accelerator",
                         kvm_cap_name(KC_XEN_HVM));
    }
    struct kvm_xen_hvm_config c = { .flags = users ? KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL : 0 };
    if (kvm_ioctl(a, a->vm_fd, KVM_XEN_HVM_CONFIG, &c) < 0) {
        return error_set_errno(error, "kvm: cannot intercept hypercalls");
    }
    a->hypercall_users = users;
    return true;
}

static uint64_t send_ipis(KvmAccel *a, uint64_t low, uint64_t high, uint64_t min, uint64_t icr,
                          unsigned cluster)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < 2 * cluster; i++) {
        uint64_t map = i < cluster ? low >> i : high >> (i - cluster);
        uint64_t id = min + i;
        if ((map & 1) && id < 255 &&
            kvm_send_msi(&a->parent, 0xfee00000u | id << 12, (uint32_t)icr & 0x7ff, NULL)) {
            count++;
        }
    }
    return count;
}

uint64_t kvm_hypercall_default(KvmVcpu *kv, const CpuExit *x, bool longmode, unsigned cpl)
{
    KvmAccel *a = kv->a;
    const uint64_t mask = longmode ? UINT64_MAX : UINT32_MAX;
    const uint64_t a0 = x->args[0] & mask, a1 = x->args[1] & mask, a2 = x->args[2] & mask,
                   a3 = x->args[3] & mask;
    if (cpl) {
        return (uint64_t)-KVM_EPERM;
    }
    switch (x->addr) {
    case KVM_HC_VAPIC_POLL_IRQ:
    case KVM_HC_SCHED_YIELD:
        return 0;
    case KVM_HC_KICK_CPU:
        /* Delivery mode 3 wakes a halted processor and does nothing else. */
        if (a1 < 255 && kvm_lapic_in_kernel(a)) {
            kvm_send_msi(&a->parent, 0xfee00000u | a1 << 12, 3u << 8, NULL);
            return 0;
        }
        return (uint64_t)-KVM_ENOSYS;
    case KVM_HC_SEND_IPI:
        return kvm_lapic_in_kernel(a) ? send_ipis(a, a0, a1, a2, a3, longmode ? 64 : 32)
                                      : (uint64_t)-KVM_ENOSYS;
    case KVM_HC_CLOCK_PAIRING:
        return (uint64_t)-KVM_EOPNOTSUPP;
    default:
        return (uint64_t)-KVM_ENOSYS;
    }
}
