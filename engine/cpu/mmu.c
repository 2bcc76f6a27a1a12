/*
 * Guest-virtual to guest-physical, as the paging structures stand now: for debuggers and scripts.
 *
 * Intel SDM volume 3A chapter "Paging": 32-bit paging with PSE and PSE-36, PAE, 4-level. Nothing is
 * set or cached, access rights are not judged. A walk is at most four reads, whatever the guest has
 * put into its tables; a table that is not in RAM ends it.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/rcu.h"
#include "engine/cpu/cpu.h"

#define CR0_PG   (UINT64_C(1) << 31)
#define CR4_PSE  (UINT64_C(1) << 4)
#define CR4_PAE  (UINT64_C(1) << 5)
#define CR4_LA57 (UINT64_C(1) << 12)
#define EFER_LMA (UINT64_C(1) << 10)

#define PTE_P    UINT64_C(1)
#define PTE_PS   (UINT64_C(1) << 7)
#define PTE_ADDR UINT64_C(0x000ffffffffff000) /* bits 51:12 */

typedef struct Walk {
    VCpu *cpu;
    uint64_t vaddr;
    GError **error;
} Walk;

static bool read_entry(const Walk *w, const char *level, uint64_t addr, unsigned size,
                       uint64_t *entry)
{
    uint64_t len = size;
    const void *p;

    *entry = 0;
    rcu_enter();
    p = address_space_translate_ram(w->cpu->memory, addr, &len, false);
    if (p && len >= size) {
        memcpy(entry, p, size);
    } else {
        p = NULL;
    }
    rcu_leave();
    if (!p) {
        g_autofree char *what = address_space_describe(w->cpu->memory, addr);

        return error_set(w->error, ENGINE_ERROR_INVALID,
                         "%#" G_GINT64_MODIFIER
                         "x is not mapped: its %s entry at %#" G_GINT64_MODIFIER
                         "x is not in RAM (%s)",
                         w->vaddr, level, addr, what);
    }
    if (!(*entry & PTE_P)) {
        return error_set(w->error, ENGINE_ERROR_INVALID,
                         "%#" G_GINT64_MODIFIER
                         "x is not mapped: its %s entry at %#" G_GINT64_MODIFIER
                         "x is not present (%#" G_GINT64_MODIFIER "x)",
                         w->vaddr, level, addr, *entry);
    }
    return true;
}

static bool walk_32(const Walk *w, const X86CPUState *s, uint64_t *paddr)
{
    uint32_t va = (uint32_t)w->vaddr;
    uint64_t e;

    if (!read_entry(w, "page directory", (s->cr3 & 0xfffff000) + (va >> 22) * 4, 4, &e)) {
        return false;
    }
    if ((e & PTE_PS) && (s->cr4 & CR4_PSE)) {
        /* PSE-36: bits 20:13 are bits 39:32 of the address. */
        *paddr = (e & 0xffc00000) | ((e >> 13 & 0xff) << 32) | (va & 0x3fffff);
        return true;
    }
    if (!read_entry(w, "page table", (e & 0xfffff000) + (va >> 12 & 0x3ff) * 4, 4, &e)) {
        return false;
    }
    *paddr = (e & 0xfffff000) | (va & 0xfff);
    return true;
}

/* The levels that PAE and 4-level paging share: directory and table. */
static bool walk_directory(const Walk *w, uint64_t directory, uint64_t *paddr)
{
    uint64_t va = w->vaddr, e;

    if (!read_entry(w, "page directory", directory + (va >> 21 & 0x1ff) * 8, 8, &e)) {
        return false;
    }
    if (e & PTE_PS) {
        *paddr = (e & PTE_ADDR & ~UINT64_C(0x1fffff)) | (va & 0x1fffff);
        return true;
    }
    if (!read_entry(w, "page table", (e & PTE_ADDR) + (va >> 12 & 0x1ff) * 8, 8, &e)) {
        return false;
    }
    *paddr = (e & PTE_ADDR) | (va & 0xfff);
    return true;
}

static bool walk_pae(const Walk *w, const X86CPUState *s, uint64_t *paddr)
{
    uint64_t e;

    if (!read_entry(w, "page directory pointer", (s->cr3 & 0xffffffe0) + (w->vaddr >> 30 & 3) * 8,
                    8, &e)) {
        return false;
    }
    return walk_directory(w, e & PTE_ADDR, paddr);
}

