/*
 * The vCPU object: its thread, its run state, its registers, and the handling of an exit that both
 * accelerators share.
 *
 * A vCPU thread runs: wait until it may run → accelerator's run (guest code, no lock) →
 * cpu_handle_exit → again. Registers are touched on the vCPU's own thread while it is outside the
 * guest, or by others while it is stopped.
 */
#pragma once

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/core/lock.h"
#include "engine/cpu/cpu-apic.h"
#include "engine/cpu/cpuid.h"
#include "engine/cpu/event.h"
#include "engine/cpu/exit.h"
#include "engine/cpu/x86-state.h"
#include "engine/memory/memory.h"
#include "engine/qom/object.h"

#define TYPE_VCPU "x86-cpu"

typedef struct Accel Accel; /* accel/accel.h */

/* What a vCPU tells its machine. Called on the vCPU thread with the engine lock held. */
typedef enum {
    CPU_SYSTEM_SHUTDOWN, /* guest asked for power off */
    CPU_SYSTEM_RESET,    /* guest asked for reset */
    CPU_SYSTEM_CRASH,
    CPU_SYSTEM_TRIPLE_FAULT,
    CPU_SYSTEM_ERROR, /* the accelerator or host failed; message says what */
    CPU_SYSTEM_PAUSE, /* a hook or breakpoint asks for a pause */
} CpuSystemEvent;
typedef struct CpuHost {
    void (*system_event)(void *opaque, VCpu *cpu, CpuSystemEvent event, const char *message);
    void (*thread_started)(void *opaque,
                           VCpu *cpu); /* on the vCPU thread: script state a thread and the like */
    void (*thread_ending)(void *opaque, VCpu *cpu);
    void *opaque;
} CpuHost;

/*
 * What the accelerator does for one vCPU. The same functions stand in AccelClass, where they are
 * described; accel.c copies them here, so that cpu/ needs to know nothing of accel/.
 */
typedef struct CpuOps {
    bool (*create)(VCpu *cpu, GError **error);
    void (*destroy)(VCpu *cpu);
    void (*run)(VCpu *cpu);
    void (*finish_exit)(VCpu *cpu);
    void (*kick)(VCpu *cpu);
    bool kick_suffices; /* `run` never blocks in the kernel: it needs no signal to come back */
    bool (*has_work)(VCpu *cpu); /* may be NULL */
    void (*idle)(VCpu *cpu);     /* may be NULL */
    bool (*get_state)(VCpu *cpu, unsigned groups, GError **error);
    bool (*put_state)(VCpu *cpu, unsigned groups, GError **error);
    void (*eoi)(VCpu *cpu, int vector);
    void (*hide_breakpoints)(VCpu *cpu, uint64_t paddr, void *buf, uint64_t len); /* may be NULL */
} CpuOps;

/* IRQ and DEBUG only make the vCPU leave the guest and enter it again: their bits are cleared just
 * before the accelerator's run, which looks at its own flags. */
enum {                         /* VCpu.requests, atomic bits; setting one is followed by a kick */
       CPU_REQ_STOP = 1 << 0,  /* come to a stop at the next safe point */
       CPU_REQ_QUIT = 1 << 1,  /* end the thread */
       CPU_REQ_WORK = 1 << 2,  /* run queued work */
       CPU_REQ_IRQ = 1 << 3,   /* look at interrupt lines again (no in-kernel irqchip) */
       CPU_REQ_DEBUG = 1 << 4, /* breakpoints changed */
};

typedef struct CpuStats { /* written by the vCPU thread, read by anybody (relaxed atomics) */
    uint64_t exits[CPU_EXIT_KINDS];
    uint64_t locked;  /* exits that took the engine lock */
    uint64_t script;  /* exits that called a script */
    uint64_t assists; /* instructions run by the soft CPU for another accelerator */
} CpuStats;

#define CPU_LAST_EXITS 16 /* kept for failure reports */
typedef struct CpuLastExit {
    CpuExitKind kind;
    bool write;
    uint8_t size;
    uint64_t addr, value;
} CpuLastExit;

struct VCpu {
    Object parent;
    int index;
    Accel *accel;
    const CpuOps *ops;
    void *accel_data;           /* owned by the accelerator */
    const CpuApicOps *apic_ops; /* of a local APIC in user space; NULL: none. Engine lock */
    void *apic;
    bool hlt_in_accel; /* HLT, INIT and SIPI are served by the accelerator (LAPIC in the kernel) */
    AddressSpace *memory, *io;
    MemoryCache memory_cache, io_cache;
    EventHub *events;
    CpuHost host;
    CpuidPolicy *cpuid; /* what the guest sees; owned */

    X86CPUState *state;   /* allocated with the object */
    unsigned state_valid; /* X86_STATE_* groups that state holds; the rest is in the accelerator */
    bool gpr_at_hand;     /* fetching X86_STATE_GPR costs no system call at this exit; set by run */
    unsigned
        state_dirty;    /* groups to put back before the guest runs: run does that and clears it;
                           it finds state_valid cleared, and sets what it fetched on the way out */
    X86Msr *reset_msrs; /* as the accelerator made them: what a reset goes back to; private */
    unsigned n_reset_msrs;
    bool exit_modified; /* a handler changed registers in the middle of an access; private */
    uint64_t exit_gpr[X86_GPRS + 2]; /* gpr, rip, rflags before that; private */

