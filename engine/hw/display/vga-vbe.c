/*
 * The Bochs VBE interface ("dispi"), after the text vbe_display_api.txt that comes with Bochs'
 * VGA BIOS: an index port 1ce and a data port 1cf (1d0 where a host cannot reach an odd one), both
 * of 16 bits, versions b0c0 to b0c5.
 *
 *   0 id   1 xres   2 yres   3 bpp   4 enable   5 bank   6 virtual width   7 virtual height
 *   8 x offset   9 y offset   a video memory in units of 64 KiB
 *
 * And the page of registers that the PCI card has: at 400 the ports 3c0-3df, at 500 the registers
 * above, at 600 the size and byte order registers of QEMU's card (docs/specs/standard-vga.txt
 * there).
 *
 * Where this model is free: a mode that does not fit into video memory is not switched on.
 * Registers may be changed while a mode is on; where they then describe no mode, it is left. A
 * virtual height is computed from the width, what is written there is not used. Switching between 6
 * and 8 bits of the DAC keeps its colours.
 */
#include <string.h>

#include "engine/core/log.h"
#include "engine/core/trace.h"
#include "engine/hw/display/vga-priv.h"
#include "engine/memory/ram.h"

#define ID_FIRST 0xb0c0
#define ID_LAST  0xb0c5
#define MAX_X    8192
#define MAX_Y    8192
#define MAX_BPP  32

#define MMIO_PORTS     0x400
#define MMIO_DISPI     0x500
#define MMIO_QEMU      0x600
#define QEMU_REGS_SIZE 8
#define ORDER_LITTLE   0x1e1e1e1e
#define ORDER_BIG      0xbebebebe

TRACE_POINT(vga_vbe_write, "%s index=%u value=%#x");

/* ---- modes --------------------------------------------------------------------------------- */

/* Bytes of `pixels` in a line, or with 4 bits a pixel offsets in a plane. */
static uint32_t line_units(unsigned pixels, unsigned bpp)
{
    return bpp == 4 ? (pixels + 7) / 8 : pixels * ((bpp + 7) / 8);
}

static uint32_t memory_units(const VgaCore *vga, unsigned bpp)
{
    return bpp == 4 ? vga->mem_size / 4 : vga->mem_size;
}

/* The mode that the registers describe; on is false when it cannot be shown. */
static VbeMode read_mode(const VgaCore *vga)
{
    const uint16_t *r = vga->vbe;
    VbeMode m = { .width = r[VBE_XRES], .height = r[VBE_YRES], .bpp = r[VBE_BPP] };
    unsigned virt = MAX(r[VBE_VIRT_WIDTH], r[VBE_XRES]);
    uint32_t total = memory_units(vga, m.bpp);
    uint64_t last;

    if (!(r[VBE_ENABLE] & VBE_ENABLED) || !m.width || !m.height || m.width > MAX_X ||
        m.height > MAX_Y || m.width * m.height > CONSOLE_MAX_PIXELS) {
        return m;
    }
    m.pitch = line_units(virt, m.bpp);
    m.start = r[VBE_Y_OFFSET] * m.pitch; /* where this overflows `last` is beyond memory */
    if (m.bpp == 4) {
        m.start += r[VBE_X_OFFSET] / 8;
        m.skip = r[VBE_X_OFFSET] % 8;
    } else {
        m.start += line_units(r[VBE_X_OFFSET], m.bpp);
    }
    last = (uint64_t)r[VBE_Y_OFFSET] * m.pitch + line_units(r[VBE_X_OFFSET], m.bpp) +
           (uint64_t)(m.height - 1) * m.pitch + line_units(m.width + m.skip, m.bpp);
    m.on = last <= total && r[VBE_X_OFFSET] + m.width <= virt;
    return m;
}

void vga_vbe_update(VgaCore *vga)
{
    bool was = vga->mode.on;

    if (!(vga->vbe[VBE_ENABLE] & VBE_ENABLED)) {
        vga->mode = (VbeMode){ 0 };
    } else {
        VbeMode m = read_mode(vga);

        if (!m.on) {
            log_of(vga->dev, LOG_GUEST,
                   "%s: VBE mode %u x %u x %u, virtual width %u, at %u,%u cannot be", vga->label,
                   m.width, m.height, m.bpp, vga->vbe[VBE_VIRT_WIDTH], vga->vbe[VBE_X_OFFSET],
                   vga->vbe[VBE_Y_OFFSET]);
            vga->vbe[VBE_ENABLE] &= (uint16_t)~VBE_ENABLED;
            vga->mode = (VbeMode){ 0 };
        } else {
            vga->mode = m;
        }
    }
    if (was != vga->mode.on) {
        vga->frame_known = false;
    }
    vga->redraw = true;
}

