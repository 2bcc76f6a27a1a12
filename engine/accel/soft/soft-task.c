/*
 * Hardware task switches: 16 and 32-bit TSS, by JMP, CALL, IRET and task gates.
 *
 * Intel SDM volume 3A, chapter "Task Management". Up to the commit point faults belong to the old
 * task; from there on to the new one, whose selectors are then checked one by one (#TS, #NP, #SS).
 */
#include "engine/accel/soft/soft-sys.h"

enum { TSS32_MIN = 0x67, TSS16_MIN = 0x2b, TSS32_SAVED = 0x5f, TSS16_SAVED = 0x29 };

typedef struct Task {
    bool wide;
    uint64_t cr3, eip, eflags, gpr[8];
    uint16_t seg[6], ldt; /* in the order of X86_ES … */
    bool trap;
} Task;

static void read_task(SoftCpu *c, uint64_t base, Task *t)
{
    unsigned size = t->wide ? 4 : 2;
    uint64_t at = base + (t->wide ? 0x20 : 0x0e);

    t->cr3 = t->wide ? soft_load_system(c, base + 0x1c, 4) : 0;
    t->eip = soft_load_system(c, at, size);
    t->eflags = soft_load_system(c, at + size, size);
    for (unsigned i = 0; i < 8; i++) {
        t->gpr[i] = soft_load_system(c, at + (2 + i) * size, size);
    }
    at += 10 * size;
    /* A 16-bit TSS has no FS and GS. */
    for (unsigned i = 0; i < 6; i++) {
        t->seg[i] = t->wide || i < 4 ? (uint16_t)soft_load_system(c, at + i * size, 2) : 0;
    }
    t->ldt = (uint16_t)soft_load_system(c, at + (t->wide ? 6 : 4) * size, 2);
    t->trap = t->wide && (soft_load_system(c, base + 100, 2) & 1);
}

static void save_task(SoftCpu *c, uint64_t base, bool wide, uint64_t eip, uint64_t eflags)
{
    unsigned size = wide ? 4 : 2;
    uint64_t at = base + (wide ? 0x20 : 0x0e);

    soft_store_system(c, at, eip, size);
    soft_store_system(c, at + size, eflags, size);
    for (unsigned i = 0; i < 8; i++) {
        soft_store_system(c, at + (2 + i) * size, c->gpr[i], size);
    }
    at += 10 * size;
    for (unsigned i = 0; i < (wide ? 6 : 4); i++) {
        soft_store_system(c, at + i * size, c->seg[i].selector, 2);
    }
}

/* ---- the new task's segments --------------------------------------------------------------- */

static void load_ldt(SoftCpu *c, uint16_t selector)
{
    uint64_t d;

    c->seg[X86_LDT] = (X86Segment){ .selector = selector, .unusable = true };
    if (soft_null(selector)) {
        return;
    }
    if (selector & 4) {
        soft_fault(c, EXC_TS, selector);
    }
    d = soft_descriptor(c, selector, EXC_TS, NULL);
    if (desc_s(d) || desc_type(d) != SYS_LDT || !desc_present(d)) {
        soft_fault(c, EXC_TS, selector);
    }
    soft_segment_from_descriptor(&c->seg[X86_LDT], selector, d, 0);
}

