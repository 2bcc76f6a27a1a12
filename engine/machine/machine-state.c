/*
 * Saved state: who has some, the stream of devices and vCPUs, snapshots in RAM.
 *
 * Order in the stream, which is the order of loading: the machine itself (clock first, so that
 * timers are armed against it; then the interrupt lines), devices as they were registered, the
 * accelerator's devices (they override what the lines did to them), vCPUs.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/machine/machine_priv.h"
#include "engine/state/stream.h"

#define SECTION_MACHINE "machine"
#define SECTION_ACCEL   "accelerator"
#define SECTION_CPU     "cpu"

struct Snapshot {
    unsigned ref;
    Machine *machine; /* NULL: closed; `ram` is gone with it */
    GBytes *devices;
    RamSnapshot *ram;
    RunState state;
    char *reason;
};

/* ---- registration ------------------------------------------------------------------------ */

static void entry_free(void *data)
{
    StateEntry *e = data;

    g_free(e->name);
    g_free(e);
}

bool machine_register_state(Machine *m, const char *name, uint32_t instance,
                            const VMStateDescription *vmsd, void *opaque, GError **error)
{
    StateEntry *e;

    ENGINE_LOCK_ASSERT();
    if (!m->priv->states) {
        return error_set(error, ENGINE_ERROR_GONE, "%s %u: the machine is closed", name, instance);
    }
    if (strcmp(name, SECTION_MACHINE) == 0 || strcmp(name, SECTION_ACCEL) == 0 ||
        strcmp(name, SECTION_CPU) == 0) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "saved state cannot be called '%s': that is the machine's own", name);
    }
    for (unsigned i = 0; i < m->priv->states->len; i++) {
        e = g_ptr_array_index(m->priv->states, i);
        if (strcmp(e->name, name) == 0 && e->instance == instance) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "there is already saved state called '%s' %u", name, instance);
        }
    }
    e = g_new0(StateEntry, 1);
    e->name = g_strdup(name);
    e->instance = instance;
    e->vmsd = vmsd;
    e->opaque = opaque;
    g_ptr_array_add(m->priv->states, e);
    return true;
}

void machine_unregister_state(Machine *m, const VMStateDescription *vmsd, void *opaque)
{
    for (unsigned i = 0; m->priv->states && i < m->priv->states->len; i++) {
        StateEntry *e = g_ptr_array_index(m->priv->states, i);

        if (e->vmsd == vmsd && e->opaque == opaque) {
            g_ptr_array_remove_index(m->priv->states, i);
            return;
        }
    }
}

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

static void sync_dirty(void *opaque)
{
    Machine *m = opaque;

    for (unsigned i = 0; i < m->priv->rams->len; i++) {
        memory_region_sync_dirty(g_ptr_array_index(m->priv->rams, i));
    }
}

void machine_add_ram(Machine *m, const char *name, MemoryRegion *mr)
{
    ENGINE_LOCK_ASSERT();
    if (m->ram_tracker) {
        g_ptr_array_add(m->priv->rams, mr);
        ram_tracker_add(m->ram_tracker, name, mr);
    }
}

void machine_remove_ram(Machine *m, MemoryRegion *mr)
{
    ENGINE_LOCK_ASSERT();
    if (m->ram_tracker && g_ptr_array_remove(m->priv->rams, mr)) {
        ram_tracker_remove(m->ram_tracker, mr);
    }
}

void machine_state_init(Machine *m)
{
    m->priv->states = g_ptr_array_new_with_free_func(entry_free);
    m->priv->rams = g_ptr_array_new();
    m->priv->snapshots = g_ptr_array_new();
    m->ram_tracker = ram_tracker_new(sync_dirty, m);
}

void machine_state_close(Machine *m)
{
    MachinePriv *p = m->priv;

    if (!p->states) {
        return;
    }
    if (m->ram_tracker) {
        ram_snapshot_free(m->ram_tracker, g_steal_pointer(&p->torture));
    }
    while (p->snapshots->len > 0) {
        Snapshot *s = g_ptr_array_steal_index_fast(p->snapshots, 0);

        ram_snapshot_free(m->ram_tracker, g_steal_pointer(&s->ram));
        s->machine = NULL;
    }
    ram_tracker_free(g_steal_pointer(&m->ram_tracker));
    g_clear_pointer(&p->states, g_ptr_array_unref);
    g_clear_pointer(&p->rams, g_ptr_array_unref);
    g_clear_pointer(&p->snapshots, g_ptr_array_unref);
    g_clear_pointer(&p->accel_reset, g_bytes_unref);
}

