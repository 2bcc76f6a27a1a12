/*
 * The picture: sizes, scan lines and colours from the registers, and the choice of who draws.
 */
#include <string.h>

#include "engine/hw/display/vga-priv.h"
#include "engine/memory/ram.h"

/* ---- from the registers -------------------------------------------------------------------- */

void vga_read_shape(const VgaCore *vga, VgaShape *shape)
{
    const uint8_t *cr = vga->crtc;
    unsigned over = cr[CR_OVERFLOW];
    bool graphics = vga->gc[GC_MISC] & GC_MISC_GRAPHICS;

    shape->columns = cr[CR_HDISPLAY] + 1u;
    shape->lines = (cr[CR_VDISPLAY] | (over & 0x02) << 7 | (over & 0x40) << 3) + 1;
    if (cr[CR_MODE] & CR_MODE_HALF_LINES) {
        shape->lines *= 2;
    }
    shape->scale = vga->seq[SEQ_CLOCKING] & SEQ_CLOCKING_HALF ? 2 : 1;
    shape->dots = graphics || (vga->seq[SEQ_CLOCKING] & SEQ_CLOCKING_8DOT) ? 8 : 9;
    if (graphics && (vga->gc[GC_MODE] & GC_MODE_256)) {
        shape->dots = 4; /* of two clocks each */
        shape->scale *= 2;
    }
}

void vga_read_lines(const VgaCore *vga, const VgaShape *shape, VgaLine *line)
{
    const uint8_t *cr = vga->crtc;
    unsigned max = cr[CR_MAX_SCAN] & 0x1f, row = cr[CR_PRESET_ROW] & 0x1f;
    bool twice = cr[CR_MAX_SCAN] & CR_MAX_SCAN_DOUBLE, second = false, split = false;
    unsigned compare = cr[CR_LINE_COMPARE] | (unsigned)(cr[CR_OVERFLOW] & 0x10) << 4 |
                       (unsigned)(cr[CR_MAX_SCAN] & 0x40) << 3;
    unsigned half = cr[CR_MODE] & CR_MODE_HALF_LINES ? 1 : 0;
    unsigned ma = (unsigned)(cr[CR_START_HIGH] << 8 | cr[CR_START_LOW]) +
                  (cr[CR_PRESET_ROW] >> 5 & 3);

    for (unsigned y = 0; y < shape->lines; y++) {
        line[y] = (VgaLine){ (uint16_t)ma, (uint8_t)row, split };
        if (y >> half == compare && (y & half) == half) {
            ma = row = 0;
            second = false;
            split = true;
            continue;
        }
        if (twice && !second) {
            second = true;
            continue;
        }
        second = false;
        if (row == max) {
            row = 0;
            ma += 2u * cr[CR_OFFSET];
        } else {
            row = (row + 1) & 0x1f;
        }
    }
}

uint32_t vga_crtc_offset(const VgaCore *vga, unsigned ma, unsigned row)
{
    unsigned mode = vga->crtc[CR_MODE];
    uint32_t o;

    if (vga->crtc[CR_UNDERLINE] & CR_UNDERLINE_DWORD) {
        o = (ma << 2 & 0xfffc) | (ma >> 14 & 3);
    } else if (mode & CR_MODE_BYTE) {
        o = ma & 0xffff;
    } else {
        o = (ma << 1 & 0xfffe) | (mode & CR_MODE_WRAP ? ma >> 15 & 1 : ma >> 13 & 1);
    }
    if (!(mode & CR_MODE_ROW0)) {
        o = (o & ~0x2000u) | (row & 1) << 13;
    }
    if (!(mode & CR_MODE_ROW1)) {
        o = (o & ~0x4000u) | (row & 2) << 13;
    }
    return o;
}

static uint32_t dac_color(const VgaCore *vga, unsigned index)
{
    const uint8_t *c = vga->dac + 3 * (index & vga->pel_mask);
    uint32_t rgb = 0;

    for (unsigned i = 0; i < 3; i++) {
        unsigned v = c[i];

        if (!(vga->vbe[VBE_ENABLE] & VBE_8BIT_DAC)) {
            v = v << 2 | v >> 4;
        }
        rgb = rgb << 8 | v;
    }
    return rgb;
}

