/*
 * Vector and x87 instructions of the software CPU against the host's own: random instructions with
 * random state, run natively in a sandboxed child and by the software CPU, interpreted and from
 * host code; registers, flags, memory and exceptions must be the same.
 *
 * fuzz-soft-vector [cases=N] [seed=N]. TAP: one test a group of instruction sets.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "generate.h"
#include "rig.h"

#include "engine/core/rcu.h"

static Rng rng;
static uint64_t rnd(void)
{
    return rng_next(&rng);
}
static bool chance(unsigned n)
{
    return rnd() % n == 0;
}

/* ---- groups ------------------------------------------------------------------------------ */

typedef enum {
    GROUP_MMX,
    GROUP_SSE,
    GROUP_SSE4,
    GROUP_CRYPTO,
    GROUP_AVX,
    GROUP_AVX2,
    GROUP_FMA,
    GROUP_X87,
    GROUP_STATE,
    GROUPS
} Group;
static const char *const group_names[GROUPS] = {
    "MMX instructions do what the host's do",
    "SSE to SSSE3 instructions do what the host's do",
    "SSE4 instructions do what the host's do",
    "AES, PCLMULQDQ and SHA instructions do what the host's do",
    "AVX and F16C instructions do what the host's do",
    "AVX2 instructions do what the host's do",
    "FMA instructions do what the host's do",
    "x87 instructions do what the host's do",
    "FXSAVE, FXRSTOR, XSAVE and XRSTOR do what the host's do",
};

static int group_of(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CRC32: /* an integer instruction */
    case ZYDIS_MNEMONIC_POPCNT:
        return -1;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return GROUP_STATE;
    default:
        break;
    }
    switch (insn->meta.isa_ext) {
    case ZYDIS_ISA_EXT_MMX:
        return GROUP_MMX;
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
        return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? GROUP_X87 : GROUP_SSE;
    case ZYDIS_ISA_EXT_SSE4:
        return GROUP_SSE4;
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_AVXAES:
        return GROUP_CRYPTO;
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_F16C:
        return GROUP_AVX;
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
        return GROUP_AVX2;
    case ZYDIS_ISA_EXT_FMA:
        return GROUP_FMA;
    case ZYDIS_ISA_EXT_X87:
        return GROUP_X87;
    default:
        return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xf8) == 0xd8 &&
                       insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY
                   ? GROUP_X87
                   : -1;
    }
}

/* ---- state ------------------------------------------------------------------------------- */

