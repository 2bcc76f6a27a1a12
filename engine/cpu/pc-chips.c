/* Saved forms of a PC's interrupt controllers and timer: see pc-chips.h. */
#include "engine/cpu/pc-chips.h"

#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/cpu/cpu-apic.h"

/* ---- 8259A --------------------------------------------------------------------------------- */

static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

unsigned pic_chip_rank(const PicChip *c, uint8_t set)
{
    for (unsigned i = 0; i < 8; i++) {
        if (set >> ((c->lowest + 1 + i) & 7) & 1) {
            return i;
        }
    }
    return 8;
}

int pic_chip_pick(const PicChip *c, bool master)
{
    unsigned request = pic_chip_rank(c, c->irr & ~c->imr);
    unsigned service = pic_chip_rank(c, c->special_mask ? c->isr & ~c->imr : c->isr);
    unsigned n = (c->lowest + 1 + request) & 7;

    if (request < service) {
        return (int)n;
    }
    /* In special fully nested mode the slave may interrupt itself. */
    if (request < 8 && request == service && master && c->special_nested && n == PIC_CASCADE) {
        return (int)n;
    }
    return -1;
}

bool pic_pair_valid(const PicChip pic[2], GError **error)
{
    for (unsigned i = 0; i < 2; i++) {
        const PicChip *c = &pic[i];

        if (c->lowest > 7 || c->init_state > PIC_INIT_ICW4 || (c->base & 7) ||
            (c->elcr & ~elcr_mask[i])) {
            return error_set(error, ENGINE_ERROR_CORRUPT,
                             "chip %u: priority %u, initialization step %u, vectors from %#x, "
                             "ELCR %#x",
                             i, c->lowest, c->init_state, c->base, c->elcr);
        }
    }
    return true;
}

static const VMStateField pic_chip_fields[] = {
    VMSTATE_UINT8(lines, PicChip),       VMSTATE_UINT8(irr, PicChip),
    VMSTATE_UINT8(isr, PicChip),         VMSTATE_UINT8(imr, PicChip),
    VMSTATE_UINT8(elcr, PicChip),        VMSTATE_UINT8(base, PicChip),
    VMSTATE_UINT8(lowest, PicChip),      VMSTATE_UINT8(init_state, PicChip),
    VMSTATE_UINT8(icw1, PicChip),        VMSTATE_BOOL(auto_eoi, PicChip),
    VMSTATE_BOOL(rotate_aeoi, PicChip),  VMSTATE_BOOL(special_nested, PicChip),
    VMSTATE_BOOL(special_mask, PicChip), VMSTATE_BOOL(poll, PicChip),
    VMSTATE_BOOL(read_isr, PicChip),     VMSTATE_END(),
};
const VMStateDescription vmstate_pic_chip = {
    .name = "8259a",
    .version = 1,
    .minimum_version = 1,
    .fields = pic_chip_fields,
};

/* ---- I/O APIC ------------------------------------------------------------------------------ */

static bool ioapic_post_load(void *opaque, unsigned version, GError **error)
{
    IoapicState *s = opaque;

    if (s->select > 0xff || s->id > 0xf || s->lines >> IOAPIC_PINS || s->irr >> IOAPIC_PINS) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "register %#x, ID %#x, lines %#x, IRR %#x",
                         s->select, s->id, s->lines, s->irr);
    }
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        if (s->redir[n] & ~(IOAPIC_WRITABLE | IOAPIC_REMOTE_IRR)) {
            return error_set(error, ENGINE_ERROR_CORRUPT,
                             "entry %u has reserved bits: %#" G_GINT64_MODIFIER "x", n,
                             s->redir[n]);
        }
    }
    return true;
}

static const VMStateField ioapic_fields[] = {
    VMSTATE_UINT32(select, IoapicState),      VMSTATE_UINT32(id, IoapicState),
    VMSTATE_UINT32(lines, IoapicState),       VMSTATE_UINT32(irr, IoapicState),
    VMSTATE_UINT64_ARRAY(redir, IoapicState), VMSTATE_END(),
};
const VMStateDescription vmstate_ioapic_state = {
    .name = "82093aa",
    .version = 1,
    .minimum_version = 1,
    .post_load = ioapic_post_load,
    .fields = ioapic_fields,
};

/* ---- local APIC ---------------------------------------------------------------------------- */

int64_t apic_state_divisor(const ApicState *a)
{
    unsigned bits = (a->divide & 3) | (a->divide >> 1 & 4);

    return bits == 7 ? 1 : INT64_C(2) << bits;
}

