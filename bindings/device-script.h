/* Between device.c, device-region.c and device-line.c. */
#pragma once

#include "bindings/script-type.h"

#define TYPE_DEVICE_REGION "device-region"
#define TYPE_DEVICE_TIMER  "device-timer"

/* An error in a callback of the device: its machine pauses with it. Frees the error. */
void device_script_failed(DeviceState *dev, GError *error);
void device_regions_open(lua_State *L);
void device_lines_open(lua_State *L);
