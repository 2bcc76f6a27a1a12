/*
 * What `-d int`, `-d in_asm` and `-d exec` show of the software CPU. None of it is on a fast path:
 * deliveries and decoding look at the log's mask, and `exec` is looked at when the run loop is
 * entered.
 */
#include <string.h>

#include "engine/accel/soft/soft-log.h"
#include "engine/cpu/disasm.h"

#define X64  G_GINT64_MODIFIER "x"
#define X016 "016" G_GINT64_MODIFIER "x"

static int cpu_index(const SoftCpu *c)
{
    return c->vcpu ? c->vcpu->index : 0;
}

/* With `-d cpu` besides: the registers below. */
static void log_registers(const SoftCpu *c)
{
    X86CPUState *s;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!log_enabled(LOG_CPU)) {
        return;
    }
    s = g_aligned_alloc0(1, (sizeof(*s) + 63) & ~(size_t)63, 64);
    soft_state_store_groups(c, s, X86_STATE_GPR | X86_STATE_SYSTEM);
    text = x86_state_dump(s);
    g_aligned_free(s);
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        if (*lines[i]) {
            log_write(LOG_CPU, NULL, "  %s", lines[i]);
        }
    }
}

/* ---- interrupts ---------------------------------------------------------------------------- */

static const char *vector_name(unsigned vector)
{
    static const char *const names[] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD",
                                         "#NM", "#DF", NULL,  "#TS", "#NP", "#SS", "#GP",
                                         "#PF", NULL,  "#MF", "#AC", "#MC", "#XM" };

    return vector < G_N_ELEMENTS(names) && names[vector] ? names[vector] : "";
}

static const char *kind_name(SoftIntKind kind)
{
    switch (kind) {
    case SOFT_INT_HARDWARE:
        return "interrupt";
    case SOFT_INT_EXCEPTION:
        return "exception";
    case SOFT_INT_SOFTWARE:
        return "software";
    default:
        return "icebp";
    }
}

void soft_log_interrupt(const SoftCpu *c, unsigned vector, SoftIntKind kind, bool has_error,
                        uint32_t error, uint64_t next_rip)
{
    char code[16] = "", address[32] = "", inside[40] = "";

    if (has_error) {
        g_snprintf(code, sizeof(code), " e=%04x", error);
    }
    if (vector == EXC_PF && kind == SOFT_INT_EXCEPTION) {
        g_snprintf(address, sizeof(address), " cr2=%" X016, c->cr2);
    }
    if (kind == SOFT_INT_EXCEPTION && c->delivering.active) {
        g_snprintf(inside, sizeof(inside), " while delivering %02x", c->delivering.vector);
    }
    log_write(LOG_INT, NULL,
              "cpu %d: %s v=%02x %s%s%s%s ip=%04x:%" X016 " cpl=%u sp=%04x:%" X016 " rax=%" X016
              " flags=%08x",
              cpu_index(c), kind_name(kind), vector, vector_name(vector), code, address, inside,
              c->seg[X86_CS].selector, next_rip, c->cpl, c->seg[X86_SS].selector, c->gpr[X86_RSP],
              c->gpr[X86_RAX], (unsigned)soft_rflags(c));
    log_registers(c);
}

void soft_log_triple_fault(const SoftCpu *c, unsigned vector)
{
    log_write(LOG_INT, NULL, "cpu %d: triple fault: v=%02x %s while delivering #DF ip=%04x:%" X016,
              cpu_index(c), vector, vector_name(vector), c->seg[X86_CS].selector, c->rip);
    log_registers(c);
}

/* ---- code ---------------------------------------------------------------------------------- */

static uint64_t block_linear(const SoftCpu *c)
{
    return c->mode.long_mode ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
}

void soft_log_block(const SoftCpu *c, const uint8_t *code, unsigned bytes)
{
    unsigned bits = c->mode.long_mode ? 64 : c->mode.code_size == 2 ? 32 : 16;
    uint64_t linear = block_linear(c);

    if (!log_filter_overlaps(linear, linear + (bytes ? bytes - 1 : 0))) {
        return;
    }
    log_write(LOG_IN_ASM, NULL, "cpu %d: block at %" X016 " (%04x:%" X64 ") %u-bit cpl %u",
              cpu_index(c), linear, c->seg[X86_CS].selector, c->rip, bits, c->cpl);
    for (unsigned at = 0; at < bytes;) {
        char hex[2 * X86_INSN_MAX + 1] = "";
        Disasm d;
        unsigned len;

        disasm(bits, c->rip + at, code + at, bytes - at, &d);
        len = d.len ? d.len : 1;
        for (unsigned k = 0; k < len; k++) {
            g_snprintf(hex + 2 * k, 3, "%02x", code[at + k]);
        }
        log_write(LOG_IN_ASM, NULL, "  %" X016 ":  %-24s %s", linear + at, hex, d.text);
        at += len;
    }
}

void soft_log_exec(const SoftCpu *c)
{
    uint64_t linear = block_linear(c);

    if (log_filter_overlaps(linear, linear)) {
        log_write(LOG_EXEC, NULL, "cpu %d: %" X016 " (%04x:%" X64 ") cpl %u", cpu_index(c), linear,
                  c->seg[X86_CS].selector, c->rip, c->cpl);
        log_registers(c);
    }
}
