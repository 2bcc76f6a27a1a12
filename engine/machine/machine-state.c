/*
 * Saved state: who has some, snapshots in RAM. The stream: machine-stream.c.
 *
 * A load that fails leaves everything as it was: the state before is taken first.
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/machine/machine_priv.h"
#include "engine/state/stream.h"

struct Snapshot {
    unsigned ref;
    Machine *machine; /* NULL: closed; `ram` is gone with it */
    GBytes *devices;
    RamSnapshot *ram;
    RunState state;
    char *reason;
};

/* ---- registration ------------------------------------------------------------------------ */

void machine_state_entry_free(void *data)
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
    m->priv->states = g_ptr_array_new_with_free_func(machine_state_entry_free);
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

void machine_become_broken(Machine *m, const char *what, const GError *error)
{
    g_autofree char *reason = g_strdup_printf("%s failed: %s", what, error->message);

    m->priv->broken = true;
    machine_drop_pending(m);
    machine_set_state(m, RUN_STATE_ERROR, reason);
}

/* Held. Loads, or leaves the machine as it was; a machine whose state before cannot be had, or not
 * be put back, ends in an error. */
static bool load_or_go_back(Machine *m, GBytes *bytes, RamSnapshot *ram, GError **error)
{
    GError *e = NULL, *worse = NULL;
    g_autoptr(GBytes) before = machine_save_stopped(m, &worse);

    /* RAM last: it is refused without having changed. */
    if (machine_load_stopped(m, bytes, &e) &&
        (!ram || ram_snapshot_restore(m->ram_tracker, ram, &e))) {
        g_clear_error(&worse);
        return true;
    }
    if (!before || !machine_load_stopped(m, before, &worse)) {
        g_prefix_error(&e, "%s, after: ", worse->message);
        g_clear_error(&worse);
        machine_become_broken(m, ram ? "the restore" : "loading devices", e);
    }
    g_propagate_error(error, e);
    return false;
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

static bool load_devices(Machine *m, GBytes *bytes, GError **error)
{
    bool ok;

    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    machine_settle(m);
    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    machine_hold(m);
    ok = load_or_go_back(m, bytes, NULL, error);
    m->priv->restores += ok;
    machine_release(m);
    return ok;
}

/* ---- snapshots --------------------------------------------------------------------------- */

static Snapshot *take_snapshot(Machine *m, GError **error)
{
    Snapshot *s;
    GBytes *devices;
    RamSnapshot *ram;

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
    ram = devices ? ram_snapshot_take(m->ram_tracker, error) : NULL;
    if (!ram) {
        g_clear_pointer(&devices, g_bytes_unref);
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
    s->ram = ram;
    g_ptr_array_add(m->priv->snapshots, s);
    log_mask(LOG_STATE, "%s: snapshot, %zu bytes of devices", OBJECT(m)->name,
             g_bytes_get_size(devices));
    machine_release(m);
    return s;
}

static bool restore_snapshot(Machine *m, Snapshot *s, GError **error)
{
    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    if (!s->machine) {
        return error_set(error, ENGINE_ERROR_INVALID, "the snapshot's machine is closed");
    }
    machine_settle(m);
    if (!machine_may_touch_state(m, "restore", error)) {
        return false;
    }
    machine_hold(m);
    if (!load_or_go_back(m, s->devices, s->ram, error)) {
        machine_release(m);
        return false;
    }
    m->priv->restores++;
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
