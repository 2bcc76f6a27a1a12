/*
 * Registers by name: one table in manual order, a hash over it, MSRs made on demand.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/x86-state.h"

#define MSR_REGISTERS_MAX 4096 /* distinct "msr:…" names that a process may ask for */
#define OFFSET_MSR        UINT16_MAX

G_STATIC_ASSERT(sizeof(X86CPUState) < OFFSET_MSR);

#define OFF(f) ((uint16_t)offsetof(X86CPUState, f))
#define GPR(name64, name32, name16, name8, i)            \
    { name64, OFF(gpr[i]), 8, 0, X86_STATE_GPR, 0 },     \
        { name32, OFF(gpr[i]), 4, 0, X86_STATE_GPR, 0 }, \
        { name16, OFF(gpr[i]), 2, 0, X86_STATE_GPR, 0 }, \
    {                                                    \
        name8, OFF(gpr[i]), 1, 0, X86_STATE_GPR, 0       \
    }
#define GPR_HIGH(name8, i)                         \
    {                                              \
        name8, OFF(gpr[i]), 1, 8, X86_STATE_GPR, 0 \
    }
#define SEG(n, i)                                                      \
    { n, OFF(seg[i].selector), 2, 0, X86_STATE_SYSTEM, 0 },            \
        { n ".base", OFF(seg[i].base), 8, 0, X86_STATE_SYSTEM, 0 },    \
        { n ".limit", OFF(seg[i].limit), 4, 0, X86_STATE_SYSTEM, 0 },  \
        { n ".type", OFF(seg[i].type), 1, 0, X86_STATE_SYSTEM, 0 },    \
        { n ".dpl", OFF(seg[i].dpl), 1, 0, X86_STATE_SYSTEM, 0 },      \
        { n ".p", OFF(seg[i].present), 1, 0, X86_STATE_SYSTEM, 0 },    \
        { n ".s", OFF(seg[i].s), 1, 0, X86_STATE_SYSTEM, 0 },          \
        { n ".db", OFF(seg[i].db), 1, 0, X86_STATE_SYSTEM, 0 },        \
        { n ".l", OFF(seg[i].l), 1, 0, X86_STATE_SYSTEM, 0 },          \
        { n ".g", OFF(seg[i].g), 1, 0, X86_STATE_SYSTEM, 0 },          \
        { n ".avl", OFF(seg[i].avl), 1, 0, X86_STATE_SYSTEM, 0 },      \
    {                                                                  \
        n ".unusable", OFF(seg[i].unusable), 1, 0, X86_STATE_SYSTEM, 0 \
    }
#define REG(n, f, size, group)                   \
    {                                            \
        n, OFF(f), size, 0, X86_STATE_##group, 0 \
    }
/* In the FXSAVE image. */
#define FPU(n, at, size)                                            \
    {                                                               \
        n, (uint16_t)(OFF(xsave) + (at)), size, 0, X86_STATE_FPU, 0 \
    }

