/* Rules of the system part that a real operating system meets: shadows, held debug exceptions,
 * masked NMIs, kept PDPTEs, MSRs, CPUID. */
#include <cpuid.h>

#include "engine/core/lock.h"
#include "tests/unit/soft_guest.h"

#define HLT 0xf4
#define NOP 0x90

static void watch(unsigned n, uint64_t addr, unsigned kind, unsigned len)
{
    c->dr[n] = addr;
    c->dr7 |= UINT64_C(2) << (n * 2) | (uint64_t)(kind | len << 2) << (16 + n * 4);
    soft_debug_changed(c);
}

static uint64_t return_address(void)
{
    return top(0, slot_size());
}

/* ---- shadows --------------------------------------------------------------------------------- */

START_TEST(a_single_step_over_mov_ss_traps_after_the_next_instruction)
{
    begin(PROT32, 0);
    c->gpr[X86_RAX] = DS0;
    c->flags |= FLAG_TF;
    RUN(0x8e, 0xd0, NOP, NOP, HLT);
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(return_address(), CODE + 3);
    ck_assert_uint_eq(c->dr6 & 0xffff, 0x4ff0);
}
END_TEST

START_TEST(of_two_loads_of_ss_only_the_first_has_a_shadow)
{
    begin(PROT32, 0);
    c->gpr[X86_RAX] = DS0;
    c->flags |= FLAG_TF;
    RUN(0x8e, 0xd0, 0x8e, 0xd0, NOP, HLT);
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(return_address(), CODE + 4);
}
END_TEST

START_TEST(code_goes_on_behind_the_end_of_ram_as_ones)
{
    begin(PROT32, 0);
    mem[RAM - 1] = 0xb8; /* mov eax, what is not there; then ff ff: no instruction */
    c->rip = RAM - 1;
    stopped = go();
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(return_address(), RAM + 4);
    ck_assert_uint_eq(c->gpr[X86_RAX], UINT32_MAX);
}
END_TEST

START_TEST(tables_of_descriptors_that_lie_nowhere_or_end_early_fault)
{
    begin(PROT32, 0);
    c->gdt.limit = DS3 + 3; /* half of the descriptor */
    c->gpr[X86_RAX] = DS3;
    RUN(0x8e, 0xd8, HLT);
    expect_fault(EXC_GP, DS3 & ~3);
    /* Ones are a segment of code that can be read. */
    begin(PROT32, 0);
    c->gdt.base = RAM + 0x100000;
    c->gpr[X86_RAX] = 0x1b;
    RUN(0x8e, 0xd8, HLT);
    ck_assert_uint_eq(c->seg[X86_DS].base, UINT32_MAX);
    /* No vector can be delivered, nor the double fault of that. */
    begin(PROT32, 0);
    c->idt.limit = 3;
    RUN(0x0f, 0x0b);
    ck_assert_int_eq(stopped, SOFT_STOP_TRIPLE_FAULT);
}
END_TEST

START_TEST(a_data_breakpoint_of_mov_ss_waits_for_the_next_instruction)
{
    begin(PROT32, 0);
    put(0x600, DS0, 2);
    watch(1, 0x600, 3, 1);
    RUN(0x8e, 0x15, 0x00, 0x06, 0, 0, NOP, NOP, HLT);
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(return_address(), CODE + 7);
    ck_assert_uint_eq(c->dr6 & 0xf, 2);
}
END_TEST

START_TEST(a_held_debug_exception_comes_in_the_handler_of_a_software_interrupt)
{
    begin(PROT32, 0);
    put(0x600, DS0, 2);
    idt_entry(0x30, CS0, HANDLER + 0x30 * 16, 0x8e);
    watch(0, 0x600, 3, 1);
    RUN(0x8e, 0x15, 0x00, 0x06, 0, 0, 0xcd, 0x30, HLT);
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(return_address(), HANDLER + 0x30 * 16);
}
END_TEST

