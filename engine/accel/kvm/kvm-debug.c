/*
 * Breakpoints and single steps by KVM_SET_GUEST_DEBUG.
 *
 * The first four addresses get the processor's debug registers, later ones an INT3 in guest memory.
 * Both stop before the instruction. To go on, the instruction is stepped over: with a debug
 * register, by leaving that one out of this vCPU for one step; with an INT3, by putting the guest's
 * byte back for one step while all other vCPUs are held out of the guest, so none can run past it.
 *
 * INT3 bytes are in memory only while the machine's clock runs: what is saved, or read by a script
 * in a pause, is the guest's own. kvm_hide_breakpoints covers reads while it runs.
 *
 * Where KVM has no hardware under it (kvm_preferred), it interprets INT3 itself, through the
 * guest's vectors in real mode, and user space never hears of it. There, breakpoints beyond the
 * fourth make the vCPUs run in single steps: slow, but no breakpoint is missed.
 *
 * While debug registers are used here, the guest's own have no effect (it can read and write them).
 * Its INT3 and its #DB by the trap flag are given back to it.
 *
 * a->breaks is guarded by debug_mutex. A change raises a->debug_gen and kicks everybody out of the
 * guest; a vCPU enters only with the current generation applied (kvm_enter checks again).
 */
#include "engine/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/core/rcu.h"

#define VECTOR_DB 1u
#define VECTOR_BP 3u
#define DR6_BS    (1u << 14)
#define INT3      0xcc
#define HW_SLOTS  4
enum { SLOT_INT3 = -1, SLOT_STEP = -2 }; /* KvmBreak.slot of those without a debug register */

static KvmBreak *find_break(KvmAccel *a, uint64_t addr)
{
    for (unsigned i = 0; i < a->breaks->len; i++) {
        KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        if (b->addr == addr) {
            return b;
        }
    }
    return NULL;
}

/* ---- bytes in guest memory ---------------------------------------------------------------- */

/* A writable host pointer to one byte of RAM or ROM; inside RCU. NULL: no such memory. */
static uint8_t *guest_byte(KvmAccel *a, uint64_t paddr)
{
    const FlatView *view = address_space_flat_view(a->parent.config.memory);
    const FlatRange *r = flat_view_find(view, paddr);
    if (!r || !r->mr->ram || r->mr->ram->readonly ||
        !(memory_region_is_ram(r->mr) || r->mr->kind == MEMORY_ROM_DEVICE)) {
        return NULL;
    }
    return r->mr->ram->host + r->offset + (paddr - r->addr);
}

static bool swap_byte(KvmAccel *a, uint64_t paddr, uint8_t expect, bool check, uint8_t value,
                      uint8_t *old)
{
    rcu_enter();
    uint8_t *p = guest_byte(a, paddr);
    bool ok = p != NULL;
    if (ok) {
        uint8_t now = __atomic_load_n(p, __ATOMIC_RELAXED);
        if (old) {
            *old = now;
        }
        /* A guest that overwrote the place since keeps what it wrote. */
        if (!check || now == expect) {
            __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
        }
    }
    rcu_leave();
    return ok;
}

/* debug_mutex. */
static void insert_bytes(KvmAccel *a)
{
    for (unsigned i = 0; i < a->breaks->len; i++) {
        KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        if (b->slot == SLOT_INT3 && !b->inserted) {
            b->inserted = swap_byte(a, b->paddr, 0, false, INT3, &b->saved);
        }
    }
    __atomic_store_n(&a->sw_missing, 0, __ATOMIC_RELEASE);
}

static void remove_byte(KvmAccel *a, KvmBreak *b)
{
    if (b->inserted) {
        swap_byte(a, b->paddr, INT3, true, b->saved, NULL);
        b->inserted = false;
    }
}

static void changed(KvmAccel *a)
{
    __atomic_add_fetch(&a->debug_gen, 1, __ATOMIC_SEQ_CST);
}