bool apic_state_valid(const ApicState *a)
{
    uint64_t flags = APIC_BASE_BSP | APIC_BASE_X2APIC | APIC_BASE_ENABLED;
    uint32_t asked = CPU_APIC_NMI | CPU_APIC_SMI | CPU_APIC_INIT | CPU_APIC_SIPI;

    return !(a->base & 0xfff & ~flags) &&
           ((a->base & APIC_BASE_ENABLED) || !(a->base & APIC_BASE_X2APIC)) && a->tpr <= 0xff &&
           !(a->divide & ~0xbu) && !(a->isr[0] & 0xffff) && !(a->irr[0] & 0xffff) &&
           !(a->requests & ~asked) && a->timer_start <= CLOCK_MAX && a->timer_start >= -CLOCK_MAX &&
           a->timer_fired >= 0 && a->timer_fired <= CLOCK_MAX && a->timer_due >= -1 &&
           a->timer_due <= CLOCK_MAX && a->tsc_khz <= 100000000;
}

/* SDM 3A 11.4.7.3: as after power-up, but for the ID, the base and what is asked of the CPU. */
void apic_state_init(ApicState *a)
{
    a->tpr = a->ldr = a->esr = a->errors = a->icr = a->icr_high = 0;
    a->dfr = UINT32_MAX;
    a->svr = 0xff;
    for (unsigned i = 0; i < LVTS; i++) {
        a->lvt[i] = LVT_MASKED;
    }
    memset(a->isr, 0, sizeof(a->isr));
    memset(a->tmr, 0, sizeof(a->tmr));
    memset(a->irr, 0, sizeof(a->irr));
    a->initial_count = a->divide = 0;
    a->tsc_deadline = 0;
    a->extint = false;
}

void apic_state_reset(ApicState *a, bool bsp)
{
    memset(a, 0, sizeof(*a));
    apic_state_init(a);
    a->base = APIC_BASE_ADDRESS | APIC_BASE_ENABLED | (bsp ? APIC_BASE_BSP : 0);
    a->timer_due = -1;
    if (bsp) {
        a->lvt[LVT_LINT0] = LVT_MODE_EXTINT << LVT_MODE_SHIFT;
    }
}

static const VMStateField apic_state_fields[] = {
    VMSTATE_UINT64(base, ApicState),
    VMSTATE_UINT32(tpr, ApicState),
    VMSTATE_UINT32(ldr, ApicState),
    VMSTATE_UINT32(dfr, ApicState),
    VMSTATE_UINT32(svr, ApicState),
    VMSTATE_UINT32(esr, ApicState),
    VMSTATE_UINT32(errors, ApicState),
    VMSTATE_UINT32(icr, ApicState),
    VMSTATE_UINT32(icr_high, ApicState),
    VMSTATE_UINT32_ARRAY(lvt, ApicState),
    VMSTATE_UINT32_ARRAY(isr, ApicState),
    VMSTATE_UINT32_ARRAY(tmr, ApicState),
    VMSTATE_UINT32_ARRAY(irr, ApicState),
    VMSTATE_UINT32(initial_count, ApicState),
    VMSTATE_UINT32(divide, ApicState),
    VMSTATE_INT64(timer_start, ApicState),
    VMSTATE_INT64(timer_fired, ApicState),
    VMSTATE_INT64(timer_due, ApicState),
    VMSTATE_UINT64(tsc_deadline, ApicState),
    VMSTATE_UINT64(tsc_offset, ApicState),
    VMSTATE_UINT32(tsc_khz, ApicState),
    VMSTATE_UINT32(requests, ApicState),
    VMSTATE_UINT8(sipi_vector, ApicState),
    VMSTATE_BOOL(extint, ApicState),
    VMSTATE_END(),
};
const VMStateDescription vmstate_apic_state = {
    .name = "local-apic",
    .version = 1,
    .minimum_version = 1,
    .fields = apic_state_fields,
};

/* ---- 8254 ---------------------------------------------------------------------------------- */

unsigned pit_channel_mode(const PitChannel *c)
{
    unsigned mode = c->control >> 1 & 7;

    return mode > 5 ? mode & 3 : mode;
}

static int64_t channel_elapsed(const PitChannel *c, int64_t now)
{
    return c->frozen ? c->elapsed : MAX(now - c->start, 0);
}

/* CLKs of the high half of a square wave. */
static uint32_t high_half(uint32_t count)
{
    return (count + 1) / 2;
}

