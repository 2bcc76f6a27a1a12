/* Regions: making them, the tree, transactions. */
#include "engine/memory/memory.h"

#include <inttypes.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/rcu.h"
#include "engine/memory/memory-priv.h"
#include "engine/memory/ram.h"

/* All under the engine lock. */
static unsigned transaction_depth;
static uint32_t visit_stamp;

/* ---- making ------------------------------------------------------------------------------ */

static void region_init(MemoryRegion *mr, Object *owner, const char *name, uint64_t size,
                        MemoryKind kind)
{
    static uint64_t next_id = 1;

    g_assert(size > 0);
    memset(mr, 0, sizeof(*mr));
    mr->kind = kind;
    mr->enabled = true;
    mr->name = g_strdup(name ? name : "");
    mr->owner = owner;
    mr->size = size;
    mr->id = __atomic_fetch_add(&next_id, 1, __ATOMIC_RELAXED);
}

void memory_region_init(MemoryRegion *mr, Object *owner, const char *name, uint64_t size)
{
    region_init(mr, owner, name, size, MEMORY_CONTAINER);
}

void memory_region_init_io(MemoryRegion *mr, Object *owner, const MemoryRegionOps *ops,
                           void *opaque, const char *name, uint64_t size)
{
    region_init(mr, owner, name, size, MEMORY_IO);
    mr->ops = ops;
    mr->opaque = opaque;
}

static bool region_init_anonymous(MemoryRegion *mr, Object *owner, const char *name, uint64_t size,
                                  MemoryKind kind, GError **error)
{
    RamBlock *block = ram_block_new_anonymous(name, size, error);

    if (!block) {
        memset(mr, 0, sizeof(*mr));
        return false;
    }
    region_init(mr, owner, name, size, kind);
    mr->ram = block;
    return true;
}

bool memory_region_init_ram(MemoryRegion *mr, Object *owner, const char *name, uint64_t size,
                            GError **error)
{
    return region_init_anonymous(mr, owner, name, size, MEMORY_RAM, error);
}

void memory_region_init_ram_block(MemoryRegion *mr, Object *owner, const char *name,
                                  RamBlock *block)
{
    /* The host mapping of a read-only block faults on a write: the guest must never get there. */
    region_init(mr, owner, name, block->size, block->readonly ? MEMORY_ROM : MEMORY_RAM);
    mr->ram = ram_block_ref(block);
}

bool memory_region_init_rom(MemoryRegion *mr, Object *owner, const char *name, uint64_t size,
                            GError **error)
{
    return region_init_anonymous(mr, owner, name, size, MEMORY_ROM, error);
}

bool memory_region_init_rom_device(MemoryRegion *mr, Object *owner, const MemoryRegionOps *ops,
                                   void *opaque, const char *name, uint64_t size, GError **error)
{
    if (!region_init_anonymous(mr, owner, name, size, MEMORY_ROM_DEVICE, error)) {
        return false;
    }
    mr->ops = ops;
    mr->opaque = opaque;
    mr->romd_mode = true;
    return true;
}

void memory_region_init_rom_device_block(MemoryRegion *mr, Object *owner,
                                         const MemoryRegionOps *ops, void *opaque, const char *name,
                                         RamBlock *block)
{
    region_init(mr, owner, name, block->size, MEMORY_ROM_DEVICE);
    mr->ram = ram_block_ref(block);
    mr->ops = ops;
    mr->opaque = opaque;
    mr->romd_mode = true;
}

void memory_region_init_alias(MemoryRegion *mr, Object *owner, const char *name, MemoryRegion *orig,
                              hwaddr offset, uint64_t size)
{
    region_init(mr, owner, name, size, MEMORY_ALIAS);
    mr->alias = orig;
    mr->alias_offset = offset;
    if (!orig->aliases) {
        orig->aliases = g_ptr_array_new();
    }
    g_ptr_array_add(orig->aliases, mr);
}

static void unref_ram(void *block)
{
    ram_block_unref(block);
}

