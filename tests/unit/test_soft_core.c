/* The software CPU's foundation: flags and decoding. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/run_suite.h"
#include "tests/unit/soft_core_rig.h"

/* ---- flags ------------------------------------------------------------------------------- */

/* Bit by bit, as a chain of full adders. */
static uint32_t reference_add(uint64_t a, uint64_t b, unsigned carry, unsigned bits, uint64_t *r)
{
    uint32_t f = 0;
    unsigned into_last = 0;

    *r = 0;
    for (unsigned i = 0; i < bits; i++) {
        unsigned x = a >> i & 1, y = b >> i & 1, sum = x + y + carry;

        *r |= (uint64_t)(sum & 1) << i;
        into_last = carry;
        carry = sum >> 1;
        if (i == 3 && carry) {
            f |= FLAG_AF;
        }
    }
    f |= carry ? FLAG_CF : 0;
    f |= carry != into_last ? FLAG_OF : 0;
    return f;
}

static uint32_t reference_result(uint64_t r, unsigned bits)
{
    uint32_t f = FLAG_PF | FLAG_ZF;

    for (unsigned i = 0; i < bits; i++) {
        if (r >> i & 1) {
            f &= ~(uint32_t)FLAG_ZF;
            f ^= i < 8 ? FLAG_PF : 0;
        }
    }
    return f | (r >> (bits - 1) & 1 ? FLAG_SF : 0);
}

static void expect_flags(CcOp op, unsigned size, uint64_t r, uint64_t src, uint32_t want)
{
    uint32_t got;

    c->cc_op = (uint8_t)op;
    c->cc_size = (uint8_t)size;
    c->cc_dst = r;
    c->cc_src = src;
    got = soft_flags_arith(c);
    ck_assert_msg(got == want, "op %d size %u result %lx src %lx: %x, expected %x", op, size,
                  (unsigned long)r, (unsigned long)src, got, want);
    for (unsigned cc = 0; cc < 16; cc++) {
        bool o = want & FLAG_OF, s = want & FLAG_SF, z = want & FLAG_ZF, cf = want & FLAG_CF;
        const bool truth[8] = { o, cf, z, cf || z, s, (want & FLAG_PF) != 0, s != o, z || s != o };

        ck_assert_int_eq(soft_condition(c, cc), truth[cc >> 1] ^ (cc & 1));
    }
}

START_TEST(the_flags_of_every_operation_equal_those_of_a_bitwise_adder)
{
    static const uint64_t values[] = { 0,
                                       1,
                                       2,
                                       7,
                                       8,
                                       0xf,
                                       0x10,
                                       0x7f,
                                       0x80,
                                       0x81,
                                       0xff,
                                       0x7fff,
                                       0x8000,
                                       0xffff,
                                       0x12345678,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       0x7fffffffffffffff,
                                       0x8000000000000000,
                                       0xfedcba9876543210,
                                       0xffffffffffffffff };

    for (unsigned size = 0; size < 4; size++) {
        unsigned bits = 8u << size;
        uint64_t mask = ~UINT64_C(0) >> (64 - bits), sign = UINT64_C(1) << (bits - 1);

        for (unsigned i = 0; i < G_N_ELEMENTS(values) * G_N_ELEMENTS(values); i++) {
            uint64_t a = values[i / G_N_ELEMENTS(values)] & mask;
            uint64_t b = values[i % G_N_ELEMENTS(values)] & mask, r;
            uint32_t f;

            for (unsigned carry = 0; carry < 2; carry++) {
                f = reference_add(a, b, carry, bits, &r);
                expect_flags(carry ? CC_ADC : CC_ADD, size, r, b, f | reference_result(r, bits));
                /* a - b - carry is a + ~b + !carry, with carries turned round. */
                f = reference_add(a, ~b & mask, !carry, bits, &r) ^ (FLAG_CF | FLAG_AF);
                expect_flags(carry ? CC_SBB : CC_SUB, size, r, b, f | reference_result(r, bits));
                f = reference_add(a, 1, 0, bits, &r) & ~(uint32_t)FLAG_CF;
                expect_flags(CC_INC, size, r, carry,
                             f | (carry ? FLAG_CF : 0) | reference_result(r, bits));
                f = reference_add(a, ~UINT64_C(1) & mask, 1, bits, &r) ^ FLAG_AF;
                expect_flags(CC_DEC, size, r, carry,
                             (f & ~(uint32_t)FLAG_CF) | (carry ? FLAG_CF : 0) |
                                 reference_result(r, bits));
            }
            expect_flags(CC_LOGIC, size, a & b, 0, reference_result(a & b, bits));
            /* Shifts by one of a: OF is only defined then. */
            r = a << 1 & mask;
            f = (a & sign ? FLAG_CF : 0) | ((r ^ a) & sign ? FLAG_OF : 0);
            expect_flags(CC_SHL, size, r, a, f | reference_result(r, bits));
            r = a >> 1;
            f = (a & 1 ? FLAG_CF : 0) | (a & sign ? FLAG_OF : 0);
            expect_flags(CC_SHR, size, r, a, f | reference_result(r, bits));
            r = (a >> 1) | (a & sign);
            expect_flags(CC_SAR, size, r, a, (a & 1 ? FLAG_CF : 0) | reference_result(r, bits));
        }
    }
}
END_TEST