START_TEST(a_code_breakpoint_is_not_seen_behind_mov_ss)
{
    begin(PROT32, 0);
    c->gpr[X86_RAX] = DS0;
    watch(0, CODE + 2, 0, 0);
    RUN(0x8e, 0xd0, NOP, HLT);
    ck_assert_int_eq(handler(), -1);
    ck_assert_int_eq(stopped, SOFT_STOP_HALT);
    begin(PROT32, 0);
    watch(0, CODE + 1, 0, 0);
    RUN(0xfb, NOP, HLT);
    ck_assert_int_eq(handler(), EXC_DB);
}
END_TEST

static int vector_40(void *opaque)
{
    c->irq_line = 0;
    return 0x40;
}

START_TEST(interrupts_wait_one_instruction_after_sti)
{
    static const uint8_t shadows[] = { 1, 2 };

    for (unsigned k = 0; k < 2; k++) {
        begin(PROT32, 0);
        idt_entry(0x40, CS0, HANDLER + 0x40 * 16, 0x8e);
        c->irq_vector = vector_40;
        c->irq_line = 1;
        engine_unlock(); /* taken to ask for the vector */
        if (shadows[k] == 1) {
            RUN(0xfb, NOP, NOP, HLT); /* STI */
            engine_lock();
            ck_assert_uint_eq(return_address(), CODE + 2);
        } else {
            RUN(0xfb, 0xfa, NOP, HLT); /* STI; CLI: never open */
            engine_lock();
            ck_assert_int_eq(handler(), -1);
            continue;
        }
        ck_assert_int_eq(handler(), 0x40);
    }
    c->irq_line = 0;
}
END_TEST

START_TEST(a_shadow_is_part_of_the_state_and_names_its_kind)
{
    X86CPUState *s = g_aligned_alloc0(1, sizeof(*s), 64);

    begin(PROT32, 0);
    c->inhibit_interrupts = SHADOW_SS;
    soft_state_store(c, s);
    ck_assert_uint_eq(s->events.interrupt_shadow, 1);
    c->inhibit_interrupts = 0;
    soft_state_load(c, s);
    ck_assert_uint_eq(c->inhibit_interrupts, SHADOW_SS);
    g_aligned_free(s);
}
END_TEST

/* ---- NMI ------------------------------------------------------------------------------------- */

START_TEST(iret_opens_nmis_even_when_it_faults)
{
    begin(PROT32, 0);
    c->nmi_masked = true;
    c->nmi_pending = false;
    RUN(0xcf); /* CS 0 on the stack */
    ck_assert_int_eq(handler(), EXC_GP);
    ck_assert(!c->nmi_masked);
    begin(PROT32, 0);
    c->nmi_masked = true;
    c->nmi_pending = true;
    RUN(NOP, HLT);
    ck_assert_int_eq(handler(), -1);
    c->nmi_pending = c->nmi_masked = false;
}
END_TEST

/* ---- PAE ------------------------------------------------------------------------------------- */

enum { PD_A = PAGES + 0x1000, PD_B = PAGES + 0x2000 };

/* The first GiB through one of two directories that show its third 2 MiB page differently. */
static void pae(void)
{
    begin(PROT32, 0);
    put(PAGES, PD_A | 1, 8);
    for (unsigned k = 0; k < 2; k++) {
        uint64_t pd = k ? PD_B : PD_A;

        put(pd, 0x83, 8);
        put(pd + 8, k ? 0x200083 : 0x83, 8);
    }
    c->cr4 = CR4_PAE;
    c->cr3 = PAGES;
    c->gpr[X86_RAX] = c->cr0 | CR0_PG;
    c->gpr[X86_RBX] = PAGES;
    put(0x700, 0x11223344, 4);
}

