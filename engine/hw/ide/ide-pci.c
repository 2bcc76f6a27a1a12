/*
 * "piix3-ide": the IDE function of the PIIX3: two channels at the ports of old, and a bus master.
 *
 * Intel 82371SB (PIIX3), data sheet 290550, chapter 2.3 (function 1) and 2.7; Programming Interface
 * for Bus Master IDE Controller, revision 1.0.
 *
 * Ports   0x1f0-0x1f7, 0x3f6 and 0x170-0x177, 0x376, while IDETIM enables them and the command
 *         register I/O space; BAR 4: 16 bytes, 8 a channel: command, status, descriptor table
 * Lines   "irq" 0, 1: the board connects them to 14 and 15
 *
 * Timing registers keep what is written and slow nothing down. IDETIM comes up enabled, as firmware
 * leaves it, for systems that start without any.
 */
#include "engine/hw/ide/ide.h"

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/hw/pci/pci.h"

enum { IDETIM = 0x40, SIDETIM = 0x44 };
#define IDETIM_ENABLE 0x8000
enum { BM_COMMAND = 0, BM_STATUS = 2, BM_TABLE = 4 };
enum { BM_START = 1, BM_TO_MEMORY = 8 };
enum { BM_ACTIVE = 1, BM_ERROR = 2, BM_INTERRUPT = 4, BM_CAPABLE = 0x60 };

typedef struct BusMaster {
    struct PIIX3IDE *ide;
    IDEChannel *channel;
    uint8_t command, status;
    uint32_t table; /* first descriptor */
    uint32_t next;  /* the next one */
    uint32_t addr;  /* of what is left of the present one */
    uint32_t left;  /* bytes */
    bool last;      /* it is the last */
} BusMaster;

typedef struct PIIX3IDE {
    PCIDevice parent;
    MemoryRegion bar;
    MemoryRegion command[2], control[2];
    BusMaster bm[2];
    Irq *irq[2];
} PIIX3IDE;
OBJECT_DECLARE_TYPE(PIIX3IDE, PCIDeviceClass, PIIX3_IDE, "piix3-ide")

/* ---- moving data ----------------------------------------------------------------------------- */

/* It is read without the lock; what was moved before is then in memory. */
static void set_status(BusMaster *bm, uint8_t status)
{
    __atomic_store_n(&bm->status, status, __ATOMIC_RELEASE);
}

static void bus_error(BusMaster *bm, bool *error)
{
    log_of(bm->ide, LOG_GUEST, "%s: its bus master is off, or descriptors are nowhere",
           OBJECT(bm->ide)->name);
    set_status(bm, (bm->status & (uint8_t)~BM_ACTIVE) | BM_ERROR);
    *error = true;
}

/* The next descriptor; false: there is none. */
static bool fetch(BusMaster *bm, bool *error)
{
    uint8_t prd[8];

    if (bm->last) {
        set_status(bm, bm->status & (uint8_t)~BM_ACTIVE);
        return false;
    }
    if (pci_dma_read(&bm->ide->parent, bm->next, prd, sizeof(prd)) != MEMTX_OK) {
        bus_error(bm, error);
        return false;
    }
    bm->next += 8;
    bm->addr = pci_get_long(prd) & ~1u;
    bm->left = pci_get_word(prd + 4) & 0xfffeu;
    if (bm->left == 0) {
        bm->left = 0x10000;
    }
    bm->last = prd[7] & 0x80;
    return true;
}

static size_t bm_move(void *opaque, void *buf, size_t len, bool to_memory, bool *error)
{
    BusMaster *bm = opaque;
    size_t moved = 0;

    /* A descriptor stands for two bytes at least, so this ends. */
    while (moved < len && (bm->left > 0 || fetch(bm, error))) {
        uint32_t n = (uint32_t)MIN(len - moved, bm->left);
        uint8_t *at = (uint8_t *)buf + moved;
        MemTxResult r = to_memory ? pci_dma_write(&bm->ide->parent, bm->addr, at, n)
                                  : pci_dma_read(&bm->ide->parent, bm->addr, at, n);

        if (r != MEMTX_OK) {
            bus_error(bm, error);
            return moved;
        }
        moved += n;
        bm->addr += n;
        bm->left -= n;
    }
    return moved;
}

static bool bm_ready(void *opaque, bool to_memory)
{
    BusMaster *bm = opaque;

    return (bm->status & BM_ACTIVE) && !!(bm->command & BM_TO_MEMORY) == to_memory;
}

/* With descriptors for more than the drive had, the engine stays active: the guest sees it by that.
 */
