/*
 * The KVM accelerator: what its files share.
 *
 *   kvm.c                the type, the device, capabilities, creation of the VM
 *   kvm-vcpu.c           vCPU creation, kicks, CPUID
 *   kvm-hold.c           keeping every vCPU out of KVM_RUN for a moment
 *   kvm-run.c            KVM_RUN and the translation of its exits
 *   kvm-assist.c         instructions that KVM cannot emulate, by the software CPU
 *   kvm-state.c          registers and events between KVM and X86CPUState
 *   kvm-state-msr.c      MSRs between KVM and X86CPUState
 *   kvm-memory.c         memory slots and dirty logs
 *   kvm-io.c             ioeventfds and coalesced writes
 *   kvm-irq.c            interrupt lines, routing, irqfds, injection
 *   kvm-hooks.c          which event sources can be served, and how
 *   kvm-msr.c            MSR exits
 *   kvm-hypercall.c      hypercall exits
 *   kvm-debug.c          breakpoints and single steps
 *   kvm-irqchip-state.c  saved state of the in-kernel devices
 *
 * Locks, outermost first: engine lock, the hold (KvmHold), debug_mutex (a leaf).
 */
#pragma once

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/accel/accel.h"
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/core/units.h"
#include "engine/cpu/cpu.h"
#include "engine/memory/ram.h"

#define TYPE_KVM_ACCEL "kvm-accel"

/* Capabilities that the code asks about: KVM_CAP_ suffix, whether the accelerator is of no use
 * without it, what it is for. */
#define KVM_CAP_TABLE(X)                                                         \
    X(USER_MEMORY, true, "guest RAM")                                            \
    X(SET_TSS_ADDR, true, "real mode on Intel processors")                       \
    X(EXT_CPUID, true, "CPUID policies")                                         \
    X(MP_STATE, true, "starting and stopping processors")                        \
    X(DESTROY_MEMORY_REGION_WORKS, true, "removing RAM")                         \
    X(IMMEDIATE_EXIT, true, "pausing without races")                             \
    X(VCPU_EVENTS, true, "saved state")                                          \
    X(DEBUGREGS, true, "debug registers")                                        \
    X(READONLY_MEM, true, "ROM")                                                 \
    X(INTERNAL_ERROR_DATA, true, "error reports")                                \
    X(NR_MEMSLOTS, true, "memory slots")                                         \
    X(MAX_VCPUS, true, "vCPUs")                                                  \
    X(IRQCHIP, false, "an in-kernel interrupt controller")                       \
    X(SPLIT_IRQCHIP, false, "a LAPIC in the kernel with PIC and IOAPIC outside") \
    X(PIT2, false, "an in-kernel PIT")                                           \
    X(PIT_STATE2, false, "saved state of the in-kernel PIT")                     \
    X(IRQFD, false, "irqfds")                                                    \
    X(IRQFD_RESAMPLE, false, "irqfds of level-triggered lines")                  \
    X(IRQ_ROUTING, false, "interrupt routing")                                   \
    X(SIGNAL_MSI, false, "message-signalled interrupts")                         \
    X(IOEVENTFD, false, "ioeventfds")                                            \
    X(IOEVENTFD_ANY_LENGTH, false, "ioeventfds of any access size")              \
    X(COALESCED_MMIO, false, "coalesced MMIO")                                   \
    X(COALESCED_PIO, false, "coalesced port writes")                             \
    X(USER_NMI, false, "NMIs")                                                   \
    X(XSAVE, false, "extended processor state")                                  \
    X(XSAVE2, false, "extended processor state above 4 KiB")                     \
    X(XCRS, false, "extended control registers")                                 \
    X(SREGS2, false, "system registers without the interrupt bitmap")            \
    X(SYNC_REGS, false, "registers in the shared page")                          \
    X(SET_GUEST_DEBUG, false, "breakpoints")                                     \
    X(SET_GUEST_DEBUG2, false, "steps without interrupts")                       \
    X(X86_USER_SPACE_MSR, false, "MSR exits")                                    \
    X(X86_MSR_FILTER, false, "MSR filters")                                      \
    X(XEN_HVM, false, "hypercall exits")                                         \
    X(EXCEPTION_PAYLOAD, false, "exception payloads")                            \
    X(X86_TRIPLE_FAULT_EVENT, false, "pending triple faults in saved state")     \
    X(EXIT_ON_EMULATION_FAILURE, false, "the assist for user mode")              \
    X(TSC_CONTROL, false, "a TSC frequency other than the host's")               \
    X(TSC_DEADLINE_TIMER, false, "the TSC deadline timer")                       \
    X(ADJUST_CLOCK, false, "the paravirtual clock in saved state")               \
    X(KVMCLOCK_CTRL, false, "telling the guest of pauses")                       \
    X(SET_IDENTITY_MAP_ADDR, false, "a movable identity map")                    \
    X(NESTED_STATE, false, "nested virtualisation in saved state")

