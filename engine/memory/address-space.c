/*
 * Address spaces: publishing views, telling listeners what changed.
 *
 * The references to owners that keep shown regions alive belong to the address space's present
 * view. A commit takes one for each range that is new, lets ranges in both views keep theirs, and
 * hands those of ranges that are gone, with the old view, to a grace period and then to the main
 * thread: finalisers of objects run there, under the engine lock, never on the RCU thread.
 */
#include <string.h>

#include "engine/core/main-loop.h"
#include "engine/memory/memory-priv.h"

typedef struct Garbage {
    struct Garbage *next;
    View *view;
    AddressSpace *as; /* being freed, or NULL */
    Unassigned *unassigned;
    GPtrArray *owners; /* references to drop; NULL when none */
} Garbage;

static GPtrArray *spaces;  /* engine lock; of AddressSpace, in order of creation */
static bool any_stale;     /* engine lock */
static Garbage *reclaimed; /* atomic stack: past its grace period, references still held */

/* ---- reclaiming old views ---------------------------------------------------------------- */

static void drop_owners(void *opaque)
{
    Garbage *g = __atomic_exchange_n(&reclaimed, NULL, __ATOMIC_ACQ_REL);

    while (g) {
        Garbage *next = g->next;

        for (guint i = 0; i < g->owners->len; i++) {
            object_unref(g_ptr_array_index(g->owners, i));
        }
        g_ptr_array_free(g->owners, TRUE);
        g_free(g);
        g = next;
    }
}

/* On the RCU thread: frees plain memory here, leaves objects to the main thread. */
static void after_grace_period(void *data)
{
    Garbage *g = data;

    flat_view_free(g->view);
    g_free(g->unassigned);
    if (g->as) {
        g_free(g->as->name);
        g_free(g->as);
    }
    if (!g->owners) {
        g_free(g);
        return;
    }
    g->next = __atomic_load_n(&reclaimed, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&reclaimed, &g->next, g, true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
    }
    if (main_loop_context()) {
        bh_once(drop_owners, NULL);
    }
}

static void discard(View *view, AddressSpace *as, Unassigned *unassigned, GPtrArray *owners)
{
    Garbage *g = g_new0(Garbage, 1);

    *g = (Garbage){ .view = view, .as = as, .unassigned = unassigned, .owners = owners };
    rcu_defer(after_grace_period, g);
}

void memory_reclaim(void)
{
    bool held = engine_lock_held();

    if (held) {
        engine_unlock();
    }
    rcu_drain();
    if (held) {
        engine_lock();
    }
    drop_owners(NULL);
}

/* ---- telling listeners ------------------------------------------------------------------- */

static bool same_range(const FlatRange *a, const FlatRange *b)
{
    return a->addr == b->addr && a->last == b->last && a->mr == b->mr && a->id == b->id &&
           a->offset == b->offset && a->readonly == b->readonly && a->romd == b->romd &&
           a->lockless == b->lockless;
}

typedef enum { DIFF_END, DIFF_DEL, DIFF_ADD, DIFF_SAME } Diff;

/* Walks two views in order of address; *o and *n are the ranges of the step. */
typedef struct DiffWalk {
    const FlatView *old_view, *new_view;
    unsigned i, k;
    const FlatRange *o, *n;
} DiffWalk;

static Diff diff_next(DiffWalk *w)
{
    w->o = w->i < w->old_view->n ? &w->old_view->ranges[w->i] : NULL;
    w->n = w->k < w->new_view->n ? &w->new_view->ranges[w->k] : NULL;
    if (!w->o && !w->n) {
        return DIFF_END;
    }
    if (w->o && w->n && same_range(w->o, w->n)) {
        w->i++;
        w->k++;
        return DIFF_SAME;
    }
    if (w->o && (!w->n || w->o->addr <= w->n->addr)) {
        w->i++;
        return DIFF_DEL;
    }
    w->k++;
    return DIFF_ADD;
}

