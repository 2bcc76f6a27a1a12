/* A keyboard controller with its two devices, for their tests. */
#pragma once

#include <stdio.h>

#include "engine/display/input.h"
#include "engine/hw/input/i8042.h"
#include "tests/unit/intc_rig.h"

#define MS INT64_C(1000000)

static DeviceState *kbc;
static Input *input;
static Irq *lines[4];
static int level[4];
static unsigned rises[4];
enum { KBD, AUX, A20, KEY };

static inline void line_changed(void *opaque, int n, int new_level)
{
    rises[n] += new_level && !level[n];
    level[n] = new_level;
}

static inline void setup(void)
{
    static const char *const names[] = { "kbd-irq", "aux-irq", "a20", "key" };

    machine_setup();
    kbc = DEVICE(object_new(TYPE_I8042, NULL));
    memset(level, 0, sizeof(level));
    memset(rises, 0, sizeof(rises));
    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        lines[i] = irq_new(line_changed, NULL, (int)i);
        ck_assert(device_connect_irq_out(kbc, names[i], 0, lines[i], NULL));
    }
    ck_assert(device_realize(kbc, machine, "kbc", NULL));
    object_unref(kbc);
    input = input_of(OBJECT(machine));
}

static inline void teardown(void)
{
    machine_teardown();
    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        irq_disconnect(lines[i]);
        irq_unref(lines[i]);
    }
}

static inline void ctr(unsigned value)
{
    outb(0x64, 0x60);
    outb(0x60, value);
}

static inline void wait_wire(void)
{
    run_until(now_ns + MS);
}

/* All bytes that come, as hex, each waited for. */
static inline const char *drain(void)
{
    static char text[1024];
    size_t n = 0;

    text[0] = 0;
    for (wait_wire(); inb(0x64) & 1 && n + 4 < sizeof(text); wait_wire()) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%02x", n ? " " : "", inb(0x60));
    }
    return text;
}

static inline const char *press(InputKey key)
{
    ck_assert(input_key(input, key, true));
    return drain();
}

static inline const char *release(InputKey key)
{
    ck_assert(input_key(input, key, false));
    return drain();
}

static inline const char *tell(unsigned byte)
{
    outb(0x60, byte);
    return drain();
}

static inline const char *tell_mouse(unsigned byte)
{
    outb(0x64, 0xd4);
    outb(0x60, byte);
    return drain();
}

static inline const char *ask(unsigned command)
{
    outb(0x64, command);
    return drain();
}
