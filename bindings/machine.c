/*
 * The class "machine": composing a machine, running it, its fields. What boards and users call is
 * in scripts/vmlua/machine.lua, which builds on this.
 */
#include "engine/machine/machine.h"

#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/cpuid.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"

static Machine *check_machine(lua_State *L, int arg)
{
    return binding_check_object(L, arg, TYPE_MACHINE);
}

/* `error` by its address: the call that sets it is an argument beside it. */
static int ok_or_fail(lua_State *L, bool ok, GError **error)
{
    if (!ok) {
        return binding_fail(L, *error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int ok_or_raise(lua_State *L, bool ok, GError **error)
{
    return ok ? 0 : binding_raise(L, *error);
}

/* ---- building -------------------------------------------------------------------------------- */

static AccelIcount check_icount(lua_State *L, int idx)
{
    static const char *const keys[] = { "shift", "sleep", "seed", NULL };
    uint64_t shift = ACCEL_ICOUNT_SHIFT_DEFAULT, seed = 0;
    binding_check_keys(L, idx, keys, "icount");
    if (binding_get_key(L, idx, "shift") != LUA_TNIL) {
        shift = binding_check_range(L, lua_gettop(L), 0, ACCEL_ICOUNT_SHIFT_MAX, "shift");
    }
    if (binding_get_key(L, idx, "seed") != LUA_TNIL) {
        seed = (uint64_t)luaL_checkinteger(L, lua_gettop(L));
    }
    lua_pop(L, 2);
    return (AccelIcount){
        .on = true,
        .shift = (uint8_t)shift,
        .sleep = script_bool_key(L, idx, "sleep"),
        .seed = seed,
    };
}

static int l_set_accel(lua_State *L)
{
    static const char *const keys[] = { "irqchip", "pit", "icount", "assist", "translate", NULL };
    static const char *const modes[] = { "off", "split", "on", NULL };
    Machine *m = check_machine(L, 1);
    const char *name = luaL_checkstring(L, 2);
    IrqchipMode irqchip = IRQCHIP_ON;
    AccelIcount icount = { .on = false };
    bool pit = false, assist = true;
    int translate = -1;
    if (!lua_isnoneornil(L, 3)) {
        binding_check_keys(L, 3, keys, "accelerator options");
        if (binding_get_key(L, 3, "irqchip") != LUA_TNIL) {
            irqchip = (IrqchipMode)luaL_checkoption(L, lua_gettop(L), NULL, modes);
        }
        lua_pop(L, 1);
        pit = script_bool_key(L, 3, "pit");
        int type = binding_get_key(L, 3, "icount");
        if (type == LUA_TTABLE) {
            icount = check_icount(L, lua_gettop(L));
        } else if (type != LUA_TNIL) {
            return luaL_error(L, "icount: a table expected, got %s", luaL_typename(L, -1));
        }
        lua_pop(L, 1);
        if (binding_get_key(L, 3, "assist") != LUA_TNIL) {
            assist = lua_toboolean(L, -1);
        }
        lua_pop(L, 1);
        if (binding_get_key(L, 3, "translate") != LUA_TNIL) {
            translate = lua_toboolean(L, -1);
        }
        lua_pop(L, 1);
    }
    if (!m->accel) {
        m->icount = icount;
    }
    GError *error = NULL;
    AccelClass *ac = accel_find(name, &error);
    bool ok = ac && machine_set_accel(m, ac, irqchip, pit, &error);
    if (ok && !assist && object_find_property(OBJECT(m->accel), "assist")) {
        const PropValue off = { .kind = PROP_BOOL, .boolean = false };
        ok = object_property_set(OBJECT(m->accel), "assist", &off, &error);
    }
    if (ok && translate >= 0 && object_find_property(OBJECT(m->accel), "translate")) {
        const PropValue v = { .kind = PROP_BOOL, .boolean = translate };
        ok = object_property_set(OBJECT(m->accel), "translate", &v, &error);
    }
    return ok_or_fail(L, ok, &error);
}

static int l_add_cpu(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    CpuidPolicy *policy = lua_isnoneornil(L, 2) ? NULL : binding_check_cpuid(L, 2);
    GError *error = NULL;
    VCpu *cpu = machine_add_cpu(m, policy ? cpuid_policy_copy(policy) : NULL, &error);
    if (!cpu) {
        return binding_fail(L, error);
    }
    binding_push_object(L, cpu);
    return 1;
}

/* What the accelerator can show a guest at most. */
/* ---- run control ---------------------------------------------------------------------------- */

/* What a board set in its vCPUs while composing them: it is their state after every reset. */
typedef struct StartState {
    VCpu *cpu;
    unsigned groups; /* X86_STATE_* that the board changed */
    X86CPUState state;
} StartState;

static void free_start_states(void *data)
{
    g_ptr_array_free(data, TRUE);
}

/* Fired at the end of a reset, when vCPUs are in their architectural state. */
static EventAction apply_start_states(void *opaque, VCpu *unused, EventRecord *x)
{
    GPtrArray *states = opaque;
    for (guint i = 0; i < states->len; i++) {
        StartState *s = g_ptr_array_index(states, i);
        GError *error = NULL;
        if (cpu_modify_state(s->cpu, s->groups, &error)) {
            const uint64_t tsc = s->cpu->state->tsc; /* time begins anew all the same */
            x86_state_copy(s->cpu->state, &s->state, s->groups);
            s->cpu->state->tsc = tsc;
        } else {
            machine_fail(machine_of_cpu(s->cpu), error->message);
            g_error_free(error);
        }
    }
    return EVENT_CONTINUE;
}

static bool keep_start_states(Machine *m, GError **error)
{
    static const EventFilter filter = { .source = EVENT_RESET, .len = UINT64_MAX, .cpu = -1 };
    GPtrArray *states = NULL;

    for (guint i = 0; i < m->cpus->len; i++) {
        VCpu *cpu = g_ptr_array_index(m->cpus, i);
        if (cpu->state_dirty) {
            StartState *s = g_new(StartState, 1);
            s->cpu = cpu;
            s->groups = cpu->state_dirty;
            s->state = *cpu->state;
            states = states ? states : g_ptr_array_new_with_free_func(g_free);
            g_ptr_array_add(states, s);
        }
    }
    if (states &&
        !event_hook_add(m->events, &filter, apply_start_states, states, free_start_states, error)) {
        free_start_states(states);
        return false;
    }
    return true;
}

static int l_finish_init(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    GError *error = NULL;
    bool ok = keep_start_states(m, &error) && machine_finish_init(m, &error);
    return ok_or_raise(L, ok, &error);
}

static int l_resume(lua_State *L)
{
    GError *error = NULL;
    return ok_or_raise(L, machine_resume(check_machine(L, 1), &error), &error);
}

static int l_pause(lua_State *L)
{
    machine_pause(check_machine(L, 1), luaL_optstring(L, 2, "paused by the script"));
    return 0;
}

static int l_fail(lua_State *L)
{
    machine_fail(check_machine(L, 1), luaL_checkstring(L, 2));
    return 0;
}

static int l_reset(lua_State *L)
{
    GError *error = NULL;
    return ok_or_raise(L, machine_reset(check_machine(L, 1), &error), &error);
}

static int l_request_reset(lua_State *L)
{
    machine_request_reset(check_machine(L, 1), luaL_optstring(L, 2, "reset by the script"));
    return 0;
}

static int l_shutdown(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    const char *why = luaL_optstring(L, 2, "shut down by the script");
    const int code = lua_isnoneornil(L, 3) ? 0
                                           : (int)binding_check_range(L, 3, 0, 255, "exit code");
    machine_request_shutdown(m, why, code);
    return 0;
}

static int l_step(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    VCpu *cpu = binding_opt_object(L, 2, TYPE_VCPU);
    GError *error = NULL;
    if (!cpu && m->cpus->len) {
        cpu = g_ptr_array_index(m->cpus, 0);
    }
    if (!cpu) {
        return luaL_error(L, "%s has no CPU", OBJECT(m)->name);
    }
    return ok_or_raise(L, machine_step(m, cpu, &error), &error);
}

static int l_close(lua_State *L)
{
    if (binding_test_object(L, 1, TYPE_MACHINE)) {
        machine_close(check_machine(L, 1));
    } else {
        lua_getfield(L, 1, "gone"); /* closing twice is fine, closing a number is not */
        luaL_argexpected(L, lua_toboolean(L, -1), 1, TYPE_MACHINE);
    }
    return 0;
}

/* ---- fields --------------------------------------------------------------------------------- */

static int get_status(lua_State *L)
{
    lua_pushstring(L, run_state_name(check_machine(L, 1)->state));
    return 1;
}

static int get_reason(lua_State *L)
{
    lua_pushstring(L, check_machine(L, 1)->reason);
    return 1;
}

static int get_exit_code(lua_State *L)
{
    lua_pushinteger(L, check_machine(L, 1)->exit_code);
    return 1;
}

static int set_exit_code(lua_State *L)
{
    check_machine(L, 1)->exit_code = (int)binding_check_range(L, 2, 0, 255, "exit_code");
    return 0;
}

static int get_time(lua_State *L)
{
    lua_pushinteger(L, clock_now(check_machine(L, 1)->clock));
    return 1;
}

static int get_id(lua_State *L)
{
    lua_pushstring(L, OBJECT(check_machine(L, 1))->name);
    return 1;
}

static int get_accel(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    lua_pushstring(L, m->accel ? ACCEL_GET_CLASS(m->accel)->short_name : NULL);
    return 1;
}

static int get_irqchip(lua_State *L)
{
    static const char *const modes[] = { "off", "split", "on" };
    Machine *m = check_machine(L, 1);
    lua_pushstring(L, m->accel ? modes[m->accel->config.irqchip] : NULL);
    return 1;
}

static int get_kernel_pit(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    lua_pushboolean(L, m->accel && m->accel->config.pit);
    return 1;
}

static int get_ram_size(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_machine(L, 1)->ram_size);
    return 1;
}

static int set_ram_size(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    uint64_t size = binding_check_u64(L, 2, "ram_size");
    if (m->state != RUN_STATE_BUILDING) {
        return luaL_error(L, "%s: ram_size is fixed once the machine is built", OBJECT(m)->name);
    }
    m->ram_size = size;
    return 0;
}

static int get_no_reboot(lua_State *L)
{
    lua_pushboolean(L, check_machine(L, 1)->no_reboot);
    return 1;
}

static int set_no_reboot(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TBOOLEAN);
    check_machine(L, 1)->no_reboot = lua_toboolean(L, 2);
    return 0;
}

static const char *const on_event_names[] = { "default", "pause", "shutdown", "reset", NULL };

static int get_on_triple_fault(lua_State *L)
{
    lua_pushstring(L, on_event_names[check_machine(L, 1)->on_triple_fault]);
    return 1;
}

static int set_on_triple_fault(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    m->on_triple_fault = (OnEvent)luaL_checkoption(L, 2, NULL, on_event_names);
    return 0;
}

static int get_restore_count(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)machine_restore_count(check_machine(L, 1)));
    return 1;
}

