/* Between the files of machine/. */
#pragma once

#include "engine/core/irq.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/machine/machine.h"

typedef enum { PENDING_NONE, PENDING_PAUSE, PENDING_FAIL, PENDING_RESUME } PendingRun;

/* A list of callbacks that may change while it is walked. */
typedef struct Callback {
    void (*fn)(void); /* cast back by who calls; NULL: removed during a walk */
    void *opaque;
    bool watch; /* looks on, has no part in the machine's state */
} Callback;
typedef struct CallbackList {
    GArray *items;
    unsigned walking;
    bool holes;
} CallbackList;

typedef struct StateEntry {
    char *name;
    uint32_t instance;
    const VMStateDescription *vmsd;
    void *opaque;
    bool seen; /* during a load */
} StateEntry;

/* Of one line: edges that no processor has taken yet. */
typedef struct TickLine {
    bool out;      /* one is on its way */
    uint16_t owed; /* and so many are to follow */
} TickLine;
#define MACHINE_TICK_LINES 24

typedef struct MachinePriv {
    bool finished;  /* machine_finish_init succeeded */
    bool closing;   /* no request is taken any more */
    bool broken;    /* a restore failed half-way: only a reset or another restore helps */
    bool suspended; /* vCPUs stand although the machine runs */
    bool waking;    /* the reset asked for ends that */
    bool torturing; /* what happens now is no event: torture.c */
    bool settling;  /* the main thread is carrying out requests, perhaps waiting */
    uint64_t restores;

    /* What was asked for and is carried out on the main thread: run-state.c. */
    BottomHalf *bh;
    PendingRun pending;
    char *pending_reason;
    char *pending_reset;
    char *pending_shutdown;
    int pending_exit_code;
    bool pending_close;

    CallbackList resets, notifies;
    GPtrArray *states;    /* of StateEntry */
    GPtrArray *rams;      /* of MemoryRegion, not owned */
    GPtrArray *snapshots; /* of Snapshot, not owned */
    GSList *quiesce;      /* of QuiesceEntry: quiesce.c */
    RamSnapshot *torture; /* the last one's: what the next compares with; torture.c */
    GBytes *accel_reset;  /* the accelerator's devices as they were when new; NULL: not needed */

    Irq *gsi[MACHINE_MAX_GSI]; /* made when first asked for */
    uint8_t levels[MACHINE_MAX_GSI / 8];
    bool gsi_loading; /* devices' state is being loaded: they do not move lines */
    Irq *pins[MACHINE_MAX_GSI][MACHINE_GSI_PINS]; /* of controllers in user space; NULL ends */
    Irq *intr, *pit_mute;
    Irq *a20[MACHINE_A20_LINES];
    uint8_t a20_used, a20_high; /* a bit a line: somebody has driven it; to what */
    bool a20_closed;            /* what the accelerator was told */
    int (*acknowledge)(void *opaque);
    void *acknowledge_opaque;
    MachineMsiFn msi;
    void *msi_opaque;
    void (*eoi)(void *opaque, int vector);
    void *eoi_opaque;
    void (*taken)(void *opaque, int vector);
    void *taken_opaque;
    TickLine ticks[MACHINE_TICK_LINES];
    unsigned ticks_out; /* lines with one on its way */
} MachinePriv;

static inline AccelClass *machine_accel_class(Machine *m)
{
    return ACCEL_GET_CLASS(m->accel);
}

/* machine.c */
void callback_add(CallbackList *list, void (*fn)(void), void *opaque, bool watch);
void callback_remove(CallbackList *list, void (*fn)(void), void *opaque);
void machine_close_now(Machine *m); /* main thread, waiting allowed */

/* run-state.c, system-event.c */
bool machine_may_wait(Machine *m); /* here and now, for vCPUs */
void machine_run_bh(void *opaque);
void machine_drop_pending(Machine *m);
void machine_settle(Machine *m); /* carries out what is pending; may wait */
void machine_set_state(Machine *m, RunState state, const char *reason);
void machine_run_resets(Machine *m, bool watches); /* the handlers */
/* Stops vCPUs and clock without anybody noticing / lets them go on. Returns whether they ran. */
bool machine_hold(Machine *m);
void machine_release(Machine *m);
VCpu *machine_stepping_cpu(const Machine *m); /* the one that is to do one instruction; NULL */
void machine_start_running(Machine *m);
void machine_system_event(void *opaque, VCpu *cpu, CpuSystemEvent event, const char *message);

/* quiesce.c: begin undoes itself when it fails */
bool machine_quiesce_begin(Machine *m, GError **error);
void machine_quiesce_end(Machine *m);
void machine_quiesce_finalize(Machine *m);

/* machine-state.c */
void machine_state_entry_free(void *entry);
void machine_state_init(Machine *m);
void machine_state_close(Machine *m); /* snapshots, tracker */
void machine_state_finalize(Machine *m);
/* Whether state may be saved or loaded here and now; `what` for the message. */
bool machine_may_touch_state(Machine *m, const char *what, GError **error);
void machine_become_broken(Machine *m, const char *what, const GError *error);

/* machine-stream.c: vCPUs are stopped. After a failed load the machine has parts of both states. */
#define SECTION_MACHINE "machine"
#define SECTION_ACCEL   "accelerator"
#define SECTION_CPU     "cpu"
GBytes *machine_save_stopped(Machine *m, GError **error);
bool machine_load_stopped(Machine *m, GBytes *bytes, GError **error);
void machine_capture_accel(Machine *m);
bool machine_reset_accel(Machine *m, GError **error);

/* a20.c */
void machine_a20_close(Machine *m);
void machine_a20_restore(Machine *m, uint8_t used, uint8_t high);

/* gsi.c, arm.c */
void machine_gsi_edge(Machine *m, unsigned gsi); /* once more, whatever the line's level */
void machine_gsi_close(Machine *m);
/* From the first to the second, which comes however a load ends, lines keep the levels given. */
void machine_gsi_restore(Machine *m, const uint8_t levels[MACHINE_MAX_GSI / 8]);
void machine_gsi_loaded(Machine *m);
EventHub *machine_new_events(Machine *m);
