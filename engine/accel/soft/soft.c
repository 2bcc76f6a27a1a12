/*
 * The accelerator "soft": machines, vCPU threads, interrupts and hooks on top of the software CPU.
 *
 * It has no interrupt controllers: they are the board's. A vCPU's local APIC is asked through
 * VCpu.apic_ops; without one, vCPU 0 has the INTR line (set_intr). Whoever changes something says
 * CPU_REQ_IRQ, whose kick ends soft_run; before the next one the lines are looked at under the
 * engine lock.
 */
#include <string.h>

#include "engine/accel/soft/soft-accel.h"
#include "engine/accel/soft/soft-hooks.h"
#include "engine/accel/soft/soft-icount.h"
#include "engine/accel/soft/soft-translate.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/rcu.h"

#define BUDGET_ENDLESS (INT64_MAX / 2)

enum { IRQ_LINE = 1, IRQ_APIC = 2 }; /* SoftCpu.irq_line */

static SoftCpu *soft_cpu(VCpu *cpu)
{
    return cpu->accel_data;
}

/* ---- memory changes under running vCPUs ---------------------------------------------------- */

static void tell_all(SoftAccel *a, uint32_t attention)
{
    for (unsigned i = 0; i < a->parent.config.max_cpus; i++) {
        SoftCpu *c = rcu_load(&a->cpus[i]);

        if (c) {
            soft_attention(c, attention);
        }
    }
}

static void soft_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    tell_all(l->opaque, SOFT_ATTN_VIEW);
}

static void soft_log_start(MemoryListener *l, const MemorySection *s, uint8_t old_clients,
                           uint8_t new_clients)
{
    SoftAccel *a = l->opaque;

    __atomic_store_n(&a->logging, true, __ATOMIC_SEQ_CST);
    tell_all(a, SOFT_ATTN_SYNC);
}

/* Running vCPUs mark what they may have written when they look, and then find out anew which pages
 * they write: a reader sees it this time or the next. Stopped ones have done so. */
static void soft_log_sync(MemoryListener *l, const MemorySection *s)
{
    tell_all(l->opaque, SOFT_ATTN_SYNC);
}

/* ---- the machine --------------------------------------------------------------------------- */

static bool soft_create(Accel *accel, GError **error)
{
    SoftAccel *a = SOFT_ACCEL(accel);

    /* Whatever was asked for: controllers are devices here. */
    accel->config.irqchip = IRQCHIP_OFF;
    accel->config.pit = false;
    a->cpus = g_new0(SoftCpu *, accel->config.max_cpus);
    pthread_mutex_init(&a->exclusive, NULL);
    a->listener = (MemoryListener){
        .commit = soft_commit, .log_start = soft_log_start, .log_sync = soft_log_sync, .opaque = a
    };
    memory_listener_register(&a->listener, accel->config.memory);
    if (accel->config.icount.on && accel->config.clock) {
        a->icount = soft_icount_new(a);
    }
    return true;
}

static void soft_destroy(Accel *accel)
{
    SoftAccel *a = SOFT_ACCEL(accel);

    g_clear_pointer(&a->icount, soft_icount_free);
    if (a->listener.as) {
        memory_listener_unregister(&a->listener);
        a->listener.as = NULL;
    }
    if (a->cpus) {
        pthread_mutex_destroy(&a->exclusive);
    }
    g_clear_pointer(&a->cpus, g_free);
    soft_hooks_free(a);
}

/* ---- vCPUs --------------------------------------------------------------------------------- */

/* The processor's side of its APIC, with the lock that the device wants. */
static bool apic_msr(void *opaque, uint32_t index, bool is_write, uint64_t *value)
{
    VCpu *cpu = opaque;
    bool ok = false;

    engine_lock();
    if (cpu->apic_ops) {
        ok = is_write ? cpu->apic_ops->wrmsr(cpu->apic, index, *value)
                      : cpu->apic_ops->rdmsr(cpu->apic, index, value);
    }
    engine_unlock();
    return ok;
}

static uint8_t apic_get_cr8(void *opaque)
{
    VCpu *cpu = opaque;
    uint8_t v = 0;

    engine_lock();
    if (cpu->apic_ops) {
        v = cpu->apic_ops->get_cr8(cpu->apic);
    }
    engine_unlock();
    return v;
}

