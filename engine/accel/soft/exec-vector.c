/*
 * MMX, SSE to SSE4.2, AES, PCLMULQDQ, SHA, F16C, AVX, AVX2, FMA: decoding to thunks, and running
 * them. SDM volume 1 chapters 9 to 14, volume 2A section 2.4 (exception types).
 *
 * Whitelisted by instruction set and form: registers in the places that thunks know, one memory
 * operand of a known size. What the host's CPU lacks is #UD. Plain 16-byte moves need no thunk.
 * Instructions that touch memory by elements are in exec-vector-mem.c.
 */
#include "engine/accel/soft/soft-vector.h"

enum { KIND_SSE, KIND_AVX, KIND_MMX, KIND_MMX_SSE };

void vec_enter_mmx(SoftCpu *c)
{
    uint16_t fsw = fx_get16(c, FX_FSW);

    if (fsw >> FSW_TOP_SHIFT & 7) {
        x87_turn(c, 0);
        fx_set16(c, FX_FSW, (uint16_t)(fsw & ~(7u << FSW_TOP_SHIFT)));
    }
    c->fpu[FX_FTW] = 0xff;
}

/* ---- running a thunk --------------------------------------------------------------------- */

static inline void set_flags(SoftCpu *c, uint64_t rflags)
{
    c->cc_op = CC_FLAGS;
    c->cc_dst = rflags & FLAGS_ARITH;
}

/* Where a slot's operand is. */
VEC_INLINE void *slot_place(SoftCpu *c, const VecOp *op, unsigned slot, unsigned n, const bool any)
{
    if (any && (op->spec.load[slot] == SLOT_GPR || op->spec.store[slot] == SLOT_GPR)) {
        return &c->gpr[n & 15];
    }
    return c->fpu + n * 16;
}

/* A guest that wants SIMD exceptions. Those of MMX conversions come after the change to MMX state.
 */
