/*
 * The software CPU: what its files share. Sources: Intel SDM volumes 1-3, AMD APM volumes 1-5.
 *
 * Guest code is decoded once (soft-decode.c, Zydis) into blocks of SoftInsn (soft-block.c), keyed
 * by physical address and mode; a block is executed by threaded dispatch: each instruction's
 * handler ends in a tail call to the next one's. Handlers are grouped by what they do: exec-int.c,
 * exec-string.c, exec-flow.c, exec-system.c, exec-vector.c. What raises a fault leaves by
 * siglongjmp to soft_run: a handler therefore changes architectural state only after its last
 * access that can fault.
 *
 * Seam for a translator: a SoftBlock is data; `soft_execute_block` is the only thing that knows how
 * one is executed.
 */
#pragma once

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/accel/accel.h"
#include "engine/cpu/cpu.h"
#include "engine/cpu/x86-state.h"

typedef struct SoftCpu SoftCpu;
typedef struct SoftInsn SoftInsn;
typedef struct SoftBlock SoftBlock;
typedef struct SoftAccel SoftAccel;

/* ---- exceptions -------------------------------------------------------------------------- */

enum {
    EXC_DE,
    EXC_DB,
    EXC_NMI,
    EXC_BP,
    EXC_OF,
    EXC_BR,
    EXC_UD,
    EXC_NM,
    EXC_DF,
    EXC_TS = 10,
    EXC_NP,
    EXC_SS,
    EXC_GP,
    EXC_PF,
    EXC_MF = 16,
    EXC_AC,
    EXC_MC,
    EXC_XM
};
enum { PF_PRESENT = 1, PF_WRITE = 2, PF_USER = 4, PF_RESERVED = 8, PF_FETCH = 16 };

/* ---- flags ------------------------------------------------------------------------------- */

enum {
    FLAG_CF = 1 << 0,
    FLAG_PF = 1 << 2,
    FLAG_AF = 1 << 4,
    FLAG_ZF = 1 << 6,
    FLAG_SF = 1 << 7,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_OF = 1 << 11,
    FLAG_IOPL = 3 << 12,
    FLAG_NT = 1 << 14,
    FLAG_RF = 1 << 16,
    FLAG_VM = 1 << 17,
    FLAG_AC = 1 << 18,
    FLAG_VIF = 1 << 19,
    FLAG_VIP = 1 << 20,
    FLAG_ID = 1 << 21,
    FLAGS_ARITH = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF,
};
/* What produced the arithmetic flags: computed from cc_dst (result), cc_src (second operand) and
 * the operand size (cc_size: 0..3 = 8..64 bits) when somebody asks. */
typedef enum {
    CC_FLAGS, /* cc_dst holds the six flags as they are */
    CC_ADD,
    CC_ADC,
    CC_SUB,
    CC_SBB,
    CC_LOGIC,
    CC_INC,
    CC_DEC, /* INC, DEC: cc_src holds the carry kept */
    CC_SHL,
    CC_SHR,
    CC_SAR, /* cc_src: the value shifted by count - 1 */
} CcOp;

/* ---- instructions ------------------------------------------------------------------------ */

typedef void (*SoftExec)(SoftCpu *c, const SoftInsn *i);

#define SOFT_GPR_NONE 16 /* index of a register that is always 0 */
/* A register operand is a byte offset into SoftCpu.gpr, so that AH is offset 1 of RAX and handlers
 * need no special case. */
#define SOFT_REG(n)      ((uint8_t)((n)*8))
#define SOFT_REG_HIGH(n) ((uint8_t)((n)*8 + 1))

struct SoftInsn {
    SoftExec fn;
    uint64_t imm; /* immediate, sign-extended; branch target as an offset from the block's start;
                     pointer to a thunk */
    int64_t disp;
    uint16_t off; /* of the instruction from the block's first byte */
    uint8_t len;
    uint8_t dst, src;           /* register operands, SOFT_REG */
    uint8_t base, index, scale; /* memory operand: gpr numbers (SOFT_GPR_NONE when absent), shift */
    uint8_t seg;                /* X86_ES … */
    uint8_t op_size;            /* log2 bytes of the operand */
    uint8_t addr_size;          /* log2 bytes of the address: 1 2 3 */
    uint8_t flags;              /* SOFT_I_* */
    uint16_t aux;               /* condition, vector number, opcode extension: the handler's own */
};
enum { SOFT_I_LOCK = 1, SOFT_I_REP = 2, SOFT_I_REPNE = 4, SOFT_I_RIP_RELATIVE = 8 };

