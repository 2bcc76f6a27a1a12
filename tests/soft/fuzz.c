/*
 * The software CPU against the host's: random user-mode integer instructions in random states, each
 * executed by both; every register, defined flag and byte of memory is compared, and the exception
 * with its error code and address.
 *
 * Once interpreted and once translated to host code (fuzz_translate.c has more of that).
 * VMLUA_FUZZ_CASES: how many a mode (default 20000; a million with VMLUA_LONG). VMLUA_FUZZ_SEED:
 * another sequence. What was found once stands in seeds/, one instruction a line, and is tried in
 * many states each time.
 */
#include <check.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/rcu.h"
#include "generate.h"
#include "rig.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define FLAGS_COMPARED (FLAGS_ARITH | FLAG_DF)
#define REPORTS_MAX    12

static Batch *batch;
static SoftRig *rig;
static uint64_t seed;
static unsigned wrong, reported;
static ZydisMnemonic reported_of[REPORTS_MAX];

/* ---- comparing ------------------------------------------------------------------------------ */

static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

/* A jump to where no code is: its fault is the next instruction's. */
static void drop_fetch_fault(Outcome *o)
{
    if (o->vector == EXC_PF && (o->error & PF_FETCH) && o->cr2 == o->regs.rip) {
        o->vector = -1;
    }
}

static void differ(GString *why, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void differ(GString *why, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_string_append_vprintf(why, fmt, ap);
    va_end(ap);
}

/* CMPS whose operands both fault: processors differ in which of them they look at first. */
static bool is_other_operand(const Decoded *d, const Outcome *host, const Outcome *soft)
{
    const ZydisDecodedInstruction *i = &d->insn;
    if (i->mnemonic != ZYDIS_MNEMONIC_CMPSB && i->mnemonic != ZYDIS_MNEMONIC_CMPSW &&
        i->mnemonic != ZYDIS_MNEMONIC_CMPSD && i->mnemonic != ZYDIS_MNEMONIC_CMPSQ) {
        return false;
    }
    uint64_t second = soft->regs.gpr[X86_RDI];
    if (i->address_width < 64) {
        second &= (UINT64_C(1) << i->address_width) - 1;
    }
    return host->cr2 - second < i->operand_width / 8u;
}

static GString *compare(const Case *t, const Decoded *d, const Outcome *host, const Outcome *soft)
{
    GString *why = g_string_new(NULL);
    uint32_t undefined = undefined_flags(t, d);
    uint32_t mask = FLAGS_COMPARED & ~(host->vector < 0 ? undefined : 0);

    /* Linux says of its own half of the addresses that pages are present, whether they are or not.
     */
    uint32_t error_mask = host->vector == EXC_PF && host->cr2 >> 63 ? ~(uint32_t)PF_PRESENT
                                                                    : UINT32_MAX;

    if (undefined == UINT32_MAX && host->vector < 0) {
        return why;
    }
    if (host->vector != soft->vector) {
        differ(why, "  exception: host %d, soft %d\n", host->vector, soft->vector);
    } else if (host->vector >= 0 && host->vector != EXC_UD && host->vector != EXC_DE &&
               (host->error ^ soft->error) & error_mask) {
        differ(why, "  error code: host %#x, soft %#x\n", host->error, soft->error);
    }
    if (host->vector == EXC_PF && host->cr2 != soft->cr2 && !is_other_operand(d, host, soft)) {
        differ(why, "  cr2: host %#lx, soft %#lx\n", (unsigned long)host->cr2,
               (unsigned long)soft->cr2);
    }
    /* A POPA that faults has popped some registers already, on some processors. */
    bool partial = host->vector >= 0 && (d->insn.mnemonic == ZYDIS_MNEMONIC_POPA ||
                                         d->insn.mnemonic == ZYDIS_MNEMONIC_POPAD);
    for (unsigned n = 0; n < (t->wide ? 16 : 8); n++) {
        if ((!partial || n == X86_RSP) && host->regs.gpr[n] != soft->regs.gpr[n]) {
            differ(why, "  %s: host %#lx, soft %#lx\n", names[n], (unsigned long)host->regs.gpr[n],
                   (unsigned long)soft->regs.gpr[n]);
        }
    }
    if (host->regs.rip != soft->regs.rip) {
        differ(why, "  rip: host %#lx, soft %#lx\n", (unsigned long)host->regs.rip,
               (unsigned long)soft->regs.rip);
    }
    if ((host->regs.flags ^ soft->regs.flags) & mask) {
        differ(why, "  flags: host %#x, soft %#x, compared %#x\n", host->regs.flags & mask,
               soft->regs.flags & mask, mask);
    }
    for (unsigned n = 0; n < DATA_SIZE; n++) {
        if (host->data[n] != soft->data[n]) {
            differ(why, "  memory from %#lx: host %02x, soft %02x, before %02x\n",
                   (unsigned long)(DATA_ADDR + n), host->data[n], soft->data[n], t->data[n]);
            break;
        }
    }
    return why;
}

/* At most one report an instruction. */
static bool worth_reporting(ZydisMnemonic m)
{
    for (unsigned n = 0; n < reported; n++) {
        if (reported_of[n] == m) {
            return false;
        }
    }
    if (reported == REPORTS_MAX) {
        return false;
    }
    reported_of[reported++] = m;
    return true;
}
static void report(const Case *t, const Decoded *d, const char *why)
{
    ZydisFormatter f;
    char text[128] = "";

    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&f, &d->insn, d->ops, d->insn.operand_count_visible, text,
                                    sizeof(text), CODE_ENTRY, NULL);
    fprintf(stderr, "%d ", t->wide ? 64 : 32);
    for (unsigned n = 0; n < t->len; n++) {
        fprintf(stderr, "%02x", t->code[n]);
    }
    fprintf(stderr, " # %s\n", text);
    for (unsigned n = 0; n < (t->wide ? 16u : 8u); n++) {
        fprintf(stderr, "%s%s=%#lx", n % 4 ? " " : "  ", names[n], (unsigned long)t->in.gpr[n]);
        fputs(n % 4 == 3 ? "\n" : "", stderr);
    }
    fprintf(stderr, "  flags=%#x\n%s", t->in.flags, why);
}

