/*
 * Segments: descriptors, loads of segment registers with their checks, stacks of control transfers.
 *
 * Intel SDM volume 3A, chapters "Protected-Mode Memory Management" and "Protection".
 */
#include <string.h>

#include "engine/accel/soft/soft-sys.h"

/* ---- mode -------------------------------------------------------------------------------- */

static bool is_flat(const X86Segment *s, bool writable)
{
    if (s->base || s->limit != UINT32_MAX || s->unusable || !s->present) {
        return false;
    }
    if (s->type & SEG_CODE) {
        return !writable && (s->type & SEG_READABLE);
    }
    return !(s->type & 4) && (!writable || (s->type & SEG_WRITABLE));
}

/* Any base, but no limit that can be hit and no right that is missing. */
static bool is_open(const X86Segment *s)
{
    return s->limit == UINT32_MAX && s->present && !s->unusable &&
           (s->type & (SEG_CODE | 4 | SEG_WRITABLE)) == SEG_WRITABLE;
}

void soft_mode_changed(SoftCpu *c)
{
    const X86Segment *cs = &c->seg[X86_CS], *ss = &c->seg[X86_SS];
    bool code64 = soft_lma(c) && cs->l && soft_protected(c);

    if (!soft_protected(c)) {
        c->cpl = 0;
    } else if (soft_v86(c)) {
        c->cpl = 3;
    }
    c->mode = (SoftMode){ .code_size = code64 || cs->db ? 2 : 1,
                          .stack_size = code64   ? 3
                                        : ss->db ? 2
                                                 : 1,
                          .long_mode = code64,
                          .cpl = c->cpl };
    c->flat_segments = code64 || (is_flat(cs, false) && is_flat(ss, true) &&
                                  is_flat(&c->seg[X86_DS], true) && is_flat(&c->seg[X86_ES], true));
    c->open_segments = (uint8_t)(is_open(&c->seg[X86_FS]) << X86_FS | is_open(&c->seg[X86_GS])
                                                                          << X86_GS);
    soft_tlb_select(c);
}

/* ---- descriptors ------------------------------------------------------------------------- */

uint64_t soft_descriptor(SoftCpu *c, uint16_t selector, unsigned vector, uint64_t *high)
{
    uint64_t base = c->gdt.base, d;
    uint32_t limit = c->gdt.limit, at = selector & 0xfff8u;

    if (selector & 4) {
        const X86Segment *ldt = &c->seg[X86_LDT];

        if (ldt->unusable || !ldt->present || soft_null(ldt->selector)) {
            soft_fault(c, vector, selector);
        }
        base = ldt->base;
        limit = ldt->limit;
    }
    if (at + (high ? 15u : 7u) > limit) {
        soft_fault(c, vector, selector);
    }
    d = soft_load_system(c, base + at, 8);
    if (high) {
        *high = soft_load_system(c, base + at + 8, 8);
    }
    return d;
}

void soft_segment_from_descriptor(X86Segment *s, uint16_t selector, uint64_t d, uint64_t high)
{
    uint32_t limit = (uint32_t)(d & 0xffff) | (uint32_t)(d >> 32 & 0xf0000);
    bool g = d >> 55 & 1;

    *s = (X86Segment){
        .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000u) | high << 32,
        .limit = g ? limit << 12 | 0xfff : limit,
        .selector = selector,
        .type = (uint8_t)desc_type(d),
        .dpl = (uint8_t)desc_dpl(d),
        .present = desc_present(d),
        .s = desc_s(d),
        .db = desc_db(d),
        .l = desc_l(d),
        .g = g,
        .avl = d >> 52 & 1,
    };
}

static uint64_t descriptor_address(const SoftCpu *c, uint16_t selector)
{
    return (selector & 4 ? c->seg[X86_LDT].base : c->gdt.base) + (selector & 0xfff8u);
}

