/*
 * Vector and x87 instructions of the software CPU: what user-mode programs cannot try on the host.
 * Whether an instruction may run at all, what waits for whom, the formats of the environment.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"
#include "rig.h"

#include "engine/accel/soft/soft-thunk.h"
#include "engine/core/rcu.h"

#define CR0  UINT64_C(0x80050033)
#define CR4  UINT64_C(0x406f0)
#define DATA (DATA_ADDR + 0x400)

enum { PE = 1 << 0, MP = 1 << 1, EM = 1 << 2, TS = 1 << 3, NE = 1 << 5 };
enum { OSFXSR = 1 << 9, OSXMMEXCPT = 1 << 10, OSXSAVE = 1 << 18 };

static SoftRig *rig;
static Case t;
static Outcome o;

static void setup(void)
{
    SoftCpu *c;

    rcu_thread_register();
    rig = soft_rig_new();
    c = soft_rig_cpu(rig);
    c->cr0 = CR0;
    c->cr4 = CR4;
    c->xcr0 = 7;
    memset(&t, 0, sizeof(t));
    t.wide = true;
    t.has_fpu = true;
    t.in.flags = 0x202;
    t.in.gpr[X86_RBX] = DATA;
    t.in.gpr[X86_RSP] = DATA_ADDR + 0x1000;
    t.fpu[0] = 0x7f;
    t.fpu[1] = 3;
    t.fpu[24] = 0x80;
    t.fpu[25] = 0x1f;
    t.fpu[512] = 7;
}

static void teardown(void)
{
    soft_rig_free(rig);
    rcu_thread_unregister();
}

/* Bytes in hexadecimal; returns the exception, -1: none. */
static int run(const char *code)
{
    memset(t.code, 0xcc, sizeof(t.code));
    for (t.len = 0; *code; code += 2) {
        char byte[3] = { code[0], code[1], 0 };

        t.code[t.len++] = (uint8_t)strtoul(byte, NULL, 16);
    }
    memset(&o, 0, sizeof(o));
    soft_rig_run(rig, &t, &o);
    return o.vector;
}

/* The next instruction goes on where the last one ended. */
static int then(const char *code)
{
    memcpy(t.fpu, o.fpu, sizeof(t.fpu));
    memcpy(t.data, o.data, sizeof(t.data));
    return run(code);
}

static unsigned get16(const uint8_t *p)
{
    return p[0] | p[1] << 8;
}
static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

#define SSE_ADD    "0f58c1"
#define SSE_LOAD   "0f1003"
#define AVX_ADD    "c5f058c1"
#define MMX_ADD    "0ffcc1"
#define CVT_MMX    "0f2ac1"
#define FLD1       "d9e8"
#define FLD_MEM    "d903"
#define FWAIT      "9b"
#define FNSTSW_AX  "dfe0"
#define FNSTENV    "d933"
#define FNSTENV16  "66d933"
#define FXSAVE     "0fae03"
#define XSAVE      "0fae23"
#define LDMXCSR    "0fae13"
#define PREFETCHT0 "0f180b"
#define MFENCE     "0faef0"
#define MOVNTI     "0fc303"
#define VZEROUPPER "c5f877"
#define DIVPS_TOO  "0f5ec1"

static bool has_avx(void)
{
    return soft_thunk_host_features() & HOST_AVX;
}

START_TEST(task_switched_means_device_not_available)
{
    static const char *const codes[] = { SSE_ADD, SSE_LOAD, MMX_ADD, CVT_MMX,   FLD1,
                                         FLD_MEM, FXSAVE,   XSAVE,   FNSTSW_AX, LDMXCSR };

    soft_rig_cpu(rig)->cr0 |= TS;
    for (unsigned n = 0; n < sizeof(codes) / sizeof(codes[0]); n++) {
        ck_assert_msg(run(codes[n]) == EXC_NM, "%s: %d", codes[n], o.vector);
    }
    if (has_avx()) {
        ck_assert_int_eq(run(AVX_ADD), EXC_NM);
        ck_assert_int_eq(run(VZEROUPPER), EXC_NM);
    }
    ck_assert_int_eq(run(PREFETCHT0), -1);
    ck_assert_int_eq(run(MFENCE), -1);
    ck_assert_int_eq(run(MOVNTI), -1);
}
END_TEST

