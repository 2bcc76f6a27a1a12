/*
 * Translated code against the interpreter: blocks of random integer instructions that depend on
 * each other, with memory operands and faults in the middle, from random states. Everything has to
 * be the same: registers, all flags, memory, exception, the count of instructions.
 *
 * VMLUA_FUZZ_CASES: how many blocks a mode (default 6000; a million with VMLUA_LONG), each from
 * four states. VMLUA_FUZZ_SEED: another sequence.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/rcu.h"
#include "generate.h"
#include "rig.h"

#define INSNS_MAX 12
#define BYTES_MAX (INSNS_MAX * 15)
#define STATES    4

static SoftRig *rig;
static unsigned reported;

typedef struct Sequence {
    uint8_t code[BYTES_MAX];
    unsigned len;
    bool wide;
} Sequence;

/* Registers that mostly point to data, and such that are mostly small. */
static bool points(int reg)
{
    return reg == 3 || reg == 4 || reg == 5 || reg == 6 || reg == 7 || reg == 10 || reg == 13;
}
static bool counts(int reg)
{
    return reg == 1 || reg == 9 || reg == 11;
}

static int number(ZydisRegister reg)
{
    return reg == ZYDIS_REGISTER_NONE || reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP
               ? -1
               : ZydisRegisterGetId(reg);
}

/* Whether its memory operand will mostly be in the data pages, after its displacement was changed;
 * and whether it leaves the pointers alone. `gs`: what GS has as its base is added. */
static bool tame(Rng *r, Case *t, Decoded *d, bool gs)
{
    for (unsigned n = 0; n < d->insn.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &d->ops[n];
        int base = number(op->mem.base);

        if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && n == 0 && points(number(op->reg.value))) {
            return false;
        }
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY) {
            continue;
        }
        if ((gs ? op->mem.base != ZYDIS_REGISTER_NONE && !counts(base)
                : op->mem.base == ZYDIS_REGISTER_NONE || !points(base)) ||
            (op->mem.index != ZYDIS_REGISTER_NONE && !counts(number(op->mem.index))) ||
            (op->mem.segment == ZYDIS_REGISTER_GS && !gs) || d->insn.address_width == 16) {
            return false;
        }
        if (d->insn.raw.disp.size == 32) {
            int32_t small = (int32_t)rng_below(r, 256) - (gs ? 8 : 128);
            memcpy(t->code + d->insn.raw.disp.offset, &small, 4);
        }
    }
    return true;
}

static bool has_memory(const Decoded *d)
{
    for (unsigned n = 0; n < d->insn.operand_count_visible; n++) {
        if (d->ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            return true;
        }
    }
    return false;
}

/* Mostly what the translator does itself, sometimes anything. Data of GS in 32-bit code, too, which
 * the host's comparison leaves out. */
static void generate_one(Rng *r, bool wide, Case *t)
{
    Decoded d;
    bool wild = rng_chance(r, 8), gs = !wild && rng_chance(r, 8);

    do {
        generate_code(r, wide, t, &d);
    } while (!wild && (!tame(r, t, &d, gs) ||
                       (gs && (!has_memory(&d) || t->len == 15 || d.insn.raw.prefix_count))));
    if (gs) {
        memmove(t->code + 1, t->code, t->len);
        t->code[0] = 0x65;
        t->len++;
    }
}

static void generate(Rng *r, bool wide, Sequence *s)
{
    const SoftMode mode = {
        .code_size = 2, .stack_size = wide ? 3 : 2, .long_mode = wide, .cpl = 3
    };
    unsigned n = 1 + (unsigned)rng_below(r, INSNS_MAX);

    s->len = 0;
    s->wide = wide;
    while (n) {
        Case t;
        SoftInsn insn;
        bool ends;

        generate_one(r, wide, &t);
        soft_decode(&mode, t.code, t.len, &insn, &ends);
        /* Repeated ones stop where they like; they are tried one by one (fuzz.c). */
        if ((insn.flags & (SOFT_I_REP | SOFT_I_REPNE)) || (ends && n > 1)) {
            continue;
        }
        memcpy(s->code + s->len, t.code, t.len);
        s->len += t.len;
        n--;
    }
}

static void generate_state_of(Rng *r, bool wide, SequenceState *s)
{
    memset(s, 0, sizeof(*s));
    for (unsigned n = 0; n < (wide ? 16 : 8); n++) {
        uint64_t v = generate_value(r);

        if (points((int)n) && rng_chance(r, 95)) {
            v = DATA_ADDR + (rng_chance(r, 90) ? 256 + rng_below(r, DATA_SIZE - 512)
                                               : rng_below(r, DATA_SIZE + 64) - 32);
        } else if (counts((int)n) && rng_chance(r, 90)) {
            v = rng_below(r, 24);
        }
        s->gpr[n] = wide ? v : (uint32_t)v;
    }
    s->rflags = 0x202 | (rng_chance(r, 10) ? FLAG_DF : 0);
    s->cc_op = (uint8_t)rng_below(r, CC_SAR + 1);
    s->cc_size = (uint8_t)rng_below(r, wide ? 4 : 3);
    s->cc_dst = rng_next(r) & (~UINT64_C(0) >> (64 - (8u << s->cc_size)));
    s->cc_src = generate_value(r) & (~UINT64_C(0) >> (64 - (8u << s->cc_size)));
    if (s->cc_op == CC_FLAGS) {
        s->cc_dst &= FLAGS_ARITH;
    } else if (s->cc_op == CC_INC || s->cc_op == CC_DEC) {
        s->cc_src &= 1;
    } else if (s->cc_op >= CC_SHL) { /* the result follows from the last bit's source */
        unsigned spare = 64 - (8u << s->cc_size);

        s->cc_dst = s->cc_op == CC_SHL   ? s->cc_src << 1
                    : s->cc_op == CC_SHR ? s->cc_src >> 1
                                         : (uint64_t)((int64_t)(s->cc_src << spare) >> spare >> 1);
        s->cc_dst &= ~UINT64_C(0) >> spare;
    }
    s->cold = rng_chance(r, 50);
    for (unsigned n = 0; n < DATA_SIZE; n += 8) {
        uint64_t v = rng_next(r);
        memcpy(s->data + n, &v, 8);
    }
}

