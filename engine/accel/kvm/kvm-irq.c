/*
 * Interrupts: the in-kernel PIC, IOAPIC, LAPICs and PIT, their routing, irqfds, MSIs; and, without
 * an in-kernel PIC, injection of a vector when the guest can take it.
 *
 * Routing is the PC's: line n goes to PIC pin n (n < 16) and IOAPIC pin n, except line 0 (the PIT),
 * which is on IOAPIC pin 2, where PCs have had it since there are IOAPICs. Lines from 24 on are
 * free for MSI routes.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define PINS 24u

/* ---- routing ------------------------------------------------------------------------------ */

static void add_route(KvmAccel *a, const struct kvm_irq_routing_entry *e)
{
    unsigned n = a->routes ? a->routes->nr : 0;
    if (n == a->routes_allocated) {
        a->routes_allocated = n ? n * 2 : 64;
        a->routes = g_realloc(a->routes, sizeof(*a->routes) + a->routes_allocated * sizeof(*e));
        a->routes->nr = n;
        a->routes->flags = 0;
    }
    a->routes->entries[n] = *e;
    a->routes->nr = n + 1;
}

static void add_chip_route(KvmAccel *a, unsigned gsi, unsigned chip, unsigned pin)
{
    struct kvm_irq_routing_entry e = { .gsi = gsi,
                                       .type = KVM_IRQ_ROUTING_IRQCHIP,
                                       .u.irqchip = { .irqchip = chip, .pin = pin } };
    add_route(a, &e);
}

static bool commit_routes(KvmAccel *a, GError **error)
{
    if (kvm_ioctl(a, a->vm_fd, KVM_SET_GSI_ROUTING, a->routes) < 0) {
        return error_set_errno(error, "kvm: KVM_SET_GSI_ROUTING (%u routes)", a->routes->nr);
    }
    return true;
}

static bool default_routes(KvmAccel *a, GError **error)
{
    if (!kvm_has(a, KC_IRQ_ROUTING)) {
        return true;
    }
    for (unsigned i = 0; i < PINS; i++) {
        if (i < 16) {
            add_chip_route(a, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, i % 8);
        }
        if (i == 0) {
            add_chip_route(a, 0, KVM_IRQCHIP_IOAPIC, 2);
        } else if (i != 2) {
            add_chip_route(a, i, KVM_IRQCHIP_IOAPIC, i);
        }
    }
    return commit_routes(a, error);
}

bool kvm_irq_check(KvmAccel *a, GError **error)
{
    const AccelConfig *c = &a->parent.config;
    if (c->pit && c->irqchip != IRQCHIP_ON) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "kvm: an in-kernel PIT needs the in-kernel interrupt controller");
    }
    return (c->irqchip != IRQCHIP_SPLIT || kvm_require(a, KC_SPLIT_IRQCHIP, error)) &&
           (c->irqchip != IRQCHIP_ON || kvm_require(a, KC_IRQCHIP, error)) &&
           (!c->pit || kvm_require(a, KC_PIT2, error));
}

bool kvm_irq_create(KvmAccel *a, GError **error)
{
    const AccelConfig *c = &a->parent.config;
    if (a->irqchip_made) {
        return true;
    }
    if (c->irqchip == IRQCHIP_SPLIT) {
        struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { PINS } };
        if (kvm_ioctl(a, a->vm_fd, KVM_ENABLE_CAP, &cap) < 0) {
            return error_set_errno(error, "kvm: cannot enable the split interrupt controller");
        }
    } else if (c->irqchip == IRQCHIP_ON) {
        if (kvm_ioctl_val(a, a->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0) {
            return error_set_errno(error, "kvm: cannot create the interrupt controller");
        }
        if (!default_routes(a, error)) {
            return false;
        }
    }
    if (c->pit) {
        /* With the speaker flag KVM also serves port 0x61, where software reads channel 2. */
        struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
        if (kvm_ioctl(a, a->vm_fd, KVM_CREATE_PIT2, &pit) < 0) {
            return error_set_errno(error, "kvm: cannot create the PIT");
        }
        kvm_pit_read(a);
    }
    a->irqchip_made = true;
    return true;
}

static bool need_chip(KvmAccel *a, const char *what, GError **error)
{
    if (a->parent.config.irqchip != IRQCHIP_OFF) {
        return kvm_irq_create(a, error);
    }
    return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                     "kvm: %s needs an interrupt controller in the kernel (irqchip on or split)",
                     what);
}

