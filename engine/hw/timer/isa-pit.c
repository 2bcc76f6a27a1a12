/*
 * "isa-pit": the interval timer 8254 of a PC (Intel 8254 data sheet, order 231164).
 *
 *   ports  0x40-0x42  counters 0, 1, 2
 *          0x43       control word, counter latch and read-back commands; reads as ones
 *   lines  output "irq": OUT of counter 0. Gates 0 and 1 are high; gate 2 is for port 0x61 (pit.h)
 *
 * Counters run at 1193182 Hz of the machine's virtual clock and are computed when somebody looks:
 * no event a count. The only timer is the one of counter 0's next edge. In mode 2 only the rising
 * edge is an event: the low CLK before it moves the line at that same moment. Rising edges that
 * come faster than 50 kHz, or faster than the host gets to them, are seen as one.
 *
 * Not emulated: the undefined state after power-on (counters stand still until programmed).
 */
#include "engine/hw/timer/pit.h"

#include "engine/core/error.h"
#include "engine/core/log.h"

enum { PIT_BCD = 1 << 0, PIT_RW_LSB = 1, PIT_RW_MSB = 2, PIT_RW_BOTH = 3, PIT_READ_BACK = 3 };
enum { READ_BACK_NO_STATUS = 1 << 4, READ_BACK_NO_COUNT = 1 << 5 };
enum { STATUS_OUT = 1 << 7, STATUS_NULL = 1 << 6 };
#define MIN_TIMER_NS 20000
#define NS_PER_S     INT64_C(1000000000)
#define TICK_MAX     (CLOCK_MAX / 838 + 1)

typedef struct PitChannel {
    uint8_t control;   /* bits 5 to 0 of the control word: RW, mode, BCD */
    bool gate;         /* level of the input */
    bool programmed;   /* a count was written since the control word */
    bool loaded;       /* it is in the counting element: counting, unless the gate stops it */
    bool pending;      /* modes 2, 3: `reload` takes effect at the end of the (half) cycle */
    bool frozen;       /* stopped by the gate after `elapsed` CLKs */
    bool half_written; /* the low byte is in `low`, the high one is awaited */
    bool half_read;    /* the high byte is next */
    bool status_latched;
    uint8_t latched; /* bytes of latched_count that are left to read */
    uint8_t low, status;
    uint16_t latched_count;
    uint16_t idle;   /* what the element shows while nothing is loaded, binary */
    uint32_t reload; /* count register, 1 to 65536 */
    uint32_t count;  /* what was loaded into the counting element */
    int64_t start;   /* the CLK at which it was */
    int64_t elapsed;
} PitChannel;

typedef struct ISAPit {
    DeviceState parent;
    MemoryRegion io;
    PitChannel channel[3];
    Irq *irq;
    Timer timer;
    int64_t fired; /* ns: when it last did */
    int64_t seen;  /* the CLK up to which edges of counter 0 are on the line */
} ISAPit;
OBJECT_DECLARE_TYPE(ISAPit, DeviceClass, ISA_PIT, TYPE_ISA_PIT)

/* ---- time ---------------------------------------------------------------------------------- */

static int64_t ns_to_clk(int64_t ns)
{
    return (int64_t)((__int128)ns * PIT_HZ / NS_PER_S);
}

/* The first moment at which CLK number `clk` has come. */
static int64_t clk_to_ns(int64_t clk)
{
    return (int64_t)(((__int128)clk * NS_PER_S + PIT_HZ - 1) / PIT_HZ);
}

static int64_t pit_now(ISAPit *s)
{
    return ns_to_clk(clock_now(device_clock(&s->parent)));
}

/* ---- one counter --------------------------------------------------------------------------- */

static unsigned channel_mode(const PitChannel *c)
{
    unsigned mode = c->control >> 1 & 7;

    return mode > 5 ? mode & 3 : mode;
}

