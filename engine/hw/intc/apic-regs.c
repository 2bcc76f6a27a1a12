/*
 * The registers of a local APIC, through its page (xAPIC, SDM 3A 11.4) and as MSRs (x2APIC,
 * 11.12).
 */
#include "engine/hw/intc/apic-priv.h"

#include "engine/core/log.h"

#define PHYS_BITS 52
#define ICR_BITS  0xccfffu
#define ICR_BUSY  (1u << 12) /* delivery status: never seen, messages arrive at once */

static const uint32_t lvt_mask[LVTS] = {
    [LVT_TIMER] = LVT_VECTOR | LVT_MASKED | 3u << LVT_TIMER_SHIFT,
    [LVT_THERMAL] = LVT_VECTOR | 7u << LVT_MODE_SHIFT | LVT_MASKED,
    [LVT_PERF] = LVT_VECTOR | 7u << LVT_MODE_SHIFT | LVT_MASKED,
    [LVT_LINT0] = LVT_VECTOR | 7u << LVT_MODE_SHIFT | 1u << 13 | LVT_LEVEL | LVT_MASKED,
    [LVT_LINT1] = LVT_VECTOR | 7u << LVT_MODE_SHIFT | 1u << 13 | LVT_LEVEL | LVT_MASKED,
    [LVT_ERROR] = LVT_VECTOR | LVT_MASKED,
};

uint32_t apic_x2_ldr(const LocalApic *a)
{
    return a->id >> 4 << 16 | 1u << (a->id & 15);
}

/* ---- what both ways have in common --------------------------------------------------------- */

static bool is_bank(unsigned offset)
{
    return offset >= APIC_ISR && offset < APIC_IRR + 0x80;
}

/* Registers that exist at both; false: there is none. */
static bool read_common(LocalApic *a, unsigned offset, uint32_t *value)
{
    switch (offset) {
    case APIC_VERSION:
        *value = APIC_VERSION_VALUE;
        return true;
    case APIC_TPR:
        *value = a->r.tpr;
        return true;
    case APIC_PPR:
        *value = apic_ppr(a);
        return true;
    case APIC_SVR:
        *value = a->r.svr;
        return true;
    case APIC_ESR:
        *value = a->r.esr;
        return true;
    case APIC_ICR:
        *value = a->r.icr;
        return true;
    case APIC_INITIAL_COUNT:
        *value = a->r.initial_count;
        return true;
    case APIC_CURRENT_COUNT:
        *value = apic_timer_count(a);
        return true;
    case APIC_DIVIDE:
        *value = a->r.divide;
        return true;
    default:
        break;
    }
    if (is_bank(offset)) {
        const uint32_t *bank = offset < APIC_TMR   ? a->r.isr
                               : offset < APIC_IRR ? a->r.tmr
                                                   : a->r.irr;

        *value = bank[offset >> 4 & 7];
        return true;
    }
    if (offset >= APIC_LVT && offset < APIC_LVT_END) {
        *value = a->r.lvt[(offset - APIC_LVT) >> 4];
        return true;
    }
    return false;
}

static void write_lvt(LocalApic *a, unsigned entry, uint32_t value)
{
    uint32_t old = a->r.lvt[entry];

    value &= lvt_mask[entry];
    if (!(a->r.svr & SVR_ENABLED)) {
        value |= LVT_MASKED;
    }
    if (entry == LVT_TIMER) {
        apic_timer_set_lvt(a, value);
        return;
    }
    if ((value & LVT_LEVEL) && (value >> LVT_MODE_SHIFT & 7) == MODE_FIXED) {
        value |= old & LVT_REMOTE_IRR;
    }
    a->r.lvt[entry] = value;
    /* A level that was held back by the mask comes now; ExtINT is looked at by the vCPU. */
    if ((entry == LVT_LINT0 || entry == LVT_LINT1) && a->set->lint[entry - LVT_LINT0]) {
        if ((value & LVT_LEVEL) && (value >> LVT_MODE_SHIFT & 7) == MODE_FIXED) {
            apic_lvt_deliver(a, entry);
        }
        apic_notify(a);
    }
}

