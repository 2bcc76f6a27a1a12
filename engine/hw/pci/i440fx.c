/*
 * "i440fx-pcihost" and "i440fx": the host bridge of a Standard PC.
 *
 * Intel 82441FX PCI and Memory Controller (PMC), data sheet 290549: PAM registers (3.2.18), SMRAM
 * (3.2.24), configuration mechanism 1 (3.1). The host device owns bus pci.0 and the ports; the
 * function at 00:00.0 has the registers.
 *
 * Memory: whatever is not RAM is PCI (the region "pci", below everything else). RAM is mapped by
 * the board before this device is made; what is seen at 0xc0000 and 0xa0000 then is what shadowing
 * shows. Each PAM segment (0xf0000 64 KiB; 0xc0000 … 0xeffff 16 KiB each) has two bits:
 *   RE WE  reads   writes
 *    0  0  PCI     PCI
 *    1  0  RAM     PCI      so ROM copied to RAM is write-protected
 *    0  1  PCI     RAM      how firmware copies a ROM over itself
 *    1  1  RAM     RAM
 * What the PCI side has there is looked up when a segment becomes split: ROM is read (and executed)
 * at full speed, a BAR moved below 1 MiB afterwards is not seen in it until the next change.
 * 0xa0000 … 0xbffff is PCI (the VGA's) unless SMRAM is open.
 *
 * Not emulated: SMRAM for a processor in SMM only (no accelerator here has SMM: open SMRAM is seen
 * by everybody, closed by nobody), DRAM timing (the registers keep what is written), ECC, parity.
 * The register at 0x57 has the RAM's size in units of 8 MiB, as firmware for virtual boards of this
 * kind knows it.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/rcu.h"
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
    PAM_READ = 1 << 0,
    PAM_WRITE = 1 << 1,
    SMRAM_BASE_SEG = 0x02, /* read-only: the window is at 0xa0000 */
    SMRAM_ENABLE = 1 << 3,
    SMRAM_LOCKED = 1 << 4,
    SMRAM_CLOSED = 1 << 5,
    SMRAM_OPEN = 1 << 6,
};

#define SEGMENTS   13
#define LEGACY_VGA 0xa0000
#define LEGACY_END 0x100000

typedef struct I440FXState I440FXState;

/* What a split segment reads: a piece of RAM or ROM of one side, whose writes go to the other. */
typedef struct SplitPiece {
    MemoryRegion device, window;
    I440FXState *owner;
    hwaddr base; /* guest address of offset 0 of `device`: what its handlers add */
    bool writes_ram;
    bool spare; /* taken out; waits for a grace period */
} SplitPiece;

typedef struct Segment {
    hwaddr addr;
    uint64_t size;
    uint8_t mode;     /* as mapped; 0xff: not yet */
    MemoryRegion pci; /* alias of the PCI space */
    /* I/O below both: where the PCI side has nothing, RAM is not to be seen either. */
    MemoryRegion through;
    GPtrArray *pieces; /* of SplitPiece */
    I440FXState *owner;
} Segment;

typedef struct I440FXHost {
    DeviceState parent;
    PCIHost host;
    MemoryRegion pci; /* the PCI memory space */
    I440FXState *function;
} I440FXHost;
OBJECT_DECLARE_TYPE(I440FXHost, DeviceClass, I440FX_HOST, TYPE_I440FX_HOST)

struct I440FXState {
    PCIDevice parent;
    PCIBus *bus; /* counted: pci_as shows a region of its owner */
    MemoryRegion *pci;
    AddressSpace *pci_as;       /* the PCI side alone */
    AddressSpace *ram_as;       /* the RAM side alone */
    MemoryRegion ram_root, ram; /* what the board mapped below 1 MiB */
    MemoryRegion smram;         /* alias of the PCI space */
    Segment segments[SEGMENTS];
    Segment legacy; /* 0xa0000 … 0xbffff, of which only `through` is used */
    bool made;
};
OBJECT_DECLARE_TYPE(I440FXState, PCIDeviceClass, I440FX, TYPE_I440FX)

/* ---- split segments ------------------------------------------------------------------------ */

static MemTxResult side_read(AddressSpace *as, hwaddr addr, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    MemTxResult res = MEMTX_OK;

    *data = address_space_ldn(as, addr, size, attrs, &res);
    return res;
}

static MemTxResult side_write(AddressSpace *as, hwaddr addr, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    MemTxResult res = MEMTX_OK;

    address_space_stn(as, addr, data, size, attrs, &res);
    return res;
}

static MemTxResult piece_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                              MemTxAttrs attrs)
{
    SplitPiece *p = opaque;

    return side_read(p->writes_ram ? p->owner->pci_as : p->owner->ram_as, p->base + addr, data,
                     size, attrs);
}

static MemTxResult piece_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                               MemTxAttrs attrs)
{
    SplitPiece *p = opaque;

    return side_write(p->writes_ram ? p->owner->ram_as : p->owner->pci_as, p->base + addr, data,
                      size, attrs);
}

