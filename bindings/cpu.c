/*
 * vCPUs as scripts see them, besides their registers (cpu-register.c): the rest of the state by
 * methods, translation and virtual memory, control, figures.
 */
#include "bindings/cpu-script.h"

#include <inttypes.h>
#include <string.h>

#include "bindings/cpuid.h"
#include "bindings/insn.h"
#include "engine/accel/accel.h"
#include "engine/core/error.h"
#include "engine/core/units.h"
#include "engine/cpu/cpu.h"
#include "engine/machine/machine.h"

#define VIRTUAL_MAX (1 * GiB)

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
    VCpu *cpu = script_check_cpu(L);
    const uint32_t index = (uint32_t)binding_check_range(L, 2, 0, UINT32_MAX, "MSR");
    script_cpu_fetch(L, cpu, X86_STATE_MSRS | X86_STATE_SYSTEM);
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
    VCpu *cpu = script_check_cpu(L);
    const uint32_t index = (uint32_t)binding_check_range(L, 2, 0, UINT32_MAX, "MSR");
    const uint64_t value = binding_check_u64(L, 3, "value");
    script_cpu_modify(L, cpu, X86_STATE_MSRS);
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
    VCpu *cpu = script_check_cpu(L);
    script_cpu_fetch(L, cpu, X86_STATE_MSRS);
    lua_createtable(L, 0, (int)cpu->state->n_msrs);
    for (uint32_t i = 0; i < cpu->state->n_msrs; i++) {
        lua_pushinteger(L, (lua_Integer)cpu->state->msrs[i].value);
        lua_rawseti(L, -2, cpu->state->msrs[i].index);
    }
    return 1;
}

static int cpu_lapic(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    script_cpu_fetch(L, cpu, X86_STATE_LAPIC);
    if (!cpu->state->has_lapic) {
        return 0;
    }
    lua_pushlstring(L, (const char *)cpu->state->lapic, sizeof cpu->state->lapic);
    return 1;
}

static int cpu_xsave(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    script_cpu_fetch(L, cpu, X86_STATE_FPU);
    lua_pushlstring(L, (const char *)cpu->state->xsave, cpu->state->xsave_size);
    return 1;
}

static int cpu_events(lua_State *L)
{
    static const char *const mp_names[] = { "runnable", "uninitialized", "init-received", "halted",
                                            "sipi-received" };
    VCpu *cpu = script_check_cpu(L);
    script_cpu_fetch(L, cpu, X86_STATE_EVENTS);
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
    VCpu *cpu = script_check_cpu(L);
    if (!cpu->stopped) {
        return luaL_error(L, "cpu %d is running", cpu->index);
    }
    cpu_reset(cpu);
    return 0;
}

/* ---- memory through the guest's page tables ------------------------------------------------ */

static int cpu_virt(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    const uint64_t addr = binding_check_u64(L, 2, "address");
    uint64_t paddr;
    GError *error = NULL;
    script_cpu_fetch(L, cpu, X86_STATE_SYSTEM);
    if (!cpu_translate(cpu, addr, &paddr, &error)) {
        return binding_fail(L, error);
    }
    lua_pushinteger(L, (lua_Integer)paddr);
    return 1;
}

static int cpu_read(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
    const uint64_t addr = binding_check_u64(L, 2, "address");
    const uint64_t len = binding_check_range(L, 3, 0, VIRTUAL_MAX, "length");
    GError *error = NULL;
    script_cpu_fetch(L, cpu, X86_STATE_SYSTEM);
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
    VCpu *cpu = script_check_cpu(L);
    const uint64_t addr = binding_check_u64(L, 2, "address");
    size_t len;
    const char *bytes = luaL_checklstring(L, 3, &len);
    GError *error = NULL;
    script_cpu_fetch(L, cpu, X86_STATE_SYSTEM);
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
    VCpu *cpu = script_check_cpu(L);
    GError *error = NULL;
    if (!machine_step(machine_of(L, cpu), cpu, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, true);
    return 1;
}

static int cpu_nmi(lua_State *L)
{
    VCpu *cpu = script_check_cpu(L);
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
    lua_pushinteger(L, script_check_cpu(L)->index);
    return 1;
}

static int cpu_get_halted(lua_State *L)
{
    const VCpu *cpu = script_check_cpu(L);
    lua_pushboolean(L, cpu->halted);
    return 1;
}

static int cpu_get_stopped(lua_State *L)
{
    lua_pushboolean(L, script_check_cpu(L)->stopped);
    return 1;
}

static int cpu_get_machine(lua_State *L)
{
    binding_push_object(L, machine_of_cpu(script_check_cpu(L)));
    return 1;
}

static int cpu_get_stats(lua_State *L)
{
    const VCpu *cpu = script_check_cpu(L);
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
    const VCpu *cpu = script_check_cpu(L);
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
    const VCpu *cpu = script_check_cpu(L);
    if (!cpu->cpuid) {
        return 0;
    }
    binding_push_cpuid(L, cpuid_policy_copy(cpu->cpuid));
    return 1;
}

static const ApiFunction cpu_methods[] = {
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
    { "disassemble", insn_cpu_disassemble,
      "(addr: integer|string|nil, n: integer?): table[]?, string?",
      "Instructions from a linear address on (the next one's), n of them (1), in the mode of the "
      "present code: addr, bytes, len, text, mnemonic. Fewer where memory ends." },
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
    binding_open_cpu_register(L);
    binding_open_cpuid(L);
}