static void apic_set_cr8(void *opaque, uint8_t value)
{
    VCpu *cpu = opaque;

    engine_lock();
    if (cpu->apic_ops) {
        cpu->apic_ops->set_cr8(cpu->apic, value);
    }
    engine_unlock();
}

/* soft-sys calls these from handlers, inside the run loop's RCU section: the lock may be waited for
 * there (nobody waits for a grace period while holding it). */
static const SoftApicOps apic_adapter = { .msr = apic_msr,
                                          .get_cr8 = apic_get_cr8,
                                          .set_cr8 = apic_set_cr8 };

static int apic_vector(void *opaque)
{
    VCpu *cpu = opaque;
    SoftCpu *c = soft_cpu(cpu);
    int vector = -1;

    if (__atomic_load_n(&c->irq_line, __ATOMIC_SEQ_CST) & IRQ_APIC) {
        vector = cpu->apic_ops ? cpu->apic_ops->get_interrupt(cpu->apic) : -1;
        if (!cpu->apic_ops || !cpu->apic_ops->has_interrupt(cpu->apic)) {
            __atomic_fetch_and(&c->irq_line, (uint8_t)~IRQ_APIC, __ATOMIC_SEQ_CST);
        }
        return vector;
    }
    return c->line_vector ? c->line_vector(c->line_opaque) : -1;
}

static bool soft_vcpu_create(VCpu *cpu, GError **error)
{
    SoftAccel *a = SOFT_ACCEL(cpu->accel);
    SoftCpu *c = soft_cpu_new(cpu);

    c->accel = a;
    c->irq_vector = apic_vector;
    c->irq_opaque = cpu;
    if (a->translate) {
        c->translator = soft_translator_new(a->translate_after);
        if (!c->translator) {
            log_warning("cpu %u: no memory may be executed here: nothing is translated, which is "
                        "slower",
                        cpu->index);
        }
    }
    soft_attention(c, SOFT_ATTN_HOOKS);
    cpu->accel_data = c;
    rcu_publish(&a->cpus[cpu->index], c);
    return true;
}

static void free_cpu(void *opaque)
{
    soft_cpu_free(opaque);
}

static void soft_vcpu_destroy(VCpu *cpu)
{
    SoftAccel *a = SOFT_ACCEL(cpu->accel);
    SoftCpu *c = soft_cpu(cpu);

    if (a->icount) {
        soft_icount_gone(a->icount);
    }
    cpu->accel_data = NULL;
    rcu_publish(&a->cpus[cpu->index], NULL);
    rcu_defer(free_cpu, c); /* another vCPU may be asking whether it runs */
}

static void init_processor(SoftCpu *c)
{
    const unsigned groups = X86_STATE_GPR | X86_STATE_SYSTEM | X86_STATE_DEBUG | X86_STATE_EVENTS;
    X86CPUState *s = g_aligned_alloc0(1, sizeof(X86CPUState), 64);
    CpuidEntry *signature = c->vcpu->cpuid ? cpuid_policy_find(c->vcpu->cpuid, 1, 0) : NULL;

    soft_state_store_groups(c, s, groups);
    x86_state_init(s, c->vcpu->index == 0, signature ? signature->eax : 0);
    soft_state_load_groups(c, s, groups);
    g_aligned_free(s);
}

/* Before the guest runs: what the interrupt controllers have for this vCPU. */
static void look_at_lines(SoftCpu *c)
{
    VCpu *cpu = c->vcpu;
    uint8_t vector = 0;
    unsigned asked;

    engine_lock();
    c->apic = cpu->apic_ops ? &apic_adapter : NULL;
    c->apic_opaque = cpu;
    if (cpu->apic_ops) {
        asked = cpu->apic_ops->has_requests(cpu->apic)
                    ? cpu->apic_ops->take_requests(cpu->apic, &vector)
                    : 0;
        if (asked & CPU_APIC_INIT) {
            init_processor(c);
        }
        if ((asked & CPU_APIC_SIPI) && c->wait_sipi) {
            soft_start_at(c, vector);
        }
        if (asked & CPU_APIC_NMI) {
            c->nmi_pending = true;
        }
        if (cpu->apic_ops->has_interrupt(cpu->apic)) {
            __atomic_fetch_or(&c->irq_line, IRQ_APIC, __ATOMIC_SEQ_CST);
        } else {
            __atomic_fetch_and(&c->irq_line, (uint8_t)~IRQ_APIC, __ATOMIC_SEQ_CST);
        }
    }
    engine_unlock();
}

