/*
 * The software CPU's system part: descriptors, gates, interrupts, tasks and privileged
 * instructions, run as code over tables made by hand in a small memory. Every handler is a HLT at
 * an address that names its vector.
 */
#include "tests/unit/soft_guest.h"

/* ---- exceptions ------------------------------------------------------------------------------ */

START_TEST(every_vector_is_delivered_in_every_mode_with_its_frame)
{
    for (unsigned m = REAL; m < MODES; m++) {
        for (unsigned cpl = 0; cpl <= (m >= PROT32 ? 3u : 0u); cpl += 3) {
            for (unsigned v = 0; v < 256; v++) {
                unsigned size;
                uint64_t sp;

                begin((Mode)m, cpl);
                c->flags |= FLAG_IF | FLAG_TF;
                sp = c->gpr[X86_RSP];
                bool has_error = m != REAL && (v == 8 || (v >= 10 && v <= 14) || v == 17);
                soft_interrupt(c, v, SOFT_INT_HARDWARE, has_error, 0x1234, CODE);
                size = slot_size();
                ck_assert_uint_eq(c->seg[X86_CS].base + c->rip, HANDLER + v * 16);
                ck_assert_uint_eq(c->flags & (FLAG_IF | FLAG_TF | FLAG_VM), 0);
                ck_assert_uint_eq(c->cpl, 0);
                unsigned at = 0;
                if (has_error) {
                    ck_assert_uint_eq(top(at++, size), 0x1234);
                }
                ck_assert_uint_eq(top(at, size), CODE);
                ck_assert_uint_eq(top(at + 2, size) & (FLAG_IF | FLAG_TF), FLAG_IF | FLAG_TF);
                if (c->mode.long_mode || cpl || m == V86) {
                    ck_assert_uint_eq(top(at + 3, size), sp);
                }
                ck_assert(!c->delivering.active);
            }
        }
    }
}
END_TEST

START_TEST(instructions_raise_their_exceptions_in_every_mode)
{
    static const struct {
        uint8_t bytes[8];
        unsigned len, modes;
        int vector, error; /* error -1: none pushed */
    } cases[] = {
        { { 0xf6, 0xf1 }, 2, 0x3f, EXC_DE, -1 }, /* div cl */
        { { 0x0f, 0x0b }, 2, 0x3f, EXC_UD, -1 },
        { { 0x0f, 0xb9, 0xc0 }, 3, 0x3f, EXC_UD, -1 },
        { { 0x0f, 0xff, 0xc0 }, 3, 0x3f, EXC_UD, -1 },
        { { 0x0f, 0x01, 0xc8 }, 3, 0x3f, EXC_UD, -1 },                 /* monitor */
        { { 0x0f, 0x01, 0xc1 }, 3, 0x3f, EXC_UD, -1 },                 /* vmcall */
        { { 0x0f, 0x01, 0xd0 }, 3, 0x3f, EXC_UD, -1 },                 /* xgetbv without OSXSAVE */
        { { 0x0f, 0x00, 0xd0 }, 3, 1 << REAL | 1 << V86, EXC_UD, -1 }, /* lldt */
        { { 0x63, 0xc8 }, 2, 1 << REAL | 1 << V86, EXC_UD, -1 },       /* arpl */
        { { 0x0f, 0x05 }, 2, 0x2f, EXC_UD, -1 },       /* syscall outside 64-bit code */
        { { 0x0f, 0x01, 0xf8 }, 3, 0x2f, EXC_UD, -1 }, /* swapgs */
        { { 0x0f, 0x32 }, 2, 1 << V86, EXC_GP, 0 },
        { { 0x0f, 0x33 }, 2, 0x3f, EXC_GP, 0 }, /* rdpmc */
    };

    for (unsigned n = 0; n < G_N_ELEMENTS(cases); n++) {
        for (unsigned m = REAL; m < MODES; m++) {
            if (!(cases[n].modes >> m & 1)) {
                continue;
            }
            begin((Mode)m, 0);
            code(cases[n].bytes, cases[n].len);
            stopped = go();
            ck_assert_msg(handler() == cases[n].vector, "case %u mode %u: handler %d, rip %lx", n,
                          m, handler(), (unsigned long)c->rip);
            unsigned at = 0;
            if (cases[n].error >= 0 && m != REAL) {
                ck_assert_uint_eq(top(at++, slot_size()), (unsigned)cases[n].error);
            }
            ck_assert_uint_eq(top(at, slot_size()), CODE);
            if (m != REAL && m != PROT16) {
                ck_assert(top(at + 2, slot_size()) & FLAG_RF);
            }
        }
    }
}
END_TEST