static __attribute__((noinline)) void run_unmasked(SoftCpu *c, const SoftInsn *i, const VecOp *op,
                                                   void *mem, bool mmx)
{
    uint64_t rflags;
    void *slot[SLOTS] = { slot_place(c, op, 0, i->dst, true), slot_place(c, op, 1, i->src, true),
                          slot_place(c, op, 2, i->aux & 0xff, true),
                          slot_place(c, op, 3, i->aux >> 8, true) };

    if (mmx) {
        vec_enter_mmx(c);
    }
    if (!soft_thunk_run_unmasked(op, c->fpu, mem, slot, &rflags)) {
        soft_raise(c, c->cr4 & VEC_CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
    }
    if (op->spec.flags_out) {
        set_flags(c, rflags);
    }
}

VEC_INLINE void run(SoftCpu *c, const SoftInsn *i, const VecOp *op, void *mem, const int kind,
                    const bool any)
{
    const bool mmx = kind == KIND_MMX || kind == KIND_MMX_SSE;
    uint64_t rflags;

    if (any && op->spec.mxcsr && VEC_UNLIKELY(~fx_get32(c, FX_MXCSR) & MXCSR_MASKS)) {
        run_unmasked(c, i, op, mem, mmx);
        return;
    }
    if (mmx) {
        vec_enter_mmx(c);
    }
    rflags = op->fn(c->fpu, mem, slot_place(c, op, 0, i->dst, any),
                    slot_place(c, op, 1, i->src, any), slot_place(c, op, 2, i->aux & 0xff, any),
                    slot_place(c, op, 3, i->aux >> 8, any));
    if (any && op->spec.flags_out) {
        set_flags(c, rflags);
    }
}

VEC_INLINE void check(SoftCpu *c, const int kind)
{
    switch (kind) {
    case KIND_SSE:
        vec_check_sse(c);
        break;
    case KIND_AVX:
        vec_check_avx(c);
        break;
    case KIND_MMX:
        vec_check_mmx(c);
        break;
    default:
        vec_check_sse(c);
        x87_check_pending(c);
        break;
    }
}

/* The operand crosses a page or is not plain RAM. */
static __attribute__((noinline)) void run_staged(SoftCpu *c, const SoftInsn *i, const VecOp *op,
                                                 uint64_t linear, const bool mmx)
{
    uint8_t stage[32] __attribute__((aligned(32))) = { 0 };

    if (op->mem_write) {
        soft_probe_write(c, linear, op->mem_len);
    } else {
        soft_load_bytes(c, linear, stage, op->mem_len);
    }
    run(c, i, op, stage, mmx ? KIND_MMX : KIND_SSE, true);
    if (op->mem_write) {
        soft_store_bytes(c, linear, stage, op->mem_len);
    }
}

VEC_INLINE void exec(SoftCpu *c, const SoftInsn *i, const int kind, const bool has_mem,
                     const bool any)
{
    const VecOp *op = (const VecOp *)(uintptr_t)i->imm;

    SOFT_HERE(c, i);
    check(c, kind);
    if (has_mem) {
        uint64_t linear = soft_linear(c, i, op->mem_len, op->mem_write);
        void *mem;

        if (VEC_UNLIKELY(linear & op->align_mask)) {
            soft_raise_error(c, EXC_GP, 0);
        }
        mem = soft_host(c, linear, op->mem_len, op->mem_write ? SOFT_WRITE : SOFT_READ);
        if (VEC_LIKELY(mem)) {
            run(c, i, op, mem, kind, any);
        } else {
            run_staged(c, i, op, linear, kind == KIND_MMX || kind == KIND_MMX_SSE);
        }
    } else {
        run(c, i, op, NULL, kind, any);
    }
    SOFT_NEXT(c, i);
}

#define EXEC_KIND(name, kind)                                 \
    static void name##_reg(SoftCpu *c, const SoftInsn *i)     \
    {                                                         \
        exec(c, i, kind, false, false);                       \
    }                                                         \
    static void name##_mem(SoftCpu *c, const SoftInsn *i)     \
    {                                                         \
        exec(c, i, kind, true, false);                        \
    }                                                         \
    static void name##_reg_any(SoftCpu *c, const SoftInsn *i) \
    {                                                         \
        exec(c, i, kind, false, true);                        \
    }                                                         \
    static void name##_mem_any(SoftCpu *c, const SoftInsn *i) \
    {                                                         \
        exec(c, i, kind, true, true);                         \
    }
EXEC_KIND(sse, KIND_SSE)
EXEC_KIND(avx, KIND_AVX)
EXEC_KIND(mmx, KIND_MMX)
EXEC_KIND(mmx_sse, KIND_MMX_SSE)

static const SoftExec exec_table[4][2][2] = {
    { { sse_reg, sse_reg_any }, { sse_mem, sse_mem_any } },
    { { avx_reg, avx_reg_any }, { avx_mem, avx_mem_any } },
    { { mmx_reg, mmx_reg_any }, { mmx_mem, mmx_mem_any } },
    { { mmx_sse_reg, mmx_sse_reg_any }, { mmx_sse_mem, mmx_sse_mem_any } },
};

/* ---- moves of 16 bytes without a thunk ----------------------------------------------------- */

typedef struct {
    uint64_t v[2];
} __attribute__((packed, may_alias)) Bytes16;

static __attribute__((noinline)) void load16_staged(SoftCpu *c, uint64_t linear, unsigned n)
{
    uint8_t stage[16];

    soft_load_bytes(c, linear, stage, 16);
    memcpy(c->fpu + FX_XMM + n * 16, stage, 16);
}

VEC_INLINE void move_load(SoftCpu *c, const SoftInsn *i, const unsigned align)
{
    uint64_t linear;
    const Bytes16 *p;

    SOFT_HERE(c, i);
    vec_check_sse(c);
    linear = soft_linear(c, i, 16, false);
    if (VEC_UNLIKELY(linear & (align - 1))) {
        soft_raise_error(c, EXC_GP, 0);
    }
    p = soft_host(c, linear, 16, SOFT_READ);
    if (VEC_LIKELY(p)) {
        *(Bytes16 *)(c->fpu + FX_XMM + i->dst * 16) = *p;
    } else {
        load16_staged(c, linear, i->dst);
    }
    SOFT_NEXT(c, i);
}

VEC_INLINE void move_store(SoftCpu *c, const SoftInsn *i, const unsigned align)
{
    uint64_t linear;
    Bytes16 *p;

    SOFT_HERE(c, i);
    vec_check_sse(c);
    linear = soft_linear(c, i, 16, true);
    if (VEC_UNLIKELY(linear & (align - 1))) {
        soft_raise_error(c, EXC_GP, 0);
    }
    p = soft_host(c, linear, 16, SOFT_WRITE);
    if (VEC_LIKELY(p)) {
        *p = *(const Bytes16 *)(c->fpu + FX_XMM + i->dst * 16);
    } else {
        soft_store_bytes(c, linear, c->fpu + FX_XMM + i->dst * 16, 16);
    }
    SOFT_NEXT(c, i);
}

static void load_aligned(SoftCpu *c, const SoftInsn *i)
{
    move_load(c, i, 16);
}
static void load_unaligned(SoftCpu *c, const SoftInsn *i)
{
    move_load(c, i, 1);
}
static void store_aligned(SoftCpu *c, const SoftInsn *i)
{
    move_store(c, i, 16);
}
static void store_unaligned(SoftCpu *c, const SoftInsn *i)
{
    move_store(c, i, 1);
}
static void move_reg(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    vec_check_sse(c);
    *(Bytes16 *)(c->fpu + FX_XMM + i->dst * 16) = *(const Bytes16 *)(c->fpu + FX_XMM + i->src * 16);
    SOFT_NEXT(c, i);
}

/* ---- decoding ---------------------------------------------------------------------------- */

static unsigned needs(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.isa_ext) {
    case ZYDIS_ISA_EXT_MMX:
        return HOST_MMX;
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
        return HOST_SSE2;
    case ZYDIS_ISA_EXT_SSE3:
        return HOST_SSE3;
    case ZYDIS_ISA_EXT_SSSE3:
        return HOST_SSSE3;
    case ZYDIS_ISA_EXT_SSE4:
        return insn->meta.isa_set == ZYDIS_ISA_SET_SSE42 ? HOST_SSE42 : HOST_SSE41;
    case ZYDIS_ISA_EXT_AES:
        return HOST_AES;
    case ZYDIS_ISA_EXT_PCLMULQDQ:
        return HOST_PCLMUL;
    case ZYDIS_ISA_EXT_SHA:
        return HOST_SHA;
    case ZYDIS_ISA_EXT_AVX:
        return HOST_AVX | (insn->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ ? HOST_PCLMUL : 0);
    case ZYDIS_ISA_EXT_AVXAES:
        return HOST_AVX | HOST_AES;
    case ZYDIS_ISA_EXT_F16C:
        return HOST_AVX | HOST_F16C;
    case ZYDIS_ISA_EXT_FMA:
        return HOST_AVX | HOST_FMA;
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
        return HOST_AVX2;
    default:
        return 0;
    }
}

