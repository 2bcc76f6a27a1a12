/* Page copies and the tables that name them. */
#include "engine/state/ram-store.h"

#include <string.h>
#include <sys/mman.h>

#include "engine/memory/ram.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define SLAB_PAGES 256
#define SLAB_BYTES (SLAB_PAGES * RAM_PAGE_SIZE)
#define SLAB_WORDS (SLAB_PAGES / 64)
/* Populated by one call: a page fault each would cost more than the copy. */
#define POPULATE_PAGES 64
#define SPARE_SLABS    2 /* empty slabs that are kept for the next take */

typedef struct Slab {
    uint8_t *mem; /* NULL: the slot is free */
    unsigned used, populated;
    bool listed; /* in store->roomy */
    uint64_t free[SLAB_WORDS];
    uint32_t ref[SLAB_PAGES];
} Slab;

struct RamStore {
    unsigned ref;
    GPtrArray *slabs; /* of Slab; a page is 1 + slab index * SLAB_PAGES + index in it */
    GArray *roomy;    /* of guint: slabs that may have room; the last is tried first */
    GArray *vacant;   /* of guint: slots without memory */
    unsigned empty;   /* slabs with memory and no page in use */
    uint64_t pages, nodes, chunks;
};

static Slab *slab_of(const RamStore *store, RamPage page)
{
    return g_ptr_array_index(store->slabs, (page - 1) / SLAB_PAGES);
}

RamStore *ram_store_new(void)
{
    RamStore *store = g_new0(RamStore, 1);

    store->ref = 1;
    store->slabs = g_ptr_array_new_with_free_func(g_free);
    store->roomy = g_array_new(FALSE, FALSE, sizeof(guint));
    store->vacant = g_array_new(FALSE, FALSE, sizeof(guint));
    return store;
}

RamStore *ram_store_ref(RamStore *store)
{
    store->ref++;
    return store;
}

void ram_store_unref(RamStore *store)
{
    if (!store || --store->ref) {
        return;
    }
    for (guint i = 0; i < store->slabs->len; i++) {
        Slab *slab = g_ptr_array_index(store->slabs, i);

        if (slab->mem) {
            munmap(slab->mem, SLAB_BYTES);
        }
    }
    g_ptr_array_free(store->slabs, TRUE);
    g_array_free(store->roomy, TRUE);
    g_array_free(store->vacant, TRUE);
    g_free(store);
}

uint64_t ram_store_bytes(const RamStore *store)
{
    return store->pages * RAM_PAGE_SIZE + store->nodes * sizeof(RamNode) +
           store->chunks * sizeof(RamChunk);
}

/* ---- pages ------------------------------------------------------------------------------- */

