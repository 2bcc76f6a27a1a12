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
#include "engine/memory/ram.h"

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
/* ---- control registers ------------------------------------------------------------------- */

#define CR0_PE         (UINT64_C(1) << 0)
#define CR0_MP         (UINT64_C(1) << 1)
#define CR0_EM         (UINT64_C(1) << 2)
#define CR0_TS         (UINT64_C(1) << 3)
#define CR0_ET         (UINT64_C(1) << 4)
#define CR0_NE         (UINT64_C(1) << 5)
#define CR0_WP         (UINT64_C(1) << 16)
#define CR0_AM         (UINT64_C(1) << 18)
#define CR0_NW         (UINT64_C(1) << 29)
#define CR0_CD         (UINT64_C(1) << 30)
#define CR0_PG         (UINT64_C(1) << 31)
#define CR4_VME        (UINT64_C(1) << 0)
#define CR4_PVI        (UINT64_C(1) << 1)
#define CR4_TSD        (UINT64_C(1) << 2)
#define CR4_DE         (UINT64_C(1) << 3)
#define CR4_PSE        (UINT64_C(1) << 4)
#define CR4_PAE        (UINT64_C(1) << 5)
#define CR4_MCE        (UINT64_C(1) << 6)
#define CR4_PGE        (UINT64_C(1) << 7)
#define CR4_PCE        (UINT64_C(1) << 8)
#define CR4_OSFXSR     (UINT64_C(1) << 9)
#define CR4_OSXMMEXCPT (UINT64_C(1) << 10)
#define CR4_UMIP       (UINT64_C(1) << 11)
#define CR4_FSGSBASE   (UINT64_C(1) << 16)
#define CR4_PCIDE      (UINT64_C(1) << 17)
#define CR4_OSXSAVE    (UINT64_C(1) << 18)
#define CR4_SMEP       (UINT64_C(1) << 20)
#define CR4_SMAP       (UINT64_C(1) << 21)
#define EFER_SCE       (UINT64_C(1) << 0)
#define EFER_LME       (UINT64_C(1) << 8)
#define EFER_LMA       (UINT64_C(1) << 10)
#define EFER_NXE       (UINT64_C(1) << 11)
#define EFER_FFXSR     (UINT64_C(1) << 14)

/* DR6: what soft_debug_hit collects in SoftCpu.db_pending. */
enum { DR6_BREAK = 15, DR6_BD = 1 << 13, DR6_BS = 1 << 14, DR6_BT = 1 << 15 };

/* ---- lazy flags -------------------------------------------------------------------------- */

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
    uint8_t kind, ops;          /* for the translator: soft-translate.h */
    uint8_t width;              /* of a widening move's source */
};
enum {
    SOFT_I_LOCK = 1,
    SOFT_I_REP = 2,
    SOFT_I_REPNE = 4,
    SOFT_I_RIP_RELATIVE = 8,
    SOFT_I_RELATIVE = 16, /* imm is a branch target */
    SOFT_I_PLAIN = 32,    /* memory operand of 64-bit code without segment base */
    SOFT_I_FLAT32 = 128,  /* memory operand of 32-bit code in ES, SS or DS, 32-bit address */
    SOFT_I_TF_TRAP = 64,  /* POPF, IRET: TF before it counts even when it clears it */
};

#define SOFT_BLOCK_MAX   64 /* instructions */
#define SOFT_RECENT_BITS 12
typedef struct SoftMode { /* what decoding depends on; compared as one integer */
    uint8_t
        code_size; /* log2 bytes of the default operand: 1, 2 (also 64-bit mode, see `long_mode`) */
    uint8_t stack_size; /* log2 bytes of the stack pointer */
    bool long_mode;     /* 64-bit code */
    uint8_t cpl;
} SoftMode;
/* A vCPU's own: nobody else reads it. Blocks die all at once, when the cache is full or the machine
 * changes its memory; one that was written over stays but is never entered again. */
