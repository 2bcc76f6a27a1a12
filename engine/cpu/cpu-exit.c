/*
 * What happens with an exit, the same for every accelerator.
 *
 * The way of a port or memory access that nobody hooked is short on purpose: count, remember, test
 * one word of the hub, dispatch. Everything else is out of line.
 */
#include <string.h>

#include "engine/core/log.h"
#include "engine/cpu/cpu.h"

static const char *const exit_names[CPU_EXIT_KINDS] = {
    [CPU_EXIT_NONE] = "none",
    [CPU_EXIT_PIO] = "pio",
    [CPU_EXIT_MMIO] = "mmio",
    [CPU_EXIT_RDMSR] = "rdmsr",
    [CPU_EXIT_WRMSR] = "wrmsr",
    [CPU_EXIT_HYPERCALL] = "hypercall",
    [CPU_EXIT_HLT] = "hlt",
    [CPU_EXIT_SHUTDOWN] = "shutdown",
    [CPU_EXIT_SYSTEM_EVENT] = "system-event",
    [CPU_EXIT_DEBUG] = "debug",
    [CPU_EXIT_IRQ_WINDOW] = "irq-window",
    [CPU_EXIT_INTERRUPTED] = "interrupted",
    [CPU_EXIT_FAIL_ENTRY] = "fail-entry",
    [CPU_EXIT_INTERNAL_ERROR] = "internal-error",
    [CPU_EXIT_IOAPIC_EOI] = "ioapic-eoi",
    [CPU_EXIT_UNKNOWN] = "unknown",
};

const char *cpu_exit_kind_name(CpuExitKind kind)
{
    return (unsigned)kind < CPU_EXIT_KINDS ? exit_names[kind] : "invalid";
}

static inline MemTxAttrs cpu_attrs(const VCpu *cpu)
{
    return (MemTxAttrs){ .cpu = (int16_t)cpu->index };
}

/* ---- telling the machine ----------------------------------------------------------------- */

static void __attribute__((noinline, cold))
tell_host(VCpu *cpu, CpuSystemEvent event, const char *message)
{
    bool held = engine_lock_held();

    if (!held) {
        engine_lock();
    }
    if (cpu->host.system_event) {
        cpu->host.system_event(cpu->host.opaque, cpu, event, message);
    } else {
        log_error("cpu %d stops: %s", cpu->index, message);
        __atomic_fetch_or(&cpu->requests, CPU_REQ_STOP, __ATOMIC_SEQ_CST);
    }
    if (!held) {
        engine_unlock();
    }
}

static void ask_for_pause(VCpu *cpu, EventSource source, uint64_t addr)
{
    g_autofree char *message = NULL;

    if (source == EVENT_EXIT) {
        message = g_strdup_printf("hook on exit %s", cpu_exit_kind_name((CpuExitKind)addr));
    } else {
        message = g_strdup_printf("hook on %s %#" G_GINT64_MODIFIER "x", event_source_name(source),
                                  addr);
    }
    tell_host(cpu, CPU_SYSTEM_PAUSE, message);
}

/* ---- hooks ------------------------------------------------------------------------------- */

static EventRecord make_record(VCpu *cpu, EventSource source)
{
    const CpuExit *e = &cpu->exit;

    if (cpu->gpr_at_hand && !(cpu->state_valid & X86_STATE_GPR) &&
        cpu->ops->get_state(cpu, X86_STATE_GPR, NULL)) {
        cpu->state_valid |= X86_STATE_GPR;
    }
    return (EventRecord){
        .source = source,
        .cpu = cpu->index,
        .addr = e->addr,
        .value = e->value,
        .size = e->size,
        .write = e->write,
        .rip = (cpu->state_valid & X86_STATE_GPR) ? cpu->state->rip : 0,
    };
}

