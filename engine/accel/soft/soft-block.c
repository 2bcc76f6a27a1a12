/*
 * Decoded blocks: the cache of one vCPU.
 *
 * A block is found by the host address of its first byte and the mode. It is good while the pages
 * it was decoded from have the generation they had then: whoever writes to decoded code raises it
 * (engine/memory/code-map.c), so that nobody has to look for blocks. What the present block itself
 * overwrites takes effect after the writing instruction: the rest of the block is replaced by end
 * markers (soft_cut_block).
 *
 * An instruction that continues on the next page, or lies in memory that is no RAM, is a block of
 * its own; the latter is decoded each time.
 */
#include <string.h>

#include "engine/accel/soft/soft-block.h"
#include "engine/accel/soft/soft-hooks.h"
#include "engine/accel/soft/soft-log.h"
#include "engine/accel/soft/soft-mmu.h"
#include "engine/accel/soft/soft-translate.h"

#define HASH_BITS   15
#define ARENA_CHUNK (UINT64_C(1) << 20)
#define CHUNKS_MAX  96
#define MODE_SINGLE 0x40000000u /* in a block's mode: one instruction only */
#define MODE_HOOKED 0x20000000u /* some of its instructions may be hooked */
#define INSN_MAX    15

typedef struct SoftBlocks {
    SoftBlock *hash[1 << HASH_BITS];
    uint8_t *chunks[CHUNKS_MAX];
    unsigned n_chunks;  /* in use; more may be allocated */
    uint64_t used;      /* bytes of the last one */
    GPtrArray *rams;    /* referenced while blocks point into them */
    SoftBlock *scratch; /* a block that is not kept, its handler and its bytes */
    SoftExec scratch_orig;
    uint8_t scratch_code[INSN_MAX];
    uint64_t made, flushes;
} SoftBlocks;

struct SoftBlocks *soft_blocks_new(void)
{
    SoftBlocks *b = g_new0(SoftBlocks, 1);

    b->rams = g_ptr_array_new_with_free_func((GDestroyNotify)ram_block_unref);
    b->scratch = g_malloc0(sizeof(SoftBlock) + 2 * sizeof(SoftInsn));
    return b;
}

void soft_blocks_free(struct SoftBlocks *b)
{
    if (!b) {
        return;
    }
    for (unsigned i = 0; i < CHUNKS_MAX; i++) {
        g_free(b->chunks[i]);
    }
    g_ptr_array_unref(b->rams);
    g_free(b->scratch);
    g_free(b);
}

void soft_blocks_flush(SoftCpu *c)
{
    SoftBlocks *b = c->blocks;

    memset(b->hash, 0, sizeof(b->hash));
    b->n_chunks = 0;
    b->used = 0;
    b->flushes++;
    g_ptr_array_set_size(b->rams, 0);
    memset(c->recent, 0, sizeof(c->recent));
    soft_translator_flush(c);
}

void soft_blocks_count(const SoftCpu *c, uint64_t *made, uint64_t *flushes)
{
    *made += __atomic_load_n(&c->blocks->made, __ATOMIC_RELAXED);
    *flushes += __atomic_load_n(&c->blocks->flushes, __ATOMIC_RELAXED);
}

static SoftBlock *arena_alloc(SoftCpu *c, unsigned n, unsigned n_orig)
{
    SoftBlocks *b = c->blocks;
    uint64_t bytes = (sizeof(SoftBlock) + (n + 1) * sizeof(SoftInsn) + n_orig * sizeof(SoftExec) +
                      15) &
                     ~UINT64_C(15);
    SoftBlock *block;

    if (!b->n_chunks || b->used + bytes > ARENA_CHUNK) {
        if (b->n_chunks == CHUNKS_MAX) {
            soft_blocks_flush(c);
        }
        if (!b->chunks[b->n_chunks]) {
            b->chunks[b->n_chunks] = g_malloc(ARENA_CHUNK);
        }
        b->n_chunks++;
        b->used = 0;
    }
    block = (SoftBlock *)(void *)(b->chunks[b->n_chunks - 1] + b->used);
    b->used += bytes;
    memset(block, 0, sizeof(*block));
    if (n_orig) {
        block->orig = (SoftExec *)(void *)&block->insns[n + 1];
    }
    return block;
}