static void bm_done(void *opaque, bool error)
{
    BusMaster *bm = opaque;

    if (bm->left == 0 && bm->last) {
        set_status(bm, bm->status & (uint8_t)~BM_ACTIVE);
    }
}

static void bm_interrupt(void *opaque)
{
    BusMaster *bm = opaque;

    set_status(bm, bm->status | BM_INTERRUPT);
}

static const IDEDma bm_dma = { bm_move, bm_ready, bm_done, bm_interrupt };

/* ---- registers ------------------------------------------------------------------------------- */

static void bm_write_command(BusMaster *bm, uint8_t value)
{
    uint8_t old = bm->command;

    bm->command = value & (BM_START | BM_TO_MEMORY);
    if (!(old & BM_START) && (value & BM_START)) {
        set_status(bm, bm->status | BM_ACTIVE);
        bm->next = bm->table;
        bm->left = 0;
        bm->last = false;
        ide_channel_dma_started(bm->channel);
    } else if (!(value & BM_START)) {
        set_status(bm, bm->status & (uint8_t)~BM_ACTIVE);
    }
}

static uint64_t bm_read(void *opaque, hwaddr addr, unsigned size)
{
    BusMaster *bm = &((PIIX3IDE *)opaque)->bm[addr >> 3];

    switch (addr & 7) {
    case BM_COMMAND:
        return bm->command;
    case BM_STATUS:
        return bm->status;
    case 1:
    case 3:
        return 0;
    default:
        return bm->table >> (8 * (addr & 3)) & 0xff;
    }
}

static void bm_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    BusMaster *bm = &((PIIX3IDE *)opaque)->bm[addr >> 3];
    unsigned shift = 8 * (unsigned)(addr & 3);

    switch (addr & 7) {
    case BM_COMMAND:
        bm_write_command(bm, (uint8_t)data);
        break;
    case BM_STATUS:
        set_status(bm, (uint8_t)((data & BM_CAPABLE) | (bm->status & BM_ACTIVE) |
                                 (bm->status & ~data & (BM_ERROR | BM_INTERRUPT))));
        break;
    case 1:
    case 3:
        break;
    default:
        bm->table = (bm->table & ~(0xffu << shift)) | (uint32_t)(data & 0xff) << shift;
        bm->table &= ~3u;
        break;
    }
}

/* What a guest asks for again and again while it waits. */
static bool bm_read_now(void *opaque, hwaddr addr, unsigned size, uint64_t *data)
{
    if ((addr & 7) != BM_STATUS || size != 1) {
        return false;
    }
    *data = __atomic_load_n(&((PIIX3IDE *)opaque)->bm[addr >> 3].status, __ATOMIC_ACQUIRE);
    return true;
}

