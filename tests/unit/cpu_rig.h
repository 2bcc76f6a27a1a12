/* A machine of the test accelerator with one device in both spaces, and programs that run on it. */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/cpu/cpu.h"
#include "fake-rig.h"
#include "tests/unit/run_suite.h"

typedef struct Device {
    uint64_t reads, writes, last;
    uint8_t bytes[32];
} Device;

static inline uint64_t device_read(void *opaque, hwaddr addr, unsigned size)
{
    Device *d = opaque;

    d->reads++;
    return 0x1000 + d->reads;
}

static inline void device_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    Device *d = opaque;

    d->bytes[d->writes++ % sizeof(d->bytes)] = (uint8_t)value;
    d->last = value;
}

static const MemoryRegionOps device_ops = { .read = device_read, .write = device_write };

typedef struct Bench {
    Machine *m;
    VCpu *cpu;
    Device port, mmio;
    MemoryRegion port_mr, mmio_mr;
} Bench;

static inline void bench_open(Bench *b)
{
    memset(b, 0, sizeof(*b));
    b->m = fake_machine(1, IRQCHIP_OFF);
    b->cpu = g_ptr_array_index(b->m->cpus, 0);
    memory_region_init_io(&b->port_mr, NULL, &device_ops, &b->port, "port", 8);
    memory_region_init_io(&b->mmio_mr, NULL, &device_ops, &b->mmio, "mmio", 0x1000);
    memory_region_add_subregion(&b->m->io_root, 0x500, &b->port_mr);
    memory_region_add_subregion(&b->m->memory_root, 0xd0000000, &b->mmio_mr);
}

static inline void bench_close(Bench *b)
{
    machine_close(b->m);
    memory_region_finalize(&b->port_mr);
    memory_region_finalize(&b->mmio_mr);
}

/* Runs until the guest executes its last step, a triple fault that pauses. */
static inline void run_program(Bench *b, const FakeStep *program, unsigned n)
{
    GError *error = NULL;

    b->m->on_triple_fault = ON_EVENT_PAUSE;
    fake_load(b->cpu, program, n);
    ok(machine_resume(b->m, &error), error);
    fake_wait_state(b->m, RUN_STATE_PAUSED);
    ck_assert_uint_eq(fake_cpu(b->cpu)->torn, 0);
}

static inline uint64_t rax(VCpu *cpu)
{
    ok(cpu_fetch_state(cpu, X86_STATE_GPR, NULL), NULL);
    return cpu->state->gpr[X86_RAX];
}
