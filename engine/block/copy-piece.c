/*
 * Copying one piece: reading it, looking for zeroes, compressing; then writing it.
 */
#include <errno.h>
#include <string.h>

#include "engine/block/copy_priv.h"
#include "engine/block/file_priv.h"
#include "engine/core/error.h"

/* ---- reading --------------------------------------------------------------------------------- */

/* In halves, down to sectors; what cannot be read is zero. */
static void read_what_is_left(CopyJob *c, BlockNode *source, uint64_t from, char *buf, size_t bytes)
{
    size_t half = (bytes / 2 + BLOCK_SECTOR_SIZE - 1) & ~(size_t)(BLOCK_SECTOR_SIZE - 1);

    if (bytes == 0 || block_job_stopped(&c->job) ||
        block_node_pread(source, from, buf, bytes) == 0) {
        return;
    }
    if (bytes <= BLOCK_SECTOR_SIZE) {
        memset(buf, 0, bytes);
        __atomic_add_fetch(&c->salvaged, bytes, __ATOMIC_RELAXED);
        return;
    }
    read_what_is_left(c, source, from, buf, half);
    read_what_is_left(c, source, from + half, buf + half, bytes - half);
}

static bool read_piece(CopyJob *c, const CopyPiece *p, char *buf)
{
    uint64_t length = block_node_length(p->source);
    size_t n = MIN(p->bytes, length - MIN(length, p->from));
    int e = 0;

    if (p->kind == COPY_ZERO) {
        memset(buf, 0, p->bytes);
        return true;
    }
    memset(buf + n, 0, p->bytes - n);
    if (n > 0) {
        e = block_node_pread(p->source, p->from, buf, n);
    }
    if (e && c->spec.salvage) {
        read_what_is_left(c, p->source, p->from, buf, n);
        e = 0;
    }
    if (e) {
        block_job_fail_at(&c->job, p->source, "reading", p->from, e);
    }
    return e == 0;
}

/* What the grains of the piece need. */
static void look_at_grains(const CopyJob *c, CopyRoom *room)
{
    const CopyPiece *p = &room->p;
    uint64_t grain = 0, n;

    for (uint64_t done = 0; done < p->bytes; done += n) {
        const char *buf = room->data + done;
        int needs = COPY_NEEDS_DATA;

        n = MIN(p->bytes - done, c->grain - ((p->at + done) & (c->grain - 1)));
        if (c->spec.reference && memcmp(buf, room->other + done, n) == 0) {
            needs = COPY_NEEDS_NOTHING;
        } else if (c->spec.sparse > 0 && block_buf_is_zero(buf, n)) {
            needs = COPY_NEEDS_ZEROES;
        }
        room->needs[grain++] = (uint8_t)needs;
    }
}

static void pack_clusters(CopyJob *c, CopyRoom *room)
{
    const CopyPiece *p = &room->p;
    BlockNode *target = c->spec.target;
    size_t cluster = c->spec.cluster, at = 0;

    for (uint64_t done = 0, i = 0; done < p->bytes; done += cluster, i++) {
        size_t n = MIN(cluster, p->bytes - done);

        room->packed_len[i] = 0;
        if (n < cluster) {
            memset(room->data + done + n, 0, cluster - n); /* the end of the image */
        }
        if (!block_buf_is_zero(room->data + done, n)) {
            room->packed_len[i] = BLOCK_NODE_GET_CLASS(target)->compress(
                target, room->data + done, cluster, room->packed + at, cluster);
            at += room->packed_len[i];
        }
    }
}

/* True: the kernel has copied it. */
static bool offloaded(CopyJob *c, const CopyPiece *p)
{
    BlockNode *target = c->spec.target;
    BlockStatus st;
    int e;

    if (!c->spec.offload || p->kind != COPY_DATA || !p->has_host ||
        __atomic_load_n(&c->no_offload, __ATOMIC_RELAXED) ||
        block_job_status(target, p->at, p->bytes, &st) != 0 || !st.has_host_offset ||
        st.bytes < p->bytes || st.depth != 0) {
        return false;
    }
    e = block_file_copy_range(p->source, p->host, target, st.host_offset, p->bytes);
    if (e) {
        __atomic_store_n(&c->no_offload, true, __ATOMIC_RELAXED);
    }
    return e == 0;
}

static bool read_reference(CopyJob *c, const CopyPiece *p, char *buf)
{
    uint64_t length = block_node_length(c->spec.reference);
    size_t n = MIN(p->bytes, length - MIN(length, p->at));
    int e = n > 0 ? block_node_pread(c->spec.reference, p->at, buf, n) : 0;

    memset(buf + n, 0, p->bytes - n);
    if (e) {
        block_job_fail_at(&c->job, c->spec.reference, "reading", p->at, e);
    }
    return e == 0;
}