/* One item of an access with hooks on its source. */
static void __attribute__((noinline))
access_hooked(VCpu *cpu, EventSource source, AddressSpace *as, MemoryCache *cache, uint64_t *data)
{
    CpuExit *e = &cpu->exit;
    EventRecord x = make_record(cpu, source);
    unsigned action;

    x.value = e->write ? *data : 0;
    action = event_hub_fire(cpu->events, cpu, &x);
    if (action & EVENT_HANDLED) {
        if (!e->write) {
            *data = x.value;
        }
    } else {
        address_space_access(as, cache, e->addr, cpu_attrs(cpu), data, e->size, e->write);
    }
    if (!e->write) {
        x.value = *data;
        event_hub_complete(cpu->events, cpu, &x);
    }
    if (action & EVENT_PAUSE) {
        ask_for_pause(cpu, source, e->addr);
    }
}

/* Many items at once, of a port (`step` 0) or of addresses `step` apart; each is an access of its
 * own. Where the first had to take the engine lock, it is kept for the others: one page at most. */
static void __attribute__((noinline))
handle_string(VCpu *cpu, EventSource source, AddressSpace *as, MemoryCache *cache, unsigned step)
{
    CpuExit *e = &cpu->exit;
    uint64_t first = e->addr;
    uint8_t *p = e->data;
    unsigned long locks = engine_lock_count;
    bool locked = false;

    for (uint32_t i = 0; i < e->count; i++, p += e->size, e->addr += step) {
        uint64_t v = 0;

        if (e->write) {
            memcpy(&v, p, e->size);
        }
        if (event_hub_wants(cpu->events, source, e->addr, e->size, e->write, v)) {
            access_hooked(cpu, source, as, cache, &v);
        } else {
            address_space_access(as, cache, e->addr, cpu_attrs(cpu), &v, e->size, e->write);
        }
        if (!e->write) {
            memcpy(p, &v, e->size);
        }
        e->value = v;
        if (!locked && engine_lock_count != locks && !engine_lock_held()) {
            engine_lock();
            locked = true;
        }
    }
    e->addr = first;
    if (locked) {
        engine_unlock();
    }
}

static inline void handle_access(VCpu *cpu, EventSource source, AddressSpace *as,
                                 MemoryCache *cache)
{
    CpuExit *e = &cpu->exit;

    if (event_hub_wants(cpu->events, source, e->addr, e->size, e->write, e->value)) {
        access_hooked(cpu, source, as, cache, &e->value);
    } else {
        address_space_access(as, cache, e->addr, cpu_attrs(cpu), &e->value, e->size, e->write);
    }
}

/* RDMSR arrives with the answer that the guest would have had; WRMSR is done by the accelerator
 * unless a hook says that it was. */
static void handle_msr(VCpu *cpu)
{
    CpuExit *e = &cpu->exit;
    EventRecord x;
    unsigned action;

    if (!event_hub_armed(cpu->events, EVENT_MSR)) {
        return;
    }
    x = make_record(cpu, EVENT_MSR);
    x.write = e->kind == CPU_EXIT_WRMSR;
    x.size = 8;
    x.fault = e->msr_fault;
    x.internal = !e->msr_fault;
    action = event_hub_fire(cpu->events, cpu, &x);
    if (action & EVENT_HANDLED) {
        e->handled = true;
        e->msr_fault = x.fault;
        if (!x.write) {
            e->value = x.value;
        }
    }
    if (!x.write) {
        x.value = e->value;
        x.fault = e->msr_fault;
        event_hub_complete(cpu->events, cpu, &x);
    }
    if (action & EVENT_PAUSE) {
        ask_for_pause(cpu, EVENT_MSR, e->addr);
    }
}

static void handle_hypercall(VCpu *cpu)
{
    CpuExit *e = &cpu->exit;
    EventRecord x;
    unsigned action;

    if (!event_hub_armed(cpu->events, EVENT_HYPERCALL)) {
        return;
    }
    x = make_record(cpu, EVENT_HYPERCALL);
    x.write = true;
    memcpy(x.args, e->args, sizeof(x.args));
    action = event_hub_fire(cpu->events, cpu, &x);
    if (action & EVENT_HANDLED) {
        e->handled = true;
        e->value = x.value;
    }
    if (action & EVENT_PAUSE) {
        ask_for_pause(cpu, EVENT_HYPERCALL, e->addr);
    }
}