/* Alignment that #GP watches over: legacy encodings want it for whole vectors unless they say so,
 * VEX encodings only where they say so. */
static unsigned alignment(const ZydisDecodedInstruction *insn, unsigned len)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 1;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return len;
    default:
        return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && len == 16 ? 16 : 1;
    }
}

static bool touches_mxcsr(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        return true;
    default:
        break;
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
    case ZYDIS_MNEMONIC_VCVTPH2PS:
    case ZYDIS_MNEMONIC_VCVTPS2PH:
        return true;
    default:
        return false;
    }
}

static unsigned register_kind(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
        return SLOT_VECTOR;
    case ZYDIS_REGCLASS_MMX:
        return SLOT_MMX;
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return SLOT_GPR;
    default:
        return SLOT_NONE;
    }
}

typedef struct Build {
    VecOp op;
    uint8_t kind[SLOTS], number[SLOTS];
    bool has[SLOTS];
    bool mem, mmx, xmm;
} Build;

/* An operand that is not in the encoding. */
static bool add_hidden(Build *b, const ZydisDecodedOperand *o)
{
    bool read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

    switch (o->reg.value) {
    case ZYDIS_REGISTER_XMM0:
        b->op.spec.xmm0_load |= read;
        b->op.spec.xmm0_store |= write;
        b->xmm = true;
        return true;
    case ZYDIS_REGISTER_EAX:
    case ZYDIS_REGISTER_RAX:
    case ZYDIS_REGISTER_EDX:
    case ZYDIS_REGISTER_RDX:
        b->op.spec.lengths = true;
        return !write;
    case ZYDIS_REGISTER_ECX:
    case ZYDIS_REGISTER_RCX:
        b->op.spec.index = true;
        return !read;
    case ZYDIS_REGISTER_FLAGS:
    case ZYDIS_REGISTER_EFLAGS:
    case ZYDIS_REGISTER_RFLAGS:
        b->op.spec.flags_out = true;
        return true;
    case ZYDIS_REGISTER_MXCSR:
        b->op.spec.mxcsr = true;
        return true;
    default:
        return false;
    }
}

