/*
 * Time as a count of instructions.
 *
 * The machine's virtual clock is (instructions executed by all vCPUs << shift) plus what idle time
 * was skipped. vCPUs keep their threads, but one at a time has the turn: a run ends exactly at the
 * next timer or at the next boundary, every SLICE instructions. At both the vCPU stands still until
 * the main thread, for which it opens its gate, has fired what is due and has found nothing more to
 * do; at a boundary the turn then goes on, round robin. So timers, input, completions and scripts
 * reach the machine at defined counts only, and how fast the host is plays no part. In between the
 * main loop dispatches nothing.
 *
 * A vCPU that halts passes the turn. When none can go on, time skips to the first timer, or the
 * main thread waits for it in real time (`sleep`).
 */
#include "engine/accel/soft/soft-icount.h"

#include "engine/core/clock.h"
#include "engine/core/lock.h"

#define SLICE UINT64_C(200000)

struct SoftIcount {
    SoftAccel *accel;
    Clock *clock;
    unsigned shift;
    bool sleep;
    MainLoopGate gate;
    BottomHalf *bh;
    Timer alarm; /* sleep: real time at which the first timer is due */
    int64_t alarm_at;
    uint64_t base;     /* what a restored state had counted, less `executed` then */
    uint64_t executed; /* atomic; in this process, up to date at accesses and ends of runs */
    int64_t skipped;   /* atomic; ns */
    int64_t deadline;  /* atomic; of the clock's first timer; -1: none */
    uint64_t mark;     /* icount of `runs` when `executed` was brought up to date */
    SoftCpu *runs;     /* atomic; has the turn and is in the guest */
    uint64_t boundary; /* `executed` at which the next one is */
    unsigned turn;
    bool pending; /* the main thread is asked, or has to be before anybody runs */
    bool granted; /* it was: at least one instruction is executed */
    bool yield;
};

static VCpu *vcpu_at(const SoftIcount *ic, unsigned i)
{
    SoftCpu *c = ic->accel->cpus[i];

    return c ? c->vcpu : NULL;
}

/* ---- counting ------------------------------------------------------------------------------ */

static uint64_t executed(const SoftIcount *ic)
{
    return __atomic_load_n(&ic->executed, __ATOMIC_RELAXED);
}

uint64_t soft_icount_count(const SoftIcount *ic)
{
    return ic->base + executed(ic);
}

static int64_t source_now(void *opaque)
{
    const SoftIcount *ic = opaque;

    return (int64_t)(executed(ic) << ic->shift) + __atomic_load_n(&ic->skipped, __ATOMIC_RELAXED);
}

void soft_icount_publish(SoftCpu *c)
{
    SoftIcount *ic = c->accel->icount;
    uint64_t now = c->icount;

    if (ic->runs != c) {
        return; /* somebody looks at a vCPU that stands */
    }
    if (c->block) { /* a block is counted when it is entered */
        now -= c->block->n - (uint64_t)(c->insn - c->block->insns);
    }
    __atomic_store_n(&ic->executed, executed(ic) + (now - ic->mark), __ATOMIC_RELAXED);
    ic->mark = now;
}

static uint64_t instructions_to(const SoftIcount *ic, int64_t deadline)
{
    int64_t left = deadline - clock_now(ic->clock);

    return left <= 0 ? 0 : ((uint64_t)left + (UINT64_C(1) << ic->shift) - 1) >> ic->shift;
}

static bool timer_due(const SoftIcount *ic)
{
    int64_t deadline = __atomic_load_n(&ic->deadline, __ATOMIC_RELAXED);

    return deadline >= 0 && deadline <= clock_now(ic->clock);
}

static int64_t budget_of(SoftIcount *ic)
{
    int64_t deadline = __atomic_load_n(&ic->deadline, __ATOMIC_RELAXED);
    uint64_t left = ic->boundary > executed(ic) ? ic->boundary - executed(ic) : 0;

    if (deadline >= 0) {
        left = MIN(left, instructions_to(ic, deadline));
    }
    return (int64_t)left;
}

void soft_icount_rebudget(SoftCpu *c)
{
    SoftIcount *ic = c->accel->icount;

    soft_icount_publish(c);
    c->budget = ic->yield ? 0 : budget_of(ic);
}

/* By whoever arms a timer: a device in the middle of the vCPU's instruction, or the main thread. */
static void deadline_changed(void *opaque)
{
    SoftIcount *ic = opaque;
    SoftCpu *c = __atomic_load_n(&ic->runs, __ATOMIC_SEQ_CST);

    __atomic_store_n(&ic->deadline, clock_deadline(ic->clock), __ATOMIC_SEQ_CST);
    if (c) {
        soft_attention(c, SOFT_ATTN_TIME);
    }
}

