/* Finding machine classes: by name, by alias, the default; names that nobody knows. */
#include "engine/machine/machine.h"

#include <string.h>

#include "engine/core/error.h"

MachineClass *find_default_machine(void)
{
    GSList *list = object_class_get_list(TYPE_MACHINE, false);
    MachineClass *found = NULL;

    for (GSList *l = list; l && !found; l = l->next) {
        MachineClass *klass = MACHINE_CLASS(l->data);

        if (klass->is_default) {
            found = klass;
        }
    }
    g_slist_free(list);
    return found;
}

static MachineClass *find_machine(GSList *list, const char *name)
{
    for (GSList *l = list; l; l = l->next) {
        if (strcmp(object_class_get_name(l->data), name) == 0) {
            return MACHINE_CLASS(l->data);
        }
    }
    for (GSList *l = list; l; l = l->next) {
        MachineClass *klass = MACHINE_CLASS(l->data);

        if (klass->alias && strcmp(klass->alias, name) == 0) {
            return klass;
        }
    }
    return NULL;
}

static void unknown_machine(GSList *list, const char *name, GError **error)
{
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    const char *near;

    for (GSList *l = list; l; l = l->next) {
        MachineClass *klass = MACHINE_CLASS(l->data);

        g_ptr_array_add(words, (gpointer)(uintptr_t)object_class_get_name(l->data));
        if (klass->alias) {
            g_ptr_array_add(words, (gpointer)(uintptr_t)klass->alias);
        }
    }
    g_ptr_array_add(words, NULL);
    near = nearest_word(name, (const char *const *)words->pdata);
    if (near) {
        error_set(error, ENGINE_ERROR_INVALID, "there is no machine '%s' (did you mean '%s'?)",
                  name, near);
    } else {
        error_set(error, ENGINE_ERROR_INVALID, "there is no machine '%s'", name);
    }
}

MachineClass *select_machine(const char *name, GError **error)
{
    MachineClass *klass;
    GSList *list;

    if (!name) {
        klass = find_default_machine();
        if (!klass) {
            error_set(error, ENGINE_ERROR_INVALID, "no machine was named and none is the default");
        }
        return klass;
    }
    list = object_class_get_list(TYPE_MACHINE, false);
    klass = find_machine(list, name);
    if (!klass) {
        unknown_machine(list, name, error);
    }
    g_slist_free(list);
    return klass;
}
