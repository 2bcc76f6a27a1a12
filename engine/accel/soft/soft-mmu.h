/* Between soft-mmu.c, soft-walk.c and soft-phys.c. */
#pragma once

#include "engine/accel/soft/soft-priv.h"

typedef struct SoftPage {
    uint64_t paddr; /* of the 4 KiB around the linear address */
    uint8_t bits;   /* of the page that maps it: 12, 21, 22 or 30 */
    bool global;
} SoftPage;
/* 0, or a page fault's error code; bit 31 is set when the page is not present. Sets A and D. */
uint32_t soft_walk(SoftCpu *c, uint64_t linear, unsigned access, bool user, bool implicit,
                   SoftPage *out);

/* The four PDPTEs that CR3 names; false: reserved bits are set. */
bool soft_read_pdptes(SoftCpu *c, uint64_t cr3, uint64_t out[4]);

/* Physical accesses. len 1..8; the address has the A20 mask applied. */
uint64_t soft_phys_load(SoftCpu *c, uint64_t paddr, unsigned len);
void soft_phys_store(SoftCpu *c, uint64_t paddr, uint64_t value, unsigned len);
/* Host address of `len` bytes to read in the range of memory that was used last, NULL when they are
 * elsewhere. */
static inline const uint8_t *soft_phys_near(const SoftCpu *c, uint64_t paddr, unsigned len)
{
    const FlatRange *r = c->memory_cache.range;

    if (c->in_rcu && r && c->memory_cache.generation == c->view_generation && paddr >= r->addr &&
        paddr <= r->last && r->last - paddr >= len - 1 && r->ram && r->kind != MEMORY_ROM_DEVICE) {
        return r->ram->host + r->offset + (paddr - r->addr);
    }
    return NULL;
}
/* Replaces old by new_ in a paging entry; false: it is not `old` any more. */
bool soft_phys_or(SoftCpu *c, uint64_t paddr, uint64_t old, uint64_t new_, unsigned len);
/* Host address of a whole page of RAM for an access, NULL when it is none. */
uint8_t *soft_phys_page(SoftCpu *c, uint64_t paddr, unsigned access, RamBlock **ram);
