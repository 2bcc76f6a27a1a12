/*
 * An accelerator for tests: a CPU whose program is a list of exits.
 *
 * RIP is the index of the next step. Reads put their answer into RAX when the access is finished,
 * as a real CPU does, so that a stop in the middle of an access would show.
 */
#pragma once

#include "engine/accel/accel.h"
#include "engine/machine/machine.h"

#define TYPE_TEST_ACCEL    "test-accel"
#define TYPE_FAILING_ACCEL "failing-accel" /* available() says no, create() fails */
#define TYPE_TEST_MACHINE  "test-machine"

typedef enum {
    FAKE_EXIT,  /* leave with `exit`; reads put the answer into RAX */
    FAKE_JUMP,  /* RIP = exit.addr, no exit; bounded, so that the guest cannot hang the test */
    FAKE_COUNT, /* RBX++, no exit */
    FAKE_STORE, /* writes RBX to memory at exit.addr, 8 bytes, no exit */
    FAKE_SLEEP, /* stays in the guest until a kick: only a signal ends it */
} FakeOp;
typedef struct FakeStep {
    FakeOp op;
    CpuExit exit;
} FakeStep;

#define FAKE_OUT(port, v, n)                                                              \
    {                                                                                     \
        FAKE_EXIT,                                                                        \
        {                                                                                 \
            .kind = CPU_EXIT_PIO, .write = true, .size = (n), .count = 1, .addr = (port), \
            .value = (v)                                                                  \
        }                                                                                 \
    }
#define FAKE_IN(port, n)                                                  \
    {                                                                     \
        FAKE_EXIT,                                                        \
        {                                                                 \
            .kind = CPU_EXIT_PIO, .size = (n), .count = 1, .addr = (port) \
        }                                                                 \
    }
#define FAKE_MMIO_WRITE(a, v, n)                                                        \
    {                                                                                   \
        FAKE_EXIT,                                                                      \
        {                                                                               \
            .kind = CPU_EXIT_MMIO, .write = true, .size = (n), .count = 1, .addr = (a), \
            .value = (v)                                                                \
        }                                                                               \
    }
#define FAKE_MMIO_READ(a, n)                                            \
    {                                                                   \
        FAKE_EXIT,                                                      \
        {                                                               \
            .kind = CPU_EXIT_MMIO, .size = (n), .count = 1, .addr = (a) \
        }                                                               \
    }
#define FAKE_KIND(k)                \
    {                               \
        FAKE_EXIT,                  \
        {                           \
            .kind = (k), .count = 1 \
        }                           \
    }
#define FAKE_GOTO(i)    \
    {                   \
        FAKE_JUMP,      \
        {               \
            .addr = (i) \
        }               \
    }

typedef struct FakeCpu {
    X86CPUState hw; /* what the "hardware" holds */
    const FakeStep *program;
    unsigned length;
    bool kicked;     /* atomic */
    bool cut_short;  /* the next run waits for a kick and does nothing */
    bool unfinished; /* a read waits for its answer */
    bool irq_line;
    bool step;
    unsigned runs;      /* entries */
    unsigned finishes;  /* finish_exit with something to finish */
    unsigned torn;      /* state asked for in the middle of an access, not at an exit */
    unsigned puts;      /* put_state */
    uint8_t string[64]; /* of string PIO */
} FakeCpu;

typedef struct TestAccel {
    Accel parent;
    uint32_t counter; /* stands for in-kernel devices */
    uint8_t lines[MACHINE_MAX_GSI];
    unsigned arms, disarms, live_vcpus, gsi_calls, clock_changes;
    uint64_t refuse_port; /* arm() of this port is refused */
    bool fail_vcpu;       /* the next vcpu_create fails */
    bool fail_get;        /* get_state fails */
} TestAccel;
typedef struct TestAccelClass {
    AccelClass parent_class;
} TestAccelClass;
OBJECT_DECLARE_TYPE(TestAccel, TestAccelClass, TEST_ACCEL, TYPE_TEST_ACCEL)

extern unsigned fake_accels_alive; /* created and not destroyed */

FakeCpu *fake_cpu(VCpu *cpu);
/* The program of a stopped vCPU; RIP starts at 0 again. */
void fake_load(VCpu *cpu, const FakeStep *program, unsigned length);
#define FAKE_LOAD(cpu, program) fake_load((cpu), (program), G_N_ELEMENTS(program))
/* Raises the line of a vCPU without an irqchip and asks it to look. Any thread. */
void fake_raise_irq(VCpu *cpu);
/* A test machine with n vCPUs, 64 KiB of RAM at 0, complete and paused. Aborts on failure. */
Machine *fake_machine(unsigned n, IrqchipMode irqchip);
/* One without RAM and vCPUs, not complete. */
Machine *fake_bare_machine(IrqchipMode irqchip);
TestAccel *fake_accel(Machine *m);
/* Runs the main loop until the machine is in this state. */
void fake_wait_state(Machine *m, RunState state);
