/* Between the files of the local APIC. */
#pragma once

#include "engine/cpu/pc-chips.h"
#include "engine/hw/intc/apic.h"

enum { /* register offsets in the page; x2APIC MSR numbers are 0x800 + offset / 16 */
       APIC_ID = 0x020,
       APIC_VERSION = 0x030,
       APIC_TPR = 0x080,
       APIC_APR = 0x090,
       APIC_PPR = 0x0a0,
       APIC_EOI = 0x0b0,
       APIC_RRD = 0x0c0,
       APIC_LDR = 0x0d0,
       APIC_DFR = 0x0e0,
       APIC_SVR = 0x0f0,
       APIC_ISR = 0x100,
       APIC_TMR = 0x180,
       APIC_IRR = 0x200,
       APIC_ESR = 0x280,
       APIC_ICR = 0x300,
       APIC_ICR_HIGH = 0x310,
       APIC_LVT = 0x320,
       APIC_LVT_END = 0x380,
       APIC_INITIAL_COUNT = 0x380,
       APIC_CURRENT_COUNT = 0x390,
       APIC_DIVIDE = 0x3e0,
       APIC_SELF_IPI = 0x3f0,
};
enum {
    MODE_FIXED,
    MODE_LOWEST,
    MODE_SMI,
    MODE_RESERVED,
    MODE_NMI,
    MODE_INIT,
    MODE_SIPI,
    MODE_EXTINT,
};

#define SVR_ENABLED      (1u << 8)
#define SVR_NO_BROADCAST (1u << 12)
#define ESR_SEND_VECTOR  (1u << 5)
#define ESR_RECV_VECTOR  (1u << 6)
#define ESR_REGISTER     (1u << 7)
/* 32 registers of 256 bits: version 0x14, LVT entries, EOI broadcast can be suppressed. */
#define APIC_VERSION_VALUE (0x14u | (LVTS - 1) << 16 | 1u << 24)

typedef struct ApicSet ApicSet;

struct LocalApic {
    ApicSet *set;
    unsigned id; /* of the vCPU, and in x2APIC mode; never changes */
    ApicState r;
    Timer timer;
};

struct ApicSet {
    DeviceState parent;
    MemoryRegion mmio;
    uint32_t cpus;  /* property, and how many there are */
    uint32_t saved; /* in the stream: must be the same */
    uint32_t tsc_khz;
    bool virtual_wire;
    bool lint[2]; /* levels of the wires, which all share */
    LocalApic apic[APIC_MAX_CPUS];
};
OBJECT_DECLARE_TYPE(ApicSet, DeviceClass, APIC_SET, TYPE_APIC)

static inline bool apic_enabled(const LocalApic *a)
{
    return a->r.base & APIC_BASE_ENABLED;
}
static inline bool apic_is_x2(const LocalApic *a)
{
    return (a->r.base & (APIC_BASE_ENABLED | APIC_BASE_X2APIC)) ==
           (APIC_BASE_ENABLED | APIC_BASE_X2APIC);
}
static inline bool apic_soft_enabled(const LocalApic *a)
{
    return apic_enabled(a) && (a->r.svr & SVR_ENABLED);
}
static inline unsigned apic_timer_mode(const LocalApic *a)
{
    return apic_state_timer_mode(&a->r);
}

/* apic.c */
void apic_notify(LocalApic *a); /* its vCPU should look */
void apic_error(LocalApic *a, uint32_t bit);
void apic_accept(LocalApic *a, uint8_t vector, bool level);
void apic_lvt_deliver(LocalApic *a, unsigned entry);
void apic_init_state(LocalApic *a); /* as after INIT */
uint32_t apic_ppr(const LocalApic *a);
void apic_end_of_interrupt(LocalApic *a);

/* apic-ipi.c */
typedef struct ApicMessage {
    uint32_t dest;
    uint8_t vector, mode;
    bool logical, level; /* level: trigger mode */
    bool wide;           /* dest is of x2APIC form */
} ApicMessage;
void apic_deliver(ApicSet *s, const ApicMessage *msg);
void apic_write_icr(LocalApic *a); /* sends what is in icr, icr_high */

/* apic-timer.c */
void apic_timer_setup(LocalApic *a);
void apic_timer_load(LocalApic *a, uint32_t count);
void apic_timer_set_divide(LocalApic *a, uint32_t value);
void apic_timer_set_lvt(LocalApic *a, uint32_t value);
void apic_timer_set_deadline(LocalApic *a, uint64_t tsc);
uint32_t apic_timer_count(LocalApic *a);
void apic_timer_rearm(LocalApic *a);

/* apic-regs.c */
uint32_t apic_read_register(LocalApic *a, unsigned offset); /* xAPIC form */
void apic_write_register(LocalApic *a, unsigned offset, uint32_t value);
uint32_t apic_x2_ldr(const LocalApic *a);
