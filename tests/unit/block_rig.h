/* What the tests of the block layer share: a folder, opening, waiting, a model in memory. */
#pragma once

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/block/block.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

static char *folder; /* this test's own */

__attribute__((unused)) static void setup(void)
{
    main_loop_init();
    folder = g_dir_make_tmp("vmlua-block-XXXXXX", NULL);
    ck_assert_ptr_nonnull(folder);
}

__attribute__((unused)) static void teardown(void)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    g_clear_pointer(&folder, g_free);
    main_loop_finalize();
}

__attribute__((unused)) static char *new_file(const char *name, uint64_t bytes)
{
    char *path = g_build_filename(folder, name, NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
    return path;
}

/* A drive on what it takes the reference of. */
__attribute__((unused)) static BlockBackend *drive_on(BlockNode *node)
{
    GError *error = NULL;
    BlockBackend *be = block_backend_new(NULL, NULL, node, &error);

    ck_assert_msg(be != NULL, "%s", error ? error->message : "");
    object_unref(node);
    return be;
}

__attribute__((unused)) static BlockBackend *open_drive(const char *name,
                                                        const BlockOpenOptions *options)
{
    GError *error = NULL;
    BlockNode *node = block_open(name, options, &error);

    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    return drive_on(node);
}

__attribute__((unused)) static void close_drive(BlockBackend *be)
{
    ck_assert(block_drain(be, NULL));
    object_unparent(OBJECT(be));
}

typedef struct Result {
    bool finished;
    int error;
    unsigned order;
} Result;
static unsigned results;

__attribute__((unused)) static void on_done(void *opaque, int error)
{
    Result *r = opaque;

    ck_assert(!r->finished);
    r->finished = true;
    r->error = error;
    r->order = ++results;
}

/* A hang ends by Check's timeout. */
#define LOOP_UNTIL(cond)         \
    while (!(cond)) {            \
        main_loop_iterate(true); \
    }

/* ---- random operations against a plain array --------------------------------------------------
 */

typedef struct Model {
    BlockBackend *be;
    GRand *rand;
    uint8_t *bytes;
    uint64_t size;
    uint32_t unit; /* of offsets and lengths */
    unsigned in_flight;
    bool discards; /* contents after one are zeroes */
} Model;

typedef struct ModelOp {
    Model *m;
    BlockOp op;
    uint64_t offset, len;
    uint8_t *buf;
} ModelOp;

static void model_done(void *opaque, int error)
{
    ModelOp *o = opaque;

    ck_assert_int_eq(error, 0);
    if (o->op == BLOCK_OP_READ) {
        ck_assert_msg(memcmp(o->buf, o->m->bytes + o->offset, o->len) == 0,
                      "read at %#" G_GINT64_MODIFIER "x of %" G_GUINT64_FORMAT " bytes differs",
                      o->offset, o->len);
    }
    o->m->in_flight--;
    free(o->buf);
    g_free(o);
}

/* One operation within [from, to); nobody else uses that part while it is in flight. */
__attribute__((unused)) static void model_step(Model *m, uint64_t from, uint64_t to)
{
    ModelOp *o = g_new0(ModelOp, 1);
    uint64_t units = (to - from) / m->unit, first = (uint64_t)g_rand_int(m->rand) % units;
    uint64_t n = 1 + (uint64_t)g_rand_int(m->rand) % MIN(units - first, 200 * 1024 / m->unit + 1);
    unsigned kind = (unsigned)g_rand_int_range(m->rand, 0, 20);

    o->m = m;
    o->offset = from + first * m->unit;
    o->len = n * m->unit;
    o->op = kind < 9    ? BLOCK_OP_WRITE
            : kind < 17 ? BLOCK_OP_READ
            : kind < 19 ? BLOCK_OP_ZERO
                        : BLOCK_OP_DISCARD;
    if (o->op == BLOCK_OP_DISCARD && !m->discards) {
        o->op = BLOCK_OP_ZERO;
    }
    m->in_flight++;
    if (o->op == BLOCK_OP_ZERO) {
        memset(m->bytes + o->offset, 0, o->len);
        block_write_zeroes(m->be, o->offset, o->len, kind & 1 ? BLOCK_MAY_UNMAP : 0, model_done, o);
        return;
    }
    if (o->op == BLOCK_OP_DISCARD) {
        memset(m->bytes + o->offset, 0, o->len);
        block_discard(m->be, o->offset, o->len, model_done, o);
        return;
    }
    /* Sometimes a buffer that direct I/O does not like, sometimes in pieces. */
    ck_assert_int_eq(posix_memalign((void **)&o->buf, 4096, o->len), 0);
    if (o->op == BLOCK_OP_WRITE) {
        for (uint64_t i = 0; i < o->len; i++) {
            o->buf[i] = (uint8_t)(kind == 3 ? 0 : g_rand_int(m->rand));
        }
        memcpy(m->bytes + o->offset, o->buf, o->len);
    } else if ((kind & 3) == 2 && block_read_now(m->be, o->offset, o->buf, o->len)) {
        model_done(o, 0);
        return;
    }
    if (o->len >= 4 && (kind & 3) == 1) {
        uint64_t cut = 1 + (uint64_t)g_rand_int(m->rand) % (o->len - 2);
        struct iovec iov[3] = { { o->buf, cut },
                                { o->buf + cut, 1 },
                                { o->buf + cut + 1, o->len - cut - 1 } };

        if (o->op == BLOCK_OP_WRITE) {
            block_writev(m->be, o->offset, iov, 3, kind == 5 ? BLOCK_FUA : 0, model_done, o);
        } else {
            block_readv(m->be, o->offset, iov, 3, model_done, o);
        }
    } else if (o->op == BLOCK_OP_WRITE) {
        block_write(m->be, o->offset, o->buf, o->len, 0, model_done, o);
    } else {
        block_read(m->be, o->offset, o->buf, o->len, model_done, o);
    }
}

/* `rounds` rounds of requests in parallel, each in a part of its own, whose borders lie in the
 * middle of blocks. The drive's content is zeroes at the start. */
__attribute__((unused)) static void model_run(BlockBackend *be, uint32_t unit, unsigned rounds,
                                              bool discards, uint32_t seed)
{
    Model m = { .be = be, .unit = unit, .discards = discards, .size = block_length(be) };
    unsigned parts = 8;
    uint64_t part = m.size / parts / unit * unit;
    uint8_t *all = g_malloc(m.size);

    m.rand = g_rand_new_with_seed(seed);
    m.bytes = g_malloc0(m.size);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < parts; i++) {
            model_step(&m, i * part, i + 1 == parts ? m.size / unit * unit : (i + 1) * part);
        }
        if (round % 7 == 0) {
            ModelOp *o = g_new0(ModelOp, 1);

            o->m = &m;
            o->op = BLOCK_OP_FLUSH;
            m.in_flight++;
            block_flush(be, model_done, o);
        }
        LOOP_UNTIL(m.in_flight == 0);
    }
    for (uint64_t at = 0; at < m.size; at += MiB) {
        ck_assert(block_read_wait(be, at, all + at, MIN(MiB, m.size - at), NULL));
    }
    ck_assert_int_eq(memcmp(all, m.bytes, m.size), 0);
    g_free(all);
    g_free(m.bytes);
    g_rand_free(m.rand);
}
