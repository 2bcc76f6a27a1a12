/*
 * Accelerators: what runs guest instructions. One Accel object a machine ("kvm-accel",
 * "soft-accel", …), a small table of operations in its class.
 *
 * An accelerator registers its own MemoryListener on the machine's memory for slots, ioeventfds,
 * coalescing and dirty logs. Nothing above accel.h knows which one runs. Every operation is called
 * with the engine lock held unless it says otherwise.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/core/clock.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/pc-chips.h"
#include "engine/memory/memory.h"
#include "engine/qom/object.h"
#include "engine/state/vmstate.h"

#define TYPE_ACCEL "accel"

typedef enum { IRQCHIP_OFF, IRQCHIP_SPLIT, IRQCHIP_ON } IrqchipMode;

/* Time as a count of instructions: the machine's virtual clock is what its vCPUs have executed. */
typedef struct AccelIcount {
    bool on;
    uint8_t shift; /* an instruction takes 1 << shift ns; at most ACCEL_ICOUNT_SHIFT_MAX */
    bool sleep;    /* an idle guest waits in real time; else it skips to its next timer */
    uint64_t seed; /* of what RDRAND and RDSEED answer */
} AccelIcount;
#define ACCEL_ICOUNT_SHIFT_MAX     10
#define ACCEL_ICOUNT_SHIFT_DEFAULT 3

typedef struct AccelConfig {
    AddressSpace *memory, *io;
    IrqchipMode irqchip; /* where PIC, IOAPIC and LAPIC live: nowhere/user space, LAPIC in kernel,
                            all in kernel */
    bool pit;            /* in-kernel PIT too; only with IRQCHIP_ON */
    unsigned max_cpus;
    Clock *clock; /* the machine's virtual one; NULL: nobody asks for the time */
    AccelIcount icount;
    void (*eoi)(void *opaque,
                int vector); /* IRQCHIP_SPLIT: an IOAPIC EOI, on a vCPU thread with the lock */
    void *opaque;
} AccelConfig;

struct Accel {
    Object parent;
    AccelConfig config;
    CpuOps cpu_ops; /* from the class, for VCpu.ops */
    bool created;
};

/* What arming a hook of an event source needs from the accelerator. */
typedef struct AccelHookInfo {
    char *how; /* caller frees: "hw breakpoint 2/4", "msr filter", "port exit" */
} AccelHookInfo;