void soft_set_system_type(SoftCpu *c, uint16_t selector, uint64_t d, unsigned type)
{
    uint64_t at = descriptor_address(c, selector) + 5;
    uint8_t old = (uint8_t)(d >> 40), seen;

    seen = soft_swap_system_byte(c, at, old, (uint8_t)((old & 0xf0) | type));
    /* Another processor wrote to it since it was read: a task that has become busy is that one's.
     */
    if (seen != old && (type & 2) && (seen & 2)) {
        soft_fault(c, EXC_GP, selector);
    }
}

void soft_mark_accessed(SoftCpu *c, uint16_t selector, uint64_t d)
{
    uint64_t at = descriptor_address(c, selector) + 5;
    uint8_t old = (uint8_t)(d >> 40);

    if (desc_type(d) & SEG_ACCESSED) {
        return;
    }
    for (unsigned tries = 0; tries < 8 && !(old & SEG_ACCESSED); tries++) {
        uint8_t seen = soft_swap_system_byte(c, at, old, old | SEG_ACCESSED);

        if (seen == old) {
            return;
        }
        old = seen;
    }
}

/* ---- loads of segment registers ---------------------------------------------------------- */

void soft_segment_v86(X86Segment *s, uint16_t selector)
{
    *s = (X86Segment){ .base = (uint64_t)selector << 4,
                       .limit = 0xffff,
                       .selector = selector,
                       .type = 3,
                       .dpl = 3,
                       .present = true,
                       .s = true };
}

void soft_null_stack(X86Segment *ss, unsigned cpl)
{
    *ss = (X86Segment){ .selector = (uint16_t)cpl, .dpl = (uint8_t)cpl, .unusable = true };
}

void soft_check_stack_segment(SoftCpu *c, uint16_t selector, unsigned cpl, unsigned vector,
                              X86Segment *out)
{
    uint64_t d;

    if (soft_null(selector)) {
        soft_fault(c, vector, 0);
    }
    d = soft_descriptor(c, selector, vector, NULL);
    if ((selector & 3) != cpl || desc_dpl(d) != cpl || !desc_s(d) ||
        (desc_type(d) & (SEG_CODE | SEG_WRITABLE)) != SEG_WRITABLE) {
        soft_fault(c, vector, selector);
    }
    if (!desc_present(d)) {
        soft_fault(c, EXC_SS, selector);
    }
    soft_mark_accessed(c, selector, d);
    soft_segment_from_descriptor(out, selector, d | UINT64_C(1) << 40, 0);
}

void soft_load_segment(SoftCpu *c, unsigned seg, uint16_t selector)
{
    X86Segment s, *r = &c->seg[seg];
    uint64_t d;
    unsigned rpl = selector & 3;

    if (soft_v86(c) && soft_protected(c)) {
        soft_segment_v86(r, selector);
        soft_mode_changed(c);
        return;
    }
    if (!soft_protected(c)) {
        /* Limit and size stay: so does "unreal" mode. */
        r->selector = selector;
        r->base = (uint64_t)selector << 4;
        if (r->unusable || !r->present) {
            x86_segment_set_real(r, selector, false);
        }
        soft_mode_changed(c);
        return;
    }
    if (seg == X86_SS) {
        if (soft_null(selector)) {
            if (!c->mode.long_mode || c->cpl == 3 || rpl != c->cpl) {
                soft_gp(c);
            }
            soft_null_stack(&s, c->cpl);
        } else {
            soft_check_stack_segment(c, selector, c->cpl, EXC_GP, &s);
        }
    } else if (soft_null(selector)) {
        s = (X86Segment){ .selector = selector, .unusable = true };
    } else {
        d = soft_descriptor(c, selector, EXC_GP, NULL);
        /* Data, or code that can be read; privilege counts unless it is conforming code. */
        if (!desc_s(d) || (desc_type(d) & (SEG_CODE | SEG_READABLE)) == SEG_CODE ||
            ((desc_type(d) & (SEG_CODE | SEG_CONFORMING)) != (SEG_CODE | SEG_CONFORMING) &&
             (rpl > desc_dpl(d) || c->cpl > desc_dpl(d)))) {
            soft_fault(c, EXC_GP, selector);
        }
        if (!desc_present(d)) {
            soft_fault(c, EXC_NP, selector);
        }
        soft_mark_accessed(c, selector, d);
        soft_segment_from_descriptor(&s, selector, d | UINT64_C(1) << 40, 0);
    }
    *r = s;
    soft_mode_changed(c);
}

