/*
 * What C calls of types that scripts define: class and instance set-up, property functions, the
 * life cycle of devices, hooks of saved state.
 *
 * Only the topmost script type of a chain has instance functions: QOM does not say for which type
 * of the chain it calls one, so that one acts for all of them.
 */
#include <string.h>

#include "bindings/binding-priv.h"
#include "bindings/device-script.h"
#include "bindings/script-type.h"
#include "engine/core/error.h"

static GHashTable *script_types; /* TypeImpl * -> ScriptType * */

/* ---- look-up ------------------------------------------------------------------------------- */

ScriptType *script_type_of_impl(const TypeImpl *type)
{
    return script_types ? g_hash_table_lookup(script_types, type) : NULL;
}

ScriptType *script_type_of(const Object *obj)
{
    return script_type_of_impl(obj->klass->type);
}

ScriptInstance *script_type_instance(const ScriptType *st, Object *obj)
{
    return (ScriptInstance *)((char *)obj + st->root->instance_offset);
}

unsigned script_type_chain(ScriptType *st, ScriptType *chain[OBJECT_CLASS_DEPTH])
{
    unsigned n = 0;

    for (ScriptType *t = st; t; t = t->parent) {
        n++;
    }
    memset(chain, 0, sizeof(chain[0]) * OBJECT_CLASS_DEPTH);
    for (unsigned i = n; st; st = st->parent) {
        chain[--i] = st;
    }
    return n;
}

/* ---- calls --------------------------------------------------------------------------------- */

bool script_call_object(ScriptRef *ref, Object *obj, GError **error)
{
    lua_State *L;

    if (!ref || !script_main) {
        return true;
    }
    L = binding_state();
    if (!script_ref_push(L, ref)) {
        return true;
    }
    binding_push_object(L, obj);
    return binding_call(L, 1, 0, true, script_ref_what(ref), error);
}

/* realize may refuse by an error, or by nil (false) and a message, as what it called did. */
static bool call_realize(ScriptRef *ref, DeviceState *dev, GError **error)
{
    lua_State *L = ref && script_main ? binding_state() : NULL;
    bool ok = true;

    if (!L || !script_ref_push(L, ref)) {
        return true;
    }
    binding_push_object(L, dev);
    if (!binding_call(L, 1, 2, true, script_ref_what(ref), error)) {
        return false;
    }
    if (!lua_toboolean(L, -2) && lua_type(L, -1) == LUA_TSTRING) {
        ok = error_set(error, ENGINE_ERROR_SCRIPT, "%s", lua_tostring(L, -1));
    }
    lua_pop(L, 2);
    return ok;
}

/* ---- instances ----------------------------------------------------------------------------- */

static void script_instance_post_init(Object *obj)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of(obj);
    ScriptInstance *inst = script_type_instance(st, obj);
    unsigned n = script_type_chain(st, chain);
    GError *error = NULL;

    inst->constructed = true;
    for (unsigned i = 0; i < n; i++) {
        if (!script_call_object(chain[i]->init, obj, &error)) {
            /* object_new cannot fail for this: qom.new and realize tell it. */
            inst->init_error = g_strdup(error->message);
            g_error_free(error);
            return;
        }
    }
}

static void script_instance_finalize(Object *obj)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of(obj);
    unsigned n = script_type_chain(st, chain);

    for (unsigned i = 0; i < n; i++) {
        for (guint k = 0; k < chain[i]->prop_data->len; k++) {
            const ScriptProp *sp = chain[i]->prop_data->pdata[k];
            if (sp->list_offset) {
                g_clear_pointer((GPtrArray **)((char *)obj + sp->list_offset), g_ptr_array_unref);
            }
        }
    }
    g_clear_pointer(&script_type_instance(st, obj)->init_error, g_free);
}

/* ---- properties ---------------------------------------------------------------------------- */

bool script_prop_get(Object *obj, const Property *p, PropValue *out, GError **error)
{
    const ScriptProp *sp = p->opaque;
    PropValue raw = { 0 };
    lua_State *L;
    bool ok;

    if (!sp->get) {
        PropValue v = { .kind = PROP_LIST, .list = *(GPtrArray **)((char *)obj + sp->list_offset) };
        prop_value_copy(out, &v);
        return true;
    }
    L = script_main ? binding_state() : NULL;
    if (!L || !script_ref_push(L, sp->get)) {
        return error_set(error, ENGINE_ERROR_GONE, "the script of property '%s' is gone", p->name);
    }
    binding_push_object(L, obj);
    if (!binding_call(L, 1, 1, true, script_ref_what(sp->get), error)) {
        return false;
    }
    ok = binding_to_prop_value(L, -1, p, &raw, error);
    if (!ok) {
        g_prefix_error(error, "%s: ", script_ref_what(sp->get));
    }
    lua_pop(L, 1);
    ok = ok && object_property_convert(obj, p, &raw, out, error);
    prop_value_clear(&raw);
    return ok;
}

bool script_prop_set(Object *obj, const Property *p, const PropValue *in, GError **error)
{
    const ScriptProp *sp = p->opaque;
    lua_State *L;

    /* Defaults are stored before the object can be shown to a script. */
    if (sp->set && script_type_instance(sp->type, obj)->constructed) {
        L = script_main ? binding_state() : NULL;
        if (!L || !script_ref_push(L, sp->set)) {
            return error_set(error, ENGINE_ERROR_GONE, "the script of property '%s' is gone",
                             p->name);
        }
        binding_push_object(L, obj);
        binding_push_prop_value(L, in, p);
        if (!binding_call(L, 2, 0, true, script_ref_what(sp->set), error)) {
            return false;
        }
    }
    if (p->offset >= 0) {
        object_property_store_field(obj, p, in);
    } else if (sp->list_offset) {
        GPtrArray **slot = (GPtrArray **)((char *)obj + sp->list_offset);
        PropValue copy;

        prop_value_copy(&copy, in);
        g_clear_pointer(slot, g_ptr_array_unref);
        *slot = copy.list;
    }
    return true;
}