static const MemoryRegionOps piece_ops = {
    .read_attrs = piece_read,
    .write_attrs = piece_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

static MemTxResult through_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                                MemTxAttrs attrs)
{
    Segment *s = opaque;

    return side_read(s->mode & PAM_READ ? s->owner->ram_as : s->owner->pci_as, s->addr + addr, data,
                     size, attrs);
}

static MemTxResult through_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                 MemTxAttrs attrs)
{
    Segment *s = opaque;

    return side_write(s->mode & PAM_WRITE ? s->owner->ram_as : s->owner->pci_as, s->addr + addr,
                      data, size, attrs);
}

static const MemoryRegionOps through_ops = {
    .read_attrs = through_read,
    .write_attrs = through_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

/* Pieces stay until the device goes: views may show them for a while, and who flips a segment a
 * million times uses the same few again. */
static SplitPiece *take_piece(Segment *s, RamBlock *block, hwaddr base, bool writes_ram)
{
    SplitPiece *p;

    for (unsigned i = 0; i < s->pieces->len; i++) {
        p = s->pieces->pdata[i];
        if (p->spare && p->device.ram == block && p->base == base && p->writes_ram == writes_ram) {
            p->spare = false;
            return p;
        }
    }
    p = g_new0(SplitPiece, 1);
    p->owner = s->owner;
    p->base = base;
    p->writes_ram = writes_ram;
    memory_region_init_rom_device_block(&p->device, OBJECT(s->owner), &piece_ops, p, "pam-split",
                                        block);
    memory_region_init_alias(&p->window, OBJECT(s->owner), "pam-split-window", &p->device, 0, 1);
    g_ptr_array_add(s->pieces, p);
    return p;
}

static void free_piece(void *data)
{
    SplitPiece *p = data;

    memory_region_finalize(&p->window);
    memory_region_finalize(&p->device);
    g_free(p);
}

typedef struct Found {
    RamBlock *block;
    hwaddr addr, last, offset;
} Found;

/* RAM and ROM of one side within the segment. */
static unsigned find_pieces(AddressSpace *as, const Segment *s, Found found[], unsigned max)
{
    unsigned n = 0;
    hwaddr end = s->addr + s->size - 1;

    rcu_enter();
    const FlatView *view = address_space_flat_view(as);
    for (unsigned i = 0; i < view->n && n < max; i++) {
        const FlatRange *r = &view->ranges[i];

        if (r->last < s->addr || r->addr > end || !r->ram ||
            (r->kind == MEMORY_ROM_DEVICE && !r->romd)) {
            continue;
        }
        found[n].addr = MAX(r->addr, s->addr);
        found[n].last = MIN(r->last, end);
        found[n].offset = r->offset + (found[n].addr - r->addr);
        found[n].block = ram_block_ref(r->ram);
        n++;
    }
    rcu_leave();
    return n;
}

static void drop_pieces(Segment *s, MemoryRegion *root)
{
    for (unsigned i = 0; i < s->pieces->len; i++) {
        SplitPiece *p = s->pieces->pdata[i];

        if (!p->spare) {
            memory_region_del_subregion(root, &p->window);
            p->spare = true;
        }
    }
}

static void map_split(Segment *s, MemoryRegion *root)
{
    bool writes_ram = s->mode == PAM_WRITE;
    Found found[16];
    unsigned n = find_pieces(writes_ram ? s->owner->pci_as : s->owner->ram_as, s, found,
                             G_N_ELEMENTS(found));

    for (unsigned i = 0; i < n; i++) {
        const Found *f = &found[i];
        SplitPiece *p = take_piece(s, f->block, f->addr - f->offset, writes_ram);

        memory_region_set_size(&p->window, f->last - f->addr + 1);
        memory_region_set_alias_offset(&p->window, f->offset);
        memory_region_add_subregion_overlap(root, f->addr, &p->window, 3);
        ram_block_unref(f->block);
    }
}

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
    MemoryRegion *root = &s->parent.parent.machine->memory_root;
    uint8_t smram = s->parent.config[I440FX_SMRAM];

    memory_region_transaction_begin();
    for (unsigned i = 0; i < SEGMENTS; i++) {
        Segment *seg = &s->segments[i];
        uint8_t mode = segment_mode(s, i);

        if (mode == seg->mode) {
            continue;
        }
        drop_pieces(seg, root);
        seg->mode = mode;
        memory_region_set_enabled(&seg->pci, mode == 0);
        memory_region_set_enabled(&seg->through, mode != (PAM_READ | PAM_WRITE));
        if (mode == PAM_READ || mode == PAM_WRITE) {
            map_split(seg, root);
        }
    }
    memory_region_set_enabled(&s->smram, !((smram & SMRAM_ENABLE) && (smram & SMRAM_OPEN)));
    memory_region_set_enabled(&s->legacy.through,
                              !((smram & SMRAM_ENABLE) && (smram & SMRAM_OPEN)));
    memory_region_transaction_commit();
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

static const VMStateField i440fx_fields[] = { VMSTATE_PCI_DEVICE(parent, I440FXState),
                                              VMSTATE_END() };
static const VMStateDescription vmstate_i440fx = {
    .name = TYPE_I440FX,
    .version = 1,
    .minimum_version = 1,
    .post_load = i440fx_post_load,
    .fields = i440fx_fields,
};

static void make_segments(I440FXState *s, MemoryRegion *root)
{
    for (unsigned i = 0; i < SEGMENTS; i++) {
        Segment *seg = &s->segments[i];

        seg->addr = i == 0 ? 0xf0000 : 0xc0000 + (i - 1) * 0x4000u;
        seg->size = i == 0 ? 0x10000 : 0x4000;
        seg->mode = 0;
        seg->owner = s;
        seg->pieces = g_ptr_array_new_with_free_func(free_piece);
        memory_region_init_alias(&seg->pci, OBJECT(s), "pam-pci", s->pci, seg->addr, seg->size);
        memory_region_init_io(&seg->through, OBJECT(s), &through_ops, seg, "pam-through",
                              seg->size);
        memory_region_add_subregion_overlap(root, seg->addr, &seg->pci, 2);
        memory_region_add_subregion_overlap(root, seg->addr, &seg->through, 1);
    }
}

static void drop_regions(I440FXState *s)
{
    if (!s->made) {
        return;
    }
    for (unsigned i = 0; i < SEGMENTS; i++) {
        Segment *seg = &s->segments[i];

        g_ptr_array_free(seg->pieces, TRUE);
        memory_region_finalize(&seg->pci);
        memory_region_finalize(&seg->through);
    }
    memory_region_finalize(&s->smram);
    memory_region_finalize(&s->legacy.through);
    address_space_free(s->pci_as);
    address_space_free(s->ram_as);
    memory_region_finalize(&s->ram);
    memory_region_finalize(&s->ram_root);
    object_unref(s->bus);
    s->bus = NULL;
    s->made = false;
}

/* The RAM that the board mapped: its first piece reaches beyond the first MiB. */
static bool find_ram(I440FXState *s, MemoryRegion **mr, hwaddr *offset, GError **error)
{
    AddressSpace *as = s->parent.parent.machine->memory;
    const FlatRange *r;
    bool found;

    rcu_enter();
    r = flat_view_find(address_space_flat_view(as), 0);
    found = r && r->kind == MEMORY_RAM && r->addr == 0 && r->last >= LEGACY_END - 1;
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
    s->pci = pci_bus_memory(dev->bus);
    s->pci_as = address_space_new(ADDRESS_SPACE_OTHER, s->pci, "pci-memory");
    memory_region_init(&s->ram_root, OBJECT(dev), "pam-ram", LEGACY_END);
    memory_region_init_alias(&s->ram, OBJECT(dev), "pam-ram-low", ram, offset, LEGACY_END);
    memory_region_add_subregion(&s->ram_root, 0, &s->ram);
    s->ram_as = address_space_new(ADDRESS_SPACE_OTHER, &s->ram_root, "pam-ram");
    memory_region_transaction_begin();
    make_segments(s, &m->memory_root);
    memory_region_init_alias(&s->smram, OBJECT(dev), "smram-window", s->pci, LEGACY_VGA, 0x20000);
    memory_region_add_subregion_overlap(&m->memory_root, LEGACY_VGA, &s->smram, 2);
    s->legacy.owner = s;
    s->legacy.addr = LEGACY_VGA;
    memory_region_init_io(&s->legacy.through, OBJECT(dev), &through_ops, &s->legacy,
                          "smram-through", 0x20000);
    memory_region_add_subregion_overlap(&m->memory_root, LEGACY_VGA, &s->legacy.through, 1);
    memory_region_transaction_commit();
    s->made = true;

    dev->config[I440FX_RAM_SIZE] = (uint8_t)MIN(units, 255);
    memset(dev->wmask + PCI_CONFIG_HEADER, 0xff, PCI_CONFIG_SIZE - PCI_CONFIG_HEADER);
    return true;
}

/* Out of the address space; freed when nobody looks any more. */
static void i440fx_exit(PCIDevice *dev)
{
    I440FXState *s = I440FX(dev);
    MemoryRegion *root = &dev->parent.machine->memory_root;

    memory_region_transaction_begin();
    for (unsigned i = 0; i < SEGMENTS; i++) {
        drop_pieces(&s->segments[i], root);
        memory_region_del_subregion(root, &s->segments[i].pci);
        memory_region_del_subregion(root, &s->segments[i].through);
    }
    memory_region_del_subregion(root, &s->smram);
    memory_region_del_subregion(root, &s->legacy.through);
    memory_region_transaction_commit();
}

static void i440fx_reset(PCIDevice *dev)
{
    I440FXState *s = I440FX(dev);
    uint8_t ram_size = dev->config[I440FX_RAM_SIZE];

    if (machine_waking(dev->parent.machine)) {
        /* The memory controller stays powered in S3: firmware finds itself in shadow RAM. */
        return;
    }

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
