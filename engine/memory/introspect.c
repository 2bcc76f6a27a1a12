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

typedef struct TreeStep {
    const MemoryRegion *mr;
    hwaddr addr;
    guint next; /* subregion */
} TreeStep;

/* With a stack of its own: a script may nest containers as deep as it likes. */
void memory_region_tree_foreach(MemoryRegion *root, MemoryTreeFn fn, void *opaque)
{
    g_autoptr(GArray) path = g_array_new(FALSE, FALSE, sizeof(TreeStep));
    TreeStep step = { .mr = root, .addr = root->addr };

    ENGINE_LOCK_ASSERT();
    fn(root, root->addr, 0, opaque);
    g_array_append_val(path, step);
    while (path->len) {
        TreeStep *top = &g_array_index(path, TreeStep, path->len - 1);

        if (!top->mr->subregions || top->next >= top->mr->subregions->len) {
            g_array_set_size(path, path->len - 1);
            continue;
        }
        step.mr = g_ptr_array_index(top->mr->subregions, top->next++);
        step.addr = top->addr + step.mr->addr;
        step.next = 0;
        fn(step.mr, step.addr, path->len, opaque);
        g_array_append_val(path, step);
    }
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
