/*
 * Events: named things that happen in a machine, watched by hooks whose filters are matched here,
 * in C.
 *
 * An EventHub belongs to a machine. A hook is (source, filter, function). Hook tables are read
 * under RCU, a pointer that is NULL while nothing is armed: an exit without hooks pays one load and
 * branch. Functions run under the engine lock on the thread on which the event happens.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu/exit.h"

typedef struct EventHub EventHub;
typedef struct EventHook EventHook;
typedef struct EventRing EventRing;
typedef struct VCpu VCpu;

typedef enum {
    EVENT_PIO,
    EVENT_MMIO,
    EVENT_MSR,
    EVENT_HYPERCALL,
    EVENT_EXEC, /* the instruction at addr is about to execute */
    EVENT_IRQ,  /* a line of the machine changed; addr: number, value: level */
    EVENT_EXIT, /* addr: a CpuExitKind, or EVENT_EXIT_ANY in the filter; args[0]: its address */
    EVENT_RESET,
    EVENT_STATUS,   /* run state changed; addr: new RunState */
    EVENT_INSN,     /* an instruction is about to execute; addr: linear; see EventRecord */
    EVENT_MEM,      /* guest code reads or writes memory, RAM too; addr: linear */
    EVENT_MEM_PHYS, /* the same; addr: physical, an access over a page boundary in two parts */
    EVENT_SOURCES,
} EventSource;
const char *event_source_name(EventSource source);

enum { EVENT_READS = 1, EVENT_WRITES = 2, EVENT_FETCHES = 4 /* EVENT_MEM only */ };
#define EVENT_EXIT_ANY UINT64_MAX /* addr of a filter on EVENT_EXIT */

/* Which instructions EVENT_INSN means besides those at the addresses; all 0: every one. */
typedef struct EventInsn {
    uint16_t mnemonic, category; /* numbers of engine/cpu/disasm.h; 0: any */
    uint8_t cpls;                /* bit mask of privilege levels; 0: any */
    uint8_t n_bytes;             /* the first bytes, under a mask; 0: any */
    uint8_t bytes[15], mask[15];
} EventInsn;

typedef struct EventFilter {
    EventSource source;
    uint64_t addr;        /* first port, address, MSR, number, CpuExitKind */
    uint64_t len;         /* how many; 0 means 1; UINT64_MAX: all */
    uint8_t sizes;        /* access sizes that match: bit mask 1|2|4|8; 0: any */
    uint8_t directions;   /* EVENT_READS | EVENT_WRITES; 0: both */
    uint64_t mask, value; /* writes (and reads of EVENT_MEM) match when (value & mask) == value;
                             mask 0: any */
    EventInsn insn;
    int cpu;        /* -1: any vCPU */
    uint64_t skip;  /* let the first `skip` matches pass */
    uint64_t limit; /* remove after that many calls; 0: never */
} EventFilter;

/* args of EVENT_INSN: 0, 1: its bytes; then what follows. `size` is its length. HANDLED: it is
 * skipped. */
enum { EVENT_ARG_BITS = 2 /* 16, 32, 64 */, EVENT_ARG_MNEMONIC, EVENT_ARG_CATEGORY, EVENT_ARG_CPL };
/* args of EVENT_MEM and EVENT_MEM_PHYS. HANDLED: `value` is what is read or written instead. */
enum {
    EVENT_ARG_OLD,   /* what a write replaces; 0 when it is not RAM */
    EVENT_ARG_OTHER, /* the physical address to a linear one, and the reverse */
    EVENT_ARG_ACCESS /* EVENT_READS, EVENT_WRITES or EVENT_FETCHES */
};

typedef struct EventRecord { /* what a hook sees, what a ring keeps */
    EventSource source;
    int cpu; /* index; -1: not on a vCPU */
    uint64_t addr, value;
    uint8_t size;
    bool write;
    uint64_t rip;     /* 0 when it was not cheap to know */
    int64_t time;     /* ns of the machine's virtual clock */
    uint64_t args[6]; /* hypercall arguments */
    bool fault;       /* an MSR hook answers with #GP */
    bool internal;    /* accesses that the kernel would have served itself: MSR default action */
} EventRecord;

typedef enum {
    EVENT_CONTINUE = 0, /* as if the hook were not there; the next hook is asked */
    EVENT_HANDLED = 1,  /* x->value is the answer; no device and no later hook sees the access */
    EVENT_PAUSE = 2,    /* handled as CONTINUE, then the machine pauses */
} EventAction;
typedef EventAction (*EventFn)(void *opaque, VCpu *cpu, EventRecord *x); /* cpu may be NULL */

/* What arming means to the accelerator: switching MSR filters, breakpoints, lifting coalescing and
 * ioeventfds from a range. Set by the machine; a refusal is the error of event_hook_add. */
