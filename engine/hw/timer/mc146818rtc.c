/*
 * "mc146818rtc": the real-time clock and CMOS RAM of a PC (Motorola MC146818A data sheet; the
 * dividers as in the Dallas DS12887; the second bank as in the Intel PIIX4 and ICH).
 *
 *   ports  0x70       index (bits 6 to 0) and NMI mask (bit 7); reads as ones
 *          0x71       data: 0x00-0x09 time and alarm, 0x0a-0x0d registers A to D, then RAM
 *          0x72/0x73  index and data of another 128 bytes of RAM
 *   lines  outputs "irq": line 8 of a PC; "alarm": high while an enabled alarm is pending, for
 *          what wakes a machine; "nmi-mask": bit 7 of port 0x70
 *
 * Seconds are counted by the clock of property `clock`: the host's, or the machine's own. All
 * interrupts are timed by the machine's clock. Nothing ticks: registers are brought up to date when
 * somebody looks, and the one timer stands at the next interrupt that is enabled and not yet
 * pending.
 *
 * An update is the last 2228 us of a second: UIP is set that long, the registers change at its end.
 * The century (0x32) goes on with the year. Leap years are those of the calendar, which differs
 * from the chip's own rule only in years like 2100.
 *
 * Not emulated: other oscillators than 32768 Hz (the clock stands still then, as a DS12887 does),
 * the square wave output, daylight saving (bit 0 of register B is kept, without effect: its rule is
 * the one of the USA in 1984).
 */
#include "engine/hw/timer/rtc_priv.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

enum { REG_A_UIP = 0x80, REG_A_DV = 0x70, REG_A_DV_ON = 0x20, REG_A_DV_RESET = 0x60 };
enum { REG_C_IRQF = 0x80, REG_C_PF = 0x40, REG_C_AF = 0x20, REG_C_UF = 0x10 };
#define REG_D_VRT  0x80
#define UPDATE_NS  (2228 * NS_PER_US)
#define CRYSTAL_HZ 32768
#define HOST_SLACK (100 * NS_PER_US)
#define LOST_MAX   100000
#define SECOND_MAX (CLOCK_MAX / NS_PER_SEC + RTC_DAY)
#define NMI_MASK   0x80

enum { CLOCK_HOST_TIME, CLOCK_VM_TIME };
static const char *const clock_words[] = { "host", "vm", NULL };
enum { DRIFTFIX_NONE, DRIFTFIX_SLEW };
static const char *const driftfix_words[] = { "none", "slew", NULL };

typedef struct RTCState {
    DeviceState parent;
    MemoryRegion io, io_extended;
    Irq *irq, *nmi_mask, *alarm;
    Timer timer;
    uint8_t cmos[RTC_NVRAM_SIZE]; /* all bytes as the guest sees them, once rtc_sync was called;
                                     without UIP and IRQF, which are computed */
    uint8_t index, index_extended;
    bool nmi_masked;
    int64_t phase;         /* ns, 0 to 1 s: where in a second of the clock ours begin */
    int64_t second;        /* number of the second that the registers show */
    int64_t divider_start; /* ns of the machine's clock: when the divider chain began to count */
    int64_t periodic_seen; /* its tick up to which periodic interrupts are in register C */
    uint32_t lost;         /* driftfix=slew: periodic interrupts that found PF still set */
    int64_t catch_up;      /* ns of the machine's clock when one of them comes; -1: none does */
    /* properties */
    uint32_t iobase;
    int32_t irq_number;
    int clock_choice, driftfix;
    bool extended;
    char *base;
} RTCState;
OBJECT_DECLARE_TYPE(RTCState, DeviceClass, RTC, TYPE_RTC)

/* ---- time ---------------------------------------------------------------------------------- */

static int64_t machine_now(RTCState *s)
{
    return clock_now(device_clock(&s->parent));
}

static int64_t source_now(RTCState *s)
{
    return s->clock_choice == CLOCK_VM_TIME ? machine_now(s) : clock_now(clock_host());
}

static bool divider_runs(const RTCState *s)
{
    return (s->cmos[RTC_REG_A] & REG_A_DV) == REG_A_DV_ON;
}

static bool updates_run(const RTCState *s)
{
    return divider_runs(s) && !(s->cmos[RTC_REG_B] & REG_B_SET);
}

/* In ticks of the crystal; 0: no rate is selected. */
static int64_t periodic_ticks(const RTCState *s)
{
    unsigned rs = s->cmos[RTC_REG_A] & 15;

    return rs == 0 ? 0 : rs <= 2 ? INT64_C(1) << (rs + 6) : INT64_C(1) << (rs - 1);
}

