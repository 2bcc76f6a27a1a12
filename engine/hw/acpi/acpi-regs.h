/*
 * ACPI fixed hardware (ACPI 6.4, 4.8): PM1 event and control blocks, PM timer, one GPE block. What
 * power management devices of several chip sets share; embedded in them. Engine lock.
 */
#pragma once

#include "engine/core/clock.h"
#include "engine/core/irq.h"
#include "engine/hw/core/device.h"

#define ACPI_PM_TIMER_HZ 3579545

enum {
    ACPI_PM1_TMR = 1 << 0,
    ACPI_PM1_BUS_MASTER = 1 << 4,
    ACPI_PM1_GLOBAL_LOCK = 1 << 5,
    ACPI_PM1_POWER_BUTTON = 1 << 8,
    ACPI_PM1_SLEEP_BUTTON = 1 << 9,
    ACPI_PM1_RTC = 1 << 10,
    ACPI_PM1_WAKE = 1 << 15,
    ACPI_PM1_STATUS_ALL = ACPI_PM1_TMR | ACPI_PM1_BUS_MASTER | ACPI_PM1_GLOBAL_LOCK |
                          ACPI_PM1_POWER_BUTTON | ACPI_PM1_SLEEP_BUTTON | ACPI_PM1_RTC |
                          ACPI_PM1_WAKE,
    ACPI_PM1_ENABLE_ALL = ACPI_PM1_TMR | ACPI_PM1_GLOBAL_LOCK | ACPI_PM1_POWER_BUTTON |
                          ACPI_PM1_SLEEP_BUTTON | ACPI_PM1_RTC,
    ACPI_PM1_SCI_EN = 1 << 0,
    ACPI_PM1_BM_RLD = 1 << 1,
    ACPI_PM1_GBL_RLS = 1 << 2,
    ACPI_PM1_SLP_TYP_SHIFT = 10,
    ACPI_PM1_SLP_EN = 1 << 13,
};

typedef struct AcpiRegs {
    DeviceState *dev;
    void (*sleep)(void *opaque, unsigned type); /* SLP_EN was written, with this SLP_TYP */
    Irq **sci;                                  /* the device's line out */
    bool timer_32bit;
    /* saved */
    uint16_t pm1_status, pm1_enable, pm1_control;
    uint8_t gpe_status[4], gpe_enable[4];
    Timer overflow;
    int64_t overflow_at; /* ticks at which TMR_STS is set next */
} AcpiRegs;

void acpi_regs_init(AcpiRegs *r, DeviceState *dev, Irq **sci, bool timer_32bit,
                    void (*sleep)(void *opaque, unsigned type)); /* from realize */
void acpi_regs_exit(AcpiRegs *r);
void acpi_regs_reset(AcpiRegs *r);
bool acpi_regs_post_load(AcpiRegs *r, GError **error);

/* PM1 event block (status at 0, enable at 2), control block at 4, timer at 8: 16-bit halves. */
uint16_t acpi_pm1_read(AcpiRegs *r, unsigned offset);
void acpi_pm1_write(AcpiRegs *r, unsigned offset, uint16_t value);
uint32_t acpi_pm_timer(AcpiRegs *r);
/* GPE block of `len` bytes: statuses, then enables. */
uint8_t acpi_gpe_read(const AcpiRegs *r, unsigned offset, unsigned len);
void acpi_gpe_write(AcpiRegs *r, unsigned offset, unsigned len, uint8_t value);

void acpi_set_pm1_status(AcpiRegs *r, uint16_t bits);
void acpi_set_gpe(AcpiRegs *r, unsigned n, bool level); /* rising sets the status bit */
void acpi_set_sci_enable(AcpiRegs *r, bool on);         /* what SMI_CMD does */
void acpi_update_sci(AcpiRegs *r);

extern const VMStateDescription vmstate_acpi_regs;
