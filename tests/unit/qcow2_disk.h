/* What the tests of qcow2 share: images made by either tool, a model in memory, qemu-img as judge.
 */
#pragma once

#include <sys/stat.h>
#include <sys/wait.h>

#include "block_rig.h"
#include "engine/block/block_priv.h"

/* Runs a program; its output is in *out (may be NULL). -1: it is not there. */
__attribute__((unused)) static int run_program(char **out, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
__attribute__((unused)) static int run_program(char **out, const char *format, ...)
{
    g_autofree char *line = NULL;
    g_auto(GStrv) argv = NULL;
    char *text = NULL;
    int status = 0;
    va_list ap;

    va_start(ap, format);
    line = g_strdup_vprintf(format, ap);
    va_end(ap);
    ck_assert(g_shell_parse_argv(line, NULL, &argv, NULL));
    g_autofree char *path = g_find_program_in_path(argv[0]);
    if (!path) {
        return -1;
    }
    ck_assert_msg(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, out ? out : &text,
                               NULL, &status, NULL),
                  "%s", line);
    g_free(text);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* Nothing wrong and nothing leaked, by qemu-img. */
__attribute__((unused)) static void check_clean(const char *path)
{
    g_autofree char *out = NULL;
    int r = run_program(&out, "qemu-img check '%s'", path);

    ck_assert_msg(r <= 0, "qemu-img check %s: %d: %s", path, r, out);
}

/* A new image by our driver: "key=value,key=value". */
__attribute__((unused)) static void create_image(const char *path, uint64_t size, const char *text)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    g_autofree char *bytes = g_strdup_printf("%" G_GUINT64_FORMAT, size);
    BlockCreateOption options[32] = { { "size", bytes } };
    GError *error = NULL;
    unsigned n = 1;

    for (unsigned i = 0; parts[i] && *parts[i]; i++) {
        char *eq = strchr(parts[i], '=');

        *eq = '\0';
        options[n++] = (BlockCreateOption){ parts[i], eq + 1 };
    }
    ck_assert_msg(block_image_create("qcow2", path, options, n, &error), "%s",
                  error ? error->message : "");
}

/* The same by qemu-img; false: it is not there. */
__attribute__((unused)) static bool create_by_qemu(const char *path, uint64_t size,
                                                   const char *text)
{
    int r = run_program(NULL, "qemu-img create -q -f qcow2 %s%s '%s' %" G_GUINT64_FORMAT,
                        *text ? "-o " : "", text, path, size);

    ck_assert_msg(r <= 0, "qemu-img create -o %s: %d", text, r);
    return r == 0;
}

/* ---- a disk that is known -------------------------------------------------------------------- */

typedef struct Disk {
    char *path;
    BlockBackend *be;
    BlockOpenOptions open;
    GRand *rand;
    uint8_t *bytes;
    uint64_t size;
    uint32_t cluster;
    bool discards; /* they zero whole clusters */
    bool packs;    /* compressed clusters */
    unsigned in_flight, expect_errors;
} Disk;

typedef struct DiskOp {
    Disk *d;
    BlockOp op;
    uint64_t offset, len;
    uint8_t *buf;
} DiskOp;

/* Check marks every assertion, so there is one for all bytes. */
static inline void same_bytes(const char *who, uint64_t offset, const uint8_t *is,
                              const uint8_t *wanted, uint64_t len)
{
    uint64_t i = 0;

    if (memcmp(is, wanted, len) == 0) {
        return;
    }
    while (is[i] == wanted[i]) {
        i++;
    }
    ck_abort_msg("%s: byte %#" G_GINT64_MODIFIER "x is %#x, not %#x", who, offset + i, is[i],
                 wanted[i]);
}

static inline void disk_op_done(void *opaque, int error)
{
    DiskOp *o = opaque;

    ck_assert_msg(error == 0, "%s at %#" G_GINT64_MODIFIER "x: %s", block_op_name(o->op), o->offset,
                  g_strerror(error));
    if (o->op == BLOCK_OP_READ) {
        same_bytes("read", o->offset, o->buf, o->d->bytes + o->offset, o->len);
    }
    o->d->in_flight--;
    free(o->buf);
    g_free(o);
}

static inline void fill_random(GRand *rand, uint8_t *buf, uint64_t len)
{
    uint32_t x = g_rand_int(rand) | 1;

    for (uint64_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        buf[i] = (uint8_t)x;
    }
}

/* What a discard of that range does to whole clusters. */
static inline void model_discard(Disk *d, uint64_t offset, uint64_t len)
{
    uint64_t from = (offset + d->cluster - 1) / d->cluster * d->cluster, to = offset + len;

    to = to == d->size ? to : to / d->cluster * d->cluster;
    if (from < to) {
        memset(d->bytes + from, 0, to - from);
    }
}