static bool add_register(Build *b, const ZydisDecodedOperand *o, bool vex)
{
    bool read = o->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    bool write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    unsigned kind = register_kind(o->reg.value), slot;

    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        slot = SLOT_REG;
        break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        slot = SLOT_RM;
        break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        slot = SLOT_VVVV;
        break;
    case ZYDIS_OPERAND_ENCODING_IS4:
        slot = SLOT_IS4;
        break;
    default:
        return add_hidden(b, o);
    }
    if (kind == SLOT_NONE || b->has[slot] || (kind == SLOT_GPR && slot > SLOT_RM)) {
        return false;
    }
    b->has[slot] = true;
    b->kind[slot] = (uint8_t)kind;
    b->number[slot] = (uint8_t)ZydisRegisterGetId(o->reg.value);
    b->op.gpr |= kind == SLOT_GPR;
    b->mmx |= kind == SLOT_MMX;
    b->xmm |= kind == SLOT_VECTOR;
    /* Legacy encodings keep what they do not write. */
    if (read || (write && !vex && kind == SLOT_VECTOR)) {
        b->op.spec.load[slot] = (uint8_t)kind;
    }
    if (write) {
        b->op.spec.store[slot] = (uint8_t)kind;
    }
    return true;
}

/* REX.W and VEX.W where they choose between 32 and 64 bits outside of vectors; 32-bit code has no
 * such choice. */
static bool is_wide_scalar(const ZydisDecodedInstruction *insn)
{
    if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F) {
        return insn->opcode == 0x6e || insn->opcode == 0x7e || insn->opcode == 0x2a ||
               insn->opcode == 0x2c || insn->opcode == 0x2d;
    }
    return insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A &&
           (insn->opcode == 0x16 || insn->opcode == 0x22 || insn->opcode == 0x60 ||
            insn->opcode == 0x61);
}

static bool build_code(Build *b, const SoftDecode *d)
{
    const ZydisDecodedInstruction *insn = d->insn;
    ThunkSpec *s = &b->op.spec;
    unsigned n = 0, reg, rm, map;
    bool wide, vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;

    map = insn->opcode_map == ZYDIS_OPCODE_MAP_0F     ? 1
          : insn->opcode_map == ZYDIS_OPCODE_MAP_0F38 ? 2
          : insn->opcode_map == ZYDIS_OPCODE_MAP_0F3A ? 3
                                                      : 0;
    if (!map || !(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM)) {
        return false;
    }
    wide = (vex ? insn->raw.vex.W : insn->raw.rex.W) &&
           (d->mode->long_mode ? vex || is_wide_scalar(insn) : vex && !is_wide_scalar(insn));
    reg = !b->has[SLOT_REG]               ? insn->raw.modrm.reg
          : b->kind[SLOT_REG] == SLOT_GPR ? 0
                                          : SLOT_HOST_REG(SLOT_REG);
    rm = b->mem ? 6 /* [rsi] */ : b->kind[SLOT_RM] == SLOT_GPR ? 0 : SLOT_HOST_REG(SLOT_RM);
    if (!b->mem && !b->has[SLOT_RM]) {
        return false;
    }
    if (vex) {
        s->code[n++] = 0xc4;
        s->code[n++] = (uint8_t)(0xe0 | map);
        s->code[n++] = (uint8_t)((wide ? 0x80 : 0) |
                                 (~(b->has[SLOT_VVVV] ? SLOT_HOST_REG(SLOT_VVVV) : 0u) & 15) << 3 |
                                 (insn->raw.vex.L & 1) << 2 | (insn->raw.vex.pp & 3));
    } else {
        for (unsigned p = 0; p < insn->raw.prefix_count; p++) {
            if (insn->raw.prefixes[p].type == ZYDIS_PREFIX_TYPE_MANDATORY) {
                s->code[n++] = insn->raw.prefixes[p].value;
                break;
            }
        }
        if (wide) {
            s->code[n++] = 0x48;
        }
        s->code[n++] = 0x0f;
        if (map > 1) {
            s->code[n++] = map == 2 ? 0x38 : 0x3a;
        }
    }
    s->code[n++] = insn->opcode;
    s->code[n++] = (uint8_t)((b->mem ? 0 : 0xc0) | reg << 3 | rm);
    if (b->has[SLOT_IS4]) {
        s->code[n++] = (uint8_t)(SLOT_HOST_REG(SLOT_IS4) << 4 | (insn->raw.imm[0].value.u & 15));
    } else if (insn->raw.imm[0].size == 8) {
        s->code[n++] = (uint8_t)insn->raw.imm[0].value.u;
    } else if (insn->raw.imm[0].size) {
        return false;
    }
    s->len = (uint8_t)n;
    return true;
}

