/*
 * The saved forms of a PC's interrupt controllers and timer: 8259A pair, I/O APIC, local APICs,
 * 8254, and port 0x61 beside it.
 *
 * The devices in hw/ hold these structures and work on them; an accelerator that has such a chip
 * inside translates. Both write and read the same sections of the stream, so that a machine goes
 * from one to the other. Times are virtual.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/state/vmstate.h"

/* ---- 8259A --------------------------------------------------------------------------------- */

enum { PIC_CASCADE = 2 };
enum { PIC_INIT_DONE, PIC_INIT_ICW2, PIC_INIT_ICW3, PIC_INIT_ICW4 }; /* the next byte expected */
enum { PIC_ICW1_IC4 = 1 << 0, PIC_ICW1_SNGL = 1 << 1, PIC_ICW1_LTIM = 1 << 3 };

typedef struct PicChip {
    uint8_t lines; /* levels of the inputs */
    uint8_t irr, isr, imr, elcr;
    uint8_t base;   /* of the vectors */
    uint8_t lowest; /* the input of lowest priority */
    uint8_t init_state, icw1;
    bool auto_eoi, rotate_aeoi, special_nested, special_mask, poll, read_isr;
} PicChip;
extern const VMStateDescription vmstate_pic_chip;
/* How far from the top of the priorities the first of `set` is; 8: it is empty. */
unsigned pic_chip_rank(const PicChip *c, uint8_t set);
int pic_chip_pick(const PicChip *c, bool master); /* the input to serve now; -1: none */
bool pic_pair_valid(const PicChip pic[2], GError **error);

/* ---- I/O APIC ------------------------------------------------------------------------------ */

#define IOAPIC_PINS       24
#define IOAPIC_REMOTE_IRR (UINT64_C(1) << 14)
#define IOAPIC_LEVEL      (UINT64_C(1) << 15)
#define IOAPIC_MASKED     (UINT64_C(1) << 16)
#define IOAPIC_DELIVS     (UINT64_C(1) << 12)
#define IOAPIC_READ_ONLY  (IOAPIC_DELIVS | IOAPIC_REMOTE_IRR)
#define IOAPIC_WRITABLE   (UINT64_C(0xff) << 56 | (UINT64_C(0x1ffff) & ~IOAPIC_READ_ONLY))

typedef struct IoapicState {
    uint32_t select;
    uint32_t id;
    uint32_t lines; /* levels of the inputs, as they are on the wire: 1 is asserted */
    uint32_t irr;   /* edges that a mask holds back, and levels */
    uint64_t redir[IOAPIC_PINS];
} IoapicState;
extern const VMStateDescription vmstate_ioapic_state; /* refuses reserved bits */

/* ---- local APIC ---------------------------------------------------------------------------- */

#define APIC_MAX_CPUS 255
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVTS };
#define LVT_VECTOR      0xffu
#define LVT_MODE_SHIFT  8
#define LVT_REMOTE_IRR  (1u << 14)
#define LVT_LEVEL       (1u << 15)
#define LVT_MASKED      (1u << 16)
#define LVT_TIMER_SHIFT 17
#define LVT_MODE_EXTINT 7u
enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE, TIMER_RESERVED };
#define APIC_BASE_BSP     (UINT64_C(1) << 8)
#define APIC_BASE_X2APIC  (UINT64_C(1) << 10)
#define APIC_BASE_ENABLED (UINT64_C(1) << 11)
#define APIC_BASE_ADDRESS UINT64_C(0xfee00000)

typedef struct ApicState {
    uint64_t base;
    uint32_t tpr, ldr, dfr, svr;
    uint32_t esr, errors; /* as shown; collected since the last write of ESR */
    uint32_t icr, icr_high;
    uint32_t lvt[LVTS];
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t initial_count, divide; /* 1 GHz, divided */
    int64_t timer_start;            /* ns: when initial_count was loaded */
    int64_t timer_fired;            /* ns: when it last went off */
    int64_t timer_due;              /* ns: when it goes off next; -1: never. Saved form only */
    uint64_t tsc_deadline, tsc_offset;
    uint32_t tsc_khz;  /* of the TSC that the deadline is compared with; 0: the device's own */
    uint32_t requests; /* CPU_APIC_* */
    uint8_t sipi_vector;
    bool extint; /* an ExtINT message waits for its acknowledge */
} ApicState;
extern const VMStateDescription vmstate_apic_state;
bool apic_state_valid(const ApicState *a);
void apic_state_init(ApicState *a); /* as after INIT: what base, requests and time are stays */
void apic_state_reset(ApicState *a, bool bsp); /* LINT0 of the boot processor is the PIC's */
int64_t apic_state_divisor(const ApicState *a);
static inline unsigned apic_state_timer_mode(const ApicState *a)
{
    return a->lvt[LVT_TIMER] >> LVT_TIMER_SHIFT & 3;
}

/* ---- 8254 ---------------------------------------------------------------------------------- */

#define PIT_HZ 1193182
enum { PIT_BCD = 1 << 0, PIT_RW_LSB = 1, PIT_RW_MSB = 2, PIT_RW_BOTH = 3 };

typedef struct PitChannel { /* times are numbers of CLKs */
    uint8_t control;        /* bits 5 to 0 of the control word: RW, mode, BCD */
    bool gate;              /* level of the input */
    bool programmed;        /* a count was written since the control word */
    bool loaded;            /* it is in the counting element: counting, unless the gate stops it */
    bool pending;           /* modes 2, 3: `reload` takes effect at the end of the (half) cycle */
    bool frozen;            /* stopped by the gate after `elapsed` CLKs */
    bool half_written;      /* the low byte is in `low`, the high one is awaited */
    bool half_read;         /* the high byte is next */
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
unsigned pit_channel_mode(const PitChannel *c);         /* 0 to 5 */
bool pit_channel_out(const PitChannel *c, int64_t now); /* of a channel that is in step with now */
extern const VMStateDescription vmstate_pit_channel;    /* refuses what no counter can be in */
static inline int64_t pit_ns_to_clk(int64_t ns)
{
    return (int64_t)((__int128)ns * PIT_HZ / INT64_C(1000000000));
}

/* ---- all of them --------------------------------------------------------------------------- */

typedef enum {
    PC_CHIP_APIC,
    PC_CHIP_PIC,
    PC_CHIP_IOAPIC,
    PC_CHIP_PIT,
    PC_CHIP_PORTB, /* port 0x61 */
    PC_CHIPS,
} PcChip;

typedef struct PcChipStates {
    uint32_t apics;
    bool lint[2]; /* levels of the wires, which all local APICs share */
    ApicState apic[APIC_MAX_CPUS];
    PicChip pic[2];
    IoapicState ioapic;
    PitChannel pit[3];
    int64_t pit_fired, pit_seen; /* ns, CLK: of the output of counter 0 */
    uint8_t portb;
} PcChipStates;

/* The section that a chip's state is in, and its description over PcChipStates. */
const VMStateDescription *pc_chip_description(PcChip chip);
int pc_chip_of(const char *section); /* -1: none of them */
void pc_chips_reset(PcChipStates *s, unsigned cpus);
/* Whether a guest has done anything with it since its reset that a machine without it would miss;
 * `what` then names the chip. */
bool pc_chip_in_use(PcChip chip, const PcChipStates *s, const char **what);