/* ---- running -------------------------------------------------------------------------------- */

static void run_batch(void)
{
    static Outcome soft;
    bool broken;
    const char *missing;

    /* AddressSanitizer's own memory is where the host must find none: only the software CPU is run
     * then, for the sanitizer to watch. */
    if (SANITIZED) {
        for (unsigned n = 0; n < batch->n; n++) {
            soft_rig_run(rig, &batch->cases[n], &soft);
        }
        batch->n = 0;
        return;
    }
    missing = native_run(batch, &broken);
    ck_assert_msg(!missing, "%s", missing ? missing : "");
    for (unsigned n = 0; n < batch->done; n++) {
        const Case *t = &batch->cases[n];
        Decoded d;

        ck_assert(decode_allowed(t->code, t->wide, &d));
        drop_fetch_fault(&batch->native[n]);
        soft_rig_run(rig, t, &soft);
        drop_fetch_fault(&soft);
        GString *why = compare(t, &d, &batch->native[n], &soft);
        if (why->len) {
            wrong++;
            if (worth_reporting(d.insn.mnemonic)) {
                report(t, &d, why->str);
            }
        }
        g_string_free(why, TRUE);
    }
    if (broken) {
        Decoded d;
        const Case *t = &batch->cases[batch->done];
        decode_allowed(t->code, t->wide, &d);
        report(t, &d, "  the host's child died of it\n");
        wrong++;
    }
    batch->n = 0;
}

static void add_case(Rng *r, const Case *code, const Decoded *d)
{
    Case *t = &batch->cases[batch->n++];

    memcpy(t->code, code->code, sizeof(t->code));
    t->len = code->len;
    t->wide = code->wide;
    generate_state(r, t, d);
    if (batch->n == BATCH_MAX) {
        run_batch();
    }
}

static void run_random(bool wide)
{
    Rng r = { seed ^ (wide ? UINT64_C(0x640000) : 0) };
    const char *s = getenv("VMLUA_FUZZ_CASES");
    uint64_t cases = s ? strtoull(s, NULL, 0) : getenv("VMLUA_LONG") ? 1000000 : 20000;

    while (cases) {
        Case code;
        Decoded d;
        unsigned states = cases < 4 ? (unsigned)cases : 4;
        generate_code(&r, wide, &code, &d);
        for (unsigned n = 0; n < states; n++) {
            add_case(&r, &code, &d);
        }
        cases -= states;
    }
    if (batch->n) {
        run_batch();
    }
    ck_assert_msg(wrong == 0, "%u cases differ; seed %#lx", wrong, (unsigned long)seed);
}

