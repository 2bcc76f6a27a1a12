/*
 * Video memory as the guest sees it at a0000-bffff: four planes behind the graphics controller, or
 * plain memory where the mode makes it that.
 *
 * Where the registers make the window plain memory (chain-4 and odd/even with nothing of the
 * graphics controller in between; linear VBE modes), it is a direct view of video memory, laid out
 * so that this is one piece (see VgaLayout): no exits. Everywhere else each byte goes through
 * read_byte and write_byte. A direct view loads no latches.
 */
#include <string.h>

#include "engine/hw/display/vga-priv.h"

/* ---- layouts ------------------------------------------------------------------------------- */

static void store_unit(uint8_t *mem, VgaLayout layout, uint32_t o, uint32_t v)
{
    uint8_t *p;

    switch (layout) {
    case VGA_PLANAR:
        p = mem + 4 * (size_t)o;
        break;
    case VGA_CHAIN4:
        p = mem + ((o & 3) << 16 | (o & 0xfffc));
        break;
    default:
        p = mem + ((o & 1) << 16 | (o & 0xfffe));
        p[0] = (uint8_t)v;
        p[1] = (uint8_t)(v >> 8);
        p[0x20000] = (uint8_t)(v >> 16);
        p[0x20001] = (uint8_t)(v >> 24);
        return;
    }
    v = GUINT32_TO_LE(v);
    memcpy(p, &v, sizeof(v));
}

void vga_set_layout(VgaCore *vga, VgaLayout layout)
{
    g_autofree uint8_t *now = NULL;

    if (vga->layout == layout) {
        return;
    }
    now = g_malloc(4 * VGA_UNITS);
    for (uint32_t o = 0; o < VGA_UNITS; o++) {
        store_unit(now, layout, o, vga_fetch(vga, o));
    }
    memcpy(vga->mem, now, 4 * VGA_UNITS);
    memory_region_set_dirty(&vga->vram, 0, 4 * VGA_UNITS);
    vga->layout = (uint8_t)layout;
    vga->redraw = true;
}

/* ---- one byte ------------------------------------------------------------------------------ */

static const uint32_t plane_bytes[16] = {
    0x00000000, 0x000000ff, 0x0000ff00, 0x0000ffff, 0x00ff0000, 0x00ff00ff, 0x00ffff00, 0x00ffffff,
    0xff000000, 0xff0000ff, 0xff00ff00, 0xff00ffff, 0xffff0000, 0xffff00ff, 0xffffff00, 0xffffffff,
};

static void store(VgaCore *vga, uint32_t o, uint32_t value, uint32_t mask)
{
    uint32_t old = vga_fetch(vga, o);
    uint32_t now = (old & ~mask) | (value & mask);

    if (mask & 0x00ff0000) {
        vga->font_written = true;
    }
    if (vga->layout == VGA_PLANAR) {
        o = vga_unit(vga, o);
        store_unit(vga->mem, VGA_PLANAR, o, now);
        memory_region_set_dirty(&vga->vram, 4 * (hwaddr)o, 4);
    } else if (vga->layout == VGA_CHAIN4) {
        store_unit(vga->mem, VGA_CHAIN4, o, now);
        memory_region_set_dirty(&vga->vram, (o & 3) << 16 | (o & 0xfffc), 4);
    } else {
        uint32_t at = (o & 1) << 16 | (o & 0xfffe);

        store_unit(vga->mem, VGA_ODD_EVEN, o, now);
        memory_region_set_dirty(&vga->vram, at, 2);
        memory_region_set_dirty(&vga->vram, at + 0x20000, 2);
    }
}

/* The offset in the planes of an address in the window. Which bit becomes bit 0 where the address'
 * own chooses the plane: bit 16 in a window of 128 KiB; the page bit of miscellaneous output, which
 * nobody uses, is not looked at. */
