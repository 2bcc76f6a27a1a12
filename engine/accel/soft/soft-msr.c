/*
 * Model-specific registers: the architectural ones, MTRRs, machine check banks and the few that
 * Linux and UEFI firmware read without asking CPUID.
 *
 * Intel SDM volume 4; AMD APM volume 2 for EFER, STAR and their kin.
 */
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <x86intrin.h>

#include "engine/accel/assist.h"
#include "engine/accel/soft/soft-accel.h"
#include "engine/accel/soft/soft-block.h"
#include "engine/accel/soft/soft-icount.h"
#include "engine/accel/soft/soft-sys.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/cpu/cpu-apic.h"

#define PAT_RESET      UINT64_C(0x0007040600070406)
#define MISC_ENABLE    UINT64_C(0x1)                     /* fast strings */
#define MTRR_CAP       (UINT64_C(0x500) | SOFT_MTRR_VAR) /* WC, fixed ranges */
#define MCG_CAP        (UINT64_C(1) << 8 | SOFT_MC_BANKS)
#define PLATFORM_INFO  UINT64_C(0x80000a00) /* 1000 MHz in units of 100 */
#define UCODE_REVISION (UINT64_C(1) << 32)

/* How late timers may be before an RDTSC waits for them, and for how long it does at most. */
#define LATE_NS     1000000
#define LATE_NAP_NS 50000
#define LATE_NAPS   400

/* Registers that only hold a value: where, which bits may be written. */
typedef struct Plain {
    uint32_t index;
    uint32_t offset; /* in SoftMsrs */
    uint64_t writable;
    bool canonical;
} Plain;
#define PLAIN(index, member, writable)                     \
    {                                                      \
        index, offsetof(SoftMsrs, member), writable, false \
    }
#define LINEAR(index, member)                               \
    {                                                       \
        index, offsetof(SoftMsrs, member), UINT64_MAX, true \
    }

static const Plain plain[] = {
    PLAIN(0x3a, feature_control, 0),
    PLAIN(0x3b, tsc_adjust, UINT64_MAX),
    PLAIN(0x174, sysenter_cs, UINT32_MAX),
    LINEAR(0x175, sysenter_esp),
    LINEAR(0x176, sysenter_eip),
    PLAIN(0x17a, mcg_status, 7),
    PLAIN(0x17b, mcg_ctl, UINT64_MAX),
    PLAIN(0x1a0, misc_enable, 0x440c89),
    PLAIN(0x1d9, debugctl, 0x3),
    PLAIN(0x277, pat, UINT64_MAX),
    PLAIN(0x2ff, mtrr_def, 0xcff),
    PLAIN(0xc0000081, star, UINT64_MAX),
    LINEAR(0xc0000082, lstar),
    LINEAR(0xc0000083, cstar),
    PLAIN(0xc0000084, sfmask, UINT32_MAX),
    LINEAR(0xc0000102, kernel_gs_base),
    PLAIN(0xc0000103, tsc_aux, UINT32_MAX),
};
static const uint16_t fixed_mtrrs[11] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                          0x26b, 0x26c, 0x26d, 0x26e, 0x26f };
/* Read as constants; a write of what is there is accepted, as firmware does it. */
static const struct {
    uint32_t index;
    uint64_t value;
    bool ignore_writes;
} constants[] = {
    { 0x17, 0, false },             /* PLATFORM_ID */
    { 0x2a, 0, true },              /* EBL_CR_POWERON */
    { 0x33, 0, true },              /* TEST_CTRL */
    { 0x34, 0, false },             /* SMI_COUNT */
    { 0x8b, UCODE_REVISION, true }, /* written with 0 before CPUID */
    { 0xce, PLATFORM_INFO, false }, /* PLATFORM_INFO */
    { 0xfe, MTRR_CAP, false },      /* MTRRCAP */
    { 0x140, 0, true },             /* MISC_FEATURES_ENABLES */
    { 0x198, 0x0a000a00, true },    /* PERF_STATUS: the one ratio there is */
    { 0x199, 0x0a00, true },        /* PERF_CTL */
    { 0x1a4, 0, true },             /* MISC_FEATURE_CONTROL */
    { 0x1b0, 6, true },             /* ENERGY_PERF_BIAS */
    { 0x1fc, 0, true },             /* POWER_CTL */
    { 0x179, MCG_CAP, false },      /* MCG_CAP */
    { 0x19a, 0, true },             /* CLOCK_MODULATION */
    { 0x19b, 0, true },             /* THERM_INTERRUPT */
    { 0x19c, 0, true },             /* THERM_STATUS */
    { 0x1a2, 0, false },            /* TEMPERATURE_TARGET */
    { 0x1ad, 0, false },            /* TURBO_RATIO_LIMIT */
    { 0x1c9, 0, false },            /* LASTBRANCH_TOS */
    { 0xc0010015, 0, true },        /* HWCR */
    { 0xc001001f, 0, true },        /* NB_CFG */
    { 0x606, 0, false },            /* RAPL_POWER_UNIT */
};

