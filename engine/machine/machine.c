/*
 * The machine type: making, composing and closing machines.
 */
#include "engine/machine/machine.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/machine/machine_priv.h"

#define MAX_CPUS_DEFAULT 255

/* ---- callback lists ---------------------------------------------------------------------- */

void callback_add(CallbackList *list, void (*fn)(void), void *opaque, bool watch)
{
    Callback c = { fn, opaque, watch };

    if (!list->items) {
        list->items = g_array_new(FALSE, FALSE, sizeof(Callback));
    }
    g_array_append_val(list->items, c);
}

void callback_remove(CallbackList *list, void (*fn)(void), void *opaque)
{
    for (guint i = 0; list->items && i < list->items->len; i++) {
        Callback *c = &g_array_index(list->items, Callback, i);

        if (c->fn == fn && c->opaque == opaque) {
            if (list->walking) {
                c->fn = NULL;
                list->holes = true;
            } else {
                g_array_remove_index(list->items, i);
            }
            return;
        }
    }
}

/* ---- making ------------------------------------------------------------------------------ */

static void (*thread_started)(VCpu *cpu);
static void (*thread_ending)(VCpu *cpu);

void machine_set_thread_hooks(void (*started)(VCpu *cpu), void (*ending)(VCpu *cpu))
{
    thread_started = started;
    thread_ending = ending;
}

static void cpu_thread_started(void *opaque, VCpu *cpu)
{
    if (thread_started) {
        thread_started(cpu);
    }
}

static void cpu_thread_ending(void *opaque, VCpu *cpu)
{
    if (thread_ending) {
        thread_ending(cpu);
    }
}

Machine *machine_of_cpu(VCpu *cpu)
{
    return cpu->host.system_event == machine_system_event ? cpu->host.opaque : NULL;
}

#define TYPE_MACHINES "machines"

static Object *machines_container(void)
{
    Object *root = object_get_root(), *c = object_get_child(root, TYPE_MACHINES);

    if (!c) {
        c = object_new(TYPE_MACHINES, NULL);
        object_add_child(root, TYPE_MACHINES, c, NULL);
        object_unref(c); /* the tree's from now on */
    }
    return c;
}

static char *free_name(Object *container, const char *base)
{
    for (unsigned i = 0;; i++) {
        g_autofree char *name = g_strdup_printf("%s-%u", base, i);

        if (!object_get_child(container, name)) {
            return g_steal_pointer(&name);
        }
    }
}

Machine *machine_new(const char *type_name, const char *id, GError **error)
{
    MachineClass *klass = select_machine(type_name, error);
    g_autofree char *name = NULL;
    Object *obj, *container;
    Machine *m;

    ENGINE_LOCK_ASSERT();
    if (!klass) {
        return NULL;
    }
    obj = object_new_with_class(OBJECT_CLASS(klass), error);
    if (!obj) {
        return NULL;
    }
    container = machines_container();
    name = id ? g_strdup(id) : free_name(container, object_class_get_name(OBJECT_CLASS(klass)));
    if (!object_add_child(container, name, obj, error)) {
        object_unref(obj);
        return NULL;
    }
    object_unref(obj);
    m = MACHINE(obj);
    m->memory = address_space_new(ADDRESS_SPACE_MEMORY, &m->memory_root, "memory");
    m->io = address_space_new(ADDRESS_SPACE_IO, &m->io_root, "io");
    m->events = machine_new_events(m);
    m->priv->bh = bh_new(machine_run_bh, m);
    machine_state_init(m);
    return m;
}

void machine_eoi(Machine *m, int vector)
{
    if (m->priv->eoi) {
        m->priv->eoi(m->priv->eoi_opaque, vector);
    }
}

static void accel_eoi(void *opaque, int vector)
{
    machine_eoi(opaque, vector);
}

void machine_set_eoi(Machine *m, void (*fn)(void *opaque, int vector), void *opaque)
{
    m->priv->eoi = fn;
    m->priv->eoi_opaque = opaque;
}

