/*
 * The architectural state: its value after RESET, segments, MSR slots, saved form.
 *
 * Intel SDM volume 3A, table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or
 * INIT" (chapter "Processor Management and Initialization"); LAPIC registers: chapter "Advanced
 * Programmable Interrupt Controller", "Local APIC State After Power-Up or Reset".
 */
#include "engine/cpu/x86-state.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/state/stream.h"

/* Legacy region of the XSAVE area (FXSAVE format) and its header. */
enum {
    XSAVE_FCW = 0,
    XSAVE_FTW = 4,
    XSAVE_MXCSR = 24,
    XSAVE_HEADER = 512,
    XSAVE_MIN = 576,
};
#define XSTATE_FP  (UINT64_C(1) << 0)
#define XSTATE_SSE (UINT64_C(1) << 1)

enum { /* descriptor types with S = 1, and two system ones */
       SEG_TYPE_DATA_RW_A = 3,
       SEG_TYPE_CODE_RX_A = 11,
       SEG_TYPE_LDT = 2,
       SEG_TYPE_TSS_BUSY = 11,
};

#define CR0_ET         (UINT64_C(1) << 4)
#define CR0_NW         (UINT64_C(1) << 29)
#define CR0_CD         (UINT64_C(1) << 30)
#define RFLAGS_FIXED   UINT64_C(2)
#define DR6_RESET      UINT64_C(0xffff0ff0)
#define DR7_RESET      UINT64_C(0x400)
#define APIC_BASE_ADDR UINT64_C(0xfee00000)
#define APIC_BASE_BSP  (UINT64_C(1) << 8)
#define APIC_BASE_EN   (UINT64_C(1) << 11)
#define MXCSR_RESET    0x1f80u

static void put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put_u32(uint8_t *p, uint32_t v)
{
    put_u16(p, (uint16_t)v);
    put_u16(p + 2, (uint16_t)(v >> 16));
}

void x86_segment_set_real(X86Segment *seg, uint16_t selector, bool code)
{
    *seg = (X86Segment){
        .base = (uint64_t)selector << 4,
        .limit = 0xffff,
        .selector = selector,
        .type = code ? SEG_TYPE_CODE_RX_A : SEG_TYPE_DATA_RW_A,
        .present = true,
        .s = true,
    };
}

void x86_segment_set_flat(X86Segment *seg, uint16_t selector, bool code, bool l, uint8_t dpl)
{
    *seg = (X86Segment){
        .limit = UINT32_MAX,
        .selector = selector,
        .type = code ? SEG_TYPE_CODE_RX_A : SEG_TYPE_DATA_RW_A,
        .dpl = dpl & 3,
        .present = true,
        .s = true,
        .db = !l,
        .l = l && code,
        .g = true,
    };
    if (!code) {
        seg->db = true;
    }
}

static void reset_fpu(X86CPUState *s)
{
    if (s->xsave_size < XSAVE_MIN || s->xsave_size > X86_XSAVE_MAX) {
        s->xsave_size = XSAVE_MIN;
    }
    memset(s->xsave, 0, sizeof(s->xsave));
    put_u16(s->xsave + XSAVE_FCW, 0x0040);
    s->xsave[XSAVE_FTW] = 0xff; /* abridged form of 5555h: all hold +0.0 */
    put_u32(s->xsave + XSAVE_MXCSR, MXCSR_RESET);
    /* A component whose bit is clear would be loaded in its FINIT form, which is not this one. */
    s->xsave[XSAVE_HEADER] = XSTATE_FP | XSTATE_SSE;
    s->xcr0 = XSTATE_FP;
}

/* LINT0 of the boot processor passes the PIC's interrupts on, as firmware leaves it (virtual wire
 * mode) and not masked as after RESET: a guest without firmware could take no timer interrupt. */
static void reset_lapic(X86CPUState *s, bool is_bsp)
{
    static const struct {
        uint16_t reg;
        uint32_t value;
    } values[] = {
        { 0x0e0, UINT32_MAX }, /* DFR */
        { 0x0f0, 0xff },       /* SVR: software disabled */
        { 0x320, 0x10000 },    /* LVT timer … */
        { 0x330, 0x10000 },    { 0x340, 0x10000 }, { 0x350, 0x10000 },
        { 0x360, 0x10000 },    { 0x370, 0x10000 }, /* … error: masked */
    };
    uint8_t id[4], version[4];

    memcpy(id, s->lapic + 0x20, 4);
    memcpy(version, s->lapic + 0x30, 4);
    memset(s->lapic, 0, sizeof(s->lapic));
    memcpy(s->lapic + 0x20, id, 4);
    memcpy(s->lapic + 0x30, version, 4);
    for (unsigned i = 0; i < G_N_ELEMENTS(values); i++) {
        put_u32(s->lapic + values[i].reg, values[i].value);
    }
    if (is_bsp) {
        put_u32(s->lapic + 0x350, 0x700);
    }
}

