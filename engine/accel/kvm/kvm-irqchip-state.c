/*
 * Saved state of what KVM keeps in the kernel for the whole VM: PIC, IOAPIC, PIT, paravirtual
 * clock. Read into KvmChips before saving, given back after loading.
 *
 * While the machine's clock stands, the paravirtual clock and the PIT stand too: their values at
 * the stop are given back when it goes on.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>

#define PIT_HZ 1193182

static bool has_pic(const KvmAccel *a)
{
    return a->irqchip_made && a->parent.config.irqchip == IRQCHIP_ON;
}

static bool has_pit(const KvmAccel *a)
{
    return a->irqchip_made && a->parent.config.pit && kvm_has(a, KC_PIT_STATE2);
}

static bool chip_ioctl(KvmAccel *a, unsigned long request, struct kvm_irqchip *c, unsigned id)
{
    c->chip_id = id;
    if (kvm_ioctl(a, a->vm_fd, request, c) < 0) {
        log_warning("kvm: state of interrupt controller %u: %s", id, g_strerror(errno));
        return false;
    }
    return true;
}

/* KvmPic has the kernel's fields in the kernel's order, all bytes. */
G_STATIC_ASSERT(sizeof(KvmPic) == sizeof(struct kvm_pic_state));

static void get_chips(KvmAccel *a)
{
    struct kvm_irqchip c;
    for (unsigned i = 0; i < 2; i++) {
        memset(&c, 0, sizeof(c));
        if (chip_ioctl(a, KVM_GET_IRQCHIP, &c, i)) {
            memcpy(&a->chips.pic[i], &c.chip.pic, sizeof(KvmPic));
        }
    }
    memset(&c, 0, sizeof(c));
    if (chip_ioctl(a, KVM_GET_IRQCHIP, &c, KVM_IRQCHIP_IOAPIC)) {
        a->chips.ioapic_base = c.chip.ioapic.base_address;
        a->chips.ioapic_select = c.chip.ioapic.ioregsel;
        a->chips.ioapic_id = c.chip.ioapic.id;
        a->chips.ioapic_irr = c.chip.ioapic.irr;
        for (unsigned i = 0; i < 24; i++) {
            a->chips.ioapic_redir[i] = c.chip.ioapic.redirtbl[i].bits;
        }
    }
}

static void put_chips(KvmAccel *a)
{
    struct kvm_irqchip c;
    for (unsigned i = 0; i < 2; i++) {
        memset(&c, 0, sizeof(c));
        memcpy(&c.chip.pic, &a->chips.pic[i], sizeof(KvmPic));
        chip_ioctl(a, KVM_SET_IRQCHIP, &c, i);
    }
    memset(&c, 0, sizeof(c));
    c.chip.ioapic.base_address = a->chips.ioapic_base;
    c.chip.ioapic.ioregsel = a->chips.ioapic_select;
    c.chip.ioapic.id = a->chips.ioapic_id;
    c.chip.ioapic.irr = a->chips.ioapic_irr;
    for (unsigned i = 0; i < 24; i++) {
        c.chip.ioapic.redirtbl[i].bits = a->chips.ioapic_redir[i];
    }
    chip_ioctl(a, KVM_SET_IRQCHIP, &c, KVM_IRQCHIP_IOAPIC);
}

/* The time at which a channel was loaded is not state: KVM loads channels anew when they are set.
 */
void kvm_pit_read(KvmAccel *a)
{
    struct kvm_pit_state2 p = { 0 };
    if (kvm_ioctl(a, a->vm_fd, KVM_GET_PIT2, &p) < 0) {
        log_warning("kvm: KVM_GET_PIT2: %s", g_strerror(errno));
        return;
    }
    a->chips.pit_flags = p.flags;
    for (unsigned i = 0; i < 3; i++) {
        const struct kvm_pit_channel_state *k = &p.channels[i];
        a->chips.pit[i] = (KvmChannel){ .count = k->count,
                                        .latched_count = k->latched_count,
                                        .count_latched = k->count_latched,
                                        .status_latched = k->status_latched,
                                        .status = k->status,
                                        .read_state = k->read_state,
                                        .write_state = k->write_state,
                                        .write_latch = k->write_latch,
                                        .rw_mode = k->rw_mode,
                                        .mode = k->mode,
                                        .bcd = k->bcd,
                                        .gate = k->gate };
    }
}