bool kvm_route_msi(Accel *accel, unsigned gsi, uint64_t addr, uint32_t data, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);
    if (!need_chip(a, "an MSI route", error) || !kvm_require(a, KC_IRQ_ROUTING, error)) {
        return false;
    }
    if (gsi >= (unsigned)a->caps[KC_IRQ_ROUTING]) {
        return error_set(error, ENGINE_ERROR_LIMIT, "kvm: gsi %u: this host has %d", gsi,
                         a->caps[KC_IRQ_ROUTING]);
    }
    if (gsi < PINS && accel->config.irqchip == IRQCHIP_ON) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "kvm: gsi %u is a pin of the in-kernel IOAPIC; MSI routes begin at %u",
                         gsi, PINS);
    }
    struct kvm_irq_routing_entry e = { .gsi = gsi,
                                       .type = KVM_IRQ_ROUTING_MSI,
                                       .u.msi = { .address_lo = (uint32_t)addr,
                                                  .address_hi = (uint32_t)(addr >> 32),
                                                  .data = data } };
    for (unsigned i = 0; a->routes && i < a->routes->nr; i++) {
        if (a->routes->entries[i].gsi == gsi) {
            a->routes->entries[i] = e;
            return commit_routes(a, error);
        }
    }
    add_route(a, &e);
    return commit_routes(a, error);
}

/* ---- lines, messages, irqfds --------------------------------------------------------------- */

void kvm_set_gsi(Accel *accel, unsigned gsi, int level)
{
    KvmAccel *a = KVM_ACCEL(accel);
    struct kvm_irq_level l = { .irq = gsi, .level = level != 0 };
    if (gsi < PINS) {
        a->lines = level ? a->lines | 1u << gsi : a->lines & ~(1u << gsi);
    }
    if (!a->irqchip_made && !level) {
        return; /* lines are low when the controller is made */
    }
    if (accel->config.irqchip != IRQCHIP_ON || !kvm_irq_create(a, NULL) ||
        kvm_ioctl(a, a->vm_fd, KVM_IRQ_LINE, &l) < 0) {
        log_mask(LOG_IRQ, "kvm: line %u has nowhere to go", gsi);
    }
}

bool kvm_send_msi(Accel *accel, uint64_t addr, uint32_t data, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);
    struct kvm_msi m = { .address_lo = (uint32_t)addr,
                         .address_hi = (uint32_t)(addr >> 32),
                         .data = data };
    if (!need_chip(a, "an MSI", error) || !kvm_require(a, KC_SIGNAL_MSI, error)) {
        return false;
    }
    if (kvm_ioctl(a, a->vm_fd, KVM_SIGNAL_MSI, &m) < 0) {
        return error_set_errno(error, "kvm: MSI to %#llx, data %#x", (unsigned long long)addr,
                               data);
    }
    return true;
}

bool kvm_add_irqfd(Accel *accel, int fd, int resample_fd, unsigned gsi, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);
    struct kvm_irqfd k = { .fd = (uint32_t)fd, .gsi = gsi };
    if (!need_chip(a, "an irqfd", error) || !kvm_require(a, KC_IRQFD, error)) {
        return false;
    }
    if (resample_fd >= 0) {
        if (!kvm_require(a, KC_IRQFD_RESAMPLE, error)) {
            return false;
        }
        k.flags |= KVM_IRQFD_FLAG_RESAMPLE;
        k.resamplefd = (uint32_t)resample_fd;
    }
    if (kvm_ioctl(a, a->vm_fd, KVM_IRQFD, &k) < 0) {
        return error_set_errno(error, "kvm: irqfd for gsi %u", gsi);
    }
    return true;
}

void kvm_del_irqfd(Accel *accel, int fd, unsigned gsi)
{
    KvmAccel *a = KVM_ACCEL(accel);
    struct kvm_irqfd k = { .fd = (uint32_t)fd, .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN };
    if (kvm_ioctl(a, a->vm_fd, KVM_IRQFD, &k) < 0) {
        log_mask(LOG_IRQ, "kvm: no irqfd for gsi %u to remove", gsi);
    }
}

/* ---- injection ---------------------------------------------------------------------------- */