START_TEST(privileged_instructions_fault_outside_of_ring_0)
{
    static const uint8_t list[][4] = {
        { 3, 0x0f, 0x20, 0xc0 },
        { 3, 0x0f, 0x22, 0xc0 },
        { 3, 0x0f, 0x21, 0xc0 },
        { 3, 0x0f, 0x23, 0xc0 },
        { 2, 0x0f, 0x06 },
        { 2, 0x0f, 0x08 },
        { 2, 0x0f, 0x09 },
        { 2, 0x0f, 0x30 },
        { 2, 0x0f, 0x32 },
        { 1, 0xf4 },
        { 1, 0xfa },
        { 1, 0xfb },
        { 3, 0x0f, 0x01, 0xf0 }, /* lmsw */
        { 3, 0x0f, 0x01, 0x38 }, /* invlpg */
        { 3, 0x0f, 0x01, 0x10 }, /* lgdt */
        { 3, 0x0f, 0x01, 0x18 }, /* lidt */
        { 2, 0xe4, 0x10 },
        { 2, 0xe6, 0x10 },
        { 1, 0xec },
        { 2, 0x0f, 0x35 }, /* sysexit */
    };
    static const Mode modes[] = { PROT32, LONG, COMPAT, V86 };

    for (unsigned n = 0; n < G_N_ELEMENTS(list); n++) {
        for (unsigned m = 0; m < G_N_ELEMENTS(modes); m++) {
            begin(modes[m], 3);
            code(list[n] + 1, list[n][0]);
            stopped = go();
            ck_assert_msg(handler() == EXC_GP, "case %u mode %u: handler %d", n, m, handler());
            expect_fault(EXC_GP, 0);
        }
    }
}
END_TEST

START_TEST(umip_keeps_tables_from_users_and_only_then)
{
    for (unsigned on = 0; on < 2; on++) {
        begin(PROT32, 3);
        c->cr4 = on ? CR4_UMIP : 0;
        RUN(0x0f, 0x01, 0xe0, 0xcc); /* smsw eax; int3: DPL 0, so #GP of the IDT entry */
        ck_assert_int_eq(handler(), EXC_GP);
        ck_assert_uint_eq(top(0, 4), on ? 0 : 3 << 3 | 2);
    }
}
END_TEST

START_TEST(software_interrupts_need_the_rights_of_their_gate)
{
    static const Mode modes[] = { PROT32, LONG, COMPAT };

    for (unsigned m = 0; m < 3; m++) {
        begin(modes[m], 3);
        RUN(0xcd, 0x50);
        expect_fault(EXC_GP, 0x50 << 3 | 2);
        begin(modes[m], 3);
        idt_entry(0x50, is_long() ? CS64 : CS0, HANDLER + 0x500, 0xee);
        RUN(0xcd, 0x50);
        ck_assert_int_eq(handler(), 0x50);
        ck_assert_uint_eq(top(0, slot_size()), CODE + 2);
        begin(modes[m], 3);
        idt_entry(0x50, is_long() ? CS64 : CS0, HANDLER + 0x500, 0x6e);
        RUN(0xcd, 0x50);
        expect_fault(EXC_NP, 0x50 << 3 | 2);
        begin(modes[m], 3);
        c->idt.limit = is_long() ? 0x4ff : 0x27f;
        RUN(0xcd, 0x50);
        expect_fault(EXC_GP, 0x50 << 3 | 2);
    }
}
END_TEST

START_TEST(int_n_in_virtual_8086_mode_needs_iopl_3_and_int3_does_not)
{
    begin(V86, 3);
    RUN(0xcd, 0x50);
    expect_fault(EXC_GP, 0);
    begin(V86, 3);
    c->flags |= FLAG_IOPL;
    idt_entry(0x50, CS0, HANDLER + 0x500, 0xee);
    RUN(0xcd, 0x50);
    ck_assert_int_eq(handler(), 0x50);
    ck_assert(top(2, 4) & FLAG_VM);
    ck_assert_uint_eq(top(3, 4), 0x7000);
    ck_assert(c->seg[X86_DS].unusable);
    begin(V86, 3);
    idt_entry(3, CS0, HANDLER + 0x30, 0xee);
    RUN(0xcc);
    ck_assert_int_eq(handler(), EXC_BP);
}
END_TEST

START_TEST(double_faults_follow_the_contributory_table)
{
    /* With one gate not present, delivering `first` raises #NP (contributory). */
    static const uint8_t firsts[] = { EXC_DE, EXC_TS, EXC_NP, EXC_SS, EXC_GP, EXC_PF,
                                      EXC_UD, EXC_NM, EXC_AC, EXC_MF, EXC_BR };

    for (unsigned n = 0; n < sizeof(firsts); n++) {
        bool becomes = n < 6;

        for (unsigned lm = 0; lm < 2; lm++) {
            begin(lm ? LONG : PROT32, 0);
            if (firsts[n] == EXC_NP) {
                put(IDT + EXC_NP * (lm ? 16 : 8) + 5, 0, 1); /* no gate at all: #GP */
            } else {
                put(IDT + firsts[n] * (lm ? 16 : 8) + 5, 0x0e, 1);
            }
            mem[CODE] = 0xf4;
            c->injected.valid = true;
            c->injected.vector = firsts[n];
            c->injected.is_interrupt = c->injected.soft = false;
            c->injected.has_error = false;
            stopped = go();
            if (becomes) {
                expect_fault(EXC_DF, 0);
            } else {
                expect_fault(EXC_NP, firsts[n] << 3 | 3);
            }
        }
    }
}
END_TEST

