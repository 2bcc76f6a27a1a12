/*
 * A machine: an object that owns everything of one guest: address spaces, accelerator, vCPUs,
 * virtual clock, event hub, devices below it in the tree, reset handlers, saved state. Two machines
 * share nothing but the process.
 *
 * All functions: engine lock. Boards (Lua, MachineClass below "machine") fill it in `init`.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/accel/accel.h"
#include "engine/core/clock.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/event.h"
#include "engine/memory/memory.h"
#include "engine/qom/object.h"
#include "engine/state/ram-snapshot.h"
#include "engine/state/vmstate.h"

#define TYPE_MACHINE "machine"

typedef enum {
    RUN_STATE_BUILDING, /* board being composed; no vCPU has run */
    RUN_STATE_RUNNING,
    RUN_STATE_PAUSED,   /* on request; machine->reason says why */
    RUN_STATE_ERROR,    /* paused by an error: callback, internal error, failed entry */
    RUN_STATE_SHUTDOWN, /* the guest powered off or triple-faulted under no-reboot: vCPUs stopped,
                           state can be looked at */
    RUN_STATE_CLOSED,
} RunState;
const char *run_state_name(RunState s); /* "building", "running", … */

typedef enum { ON_EVENT_DEFAULT, ON_EVENT_PAUSE, ON_EVENT_SHUTDOWN, ON_EVENT_RESET } OnEvent;

typedef struct Machine Machine;
typedef struct Snapshot Snapshot;
typedef void (*MachineResetFn)(void *opaque);
typedef void (*MachineNotify)(Machine *m, RunState state, void *opaque);

struct Machine {
    Object parent;
    MemoryRegion memory_root, io_root; /* 2^64 bytes, 64 KiB */
    AddressSpace *memory, *io;
    Accel *accel;
    AccelIcount icount; /* for machine_set_accel, set before it */
    Clock *clock;
    EventHub *events;
    GPtrArray *cpus; /* VCpu *, owned through the tree */
    RunState state;
    char *reason;  /* of PAUSED, ERROR, SHUTDOWN */
    int exit_code; /* what the launcher ends with once SHUTDOWN: isa-debug-exit and the like set it
                    */
    uint64_t ram_size;
    CpuTopology topology; /* zeros until the board is complete: cores of one socket */
    bool no_reboot;       /* a reset request ends the machine */
    OnEvent on_triple_fault;
    RamTracker *ram_tracker;
    struct MachinePriv *priv;
};
typedef struct MachineClass {
    ObjectClass parent_class;
    const char *alias; /* another name for -machine */
    bool is_default;
    uint64_t default_ram_size;
    unsigned default_cpus, max_cpus;
} MachineClass;
OBJECT_DECLARE_TYPE(Machine, MachineClass, MACHINE, TYPE_MACHINE)

/* By name, then alias, then (name NULL) the default class. NULL + error with the nearest name. */
MachineClass *select_machine(const char *name, GError **error);
MachineClass *find_default_machine(void);

/* A machine below /machines as `id` (NULL: class name and a number), address spaces and clock made,
 * no accelerator yet. */
Machine *machine_new(const char *type_name, const char *id, GError **error);
bool machine_set_accel(Machine *m, AccelClass *klass, IrqchipMode irqchip, bool pit,
                       GError **error);
/* Creates the next vCPU, thread stopped. `policy` NULL: all that the accelerator supports. Takes
 * the policy. */
VCpu *machine_add_cpu(Machine *m, CpuidPolicy *policy, GError **error);

/* From now on the machine can run: checks it has an accelerator and vCPUs, resets everything once.
 */
bool machine_finish_init(Machine *m, GError **error);

/* Run control. pause waits until no vCPU is in the guest, except where waiting is refused (a vCPU's
 * callback, a device handler): there it takes effect as soon as the handler has returned. */
bool machine_resume(Machine *m, GError **error);
void machine_pause(Machine *m, const char *reason);
void machine_fail(Machine *m,
                  const char *message); /* PAUSED with an error as the reason; RUN_STATE_ERROR */
void machine_request_reset(
    Machine *m,
    const char *why); /* any moment; done on the main loop; no_reboot makes it a shutdown */
