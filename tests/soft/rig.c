/* See rig.h. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>

#include "engine/accel/soft/soft-translate.h"
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
    RamCodePage page;
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
    r->block = g_malloc0(sizeof(SoftBlock) + (SOFT_BLOCK_MAX + 1) * sizeof(SoftInsn));

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
    g_clear_pointer(&r->c->translator, soft_translator_free);
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

bool soft_rig_translate(SoftRig *r)
{
    r->c->translator = soft_translator_new(0);
    return r->c->translator;
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
    x86_segment_set_flat(&c->seg[X86_CS], wide ? 0x33 : 0x23, true, wide, 3);
    soft_mode_changed(c);
}

/* Decodes the code into the block; false: it is no block. */
static bool fill_block(SoftRig *r, const uint8_t *code, unsigned len, unsigned avail)
{
    SoftCpu *c = r->c;
    SoftBlock *b = r->block;
    unsigned n = 0;
    bool ends = false;

    *b = (SoftBlock){ .host = r->host + CODE_PHYS + (CODE_ENTRY - CODE_ADDR),
                      .page = &r->page,
                      .bytes = (uint16_t)len };
    memcpy(&b->mode, &c->mode, sizeof(b->mode));
    for (unsigned at = 0; at < len; n++) {
        SoftInsn *i = &b->insns[n];

        if (n == SOFT_BLOCK_MAX || ends) {
            return false;
        }
        at += soft_decode(&c->mode, code + at, avail - at, i, &ends);
        i->off = (uint16_t)(at - i->len);
        i->imm += i->flags & SOFT_I_RELATIVE ? i->off : 0;
    }
    b->n = (uint16_t)n;
    b->insns[n] = (SoftInsn){ .fn = end_of_block, .off = (uint16_t)len };
    if (c->translator) {
        soft_translator_flush(c);
        __atomic_store_n(&c->attention, 0, __ATOMIC_SEQ_CST);
    }
    return true;
}

static void execute(SoftRig *r, bool translated)
{
    if (translated && r->c->translator && soft_translated(r->c, r->block)) {
        soft_translated_run(r->c, r->block);
    } else {
        soft_execute_block(r->c, r->block);
    }
}

bool soft_rig_sequence(SoftRig *r, bool wide, const uint8_t *code, unsigned len)
{
    set_mode(r->c, wide);
    memset(r->host + CODE_PHYS + (CODE_ENTRY - CODE_ADDR), 0xcc, 256);
    memcpy(r->host + CODE_PHYS + (CODE_ENTRY - CODE_ADDR), code, len);
    return fill_block(r, code, len, len);
}

void soft_rig_enter(SoftRig *r, const SequenceState *s, bool translated, SequenceState *out)
{
    SoftCpu *c = r->c;

    memcpy(r->host + DATA_PHYS, s->data, DATA_SIZE);
    memcpy(c->gpr, s->gpr, sizeof(s->gpr));
    c->rip = CODE_ENTRY;
    c->flags = s->rflags;
    c->cc_op = s->cc_op;
    c->cc_size = s->cc_size;
    c->cc_dst = s->cc_dst;
    c->cc_src = s->cc_src;
    c->budget = r->block->n; /* once, also of a block that branches to itself */
    c->icount = 1000;
    if (s->cold) {
        soft_tlb_flush(c, true);
    }
    *out = (SequenceState){ .vector = -1 };
    if (sigsetjmp(c->escape, 0) == 0) {
        execute(r, translated);
    } else {
        out->vector = c->raised.vector;
        out->error = c->raised.has_error ? c->raised.error : 0;
        out->cr2 = c->raised.vector == EXC_PF ? c->cr2 : 0;
    }
    __atomic_store_n(&c->attention, 0, __ATOMIC_SEQ_CST);
    memcpy(out->gpr, c->gpr, sizeof(out->gpr));
    out->rip = c->rip;
    out->rflags = (uint32_t)soft_rflags(c);
    out->budget = c->budget;
    out->icount = c->icount;
    memcpy(out->data, r->host + DATA_PHYS, DATA_SIZE);
}

unsigned soft_rig_insns(const SoftRig *r)
{
    return r->block->n;
}

void soft_rig_run(SoftRig *r, const Case *t, Outcome *o)
{
    SoftCpu *c = r->c;
    SoftInsn *insn = r->block->insns;

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

    fill_block(r, t->code, t->len, sizeof(t->code));
    if (sigsetjmp(c->escape, 0) == 0) {
        /* A repeated instruction may stop in between, but goes on when asked again. */
        do {
            c->budget = 1 << 20;
            execute(r, true);
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
