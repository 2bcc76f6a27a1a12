/*
 * The run loop: blocks, and between them everything that is not an instruction: exceptions on their
 * way out of a handler, interrupts, debug traps, halting, kicks.
 */
#include <string.h>

#include "engine/accel/soft/soft-accel.h"
#include "engine/accel/soft/soft-block.h"
#include "engine/accel/soft/soft-hooks.h"
#include "engine/accel/soft/soft-icount.h"
#include "engine/accel/soft/soft-log.h"
#include "engine/accel/soft/soft-translate.h"
#include "engine/core/lock.h"
#include "engine/core/rcu.h"

enum { ESCAPE_EXCEPTION = 1, ESCAPE_LEAVE, ESCAPE_ABANDON, ESCAPE_DEBUG };

void soft_attention(SoftCpu *c, uint32_t bits)
{
    __atomic_fetch_or(&c->attention, bits, __ATOMIC_SEQ_CST);
}

/* ---- leaving a handler --------------------------------------------------------------------- */

/* `done` instructions of the present block were executed, the next one is at `off`. */
static void leave_block(SoftCpu *c, unsigned done, unsigned off)
{
    uint64_t rip = c->rip + off;

    done += c->rep_counted;
    c->rep_counted = false;
    c->budget += c->block->n - done;
    c->icount -= c->block->n - done;
    c->rip = c->mode.long_mode ? rip : (uint32_t)rip;
    c->block = NULL;
}

static _Noreturn void escape_to_loop(SoftCpu *c, int how)
{
    soft_translated_escape(c);
    siglongjmp(c->escape, how);
}

static _Noreturn void escape_with(SoftCpu *c, unsigned vector, bool has_error, uint32_t error)
{
    c->raised.vector = (uint8_t)vector;
    c->raised.has_error = has_error;
    c->raised.error = error;
    if (c->block) {
        leave_block(c, (unsigned)(c->insn - c->block->insns), c->insn->off);
    }
    escape_to_loop(c, ESCAPE_EXCEPTION);
}

void soft_raise(SoftCpu *c, unsigned vector)
{
    escape_with(c, vector, false, 0);
}

void soft_raise_error(SoftCpu *c, unsigned vector, uint32_t error)
{
    escape_with(c, vector, true, error);
}

void soft_page_fault(SoftCpu *c, uint64_t addr, uint32_t error)
{
    c->cr2 = addr;
    escape_with(c, EXC_PF, true, error);
}

void soft_leave(SoftCpu *c)
{
    if (c->block) {
        leave_block(c, (unsigned)(c->insn - c->block->insns) + 1, c->insn->off + c->insn->len);
    }
    escape_to_loop(c, ESCAPE_LEAVE);
}

void soft_abandon(SoftCpu *c)
{
    if (c->block) {
        leave_block(c, (unsigned)(c->insn - c->block->insns), c->insn->off);
    }
    escape_to_loop(c, ESCAPE_ABANDON);
}

void soft_leave_before(SoftCpu *c, unsigned quiet, bool debug)
{
    VCpu *cpu = c->vcpu;
    unsigned skip = c->skip_bytes;
    uint64_t rip;

    if (c->insn == c->block->insns) {
        c->inhibit_interrupts = c->shadow_over;
        c->flags |= c->rf_over ? FLAG_RF : 0;
    }
    leave_block(c, (unsigned)(c->insn - c->block->insns), c->insn->off);
    rip = c->rip;
    c->skip_bytes = 0;
    c->quiet_now = 0;
    c->quiet = (uint8_t)quiet;
    c->quiet_linear = c->mode.long_mode ? rip : (uint32_t)(c->seg[X86_CS].base + rip);
    if (cpu->state_dirty) {
        soft_state_load_groups(c, cpu->state, cpu->state_dirty);
        cpu->state_dirty = cpu->state_valid = 0;
    }
    if (skip && c->rip == rip) {
        c->rip = c->mode.long_mode ? rip + skip : (uint32_t)(rip + skip);
    }
    escape_to_loop(c, debug ? ESCAPE_DEBUG : ESCAPE_LEAVE);
}

static inline void execute(SoftCpu *c, SoftBlock *block)
{
    c->block = block;
    c->insn = block->insns;
    c->budget -= block->n;
    c->icount += block->n;
    block->insns[0].fn(c, block->insns);
    c->block = NULL;
}

