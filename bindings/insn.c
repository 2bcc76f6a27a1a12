/*
 * Instructions for scripts: what an event of vm:insn shows, cpu:disassemble(), and the numbers of
 * mnemonics and categories that filters name.
 */
#include "bindings/insn.h"

#include <inttypes.h>
#include <string.h>

#include "bindings/cpu-script.h"
#include "engine/core/error.h"

static void push_name(lua_State *L, const char *key, const char *name)
{
    if (name) {
        lua_pushstring(L, name);
        lua_setfield(L, -2, key);
    }
}

static void push_operand(lua_State *L, const DisasmOperand *op)
{
    static const char *const kinds[] = { [DISASM_REGISTER] = "register",
                                         [DISASM_MEMORY] = "memory",
                                         [DISASM_IMMEDIATE] = "immediate",
                                         [DISASM_POINTER] = "pointer" };
    lua_createtable(L, 0, 8);
    push_name(L, "kind", kinds[op->kind]);
    push_name(L, "reg", op->reg);
    push_name(L, "seg", op->seg);
    push_name(L, "base", op->base);
    push_name(L, "index", op->index);
    lua_pushinteger(L, op->bits);
    lua_setfield(L, -2, "bits");
    lua_pushboolean(L, op->read);
    lua_setfield(L, -2, "read");
    lua_pushboolean(L, op->written);
    lua_setfield(L, -2, "written");
    if (op->kind == DISASM_MEMORY) {
        lua_pushinteger(L, op->disp);
        lua_setfield(L, -2, "disp");
        lua_pushinteger(L, op->scale);
        lua_setfield(L, -2, "scale");
    } else if (op->kind != DISASM_REGISTER) {
        lua_pushinteger(L, op->value);
        lua_setfield(L, -2, "value");
    }
}

