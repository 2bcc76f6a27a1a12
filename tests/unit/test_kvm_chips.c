/* The saved forms of a PC's chips go into KVM and come back the same; what KVM cannot hold is
 * refused. */
#include "tests/unit/kvm_rig.h"

#include "engine/cpu/cpu-apic.h"
#include "engine/cpu/pc-chips.h"
#include "engine/state/stream.h"

static uint64_t rng = 0x9e3779b97f4a7c15;

static uint32_t rnd(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 16);
}

static AccelClass *klass(Rig *r)
{
    return ACCEL_GET_CLASS(r->m->accel);
}

static GBytes *bytes_of(PcChip chip, PcChipStates *s)
{
    const VMStateDescription *d = pc_chip_description(chip);
    StateWriter *w = state_writer_new();

    state_section_begin(w, d->name, 0, d->version);
    vmstate_save(w, d, s);
    state_section_end(w);
    return state_writer_finish(w);
}

typedef struct Found {
    char *path;
    uint64_t value;
} Found;

static void note(const char *path, VMStateKind kind, void *field, size_t size, void *data)
{
    Found f = { .path = g_strdup(path) };

    memcpy(&f.value, field, MIN(size, sizeof(f.value)));
    g_array_append_val((GArray *)data, f);
}

static void clear_found(void *data)
{
    g_free(((Found *)data)->path);
}

static GArray *scalars(PcChip chip, PcChipStates *s)
{
    GArray *a = g_array_new(FALSE, FALSE, sizeof(Found));

    g_array_set_clear_func(a, clear_found);
    vmstate_foreach_scalar(pc_chip_description(chip), s, note, a);
    return a;
}

static void same(PcChip chip, PcChipStates *a, PcChipStates *b)
{
    GArray *x = scalars(chip, a), *y = scalars(chip, b);

    ck_assert_uint_eq(x->len, y->len);
    for (unsigned i = 0; i < x->len; i++) {
        Found *f = &g_array_index(x, Found, i), *g = &g_array_index(y, Found, i);

        ck_assert_msg(f->value == g->value,
                      "%s: %s was %#" G_GINT64_MODIFIER "x, is %#" G_GINT64_MODIFIER "x",
                      pc_chip_description(chip)->name, f->path, f->value, g->value);
    }
    g_array_unref(x);
    g_array_unref(y);
}

static Rig *make(IrqchipMode mode)
{
    Rig *r = rig_new(mode, mode == IRQCHIP_ON, 1 * MiB);

    rig_add_cpu(r);
    rig_add_cpu(r);
    rig_start(r, "spin");
    return r;
}

static void fetch(Rig *r)
{
    GError *err = NULL;

    for (unsigned i = 0; i < r->m->cpus->len; i++) {
        ck_assert_msg(cpu_fetch_state(rig_cpu(r, i), X86_STATE_ALL, &err), "%s",
                      err ? err->message : "");
    }
}

/* Into KVM, forgotten, and out of it. */
static void round_trip(Rig *r, PcChipStates *s, PcChipStates *out)
{
    GError *err = NULL;

    fetch(r);
    ck_assert_msg(klass(r)->chips_put(r->m->accel, s, (1u << PC_CHIPS) - 1, &err), "%s",
                  err ? err->message : "");
    for (unsigned i = 0; i < r->m->cpus->len; i++) {
        VCpu *cpu = rig_cpu(r, i);

        ck_assert_msg(klass(r)->check_state(cpu, &err), "%s", err ? err->message : "");
        cpu->state_dirty = cpu->state_valid = 0;
    }
    fetch(r);
    pc_chips_reset(out, r->m->cpus->len);
    ck_assert_msg(klass(r)->chips_get(r->m->accel, out, &err), "%s", err ? err->message : "");
}

