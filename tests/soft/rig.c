/* See rig.h. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/rcu.h"
#include "engine/memory/memory.h"

#define RAM_SIZE  (UINT64_C(1) << 20)
#define PML4      0x1000
#define CODE_PHYS 0x10000
#define DATA_PHYS 0x20000
enum { P = 1, W = 2, U = 4 };

struct SoftRig {
    SoftCpu *c;
    MemoryRegion root, ram;
    AddressSpace *as;
    uint8_t *host;
    SoftBlock *block;
};

static void put(SoftRig *r, uint64_t addr, uint64_t v)
{
    memcpy(r->host + addr, &v, sizeof(v));
}

/* Pages of its own for each of the two regions; both are in the first GiB. */
static void map_page(SoftRig *r, uint64_t table, uint64_t linear, uint64_t phys, unsigned rights)
{
    put(r, PML4, 0x2000 | P | W | U);
    put(r, 0x2000, 0x3000 | P | W | U);
    put(r, 0x3000 + (linear >> 21 & 511) * 8, table | P | W | U);
    put(r, table + (linear >> 12 & 511) * 8, phys | P | U | rights);
}

SoftRig *soft_rig_new(void)
{
    SoftRig *r = g_new0(SoftRig, 1);
    SoftCpu *c;

    engine_lock();
    memory_region_init(&r->root, NULL, "root", MEMORY_REGION_MAX);
    if (!memory_region_init_ram(&r->ram, NULL, "ram", RAM_SIZE, NULL)) {
        abort();
    }
    memory_region_add_subregion(&r->root, 0, &r->ram);
    r->as = address_space_new(ADDRESS_SPACE_MEMORY, &r->root, "memory");
    engine_unlock();
    r->host = memory_region_get_ram_ptr(&r->ram);
    map_page(r, 0x4000, CODE_ADDR, CODE_PHYS, 0);
    map_page(r, 0x5000, DATA_ADDR, DATA_PHYS, W);
    map_page(r, 0x5000, DATA_ADDR + 4096, DATA_PHYS + 4096, W);
    memset(r->host + CODE_PHYS, 0xcc, CODE_SIZE);
    r->block = g_malloc0(sizeof(SoftBlock) + 2 * sizeof(SoftInsn));

    c = r->c = soft_cpu_new(NULL);
    c->memory = r->as;
    c->cr0 = 0x80050033;
    c->cr3 = PML4;
    c->cr4 = 0x406f0;
    c->xcr0 = 7;
    c->efer = 0xd01;
    c->cpl = 3;
    c->flat_segments = true;
    for (unsigned i = X86_ES; i <= X86_GS; i++) {
        x86_segment_set_flat(&c->seg[i], 0x2b, false, false, 3);
    }
    c->seg[X86_GS].base = GS_BASE;
    soft_rcu_enter(c);
    soft_tlb_flush(c, true);
    return r;
}

void soft_rig_free(SoftRig *r)
{
    soft_rcu_leave(r->c);
    soft_cpu_free(r->c);
    engine_lock();
    address_space_free(r->as);
    memory_region_del_subregion(&r->root, &r->ram);
    memory_region_finalize(&r->ram);
    memory_region_finalize(&r->root);
    engine_unlock();
    g_free(r->block);
    g_free(r);
}

SoftCpu *soft_rig_cpu(SoftRig *r)
{
    return r->c;
}

/* Behind the instruction. */
static void end_of_block(SoftCpu *c, const SoftInsn *i)
{
    c->rip += i->off;
}

static void set_mode(SoftCpu *c, bool wide)
{
    c->mode = (SoftMode){ .code_size = 2, .stack_size = wide ? 3 : 2, .long_mode = wide, .cpl = 3 };
    x86_segment_set_flat(&c->seg[X86_CS], wide ? 0x33 : 0x23, true, wide, 3);
    soft_tlb_select(c);
}

void soft_rig_run(SoftRig *r, const Case *t, Outcome *o)
{
    SoftCpu *c = r->c;
    SoftInsn *insn = r->block->insns;
    bool ends;

    set_mode(c, t->wide);
    memcpy(r->host + DATA_PHYS, t->data, DATA_SIZE);
    memset(r->host + CODE_PHYS + (CODE_ENTRY - CODE_ADDR), 0xcc, CODE_MAX);
    memcpy(r->host + CODE_PHYS + (CODE_ENTRY - CODE_ADDR), t->code, t->len);
    memcpy(c->gpr, t->in.gpr, sizeof(t->in.gpr));
    if (t->has_fpu) {
        memcpy(c->fpu, t->fpu, FPU_SIZE);
        soft_fpu_normalise(c);
    }
    c->rip = CODE_ENTRY;
    c->flags = 0;
    soft_set_rflags(c, t->in.flags, UINT64_MAX);
    o->vector = -1;
    o->error = 0;
    o->cr2 = 0;

    *r->block = (SoftBlock){ .mode = UINT32_MAX, .n = 1, .bytes = t->len };
    soft_decode(&c->mode, t->code, sizeof(t->code), &insn[0], &ends);
    insn[1] = (SoftInsn){ .fn = end_of_block, .off = insn[0].len };
    if (sigsetjmp(c->escape, 0) == 0) {
        /* A repeated instruction may stop in between, but goes on when asked again. */
        do {
            c->budget = 1 << 20;
            soft_execute_block(c, r->block);
        } while (c->rip == CODE_ENTRY && (insn[0].flags & (SOFT_I_REP | SOFT_I_REPNE)));
    } else {
        o->vector = c->raised.vector;
        o->error = c->raised.has_error ? c->raised.error : 0;
        o->cr2 = c->cr2;
    }
    memcpy(o->regs.gpr, c->gpr, sizeof(o->regs.gpr));
    o->regs.rip = c->rip;
    o->regs.flags = (uint32_t)soft_rflags(c);
    memcpy(o->data, r->host + DATA_PHYS, DATA_SIZE);
    memcpy(o->fpu, c->fpu, FPU_SIZE);
}
