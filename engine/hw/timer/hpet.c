/*
 * "hpet": high precision event timers (IA-PC HPET Specification 1.0a).
 *
 *   memory  0xfed00000, 1 KiB: general registers, main counter, 3 to 32 timers
 *   lines   outputs "irq" 0 to 31: interrupts of the same numbers; inputs "legacy" 0 and 1: PIT and
 *           real-time clock, which reach outputs 0 and 8 through here, unless bit LEG_RT gives
 * those to timers 0 and 1. Output "replaces" is high meanwhile: where the PIT's
 *           interrupts do not come through here, it keeps them away
 *
 * The counter runs at 100 MHz of the machine's clock and is computed when somebody looks. All
 * timers have 64 bits and can be periodic. Periods that have passed while the host was late, or
 * that are shorter than 20 us, are one interrupt; edges on a line of the interrupt controllers are
 * made up for (machine_ticks). As in silicon, a comparator that is set behind
 * the counter matches when the counter has come around.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/core/device.h"

#define TYPE_HPET "hpet"

enum {
    HPET_CAP = 0x000,
    HPET_CONFIG = 0x010,
    HPET_STATUS = 0x020,
    HPET_COUNTER = 0x0f0,
    HPET_TIMERS = 0x100,
    HPET_TIMER_SIZE = 0x20,
    HPET_TN_CONFIG = 0x00,
    HPET_TN_COMPARATOR = 0x08,
    HPET_TN_ROUTE = 0x10,
};
enum { CONFIG_ENABLE = 0x1, CONFIG_LEGACY = 0x2 };
enum {
    TN_LEVEL = 1 << 1,
    TN_ENABLE = 1 << 2,
    TN_PERIODIC = 1 << 3,
    TN_PERIODIC_CAP = 1 << 4,
    TN_SIZE_CAP = 1 << 5,
    TN_SET_VALUE = 1 << 6,
    TN_32BIT = 1 << 8,
    TN_ROUTE_SHIFT = 9,
    TN_FSB = 1 << 14,
    TN_FSB_CAP = 1 << 15,
};
#define TN_WRITABLE \
    (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET_VALUE | TN_32BIT | 31u << 9 | TN_FSB)
#define HPET_TIMERS_MAX 32
#define HPET_LINES      32
#define PERIOD_NS       10
#define PERIOD_FS       UINT64_C(10000000)
#define MIN_TIMER_NS    20000
#define LEGACY_PIT      0
#define LEGACY_RTC      8

typedef struct Hpet Hpet;
typedef struct HpetTimer {
    Hpet *hpet;
    unsigned index;
    Timer timer;
    uint32_t config; /* writable bits */
    uint64_t comparator, period, route;
    int64_t fired; /* ns: when it last did */
} HpetTimer;
struct Hpet {
    DeviceState parent;
    MemoryRegion mmio;
    Irq *irq[HPET_LINES];
    Irq *replaces;
    HpetTimer tn[HPET_TIMERS_MAX];
    uint64_t config, status;
    uint64_t counter; /* at `start`; while halted, now */
    int64_t start;    /* ns */
    uint8_t legacy;   /* levels of the two inputs */
    /* properties */
    uint32_t timers, interrupts;
    uint64_t base;
    bool fsb;
};
OBJECT_DECLARE_TYPE(Hpet, DeviceClass, HPET, TYPE_HPET)

/* ---- the counter --------------------------------------------------------------------------- */

static int64_t hpet_now(Hpet *s)
{
    return clock_now(device_clock(&s->parent));
}

static bool runs(const Hpet *s)
{
    return s->config & CONFIG_ENABLE;
}

static uint64_t hpet_counter(Hpet *s)
{
    return runs(s) ? s->counter + (uint64_t)(hpet_now(s) - s->start) / PERIOD_NS : s->counter;
}

static uint64_t width(const HpetTimer *t)
{
    return t->config & TN_32BIT ? UINT32_MAX : UINT64_MAX;
}

