/*
 * Interrupt messages between local APICs, and to them (SDM 3A 11.6, 11.11): who is meant, and what
 * each delivery mode does there.
 */
#include "engine/hw/intc/apic-priv.h"

#include "engine/core/log.h"

#define ICR_LOGICAL   (1u << 11)
#define ICR_ASSERT    (1u << 14)
#define ICR_LEVEL     (1u << 15)
#define ICR_SHORTHAND 18
enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

static bool logical_match(const LocalApic *a, const ApicMessage *msg)
{
    uint32_t dest = msg->dest, ldr;

    if (apic_is_x2(a)) {
        ldr = apic_x2_ldr(a);
        if (msg->wide && dest == UINT32_MAX) {
            return true;
        }
        return dest >> 16 == ldr >> 16 && (dest & ldr & 0xffff);
    }
    if (msg->wide && dest > 0xff && dest != UINT32_MAX) {
        return false;
    }
    dest &= 0xff;
    ldr = a->r.ldr >> 24;
    if (a->r.dfr >> 28 == 0xf) {
        return dest & ldr;
    }
    return (dest >> 4 == ldr >> 4 || dest >> 4 == 0xf) && (dest & ldr & 0xf);
}

static bool matches(const LocalApic *a, const ApicMessage *msg)
{
    if (!apic_enabled(a)) {
        return false;
    }
    if (msg->logical) {
        return logical_match(a, msg);
    }
    return msg->dest == (msg->wide ? UINT32_MAX : 0xff) || msg->dest == a->id;
}

static void deliver_to(LocalApic *a, const ApicMessage *msg)
{
    switch (msg->mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
        apic_accept(a, msg->vector, msg->level);
        return;
    case MODE_SMI:
        a->r.requests |= CPU_APIC_SMI;
        break;
    case MODE_NMI:
        a->r.requests |= CPU_APIC_NMI;
        break;
    case MODE_INIT:
        apic_init_state(a);
        a->r.requests = (a->r.requests & ~CPU_APIC_SIPI) | CPU_APIC_INIT;
        break;
    case MODE_SIPI:
        a->r.sipi_vector = msg->vector;
        a->r.requests |= CPU_APIC_SIPI;
        break;
    case MODE_EXTINT:
        a->r.extint = true;
        break;
    default:
        log_of(a->set, LOG_GUEST, "apic: message with the reserved delivery mode %u", msg->mode);
        return;
    }
    apic_notify(a);
}

void apic_deliver(ApicSet *s, const ApicMessage *msg)
{
    LocalApic *lowest = NULL;

    for (unsigned i = 0; i < s->cpus; i++) {
        LocalApic *a = &s->apic[i];

        if (!matches(a, msg)) {
            continue;
        }
        if (msg->mode != MODE_LOWEST) {
            deliver_to(a, msg);
        } else if (apic_soft_enabled(a) && (!lowest || apic_ppr(a) < apic_ppr(lowest))) {
            lowest = a;
        }
    }
    if (lowest) {
        deliver_to(lowest, msg);
    }
}

void apic_message(DeviceState *dev, uint64_t addr, uint32_t data)
{
    ApicMessage msg = {
        .dest = addr >> 12 & 0xff,
        .vector = data & 0xff,
        .mode = data >> 8 & 7,
        .logical = addr >> 2 & 1,
        .level = data >> 15 & 1,
    };

    if (msg.level && !(data & ICR_ASSERT)) {
        return; /* the end of a level says nothing to a local APIC */
    }
    /* A hint that any one of several may take it. */
    if (msg.mode == MODE_FIXED && (addr >> 3 & 1) && msg.logical) {
        msg.mode = MODE_LOWEST;
    }
    apic_deliver(APIC_SET(dev), &msg);
}

void apic_write_icr(LocalApic *a)
{
    ApicSet *s = a->set;
    unsigned shorthand = a->r.icr >> ICR_SHORTHAND & 3;
    ApicMessage msg = {
        .dest = apic_is_x2(a) ? a->r.icr_high : a->r.icr_high >> 24,
        .vector = a->r.icr & 0xff,
        .mode = a->r.icr >> 8 & 7,
        .logical = a->r.icr & ICR_LOGICAL,
        .wide = apic_is_x2(a),
    };

    if (msg.mode == MODE_INIT && (a->r.icr & ICR_LEVEL) && !(a->r.icr & ICR_ASSERT)) {
        return; /* INIT level de-assert: only synchronized arbitration IDs, once */
    }
    if (msg.mode == MODE_RESERVED || msg.mode == MODE_EXTINT) {
        log_of(a->set, LOG_GUEST, "apic %u: ICR with the reserved delivery mode %u", a->id,
               msg.mode);
        return;
    }
    if ((msg.mode == MODE_FIXED || msg.mode == MODE_LOWEST) && msg.vector < 16) {
        apic_error(a, ESR_SEND_VECTOR);
        return;
    }
    switch (shorthand) {
    case SHORTHAND_NONE:
        apic_deliver(s, &msg);
        break;
    case SHORTHAND_SELF:
        if (msg.mode == MODE_FIXED) {
            deliver_to(a, &msg);
        } else {
            log_of(a->set, LOG_GUEST, "apic %u: delivery mode %u to itself", a->id, msg.mode);
        }
        break;
    default:
        for (unsigned i = 0; i < s->cpus; i++) {
            if (apic_enabled(&s->apic[i]) && (shorthand == SHORTHAND_ALL || &s->apic[i] != a)) {
                deliver_to(&s->apic[i], &msg);
            }
        }
        break;
    }
}
