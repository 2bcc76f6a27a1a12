/* Instructions for scripts: insn.c. */
#pragma once

#include "bindings/binding-priv.h"
#include "engine/cpu/disasm.h"
#include "engine/cpu/event.h"

/* Pushes a field that only events of vm:insn have; false: there is none of that name. */
bool insn_push_field(lua_State *L, const EventRecord *r, const char *key);
/* The keys mnemonic, category, cpls, bytes, bytes_mask of the table at 2. */
EventInsn insn_check_filter(lua_State *L);
int insn_cpu_disassemble(lua_State *L);