static bool periodic(const HpetTimer *t)
{
    return t->config & TN_PERIODIC && t->period & width(t);
}

/* Whether the comparator has been reached: it is at most half a round behind. */
static bool reached(const HpetTimer *t, uint64_t counter)
{
    return ((counter - t->comparator) & width(t)) <= width(t) / 2;
}

/* A periodic comparator goes ahead of the counter. */
static void advance(HpetTimer *t, uint64_t counter)
{
    uint64_t period = t->period & width(t);

    if (periodic(t) && reached(t, counter)) {
        uint64_t behind = (counter - t->comparator) & width(t);

        t->comparator = (t->comparator + (behind / period + 1) * period) & width(t);
    }
}

static uint64_t periods_behind(const HpetTimer *t)
{
    uint64_t counter = hpet_counter(t->hpet);

    return reached(t, counter) ? ((counter - t->comparator) & width(t)) / (t->period & width(t))
                               : 0;
}

/* ---- interrupts ---------------------------------------------------------------------------- */

static bool takes_legacy(const Hpet *s, unsigned index)
{
    return s->config & CONFIG_LEGACY && index < 2;
}

static unsigned line_of(const HpetTimer *t)
{
    if (takes_legacy(t->hpet, t->index)) {
        return t->index ? LEGACY_RTC : LEGACY_PIT;
    }
    return t->config >> TN_ROUTE_SHIFT & 31;
}

/* What one output shows: timers with level interrupts, and the inputs where they come through. */
static void update_line(Hpet *s, unsigned line)
{
    bool level = false;

    for (unsigned i = 0; i < s->timers; i++) {
        const HpetTimer *t = &s->tn[i];

        level |= (s->status >> i & 1) && t->config & TN_ENABLE && t->config & TN_LEVEL &&
                 !(t->config & TN_FSB) && line_of(t) == line;
    }
    if (!(s->config & CONFIG_LEGACY)) {
        level |= line == LEGACY_PIT && s->legacy & 1;
        level |= line == LEGACY_RTC && s->legacy & 2;
    }
    if (irq_level(s->irq[line]) != level) {
        irq_set(s->irq[line], level);
    }
}

static void update_lines(Hpet *s)
{
    for (unsigned i = 0; i < HPET_LINES; i++) {
        update_line(s, i);
    }
}

static void interrupt(HpetTimer *t)
{
    Hpet *s = t->hpet;
    unsigned line = line_of(t);

    if (t->config & TN_LEVEL) {
        s->status |= UINT64_C(1) << t->index;
    }
    if (!(t->config & TN_ENABLE)) {
        return;
    }
    if (t->config & TN_FSB) {
        machine_send_msi(s->parent.machine, t->route >> 32, (uint32_t)t->route);
    } else if (t->config & TN_LEVEL) {
        update_line(s, line);
    } else {
        irq_pulse(s->irq[line]);
        update_line(s, line);
        if (periodic(t)) {
            machine_ticks(s->parent.machine, line, periods_behind(t) + 1);
        }
    }
}

/* The host's timer stands at the next match, where that means something. One that is now has been
 * when the timer has just `fired`. */
static void arm(HpetTimer *t, bool fired)
{
    Hpet *s = t->hpet;
    uint64_t counter = hpet_counter(s), away;
    int64_t at;

    if (fired || t->comparator != (counter & width(t))) {
        advance(t, counter);
    }
    away = (t->comparator - counter) & width(t);
    away = fired && !away ? width(t) : away;
    if (!runs(s) || !(t->config & (TN_ENABLE | TN_LEVEL)) || away > CLOCK_MAX / PERIOD_NS) {
        timer_disarm(&t->timer);
        return;
    }
    at = s->start + (int64_t)(counter - s->counter + away) * PERIOD_NS;
    timer_arm(&t->timer, MAX(at, t->fired + MIN_TIMER_NS));
}

static void timer_fired(void *opaque)
{
    HpetTimer *t = opaque;

    if (runs(t->hpet)) {
        t->fired = hpet_now(t->hpet);
        interrupt(t);
        arm(t, true);
    }
}

