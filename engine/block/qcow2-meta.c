/*
 * qcow2: writing tables back, in an order that survives a crash at any point:
 *
 *     1. refcounts (never too low: see qcow2_priv.h)
 *     2. a flush: they, and the data that new entries point at, are there
 *     3. L2 and L1 entries
 *     4. a flush: they are there, and what the old ones pointed at can be given back
 *
 * One write-back runs at a time; who asks meanwhile shares the next one. What is written is a copy,
 * so the tables go on changing.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"

#define L1_GROUP 64 /* entries: a sector */

typedef struct Item {
    uint64_t offset;
    uint32_t bytes;
    uint8_t *data;
    Qcow2Slice *slice; /* NULL: of the L1 table */
} Item;

static void add_item(GArray *items, uint64_t offset, const void *data, uint32_t bytes,
                     Qcow2Slice *slice)
{
    Item item = { offset, bytes, g_memdup2(data, bytes), slice };

    g_array_append_val(items, item);
}

static void copy_l2(Qcow2 *s, GArray *items)
{
    Qcow2Cache *c = &s->l2;

    for (unsigned i = 0; i < c->n && c->n_dirty > 0; i++) {
        Qcow2Slice *slice = &c->slots[i];

        if (slice->dirty) {
            add_item(items, slice->offset, slice->data, c->bytes, slice);
            slice->dirty = false;
            slice->writing = true;
            c->n_dirty--;
        }
    }
}

static void copy_l1(Qcow2 *s, GArray *items)
{
    uint64_t sector[L1_GROUP];

    for (uint32_t g = 0; s->l1_any_dirty && g < (s->l1_entries + L1_GROUP - 1) / L1_GROUP; g++) {
        uint32_t first = g * L1_GROUP, n = MIN(L1_GROUP, s->l1_entries - first);

        if (!(s->l1_dirty[g / 64] >> (g % 64) & 1)) {
            continue;
        }
        s->l1_dirty[g / 64] &= ~(UINT64_C(1) << (g % 64));
        for (uint32_t i = 0; i < n; i++) {
            sector[i] = GUINT64_TO_BE(s->l1[first + i]);
        }
        add_item(items, s->l1_offset + 8 * (uint64_t)first, sector, 8 * n, NULL);
    }
    s->l1_any_dirty = false;
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const Item *)a)->offset, y = ((const Item *)b)->offset;

    return x < y ? -1 : x > y;
}

/* Neighbours go in one request. */
static int write_items(Qcow2 *s, GArray *items)
{
    struct iovec iov[64];
    unsigned i = 0;
    int e = 0;

    g_array_sort(items, by_offset);
    while (i < items->len && !e) {
        uint64_t start = g_array_index(items, Item, i).offset, end = start;
        unsigned n = 0;
        BlockReq req;

        while (i < items->len && n < G_N_ELEMENTS(iov) &&
               g_array_index(items, Item, i).offset == end) {
            const Item *item = &g_array_index(items, Item, i);

            iov[n++] = (struct iovec){ item->data, item->bytes };
            end += item->bytes;
            i++;
        }
        block_req_init(&req, BLOCK_OP_WRITE, start, end - start, iov, n, 0, 0, NULL, NULL);
        e = block_node_sync(block_node_file(&s->parent), &req);
        block_req_clear(&req);
    }
    return e;
}

/* `lock` held. What could not be written is dirty again. */
static void items_over(Qcow2 *s, GArray *items, int error)
{
    for (unsigned i = 0; i < items->len; i++) {
        Item *item = &g_array_index(items, Item, i);

        if (item->slice) {
            item->slice->writing = false;
            if (error) {
                qcow2_cache_dirty(&s->l2, item->slice);
            }
        } else if (error) {
            uint64_t g = (item->offset - s->l1_offset) / (8 * L1_GROUP);

            s->l1_dirty[g / 64] |= UINT64_C(1) << (g % 64);
            s->l1_any_dirty = true;
        }
        g_free(item->data);
    }
    g_array_free(items, TRUE);
}