void memory_region_finalize(MemoryRegion *mr)
{
    if (!mr->id) {
        return;
    }
    if (mr->container) {
        memory_region_del_subregion(mr->container, mr);
    }
    if (mr->mapped_once && transaction_depth) {
        /* Listeners look into regions that they are told to delete: tell them while it is whole. */
        address_spaces_commit();
    }
    if (mr->subregions) {
        memory_region_transaction_begin();
        while (mr->subregions->len) {
            memory_region_del_subregion(mr, g_ptr_array_index(mr->subregions, 0));
        }
        memory_region_transaction_commit();
        g_ptr_array_free(mr->subregions, TRUE);
    }
    if (mr->aliases) {
        if (mr->aliases->len) {
            memory_region_transaction_begin();
            for (guint i = 0; i < mr->aliases->len; i++) {
                MemoryRegion *alias = g_ptr_array_index(mr->aliases, i);

                address_spaces_mark_stale(memory_region_stamp_up(alias));
                alias->alias = NULL;
            }
            memory_region_transaction_commit();
        }
        g_ptr_array_free(mr->aliases, TRUE);
    }
    if (mr->alias) {
        g_ptr_array_remove_fast(mr->alias->aliases, mr);
    }
    if (mr->ram) {
        for (unsigned i = 0; i < DIRTY_CLIENTS; i++) {
            if (mr->dirty_clients & (1u << i)) {
                ram_block_disable_dirty(mr->ram, 1u << i);
            }
        }
        if (mr->mapped_once) {
            rcu_defer(unref_ram, mr->ram);
        } else {
            ram_block_unref(mr->ram);
        }
    }
    if (mr->ioeventfds) {
        g_array_free(mr->ioeventfds, TRUE);
    }
    if (mr->coalesced) {
        g_array_free(mr->coalesced, TRUE);
    }
    if (mr->mapped_once) {
        rcu_defer(g_free, mr->name);
    } else {
        g_free(mr->name);
    }
    memset(mr, 0, sizeof(*mr));
}

/* ---- transactions ------------------------------------------------------------------------ */

void memory_region_transaction_begin(void)
{
    ENGINE_LOCK_ASSERT();
    transaction_depth++;
}

void memory_region_transaction_commit(void)
{
    ENGINE_LOCK_ASSERT();
    g_assert(transaction_depth > 0);
    if (transaction_depth == 1) {
        address_spaces_commit();
    }
    transaction_depth--;
}

uint32_t memory_region_stamp_up(MemoryRegion *mr)
{
    static GPtrArray *aliases; /* still to be followed; a list, since chains may be long */

    if (++visit_stamp == 0) {
        visit_stamp = 1;
    }
    if (!aliases) {
        aliases = g_ptr_array_new();
    }
    for (;;) {
        for (; mr && mr->visit != visit_stamp; mr = mr->container) {
            mr->visit = visit_stamp;
            for (guint i = 0; mr->aliases && i < mr->aliases->len; i++) {
                g_ptr_array_add(aliases, g_ptr_array_index(mr->aliases, i));
            }
        }
        if (!aliases->len) {
            return visit_stamp;
        }
        mr = g_ptr_array_remove_index_fast(aliases, aliases->len - 1);
    }
}

/* Views that may show `mr` are rendered again at the end of the transaction. */
static void region_changed(MemoryRegion *mr)
{
    address_spaces_mark_stale(memory_region_stamp_up(mr));
}

/* ---- the tree ---------------------------------------------------------------------------- */

static bool overlaps(const MemoryRegion *a, const MemoryRegion *b)
{
    return (__int128)a->addr < (__int128)b->addr + memory_region_size128(b) &&
           (__int128)b->addr < (__int128)a->addr + memory_region_size128(a);
}

/* The enabled sibling that `mr`, at its addr and priority, collides with by mistake, or NULL. */
static MemoryRegion *find_collision(MemoryRegion *container, const MemoryRegion *mr)
{
    if (mr->may_overlap || !mr->enabled || !container->subregions) {
        return NULL;
    }
    for (guint i = 0; i < container->subregions->len; i++) {
        MemoryRegion *other = g_ptr_array_index(container->subregions, i);

        if (other->priority < mr->priority) {
            break;
        }
        if (other->priority == mr->priority && other->enabled && !other->may_overlap &&
            overlaps(other, mr)) {
            return other;
        }
    }
    return NULL;
}

static hwaddr region_last(const MemoryRegion *mr)
{
    __int128 last = (__int128)mr->addr + memory_region_size128(mr) - 1;

    return last > (__int128)UINT64_MAX ? UINT64_MAX : (hwaddr)last;
}

