/*
 * Paging structures: SDM 3A chapter 4, all modes, with accessed and dirty bits, access rights and
 * reserved bits. No TLB here.
 *
 * PDPTEs of PAE paging are kept from the load of CR3 on; a restored state reads them at its first
 * walk.
 */
#include "engine/accel/soft/soft-priv.h"

#include "engine/accel/soft/soft-mmu.h"

enum {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_G = 1 << 8
};
#define PTE_NX   (UINT64_C(1) << 63)
#define PTE_ADDR UINT64_C(0x000ffffffffff000)

/* An entry: where it is, what it held when it was read. */
typedef struct Entry {
    uint64_t paddr, value;
    unsigned size; /* 4 or 8 */
} Entry;

static inline Entry read_entry(SoftCpu *c, uint64_t paddr, unsigned size)
{
    const uint8_t *p;

    paddr &= c->a20_mask;
    p = soft_phys_near(c, paddr, size);
    return (Entry){ paddr, p ? soft_host_load(p, size) : soft_phys_load(c, paddr, size), size };
}

/* False when somebody changed the entry meanwhile: the walk starts again. */
static bool set_bits(SoftCpu *c, const Entry *e, uint64_t bits)
{
    if ((e->value & bits) == bits) {
        return true;
    }
    return soft_phys_or(c, e->paddr, e->value, e->value | bits, e->size);
}

static uint64_t bits_above(unsigned lowest, unsigned highest)
{
    return lowest > highest ? 0 : (~UINT64_C(0) << lowest) & (~UINT64_C(0) >> (63 - highest));
}

/* What a walk found, before rights are looked at. */
typedef struct Walk {
    Entry entries[4];
    unsigned n;
    unsigned page_bits;
    uint64_t base;
    bool user, write, nx;
    bool missing, reserved;
} Walk;

static void add_rights(Walk *w, uint64_t v)
{
    w->user &= (v & PTE_U) != 0;
    w->write &= (v & PTE_W) != 0;
    w->nx |= (v & PTE_NX) != 0;
}

static void walk_32(SoftCpu *c, uint32_t linear, Walk *w)
{
    Entry pde = read_entry(c, (c->cr3 & 0xfffff000) | (linear >> 22) << 2, 4);
    uint64_t v = pde.value;

    w->entries[w->n++] = pde;
    if (!(v & PTE_P)) {
        w->missing = true;
        return;
    }
    add_rights(w, v);
    if ((v & PTE_PS) && (c->cr4 & CR4_PSE)) {
        /* PSE-36: address bits 32..39 in 13..20; those above the physical width are reserved. */
        unsigned wide = MIN(c->phys_bits, 40);

        w->page_bits = 22;
        w->base = (v & 0xffc00000) | (v >> 13 & 0xff) << 32;
        w->reserved = (v & (1 << 21)) || w->base >> wide;
        return;
    }
    Entry pte = read_entry(c, (v & 0xfffff000) | (linear >> 12 & 0x3ff) << 2, 4);
    w->entries[w->n++] = pte;
    if (!(pte.value & PTE_P)) {
        w->missing = true;
        return;
    }
    add_rights(w, pte.value);
    w->page_bits = 12;
    w->base = pte.value & 0xfffff000;
}

bool soft_read_pdptes(SoftCpu *c, uint64_t cr3, uint64_t out[4])
{
    bool good = true;

    for (unsigned i = 0; i < 4; i++) {
        out[i] = read_entry(c, (cr3 & 0xffffffe0) + i * 8, 8).value;
        good &= !(out[i] & PTE_P) || !(out[i] & (bits_above(c->phys_bits, 63) | 0x1e6));
    }
    return good;
}

static Entry pae_entry(SoftCpu *c, unsigned index)
{
    if (c->pdpte_cr3 != c->cr3) {
        soft_read_pdptes(c, c->cr3, c->pdpte);
        c->pdpte_cr3 = c->cr3;
    }
    return (Entry){ .value = c->pdpte[index] };
}

