/* Between device.c, device-region.c, device-line.c and device-log.c. */
#pragma once

#include "bindings/script-type.h"

#define TYPE_DEVICE_REGION "device-region"
#define TYPE_DEVICE_TIMER  "device-timer"

/* A region with the handlers of the table at `handlers`, a child of the device named `place`,
 * mapped nowhere; pushes its handle. Raises with `what`. */
Object *device_region_make(lua_State *L, DeviceState *dev, int handlers, bool io, uint64_t len,
                           const char *place, const char *what);
MemoryRegion *device_region_memory(Object *region);

/* An error in a callback of the device: its machine pauses with it. Frees the error. */
void device_script_failed(DeviceState *dev, GError *error);
void device_regions_open(lua_State *L);
void device_lines_open(lua_State *L);
void device_log_open(lua_State *L);
/* pci-script.c: where a device's own accesses go, and as whose. */
AddressSpace *device_dma_space(DeviceState *dev, MemTxAttrs *attrs);
