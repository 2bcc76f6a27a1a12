/* The accelerator type and the choice among its classes. */
#include "engine/accel/accel.h"

#include <string.h>

#include "engine/core/error.h"

/* ---- finding ----------------------------------------------------------------------------- */

static const char *canonical_name(const char *name)
{
    return strcmp(name, "tcg") == 0 ? "soft" : name;
}

/* Classes that can be named, in order of their types' names; the caller frees the array. */
static GPtrArray *accel_classes(void)
{
    GSList *list = object_class_get_list(TYPE_ACCEL, false);
    GPtrArray *out = g_ptr_array_new();

    for (GSList *l = list; l; l = l->next) {
        AccelClass *klass = ACCEL_CLASS(l->data);

        if (klass->short_name) {
            g_ptr_array_add(out, klass);
        }
    }
    g_slist_free(list);
    return out;
}

AccelClass *accel_find(const char *short_name, GError **error)
{
    g_autoptr(GPtrArray) classes = accel_classes();
    g_autoptr(GString) known = g_string_new(NULL);

    for (unsigned i = 0; i < classes->len; i++) {
        AccelClass *klass = g_ptr_array_index(classes, i);

        if (strcmp(klass->short_name, canonical_name(short_name)) == 0) {
            return klass;
        }
        g_string_append_printf(known, "%s%s", known->len ? ", " : "", klass->short_name);
    }
    error_set(error, ENGINE_ERROR_INVALID, "there is no accelerator '%s' (known: %s, auto)",
              short_name, known->len ? known->str : "none");
    return NULL;
}

static bool accel_available(AccelClass *klass, GError **error)
{
    return !klass->available || klass->available(error);
}

static void add_reason(GString *reasons, const char *name, GError *error)
{
    const char *text = error ? error->message : "no reason given", *rest = text;

    /* Most say who they are by themselves. */
    if (g_str_has_prefix(text, name) && g_str_has_prefix(text + strlen(name), ": ")) {
        rest = text + strlen(name) + 2;
    }
    g_string_append_printf(reasons, "%s%s: %s", reasons->len ? "; " : "", name, rest);
    g_clear_error(&error);
}

/* How much `auto` wants a class: 0 is best. */
static int auto_rank(const AccelClass *klass)
{
    if (!klass->preferred) {
        return 1;
    }
    return klass->preferred() ? 0 : 2;
}

static AccelClass *select_auto(char **why, GString *reasons)
{
    g_autoptr(GPtrArray) classes = accel_classes();

    for (int rank = 0; rank <= 2; rank++) {
        for (unsigned i = 0; i < classes->len; i++) {
            AccelClass *klass = g_ptr_array_index(classes, i);
            GError *reason = NULL;

            if (auto_rank(klass) != rank) {
                continue;
            }
            if (!accel_available(klass, &reason)) {
                add_reason(reasons, klass->short_name, reason);
                continue;
            }
            if (why) {
                const char *text = rank == 0   ? "the host has hardware for it"
                                   : rank == 1 ? "no hardware virtualisation is usable here"
                                               : "nothing better works here, though it has no "
                                                 "hardware behind it";

                *why = reasons->len
                           ? g_strdup_printf("accelerator %s: %s (%s)", klass->short_name, text,
                                             reasons->str)
                           : g_strdup_printf("accelerator %s: %s", klass->short_name, text);
            }
            return klass;
        }
    }
    return NULL;
}

AccelClass *accel_select(const char *const *names, char **why, GError **error)
{
    static const char *const defaults[] = { "auto", NULL };
    g_autoptr(GString) reasons = g_string_new(NULL);

    if (why) {
        *why = NULL;
    }
    if (!names || !names[0]) {
        names = defaults;
    }
    for (unsigned i = 0; names[i]; i++) {
        AccelClass *klass;
        GError *reason = NULL;

        if (strcmp(names[i], "auto") == 0) {
            klass = select_auto(why, reasons);
            if (klass) {
                return klass;
            }
            if (reasons->len == 0) {
                g_string_append(reasons, "auto: no accelerator was built in");
            }
            continue;
        }
        klass = accel_find(names[i], error);
        if (!klass) {
            return NULL; /* a wrong word is a mistake, whatever else was named */
        }
        if (accel_available(klass, &reason)) {
            if (why) {
                *why = reasons->len
                           ? g_strdup_printf("accelerator %s (%s)", klass->short_name, reasons->str)
                           : g_strdup_printf("accelerator %s: asked for", klass->short_name);
            }
            return klass;
        }
        add_reason(reasons, names[i], reason);
    }
    error_set(error, ENGINE_ERROR_UNSUPPORTED, "no accelerator can be used: %s", reasons->str);
    return NULL;
}

/* ---- instances --------------------------------------------------------------------------- */

static void accel_eoi(VCpu *cpu, int vector)
{
    const AccelConfig *c = &cpu->accel->config;

    if (c->eoi) {
        c->eoi(c->opaque, vector);
    }
}

static void accel_hide_breakpoints(VCpu *cpu, uint64_t paddr, void *buf, uint64_t len)
{
    ACCEL_GET_CLASS(cpu->accel)->hide_breakpoints(cpu->accel, paddr, buf, len);
}

Accel *accel_new(AccelClass *klass)
{
    Object *obj = object_new_with_class(OBJECT_CLASS(klass), NULL);
    Accel *a;

    if (!obj) {
        return NULL;
    }
    a = ACCEL(obj);
    a->cpu_ops = (CpuOps){
        .create = klass->vcpu_create,
        .destroy = klass->vcpu_destroy,
        .run = klass->vcpu_run,
        .finish_exit = klass->vcpu_finish_exit,
        .kick = klass->vcpu_kick,
        .kick_suffices = klass->vcpu_kick_suffices,
        .has_work = klass->vcpu_has_work,
        .idle = klass->vcpu_idle,
        .get_state = klass->get_state,
        .put_state = klass->put_state,
        .eoi = accel_eoi,
        .hide_breakpoints = klass->hide_breakpoints ? accel_hide_breakpoints : NULL,
    };
    return a;
}

bool accel_create(Accel *a, const AccelConfig *config, GError **error)
{
    AccelClass *klass = ACCEL_GET_CLASS(a);

    g_assert(!a->created);
    a->config = *config;
    if (config->pit && config->irqchip != IRQCHIP_ON) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "%s: an in-kernel PIT needs the in-kernel interrupt controller",
                         klass->short_name);
    }
    if (config->icount.on && !klass->icount) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "accelerator %s does not count instructions: icount needs soft",
                         klass->short_name);
    }
    if (config->icount.on && config->icount.shift > ACCEL_ICOUNT_SHIFT_MAX) {
        return error_set(error, ENGINE_ERROR_INVALID, "icount: a shift of %u is more than %u",
                         config->icount.shift, ACCEL_ICOUNT_SHIFT_MAX);
    }
    a->created = true;
    if (!klass->create(a, error)) {
        accel_destroy(a);
        return false;
    }
    return true;
}

void accel_destroy(Accel *a)
{
    if (a && a->created) {
        a->created = false;
        ACCEL_GET_CLASS(a)->destroy(a);
    }
}

static void accel_finalize(Object *obj)
{
    accel_destroy((Accel *)obj);
}

static const TypeInfo accel_type = {
    .name = TYPE_ACCEL,
    .parent = TYPE_OBJECT,
    .doc = "What runs guest instructions.",
    .instance_size = sizeof(Accel),
    .instance_finalize = accel_finalize,
    .abstract = true,
    .class_size = sizeof(AccelClass),
};

static void accel_register(void)
{
    type_register_static(&accel_type);
}
type_init(accel_register)