/* ---- registers ----------------------------------------------------------------------------- */

static void set_dac_width(VgaCore *vga, bool eight)
{
    if (eight == !!(vga->vbe[VBE_ENABLE] & VBE_8BIT_DAC)) {
        return;
    }
    for (unsigned i = 0; i < sizeof(vga->dac); i++) {
        vga->dac[i] = eight ? (uint8_t)(vga->dac[i] << 2 | vga->dac[i] >> 4) : vga->dac[i] >> 2;
    }
    vga->redraw = true;
}

/* Pages that were never touched are left so. */
static void clear_run(uint64_t first, uint64_t n, void *opaque)
{
    VgaCore *vga = opaque;

    memset(vga->mem + (first << RAM_PAGE_BITS), 0, n << RAM_PAGE_BITS);
    memory_region_set_dirty(&vga->vram, first << RAM_PAGE_BITS, n << RAM_PAGE_BITS);
}

static void switch_on(VgaCore *vga, uint16_t value)
{
    uint16_t *r = vga->vbe;

    r[VBE_VIRT_WIDTH] = r[VBE_XRES];
    r[VBE_X_OFFSET] = r[VBE_Y_OFFSET] = r[VBE_BANK] = 0;
    vga_vbe_update(vga);
    if (!vga->mode.on) {
        return;
    }
    /* The window still shows what was there before: hidden until memory is as the mode has it. */
    vga_window_hide(vga);
    vga->mode.on = false;
    vga_set_layout(vga, VGA_PLANAR);
    vga->mode.on = true;
    if (!(value & VBE_NOCLEARMEM)) {
        ram_block_foreach_populated(vga->vram.ram, clear_run, vga);
    }
}

static void write_enable(VgaCore *vga, uint16_t value)
{
    bool was = vga->vbe[VBE_ENABLE] & VBE_ENABLED;

    set_dac_width(vga, value & VBE_8BIT_DAC);
    vga->vbe[VBE_ENABLE] = value & VBE_ENABLE_KEPT;
    if ((value & VBE_ENABLED) && !was) {
        switch_on(vga, value);
    } else if (was && !(value & VBE_ENABLED)) {
        vga->vbe[VBE_BANK] = 0;
        vga_vbe_update(vga);
    }
    vga_window_update(vga);
}

/* An offset that would show what is beyond video memory or the line is not taken. */
static void write_offset(VgaCore *vga, unsigned index, uint16_t value)
{
    uint16_t old = vga->vbe[index];

    vga->vbe[index] = value;
    if ((vga->vbe[VBE_ENABLE] & VBE_ENABLED) && !read_mode(vga).on) {
        log_of(vga->dev, LOG_GUEST, "%s: VBE %s offset %u is beyond video memory", vga->label,
               index == VBE_X_OFFSET ? "x" : "y", value);
        vga->vbe[index] = old;
    }
}