typedef struct EventArmOps {
    bool (*arm)(void *opaque, const EventFilter *filter, char **how,
                GError **error); /* *how: "port exit", "hw breakpoint 1/4" … */
    void (*disarm)(void *opaque, const EventFilter *filter);
    int64_t (*now)(void *opaque); /* virtual time */
    void *opaque;
} EventArmOps;

EventHub *event_hub_new(const EventArmOps *ops); /* copied */
void event_hub_free(EventHub *hub); /* engine lock; removes what is left, each destroy is called */

/* Engine lock. Hooks on one source are asked in order of addition. `destroy(opaque)` runs when the
 * hook is gone for good, under the lock, never inside its own call. NULL + error: this machine or
 * accelerator cannot serve it. */
EventHook *event_hook_add(EventHub *hub, const EventFilter *filter, EventFn fn, void *opaque,
                          GDestroyNotify destroy, GError **error);
void event_hook_remove(
    EventHook *hook); /* also from inside its own call; the pointer is dead after */
uint64_t event_hook_hits(const EventHook *hook);
const char *event_hook_how(const EventHook *hook);
const EventFilter *event_hook_filter(const EventHook *hook);
void event_hub_foreach(EventHub *hub, void (*fn)(EventHook *hook, void *opaque), void *opaque);

/* A ring of the last n matches, kept without the engine lock (a leaf lock) and without calling
 * anybody. Its hook is in the list too. */
EventRing *event_ring_add(EventHub *hub, const EventFilter *filter, unsigned n, GError **error);
void event_ring_remove(EventRing *ring);
uint64_t event_ring_total(EventRing *ring);
unsigned event_ring_copy(EventRing *ring, EventRecord *out, unsigned max); /* oldest first */
EventHook *event_ring_hook(EventRing *ring); /* NULL once the hook was removed */

/*
 * What an EventHub begins with: the questions of the hot path, answered inline by one or two loads.
 * A "no" is sure, a "yes" is for event_hub_fire to look at. All relaxed atomics.
 */
typedef struct EventGate {
    uint32_t armed; /* a bit a source */
    struct {
        uint64_t places[2]; /* of reads, of writes: a bit for each class of places with a hook */
        uint64_t pattern; /* mask << 32 | value: what the low half of any write has that matches */
    } source[EVENT_SOURCES];
} EventGate;

/* Places of a source in 64 classes. MMIO by units of four bytes; what is 64 units apart, too, falls
 * into different classes mostly: registers of one device and bases of several do not collide. */
static inline uint64_t event_place(EventSource source, uint64_t addr)
{
    uint64_t unit = source == EVENT_MMIO ? addr >> 2 : addr;

    return UINT64_C(1) << ((unit ^ unit >> 6 ^ unit >> 12) & 63);
}

/* Is anything of this source armed? */
static inline bool event_hub_armed(const EventHub *hub, EventSource source)
{
    const EventGate *gate = (const EventGate *)(const void *)hub;

    return G_UNLIKELY(__atomic_load_n(&gate->armed, __ATOMIC_RELAXED) & (1u << source));
}

/* May a hook want this access or event? false: none does. */
static inline bool event_hub_wants(const EventHub *hub, EventSource source, uint64_t addr,
                                   unsigned size, bool write, uint64_t value)
{
    const EventGate *gate = (const EventGate *)(const void *)hub;
    uint64_t hooked = __atomic_load_n(&gate->source[source].places[write], __ATOMIC_RELAXED);
    uint64_t here, pattern;

    if (G_LIKELY(hooked == 0)) {
        return false;
    }
    here = event_place(source, addr);
    for (unsigned i = 1; i < size; i++) {
        here |= event_place(source, addr + i);
    }
    if (G_LIKELY(!(hooked & here))) {
        return false;
    }
    pattern = __atomic_load_n(&gate->source[source].pattern, __ATOMIC_RELAXED);
    return !write || ((uint32_t)value & (uint32_t)(pattern >> 32)) == (uint32_t)pattern;
}
/* Offers an event: filters are matched without the engine lock; it is taken (if not held) only for
 * a match that has a function. Returns EVENT_HANDLED, EVENT_PAUSE or both or-ed. Rings keep reads
 * only when the answer is known: the caller hands it to event_hub_complete. */
unsigned event_hub_fire(EventHub *hub, VCpu *cpu, EventRecord *x);
/* The machine's virtual clock in nanoseconds; 0 for a hub without one. Any thread. */
int64_t event_hub_now(const EventHub *hub);
/* A read (PIO, MMIO, MSR) was answered with x->value: rings that match keep it. */
void event_hub_complete(EventHub *hub, VCpu *cpu, EventRecord *x);