START_TEST(pdptes_are_kept_until_cr3_is_loaded)
{
    pae();
    /* mov cr0, eax; mov [PAGES], PD_B | 1; invlpg [0x200700]; mov ecx, [0x200700]; hlt */
    RUN(0x0f, 0x22, 0xc0, 0xc7, 0x05, 0x00, 0x00, 0x04, 0x00, 0x01, 0x20, 0x04, 0x00, 0x0f, 0x01,
        0x3d, 0x00, 0x07, 0x20, 0x00, 0x8b, 0x0d, 0x00, 0x07, 0x20, 0x00, HLT);
    ck_assert_int_eq(stopped, SOFT_STOP_HALT);
    ck_assert_uint_eq(get(PAGES, 4), PD_B | 1);
    ck_assert_uint_eq(c->gpr[X86_RCX], 0x11223344);
    /* mov cr3, ebx; mov ecx, [0x200700]: now beyond RAM */
    c->rip = CODE;
    soft_mode_changed(c);
    c->halted = false;
    RUN(0x0f, 0x22, 0xdb, 0x8b, 0x0d, 0x00, 0x07, 0x20, 0x00, HLT);
    ck_assert_uint_eq(c->gpr[X86_RCX], 0xffffffff);
}
END_TEST

START_TEST(pdptes_with_reserved_bits_are_refused_when_they_are_loaded)
{
    static const uint64_t bad[] = { 1 << 1, 1 << 2, 1 << 5,           1 << 6,
                                    1 << 7, 1 << 8, UINT64_C(1) << 63 };

    for (unsigned k = 0; k < G_N_ELEMENTS(bad); k++) {
        pae();
        put(PAGES + 24, 1 | bad[k], 8);
        RUN(0x0f, 0x22, 0xc0, HLT);
        expect_fault(EXC_GP, 0);
        ck_assert(!(c->cr0 & CR0_PG));
        /* Not present: anything goes. */
        pae();
        put(PAGES + 24, bad[k], 8);
        RUN(0x0f, 0x22, 0xc0, HLT);
        ck_assert_int_eq(handler(), -1);
        ck_assert(c->cr0 & CR0_PG);
        put(PAGES + 24, 1 | bad[k], 8);
        c->rip = CODE;
        c->halted = false;
        c->gpr[X86_RSP] = STACK0;
        RUN(0x0f, 0x22, 0xdb, HLT); /* mov cr3, ebx */
        expect_fault(EXC_GP, 0);
    }
}
END_TEST

/* ---- MSRs ------------------------------------------------------------------------------------ */

START_TEST(efer_refuses_unknown_bits_and_lme_under_paging)
{
    begin(PROT32, 0);
    c->gpr[X86_RCX] = 0xc0000080;
    c->gpr[X86_RAX] = 0x2;
    RUN(0x0f, 0x30, HLT);
    expect_fault(EXC_GP, 0);
    ck_assert_uint_eq(c->efer, 0);
    begin(LONG, 0);
    c->gpr[X86_RCX] = 0xc0000080;
    c->gpr[X86_RAX] = EFER_SCE; /* clears LME while paging is on */
    RUN(0x0f, 0x30, HLT);
    expect_fault(EXC_GP, 0);
    ck_assert_uint_eq(c->efer, EFER_LME | EFER_LMA | EFER_SCE);
    begin(LONG, 0);
    c->gpr[X86_RCX] = 0xc0000080;
    c->gpr[X86_RAX] = EFER_LME | EFER_NXE; /* LMA is not written */
    RUN(0x0f, 0x30, HLT);
    ck_assert_int_eq(handler(), -1);
    ck_assert_uint_eq(c->efer, EFER_LME | EFER_LMA | EFER_NXE);
}
END_TEST

START_TEST(a_state_that_is_put_back_unchanged_does_not_move_the_time_stamp_counter)
{
    X86CPUState *s = g_aligned_alloc0(1, sizeof(*s), 64);
    uint64_t offset;

    begin(PROT32, 0);
    soft_state_store(c, s);
    c->icount += 1000;
    offset = c->tsc_offset;
    soft_state_load(c, s);
    ck_assert_uint_eq(c->tsc_offset, offset);
    s->tsc += 5;
    soft_state_load(c, s);
    ck_assert_uint_eq(soft_tsc(c), s->tsc);
    g_aligned_free(s);
}
END_TEST