static bool depth_known(uint16_t bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

void vga_vbe_write(VgaCore *vga, unsigned index, uint16_t value)
{
    uint16_t *r = vga->vbe;

    TRACE(vga_vbe_write, vga->label, index, value);
    switch (index) {
    case VBE_ID:
        if (value >= ID_FIRST && value <= ID_LAST) {
            r[VBE_ID] = value;
        }
        return;
    case VBE_BPP:
        value = value ? value : 8;
        if (!depth_known(value)) {
            log_of(vga->dev, LOG_GUEST, "%s: VBE modes with %u bits a pixel are none", vga->label,
                   value);
            return;
        }
        break;
    case VBE_ENABLE:
        write_enable(vga, value);
        return;
    case VBE_BANK:
        r[VBE_BANK] = (uint16_t)(value & ((vga->mem_size >> 16) - 1));
        vga_window_update(vga);
        return;
    case VBE_X_OFFSET:
    case VBE_Y_OFFSET:
        write_offset(vga, index, value);
        vga_vbe_update(vga);
        return;
    case VBE_XRES:
    case VBE_YRES:
    case VBE_VIRT_WIDTH:
        break;
    default:
        return; /* read-only, or nothing there */
    }
    if (r[index] == value) {
        return;
    }
    r[index] = value;
    if (r[VBE_ENABLE] & VBE_ENABLED) {
        vga_vbe_update(vga);
        vga_window_update(vga);
    }
}

static uint16_t virtual_height(const VgaCore *vga)
{
    unsigned virt = MAX(vga->vbe[VBE_VIRT_WIDTH], vga->vbe[VBE_XRES]);
    uint32_t pitch = line_units(virt, vga->vbe[VBE_BPP]);

    return pitch ? (uint16_t)MIN(memory_units(vga, vga->vbe[VBE_BPP]) / pitch, UINT16_MAX) : 0;
}

uint16_t vga_vbe_read(VgaCore *vga, unsigned index)
{
    bool caps = vga->vbe[VBE_ENABLE] & VBE_GETCAPS;

    switch (index) {
    case VBE_XRES:
        return caps ? MAX_X : vga->vbe[VBE_XRES];
    case VBE_YRES:
        return caps ? MAX_Y : vga->vbe[VBE_YRES];
    case VBE_BPP:
        return caps ? MAX_BPP : vga->vbe[VBE_BPP];
    case VBE_VIRT_WIDTH:
        return MAX(vga->vbe[VBE_VIRT_WIDTH], vga->vbe[VBE_XRES]);
    case VBE_VIRT_HEIGHT:
        return virtual_height(vga);
    case VBE_MEMORY_64K:
        return (uint16_t)(vga->mem_size >> 16);
    default:
        return index < VBE_REGS ? vga->vbe[index] : 0;
    }
}

/* ---- ports --------------------------------------------------------------------------------- */

static uint64_t dispi_read(void *opaque, hwaddr addr, unsigned size)
{
    VgaCore *vga = ((VgaPorts *)opaque)->vga;

    if (size != 2) {
        return 0xff;
    }
    return addr == 0 ? vga->vbe_index : vga_vbe_read(vga, vga->vbe_index);
}

static void dispi_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    VgaCore *vga = ((VgaPorts *)opaque)->vga;

    if (size != 2) {
        log_of(vga->dev, LOG_GUEST, "%s: VBE registers have 16 bits, not %u", vga->label, 8 * size);
    } else if (addr == 0) {
        vga->vbe_index = (uint16_t)data;
    } else {
        vga_vbe_write(vga, vga->vbe_index, (uint16_t)data);
    }
}

const MemoryRegionOps vga_dispi_ops = {
    .read = dispi_read,
    .write = dispi_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 2, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 2, .unaligned = true },
};

/* ---- the card's page of registers ---------------------------------------------------------- */

static uint32_t qemu_reg(const VgaCore *vga, unsigned at)
{
    return at == 0 ? QEMU_REGS_SIZE : at == 4 ? vga->byte_order : UINT32_MAX;
}

static MemTxResult mmio_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    VgaCore *vga = opaque;
    unsigned at = (unsigned)addr;

    *data = UINT32_MAX;
    if (at >= MMIO_PORTS && at + size <= MMIO_PORTS + 0x20) {
        *data = 0;
        for (unsigned i = 0; i < size; i++) {
            *data |= (uint64_t)vga_port_read(vga, 0x3c0 + at + i - MMIO_PORTS, attrs.debug)
                     << (8 * i);
        }
    } else if (at >= MMIO_DISPI && at < MMIO_DISPI + 2 * VBE_REGS && size == 2) {
        *data = vga_vbe_read(vga, (at - MMIO_DISPI) / 2);
    } else if (at >= MMIO_QEMU && at < MMIO_QEMU + QEMU_REGS_SIZE && size == 4) {
        *data = qemu_reg(vga, at - MMIO_QEMU);
    }
    return MEMTX_OK;
}

static MemTxResult mmio_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    VgaCore *vga = opaque;
    unsigned at = (unsigned)addr;

    if (at >= MMIO_PORTS && at + size <= MMIO_PORTS + 0x20) {
        for (unsigned i = 0; i < size; i++) {
            vga_port_write(vga, 0x3c0 + at + i - MMIO_PORTS, (uint8_t)(data >> (8 * i)));
        }
    } else if (at >= MMIO_DISPI && at < MMIO_DISPI + 2 * VBE_REGS && size == 2) {
        vga_vbe_write(vga, (at - MMIO_DISPI) / 2, (uint16_t)data);
    } else if (at == MMIO_QEMU + 4 && size == 4 && (data == ORDER_LITTLE || data == ORDER_BIG)) {
        vga->byte_order = (uint32_t)data;
        vga->redraw = true;
    } else {
        log_of(vga->dev, LOG_GUEST, "%s: write of %u bytes at offset %#x of its registers",
               vga->label, size, at);
    }
    return MEMTX_OK;
}

const MemoryRegionOps vga_mmio_ops = {
    .read_attrs = mmio_read,
    .write_attrs = mmio_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 4 },
    .impl = { .min_access_size = 1, .max_access_size = 4 },
};
