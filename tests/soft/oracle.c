/*
 * The software CPU against this host's KVM: the same registers and memory in, one system or
 * real-mode instruction, the same out. Both run until HLT, which stands behind the instruction and
 * in every handler; what can be translated runs a second time as host code. What KVM cannot emulate
 * is left out and counted.
 *
 * In all that KVM and this CPU did not agree on so far the manual is with the latter; these cases
 * are kept away and named where they are.
 *
 *   cases=N seed=N; VMLUA_FUZZ_CASES, VMLUA_FUZZ_SEED
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "engine/accel/soft/soft-translate.h"
#include "engine/core/lock.h"
#include "tests/unit/soft_guest.h"

typedef struct Oracle {
    int sys, vm, cpu;
    struct kvm_run *run;
    uint8_t *ram;
} Oracle;

static Oracle k;
static GRand *rng;
static X86CPUState *in, *ours, *theirs;
static uint8_t *before; /* all of memory */
static SoftTranslator *translator;

/* ---- KVM ------------------------------------------------------------------------------------- */

static const char *kvm_open(void)
{
    struct kvm_userspace_memory_region r = { .memory_size = RAM };
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 e[100];
    } *cpuid = g_malloc0(sizeof(*cpuid));

    k.sys = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (k.sys < 0) {
        return "no /dev/kvm";
    }
    k.vm = ioctl(k.sys, KVM_CREATE_VM, 0UL);
    k.ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    r.userspace_addr = (uintptr_t)k.ram;
    if (k.vm < 0 || ioctl(k.vm, KVM_SET_TSS_ADDR, 0xfffbd000UL) < 0 ||
        ioctl(k.vm, KVM_SET_USER_MEMORY_REGION, &r) < 0) {
        return "KVM makes no VM";
    }
    k.cpu = ioctl(k.vm, KVM_CREATE_VCPU, 0UL);
    k.run = mmap(NULL, (size_t)ioctl(k.sys, KVM_GET_VCPU_MMAP_SIZE, 0UL), PROT_READ | PROT_WRITE,
                 MAP_SHARED, k.cpu, 0);
    cpuid->head.nent = 100;
    if (k.cpu < 0 || ioctl(k.sys, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 ||
        ioctl(k.cpu, KVM_SET_CPUID2, cpuid) < 0) {
        return "KVM makes no vCPU";
    }
    g_free(cpuid);
    return NULL;
}

static void put_segment(struct kvm_segment *o, const X86Segment *s)
{
    *o = (struct kvm_segment){ .base = s->base,
                               .limit = s->limit,
                               .selector = s->selector,
                               .type = s->type,
                               .dpl = s->dpl,
                               .present = s->present,
                               .s = s->s,
                               .db = s->db,
                               .l = s->l,
                               .g = s->g,
                               .avl = s->avl,
                               .unusable = s->unusable || !s->present };
}

static void get_segment(const struct kvm_segment *o, X86Segment *s)
{
    *s = (X86Segment){ .base = o->base,
                       .limit = o->limit,
                       .selector = o->selector,
                       .type = o->type & 15,
                       .dpl = o->dpl & 3,
                       .present = o->present,
                       .s = o->s,
                       .db = o->db,
                       .l = o->l,
                       .g = o->g,
                       .avl = o->avl,
                       .unusable = o->unusable };
}

#define EACH_SEGMENT(X) \
    X(es, X86_ES)       \
    X(cs, X86_CS)       \
    X(ss, X86_SS) X(ds, X86_DS) X(fs, X86_FS) X(gs, X86_GS) X(ldt, X86_LDT) X(tr, X86_TR)

static bool kvm_put(const X86CPUState *s)
{
    struct kvm_regs r = { .rip = s->rip, .rflags = s->rflags };
    struct kvm_sregs x;
    struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_SHADOW };
    static const unsigned order[] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX,
                                      X86_RSI, X86_RDI, X86_RSP, X86_RBP };

    for (unsigned i = 0; i < 8; i++) {
        (&r.rax)[i] = s->gpr[order[i]];
        (&r.r8)[i] = s->gpr[8 + i];
    }
    if (ioctl(k.cpu, KVM_GET_SREGS, &x) < 0) {
        return false;
    }
