/*
 * The executable arena and the making of thunks: see soft-thunk.h.
 *
 * The arena is one memfd mapped twice, once writable and once executable, so that no page is both.
 * It only grows, and cannot fill up: what distinguishes thunks has some ten thousand values. It
 * holds code without any machine's state and is shared by the machines of the process.
 *
 * A SIMD exception that the guest has unmasked is raised by the host's CPU itself, as SIGFPE: only
 * so are its flags exact (an exact tiny result sets UE only when unmasked; flags of an operand's
 * exception suppress those of the result). The signal's handler leaves the thunk, of which nothing
 * has been stored yet.
 */
#include "engine/accel/soft/soft-thunk.h"

#include <cpuid.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <glib.h>

#include "engine/accel/soft/soft-priv.h"

#define ARENA_SIZE (16u << 20)
#define THUNK_MAX  512

static struct {
    pthread_mutex_t lock;
    bool tried;
    uint8_t *rw, *rx; /* rx is read without the lock once it is there */
    size_t used;
    GHashTable *ops;
    struct sigaction old_fpe;
} arena = { .lock = PTHREAD_MUTEX_INITIALIZER };

enum { ARENA_MXCSR = 0, ARENA_BAIL = 16, ARENA_START = 64 }; /* what stands at its beginning */

static __thread struct {
    bool armed, hit, unblocked;
    uint32_t mxcsr;
} guard;

/* ---- the host ---------------------------------------------------------------------------- */

unsigned soft_thunk_host_features(void)
{
    static unsigned known; /* atomic; the same for everyone who computes it */
    unsigned f = __atomic_load_n(&known, __ATOMIC_RELAXED), a, b, c, d;

    if (f) {
        return f;
    }
    f = HOST_MMX | HOST_SSE2;
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        uint32_t xcr0 = 0, high;

        f |= c & bit_SSE3 ? HOST_SSE3 : 0;
        f |= c & bit_SSSE3 ? HOST_SSSE3 : 0;
        f |= c & bit_SSE4_1 ? HOST_SSE41 : 0;
        f |= c & bit_SSE4_2 ? HOST_SSE42 : 0;
        f |= c & bit_AES ? HOST_AES : 0;
        f |= c & bit_PCLMUL ? HOST_PCLMUL : 0;
        if (c & bit_OSXSAVE) {
            __asm__("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
        }
        if ((xcr0 & 6) == 6 && (c & bit_AVX)) {
            f |= HOST_AVX;
            f |= c & bit_F16C ? HOST_F16C : 0;
            f |= c & bit_FMA ? HOST_FMA : 0;
        }
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        f |= b & bit_SHA ? HOST_SHA : 0;
        f |= (f & HOST_AVX) && (b & bit_AVX2) ? HOST_AVX2 : 0;
    }
    __atomic_store_n(&known, f, __ATOMIC_RELAXED);
    return f;
}

uint32_t soft_thunk_mxcsr_mask(void)
{
    static uint32_t known;
    uint32_t mask = __atomic_load_n(&known, __ATOMIC_RELAXED);

    if (!mask) {
        uint8_t area[512] __attribute__((aligned(16))) = { 0 };

        __asm__ volatile("fxsave64 %0" : "=m"(area));
        memcpy(&mask, area + FX_MXCSR_MASK, sizeof(mask));
        mask = (mask ? mask : 0xffbf) & 0xffff;
        __atomic_store_n(&known, mask, __ATOMIC_RELAXED);
    }
    return mask;
}

/* ---- emission ---------------------------------------------------------------------------- */

typedef struct Emit {
    uint8_t *p; /* where it is written */
    size_t at;  /* its offset in the arena */
    unsigned n;
} Emit;

static void put(Emit *e, unsigned n, const char *bytes)
{
    memcpy(e->p + e->n, bytes, n);
    e->n += n;
}
#define PUT(e, s) put(e, sizeof(s) - 1, s)
static void put8(Emit *e, unsigned v)
{
    e->p[e->n++] = (uint8_t)v;
}
static void put32(Emit *e, uint32_t v)
{
    memcpy(e->p + e->n, &v, 4);
    e->n += 4;
}

enum { RCX = 1, RDX = 2, RSI = 6, RDI = 7, R8 = 8, R9 = 9 };
static const uint8_t slot_base[SLOTS] = { RDX, RCX, R8, R9 };

/* ModRM of [base + disp32]; none of the bases needs a SIB. */
static void put_address(Emit *e, unsigned reg, unsigned base, uint32_t disp)
{
    put8(e, 0x80 | reg << 3 | (base & 7));
    put32(e, disp);
}