START_TEST(a_fault_in_double_fault_delivery_is_a_triple_fault)
{
    for (unsigned m = REAL; m < MODES; m++) {
        begin((Mode)m, 0);
        c->idt.limit = 0;
        RUN(0x0f, 0x0b);
        ck_assert_int_eq(stopped, SOFT_STOP_TRIPLE_FAULT);
        ck_assert_uint_eq(c->rip, CODE);
    }
}
END_TEST

START_TEST(ist_gives_its_stack_whatever_the_level_is)
{
    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        begin(LONG, cpl);
        mem[IDT + EXC_UD * 16 + 4] = 1;
        RUN(0x0f, 0x0b);
        ck_assert_int_eq(handler(), EXC_UD);
        ck_assert_uint_eq(c->gpr[X86_RSP], 0x28000 - 40);
        ck_assert_uint_eq(c->seg[X86_SS].selector, cpl ? 0 : DS0);
    }
    begin(LONG, 0);
    mem[IDT + EXC_UD * 16 + 4] = 1;
    put(TSS + 36, UINT64_C(0x8000000000000000), 8);
    RUN(0x0f, 0x0b);
    ck_assert_int_eq(handler(), EXC_SS);
    ck_assert_uint_eq(top(0, 8), 1);
}
END_TEST

/* ---- segments -------------------------------------------------------------------------------- */

START_TEST(segment_loads_are_checked)
{
    static const struct {
        uint8_t seg; /* ModRM reg of MOV Sreg, AX */
        uint16_t selector;
        unsigned cpl;
        int vector;
        uint32_t error;
    } cases[] = {
        { 3, 0, 0, -1, 0 },
        { 3, DS0, 0, -1, 0 },
        { 3, DS0, 3, EXC_GP, DS0 },
        { 3, DS0 | 3, 0, EXC_GP, DS0 },
        { 3, CONFORMING, 3, -1, 0 },
        { 3, EXEC_ONLY, 0, EXC_GP, EXEC_ONLY },
        { 3, ABSENT, 0, EXC_NP, ABSENT },
        { 3, READ_ONLY, 0, -1, 0 },
        { 3, SEL_TSS, 0, EXC_GP, SEL_TSS },
        { 3, GDT_END, 0, EXC_GP, GDT_END },
        { 3, 4 | 8, 0, EXC_GP, 4 | 8 }, /* no LDT */
        { 2, 0, 0, EXC_GP, 0 },
        { 2, READ_ONLY, 0, EXC_GP, READ_ONLY },
        { 2, ABSENT, 0, EXC_SS, ABSENT },
        { 2, DS3, 0, EXC_GP, DS3 & ~3 },
        { 2, CS0, 0, EXC_GP, CS0 },
        { 2, DS0, 0, -1, 0 },
    };

    for (unsigned n = 0; n < G_N_ELEMENTS(cases); n++) {
        const uint8_t bytes[] = { 0x8e, (uint8_t)(0xc0 | cases[n].seg << 3), 0x0f, 0x0b };

        begin(PROT32, cases[n].cpl);
        c->gpr[X86_RAX] = cases[n].selector;
        code(bytes, sizeof(bytes));
        stopped = go();
        if (cases[n].vector < 0) {
            ck_assert_msg(handler() == EXC_UD, "case %u: handler %d", n, handler());
            ck_assert_uint_eq(top(0, 4), CODE + 2);
        } else {
            ck_assert_msg(handler() == cases[n].vector, "case %u: handler %d", n, handler());
            expect_fault((unsigned)cases[n].vector, cases[n].error);
        }
    }
}
END_TEST

START_TEST(real_mode_loads_keep_limits_and_so_unreal_mode)
{
    begin(REAL, 0);
    c->seg[X86_DS].limit = UINT32_MAX;
    c->gpr[X86_RAX] = 0x1234;
    RUN(0x8e, 0xd8, 0xf4);
    ck_assert_uint_eq(c->seg[X86_DS].base, 0x12340);
    ck_assert_uint_eq(c->seg[X86_DS].limit, UINT32_MAX);
}
END_TEST

START_TEST(lar_lsl_verr_and_verw_answer_by_rights)
{
    begin(PROT32, 0);
    c->gpr[X86_RCX] = SMALL;
    RUN(0x0f, 0x02, 0xc1, 0x0f, 0x03, 0xd9, 0xf4); /* lar eax, ecx; lsl ebx, ecx */
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x00409300);
    ck_assert_uint_eq(c->gpr[X86_RBX], 0xff);
    ck_assert(soft_rflags(c) & FLAG_ZF);
    begin(PROT32, 0);
    c->gpr[X86_RCX] = GDT_END;
    c->gpr[X86_RAX] = 77;
    RUN(0x0f, 0x02, 0xc1, 0xf4);
    ck_assert_uint_eq(c->gpr[X86_RAX], 77);
    ck_assert(!(soft_rflags(c) & FLAG_ZF));
    begin(PROT32, 0);
    c->gpr[X86_RCX] = READ_ONLY;
    RUN(0x0f, 0x00, 0xe1, 0x0f, 0x94, 0xc0, 0x0f, 0x00, 0xe9, 0x0f, 0x94, 0xc4, 0xf4);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xffff, 1);
}
END_TEST

