/*
 * What translated code has in common: the way in and out, the call of a handler, flags from
 * whatever SoftCpu has, and the search for the block at an address that was computed.
 */
#include "engine/accel/soft/translate.h"

static void push(Xlate *x, unsigned reg)
{
    if (reg >= 8) {
        emit8(x, 0x41);
    }
    emit8(x, 0x50 | (reg & 7));
}

static void pop(Xlate *x, unsigned reg)
{
    if (reg >= 8) {
        emit8(x, 0x41);
    }
    emit8(x, 0x58 | (reg & 7));
}

static void call_host(Xlate *x, uintptr_t fn)
{
    emit_imm(x, RAX, fn);
    emit8(x, 0xff);
    emit8(x, 0xd0);
}

static void registers(Xlate *x, bool store)
{
    for (unsigned n = 0; n < 16; n++) {
        if (host_of[n] == NONE) {
            continue;
        }
        if (store) {
            emit_store(x, 3, rm_cpu(GPR_OFF(n)), host_of[n]);
        } else {
            emit_load(x, 3, host_of[n], rm_cpu(GPR_OFF(n)));
        }
    }
}

/* Inside, only the budget is counted: SoftCpu.counted is the sum that it has with icount. */
static void count_in(Xlate *x)
{
    emit_load(x, 3, T2, rm_cpu(CPU_OFF(icount)));
    emit_alu(x, 3, ADD_, T2, rm_cpu(CPU_OFF(budget)));
    emit_store(x, 3, rm_cpu(CPU_OFF(counted)), T2);
}

static void count_out(Xlate *x)
{
    emit_load(x, 3, T3, rm_cpu(CPU_OFF(counted)));
    emit_alu(x, 3, SUB_, T3, rm_cpu(CPU_OFF(budget)));
    emit_store(x, 3, rm_cpu(CPU_OFF(icount)), T3);
}

static const uint8_t kept[6] = { RBX, RBP, R12, R13, R14, R15 };

static void make_enter(Xlate *x)
{
    uintptr_t at = (uintptr_t)(x->t->rx + x->at);

    memcpy(&x->t->enter, &at, sizeof(at));
    for (unsigned n = 0; n < 6; n++) {
        push(x, kept[n]);
    }
    emit_alu_imm(x, 3, SUB_, rm_reg(RSP), 8);
    emit_lea(x, 3, RBP, (Mem){ RDI, NONE, 0, CPU_BIAS });
    emit_store(x, 3, rm_reg(T1), RSI);
    count_in(x);
    registers(x, false);
    emit_op(x, 2, 0xff, 4, rm_reg(T1));
}

static void make_leave(Xlate *x)
{
    x->t->leave_link = x->at; /* with the link's number in T1 */
    emit_store(x, 2, rm_cpu(CPU_OFF(link)), T1);
    x->t->leave = x->at;
    registers(x, true);
    count_out(x);
    emit_alu_imm(x, 3, ADD_, rm_reg(RSP), 8);
    for (unsigned n = 6; n-- > 0;) {
        pop(x, kept[n]);
    }
    emit8(x, 0xc3);
}

static void exec_stop(SoftCpu *c, const SoftInsn *i)
{
    c->stopped = true;
}

/* The handlers of instructions what & 255 on, what >> 8 of them; 0: of all that follow. False: the
 * block is over, rip is set. */
static bool handlers(SoftCpu *c, SoftBlock *b, uint32_t what)
{
    unsigned first = what & 255, n = what >> 8;
    SoftInsn *stop = &b->insns[first + n];

    c->block = b;
    c->insn = &b->insns[first];
    if (!n) {
        b->insns[first].fn(c, &b->insns[first]);
        return false;
    }
    c->stop = stop;
    c->stop_fn = stop->fn;
    c->stopped = false;
    stop->fn = exec_stop;
    b->insns[first].fn(c, &b->insns[first]);
    c->stop = NULL;
    if (stop->fn == exec_stop) { /* else the rest of the block was cut off */
        stop->fn = c->stop_fn;
    }
    return c->stopped;
}