bool pit_channel_out(const PitChannel *c, int64_t now)
{
    int64_t e = channel_elapsed(c, now);
    bool begun = c->loaded && (c->frozen || now >= c->start);

    switch (pit_channel_mode(c)) {
    case 0:
        return begun && e >= c->count;
    case 1:
        return !begun || e >= c->count;
    case 2:
        return !begun || !c->gate || e % c->count != c->count - 1;
    case 3:
        return !begun || !c->gate || e % c->count < high_half(c->count);
    default:
        return !begun || e != c->count;
    }
}

#define TICK_MAX (CLOCK_MAX / 838 + 1)

static bool pit_channel_post_load(void *opaque, unsigned version, GError **error)
{
    const PitChannel *c = opaque;
    uint32_t modulus = c->control & PIT_BCD ? 10000 : 65536;

    if (c->control <= 0x3f && c->latched <= 2 && c->start >= -65536 && c->start < TICK_MAX &&
        c->elapsed >= 0 && c->elapsed < TICK_MAX &&
        (!c->programmed || (c->reload >= 1 && c->reload <= modulus)) &&
        (!c->loaded || (c->programmed && c->count >= 1 && c->count <= modulus)) &&
        (!c->pending || c->programmed) && (!c->frozen || c->loaded)) {
        return true;
    }
    return error_set(error, ENGINE_ERROR_CORRUPT, "a counter is in an impossible state");
}

static const VMStateField pit_channel_fields[] = {
    VMSTATE_UINT8(control, PitChannel),
    VMSTATE_BOOL(gate, PitChannel),
    VMSTATE_BOOL(programmed, PitChannel),
    VMSTATE_BOOL(loaded, PitChannel),
    VMSTATE_BOOL(pending, PitChannel),
    VMSTATE_BOOL(frozen, PitChannel),
    VMSTATE_BOOL(half_written, PitChannel),
    VMSTATE_BOOL(half_read, PitChannel),
    VMSTATE_BOOL(status_latched, PitChannel),
    VMSTATE_UINT8(latched, PitChannel),
    VMSTATE_UINT8(low, PitChannel),
    VMSTATE_UINT8(status, PitChannel),
    VMSTATE_UINT16(latched_count, PitChannel),
    VMSTATE_UINT16(idle, PitChannel),
    VMSTATE_UINT32(reload, PitChannel),
    VMSTATE_UINT32(count, PitChannel),
    VMSTATE_INT64(start, PitChannel),
    VMSTATE_INT64(elapsed, PitChannel),
    VMSTATE_END(),
};
const VMStateDescription vmstate_pit_channel = {
    .name = "8254-counter",
    .version = 1,
    .minimum_version = 1,
    .post_load = pit_channel_post_load,
    .fields = pit_channel_fields,
};

/* ---- all of them --------------------------------------------------------------------------- */

/* Names of fields are those of the devices. */
#define RENAMED(n, f, k, d)                                                         \
    {                                                                               \
        .name = (n), .kind = (k), .vmsd = (d), .offset = offsetof(PcChipStates, f), \
        .size = sizeof(((PcChipStates *)0)->f), .count_offset = -1,                 \
    }
#define RENAMED_ARRAY(n, f, d)                                                                    \
    {                                                                                             \
        .name = (n), .kind = VMS_STRUCT, .vmsd = (d), .offset = offsetof(PcChipStates, f),        \
        .size = sizeof(((PcChipStates *)0)->f[0]), .count = G_N_ELEMENTS(((PcChipStates *)0)->f), \
        .count_offset = -1,                                                                       \
    }

static bool apics_post_load(void *opaque, unsigned version, GError **error)
{
    PcChipStates *s = opaque;

    for (unsigned i = 0; i < s->apics; i++) {
        if (!apic_state_valid(&s->apic[i])) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "APIC %u is in an impossible state", i);
        }
    }
    return true;
}

static bool pics_post_load(void *opaque, unsigned version, GError **error)
{
    return pic_pair_valid(((PcChipStates *)opaque)->pic, error);
}

static bool pit_post_load(void *opaque, unsigned version, GError **error)
{
    PcChipStates *s = opaque;

    return (s->pit_seen >= 0 && s->pit_seen <= TICK_MAX && s->pit_fired >= 0 &&
            s->pit_fired <= CLOCK_MAX) ||
           error_set(error, ENGINE_ERROR_CORRUPT, "time of counter 0");
}

static bool portb_post_load(void *opaque, unsigned version, GError **error)
{
    PcChipStates *s = opaque;

    return s->portb <= 0xf ||
           error_set(error, ENGINE_ERROR_CORRUPT, "reserved bits are set: %#x", s->portb);
}