static uint64_t lane(void)
{
    static const uint32_t singles[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
                                        0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 1,
                                        0x007fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0x5f000000,
                                        0x33800000, 0x80000001, 0x4b000001 };
    static const uint64_t doubles[] = { 0,
                                        UINT64_C(0x8000000000000000),
                                        UINT64_C(0x3ff0000000000000),
                                        UINT64_C(0x7ff0000000000000),
                                        UINT64_C(0xfff0000000000000),
                                        UINT64_C(0x7ff8000000000000),
                                        UINT64_C(0x7ff0000000000001),
                                        1,
                                        UINT64_C(0x000fffffffffffff),
                                        UINT64_C(0x0010000000000000),
                                        UINT64_C(0x7fefffffffffffff),
                                        UINT64_C(0x41e0000000000000),
                                        UINT64_C(0x43e0000000000000),
                                        UINT64_C(0x36a0000000000000),
                                        UINT64_C(0x3810000000000000),
                                        UINT64_C(0x47efffffe0000000) };

    switch (rnd() % 6) {
    case 0:
        return singles[rnd() % G_N_ELEMENTS(singles)] |
               (uint64_t)singles[rnd() % G_N_ELEMENTS(singles)] << 32;
    case 1:
        return doubles[rnd() % G_N_ELEMENTS(doubles)];
    case 2: /* of a usual magnitude */
        return (rnd() & UINT64_C(0x800fffffffffffff)) |
               (UINT64_C(0x3fe0000000000000) + (rnd() % 64 << 52));
    case 3:
        return (0x3f000000 + (rnd() & 0x01ffffff)) | (0x3f000000 + (rnd() & 0x01ffffff)) << 32;
    case 4: /* small integers: shift counts, indices of gathers */
        return (rnd() & 63) | (rnd() & 63) << 32;
    default:
        return rnd();
    }
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void random_st(uint8_t *st)
{
    static const uint16_t exponents[] = { 0,      1,      0x3fff, 0x7ffe, 0x7fff,
                                          0x401e, 0x403e, 0x3c00, 0x3f80 };
    uint64_t mantissa = rnd() | UINT64_C(1) << 63;
    unsigned exponent = chance(2) ? exponents[rnd() % G_N_ELEMENTS(exponents)]
                                  : 0x3fff - 70 + (unsigned)(rnd() % 140);

    if (chance(4)) {
        mantissa = UINT64_C(1) << 63;
    } else if (chance(8)) {
        mantissa = rnd();
    } else if (chance(8)) {
        mantissa = 0;
        exponent = chance(2) ? 0 : exponent;
    } else if (chance(4)) {
        mantissa &= ~UINT64_C(0) << (rnd() % 64);
        mantissa |= UINT64_C(1) << 63;
    }
    memcpy(st, &mantissa, 8);
    put16(st + 8, exponent | (chance(2) ? 0x8000 : 0));
}

static void random_fpu(uint8_t *f)
{
    uint32_t mxcsr = 0x1f80;
    unsigned fcw = 0x37f, fsw;

    memset(f, 0, FPU_SIZE);
    for (unsigned n = 0; n < 8; n++) {
        random_st(f + 32 + n * 16);
    }
    for (unsigned n = 0; n < 256; n += 8) {
        uint64_t v = lane();

        memcpy(f + 160 + n, &v, 8);
        v = lane();
        memcpy(f + 576 + n, &v, 8);
    }
    if (chance(2)) {
        fcw = (fcw & 0xff) | (unsigned)(rnd() & 0xf00);
    }
    if (chance(4)) {
        fcw &= ~(unsigned)(rnd() & 0x3f);
    }
    fsw = (unsigned)(rnd() & 0x7f7f);
    if (!chance(16)) { /* nothing that waits */
        fsw &= ~(~fcw & 0x3f);
    }
    if (fsw & ~fcw & 0x3f) {
        fsw |= 0x8080;
    }
    put16(f, fcw);
    put16(f + 2, fsw);
    f[4] = chance(3) ? (uint8_t)rnd() : 0xff;
    if (chance(2)) {
        mxcsr = (mxcsr & ~0x6000u) | (uint32_t)(rnd() & 0xe07f);
    }
    if (chance(4)) {
        mxcsr &= ~(uint32_t)(rnd() & 0x1f80);
    }
    memcpy(f + 24, &mxcsr, 4);
    f[512] = 7;
}

/* ---- instructions ------------------------------------------------------------------------ */

static ZydisDecoder decoder[2];

static unsigned random_code(uint8_t *p, bool wide, int group)
{
    static const uint8_t prefixes[] = { 0, 0x66, 0xf2, 0xf3 };
    unsigned n = 0, map = 1, mod = chance(3) ? 0 : 0xc0;
    uint8_t high = wide && chance(2) ? (uint8_t)(rnd() & 5) : 0;
    bool state = group == GROUP_STATE || (group == GROUP_SSE && chance(50));

    if (!mod) {
        high &= 4; /* the base is RBX */
    }
    if (chance(16)) { /* one that may mean nothing here */
        static const uint8_t extra[] = { 0x66, 0xf2, 0xf3, 0x3e, 0x26, 0x67 };

        p[n++] = extra[rnd() % (wide || mod ? sizeof(extra) : sizeof(extra) - 1)];
    }
    if (group == GROUP_X87) {
        if (chance(16)) {
            p[n++] = 0x66;
        }
        p[n++] = (uint8_t)(0xd8 + rnd() % 8);
        p[n++] = (uint8_t)(mod | (rnd() & 0x38) | (mod ? rnd() & 7 : 3));
        return n;
    }
    if (group == GROUP_SSE4) {
        map = 2 + (unsigned)(rnd() & 1);
    } else if (group == GROUP_FMA) {
        map = 2;
    } else if (group >= GROUP_CRYPTO || chance(4)) {
        map = 1 + (unsigned)(rnd() % 3);
    }
    if (group >= GROUP_AVX && group <= GROUP_FMA) {
        p[n++] = 0xc4;
        p[n++] = (uint8_t)((wide ? (~(high << 5) & 0xa0) | 0x40 : 0xe0) | map);
        p[n++] = (uint8_t)(chance(4) ? rnd() | 0x78 : rnd());
        if (!wide) {
            p[n - 1] |= 0x40;
        }
    } else {
        uint8_t prefix = state ? 0 : prefixes[rnd() & 3];

        if (prefix) {
            p[n++] = prefix;
        }
        if (wide && (high || chance(3))) {
            p[n++] = (uint8_t)(0x40 | high | (chance(3) ? 8 : 0));
        }
        p[n++] = 0x0f;
        if (map > 1 && !state) {
            p[n++] = map == 2 ? 0x38 : 0x3a;
        }
    }
    p[n++] = state ? (chance(8) ? 0xc7 : 0xae) : (uint8_t)rnd();
    if (state) {
        mod = 0;
    }
    p[n++] = (uint8_t)(mod | (rnd() & 0x38) | (mod ? rnd() & 7 : 3));
    if (!mod && group == GROUP_AVX2 && chance(4)) { /* VSIB */
        p[n - 1] = (uint8_t)((p[n - 1] & 0x38) | 4);
        p[n++] = (uint8_t)((rnd() & 0xf8) | 3);
    }
    p[n++] = (uint8_t)rnd();
    return n;
}

static bool is_gather(const ZydisDecodedInstruction *insn)
{
    return insn->meta.isa_ext == ZYDIS_ISA_EXT_AVX2GATHER;
}

static bool make_case(Case *t, int group, ZydisDecodedInstruction *insn)
{
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    t->wide = !chance(4);
    for (unsigned tries = 0;; tries++) {
        uint8_t code[16] = { 0 };

        if (tries > 20000) {
            return false;
        }
        random_code(code, t->wide, group);
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder[t->wide], code, 15, insn, ops)) ||
            group_of(insn) != group || insn->length > CODE_MAX) {
            continue;
        }
        memset(t->code, 0xcc, sizeof(t->code));
        memcpy(t->code, code, insn->length);
        t->len = insn->length;
        break;
    }
    for (unsigned n = 0; n < insn->operand_count; n++) { /* the stack pointer is left alone */
        if (ops[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            (ops[n].reg.value == ZYDIS_REGISTER_RSP || ops[n].reg.value == ZYDIS_REGISTER_ESP)) {
            return make_case(t, group, insn);
        }
    }
    t->has_fpu = true;
    random_fpu(t->fpu);
    for (unsigned n = 0; n < 16; n++) {
        t->in.gpr[n] = chance(3) ? rnd() & 31 : t->wide ? rnd() : (uint32_t)rnd();
        if (!t->wide && n >= 8) {
            t->in.gpr[n] = 0;
        }
    }
    t->in.gpr[X86_RSP] = DATA_ADDR + 0x1000;
    t->in.gpr[X86_RBX] = DATA_ADDR + 0x400 + (chance(4) ? rnd() & 63 : (rnd() & 3) * 64);
    if (chance(32)) { /* across the pages, into nowhere */
        t->in.gpr[X86_RBX] = DATA_ADDR + (chance(2) ? 0x2000 : 0x1000) - (rnd() & 63);
    }
    t->in.gpr[X86_RDI] = t->in.gpr[X86_RBX];
    t->in.flags = 0x202 | (uint32_t)(rnd() & 0x8d5);
    t->in.rip = CODE_ENTRY;
    for (unsigned n = 0; n < DATA_SIZE; n += 8) {
        uint64_t v = n < 0x300 || n > 0x900 ? 0 : lane();

        memcpy(t->data + n, &v, 8);
    }
    if (group == GROUP_X87 && chance(2)) {
        random_st(t->data + (t->in.gpr[X86_RBX] - DATA_ADDR) % (DATA_SIZE - 16));
    }
    if (group == GROUP_STATE) {
        uint8_t *area = t->data + ((t->in.gpr[X86_RBX] - DATA_ADDR) & ~63u) % (DATA_SIZE - 1024);

        random_fpu(area);
        memset(area + 6, 0, 18);
        memset(area + 512, 0, 64);
        area[512] = (uint8_t)(rnd() & 7);
        if (chance(8)) {
            area[512 + rnd() % 24] |= (uint8_t)(rnd() & 7);
        }
        if (chance(8)) {
            area[26] = 1; /* reserved in MXCSR */
        }
        t->in.gpr[X86_RAX] = rnd() & 7;
        t->in.gpr[X86_RDX] = 0;
    } else if (insn->opcode == 0xae && chance(2)) {
        memcpy(t->data + (t->in.gpr[X86_RBX] - DATA_ADDR) % (DATA_SIZE - 4), t->fpu + 24, 4);
    }
    return true;
}

