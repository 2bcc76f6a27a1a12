/*
 * qcow2: what changes the mapping: writes to what is not allocated, zeroes, discards. On workers;
 * no other operation changes the same clusters meanwhile.
 *
 * A write goes piece by piece: clusters in a row that are alike, within one slice of an L2 table.
 * The parts of the first and last cluster that the guest does not write are brought along, in the
 * same write to the file; then the L2 entries are set in memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/qcow2_priv.h"
#include "engine/core/units.h"

#define MERGE_BYTES (16 << 10) /* that are read although they are written over */
#define SIDE_BUFFER (256 * KiB)

typedef enum {
    IN_PLACE, /* data of ours alone: just write */
    REUSE,    /* there is a place, of ours alone, but (some) subclusters do not show it */
    NEW,
    BROKEN,
} Way;

typedef struct Piece {
    uint64_t offset, bytes; /* what the guest writes */
    Way way;
    uint64_t first, n;         /* guest offset of its first cluster; clusters */
    uint64_t host;             /* of that cluster */
    uint64_t from, to;         /* what is written, with what is brought along */
    bool fresh;                /* the place reads as zeroes */
    bool head_zero, tail_zero; /* what is brought along is zeroes */
    uint8_t *head, *tail;
} Piece;

/* What a write to [from, to) of one cluster (offsets in it) has to do. */
static Way way_for(const Qcow2 *s, Qcow2Entry e, uint64_t from, uint64_t to)
{
    Way way = IN_PLACE;

    for (uint64_t sub = from / s->subcluster_size; sub <= (to - 1) / s->subcluster_size; sub++) {
        Qcow2Kind kind = qcow2_entry_kind(s, e, (unsigned)sub);

        if (kind == QCOW2_INVALID) {
            return BROKEN;
        }
        if (kind == QCOW2_COMPRESSED_DATA || kind == QCOW2_UNALLOCATED ||
            kind == QCOW2_ZERO_PLAIN || !(e.entry & QCOW2_COPIED)) {
            way = NEW;
        } else if (kind != QCOW2_DATA && way == IN_PLACE) {
            way = REUSE;
        }
    }
    return way;
}

static bool has_data(const Qcow2 *s, Qcow2Entry e)
{
    return (e.entry & QCOW2_COMPRESSED) || (s->subclusters > 1 && (uint32_t)e.bitmap != 0);
}

/* Whether subclusters besides those that are written have to be brought along, in the cluster of
 * the entry: *from and *to are widened. */
static void widen(const Qcow2 *s, Qcow2Entry e, Way way, uint64_t *from, uint64_t *to, bool at_head,
                  bool at_tail)
{
    uint64_t unit = s->subcluster_size;

    if (way == NEW && (s->subclusters == 1 || has_data(s, e))) {
        unit = s->cluster_size;
    }
    if (at_head &&
        (way == NEW ||
         qcow2_entry_kind(s, e, (unsigned)(qcow2_within(s, *from) / unit)) != QCOW2_DATA)) {
        *from &= ~(unit - 1);
    }
    if (at_tail &&
        (way == NEW ||
         qcow2_entry_kind(s, e, (unsigned)(qcow2_within(s, *to - 1) / unit)) != QCOW2_DATA)) {
        *to = (*to + unit - 1) & ~(unit - 1);
    }
}

/* Finds the piece that begins at p->offset, at most p->bytes long. `lock` held. */
static int find_piece(Qcow2 *s, Piece *p)
{
    unsigned index, per_slice = s->l2.bytes / s->l2_entry_bytes;
    uint64_t end = p->offset + p->bytes, at;
    Qcow2Slice *slice;
    Qcow2Entry first = { 0, 0 }, last = { 0, 0 };
    int e = qcow2_slice_for_write(s, p->offset, &slice, &index);

    if (e) {
        return e;
    }
    p->first = qcow2_cluster_start(s, p->offset);
    for (p->n = 0, at = p->offset; at < end && index + p->n < per_slice; p->n++) {
        Qcow2Entry entry = qcow2_slice_entry(s, slice, index + (unsigned)p->n);
        uint64_t stop = MIN(end, qcow2_cluster_start(s, at) + s->cluster_size);
        Way way = way_for(s, entry, qcow2_within(s, at), qcow2_within(s, stop - 1) + 1);
        uint64_t host = entry.entry & QCOW2_OFFSET_MASK;

        if (p->n == 0) {
            p->way = way;
            p->host = host;
            first = entry;
        } else if (way != p->way || (way != NEW && host != p->host + (p->n << s->cluster_bits))) {
            break;
        }
        last = entry;
        at = stop;
    }
    if (p->way == BROKEN) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "an invalid L2 entry for guest offset", p->offset);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    p->bytes = at - p->offset;
    if (p->way == NEW && s->has_data_file) {
        p->host = p->first;
    } else if (p->way == NEW) {
        uint64_t got;

        e = qcow2_alloc(s, p->n, false, &p->host, &got, &p->fresh);
        if (e) {
            return e;
        }
        if (got < p->n) {
            p->n = got;
            p->bytes = MIN(p->bytes, p->first + (got << s->cluster_bits) - p->offset);
            e = qcow2_entry_get(s, p->offset + p->bytes - 1, &last);
            if (e) {
                qcow2_unalloc(s, p->host, p->n);
                return e;
            }
        }
    }
    p->from = p->offset;
    p->to = p->offset + p->bytes;
    if (p->way != IN_PLACE) {
        widen(s, first, p->way, &p->from, &p->to, true, p->n == 1);
        if (p->n > 1) {
            widen(s, last, p->way, &p->from, &p->to, false, true);
        }
    }
    return 0;
}

