/*
 * Graphics modes, line by line: those of the IBM VGA out of the four planes, and the VBE modes out
 * of the linear frame buffer. Lines whose memory was not written since the last time are left out;
 * of the others only what looks different is reported.
 */
#include <string.h>

#include "engine/hw/display/vga-priv.h"
#include "engine/memory/ram.h"

/* ---- into the surface ---------------------------------------------------------------------- */

/* Lines that differ and lie side by side are one rectangle. */
typedef struct Damage {
    Console *con;
    unsigned first, last; /* columns */
    unsigned y, lines;
} Damage;

static void damage_flush(Damage *d)
{
    if (d->lines) {
        console_damage(d->con, d->first, d->y, d->last - d->first + 1, d->lines);
        d->lines = 0;
    }
}

static void put_line(Damage *d, unsigned y, const uint32_t *from)
{
    uint32_t *to = console_pixels(d->con, y);
    unsigned first = 0, last = d->con->width;

    if (!memcmp(to, from, last * sizeof(*to))) {
        return;
    }
    while (first < last && to[first] == from[first]) {
        first++;
    }
    while (last > first && to[last - 1] == from[last - 1]) {
        last--;
    }
    if (first == last) {
        return; /* the guest writes at this moment */
    }
    last--;
    memcpy(to + first, from + first, (last - first + 1) * sizeof(*to));
    if (d->lines && y == d->y + d->lines) {
        d->first = MIN(d->first, first);
        d->last = MAX(d->last, last);
        d->lines++;
        return;
    }
    damage_flush(d);
    d->first = first;
    d->last = last;
    d->y = y;
    d->lines = 1;
}

/* ---- planes -------------------------------------------------------------------------------- */

