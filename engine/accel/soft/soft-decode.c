/*
 * Decoding: Zydis takes the bytes apart, this file fills the operands that most handlers use, and
 * the groups of handlers are asked in turn who knows the instruction.
 *
 * What depends on the mode beyond SoftMode (real, virtual-8086, CR4 bits) is looked at when the
 * instruction is executed.
 */
#include <pthread.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "engine/accel/soft/soft-translate.h"

static ZydisDecoder decoders[3];

static void make_decoders(void)
{
    static const ZydisMachineMode modes[3] = { ZYDIS_MACHINE_MODE_LEGACY_16,
                                               ZYDIS_MACHINE_MODE_LEGACY_32,
                                               ZYDIS_MACHINE_MODE_LONG_64 };
    static const ZydisStackWidth widths[3] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                               ZYDIS_STACK_WIDTH_64 };

    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoderInit(&decoders[i], modes[i], widths[i]);
        /* What this CPU does not have decodes as what it was before: NOPs, BSF, BSR. */
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_FALSE);
    }
}

static const ZydisDecoder *decoder_for(const SoftMode *mode)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_decoders);
    return &decoders[mode->long_mode ? 2 : mode->code_size == 2];
}

/* ---- handlers of what is no instruction --------------------------------------------------- */

static void exec_undefined(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_raise(c, EXC_UD);
}

static void exec_too_long(SoftCpu *c, const SoftInsn *i)
{
    SOFT_HERE(c, i);
    soft_raise_error(c, EXC_GP, 0);
}

/* ---- operands ----------------------------------------------------------------------------- */

static uint8_t log2_bytes(unsigned bits)
{
    return bits >= 64 ? 3 : bits >= 32 ? 2 : bits >= 16 ? 1 : 0;
}

/* Number of a general register that may be part of an address. */
static uint8_t address_register(ZydisRegister reg)
{
    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return (uint8_t)ZydisRegisterGetId(reg);
    default:
        return SOFT_GPR_NONE;
    }
}

static bool register_offset(ZydisRegister reg, uint8_t *offset)
{
    int id = ZydisRegisterGetId(reg);

    switch (ZydisRegisterGetClass(reg)) {
    case ZYDIS_REGCLASS_GPR8:
        /* al cl dl bl ah ch dh bh spl bpl sil dil r8b … */
        *offset = id < 4 ? SOFT_REG(id) : id < 8 ? SOFT_REG_HIGH(id - 4) : SOFT_REG(id - 4);
        return true;
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        *offset = SOFT_REG(id);
        return true;
    default:
        return false;
    }
}

static uint8_t segment_number(ZydisRegister reg)
{
    switch (reg) {
    case ZYDIS_REGISTER_ES:
        return X86_ES;
    case ZYDIS_REGISTER_CS:
        return X86_CS;
    case ZYDIS_REGISTER_SS:
        return X86_SS;
    case ZYDIS_REGISTER_FS:
        return X86_FS;
    case ZYDIS_REGISTER_GS:
        return X86_GS;
    default:
        return X86_DS;
    }
}

static void fill_memory(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op,
                        const SoftMode *mode, SoftInsn *out)
{
    bool rip = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;

    out->base = address_register(op->mem.base);
    out->index = address_register(op->mem.index);
    out->scale = op->mem.scale ? (uint8_t)__builtin_ctz(op->mem.scale) : 0;
    out->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
    out->seg = segment_number(op->mem.segment);
    /* SIB with base 5 and mod 0 has no base, whatever REX.B says; Zydis 4.0 names r13d there when
     * the address has 32 bits. */
    if (out->addr_size == 2 && mode->long_mode && op->mem.base == ZYDIS_REGISTER_R13D &&
        insn->raw.modrm.mod == 0) {
        out->base = SOFT_GPR_NONE;
        out->disp = insn->raw.disp.value;
    }
    if (rip) {
        out->flags |= SOFT_I_RIP_RELATIVE;
    } else if (mode->long_mode && out->addr_size == 3 && out->seg < X86_FS) {
        out->flags |= SOFT_I_PLAIN;
    } else if (!mode->long_mode && out->addr_size == 2 && out->seg <= X86_DS &&
               out->seg != X86_CS) {
        out->flags |= SOFT_I_FLAT32;
    }
}

