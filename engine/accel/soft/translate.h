/*
 * The translator: what its files share. translate.c says how it works.
 *
 * Host code of a vCPU keeps the guest's most used registers in the host's: see host_of. RBP is the
 * vCPU's record, biased so that what is used most is within a byte's displacement; R11, R14 and R15
 * are for the instruction at hand. RSP is the host's own.
 */
#pragma once

#include <stddef.h>

#include "engine/accel/soft/soft-translate.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { T1 = R11, T2 = R14, T3 = R15, NONE = 0xff };

#define CPU_BIAS      128
#define CPU_OFF(f)    ((int32_t)offsetof(SoftCpu, f) - CPU_BIAS)
#define GPR_OFF(n)    ((int32_t)((n)*8) - CPU_BIAS)
#define JUMP_BITS     11
#define JUMP_SIZE     (1u << JUMP_BITS)
#define JUMP_TABLES   4
#define CODE_SIZE     (24u << 20)
#define LINKS_MAX     (1u << 16)  /* a power of 2 */
#define BLOCK_ROOM    (48u << 10) /* of host code that one block may need at most */
#define FIXUPS_MAX    8
#define COND_FLAGS_N  8
#define SLOW_FROM_MAX 6 /* ways to one slow way */

/* Where a translated block goes on in its own page: the code that is there, and the guest code that
 * it must be of. */
typedef struct Link {
    const uint8_t *target; /* read by host code */
    const uint8_t *host;   /* the guest's byte */
    uint64_t mode;
} Link;

/* Found by linear address; good while the software TLB says that the page is still there. */
typedef struct Jump {
    uint64_t rip;
    const uint8_t *code;
    const uint8_t *host;
    uint64_t page; /* the tag that its entry for fetches must have */
} Jump;

struct SoftTranslator {
    uint8_t *rw, *rx; /* one memfd, mapped twice: CODE_SIZE of code, then the links */
    size_t used, start;
    Link *links; /* in rw */
    unsigned n_links;
    Jump *jumps;
    uint32_t jump_mode[JUMP_TABLES]; /* a table's blocks are of one mode */
    unsigned threshold;
    void (*enter)(SoftCpu *c, const uint8_t *code);
    size_t leave, leave_link, run, flags, lookup; /* common pieces of code, offsets */
    uint64_t blocks, entries;
};

/* ---- emission ---------------------------------------------------------------------------- */

/* A memory operand of the host's: registers or NONE. */
typedef struct Mem {
    uint8_t base, index, scale;
    int32_t disp;
} Mem;
/* A register or memory. */
typedef struct Rm {
    uint8_t reg; /* NONE: `mem` */
    Mem mem;
} Rm;

/* Where one of the values is that flags are made of. */
typedef enum { LOC_STORED, LOC_REG, LOC_IMM } LocKind;
typedef struct Loc {
    LocKind kind; /* LOC_STORED: in SoftCpu.cc_dst or cc_src already */
    uint8_t reg;  /* number of a guest register, whose low part counts */
    uint64_t imm;
} Loc;
/*
 * The guest's arithmetic flags between two instructions: FLAGS_STORED when SoftCpu has them
 * (`known`: cc_op and cc_size are what `op` and `size` say), FLAGS_PENDING when they follow from
 * `op`, `size` and where its values are and nothing was stored but what LOC_STORED says;
 * FLAGS_COMPARE the same before the subtraction, `dst` being the first operand; FLAGS_DEAD when
 * nobody will ask, or only who takes them from the host's flags.
 */
typedef struct Flags {
    enum { FLAGS_STORED, FLAGS_PENDING, FLAGS_COMPARE, FLAGS_DEAD } state;
    bool known, guess; /* guess: of FLAGS_STORED, op and size are only likely */
    uint8_t op, size;
    Loc dst, src;
} Flags;

typedef struct Slow { /* out of line: the instruction's handler instead of what was tried */
    unsigned insn;
    unsigned n_from;
    size_t from[SLOW_FROM_MAX]; /* jumps to it: offsets of their displacements */
    size_t back;                /* 0: it does not come back */
    Flags before;
    Flags after;
    uint32_t host_flags; /* that must be there when it comes back */
    bool ends;           /* the handler sets rip */
} Slow;