static void legacy_input(void *opaque, int n, int level)
{
    Hpet *s = HPET(opaque);
    uint8_t bit = (uint8_t)(1u << n);

    s->legacy = (uint8_t)(level ? s->legacy | bit : s->legacy & ~bit);
    update_line(s, n ? LEGACY_RTC : LEGACY_PIT);
}

/* ---- registers ----------------------------------------------------------------------------- */

static uint64_t capabilities(const Hpet *s)
{
    return PERIOD_FS << 32 | UINT64_C(0x8086) << 16 | 1 << 15 | 1 << 13 | (s->timers - 1) << 8 | 1;
}

static uint64_t timer_read(HpetTimer *t, unsigned reg)
{
    switch (reg) {
    case HPET_TN_CONFIG:
        return (uint64_t)t->hpet->interrupts << 32 | t->config | TN_PERIODIC_CAP | TN_SIZE_CAP |
               (t->hpet->fsb ? TN_FSB_CAP : 0);
    case HPET_TN_COMPARATOR:
        if (runs(t->hpet)) {
            advance(t, hpet_counter(t->hpet));
        }
        return t->comparator;
    case HPET_TN_ROUTE:
        return t->route;
    default:
        return 0;
    }
}

static uint64_t register_read(Hpet *s, hwaddr reg)
{
    if (reg >= HPET_TIMERS) {
        unsigned n = (unsigned)(reg - HPET_TIMERS) / HPET_TIMER_SIZE;

        return n < s->timers ? timer_read(&s->tn[n], reg & (HPET_TIMER_SIZE - 1)) : 0;
    }
    switch (reg) {
    case HPET_CAP:
        return capabilities(s);
    case HPET_CONFIG:
        return s->config;
    case HPET_STATUS:
        return s->status;
    case HPET_COUNTER:
        return hpet_counter(s);
    default:
        return 0;
    }
}

/* Interrupts of the PIT that do not come through here are to be left out, or not. */
static void update_replaces(Hpet *s)
{
    int level = !!(s->config & CONFIG_LEGACY);

    if (irq_level(s->replaces) != level) {
        irq_set(s->replaces, level);
    }
}

static void forget_ticks(Hpet *s)
{
    for (unsigned i = 0; i < s->timers; i++) {
        machine_ticks_forget(s->parent.machine, line_of(&s->tn[i]));
    }
}

static void write_config(Hpet *s, uint64_t value)
{
    bool ran = runs(s);

    forget_ticks(s);
    value &= CONFIG_ENABLE | CONFIG_LEGACY;
    if (ran && !(value & CONFIG_ENABLE)) {
        s->counter = hpet_counter(s);
    }
    s->config = value;
    if (!ran && runs(s)) {
        s->start = hpet_now(s);
    }
    for (unsigned i = 0; i < s->timers; i++) {
        arm(&s->tn[i], false);
    }
    update_replaces(s);
    update_lines(s);
}

static void write_comparator(HpetTimer *t, uint64_t value)
{
    value &= width(t);
    if (!(t->config & TN_PERIODIC) || t->config & TN_SET_VALUE) {
        t->comparator = value;
    }
    if (t->config & TN_PERIODIC) {
        t->period = value;
    }
    t->config &= ~(uint32_t)TN_SET_VALUE;
}

static void timer_write(HpetTimer *t, unsigned reg, uint64_t value)
{
    Hpet *s = t->hpet;

    machine_ticks_forget(s->parent.machine, line_of(t));
    switch (reg) {
    case HPET_TN_CONFIG:
        t->config = (uint32_t)value & TN_WRITABLE & ~(s->fsb ? 0u : (uint32_t)TN_FSB);
        if (!(s->interrupts >> (t->config >> TN_ROUTE_SHIFT & 31) & 1)) {
            t->config &= ~(31u << TN_ROUTE_SHIFT); /* a route that it has not: reads back as 0 */
        }
        if (t->config & TN_32BIT) {
            t->comparator &= UINT32_MAX;
            t->period &= UINT32_MAX;
        }
        update_lines(s);
        break;
    case HPET_TN_COMPARATOR:
        write_comparator(t, value);
        break;
    case HPET_TN_ROUTE:
        t->route = value;
        break;
    default:
        return;
    }
    arm(t, false);
}