static bool still_building(Machine *m, const char *what, GError **error)
{
    if (m->priv->closing) {
        return error_set(error, ENGINE_ERROR_GONE, "%s is closed", OBJECT(m)->name);
    }
    if (m->priv->finished) {
        return error_set(error, ENGINE_ERROR_BUSY, "%s is complete: %s comes before that",
                         OBJECT(m)->name, what);
    }
    return true;
}

bool machine_set_accel(Machine *m, AccelClass *klass, IrqchipMode irqchip, bool pit, GError **error)
{
    MachineClass *mc = MACHINE_GET_CLASS(m);
    AccelConfig config = {
        .memory = m->memory,
        .io = m->io,
        .irqchip = irqchip,
        .pit = pit,
        .clock = m->clock,
        .icount = m->icount,
        .max_cpus = mc->max_cpus ? mc->max_cpus : MAX_CPUS_DEFAULT,
        .eoi = accel_eoi,
        .opaque = m,
    };
    Accel *a;

    ENGINE_LOCK_ASSERT();
    if (!still_building(m, "the accelerator", error)) {
        return false;
    }
    if (m->accel) {
        return error_set(error, ENGINE_ERROR_BUSY, "%s already has the accelerator %s",
                         OBJECT(m)->name, machine_accel_class(m)->short_name);
    }
    a = accel_new(klass);
    if (!a) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s cannot be instantiated",
                         object_class_get_name(OBJECT_CLASS(klass)));
    }
    if (!accel_create(a, &config, error)) {
        object_unref(a);
        return false;
    }
    if (!object_add_child(OBJECT(m), "accel", OBJECT(a), error)) {
        accel_destroy(a);
        object_unref(a);
        return false;
    }
    object_unref(a);
    m->accel = a;
    return true;
}

VCpu *machine_add_cpu(Machine *m, CpuidPolicy *policy, GError **error)
{
    g_autofree CpuidPolicy *owned = policy;
    g_autofree char *name = NULL;
    Object *obj;
    VCpu *cpu;

    ENGINE_LOCK_ASSERT();
    if (!still_building(m, "adding vCPUs", error)) {
        return NULL;
    }
    if (!m->accel) {
        error_set(error, ENGINE_ERROR_INVALID, "%s has no accelerator for a vCPU", OBJECT(m)->name);
        return NULL;
    }
    if (m->cpus->len >= m->accel->config.max_cpus) {
        error_set(error, ENGINE_ERROR_LIMIT, "%s takes at most %u vCPUs", OBJECT(m)->name,
                  m->accel->config.max_cpus);
        return NULL;
    }
    if (!owned) {
        owned = machine_accel_class(m)->supported_cpuid(error);
        if (!owned) {
            return NULL;
        }
    }
    obj = object_new(TYPE_VCPU, error);
    if (!obj) {
        return NULL;
    }
    cpu = VCPU(obj);
    cpu->index = (int)m->cpus->len;
    cpu->accel = m->accel;
    cpu->ops = &m->accel->cpu_ops;
    cpu->hlt_in_accel = m->accel->config.irqchip != IRQCHIP_OFF;
    cpu->memory = m->memory;
    cpu->io = m->io;
    cpu->events = m->events;
    cpu->cpuid = g_steal_pointer(&owned);
    cpu->host = (CpuHost){
        .system_event = machine_system_event,
        .thread_started = cpu_thread_started,
        .thread_ending = cpu_thread_ending,
        .opaque = m,
    };
    name = g_strdup_printf("cpu-%d", cpu->index);
    if (!object_add_child(OBJECT(m), name, obj, error)) {
        object_unref(obj);
        return NULL;
    }
    object_unref(obj);
    if (!cpu_start_thread(cpu, error)) {
        object_unparent(obj);
        return NULL;
    }
    g_ptr_array_add(m->cpus, cpu);
    return cpu;
}

