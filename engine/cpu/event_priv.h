/* Between the files of the event hub. */
#pragma once

#include <pthread.h>

#include "engine/cpu/event.h"

typedef struct Arm { /* what the accelerator was asked for, shared by identical hooks */
    EventFilter filter;
    char *how;
    unsigned users;
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
    EventGate gate; /* first: its readers know no more of a hub */
    EventArmOps ops;
    GPtrArray *hooks;                 /* all, in order of addition; engine lock */
    GPtrArray *arms;                  /* engine lock */
    GPtrArray *rings;                 /* engine lock */
    HookTable *tables[EVENT_SOURCES]; /* RCU */
    uint64_t next_seq;
};
G_STATIC_ASSERT(offsetof(EventHub, gate) == 0);
G_STATIC_ASSERT(EVENT_SOURCES <= 32);

void event_hook_ref(EventHook *hook);
void event_hook_unref(EventHook *hook);
/* Runs its destroy function, once. */
void event_hook_destroy_opaque(EventHook *hook);
/* event_hook_add for functions and rings alike: fn NULL, ring set. */
EventHook *event_hook_add_any(EventHub *hub, const EventFilter *filter, EventFn fn, void *opaque,
                              GDestroyNotify destroy, EventRing *ring, GError **error);