typedef struct AccelClass {
    ObjectClass parent_class;
    const char *short_name; /* "kvm", "soft": what -accel takes */
    bool icount;            /* can count instructions */

    /* Whether this host can; false + the reason, naming the missing device, permission or
     * capability. No machine needed. */
    bool (*available)(GError **error);
    /* Whether `auto` should take it: KVM says no where it is not backed by hardware. */
    bool (*preferred)(void);

    bool (*create)(Accel *a,
                   GError **error); /* config is filled; makes the VM, registers listeners */
    void (*destroy)(Accel *a);      /* after all vCPUs; called once, also after a failed create */

    /* On the vCPU's own thread, with the lock. */
    bool (*vcpu_create)(VCpu *cpu, GError **error);
    void (*vcpu_destroy)(VCpu *cpu);
    /* On the vCPU's thread WITHOUT the lock: puts dirty state, enters the guest, fills cpu->exit,
     * once. Interrupted by kick: CPU_EXIT_INTERRUPTED. */
    void (*vcpu_run)(VCpu *cpu);
    /* Without the lock: finishes a half-done access (reads of which the answer is in cpu->exit), so
     * that state is whole. */
    void (*vcpu_finish_exit)(VCpu *cpu);
    /* Any thread, async-signal-safe: the present or next run is cut short. Unless that suffices,
     * the thread is sent a signal besides (cpu-thread.c); its handler calls this again there. */
    void (*vcpu_kick)(VCpu *cpu);
    bool vcpu_kick_suffices; /* a vCPU that runs sees the kick by itself: no signal */
    /* The vCPU stops or halts outside of the accelerator and is about to wait; on its thread, with
     * the lock, perhaps several times. May be NULL. */
    void (*vcpu_idle)(VCpu *cpu);
    /* Whether a vCPU halted outside the accelerator would wake (an interrupt with IF set, an NMI).
     * With the lock. NULL: every CPU_REQ_IRQ wakes it. */
    bool (*vcpu_has_work)(VCpu *cpu);
    bool (*get_state)(VCpu *cpu, unsigned groups, GError **error); /* into cpu->state */
    bool (*put_state)(VCpu *cpu, unsigned groups, GError **error);
    /* Whether a state that was loaded from a stream, now in cpu->state and dirty, can be had. May
     * put it already. NULL: whatever the CPUID policy allows. */
    bool (*check_state)(VCpu *cpu, GError **error);
    bool (*set_cpuid)(VCpu *cpu, GError **error); /* from cpu->cpuid, before the first run */
    CpuidPolicy *(*supported_cpuid)(
        GError **error); /* caller frees; the most this accelerator can do on this host */

    /* Interrupts. set_gsi with irqchip ON: a pin of PIC/IOAPIC. With OFF: only pin 0, the INTR line
     * of vCPU 0. */
    void (*set_gsi)(Accel *a, unsigned gsi, int level);
    bool (*send_msi)(Accel *a, uint64_t addr, uint32_t data, GError **error);
    bool (*add_irqfd)(Accel *a, int fd, int resample_fd, unsigned gsi, GError **error);
    void (*del_irqfd)(Accel *a, int fd, unsigned gsi);
    /* Routes a gsi to an MSI message (for irqfds of message-signalled devices). */
    bool (*route_msi)(Accel *a, unsigned gsi, uint64_t addr, uint32_t data, GError **error);
    bool (*inject_nmi)(VCpu *cpu, GError **error);
    /* IRQCHIP_OFF: an external interrupt is ready for this vCPU; the accelerator asks `vector` when
     * the guest can take it. */
    void (*set_intr)(VCpu *cpu, bool level, int (*vector)(void *opaque), void *opaque);

    /* The A20 gate opens or closes: physical address bit 20 is masked while it is closed. Holds for
     * a calling vCPU's next instruction. NULL: the gate is always open. */
    void (*set_a20)(Accel *a, bool open);

    /* Event sources: false + error when this accelerator cannot see such events (e.g. a port of the
     * in-kernel PIC). */
    bool (*arm)(Accel *a, const EventFilter *filter, AccelHookInfo *info, GError **error);
    void (*disarm)(Accel *a, const EventFilter *filter);
    /* Single step of one vCPU: exactly one instruction at the next run, then CPU_EXIT_DEBUG.
     * Stopped vCPU. */
    bool (*step)(VCpu *cpu, GError **error);
    /* Hides inserted software breakpoints in bytes read from guest-physical memory by scripts and
     * snapshots. May be NULL. */
    void (*hide_breakpoints)(Accel *a, uint64_t paddr, void *buf, uint64_t len);

    bool (*set_tsc_khz)(VCpu *cpu, uint32_t khz, GError **error);
    /* kvmclock and friends follow the virtual clock. Breakpoints that are bytes in guest memory are
     * there only while it runs: snapshots are taken while it stands. */
    void (*clock_changed)(Accel *a, bool running);

    /* A PC's interrupt controllers and timer that are inside: bits 1 << PcChip. NULL: none. */
    unsigned (*chips)(Accel *a);
    /* Their state, where vCPUs are stopped and their state has been fetched; put comes after that
     * of vCPUs, and may add to it. `which`: bits of those to put. The rest of *s is not touched. */
    bool (*chips_get)(Accel *a, PcChipStates *s, GError **error);
    bool (*chips_put)(Accel *a, const PcChipStates *s, unsigned which, GError **error);
    /* What else is inside goes back to its power-on state; all vCPUs are stopped. NULL: the machine
     * puts back what vmstate gave when the accelerator was new. */
    void (*reset)(Accel *a);
    /* Of what else is inside, as a description over the Accel object; NULL: none. Another
     * accelerator does without. */
    const VMStateDescription *(*vmstate)(Accel *a);
    /* The accelerator's PIT, where it has one (config.pit). Whether its interrupts are left out, as
     * event timers take its place; the tone that the guest makes with port 0x61, in Hz, 0: none.
     * NULL: never muted; no tone. */
    void (*mute_pit)(Accel *a, bool muted);
    unsigned (*speaker_frequency)(Accel *a);
    /* Accelerator statistics, name and value pairs for vm.stats. May be NULL. */
    void (*stats)(Accel *a, void (*fn)(const char *name, uint64_t value, void *opaque),
                  void *opaque);
} AccelClass;
OBJECT_DECLARE_TYPE(Accel, AccelClass, ACCEL, TYPE_ACCEL)

/* Finds by short name; NULL + error listing the known ones. */
AccelClass *accel_find(const char *short_name, GError **error);
/* `-accel a -accel b`, "auto" among them: the first that is available; *why gets one line on the
 * choice (caller frees). "auto" takes what is preferred here, else an accelerator that has no
 * opinion (software), else whatever works. "tcg" is another name of "soft". */
AccelClass *accel_select(const char *const *names, char **why, GError **error);
Accel *accel_new(AccelClass *klass); /* one reference, the caller's; NULL: abstract class */
/* false + error: the accelerator was destroyed again and only awaits its last unref. */
bool accel_create(Accel *a, const AccelConfig *config, GError **error);
void accel_destroy(Accel *a); /* after all vCPUs; once; fine when never created */
