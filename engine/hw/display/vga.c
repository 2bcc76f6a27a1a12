/*
 * The standard VGA: life cycle and saved state of what all its forms have in common.
 *
 * After IBM, "Personal System/2 Hardware Interface Technical Reference: Video Subsystems" (1992,
 * S42G-2193), the chapter on the VGA function; the VBE interface: vga-vbe.c.
 *
 *   vga-regs.c      ports, registers, the beam's place
 *   vga-mem.c       the window at a0000, read and write modes, layouts of memory
 *   vga-vbe.c       VBE registers and modes
 *   vga-screen.c    size, scan lines, colours; who draws
 *   vga-text.c      text modes         vga-graphics.c    graphics and VBE modes
 *
 * Not emulated, or freer than the hardware:
 * - The vertical retrace interrupt: PCs do not connect it. Bits 4 and 5 of status 1 (a test of
 *   which video outputs are on) are 0; the light pen is none.
 * - Changes take effect when the picture is drawn, not at the next retrace, and hold for all of it:
 *   nothing that depends on where the beam is (split palettes) shows. The border is left out.
 * - Chain-4 and doubleword addressing put address bits 17:16 and 15:14 into bits 1:0 of the offset,
 *   as SVGAs have it, where IBM's take lower ones: 256 KiB are then one piece.
 * - The page bit of miscellaneous output and "extended memory" of the sequencer are kept and not
 *   used; resetting the sequencer does not stop it; palette registers are written whatever bit 5 of
 *   the attribute index says.
 * - 256-colour pixels do not go through the attribute controller's palette.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/units.h"
#include "engine/hw/display/vga-priv.h"
#include "engine/memory/ram.h"

#define ORDER_LITTLE 0x1e1e1e1e
#define ORDER_BIG    0xbebebebe

static const struct {
    uint16_t port, n;
} port_ranges[VGA_PORT_RANGES] = { { 0x3b4, 2 }, { 0x3ba, 1 }, { 0x3c0, 16 },
                                   { 0x3d4, 2 }, { 0x3da, 1 }, { 0x1ce, 3 } };

static void state_changed(Machine *m, RunState state, void *opaque)
{
    VgaCore *vga = opaque;

    if (state != RUN_STATE_RUNNING && state != RUN_STATE_CLOSED) {
        console_kick(vga->con); /* the clock stands: what came last is to be seen too */
    }
}

static void make_regions(VgaCore *vga, Object *owner)
{
    g_autofree char *io = g_strdup_printf("%s-window", vga->label);

    for (unsigned i = 0; i < VGA_PORT_RANGES; i++) {
        VgaPorts *p = &vga->ports[i];
        const MemoryRegionOps *ops = i + 1 == VGA_PORT_RANGES ? &vga_dispi_ops : &vga_port_ops;

        p->vga = vga;
        p->port = port_ranges[i].port;
        memory_region_finalize(&p->mr);
        memory_region_init_io(&p->mr, owner, ops, p, vga->label, port_ranges[i].n);
    }
    memory_region_finalize(&vga->window_io);
    memory_region_finalize(&vga->window_ram);
    memory_region_finalize(&vga->window);
    memory_region_finalize(&vga->mmio);
    memory_region_init(&vga->window, owner, io, VGA_WINDOW_SIZE);
    memory_region_init_io(&vga->window_io, owner, &vga_window_ops, vga, vga->label,
                          VGA_WINDOW_SIZE);
    memory_region_init_alias(&vga->window_ram, owner, io, &vga->vram, 0, 0x10000);
    memory_region_add_subregion_overlap(&vga->window, 0, &vga->window_io, 0);
    memory_region_add_subregion_overlap(&vga->window, 0, &vga->window_ram, 1);
    memory_region_init_io(&vga->mmio, owner, &vga_mmio_ops, vga, "vga-registers", VGA_MMIO_SIZE);
}

bool vga_core_realize(VgaCore *vga, DeviceState *dev, GError **error)
{
    g_autofree char *name = g_strdup_printf("%s-ram", object_get_name(OBJECT(dev)));
    unsigned mb = vga->vgamem_mb;

    vga->dev = dev;
    vga->label = object_get_name(OBJECT(dev));
    if (mb < 1 || mb > 256 || (mb & (mb - 1))) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: vgamem_mb %u is not a power of two from 1 to 256", vga->label, mb);
    }
    memory_region_finalize(&vga->vram); /* of an earlier life */
    if (!memory_region_init_ram(&vga->vram, OBJECT(dev), name, mb * MiB, error)) {
        return false;
    }
    vga->mem = memory_region_get_ram_ptr(&vga->vram);
    vga->mem_size = (uint32_t)(mb * MiB);
    make_regions(vga, OBJECT(dev));
    vga->clock = device_clock(dev);
    g_free(vga->picture ? vga->picture->dirty : NULL);
    g_free(vga->picture ? vga->picture->cells : NULL);
    g_free(vga->picture);
    vga->picture = g_new0(VgaPicture, 1);
    vga->picture->dirty = g_malloc0(vga->mem_size / RAM_PAGE_SIZE / 8);
    vga->con = console_attach(OBJECT(dev), "console", &vga_console_ops, vga, vga->clock, error);
    if (!vga->con) {
        return false;
    }
    machine_add_ram(dev->machine, name, &vga->vram);
    vga->have_ram = true;
    machine_add_notify(dev->machine, state_changed, vga);
    return true;
}

void vga_core_unrealize(VgaCore *vga)
{
    machine_remove_notify(vga->dev->machine, state_changed, vga);
    console_detach(vga->con);
    vga->con = NULL;
    if (vga->have_ram) {
        machine_remove_ram(vga->dev->machine, &vga->vram);
        vga->have_ram = false;
    }
}

