/*
 * Between the saved forms of a PC's chips (engine/cpu/pc-chips.h) and what KVM keeps in the kernel:
 * PIC, IOAPIC, PIT with port 0x61; and the paravirtual clock. Local APICs: kvm-apic-state.c.
 *
 * While the machine's clock stands, the paravirtual clock and the PIT stand too: their values at
 * the stop are given back when it goes on.
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define PIT_MODE_NONE 0xff /* KVM's mode of a counter that was never programmed */
enum { KVM_RW_WORD0 = 3, KVM_RW_WORD1 = 4 };
enum { PIT_PIN = 2 }; /* of the IOAPIC: line 0 */

static bool has_pic(const KvmAccel *a)
{
    return a->irqchip_made && a->parent.config.irqchip == IRQCHIP_ON;
}

static bool has_pit(const KvmAccel *a)
{
    return a->irqchip_made && a->parent.config.pit && kvm_has(a, KC_PIT_STATE2);
}

static int64_t virtual_now(const KvmAccel *a)
{
    return a->parent.config.clock ? clock_now(a->parent.config.clock) : 0;
}

static bool chip_ioctl(KvmAccel *a, unsigned long request, struct kvm_irqchip *c, unsigned id,
                       GError **error)
{
    c->chip_id = id;
    return kvm_ioctl(a, a->vm_fd, request, c) == 0 ||
           error_set_errno(error, "kvm: state of interrupt controller %u", id);
}

/* ---- the paravirtual clock ------------------------------------------------------------------ */

static void get_clock(KvmAccel *a)
{
    struct kvm_clock_data c = { 0 };
    if (kvm_has(a, KC_ADJUST_CLOCK) && kvm_ioctl(a, a->vm_fd, KVM_GET_CLOCK, &c) == 0) {
        a->pv_clock = c.clock;
    }
}

static void put_clock(KvmAccel *a)
{
    struct kvm_clock_data c = { .clock = a->pv_clock };
    if (kvm_has(a, KC_ADJUST_CLOCK) && kvm_ioctl(a, a->vm_fd, KVM_SET_CLOCK, &c) < 0) {
        log_warning("kvm: KVM_SET_CLOCK: %s", g_strerror(errno));
    }
}

/* ---- 8259A --------------------------------------------------------------------------------- */

static void pic_from_kvm(PicChip *c, const struct kvm_pic_state *k, unsigned which)
{
    *c = (PicChip){ .lines = k->last_irr,
                    .irr = k->irr,
                    .isr = k->isr,
                    .imr = k->imr,
                    .elcr = k->elcr & (which ? 0xde : 0xf8),
                    .base = k->irq_base & 0xf8,
                    .lowest = (k->priority_add + 7) & 7,
                    .init_state = k->init_state & 3,
                    .icw1 = k->init4 ? PIC_ICW1_IC4 : 0,
                    .auto_eoi = k->auto_eoi,
                    .rotate_aeoi = k->rotate_on_auto_eoi,
                    .special_nested = k->special_fully_nested_mode,
                    .special_mask = k->special_mask,
                    .poll = k->poll,
                    .read_isr = k->read_reg_select };
}

static bool pic_to_kvm(struct kvm_pic_state *k, const PicChip *c, unsigned which, GError **error)
{
    if (c->icw1 & PIC_ICW1_LTIM) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "kvm: the guest has set interrupt controller %u to sense levels (LTIM), "
                         "which KVM's cannot",
                         which);
    }
    *k = (struct kvm_pic_state){ .last_irr = c->lines,
                                 .irr = c->irr,
                                 .imr = c->imr,
                                 .isr = c->isr,
                                 .priority_add = (c->lowest + 1) & 7,
                                 .irq_base = c->base,
                                 .read_reg_select = c->read_isr,
                                 .poll = c->poll,
                                 .special_mask = c->special_mask,
                                 .init_state = c->init_state,
                                 .auto_eoi = c->auto_eoi,
                                 .rotate_on_auto_eoi = c->rotate_aeoi,
                                 .special_fully_nested_mode = c->special_nested,
                                 .init4 = c->icw1 & PIC_ICW1_IC4,
                                 .elcr = c->elcr,
                                 .elcr_mask = which ? 0xde : 0xf8 };
    return true;
}

static bool get_pics(KvmAccel *a, PcChipStates *s, GError **error)
{
    struct kvm_irqchip c;

    for (unsigned i = 0; i < 2; i++) {
        memset(&c, 0, sizeof(c));
        if (!chip_ioctl(a, KVM_GET_IRQCHIP, &c, i, error)) {
            return false;
        }
        pic_from_kvm(&s->pic[i], &c.chip.pic, i);
    }
    return true;
}

