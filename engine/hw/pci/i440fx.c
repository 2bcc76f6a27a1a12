/*
 * "i440fx-pcihost" and "i440fx": the host bridge of a Standard PC.
 *
 * Intel 82441FX PCI and Memory Controller (PMC), data sheet 290549: PAM registers (3.2.18), SMRAM
 * (3.2.24), configuration mechanism 1 (3.1). The host device owns bus pci.0 and the ports; the
 * function at 00:00.0 has the registers.
 *
 * Memory: whatever is not RAM is PCI (the region "pci", below everything else). RAM is mapped by
 * the board before this device is made; what is seen at 0xc0000 and 0xa0000 then is what shadowing
 * shows: pam.h.
 * 0xa0000 … 0xbffff is PCI (the VGA's) unless SMRAM is open.
 *
 * Not emulated: SMRAM for a processor in SMM only (no accelerator here has SMM: open SMRAM is seen
 * by everybody, closed by nobody), DRAM timing (the registers keep what is written), ECC, parity.
 *
 * Suspended to RAM the controller keeps its registers, and from a wake-up on until the next reset a
 * segment does not lose access to RAM that it had then. For SeaBIOS (1.16) locks its shadow RAM
 * again when it is woken, by a bound that it reads from memory that it had given to the system:
 * where that was used meanwhile, 0xe8000 and up become read-only, and the next wake-up begins on a
 * stack there.
 *
 * The register at 0x57 has the RAM's size in units of 8 MiB, as firmware for virtual boards of this
 * kind knows it.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/rcu.h"
#include "engine/hw/pci/pam.h"
#include "engine/hw/pci/pci-host.h"
#include "engine/hw/pci/pci-priv.h"

#define TYPE_I440FX_HOST "i440fx-pcihost"
#define TYPE_I440FX      "i440fx"

enum {
    I440FX_RAM_SIZE = 0x57,
    I440FX_PAM = 0x59, /* seven registers */
    I440FX_PAM_COUNT = 7,
    I440FX_SMRAM = 0x72,
};
enum {
    SMRAM_BASE_SEG = 0x02, /* read-only: the window is at 0xa0000 */
    SMRAM_ENABLE = 1 << 3,
    SMRAM_LOCKED = 1 << 4,
    SMRAM_CLOSED = 1 << 5,
    SMRAM_OPEN = 1 << 6,
};

typedef struct I440FXState I440FXState;

typedef struct I440FXHost {
    DeviceState parent;
    PCIHost host;
    MemoryRegion pci; /* the PCI memory space */
    I440FXState *function;
} I440FXHost;
OBJECT_DECLARE_TYPE(I440FXHost, DeviceClass, I440FX_HOST, TYPE_I440FX_HOST)

struct I440FXState {
    PCIDevice parent;
    PCIBus *bus; /* counted: `pam` shows a region of its owner */
    Pam pam;
    uint8_t woken[I440FX_PAM_COUNT]; /* the PAM registers as a wake-up found them; else 0 */
};
OBJECT_DECLARE_TYPE(I440FXState, PCIDeviceClass, I440FX, TYPE_I440FX)

/* ---- PAM, SMRAM ---------------------------------------------------------------------------- */

static uint8_t segment_mode(const I440FXState *s, unsigned i)
{
    /* The first register has one segment, in its high half; each other one two. */
    unsigned reg = i == 0 ? 0 : (i + 1) / 2;
    unsigned shift = i == 0 || i % 2 == 0 ? 4 : 0;

    return s->parent.config[I440FX_PAM + reg] >> shift & (PAM_READ | PAM_WRITE);
}

static void update_memory(I440FXState *s)
{
    uint8_t smram = s->parent.config[I440FX_SMRAM];

    memory_region_transaction_begin();
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        pam_set(&s->pam, i, segment_mode(s, i));
    }
    pam_open_vga(&s->pam, (smram & SMRAM_ENABLE) && (smram & SMRAM_OPEN));
    memory_region_transaction_commit();
}

static void write_pam(I440FXState *s)
{
    for (unsigned i = 0; i < I440FX_PAM_COUNT; i++) {
        s->parent.config[I440FX_PAM + i] |= s->woken[i];
    }
}

static void write_smram(I440FXState *s, uint8_t old)
{
    uint8_t *reg = &s->parent.config[I440FX_SMRAM];

    if (old & SMRAM_LOCKED) {
        *reg = (uint8_t)((old & ~SMRAM_CLOSED) | (*reg & SMRAM_CLOSED));
    } else if (*reg & SMRAM_LOCKED) {
        *reg &= (uint8_t)~SMRAM_OPEN;
    }
    *reg = (uint8_t)((*reg & ~0x87) | SMRAM_BASE_SEG); /* bit 7 is reserved */
}

