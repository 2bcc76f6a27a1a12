/* The software CPU's foundation: flags, decoding, page walks, the TLB, blocks, the run loop. */
#include <check.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include "engine/accel/soft/soft-translate.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"

#define RAM  (8 * MiB)
#define MMIO 0x800000 /* a page of device registers behind RAM */

static MemoryRegion root, ram, mmio;
static AddressSpace *as;
static SoftCpu *c;
static uint8_t *mem;
static uint64_t mmio_last;
static unsigned mmio_calls;

static uint64_t mmio_read(void *opaque, hwaddr addr, unsigned size)
{
    mmio_calls++;
    return 0x1122334455667788 >> (8 * (addr & 7));
}

static void mmio_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    mmio_calls++;
    mmio_last = data;
}

static const MemoryRegionOps mmio_ops = {
    .read = mmio_read, .write = mmio_write, .valid = { 1, 8, true, NULL }, .impl = { 1, 8, true }
};

static void flat_segments(uint8_t code_size, bool long_mode, uint8_t cpl)
{
    for (unsigned i = X86_ES; i <= X86_GS; i++) {
        x86_segment_set_flat(&c->seg[i], (uint16_t)(8 | cpl), i == X86_CS, long_mode, cpl);
    }
    c->cpl = cpl;
    c->mode = (SoftMode){
        .code_size = code_size, .stack_size = 2, .long_mode = long_mode, .cpl = cpl
    };
    c->flat_segments = true;
    c->flags = 2;
    soft_tlb_flush(c, true);
    soft_tlb_select(c);
}

/* 32-bit protected mode without paging: what a test starts with. */
static void setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    ck_assert(memory_region_init_ram(&ram, NULL, "ram", RAM, NULL));
    memory_region_init_io(&mmio, NULL, &mmio_ops, NULL, "probe", 0x1000);
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_add_subregion(&root, MMIO, &mmio);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    mem = memory_region_get_ram_ptr(&ram);
    mmio_calls = 0;
    c = soft_cpu_new(NULL);
    c->memory = as;
    if (getenv("VMLUA_TRANSLATE")) {
        c->translator = soft_translator_new(0);
    }
    c->cr0 = CR0_PE;
    c->cr4 = c->efer = 0;
    flat_segments(2, false, 0);
}

static void teardown(void)
{
    soft_cpu_free(c);
    address_space_free(as);
    memory_region_del_subregion(&root, &ram);
    memory_region_del_subregion(&root, &mmio);
    memory_region_finalize(&ram);
    memory_region_finalize(&mmio);
    memory_region_finalize(&root);
    memory_reclaim();
}

static void put32(uint64_t at, uint32_t v)
{
    memcpy(mem + at, &v, 4);
}

static void put64(uint64_t at, uint64_t v)
{
    memcpy(mem + at, &v, 8);
}

static uint64_t get64(uint64_t at)
{
    uint64_t v;

    memcpy(&v, mem + at, 8);
    return v;
}

/* -1: no fault; otherwise the vector, its error code in c->raised. */
static int try_access(uint64_t linear, unsigned len, unsigned access, uint64_t *value)
{
    volatile int vector = -1;

    c->insn = NULL;
    if (sigsetjmp(c->escape, 0)) {
        return c->raised.vector;
    }
    if (access == SOFT_READ) {
        *value = soft_load(c, linear, len);
    } else if (access == SOFT_WRITE) {
        soft_store(c, linear, *value, len);
    } else {
        soft_rcu_enter(c);
        c->rip = linear;
        if (sigsetjmp(c->escape, 0)) {
            vector = c->raised.vector;
        } else {
            soft_block_lookup(c);
        }
        soft_rcu_leave(c);
    }
    return vector;
}

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

/* ---- paging -------------------------------------------------------------------------------- */

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX (UINT64_C(1) << 63)

enum {
    PAGING_32,
    PAGING_32_LARGE,
    PAGING_PAE,
    PAGING_PAE_LARGE,
    PAGING_4,
    PAGING_4_2M,
    PAGING_4_1G
};
#define LINEAR UINT64_C(0x403000) /* in every table: entry 1 of the last directory level */

