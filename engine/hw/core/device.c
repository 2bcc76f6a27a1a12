/* Devices: life cycle, lines, mappings. See device.h. */
#include "engine/hw/core/device.h"

#include <inttypes.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"

typedef struct LineList {
    char *name; /* NULL: the unnamed list */
    bool is_input;
    bool of_realize; /* goes away with unrealize */
    unsigned n;
    Irq **lines; /* inputs: ours; outputs: in the device's struct */
    DeviceState *dev;
    IrqHandler fn;
    void *opaque;
} LineList;

typedef struct Mapping {
    MemoryRegion *container, *mr;
} Mapping;

/* ---- lines -------------------------------------------------------------------------------- */

static LineList *find_list(DeviceState *dev, const char *name, bool is_input)
{
    for (unsigned i = 0; dev->lines && i < dev->lines->len; i++) {
        LineList *l = dev->lines->pdata[i];

        if (l->is_input == is_input && g_strcmp0(l->name, name) == 0) {
            return l;
        }
    }
    return NULL;
}

static LineList *add_list(DeviceState *dev, const char *name, bool is_input, unsigned n)
{
    LineList *l = g_new0(LineList, 1);

    g_assert(!find_list(dev, name, is_input));
    if (!dev->lines) {
        dev->lines = g_ptr_array_new();
    }
    l->name = g_strdup(name);
    l->is_input = is_input;
    l->of_realize = dev->realizing;
    l->n = n;
    l->dev = dev;
    g_ptr_array_add(dev->lines, l);
    return l;
}

static void disconnect_outputs(LineList *l)
{
    for (unsigned i = 0; !l->is_input && i < l->n; i++) {
        irq_unref(l->lines[i]);
        l->lines[i] = NULL;
    }
}

static void kill_inputs(LineList *l)
{
    for (unsigned i = 0; l->is_input && i < l->n; i++) {
        irq_disconnect(l->lines[i]);
        irq_unref(l->lines[i]);
        l->lines[i] = NULL;
    }
}

static void free_list(LineList *l)
{
    if (l->is_input) {
        kill_inputs(l);
        g_free(l->lines);
    } else {
        disconnect_outputs(l);
    }
    g_free(l->name);
    g_free(l);
}

/* Those of instance_init stay declared: their inputs are made anew when somebody asks for them. */
static void drop_lines(DeviceState *dev, bool all)
{
    for (unsigned i = dev->lines ? dev->lines->len : 0; i-- > 0;) {
        LineList *l = dev->lines->pdata[i];

        if (all || l->of_realize) {
            g_ptr_array_remove_index(dev->lines, i);
            free_list(l);
        } else {
            disconnect_outputs(l);
            kill_inputs(l);
        }
    }
}

void device_init_irq_in_opaque(DeviceState *dev, const char *name, IrqHandler fn, void *opaque,
                               unsigned n)
{
    LineList *l = add_list(dev, name, true, n);

    l->fn = fn;
    l->opaque = opaque;
    l->lines = g_new0(Irq *, n);
}

void device_init_irq_in(DeviceState *dev, const char *name, IrqHandler fn, unsigned n)
{
    device_init_irq_in_opaque(dev, name, fn, dev, n);
}

void device_init_irq_out(DeviceState *dev, const char *name, Irq **lines, unsigned n)
{
    LineList *l = add_list(dev, name, false, n);

    l->lines = lines;
}

static LineList *need_line(DeviceState *dev, const char *name, bool is_input, unsigned n,
                           GError **error)
{
    LineList *l = find_list(dev, name, is_input);
    const char *kind = is_input ? "input" : "output";

    if (!l) {
        g_autoptr(GPtrArray) names = g_ptr_array_new();
        const char *near = NULL;

        for (unsigned i = 0; dev->lines && i < dev->lines->len; i++) {
            LineList *other = dev->lines->pdata[i];

            if (other->is_input == is_input && other->name) {
                g_ptr_array_add(names, other->name);
            }
        }
        g_ptr_array_add(names, NULL);
        if (name) {
            near = nearest_word(name, (const char *const *)names->pdata);
        }
        error_set(error, ENGINE_ERROR_INVALID, "%s has no %s line%s%s%s%s%s%s",
                  object_get_name(OBJECT(dev)), kind, name ? " '" : " without a name",
                  name ? name : "", name ? "'" : "", near ? "; did you mean '" : "",
                  near ? near : "", near ? "'?" : "");
        return NULL;
    }
    if (n >= l->n) {
        error_set(error, ENGINE_ERROR_INVALID, "%s: %s line '%s' has numbers 0 to %u, not %u",
                  object_get_name(OBJECT(dev)), kind, name ? name : "", l->n - 1, n);
        return NULL;
    }
    return l;
}

