/*
 * Event hubs: matching, calling, rings.
 *
 * An event walks its source's table inside an RCU section, without any lock but the leaf lock of a
 * ring. What has to be called is referenced, then called after the section, under the engine lock.
 */
#include "engine/cpu/event.h"

#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/rcu.h"
#include "engine/cpu/event_priv.h"

/* ---- firing ------------------------------------------------------------------------------ */

static bool insn_matches(const EventInsn *f, const EventRecord *x)
{
    uint8_t bytes[2 * sizeof(x->args[0])];

    if ((f->mnemonic && f->mnemonic != x->args[EVENT_ARG_MNEMONIC]) ||
        (f->category && f->category != x->args[EVENT_ARG_CATEGORY]) ||
        (f->cpls && !(f->cpls >> x->args[EVENT_ARG_CPL] & 1)) || f->n_bytes > x->size) {
        return false;
    }
    memcpy(bytes, x->args, sizeof(bytes));
    for (unsigned i = 0; i < f->n_bytes; i++) {
        if ((bytes[i] ^ f->bytes[i]) & f->mask[i]) {
            return false;
        }
    }
    return true;
}

static bool memory_matches(const EventFilter *f, const EventRecord *x)
{
    return (f->directions & x->args[EVENT_ARG_ACCESS]) &&
           (!f->sizes || ((f->sizes & x->size) && !(x->size & (x->size - 1)))) &&
           (!f->mask || (x->value & f->mask) == f->value);
}

static bool filter_matches(const EventFilter *f, const EventRecord *x)
{
    if (f->cpu >= 0 && f->cpu != x->cpu) {
        return false;
    }
    if (x->source == EVENT_INSN) {
        return insn_matches(&f->insn, x);
    }
    if (x->source == EVENT_MEM || x->source == EVENT_MEM_PHYS) {
        return memory_matches(f, x);
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

int64_t event_hub_now(const EventHub *hub)
{
    return hub->ops.now ? hub->ops.now(hub->ops.opaque) : 0;
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
    if ((x->source == EVENT_PIO || x->source == EVENT_MMIO || x->source == EVENT_MEM ||
         x->source == EVENT_MEM_PHYS) &&
        x->size > 1) {
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
    event_hook_ref(hook);
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
            event_hook_destroy_opaque(hook);
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
        event_hook_unref(hooks[i]);
    }
    if (m->more) {
        g_ptr_array_free(m->more, TRUE);
    }
    return result;
}

/* What of the event's table matches: rings keep it, functions are collected. */
static inline void match(Matches *m)
{
    const HookTable *t;

    m->n = 0;
    m->more = NULL;
    rcu_enter();
    t = rcu_load(&m->hub->tables[m->x->source]);
    if (t) {
        find_matches(t, m->x, collect, m);
    }
    rcu_leave();
}

unsigned event_hub_fire(EventHub *hub, VCpu *cpu, EventRecord *x)
{
    Matches m;

    m.hub = hub;
    m.x = x;
    m.rings = x->write || !is_access(x->source);
    m.functions = true;
    match(&m);
    return m.n == 0 ? EVENT_CONTINUE : call_hooks(&m, cpu, x);
}

void event_hub_complete(EventHub *hub, VCpu *cpu, EventRecord *x)
{
    Matches m;

    m.hub = hub;
    m.x = x;
    m.rings = true;
    m.functions = false;
    match(&m);
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
    ring->hook = event_hook_add_any(hub, filter, NULL, NULL, NULL, ring, error);
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