typedef enum {
#define X(name, required, what) KC_##name,
    KVM_CAP_TABLE(X)
#undef X
        KC_COUNT,
} KvmCap;

typedef struct KvmAccel KvmAccel;
typedef struct KvmVcpu KvmVcpu;

/* A memory slot that KVM has now. */
typedef struct KvmSlot {
    uint32_t id;
    uint32_t flags; /* KVM_MEM_* */
    uint64_t gpa, size;
    RamBlock *ram; /* referenced */
    uint64_t ram_offset;
} KvmSlot;

/* An ioeventfd or a coalesced range; lifted while a hook watches the addresses. */
typedef struct KvmIoRange {
    bool pio, coalesced, registered;
    uint64_t addr, len;
    MemoryRegionIoeventfd ev; /* when not coalesced */
} KvmIoRange;

typedef struct KvmBreak {
    uint64_t addr; /* linear */
    int slot;      /* 0..3: debug register; else see kvm-debug.c */
    unsigned users;
    uint64_t paddr; /* software: where the byte is */
    uint8_t saved;
    bool inserted;
} KvmBreak;

/* Keeping vCPUs out of KVM_RUN. `active` is read on every entry; the rest is under `mutex`. */
typedef struct KvmHold {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    uint32_t active;
    bool owned;
    bool refuses; /* the owner has no engine lock and may not take it; the owner's */
} KvmHold;

struct KvmAccel {
    Accel parent;
    char *device_path;
    int sys_fd, vm_fd;
    int caps[KC_COUNT];
    size_t run_size;

    GPtrArray *vcpus; /* KvmVcpu * by index; entries live until destroy. Changed under hold.mutex */
    KvmHold hold;

    MemoryListener memory_listener, io_listener;
    bool a20_closed; /* atomic; changed under the engine lock */
    GArray *slots;   /* of KvmSlot, by gpa. Engine lock */
    GArray *free_slots;
    uint32_t next_slot;
    GArray *io_ranges; /* of KvmIoRange. Engine lock */
    struct kvm_coalesced_mmio_ring *ring;
    uint32_t ring_slots;
    bool draining; /* engine lock */
    MemoryCache ring_memory_cache, ring_io_cache;

    bool irqchip_made;              /* engine lock */
    struct kvm_irq_routing *routes; /* engine lock */
    unsigned routes_allocated;

    uint32_t *msr_list; /* sorted; those that KVM_GET_MSRS serves */
    unsigned n_msrs;
    uint32_t *feature_msrs; /* a guest may not write these */
    unsigned n_feature_msrs;

    GArray *armed;      /* of EventFilter. Engine lock */
    uint32_t want_regs; /* atomic: exits come with general registers in the shared page */
    unsigned hypercall_users;
    bool msr_exits;

    pthread_mutex_t debug_mutex;
    GArray *breaks;      /* of KvmBreak; debug_mutex */
    uint32_t debug_gen;  /* atomic; a vCPU whose own differs applies the breakpoints anew */
    bool step_breaks;    /* breakpoints beyond the debug registers by single steps, not INT3 */
    uint32_t sw_missing; /* atomic: software breakpoints exist and are not in memory */

    bool assist;                  /* property */
    uint32_t assist_run;          /* property: instructions at most */
    GHashTable *assists;          /* mnemonic → count, by pointer; debug_mutex */
    uint64_t assist_instructions; /* atomic */

    uint32_t lines; /* levels of the lines that devices drive: set_gsi */
    struct kvm_pit_state2 pit;
    PitChannel pit_saved[3]; /* the same as it is saved */
    bool pit_loaded;         /* pit_saved is newer than pit */
    uint64_t pv_clock;       /* ns of the paravirtual clock */
    bool pit_muted;          /* event timers interrupt in its place */
    bool clock_stopped;      /* pv_clock and the PIT are to go back when the clock runs */
    bool tsc_warned;

