/*
 * Event hubs: hook tables under RCU, filters, arming, rings.
 *
 * A source's table is sorted by first address. Each entry also knows the largest last address of
 * itself and all entries before it, so that a search that walks back from the insertion point stops
 * as soon as nothing earlier can reach the access: a thousand hooks elsewhere cost a few compares.
 *
 * Life of a hook: one reference for the hub's list, one for each published table that shows it
 * (dropped a grace period after the table was replaced), one for each fire that is about to call
 * it. Its function is called only under the engine lock and only while `removed` is false, so after
 * event_hook_remove returned nobody calls it, and `destroy` may run at once, unless the removal
 * came from inside the call.
 */
#include "engine/cpu/event.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/rcu.h"

typedef struct Arm { /* what the accelerator was asked for, shared by identical hooks */
    EventFilter filter;
    char *how;
    unsigned users;
    bool suspended; /* not armed for the moment, or no more */
} Arm;

struct EventHook {
    EventHub *hub;
    EventFilter filter;
    uint64_t last; /* inclusive end of the address range */
    uint64_t seq;  /* order of addition */
    EventFn fn;    /* NULL: a ring's */
    void *opaque;
    GDestroyNotify destroy;
    EventRing *ring;
    Arm *arm;
    int ref;          /* atomic */
    uint64_t matches; /* atomic; skipped ones included */
    uint64_t hits;    /* atomic */
    bool removed;     /* engine lock */
    unsigned calling; /* engine lock: depth of its own call */
};

struct EventRing {
    EventHub *hub;
    EventHook *hook;      /* engine lock; NULL once removed */
    pthread_mutex_t lock; /* leaf: what follows */
    EventRecord *records;
    unsigned size;
    uint64_t total;
};

typedef struct TableEntry {
    uint64_t first, last;
    uint64_t max_last; /* of this and all earlier entries */
    EventHook *hook;
} TableEntry;

typedef struct HookTable {
    unsigned n;
    TableEntry entries[];
} HookTable;

struct EventHub {
    uint32_t armed; /* first: event_hub_armed reads it. A bit a source */
    EventArmOps ops;
    GPtrArray *hooks;                 /* all, in order of addition; engine lock */
    GPtrArray *arms;                  /* engine lock */
    GPtrArray *rings;                 /* engine lock */
    HookTable *tables[EVENT_SOURCES]; /* RCU */
    uint64_t next_seq;
};
G_STATIC_ASSERT(offsetof(EventHub, armed) == 0);
G_STATIC_ASSERT(EVENT_SOURCES <= 32);

static const char *const source_names[EVENT_SOURCES] = {
    [EVENT_PIO] = "pio",       [EVENT_MMIO] = "mmio",
    [EVENT_MSR] = "msr",       [EVENT_HYPERCALL] = "hypercall",
    [EVENT_EXEC] = "exec",     [EVENT_IRQ] = "irq",
    [EVENT_EXIT] = "exit",     [EVENT_RESET] = "reset",
    [EVENT_STATUS] = "status",
};

const char *event_source_name(EventSource source)
{
    return (unsigned)source < EVENT_SOURCES ? source_names[source] : "invalid";
}

static void hook_unref(EventHook *hook)
{
    if (__atomic_sub_fetch(&hook->ref, 1, __ATOMIC_ACQ_REL) == 0) {
        g_free(hook);
    }
}

static void hook_ref(EventHook *hook)
{
    __atomic_add_fetch(&hook->ref, 1, __ATOMIC_RELAXED);
}

/* ---- tables ------------------------------------------------------------------------------ */

static void table_free(void *data)
{
    HookTable *t = data;

    for (unsigned i = 0; i < t->n; i++) {
        hook_unref(t->entries[i].hook);
    }
    g_free(t);
}

static int compare_entries(const void *a, const void *b)
{
    const TableEntry *x = a, *y = b;

    if (x->first != y->first) {
        return x->first < y->first ? -1 : 1;
    }
    return x->hook->seq < y->hook->seq ? -1 : x->hook->seq > y->hook->seq;
}

