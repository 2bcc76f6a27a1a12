/*
 * One counter of the 8254: modes, loading, gate, latches (Intel 8254 data sheet, order 231164).
 *
 * Nothing counts: what the counting element holds is computed from the CLK at which it was loaded.
 */
#include "engine/hw/timer/isa-pit-priv.h"

unsigned pit_channel_modulus(const PitChannel *c)
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

static uint32_t channel_value(const PitChannel *c, int64_t now)
{
    uint32_t modulus = pit_channel_modulus(c), n = c->count;
    int64_t e = channel_elapsed(c, now);

    if (!c->loaded || (!c->frozen && now < c->start)) {
        return c->idle;
    }
    switch (pit_channel_mode(c)) {
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
void pit_channel_sync(PitChannel *c, int64_t now)
{
    int64_t e, end;
    uint32_t n = c->count, high = high_half(n);

    if (!c->pending || !c->loaded || c->frozen || now < c->start ||
        (pit_channel_mode(c) & ~1u) != 2) {
        return;
    }
    e = now - c->start;
    if (pit_channel_mode(c) == 2) {
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
    if (pit_channel_mode(c) == 3 && end % n != 0) {
        c->start -= high_half(c->count);
    }
}

static void channel_load(PitChannel *c, int64_t now)
{
    pit_channel_sync(c, now);
    c->idle = (uint16_t)channel_value(c, now);
    c->count = c->reload;
    c->start = now + 1;
    c->loaded = true;
    c->pending = c->frozen = false;
    c->elapsed = 0;
}

static const char *channel_write_count(PitChannel *c, uint16_t raw, int64_t now)
{
    unsigned mode = pit_channel_mode(c);
    uint32_t count = raw;

    pit_channel_sync(c, now);
    if (c->control & PIT_BCD) {
        count = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
        count %= 10000;
    }
    c->reload = count ? count : pit_channel_modulus(c);
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
    return (mode == 2 || mode == 3) && c->reload == 1 ? "a count of 1 in mode 2 or 3" : NULL;
}

void pit_channel_write_control(PitChannel *c, uint8_t value, int64_t now)
{
    pit_channel_sync(c, now);
    c->idle = (uint16_t)channel_value(c, now);
    c->control = value & 0x3f;
    c->programmed = c->loaded = c->pending = c->frozen = false;
    c->half_written = c->half_read = c->status_latched = false;
    c->latched = 0;
    c->elapsed = 0;
}

void pit_channel_set_gate(PitChannel *c, bool level, int64_t now)
{
    unsigned mode = pit_channel_mode(c);
    bool rising = level && !c->gate;

    if (level == c->gate) {
        return;
    }
    pit_channel_sync(c, now);
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

    pit_channel_sync(c, now);
    v = channel_value(c, now);
    if (c->control & PIT_BCD) {
        v %= 10000;
        return (uint16_t)(v / 1000 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10);
    }
    return (uint16_t)v;
}

uint8_t pit_channel_status(PitChannel *c, int64_t now)
{
    bool null_count;

    pit_channel_sync(c, now);
    null_count = !c->programmed || !c->loaded || c->pending || (!c->frozen && now < c->start);
    return (uint8_t)((pit_channel_out(c, now) ? STATUS_OUT : 0) | (null_count ? STATUS_NULL : 0) |
                     c->control);
}

void pit_channel_latch_count(PitChannel *c, int64_t now)
{
    unsigned rw = c->control >> 4;

    if (!c->latched) {
        c->latched_count = channel_bus_value(c, now);
        c->latched = rw == PIT_RW_BOTH ? 2 : 1;
        c->half_read = false;
    }
}

uint8_t pit_channel_read(PitChannel *c, int64_t now)
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

const char *pit_channel_write(PitChannel *c, uint8_t value, int64_t now)
{
    switch (c->control >> 4) {
    case PIT_RW_LSB:
        return channel_write_count(c, value, now);
    case PIT_RW_MSB:
        return channel_write_count(c, (uint16_t)(value << 8), now);
    case PIT_RW_BOTH:
        if (!c->half_written) {
            c->low = value;
            c->half_written = true;
            if (pit_channel_mode(c) == 0 && c->loaded) {
                /* The first byte stops the counting, and OUT is low at once. */
                c->idle = (uint16_t)channel_value(c, now);
                c->loaded = c->frozen = false;
            }
        } else {
            c->half_written = false;
            return channel_write_count(c, (uint16_t)(value << 8 | c->low), now);
        }
        return NULL;
    default: /* no control word has come yet */
        return "a count for a counter without a mode";
    }
}

/* The first CLK after `now` at which OUT may change by itself; -1: never. */
int64_t pit_channel_next_edge(const PitChannel *c, int64_t now)
{
    int64_t at = MAX(now, c->start - 1), e = at - c->start; /* -1: before the load */
    uint32_t n = c->count;

    if (!c->loaded || c->frozen) {
        return -1;
    }
    switch (pit_channel_mode(c)) {
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

int64_t pit_channel_rises(const PitChannel *c, int64_t from, int64_t to)
{
    int64_t first = from - c->start, last = to - c->start;
    uint32_t n = c->count;

    if (!c->loaded || c->frozen || last < 0) {
        return 0;
    }
    first = MAX(first, -1);
    switch (pit_channel_mode(c)) {
    case 0:
    case 1:
        return first < n && last >= n;
    case 2:
    case 3:
        return n > 1 ? last / n - MAX(first, 0) / n : 0;
    default:
        return first < (int64_t)n + 1 && last >= (int64_t)n + 1;
    }
}