bool machine_finish_init(Machine *m, GError **error)
{
    ENGINE_LOCK_ASSERT();
    if (!still_building(m, "its end", error)) {
        return false;
    }
    if (m->state != RUN_STATE_BUILDING) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s failed while it was built: %s",
                         OBJECT(m)->name, m->reason ? m->reason : "no reason given");
    }
    if (!machine_may_wait(m)) {
        return error_set(error, ENGINE_ERROR_BUSY, "%s cannot be completed inside a callback",
                         OBJECT(m)->name);
    }
    if (!m->accel) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s has no accelerator", OBJECT(m)->name);
    }
    if (m->cpus->len == 0) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s has no vCPU", OBJECT(m)->name);
    }
    if (!cpu_topology_check(&m->topology, m->cpus->len, error)) {
        return false;
    }
    for (unsigned i = 0; i < m->cpus->len; i++) {
        VCpu *cpu = g_ptr_array_index(m->cpus, i);

        if (!cpuid_policy_set_topology(cpu->cpuid, i, &m->topology, error) ||
            (machine_accel_class(m)->set_cpuid && !machine_accel_class(m)->set_cpuid(cpu, error))) {
            return false;
        }
    }
    m->priv->finished = true;
    machine_capture_accel(m);
    machine_set_state(m, RUN_STATE_PAUSED, "not started");
    return machine_reset(m, error);
}

/* ---- callbacks of others ----------------------------------------------------------------- */

void machine_add_reset(Machine *m, MachineResetFn fn, void *opaque)
{
    callback_add(&m->priv->resets, (void (*)(void))fn, opaque, false);
}

void machine_add_reset_watch(Machine *m, MachineResetFn fn, void *opaque)
{
    callback_add(&m->priv->resets, (void (*)(void))fn, opaque, true);
}

void machine_remove_reset(Machine *m, MachineResetFn fn, void *opaque)
{
    callback_remove(&m->priv->resets, (void (*)(void))fn, opaque);
}

void machine_add_notify(Machine *m, MachineNotify fn, void *opaque)
{
    callback_add(&m->priv->notifies, (void (*)(void))fn, opaque, true);
}

void machine_remove_notify(Machine *m, MachineNotify fn, void *opaque)
{
    callback_remove(&m->priv->notifies, (void (*)(void))fn, opaque);
}

/* ---- closing ----------------------------------------------------------------------------- */

static void empty_root(MemoryRegion *root)
{
    memory_region_transaction_begin();
    while (root->subregions && root->subregions->len > 0) {
        memory_region_del_subregion(root, g_ptr_array_index(root->subregions, 0));
    }
    memory_region_transaction_commit();
}

/* Everything but the accelerator, the newest first: nothing outlives what it was built upon. */
static void unparent_parts(Machine *m)
{
    for (;;) {
        unsigned i = object_child_count(OBJECT(m));
        Object *child = NULL;

        while (i-- > 0) {
            child = object_child_at(OBJECT(m), i);
            if (child != OBJECT(m->accel)) {
                break;
            }
            child = NULL;
        }
        if (!child) {
            return;
        }
        object_unparent(child);
    }
}

void machine_close_now(Machine *m)
{
    MachinePriv *p = m->priv;

    if (p->closing) {
        return;
    }
    object_ref(m);
    machine_hold(m);
    p->closing = true;
    machine_drop_pending(m);
    for (unsigned i = m->cpus->len; i-- > 0;) {
        cpu_stop_thread(g_ptr_array_index(m->cpus, i));
    }
    machine_set_state(m, RUN_STATE_CLOSED, NULL);

    event_hub_free(g_steal_pointer(&m->events));
    machine_gsi_close(m);
    machine_a20_close(m);
    g_ptr_array_set_size(m->cpus, 0);
    unparent_parts(m);
    machine_state_close(m);
    if (m->accel) {
        Accel *a = g_steal_pointer(&m->accel);

        accel_destroy(a);
        object_unparent(OBJECT(a));
    }
    if (m->memory) {
        /* What scripts mapped and never took out again: its owners can let go of it now. */
        empty_root(&m->memory_root);
        empty_root(&m->io_root);
        address_space_free(g_steal_pointer(&m->memory));
        address_space_free(g_steal_pointer(&m->io));
    }
    if (p->bh) {
        bh_cancel(p->bh);
        bh_free(g_steal_pointer(&p->bh));
    }
    object_unparent(OBJECT(m));
    object_unref(m);
}

void machine_close(Machine *m)
{
    ENGINE_LOCK_ASSERT();
    if (m->priv->closing) {
        return;
    }
    if (machine_may_wait(m)) {
        machine_close_now(m);
        return;
    }
    m->priv->pending_close = true;
    for (unsigned i = 0; i < m->cpus->len; i++) {
        cpu_request_stop(g_ptr_array_index(m->cpus, i));
    }
    bh_schedule(m->priv->bh);
}

