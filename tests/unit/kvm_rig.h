/*
 * A machine on KVM for tests: RAM, the ports and the MMIO page of tests/guests/test.inc, a guest
 * image.
 */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "engine/machine/machine.h"
#include "engine/memory/ram.h"

enum {
    GUEST_ADDR = 0x1000,
    GUEST_PARAM = 0xf00,
    GUEST_LIST = 0x6000,
    PORT_VALUE = 0x500,
    PORT_SOURCE = 0x504,
    PORT_DONE = 0x508,
    PORT_COALESCED = 0x520,
    RIG_VALUES = 16384,
};
#define MMIO_DEVICE UINT64_C(0xd0000000)

typedef struct RigValue {
    uint64_t addr, value;
    unsigned size;
} RigValue;

typedef struct Rig {
    Machine *m;
    MemoryRegion ram, values, source, done, mmio, coalesced;
    uint64_t ram_size;
    RigValue got[RIG_VALUES]; /* what the guest wrote to devices, in order */
    unsigned n;
    uint64_t next_source;
    bool finished;     /* the guest wrote to PORT_DONE */
    bool keep_running; /* do not pause on that */
} Rig;

/* NULL when this host has no KVM; *why says so. */
Rig *rig_new(IrqchipMode irqchip, bool pit, uint64_t ram_size);
void rig_free(Rig *r);
VCpu *rig_add_cpu(Rig *r);
/* Ends the construction, loads the guest, sets the first vCPU to its start. */
void rig_start(Rig *r, const char *guest);
void rig_load(Rig *r, const char *guest);
void rig_set_entry(Rig *r);
void rig_resume(Rig *r);
/* Runs the main loop until the machine has stopped by itself. */
void rig_wait(Rig *r);
void rig_run(Rig *r);
void rig_pause(Rig *r);
/* Runs the main loop until cond() holds. */
void rig_until(Rig *r, bool (*cond)(Rig *r));
uint32_t rig_peek(Rig *r, uint64_t addr);
void rig_poke(Rig *r, uint64_t addr, uint32_t value, unsigned size);
uint64_t rig_stat(Rig *r, const char *name);
/* NULL: available; else the reason. The caller frees. */
char *rig_unavailable(void);
/* main() of a test program: skipped with the reason (exit status 77, TAP plan) where there is no
 * KVM. */
int rig_main(const char *suite, void (*add)(TCase *tc));
/* Whether long stress runs were asked for (VMLUA_LONG=1): n, else a tenth. */
unsigned rig_rounds(unsigned n);
/* Hooks. */
EventHook *rig_hook(Rig *r, EventSource source, uint64_t addr, uint64_t len, EventFn fn,
                    void *opaque);
static inline VCpu *rig_cpu(Rig *r, unsigned i)
{
    return g_ptr_array_index(r->m->cpus, i);
}
