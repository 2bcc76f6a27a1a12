/*
 * A vCPU's local APIC that lives in user space, as its processor sees it (SDM 3A ch. 11). The
 * device puts a table into each VCpu; an accelerator that has no local APICs of its own asks it.
 *
 * Engine lock. When there is something to look at, the device sets CPU_REQ_IRQ.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What is asked of the processor besides an interrupt. Taken in this order: INIT before SIPI. */
enum {
    CPU_APIC_NMI = 1 << 0,
    CPU_APIC_SMI = 1 << 1,
    CPU_APIC_INIT = 1 << 2, /* the APIC has gone to its state after INIT already */
    CPU_APIC_SIPI = 1 << 3, /* start at vector << 12, if it waits for that */
};

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_X2APIC_END = 0x900 };

typedef struct CpuApicOps {
    /* Whether there is an interrupt for a processor that has IF set. */
    bool (*has_interrupt)(void *apic);
    /* Takes it into service (or acknowledges it at the PIC) and answers its vector; -1: none. */
    int (*get_interrupt)(void *apic);
    unsigned (*take_requests)(void *apic, uint8_t *sipi_vector); /* CPU_APIC_*, and clears them */
    bool (*has_requests)(void *apic);
    /* The MSRs above; false: #GP. */
    bool (*rdmsr)(void *apic, uint32_t index, uint64_t *value);
    bool (*wrmsr)(void *apic, uint32_t index, uint64_t value);
    uint8_t (*get_cr8)(void *apic);
    void (*set_cr8)(void *apic, uint8_t value);
    /* The guest's TSC is virtual time at this rate, plus the offset. */
    void (*set_tsc)(void *apic, uint32_t khz, uint64_t offset);
} CpuApicOps;
