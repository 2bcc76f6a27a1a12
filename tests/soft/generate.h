/*
 * Random integer instructions and random states to run them in.
 */
#pragma once

#include <Zydis/Zydis.h>

#include "native.h"

typedef struct Rng {
    uint64_t s;
} Rng;
uint64_t rng_next(Rng *r);
static inline uint64_t rng_below(Rng *r, uint64_t n)
{
    return rng_next(r) % n;
}

static inline bool rng_chance(Rng *r, unsigned percent)
{
    return rng_below(r, 100) < percent;
}
/* A register's or a memory operand's: edges of every size, small ones, addresses of data. */
uint64_t generate_value(Rng *r);

typedef struct Decoded {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
} Decoded;

/* False: not an instruction that may be run here. */
bool decode_allowed(const uint8_t *code, bool wide, Decoded *d);
/* Sets code, len, wide. */
void generate_code(Rng *r, bool wide, Case *t, Decoded *d);
/* Sets registers and data: mostly such that the instruction reaches its operands. Immediate and
 * displacement bytes of the code may change. */
void generate_state(Rng *r, Case *t, const Decoded *d);
/* Flags that the manual leaves undefined. */
uint32_t undefined_flags(const Case *t, const Decoded *d);
