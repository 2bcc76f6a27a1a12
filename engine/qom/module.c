/* Module lists: see module.h. */
#include "engine/qom/module.h"

#include <stdlib.h>

typedef struct ModuleEntry {
    void (*init)(void);
    struct ModuleEntry *next;
} ModuleEntry;

typedef struct ModuleTypeList {
    ModuleEntry *first, **tail;
    ModuleEntry *next_to_run; /* what module_call_init has not run yet */
} ModuleTypeList;

/* Zeroed before any constructor runs; `tail` is set by the first registration. */
static ModuleTypeList lists[MODULE_INIT_MAX];

static ModuleTypeList *find_type(ModuleInitType type)
{
    ModuleTypeList *list;

    if ((unsigned)type >= MODULE_INIT_MAX) {
        abort();
    }
    list = &lists[type];
    if (!list->tail) {
        list->tail = &list->first;
    }
    return list;
}

void register_module_init(void (*fn)(void), ModuleInitType type)
{
    ModuleTypeList *list = find_type(type);
    ModuleEntry *e = calloc(1, sizeof(*e));

    if (!e) {
        abort();
    }
    e->init = fn;
    *list->tail = e;
    list->tail = &e->next;
    if (!list->next_to_run) {
        list->next_to_run = e;
    }
}

void module_call_init(ModuleInitType type)
{
    ModuleTypeList *list = find_type(type);

    while (list->next_to_run) {
        ModuleEntry *e = list->next_to_run;

        /* Advanced before the call: `init` may register more, or call module_call_init itself. An
         * entry registered while this one is the last starts a new run at the list's end. */
        list->next_to_run = e->next;
        e->init();
    }
}