static void keep_ram(SoftBlocks *b, RamBlock *ram)
{
    for (unsigned i = 0; i < b->rams->len; i++) {
        if (g_ptr_array_index(b->rams, i) == ram) {
            return;
        }
    }
    g_ptr_array_add(b->rams, ram_block_ref(ram));
}

static inline unsigned hash_of(const uint8_t *host, uint32_t mode)
{
    uint64_t h = ((uint64_t)(uintptr_t)host ^ (uint64_t)mode << 20) * UINT64_C(0x9e3779b97f4a7c15);

    return (unsigned)(h >> (64 - HASH_BITS));
}

static inline uint32_t mode_of(const SoftCpu *c)
{
    return soft_mode_word(c) | (c->single ? MODE_SINGLE : 0) | (c->hooked ? MODE_HOOKED : 0);
}

/* ---- ends of blocks ------------------------------------------------------------------------ */

/* Behind the last instruction. */
static void exec_end(SoftCpu *c, const SoftInsn *i)
{
    uint64_t next = c->rip + i->off;

    c->rip = c->mode.long_mode ? next : (uint32_t)next;
}

/* In the place of an instruction that must not run from this block any more. */
static void exec_cut(SoftCpu *c, const SoftInsn *i)
{
    unsigned done = (unsigned)(i - c->block->insns);

    c->budget += c->block->n - done;
    c->icount -= c->block->n - done;
    exec_end(c, i);
}

void soft_cut_block(SoftCpu *c)
{
    SoftBlock *b = c->blocks ? c->block : NULL;

    if (!b) {
        return;
    }
    for (unsigned k = (unsigned)(c->insn - b->insns) + 1; k < b->n; k++) {
        b->insns[k].fn = exec_cut;
    }
    /* It must not be entered again. */
    b->mode = UINT32_MAX;
}

/* ---- making -------------------------------------------------------------------------------- */

static void finish_block(SoftBlock *b, unsigned n, unsigned bytes)
{
    b->n = (uint16_t)n;
    b->bytes = (uint16_t)bytes;
    b->insns[n] = (SoftInsn){ .fn = exec_end, .off = (uint16_t)bytes };
}

static void add_offset(SoftInsn *insn, unsigned off)
{
    insn->off = (uint16_t)off;
    if (insn->flags & SOFT_I_RELATIVE) {
        insn->imm += off;
    }
}

/* Puts the hooks in; false when there is none, and nothing changed. */
static bool hook_insns(SoftCpu *c, uint64_t linear, const uint8_t *code, SoftInsn *insns,
                       unsigned n, SoftExec *orig)
{
    bool any = false;

    for (unsigned k = 0; k < n; k++) {
        orig[k] = insns[k].fn;
        if (soft_hooks_match(c, linear + insns[k].off, code + insns[k].off, insns[k].len)) {
            insns[k].fn = soft_exec_hooked;
            any = true;
        }
    }
    return any;
}

/* A page is decoded for the first time: nobody may write to it unseen from now on. */
static RamCodePage *code_page(SoftCpu *c, RamBlock *ram, const uint8_t *host)
{
    RamCodePage *page = ram_block_code_page(ram, (uint64_t)(host - ram->host));

    if (!__atomic_load_n(&page->seen, __ATOMIC_ACQUIRE)) {
        __atomic_store_n(&page->seen, true, __ATOMIC_SEQ_CST);
        soft_shoot_writers(c);
    } else if (!__atomic_load_n(&page->shot, __ATOMIC_ACQUIRE)) {
        soft_shoot_writers(c); /* another vCPU is at it: not to rely on when it is done */
    }
    __atomic_store_n(&page->shot, true, __ATOMIC_RELEASE);
    return page;
}

