/* The state as several lines of text, for reports and scripts. */
#include <string.h>

#include "engine/cpu/x86-state.h"

static const char *mode_name(const X86CPUState *s)
{
    if (!(s->cr0 & 1)) {
        return "real mode";
    }
    if (s->efer & (1 << 10)) {
        return s->seg[X86_CS].l ? "64-bit mode" : "compatibility mode";
    }
    if (s->rflags & (1 << 17)) {
        return "virtual-8086 mode";
    }
    return s->seg[X86_CS].db ? "protected mode, 32-bit" : "protected mode, 16-bit";
}

static void dump_flags(GString *out, uint64_t rflags)
{
    static const struct {
        uint8_t bit;
        const char *name;
    } flags[] = {
        { 0, "CF" },  { 2, "PF" },   { 4, "AF" },   { 6, "ZF" },  { 7, "SF" },  { 8, "TF" },
        { 9, "IF" },  { 10, "DF" },  { 11, "OF" },  { 14, "NT" }, { 16, "RF" }, { 17, "VM" },
        { 18, "AC" }, { 19, "VIF" }, { 20, "VIP" }, { 21, "ID" },
    };

    g_string_append_printf(out, "RFLAGS %016" G_GINT64_MODIFIER "x [", rflags);
    for (unsigned i = 0, first = 1; i < G_N_ELEMENTS(flags); i++) {
        if (rflags & (UINT64_C(1) << flags[i].bit)) {
            g_string_append_printf(out, "%s%s", first ? "" : " ", flags[i].name);
            first = 0;
        }
    }
    g_string_append_printf(out, "] IOPL=%u\n", (unsigned)(rflags >> 12) & 3);
}

static void dump_segment(GString *out, const char *name, const X86Segment *g)
{
    g_string_append_printf(
        out, "%-4s %04x base=%016" G_GINT64_MODIFIER "x limit=%08x type=%x dpl=%u%s%s%s%s%s%s\n",
        name, g->selector, g->base, g->limit, g->type, g->dpl, g->present ? " P" : "",
        g->s ? " S" : "", g->db ? " D/B" : "", g->l ? " L" : "", g->g ? " G" : "",
        g->unusable ? " unusable" : "");
}

char *x86_state_dump(const X86CPUState *s)
{
    static const char *const gpr[] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                       "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15" };
    static const uint8_t order[] = { 0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15 };
    static const char *const seg[] = { "ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR" };
    static const char *const mp[] = { "runnable", "uninitialized", "INIT received", "halted",
                                      "SIPI received" };
    GString *out = g_string_new(NULL);
    uint16_t fcw, fsw;
    uint32_t mxcsr;

    for (unsigned i = 0; i < G_N_ELEMENTS(order); i++) {
        g_string_append_printf(out, "%-3s %016" G_GINT64_MODIFIER "x%s", gpr[order[i]],
                               s->gpr[order[i]], i % 4 == 3 ? "\n" : "  ");
    }
    g_string_append_printf(out, "RIP %016" G_GINT64_MODIFIER "x  ", s->rip);
    dump_flags(out, s->rflags);
    for (unsigned i = 0; i < X86_SEGS; i++) {
        dump_segment(out, seg[i], &s->seg[i]);
    }
    g_string_append_printf(out,
                           "GDTR base=%016" G_GINT64_MODIFIER
                           "x limit=%04x  IDTR base=%016" G_GINT64_MODIFIER "x limit=%04x\n",
                           s->gdt.base, s->gdt.limit, s->idt.base, s->idt.limit);
    g_string_append_printf(out,
                           "CR0 %08" G_GINT64_MODIFIER "x  CR2 %016" G_GINT64_MODIFIER
                           "x  CR3 %016" G_GINT64_MODIFIER "x  CR4 %08" G_GINT64_MODIFIER
                           "x  CR8 %" G_GINT64_MODIFIER "x\n",
                           s->cr0, s->cr2, s->cr3, s->cr4, s->cr8);
    g_string_append_printf(out,
                           "EFER %016" G_GINT64_MODIFIER "x  APIC_BASE %016" G_GINT64_MODIFIER
                           "x  XCR0 %" G_GINT64_MODIFIER "x  TSC %" G_GINT64_MODIFIER "x\n",
                           s->efer, s->apic_base, s->xcr0, s->tsc);
    g_string_append_printf(out,
                           "DR0 %016" G_GINT64_MODIFIER "x  DR1 %016" G_GINT64_MODIFIER
                           "x  DR2 %016" G_GINT64_MODIFIER "x  DR3 %016" G_GINT64_MODIFIER
                           "x\nDR6 %08" G_GINT64_MODIFIER "x  DR7 %08" G_GINT64_MODIFIER "x\n",
                           s->dr[0], s->dr[1], s->dr[2], s->dr[3], s->dr6, s->dr7);
    memcpy(&fcw, s->xsave, 2);
    memcpy(&fsw, s->xsave + 2, 2);
    memcpy(&mxcsr, s->xsave + 24, 4);
    g_string_append_printf(out, "FCW %04x  FSW %04x  FTW %02x  MXCSR %08x\n", fcw, fsw, s->xsave[4],
                           mxcsr);
    g_string_append_printf(out, "%s, %s", mode_name(s),
                           (unsigned)s->mp_state < G_N_ELEMENTS(mp) ? mp[s->mp_state] : "?");
    if (s->events.exception_pending || s->events.exception_injected) {
        g_string_append_printf(out, ", exception %u %s", s->events.exception_nr,
                               s->events.exception_injected ? "being delivered" : "pending");
    }
    if (s->events.interrupt_injected) {
        g_string_append_printf(out, ", interrupt %#x being delivered", s->events.interrupt_nr);
    }
    if (s->events.nmi_pending || s->events.nmi_injected) {
        g_string_append(out, ", NMI pending");
    }
    if (s->events.smm) {
        g_string_append(out, ", in SMM");
    }
    g_string_append_c(out, '\n');
    return g_string_free(out, FALSE);
}