START_TEST(wait_asks_for_both_mp_and_ts)
{
    soft_rig_cpu(rig)->cr0 |= TS;
    ck_assert_int_eq(run(FWAIT), EXC_NM);
    soft_rig_cpu(rig)->cr0 &= ~(uint64_t)MP;
    ck_assert_int_eq(run(FWAIT), -1);
}
END_TEST

START_TEST(emulation_undefines_vectors_and_withholds_the_x87)
{
    soft_rig_cpu(rig)->cr0 |= EM;
    ck_assert_int_eq(run(SSE_ADD), EXC_UD);
    ck_assert_int_eq(run(MMX_ADD), EXC_UD);
    ck_assert_int_eq(run(CVT_MMX), EXC_UD);
    ck_assert_int_eq(run(LDMXCSR), EXC_UD);
    ck_assert_int_eq(run(FLD1), EXC_NM);
    ck_assert_int_eq(run(FXSAVE), EXC_NM);
    if (has_avx()) {
        ck_assert_int_eq(run(AVX_ADD), -1);
    }
}
END_TEST

START_TEST(vectors_need_the_system_to_have_said_that_it_saves_them)
{
    SoftCpu *c = soft_rig_cpu(rig);

    c->cr4 &= ~(uint64_t)OSFXSR;
    ck_assert_int_eq(run(SSE_ADD), EXC_UD);
    ck_assert_int_eq(run(LDMXCSR), EXC_UD);
    ck_assert_int_eq(run(CVT_MMX), EXC_UD);
    ck_assert_int_eq(run(MMX_ADD), -1);
    ck_assert_int_eq(run(FLD1), -1);
    c->cr4 = CR4 & ~(uint64_t)OSXSAVE;
    ck_assert_int_eq(run(AVX_ADD), EXC_UD);
    ck_assert_int_eq(run(XSAVE), EXC_UD);
    ck_assert_int_eq(run(SSE_ADD), -1);
    c->cr4 = CR4;
    c->xcr0 = 3;
    ck_assert_int_eq(run(AVX_ADD), EXC_UD);
    ck_assert_int_eq(run(XSAVE), -1);
}
END_TEST

START_TEST(an_unmasked_simd_exception_without_its_handler_is_undefined_opcode)
{
    t.fpu[24] = 0x00;
    t.fpu[25] = 0x1f; /* invalid operation unmasked: 0 / 0 */
    ck_assert_int_eq(run(DIVPS_TOO), EXC_XM);
    ck_assert_uint_eq(o.fpu[24] & 0x3f, 1);
    soft_rig_cpu(rig)->cr4 &= ~(uint64_t)OSXMMEXCPT;
    ck_assert_int_eq(run(DIVPS_TOO), EXC_UD);
}
END_TEST

START_TEST(an_x87_exception_waits_for_the_next_instruction_that_looks)
{
    t.fpu[0] = 0x7e;                   /* invalid operation unmasked */
    ck_assert_int_eq(run("d8c1"), -1); /* fadd of empty registers */
    ck_assert_uint_eq(get16(o.fpu + 2) & 0x80c1, 0x80c1);
    ck_assert_int_eq(then(FNSTSW_AX), -1);
    ck_assert_uint_eq(o.regs.gpr[X86_RAX] & 0x80, 0x80);
    ck_assert_int_eq(then(FLD1), EXC_MF);
    ck_assert_int_eq(run(FWAIT), EXC_MF);
    ck_assert_int_eq(run(MMX_ADD), EXC_MF);
    ck_assert_int_eq(run(CVT_MMX), EXC_MF);
    ck_assert_int_eq(run(SSE_ADD), -1);
    ck_assert_int_eq(run("dbe2"), -1); /* fnclex */
    ck_assert_int_eq(then(FLD1), -1);
}
END_TEST

START_TEST(without_numeric_error_reporting_the_x87_goes_on)
{
    soft_rig_cpu(rig)->cr0 &= ~(uint64_t)NE;
    t.fpu[0] = 0x7e;
    ck_assert_int_eq(run("d8c1"), -1);
    ck_assert_int_eq(then(FLD1), -1);
    ck_assert_uint_eq(get16(o.fpu + 2) & 0x80c1, 0x80c1); /* still waits */
    ck_assert_uint_eq(get16(o.fpu), 0x37e);
    ck_assert_uint_eq(get16(o.fpu + 2) >> 11 & 7, 7);
    ck_assert_uint_eq(get16(o.fpu + 40), 0x3fff);
}
END_TEST

