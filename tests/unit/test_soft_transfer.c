/* The software CPU's control transfers: call gates, far jumps, IRET, tasks, fast system calls. */
#include "tests/unit/run_suite.h"
#include "tests/unit/soft_guest.h"

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

int main(void)
{
    Suite *s = suite_create("soft transfer");
    TCase *tc = tcase_create("transfer");

    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_set_timeout(tc, 60);
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
    suite_add_tcase(s, tc);
    return run_suite(s);
}