/* ---- comparison -------------------------------------------------------------------------- */

#define ARITH 0x8d5u

static bool differ(const char *what, const uint8_t *a, const uint8_t *b, unsigned len, char *why,
                   size_t size)
{
    for (unsigned n = 0; n < len; n++) {
        if (a[n] != b[n]) {
            unsigned from = n & ~15u, used = 0;

            used = (unsigned)snprintf(why, size, "%s+%u: host", what, from);
            for (unsigned k = from; k < from + 16 && k < len; k++) {
                used += (unsigned)snprintf(why + used, size - used, " %02x", a[k]);
            }
            used += (unsigned)snprintf(why + used, size - used, ", soft");
            for (unsigned k = from; k < from + 16 && k < len; k++) {
                used += (unsigned)snprintf(why + used, size - used, " %02x", b[k]);
            }
            return true;
        }
    }
    return false;
}

/* Which byte of many faults first is the CPU's affair. */
static bool in_many_parts(const ZydisDecodedInstruction *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
        return true;
    default:
        return group_of(insn) == GROUP_STATE;
    }
}

static bool compare(const Case *t, const ZydisDecodedInstruction *insn, Outcome *a, Outcome *b,
                    char *why, size_t size)
{
    /* The SDM wants these aligned, AMD's CPUs do not care. */
    if (insn->meta.isa_ext == ZYDIS_ISA_EXT_SHA && b->vector == 13) {
        return true;
    }
    /* VEX.W outside of 64-bit code: ignored by the SDM, refused by AMD's CPUs. */
    if (!t->wide && insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && insn->raw.vex.W &&
        (insn->mnemonic == ZYDIS_MNEMONIC_VPEXTRD || insn->mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
         insn->mnemonic == ZYDIS_MNEMONIC_VMOVD) &&
        a->vector == 6) {
        return true;
    }
    /* A random address may be one that the child has, or the host's kernel. */
    if (b->vector == 14 && (b->cr2 < CODE_ADDR || b->cr2 > DATA_ADDR + DATA_SIZE)) {
        return true;
    }
    if (is_gather(insn) && a->vector == 14 && b->vector == 14) {
        return true;
    }
    /* Whether bytes that are masked off fault is the CPU's affair. */
    if ((insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
         insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU) &&
        a->vector == 14 && b->vector < 0) {
        return true;
    }
    if (a->vector != b->vector || (a->vector >= 0 && a->error != b->error)) {
        snprintf(why, size, "exception: host %d error %x, soft %d error %x", a->vector, a->error,
                 b->vector, b->error);
        return false;
    }
    if (a->vector == 14 && a->cr2 != b->cr2 && !in_many_parts(insn)) {
        snprintf(why, size, "cr2: host %" PRIx64 ", soft %" PRIx64, a->cr2, b->cr2);
        return false;
    }
    for (unsigned n = 0; n < 16; n++) {
        if (a->regs.gpr[n] != b->regs.gpr[n]) {
            snprintf(why, size, "register %u: host %" PRIx64 ", soft %" PRIx64, n, a->regs.gpr[n],
                     b->regs.gpr[n]);
            return false;
        }
    }
    if ((a->regs.flags ^ b->regs.flags) & ARITH) {
        snprintf(why, size, "flags: host %x, soft %x", a->regs.flags & ARITH,
                 b->regs.flags & ARITH);
        return false;
    }
    if (a->vector < 0 && a->regs.rip != b->regs.rip) {
        snprintf(why, size, "rip: host %" PRIx64 ", soft %" PRIx64, a->regs.rip, b->regs.rip);
        return false;
    }
    if (a->vector >= 0 && is_gather(insn)) {
        return true; /* which elements are there already is not defined */
    }
    if (a->vector >= 0 && insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ) {
        return true; /* nor whether the state is MMX's already */
    }
    /* FOP, FIP, FDP: CPUs differ in when they keep them. */
    if (differ("fcw fsw ftw", a->fpu, b->fpu, 5, why, size) ||
        differ("mxcsr", a->fpu + 24, b->fpu + 24, 4, why, size) ||
        differ("st", a->fpu + 32, b->fpu + 32, 128, why, size) ||
        differ("xmm", a->fpu + 160, b->fpu + 160, 256, why, size) ||
        differ("ymm high", a->fpu + 576, b->fpu + 576, 256, why, size)) {
        return false;
    }
    if (group_of(insn) == GROUP_STATE) { /* MXCSR_MASK: AMD's misaligned-access bit */
        unsigned at = (unsigned)(t->in.gpr[X86_RBX] - DATA_ADDR) + 28;

        if (at + 4 <= DATA_SIZE) {
            memset(a->data + at, 0, 4);
            memset(b->data + at, 0, 4);
        }
    }
    return !differ("memory", a->data, b->data, DATA_SIZE, why, size);
}