/* ---- far transfers ------------------------------------------------------------------------- */

START_TEST(a_call_gate_switches_stacks_copies_parameters_and_returns)
{
    begin(PROT32, 3);
    put(GDT + GATE, gate(CS0, 0xa000, 0xec, 2), 8);
    static const uint8_t inner[] = { 0x8b, 0x44, 0x24, 0x08, 0xca, 0x08, 0x00 };
    memcpy(mem + 0xa000, inner, sizeof(inner)); /* mov eax, [esp + 8]; retf 8 */
    RUN(0x6a, 0x11, 0x6a, 0x22, 0x9a, 0, 0, 0, 0, GATE | 3, 0, 0x0f, 0x0b);
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x22);
    ck_assert_uint_eq(top(0, 4), CODE + 11);
    ck_assert_uint_eq(top(1, 4), CS3);
    ck_assert_uint_eq(top(3, 4), STACK3);
}
END_TEST

START_TEST(a_call_gate_of_long_mode_pushes_four_quadwords)
{
    begin(LONG, 3);
    put(GDT + GATE, gate(CS64, 0xa000, 0xec, 0), 8);
    put(GDT + GATE + 8, 0, 8);
    mem[0xa000] = 0xf4;
    put(0xb000, 0, 4);
    put(0xb004, GATE | 3, 2);
    RUN(0xff, 0x1c, 0x25, 0x00, 0xb0, 0, 0); /* call far [0xb000] */
    ck_assert_uint_eq(c->rip, 0xa001);
    ck_assert_uint_eq(c->gpr[X86_RSP], STACK0 - 32);
    ck_assert_uint_eq(top(0, 8), CODE + 7);
    ck_assert_uint_eq(top(1, 8), CS64_3);
    ck_assert_uint_eq(top(2, 8), STACK3);
    ck_assert_uint_eq(top(3, 8), DS3);
}
END_TEST

START_TEST(far_jumps_check_rights_presence_and_limits)
{
    static const struct {
        uint16_t selector;
        uint32_t offset;
        unsigned cpl, vector;
        uint32_t error;
    } cases[] = {
        { 0, 0, 0, EXC_GP, 0 },
        { DS0, 0, 0, EXC_GP, DS0 },
        { CS0, 0, 3, EXC_GP, CS0 },
        { CS3, 0, 0, EXC_GP, CS3 & ~3 },
        { GDT_END, 0, 0, EXC_GP, GDT_END },
        { CS16, 0x10000, 0, EXC_GP, 0 },
        { SEL_LDT, 0, 0, EXC_GP, SEL_LDT },
        { SEL_TSS, 0, 0, EXC_GP, SEL_TSS }, /* busy */
    };

    for (unsigned n = 0; n < G_N_ELEMENTS(cases); n++) {
        uint8_t bytes[7] = { 0xea };

        memcpy(bytes + 1, &cases[n].offset, 4);
        memcpy(bytes + 5, &cases[n].selector, 2);
        begin(PROT32, cases[n].cpl);
        code(bytes, 7);
        stopped = go();
        ck_assert_msg(handler() == (int)cases[n].vector, "case %u: handler %d", n, handler());
        expect_fault(cases[n].vector, cases[n].error);
    }
    begin(PROT32, 3);
    mem[0xa000] = 0x0f;
    mem[0xa001] = 0x0b;
    RUN(0xea, 0, 0xa0, 0, 0, CONFORMING, 0); /* runs at CPL 3 */
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(top(1, 4), CONFORMING | 3);
}
END_TEST

/* ---- IRET --------------------------------------------------------------------------------------
 */

START_TEST(iret_returns_to_outer_levels_and_drops_data_segments)
{
    begin(PROT32, 0);
    put(STACK0 - 20, 0xa000, 4);
    put(STACK0 - 16, CS3, 4);
    put(STACK0 - 12, 0x202 | FLAG_IOPL, 4);
    put(STACK0 - 8, STACK3, 4);
    put(STACK0 - 4, DS3, 4);
    c->gpr[X86_RSP] = STACK0 - 20;
    mem[0xa000] = 0x0f;
    mem[0xa001] = 0x0b;
    RUN(0xcf);
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(top(1, 4), CS3);
    ck_assert_uint_eq(top(3, 4), STACK3);
    ck_assert_uint_eq(top(2, 4) & 0x3200, 0x3200);
    ck_assert(c->seg[X86_DS].unusable);
}
END_TEST

START_TEST(iret_at_user_level_keeps_iopl_and_if)
{
    begin(PROT32, 3);
    put(STACK3 - 12, 0xa000, 4);
    put(STACK3 - 8, CS3, 4);
    put(STACK3 - 4, 0x3ed7, 4);
    c->gpr[X86_RSP] = STACK3 - 12;
    mem[0xa000] = 0x0f;
    mem[0xa001] = 0x0b;
    c->flags |= 0x1000;
    RUN(0xcf);
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(top(2, 4) & 0x3200, 0x1000);
}
END_TEST