START_TEST(rflags_are_written_under_a_mask_and_keep_their_fixed_bits)
{
    c->flags = 2;
    c->cc_op = CC_SUB;
    c->cc_size = 2;
    c->cc_dst = 0;
    c->cc_src = 5;
    ck_assert_uint_eq(soft_rflags(c), FLAG_ZF | FLAG_PF | 2);
    soft_set_rflags(c, FLAG_CF | FLAG_IF | FLAG_DF, FLAG_CF | FLAG_DF);
    ck_assert_uint_eq(soft_rflags(c), FLAG_ZF | FLAG_PF | FLAG_CF | FLAG_DF | 2);
    soft_set_rflags(c, UINT64_MAX, UINT64_MAX);
    ck_assert_uint_eq(soft_rflags(c), 0x3f7fd7);
    soft_set_rflags(c, 0, UINT64_MAX);
    ck_assert_uint_eq(soft_rflags(c), 2);
}
END_TEST

/* ---- decoding ------------------------------------------------------------------------------ */

static SoftInsn decode(uint8_t code_size, bool long_mode, const void *bytes, unsigned len)
{
    const SoftMode mode = { .code_size = code_size, .stack_size = 2, .long_mode = long_mode };
    uint8_t buf[15] = { 0 };
    SoftInsn i;
    bool ends;

    memcpy(buf, bytes, len);
    ck_assert_uint_eq(soft_decode(&mode, buf, 15, &i, &ends), len);
    return i;
}

