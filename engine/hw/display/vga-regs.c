/*
 * The VGA's ports and what lies behind them: miscellaneous output, sequencer, CRT controller,
 * graphics and attribute controllers, DAC, and the beam, whose place is computed from the machine's
 * clock when somebody asks.
 *
 *   3b4 3b5 / 3d4 3d5  CRT controller, index and data     } by bit 0 of miscellaneous output, one
 *   3ba     / 3da      read: status 1, write: feature     } of the two sets is there
 *   3c0 3c1            attribute controller               3c2  write: misc, read: status 0
 *   3c3                video subsystem enable             3c4 3c5  sequencer
 *   3c6-3c9            DAC                                 3ca  feature   3cc  misc   3ce 3cf
 * graphics
 */
#include <string.h>

#include "engine/core/log.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"
#include "engine/hw/display/vga-priv.h"

TRACE_POINT(vga_write, "%s port=%#x value=%#x");

static const uint8_t seq_mask[5] = { 0x03, 0x3d, 0x0f, 0x3f, 0x0e };
static const uint8_t gc_mask[9] = { 0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff };
static const uint8_t attr_mask[5] = { 0xef, 0xff, 0x3f, 0x0f, 0x0f };

/* ---- the beam ------------------------------------------------------------------------------ */

static bool frame_from_crtc(const VgaCore *vga, VgaFrame *f)
{
    const uint8_t *cr = vga->crtc;
    unsigned over = cr[CR_OVERFLOW];
    unsigned dots = vga->seq[SEQ_CLOCKING] & SEQ_CLOCKING_8DOT ? 8 : 9;
    unsigned twice = cr[CR_MODE] & CR_MODE_HALF_LINES ? 2 : 1;

    f->hz = (vga->misc & 0x0c) == 0x04 ? 28322000 : 25175000;
    if (vga->seq[SEQ_CLOCKING] & SEQ_CLOCKING_HALF) {
        f->hz /= 2;
    }
    f->line = (cr[CR_HTOTAL] + 5u) * dots;
    f->hdisplay = (cr[CR_HDISPLAY] + 1u) * dots;
    f->lines = ((cr[CR_VTOTAL] | (over & 0x01) << 8 | (over & 0x20) << 4) + 2) * twice;
    f->vdisplay = ((cr[CR_VDISPLAY] | (over & 0x02) << 7 | (over & 0x40) << 3) + 1) * twice;
    f->vretrace_start = (cr[CR_VRETRACE_START] | (over & 0x04) << 6 | (over & 0x80) << 2) * twice;
    f->vretrace_end = (f->vretrace_start & ~15u) | (cr[CR_VRETRACE_END] & 15u);
    if (f->vretrace_end <= f->vretrace_start) {
        f->vretrace_end += 16;
    }
    return f->hdisplay < f->line && f->vdisplay <= f->vretrace_start &&
           f->vretrace_start < f->lines;
}

/* Where the registers make no picture that a monitor could hold, and in VBE modes, which have no
 * timing, it is that of 720 x 400 text: a guest that waits for a retrace gets one. */
void vga_frame_update(VgaCore *vga)
{
    if (vga->mode.on || !frame_from_crtc(vga, &vga->frame)) {
        vga->frame = (VgaFrame){ 28322000, 900, 720, 449, 400, 412, 414 };
    }
    vga->frame_known = true;
}

static uint64_t beam_dots(VgaCore *vga)
{
    if (!vga->frame_known) {
        vga_frame_update(vga);
    }
    return (uint64_t)((unsigned __int128)(uint64_t)clock_now(vga->clock) * vga->frame.hz /
                      NS_PER_SEC);
}

uint64_t vga_frame_number(VgaCore *vga)
{
    uint64_t dots = beam_dots(vga);

    return dots / ((uint64_t)vga->frame.line * vga->frame.lines);
}