static uint64_t leaf_at, upper_at;
static unsigned entry_size;

/* Tables at 0x10000 that map LINEAR's page to 0x3000 of a page (or large page) at 0. */
static void make_tables(int kind, uint64_t upper, uint64_t leaf)
{
    memset(mem + 0x10000, 0, 0x8000);
    c->cr3 = 0x10000;
    c->cr0 = CR0_PE | CR0_PG;
    c->cr4 = kind <= PAGING_32_LARGE ? CR4_PSE : CR4_PAE;
    c->efer = kind >= PAGING_4 ? EFER_LMA | EFER_LME : 0;
    entry_size = kind <= PAGING_32_LARGE ? 4 : 8;
    upper_at = 0;
    switch (kind) {
    case PAGING_32:
        upper_at = 0x10004;
        leaf_at = 0x11000 + 3 * 4;
        put32(upper_at, (uint32_t)(0x11000 | upper));
        put32(leaf_at, (uint32_t)(0x3000 | leaf));
        break;
    case PAGING_32_LARGE:
        leaf_at = 0x10004;
        put32(leaf_at, (uint32_t)(0 | leaf | PS));
        break;
    case PAGING_PAE:
    case PAGING_PAE_LARGE:
        put64(0x10000, 0x11000 | P);
        break;
    default:
        put64(0x10000, 0x12000 | P | W | U);
        put64(0x12000, 0x11000 | P | W | U);
        break;
    }
    if (kind == PAGING_PAE || kind == PAGING_4) {
        upper_at = 0x11010;
        leaf_at = 0x13000 + 3 * 8;
        put64(upper_at, 0x13000 | upper);
        put64(leaf_at, 0x3000 | leaf);
    } else if (kind == PAGING_PAE_LARGE || kind == PAGING_4_2M) {
        leaf_at = 0x11010;
        put64(leaf_at, 0 | leaf | PS);
    } else if (kind == PAGING_4_1G) {
        leaf_at = 0x12000;
        put64(leaf_at, 0 | leaf | PS);
    }
}

static uint64_t leaf_value(void)
{
    return entry_size == 4 ? (uint32_t)get64(leaf_at) : get64(leaf_at);
}

static uint64_t target(int kind)
{
    return kind == PAGING_4_1G ? LINEAR : 0x3000;
}

typedef struct Rights {
    bool u, w, nx;
} Rights;

/* The manual's rules as a table of questions, apart from the walk's own order. */
static int expected_error(Rights upper, Rights leaf, unsigned access, bool user, bool wp, bool smep,
                          bool smap, bool ac, bool nxe)
{
    bool u = upper.u && leaf.u, w = upper.w && leaf.w, nx = nxe && (upper.nx || leaf.nx);
    bool denied = (user && !u) || (access == SOFT_WRITE && !w && (user || wp)) ||
                  (access == SOFT_FETCH && nx) || (access == SOFT_FETCH && !user && u && smep) ||
                  (access != SOFT_FETCH && !user && u && smap && !ac);

    if (!denied) {
        return -1;
    }
    return PF_PRESENT | (access == SOFT_WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0) |
           (access == SOFT_FETCH && (smep || nxe) ? PF_FETCH : 0);
}

