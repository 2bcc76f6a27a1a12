/* Segments of the first MiB that show RAM or PCI. See pam.h. */
#include "engine/hw/pci/pam.h"

#include "engine/core/rcu.h"
#include "engine/memory/ram.h"

/* What a split segment reads: a piece of RAM or ROM of one side, whose writes go to the other. */
typedef struct PamPiece {
    MemoryRegion device, window;
    Pam *pam;
    hwaddr base; /* guest address of offset 0 of `device`: what its handlers add */
    bool writes_ram;
    bool spare; /* taken out; waits for a grace period */
} PamPiece;

/* ---- split segments ------------------------------------------------------------------------ */

static MemTxResult side_read(AddressSpace *as, hwaddr addr, uint64_t *data, unsigned size,
                             MemTxAttrs attrs)
{
    MemTxResult res = MEMTX_OK;

    *data = address_space_ldn(as, addr, size, attrs, &res);
    return res;
}

static MemTxResult side_write(AddressSpace *as, hwaddr addr, uint64_t data, unsigned size,
                              MemTxAttrs attrs)
{
    MemTxResult res = MEMTX_OK;

    address_space_stn(as, addr, data, size, attrs, &res);
    return res;
}

static MemTxResult piece_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                              MemTxAttrs attrs)
{
    PamPiece *p = opaque;

    return side_read(p->writes_ram ? p->pam->pci_as : p->pam->ram_as, p->base + addr, data, size,
                     attrs);
}

static MemTxResult piece_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                               MemTxAttrs attrs)
{
    PamPiece *p = opaque;

    return side_write(p->writes_ram ? p->pam->ram_as : p->pam->pci_as, p->base + addr, data, size,
                      attrs);
}

