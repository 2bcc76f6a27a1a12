/* Instructions as text and as data. */
#include "engine/cpu/disasm.h"

#include <pthread.h>
#include <string.h>

#include <Zydis/Zydis.h>

static struct {
    ZydisDecoder decoders[3]; /* 16, 32, 64 bits */
    ZydisFormatter formatter;
    /* Zydis' strings are in upper case where they are not text of an instruction. */
    char *categories[ZYDIS_CATEGORY_MAX_VALUE + 1];
} shared;

static void make_shared(void)
{
    static const ZydisMachineMode modes[3] = { ZYDIS_MACHINE_MODE_LEGACY_16,
                                               ZYDIS_MACHINE_MODE_LEGACY_32,
                                               ZYDIS_MACHINE_MODE_LONG_64 };
    static const ZydisStackWidth widths[3] = { ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32,
                                               ZYDIS_STACK_WIDTH_64 };

    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoderInit(&shared.decoders[i], modes[i], widths[i]);
    }
    ZydisFormatterInit(&shared.formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&shared.formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    ZydisFormatterSetProperty(&shared.formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&shared.formatter, ZYDIS_FORMATTER_PROP_ADDR_PADDING_RELATIVE,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&shared.formatter, ZYDIS_FORMATTER_PROP_DISP_PADDING,
                              ZYDIS_PADDING_DISABLED);
    ZydisFormatterSetProperty(&shared.formatter, ZYDIS_FORMATTER_PROP_IMM_PADDING,
                              ZYDIS_PADDING_DISABLED);
    for (unsigned i = 0; i <= ZYDIS_CATEGORY_MAX_VALUE; i++) {
        const char *name = ZydisCategoryGetString((ZydisInstructionCategory)i);

        shared.categories[i] = g_ascii_strdown(name ? name : "", -1);
    }
}

static void need_shared(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_shared);
}

static const ZydisDecoder *decoder_for(unsigned bits)
{
    need_shared();
    return &shared.decoders[bits == 64 ? 2 : bits == 32];
}

unsigned disasm_bits(const X86CPUState *s)
{
    if (!(s->cr0 & 1)) {
        return s->seg[X86_CS].db ? 32 : 16;
    }
    return (s->efer & (1 << 10)) && s->seg[X86_CS].l ? 64 : s->seg[X86_CS].db ? 32 : 16;
}

/* ---- operands ----------------------------------------------------------------------------- */

static const char *register_name(ZydisRegister reg)
{
    return reg == ZYDIS_REGISTER_NONE ? NULL : ZydisRegisterGetString(reg);
}

static bool take_operand(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *op,
                         uint64_t rip, DisasmOperand *out)
{
    uint64_t target;

    *out = (DisasmOperand){
        .read = (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0,
        .written = (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0,
        .bits = op->size,
    };
    switch (op->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        out->kind = DISASM_REGISTER;
        out->reg = register_name(op->reg.value);
        return true;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        out->kind = DISASM_MEMORY;
        out->seg = register_name(op->mem.segment);
        out->base = register_name(op->mem.base);
        out->index = register_name(op->mem.index);
        out->scale = op->mem.index ? op->mem.scale : 0;
        out->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
        return true;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        out->kind = DISASM_IMMEDIATE;
        out->value = op->imm.value.s;
        if (op->imm.is_relative && ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(insn, op, rip, &target))) {
            out->value = (int64_t)target;
        }
        return true;
    case ZYDIS_OPERAND_TYPE_POINTER:
        out->kind = DISASM_POINTER;
        out->value = (int64_t)((uint64_t)op->ptr.segment << 32 | op->ptr.offset);
        return true;
    default:
        return false;
    }
}

bool disasm(unsigned bits, uint64_t rip, const uint8_t *bytes, unsigned avail, Disasm *out)
{
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];

    memset(out, 0, sizeof(*out));
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder_for(bits), bytes, MIN(avail, X86_INSN_MAX),
                                             &insn, ops))) {
        g_strlcpy(out->text, "(bad)", sizeof(out->text));
        return false;
    }
    out->len = insn.length;
    out->mnemonic = (uint16_t)insn.mnemonic;
    out->category = (uint16_t)insn.meta.category;
    for (unsigned i = 0; i < insn.operand_count_visible && out->n_operands < DISASM_OPS_MAX; i++) {
        if (take_operand(&insn, &ops[i], rip, &out->operands[out->n_operands])) {
            out->n_operands++;
        }
    }
    if (!ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&shared.formatter, &insn, ops,
                                                      insn.operand_count_visible, out->text,
                                                      sizeof(out->text), rip, NULL))) {
        g_strlcpy(out->text, disasm_mnemonic_name(out->mnemonic), sizeof(out->text));
    }
    return true;
}

bool disasm_brief(unsigned bits, const uint8_t *bytes, unsigned avail, Disasm *out)
{
    ZydisDecodedInstruction insn;

    *out = (Disasm){ .len = 0 };
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(decoder_for(bits), NULL, bytes,
                                                    MIN(avail, X86_INSN_MAX), &insn))) {
        return false;
    }
    out->len = insn.length;
    out->mnemonic = (uint16_t)insn.mnemonic;
    out->category = (uint16_t)insn.meta.category;
    return true;
}

/* ---- names -------------------------------------------------------------------------------- */

const char *disasm_mnemonic_name(unsigned mnemonic)
{
    const char *name = mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE
                           ? ZydisMnemonicGetString((ZydisMnemonic)mnemonic)
                           : NULL;

    return name ? name : "invalid";
}

const char *disasm_category_name(unsigned category)
{
    need_shared();
    return category <= ZYDIS_CATEGORY_MAX_VALUE ? shared.categories[category] : "invalid";
}

unsigned disasm_mnemonics(void)
{
    return ZYDIS_MNEMONIC_MAX_VALUE + 1;
}

unsigned disasm_categories(void)
{
    return ZYDIS_CATEGORY_MAX_VALUE + 1;
}

int disasm_mnemonic(const char *name)
{
    for (unsigned i = 1; i < disasm_mnemonics(); i++) {
        if (g_ascii_strcasecmp(name, disasm_mnemonic_name(i)) == 0) {
            return (int)i;
        }
    }
    return -1;
}

int disasm_category(const char *name)
{
    for (unsigned i = 1; i < disasm_categories(); i++) {
        if (g_ascii_strcasecmp(name, disasm_category_name(i)) == 0) {
            return (int)i;
        }
    }
    return -1;
}