static bool handle_debug(VCpu *cpu)
{
    CpuExit *e = &cpu->exit;
    bool more = true;

    if ((e->value & CPU_DEBUG_BREAKPOINT) && event_hub_armed(cpu->events, EVENT_EXEC)) {
        EventRecord x = make_record(cpu, EVENT_EXEC);

        x.rip = e->addr;
        x.write = true;
        if (event_hub_fire(cpu->events, cpu, &x) & EVENT_PAUSE) {
            ask_for_pause(cpu, EVENT_EXEC, e->addr);
            more = false;
        }
    }
    if ((e->value & CPU_DEBUG_STEP) && cpu->stepping) {
        cpu->stepping = false;
        tell_host(cpu, CPU_SYSTEM_PAUSE, "step");
        more = false;
    }
    return more;
}

static bool __attribute__((noinline)) handle_rare(VCpu *cpu)
{
    CpuExit *e = &cpu->exit;

    switch (e->kind) {
    case CPU_EXIT_RDMSR:
    case CPU_EXIT_WRMSR:
        handle_msr(cpu);
        return true;
    case CPU_EXIT_HYPERCALL:
        handle_hypercall(cpu);
        return true;
    case CPU_EXIT_HLT:
        engine_lock();
        cpu->halted = true;
        engine_unlock();
        return false;
    case CPU_EXIT_SHUTDOWN:
        tell_host(cpu, CPU_SYSTEM_TRIPLE_FAULT, "triple fault");
        return false;
    case CPU_EXIT_SYSTEM_EVENT:
        switch (e->addr) {
        case CPU_EVENT_SHUTDOWN:
            tell_host(cpu, CPU_SYSTEM_SHUTDOWN, "the guest powered off");
            break;
        case CPU_EVENT_RESET:
            tell_host(cpu, CPU_SYSTEM_RESET, "the guest asked for a reset");
            break;
        case CPU_EVENT_CRASH:
            tell_host(cpu, CPU_SYSTEM_CRASH, "the guest reported a crash");
            break;
        default: {
            g_autofree char *message = g_strdup_printf(
                "the accelerator reported the unknown system event %" G_GUINT64_FORMAT, e->addr);

            tell_host(cpu, CPU_SYSTEM_ERROR, message);
            break;
        }
        }
        return false;
    case CPU_EXIT_DEBUG:
        return handle_debug(cpu);
    case CPU_EXIT_IOAPIC_EOI:
        if (cpu->ops->eoi) {
            engine_lock();
            cpu->ops->eoi(cpu, (int)e->value);
            engine_unlock();
        }
        return true;
    case CPU_EXIT_NONE:
    case CPU_EXIT_IRQ_WINDOW:
    case CPU_EXIT_INTERRUPTED:
        return true;
    case CPU_EXIT_FAIL_ENTRY:
    case CPU_EXIT_INTERNAL_ERROR:
    case CPU_EXIT_UNKNOWN:
    default: {
        g_autofree char *message = g_strdup_printf(
            "cpu %d: %s", cpu->index, e->message[0] ? e->message : cpu_exit_kind_name(e->kind));

        tell_host(cpu, CPU_SYSTEM_ERROR, message);
        return false;
    }
    }
}

static bool dispatch(VCpu *cpu)
{
    CpuExit *e = &cpu->exit;

    switch (e->kind) {
    case CPU_EXIT_PIO:
        if (G_LIKELY(!e->data)) {
            handle_access(cpu, EVENT_PIO, cpu->io, &cpu->io_cache);
        } else {
            handle_string(cpu, EVENT_PIO, cpu->io, &cpu->io_cache, 0);
        }
        return true;
    case CPU_EXIT_MMIO:
        if (G_LIKELY(!e->data)) {
            handle_access(cpu, EVENT_MMIO, cpu->memory, &cpu->memory_cache);
        } else {
            handle_string(cpu, EVENT_MMIO, cpu->memory, &cpu->memory_cache, e->size);
        }
        return true;
    default:
        return handle_rare(cpu);
    }
}

