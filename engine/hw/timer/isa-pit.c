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
 * come faster than 50 kHz, or faster than the host gets to them, are seen as one; on line 0 of the
 * interrupt controllers periods are made up for (machine_ticks).
 *
 * Not emulated: the undefined state after power-on (counters stand still until programmed).
 */
#include "engine/hw/timer/pit.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/timer/isa-pit-priv.h"

#define MIN_TIMER_NS 20000
#define NS_PER_S     INT64_C(1000000000)
#define PIT_LINE     0

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

/* The first moment at which CLK number `clk` has come. */
static int64_t clk_to_ns(int64_t clk)
{
    return (int64_t)(((__int128)clk * NS_PER_S + PIT_HZ - 1) / PIT_HZ);
}

static int64_t pit_now(ISAPit *s)
{
    return pit_ns_to_clk(clock_now(device_clock(&s->parent)));
}

/* ---- the line of counter 0 ----------------------------------------------------------------- */

/* Up to `seen` all edges are on the line. */
static void pit_rearm(ISAPit *s)
{
    int64_t next = pit_channel_next_edge(&s->channel[0], s->seen);

    if (next >= 0 && next < TICK_MAX) {
        timer_arm(&s->timer, MAX(clk_to_ns(next), s->fired + MIN_TIMER_NS));
    } else {
        timer_disarm(&s->timer);
    }
}

static void pit_update(ISAPit *s, int64_t now)
{
    PitChannel *c = &s->channel[0];
    int64_t rises = pit_channel_mode(c) == 2 ? pit_channel_rises(c, s->seen, now) : 0;

    pit_channel_sync(c, now);
    rises = MAX(rises, pit_channel_rises(c, s->seen, now));
    if (rises) {
        irq_lower(s->irq);
        irq_raise(s->irq);
    }
    if (irq_level(s->irq) != pit_channel_out(c, now)) {
        irq_set(s->irq, pit_channel_out(c, now));
    }
    if ((pit_channel_mode(c) & ~1u) == 2) {
        machine_ticks(s->parent.machine, PIT_LINE, (uint64_t)rises);
    }
    s->seen = now;
    pit_rearm(s);
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
    pit_channel_set_gate(&s->channel[channel], level, now);
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
    pit_channel_sync(&s->channel[channel], now);
    return pit_channel_out(&s->channel[channel], now);
}

unsigned pit_get_frequency(DeviceState *dev, unsigned channel)
{
    PitChannel *c = &ISA_PIT(dev)->channel[channel < 3 ? channel : 2];

    pit_channel_sync(c, pit_now(ISA_PIT(dev)));
    if (!c->loaded || c->frozen || (pit_channel_mode(c) & ~1u) != 2 || c->count < 2) {
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

        *data = pit_channel_read(&copy, pit_now(s));
    } else {
        *data = pit_channel_read(&s->channel[addr], pit_now(s));
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
            pit_channel_latch_count(c, now);
        }
        if (!(value & READ_BACK_NO_STATUS) && !c->status_latched) {
            c->status = pit_channel_status(c, now);
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
    if (addr == 0 || (addr == 3 && value >> 6 == 0 && (value >> 4 & 3) != 0)) {
        machine_ticks_forget(s->parent.machine, PIT_LINE);
    }
    if (addr < 3) {
        const char *mistake = pit_channel_write(&s->channel[addr], value, now);

        if (mistake) {
            log_of(s, LOG_GUEST, "%s: %s", object_get_name(OBJECT(s)), mistake);
        }
    } else if (value >> 6 == PIT_READ_BACK) {
        pit_read_back(s, value, now);
    } else if ((value >> 4 & 3) == 0) {
        pit_channel_latch_count(&s->channel[value >> 6], now);
    } else {
        pit_channel_write_control(&s->channel[value >> 6], value, now);
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

static bool pit_post_load(void *opaque, unsigned version, GError **error)
{
    ISAPit *s = opaque;

    if (s->seen < 0 || s->seen > TICK_MAX || s->fired < 0 || s->fired > CLOCK_MAX) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "time of counter 0");
    }
    irq_restore_level(s->irq, pit_channel_out(&s->channel[0], s->seen));
    pit_rearm(s);
    return true;
}

static const VMStateField pit_fields[] = {
    VMSTATE_STRUCT_ARRAY(channel, ISAPit, vmstate_pit_channel),
    VMSTATE_INT64(fired, ISAPit),
    VMSTATE_INT64(seen, ISAPit),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_pit = {
    .name = "isa-pit",
    .version = 2,
    .minimum_version = 2,
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
    machine_ticks_forget(s->parent.machine, PIT_LINE);
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