/* ---- turns --------------------------------------------------------------------------------- */

static bool can_hold(const SoftIcount *ic, unsigned i)
{
    VCpu *cpu = vcpu_at(ic, i);

    return cpu && cpu->thread_alive && !cpu->stopped && (!cpu->halted || soft_has_work(cpu));
}

/* To the next vCPU that can go on, perhaps the same one. False: none can. */
static bool pass_turn(SoftIcount *ic)
{
    unsigned n = ic->accel->parent.config.max_cpus;

    for (unsigned k = 1; k <= n; k++) {
        unsigned i = (ic->turn + k) % n;

        if (can_hold(ic, i)) {
            VCpu *cpu = vcpu_at(ic, i);

            ic->turn = i;
            if (cpu->halted) {
                cpu_request(cpu, CPU_REQ_IRQ);
            } else {
                cpu_wake(cpu);
            }
            return true;
        }
    }
    return false;
}

/* Nobody can go on, and it is not that somebody has stopped the machine. */
static bool all_idle(const SoftIcount *ic)
{
    bool halted = false;

    for (unsigned i = 0; i < ic->accel->parent.config.max_cpus; i++) {
        VCpu *cpu = vcpu_at(ic, i);

        if (can_hold(ic, i)) {
            return false;
        }
        halted |= cpu && cpu->thread_alive && !cpu->stopped;
    }
    return halted;
}

bool soft_icount_may_wake(VCpu *cpu)
{
    SoftIcount *ic = SOFT_ACCEL(cpu->accel)->icount;

    if (!soft_has_work(cpu)) {
        return false;
    }
    if (!can_hold(ic, ic->turn)) {
        pass_turn(ic);
    }
    return ic->turn == (unsigned)cpu->index;
}

/* ---- the main thread's part ---------------------------------------------------------------- */

static void ask_main_thread(SoftIcount *ic)
{
    if (!ic->gate.waiting) {
        main_loop_gate_wait(&ic->gate);
        bh_schedule(ic->bh);
    }
}

/* Whatever was to happen at this count has happened. */
static void main_thread_done(void *opaque)
{
    SoftIcount *ic = opaque;
    VCpu *cpu;

    if (!clock_running(ic->clock)) {
        return; /* stopped meanwhile: who goes on asks again */
    }
    ic->pending = false;
    ic->granted = true;
    if (executed(ic) >= ic->boundary) {
        ic->boundary = executed(ic) + SLICE;
        pass_turn(ic);
    }
    cpu = vcpu_at(ic, ic->turn);
    if (cpu) {
        cpu_wake(cpu);
    }
}

static void plan_idle(SoftIcount *ic)
{
    int64_t deadline = __atomic_load_n(&ic->deadline, __ATOMIC_RELAXED);

    if (deadline < 0) {
        return; /* only somebody from outside can go on with it */
    }
    if (ic->sleep) {
        ic->alarm_at = clock_now(clock_realtime()) + MAX(deadline - clock_now(ic->clock), 0);
        timer_arm(&ic->alarm, ic->alarm_at);
    } else {
        bh_schedule(ic->bh);
    }
}

static void on_main_thread(void *opaque)
{
    SoftIcount *ic = opaque;

    if (!clock_running(ic->clock)) {
        return;
    }
    if (all_idle(ic)) {
        int64_t deadline = __atomic_load_n(&ic->deadline, __ATOMIC_RELAXED);
        int64_t left = deadline - clock_now(ic->clock);

        if (deadline < 0 || (ic->sleep && clock_now(clock_realtime()) < ic->alarm_at)) {
            return;
        }
        if (left > 0) {
            __atomic_fetch_add(&ic->skipped, left, __ATOMIC_RELAXED);
        }
    }
    clock_run_timers(ic->clock);
    if (all_idle(ic)) {
        plan_idle(ic);
    } else if (!can_hold(ic, ic->turn)) {
        pass_turn(ic);
    }
}

/* ---- the vCPU's part ------------------------------------------------------------------------ */

bool soft_icount_begin(SoftCpu *c, int64_t *budget)
{
    SoftIcount *ic = c->accel->icount;
    VCpu *cpu = c->vcpu;

    engine_lock();
    for (;;) {
        if (ic->turn != (unsigned)cpu->index) {
            if (!can_hold(ic, ic->turn)) {
                pass_turn(ic);
            }
        } else if (ic->yield) {
            ic->yield = false;
            pass_turn(ic);
        } else if (!ic->pending && executed(ic) < ic->boundary && (ic->granted || !timer_due(ic))) {
            break;
        } else {
            ic->pending = true;
            ask_main_thread(ic);
        }
        if (ic->turn == (unsigned)cpu->index && !ic->pending) {
            continue;
        }
        if (!cpu_sleep(cpu)) {
            engine_unlock();
            return false;
        }
    }
    main_loop_gate_set(&ic->gate, true);
    *budget = MAX(budget_of(ic), ic->granted ? 1 : 0);
    ic->granted = false;
    ic->mark = c->icount;
    __atomic_store_n(&ic->runs, c, __ATOMIC_SEQ_CST);
    engine_unlock();
    return true;
}