/* false and errno: no address space for it. */
static bool slab_new(RamStore *store)
{
    uint8_t *mem = mmap(NULL, SLAB_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    Slab *slab;
    guint index;

    if (mem == MAP_FAILED) {
        return false;
    }
    if (store->vacant->len) {
        index = g_array_index(store->vacant, guint, store->vacant->len - 1);
        g_array_set_size(store->vacant, store->vacant->len - 1);
        slab = g_ptr_array_index(store->slabs, index);
    } else {
        index = store->slabs->len;
        slab = g_new0(Slab, 1);
        g_ptr_array_add(store->slabs, slab);
    }
    slab->mem = mem;
    slab->used = slab->populated = 0;
    memset(slab->free, 0xff, sizeof(slab->free));
    slab->listed = true;
    g_array_append_val(store->roomy, index);
    store->empty++;
    return true;
}

static void slab_release(RamStore *store, guint index)
{
    Slab *slab = g_ptr_array_index(store->slabs, index);

    munmap(slab->mem, SLAB_BYTES);
    slab->mem = NULL;
    store->empty--;
    for (guint i = 0; slab->listed && i < store->roomy->len; i++) {
        if (g_array_index(store->roomy, guint, i) == index) {
            g_array_remove_index_fast(store->roomy, i);
            slab->listed = false;
        }
    }
    g_array_append_val(store->vacant, index);
}

RamPage ram_page_new(RamStore *store)
{
    guint index;
    Slab *slab;
    unsigned at, w = 0;

    for (;;) {
        if (!store->roomy->len && !slab_new(store)) {
            return 0;
        }
        index = g_array_index(store->roomy, guint, store->roomy->len - 1);
        slab = g_ptr_array_index(store->slabs, index);
        if (slab->used < SLAB_PAGES) {
            break;
        }
        slab->listed = false;
        g_array_set_size(store->roomy, store->roomy->len - 1);
    }
    while (!slab->free[w]) {
        w++;
    }
    at = w * 64 + (unsigned)__builtin_ctzll(slab->free[w]);
    slab->free[w] &= slab->free[w] - 1;
    if (at >= slab->populated) {
        madvise(slab->mem + slab->populated * RAM_PAGE_SIZE, POPULATE_PAGES * RAM_PAGE_SIZE,
                MADV_POPULATE_WRITE); /* where this is refused, touching does it */
        slab->populated += POPULATE_PAGES;
    }
    if (slab->used++ == 0) {
        store->empty--;
    }
    slab->ref[at] = 1;
    store->pages++;
    return 1 + index * SLAB_PAGES + at;
}

void ram_page_ref(RamStore *store, RamPage page)
{
    if (page) {
        slab_of(store, page)->ref[(page - 1) % SLAB_PAGES]++;
    }
}

void ram_page_unref(RamStore *store, RamPage page)
{
    guint index = (page - 1) / SLAB_PAGES;
    unsigned at = (page - 1) % SLAB_PAGES;
    Slab *slab;

    if (!page) {
        return;
    }
    slab = slab_of(store, page);
    if (--slab->ref[at]) {
        return;
    }
    slab->free[at / 64] |= UINT64_C(1) << (at % 64);
    slab->used--;
    store->pages--;
    if (!slab->listed) {
        slab->listed = true;
        g_array_append_val(store->roomy, index);
    }
    if (!slab->used && ++store->empty > SPARE_SLABS) {
        slab_release(store, index);
    }
}

uint32_t ram_page_count(const RamStore *store, RamPage page)
{
    return slab_of(store, page)->ref[(page - 1) % SLAB_PAGES];
}

uint8_t *ram_page_data(const RamStore *store, RamPage page)
{
    return slab_of(store, page)->mem + (page - 1) % SLAB_PAGES * RAM_PAGE_SIZE;
}

/* ---- tables ------------------------------------------------------------------------------ */

void ram_table_init(RamTable *table, RamStore *store, uint64_t pages)
{
    uint64_t per_node = CHUNK_PAGES * NODE_CHUNKS;

    *table = (RamTable){ .store = store,
                         .pages = pages,
                         .n_nodes = (pages + per_node - 1) / per_node };
    table->nodes = g_new0(RamNode *, table->n_nodes);
}

void ram_table_share(RamTable *to, const RamTable *from)
{
    *to = *from;
    to->nodes = g_memdup2(from->nodes, from->n_nodes * sizeof(RamNode *));
    for (uint64_t i = 0; i < to->n_nodes; i++) {
        if (to->nodes[i]) {
            to->nodes[i]->ref++;
        }
    }
}

static void chunk_unref(RamStore *store, RamChunk *chunk)
{
    if (!chunk || --chunk->ref) {
        return;
    }
    for (unsigned i = 0; i < CHUNK_PAGES; i++) {
        ram_page_unref(store, chunk->page[i]);
    }
    store->chunks--;
    g_free(chunk);
}

static void node_unref(RamStore *store, RamNode *node)
{
    if (!node || --node->ref) {
        return;
    }
    for (unsigned i = 0; i < NODE_CHUNKS; i++) {
        chunk_unref(store, node->chunk[i]);
    }
    store->nodes--;
    g_free(node);
}

void ram_table_clear(RamTable *table)
{
    for (uint64_t i = 0; i < table->n_nodes; i++) {
        node_unref(table->store, table->nodes[i]);
    }
    g_free(table->nodes);
    memset(table, 0, sizeof(*table));
}

static RamNode *own_node(RamTable *table, uint64_t index)
{
    RamNode *node = table->nodes[index], *copy;

    if (node && node->ref == 1) {
        return node;
    }
    copy = g_new0(RamNode, 1);
    table->store->nodes++;
    if (node) {
        memcpy(copy->chunk, node->chunk, sizeof(copy->chunk));
        for (unsigned i = 0; i < NODE_CHUNKS; i++) {
            if (copy->chunk[i]) {
                copy->chunk[i]->ref++;
            }
        }
        node->ref--;
    }
    copy->ref = 1;
    table->nodes[index] = copy;
    return copy;
}

RamChunk *ram_table_own_chunk(RamTable *table, uint64_t index)
{
    RamNode *node = own_node(table, index / NODE_CHUNKS);
    RamChunk **slot = &node->chunk[index % NODE_CHUNKS], *copy;

    if (*slot && (*slot)->ref == 1) {
        return *slot;
    }
    copy = g_new0(RamChunk, 1);
    table->store->chunks++;
    if (*slot) {
        memcpy(copy->page, (*slot)->page, sizeof(copy->page));
        for (unsigned i = 0; i < CHUNK_PAGES; i++) {
            ram_page_ref(table->store, copy->page[i]);
        }
        (*slot)->ref--;
    }
    copy->ref = 1;
    *slot = copy;
    return copy;
}
