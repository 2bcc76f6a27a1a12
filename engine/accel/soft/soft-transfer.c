/*
 * Far transfers: JMP, CALL, RET, IRET, call gates, SYSCALL/SYSRET, SYSENTER/SYSEXIT.
 *
 * Each function checks everything, then pushes, then changes registers; it sets rip: the handler
 * that called it ends its block.
 */
#include "engine/accel/soft/soft-sys.h"

static uint64_t by_size(uint64_t v, unsigned size)
{
    return size >= 3 ? v : size == 2 ? (uint32_t)v : (uint16_t)v;
}

/* Real and virtual-8086 mode: only base and selector change. */
static void enter_real(SoftCpu *c, uint16_t selector, uint64_t rip)
{
    X86Segment *cs = &c->seg[X86_CS];

    if (rip > cs->limit) {
        soft_gp(c);
    }
    cs->selector = selector;
    cs->base = (uint64_t)selector << 4;
    c->rip = rip;
    soft_mode_changed(c);
}

/* A code segment as the target of JMP or CALL, without a gate. */
static void check_direct(SoftCpu *c, uint16_t selector, uint64_t d)
{
    if (desc_type(d) & SEG_CONFORMING) {
        if (desc_dpl(d) > c->cpl) {
            soft_fault(c, EXC_GP, selector);
        }
    } else if ((selector & 3) > c->cpl || desc_dpl(d) != c->cpl) {
        soft_fault(c, EXC_GP, selector);
    }
    if (soft_lma(c) && desc_l(d) && desc_db(d)) {
        soft_fault(c, EXC_GP, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
}

/* As it will be in CS: accessed, with the CPL. */
static void code_segment(uint16_t selector, uint64_t d, unsigned cpl, X86Segment *cs)
{
    soft_segment_from_descriptor(cs, (uint16_t)((selector & ~3) | cpl), d | UINT64_C(1) << 40, 0);
}
static void take_code(SoftCpu *c, uint16_t selector, uint64_t d, unsigned cpl, X86Segment *cs)
{
    soft_mark_accessed(c, selector, d);
    code_segment(selector, d, cpl, cs);
}

/* The code segment and entry that a call gate names. */
typedef struct Gate {
    uint16_t selector;
    uint64_t offset, d; /* d: of the code segment */
    unsigned size;      /* log2 bytes of what is pushed */
    unsigned params;
} Gate;

static void read_gate(SoftCpu *c, uint16_t selector, uint64_t gate, Gate *g)
{
    uint64_t high = 0;

    if (desc_dpl(gate) < c->cpl || desc_dpl(gate) < (selector & 3u)) {
        soft_fault(c, EXC_GP, selector);
    }
    if (soft_lma(c)) {
        soft_descriptor(c, selector, EXC_GP, &high);
        if (high >> 40 & 31) {
            soft_fault(c, EXC_GP, selector);
        }
    }
    if (!desc_present(gate)) {
        soft_fault(c, EXC_NP, selector);
    }
    g->selector = gate_selector(gate);
    g->size = soft_lma(c) ? 3 : desc_type(gate) == SYS_CALL ? 2 : 1;
    g->offset = gate_offset(gate) | (soft_lma(c) ? high << 32 : 0);
    g->offset = by_size(g->offset, g->size);
    g->params = gate >> 32 & 31;
    if (soft_null(g->selector)) {
        soft_gp(c);
    }
    g->d = soft_descriptor(c, g->selector, EXC_GP, NULL);
    if (!desc_is_code(g->d) || desc_dpl(g->d) > c->cpl ||
        (soft_lma(c) && (!desc_l(g->d) || desc_db(g->d)))) {
        soft_fault(c, EXC_GP, g->selector);
    }
    if (!desc_present(g->d)) {
        soft_fault(c, EXC_NP, g->selector);
    }
}

/* Task gate or TSS: the rights, then the switch. */
static void transfer_task(SoftCpu *c, uint16_t selector, uint64_t d, unsigned source,
                          uint64_t next_rip)
{
    if (desc_dpl(d) < c->cpl || desc_dpl(d) < (selector & 3u)) {
        soft_fault(c, EXC_GP, selector);
    }
    if (desc_type(d) == SYS_TASK_GATE) {
        if (!desc_present(d)) {
            soft_fault(c, EXC_NP, selector);
        }
        selector = gate_selector(d);
    }
    soft_task_switch(c, selector, source, next_rip, false, 0);
}

static bool is_call_gate(const SoftCpu *c, unsigned type)
{
    return type == SYS_CALL || (type == SYS_CALL16 && !soft_lma(c));
}
static bool is_task(const SoftCpu *c, unsigned type)
{
    return !soft_lma(c) && (type == SYS_TASK_GATE || type == SYS_TSS || type == SYS_TSS16);
}

void soft_far_jump(SoftCpu *c, uint16_t selector, uint64_t offset, unsigned op_size,
                   uint64_t next_rip)
{
    X86Segment cs;
    uint64_t d;

    offset = by_size(offset, op_size);
    if (!soft_segmented(c)) {
        enter_real(c, selector, offset);
        return;
    }
    if (soft_null(selector)) {
        soft_gp(c);
    }
    d = soft_descriptor(c, selector, EXC_GP, NULL);
    if (desc_is_code(d)) {
        check_direct(c, selector, d);
    } else if (!desc_s(d) && is_call_gate(c, desc_type(d))) {
        Gate g;

        read_gate(c, selector, d, &g);
        if (!(desc_type(g.d) & SEG_CONFORMING) && desc_dpl(g.d) != c->cpl) {
            soft_fault(c, EXC_GP, g.selector);
        }
        selector = g.selector;
        offset = g.offset;
        d = g.d;
    } else if (!desc_s(d) && is_task(c, desc_type(d))) {
        transfer_task(c, selector, d, TASK_FROM_JUMP, next_rip);
        return;
    } else {
        soft_fault(c, EXC_GP, selector);
    }
    soft_segment_from_descriptor(&cs, selector, d, 0);
    soft_check_target(c, &cs, offset, 0);
    take_code(c, selector, d, c->cpl, &cs);
    soft_enter_code(c, &cs, offset, c->cpl);
}

/* A call gate to a more privileged level: another stack, parameters copied. */
static void call_inner(SoftCpu *c, const Gate *g, uint64_t next_rip)
{
    unsigned cpl = desc_dpl(g->d);
    SoftStack from, to;
    X86Segment cs, ss;
    uint16_t old_cs = c->seg[X86_CS].selector, old_ss = c->seg[X86_SS].selector;
    uint64_t params[32], old_sp = c->gpr[X86_RSP];

    soft_stack_present(c, &from);
    if (soft_lma(c)) {
        soft_null_stack(&ss, cpl);
        soft_stack_init(c, &to, &ss, soft_tss_rsp(c, 4 + cpl * 8), cpl, true, 0);
    } else {
        uint16_t selector;
        uint64_t esp;

        soft_tss_stack(c, cpl, &selector, &esp);
        soft_check_stack_segment(c, selector, cpl, EXC_TS, &ss);
        soft_stack_init(c, &to, &ss, esp, cpl, false, selector & 0xfffc);
        for (unsigned i = 0; i < g->params; i++) {
            params[i] = soft_pop(c, &from, g->size);
        }
    }
    soft_segment_from_descriptor(&cs, g->selector, g->d, 0);
    soft_check_target(c, &cs, g->offset, 0);
    soft_push(c, &to, old_ss, g->size);
    soft_push(c, &to, by_size(old_sp, g->size), g->size);
    if (!soft_lma(c)) {
        for (unsigned i = g->params; i-- > 0;) {
            soft_push(c, &to, params[i], g->size);
        }
    }
    soft_push(c, &to, old_cs, g->size);
    soft_push(c, &to, by_size(next_rip, g->size), g->size);
    take_code(c, g->selector, g->d, cpl, &cs);
    c->seg[X86_SS] = ss;
    soft_set_sp(c, &to);
    soft_enter_code(c, &cs, g->offset, cpl);
}

void soft_far_call(SoftCpu *c, uint16_t selector, uint64_t offset, unsigned op_size,
                   uint64_t next_rip)
{
    X86Segment cs;
    SoftStack s;
    uint64_t d;
    uint16_t old_cs = c->seg[X86_CS].selector;

    offset = by_size(offset, op_size);
    soft_stack_present(c, &s);
    if (!soft_segmented(c)) {
        if (offset > c->seg[X86_CS].limit) {
            soft_gp(c);
        }
        soft_push(c, &s, old_cs, op_size);
        soft_push(c, &s, by_size(next_rip, op_size), op_size);
        soft_set_sp(c, &s);
        enter_real(c, selector, offset);
        return;
    }
    if (soft_null(selector)) {
        soft_gp(c);
    }
    d = soft_descriptor(c, selector, EXC_GP, NULL);
    if (desc_is_code(d)) {
        check_direct(c, selector, d);
    } else if (!desc_s(d) && is_call_gate(c, desc_type(d))) {
        Gate g;

        read_gate(c, selector, d, &g);
        if (!(desc_type(g.d) & SEG_CONFORMING) && desc_dpl(g.d) < c->cpl) {
            call_inner(c, &g, next_rip);
            return;
        }
        selector = g.selector;
        offset = g.offset;
        op_size = g.size;
        d = g.d;
    } else if (!desc_s(d) && is_task(c, desc_type(d))) {
        transfer_task(c, selector, d, TASK_FROM_CALL, next_rip);
        return;
    } else {
        soft_fault(c, EXC_GP, selector);
    }
    soft_segment_from_descriptor(&cs, selector, d, 0);
    soft_check_target(c, &cs, offset, 0);
    /* From compatibility mode into 64-bit code through a gate the stack is 64 bits wide already. */
    if (op_size == 3 && !c->mode.long_mode) {
        soft_stack_init(c, &s, &c->seg[X86_SS], c->gpr[X86_RSP], c->cpl, true, 0);
    }
    soft_push(c, &s, old_cs, op_size);
    soft_push(c, &s, by_size(next_rip, op_size), op_size);
    take_code(c, selector, d, c->cpl, &cs);
    soft_set_sp(c, &s);
    soft_enter_code(c, &cs, offset, c->cpl);
}

/* ---- returns ----------------------------------------------------------------------------- */

/* The code segment that RET or IRET goes back to; answers its descriptor. */
static uint64_t check_return_code(SoftCpu *c, uint16_t selector)
{
    uint64_t d;
    unsigned rpl = selector & 3;

    if (soft_null(selector)) {
        soft_gp(c);
    }
    d = soft_descriptor(c, selector, EXC_GP, NULL);
    if (!desc_is_code(d) || rpl < c->cpl || (soft_lma(c) && desc_l(d) && desc_db(d)) ||
        ((desc_type(d) & SEG_CONFORMING) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl)) {
        soft_fault(c, EXC_GP, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
    return d;
}

/* SS of a return to `cpl`; a null one is good for 64-bit code below CPL 3. */
static void check_return_stack(SoftCpu *c, uint16_t selector, unsigned cpl, bool to64,
                               X86Segment *ss)
{
    if (soft_null(selector) && to64 && cpl != 3 && (selector & 3u) == cpl) {
        soft_null_stack(ss, cpl);
        return;
    }
    soft_check_stack_segment(c, selector, cpl, EXC_GP, ss);
}

/* Puts CS:rip SS:sp in place after a return to the same or an outer level. */
static void finish_return(SoftCpu *c, uint16_t selector, uint64_t d, uint64_t rip, bool new_stack,
                          uint16_t ss_selector, uint64_t sp, unsigned pop_bytes)
{
    unsigned old = c->cpl, cpl = selector & 3;
    X86Segment cs, ss = c->seg[X86_SS];
    bool to64 = soft_lma(c) && desc_l(d);
    SoftStack out;

    if (new_stack) {
        check_return_stack(c, ss_selector, cpl, to64, &ss);
    }
    code_segment(selector, d, cpl, &cs);
    soft_check_target(c, &cs, rip, 0);
    soft_mark_accessed(c, selector, d);
    soft_stack_init(c, &out, &ss, sp, cpl, to64, 0);
    out.sp = ((sp + pop_bytes) & out.mask) | (sp & ~out.mask);
    c->seg[X86_SS] = ss;
    soft_set_sp(c, &out);
    soft_enter_code_again(c, &cs, rip, cpl);
    if (cpl > old) {
        soft_drop_data_segments(c);
    }
}

void soft_far_return(SoftCpu *c, unsigned op_size, unsigned pop_bytes)
{
    SoftStack s;
    uint64_t rip, d, sp;
    uint16_t selector, ss = 0;
    bool outer;

    soft_stack_present(c, &s);
    rip = soft_pop(c, &s, op_size);
    selector = (uint16_t)soft_pop(c, &s, op_size);
    if (!soft_segmented(c)) {
        uint64_t before = c->gpr[X86_RSP];

        s.sp = ((s.sp + pop_bytes) & s.mask) | (before & ~s.mask);
        if (rip > c->seg[X86_CS].limit) {
            soft_gp(c);
        }
        soft_set_sp(c, &s);
        enter_real(c, selector, rip);
        return;
    }
    d = check_return_code(c, selector);
    outer = (selector & 3) > c->cpl;
    s.sp = ((s.sp + pop_bytes) & s.mask) | (s.sp & ~s.mask);
    sp = s.sp;
    if (outer) {
        sp = soft_pop(c, &s, op_size);
        ss = (uint16_t)soft_pop(c, &s, op_size);
    }
    finish_return(c, selector, d, rip, outer, ss, sp, outer ? pop_bytes : 0);
}

/* Flags that IRET of the present level changes. */
static uint64_t iret_mask(const SoftCpu *c, unsigned op_size)
{
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT;

    if (op_size >= 2) {
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    }
    if (c->cpl == 0 && !soft_v86(c)) {
        mask |= FLAG_IOPL;
        if (op_size >= 2) {
            mask |= FLAG_VIF | FLAG_VIP;
        }
    }
    if (soft_v86(c) || c->cpl <= soft_iopl(c)) {
        mask |= FLAG_IF;
    }
    return mask;
}

static void iret_real(SoftCpu *c, unsigned op_size)
{
    SoftStack s;
    uint64_t rip, flags;
    uint16_t selector;

    if (soft_v86(c) && soft_iopl(c) < 3) {
        soft_gp(c);
    }
    soft_stack_present(c, &s);
    rip = soft_pop(c, &s, op_size);
    selector = (uint16_t)soft_pop(c, &s, op_size);
    flags = soft_pop(c, &s, op_size);
    if (rip > c->seg[X86_CS].limit) {
        soft_gp(c);
    }
    soft_set_sp(c, &s);
    soft_set_rflags(c, flags, iret_mask(c, op_size));
    enter_real(c, selector, rip);
}

static void iret_to_v86(SoftCpu *c, SoftStack *s, uint64_t rip, uint16_t cs, uint64_t flags)
{
    uint64_t esp = soft_pop(c, s, 2);
    static const uint8_t order[] = { X86_SS, X86_ES, X86_DS, X86_FS, X86_GS };
    uint16_t selectors[5];

    for (unsigned i = 0; i < 5; i++) {
        selectors[i] = (uint16_t)soft_pop(c, s, 2);
    }
    /* SDM: the instruction pointer must be within the segment, else #GP(0). */
    if ((uint32_t)rip > 0xffff) {
        soft_gp(c);
    }
    soft_set_rflags(c, flags,
                    FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID |
                        FLAG_IOPL | FLAG_VIF | FLAG_VIP | FLAG_IF | FLAG_VM);
    for (unsigned i = 0; i < 5; i++) {
        soft_segment_v86(&c->seg[order[i]], selectors[i]);
    }
    soft_segment_v86(&c->seg[X86_CS], cs);
    c->gpr[X86_RSP] = (uint32_t)esp;
    c->rip = (uint32_t)rip;
    c->cpl = 3;
    soft_mode_changed(c);
}

void soft_iret(SoftCpu *c, unsigned op_size)
{
    SoftStack s;
    uint64_t rip, flags, d, sp, mask, frame[3];
    uint16_t selector, ss = 0;
    bool new_stack;

    c->nmi_masked = false; /* also by one that faults */
    if (!soft_segmented(c)) {
        iret_real(c, op_size);
        return;
    }
    if (c->flags & FLAG_NT) {
        uint16_t back;

        if (soft_lma(c)) {
            soft_gp(c);
        }
        back = (uint16_t)soft_load_system(c, c->seg[X86_TR].base, 2);
        soft_task_switch(c, back, TASK_FROM_IRET, soft_next_rip(c, c->insn), false, 0);
        return;
    }
    soft_stack_present(c, &s);
    soft_pop_all(c, &s, frame, 3, op_size);
    rip = frame[0];
    selector = (uint16_t)frame[1];
    flags = frame[2];
    if (!soft_lma(c) && op_size == 2 && (flags & FLAG_VM) && c->cpl == 0) {
        iret_to_v86(c, &s, rip, selector, flags);
        return;
    }
    d = check_return_code(c, selector);
    new_stack = (selector & 3) > c->cpl || c->mode.long_mode;
    sp = s.sp;
    if (new_stack) {
        sp = soft_pop(c, &s, op_size);
        ss = (uint16_t)soft_pop(c, &s, op_size);
    }
    mask = iret_mask(c, op_size);
    finish_return(c, selector, d, rip, new_stack, ss, sp, 0);
    soft_set_rflags(c, flags, mask);
    soft_tlb_select(c); /* AC may have changed */
}

/* The bits of RFLAGS that exist. */
#define RFLAGS_WRITABLE UINT64_C(0x3f7fd5)

/* ---- fast system calls ------------------------------------------------------------------- */

static void flat_code(X86Segment *s, uint16_t selector, unsigned dpl, bool l)
{
    x86_segment_set_flat(s, selector, true, l, (uint8_t)dpl);
}
static void flat_stack(X86Segment *s, uint16_t selector, unsigned dpl)
{
    x86_segment_set_flat(s, selector, false, false, (uint8_t)dpl);
}

void soft_syscall(SoftCpu *c, uint64_t next_rip)
{
    uint16_t selector = (uint16_t)(c->msr.star >> 32 & 0xfffc);
    X86Segment cs;
    uint64_t rflags;

    /* Intel's: 64-bit mode only. */
    if (!(c->efer & EFER_SCE) || !c->mode.long_mode) {
        soft_raise(c, EXC_UD);
    }
    rflags = soft_rflags(c) & ~(uint64_t)FLAG_RF;
    c->gpr[X86_RCX] = next_rip;
    c->gpr[X86_R11] = rflags;
    soft_set_rflags(c, 0, c->msr.sfmask | FLAG_RF);
    flat_code(&cs, selector, 0, true);
    flat_stack(&c->seg[X86_SS], (uint16_t)(selector + 8), 0);
    soft_enter_code(c, &cs, c->msr.lstar, 0);
}

void soft_sysret(SoftCpu *c, unsigned op_size)
{
    uint16_t star = (uint16_t)(c->msr.star >> 48);
    X86Segment cs;
    uint64_t target = c->gpr[X86_RCX];

    if (!(c->efer & EFER_SCE) || !c->mode.long_mode) {
        soft_raise(c, EXC_UD);
    }
    if (c->cpl != 0) {
        soft_gp(c);
    }
    if (op_size == 3) {
        if (!soft_canonical(target)) {
            soft_gp(c);
        }
        flat_code(&cs, (uint16_t)((star + 16) | 3), 3, true);
    } else {
        target = (uint32_t)target;
        flat_code(&cs, star | 3, 3, false);
    }
    soft_set_rflags(c, c->gpr[X86_R11] & ~(uint64_t)(FLAG_RF | FLAG_VM), RFLAGS_WRITABLE);
    flat_stack(&c->seg[X86_SS], (uint16_t)((star + 8) | 3), 3);
    soft_enter_code(c, &cs, target, 3);
}

void soft_sysenter(SoftCpu *c)
{
    uint16_t selector = (uint16_t)(c->msr.sysenter_cs & 0xfffc);
    X86Segment cs;

    if (!soft_protected(c) || !selector) {
        soft_gp(c);
    }
    soft_set_rflags(c, 0, FLAG_IF | FLAG_RF | FLAG_VM);
    flat_code(&cs, selector, 0, soft_lma(c));
    flat_stack(&c->seg[X86_SS], (uint16_t)(selector + 8), 0);
    c->gpr[X86_RSP] = soft_lma(c) ? c->msr.sysenter_esp : (uint32_t)c->msr.sysenter_esp;
    soft_enter_code(c, &cs, soft_lma(c) ? c->msr.sysenter_eip : (uint32_t)c->msr.sysenter_eip, 0);
}

void soft_sysexit(SoftCpu *c, unsigned op_size)
{
    uint16_t base = (uint16_t)(c->msr.sysenter_cs & 0xfffc);
    bool to64 = op_size == 3;
    uint64_t rip = c->gpr[X86_RDX], rsp = c->gpr[X86_RCX];
    X86Segment cs;

    if (!soft_segmented(c) || c->cpl != 0 || !base ||
        (to64 && (!soft_canonical(rip) || !soft_canonical(rsp)))) {
        soft_gp(c);
    }
    flat_code(&cs, (uint16_t)((base + (to64 ? 32 : 16)) | 3), 3, to64);
    flat_stack(&c->seg[X86_SS], (uint16_t)((base + (to64 ? 40 : 24)) | 3), 3);
    c->gpr[X86_RSP] = to64 ? rsp : (uint32_t)rsp;
    soft_enter_code(c, &cs, to64 ? rip : (uint32_t)rip, 3);
}