static void fill_exit(SoftCpu *c, SoftStop stop)
{
    CpuExit *e = &c->vcpu->exit;

    *e = (CpuExit){ .kind = CPU_EXIT_INTERRUPTED, .count = 1 };
    switch (stop) {
    case SOFT_STOP_HALT:
        e->kind = CPU_EXIT_HLT;
        c->halted = false; /* from here on VCpu.halted says it */
        break;
    case SOFT_STOP_TRIPLE_FAULT:
        e->kind = CPU_EXIT_SHUTDOWN;
        break;
    case SOFT_STOP_DEBUG:
        e->kind = CPU_EXIT_DEBUG;
        e->value = c->debug_stop;
        e->addr = c->mode.long_mode ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
        e->args[0] = c->dr6;
        e->args[1] = c->dr7;
        e->args[2] = e->addr;
        break;
    case SOFT_STOP_BUDGET:
    case SOFT_STOP_KICKED:
    default:
        break;
    }
}

static void soft_vcpu_run(VCpu *cpu)
{
    SoftCpu *c = soft_cpu(cpu);
    bool counted = c->accel->icount;
    int64_t budget = BUDGET_ENDLESS;
    SoftStop stop;

    if (counted && !soft_icount_begin(c, &budget)) {
        cpu->exit = (CpuExit){ .kind = CPU_EXIT_INTERRUPTED, .count = 1 };
        return;
    }
    if (cpu->state_dirty) {
        SoftAccel *a = SOFT_ACCEL(cpu->accel);
        uint64_t starts = __atomic_load_n(&a->starts, __ATOMIC_SEQ_CST);

        c->tsc_since = starts != c->starts ? a->started : 0;
        soft_state_load_groups(c, cpu->state, cpu->state_dirty);
        c->tsc_since = 0;
        cpu->state_dirty = 0;
    }
    c->starts = __atomic_load_n(&SOFT_ACCEL(cpu->accel)->starts, __ATOMIC_SEQ_CST);
    cpu->state_valid = 0;
    look_at_lines(c);
    if (c->wait_sipi) {
        cpu->exit = (CpuExit){ .kind = CPU_EXIT_HLT, .count = 1 };
        stop = SOFT_STOP_KICKED;
    } else {
        stop = soft_run(c, budget);
        fill_exit(c, stop);
    }
    if (counted) {
        soft_icount_end(c);
    }
    if (__atomic_load_n(&SOFT_ACCEL(cpu->accel)->logging, __ATOMIC_SEQ_CST)) {
        soft_tlb_drop_writes(c);
    }
    cpu->state_valid &= cpu->state_dirty;
}

/* Accesses are finished where they are made. */
static void soft_vcpu_finish_exit(VCpu *cpu)
{
}

static void soft_vcpu_kick(VCpu *cpu)
{
    SoftCpu *c = __atomic_load_n(&cpu->accel_data, __ATOMIC_ACQUIRE);

    if (c) {
        soft_attention(c, SOFT_ATTN_KICK);
    }
}

bool soft_has_work(VCpu *cpu)
{
    SoftCpu *c = soft_cpu(cpu);
    bool interrupt = __atomic_load_n(&c->irq_line, __ATOMIC_SEQ_CST) & IRQ_LINE;
    uint64_t rflags = cpu->state_dirty & X86_STATE_GPR ? cpu->state->rflags : c->flags;

    if (cpu->apic_ops) {
        if (cpu->apic_ops->has_requests(cpu->apic)) {
            return true;
        }
        interrupt |= cpu->apic_ops->has_interrupt(cpu->apic);
    }
    if (c->wait_sipi) {
        return false;
    }
    return (interrupt && (rflags & FLAG_IF)) || (c->nmi_pending && !c->nmi_masked) ||
           (__atomic_load_n(&c->attention, __ATOMIC_SEQ_CST) & SOFT_ATTN_NMI);
}

static bool soft_vcpu_has_work(VCpu *cpu)
{
    return soft_cpu(cpu)->accel->icount ? soft_icount_may_wake(cpu) : soft_has_work(cpu);
}

static void soft_vcpu_idle(VCpu *cpu)
{
    if (soft_cpu(cpu)->accel->icount) {
        soft_icount_idle(cpu);
    }
}

static bool soft_get_state(VCpu *cpu, unsigned groups, GError **error)
{
    soft_state_store_groups(soft_cpu(cpu), cpu->state, groups);
    return true;
}

