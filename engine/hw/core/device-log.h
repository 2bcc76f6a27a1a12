/*
 * What a device says of its guest, for who follows that device: mistakes of the guest, what a model
 * does not do, and what scripts log in its name (log_of with the device, or something below it that
 * is no device itself, as the subject).
 *
 * While somebody has asked for a device's log its last lines are kept, also those that the log's
 * masks leave out. A device that nobody has asked of pays nothing. Engine lock throughout.
 */
#pragma once

#include "engine/core/log.h"
#include "engine/hw/core/device.h"

#define DEVICE_LOG_KEPT 256

typedef struct DeviceLogLine {
    uint64_t number; /* of this device's, from 0 */
    LogMask mask;
    int64_t time; /* of the machine */
    const char *text;
} DeviceLogLine;

typedef struct DeviceLogFilter {
    uint32_t masks;   /* 0: all */
    const char *text; /* what the line contains; NULL: anything. Copied */
} DeviceLogFilter;

typedef struct DeviceLogListener DeviceLogListener;
typedef void (*DeviceLogFn)(void *opaque, const DeviceLogLine *line);

/* From now on lines are kept, as long as the device lives; the number that the next one gets. */
uint64_t device_log_keep(DeviceState *dev);
/* fn is called for each line from number `since` on that the filter lets pass, later and on the
 * main thread: a device that logs is in the middle of something. Lines beyond the last
 * DEVICE_LOG_KEPT that it was not told of in time are lost. `pause` (NULL: not; copied) pauses the
 * machine where the first such line is logged, with it as the reason. */
DeviceLogListener *device_log_listen(DeviceState *dev, const DeviceLogFilter *filter,
                                     uint64_t since, const char *pause, DeviceLogFn fn,
                                     void *opaque);
/* As above for fn that does no more than remember: it is called at once, and misses none. */
DeviceLogListener *device_log_record(DeviceState *dev, const DeviceLogFilter *filter,
                                     DeviceLogFn fn, void *opaque);
/* Also from fn. A listener holds a reference to the device. */
void device_log_unlisten(DeviceLogListener *listener);