static void random_pic(PicChip *c, unsigned which)
{
    *c = (PicChip){ .lines = (uint8_t)rnd(),
                    .irr = (uint8_t)rnd(),
                    .isr = (uint8_t)rnd(),
                    .imr = (uint8_t)rnd(),
                    .elcr = (uint8_t)rnd() & (which ? 0xde : 0xf8),
                    .base = (uint8_t)rnd() & 0xf8,
                    .lowest = rnd() & 7,
                    .init_state = rnd() & 3,
                    .icw1 = rnd() & PIC_ICW1_IC4,
                    .auto_eoi = rnd() & 1,
                    .rotate_aeoi = rnd() & 1,
                    .special_nested = rnd() & 1,
                    .special_mask = rnd() & 1,
                    .poll = rnd() & 1,
                    .read_isr = rnd() & 1 };
    if (which == 0) {
        /* What KVM's slave drives by itself. */
        c->lines &= ~4;
    }
}

static void random_channel(PitChannel *c)
{
    unsigned mode = rnd() % 2 ? 2 : 3, rw = 1 + rnd() % 3;

    *c = (PitChannel){ .control = (uint8_t)(rw << 4 | mode << 1),
                       .gate = true,
                       .programmed = true,
                       .loaded = true,
                       .latched_count = (uint16_t)rnd(),
                       .status = (uint8_t)rnd(),
                       .status_latched = rnd() & 1,
                       .latched = (uint8_t)(rnd() % (rw == PIT_RW_BOTH ? 3 : 2)),
                       .half_written = rw == PIT_RW_BOTH && rnd() % 2,
                       .half_read = rw == PIT_RW_BOTH && rnd() % 2,
                       .low = (uint8_t)rnd(),
                       .count = 60000 + rnd() % 5537 };
    c->reload = c->count;
}

static void random_ioapic(IoapicState *s)
{
    s->select = rnd() & 0xff;
    s->id = rnd() & 0xf;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        /* Masked: nothing is sent on the way. */
        s->redir[i] = ((uint64_t)rnd() << 32 | rnd()) & (IOAPIC_WRITABLE | IOAPIC_REMOTE_IRR);
        s->redir[i] |= IOAPIC_MASKED;
        if ((s->redir[i] & IOAPIC_LEVEL) && rnd() % 4 == 0 && i != 2) {
            s->irr |= 1u << i;
            s->lines |= 1u << i;
        }
        if (!(s->redir[i] & IOAPIC_LEVEL)) {
            s->redir[i] &= ~IOAPIC_REMOTE_IRR;
        }
    }
}

static void random_apic(ApicState *a, int64_t now, bool x2)
{
    a->base |= x2 ? APIC_BASE_X2APIC : 0;
    a->tpr = rnd() & 0xff;
    a->ldr = x2 ? 0 : rnd() & 0xff000000;
    a->svr = 0x100 | (rnd() & 0xff);
    a->icr = rnd() & 0xccfff & ~0x1000u;
    a->icr_high = rnd() & (x2 ? 0xffffffff : 0xff000000);
    for (unsigned i = 0; i < LVTS; i++) {
        a->lvt[i] = LVT_MASKED | (rnd() & 0xff) | 0x10;
    }
    for (unsigned i = 1; i < 8; i++) {
        a->isr[i] = rnd() & rnd() & rnd();
        a->irr[i] = rnd() & rnd();
        a->tmr[i] = rnd();
    }
    a->divide = 8 + rnd() % 3; /* by 32 to 128: KVM's goes on in the host's time */
    a->esr = 0;
    if (rnd() % 2) {
        unsigned periodic = rnd() & 1;

        a->lvt[LVT_TIMER] |= periodic << LVT_TIMER_SHIFT;
        a->initial_count = 0xe0000000 + (rnd() >> 4);
        a->timer_start = now - (rnd() % 1000000) * apic_state_divisor(a);
        a->timer_due = a->timer_start + a->initial_count * apic_state_divisor(a);
    }
}