bool insn_push_field(lua_State *L, const EventRecord *r, const char *key)
{
    uint8_t bytes[2 * sizeof r->args[0]];
    Disasm d;

    if (r->source != EVENT_INSN) {
        return false;
    }
    memcpy(bytes, r->args, sizeof bytes);
    if (strcmp(key, "len") == 0) {
        lua_pushinteger(L, r->size);
        return true;
    }
    if (strcmp(key, "bytes") == 0) {
        lua_pushlstring(L, (const char *)bytes, r->size);
        return true;
    }
    if (strcmp(key, "cpl") == 0) {
        lua_pushinteger(L, (lua_Integer)r->args[EVENT_ARG_CPL]);
        return true;
    }
    if (strcmp(key, "text") != 0 && strcmp(key, "mnemonic") != 0 && strcmp(key, "category") != 0 &&
        strcmp(key, "operands") != 0) {
        return false;
    }
    disasm((unsigned)r->args[EVENT_ARG_BITS], r->rip, bytes, r->size, &d);
    if (strcmp(key, "text") == 0) {
        lua_pushstring(L, d.text);
    } else if (strcmp(key, "mnemonic") == 0) {
        lua_pushstring(L, disasm_mnemonic_name(d.mnemonic));
    } else if (strcmp(key, "category") == 0) {
        lua_pushstring(L, disasm_category_name(d.category));
    } else {
        lua_createtable(L, (int)d.n_operands, 0);
        for (unsigned i = 0; i < d.n_operands; i++) {
            push_operand(L, &d.operands[i]);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
    }
    return true;
}

/* ---- filters --------------------------------------------------------------------------------- */

static uint16_t check_name(lua_State *L, const char *key, int (*find)(const char *name),
                           const char *(*name_of)(unsigned number), unsigned count)
{
    int number = 0;
    if (binding_get_key(L, 2, key) != LUA_TNIL) {
        const char *name = luaL_checkstring(L, -1);
        number = find(name);
        if (number < 0) {
            const char **words = lua_newuserdatauv(L, (count + 1) * sizeof *words, 0);
            for (unsigned i = 0; i < count; i++) {
                words[i] = name_of(i);
            }
            words[count] = NULL;
            const char *nearest = nearest_word(name, words);
            luaL_error(L, nearest ? "unknown %s '%s' (did you mean '%s'?)" : "unknown %s '%s'", key,
                       name, nearest);
        }
    }
    lua_pop(L, 1);
    return (uint16_t)number;
}

EventInsn insn_check_filter(lua_State *L)
{
    EventInsn f = { 0 };
    size_t n = 0, n_mask = 0;

    f.mnemonic = check_name(L, "mnemonic", disasm_mnemonic, disasm_mnemonic_name,
                            disasm_mnemonics());
    f.category = check_name(L, "category", disasm_category, disasm_category_name,
                            disasm_categories());
    if (binding_get_key(L, 2, "cpls") != LUA_TNIL) {
        f.cpls = (uint8_t)binding_check_range(L, lua_gettop(L), 0, 15, "cpls");
    }
    lua_pop(L, 1);
    binding_get_key(L, 2, "bytes");
    binding_get_key(L, 2, "bytes_mask");
    const char *bytes = lua_isnil(L, -2) ? NULL : luaL_checklstring(L, -2, &n);
    const char *mask = lua_isnil(L, -1) ? NULL : luaL_checklstring(L, -1, &n_mask);
    if (n > sizeof f.bytes || (mask && n_mask != n)) {
        luaL_error(L, "bytes: at most %d, and as many in bytes_mask", (int)sizeof f.bytes);
    }
    f.n_bytes = (uint8_t)n;
    if (bytes) {
        memset(f.mask, 0xff, n);
        memcpy(f.bytes, bytes, n);
    }
    if (mask) {
        memcpy(f.mask, mask, n);
    }
    lua_pop(L, 2);
    return f;
}

/* ---- cpu:disassemble ------------------------------------------------------------------------- */

#define INSNS_MAX 65536

/* Bytes at a virtual address, as many as can be read; 0 with an error: none. */
static unsigned read_code(VCpu *cpu, uint64_t addr, uint8_t *out, GError **error)
{
    unsigned first = (unsigned)MIN(4096 - (addr & 4095), X86_INSN_MAX);

    if (!cpu_read_virtual(cpu, addr, out, first, error)) {
        return 0;
    }
    if (first < X86_INSN_MAX &&
        cpu_read_virtual(cpu, addr + first, out + first, X86_INSN_MAX - first, NULL)) {
        return X86_INSN_MAX;
    }
    return first;
}

int insn_cpu_disassemble(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    unsigned n = 1;
    script_cpu_fetch(L, cpu, X86_STATE_ALL);
    const X86CPUState *s = cpu->state;
    const unsigned bits = disasm_bits(s);
    /* Offsets in CS become linear addresses; `addr` is one already. */
    const uint64_t base = bits == 64 ? 0 : s->seg[X86_CS].base;
    uint64_t at = bits == 64 ? s->rip : (uint32_t)(base + s->rip);
    if (!lua_isnoneornil(L, 2)) {
        at = binding_check_u64(L, 2, "address");
    }
    if (!lua_isnoneornil(L, 3)) {
        n = (unsigned)binding_check_range(L, 3, 1, INSNS_MAX, "number of instructions");
    }
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        uint8_t code[X86_INSN_MAX];
        GError *error = NULL;
        Disasm d;
        const unsigned avail = read_code(cpu, at, code, &error);
        if (!avail) {
            if (i == 0) {
                return binding_fail(L, error);
            }
            g_error_free(error);
            break;
        }
        disasm(bits, at - base, code, avail, &d);
        const unsigned len = d.len ? d.len : 1;
        lua_createtable(L, 0, 5);
        lua_pushinteger(L, (lua_Integer)at);
        lua_setfield(L, -2, "addr");
        lua_pushlstring(L, (const char *)code, len);
        lua_setfield(L, -2, "bytes");
        lua_pushinteger(L, len);
        lua_setfield(L, -2, "len");
        lua_pushstring(L, d.text);
        lua_setfield(L, -2, "text");
        lua_pushstring(L, d.len ? disasm_mnemonic_name(d.mnemonic) : "(bad)");
        lua_setfield(L, -2, "mnemonic");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
        at += len;
        if (bits != 64) {
            at = (uint32_t)at;
        }
    }
    return 1;
}