bool kvm_inject_nmi(VCpu *cpu, GError **error)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return error_set(error, ENGINE_ERROR_GONE, "kvm: vCPU %d is gone", cpu->index);
    }
    if (!kvm_require(kv->a, KC_USER_NMI, error)) {
        return false;
    }
    /* The ioctl waits until the vCPU has left KVM_RUN; a message to its LAPIC does not. */
    if (kvm_lapic_in_kernel(kv->a) && kvm_has(kv->a, KC_SIGNAL_MSI) && cpu->index < 255) {
        return kvm_send_msi(&kv->a->parent, 0xfee00000u | (uint32_t)cpu->index << 12, 4u << 8,
                            error);
    }
    kvm_kick(kv);
    if (kvm_ioctl_val(kv->a, kv->fd, KVM_NMI, 0) < 0) {
        return error_set_errno(error, "kvm: KVM_NMI of vCPU %d", cpu->index);
    }
    __atomic_store_n(&kv->nmi, true, __ATOMIC_SEQ_CST);
    cpu_request(cpu, CPU_REQ_IRQ);
    return true;
}

/* Halted outside KVM: there is no LAPIC, so only the line and an NMI can wake it. */
bool kvm_vcpu_has_work(VCpu *cpu)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return false;
    }
    bool interrupts = cpu->state_valid & X86_STATE_GPR ? (cpu->state->rflags >> 9) & 1
                                                       : kv->run->if_flag;
    return __atomic_exchange_n(&kv->nmi, false, __ATOMIC_SEQ_CST) ||
           (interrupts && __atomic_load_n(&kv->intr, __ATOMIC_ACQUIRE));
}

void kvm_set_intr(VCpu *cpu, bool level, int (*vector)(void *opaque), void *opaque)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return;
    }
    kv->intr_vector = vector;
    kv->intr_opaque = opaque;
    __atomic_store_n(&kv->intr, level, __ATOMIC_RELEASE);
    if (level) {
        cpu_request(cpu, CPU_REQ_IRQ);
    }
}

/*
 * With a LAPIC in the kernel KVM_INTERRUPT would keep the vector where no ioctl shows it until the
 * guest takes it, and a snapshot between the two would lose it. As an event that is on its way to
 * the guest it is in the state at any time. Both may only be done when the guest can take it.
 */
static bool give_vector(KvmVcpu *kv, unsigned vector)
{
    struct kvm_interrupt irq = { .irq = vector };
    struct kvm_vcpu_events e;
    if (!kvm_lapic_in_kernel(kv->a)) {
        return kvm_ioctl(kv->a, kv->fd, KVM_INTERRUPT, &irq) == 0;
    }
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_VCPU_EVENTS, &e) < 0) {
        return false;
    }
    e.interrupt.injected = 1;
    e.interrupt.soft = 0;
    e.interrupt.nr = (uint8_t)vector;
    /* One may arrive meanwhile. */
    e.flags &= ~(uint32_t)KVM_VCPUEVENT_VALID_NMI_PENDING;
    if (kvm_ioctl(kv->a, kv->fd, KVM_SET_VCPU_EVENTS, &e) < 0) {
        return false;
    }
    /* A halt in the kernel looks for what is pending there, not for what is on its way. */
    struct kvm_mp_state mp;
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_MP_STATE, &mp) == 0 &&
        mp.mp_state == KVM_MP_STATE_HALTED) {
        mp.mp_state = KVM_MP_STATE_RUNNABLE;
        kvm_ioctl(kv->a, kv->fd, KVM_SET_MP_STATE, &mp);
    }
    return true;
}

bool kvm_intr_level(const KvmAccel *a)
{
    const KvmVcpu *kv = a->vcpus->len ? g_ptr_array_index(a->vcpus, 0) : NULL;
    return kv && __atomic_load_n(&kv->intr, __ATOMIC_ACQUIRE);
}

void kvm_inject_intr(KvmVcpu *kv)
{
    struct kvm_run *run = kv->run;
    run->request_interrupt_window = 0;
    if (!__atomic_load_n(&kv->intr, __ATOMIC_ACQUIRE)) {
        return;
    }
    if (run->ready_for_interrupt_injection && run->if_flag) {
        engine_lock();
        /* Again under the lock: the line may have gone down, and what to ask with it. */
        int v = kv->intr && kv->intr_vector ? kv->intr_vector(kv->intr_opaque) : -1;
        engine_unlock();
        if (v >= 0) {
            if (!give_vector(kv, (unsigned)v)) {
                log_mask(LOG_IRQ, "kvm: vCPU %d: interrupt %d: %s", kv->index, v,
                         g_strerror(errno));
            }
            run->ready_for_interrupt_injection = 0;
        }
    }
    if (__atomic_load_n(&kv->intr, __ATOMIC_ACQUIRE)) {
        run->request_interrupt_window = 1;
    }
}
