/*
 * Snapshots of RAM.
 *
 * For each block the tracker keeps the table of pages that RAM was last equal to. The dirty bitmap
 * says where RAM may differ from it. A take brings the table up to date and shares it; a restore
 * writes the pages that are dirty or that the two tables do not have in common.
 *
 * While no snapshot is alive the tables are dropped and logging is off: a machine that nobody
 * snapshots pays nothing. The first take then copies what the kernel says is populated.
 */
#include "engine/state/ram-snapshot.h"

#include <inttypes.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/state/ram-store.h"

typedef struct TrackedBlock {
    char *name;
    MemoryRegion *mr;
    RamBlock *ram; /* counted */
    RamTable base; /* what RAM equals but for dirty pages; valid when known */
    bool known, logging;
} TrackedBlock;

struct RamTracker {
    void (*sync)(void *opaque);
    void *opaque;
    GPtrArray *blocks; /* of TrackedBlock */
    RamStore *store;
    unsigned alive; /* snapshots */
    uint64_t pages_copied;
};

typedef struct SavedBlock {
    char *name;
    uint64_t size;
    RamTable table;
} SavedBlock;

struct RamSnapshot {
    RamTracker *tracker;
    RamStore *store; /* counted */
    unsigned n;
    SavedBlock blocks[];
};

/* ---- copying ----------------------------------------------------------------------------- */

/* Neighbouring pages are copied, or zeroed, by one call. */
typedef struct CopyRun {
    uint8_t *to;
    const uint8_t *from; /* NULL: zeros */
    uint64_t len;
    RamBlock *marks; /* block of which other clients see the pages change, or NULL */
    uint64_t pages;  /* total */
} CopyRun;

static void run_flush(CopyRun *run)
{
    if (!run->len) {
        return;
    }
    if (run->from) {
        memcpy(run->to, run->from, run->len);
    } else {
        memset(run->to, 0, run->len);
    }
    if (run->marks) {
        ram_block_set_dirty_clients(run->marks, (uint64_t)(run->to - run->marks->host), run->len,
                                    ~(unsigned)DIRTY_SNAPSHOT);
    }
    run->len = 0;
}

static void run_add(CopyRun *run, uint8_t *to, const uint8_t *from)
{
    bool joins = run->len && to == run->to + run->len &&
                 (run->from ? from == run->from + run->len : !from);

    if (!joins) {
        run_flush(run);
        run->to = to;
        run->from = from;
    }
    run->len += RAM_PAGE_SIZE;
    run->pages++;
}

static bool page_is_zero(const uint8_t *page)
{
    const uint64_t *p = (const uint64_t *)(const void *)page;

    for (unsigned i = 0; i < RAM_PAGE_SIZE / sizeof(*p); i += 8) {
        if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7]) {
            return false;
        }
    }
    return true;
}

static unsigned long take_dirty_word(RamBlock *ram, uint64_t w)
{
    unsigned long *word = &ram->dirty[ram_dirty_index(DIRTY_SNAPSHOT)][w];

    return __atomic_load_n(word, __ATOMIC_RELAXED) ? __atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST)
                                                   : 0;
}

static uint64_t block_pages(const TrackedBlock *b)
{
    return b->ram->size >> RAM_PAGE_BITS;
}

static uint64_t block_chunks(const TrackedBlock *b)
{
    return (block_pages(b) + CHUNK_PAGES - 1) / CHUNK_PAGES;
}

/* ---- the tracker ------------------------------------------------------------------------- */

RamTracker *ram_tracker_new(void (*sync)(void *opaque), void *opaque)
{
    RamTracker *t = g_new0(RamTracker, 1);

    t->sync = sync;
    t->opaque = opaque;
    t->blocks = g_ptr_array_new();
    t->store = ram_store_new();
    return t;
}