#define SOFT_BLOCK_MAX 64 /* instructions */
typedef struct SoftMode { /* what decoding depends on; compared as one integer */
    uint8_t
        code_size; /* log2 bytes of the default operand: 1, 2 (also 64-bit mode, see `long_mode`) */
    uint8_t stack_size; /* log2 bytes of the stack pointer */
    bool long_mode;     /* 64-bit code */
    uint8_t cpl;
} SoftMode;
struct SoftBlock {
    uint64_t paddr; /* of the first byte; the block ends at the page's end at the latest, except for
                       one instruction that crosses */
    uint32_t mode;
    uint16_t n, bytes;
    bool crosses;    /* its last instruction continues on another page */
    uint64_t paddr2; /* of that page */
    SoftBlock *next_in_hash, *next_in_page;
    SoftBlock *link[2]; /* blocks that followed last time: taken and not taken; valid while their
                           generation is */
    uint64_t link_generation[2];
    uint64_t generation;
    SoftInsn insns[]; /* n, and an end marker whose handler leaves the block */
};

/* ---- software TLB ------------------------------------------------------------------------ */

#define SOFT_TLB_SIZE 1024
enum { SOFT_READ, SOFT_WRITE, SOFT_FETCH, SOFT_ACCESSES };
/* An entry answers for one page and one kind of access: tag is the page's linear address, or an odd
 * number that matches none. `host` is added to the linear address to give the host's; pages that
 * are not plain RAM (I/O, ROM written, watched, holding decoded code when written) never have one.
 */
typedef struct SoftTlbEntry {
    uint64_t tag;
    uintptr_t host;
    uint64_t paddr;
    bool global, user, slow;
} SoftTlbEntry;

/* ---- the CPU ----------------------------------------------------------------------------- */

struct SoftCpu {
    uint64_t gpr[X86_GPRS + 1]; /* [SOFT_GPR_NONE] stays 0 */
    uint64_t rip;               /* of the block being executed; of the next instruction outside */
    uint64_t cc_dst, cc_src;
    uint8_t cc_op, cc_size;
    uint32_t flags;       /* rflags without the arithmetic ones */
    const SoftInsn *insn; /* the one that made the last memory access: where a fault is */
    const SoftBlock *block;
    int64_t budget; /* instructions until the run loop wants to look */
    SoftTlbEntry tlb[2][SOFT_ACCESSES][SOFT_TLB_SIZE]; /* [user][access] */
    X86Segment seg[X86_SEGS];
    X86Table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t a20_mask; /* and-ed to physical addresses */
    SoftMode mode;
    bool flat_segments;      /* CS DS ES SS have base 0 and no limit that can be hit: no checks */
    bool inhibit_interrupts; /* after STI, MOV SS: for one instruction */
    uint8_t cpl;
    uint64_t icount; /* executed so far */
    uint64_t tsc_offset;
    uint8_t fpu[X86_XSAVE_MAX] __attribute__((
        aligned(64))); /* x87, MMX, SSE, AVX: an XSAVE area of the host's own layout */
    struct {           /* delivery in progress: for double faults */
        bool active;
        uint8_t vector;
    } delivering;
    bool reset_soon, triple_fault, halted;
    VCpu *vcpu;
    SoftAccel *accel;
    sigjmp_buf escape; /* soft_raise and soft_leave come back here */
};

/* ---- control ----------------------------------------------------------------------------- */

/* Leaves the instruction with an exception; state is as before it. rip is found from c->insn. */
_Noreturn void soft_raise(SoftCpu *c, unsigned vector);
_Noreturn void soft_raise_error(SoftCpu *c, unsigned vector, uint32_t error);
_Noreturn void soft_page_fault(SoftCpu *c, uint64_t addr, uint32_t error);
/* Leaves the block after the present instruction: rip is set to the next one. */
_Noreturn void soft_leave(SoftCpu *c);

/* Every handler that can fault, and every one that reads rip, says first where it is. */
#define SOFT_HERE(c, i) ((c)->insn = (i))
#define SOFT_NEXT(c, i) return (i)[1].fn((c), (i) + 1)
static inline uint64_t soft_rip(const SoftCpu *c, const SoftInsn *i)
{
    return c->rip + i->off;
}
static inline uint64_t soft_next_rip(const SoftCpu *c, const SoftInsn *i)
{
    return c->rip + i->off + i->len;
}

/* ---- flags (soft-flags.h has the inline forms) --------------------------------------------- */