START_TEST(pic_ioapic_and_pit_come_back_as_they_were_put)
{
    Rig *r = make(IRQCHIP_ON);
    PcChipStates *s = g_new(PcChipStates, 1), *out = g_new(PcChipStates, 1);

    for (unsigned n = 0; n < 30; n++) {
        pc_chips_reset(s, 2);
        random_pic(&s->pic[0], 0);
        random_pic(&s->pic[1], 1);
        random_ioapic(&s->ioapic);
        for (unsigned i = 0; i < 3; i++) {
            random_channel(&s->pit[i]);
        }
        s->portb = 1 | (rnd() & 2);
        round_trip(r, s, out);
        s->pic[0].lines = (uint8_t)((s->pic[0].lines & ~1) | (out->pic[0].lines & 1));
        s->ioapic.lines = (s->ioapic.lines & ~4u) | (out->ioapic.lines & 4);
        s->pic[0].irr |= 1u << PIC_CASCADE; /* KVM's slave has its say at once */
        out->pic[0].irr |= 1u << PIC_CASCADE;
        same(PC_CHIP_PIC, s, out);
        same(PC_CHIP_IOAPIC, s, out);
        same(PC_CHIP_PIT, s, out);
        same(PC_CHIP_PORTB, s, out);
    }
    g_free(s);
    g_free(out);
    rig_free(r);
}
END_TEST

static void check_apics(IrqchipMode mode)
{
    Rig *r = make(mode);
    PcChipStates *s = g_new(PcChipStates, 1), *out = g_new(PcChipStates, 1);
    const CpuidFeature *x2 = cpuid_feature_find("x2apic");
    bool has_x2 = rig_cpu(r, 0)->cpuid && cpuid_policy_get_feature(rig_cpu(r, 0)->cpuid, x2);

    for (unsigned n = 0; n < 30; n++) {
        int64_t now = clock_now(r->m->clock);

        pc_chips_reset(s, 2);
        for (unsigned i = 0; i < 2; i++) {
            random_apic(&s->apic[i], now, has_x2 && n % 2);
        }
        round_trip(r, s, out);
        for (unsigned i = 0; i < 2; i++) {
            ApicState *a = &s->apic[i], *b = &out->apic[i];

            /* The count runs from when it is put; here time stands. */
            ck_assert_int_le(b->timer_start, a->timer_start + apic_state_divisor(a));
            ck_assert_int_le(b->timer_due, a->timer_due + apic_state_divisor(a));
            ck_assert_int_eq(a->timer_due < 0, b->timer_due < 0);
            a->timer_start = b->timer_start;
            a->timer_due = b->timer_due;
            a->tsc_khz = b->tsc_khz;
        }
        s->lint[0] = out->lint[0];
        same(PC_CHIP_APIC, s, out);
    }
    g_free(s);
    g_free(out);
    rig_free(r);
}

START_TEST(local_apics_come_back_as_they_were_put)
{
    check_apics(IRQCHIP_ON);
    check_apics(IRQCHIP_SPLIT);
}
END_TEST

START_TEST(what_is_asked_of_a_processor_is_in_its_state_then)
{
    Rig *r = make(IRQCHIP_ON);
    PcChipStates *s = g_new(PcChipStates, 1), *out = g_new(PcChipStates, 1);

    pc_chips_reset(s, 2);
    fetch(r);
    rig_cpu(r, 1)->state->gpr[X86_RBX] = 7;
    s->apic[0].requests = CPU_APIC_NMI;
    s->apic[1].requests = CPU_APIC_INIT | CPU_APIC_SIPI;
    s->apic[1].sipi_vector = 0x9f;
    ck_assert(klass(r)->chips_put(r->m->accel, s, 1u << PC_CHIP_APIC, NULL));
    ck_assert(rig_cpu(r, 0)->state->events.nmi_pending);
    ck_assert_uint_eq(rig_cpu(r, 1)->state->gpr[X86_RBX], 0);
    ck_assert_int_eq(rig_cpu(r, 1)->state->mp_state, X86_MP_SIPI_RECEIVED);
    ck_assert_uint_eq(rig_cpu(r, 1)->state->events.sipi_vector, 0x9f);
    ck_assert(klass(r)->check_state(rig_cpu(r, 1), NULL));
    ck_assert(klass(r)->check_state(rig_cpu(r, 0), NULL));
    rig_cpu(r, 0)->state_dirty = rig_cpu(r, 0)->state_valid = 0;
    fetch(r);
    ck_assert(rig_cpu(r, 0)->state->events.nmi_pending);
    g_free(s);
    g_free(out);
    rig_free(r);
}
END_TEST

