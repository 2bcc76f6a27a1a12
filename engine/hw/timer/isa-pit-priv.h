/* One counter of the 8254, for isa-pit.c. Times are numbers of CLKs. */
#pragma once

#include "engine/core/clock.h"
#include "engine/cpu/pc-chips.h"
#include "engine/hw/timer/pit.h"

enum { PIT_READ_BACK = 3 };
enum { READ_BACK_NO_STATUS = 1 << 4, READ_BACK_NO_COUNT = 1 << 5 };
enum { STATUS_OUT = 1 << 7, STATUS_NULL = 1 << 6 };
#define TICK_MAX (CLOCK_MAX / 838 + 1)

unsigned pit_channel_modulus(const PitChannel *c); /* 65536, or 10000 in BCD */
/* Reloads that have taken effect since are in the registers afterwards. */
void pit_channel_sync(PitChannel *c, int64_t now);
void pit_channel_write_control(PitChannel *c, uint8_t value, int64_t now);
void pit_channel_set_gate(PitChannel *c, bool level, int64_t now);
uint8_t pit_channel_status(PitChannel *c, int64_t now);
void pit_channel_latch_count(PitChannel *c, int64_t now);
uint8_t pit_channel_read(PitChannel *c, int64_t now);
/* What the guest did wrong, NULL: nothing. */
const char *pit_channel_write(PitChannel *c, uint8_t value, int64_t now);
/* The CLK of OUT's next change; -1: none comes by itself. */
int64_t pit_channel_next_edge(const PitChannel *c, int64_t now);
/* How often OUT rose after `from`, up to `to`, by itself. */
int64_t pit_channel_rises(const PitChannel *c, int64_t from, int64_t to);
