/*
 * Translation of hot blocks to host code: the way in. Without a translator (SoftCpu.translator is
 * NULL) the interpreter does everything.
 */
#pragma once

#include "engine/accel/soft/soft-priv.h"

typedef struct SoftTranslator SoftTranslator;

/* What an instruction is to the translator: SoftInsn.kind. */
typedef enum {
    KIND_OTHER,  /* its handler is called */
    KIND_SYSTEM, /* so is it, and it is the last of its block */
    KIND_NOP,
    KIND_MOV,
    KIND_MOVZX,
    KIND_MOVSX, /* SoftInsn.width: of the source */
    KIND_LEA,
    KIND_ADD, /* to CMP: in the encoding's order */
    KIND_OR,
    KIND_ADC,
    KIND_SBB,
    KIND_AND,
    KIND_SUB,
    KIND_XOR,
    KIND_CMP,
    KIND_TEST,
    KIND_NOT,
    KIND_NEG,
    KIND_INC,
    KIND_DEC,
    KIND_ROL, /* to SAR: in the encoding's order, without RCL and RCR */
    KIND_ROR,
    KIND_SHL,
    KIND_SHR,
    KIND_SAR,
    KIND_RCL,
    KIND_RCR,
    KIND_IMUL, /* two operands */
    KIND_IMUL3,
    KIND_MUL, /* one operand */
    KIND_IMUL1,
    KIND_DIV,
    KIND_IDIV,
    KIND_PUSH,
    KIND_POP,
    KIND_LEAVE,
    KIND_XCHG,
    KIND_BSWAP,
    KIND_WIDEN_A,  /* CBW CWDE CDQE */
    KIND_WIDEN_AD, /* CWD CDQ CQO */
    KIND_SET,
    KIND_CMOV,
    KIND_BT, /* to BTC: in the encoding's order */
    KIND_BTS,
    KIND_BTR,
    KIND_BTC,
    KIND_XADD,
    KIND_CMPXCHG,
    KIND_JCC,
    KIND_JMP,
    KIND_CALL,
    KIND_RET,
} SoftKind;
typedef enum { OPS_NONE, OPS_R, OPS_M, OPS_I, OPS_RR, OPS_RI, OPS_RM, OPS_MR, OPS_MI } SoftOps;

/* Sets kind, ops and width of a decoded instruction. `system`: the system group's. */
void soft_classify(const SoftDecode *d, bool system, SoftInsn *out);

/* `threshold`: how often a block is interpreted first; 0 translates also what gains nothing. NULL:
 * no executable memory can be had. */
SoftTranslator *soft_translator_new(unsigned threshold);
void soft_translator_free(SoftTranslator *t);
/* With the blocks. */
void soft_translator_flush(SoftCpu *c);
/* The block has host code, perhaps from now on: soft_translated_run may be called. */
bool soft_translated(SoftCpu *c, SoftBlock *b);
/* From `b`, which is at c->rip and fits the budget, for as many blocks as follow without a look. */
void soft_translated_run(SoftCpu *c, SoftBlock *b);
/* A handler was left by siglongjmp. */
void soft_translated_escape(SoftCpu *c);
void soft_translator_count(const SoftCpu *c, uint64_t *blocks, uint64_t *entries); /* adds */