struct SoftBlock {
    const uint8_t *host; /* its first byte: with `mode` the key, so that a page seen at two
                            addresses is decoded once */
    uint32_t mode;
    uint16_t n, bytes;
    RamCodePage *page; /* where it is; the block is good while this has its generation */
    uint32_t generation;
    SoftBlock *next;     /* in its hash chain */
    uint64_t linear;     /* of blocks with hooks: where it was decoded, */
    uint32_t hooks;      /* with which table, */
    SoftExec *orig;      /* and the instructions' own handlers; NULL: none is hooked */
    const uint8_t *code; /* translated; NULL: not yet */
    uint16_t heat;       /* how often it was interpreted */
    uint16_t brief;      /* how often in turn its host code came back soon, */
    uint16_t rest;       /* and how often it is interpreted for that now */
    SoftInsn insns[];    /* n, and an end marker whose handler leaves the block */
};

/* ---- software TLB ------------------------------------------------------------------------ */

#define SOFT_TLB_BITS   10
#define SOFT_TLB_SIZE   (1 << SOFT_TLB_BITS)
#define SOFT_PAGE       UINT64_C(4096)
#define SOFT_LARGE_BITS 4096
enum { SOFT_READ, SOFT_WRITE, SOFT_FETCH, SOFT_ACCESSES };
enum { SOFT_TLB_GLOBAL = 1, SOFT_TLB_HOOKED = 4 }; /* in the low bits of SoftTlbEntry.paddr */
/* An entry answers for one page and one kind of access. `tag` is the page's linear address; with
 * bit 0 set only the translation is remembered (I/O, ROM written, watched, holding decoded code
 * when written); -1: empty. `host` is added to the linear address to give the host's. */
typedef struct SoftTlbEntry {
    uint64_t tag;
    uintptr_t host;
    uint64_t paddr;
    RamBlock *ram;
} SoftTlbEntry;

/* As X86Events.interrupt_shadow has it: MOV SS also holds debug exceptions back. */
enum { SHADOW_SS = 1, SHADOW_STI = 2 };

/* ---- MSRs that are plain storage or nearly (soft-msr.c) -------------------------------------- */

#define SOFT_MTRR_VAR 8 /* pairs */
#define SOFT_MC_BANKS 4
typedef struct SoftMsrs {
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc_aux, tsc_adjust, pat, misc_enable, feature_control, debugctl, xss;
    uint64_t mtrr_def, mtrr_fixed[11], mtrr_var[SOFT_MTRR_VAR * 2];
    uint64_t mcg_status, mcg_ctl, mc[SOFT_MC_BANKS * 4];
    uint64_t tsc_deadline; /* while no LAPIC takes it */
} SoftMsrs;

/* Where the vCPU's local APIC answers, when the machine has one outside of the accelerator. With
 * the engine lock or without, as the vCPU thread has it. false: #GP. */
typedef struct SoftApicOps {
    bool (*msr)(void *opaque, uint32_t index, bool is_write, uint64_t *value); /* 0x1b, 0x6e0,
                                                                                  0x800-0x8ff */
    uint8_t (*get_cr8)(void *opaque);
    void (*set_cr8)(void *opaque, uint8_t value);
} SoftApicOps;
enum { SOFT_TLB_SUPERVISOR, SOFT_TLB_USER, SOFT_TLB_AC, SOFT_TLB_USER_AC, SOFT_TLB_SETS };

/* ---- the CPU ----------------------------------------------------------------------------- */