#define PUT(name, n) put_segment(&x.name, &s->seg[n]);
    EACH_SEGMENT(PUT)
    x.gdt.base = s->gdt.base;
    x.gdt.limit = s->gdt.limit;
    x.idt.base = s->idt.base;
    x.idt.limit = s->idt.limit;
    x.cr0 = s->cr0;
    x.cr2 = s->cr2;
    x.cr3 = s->cr3;
    x.cr4 = s->cr4;
    x.cr8 = 0;
    x.efer = s->efer;
    memset(x.interrupt_bitmap, 0, sizeof(x.interrupt_bitmap));
    return ioctl(k.cpu, KVM_SET_VCPU_EVENTS, &e) == 0 && ioctl(k.cpu, KVM_SET_SREGS, &x) == 0 &&
           ioctl(k.cpu, KVM_SET_REGS, &r) == 0;
}

static void kvm_get(X86CPUState *s)
{
    struct kvm_regs r;
    struct kvm_sregs x;
    static const unsigned order[] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX,
                                      X86_RSI, X86_RDI, X86_RSP, X86_RBP };

    ioctl(k.cpu, KVM_GET_REGS, &r);
    ioctl(k.cpu, KVM_GET_SREGS, &x);
    s->rip = r.rip;
    s->rflags = r.rflags;
    for (unsigned i = 0; i < 8; i++) {
        s->gpr[order[i]] = (&r.rax)[i];
        s->gpr[8 + i] = (&r.r8)[i];
    }
#define GET(name, n) get_segment(&x.name, &s->seg[n]);
    EACH_SEGMENT(GET)
    s->gdt = (X86Table){ x.gdt.base, x.gdt.limit };
    s->idt = (X86Table){ x.idt.base, x.idt.limit };
    s->cr0 = x.cr0;
    s->cr2 = x.cr2;
    s->cr3 = x.cr3;
    s->cr4 = x.cr4;
    s->efer = x.efer;
}

/* ---- cases ----------------------------------------------------------------------------------- */

typedef struct Template {
    const char *name;
    uint8_t code[12];
    uint8_t len;
    uint8_t modes; /* bits */
    uint8_t imm;   /* random bytes behind it */
} Template;

enum {
    R = 1 << REAL,
    P16 = 1 << PROT16,
    P32 = 1 << PROT32,
    L = 1 << LONG,
    ALL = R | P16 | P32 | L
};
enum { LEGACY = R | P16 | P32 };

#define T(name, modes, imm, ...)                                              \
    {                                                                         \
        name, { __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }), modes, imm \
    }
