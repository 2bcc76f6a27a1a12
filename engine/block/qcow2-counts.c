/* Reference counts in memory: see qcow2-counts.h. */
#include "engine/block/qcow2-counts.h"

#include <errno.h>
#include <string.h>

#define MAX_PAGES (UINT64_C(1) << 26) /* of a directory: 2^38 clusters */
#define LARGE     255                 /* in a page: the count is in `large` */
#define DIRECTORY 1024                /* entries it starts with */

struct Qcow2Counts {
    uint64_t clusters;
    uint8_t **pages;
    uint64_t n_pages;  /* of the directory, which grows up to what is used */
    GHashTable *large; /* cluster → count, both behind pointers */
    uint64_t used, limit;
};

Qcow2Counts *qcow2_counts_new(uint64_t clusters, uint64_t limit)
{
    Qcow2Counts *c;

    if (clusters / QCOW2_COUNTS_PAGE >= MAX_PAGES) {
        return NULL;
    }
    c = g_new0(Qcow2Counts, 1);
    c->clusters = clusters;
    c->limit = limit;
    c->large = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
    return c;
}

void qcow2_counts_free(Qcow2Counts *c)
{
    if (!c) {
        return;
    }
    for (uint64_t i = 0; i < c->n_pages; i++) {
        g_free(c->pages[i]);
    }
    g_free(c->pages);
    g_hash_table_destroy(c->large);
    g_free(c);
}

bool qcow2_counts_grow(Qcow2Counts *c, uint64_t clusters)
{
    if (clusters / QCOW2_COUNTS_PAGE >= MAX_PAGES) {
        return false;
    }
    c->clusters = MAX(c->clusters, clusters);
    return true;
}

uint64_t qcow2_counts_clusters(const Qcow2Counts *c)
{
    return c->clusters;
}

static bool take(Qcow2Counts *c, uint64_t bytes)
{
    if (bytes > c->limit - c->used) {
        return false;
    }
    c->used += bytes;
    return true;
}

/* The page that holds the cluster; NULL: no memory. */
static uint8_t *page_for(Qcow2Counts *c, uint64_t cluster)
{
    uint64_t n = cluster / QCOW2_COUNTS_PAGE;

    if (n >= c->n_pages) {
        uint64_t more = MAX(MAX(n + 1, c->n_pages * 2), DIRECTORY);
        uint8_t **pages;

        if (!take(c, (more - c->n_pages) * sizeof(*pages))) {
            return NULL;
        }
        pages = g_try_renew(uint8_t *, c->pages, more);
        if (!pages) {
            return NULL;
        }
        memset(pages + c->n_pages, 0, (more - c->n_pages) * sizeof(*pages));
        c->pages = pages;
        c->n_pages = more;
    }
    if (!c->pages[n] && take(c, QCOW2_COUNTS_PAGE)) {
        c->pages[n] = g_try_malloc0(QCOW2_COUNTS_PAGE);
    }
    return c->pages[n];
}

uint64_t qcow2_counts_get(const Qcow2Counts *c, uint64_t cluster)
{
    uint64_t n = cluster / QCOW2_COUNTS_PAGE;
    uint8_t small;

    if (n >= c->n_pages || !c->pages[n]) {
        return 0;
    }
    small = c->pages[n][cluster % QCOW2_COUNTS_PAGE];
    if (small == LARGE) {
        const uint64_t *count = g_hash_table_lookup(c->large, &cluster);

        return count ? *count : LARGE;
    }
    return small;
}

static int set_large(Qcow2Counts *c, uint64_t cluster, uint64_t count)
{
    uint64_t *entry = g_hash_table_lookup(c->large, &cluster);

    if (!entry) {
        if (!take(c, 128)) { /* about what an entry costs */
            return ENOMEM;
        }
        entry = g_new(uint64_t, 1);
        g_hash_table_insert(c->large, g_memdup2(&cluster, sizeof(cluster)), entry);
    }
    *entry = count;
    return 0;
}

int qcow2_counts_set(Qcow2Counts *c, uint64_t cluster, uint64_t count)
{
    uint64_t n = cluster / QCOW2_COUNTS_PAGE;
    uint8_t *page;
    int error;

    if (cluster >= c->clusters) {
        return ERANGE;
    }
    if (count == 0 && (n >= c->n_pages || !c->pages[n])) {
        return 0;
    }
    page = page_for(c, cluster);
    if (!page) {
        return ENOMEM;
    }
    if (count >= LARGE) {
        error = set_large(c, cluster, count);
        if (error) {
            return error;
        }
    } else if (page[cluster % QCOW2_COUNTS_PAGE] == LARGE) {
        g_hash_table_remove(c->large, &cluster);
    }
    page[cluster % QCOW2_COUNTS_PAGE] = (uint8_t)MIN(count, LARGE);
    return 0;
}

int qcow2_counts_add(Qcow2Counts *c, uint64_t cluster, int64_t delta)
{
    uint64_t count = qcow2_counts_get(c, cluster);

    if ((delta < 0 && count < (uint64_t)-delta) ||
        (delta > 0 && count > UINT64_MAX - (uint64_t)delta)) {
        return ERANGE;
    }
    return qcow2_counts_set(c, cluster, count + (uint64_t)delta);
}

static int copy_counts(Qcow2Counts *to, const Qcow2Counts *from)
{
    for (uint64_t n = 0; n < from->n_pages; n++) {
        uint64_t first = n * QCOW2_COUNTS_PAGE;
        uint8_t *page;

        if (!from->pages[n]) {
            continue;
        }
        page = page_for(to, first);
        if (!page) {
            return ENOMEM;
        }
        memcpy(page, from->pages[n], QCOW2_COUNTS_PAGE);
    }
    return 0;
}

Qcow2Counts *qcow2_counts_copy(const Qcow2Counts *c)
{
    Qcow2Counts *copy = qcow2_counts_new(c->clusters, c->limit);
    GHashTableIter iter;
    gpointer key, value;
    int error = copy_counts(copy, c);

    g_hash_table_iter_init(&iter, c->large);
    while (!error && g_hash_table_iter_next(&iter, &key, &value)) {
        error = set_large(copy, *(uint64_t *)key, *(uint64_t *)value);
    }
    if (error) {
        qcow2_counts_free(copy);
        return NULL;
    }
    return copy;
}

uint64_t qcow2_counts_next(const Qcow2Counts *c, uint64_t cluster)
{
    for (uint64_t n = cluster / QCOW2_COUNTS_PAGE; n < c->n_pages; n++) {
        if (c->pages[n]) {
            return MAX(cluster, n * QCOW2_COUNTS_PAGE);
        }
    }
    return UINT64_MAX;
}

uint64_t qcow2_counts_end(const Qcow2Counts *c)
{
    for (uint64_t n = c->n_pages; n-- > 0;) {
        for (unsigned i = QCOW2_COUNTS_PAGE; c->pages[n] && i-- > 0;) {
            if (c->pages[n][i]) {
                return n * QCOW2_COUNTS_PAGE + i + 1;
            }
        }
    }
    return 0;
}