typedef struct FlagsCall { /* out of line: flags from whatever SoftCpu has */
    size_t from, back;
} FlagsCall;

typedef struct Xlate {
    SoftTranslator *t;
    SoftCpu *c;
    SoftBlock *b;
    size_t at; /* offset of the next byte */
    bool failed;
    bool wide; /* 64-bit code */
    unsigned k;
    const SoftInsn *i;
    Flags flags;
    uint32_t host;                     /* guest flags that the host's flags show at the moment */
    uint32_t live[SOFT_BLOCK_MAX + 1]; /* [k]: flags that somebody may want after instruction k */
    Slow slow[SOFT_BLOCK_MAX];
    unsigned n_slow;
    bool slow_open; /* the last one is of the present instruction */
    FlagsCall calls[SOFT_BLOCK_MAX * 2];
    unsigned n_calls;
    struct {
        unsigned link;
    } outs[FIXUPS_MAX];
    unsigned n_outs;
    bool drop; /* the present instruction overwrites what the flags would be made of */
} Xlate;

void emit8(Xlate *x, unsigned v);
void emit32(Xlate *x, uint32_t v);
void emit64(Xlate *x, uint64_t v);
/* An instruction with ModRM. `op` is one byte, or 0x0fXX. `size`: log2 bytes. Flags of the host are
 * taken as kept: who emits one that changes them says so. */
#define OP_BYTE_RM 0x10000u /* in `op`: `rm` has 8 bits whatever the size */
void emit_op(Xlate *x, unsigned size, unsigned op, unsigned reg, Rm rm);
static inline Rm rm_reg(unsigned reg)
{
    return (Rm){ .reg = (uint8_t)reg };
}
static inline Rm rm_mem(unsigned base, int32_t disp)
{
    return (Rm){ .reg = NONE, .mem = { (uint8_t)base, NONE, 0, disp } };
}
static inline Rm rm_cpu(int32_t off)
{
    return rm_mem(RBP, off);
}
enum { ADD_, OR_, ADC_, SBB_, AND_, SUB_, XOR_, CMP_ }; /* numbers in the host's encoding */
void emit_alu(Xlate *x, unsigned size, unsigned alu, unsigned reg, Rm rm);    /* reg op= rm */
void emit_alu_to(Xlate *x, unsigned size, unsigned alu, Rm rm, unsigned reg); /* rm op= reg */
void emit_alu_imm(Xlate *x, unsigned size, unsigned alu, Rm rm, uint64_t imm);
void emit_load(Xlate *x, unsigned size, unsigned reg, Rm rm); /* zero-extended to 64 bits */
void emit_store(Xlate *x, unsigned size, Rm rm, unsigned reg);
void emit_store_imm(Xlate *x, unsigned size, Rm rm, uint64_t imm); /* of 64 bits: a signed 32 */
void emit_imm(Xlate *x, unsigned reg, uint64_t imm);               /* 64 bits */
void emit_lea(Xlate *x, unsigned size, unsigned reg, Mem mem);
void emit_shift_imm(Xlate *x, unsigned size, unsigned kind, Rm rm, unsigned count);
void emit_bit0(Xlate *x, unsigned reg); /* CF = bit 0 */
size_t emit_jcc(Xlate *x, unsigned cc); /* where the displacement is */
size_t emit_jmp(Xlate *x);
void emit_land(Xlate *x, size_t from);              /* a jump's displacement: to here */
void emit_jcc_to(Xlate *x, unsigned cc, size_t to); /* known places */
void emit_jmp_to(Xlate *x, size_t to);
void emit_call_to(Xlate *x, size_t to);
static inline bool fits32(uint64_t v)
{
    return (uint64_t)(int64_t)(int32_t)v == v;
}

/* ---- guest registers --------------------------------------------------------------------- */

extern const uint8_t host_of[16]; /* NONE: in SoftCpu.gpr */
static inline Rm guest_rm(unsigned n)
{
    return host_of[n] == NONE ? rm_cpu(GPR_OFF(n)) : rm_reg(host_of[n]);
}
/* The register in the host's, loaded into `scratch` when it is not there. */
unsigned guest_in(Xlate *x, unsigned n, unsigned scratch);
/* A value of `size` into the guest's register; 32 bits clear the upper half. */
void guest_set(Xlate *x, unsigned n, unsigned size, unsigned reg);
static inline unsigned gpr_of(uint8_t offset)
{
    return offset / 8;
}

