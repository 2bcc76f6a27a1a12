/*
 * Modules: functions that run once, before main uses what they register.
 *
 * `type_init(fn)` at file scope puts `fn` on the QOM list from an ELF constructor; nothing of it
 * runs until `module_call_init(MODULE_INIT_QOM)`. Because a constructor is the only reference to
 * such a file, objects are linked whole (see meson.build: link_whole).
 */
#pragma once

typedef enum {
    MODULE_INIT_TRACE, /* trace points */
    MODULE_INIT_QOM,   /* types */
    MODULE_INIT_MAX,
} ModuleInitType;

/* Called from constructors only: before main, on one thread, without allocation failure handling.
 */
void register_module_init(void (*fn)(void), ModuleInitType type);

/* Runs each function of the list once, in order of registration; a second call runs only what was
 * registered since. Main thread, engine lock not needed before the first thread exists. */
void module_call_init(ModuleInitType type);

#define module_init(function, type)                                           \
    static void __attribute__((constructor)) module_register_##function(void) \
    {                                                                         \
        register_module_init(function, type);                                 \
    }
#define type_init(function) module_init(function, MODULE_INIT_QOM)