/* Forgets what RAM equals, and with it the pages that only the base refers to. */
static void block_forget(TrackedBlock *b)
{
    ram_table_clear(&b->base);
    b->known = false;
    if (b->logging) {
        memory_region_set_log(b->mr, false, DIRTY_SNAPSHOT);
        b->logging = false;
    }
}

static void forget_all(RamTracker *t)
{
    for (guint i = 0; i < t->blocks->len; i++) {
        block_forget(g_ptr_array_index(t->blocks, i));
    }
}

static void block_free(TrackedBlock *b)
{
    block_forget(b);
    ram_block_unref(b->ram);
    g_free(b->name);
    g_free(b);
}

void ram_tracker_free(RamTracker *t)
{
    if (!t) {
        return;
    }
    for (guint i = 0; i < t->blocks->len; i++) {
        block_free(g_ptr_array_index(t->blocks, i));
    }
    g_ptr_array_free(t->blocks, TRUE);
    ram_store_unref(t->store);
    g_free(t);
}

void ram_tracker_add(RamTracker *t, const char *name, MemoryRegion *mr)
{
    TrackedBlock *b;

    ENGINE_LOCK_ASSERT();
    if (!mr->ram) {
        log_warning("region '%s' has no RAM that could be saved as '%s'", mr->name, name);
        return;
    }
    for (guint i = 0; i < t->blocks->len; i++) {
        b = g_ptr_array_index(t->blocks, i);
        if (b->ram == mr->ram || !strcmp(b->name, name)) {
            log_warning("RAM '%s' is already saved, as '%s'", mr->name, b->name);
            return;
        }
    }
    b = g_new0(TrackedBlock, 1);
    b->name = g_strdup(name);
    b->mr = mr;
    b->ram = ram_block_ref(mr->ram);
    g_ptr_array_add(t->blocks, b);
}

void ram_tracker_remove(RamTracker *t, MemoryRegion *mr)
{
    ENGINE_LOCK_ASSERT();
    for (guint i = 0; i < t->blocks->len; i++) {
        TrackedBlock *b = g_ptr_array_index(t->blocks, i);

        if (b->mr == mr) {
            g_ptr_array_remove_index(t->blocks, i);
            block_free(b);
            return;
        }
    }
}

static void mark_populated(uint64_t first, uint64_t n, void *opaque)
{
    ram_block_set_dirty_clients(opaque, first << RAM_PAGE_BITS, n << RAM_PAGE_BITS, DIRTY_SNAPSHOT);
}

/* Makes base and dirty bitmap of every block say together what RAM holds. */
static void bring_up_to_date(RamTracker *t)
{
    for (guint i = 0; i < t->blocks->len; i++) {
        TrackedBlock *b = g_ptr_array_index(t->blocks, i);

        if (!b->logging && !b->ram->readonly) {
            memory_region_set_log(b->mr, true, DIRTY_SNAPSHOT);
            b->logging = true;
        }
    }
    if (t->sync) {
        t->sync(t->opaque);
    }
    for (guint i = 0; i < t->blocks->len; i++) {
        TrackedBlock *b = g_ptr_array_index(t->blocks, i);

        if (!b->known) {
            ram_table_clear(&b->base);
            ram_table_init(&b->base, t->store, block_pages(b));
            if (!b->ram->readonly) { /* the content of such a block is not state */
                ram_block_foreach_populated(b->ram, mark_populated, b->ram);
            }
            b->known = true;
        }
    }
}

/* ---- take -------------------------------------------------------------------------------- */