void soft_translated_escape(SoftCpu *c)
{
    if (c->stop) {
        if (c->stop->fn == exec_stop) {
            c->stop->fn = c->stop_fn;
        }
        c->stop = NULL;
    }
    c->link = 0;
    soft_translated_left(c);
}

/* T1: block; T2: which. Leaves ZF clear when the code goes on. */
static void make_run(Xlate *x)
{
    x->t->run = x->at;
    registers(x, true);
    count_out(x);
    emit_lea(x, 3, RDI, (Mem){ RBP, NONE, 0, -CPU_BIAS });
    emit_store(x, 3, rm_reg(RSI), T1);
    emit_store(x, 2, rm_reg(RDX), T2);
    emit_alu_imm(x, 3, SUB_, rm_reg(RSP), 8);
    call_host(x, (uintptr_t)handlers);
    emit_alu_imm(x, 3, ADD_, rm_reg(RSP), 8);
    emit_store(x, 2, rm_reg(T1), RAX);
    count_in(x);
    registers(x, false);
    emit_op(x, 0, 0x84, T1, rm_reg(T1));
    emit8(x, 0xc3);
}

/* Keeps T1. The flags come back in the host's. */
static void make_flags(Xlate *x)
{
    x->t->flags = x->at;
    push(x, T1);
    registers(x, true);
    emit_lea(x, 3, RDI, (Mem){ RBP, NONE, 0, -CPU_BIAS });
    call_host(x, (uintptr_t)soft_flags_arith);
    emit_store(x, 2, rm_reg(T2), RAX);
    registers(x, false);
    pop(x, T1);
    push(x, T2);
    emit8(x, 0x9d); /* POPF: only arithmetic flags are in there */
    emit8(x, 0xc3);
}

/* rip is set: to its block, when the table has it and its page is where it was. */
static void make_lookup(Xlate *x)
{
    int32_t set = (int32_t)(SOFT_FETCH * sizeof(((SoftCpu *)NULL)->tlb[0][0]));

    _Static_assert(sizeof(Jump) == 32, "the shifts below");
    x->t->lookup = x->at;
    emit_load(x, 3, T1, rm_cpu(CPU_OFF(rip)));
    emit_store(x, 3, rm_reg(T2), T1);
    emit_shift_imm(x, 3, 5, rm_reg(T2), JUMP_BITS);
    emit_alu(x, 3, XOR_, T2, rm_reg(T1));
    emit_alu_imm(x, 2, AND_, rm_reg(T2), JUMP_SIZE - 1);
    emit_shift_imm(x, 2, 4, rm_reg(T2), 5);
    emit_alu(x, 3, ADD_, T2, rm_cpu(CPU_OFF(jumps)));
    emit_alu(x, 3, CMP_, T1, rm_mem(T2, offsetof(Jump, rip)));
    emit_jcc_to(x, 5, x->t->leave);
    emit_store(x, 2, rm_reg(T3), T1);
    emit_shift_imm(x, 2, 5, rm_reg(T3), 12 - 5);
    emit_alu_imm(x, 2, AND_, rm_reg(T3), (SOFT_TLB_SIZE - 1) * sizeof(SoftTlbEntry));
    emit_alu(x, 3, ADD_, T3, rm_cpu(CPU_OFF(tlb_now)));
    emit_alu(x, 3, ADD_, T1, rm_mem(T3, set + (int32_t)offsetof(SoftTlbEntry, host)));
    emit_alu(x, 3, CMP_, T1, rm_mem(T2, offsetof(Jump, host)));
    emit_jcc_to(x, 5, x->t->leave);
    emit_load(x, 3, T1, rm_mem(T3, set + (int32_t)offsetof(SoftTlbEntry, tag)));
    emit_alu(x, 3, CMP_, T1, rm_mem(T2, offsetof(Jump, page)));
    emit_jcc_to(x, 5, x->t->leave);
    emit_op(x, 2, 0xff, 4, rm_mem(T2, offsetof(Jump, code)));
}

void translate_common(SoftTranslator *t)
{
    Xlate x = { .t = t, .at = 64 };

    make_enter(&x);
    make_leave(&x);
    make_run(&x);
    make_flags(&x);
    make_lookup(&x);
    t->start = t->used = (x.at + 63) & ~(size_t)63;
}