static uint64_t *plain_at(SoftMsrs *m, const Plain *p)
{
    return (uint64_t *)(void *)((uint8_t *)m + p->offset);
}

static bool memory_type_ok(uint64_t v)
{
    return v <= 1 || (v >= 4 && v <= 6);
}

/* Eight memory types; PAT also knows UC- (7). */
static bool types_ok(uint64_t v, bool pat)
{
    for (unsigned i = 0; i < 8; i++, v >>= 8) {
        if (!memory_type_ok(v & 0xff) && !(pat && (v & 0xff) == 7)) {
            return false;
        }
    }
    return true;
}

/* Storage of the registers that come in numbers; NULL: none of them. */
static uint64_t *numbered(SoftCpu *c, uint32_t index)
{
    SoftMsrs *m = &c->msr;

    if (index >= 0x200 && index < 0x200 + SOFT_MTRR_VAR * 2) {
        return &m->mtrr_var[index - 0x200];
    }
    if (index >= 0x400 && index < 0x400 + SOFT_MC_BANKS * 4) {
        return &m->mc[index - 0x400];
    }
    for (unsigned i = 0; i < 11; i++) {
        if (fixed_mtrrs[i] == index) {
            return &m->mtrr_fixed[i];
        }
    }
    return NULL;
}

/* Those that are part of the segments and of EFER are here even so. */
static bool is_hosted(const SoftCpu *c, uint32_t index)
{
    return c->host_msrs && (index < 0xc0000100 || index > 0xc0000101) && index != 0xc0000080;
}

static bool is_apic(uint32_t index)
{
    return index == 0x1b || index == 0x6e0 || (index >= 0x800 && index <= 0x8ff);
}

/* ---- time stamp counter ------------------------------------------------------------------ */

/* Ticks of a time in ns. A guest that comes from another accelerator keeps its rate. */
static uint64_t ticks(const SoftCpu *c, uint64_t ns)
{
    return c->tsc_khz == SOFT_TSC_KHZ
               ? ns
               : (uint64_t)((unsigned __int128)ns * c->tsc_khz / SOFT_TSC_KHZ);
}

/* Of the machine's virtual clock, of instructions without a machine. */
uint64_t soft_tsc(SoftCpu *c)
{
    uint64_t now;

    if (c->host_msrs) {
        return __rdtsc() + c->tsc_offset;
    }

    if (c->accel && c->accel->icount) {
        soft_icount_publish(c);
    }
    now = c->vcpu ? (uint64_t)event_hub_now(c->vcpu->events) : c->icount;
    return ticks(c, now) + c->tsc_offset;
}

/* A guest that measures time by its TSC does not see more of it than its devices' timers have
 * shown: where the main loop is late, a busy host's fault, it gets the processor first, and its
 * interrupts come before the instruction behind this one. A timer that does not come all the same
 * is not waited for twice. */
void soft_wait_for_timers(SoftCpu *c)
{
    const struct timespec nap = { .tv_nsec = LATE_NAP_NS };
    Clock *clock = c->vcpu && c->accel ? c->accel->parent.config.clock : NULL;
    int64_t late;
    unsigned n = 0;

    if (!clock || !c->in_rcu || c->host_msrs) {
        return;
    }
    late = clock_late(clock, clock_now(clock), LATE_NS);
    if (late < 0 || late == c->late) {
        return;
    }
    soft_rcu_leave(c);
    while (n < LATE_NAPS && late >= 0 && !__atomic_load_n(&c->attention, __ATOMIC_SEQ_CST)) {
        nanosleep(&nap, NULL);
        n++;
        late = clock_late(clock, clock_now(clock), LATE_NS);
    }
    c->late = n == LATE_NAPS ? late : -1;
    soft_rcu_enter(c);
    if (__atomic_load_n(&c->attention, __ATOMIC_RELAXED)) {
        soft_cut_block(c);
    }
}

bool soft_random(SoftCpu *c, uint64_t *v)
{
    if (c->accel && c->accel->icount) {
        *v = soft_icount_random(c->accel->icount);
        return true;
    }
    return getrandom(v, sizeof(*v), GRND_NONBLOCK) == sizeof(*v);
}

