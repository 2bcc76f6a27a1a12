/* See generate.h. */
#include "generate.h"

#include <string.h>

enum { CF = 1, PF = 4, AF = 16, ZF = 64, SF = 128, DF = 1024, OF = 2048 };

uint64_t rng_next(Rng *r)
{
    uint64_t z = (r->s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- what may be run ------------------------------------------------------------------------ */

#define M(NAME) ZYDIS_MNEMONIC_##NAME
static const ZydisMnemonic allowed[] = {
    M(AAA),    M(AAD),    M(AAM),    M(AAS),     M(ADC),       M(ADCX),       M(ADD),    M(ADOX),
    M(AND),    M(ANDN),   M(BEXTR),  M(BLSI),    M(BLSMSK),    M(BLSR),       M(BOUND),  M(BSF),
    M(BSR),    M(BSWAP),  M(BT),     M(BTC),     M(BTR),       M(BTS),        M(BZHI),   M(CALL),
    M(CBW),    M(CDQ),    M(CDQE),   M(CLC),     M(CLD),       M(CMC),        M(CMOVB),  M(CMOVBE),
    M(CMOVL),  M(CMOVLE), M(CMOVNB), M(CMOVNBE), M(CMOVNL),    M(CMOVNLE),    M(CMOVNO), M(CMOVNP),
    M(CMOVNS), M(CMOVNZ), M(CMOVO),  M(CMOVP),   M(CMOVS),     M(CMOVZ),      M(CMP),    M(CMPSB),
    M(CMPSD),  M(CMPSQ),  M(CMPSW),  M(CMPXCHG), M(CMPXCHG8B), M(CMPXCHG16B), M(CQO),    M(CRC32),
    M(CWD),    M(CWDE),   M(DAA),    M(DAS),     M(DEC),       M(DIV),        M(ENTER),  M(IDIV),
    M(IMUL),   M(INC),    M(JB),     M(JBE),     M(JCXZ),      M(JECXZ),      M(JL),     M(JLE),
    M(JMP),    M(JNB),    M(JNBE),   M(JNL),     M(JNLE),      M(JNO),        M(JNP),    M(JNS),
    M(JNZ),    M(JO),     M(JP),     M(JRCXZ),   M(JS),        M(JZ),         M(LAHF),   M(LEA),
    M(LEAVE),  M(LODSB),  M(LODSD),  M(LODSQ),   M(LODSW),     M(LOOP),       M(LOOPE),  M(LOOPNE),
    M(LZCNT),  M(MOV),    M(MOVBE),  M(MOVNTI),  M(MOVSB),     M(MOVSD),      M(MOVSQ),  M(MOVSW),
    M(MOVSX),  M(MOVSXD), M(MOVZX),  M(MUL),     M(MULX),      M(NEG),        M(NOP),    M(NOT),
    M(OR),     M(PDEP),   M(PEXT),   M(POP),     M(POPA),      M(POPAD),      M(POPCNT), M(POPF),
    M(POPFD),  M(POPFQ),  M(PUSH),   M(PUSHA),   M(PUSHAD),    M(PUSHF),      M(PUSHFD), M(PUSHFQ),
    M(RCL),    M(RCR),    M(RET),    M(ROL),     M(ROR),       M(RORX),       M(SAHF),   M(SALC),
    M(SAR),    M(SARX),   M(SBB),    M(SCASB),   M(SCASD),     M(SCASQ),      M(SCASW),  M(SETB),
    M(SETBE),  M(SETL),   M(SETLE),  M(SETNB),   M(SETNBE),    M(SETNL),      M(SETNLE), M(SETNO),
    M(SETNP),  M(SETNS),  M(SETNZ),  M(SETO),    M(SETP),      M(SETS),       M(SETZ),   M(SHL),
    M(SHLD),   M(SHLX),   M(SHR),    M(SHRD),    M(SHRX),      M(STC),        M(STD),    M(STOSB),
    M(STOSD),  M(STOSQ),  M(STOSW),  M(SUB),     M(TEST),      M(TZCNT),      M(UD2),    M(XADD),
    M(XCHG),   M(XLAT),   M(XOR),
};

static bool is_allowed(ZydisMnemonic m)
{
    for (unsigned i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        if (allowed[i] == m) {
            return true;
        }
    }
    return false;
}
static bool is_gpr(ZydisRegister r)
{
    switch (ZydisRegisterGetClass(r)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return true;
    default:
        return false;
    }
}

static const ZydisDecoder *decoder(bool wide)
{
    static ZydisDecoder d[2];
    static bool made;
    if (!made) {
        ZydisDecoderInit(&d[0], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        ZydisDecoderInit(&d[1], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        for (unsigned i = 0; i < 2; i++) {
            ZydisDecoderEnableMode(&d[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
            ZydisDecoderEnableMode(&d[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        }
        made = true;
    }
    return &d[wide];
}

bool decode_allowed(const uint8_t *code, bool wide, Decoded *d)
{
    const ZydisDecodedInstruction *insn = &d->insn;

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder(wide), code, 15, &d->insn, d->ops)) ||
        !is_allowed(insn->mnemonic) || insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
        (insn->attributes & (ZYDIS_ATTRIB_IS_PRIVILEGED | ZYDIS_ATTRIB_HAS_SEGMENT_FS)) ||
        (!wide && (insn->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS))) {
        return false;
    }
    for (unsigned n = 0; n < insn->operand_count_visible; n++) {
        if (d->ops[n].type == ZYDIS_OPERAND_TYPE_REGISTER && !is_gpr(d->ops[n].reg.value)) {
            return false; /* segment, control and vector registers */
        }
    }
    for (unsigned n = 0; n < insn->operand_count; n++) {
        /* Zydis 4.0 names a base where mod 0 says that there is none. */
        ZydisDecodedOperandMem *mem = &d->ops[n].mem;
        if (d->ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY && mem->base == ZYDIS_REGISTER_R13D &&
            insn->raw.modrm.mod == 0) {
            mem->base = ZYDIS_REGISTER_NONE;
            mem->disp.has_displacement = ZYAN_TRUE;
            mem->disp.value = insn->raw.disp.value;
        }
    }
    /* A prefetch of a register is a NOP for one maker and undefined for the other. */
    if (insn->mnemonic == M(NOP) && insn->opcode == 0x0d) {
        return false;
    }
    /* Of a 16-bit MOVSXD some read 16 bits, some 32. */
    if (insn->mnemonic == M(MOVSXD) && d->ops[0].size == 16) {
        return false;
    }
    /* A repeat prefix makes another instruction of LOOPE and LOOPNE on some processors. */
    if ((insn->mnemonic == M(LOOPE) || insn->mnemonic == M(LOOPNE)) &&
        (memchr(code, 0xf2, insn->length - 2u) || memchr(code, 0xf3, insn->length - 2u))) {
        return false;
    }
    /* Processors differ in what a branch with an operand-size prefix does in 64-bit code. */
    return !(wide && insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
             (insn->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)) &&
           !(wide && insn->mnemonic == M(RET) && insn->operand_width != 64);
}

void generate_code(Rng *r, bool wide, Case *t, Decoded *d)
{
    static const uint8_t two_byte[] = { 0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xaf, 0xb0, 0xb1,
                                        0xb3, 0xb6, 0xb7, 0xb8, 0xba, 0xbb, 0xbc, 0xbd, 0xbe,
                                        0xbf, 0xc0, 0xc1, 0xc3, 0xc7, 0x1f, 0x0b };
    static const uint8_t vex[] = { 0xf0, 0xf2, 0xf3, 0xf5, 0xf6, 0xf7 };
    static const uint8_t prefixes[] = { 0x66, 0x66, 0x66, 0x67, 0xf3, 0xf3, 0xf2,
                                        0xf0, 0x65, 0x2e, 0x3e, 0x36, 0x26 };

    t->wide = wide;
    for (;;) {
        uint8_t *p = t->code;
        unsigned kind = (unsigned)rng_below(r, 100);

        for (unsigned n = (unsigned)rng_below(r, 3); n; n--) {
            *p++ = prefixes[rng_below(r, sizeof(prefixes))];
        }
        if (kind >= 90) {
            *p++ = 0xc4;
            *p++ = (uint8_t)((rng_next(r) & 0xe0) | (2 + rng_below(r, 2)));
            *p++ = (uint8_t)(rng_next(r) & ~4u);
            *p++ = vex[rng_below(r, sizeof(vex))];
        } else {
            if (wide && rng_chance(r, 50)) {
                *p++ = (uint8_t)(0x40 | rng_below(r, 16));
            }
            if (kind >= 60) {
                *p++ = 0x0f;
                if (kind >= 83) {
                    *p++ = 0x38;
                    *p++ = (uint8_t)(0xf0 | rng_below(r, 2) | (rng_chance(r, 40) ? 6 : 0));
                } else if (rng_chance(r, 30)) {
                    *p++ = (uint8_t)((rng_chance(r, 50) ? 0x40 : 0x90) | rng_below(r, 16));
                } else if (rng_chance(r, 15)) {
                    *p++ = (uint8_t)((rng_chance(r, 50) ? 0x80 : 0xc8) | rng_below(r, 8));
                } else {
                    *p++ = two_byte[rng_below(r, sizeof(two_byte))];
                }
            } else {
                *p++ = (uint8_t)rng_next(r);
            }
        }
        while (p < t->code + sizeof(t->code)) {
            *p++ = (uint8_t)rng_next(r);
        }
        if (decode_allowed(t->code, wide, d)) {
            t->len = d->insn.length;
            return;
        }
    }
}

/* ---- states --------------------------------------------------------------------------------- */

static uint64_t near_data(Rng *r)
{
    switch (rng_below(r, 10)) {
    case 0:
        return DATA_ADDR - 8 + rng_below(r, 16);
    case 1:
        return DATA_ADDR + 4096 - 16 + rng_below(r, 32);
    case 2:
        return DATA_ADDR + DATA_SIZE - 20 + rng_below(r, 24);
    default:
        return DATA_ADDR + 64 + rng_below(r, DATA_SIZE - 256);
    }
}
uint64_t generate_value(Rng *r)
{
    static const uint64_t edges[] = { 0,
                                      1,
                                      2,
                                      0x7f,
                                      0x80,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      INT64_MAX,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX,
                                      UINT64_MAX - 1,
                                      UINT64_C(0x8000000000000) };
    switch (rng_below(r, 8)) {
    case 0:
        return edges[rng_below(r, sizeof(edges) / sizeof(edges[0]))];
    case 1:
        return rng_below(r, 256);
    case 2:
        return near_data(r);
    case 3:
        return (uint64_t)(int64_t)(int32_t)rng_next(r);
    case 4:
        return rng_next(r) >> rng_below(r, 64);
    default:
        return rng_next(r);
    }
}
static uint64_t code_target(Rng *r)
{
    return CODE_ADDR + 0x100 + rng_below(r, 0x600);
}

/* Copies a value into the data page where it is inside. */
static void poke(Case *t, uint64_t addr, uint64_t v, unsigned len)
{
    if (addr >= DATA_ADDR && addr + len <= DATA_ADDR + DATA_SIZE) {
        memcpy(t->data + (addr - DATA_ADDR), &v, len);
    }
}
static uint64_t peek(const Case *t, uint64_t addr, unsigned len)
{
    uint64_t v = 0;
    if (addr >= DATA_ADDR && addr + len <= DATA_ADDR + DATA_SIZE) {
        memcpy(&v, t->data + (addr - DATA_ADDR), len);
    }
    return v;
}

static void put_bytes(Case *t, unsigned offset, unsigned bits, int64_t v)
{
    memcpy(t->code + offset, &v, bits / 8);
}

static int reg_number(ZydisRegister reg)
{
    return reg == ZYDIS_REGISTER_NONE || reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP
               ? -1
               : ZydisRegisterGetId(reg);
}

/* Makes the memory operand's address come out at `to`; the address where it does. */
static uint64_t aim(Case *t, const Decoded *d, const ZydisDecodedOperand *op, uint64_t to)
{
    int base = reg_number(op->mem.base), index = reg_number(op->mem.index);
    int64_t disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
    uint64_t offset = to;

    if (t->wide && op->mem.segment == ZYDIS_REGISTER_GS) {
        offset -= GS_BASE;
    }
    if (d->insn.address_width == 16) {
        return 0;
    }
    if (base >= 0 && base != index) {
        uint64_t rest = index >= 0 ? t->in.gpr[index] * op->mem.scale : 0;
        uint64_t v = offset - rest - (uint64_t)disp;
        t->in.gpr[base] = d->insn.address_width == 32 ? (uint32_t)v : v;
    } else if (base < 0 && index < 0 && d->insn.raw.disp.size == 32) {
        int64_t v = (int64_t)offset;
        if (op->mem.base != ZYDIS_REGISTER_NONE) {
            v -= (int64_t)(CODE_ENTRY + d->insn.length);
        }
        put_bytes(t, d->insn.raw.disp.offset, 32, v);
    } else if (base < 0 && index < 0 && d->insn.raw.disp.size == 64) {
        put_bytes(t, d->insn.raw.disp.offset, 64, (int64_t)offset);
    } else {
        return 0;
    }
    return to;
}

static void aim_branch(Rng *r, Case *t, const Decoded *d)
{
    for (unsigned n = 0; n < 2; n++) {
        if (d->insn.raw.imm[n].size && d->insn.raw.imm[n].is_relative) {
            unsigned bits = d->insn.raw.imm[n].size;
            int64_t v = 48 + (int64_t)rng_below(r, bits == 8 ? 80 : 0x700);
            put_bytes(t, d->insn.raw.imm[n].offset, bits, rng_chance(r, 50) ? v : -v);
        }
    }
}

static unsigned category(const Decoded *d)
{
    return d->insn.meta.category;
}

/* What single instructions need to do more than fault. */
static void adjust(Rng *r, Case *t, const Decoded *d, uint64_t mem)
{
    uint64_t *g = t->in.gpr;
    unsigned len = d->ops[0].size / 8;

    if (category(d) == ZYDIS_CATEGORY_STRINGOP) {
        g[6] = near_data(r);
        g[7] = near_data(r);
        if (rng_chance(r, 95)) {
            g[1] = rng_below(r, rng_chance(r, 80) ? 40 : 6000);
            if (d->insn.address_width == 32 && t->wide) {
                uint64_t junk = rng_chance(r, 50) ? rng_next(r) << 32 : 0;
                g[1] |= junk;
                g[6] |= junk;
                g[7] |= junk;
            }
        }
        if (rng_chance(r, 30)) { /* runs of equal bytes to compare */
            memset(t->data, (int)g[0], DATA_SIZE);
        }
        t->in.flags = (t->in.flags & ~(unsigned)DF) | (rng_chance(r, 30) ? DF : 0);
    }
    switch (d->insn.mnemonic) {
    case M(BT):
    case M(BTS):
    case M(BTR):
    case M(BTC):
        if (d->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && mem && rng_chance(r, 85)) {
            unsigned id = (unsigned)ZydisRegisterGetId(d->ops[1].reg.value);
            int64_t v = (int64_t)rng_below(r, 4096) - 2048;
            if (d->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
                (int)id != reg_number(d->ops[0].mem.base) &&
                (int)id != reg_number(d->ops[0].mem.index)) {
                g[id] = t->wide ? (uint64_t)v : (uint32_t)v;
            }
        }
        break;
    case M(CMPXCHG):
        if (mem && rng_chance(r, 60) && reg_number(d->ops[0].mem.base) != 0) {
            g[0] = peek(t, mem, len) | (len < 4 ? g[0] & ~((1ull << (8 * len)) - 1) : 0);
        }
        break;
    case M(CMPXCHG8B):
    case M(CMPXCHG16B):
        if (mem && rng_chance(r, 60) && reg_number(d->ops[0].mem.base) != 0 &&
            reg_number(d->ops[0].mem.base) != 2) {
            g[0] = peek(t, mem, len / 2);
            g[2] = peek(t, mem + len / 2, len / 2);
        }
        break;
    case M(DIV):
    case M(IDIV):
        if (rng_chance(r, 70)) {
            g[2] = d->insn.mnemonic == M(DIV)               ? rng_below(r, 16)
                   : (int64_t)g[0] < 0 && rng_chance(r, 90) ? UINT64_MAX
                                                            : 0;
        }
        break;
    case M(POPF):
    case M(POPFD):
    case M(POPFQ):
        /* No trap, alignment or nested-task flag, and no ID flag, which would stay. */
        poke(t, g[4], peek(t, g[4], 8) & ~UINT64_C(0x254100), 8);
        if (g[4] < DATA_ADDR || g[4] + 8 > DATA_ADDR + DATA_SIZE) {
            g[4] = DATA_ADDR + 512;
            poke(t, g[4], rng_next(r) & ~UINT64_C(0x254100), 8);
        }
        break;
    case M(ENTER):
        if (rng_chance(r, 90)) {
            put_bytes(t, d->insn.raw.imm[0].offset, 16, (int64_t)rng_below(r, 600));
        }
        g[5] = near_data(r);
        break;
    case M(LEAVE):
        g[5] = near_data(r);
        break;
    case M(XLAT):
        g[3] = near_data(r);
        break;
    case M(RET):
        if (rng_chance(r, 80)) {
            poke(t, g[4], code_target(r), t->wide ? 8 : 4);
        }
        break;
    case M(JMP):
    case M(CALL):
        if (d->ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER && rng_chance(r, 80)) {
            g[ZydisRegisterGetId(d->ops[0].reg.value)] = code_target(r);
        } else if (mem && rng_chance(r, 80)) {
            poke(t, mem, code_target(r), t->wide ? 8 : 4);
        }
        break;
    case M(LOOP):
    case M(LOOPE):
    case M(LOOPNE):
    case M(JCXZ):
    case M(JECXZ):
    case M(JRCXZ):
        if (rng_chance(r, 50)) {
            g[1] = rng_below(r, 3);
        }
        break;
    default:
        break;
    }
}

void generate_state(Rng *r, Case *t, const Decoded *d)
{
    uint64_t mem = 0, words[DATA_SIZE / 8];

    for (unsigned n = 0; n < 16; n++) {
        t->in.gpr[n] = generate_value(r);
        if (!t->wide) {
            t->in.gpr[n] = n < 8 ? (uint32_t)t->in.gpr[n] : 0;
        }
    }
    t->in.gpr[4] = near_data(r);
    t->in.rip = CODE_ENTRY;
    t->in.flags = 0x202 | (unsigned)(rng_next(r) & (CF | PF | AF | ZF | SF | OF)) |
                  (rng_chance(r, 10) ? DF : 0);
    for (unsigned n = 0; n < DATA_SIZE / 8; n++) {
        words[n] = rng_next(r);
    }
    memcpy(t->data, words, DATA_SIZE);
    for (unsigned n = 0; n < d->insn.operand_count_visible; n++) {
        const ZydisDecodedOperand *op = &d->ops[n];
        if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && rng_chance(r, 95)) {
            uint64_t to = near_data(r);
            if (op->size == 128 && rng_chance(r, 85)) {
                to &= ~UINT64_C(15);
            }
            mem = aim(t, d, op, to);
            if (rng_chance(r, 30)) {
                poke(t, mem, generate_value(r), 8);
            }
        }
    }
    aim_branch(r, t, d);
    adjust(r, t, d, mem);
}

/* ---- what need not agree -------------------------------------------------------------------- */

static unsigned shift_count(const Case *t, const Decoded *d, unsigned op)
{
    uint64_t n = d->ops[op].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? d->ops[op].imm.value.u
                                                                 : t->in.gpr[1];
    return (unsigned)(n & (d->ops[0].size == 64 ? 63 : 31));
}

uint32_t undefined_flags(const Case *t, const Decoded *d)
{
    unsigned n, bits = d->ops[0].size;

    switch (d->insn.mnemonic) {
    case M(SHL):
    case M(SHR):
    case M(SAR):
        n = shift_count(t, d, 1);
        return n == 0 ? 0
                      : AF | (n == 1 ? 0 : OF) | (n >= bits && d->insn.mnemonic != M(SAR) ? CF : 0);
    case M(SHLD):
    case M(SHRD):
        n = shift_count(t, d, 2);
        return n == 0 ? 0 : n > bits ? UINT32_MAX : AF | (n == 1 ? 0 : OF);
    case M(ROL):
    case M(ROR):
    case M(RCL):
    case M(RCR):
        n = shift_count(t, d, 1);
        return n <= 1 ? 0 : OF;
    case M(MUL):
    case M(IMUL):
        return SF | ZF | AF | PF;
    case M(DIV):
    case M(IDIV):
        return SF | ZF | AF | PF | CF | OF;
    case M(AAA):
    case M(AAS):
        return OF | SF | ZF | PF;
    case M(AAM):
    case M(AAD):
        return OF | AF | CF;
    case M(DAA):
    case M(DAS):
        return OF;
    case M(BT):
    case M(BTS):
    case M(BTR):
    case M(BTC):
        return OF | SF | AF | PF;
    case M(BSF):
    case M(BSR):
        return CF | OF | SF | AF | PF;
    case M(LZCNT):
    case M(TZCNT):
        return OF | SF | PF | AF;
    case M(AND):
    case M(OR):
    case M(XOR):
    case M(TEST):
        return AF;
    case M(ANDN):
    case M(BLSI):
    case M(BLSR):
    case M(BLSMSK):
    case M(BZHI):
        return AF | PF;
    case M(BEXTR):
        return AF | SF | PF;
    default:
        return 0;
    }
}