/* Refuses what no tree can hold, whatever the caller's intention. */
static bool check_shape(MemoryRegion *container, MemoryRegion *mr, GError **error)
{
    uint32_t stamp;

    if (container->kind != MEMORY_CONTAINER) {
        return error_set(error, ENGINE_ERROR_INVALID, "region '%s' is no container but %s",
                         container->name, memory_region_kind_name(container->kind));
    }
    if (mr->container) {
        return error_set(error, ENGINE_ERROR_INVALID, "region '%s' is already in '%s'", mr->name,
                         mr->container->name);
    }
    stamp = memory_region_stamp_up(container);
    if (mr->visit == stamp) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "region '%s' cannot be put into '%s', which is part of it", mr->name,
                         container->name);
    }
    return true;
}

static void insert_subregion(MemoryRegion *container, hwaddr addr, MemoryRegion *mr, int priority,
                             bool may_overlap)
{
    guint i = 0;

    memory_region_transaction_begin();
    if (!container->subregions) {
        container->subregions = g_ptr_array_new();
    }
    while (i < container->subregions->len &&
           ((MemoryRegion *)g_ptr_array_index(container->subregions, i))->priority > priority) {
        i++;
    }
    mr->addr = addr;
    mr->priority = priority;
    mr->may_overlap = may_overlap;
    mr->container = container;
    g_ptr_array_insert(container->subregions, (gint)i, mr);
    if (mr->enabled) {
        region_changed(container);
    }
    memory_region_transaction_commit();
}

static void add_unchecked(MemoryRegion *container, hwaddr addr, MemoryRegion *mr, int priority,
                          bool may_overlap)
{
    GError *error = NULL;

    if (!check_shape(container, mr, &error)) {
        log_warning("%s", error->message);
        g_error_free(error);
        return;
    }
    if (log_enabled(LOG_MEMORY)) {
        mr->addr = addr;
        mr->priority = priority;
        mr->may_overlap = may_overlap;

        MemoryRegion *other = find_collision(container, mr);

        if (other) {
            log_mask(LOG_MEMORY,
                     "region '%s' at 0x%" PRIx64 "..0x%" PRIx64 " overlaps '%s' at 0x%" PRIx64
                     "..0x%" PRIx64 " of the same priority in '%s'",
                     mr->name, addr, region_last(mr), other->name, other->addr, region_last(other),
                     container->name);
        }
    }
    insert_subregion(container, addr, mr, priority, may_overlap);
}

void memory_region_add_subregion(MemoryRegion *container, hwaddr addr, MemoryRegion *mr)
{
    add_unchecked(container, addr, mr, 0, false);
}

void memory_region_add_subregion_overlap(MemoryRegion *container, hwaddr addr, MemoryRegion *mr,
                                         int priority)
{
    add_unchecked(container, addr, mr, priority, true);
}

bool memory_region_add_subregion_checked(MemoryRegion *container, hwaddr addr, MemoryRegion *mr,
                                         int priority, bool may_overlap, GError **error)
{
    MemoryRegion *other;

    if (!check_shape(container, mr, error)) {
        return false;
    }
    if ((__int128)addr >= memory_region_size128(container)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "region '%s' at 0x%" PRIx64
                         " lies outside of '%s', which ends at 0x%" PRIx64,
                         mr->name, addr, container->name, container->size - 1);
    }
    mr->addr = addr;
    mr->priority = priority;
    mr->may_overlap = may_overlap;
    other = find_collision(container, mr);
    if (other) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "region '%s' at 0x%" PRIx64 "..0x%" PRIx64
                         " overlaps region '%s' at 0x%" PRIx64 "..0x%" PRIx64 " in '%s'",
                         mr->name, addr, region_last(mr), other->name, other->addr,
                         region_last(other), container->name);
    }
    insert_subregion(container, addr, mr, priority, may_overlap);
    return true;
}

void memory_region_del_subregion(MemoryRegion *container, MemoryRegion *mr)
{
    if (mr->container != container) {
        log_warning("region '%s' is not in '%s'", mr->name, container->name);
        return;
    }
    memory_region_transaction_begin();
    g_ptr_array_remove(container->subregions, mr);
    mr->container = NULL;
    if (mr->enabled) {
        region_changed(container);
    }
    memory_region_transaction_commit();
}

/* Changes one field and, where the region can be seen, what depends on it. Atomic, for lockless
 * handlers may be running. */
#define REGION_SET(mr, field, value)                                   \
    do {                                                               \
        if ((mr)->field != (value)) {                                  \
            memory_region_transaction_begin();                         \
            __atomic_store_n(&(mr)->field, (value), __ATOMIC_RELAXED); \
            region_changed(mr);                                        \
            memory_region_transaction_commit();                        \
        }                                                              \
    } while (0)

