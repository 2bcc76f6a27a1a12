/*
 * An IDE channel: the registers that two drives share.
 *
 * ATA/ATAPI-7, volume 2 (parallel transport). Both drives hear every write to the command block;
 * the selected one answers reads and carries out commands. Without a drive 1, drive 0 answers for
 * it, with a status of 0; where nobody is, DD7 is pulled down: 0x7f. Drive 1 alone is fine.
 */
#include "engine/hw/ide/ide_priv.h"

enum { REG_DATA, REG_ERROR, REG_COUNT, REG_LOW, REG_MID, REG_HIGH, REG_DEVICE, REG_STATUS };
#define NOBODY 0x7f

static unsigned selected_unit(const IDEChannel *ch)
{
    return (ch->select & ATA_DEV) != 0;
}

/* Who answers reads; *stands_in: drive 0 for a missing drive 1. */
static IDEDrive *answering(IDEChannel *ch, bool *stands_in)
{
    IDEDrive *s = ch->drives[selected_unit(ch)];

    *stands_in = false;
    if (!s && selected_unit(ch) == 1) {
        s = ch->drives[0];
        *stands_in = s;
    }
    return s;
}

/* ---- interrupts ------------------------------------------------------------------------------ */

bool ide_channel_irq_pending(const IDEChannel *ch)
{
    const IDEDrive *s = ch->drives[selected_unit(ch)];

    return s && s->irq_pending;
}

void ide_update_irq(IDEChannel *ch)
{
    bool level = ide_channel_irq_pending(ch) && !(ch->control & ATA_NIEN);

    if (level && !ch->level && ch->dma) {
        ch->dma->interrupt(ch->dma_opaque);
    }
    ch->level = level;
    irq_set(ch->irq, level);
}

void ide_raise(IDEDrive *s)
{
    s->irq_pending = true;
    ide_update_irq(s->channel);
}

/* ---- the data register ----------------------------------------------------------------------- */

static uint64_t data_read(IDEDrive *s, unsigned size)
{
    uint64_t value = 0;

    if (s->phase != IDE_PIO_IN || !(s->status & ATA_DRQ)) {
        return 0;
    }
    for (unsigned i = 0; i < size && s->pos < s->end; i++) {
        value |= (uint64_t)s->buffer[s->pos++] << (8 * i);
    }
    if (s->pos >= s->end) {
        ide_data_moved(s);
    }
    return value;
}

static void data_write(IDEDrive *s, uint64_t value, unsigned size)
{
    if ((s->phase != IDE_PIO_OUT && s->phase != IDE_PACKET) || !(s->status & ATA_DRQ)) {
        return;
    }
    for (unsigned i = 0; i < size && s->pos < s->end; i++) {
        s->buffer[s->pos++] = (uint8_t)(value >> (8 * i));
    }
    if (s->pos >= s->end) {
        ide_data_moved(s);
    }
}

/* ---- the command block ----------------------------------------------------------------------- */

static uint8_t read_register(IDEChannel *ch, unsigned reg)
{
    bool stands_in, hob = ch->control & ATA_HOB;
    IDEDrive *s = answering(ch, &stands_in);

    if (!s) {
        return NOBODY;
    }
    switch (reg) {
    case REG_ERROR:
        return stands_in ? 0 : hob ? s->hob_feature : s->error;
    case REG_COUNT:
        return hob ? s->hob_count : s->count;
    case REG_LOW:
        return hob ? s->hob_low : s->lba_low;
    case REG_MID:
        return hob ? s->hob_mid : s->lba_mid;
    case REG_HIGH:
        return hob ? s->hob_high : s->lba_high;
    case REG_DEVICE:
        return stands_in ? ch->select | ATA_DEV_ONES : s->device;
    default:
        if (stands_in) {
            return 0;
        }
        s->irq_pending = false;
        ide_update_irq(ch);
        return s->status;
    }
}

static uint64_t command_read(void *opaque, hwaddr addr, unsigned size)
{
    IDEChannel *ch = opaque;
    IDEDrive *s = ch->drives[selected_unit(ch)];

    if (addr == REG_DATA) {
        return s ? data_read(s, size) : size == 4 ? UINT32_MAX : UINT16_MAX;
    }
    return read_register(ch, (unsigned)addr);
}

static void write_both(IDEChannel *ch, unsigned reg, uint8_t value)
{
    for (unsigned i = 0; i < 2; i++) {
        IDEDrive *s = ch->drives[i];

        /* A drive that is busy, or moves data, does not listen. */
        if (!s || (s->status & (ATA_BSY | ATA_DRQ))) {
            continue;
        }
        switch (reg) {
        case REG_ERROR:
            s->hob_feature = s->feature;
            s->feature = value;
            break;
        case REG_COUNT:
            s->hob_count = s->count;
            s->count = value;
            break;
        case REG_LOW:
            s->hob_low = s->lba_low;
            s->lba_low = value;
            break;
        case REG_MID:
            s->hob_mid = s->lba_mid;
            s->lba_mid = value;
            break;
        case REG_HIGH:
            s->hob_high = s->lba_high;
            s->lba_high = value;
            break;
        case REG_DEVICE:
            s->device = value | ATA_DEV_ONES;
            break;
        }
    }
}

static void run_diagnostic(IDEChannel *ch)
{
    for (unsigned i = 0; i < 2; i++) {
        if (ch->drives[i] && !(ch->drives[i]->status & ATA_BSY)) {
            ide_drop_request(ch->drives[i]);
            ide_set_signature(ch->drives[i]);
            ch->drives[i]->phase = IDE_IDLE;
            ch->drives[i]->status = ch->drives[i]->is_cd ? 0 : ATA_DRDY | ATA_DSC;
        }
    }
    ch->select = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (ch->drives[i]) {
            ide_raise(ch->drives[i]);
            break;
        }
    }
}