/* The bits of a byte as eight bytes of 0 or 1, the highest first in memory. */
static uint64_t spread(uint32_t byte)
{
    uint64_t x = (byte & 0xff) * UINT64_C(0x0101010101010101) & UINT64_C(0x0102040810204080);

    return (x + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
}

static void pixels_planar(uint32_t planes, uint8_t *to)
{
    uint64_t v = spread(planes) | spread(planes >> 8) << 1 | spread(planes >> 16) << 2 |
                 spread(planes >> 24) << 3;

    v = GUINT64_TO_LE(v);
    memcpy(to, &v, sizeof(v));
}

/* Pairs of bits: four of planes 0 and 2, then four of planes 1 and 3. */
static void pixels_interleaved(uint32_t planes, uint8_t *to)
{
    for (unsigned half = 0; half < 2; half++) {
        unsigned low = planes >> (8 * half) & 0xff, high = planes >> (16 + 8 * half) & 0xff;

        for (unsigned shift = 8; shift > 0;) {
            shift -= 2;
            *to++ = (uint8_t)((low >> shift & 3) | (high >> shift & 3) << 2);
        }
    }
}

static void pixels_256(uint32_t planes, uint8_t *to)
{
    planes = GUINT32_TO_LE(planes);
    memcpy(to, &planes, sizeof(planes));
}

typedef struct GraphicsMode {
    VgaCore *vga;
    const VgaShape *shape;
    void (*pixels)(uint32_t planes, uint8_t *to);
    const uint32_t *colors;
    uint8_t color_mask;
    unsigned pan, step;
    unsigned row_mask; /* bits of the row scan that choose memory */
    uint32_t *out;
} GraphicsMode;

static void render_line(const GraphicsMode *g, const VgaLine *line, unsigned pan)
{
    const VgaShape *shape = g->shape;
    uint8_t *index = g->vga->picture->index;
    uint32_t *out = g->out;

    for (unsigned col = 0; col <= shape->columns; col++) {
        uint32_t o = vga_crtc_offset(g->vga, (line->ma + (col >> g->step)) & 0xffff, line->row);

        g->pixels(vga_fetch(g->vga, o), index + col * shape->dots);
    }
    for (unsigned x = 0; x < shape->columns * shape->dots; x++) {
        uint32_t color = g->colors[index[x + pan] & g->color_mask];

        for (unsigned i = 0; i < shape->scale; i++) {
            *out++ = color;
        }
    }
}

static uint64_t page_bits(uint32_t first, uint32_t last)
{
    unsigned a = first >> RAM_PAGE_BITS, b = last >> RAM_PAGE_BITS;

    return (UINT64_MAX << a) & (UINT64_MAX >> (63 - b));
}

/* The pages of the first 256 KiB that a line is made of, in any case all of those. */
static uint64_t line_pages(const GraphicsMode *g, const VgaLine *line)
{
    unsigned end = (line->ma + (g->shape->columns >> g->step)) & 0xffff;
    uint32_t first = vga_crtc_offset(g->vga, line->ma, line->row) & 0xfffc;
    uint32_t last = vga_crtc_offset(g->vga, end, line->row) | 3;
    uint64_t pages = 0;

    if (last < first || end < line->ma) {
        return UINT64_MAX;
    }
    if (g->vga->layout == VGA_PLANAR) {
        return page_bits(4 * first, 4 * last + 3);
    }
    for (unsigned bank = 0; bank < 4; bank++) {
        pages |= page_bits(bank << 16 | first, bank << 16 | last);
    }
    return pages;
}

static void read_mode(VgaCore *vga, GraphicsMode *g)
{
    VgaPicture *p = vga->picture;
    unsigned pan = vga->attr[ATTR_PAN];

    g->vga = vga;
    g->shape = &p->shape;
    g->colors = p->attr16;
    g->color_mask = 15;
    g->pan = pan & 7;
    g->step = vga_character_step(vga);
    g->row_mask = ~vga->crtc[CR_MODE] & (CR_MODE_ROW0 | CR_MODE_ROW1);
    if (vga->gc[GC_MODE] & GC_MODE_256) {
        g->pixels = pixels_256;
        g->colors = p->colors;
        g->color_mask = 255;
        g->pan = pan >> 1 & 3;
    } else if (vga->gc[GC_MODE] & GC_MODE_INTERLEAVE) {
        g->pixels = pixels_interleaved;
    } else {
        g->pixels = pixels_planar;
    }
}

static bool same_memory(const GraphicsMode *g, const VgaLine *a, const VgaLine *b)
{
    return a->ma == b->ma && a->split == b->split && !((a->row ^ b->row) & g->row_mask);
}

void vga_draw_graphics(VgaCore *vga, bool all)
{
    VgaPicture *p = vga->picture;
    const VgaShape *shape = &p->shape;
    g_autofree uint32_t *out = g_new(uint32_t, shape->columns * shape->dots * shape->scale);
    bool top_fixed = vga->attr[ATTR_MODE] & ATTR_MODE_PAN_TOP;
    Damage damage = { .con = vga->con };
    GraphicsMode g = { .out = out };
    bool rendered = false;

    read_mode(vga, &g);
    vga_read_lines(vga, shape, p->line);
    for (unsigned y = 0; y < shape->lines; y++) {
        const VgaLine *line = &p->line[y];

        if (!y || !same_memory(&g, line, line - 1)) {
            rendered = all || (line_pages(&g, line) & p->dirty_vga);
            if (rendered) {
                render_line(&g, line, line->split && top_fixed ? 0 : g.pan);
            }
        }
        if (rendered) {
            put_line(&damage, y, out);
        }
    }
    damage_flush(&damage);
}

/* ---- VBE ------------------------------------------------------------------------------------ */

/* Two pixels of 16 bits become two of 32: `v` has one in each half. Components of 5 or 6 bits fill
 * their byte by being repeated. */
static inline uint64_t components(uint64_t v, unsigned green)
{
    const uint64_t ones = UINT64_C(0x100000001);
    uint64_t r = v >> (green + 5) & 31 * ones, b = v & 31 * ones;
    uint64_t g = v >> 5 & ((1u << green) - 1) * ones;

    r = r << 3 | (r >> 2 & 7 * ones);
    b = b << 3 | (b >> 2 & 7 * ones);
    g = green == 6 ? g << 2 | (g >> 4 & 3 * ones) : g << 3 | (g >> 2 & 7 * ones);
    return r << 16 | g << 8 | b;
}

static inline uint64_t two_pixels(uint32_t two, unsigned green, bool big)
{
    two = GUINT32_FROM_LE(two);
    if (big) {
        two = (two & 0xff00ff) << 8 | (two >> 8 & 0xff00ff);
    }
    return GUINT64_TO_LE(components((two & 0xffff) | (uint64_t)(two >> 16) << 32, green));
}

static inline void convert_16(const uint8_t *from, uint32_t *to, unsigned width, unsigned green,
                              bool big)
{
    uint32_t two;
    uint64_t out;
    unsigned x;

    for (x = 0; x + 2 <= width; x += 2) {
        memcpy(&two, from + 2 * (size_t)x, sizeof(two));
        out = two_pixels(two, green, big);
        memcpy(to + x, &out, sizeof(out));
    }
    if (x < width) {
        two = 0;
        memcpy(&two, from + 2 * (size_t)x, 2);
        out = two_pixels(two, green, big);
        memcpy(to + x, &out, sizeof(*to));
    }
}

static void convert_line(VgaCore *vga, const uint8_t *from, uint32_t *to)
{
    const VbeMode *m = &vga->mode;
    const uint32_t *colors = vga->picture->colors;
    bool big = vga->byte_order == 0xbebebebe;

    switch (m->bpp) {
    case 8:
        for (unsigned x = 0; x < m->width; x++) {
            to[x] = colors[from[x]];
        }
        break;
    case 15:
        convert_16(from, to, m->width, 5, big);
        break;
    case 16:
        convert_16(from, to, m->width, 6, big);
        break;
    case 24:
        for (unsigned x = 0; x < m->width; x++, from += 3) {
            to[x] = big ? (uint32_t)(from[0] << 16 | from[1] << 8 | from[2])
                        : (uint32_t)(from[2] << 16 | from[1] << 8 | from[0]);
        }
        break;
    default:
        for (unsigned x = 0; x < m->width; x++, from += 4) {
            uint32_t v;

            memcpy(&v, from, sizeof(v));
            to[x] = (big ? GUINT32_FROM_BE(v) : GUINT32_FROM_LE(v)) & 0xffffff;
        }
        break;
    }
}

static void convert_planar(VgaCore *vga, uint32_t o, uint32_t *to)
{
    const VbeMode *m = &vga->mode;
    uint8_t pixels[8];

    for (unsigned x = 0, left = m->skip; x < m->width; o++, left = 0) {
        pixels_planar(vga_fetch(vga, o), pixels);
        for (unsigned i = left; i < 8 && x < m->width; i++) {
            to[x++] = vga->picture->attr16[pixels[i]];
        }
    }
}

static bool pages_dirty(const VgaPicture *p, uint64_t first, uint64_t last)
{
    for (uint64_t i = first >> RAM_PAGE_BITS; i <= last >> RAM_PAGE_BITS; i++) {
        if (p->dirty[i / 64] >> (i % 64) & 1) {
            return true;
        }
    }
    return false;
}

void vga_draw_vbe(VgaCore *vga, bool all)
{
    const VbeMode *m = &vga->mode;
    g_autofree uint32_t *out = g_new(uint32_t, m->width);
    unsigned unit = m->bpp == 4 ? 4 : 1; /* bytes that pitch and start count in */
    unsigned pixels = m->bpp == 4 ? (m->width + m->skip + 7) / 8 : m->width * ((m->bpp + 7) / 8);
    Damage damage = { .con = vga->con };

    for (unsigned y = 0; y < m->height; y++) {
        uint64_t at = ((uint64_t)m->start + (uint64_t)y * m->pitch) * unit;

        if (!all && !pages_dirty(vga->picture, at, at + (uint64_t)pixels * unit - 1)) {
            continue;
        }
        if (m->bpp == 4) {
            convert_planar(vga, (uint32_t)(at / 4), out);
        } else {
            convert_line(vga, vga->mem + at, out);
        }
        put_line(&damage, y, out);
    }
    damage_flush(&damage);
}