static void walk_64(SoftCpu *c, uint64_t linear, Walk *w)
{
    bool longs = c->efer & EFER_LMA;
    uint64_t high = bits_above(c->phys_bits, 51) | (c->efer & EFER_NXE ? 0 : PTE_NX);
    uint64_t table = c->cr3 & PTE_ADDR;

    for (unsigned shift = longs ? 39 : 30;; shift -= 9) {
        bool pdpte = !longs && shift == 30;
        unsigned index = linear >> shift & (pdpte ? 3 : 511);
        Entry e = pdpte ? pae_entry(c, index) : read_entry(c, table + index * 8, 8);
        uint64_t v = e.value;

        w->entries[w->n++] = e;
        if (!(v & PTE_P)) {
            w->missing = true;
            return;
        }
        if (pdpte) {
            w->n--; /* has no accessed bit, gives no rights */
            w->reserved |= (v & (bits_above(c->phys_bits, 63) | 0x1e6)) != 0;
            if (w->reserved) {
                return;
            }
            table = v & PTE_ADDR;
            continue;
        }
        w->reserved |= (v & (longs ? high : high | bits_above(52, 62))) != 0;
        if (shift == 39) {
            w->reserved |= (v & PTE_PS) != 0;
        }
        if (w->reserved) {
            return;
        }
        add_rights(w, v);
        if (shift == 12 || (v & PTE_PS)) {
            w->page_bits = shift;
            w->base = v & PTE_ADDR & ~((UINT64_C(1) << shift) - 1);
            if (shift > 12) {
                w->reserved = v & bits_above(13, shift - 1);
            }
            return;
        }
        table = v & PTE_ADDR;
    }
}

/* 0 or the error code of a page fault. */
static uint32_t check_rights(const SoftCpu *c, const Walk *w, unsigned access, bool user,
                             bool implicit)
{
    uint32_t code = (access == SOFT_WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0);
    bool nx_on = (c->cr4 & CR4_PAE) && (c->efer & EFER_NXE);

    if (access == SOFT_FETCH && (nx_on || (c->cr4 & CR4_SMEP))) {
        code |= PF_FETCH;
    }
    if (w->missing) {
        return code | 0x80000000; /* an error code of 0 is a fault too */
    }
    if (w->reserved) {
        return code | PF_PRESENT | PF_RESERVED;
    }
    if (user) {
        if (!w->user || (access == SOFT_WRITE && !w->write)) {
            return code | PF_PRESENT;
        }
    } else if (access == SOFT_WRITE) {
        if (!w->write && (c->cr0 & CR0_WP)) {
            return code | PF_PRESENT;
        }
    } else if (access == SOFT_FETCH && w->user && (c->cr4 & CR4_SMEP)) {
        return code | PF_PRESENT;
    }
    if (!user && access != SOFT_FETCH && w->user && (c->cr4 & CR4_SMAP) &&
        (implicit || !(c->flags & FLAG_AC))) {
        return code | PF_PRESENT;
    }
    if (access == SOFT_FETCH && w->nx && nx_on) {
        return code | PF_PRESENT;
    }
    return 0;
}

uint32_t soft_walk(SoftCpu *c, uint64_t linear, unsigned access, bool user, bool implicit,
                   SoftPage *out)
{
    if (!(c->cr0 & CR0_PG)) {
        *out = (SoftPage){ .paddr = linear & ~(SOFT_PAGE - 1) & c->a20_mask, .bits = 12 };
        return 0;
    }
    for (;;) {
        Walk w = { .user = true, .write = true };
        uint32_t code;
        bool again = false;

        if (c->cr4 & CR4_PAE) {
            walk_64(c, linear, &w);
        } else {
            walk_32(c, (uint32_t)linear, &w);
        }
        code = check_rights(c, &w, access, user, implicit);
        if (code) {
            return code;
        }
        for (unsigned i = 0; i < w.n && !again; i++) {
            bool leaf = i == w.n - 1;

            again = !set_bits(c, &w.entries[i], PTE_A | (leaf && access == SOFT_WRITE ? PTE_D : 0));
        }
        if (again) {
            continue; /* another processor wrote to the tables */
        }
        *out = (SoftPage){
            .paddr = (w.base | (linear & ((UINT64_C(1) << w.page_bits) - 1) & ~(SOFT_PAGE - 1))) &
                     c->a20_mask,
            .bits = (uint8_t)w.page_bits,
            .global = (c->cr4 & CR4_PGE) && (w.entries[w.n - 1].value & PTE_G),
        };
        return 0;
    }
}
