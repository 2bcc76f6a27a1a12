/* The interface of "isa-pit" besides its line: the gates and outputs that other chips of a PC use
 * (port 0x61 has channel 2). Engine lock. */
#pragma once

#include "engine/cpu/pc-chips.h"
#include "engine/hw/core/device.h"

#define TYPE_ISA_PIT "isa-pit"

void pit_set_gate(DeviceState *dev, unsigned channel, bool level);
bool pit_get_gate(DeviceState *dev, unsigned channel);
bool pit_get_out(DeviceState *dev, unsigned channel); /* now */
/* The frequency of a channel's square wave (mode 3) or pulses (mode 2) in Hz, rounded; 0: it gives
 * none now. */
unsigned pit_get_frequency(DeviceState *dev, unsigned channel);
