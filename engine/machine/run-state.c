/*
 * Run, pause, fail, reset, shut down, step.
 *
 * Requests come from anywhere: scripts on the main thread, handlers on vCPU threads, timers. They
 * are noted, the vCPUs are asked to stop, and the main thread carries them out where it may wait
 * for them: at once if it is the one who asks, else from a bottom half. So all transitions happen
 * on one thread, one after the other, and a request that arrives while the main thread waits is
 * simply the next one.
 */
#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/machine/machine_priv.h"

#define SETTLE_MAX 8 /* requests carried out in one go */

const char *run_state_name(RunState s)
{
    static const char *const names[] = {
        [RUN_STATE_BUILDING] = "building", [RUN_STATE_RUNNING] = "running",
        [RUN_STATE_PAUSED] = "paused",     [RUN_STATE_ERROR] = "error",
        [RUN_STATE_SHUTDOWN] = "shutdown", [RUN_STATE_CLOSED] = "closed",
    };

    return (unsigned)s < G_N_ELEMENTS(names) ? names[s] : "invalid";
}

bool machine_may_wait(Machine *m)
{
    return main_loop_is_main_thread() && engine_may_unlock() && !m->priv->settling;
}

/* ---- stopping and starting vCPUs --------------------------------------------------------- */

static void request_stop_all(Machine *m)
{
    for (unsigned i = 0; i < m->cpus->len; i++) {
        cpu_request_stop(g_ptr_array_index(m->cpus, i));
    }
}

static void stop_all(Machine *m)
{
    request_stop_all(m);
    for (unsigned i = 0; i < m->cpus->len; i++) {
        cpu_wait_stopped(g_ptr_array_index(m->cpus, i));
    }
}

static void set_clock(Machine *m, bool running)
{
    if (clock_running(m->clock) == running) {
        return;
    }
    if (running) {
        clock_start(m->clock);
    } else {
        clock_stop(m->clock);
    }
    if (m->accel && machine_accel_class(m)->clock_changed) {
        machine_accel_class(m)->clock_changed(m->accel, running);
    }
}

static void go_all(Machine *m)
{
    set_clock(m, true);
    for (unsigned i = 0; i < m->cpus->len && !m->priv->suspended; i++) {
        cpu_resume(g_ptr_array_index(m->cpus, i));
    }
}

bool machine_hold(Machine *m)
{
    bool settling = m->priv->settling;

    m->priv->settling = true;
    stop_all(m);
    m->priv->settling = settling;
    set_clock(m, false);
    return m->state == RUN_STATE_RUNNING;
}

static bool anything_pending(const MachinePriv *p)
{
    return p->pending != PENDING_NONE || p->pending_reset || p->pending_shutdown ||
           p->pending_close;
}

VCpu *machine_stepping_cpu(const Machine *m)
{
    for (unsigned i = 0; i < m->cpus->len; i++) {
        VCpu *cpu = g_ptr_array_index(m->cpus, i);

        if (cpu->stepping) {
            return cpu;
        }
    }
    return NULL;
}

/* What was asked for meanwhile will start them again, or not. */
static bool may_go(Machine *m)
{
    return m->state == RUN_STATE_RUNNING && !anything_pending(m->priv);
}

void machine_release(Machine *m)
{
    VCpu *stepping = machine_stepping_cpu(m);

    if (!may_go(m)) {
        return;
    }
    if (stepping) {
        set_clock(m, true);
        cpu_resume(stepping);
    } else {
        go_all(m);
    }
}

/* ---- transitions: main thread ------------------------------------------------------------ */

void machine_set_state(Machine *m, RunState state, const char *reason)
{
    CallbackList *list = &m->priv->notifies;
    char *copy = g_strdup(reason);

    g_free(m->reason);
    m->reason = copy;
    m->state = state;
    if (m->events && event_hub_armed(m->events, EVENT_STATUS)) {
        EventRecord x = { .source = EVENT_STATUS, .cpu = -1, .addr = state, .write = true };

        event_hub_fire(m->events, NULL, &x);
    }
    list->walking++;
    for (guint i = 0; list->items && i < list->items->len; i++) {
        Callback c = g_array_index(list->items, Callback, i);

        if (c.fn) {
            ((MachineNotify)c.fn)(m, state, c.opaque);
        }
    }
    if (--list->walking == 0 && list->holes) {
        list->holes = false;
        for (guint i = list->items->len; i-- > 0;) {
            if (!g_array_index(list->items, Callback, i).fn) {
                g_array_remove_index(list->items, i);
            }
        }
    }
}