void vga_core_finalize(VgaCore *vga)
{
    for (unsigned i = 0; i < VGA_PORT_RANGES; i++) {
        memory_region_finalize(&vga->ports[i].mr);
    }
    memory_region_finalize(&vga->window_io);
    memory_region_finalize(&vga->window_ram);
    memory_region_finalize(&vga->window);
    memory_region_finalize(&vga->mmio);
    memory_region_finalize(&vga->vram);
    if (vga->picture) {
        g_free(vga->picture->dirty);
        g_free(vga->picture->cells);
        g_free(vga->picture);
        vga->picture = NULL;
    }
}

/* Memory keeps what it holds, as it does when a PC is reset. */
void vga_core_reset(VgaCore *vga)
{
    memset(vga->seq, 0, sizeof(vga->seq));
    memset(vga->gc, 0, sizeof(vga->gc));
    memset(vga->crtc, 0, sizeof(vga->crtc));
    memset(vga->attr, 0, sizeof(vga->attr));
    memset(vga->dac, 0, sizeof(vga->dac));
    memset(vga->dac_latch, 0, sizeof(vga->dac_latch));
    memset(vga->vbe, 0, sizeof(vga->vbe));
    vga->misc = vga->feature = 0;
    vga->sleep = 1;
    vga->seq_index = vga->gc_index = vga->crtc_index = vga->attr_index = 0;
    vga->attr_data = false;
    vga->pel_mask = 0xff;
    vga->dac_read = vga->dac_write = vga->dac_part = vga->dac_state = 0;
    vga->latch = 0;
    vga->vbe_index = 0;
    vga->vbe[VBE_ID] = 0xb0c5;
    vga->vbe[VBE_BPP] = 8;
    vga->byte_order = ORDER_LITTLE;
    vga->frame_known = false;
    vga_vbe_update(vga);
    vga_window_update(vga);
}

/* ---- saved state --------------------------------------------------------------------------- */

static bool vga_post_load(void *opaque, unsigned version, GError **error)
{
    VgaCore *vga = opaque;
    const uint16_t *r = vga->vbe;

    if (vga->layout > VGA_ODD_EVEN || vga->dac_part > 2 || (vga->dac_state & ~3) ||
        (vga->byte_order != ORDER_LITTLE && vga->byte_order != ORDER_BIG) ||
        r[VBE_BANK] >= vga->mem_size >> 16 || vga->gc[GC_READ_MAP] > 3 ||
        vga->gc[GC_SET_RESET] > 15 || vga->gc[GC_ENABLE_SET_RESET] > 15 ||
        vga->gc[GC_COMPARE] > 15 || vga->gc[GC_DONT_CARE] > 15 || vga->gc[GC_ROTATE] > 31 ||
        vga->seq[SEQ_MAP_MASK] > 15 ||
        ((r[VBE_ENABLE] & VBE_ENABLED) && vga->layout != VGA_PLANAR)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: register values that cannot be",
                         vga->label);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (vga->attr[i] > 63) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "%s: palette register %u holds %#x",
                             vga->label, i, vga->attr[i]);
        }
    }
    if (r[VBE_BPP] != 4 && r[VBE_BPP] != 8 && r[VBE_BPP] != 15 && r[VBE_BPP] != 16 &&
        r[VBE_BPP] != 24 && r[VBE_BPP] != 32) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s: VBE mode with %u bits a pixel",
                         vga->label, r[VBE_BPP]);
    }
    vga_vbe_update(vga);
    vga->frame_known = false;
    vga->font_written = true;
    vga_window_hide(vga); /* whatever it was, it is made anew */
    vga_window_update(vga);
    console_state_loaded(vga->con);
    return true;
}

static const VMStateField vga_fields[] = {
    VMSTATE_UINT8(misc, VgaCore),
    VMSTATE_UINT8(feature, VgaCore),
    VMSTATE_UINT8(sleep, VgaCore),
    VMSTATE_UINT8(seq_index, VgaCore),
    VMSTATE_UINT8_ARRAY(seq, VgaCore),
    VMSTATE_UINT8(gc_index, VgaCore),
    VMSTATE_UINT8_ARRAY(gc, VgaCore),
    VMSTATE_UINT8(crtc_index, VgaCore),
    VMSTATE_UINT8_ARRAY(crtc, VgaCore),
    VMSTATE_UINT8(attr_index, VgaCore),
    VMSTATE_UINT8_ARRAY(attr, VgaCore),
    VMSTATE_BOOL(attr_data, VgaCore),
    VMSTATE_UINT8(pel_mask, VgaCore),
    VMSTATE_UINT8(dac_read, VgaCore),
    VMSTATE_UINT8(dac_write, VgaCore),
    VMSTATE_UINT8(dac_part, VgaCore),
    VMSTATE_UINT8(dac_state, VgaCore),
    VMSTATE_UINT8_ARRAY(dac_latch, VgaCore),
    VMSTATE_UINT8_ARRAY(dac, VgaCore),
    VMSTATE_UINT32(latch, VgaCore),
    VMSTATE_UINT8(layout, VgaCore),
    VMSTATE_UINT16(vbe_index, VgaCore),
    VMSTATE_UINT16_ARRAY(vbe, VgaCore),
    VMSTATE_UINT32(byte_order, VgaCore),
    VMSTATE_END(),
};

const VMStateDescription vmstate_vga_core = {
    .name = "vga",
    .version = 1,
    .minimum_version = 1,
    .post_load = vga_post_load,
    .fields = vga_fields,
};