/* Whether the guest sees nothing but zeroes there. `lock` held. */
int qcow2_sees_zeroes(Qcow2 *s, uint64_t from, uint64_t to, bool *zero)
{
    BlockNode *backing = block_node_backing(&s->parent);

    *zero = true;
    to = MIN(to, block_node_length(&s->parent));
    while (from < to && *zero) {
        Qcow2Run run;
        int e = qcow2_map(s, from, to - from, &run);

        if (e) {
            return e;
        }
        *zero = run.kind == QCOW2_ZERO_PLAIN || run.kind == QCOW2_ZERO_ALLOCATED ||
                ((run.kind == QCOW2_UNALLOCATED || run.kind == QCOW2_HOLE) &&
                 (!backing || from >= block_node_length(backing)));
        from += run.bytes;
    }
    return 0;
}

/* What the guest sees there, in a buffer. */
static int bring(Qcow2 *s, uint64_t from, uint64_t to, bool zero, uint8_t **out)
{
    uint64_t length = block_node_length(&s->parent), stop = MIN(to, length);
    struct iovec iov;

    if (posix_memalign((void **)out, 4096, to - from) != 0) {
        *out = NULL;
        return ENOMEM;
    }
    if (zero || from >= stop) {
        memset(*out, 0, to - from);
        return 0;
    }
    memset(*out + (stop - from), 0, to - stop);
    iov = (struct iovec){ *out, stop - from };
    return qcow2_read(s, from, stop - from, &iov, 1, 0);
}

/* One side of what is brought along. What reads as zeroes already, or is long and can be zeroed
 * without data, needs no buffer: then [*from, *to) becomes empty. */
static int prepare_side(Qcow2 *s, const Piece *p, uint64_t from, uint64_t to, bool zero,
                        uint8_t **buf, bool *drop)
{
    int e = 0;

    *drop = from == to || (zero && p->fresh);
    if (!*drop && zero && to - from > SIDE_BUFFER) {
        e = block_node_sync_op(s->data, BLOCK_OP_ZERO, p->host + (from - p->first), to - from, 0);
        *drop = true;
    }
    return *drop || e ? e : bring(s, from, to, zero, buf);
}

/* Both sides have to be read, with little between them: one read and one buffer for all. */
static int write_whole(Qcow2 *s, const Piece *p, const struct iovec *iov, unsigned niov,
                       uint64_t iov_offset)
{
    uint8_t *buf = NULL;
    int e = bring(s, p->from, p->to, false, &buf);

    if (!e) {
        block_iov_to_buf(iov, niov, iov_offset, buf + (p->offset - p->from), p->bytes);
        e = block_node_pwrite(s->data, p->host + (p->from - p->first), buf, p->to - p->from, 0);
    }
    free(buf);
    return e;
}

static int write_piece(Qcow2 *s, Piece *p, const struct iovec *iov, unsigned niov,
                       uint64_t iov_offset)
{
    uint64_t end = p->offset + p->bytes, head = p->offset - p->from, tail = p->to - end;
    struct iovec *all;
    BlockReq part, req;
    unsigned n = 0;
    bool drop;
    int e;

    if (head && tail && !p->head_zero && !p->tail_zero && p->bytes <= MERGE_BYTES) {
        return write_whole(s, p, iov, niov, iov_offset);
    }
    e = prepare_side(s, p, p->from, p->offset, p->head_zero, &p->head, &drop);
    head = drop ? 0 : head;
    if (!e) {
        e = prepare_side(s, p, end, p->to, p->tail_zero, &p->tail, &drop);
        tail = drop ? 0 : tail;
    }
    if (e) {
        return e;
    }
    block_req_init(&part, BLOCK_OP_WRITE, 0, p->bytes, iov, niov, iov_offset, 0, NULL, NULL);
    all = g_new(struct iovec, part.niov + 2);
    if (head) {
        all[n++] = (struct iovec){ p->head, head };
    }
    memcpy(all + n, part.iov, part.niov * sizeof(*all));
    n += part.niov;
    if (tail) {
        all[n++] = (struct iovec){ p->tail, tail };
    }
    block_req_clear(&part);
    block_req_init(&req, BLOCK_OP_WRITE, p->host + (p->offset - head - p->first),
                   head + p->bytes + tail, all, n, 0, 0, NULL, NULL);
    e = block_node_sync(s->data, &req);
    block_req_clear(&req);
    g_free(all);
    return e;
}