void soft_icount_end(SoftCpu *c)
{
    SoftIcount *ic = c->accel->icount;

    soft_icount_publish(c);
    __atomic_store_n(&ic->runs, NULL, __ATOMIC_SEQ_CST);
}

void soft_icount_idle(VCpu *cpu)
{
    SoftIcount *ic = SOFT_ACCEL(cpu->accel)->icount;

    if (cpu->stopped) {
        /* What the main thread does meanwhile is to be complete before anybody goes on. */
        ic->pending = true;
        main_loop_gate_set(&ic->gate, false);
        return;
    }
    if (ic->turn != (unsigned)cpu->index) {
        return;
    }
    if (soft_has_work(cpu)) {
        cpu_request(cpu, CPU_REQ_IRQ);
    } else if (!pass_turn(ic) && all_idle(ic)) {
        ic->pending = true;
        main_loop_gate_set(&ic->gate, false);
        plan_idle(ic);
    }
}

void soft_icount_gone(SoftIcount *ic)
{
    ic->pending = true;
    main_loop_gate_set(&ic->gate, false);
}

void soft_icount_yield(SoftCpu *c)
{
    c->accel->icount->yield = true;
    soft_attention(c, SOFT_ATTN_TIME);
}

/* SplitMix64: a counter and a mixing function (Steele, Lea, Flood 2014). */
uint64_t soft_icount_random(SoftIcount *ic)
{
    uint64_t z = ic->accel->icount_saved.random += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- life and saved state ------------------------------------------------------------------- */

SoftIcount *soft_icount_new(SoftAccel *a)
{
    const AccelConfig *config = &a->parent.config;
    SoftIcount *ic = g_new0(SoftIcount, 1);

    ic->accel = a;
    ic->clock = config->clock;
    ic->shift = config->icount.shift;
    ic->sleep = config->icount.sleep;
    ic->boundary = SLICE;
    ic->pending = true;
    a->icount_saved.random = config->icount.seed;
    ic->bh = bh_new(on_main_thread, ic);
    timer_setup(&ic->alarm, clock_realtime(), on_main_thread, ic);
    main_loop_gate_add(&ic->gate, main_thread_done, ic);
    /* The clock goes on from where it is. */
    ic->skipped = clock_now(ic->clock);
    ic->deadline = clock_deadline(ic->clock);
    clock_set_source(ic->clock, source_now, deadline_changed, ic);
    return ic;
}

void soft_icount_free(SoftIcount *ic)
{
    if (!ic) {
        return;
    }
    clock_set_source(ic->clock, NULL, NULL, NULL);
    main_loop_gate_remove(&ic->gate);
    timer_disarm(&ic->alarm);
    bh_free(ic->bh);
    g_free(ic);
}

static void pre_save(void *opaque)
{
    SoftAccel *a = opaque;
    SoftIcount *ic = a->icount;

    a->icount_saved.count = soft_icount_count(ic);
    a->icount_saved.left = ic->boundary > executed(ic) ? ic->boundary - executed(ic) : 0;
    a->icount_saved.turn = ic->turn;
}

static bool post_load(void *opaque, unsigned version, GError **error)
{
    SoftAccel *a = opaque;
    SoftIcount *ic = a->icount;

    ic->base = a->icount_saved.count - executed(ic);
    ic->boundary = executed(ic) + MIN(a->icount_saved.left, SLICE);
    ic->turn = a->icount_saved.turn < a->parent.config.max_cpus ? a->icount_saved.turn : 0;
    ic->pending = true;
    ic->yield = false;
    return true;
}

const VMStateDescription soft_icount_vmstate = {
    .name = "soft-icount",
    .version = 1,
    .minimum_version = 1,
    .pre_save = pre_save,
    .post_load = post_load,
    .fields =
        (const VMStateField[]){
            VMSTATE_UINT64(icount_saved.count, SoftAccel),
            VMSTATE_UINT64(icount_saved.left, SoftAccel),
            VMSTATE_UINT64(icount_saved.random, SoftAccel),
            VMSTATE_UINT32(icount_saved.turn, SoftAccel),
            VMSTATE_END(),
        },
};