void soft_execute_block(SoftCpu *c, SoftBlock *block)
{
    execute(c, block);
}

/* ---- between blocks ------------------------------------------------------------------------ */

static bool take_interrupt(SoftCpu *c)
{
    int vector = -1;

    if (c->nmi_pending && !c->nmi_masked) {
        c->nmi_pending = false;
        c->halted = false;
        c->nmi_masked = true;
        soft_interrupt(c, EXC_NMI, SOFT_INT_HARDWARE, false, 0, c->rip);
        return true;
    }
    if (!__atomic_load_n(&c->irq_line, __ATOMIC_SEQ_CST) || !(c->flags & FLAG_IF)) {
        return false;
    }
    c->halted = false;
    if (c->irq_vector) {
        bool was_in = c->in_rcu;

        if (was_in) {
            soft_rcu_leave(c);
        }
        engine_lock();
        vector = c->irq_vector(c->irq_opaque);
        engine_unlock();
        if (was_in) {
            soft_rcu_enter(c);
        }
    }
    if (vector < 0) {
        return false;
    }
    soft_interrupt(c, (unsigned)vector & 0xff, SOFT_INT_HARDWARE, false, 0, c->rip);
    return true;
}

static bool page_has_breakpoint(const SoftCpu *c, uint64_t linear)
{
    uint64_t page = linear & ~(SOFT_PAGE - 1);

    for (unsigned i = 0; c->watch_fetch && i < 4; i++) {
        if ((c->dr[i] & ~(SOFT_PAGE - 1)) == page) {
            return true;
        }
    }
    return false;
}

/* One instruction with everything that may be asked of a single one. False: stop for a debugger. */
static bool run_one(SoftCpu *c)
{
    uint64_t linear = c->mode.long_mode ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
    bool tf = c->flags & FLAG_TF, near = page_has_breakpoint(c, linear), step = c->step;
    bool single = tf || c->inhibit_interrupts || step || near || (c->flags & FLAG_RF);
    SoftBlock *b;

    c->shadow_over = c->inhibit_interrupts;
    c->inhibit_interrupts = 0;
    c->quiet_now = c->quiet && c->quiet_linear == linear ? c->quiet : 0;
    c->quiet = 0;
    if (near && c->watch_fetch && !(c->shadow_over & SHADOW_SS)) {
        soft_debug_hit(c, linear, 1, SOFT_FETCH);
    }
    c->rf_over = c->flags & FLAG_RF;
    c->flags &= ~(uint32_t)FLAG_RF;
    c->single = single;
    b = soft_block_lookup(c);
    if (b->n > c->budget) {
        c->single = true;
        b = soft_block_lookup(c);
    }
    if (c->log_exec) {
        soft_log_exec(c);
    }
    soft_execute_block(c, b);
    c->single = false;
    c->shadow_over = 0;
    if ((tf || c->db_pending) && !(c->inhibit_interrupts & SHADOW_SS)) {
        bool trap = tf && ((c->flags & FLAG_TF) || (b->insns[0].flags & SOFT_I_TF_TRAP));

        if (soft_debug_trap(c, trap)) {
            soft_interrupt(c, EXC_DB, SOFT_INT_EXCEPTION, false, 0, c->rip);
        }
    }
    if (step) {
        c->step = false;
        c->debug_stop = CPU_DEBUG_STEP;
        return false;
    }
    return true;
}

/* Something needs a look. *stop is set when soft_run is over. */
static bool look_around(SoftCpu *c, SoftStop *stop)
{
    uint32_t attention = __atomic_load_n(&c->attention, __ATOMIC_SEQ_CST);

    if (attention & (SOFT_ATTN_SHOOT | SOFT_ATTN_SYNC)) {
        soft_tlb_drop_writes(c);
    }
    /* Who waits for us sees the bits go only now that the entries are gone. */
    __atomic_fetch_and(&c->attention, ~attention, __ATOMIC_SEQ_CST);
    if (attention & SOFT_ATTN_VIEW) {
        soft_rcu_leave(c);
        soft_rcu_enter(c);
    }
    if (attention & SOFT_ATTN_NMI) {
        c->nmi_pending = true;
    }
    if (attention & SOFT_ATTN_HOOKS) {
        soft_hooks_update(c);
    }
    if (attention & SOFT_ATTN_TIME) {
        soft_icount_rebudget(c);
    }
    soft_mmu_look(c);
    if (c->db_pending && !(c->flags & FLAG_TF) && !(c->inhibit_interrupts & SHADOW_SS) &&
        soft_debug_trap(c, false)) {
        soft_interrupt(c, EXC_DB, SOFT_INT_EXCEPTION, false, 0, c->rip);
    }
    if (attention & SOFT_ATTN_KICK) {
        *stop = SOFT_STOP_KICKED;
        return true;
    }
    return false;
}