static const VMStateField apic_fields[] = {
    VMSTATE_ARRAY_(lint, PcChipStates, VMS_BOOL),
    {
        .name = "apic",
        .kind = VMS_STRUCT,
        .offset = offsetof(PcChipStates, apic),
        .size = sizeof(ApicState),
        .count = APIC_MAX_CPUS,
        .count_offset = offsetof(PcChipStates, apics),
        .vmsd = &vmstate_apic_state,
    },
    VMSTATE_END(),
};
static const VMStateField pic_fields[] = { RENAMED_ARRAY("chip", pic, &vmstate_pic_chip),
                                           VMSTATE_END() };
static const VMStateField ioapics_fields[] = {
    RENAMED("r", ioapic, VMS_STRUCT, &vmstate_ioapic_state), VMSTATE_END()
};
static const VMStateField pit_fields[] = {
    RENAMED_ARRAY("channel", pit, &vmstate_pit_channel),
    RENAMED("fired", pit_fired, VMS_S64, NULL),
    RENAMED("seen", pit_seen, VMS_S64, NULL),
    VMSTATE_END(),
};
static const VMStateField portb_fields[] = { RENAMED("value", portb, VMS_U8, NULL), VMSTATE_END() };

static const VMStateDescription descriptions[PC_CHIPS] = {
    [PC_CHIP_APIC] = { .name = "apic",
                       .version = 2,
                       .minimum_version = 2,
                       .post_load = apics_post_load,
                       .fields = apic_fields },
    [PC_CHIP_PIC] = { .name = "isa-pic",
                      .version = 1,
                      .minimum_version = 1,
                      .post_load = pics_post_load,
                      .fields = pic_fields },
    [PC_CHIP_IOAPIC] = { .name = "ioapic",
                         .version = 2,
                         .minimum_version = 2,
                         .fields = ioapics_fields },
    [PC_CHIP_PIT] = { .name = "isa-pit",
                      .version = 2,
                      .minimum_version = 2,
                      .post_load = pit_post_load,
                      .fields = pit_fields },
    [PC_CHIP_PORTB] = { .name = "isa-pcspk",
                        .version = 1,
                        .minimum_version = 1,
                        .post_load = portb_post_load,
                        .fields = portb_fields },
};

const VMStateDescription *pc_chip_description(PcChip chip)
{
    return &descriptions[chip];
}

int pc_chip_of(const char *section)
{
    for (int i = 0; i < PC_CHIPS; i++) {
        if (strcmp(section, descriptions[i].name) == 0) {
            return i;
        }
    }
    return -1;
}

void pc_chips_reset(PcChipStates *s, unsigned cpus)
{
    memset(s, 0, sizeof(*s));
    s->apics = MIN(cpus, APIC_MAX_CPUS);
    for (unsigned i = 0; i < s->apics; i++) {
        apic_state_reset(&s->apic[i], i == 0);
    }
    s->pic[0].lowest = s->pic[1].lowest = 7;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        s->ioapic.redir[i] = IOAPIC_MASKED;
    }
    for (unsigned i = 0; i < 3; i++) {
        s->pit[i].gate = i != 2;
    }
}

static bool apic_in_use(const ApicState *a, bool bsp)
{
    ApicState fresh;

    apic_state_reset(&fresh, bsp);
    return a->tpr || a->svr != fresh.svr || memcmp(a->lvt, fresh.lvt, sizeof(a->lvt)) != 0 ||
           memcmp(a->isr, fresh.isr, sizeof(a->isr)) != 0 ||
           memcmp(a->irr, fresh.irr, sizeof(a->irr)) != 0 || a->initial_count || a->requests ||
           (a->base & APIC_BASE_X2APIC);
}

bool pc_chip_in_use(PcChip chip, const PcChipStates *s, const char **what)
{
    bool used = false;

    switch (chip) {
    case PC_CHIP_APIC:
        *what = "local APIC";
        for (unsigned i = 0; i < s->apics; i++) {
            used |= apic_in_use(&s->apic[i], i == 0);
        }
        return used || s->apics > 1;
    case PC_CHIP_PIC:
        *what = "interrupt controller 8259A";
        return s->pic[0].init_state || s->pic[0].icw1 || s->pic[0].base;
    case PC_CHIP_IOAPIC:
        *what = "I/O APIC";
        for (unsigned i = 0; i < IOAPIC_PINS; i++) {
            used |= s->ioapic.redir[i] != IOAPIC_MASKED;
        }
        return used;
    case PC_CHIP_PIT:
        *what = "interval timer 8254";
        return s->pit[0].programmed || s->pit[1].programmed || s->pit[2].programmed;
    default:
        *what = "system control port 0x61";
        return s->portb & 3;
    }
}