struct SoftCpu {
    uint64_t gpr[X86_GPRS + 1]; /* [SOFT_GPR_NONE] stays 0 */
    uint64_t rip;               /* of the block being executed; of the next instruction outside */
    uint64_t cc_dst; /* not next to cc_src: compilers would store the two as one vector */
    uint8_t cc_op, cc_size;
    uint32_t flags; /* rflags without the arithmetic ones */
    uint64_t cc_src;
    const SoftInsn *insn; /* the one that made the last memory access: where a fault is */
    SoftBlock *block;     /* being executed; NULL outside */
    int64_t budget;       /* instructions until the run loop wants to look */
    SoftTlbEntry (*tlb_now)[SOFT_TLB_SIZE]; /* the set of the present rights: soft_tlb_select */
    union {
        uint64_t wanted; /* translated code looks at all of it at once */
        struct {
            uint32_t
                attention; /* atomic, SOFT_ATTN_*: the run loop must look before the next block */
            uint8_t irq_line; /* atomic: an external interrupt waits for IF */
            bool nmi_pending;
        };
    };
    /* Of translated code: icount + budget, a value between two accesses, the table of the present
     * mode, the link that it left by. */
    uint64_t counted, pushed;
    void *jumps;
    uint32_t link;
    X86Segment seg[X86_SEGS];
    X86Table gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t a20_mask; /* and-ed to physical addresses */
    SoftMode mode;
    bool flat_segments;    /* CS DS ES SS have base 0 and no limit that can be hit: no checks */
    uint8_t open_segments; /* of FS and GS, bits by number: no limit that can be hit, writable */
    /* What the run loop must know before each block: 0 in most. */
    union {
        uint64_t look;
        struct {
            uint8_t inhibit_interrupts; /* SHADOW_*: for one instruction */
            bool reset_soon, triple_fault, halted;
            bool step;        /* a debugger wants one instruction */
            bool watch_fetch; /* DR7 has an instruction breakpoint */
            bool hooked;      /* so has somebody else: blocks with hooks */
            bool log_exec;    /* each block is logged */
        };
    };
    uint8_t cpl;
    uint64_t icount; /* executed so far */
    uint64_t tsc_offset;
    uint32_t tsc_khz;   /* ticks in 1000000 ns */
    uint64_t tsc_shown; /* what the state was last told */
    bool tsc_shown_valid;
    uint64_t tsc_since;  /* the clock when it started; 0: the guest has run since */
    int64_t late;        /* a timer that was waited for in vain: when it was due; 0, -1: none */
    uint64_t starts;     /* which start of the clock that was */
    uint64_t pdpte[4];   /* of PAE paging, as CR3 was loaded */
    uint64_t pdpte_cr3;  /* which they belong to; all ones: to be read at the next walk */
    uint8_t shadow_over; /* SHADOW_* that the present single instruction runs under */
    bool exclusive;      /* the others are held: soft_exclusive_begin */
    uint8_t fpu[X86_XSAVE_MAX] __attribute__((
        aligned(64))); /* x87, MMX, SSE, AVX: an XSAVE area of the host's own layout */
    struct {           /* delivery in progress: for double faults */
        bool active;
        uint8_t vector;
    } delivering;
    uint8_t ext;         /* EXT bit of the error codes that delivery in progress raises */
    bool nmi_masked;     /* from the delivery of an NMI to the next IRET */
    uint32_t db_pending; /* DR6 bits of debug traps after the present instruction */
    SoftMsrs msr;
    /* Another accelerator's vCPU: soft-assist.c. */
    const struct SoftHostMsrs *host_msrs; /* NULL: MSRs are here */
    void *host_opaque;
    bool no_exits;           /* what needs more than RAM is left undone: soft_need_exit */
    bool tlb_wish;           /* translations were dropped that the guest asked to */
    const SoftApicOps *apic; /* NULL: none */
    void *apic_opaque;
    VCpu *vcpu;
    SoftAccel *accel;
    /* Where memory and ports are: the vCPU's, or a test's own (NULL: all ones). */
    AddressSpace *memory, *io;
    MemoryCache memory_cache, io_cache;

