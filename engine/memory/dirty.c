/*
 * Dirty bitmaps of RAM blocks: one bit a page and client.
 *
 * A writer stores its data first and sets the bit after, with a full barrier in between; who takes
 * a bit clears it first and reads the page after. So a bit is never lost, at worst set once more.
 */
#include "engine/core/lock.h"
#include "engine/memory/ram.h"

#include <string.h>

#include "engine/memory/memory.h"

#define BITS 64

G_STATIC_ASSERT(sizeof(unsigned long) * 8 == BITS);

static uint64_t block_pages(const RamBlock *block)
{
    return block->size >> RAM_PAGE_BITS;
}

/* Bits [first, last] of word w of a bitmap. */
static unsigned long word_mask(uint64_t w, uint64_t first, uint64_t last)
{
    unsigned long mask = ~0ul;

    if (w == first / BITS) {
        mask &= ~0ul << (first % BITS);
    }
    if (w == last / BITS) {
        mask &= ~0ul >> (BITS - 1 - last % BITS);
    }
    return mask;
}

/* Clips to the block; false when nothing is left. */
static bool page_span(const RamBlock *block, uint64_t offset, uint64_t len, uint64_t *first,
                      uint64_t *last)
{
    if (!len || offset >= block->size) {
        return false;
    }
    len = MIN(len, block->size - offset);
    *first = offset >> RAM_PAGE_BITS;
    *last = (offset + len - 1) >> RAM_PAGE_BITS;
    return true;
}

void ram_block_enable_dirty(RamBlock *block, unsigned client)
{
    unsigned i = ram_dirty_index(client);
    uint64_t bytes = ram_block_bitmap_bytes(block);

    ENGINE_LOCK_ASSERT();
    if (block->log_count[i]++) {
        return;
    }
    if (!block->dirty[i]) {
        uint8_t *bitmap = block->books + block_pages(block) * sizeof(RamCodePage) + i * bytes;

        __atomic_store_n(&block->dirty[i], (unsigned long *)(void *)bitmap, __ATOMIC_RELEASE);
    } else {
        for (uint64_t w = 0; w < bytes / sizeof(unsigned long); w++) {
            if (__atomic_load_n(&block->dirty[i][w], __ATOMIC_RELAXED)) {
                __atomic_store_n(&block->dirty[i][w], 0, __ATOMIC_RELAXED);
            }
        }
    }
    __atomic_fetch_or(&block->dirty_active, (uint8_t)client, __ATOMIC_SEQ_CST);
}

void ram_block_disable_dirty(RamBlock *block, unsigned client)
{
    unsigned i = ram_dirty_index(client);

    ENGINE_LOCK_ASSERT();
    g_assert(block->log_count[i]);
    if (--block->log_count[i] == 0) {
        /* The bitmap stays: a writer may be on its way to it. */
        __atomic_fetch_and(&block->dirty_active, (uint8_t)~client, __ATOMIC_SEQ_CST);
    }
}

static void set_bits(unsigned long *bitmap, uint64_t first, uint64_t last)
{
    for (uint64_t w = first / BITS; w <= last / BITS; w++) {
        __atomic_fetch_or(&bitmap[w], word_mask(w, first, last), __ATOMIC_SEQ_CST);
    }
}

void ram_block_set_dirty_clients(RamBlock *block, uint64_t offset, uint64_t len, unsigned clients)
{
    uint64_t first, last;

    clients &= __atomic_load_n(&block->dirty_active, __ATOMIC_RELAXED);
    if (G_LIKELY(!clients) || !page_span(block, offset, len, &first, &last)) {
        return;
    }
    if (clients & RAM_DIRTY_CODE_MAP) {
        ram_block_code_written(block, offset, len);
    }
    for (unsigned i = 0; i < DIRTY_CLIENTS; i++) {
        if (clients & (1u << i)) {
            set_bits(__atomic_load_n(&block->dirty[i], __ATOMIC_ACQUIRE), first, last);
        }
    }
}

void ram_block_set_dirty(RamBlock *block, uint64_t offset, uint64_t len)
{
    ram_block_set_dirty_clients(block, offset, len, ~0u);
}

void ram_block_merge_dirty(RamBlock *block, uint64_t first_page, const unsigned long *bitmap,
                           uint64_t pages)
{
    unsigned active = __atomic_load_n(&block->dirty_active, __ATOMIC_ACQUIRE);
    unsigned shift = first_page % BITS;

    if (first_page >= block_pages(block)) {
        return;
    }
    pages = MIN(pages, block_pages(block) - first_page);
    for (uint64_t w = 0; w * BITS < pages; w++) {
        unsigned long bits = bitmap[w];
        uint64_t to = (first_page + w * BITS) / BITS;

        if (pages - w * BITS < BITS) {
            bits &= (1ul << (pages - w * BITS)) - 1;
        }
        if (!bits) {
            continue;
        }
        for (unsigned i = 0; i < DIRTY_CLIENTS; i++) {
            if (!(active & (1u << i))) {
                continue;
            }
            __atomic_fetch_or(&block->dirty[i][to], bits << shift, __ATOMIC_SEQ_CST);
            if (shift && bits >> (BITS - shift)) {
                __atomic_fetch_or(&block->dirty[i][to + 1], bits >> (BITS - shift),
                                  __ATOMIC_SEQ_CST);
            }
        }
    }
}

bool ram_block_test_and_clear_dirty(RamBlock *block, uint64_t offset, uint64_t len, unsigned client)
{
    unsigned long *bitmap = __atomic_load_n(&block->dirty[ram_dirty_index(client)],
                                            __ATOMIC_ACQUIRE);
    uint64_t first, last;
    bool dirty = false;

    if (!bitmap || !page_span(block, offset, len, &first, &last)) {
        return false;
    }
    for (uint64_t w = first / BITS; w <= last / BITS; w++) {
        unsigned long mask = word_mask(w, first, last);

        if (__atomic_load_n(&bitmap[w], __ATOMIC_RELAXED) & mask) {
            dirty |= __atomic_fetch_and(&bitmap[w], ~mask, __ATOMIC_SEQ_CST) & mask;
        }
    }
    return dirty;
}

void ram_block_take_dirty(RamBlock *block, unsigned client,
                          void (*fn)(uint64_t first, uint64_t n, void *opaque), void *opaque)
{
    unsigned long *bitmap = __atomic_load_n(&block->dirty[ram_dirty_index(client)],
                                            __ATOMIC_ACQUIRE);
    uint64_t words = (block_pages(block) + BITS - 1) / BITS;
    uint64_t start = 0, n = 0; /* the run so far */

    for (uint64_t w = 0; bitmap && w < words; w++) {
        unsigned long bits = 0;

        if (__atomic_load_n(&bitmap[w], __ATOMIC_RELAXED)) {
            bits = __atomic_exchange_n(&bitmap[w], 0, __ATOMIC_SEQ_CST);
        }
        while (bits) {
            unsigned at = (unsigned)__builtin_ctzl(bits);
            unsigned long rest = ~(bits >> at);
            unsigned run = rest ? (unsigned)__builtin_ctzl(rest) : BITS;

            if (n && start + n == w * BITS + at) {
                n += run;
            } else {
                if (n) {
                    fn(start, n, opaque);
                }
                start = w * BITS + at;
                n = run;
            }
            bits = at + run >= BITS ? 0 : bits & (~0ul << (at + run));
        }
    }
    if (n) {
        fn(start, n, opaque);
    }
}