static void write_svr(LocalApic *a, uint32_t value)
{
    a->r.svr = value & (0xffu | SVR_ENABLED | SVR_NO_BROADCAST);
    if (!(a->r.svr & SVR_ENABLED)) {
        for (unsigned i = 0; i < LVTS; i++) {
            a->r.lvt[i] |= LVT_MASKED;
        }
    }
}

static bool write_common(LocalApic *a, unsigned offset, uint32_t value)
{
    switch (offset) {
    case APIC_TPR:
        a->r.tpr = value & 0xff;
        apic_notify(a);
        return true;
    case APIC_EOI:
        apic_end_of_interrupt(a);
        return true;
    case APIC_SVR:
        write_svr(a, value);
        return true;
    case APIC_ESR:
        a->r.esr = a->r.errors;
        a->r.errors = 0;
        return true;
    case APIC_INITIAL_COUNT:
        apic_timer_load(a, value);
        return true;
    case APIC_DIVIDE:
        apic_timer_set_divide(a, value);
        return true;
    default:
        break;
    }
    if (offset >= APIC_LVT && offset < APIC_LVT_END) {
        write_lvt(a, (offset - APIC_LVT) >> 4, value);
        return true;
    }
    return false;
}

/* ---- xAPIC --------------------------------------------------------------------------------- */

uint32_t apic_read_register(LocalApic *a, unsigned offset)
{
    uint32_t value;

    if (read_common(a, offset, &value)) {
        return value;
    }
    switch (offset) {
    case APIC_ID:
        return a->id << 24;
    case APIC_APR:
    case APIC_EOI:
    case APIC_RRD:
        return 0;
    case APIC_LDR:
        return a->r.ldr;
    case APIC_DFR:
        return a->r.dfr;
    case APIC_ICR_HIGH:
        return a->r.icr_high;
    default:
        apic_error(a, ESR_REGISTER);
        return 0;
    }
}

void apic_write_register(LocalApic *a, unsigned offset, uint32_t value)
{
    uint32_t ignored;

    if (write_common(a, offset, value)) {
        return;
    }
    switch (offset) {
    case APIC_LDR:
        a->r.ldr = value & 0xff000000;
        break;
    case APIC_DFR:
        a->r.dfr = value | 0x0fffffff;
        break;
    case APIC_ICR:
        a->r.icr = value & ICR_BITS;
        apic_write_icr(a);
        break;
    case APIC_ICR_HIGH:
        a->r.icr_high = value & 0xff000000;
        break;
    case APIC_ID:
    case APIC_APR:
    case APIC_RRD:
        log_of(a->set, LOG_GUEST, "apic %u: write of read-only register %#x", a->id, offset);
        break;
    default:
        if (read_common(a, offset, &ignored)) {
            log_of(a->set, LOG_GUEST, "apic %u: write of read-only register %#x", a->id, offset);
        } else {
            apic_error(a, ESR_REGISTER);
        }
        break;
    }
}

/* ---- x2APIC -------------------------------------------------------------------------------- */

static bool x2_read(LocalApic *a, uint32_t index, uint64_t *value)
{
    unsigned offset = (index - MSR_X2APIC) << 4;
    uint32_t v;

    switch (offset) {
    case APIC_ID:
        *value = a->id;
        return true;
    case APIC_LDR:
        *value = apic_x2_ldr(a);
        return true;
    case APIC_ICR:
        *value = (uint64_t)a->r.icr_high << 32 | a->r.icr;
        return true;
    default:
        if (!read_common(a, offset, &v)) {
            return false;
        }
        *value = v;
        return true;
    }
}