/* Brings one entry of the base up to date with RAM. false and errno: no room for a copy. */
static bool take_page(RamTracker *t, TrackedBlock *b, uint64_t page, CopyRun *run)
{
    uint64_t index = page / CHUNK_PAGES;
    unsigned at = page % CHUNK_PAGES;
    const uint8_t *from = b->ram->host + (page << RAM_PAGE_BITS);
    RamChunk *chunk = ram_table_chunk(&b->base, index);
    RamPage old = chunk ? chunk->page[at] : 0, fresh;

    if (page_is_zero(from)) {
        if (old) {
            ram_table_own_chunk(&b->base, index)->page[at] = 0;
            ram_page_unref(t->store, old);
            b->base.held--;
        }
        return true;
    }
    if (old && !memcmp(ram_page_data(t->store, old), from, RAM_PAGE_SIZE)) {
        return true;
    }
    chunk = ram_table_own_chunk(&b->base, index);
    if (old && ram_page_count(t->store, old) == 1) {
        /* No snapshot has it: overwrite. */
        run_add(run, ram_page_data(t->store, old), from);
        return true;
    }
    fresh = ram_page_new(t->store);
    if (!fresh) {
        return false;
    }
    chunk->page[at] = fresh;
    if (old) {
        ram_page_unref(t->store, old);
    } else {
        b->base.held++;
    }
    run_add(run, ram_page_data(t->store, fresh), from);
    return true;
}

static bool take_block(RamTracker *t, TrackedBlock *b, GError **error)
{
    CopyRun run = { 0 };
    bool ok = true;

    for (uint64_t w = 0; ok && w < block_chunks(b) && b->logging; w++) {
        unsigned long bits = take_dirty_word(b->ram, w);

        for (; ok && bits; bits &= bits - 1) {
            ok = take_page(t, b, w * CHUNK_PAGES + (unsigned)__builtin_ctzl(bits), &run);
        }
    }
    if (!ok) {
        error_set_errno(error, "RAM '%s': no room for the copies of a snapshot", b->name);
    }
    run_flush(&run);
    t->pages_copied += run.pages;
    return ok;
}

RamSnapshot *ram_snapshot_take(RamTracker *t, GError **error)
{
    RamSnapshot *s;

    ENGINE_LOCK_ASSERT();
    bring_up_to_date(t);
    t->pages_copied = 0;
    for (guint i = 0; i < t->blocks->len; i++) {
        if (!take_block(t, g_ptr_array_index(t->blocks, i), error)) {
            forget_all(t); /* neither base nor dirty bits say what RAM holds any more */
            return NULL;
        }
    }
    s = g_malloc0(sizeof(*s) + t->blocks->len * sizeof(SavedBlock));
    s->tracker = t;
    s->store = ram_store_ref(t->store);
    s->n = t->blocks->len;
    for (unsigned i = 0; i < s->n; i++) {
        TrackedBlock *b = g_ptr_array_index(t->blocks, i);
        SavedBlock *saved = &s->blocks[i];

        saved->name = g_strdup(b->name);
        saved->size = b->ram->size;
        ram_table_share(&saved->table, &b->base);
    }
    t->alive++;
    log_mask(LOG_STATE, "RAM snapshot taken: %" PRIu64 " pages copied", t->pages_copied);
    return s;
}

/* ---- restore ----------------------------------------------------------------------------- */

static const SavedBlock *find_saved(const RamSnapshot *s, const TrackedBlock *b)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (!strcmp(s->blocks[i].name, b->name)) {
            return &s->blocks[i];
        }
    }
    return NULL;
}

static bool check_same_shape(const RamTracker *t, const RamSnapshot *s, GError **error)
{
    for (guint i = 0; i < t->blocks->len; i++) {
        const TrackedBlock *b = g_ptr_array_index(t->blocks, i);
        const SavedBlock *saved = find_saved(s, b);

        if (!saved) {
            return error_set(error, ENGINE_ERROR_INVALID, "the snapshot has no RAM '%s'", b->name);
        }
        if (saved->size != b->ram->size) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "RAM '%s' has %" PRIu64 " bytes, %" PRIu64 " in the snapshot", b->name,
                             b->ram->size, saved->size);
        }
    }
    /* Names are unique on both sides, so equal counts make the sets equal. */
    for (unsigned k = 0; s->n != t->blocks->len && k < s->n; k++) {
        bool found = false;

        for (guint i = 0; i < t->blocks->len && !found; i++) {
            found = find_saved(s, g_ptr_array_index(t->blocks, i)) == &s->blocks[k];
        }
        if (!found) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "the machine has no RAM '%s', the snapshot has", s->blocks[k].name);
        }
    }
    return true;
}