void vga_read_colors(const VgaCore *vga, uint32_t colors[256], uint32_t attr16[16])
{
    const uint8_t *attr = vga->attr;

    for (unsigned i = 0; i < 256; i++) {
        colors[i] = dac_color(vga, i);
    }
    for (unsigned i = 0; i < 16; i++) {
        unsigned v = attr[i & attr[ATTR_PLANES] & 15];

        if (attr[ATTR_MODE] & ATTR_MODE_P54) {
            v = (v & 0x0f) | (attr[ATTR_COLOR] & 3) << 4;
        }
        attr16[i] = colors[v | (attr[ATTR_COLOR] & 0x0c) << 4];
    }
}

/* ---- drawing ------------------------------------------------------------------------------- */

static void note_dirty(uint64_t first, uint64_t n, void *opaque)
{
    VgaPicture *p = opaque;

    for (uint64_t i = first; i < first + n; i++) {
        p->dirty[i / 64] |= 1ul << (i % 64);
    }
}

/* Which pages were written since the last time; all of them while writes are not logged. */
static void fetch_dirty(VgaCore *vga)
{
    VgaPicture *p = vga->picture;
    size_t bytes = vga->mem_size / RAM_PAGE_SIZE / 8;

    memset(p->dirty, vga->followed ? 0 : 0xff, bytes);
    if (vga->followed) {
        memory_region_sync_dirty(&vga->vram);
        ram_block_take_dirty(vga->vram.ram, DIRTY_DISPLAY, note_dirty, p);
    }
    p->dirty_vga = p->dirty[0];
}

static void draw_blank(VgaCore *vga)
{
    Console *con = vga->con;

    for (unsigned y = 0; y < con->height; y++) {
        memset(console_pixels(con, y), 0, con->width * sizeof(uint32_t));
    }
    console_damage(con, 0, 0, con->width, con->height);
}

static void refresh(void *opaque, bool full)
{
    VgaCore *vga = opaque;
    VgaPicture *p = vga->picture;
    VgaDrawn kind = vga_is_blank(vga)  ? VGA_DRAWN_BLANK
                    : vga->mode.on     ? VGA_DRAWN_VBE
                    : vga_is_text(vga) ? VGA_DRAWN_TEXT
                                       : VGA_DRAWN_GRAPHICS;
    unsigned width = vga->mode.width, height = vga->mode.height;
    bool all = full || vga->redraw || vga->drawn_kind != kind;

    if (!vga->mode.on) {
        vga_read_shape(vga, &p->shape);
        width = p->shape.columns * p->shape.dots * p->shape.scale;
        height = p->shape.lines;
    }
    if (!console_resize(vga->con, width, height)) {
        return;
    }
    all |= vga->con->stale; /* another size: the surface is black */
    vga->con->stale = false;
    vga->redraw = false;
    vga->drawn_kind = (uint8_t)kind;
    if (kind == VGA_DRAWN_BLANK) {
        if (all) {
            draw_blank(vga);
        }
        return;
    }
    if (all) {
        vga_read_colors(vga, p->colors, p->attr16);
    }
    if (kind != VGA_DRAWN_TEXT) {
        fetch_dirty(vga);
    }
    switch (kind) {
    case VGA_DRAWN_TEXT:
        vga_draw_text(vga, all);
        break;
    case VGA_DRAWN_VBE:
        vga_draw_vbe(vga, all);
        break;
    default:
        vga_draw_graphics(vga, all);
        break;
    }
}

static void follow(void *opaque, bool on)
{
    VgaCore *vga = opaque;

    vga->followed = on;
    vga->redraw = true;
    memory_region_set_log(&vga->vram, on, DIRTY_DISPLAY);
}

const ConsoleOps vga_console_ops = { .refresh = refresh, .text = vga_read_text, .follow = follow };