    /* Foundation: soft-mmu.c, soft-block.c, soft-run.c. */
    int (*irq_vector)(void *opaque);
    void *irq_opaque;
    int (*line_vector)(void *opaque); /* of the INTR line: set_intr */
    void *line_opaque;
    bool wait_sipi;   /* a processor that INIT or reset left waiting */
    bool in_rcu;      /* inside the run loop's RCU section */
    bool rep_counted; /* the repeated instruction at c->insn was counted by an element */
    bool single;      /* one instruction a block: TF, a step, after STI */
    /* Hooks that are not asked (again) when the next instruction is at quiet_linear; quiet_now: of
     * the block that is being entered. */
    uint8_t quiet, quiet_now;
    uint64_t quiet_linear;
    uint8_t skip_bytes;        /* on the way out of soft_exec_hooked */
    bool hooks_memory;         /* pages may be marked SOFT_TLB_HOOKED */
    bool rf_over;              /* RF as it was before the instruction */
    uint32_t hooks_generation; /* of the table that hooked blocks were made with */
    uint8_t debug_stop;        /* CPU_DEBUG_*: why SOFT_STOP_DEBUG */
    uint8_t phys_bits;
    bool watch[SOFT_ACCESSES]; /* soft_debug_armed, remembered */
    struct {
        uint8_t vector;
        bool has_error;
        uint32_t error;
    } raised; /* by soft_raise, on its way to the run loop */
    struct {
        uint8_t vector;
        bool valid, has_error, soft, is_interrupt;
        uint32_t error;
    } injected; /* a delivery that saved state says was cut short */
    unsigned long view_generation;
    bool running; /* atomic: in the RCU section of the run loop, may use its TLB */
    struct {      /* a write that soft_host let a handler make on a page with code */
        RamBlock *ram;
        uint64_t offset;
        unsigned len;
    } late_write;
    SoftTlbEntry tlb[SOFT_TLB_SETS][SOFT_ACCESSES][SOFT_TLB_SIZE];
    bool tlb_used[SOFT_TLB_SETS][SOFT_ACCESSES];
    uint64_t large[SOFT_LARGE_BITS / 64]; /* where large pages were seen: soft-mmu.c */
    uint64_t huge;                        /* the same of pages of 1 GiB */
    struct SoftBlocks *blocks;
    struct SoftTranslator *translator; /* NULL: everything is interpreted */
    /* A handler called by translated code stops here: `stop` has exec_stop instead of stop_fn. */
    SoftInsn *stop;
    SoftExec stop_fn;
    bool stopped;
    SoftBlock *entered; /* by the run loop, translated */
    int64_t entered_budget;
    SoftBlock *recent[1 << SOFT_RECENT_BITS]; /* by linear address: soft_block_next */
    X86CPUState
        *saved;        /* groups that this CPU only keeps: MSRs nobody interprets, the LAPIC page */
    sigjmp_buf escape; /* soft_raise and soft_leave come back here */
};
enum {
    SOFT_ATTN_KICK = 1 << 0,  /* leave soft_run */
    SOFT_ATTN_SHOOT = 1 << 1, /* another vCPU decoded code: drop write entries */
    SOFT_ATTN_SYNC = 1 << 2,  /* dirty logs are being read: mark what was written, drop entries */
    SOFT_ATTN_LOOK = 1 << 3,  /* something changed on this thread: only look */
    SOFT_ATTN_VIEW = 1 << 4,  /* memory changed its layout */
    SOFT_ATTN_NMI = 1 << 5,
    SOFT_ATTN_HOOKS = 1 << 7, /* the table of hooks changed */
    SOFT_ATTN_TIME = 1 << 6,  /* icount: how long this run may be has changed */
};
/* Whether an instruction that can take long (REP) should stop in between, at a consistent state. */
static inline bool soft_wanted(const SoftCpu *c)
{
    return __builtin_expect(__atomic_load_n(&c->attention, __ATOMIC_RELAXED) != 0, 0) ||
           (__builtin_expect(__atomic_load_n(&c->irq_line, __ATOMIC_RELAXED), 0) &&
            (c->flags & FLAG_IF));
}

