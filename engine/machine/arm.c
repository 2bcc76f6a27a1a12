/*
 * What arming a hook means in this machine: the machine's own sources always work, the others are
 * the accelerator's to serve or refuse.
 */
#include "engine/core/error.h"
#include "engine/machine/machine_priv.h"

static bool covers_only(const EventFilter *f, uint64_t addr)
{
    return f->addr == addr && f->len == 1;
}

static bool arm_exit(Machine *m, const EventFilter *f, char **how, GError **error)
{
    if (f->len == 1 && f->addr >= CPU_EXIT_KINDS) {
        return error_set(error, ENGINE_ERROR_INVALID, "%" G_GUINT64_FORMAT " is not a kind of exit",
                         f->addr);
    }
    if (m->accel && m->accel->config.irqchip != IRQCHIP_OFF && covers_only(f, CPU_EXIT_HLT)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "HLT does not exit here: the accelerator's own interrupt controller "
                         "waits for the interrupt");
    }
    *how = g_strdup("vCPU exit");
    return true;
}

static bool arm_irq(Machine *m, const EventFilter *f, char **how, GError **error)
{
    if (f->len == 1 && f->addr >= MACHINE_MAX_GSI) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "there is no interrupt line %" G_GUINT64_FORMAT " (0 to %d)", f->addr,
                         MACHINE_MAX_GSI - 1);
    }
    if (m->accel && m->accel->config.pit && covers_only(f, 0)) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "interrupt line 0 belongs to the accelerator's own timer and cannot be "
                         "seen");
    }
    *how = g_strdup("interrupt line");
    return true;
}

static bool machine_arm(void *opaque, const EventFilter *f, char **how, GError **error)
{
    Machine *m = opaque;
    AccelHookInfo info = { NULL };

    *how = NULL;
    switch (f->source) {
    case EVENT_IRQ:
        return arm_irq(m, f, how, error);
    case EVENT_EXIT:
        return arm_exit(m, f, how, error);
    case EVENT_RESET:
    case EVENT_STATUS:
        *how = g_strdup("machine event");
        return true;
    default:
        break;
    }
    if (f->cpu >= 0 && (unsigned)f->cpu >= m->cpus->len) {
        return error_set(error, ENGINE_ERROR_INVALID, "there is no vCPU %d (%u of them)", f->cpu,
                         m->cpus->len);
    }
    if (!m->accel) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "%s has no accelerator yet that could watch for %s", OBJECT(m)->name,
                         event_source_name(f->source));
    }
    if (!machine_accel_class(m)->arm) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "accelerator %s cannot watch for %s",
                         machine_accel_class(m)->short_name, event_source_name(f->source));
    }
    if (!machine_accel_class(m)->arm(m->accel, f, &info, error)) {
        g_free(info.how);
        return false;
    }
    *how = info.how;
    return true;
}

static void machine_disarm(void *opaque, const EventFilter *f)
{
    Machine *m = opaque;

    switch (f->source) {
    case EVENT_IRQ:
    case EVENT_EXIT:
    case EVENT_RESET:
    case EVENT_STATUS:
        return;
    default:
        break;
    }
    if (m->accel && machine_accel_class(m)->disarm) {
        machine_accel_class(m)->disarm(m->accel, f);
    }
}

static int64_t machine_now(void *opaque)
{
    return clock_now(((Machine *)opaque)->clock);
}

EventHub *machine_new_events(Machine *m)
{
    const EventArmOps ops = {
        .arm = machine_arm,
        .disarm = machine_disarm,
        .now = machine_now,
        .opaque = m,
    };

    return event_hub_new(&ops);
}
