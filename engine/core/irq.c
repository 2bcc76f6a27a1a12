/* Lines: see irq.h. */
#include "engine/core/irq.h"

#include <stdbool.h>

typedef struct Observer {
    IrqHandler fn;
    void *opaque;
} Observer;

struct Irq {
    IrqHandler fn;
    void *opaque;
    int n;
    int level;
    unsigned ref;
    unsigned notifying; /* depth of observer calls under way */
    bool holes;         /* an observer was removed meanwhile */
    GArray *observers;  /* of Observer; NULL until the first; fn NULL: removed during a call */
};

Irq *irq_new(IrqHandler fn, void *opaque, int n)
{
    Irq *irq = g_new0(Irq, 1);

    irq->fn = fn;
    irq->opaque = opaque;
    irq->n = n;
    irq->ref = 1;
    return irq;
}

Irq *irq_ref(Irq *irq)
{
    if (irq) {
        irq->ref++;
    }
    return irq;
}

void irq_unref(Irq *irq)
{
    if (!irq || --irq->ref > 0) {
        return;
    }
    if (irq->observers) {
        g_array_free(irq->observers, TRUE);
    }
    g_free(irq);
}

void irq_disconnect(Irq *irq)
{
    if (irq) {
        irq->fn = NULL;
        irq->opaque = NULL;
    }
}

static void irq_notify(Irq *irq, int level)
{
    irq->notifying++;
    /* By index: the array may grow or move while an observer runs. */
    for (guint i = 0; i < irq->observers->len; i++) {
        Observer o = g_array_index(irq->observers, Observer, i);

        if (o.fn) {
            o.fn(o.opaque, irq->n, level);
        }
    }
    if (--irq->notifying == 0 && irq->holes) {
        irq->holes = false;
        for (guint i = irq->observers->len; i-- > 0;) {
            if (!g_array_index(irq->observers, Observer, i).fn) {
                g_array_remove_index(irq->observers, i);
            }
        }
    }
}

void irq_set(Irq *irq, int level)
{
    if (!irq) {
        return;
    }
    bool changed = irq->level != level;

    /* A handler or observer may drop the last reference from outside. */
    irq->ref++;
    irq->level = level;
    if (irq->fn) {
        irq->fn(irq->opaque, irq->n, level);
    }
    if (changed && irq->observers && irq->observers->len > 0) {
        irq_notify(irq, level);
    }
    irq_unref(irq);
}

int irq_level(const Irq *irq)
{
    return irq ? irq->level : 0;
}

void irq_restore_level(Irq *irq, int level)
{
    if (irq) {
        irq->level = level;
    }
}

void irq_pulse(Irq *irq)
{
    irq_set(irq, 1);
    irq_set(irq, 0);
}

void irq_add_observer(Irq *irq, IrqHandler fn, void *opaque)
{
    Observer o = { fn, opaque };

    if (!irq->observers) {
        irq->observers = g_array_new(FALSE, FALSE, sizeof(Observer));
    }
    g_array_append_val(irq->observers, o);
}

void irq_remove_observer(Irq *irq, IrqHandler fn, void *opaque)
{
    if (!irq || !irq->observers) {
        return;
    }
    for (guint i = 0; i < irq->observers->len; i++) {
        Observer *o = &g_array_index(irq->observers, Observer, i);

        if (o->fn == fn && o->opaque == opaque) {
            if (irq->notifying) {
                o->fn = NULL;
                irq->holes = true;
            } else {
                g_array_remove_index(irq->observers, i);
            }
            return;
        }
    }
}