/* ---- CPUID ----------------------------------------------------------------------------------- */

START_TEST(vector_features_are_those_of_the_host)
{
    uint32_t host[4] = { 0 }, out[4];

    begin(PROT32, 0);
    __get_cpuid(1, &host[0], &host[1], &host[2], &host[3]);
    soft_cpuid(c, 1, 0, out);
    /* SSE3 PCLMULQDQ SSSE3 FMA SSE4.1 SSE4.2 AES AVX F16C */
    ck_assert_uint_eq(out[2] & 0x32181203 & ~host[2], 0);
    ck_assert_uint_eq(out[2] & 0x02180201, host[2] & 0x02180201);
    __get_cpuid_count(7, 0, &host[0], &host[1], &host[2], &host[3]);
    soft_cpuid(c, 7, 0, out);
    ck_assert_uint_eq(out[1] & (1u << 5 | 1u << 29) & ~host[1], 0);
}
END_TEST

START_TEST(the_crystal_is_the_clock_of_counter_and_timer)
{
    uint32_t out[4];

    soft_cpuid(c, 0x15, 0, out);
    ck_assert_uint_eq(out[0], 1);
    ck_assert_uint_eq(out[1], 1);
    ck_assert_uint_eq(out[2], 1000000000);
}
END_TEST

/* ---- FPU ------------------------------------------------------------------------------------- */

typedef struct Fpu {
    const char *name;
    uint8_t code[5], len;
    enum { X87_INSN, WAIT_INSN, MMX_INSN, SSE_INSN, SAVE_INSN, XSAVE_INSN, AVX_INSN } kind;
} Fpu;

/* SDM 3A, table "CR0 flags EM, MP and TS", and the exceptions of each instruction. */
static int fpu_exception(const Fpu *f, uint64_t cr0, uint64_t cr4)
{
    bool em = cr0 & CR0_EM, ts = cr0 & CR0_TS, mp = cr0 & CR0_MP;

    switch (f->kind) {
    case X87_INSN:
    case SAVE_INSN:
        return em || ts ? EXC_NM : -1;
    case WAIT_INSN:
        return mp && ts ? EXC_NM : -1;
    case MMX_INSN:
        return em ? EXC_UD : ts ? EXC_NM : -1;
    case SSE_INSN:
        return em || !(cr4 & CR4_OSFXSR) ? EXC_UD : ts ? EXC_NM : -1;
    case XSAVE_INSN:
    case AVX_INSN:
    default:
        return !(cr4 & CR4_OSXSAVE) ? EXC_UD : ts ? EXC_NM : -1;
    }
}

