/*
 * vCPUs as scripts see them: registers as fields (cpu.rip, cpu.cr3, cpu.ax), more of the state by
 * methods, translation and virtual memory.
 *
 * Registers can be touched while the vCPU is stopped, or in a callback that runs on it; otherwise
 * the access raises "cpu 0 is running".
 */
#include "bindings/binding.h"

#include <inttypes.h>
#include <string.h>

#include "bindings/cpuid.h"
#include "engine/accel/accel.h"
#include "engine/core/error.h"
#include "engine/core/units.h"
#include "engine/cpu/cpu.h"
#include "engine/machine/machine.h"

#define VIRTUAL_MAX (1 * GiB)
/* SDM 1, 10.5.1 and 13.4: the legacy area, the header, and where AVX state is in the standard
 * format. */
#define XSAVE_ST     32
#define XSAVE_XMM    160
#define XSAVE_BV     512
#define XSAVE_YMM    576
#define XSAVE_BV_X87 1
#define XSAVE_BV_SSE 2
#define XSAVE_BV_AVX 4
#define CR0_PE       1

static VCpu *check_cpu(lua_State *L)
{
    return binding_check_object(L, 1, TYPE_VCPU);
}

static void fetch(lua_State *L, VCpu *cpu, unsigned groups)
{
    GError *error = NULL;
    if (!cpu_fetch_state(cpu, groups, &error)) {
        binding_raise(L, error);
    }
}

static void modify(lua_State *L, VCpu *cpu, unsigned groups)
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

/* "xmm3", "ymm12", "st0": kind 'x', 'y', 's' and the number; 0: none of them */
static char vector_name(const char *key, unsigned *n)
{
    char kind, end;
    if (sscanf(key, "xmm%2u%c", n, &end) == 1) {
        kind = 'x';
    } else if (sscanf(key, "ymm%2u%c", n, &end) == 1) {
        kind = 'y';
    } else if (sscanf(key, "st%1u%c", n, &end) == 1) {
        return *n < 8 ? 's' : 0;
    } else {
        return 0;
    }
    return *n < 16 ? kind : 0;
}

static bool cpu_member_get(lua_State *L, Object *obj, const char *key)
{
    VCpu *cpu = VCPU(obj);
    unsigned n;
    const X86Register *r = x86_register_find(key);
    if (r) {
        fetch(L, cpu, r->group);
        lua_pushinteger(L, (lua_Integer)x86_register_get(cpu->state, r));
        return true;
    }
    const char kind = vector_name(key, &n);
    if (!kind) {
        return false;
    }
    fetch(L, cpu, X86_STATE_FPU);
    const char *area = (const char *)cpu->state->xsave;
    if (kind == 's') {
        lua_pushlstring(L, area + XSAVE_ST + 16 * n, 10);
    } else {
        lua_pushlstring(L, area + XSAVE_XMM + 16 * n, 16);
        if (kind == 'y') {
            lua_pushlstring(L, area + XSAVE_YMM + 16 * n, 16);
            lua_concat(L, 2);
        }
    }
    return true;
}

static void mark_xsave(X86CPUState *s, uint64_t bits)
{
    uint64_t bv;
    memcpy(&bv, s->xsave + XSAVE_BV, sizeof bv);
    bv |= bits;
    memcpy(s->xsave + XSAVE_BV, &bv, sizeof bv);
}

static void set_vector(lua_State *L, VCpu *cpu, char kind, unsigned n, int idx)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, idx, &len);
    const size_t want = kind == 's' ? 10 : kind == 'x' ? 16 : 32;
    if (len != want) {
        luaL_error(L, "%cmm%d: a string of %d bytes is expected, got %d", kind, n, (int)want,
                   (int)len);
    }
    modify(L, cpu, X86_STATE_FPU);
    X86CPUState *s = cpu->state;
    if (kind == 's') {
        memcpy(s->xsave + XSAVE_ST + 16 * n, bytes, 10);
        mark_xsave(s, XSAVE_BV_X87);
        return;
    }
    memcpy(s->xsave + XSAVE_XMM + 16 * n, bytes, 16);
    mark_xsave(s, XSAVE_BV_SSE);
    if (kind == 'y') {
        memcpy(s->xsave + XSAVE_YMM + 16 * n, bytes + 16, 16);
        mark_xsave(s, XSAVE_BV_AVX);
    }
}