static bool put_pics(KvmAccel *a, const PcChipStates *s, GError **error)
{
    struct kvm_irqchip c;

    for (unsigned i = 0; i < 2; i++) {
        PicChip chip = s->pic[i];

        if (i == 0) {
            /* KVM's slave pulses the cascade, and its PIT line 0. */
            chip.lines &= (uint8_t) ~(1u << PIC_CASCADE |
                                      (a->parent.config.pit && !a->pit_muted ? 1u : 0));
        }
        memset(&c, 0, sizeof(c));
        if (!pic_to_kvm(&c.chip.pic, &chip, i, error) ||
            !chip_ioctl(a, KVM_SET_IRQCHIP, &c, i, error)) {
            return false;
        }
    }
    return true;
}

/* ---- I/O APIC ------------------------------------------------------------------------------ */

static bool get_ioapic(KvmAccel *a, IoapicState *s, GError **error)
{
    struct kvm_irqchip c;

    memset(&c, 0, sizeof(c));
    if (!chip_ioctl(a, KVM_GET_IRQCHIP, &c, KVM_IRQCHIP_IOAPIC, error)) {
        return false;
    }
    s->select = c.chip.ioapic.ioregsel & 0xff;
    s->id = c.chip.ioapic.id & 0xf;
    s->lines = a->lines & ~(1u << PIT_PIN | 1u);
    s->lines |= a->lines & 1 ? 1u << PIT_PIN : 0;
    s->irr = c.chip.ioapic.irr & ((1u << IOAPIC_PINS) - 1);
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        s->redir[i] = c.chip.ioapic.redirtbl[i].bits & (IOAPIC_WRITABLE | IOAPIC_REMOTE_IRR);
        if ((s->redir[i] & IOAPIC_LEVEL) && (s->irr >> i & 1)) {
            s->lines |= 1u << i;
        }
    }
    return true;
}

static bool put_ioapic(KvmAccel *a, const IoapicState *s, GError **error)
{
    struct kvm_irqchip c;

    memset(&c, 0, sizeof(c));
    c.chip.ioapic.base_address = 0xfec00000;
    c.chip.ioapic.ioregsel = s->select;
    c.chip.ioapic.id = s->id;
    c.chip.ioapic.irr = s->irr;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        c.chip.ioapic.redirtbl[i].bits = s->redir[i];
    }
    return chip_ioctl(a, KVM_SET_IRQCHIP, &c, KVM_IRQCHIP_IOAPIC, error);
}

/* ---- 8254 ---------------------------------------------------------------------------------- */

/* How many CLKs ago KVM loaded a channel: it notes the host's time, but not of channel 0, whose
 * timer cannot be asked. That one begins anew, as with any restore into KVM: better a tick too many
 * than a one-shot that is lost. */