/* A hook on the exit itself answered in the place of everything below. */
static void answer_exit(CpuExit *e, uint64_t value)
{
    e->handled = true;
    if (e->write && e->kind != CPU_EXIT_HYPERCALL) {
        return;
    }
    e->value = value;
    if ((e->kind == CPU_EXIT_PIO || e->kind == CPU_EXIT_MMIO) && e->data) {
        uint8_t *p = e->data;

        for (uint32_t i = 0; i < e->count; i++, p += e->size) {
            memcpy(p, &value, e->size);
        }
    }
}

unsigned cpu_fire_event(VCpu *cpu, EventRecord *x)
{
    unsigned action;

    cpu->at_exit = true;
    action = event_hub_fire(cpu->events, cpu, x);
    cpu->at_exit = false;
    if (action & EVENT_PAUSE) {
        ask_for_pause(cpu, x->source, x->addr);
    }
    return action;
}

static bool __attribute__((noinline)) dispatch_exit_hooked(VCpu *cpu)
{
    EventRecord x = make_record(cpu, EVENT_EXIT);
    unsigned action;
    bool more = true;

    x.addr = cpu->exit.kind;
    x.args[0] = cpu->exit.addr;
    x.args[1] = cpu->exit.count;
    action = event_hub_fire(cpu->events, cpu, &x);
    if (!(action & EVENT_HANDLED)) {
        more = dispatch(cpu);
    } else {
        answer_exit(&cpu->exit, x.value);
    }
    if (action & EVENT_PAUSE) {
        ask_for_pause(cpu, EVENT_EXIT, cpu->exit.kind);
    }
    return more;
}

static void __attribute__((noinline, cold)) log_exit(const VCpu *cpu)
{
    const CpuExit *e = &cpu->exit;

    switch (e->kind) {
    case CPU_EXIT_PIO:
    case CPU_EXIT_MMIO:
    case CPU_EXIT_RDMSR:
    case CPU_EXIT_WRMSR:
    case CPU_EXIT_HYPERCALL:
        log_mask(LOG_EXITS,
                 "cpu %d: %s %s %#" G_GINT64_MODIFIER
                 "x size %u count %u value %#" G_GINT64_MODIFIER "x",
                 cpu->index, cpu_exit_kind_name(e->kind), e->write ? "write" : "read", e->addr,
                 e->size, e->count, e->value);
        break;
    default:
        log_mask(LOG_EXITS,
                 "cpu %d: %s addr %#" G_GINT64_MODIFIER "x value %#" G_GINT64_MODIFIER "x%s%s",
                 cpu->index, cpu_exit_kind_name(e->kind), e->addr, e->value,
                 e->message[0] ? ": " : "", e->message);
        break;
    }
}

bool cpu_handle_exit(VCpu *cpu)
{
    CpuExit *e = &cpu->exit;
    CpuLastExit *last = &cpu->last[cpu->last_next];
    unsigned long locks = engine_lock_count;
    bool more;

    if (G_UNLIKELY((unsigned)e->kind >= CPU_EXIT_KINDS)) {
        e->kind = CPU_EXIT_UNKNOWN;
    }
    __atomic_store_n(&cpu->stats.exits[e->kind], cpu->stats.exits[e->kind] + 1, __ATOMIC_RELAXED);
    /* Before the work: when it goes wrong, this is the exit that the report should end with. */
    *last = (CpuLastExit){
        .kind = e->kind, .write = e->write, .size = e->size, .addr = e->addr, .value = e->value
    };
    cpu->last_next = (cpu->last_next + 1) % CPU_LAST_EXITS;
    e->handled = false;
    cpu->at_exit = true;
    if (G_LIKELY(!event_hub_wants(cpu->events, EVENT_EXIT, e->kind, 1, e->write, e->value))) {
        more = dispatch(cpu);
    } else {
        more = dispatch_exit_hooked(cpu);
    }
    cpu->at_exit = false;
    last->value = e->value;
    if (engine_lock_count != locks) {
        __atomic_store_n(&cpu->stats.locked, cpu->stats.locked + 1, __ATOMIC_RELAXED);
    }
    if (log_enabled(LOG_EXITS)) {
        log_exit(cpu);
    }
    return more;
}