static void register_write(Hpet *s, hwaddr reg, uint64_t value)
{
    if (reg >= HPET_TIMERS) {
        unsigned n = (unsigned)(reg - HPET_TIMERS) / HPET_TIMER_SIZE;

        if (n < s->timers) {
            timer_write(&s->tn[n], reg & (HPET_TIMER_SIZE - 1), value);
        }
        return;
    }
    switch (reg) {
    case HPET_CONFIG:
        write_config(s, value);
        break;
    case HPET_STATUS:
        s->status &= ~value;
        update_lines(s);
        break;
    case HPET_COUNTER:
        if (runs(s)) {
            log_of(s, LOG_GUEST, "hpet: the counter is written while it runs");
        } else {
            s->counter = value;
        }
        break;
    default:
        log_of(s, LOG_GUEST, "hpet: a write of register %#x", (unsigned)reg);
        break;
    }
}

static uint64_t hpet_read(void *opaque, hwaddr addr, unsigned size)
{
    uint64_t value = register_read(opaque, addr & ~(hwaddr)7);

    return size == 8 ? value : addr & 4 ? value >> 32 : value & UINT32_MAX;
}

static void hpet_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Hpet *s = opaque;
    hwaddr reg = addr & ~(hwaddr)7;

    if (size == 4) {
        /* The other half stays. Of a periodic timer's comparator it is the period's. */
        unsigned n = (unsigned)(reg - HPET_TIMERS) / HPET_TIMER_SIZE;
        bool comparator = reg >= HPET_TIMERS &&
                          (reg & (HPET_TIMER_SIZE - 1)) == HPET_TN_COMPARATOR && n < s->timers;
        uint64_t old = comparator && s->tn[n].config & TN_PERIODIC ? s->tn[n].period
                       : reg == HPET_STATUS                        ? 0
                                                                   : register_read(s, reg);

        data = addr & 4 ? (old & UINT32_MAX) | data << 32 : (old & ~(uint64_t)UINT32_MAX) | data;
        register_write(s, reg, data);
        return;
    }
    register_write(s, reg, data);
}

static const MemoryRegionOps hpet_ops = {
    .read = hpet_read,
    .write = hpet_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 8 },
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool hpet_post_load(void *opaque, unsigned version, GError **error)
{
    Hpet *s = opaque;

    if (s->config & ~(uint64_t)(CONFIG_ENABLE | CONFIG_LEGACY) || s->legacy > 3 || s->start < 0 ||
        s->start > hpet_now(s)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the event timers' general registers");
    }
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        HpetTimer *t = &s->tn[i];

        if (t->config & ~TN_WRITABLE || t->comparator & ~width(t) || t->period & ~width(t) ||
            t->fired < 0 || t->fired > CLOCK_MAX) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "event timer %u", i);
        }
    }
    for (unsigned line = 0; line < HPET_LINES; line++) {
        bool level = !(s->config & CONFIG_LEGACY) && ((line == LEGACY_PIT && s->legacy & 1) ||
                                                      (line == LEGACY_RTC && s->legacy & 2));

        for (unsigned i = 0; i < s->timers; i++) {
            const HpetTimer *t = &s->tn[i];

            level |= (s->status >> i & 1) && t->config & TN_ENABLE && t->config & TN_LEVEL &&
                     !(t->config & TN_FSB) && line_of(t) == line;
        }
        irq_restore_level(s->irq[line], level);
    }
    update_replaces(s); /* nobody else saves it */
    return true;
}

