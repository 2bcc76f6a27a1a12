/*
 * The software TLB, and memory accesses that miss it.
 *
 * A set of entries a kind of rights: supervisor or user, EFLAGS.AC clear or set (SMAP looks at it,
 * and alignment checks). The set in use is tlb_now, chosen when a block is entered and whenever an
 * access misses. Pages that need a look at each access (devices, watched ones, writes to code,
 * alignment checks) have entries that remember the translation and never hit inline.
 */
#include <string.h>

#include "engine/accel/soft/soft-block.h"
#include "engine/accel/soft/soft-hooks.h"
#include "engine/accel/soft/soft-mmu.h"
#include "engine/core/rcu.h"

#define TAG_SLOW UINT64_C(1)
#define TAG_NONE (~UINT64_C(0))

static inline unsigned tlb_index(uint64_t linear)
{
    return (unsigned)(linear >> 12) & (SOFT_TLB_SIZE - 1);
}

void soft_tlb_select(SoftCpu *c)
{
    c->tlb_now = c->tlb[soft_tlb_set_now(c)];
}

/* ---- large pages ------------------------------------------------------------------------- */

/* A bit for 2 MiB in which a large page was seen, 4096 in all, and one of 64 for a GiB: others may
 * share one. */
static unsigned large_index(uint64_t linear)
{
    return (unsigned)(linear >> 21 ^ linear >> 33 ^ linear >> 39) & (SOFT_LARGE_BITS - 1);
}

static uint64_t huge_bit(uint64_t linear)
{
    uint64_t gib = linear >> 30;

    return UINT64_C(1) << ((gib ^ gib >> 6 ^ gib >> 12) & 63);
}

static bool may_be_large(const SoftCpu *c, uint64_t linear)
{
    unsigned n = large_index(linear);

    return (c->huge & huge_bit(linear)) || (c->large[n / 64] >> (n % 64) & 1);
}

static void note_large(SoftCpu *c, uint64_t linear, unsigned bits)
{
    if (bits > 22) {
        c->huge |= huge_bit(linear);
        return;
    }
    for (unsigned half = 0; half < 2; half++) { /* of 4 MiB; of 2 MiB it is the same twice */
        unsigned n = large_index(bits == 22 ? linear ^ (uint64_t)half << 21 : linear);

        c->large[n / 64] |= UINT64_C(1) << (n % 64);
    }
}

static void forget_large(SoftCpu *c)
{
    memset(c->large, 0, sizeof(c->large));
    c->huge = 0;
}

void soft_tlb_init(SoftCpu *c)
{
    memset(c->tlb, 0xff, sizeof(c->tlb));
    memset(c->tlb_used, 0, sizeof(c->tlb_used));
    forget_large(c);
    soft_tlb_select(c);
}

/* ---- flushing ---------------------------------------------------------------------------- */

static void mark_written(const SoftTlbEntry *e)
{
    if (e->ram && e->tag != TAG_NONE && !(e->tag & TAG_SLOW) &&
        (__atomic_load_n(&e->ram->dirty_active, __ATOMIC_RELAXED) & 7)) {
        ram_block_set_dirty_clients(e->ram, (uint64_t)(e->tag + e->host) - (uintptr_t)e->ram->host,
                                    SOFT_PAGE, 7);
    }
}

static void drop_entry(SoftTlbEntry *e, unsigned access)
{
    if (access == SOFT_WRITE) {
        mark_written(e);
    }
    e->tag = TAG_NONE;
    e->ram = NULL;
}

void soft_tlb_flush(SoftCpu *c, bool global_too)
{
    for (unsigned set = 0; set < SOFT_TLB_SETS; set++) {
        for (unsigned access = 0; access < SOFT_ACCESSES; access++) {
            bool left = false;

            if (!c->tlb_used[set][access]) {
                continue;
            }
            for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
                SoftTlbEntry *e = &c->tlb[set][access][i];

                if (e->tag == TAG_NONE) {
                    continue;
                }
                if (global_too || !(e->paddr & SOFT_TLB_GLOBAL)) {
                    drop_entry(e, access);
                } else {
                    left = true;
                }
            }
            c->tlb_used[set][access] = left;
        }
    }
    if (global_too) {
        forget_large(c);
    }
}

void soft_tlb_drop_writes(SoftCpu *c)
{
    for (unsigned set = 0; set < SOFT_TLB_SETS; set++) {
        if (!c->tlb_used[set][SOFT_WRITE]) {
            continue;
        }
        for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
            drop_entry(&c->tlb[set][SOFT_WRITE][i], SOFT_WRITE);
        }
        c->tlb_used[set][SOFT_WRITE] = false;
    }
}

