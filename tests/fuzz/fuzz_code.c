/*
 * Raw bytes as code for the software CPU, in every mode, over descriptor tables, page tables, a TSS
 * and registers that the first bytes damage. The process survives, and afterwards the CPU is one:
 * nothing half-done, a mode that follows from its registers, a state that can be saved and loaded.
 */
#include <string.h>

#include "engine/accel/soft/soft-translate.h"
#include "engine/core/lock.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/soft_guest.h"

#define ROM_ADDR    UINT64_C(0x200000)
#define DEVICE_ADDR UINT64_C(0x300000)
#define DAMAGES     24
#define SLICES      4
#define BUDGET      200

static MemoryRegion rom, device;
static FuzzInput *now; /* what devices answer */
static X86CPUState *first, *second;
static SoftTranslator *translator; /* used by some inputs */

static uint64_t device_read(void *opaque, hwaddr addr, unsigned size)
{
    return now ? fuzz_odd(now) : 0;
}

static void device_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
}

static const MemoryRegionOps device_ops = { .read = device_read, .write = device_write };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    MemoryRegion *root;

    guest_setup();
    translator = soft_translator_new(0);
    root = address_space_root(as);
    FUZZ_CHECK(memory_region_init_rom(&rom, NULL, "rom", 0x3000, NULL));
    memory_region_add_subregion(root, ROM_ADDR, &rom);
    memory_region_init_io(&device, NULL, &device_ops, NULL, "device", 0x3000);
    memory_region_add_subregion(root, DEVICE_ADDR, &device);
    memset(memory_region_get_ram_ptr(&rom), 0x90, 0x3000);
    first = g_aligned_alloc0(1, sizeof(X86CPUState), 64);
    second = g_aligned_alloc0(1, sizeof(X86CPUState), 64);
    return 0;
}

/* An address that means something to the guest. */
static uint64_t place(FuzzInput *in)
{
    static const uint64_t places[] = { GDT,    IDT,    TSS,   TSS_B, LDT,      CODE,       HANDLER,
                                       STACK0, STACK3, PAGES, RAM,   ROM_ADDR, DEVICE_ADDR };
    unsigned n = fuzz_u8(in);

    return n < 200 ? places[n % G_N_ELEMENTS(places)] + (uint64_t)(int8_t)fuzz_u8(in)
                   : fuzz_odd(in);
}

static void damage_tables(FuzzInput *in)
{
    static const unsigned tables[] = { GDT,           IDT, TSS, TSS_B, LDT, PAGES, PAGES + 0x1000,
                                       PAGES + 0x2000 };
    unsigned at = tables[fuzz_u8(in) % G_N_ELEMENTS(tables)] + fuzz_u8(in) * 2;

    switch (fuzz_u8(in) & 3) {
    case 0:
        put(at, fuzz_odd(in), 8);
        break;
    case 1:
        put(at, fuzz_u8(in), 1);
        break;
    case 2: /* an entry that names a place */
        put(at & ~7u, (place(in) & ~UINT64_C(0xfff)) | fuzz_u8(in), 8);
        break;
    default:
        put(at, get(at, 8) ^ UINT64_C(1) << (fuzz_u8(in) & 63), 8);
        break;
    }
}

static void damage_segment(FuzzInput *in)
{
    X86Segment *s = &c->seg[fuzz_u8(in) % X86_SEGS];

    switch (fuzz_u8(in) % 5) {
    case 0:
        s->limit = (uint32_t)fuzz_odd(in);
        break;
    case 1:
        s->base = mode == LONG ? fuzz_odd(in) : (uint32_t)place(in);
        break;
    case 2:
        s->type = fuzz_u8(in) & 15;
        break;
    case 3:
        s->unusable = true;
        break;
    default:
        s->selector = fuzz_u16(in);
        break;
    }
}

static void damage(FuzzInput *in)
{
    switch (fuzz_u8(in) % 9) {
    case 0:
    case 1:
        damage_tables(in);
        break;
    case 2:
        damage_segment(in);
        break;
    case 3:
        c->gpr[fuzz_u8(in) & 15] = fuzz_odd(in);
        break;
    case 4:
        c->gpr[fuzz_u8(in) & 15] = place(in);
        break;
    case 5: /* handlers that return */
        mem[HANDLER + 16 * fuzz_u8(in)] = 0xcf;
        break;
    case 6:
        soft_set_rflags(c, fuzz_u32(in), 0x254fd5);
        break;
    case 7:
        switch (fuzz_u8(in) & 7) {
        case 0:
            c->cr3 = place(in) & 0xfffffff000;
            break;
        case 1:
            c->cr4 ^= (uint64_t[]){ CR4_PSE,      CR4_SMEP, CR4_SMAP, CR4_OSFXSR | CR4_OSXSAVE,
                                    CR4_FSGSBASE, CR4_UMIP, CR4_PGE,  CR4_TSD }[fuzz_u8(in) & 7];
            break;
        case 2:
            c->cr0 ^= (uint64_t[]){ CR0_WP, CR0_AM, CR0_TS, CR0_EM }[fuzz_u8(in) & 3];
            break;
        case 3:
            c->gdt.limit = fuzz_u16(in);
            break;
        case 4:
            c->idt.limit = fuzz_u16(in);
            break;
        case 5:
            c->gdt.base = place(in);
            break;
        case 6:
            c->idt.base = place(in);
            break;
        default:
            c->xcr0 = 7;
            c->cr4 |= CR4_OSFXSR | CR4_OSXSAVE | CR4_OSXMMEXCPT;
            memset(c->fpu + 32, fuzz_u8(in), 400);
            c->fpu[24] = fuzz_u8(in);
            c->fpu[25] = fuzz_u8(in);
            soft_fpu_normalise(c);
            break;
        }
        break;
    default:
        c->dr[fuzz_u8(in) & 3] = place(in);
        c->dr7 = 0x400 | (fuzz_u32(in) & 0xffff03ff);
        break;
    }
}