/* The clock stands: nobody runs, and the guest's memory is to look untouched. */
void kvm_debug_clock(KvmAccel *a, bool running)
{
    bool software = false;
    pthread_mutex_lock(&a->debug_mutex);
    for (unsigned i = 0; i < a->breaks->len; i++) {
        software = software || g_array_index(a->breaks, KvmBreak, i).slot == SLOT_INT3;
    }
    pthread_mutex_unlock(&a->debug_mutex);
    if (!software || running) {
        return;
    }
    kvm_hold_begin(a, NULL);
    pthread_mutex_lock(&a->debug_mutex);
    for (unsigned i = 0; i < a->breaks->len; i++) {
        remove_byte(a, &g_array_index(a->breaks, KvmBreak, i));
    }
    __atomic_store_n(&a->sw_missing, 1, __ATOMIC_SEQ_CST);
    changed(a);
    pthread_mutex_unlock(&a->debug_mutex);
    kvm_hold_end(a, NULL);
}

void kvm_hide_breakpoints(Accel *accel, uint64_t paddr, void *buf, uint64_t len)
{
    KvmAccel *a = KVM_ACCEL(accel);
    pthread_mutex_lock(&a->debug_mutex);
    for (unsigned i = 0; i < a->breaks->len; i++) {
        const KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        if (b->inserted && b->paddr - paddr < len && ((uint8_t *)buf)[b->paddr - paddr] == INT3) {
            ((uint8_t *)buf)[b->paddr - paddr] = b->saved;
        }
    }
    pthread_mutex_unlock(&a->debug_mutex);
}

/* ---- adding and removing ------------------------------------------------------------------ */

/* Engine lock. By the page tables of the vCPU that the filter names, else the first. */
static bool translate_code(KvmAccel *a, int index, uint64_t addr, uint64_t *paddr, GError **error)
{
    KvmVcpu *kv = NULL;
    for (unsigned i = 0; i < a->vcpus->len && !kv; i++) {
        KvmVcpu *x = g_ptr_array_index(a->vcpus, i);
        kv = x && x->cpu && (index < 0 || index == x->index) ? x : NULL;
    }
    if (!kv) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "breakpoint at %#llx: there is no vCPU yet whose page tables say where "
                         "that is",
                         (unsigned long long)addr);
    }
    if (kv->cpu->stopped || cpu_current() == kv->cpu) {
        return cpu_translate(kv->cpu, addr, paddr, error);
    }
    struct kvm_translation t = { .linear_address = addr };
    kvm_hold_begin(a, NULL);
    int r = kvm_ioctl(a, kv->fd, KVM_TRANSLATE, &t);
    kvm_hold_end(a, NULL);
    if (r < 0 || !t.valid) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "breakpoint at %#llx: not mapped on vCPU %d now", (unsigned long long)addr,
                         kv->index);
    }
    *paddr = t.physical_address;
    return true;
}

static int free_slot(KvmAccel *a)
{
    unsigned used = 0;
    for (unsigned i = 0; i < a->breaks->len; i++) {
        const KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        used |= b->slot >= 0 ? 1u << b->slot : 0;
    }
    for (int i = 0; i < HW_SLOTS; i++) {
        if (!(used & (1u << i))) {
            return i;
        }
    }
    return a->step_breaks ? SLOT_STEP : SLOT_INT3;
}

static char *describe(const KvmBreak *b)
{
    return b->slot >= 0           ? g_strdup_printf("hw breakpoint %d/%d", b->slot + 1, HW_SLOTS)
           : b->slot == SLOT_INT3 ? g_strdup("sw breakpoint")
                                  : g_strdup("single steps");
}

/* Everybody leaves the guest and comes back with the new breakpoints. */
static void publish(KvmAccel *a)
{
    kvm_hold_begin(a, NULL);
    kvm_hold_end(a, NULL);
}

