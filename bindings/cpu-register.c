/*
 * Registers of a vCPU as fields of its handle: cpu.rip, cpu.cr3, cpu.ax, cpu.xmm0, cpu.cs.
 *
 * Registers can be touched while the vCPU is stopped, or in a callback that runs on it; otherwise
 * the access raises "cpu 0 is running".
 */
#include <inttypes.h>
#include <string.h>

#include "bindings/cpu-script.h"
#include "engine/core/error.h"

#define CR0_PE 1

VCpu *script_check_cpu(lua_State *L)
{
    return binding_check_object(L, 1, TYPE_VCPU);
}

void script_cpu_fetch(lua_State *L, VCpu *cpu, unsigned groups)
{
    GError *error = NULL;
    if (!cpu_fetch_state(cpu, groups, &error)) {
        binding_raise(L, error);
    }
}

void script_cpu_modify(lua_State *L, VCpu *cpu, unsigned groups)
{
    GError *error = NULL;
    if (!cpu_modify_state(cpu, groups, &error)) {
        binding_raise(L, error);
    }
}

/* ---- segments and tables ------------------------------------------------------------------- */

static const char *const segment_names[X86_SEGS] = {
    "es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr"
};
static const char *const segment_keys[] = { "selector", "base",     "limit", "type", "dpl",
                                            "present",  "s",        "db",    "l",    "g",
                                            "avl",      "unusable", "flat",  NULL };
static const char *const table_keys[] = { "base", "limit", NULL };