static int64_t divider_tick(RTCState *s)
{
    return (int64_t)((__int128)(machine_now(s) - s->divider_start) * CRYSTAL_HZ / NS_PER_SEC);
}

static int64_t tick_ns(const RTCState *s, int64_t tick)
{
    return s->divider_start +
           (int64_t)(((__int128)tick * NS_PER_SEC + CRYSTAL_HZ - 1) / CRYSTAL_HZ);
}

static void sync_periodic(RTCState *s)
{
    int64_t period = periodic_ticks(s), tick = divider_tick(s), n;
    bool counted = s->driftfix == DRIFTFIX_SLEW && s->cmos[RTC_REG_B] & REG_B_PIE;

    if (period && divider_runs(s) && tick > s->periodic_seen) {
        n = tick / period - MAX(s->periodic_seen, 0) / period;
        if (n > 0 && counted) {
            n -= !(s->cmos[RTC_REG_C] & REG_C_PF);
            s->lost = (uint32_t)MIN(s->lost + MIN(n, LOST_MAX), LOST_MAX);
            s->cmos[RTC_REG_C] |= REG_C_PF;
        } else if (n > 0) {
            s->cmos[RTC_REG_C] |= REG_C_PF;
        }
    }
    s->periodic_seen = tick;
    if (!counted) {
        s->lost = 0;
        s->catch_up = -1;
    } else if (s->catch_up >= 0 && machine_now(s) >= s->catch_up) {
        s->catch_up = -1;
        s->lost -= s->lost > 0;
        s->cmos[RTC_REG_C] |= REG_C_PF;
    }
}

static void rtc_sync(RTCState *s)
{
    int64_t now = rtc_floor_div(source_now(s) - s->phase, NS_PER_SEC), n = now - s->second, alarm;

    s->second = now;
    if (n != 0 && updates_run(s)) {
        alarm = rtc_seconds_to_alarm(s->cmos);
        s->cmos[RTC_REG_C] |= (uint8_t)((n > 0 ? REG_C_UF : 0) |
                                        (n > 0 && alarm >= 0 && alarm < n ? REG_C_AF : 0));
        rtc_advance(s->cmos, n);
    }
    sync_periodic(s);
}

static uint8_t pending(const RTCState *s)
{
    return s->cmos[RTC_REG_C] & s->cmos[RTC_REG_B] & (REG_C_PF | REG_C_AF | REG_C_UF);
}

/* ns of the clock's source until second number s->second + n. */
static int64_t source_until(RTCState *s, int64_t n)
{
    return (s->second + n) * NS_PER_SEC + s->phase - source_now(s);
}

static int64_t next_event(RTCState *s)
{
    uint8_t wanted = s->cmos[RTC_REG_B] & (uint8_t)~s->cmos[RTC_REG_C];
    int64_t now = machine_now(s), next = INT64_MAX, n, period = periodic_ticks(s);

    if (wanted & REG_B_PIE && period && divider_runs(s)) {
        next = tick_ns(s, (s->periodic_seen / period + 1) * period);
        next = s->catch_up >= 0 ? MIN(next, s->catch_up) : next;
    }
    if (updates_run(s) && wanted & (REG_B_UIE | REG_B_AIE)) {
        n = wanted & REG_B_UIE ? 0 : rtc_seconds_to_alarm(s->cmos);
        if (n >= 0) {
            n = MAX(source_until(s, n + 1), s->clock_choice == CLOCK_VM_TIME ? 1 : HOST_SLACK);
            next = MIN(next, now + n);
        }
    }
    return next;
}

/* The line and the timer, after registers changed. */
static void rtc_update(RTCState *s)
{
    int64_t next = next_event(s);

    if (irq_level(s->irq) != !!pending(s)) {
        irq_set(s->irq, !!pending(s));
    }
    if (irq_level(s->alarm) != !!(pending(s) & REG_C_AF)) {
        irq_set(s->alarm, !!(pending(s) & REG_C_AF));
    }
    if (next < CLOCK_MAX) {
        timer_arm(&s->timer, next);
    } else {
        timer_disarm(&s->timer);
    }
}

static void rtc_timer(void *opaque)
{
    RTCState *s = opaque;

    rtc_sync(s);
    rtc_update(s);
}

/* ---- registers ----------------------------------------------------------------------------- */