static void publish_table(EventHub *hub, EventSource source)
{
    HookTable *old = hub->tables[source], *t = NULL;
    unsigned n = 0;

    for (unsigned i = 0; i < hub->hooks->len; i++) {
        EventHook *hook = g_ptr_array_index(hub->hooks, i);

        n += hook->filter.source == source;
    }
    if (n > 0) {
        uint64_t max_last = 0;

        t = g_malloc(sizeof(*t) + n * sizeof(t->entries[0]));
        t->n = 0;
        for (unsigned i = 0; i < hub->hooks->len; i++) {
            EventHook *hook = g_ptr_array_index(hub->hooks, i);

            if (hook->filter.source == source) {
                hook_ref(hook);
                t->entries[t->n++] = (TableEntry){ .first = hook->filter.addr,
                                                   .last = hook->last,
                                                   .hook = hook };
            }
        }
        qsort(t->entries, n, sizeof(t->entries[0]), compare_entries);
        for (unsigned i = 0; i < n; i++) {
            max_last = MAX(max_last, t->entries[i].last);
            t->entries[i].max_last = max_last;
        }
    }
    rcu_publish(&hub->tables[source], t);
    if (t) {
        __atomic_fetch_or(&hub->armed, 1u << source, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(&hub->armed, ~(1u << source), __ATOMIC_SEQ_CST);
    }
    if (old) {
        rcu_defer(table_free, old);
    }
}

/* ---- arming ------------------------------------------------------------------------------ */

/* What the accelerator has to do for a filter: the rest of it is matched here. */
static EventFilter arm_key(const EventFilter *f)
{
    return (EventFilter){
        .source = f->source,
        .addr = f->addr,
        .len = f->len,
        .directions = f->directions,
        .cpu = f->cpu,
    };
}

static Arm *arm_get(EventHub *hub, const EventFilter *filter, GError **error)
{
    EventFilter key = arm_key(filter);
    Arm *arm;
    char *how = NULL;

    for (unsigned i = 0; i < hub->arms->len; i++) {
        const EventFilter *f;

        arm = g_ptr_array_index(hub->arms, i);
        f = &arm->filter;
        if (f->source == key.source && f->addr == key.addr && f->len == key.len &&
            f->directions == key.directions && f->cpu == key.cpu) {
            arm->users++;
            return arm;
        }
    }
    if (hub->ops.arm && !hub->ops.arm(hub->ops.opaque, &key, &how, error)) {
        g_free(how);
        return NULL;
    }
    arm = g_new0(Arm, 1);
    arm->filter = key;
    arm->how = how ? how : g_strdup_printf("%s event", event_source_name(key.source));
    arm->users = 1;
    g_ptr_array_add(hub->arms, arm);
    return arm;
}

static void arm_put(EventHub *hub, Arm *arm)
{
    if (--arm->users > 0) {
        return;
    }
    g_ptr_array_remove(hub->arms, arm);
    if (hub->ops.disarm && !arm->suspended) {
        hub->ops.disarm(hub->ops.opaque, &arm->filter);
    }
    g_free(arm->how);
    g_free(arm);
}

void event_hub_suspend(EventHub *hub, EventSource source)
{
    ENGINE_LOCK_ASSERT();
    for (unsigned i = 0; i < hub->arms->len; i++) {
        Arm *arm = g_ptr_array_index(hub->arms, i);

        if (arm->filter.source == source && !arm->suspended) {
            arm->suspended = true;
            if (hub->ops.disarm) {
                hub->ops.disarm(hub->ops.opaque, &arm->filter);
            }
        }
    }
}

bool event_hub_unsuspend(EventHub *hub, EventSource source, GError **error)
{
    bool ok = true;

    ENGINE_LOCK_ASSERT();
    for (unsigned i = 0; i < hub->arms->len; i++) {
        Arm *arm = g_ptr_array_index(hub->arms, i);
        char *how = NULL;

        if (arm->filter.source != source || !arm->suspended) {
            continue;
        }
        if (hub->ops.arm && !hub->ops.arm(hub->ops.opaque, &arm->filter, &how, ok ? error : NULL)) {
            ok = false;
            g_free(how);
            how = g_strdup("no longer armed");
        } else {
            arm->suspended = false;
        }
        if (how) {
            g_free(arm->how);
            arm->how = how;
        }
    }
    return ok;
}

/* ---- hooks ------------------------------------------------------------------------------- */

EventHub *event_hub_new(const EventArmOps *ops)
{
    EventHub *hub = g_new0(EventHub, 1);

    if (ops) {
        hub->ops = *ops;
    }
    hub->hooks = g_ptr_array_new();
    hub->arms = g_ptr_array_new();
    hub->rings = g_ptr_array_new();
    return hub;
}

static bool check_filter(EventFilter *f, GError **error)
{
    if ((unsigned)f->source >= EVENT_SOURCES) {
        return error_set(error, ENGINE_ERROR_INVALID, "%u is not an event source", f->source);
    }
    if (f->source == EVENT_EXIT && f->addr == EVENT_EXIT_ANY) {
        f->addr = 0;
        f->len = UINT64_MAX;
    }
    if (f->len == 0) {
        f->len = 1;
    }
    if (f->directions == 0) {
        f->directions = EVENT_READS | EVENT_WRITES;
    }
    if (f->directions & ~(EVENT_READS | EVENT_WRITES)) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s hook: directions %#x",
                         source_names[f->source], f->directions);
    }
    if (f->sizes & ~(1 | 2 | 4 | 8)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s hook: access sizes %#x (a mask of 1, 2, 4, 8)",
                         source_names[f->source], f->sizes);
    }
    if (f->value & ~f->mask) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s hook: value %#" G_GINT64_MODIFIER
                         "x has bits outside mask %#" G_GINT64_MODIFIER "x and can never match",
                         source_names[f->source], f->value, f->mask);
    }
    return true;
}