START_TEST(rights_of_both_levels_decide_as_the_manual_says_in_every_paging_mode)
{
    for (int kind = PAGING_32; kind <= PAGING_4_1G; kind++) {
        bool small = kind == PAGING_32 || kind == PAGING_PAE || kind == PAGING_4;
        bool nx_possible = kind >= PAGING_PAE;

        for (unsigned bits = 0; bits < 1u << 12; bits++) {
            Rights upper = { bits & 1, bits & 2, bits & 4 },
                   leaf = { bits & 8, bits & 16, bits & 32 };
            bool user = bits & 64, wp = bits & 128, smep = bits & 256, smap = bits & 512;
            bool ac = bits & 1024, nxe = bits & 2048;

            if (!small) {
                upper = (Rights){ true, true, false };
            }
            if (((upper.nx || leaf.nx) && !nxe) || (nxe && !nx_possible)) {
                continue;
            }
            make_tables(kind, P | (upper.w ? W : 0) | (upper.u ? U : 0) | (upper.nx ? NX : 0),
                        P | (leaf.w ? W : 0) | (leaf.u ? U : 0) | (leaf.nx ? NX : 0));
            c->cr0 |= wp ? CR0_WP : 0;
            c->cr4 |= (smep ? CR4_SMEP : 0) | (smap ? CR4_SMAP : 0);
            c->efer |= nxe ? EFER_NXE : 0;
            flat_segments(2, kind >= PAGING_4, user ? 3 : 0);
            c->flags |= ac ? FLAG_AC : 0;
            for (unsigned access = SOFT_READ; access <= SOFT_FETCH; access++) {
                int want = expected_error(upper, leaf, access, user, wp, smep, smap, ac, nxe);
                uint64_t v = 0;
                int got;

                put64(target(kind), 0x9090909090909090);
                c->cr2 = 0;
                got = try_access(LINEAR, 1, access, &v);
                ck_assert_msg(got == (want < 0 ? -1 : EXC_PF) &&
                                  (want < 0 || (int)c->raised.error == want),
                              "kind %d bits %x access %u: fault %d error %x, expected %x", kind,
                              bits, access, got, c->raised.error, (unsigned)want);
                ck_assert(want < 0 || c->cr2 == LINEAR);
            }
        }
    }
}
END_TEST

START_TEST(accessed_and_dirty_bits_are_set_at_use_and_dirty_only_by_a_write)
{
    for (int kind = PAGING_32; kind <= PAGING_4_1G; kind++) {
        uint64_t v = 0;

        make_tables(kind, P | W | U, P | W | U);
        flat_segments(2, kind >= PAGING_4, 0);
        ck_assert_int_eq(try_access(LINEAR, 4, SOFT_READ, &v), -1);
        ck_assert_uint_eq(leaf_value() & (A | D), A);
        if (upper_at) {
            ck_assert_uint_eq(mem[upper_at] & (A | D), A);
        }
        ck_assert_int_eq(try_access(LINEAR, 4, SOFT_WRITE, &v), -1);
        ck_assert_uint_eq(leaf_value() & (A | D), A | D);
        if (upper_at) {
            ck_assert_uint_eq(mem[upper_at] & (A | D), A);
        }
    }
}
END_TEST

START_TEST(missing_and_reserved_entries_fault_with_their_codes)
{
    for (int kind = PAGING_32; kind <= PAGING_4_1G; kind++) {
        uint64_t v = 0;

        make_tables(kind, P | W | U, W | U);
        flat_segments(2, kind >= PAGING_4, 3);
        ck_assert_int_eq(try_access(LINEAR, 1, SOFT_WRITE, &v), EXC_PF);
        ck_assert_uint_eq(c->raised.error, PF_WRITE | PF_USER);
        if (kind == PAGING_32) {
            continue; /* has no reserved bits */
        }
        make_tables(kind, P | W | U,
                    P | W | U | (kind == PAGING_32_LARGE ? 1 << 21 : UINT64_C(1) << 51));
        flat_segments(2, kind >= PAGING_4, 0);
        ck_assert_int_eq(try_access(LINEAR, 1, SOFT_READ, &v), EXC_PF);
        ck_assert_uint_eq(c->raised.error, PF_PRESENT | PF_RESERVED);
        if (kind >= PAGING_PAE) {
            make_tables(kind, P | W | U, P | W | U | NX); /* NX is reserved while EFER.NXE is 0 */
            soft_tlb_flush(c, true);
            ck_assert_int_eq(try_access(LINEAR, 1, SOFT_READ, &v), EXC_PF);
            ck_assert_uint_eq(c->raised.error, PF_PRESENT | PF_RESERVED);
        }
    }
}
END_TEST