/* ---- control ----------------------------------------------------------------------------- */

/* Leaves the instruction with an exception; state is as before it. rip is found from c->insn. */
_Noreturn void soft_raise(SoftCpu *c, unsigned vector);
_Noreturn void soft_raise_error(SoftCpu *c, unsigned vector, uint32_t error);
_Noreturn void soft_page_fault(SoftCpu *c, uint64_t addr, uint32_t error);
/* Leaves the block after the present instruction: rip is set to the next one. */
_Noreturn void soft_leave(SoftCpu *c);
/* Ends the run before the present instruction, of which nothing has been done. */
_Noreturn void soft_abandon(SoftCpu *c);
/* Said by who is about to need a device, or what only the vCPU's own accelerator can do. Outside of
 * a block (a delivery) there is no way back. */
static inline void soft_need_exit(SoftCpu *c)
{
    if (__builtin_expect(c->no_exits, 0) && c->block) {
        soft_abandon(c);
    }
}

enum { SOFT_QUIET_EXEC = 1, SOFT_QUIET_INSN = 2 };
/* Leaves the block before the present instruction; with what scripts changed in the registers, and
 * past it when skip_bytes says so. `debug`: soft_run ends with SOFT_STOP_DEBUG. */
_Noreturn void soft_leave_before(SoftCpu *c, unsigned quiet, bool debug);

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

/* A handler that ends its block sets rip and returns instead of going to the next one. */
static inline void soft_end_at_next(SoftCpu *c, const SoftInsn *i)
{
    uint64_t next = soft_next_rip(c, i);
    c->rip = c->mode.long_mode ? next : (uint32_t)next;
}

/* ---- flags (exec.h has the inline forms) ------------------------------------------------- */

uint32_t soft_flags_arith(const SoftCpu *c); /* the six flags */
uint64_t soft_rflags(const SoftCpu *c);      /* all, as PUSHF stores them */
void soft_set_rflags(SoftCpu *c, uint64_t v, uint64_t mask);
bool soft_condition(const SoftCpu *c, unsigned cc); /* 0..15 as in Jcc's opcode */

/* ---- memory ------------------------------------------------------------------------------ */

/* Loads, stores and linear addresses of operands: inline, in soft-mem.h. A linear address comes
 * from soft_linear (an operand's) or soft_segment_linear (an implied one's, checked); a handler
 * that computes one by itself in 64-bit mode leaves the canonical check to the access. */
void soft_load_bytes(SoftCpu *c, uint64_t linear, void *buf, unsigned len);
void soft_store_bytes(SoftCpu *c, uint64_t linear, const void *buf, unsigned len);
/* As a supervisor whatever the CPL is (descriptor tables, TSS, interrupt stacks). */
uint64_t soft_load_system(SoftCpu *c, uint64_t linear, unsigned len);
void soft_store_system(SoftCpu *c, uint64_t linear, uint64_t value, unsigned len);
/* soft_host (inline): host address for a locked or wide access to plain RAM that does not cross a
 * page; NULL: go the slow way. Faults are raised. Used at once: any other access may end it. */
/* Raises now what a write there would raise, without writing (pushes of several values, string
 * instructions). */
void soft_probe_write(SoftCpu *c, uint64_t linear, unsigned len);
void soft_tlb_flush(SoftCpu *c, bool global_too);
void soft_tlb_flush_page(SoftCpu *c, uint64_t linear);
/* DR0..DR3 or DR7 changed. */
void soft_debug_changed(SoftCpu *c);
/* Ends the present block after the present instruction (which made an access with SOFT_HERE). */
void soft_cut_block(SoftCpu *c);
/* One port access through hooks and devices; no privilege checks. */
uint32_t soft_port_access(SoftCpu *c, uint16_t port, uint32_t value, unsigned len, bool is_write);
/* The same for `count` values in a row, as one exit. False: they have to be done one by one. */
bool soft_port_string(SoftCpu *c, uint16_t port, void *data, unsigned len, uint32_t count,
                      bool is_write);
