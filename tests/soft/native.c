/* See native.h. */
#include "native.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { EXIT_FINE = 0, EXIT_NO_MEMORY = 40, EXIT_NO_GS, EXIT_NO_HANDLER };

static Batch *running;
static int current;
static gregset_t home; /* where the child goes on after the last case */
static uint8_t *code_alias, *data_page;

static const int reg_of[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15 };

/* The frame has the host's own XSAVE area; of what is above AVX the present state stays. */
static void put_fpu(const Case *t, void *frame)
{
    uint64_t components;

    if (t->has_fpu && frame) {
        memcpy(frame, t->fpu, 464);
        memcpy((uint8_t *)frame + 576, t->fpu + 576, 256);
        memcpy(&components, (uint8_t *)frame + 512, sizeof(components));
        components |= 7;
        memcpy((uint8_t *)frame + 512, &components, sizeof(components));
    }
}

static void get_fpu(Outcome *o, const uint8_t *frame)
{
    uint64_t components;

    if (!frame) {
        return;
    }
    memcpy(o->fpu, frame, FPU_SIZE);
    memcpy(&components, frame + 512, sizeof(components));
    if (!(components & 1)) {
        memset(o->fpu, 0, 24);
        o->fpu[0] = 0x7f;
        o->fpu[1] = 3;
        memset(o->fpu + 32, 0, 128);
    }
    if (!(components & 2)) {
        memset(o->fpu + 160, 0, 256);
    }
    if (!(components & 4)) {
        memset(o->fpu + 576, 0, 256);
    }
}

static void enter_case(const Case *t, greg_t *g, void *fpu)
{
    put_fpu(t, fpu);
    uint64_t selectors = (uint64_t)g[REG_CSGSFS] & ~UINT64_C(0xffff);

    memcpy(data_page, t->data, DATA_SIZE);
    memset(code_alias + (CODE_ENTRY - CODE_ADDR), 0xcc, CODE_MAX);
    memcpy(code_alias + (CODE_ENTRY - CODE_ADDR), t->code, t->len);
    for (unsigned i = 0; i < 16; i++) {
        g[reg_of[i]] = (greg_t)t->in.gpr[i];
    }
    g[REG_RIP] = (greg_t)CODE_ENTRY;
    g[REG_EFL] = t->in.flags;
    g[REG_CSGSFS] = (greg_t)(selectors | (t->wide ? 0x33 : 0x23));
}

static void leave_case(Outcome *o, const greg_t *g, const void *fpu)
{
    get_fpu(o, fpu);
    for (unsigned i = 0; i < 16; i++) {
        o->regs.gpr[i] = (uint64_t)g[reg_of[i]];
    }
    o->regs.flags = (uint32_t)g[REG_EFL];
    o->regs.rip = (uint64_t)g[REG_RIP];
    o->vector = (int)g[REG_TRAPNO];
    o->error = (uint32_t)g[REG_ERR];
    o->cr2 = (uint64_t)g[REG_CR2];
    if (o->vector == 3) { /* the INT3 behind the instruction, or where it jumped to */
        o->vector = -1;
        o->regs.rip--;
    }
    memcpy(o->data, data_page, DATA_SIZE);
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
    void *fpu = ((ucontext_t *)context)->uc_mcontext.fpregs;

    if (current < 0) {
        memcpy(home, g, sizeof(home));
    } else {
        leave_case(&running->native[current], g, fpu);
    }
    current++;
    running->done = (unsigned)current;
    if ((unsigned)current == running->n) {
        memcpy(g, home, sizeof(home));
    } else {
        enter_case(&running->cases[current], g, fpu);
    }
}

static _Noreturn void leave(int status)
{
    for (;;) {
        syscall(SYS_exit, status); /* not exit_group: strict seccomp allows only this one */
    }
}

/* AddressSanitizer asks the kernel something before a call that does not return: not allowed here.
 */
__attribute__((no_sanitize("address"))) static _Noreturn void child(Batch *b)
{
    static const int signals[] = { SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGBUS };
    static uint8_t stack[65536];
    const stack_t alt = { .ss_sp = stack, .ss_size = sizeof(stack) };
    struct sigaction sa = { .sa_sigaction = on_signal,
                            .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    const struct rlimit cpu = { 30, 30 }, none = { 0, 0 };
    int fd = memfd_create("code", MFD_CLOEXEC);
    void *code, *data;

    setrlimit(RLIMIT_CPU, &cpu);
    setrlimit(RLIMIT_CORE, &none);
    if (fd < 0 || ftruncate(fd, CODE_SIZE)) {
        leave(EXIT_NO_MEMORY);
    }
    code_alias = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    code = mmap((void *)CODE_ADDR, CODE_SIZE, PROT_READ | PROT_EXEC,
                MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    data = mmap((void *)DATA_ADDR, DATA_SIZE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (code_alias == MAP_FAILED || code != (void *)CODE_ADDR || data != (void *)DATA_ADDR) {
        leave(EXIT_NO_MEMORY);
    }
    data_page = data;
    memset(code_alias, 0xcc, CODE_SIZE);
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE)) {
        leave(EXIT_NO_GS);
    }
    if (sigaltstack(&alt, NULL)) {
        leave(EXIT_NO_HANDLER);
    }
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        if (sigaction(signals[i], &sa, NULL)) {
            leave(EXIT_NO_HANDLER);
        }
    }
    running = b;
    current = -1;
    /* 32-bit code needs real data segments; 64-bit code does not look at them. */
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    __asm__ volatile("int3" : : : "memory");
    leave(EXIT_FINE);
}

Batch *native_batch_new(void)
{
    void *p = mmap(NULL, sizeof(Batch), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

const char *native_run(Batch *b, bool *broken)
{
    int status = 0;
    pid_t pid;

    *broken = false;
    b->done = 0;
    fflush(NULL);
    pid = fork();
    if (pid < 0) {
        return "cannot fork";
    }
    if (pid == 0) {
        child(b);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status)) {
        switch (WEXITSTATUS(status)) {
        case EXIT_NO_MEMORY:
            return "the addresses of code and data are not free";
        case EXIT_NO_GS:
            return "GS cannot be set";
        case EXIT_NO_HANDLER:
            return "no signal handlers";
        default:
            break;
        }
    }
    *broken = !WIFEXITED(status) || WEXITSTATUS(status) || b->done != b->n;
    return NULL;
}