START_TEST(tables_that_lie_nowhere_or_name_themselves_end_in_a_fault_or_a_page)
{
    uint64_t v = 0;

    make_tables(PAGING_4, P | W | U, P | W | U);
    flat_segments(2, true, 0);
    c->cr3 = 0x700000000; /* nothing there: all ones, so reserved bits are set */
    ck_assert_int_eq(try_access(LINEAR, 1, SOFT_READ, &v), EXC_PF);
    ck_assert_uint_eq(c->raised.error, PF_PRESENT | PF_RESERVED);
    c->cr3 = 0x10000;
    put64(0x10000 + 511 * 8, 0x10000 | P | W);
    soft_tlb_flush(c, true);
    ck_assert_int_eq(try_access(0xfffffffffffff000, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v & ~UINT64_C(0xfff), 0x12000);
    ck_assert_int_eq(try_access(0x0000800000000000, 8, SOFT_READ, &v), EXC_GP);
    ck_assert_int_eq(try_access(0x00007ffffffffffc, 8, SOFT_READ, &v), EXC_PF);
}
END_TEST

START_TEST(an_entry_stays_until_it_is_flushed_and_a_global_one_over_cr3_loads)
{
    uint64_t v = 0;

    for (int global = 0; global < 2; global++) {
        make_tables(PAGING_4, P | W | U, P | W | U | (global ? G : 0));
        c->cr4 |= CR4_PGE;
        flat_segments(2, true, 0);
        put64(0x3000, 0x1111);
        put64(0x5000, 0x2222);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, 0x1111);
        put64(leaf_at, 0x5000 | P | W | U);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, 0x1111); /* architecturally stale */
        soft_tlb_flush(c, false);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, global ? 0x1111 : 0x2222);
        put64(leaf_at, 0x5000 | P | W | U);
        soft_tlb_flush_page(c, LINEAR + 5);
        ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
        ck_assert_uint_eq(v, 0x2222);
    }
}
END_TEST

START_TEST(flushing_one_address_of_a_large_page_forgets_all_of_it)
{
    uint64_t v = 0;

    make_tables(PAGING_4_2M, 0, P | W | U);
    flat_segments(2, true, 0);
    put64(0x3000, 0x1111);
    put64(0x203000, 0x2222);
    ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
    put64(leaf_at, 0x200000 | P | W | U | PS);
    soft_tlb_flush_page(c, LINEAR + 0x100000);
    ck_assert_int_eq(try_access(LINEAR, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0x2222);
}
END_TEST

/* ---- accesses ------------------------------------------------------------------------------ */

START_TEST(a_write_over_two_pages_changes_nothing_when_the_second_faults)
{
    uint64_t v = 0x8877665544332211;

    make_tables(PAGING_4, P | W | U, P | W | U);
    flat_segments(2, true, 0);
    put64(0x3ff8, 0);
    ck_assert_int_eq(try_access(LINEAR + 0xffc, 8, SOFT_WRITE, &v), EXC_PF);
    ck_assert_uint_eq(c->cr2, LINEAR + 0x1000);
    ck_assert_uint_eq(get64(0x3ff8), 0);
    put64(leaf_at + 8, 0x6000 | P | W);
    ck_assert_int_eq(try_access(LINEAR + 0xffc, 8, SOFT_WRITE, &v), -1);
    ck_assert_uint_eq(get64(0x3ff8), UINT64_C(0x4433221100000000));
    ck_assert_uint_eq(get64(0x6000) & 0xffffffff, 0x88776655);
    v = 0;
    ck_assert_int_eq(try_access(LINEAR + 0xffc, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0x8877665544332211);
}
END_TEST

START_TEST(devices_are_reached_at_each_access_and_nowhere_reads_as_ones)
{
    uint64_t v = 0xabcd;

    ck_assert_int_eq(try_access(MMIO + 8, 4, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0x55667788);
    ck_assert_int_eq(try_access(MMIO + 8, 4, SOFT_READ, &v), -1);
    ck_assert_uint_eq(mmio_calls, 2);
    v = 0xabcd;
    ck_assert_int_eq(try_access(MMIO, 2, SOFT_WRITE, &v), -1);
    ck_assert_uint_eq(mmio_last, 0xabcd);
    ck_assert_int_eq(try_access(0x40000000, 4, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 0xffffffff);
    ck_assert_ptr_null(soft_host(c, MMIO, 4, SOFT_READ));
}
END_TEST

START_TEST(memory_that_moves_is_found_at_its_new_place_when_the_guest_runs_again)
{
    uint64_t v = 0;

    put64(0x5000, 77);
    soft_rcu_enter(c);
    ck_assert_int_eq(try_access(0x5000, 8, SOFT_READ, &v), -1);
    soft_rcu_leave(c);
    memory_region_set_address(&ram, 0x1000000);
    soft_rcu_enter(c);
    ck_assert_int_eq(try_access(0x5000, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, UINT64_MAX);
    ck_assert_int_eq(try_access(0x1005000, 8, SOFT_READ, &v), -1);
    ck_assert_uint_eq(v, 77);
    soft_rcu_leave(c);
}
END_TEST

START_TEST(pages_written_through_the_tlb_are_dirty_again_after_the_log_was_read)
{
    uint64_t v = 1;

    memory_region_set_log(&ram, true, DIRTY_DISPLAY);
    soft_rcu_enter(c);
    ck_assert_int_eq(try_access(0x5000, 4, SOFT_WRITE, &v), -1);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x5000, 0x1000, DIRTY_DISPLAY));
    ck_assert_int_eq(try_access(0x5004, 4, SOFT_WRITE, &v), -1); /* hits: nobody is told yet */
    soft_attention(c, SOFT_ATTN_SYNC);
    soft_rcu_leave(c);
    soft_rcu_enter(c);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0x5000, 0x1000, DIRTY_DISPLAY));
    soft_rcu_leave(c);
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0x5000, 0x1000, DIRTY_DISPLAY));
}
END_TEST