/* Writes to memory upwards from `paddr` that is no RAM. */
bool soft_mmio_string(SoftCpu *c, uint64_t paddr, void *data, unsigned len, uint32_t count);
/* Whether accesses to these bytes of one page are exits that nobody looks at in between; where. */
bool soft_is_io(SoftCpu *c, uint64_t linear, unsigned len, uint64_t *paddr);
/* A CPU_EXIT_* of another kind: c->vcpu->exit is filled, and offered; false without a vCPU. */
bool soft_offer_exit(SoftCpu *c);

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
bool soft_set_efer(SoftCpu *c, uint64_t v);               /* false: #GP */
bool soft_rdmsr(SoftCpu *c, uint32_t index, uint64_t *v); /* false: #GP */
bool soft_wrmsr(SoftCpu *c, uint32_t index, uint64_t v);
void soft_cpuid(SoftCpu *c, uint32_t leaf, uint32_t index, uint32_t out[4]);
void soft_syscall(SoftCpu *c, uint64_t next_rip);
void soft_sysret(SoftCpu *c, unsigned op_size);
void soft_sysenter(SoftCpu *c);
void soft_sysexit(SoftCpu *c, unsigned op_size);
#define SOFT_TSC_KHZ 1000000u /* of a guest that was started here */
uint64_t soft_tsc(SoftCpu *c);
void soft_wait_for_timers(SoftCpu *c);     /* RDTSC: see there */
bool soft_random(SoftCpu *c, uint64_t *v); /* RDRAND, RDSEED; false: none at the moment */
void soft_spin_wait(SoftCpu *c);           /* PAUSE */
/* MSRs, cr8 and the like as after power-up; soft_state_load starts from it. */
void soft_msrs_reset(SoftCpu *c);
/* Between SoftMsrs and the state's list (EFER and the APIC base are fields of the state). */
void soft_msrs_load(SoftCpu *c, const X86CPUState *s);
void soft_msrs_store(const SoftCpu *c, X86CPUState *s);
/* The most that this CPU implements; caller frees. */
CpuidPolicy *soft_supported_cpuid(void);

/* ---- debug registers (soft-interrupt.c) ---------------------------------------------------- */

/* Whether DR7 enables a breakpoint of this kind, so that the fast paths must be left: `access` is
 * SOFT_READ, SOFT_WRITE, SOFT_FETCH. */
bool soft_debug_armed(const SoftCpu *c, unsigned access);
/* Collects in db_pending the data breakpoints that an access hits. For SOFT_FETCH it raises #DB
 * unless RF is set: called before the instruction at `linear` is executed. */
void soft_debug_hit(SoftCpu *c, uint64_t linear, unsigned len, unsigned access);
void soft_debug_port(SoftCpu *c, uint16_t port, unsigned len); /* CR4.DE: behind an access */
/* After an instruction: raises nothing, but answers whether #DB has to be delivered for a trap (TF
 * as it was before the instruction, data breakpoints), with DR6 updated. */
bool soft_debug_trap(SoftCpu *c, bool tf_before);

/* ---- port I/O: checks IOPL and the TSS bitmap, then goes through cpu_handle_exit
 * ----------------------------------- */

void soft_check_port(SoftCpu *c, uint16_t port, unsigned len); /* raises #GP */
uint32_t soft_in(SoftCpu *c, uint16_t port, unsigned len);
void soft_out(SoftCpu *c, uint16_t port, uint32_t value, unsigned len);

/* ---- decoding and blocks ----------------------------------------------------------------- */

