/* Random sequences of everything that changes a qcow2 image and its size, one after the other,
 * against a plain copy in memory, with qemu-img and qemu-io as judges. */
#include "qcow2_rig.h"

#include "run_suite.h"

#define MOST (4 * MiB)

typedef struct Run {
    char *path;
    GRand *rand;
    BlockBackend *be;
    BlockNode *node;
    BlockOpenOptions open;
    uint8_t *now, *kept; /* MOST bytes each: the disk; what the snapshot has of it */
    uint64_t size, kept_size, cluster;
    bool has_snapshot;
} Run;

static const struct {
    const char *options;
    uint64_t cluster;
} kinds[] = {
    { "cluster_size=64k", 65536 },
    { "cluster_size=4k,refcount_bits=8", 4096 },
    { "cluster_size=16k,extended_l2=on,compression_type=zstd", 16384 },
    { "cluster_size=512", 512 },
};

static void open_run(Run *r)
{
    r->be = open_drive(r->path, &r->open);
    r->node = block_root(r->be);
    ck_assert_uint_eq(block_length(r->be), r->size);
}

/* Whole sectors within the disk. */
static uint64_t pick(Run *r, uint64_t unit, uint64_t most, uint64_t *bytes)
{
    uint64_t units = r->size / unit, n = 1 + g_rand_int(r->rand) % MIN(units, most / unit);

    *bytes = n * unit;
    return g_rand_int(r->rand) % (units - n + 1) * unit;
}

static void write_some(Run *r)
{
    uint64_t n, at = pick(r, BLOCK_SECTOR_SIZE, 200 * KiB, &n);

    for (uint64_t i = 0; i < n; i++) {
        r->now[at + i] = (uint8_t)(g_rand_int(r->rand) >> 24);
    }
    ck_assert(block_write_wait(r->be, at, r->now + at, n, 0, NULL));
}

static void zero_some(Run *r)
{
    uint64_t n, at = pick(r, BLOCK_SECTOR_SIZE, 400 * KiB, &n);

    memset(r->now + at, 0, n);
    ck_assert(block_zero_wait(r->be, at, n, 0, NULL));
}

/* Whole clusters: they read as zeroes then. */
static void discard_some(Run *r)
{
    uint64_t n, at;

    if (r->size < r->cluster) {
        return;
    }
    at = pick(r, r->cluster, 400 * KiB, &n);
    memset(r->now + at, 0, n);
    ck_assert(block_discard_wait(r->be, at, n, NULL));
}

static void pack_one(Run *r)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(r->node);
    g_autofree uint8_t *packed = g_malloc(r->cluster);
    uint64_t n, at;
    size_t len;

    if (r->size < r->cluster) {
        return;
    }
    at = pick(r, r->cluster, r->cluster, &n);
    memset(r->now + at, (int)(g_rand_int(r->rand) & 0xff), n);
    len = klass->compress(r->node, r->now + at, n, packed, n);
    if (len > 0) { /* it gets smaller */
        ck_assert_int_eq(klass->write_packed(r->node, at, packed, len), 0);
    } else {
        ck_assert(block_write_wait(r->be, at, r->now + at, n, 0, NULL));
    }
}

/* With a snapshot it does not get smaller. */
static void change_size(Run *r)
{
    uint64_t size = (1 + g_rand_int(r->rand) % (MOST / BLOCK_SECTOR_SIZE)) * BLOCK_SECTOR_SIZE;
    GError *error = NULL;
    bool ok = block_image_resize(r->node, size, NULL, &error);

    if (r->has_snapshot && size < r->size) {
        ck_assert(!ok && g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED));
        g_error_free(error);
        return;
    }
    ck_assert_msg(ok, "%s", error ? error->message : "");
    if (size < r->size) {
        memset(r->now + size, 0, r->size - size);
    }
    r->size = size;
}