START_TEST(reserved_bits_of_mxcsr_fault)
{
    t.data[0x402] = 1;
    ck_assert_int_eq(run(LDMXCSR), EXC_GP);
    ck_assert_uint_eq(get32(o.fpu + 24), 0x1f80);
}
END_TEST

START_TEST(misaligned_state_areas_fault)
{
    t.in.gpr[X86_RBX] = DATA + 8;
    ck_assert_int_eq(run(FXSAVE), EXC_GP);
    t.in.gpr[X86_RBX] = DATA + 16;
    ck_assert_int_eq(run(FXSAVE), -1);
    ck_assert_int_eq(run(XSAVE), EXC_GP);
}
END_TEST

START_TEST(the_environment_tells_the_last_instruction_and_operand)
{
    const uint8_t *env = o.data + 0x400;

    ck_assert_int_eq(run(FLD_MEM), -1);
    ck_assert_int_eq(then(FNSTENV), -1);
    ck_assert_uint_eq(get32(env), 0xffff037f);
    ck_assert_uint_eq(get16(env + 8), 0x7fff); /* R7 holds 0.0: its tag is 01 */
    ck_assert_uint_eq(get32(env + 12), CODE_ENTRY);
    ck_assert_uint_eq(get16(env + 18), 0x103); /* D9 03 */
    ck_assert_uint_eq(get32(env + 20), DATA);
}
END_TEST

START_TEST(the_environment_of_real_mode_packs_linear_addresses)
{
    const uint8_t *env = o.data + 0x400;

    t.wide = false; /* CS keeps its 32 bits when PE goes */
    ck_assert_int_eq(run(FLD_MEM), -1);
    soft_rig_cpu(rig)->cr0 &= ~(uint64_t)PE;
    ck_assert_int_eq(then(FNSTENV16), -1);
    ck_assert_uint_eq(get16(env), 0x37f);
    ck_assert_uint_eq(get16(env + 6), CODE_ENTRY & 0xffff);
    ck_assert_uint_eq(get16(env + 8), (CODE_ENTRY >> 16 & 15) << 12 | 0x103);
    ck_assert_uint_eq(get16(env + 10), DATA & 0xffff);
    ck_assert_uint_eq(get16(env + 12), (DATA >> 16 & 15) << 12);
}
END_TEST

START_TEST(there_is_no_vex_prefix_in_real_and_virtual_8086_mode)
{
    soft_rig_cpu(rig)->cr0 &= ~(uint64_t)PE;
    ck_assert_int_eq(run(AVX_ADD), EXC_UD);
    soft_rig_cpu(rig)->cr0 |= PE;
    t.in.flags |= FLAG_VM;
    ck_assert_int_eq(run(AVX_ADD), EXC_UD);
}
END_TEST

START_TEST(saved_state_in_its_initial_form_is_written_out)
{
    memset(t.fpu, 0xa5, sizeof(t.fpu));
    memset(t.fpu + 512, 0, 64); /* nothing in use: the rest counts for nothing */
    ck_assert_int_eq(run(MFENCE), -1);
    ck_assert_uint_eq(get16(o.fpu), 0x37f);
    ck_assert_uint_eq(o.fpu[4], 0);
    for (unsigned n = 160; n < 416; n++) {
        ck_assert_uint_eq(o.fpu[n], 0);
    }
    ck_assert_uint_eq(get32(o.fpu + 24) >> 16, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("soft-vector");
    TCase *tc = tcase_create("rules");
    SRunner *sr;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, task_switched_means_device_not_available);
    tcase_add_test(tc, wait_asks_for_both_mp_and_ts);
    tcase_add_test(tc, emulation_undefines_vectors_and_withholds_the_x87);
    tcase_add_test(tc, vectors_need_the_system_to_have_said_that_it_saves_them);
    tcase_add_test(tc, an_unmasked_simd_exception_without_its_handler_is_undefined_opcode);
    tcase_add_test(tc, an_x87_exception_waits_for_the_next_instruction_that_looks);
    tcase_add_test(tc, without_numeric_error_reporting_the_x87_goes_on);
    tcase_add_test(tc, reserved_bits_of_mxcsr_fault);
    tcase_add_test(tc, misaligned_state_areas_fault);
    tcase_add_test(tc, the_environment_tells_the_last_instruction_and_operand);
    tcase_add_test(tc, the_environment_of_real_mode_packs_linear_addresses);
    tcase_add_test(tc, there_is_no_vex_prefix_in_real_and_virtual_8086_mode);
    tcase_add_test(tc, saved_state_in_its_initial_form_is_written_out);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
