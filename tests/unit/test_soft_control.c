/* Control registers, MSRs, ports, debug registers and CPUID of the software CPU. */
#include "tests/unit/run_suite.h"
#include "tests/unit/soft_guest.h"

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
    Suite *s = suite_create("soft control");
    TCase *tc = tcase_create("control");

    tcase_add_checked_fixture(tc, guest_setup, guest_teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, control_registers_refuse_what_cannot_be);
    tcase_add_test(tc, long_mode_is_entered_from_protected_mode);
    tcase_add_test(tc, msrs_take_garbage_without_harm_and_unknown_ones_fault);
    tcase_add_test(tc, msrs_survive_the_saved_state);
    tcase_add_test(tc, ports_follow_iopl_and_the_bitmap);
    tcase_add_test(tc, tf_traps_after_one_instruction);
    tcase_add_test(tc, debug_registers_break_on_code_and_data);
    tcase_add_test(tc, cpuid_names_no_more_than_is_there);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