static void move_vector(Emit *e, const ThunkSpec *s, unsigned reg, unsigned base, bool store)
{
    bool high = base >= 8;

    if (s->vex) {
        put8(e, 0xc4);
        put8(e, high ? 0xc1 : 0xe1);
        put8(e, 0x78);
    } else {
        if (high) {
            put8(e, 0x41);
        }
        put8(e, 0x0f);
    }
    put8(e, store ? 0x11 : 0x10); /* (V)MOVUPS */
    put_address(e, reg, base, FX_XMM);
    if (s->vex && (store || s->upper)) { /* VEXTRACTF128, VINSERTF128 */
        put8(e, 0xc4);
        put8(e, high ? 0xc3 : 0xe3);
        put8(e, store ? 0x7d : (~reg & 15) << 3 | 5);
        put8(e, store ? 0x19 : 0x18);
        put_address(e, reg, base, FX_YMM_HIGH);
        put8(e, 1);
    }
}

static void move_mmx(Emit *e, unsigned reg, unsigned base, bool store)
{
    if (base >= 8) {
        put8(e, 0x41);
    }
    put8(e, 0x0f);
    put8(e, store ? 0x7f : 0x6f);
    put_address(e, reg, base, FX_ST);
    if (store) { /* sign and exponent become ones */
        put8(e, 0x66);
        if (base >= 8) {
            put8(e, 0x41);
        }
        put8(e, 0xc7);
        put_address(e, 0, base, FX_ST + 8);
        put8(e, 0xff);
        put8(e, 0xff);
    }
}

static void move_gpr(Emit *e, unsigned base, bool store)
{
    put8(e, base >= 8 ? 0x49 : 0x48);
    put8(e, store ? 0x89 : 0x8b);
    put_address(e, 0, base, 0);
}

static void move_slot(Emit *e, const ThunkSpec *s, unsigned slot, bool store)
{
    switch (store ? s->store[slot] : s->load[slot]) {
    case SLOT_VECTOR:
        move_vector(e, s, SLOT_HOST_REG(slot), slot_base[slot], store);
        break;
    case SLOT_MMX:
        move_mmx(e, SLOT_HOST_REG(slot), slot_base[slot], store);
        break;
    case SLOT_GPR:
        move_gpr(e, slot_base[slot], store);
        break;
    default:
        break;
    }
}

/* RAX, RCX, RDX of the guest, from the fixed distance of the register file to the area. */
static void move_fixed(Emit *e, unsigned reg, bool store)
{
    put8(e, 0x48);
    put8(e, store ? 0x89 : 0x8b);
    put_address(e, reg, RDI,
                (uint32_t)((int32_t)offsetof(SoftCpu, gpr) - (int32_t)offsetof(SoftCpu, fpu) +
                           (int32_t)reg * 8));
}

static void emit_host_mxcsr(Emit *e)
{
    PUT(e, "\x0f\xae\x15"); /* ldmxcsr [rip + …] */
    put32(e, (uint32_t)(ARENA_MXCSR - (int64_t)(e->at + e->n + 4)));
}

static void emit_x87(Emit *e, const ThunkSpec *s)
{
    PUT(e, "\x48\x0f\xae\x0f"); /* fxrstor64 [rdi] */
    if (s->flags_in) {
        PUT(e, "\x56\x9d"); /* push rsi; popfq */
    }
    put(e, s->len, (const char *)s->code);
    if (s->flags_out) {
        PUT(e, "\x9c\x58"); /* pushfq; pop rax */
    }
    PUT(e, "\x48\x0f\xae\x07"); /* fxsave64 [rdi] */
    PUT(e, "\xdb\xe3");         /* fninit */
    emit_host_mxcsr(e);
    PUT(e, "\xfc\xc3"); /* cld; ret */
}

static void emit_vector(Emit *e, const ThunkSpec *s)
{
    bool mmx = false;

    if (s->mxcsr) {
        PUT(e, "\x0f\xae\x57\x18"); /* ldmxcsr [rdi + 24] */
    }
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        mmx |= s->load[slot] == SLOT_MMX || s->store[slot] == SLOT_MMX;
        move_slot(e, s, slot, false);
    }
    if (s->xmm0_load) {
        move_vector(e, s, 0, RDI, false);
    }
    if (s->lengths) {
        move_fixed(e, 0, false);
        move_fixed(e, RDX, false);
    }
    put(e, s->len, (const char *)s->code);
    if (s->flags_out) {
        PUT(e, "\x9c\x58");
    }
    if (s->mxcsr) {
        PUT(e, "\x0f\xae\x5f\x18"); /* stmxcsr [rdi + 24] */
        emit_host_mxcsr(e);
    }
    if (s->index) {
        move_fixed(e, RCX, true);
    }
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        move_slot(e, s, slot, true);
    }
    if (s->xmm0_store) {
        move_vector(e, s, 0, RDI, true);
    }
    if (mmx) {
        PUT(e, "\x0f\x77"); /* emms */
    }
    if (s->vex) {
        PUT(e, "\xc5\xf8\x77"); /* vzeroupper */
    }
    PUT(e, "\xc3");
}

/* ---- unmasked exceptions ----------------------------------------------------------------- */