START_TEST(control_registers_decide_which_vector_instructions_run)
{
    static const Fpu all[] = {
        { "fld1", { 0xd9, 0xe8 }, 2, X87_INSN },
        { "fwait", { 0x9b }, 1, WAIT_INSN },
        { "paddb", { 0x0f, 0xfc, 0xc1 }, 3, MMX_INSN },
        { "addps", { 0x0f, 0x58, 0xc1 }, 3, SSE_INSN },
        { "fxsave", { 0x0f, 0xae, 0x03 }, 3, SAVE_INSN },
        { "xsave", { 0x0f, 0xae, 0x23 }, 3, XSAVE_INSN },
        { "vaddps", { 0xc5, 0xf8, 0x58, 0xc1 }, 4, AVX_INSN },
    };
    static const uint64_t cr0s[] = { CR0_EM, CR0_TS, CR0_MP };
    static const uint64_t cr4s[] = { CR4_OSFXSR, CR4_OSXSAVE };
    uint32_t leaf[4];

    soft_cpuid(c, 1, 0, leaf);
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        for (unsigned bits = 0; bits < 32; bits++) {
            if (all[i].kind == AVX_INSN && !(leaf[2] & 1u << 28)) {
                continue;
            }
            begin(bits & 1 ? LONG : PROT32, 0);
            memset(c->fpu, 0, sizeof(c->fpu)); /* nothing in use: as after FNINIT */
            soft_fpu_normalise(c);
            for (unsigned b = 0; b < 3; b++) {
                c->cr0 |= bits >> b & 1 ? cr0s[b] : 0;
            }
            for (unsigned b = 0; b < 2; b++) {
                c->cr4 |= bits >> (3 + b) & 1 ? cr4s[b] : 0;
            }
            c->xcr0 = 7;
            c->gpr[X86_RBX] = 0x50000;
            c->gpr[X86_RAX] = 3;
            code("\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4", 8);
            code(all[i].code, all[i].len);
            stopped = go();
            ck_assert_msg(handler() == fpu_exception(&all[i], c->cr0, c->cr4),
                          "%s with cr0 %#llx cr4 %#llx: vector %d", all[i].name,
                          (unsigned long long)c->cr0, (unsigned long long)c->cr4, handler());
        }
    }
}
END_TEST

START_TEST(unmasked_exceptions_of_sse_and_x87_have_their_vectors)
{
    for (unsigned on = 0; on < 2; on++) {
        begin(PROT32, 0);
        c->cr4 |= CR4_OSFXSR | (on ? CR4_OSXMMEXCPT : 0);
        put(0x50000, 0x1f80 & ~0x200u, 4); /* division by zero is unmasked */
        c->gpr[X86_RBX] = 0x50000;
        put(0x50010, 0x3f800000, 4);
        /* ldmxcsr [ebx]; movss xmm0, [ebx + 16]; xorps xmm1, xmm1; divss xmm0, xmm1 */
        RUN(0x0f, 0xae, 0x13, 0xf3, 0x0f, 0x10, 0x43, 0x10, 0x0f, 0x57, 0xc9, 0xf3, 0x0f, 0x5e,
            0xc1, HLT);
        ck_assert_int_eq(handler(), on ? EXC_XM : EXC_UD);
        ck_assert_uint_eq(return_address(), CODE + 11);
    }
    begin(PROT32, 0);
    put(0x50000, 0x37f & ~4u, 2);
    c->gpr[X86_RBX] = 0x50000;
    /* fninit; fldcw [ebx]; fld1; fldz; fdivp: waits; nop; fwait: raises */
    RUN(0xdb, 0xe3, 0xd9, 0x2b, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, NOP, 0x9b, HLT);
    ck_assert_int_eq(handler(), EXC_MF);
    ck_assert_uint_eq(return_address(), CODE + 11);
}
END_TEST

/* ---- strings and faults ---------------------------------------------------------------------- */

/* The identity map of the first 2 MiB by 4 KiB pages, but for one. */
static void without_page(uint64_t page)
{
    begin(LONG, 0);
    put(PAGES + 0x2000, (PAGES + 0x3000) | 7, 8);
    for (uint64_t i = 0; i < 512; i++) {
        put(PAGES + 0x3000 + i * 8, i << 12 == page ? 0 : i << 12 | 7, 8);
    }
}