START_TEST(segments_are_checked_for_limit_direction_and_type)
{
    struct {
        uint8_t type;
        uint32_t limit;
        uint64_t offset;
        unsigned len;
        bool write;
        int vector;
    } cases[] = {
        { 3, 0xfff, 0xffc, 4, true, -1 },          { 3, 0xfff, 0xffd, 4, true, EXC_GP },
        { 1, 0xfff, 0, 1, true, EXC_GP },          { 1, 0xfff, 0, 1, false, -1 },
        { 0xb, 0xfff, 0, 1, false, -1 },           { 9, 0xfff, 0, 1, false, EXC_GP },
        { 0xb, 0xfff, 0, 1, true, EXC_GP },        { 7, 0xfff, 0xfff, 1, true, EXC_GP },
        { 7, 0xfff, 0x1000, 4, true, -1 },         { 7, 0xfff, 0xffffffff, 1, true, -1 },
        { 7, 0xfff, 0xffffffff, 2, true, EXC_GP },
    };

    c->flat_segments = false;
    for (volatile unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        volatile int vector = -1;

        c->seg[X86_DS] = (X86Segment){ .base = 0x1000,
                                       .limit = cases[i].limit,
                                       .type = cases[i].type,
                                       .s = true,
                                       .db = true,
                                       .present = true };
        if (sigsetjmp(c->escape, 0) == 0) {
            uint64_t linear = soft_segment_linear(c, X86_DS, cases[i].offset, cases[i].len,
                                                  cases[i].write);

            ck_assert_uint_eq(linear, (uint32_t)(0x1000 + cases[i].offset));
        } else {
            vector = c->raised.vector;
        }
        ck_assert_msg(vector == cases[i].vector, "case %u: %d", i, vector);
    }
    c->seg[X86_SS] = c->seg[X86_DS];
    if (sigsetjmp(c->escape, 0) == 0) {
        soft_segment_linear(c, X86_SS, 0, 1, false);
        ck_abort_msg("below an expand-down stack");
    }
    ck_assert_uint_eq(c->raised.vector, EXC_SS);
}
END_TEST

/* ---- running ------------------------------------------------------------------------------- */

static void run_at(uint64_t rip, int64_t instructions)
{
    c->rip = rip;
    c->icount = 0;
    ck_assert_int_eq(soft_run(c, instructions), SOFT_STOP_BUDGET);
}

static void put_code(uint64_t at, const void *code, unsigned len)
{
    ck_assert_uint_eq(address_space_write(as, at, MEMTXATTRS_NONE, code, len), MEMTX_OK);
}

START_TEST(a_loop_runs_until_its_budget_is_used_up)
{
    put_code(0x1000, "\x40\xeb\xfd", 3); /* inc eax; jmp to it */
    c->gpr[X86_RAX] = 0;
    run_at(0x1000, 2000);
    ck_assert_uint_eq(c->gpr[X86_RAX], 1000);
    ck_assert_uint_eq(c->icount, 2000);
    ck_assert_uint_eq(c->rip, 0x1000);
}
END_TEST