/* ---- comparing ------------------------------------------------------------------------------ */

static void print_code(const Sequence *s)
{
    ZydisDecoder decoder;
    ZydisFormatter f;

    ZydisDecoderInit(&decoder, s->wide ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     s->wide ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    for (unsigned at = 0; at < s->len;) {
        ZydisDecodedInstruction insn;
        ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
        char text[128] = "";

        if (!ZYAN_SUCCESS(
                ZydisDecoderDecodeFull(&decoder, s->code + at, s->len - at, &insn, ops))) {
            break;
        }
        ZydisFormatterFormatInstruction(&f, &insn, ops, insn.operand_count_visible, text,
                                        sizeof(text), CODE_ENTRY + at, NULL);
        fprintf(stderr, "  %#lx  %s\n", (unsigned long)(CODE_ENTRY + at), text);
        at += insn.length;
    }
}

static bool same(const SequenceState *a, const SequenceState *b)
{
    return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0 && a->rip == b->rip &&
           a->rflags == b->rflags && a->vector == b->vector && a->error == b->error &&
           a->cr2 == b->cr2 && a->icount == b->icount && a->budget == b->budget &&
           memcmp(a->data, b->data, DATA_SIZE) == 0;
}

static void report(const Sequence *s, const SequenceState *in, const SequenceState *a,
                   const SequenceState *b)
{
    fprintf(stderr, "%u-bit code, %s TLB, cc %u size %u dst %#lx src %#lx:\n", s->wide ? 64 : 32,
            in->cold ? "empty" : "warm", in->cc_op, in->cc_size, (unsigned long)in->cc_dst,
            (unsigned long)in->cc_src);
    print_code(s);
    fprintf(stderr,
            "  interpreted: rip %#lx flags %#x vector %d count %lu\n"
            "  translated:  rip %#lx flags %#x vector %d count %lu\n",
            (unsigned long)a->rip, a->rflags, a->vector, (unsigned long)a->icount,
            (unsigned long)b->rip, b->rflags, b->vector, (unsigned long)b->icount);
    for (unsigned n = 0; n < 16; n++) {
        if (a->gpr[n] != b->gpr[n]) {
            fprintf(stderr, "  r%u: %#lx, interpreted %#lx, translated %#lx\n", n,
                    (unsigned long)in->gpr[n], (unsigned long)a->gpr[n], (unsigned long)b->gpr[n]);
        }
    }
    for (unsigned n = 0; n < DATA_SIZE; n++) {
        if (a->data[n] != b->data[n]) {
            fprintf(stderr, "  memory at +%#x: interpreted %02x, translated %02x\n", n, a->data[n],
                    b->data[n]);
            break;
        }
    }
}

static void run(bool wide)
{
    const char *given = getenv("VMLUA_FUZZ_CASES"), *seed = getenv("VMLUA_FUZZ_SEED");
    uint64_t cases = given ? strtoull(given, NULL, 0) : getenv("VMLUA_LONG") ? 1000000 : 6000;
    Rng r = { (seed ? strtoull(seed, NULL, 0) : 1) ^ (wide ? 0x640000 : 0) };
    static SequenceState in, interpreted, translated;
    unsigned wrong = 0;

    for (uint64_t n = 0; n < cases; n++) {
        Sequence s;

        generate(&r, wide, &s);
        ck_assert(soft_rig_sequence(rig, wide, s.code, s.len));
        for (unsigned k = 0; k < STATES; k++) {
            generate_state_of(&r, wide, &in);
            soft_rig_enter(rig, &in, false, &interpreted);
            soft_rig_enter(rig, &in, true, &translated);
            if (!same(&interpreted, &translated)) {
                wrong++;
                if (reported++ < 6) {
                    report(&s, &in, &interpreted, &translated);
                }
                break;
            }
        }
    }
    ck_assert_msg(wrong == 0, "%u of %lu blocks differ", wrong, (unsigned long)cases);
}

START_TEST(translated_blocks_do_what_interpreted_ones_do_in_64_bit_code)
{
    run(true);
}
END_TEST

START_TEST(translated_blocks_do_what_interpreted_ones_do_in_32_bit_code)
{
    run(false);
}
END_TEST

static void setup(void)
{
    rig = soft_rig_new();
    reported = 0;
    ck_assert(soft_rig_translate(rig));
}
static void teardown(void)
{
    soft_rig_free(rig);
}

int main(void)
{
    Suite *suite = suite_create("translated code against the interpreter");
    TCase *tc = tcase_create("blocks");
    SRunner *runner;
    int failed;

    rcu_thread_register();
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 3600);
    tcase_add_test(tc, translated_blocks_do_what_interpreted_ones_do_in_64_bit_code);
    tcase_add_test(tc, translated_blocks_do_what_interpreted_ones_do_in_32_bit_code);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