START_TEST(decoding_fills_registers_memory_operands_and_immediates)
{
    SoftInsn i = decode(2, true, "\x48\x8b\x84\xcb\x78\x56\x34\x12", 8);

    /* mov rax, [rbx + rcx*8 + 0x12345678] */
    ck_assert_uint_eq(i.op_size, 3);
    ck_assert_uint_eq(i.addr_size, 3);
    ck_assert_uint_eq(i.dst, SOFT_REG(X86_RAX));
    ck_assert_uint_eq(i.base, X86_RBX);
    ck_assert_uint_eq(i.index, X86_RCX);
    ck_assert_uint_eq(i.scale, 3);
    ck_assert_int_eq(i.disp, 0x12345678);
    ck_assert_uint_eq(i.seg, X86_DS);
    ck_assert(i.flags & SOFT_I_PLAIN);

    i = decode(2, true, "\x64\x44\x88\x65\xf0", 5); /* mov fs:[rbp - 16], r12b */
    ck_assert_uint_eq(i.op_size, 0);
    ck_assert_uint_eq(i.src, SOFT_REG(12));
    ck_assert_uint_eq(i.base, X86_RBP);
    ck_assert_uint_eq(i.index, SOFT_GPR_NONE);
    ck_assert_int_eq(i.disp, -16);
    ck_assert_uint_eq(i.seg, X86_FS);
    ck_assert(!(i.flags & SOFT_I_PLAIN));

    i = decode(2, false, "\x88\xfc", 2); /* mov ah, bh */
    ck_assert_uint_eq(i.dst, SOFT_REG_HIGH(X86_RAX));
    ck_assert_uint_eq(i.src, SOFT_REG_HIGH(X86_RBX));
    i = decode(2, true, "\x40\x88\xfc", 3); /* mov spl, dil */
    ck_assert_uint_eq(i.dst, SOFT_REG(X86_RSP));
    ck_assert_uint_eq(i.src, SOFT_REG(X86_RDI));

    i = decode(1, false, "\x8b\x42\xfe", 3); /* mov ax, [bp + si - 2] */
    ck_assert_uint_eq(i.op_size, 1);
    ck_assert_uint_eq(i.addr_size, 1);
    ck_assert_uint_eq(i.base, X86_RBP);
    ck_assert_uint_eq(i.index, X86_RSI);
    ck_assert_uint_eq(i.scale, 0);
    ck_assert_int_eq(i.disp, -2);
    ck_assert_uint_eq(i.seg, X86_SS);

    i = decode(2, true, "\x48\x83\xc0\xff", 4); /* add rax, -1 */
    ck_assert_uint_eq(i.imm, UINT64_MAX);
    i = decode(2, true, "\xf0\x48\x01\x05\x10\x00\x00\x00", 8); /* lock add [rip + 16], rax */
    ck_assert(i.flags & SOFT_I_LOCK);
    ck_assert(i.flags & SOFT_I_RIP_RELATIVE);
    c->rip = 0x1000;
    ck_assert_uint_eq(soft_linear(c, &i, 8, true), 0x1000 + 8 + 16);
    i = decode(2, true, "\xeb\xfe", 2); /* jmp $ */
    ck_assert(i.flags & SOFT_I_RELATIVE);
    ck_assert_uint_eq(i.imm, 0);
    i = decode(2, false, "\xf3\xa4", 2); /* rep movsb */
    ck_assert(i.flags & SOFT_I_REP);
    ck_assert(!(i.flags & SOFT_I_REPNE));
}
END_TEST

START_TEST(an_encoding_that_is_none_decodes_to_a_fault_and_a_cut_one_asks_for_more)
{
    const SoftMode mode = { .code_size = 2, .stack_size = 2 };
    static const uint8_t long_nop[16] = { 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                          0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90 };
    SoftInsn i;
    bool ends;

    ck_assert_uint_eq(soft_decode(&mode, (const uint8_t *)"\xb8\x01\x02", 3, &i, &ends), 0);
    ck_assert_uint_ne(soft_decode(&mode, (const uint8_t *)"\x0f\x0b", 2, &i, &ends), 0);
    ck_assert(ends);
    ck_assert_uint_ne(soft_decode(&mode, (const uint8_t *)"\xf0\x90", 2, &i, &ends), 0);
    if (sigsetjmp(c->escape, 0) == 0) {
        i.fn(c, &i); /* LOCK NOP */
        ck_abort_msg("it was executed");
    }
    ck_assert_uint_eq(c->raised.vector, EXC_UD);
    ck_assert_uint_ne(soft_decode(&mode, long_nop, 15, &i, &ends), 0);
    if (sigsetjmp(c->escape, 0) == 0) {
        i.fn(c, &i);
        ck_abort_msg("it was executed");
    }
    ck_assert_uint_eq(c->raised.vector, EXC_GP);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("soft-core");
    TCase *tc = tcase_create("foundation");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_flags_of_every_operation_equal_those_of_a_bitwise_adder);
    tcase_add_test(tc, rflags_are_written_under_a_mask_and_keep_their_fixed_bits);
    tcase_add_test(tc, decoding_fills_registers_memory_operands_and_immediates);
    tcase_add_test(tc, an_encoding_that_is_none_decodes_to_a_fault_and_a_cut_one_asks_for_more);
    suite_add_tcase(s, tc);
    return run_suite(s);
}