static uint32_t plane_offset(const VgaCore *vga, uint32_t addr)
{
    if (vga->mode.on) {
        return addr + ((uint32_t)vga->vbe[VBE_BANK] << 16);
    }
    if (vga->seq[SEQ_MEMORY] & SEQ_MEMORY_CHAIN4) {
        return (addr & 0xfffc) | (addr >> 16 & 3);
    }
    if (vga->gc[GC_MISC] & GC_MISC_CHAIN) {
        return (addr & 0xfffe) | (addr >> 16 & 1);
    }
    return addr & 0xffff;
}

static uint8_t read_byte(VgaCore *vga, uint32_t addr, bool peek)
{
    uint32_t latch = vga_fetch(vga, plane_offset(vga, addr));
    unsigned plane = vga->gc[GC_READ_MAP];

    if (!peek) {
        vga->latch = latch;
    }
    if (!vga->mode.on && (vga->seq[SEQ_MEMORY] & SEQ_MEMORY_CHAIN4)) {
        plane = addr & 3;
    } else if (vga->gc[GC_MODE] & GC_MODE_READ1) {
        uint32_t differ = (latch ^ plane_bytes[vga->gc[GC_COMPARE]]) &
                          plane_bytes[vga->gc[GC_DONT_CARE]];

        return (uint8_t) ~(differ | differ >> 8 | differ >> 16 | differ >> 24);
    } else if (vga->gc[GC_MODE] & GC_MODE_ODD_EVEN) {
        plane = (plane & 2) | (addr & 1);
    }
    return (uint8_t)(latch >> (8 * plane));
}

static uint32_t logic(const VgaCore *vga, uint32_t v)
{
    switch (vga->gc[GC_ROTATE] >> 3) {
    case 1:
        return v & vga->latch;
    case 2:
        return v | vga->latch;
    case 3:
        return v ^ vga->latch;
    default:
        return v;
    }
}

static void write_byte(VgaCore *vga, uint32_t addr, uint8_t data)
{
    const uint8_t *gc = vga->gc;
    unsigned turn = gc[GC_ROTATE] & 7;
    uint8_t turned = (uint8_t)(data >> turn | data << (8 - turn));
    uint32_t bits = gc[GC_BIT_MASK] * 0x01010101u, v, enabled;
    unsigned planes = vga->seq[SEQ_MAP_MASK];

    if (!vga->mode.on && (vga->seq[SEQ_MEMORY] & SEQ_MEMORY_CHAIN4)) {
        planes &= 1u << (addr & 3);
    } else if (!(vga->seq[SEQ_MEMORY] & SEQ_MEMORY_NO_OE)) {
        planes &= addr & 1 ? 0xa : 0x5;
    }
    switch (gc[GC_MODE] & 3) {
    case 0:
        enabled = plane_bytes[gc[GC_ENABLE_SET_RESET]];
        v = turned * 0x01010101u;
        v = logic(vga, (v & ~enabled) | (plane_bytes[gc[GC_SET_RESET]] & enabled));
        break;
    case 1:
        v = vga->latch;
        bits = UINT32_MAX;
        break;
    case 2:
        v = logic(vga, plane_bytes[data & 15]);
        break;
    default:
        v = logic(vga, plane_bytes[gc[GC_SET_RESET]]);
        bits &= turned * 0x01010101u;
        break;
    }
    v = (v & bits) | (vga->latch & ~bits);
    if (planes) {
        store(vga, plane_offset(vga, addr), v, plane_bytes[planes]);
    }
}

static MemTxResult window_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                               MemTxAttrs attrs)
{
    *data = read_byte(opaque, (uint32_t)addr, attrs.debug);
    return MEMTX_OK;
}

static MemTxResult window_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                MemTxAttrs attrs)
{
    write_byte(opaque, (uint32_t)addr, (uint8_t)data);
    return MEMTX_OK;
}

const MemoryRegionOps vga_window_ops = {
    .read_attrs = window_read,
    .write_attrs = window_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 1 },
};

/* ---- what the window shows ----------------------------------------------------------------- */

