/* ACPI fixed hardware registers. See acpi-regs.h. */
#include "engine/hw/acpi/acpi-regs.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"

#define NS 1000000000

/* ---- the PM timer -------------------------------------------------------------------------- */

static int64_t ticks_now(const AcpiRegs *r)
{
    return (int64_t)((unsigned __int128)clock_now(device_clock(r->dev)) * ACPI_PM_TIMER_HZ / NS);
}

/* The first moment at which the timer shows at least `ticks`. */
static int64_t ticks_to_ns(int64_t ticks)
{
    return (int64_t)(((unsigned __int128)ticks * NS + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ);
}

uint32_t acpi_pm_timer(AcpiRegs *r)
{
    return (uint32_t)ticks_now(r) & (r->timer_32bit ? UINT32_MAX : 0xffffff);
}

/* TMR_STS is set when the highest bit changes either way (4.8.2.1). */
static int64_t half_period(const AcpiRegs *r)
{
    return INT64_C(1) << (r->timer_32bit ? 31 : 23);
}

static void note_overflow(AcpiRegs *r)
{
    int64_t now = ticks_now(r);

    if (now >= r->overflow_at) {
        r->pm1_status |= ACPI_PM1_TMR;
        r->overflow_at = (now / half_period(r) + 1) * half_period(r);
    }
}

/* A timer runs only while somebody wants the interrupt. */
static void arm_overflow(AcpiRegs *r)
{
    if ((r->pm1_enable & ACPI_PM1_TMR) && !(r->pm1_status & ACPI_PM1_TMR)) {
        timer_arm(&r->overflow, ticks_to_ns(r->overflow_at));
    } else {
        timer_disarm(&r->overflow);
    }
}

static void overflow_due(void *opaque)
{
    acpi_update_sci(opaque);
}

/* ---- events -------------------------------------------------------------------------------- */

void acpi_update_sci(AcpiRegs *r)
{
    bool level;

    note_overflow(r);
    level = (r->pm1_status & r->pm1_enable & ACPI_PM1_ENABLE_ALL) != 0;
    for (unsigned i = 0; i < sizeof(r->gpe_status); i++) {
        level |= (r->gpe_status[i] & r->gpe_enable[i]) != 0;
    }
    /* Without SCI_EN events are SMIs, of which this board has none. */
    irq_set(*r->sci, level && (r->pm1_control & ACPI_PM1_SCI_EN));
    arm_overflow(r);
}

void acpi_set_pm1_status(AcpiRegs *r, uint16_t bits)
{
    r->pm1_status |= bits & ACPI_PM1_STATUS_ALL;
    acpi_update_sci(r);
}

void acpi_set_gpe(AcpiRegs *r, unsigned n, bool level)
{
    if (level && n < 8 * sizeof(r->gpe_status)) {
        r->gpe_status[n / 8] |= (uint8_t)(1u << (n % 8));
        acpi_update_sci(r);
    }
}

void acpi_set_sci_enable(AcpiRegs *r, bool on)
{
    r->pm1_control = on ? r->pm1_control | ACPI_PM1_SCI_EN
                        : (uint16_t)(r->pm1_control & ~ACPI_PM1_SCI_EN);
    acpi_update_sci(r);
}

/* ---- registers ----------------------------------------------------------------------------- */

uint16_t acpi_pm1_read(AcpiRegs *r, unsigned offset)
{
    switch (offset) {
    case 0:
        note_overflow(r);
        return r->pm1_status;
    case 2:
        return r->pm1_enable;
    case 4:
        return r->pm1_control;
    case 8:
        return (uint16_t)acpi_pm_timer(r);
    case 10:
        return (uint16_t)(acpi_pm_timer(r) >> 16);
    default:
        return 0;
    }
}

static void write_control(AcpiRegs *r, uint16_t value)
{
    unsigned type = value >> ACPI_PM1_SLP_TYP_SHIFT & 7;

    /* SLP_EN reads as 0; GBL_RLS would be an SMI. */
    r->pm1_control = value & (uint16_t) ~(ACPI_PM1_SLP_EN | ACPI_PM1_GBL_RLS);
    acpi_update_sci(r);
    if (value & ACPI_PM1_SLP_EN) {
        r->sleep(r->dev, type);
    }
}

void acpi_pm1_write(AcpiRegs *r, unsigned offset, uint16_t value)
{
    switch (offset) {
    case 0:
        note_overflow(r);
        r->pm1_status &= (uint16_t)~value;
        acpi_update_sci(r);
        break;
    case 2:
        r->pm1_enable = value & ACPI_PM1_ENABLE_ALL;
        acpi_update_sci(r);
        break;
    case 4:
        write_control(r, value);
        break;
    default:
        log_of(r->dev, LOG_GUEST, "%s: write to the PM timer or a reserved register at %#x",
               object_get_name(OBJECT(r->dev)), offset);
        break;
    }
}

uint8_t acpi_gpe_read(const AcpiRegs *r, unsigned offset, unsigned len)
{
    unsigned half = MIN(len / 2, sizeof(r->gpe_status));

    if (offset < half) {
        return r->gpe_status[offset];
    }
    return offset - len / 2 < half ? r->gpe_enable[offset - len / 2] : 0;
}

void acpi_gpe_write(AcpiRegs *r, unsigned offset, unsigned len, uint8_t value)
{
    unsigned half = MIN(len / 2, sizeof(r->gpe_status));

    if (offset < half) {
        r->gpe_status[offset] &= (uint8_t)~value;
    } else if (offset - len / 2 < half) {
        r->gpe_enable[offset - len / 2] = value;
    }
    acpi_update_sci(r);
}

/* ---- life cycle ---------------------------------------------------------------------------- */

void acpi_regs_init(AcpiRegs *r, DeviceState *dev, Irq **sci, bool timer_32bit,
                    void (*sleep)(void *opaque, unsigned type))
{
    r->dev = dev;
    r->sci = sci;
    r->timer_32bit = timer_32bit;
    r->sleep = sleep;
    timer_setup(&r->overflow, device_clock(dev), overflow_due, r);
}

void acpi_regs_exit(AcpiRegs *r)
{
    timer_disarm(&r->overflow);
}

void acpi_regs_reset(AcpiRegs *r)
{
    r->pm1_status = r->pm1_enable = r->pm1_control = 0;
    memset(r->gpe_status, 0, sizeof(r->gpe_status));
    memset(r->gpe_enable, 0, sizeof(r->gpe_enable));
    r->overflow_at = (ticks_now(r) / half_period(r) + 1) * half_period(r);
    acpi_update_sci(r);
}

bool acpi_regs_post_load(AcpiRegs *r, GError **error)
{
    if (r->pm1_status & ~ACPI_PM1_STATUS_ALL || r->pm1_enable & ~ACPI_PM1_ENABLE_ALL ||
        r->pm1_control & (ACPI_PM1_SLP_EN | ACPI_PM1_GBL_RLS) || r->overflow_at < 0 ||
        r->overflow_at > (int64_t)1 << 60) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "PM1 status %#x, enable %#x, control %#x",
                         r->pm1_status, r->pm1_enable, r->pm1_control);
    }
    return true;
}

static const VMStateField fields[] = {
    VMSTATE_UINT16(pm1_status, AcpiRegs),      VMSTATE_UINT16(pm1_enable, AcpiRegs),
    VMSTATE_UINT16(pm1_control, AcpiRegs),     VMSTATE_UINT8_ARRAY(gpe_status, AcpiRegs),
    VMSTATE_UINT8_ARRAY(gpe_enable, AcpiRegs), VMSTATE_INT64(overflow_at, AcpiRegs),
    VMSTATE_TIMER(overflow, AcpiRegs),         VMSTATE_END(),
};
const VMStateDescription vmstate_acpi_regs = {
    .name = "acpi-regs",
    .version = 1,
    .minimum_version = 1,
    .fields = fields,
};