START_TEST(code_that_writes_the_next_instruction_executes_what_it_wrote)
{
    /* mov byte [0x1008], 42; mov al, 1; jmp $ */
    put_code(0x1000, "\xc6\x05\x08\x10\x00\x00\x2a\xb0\x01\xeb\xfe", 11);
    run_at(0x1000, 20);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 42);
    /* The same once more, now that the block was known: the byte goes back and forth. */
    put_code(0x1008, "\x01", 1);
    run_at(0x1007, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 1);
    run_at(0x1000, 20);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 42);
}
END_TEST

START_TEST(a_locked_write_into_the_running_block_counts_for_the_next_instruction)
{
    /* mov ecx, 41; lock xadd [0x100d], cl … the immediate below; mov al, 1; jmp $ */
    put_code(0x1000, "\xb1\x29\xf0\x0f\xc0\x0d\x0d\x10\x00\x00\x90\x90\xb0\x01\xeb\xfe", 16);
    run_at(0x1000, 20);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 42);
}
END_TEST

START_TEST(code_seen_at_two_addresses_is_one_and_changes_in_both)
{
    MemoryRegion alias;

    memory_region_init_alias(&alias, NULL, "alias", &ram, 0, 0x10000);
    memory_region_add_subregion(&root, 0x2000000, &alias);
    put_code(0x1000, "\xb0\x01\xeb\xfe", 4);
    run_at(0x2001000, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 1);
    put_code(0x1001, "\x07", 1);
    run_at(0x2001000, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, 7);
    memory_region_del_subregion(&root, &alias);
    memory_region_finalize(&alias);
}
END_TEST

START_TEST(data_beside_code_does_not_drop_it_and_writes_of_devices_to_code_do)
{
    uint64_t made = 0, again = 0, flushes = 0;

    /* inc dword [0x1800]; jmp to it: the page holds both */
    put_code(0x1000, "\xff\x05\x00\x18\x00\x00\xeb\xf8", 8);
    put32(0x1800, 0);
    run_at(0x1000, 2);
    soft_blocks_count(c, &made, &flushes);
    run_at(0x1000, 2000);
    soft_blocks_count(c, &again, &flushes);
    ck_assert_uint_eq(made, again);
    ck_assert_uint_eq(get64(0x1800) & 0xffffffff, 1001);
    put_code(0x1001, "\x0d", 1); /* a device makes it DEC */
    run_at(0x1000, 2000);
    ck_assert_uint_eq(get64(0x1800) & 0xffffffff, 1);
}
END_TEST

START_TEST(an_instruction_over_a_page_boundary_runs_and_follows_changes_of_both_pages)
{
    put_code(0x1ffe, "\xb8\x78\x56\x34\x12\xeb\xfe", 7); /* mov eax, 0x12345678; jmp $ */
    run_at(0x1ffe, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x12345678);
    put_code(0x2002, "\x99", 1);
    run_at(0x1ffe, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x99345678);
    put_code(0x1fff, "\x11", 1);
    run_at(0x1ffe, 10);
    ck_assert_uint_eq(c->gpr[X86_RAX], 0x99345611);
}
END_TEST

START_TEST(code_in_device_memory_runs_byte_by_byte)
{
    /* The device reads 88 77 66 55 44 33 22 11: mov [edi+0x66], dh; push ebp; inc esp; … */
    c->gpr[X86_RDI] = 0x3000;
    c->gpr[X86_RDX] = 0x5a00;
    c->gpr[X86_RSP] = 0x4000;
    run_at(MMIO, 2);
    ck_assert_uint_eq(mem[0x3066], 0x5a);
    ck_assert_uint_eq(c->rip, MMIO + 4);
}
END_TEST

START_TEST(a_kick_ends_an_endless_loop)
{
    put_code(0x1000, "\xeb\xfe", 2);
    c->rip = 0x1000;
    soft_attention(c, SOFT_ATTN_KICK);
    ck_assert_int_eq(soft_run(c, INT64_MAX), SOFT_STOP_KICKED);
    ck_assert_uint_eq(c->rip, 0x1000);
}
END_TEST