void machine_state_finalize(Machine *m)
{
    machine_state_close(m);
}

/* ---- the accelerator's devices at reset -------------------------------------------------- */

void machine_capture_accel(Machine *m)
{
    const VMStateDescription *vmsd = accel_vmsd(m);
    StateWriter *w;

    if (machine_accel_class(m)->reset || !vmsd) {
        return;
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
    StateWriter *w;

    if (!fetch_cpus(m, error)) {
        return NULL;
    }
    w = state_writer_new();
    state_section_begin(w, SECTION_MACHINE, 0, 2);
    state_put_u64(w, (uint64_t)clock_now(m->clock));
    state_put_bytes(w, m->priv->levels, sizeof(m->priv->levels));
    state_put_u8(w, m->priv->a20_used);
    state_put_u8(w, m->priv->a20_high);
    state_section_end(w);
    machine_state_foreach(m, save_one, w);
    return state_writer_finish(w);
}

static bool load_machine(Machine *m, StateReader *r, uint32_t version, GError **error)
{
    uint8_t levels[sizeof(m->priv->levels)];
    uint8_t a20_used = 0, a20_high = 0;
    int64_t now;

    if (version < 1 || version > 2) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the machine's section has version %u",
                         version);
    }
    now = (int64_t)state_get_u64(r);
    if (now < 0 || !state_get_bytes(r, levels, sizeof(levels))) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "the machine's section is damaged");
    }
    clock_set(m->clock, now);
    if (version >= 2) {
        a20_used = state_get_u8(r);
        a20_high = state_get_u8(r);
    }
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

static bool load_section(Machine *m, StateReader *r, GPtrArray *entries, const char *name,
                         uint32_t instance, uint32_t version, GError **error)
{
    StateEntry *e;

    if (strcmp(name, SECTION_MACHINE) == 0) {
        return load_machine(m, r, version, error);
    }
    e = find_entry(entries, name, instance);
    if (!e) {
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

bool machine_load_stopped(Machine *m, GBytes *bytes, GError **error)
{
    g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(entry_free);
    StateReader *r = state_reader_new(bytes, error);
    uint32_t instance, version;
    const char *name;
    bool ok = true;

    if (!r) {
        return false;
    }
    /* A copy: loading may make or drop parts of the machine. */
    machine_state_foreach(m, collect_one, entries);
    while (ok && state_next_section(r, &name, &instance, &version)) {
        g_autofree char *copy = g_strdup(name);

        ok = load_section(m, r, entries, copy, instance, version, error);
    }
    if (ok) {
        ok = state_reader_ok(r, error);
    }
    state_reader_free(r);
    machine_gsi_loaded(m);
    for (unsigned i = 0; ok && i < entries->len; i++) {
        StateEntry *e = g_ptr_array_index(entries, i);

        if (!e->seen) {
            ok = error_set(error, ENGINE_ERROR_CORRUPT, "the saved state has no '%s' %u", e->name,
                           e->instance);
        }
    }
    return ok;
}

bool machine_may_touch_state(Machine *m, const char *what, GError **error)
{
    const char *name = OBJECT(m)->name ? OBJECT(m)->name : "the machine";

    ENGINE_LOCK_ASSERT();
    if (m->priv->closing) {
        return error_set(error, ENGINE_ERROR_GONE, "%s is closed", name);
    }
    if (!m->priv->finished) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s is not complete: it has no state to %s",
                         name, what);
    }
    if (!machine_may_wait(m)) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "the state of %s cannot be %sd inside a callback", name, what);
    }
    return true;
}

static GBytes *save_devices(Machine *m, GError **error)
{
    GBytes *bytes;

    if (!machine_may_touch_state(m, "save", error)) {
        return NULL;
    }
    machine_settle(m); /* nothing half-done may slip in */
    if (!machine_may_touch_state(m, "save", error)) {
        return NULL;
    }
    machine_hold(m);
    bytes = machine_save_stopped(m, error);
    machine_release(m);
    return bytes;
}

void machine_become_broken(Machine *m, const char *what, const GError *error)
{
    g_autofree char *reason = g_strdup_printf("%s failed: %s", what, error->message);

    m->priv->broken = true;
    machine_drop_pending(m);
    machine_set_state(m, RUN_STATE_ERROR, reason);
}

