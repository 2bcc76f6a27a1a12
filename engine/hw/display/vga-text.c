/*
 * Text modes: characters and attributes in planes 0 and 1, glyphs in plane 2.
 *
 * A character is drawn when what stands in its place is not what was drawn there last. Fonts,
 * palettes and sizes change rarely, and have everything drawn anew.
 */
#include <string.h>

#include "engine/hw/display/vga-priv.h"

#define KEY_CURSOR  0x10000u
#define KEY_HIDDEN  0x20000u /* a blinking character in its dark half */
#define KEY_UNKNOWN UINT32_MAX

typedef struct TextMode {
    VgaCore *vga;
    const VgaShape *shape;
    uint32_t font[2]; /* of characters whose attribute has bit 3 clear, set */
    bool blink, line_graphics, mono;
    bool cursor_lit, blink_lit;
    unsigned cursor_ma, cursor_first, cursor_last;
    unsigned underline;
} TextMode;

/* 3 bits that are not side by side: blocks of 16 KiB, then the odd ones of 8. */
static uint32_t font_base(unsigned low, unsigned high)
{
    return low * 0x4000 + high * 0x2000;
}

static void read_mode(VgaCore *vga, const VgaShape *shape, TextMode *t)
{
    const uint8_t *cr = vga->crtc;
    unsigned sel = vga->seq[SEQ_FONT];

    t->vga = vga;
    t->shape = shape;
    t->font[1] = font_base(sel >> 2 & 3, sel >> 5 & 1);
    t->font[0] = font_base(sel & 3, sel >> 4 & 1);
    t->blink = vga->attr[ATTR_MODE] & ATTR_MODE_BLINK;
    t->line_graphics = vga->attr[ATTR_MODE] & ATTR_MODE_LINE_GFX;
    t->mono = vga->attr[ATTR_MODE] & ATTR_MODE_MONO;
    t->cursor_first = cr[CR_CURSOR_START] & 0x1f;
    t->cursor_last = cr[CR_CURSOR_END] & 0x1f;
    t->cursor_ma = (unsigned)(cr[CR_CURSOR_HIGH] << 8 | cr[CR_CURSOR_LOW]) +
                   (cr[CR_CURSOR_END] >> 5 & 3);
    t->cursor_ma &= 0xffff;
    t->cursor_lit = !(cr[CR_CURSOR_START] & 0x20) && t->cursor_first <= t->cursor_last;
    t->blink_lit = true;
    t->underline = cr[CR_UNDERLINE] & 0x1f;
    if (vga->followed) {
        uint64_t n = vga_frame_number(vga);

        t->cursor_lit &= !(n & 8);
        t->blink_lit = !(n & 16);
    }
}

/* Scan lines that show the same characters. `row_mask`: bits of the row scan that choose memory,
 * where registers are set so. */
static unsigned run_length(const VgaLine *line, unsigned y, unsigned lines, unsigned row_mask)
{
    unsigned n = 1;

    while (y + n < lines && line[y + n].ma == line[y].ma && line[y + n].split == line[y].split &&
           line[y + n].row >= line[y + n - 1].row &&
           !((line[y + n].row ^ line[y].row) & row_mask)) {
        n++;
    }
    return n;
}

/* Character and attribute of column `col` of a row. */
static uint32_t cell_at(const TextMode *t, const VgaLine *line, unsigned col)
{
    unsigned ma = (line->ma + (col >> vga_character_step(t->vga))) & 0xffff;

    return vga_fetch(t->vga, vga_crtc_offset(t->vga, ma, line->row)) & 0xffff;
}

static uint32_t key_of(const TextMode *t, const VgaLine *line, unsigned col)
{
    uint32_t key = cell_at(t, line, col);

    if (t->cursor_lit && ((line->ma + col) & 0xffff) == t->cursor_ma) {
        key |= KEY_CURSOR;
    }
    if (t->blink && !t->blink_lit && (key & 0x8000)) {
        key |= KEY_HIDDEN;
    }
    return key;
}

/* One scan line of one character as colours, `dots` of them. */
static void draw_row(const TextMode *t, uint32_t key, unsigned row, uint32_t *to)
{
    const uint32_t *attr16 = t->vga->picture->attr16;
    unsigned ch = key & 0xff, attr = key >> 8 & 0xff, dots = t->shape->dots;
    unsigned bits = vga_fetch(t->vga, t->font[attr >> 3 & 1] + 32 * ch + row) >> 16 & 0xff;
    uint32_t fg = attr16[attr & 15];
    uint32_t bg = attr16[t->blink ? attr >> 4 & 7 : attr >> 4];

    bits <<= 1;
    if (dots == 9 && t->line_graphics && (ch & 0xe0) == 0xc0) {
        bits |= bits >> 1 & 1; /* lines go through to the next character */
    }
    if (key & KEY_HIDDEN) {
        bits = 0;
    }
    if (t->mono && (attr & 7) == 1 && row == t->underline) {
        bits = 0x1ff;
    }
    if ((key & KEY_CURSOR) && row >= t->cursor_first && row <= t->cursor_last) {
        bits = 0x1ff;
    }
    for (unsigned i = 0; i < dots; i++, bits <<= 1) {
        uint32_t color = bits & 0x100 ? fg : bg;

        *to++ = color;
        if (t->shape->scale == 2) {
            *to++ = color;
        }
    }
}