Irq *device_get_irq_in(DeviceState *dev, const char *name, unsigned n, GError **error)
{
    LineList *l = need_line(dev, name, true, n, error);

    if (!l) {
        return NULL;
    }
    if (OBJECT(dev)->gone) {
        error_set(error, ENGINE_ERROR_GONE, "%s is gone", object_get_name(OBJECT(dev)));
        return NULL;
    }
    if (!l->lines[n]) {
        l->lines[n] = irq_new(l->fn, l->opaque, (int)n);
    }
    return l->lines[n];
}

bool device_connect_irq_out(DeviceState *dev, const char *name, unsigned n, Irq *irq,
                            GError **error)
{
    LineList *l = need_line(dev, name, false, n, error);
    Irq *old;

    if (!l) {
        return false;
    }
    if (OBJECT(dev)->gone) {
        return error_set(error, ENGINE_ERROR_GONE, "%s is gone", object_get_name(OBJECT(dev)));
    }
    old = l->lines[n];
    l->lines[n] = irq_ref(irq);
    if (irq && irq != old && irq_level(old)) {
        irq_raise(irq); /* what the old wire carried is what the device drives */
    }
    irq_unref(old);
    return true;
}

void device_lines_foreach(DeviceState *dev,
                          void (*fn)(const char *name, bool is_input, unsigned count, void *opaque),
                          void *opaque)
{
    for (unsigned i = 0; dev->lines && i < dev->lines->len; i++) {
        LineList *l = dev->lines->pdata[i];

        fn(l->name, l->is_input, l->n, opaque);
    }
}

/* ---- mappings ----------------------------------------------------------------------------- */

static bool map(DeviceState *dev, MemoryRegion *container, hwaddr addr, MemoryRegion *mr,
                int priority, GError **error)
{
    Mapping *mapping;
    hwaddr last;

    if (!dev->machine) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: '%s' cannot be mapped before realize",
                         object_get_name(OBJECT(dev)), mr->name);
    }
    if (mr->container) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s: '%s' is mapped already",
                         object_get_name(OBJECT(dev)), mr->name);
    }
    if (__builtin_add_overflow(addr, mr->size - 1, &last) ||
        (container->size != MEMORY_REGION_MAX && last >= container->size)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: '%s' at %#" PRIx64 " of %#" PRIx64 " bytes does not fit into '%s'",
                         object_get_name(OBJECT(dev)), mr->name, addr, mr->size, container->name);
    }
    if (!memory_region_add_subregion_checked(container, addr, mr, priority, false, error)) {
        g_prefix_error(error, "%s: ", object_get_name(OBJECT(dev)));
        return false;
    }
    mapping = g_new(Mapping, 1);
    mapping->container = container;
    mapping->mr = mr;
    if (!dev->mappings) {
        dev->mappings = g_ptr_array_new_with_free_func(g_free);
    }
    g_ptr_array_add(dev->mappings, mapping);
    return true;
}

bool device_map_io(DeviceState *dev, uint32_t port, MemoryRegion *mr, GError **error)
{
    return map(dev, dev->machine ? &dev->machine->io_root : NULL, port, mr, 0, error);
}

bool device_map_memory(DeviceState *dev, hwaddr addr, MemoryRegion *mr, int priority,
                       GError **error)
{
    return map(dev, dev->machine ? &dev->machine->memory_root : NULL, addr, mr, priority, error);
}

static void undo_mapping(const Mapping *mapping)
{
    /* Somebody may have moved the region elsewhere meanwhile. */
    if (mapping->mr->container == mapping->container) {
        memory_region_del_subregion(mapping->container, mapping->mr);
    }
}