static bool decode_move(SoftDecode *d, const Build *b, SoftInsn *out, unsigned align)
{
    switch (d->insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
        break;
    default:
        return false;
    }
    if (!b->mem) {
        /* The store form's destination is the other register. */
        bool from_rm = b->op.spec.store[SLOT_REG] != SLOT_NONE;

        out->dst = b->number[from_rm ? SLOT_REG : SLOT_RM];
        out->src = b->number[from_rm ? SLOT_RM : SLOT_REG];
        out->fn = move_reg;
    } else if (b->op.mem_write) {
        out->fn = align > 1 ? store_aligned : store_unaligned;
    } else {
        out->fn = align > 1 ? load_aligned : load_unaligned;
    }
    return true;
}

static bool decode_thunk(SoftDecode *d, SoftInsn *out)
{
    const ZydisDecodedInstruction *insn = d->insn;
    bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, any;
    unsigned align = 1, kind;
    const VecOp *op;
    Build b;

    memset(&b, 0, sizeof(b)); /* padding too: the spec is compared as bytes */
    for (unsigned n = 0; n < insn->operand_count; n++) {
        const ZydisDecodedOperand *o = &d->ops[n];

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (!add_register(&b, o, vex)) {
                return false;
            }
        } else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (b.mem || o->size == 0 || o->size > 256 || o->size % 8 ||
                o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || !d->has_mem) {
                return false;
            }
            b.mem = true;
            b.op.mem_len = (uint8_t)(o->size / 8);
            b.op.mem_write = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
            if (b.op.mem_write && (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ)) {
                return false;
            }
        }
    }
    if (!b.xmm && !b.mmx && !(b.mem && b.op.gpr)) {
        return false;
    }
    if (b.mem) {
        align = alignment(insn, b.op.mem_len);
        b.op.align_mask = (uint8_t)(align - 1);
    }
    b.op.spec.vex = vex;
    b.op.spec.upper = vex && insn->raw.vex.L;
    b.op.spec.mxcsr |= touches_mxcsr(insn);
    if (!build_code(&b, d)) {
        return false;
    }
    out->dst = b.number[SLOT_REG];
    out->src = b.number[SLOT_RM];
    out->aux = (uint16_t)(b.number[SLOT_VVVV] | b.number[SLOT_IS4] << 8);
    if (!vex && decode_move(d, &b, out, align)) {
        return true;
    }
    op = soft_thunk_get(&b.op);
    if (!op) {
        return false;
    }
    out->imm = (uintptr_t)op;
    any = op->gpr || op->spec.mxcsr || op->spec.flags_out;
    kind = vex ? KIND_AVX : b.mmx ? (b.xmm ? KIND_MMX_SSE : KIND_MMX) : KIND_SSE;
    out->fn = exec_table[kind][b.mem][any];
    return true;
}

bool soft_decode_vector(SoftDecode *d, SoftInsn *out)
{
    unsigned need;

    if (d->insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        d->insn->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) {
        return false;
    }
    if (vec_decode_x87(d, out) || vec_decode_fxsave(d, out)) {
        return true;
    }
    need = needs(d->insn);
    if (!need || (need & ~soft_thunk_host_features())) {
        return vec_decode_memory(d, out);
    }
    return vec_decode_memory(d, out) || decode_thunk(d, out);
}
