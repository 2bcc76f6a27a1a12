/*
 * Who has requests in flight, and lets them end before state is saved or loaded.
 */
#include "engine/machine/machine_priv.h"

typedef struct QuiesceEntry {
    const MachineQuiesceOps *ops;
    void *opaque;
    bool begun;
} QuiesceEntry;

void machine_add_quiesce(Machine *m, const MachineQuiesceOps *ops, void *opaque)
{
    QuiesceEntry *e = g_new0(QuiesceEntry, 1);

    e->ops = ops;
    e->opaque = opaque;
    m->priv->quiesce = g_slist_append(m->priv->quiesce, e);
}

void machine_remove_quiesce(Machine *m, const MachineQuiesceOps *ops, void *opaque)
{
    for (GSList *l = m->priv->quiesce; l; l = l->next) {
        QuiesceEntry *e = l->data;

        if (e->ops == ops && e->opaque == opaque) {
            m->priv->quiesce = g_slist_delete_link(m->priv->quiesce, l);
            g_free(e);
            return;
        }
    }
}

static QuiesceEntry *next_waiting(Machine *m)
{
    for (GSList *l = m->priv->quiesce; l; l = l->next) {
        if (!((QuiesceEntry *)l->data)->begun) {
            return l->data;
        }
    }
    return NULL;
}

bool machine_quiesce_begin(Machine *m, GError **error)
{
    QuiesceEntry *e;

    /* A begin may run the main loop, where devices come and go: marked first, looked up anew. */
    while ((e = next_waiting(m))) {
        const MachineQuiesceOps *ops = e->ops;
        void *opaque = e->opaque;

        e->begun = true;
        if (ops->begin(opaque, error)) {
            continue;
        }
        for (GSList *l = m->priv->quiesce; l; l = l->next) {
            e = l->data;
            if (e->ops == ops && e->opaque == opaque) {
                e->begun = false;
            }
        }
        machine_quiesce_end(m);
        return false;
    }
    return true;
}

void machine_quiesce_end(Machine *m)
{
    for (GSList *l = m->priv->quiesce, *next; l; l = next) {
        QuiesceEntry *e = l->data;

        next = l->next;
        if (e->begun) {
            e->begun = false;
            e->ops->end(e->opaque);
        }
    }
}

void machine_quiesce_finalize(Machine *m)
{
    g_slist_free_full(g_steal_pointer(&m->priv->quiesce), g_free);
}