START_TEST(repeated_string_instructions_stop_at_a_fault_and_go_on)
{
    static const struct {
        uint8_t code[3];
        unsigned len;
        bool in_rsi, writes;
    } all[] = {
        { { 0xf3, 0x6c }, 2, false, true },  /* insb */
        { { 0xf3, 0x6e }, 2, true, false },  /* outsb */
        { { 0xf3, 0xa4 }, 2, false, true },  /* movsb, the destination */
        { { 0xf3, 0xa4 }, 2, true, false },  /* movsb, the source */
        { { 0xf3, 0xaa }, 2, false, true },  /* stosb */
        { { 0xf3, 0xac }, 2, true, false },  /* lodsb */
        { { 0xf3, 0xa6 }, 2, false, false }, /* cmpsb */
        { { 0xf2, 0xae }, 2, false, false }, /* scasb */
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        without_page(0x60000);
        c->gpr[X86_RAX] = 1; /* is not found */
        c->gpr[X86_RCX] = 16;
        c->gpr[X86_RSI] = all[i].in_rsi ? 0x5fff8 : 0x50000;
        c->gpr[X86_RDI] = all[i].in_rsi ? 0x50000 : 0x5fff8;
        code("\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4", 8);
        code(all[i].code, all[i].len);
        stopped = go();
        expect_fault(EXC_PF, all[i].writes ? PF_WRITE : 0);
        ck_assert_uint_eq(c->cr2, 0x60000);
        ck_assert_uint_eq(c->gpr[X86_RCX], 8);
        ck_assert_uint_eq(c->gpr[all[i].in_rsi ? X86_RSI : X86_RDI], 0x60000);
        put(PAGES + 0x3000 + 0x60 * 8, 0x60007, 8);
        c->rip = CODE;
        c->halted = false;
        c->gpr[X86_RSP] = STACK0;
        stopped = go();
        ck_assert_int_eq(handler(), -1);
        ck_assert_uint_eq(c->gpr[X86_RCX], 0);
        ck_assert_uint_eq(c->gpr[all[i].in_rsi ? X86_RSI : X86_RDI], 0x60008);
    }
}
END_TEST

START_TEST(repeated_string_instructions_stop_at_the_end_of_their_segment)
{
    /* 16 words from 0xfff1 on: the eighth would go over the end. */
    begin(REAL, 0);
    c->gpr[X86_RAX] = 0x5a5a;
    c->gpr[X86_RCX] = 16;
    c->gpr[X86_RDI] = 0xfff1;
    RUN(0xf3, 0xab, HLT);
    ck_assert_int_eq(handler(), EXC_GP);
    ck_assert_uint_eq(c->gpr[X86_RCX], 9);
    ck_assert_uint_eq(c->gpr[X86_RDI], 0xffff);
    ck_assert_uint_eq(get(0xfff0, 8), UINT64_C(0x5a5a5a5a5a5a5a00));
    ck_assert_uint_eq(get(0xfff8, 8), UINT64_C(0x005a5a5a5a5a5a5a));
    /* Bytes go round, in a segment that is not at 0. */
    begin(REAL, 0);
    for (unsigned i = X86_ES; i <= X86_DS; i += X86_DS - X86_ES) {
        c->seg[i].selector = 0x5000;
        c->seg[i].base = 0x50000;
    }
    put(0x50000 + 0x100, UINT64_C(0x1122334455667788), 8);
    c->gpr[X86_RCX] = 8;
    c->gpr[X86_RSI] = 0x100;
    c->gpr[X86_RDI] = 0xfffb;
    RUN(0xf3, 0xa4, HLT);
    ck_assert_int_eq(handler(), -1);
    ck_assert_uint_eq(c->gpr[X86_RDI], 3);
    ck_assert_uint_eq(get(0x50000 + 0xfffb, 5), UINT64_C(0x4455667788));
    ck_assert_uint_eq(get(0x50000, 3), 0x112233);
    /* A limit in the middle of a page. */
    begin(PROT32, 0);
    load(X86_ES, SMALL);
    soft_mode_changed(c);
    c->gpr[X86_RAX] = 0x77;
    c->gpr[X86_RCX] = 64;
    c->gpr[X86_RDI] = 0xe0;
    RUN(0xf3, 0xaa, HLT);
    ck_assert_int_eq(handler(), EXC_GP);
    ck_assert_uint_eq(c->gpr[X86_RCX], 32);
    ck_assert_uint_eq(c->gpr[X86_RDI], 0x100);
    ck_assert_uint_eq(get(0x1f8, 8), UINT64_C(0x7777777777777777));
    ck_assert_uint_eq(get(0x200, 8), 0);
    /* One that expands down has none above. */
    begin(PROT32, 0);
    segment(SMALL, 0x50000, 0xff, 0x97, 0x4);
    load(X86_ES, SMALL);
    soft_mode_changed(c);
    c->gpr[X86_RAX] = 0x77;
    c->gpr[X86_RCX] = 64;
    c->gpr[X86_RDI] = 0x100;
    RUN(0xf3, 0xaa, HLT);
    ck_assert_int_eq(handler(), -1);
    ck_assert_uint_eq(c->gpr[X86_RDI], 0x140);
    ck_assert_uint_eq(get(0x50138, 8), UINT64_C(0x7777777777777777));
    c->rip = CODE;
    c->halted = false;
    c->gpr[X86_RCX] = 64;
    c->gpr[X86_RDI] = 0xe0;
    stopped = go();
    ck_assert_int_eq(handler(), EXC_GP);
    ck_assert_uint_eq(c->gpr[X86_RCX], 64);
}
END_TEST