/* Bytes of code that may be fetched from `rip` on without passing CS's limit. */
static uint64_t bytes_to_limit(const SoftCpu *c)
{
    const X86Segment *cs = &c->seg[X86_CS];

    if (c->mode.long_mode) {
        return UINT64_MAX;
    }
    return c->rip > cs->limit ? 0 : cs->limit - c->rip + 1;
}

static uint64_t code_linear(const SoftCpu *c, uint64_t rip)
{
    return c->mode.long_mode ? rip : (uint32_t)(c->seg[X86_CS].base + rip);
}

static SoftTlbEntry *fetch_entry(SoftCpu *c, uint64_t linear)
{
    SoftTlbEntry *e = &c->tlb_now[SOFT_FETCH][(linear >> 12) & (SOFT_TLB_SIZE - 1)];

    if ((e->tag & ~UINT64_C(1)) == (linear & ~(SOFT_PAGE - 1))) {
        return e;
    }
    return soft_tlb_fill(c, linear, SOFT_FETCH, (unsigned)(c->tlb_now - c->tlb[0]) / SOFT_ACCESSES);
}

static void fetch_byte(SoftCpu *c, uint64_t linear, uint8_t *out)
{
    SoftTlbEntry *e = fetch_entry(c, linear);

    *out = e->ram && c->in_rcu
               ? *(const volatile uint8_t *)(linear + e->host)
               : (uint8_t)soft_phys_load(
                     c, (e->paddr & ~(SOFT_PAGE - 1)) | (linear & (SOFT_PAGE - 1)), 1);
}

/* One instruction, byte by byte: from memory that is no RAM, over the end of a page, or just below
 * CS's limit. Fetches no byte that the instruction does not have. */
static SoftBlock *make_scratch(SoftCpu *c)
{
    SoftBlock *b = c->blocks->scratch;
    uint64_t limit = bytes_to_limit(c);
    uint8_t bytes[INSN_MAX] = { 0 };
    unsigned len = 0;
    bool ends;

    for (unsigned have = 0; !len; have++) {
        if (have >= limit) {
            soft_raise_error(c, EXC_GP, 0);
        }
        fetch_byte(c, code_linear(c, c->rip + have), &bytes[have]);
        len = soft_decode(&c->mode, bytes, have + 1, &b->insns[0], &ends);
    }
    b->mode = UINT32_MAX; /* is found by nobody */
    add_offset(&b->insns[0], 0);
    finish_block(b, 1, len);
    if (c->hooked) {
        memcpy(c->blocks->scratch_code, bytes, len);
        b->host = c->blocks->scratch_code;
        b->orig = &c->blocks->scratch_orig;
        hook_insns(c, code_linear(c, c->rip), bytes, b->insns, 1, b->orig);
    }
    if (log_enabled(LOG_IN_ASM)) {
        soft_log_block(c, bytes, len);
    }
    return b;
}

/* Decodes at host up to `room` bytes; the count of instructions; 0: the first one does not fit. */
static unsigned decode_run(SoftCpu *c, const uint8_t *code, unsigned room, SoftInsn *insns,
                           unsigned *bytes)
{
    unsigned n = 0, at = 0, max = c->single ? 1 : SOFT_BLOCK_MAX;
    bool ends = false;

    while (n < max && at < room && !ends) {
        unsigned len = soft_decode(&c->mode, code + at, room - at, &insns[n], &ends);

        if (!len || len > room - at) {
            break;
        }
        add_offset(&insns[n], at);
        at += len;
        n++;
    }
    *bytes = at;
    return n;
}