static bool cpu_member_set(lua_State *L, Object *obj, const char *key, int idx)
{
    VCpu *cpu = VCPU(obj);
    unsigned n;
    const int which = segment_index(key);
    if (which >= 0) {
        modify(L, cpu, X86_STATE_SYSTEM);
        set_segment(L, cpu, which, idx);
        return true;
    }
    const X86Register *r = x86_register_find(key);
    if (r) {
        const uint64_t max = r->size == 8 ? UINT64_MAX : (UINT64_C(1) << (8 * r->size)) - 1;
        const uint64_t value = binding_check_range(L, idx, 0, max, key);
        modify(L, cpu, r->group);
        x86_register_set(cpu->state, r, value);
        return true;
    }
    const char kind = vector_name(key, &n);
    if (kind) {
        set_vector(L, cpu, kind, n, idx);
        return true;
    }
    if (strcmp(key, "gdtr") == 0 || strcmp(key, "idtr") == 0) {
        uint64_t v;
        luaL_checktype(L, idx, LUA_TTABLE);
        binding_check_keys(L, idx, table_keys, key);
        modify(L, cpu, X86_STATE_SYSTEM);
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
    VCpu *cpu = check_cpu(L);
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
    VCpu *cpu = check_cpu(L);
    unsigned n;
    const X86Register *r = x86_registers(&n);
    fetch(L, cpu, X86_STATE_ALL);
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
    VCpu *cpu = check_cpu(L);
    const char *name = luaL_checkstring(L, 2);
    const int which = segment_index(name);
    luaL_argcheck(L, which >= 0, 2, "es, cs, ss, ds, fs, gs, ldt or tr is expected");
    fetch(L, cpu, X86_STATE_SYSTEM);
    push_segment(L, &cpu->state->seg[which]);
    return 1;
}

static int cpu_dump(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    fetch(L, cpu, X86_STATE_ALL);
    char *text = x86_state_dump(cpu->state);
    lua_pushstring(L, text);
    g_free(text);
    return 1;
}

/* ---- the rest of the state ----------------------------------------------------------------- */

static X86Msr *find_msr(X86CPUState *s, uint32_t index)
{
    for (uint32_t i = 0; i < s->n_msrs; i++) {
        if (s->msrs[i].index == index) {
            return &s->msrs[i];
        }
    }
    return NULL;
}

static int cpu_msr(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    const uint32_t index = (uint32_t)binding_check_range(L, 2, 0, UINT32_MAX, "MSR");
    fetch(L, cpu, X86_STATE_MSRS | X86_STATE_SYSTEM);
    const X86Msr *m = find_msr(cpu->state, index);
    if (!m) {
        lua_pushnil(L);
        lua_pushfstring(L, "cpu %d has no MSR 0x%s", cpu->index, lua_tostring(L, 2));
        return 2;
    }
    lua_pushinteger(L, (lua_Integer)m->value);
    return 1;
}

static int cpu_set_msr(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    const uint32_t index = (uint32_t)binding_check_range(L, 2, 0, UINT32_MAX, "MSR");
    const uint64_t value = binding_check_u64(L, 3, "value");
    modify(L, cpu, X86_STATE_MSRS);
    X86Msr *m = find_msr(cpu->state, index);
    if (!m) {
        char hex[16];
        g_snprintf(hex, sizeof hex, "%#x", index);
        lua_pushnil(L);
        lua_pushfstring(L, "cpu %d has no MSR %s", cpu->index, hex);
        return 2;
    }
    m->value = value;
    lua_pushboolean(L, true);
    return 1;
}

static int cpu_msrs(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    fetch(L, cpu, X86_STATE_MSRS);
    lua_createtable(L, 0, (int)cpu->state->n_msrs);
    for (uint32_t i = 0; i < cpu->state->n_msrs; i++) {
        lua_pushinteger(L, (lua_Integer)cpu->state->msrs[i].value);
        lua_rawseti(L, -2, cpu->state->msrs[i].index);
    }
    return 1;
}

static int cpu_lapic(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    fetch(L, cpu, X86_STATE_LAPIC);
    if (!cpu->state->has_lapic) {
        return 0;
    }
    lua_pushlstring(L, (const char *)cpu->state->lapic, sizeof cpu->state->lapic);
    return 1;
}

static int cpu_xsave(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    fetch(L, cpu, X86_STATE_FPU);
    lua_pushlstring(L, (const char *)cpu->state->xsave, cpu->state->xsave_size);
    return 1;
}

static int cpu_events(lua_State *L)
{
    static const char *const mp_names[] = { "runnable", "uninitialized", "init-received", "halted",
                                            "sipi-received" };
    VCpu *cpu = check_cpu(L);
    fetch(L, cpu, X86_STATE_EVENTS);
    const X86Events *e = &cpu->state->events;
    const struct {
        const char *key;
        bool value;
    } bools[] = { { "exception_injected", e->exception_injected },
                  { "exception_pending", e->exception_pending },
                  { "interrupt_injected", e->interrupt_injected },
                  { "nmi_injected", e->nmi_injected },
                  { "nmi_pending", e->nmi_pending },
                  { "nmi_masked", e->nmi_masked },
                  { "smm", e->smm },
                  { "triple_fault", e->triple_fault } };
    lua_createtable(L, 0, 14);
    for (unsigned i = 0; i < G_N_ELEMENTS(bools); i++) {
        lua_pushboolean(L, bools[i].value);
        lua_setfield(L, -2, bools[i].key);
    }
    const struct {
        const char *key;
        uint64_t value;
    } ints[] = { { "exception_nr", e->exception_nr },
                 { "exception_error", e->exception_error },
                 { "interrupt_nr", e->interrupt_nr },
                 { "interrupt_shadow", e->interrupt_shadow },
                 { "sipi_vector", e->sipi_vector } };
    for (unsigned i = 0; i < G_N_ELEMENTS(ints); i++) {
        lua_pushinteger(L, (lua_Integer)ints[i].value);
        lua_setfield(L, -2, ints[i].key);
    }
    if ((unsigned)cpu->state->mp_state < G_N_ELEMENTS(mp_names)) {
        lua_pushstring(L, mp_names[cpu->state->mp_state]);
        lua_setfield(L, -2, "mp_state");
    }
    return 1;
}

static int cpu_reset_state(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    if (!cpu->stopped) {
        return luaL_error(L, "cpu %d is running", cpu->index);
    }
    cpu_reset(cpu);
    return 0;
}

/* ---- memory through the guest's page tables ------------------------------------------------ */

static int cpu_virt(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    const uint64_t addr = binding_check_u64(L, 2, "address");
    uint64_t paddr;
    GError *error = NULL;
    fetch(L, cpu, X86_STATE_SYSTEM);
    if (!cpu_translate(cpu, addr, &paddr, &error)) {
        return binding_fail(L, error);
    }
    lua_pushinteger(L, (lua_Integer)paddr);
    return 1;
}

static int cpu_read(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    const uint64_t addr = binding_check_u64(L, 2, "address");
    const uint64_t len = binding_check_range(L, 3, 0, VIRTUAL_MAX, "length");
    GError *error = NULL;
    fetch(L, cpu, X86_STATE_SYSTEM);
    luaL_Buffer b;
    char *p = luaL_buffinitsize(L, &b, len);
    if (!cpu_read_virtual(cpu, addr, p, len, &error)) {
        return binding_fail(L, error);
    }
    luaL_pushresultsize(&b, len);
    return 1;
}

static int cpu_write(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    const uint64_t addr = binding_check_u64(L, 2, "address");
    size_t len;
    const char *bytes = luaL_checklstring(L, 3, &len);
    GError *error = NULL;
    fetch(L, cpu, X86_STATE_SYSTEM);
    if (!cpu_write_virtual(cpu, addr, bytes, len, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

/* ---- control and figures ------------------------------------------------------------------- */

static Machine *machine_of(lua_State *L, VCpu *cpu)
{
    Machine *m = machine_of_cpu(cpu);
    if (!m) {
        luaL_error(L, "cpu %d belongs to no machine", cpu->index);
    }
    return m;
}

static int cpu_step(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    GError *error = NULL;
    if (!machine_step(machine_of(L, cpu), cpu, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

static int cpu_nmi(lua_State *L)
{
    VCpu *cpu = check_cpu(L);
    GError *error = NULL;
    const AccelClass *ac = ACCEL_GET_CLASS(cpu->accel);
    if (!ac->inject_nmi) {
        return luaL_error(L, "%s cannot inject an NMI", ac->short_name);
    }
    if (!ac->inject_nmi(cpu, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

static int cpu_get_index(lua_State *L)
{
    lua_pushinteger(L, check_cpu(L)->index);
    return 1;
}

static int cpu_get_halted(lua_State *L)
{
    const VCpu *cpu = check_cpu(L);
    lua_pushboolean(L, cpu->halted);
    return 1;
}

static int cpu_get_stopped(lua_State *L)
{
    lua_pushboolean(L, check_cpu(L)->stopped);
    return 1;
}

static int cpu_get_machine(lua_State *L)
{
    binding_push_object(L, machine_of_cpu(check_cpu(L)));
    return 1;
}

static int cpu_get_stats(lua_State *L)
{
    const VCpu *cpu = check_cpu(L);
    uint64_t total = 0;
    lua_createtable(L, 0, CPU_EXIT_KINDS + 4);
    for (int i = 0; i < CPU_EXIT_KINDS; i++) {
        const uint64_t n = __atomic_load_n(&cpu->stats.exits[i], __ATOMIC_RELAXED);
        total += n;
        if (n) {
            lua_pushinteger(L, (lua_Integer)n);
            lua_setfield(L, -2, cpu_exit_kind_name((CpuExitKind)i));
        }
    }
    const struct {
        const char *key;
        uint64_t value;
    } rest[] = { { "exits", total },
                 { "locked", __atomic_load_n(&cpu->stats.locked, __ATOMIC_RELAXED) },
                 { "script", __atomic_load_n(&cpu->stats.script, __ATOMIC_RELAXED) },
                 { "assists", __atomic_load_n(&cpu->stats.assists, __ATOMIC_RELAXED) } };
    for (unsigned i = 0; i < G_N_ELEMENTS(rest); i++) {
        lua_pushinteger(L, (lua_Integer)rest[i].value);
        lua_setfield(L, -2, rest[i].key);
    }
    return 1;
}

static int cpu_get_last_exits(lua_State *L)
{
    const VCpu *cpu = check_cpu(L);
    lua_Integer n = 0;
    if (!cpu->stopped && cpu != cpu_current()) {
        return luaL_error(L, "cpu %d is running", cpu->index);
    }
    lua_createtable(L, CPU_LAST_EXITS, 0);
    for (unsigned i = 0; i < CPU_LAST_EXITS; i++) {
        const CpuLastExit *e = &cpu->last[(cpu->last_next + i) % CPU_LAST_EXITS];
        if (e->kind == CPU_EXIT_NONE) {
            continue;
        }
        lua_createtable(L, 0, 5);
        lua_pushstring(L, cpu_exit_kind_name(e->kind));
        lua_setfield(L, -2, "kind");
        lua_pushinteger(L, (lua_Integer)e->addr);
        lua_setfield(L, -2, "addr");
        lua_pushinteger(L, (lua_Integer)e->value);
        lua_setfield(L, -2, "value");
        lua_pushinteger(L, e->size);
        lua_setfield(L, -2, "size");
        lua_pushboolean(L, e->write);
        lua_setfield(L, -2, "write");
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int cpu_get_cpuid(lua_State *L)
{
    const VCpu *cpu = check_cpu(L);
    if (!cpu->cpuid) {
        return 0;
    }
    binding_push_cpuid(L, cpuid_policy_copy(cpu->cpuid));
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
    { "msr", cpu_msr, "(index: integer): integer?, string?",
      "A model-specific register; nil where there is none." },
    { "set_msr", cpu_set_msr, "(index: integer, value: integer): boolean?, string?",
      "Writes a model-specific register." },
    { "msrs", cpu_msrs, "(): table<integer, integer>",
      "All model-specific registers that are part of the state." },
    { "lapic", cpu_lapic, "(): string?",
      "The first KiB of the local APIC's registers; nil without one." },
    { "xsave", cpu_xsave, "(): string", "FPU and vector state in the standard XSAVE format." },
    { "events", cpu_events, "(): table",
      "Exceptions, interrupts and NMIs pending or in delivery, and mp_state." },
    { "reset", cpu_reset_state, "()", "The state after RESET. Stopped only." },
    { "virt", cpu_virt, "(addr: integer|string): integer?, string?",
      "Guest-virtual to guest-physical by the present page tables; nil and the level that is not "
      "present." },
    { "read_virtual", cpu_read, "(addr: integer|string, len: integer): string?, string?",
      "Bytes at a virtual address." },
    { "write_virtual", cpu_write, "(addr: integer|string, bytes: string): boolean?, string?",
      "Writes at a virtual address." },
    { "step", cpu_step, "(): boolean?, string?",
      "One instruction of this vCPU; the machine is paused after it." },
    { "nmi", cpu_nmi, "(): boolean?, string?", "Injects a non-maskable interrupt." },
    { 0 },
};
static const ApiField cpu_fields[] = {
    { "index", cpu_get_index, NULL, "integer", "0 for the boot processor." },
    { "halted", cpu_get_halted, NULL, "boolean", "Waits in HLT outside the accelerator." },
    { "stopped", cpu_get_stopped, NULL, "boolean", "At a safe point; registers can be touched." },
    { "machine", cpu_get_machine, NULL, "machine", "The machine it belongs to." },
    { "stats", cpu_get_stats, NULL, "table",
      "Exits by kind, exits that took the lock, that called a script, assists." },
    { "last_exits", cpu_get_last_exits, NULL, "table[]", "The last exits, oldest first." },
    { "cpuid", cpu_get_cpuid, NULL, "cpuid-policy?", "A copy of what its CPUID answers." },
    { 0 },
};

void binding_open_cpu(lua_State *L)
{
    binding_class(L, TYPE_VCPU,
                  "A virtual x86 CPU. Registers are fields, by their names in the manuals.",
                  cpu_methods, cpu_fields);
    binding_class_members(TYPE_VCPU, &cpu_members);
    binding_open_cpuid(L);
}