static void fill_operands(SoftDecode *d, SoftInsn *out)
{
    const ZydisDecodedInstruction *insn = d->insn;
    bool has_imm = false, has_segment = false;

    out->base = out->index = SOFT_GPR_NONE;
    out->seg = X86_SS; /* of the stack, when nothing else is named */
    for (unsigned n = 0; n < insn->operand_count; n++) {
        const ZydisDecodedOperand *op = &d->ops[n];
        bool visible = n < insn->operand_count_visible;

        switch (op->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (visible && n == 0) {
                register_offset(op->reg.value, &out->dst);
            } else if (visible && n == 1) {
                register_offset(op->reg.value, &out->src);
            }
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY:
            if (visible && !d->has_mem && op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
                d->has_mem = true;
                d->mem_op = n;
                fill_memory(insn, op, d->mode, out);
                has_segment = true;
            } else if (!has_segment) {
                out->seg = segment_number(op->mem.segment);
                has_segment = true;
            }
            break;
        case ZYDIS_OPERAND_TYPE_IMMEDIATE:
            if (visible && !has_imm) {
                has_imm = true;
                out->imm = op->imm.value.u;
                if (op->imm.is_relative) {
                    out->imm += insn->length;
                    out->flags |= SOFT_I_RELATIVE;
                }
            }
            break;
        default:
            break;
        }
    }
}

/* Instructions after which the rest of a decoded block could be wrong, or which the run loop must
 * see, whatever their group says. */
static bool must_end(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_HLT:
        return true;
    default:
        return false;
    }
}

static bool traps_when_clearing(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return true;
    default:
        return false;
    }
}

static bool ask_groups(SoftDecode *d, SoftInsn *out)
{
    static bool (*const groups[])(SoftDecode *, SoftInsn *) = {
        soft_decode_int,    soft_decode_flow,   soft_decode_string,
        soft_decode_system, soft_decode_vector,
    };
    const SoftInsn filled = *out;

    for (unsigned n = 0; n < G_N_ELEMENTS(groups); n++) {
        if (groups[n](d, out)) {
            soft_classify(d, groups[n] == soft_decode_system, out);
            return true;
        }
        *out = filled;
        d->ends = false;
    }
    return false;
}

unsigned soft_decode(const SoftMode *mode, const uint8_t *bytes, unsigned avail, SoftInsn *out,
                     bool *ends)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    SoftDecode d = { .insn = &insn, .ops = ops, .bytes = bytes, .mode = mode };
    ZyanStatus status = ZydisDecoderDecodeFull(decoder_for(mode), bytes, MIN(avail, 15), &insn,
                                               ops);

    *out = (SoftInsn){ .base = SOFT_GPR_NONE, .index = SOFT_GPR_NONE, .fn = exec_undefined };
    *ends = true;
    if (status == ZYDIS_STATUS_NO_MORE_DATA && avail < 15) {
        return 0;
    }
    if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
        out->fn = exec_too_long;
        return out->len = (uint8_t)MIN(avail, 15);
    }
    if (!ZYAN_SUCCESS(status)) {
        return out->len = 1;
    }
    out->len = insn.length;
    out->op_size = log2_bytes(insn.operand_width);
    out->addr_size = log2_bytes(insn.address_width);
    out->flags = (insn.attributes & ZYDIS_ATTRIB_HAS_LOCK ? SOFT_I_LOCK : 0) |
                 (insn.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? SOFT_I_REP
                                                                                   : 0) |
                 (insn.attributes & ZYDIS_ATTRIB_HAS_REPNE ? SOFT_I_REPNE : 0) |
                 (traps_when_clearing(insn.mnemonic) ? SOFT_I_TF_TRAP : 0);
    fill_operands(&d, out);
    if (!ask_groups(&d, out)) {
        out->fn = exec_undefined;
        return out->len;
    }
    *ends = d.ends || must_end(insn.mnemonic);
    return out->len;
}

bool soft_decode_known(const SoftMode *mode, const uint8_t *bytes, unsigned avail)
{
    SoftInsn insn;
    bool ends;

    return soft_decode(mode, bytes, avail, &insn, &ends) && insn.fn != exec_undefined;
}
