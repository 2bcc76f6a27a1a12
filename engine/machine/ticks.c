/*
 * Ticks that a processor has not taken in time.
 *
 * A periodic timer's edges are lost when the next one comes before a processor took the last: on a
 * busy host, where a vCPU's thread or the main loop has to wait, that is many in a row, and a guest
 * that counts ticks against its TSC finds its timer broken. Here they are owed instead, and each is
 * sent again when the one before it is taken: as fast as the guest takes them, before it goes on.
 * KVM does this for its PIT.
 *
 * Who takes an edge is told by the controllers (machine_pin_taken): those in user space. What is
 * owed is forgotten when the timer is programmed or reset, and when a mask goes. It is not saved.
 */
#include "engine/machine/machine_priv.h"

#define OWED_MAX 1000 /* of which a guest gets no more at once */

static TickLine *tick_line(Machine *m, unsigned gsi)
{
    return gsi < MACHINE_TICK_LINES ? &m->priv->ticks[gsi] : NULL;
}

void machine_ticks(Machine *m, unsigned gsi, uint64_t n)
{
    TickLine *t = tick_line(m, gsi);

    ENGINE_LOCK_ASSERT();
    if (!t || n == 0 || m->priv->torturing) {
        return;
    }
    n = MIN(n, OWED_MAX) - !t->out;
    t->owed = (uint16_t)MIN(t->owed + n, OWED_MAX);
    if (!t->out) {
        t->out = true;
        m->priv->ticks_out++;
    }
}

void machine_ticks_forget(Machine *m, unsigned gsi)
{
    TickLine *t = tick_line(m, gsi);

    if (t && t->out) {
        m->priv->ticks_out--;
        *t = (TickLine){ 0 };
    }
}

static int line_of_pin(const Machine *m, const Irq *pin)
{
    for (unsigned gsi = 0; gsi < MACHINE_TICK_LINES; gsi++) {
        for (unsigned i = 0; i < MACHINE_GSI_PINS && m->priv->pins[gsi][i]; i++) {
            if (m->priv->pins[gsi][i] == pin && m->priv->ticks[gsi].out) {
                return (int)gsi;
            }
        }
    }
    return -1;
}

void machine_pin_taken(Machine *m, const Irq *pin)
{
    int gsi = m->priv->ticks_out ? line_of_pin(m, pin) : -1;
    TickLine *t;

    if (gsi < 0) {
        return;
    }
    t = &m->priv->ticks[gsi];
    if (t->owed == 0) {
        machine_ticks_forget(m, (unsigned)gsi);
        return;
    }
    t->owed--;
    machine_gsi_edge(m, (unsigned)gsi);
}

void machine_pin_unmasked(Machine *m, const Irq *pin)
{
    int gsi = m->priv->ticks_out ? line_of_pin(m, pin) : -1;

    if (gsi >= 0) {
        machine_ticks_forget(m, (unsigned)gsi);
    }
}

void machine_set_taken(Machine *m, void (*fn)(void *opaque, int vector), void *opaque)
{
    m->priv->taken = fn;
    m->priv->taken_opaque = opaque;
}

void machine_vector_taken(Machine *m, int vector)
{
    if (m->priv->ticks_out && m->priv->taken) {
        m->priv->taken(m->priv->taken_opaque, vector);
    }
}
