/*
 * The stream of a machine's devices and vCPUs.
 *
 * Order in the stream, which is the order of loading: the machine itself (clock first, so that
 * timers are armed against it; then the interrupt lines), devices as they were registered, what the
 * accelerator keeps, vCPUs. Interrupt controllers inside the accelerator are given their state
 * after all sections (they override what the lines did to them): machine-chips.c.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/cpu/x86-check.h"
#include "engine/machine/machine-chips.h"
#include "engine/machine/machine_priv.h"
#include "engine/state/stream.h"

static const VMStateDescription *accel_vmsd(Machine *m)
{
    return m->accel && machine_accel_class(m)->vmstate ? machine_accel_class(m)->vmstate(m->accel)
                                                       : NULL;
}

void machine_state_foreach(Machine *m,
                           void (*fn)(const char *name, uint32_t instance,
                                      const VMStateDescription *vmsd, void *obj, void *opaque),
                           void *opaque)
{
    const VMStateDescription *vmsd = accel_vmsd(m);

    for (unsigned i = 0; m->priv->states && i < m->priv->states->len; i++) {
        StateEntry *e = g_ptr_array_index(m->priv->states, i);

        fn(e->name, e->instance, e->vmsd, e->opaque, opaque);
    }
    if (vmsd) {
        fn(SECTION_ACCEL, 0, vmsd, m->accel, opaque);
    }
    for (unsigned i = 0; i < m->cpus->len; i++) {
        fn(SECTION_CPU, i, &vmstate_vcpu, g_ptr_array_index(m->cpus, i), opaque);
    }
}

static const char *accel_name(Machine *m)
{
    return m->accel ? machine_accel_class(m)->short_name : "none";
}

/* ---- the accelerator's devices at reset -------------------------------------------------- */

void machine_capture_accel(Machine *m)
{
    const VMStateDescription *vmsd = accel_vmsd(m);
    StateWriter *w;

    if (machine_accel_class(m)->reset || !vmsd) {
        return; /* the accelerator's chips have a form of their own after a reset */
    }
    w = state_writer_new();
    state_section_begin(w, SECTION_ACCEL, 0, vmsd->version);
    vmstate_save(w, vmsd, m->accel);
    state_section_end(w);
    m->priv->accel_reset = state_writer_finish(w);
}

bool machine_reset_accel(Machine *m, GError **error)
{
    const VMStateDescription *vmsd = accel_vmsd(m);
    const char *name;
    uint32_t instance, version;
    StateReader *r;
    bool ok;

    if (!machine_chips_reset(m, error)) {
        return false;
    }
    if (machine_accel_class(m)->reset) {
        machine_accel_class(m)->reset(m->accel);
        return true;
    }
    if (!m->priv->accel_reset || !vmsd) {
        return true;
    }
    r = state_reader_new(m->priv->accel_reset, error);
    if (!r) {
        return false;
    }
    ok = state_next_section(r, &name, &instance, &version) &&
         vmstate_load(r, vmsd, m->accel, error);
    state_reader_free(r);
    return ok;
}

/* ---- the stream -------------------------------------------------------------------------- */

static bool fetch_cpus(Machine *m, GError **error)
{
    for (unsigned i = 0; i < m->cpus->len; i++) {
        if (!cpu_fetch_state(g_ptr_array_index(m->cpus, i), X86_STATE_ALL, error)) {
            return false;
        }
    }
    return true;
}

static void save_one(const char *name, uint32_t instance, const VMStateDescription *vmsd, void *obj,
                     void *opaque)
{
    StateWriter *w = opaque;

    state_section_begin(w, name, instance, vmsd->version);
    vmstate_save(w, vmsd, obj);
    state_section_end(w);
}

GBytes *machine_save_stopped(Machine *m, GError **error)
{
    uint8_t levels[sizeof(m->priv->levels)];
    MachineChips *chips;
    StateWriter *w;

    memcpy(levels, m->priv->levels, sizeof(levels));
    if (!fetch_cpus(m, error) || !(chips = machine_chips_read(m, levels, error))) {
        return NULL;
    }
    w = state_writer_new();
    state_section_begin(w, SECTION_MACHINE, 0, 3);
    state_put_u64(w, (uint64_t)clock_now(m->clock));
    state_put_bytes(w, levels, sizeof(levels));
    state_put_u8(w, m->priv->a20_used);
    state_put_u8(w, m->priv->a20_high);
    state_put_str(w, accel_name(m));
    state_section_end(w);
    machine_state_foreach(m, save_one, w);
    machine_chips_save(chips, w);
    machine_chips_free(chips);
    return state_writer_finish(w);
}

typedef struct Loading {
    Machine *machine;
    GPtrArray *entries;
    MachineChips *chips;
    bool foreign; /* another accelerator's */
} Loading;