void soft_spin_wait(SoftCpu *c)
{
    if (c->accel && c->accel->icount) {
        soft_icount_yield(c);
    }
}

static void set_tsc_offset(SoftCpu *c, uint64_t offset)
{
    c->tsc_offset = offset;
    if (c->vcpu && c->vcpu->apic_ops && c->vcpu->apic_ops->set_tsc) {
        bool held = engine_lock_held(), was_in = c->in_rcu;

        if (was_in) {
            soft_rcu_leave(c);
        }
        if (!held) {
            engine_lock();
        }
        c->vcpu->apic_ops->set_tsc(c->vcpu->apic, c->tsc_khz, c->tsc_offset);
        if (!held) {
            engine_unlock();
        }
        if (was_in) {
            soft_rcu_enter(c);
        }
    }
}

static void set_tsc(SoftCpu *c, uint64_t v)
{
    set_tsc_offset(c, c->tsc_offset + v - soft_tsc(c));
}

/* Of the state: unchanged it goes on as it did; a new value was written while time stood still, in
 * all vCPUs at once, though they take it one after the other. */
static void load_tsc(SoftCpu *c, uint64_t v, uint32_t khz)
{
    uint64_t now;

    khz = khz ? khz : SOFT_TSC_KHZ;
    if (c->tsc_shown_valid && v == c->tsc_shown && khz == c->tsc_khz) {
        return;
    }
    c->tsc_khz = khz;
    now = soft_tsc(c);
    if (c->vcpu && c->tsc_since) {
        now = ticks(c, c->tsc_since) + c->tsc_offset;
    }
    set_tsc_offset(c, c->tsc_offset + v - now);
}

/* ---- reading ----------------------------------------------------------------------------- */

static bool unknown(const SoftCpu *c, uint32_t index, const char *what, uint64_t v)
{
    log_mask(LOG_UNIMP, "cpu %d: %s of unknown MSR %#x (%#llx): #GP", c->vcpu ? c->vcpu->index : 0,
             what, index, (unsigned long long)v);
    return false;
}

bool soft_rdmsr(SoftCpu *c, uint32_t index, uint64_t *v)
{
    uint64_t *at;

    if (is_hosted(c, index)) {
        return c->host_msrs->read(c->host_opaque, index, v);
    }
    if (is_apic(index) && c->apic) {
        return c->apic->msr(c->apic_opaque, index, false, v);
    }
    switch (index) {
    case 0x10:
        *v = soft_tsc(c);
        return true;
    case 0x1b:
        *v = c->apic_base;
        return true;
    case 0xe7: /* MPERF, APERF: the same clock */
    case 0xe8:
        *v = soft_tsc(c);
        return true;
    case 0xc0000080:
        *v = c->efer;
        return true;
    case 0xc0000100:
        *v = c->seg[X86_FS].base;
        return true;
    case 0xc0000101:
        *v = c->seg[X86_GS].base;
        return true;
    default:
        break;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(plain); i++) {
        if (plain[i].index == index) {
            *v = *plain_at(&c->msr, &plain[i]);
            return true;
        }
    }
    at = numbered(c, index);
    if (at) {
        *v = *at;
        return true;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(constants); i++) {
        if (constants[i].index == index) {
            *v = constants[i].value;
            return true;
        }
    }
    return unknown(c, index, "read", 0);
}

/* ---- writing ----------------------------------------------------------------------------- */

bool soft_set_efer(SoftCpu *c, uint64_t v)
{
    const uint64_t known = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;

    if (v & ~known || ((c->cr0 & CR0_PG) && ((v ^ c->efer) & EFER_LME))) {
        return false;
    }
    v = (v & ~EFER_LMA) | (c->efer & EFER_LMA);
    if ((v ^ c->efer) & EFER_NXE) {
        soft_tlb_flush(c, true);
    }
    c->efer = v;
    soft_mode_changed(c);
    return true;
}

static bool write_numbered(SoftCpu *c, uint32_t index, uint64_t *at, uint64_t v)
{
    uint64_t high = ~((UINT64_C(1) << c->phys_bits) - 1);

    if (index >= 0x400) { /* status and address of a bank: only cleared, or all ones to CTL */
        if ((index & 3) && v) {
            return false;
        }
    } else if (index < 0x250) {
        if ((index & 1 ? v & (high | 0x7ff) : v & (high | 0xf00) || !memory_type_ok(v & 0xff))) {
            return false;
        }
    } else if (!types_ok(v, false)) {
        return false;
    }
    *at = v;
    return true;
}