START_TEST(iret_enters_virtual_8086_mode_and_an_interrupt_leaves_it)
{
    static const uint32_t frame[] = {
        0xa0, 0xa00, FLAG_VM | 2, 0x600, 0x30, 0x11, 0x22, 0x33, 0x44
    };

    begin(PROT32, 0);
    c->gpr[X86_RSP] = STACK0 - 36;
    memcpy(mem + STACK0 - 36, frame, sizeof(frame));
    mem[0xa0a0] = 0x0f;
    mem[0xa0a1] = 0x0b;
    RUN(0xcf);
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(c->gpr[X86_RSP], STACK0 - 36);
    for (unsigned i = 0; i < 9; i++) {
        ck_assert_uint_eq(top(i, 4) & ~(uint32_t)FLAG_RF, frame[i]);
    }
}
END_TEST

START_TEST(iret_of_long_mode_always_takes_the_stack)
{
    static const uint16_t targets[][3] = { { CS64, DS0, 0 }, { CS64_3, DS3, 3 }, { CS3, DS3, 3 } };

    for (unsigned n = 0; n < 3; n++) {
        const uint64_t frame[] = { 0xa000, targets[n][0], 2, 0x31000, targets[n][1] };

        begin(LONG, 0);
        c->gpr[X86_RSP] = STACK0 - 40;
        memcpy(mem + STACK0 - 40, frame, sizeof(frame));
        mem[0xa000] = 0x0f;
        mem[0xa001] = 0x0b;
        RUN(0x48, 0xcf);
        ck_assert_int_eq(handler(), EXC_UD);
        ck_assert_uint_eq(top(0, 8), 0xa000);
        ck_assert_uint_eq(top(1, 8), targets[n][0]);
        ck_assert_uint_eq(top(3, 8), 0x31000);
    }
    begin(LONG, 0);
    c->flags |= FLAG_NT;
    RUN(0x48, 0xcf);
    expect_fault(EXC_GP, 0);
    begin(LONG, 0);
    put(STACK0, UINT64_C(0x1000000000000), 8);
    put(STACK0 + 8, CS64, 8);
    put(STACK0 + 24, STACK3, 8);
    put(STACK0 + 32, DS0, 8);
    RUN(0x48, 0xcf);
    expect_fault(EXC_GP, 0);
}
END_TEST

/* ---- tasks ----------------------------------------------------------------------------------- */

static void make_task(void)
{
    put(TSS_B + 0x20, 0xa000, 4);
    put(TSS_B + 0x24, 2, 4);
    put(TSS_B + 0x28, 0x1111, 4);
    put(TSS_B + 0x38, 0x32000, 4);
    static const uint16_t seg[] = { DS0, CS0, DS0, DS0, 0, 0 };
    for (unsigned i = 0; i < 6; i++) {
        put(TSS_B + 0x48 + i * 4, seg[i], 4);
    }
    mem[0xa000] = 0xf4;
}

START_TEST(a_jump_to_a_tss_switches_tasks)
{
    begin(PROT32, 0);
    make_task();
    c->gpr[X86_RBX] = 0x77;
    RUN(0xea, 0, 0, 0, 0, SEL_TSS_B, 0);
    ck_assert_int_eq(stopped, SOFT_STOP_HALT);
    ck_assert_uint_eq(c->rip, 0xa001);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x1111);
    ck_assert_uint_eq(c->seg[X86_TR].selector, SEL_TSS_B);
    ck_assert(c->cr0 & CR0_TS);
    ck_assert(!(c->flags & FLAG_NT));
    ck_assert_uint_eq(get(TSS + 0x20, 4), CODE + 7);
    ck_assert_uint_eq(get(TSS + 0x34, 4), 0x77);
    ck_assert_uint_eq(mem[GDT + SEL_TSS + 5], 0x89);
    ck_assert_uint_eq(mem[GDT + SEL_TSS_B + 5], 0x8b);
}
END_TEST

START_TEST(a_call_to_a_task_nests_and_iret_comes_back)
{
    begin(PROT32, 0);
    make_task();
    mem[0xa000] = 0xcf;
    RUN(0x9a, 0, 0, 0, 0, TASK_GATE, 0, 0xf4);
    ck_assert_int_eq(stopped, SOFT_STOP_HALT);
    ck_assert_uint_eq(c->rip, CODE + 8);
    ck_assert_uint_eq(c->seg[X86_TR].selector, SEL_TSS);
    ck_assert_uint_eq(get(TSS_B, 2), SEL_TSS);
    ck_assert_uint_eq(mem[GDT + SEL_TSS_B + 5], 0x89);
    ck_assert_uint_eq(mem[GDT + SEL_TSS + 5], 0x8b);
    ck_assert(!(c->flags & FLAG_NT));
    ck_assert_uint_eq(get(TSS_B + 0x20, 4), 0xa001);
}
END_TEST