static bool soft_put_state(VCpu *cpu, unsigned groups, GError **error)
{
    soft_state_load_groups(soft_cpu(cpu), cpu->state, groups);
    return true;
}

static bool soft_set_cpuid(VCpu *cpu, GError **error)
{
    SoftCpu *c = soft_cpu(cpu);
    uint32_t out[4];
    unsigned bits;

    cpuid_policy_query(cpu->cpuid, 0x80000008, 0, out);
    bits = out[0] & 0xff;
    if (bits >= 32 && bits <= 52) {
        c->phys_bits = (uint8_t)bits;
    }
    return true;
}

static CpuidPolicy *soft_cpuid_policy(GError **error)
{
    return soft_supported_cpuid();
}

/* ---- interrupts ---------------------------------------------------------------------------- */

/* Lines without a controller on the board lead nowhere. */
static void soft_set_gsi(Accel *accel, unsigned gsi, int level)
{
}

static void soft_set_intr(VCpu *cpu, bool level, int (*vector)(void *opaque), void *opaque)
{
    SoftCpu *c = soft_cpu(cpu);

    if (!c) {
        return;
    }
    c->line_vector = vector;
    c->line_opaque = opaque;
    if (level) {
        __atomic_fetch_or(&c->irq_line, IRQ_LINE, __ATOMIC_SEQ_CST);
        cpu_request(cpu, CPU_REQ_IRQ);
    } else {
        __atomic_fetch_and(&c->irq_line, (uint8_t)~IRQ_LINE, __ATOMIC_SEQ_CST);
    }
}

static bool soft_inject_nmi(VCpu *cpu, GError **error)
{
    soft_attention(soft_cpu(cpu), SOFT_ATTN_NMI);
    cpu_request(cpu, CPU_REQ_IRQ);
    return true;
}

static void soft_set_a20(Accel *accel, bool open)
{
    SoftAccel *a = SOFT_ACCEL(accel);

    __atomic_store_n(&a->a20_closed, !open, __ATOMIC_SEQ_CST);
    tell_all(a, SOFT_ATTN_VIEW);
}

/* ---- hooks and debugging ------------------------------------------------------------------- */

static uint64_t filter_last(const EventFilter *f)
{
    uint64_t last;

    if (__builtin_add_overflow(f->addr, f->len ? f->len - 1 : 0, &last)) {
        last = UINT64_MAX;
    }
    return last;
}

static bool covers_ram(SoftAccel *a, uint64_t first, uint64_t last)
{
    const FlatView *view;
    bool all = false;

    rcu_enter();
    view = address_space_flat_view(a->parent.config.memory);
    for (unsigned i = 0; i < view->n; i++) {
        const FlatRange *r = &view->ranges[i];

        if (r->addr <= first && r->last >= last && r->ram && !r->readonly &&
            r->kind != MEMORY_ROM_DEVICE) {
            all = true;
        }
    }
    rcu_leave();
    return all;
}

static bool soft_arm(Accel *accel, const EventFilter *f, AccelHookInfo *info, GError **error)
{
    SoftAccel *a = SOFT_ACCEL(accel);

    switch (f->source) {
    case EVENT_PIO:
        info->how = g_strdup("port exit");
        return true;
    case EVENT_MMIO:
        if (covers_ram(a, f->addr, filter_last(f))) {
            g_autofree char *what = address_space_describe(a->parent.config.memory, f->addr);

            return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                             "%#" G_GINT64_MODIFIER
                             "x is %s: the guest reaches it without an exit; watch a device's "
                             "address",
                             f->addr, what);
        }
        info->how = g_strdup("mmio exit");
        return true;
    case EVENT_EXEC:
        soft_hooks_arm(a, f);
        info->how = g_strdup("decoded breakpoint");
        return true;
    case EVENT_INSN:
        soft_hooks_arm(a, f);
        info->how = g_strdup("decoded hook");
        return true;
    case EVENT_MEM:
    case EVENT_MEM_PHYS:
        soft_hooks_arm(a, f);
        info->how = g_strdup("software TLB");
        return true;
    default:
        info->how = g_strdup("interpreter");
        return true;
    }
}

static void soft_disarm(Accel *accel, const EventFilter *f)
{
    soft_hooks_disarm(SOFT_ACCEL(accel), f);
}

static bool soft_step(VCpu *cpu, GError **error)
{
    soft_cpu(cpu)->step = true;
    return true;
}

