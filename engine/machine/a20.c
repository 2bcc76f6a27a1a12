/*
 * The A20 gate: one line for each part that can open it, combined by OR as chip sets do (Intel
 * 82371AB data sheet, "A20M#": the keyboard controller's A20GATE or bit 1 of port 92h).
 */
#include "engine/machine/machine_priv.h"

bool machine_a20_open(const Machine *m)
{
    const MachinePriv *p = m->priv;

    return p->a20_used == 0 || (p->a20_used & p->a20_high) != 0;
}

static void tell_accel(Machine *m)
{
    bool open = machine_a20_open(m);

    if (m->priv->a20_closed == !open) {
        return;
    }
    m->priv->a20_closed = !open;
    log_mask(LOG_MEMORY, "%s: A20 gate %s", OBJECT(m)->name, open ? "open" : "closed");
    if (m->accel && machine_accel_class(m)->set_a20) {
        machine_accel_class(m)->set_a20(m->accel, open);
    }
}

static void a20_set(void *opaque, int n, int level)
{
    Machine *m = opaque;
    uint8_t bit = (uint8_t)(1u << n);

    m->priv->a20_high = (uint8_t)(level ? m->priv->a20_high | bit
                                        : m->priv->a20_high & (uint8_t)~bit);
    m->priv->a20_used |= bit;
    tell_accel(m);
}

Irq *machine_a20(Machine *m, unsigned n)
{
    if (n >= MACHINE_A20_LINES || m->priv->closing) {
        return NULL;
    }
    if (!m->priv->a20[n]) {
        m->priv->a20[n] = irq_new(a20_set, m, (int)n);
    }
    return m->priv->a20[n];
}

void machine_set_a20(Machine *m, unsigned n, bool high)
{
    irq_set(machine_a20(m, n), high);
}

void machine_a20_restore(Machine *m, uint8_t used, uint8_t high)
{
    m->priv->a20_used = used & (uint8_t)((1u << MACHINE_A20_LINES) - 1);
    m->priv->a20_high = high & m->priv->a20_used;
    for (unsigned n = 0; n < MACHINE_A20_LINES; n++) {
        irq_restore_level(m->priv->a20[n], m->priv->a20_high >> n & 1);
    }
    tell_accel(m);
}

void machine_a20_close(Machine *m)
{
    for (unsigned n = 0; n < MACHINE_A20_LINES; n++) {
        irq_disconnect(m->priv->a20[n]);
        irq_unref(g_steal_pointer(&m->priv->a20[n]));
    }
}