void soft_drop_data_segments(SoftCpu *c)
{
    static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

    for (unsigned i = 0; i < sizeof(data); i++) {
        X86Segment *s = &c->seg[data[i]];
        bool conforming = (s->type & (SEG_CODE | SEG_CONFORMING)) == (SEG_CODE | SEG_CONFORMING);

        if (soft_null(s->selector)) {
            /* The base of a null FS or GS was set by an MSR: it stays. */
            s->selector = 0;
            s->unusable = true;
        } else if (!s->s || (s->dpl < c->cpl && !conforming)) {
            *s = (X86Segment){ .unusable = true };
        }
    }
    soft_mode_changed(c);
}

/* ---- code -------------------------------------------------------------------------------- */

void soft_check_target(SoftCpu *c, const X86Segment *cs, uint64_t rip, uint16_t error)
{
    bool bad = soft_lma(c) && cs->l && soft_protected(c) ? !soft_canonical(rip) : rip > cs->limit;

    if (bad) {
        soft_fault(c, EXC_GP, error);
    }
}

void soft_enter_code(SoftCpu *c, const X86Segment *cs, uint64_t rip, unsigned cpl)
{
    c->seg[X86_CS] = *cs;
    c->rip = rip;
    c->cpl = (uint8_t)cpl;
    soft_mode_changed(c);
}

void soft_enter_code_again(SoftCpu *c, const X86Segment *cs, uint64_t rip, unsigned cpl)
{
    if (c->cpl == cpl &&
        memcmp(cs, &c->seg[X86_CS], offsetof(X86Segment, unusable) + sizeof(bool)) == 0) {
        c->rip = rip;
        return;
    }
    soft_enter_code(c, cs, rip, cpl);
}

/* ---- stacks ------------------------------------------------------------------------------ */

void soft_stack_init(SoftCpu *c, SoftStack *s, const X86Segment *ss, uint64_t sp, unsigned cpl,
                     bool code64, uint32_t error)
{
    s->ss = *ss;
    s->mask = code64 ? UINT64_MAX : ss->db ? UINT32_MAX : 0xffff;
    s->sp = sp;
    s->cpl = cpl;
    s->flat = code64;
    s->error = error;
}

void soft_stack_present(SoftCpu *c, SoftStack *s)
{
    soft_stack_init(c, s, &c->seg[X86_SS], c->gpr[X86_RSP], c->cpl, c->mode.long_mode, c->ext);
}

static uint64_t stack_linear(SoftCpu *c, const SoftStack *s, uint64_t offset, unsigned len)
{
    if (s->flat) {
        if (!soft_canonical(offset) || !soft_canonical(offset + len - 1)) {
            soft_raise_error(c, EXC_SS, s->error);
        }
        return offset;
    }
    uint64_t last = offset + len - 1, top = s->ss.db ? UINT32_MAX : 0xffff;
    bool bad;

    if (soft_protected(c) && (s->ss.type & (SEG_CODE | 4)) == 4) { /* expands down */
        bad = offset <= s->ss.limit || last > top;
    } else {
        bad = last > s->ss.limit;
    }
    if (bad || s->ss.unusable) {
        soft_raise_error(c, EXC_SS, s->error);
    }
    return (uint32_t)(s->ss.base + offset);
}

/* A stack of another privilege level: user pages with a user's rights, others as supervisor. */
void soft_push(SoftCpu *c, SoftStack *s, uint64_t value, unsigned size)
{
    unsigned len = 1u << size;
    uint64_t sp = (s->sp - len) & s->mask, linear = stack_linear(c, s, sp, len);

    if (s->cpl == c->cpl) {
        soft_store(c, linear, value, len);
    } else {
        soft_store_system(c, linear, value, len);
    }
    s->sp = sp | (s->sp & ~s->mask);
}

