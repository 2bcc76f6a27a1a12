/*
 * Event hubs: hooks, their tables under RCU, arming. Firing and rings: event-fire.c.
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

#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/rcu.h"
#include "engine/cpu/event_priv.h"

static const char *const source_names[EVENT_SOURCES] = {
    [EVENT_PIO] = "pio",       [EVENT_MMIO] = "mmio",
    [EVENT_MSR] = "msr",       [EVENT_HYPERCALL] = "hypercall",
    [EVENT_EXEC] = "exec",     [EVENT_IRQ] = "irq",
    [EVENT_EXIT] = "exit",     [EVENT_RESET] = "reset",
    [EVENT_STATUS] = "status", [EVENT_INSN] = "insn",
    [EVENT_MEM] = "mem",       [EVENT_MEM_PHYS] = "mem-phys",
};

const char *event_source_name(EventSource source)
{
    return (unsigned)source < EVENT_SOURCES ? source_names[source] : "invalid";
}

void event_hook_unref(EventHook *hook)
{
    if (__atomic_sub_fetch(&hook->ref, 1, __ATOMIC_ACQ_REL) == 0) {
        g_free(hook);
    }
}

void event_hook_ref(EventHook *hook)
{
    __atomic_add_fetch(&hook->ref, 1, __ATOMIC_RELAXED);
}

/* ---- tables ------------------------------------------------------------------------------ */

static void table_free(void *data)
{
    HookTable *t = data;

    for (unsigned i = 0; i < t->n; i++) {
        event_hook_unref(t->entries[i].hook);
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

static uint64_t places_of(const EventHook *hook)
{
    EventSource source = hook->filter.source;
    /* Every unit of 4 bytes, or every number, may be a class of its own. */
    uint64_t step = source == EVENT_MMIO ? 4 : 1, places = 0;

    if (hook->last - hook->filter.addr >= 64 * step) {
        return UINT64_MAX;
    }
    for (uint64_t at = hook->filter.addr; at < hook->last && hook->last - at > step; at += step) {
        places |= event_place(source, at);
    }
    /* The last two by their ends: a range need not begin on a unit. */
    if (hook->last - hook->filter.addr >= step) {
        places |= event_place(source, hook->last - step);
    }
    return places | event_place(source, hook->filter.addr) | event_place(source, hook->last);
}

/* What all writes that any hook of the source matches have in common. One word, so that a reader
 * never sees the mask of one time with the value of another. */
static uint64_t common_pattern(const HookTable *t)
{
    uint32_t mask = UINT32_MAX, value = 0;

    for (unsigned i = 0; i < t->n; i++) {
        const EventFilter *f = &t->entries[i].hook->filter;

        if (i == 0) {
            value = (uint32_t)f->value;
        }
        mask &= (uint32_t)f->mask & ~((uint32_t)f->value ^ value);
    }
    return (uint64_t)mask << 32 | (value & mask);
}

/* What the table's hooks want lies behind the gate at any time that both are read. */
static void set_gate(EventHub *hub, EventSource source, const HookTable *t)
{
    uint64_t places[2] = { 0, 0 };

    for (unsigned i = 0; t && i < t->n; i++) {
        const EventHook *hook = t->entries[i].hook;
        uint64_t p = places_of(hook);

        places[0] |= hook->filter.directions & EVENT_READS ? p : 0;
        places[1] |= hook->filter.directions & EVENT_WRITES ? p : 0;
    }
    __atomic_store_n(&hub->gate.source[source].pattern, t ? common_pattern(t) : 0,
                     __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < 2; i++) {
        __atomic_store_n(&hub->gate.source[source].places[i], places[i], __ATOMIC_SEQ_CST);
    }
    if (t) {
        __atomic_fetch_or(&hub->gate.armed, 1u << source, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(&hub->gate.armed, ~(1u << source), __ATOMIC_SEQ_CST);
    }
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
                event_hook_ref(hook);
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
    set_gate(hub, source, t);
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
        .insn = f->insn,
    };
}

static bool same_insn(const EventInsn *a, const EventInsn *b)
{
    return a->mnemonic == b->mnemonic && a->category == b->category && a->cpls == b->cpls &&
           a->n_bytes == b->n_bytes && memcmp(a->bytes, b->bytes, a->n_bytes) == 0 &&
           memcmp(a->mask, b->mask, a->n_bytes) == 0;
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
            f->directions == key.directions && f->cpu == key.cpu &&
            same_insn(&f->insn, &key.insn)) {
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
    if (hub->ops.disarm) {
        hub->ops.disarm(hub->ops.opaque, &arm->filter);
    }
    g_free(arm->how);
    g_free(arm);
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
    if (f->directions &
        ~(EVENT_READS | EVENT_WRITES | (f->source == EVENT_MEM ? EVENT_FETCHES : 0))) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s hook: directions %#x",
                         source_names[f->source], f->directions);
    }
    if (f->insn.n_bytes > sizeof(f->insn.bytes)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "insn hook: an instruction has at most %zu bytes", sizeof(f->insn.bytes));
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

EventHook *event_hook_add_any(EventHub *hub, const EventFilter *filter, EventFn fn, void *opaque,
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
    return event_hook_add_any(hub, filter, fn, opaque, destroy, NULL, error);
}

void event_hook_destroy_opaque(EventHook *hook)
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
        event_hook_destroy_opaque(hook);
    }
    event_hook_unref(hook);
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

        event_hook_ref(hook);
        g_ptr_array_add(copy, hook);
    }
    for (unsigned i = 0; i < copy->len; i++) {
        EventHook *hook = g_ptr_array_index(copy, i);

        if (!hook->removed) {
            fn(hook, opaque);
        }
        event_hook_unref(hook);
    }
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