START_TEST(a_task_gate_takes_an_exception_with_its_error_code)
{
    begin(PROT32, 0);
    make_task();
    put(IDT + EXC_GP * 8, gate(SEL_TSS_B, 0, 0x85, 0), 8);
    c->gpr[X86_RAX] = EXEC_ONLY;
    RUN(0x8e, 0xd8);
    ck_assert_uint_eq(c->rip, 0xa001);
    ck_assert_uint_eq(c->gpr[X86_RSP], 0x32000 - 4);
    ck_assert_uint_eq(top(0, 4), EXEC_ONLY);
    ck_assert(c->flags & FLAG_NT);
    ck_assert_uint_eq(get(TSS + 0x20, 4), CODE);
}
END_TEST

START_TEST(bad_selectors_in_a_tss_fault_in_the_new_task)
{
    begin(PROT32, 0);
    make_task();
    put(TSS_B + 0x50, READ_ONLY, 4); /* SS */
    put(IDT + EXC_TS * 8, gate(SEL_TSS_B, 0, 0x85, 0), 8);
    RUN(0xea, 0, 0, 0, 0, SEL_TSS_B, 0);
    /* #TS in the new task; its gate's task is busy, so #GP, so #DF; without a stack: triple. */
    ck_assert_int_eq(stopped, SOFT_STOP_TRIPLE_FAULT);
    begin(PROT32, 0);
    make_task();
    segment(SEL_TSS_B, TSS_B, 0x66, 0x89, 0);
    RUN(0xea, 0, 0, 0, 0, SEL_TSS_B, 0);
    expect_fault(EXC_TS, SEL_TSS_B);
    begin(PROT32, 0);
    make_task();
    put(TSS_B + 0x54, ABSENT, 4); /* DS */
    RUN(0xea, 0, 0, 0, 0, SEL_TSS_B, 0);
    ck_assert_int_eq(handler(), EXC_NP);
    ck_assert_uint_eq(top(0, 4), ABSENT);
    ck_assert_uint_eq(top(1, 4), 0xa000);
}
END_TEST

/* ---- fast system calls ----------------------------------------------------------------------- */

START_TEST(syscall_and_sysret_go_there_and_back)
{
    begin(LONG, 3);
    c->msr.star = (uint64_t)(CS64_3 - 16) << 48 | (uint64_t)CS64 << 32;
    c->msr.lstar = 0xa000;
    c->msr.sfmask = FLAG_IF | FLAG_DF;
    c->flags |= FLAG_IF | FLAG_DF;
    static const uint8_t kernel[] = { 0x9c, 0x5b, 0x48, 0x0f, 0x07 }; /* pushf; pop rbx; sysretq */
    memcpy(mem + 0xa000, kernel, sizeof(kernel));
    RUN(0x0f, 0x05, 0x0f, 0x0b);
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(c->gpr[X86_RCX], CODE + 2);
    ck_assert_uint_eq(c->gpr[X86_RBX] & (FLAG_IF | FLAG_DF), 0);
    ck_assert_uint_eq(top(0, 8), CODE + 2);
    ck_assert_uint_eq(top(1, 8), CS64_3);
    ck_assert_uint_eq(top(2, 8) & (FLAG_IF | FLAG_DF), FLAG_IF | FLAG_DF);
    begin(LONG, 3);
    c->efer &= ~EFER_SCE;
    RUN(0x0f, 0x05);
    ck_assert_int_eq(handler(), EXC_UD);
}
END_TEST

START_TEST(sysenter_and_sysexit_go_there_and_back)
{
    begin(PROT32, 3);
    c->msr.sysenter_cs = CS0;
    c->msr.sysenter_eip = 0xa000;
    c->msr.sysenter_esp = STACK0;
    c->gpr[X86_RDX] = CODE + 2;
    c->gpr[X86_RCX] = STACK3;
    mem[0xa000] = 0x0f;
    mem[0xa001] = 0x35;
    RUN(0x0f, 0x34, 0x0f, 0x0b);
    ck_assert_int_eq(handler(), EXC_UD);
    ck_assert_uint_eq(top(0, 4), CODE + 2);
    ck_assert_uint_eq(top(1, 4), CS0 + 16 + 3);
    begin(PROT32, 3);
    RUN(0x0f, 0x34);
    expect_fault(EXC_GP, 0);
}
END_TEST

/* ---- control registers, MSRs, ports, debugging ----------------------------------------------- */

START_TEST(control_registers_refuse_what_cannot_be)
{
    static const struct {
        uint8_t reg;
        uint64_t value;
    } bad[] = {
        { 0, CR0_PG },  { 0, CR0_NW | CR0_PE }, { 4, CR4_VME },
        { 4, 1 << 13 }, { 4, CR4_PCIDE },       { 0, CR0_PG | CR0_ET },
    };

    for (unsigned n = 0; n < G_N_ELEMENTS(bad); n++) {
        const uint8_t bytes[] = { 0x0f, 0x22, (uint8_t)(0xc0 | bad[n].reg << 3) };

        begin(PROT32, 0);
        c->gpr[X86_RAX] = bad[n].value;
        code(bytes, 3);
        stopped = go();
        expect_fault(EXC_GP, 0);
    }
    begin(LONG, 0);
    c->gpr[X86_RAX] = 0; /* paging off in 64-bit code, and CR4.PAE off */
    RUN(0x0f, 0x22, 0xe0);
    expect_fault(EXC_GP, 0);
}
END_TEST