static void soft_clock_changed(Accel *accel, bool running)
{
    SoftAccel *a = SOFT_ACCEL(accel);
    SoftCpu *c = a->cpus[0];

    if (running && c) {
        a->started = (uint64_t)event_hub_now(c->vcpu->events);
        __atomic_add_fetch(&a->starts, 1, __ATOMIC_SEQ_CST);
    }
}

static void soft_stats(Accel *accel, void (*fn)(const char *name, uint64_t value, void *opaque),
                       void *opaque)
{
    SoftAccel *a = SOFT_ACCEL(accel);
    uint64_t instructions = 0, made = 0, flushes = 0, translated = 0, entries = 0;

    for (unsigned i = 0; i < accel->config.max_cpus; i++) {
        if (a->cpus[i]) {
            instructions += __atomic_load_n(&a->cpus[i]->icount, __ATOMIC_RELAXED);
            soft_blocks_count(a->cpus[i], &made, &flushes);
            soft_translator_count(a->cpus[i], &translated, &entries);
        }
    }
    fn("soft-instructions", instructions, opaque);
    if (a->icount) {
        fn("icount", soft_icount_count(a->icount), opaque);
    }
    fn("soft-blocks", made, opaque);
    fn("soft-cache-flushes", flushes, opaque);
    fn("soft-translated", translated, opaque);
    fn("soft-entries", entries, opaque);
}

static const VMStateDescription *soft_vmstate(Accel *accel)
{
    return SOFT_ACCEL(accel)->icount ? &soft_icount_vmstate : NULL;
}

/* Time goes on when the guest resets. */
static void soft_reset(Accel *accel)
{
}

/* ---- the type ------------------------------------------------------------------------------ */

static const Property soft_props[] = {
    { .name = "translate",
      .doc = "Code that is executed often is translated to the host's",
      .kind = PROP_BOOL,
      .offset = offsetof(SoftAccel, translate),
      .has_default = true,
      .def = { .kind = PROP_BOOL, .boolean = true } },
    { .name = "translate-after",
      .doc = "How often a block is interpreted first; 0: all is translated",
      .kind = PROP_UINT,
      .bits = 32,
      .offset = offsetof(SoftAccel, translate_after),
      .has_default = true,
      .def = { .kind = PROP_UINT, .uinteger = 24 } },
};

static void soft_accel_class_init(ObjectClass *klass, const void *data)
{
    AccelClass *ac = ACCEL_CLASS(klass);

    ac->short_name = "soft";
    ac->icount = true;
    ac->create = soft_create;
    ac->destroy = soft_destroy;
    ac->vcpu_create = soft_vcpu_create;
    ac->vcpu_destroy = soft_vcpu_destroy;
    ac->vcpu_run = soft_vcpu_run;
    ac->vcpu_finish_exit = soft_vcpu_finish_exit;
    ac->vcpu_kick = soft_vcpu_kick;
    ac->vcpu_kick_suffices = true;
    ac->vcpu_has_work = soft_vcpu_has_work;
    ac->vcpu_idle = soft_vcpu_idle;
    ac->vmstate = soft_vmstate;
    ac->reset = soft_reset;
    ac->get_state = soft_get_state;
    ac->put_state = soft_put_state;
    ac->check_state = soft_check_state;
    ac->set_cpuid = soft_set_cpuid;
    ac->supported_cpuid = soft_cpuid_policy;
    ac->set_gsi = soft_set_gsi;
    ac->set_intr = soft_set_intr;
    ac->set_a20 = soft_set_a20;
    ac->inject_nmi = soft_inject_nmi;
    ac->arm = soft_arm;
    ac->disarm = soft_disarm;
    ac->step = soft_step;
    ac->clock_changed = soft_clock_changed;
    ac->stats = soft_stats;
    object_class_add_properties(klass, soft_props, G_N_ELEMENTS(soft_props));
}

static const TypeInfo soft_accel_type = {
    .name = TYPE_SOFT_ACCEL,
    .parent = TYPE_ACCEL,
    .doc = "The software CPU: interprets x86 or translates it, needs nothing of the host's.",
    .instance_size = sizeof(SoftAccel),
    .class_size = sizeof(SoftAccelClass),
    .class_init = soft_accel_class_init,
};

static void soft_accel_register(void)
{
    type_register_static(&soft_accel_type);
}
type_init(soft_accel_register)