static const Template templates[] = {
    T("push es", LEGACY, 0, 0x06),
    T("push cs", LEGACY, 0, 0x0e),
    T("push fs", ALL, 0, 0x0f, 0xa0),
    T("pop ds", LEGACY, 0, 0x1f),
    T("pop ss", LEGACY, 0, 0x17),
    T("pop gs", ALL, 0, 0x0f, 0xa9),
    T("mov ds, ax", ALL, 0, 0x8e, 0xd8),
    T("mov es, bx", ALL, 0, 0x8e, 0xc3),
    T("mov ss, cx", ALL, 0, 0x8e, 0xd1),
    T("mov ax, ss", ALL, 0, 0x8c, 0xd0),
    T("mov [bx/ebx], ds", ALL, 0, 0x8c, 0x1f),
    T("les", LEGACY, 0, 0xc4, 0x07),
    T("lds", LEGACY, 0, 0xc5, 0x37),
    T("lss", ALL, 0, 0x0f, 0xb2, 0x17),
    T("pushf", ALL, 0, 0x9c),
    T("popf", ALL, 0, 0x9d),
    T("cli", ALL, 0, 0xfa),
    T("cld", ALL, 0, 0xfc),
    T("sahf", LEGACY, 0, 0x9e),
    T("lahf", LEGACY, 0, 0x9f),
    T("pusha", LEGACY, 0, 0x60),
    T("popa", LEGACY, 0, 0x61),
    T("enter 16, 0", ALL, 0, 0xc8, 16, 0, 0),
    T("leave", ALL, 0, 0xc9),
    T("ret", ALL, 0, 0xc3),
    T("ret n", ALL, 0, 0xc2, 8, 0),
    T("retf", ALL, 0, 0xcb),
    T("call near", ALL, 0, 0xff, 0xd0),
    T("jmp near", ALL, 0, 0xff, 0xe3),
    T("call [m]", ALL, 0, 0xff, 0x17),
    T("callf [m]", ALL, 0, 0xff, 0x1f),
    T("jmpf [m]", ALL, 0, 0xff, 0x2f),
    T("int n", R, 1, 0xcd),
    T("int3", R, 0, 0xcc),
    T("into", R, 0, 0xce),
    T("iret", R, 0, 0xcf),
    T("bound", LEGACY, 0, 0x62, 0x07),
    T("ud2", ALL, 0, 0x0f, 0x0b),
    T("div bl", ALL, 0, 0xf6, 0xf3),
    T("idiv ecx", ALL, 0, 0xf7, 0xf9),
    T("aam", LEGACY, 1, 0xd4),
    T("aad", LEGACY, 1, 0xd5),
    T("xlat", ALL, 0, 0xd7),
    T("movsb", ALL, 0, 0xa4),
    T("rep movsb", ALL, 0, 0xf3, 0xa4),
    T("rep stosw", ALL, 0, 0xf3, 0xab),
    T("repe cmpsb", ALL, 0, 0xf3, 0xa6),
    T("repne scasb", ALL, 0, 0xf2, 0xae),
    T("lodsw", ALL, 0, 0xad),
    T("sgdt", ALL, 0, 0x0f, 0x01, 0x07),
    T("sidt", ALL, 0, 0x0f, 0x01, 0x0f),
    T("lgdt", ALL, 0, 0x0f, 0x01, 0x17),
    T("lidt", ALL, 0, 0x0f, 0x01, 0x1f),
    T("smsw r", ALL, 0, 0x0f, 0x01, 0xe0),
    T("smsw m", ALL, 0, 0x0f, 0x01, 0x27),
    T("sldt", ALL, 0, 0x0f, 0x00, 0xc0),
    T("str", ALL, 0, 0x0f, 0x00, 0xc9),
    T("lldt", ALL, 0, 0x0f, 0x00, 0xd0),
    T("ltr", ALL, 0, 0x0f, 0x00, 0xd8),
    T("clts", ALL, 0, 0x0f, 0x06),
    T("mov eax, cr0", ALL, 0, 0x0f, 0x20, 0xc0),
    T("mov ebx, cr3", ALL, 0, 0x0f, 0x20, 0xdb),
    T("mov cr2, ecx", ALL, 0, 0x0f, 0x22, 0xd1),
    T("invlpg", ALL, 0, 0x0f, 0x01, 0x3f),
    T("wbinvd", ALL, 0, 0x0f, 0x09),
    T("cpl: hlt", ALL, 0, 0xf4),
    T("xchg [m], eax", ALL, 0, 0x87, 0x07),
    T("lock cmpxchg", ALL, 0, 0xf0, 0x0f, 0xb1, 0x0f),
    T("cmpxchg8b", ALL, 0, 0x0f, 0xc7, 0x0f),
    T("arpl", P16 | P32, 0, 0x63, 0xc8),
    T("loop", ALL, 0, 0xe2, 2, 0x90, 0x90),
    T("jcxz", ALL, 0, 0xe3, 2, 0x90, 0x90),
    T("bts [m], eax", ALL, 0, 0x0f, 0xab, 0x07),
    T("shld", ALL, 0, 0x0f, 0xa4, 0xd8, 5),
    T("movzx", ALL, 0, 0x0f, 0xb6, 0xc3),
    T("bswap", ALL, 0, 0x0f, 0xc9),
};

static uint32_t pick(const uint32_t *list, unsigned n)
{
    return list[g_rand_int_range(rng, 0, (gint32)n)];
}

static uint64_t value(void)
{
    static const uint32_t odd[] = { 0,         1,         0x7f,       0x80, 0xff,      0x7fff,
                                    0x8000,    0xffff,    CS0,        DS0,  CS3,       DS3,
                                    ABSENT,    READ_ONLY, CONFORMING, CS16, DS16,      SMALL,
                                    EXEC_ONLY, SEL_LDT,   SEL_TSS_B,  CODE, CODE + 16, 0x5000 };

    return g_rand_int_range(rng, 0, 3) ? pick(odd, G_N_ELEMENTS(odd)) : g_rand_int(rng) & 0xffff;
}