/* For each listener, rising priority or falling. */
#define NOTIFY(as, callback, ...)                                              \
    do {                                                                       \
        for (guint l_ = 0; l_ < (as)->listeners->len; l_++) {                  \
            MemoryListener *listener = g_ptr_array_index((as)->listeners, l_); \
            if (listener->callback) {                                          \
                listener->callback(listener, ##__VA_ARGS__);                   \
            }                                                                  \
        }                                                                      \
    } while (0)
#define NOTIFY_REVERSE(as, callback, ...)                                      \
    do {                                                                       \
        for (guint l_ = (as)->listeners->len; l_-- > 0;) {                     \
            MemoryListener *listener = g_ptr_array_index((as)->listeners, l_); \
            if (listener->callback) {                                          \
                listener->callback(listener, ##__VA_ARGS__);                   \
            }                                                                  \
        }                                                                      \
    } while (0)

/* Calls for what is in `a` and not in `b`, as additions or as deletions. */
static void tell_eventfds(AddressSpace *as, const View *a, const View *b, bool add)
{
    for (unsigned i = 0, k = 0; i < a->n_eventfds;) {
        const ViewEventfd *e = &a->eventfds[i];
        int order = k < b->n_eventfds ? memory_order_eventfds(&e->ev, &b->eventfds[k].ev) : -1;

        if (order > 0) {
            k++;
            continue;
        }
        if (order == 0) {
            k++;
        } else {
            MemorySection s = { .as = as, .range = e->range };

            if (add) {
                NOTIFY(as, eventfd_add, &s, &e->ev);
            } else {
                NOTIFY_REVERSE(as, eventfd_del, &s, &e->ev);
            }
        }
        i++;
    }
}

static void tell_coalesced(AddressSpace *as, const View *a, const View *b, bool add)
{
    for (unsigned i = 0, k = 0; i < a->n_coalesced;) {
        const ViewCoalesced *c = &a->coalesced[i];
        int order = k < b->n_coalesced ? memory_order_ranges(&c->at, &b->coalesced[k].at) : -1;

        if (order > 0) {
            k++;
            continue;
        }
        if (order == 0) {
            k++;
        } else {
            MemorySection s = { .as = as, .range = c->range };

            if (add) {
                NOTIFY(as, coalesced_add, &s, c->at.addr, c->at.size);
            } else {
                NOTIFY_REVERSE(as, coalesced_del, &s, c->at.addr, c->at.size);
            }
        }
        i++;
    }
}

static void tell_log(AddressSpace *as, const MemorySection *s, uint8_t old_clients)
{
    uint8_t new_clients = s->range.dirty_clients;

    if (new_clients & ~old_clients) {
        NOTIFY(as, log_start, s, old_clients, new_clients);
    }
    if (old_clients & ~new_clients) {
        NOTIFY_REVERSE(as, log_stop, s, old_clients, new_clients);
    }
}

static void tell_listeners(AddressSpace *as, const View *old_view, const View *new_view)
{
    DiffWalk w = { .old_view = &old_view->pub, .new_view = &new_view->pub };
    MemorySection s = { .as = as };
    Diff d;

    NOTIFY(as, begin);
    tell_eventfds(as, old_view, new_view, false);
    tell_coalesced(as, old_view, new_view, false);
    while ((d = diff_next(&w)) != DIFF_END) {
        if (d == DIFF_DEL) {
            s.range = *w.o;
            NOTIFY_REVERSE(as, region_del, &s);
        }
    }
    w = (DiffWalk){ .old_view = &old_view->pub, .new_view = &new_view->pub };
    while ((d = diff_next(&w)) != DIFF_END) {
        if (d == DIFF_DEL) {
            continue;
        }
        s.range = *w.n;
        if (d == DIFF_ADD) {
            NOTIFY(as, region_add, &s);
        } else {
            NOTIFY(as, region_nop, &s);
        }
        tell_log(as, &s, d == DIFF_SAME ? w.o->dirty_clients : 0);
    }
    tell_eventfds(as, new_view, old_view, true);
    tell_coalesced(as, new_view, old_view, true);
    NOTIFY(as, commit, &old_view->pub, &new_view->pub);
}

/* ---- commit ------------------------------------------------------------------------------ */

/* Whether anything that readers or listeners can see differs. */
static bool views_differ(const View *a, const View *b)
{
    if (a->pub.n != b->pub.n || a->n_eventfds != b->n_eventfds ||
        a->n_coalesced != b->n_coalesced) {
        return true;
    }
    for (unsigned i = 0; i < a->pub.n; i++) {
        if (!same_range(&a->pub.ranges[i], &b->pub.ranges[i]) ||
            a->pub.ranges[i].dirty_clients != b->pub.ranges[i].dirty_clients) {
            return true;
        }
    }
    for (unsigned i = 0; i < a->n_eventfds; i++) {
        if (memory_order_eventfds(&a->eventfds[i].ev, &b->eventfds[i].ev)) {
            return true;
        }
    }
    for (unsigned i = 0; i < a->n_coalesced; i++) {
        if (memory_order_ranges(&a->coalesced[i].at, &b->coalesced[i].at)) {
            return true;
        }
    }
    return false;
}

/* Takes the references that new ranges need; returns those that the old view leaves behind. */
static GPtrArray *move_references(const View *old_view, const View *new_view)
{
    DiffWalk w = { .old_view = &old_view->pub, .new_view = &new_view->pub };
    GPtrArray *gone = NULL;
    Diff d;

    while ((d = diff_next(&w)) != DIFF_END) {
        if (d == DIFF_ADD && w.n->mr->owner) {
            object_ref(w.n->mr->owner);
        } else if (d == DIFF_DEL && w.o->owner) {
            if (!gone) {
                gone = g_ptr_array_new();
            }
            g_ptr_array_add(gone, w.o->owner);
        }
    }
    return gone;
}

static void update(AddressSpace *as)
{
    View *old_view = as->view, *new_view = flat_view_render(as->root);
    GPtrArray *gone;

    if (!views_differ(old_view, new_view)) {
        flat_view_free(new_view);
        return;
    }
    gone = move_references(old_view, new_view);
    rcu_publish(&as->view, new_view);
    tell_listeners(as, old_view, new_view);
    discard(old_view, NULL, NULL, gone);
}

void address_spaces_mark_stale(uint32_t stamp)
{
    for (guint i = 0; spaces && i < spaces->len; i++) {
        AddressSpace *as = g_ptr_array_index(spaces, i);

        if (as->root->visit == stamp) {
            as->stale = true;
            any_stale = true;
        }
    }
}

void address_spaces_commit(void)
{
    static bool committing;

    if (committing) {
        return; /* asked for by a callback: the loop below comes to it */
    }
    committing = true;
    if (!main_loop_context()) {
        drop_owners(NULL); /* no bottom half will */
    }
    /* A callback may change the tree, a listener's user may close a space, so that others move up
     * in the list: look again until nothing is stale. */
    while (any_stale) {
        any_stale = false;
        for (guint i = 0; i < spaces->len; i++) {
            AddressSpace *as = g_ptr_array_index(spaces, i);

            if (as->stale) {
                as->stale = false;
                update(as);
                any_stale |= i >= spaces->len || g_ptr_array_index(spaces, i) != as;
            }
        }
    }
    committing = false;
}

/* ---- address spaces ---------------------------------------------------------------------- */

AddressSpace *address_space_new(AddressSpaceKind kind, MemoryRegion *root, const char *name)
{
    AddressSpace *as = g_new0(AddressSpace, 1);

    ENGINE_LOCK_ASSERT();
    as->kind = kind;
    as->root = root;
    as->name = g_strdup(name ? name : "");
    as->listeners = g_ptr_array_new();
    as->unassigned = g_new0(Unassigned, 1);
    as->view = g_new0(View, 1);
    as->view->pub.generation = 1;
    if (!spaces) {
        spaces = g_ptr_array_new();
    }
    g_ptr_array_add(spaces, as);
    memory_region_transaction_begin();
    as->stale = any_stale = true;
    memory_region_transaction_commit();
    return as;
}

void address_space_free(AddressSpace *as)
{
    GPtrArray *owners = NULL;

    if (!as) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    while (as->listeners->len) {
        memory_listener_unregister(g_ptr_array_index(as->listeners, as->listeners->len - 1));
    }
    g_ptr_array_remove(spaces, as);
    for (unsigned i = 0; i < as->view->pub.n; i++) {
        Object *owner = as->view->pub.ranges[i].owner;

        if (owner) {
            owners = owners ? owners : g_ptr_array_new();
            g_ptr_array_add(owners, owner);
        }
    }
    g_ptr_array_free(as->listeners, TRUE);
    discard(as->view, as, as->unassigned, owners);
}

const char *address_space_name(const AddressSpace *as)
{
    return as->name;
}

MemoryRegion *address_space_root(const AddressSpace *as)
{
    return as->root;
}

AddressSpaceKind address_space_kind(const AddressSpace *as)
{
    return as->kind;
}

void address_space_foreach(void (*fn)(AddressSpace *as, void *opaque), void *opaque)
{
    ENGINE_LOCK_ASSERT();
    for (guint i = 0; spaces && i < spaces->len; i++) {
        fn(g_ptr_array_index(spaces, i), opaque);
    }
}

const FlatView *address_space_flat_view(AddressSpace *as)
{
    return &rcu_load(&as->view)->pub;
}

void address_space_set_unassigned(AddressSpace *as, UnassignedFn fn, void *opaque)
{
    Unassigned *old = as->unassigned, *u = g_new(Unassigned, 1);

    ENGINE_LOCK_ASSERT();
    *u = (Unassigned){ .fn = fn, .opaque = opaque };
    rcu_publish(&as->unassigned, u);
    discard(NULL, NULL, old, NULL);
}

/* ---- listeners --------------------------------------------------------------------------- */

void memory_listener_register(MemoryListener *l, AddressSpace *as)
{
    static const View empty = { .pub = { .generation = 1 } };
    guint i = as->listeners->len;
    GPtrArray *all = as->listeners;

    ENGINE_LOCK_ASSERT();
    l->as = as;
    while (i && ((MemoryListener *)g_ptr_array_index(all, i - 1))->priority > l->priority) {
        i--;
    }
    g_ptr_array_insert(all, (gint)i, l);
    /* Replay for this one alone. */
    as->listeners = g_ptr_array_new();
    g_ptr_array_add(as->listeners, l);
    tell_listeners(as, &empty, as->view);
    g_ptr_array_free(as->listeners, TRUE);
    as->listeners = all;
}

void memory_listener_unregister(MemoryListener *l)
{
    static const View empty = { .pub = { .generation = 1 } };
    AddressSpace *as = l->as;
    GPtrArray *all;

    if (!as) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    all = as->listeners;
    g_ptr_array_remove(all, l);
    as->listeners = g_ptr_array_new();
    g_ptr_array_add(as->listeners, l);
    tell_listeners(as, as->view, &empty);
    g_ptr_array_free(as->listeners, TRUE);
    as->listeners = all;
    l->as = NULL;
}

/* ---- dirty sync -------------------------------------------------------------------------- */

static void sync_space(AddressSpace *as, const MemoryRegion *only)
{
    for (unsigned i = 0; i < as->view->pub.n; i++) {
        const FlatRange *r = &as->view->pub.ranges[i];

        if (r->dirty_clients && (!only || r->mr == only)) {
            MemorySection s = { .as = as, .range = *r };

            NOTIFY(as, log_sync, &s);
        }
    }
}

void address_space_sync_dirty(AddressSpace *as)
{
    ENGINE_LOCK_ASSERT();
    sync_space(as, NULL);
}

void memory_region_sync_dirty(MemoryRegion *mr)
{
    ENGINE_LOCK_ASSERT();
    while (mr && mr->kind == MEMORY_ALIAS) {
        mr = mr->alias;
    }
    for (guint i = 0; mr && spaces && i < spaces->len; i++) {
        sync_space(g_ptr_array_index(spaces, i), mr);
    }
}
