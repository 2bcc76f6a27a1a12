/*
 * Memory operands of translated code: the address, the hit in the software TLB, and the slow way.
 *
 * The slow way is the instruction's own handler: registers and flags are put where it finds them,
 * it runs, and the code goes on behind the instruction as if it had done it itself. Whatever the
 * fast way would have changed is therefore changed only after its last look at the TLB.
 */
#include "engine/accel/soft/translate.h"

bool mem_simple(const Xlate *x)
{
    const SoftInsn *i = x->i;

    if (i->flags & (SOFT_I_PLAIN | SOFT_I_FLAT32)) {
        return true;
    }
    if (!x->wide) {
        return i->addr_size == 2 && i->seg >= X86_FS;
    }
    return i->addr_size == 3 &&
           (!(i->flags & SOFT_I_RIP_RELATIVE) || fits32((uint64_t)i->disp + i->off + i->len));
}

Mem mem_of(Xlate *x)
{
    const SoftInsn *i = x->i;
    Mem m = { NONE, NONE, i->scale, 0 };
    int64_t disp = i->disp;

    if (i->flags & SOFT_I_RIP_RELATIVE) {
        emit_load(x, 3, T1, rm_cpu(CPU_OFF(rip)));
        m.base = T1;
        disp += i->off + i->len;
    } else if (i->base != SOFT_GPR_NONE) {
        m.base = (uint8_t)guest_in(x, i->base, T1);
    }
    if (i->index != SOFT_GPR_NONE) {
        m.index = (uint8_t)guest_in(x, i->index, T2);
    }
    if (!fits32((uint64_t)disp) && x->wide) {
        emit_imm(x, T1, (uint64_t)disp); /* absolute */
        m.base = T1;
        disp = 0;
    }
    m.disp = (int32_t)disp;
    return m;
}

static Rm segment_base(const Xlate *x)
{
    return rm_cpu(CPU_OFF(seg) +
                  (int32_t)(x->i->seg * sizeof(X86Segment) + offsetof(X86Segment, base)));
}

/* FS or GS of 32-bit code, which mostly have a base and no limit; T1: the offset. */
static void add_base_32(Xlate *x)
{
    emit_op(x, 0, 0xf6, 0, rm_cpu(CPU_OFF(open_segments))); /* TEST */
    emit8(x, 1u << x->i->seg);
    slow_jcc(x, 4);
    emit_alu_imm(x, 2, CMP_, rm_reg(T1), (uint64_t)INT64_C(-8));
    slow_jcc(x, 7); /* above: it could go over the end */
    emit_alu(x, 2, ADD_, T1, segment_base(x));
}

void mem_linear_of(Xlate *x)
{
    Mem m = mem_of(x);

    if (m.base == NONE && m.index == NONE) {
        emit_imm(x, T1, x->wide ? (uint64_t)(int64_t)m.disp : (uint32_t)m.disp);
    } else {
        emit_lea(x, x->wide ? 3 : 2, T1, m);
    }
    if (x->i->seg >= X86_FS) {
        if (x->wide) {
            emit_alu(x, 3, ADD_, T1, segment_base(x));
        } else {
            add_base_32(x);
        }
    }
}

void mem_stack(Xlate *x, int32_t disp)
{
    emit_lea(x, x->wide ? 3 : 2, T1, (Mem){ host_of[X86_RSP], NONE, 0, disp });
}

