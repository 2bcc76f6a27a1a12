/*
 * Delivery of exceptions, interrupts and INT n in every mode; double and triple faults; debug
 * registers.
 *
 * Intel SDM volume 3A, chapter "Interrupt and Exception Handling"; volume 3B, chapter "Debug".
 */
#include "engine/accel/soft/soft-log.h"
#include "engine/accel/soft/soft-sys.h"

static bool contributory(unsigned vector)
{
    return vector == EXC_DE || (vector >= EXC_TS && vector <= EXC_GP);
}

/* SDM table "Conditions for Generating a Double Fault". */
static bool makes_double_fault(unsigned first, unsigned second)
{
    return (contributory(first) && contributory(second)) ||
           (first == EXC_PF && (contributory(second) || second == EXC_PF));
}

/* Faults have RF set in the flags they push; #DB and traps have it as it is. */
static uint64_t pushed_flags(const SoftCpu *c, unsigned vector, SoftIntKind kind)
{
    uint64_t flags = soft_rflags(c);

    if (kind == SOFT_INT_EXCEPTION && vector != EXC_DB && vector != EXC_BP && vector != EXC_OF &&
        vector != EXC_DF && vector != EXC_MC) {
        flags |= FLAG_RF;
    }
    return flags;
}

static _Noreturn void idt_fault(SoftCpu *c, unsigned fault, unsigned vector)
{
    soft_raise_error(c, fault, vector << 3 | 2 | c->ext);
}

