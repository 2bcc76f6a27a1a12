/*
 * IDE: two drives on a channel, the channel's registers, ATA disks and ATAPI CD-ROMs.
 *
 * A controller embeds IDEChannel objects and maps their registers; drives ("ide-hd", "ide-cd") are
 * devices that name a channel and a unit. Engine lock.
 */
#pragma once

#include "engine/block/block.h"
#include "engine/hw/core/device.h"

#define TYPE_IDE_CHANNEL "ide-channel"
#define TYPE_IDE_DRIVE   "ide-drive" /* abstract */
#define TYPE_IDE_HD      "ide-hd"
#define TYPE_IDE_CD      "ide-cd"

typedef struct IDEChannel IDEChannel;
typedef struct IDEDrive IDEDrive;

/* What moves data to and from memory for DMA commands; NULL in a channel: PIO only. */
typedef struct IDEDma {
    /* Moves up to len bytes as the guest's descriptors say; how many were moved. Less than len: the
     * descriptors are used up, or *error. */
    size_t (*move)(void *opaque, void *buf, size_t len, bool to_memory, bool *error);
    bool (*ready)(void *opaque, bool to_memory); /* the guest has started it, in that direction */
    void (*done)(void *opaque, bool error);      /* the drive has ended its command */
    void (*interrupt)(void *opaque);             /* the line has risen */
} IDEDma;

struct IDEChannel {
    Object parent;
    DeviceState *owner; /* the controller */
    IDEDrive *drives[2];
    Irq *irq;
    const IDEDma *dma;
    void *dma_opaque;
    uint8_t select;  /* the device register as last written */
    uint8_t control; /* device control */
    bool level;      /* of the interrupt line */
};
OBJECT_DECLARE_TYPE(IDEChannel, ObjectClass, IDE_CHANNEL, TYPE_IDE_CHANNEL)

/* A channel below its controller as "ide.N". */
IDEChannel *ide_channel_new(DeviceState *owner, unsigned n, GError **error);
/* Command block: 8 registers, the data register 16 and 32 bits wide; control block: one. */
extern const MemoryRegionOps ide_command_ops, ide_control_ops; /* opaque: IDEChannel */
void ide_channel_reset(IDEChannel *ch);                        /* power-on */
/* The guest has started or stopped the DMA engine. */
void ide_channel_dma_started(IDEChannel *ch);
bool ide_channel_irq_pending(const IDEChannel *ch);
extern const VMStateDescription vmstate_ide_channel;
