/*
 * SMBus devices and the bus they are on (System Management Bus specification 2.0, 5.5). A transfer
 * is a write of some bytes, a read, or a write and then a read. Engine lock.
 */
#pragma once

#include "engine/hw/core/device.h"

#define TYPE_SMBUS        "smbus"
#define TYPE_SMBUS_DEVICE "smbus-device"
#define TYPE_SMBUS_EEPROM "smbus-eeprom"

typedef struct SMBusDevice {
    DeviceState parent;
    Object *bus_link; /* property "bus"; required */
    uint8_t address;  /* property: 7 bits */
} SMBusDevice;
typedef struct SMBusDeviceClass {
    DeviceClass parent_class;
    bool (*write)(SMBusDevice *dev, const uint8_t *data,
                  unsigned len); /* false: not acknowledged */
    bool (*read)(SMBusDevice *dev, uint8_t *data, unsigned len);
} SMBusDeviceClass;
OBJECT_DECLARE_TYPE(SMBusDevice, SMBusDeviceClass, SMBUS_DEVICE, TYPE_SMBUS_DEVICE)

typedef struct SMBus {
    Object parent;
    Machine *machine;
    SMBusDevice *devices[128];
} SMBus;
OBJECT_DECLARE_TYPE(SMBus, ObjectClass, SMBUS, TYPE_SMBUS)

/* A bus below its controller. */
SMBus *smbus_new(DeviceState *owner, const char *name, GError **error);
bool smbus_write(SMBus *bus, uint8_t address, const uint8_t *data, unsigned len);
bool smbus_read(SMBus *bus, uint8_t address, uint8_t *data, unsigned len);