    bool time_ioctls; /* property: account the time spent in ioctls other than KVM_RUN */
    uint64_t ioctl_ns, ioctl_count, holds, coalesced_writes, slot_changes; /* statistics; atomic */
};
OBJECT_DECLARE_TYPE(KvmAccel, AccelClass, KVM_ACCEL, TYPE_KVM_ACCEL)

struct KvmVcpu {
    KvmAccel *a;
    VCpu *cpu; /* NULL while parked */
    int index, fd;
    struct kvm_run *run;
    pthread_t thread;

    uint32_t in_run; /* atomic: between kvm_hold_enter and kvm_hold_leave */
    uint32_t kicked; /* atomic */
    bool exempt;     /* this vCPU owns the hold and may enter */

    bool pending;     /* an access of the last exit is to be finished by KVM_RUN */
    bool regs_cached; /* run->s.regs.regs are the vCPU's */
    bool has_stash;   /* an exit met while finishing an access; reported at the next run */
    CpuExit stash;

    uint32_t debug_gen;
    bool stepping;             /* single step asked for */
    bool stepover;             /* the breakpoint at stepover_pc was reported and not yet executed */
    bool step_halted;          /* the step was a HLT, and `halted` is still to be set */
    bool step_watch;           /* runs in single steps for the sake of breakpoints */
    bool debug_step, debug_hw; /* what KVM_SET_GUEST_DEBUG last said */
    uint64_t stepover_pc;

    struct SoftAssist *assist;
    X86CPUState *assist_state;
    uint64_t enters, assist_enter; /* KVM_RUNs, and the one that was helped last */
    unsigned assist_len;           /* instructions to run next time */

    bool nmi;  /* atomic: an NMI was queued while halted outside KVM */
    bool intr; /* atomic: an interrupt line without in-kernel PIC */
    int (*intr_vector)(void *opaque);
    void *intr_opaque;

    void *cpuid; /* kvm_cpuid2 as last set */
    size_t cpuid_size;
    X86Msr *msr_reset; /* values at power-on, one an entry of a->msr_list */
    uint64_t tsc_shown;
    bool tsc_shown_valid;
    uint32_t xsave_size;
    uint8_t lapic_reset[X86_LAPIC_REGS];
    uint32_t stopped_count; /* of the LAPIC's timer when the clock stopped */
    bool stopped_count_valid;
    void *xsave_buf;
};

static inline KvmVcpu *kvm_vcpu_of(VCpu *cpu)
{
    return __atomic_load_n((KvmVcpu **)(void *)&cpu->accel_data, __ATOMIC_ACQUIRE);
}
static inline bool kvm_has(const KvmAccel *a, KvmCap cap)
{
    return a->caps[cap] > 0;
}
static inline bool kvm_lapic_in_kernel(const KvmAccel *a)
{
    return a->parent.config.irqchip != IRQCHIP_OFF;
}

/* Any ioctl but KVM_RUN: repeated on EINTR, accounted. -1 and errno on failure. */
int kvm_ioctl(KvmAccel *a, int fd, unsigned long request, void *arg);
int kvm_ioctl_val(KvmAccel *a, int fd, unsigned long request, unsigned long arg);
const char *kvm_cap_name(KvmCap cap);
/* false + error naming the capability. */
bool kvm_require(const KvmAccel *a, KvmCap cap, GError **error);

/* kvm-vcpu.c */
bool kvm_vcpu_create(VCpu *cpu, GError **error);
void kvm_vcpu_destroy(VCpu *cpu);
void kvm_vcpu_free(KvmVcpu *kv);
void kvm_vcpu_kick(VCpu *cpu);
void kvm_kick(KvmVcpu *kv);
bool kvm_set_cpuid(VCpu *cpu, GError **error);
CpuidPolicy *kvm_supported_cpuid(GError **error);
bool kvm_set_tsc_khz(VCpu *cpu, uint32_t khz, GError **error);

/* kvm-hold.c. begin: `self` is the vCPU that holds the others, NULL elsewhere. Not nested. The
 * engine lock may be held. */