/* Bits that a register takes; others are #GP. */
static uint32_t x2_writable(unsigned offset)
{
    if (offset >= APIC_LVT && offset < APIC_LVT_END) {
        /* Software writes back what it read: delivery status and remote IRR. */
        return lvt_mask[(offset - APIC_LVT) >> 4] | 1u << 12 |
               (offset == APIC_LVT + LVT_LINT0 * 16 || offset == APIC_LVT + LVT_LINT1 * 16
                    ? LVT_REMOTE_IRR
                    : 0);
    }
    switch (offset) {
    case APIC_TPR:
    case APIC_SELF_IPI:
        return 0xff;
    case APIC_SVR:
        return 0xff | SVR_ENABLED | SVR_NO_BROADCAST;
    case APIC_DIVIDE:
        return 0xb;
    case APIC_INITIAL_COUNT:
        return UINT32_MAX;
    default:
        return 0; /* EOI, ESR: only 0 */
    }
}

static bool x2_write(LocalApic *a, uint32_t index, uint64_t value)
{
    unsigned offset = (index - MSR_X2APIC) << 4;

    if (offset == APIC_ICR) {
        if ((uint32_t)value & ~(ICR_BITS | ICR_BUSY)) {
            return false;
        }
        a->r.icr = (uint32_t)value & ICR_BITS;
        a->r.icr_high = (uint32_t)(value >> 32);
        apic_write_icr(a);
        return true;
    }
    if (value & ~(uint64_t)x2_writable(offset)) {
        return false;
    }
    if (offset == APIC_SELF_IPI) {
        if ((value & 0xff) < 16) {
            apic_error(a, ESR_SEND_VECTOR);
        } else {
            apic_accept(a, (uint8_t)value, false);
        }
        return true;
    }
    return write_common(a, offset, (uint32_t)value);
}

static bool write_base(LocalApic *a, uint64_t value)
{
    uint64_t known = APIC_BASE_BSP | APIC_BASE_X2APIC | APIC_BASE_ENABLED |
                     (((UINT64_C(1) << PHYS_BITS) - 1) & ~UINT64_C(0xfff));
    bool enabled = value & APIC_BASE_ENABLED, x2 = value & APIC_BASE_X2APIC;

    /* SDM 3A figure 11-27: x2APIC is entered from xAPIC, and left only by disabling. */
    if ((value & ~known) || (x2 && !enabled) || (x2 && !apic_enabled(a)) ||
        (apic_is_x2(a) && enabled && !x2)) {
        return false;
    }
    if ((value & known & ~UINT64_C(0xfff)) != APIC_BASE_ADDRESS) {
        log_of(a->set, LOG_UNIMP, "apic %u: registers moved to %#" G_GINT64_MODIFIER "x", a->id,
               value & ~UINT64_C(0xfff));
    }
    if (apic_enabled(a) && !enabled) {
        apic_init_state(a);
    }
    if (x2 && !apic_is_x2(a)) {
        a->r.icr_high = 0;
    }
    a->r.base = value;
    apic_notify(a);
    return true;
}

/* ---- MSRs ---------------------------------------------------------------------------------- */

bool apic_rdmsr(LocalApic *a, uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_APIC_BASE:
        *value = a->r.base;
        return true;
    case MSR_TSC_DEADLINE:
        *value = a->r.tsc_deadline;
        return true;
    default:
        return index >= MSR_X2APIC && index < MSR_X2APIC_END && apic_is_x2(a) &&
               x2_read(a, index, value);
    }
}

bool apic_wrmsr(LocalApic *a, uint32_t index, uint64_t value)
{
    switch (index) {
    case MSR_APIC_BASE:
        return write_base(a, value);
    case MSR_TSC_DEADLINE:
        apic_timer_set_deadline(a, value);
        return true;
    default:
        return index >= MSR_X2APIC && index < MSR_X2APIC_END && apic_is_x2(a) &&
               x2_write(a, index, value);
    }
}