static void put_pit(KvmAccel *a)
{
    struct kvm_pit_state2 p = { .flags = a->chips.pit_flags };

    /* Not of the saved state: the event timers' own says it. */
    p.flags &= ~(uint32_t)KVM_PIT_FLAGS_HPET_LEGACY;
    p.flags |= a->pit_muted ? KVM_PIT_FLAGS_HPET_LEGACY : 0;
    for (unsigned i = 0; i < 3; i++) {
        const KvmChannel *c = &a->chips.pit[i];
        p.channels[i] = (struct kvm_pit_channel_state){ .count = c->count,
                                                        .latched_count = c->latched_count,
                                                        .count_latched = c->count_latched,
                                                        .status_latched = c->status_latched,
                                                        .status = c->status,
                                                        .read_state = c->read_state,
                                                        .write_state = c->write_state,
                                                        .write_latch = c->write_latch,
                                                        .rw_mode = c->rw_mode,
                                                        .mode = c->mode,
                                                        .bcd = c->bcd,
                                                        .gate = c->gate };
    }
    if (kvm_ioctl(a, a->vm_fd, KVM_SET_PIT2, &p) < 0) {
        log_warning("kvm: KVM_SET_PIT2: %s", g_strerror(errno));
    }
}

void kvm_mute_pit(Accel *accel, bool muted)
{
    KvmAccel *a = KVM_ACCEL(accel);

    if (a->pit_muted == muted) {
        return;
    }
    a->pit_muted = muted;
    if (has_pit(a) && !a->clock_stopped) { /* else it is given when the clock goes on */
        kvm_pit_read(a);
        put_pit(a);
    }
}

unsigned kvm_speaker_frequency(Accel *accel)
{
    KvmAccel *a = KVM_ACCEL(accel);
    const KvmChannel *c = &a->chips.pit[2];

    if (!has_pit(a)) {
        return 0;
    }
    if (!a->clock_stopped) {
        kvm_pit_read(a);
    }
    /* A square wave or pulses, with the gate open and the loudspeaker on. */
    if (!(a->chips.pit_flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) || !c->gate || (c->mode & 2) == 0 ||
        c->count < 2) {
        return 0;
    }
    return (PIT_HZ + c->count / 2) / c->count;
}

static void get_clock(KvmAccel *a)
{
    struct kvm_clock_data c = { 0 };
    if (kvm_has(a, KC_ADJUST_CLOCK) && kvm_ioctl(a, a->vm_fd, KVM_GET_CLOCK, &c) == 0) {
        a->chips.clock = c.clock;
    }
}

static void put_clock(KvmAccel *a)
{
    struct kvm_clock_data c = { .clock = a->chips.clock };
    if (kvm_has(a, KC_ADJUST_CLOCK) && kvm_ioctl(a, a->vm_fd, KVM_SET_CLOCK, &c) < 0) {
        log_warning("kvm: KVM_SET_CLOCK: %s", g_strerror(errno));
    }
}

void kvm_clock_changed(Accel *accel, bool running)
{
    KvmAccel *a = KVM_ACCEL(accel);
    if (a->vm_fd < 0) {
        return;
    }
    kvm_debug_clock(a, running);
    if (running) {
        kvm_flush_stopped(a);
    }
    if (!running && !a->clock_stopped) {
        get_clock(a);
        if (has_pit(a)) {
            kvm_pit_read(a);
        }
        /* Tells a guest with the paravirtual clock that a pause was not a lock-up. EINVAL: it has
         * none. */
        for (unsigned i = 0; kvm_has(a, KC_KVMCLOCK_CTRL) && i < a->vcpus->len; i++) {
            KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);
            if (kv && kv->cpu && !__atomic_load_n(&kv->in_run, __ATOMIC_SEQ_CST)) {
                kvm_ioctl_val(a, kv->fd, KVM_KVMCLOCK_CTRL, 0);
            }
        }
        a->clock_stopped = true;
    } else if (running && a->clock_stopped) {
        a->clock_stopped = false;
        put_clock(a);
        if (has_pit(a)) {
            put_pit(a);
        }
    }
}