static void restart_divider(RTCState *s)
{
    int64_t begin = source_now(s) + NS_PER_SEC / 2; /* of the first second */

    s->phase = begin - rtc_floor_div(begin, NS_PER_SEC) * NS_PER_SEC;
    s->second = rtc_floor_div(source_now(s) - s->phase, NS_PER_SEC);
    s->divider_start = machine_now(s);
    s->periodic_seen = 0;
}

static void write_a(RTCState *s, uint8_t value)
{
    bool ran = divider_runs(s);

    if (!ran && (value & REG_A_DV) == REG_A_DV_ON) {
        restart_divider(s);
    } else if ((value & REG_A_DV) != REG_A_DV_ON && (value & REG_A_DV_RESET) != REG_A_DV_RESET) {
        log_of(s, LOG_GUEST, "mc146818rtc: divider %u stops the clock: there is a 32768 Hz crystal",
               value >> 4 & 7);
    }
    s->cmos[RTC_REG_A] = value & (uint8_t)~REG_A_UIP;
    s->lost = 0;
    s->catch_up = -1;
}

static void write_b(RTCState *s, uint8_t value)
{
    if (value & REG_B_SET) {
        value &= (uint8_t)~REG_B_UIE;
    }
    s->cmos[RTC_REG_B] = value;
}

static void rtc_write_byte(RTCState *s, unsigned index, uint8_t value)
{
    if (index > RTC_REG_D && index != RTC_CENTURY) {
        s->cmos[index] = value;
        return;
    }
    rtc_sync(s);
    switch (index) {
    case RTC_REG_A:
        write_a(s, value);
        break;
    case RTC_REG_B:
        write_b(s, value);
        break;
    case RTC_REG_C:
    case RTC_REG_D:
        log_of(s, LOG_GUEST, "mc146818rtc: register %c is read-only",
               index == RTC_REG_C ? 'C' : 'D');
        break;
    default:
        s->cmos[index] = value;
        break;
    }
    rtc_update(s);
}

static bool updating(RTCState *s)
{
    return updates_run(s) && source_until(s, 1) <= UPDATE_NS;
}

static uint8_t rtc_read_byte(RTCState *s, unsigned index, bool peek)
{
    uint8_t value;

    if (index > RTC_REG_D && index != RTC_CENTURY) {
        return s->cmos[index];
    }
    rtc_sync(s);
    value = s->cmos[index];
    switch (index) {
    case RTC_REG_A:
        return value | (updating(s) ? REG_A_UIP : 0);
    case RTC_REG_C:
        value |= pending(s) ? REG_C_IRQF : 0;
        if (!peek) {
            s->cmos[RTC_REG_C] = 0;
            if (s->lost > 0 && s->catch_up < 0) {
                s->catch_up = machine_now(s) + periodic_ticks(s) * NS_PER_SEC / CRYSTAL_HZ / 8;
            }
            rtc_update(s);
        }
        return value;
    default:
        return value;
    }
}

static MemTxResult rtc_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                            MemTxAttrs attrs)
{
    RTCState *s = opaque;

    *data = addr ? rtc_read_byte(s, s->index, attrs.debug) : 0xff;
    return MEMTX_OK;
}

static MemTxResult rtc_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                             MemTxAttrs attrs)
{
    RTCState *s = opaque;
    uint8_t value = (uint8_t)data;

    if (addr) {
        rtc_write_byte(s, s->index, value);
    } else {
        s->index = value & 0x7f;
        if (s->nmi_masked != !!(value & NMI_MASK)) {
            s->nmi_masked = !s->nmi_masked;
            irq_set(s->nmi_mask, s->nmi_masked);
        }
    }
    return MEMTX_OK;
}

static const MemoryRegionOps rtc_ops = {
    .read_attrs = rtc_read,
    .write_attrs = rtc_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 2, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

static uint64_t extended_read(void *opaque, hwaddr addr, unsigned size)
{
    RTCState *s = opaque;

    return addr ? s->cmos[0x80 | s->index_extended] : s->index_extended;
}

static void extended_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    RTCState *s = opaque;

    if (addr) {
        s->cmos[0x80 | s->index_extended] = (uint8_t)data;
    } else {
        s->index_extended = data & 0x7f;
    }
}