static void refused(Rig *r, PcChipStates *s, const char *why)
{
    GError *err = NULL;

    fetch(r);
    ck_assert(!klass(r)->chips_put(r->m->accel, s, (1u << PC_CHIPS) - 1, &err));
    ck_assert_msg(strstr(err->message, why) != NULL, "%s", err->message);
    g_error_free(err);
}

START_TEST(what_kvm_cannot_hold_is_refused)
{
    Rig *r = make(IRQCHIP_ON);
    PcChipStates *s = g_new(PcChipStates, 1);

    pc_chips_reset(s, 2);
    s->pic[1].icw1 = PIC_ICW1_LTIM;
    refused(r, s, "interrupt controller 1 to sense levels");
    pc_chips_reset(s, 2);
    s->apic[1].extint = true;
    refused(r, s, "local APIC 1 is about to deliver an ExtINT message");
    pc_chips_reset(s, 2);
    s->apic[0].requests = CPU_APIC_SMI;
    refused(r, s, "an SMI");
    g_free(s);
    rig_free(r);
}
END_TEST

START_TEST(a_one_shot_goes_off_once_wherever_it_went_off)
{
    Rig *r = make(IRQCHIP_ON);
    PcChipStates *s = g_new(PcChipStates, 1), *out = g_new(PcChipStates, 1);

    /* Over, and taken: nothing is to come. */
    pc_chips_reset(s, 2);
    s->apic[0].svr = 0x1ff;
    s->apic[0].lvt[LVT_TIMER] = 0x40;
    s->apic[0].initial_count = 1000;
    s->apic[0].timer_start = -1000000;
    round_trip(r, s, out);
    ck_assert_int_lt(out->apic[0].timer_due, 0);
    /* Due, and not yet noticed: it comes. */
    s->apic[0].timer_due = 0;
    round_trip(r, s, out);
    ck_assert(out->apic[0].timer_due >= 0 || out->apic[0].irr[2] & 1);
    g_free(s);
    g_free(out);
    rig_free(r);
}
END_TEST

START_TEST(a_chip_that_nobody_uses_is_told_from_one_in_use)
{
    PcChipStates *s = g_new(PcChipStates, 1);
    const char *what;
    GBytes *a, *b;

    pc_chips_reset(s, 1);
    for (int i = 0; i < PC_CHIPS; i++) {
        ck_assert_int_eq(pc_chip_of(pc_chip_description((PcChip)i)->name), i);
        ck_assert(!pc_chip_in_use((PcChip)i, s, &what));
        a = bytes_of((PcChip)i, s);
        b = bytes_of((PcChip)i, s);
        ck_assert(g_bytes_equal(a, b));
        g_bytes_unref(a);
        g_bytes_unref(b);
    }
    ck_assert_int_eq(pc_chip_of("uart"), -1);
    s->apic[0].svr = 0x1ff;
    s->pic[0].base = 8;
    s->ioapic.redir[3] = 0x33;
    s->pit[1].programmed = true;
    s->portb = 2;
    for (int i = 0; i < PC_CHIPS; i++) {
        ck_assert(pc_chip_in_use((PcChip)i, s, &what));
        ck_assert_ptr_nonnull(what);
    }
    g_free(s);
}
END_TEST

static void add(TCase *tc)
{
    tcase_add_test(tc, pic_ioapic_and_pit_come_back_as_they_were_put);
    tcase_add_test(tc, local_apics_come_back_as_they_were_put);
    tcase_add_test(tc, what_is_asked_of_a_processor_is_in_its_state_then);
    tcase_add_test(tc, what_kvm_cannot_hold_is_refused);
    tcase_add_test(tc, a_one_shot_goes_off_once_wherever_it_went_off);
    tcase_add_test(tc, a_chip_that_nobody_uses_is_told_from_one_in_use);
}

int main(void)
{
    return rig_main("kvm-chips", add);
}
