/*
 * "bios-rom": the firmware ROM of a PC: up to the end of the first 4 GiB, its last 128 KiB also up
 * to 1 MiB, both on the PCI side of the host bridge (where shadowing finds it).
 *
 * Property file: an image of whole 64 KiB, by path or by name in the firmware folders (firmware.h).
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/hw/core/firmware.h"
#include "engine/hw/pci/pci.h"

#define TYPE_BIOS_ROM "bios-rom"
#define ROM_MAX       (16u << 20)
#define ROM_UNIT      (64u << 10)
#define LOW_MAX       (128u << 10)

typedef struct BiosRom {
    DeviceState parent;
    MemoryRegion rom, low;
    MemoryRegion *space;
    char *file; /* property */
} BiosRom;
OBJECT_DECLARE_TYPE(BiosRom, DeviceClass, BIOS_ROM, TYPE_BIOS_ROM)

static bool load(BiosRom *s, GError **error)
{
    g_autoptr(GBytes) image = firmware_read(s->file, ROM_MAX, error);
    gsize size;

    if (!image) {
        return false;
    }
    size = g_bytes_get_size(image);
    if (size % ROM_UNIT) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "firmware '%s': %" G_GSIZE_FORMAT " bytes are no whole 64 KiB", s->file,
                         size);
    }
    if (!memory_region_init_rom(&s->rom, OBJECT(s), "bios", size, error)) {
        return false;
    }
    memcpy(memory_region_get_ram_ptr(&s->rom), g_bytes_get_data(image, NULL), size);
    return true;
}

static void unmap(BiosRom *s)
{
    memory_region_transaction_begin();
    if (s->rom.container) {
        memory_region_del_subregion(s->rom.container, &s->rom);
    }
    if (s->low.container) {
        memory_region_del_subregion(s->low.container, &s->low);
    }
    memory_region_transaction_commit();
}

static bool bios_rom_realize(DeviceState *dev, GError **error)
{
    BiosRom *s = BIOS_ROM(dev);
    PCIBus *bus = pci_machine_bus(dev->machine);
    MemoryRegion *space = bus ? pci_bus_memory(bus) : &dev->machine->memory_root;
    uint64_t low;

    memory_region_finalize(&s->low); /* of an earlier life */
    memory_region_finalize(&s->rom);
    if (!load(s, error)) {
        return false;
    }
    low = MIN(s->rom.size, LOW_MAX);
    memory_region_init_alias(&s->low, OBJECT(dev), "bios-low", &s->rom, s->rom.size - low, low);
    if (!memory_region_add_subregion_checked(space, (UINT64_C(1) << 32) - s->rom.size, &s->rom, 1,
                                             false, error) ||
        !memory_region_add_subregion_checked(space, 0x100000 - low, &s->low, 1, false, error)) {
        unmap(s);
        return false;
    }
    return true;
}

static void bios_rom_unrealize(DeviceState *dev)
{
    unmap(BIOS_ROM(dev));
}

static const Property bios_rom_properties[] = {
    { PROP_FIELD_("file", BiosRom, file, PROP_STRING, 0, PROP_UNTIL_REALIZED | PROP_REQUIRED,
                  "the image: a path, or a name in the firmware folders") },
};

static void bios_rom_finalize(Object *obj)
{
    memory_region_finalize(&BIOS_ROM(obj)->low);
    memory_region_finalize(&BIOS_ROM(obj)->rom);
}

static void bios_rom_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->realize = bios_rom_realize;
    dc->unrealize = bios_rom_unrealize;
    dc->no_state = true;
    object_class_add_properties(klass, bios_rom_properties, G_N_ELEMENTS(bios_rom_properties));
}

static const TypeInfo bios_rom_info = {
    .name = TYPE_BIOS_ROM,
    .parent = TYPE_SYS_DEVICE,
    .doc = "Firmware ROM up to 4 GiB and up to 1 MiB",
    .instance_size = sizeof(BiosRom),
    .instance_finalize = bios_rom_finalize,
    .class_init = bios_rom_class_init,
};

static void register_bios_rom(void)
{
    type_register_static(&bios_rom_info);
}
type_init(register_bios_rom)