static const X86Register registers[] = {
    GPR("rax", "eax", "ax", "al", X86_RAX),
    GPR_HIGH("ah", X86_RAX),
    GPR("rbx", "ebx", "bx", "bl", X86_RBX),
    GPR_HIGH("bh", X86_RBX),
    GPR("rcx", "ecx", "cx", "cl", X86_RCX),
    GPR_HIGH("ch", X86_RCX),
    GPR("rdx", "edx", "dx", "dl", X86_RDX),
    GPR_HIGH("dh", X86_RDX),
    GPR("rsi", "esi", "si", "sil", X86_RSI),
    GPR("rdi", "edi", "di", "dil", X86_RDI),
    GPR("rbp", "ebp", "bp", "bpl", X86_RBP),
    GPR("rsp", "esp", "sp", "spl", X86_RSP),
    GPR("r8", "r8d", "r8w", "r8b", X86_R8),
    GPR("r9", "r9d", "r9w", "r9b", X86_R9),
    GPR("r10", "r10d", "r10w", "r10b", X86_R10),
    GPR("r11", "r11d", "r11w", "r11b", X86_R11),
    GPR("r12", "r12d", "r12w", "r12b", X86_R12),
    GPR("r13", "r13d", "r13w", "r13b", X86_R13),
    GPR("r14", "r14d", "r14w", "r14b", X86_R14),
    GPR("r15", "r15d", "r15w", "r15b", X86_R15),
    REG("rip", rip, 8, GPR),
    REG("eip", rip, 4, GPR),
    REG("ip", rip, 2, GPR),
    REG("rflags", rflags, 8, GPR),
    REG("eflags", rflags, 4, GPR),
    REG("flags", rflags, 2, GPR),
    SEG("es", X86_ES),
    SEG("cs", X86_CS),
    SEG("ss", X86_SS),
    SEG("ds", X86_DS),
    SEG("fs", X86_FS),
    SEG("gs", X86_GS),
    SEG("ldtr", X86_LDT),
    SEG("tr", X86_TR),
    REG("gdtr.base", gdt.base, 8, SYSTEM),
    REG("gdtr.limit", gdt.limit, 2, SYSTEM),
    REG("idtr.base", idt.base, 8, SYSTEM),
    REG("idtr.limit", idt.limit, 2, SYSTEM),
    REG("cr0", cr0, 8, SYSTEM),
    REG("cr2", cr2, 8, SYSTEM),
    REG("cr3", cr3, 8, SYSTEM),
    REG("cr4", cr4, 8, SYSTEM),
    REG("cr8", cr8, 8, SYSTEM),
    REG("efer", efer, 8, SYSTEM),
    REG("apic_base", apic_base, 8, SYSTEM),
    REG("dr0", dr[0], 8, DEBUG),
    REG("dr1", dr[1], 8, DEBUG),
    REG("dr2", dr[2], 8, DEBUG),
    REG("dr3", dr[3], 8, DEBUG),
    REG("dr6", dr6, 8, DEBUG),
    REG("dr7", dr7, 8, DEBUG),
    REG("xcr0", xcr0, 8, FPU),
    FPU("fcw", 0, 2),
    FPU("fsw", 2, 2),
    FPU("ftw", 4, 1),
    FPU("fop", 6, 2),
    FPU("mxcsr", 24, 4),
    REG("tsc", tsc, 8, MSRS),
};

static GHashTable *by_name; /* name -> const X86Register * */
static GHashTable *msr_registers;
static pthread_mutex_t register_lock = PTHREAD_MUTEX_INITIALIZER; /* leaf: the two above */

static void build_tables_locked(void)
{
    if (by_name) {
        return;
    }
    by_name = g_hash_table_new(g_str_hash, g_str_equal);
    msr_registers = g_hash_table_new(g_direct_hash, g_direct_equal);
    for (unsigned i = 0; i < G_N_ELEMENTS(registers); i++) {
        g_hash_table_insert(by_name, (gpointer)(uintptr_t)registers[i].name,
                            (gpointer)(uintptr_t)&registers[i]);
    }
    /* The manuals call them by both names. */
    g_hash_table_insert(by_name, (gpointer)(uintptr_t) "ldt", g_hash_table_lookup(by_name, "ldtr"));
}

static const X86Register *find_msr_locked(const char *digits)
{
    char *end;
    unsigned long long index;
    X86Register *r;

    errno = 0;
    index = strtoull(digits, &end, 0);
    if (!g_ascii_isdigit(digits[0]) || *end || errno || index > UINT32_MAX) {
        return NULL;
    }
    r = g_hash_table_lookup(msr_registers, GUINT_TO_POINTER((guint)index));
    if (!r && g_hash_table_size(msr_registers) < MSR_REGISTERS_MAX) {
        r = g_new0(X86Register, 1);
        r->name = g_strdup_printf("msr:%#x", (unsigned)index);
        r->offset = OFFSET_MSR;
        r->size = 8;
        r->group = X86_STATE_MSRS;
        r->msr = (uint32_t)index;
        g_hash_table_insert(msr_registers, GUINT_TO_POINTER((guint)index), r);
    }
    return r;
}

const X86Register *x86_register_find(const char *name)
{
    const X86Register *r;

    pthread_mutex_lock(&register_lock);
    build_tables_locked();
    if (strncmp(name, "msr:", 4) == 0) {
        r = find_msr_locked(name + 4);
    } else {
        r = g_hash_table_lookup(by_name, name);
    }
    pthread_mutex_unlock(&register_lock);
    return r;
}

const X86Register *x86_registers(unsigned *n)
{
    *n = G_N_ELEMENTS(registers);
    return registers;
}

uint64_t x86_register_get(const X86CPUState *s, const X86Register *r)
{
    const uint8_t *p = (const uint8_t *)s + r->offset;
    uint64_t v = 0;

    if (r->offset == OFFSET_MSR) {
        X86Msr *msr = x86_msr_find((X86CPUState *)(uintptr_t)s, r->msr);

        return msr ? msr->value : 0;
    }
    if (r->shift) {
        memcpy(&v, p, 8);
        v >>= r->shift;
        return r->size == 1 ? (uint8_t)v : v;
    }
    memcpy(&v, p, r->size);
    return v;
}