static const VMStateField hpet_timer_fields[] = {
    VMSTATE_UINT32(config, HpetTimer),
    VMSTATE_UINT64(comparator, HpetTimer),
    VMSTATE_UINT64(period, HpetTimer),
    VMSTATE_UINT64(route, HpetTimer),
    VMSTATE_INT64(fired, HpetTimer),
    VMSTATE_TIMER(timer, HpetTimer),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_hpet_timer = {
    .name = "hpet-timer",
    .version = 1,
    .minimum_version = 1,
    .fields = hpet_timer_fields,
};
static const VMStateField hpet_fields[] = {
    VMSTATE_UINT64(config, Hpet),
    VMSTATE_UINT64(status, Hpet),
    VMSTATE_UINT64(counter, Hpet),
    VMSTATE_INT64(start, Hpet),
    VMSTATE_UINT8(legacy, Hpet),
    VMSTATE_STRUCT_ARRAY(tn, Hpet, vmstate_hpet_timer),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_hpet = {
    .name = "hpet",
    .version = 1,
    .minimum_version = 1,
    .post_load = hpet_post_load,
    .fields = hpet_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static bool hpet_realize(DeviceState *dev, GError **error)
{
    Hpet *s = HPET(dev);

    if (s->timers < 3 || s->timers > HPET_TIMERS_MAX) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: timers: 3 to %d expected, not %u",
                         object_get_name(OBJECT(dev)), HPET_TIMERS_MAX, s->timers);
    }
    memory_region_finalize(&s->mmio); /* of an earlier life */
    memory_region_init_io(&s->mmio, OBJECT(dev), &hpet_ops, s, "hpet", 0x400);
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        s->tn[i].hpet = s;
        s->tn[i].index = i;
        timer_setup(&s->tn[i].timer, device_clock(dev), timer_fired, &s->tn[i]);
    }
    return device_map_memory(dev, s->base, &s->mmio, 1, error);
}

static void hpet_unrealize(DeviceState *dev)
{
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        timer_disarm(&HPET(dev)->tn[i].timer);
    }
}

static void hpet_reset(DeviceState *dev)
{
    Hpet *s = HPET(dev);

    forget_ticks(s);
    s->config = s->status = s->counter = 0;
    s->start = 0;
    for (unsigned i = 0; i < HPET_TIMERS_MAX; i++) {
        HpetTimer *t = &s->tn[i];

        timer_disarm(&t->timer);
        t->config = 0;
        t->comparator = UINT64_MAX;
        t->period = t->route = 0;
        t->fired = 0;
    }
    update_replaces(s);
    update_lines(s);
}

static const Property hpet_properties[] = {
    DEFINE_PROP_UINT64("base", Hpet, base, 0xfed00000, "where its registers are"),
    DEFINE_PROP_UINT32("timers", Hpet, timers, 3, "how many it has, 3 to 32"),
    DEFINE_PROP_UINT32("interrupts", Hpet, interrupts, 0x00f00000,
                       "a bit for each interrupt line that a timer can be routed to"),
    DEFINE_PROP_BOOL("fsb", Hpet, fsb, false, "timers can send their interrupts as messages"),
};

static void hpet_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", HPET(obj)->irq, HPET_LINES);
    device_init_irq_out(DEVICE(obj), "replaces", &HPET(obj)->replaces, 1);
    device_init_irq_in(DEVICE(obj), "legacy", legacy_input, 2);
}

static void hpet_finalize(Object *obj)
{
    memory_region_finalize(&HPET(obj)->mmio);
}

static void hpet_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = hpet_realize;
    dc->unrealize = hpet_unrealize;
    dc->reset = hpet_reset;
    dc->vmsd = &vmstate_hpet;
    object_class_add_properties(klass, hpet_properties, G_N_ELEMENTS(hpet_properties));
}

static const TypeInfo hpet_info = {
    .name = TYPE_HPET,
    .parent = TYPE_SYS_DEVICE,
    .doc = "High precision event timers",
    .instance_size = sizeof(Hpet),
    .instance_init = hpet_init,
    .instance_finalize = hpet_finalize,
    .class_init = hpet_class_init,
};

static void register_hpet(void)
{
    type_register_static(&hpet_info);
}
type_init(register_hpet)