void mem_host_of(Xlate *x, unsigned access, unsigned len)
{
    int32_t set = (int32_t)(access * sizeof(((SoftCpu *)NULL)->tlb[0][0]));
    Rm tag = rm_mem(T2, set + (int32_t)offsetof(SoftTlbEntry, tag));

    _Static_assert(sizeof(SoftTlbEntry) == 32, "the shift below");
    emit_store(x, 2, rm_reg(T2), T1);
    emit_shift_imm(x, 2, 5, rm_reg(T2), 12 - 5);
    emit_alu_imm(x, 2, AND_, rm_reg(T2), (SOFT_TLB_SIZE - 1) * sizeof(SoftTlbEntry));
    emit_alu(x, 3, ADD_, T2, rm_cpu(CPU_OFF(tlb_now)));
    if (len == 1) {
        emit_store(x, 3, rm_reg(T3), T1);
    } else {
        emit_lea(x, 3, T3, (Mem){ T1, NONE, 0, (int32_t)len - 1 });
    }
    emit_alu_imm(x, 3, AND_, rm_reg(T3), ~(SOFT_PAGE - 1));
    emit_alu(x, 3, CMP_, T3, tag);
    slow_jcc(x, 5);
    emit_alu(x, 3, ADD_, T1, rm_mem(T2, set + (int32_t)offsetof(SoftTlbEntry, host)));
}

/* ---- the slow way ------------------------------------------------------------------------ */

void slow_jcc(Xlate *x, unsigned cc)
{
    Slow *s;

    if (!x->slow_open) {
        s = &x->slow[x->n_slow++];
        *s = (Slow){ .insn = x->k, .before = x->flags };
        x->slow_open = true;
    }
    s = &x->slow[x->n_slow - 1];
    if (s->n_from == SLOW_FROM_MAX) {
        x->failed = true;
        return;
    }
    s->from[s->n_from++] = emit_jcc(x, cc);
}

static bool uses_flags_next(const Xlate *x)
{
    const SoftInsn *i = x->i + 1;

    return x->k + 1 < x->b->n &&
           (i->kind == KIND_JCC || i->kind == KIND_SET || i->kind == KIND_CMOV ||
            i->kind == KIND_ADC || i->kind == KIND_SBB) &&
           i->ops != OPS_RM && i->ops != OPS_M;
}

void slow_end(Xlate *x, bool ends)
{
    Slow *s;

    if (!x->slow_open) {
        return;
    }
    s = &x->slow[x->n_slow - 1];
    x->slow_open = false;
    /* The host's flags need not be made on both ways when nobody looks soon. */
    if (!uses_flags_next(x) || (x->flags.state == FLAGS_STORED && !x->flags.known)) {
        x->host = 0;
    }
    s->ends = ends;
    s->back = x->at;
    s->after = x->flags;
    s->host_flags = x->host;
}

static void load_handlers(Xlate *x, unsigned first, unsigned n)
{
    emit_imm(x, T1, (uint64_t)(uintptr_t)x->b);
    emit_imm(x, T2, first | n << 8);
    emit_call_to(x, x->t->run);
}

void slow_finish(Xlate *x)
{
    for (unsigned n = 0; n < x->n_slow; n++) {
        Slow *s = &x->slow[n];
        Flags after = s->after;

        for (unsigned m = 0; m < s->n_from; m++) {
            emit_land(x, s->from[m]);
        }
        flags_store(x, &s->before);
        load_handlers(x, s->insn, s->ends ? 0 : 1);
        if (s->ends) {
            emit_jmp_to(x, x->t->leave);
            continue;
        }
        emit_jcc_to(x, 4, x->t->leave);
        if (s->host_flags && after.state != FLAGS_DEAD) {
            /* The handler has stored them. */
            if (after.state == FLAGS_COMPARE) {
                after.dst = after.src = loc_stored();
            }
            after.state = FLAGS_STORED;
            flags_to_host_of(x, &after, s->host_flags);
        }
        emit_jmp_to(x, s->back);
    }
    for (unsigned n = 0; n < x->n_calls; n++) {
        emit_land(x, x->calls[n].from);
        emit_call_to(x, x->t->flags);
        emit_jmp_to(x, x->calls[n].back);
    }
}

void run_handlers(Xlate *x, unsigned n)
{
    flags_save(x);
    load_handlers(x, x->k, n);
    if (n) {
        emit_jcc_to(x, 4, x->t->leave);
    } else {
        emit_jmp_to(x, x->t->leave);
    }
    flags_set(x, (Flags){ .state = FLAGS_STORED }, 0);
}