/* ---- locked accesses ------------------------------------------------------------------------- */

START_TEST(a_locked_addition_over_two_pages_is_right_and_faults_before_it_writes)
{
    begin(PROT32, 0);
    put(0x60ffe, 0xffff0001, 4);
    /* lock add dword [0x60ffe], 0x20000 */
    RUN(0xf0, 0x81, 0x05, 0xfe, 0x0f, 0x06, 0x00, 0x00, 0x00, 0x02, 0x00, HLT);
    ck_assert_uint_eq(get(0x60ffe, 4), 0x00010001);
    ck_assert(soft_rflags(c) & FLAG_CF);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("soft rules");
    TCase *tc = tcase_create("rules");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_add_test(tc, a_single_step_over_mov_ss_traps_after_the_next_instruction);
    tcase_add_test(tc, of_two_loads_of_ss_only_the_first_has_a_shadow);
    tcase_add_test(tc, a_data_breakpoint_of_mov_ss_waits_for_the_next_instruction);
    tcase_add_test(tc, a_held_debug_exception_comes_in_the_handler_of_a_software_interrupt);
    tcase_add_test(tc, a_code_breakpoint_is_not_seen_behind_mov_ss);
    tcase_add_test(tc, interrupts_wait_one_instruction_after_sti);
    tcase_add_test(tc, a_shadow_is_part_of_the_state_and_names_its_kind);
    tcase_add_test(tc, iret_opens_nmis_even_when_it_faults);
    tcase_add_test(tc, pdptes_are_kept_until_cr3_is_loaded);
    tcase_add_test(tc, pdptes_with_reserved_bits_are_refused_when_they_are_loaded);
    tcase_add_test(tc, efer_refuses_unknown_bits_and_lme_under_paging);
    tcase_add_test(tc, a_state_that_is_put_back_unchanged_does_not_move_the_time_stamp_counter);
    tcase_add_test(tc, vector_features_are_those_of_the_host);
    tcase_add_test(tc, the_crystal_is_the_clock_of_counter_and_timer);
    tcase_add_test(tc, a_locked_addition_over_two_pages_is_right_and_faults_before_it_writes);
    tcase_add_test(tc, control_registers_decide_which_vector_instructions_run);
    tcase_add_test(tc, unmasked_exceptions_of_sse_and_x87_have_their_vectors);
    tcase_add_test(tc, repeated_string_instructions_stop_at_a_fault_and_go_on);
    tcase_add_test(tc, repeated_string_instructions_stop_at_the_end_of_their_segment);
    tcase_add_test(tc, code_goes_on_behind_the_end_of_ram_as_ones);
    tcase_add_test(tc, tables_of_descriptors_that_lie_nowhere_or_end_early_fault);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
