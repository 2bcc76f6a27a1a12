/*
 * The standard VGA: an IBM VGA with the Bochs VBE interface on top, as a part that display devices
 * embed ("VGA" on PCI, "isa-vga" on ISA). See docs/display.md.
 *
 * Engine lock for all of it. The guest's direct writes to video memory go without.
 */
#pragma once

#include "engine/display/surface.h"
#include "engine/hw/core/device.h"

#define TYPE_VGA_PCI "VGA"
#define TYPE_VGA_ISA "isa-vga"

#define VGA_WINDOW_BASE 0xa0000
#define VGA_WINDOW_SIZE 0x20000
#define VGA_MMIO_SIZE   0x1000

typedef struct VgaCore VgaCore;

/* A range of I/O ports; `mr` is mapped by the device at `port`. */
typedef struct VgaPorts {
    VgaCore *vga;
    unsigned port;
    MemoryRegion mr;
} VgaPorts;
#define VGA_PORT_RANGES 6

/*
 * How the first 256 KiB of video memory are laid out, four planes of 64 KiB: such that what the
 * guest's window shows in the present mode is one piece, which it may then read and write without
 * an exit. (p: plane, o: offset in it.)
 *   VGA_PLANAR    p + 4 o, as a linear frame buffer has it; for all of video memory
 *   VGA_CHAIN4    p + (o & fffc) + (o & 3) * 64 KiB: what chain-4 shows is the first 64 KiB
 *   VGA_ODD_EVEN  (p & 1) + (o & fffe) + (o & 1) * 64 KiB + (p >> 1) * 128 KiB: likewise for text
 */
typedef enum { VGA_PLANAR, VGA_CHAIN4, VGA_ODD_EVEN } VgaLayout;

typedef enum { VGA_WINDOW_OFF, VGA_WINDOW_IO, VGA_WINDOW_RAM } VgaWindowKind;
typedef struct VgaWindow {
    VgaWindowKind kind;
    uint32_t base, size; /* from a0000 on */
    uint32_t offset;     /* in video memory, of VGA_WINDOW_RAM */
    VgaLayout layout;    /* that it needs */
} VgaWindow;

enum {
    VBE_ID,
    VBE_XRES,
    VBE_YRES,
    VBE_BPP,
    VBE_ENABLE,
    VBE_BANK,
    VBE_VIRT_WIDTH,
    VBE_VIRT_HEIGHT,
    VBE_X_OFFSET,
    VBE_Y_OFFSET,
    VBE_MEMORY_64K,
    VBE_REGS
};

/* A VBE mode that can be shown: derived from the registers. */
typedef struct VbeMode {
    bool on;
    unsigned width, height, bpp;
    uint32_t pitch; /* bytes of a line; offsets of a plane with 4 bits a pixel */
    uint32_t start; /* of the first pixel shown, in the same units */
    unsigned skip;  /* 4 bits a pixel: pixels of the first byte that are left of the screen */
} VbeMode;

typedef struct VgaFrame { /* timing, in dots of the pixel clock */
    uint32_t hz, line, hdisplay;
    uint32_t lines, vdisplay, vretrace_start, vretrace_end;
} VgaFrame;

struct VgaCore {
    /* set by the device before vga_core_realize */
    DeviceState *dev;
    const char *label;
    uint32_t vgamem_mb; /* property */

    Console *con;
    Clock *clock;
    MemoryRegion vram;   /* the frame buffer; a BAR or nothing shows it as a whole */
    MemoryRegion window; /* what is at a0000-bffff: a container */
    MemoryRegion window_io, window_ram, mmio;
    VgaPorts ports[VGA_PORT_RANGES];
    VgaWindow shown;
    uint8_t *mem; /* of vram */
    uint32_t mem_size;
    bool have_ram;

    /* registers, as the guest wrote them, reserved bits masked */
    uint8_t misc, feature, sleep;
    uint8_t seq_index, seq[5];
    uint8_t gc_index, gc[9];
    uint8_t crtc_index, crtc[25];
    uint8_t attr_index, attr[21];
    bool attr_data; /* the flip-flop: the next write of 3c0 is data */
    uint8_t pel_mask, dac_read, dac_write, dac_part, dac_state, dac_latch[3], dac[768];
    uint32_t latch;
    uint8_t layout;
    uint16_t vbe_index, vbe[VBE_REGS];
    uint32_t byte_order; /* 0x604: of pixels with more than a byte */

    /* derived */
    VbeMode mode;
    VgaFrame frame;
    bool frame_known;

    /* the picture, as it was drawn last */
    bool redraw, font_written, followed;
    uint8_t drawn_kind;
    struct VgaPicture *picture;
};

/* From the device's realize; `dev`, `label` and `vgamem_mb` are set. Makes regions, maps none. */
bool vga_core_realize(VgaCore *vga, DeviceState *dev, GError **error);
void vga_core_unrealize(VgaCore *vga);
void vga_core_finalize(VgaCore *vga); /* from instance_finalize */
void vga_core_reset(VgaCore *vga);
extern const VMStateDescription vmstate_vga_core;

#define VGA_CORE_PROPERTIES(_State, _vga)                                                    \
    DEFINE_PROP_UINT32("vgamem_mb", _State, _vga.vgamem_mb, 16,                              \
                       "video memory in MiB: a power of two, 1 to 256 (3840 x 2160 with 32 " \
                       "bits a pixel needs 32)")
