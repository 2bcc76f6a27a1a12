/* From one block to the next: what the run loop does inline. */
#pragma once

#include "engine/accel/soft/soft-priv.h"

static inline unsigned soft_tlb_set_now(const SoftCpu *c)
{
    return ((c->cpl + 1u) >> 2) | ((c->flags >> 17) & SOFT_TLB_AC);
}

static inline uint32_t soft_mode_word(const SoftCpu *c)
{
    uint32_t mode;

    memcpy(&mode, &c->mode, sizeof(mode));
    return mode;
}

static inline bool soft_block_good(const SoftBlock *b)
{
    return __atomic_load_n(&b->page->generation, __ATOMIC_ACQUIRE) == b->generation;
}

static inline uint64_t soft_code_linear(const SoftCpu *c)
{
    return c->mode.long_mode ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
}

/* The translation of the page that code is fetched from is gone: what follows may be elsewhere. */
static inline bool soft_code_dropped(const SoftCpu *c)
{
    uint64_t linear = soft_code_linear(c);

    return c->tlb_now[SOFT_FETCH][(linear >> 12) & (SOFT_TLB_SIZE - 1)].tag !=
           (linear & ~(SOFT_PAGE - 1));
}

/* A handler ends its block in the middle, after its instruction. */
static inline void soft_end_early(SoftCpu *c, const SoftInsn *i)
{
    unsigned left = c->block->n - (unsigned)(i - c->block->insns) - 1;

    c->budget += left;
    c->icount -= left;
    soft_end_at_next(c, i);
}

/* Whether `b` is the block at c->rip: its host address is where the TLB says the code is now. */
static inline bool soft_block_follows(const SoftCpu *c, const SoftBlock *b, const uint8_t *host,
                                      uint32_t mode)
{
    return b && b->host == host && b->mode == mode && soft_block_good(b) &&
           (c->mode.long_mode || c->rip + b->bytes - 1 <= c->seg[X86_CS].limit);
}

static inline unsigned soft_recent_index(uint64_t linear)
{
    return (unsigned)(linear ^ linear >> SOFT_RECENT_BITS) & ((1u << SOFT_RECENT_BITS) - 1);
}

/* The block at c->rip, which has often been there before. */
static inline SoftBlock *soft_block_next(SoftCpu *c)
{
    uint64_t linear = soft_code_linear(c);
    const SoftTlbEntry *e;

    c->tlb_now = c->tlb[soft_tlb_set_now(c)];
    e = &c->tlb_now[SOFT_FETCH][(linear >> 12) & (SOFT_TLB_SIZE - 1)];
    if (SOFT_LIKELY(e->tag == (linear & ~(SOFT_PAGE - 1)))) {
        SoftBlock *b = c->recent[soft_recent_index(linear)];

        if (SOFT_LIKELY(
                soft_block_follows(c, b, (const uint8_t *)(linear + e->host), soft_mode_word(c)))) {
            return b;
        }
    }
    return soft_block_find(c, linear);
}