void machine_request_shutdown(Machine *m, const char *why, int exit_code);
/* Suspend to RAM: no vCPU runs, time and devices go on, the state stays "running". A wake-up is a
 * reset (also under no_reboot) of which the device that asks knows that it is one. Any moment. */
void machine_request_suspend(Machine *m);
void machine_request_wakeup(Machine *m);
bool machine_suspended(const Machine *m);
bool machine_waking(const Machine *m); /* in reset handlers: of a wake-up */
/* As a device that saves whether it sleeps restores it: vCPUs are stopped. */
void machine_restore_suspended(Machine *m, bool suspended);
bool machine_reset(Machine *m, GError **error); /* now; main thread */
bool machine_step(Machine *m, VCpu *cpu,
                  GError **error); /* one instruction of one vCPU, then PAUSED "step" */
/* Stops vCPUs, joins threads, unrealizes and unparents everything, frees the accelerator. In any
 * order relative to other machines. Where waiting is refused (callbacks, vCPU threads) it is done
 * from the main loop instead, soon after. */
void machine_close(Machine *m);

void machine_add_reset(Machine *m, MachineResetFn fn,
                       void *opaque); /* run in order of addition, devices before vCPUs' */
/* As above, for who looks on: machine_torture leaves it alone. */
void machine_add_reset_watch(Machine *m, MachineResetFn fn, void *opaque);
void machine_remove_reset(Machine *m, MachineResetFn fn, void *opaque);
void machine_add_notify(Machine *m, MachineNotify fn,
                        void *opaque); /* run state changes; under the lock, after the change */
void machine_remove_notify(Machine *m, MachineNotify fn, void *opaque);

/* Devices with requests in flight that write to guest memory, or would come back to a state that is
 * gone: `begin` is called before state is saved or loaded, while vCPUs may still run. It lets what
 * is in flight end (it may run the main loop) and starts nothing new until `end`. */
typedef struct MachineQuiesceOps {
    bool (*begin)(void *opaque, GError **error);
    void (*end)(void *opaque);
} MachineQuiesceOps;
void machine_add_quiesce(Machine *m, const MachineQuiesceOps *ops, void *opaque);
void machine_remove_quiesce(Machine *m, const MachineQuiesceOps *ops, void *opaque);

/* Saved state. `name` is unique with `instance`; owners call this from realize and unregister from
 * unrealize. */
bool machine_register_state(Machine *m, const char *name, uint32_t instance,
                            const VMStateDescription *vmsd, void *opaque, GError **error);
void machine_unregister_state(Machine *m, const VMStateDescription *vmsd, void *opaque);
void machine_state_foreach(Machine *m,
                           void (*fn)(const char *name, uint32_t instance,
                                      const VMStateDescription *vmsd, void *obj, void *opaque),
                           void *opaque);
/* RAM that belongs to the machine's state. Its owner takes it back before the region dies. */
void machine_add_ram(Machine *m, const char *name, MemoryRegion *mr);
void machine_remove_ram(Machine *m, MemoryRegion *mr);

/* In-RAM snapshots. Taken at a safe point (pauses for the moment if running). */
Snapshot *machine_snapshot(Machine *m, GError **error);
bool machine_restore(
    Machine *m, Snapshot *s,
    GError **error); /* a failure leaves the machine in RUN_STATE_ERROR, saying why */
void snapshot_ref(Snapshot *s);
void snapshot_unref(Snapshot *s);
uint64_t snapshot_device_bytes(const Snapshot *s);
/* Devices and vCPUs only, as one stream. */
GBytes *machine_save_devices(Machine *m, GError **error);
bool machine_load_devices(Machine *m, GBytes *bytes, GError **error);
/* Saves the state, spoils it (all devices, vCPUs and the accelerator are reset, the clock jumps,
 * pages of RAM are scrambled), puts it back, and saves again: what differs is an error, and the
 * machine is in RUN_STATE_ERROR. Nobody is told of any of it. TORTURE_STREAM leaves RAM alone.
 * `done` false: not now (closed, broken, incomplete, or inside a callback). */
typedef enum { TORTURE_SNAPSHOT, TORTURE_STREAM } TortureKind;
bool machine_torturing(const Machine *m); /* now */
bool machine_torture(Machine *m, TortureKind kind, bool *done, GError **error);
uint64_t machine_restore_count(const Machine *m); /* rises with every restore: waits compare it */