void soft_tlb_flush_page(SoftCpu *c, uint64_t linear)
{
    uint64_t page = linear & ~(SOFT_PAGE - 1);

    if (may_be_large(c, page)) {
        /* The entry may stand for one page of a large one, which goes as a whole. */
        soft_tlb_flush(c, true);
        return;
    }
    for (unsigned set = 0; set < SOFT_TLB_SETS; set++) {
        for (unsigned access = 0; access < SOFT_ACCESSES; access++) {
            SoftTlbEntry *e = &c->tlb[set][access][tlb_index(linear)];

            if (c->tlb_used[set][access] && (e->tag & ~TAG_SLOW) == page) {
                drop_entry(e, access);
            }
        }
    }
}

void soft_debug_changed(SoftCpu *c)
{
    for (unsigned access = 0; access < SOFT_ACCESSES; access++) {
        c->watch[access] = soft_debug_armed(c, access);
    }
    c->watch_fetch = c->watch[SOFT_FETCH];
    soft_tlb_flush(c, true);
    soft_attention(c, SOFT_ATTN_LOOK);
}

/* ---- filling ----------------------------------------------------------------------------- */

static bool page_is_watched(const SoftCpu *c, uint64_t page, unsigned access)
{
    if (!c->watch[access]) {
        return false;
    }
    for (unsigned i = 0; i < 4; i++) {
        if ((c->dr[i] & ~(SOFT_PAGE - 1)) == page) {
            return true;
        }
    }
    return false;
}

static bool alignment_checked(const SoftCpu *c, unsigned set)
{
    return set == SOFT_TLB_USER_AC && (c->cr0 & CR0_AM);
}

static bool page_has_code(RamBlock *ram, const uint8_t *host)
{
    RamCodePage *map = __atomic_load_n(&ram->code, __ATOMIC_ACQUIRE);

    return map && __atomic_load_n(&map[(uint64_t)(host - ram->host) >> RAM_PAGE_BITS].seen,
                                  __ATOMIC_SEQ_CST);
}

static void check_canonical(SoftCpu *c, uint64_t linear, bool implicit)
{
    if ((c->efer & EFER_LMA) && (uint64_t)((int64_t)(linear << 16) >> 16) != linear) {
        bool stack = !implicit && c->block && c->insn->seg == X86_SS;

        soft_raise_error(c, stack ? EXC_SS : EXC_GP, 0);
    }
}

SoftTlbEntry *soft_tlb_fill(SoftCpu *c, uint64_t linear, unsigned access, unsigned set)
{
    uint64_t page = linear & ~(SOFT_PAGE - 1);
    SoftTlbEntry *e = &c->tlb[set][access][tlb_index(linear)];
    bool was_in = c->in_rcu, slow, hooked;
    RamBlock *ram = NULL;
    uint8_t *host;
    SoftPage found;
    uint32_t code = soft_walk(c, linear, access, set & SOFT_TLB_USER, !(set & SOFT_TLB_AC), &found);

    if (code) {
        soft_page_fault(c, linear, code & 0x1f);
    }
    drop_entry(e, access);
    if (!was_in) {
        rcu_enter();
    }
    host = soft_phys_page(c, found.paddr, access, &ram);
    hooked = c->hooks_memory && soft_hooks_page(c, page, found.paddr, access);
    slow = !host || hooked || page_is_watched(c, page, access) || alignment_checked(c, set);
    if (host && access == SOFT_WRITE) {
        slow |= page_has_code(ram, host);
        ram_block_set_dirty_clients(ram, (uint64_t)(host - ram->host), SOFT_PAGE, 7);
    }
    *e = (SoftTlbEntry){
        .tag = page | (slow ? TAG_SLOW : 0),
        .host = host ? (uintptr_t)host - page : 0,
        .paddr = found.paddr | (found.global ? SOFT_TLB_GLOBAL : 0) |
                 (hooked ? SOFT_TLB_HOOKED : 0),
        .ram = ram,
    };
    if (!was_in) {
        rcu_leave();
    }
    c->tlb_used[set][access] = true;
    if (found.bits > 12) {
        note_large(c, page, found.bits);
    }
    return e;
}