void kvm_hold_init(KvmHold *h);
void kvm_hold_destroy(KvmHold *h);
void kvm_hold_begin(KvmAccel *a, KvmVcpu *self);
void kvm_hold_end(KvmAccel *a, KvmVcpu *self);
void kvm_hold_wait(KvmVcpu *kv);
void kvm_hold_notify(KvmAccel *a);

/* kvm-run.c */
void kvm_vcpu_run(VCpu *cpu);
void kvm_vcpu_finish_exit(VCpu *cpu);
/* One entry: KVM_RUN, translation into cpu->exit. `now`: only finishes a pending access. false: did
 * not enter, because of a hold or a change of breakpoints; look again. */
bool kvm_enter(KvmVcpu *kv, bool now);
void kvm_exit_fail(KvmVcpu *kv, CpuExitKind kind, const char *format, ...) G_GNUC_PRINTF(3, 4);

unsigned kvm_read_code(KvmVcpu *kv, uint64_t pc, uint8_t *buf, unsigned len);

/* kvm-assist.c */
bool kvm_assist(KvmVcpu *kv); /* after a failed emulation; false: the guest cannot go on */
void kvm_assist_free(KvmVcpu *kv);
bool kvm_assist_enable(KvmAccel *a);
void kvm_assist_stats(KvmAccel *a, void (*fn)(const char *name, uint64_t value, void *opaque),
                      void *opaque);

/* kvm-state.c */
bool kvm_get_state(VCpu *cpu, unsigned groups, GError **error);
bool kvm_put_state(VCpu *cpu, unsigned groups, GError **error);
bool kvm_check_state(VCpu *cpu, GError **error);
void kvm_flush_stopped(KvmAccel *a);
/* The same to and from a state of one's own. Without LAPIC and MSRs. */
bool kvm_get_groups(KvmVcpu *kv, X86CPUState *s, unsigned groups, GError **error);
bool kvm_put_groups(KvmVcpu *kv, const X86CPUState *s, unsigned groups, GError **error);
bool kvm_flush_state(KvmVcpu *kv); /* puts what is dirty; false: cpu->exit says what failed */
bool kvm_state_fail(KvmVcpu *kv, GError **error, const char *what); /* from errno */
/* kvm-state-msr.c */
bool kvm_msrs_init(KvmVcpu *kv, GError **error);
bool kvm_get_msrs(KvmVcpu *kv, X86CPUState *s, GError **error);
uint32_t kvm_tsc_khz(KvmVcpu *kv); /* 0: unknown */
bool kvm_put_msrs(KvmVcpu *kv, const X86CPUState *s, GError **error);

bool kvm_linear_pc(KvmVcpu *kv, uint64_t *pc);

/* kvm-memory.c */
void kvm_memory_register(KvmAccel *a);
void kvm_memory_unregister(KvmAccel *a);
void kvm_set_a20(Accel *a, bool open);
#define KVM_A20_BIT (UINT64_C(1) << 20)
/* With the gate closed only 1 to 2 MiB are folded: what a guest without paging and with real mode's
 * limits can reach. */
static inline uint64_t kvm_a20_mask(const KvmAccel *a, uint64_t paddr)
{
    bool fold = __atomic_load_n(&a->a20_closed, __ATOMIC_RELAXED) && paddr >> 20 == 1;

    return fold ? paddr & ~KVM_A20_BIT : paddr;
}

/* kvm-io.c */
void kvm_io_init_listener(KvmAccel *a, MemoryListener *l);
void kvm_io_hooks_changed(KvmAccel *a);
void kvm_io_forget(KvmAccel *a);
void kvm_coalesced_drain(KvmAccel *a);
static inline bool kvm_coalesced_pending(const KvmAccel *a)
{
    return a->ring && __atomic_load_n(&a->ring->first, __ATOMIC_RELAXED) !=
                          __atomic_load_n(&a->ring->last, __ATOMIC_ACQUIRE);
}

/* kvm-irq.c */
bool kvm_irq_check(KvmAccel *a, GError **error);
/* Done once, with the first vCPU or the first use: KVM waits for readers whenever a device of its
 * own is added, and a slot that is added before costs less than one added after. */