START_TEST(long_mode_is_entered_from_protected_mode)
{
    begin(PROT32, 0);
    mode = LONG;
    identity_pages();
    c->cr0 &= ~CR0_PG;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME;
    c->gpr[X86_RAX] = c->cr0 | CR0_PG;
    /* mov cr0, eax; jmp far CS64:0xa000; there: mov rax, -1 sign-extended; hlt */
    static const uint8_t there[] = { 0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xf4 };
    memcpy(mem + 0xa000, there, sizeof(there));
    RUN(0x0f, 0x22, 0xc0, 0xea, 0, 0xa0, 0, 0, CS64, 0);
    ck_assert_int_eq(stopped, SOFT_STOP_HALT);
    ck_assert_uint_eq(c->gpr[X86_RAX], UINT64_MAX);
    ck_assert(c->efer & EFER_LMA);
    ck_assert(c->mode.long_mode);
}
END_TEST

START_TEST(msrs_take_garbage_without_harm_and_unknown_ones_fault)
{
    uint64_t v, seed = 1;

    begin(LONG, 0);
    for (uint32_t i = 0; i < 0x2000; i++) {
        for (unsigned high = 0; high < 3; high++) {
            static const uint32_t bases[] = { 0, 0xc0000000, 0xc0010000 };
            uint32_t index = bases[high] + i;

            if (index == 0xc0000080) {
                continue; /* raises by itself */
            }
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            if (soft_wrmsr(c, index, seed) && index != 0x79) {
                ck_assert_msg(soft_rdmsr(c, index, &v), "MSR %#x is written but not read", index);
            }
        }
    }
    begin(LONG, 0);
    c->gpr[X86_RCX] = 0x12345;
    RUN(0x0f, 0x32);
    expect_fault(EXC_GP, 0);
    begin(LONG, 0);
    ck_assert(!soft_wrmsr(c, 0xc0000082, UINT64_C(0x1000000000000)));
    ck_assert(!soft_wrmsr(c, 0x277, 2));
    ck_assert(soft_wrmsr(c, 0xc0000102, 0x1234));
    RUN(0x0f, 0x01, 0xf8, 0xf4); /* swapgs */
    ck_assert_uint_eq(c->seg[X86_GS].base, 0x1234);
}
END_TEST

START_TEST(msrs_survive_the_saved_state)
{
    X86CPUState *s = g_aligned_alloc0(1, sizeof(*s) + 64, 64);

    begin(LONG, 0);
    c->msr.lstar = 0x1111;
    c->msr.mtrr_fixed[10] = 0x0606060606060606;
    soft_msrs_store(c, s);
    soft_msrs_reset(c);
    ck_assert_uint_eq(c->msr.lstar, 0);
    soft_msrs_load(c, s);
    ck_assert_uint_eq(c->msr.lstar, 0x1111);
    ck_assert_uint_eq(c->msr.mtrr_fixed[10], 0x0606060606060606);
    ck_assert_uint_eq(c->msr.pat, 0x0007040600070406);
    g_aligned_free(s);
}
END_TEST

START_TEST(ports_follow_iopl_and_the_bitmap)
{
    for (unsigned lm = 0; lm < 2; lm++) {
        begin(lm ? LONG : PROT32, 3);
        RUN(0xe4, 0x10, 0x0f, 0x0b);
        expect_fault(EXC_GP, 0);
        begin(lm ? LONG : PROT32, 3);
        mem[TSS + 0x80 + 2] = 0xfe;
        RUN(0xe4, 0x10, 0x0f, 0x0b);
        ck_assert_int_eq(handler(), EXC_UD);
        ck_assert_uint_eq(c->gpr[X86_RAX], 0xff);
        begin(lm ? LONG : PROT32, 3);
        mem[TSS + 0x80 + 2] = 0xfe;
        RUN(0x66, 0xe5, 0x10); /* the second port is not allowed */
        expect_fault(EXC_GP, 0);
        begin(lm ? LONG : PROT32, 3);
        c->flags |= FLAG_IOPL;
        RUN(0xe4, 0x10, 0x0f, 0x0b);
        ck_assert_int_eq(handler(), EXC_UD);
    }
    begin(V86, 3);
    c->flags |= FLAG_IOPL; /* does not help there */
    RUN(0xe4, 0x10);
    expect_fault(EXC_GP, 0);
}
END_TEST

START_TEST(tf_traps_after_one_instruction)
{
    for (unsigned m = REAL; m < MODES; m++) {
        if (m == V86) {
            continue;
        }
        begin((Mode)m, 0);
        c->flags |= FLAG_TF;
        RUN(0x90, 0x90, 0x90);
        ck_assert_int_eq(handler(), EXC_DB);
        ck_assert_uint_eq(top(0, slot_size()), CODE + 1);
        ck_assert(c->dr6 & DR6_BS);
        ck_assert(!(c->flags & FLAG_TF));
    }
}
END_TEST