/* The entry of a page, filled when it is missing. */
static inline SoftTlbEntry *tlb_entry(SoftCpu *c, uint64_t linear, unsigned access, unsigned set)
{
    SoftTlbEntry *e = &c->tlb[set][access][tlb_index(linear)];

    if ((e->tag & ~TAG_SLOW) != (linear & ~(SOFT_PAGE - 1))) {
        e = soft_tlb_fill(c, linear, access, set);
    }
    if (!e->ram) {
        soft_need_exit(c); /* now: what follows may have changed registers */
    }
    return e;
}

/* ---- accesses that miss ------------------------------------------------------------------ */

static uint64_t next_page(const SoftCpu *c, uint64_t linear)
{
    uint64_t next = (linear | (SOFT_PAGE - 1)) + 1;

    return c->mode.long_mode || (c->efer & EFER_LMA && next >> 32 > 1) ? next : (uint32_t)next;
}

static inline uint64_t entry_paddr(const SoftTlbEntry *e, uint64_t linear)
{
    return (e->paddr & ~(SOFT_PAGE - 1)) | (linear & (SOFT_PAGE - 1));
}

static uint64_t load_in_page(SoftCpu *c, const SoftTlbEntry *e, uint64_t linear, unsigned len)
{
    if (e->ram && c->in_rcu) {
        return soft_host_load((const uint8_t *)(linear + e->host), len);
    }
    return soft_phys_load(c, entry_paddr(e, linear), len);
}

static void store_in_page(SoftCpu *c, const SoftTlbEntry *e, uint64_t linear, uint64_t value,
                          unsigned len)
{
    if (e->ram && c->in_rcu) {
        uint8_t *p = (uint8_t *)(linear + e->host);
        RamBlock *ram = e->ram;

        soft_host_store(p, value, len);
        if (e->tag & TAG_SLOW) {
            ram_block_set_dirty_clients(ram, (uint64_t)(p - ram->host), len, 7);
            if (ram_block_code_written(ram, (uint64_t)(p - ram->host), len)) {
                soft_cut_block(c);
            }
        }
        return;
    }
    soft_phys_store(c, entry_paddr(e, linear), value, len);
}

static void check_alignment(SoftCpu *c, uint64_t linear, unsigned len, unsigned set)
{
    if (alignment_checked(c, set) && (linear & (len - 1)) && !(len & (len - 1))) {
        soft_raise_error(c, EXC_AC, 0);
    }
}

/* What hooks make of an access whose translations are there; `first` bytes are on the first page.
 */
static uint64_t ask_hooks(SoftCpu *c, uint64_t linear, uint64_t value, unsigned first, unsigned len,
                          unsigned set, unsigned access)
{
    SoftTlbEntry low = *tlb_entry(c, linear, access, set), high = low;
    uint64_t second = linear, old = 0, paddr[2];

    if (first < len) {
        second = next_page(c, linear);
        high = *tlb_entry(c, second, access, set);
    }
    if (!((low.paddr | high.paddr) & SOFT_TLB_HOOKED)) {
        return value;
    }
    paddr[0] = entry_paddr(&low, linear);
    paddr[1] = entry_paddr(&high, second);
    if (access == SOFT_WRITE && low.ram && high.ram && c->in_rcu) {
        unsigned n = first < len ? first : len;

        old = soft_host_load((const uint8_t *)(linear + low.host), n);
        if (n < len) {
            old |= soft_host_load((const uint8_t *)(second + high.host), len - n) << (8 * n);
        }
    }
    return soft_hooks_access(c, linear, paddr, first, len, value, old, access == SOFT_WRITE);
}

uint64_t soft_load_slow(SoftCpu *c, uint64_t linear, unsigned len, bool implicit)
{
    unsigned set = implicit ? SOFT_TLB_SUPERVISOR : soft_tlb_set_now(c);
    unsigned first = (unsigned)(SOFT_PAGE - (linear & (SOFT_PAGE - 1)));
    SoftTlbEntry *e;
    uint64_t v;

    soft_tlb_select(c);
    check_canonical(c, linear, implicit);
    check_alignment(c, linear, len, set);
    e = tlb_entry(c, linear, SOFT_READ, set);
    if (first >= len) {
        v = load_in_page(c, e, linear, len);
    } else {
        uint64_t second = next_page(c, linear);
        SoftTlbEntry low, *high;

        check_canonical(c, second, implicit);
        high = tlb_entry(c, second, SOFT_READ, set);
        low = *tlb_entry(c, linear, SOFT_READ, set);
        v = load_in_page(c, &low, linear, first);
        /* A device may have answered the first part: what it did to the entry counts. */
        high = tlb_entry(c, second, SOFT_READ, set);
        v |= load_in_page(c, high, second, len - first) << (8 * first);
    }
    if (c->hooks_memory) {
        v = ask_hooks(c, linear, v, first, len, set, SOFT_READ);
    }
    if (c->watch[SOFT_READ]) {
        soft_debug_hit(c, linear, len, SOFT_READ);
        if (c->db_pending) {
            soft_cut_block(c);
        }
    }
    return v;
}