/* Decodes one instruction of `avail` bytes in a mode. Sets fn and operands. Returns its length; 0:
 * more bytes are needed (the caller has the next page's); an encoding that is no instruction gets a
 * handler that raises #UD, longer than 15 bytes #GP. *ends: it is the last of its block. */
unsigned soft_decode(const SoftMode *mode, const uint8_t *bytes, unsigned avail, SoftInsn *out,
                     bool *ends);
/* Whether it is an instruction here at all. */
bool soft_decode_known(const SoftMode *mode, const uint8_t *bytes, unsigned avail);
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
void soft_blocks_flush(SoftCpu *c);
SoftBlock *soft_block_find(SoftCpu *c, uint64_t linear); /* and remembers it there */
struct SoftBlocks *soft_blocks_new(void);
void soft_blocks_free(struct SoftBlocks *blocks);
void soft_tlb_init(SoftCpu *c);
void soft_blocks_count(const SoftCpu *c, uint64_t *made, uint64_t *flushes); /* adds */

/* ---- between the foundation's files -------------------------------------------------------- */

void soft_tlb_select(SoftCpu *c); /* tlb_now from CPL and AC */
SoftTlbEntry *soft_tlb_fill(SoftCpu *c, uint64_t linear, unsigned access, unsigned set);
/* Marks what this CPU may have written since, in the logs that are kept, and drops write entries.
 */
void soft_tlb_drop_writes(SoftCpu *c);
void soft_rcu_enter(SoftCpu *c); /* and catches up with changes of memory */
void soft_rcu_leave(SoftCpu *c);
/* Makes every vCPU of the machine forget that it may write to code pages; waits until they did. */
void soft_shoot_writers(SoftCpu *c);
void soft_attention(SoftCpu *c, uint32_t bits);
/* Between the two no other vCPU of the machine runs guest code: locked accesses that the host
 * cannot make in one piece. What leaves by a fault in between ends it. */
void soft_exclusive_begin(SoftCpu *c);
void soft_exclusive_end(SoftCpu *c);
/* One byte of a descriptor table, as a supervisor, atomically from `old` to `new_`; answers what
 * was there, which is `old` when it was written. */
uint8_t soft_swap_system_byte(SoftCpu *c, uint64_t linear, uint8_t old, uint8_t new_);
/* A write that soft_host allowed is done. */
void soft_mmu_look(SoftCpu *c);
/* ---- vectors: the host does the arithmetic ------------------------------------------------- */

/* A thunk is the guest's own instruction, re-encoded with its memory operand at [rdi], between
 * loads and stores of the registers it names. Made once a decoded instruction, in an executable
 * arena; sandboxed by construction: only whitelisted encodings are copied: soft-thunk.h. */

/* Over SoftCpu.fpu after it was filled from elsewhere: components in their initial state are
 * written out, reserved bits that the host's CPU would refuse are dropped. */
void soft_fpu_normalise(SoftCpu *c);
/* Before a copy of it goes elsewhere: its header says which components are in use. */
void soft_fpu_describe(const SoftCpu *c, uint8_t *area);
#define SOFT_FPU_SIZE 832u /* bytes of the area with x87, SSE and AVX */
/* Components of the area that are not in their initial state (XINUSE; XGETBV with ECX = 1). */
uint64_t soft_fpu_in_use(const SoftCpu *c);

/* ---- state (soft-state.c) ---------------------------------------------------------------- */

void soft_state_load(SoftCpu *c, const X86CPUState *s);  /* from the shared state */
void soft_state_store(const SoftCpu *c, X86CPUState *s); /* into it */
void soft_start_at(SoftCpu *c, uint8_t vector);          /* SIPI */
void soft_state_load_groups(SoftCpu *c, const X86CPUState *s, unsigned groups); /* X86_STATE_* */
void soft_state_store_groups(const SoftCpu *c, X86CPUState *s, unsigned groups);
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

#include "engine/accel/soft/soft-mem.h"
