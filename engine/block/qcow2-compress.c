/*
 * qcow2: compressed clusters. zlib: a raw deflate stream with a window of 4 KiB; zstd: a frame.
 * They lie at any byte of the file, several in a cluster, and are only known to end within a
 * sector.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "engine/block/qcow2_priv.h"

#define SECTOR    512u
#define ZLIB_BITS (-12)

/* ---- reading --------------------------------------------------------------------------------- */

void qcow2_compressed_extent(const Qcow2 *s, uint64_t entry, uint64_t *offset, uint32_t *bytes)
{
    unsigned offset_bits = 62 - (s->cluster_bits - 8);
    uint64_t sectors = (entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> offset_bits;

    *offset = entry & ((UINT64_C(1) << offset_bits) - 1);
    *bytes = (uint32_t)((sectors + 1) * SECTOR - (*offset & (SECTOR - 1)));
}

static bool inflate_zlib(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    z_stream z = { 0 };
    int r;

    if (inflateInit2(&z, ZLIB_BITS) != Z_OK) {
        return false;
    }
    z.next_in = (uint8_t *)(uintptr_t)in;
    z.avail_in = (unsigned)len;
    z.next_out = out;
    z.avail_out = (unsigned)room;
    r = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* What follows the stream in its last sector is another cluster's. */
    return z.avail_out == 0 && (r == Z_STREAM_END || r == Z_BUF_ERROR);
}

static bool inflate_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    ZSTD_inBuffer input = { in, len, 0 };
    ZSTD_outBuffer output = { out, room, 0 };
    bool ok = ctx;

    while (ok && output.pos < output.size) {
        size_t before_in = input.pos, before_out = output.pos, r;

        r = ZSTD_decompressStream(ctx, &output, &input);
        ok = !ZSTD_isError(r) && (input.pos > before_in || output.pos > before_out);
    }
    ZSTD_freeDCtx(ctx);
    return ok;
}

/* The last one is kept: a guest reads a cluster in pieces. `lock` held. */
static bool from_last(Qcow2 *s, uint64_t entry, uint8_t *out)
{
    bool here = s->comp_buf && s->comp_buf_entry == entry;

    if (here) {
        memcpy(out, s->comp_buf, s->cluster_size);
    }
    return here;
}

int qcow2_decompress(Qcow2 *s, uint64_t entry, uint8_t *out)
{
    uint64_t offset;
    uint32_t bytes;
    uint8_t *in;
    bool here;
    int e;

    pthread_mutex_lock(&s->lock);
    here = from_last(s, entry, out);
    pthread_mutex_unlock(&s->lock);
    if (here) {
        return 0;
    }
    qcow2_compressed_extent(s, entry, &offset, &bytes);
    in = g_try_malloc(bytes);
    if (!in) {
        return ENOMEM;
    }
    e = block_node_pread(block_node_file(&s->parent), offset, in, bytes);
    if (!e && !(s->compression == QCOW2_ZSTD ? inflate_zstd(in, bytes, out, s->cluster_size)
                                             : inflate_zlib(in, bytes, out, s->cluster_size))) {
        e = EIO;
    }
    g_free(in);
    if (!e) {
        pthread_mutex_lock(&s->lock);
        s->comp_buf = s->comp_buf ? s->comp_buf : g_try_malloc(s->cluster_size);
        if (s->comp_buf) {
            memcpy(s->comp_buf, out, s->cluster_size);
            s->comp_buf_entry = entry;
        }
        pthread_mutex_unlock(&s->lock);
    }
    return e;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* 0: it does not get smaller. */
static size_t deflate_zlib(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    z_stream z = { 0 };
    int r;

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, ZLIB_BITS, 9, Z_DEFAULT_STRATEGY) !=
        Z_OK) {
        return 0;
    }
    z.next_in = (uint8_t *)(uintptr_t)in;
    z.avail_in = (unsigned)len;
    z.next_out = out;
    z.avail_out = (unsigned)room;
    r = deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return r == Z_STREAM_END ? room - z.avail_out : 0;
}

static size_t deflate_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
    size_t n = ZSTD_compress(out, room, in, len, ZSTD_CLEVEL_DEFAULT);

    return ZSTD_isError(n) ? 0 : n;
}

size_t qcow2_compress(BlockNode *node, const void *buf, size_t len, void *out, size_t room)
{
    Qcow2 *s = QCOW2(node);

    if (s->has_data_file || len != s->cluster_size || len <= SECTOR) {
        return 0;
    }
    room = MIN(room, len - SECTOR); /* else it is not worth it */
    return s->compression == QCOW2_ZSTD ? deflate_zstd(buf, len, out, room)
                                        : deflate_zlib(buf, len, out, room);
}

/* `lock` held. Frees what the cluster had. */
static int link_compressed(Qcow2 *s, uint64_t guest, uint64_t place, uint32_t bytes)
{
    unsigned offset_bits = 62 - (s->cluster_bits - 8);
    uint64_t sectors = ((place + bytes - 1) / SECTOR) - place / SECTOR;
    Qcow2Entry e = { QCOW2_COMPRESSED | sectors << offset_bits | place, 0 }, old;
    Qcow2Slice *slice;
    unsigned index;
    int error = qcow2_slice_for_write(s, guest, &slice, &index);

    if (error) {
        return error;
    }
    old = qcow2_slice_entry(s, slice, index);
    s->comp_buf_entry = 0;
    qcow2_slice_set(s, slice, index, e);
    qcow2_free_entry(s, old.entry);
    return 0;
}

int qcow2_store_packed(Qcow2 *s, uint64_t offset, const void *packed, size_t len)
{
    uint64_t place;
    int e;

    pthread_mutex_lock(&s->lock);
    e = s->corrupt ? EIO : qcow2_alloc_bytes(s, (uint32_t)len, &place);
    pthread_mutex_unlock(&s->lock);
    if (e) {
        return e;
    }
    e = block_node_pwrite(block_node_file(&s->parent), place, packed, len, 0);
    pthread_mutex_lock(&s->lock);
    e = e ? e : link_compressed(s, offset, place, (uint32_t)len);
    if (e) {
        qcow2_unalloc(s, qcow2_cluster_start(s, place), 1);
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}
