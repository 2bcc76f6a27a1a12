/*
 * SMBus, and "smbus-eeprom": a serial EEPROM of 256 bytes (Atmel AT24C02 data sheet: byte and
 * page write, current address, random and sequential read), as memory modules have them for their
 * SPD (JEDEC 21-C). Contents are volatile and start as zeros: there are no modules to describe.
 */
#include "engine/hw/i2c/smbus.h"

#include <string.h>

#include "engine/core/error.h"

SMBus *smbus_new(DeviceState *owner, const char *name, GError **error)
{
    SMBus *bus = SMBUS(object_new(TYPE_SMBUS, error));
    bool ok;

    bus->machine = owner->machine;
    ok = object_add_child(OBJECT(owner), name, OBJECT(bus), error);
    object_unref(bus);
    return ok ? bus : NULL;
}

static SMBusDevice *at(SMBus *bus, uint8_t address)
{
    return address < G_N_ELEMENTS(bus->devices) ? bus->devices[address] : NULL;
}

bool smbus_write(SMBus *bus, uint8_t address, const uint8_t *data, unsigned len)
{
    SMBusDevice *dev = at(bus, address);

    return dev && SMBUS_DEVICE_GET_CLASS(dev)->write(dev, data, len);
}

bool smbus_read(SMBus *bus, uint8_t address, uint8_t *data, unsigned len)
{
    SMBusDevice *dev = at(bus, address);

    return dev && SMBUS_DEVICE_GET_CLASS(dev)->read(dev, data, len);
}

/* ---- devices ------------------------------------------------------------------------------- */

static bool smbus_device_realize(DeviceState *qdev, GError **error)
{
    SMBusDevice *dev = SMBUS_DEVICE(qdev);
    SMBus *bus = SMBUS(dev->bus_link);

    if (dev->address >= G_N_ELEMENTS(bus->devices) || bus->devices[dev->address]) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: address %#x is %s",
                         object_get_name(OBJECT(dev)), dev->address,
                         dev->address < G_N_ELEMENTS(bus->devices) ? "taken" : "beyond 7 bits");
    }
    if (bus->machine != qdev->machine) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: its bus is another machine's",
                         object_get_name(OBJECT(dev)));
    }
    bus->devices[dev->address] = dev;
    return true;
}

/* The bus may have gone first, and the link with it. */
static void smbus_device_unrealize(DeviceState *qdev)
{
    SMBusDevice *dev = SMBUS_DEVICE(qdev);

    if (dev->bus_link) {
        SMBUS(dev->bus_link)->devices[dev->address] = NULL;
    }
}

static const Property smbus_device_properties[] = {
    { PROP_FIELD_("bus", SMBusDevice, bus_link, PROP_LINK, 0,
                  PROP_UNTIL_REALIZED | PROP_LINK_STRONG | PROP_REQUIRED, "the bus it is on"),
      .link_type = TYPE_SMBUS },
    DEFINE_PROP_UINT8("address", SMBusDevice, address, 0x50, "its address, 7 bits"),
};

static void smbus_device_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = smbus_device_realize;
    dc->unrealize = smbus_device_unrealize;
    dc->user_creatable = true;
    object_class_add_properties(klass, smbus_device_properties,
                                G_N_ELEMENTS(smbus_device_properties));
}

/* ---- "smbus-eeprom" ------------------------------------------------------------------------ */

typedef struct SMBusEeprom {
    SMBusDevice parent;
    uint8_t data[256];
    uint8_t offset;
} SMBusEeprom;
OBJECT_DECLARE_TYPE(SMBusEeprom, SMBusDeviceClass, SMBUS_EEPROM, TYPE_SMBUS_EEPROM)

static bool eeprom_write(SMBusDevice *dev, const uint8_t *data, unsigned len)
{
    SMBusEeprom *s = SMBUS_EEPROM(dev);

    if (len > 0) {
        s->offset = data[0];
    }
    for (unsigned i = 1; i < len; i++) {
        s->data[s->offset++] = data[i];
    }
    return true;
}

static bool eeprom_read(SMBusDevice *dev, uint8_t *data, unsigned len)
{
    SMBusEeprom *s = SMBUS_EEPROM(dev);

    for (unsigned i = 0; i < len; i++) {
        data[i] = s->data[s->offset++];
    }
    return true;
}

static void eeprom_reset(DeviceState *dev)
{
    SMBUS_EEPROM(dev)->offset = 0;
}

static const VMStateField eeprom_fields[] = { VMSTATE_BYTES(data, SMBusEeprom),
                                              VMSTATE_UINT8(offset, SMBusEeprom), VMSTATE_END() };
static const VMStateDescription vmstate_eeprom = {
    .name = TYPE_SMBUS_EEPROM,
    .version = 1,
    .minimum_version = 1,
    .fields = eeprom_fields,
};

static void eeprom_class_init(ObjectClass *klass, const void *data)
{
    SMBusDeviceClass *sc = SMBUS_DEVICE_CLASS(klass);

    sc->write = eeprom_write;
    sc->read = eeprom_read;
    DEVICE_CLASS(klass)->reset = eeprom_reset;
    DEVICE_CLASS(klass)->vmsd = &vmstate_eeprom;
}

static const TypeInfo types[] = {
    {
        .name = TYPE_SMBUS,
        .parent = TYPE_OBJECT,
        .doc = "A System Management Bus",
        .instance_size = sizeof(SMBus),
    },
    {
        .name = TYPE_SMBUS_DEVICE,
        .parent = TYPE_DEVICE,
        .doc = "A device on an SMBus",
        .instance_size = sizeof(SMBusDevice),
        .class_size = sizeof(SMBusDeviceClass),
        .class_init = smbus_device_class_init,
        .abstract = true,
    },
    {
        .name = TYPE_SMBUS_EEPROM,
        .parent = TYPE_SMBUS_DEVICE,
        .doc = "Serial EEPROM of 256 bytes, as of a memory module",
        .instance_size = sizeof(SMBusEeprom),
        .class_init = eeprom_class_init,
    },
};

static void register_smbus(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_smbus)
