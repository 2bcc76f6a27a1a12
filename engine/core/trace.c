/* The list of trace points. */
#include "engine/core/trace.h"

#include <fnmatch.h>
#include <string.h>

static TracePoint *trace_points;
static bool trace_sorted;

void trace_register(TracePoint *point)
{
    point->next = trace_points;
    trace_points = point;
    trace_sorted = false;
}

static int trace_compare(const void *a, const void *b)
{
    return strcmp((*(TracePoint *const *)a)->name, (*(TracePoint *const *)b)->name);
}

/* Constructors run before main in an order that the linker chose, so the list is put in order when
 * somebody first asks for it. */
static void trace_sort(void)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    for (TracePoint *p = trace_points; p; p = p->next) {
        g_ptr_array_add(all, p);
    }
    g_ptr_array_sort(all, trace_compare);
    trace_points = NULL;
    for (unsigned i = all->len; i > 0; i--) {
        TracePoint *p = g_ptr_array_index(all, i - 1);
        p->next = trace_points;
        trace_points = p;
    }
    trace_sorted = true;
}

TracePoint *trace_first(void)
{
    if (!trace_sorted) {
        trace_sort();
    }
    return trace_points;
}

unsigned trace_enable(const char *pattern, bool on)
{
    unsigned n = 0;
    for (TracePoint *p = trace_points; p; p = p->next) {
        if (fnmatch(pattern, p->name, 0) == 0) {
            __atomic_store_n(&p->enabled, on, __ATOMIC_RELAXED);
            n++;
        }
    }
    return n;
}