/* A line of the interrupt controller: level changes go to the accelerator, hooks on EVENT_IRQ see
 * them. */
struct Irq *machine_gsi(Machine *m, unsigned gsi); /* borrowed; NULL from MACHINE_MAX_GSI on */
#define MACHINE_MAX_GSI 1024
/* Who is told of an EOI that the IOAPIC waits for (on a vCPU thread, with the lock). */
void machine_set_eoi(Machine *m, void (*fn)(void *opaque, int vector), void *opaque);
void machine_eoi(Machine *m, int vector); /* of local APICs in user space: tells it */

/* A periodic timer has made `n` edges on line `gsi`, of which it has sent one now: ticks.c sends
 * the others when a processor has taken that. _forget: it was programmed anew. */
void machine_ticks(Machine *m, unsigned gsi, uint64_t n);
void machine_ticks_forget(Machine *m, unsigned gsi);

/* ---- interrupt controllers in user space (IRQCHIP_OFF and SPLIT) -------------------------- */

/* The line `gsi` leads to `pin` of a controller device instead of to the accelerator; several pins
 * may be on one line. Takes a reference. Their owners save their levels. false: no such line, or it
 * has MACHINE_GSI_PINS already. */
bool machine_connect_gsi(Machine *m, unsigned gsi, struct Irq *pin, GError **error);
#define MACHINE_GSI_PINS 4
/* For machine_ticks: a processor has taken an edge of this pin, or a mask of it has gone. Local
 * APICs know vectors only; `fn` (of the IOAPIC) finds the pin. */
void machine_pin_taken(Machine *m, const struct Irq *pin);
void machine_pin_unmasked(Machine *m, const struct Irq *pin);
void machine_set_taken(Machine *m, void (*fn)(void *opaque, int vector), void *opaque);
void machine_vector_taken(Machine *m, int vector);
/* The INTR input of the boot processor, and who answers with the vector when it acknowledges (-1:
 * nothing after all). `fn` NULL takes `opaque`'s own registration back. */
struct Irq *machine_intr(Machine *m); /* borrowed */
void machine_set_acknowledge(Machine *m, int (*fn)(void *opaque), void *opaque);
int machine_acknowledge(Machine *m); /* -1 also where there is nobody to ask */
/* Where the PIT is in the accelerator: while this line is high its interrupts are left out, as
 * event timers take its place. And the tone of its channel 2, in Hz. */
struct Irq *machine_pit_mute(Machine *m); /* borrowed */
unsigned machine_speaker_frequency(Machine *m);
/* A message-signalled interrupt: to the local APICs of the accelerator, or to those in user space,
 * which registered with machine_set_msi. false: there is nobody to take it. */
typedef void (*MachineMsiFn)(void *opaque, uint64_t addr, uint32_t data);
bool machine_send_msi(Machine *m, uint64_t addr, uint32_t data);
void machine_set_msi(Machine *m, MachineMsiFn fn, void *opaque); /* NULL: as above */
/* IRQCHIP_SPLIT: what an IOAPIC pin sends; the accelerator knows from it of which vectors to report
 * the EOI. Nothing elsewhere. */
void machine_route_pin(Machine *m, unsigned pin, uint64_t addr, uint32_t data);

/* ---- the A20 gate ------------------------------------------------------------------------- */

/* The lines that open the gate, one a part that can: address bit 20 reaches memory while any of
 * those that were ever set is high, and while none was. Saved with the machine: who drives one sets
 * it at reset and on changes, not when its state is loaded. The accelerator obeys at the vCPU's
 * next instruction; under KVM the gate only folds 1 to 2 MiB onto the first. */
enum { MACHINE_A20_KEYBOARD, MACHINE_A20_PORT92, MACHINE_A20_LINES };
struct Irq *machine_a20(Machine *m, unsigned n);         /* borrowed; NULL: no such line */
void machine_set_a20(Machine *m, unsigned n, bool high); /* the same by a call */
bool machine_a20_open(const Machine *m);

/* Told on each vCPU thread of every machine when it has started and before it ends, under the lock:
 * script state a thread. Process-wide, before the first machine. */
void machine_set_thread_hooks(void (*started)(VCpu *cpu), void (*ending)(VCpu *cpu));
/* The machine a vCPU belongs to; NULL for one that was made without. */
Machine *machine_of_cpu(VCpu *cpu);