/* The bits of the subclusters of the cluster at `cluster` that [from, to) covers. */
uint32_t qcow2_covered(const Qcow2 *s, uint64_t cluster, uint64_t from, uint64_t to)
{
    uint64_t a = from > cluster ? (from - cluster) / s->subcluster_size : 0;
    uint64_t b = MIN((MIN(to, cluster + s->cluster_size) - cluster + s->subcluster_size - 1) /
                         s->subcluster_size,
                     s->subclusters);

    return (uint32_t)(((UINT64_C(1) << b) - 1) & ~((UINT64_C(1) << a) - 1));
}

void qcow2_free_entry(Qcow2 *s, uint64_t entry)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;

    if (s->has_data_file) {
        return; /* nobody counts its clusters; each has its place */
    }
    if (entry & QCOW2_COMPRESSED) {
        uint64_t first, last;
        uint32_t bytes;

        qcow2_compressed_extent(s, entry, &host, &bytes);
        first = qcow2_cluster_start(s, host);
        last = qcow2_cluster_start(s, host + bytes - 1);
        qcow2_free_later(s, first, ((last - first) >> s->cluster_bits) + 1);
    } else if (host) {
        qcow2_free_later(s, host, 1);
    }
}

/* Points the L2 entries at what was written. `lock` held. *linked: how many. */
static int link_piece(Qcow2 *s, const Piece *p, uint64_t *linked)
{
    for (*linked = 0; *linked < p->n; ++*linked) {
        uint64_t cluster = p->first + (*linked << s->cluster_bits);
        uint32_t bits = qcow2_covered(s, cluster, p->from, p->to);
        Qcow2Slice *slice;
        Qcow2Entry old, e;
        unsigned index;
        int error = qcow2_slice_for_write(s, cluster, &slice, &index);

        if (error) {
            return error;
        }
        old = qcow2_slice_entry(s, slice, index);
        e.entry = (p->host + (*linked << s->cluster_bits)) | QCOW2_COPIED;
        e.bitmap = 0;
        if (s->subclusters > 1) {
            e.bitmap = (old.entry & QCOW2_COMPRESSED) ? 0 : old.bitmap;
            e.bitmap = (e.bitmap & ~((uint64_t)bits << 32)) | bits;
        }
        qcow2_slice_set(s, slice, index, e);
        if (p->way == NEW) {
            qcow2_free_entry(s, old.entry);
        }
    }
    return 0;
}

static int write_and_link(Qcow2 *s, Piece *p, const struct iovec *iov, unsigned niov,
                          uint64_t iov_offset)
{
    uint64_t linked = 0;
    int e = 0;

    if (!s->has_data_file && p->way != NEW &&
        qcow2_meta_overlaps(s, p->host, p->n << s->cluster_bits)) {
        pthread_mutex_unlock(&s->lock);
        qcow2_mark_corrupt(s, "an L2 entry that points at metadata", p->host);
        pthread_mutex_lock(&s->lock);
        return EIO;
    }
    if (p->from < p->offset) {
        e = qcow2_sees_zeroes(s, p->from, p->offset, &p->head_zero);
    }
    if (!e && p->to > p->offset + p->bytes) {
        e = qcow2_sees_zeroes(s, p->offset + p->bytes, p->to, &p->tail_zero);
    }
    if (!e) {
        pthread_mutex_unlock(&s->lock);
        e = write_piece(s, p, iov, niov, iov_offset);
        free(p->head);
        free(p->tail);
        pthread_mutex_lock(&s->lock);
    }
    if (!e && p->way != IN_PLACE) {
        e = link_piece(s, p, &linked);
    }
    if (e && p->way == NEW && !s->has_data_file) {
        qcow2_unalloc(s, p->host + (linked << s->cluster_bits), p->n - linked);
    }
    return e;
}

int qcow2_write(Qcow2 *s, uint64_t offset, uint64_t bytes, const struct iovec *iov, unsigned niov,
                uint64_t iov_offset)
{
    int e = 0;

    while (bytes > 0 && !e) {
        Piece p = { .offset = offset, .bytes = bytes };

        pthread_mutex_lock(&s->lock);
        e = s->corrupt ? EIO : find_piece(s, &p);
        e = e ? e : write_and_link(s, &p, iov, niov, iov_offset);
        pthread_mutex_unlock(&s->lock);
        offset += p.bytes;
        iov_offset += p.bytes;
        bytes -= p.bytes;
    }
    return e;
}