static const MemoryRegionOps extended_ops = {
    .read = extended_read,
    .write = extended_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 2, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

uint8_t rtc_get_nvram(DeviceState *dev, unsigned index)
{
    g_return_val_if_fail(index < RTC_NVRAM_SIZE, 0xff);
    return rtc_read_byte(RTC(dev), index, true);
}

void rtc_set_nvram(DeviceState *dev, unsigned index, uint8_t value)
{
    g_return_if_fail(index < RTC_NVRAM_SIZE);
    rtc_write_byte(RTC(dev), index, value);
}

int64_t rtc_get_time(DeviceState *dev)
{
    RTCState *s = RTC(dev);

    rtc_sync(s);
    return rtc_get_seconds(s->cmos);
}

static void put_time(RTCState *s, int64_t seconds)
{
    rtc_put_seconds(s->cmos, seconds);
}

void rtc_set_time(DeviceState *dev, int64_t seconds)
{
    RTCState *s = RTC(dev);

    rtc_sync(s);
    put_time(s, CLAMP(seconds, -SECOND_MAX, 100 * SECOND_MAX));
    rtc_update(s);
}

/* ---- saved state --------------------------------------------------------------------------- */

static bool rtc_post_load(void *opaque, unsigned version, GError **error)
{
    RTCState *s = opaque;

    if (s->index > 0x7f || s->index_extended > 0x7f) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "an index has seven bits");
    }
    if (s->cmos[RTC_REG_A] & REG_A_UIP || s->cmos[RTC_REG_D] != REG_D_VRT ||
        s->cmos[RTC_REG_C] & ~(REG_C_PF | REG_C_AF | REG_C_UF)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "reserved bits of registers A, C, D are set");
    }
    if (s->phase < 0 || s->phase >= NS_PER_SEC || s->second < -SECOND_MAX ||
        s->second > SECOND_MAX || s->divider_start < 0 || s->divider_start > CLOCK_MAX ||
        s->periodic_seen < -CLOCK_MAX || s->periodic_seen > CLOCK_MAX || s->lost > LOST_MAX ||
        s->catch_up < -1 || s->catch_up > CLOCK_MAX) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "times that cannot be");
    }
    irq_restore_level(s->irq, !!pending(s));
    irq_restore_level(s->alarm, !!(pending(s) & REG_C_AF));
    irq_restore_level(s->nmi_mask, s->nmi_masked);
    return true;
}