    pthread_t thread;
    bool thread_alive; /* atomic: the thread has its accelerator vCPU; it can be kicked */
    bool waiting;      /* atomic: the thread is about to wait on `wake`; private */
    GError *start_error;
    uint32_t requests; /* atomic CPU_REQ_* */
    bool stopped;      /* engine lock: at a safe point, no half-finished access */
    bool in_guest;     /* atomic, a hint for kick */
    bool halted;       /* HLT without in-kernel irqchip: waits for CPU_REQ_IRQ or NMI */
    bool stepping;     /* the next DEBUG exit is the end of a single step: pause "step" */
    EngineCond wake;   /* the thread waits here while stopped or halted */
    EngineCond done;   /* others wait here for started, stopped, work done */
    GQueue work;       /* engine lock */
    CpuExit exit;
    CpuStats stats;
    CpuLastExit last[CPU_LAST_EXITS];
    unsigned last_next;
    void *script; /* the bindings' per-vCPU Lua state */
    bool at_exit; /* a handler of this vCPU's exit is running: registers may be read on this thread
                   */
};
typedef struct VCpuClass {
    ObjectClass parent_class;
} VCpuClass;
OBJECT_DECLARE_TYPE(VCpu, VCpuClass, VCPU, TYPE_VCPU)

/* The vCPU of the calling thread, NULL on other threads. */
VCpu *cpu_current(void);

/* Creates the thread, stopped. The accelerator's vcpu_create runs on it; its error is returned.
 * Engine lock, main thread (waits on a condition). */
bool cpu_start_thread(VCpu *cpu, GError **error);
/* Ends and joins the thread. Engine lock; drops it while joining. */
void cpu_stop_thread(VCpu *cpu);

/* Pausing: request for any number of vCPUs, then wait. Engine lock. cpu_wait_stopped drops the lock
 * while waiting, so it is refused where that is. */
void cpu_request_stop(VCpu *cpu);
void cpu_wait_stopped(VCpu *cpu);
void cpu_resume(VCpu *cpu); /* registers that are dirty go back to the accelerator on the vCPU
                               thread, before the guest runs */
void cpu_kick(VCpu *cpu);   /* makes it leave the guest; any thread, async-signal-safe */
/* Sets bits and kicks; any thread. Without the engine lock it may take it for a moment, so no leaf
 * lock may be held. */
void cpu_request(VCpu *cpu, uint32_t request);
/* For the accelerator's run: sleeps until somebody requests something of this vCPU or calls
 * cpu_wake. False, without sleeping, when it is to leave (stop, work, quit). Engine lock. */
bool cpu_sleep(VCpu *cpu);
void cpu_wake(VCpu *cpu); /* engine lock */
/* Runs fn on the vCPU thread, outside the guest and with no access half-done, with the engine lock;
 * waits for it unless called there. Where waiting is refused, it runs on the caller's thread if the
 * vCPU is stopped; to call it there for a running one is a bug in the engine. */
void cpu_run_on(VCpu *cpu, void (*fn)(VCpu *cpu, void *opaque), void *opaque);

/* Fetches groups that are not valid yet / marks groups changed. On the vCPU's thread at an exit, or
 * any thread while it is stopped (engine lock); otherwise false + ENGINE_ERROR_BUSY ("cpu 1 is
 * running"). */
bool cpu_fetch_state(VCpu *cpu, unsigned groups, GError **error);
bool cpu_modify_state(VCpu *cpu, unsigned groups, GError **error); /* fetches, then marks dirty */
/* Over a VCpu: its state. Who saves fetches all groups first; who loads has it stopped. */
extern const VMStateDescription vmstate_vcpu;
/* Marks the whole state as newly written (reset, restored): nothing is fetched. Stopped only. */
void cpu_state_replaced(VCpu *cpu);
/* Reset to the architectural state; all groups valid and dirty. Stopped only. */
void cpu_reset(VCpu *cpu);

/*
 * The one place where an exit is handled: counts it, offers it to hooks, carries it to the address
 * spaces, tells the machine. On the vCPU thread without the engine lock; cpu->exit is filled. On
 * return cpu->exit.value/data hold the answer of a read. Returns false when the guest must not be
 * entered again before the requests were looked at.
 */
bool cpu_handle_exit(VCpu *cpu);

/* Fires an event of an accelerator's own sources in the middle of its run, on the vCPU's thread
 * without the lock; hooks may look at registers. Asks for the pause that a hook wants. */
unsigned cpu_fire_event(VCpu *cpu, EventRecord *x);

/* Guest-virtual to guest-physical by the paging structures of the vCPU's present state (all modes;
 * SDM 3A ch. 4), without setting A/D bits. false + error: not mapped, naming the level. */
bool cpu_translate(VCpu *cpu, uint64_t vaddr, uint64_t *paddr, GError **error);
/* Debug accesses to virtual memory, split at pages. */
bool cpu_read_virtual(VCpu *cpu, uint64_t vaddr, void *buf, uint64_t len, GError **error);
bool cpu_write_virtual(VCpu *cpu, uint64_t vaddr, const void *buf, uint64_t len, GError **error);

/* ---- guest debugging (cpu/debug.c): breakpoints of one machine, shared by its vCPUs ------- */

typedef enum { CPU_BREAK_HW, CPU_BREAK_SW, CPU_WATCH_WRITE, CPU_WATCH_ACCESS } CpuBreakKind;
typedef struct CpuBreakpoint {
    CpuBreakKind kind;
    uint64_t addr; /* linear address for HW and watch; guest-virtual of the vCPU that inserts it for
                      SW */
    uint64_t paddr; /* SW: where the byte is */
    uint8_t len;    /* watch: 1 2 4 8 */
    uint8_t saved;  /* SW: the guest's byte; reads through scripts and saved RAM show it instead of
                       0xcc */
    uint8_t slot;   /* HW: 0..3 */
    unsigned users;
} CpuBreakpoint;