/* The graphics controller passes bytes through as they are. */
static bool passes_through(const VgaCore *vga)
{
    return !(vga->gc[GC_MODE] & (3 | GC_MODE_READ1)) && !vga->gc[GC_ROTATE] &&
           !vga->gc[GC_ENABLE_SET_RESET] && vga->gc[GC_BIT_MASK] == 0xff;
}

static bool text_window(const VgaCore *vga)
{
    return !(vga->seq[SEQ_MEMORY] & SEQ_MEMORY_NO_OE) && (vga->gc[GC_MODE] & GC_MODE_ODD_EVEN) &&
           (vga->gc[GC_MISC] & GC_MISC_CHAIN) && vga->seq[SEQ_MAP_MASK] == 3 &&
           !(vga->gc[GC_READ_MAP] & 2);
}

static VgaWindow window_wanted(const VgaCore *vga)
{
    static const struct {
        uint32_t base, size;
    } maps[4] = { { 0, 0x20000 }, { 0, 0x10000 }, { 0x10000, 0x8000 }, { 0x18000, 0x8000 } };
    unsigned map = vga->gc[GC_MISC] >> 2 & 3;
    VgaWindow w = { .kind = VGA_WINDOW_IO, .base = maps[map].base, .size = maps[map].size };

    if (!(vga->misc & MISC_RAM) || !(vga->sleep & 1)) {
        return (VgaWindow){ .kind = VGA_WINDOW_OFF };
    }
    if (vga_vbe_linear(vga)) {
        return (VgaWindow){ .kind = VGA_WINDOW_RAM,
                            .size = 0x10000,
                            .offset = (uint32_t)vga->vbe[VBE_BANK] << 16,
                            .layout = VGA_PLANAR };
    }
    if (vga->mode.on) {
        return (VgaWindow){ .kind = VGA_WINDOW_IO, .size = 0x10000 };
    }
    if (!passes_through(vga)) {
        return w;
    }
    if (vga->seq[SEQ_MEMORY] & SEQ_MEMORY_CHAIN4) {
        if (vga->seq[SEQ_MAP_MASK] == 15) {
            w.kind = VGA_WINDOW_RAM;
            w.layout = VGA_CHAIN4;
        }
    } else if (text_window(vga)) {
        w.kind = VGA_WINDOW_RAM;
        w.layout = VGA_ODD_EVEN;
    }
    return w;
}

static bool same_window(const VgaWindow *a, const VgaWindow *b)
{
    return a->kind == b->kind && a->base == b->base && a->size == b->size &&
           a->offset == b->offset && a->layout == b->layout;
}

static void place(MemoryRegion *mr, const VgaWindow *w)
{
    memory_region_set_address(mr, w->base);
    memory_region_set_size(mr, w->size);
}

void vga_window_hide(VgaCore *vga)
{
    memory_region_transaction_begin();
    memory_region_set_enabled(&vga->window_io, false);
    memory_region_set_enabled(&vga->window_ram, false);
    memory_region_transaction_commit();
    vga->shown = (VgaWindow){ .kind = VGA_WINDOW_OFF };
}

void vga_window_update(VgaCore *vga)
{
    VgaWindow w = window_wanted(vga);

    if (same_window(&w, &vga->shown)) {
        return;
    }
    if (vga->shown.kind == VGA_WINDOW_RAM && w.kind == VGA_WINDOW_RAM && vga->layout != w.layout) {
        vga_window_hide(vga); /* nobody writes while memory is laid out anew */
    }
    memory_region_transaction_begin();
    memory_region_set_enabled(&vga->window_io, w.kind == VGA_WINDOW_IO);
    memory_region_set_enabled(&vga->window_ram, w.kind == VGA_WINDOW_RAM);
    if (w.kind == VGA_WINDOW_IO) {
        place(&vga->window_io, &w);
    } else if (w.kind == VGA_WINDOW_RAM) {
        vga_set_layout(vga, w.layout);
        memory_region_set_alias_offset(&vga->window_ram, w.offset);
        place(&vga->window_ram, &w);
    }
    memory_region_transaction_commit();
    vga->shown = w;
}
