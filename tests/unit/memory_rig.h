/* An address space, and a listener that writes down what it is told. */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"
#include "tests/unit/run_suite.h"

static MemoryRegion root;
static AddressSpace *as;
static const MemoryRegionOps no_ops;

/* ---- a listener that writes down what it is told ----------------------------------------- */

typedef struct Recorder {
    MemoryListener l;
    GString *text;
    char mark;
    bool nops;
} Recorder;

static inline Recorder *recorder_of(MemoryListener *l)
{
    return l->opaque;
}

static void note(MemoryListener *l, const char *format, ...) G_GNUC_PRINTF(2, 3);
static inline void note(MemoryListener *l, const char *format, ...)
{
    Recorder *r = recorder_of(l);
    va_list ap;

    if (r->text->len) {
        g_string_append_c(r->text, ' ');
    }
    if (r->mark) {
        g_string_append_c(r->text, r->mark);
    }
    va_start(ap, format);
    g_string_append_vprintf(r->text, format, ap);
    va_end(ap);
}

static inline void rec_begin(MemoryListener *l)
{
    note(l, "begin");
}

static inline void rec_add(MemoryListener *l, const MemorySection *s)
{
    note(l, "add:%s@%lx-%lx+%lx", s->range.mr->name, (unsigned long)s->range.addr,
         (unsigned long)s->range.last, (unsigned long)s->range.offset);
}

static inline void rec_del(MemoryListener *l, const MemorySection *s)
{
    note(l, "del:%s@%lx-%lx", s->range.mr->name, (unsigned long)s->range.addr,
         (unsigned long)s->range.last);
}

static inline void rec_nop(MemoryListener *l, const MemorySection *s)
{
    if (recorder_of(l)->nops) {
        note(l, "nop:%s@%lx", s->range.mr->name, (unsigned long)s->range.addr);
    }
}

static inline void rec_log_start(MemoryListener *l, const MemorySection *s, uint8_t o, uint8_t n)
{
    note(l, "log_start:%s:%u>%u", s->range.mr->name, o, n);
}

static inline void rec_log_stop(MemoryListener *l, const MemorySection *s, uint8_t o, uint8_t n)
{
    note(l, "log_stop:%s:%u>%u", s->range.mr->name, o, n);
}

static inline void rec_log_sync(MemoryListener *l, const MemorySection *s)
{
    note(l, "sync:%s@%lx", s->range.mr->name, (unsigned long)s->range.addr);
}

static inline void rec_eventfd_add(MemoryListener *l, const MemorySection *s,
                                   const MemoryRegionIoeventfd *e)
{
    note(l, "ev+%lx:%lu:%lx:%d", (unsigned long)e->range.addr, (unsigned long)e->range.size,
         (unsigned long)e->data, e->fd);
}

static inline void rec_eventfd_del(MemoryListener *l, const MemorySection *s,
                                   const MemoryRegionIoeventfd *e)
{
    note(l, "ev-%lx:%lu:%lx:%d", (unsigned long)e->range.addr, (unsigned long)e->range.size,
         (unsigned long)e->data, e->fd);
}

static inline void rec_coalesced_add(MemoryListener *l, const MemorySection *s, hwaddr addr,
                                     uint64_t len)
{
    note(l, "co+%lx:%lx", (unsigned long)addr, (unsigned long)len);
}

static inline void rec_coalesced_del(MemoryListener *l, const MemorySection *s, hwaddr addr,
                                     uint64_t len)
{
    note(l, "co-%lx:%lx", (unsigned long)addr, (unsigned long)len);
}

static inline void rec_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    note(l, "commit:%u>%u", old_view->n, new_view->n);
}

static inline void recorder_init(Recorder *r)
{
    *r = (Recorder){ .text = g_string_new(NULL) };
    r->l = (MemoryListener){ .begin = rec_begin,
                             .region_add = rec_add,
                             .region_del = rec_del,
                             .region_nop = rec_nop,
                             .log_start = rec_log_start,
                             .log_stop = rec_log_stop,
                             .log_sync = rec_log_sync,
                             .eventfd_add = rec_eventfd_add,
                             .eventfd_del = rec_eventfd_del,
                             .coalesced_add = rec_coalesced_add,
                             .coalesced_del = rec_coalesced_del,
                             .commit = rec_commit,
                             .opaque = r };
}

#define ck_assert_told(r, expected)                 \
    do {                                            \
        ck_assert_str_eq((r)->text->str, expected); \
        g_string_truncate((r)->text, 0);            \
    } while (0)

static Recorder rec;

static inline void setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    recorder_init(&rec);
    memory_listener_register(&rec.l, as);
    ck_assert_told(&rec, "begin commit:0>0");
}

static inline void teardown(void)
{
    if (as) {
        address_space_free(as);
    }
    memory_region_finalize(&root);
    main_loop_finalize();
    g_string_free(rec.text, TRUE);
}

static inline void io_init(MemoryRegion *mr, const char *name, uint64_t size)
{
    memory_region_init_io(mr, NULL, &no_ops, NULL, name, size);
}