#define TARGET (CODE + 0x60) /* HLTs */

static bool is(unsigned t, const char *name)
{
    return strcmp(templates[t].name, name) == 0;
}

/* What goes elsewhere goes where a HLT is; TF would trap behind it or not, as KVM likes. */
static void tame(unsigned t, Mode m)
{
    uint64_t sp = c->gpr[X86_RSP] & 0xfffff;
    unsigned size = m == REAL || m == PROT16 ? 2 : m == LONG ? 8 : 4;
    bool code = !g_rand_int_range(rng, 0, 2);

    if (is(t, "popf")) {
        put(sp, value() & ~UINT64_C(0x4100), 8);
    } else if (g_str_has_prefix(templates[t].name, "ret") || is(t, "iret")) {
        put(sp, TARGET, 8);
        if (code) {
            put(sp + size, m == REAL ? 0 : m == PROT16 ? CS16 : m == LONG ? CS64 : CS0, 2);
        }
        put(sp + size * 2, value() & ~UINT64_C(0x4100), 2);
    } else if (is(t, "call near") || is(t, "lldt") || is(t, "ltr")) {
        /* A selector with TI has the error code 0 in KVM. */
        c->gpr[X86_RAX] = is(t, "call near") ? TARGET : c->gpr[X86_RAX] & ~UINT64_C(4);
    } else if (is(t, "jmp near")) {
        c->gpr[X86_RBX] = TARGET;
    } else if (is(t, "call [m]") || is(t, "callf [m]") || is(t, "jmpf [m]")) {
        uint64_t at = c->gpr[X86_RBX];

        put(at, TARGET, 8);
        put(at + size, m == REAL ? 0 : code ? (m == PROT16 ? CS16 : CS0) : value(), 2);
    }
}