void device_unmap(DeviceState *dev, MemoryRegion *mr)
{
    for (unsigned i = 0; dev->mappings && i < dev->mappings->len; i++) {
        Mapping *mapping = dev->mappings->pdata[i];

        if (mapping->mr == mr) {
            undo_mapping(mapping);
            g_ptr_array_remove_index(dev->mappings, i);
            return;
        }
    }
}

static void unmap_all(DeviceState *dev)
{
    if (!dev->mappings || dev->mappings->len == 0) {
        return;
    }
    memory_region_transaction_begin();
    for (unsigned i = dev->mappings->len; i-- > 0;) {
        undo_mapping(dev->mappings->pdata[i]);
    }
    memory_region_transaction_commit();
    g_ptr_array_set_size(dev->mappings, 0);
}

/* ---- saved state -------------------------------------------------------------------------- */

typedef struct InstanceSearch {
    const char *name;
    GHashTable *used;
} InstanceSearch;

static void note_instance(const char *name, uint32_t instance, const VMStateDescription *vmsd,
                          void *obj, void *opaque)
{
    InstanceSearch *search = opaque;

    if (!strcmp(name, search->name)) {
        g_hash_table_add(search->used, GUINT_TO_POINTER(instance));
    }
}

/* The lowest number that is free: the same board gives the same numbers each time, and a device
 * that is taken away leaves those of the others as they are. */
static uint32_t free_instance(Machine *m, const char *name)
{
    InstanceSearch search = { name, g_hash_table_new(NULL, NULL) };
    uint32_t n = 0;

    machine_state_foreach(m, note_instance, &search);
    while (g_hash_table_contains(search.used, GUINT_TO_POINTER(n))) {
        n++;
    }
    g_hash_table_destroy(search.used);
    return n;
}

static bool register_state(DeviceState *dev, GError **error)
{
    DeviceClass *klass = DEVICE_GET_CLASS(dev);
    const VMStateDescription *vmsd = klass->get_vmsd ? klass->get_vmsd(dev) : klass->vmsd;

    if (!vmsd) {
        return klass->no_state ||
               error_set(error, ENGINE_ERROR_INVALID,
                         "type '%s' declares neither saved state nor that it has none",
                         object_get_typename(OBJECT(dev)));
    }
    dev->instance_id = free_instance(dev->machine, vmsd->name);
    if (!machine_register_state(dev->machine, vmsd->name, dev->instance_id, vmsd, dev, error)) {
        return false;
    }
    dev->vmsd = vmsd;
    return true;
}

/* ---- life cycle --------------------------------------------------------------------------- */

static void reset_handler(void *opaque)
{
    device_reset(opaque);
}

void device_reset(DeviceState *dev)
{
    DeviceClass *klass = DEVICE_GET_CLASS(dev);

    if (OBJECT(dev)->realized && klass->reset) {
        klass->reset(dev);
    }
}

/* Everything that belongs to being realized, except what the class' own unrealize undoes. */
static void leave_machine(DeviceState *dev)
{
    drop_lines(dev, false);
    dev->machine = NULL;
    OBJECT(dev)->realized = false;
}

void device_unrealize(DeviceState *dev)
{
    DeviceClass *klass = DEVICE_GET_CLASS(dev);

    if (!OBJECT(dev)->realized) {
        return;
    }
    machine_remove_reset(dev->machine, reset_handler, dev);
    if (dev->vmsd) {
        machine_unregister_state(dev->machine, dev->vmsd, dev);
        dev->vmsd = NULL;
    }
    unmap_all(dev);
    if (klass->unrealize) {
        klass->unrealize(dev);
    }
    leave_machine(dev);
}

static bool realize_steps(DeviceState *dev, GError **error)
{
    DeviceClass *klass = DEVICE_GET_CLASS(dev);
    bool ok;

    if (!object_check_required(OBJECT(dev), error)) {
        return false;
    }
    dev->realizing = true;
    ok = !klass->realize || klass->realize(dev, error);
    dev->realizing = false;
    if (!ok) {
        unmap_all(dev);
        return false;
    }
    if (!register_state(dev, error)) {
        unmap_all(dev);
        if (klass->unrealize) {
            klass->unrealize(dev);
        }
        return false;
    }
    return true;
}