static void deliver_real(SoftCpu *c, unsigned vector, uint64_t next_rip)
{
    SoftStack s;
    uint32_t target;
    X86Segment *cs = &c->seg[X86_CS];

    if (vector * 4 + 3 > c->idt.limit) {
        idt_fault(c, EXC_GP, vector);
    }
    target = (uint32_t)soft_load_system(c, c->idt.base + vector * 4, 4);
    soft_stack_present(c, &s);
    soft_push(c, &s, soft_rflags(c) & 0xffff, 1);
    soft_push(c, &s, cs->selector, 1);
    soft_push(c, &s, next_rip & 0xffff, 1);
    soft_set_sp(c, &s);
    cs->selector = (uint16_t)(target >> 16);
    cs->base = (uint64_t)cs->selector << 4;
    c->rip = target & 0xffff;
    soft_set_rflags(c, 0, FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
    soft_mode_changed(c);
}

typedef struct Delivery {
    unsigned vector;
    SoftIntKind kind;
    bool has_error;
    uint32_t error;
    uint64_t next_rip, flags;
} Delivery;

/* The handler's code segment, with the checks that gates of both widths share. */
static uint64_t handler_code(SoftCpu *c, uint16_t selector)
{
    uint64_t d;

    if (soft_null(selector)) {
        soft_gp(c);
    }
    d = soft_descriptor(c, selector, EXC_GP, NULL);
    if (!desc_is_code(d) || desc_dpl(d) > c->cpl || (soft_lma(c) && (!desc_l(d) || desc_db(d)))) {
        soft_fault(c, EXC_GP, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
    return d;
}

static unsigned handler_cpl(const SoftCpu *c, uint64_t d)
{
    return desc_type(d) & SEG_CONFORMING ? c->cpl : desc_dpl(d);
}

/* `cs`: made by handler_segment. */
static void enter_handler(SoftCpu *c, const X86Segment *cs, uint64_t rip, unsigned cpl,
                          bool clear_if)
{
    soft_set_rflags(c, 0, FLAG_TF | FLAG_VM | FLAG_RF | FLAG_NT | (clear_if ? FLAG_IF : 0));
    soft_enter_code_again(c, cs, rip, cpl);
}

static void handler_segment(X86Segment *cs, uint16_t selector, uint64_t d, unsigned cpl)
{
    soft_segment_from_descriptor(cs, (uint16_t)((selector & ~3) | cpl), d | UINT64_C(1) << 40, 0);
}

enum { FRAME_MAX = 10 };
static unsigned common_frame(const SoftCpu *c, const Delivery *i, uint64_t *frame, unsigned n)
{
    frame[n++] = i->flags;
    frame[n++] = c->seg[X86_CS].selector;
    frame[n++] = i->next_rip;
    if (i->has_error) {
        frame[n++] = i->error;
    }
    return n;
}

static void deliver_protected(SoftCpu *c, const Delivery *i)
{
    uint64_t gate, d, rip, frame[FRAME_MAX];
    unsigned type, size, cpl, n = 0;
    uint16_t selector;
    bool v86 = soft_v86(c);
    SoftStack s;
    X86Segment cs, ss;

    if (i->vector * 8 + 7 > c->idt.limit) {
        idt_fault(c, EXC_GP, i->vector);
    }
    gate = soft_load_system(c, c->idt.base + i->vector * 8, 8);
    type = desc_type(gate);
    if (desc_s(gate) || (type != SYS_TASK_GATE && type != SYS_INT16 && type != SYS_TRAP16 &&
                         type != SYS_INT && type != SYS_TRAP)) {
        idt_fault(c, EXC_GP, i->vector);
    }
    if (i->kind == SOFT_INT_SOFTWARE && desc_dpl(gate) < c->cpl) {
        idt_fault(c, EXC_GP, i->vector);
    }
    if (!desc_present(gate)) {
        idt_fault(c, EXC_NP, i->vector);
    }
    if (type == SYS_TASK_GATE) {
        soft_task_switch(c, gate_selector(gate), TASK_FROM_GATE, i->next_rip, i->has_error,
                         i->error);
        return;
    }
    size = type & 8 ? 2 : 1;
    selector = gate_selector(gate);
    rip = size == 2 ? gate_offset(gate) : (uint16_t)gate;
    d = handler_code(c, selector);
    cpl = handler_cpl(c, d);
    if (v86 && cpl != 0) {
        soft_fault(c, EXC_GP, selector);
    }
    if (cpl < c->cpl) {
        uint16_t stack;
        uint64_t esp;

        soft_tss_stack(c, cpl, &stack, &esp);
        soft_check_stack_segment(c, stack, cpl, EXC_TS, &ss);
        soft_stack_init(c, &s, &ss, esp, cpl, false, (stack & 0xfffcu) | c->ext);
    } else {
        soft_stack_present(c, &s);
        ss = c->seg[X86_SS];
    }
    handler_segment(&cs, selector, d, cpl);
    soft_check_target(c, &cs, rip, 0);
    if (v86) {
        frame[n++] = c->seg[X86_GS].selector;
        frame[n++] = c->seg[X86_FS].selector;
        frame[n++] = c->seg[X86_DS].selector;
        frame[n++] = c->seg[X86_ES].selector;
    }
    if (cpl < c->cpl) {
        frame[n++] = c->seg[X86_SS].selector;
        frame[n++] = c->gpr[X86_RSP];
    }
    n = common_frame(c, i, frame, n);
    soft_push_all(c, &s, frame, n, size);
    soft_mark_accessed(c, selector, d);
    if (v86) {
        static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

        for (unsigned k = 0; k < sizeof(data); k++) {
            c->seg[data[k]] = (X86Segment){ .unusable = true };
        }
    }
    c->seg[X86_SS] = ss;
    soft_set_sp(c, &s);
    enter_handler(c, &cs, rip, cpl, !(type & 1));
}

static void deliver_long(SoftCpu *c, const Delivery *i)
{
    uint64_t gate, high, d, rip, rsp, frame[FRAME_MAX];
    unsigned type, cpl, ist, n = 0;
    uint16_t selector;
    SoftStack s;
    X86Segment cs, ss = c->seg[X86_SS];

    if (i->vector * 16 + 15 > c->idt.limit) {
        idt_fault(c, EXC_GP, i->vector);
    }
    gate = soft_load_system(c, c->idt.base + i->vector * 16, 8);
    high = soft_load_system(c, c->idt.base + i->vector * 16 + 8, 8);
    type = desc_type(gate);
    if (desc_s(gate) || (type != SYS_INT && type != SYS_TRAP) ||
        (i->kind == SOFT_INT_SOFTWARE && desc_dpl(gate) < c->cpl)) {
        idt_fault(c, EXC_GP, i->vector);
    }
    if (!desc_present(gate)) {
        idt_fault(c, EXC_NP, i->vector);
    }
    selector = gate_selector(gate);
    rip = gate_offset(gate) | high << 32;
    ist = gate >> 32 & 7;
    d = handler_code(c, selector);
    cpl = handler_cpl(c, d);
    if (ist) {
        rsp = soft_tss_rsp(c, 36 + (ist - 1) * 8);
    } else if (cpl < c->cpl) {
        rsp = soft_tss_rsp(c, 4 + cpl * 8);
    } else {
        rsp = c->gpr[X86_RSP];
    }
    if (cpl < c->cpl) {
        soft_null_stack(&ss, cpl);
    }
    soft_stack_init(c, &s, &ss, rsp & ~UINT64_C(15), cpl, true, c->ext);
    handler_segment(&cs, selector, d, cpl);
    soft_check_target(c, &cs, rip, 0);
    frame[n++] = c->seg[X86_SS].selector;
    frame[n++] = c->gpr[X86_RSP];
    n = common_frame(c, i, frame, n);
    soft_push_all(c, &s, frame, n, 3);
    soft_mark_accessed(c, selector, d);
    c->seg[X86_SS] = ss;
    c->gpr[X86_RSP] = s.sp;
    enter_handler(c, &cs, rip, cpl, type == SYS_INT);
}

void soft_interrupt(SoftCpu *c, unsigned vector, SoftIntKind kind, bool has_error, uint32_t error,
                    uint64_t next_rip)
{
    Delivery i = { vector, kind, has_error, error, next_rip, 0 };

    if (log_enabled(LOG_INT)) {
        soft_log_interrupt(c, vector, kind, has_error, error, next_rip);
    }
    if (kind == SOFT_INT_EXCEPTION && c->delivering.active) {
        if (c->delivering.vector == EXC_DF) {
            if (log_enabled(LOG_INT)) {
                soft_log_triple_fault(c, vector);
            }
            c->triple_fault = true;
            c->delivering.active = false;
            c->ext = 0;
            return;
        }
        if (makes_double_fault(c->delivering.vector, vector)) {
            i.vector = EXC_DF;
            i.has_error = true;
            i.error = 0;
        }
    }
    c->delivering.active = kind == SOFT_INT_EXCEPTION;
    c->delivering.vector = (uint8_t)i.vector;
    c->ext = kind != SOFT_INT_SOFTWARE;
    c->inhibit_interrupts = 0;
    if (!soft_protected(c)) {
        deliver_real(c, i.vector, next_rip);
    } else {
        i.flags = pushed_flags(c, i.vector, kind);
        if (soft_v86(c) && kind == SOFT_INT_SOFTWARE && vector != EXC_BP && vector != EXC_OF &&
            soft_iopl(c) < 3) {
            soft_raise_error(c, EXC_GP, 0);
        }
        if (soft_lma(c)) {
            deliver_long(c, &i);
        } else {
            deliver_protected(c, &i);
        }
    }
    c->delivering.active = false;
    c->ext = 0;
    if (i.vector == EXC_DB && (c->dr7 & 1 << 13)) {
        c->dr7 &= ~UINT64_C(0x2000); /* GD: the handler may use the registers */
    }
}

/* ---- debug registers --------------------------------------------------------------------- */

static unsigned break_kind(const SoftCpu *c, unsigned n)
{
    return c->dr7 >> (16 + n * 4) & 3;
}
static unsigned break_len(const SoftCpu *c, unsigned n)
{
    static const uint8_t lengths[] = { 1, 2, 8, 4 };

    return lengths[c->dr7 >> (18 + n * 4) & 3];
}
static bool break_matches(unsigned kind, unsigned access)
{
    return access == SOFT_FETCH   ? kind == 0
           : access == SOFT_WRITE ? kind == 1 || kind == 3
                                  : kind == 3;
}

bool soft_debug_armed(const SoftCpu *c, unsigned access)
{
    for (unsigned n = 0; n < 4; n++) {
        if ((c->dr7 >> (n * 2) & 3) && break_matches(break_kind(c, n), access)) {
            return true;
        }
    }
    return false;
}

void soft_debug_hit(SoftCpu *c, uint64_t linear, unsigned len, unsigned access)
{
    uint32_t hit = 0;
    bool enabled = false;

    for (unsigned n = 0; n < 4; n++) {
        uint64_t size = access == SOFT_FETCH ? 1 : break_len(c, n), at = c->dr[n] & ~(size - 1);

        if (!break_matches(break_kind(c, n), access) || at > linear + (len - 1) ||
            linear > at + (size - 1)) {
            continue;
        }
        hit |= 1u << n;
        enabled |= (c->dr7 >> (n * 2) & 3) != 0;
    }
    if (!enabled) {
        return;
    }
    if (access == SOFT_FETCH) {
        if (!(c->flags & FLAG_RF)) {
            c->dr6 = (c->dr6 & ~(uint64_t)DR6_BREAK) | hit;
            soft_raise(c, EXC_DB);
        }
        return;
    }
    if (!c->db_pending) {
        soft_attention(c, SOFT_ATTN_LOOK);
    }
    c->db_pending |= hit;
}

void soft_debug_port(SoftCpu *c, uint16_t port, unsigned len)
{
    uint32_t hit = 0;
    bool enabled = false;

    if (!(c->dr7 & 0xff) || !(c->cr4 & CR4_DE)) {
        return;
    }
    for (unsigned n = 0; n < 4; n++) {
        uint64_t size = break_len(c, n), at = c->dr[n] & ~(size - 1);

        if (break_kind(c, n) == 2 && at <= (uint64_t)port + (len - 1) && port <= at + (size - 1)) {
            hit |= 1u << n;
            enabled |= (c->dr7 >> (n * 2) & 3) != 0;
        }
    }
    if (enabled) {
        soft_attention(c, SOFT_ATTN_LOOK);
        c->db_pending |= hit;
        soft_cut_block(c);
    }
}

bool soft_debug_trap(SoftCpu *c, bool tf_before)
{
    uint32_t bits = c->db_pending | (tf_before ? DR6_BS : 0);

    c->db_pending = 0;
    if (!bits) {
        return false;
    }
    c->dr6 = (c->dr6 & ~(uint64_t)DR6_BREAK) | bits;
    return true;
}