static int segment_index(const char *name)
{
    for (int i = 0; i < X86_SEGS; i++) {
        if (strcmp(name, segment_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool opt_u64(lua_State *L, int idx, const char *key, uint64_t max, uint64_t *v)
{
    bool there = binding_get_key(L, idx, key) != LUA_TNIL;
    if (there) {
        *v = binding_check_range(L, lua_gettop(L), 0, max, key);
    }
    lua_pop(L, 1);
    return there;
}

static void opt_bool(lua_State *L, int idx, const char *key, bool *v)
{
    if (binding_get_key(L, idx, key) != LUA_TNIL) {
        *v = lua_isinteger(L, -1) ? lua_tointeger(L, -1) != 0 : lua_toboolean(L, -1);
    }
    lua_pop(L, 1);
}

/* A segment from a table: what it does not name stays. */
static void segment_from_table(lua_State *L, int idx, const char *name, X86Segment *seg)
{
    static const char *const flats[] = { "code16", "code32", "code64", "data", NULL };
    uint64_t v;
    binding_check_keys(L, idx, segment_keys, name);
    if (binding_get_key(L, idx, "flat") != LUA_TNIL) {
        int kind = luaL_checkoption(L, lua_gettop(L), NULL, flats);
        x86_segment_set_flat(seg, seg->selector, kind != 3, kind == 2, 0);
        seg->db = kind == 1 || kind == 3;
    }
    lua_pop(L, 1);
    if (opt_u64(L, idx, "selector", UINT16_MAX, &v)) {
        seg->selector = (uint16_t)v;
    }
    if (opt_u64(L, idx, "base", UINT64_MAX, &v)) {
        seg->base = v;
    }
    if (opt_u64(L, idx, "limit", UINT32_MAX, &v)) {
        seg->limit = (uint32_t)v;
    }
    if (opt_u64(L, idx, "type", 15, &v)) {
        seg->type = (uint8_t)v;
    }
    if (opt_u64(L, idx, "dpl", 3, &v)) {
        seg->dpl = (uint8_t)v;
    }
    opt_bool(L, idx, "present", &seg->present);
    opt_bool(L, idx, "s", &seg->s);
    opt_bool(L, idx, "db", &seg->db);
    opt_bool(L, idx, "l", &seg->l);
    opt_bool(L, idx, "g", &seg->g);
    opt_bool(L, idx, "avl", &seg->avl);
    opt_bool(L, idx, "unusable", &seg->unusable);
}

static void set_segment(lua_State *L, VCpu *cpu, int which, int idx)
{
    const char *name = segment_names[which];
    X86Segment seg = cpu->state->seg[which];
    if (lua_type(L, idx) == LUA_TTABLE) {
        segment_from_table(L, idx, name, &seg);
    } else if (cpu->state->cr0 & CR0_PE || which >= X86_LDT) {
        luaL_error(L,
                   "%s: in protected mode a segment is a table: { selector = …, base = …, limit = "
                   "… } or { flat = \"code32\" }",
                   name);
    } else {
        x86_segment_set_real(&seg, (uint16_t)binding_check_range(L, idx, 0, UINT16_MAX, name),
                             which == X86_CS);
    }
    cpu->state->seg[which] = seg;
}

static void push_segment(lua_State *L, const X86Segment *seg)
{
    lua_createtable(L, 0, 12);
    const struct {
        const char *key;
        uint64_t value;
    } ints[] = { { "selector", seg->selector },
                 { "base", seg->base },
                 { "limit", seg->limit },
                 { "type", seg->type },
                 { "dpl", seg->dpl } };
    const struct {
        const char *key;
        bool value;
    } bools[] = { { "present", seg->present },
                  { "s", seg->s },
                  { "db", seg->db },
                  { "l", seg->l },
                  { "g", seg->g },
                  { "avl", seg->avl },
                  { "unusable", seg->unusable } };
    for (unsigned i = 0; i < G_N_ELEMENTS(ints); i++) {
        lua_pushinteger(L, (lua_Integer)ints[i].value);
        lua_setfield(L, -2, ints[i].key);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bools); i++) {
        lua_pushboolean(L, bools[i].value);
        lua_setfield(L, -2, bools[i].key);
    }
}

/* ---- registers as members ------------------------------------------------------------------ */

static bool cpu_member_get(lua_State *L, Object *obj, const char *key)
{
    VCpu *cpu = VCPU(obj);
    const X86Register *r = x86_register_find(key);
    if (r) {
        script_cpu_fetch(L, cpu, r->group);
        lua_pushinteger(L, (lua_Integer)x86_register_get(cpu->state, r));
        return true;
    }
    if (x86_vector_size(key) == 0) {
        return false;
    }
    uint8_t vector[X86_VECTOR_MAX];
    script_cpu_fetch(L, cpu, X86_STATE_FPU);
    const unsigned len = x86_vector_get(cpu->state, key, vector);
    lua_pushlstring(L, (const char *)vector, len);
    return true;
}

static void set_vector(lua_State *L, VCpu *cpu, const char *key, int idx)
{
    const unsigned want = x86_vector_size(key);
    size_t len;
    const char *bytes = luaL_checklstring(L, idx, &len);
    if (len != want) {
        luaL_error(L, "%s: a string of %d bytes is expected, got %d", key, (int)want, (int)len);
    }
    script_cpu_modify(L, cpu, X86_STATE_FPU);
    if (!x86_vector_set(cpu->state, key, (const uint8_t *)bytes, want)) {
        luaL_error(L, "%s: this processor has no AVX", key);
    }
}

static bool cpu_member_set(lua_State *L, Object *obj, const char *key, int idx)
{
    VCpu *cpu = VCPU(obj);
    const int which = segment_index(key);
    if (which >= 0) {
        script_cpu_modify(L, cpu, X86_STATE_SYSTEM);
        set_segment(L, cpu, which, idx);
        return true;
    }
    const X86Register *r = x86_register_find(key);
    if (r) {
        const uint64_t max = r->size == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * r->size)) - 1;
        const uint64_t value = binding_check_range(L, idx, 0, max, key);
        script_cpu_modify(L, cpu, r->group);
        if (!x86_register_set(cpu->state, r, value)) {
            luaL_error(L, "%s: a state holds %d MSRs, and this one is full", key, X86_MSR_MAX);
        }
        return true;
    }
    if (x86_vector_size(key)) {
        set_vector(L, cpu, key, idx);
        return true;
    }
    if (strcmp(key, "gdtr") == 0 || strcmp(key, "idtr") == 0) {
        uint64_t v;
        luaL_checktype(L, idx, LUA_TTABLE);
        binding_check_keys(L, idx, table_keys, key);
        script_cpu_modify(L, cpu, X86_STATE_SYSTEM);
        X86Table *t = key[0] == 'g' ? &cpu->state->gdt : &cpu->state->idt;
        if (opt_u64(L, idx, "base", UINT64_MAX, &v)) {
            t->base = v;
        }
        if (opt_u64(L, idx, "limit", UINT16_MAX, &v)) {
            t->limit = (uint16_t)v;
        }
        return true;
    }
    return false;
}

static void cpu_member_list(Object *obj, void (*add)(const char *name, void *opaque), void *opaque)
{
    unsigned n;
    const X86Register *r = x86_registers(&n);
    for (unsigned i = 0; i < n; i++) {
        add(r[i].name, opaque);
    }
}

static const BindingMembers cpu_members = { cpu_member_get, cpu_member_set, cpu_member_list };

/* cpu:set{ rip = 0x7c00, cs = 0 }: segments last, so that cr0 in the same table decides how they
 * are read. */
static int cpu_set(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    for (int pass = 0; pass < 2; pass++) {
        lua_pushnil(L);
        while (lua_next(L, 2)) {
            if (lua_type(L, 3) != LUA_TSTRING) {
                return luaL_error(L, "set: a register's name is expected as the key, got a %s",
                                  luaL_typename(L, 3));
            }
            const char *key = lua_tostring(L, 3);
            if ((segment_index(key) >= 0) == (pass == 1) &&
                !cpu_member_set(L, OBJECT(cpu), key, 4)) {
                return luaL_error(L, "set: unknown register '%s'", key);
            }
            lua_settop(L, 3);
        }
    }
    return 0;
}

static int cpu_get(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    unsigned n;
    const X86Register *r = x86_registers(&n);
    script_cpu_fetch(L, cpu, X86_STATE_ALL);
    lua_createtable(L, 0, (int)n + X86_SEGS);
    for (unsigned i = 0; i < n; i++) {
        lua_pushinteger(L, (lua_Integer)x86_register_get(cpu->state, &r[i]));
        lua_setfield(L, -2, r[i].name);
    }
    for (int i = 0; i < X86_SEGS; i++) {
        push_segment(L, &cpu->state->seg[i]);
        lua_setfield(L, -2, segment_names[i]);
    }
    return 1;
}

static int cpu_segment(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    const char *name = luaL_checkstring(L, 2);
    const int which = segment_index(name);
    luaL_argcheck(L, which >= 0, 2, "es, cs, ss, ds, fs, gs, ldt or tr is expected");
    script_cpu_fetch(L, cpu, X86_STATE_SYSTEM);
    push_segment(L, &cpu->state->seg[which]);
    return 1;
}

static int cpu_dump(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    script_cpu_fetch(L, cpu, X86_STATE_ALL);
    char *text = x86_state_dump(cpu->state);
    lua_pushstring(L, text);
    g_free(text);
    return 1;
}

static const ApiFunction cpu_methods[] = {
    { "set", cpu_set, "(registers: table<string, integer|string|table>)",
      "Sets several registers at once. A plain number for a segment loads it as real mode does; a "
      "table { selector, base, limit, type, dpl, present, s, db, l, g, avl, unusable } or { flat = "
      "\"code16\"|\"code32\"|\"code64\"|\"data\" } sets the hidden part." },
    { "get", cpu_get, "(): table", "Every register by name; segments as tables." },
    { "segment", cpu_segment, "(name: string): table",
      "One segment register with its hidden part." },
    { "dump", cpu_dump, "(): string", "The registers as debuggers print them." },
    { 0 },
};

void binding_open_cpu_register(lua_State *L)
{
    binding_class(L, TYPE_VCPU, NULL, cpu_methods, NULL);
    binding_class_members(TYPE_VCPU, &cpu_members);
}