START_TEST(random_integer_instructions_agree_with_the_host_in_64_bit_code)
{
    run_random(true);
}
END_TEST

START_TEST(random_integer_instructions_agree_with_the_host_in_32_bit_code)
{
    run_random(false);
}
END_TEST

/* A line: 32 or 64, the bytes in hexadecimal, a comment. */
static bool read_seed(const char *line, Case *t)
{
    unsigned long mode;
    char *p;

    mode = strtoul(line, &p, 10);
    while (*p == ' ') {
        p++;
    }
    t->wide = mode == 64;
    t->len = 0;
    memset(t->code, 0xcc, sizeof(t->code));
    for (; t->len < 15 && isxdigit((unsigned char)p[0]) && isxdigit((unsigned char)p[1]); p += 2) {
        const char byte[3] = { p[0], p[1], 0 };
        t->code[t->len++] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return (mode == 32 || mode == 64) && t->len;
}

START_TEST(what_differed_once_agrees_in_many_states)
{
    Rng r = { seed };
    FILE *f = fopen(SEEDS_FILE, "re");
    char line[256];
    unsigned lines = 0;

    ck_assert_msg(f, "cannot open %s", SEEDS_FILE);
    while (fgets(line, sizeof(line), f)) {
        Case code;
        Decoded d;
        if (line[0] == '#' || line[0] == '\n') {
            continue;
        }
        ck_assert_msg(read_seed(line, &code) && decode_allowed(code.code, code.wide, &d),
                      "bad seed: %s", line);
        for (unsigned n = 0; n < 64; n++) {
            add_case(&r, &code, &d);
        }
        lines++;
    }
    fclose(f);
    if (batch->n) {
        run_batch();
    }
    ck_assert(lines > 0);
    ck_assert_msg(wrong == 0, "%u cases differ; seed %#lx", wrong, (unsigned long)seed);
}
END_TEST

/* ---- main ----------------------------------------------------------------------------------- */

static void setup(void)
{
    rig = soft_rig_new();
    batch->n = 0;
    wrong = reported = 0;
}
static void setup_translated(void)
{
    setup();
    ck_assert(soft_rig_translate(rig));
}
static void teardown(void)
{
    soft_rig_free(rig);
}

/* Why nothing can be compared here, NULL when it can: one NOP in each mode. */
static const char *host_lacks(void)
{
    static const char *const why[2] = { "no 32-bit code on this host", "no 64-bit code" };
    for (unsigned wide = 0; wide < 2; wide++) {
        const char *missing;
        bool broken;

        memset(&batch->cases[0], 0, sizeof(Case));
        batch->cases[0] = (Case){ .code = { 0x90 }, .len = 1, .wide = wide };
        batch->cases[0].in.flags = 0x202;
        batch->n = 1;
        missing = native_run(batch, &broken);
        if (missing) {
            return missing;
        }
        if (broken || batch->native[0].vector != -1 ||
            batch->native[0].regs.rip != CODE_ENTRY + 1) {
            return why[wide];
        }
    }
    return NULL;
}

int main(void)
{
    Suite *suite;
    TCase *tc;
    const char *s = getenv("VMLUA_FUZZ_SEED"), *missing;
    SRunner *runner;
    int failed;

    seed = s ? strtoull(s, NULL, 0) : 1;
    batch = native_batch_new();
    missing = !batch ? "no memory" : SANITIZED ? NULL : host_lacks();
    if (missing) {
        printf("%s\n", missing);
        return 77;
    }
    rcu_thread_register();
    suite = suite_create("soft CPU against the host");
    tc = tcase_create("integer");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 1200);
    tcase_add_test(tc, random_integer_instructions_agree_with_the_host_in_64_bit_code);
    tcase_add_test(tc, random_integer_instructions_agree_with_the_host_in_32_bit_code);
    tcase_add_test(tc, what_differed_once_agrees_in_many_states);
    suite_add_tcase(suite, tc);
    tc = tcase_create("integer, translated");
    tcase_add_checked_fixture(tc, setup_translated, teardown);
    tcase_set_timeout(tc, 1200);
    tcase_add_test(tc, random_integer_instructions_agree_with_the_host_in_64_bit_code);
    tcase_add_test(tc, random_integer_instructions_agree_with_the_host_in_32_bit_code);
    tcase_add_test(tc, what_differed_once_agrees_in_many_states);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
