/* Interrupt (and reset, and any other) lines: one function and a number. Engine lock. */
#pragma once

#include <glib.h>

typedef struct Irq Irq;
typedef void (*IrqHandler)(void *opaque, int n, int level);

Irq *irq_new(IrqHandler fn, void *opaque, int n);
Irq *irq_ref(Irq *irq);
void irq_unref(Irq *irq);      /* NULL is ignored */
void irq_disconnect(Irq *irq); /* its owner is going away: from now on setting it does nothing */
void irq_set(Irq *irq, int level); /* NULL: nothing is connected, nothing happens */
int irq_level(const Irq *irq);     /* what was last set; 0 for NULL */
static inline void irq_raise(Irq *irq)
{
    irq_set(irq, 1);
}
static inline void irq_lower(Irq *irq)
{
    irq_set(irq, 0);
}
void irq_pulse(Irq *irq);
/* An observer is told of every change (hooks, tests); it may be one of several. */
void irq_add_observer(Irq *irq, IrqHandler fn, void *opaque);
void irq_remove_observer(Irq *irq, IrqHandler fn, void *opaque);