void x86_state_reset(X86CPUState *s, bool is_bsp)
{
    memset(s->gpr, 0, sizeof(s->gpr));
    s->gpr[X86_RDX] = 0x600; /* family 6; a vCPU with a CPUID policy puts its own signature here */
    s->rip = 0xfff0;
    s->rflags = RFLAGS_FIXED;
    for (unsigned i = 0; i < X86_LDT; i++) {
        x86_segment_set_real(&s->seg[i], 0, i == X86_CS);
    }
    s->seg[X86_CS].selector = 0xf000;
    s->seg[X86_CS].base = 0xffff0000;
    s->seg[X86_LDT] = (X86Segment){ .limit = 0xffff, .type = SEG_TYPE_LDT, .present = true };
    s->seg[X86_TR] = (X86Segment){ .limit = 0xffff, .type = SEG_TYPE_TSS_BUSY, .present = true };
    s->gdt = (X86Table){ .limit = 0xffff };
    s->idt = (X86Table){ .limit = 0xffff };
    s->cr0 = CR0_ET | CR0_NW | CR0_CD;
    s->cr2 = s->cr3 = s->cr4 = s->cr8 = s->efer = 0;
    s->apic_base = APIC_BASE_ADDR | APIC_BASE_EN | (is_bsp ? APIC_BASE_BSP : 0);
    memset(s->dr, 0, sizeof(s->dr));
    s->dr6 = DR6_RESET;
    s->dr7 = DR7_RESET;
    s->tsc = 0;
    reset_fpu(s);
    reset_lapic(s, is_bsp);
    s->mp_state = is_bsp ? X86_MP_RUNNABLE : X86_MP_UNINITIALIZED;
    memset(&s->events, 0, sizeof(s->events));
}

void x86_state_init(X86CPUState *s, bool is_bsp, uint32_t signature)
{
    X86CPUState *fresh = g_aligned_alloc0(1, sizeof(X86CPUState), 64);

    x86_state_reset(fresh, is_bsp);
    fresh->gpr[X86_RDX] = signature ? signature : fresh->gpr[X86_RDX];
    fresh->cr0 = (fresh->cr0 & ~(CR0_CD | CR0_NW)) | (s->cr0 & (CR0_CD | CR0_NW));
    memcpy(s->gpr, fresh->gpr, sizeof(s->gpr));
    s->rip = fresh->rip;
    s->rflags = fresh->rflags;
    memcpy(s->seg, fresh->seg, sizeof(s->seg));
    s->gdt = fresh->gdt;
    s->idt = fresh->idt;
    s->cr0 = fresh->cr0;
    s->cr2 = s->cr3 = s->cr4 = s->cr8 = s->efer = 0;
    memcpy(s->dr, fresh->dr, sizeof(s->dr));
    s->dr6 = fresh->dr6;
    s->dr7 = fresh->dr7;
    s->events = fresh->events;
    s->mp_state = is_bsp ? X86_MP_RUNNABLE : X86_MP_INIT_RECEIVED;
    g_aligned_free(fresh);
}

void x86_state_copy(X86CPUState *to, const X86CPUState *from, unsigned groups)
{
    if (groups & X86_STATE_GPR) {
        memcpy(to->gpr, from->gpr, sizeof(to->gpr));
        to->rip = from->rip;
        to->rflags = from->rflags;
    }
    if (groups & X86_STATE_SYSTEM) {
        memcpy(to->seg, from->seg, sizeof(to->seg));
        to->gdt = from->gdt;
        to->idt = from->idt;
        to->cr0 = from->cr0;
        to->cr2 = from->cr2;
        to->cr3 = from->cr3;
        to->cr4 = from->cr4;
        to->cr8 = from->cr8;
        to->efer = from->efer;
        to->apic_base = from->apic_base;
    }
    if (groups & X86_STATE_FPU) {
        to->xcr0 = from->xcr0;
        to->xsave_size = from->xsave_size;
        memcpy(to->xsave, from->xsave, sizeof(to->xsave));
    }
    if (groups & X86_STATE_DEBUG) {
        memcpy(to->dr, from->dr, sizeof(to->dr));
        to->dr6 = from->dr6;
        to->dr7 = from->dr7;
    }
    if (groups & X86_STATE_MSRS) {
        to->tsc = from->tsc;
        to->n_msrs = from->n_msrs;
        memcpy(to->msrs, from->msrs, sizeof(to->msrs));
    }
    if (groups & X86_STATE_LAPIC) {
        to->has_lapic = from->has_lapic;
        memcpy(to->lapic, from->lapic, sizeof(to->lapic));
    }
    if (groups & X86_STATE_EVENTS) {
        to->events = from->events;
        to->mp_state = from->mp_state;
    }
}