/* Dots by which a line is moved to the left. */
static unsigned pan_of(const TextMode *t, const VgaLine *line)
{
    const VgaCore *vga = t->vga;
    unsigned pan = vga->attr[ATTR_PAN];

    if (line->split && (vga->attr[ATTR_MODE] & ATTR_MODE_PAN_TOP)) {
        return 0;
    }
    if (t->shape->dots == 9) {
        return pan >= 8 ? 0 : pan + 1;
    }
    return pan & 7;
}

static void draw_panned(const TextMode *t, const VgaLine *line, unsigned y, unsigned n,
                        unsigned pan)
{
    Console *con = t->vga->con;
    unsigned columns = t->shape->columns, cell = t->shape->dots * t->shape->scale;
    g_autofree uint32_t *whole = g_new(uint32_t, (columns + 1) * cell);

    for (unsigned j = 0; j < n; j++) {
        for (unsigned col = 0; col <= columns; col++) {
            draw_row(t, key_of(t, line, col), line[j].row, whole + col * cell);
        }
        memcpy(console_pixels(con, y + j), whole + pan * t->shape->scale,
               columns * cell * sizeof(uint32_t));
    }
    console_damage(con, 0, y, columns * cell, n);
}

static void draw_run(const TextMode *t, const VgaLine *line, unsigned y, unsigned n,
                     uint32_t *cells, bool all)
{
    Console *con = t->vga->con;
    unsigned columns = t->shape->columns, cell = t->shape->dots * t->shape->scale;
    unsigned pan = pan_of(t, line), first = columns, last = 0;

    if (pan) {
        draw_panned(t, line, y, n, pan);
        for (unsigned col = 0; col < columns; col++) {
            cells[col] = KEY_UNKNOWN;
        }
        return;
    }
    for (unsigned col = 0; col < columns; col++) {
        uint32_t key = key_of(t, line, col);

        if (key == cells[col] && !all) {
            continue;
        }
        cells[col] = key;
        first = MIN(first, col);
        last = col;
        for (unsigned j = 0; j < n; j++) {
            draw_row(t, key, line[j].row, console_pixels(con, y + j) + col * cell);
        }
    }
    if (first < columns) {
        console_damage(con, first * cell, y, (last - first + 1) * cell, n);
    }
}

/* What was drawn on these lines, by their shape: a scroll by whole rows keeps the runs as they are,
 * one by scan lines does not. */
static bool same_runs(const VgaLine *a, const VgaLine *b, unsigned lines)
{
    for (unsigned y = 0; y < lines; y++) {
        if (a[y].row != b[y].row || a[y].split != b[y].split) {
            return false;
        }
    }
    return true;
}

void vga_draw_text(VgaCore *vga, bool all)
{
    VgaPicture *p = vga->picture;
    const VgaShape *shape = &p->shape;
    VgaLine *line = g_new(VgaLine, shape->lines);
    unsigned run = 0, row_mask = ~vga->crtc[CR_MODE] & (CR_MODE_ROW0 | CR_MODE_ROW1);
    TextMode t;

    vga_read_lines(vga, shape, line);
    all |= vga->font_written || !same_runs(line, p->line, shape->lines);
    vga->font_written = false;
    memcpy(p->line, line, shape->lines * sizeof(*line));
    read_mode(vga, shape, &t);
    if (p->n_cells < shape->lines * shape->columns) {
        p->n_cells = shape->lines * shape->columns;
        p->cells = g_renew(uint32_t, p->cells, p->n_cells);
        all = true;
    }
    for (unsigned y = 0, n; y < shape->lines; y += n, run++) {
        n = run_length(line, y, shape->lines, row_mask);
        draw_run(&t, line + y, y, n, p->cells + (size_t)run * shape->columns, all);
    }
    g_free(line);
}

/* ---- as characters ------------------------------------------------------------------------- */

static void put_cell(const TextMode *t, uint32_t key, ConsoleCell *cell)
{
    unsigned attr = key >> 8 & 0xff;

    cell->code = (uint16_t)(key & 0xff);
    if (t->font[0] != t->font[1] && (attr & 8)) {
        cell->code |= 0x100;
    }
    cell->fg = attr & 15;
    cell->bg = (uint8_t)(t->blink ? attr >> 4 & 7 : attr >> 4);
    cell->flags = (uint8_t)((t->blink && (attr & 0x80) ? CELL_BLINK : 0) |
                            (t->mono && (attr & 7) == 1 ? CELL_UNDERLINE : 0));
}

bool vga_read_text(void *opaque, ConsoleText *text)
{
    VgaCore *vga = opaque;
    VgaLine line[VGA_MAX_LINES];
    unsigned rows = 0, row = 0;
    VgaShape shape;
    TextMode t;

    if (!vga_is_text(vga)) {
        return false;
    }
    vga_read_shape(vga, &shape);
    vga_read_lines(vga, &shape, line);
    read_mode(vga, &shape, &t);
    for (unsigned y = 0; y < shape.lines; y += run_length(line, y, shape.lines, 0)) {
        rows++;
    }
    console_text_resize(text, shape.columns, rows);
    text->cursor_visible = false;
    text->cursor_column = text->cursor_row = 0;
    for (unsigned y = 0; y < shape.lines && row < text->rows; row++) {
        for (unsigned col = 0; col < text->columns; col++) {
            put_cell(&t, cell_at(&t, line + y, col), &text->cells[row * text->columns + col]);
            if (!(vga->crtc[CR_CURSOR_START] & 0x20) && t.cursor_first <= t.cursor_last &&
                ((line[y].ma + col) & 0xffff) == t.cursor_ma) {
                text->cursor_visible = true;
                text->cursor_column = col;
                text->cursor_row = row;
            }
        }
        y += run_length(line, y, shape.lines, 0);
    }
    return true;
}