static const MemoryRegionOps bm_ops = {
    .read = bm_read,
    .read_now = bm_read_now,
    .write = bm_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- configuration --------------------------------------------------------------------------- */

static void update_decoding(PIIX3IDE *s)
{
    const uint8_t *config = s->parent.config;
    bool io = pci_get_word(config + PCI_COMMAND) & PCI_COMMAND_IO;

    memory_region_transaction_begin();
    for (unsigned i = 0; i < 2; i++) {
        bool on = io && (pci_get_word(config + IDETIM + 2 * i) & IDETIM_ENABLE);

        memory_region_set_enabled(&s->command[i], on);
        memory_region_set_enabled(&s->control[i], on);
    }
    memory_region_transaction_commit();
}

static void ide_config_write(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len)
{
    pci_default_config_write(dev, addr, value, len);
    if (pci_config_touches(addr, len, PCI_COMMAND, 2) || pci_config_touches(addr, len, IDETIM, 4)) {
        update_decoding(PIIX3_IDE(dev));
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

static void line_changed(void *opaque, int n, int level)
{
    irq_set(PIIX3_IDE(opaque)->irq[n], level);
}

static bool make_channel(PIIX3IDE *s, unsigned n, GError **error)
{
    BusMaster *bm = &s->bm[n];
    DeviceState *dev = DEVICE(s);
    static const uint32_t ports[2][2] = { { 0x1f0, 0x3f6 }, { 0x170, 0x376 } };

    if (!bm->channel) {
        bm->ide = s;
        bm->channel = ide_channel_new(dev, n, error);
        if (!bm->channel) {
            return false;
        }
        bm->channel->dma = &bm_dma;
        bm->channel->dma_opaque = bm;
        bm->channel->irq = irq_new(line_changed, s, (int)n);
    }
    memory_region_finalize(&s->command[n]);
    memory_region_finalize(&s->control[n]);
    memory_region_init_io(&s->command[n], OBJECT(s), &ide_command_ops, bm->channel, "ide-command",
                          8);
    memory_region_init_io(&s->control[n], OBJECT(s), &ide_control_ops, bm->channel, "ide-control",
                          1);
    return device_map_io(dev, ports[n][0], &s->command[n], error) &&
           device_map_io(dev, ports[n][1], &s->control[n], error);
}

static bool ide_realize(PCIDevice *dev, GError **error)
{
    PIIX3IDE *s = PIIX3_IDE(dev);

    memory_region_finalize(&s->bar);
    memory_region_init_io(&s->bar, OBJECT(s), &bm_ops, s, "bus-master-ide", 16);
    pci_register_bar(dev, 4, PCI_BAR_IO, &s->bar);
    pci_set_long(dev->wmask + IDETIM, 0xb3ffb3ff);
    for (unsigned n = 0; n < 2; n++) {
        if (!make_channel(s, n, error)) {
            return false;
        }
    }
    return true;
}

static void ide_reset(PCIDevice *dev)
{
    PIIX3IDE *s = PIIX3_IDE(dev);

    pci_set_word(dev->config + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MED);
    pci_set_long(dev->config + IDETIM, IDETIM_ENABLE | (uint32_t)IDETIM_ENABLE << 16);
    for (unsigned n = 0; n < 2; n++) {
        BusMaster *bm = &s->bm[n];

        bm->command = 0;
        set_status(bm, 0);
        bm->table = bm->next = bm->addr = bm->left = 0;
        bm->last = false;
        ide_channel_reset(bm->channel);
    }
    update_decoding(s);
}

static bool ide_post_load(void *opaque, unsigned version, GError **error)
{
    PIIX3IDE *s = opaque;

    for (unsigned n = 0; n < 2; n++) {
        BusMaster *bm = &s->bm[n];

        if (bm->left > 0x10000 || (bm->table & 3) != 0) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "%s: no bus master can be in this state",
                             OBJECT(s)->name);
        }
        bm->command &= BM_START | BM_TO_MEMORY;
        set_status(bm, bm->status & (BM_ACTIVE | BM_ERROR | BM_INTERRUPT | BM_CAPABLE));
    }
    update_decoding(s);
    return true;
}

static const VMStateField bm_fields[] = {
    VMSTATE_STRUCT_POINTER(channel, BusMaster, vmstate_ide_channel),
    VMSTATE_UINT8(command, BusMaster),
    VMSTATE_UINT8(status, BusMaster),
    VMSTATE_UINT32(table, BusMaster),
    VMSTATE_UINT32(next, BusMaster),
    VMSTATE_UINT32(addr, BusMaster),
    VMSTATE_UINT32(left, BusMaster),
    VMSTATE_BOOL(last, BusMaster),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_bm = {
    .name = "bus-master",
    .version = 1,
    .minimum_version = 1,
    .fields = bm_fields,
};
static const VMStateField ide_fields[] = {
    VMSTATE_PCI_DEVICE(parent, PIIX3IDE),
    VMSTATE_STRUCT_ARRAY(bm, PIIX3IDE, vmstate_bm),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_ide = {
    .name = "piix3-ide",
    .version = 1,
    .minimum_version = 1,
    .post_load = ide_post_load,
    .fields = ide_fields,
};

static void ide_instance_init(Object *obj)
{
    device_init_irq_out(DEVICE(obj), "irq", PIIX3_IDE(obj)->irq, 2);
}

static void ide_finalize(Object *obj)
{
    PIIX3IDE *s = PIIX3_IDE(obj);

    memory_region_finalize(&s->bar);
    for (unsigned n = 0; n < 2; n++) {
        memory_region_finalize(&s->command[n]);
        memory_region_finalize(&s->control[n]);
        object_unref(s->bm[n].channel);
    }
}

static void ide_class_init(ObjectClass *klass, const void *data)
{
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->vendor_id = 0x8086;
    pc->device_id = 0x7010;
    pc->class_code = 0x010180; /* ports of old on both channels, bus master */
    pc->realize = ide_realize;
    pc->reset = ide_reset;
    pc->config_write = ide_config_write;
    DEVICE_CLASS(klass)->vmsd = &vmstate_ide;
}

static const TypeInfo ide_info = {
    .name = "piix3-ide",
    .parent = TYPE_PCI_DEVICE,
    .doc = "PIIX3 IDE controller: two channels, bus-master DMA",
    .instance_size = sizeof(PIIX3IDE),
    .instance_init = ide_instance_init,
    .instance_finalize = ide_finalize,
    .class_init = ide_class_init,
};

static void register_ide(void)
{
    type_register_static(&ide_info);
}
type_init(register_ide)
