/* Looking at trees and views: for scripts, people and messages. */
#include <inttypes.h>

#include "engine/memory/memory-priv.h"

MemoryKind memory_region_kind(const MemoryRegion *mr)
{
    return mr->kind;
}

const char *memory_region_kind_name(MemoryKind kind)
{
    static const char *const names[] = {
        [MEMORY_CONTAINER] = "container",   [MEMORY_RAM] = "ram", [MEMORY_ROM] = "rom",
        [MEMORY_ROM_DEVICE] = "rom-device", [MEMORY_IO] = "i/o",  [MEMORY_ALIAS] = "alias",
    };

    return (unsigned)kind < G_N_ELEMENTS(names) ? names[kind] : "unknown";
}

void *memory_region_get_ram_ptr(MemoryRegion *mr)
{
    hwaddr offset = 0;

    while (mr && mr->kind == MEMORY_ALIAS) {
        offset += mr->alias_offset;
        mr = mr->alias;
    }
    return mr && mr->ram && offset < mr->ram->size ? mr->ram->host + offset : NULL;
}

static void tree_walk(const MemoryRegion *mr, hwaddr addr, unsigned depth, MemoryTreeFn fn,
                      void *opaque)
{
    fn(mr, addr, depth, opaque);
    for (guint i = 0; mr->subregions && i < mr->subregions->len; i++) {
        const MemoryRegion *child = g_ptr_array_index(mr->subregions, i);

        tree_walk(child, addr + child->addr, depth + 1, fn, opaque);
    }
}

void memory_region_tree_foreach(MemoryRegion *root, MemoryTreeFn fn, void *opaque)
{
    ENGINE_LOCK_ASSERT();
    tree_walk(root, root->addr, 0, fn, opaque);
}

char *address_space_describe(AddressSpace *as, hwaddr addr)
{
    const FlatRange *r;
    char *text;

    rcu_enter();
    r = flat_view_find(address_space_flat_view(as), addr);
    text = r ? g_strdup_printf("%s @ 0x%" PRIx64, r->name, addr) : g_strdup("unassigned");
    rcu_leave();
    return text;
}
