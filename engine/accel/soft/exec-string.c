/*
 * String instructions: MOVS STOS LODS SCAS CMPS INS OUTS, with REP, REPE, REPNE.
 *
 * A repeated one is the last of its block and can be left after any element, with rSI, rDI, rCX and
 * the flags as that element left them and rip at the instruction: when the budget is used up, when
 * somebody wants the CPU, and after each element when every instruction traps. Copies and fills
 * that go upwards through plain RAM are done a page at a time.
 */
#include "engine/accel/soft/exec.h"

typedef enum { REP_NONE, REP_COUNT, REP_WHILE_EQUAL, REP_WHILE_NOT_EQUAL } Repeat;

static inline uint64_t source_linear(SoftCpu *c, const SoftInsn *i, unsigned len)
{
    return soft_segment_linear(c, i->seg, gpr_read(c, X86_RSI, i->addr_size), len, false);
}
static inline uint64_t destination_linear(SoftCpu *c, const SoftInsn *i, unsigned len, bool write)
{
    return soft_segment_linear(c, X86_ES, gpr_read(c, X86_RDI, i->addr_size), len, write);
}
static inline void advance(SoftCpu *c, const SoftInsn *i, unsigned reg, int64_t bytes)
{
    uint64_t step = (uint64_t)((c->flags & FLAG_DF) ? -bytes : bytes);
    gpr_write(c, reg, i->addr_size, gpr_read(c, reg, i->addr_size) + step);
}

/* ---- one element --------------------------------------------------------------------------- */

