/* The interface of "ioapic" besides its lines. Engine lock. */
#pragma once

#include "engine/cpu/pc-chips.h"
#include "engine/hw/core/device.h"

#define TYPE_IOAPIC "ioapic"

/* A local APIC has ended the service of a level-triggered interrupt of this vector. */
void ioapic_eoi(DeviceState *dev, uint8_t vector);