uint32_t soft_flags_arith(const SoftCpu *c); /* the six flags */
uint64_t soft_rflags(const SoftCpu *c);      /* all, as PUSHF stores them */
void soft_set_rflags(SoftCpu *c, uint64_t v, uint64_t mask);
bool soft_condition(const SoftCpu *c, unsigned cc); /* 0..15 as in Jcc's opcode */

/* ---- memory ------------------------------------------------------------------------------ */

/* Linear address of a memory operand: segment base, limit and type checks (#GP, #SS), canonical
 * check, address size. `len`: bytes accessed. */
uint64_t soft_linear(SoftCpu *c, const SoftInsn *i, unsigned len, bool is_write);
/* Accesses at a linear address with the CPL's rights: TLB hit inline, else slow. Values are
 * zero-extended. May leave by soft_page_fault. */
uint64_t soft_load(SoftCpu *c, uint64_t linear, unsigned len);
void soft_store(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len);
void soft_load_bytes(SoftCpu *c, uint64_t linear, void *buf, unsigned len);
void soft_store_bytes(SoftCpu *c, uint64_t linear, const void *buf, unsigned len);
/* As a supervisor whatever the CPL is (descriptor tables, TSS, interrupt stacks). */
uint64_t soft_load_system(SoftCpu *c, uint64_t linear, unsigned len);
void soft_store_system(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len);
/* Host address for a locked or wide access to plain RAM that does not cross a page; NULL: go the
 * slow way. Faults are raised. */
void *soft_host(SoftCpu *c, uint64_t linear, unsigned len, unsigned access);
/* Raises now what a write there would raise, without writing (pushes of several values, string
 * instructions). */
void soft_probe_write(SoftCpu *c, uint64_t linear, unsigned len);
void soft_tlb_flush(SoftCpu *c, bool global_too);
void soft_tlb_flush_page(SoftCpu *c, uint64_t linear);

/* ---- segments, control transfers, interrupts (soft-segment.c, soft-transfer.c, soft-interrupt.c,
 * soft-task.c) -------- */

/* MOV/POP/LxS to a segment register with all checks of the mode; raises #GP #NP #SS. Not for CS. */
void soft_load_segment(SoftCpu *c, unsigned seg, uint16_t selector);
/* Fetches a descriptor; raises `vector` with the selector when it is outside its table. */
uint64_t soft_descriptor(SoftCpu *c, uint16_t selector, unsigned vector, uint64_t *high);
void soft_far_jump(SoftCpu *c, uint16_t selector, uint64_t offset, unsigned op_size,
                   uint64_t next_rip);
void soft_far_call(SoftCpu *c, uint16_t selector, uint64_t offset, unsigned op_size,
                   uint64_t next_rip);
void soft_far_return(SoftCpu *c, unsigned op_size, unsigned pop_bytes);
void soft_iret(SoftCpu *c, unsigned op_size);
void soft_task_switch(SoftCpu *c, uint16_t tss_selector, unsigned source, uint64_t next_rip,
                      bool has_error, uint32_t error);
enum { TASK_FROM_JUMP, TASK_FROM_CALL, TASK_FROM_IRET, TASK_FROM_GATE };
/* Delivers an exception, INT n or external interrupt through the IDT of the mode. `next_rip` is
 * pushed. Contributory faults become #DF, a third one a triple fault: c->triple_fault. Called from
 * the run loop (outside of blocks); faults during delivery come back through escape. */
typedef enum {
    SOFT_INT_HARDWARE,
    SOFT_INT_EXCEPTION,
    SOFT_INT_SOFTWARE /* INT n, INT3, INTO */,
    SOFT_INT_ICEBP
} SoftIntKind;
void soft_interrupt(SoftCpu *c, unsigned vector, SoftIntKind kind, bool has_error, uint32_t error,
                    uint64_t next_rip);
/* After CR0, CR4, EFER, CS or CPL changed: mode, flat_segments, TLB as the architecture wants it.
 */
void soft_mode_changed(SoftCpu *c);
void soft_set_cr0(SoftCpu *c, uint64_t v);
void soft_set_cr3(SoftCpu *c, uint64_t v);
void soft_set_cr4(SoftCpu *c, uint64_t v);
void soft_set_efer(SoftCpu *c, uint64_t v);
bool soft_rdmsr(SoftCpu *c, uint32_t index, uint64_t *v); /* false: #GP */
bool soft_wrmsr(SoftCpu *c, uint32_t index, uint64_t v);
void soft_cpuid(SoftCpu *c, uint32_t leaf, uint32_t index, uint32_t out[4]);
void soft_syscall(SoftCpu *c, uint64_t next_rip);
void soft_sysret(SoftCpu *c, unsigned op_size);
void soft_sysenter(SoftCpu *c);
void soft_sysexit(SoftCpu *c, unsigned op_size);
uint64_t soft_tsc(SoftCpu *c);