/* ---- devices ------------------------------------------------------------------------------- */

static void script_unrealize_levels(DeviceState *dev, ScriptType *const *chain, unsigned n)
{
    while (n-- > 0) {
        GError *error = NULL;
        if (!script_call_object(chain[n]->unrealize, (Object *)dev, &error)) {
            binding_report(error);
        }
    }
    script_device_cleanup(dev);
}

static void script_unrealize(DeviceState *dev)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of((Object *)dev);

    script_unrealize_levels(dev, chain, script_type_chain(st, chain));
    if (st->root->c_unrealize) {
        st->root->c_unrealize(dev);
    }
}

static bool script_realize(DeviceState *dev, GError **error)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of((Object *)dev);
    unsigned n = script_type_chain(st, chain);
    const ScriptInstance *inst = script_type_instance(st, (Object *)dev);

    if (inst->init_error) {
        return error_set(error, ENGINE_ERROR_SCRIPT, "%s", inst->init_error);
    }
    if (st->root->c_realize && !st->root->c_realize(dev, error)) {
        return false;
    }
    if (st->is_pci) {
        script_pci_realize(st, dev);
    }
    for (unsigned i = 0; i < n; i++) {
        if (!call_realize(chain[i]->realize, dev, error)) {
            script_unrealize_levels(dev, chain, i);
            if (st->root->c_unrealize) {
                st->root->c_unrealize(dev);
            }
            return false;
        }
    }
    return true;
}

static void script_reset(DeviceState *dev)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH], *st = script_type_of((Object *)dev);
    unsigned n = script_type_chain(st, chain);

    if (st->root->c_reset) {
        st->root->c_reset(dev);
    }
    for (unsigned i = 0; i < n; i++) {
        GError *error = NULL;
        if (!script_call_object(chain[i]->reset, (Object *)dev, &error)) {
            device_script_failed(dev, error);
            return;
        }
    }
}

/* ---- saved state --------------------------------------------------------------------------- */

static void script_pre_save(void *opaque)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH];
    unsigned n = script_type_chain(script_type_of(opaque), chain);

    for (unsigned i = 0; i < n; i++) {
        GError *error = NULL;
        if (!script_call_object(chain[i]->pre_save, opaque, &error)) {
            device_script_failed((DeviceState *)object_dynamic_cast(opaque, TYPE_DEVICE), error);
            return;
        }
    }
}

static bool script_post_load(void *opaque, unsigned version, GError **error)
{
    ScriptType *chain[OBJECT_CLASS_DEPTH];
    unsigned n = script_type_chain(script_type_of(opaque), chain);

    for (unsigned i = 0; i < n; i++) {
        ScriptRef *ref = chain[i]->post_load;
        lua_State *L = ref && script_main ? binding_state() : NULL;

        if (!L || !script_ref_push(L, ref)) {
            continue;
        }
        binding_push_object(L, opaque);
        lua_pushinteger(L, version);
        if (!binding_call(L, 2, 0, true, script_ref_what(ref), error)) {
            return false;
        }
    }
    return true;
}

/* ---- classes ------------------------------------------------------------------------------- */

static void script_class_init(ObjectClass *klass, const void *data)
{
    ScriptType *st = (ScriptType *)(uintptr_t)data;

    if (!script_types) {
        script_types = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_insert(script_types, klass->type, st);
    object_class_add_properties(klass, (const Property *)(const void *)st->props->data,
                                st->props->len);
    script_interfaces_fill(st, klass);
    if (st->is_device) {
        DeviceClass *dc = (DeviceClass *)klass;

        if (st->root == st) {
            st->c_realize = dc->realize;
            st->c_unrealize = dc->unrealize;
            st->c_reset = dc->reset;
        }
        dc->realize = script_realize;
        dc->unrealize = script_unrealize;
        dc->reset = script_reset;
        dc->vmsd = &st->vmsd;
        dc->get_vmsd = NULL;
        dc->no_state = false;
        dc->user_creatable = st->user_creatable && !type_is_abstract(klass->type);
    }
    if (st->is_pci) {
        script_pci_class_init(st, klass);
    }
}

static void script_class_finalize(ObjectClass *klass)
{
    ScriptType *st = script_type_of_impl(klass->type);

    g_hash_table_remove(script_types, klass->type);
    if (!g_hash_table_size(script_types)) {
        g_clear_pointer(&script_types, g_hash_table_destroy);
    }
    script_type_free(st);
}

void script_type_fill_info(ScriptType *st, TypeInfo *info)
{
    info->class_init = script_class_init;
    info->class_finalize = script_class_finalize;
    info->class_data = st;
    if (st->is_interface) {
        return;
    }
    if (st->root == st) {
        info->instance_post_init = script_instance_post_init;
        info->instance_finalize = script_instance_finalize;
    }
    st->vmsd.pre_save = script_pre_save;
    st->vmsd.post_load = script_post_load;
}

void script_type_register_class(lua_State *L, ScriptType *st, TypeImpl *impl)
{
    if (st->root == st && !st->is_interface) {
        binding_class_members(type_get_name(impl), &script_state_members);
    }
}
