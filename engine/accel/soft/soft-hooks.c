/*
 * Hooks on instructions (exec, insn) and on memory accesses (mem).
 *
 * While an instruction hook is armed, blocks are decoded once more, under a mode of their own: the
 * handlers of instructions that a filter could match are replaced by one that asks the event hub
 * and goes on to the instruction's own. So only those instructions pay, and a machine without hooks
 * does not know of any of this. Such blocks are found by linear address too, and die when the table
 * changes. A script may change registers, skip the instruction or pause: then the block is left
 * before it, and the hook is not asked a second time when the vCPU comes back to it (`quiet`).
 *
 * Memory hooks make the pages they touch miss in the software TLB, so that every access to them
 * takes the slow way, which asks the hub.
 */
#include "engine/accel/soft/soft-hooks.h"

#include <string.h>

#include "engine/accel/soft/soft-icount.h"
#include "engine/core/rcu.h"
#include "engine/cpu/disasm.h"

/* ---- arming -------------------------------------------------------------------------------- */

static uint64_t filter_last(const EventFilter *f)
{
    uint64_t last;

    if (__builtin_add_overflow(f->addr, f->len ? f->len - 1 : 0, &last)) {
        last = UINT64_MAX;
    }
    return last;
}

static void free_table(void *opaque)
{
    SoftHooks *h = opaque;

    if (h) {
        g_free(h->exec);
        g_free(h->insn);
        g_free(h->mem);
        g_free(h);
    }
}