static int64_t channel_age(const struct kvm_pit_channel_state *k, unsigned n)
{
    struct timespec t;
    int64_t age;

    if (n == 0) {
        return 0;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    age = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec - k->count_load_time;
    return age > 0 && age < CLOCK_MAX ? pit_ns_to_clk(age) : 0;
}

static void channel_from_kvm(PitChannel *c, const struct kvm_pit_channel_state *k, unsigned n,
                             int64_t now)
{
    uint32_t modulus = k->bcd ? 10000 : 65536;
    int64_t age = channel_age(k, n);
    unsigned mode;

    *c = (PitChannel){ .gate = k->gate };
    if (k->mode == PIT_MODE_NONE) {
        return;
    }
    c->control = (uint8_t)((k->rw_mode & 3) << 4 | (k->mode & 7) << 1 | (k->bcd & 1));
    c->status_latched = k->status_latched;
    c->status = k->status;
    c->latched_count = k->latched_count;
    c->latched = !k->count_latched                                               ? 0
                 : k->rw_mode == PIT_RW_BOTH && k->count_latched == KVM_RW_WORD0 ? 2
                                                                                 : 1;
    c->half_read = k->read_state == KVM_RW_WORD1;
    c->half_written = k->write_state == KVM_RW_WORD1;
    c->low = k->write_latch;
    c->programmed = c->loaded = true;
    c->count = c->reload = k->count >= 1 && k->count <= modulus ? k->count : modulus;
    mode = pit_channel_mode(c);
    if (mode == 2 || mode == 3) {
        age %= c->count;
    } else if (age >= c->count) { /* counts on through 0 */
        age = c->count + (age - c->count) % modulus;
    }
    c->start = MAX(now - age, -65536);
    if (!k->gate && mode != 1 && mode != 5) {
        c->frozen = true;
        c->elapsed = age;
    }
}

/* KVM loads each channel anew when it is set. What has run out is not to run out again: a one-shot
 * gets what is left of its count. */
static void channel_to_kvm(struct kvm_pit_channel_state *k, const PitChannel *c, int64_t now)
{
    unsigned rw = c->control >> 4, mode = pit_channel_mode(c);
    int64_t age = c->frozen ? c->elapsed : MAX(now - c->start, 0);

    *k = (struct kvm_pit_channel_state){
        .count = c->pending ? c->reload : c->count,
        .latched_count = c->latched_count,
        .count_latched = (uint8_t)(!c->latched         ? 0
                                   : rw != PIT_RW_BOTH ? rw
                                   : c->latched == 2   ? KVM_RW_WORD0
                                                       : PIT_RW_MSB),
        .status_latched = c->status_latched,
        .status = c->status,
        .read_state = (uint8_t)(rw != PIT_RW_BOTH ? rw
                                : c->half_read    ? KVM_RW_WORD1
                                                  : KVM_RW_WORD0),
        .write_state = (uint8_t)(rw != PIT_RW_BOTH ? rw
                                 : c->half_written ? KVM_RW_WORD1
                                                   : KVM_RW_WORD0),
        .write_latch = c->low,
        .rw_mode = (uint8_t)rw,
        .mode = (uint8_t)mode,
        .bcd = c->control & PIT_BCD,
        .gate = c->gate,
    };
    if (!c->control && !c->programmed) {
        k->mode = PIT_MODE_NONE;
    } else if (c->loaded && (mode == 0 || mode == 1 || mode == 4) && age < c->count) {
        k->count = (uint32_t)(c->count - age);
    }
}

/* From the kernel; the saved form follows when somebody asks. */
void kvm_pit_read(KvmAccel *a)
{
    a->pit_loaded = false;
    if (kvm_ioctl(a, a->vm_fd, KVM_GET_PIT2, &a->pit) < 0) {
        log_warning("kvm: KVM_GET_PIT2: %s", g_strerror(errno));
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        channel_from_kvm(&a->pit_saved[i], &a->pit.channels[i], i, pit_ns_to_clk(virtual_now(a)));
    }
}

static void put_pit(KvmAccel *a)
{
    if (a->pit_loaded) {
        for (unsigned i = 0; i < 3; i++) {
            channel_to_kvm(&a->pit.channels[i], &a->pit_saved[i], pit_ns_to_clk(virtual_now(a)));
        }
    }
    /* Not of the saved state: the event timers' own says it. */
    a->pit.flags &= ~(uint32_t)KVM_PIT_FLAGS_HPET_LEGACY;
    a->pit.flags |= a->pit_muted ? KVM_PIT_FLAGS_HPET_LEGACY : 0;
    if (kvm_ioctl(a, a->vm_fd, KVM_SET_PIT2, &a->pit) < 0) {
        log_warning("kvm: KVM_SET_PIT2: %s", g_strerror(errno));
    }
}

static void get_pit(KvmAccel *a, PcChipStates *s)
{
    if (!a->clock_stopped) {
        kvm_pit_read(a);
    }
    memcpy(s->pit, a->pit_saved, sizeof(s->pit));
    s->pit_fired = 0;
    s->pit_seen = pit_ns_to_clk(virtual_now(a));
    s->portb = (uint8_t)((s->pit[2].gate ? 1 : 0) |
                         (a->pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0));
}

/* With the clock standing it waits for it to go on; also with one that has never run. */
static void load_pit(KvmAccel *a, const PcChipStates *s, unsigned which)
{
    if (!a->clock_stopped && a->parent.config.clock && !clock_running(a->parent.config.clock)) {
        get_clock(a);
        a->clock_stopped = true;
    }
    if (which & 1u << PC_CHIP_PIT) {
        memcpy(a->pit_saved, s->pit, sizeof(s->pit));
        a->pit_loaded = true;
    }
    if (which & 1u << PC_CHIP_PORTB) {
        a->pit.flags &= ~(uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
        a->pit.flags |= s->portb & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0;
        a->pit_saved[2].gate = s->portb & 1;
        a->pit_loaded = true;
    }
    if (!a->clock_stopped) {
        put_pit(a);
    }
}

/* ---- the accelerator's side ---------------------------------------------------------------- */

unsigned kvm_chips(Accel *accel)
{
    const AccelConfig *c = &accel->config;
    unsigned all = 0;

    if (c->irqchip != IRQCHIP_OFF) {
        all |= 1u << PC_CHIP_APIC;
    }
    if (c->irqchip == IRQCHIP_ON) {
        all |= 1u << PC_CHIP_PIC | 1u << PC_CHIP_IOAPIC;
    }
    if (c->pit) {
        all |= 1u << PC_CHIP_PIT | 1u << PC_CHIP_PORTB;
    }
    return all;
}

bool kvm_chips_get(Accel *accel, PcChipStates *s, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);

    if (has_pic(a) && (!get_pics(a, s, error) || !get_ioapic(a, &s->ioapic, error))) {
        return false;
    }
    if (has_pit(a)) {
        get_pit(a, s);
        /* As if it were a device on line 0. */
        if (!a->pit_muted && pit_channel_out(&s->pit[0], s->pit_seen)) {
            s->pic[0].lines |= 1;
            s->ioapic.lines |= 1u << PIT_PIN;
        }
    }
    if (kvm_lapic_in_kernel(a)) {
        kvm_apics_get(a, s);
        s->lint[0] = has_pic(a) ? pic_chip_pick(&s->pic[0], true) >= 0 : kvm_intr_level(a);
    }
    return true;
}

bool kvm_chips_put(Accel *accel, const PcChipStates *s, unsigned which, GError **error)
{
    KvmAccel *a = KVM_ACCEL(accel);

    if (which && accel->config.irqchip != IRQCHIP_OFF && !kvm_irq_create(a, error)) {
        return false;
    }
    if (has_pit(a) && !a->pit_muted) {
        /* Where the PIT is a device its output is on this line; KVM's has a way of its own. */
        kvm_set_gsi(accel, 0, 0);
    }
    if (has_pic(a) && (which & 1u << PC_CHIP_PIC) && !put_pics(a, s, error)) {
        return false;
    }
    if (has_pic(a) && (which & 1u << PC_CHIP_IOAPIC) && !put_ioapic(a, &s->ioapic, error)) {
        return false;
    }
    if (has_pit(a)) {
        load_pit(a, s, which);
    }
    return !(which & 1u << PC_CHIP_APIC) || kvm_apics_put(a, s, error);
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
    const PitChannel *c = &a->pit_saved[2];

    if (!has_pit(a)) {
        return 0;
    }
    if (!a->clock_stopped) {
        kvm_pit_read(a);
    }
    /* A square wave or pulses, with the gate open and the loudspeaker on. */
    if (!(a->pit.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON) || !c->gate || !c->loaded ||
        (pit_channel_mode(c) & 2) == 0 || c->count < 2) {
        return 0;
    }
    return (PIT_HZ + c->count / 2) / c->count;
}

/* ---- time ---------------------------------------------------------------------------------- */

/* Tells a guest with the paravirtual clock that a pause was not a lock-up (EINVAL: it has none);
 * and notes how far the timers of the local APICs have come, which go on in the kernel. */
static void note_vcpus(KvmAccel *a)
{
    for (unsigned i = 0; i < a->vcpus->len; i++) {
        KvmVcpu *kv = g_ptr_array_index(a->vcpus, i);

        if (kv && kv->cpu && !__atomic_load_n(&kv->in_run, __ATOMIC_SEQ_CST)) {
            if (kvm_has(a, KC_KVMCLOCK_CTRL)) {
                kvm_ioctl_val(a, kv->fd, KVM_KVMCLOCK_CTRL, 0);
            }
            kvm_apic_note_count(kv);
        }
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
        note_vcpus(a);
        a->clock_stopped = true;
    } else if (running && a->clock_stopped) {
        a->clock_stopped = false;
        put_clock(a);
        if (has_pit(a)) {
            put_pit(a);
        }
    }
}

static void clock_pre_save(void *opaque)
{
    KvmAccel *a = opaque;
    if (!a->clock_stopped) {
        get_clock(a);
    }
}

static bool clock_post_load(void *opaque, unsigned version, GError **error)
{
    KvmAccel *a = opaque;
    if (!a->clock_stopped) {
        put_clock(a);
    }
    return true;
}

static const VMStateDescription vmstate_clock = {
    .name = "kvm-clock",
    .version = 1,
    .minimum_version = 1,
    .pre_save = clock_pre_save,
    .post_load = clock_post_load,
    .fields = (const VMStateField[]){ VMSTATE_UINT64(pv_clock, KvmAccel), VMSTATE_END() },
};

const VMStateDescription *kvm_vmstate(Accel *a)
{
    return &vmstate_clock;
}
