/* Shared by the files of engine/hw/ide. */
#pragma once

#include "engine/hw/ide/ide.h"

#include "engine/core/log.h"
#include "engine/core/units.h"

#define IDE_BUFFER_SECTORS 256
#define IDE_BUFFER_BYTES   (IDE_BUFFER_SECTORS * 512)
#define IDE_MAX_MULTIPLE   16
/* What the host has in its cache is there at once. So many in a row, as each may ask for the next
 * from within, and all under the engine lock; then a turn of the main loop lies between. */
#define IDE_MAX_AT_ONCE 16
#define CD_SECTOR       2048
#define CD_RAW_SECTOR   2352
#define CD_PACKET       12
#define CD_SENSE_BYTES  18

enum { /* status */
       ATA_ERR = 0x01,
       ATA_DRQ = 0x08,
       ATA_DSC = 0x10,
       ATA_DF = 0x20,
       ATA_DRDY = 0x40,
       ATA_BSY = 0x80
};
enum { /* error */
       ATA_E_ABRT = 0x04,
       ATA_E_IDNF = 0x10,
       ATA_E_UNC = 0x40
};
enum { /* device register */
       ATA_DEV = 0x10,
       ATA_LBA = 0x40,
       ATA_DEV_ONES = 0xa0
};
enum { /* device control */
       ATA_NIEN = 0x02,
       ATA_SRST = 0x04,
       ATA_HOB = 0x80
};
enum { /* interrupt reason of ATAPI, in the sector count register */
       ATAPI_COD = 0x01,
       ATAPI_IO = 0x02
};

/* What the drive does; in the saved state: numbers stay. */
typedef enum {
    IDE_IDLE = 0,
    IDE_PIO_IN = 1,  /* the host reads a block from the buffer */
    IDE_PIO_OUT = 2, /* the host writes one into it */
    IDE_PACKET = 3,  /* the host writes a command packet */
    IDE_DMA_IN = 4,  /* the buffer waits for the DMA engine to take it */
    IDE_DMA_OUT = 5, /* the DMA engine is to fill the buffer */
    IDE_BUSY = 6,    /* a request to the medium, named by IDEDrive.op, is on its way */
    IDE_PHASES = 7
} IDEPhase;

typedef enum {
    IDE_OP_NONE = 0,
    IDE_OP_READ = 1, /* chunk_lba, chunk sectors, to the buffer */
    IDE_OP_WRITE = 2,
    IDE_OP_FLUSH = 3,
    IDE_OP_TRIM = 4,   /* the next range of the list in the buffer */
    IDE_OP_VERIFY = 5, /* a read whose data nobody wants */
    IDE_OPS = 6
} IDEOp;

typedef struct IDERequest IDERequest;

struct IDEDrive {
    DeviceState parent;
    /* properties */
    Object *channel_link, *drive_link;
    uint32_t unit;
    char *serial, *model, *firmware;
    uint32_t cyls, heads, secs;
    uint64_t wwn;
    int32_t bootindex;

    IDEChannel *channel;
    BlockBackend *be;
    bool is_cd;
    uint64_t sectors; /* of 512 bytes */

    /* the drive's own copy of the command block, with the bytes written before for 48-bit commands
     */
    uint8_t feature, count, lba_low, lba_mid, lba_high, device;
    uint8_t hob_feature, hob_count, hob_low, hob_mid, hob_high;
    uint8_t status, error, command;
    bool irq_pending;

    uint32_t cur_heads, cur_secs; /* as INITIALIZE DEVICE PARAMETERS set them */
    uint32_t multiple;            /* sectors a block; 0: not set */
    uint8_t dma_mode;             /* as SET FEATURES: 0x20|n multiword, 0x40|n ultra */
    uint8_t pio_mode;
    bool read_ahead, write_cache, smart, smart_autosave, sleeping, standby, power_up_seen;

    /* the command under way */
    uint8_t phase, op;
    bool is_lba48, is_dma, is_write, careful;
    uint32_t block;           /* sectors between two interrupts of PIO */
    uint64_t lba;             /* of the next sector to transfer */
    uint32_t left;            /* sectors not yet asked from, or given to, the medium */
    uint64_t chunk_lba;       /* what is in the buffer, or on its way */
    uint32_t chunk, chunk_at; /* sectors; of these the host has had so many */
    uint32_t pos, end;        /* bytes of the buffer that the host is to move: [pos, end) */
    uint32_t used;            /* bytes of the buffer that count, for saving */
    uint8_t *buffer;          /* IDE_BUFFER_BYTES; belongs to the request in flight, if any */
    uint8_t at_once;          /* requests in a row that needed none: IDE_MAX_AT_ONCE */
    IDERequest *request; /* in flight; NULL: none, or the state was restored and it starts anew */