static int compare_ranges(const void *a, const void *b)
{
    const SoftHookRange *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static SoftHooks *make_table(const SoftAccel *a)
{
    unsigned n = a->armed->len;
    SoftHooks *h = g_new0(SoftHooks, 1);
    uint64_t max_last = 0;

    h->generation = a->hooks_generation;
    h->exec = g_new(SoftHookRange, n);
    h->insn = g_new(EventFilter, n);
    h->mem = g_new(EventFilter, n);
    for (unsigned i = 0; i < n; i++) {
        const EventFilter *f = &g_array_index(a->armed, EventFilter, i);

        if (f->source == EVENT_EXEC) {
            h->exec[h->n_exec++] = (SoftHookRange){ .first = f->addr, .last = filter_last(f) };
        } else if (f->source == EVENT_INSN) {
            h->insn[h->n_insn++] = *f;
            h->names |= f->insn.mnemonic || f->insn.category;
        } else {
            h->mem[h->n_mem++] = *f;
        }
    }
    qsort(h->exec, h->n_exec, sizeof(h->exec[0]), compare_ranges);
    for (unsigned i = 0; i < h->n_exec; i++) {
        max_last = MAX(max_last, h->exec[i].last);
        h->exec[i].max_last = max_last;
    }
    return h;
}

static void publish(SoftAccel *a)
{
    SoftHooks *old = a->hooks;

    a->hooks_generation++;
    rcu_publish(&a->hooks, a->armed->len ? make_table(a) : NULL);
    if (old) {
        rcu_defer(free_table, old);
    }
    for (unsigned i = 0; i < a->parent.config.max_cpus; i++) {
        if (a->cpus[i]) {
            soft_attention(a->cpus[i], SOFT_ATTN_HOOKS);
        }
    }
}

void soft_hooks_arm(SoftAccel *a, const EventFilter *f)
{
    if (!a->armed) {
        a->armed = g_array_new(FALSE, FALSE, sizeof(EventFilter));
    }
    g_array_append_val(a->armed, *f);
    publish(a);
}

void soft_hooks_disarm(SoftAccel *a, const EventFilter *f)
{
    for (unsigned i = 0; a->armed && i < a->armed->len; i++) {
        const EventFilter *g = &g_array_index(a->armed, EventFilter, i);

        /* The event hub arms what is the same only once. */
        if (g->source == f->source && g->addr == f->addr && g->len == f->len &&
            g->directions == f->directions && g->cpu == f->cpu &&
            memcmp(&g->insn, &f->insn, sizeof(f->insn)) == 0) {
            g_array_remove_index(a->armed, i);
            publish(a);
            return;
        }
    }
}

void soft_hooks_free(SoftAccel *a)
{
    if (a->armed) {
        g_array_free(a->armed, TRUE);
        a->armed = NULL;
    }
    free_table(a->hooks);
    a->hooks = NULL;
}

static const SoftHooks *hooks_of(const SoftCpu *c)
{
    return c->accel ? rcu_load(&c->accel->hooks) : NULL;
}

static bool for_this_cpu(const SoftCpu *c, const EventFilter *f)
{
    return f->cpu < 0 || f->cpu == c->vcpu->index;
}

void soft_hooks_update(SoftCpu *c)
{
    const SoftHooks *h = hooks_of(c);
    bool memory = h && h->n_mem, fetches = false;

    for (unsigned i = 0; h && i < h->n_mem; i++) {
        fetches |= (h->mem[i].directions & EVENT_FETCHES) != 0;
    }
    c->hooks_generation = h ? h->generation : 0;
    c->hooked = h && (h->n_exec || h->n_insn || fetches);
    if (!c->hooked) {
        c->quiet = 0;
    }
    if (memory || c->hooks_memory) {
        c->hooks_memory = memory;
        soft_tlb_flush(c, true);
    }
}

/* ---- instructions ---------------------------------------------------------------------------- */

static bool exec_matches(const SoftHooks *h, uint64_t linear)
{
    unsigned lo = 0, hi = h->n_exec;

    while (lo < hi) { /* the first range that begins after it */
        unsigned mid = (lo + hi) / 2;

        if (h->exec[mid].first <= linear) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    while (lo-- > 0 && h->exec[lo].max_last >= linear) {
        if (h->exec[lo].last >= linear) {
            return true;
        }
    }
    return false;
}

static unsigned code_bits(const SoftCpu *c)
{
    return c->mode.long_mode ? 64 : c->mode.code_size == 2 ? 32 : 16;
}

static bool insn_matches(const SoftCpu *c, const EventFilter *f, uint64_t linear,
                         const uint8_t *code, unsigned len, const Disasm *d)
{
    const EventInsn *n = &f->insn;

    if (!for_this_cpu(c, f) || linear < f->addr || linear > filter_last(f) || n->n_bytes > len ||
        (n->cpls && !(n->cpls >> c->cpl & 1)) || (n->mnemonic && n->mnemonic != d->mnemonic) ||
        (n->category && n->category != d->category)) {
        return false;
    }
    for (unsigned i = 0; i < n->n_bytes; i++) {
        if ((code[i] ^ n->bytes[i]) & n->mask[i]) {
            return false;
        }
    }
    return true;
}

static bool fetch_matches(const SoftCpu *c, const EventFilter *f, uint64_t linear, unsigned len)
{
    return (f->directions & EVENT_FETCHES) && for_this_cpu(c, f) && linear + (len - 1) >= f->addr &&
           linear <= filter_last(f);
}

bool soft_hooks_match(const SoftCpu *c, uint64_t linear, const uint8_t *code, unsigned len)
{
    const SoftHooks *h = hooks_of(c);
    Disasm d = { .len = 0 };

    if (!h) {
        return false;
    }
    if (exec_matches(h, linear)) {
        return true;
    }
    if (h->names) {
        disasm_brief(code_bits(c), code, len, &d);
    }
    for (unsigned i = 0; i < h->n_insn; i++) {
        if (insn_matches(c, &h->insn[i], linear, code, len, &d)) {
            return true;
        }
    }
    for (unsigned i = 0; i < h->n_mem; i++) {
        if (fetch_matches(c, &h->mem[i], linear, len)) {
            return true;
        }
    }
    return false;
}

/* A hook's callback in the middle of a block: outside of the section, as for a device. */
static unsigned fire(SoftCpu *c, EventRecord *x)
{
    VCpu *cpu = c->vcpu;
    bool was_in = c->in_rcu;
    unsigned action;

    if (was_in) {
        soft_rcu_leave(c);
    }
    if (c->accel->icount) {
        soft_icount_publish(c);
    }
    cpu->state_valid &= cpu->state_dirty;
    action = cpu_fire_event(cpu, x);
    if (was_in) {
        soft_rcu_enter(c);
    }
    return action;
}

static EventRecord insn_record(const SoftCpu *c, const SoftInsn *i, uint64_t linear,
                               const uint8_t *code, bool names)
{
    uint64_t rip = soft_rip(c, i);
    EventRecord x = {
        .source = EVENT_INSN,
        .cpu = c->vcpu->index,
        .addr = linear,
        .size = i->len,
        .rip = c->mode.long_mode ? rip : (uint32_t)rip,
    };

    memcpy(x.args, code, MIN(i->len, sizeof(x.args[0]) * 2));
    x.args[EVENT_ARG_BITS] = code_bits(c);
    x.args[EVENT_ARG_CPL] = c->cpl;
    if (names) {
        Disasm d;

        disasm_brief(code_bits(c), code, i->len, &d);
        x.args[EVENT_ARG_MNEMONIC] = d.mnemonic;
        x.args[EVENT_ARG_CATEGORY] = d.category;
    }
    return x;
}

/* Asks for one instruction; does not come back when the block has to be left before it. */
static void ask(SoftCpu *c, const SoftInsn *i, uint64_t linear, unsigned quiet)
{
    const SoftHooks *h = hooks_of(c);
    VCpu *cpu = c->vcpu;
    const uint8_t *code = c->block->host + i->off;
    unsigned action = 0;
    EventRecord x;

    if (!h) {
        return;
    }
    if (!(quiet & SOFT_QUIET_EXEC) && exec_matches(h, linear)) {
        c->debug_stop = CPU_DEBUG_BREAKPOINT;
        soft_leave_before(c, SOFT_QUIET_EXEC, true);
    }
    if (quiet & SOFT_QUIET_INSN) {
        return;
    }
    x = insn_record(c, i, linear, code, h->names);
    cpu->exit = (CpuExit){ .kind = CPU_EXIT_NONE, .count = 1 };
    if (event_hub_armed(cpu->events, EVENT_MEM)) {
        EventRecord fetch = x;

        fetch.source = EVENT_MEM;
        memset(fetch.args, 0, sizeof(fetch.args));
        memcpy(&fetch.value, code, MIN(i->len, sizeof(fetch.value)));
        fetch.args[EVENT_ARG_ACCESS] = EVENT_FETCHES;
        action |= fire(c, &fetch) & EVENT_PAUSE;
    }
    if (event_hub_armed(cpu->events, EVENT_INSN)) {
        action |= fire(c, &x);
    }
    if (action == EVENT_CONTINUE && !cpu->state_dirty &&
        !__atomic_load_n(&c->attention, __ATOMIC_RELAXED)) {
        return;
    }
    if (action & EVENT_HANDLED) {
        quiet = 0;
        c->skip_bytes = i->len;
    } else {
        quiet = SOFT_QUIET_EXEC | SOFT_QUIET_INSN;
    }
    soft_leave_before(c, quiet, false);
}

void soft_exec_hooked(SoftCpu *c, const SoftInsn *i)
{
    const SoftBlock *b = c->block;
    uint64_t rip = soft_rip(c, i);
    uint64_t linear = c->mode.long_mode ? rip : (uint32_t)(c->seg[X86_CS].base + (uint32_t)rip);
    SoftExec own = b->orig[i - b->insns];

    SOFT_HERE(c, i);
    ask(c, i, linear, i == b->insns ? c->quiet_now : 0);
    c->quiet_now = 0;
    if (!(i->flags & (SOFT_I_REP | SOFT_I_REPNE))) {
        own(c, i);
        return;
    }
    /* Left between two elements, it goes on as the same instruction. */
    own(c, i);
    if (c->rip == rip) {
        c->quiet = SOFT_QUIET_EXEC | SOFT_QUIET_INSN;
        c->quiet_linear = linear;
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

bool soft_hooks_page(const SoftCpu *c, uint64_t linear, uint64_t paddr, unsigned access)
{
    const SoftHooks *h = hooks_of(c);
    /* A read-modify-write access looks at the entry for writes only. */
    unsigned wanted = access == SOFT_WRITE  ? EVENT_READS | EVENT_WRITES
                      : access == SOFT_READ ? EVENT_READS
                                            : 0;

    for (unsigned i = 0; h && i < h->n_mem; i++) {
        const EventFilter *f = &h->mem[i];
        uint64_t page = (f->source == EVENT_MEM ? linear : paddr) & ~(SOFT_PAGE - 1);

        if ((f->directions & wanted) && for_this_cpu(c, f) && f->addr <= (page | (SOFT_PAGE - 1)) &&
            filter_last(f) >= page) {
            return true;
        }
    }
    return false;
}

static uint64_t mask_of(unsigned len)
{
    return ~UINT64_C(0) >> (64 - 8 * len);
}

static uint64_t fire_access(SoftCpu *c, EventSource source, uint64_t addr, uint64_t other,
                            unsigned len, uint64_t value, uint64_t old, bool is_write)
{
    VCpu *cpu = c->vcpu;
    EventRecord x = {
        .source = source,
        .cpu = cpu->index,
        .addr = addr,
        .value = value & mask_of(len),
        .size = (uint8_t)len,
        .write = is_write,
        .args = { old & mask_of(len), other, is_write ? EVENT_WRITES : EVENT_READS },
    };

    /* Registers that a hook changes count when the instruction is done, as for a device. */
    cpu->exit = (CpuExit){
        .kind = CPU_EXIT_MMIO, .write = is_write, .size = (uint8_t)len, .count = 1, .addr = addr
    };
    return fire(c, &x) & EVENT_HANDLED ? x.value & mask_of(len) : value & mask_of(len);
}

uint64_t soft_hooks_access(SoftCpu *c, uint64_t linear, const uint64_t paddr[2], unsigned first,
                           unsigned len, uint64_t value, uint64_t old, bool is_write)
{
    VCpu *cpu = c->vcpu;

    if (event_hub_armed(cpu->events, EVENT_MEM)) {
        value = fire_access(c, EVENT_MEM, linear, paddr[0], len, value, old, is_write);
    }
    if (event_hub_armed(cpu->events, EVENT_MEM_PHYS)) {
        unsigned low = MIN(first, len);
        uint64_t v = fire_access(c, EVENT_MEM_PHYS, paddr[0], linear, low, value, old, is_write);

        if (low < len) {
            v |= fire_access(c, EVENT_MEM_PHYS, paddr[1], linear + low, len - low,
                             value >> (8 * low), old >> (8 * low), is_write)
                 << (8 * low);
        }
        value = v;
    }
    if (cpu->exit_modified || cpu->state_dirty) {
        soft_attention(c, SOFT_ATTN_KICK);
    }
    if (__atomic_load_n(&c->attention, __ATOMIC_RELAXED)) {
        soft_cut_block(c);
    }
    return value;
}
