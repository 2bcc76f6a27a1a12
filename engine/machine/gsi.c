/* Interrupts between devices, controllers in user space and the accelerator; lines pass hooks on
 * EVENT_IRQ on their way. */
#include <string.h>

#include "engine/core/error.h"
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

static void gsi_forward(Machine *m, unsigned gsi, int level)
{
    Irq **pins = m->priv->pins[gsi];

    if (pins[0]) {
        for (unsigned i = 0; i < MACHINE_GSI_PINS && pins[i]; i++) {
            irq_set(pins[i], level);
        }
    } else if (m->accel) {
        machine_accel_class(m)->set_gsi(m->accel, gsi, level);
    }
}

void machine_gsi_edge(Machine *m, unsigned gsi)
{
    gsi_forward(m, gsi, 0);
    gsi_forward(m, gsi, 1);
    if (!get_level(m->priv, gsi)) {
        gsi_forward(m, gsi, 0);
    }
}

static void gsi_set(void *opaque, int n, int level)
{
    Machine *m = opaque;
    unsigned gsi = (unsigned)n;

    /* Devices set lines on every register access; only changes are worth an ioctl. While state is
     * loaded the saved levels count: one of two devices on a line knows only its own. */
    if (get_level(m->priv, gsi) == !!level || m->priv->gsi_loading) {
        return;
    }
    put_level(m->priv, gsi, level);
    log_mask(LOG_IRQ, "%s: line %u %s", OBJECT(m)->name, gsi, level ? "up" : "down");
    if (m->events && !m->priv->torturing && event_hub_armed(m->events, EVENT_IRQ)) {
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
    gsi_forward(m, gsi, level ? 1 : 0);
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
            /* Controllers in user space have restored the levels of their pins themselves. */
            if (!m->priv->pins[gsi][0]) {
                gsi_forward(m, gsi, level);
            }
        }
        irq_restore_level(m->priv->gsi[gsi], level);
    }
    m->priv->gsi_loading = true;
    memset(m->priv->ticks, 0, sizeof(m->priv->ticks));
    m->priv->ticks_out = 0;
}

void machine_gsi_loaded(Machine *m)
{
    m->priv->gsi_loading = false;
    for (unsigned gsi = 0; gsi < MACHINE_MAX_GSI; gsi++) {
        irq_restore_level(m->priv->gsi[gsi], get_level(m->priv, gsi));
    }
}

void machine_gsi_close(Machine *m)
{
    for (unsigned gsi = 0; gsi < MACHINE_MAX_GSI; gsi++) {
        if (m->priv->gsi[gsi]) {
            irq_disconnect(m->priv->gsi[gsi]);
            irq_unref(g_steal_pointer(&m->priv->gsi[gsi]));
        }
        for (unsigned i = 0; i < MACHINE_GSI_PINS; i++) {
            irq_unref(g_steal_pointer(&m->priv->pins[gsi][i]));
        }
    }
    irq_disconnect(m->priv->intr);
    irq_unref(g_steal_pointer(&m->priv->intr));
    irq_disconnect(m->priv->pit_mute);
    irq_unref(g_steal_pointer(&m->priv->pit_mute));
}

/* ---- controllers in user space ------------------------------------------------------------ */

bool machine_connect_gsi(Machine *m, unsigned gsi, Irq *pin, GError **error)
{
    ENGINE_LOCK_ASSERT();
    if (gsi >= MACHINE_MAX_GSI || m->priv->closing) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s has no line %u", OBJECT(m)->name, gsi);
    }
    for (unsigned i = 0; i < MACHINE_GSI_PINS; i++) {
        if (!m->priv->pins[gsi][i]) {
            m->priv->pins[gsi][i] = irq_ref(pin);
            if (get_level(m->priv, gsi)) {
                irq_raise(pin);
            }
            return true;
        }
    }
    return error_set(error, ENGINE_ERROR_LIMIT, "line %u of %s leads to %d pins already", gsi,
                     OBJECT(m)->name, MACHINE_GSI_PINS);
}

int machine_acknowledge(Machine *m)
{
    return m->priv->acknowledge ? m->priv->acknowledge(m->priv->acknowledge_opaque) : -1;
}

static int intr_acknowledge(void *opaque)
{
    return machine_acknowledge(opaque);
}

static void intr_set(void *opaque, int n, int level)
{
    Machine *m = opaque;

    if (m->accel && m->cpus->len > 0 && machine_accel_class(m)->set_intr) {
        machine_accel_class(m)->set_intr(g_ptr_array_index(m->cpus, 0), level != 0,
                                         intr_acknowledge, m);
    }
}

static void pit_mute_set(void *opaque, int n, int level)
{
    Machine *m = opaque;

    if (m->accel && machine_accel_class(m)->mute_pit) {
        machine_accel_class(m)->mute_pit(m->accel, level != 0);
    }
}

Irq *machine_pit_mute(Machine *m)
{
    if (!m->priv->pit_mute && !m->priv->closing) {
        m->priv->pit_mute = irq_new(pit_mute_set, m, 0);
    }
    return m->priv->pit_mute;
}

unsigned machine_speaker_frequency(Machine *m)
{
    bool known = m->accel && m->accel->config.pit && machine_accel_class(m)->speaker_frequency;

    return known ? machine_accel_class(m)->speaker_frequency(m->accel) : 0;
}

Irq *machine_intr(Machine *m)
{
    if (!m->priv->intr && !m->priv->closing) {
        m->priv->intr = irq_new(intr_set, m, 0);
    }
    return m->priv->intr;
}

void machine_set_acknowledge(Machine *m, int (*fn)(void *opaque), void *opaque)
{
    if (fn || m->priv->acknowledge_opaque == opaque) {
        m->priv->acknowledge = fn;
        m->priv->acknowledge_opaque = fn ? opaque : NULL;
    }
}

void machine_set_msi(Machine *m, MachineMsiFn fn, void *opaque)
{
    if (fn || m->priv->msi_opaque == opaque) {
        m->priv->msi = fn;
        m->priv->msi_opaque = fn ? opaque : NULL;
    }
}

bool machine_send_msi(Machine *m, uint64_t addr, uint32_t data)
{
    g_autoptr(GError) error = NULL;

    if (m->priv->msi) {
        m->priv->msi(m->priv->msi_opaque, addr, data);
        return true;
    }
    if (m->accel && m->accel->config.irqchip != IRQCHIP_OFF && machine_accel_class(m)->send_msi) {
        if (machine_accel_class(m)->send_msi(m->accel, addr, data, &error)) {
            return true;
        }
        log_mask(LOG_IRQ, "%s: %s", OBJECT(m)->name, error ? error->message : "message refused");
    }
    return false;
}

void machine_route_pin(Machine *m, unsigned pin, uint64_t addr, uint32_t data)
{
    g_autoptr(GError) error = NULL;

    if (m->accel && m->accel->config.irqchip == IRQCHIP_SPLIT &&
        machine_accel_class(m)->route_msi &&
        !machine_accel_class(m)->route_msi(m->accel, pin, addr, data, &error)) {
        log_mask(LOG_IRQ, "%s: pin %u: %s", OBJECT(m)->name, pin,
                 error ? error->message : "no route");
    }
}
