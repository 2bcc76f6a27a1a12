/* What the files of the floppy controller share: the drives, and the controller's state. */
#pragma once

#include "engine/block/block.h"
#include "engine/hw/core/device.h"
#include "engine/hw/dma/isa-dma.h"

#define TYPE_FDC    "isa-fdc"
#define FDC_DRIVES  2
#define FDC_SECTOR  512
#define FDC_SIZE    2 /* the N of sectors of 512 bytes: all that an image has */
#define FDC_COMMAND 9
#define FDC_RESULT  10

enum { FDC_RATE_500, FDC_RATE_300, FDC_RATE_250, FDC_RATE_1000 };
/* In the order of property "type-a", and of the codes in the CMOS RAM. */
typedef enum { FD_NONE, FD_360, FD_120, FD_720, FD_144, FD_288, FD_AUTO } FdKind;
extern const char *const fd_kind_words[]; /* "none", "360K", "1.2M", … "auto" */

typedef struct FdFormat {
    uint8_t tracks, heads, sectors;
    bool five_inch;
    uint8_t rate; /* FDC_RATE_*, in a drive made for it */
} FdFormat;

typedef struct Fdc Fdc;
typedef struct FdDrive {
    Fdc *fdc;
    unsigned index;
    BlockBackend *be;       /* counted, attached, while realized; NULL: no image can be put in */
    FdKind kind;            /* what it is: not FD_AUTO */
    const FdFormat *format; /* of the medium; NULL: none, or one that it cannot read */
    uint8_t rate;           /* at which the medium is read here */
    /* saved */
    uint8_t track;       /* where the heads are */
    uint8_t next_sector; /* that comes by next: READ ID */
    bool changed;        /* the change line: set until a step with a medium in */
} FdDrive;

/* Takes the backend (may be NULL) and decides what drive it is. */
bool fd_drive_attach(FdDrive *d, Object *be, FdKind kind, GError **error);
void fd_drive_detach(FdDrive *d);
void fd_drive_look(FdDrive *d); /* at the medium, for its format */
bool fd_drive_write_protected(const FdDrive *d);
void fd_drive_step_to(FdDrive *d, unsigned track);
/* Where a sector is in the image. */
uint64_t fd_drive_offset(const FdDrive *d, unsigned track, unsigned head, unsigned sector);

typedef enum { FDC_PHASE_COMMAND, FDC_PHASE_EXECUTE, FDC_PHASE_RESULT } FdcPhase;
/* What the execution of a command waits for. */
typedef enum {
    FDC_WAIT_NONE,
    FDC_WAIT_DISK,      /* a request is with the block layer */
    FDC_WAIT_TO_HOST,   /* data[pos .. len) is to be taken */
    FDC_WAIT_FROM_HOST, /* data[pos .. len) is to be given */
    FDC_WAIT_TIME,      /* exec_timer, then the result as it stands */
} FdcWait;
typedef enum {
    FDC_OP_READ,
    FDC_OP_READ_DELETED,
    FDC_OP_READ_TRACK,
    FDC_OP_VERIFY,
    FDC_OP_WRITE,
    FDC_OP_SCAN_EQUAL,
    FDC_OP_SCAN_LOW,
    FDC_OP_SCAN_HIGH,
    FDC_OP_FORMAT,
    FDC_OP_COUNT,
} FdcOp;

typedef struct FdcIo FdcIo;
struct Fdc {
    DeviceState parent;
    MemoryRegion io, io_dir;
    Irq *irq;
    FdDrive drive[FDC_DRIVES];
    Timer seek_timer, exec_timer;
    DeviceState *dma; /* counted, while realized; NULL: none */
    FdcIo *request;   /* with the block layer */

    /* saved: registers */
    uint8_t dor, tdr, rate;
    uint8_t config, pretrack, perpendicular, specify[2];
    bool locked, interrupt;
    /* saved: phases */
    uint8_t phase, wait, op;
    uint8_t command[FDC_COMMAND], result[FDC_RESULT];
    uint8_t command_pos, result_pos, result_len;
    /* saved: what SENSE INTERRUPT has to tell */
    uint8_t reset_senses; /* so many drives are left to report after a reset */
    uint8_t seeking, sought, seek_target[4], seek_st0[4];
    bool in_reset_delay;
    /* saved: the command that executes */
    uint8_t unit, head, cylinder, side, sector, size, last_sector, formatted;
    uint8_t st[3];
    uint8_t data[FDC_SECTOR],
        other[FDC_SECTOR]; /* what goes over the bus; the disk's side of a scan */
    uint16_t pos, len;
    bool writing, terminal;

    /* properties */
    uint32_t iobase;
    int32_t irq_number;
    uint32_t dma_channel;
    int kind[FDC_DRIVES];
    Object *backend[FDC_DRIVES];
    Object *dma_link;
    bool check_rate;
};
OBJECT_DECLARE_TYPE(Fdc, DeviceClass, FDC, TYPE_FDC)

enum {
    ST0_ABNORMAL = 0x40,
    ST0_INVALID = 0x80,
    ST0_POLLED = 0xc0,
    ST0_SEEK_END = 0x20,
    ST0_CHECK = 0x10
};
enum { ST1_EN = 0x80, ST1_DE = 0x20, ST1_OR = 0x10, ST1_ND = 0x04, ST1_NW = 0x02, ST1_MA = 0x01 };
enum { ST2_CM = 0x40, ST2_DD = 0x20, ST2_WC = 0x10, ST2_SH = 0x08, ST2_SN = 0x04, ST2_BC = 0x02 };
enum { CONFIG_EIS = 0x40, CONFIG_EFIFO = 0x20, CONFIG_POLL_OFF = 0x10 };
enum { DOR_SELECT = 0x03, DOR_RUN = 0x04, DOR_DMA = 0x08 };

static inline bool fdc_uses_dma(const Fdc *s)
{
    return !(s->specify[1] & 1);
}
void fdc_update_irq(Fdc *s);
void fdc_set_result(Fdc *s, unsigned n, bool interrupt);
/* fdc-command.c */
unsigned fdc_command_length(uint8_t first); /* with its parameters */
void fdc_execute(Fdc *s);                   /* a command that is complete */
void fdc_seek_done(Fdc *s);                 /* seek_timer */
/* fdc-transfer.c */
void fdc_start_transfer(Fdc *s, FdcOp op);
void fdc_start_read_id(Fdc *s);
void fdc_pump(Fdc *s);      /* the host's side of the bus may be ready */
void fdc_host_done(Fdc *s); /* data[0 .. len) has passed, or `terminal` */
void fdc_exec_timer(void *opaque);
void fdc_forget_request(Fdc *s);
void fdc_resume_request(Fdc *s); /* after loading: what was with the block layer goes there again */