static bool in_halves(const CopyJob *c)
{
    const BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(c->spec.target);

    return klass->compress && klass->write_packed;
}

bool copy_read(CopyJob *c, CopyRoom *room)
{
    CopyPiece *p = &room->p;

    room->done = false;
    if (p->kind == COPY_ZERO && c->spec.sparse > 0) {
        return true;
    }
    room->done = offloaded(c, p);
    if (room->done) {
        return true;
    }
    if (!read_piece(c, p, room->data) ||
        (c->spec.reference && !read_reference(c, p, room->other))) {
        return false;
    }
    if (!c->spec.compress) {
        look_at_grains(c, room);
    } else if (in_halves(c)) {
        pack_clusters(c, room);
    }
    return true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static bool write_zeroes(CopyJob *c, uint64_t at, uint64_t bytes)
{
    int e = c->spec.target_is_zero
                ? 0
                : block_node_sync_op(c->spec.target, BLOCK_OP_ZERO, at, bytes, BLOCK_MAY_UNMAP);

    if (e) {
        block_job_fail_at(&c->job, c->spec.target, "writing zeroes", at, e);
    }
    return e == 0;
}

static bool write_data(CopyJob *c, uint64_t at, const char *buf, size_t bytes)
{
    int e = block_node_pwrite(c->spec.target, at, buf, bytes,
                              c->spec.target_is_zero ? BLOCK_FRESH : 0);

    if (e) {
        block_job_fail_at(&c->job, c->spec.target, "writing", at, e);
    }
    return e == 0;
}

/* Runs of grains of one kind, each in one request. */
static bool write_runs(CopyJob *c, const CopyRoom *room)
{
    const CopyPiece *p = &room->p;
    uint64_t done = 0;

    for (uint64_t grain = 0; done < p->bytes;) {
        int needs = room->needs[grain];
        uint64_t run = 0;

        while (done + run < p->bytes && room->needs[grain] == needs) {
            run += MIN(p->bytes - done - run, c->grain - ((p->at + done + run) & (c->grain - 1)));
            grain++;
        }
        if (needs == COPY_NEEDS_ZEROES && c->spec.reference &&
            p->at + done + run > c->zeroes_below) {
            needs = COPY_NEEDS_DATA;
        }
        if ((needs == COPY_NEEDS_ZEROES && !write_zeroes(c, p->at + done, run)) ||
            (needs == COPY_NEEDS_DATA && !write_data(c, p->at + done, room->data + done, run))) {
            return false;
        }
        done += run;
    }
    return true;
}

static bool write_cluster_slowly(CopyJob *c, uint64_t at, const char *buf, size_t n)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(c->spec.target);
    GError *error = NULL;

    if (!klass->write_compressed) {
        return write_data(c, at, buf, n);
    }
    if (!klass->write_compressed(c->spec.target, at, buf, n, &error)) {
        block_job_fail(&c->job, error);
        return false;
    }
    return true;
}

static bool write_packed(CopyJob *c, const CopyPiece *p, CopyRoom *room, bool halves)
{
    BlockNode *target = c->spec.target;
    size_t cluster = c->spec.cluster, at = 0;

    for (uint64_t done = 0, i = 0; done < p->bytes; done += cluster, i++) {
        size_t n = MIN(cluster, p->bytes - done);
        int e = 0;

        if (halves && room->packed_len[i] > 0) {
            e = BLOCK_NODE_GET_CLASS(target)->write_packed(target, p->at + done, room->packed + at,
                                                           room->packed_len[i]);
            at += room->packed_len[i];
        } else if (block_buf_is_zero(room->data + done, n) && c->spec.sparse > 0) {
            if (!write_zeroes(c, p->at + done, n)) {
                return false;
            }
        } else if (halves) {
            if (!write_data(c, p->at + done, room->data + done, n)) {
                return false;
            }
        } else if (!write_cluster_slowly(c, p->at + done, room->data + done, n)) {
            return false;
        }
        if (e) {
            block_job_fail_at(&c->job, target, "writing", p->at + done, e);
            return false;
        }
    }
    return true;
}

bool copy_write(CopyJob *c, CopyRoom *room)
{
    const CopyPiece *p = &room->p;

    if (room->done) {
        return true;
    }
    if (p->kind == COPY_ZERO && c->spec.sparse > 0) {
        return write_zeroes(c, p->at, p->bytes);
    }
    return c->spec.compress ? write_packed(c, p, room, in_halves(c)) : write_runs(c, room);
}