uint64_t soft_pop(SoftCpu *c, SoftStack *s, unsigned size)
{
    unsigned len = 1u << size;
    uint64_t v = soft_load(c, stack_linear(c, s, s->sp & s->mask, len), len);

    s->sp = ((s->sp + len) & s->mask) | (s->sp & ~s->mask);
    return v;
}

/* Where `bytes` from `low` on are as one piece that nobody has to look at; NULL: the slow way. */
static uint8_t *stack_host(SoftCpu *c, const SoftStack *s, uint64_t low, unsigned bytes,
                           unsigned access)
{
    const SoftTlbEntry *set = s->cpl == c->cpl ? c->tlb_now[access]
                                               : c->tlb[SOFT_TLB_SUPERVISOR][access];

    if (low > s->mask - (bytes - 1) || !c->in_rcu) {
        return NULL;
    }
    if (!s->flat) {
        if ((s->ss.type & (SEG_CODE | 4)) == 4 || s->ss.unusable || low + bytes - 1 > s->ss.limit) {
            return NULL;
        }
        low = (uint32_t)(s->ss.base + low);
    }
    return soft_tlb_hit(set, low, bytes);
}

void soft_push_all(SoftCpu *c, SoftStack *s, const uint64_t *values, unsigned n, unsigned size)
{
    unsigned len = 1u << size;
    uint64_t low = (s->sp - (uint64_t)n * len) & s->mask;
    uint8_t *p = stack_host(c, s, low, n * len, SOFT_WRITE);

    if (!p) {
        for (unsigned i = 0; i < n; i++) {
            soft_push(c, s, values[i], size);
        }
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        soft_host_store(p + (n - 1 - i) * len, values[i], len);
    }
    s->sp = low | (s->sp & ~s->mask);
}

void soft_pop_all(SoftCpu *c, SoftStack *s, uint64_t *values, unsigned n, unsigned size)
{
    unsigned len = 1u << size;
    uint64_t low = s->sp & s->mask;
    const uint8_t *p = stack_host(c, s, low, n * len, SOFT_READ);

    for (unsigned i = 0; i < n; i++) {
        values[i] = p ? soft_host_load(p + i * len, len) : soft_pop(c, s, size);
    }
    if (p) {
        s->sp = ((low + (uint64_t)n * len) & s->mask) | (s->sp & ~s->mask);
    }
}

void soft_set_sp(SoftCpu *c, const SoftStack *s)
{
    if (s->mask == 0xffff) {
        c->gpr[X86_RSP] = (c->gpr[X86_RSP] & ~UINT64_C(0xffff)) | (s->sp & 0xffff);
    } else {
        c->gpr[X86_RSP] = s->sp & s->mask;
    }
}

void soft_tss_stack(SoftCpu *c, unsigned cpl, uint16_t *ss, uint64_t *esp)
{
    const X86Segment *tr = &c->seg[X86_TR];
    bool wide = tr->type & 8;
    uint32_t at = wide ? 4 + cpl * 8 : 2 + cpl * 4;

    if (at + (wide ? 5 : 3) > tr->limit) {
        soft_fault(c, EXC_TS, tr->selector);
    }
    *esp = soft_load_system(c, tr->base + at, wide ? 4 : 2);
    *ss = (uint16_t)soft_load_system(c, tr->base + at + (wide ? 4 : 2), 2);
}

uint64_t soft_tss_rsp(SoftCpu *c, unsigned offset)
{
    const X86Segment *tr = &c->seg[X86_TR];
    uint64_t rsp;

    if (offset + 7 > tr->limit) {
        soft_fault(c, EXC_TS, tr->selector);
    }
    rsp = soft_load_system(c, tr->base + offset, 8);
    if (!soft_canonical(rsp)) {
        soft_raise_error(c, EXC_SS, c->ext);
    }
    return rsp;
}