X86Msr *x86_msr_find(X86CPUState *s, uint32_t index)
{
    unsigned lo = 0, hi = MIN(s->n_msrs, X86_MSR_MAX);

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (s->msrs[mid].index < index) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < MIN(s->n_msrs, X86_MSR_MAX) && s->msrs[lo].index == index ? &s->msrs[lo] : NULL;
}

bool x86_msr_set(X86CPUState *s, uint32_t index, uint64_t value)
{
    X86Msr *msr = x86_msr_find(s, index);
    unsigned at = 0;

    if (msr) {
        msr->value = value;
        return true;
    }
    if (s->n_msrs >= X86_MSR_MAX) {
        return false;
    }
    while (at < s->n_msrs && s->msrs[at].index < index) {
        at++;
    }
    memmove(&s->msrs[at + 1], &s->msrs[at], (s->n_msrs - at) * sizeof(s->msrs[0]));
    s->msrs[at] = (X86Msr){ index, value };
    s->n_msrs++;
    return true;
}

/* ---- saved form -------------------------------------------------------------------------- */

static const VMStateDescription vmstate_segment = {
    .name = "x86-segment",
    .version = 1,
    .minimum_version = 1,
    .fields =
        (const VMStateField[]){
            VMSTATE_UINT64(base, X86Segment),
            VMSTATE_UINT32(limit, X86Segment),
            VMSTATE_UINT16(selector, X86Segment),
            VMSTATE_UINT8(type, X86Segment),
            VMSTATE_UINT8(dpl, X86Segment),
            VMSTATE_BOOL(present, X86Segment),
            VMSTATE_BOOL(s, X86Segment),
            VMSTATE_BOOL(db, X86Segment),
            VMSTATE_BOOL(l, X86Segment),
            VMSTATE_BOOL(g, X86Segment),
            VMSTATE_BOOL(avl, X86Segment),
            VMSTATE_BOOL(unusable, X86Segment),
            VMSTATE_END(),
        },
};

static const VMStateDescription vmstate_table = {
    .name = "x86-table",
    .version = 1,
    .minimum_version = 1,
    .fields =
        (const VMStateField[]){
            VMSTATE_UINT64(base, X86Table),
            VMSTATE_UINT16(limit, X86Table),
            VMSTATE_END(),
        },
};

static const VMStateDescription vmstate_msr = {
    .name = "x86-msr",
    .version = 1,
    .minimum_version = 1,
    .fields =
        (const VMStateField[]){
            VMSTATE_UINT32(index, X86Msr),
            VMSTATE_UINT64(value, X86Msr),
            VMSTATE_END(),
        },
};

static const VMStateDescription vmstate_events = {
    .name = "x86-events",
    .version = 1,
    .minimum_version = 1,
    .fields =
        (const VMStateField[]){
            VMSTATE_BOOL(exception_injected, X86Events),
            VMSTATE_BOOL(exception_pending, X86Events),
            VMSTATE_BOOL(exception_has_error, X86Events),
            VMSTATE_UINT8(exception_nr, X86Events),
            VMSTATE_UINT32(exception_error, X86Events),
            VMSTATE_UINT64(exception_payload, X86Events),
            VMSTATE_BOOL(exception_has_payload, X86Events),
            VMSTATE_BOOL(interrupt_injected, X86Events),
            VMSTATE_BOOL(interrupt_soft, X86Events),
            VMSTATE_UINT8(interrupt_nr, X86Events),
            VMSTATE_UINT8(interrupt_shadow, X86Events),
            VMSTATE_BOOL(nmi_injected, X86Events),
            VMSTATE_BOOL(nmi_pending, X86Events),
            VMSTATE_BOOL(nmi_masked, X86Events),
            VMSTATE_UINT32(sipi_vector, X86Events),
            VMSTATE_BOOL(smm, X86Events),
            VMSTATE_BOOL(smm_pending, X86Events),
            VMSTATE_BOOL(smm_inside_nmi, X86Events),
            VMSTATE_BOOL(triple_fault, X86Events),
            VMSTATE_END(),
        },
};