static unsigned channel_modulus(const PitChannel *c)
{
    return c->control & PIT_BCD ? 10000 : 65536;
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

static bool channel_out(const PitChannel *c, int64_t now)
{
    int64_t e = channel_elapsed(c, now);
    bool begun = c->loaded && (c->frozen || now >= c->start);

    switch (channel_mode(c)) {
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

static uint32_t channel_value(const PitChannel *c, int64_t now)
{
    uint32_t modulus = channel_modulus(c), n = c->count;
    int64_t e = channel_elapsed(c, now);

    if (!c->loaded || (!c->frozen && now < c->start)) {
        return c->idle;
    }
    switch (channel_mode(c)) {
    case 2:
        return n - (uint32_t)(e % n);
    case 3: {
        uint32_t at = (uint32_t)(e % n), high = high_half(n);

        at = at < high ? at : at - high;
        return (n & ~1u) - 2 * at;
    }
    default:
        /* One-shot modes count on through 0. */
        return (uint32_t)(((int64_t)n - e % modulus + modulus) % modulus);
    }
}

/* Brings a count that waited for the end of a cycle into effect, if that has come. */
static void channel_sync(PitChannel *c, int64_t now)
{
    int64_t e, end;
    uint32_t n = c->count, high = high_half(n);

    if (!c->pending || !c->loaded || c->frozen || now < c->start || (channel_mode(c) & ~1u) != 2) {
        return;
    }
    e = now - c->start;
    if (channel_mode(c) == 2) {
        /* `elapsed` is when it was written. */
        end = c->elapsed - c->elapsed % n + n;
    } else {
        int64_t cycle = c->elapsed - c->elapsed % n;

        end = c->elapsed % n < high ? cycle + high : cycle + n;
    }
    if (e < end) {
        return;
    }
    c->pending = false;
    c->count = c->reload;
    /* After a high half comes a low one, whatever the count. */
    c->start += end;
    if (channel_mode(c) == 3 && end % n != 0) {
        c->start -= high_half(c->count);
    }
}

static void channel_load(PitChannel *c, int64_t now)
{
    channel_sync(c, now);
    c->idle = (uint16_t)channel_value(c, now);
    c->count = c->reload;
    c->start = now + 1;
    c->loaded = true;
    c->pending = c->frozen = false;
    c->elapsed = 0;
}

static void channel_write_count(PitChannel *c, uint16_t raw, int64_t now)
{
    unsigned mode = channel_mode(c);
    uint32_t count = raw;

    channel_sync(c, now);
    if (c->control & PIT_BCD) {
        count = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
        count %= 10000;
    }
    c->reload = count ? count : channel_modulus(c);
    if ((mode == 2 || mode == 3) && c->reload == 1) {
        log_mask(LOG_GUEST, "isa-pit: a count of 1 in mode %u", mode);
    }
    c->programmed = true;
    switch (mode) {
    case 0:
    case 4:
        channel_load(c, now);
        if (!c->gate) {
            c->frozen = true; /* it is loaded all the same */
        }
        break;
    case 2:
    case 3:
        if (!c->loaded) {
            channel_load(c, now);
            c->frozen = !c->gate;
        } else {
            if (!c->frozen) {
                c->elapsed = MAX(now - c->start, 0);
            }
            c->pending = true;
        }
        break;
    default: /* waits for a trigger */
        c->pending = true;
        break;
    }
}

static void channel_write_control(PitChannel *c, uint8_t value, int64_t now)
{
    channel_sync(c, now);
    c->idle = (uint16_t)channel_value(c, now);
    c->control = value & 0x3f;
    c->programmed = c->loaded = c->pending = c->frozen = false;
    c->half_written = c->half_read = c->status_latched = false;
    c->latched = 0;
    c->elapsed = 0;
}

static void channel_set_gate(PitChannel *c, bool level, int64_t now)
{
    unsigned mode = channel_mode(c);
    bool rising = level && !c->gate;

    if (level == c->gate) {
        return;
    }
    channel_sync(c, now);
    c->gate = level;
    if (!c->programmed) {
        return;
    }
    switch (mode) {
    case 0:
    case 4:
        if (!c->loaded) {
            break;
        }
        if (rising) {
            c->start = now - c->elapsed;
            c->frozen = false;
        } else {
            c->elapsed = channel_elapsed(c, now);
            c->frozen = true;
        }
        break;
    case 2:
    case 3:
        if (rising) {
            channel_load(c, now);
        } else {
            c->elapsed = channel_elapsed(c, now);
            c->frozen = true;
        }
        break;
    default:
        if (rising) {
            channel_load(c, now);
        }
        break;
    }
}

static uint16_t channel_bus_value(PitChannel *c, int64_t now)
{
    uint32_t v;

    channel_sync(c, now);
    v = channel_value(c, now);
    if (c->control & PIT_BCD) {
        v %= 10000;
        return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
    }
    return (uint16_t)v;
}

static uint8_t channel_status(PitChannel *c, int64_t now)
{
    bool null_count;

    channel_sync(c, now);
    null_count = !c->programmed || !c->loaded || c->pending || (!c->frozen && now < c->start);
    return (uint8_t)((channel_out(c, now) ? STATUS_OUT : 0) | (null_count ? STATUS_NULL : 0) |
                     c->control);
}

static void channel_latch_count(PitChannel *c, int64_t now)
{
    unsigned rw = c->control >> 4;

    if (!c->latched) {
        c->latched_count = channel_bus_value(c, now);
        c->latched = rw == PIT_RW_BOTH ? 2 : 1;
        c->half_read = false;
    }
}

static uint8_t channel_read(PitChannel *c, int64_t now)
{
    unsigned rw = c->control >> 4;
    uint16_t v;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    v = c->latched ? c->latched_count : channel_bus_value(c, now);
    if (c->latched) {
        bool high = rw == PIT_RW_MSB || (rw == PIT_RW_BOTH && c->latched == 1);

        c->latched--;
        return (uint8_t)(high ? v >> 8 : v);
    }
    if (rw == PIT_RW_BOTH) {
        c->half_read = !c->half_read;
        return (uint8_t)(c->half_read ? v : v >> 8);
    }
    return (uint8_t)(rw == PIT_RW_MSB ? v >> 8 : v);
}

static void channel_write(PitChannel *c, uint8_t value, int64_t now)
{
    switch (c->control >> 4) {
    case PIT_RW_LSB:
        channel_write_count(c, value, now);
        break;
    case PIT_RW_MSB:
        channel_write_count(c, (uint16_t)(value << 8), now);
        break;
    case PIT_RW_BOTH:
        if (!c->half_written) {
            c->low = value;
            c->half_written = true;
            if (channel_mode(c) == 0 && c->loaded) {
                /* The first byte stops the counting, and OUT is low at once. */
                c->idle = (uint16_t)channel_value(c, now);
                c->loaded = c->frozen = false;
            }
        } else {
            c->half_written = false;
            channel_write_count(c, (uint16_t)(value << 8 | c->low), now);
        }
        break;
    default: /* no control word has come yet */
        log_mask(LOG_GUEST, "isa-pit: a count for a counter without a mode");
        break;
    }
}

/* The first CLK after `now` at which OUT may change by itself; -1: never. */
static int64_t channel_next_edge(const PitChannel *c, int64_t now)
{
    int64_t at = MAX(now, c->start - 1), e = at - c->start; /* -1: before the load */
    uint32_t n = c->count;

    if (!c->loaded || c->frozen) {
        return -1;
    }
    switch (channel_mode(c)) {
    case 0:
        return e < n ? c->start + n : -1;
    case 1:
        return e < 0 ? c->start : e < n ? c->start + n : -1;
    case 2:
        return c->start + (e < 0 ? n : e - e % n + n);
    case 3: {
        int64_t cycle = e < 0 ? 0 : e - e % n;

        if (n == 1) {
            return -1;
        }
        return c->start + cycle + (e - cycle < high_half(n) ? high_half(n) : n);
    }
    default:
        return e < n ? c->start + n : e == n ? c->start + n + 1 : -1;
    }
}

/* Whether OUT rose in (from, to], by itself. */
static bool channel_rose(const PitChannel *c, int64_t from, int64_t to)
{
    int64_t first = from - c->start, last = to - c->start;
    uint32_t n = c->count;

    if (!c->loaded || c->frozen || last < 0) {
        return false;
    }
    first = MAX(first, -1);
    switch (channel_mode(c)) {
    case 0:
    case 1:
        return first < n && last >= n;
    case 2:
    case 3:
        return n > 1 && last / n > MAX(first, 0) / n;
    default:
        return first < (int64_t)n + 1 && last >= (int64_t)n + 1;
    }
}

/* ---- the line of counter 0 ----------------------------------------------------------------- */

static void pit_update(ISAPit *s, int64_t now)
{
    PitChannel *c = &s->channel[0];
    int64_t next;
    bool rose = channel_mode(c) == 2 && channel_rose(c, s->seen, now);

    channel_sync(c, now);
    rose |= channel_rose(c, s->seen, now);
    if (rose) {
        irq_lower(s->irq);
        irq_raise(s->irq);
    }
    if (irq_level(s->irq) != channel_out(c, now)) {
        irq_set(s->irq, channel_out(c, now));
    }
    s->seen = now;
    next = channel_next_edge(c, now);
    if (next >= 0 && next < TICK_MAX) {
        timer_arm(&s->timer, MAX(clk_to_ns(next), s->fired + MIN_TIMER_NS));
    } else {
        timer_disarm(&s->timer);
    }
}

static void pit_timer(void *opaque)
{
    ISAPit *s = opaque;

    s->fired = clock_now(device_clock(&s->parent));
    pit_update(s, pit_now(s));
}

void pit_set_gate(DeviceState *dev, unsigned channel, bool level)
{
    ISAPit *s = ISA_PIT(dev);
    int64_t now = pit_now(s);

    g_return_if_fail(channel < 3);
    pit_update(s, now);
    channel_set_gate(&s->channel[channel], level, now);
    pit_update(s, now);
}

bool pit_get_gate(DeviceState *dev, unsigned channel)
{
    g_return_val_if_fail(channel < 3, false);
    return ISA_PIT(dev)->channel[channel].gate;
}

bool pit_get_out(DeviceState *dev, unsigned channel)
{
    ISAPit *s = ISA_PIT(dev);
    int64_t now = pit_now(s);

    g_return_val_if_fail(channel < 3, false);
    channel_sync(&s->channel[channel], now);
    return channel_out(&s->channel[channel], now);
}

unsigned pit_get_frequency(DeviceState *dev, unsigned channel)
{
    PitChannel *c = &ISA_PIT(dev)->channel[channel < 3 ? channel : 2];

    channel_sync(c, pit_now(ISA_PIT(dev)));
    if (!c->loaded || c->frozen || (channel_mode(c) & ~1u) != 2 || c->count < 2) {
        return 0;
    }
    return (PIT_HZ + c->count / 2) / c->count;
}

/* ---- registers ----------------------------------------------------------------------------- */

static MemTxResult pit_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                            MemTxAttrs attrs)
{
    ISAPit *s = opaque;

    if (addr == 3) {
        *data = 0xff;
    } else if (attrs.debug) {
        PitChannel copy = s->channel[addr];

        *data = channel_read(&copy, pit_now(s));
    } else {
        *data = channel_read(&s->channel[addr], pit_now(s));
    }
    return MEMTX_OK;
}

static void pit_read_back(ISAPit *s, uint8_t value, int64_t now)
{
    for (unsigned i = 0; i < 3; i++) {
        PitChannel *c = &s->channel[i];

        if (!(value >> (i + 1) & 1)) {
            continue;
        }
        if (!(value & READ_BACK_NO_COUNT)) {
            channel_latch_count(c, now);
        }
        if (!(value & READ_BACK_NO_STATUS) && !c->status_latched) {
            c->status = channel_status(c, now);
            c->status_latched = true;
        }
    }
}

static MemTxResult pit_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                             MemTxAttrs attrs)
{
    ISAPit *s = opaque;
    uint8_t value = (uint8_t)data;
    int64_t now = pit_now(s);

    pit_update(s, now);
    if (addr < 3) {
        channel_write(&s->channel[addr], value, now);
    } else if (value >> 6 == PIT_READ_BACK) {
        pit_read_back(s, value, now);
    } else if ((value >> 4 & 3) == 0) {
        channel_latch_count(&s->channel[value >> 6], now);
    } else {
        channel_write_control(&s->channel[value >> 6], value, now);
    }
    pit_update(s, now);
    return MEMTX_OK;
}

static const MemoryRegionOps pit_ops = {
    .read_attrs = pit_read,
    .write_attrs = pit_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- saved state --------------------------------------------------------------------------- */

static bool channel_valid(const PitChannel *c)
{
    uint32_t modulus = channel_modulus(c);

    return c->control <= 0x3f && c->latched <= 2 && c->start >= -65536 && c->start < TICK_MAX &&
           c->elapsed >= 0 && c->elapsed < TICK_MAX &&
           (!c->programmed || (c->reload >= 1 && c->reload <= modulus)) &&
           (!c->loaded || (c->programmed && c->count >= 1 && c->count <= modulus)) &&
           (!c->pending || c->programmed) && (!c->frozen || c->loaded);
}

static bool pit_post_load(void *opaque, unsigned version, GError **error)
{
    ISAPit *s = opaque;

    for (unsigned i = 0; i < 3; i++) {
        if (!channel_valid(&s->channel[i])) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "counter %u is in an impossible state",
                             i);
        }
    }
    if (s->seen < 0 || s->seen > TICK_MAX || s->fired < 0 || s->fired > CLOCK_MAX) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "time of counter 0");
    }
    irq_restore_level(s->irq, channel_out(&s->channel[0], s->seen));
    return true;
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
static const VMStateDescription vmstate_pit_channel = {
    .name = "8254-counter",
    .version = 1,
    .minimum_version = 1,
    .fields = pit_channel_fields,
};
static const VMStateField pit_fields[] = {
    VMSTATE_STRUCT_ARRAY(channel, ISAPit, vmstate_pit_channel),
    VMSTATE_INT64(fired, ISAPit),
    VMSTATE_INT64(seen, ISAPit),
    VMSTATE_TIMER(timer, ISAPit),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_pit = {
    .name = "isa-pit",
    .version = 1,
    .minimum_version = 1,
    .post_load = pit_post_load,
    .fields = pit_fields,
};

/* ---- the device ---------------------------------------------------------------------------- */

static bool pit_realize(DeviceState *dev, GError **error)
{
    ISAPit *s = ISA_PIT(dev);

    memory_region_finalize(&s->io); /* of an earlier life */
    memory_region_init_io(&s->io, OBJECT(dev), &pit_ops, s, "pit", 4);
    timer_setup(&s->timer, device_clock(dev), pit_timer, s);
    return device_map_io(dev, 0x40, &s->io, error);
}

static void pit_unrealize(DeviceState *dev)
{
    timer_disarm(&ISA_PIT(dev)->timer);
}

static void pit_reset(DeviceState *dev)
{
    ISAPit *s = ISA_PIT(dev);

    for (unsigned i = 0; i < 3; i++) {
        s->channel[i] = (PitChannel){ .gate = i != 2 };
    }
    s->seen = pit_now(s);
    s->fired = 0;
    timer_disarm(&s->timer);
    irq_lower(s->irq);
}

static void pit_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", &ISA_PIT(obj)->irq, 1);
}

static void pit_finalize(Object *obj)
{
    memory_region_finalize(&ISA_PIT(obj)->io);
}

static void pit_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = pit_realize;
    dc->unrealize = pit_unrealize;
    dc->reset = pit_reset;
    dc->vmsd = &vmstate_pit;
}

static const TypeInfo pit_info = {
    .name = TYPE_ISA_PIT,
    .parent = TYPE_ISA_DEVICE,
    .doc = "The PC's interval timer 8254",
    .instance_size = sizeof(ISAPit),
    .instance_init = pit_init,
    .instance_finalize = pit_finalize,
    .class_init = pit_class_init,
};

static void register_pit(void)
{
    type_register_static(&pit_info);
}
type_init(register_pit)