bool kvm_break_add(KvmAccel *a, const EventFilter *f, char **how, GError **error)
{
    if (f->len > 1) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "execution of %#llx + %#llx: under KVM a breakpoint is one address; use "
                         "the soft accelerator for a range",
                         (unsigned long long)f->addr, (unsigned long long)f->len);
    }
    if (!kvm_require(a, KC_SET_GUEST_DEBUG, error)) {
        return false;
    }
    pthread_mutex_lock(&a->debug_mutex);
    KvmBreak *b = find_break(a, f->addr);
    if (b) {
        b->users++;
        *how = describe(b);
        pthread_mutex_unlock(&a->debug_mutex);
        return true;
    }
    KvmBreak new = { .addr = f->addr, .users = 1, .slot = free_slot(a) };
    pthread_mutex_unlock(&a->debug_mutex);
    if (new.slot == SLOT_INT3) {
        if (!translate_code(a, f->cpu, f->addr, &new.paddr, error)) {
            return false;
        }
        rcu_enter();
        bool memory = guest_byte(a, new.paddr) != NULL;
        rcu_leave();
        if (!memory) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "breakpoint at %#llx: all %d hardware breakpoints are in use, and "
                             "physical address %#llx is not memory that an INT3 can be written to",
                             (unsigned long long)f->addr, HW_SLOTS, (unsigned long long)new.paddr);
        }
    }
    pthread_mutex_lock(&a->debug_mutex);
    g_array_append_val(a->breaks, new);
    if (new.slot == SLOT_INT3) {
        __atomic_store_n(&a->sw_missing, 1, __ATOMIC_SEQ_CST);
    }
    changed(a);
    pthread_mutex_unlock(&a->debug_mutex);
    *how = describe(&new);
    publish(a);
    return true;
}

void kvm_break_remove(KvmAccel *a, const EventFilter *f)
{
    bool gone = false;
    kvm_hold_begin(a, NULL);
    pthread_mutex_lock(&a->debug_mutex);
    for (unsigned i = 0; i < a->breaks->len; i++) {
        KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        if (b->addr == f->addr) {
            gone = --b->users == 0;
            if (gone) {
                remove_byte(a, b);
                g_array_remove_index(a->breaks, i);
                changed(a);
            }
            break;
        }
    }
    pthread_mutex_unlock(&a->debug_mutex);
    kvm_hold_end(a, NULL);
}

bool kvm_step(VCpu *cpu, GError **error)
{
    KvmVcpu *kv = kvm_vcpu_of(cpu);
    if (!kv) {
        return error_set(error, ENGINE_ERROR_GONE, "kvm: vCPU %d is gone", cpu->index);
    }
    if (!kvm_require(kv->a, KC_SET_GUEST_DEBUG, error)) {
        return false;
    }
    kv->stepping = true;
    return true;
}

/* ---- on the vCPU thread ------------------------------------------------------------------- */

/* Tells KVM what to stop at: all debug registers but `without`, INT3s, and a step. `inject` is one
 * of KVM_GUESTDBG_INJECT_*. */
static bool apply(KvmVcpu *kv, bool step, int without, uint32_t inject)
{
    KvmAccel *a = kv->a;
    struct kvm_guest_debug g = { .control = inject };
    pthread_mutex_lock(&a->debug_mutex);
    kv->debug_gen = __atomic_load_n(&a->debug_gen, __ATOMIC_SEQ_CST);
    kv->step_watch = kv->debug_hw = false;
    for (unsigned i = 0; i < a->breaks->len; i++) {
        const KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        g.control |= KVM_GUESTDBG_ENABLE;
        if (b->slot == SLOT_INT3) {
            g.control |= KVM_GUESTDBG_USE_SW_BP;
        } else if (b->slot == SLOT_STEP) {
            g.control |= KVM_GUESTDBG_SINGLESTEP;
            kv->step_watch = true;
        } else {
            g.control |= KVM_GUESTDBG_USE_HW_BP;
            kv->debug_hw = true;
            if (b->slot != without) {
                g.arch.debugreg[b->slot] = b->addr;
                g.arch.debugreg[7] |= UINT64_C(0x600) | UINT64_C(2) << (b->slot * 2);
            }
        }
    }
    pthread_mutex_unlock(&a->debug_mutex);
    if (step) {
        g.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
        if (a->caps[KC_SET_GUEST_DEBUG2] & KVM_GUESTDBG_BLOCKIRQ) {
            g.control |= KVM_GUESTDBG_BLOCKIRQ;
        }
    }
    kv->debug_step = step || without >= 0 || kv->step_watch;
    if (kvm_ioctl(a, kv->fd, KVM_SET_GUEST_DEBUG, &g) < 0) {
        kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "KVM_SET_GUEST_DEBUG: %s", g_strerror(errno));
        return false;
    }
    return true;
}

