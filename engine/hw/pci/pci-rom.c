/* Expansion ROMs: an image in the BAR of its own (PCI 3.0, 6.3). */
#include <string.h>

#include "engine/core/error.h"
#include "engine/hw/core/firmware.h"
#include "engine/hw/pci/pci-priv.h"

#define ROM_MAX (16u << 20) /* the largest that a BAR of this kind can ask for (6.2.5.2) */

bool pci_add_rom(PCIDevice *dev, GError **error)
{
    const char *name = dev->romfile ? dev->romfile : PCI_DEVICE_GET_CLASS(dev)->romfile;
    g_autoptr(GBytes) image = NULL;
    uint64_t size = 2048;

    dev->has_rom = false;
    if (!name || !name[0] || !dev->rombar) {
        return true;
    }
    image = firmware_read(name, ROM_MAX, error);
    if (!image) {
        g_prefix_error(error, "%s: romfile: ", pci_name(dev));
        return false;
    }
    while (size < g_bytes_get_size(image)) {
        size *= 2;
    }
    if (!memory_region_init_rom(&dev->rom, OBJECT(dev), "option-rom", size, error)) {
        return false;
    }
    memcpy(memory_region_get_ram_ptr(&dev->rom), g_bytes_get_data(image, NULL),
           g_bytes_get_size(image));
    dev->has_rom = true;
    pci_register_bar(dev, PCI_ROM_SLOT, PCI_BAR_MEM32, &dev->rom);
    return true;
}
