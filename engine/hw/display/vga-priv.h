/* Shared by the files of the VGA, and nobody else. */
#pragma once

#include "engine/hw/display/vga.h"

/* ---- registers by name --------------------------------------------------------------------- */

enum { /* sequencer */
       SEQ_RESET,
       SEQ_CLOCKING,
       SEQ_MAP_MASK,
       SEQ_FONT,
       SEQ_MEMORY
};
#define SEQ_CLOCKING_8DOT 0x01
#define SEQ_CLOCKING_HALF 0x08
#define SEQ_CLOCKING_OFF  0x20
#define SEQ_MEMORY_NO_OE  0x04
#define SEQ_MEMORY_CHAIN4 0x08

enum { /* graphics controller */
       GC_SET_RESET,
       GC_ENABLE_SET_RESET,
       GC_COMPARE,
       GC_ROTATE,
       GC_READ_MAP,
       GC_MODE,
       GC_MISC,
       GC_DONT_CARE,
       GC_BIT_MASK
};
#define GC_MODE_READ1      0x08
#define GC_MODE_ODD_EVEN   0x10
#define GC_MODE_INTERLEAVE 0x20
#define GC_MODE_256        0x40
#define GC_MISC_GRAPHICS   0x01
#define GC_MISC_CHAIN      0x02

enum { /* CRT controller */
       CR_HTOTAL = 0x00,
       CR_HDISPLAY = 0x01,
       CR_VTOTAL = 0x06,
       CR_OVERFLOW = 0x07,
       CR_PRESET_ROW = 0x08,
       CR_MAX_SCAN = 0x09,
       CR_CURSOR_START = 0x0a,
       CR_CURSOR_END = 0x0b,
       CR_START_HIGH = 0x0c,
       CR_START_LOW = 0x0d,
       CR_CURSOR_HIGH = 0x0e,
       CR_CURSOR_LOW = 0x0f,
       CR_VRETRACE_START = 0x10,
       CR_VRETRACE_END = 0x11,
       CR_VDISPLAY = 0x12,
       CR_OFFSET = 0x13,
       CR_UNDERLINE = 0x14,
       CR_MODE = 0x17,
       CR_LINE_COMPARE = 0x18
};
#define CR_VRETRACE_PROTECT 0x80
#define CR_MAX_SCAN_DOUBLE  0x80
#define CR_UNDERLINE_DWORD  0x40
#define CR_UNDERLINE_BY4    0x20
#define CR_MODE_ROW0        0x01 /* 0: address bit 13 is bit 0 of the row scan */
#define CR_MODE_ROW1        0x02
#define CR_MODE_HALF_LINES  0x04
#define CR_MODE_BY2         0x08
#define CR_MODE_WRAP        0x20
#define CR_MODE_BYTE        0x40

enum { ATTR_MODE = 0x10, ATTR_OVERSCAN, ATTR_PLANES, ATTR_PAN, ATTR_COLOR };
#define ATTR_INDEX_ON      0x20 /* of the index register: the palette feeds the screen */
#define ATTR_MODE_MONO     0x02
#define ATTR_MODE_LINE_GFX 0x04
#define ATTR_MODE_BLINK    0x08
#define ATTR_MODE_PAN_TOP  0x20
#define ATTR_MODE_256      0x40
#define ATTR_MODE_P54      0x80

#define MISC_COLOR 0x01 /* CRTC at 3dx */
#define MISC_RAM   0x02

#define VBE_ENABLED     0x01
#define VBE_GETCAPS     0x02
#define VBE_8BIT_DAC    0x20
#define VBE_NOCLEARMEM  0x80
#define VBE_ENABLE_KEPT 0xe3

/* ---- vga-regs.c ---------------------------------------------------------------------------- */

/* `peek`: a debugger looks, nothing changes. */
uint8_t vga_port_read(VgaCore *vga, unsigned port, bool peek);
void vga_port_write(VgaCore *vga, unsigned port, uint8_t value);
extern const MemoryRegionOps vga_port_ops; /* opaque: VgaPorts */
void vga_frame_update(VgaCore *vga);
uint64_t vga_frame_number(VgaCore *vga); /* since the machine's clock was 0 */

/* ---- vga-vbe.c ----------------------------------------------------------------------------- */

uint16_t vga_vbe_read(VgaCore *vga, unsigned index);
void vga_vbe_write(VgaCore *vga, unsigned index, uint16_t value);
void vga_vbe_update(VgaCore *vga);          /* derives vga->mode; drops a mode that cannot be */
extern const MemoryRegionOps vga_dispi_ops; /* opaque: VgaPorts */
extern const MemoryRegionOps vga_mmio_ops;  /* opaque: VgaCore */