static const VMStateField rtc_fields[] = {
    VMSTATE_BYTES(cmos, RTCState),           VMSTATE_UINT8(index, RTCState),
    VMSTATE_UINT8(index_extended, RTCState), VMSTATE_BOOL(nmi_masked, RTCState),
    VMSTATE_INT64(phase, RTCState),          VMSTATE_INT64(second, RTCState),
    VMSTATE_INT64(divider_start, RTCState),  VMSTATE_INT64(periodic_seen, RTCState),
    VMSTATE_UINT32(lost, RTCState),          VMSTATE_INT64(catch_up, RTCState),
    VMSTATE_TIMER(timer, RTCState),          VMSTATE_END(),
};
static const VMStateDescription vmstate_rtc = {
    .name = "mc146818rtc",
    .version = 1,
    .minimum_version = 1,
    .post_load = rtc_post_load,
    .fields = rtc_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

/* "2024-02-29", "2024-02-29T12:34:56". */
static bool parse_date(const char *text, int64_t *seconds)
{
    int year, month, day, hour = 0, minute = 0, second = 0, used = 0, more = 0;
    RtcDate d;

    if (sscanf(text, "%4d-%2d-%2d%n", &year, &month, &day, &used) != 3 || !used) {
        return false;
    }
    if (text[used] && (sscanf(text + used, "T%2d:%2d:%2d%n", &hour, &minute, &second, &more) != 3 ||
                       !more || text[used + more])) {
        return false;
    }
    d = (RtcDate){ .year = year, .month = month, .day = day };
    if (year < 1 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 ||
        minute > 59 || second < 0 || second > 59 ||
        (day > 28 && rtc_date_of_days(rtc_days_of_date(d)).day != day)) {
        return false;
    }
    *seconds = rtc_days_of_date(d) * RTC_DAY + hour * 3600 + minute * 60 + second;
    return true;
}

static bool base_time(RTCState *s, int64_t *seconds, GError **error)
{
    time_t now = (time_t)(clock_now(clock_host()) / NS_PER_SEC);
    struct tm tm;

    *seconds = now;
    if (!s->base || !strcmp(s->base, "utc")) {
        return true;
    }
    if (!strcmp(s->base, "localtime")) {
        *seconds += localtime_r(&now, &tm) ? tm.tm_gmtoff : 0;
        return true;
    }
    return parse_date(s->base, seconds) ||
           error_set(error, ENGINE_ERROR_INVALID,
                     "%s: base: 'utc', 'localtime' or a date such as 2024-02-29T12:34:56 expected, "
                     "got '%s'",
                     object_get_name(OBJECT(s)), s->base);
}

static bool rtc_realize(DeviceState *dev, GError **error)
{
    RTCState *s = RTC(dev);
    int64_t seconds;

    if (!base_time(s, &seconds, error)) {
        return false;
    }
    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_finalize(&s->io_extended);
    memory_region_init_io(&s->io, OBJECT(dev), &rtc_ops, s, "rtc", 2);
    memory_region_init_io(&s->io_extended, OBJECT(dev), &extended_ops, s, "rtc-extended", 2);
    timer_setup(&s->timer, device_clock(dev), rtc_timer, s);
    memset(s->cmos, 0, sizeof(s->cmos));
    s->cmos[RTC_REG_A] = REG_A_DV_ON | 6;
    s->cmos[RTC_REG_B] = REG_B_24H;
    s->cmos[RTC_REG_D] = REG_D_VRT;
    s->phase = 0;
    s->second = rtc_floor_div(source_now(s), NS_PER_SEC);
    s->divider_start = machine_now(s);
    s->periodic_seen = 0;
    s->lost = 0;
    s->catch_up = -1;
    put_time(s, seconds);
    return device_map_io(dev, s->iobase, &s->io, error) &&
           (!s->extended || device_map_io(dev, s->iobase + 2, &s->io_extended, error));
}

static void rtc_unrealize(DeviceState *dev)
{
    timer_disarm(&RTC(dev)->timer);
}

/* The RESET pin: time and RAM stay, they live on the battery. */
static void rtc_reset(DeviceState *dev)
{
    RTCState *s = RTC(dev);

    rtc_sync(s);
    s->cmos[RTC_REG_B] &= (uint8_t) ~(REG_B_PIE | REG_B_AIE | REG_B_UIE | REG_B_SQWE);
    s->cmos[RTC_REG_C] = 0;
    s->index = s->index_extended = 0;
    s->nmi_masked = false;
    s->lost = 0;
    s->catch_up = -1;
    irq_set(s->nmi_mask, 0);
    rtc_update(s);
}

static const Property rtc_properties[] = {
    DEFINE_PROP_UINT32("iobase", RTCState, iobase, 0x70, "first of its ports"),
    DEFINE_PROP_INT32("irq", RTCState, irq_number, 8,
                      "number of the interrupt that the board connects it to"),
    DEFINE_PROP_STRING("base", RTCState, base,
                       "the date that it begins with: utc (default), localtime, or a date such as "
                       "2024-02-29T12:34:56"),
    DEFINE_PROP_ENUM(
        "clock", RTCState, clock_choice, clock_words, CLOCK_HOST_TIME,
        "what counts its seconds: the host's clock, which goes on while the machine is "
        "paused, or the machine's own"),
    DEFINE_PROP_ENUM(
        "driftfix", RTCState, driftfix, driftfix_words, DRIFTFIX_NONE,
        "slew: periodic interrupts that the guest was too slow for come later, faster"),
    DEFINE_PROP_BOOL("extended", RTCState, extended, true, "it has the second bank of RAM"),
};

static void rtc_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", &RTC(obj)->irq, 1);
    device_init_irq_out(DEVICE(obj), "alarm", &RTC(obj)->alarm, 1);
    device_init_irq_out(DEVICE(obj), "nmi-mask", &RTC(obj)->nmi_mask, 1);
}

static void rtc_finalize(Object *obj)
{
    memory_region_finalize(&RTC(obj)->io);
    memory_region_finalize(&RTC(obj)->io_extended);
}

static void rtc_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = rtc_realize;
    dc->unrealize = rtc_unrealize;
    dc->reset = rtc_reset;
    dc->vmsd = &vmstate_rtc;
    object_class_add_properties(klass, rtc_properties, G_N_ELEMENTS(rtc_properties));
}

static const TypeInfo rtc_info = {
    .name = TYPE_RTC,
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's real-time clock and CMOS RAM",
    .instance_size = sizeof(RTCState),
    .instance_init = rtc_init,
    .instance_finalize = rtc_finalize,
    .class_init = rtc_class_init,
};

static void register_rtc(void)
{
    type_register_static(&rtc_info);
}
type_init(register_rtc)
