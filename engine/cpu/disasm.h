/*
 * Instructions as text and as data, for logs, hooks and scripts. Zydis does the work; nothing of it
 * shows here. No locks, any thread.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu/x86-state.h"

#define X86_INSN_MAX   15 /* bytes */
#define DISASM_TEXT    96
#define DISASM_OPS_MAX 5 /* that are written out */

typedef enum { DISASM_REGISTER = 1, DISASM_MEMORY, DISASM_IMMEDIATE, DISASM_POINTER } DisasmKind;
typedef struct DisasmOperand {
    DisasmKind kind;
    bool read, written;
    uint16_t bits;    /* of the operand */
    const char *reg;  /* REGISTER: its name */
    int64_t value;    /* IMMEDIATE; the target's address when the branch is relative */
    const char *seg;  /* MEMORY: names, NULL when absent */
    const char *base; /* "rip" too */
    const char *index;
    uint8_t scale;
    int64_t disp;
} DisasmOperand;

typedef struct Disasm {
    uint8_t len;       /* 0: no instruction, or more bytes are needed */
    uint16_t mnemonic; /* numbers of disasm_mnemonic and disasm_category */
    uint16_t category;
    unsigned n_operands;
    DisasmOperand operands[DISASM_OPS_MAX];
    char text[DISASM_TEXT]; /* Intel syntax; "(bad)" when len is 0 */
} Disasm;

/* `bits`: 16, 32 or 64. At most 15 of the bytes are looked at. False: no instruction. */
bool disasm(unsigned bits, uint64_t rip, const uint8_t *bytes, unsigned avail, Disasm *out);
/* Only len, mnemonic and category. */
bool disasm_brief(unsigned bits, const uint8_t *bytes, unsigned avail, Disasm *out);
/* Of the code that a state is about to execute. */
unsigned disasm_bits(const X86CPUState *s);

/* Names in lower case ("mov", "call"; categories "string", "cond_br" …); -1: no such name. */
const char *disasm_mnemonic_name(unsigned mnemonic);
const char *disasm_category_name(unsigned category);
int disasm_mnemonic(const char *name);
int disasm_category(const char *name);
unsigned disasm_mnemonics(void); /* how many numbers there are */
unsigned disasm_categories(void);