static bool load_machine(Loading *l, StateReader *r, uint32_t version, GError **error)
{
    Machine *m = l->machine;
    uint8_t levels[sizeof(m->priv->levels)];
    uint8_t a20_used = 0, a20_high = 0;
    g_autofree char *accel = NULL;
    int64_t now;

    if (version != 3) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the machine's section has version %u",
                         version);
    }
    now = (int64_t)state_get_u64(r);
    if (now < 0 || !state_get_bytes(r, levels, sizeof(levels))) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the machine's section is damaged");
    }
    a20_used = state_get_u8(r);
    a20_high = state_get_u8(r);
    accel = state_get_str(r);
    if (!accel) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the machine's section is damaged");
    }
    l->foreign = strcmp(accel, accel_name(m)) != 0;
    clock_set(m->clock, now);
    machine_gsi_restore(m, levels);
    machine_a20_restore(m, a20_used, a20_high);
    return true;
}

static void collect_one(const char *name, uint32_t instance, const VMStateDescription *vmsd,
                        void *obj, void *opaque)
{
    StateEntry *e = g_new0(StateEntry, 1);

    e->name = g_strdup(name);
    e->instance = instance;
    e->vmsd = vmsd;
    e->opaque = obj;
    g_ptr_array_add(opaque, e);
}

static StateEntry *find_entry(GPtrArray *entries, const char *name, uint32_t instance)
{
    for (unsigned i = 0; i < entries->len; i++) {
        StateEntry *e = g_ptr_array_index(entries, i);

        if (e->instance == instance && strcmp(e->name, name) == 0) {
            return e;
        }
    }
    return NULL;
}

static bool load_section(Loading *l, StateReader *r, const char *name, uint32_t instance,
                         uint32_t version, GError **error)
{
    StateEntry *e;
    bool known;

    if (strcmp(name, SECTION_MACHINE) == 0) {
        return load_machine(l, r, version, error);
    }
    if (strcmp(name, SECTION_ACCEL) == 0 && l->foreign) {
        state_section_skip(r);
        return true;
    }
    e = find_entry(l->entries, name, instance);
    if (!e) {
        if (!machine_chips_load(l->chips, r, name, instance, &known, error)) {
            return false;
        }
        if (known) {
            return true;
        }
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "the saved state has a '%s' %u, which this machine has not", name,
                         instance);
    }
    if (e->seen) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the saved state has '%s' %u twice", name,
                         instance);
    }
    e->seen = true;
    if (!vmstate_load(r, e->vmsd, e->opaque, error)) {
        g_prefix_error(error, "%s %u: ", e->name, instance);
        return false;
    }
    if (state_section_left(r) > 0) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "%s %u: %zu bytes more than expected",
                         e->name, instance, state_section_left(r));
    }
    return true;
}

static bool load_missing(Loading *l, GError **error)
{
    for (unsigned i = 0; i < l->entries->len; i++) {
        StateEntry *e = g_ptr_array_index(l->entries, i);
        bool known;

        if (e->seen || (l->foreign && strcmp(e->name, SECTION_ACCEL) == 0)) {
            continue;
        }
        if (!machine_chips_default(l->chips, e->name, e->instance, e->vmsd, e->opaque, &known,
                                   error)) {
            return false;
        }
        if (!known) {
            return error_set(error, ENGINE_ERROR_CORRUPT, "the saved state has no '%s' %u", e->name,
                             e->instance);
        }
    }
    return true;
}

static bool check_cpus(Machine *m, GError **error)
{
    for (unsigned i = 0; i < m->cpus->len; i++) {
        VCpu *cpu = g_ptr_array_index(m->cpus, i);

        if ((cpu->cpuid && !x86_state_check(cpu->state, cpu->cpuid, error)) ||
            (machine_accel_class(m)->check_state && cpu->thread_alive &&
             !machine_accel_class(m)->check_state(cpu, error))) {
            g_prefix_error(error, "cpu %u: ", i);
            return false;
        }
    }
    return true;
}

bool machine_load_stopped(Machine *m, GBytes *bytes, GError **error)
{
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(machine_state_entry_free);
    StateReader *r = state_reader_new(bytes, error);
    Loading l = { .machine = m, .entries = entries };
    uint32_t instance, version;
    const char *name;
    bool ok = true;

    if (!r) {
        return false;
    }
    l.chips = machine_chips_new(m);
    /* A copy: loading may make or drop parts of the machine. */
    machine_state_foreach(m, collect_one, entries);
    while (ok && state_next_section(r, &name, &instance, &version)) {
        g_autofree char *copy = g_strdup(name);

        ok = load_section(&l, r, copy, instance, version, error);
    }
    ok = ok && state_reader_ok(r, error) && load_missing(&l, error);
    state_reader_free(r);
    machine_gsi_loaded(m);
    ok = ok && machine_chips_apply(l.chips, error) && check_cpus(m, error);
    machine_chips_free(l.chips);
    return ok;
}