static bool write_plain(SoftCpu *c, const Plain *p, uint64_t v)
{
    uint64_t *at = plain_at(&c->msr, p);

    if ((v ^ *at) & ~p->writable || (p->canonical && !soft_canonical(v)) ||
        (p->index == 0x277 && !types_ok(v, true)) ||
        (p->index == 0x2ff && !memory_type_ok(v & 0xff))) {
        return false;
    }
    if (p->index == 0x3b) {
        set_tsc(c, soft_tsc(c) + (v - *at));
    }
    *at = v;
    return true;
}

static bool write_apic_base(SoftCpu *c, uint64_t v)
{
    uint64_t high = ~((UINT64_C(1) << c->phys_bits) - 1);

    if (v & (high | 0x6ff)) { /* no x2APIC without an APIC that answers for itself */
        return false;
    }
    c->apic_base = v;
    return true;
}

bool soft_wrmsr(SoftCpu *c, uint32_t index, uint64_t v)
{
    uint64_t *at;

    if (is_hosted(c, index)) {
        return c->host_msrs->write(c->host_opaque, index, v);
    }
    if (is_apic(index) && c->apic) {
        uint64_t now;

        if (!c->apic->msr(c->apic_opaque, index, true, &v)) {
            return false;
        }
        if (index == 0x1b && c->apic->msr(c->apic_opaque, index, false, &now)) {
            c->apic_base = now;
        }
        return true;
    }
    switch (index) {
    case 0x10: {
        uint64_t before = soft_tsc(c);

        set_tsc(c, v);
        c->msr.tsc_adjust += v - before;
        return true;
    }
    case 0x1b:
        return write_apic_base(c, v);
    case 0x79: /* microcode update: there is none to take */
    case 0xe7:
    case 0xe8:
        return true;
    case 0xc0000080:
        return soft_set_efer(c, v);
    case 0xc0000100:
    case 0xc0000101:
        if (!soft_canonical(v)) {
            return false;
        }
        c->seg[index == 0xc0000100 ? X86_FS : X86_GS].base = v;
        return true;
    default:
        break;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(plain); i++) {
        if (plain[i].index == index) {
            return write_plain(c, &plain[i], v);
        }
    }
    at = numbered(c, index);
    if (at) {
        return write_numbered(c, index, at, v);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(constants); i++) {
        if (constants[i].index == index) {
            return constants[i].ignore_writes || v == constants[i].value;
        }
    }
    return unknown(c, index, "write", v);
}

/* ---- the state's list -------------------------------------------------------------------- */

void soft_msrs_reset(SoftCpu *c)
{
    memset(&c->msr, 0, sizeof(c->msr));
    c->msr.pat = PAT_RESET;
    c->msr.misc_enable = MISC_ENABLE;
    c->msr.feature_control = 1; /* locked: no VMX, no SMX */
}

void soft_msrs_load(SoftCpu *c, const X86CPUState *s)
{
    for (unsigned n = 0; n < MIN(s->n_msrs, X86_MSR_MAX); n++) {
        uint32_t index = s->msrs[n].index;
        uint64_t *at = numbered(c, index);

        for (unsigned i = 0; !at && i < G_N_ELEMENTS(plain); i++) {
            at = plain[i].index == index ? plain_at(&c->msr, &plain[i]) : NULL;
        }
        if (at) {
            *at = s->msrs[n].value;
        }
    }
    load_tsc(c, s->tsc, s->tsc_khz);
}

void soft_msrs_store(const SoftCpu *c, X86CPUState *s)
{
    SoftCpu *w = (SoftCpu *)(uintptr_t)c;

    for (unsigned i = 0; i < G_N_ELEMENTS(plain); i++) {
        x86_msr_set(s, plain[i].index, *plain_at(&w->msr, &plain[i]));
    }
    for (unsigned i = 0; i < SOFT_MTRR_VAR * 2; i++) {
        x86_msr_set(s, 0x200 + i, c->msr.mtrr_var[i]);
    }
    for (unsigned i = 0; i < 11; i++) {
        x86_msr_set(s, fixed_mtrrs[i], c->msr.mtrr_fixed[i]);
    }
    for (unsigned i = 0; i < SOFT_MC_BANKS * 4; i++) {
        x86_msr_set(s, 0x400 + i, c->msr.mc[i]);
    }
    s->tsc = w->tsc_shown = soft_tsc(w);
    s->tsc_khz = c->tsc_khz;
    w->tsc_shown_valid = true;
}