/* One request in [from, to), which nobody else uses meanwhile. */
static inline void disk_step(Disk *d, uint64_t from, uint64_t to)
{
    DiskOp *o = g_new0(DiskOp, 1);
    unsigned kind = (unsigned)g_rand_int_range(d->rand, 0, 20);
    uint64_t units = (to - from) / 512, first = g_rand_int(d->rand) % units;
    uint64_t most = kind % 3 ? 16 : MAX(3 * d->cluster / 512, 64);

    o->d = d;
    o->offset = from + 512 * first;
    o->len = 512 * (1 + g_rand_int(d->rand) % MIN(units - first, most));
    o->op = kind < 8    ? BLOCK_OP_WRITE
            : kind < 15 ? BLOCK_OP_READ
            : kind < 18 ? BLOCK_OP_ZERO
                        : BLOCK_OP_DISCARD;
    if (o->op == BLOCK_OP_DISCARD && !d->discards) {
        o->op = BLOCK_OP_ZERO;
    }
    d->in_flight++;
    if (o->op == BLOCK_OP_ZERO) {
        memset(d->bytes + o->offset, 0, o->len);
        block_write_zeroes(d->be, o->offset, o->len,
                           kind & 1     ? BLOCK_MAY_UNMAP
                           : kind == 16 ? BLOCK_NO_UNMAP
                                        : 0,
                           disk_op_done, o);
    } else if (o->op == BLOCK_OP_DISCARD) {
        model_discard(d, o->offset, o->len);
        block_discard(d->be, o->offset, o->len, disk_op_done, o);
    } else if (o->op == BLOCK_OP_WRITE) {
        o->buf = malloc(o->len);
        fill_random(d->rand, o->buf, o->len);
        memcpy(d->bytes + o->offset, o->buf, o->len);
        if (o->len > 1024) {
            struct iovec iov[2] = { { o->buf, 700 }, { o->buf + 700, o->len - 700 } };

            block_writev(d->be, o->offset, iov, 2, kind == 5 ? BLOCK_FUA : 0, disk_op_done, o);
        } else {
            block_write(d->be, o->offset, o->buf, o->len, 0, disk_op_done, o);
        }
    } else {
        o->buf = malloc(o->len);
        block_read(d->be, o->offset, o->buf, o->len, disk_op_done, o);
    }
}

static inline void disk_pack(Disk *d)
{
    BlockNode *node = block_root(d->be);
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);
    uint64_t offset = g_rand_int(d->rand) % (d->size / d->cluster) * d->cluster;
    uint8_t *buf = g_malloc(d->cluster), *packed = g_malloc(d->cluster);
    size_t n;

    for (uint32_t i = 0; i < d->cluster; i++) {
        buf[i] = (uint8_t)(offset / d->cluster + i / 64);
    }
    n = klass->compress(node, buf, d->cluster, packed, d->cluster);
    if (n > 0) {
        ck_assert_int_eq(klass->write_packed(node, offset, packed, n), 0);
        memcpy(d->bytes + offset, buf, d->cluster);
    }
    g_free(buf);
    g_free(packed);
}

static inline void disk_verify(Disk *d)
{
    uint8_t *buf = g_malloc(MiB);

    for (uint64_t at = 0; at < d->size; at += MiB) {
        uint64_t n = MIN(MiB, d->size - at);

        ck_assert(block_read_wait(d->be, at, buf, n, NULL));
        same_bytes("the image", at, buf, d->bytes + at, n);
    }
    g_free(buf);
}

/* qemu-img reads the same. */
static inline void disk_judge(Disk *d)
{
    g_autofree char *raw = g_strdup_printf("%s.raw", d->path);
    g_autofree char *seen = NULL;
    gsize len;
    int r;

    check_clean(d->path);
    r = run_program(NULL, "qemu-img convert -O raw '%s' '%s'", d->path, raw);
    ck_assert_msg(r <= 0, "qemu-img convert %s: %d", d->path, r);
    if (r == 0) {
        ck_assert(g_file_get_contents(raw, &seen, &len, NULL));
        ck_assert_uint_eq(len, d->size);
        same_bytes("qemu-img", 0, (const uint8_t *)seen, d->bytes, len);
        unlink(raw);
    }
}

/* `rounds` rounds of requests side by side, with flushes, compressed clusters and reopening. */
static inline void disk_run(Disk *d, unsigned rounds)
{
    unsigned parts = 6;
    uint64_t part = d->size / parts / 512 * 512;

    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < parts; i++) {
            disk_step(d, i * part, i + 1 == parts ? d->size : (i + 1) * part);
        }
        if (round % 5 == 0) {
            DiskOp *o = g_new0(DiskOp, 1);

            o->d = d;
            o->op = BLOCK_OP_FLUSH;
            d->in_flight++;
            block_flush(d->be, disk_op_done, o);
        }
        LOOP_UNTIL(d->in_flight == 0);
        if (d->packs && round % 3 == 1) {
            disk_pack(d);
        }
        if (round % 40 == 39) {
            disk_verify(d);
            close_drive(d->be);
            check_clean(d->path);
            d->be = open_drive(d->path, &d->open);
        }
    }
    disk_verify(d);
    close_drive(d->be);
    d->be = NULL;
}
