/*
 * Which parts of RAM hold code that somebody has decoded: see RamCodePage in ram.h.
 */
#include "engine/memory/ram.h"

#define LINE_BITS 6

static void page_lock(RamCodePage *page)
{
    while (__atomic_test_and_set(&page->lock, __ATOMIC_ACQUIRE)) {
        __builtin_ia32_pause();
    }
}

static void page_unlock(RamCodePage *page)
{
    __atomic_clear(&page->lock, __ATOMIC_RELEASE);
}

static uint64_t lines_mask(unsigned first, unsigned last)
{
    return (~UINT64_C(0) << first) & (~UINT64_C(0) >> (63 - last));
}

RamCodePage *ram_block_code_page(RamBlock *block, uint64_t offset)
{
    RamCodePage *map = __atomic_load_n(&block->code, __ATOMIC_ACQUIRE);

    if (G_UNLIKELY(!map)) {
        map = (RamCodePage *)(void *)block->books;
        __atomic_store_n(&block->code, map, __ATOMIC_RELEASE);
        __atomic_fetch_or(&block->dirty_active, RAM_DIRTY_CODE_MAP, __ATOMIC_SEQ_CST);
    }
    return &map[offset >> RAM_PAGE_BITS];
}

uint32_t ram_code_page_add(RamCodePage *page, unsigned first, unsigned last)
{
    uint32_t generation;

    page_lock(page);
    __atomic_fetch_or(&page->lines, lines_mask(first, last), __ATOMIC_SEQ_CST);
    generation = page->generation;
    page_unlock(page);
    return generation;
}

static bool page_written(RamCodePage *page, unsigned first, unsigned last)
{
    uint64_t mask = lines_mask(first, last);
    bool hit;

    /* Orders the write before the look, as the decoder's look comes after its lines: a full barrier
     * in the form of an access, which ThreadSanitizer understands. */
    if (!(__atomic_fetch_or(&page->lines, 0, __ATOMIC_SEQ_CST) & mask)) {
        return false;
    }
    page_lock(page);
    hit = __atomic_load_n(&page->lines, __ATOMIC_RELAXED) & mask;
    if (hit) {
        /* All of the page's blocks are gone by this. */
        __atomic_store_n(&page->lines, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&page->generation, page->generation + 1, __ATOMIC_RELEASE);
    }
    page_unlock(page);
    return hit;
}

bool ram_block_code_written(RamBlock *block, uint64_t offset, uint64_t len)
{
    RamCodePage *map = __atomic_load_n(&block->code, __ATOMIC_ACQUIRE);
    bool hit = false;

    if (!map || !len || offset >= block->size) {
        return false;
    }
    len = MIN(len, block->size - offset);
    for (uint64_t at = offset; at < offset + len;) {
        uint64_t end = MIN((at | (RAM_PAGE_SIZE - 1)) + 1, offset + len);

        hit |= page_written(&map[at >> RAM_PAGE_BITS],
                            (unsigned)(at & (RAM_PAGE_SIZE - 1)) >> LINE_BITS,
                            (unsigned)((end - 1) & (RAM_PAGE_SIZE - 1)) >> LINE_BITS);
        at = end;
    }
    return hit;
}