/* Returns the template's index. */
static unsigned make_case(void)
{
    static const Mode modes[] = { REAL, PROT16, PROT32, LONG };
    Mode m = modes[g_rand_int_range(rng, 0, 4)];
    unsigned t, len = 0;
    uint8_t *at = mem + CODE;

    do {
        t = (unsigned)g_rand_int_range(rng, 0, G_N_ELEMENTS(templates));
    } while (!(templates[t].modes & (1 << m)));
    begin(m, 0);
    for (unsigned i = 0; i < 16; i++) {
        if (i != X86_RSP && (i < 8 || m == LONG)) {
            c->gpr[i] = value();
        }
    }
    /* The memory operand: [BX] or [EDI], and what strings use. */
    c->gpr[X86_RBX] = c->gpr[X86_RDI] = 0x5000 + (value() & 0xff);
    c->gpr[X86_RSI] = 0x5200;
    c->gpr[X86_RBP] = 0x5400;
    c->gpr[X86_RCX] &= strstr(templates[t].name, "rep") ? 0xff : 0xffff;
    for (unsigned i = 0; i < 0x600; i += 4) {
        put(0x5000 + i, value() | value() << 16, 4);
    }
    for (unsigned i = 0; i < 64; i += 2) {
        put((c->gpr[X86_RSP] & 0xffff0) + i, value(), 2);
    }
    soft_set_rflags(c, (uint64_t)g_rand_int(rng), FLAGS_ARITH | FLAG_DF | FLAG_IOPL);
    if (g_rand_int_range(rng, 0, 4) == 0) {
        at[len++] = 0x66;
    }
    memcpy(at + len, templates[t].code, templates[t].len);
    len += templates[t].len;
    for (unsigned i = 0; i < templates[t].imm; i++) {
        at[len++] = (uint8_t)(g_rand_int(rng) & 0x7f); /* KVM extends the sign of a vector */
    }
    memset(at + len, 0xf4, 0x100);
    if (at[0] == 0x66 && (m == REAL || m == PROT16 || is(t, "enter 16, 0"))) {
        /* Other widths of targets and frames, and ENTER, which KVM pushes in the stack's width. */
        for (unsigned i = 0; i < len; i++) {
            at[i] = at[i + 1];
        }
    }
    tame(t, m);
    return t;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static const char *different;
static uint64_t a_is, b_is;

static void differ(const char *what, uint64_t a, uint64_t b)
{
    if (a != b && !different) {
        different = what;
        a_is = a;
        b_is = b;
    }
}

static uint64_t undefined_flags(unsigned t)
{
    const char *n = templates[t].name;

    if (strncmp(n, "div", 3) == 0 || strncmp(n, "idiv", 4) == 0) {
        return FLAGS_ARITH;
    }
    if (strcmp(n, "aam") == 0 || strcmp(n, "aad") == 0) {
        return FLAGS_ARITH; /* KVM takes SF of 16 bits */
    }
    if (strcmp(n, "shld") == 0) {
        return FLAG_OF | FLAG_AF;
    }
    if (strncmp(n, "bts", 3) == 0) {
        return FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF;
    }
    return 0;
}

static void compare(unsigned t)
{
    static const char *const names[] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    static const char *const segs[] = { "es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr" };
    uint64_t flags = ~(undefined_flags(t) | FLAG_RF);

    different = NULL;
    differ("rip", ours->rip, theirs->rip);
    differ("rflags", ours->rflags & flags, theirs->rflags & flags);
    for (unsigned i = 0; i < 16; i++) {
        differ(names[i], ours->gpr[i], theirs->gpr[i]);
    }
    for (unsigned i = 0; i < X86_SEGS; i++) {
        const X86Segment *a = &ours->seg[i], *b = &theirs->seg[i];

        differ(segs[i], a->selector, b->selector);
        if (!a->unusable && !b->unusable) {
            differ(segs[i], a->base, b->base);
            differ(segs[i], a->limit, b->limit);
        }
    }
    differ("gdt", ours->gdt.base ^ (uint64_t)ours->gdt.limit << 48,
           theirs->gdt.base ^ (uint64_t)theirs->gdt.limit << 48);
    differ("idt", ours->idt.base ^ (uint64_t)ours->idt.limit << 48,
           theirs->idt.base ^ (uint64_t)theirs->idt.limit << 48);
    differ("cr0", ours->cr0, theirs->cr0);
    differ("cr2", ours->cr2, theirs->cr2);
    differ("cr3", ours->cr3, theirs->cr3);
    differ("cr4", ours->cr4, theirs->cr4);
    differ("efer", ours->efer, theirs->efer);
    for (unsigned i = 0; i < RAM && !different; i += 8) {
        uint64_t a, b;

        memcpy(&a, mem + i, 8);
        memcpy(&b, k.ram + i, 8);
        if (a != b) {
            different = "memory";
            a_is = i;
            b_is = a ^ b;
        }
    }
}

typedef enum { SAME, DIFFERENT, LEFT_OUT } Verdict;
static bool as_host_code; /* how the last one ran */

static Verdict run_soft(unsigned t, SoftTranslator *with)
{
    as_host_code = with;
    c->translator = with;
    soft_blocks_flush(c);
    stopped = soft_run(c, 100000);
    c->translator = NULL;
    if (stopped != SOFT_STOP_HALT) {
        different = "how it stopped";
        a_is = stopped;
        b_is = SOFT_STOP_HALT;
        return DIFFERENT;
    }
    soft_state_store(c, ours);
    compare(t);
    return different ? DIFFERENT : SAME;
}

static Verdict run_case(unsigned t)
{
    Verdict v;

    int ran;

    soft_state_store(c, in);
    memcpy(k.ram, mem, RAM);
    memcpy(before, mem, RAM);
    if (!kvm_put(in)) {
        return LEFT_OUT;
    }
    k.run->request_interrupt_window = 0;
    setitimer(ITIMER_REAL, &(struct itimerval){ .it_value = { 0, 50000 } }, NULL);
    ran = ioctl(k.cpu, KVM_RUN, 0UL);
    setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
    if (ran < 0 || k.run->exit_reason != KVM_EXIT_HLT) {
        /* Not emulated, or a triple fault, after which KVM's state is whatever it is. */
        return LEFT_OUT;
    }
    kvm_get(theirs);
    /* KVM pushes doublewords through a 16-bit gate. */
    if (mode == PROT16 && theirs->rip >= HANDLER && theirs->rip < HANDLER + 4096) {
        return LEFT_OUT;
    }
    v = run_soft(t, NULL);
    if (v == SAME && translator && (mode == PROT32 || mode == LONG)) {
        memcpy(mem, before, RAM);
        soft_state_load(c, in);
        soft_tlb_flush(c, true);
        v = run_soft(t, translator);
    }
    return v;
}

/* A guest that runs away ends its KVM_RUN by this. */
static void on_alarm(int sig)
{
}

/* As Check does it: where a file was asked for, the result goes there. */
static int say(bool ok, const char *skip)
{
    const char *file = g_getenv("CK_TAP_LOG_FILE_NAME");
    FILE *f = file ? fopen(file, "w") : NULL;

    fprintf(f ? f : stdout, "1..1\n%sok 1 - system instructions do what KVM does%s%s\n",
            ok ? "" : "not ", skip ? " # SKIP " : "", skip ? skip : "");
    if (f) {
        fclose(f);
    }
    return ok ? 0 : 1;
}

static uint64_t number(const char *env, const char *text, uint64_t otherwise)
{
    const char *s = g_getenv(env);

    return text ? g_ascii_strtoull(text, NULL, 0) : s ? g_ascii_strtoull(s, NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    static const char *const mode_names[] = { "real", "prot16", "prot32", "v86", "long", "compat" };
    const char *cases_arg = NULL, *seed_arg = NULL, *why;
    unsigned counts[3] = { 0 }, *out = g_new0(unsigned, G_N_ELEMENTS(templates));
    uint64_t cases, seed;

    for (int i = 1; i < argc; i++) {
        cases_arg = g_str_has_prefix(argv[i], "cases=") ? argv[i] + 6 : cases_arg;
        seed_arg = g_str_has_prefix(argv[i], "seed=") ? argv[i] + 5 : seed_arg;
    }
    cases = number("VMLUA_FUZZ_CASES", cases_arg, 2000);
    seed = number("VMLUA_FUZZ_SEED", seed_arg, 1);
    why = kvm_open();
    if (why) {
        return say(true, why);
    }
    guest_setup();
    sigaction(SIGALRM, &(struct sigaction){ .sa_handler = on_alarm }, NULL);
    rng = g_rand_new_with_seed((guint32)seed);
    in = g_aligned_alloc0(1, sizeof(*in), 64);
    ours = g_aligned_alloc0(1, sizeof(*in), 64);
    theirs = g_aligned_alloc0(1, sizeof(*in), 64);
    before = g_malloc(RAM);
    translator = soft_translator_new(0);
    engine_unlock();
    for (uint64_t n = 0; n < cases; n++) {
        unsigned t = make_case();
        Verdict v = run_case(t);

        counts[v]++;
        out[t] += v == LEFT_OUT;
        if (v == DIFFERENT && counts[v] <= 20) {
            printf("# case %llu: %s in %s%s: %s is %#llx, KVM has %#llx; code",
                   (unsigned long long)n, templates[t].name, mode_names[mode],
                   as_host_code ? ", translated" : "", different, (unsigned long long)a_is,
                   (unsigned long long)b_is);
            for (unsigned i = 0; i < 8; i++) {
                printf(" %02x", before[CODE + i]);
            }
            printf(" rax %llx rbx %llx rcx %llx rsp %llx flags %llx\n",
                   (unsigned long long)in->gpr[0], (unsigned long long)in->gpr[3],
                   (unsigned long long)in->gpr[1], (unsigned long long)in->gpr[4],
                   (unsigned long long)in->rflags);
        }
    }
    for (unsigned t = 0; t < G_N_ELEMENTS(templates); t++) {
        if (out[t] && argc > 1) {
            printf("# left out: %s %u\n", templates[t].name, out[t]);
        }
    }
    printf("# %u the same, %u different, %u left out (KVM does not emulate them)\n", counts[SAME],
           counts[DIFFERENT], counts[LEFT_OUT]);
    engine_lock();
    guest_teardown();
    g_rand_free(rng);
    g_aligned_free(in);
    g_aligned_free(ours);
    g_aligned_free(theirs);
    soft_translator_free(translator);
    g_free(before);
    g_free(out);
    return say(!counts[DIFFERENT] && counts[SAME], NULL);
}