void soft_store_slow(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len, bool implicit)
{
    unsigned set = implicit ? SOFT_TLB_SUPERVISOR : soft_tlb_set_now(c);
    unsigned first = (unsigned)(SOFT_PAGE - (linear & (SOFT_PAGE - 1)));
    SoftTlbEntry *e;

    soft_tlb_select(c);
    check_canonical(c, linear, implicit);
    check_alignment(c, linear, len, set);
    e = tlb_entry(c, linear, SOFT_WRITE, set);
    if (c->hooks_memory) {
        if (first < len) {
            check_canonical(c, next_page(c, linear), implicit);
        }
        value = ask_hooks(c, linear, value, first, len, set, SOFT_WRITE);
        e = tlb_entry(c, linear, SOFT_WRITE, set);
    }
    if (first >= len) {
        store_in_page(c, e, linear, value, len);
    } else {
        uint64_t second = next_page(c, linear);

        check_canonical(c, second, implicit);
        tlb_entry(c, second, SOFT_WRITE, set); /* faults before anything is written */
        store_in_page(c, tlb_entry(c, linear, SOFT_WRITE, set), linear, value, first);
        store_in_page(c, tlb_entry(c, second, SOFT_WRITE, set), second, value >> (8 * first),
                      len - first);
    }
    if (c->watch[SOFT_WRITE]) {
        soft_debug_hit(c, linear, len, SOFT_WRITE);
        if (c->db_pending) {
            soft_cut_block(c);
        }
    }
}

static void late_write_done(SoftCpu *c)
{
    if (c->late_write.len) {
        ram_block_code_written(c->late_write.ram, c->late_write.offset, c->late_write.len);
        c->late_write.len = 0;
    }
}

void *soft_host_slow(SoftCpu *c, uint64_t linear, unsigned len, unsigned access)
{
    unsigned set = soft_tlb_set_now(c);
    SoftTlbEntry *e;
    uint8_t *p;

    soft_tlb_select(c);
    check_canonical(c, linear, false);
    e = tlb_entry(c, linear, access, set);
    if ((linear & (SOFT_PAGE - 1)) + len > SOFT_PAGE || !e->ram || !c->in_rcu || c->watch[access] ||
        (e->paddr & SOFT_TLB_HOOKED) || alignment_checked(c, set)) {
        return NULL;
    }
    p = (uint8_t *)(linear + e->host);
    if (access == SOFT_WRITE && (e->tag & TAG_SLOW)) {
        uint64_t offset = (uint64_t)(p - e->ram->host);

        /* The caller writes after this. Our own blocks are told now; one that another vCPU decodes
         * in between is told at the next look of the run loop. */
        ram_block_set_dirty_clients(e->ram, offset, len, 7);
        if (ram_block_code_written(e->ram, offset, len)) {
            soft_cut_block(c);
        }
        late_write_done(c);
        c->late_write.ram = e->ram;
        c->late_write.offset = offset;
        c->late_write.len = len;
        soft_attention(c, SOFT_ATTN_LOOK);
    }
    return p;
}

bool soft_is_io(SoftCpu *c, uint64_t linear, unsigned len, uint64_t *paddr)
{
    unsigned set = soft_tlb_set_now(c);
    const SoftTlbEntry *e;

    soft_tlb_select(c);
    check_canonical(c, linear, false);
    e = tlb_entry(c, linear, SOFT_WRITE, set);
    if (e->ram || c->watch[SOFT_WRITE] || (e->paddr & SOFT_TLB_HOOKED) ||
        (linear & (SOFT_PAGE - 1)) + len > SOFT_PAGE || alignment_checked(c, set)) {
        return false;
    }
    *paddr = entry_paddr(e, linear);
    return true;
}

void soft_mmu_look(SoftCpu *c)
{
    late_write_done(c);
}

/* ---- more of the same -------------------------------------------------------------------- */

void soft_load_bytes(SoftCpu *c, uint64_t linear, void *buf, unsigned len)
{
    uint8_t *out = buf;

    while (len) {
        unsigned n = MIN(len, 8);
        uint64_t v = soft_load(c, linear, n);

        memcpy(out, &v, n);
        out += n;
        linear += n;
        len -= n;
    }
}

