/*
 * Page copies and the tables that name them; private to engine/state.
 *
 * A page is a number (0: a page of zeros, which has no copy) with a reference count. A table maps
 * the pages of one block to them: an array of nodes of 64 chunks of 64 pages, a chunk being as much
 * as one word of a dirty bitmap. Nodes and chunks are counted and shared between tables; a table
 * makes them its own before it changes them. Engine lock.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define CHUNK_PAGES 64
#define NODE_CHUNKS 64

typedef struct RamStore RamStore;
typedef uint32_t RamPage;

typedef struct RamChunk {
    uint32_t ref;
    RamPage page[CHUNK_PAGES];
} RamChunk;

typedef struct RamNode {
    uint32_t ref;
    RamChunk *chunk[NODE_CHUNKS]; /* NULL: zeros */
} RamNode;

typedef struct RamTable {
    RamStore *store; /* not counted: who has the table has the store */
    uint64_t pages;
    uint64_t held; /* entries that are not zero */
    uint64_t n_nodes;
    RamNode **nodes; /* NULL entries: zeros */
} RamTable;

RamStore *ram_store_new(void);
RamStore *ram_store_ref(RamStore *store);
void ram_store_unref(RamStore *store);
uint64_t ram_store_bytes(const RamStore *store); /* pages and tables in use */

/* One reference; content undefined. 0 and errno: the host has no room for it. */
RamPage ram_page_new(RamStore *store);
void ram_page_ref(RamStore *store, RamPage page);
void ram_page_unref(RamStore *store, RamPage page);
uint32_t ram_page_count(const RamStore *store, RamPage page);
uint8_t *ram_page_data(const RamStore *store, RamPage page); /* page != 0 */

void ram_table_init(RamTable *table, RamStore *store, uint64_t pages); /* all zeros */
void ram_table_share(RamTable *to, const RamTable *from);              /* `to` is uninitialized */
void ram_table_clear(RamTable *table); /* drops everything; a zeroed one is left alone */
static inline RamChunk *ram_table_chunk(const RamTable *table, uint64_t chunk)
{
    RamNode *node = table->nodes[chunk / NODE_CHUNKS];

    return node ? node->chunk[chunk % NODE_CHUNKS] : NULL;
}
/* The chunk, made if need be, and referenced by this table alone. */
RamChunk *ram_table_own_chunk(RamTable *table, uint64_t chunk);