static SoftBlock *make_block(SoftCpu *c, uint64_t linear, const SoftTlbEntry *e)
{
    const uint8_t *host = (const uint8_t *)(linear + e->host);
    unsigned room = (unsigned)(SOFT_PAGE - (linear & (SOFT_PAGE - 1)));
    RamBlock *ram = e->ram;
    uint64_t limit = bytes_to_limit(c);
    SoftInsn insns[SOFT_BLOCK_MAX];
    uint8_t code[SOFT_BLOCK_MAX * INSN_MAX];
    RamCodePage *page = code_page(c, ram, host);
    unsigned line = (unsigned)(linear & (SOFT_PAGE - 1)) >> 6, slot, bytes, n;
    uint32_t generation;
    SoftExec orig[SOFT_BLOCK_MAX];
    bool hooked;
    SoftBlock *b;

    room = (unsigned)MIN(MIN(room, limit), sizeof(code));
    /* Another processor may write at any time: what was decoded must be what is there once the
     * lines are known to hold code. */
    for (;;) {
        memcpy(code, host, room);
        n = decode_run(c, code, room, insns, &bytes);
        if (!n) {
            return make_scratch(c);
        }
        generation = ram_code_page_add(page, line,
                                       (unsigned)((linear & (SOFT_PAGE - 1)) + bytes - 1) >> 6);
        if (memcmp(code, host, bytes) == 0) {
            break;
        }
    }
    hooked = c->hooked && hook_insns(c, linear, code, insns, n, orig);
    b = arena_alloc(c, n, hooked ? n : 0);
    b->linear = linear;
    b->hooks = c->hooks_generation;
    if (hooked) {
        memcpy(b->orig, orig, n * sizeof(SoftExec));
    }
    keep_ram(c->blocks, ram);
    b->host = host;
    b->mode = mode_of(c);
    b->page = page;
    b->generation = generation;
    memcpy(b->insns, insns, n * sizeof(SoftInsn));
    finish_block(b, n, bytes);
    if (log_enabled(LOG_IN_ASM)) {
        soft_log_block(c, code, bytes);
    }
    slot = hash_of(host, b->mode);
    b->next = c->blocks->hash[slot];
    c->blocks->hash[slot] = b;
    c->blocks->made++;
    return b;
}

/* ---- finding ------------------------------------------------------------------------------- */

static SoftBlock *lookup(SoftCpu *c, uint64_t linear, const SoftTlbEntry *e)
{
    const uint8_t *host = (const uint8_t *)(linear + e->host);
    uint32_t mode = mode_of(c);
    SoftBlock **at = &c->blocks->hash[hash_of(host, mode)];

    while (*at) {
        SoftBlock *b = *at;

        if (b->host == host && b->mode == mode && soft_block_good(b) &&
            (!(mode & MODE_HOOKED) || (b->linear == linear && b->hooks == c->hooks_generation))) {
            return b->bytes > bytes_to_limit(c) ? make_scratch(c) : b;
        }
        if (b->mode == UINT32_MAX || !soft_block_good(b) ||
            ((b->mode & MODE_HOOKED) && b->hooks != c->hooks_generation)) {
            *at = b->next; /* stale: out of the chain, its memory goes with the arena */
        } else {
            at = &b->next;
        }
    }
    return make_block(c, linear, e);
}

SoftBlock *soft_block_lookup(SoftCpu *c)
{
    uint64_t linear = code_linear(c, c->rip);
    SoftTlbEntry *e;

    soft_tlb_select(c);
    if (c->mode.long_mode) {
        if ((uint64_t)((int64_t)(linear << 16) >> 16) != linear) {
            soft_raise_error(c, EXC_GP, 0);
        }
    } else if (c->rip > c->seg[X86_CS].limit) {
        soft_raise_error(c, EXC_GP, 0);
    }
    e = fetch_entry(c, linear);
    if (!e->ram || !c->in_rcu) {
        return make_scratch(c);
    }
    return lookup(c, linear, e);
}

SoftBlock *soft_block_find(SoftCpu *c, uint64_t linear)
{
    SoftBlock *b = soft_block_lookup(c);

    if (b != c->blocks->scratch) {
        c->recent[soft_recent_index(linear)] = b;
    }
    return b;
}
