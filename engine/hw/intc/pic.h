/* The interface of "isa-pic" besides its lines: the processor's side of an interrupt acknowledge.
 * Engine lock. */
#pragma once

#include "engine/hw/core/device.h"

#define TYPE_ISA_PIC "isa-pic"

/* Both INTA cycles: takes the request of highest priority into service and answers its vector. A
 * request that has gone meanwhile is a spurious one: level 7 of the chip that was asked. */
int pic_acknowledge(DeviceState *dev);