void machine_start_running(Machine *m)
{
    go_all(m);
    machine_set_state(m, RUN_STATE_RUNNING, NULL);
}

void machine_run_resets(Machine *m, bool watches)
{
    CallbackList *list = &m->priv->resets;

    list->walking++;
    for (guint i = 0; list->items && i < list->items->len; i++) {
        Callback c = g_array_index(list->items, Callback, i);

        if (c.fn && (watches || !c.watch)) {
            ((MachineResetFn)c.fn)(c.opaque);
        }
    }
    if (--list->walking == 0 && list->holes) {
        list->holes = false;
        for (guint i = list->items->len; i-- > 0;) {
            if (!g_array_index(list->items, Callback, i).fn) {
                g_array_remove_index(list->items, i);
            }
        }
    }
}

/* vCPUs are stopped. */
static bool reset_all(Machine *m, GError **error)
{
    machine_run_resets(m, true);
    if (!machine_reset_accel(m, error)) {
        return false;
    }
    for (unsigned i = 0; i < m->cpus->len; i++) {
        cpu_reset(g_ptr_array_index(m->cpus, i));
    }
    m->priv->broken = false;
    if (event_hub_armed(m->events, EVENT_RESET)) {
        EventRecord x = { .source = EVENT_RESET, .cpu = -1, .write = true };

        event_hub_fire(m->events, NULL, &x);
    }
    return true;
}

static void do_shutdown(Machine *m)
{
    g_autofree char *why = g_steal_pointer(&m->priv->pending_shutdown);
    int code = m->priv->pending_exit_code;

    stop_all(m);
    set_clock(m, false);
    /* What was asked for before the end has no meaning after it. */
    g_clear_pointer(&m->priv->pending_shutdown, g_free);
    g_clear_pointer(&m->priv->pending_reset, g_free);
    g_clear_pointer(&m->priv->pending_reason, g_free);
    m->priv->pending = PENDING_NONE;
    m->exit_code = code;
    machine_set_state(m, RUN_STATE_SHUTDOWN, why);
}

static bool do_reset(Machine *m, GError **error)
{
    g_autofree char *why = g_steal_pointer(&m->priv->pending_reset);
    MachinePriv *p = m->priv;
    bool ok;

    stop_all(m);
    log_mask(LOG_CPU, "%s: reset: %s", OBJECT(m)->name, why);
    p->suspended = false;
    ok = reset_all(m, error);
    p->waking = false;
    if (!ok) {
        p->broken = true;
        set_clock(m, false);
        machine_set_state(m, RUN_STATE_ERROR, "the reset failed");
        return false;
    }
    if (m->state == RUN_STATE_RUNNING) {
        machine_release(m);
    } else if (m->state != RUN_STATE_PAUSED) {
        machine_set_state(m, RUN_STATE_PAUSED, "reset");
    }
    return true;
}

static bool can_run(Machine *m, GError **error)
{
    const char *name = OBJECT(m)->name ? OBJECT(m)->name : "machine";

    switch (m->state) {
    case RUN_STATE_BUILDING:
        return error_set(error, ENGINE_ERROR_INVALID, "%s is not complete yet", name);
    case RUN_STATE_SHUTDOWN:
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s has shut down (%s): reset it to run it again", name, m->reason);
    case RUN_STATE_CLOSED:
        return error_set(error, ENGINE_ERROR_GONE, "%s is closed", name);
    default:
        break;
    }
    if (m->priv->closing) {
        return error_set(error, ENGINE_ERROR_GONE, "%s is being closed", name);
    }
    if (!m->priv->finished) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s failed while it was built: %s", name,
                         m->reason);
    }
    if (m->priv->broken) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s has only half a state (%s): reset it, or restore a snapshot", name,
                         m->reason);
    }
    return true;
}