/* One table a machine, remade when a vCPU was added. */
static int get_cpus(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    binding_push_data(L, OBJECT(m));
    if (lua_getfield(L, -1, "cpus") == LUA_TTABLE && lua_rawlen(L, -1) == m->cpus->len) {
        return 1;
    }
    lua_pop(L, 1);
    lua_createtable(L, (int)m->cpus->len, 0);
    for (guint i = 0; i < m->cpus->len; i++) {
        binding_push_object(L, g_ptr_array_index(m->cpus, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "cpus");
    return 1;
}

typedef struct Stat {
    char name[48];
    uint64_t value;
} Stat;

static void collect_stat(const char *name, uint64_t value, void *opaque)
{
    Stat stat = { .value = value };
    g_strlcpy(stat.name, name, sizeof stat.name);
    g_byte_array_append(opaque, (const guint8 *)&stat, sizeof stat);
}

static int get_stats(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    GByteArray *stats = binding_scratch(L);
    uint64_t exits[CPU_EXIT_KINDS] = { 0 }, total = 0, locked = 0, script = 0, assists = 0;

    for (guint i = 0; i < m->cpus->len; i++) {
        const CpuStats *s = &((VCpu *)g_ptr_array_index(m->cpus, i))->stats;
        for (int k = 0; k < CPU_EXIT_KINDS; k++) {
            uint64_t n = __atomic_load_n(&s->exits[k], __ATOMIC_RELAXED);
            exits[k] += n;
            total += n;
        }
        locked += __atomic_load_n(&s->locked, __ATOMIC_RELAXED);
        script += __atomic_load_n(&s->script, __ATOMIC_RELAXED);
        assists += __atomic_load_n(&s->assists, __ATOMIC_RELAXED);
    }
    if (m->accel && ACCEL_GET_CLASS(m->accel)->stats) {
        ACCEL_GET_CLASS(m->accel)->stats(m->accel, collect_stat, stats);
    }

    lua_newtable(L);
    lua_newtable(L);
    for (int k = 1; k < CPU_EXIT_KINDS; k++) {
        if (exits[k]) {
            lua_pushinteger(L, (lua_Integer)exits[k]);
            lua_setfield(L, -2, cpu_exit_kind_name((CpuExitKind)k));
        }
    }
    lua_pushinteger(L, (lua_Integer)total);
    lua_setfield(L, -2, "total");
    lua_setfield(L, -2, "exits");
    lua_pushinteger(L, (lua_Integer)locked);
    lua_setfield(L, -2, "locked");
    lua_pushinteger(L, (lua_Integer)script);
    lua_setfield(L, -2, "script");
    lua_pushinteger(L, (lua_Integer)assists);
    lua_setfield(L, -2, "assists");
    lua_newtable(L);
    for (guint i = 0; i < stats->len / sizeof(Stat); i++) {
        const Stat *s = (const Stat *)(const void *)stats->data + i;
        lua_pushinteger(L, (lua_Integer)s->value);
        lua_setfield(L, -2, s->name);
    }
    lua_setfield(L, -2, "accel");
    return 1;
}

static int l_gsi(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    unsigned n = (unsigned)binding_check_range(L, 2, 0, MACHINE_MAX_GSI - 1, "gsi");
    binding_push_irq(L, machine_gsi(m, n));
    return 1;
}

static int l_connect_gsi(lua_State *L)
{
    Machine *m = check_machine(L, 1);
    unsigned n = (unsigned)binding_check_range(L, 2, 0, MACHINE_MAX_GSI - 1, "gsi");
    struct Irq *pin = binding_check_irq(L, 3);
    GError *error = NULL;

    if (!machine_connect_gsi(m, n, pin, &error)) {
        return binding_raise(L, error);
    }
    return 0;
}

static int l_pit_mute(lua_State *L)
{
    binding_push_irq(L, machine_pit_mute(check_machine(L, 1)));
    return 1;
}

static int l_intr(lua_State *L)
{
    binding_push_irq(L, machine_intr(check_machine(L, 1)));
    return 1;
}

static int l_a20(lua_State *L)
{
    static const char *const names[] = { "keyboard", "port92", NULL };
    Machine *m = check_machine(L, 1);

    binding_push_irq(L, machine_a20(m, (unsigned)luaL_checkoption(L, 2, NULL, names)));
    return 1;
}

/* ---- tables --------------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "set_accel", l_set_accel,
      "(self, name: string, options: {irqchip?: \"on\"|\"split\"|\"off\", pit?: boolean, "
      "assist?: boolean, translate?: boolean, icount?: "
      "{shift?: integer, sleep?: boolean, seed?: integer}}?): boolean?, string?",
      "Chooses the accelerator; once, while building. icount: the virtual clock counts "
      "instructions, "
      "each of 1 << shift ns (3)." },
    { "add_cpu", l_add_cpu, "(self, cpuid: cpuid-policy?): x86-cpu?, string?",
      "Adds the next vCPU, with what its CPUID answers (nil: all that the accelerator can)." },
    { "finish_init", l_finish_init, "(self)",
      "The board is complete: everything is reset once; the machine can run." },
    { "resume", l_resume, "(self)", "Lets the vCPUs run." },
    { "pause", l_pause, "(self, reason: string?)",
      "Stops the vCPUs at a safe point; in a callback, as soon as it has returned." },
    { "fail", l_fail, "(self, message: string)", "Pauses with an error as the reason." },
    { "reset", l_reset, "(self)", "Resets devices and vCPUs now." },
    { "request_reset", l_request_reset, "(self, why: string?)",
      "Resets soon, from the main loop: what a guest's reset does." },
    { "shutdown", l_shutdown, "(self, why: string?, exit_code: integer?)",
      "Ends the run as a guest's power-off does." },
    { "step", l_step, "(self, cpu: x86-cpu?)",
      "Runs one instruction of one vCPU; the machine is then paused with reason \"step\"." },
    { "close", l_close, "(self)", "Ends the machine and frees all that belongs to it." },
    { "gsi", l_gsi, "(self, n: integer): irq", "An input of the interrupt controller." },
    { "connect_gsi", l_connect_gsi, "(self, n: integer, pin: irq)",
      "Leads that input to a controller device instead of to the accelerator; more than one may be "
      "on it." },
    { "pit_mute", l_pit_mute, "(self): irq",
      "Where the PIT is in the accelerator: while this line is high, its interrupts are left "
      "out." },
    { "intr", l_intr, "(self): irq", "The interrupt input of the boot processor." },
    { "a20", l_a20, "(self, part: \"keyboard\"|\"port92\"): irq",
      "The line by which that part opens the A20 gate: open while one that was ever set is high, "
      "or "
      "none was." },
    { NULL },
};

static const ApiField fields[] = {
    { "status", get_status, NULL, "string",
      "\"building\", \"running\", \"paused\", \"error\", \"shutdown\" or \"closed\"." },
    { "reason", get_reason, NULL, "string?", "Why it is paused, in error or shut down." },
    { "exit_code", get_exit_code, set_exit_code, "integer",
      "What the program ends with once the machine has shut down." },
    { "time", get_time, NULL, "integer", "Nanoseconds of its virtual clock." },
    { "id", get_id, NULL, "string", "Its name in the tree." },
    { "accel", get_accel, NULL, "string?", "The accelerator: \"kvm\", \"soft\"." },
    { "irqchip", get_irqchip, NULL, "\"on\"|\"split\"|\"off\"?",
      "Which interrupt controllers the accelerator has: all, only the local APICs, none." },
    { "kernel_pit", get_kernel_pit, NULL, "boolean", "Whether the accelerator has the PIT too." },
    { "ram_size", get_ram_size, set_ram_size, "integer", "Bytes of RAM; fixed once built." },
    { "no_reboot", get_no_reboot, set_no_reboot, "boolean", "A reset ends the machine." },
    { "on_triple_fault", get_on_triple_fault, set_on_triple_fault,
      "\"default\"|\"pause\"|\"shutdown\"|\"reset\"", "What a triple fault does." },
    { "restore_count", get_restore_count, NULL, "integer", "How often it was restored." },
    { "cpus", get_cpus, NULL, "x86-cpu[]", "Its vCPUs, the boot processor first." },
    { "stats", get_stats, NULL, "table", "Exits by kind and other counters, over all vCPUs." },
    { NULL },
};

void binding_open_machine(lua_State *L)
{
    binding_open_machine_class(L);
    binding_class(L, TYPE_MACHINE, "One guest with everything that belongs to it.", methods,
                  fields);
    binding_open_machine_state(L);
}
