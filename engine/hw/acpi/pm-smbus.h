/* The SMBus host controller of the PIIX4 (82371AB data sheet, 11.5). See pm-smbus.c. */
#pragma once

#include "engine/hw/i2c/smbus.h"

#define PM_SMBUS_SIZE 16

typedef struct PMSMBus {
    SMBus *bus;
    MemoryRegion io;
    uint8_t status, control, command, address, data0, data1, slave_control;
    uint8_t block[32];
    uint8_t index;                /* in block */
    void (*update)(void *opaque); /* status or its enable changed */
    void *opaque;                 /* the device that it is part of */
} PMSMBus;

bool pm_smbus_init(PMSMBus *s, DeviceState *dev, void (*update)(void *opaque), GError **error);
void pm_smbus_reset(PMSMBus *s);
bool pm_smbus_interrupt(const PMSMBus *s);
bool pm_smbus_post_load(const PMSMBus *s, GError **error);
extern const VMStateDescription vmstate_pm_smbus;