static void fill_exit(KvmVcpu *kv, uint64_t pc, uint64_t value, uint64_t dr6, uint64_t dr7)
{
    CpuExit *x = &kv->cpu->exit;
    x->kind = CPU_EXIT_DEBUG;
    x->write = false;
    x->size = 0;
    x->count = 1;
    x->data = NULL;
    x->addr = pc;
    x->value = value;
    x->args[0] = dr6;
    x->args[1] = dr7;
    x->args[2] = pc;
    if (value & CPU_DEBUG_BREAKPOINT) {
        kv->stepover = true;
        kv->stepover_pc = pc;
    }
}

static bool copy_break(KvmAccel *a, uint64_t pc, KvmBreak *out)
{
    pthread_mutex_lock(&a->debug_mutex);
    const KvmBreak *b = find_break(a, pc);
    if (b) {
        *out = *b;
    }
    pthread_mutex_unlock(&a->debug_mutex);
    return b != NULL;
}

/* The INT3 that another linear address of the same page has put where this one points. */
static bool copy_break_by_memory(KvmVcpu *kv, uint64_t pc, KvmBreak *out)
{
    KvmAccel *a = kv->a;
    struct kvm_translation t = { .linear_address = pc };
    bool found = false;
    if (kvm_ioctl(a, kv->fd, KVM_TRANSLATE, &t) < 0 || !t.valid) {
        return false;
    }
    pthread_mutex_lock(&a->debug_mutex);
    for (unsigned i = 0; i < a->breaks->len && !found; i++) {
        const KvmBreak *b = &g_array_index(a->breaks, KvmBreak, i);
        found = b->slot == SLOT_INT3 && b->inserted && b->paddr == t.physical_address;
        if (found) {
            *out = *b;
        }
    }
    pthread_mutex_unlock(&a->debug_mutex);
    return found;
}

/* Nobody watches this address, but there is one of our INT3s: to be stepped over unseen. */
static bool pass_over(KvmVcpu *kv, uint64_t pc)
{
    KvmBreak b;
    if (!copy_break_by_memory(kv, pc, &b)) {
        return false;
    }
    kv->stepover = true;
    kv->stepover_pc = pc;
    kv->cpu->exit.kind = CPU_EXIT_INTERRUPTED;
    return true;
}

void kvm_debug_step_done(KvmVcpu *kv)
{
    KvmBreak b;
    uint64_t pc = 0;
    kvm_linear_pc(kv, &pc);
    kv->stepping = false;
    fill_exit(kv, pc, CPU_DEBUG_STEP | (copy_break(kv->a, pc, &b) ? CPU_DEBUG_BREAKPOINT : 0),
              DR6_BS, 0);
}

void kvm_debug_assisted(KvmVcpu *kv)
{
    KvmBreak b;
    uint64_t pc = 0;
    kv->stepover = false;
    if (kv->stepping) {
        kvm_debug_step_done(kv);
    } else if (kv->step_watch && kvm_linear_pc(kv, &pc) && copy_break(kv->a, pc, &b)) {
        fill_exit(kv, pc, CPU_DEBUG_BREAKPOINT, 0, 0);
    }
}