static uint8_t beam_status(VgaCore *vga)
{
    uint64_t dots = beam_dots(vga);
    unsigned y = (unsigned)(dots / vga->frame.line % vga->frame.lines);
    unsigned x = (unsigned)(dots % vga->frame.line);
    uint8_t status = 0;

    if (x >= vga->frame.hdisplay || y >= vga->frame.vdisplay) {
        status |= 0x01;
    }
    if (y >= vga->frame.vretrace_start && y < vga->frame.vretrace_end) {
        status |= 0x08;
    }
    return status;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void set(uint8_t *reg, uint8_t value, bool *changed)
{
    *changed |= *reg != value;
    *reg = value;
}

static void write_seq(VgaCore *vga, uint8_t value)
{
    unsigned i = vga->seq_index;
    bool changed = false;

    if (i >= G_N_ELEMENTS(vga->seq)) {
        log_of(vga->dev, LOG_GUEST, "%s: write of %#x to sequencer register %#x", vga->label, value,
               i);
        return;
    }
    set(&vga->seq[i], value & seq_mask[i], &changed);
    if (changed) {
        vga->redraw |= i != SEQ_MAP_MASK;
        vga->frame_known = false;
        vga_window_update(vga);
    }
}

static void write_gc(VgaCore *vga, uint8_t value)
{
    unsigned i = vga->gc_index;
    bool changed = false;

    if (i >= G_N_ELEMENTS(vga->gc)) {
        log_of(vga->dev, LOG_GUEST, "%s: write of %#x to graphics register %#x", vga->label, value,
               i);
        return;
    }
    set(&vga->gc[i], value & gc_mask[i], &changed);
    if (changed) {
        vga->redraw |= i == GC_MODE || i == GC_MISC;
        vga_window_update(vga);
    }
}

static void write_crtc(VgaCore *vga, uint8_t value)
{
    unsigned i = vga->crtc_index;
    bool changed = false;

    if (i >= G_N_ELEMENTS(vga->crtc)) {
        log_of(vga->dev, LOG_GUEST, "%s: write of %#x to CRTC register %#x", vga->label, value, i);
        return;
    }
    if (i <= CR_OVERFLOW && (vga->crtc[CR_VRETRACE_END] & CR_VRETRACE_PROTECT)) {
        if (i != CR_OVERFLOW) {
            return;
        }
        value = (vga->crtc[i] & ~0x10) | (value & 0x10); /* a bit of line compare */
    }
    set(&vga->crtc[i], value, &changed);
    if (!changed) {
        return;
    }
    vga->frame_known = false;
    /* Where text begins and where the cursor is, is seen by looking. */
    vga->redraw |= !vga_is_text(vga) || (i < CR_CURSOR_START || i > CR_CURSOR_LOW);
}

static void write_attr(VgaCore *vga, uint8_t value)
{
    bool changed = false;

    vga->attr_data = !vga->attr_data;
    if (vga->attr_data) {
        set(&vga->attr_index, value & 0x3f, &changed);
        vga->redraw |= changed;
        return;
    }
    unsigned i = vga->attr_index & 0x1f;
    if (i < 16) {
        set(&vga->attr[i], value & 0x3f, &changed);
    } else if (i < G_N_ELEMENTS(vga->attr)) {
        set(&vga->attr[i], value & attr_mask[i - 16], &changed);
    } else {
        log_of(vga->dev, LOG_GUEST, "%s: write of %#x to attribute register %#x", vga->label, value,
               i);
    }
    vga->redraw |= changed;
}

static void write_dac(VgaCore *vga, uint8_t value)
{
    bool changed = false;

    if (!(vga->vbe[VBE_ENABLE] & VBE_8BIT_DAC)) {
        value &= 0x3f;
    }
    vga->dac_latch[vga->dac_part] = value;
    if (++vga->dac_part < 3) {
        return;
    }
    /* All three go in at once, with the third. */
    for (unsigned i = 0; i < 3; i++) {
        set(&vga->dac[3 * vga->dac_write + i], vga->dac_latch[i], &changed);
    }
    vga->dac_part = 0;
    vga->dac_write++;
    vga->redraw |= changed;
}

static void write_misc(VgaCore *vga, uint8_t value)
{
    bool changed = false;

    set(&vga->misc, value & ~0x10, &changed);
    if (changed) {
        vga->frame_known = false;
        vga_window_update(vga);
    }
}

/* The set of CRTC ports that is not selected is not there. */
static bool selected(const VgaCore *vga, unsigned port)
{
    if (port != 0x3c3 && !(vga->sleep & 1)) {
        return false;
    }
    if ((port & ~0xfu) == 0x3c0) {
        return true;
    }
    return ((port & ~0xfu) == 0x3d0) == !!(vga->misc & MISC_COLOR);
}

void vga_port_write(VgaCore *vga, unsigned port, uint8_t value)
{
    TRACE(vga_write, vga->label, port, value);
    if (!selected(vga, port)) {
        return;
    }
    switch (port) {
    case 0x3b4:
    case 0x3d4:
        vga->crtc_index = value;
        break;
    case 0x3b5:
    case 0x3d5:
        write_crtc(vga, value);
        break;
    case 0x3ba:
    case 0x3da:
        vga->feature = value & 0x0b;
        break;
    case 0x3c0:
        write_attr(vga, value);
        break;
    case 0x3c2:
        write_misc(vga, value);
        break;
    case 0x3c3:
        vga->sleep = value & 1;
        vga_window_update(vga);
        break;
    case 0x3c4:
        vga->seq_index = value;
        break;
    case 0x3c5:
        write_seq(vga, value);
        break;
    case 0x3c6:
        vga->redraw |= vga->pel_mask != value;
        vga->pel_mask = value;
        break;
    case 0x3c7:
        vga->dac_read = value;
        vga->dac_part = 0;
        vga->dac_state = 3;
        break;
    case 0x3c8:
        vga->dac_write = value;
        vga->dac_part = 0;
        vga->dac_state = 0;
        break;
    case 0x3c9:
        write_dac(vga, value);
        break;
    case 0x3ce:
        vga->gc_index = value;
        break;
    case 0x3cf:
        write_gc(vga, value);
        break;
    default:
        break; /* read-only */
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

static uint8_t read_dac(VgaCore *vga, bool peek)
{
    uint8_t value = vga->dac[3 * vga->dac_read + vga->dac_part];

    if (!peek && ++vga->dac_part == 3) {
        vga->dac_part = 0;
        vga->dac_read++;
    }
    return value;
}

static uint8_t read_crtc(const VgaCore *vga)
{
    switch (vga->crtc_index) {
    case 0x22: /* not in the books: the latch of the plane that read map names */
        return (uint8_t)(vga->latch >> (8 * vga->gc[GC_READ_MAP]));
    case 0x24:
        return (uint8_t)(vga->attr_data << 7);
    default:
        return vga->crtc_index < G_N_ELEMENTS(vga->crtc) ? vga->crtc[vga->crtc_index] : 0;
    }
}

uint8_t vga_port_read(VgaCore *vga, unsigned port, bool peek)
{
    unsigned attr = vga->attr_index & 0x1f;

    if (!selected(vga, port)) {
        return 0xff;
    }
    switch (port) {
    case 0x3b4:
    case 0x3d4:
        return vga->crtc_index;
    case 0x3b5:
    case 0x3d5:
        return read_crtc(vga);
    case 0x3ba:
    case 0x3da:
        if (!peek) {
            vga->attr_data = false;
        }
        return beam_status(vga);
    case 0x3c0:
        return vga->attr_index;
    case 0x3c1:
        return attr < G_N_ELEMENTS(vga->attr) ? vga->attr[attr] : 0;
    case 0x3c2:
        return 0x10; /* the sense line: a colour monitor is there */
    case 0x3c3:
        return vga->sleep;
    case 0x3c4:
        return vga->seq_index;
    case 0x3c5:
        return vga->seq_index < G_N_ELEMENTS(vga->seq) ? vga->seq[vga->seq_index] : 0;
    case 0x3c6:
        return vga->pel_mask;
    case 0x3c7:
        return vga->dac_state;
    case 0x3c8:
        return vga->dac_write;
    case 0x3c9:
        return read_dac(vga, peek);
    case 0x3ca:
        return vga->feature;
    case 0x3cc:
        return vga->misc;
    case 0x3ce:
        return vga->gc_index;
    case 0x3cf:
        return vga->gc_index < G_N_ELEMENTS(vga->gc) ? vga->gc[vga->gc_index] : 0;
    default:
        return 0xff;
    }
}

static MemTxResult ports_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                              MemTxAttrs attrs)
{
    VgaPorts *p = opaque;

    *data = vga_port_read(p->vga, p->port + (unsigned)addr, attrs.debug);
    return MEMTX_OK;
}

static MemTxResult ports_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                               MemTxAttrs attrs)
{
    VgaPorts *p = opaque;

    vga_port_write(p->vga, p->port + (unsigned)addr, (uint8_t)data);
    return MEMTX_OK;
}

const MemoryRegionOps vga_port_ops = {
    .read_attrs = ports_read,
    .write_attrs = ports_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};