static bool is_below(Object *obj, Object *top)
{
    while (obj && obj != top) {
        obj = obj->parent;
    }
    return obj != NULL;
}

static char *make_name(DeviceState *dev, Object *parent)
{
    for (unsigned n = 0;; n++) {
        char *name = g_strdup_printf("%s-%u", object_get_typename(OBJECT(dev)), n);

        if (!object_get_child(parent, name)) {
            return name;
        }
        g_free(name);
    }
}

static bool enter_tree(DeviceState *dev, Object *parent, const char *id, GError **error)
{
    g_autofree char *name = NULL;

    if (OBJECT(dev)->parent == parent) {
        return true;
    }
    name = id ? g_strdup(id) : make_name(dev, parent);
    if (!object_add_child(parent, name, OBJECT(dev), error)) {
        return false;
    }
    g_free(dev->id);
    dev->id = g_strdup(id);
    return true;
}

bool device_realize_at(DeviceState *dev, Machine *m, Object *parent, const char *id, GError **error)
{
    GError *why = NULL;

    ENGINE_LOCK_ASSERT();
    if (OBJECT(dev)->realized || dev->machine) {
        return error_set(error, ENGINE_ERROR_BUSY, "%s is realized already",
                         object_get_name(OBJECT(dev)));
    }
    if (OBJECT(dev)->gone) {
        return error_set(error, ENGINE_ERROR_GONE, "%s is gone", object_get_name(OBJECT(dev)));
    }
    if (m->state == RUN_STATE_CLOSED) {
        return error_set(error, ENGINE_ERROR_GONE, "%s cannot be added: the machine is closed",
                         object_get_name(OBJECT(dev)));
    }
    if (!is_below(parent, OBJECT(m))) {
        return error_set(error, ENGINE_ERROR_INVALID, "%s cannot be added: %s is not part of %s",
                         object_get_name(OBJECT(dev)), object_get_name(parent),
                         object_get_name(OBJECT(m)));
    }
    if (!enter_tree(dev, parent, id, error)) {
        return false;
    }
    dev->machine = m;
    /* The tree's reference goes away on failure; the caller's need not be there. */
    object_ref(dev);
    if (!realize_steps(dev, &why)) {
        leave_machine(dev);
        object_unparent(OBJECT(dev));
        if (!why) {
            error_set(&why, ENGINE_ERROR_INVALID, "%s could not be realized",
                      object_get_name(OBJECT(dev)));
        }
        g_propagate_error(error, why);
        object_unref(dev);
        return false;
    }
    OBJECT(dev)->realized = true;
    machine_add_reset(m, reset_handler, dev);
    device_reset(dev);
    object_unref(dev);
    return true;
}

bool device_realize(DeviceState *dev, Machine *m, const char *id, GError **error)
{
    return device_realize_at(dev, m, OBJECT(m), id, error);
}

static void device_unparent(Object *obj)
{
    device_unrealize(DEVICE(obj));
}

static void device_finalize(Object *obj)
{
    DeviceState *dev = DEVICE(obj);

    drop_lines(dev, true);
    if (dev->lines) {
        g_ptr_array_free(dev->lines, TRUE);
    }
    if (dev->mappings) {
        g_ptr_array_free(dev->mappings, TRUE);
    }
    g_free(dev->id);
}

static void device_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = device_unparent;
}

static void user_device_class_init(ObjectClass *klass, const void *data)
{
    DEVICE_CLASS(klass)->user_creatable = true;
}

static const TypeInfo types[] = {
    {
        .name = TYPE_DEVICE,
        .parent = TYPE_OBJECT,
        .doc = "A part of a machine",
        .instance_size = sizeof(DeviceState),
        .instance_finalize = device_finalize,
        .class_size = sizeof(DeviceClass),
        .class_init = device_class_init,
        .abstract = true,
    },
    {
        .name = TYPE_ISA_DEVICE,
        .parent = TYPE_DEVICE,
        .doc = "A device at I/O ports, with the PC's interrupt lines",
        .class_init = user_device_class_init,
        .abstract = true,
    },
    {
        .name = TYPE_SYS_DEVICE,
        .parent = TYPE_DEVICE,
        .doc = "A device at a fixed address in memory",
        .class_init = user_device_class_init,
        .abstract = true,
    },
};

static void register_types(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_types)