#define ELEMENTS(N, S)                                                                         \
    static inline void movs##N(SoftCpu *c, const SoftInsn *i)                                  \
    {                                                                                          \
        uint##N##_t v = LOAD(c, N, source_linear(c, i, N / 8));                                \
        STORE(c, N, destination_linear(c, i, N / 8, true), v);                                 \
        advance(c, i, X86_RSI, N / 8);                                                         \
        advance(c, i, X86_RDI, N / 8);                                                         \
    }                                                                                          \
    static inline void stos##N(SoftCpu *c, const SoftInsn *i)                                  \
    {                                                                                          \
        STORE(c, N, destination_linear(c, i, N / 8, true), reg_read##N(c, SOFT_REG(X86_RAX))); \
        advance(c, i, X86_RDI, N / 8);                                                         \
    }                                                                                          \
    static inline void lods##N(SoftCpu *c, const SoftInsn *i)                                  \
    {                                                                                          \
        uint##N##_t v = LOAD(c, N, source_linear(c, i, N / 8));                                \
        reg_write##N(c, SOFT_REG(X86_RAX), v);                                                 \
        advance(c, i, X86_RSI, N / 8);                                                         \
    }                                                                                          \
    static inline void scas##N(SoftCpu *c, const SoftInsn *i)                                  \
    {                                                                                          \
        uint##N##_t b = LOAD(c, N, destination_linear(c, i, N / 8, false));                    \
        cc_set(c, CC_SUB, S, (uint##N##_t)(reg_read##N(c, SOFT_REG(X86_RAX)) - b), b);         \
        advance(c, i, X86_RDI, N / 8);                                                         \
    }                                                                                          \
    static inline void cmps##N(SoftCpu *c, const SoftInsn *i)                                  \
    {                                                                                          \
        uint##N##_t a = LOAD(c, N, source_linear(c, i, N / 8));                                \
        uint##N##_t b = LOAD(c, N, destination_linear(c, i, N / 8, false));                    \
        cc_set(c, CC_SUB, S, (uint##N##_t)(a - b), b);                                         \
        advance(c, i, X86_RSI, N / 8);                                                         \
        advance(c, i, X86_RDI, N / 8);                                                         \
    }
FOR_SIZES(ELEMENTS)

/* What the store could raise comes before the port is read: reading may have an effect. */
#define PORTS(N, S)                                                \
    static inline void ins##N(SoftCpu *c, const SoftInsn *i)       \
    {                                                              \
        uint64_t linear = destination_linear(c, i, N / 8, true);   \
        soft_probe_write(c, linear, N / 8);                        \
        uint32_t v = soft_in(c, (uint16_t)c->gpr[X86_RDX], N / 8); \
        STORE(c, N, linear, v);                                    \
        advance(c, i, X86_RDI, N / 8);                             \
    }                                                              \
    static inline void outs##N(SoftCpu *c, const SoftInsn *i)      \
    {                                                              \
        uint##N##_t v = LOAD(c, N, source_linear(c, i, N / 8));    \
        soft_out(c, (uint16_t)c->gpr[X86_RDX], v, N / 8);          \
        advance(c, i, X86_RSI, N / 8);                             \
    }
PORTS(8, 0)
PORTS(16, 1)
PORTS(32, 2)

/* ---- many elements in plain RAM -------------------------------------------------------------- */

/* Bytes from here, where the segment has been looked at, that stay on the page, in the segment and
 * in the address size; 0: each element has to be looked at. */
static inline uint64_t run_length(const SoftCpu *c, const SoftInsn *i, unsigned seg, unsigned reg,
                                  uint64_t linear)
{
    uint64_t left = SOFT_PAGE - (linear & (SOFT_PAGE - 1));

    if (!c->mode.long_mode && !(c->flat_segments && seg <= X86_DS)) {
        const X86Segment *s = &c->seg[seg];
        uint64_t offset = gpr_read(c, reg, i->addr_size);

        if ((s->type & 0xc) == 4) { /* expand-down */
            return 0;
        }
        left = offset > s->limit ? 0 : MIN(left, s->limit - offset + 1);
        left = MIN(left, (UINT64_C(1) << 32) - linear);
    }
    if (i->addr_size != 3) {
        uint64_t wrap = SIZE_MASK(i->addr_size) - gpr_read(c, reg, i->addr_size) + 1;
        left = left < wrap ? left : wrap;
    }
    return left;
}
#define RUN_WORTH 4 /* elements */

/* Writes `bytes`, whole elements, where no RAM is; 0: they have to be written one by one. */
static uint64_t io_run(SoftCpu *c, uint64_t to, void *data, uint64_t bytes, unsigned len)
{
    uint64_t paddr;

    return soft_is_io(c, to, (unsigned)bytes, &paddr) &&
                   soft_mmio_string(c, paddr, data, len, (uint32_t)(bytes / len))
               ? bytes / len
               : 0;
}
/* These return how many elements were done, 0 when the slow way has to be taken. */
static uint64_t movs_run(SoftCpu *c, const SoftInsn *i, uint64_t count, unsigned len)
{
    if (count < RUN_WORTH || (c->flags & FLAG_DF)) {
        return 0;
    }
    uint64_t from = source_linear(c, i, len), to = destination_linear(c, i, len, true);
    uint64_t bytes = run_length(c, i, i->seg, X86_RSI, from);
    uint64_t bytes_to = run_length(c, i, X86_ES, X86_RDI, to);
    bytes = bytes < bytes_to ? bytes : bytes_to;
    uint64_t n = bytes / len;
    n = n < count ? n : count;
    if (n < RUN_WORTH) {
        return 0;
    }
    bytes = n * len;
    const uint8_t *s = soft_host(c, from, (unsigned)bytes, SOFT_READ);
    uint8_t *d = s ? soft_host(c, to, (unsigned)bytes, SOFT_WRITE) : NULL;
    if (s && !d) {
        uint8_t buffer[SOFT_PAGE];

        memcpy(buffer, s, bytes);
        n = io_run(c, to, buffer, bytes, len);
        bytes = n * len;
    } else if (!d) {
        return 0;
    } else if ((uintptr_t)d - (uintptr_t)s >= bytes) {
        memmove(d, s, bytes);
    } else { /* the copy reads what it wrote: a pattern is repeated */
        for (uint64_t k = 0; k < bytes; k += len) {
            soft_host_store(d + k, soft_host_load(s + k, len), len);
        }
    }
    advance(c, i, X86_RSI, (int64_t)bytes);
    advance(c, i, X86_RDI, (int64_t)bytes);
    return n;
}
/* Eight bytes at once: whole elements, for `d` is at the first one's beginning. */
static void fill(uint8_t *d, uint64_t v, uint64_t bytes, unsigned len)
{
    uint64_t k = 0;

    if (len == 1 || v == 0) {
        memset(d, (uint8_t)v, bytes);
        return;
    }
    v = len == 2 ? (v & 0xffff) * UINT64_C(0x1000100010001) : len == 4 ? (uint32_t)v | v << 32 : v;
    for (; k + 8 <= bytes; k += 8) {
        memcpy(d + k, &v, 8);
    }
    memcpy(d + k, &v, bytes - k);
}
static uint64_t stos_run(SoftCpu *c, const SoftInsn *i, uint64_t count, unsigned len)
{
    if (count < RUN_WORTH || (c->flags & FLAG_DF)) {
        return 0;
    }
    uint64_t to = destination_linear(c, i, len, true);
    uint64_t n = run_length(c, i, X86_ES, X86_RDI, to) / len, v = c->gpr[X86_RAX];
    n = n < count ? n : count;
    if (n < RUN_WORTH) {
        return 0;
    }
    uint8_t *d = soft_host(c, to, (unsigned)(n * len), SOFT_WRITE);
    if (d) {
        fill(d, v, n * len, len);
    } else {
        uint8_t buffer[SOFT_PAGE];

        fill(buffer, v, n * len, len);
        n = io_run(c, to, buffer, n * len, len);
    }
    advance(c, i, X86_RDI, (int64_t)(n * len));
    return n;
}
/* What a port gives or takes: through a buffer, as memory may change while a device is asked. */
static uint64_t port_elements(SoftCpu *c, const SoftInsn *i, uint64_t count, unsigned len,
                              unsigned seg, unsigned reg, uint64_t linear)
{
    uint64_t n = run_length(c, i, seg, reg, linear) / len;

    n = n < count ? n : count;
    return n < RUN_WORTH || (c->flags & FLAG_DF) ? 0 : n;
}
static uint64_t ins_run(SoftCpu *c, const SoftInsn *i, uint64_t count, unsigned len)
{
    uint8_t buffer[SOFT_PAGE], *to;
    uint64_t linear = destination_linear(c, i, len, true);
    uint64_t n = port_elements(c, i, count, len, X86_ES, X86_RDI, linear);
    uint16_t port = (uint16_t)c->gpr[X86_RDX];

    if (n == 0) {
        return 0;
    }
    if (!soft_host(c, linear, (unsigned)(n * len), SOFT_WRITE)) {
        return 0;
    }
    soft_check_port(c, port, len);
    if (!soft_port_string(c, port, buffer, len, (uint32_t)n, false)) {
        return 0;
    }
    to = soft_host(c, linear, (unsigned)(n * len), SOFT_WRITE);
    if (to) {
        memcpy(to, buffer, n * len);
    } else {
        for (uint64_t k = 0; k < n; k++) {
            soft_store(c, linear + k * len, soft_host_load(buffer + k * len, len), len);
        }
    }
    advance(c, i, X86_RDI, (int64_t)(n * len));
    return n;
}
static uint64_t outs_run(SoftCpu *c, const SoftInsn *i, uint64_t count, unsigned len)
{
    uint8_t buffer[SOFT_PAGE];
    const uint8_t *from;
    uint64_t linear = source_linear(c, i, len);
    uint64_t n = port_elements(c, i, count, len, i->seg, X86_RSI, linear);
    uint16_t port = (uint16_t)c->gpr[X86_RDX];

    if (n == 0) {
        return 0;
    }
    from = soft_host(c, linear, (unsigned)(n * len), SOFT_READ);
    if (!from) {
        return 0;
    }
    memcpy(buffer, from, n * len);
    soft_check_port(c, port, len);
    if (!soft_port_string(c, port, buffer, len, (uint32_t)n, true)) {
        return 0;
    }
    advance(c, i, X86_RSI, (int64_t)(n * len));
    return n;
}
static inline uint64_t no_run(SoftCpu *c, const SoftInsn *i, uint64_t count, unsigned len)
{
    return 0;
}

/* ---- repetition ------------------------------------------------------------------------------ */

static inline __attribute__((always_inline)) void
repeat(SoftCpu *c, const SoftInsn *i, void (*element)(SoftCpu *, const SoftInsn *),
       uint64_t (*run)(SoftCpu *, const SoftInsn *, uint64_t, unsigned), unsigned len, Repeat how)
{
    uint64_t count = gpr_read(c, X86_RCX, i->addr_size);

    SOFT_HERE(c, i);
    while (count) {
        /* Each element counts as an instruction; the first one was counted with the block. */
        uint64_t room = (uint64_t)(c->budget > 0 ? c->budget : 0) + !c->rep_counted;
        /* One element at a time when each is to trap. */
        uint64_t n = c->single ? 0 : run(c, i, count < room ? count : room, len);
        if (n == 0) {
            element(c, i);
            n = 1;
        }
        count -= n;
        gpr_write(c, X86_RCX, i->addr_size, count);
        c->budget -= (int64_t)(n - !c->rep_counted);
        c->icount += n - !c->rep_counted;
        c->rep_counted = true;
        if ((how == REP_WHILE_EQUAL && !cc_zero(c)) || (how == REP_WHILE_NOT_EQUAL && cc_zero(c))) {
            break;
        }
        if (count && (UNLIKELY(c->budget <= 0) || c->single || soft_wanted(c))) {
            c->rep_counted = false;
            c->rip = soft_rip(c, i);
            return;
        }
    }
    c->rep_counted = false;
    SOFT_END(c, i);
}

#define HANDLER(NAME, N, RUN)                                 \
    static void NAME##N##_once(SoftCpu *c, const SoftInsn *i) \
    {                                                         \
        SOFT_HERE(c, i);                                      \
        NAME##N(c, i);                                        \
        SOFT_NEXT(c, i);                                      \
    }                                                         \
    static void NAME##N##_rep(SoftCpu *c, const SoftInsn *i)  \
    {                                                         \
        repeat(c, i, NAME##N, RUN, N / 8, REP_COUNT);         \
    }
#define HANDLER_COMPARE(NAME, N)                                   \
    static void NAME##N##_once(SoftCpu *c, const SoftInsn *i)      \
    {                                                              \
        SOFT_HERE(c, i);                                           \
        NAME##N(c, i);                                             \
        SOFT_NEXT(c, i);                                           \
    }                                                              \
    static void NAME##N##_repe(SoftCpu *c, const SoftInsn *i)      \
    {                                                              \
        repeat(c, i, NAME##N, no_run, N / 8, REP_WHILE_EQUAL);     \
    }                                                              \
    static void NAME##N##_repne(SoftCpu *c, const SoftInsn *i)     \
    {                                                              \
        repeat(c, i, NAME##N, no_run, N / 8, REP_WHILE_NOT_EQUAL); \
    }
#define HANDLERS(N, S)         \
    HANDLER(movs, N, movs_run) \
    HANDLER(stos, N, stos_run) \
    HANDLER(lods, N, no_run)   \
    HANDLER_COMPARE(scas, N)   \
    HANDLER_COMPARE(cmps, N)
FOR_SIZES(HANDLERS)
HANDLER(ins, 8, ins_run)
HANDLER(ins, 16, ins_run)
HANDLER(ins, 32, ins_run)
HANDLER(outs, 8, outs_run)
HANDLER(outs, 16, outs_run)
HANDLER(outs, 32, outs_run)

/* ---- decoding ------------------------------------------------------------------------------ */

#define ROW(NAME, FORM)                                                   \
    {                                                                     \
        NAME##8_##FORM, NAME##16_##FORM, NAME##32_##FORM, NAME##64_##FORM \
    }
#define PORT_ROW(NAME, FORM)                             \
    {                                                    \
        NAME##8_##FORM, NAME##16_##FORM, NAME##32_##FORM \
    }
enum { MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS };
/* [instruction][no prefix, REP or REPE, REPNE][size]: REPNE is REP where there is no comparison. */
static const SoftExec string_set[][3][4] = {
    { ROW(movs, once), ROW(movs, rep), ROW(movs, rep) },
    { ROW(stos, once), ROW(stos, rep), ROW(stos, rep) },
    { ROW(lods, once), ROW(lods, rep), ROW(lods, rep) },
    { ROW(scas, once), ROW(scas, repe), ROW(scas, repne) },
    { ROW(cmps, once), ROW(cmps, repe), ROW(cmps, repne) },
    { PORT_ROW(ins, once), PORT_ROW(ins, rep), PORT_ROW(ins, rep) },
    { PORT_ROW(outs, once), PORT_ROW(outs, rep), PORT_ROW(outs, rep) },
};

static bool pick(SoftDecode *d, SoftInsn *out, unsigned what, unsigned size)
{
    const ZydisInstructionAttributes rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE;
    unsigned how = (d->insn->attributes & ZYDIS_ATTRIB_HAS_REPNE) ? 2
                   : (d->insn->attributes & rep)                  ? 1
                                                                  : 0;
    out->op_size = (uint8_t)size;
    out->addr_size = (uint8_t)exec_size(d->insn->address_width);
    out->seg = X86_DS;
    for (unsigned n = 0; n < d->insn->operand_count; n++) {
        const ZydisDecodedOperand *op = &d->ops[n];
        /* The destination is always in ES; DS can be overridden. */
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (op->mem.base == ZYDIS_REGISTER_RSI || op->mem.base == ZYDIS_REGISTER_ESI ||
             op->mem.base == ZYDIS_REGISTER_SI)) {
            out->seg = (uint8_t)(op->mem.segment - ZYDIS_REGISTER_ES);
        }
    }
    out->fn = string_set[what][how][size];
    /* Port accesses may stop the machine: nothing of the block should follow. */
    d->ends = how != 0 || what >= INS;
    return out->fn;
}

bool soft_decode_string(SoftDecode *d, SoftInsn *out)
{
    if (d->insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
        return false;
    }
    switch (d->insn->mnemonic) {
#define NAME(M, SUFFIX, SIZE)        \
    case ZYDIS_MNEMONIC_##M##SUFFIX: \
        return pick(d, out, M, SIZE);
#define NAMES(M) NAME(M, B, 0) NAME(M, W, 1) NAME(M, D, 2) NAME(M, Q, 3)
    case ZYDIS_MNEMONIC_MOVSD: /* also the name of an SSE2 move */
    case ZYDIS_MNEMONIC_CMPSD:
        if (d->insn->meta.category != ZYDIS_CATEGORY_STRINGOP) {
            return false;
        }
        return pick(d, out, d->insn->mnemonic == ZYDIS_MNEMONIC_MOVSD ? MOVS : CMPS, 2);
        NAME(MOVS, B, 0)
        NAME(MOVS, W, 1)
        NAME(MOVS, Q, 3)
        NAME(CMPS, B, 0)
        NAME(CMPS, W, 1)
        NAME(CMPS, Q, 3)
        NAMES(STOS)
        NAMES(LODS)
        NAMES(SCAS)
        NAME(INS, B, 0)
        NAME(INS, W, 1)
        NAME(INS, D, 2)
        NAME(OUTS, B, 0)
        NAME(OUTS, W, 1)
        NAME(OUTS, D, 2)
    default:
        return false;
    }
}