static EventHook *hook_add(EventHub *hub, const EventFilter *filter, EventFn fn, void *opaque,
                           GDestroyNotify destroy, EventRing *ring, GError **error)
{
    EventFilter f = *filter;
    EventHook *hook;
    Arm *arm;

    ENGINE_LOCK_ASSERT();
    if (!check_filter(&f, error)) {
        return NULL;
    }
    arm = arm_get(hub, &f, error);
    if (!arm) {
        return NULL;
    }
    hook = g_new0(EventHook, 1);
    hook->hub = hub;
    hook->filter = f;
    hook->last = f.addr + (f.len - 1);
    if (hook->last < f.addr) {
        hook->last = UINT64_MAX; /* "all" from anywhere */
    }
    hook->seq = hub->next_seq++;
    hook->fn = fn;
    hook->opaque = opaque;
    hook->destroy = destroy;
    hook->ring = ring;
    hook->arm = arm;
    hook->ref = 1;
    g_ptr_array_add(hub->hooks, hook);
    publish_table(hub, f.source);
    return hook;
}

EventHook *event_hook_add(EventHub *hub, const EventFilter *filter, EventFn fn, void *opaque,
                          GDestroyNotify destroy, GError **error)
{
    g_assert(fn);
    return hook_add(hub, filter, fn, opaque, destroy, NULL, error);
}

static void hook_destroy_opaque(EventHook *hook)
{
    GDestroyNotify destroy = hook->destroy;

    hook->destroy = NULL;
    if (destroy) {
        destroy(hook->opaque);
    }
}

void event_hook_remove(EventHook *hook)
{
    EventHub *hub = hook->hub;

    ENGINE_LOCK_ASSERT();
    if (hook->removed) {
        return;
    }
    hook->removed = true;
    g_ptr_array_remove(hub->hooks, hook);
    publish_table(hub, hook->filter.source);
    arm_put(hub, g_steal_pointer(&hook->arm));
    if (hook->ring) {
        hook->ring->hook = NULL;
    }
    if (hook->calling == 0) {
        hook_destroy_opaque(hook);
    }
    hook_unref(hook);
}

uint64_t event_hook_hits(const EventHook *hook)
{
    return __atomic_load_n(&hook->hits, __ATOMIC_RELAXED);
}

const char *event_hook_how(const EventHook *hook)
{
    return hook->arm ? hook->arm->how : "removed";
}

const EventFilter *event_hook_filter(const EventHook *hook)
{
    return &hook->filter;
}

void event_hub_foreach(EventHub *hub, void (*fn)(EventHook *hook, void *opaque), void *opaque)
{
    /* fn may remove hooks, the one it was given among them. */
    g_autoptr(GPtrArray) copy = g_ptr_array_sized_new(hub->hooks->len);

    ENGINE_LOCK_ASSERT();
    for (unsigned i = 0; i < hub->hooks->len; i++) {
        EventHook *hook = g_ptr_array_index(hub->hooks, i);

        hook_ref(hook);
        g_ptr_array_add(copy, hook);
    }
    for (unsigned i = 0; i < copy->len; i++) {
        EventHook *hook = g_ptr_array_index(copy, i);

        if (!hook->removed) {
            fn(hook, opaque);
        }
        hook_unref(hook);
    }
}

/* ---- firing ------------------------------------------------------------------------------ */

static bool filter_matches(const EventFilter *f, const EventRecord *x)
{
    if (f->cpu >= 0 && f->cpu != x->cpu) {
        return false;
    }
    if (!(f->directions & (x->write ? EVENT_WRITES : EVENT_READS))) {
        return false;
    }
    if (f->sizes && !(f->sizes & x->size)) {
        return false;
    }
    return !f->mask || !x->write || (x->value & f->mask) == f->value;
}

/* Sources whose accesses can be reads, answered only after the hooks were asked. */
static bool is_access(EventSource source)
{
    return source == EVENT_PIO || source == EVENT_MMIO || source == EVENT_MSR;
}