static void load_code(SoftCpu *c, uint16_t selector)
{
    unsigned rpl = selector & 3;
    uint64_t d;

    if (soft_null(selector)) {
        soft_fault(c, EXC_TS, selector);
    }
    d = soft_descriptor(c, selector, EXC_TS, NULL);
    if (!desc_is_code(d) ||
        ((desc_type(d) & SEG_CONFORMING) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl)) {
        soft_fault(c, EXC_TS, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
    soft_mark_accessed(c, selector, d);
    soft_segment_from_descriptor(&c->seg[X86_CS], selector, d | UINT64_C(1) << 40, 0);
}

static void load_data(SoftCpu *c, unsigned seg, uint16_t selector)
{
    uint64_t d;

    if (soft_null(selector)) {
        return;
    }
    d = soft_descriptor(c, selector, EXC_TS, NULL);
    if (!desc_s(d) || (desc_type(d) & (SEG_CODE | SEG_READABLE)) == SEG_CODE ||
        ((desc_type(d) & (SEG_CODE | SEG_CONFORMING)) != (SEG_CODE | SEG_CONFORMING) &&
         ((selector & 3u) > desc_dpl(d) || c->cpl > desc_dpl(d)))) {
        soft_fault(c, EXC_TS, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
    soft_mark_accessed(c, selector, d);
    soft_segment_from_descriptor(&c->seg[seg], selector, d | UINT64_C(1) << 40, 0);
}

static void load_segments(SoftCpu *c, const Task *t)
{
    static const uint8_t data[] = { X86_DS, X86_ES, X86_FS, X86_GS };

    load_ldt(c, t->ldt);
    if (soft_v86(c)) {
        for (unsigned i = 0; i < 6; i++) {
            soft_segment_v86(&c->seg[i], t->seg[i]);
        }
        soft_mode_changed(c);
        return;
    }
    load_code(c, t->seg[X86_CS]);
    soft_mode_changed(c);
    soft_check_stack_segment(c, t->seg[X86_SS], c->cpl, EXC_TS, &c->seg[X86_SS]);
    for (unsigned i = 0; i < sizeof(data); i++) {
        load_data(c, data[i], t->seg[data[i]]);
    }
    soft_mode_changed(c);
}

/* ---- the switch ---------------------------------------------------------------------------- */

static uint64_t check_tss(SoftCpu *c, uint16_t selector, unsigned source, Task *t, X86Segment *tr)
{
    bool back = source == TASK_FROM_IRET;
    unsigned vector = back ? EXC_TS : EXC_GP, type;
    uint64_t d;

    if (soft_null(selector) || (selector & 4)) {
        soft_fault(c, vector, selector);
    }
    d = soft_descriptor(c, selector, vector, NULL);
    type = desc_type(d);
    if (desc_s(d) || (back ? type != SYS_TSS_BUSY && type != SYS_TSS16_BUSY
                           : type != SYS_TSS && type != SYS_TSS16)) {
        soft_fault(c, vector, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_NP, selector);
    }
    soft_segment_from_descriptor(tr, selector, d, 0);
    t->wide = type & 8;
    if (tr->limit < (t->wide ? TSS32_MIN : TSS16_MIN)) {
        soft_fault(c, EXC_TS, selector);
    }
    return d;
}

static void take_registers(SoftCpu *c, const Task *t, uint64_t flags)
{
    for (unsigned i = 0; i < 8; i++) {
        c->gpr[i] = t->wide ? t->gpr[i] : 0xffff0000u | t->gpr[i];
    }
    c->rip = t->eip;
    /* The bits of EFLAGS that exist; a 16-bit task has none of the upper half. */
    soft_set_rflags(c, flags, 0x3f7fd5);
    for (unsigned i = 0; i < 6; i++) {
        c->seg[i] = (X86Segment){ .selector = t->seg[i], .unusable = true };
    }
    c->cpl = flags & FLAG_VM ? 3 : t->seg[X86_CS] & 3;
    c->seg[X86_SS].dpl = c->cpl;
}

static void push_error(SoftCpu *c, bool wide, uint32_t error)
{
    SoftStack s;

    soft_stack_present(c, &s);
    soft_push(c, &s, error, wide ? 2 : 1);
    soft_set_sp(c, &s);
}

void soft_task_switch(SoftCpu *c, uint16_t tss_selector, unsigned source, uint64_t next_rip,
                      bool has_error, uint32_t error)
{
    X86Segment old = c->seg[X86_TR], tr;
    Task t = { 0 };
    uint64_t d = check_tss(c, tss_selector, source, &t, &tr), old_d, flags = soft_rflags(c);
    bool old_wide = old.type & 8, nested = source == TASK_FROM_CALL || source == TASK_FROM_GATE;

    if (old.limit < (old_wide ? TSS32_SAVED : TSS16_SAVED)) {
        soft_fault(c, EXC_TS, old.selector);
    }
    read_task(c, tr.base, &t);
    if (nested) {
        soft_probe_write(c, tr.base, 2);
    }
    if (source == TASK_FROM_IRET) {
        flags &= ~(uint64_t)FLAG_NT;
    }
    save_task(c, old.base, old_wide, next_rip, flags);
    if (!nested && !soft_null(old.selector)) {
        old_d = soft_descriptor(c, old.selector & ~4, EXC_TS, NULL);
        soft_set_system_type(c, old.selector & ~4, old_d, old_wide ? SYS_TSS : SYS_TSS16);
    }
    if (nested) {
        soft_store_system(c, tr.base, old.selector, 2);
    }
    if (source != TASK_FROM_IRET) {
        soft_set_system_type(c, tss_selector, d, t.wide ? SYS_TSS_BUSY : SYS_TSS16_BUSY);
    }
    /* The commit point: what faults from here on does so in the new task. The handler was the last
     * of its block, so nothing of that is left to count. */
    c->block = NULL;
    tr.type = t.wide ? SYS_TSS_BUSY : SYS_TSS16_BUSY;
    c->seg[X86_TR] = tr;
    c->cr0 |= CR0_TS;
    take_registers(c, &t, t.eflags | (nested ? FLAG_NT : 0));
    if (t.wide && (c->cr0 & CR0_PG)) {
        c->cr3 = t.cr3;
        c->pdpte_cr3 = UINT64_MAX;
        c->tlb_wish = true;
        soft_tlb_flush(c, false);
    }
    c->dr7 &= ~UINT64_C(0x155); /* local breakpoints */
    soft_debug_changed(c);
    soft_mode_changed(c);
    load_segments(c, &t);
    if (has_error) {
        push_error(c, t.wide, error);
    }
    if (c->rip > c->seg[X86_CS].limit) {
        soft_gp(c);
    }
    if (t.trap) {
        c->db_pending |= DR6_BT;
        soft_attention(c, SOFT_ATTN_LOOK);
    }
}