void memory_region_set_enabled(MemoryRegion *mr, bool enabled)
{
    REGION_SET(mr, enabled, enabled);
}

void memory_region_set_address(MemoryRegion *mr, hwaddr addr)
{
    REGION_SET(mr, addr, addr);
}

void memory_region_set_size(MemoryRegion *mr, uint64_t size)
{
    g_assert(size > 0);
    if (mr->ram && size > mr->ram->size) {
        size = mr->ram->size;
    }
    REGION_SET(mr, size, size);
}

void memory_region_set_alias_offset(MemoryRegion *mr, hwaddr offset)
{
    REGION_SET(mr, alias_offset, offset);
}

void memory_region_set_readonly(MemoryRegion *mr, bool readonly)
{
    REGION_SET(mr, readonly, readonly);
}

void memory_region_rom_device_set_romd(MemoryRegion *mr, bool romd_mode)
{
    REGION_SET(mr, romd_mode, romd_mode);
}

void memory_region_set_lockless(MemoryRegion *mr)
{
    REGION_SET(mr, lockless, true);
}

void memory_region_add_eventfd(MemoryRegion *mr, const MemoryRegionIoeventfd *ev)
{
    memory_region_transaction_begin();
    if (!mr->ioeventfds) {
        mr->ioeventfds = g_array_new(FALSE, FALSE, sizeof(MemoryRegionIoeventfd));
    }
    g_array_append_vals(mr->ioeventfds, ev, 1);
    region_changed(mr);
    memory_region_transaction_commit();
}

void memory_region_del_eventfd(MemoryRegion *mr, const MemoryRegionIoeventfd *ev)
{
    memory_region_transaction_begin();
    for (guint i = 0; mr->ioeventfds && i < mr->ioeventfds->len; i++) {
        const MemoryRegionIoeventfd *e = &g_array_index(mr->ioeventfds, MemoryRegionIoeventfd, i);

        if (e->range.addr == ev->range.addr && e->range.size == ev->range.size &&
            e->match_data == ev->match_data && e->data == ev->data && e->fd == ev->fd) {
            g_array_remove_index(mr->ioeventfds, i);
            region_changed(mr);
            break;
        }
    }
    memory_region_transaction_commit();
}

void memory_region_add_coalescing(MemoryRegion *mr, hwaddr offset, uint64_t size)
{
    MemoryRange range = { .addr = offset, .size = size };

    if (!size) {
        return;
    }
    memory_region_transaction_begin();
    if (!mr->coalesced) {
        mr->coalesced = g_array_new(FALSE, FALSE, sizeof(MemoryRange));
    }
    g_array_append_val(mr->coalesced, range);
    region_changed(mr);
    memory_region_transaction_commit();
}

void memory_region_clear_coalescing(MemoryRegion *mr)
{
    if (!mr->coalesced || !mr->coalesced->len) {
        return;
    }
    memory_region_transaction_begin();
    g_array_set_size(mr->coalesced, 0);
    region_changed(mr);
    memory_region_transaction_commit();
}

/* ---- dirty logging of a region ----------------------------------------------------------- */

static MemoryRegion *resolve_alias(MemoryRegion *mr)
{
    while (mr && mr->kind == MEMORY_ALIAS) {
        mr = mr->alias;
    }
    return mr;
}

void memory_region_set_log(MemoryRegion *mr, bool on, unsigned client)
{
    uint8_t clients;

    mr = resolve_alias(mr);
    if (!mr || !mr->ram || !!(mr->dirty_clients & client) == on) {
        return;
    }
    memory_region_transaction_begin();
    clients = on ? mr->dirty_clients | client : mr->dirty_clients & ~client;
    if (on) {
        ram_block_enable_dirty(mr->ram, client);
    }
    __atomic_store_n(&mr->dirty_clients, clients, __ATOMIC_RELEASE);
    region_changed(mr);
    memory_region_transaction_commit();
    if (!on) {
        ram_block_disable_dirty(mr->ram, client);
    }
}

void memory_region_set_dirty(MemoryRegion *mr, hwaddr offset, uint64_t size)
{
    if (mr->ram) {
        ram_block_set_dirty(mr->ram, offset, size);
    }
}

bool memory_region_test_and_clear_dirty(MemoryRegion *mr, hwaddr offset, uint64_t size,
                                        unsigned client)
{
    return mr->ram && ram_block_test_and_clear_dirty(mr->ram, offset, size, client);
}