static void on_fpe(int sig, siginfo_t *info, void *opaque)
{
    ucontext_t *u = opaque;
    uintptr_t rip = (uintptr_t)u->uc_mcontext.gregs[REG_RIP];
    uintptr_t rx = (uintptr_t)__atomic_load_n(&arena.rx, __ATOMIC_ACQUIRE);

    if (guard.armed && rip - rx < ARENA_SIZE && u->uc_mcontext.fpregs) {
        guard.hit = true;
        guard.mxcsr = u->uc_mcontext.fpregs->mxcsr;
        u->uc_mcontext.fpregs->mxcsr = MXCSR_DEFAULT;
        u->uc_mcontext.gregs[REG_RIP] = (greg_t)(rx + ARENA_BAIL);
        return;
    }
    if (arena.old_fpe.sa_flags & SA_SIGINFO) {
        arena.old_fpe.sa_sigaction(sig, info, opaque);
    } else if (arena.old_fpe.sa_handler == SIG_DFL || arena.old_fpe.sa_handler == SIG_IGN) {
        signal(sig, SIG_DFL); /* the instruction faults again, or the sender's signal is lost */
        if (info->si_code <= 0) {
            raise(sig);
        }
    } else {
        arena.old_fpe.sa_handler(sig);
    }
}

bool soft_thunk_run_unmasked(const VecOp *op, uint8_t *fpu, void *mem, void *const slot[SLOTS],
                             uint64_t *result)
{
    if (!guard.unblocked) { /* a blocked signal that the CPU raises would end the process */
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGFPE);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        guard.unblocked = true;
    }
    guard.hit = false;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    guard.armed = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    *result = op->fn(fpu, mem, slot[0], slot[1], slot[2], slot[3]);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    guard.armed = false;
    if (guard.hit) {
        memcpy(fpu + FX_MXCSR, &guard.mxcsr, 4);
    }
    return !guard.hit;
}

/* ---- the arena --------------------------------------------------------------------------- */

static guint op_hash(gconstpointer key)
{
    const VecOp *op = key;
    const uint8_t *p = (const uint8_t *)&op->spec;
    guint h = 2166136261u;

    for (size_t n = 0; n < sizeof(op->spec); n++) {
        h = (h ^ p[n]) * 16777619u;
    }
    return h;
}

static gboolean op_equal(gconstpointer a, gconstpointer b)
{
    const VecOp *x = a, *y = b;

    return memcmp(&x->spec, &y->spec, sizeof(x->spec)) == 0 && x->mem_len == y->mem_len &&
           x->align_mask == y->align_mask && x->mem_write == y->mem_write && x->gpr == y->gpr;
}

static bool arena_init(void)
{
    uint32_t mxcsr = MXCSR_DEFAULT;
    struct sigaction action = { .sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    int fd;
    void *rw = MAP_FAILED, *rx = MAP_FAILED;

    if (arena.tried) {
        return arena.rx;
    }
    arena.tried = true;
    fd = memfd_create("soft-thunks", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, ARENA_SIZE) == 0) {
        rw = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rx = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (rw == MAP_FAILED || rx == MAP_FAILED || sigemptyset(&action.sa_mask) != 0 ||
        sigaction(SIGFPE, &action, &arena.old_fpe) != 0) {
        if (rw != MAP_FAILED) {
            munmap(rw, ARENA_SIZE);
        }
        if (rx != MAP_FAILED) {
            munmap(rx, ARENA_SIZE);
        }
        return false;
    }
    arena.rw = rw;
    memcpy(arena.rw + ARENA_MXCSR, &mxcsr, sizeof(mxcsr));
    /* What a thunk does last, whatever it was: harmless after one that used neither. */
    memcpy(arena.rw + ARENA_BAIL, "\x0f\x77", 2); /* emms */
    if (soft_thunk_host_features() & HOST_AVX) {
        memcpy(arena.rw + ARENA_BAIL + 2, "\xc5\xf8\x77\xc3", 4); /* vzeroupper; ret */
    } else {
        arena.rw[ARENA_BAIL + 2] = 0xc3;
    }
    arena.used = ARENA_START;
    arena.ops = g_hash_table_new(op_hash, op_equal);
    __atomic_store_n(&arena.rx, (uint8_t *)rx, __ATOMIC_RELEASE);
    return true;
}

const VecOp *soft_thunk_get(const VecOp *op)
{
    VecOp *found = NULL;

    pthread_mutex_lock(&arena.lock);
    if (arena_init()) {
        found = g_hash_table_lookup(arena.ops, op);
        if (!found && arena.used + THUNK_MAX <= ARENA_SIZE) {
            Emit e = { .p = arena.rw + arena.used, .at = arena.used };
            uintptr_t code = (uintptr_t)(arena.rx + arena.used);

            if (op->spec.x87) {
                emit_x87(&e, &op->spec);
            } else {
                emit_vector(&e, &op->spec);
            }
            arena.used += (e.n + 15) & ~15u;
            found = g_memdup2(op, sizeof(*op));
            memcpy(&found->fn, &code, sizeof(code));
            g_hash_table_add(arena.ops, found);
        }
    }
    pthread_mutex_unlock(&arena.lock);
    return found;
}