/* The length travels with the bytes: most of the 8 KiB is not in use on most CPUs. */
static void put_xsave(StateWriter *w, const void *field, const VMStateField *f)
{
    const X86CPUState *s = (const void *)((const char *)field - offsetof(X86CPUState, xsave));

    state_put_u32(w, s->xsave_size);
    state_put_bytes(w, s->xsave, MIN(s->xsave_size, X86_XSAVE_MAX));
}

static bool get_xsave(StateReader *r, void *field, const VMStateField *f, GError **error)
{
    X86CPUState *s = (void *)((char *)field - offsetof(X86CPUState, xsave));
    uint32_t size = state_get_u32(r);

    if (size < XSAVE_MIN || size > X86_XSAVE_MAX) {
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "x86-cpu: an XSAVE area of %u bytes is not in %d..%d", size, XSAVE_MIN,
                         X86_XSAVE_MAX);
    }
    s->xsave_size = size;
    memset(s->xsave, 0, sizeof(s->xsave));
    if (!state_get_bytes(r, s->xsave, size)) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "x86-cpu: the XSAVE area is cut short");
    }
    return true;
}

static bool x86_post_load(void *opaque, unsigned version, GError **error)
{
    X86CPUState *s = opaque;

    if (s->n_msrs > X86_MSR_MAX) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "x86-cpu: %u MSRs, at most %d fit", s->n_msrs,
                         X86_MSR_MAX);
    }
    for (unsigned i = 1; i < s->n_msrs; i++) {
        if (s->msrs[i - 1].index >= s->msrs[i].index) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "x86-cpu: MSR %#x is out of order",
                             s->msrs[i].index);
        }
    }
    if ((uint32_t)s->mp_state > X86_MP_SIPI_RECEIVED) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "x86-cpu: %u is no activity state",
                         (unsigned)s->mp_state);
    }
    for (unsigned i = 0; i < X86_SEGS; i++) {
        if (s->seg[i].type > 15 || s->seg[i].dpl > 3) {
            return error_set(error, ENGINE_ERROR_CORRUPT,
                             "x86-cpu: segment %u has type %u and privilege %u", i, s->seg[i].type,
                             s->seg[i].dpl);
        }
    }
    return true;
}

const VMStateDescription vmstate_x86_cpu = {
    .name = "x86-state",
    .version = 2,
    .minimum_version = 2,
    .post_load = x86_post_load,
    .fields =
        (const VMStateField[]){
            VMSTATE_UINT64_ARRAY(gpr, X86CPUState),
            VMSTATE_UINT64(rip, X86CPUState),
            VMSTATE_UINT64(rflags, X86CPUState),
            VMSTATE_STRUCT_ARRAY(seg, X86CPUState, vmstate_segment),
            VMSTATE_STRUCT(gdt, X86CPUState, vmstate_table),
            VMSTATE_STRUCT(idt, X86CPUState, vmstate_table),
            VMSTATE_UINT64(cr0, X86CPUState),
            VMSTATE_UINT64(cr2, X86CPUState),
            VMSTATE_UINT64(cr3, X86CPUState),
            VMSTATE_UINT64(cr4, X86CPUState),
            VMSTATE_UINT64(cr8, X86CPUState),
            VMSTATE_UINT64(efer, X86CPUState),
            VMSTATE_UINT64(apic_base, X86CPUState),
            VMSTATE_UINT64_ARRAY(dr, X86CPUState),
            VMSTATE_UINT64(dr6, X86CPUState),
            VMSTATE_UINT64(dr7, X86CPUState),
            VMSTATE_UINT64(xcr0, X86CPUState),
            VMSTATE_UINT64(tsc, X86CPUState),
            VMSTATE_UINT32(tsc_khz, X86CPUState),
            { .name = "xsave",
              .kind = VMS_CUSTOM,
              .offset = offsetof(X86CPUState, xsave),
              .size = X86_XSAVE_MAX,
              .count_offset = -1,
              .put = put_xsave,
              .get = get_xsave },
            VMSTATE_UINT32(n_msrs, X86CPUState),
            { .name = "msrs",
              .kind = VMS_STRUCT,
              .offset = offsetof(X86CPUState, msrs),
              .size = sizeof(X86Msr),
              .count = X86_MSR_MAX,
              .count_offset = offsetof(X86CPUState, n_msrs),
              .vmsd = &vmstate_msr },
            VMSTATE_F_(mp_state, X86CPUState, VMS_U32),
            VMSTATE_STRUCT(events, X86CPUState, vmstate_events),
            VMSTATE_END(),
        },
};
G_STATIC_ASSERT(sizeof(X86MpState) == sizeof(uint32_t));