static bool load_devices(Machine *m, GBytes *bytes, GError **error)
{
    GError *e = NULL;

    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    machine_settle(m);
    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    machine_hold(m);
    if (!machine_load_stopped(m, bytes, &e)) {
        machine_become_broken(m, "loading devices", e);
        g_propagate_error(error, e);
        return false;
    }
    m->priv->restores++;
    machine_release(m);
    return true;
}

/* ---- snapshots --------------------------------------------------------------------------- */

static Snapshot *take_snapshot(Machine *m, GError **error)
{
    Snapshot *s;
    GBytes *devices;

    if (!machine_may_touch_state(m, "save", error)) {
        return NULL;
    }
    machine_settle(m);
    if (!machine_may_touch_state(m, "save", error)) {
        return NULL;
    }
    if (m->priv->broken) {
        error_set(error, ENGINE_ERROR_INVALID, "%s has only half a state (%s)", OBJECT(m)->name,
                  m->reason);
        return NULL;
    }
    machine_hold(m);
    devices = machine_save_stopped(m, error);
    if (!devices) {
        machine_release(m);
        return NULL;
    }
    s = g_new0(Snapshot, 1);
    s->ref = 1;
    s->machine = m;
    s->devices = devices;
    /* Half of a single step is none. */
    s->state = machine_stepping_cpu(m) ? RUN_STATE_PAUSED : m->state;
    s->reason = g_strdup(m->reason);
    s->ram = ram_snapshot_take(m->ram_tracker);
    g_ptr_array_add(m->priv->snapshots, s);
    log_mask(LOG_STATE, "%s: snapshot, %zu bytes of devices", OBJECT(m)->name,
             g_bytes_get_size(devices));
    machine_release(m);
    return s;
}

static bool restore_snapshot(Machine *m, Snapshot *s, GError **error)
{
    GError *e = NULL;

    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    if (s->machine != m) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         s->machine ? "the snapshot is of another machine"
                                    : "the snapshot's machine is closed");
    }
    machine_settle(m);
    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    machine_hold(m);
    m->priv->restores++;
    if (!ram_snapshot_restore(m->ram_tracker, s->ram, &e) ||
        !machine_load_stopped(m, s->devices, &e)) {
        machine_become_broken(m, "the restore", e);
        g_propagate_error(error, e);
        return false;
    }
    m->priv->broken = false;
    machine_drop_pending(m); /* it belonged to the life that is over */
    log_mask(LOG_STATE, "%s: restored", OBJECT(m)->name);
    if (s->state == RUN_STATE_RUNNING) {
        machine_start_running(m);
    } else {
        machine_set_state(m, s->state, s->reason);
    }
    return true;
}

/* ---- with nothing in flight ---------------------------------------------------------------- */

GBytes *machine_save_devices(Machine *m, GError **error)
{
    GBytes *bytes;

    if (!machine_may_touch_state(m, "save", error) || !machine_quiesce_begin(m, error)) {
        return NULL;
    }
    bytes = save_devices(m, error);
    machine_quiesce_end(m);
    return bytes;
}

bool machine_load_devices(Machine *m, GBytes *bytes, GError **error)
{
    bool ok;

    if (!machine_may_touch_state(m, "restore", error) || !machine_quiesce_begin(m, error)) {
        return false;
    }
    ok = load_devices(m, bytes, error);
    machine_quiesce_end(m);
    return ok;
}

Snapshot *machine_snapshot(Machine *m, GError **error)
{
    Snapshot *s;

    if (!machine_may_touch_state(m, "save", error) || !machine_quiesce_begin(m, error)) {
        return NULL;
    }
    s = take_snapshot(m, error);
    machine_quiesce_end(m);
    return s;
}

bool machine_restore(Machine *m, Snapshot *s, GError **error)
{
    bool ok;

    if (!machine_may_touch_state(m, "restore", error) || !machine_quiesce_begin(m, error)) {
        return false;
    }
    ok = restore_snapshot(m, s, error);
    machine_quiesce_end(m);
    return ok;
}

void snapshot_ref(Snapshot *s)
{
    s->ref++;
}

void snapshot_unref(Snapshot *s)
{
    if (!s || --s->ref > 0) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    if (s->machine) {
        g_ptr_array_remove_fast(s->machine->priv->snapshots, s);
        ram_snapshot_free(s->machine->ram_tracker, s->ram);
    }
    g_bytes_unref(s->devices);
    g_free(s->reason);
    g_free(s);
}

uint64_t snapshot_device_bytes(const Snapshot *s)
{
    return g_bytes_get_size(s->devices);
}

uint64_t machine_restore_count(const Machine *m)
{
    return m->priv->restores;
}
