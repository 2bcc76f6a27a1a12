/*
 * Segments of the first MiB that show RAM or PCI, for reads and writes apart ("programmable
 * attribute map" of Intel's memory controllers): how they are mapped. Which registers say so is the
 * controller's.
 *
 * A segment's mode has two bits:
 *   PAM_READ PAM_WRITE  reads   writes
 *      0        0       PCI     PCI
 *      1        0       RAM     PCI      so ROM copied to RAM is write-protected
 *      0        1       PCI     RAM      how firmware copies a ROM over itself
 *      1        1       RAM     RAM
 * What the PCI side has there is looked up when a segment becomes split: ROM is read (and executed)
 * at full speed, a BAR moved below 1 MiB afterwards is not seen in it until the next change.
 *
 * Engine lock held, all of it.
 */
#pragma once

#include "engine/memory/memory.h"

enum { PAM_READ = 1 << 0, PAM_WRITE = 1 << 1 };
enum { PAM_SEGMENTS = 13 }; /* 0: 64 KiB from 0xf0000; 1 …: 16 KiB each from 0xc0000 on */

#define PAM_LEGACY_VGA 0xa0000
#define PAM_END        0x100000

typedef struct Pam Pam;

typedef struct PamSegment {
    hwaddr addr;
    uint64_t size;
    uint8_t mode;     /* as mapped */
    MemoryRegion pci; /* alias of the PCI space */
    /* I/O below both: where the PCI side has nothing, RAM is not to be seen either. */
    MemoryRegion through;
    GPtrArray *pieces; /* what a split segment shows */
    Pam *pam;
} PamSegment;

struct Pam {
    Object *owner;
    MemoryRegion *root;         /* what processors and devices see */
    AddressSpace *pci_as;       /* the PCI side alone */
    AddressSpace *ram_as;       /* the RAM side alone */
    MemoryRegion ram_root, ram; /* what the board mapped below 1 MiB */
    PamSegment segments[PAM_SEGMENTS];
    PamSegment vga; /* 0xa0000 … 0xbffff: PCI, or all RAM while SMRAM is open */
    bool made;
};

/* Maps all segments as PCI. `pci` is the PCI side; the RAM side is the first MiB of `ram` from
 * `offset` on. */
void pam_init(Pam *p, Object *owner, MemoryRegion *root, MemoryRegion *pci, MemoryRegion *ram,
              hwaddr offset);
/* Inside a transaction. */
void pam_set(Pam *p, unsigned segment, uint8_t mode);
void pam_open_vga(Pam *p, bool open);
void pam_unmap(Pam *p);    /* out of the address space, while views may still show it */
void pam_finalize(Pam *p); /* when nobody looks any more; a zeroed one is fine */