/* ---- the type ---------------------------------------------------------------------------- */

static void machine_instance_init(Object *obj)
{
    Machine *m = (Machine *)obj;

    m->priv = g_new0(MachinePriv, 1);
    m->cpus = g_ptr_array_new();
    m->clock = clock_new_virtual();
    m->ram_size = ((MachineClass *)obj->klass)->default_ram_size;
    /* The roots outlive every view: they need no owner, which would be a cycle. */
    memory_region_init(&m->memory_root, NULL, "memory", MEMORY_REGION_MAX);
    memory_region_init(&m->io_root, NULL, "io", 0x10000);
}

static void machine_instance_finalize(Object *obj)
{
    Machine *m = (Machine *)obj;
    MachinePriv *p = m->priv;

    g_assert(m->cpus->len == 0);
    machine_state_finalize(m);
    machine_quiesce_finalize(m);
    memory_region_finalize(&m->memory_root);
    memory_region_finalize(&m->io_root);
    clock_free(m->clock);
    g_ptr_array_free(m->cpus, TRUE);
    if (p->resets.items) {
        g_array_free(p->resets.items, TRUE);
    }
    if (p->notifies.items) {
        g_array_free(p->notifies.items, TRUE);
    }
    g_free(m->reason);
    g_free(p);
}

static bool get_state(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_STRING;
    out->string = g_strdup(run_state_name(MACHINE(obj)->state));
    return true;
}

static bool get_reason(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_STRING;
    out->string = g_strdup(MACHINE(obj)->reason ? MACHINE(obj)->reason : "");
    return true;
}

static const char *const on_event_words[] = { "default", "pause", "shutdown", "reset", NULL };

static const Property machine_properties[] = {
    { PROP_FIELD_("ram-size", Machine, ram_size, PROP_SIZE, 64, 0, "Size of the main memory.") },
    { PROP_FIELD_("sockets", Machine, topology.sockets, PROP_UINT, 32, 0,
                  "Sockets that the vCPUs are in; 0: one.") },
    { PROP_FIELD_("dies", Machine, topology.dies, PROP_UINT, 32, 0, "Dies a socket; 0: one.") },
    { PROP_FIELD_("cores", Machine, topology.cores, PROP_UINT, 32, 0,
                  "Cores a die; 0: as many as there are vCPUs, if none of the four is given.") },
    { PROP_FIELD_("threads", Machine, topology.threads, PROP_UINT, 32, 0,
                  "Threads a core; 0: one.") },
    { PROP_FIELD_("no-reboot", Machine, no_reboot, PROP_BOOL, 0, 0,
                  "A reset ends the machine instead.") },
    { PROP_FIELD_("on-triple-fault", Machine, on_triple_fault, PROP_ENUM, 0, 0,
                  "What a triple fault does; the default is a reset."),
      .words = on_event_words },
    { .name = "state",
      .doc = "building, running, paused, error, shutdown or closed.",
      .kind = PROP_STRING,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_state },
    { .name = "reason",
      .doc = "Why the machine is not running.",
      .kind = PROP_STRING,
      .flags = PROP_READ_ONLY,
      .offset = -1,
      .get = get_reason },
};

static void machine_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, machine_properties, G_N_ELEMENTS(machine_properties));
}

static const TypeInfo machine_types[] = {
    {
        .name = TYPE_MACHINE,
        .parent = TYPE_OBJECT,
        .doc = "One guest: address spaces, vCPUs, devices, clock.",
        .instance_size = sizeof(Machine),
        .instance_init = machine_instance_init,
        .instance_finalize = machine_instance_finalize,
        .abstract = true,
        .class_size = sizeof(MachineClass),
        .class_init = machine_class_init,
    },
    {
        .name = TYPE_MACHINES,
        .parent = TYPE_OBJECT,
        .doc = "Where the machines of this process are.",
    },
};

static void machine_register(void)
{
    type_register_static_array(machine_types, G_N_ELEMENTS(machine_types));
}
type_init(machine_register)
