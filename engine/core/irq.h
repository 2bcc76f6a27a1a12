/*
 * Interrupt (and reset, and any other) lines: one function and a number.
 *
 * A line is reference counted. Who handles it owns the meaning; who drives it only sets levels.
 * Engine lock.
 */
#pragma once

#include <glib.h>

typedef struct Irq Irq;
typedef void (*IrqHandler)(void *opaque, int n, int level);

Irq *irq_new(IrqHandler fn, void *opaque, int n);
Irq *irq_ref(Irq *irq);        /* NULL is passed through */
void irq_unref(Irq *irq);      /* NULL is ignored */
void irq_disconnect(Irq *irq); /* its owner is going away: from now on setting it does nothing */
void irq_set(Irq *irq, int level); /* NULL: nothing is connected, nothing happens */
int irq_level(const Irq *irq);     /* what was last set; 0 for NULL */
/* Takes over a level that was restored from saved state: nobody is told. */
void irq_restore_level(Irq *irq, int level);
static inline void irq_raise(Irq *irq)
{
    irq_set(irq, 1);
}
static inline void irq_lower(Irq *irq)
{
    irq_set(irq, 0);
}
void irq_pulse(Irq *irq);
/* An observer is told of every change (hooks, tests) after the handler; it may be one of several,
 * and may remove itself or others from inside its call. */
void irq_add_observer(Irq *irq, IrqHandler fn, void *opaque);
void irq_remove_observer(Irq *irq, IrqHandler fn, void *opaque);