static void do_run_request(Machine *m)
{
    MachinePriv *p = m->priv;
    PendingRun what = p->pending;
    g_autofree char *reason = g_steal_pointer(&p->pending_reason);

    p->pending = PENDING_NONE;
    switch (what) {
    case PENDING_PAUSE:
        if (m->state == RUN_STATE_RUNNING) {
            stop_all(m);
            set_clock(m, false);
            machine_set_state(m, RUN_STATE_PAUSED, reason);
        }
        break;
    case PENDING_FAIL:
        if (m->state != RUN_STATE_SHUTDOWN && m->state != RUN_STATE_CLOSED) {
            stop_all(m);
            set_clock(m, false);
            machine_set_state(m, RUN_STATE_ERROR, reason);
        }
        break;
    case PENDING_RESUME:
        if (may_go(m)) {
            go_all(m); /* those too that stood while one was stepping */
        } else if (m->state != RUN_STATE_RUNNING) {
            GError *error = NULL;

            if (can_run(m, &error)) {
                machine_start_running(m);
            } else {
                log_warning("%s", error->message);
                g_error_free(error);
            }
        }
        break;
    case PENDING_NONE:
        break;
    }
}

static bool settle(Machine *m, GError **error)
{
    MachinePriv *p = m->priv;
    bool ok = true;

    object_ref(m);
    p->settling = true;
    /* Bounded: hooks that ask for the opposite of what they are told keep only themselves busy. */
    for (unsigned n = 0; n < SETTLE_MAX && !p->pending_close && anything_pending(p); n++) {
        if (p->pending_shutdown) {
            do_shutdown(m);
        } else if (p->pending_reset) {
            GError *e = NULL;

            if (!do_reset(m, &e)) {
                ok = false;
                if (error && !*error) {
                    g_propagate_error(error, e);
                } else {
                    log_error("%s", e->message);
                    g_error_free(e);
                }
            }
        } else {
            do_run_request(m);
        }
    }
    p->settling = false;
    if (p->pending_close) {
        machine_close_now(m);
    } else if (anything_pending(p)) {
        bh_schedule(p->bh);
    }
    object_unref(m);
    return ok;
}

void machine_settle(Machine *m)
{
    settle(m, NULL);
}

void machine_run_bh(void *opaque)
{
    Machine *m = opaque;

    if (m->priv->closing || m->priv->settling) {
        return; /* who settles goes on until nothing is pending */
    }
    if (!machine_may_wait(m)) {
        bh_schedule(m->priv->bh);
        return;
    }
    settle(m, NULL);
}

void machine_drop_pending(Machine *m)
{
    MachinePriv *p = m->priv;

    p->pending = PENDING_NONE;
    p->pending_close = false;
    g_clear_pointer(&p->pending_reason, g_free);
    g_clear_pointer(&p->pending_reset, g_free);
    g_clear_pointer(&p->pending_shutdown, g_free);
}

/* ---- requests: any thread ---------------------------------------------------------------- */

static void set_pending(Machine *m, PendingRun what, const char *reason)
{
    char *copy = g_strdup(reason);

    g_free(m->priv->pending_reason);
    m->priv->pending_reason = copy;
    m->priv->pending = what;
}

/* Has it done now, or stops the guest and has it done soon. */
static void act(Machine *m)
{
    if (machine_may_wait(m)) {
        machine_settle(m);
    } else {
        request_stop_all(m);
        bh_schedule(m->priv->bh);
    }
}

void machine_pause(Machine *m, const char *reason)
{
    MachinePriv *p = m->priv;

    ENGINE_LOCK_ASSERT();
    if (p->closing) {
        return;
    }
    if (p->pending == PENDING_RESUME && m->state != RUN_STATE_RUNNING) {
        set_pending(m, PENDING_NONE, NULL);
        return;
    }
    if (m->state == RUN_STATE_RUNNING && p->pending != PENDING_FAIL) {
        set_pending(m, PENDING_PAUSE, reason);
        act(m);
    }
}

void machine_fail(Machine *m, const char *message)
{
    ENGINE_LOCK_ASSERT();
    if (m->priv->closing) {
        return;
    }
    switch (m->state) {
    case RUN_STATE_BUILDING:
        machine_set_state(m, RUN_STATE_ERROR, message);
        return;
    case RUN_STATE_ERROR:
        /* Also what a hook on this very state runs into: it must not go round for ever. */
        set_pending(m, PENDING_NONE, NULL);
        log_error("%s: %s", OBJECT(m)->name, message);
        return;
    case RUN_STATE_SHUTDOWN:
    case RUN_STATE_CLOSED:
        log_error("%s: %s", OBJECT(m)->name, message);
        return;
    default:
        break;
    }
    if (m->priv->pending == PENDING_FAIL) {
        return; /* the first one is the cause */
    }
    set_pending(m, PENDING_FAIL, message);
    act(m);
}