static void legacy_pages(FuzzInput *in)
{
    if (mode == PROT32 || mode == V86) {
        if (fuzz_u8(in) & 1) {
            put(PAGES, 0x87, 4); /* 4 MiB */
            c->cr4 |= CR4_PSE;
        } else {
            put(PAGES, (PAGES + 0x2000) | 1, 8);
            put(PAGES + 0x2000, 0x87, 8);
            c->cr4 |= CR4_PAE;
        }
        c->cr3 = PAGES;
        c->cr0 |= CR0_PG;
    }
}

static int some_vector(void *opaque)
{
    c->irq_line = 0;
    return now ? fuzz_u8(now) : 0x40;
}

static void check(void)
{
    SoftMode was = c->mode;
    uint8_t cpl = c->cpl;

    FUZZ_CHECK(!c->block && !c->in_rcu && !c->exclusive && !c->running);
    FUZZ_CHECK(c->gpr[SOFT_GPR_NONE] == 0);
    FUZZ_CHECK(c->cpl <= 3);
    soft_mode_changed(c);
    FUZZ_CHECK(memcmp(&was, &c->mode, sizeof(was)) == 0 && cpl == c->cpl, "the mode was stale");
    if (c->delivering.active || c->injected.valid) {
        return;
    }
    memset(first, 0, sizeof(*first));
    memset(second, 0, sizeof(*second));
    soft_state_store(c, first);
    soft_state_load(c, first);
    soft_state_store(c, second);
    FUZZ_CHECK(memcmp(first->gpr, second->gpr, sizeof(first->gpr)) == 0);
    FUZZ_CHECK(first->rip == second->rip && first->rflags == second->rflags);
    FUZZ_CHECK(memcmp(first->seg, second->seg, sizeof(first->seg)) == 0);
    for (unsigned i = 0; i < sizeof(first->xsave); i++) {
        FUZZ_CHECK(first->xsave[i] == second->xsave[i], "byte %u of the FPU's area", i);
    }
    FUZZ_CHECK(first->n_msrs == second->n_msrs &&
               memcmp(first->msrs, second->msrs, sizeof(first->msrs)) == 0);
    FUZZ_CHECK(first->mp_state == second->mp_state);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t entries[] = { CODE,         CODE,    CODE,         CODE,
                                        CODE + 0xff8, RAM - 5, ROM_ADDR - 3, DEVICE_ADDR };
    FuzzInput in = { data, size };
    const uint8_t *bytes;
    size_t len = 400;
    unsigned n, how;

    c->apic_base = 0xfee00900;
    c->xcr0 = 1;
    c->cr8 = 0;
    c->a20_mask = ~UINT64_C(0);
    c->nmi_masked = c->nmi_pending = false;
    c->injected.valid = false;
    c->db_pending = 0;
    c->shadow_over = 0;
    c->attention = 0;
    memset(c->dr, 0, sizeof(c->dr));
    begin(fuzz_u8(&in) % MODES, fuzz_u8(&in) & 1 ? 3 : 0);
    how = fuzz_u8(&in);
    c->translator = how & 0x20 ? translator : NULL;
    if (how & 0x80) {
        legacy_pages(&in);
    }
    if (how & 0x40) {
        c->a20_mask = ~(UINT64_C(1) << 20);
    }
    for (n = fuzz_u8(&in) % DAMAGES; n > 0; n--) {
        damage(&in);
    }
    bytes = fuzz_take(&in, &len);
    c->rip = entries[how & 7];
    if (mode != LONG && c->rip > c->seg[X86_CS].limit) {
        c->rip = CODE;
    }
    memcpy(mem + CODE, bytes, MIN(len, 0x700));
    if (c->rip == RAM - 5) {
        memcpy(mem + RAM - 5, bytes, MIN(len, 5));
    } else if (c->rip == CODE + 0xff8) {
        memcpy(mem + CODE + 0xff8, bytes, MIN(len, 64));
    }
    now = &in;
    c->irq_vector = some_vector;
    soft_mode_changed(c);
    soft_debug_changed(c);
    soft_tlb_flush(c, true);
    soft_blocks_flush(c);
    for (unsigned slice = 0; slice < SLICES && !c->triple_fault; slice++) {
        engine_unlock(); /* taken for the vector of an interrupt */
        soft_run(c, BUDGET);
        engine_lock();
        check();
        c->irq_line = slice & 1;
        c->nmi_pending = slice == 2;
        c->halted = false;
    }
    c->irq_line = 0;
    now = NULL;
    return 0;
}