static void use_snapshot(Run *r)
{
    BlockSnapshotInfo info = { .name = "s", .icount = UINT64_MAX };
    unsigned what = g_rand_int(r->rand) % 3;

    if (!r->has_snapshot) {
        ck_assert(block_image_snapshot_create(r->node, &info, NULL));
        memcpy(r->kept, r->now, MOST);
        r->kept_size = r->size;
        r->has_snapshot = true;
    } else if (what == 0) {
        ck_assert(block_image_snapshot_goto(r->node, "s", NULL));
        memcpy(r->now, r->kept, MOST);
        r->size = r->kept_size;
    } else if (what == 1) {
        ck_assert(block_image_snapshot_delete(r->node, "s", NULL));
        r->has_snapshot = false;
    }
}

static void verify(Run *r)
{
    g_autofree uint8_t *buf = g_malloc(MOST);

    ck_assert(block_read_wait(r->be, 0, buf, r->size, NULL));
    ck_assert_int_eq(memcmp(buf, r->now, r->size), 0);
}

/* Closed, looked at by qemu-img, written to by qemu-io, and opened again. */
static void judge(Run *r)
{
    g_autofree char *raw = g_strconcat(r->path, ".raw", NULL), *seen = NULL;
    gsize len;

    close_drive(r->be);
    ck_assert_int_eq(oracle_check(r->path, "").status, 0);
    ck_assert_int_eq(run_line(NULL, r->path, "qemu-img convert -f qcow2 -O raw @ '%s'", raw), 0);
    ck_assert(g_file_get_contents(raw, &seen, &len, NULL));
    ck_assert_uint_eq(len, r->size);
    ck_assert_int_eq(memcmp(seen, r->now, len), 0);
    if (r->size >= 8 * KiB) {
        uint64_t at = g_rand_int(r->rand) % (r->size / BLOCK_SECTOR_SIZE - 15) * BLOCK_SECTOR_SIZE;

        ck_assert_int_eq(
            run_line(NULL, r->path,
                     "qemu-io -t unsafe -f qcow2 -c 'write -P 91 %" G_GUINT64_FORMAT " 8k' @", at),
            0);
        memset(r->now + at, 91, 8 * KiB);
    }
    open_run(r);
}

START_TEST(everything_that_changes_an_image_matches_a_model)
{
    static void (*const steps[])(Run *) = { write_some,   write_some, write_some,  zero_some,
                                            discard_some, pack_one,   change_size, use_snapshot };
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    bool all = g_getenv("VMLUA_LONG");
    Run r = { .open = { .format = "qcow2", .discard = true }, .cluster = kinds[_i].cluster };

    if (!qemu_img) {
        printf("ok - sequences # SKIP there is no qemu-img here\n");
        return;
    }
    r.path = g_build_filename(folder, "image.qcow2", NULL);
    r.now = g_malloc(MOST);
    r.kept = g_malloc(MOST);
    for (uint32_t seed = 0; seed < (all ? 25 : 1); seed++) {
        r.rand = g_rand_new_with_seed(seed * 8 + (uint32_t)_i);
        r.has_snapshot = false;
        r.size = 2 * MiB;
        memset(r.now, 0, MOST);
        ck_assert_int_eq(
            run_line(NULL, r.path, "qemu-img create -q -f qcow2 -o %s @ 2M", kinds[_i].options), 0);
        open_run(&r);
        for (unsigned i = 1; i <= (all ? 400 : 60); i++) {
            steps[g_rand_int(r.rand) % G_N_ELEMENTS(steps)](&r);
            if (i % 20 == 0) {
                verify(&r);
                judge(&r);
            }
        }
        close_drive(r.be);
        g_rand_free(r.rand);
    }
    g_free(r.path);
    g_free(r.now);
    g_free(r.kept);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-sequence");
    TCase *tc = tcase_create("sequence");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 3600);
    tcase_add_loop_test(tc, everything_that_changes_an_image_matches_a_model, 0,
                        G_N_ELEMENTS(kinds));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