START_TEST(a_step_executes_one_instruction)
{
    put_code(0x1000, "\x40\x40\x40\xeb\xfe", 5);
    c->gpr[X86_RAX] = 0;
    for (unsigned i = 1; i <= 3; i++) {
        c->rip = 0x1000 + i - 1;
        c->step = true;
        ck_assert_int_eq(soft_run(c, INT64_MAX), SOFT_STOP_DEBUG);
        ck_assert_uint_eq(c->debug_stop, CPU_DEBUG_STEP);
        ck_assert_uint_eq(c->gpr[X86_RAX], i);
        ck_assert_uint_eq(c->rip, 0x1000 + i);
    }
}
END_TEST

START_TEST(the_cache_survives_more_code_than_it_holds)
{
    /* 2000 rounds over changing code: the arena is emptied and used anew. */
    for (unsigned round = 0; round < 300; round++) {
        for (uint64_t at = 0x100000; at < 0x140000; at += 0x400) {
            const uint8_t code[] = { 0xb0, (uint8_t)round, 0xe9, 0xf9, 0x03, 0, 0 };

            memcpy(mem + at, code, sizeof(code));
            ram_block_set_dirty(ram.ram, at, sizeof(code));
        }
        put_code(0x140000, "\xeb\xfe", 2);
        run_at(0x100000, 600);
        ck_assert_uint_eq(c->gpr[X86_RAX] & 0xff, round & 0xff);
        ck_assert_uint_eq(c->rip, 0x140000);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("soft-core");
    TCase *tc = tcase_create("foundation");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, the_flags_of_every_operation_equal_those_of_a_bitwise_adder);
    tcase_add_test(tc, rflags_are_written_under_a_mask_and_keep_their_fixed_bits);
    tcase_add_test(tc, decoding_fills_registers_memory_operands_and_immediates);
    tcase_add_test(tc, an_encoding_that_is_none_decodes_to_a_fault_and_a_cut_one_asks_for_more);
    tcase_add_test(tc, rights_of_both_levels_decide_as_the_manual_says_in_every_paging_mode);
    tcase_add_test(tc, accessed_and_dirty_bits_are_set_at_use_and_dirty_only_by_a_write);
    tcase_add_test(tc, missing_and_reserved_entries_fault_with_their_codes);
    tcase_add_test(tc, tables_that_lie_nowhere_or_name_themselves_end_in_a_fault_or_a_page);
    tcase_add_test(tc, an_entry_stays_until_it_is_flushed_and_a_global_one_over_cr3_loads);
    tcase_add_test(tc, flushing_one_address_of_a_large_page_forgets_all_of_it);
    tcase_add_test(tc, a_write_over_two_pages_changes_nothing_when_the_second_faults);
    tcase_add_test(tc, devices_are_reached_at_each_access_and_nowhere_reads_as_ones);
    tcase_add_test(tc, memory_that_moves_is_found_at_its_new_place_when_the_guest_runs_again);
    tcase_add_test(tc, pages_written_through_the_tlb_are_dirty_again_after_the_log_was_read);
    tcase_add_test(tc, segments_are_checked_for_limit_direction_and_type);
    tcase_add_test(tc, a_loop_runs_until_its_budget_is_used_up);
    tcase_add_test(tc, code_that_writes_the_next_instruction_executes_what_it_wrote);
    tcase_add_test(tc, a_locked_write_into_the_running_block_counts_for_the_next_instruction);
    tcase_add_test(tc, code_seen_at_two_addresses_is_one_and_changes_in_both);
    tcase_add_test(tc, data_beside_code_does_not_drop_it_and_writes_of_devices_to_code_do);
    tcase_add_test(tc, an_instruction_over_a_page_boundary_runs_and_follows_changes_of_both_pages);
    tcase_add_test(tc, code_in_device_memory_runs_byte_by_byte);
    tcase_add_test(tc, a_kick_ends_an_endless_loop);
    tcase_add_test(tc, a_step_executes_one_instruction);
    tcase_add_test(tc, the_cache_survives_more_code_than_it_holds);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