static bool is_bool(const X86Register *r)
{
    const char *dot = strchr(r->name, '.');

    return dot && r->size == 1 && strcmp(dot, ".type") && strcmp(dot, ".dpl");
}

bool x86_register_set(X86CPUState *s, const X86Register *r, uint64_t value)
{
    uint8_t *p = (uint8_t *)s + r->offset;
    uint64_t whole;

    if (r->offset == OFFSET_MSR) {
        return x86_msr_set(s, r->msr, value);
    }
    if (r->group == X86_STATE_GPR && r->size == 4) {
        whole = (uint32_t)value;
        memcpy(p, &whole, 8);
        return true;
    }
    if (r->shift) {
        memcpy(&whole, p, 8);
        whole &= ~(UINT64_C(0xff) << r->shift);
        whole |= (value & 0xff) << r->shift;
        memcpy(p, &whole, 8);
        return true;
    }
    if (is_bool(r)) {
        value = value != 0;
    } else if (g_str_has_suffix(r->name, ".type")) {
        value &= 15;
    } else if (g_str_has_suffix(r->name, ".dpl")) {
        value &= 3;
    }
    memcpy(p, &value, r->size);
    if (r->group == X86_STATE_FPU && r->offset != OFF(xcr0)) {
        s->xsave[512] |= 3; /* XSTATE_BV: x87 and SSE hold something now */
    }
    return true;
}

/* ---- vector registers -------------------------------------------------------------------- */

enum { XSAVE_ST = 32, XSAVE_XMM = 160, XSAVE_YMM_HIGH = 576 };

static bool parse_index(const char *name, const char *prefix, unsigned limit, unsigned *index)
{
    size_t n = strlen(prefix);
    char *end;
    unsigned long v;

    if (strncmp(name, prefix, n) != 0 || !g_ascii_isdigit(name[n])) {
        return false;
    }
    if (name[n] == '0' && name[n + 1]) {
        return false;
    }
    v = strtoul(name + n, &end, 10);
    if (*end || v >= limit) {
        return false;
    }
    *index = (unsigned)v;
    return true;
}

static bool has_avx(const X86CPUState *s)
{
    return s->xsave_size >= XSAVE_YMM_HIGH + 256;
}

/* The kind of a vector register's name: how many bytes it has, and its number. 0: another name. */
static unsigned vector_name(const char *name, unsigned *i)
{
    return parse_index(name, "st", 8, i)     ? 10
           : parse_index(name, "xmm", 16, i) ? 16
           : parse_index(name, "ymm", 16, i) ? 32
                                             : 0;
}

unsigned x86_vector_size(const char *name)
{
    unsigned i;

    return vector_name(name, &i);
}

unsigned x86_vector_get(const X86CPUState *s, const char *name, uint8_t out[X86_VECTOR_MAX])
{
    unsigned i, size = vector_name(name, &i);

    memset(out, 0, X86_VECTOR_MAX);
    if (size == 10) {
        memcpy(out, s->xsave + XSAVE_ST + 16 * i, 10);
    } else if (size) {
        memcpy(out, s->xsave + XSAVE_XMM + 16 * i, 16);
    }
    /* A clear XSTATE_BV bit means the component is in its initial state, whatever lies there. */
    if (size == 32 && has_avx(s) && (s->xsave[512] & 4)) {
        memcpy(out + 16, s->xsave + XSAVE_YMM_HIGH + 16 * i, 16);
    }
    return size;
}

bool x86_vector_set(X86CPUState *s, const char *name, const uint8_t *value, unsigned len)
{
    unsigned i, size = vector_name(name, &i);
    uint8_t full[X86_VECTOR_MAX] = { 0 };

    if (!size || len > size || (size == 32 && !has_avx(s))) {
        return false;
    }
    memcpy(full, value, len);
    if (size == 10) {
        memcpy(s->xsave + XSAVE_ST + 16 * i, full, 10);
        s->xsave[512] |= 1;
        return true;
    }
    memcpy(s->xsave + XSAVE_XMM + 16 * i, full, 16);
    s->xsave[512] |= 2;
    if (size == 32) {
        if (!(s->xsave[512] & 4)) {
            memset(s->xsave + XSAVE_YMM_HIGH, 0, 256);
        }
        memcpy(s->xsave + XSAVE_YMM_HIGH + 16 * i, full + 16, 16);
        s->xsave[512] |= 4;
    }
    return true;
}