static const MemoryRegionOps piece_ops = {
    .read_attrs = piece_read,
    .write_attrs = piece_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

static MemTxResult through_read(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                                MemTxAttrs attrs)
{
    PamSegment *s = opaque;

    return side_read(s->mode & PAM_READ ? s->pam->ram_as : s->pam->pci_as, s->addr + addr, data,
                     size, attrs);
}

static MemTxResult through_write(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                 MemTxAttrs attrs)
{
    PamSegment *s = opaque;

    return side_write(s->mode & PAM_WRITE ? s->pam->ram_as : s->pam->pci_as, s->addr + addr, data,
                      size, attrs);
}

static const MemoryRegionOps through_ops = {
    .read_attrs = through_read,
    .write_attrs = through_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

/* Pieces stay until the device goes: views may show them for a while, and who flips a segment a
 * million times uses the same few again. */
static PamPiece *take_piece(PamSegment *s, RamBlock *block, hwaddr base, bool writes_ram)
{
    PamPiece *p;

    for (unsigned i = 0; i < s->pieces->len; i++) {
        p = s->pieces->pdata[i];
        if (p->spare && p->device.ram == block && p->base == base && p->writes_ram == writes_ram) {
            p->spare = false;
            return p;
        }
    }
    p = g_new0(PamPiece, 1);
    p->pam = s->pam;
    p->base = base;
    p->writes_ram = writes_ram;
    memory_region_init_rom_device_block(&p->device, s->pam->owner, &piece_ops, p, "pam-split",
                                        block);
    memory_region_init_alias(&p->window, s->pam->owner, "pam-split-window", &p->device, 0, 1);
    g_ptr_array_add(s->pieces, p);
    return p;
}

static void free_piece(void *data)
{
    PamPiece *p = data;

    memory_region_finalize(&p->window);
    memory_region_finalize(&p->device);
    g_free(p);
}

typedef struct Found {
    RamBlock *block;
    hwaddr addr, last, offset;
} Found;

/* RAM and ROM of one side within the segment. */
static unsigned find_pieces(AddressSpace *as, const PamSegment *s, Found found[], unsigned max)
{
    unsigned n = 0;
    hwaddr end = s->addr + s->size - 1;

    rcu_enter();
    const FlatView *view = address_space_flat_view(as);
    for (unsigned i = 0; i < view->n && n < max; i++) {
        const FlatRange *r = &view->ranges[i];

        if (r->last < s->addr || r->addr > end || !r->ram ||
            (r->kind == MEMORY_ROM_DEVICE && !r->romd)) {
            continue;
        }
        found[n].addr = MAX(r->addr, s->addr);
        found[n].last = MIN(r->last, end);
        found[n].offset = r->offset + (found[n].addr - r->addr);
        found[n].block = ram_block_ref(r->ram);
        n++;
    }
    rcu_leave();
    return n;
}

static void drop_pieces(PamSegment *s, MemoryRegion *root)
{
    for (unsigned i = 0; i < s->pieces->len; i++) {
        PamPiece *p = s->pieces->pdata[i];

        if (!p->spare) {
            memory_region_del_subregion(root, &p->window);
            p->spare = true;
        }
    }
}

static void map_split(PamSegment *s, MemoryRegion *root)
{
    bool writes_ram = s->mode == PAM_WRITE;
    Found found[16];
    unsigned n = find_pieces(writes_ram ? s->pam->pci_as : s->pam->ram_as, s, found,
                             G_N_ELEMENTS(found));

    for (unsigned i = 0; i < n; i++) {
        const Found *f = &found[i];
        PamPiece *p = take_piece(s, f->block, f->addr - f->offset, writes_ram);

        memory_region_set_size(&p->window, f->last - f->addr + 1);
        memory_region_set_alias_offset(&p->window, f->offset);
        memory_region_add_subregion_overlap(root, f->addr, &p->window, 3);
        ram_block_unref(f->block);
    }
}

/* ---- all of them --------------------------------------------------------------------------- */

void pam_set(Pam *p, unsigned segment, uint8_t mode)
{
    PamSegment *s = &p->segments[segment];

    if (mode == s->mode) {
        return;
    }
    drop_pieces(s, p->root);
    s->mode = mode;
    memory_region_set_enabled(&s->pci, mode == 0);
    memory_region_set_enabled(&s->through, mode != (PAM_READ | PAM_WRITE));
    if (mode == PAM_READ || mode == PAM_WRITE) {
        map_split(s, p->root);
    }
}

void pam_open_vga(Pam *p, bool open)
{
    memory_region_set_enabled(&p->vga.pci, !open);
    memory_region_set_enabled(&p->vga.through, !open);
}

typedef struct SegmentNames {
    const char *pci, *through;
} SegmentNames;

static void make_segment(Pam *p, PamSegment *s, hwaddr addr, uint64_t size, MemoryRegion *pci,
                         SegmentNames names)
{
    s->addr = addr;
    s->size = size;
    s->mode = 0;
    s->pam = p;
    s->pieces = g_ptr_array_new_with_free_func(free_piece);
    memory_region_init_alias(&s->pci, p->owner, names.pci, pci, addr, size);
    memory_region_init_io(&s->through, p->owner, &through_ops, s, names.through, size);
    memory_region_add_subregion_overlap(p->root, addr, &s->pci, 2);
    memory_region_add_subregion_overlap(p->root, addr, &s->through, 1);
}

void pam_init(Pam *p, Object *owner, MemoryRegion *root, MemoryRegion *pci, MemoryRegion *ram,
              hwaddr offset)
{
    p->owner = owner;
    p->root = root;
    p->pci_as = address_space_new(ADDRESS_SPACE_OTHER, pci, "pci-memory");
    memory_region_init(&p->ram_root, owner, "pam-ram", PAM_END);
    memory_region_init_alias(&p->ram, owner, "pam-ram-low", ram, offset, PAM_END);
    memory_region_add_subregion(&p->ram_root, 0, &p->ram);
    p->ram_as = address_space_new(ADDRESS_SPACE_OTHER, &p->ram_root, "pam-ram");
    memory_region_transaction_begin();
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        make_segment(p, &p->segments[i], i == 0 ? 0xf0000 : 0xc0000 + (i - 1) * 0x4000u,
                     i == 0 ? 0x10000 : 0x4000, pci, (SegmentNames){ "pam-pci", "pam-through" });
    }
    make_segment(p, &p->vga, PAM_LEGACY_VGA, 0x20000, pci,
                 (SegmentNames){ "smram-window", "smram-through" });
    memory_region_transaction_commit();
    p->made = true;
}

static void unmap_segment(PamSegment *s, MemoryRegion *root)
{
    drop_pieces(s, root);
    memory_region_del_subregion(root, &s->pci);
    memory_region_del_subregion(root, &s->through);
}

void pam_unmap(Pam *p)
{
    memory_region_transaction_begin();
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        unmap_segment(&p->segments[i], p->root);
    }
    unmap_segment(&p->vga, p->root);
    memory_region_transaction_commit();
}

static void finalize_segment(PamSegment *s)
{
    g_ptr_array_free(s->pieces, TRUE);
    memory_region_finalize(&s->pci);
    memory_region_finalize(&s->through);
}

void pam_finalize(Pam *p)
{
    if (!p->made) {
        return;
    }
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        finalize_segment(&p->segments[i]);
    }
    finalize_segment(&p->vga);
    address_space_free(p->pci_as);
    address_space_free(p->ram_as);
    memory_region_finalize(&p->ram);
    memory_region_finalize(&p->ram_root);
    p->made = false;
}