    /* ATAPI */
    uint8_t packet[CD_PACKET];
    uint8_t sense_key, asc, ascq;
    uint8_t attention; /* IDECDAttention bits */
    uint8_t media_event;
    uint32_t byte_limit; /* of a PIO block */
    uint32_t cd_left;    /* CD sectors to go; lba is the next */
    uint32_t cd_unit;    /* bytes that the host gets of each: 2048, 2352 */
    uint32_t cd_flags;   /* of READ CD */
    uint32_t reply_left; /* bytes of the reply that is in the buffer and not in a block yet */
    bool cd_reading, cd_out, locked;
};
typedef struct IDEDriveClass {
    DeviceClass parent_class;
    bool is_cd;
} IDEDriveClass;
OBJECT_DECLARE_TYPE(IDEDrive, IDEDriveClass, IDE_DRIVE, TYPE_IDE_DRIVE)

enum { ATTENTION_RESET = 1, ATTENTION_MEDIUM = 2 };

/* channel.c */
void ide_update_irq(IDEChannel *ch);
void ide_raise(IDEDrive *s); /* the drive asks for an interrupt */

/* drive.c */
void ide_drive_reset(IDEDrive *s, bool power_on);
void ide_set_signature(IDEDrive *s);
void ide_execute(IDEDrive *s, uint8_t command);
void ide_abort(IDEDrive *s, uint8_t error); /* ends the command with ERR, and an interrupt */
void ide_ok(IDEDrive *s);                   /* ends it well, and an interrupt */
void ide_finish(IDEDrive *s);               /* ends it well, without */
void ide_drop_request(IDEDrive *s);
/* What is on its way to the medium goes on without the drive, which gets a new buffer. */
void ide_leave_request(IDEDrive *s, bool cancel);
/* Sends the drive's `op` to the medium; the buffer is then the request's. */
void ide_start_op(IDEDrive *s);
/* The host is to move buffer[pos, end): sets DRQ. */
void ide_offer(IDEDrive *s, IDEPhase phase, uint32_t from, uint32_t bytes);
void ide_data_moved(IDEDrive *s); /* it has */
void ide_dma_pump(IDEDrive *s);
uint64_t ide_get_lba(const IDEDrive *s);
void ide_set_lba(IDEDrive *s, uint64_t lba);

/* drive-state.c */
extern const VMStateDescription vmstate_ide_drive;

/* ata.c */
void ata_execute(IDEDrive *s);
void ata_block_moved(IDEDrive *s); /* PIO */
void ata_dma_moved(IDEDrive *s);   /* the DMA engine has moved the buffer */
void ata_op_done(IDEDrive *s, int error);

/* ata-identify.c */
void ata_identify(IDEDrive *s, uint8_t *out);
void atapi_identify(IDEDrive *s, uint8_t *out);
bool ata_smart(
    IDEDrive *s); /* false: abort. What there is to read is in the buffer, `used` bytes */
bool ata_set_features(IDEDrive *s);

/* atapi.c */
void atapi_packet_command(IDEDrive *s); /* A0h */
void atapi_block_moved(IDEDrive *s);
void atapi_dma_moved(IDEDrive *s);
void atapi_op_done(IDEDrive *s, int error);
void atapi_fail(IDEDrive *s, uint8_t key, uint8_t asc, uint8_t ascq);
void atapi_succeed(IDEDrive *s);
void atapi_reply(IDEDrive *s, uint32_t bytes, uint32_t max); /* buffer → host */
void atapi_read(IDEDrive *s, uint32_t lba, uint32_t n, uint32_t unit, uint32_t flags);
/* atapi-cmd.c */
void atapi_execute(IDEDrive *s);
void atapi_data_out(IDEDrive *s); /* the parameter list of MODE SELECT is in the buffer */
extern const BlockDeviceOps atapi_block_ops;

static inline void put_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void put_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static inline void put_be32(uint8_t *p, uint32_t v)
{
    put_be16(p, (uint16_t)(v >> 16));
    put_be16(p + 2, (uint16_t)v);
}
static inline uint16_t get_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}
static inline uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)get_be16(p) << 16 | get_be16(p + 2);
}
