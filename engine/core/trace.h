/*
 * Trace points: named places in the engine that cost one predictable branch while off.
 *
 *     TRACE_POINT(serial_write, "reg=%u value=%#x")      at file scope, in a .c file
 *     TRACE(serial_write, reg, value);                   where it happens
 *
 * `-trace serial_*` switches on; lines go to the log as LOG_TRACE with thread, time and name. The
 * list is `-trace help`.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct TracePoint {
    const char *name;
    const char *format;
    bool enabled;       /* relaxed atomic */
    unsigned long hits; /* relaxed atomic; counted only while enabled */
    struct TracePoint *next;
} TracePoint;

void trace_register(TracePoint *point); /* from constructors */
TracePoint *trace_first(void);          /* a list in order of name; main thread */
/* A glob (* ? [a-z]); returns how many points it matched. Main thread. */
unsigned trace_enable(const char *pattern, bool on);
void trace_emit(TracePoint *point, ...);

/* The format stands in an array of its own so that the compiler checks the arguments of TRACE
 * against it. */
#define TRACE_POINT(_name, _format)                                                \
    static const char trace_format_##_name[] = _format;                            \
    static TracePoint trace_##_name = { .name = #_name, .format = (_format) };     \
    static void __attribute__((constructor)) trace_register_##_name(void)          \
    {                                                                              \
        trace_register(&trace_##_name);                                            \
    }                                                                              \
    static inline G_GNUC_PRINTF(1, 2) void trace_check_##_name(const char *f, ...) \
    {                                                                              \
        (void)f;                                                                   \
    }
#define TRACE(_name, ...)                                                            \
    do {                                                                             \
        if (G_UNLIKELY(__atomic_load_n(&trace_##_name.enabled, __ATOMIC_RELAXED))) { \
            trace_check_##_name(trace_format_##_name, ##__VA_ARGS__);                \
            trace_emit(&trace_##_name, ##__VA_ARGS__);                               \
        }                                                                            \
    } while (0)
