/* A device of which each access is written down, in an address space of its own. */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- a device that writes down what happens to it ---------------------------------------- */

typedef struct Probe {
    MemoryRegion mr;
    MemoryRegionOps ops;
    uint8_t bytes[64]; /* little-endian register file */
    GString *calls;
    MemTxResult result;
    MemTxAttrs attrs;
    bool lock_held, may_unlock, in_rcu;
    void (*hook)(struct Probe *p);
} Probe;

static inline void probe_note(Probe *p, char what, hwaddr addr, unsigned size, uint64_t value)
{
    g_string_append_printf(p->calls, "%s%c%x:%u=%lx", p->calls->len ? " " : "", what,
                           (unsigned)addr, size, (unsigned long)value);
    p->lock_held = engine_lock_held();
    p->may_unlock = engine_may_unlock();
    p->in_rcu = rcu_in_section();
    if (p->hook) {
        p->hook(p);
    }
}

static inline uint64_t probe_value(const Probe *p, hwaddr addr, unsigned size)
{
    uint64_t v = 0;

    memcpy(&v, p->bytes + addr, size);
    if (p->ops.endianness == DEVICE_BIG_ENDIAN) {
        v = __builtin_bswap64(v) >> (64 - 8 * size);
    }
    return v;
}

static inline uint64_t probe_read(void *opaque, hwaddr addr, unsigned size)
{
    Probe *p = opaque;
    uint64_t v = probe_value(p, addr, size);

    probe_note(p, 'r', addr, size, v);
    return v | (size < 8 ? UINT64_MAX << (8 * size) : 0); /* rubbish above */
}

static inline void probe_write(void *opaque, hwaddr addr, uint64_t data, unsigned size)
{
    Probe *p = opaque;
    uint64_t v = data;

    probe_note(p, 'w', addr, size, data);
    if (p->ops.endianness == DEVICE_BIG_ENDIAN) {
        v = __builtin_bswap64(v) >> (64 - 8 * size);
    }
    memcpy(p->bytes + addr, &v, size);
}

static inline MemTxResult probe_read_attrs(void *opaque, hwaddr addr, uint64_t *data, unsigned size,
                                           MemTxAttrs attrs)
{
    Probe *p = opaque;

    p->attrs = attrs;
    if (!p->result) {
        *data = probe_read(p, addr, size);
    }
    return p->result;
}

static inline MemTxResult probe_write_attrs(void *opaque, hwaddr addr, uint64_t data, unsigned size,
                                            MemTxAttrs attrs)
{
    Probe *p = opaque;

    p->attrs = attrs;
    if (!p->result) {
        probe_write(p, addr, data, size);
    }
    return p->result;
}

static inline Probe *probe_new(hwaddr at, uint64_t size)
{
    Probe *p = g_new0(Probe, 1);

    p->ops = (MemoryRegionOps){ .read = probe_read, .write = probe_write };
    p->calls = g_string_new(NULL);
    for (unsigned i = 0; i < sizeof(p->bytes); i++) {
        p->bytes[i] = (uint8_t)(0x10 + i);
    }
    memory_region_init_io(&p->mr, NULL, &p->ops, p, "probe", size);
    memory_region_add_subregion(&root, at, &p->mr);
    return p;
}

static inline void probe_free(Probe *p)
{
    memory_region_finalize(&p->mr);
    memory_reclaim();
    g_string_free(p->calls, TRUE);
    g_free(p);
}

#define ck_assert_calls(p, text)                 \
    do {                                         \
        ck_assert_str_eq((p)->calls->str, text); \
        g_string_truncate((p)->calls, 0);        \
    } while (0)

static inline uint64_t load(hwaddr addr, unsigned size, MemTxResult expect)
{
    MemTxResult res;
    uint64_t v = address_space_ldn(as, addr, size, MEMTXATTRS_NONE, &res);

    ck_assert_int_eq(res, expect);
    return v;
}

static inline void store(hwaddr addr, unsigned size, uint64_t v, MemTxResult expect)
{
    MemTxResult res;

    address_space_stn(as, addr, v, size, MEMTXATTRS_NONE, &res);
    ck_assert_int_eq(res, expect);
}

static GString *logged;

static inline void log_sink(LogMask mask, const char *line, void *opaque)
{
    g_string_append_printf(logged, "%s\n", line);
}

static inline void setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    logged = g_string_new(NULL);
    log_set_sink(log_sink, NULL);
}

static inline void teardown(void)
{
    log_set_sink(NULL, NULL);
    log_set_mask(0);
    address_space_free(as);
    memory_region_finalize(&root);
    main_loop_finalize();
    g_string_free(logged, TRUE);
}
