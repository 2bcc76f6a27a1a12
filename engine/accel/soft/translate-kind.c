/* What the translator knows an instruction as: said when it is decoded. */
#include <Zydis/Zydis.h>

#include "engine/accel/soft/translate.h"

#define M(NAME) ZYDIS_MNEMONIC_##NAME

static SoftKind arithmetic(ZydisMnemonic m, unsigned operands)
{
    switch (m) {
    case M(ADD):
        return KIND_ADD;
    case M(OR):
        return KIND_OR;
    case M(ADC):
        return KIND_ADC;
    case M(SBB):
        return KIND_SBB;
    case M(AND):
        return KIND_AND;
    case M(SUB):
        return KIND_SUB;
    case M(XOR):
        return KIND_XOR;
    case M(CMP):
        return KIND_CMP;
    case M(TEST):
        return KIND_TEST;
    case M(NOT):
        return KIND_NOT;
    case M(NEG):
        return KIND_NEG;
    case M(INC):
        return KIND_INC;
    case M(DEC):
        return KIND_DEC;
    case M(ROL):
        return KIND_ROL;
    case M(ROR):
        return KIND_ROR;
    case M(RCL):
        return KIND_RCL;
    case M(RCR):
        return KIND_RCR;
    case M(SHL):
        return KIND_SHL;
    case M(SHR):
        return KIND_SHR;
    case M(SAR):
        return KIND_SAR;
    case M(MUL):
        return KIND_MUL;
    case M(IMUL):
        return operands == 1 ? KIND_IMUL1 : operands == 2 ? KIND_IMUL : KIND_IMUL3;
    case M(DIV):
        return KIND_DIV;
    case M(IDIV):
        return KIND_IDIV;
    case M(BT):
        return KIND_BT;
    case M(BTS):
        return KIND_BTS;
    case M(BTR):
        return KIND_BTR;
    case M(BTC):
        return KIND_BTC;
    case M(XADD):
        return KIND_XADD;
    case M(CMPXCHG):
        return KIND_CMPXCHG;
    default:
        return KIND_OTHER;
    }
}

static SoftKind other(const ZydisDecodedInstruction *insn, SoftInsn *out)
{
    switch (insn->mnemonic) {
    case M(NOP):
    case M(ENDBR32):
    case M(ENDBR64):
        return KIND_NOP;
    case M(MOV):
    case M(MOVNTI):
        return KIND_MOV;
    case M(MOVZX):
        return KIND_MOVZX;
    case M(MOVSX):
        return KIND_MOVSX;
    case M(MOVSXD):
        return out->op_size == 3 ? KIND_MOVSX : KIND_MOV;
    case M(LEA):
        return KIND_LEA;
    case M(PUSH):
        return KIND_PUSH;
    case M(POP):
        return KIND_POP;
    case M(LEAVE):
        return KIND_LEAVE;
    case M(XCHG):
        return KIND_XCHG;
    case M(BSWAP):
        return KIND_BSWAP;
    case M(CBW):
    case M(CWDE):
    case M(CDQE):
        out->width = insn->mnemonic == M(CBW) ? 1 : insn->mnemonic == M(CWDE) ? 2 : 3;
        return KIND_WIDEN_A;
    case M(CWD):
    case M(CDQ):
    case M(CQO):
        out->width = insn->mnemonic == M(CWD) ? 1 : insn->mnemonic == M(CDQ) ? 2 : 3;
        return KIND_WIDEN_AD;
    case M(JMP):
        return KIND_JMP;
    case M(CALL):
        return KIND_CALL;
    case M(RET):
        return KIND_RET;
    default:
        return KIND_OTHER;
    }
}

static SoftKind conditional(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        /* Not LOOP and JCXZ. */
        return (insn->opcode & 0xf0) == (insn->opcode_map == ZYDIS_OPCODE_MAP_0F ? 0x80 : 0x70)
                   ? KIND_JCC
                   : KIND_OTHER;
    case ZYDIS_CATEGORY_CMOV:
        return KIND_CMOV;
    case ZYDIS_CATEGORY_SETCC:
        return KIND_SET;
    default:
        return KIND_OTHER;
    }
}

static char operand_kind(const SoftDecode *d, unsigned n)
{
    const ZydisDecodedOperand *op = &d->ops[n];

    if (n >= d->insn->operand_count_visible) {
        return '-';
    }
    switch (op->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        switch (ZydisRegisterGetClass(op->reg.value)) {
        case ZYDIS_REGCLASS_GPR8:
            return op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH ? '?'
                                                                                            : 'r';
        case ZYDIS_REGCLASS_GPR16:
        case ZYDIS_REGCLASS_GPR32:
        case ZYDIS_REGCLASS_GPR64:
            return 'r';
        default:
            return '?';
        }
    case ZYDIS_OPERAND_TYPE_MEMORY:
        return 'm';
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return 'i';
    default:
        return '?';
    }
}

/* False: operands that nothing here expects, AH to BH among them. */
static bool operands(const SoftDecode *d, SoftInsn *out)
{
    char a = operand_kind(d, 0), b = operand_kind(d, 1);

    if (a == '?' || b == '?') {
        return false;
    }
    if (b == '-') {
        out->ops = a == 'r' ? OPS_R : a == 'm' ? OPS_M : a == 'i' ? OPS_I : OPS_NONE;
    } else if (a == 'r') {
        out->ops = b == 'r' ? OPS_RR : b == 'm' ? OPS_RM : OPS_RI;
    } else if (a == 'm') {
        out->ops = b == 'r' ? OPS_MR : OPS_MI;
    } else {
        return false;
    }
    return true;
}

static unsigned log2_size(unsigned bits)
{
    return bits <= 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : 3;
}

void soft_classify(const SoftDecode *d, bool system, SoftInsn *out)
{
    const ZydisDecodedInstruction *insn = d->insn;
    SoftKind kind = KIND_OTHER;

    out->kind = system && d->ends ? KIND_SYSTEM : KIND_OTHER;
    out->ops = OPS_NONE;
    if (system || insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
        insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        return;
    }
    kind = conditional(insn);
    if (kind == KIND_OTHER) {
        kind = arithmetic(insn->mnemonic, insn->operand_count_visible);
    }
    if (kind == KIND_OTHER) {
        kind = other(insn, out);
    }
    if (kind != KIND_NOP && !operands(d, out)) {
        return;
    }
    if (kind == KIND_MOVZX || kind == KIND_MOVSX) {
        out->width = (uint8_t)log2_size(d->ops[1].size);
    }
    /* XCHG names its operands in either order; its handler has the memory first. */
    if (kind == KIND_XCHG && out->ops == OPS_RM) {
        out->ops = OPS_MR;
    }
    /* A string instruction has the same name. */
    if (kind == KIND_MOV && out->ops == OPS_NONE) {
        return;
    }
    out->kind = (uint8_t)kind;
}