static SoftStop run_blocks(SoftCpu *c)
{
    SoftStop stop = SOFT_STOP_KICKED;

    for (;;) {
        SoftBlock *b;

        if (__builtin_expect(__atomic_load_n(&c->attention, __ATOMIC_RELAXED) != 0, 0) &&
            look_around(c, &stop)) {
            return stop;
        }
        if (__builtin_expect(c->look != 0, 0) && c->triple_fault) {
            return SOFT_STOP_TRIPLE_FAULT;
        }
        if (__builtin_expect((__atomic_load_n(&c->irq_line, __ATOMIC_RELAXED) | c->nmi_pending),
                             0) &&
            !c->inhibit_interrupts && take_interrupt(c)) {
            continue;
        }
        if (__builtin_expect(c->look != 0, 0) && c->halted) {
            return SOFT_STOP_HALT;
        }
        if (__builtin_expect(c->budget <= 0, 0)) {
            return SOFT_STOP_BUDGET;
        }
        if (__builtin_expect(c->look != 0 || (c->flags & FLAG_TF), 0)) {
            if (!run_one(c)) {
                return SOFT_STOP_DEBUG;
            }
            continue;
        }
        /* Good for one instruction, and nobody looks at it. */
        c->flags &= ~(uint32_t)FLAG_RF;
        b = soft_block_next(c);
        if (__builtin_expect(b->n > c->budget, 0)) {
            /* The run ends exactly: what is left is done one by one. */
            c->single = true;
            b = soft_block_lookup(c);
            execute(c, b);
            c->single = false;
            continue;
        }
        /* Code that would leave at once, for an interrupt that IF holds back, makes no way. */
        if (c->translator && !__atomic_load_n(&c->wanted, __ATOMIC_RELAXED) &&
            soft_translated(c, b)) {
            soft_translated_run(c, b);
            continue;
        }
        execute(c, b);
    }
}

/* A delivery that was under way when the state was saved. */
static void deliver_injected(SoftCpu *c)
{
    bool soft = c->injected.soft;

    c->injected.valid = false;
    soft_interrupt(c, c->injected.vector,
                   soft                       ? SOFT_INT_SOFTWARE
                   : c->injected.is_interrupt ? SOFT_INT_HARDWARE
                                              : SOFT_INT_EXCEPTION,
                   c->injected.has_error, c->injected.error, c->rip);
}

SoftStop soft_run(SoftCpu *c, int64_t budget)
{
    SoftStop stop;

    c->budget = budget;
    c->block = NULL;
    c->log_exec = log_enabled(LOG_EXEC);
    soft_rcu_enter(c);
    c->link = 0;
    switch (sigsetjmp(c->escape, 0)) {
    case ESCAPE_EXCEPTION:
        c->block = NULL;
        c->single = false;
        c->shadow_over = 0;
        c->db_pending = 0;
        soft_exclusive_end(c);
        /* An endless series of faults, of which no instruction comes to its end, is to end too. */
        c->budget--;
        c->icount++;
        soft_mmu_look(c);
        soft_interrupt(c, c->raised.vector, SOFT_INT_EXCEPTION, c->raised.has_error,
                       c->raised.error, c->rip);
        break;
    case ESCAPE_DEBUG:
        c->shadow_over = 0;
        c->block = NULL;
        c->single = false;
        soft_rcu_leave(c);
        return SOFT_STOP_DEBUG;
    case ESCAPE_LEAVE:
        c->shadow_over = 0;
        soft_exclusive_end(c);
        c->block = NULL;
        c->single = false;
        break;
    case ESCAPE_ABANDON:
        c->block = NULL;
        c->single = false;
        c->shadow_over = 0;
        soft_exclusive_end(c);
        soft_attention(c, SOFT_ATTN_KICK);
        break;
    default:
        if (c->injected.valid) {
            deliver_injected(c);
        }
        break;
    }
    stop = run_blocks(c);
    soft_mmu_look(c);
    soft_rcu_leave(c);
    return stop;
}
