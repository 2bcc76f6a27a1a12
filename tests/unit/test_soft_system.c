/*
 * The software CPU's system part: exceptions, privileges and segments, run as code over tables made
 * by hand in a small memory. Every handler is a HLT at an address that names its vector.
 */
#include "tests/unit/run_suite.h"
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

int main(void)
{
    Suite *s = suite_create("soft system");
    TCase *tc = tcase_create("system");

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
    suite_add_tcase(s, tc);
    return run_suite(s);
}