static void i440fx_config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len)
{
    I440FXState *s = I440FX(dev);
    uint8_t smram = dev->config[I440FX_SMRAM];

    pci_default_config_write(dev, addr, value, len);
    if (pci_config_touches(addr, len, I440FX_SMRAM, 1)) {
        write_smram(s, smram);
    }
    if (pci_config_touches(addr, len, I440FX_PAM, I440FX_PAM_COUNT)) {
        write_pam(s);
    }
    if (pci_config_touches(addr, len, I440FX_PAM, I440FX_PAM_COUNT) ||
        pci_config_touches(addr, len, I440FX_SMRAM, 1)) {
        update_memory(s);
    }
}

/* ---- the function at 00:00.0 --------------------------------------------------------------- */

static bool i440fx_post_load(void *opaque, unsigned version, GError **error)
{
    I440FXState *s = opaque;

    if ((s->parent.config[I440FX_SMRAM] & 0x87) != SMRAM_BASE_SEG) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "SMRAM register %#x",
                         s->parent.config[I440FX_SMRAM]);
    }
    update_memory(s);
    return true;
}

static bool i440fx_pre_load(void *opaque, GError **error)
{
    memset(I440FX(opaque)->woken, 0, I440FX_PAM_COUNT);
    return true;
}

static const VMStateField i440fx_fields[] = {
    VMSTATE_PCI_DEVICE(parent, I440FXState),
    VMSTATE_F_(woken, I440FXState, VMS_BYTES, .since = 2),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_i440fx = {
    .name = TYPE_I440FX,
    .version = 2,
    .minimum_version = 1,
    .pre_load = i440fx_pre_load,
    .post_load = i440fx_post_load,
    .fields = i440fx_fields,
};

static void drop_regions(I440FXState *s)
{
    if (s->bus) {
        pam_finalize(&s->pam);
        object_unref(g_steal_pointer(&s->bus));
    }
}

/* The RAM that the board mapped: its first piece reaches beyond the first MiB. */
static bool find_ram(I440FXState *s, MemoryRegion **mr, hwaddr *offset, GError **error)
{
    AddressSpace *as = s->parent.parent.machine->memory;
    const FlatRange *r;
    bool found;

    rcu_enter();
    r = flat_view_find(address_space_flat_view(as), 0);
    found = r && r->kind == MEMORY_RAM && r->addr == 0 && r->last >= PAM_END - 1;
    if (found) {
        *mr = r->mr;
        *offset = r->offset;
    }
    rcu_leave();
    return found ||
           error_set(error, ENGINE_ERROR_INVALID,
                     "%s: at least 1 MiB of RAM is to be mapped at 0 first", pci_name(&s->parent));
}

static bool i440fx_realize(PCIDevice *dev, GError **error)
{
    I440FXState *s = I440FX(dev);
    Machine *m = dev->parent.machine;
    uint64_t units = m->ram_size >> 23;
    MemoryRegion *ram = NULL;
    hwaddr offset = 0;

    drop_regions(s); /* of an earlier life */
    if (!find_ram(s, &ram, &offset, error)) {
        return false;
    }
    s->bus = PCI_BUS(object_ref(dev->bus));
    pam_init(&s->pam, OBJECT(dev), &m->memory_root, pci_bus_memory(dev->bus), ram, offset);

    dev->config[I440FX_RAM_SIZE] = (uint8_t)MIN(units, 255);
    memset(dev->wmask + PCI_CONFIG_HEADER, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    return true;
}

/* Out of the address space; freed when nobody looks any more. */
static void i440fx_exit(PCIDevice *dev)
{
    pam_unmap(&I440FX(dev)->pam);
}

static void i440fx_reset(PCIDevice *dev)
{
    I440FXState *s = I440FX(dev);
    uint8_t ram_size = dev->config[I440FX_RAM_SIZE];

    if (machine_waking(dev->parent.machine)) {
        /* The memory controller stays powered in S3: firmware finds itself in shadow RAM. */
        memcpy(s->woken, dev->config + I440FX_PAM, I440FX_PAM_COUNT);
        return;
    }
    memset(s->woken, 0, sizeof(s->woken));

    memset(dev->config + PCI_CONFIG_HEADER, 0, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    dev->config[I440FX_RAM_SIZE] = ram_size;
    dev->config[I440FX_SMRAM] = SMRAM_BASE_SEG;
    update_memory(s);
}

static void i440fx_finalize(Object *obj)
{
    drop_regions(I440FX(obj));
}

static void i440fx_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = i440fx_realize;
    pc->exit = i440fx_exit;
    pc->reset = i440fx_reset;
    pc->config_write = i440fx_config_write;
    pc->vendor_id = PCI_VENDOR_INTEL;
    pc->device_id = PCI_DEVICE_82441;
    pc->revision = 0x02;
    pc->class_code = PCI_CLASS_BRIDGE_HOST;
    DEVICE_CLASS(klass)->vmsd = &vmstate_i440fx;
    DEVICE_CLASS(klass)->user_creatable = false;
}

/* ---- the host device ----------------------------------------------------------------------- */

static const VMStateField host_fields[] = { VMSTATE_UINT32(host.address, I440FXHost),
                                            VMSTATE_END() };
static const VMStateDescription vmstate_host = {
    .name = TYPE_I440FX_HOST,
    .version = 1,
    .minimum_version = 1,
    .fields = host_fields,
};

static bool add_function(I440FXHost *s, PCIBus *bus, GError **error)
{
    I440FXState *fn = I440FX(object_new(TYPE_I440FX, error));
    bool ok = object_property_set_link(OBJECT(fn), "bus", OBJECT(bus), error) &&
              object_property_set_str(OBJECT(fn), "addr", "0", error) &&
              device_realize_at(DEVICE(fn), s->parent.machine, OBJECT(bus), "host-bridge", error);

    s->function = fn;
    object_unref(fn); /* the tree has one */
    return ok;
}

static bool host_realize(DeviceState *dev, GError **error)
{
    I440FXHost *s = I440FX_HOST(dev);
    PCIBus *bus;

    memory_region_finalize(&s->pci); /* of an earlier life */
    memory_region_init(&s->pci, OBJECT(dev), "pci", MEMORY_REGION_MAX);
    bus = pci_root_bus_new(dev, "pci.0", &s->pci, &dev->machine->io_root, error);
    if (!bus) {
        return false;
    }
    memory_region_add_subregion_overlap(&dev->machine->memory_root, 0, &s->pci, -1);
    if (!add_function(s, bus, error) || !pci_host_init(&s->host, dev, bus, error)) {
        pci_bus_close(bus);
        memory_region_del_subregion(&dev->machine->memory_root, &s->pci);
        return false;
    }
    return true;
}

static void host_unrealize(DeviceState *dev)
{
    I440FXHost *s = I440FX_HOST(dev);

    pci_bus_close(s->host.bus);
    memory_region_del_subregion(&dev->machine->memory_root, &s->pci);
    s->function = NULL;
}

static void host_reset(DeviceState *dev)
{
    I440FX_HOST(dev)->host.address = 0;
}

static PCIHost *host_get(DeviceState *dev)
{
    return &I440FX_HOST(dev)->host;
}

static void host_finalize(Object *obj)
{
    I440FXHost *s = I440FX_HOST(obj);

    pci_host_finalize(&s->host);
    memory_region_finalize(&s->pci);
}

static void host_class_init(ObjectClass *klass, const void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIHostClass *hc = (void *)object_class_dynamic_cast(klass, TYPE_PCI_HOST);

    dc->realize = host_realize;
    dc->unrealize = host_unrealize;
    dc->reset = host_reset;
    dc->vmsd = &vmstate_host;
    dc->user_creatable = false;
    hc->get_host = host_get;
}

static const InterfaceInfo host_interfaces[] = { { TYPE_PCI_HOST }, { NULL } };
static const TypeInfo types[] = {
    {
        .name = TYPE_I440FX,
        .parent = TYPE_PCI_DEVICE,
        .doc = "82441FX: host bridge and memory controller, the function at 00:00.0",
        .instance_size = sizeof(I440FXState),
        .instance_finalize = i440fx_finalize,
        .class_init = i440fx_class_init,
    },
    {
        .name = TYPE_I440FX_HOST,
        .parent = TYPE_SYS_DEVICE,
        .doc = "82441FX: host bridge with bus pci.0 and the configuration ports",
        .instance_size = sizeof(I440FXHost),
        .instance_finalize = host_finalize,
        .class_init = host_class_init,
        .interfaces = host_interfaces,
    },
};

static void register_i440fx(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_i440fx)