static void report(const Case *t, const char *why, bool translated)
{
    ZydisDisassembledInstruction text;

    printf("# %d-bit, %s:", t->wide ? 64 : 32, translated ? "translated" : "interpreted");
    for (unsigned n = 0; n < t->len; n++) {
        printf(" %02x", t->code[n]);
    }
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(t->wide ? ZYDIS_MACHINE_MODE_LONG_64
                                                   : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                                           CODE_ENTRY, t->code, t->len, &text))) {
        printf("  %s", text.text);
    }
    printf("\n#   %s\n#   fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x rbx %" PRIx64 "\n", why,
           t->fpu[1], t->fpu[0], t->fpu[3], t->fpu[2], t->fpu[4], t->fpu[25], t->fpu[24],
           t->in.gpr[X86_RBX]);
}

static unsigned run_group(SoftRig *const rigs[2], Batch *b, int group, unsigned cases,
                          bool *skipped)
{
    static ZydisDecodedInstruction insns[BATCH_MAX];
    static Outcome soft;
    static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    unsigned bad = 0, mnemonics = 0, exceptions = 0, done = 0;

    *skipped = false;
    memset(seen, 0, sizeof(seen));
    while (done < cases && bad < 20) {
        const char *problem;
        bool broken;

        for (b->n = 0; b->n < BATCH_MAX; b->n++) {
            if (!make_case(&b->cases[b->n], group, &insns[b->n])) {
                break;
            }
        }
        problem = native_run(b, &broken);
        if (problem || b->n == 0) {
            printf("# %s\n", problem ? problem : "no such instruction was found");
            *skipped = true;
            return 0;
        }
        if (broken) {
            printf("# the child died in the middle of a batch, after %u\n", b->done);
            report(&b->cases[MIN(b->done, BATCH_MAX - 1)], "was to be next", false);
            return bad + 1;
        }
        for (unsigned n = 0; n < b->n; n++) {
            mnemonics += !seen[insns[n].mnemonic];
            seen[insns[n].mnemonic] = 1;
            exceptions += b->native[n].vector >= 0;
            for (unsigned k = 0; k < 2; k++) {
                char why[256];

                soft_rig_run(rigs[k], &b->cases[n], &soft);
                if (!compare(&b->cases[n], &insns[n], &b->native[n], &soft, why, sizeof(why))) {
                    report(&b->cases[n], why, k);
                    bad++;
                }
            }
        }
        done += b->n;
    }
    printf("# %u cases of %u mnemonics, %u with an exception\n", done, mnemonics, exceptions);
    return bad;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1;
    unsigned cases = 4096, failed = 0;
    Batch *b = native_batch_new();
    SoftRig *rigs[2];

    for (int n = 1; n < argc; n++) {
        if (strncmp(argv[n], "seed=", 5) == 0) {
            seed = strtoull(argv[n] + 5, NULL, 0);
        } else if (strncmp(argv[n], "cases=", 6) == 0) {
            cases = (unsigned)strtoul(argv[n] + 6, NULL, 0);
        }
    }
    ZydisDecoderInit(&decoder[0], ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&decoder[1], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    rcu_thread_register();
    rigs[0] = soft_rig_new();
    rigs[1] = soft_rig_new();
    if (!soft_rig_translate(rigs[1])) {
        printf("# no executable memory: interpreted twice\n");
    }
    printf("1..%d\n", GROUPS);
    for (int g = 0; g < GROUPS; g++) {
        bool skipped;
        unsigned bad;

        rng.s = seed * 1000 + (uint64_t)g;
        bad = b ? run_group(rigs, b, g, cases, &skipped) : 0;
        printf("%sok %d - %s%s\n", bad ? "not " : "", g + 1, group_names[g],
               !b || skipped ? " # SKIP" : "");
        failed += bad != 0;
    }
    soft_rig_free(rigs[0]);
    soft_rig_free(rigs[1]);
    rcu_thread_unregister();
    return failed ? 1 : 0;
}
