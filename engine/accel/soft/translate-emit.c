/*
 * Host instructions. Nothing here knows what they are for.
 */
#include <string.h>

#include "engine/accel/soft/translate.h"

/* The guest's rSP and rBP live elsewhere: the host's have other work. What compiled code uses least
 * stays in memory. */
const uint8_t host_of[16] = { RAX, RCX, RDX,  RBX,  R12, R13,  RSI,  RDI,
                              R8,  R9,  NONE, NONE, R10, NONE, NONE, NONE };

void emit8(Xlate *x, unsigned v)
{
    if (x->at >= CODE_SIZE) {
        x->failed = true;
        return;
    }
    x->t->rw[x->at++] = (uint8_t)v;
}

void emit32(Xlate *x, uint32_t v)
{
    if (x->at + 4 > CODE_SIZE) {
        x->failed = true;
        return;
    }
    memcpy(x->t->rw + x->at, &v, 4);
    x->at += 4;
}

void emit64(Xlate *x, uint64_t v)
{
    emit32(x, (uint32_t)v);
    emit32(x, (uint32_t)(v >> 32));
}

static void emit_mem(Xlate *x, unsigned reg, Mem m)
{
    bool sib = m.index != NONE || m.base == NONE || (m.base & 7) == RSP;
    unsigned mod;

    if (m.base == NONE) {
        mod = 0;
    } else if (m.disp == 0 && (m.base & 7) != RBP) {
        mod = 0;
    } else {
        mod = m.disp == (int8_t)m.disp ? 1 : 2;
    }
    emit8(x, mod << 6 | (reg & 7) << 3 | (sib ? 4u : m.base & 7u));
    if (sib) {
        emit8(x, (unsigned)m.scale << 6 | (m.index == NONE ? 4u : m.index & 7u) << 3 |
                     (m.base == NONE ? 5u : m.base & 7u));
    }
    if (mod == 1) {
        emit8(x, (uint8_t)m.disp);
    } else if (mod == 2 || m.base == NONE) {
        emit32(x, (uint32_t)m.disp);
    }
}

void emit_op(Xlate *x, unsigned size, unsigned op, unsigned reg, Rm rm)
{
    unsigned rex = size == 3 ? 8 : 0;
    bool byte_rm = op & OP_BYTE_RM;

    op &= 0xffff;
    rex |= reg >= 8 ? 4 : 0;
    if (rm.reg != NONE) {
        rex |= rm.reg >= 8 ? 1 : 0;
    } else {
        rex |= rm.mem.base != NONE && rm.mem.base >= 8 ? 1 : 0;
        rex |= rm.mem.index != NONE && rm.mem.index >= 8 ? 2 : 0;
    }
    /* A prefix that says nothing makes SPL to DIL of AH to BH. */
    if (rex || (size == 0 && reg >= 4 && reg < 8) ||
        ((size == 0 || byte_rm) && rm.reg >= 4 && rm.reg < 8)) {
        rex |= 0x40;
    }
    if (size == 1) {
        emit8(x, 0x66);
    }
    if (rex) {
        emit8(x, rex);
    }
    if (op > 0xff) {
        emit8(x, op >> 8);
    }
    emit8(x, op & 0xff);
    if (rm.reg != NONE) {
        emit8(x, 0xc0 | (reg & 7) << 3 | (rm.reg & 7));
    } else {
        emit_mem(x, reg, rm.mem);
    }
}

void emit_alu(Xlate *x, unsigned size, unsigned alu, unsigned reg, Rm rm)
{
    emit_op(x, size, alu << 3 | (size ? 3 : 2), reg, rm);
    x->host = 0;
}

void emit_alu_to(Xlate *x, unsigned size, unsigned alu, Rm rm, unsigned reg)
{
    emit_op(x, size, alu << 3 | (size ? 1 : 0), reg, rm);
    x->host = 0;
}

/* The immediate of 64-bit operands is sign-extended from 32 bits. */
void emit_alu_imm(Xlate *x, unsigned size, unsigned alu, Rm rm, uint64_t imm)
{
    if (size == 0) {
        emit_op(x, 0, 0x80, alu, rm);
        emit8(x, (uint8_t)imm);
    } else if ((size == 1 ? (int16_t)imm : (int32_t)imm) == (int8_t)imm) {
        emit_op(x, size, 0x83, alu, rm);
        emit8(x, (uint8_t)imm);
    } else {
        emit_op(x, size, 0x81, alu, rm);
        emit8(x, (uint8_t)imm);
        emit8(x, (uint8_t)(imm >> 8));
        if (size > 1) {
            emit8(x, (uint8_t)(imm >> 16));
            emit8(x, (uint8_t)(imm >> 24));
        }
    }
    x->host = 0;
}