static inline bool vga_vbe_linear(const VgaCore *vga)
{
    return vga->mode.on && vga->mode.bpp > 4;
}

/* ---- vga-mem.c ----------------------------------------------------------------------------- */

extern const MemoryRegionOps vga_window_ops; /* opaque: VgaCore */
/* Shows at a0000 what the registers say. After each change of one that matters. */
void vga_window_update(VgaCore *vga);
void vga_window_hide(VgaCore *vga);
void vga_set_layout(VgaCore *vga, VgaLayout layout);

#define VGA_UNITS 0x10000u /* offsets in a plane of an IBM VGA */

/* Where the four planes of an offset are, in units of 32 bits; not for VGA_ODD_EVEN. */
static inline uint32_t vga_unit(const VgaCore *vga, uint32_t o)
{
    if (vga->layout == VGA_PLANAR) {
        return o & (vga->mode.on ? vga->mem_size / 4 - 1 : VGA_UNITS - 1);
    }
    return (o & 3) << 14 | (o & 0xfffc) >> 2;
}

/* The four planes of an offset; plane 0 in the low byte. */
static inline uint32_t vga_fetch(const VgaCore *vga, uint32_t o)
{
    if (vga->layout == VGA_ODD_EVEN) {
        const uint8_t *p = vga->mem + ((o & 1) << 16 | (o & 0xfffe));

        return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[0x20000] << 16 | (uint32_t)p[0x20001] << 24;
    }
    return GUINT32_FROM_LE(((const uint32_t *)(const void *)vga->mem)[vga_unit(vga, o)]);
}

/* ---- the picture ------------------------------------------------------------------------------
 */

/* A scan line as the CRT controller makes it. */
typedef struct VgaLine {
    uint16_t ma; /* memory address counter at its first character */
    uint8_t row; /* row scan counter */
    bool split;  /* below the line of the line compare register */
} VgaLine;
#define VGA_MAX_LINES   2048
#define VGA_MAX_COLUMNS 256

typedef struct VgaShape {          /* what the registers say about the size */
    unsigned columns, lines, dots; /* characters, scan lines, dots of a character (8, 9) */
    unsigned scale;                /* screen dots a dot */
} VgaShape;

typedef struct VgaPicture {
    VgaShape shape;
    VgaLine line[VGA_MAX_LINES];
    uint32_t colors[256]; /* what a DAC index looks like */
    uint32_t attr16[16];  /* through the attribute controller */
    /* text: what stands where, of each run of lines with one address */
    uint32_t *cells;
    unsigned n_cells;
    /* pages of video memory that were written since the last time; a bit each */
    unsigned long *dirty;
    uint64_t dirty_vga;                            /* the first 64 of them */
    uint8_t index[(VGA_MAX_COLUMNS + 1) * 9 + 16]; /* pixels of a line */
} VgaPicture;

typedef enum {
    VGA_DRAWN_NOTHING,
    VGA_DRAWN_BLANK,
    VGA_DRAWN_TEXT,
    VGA_DRAWN_GRAPHICS,
    VGA_DRAWN_VBE
} VgaDrawn;

extern const ConsoleOps vga_console_ops; /* vga-screen.c; opaque: VgaCore */
void vga_read_shape(const VgaCore *vga, VgaShape *shape);
/* Fills in picture->line for shape->lines. */
void vga_read_lines(const VgaCore *vga, const VgaShape *shape, VgaLine *line);
void vga_read_colors(const VgaCore *vga, uint32_t colors[256], uint32_t attr16[16]);
/* The offset in the planes of a character. */
uint32_t vga_crtc_offset(const VgaCore *vga, unsigned ma, unsigned row);
static inline unsigned vga_character_step(const VgaCore *vga)
{
    return vga->crtc[CR_UNDERLINE] & CR_UNDERLINE_BY4 ? 2
           : vga->crtc[CR_MODE] & CR_MODE_BY2         ? 1
                                                      : 0;
}
static inline bool vga_is_text(const VgaCore *vga)
{
    return !vga->mode.on && !(vga->gc[GC_MISC] & GC_MISC_GRAPHICS);
}
static inline bool vga_is_blank(const VgaCore *vga)
{
    return !(vga->attr_index & ATTR_INDEX_ON) || (vga->seq[SEQ_CLOCKING] & SEQ_CLOCKING_OFF);
}
void vga_draw_text(VgaCore *vga, bool all); /* vga-text.c */
bool vga_read_text(void *opaque, ConsoleText *text);
void vga_draw_graphics(VgaCore *vga, bool all); /* vga-graphics.c */
void vga_draw_vbe(VgaCore *vga, bool all);
