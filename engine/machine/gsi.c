/* Interrupt lines of the machine: from devices to the accelerator, past hooks on EVENT_IRQ. */
#include <string.h>

#include "engine/core/log.h"
#include "engine/machine/machine_priv.h"

static bool get_level(const MachinePriv *p, unsigned gsi)
{
    return p->levels[gsi / 8] >> (gsi % 8) & 1;
}

static void put_level(MachinePriv *p, unsigned gsi, bool level)
{
    uint8_t bit = (uint8_t)(1u << (gsi % 8));

    p->levels[gsi / 8] = level ? p->levels[gsi / 8] | bit : p->levels[gsi / 8] & ~bit;
}

static void gsi_set(void *opaque, int n, int level)
{
    Machine *m = opaque;
    unsigned gsi = (unsigned)n;

    /* Devices set lines on every register access; only changes are worth an ioctl. */
    if (get_level(m->priv, gsi) == !!level) {
        return;
    }
    put_level(m->priv, gsi, level);
    log_mask(LOG_IRQ, "%s: line %u %s", OBJECT(m)->name, gsi, level ? "up" : "down");
    if (m->events && event_hub_armed(m->events, EVENT_IRQ)) {
        VCpu *cpu = cpu_current();
        EventRecord x = {
            .source = EVENT_IRQ, .addr = gsi, .value = level ? 1 : 0, .size = 1, .write = true
        };
        unsigned action;

        /* A line may be moved by another machine's vCPU (wired machines share lines). */
        if (cpu && machine_of_cpu(cpu) != m) {
            cpu = NULL;
        }
        x.cpu = cpu ? cpu->index : -1;
        action = event_hub_fire(m->events, cpu, &x);
        if (action & EVENT_PAUSE) {
            g_autofree char *why = g_strdup_printf("hook on irq %u", gsi);

            machine_pause(m, why);
        }
        if (action & EVENT_HANDLED) {
            return;
        }
    }
    if (m->accel) {
        machine_accel_class(m)->set_gsi(m->accel, gsi, level ? 1 : 0);
    }
}

Irq *machine_gsi(Machine *m, unsigned gsi)
{
    if (gsi >= MACHINE_MAX_GSI || m->priv->closing) {
        return NULL;
    }
    if (!m->priv->gsi[gsi]) {
        m->priv->gsi[gsi] = irq_new(gsi_set, m, (int)gsi);
    }
    return m->priv->gsi[gsi];
}

void machine_gsi_restore(Machine *m, const uint8_t levels[MACHINE_MAX_GSI / 8])
{
    for (unsigned gsi = 0; gsi < MACHINE_MAX_GSI; gsi++) {
        bool level = levels[gsi / 8] >> (gsi % 8) & 1;

        if (level != get_level(m->priv, gsi)) {
            put_level(m->priv, gsi, level);
            if (m->accel) {
                machine_accel_class(m)->set_gsi(m->accel, gsi, level);
            }
        }
        irq_restore_level(m->priv->gsi[gsi], level);
    }
}

void machine_gsi_close(Machine *m)
{
    for (unsigned gsi = 0; gsi < MACHINE_MAX_GSI; gsi++) {
        if (m->priv->gsi[gsi]) {
            irq_disconnect(m->priv->gsi[gsi]);
            irq_unref(g_steal_pointer(&m->priv->gsi[gsi]));
        }
    }
}
