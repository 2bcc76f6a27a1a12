/* One counter of the 8254, for isa-pit.c. Times are numbers of CLKs. */
#pragma once

#include "engine/core/clock.h"
#include "engine/hw/timer/pit.h"

enum { PIT_BCD = 1 << 0, PIT_RW_LSB = 1, PIT_RW_MSB = 2, PIT_RW_BOTH = 3, PIT_READ_BACK = 3 };
enum { READ_BACK_NO_STATUS = 1 << 4, READ_BACK_NO_COUNT = 1 << 5 };
enum { STATUS_OUT = 1 << 7, STATUS_NULL = 1 << 6 };
#define TICK_MAX (CLOCK_MAX / 838 + 1)

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

unsigned pit_channel_mode(const PitChannel *c);    /* 0 to 5 */
unsigned pit_channel_modulus(const PitChannel *c); /* 65536, or 10000 in BCD */
bool pit_channel_out(const PitChannel *c, int64_t now);
/* Reloads that have taken effect since are in the registers afterwards. */
void pit_channel_sync(PitChannel *c, int64_t now);
void pit_channel_write_control(PitChannel *c, uint8_t value, int64_t now);
void pit_channel_set_gate(PitChannel *c, bool level, int64_t now);
uint8_t pit_channel_status(PitChannel *c, int64_t now);
void pit_channel_latch_count(PitChannel *c, int64_t now);
uint8_t pit_channel_read(PitChannel *c, int64_t now);
void pit_channel_write(PitChannel *c, uint8_t value, int64_t now);
/* The CLK of OUT's next change; -1: none comes by itself. */
int64_t pit_channel_next_edge(const PitChannel *c, int64_t now);
/* Whether OUT rose after `from`, up to `to`. */
bool pit_channel_rose(const PitChannel *c, int64_t from, int64_t to);
bool pit_channel_valid(const PitChannel *c); /* loaded state: one that a counter can have */
