/*
 * Translation of hot blocks to host code.
 *
 * A block of flat 32-bit or of 64-bit code that was interpreted often enough is translated as it
 * was decoded, one instruction after the other: translate-insn.c, -alu.c, -shift.c, -flow.c with
 * flags and memory operands in translate-flags.c and translate-memory.c. What is not known there
 * calls its handler, with everything where the interpreter has it; so does whatever needs more than
 * a hit in the software TLB. Therefore exceptions, devices, hooks, dirty logs and the count of
 * instructions are the interpreter's, and a block does the same either way, from the same look at
 * the outside world to the next.
 *
 * The code and its links are of one vCPU. They go all at once, with the decoded blocks.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/accel/soft/soft-block.h"
#include "engine/accel/soft/translate.h"

#define MAP_SIZE (CODE_SIZE + LINKS_MAX * sizeof(Link))
#define NEVER    UINT16_MAX
/* The way in and out costs about as much as to interpret so many instructions. */
#define BRIEF       8
#define BRIEF_TIMES 16
#define REST_TIMES  2000

/* ---- the memory -------------------------------------------------------------------------- */

static bool map_code(SoftTranslator *t)
{
    int fd = memfd_create("soft-code", MFD_CLOEXEC);
    void *rw = MAP_FAILED, *rx = MAP_FAILED;

    if (fd >= 0 && ftruncate(fd, MAP_SIZE) == 0) {
        rw = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rx = mmap(NULL, MAP_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    t->rw = rw == MAP_FAILED ? NULL : rw;
    t->rx = rx == MAP_FAILED ? NULL : rx;
    return t->rw && t->rx;
}

SoftTranslator *soft_translator_new(unsigned threshold)
{
    SoftTranslator *t = g_new0(SoftTranslator, 1);

    t->threshold = threshold;
    if (!map_code(t)) {
        soft_translator_free(t);
        return NULL;
    }
    t->links = (Link *)(void *)(t->rw + CODE_SIZE);
    t->n_links = 1;
    t->jumps = g_new0(Jump, JUMP_TABLES * JUMP_SIZE);
    translate_common(t);
    return t;
}

void soft_translator_free(SoftTranslator *t)
{
    if (!t) {
        return;
    }
    if (t->rw) {
        munmap(t->rw, MAP_SIZE);
    }
    if (t->rx) {
        munmap(t->rx, MAP_SIZE);
    }
    g_free(t->jumps);
    g_free(t);
}

void soft_translator_flush(SoftCpu *c)
{
    SoftTranslator *t = c->translator;

    if (!t) {
        return;
    }
    /* Code that is running meanwhile stays as it is until it comes back, which it does now. */
    t->used = t->start;
    t->n_links = 1;
    c->link = 0;
    memset(t->jumps, 0, JUMP_TABLES * JUMP_SIZE * sizeof(Jump));
    soft_attention(c, SOFT_ATTN_LOOK);
}

void soft_translator_count(const SoftCpu *c, uint64_t *blocks, uint64_t *entries)
{
    if (c->translator) {
        *blocks += __atomic_load_n(&c->translator->blocks, __ATOMIC_RELAXED);
        *entries += __atomic_load_n(&c->translator->entries, __ATOMIC_RELAXED);
    }
}

/* ---- one block --------------------------------------------------------------------------- */

/* To call a handler from host code costs as much as it saves with three instructions. */
static bool worth_it(const SoftBlock *b)
{
    unsigned known = 0, calls = 0;

    for (unsigned k = 0; k < b->n; k++) {
        if (b->insns[k].kind > KIND_SYSTEM) {
            known++;
        } else {
            calls += k == 0 || b->insns[k - 1].kind > KIND_SYSTEM;
        }
    }
    return known > 3 * calls;
}

static void step(Xlate *x)
{
    if (x->i->kind > KIND_SYSTEM && translate_insn(x)) {
        if (x->drop) {
            x->flags.state = FLAGS_DEAD;
            x->drop = false;
        }
        slow_end(x, false);
        x->k++;
        return;
    }
    if (x->i->kind > KIND_SYSTEM && flags_lost(x)) {
        x->failed = true;
    }
    x->drop = false;
    if (x->k + 1 == x->b->n || x->i->kind == KIND_SYSTEM) {
        run_handlers(x, 0);
        x->k = x->b->n + 1; /* and no way out behind it */
        return;
    }
    run_handlers(x, 1);
    x->k++;
}

/* Handlers that follow each other are called at once. */
static bool run_of_handlers(Xlate *x)
{
    unsigned n = 0;

    while (x->k + n < x->b->n && x->b->insns[x->k + n].kind == KIND_OTHER) {
        n++;
    }
    if (n < 2 || x->k + n >= x->b->n) {
        return false;
    }
    run_handlers(x, n);
    x->k += n;
    return true;
}

static void body(Xlate *x)
{
    SoftBlock *b = x->b;

    while (x->k < b->n && !x->failed) {
        x->i = &b->insns[x->k];
        if (run_of_handlers(x)) {
            continue;
        }
        if (x->k + 1 == b->n && translate_flow(x)) {
            return;
        }
        step(x);
    }
    if (x->k == b->n) {
        x->k--;
        flags_save(x);
        translate_exit(x, b->bytes);
    }
}

static bool eligible(const SoftCpu *c, const SoftBlock *b)
{
    return !b->orig && b->page && b->mode == soft_mode_word(c) &&
           (c->mode.long_mode || (c->mode.code_size == 2 && c->mode.stack_size == 2)) &&
           (c->translator->threshold == 0 || worth_it(b));
}

static bool translate(SoftCpu *c, SoftBlock *b)
{
    SoftTranslator *t = c->translator;
    Xlate x = { .t = t, .c = c, .b = b, .at = t->used, .wide = c->mode.long_mode };
    unsigned links = t->n_links;

    if (CODE_SIZE - t->used < BLOCK_ROOM || LINKS_MAX - links < 4) {
        soft_blocks_flush(c);
        return false;
    }
    x.flags = (Flags){ .state = FLAGS_STORED, .guess = true, .op = c->cc_op, .size = c->cc_size };
    flags_analyse(&x);
    translate_start(&x);
    body(&x);
    slow_finish(&x);
    translate_outs(&x);
    if (x.failed) {
        t->n_links = links;
        b->heat = NEVER;
        return false;
    }
    b->code = t->rx + t->used;
    t->used = (x.at + 15) & ~(size_t)15;
    __atomic_store_n(&t->blocks, t->blocks + 1, __ATOMIC_RELAXED);
    return true;
}

/* ---- running ----------------------------------------------------------------------------- */

/* A branch of a block that is entered here reaches nothing that is not canonical: what does not
 * come from a register or from memory goes at most 2 GiB far. */
static bool place_fits(const SoftCpu *c)
{
    const uint64_t far = UINT64_C(1) << 32;

    if (!c->mode.long_mode) {
        return c->flat_segments;
    }
    return c->rip < (UINT64_C(1) << 47) - far || c->rip >= (UINT64_MAX << 47) + far;
}

bool soft_translated(SoftCpu *c, SoftBlock *b)
{
    if (!place_fits(c)) {
        return false;
    }
    if (b->code) {
        b->rest -= b->rest > 0;
        return !b->rest;
    }
    if (b->heat == NEVER || b->heat++ < c->translator->threshold) {
        return false;
    }
    if (!eligible(c, b)) {
        b->heat = NEVER;
        return false;
    }
    return translate(c, b);
}

static Jump *jumps_of(SoftTranslator *t, uint32_t mode)
{
    unsigned n = (mode >> 16 & 1) | (mode >> 24 == 3 ? 2 : 0);
    Jump *jumps = t->jumps + n * JUMP_SIZE;

    if (t->jump_mode[n] != mode) {
        t->jump_mode[n] = mode;
        memset(jumps, 0, JUMP_SIZE * sizeof(Jump));
    }
    return jumps;
}

/* Back from host code, also by an exception. */
void soft_translated_left(SoftCpu *c)
{
    SoftBlock *b = c->entered;

    c->entered = NULL;
    if (!b) {
        return;
    }
    if (c->entered_budget - c->budget >= BRIEF) {
        b->brief = 0;
    } else if (++b->brief == BRIEF_TIMES) {
        b->brief = 0;
        b->rest = REST_TIMES;
    }
}

void soft_translated_run(SoftCpu *c, SoftBlock *b)
{
    SoftTranslator *t = c->translator;
    uint64_t rip = c->rip;
    Jump *jumps = jumps_of(t, b->mode);

    if (c->link) {
        Link *l = &t->links[c->link];

        if (l->host == b->host && l->mode == b->mode) {
            l->target = b->code;
        }
        c->link = 0;
    }
    jumps[(rip ^ rip >> JUMP_BITS) & (JUMP_SIZE - 1)] = (Jump){
        .rip = rip, .code = b->code, .host = b->host, .page = rip & ~(SOFT_PAGE - 1)
    };
    c->jumps = jumps;
    __atomic_store_n(&t->entries, t->entries + 1, __ATOMIC_RELAXED);
    c->entered = b;
    c->entered_budget = c->budget;
    t->enter(c, b->code);
    c->block = NULL;
    soft_translated_left(c);
}