static unsigned long differing_pages(const RamChunk *a, const RamChunk *b)
{
    unsigned long bits = 0;

    for (unsigned i = 0; i < CHUNK_PAGES; i++) {
        RamPage pa = a ? a->page[i] : 0, pb = b ? b->page[i] : 0;

        bits |= (unsigned long)(pa != pb) << i;
    }
    return bits;
}

static void restore_block(RamTracker *t, TrackedBlock *b, const SavedBlock *saved)
{
    bool foreign = saved->table.store != t->store;
    bool others = __atomic_load_n(&b->ram->dirty_active, __ATOMIC_RELAXED) & ~DIRTY_SNAPSHOT;
    CopyRun run = { .marks = others ? b->ram : NULL };
    RamTable old;

    if (b->ram->readonly) {
        return;
    }
    if (foreign) {
        /* Page numbers of two stores have nothing to say to each other: compare with zeros, all
         * that is populated being dirty. */
        ram_table_clear(&b->base);
        ram_table_init(&b->base, t->store, block_pages(b));
        ram_block_foreach_populated(b->ram, mark_populated, b->ram);
    }
    for (uint64_t w = 0; w < block_chunks(b); w++) {
        unsigned long bits = take_dirty_word(b->ram, w);
        const RamChunk *want = ram_table_chunk(&saved->table, w);
        const RamChunk *have = ram_table_chunk(&b->base, w);

        if (have != want) {
            bits |= differing_pages(have, want);
        }
        for (; bits; bits &= bits - 1) {
            unsigned at = (unsigned)__builtin_ctzl(bits);
            RamPage page = want ? want->page[at] : 0;

            run_add(&run, b->ram->host + ((w * CHUNK_PAGES + at) << RAM_PAGE_BITS),
                    page ? ram_page_data(saved->table.store, page) : NULL);
        }
    }
    run_flush(&run);
    t->pages_copied += run.pages;
    if (foreign) {
        b->known = false;
        return;
    }
    old = b->base;
    ram_table_share(&b->base, &saved->table);
    ram_table_clear(&old);
}

bool ram_snapshot_restore(RamTracker *t, RamSnapshot *s, GError **error)
{
    ENGINE_LOCK_ASSERT();
    if (!check_same_shape(t, s, error)) {
        return false;
    }
    bring_up_to_date(t);
    t->pages_copied = 0;
    for (guint i = 0; i < t->blocks->len; i++) {
        TrackedBlock *b = g_ptr_array_index(t->blocks, i);

        restore_block(t, b, find_saved(s, b));
    }
    if (!t->alive) { /* a snapshot of another tracker */
        forget_all(t);
    }
    log_mask(LOG_STATE, "RAM snapshot restored: %" PRIu64 " pages copied", t->pages_copied);
    return true;
}

void ram_snapshot_free(RamTracker *t, RamSnapshot *s)
{
    if (!s) {
        return;
    }
    ENGINE_LOCK_ASSERT();
    t = s->tracker;
    for (unsigned i = 0; i < s->n; i++) {
        ram_table_clear(&s->blocks[i].table);
        g_free(s->blocks[i].name);
    }
    ram_store_unref(s->store);
    g_free(s);
    if (--t->alive == 0) {
        forget_all(t);
    }
}

void ram_snapshot_stats(RamTracker *t, RamSnapshot *s, RamSnapshotStats *out)
{
    *out = (RamSnapshotStats){ .pages_copied = t->pages_copied,
                               .bytes_held = ram_store_bytes(t->store) };
    for (unsigned i = 0; s && i < s->n; i++) {
        out->pages_held += s->blocks[i].table.held;
    }
}