void soft_store_bytes(SoftCpu *c, uint64_t linear, const void *buf, unsigned len)
{
    const uint8_t *in = buf;

    if (len > 8) {
        soft_probe_write(c, linear, len);
    }
    while (len) {
        unsigned n = MIN(len, 8);
        uint64_t v = 0;

        memcpy(&v, in, n);
        soft_store(c, linear, v, n);
        in += n;
        linear += n;
        len -= n;
    }
}

uint64_t soft_load_system(SoftCpu *c, uint64_t linear, unsigned len)
{
    const uint8_t *p = soft_tlb_hit(c->tlb[SOFT_TLB_SUPERVISOR][SOFT_READ], linear, len);

    if (SOFT_LIKELY(p && c->in_rcu)) {
        return soft_host_load(p, len);
    }
    return soft_load_slow(c, linear, len, true);
}

void soft_store_system(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len)
{
    uint8_t *p = soft_tlb_hit(c->tlb[SOFT_TLB_SUPERVISOR][SOFT_WRITE], linear, len);

    if (SOFT_LIKELY(p && c->in_rcu)) {
        soft_host_store(p, value, len);
        return;
    }
    soft_store_slow(c, linear, value, len, true);
}

uint8_t soft_swap_system_byte(SoftCpu *c, uint64_t linear, uint8_t old, uint8_t new_)
{
    SoftTlbEntry *e;
    uint8_t *p;

    soft_tlb_select(c);
    check_canonical(c, linear, true);
    e = tlb_entry(c, linear, SOFT_WRITE, SOFT_TLB_SUPERVISOR);
    if (!e->ram || !c->in_rcu) {
        soft_store_system(c, linear, new_, 1);
        return old;
    }
    p = (uint8_t *)(linear + e->host);
    __atomic_compare_exchange_n(p, &old, new_, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (e->tag & TAG_SLOW) {
        uint64_t offset = (uint64_t)(p - e->ram->host);

        ram_block_set_dirty_clients(e->ram, offset, 1, 7);
        if (ram_block_code_written(e->ram, offset, 1)) {
            soft_cut_block(c);
        }
    }
    return old;
}

void soft_probe_write(SoftCpu *c, uint64_t linear, unsigned len)
{
    unsigned set = soft_tlb_set_now(c);

    if (!len) {
        return;
    }
    soft_tlb_select(c);
    check_canonical(c, linear, false);
    check_alignment(c, linear, len, set);
    tlb_entry(c, linear, SOFT_WRITE, set);
    for (unsigned done = (unsigned)(SOFT_PAGE - (linear & (SOFT_PAGE - 1))); done < len;
         done += SOFT_PAGE) {
        linear = next_page(c, linear);
        check_canonical(c, linear, false);
        tlb_entry(c, linear, SOFT_WRITE, set);
    }
}

/* ---- segmentation ------------------------------------------------------------------------ */

static void segment_fault(SoftCpu *c, unsigned seg)
{
    soft_raise_error(c, seg == X86_SS ? EXC_SS : EXC_GP, 0);
}

uint64_t soft_segment_linear(SoftCpu *c, unsigned seg, uint64_t offset, unsigned len, bool is_write)
{
    const X86Segment *s = &c->seg[seg];
    uint64_t last;

    if (c->mode.long_mode) {
        return seg == X86_FS || seg == X86_GS ? offset + s->base : offset;
    }
    if (c->flat_segments && seg <= X86_DS && seg != X86_CS && offset + len <= UINT64_C(1) << 32) {
        return offset;
    }
    if (c->cr0 & CR0_PE && !(c->flags & FLAG_VM)) {
        bool code = s->type & 8;

        if (s->unusable || !s->present ||
            (is_write ? code || !(s->type & 2) : code && !(s->type & 2))) {
            segment_fault(c, seg);
        }
    }
    /* Of an access of 0 bytes (a probe of an address) only the first byte's place counts. */
    last = offset + (len ? len - 1 : 0);
    if ((s->type & 0xc) == 4) {
        uint64_t top = s->db ? 0xffffffff : 0xffff;

        if (offset <= s->limit || last > top) {
            segment_fault(c, seg);
        }
    } else if (last > s->limit) {
        segment_fault(c, seg);
    }
    return (uint32_t)(s->base + offset);
}

uint64_t soft_linear_slow(SoftCpu *c, const SoftInsn *i, uint64_t offset, unsigned len,
                          bool is_write)
{
    return soft_segment_linear(c, i->seg, offset, len, is_write);
}