/* ---- port I/O: checks IOPL and the TSS bitmap, then goes through cpu_handle_exit
 * ----------------------------------- */

uint32_t soft_in(SoftCpu *c, uint16_t port, unsigned len);
void soft_out(SoftCpu *c, uint16_t port, uint32_t value, unsigned len);

/* ---- decoding and blocks ----------------------------------------------------------------- */

/* Decodes one instruction of `avail` bytes in a mode. Sets fn and operands. Returns its length; 0:
 * more bytes are needed (the caller has the next page's); an encoding that is no instruction gets a
 * handler that raises #UD, longer than 15 bytes #GP. *ends: it is the last of its block. */
unsigned soft_decode(const SoftMode *mode, const uint8_t *bytes, unsigned avail, SoftInsn *out,
                     bool *ends);
/* A decoder a group, asked in turn by soft_decode: true when it knows the instruction and has
 * filled `out` (fn, and what its handlers use beyond the operands that soft_decode fills for all:
 * len, op_size, addr_size, base/index/scale/disp/seg, flags, imm, dst, src). */
struct ZydisDecodedInstruction_;
struct ZydisDecodedOperand_;
typedef struct SoftDecode {
    const struct ZydisDecodedInstruction_ *insn;
    const struct ZydisDecodedOperand_ *ops;
    const uint8_t *bytes;
    const SoftMode *mode;
    bool has_mem;    /* an explicit memory operand: the address fields of `out` are filled */
    unsigned mem_op; /* its index in ops */
    bool ends;       /* set by the group: control may go elsewhere, or mode may change */
} SoftDecode;
bool soft_decode_int(SoftDecode *d,
                     SoftInsn *out); /* exec-int.c, exec-shift.c, exec-bit.c, exec-muldiv.c:
                                        integer, BMI, ADX, MOVBE, CMPXCHG, BCD */
bool soft_decode_string(
    SoftDecode *d, SoftInsn *out); /* exec-string.c: MOVS STOS LODS SCAS CMPS INS OUTS with REP */
bool soft_decode_flow(SoftDecode *d, SoftInsn *out); /* exec-flow.c: jumps, calls, returns, loops,
                                                        INT, IRET, far transfers, ENTER/LEAVE */
bool soft_decode_system(SoftDecode *d,
                        SoftInsn *out); /* exec-system.c: everything privileged or about system
                                           state, port I/O, CPUID, RDTSC, … */
bool soft_decode_vector(
    SoftDecode *d,
    SoftInsn *out); /* exec-vector.c: x87, MMX, SSE … AVX2, FMA, AES, SHA, F16C, XSAVE family */

/* Finds or makes the block at c->rip. Raises the faults of the fetch. */
SoftBlock *soft_block_lookup(SoftCpu *c);
void soft_execute_block(SoftCpu *c, SoftBlock *block);
/* A page of RAM was written by somebody: drops its blocks. Any thread. */
void soft_blocks_invalidate(SoftAccel *a, uint64_t paddr, uint64_t len);

/* ---- vectors: the host does the arithmetic ------------------------------------------------- */

/* A thunk is the guest's own instruction, re-encoded with its memory operand at [rdi], between
 * loads and stores of the registers it names. Made once a decoded instruction, in an executable
 * arena; sandboxed by construction: only whitelisted encodings are copied. */
typedef void (*SoftThunk)(uint8_t *fpu, void *mem);

/* ---- state (soft-state.c) ---------------------------------------------------------------- */

void soft_state_load(SoftCpu *c, const X86CPUState *s);  /* from the shared state */
void soft_state_store(const SoftCpu *c, X86CPUState *s); /* into it */
SoftCpu *soft_cpu_new(VCpu *vcpu); /* vcpu may be NULL: tests with their own memory */
void soft_cpu_free(SoftCpu *c);
/* Runs until `budget` instructions are done, an exit is needed or an exception cannot be delivered.
 */
typedef enum {
    SOFT_STOP_BUDGET,
    SOFT_STOP_HALT,
    SOFT_STOP_TRIPLE_FAULT,
    SOFT_STOP_KICKED,
    SOFT_STOP_DEBUG
} SoftStop;
SoftStop soft_run(SoftCpu *c, int64_t budget);