static bool raw_byte_is_int3(KvmVcpu *kv, uint64_t pc)
{
    struct kvm_translation t = { .linear_address = pc };
    uint8_t byte = 0;
    if (kvm_ioctl(kv->a, kv->fd, KVM_TRANSLATE, &t) < 0 || !t.valid) {
        return true;
    }
    rcu_enter();
    const uint8_t *p = guest_byte(kv->a, t.physical_address);
    byte = p ? *p : INT3;
    rcu_leave();
    return byte == INT3;
}

static void guest_debug_trap(KvmVcpu *kv, uint64_t dr6)
{
    struct kvm_debugregs d;
    if (kvm_ioctl(kv->a, kv->fd, KVM_GET_DEBUGREGS, &d) == 0) {
        d.dr6 |= dr6 & (DR6_BS | 0xf);
        kvm_ioctl(kv->a, kv->fd, KVM_SET_DEBUGREGS, &d);
    }
    if (apply(kv, false, -1, KVM_GUESTDBG_INJECT_DB)) {
        kv->cpu->exit.kind = CPU_EXIT_INTERRUPTED;
    }
}

/* Leaves kind DEBUG and value 0 for the end of a step that nobody is to be told of. */
void kvm_debug_exit(KvmVcpu *kv)
{
    KvmAccel *a = kv->a;
    const struct kvm_debug_exit_arch d = kv->run->debug.arch;
    KvmBreak b;
    bool ours = false;
    bool found = copy_break(a, d.pc, &b);
    if (found) {
        ours = b.slot >= 0           ? d.exception == VECTOR_DB && (d.dr6 & (1u << b.slot))
               : b.slot == SLOT_INT3 ? d.exception == VECTOR_BP && b.inserted
                                     : d.exception == VECTOR_DB && kv->debug_step;
    }
    if (!ours && d.exception == VECTOR_DB && kv->debug_step) {
        fill_exit(kv, d.pc, 0, d.dr6, d.dr7);
        kv->stepover = false;
        if (kv->stepping) {
            kvm_debug_step_done(kv);
        }
        return;
    }
    fill_exit(kv, d.pc, ours ? CPU_DEBUG_BREAKPOINT : 0, d.dr6, d.dr7);
    if (ours) {
        if (kv->stepping && kv->debug_step && (d.dr6 & DR6_BS)) {
            kvm_debug_step_done(kv);
        }
        return;
    }
    if (d.exception == VECTOR_BP) {
        if (!found && pass_over(kv, d.pc)) {
            return;
        }
        /* The guest's own, unless a breakpoint was here a moment ago: then the byte is gone and the
         * instruction runs again. */
        if (!raw_byte_is_int3(kv, d.pc) || apply(kv, false, -1, KVM_GUESTDBG_INJECT_BP)) {
            kv->cpu->exit.kind = CPU_EXIT_INTERRUPTED;
        }
    } else if ((d.dr6 & DR6_BS) || !(d.dr6 & 0xf) || !kv->debug_hw) {
        guest_debug_trap(kv, d.dr6);
    } else {
        /* Of a breakpoint that was removed while this exit was under way. */
        kv->cpu->exit.kind = CPU_EXIT_INTERRUPTED;
    }
}

/* KVM's interpreter does not know INT3 outside of real mode: a breakpoint then looks like this. */
bool kvm_debug_emulation_failure(KvmVcpu *kv)
{
    const struct kvm_run *run = kv->run;
    KvmBreak b;
    uint64_t pc;
    if (!kvm_linear_pc(kv, &pc)) {
        return false;
    }
    bool found = copy_break(kv->a, pc, &b);
    if (found && b.slot == SLOT_INT3 && b.inserted) {
        fill_exit(kv, pc, CPU_DEBUG_BREAKPOINT, 0, 0);
        return true;
    }
    if (run->emulation_failure.ndata < 3 || !run->emulation_failure.insn_size ||
        run->emulation_failure.insn_bytes[0] != INT3) {
        return false;
    }
    if (!found && pass_over(kv, pc)) {
        return true;
    }
    if (!raw_byte_is_int3(kv, pc)) {
        kv->cpu->exit.kind = CPU_EXIT_INTERRUPTED; /* of a breakpoint that was removed meanwhile */
        return true;
    }
    return false;
}

