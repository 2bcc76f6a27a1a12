/* What the object model costs: casts, objects, properties. Prints ns each; passes or fails on
 * nothing. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "engine/qom/object.h"

typedef struct Item {
    Object parent;
    uint32_t value;
    char *text;
} Item;
typedef struct ItemClass {
    ObjectClass parent_class;
} ItemClass;
OBJECT_DECLARE_TYPE(Item, ItemClass, ITEM, "bench-item")

static const Property item_props[] = {
    DEFINE_PROP_UINT32("value", Item, value, 5, "a number"),
    DEFINE_PROP_STRING("text", Item, text, "a text"),
};

static void item_class_init(ObjectClass *klass, const void *data)
{
    object_class_add_properties(klass, item_props, G_N_ELEMENTS(item_props));
}

static const InterfaceInfo faces[] = { { "bench-face" }, { NULL } };
static const TypeInfo types[] = {
    { .name = "bench-face", .parent = TYPE_INTERFACE },
    { .name = "bench-item",
      .parent = TYPE_OBJECT,
      .instance_size = sizeof(Item),
      .class_size = sizeof(ItemClass),
      .class_init = item_class_init },
    { .name = "bench-mid", .parent = "bench-item", .interfaces = faces },
    { .name = "bench-leaf", .parent = "bench-mid" },
};

static void print_machine(void)
{
    struct utsname u;
    char line[256], *model = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");

    while (f && !model && fgets(line, sizeof(line), f)) {
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            model = strchr(line, ':') + 2;
            model[strcspn(model, "\n")] = '\0';
        }
    }
    if (f) {
        fclose(f);
    }
    uname(&u);
    printf("# %s, Linux %s, %ld CPUs\n", model ? model : u.machine, u.release,
           (long)g_get_num_processors());
}

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* The best of five rounds; `body` must use p so that it is not hoisted. */
#define BENCH(name, n, body)                                \
    do {                                                    \
        double best = 1e18;                                 \
        for (int round = 0; round < 5; round++) {           \
            double start = now_ns();                        \
            for (unsigned long i = 0; i < (n); i++) {       \
                __asm__ volatile("" : "+r"(obj)::"memory"); \
                body;                                       \
            }                                               \
            best = MIN(best, (now_ns() - start) / (n));     \
        }                                                   \
        printf("%-44s %8.2f ns\n", name, best);             \
    } while (0)
#define USE(x)                               \
    do {                                     \
        void *used_ = (void *)(x);           \
        __asm__ volatile("" : : "r"(used_)); \
    } while (0)

int main(void)
{
    Object *obj;
    PropValue v;

    module_call_init(MODULE_INIT_QOM);
    type_register_static_array(types, G_N_ELEMENTS(types));
    obj = object_new("bench-leaf", NULL);
    ITEM(obj);
    print_machine();
    BENCH("empty loop", 50000000, USE(obj));
    BENCH("instance cast ITEM(obj)", 50000000, USE(ITEM(obj)));
    BENCH("class cast ITEM_GET_CLASS(obj)", 50000000, USE(ITEM_GET_CLASS(obj)));
    BENCH("object_dynamic_cast by name", 5000000, USE(object_dynamic_cast(obj, "bench-item")));
    BENCH("object_dynamic_cast to an interface", 5000000,
          USE(object_dynamic_cast(obj, "bench-face")));
    BENCH("object_ref + object_unref", 5000000, object_unref(object_ref(obj)));
    BENCH("object_new + object_unref", 1000000, object_unref(object_new("bench-leaf", NULL)));
    BENCH("property set (uint)", 2000000, object_property_set_uint(obj, "value", i & 0xff, NULL));
    BENCH("property get (uint)", 2000000, object_property_get_uint(obj, "value", NULL));
    BENCH("property set (string)", 1000000, object_property_set_str(obj, "text", "abc", NULL));
    BENCH("property get (string)", 1000000, object_property_get(obj, "text", &v, NULL);
          prop_value_clear(&v));
    BENCH("property parse (uint)", 1000000, object_property_parse(obj, "value", "0x10", NULL));
    object_unref(obj);
    object_model_finalize();
    return 0;
}