/* ---- flags: translate-flags.c ------------------------------------------------------------ */

extern const uint16_t cond_flags[COND_FLAGS_N];
void flags_analyse(Xlate *x); /* fills `live` */
void flags_save(Xlate *x);    /* all of them into SoftCpu; host flags may change but are told */
/* Makes the host's flags show at least `need`. Uses T2 and T3. */
void flags_to_host(Xlate *x, uint32_t need);
void flags_to_host_of(Xlate *x, const Flags *f, uint32_t need);
/* Before a guest register is written by the present instruction, and before the flags that it uses
 * are asked for. */
void flags_before_write(Xlate *x, unsigned n);
/* The carry as cc_src wants it, for INC and DEC: after the last access that can fault. */
Loc flags_keep_carry(Xlate *x);
void flags_store(Xlate *x, const Flags *f);
/* The present instruction keeps or takes flags that only the host's have. */
bool flags_lost(const Xlate *x);
/* What the present instruction makes of them. */
void flags_set(Xlate *x, Flags f, uint32_t host);
/* They follow from a result in `dst` and a second operand in `src`, of which nothing is stored but
 * what LOC_STORED says. */
void flags_pending(Xlate *x, unsigned cc, Loc dst, Loc src, uint32_t host);
static inline bool flags_wanted(const Xlate *x)
{
    return x->live[x->k] != 0;
}
static inline Loc loc_reg(unsigned n)
{
    return (Loc){ .kind = LOC_REG, .reg = (uint8_t)n };
}
static inline Loc loc_imm(uint64_t v)
{
    return (Loc){ .kind = LOC_IMM, .imm = v };
}
static inline Loc loc_stored(void)
{
    return (Loc){ .kind = LOC_STORED };
}

/* ---- memory: translate-memory.c ---------------------------------------------------------- */

bool mem_simple(const Xlate *x); /* the present instruction's operand is one that the rest can do */
/* The operand's address without segment, as one of the host's. Uses T1 and T2. */
Mem mem_of(Xlate *x);
/* The operand's linear address in T1. */
void mem_linear_of(Xlate *x);
void mem_stack(Xlate *x, int32_t disp); /* rSP + disp in T1 */
/* From the linear address in T1 to the host's, or to the slow way. Uses T2 and T3. */
void mem_host_of(Xlate *x, unsigned access, unsigned len);
/* The instruction's handler from here on, not coming back. */
void slow_jcc(Xlate *x, unsigned cc);
void slow_end(Xlate *x, bool ends); /* after the present instruction, when it has a slow way */
void slow_finish(Xlate *x);         /* all of them, behind the block */
/* The handlers of `n` instructions from the present one on; 0: of the rest of the block. */
void run_handlers(Xlate *x, unsigned n);

/* ---- instructions ------------------------------------------------------------------------ */

/* Each answers false when the present instruction's handler has to be called; nothing was emitted
 * then. */
bool translate_insn(Xlate *x);    /* translate-insn.c: those not below */
bool translate_alu(Xlate *x);     /* translate-alu.c: ADD to CMP, TEST */
bool translate_unary(Xlate *x);   /* NOT, NEG, INC, DEC */
bool translate_shift(Xlate *x);   /* translate-shift.c */
bool translate_product(Xlate *x); /* translate-product.c: MUL, IMUL */
bool translate_divide(Xlate *x);  /* DIV, IDIV */
bool translate_atomic(Xlate *x);  /* translate-atomic.c: what is locked, XADD, CMPXCHG */
bool translate_bit(Xlate *x);     /* BT BTS BTR BTC */
bool translate_flow(Xlate *x);    /* translate-flow.c: the last of a block */
bool translate_is_flow(const SoftInsn *i);
/* On to `delta` from the block's first byte; flags are saved. */
void translate_exit(Xlate *x, uint64_t delta);
void translate_start(Xlate *x);           /* the look before a block */
void translate_outs(Xlate *x);            /* ways out that are not linked yet */
void soft_translated_left(SoftCpu *c);    /* translate.c */
void translate_common(SoftTranslator *t); /* translate-common.c: what is there once */