typedef enum { OVER_DONE, OVER_AGAIN, OVER_EXIT } OverResult;

/* One instruction without the breakpoint on it. */
static OverResult step_over(KvmVcpu *kv, const KvmBreak *b)
{
    KvmAccel *a = kv->a;
    bool software = b->slot == SLOT_INT3, entered = false;
    if (software) {
        kvm_hold_begin(a, kv);
        swap_byte(a, b->paddr, INT3, true, b->saved, NULL);
    }
    bool ok = apply(kv, true, b->slot, 0);
    if (ok) {
        entered = kvm_enter(kv, false);
    }
    if (software) {
        /* Unless it was removed before the hold, or the guest has overwritten it just now. */
        pthread_mutex_lock(&a->debug_mutex);
        const KvmBreak *still = find_break(a, b->addr);
        if (still && still->inserted) {
            swap_byte(a, b->paddr, still->saved, true, INT3, NULL);
        }
        pthread_mutex_unlock(&a->debug_mutex);
        kvm_hold_end(a, kv);
    }
    if (!ok) {
        return OVER_EXIT;
    }
    if (!entered) {
        return OVER_AGAIN;
    }
    const CpuExit *x = &kv->cpu->exit;
    if (x->kind == CPU_EXIT_DEBUG) {
        if (x->value == 0) {
            kv->stepover = false;
            return OVER_DONE;
        }
        if (!(x->value & CPU_DEBUG_BREAKPOINT)) {
            kv->stepover = false;
        }
    }
    return OVER_EXIT;
}

bool kvm_debug_before_run(KvmVcpu *kv)
{
    KvmAccel *a = kv->a;
    KvmBreak b;
    uint64_t pc;
    if (__atomic_load_n(&a->sw_missing, __ATOMIC_ACQUIRE)) {
        kvm_hold_begin(a, kv);
        pthread_mutex_lock(&a->debug_mutex);
        insert_bytes(a);
        pthread_mutex_unlock(&a->debug_mutex);
        kvm_hold_end(a, kv);
    }
    if (kv->stepping && kv->pending) {
        /* The access belongs to the instruction that is being stepped: finish it, and no more. */
        while (!kvm_enter(kv, true)) {
        }
        if (!kv->pending && kv->cpu->exit.kind == CPU_EXIT_INTERRUPTED) {
            kvm_debug_step_done(kv);
        }
        return true;
    }
    for (;;) {
        if (!kvm_linear_pc(kv, &pc)) {
            kvm_exit_fail(kv, CPU_EXIT_INTERNAL_ERROR, "KVM_GET_REGS: %s", g_strerror(errno));
            return true;
        }
        bool found = copy_break(a, pc, &b);
        if (!found && kv->stepover && pc == kv->stepover_pc) {
            found = copy_break_by_memory(kv, pc, &b);
        }
        kv->stepover = kv->stepover && found && pc == kv->stepover_pc;
        if (!found) {
            break;
        }
        if (b.slot == SLOT_STEP) {
            /* Seen after each step; here only when a vCPU begins on it. */
            if (!kv->stepover && !kv->stepping && !kv->pending) {
                fill_exit(kv, pc, CPU_DEBUG_BREAKPOINT, 0, 0);
                return true;
            }
            break;
        }
        if (!kv->stepover && !kv->stepping) {
            break;
        }
        OverResult r = step_over(kv, &b);
        if (r == OVER_EXIT) {
            return true;
        }
    }
    return !apply(kv, kv->stepping, -1, 0);
}