void emit_load(Xlate *x, unsigned size, unsigned reg, Rm rm)
{
    if (size < 2) {
        /* MOVZX: the size is the source's, a 32-bit result clears the rest. */
        emit_op(x, 2, size ? 0x0fb7 : 0x0fb6 | OP_BYTE_RM, reg, rm);
    } else {
        emit_op(x, size, 0x8b, reg, rm);
    }
}

void emit_store(Xlate *x, unsigned size, Rm rm, unsigned reg)
{
    emit_op(x, size, size ? 0x89 : 0x88, reg, rm);
}

void emit_store_imm(Xlate *x, unsigned size, Rm rm, uint64_t imm)
{
    emit_op(x, size, size ? 0xc7 : 0xc6, 0, rm);
    emit8(x, (uint8_t)imm);
    if (size > 0) {
        emit8(x, (uint8_t)(imm >> 8));
    }
    if (size > 1) {
        emit8(x, (uint8_t)(imm >> 16));
        emit8(x, (uint8_t)(imm >> 24));
    }
}

void emit_imm(Xlate *x, unsigned reg, uint64_t imm)
{
    if (imm <= UINT32_MAX) {
        if (reg >= 8) {
            emit8(x, 0x41);
        }
        emit8(x, 0xb8 | (reg & 7));
        emit32(x, (uint32_t)imm);
    } else if (fits32(imm)) {
        emit_op(x, 3, 0xc7, 0, rm_reg(reg));
        emit32(x, (uint32_t)imm);
    } else {
        emit8(x, reg >= 8 ? 0x49 : 0x48);
        emit8(x, 0xb8 | (reg & 7));
        emit64(x, imm);
    }
}

void emit_lea(Xlate *x, unsigned size, unsigned reg, Mem mem)
{
    emit_op(x, size, 0x8d, reg, (Rm){ .reg = NONE, .mem = mem });
}

void emit_shift_imm(Xlate *x, unsigned size, unsigned kind, Rm rm, unsigned count)
{
    emit_op(x, size, size ? 0xc1 : 0xc0, kind, rm);
    emit8(x, count);
    x->host = 0;
}

void emit_bit0(Xlate *x, unsigned reg)
{
    emit_op(x, 2, 0x0fba, 4, rm_reg(reg));
    emit8(x, 0);
    x->host = 0;
}

size_t emit_jcc(Xlate *x, unsigned cc)
{
    emit8(x, 0x0f);
    emit8(x, 0x80 | cc);
    emit32(x, 0);
    return x->at - 4;
}

size_t emit_jmp(Xlate *x)
{
    emit8(x, 0xe9);
    emit32(x, 0);
    return x->at - 4;
}

void emit_land(Xlate *x, size_t from)
{
    int32_t rel = (int32_t)((int64_t)x->at - (int64_t)(from + 4));

    if (!x->failed) {
        memcpy(x->t->rw + from, &rel, 4);
    }
}

static void emit_rel(Xlate *x, size_t to)
{
    emit32(x, (uint32_t)((int64_t)to - (int64_t)(x->at + 4)));
}

void emit_jcc_to(Xlate *x, unsigned cc, size_t to)
{
    emit8(x, 0x0f);
    emit8(x, 0x80 | cc);
    emit_rel(x, to);
}

void emit_jmp_to(Xlate *x, size_t to)
{
    emit8(x, 0xe9);
    emit_rel(x, to);
}

void emit_call_to(Xlate *x, size_t to)
{
    emit8(x, 0xe8);
    emit_rel(x, to);
}

/* ---- guest registers --------------------------------------------------------------------- */

unsigned guest_in(Xlate *x, unsigned n, unsigned scratch)
{
    if (host_of[n] != NONE) {
        return host_of[n];
    }
    emit_load(x, 3, scratch, guest_rm(n));
    return scratch;
}

void guest_set(Xlate *x, unsigned n, unsigned size, unsigned reg)
{
    Rm to = guest_rm(n);

    if (to.reg == NONE && size == 2) {
        unsigned t = reg == T1 || reg == T2 || reg == T3 ? reg : T2;

        emit_store(x, 2, rm_reg(t), reg); /* clears the upper half */
        emit_store(x, 3, to, t);
    } else if (size < 3 || to.reg != reg) {
        emit_store(x, size, to, reg);
    }
}