static void ring_record(EventHub *hub, EventHook *hook, EventRecord *x)
{
    EventRing *ring = hook->ring;

    if (!x->time && hub->ops.now) {
        x->time = hub->ops.now(hub->ops.opaque);
    }
    pthread_mutex_lock(&ring->lock);
    ring->records[ring->total % ring->size] = *x;
    ring->total++;
    pthread_mutex_unlock(&ring->lock);
}

/* Counts a match against `skip` and, for rings, `limit`. */
static bool count_match(EventHook *hook)
{
    const EventFilter *f = &hook->filter;
    uint64_t seen = __atomic_fetch_add(&hook->matches, 1, __ATOMIC_RELAXED);

    if (seen < f->skip) {
        return false;
    }
    if (hook->ring) {
        if (f->limit && seen - f->skip >= f->limit) {
            return false;
        }
        __atomic_fetch_add(&hook->hits, 1, __ATOMIC_RELAXED);
    }
    return true;
}

/* Walks the entries that cover the access; the newest start first. */
typedef bool (*MatchFn)(EventHook *hook, void *opaque);
static inline void find_matches(const HookTable *t, const EventRecord *x, MatchFn fn, void *opaque)
{
    uint64_t first = x->addr, last;
    unsigned lo = 0, hi = t->n;

    last = first;
    if ((x->source == EVENT_PIO || x->source == EVENT_MMIO) && x->size > 1) {
        last = first + (x->size - 1u);
        if (last < first) {
            last = UINT64_MAX;
        }
    }
    while (lo < hi) { /* first entry that starts after the access */
        unsigned mid = (lo + hi) / 2;

        if (t->entries[mid].first <= last) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    while (lo-- > 0 && t->entries[lo].max_last >= first) {
        const TableEntry *e = &t->entries[lo];

        if (e->last >= first && filter_matches(&e->hook->filter, x)) {
            if (!fn(e->hook, opaque)) {
                return;
            }
        }
    }
}

#define MATCHES_INLINE 8

typedef struct Matches {
    EventHub *hub;
    EventRecord *x;
    bool rings; /* rings take this record now */
    bool functions;
    unsigned n;
    GPtrArray *more; /* beyond the first few */
    EventHook *hooks[MATCHES_INLINE];
} Matches;

static bool collect(EventHook *hook, void *opaque)
{
    Matches *m = opaque;

    if (hook->ring) {
        if (m->rings && count_match(hook)) {
            ring_record(m->hub, hook, m->x);
        }
        return true;
    }
    if (!m->functions || !count_match(hook)) {
        return true;
    }
    hook_ref(hook);
    if (m->n < MATCHES_INLINE) {
        m->hooks[m->n] = hook;
    } else {
        if (!m->more) {
            m->more = g_ptr_array_new();
            for (unsigned i = 0; i < MATCHES_INLINE; i++) {
                g_ptr_array_add(m->more, m->hooks[i]);
            }
        }
        g_ptr_array_add(m->more, hook);
    }
    m->n++;
    return true;
}

static int compare_seq(const void *a, const void *b)
{
    const EventHook *x = *(EventHook *const *)a, *y = *(EventHook *const *)b;

    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

static EventAction call_hook(EventHook *hook, VCpu *cpu, EventRecord *x)
{
    EventAction action;
    uint64_t hits;

    if (hook->removed || (hook->filter.limit && event_hook_hits(hook) >= hook->filter.limit)) {
        return EVENT_CONTINUE;
    }
    hits = __atomic_add_fetch(&hook->hits, 1, __ATOMIC_RELAXED);
    hook->calling++;
    /* The access is half done and the hook's own data is in use: nobody may let others in. */
    engine_no_unlock_begin();
    action = hook->fn(hook->opaque, cpu, x);
    engine_no_unlock_end();
    hook->calling--;
    if (hook->removed) {
        if (hook->calling == 0) {
            hook_destroy_opaque(hook);
        }
    } else if (hook->filter.limit && hits >= hook->filter.limit) {
        event_hook_remove(hook);
    }
    return action;
}

static unsigned __attribute__((noinline)) call_hooks(Matches *m, VCpu *cpu, EventRecord *x)
{
    EventHook **hooks = m->more ? (EventHook **)m->more->pdata : m->hooks;
    bool held = engine_lock_held();
    unsigned result = EVENT_CONTINUE;

    if (!x->time && m->hub->ops.now) {
        x->time = m->hub->ops.now(m->hub->ops.opaque);
    }
    if (m->n > 1) {
        qsort(hooks, m->n, sizeof(hooks[0]), compare_seq);
    }
    if (!held) {
        engine_lock();
    }
    for (unsigned i = 0; i < m->n; i++) {
        if (!(result & EVENT_HANDLED)) {
            EventAction action = call_hook(hooks[i], cpu, x);

            if (action == EVENT_HANDLED || action == EVENT_PAUSE) {
                result |= action;
            }
        }
    }
    if (!held) {
        engine_unlock();
    }
    for (unsigned i = 0; i < m->n; i++) {
        hook_unref(hooks[i]);
    }
    if (m->more) {
        g_ptr_array_free(m->more, TRUE);
    }
    return result;
}

unsigned event_hub_fire(EventHub *hub, VCpu *cpu, EventRecord *x)
{
    Matches m;
    const HookTable *t;

    m.hub = hub;
    m.x = x;
    m.rings = x->write || !is_access(x->source);
    m.functions = true;
    m.n = 0;
    m.more = NULL;
    rcu_enter();
    t = rcu_load(&hub->tables[x->source]);
    if (t) {
        find_matches(t, x, collect, &m);
    }
    rcu_leave();
    return m.n == 0 ? EVENT_CONTINUE : call_hooks(&m, cpu, x);
}

void event_hub_complete(EventHub *hub, VCpu *cpu, EventRecord *x)
{
    Matches m;
    const HookTable *t;

    m.hub = hub;
    m.x = x;
    m.rings = true;
    m.functions = false;
    m.n = 0;
    m.more = NULL;
    rcu_enter();
    t = rcu_load(&hub->tables[x->source]);
    if (t) {
        find_matches(t, x, collect, &m);
    }
    rcu_leave();
}

/* ---- rings ------------------------------------------------------------------------------- */

#define RING_MAX (1u << 20)

EventRing *event_ring_add(EventHub *hub, const EventFilter *filter, unsigned n, GError **error)
{
    EventRing *ring;

    if (n == 0 || n > RING_MAX) {
        error_set(error, ENGINE_ERROR_INVALID, "a trace keeps 1 to %u events, not %u", RING_MAX, n);
        return NULL;
    }
    ring = g_new0(EventRing, 1);
    ring->hub = hub;
    ring->size = n;
    ring->records = g_new0(EventRecord, n);
    pthread_mutex_init(&ring->lock, NULL);
    ring->hook = hook_add(hub, filter, NULL, NULL, NULL, ring, error);
    if (!ring->hook) {
        pthread_mutex_destroy(&ring->lock);
        g_free(ring->records);
        g_free(ring);
        return NULL;
    }
    g_ptr_array_add(hub->rings, ring);
    return ring;
}

static void ring_free(void *data)
{
    EventRing *ring = data;

    pthread_mutex_destroy(&ring->lock);
    g_free(ring->records);
    g_free(ring);
}

void event_ring_remove(EventRing *ring)
{
    ENGINE_LOCK_ASSERT();
    if (ring->hook) {
        event_hook_remove(ring->hook);
    }
    if (ring->hub) {
        g_ptr_array_remove(ring->hub->rings, ring);
    }
    /* A vCPU may be writing into it: it does so inside its RCU section. */
    rcu_defer(ring_free, ring);
}

uint64_t event_ring_total(EventRing *ring)
{
    uint64_t total;

    pthread_mutex_lock(&ring->lock);
    total = ring->total;
    pthread_mutex_unlock(&ring->lock);
    return total;
}

unsigned event_ring_copy(EventRing *ring, EventRecord *out, unsigned max)
{
    unsigned n;

    pthread_mutex_lock(&ring->lock);
    n = (unsigned)MIN(MIN(ring->total, (uint64_t)ring->size), (uint64_t)max);
    for (unsigned i = 0; i < n; i++) {
        out[i] = ring->records[(ring->total - n + i) % ring->size];
    }
    pthread_mutex_unlock(&ring->lock);
    return n;
}

EventHook *event_ring_hook(EventRing *ring)
{
    return ring->hook;
}

void event_hub_free(EventHub *hub)
{
    if (!hub) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    while (hub->hooks->len > 0) {
        event_hook_remove(g_ptr_array_index(hub->hooks, hub->hooks->len - 1));
    }
    /* Rings belong to whoever made them; they stay readable. */
    for (unsigned i = 0; i < hub->rings->len; i++) {
        EventRing *ring = g_ptr_array_index(hub->rings, i);

        ring->hub = NULL;
    }
    g_ptr_array_free(hub->rings, TRUE);
    g_ptr_array_free(hub->hooks, TRUE);
    g_ptr_array_free(hub->arms, TRUE);
    g_free(hub);
}
