/*
 * The exit record: why a vCPU left the guest, in terms that every accelerator shares. One a vCPU,
 * reused.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    CPU_EXIT_NONE,
    CPU_EXIT_PIO,
    CPU_EXIT_MMIO,
    CPU_EXIT_RDMSR,
    CPU_EXIT_WRMSR,
    CPU_EXIT_HYPERCALL,
    CPU_EXIT_HLT,
    CPU_EXIT_SHUTDOWN,     /* triple fault */
    CPU_EXIT_SYSTEM_EVENT, /* the guest asked the platform: a CPU_EVENT_* in `addr` */
    CPU_EXIT_DEBUG,        /* breakpoint or step */
    CPU_EXIT_IRQ_WINDOW,
    CPU_EXIT_INTERRUPTED,    /* kicked */
    CPU_EXIT_FAIL_ENTRY,     /* the host CPU refused the state */
    CPU_EXIT_INTERNAL_ERROR, /* the accelerator gave up; `message` has the instruction bytes */
    CPU_EXIT_IOAPIC_EOI,     /* vector in `value` (split irqchip) */
    CPU_EXIT_UNKNOWN,
    CPU_EXIT_KINDS,
} CpuExitKind;

/* Codes of CPU_EXIT_SYSTEM_EVENT. */
enum { CPU_EVENT_SHUTDOWN = 1, CPU_EVENT_RESET = 2, CPU_EVENT_CRASH = 3 };

const char *
cpu_exit_kind_name(CpuExitKind kind); /* "pio", "mmio", … as scripts and -d exits spell them */

typedef struct CpuExit {
    CpuExitKind kind;
    bool write;
    uint8_t size;      /* PIO, MMIO: 1 2 4 8 */
    uint32_t count;    /* string PIO, and MMIO upwards: how many items; otherwise 1 */
    uint64_t addr;     /* port, address, MSR index, hypercall number */
    uint64_t value;    /* what is written, or what the reader gets */
    uint64_t args[6];  /* hypercall arguments; DEBUG: dr6, dr7, pc */
    void *data;        /* of those: count * size bytes, borrowed from the accelerator; NULL when
                          the access is all in `value` */
    char message[256]; /* INTERNAL_ERROR, FAIL_ENTRY, UNKNOWN */
    bool msr_fault;    /* answer of an MSR handler: inject #GP */
    bool handled; /* WRMSR, HYPERCALL: a hook answered. While false the accelerator does, before
                     the next entry, what the CPU would have done had nobody looked. RDMSR arrives
                     with `value` (or msr_fault) already filled with that answer */
} CpuExit;

/* An exit of one access. What belongs to other kinds is left as it was. */
static inline void cpu_exit_set_access(CpuExit *e, CpuExitKind kind, bool write, unsigned size,
                                       uint64_t addr, uint64_t value)
{
    e->kind = kind;
    e->write = write;
    e->size = (uint8_t)size;
    e->count = 1;
    e->addr = addr;
    e->value = value;
    e->data = NULL;
    e->message[0] = '\0';
}

/* CPU_EXIT_DEBUG: bits of `value`; `addr` is the linear address of the next instruction. Both may
 * be set when a step ends on a breakpoint. */
enum {
    CPU_DEBUG_BREAKPOINT = 1 << 0, /* EVENT_EXEC fires */
    CPU_DEBUG_STEP = 1 << 1,
};