static void write_command(IDEChannel *ch, uint8_t command)
{
    IDEDrive *s = ch->drives[selected_unit(ch)];

    if (command == 0x90) {
        run_diagnostic(ch);
        return;
    }
    if (!s) {
        return;
    }
    if ((s->status & (ATA_BSY | ATA_DRQ)) && !(s->is_cd && command == 0x08)) {
        log_of(s, LOG_GUEST, "%s: command %#x while it is busy", OBJECT(s)->name, command);
        return;
    }
    s->irq_pending = false;
    ide_update_irq(ch);
    ide_execute(s, command);
}

static void command_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    IDEChannel *ch = opaque;
    IDEDrive *s = ch->drives[selected_unit(ch)];

    if (addr == REG_DATA) {
        if (s) {
            data_write(s, value, size);
        }
        return;
    }
    ch->control &= (uint8_t)~ATA_HOB;
    if (ch->control & ATA_SRST) {
        return;
    }
    if (addr == REG_STATUS) {
        write_command(ch, (uint8_t)value);
        return;
    }
    write_both(ch, (unsigned)addr, (uint8_t)value);
    if (addr == REG_DEVICE) {
        ch->select = (uint8_t)value;
        ide_update_irq(ch);
    }
}

static bool command_accepts(void *opaque, hwaddr addr, unsigned size, bool is_write,
                            MemTxAttrs attrs)
{
    return addr == REG_DATA ? size == 2 || size == 4 : size == 1;
}

const MemoryRegionOps ide_command_ops = {
    .read = command_read,
    .write = command_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1,
               .max_access_size = 4,
               .unaligned = true,
               .accepts = command_accepts },
    .impl = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
};

/* ---- the control block ----------------------------------------------------------------------- */

static uint64_t control_read(void *opaque, hwaddr addr, unsigned size)
{
    IDEChannel *ch = opaque;
    bool stands_in;
    IDEDrive *s = answering(ch, &stands_in);

    return !s ? NOBODY : stands_in ? 0 : s->status;
}

static void control_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    IDEChannel *ch = opaque;
    uint8_t old = ch->control;

    ch->control = (uint8_t)value & (ATA_NIEN | ATA_SRST | ATA_HOB);
    if (!(old & ATA_SRST) && (value & ATA_SRST)) {
        for (unsigned i = 0; i < 2; i++) {
            if (ch->drives[i]) {
                ide_drop_request(ch->drives[i]);
                ch->drives[i]->phase = IDE_IDLE;
                ch->drives[i]->status = ATA_BSY;
                ch->drives[i]->irq_pending = false;
            }
        }
    } else if ((old & ATA_SRST) && !(value & ATA_SRST)) {
        ch->select = 0;
        for (unsigned i = 0; i < 2; i++) {
            if (ch->drives[i]) {
                ide_drive_reset(ch->drives[i], false);
            }
        }
    }
    ide_update_irq(ch);
}

const MemoryRegionOps ide_control_ops = {
    .read = control_read,
    .write = control_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 1 },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

void ide_channel_dma_started(IDEChannel *ch)
{
    for (unsigned i = 0; i < 2; i++) {
        IDEDrive *s = ch->drives[i];

        if (s && (s->phase == IDE_DMA_IN || s->phase == IDE_DMA_OUT)) {
            ide_dma_pump(s);
        }
    }
}

void ide_channel_reset(IDEChannel *ch)
{
    ch->select = 0;
    ch->control = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (ch->drives[i]) {
            ide_drive_reset(ch->drives[i], true);
        }
    }
    ide_update_irq(ch);
}

/* ---- type ------------------------------------------------------------------------------------ */

IDEChannel *ide_channel_new(DeviceState *owner, unsigned n, GError **error)
{
    g_autofree char *name = g_strdup_printf("ide.%u", n);
    IDEChannel *ch = IDE_CHANNEL(object_new(TYPE_IDE_CHANNEL, error));

    if (!ch) {
        return NULL;
    }
    ch->owner = owner;
    if (!object_add_child(OBJECT(owner), name, OBJECT(ch), error)) {
        object_unref(ch);
        return NULL;
    }
    return ch; /* one reference of the caller's, beside the tree's */
}

static void channel_finalize(Object *obj)
{
    irq_unref(IDE_CHANNEL(obj)->irq);
}

static bool channel_post_load(void *opaque, unsigned version, GError **error)
{
    IDEChannel *ch = opaque;

    ch->control &= ATA_NIEN | ATA_SRST | ATA_HOB;
    return true;
}

static const VMStateField channel_fields[] = {
    VMSTATE_UINT8(select, IDEChannel),
    VMSTATE_UINT8(control, IDEChannel),
    VMSTATE_BOOL(level, IDEChannel),
    VMSTATE_END(),
};
const VMStateDescription vmstate_ide_channel = {
    .name = "ide-channel",
    .version = 1,
    .minimum_version = 1,
    .post_load = channel_post_load,
    .fields = channel_fields,
};

static const TypeInfo channel_info = {
    .name = TYPE_IDE_CHANNEL,
    .parent = TYPE_OBJECT,
    .doc = "An IDE channel: up to two drives",
    .instance_size = sizeof(IDEChannel),
    .instance_finalize = channel_finalize,
};

static void register_channel(void)
{
    type_register_static(&channel_info);
}
type_init(register_channel)