int qcow2_write_refcounts(Qcow2 *s)
{
    Qcow2Cache *c = &s->rb;
    uint8_t *copy = g_malloc(c->bytes);
    int e = 0;

    pthread_mutex_lock(&s->lock);
    while (s->rb_writing) {
        qcow2_wait(s);
    }
    s->rb_writing = true;
    for (unsigned i = 0; i < c->n && c->n_dirty > 0 && !e; i++) {
        Qcow2Slice *slice = &c->slots[i];

        if (!slice->dirty) {
            continue;
        }
        memcpy(copy, slice->data, c->bytes);
        slice->dirty = false;
        slice->writing = true;
        c->n_dirty--;
        pthread_mutex_unlock(&s->lock);
        e = block_node_pwrite(block_node_file(&s->parent), slice->offset, copy, c->bytes, 0);
        pthread_mutex_lock(&s->lock);
        slice->writing = false;
        if (e) {
            qcow2_cache_dirty(c, slice);
        }
    }
    s->rb_writing = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    g_free(copy);
    return e;
}

int qcow2_flush_files(Qcow2 *s)
{
    int e = 0;

    if (s->has_data_file) {
        e = block_node_sync_op(s->data, BLOCK_OP_FLUSH, 0, 0, 0);
    }
    return e ? e : block_node_sync_op(block_node_file(&s->parent), BLOCK_OP_FLUSH, 0, 0, 0);
}

/* Waits for its turn; true: another one that began after we came has done it. `lock` held. */
static bool wait_for_turn(Qcow2 *s, bool durable, int *error)
{
    uint64_t need = s->wb_started + 1;
    bool waited = false;

    while (s->writing_back) {
        qcow2_wait(s);
        waited = true;
        if (s->wb_done >= need) {
            *error = s->wb_failed >= need ? s->wb_error : 0;
            return true;
        }
    }
    *error = 0;
    return waited && !durable; /* there is room again, which is all that was wanted */
}

int qcow2_write_back(Qcow2 *s, bool durable)
{
    GArray *items, *frees = NULL;
    bool ordered;
    int e;

    pthread_mutex_lock(&s->lock);
    if (wait_for_turn(s, durable, &e)) {
        pthread_mutex_unlock(&s->lock);
        return e;
    }
    s->writing_back = true;
    s->wb_started += durable;
    items = g_array_new(FALSE, FALSE, sizeof(Item));
    copy_l2(s, items);
    copy_l1(s, items);
    ordered = s->need_order;
    s->need_order = false;
    if (durable && s->frees->len > 0) {
        frees = s->frees;
        s->frees = g_array_new(FALSE, FALSE, sizeof(Qcow2Free));
    }
    pthread_mutex_unlock(&s->lock);

    e = qcow2_write_refcounts(s);
    if (!e && items->len > 0) {
        e = ordered ? qcow2_flush_files(s) : 0;
        e = e ? e : write_items(s, items);
    }
    if (!e && durable) {
        e = qcow2_flush_files(s);
    }

    pthread_mutex_lock(&s->lock);
    items_over(s, items, e);
    if (e) {
        s->need_order |= ordered;
        s->wb_error = e;
        s->wb_failed = durable ? s->wb_started : s->wb_failed;
        s->wb_lost = durable ? 0 : e;
    } else if (durable && s->wb_lost) {
        e = s->wb_error = s->wb_lost;
        s->wb_failed = s->wb_started;
        s->wb_lost = 0;
    }
    if (frees && e) {
        g_array_append_vals(s->frees, frees->data, frees->len);
        g_array_free(g_steal_pointer(&frees), TRUE);
    }
    pthread_mutex_unlock(&s->lock);
    if (frees) {
        e = qcow2_apply_frees(s, frees);
    }
    pthread_mutex_lock(&s->lock);
    s->writing_back = false;
    s->wb_done += durable;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return e;
}

int qcow2_settle(Qcow2 *s)
{
    int e;

    if (s->broken) {
        return qcow2_reload(s, NULL) ? 0 : EIO;
    }
    e = qcow2_write_back(s, true);
    /* What the first round freed comes with the second; a request in flight, which there should not
     * be, would keep it for ever. */
    for (unsigned round = 0; round < 8 && !e && s->frees->len > 0; round++) {
        e = qcow2_write_back(s, true);
    }
    e = e ? e : qcow2_write_refcounts(s);
    e = e ? e : qcow2_flush_files(s);
    if (!e) {
        pthread_mutex_lock(&s->lock);
        qcow2_cache_forget_all(&s->l2);
        qcow2_cache_forget_all(&s->rb);
        pthread_mutex_unlock(&s->lock);
    }
    return e;
}