/* ---- description -------------------------------------------------------------------------- */

static void chips_pre_save(void *opaque)
{
    KvmAccel *a = opaque;
    if (has_pic(a)) {
        get_chips(a);
    }
    if (!a->clock_stopped) {
        get_clock(a);
        if (has_pit(a)) {
            kvm_pit_read(a);
        }
    }
}

static bool chips_post_load(void *opaque, unsigned version, GError **error)
{
    KvmAccel *a = opaque;
    for (unsigned i = 0; i < 3; i++) {
        if (a->chips.pit[i].count > 0x10000) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "PIT channel %u: count %#x", i,
                             a->chips.pit[i].count);
        }
    }
    if (has_pic(a)) {
        put_chips(a);
    }
    /* With the clock standing these wait for it to go on. */
    if (!a->clock_stopped) {
        put_clock(a);
        if (has_pit(a)) {
            put_pit(a);
        }
    }
    return true;
}

static const VMStateField pic_fields[] = {
    VMSTATE_UINT8(last_irr, KvmPic),
    VMSTATE_UINT8(irr, KvmPic),
    VMSTATE_UINT8(imr, KvmPic),
    VMSTATE_UINT8(isr, KvmPic),
    VMSTATE_UINT8(priority_add, KvmPic),
    VMSTATE_UINT8(irq_base, KvmPic),
    VMSTATE_UINT8(read_reg_select, KvmPic),
    VMSTATE_UINT8(poll, KvmPic),
    VMSTATE_UINT8(special_mask, KvmPic),
    VMSTATE_UINT8(init_state, KvmPic),
    VMSTATE_UINT8(auto_eoi, KvmPic),
    VMSTATE_UINT8(rotate_on_auto_eoi, KvmPic),
    VMSTATE_UINT8(special_fully_nested_mode, KvmPic),
    VMSTATE_UINT8(init4, KvmPic),
    VMSTATE_UINT8(elcr, KvmPic),
    VMSTATE_UINT8(elcr_mask, KvmPic),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_pic = {
    .name = "kvm-pic",
    .version = 1,
    .minimum_version = 1,
    .fields = pic_fields,
};

static const VMStateField channel_fields[] = {
    VMSTATE_UINT32(count, KvmChannel),
    VMSTATE_UINT16(latched_count, KvmChannel),
    VMSTATE_UINT8(count_latched, KvmChannel),
    VMSTATE_UINT8(status_latched, KvmChannel),
    VMSTATE_UINT8(status, KvmChannel),
    VMSTATE_UINT8(read_state, KvmChannel),
    VMSTATE_UINT8(write_state, KvmChannel),
    VMSTATE_UINT8(write_latch, KvmChannel),
    VMSTATE_UINT8(rw_mode, KvmChannel),
    VMSTATE_UINT8(mode, KvmChannel),
    VMSTATE_UINT8(bcd, KvmChannel),
    VMSTATE_UINT8(gate, KvmChannel),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_channel = {
    .name = "kvm-pit-channel",
    .version = 1,
    .minimum_version = 1,
    .fields = channel_fields,
};

static const VMStateField chip_fields[] = {
    VMSTATE_STRUCT_ARRAY(chips.pic, KvmAccel, vmstate_pic),
    VMSTATE_UINT64(chips.ioapic_base, KvmAccel),
    VMSTATE_UINT32(chips.ioapic_select, KvmAccel),
    VMSTATE_UINT32(chips.ioapic_id, KvmAccel),
    VMSTATE_UINT32(chips.ioapic_irr, KvmAccel),
    VMSTATE_UINT64_ARRAY(chips.ioapic_redir, KvmAccel),
    VMSTATE_STRUCT_ARRAY(chips.pit, KvmAccel, vmstate_channel),
    VMSTATE_UINT32(chips.pit_flags, KvmAccel),
    VMSTATE_UINT64(chips.clock, KvmAccel),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_chips = {
    .name = "kvm-chips",
    .version = 1,
    .minimum_version = 1,
    .pre_save = chips_pre_save,
    .post_load = chips_post_load,
    .fields = chip_fields,
};

const VMStateDescription *kvm_chips_vmstate(Accel *a)
{
    return &vmstate_chips;
}