START_TEST(debug_registers_break_on_code_and_data)
{
    begin(PROT32, 0);
    c->dr[0] = CODE + 1;
    c->dr7 |= 2;
    soft_debug_changed(c);
    RUN(0x90, 0x90, 0x90);
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(top(0, 4), CODE + 1);
    ck_assert_uint_eq(c->dr6 & 15, 1);
    begin(PROT32, 0);
    c->dr[1] = 0xb000;
    c->dr7 |= 8 | 0xd << 20; /* G1, four bytes, writes */
    soft_debug_changed(c);
    RUN(0xa2, 0x03, 0xb0, 0, 0, 0x90, 0xf4); /* mov [0xb003], al */
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(top(0, 4), CODE + 5);
    ck_assert_uint_eq(c->dr6 & 15, 2);
    begin(PROT32, 0);
    c->dr7 |= 1 << 13;
    RUN(0x0f, 0x21, 0xc0);
    ck_assert_int_eq(handler(), EXC_DB);
    ck_assert_uint_eq(top(0, 4), CODE);
    ck_assert(c->dr6 & DR6_BD);
    ck_assert(!(c->dr7 & 1 << 13));
}
END_TEST

START_TEST(cpuid_names_no_more_than_is_there)
{
    uint32_t out[4];

    begin(LONG, 0);
    soft_cpuid(c, 1, 0, out);
    ck_assert(!(out[2] & 1 << 27));
    ck_assert(!(out[2] & 1 << 3));  /* MONITOR */
    ck_assert(!(out[2] & 1 << 21)); /* x2APIC, without an APIC */
    c->cr4 |= CR4_OSXSAVE;
    soft_cpuid(c, 1, 0, out);
    ck_assert(out[2] & 1 << 27);
    soft_cpuid(c, 7, 0, out);
    ck_assert_uint_eq(out[1] & (1u << 16 | 1u << 4 | 1u << 11), 0); /* AVX-512, HLE, RTM */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("soft system");
    TCase *tc = tcase_create("system");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_vector_is_delivered_in_every_mode_with_its_frame);
    tcase_add_test(tc, instructions_raise_their_exceptions_in_every_mode);
    tcase_add_test(tc, privileged_instructions_fault_outside_of_ring_0);
    tcase_add_test(tc, umip_keeps_tables_from_users_and_only_then);
    tcase_add_test(tc, software_interrupts_need_the_rights_of_their_gate);
    tcase_add_test(tc, int_n_in_virtual_8086_mode_needs_iopl_3_and_int3_does_not);
    tcase_add_test(tc, double_faults_follow_the_contributory_table);
    tcase_add_test(tc, a_fault_in_double_fault_delivery_is_a_triple_fault);
    tcase_add_test(tc, ist_gives_its_stack_whatever_the_level_is);
    tcase_add_test(tc, segment_loads_are_checked);
    tcase_add_test(tc, real_mode_loads_keep_limits_and_so_unreal_mode);
    tcase_add_test(tc, lar_lsl_verr_and_verw_answer_by_rights);
    tcase_add_test(tc, a_call_gate_switches_stacks_copies_parameters_and_returns);
    tcase_add_test(tc, a_call_gate_of_long_mode_pushes_four_quadwords);
    tcase_add_test(tc, far_jumps_check_rights_presence_and_limits);
    tcase_add_test(tc, iret_returns_to_outer_levels_and_drops_data_segments);
    tcase_add_test(tc, iret_at_user_level_keeps_iopl_and_if);
    tcase_add_test(tc, iret_enters_virtual_8086_mode_and_an_interrupt_leaves_it);
    tcase_add_test(tc, iret_of_long_mode_always_takes_the_stack);
    tcase_add_test(tc, a_jump_to_a_tss_switches_tasks);
    tcase_add_test(tc, a_call_to_a_task_nests_and_iret_comes_back);
    tcase_add_test(tc, a_task_gate_takes_an_exception_with_its_error_code);
    tcase_add_test(tc, bad_selectors_in_a_tss_fault_in_the_new_task);
    tcase_add_test(tc, syscall_and_sysret_go_there_and_back);
    tcase_add_test(tc, sysenter_and_sysexit_go_there_and_back);
    tcase_add_test(tc, control_registers_refuse_what_cannot_be);
    tcase_add_test(tc, long_mode_is_entered_from_protected_mode);
    tcase_add_test(tc, msrs_take_garbage_without_harm_and_unknown_ones_fault);
    tcase_add_test(tc, msrs_survive_the_saved_state);
    tcase_add_test(tc, ports_follow_iopl_and_the_bitmap);
    tcase_add_test(tc, tf_traps_after_one_instruction);
    tcase_add_test(tc, debug_registers_break_on_code_and_data);
    tcase_add_test(tc, cpuid_names_no_more_than_is_there);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