static bool walk_4level(const Walk *w, const X86CPUState *s, uint64_t *paddr)
{
    uint64_t va = w->vaddr, e;

    if ((uint64_t)((int64_t)(va << 16) >> 16) != va) {
        return error_set(w->error, ENGINE_ERROR_INVALID,
                         "%#" G_GINT64_MODIFIER "x is not a canonical address", va);
    }
    if (!read_entry(w, "PML4", (s->cr3 & PTE_ADDR) + (va >> 39 & 0x1ff) * 8, 8, &e)) {
        return false;
    }
    if (e & PTE_PS) {
        return error_set(w->error, ENGINE_ERROR_INVALID,
                         "%#" G_GINT64_MODIFIER
                         "x is not mapped: its PML4 entry has the reserved bit 7 set",
                         va);
    }
    if (!read_entry(w, "page directory pointer", (e & PTE_ADDR) + (va >> 30 & 0x1ff) * 8, 8, &e)) {
        return false;
    }
    if (e & PTE_PS) {
        *paddr = (e & PTE_ADDR & ~UINT64_C(0x3fffffff)) | (va & 0x3fffffff);
        return true;
    }
    return walk_directory(w, e & PTE_ADDR, paddr);
}

bool cpu_translate(VCpu *cpu, uint64_t vaddr, uint64_t *paddr, GError **error)
{
    const X86CPUState *s = cpu->state;
    Walk w = { cpu, vaddr, error };

    if (!cpu_fetch_state(cpu, X86_STATE_SYSTEM, error)) {
        return false;
    }
    if (!(s->cr0 & CR0_PG)) {
        if (vaddr > UINT32_MAX) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "%#" G_GINT64_MODIFIER
                             "x is above 4 GiB, which an unpaged CPU cannot reach",
                             vaddr);
        }
        *paddr = vaddr;
        return true;
    }
    if ((s->efer & EFER_LMA) && (s->cr4 & CR4_PAE)) {
        if (s->cr4 & CR4_LA57) {
            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "cpu %d uses 5-level paging (CR4.LA57), which is not translated here",
                             cpu->index);
        }
        return walk_4level(&w, s, paddr);
    }
    if (vaddr > UINT32_MAX) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%#" G_GINT64_MODIFIER "x is above 4 GiB and cpu %d is not in long mode",
                         vaddr, cpu->index);
    }
    return s->cr4 & CR4_PAE ? walk_pae(&w, s, paddr) : walk_32(&w, s, paddr);
}

/* Calls fn for each piece of [vaddr, vaddr+len) that is contiguous in physical memory. */
static bool for_each_page(VCpu *cpu, uint64_t vaddr, uint64_t len, uint8_t *buf, GError **error,
                          bool (*fn)(VCpu *, uint64_t, uint8_t *, uint64_t, GError **))
{
    uint64_t end;

    if (len > 0 && __builtin_add_overflow(vaddr, len - 1, &end)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%#" G_GINT64_MODIFIER "x + %#" G_GINT64_MODIFIER
                         "x wraps around the address space",
                         vaddr, len);
    }
    while (len > 0) {
        uint64_t n = MIN(len, 0x1000 - (vaddr & 0xfff)), paddr;

        if (!cpu_translate(cpu, vaddr, &paddr, error) || !fn(cpu, paddr, buf, n, error)) {
            return false;
        }
        vaddr += n;
        buf += n;
        len -= n;
    }
    return true;
}

static bool read_piece(VCpu *cpu, uint64_t paddr, uint8_t *buf, uint64_t n, GError **error)
{
    if (address_space_read(cpu->memory, paddr, MEMTXATTRS_DEBUG, buf, n) != MEMTX_OK) {
        g_autofree char *what = address_space_describe(cpu->memory, paddr);

        return error_set(error, ENGINE_ERROR_INVALID,
                         "cannot read %" G_GUINT64_FORMAT " bytes at physical %#" G_GINT64_MODIFIER
                         "x (%s)",
                         n, paddr, what);
    }
    if (cpu->ops && cpu->ops->hide_breakpoints) {
        cpu->ops->hide_breakpoints(cpu, paddr, buf, n);
    }
    return true;
}

static bool write_piece(VCpu *cpu, uint64_t paddr, uint8_t *buf, uint64_t n, GError **error)
{
    if (address_space_write_rom(cpu->memory, paddr, buf, n) != MEMTX_OK) {
        g_autofree char *what = address_space_describe(cpu->memory, paddr);

        return error_set(error, ENGINE_ERROR_INVALID,
                         "cannot write %" G_GUINT64_FORMAT " bytes at physical %#" G_GINT64_MODIFIER
                         "x (%s)",
                         n, paddr, what);
    }
    return true;
}

bool cpu_read_virtual(VCpu *cpu, uint64_t vaddr, void *buf, uint64_t len, GError **error)
{
    return for_each_page(cpu, vaddr, len, buf, error, read_piece);
}

bool cpu_write_virtual(VCpu *cpu, uint64_t vaddr, const void *buf, uint64_t len, GError **error)
{
    return for_each_page(cpu, vaddr, len, (uint8_t *)(uintptr_t)buf, error, write_piece);
}