bool kvm_irq_create(KvmAccel *a, GError **error);
void kvm_set_gsi(Accel *a, unsigned gsi, int level);
bool kvm_send_msi(Accel *a, uint64_t addr, uint32_t data, GError **error);
bool kvm_add_irqfd(Accel *a, int fd, int resample_fd, unsigned gsi, GError **error);
void kvm_del_irqfd(Accel *a, int fd, unsigned gsi);
bool kvm_route_msi(Accel *a, unsigned gsi, uint64_t addr, uint32_t data, GError **error);
bool kvm_inject_nmi(VCpu *cpu, GError **error);
void kvm_set_intr(VCpu *cpu, bool level, int (*vector)(void *opaque), void *opaque);
bool kvm_vcpu_has_work(VCpu *cpu);
bool kvm_intr_level(const KvmAccel *a); /* of a PIC in user space */
void kvm_inject_intr(KvmVcpu *kv);      /* on the vCPU thread before entry */

/* kvm-hooks.c */
bool kvm_arm(Accel *a, const EventFilter *filter, AccelHookInfo *info, GError **error);
void kvm_disarm(Accel *a, const EventFilter *filter);
static inline uint64_t kvm_filter_last(const EventFilter *f)
{
    uint64_t len = f->len ? f->len : 1, last;
    return __builtin_add_overflow(f->addr, len - 1, &last) ? UINT64_MAX : last;
}

/* kvm-msr.c */
bool kvm_msr_update(KvmAccel *a, GError **error); /* the filter follows a->armed */
bool kvm_msr_get(KvmVcpu *kv, uint32_t index, uint64_t *value);
bool kvm_msr_set(KvmVcpu *kv, uint32_t index, uint64_t value);
bool kvm_msr_guest_write(KvmVcpu *kv, uint32_t index, uint64_t value);

/* kvm-hypercall.c */
bool kvm_hypercall_update(KvmAccel *a, GError **error);
uint64_t kvm_hypercall_default(KvmVcpu *kv, const CpuExit *x, bool longmode, unsigned cpl);

/* kvm-debug.c */
bool kvm_break_add(KvmAccel *a, const EventFilter *filter, char **how, GError **error);
void kvm_break_remove(KvmAccel *a, const EventFilter *filter);
bool kvm_step(VCpu *cpu, GError **error);
void kvm_hide_breakpoints(Accel *a, uint64_t paddr, void *buf, uint64_t len);
void kvm_debug_clock(KvmAccel *a, bool running);
/* Before an entry, when something of debugging is on. Returns true when cpu->exit was filled and
 * the caller should return it. */
bool kvm_debug_before_run(KvmVcpu *kv);
/* Fills cpu->exit from a KVM_EXIT_DEBUG. */
void kvm_debug_exit(KvmVcpu *kv);
bool kvm_debug_emulation_failure(KvmVcpu *kv);
void kvm_debug_step_done(KvmVcpu *kv);
void kvm_debug_assisted(KvmVcpu *kv); /* an instruction was executed elsewhere: as after a step */
static inline bool kvm_debug_attention(const KvmVcpu *kv)
{
    return kv->debug_gen != __atomic_load_n(&kv->a->debug_gen, __ATOMIC_ACQUIRE) || kv->stepping ||
           kv->stepover || kv->debug_step || __atomic_load_n(&kv->a->sw_missing, __ATOMIC_ACQUIRE);
}

/* kvm-irqchip-state.c */
const VMStateDescription *kvm_vmstate(Accel *a);
unsigned kvm_chips(Accel *a);
bool kvm_chips_get(Accel *a, PcChipStates *s, GError **error);
bool kvm_chips_put(Accel *a, const PcChipStates *s, unsigned which, GError **error);
void kvm_pit_read(KvmAccel *a); /* into a->pit, a->pit_saved */
void kvm_mute_pit(Accel *accel, bool muted);
unsigned kvm_speaker_frequency(Accel *accel);
void kvm_clock_changed(Accel *a, bool running);

/* kvm-apic-state.c: between the saved form and the state of vCPUs, which has been fetched */
void kvm_apics_get(KvmAccel *a, PcChipStates *s);
bool kvm_apics_put(KvmAccel *a, const PcChipStates *s, GError **error);
void kvm_apic_note_count(KvmVcpu *kv); /* the clock stops */
void kvm_apic_show_count(KvmVcpu *kv, X86CPUState *s);
