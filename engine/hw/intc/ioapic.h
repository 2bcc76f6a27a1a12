/* The interface of "ioapic" besides its lines. Engine lock. */
#pragma once

#include "engine/hw/core/device.h"

#define TYPE_IOAPIC "ioapic"
#define IOAPIC_PINS 24

/* A local APIC has ended the service of a level-triggered interrupt of this vector. */
void ioapic_eoi(DeviceState *dev, uint8_t vector);