bool machine_resume(Machine *m, GError **error)
{
    MachinePriv *p = m->priv;

    ENGINE_LOCK_ASSERT();
    if (!can_run(m, error)) {
        return false;
    }
    if (p->pending == PENDING_FAIL) {
        return error_set(error, ENGINE_ERROR_BUSY, "%s is about to stop: %s", OBJECT(m)->name,
                         p->pending_reason);
    }
    if (m->state == RUN_STATE_RUNNING && p->pending != PENDING_PAUSE && !p->settling) {
        /* One vCPU may be stepping while the others stand. */
        if (may_go(m)) {
            go_all(m);
        }
        return true;
    }
    set_pending(m, PENDING_RESUME, NULL);
    if (!p->settling && main_loop_is_main_thread() && !p->pending_reset && !p->pending_shutdown) {
        /* Starting needs no waiting. */
        do_run_request(m);
    } else {
        bh_schedule(p->bh);
    }
    return true;
}

void machine_request_reset(Machine *m, const char *why)
{
    MachinePriv *p = m->priv;

    ENGINE_LOCK_ASSERT();
    if (p->closing || m->state == RUN_STATE_BUILDING || !p->finished) {
        return;
    }
    if (m->no_reboot) {
        machine_request_shutdown(m, why, 0);
        return;
    }
    if (!p->pending_reset) {
        p->pending_reset = g_strdup(why ? why : "reset");
    }
    request_stop_all(m);
    bh_schedule(p->bh);
}

void machine_request_suspend(Machine *m)
{
    ENGINE_LOCK_ASSERT();
    if (m->priv->closing || m->state != RUN_STATE_RUNNING) {
        return;
    }
    m->priv->suspended = true;
    request_stop_all(m);
}

void machine_request_wakeup(Machine *m)
{
    MachinePriv *p = m->priv;

    ENGINE_LOCK_ASSERT();
    if (p->closing || !p->suspended) {
        return;
    }
    if (!p->pending_reset) {
        p->pending_reset = g_strdup("wake-up");
        p->waking = true;
    }
    request_stop_all(m);
    bh_schedule(p->bh);
}

bool machine_waking(const Machine *m)
{
    return m->priv->waking;
}

bool machine_suspended(const Machine *m)
{
    return m->priv->suspended;
}

void machine_restore_suspended(Machine *m, bool suspended)
{
    ENGINE_LOCK_ASSERT();
    m->priv->suspended = suspended;
}

void machine_request_shutdown(Machine *m, const char *why, int exit_code)
{
    MachinePriv *p = m->priv;

    ENGINE_LOCK_ASSERT();
    if (p->closing || m->state == RUN_STATE_SHUTDOWN || p->pending_shutdown) {
        return;
    }
    p->pending_shutdown = g_strdup(why ? why : "shutdown");
    p->pending_exit_code = exit_code;
    act(m);
}

bool machine_reset(Machine *m, GError **error)
{
    ENGINE_LOCK_ASSERT();
    if (m->priv->closing || !m->priv->finished) {
        return error_set(error, m->priv->closing ? ENGINE_ERROR_GONE : ENGINE_ERROR_INVALID,
                         "%s cannot be reset: it is %s",
                         OBJECT(m)->name ? OBJECT(m)->name : "the machine",
                         m->priv->closing ? "closed" : "not complete");
    }
    if (!machine_may_wait(m)) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "%s cannot be reset inside a callback: request the reset instead",
                         OBJECT(m)->name);
    }
    if (!m->priv->pending_reset) {
        m->priv->pending_reset = g_strdup("reset");
    }
    return settle(m, error);
}

bool machine_step(Machine *m, VCpu *cpu, GError **error)
{
    AccelClass *klass;

    ENGINE_LOCK_ASSERT();
    if (!can_run(m, error)) {
        return false;
    }
    if (m->state == RUN_STATE_RUNNING || anything_pending(m->priv) || m->priv->settling ||
        !main_loop_is_main_thread()) {
        return error_set(error, ENGINE_ERROR_BUSY, "%s must be paused for a single step",
                         OBJECT(m)->name);
    }
    klass = machine_accel_class(m);
    if (!klass->step) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED, "accelerator %s cannot single-step",
                         klass->short_name);
    }
    if (!klass->step(cpu, error)) {
        return false;
    }
    cpu->stepping = true;
    set_clock(m, true);
    m->state = RUN_STATE_RUNNING;
    cpu_resume(cpu);
    machine_set_state(m, RUN_STATE_RUNNING, "step");
    return true;
}
