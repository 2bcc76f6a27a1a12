/* The qcow2 driver: random operations against a model in memory over the options of the format,
 * with qemu-img as judge; images of either tool read by the other; what is refused. */
#include "qcow2_disk.h"
#include "run_suite.h"

typedef struct Variant {
    const char *options;
    uint32_t cluster;
    uint64_t size;
    bool qemu, backed, no_discard, no_pack;
} Variant;

static const Variant variants[] = {
    { "", 65536, 6 * MiB + 1536 },
    { "", 65536, 6 * MiB + 1536, .qemu = true, .backed = true },
    { "cluster_size=512", 512, 3 * MiB + 512 },
    { "cluster_size=512,refcount_bits=64", 512, 3 * MiB, .backed = true },
    { "cluster_size=1k,refcount_bits=1", 1024, 3 * MiB, .qemu = true },
    { "cluster_size=4k,refcount_bits=2", 4096, 6 * MiB, .backed = true },
    { "cluster_size=4k,compression_type=zstd,refcount_bits=8", 4096, 6 * MiB + 512,
      .backed = true },
    { "cluster_size=2M", 2 * MiB, 13 * MiB, .backed = true },
    { "compat=0.10", 65536, 6 * MiB, .qemu = true },
    { "compat=0.10,cluster_size=4k", 4096, 6 * MiB, .backed = true, .no_discard = true },
    { "extended_l2=on,cluster_size=16k", 16384, 6 * MiB + 512 },
    { "extended_l2=on,cluster_size=16k", 16384, 6 * MiB + 512, .qemu = true, .backed = true },
    { "extended_l2=on,cluster_size=128k,compression_type=zstd", 131072, 6 * MiB, .backed = true },
    { "lazy_refcounts=on,refcount_bits=32", 65536, 6 * MiB },
    { "preallocation=metadata,cluster_size=4k", 4096, 6 * MiB },
    { "preallocation=falloc,extended_l2=on", 65536, 6 * MiB, .qemu = true },
    { "preallocation=full", 65536, 6 * MiB },
    { "data_file=%s,cluster_size=4k", 4096, 6 * MiB, .no_pack = true },
    { "data_file=%s,data_file_raw=on", 65536, 6 * MiB, .qemu = true, .no_pack = true },
    { "data_file=%s,extended_l2=on", 65536, 6 * MiB, .backed = true, .no_pack = true },
};

/* The image below: some of it, not to the end, and not all of it data. */
static char *make_backing(Disk *d)
{
    char *path = g_build_filename(folder, "below.qcow2", NULL);
    BlockOpenOptions open = { .format = "qcow2" };
    uint64_t size = d->size * 3 / 4 / 512 * 512, at = 70 * KiB;
    BlockBackend *be;

    create_image(path, size, "cluster_size=16k");
    be = open_drive(path, &open);
    fill_random(d->rand, d->bytes + at, size - at);
    memset(d->bytes + size / 2, 0, 300 * KiB);
    ck_assert(block_write_wait(be, at, d->bytes + at, size / 2 - at, 0, NULL));
    ck_assert(block_write_wait(be, size / 2 + 300 * KiB, d->bytes + size / 2 + 300 * KiB,
                               size - size / 2 - 300 * KiB, 0, NULL));
    close_drive(be);
    return path;
}

static Disk *new_disk(const Variant *v, uint32_t seed)
{
    Disk *d = g_new0(Disk, 1);
    g_autofree char *data = g_build_filename(folder, "data", NULL);
    g_autofree char *with_data = NULL, *options = NULL, *below = NULL;

    d->rand = g_rand_new_with_seed(seed);
    d->size = v->size;
    d->cluster = v->cluster;
    d->bytes = g_malloc0(d->size);
    d->discards = !v->no_discard;
    d->packs = !v->no_pack;
    d->open = (BlockOpenOptions){ .discard = true, .format = "qcow2" };
    d->path = g_build_filename(folder, "disk.qcow2", NULL);
    if (strstr(v->options, "%s")) {
        const char *hole = strstr(v->options, "%s");

        with_data = g_strdup_printf("%.*s%s%s", (int)(hole - v->options), v->options, data,
                                    hole + 2);
    }
    options = g_strdup(with_data ? with_data : v->options);
    if (v->backed) {
        char *more;

        below = make_backing(d);
        more = g_strdup_printf("%s%sbacking_file=below.qcow2,backing_fmt=qcow2", options,
                               *options ? "," : "");
        g_free(options);
        options = more;
    }
    if (!v->qemu || !create_by_qemu(d->path, d->size, options)) {
        create_image(d->path, d->size, options);
    }
    check_clean(d->path);
    return d;
}

static void free_disk(Disk *d)
{
    g_rand_free(d->rand);
    g_free(d->bytes);
    g_free(d->path);
    g_free(d);
}

START_TEST(random_operations_match_a_model_and_qemu_img)
{
    const Variant *v = &variants[_i];
    bool much = g_getenv("VMLUA_LONG") != NULL;

    for (uint32_t seed = 1; seed <= (much ? 20 : 1); seed++) {
        Disk *d = new_disk(v, seed * 100 + (uint32_t)_i);

        /* Flushes of the host take most of the time, and show nothing here. */
        d->open.cache = seed % 3 == 2   ? BLOCK_CACHE_NONE
                        : seed % 3 == 0 ? BLOCK_CACHE_WRITEBACK
                                        : BLOCK_CACHE_UNSAFE;
        d->be = open_drive(d->path, &d->open);
        ck_assert_uint_eq(block_length(d->be), d->size);
        disk_verify(d);
        disk_run(d, much ? 400 : 90);
        disk_judge(d);
        free_disk(d);
    }
}
END_TEST

/* The same with caches so small that they are written back and read again all the time. */
START_TEST(small_caches_do_not_matter)
{
    Variant v = { "cluster_size=512", 512, 4 * MiB, .backed = true };
    Disk *d = new_disk(&v, 7);
    GError *error = NULL;
    BlockNode *file = block_node_new("file", &error), *node = block_node_new("qcow2", &error);

    ck_assert(object_property_set_str(OBJECT(file), "filename", d->path, &error));
    ck_assert(object_property_set_str(OBJECT(file), "discard", "unmap", &error));
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), &error));
    ck_assert(object_property_parse(OBJECT(node), "l2-cache-size", "8K", &error));
    ck_assert(object_property_parse(OBJECT(node), "refcount-cache-size", "8K", &error));
    ck_assert(object_property_set_str(OBJECT(node), "discard", "unmap", &error));
    ck_assert_msg(block_node_open(node, &error), "%s", error ? error->message : "");
    object_unref(file);
    d->be = drive_on(node);
    disk_run(d, 30);
    disk_judge(d);
    free_disk(d);
}
END_TEST

/* Workers of an image wait for its file, whose requests need workers too: there are enough. */
START_TEST(images_whose_workers_wait_for_workers_go_on)
{
    enum { IMAGES = 6, WRITES = 40 };
    BlockBackend *be[IMAGES];
    Result results_of[IMAGES][WRITES] = { 0 };
    char buf[512] = { 1 };

    for (unsigned i = 0; i < IMAGES; i++) {
        g_autofree char *name = g_strdup_printf("disk%u", i);
        g_autofree char *path = g_build_filename(folder, name, NULL);
        BlockNode *file = block_node_new("file", NULL), *filter, *node;
        GError *error = NULL;

        create_image(path, 64 * MiB, "cluster_size=4k");
        ck_assert(object_property_set_str(OBJECT(file), "filename", path, &error));
        ck_assert(object_property_set_str(OBJECT(file), "aio", "threads", &error));
        ck_assert(object_property_set_str(OBJECT(file), "cache", "unsafe", &error));
        ck_assert(block_node_open(file, &error));
        filter = block_node_on_top("fault", file, &error);
        ck_assert_msg(filter != NULL, "%s", error ? error->message : "");
        node = block_node_on_top("qcow2", filter, &error);
        ck_assert_msg(node != NULL, "%s", error ? error->message : "");
        be[i] = drive_on(node);
    }
    for (unsigned w = 0; w < WRITES; w++) {
        for (unsigned i = 0; i < IMAGES; i++) {
            block_write(be[i], w * MiB, buf, sizeof(buf), 0, on_done, &results_of[i][w]);
        }
    }
    for (unsigned i = 0; i < IMAGES; i++) {
        for (unsigned w = 0; w < WRITES; w++) {
            LOOP_UNTIL(results_of[i][w].finished);
            ck_assert_int_eq(results_of[i][w].error, 0);
        }
        close_drive(be[i]);
    }
}
END_TEST

/* Compressed clusters share sectors, and their end is the end of the file: direct I/O has to take
 * detours, side by side. */
typedef struct Packing {
    BlockWork work;
    BlockNode *node;
    uint64_t at;
    uint8_t *buf;
    int error;
    unsigned *left; /* atomic */
} Packing;

static void pack_one(BlockWork *work)
{
    Packing *p = (Packing *)work;
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(p->node);
    uint8_t packed[4096];
    size_t n = klass->compress(p->node, p->buf + p->at, 4096, packed, sizeof(packed));

    p->error = n ? klass->write_packed(p->node, p->at, packed, n) : EINVAL;
    __atomic_fetch_sub(p->left, 1, __ATOMIC_RELEASE);
    main_loop_wakeup();
}

START_TEST(compressed_clusters_are_written_side_by_side_past_the_hosts_cache)
{
    enum { CLUSTERS = 300 };
    g_autofree char *path = g_build_filename(folder, "disk.qcow2", NULL);
    g_autofree Packing *all = g_new0(Packing, CLUSTERS);
    BlockOpenOptions o = { .cache = BLOCK_CACHE_NONE, .format = "qcow2" };
    uint8_t *buf = g_malloc(CLUSTERS * 4096), *seen = g_malloc(CLUSTERS * 4096);
    unsigned left = CLUSTERS;
    GError *error = NULL;
    BlockBackend *be;
    BlockNode *node;

    create_image(path, CLUSTERS * 4096, "cluster_size=4k");
    node = block_open(path, &o, &error);
    if (!node && g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED)) {
        g_error_free(error); /* a file system without direct I/O */
        return;
    }
    be = drive_on(node);
    for (unsigned i = 0; i < CLUSTERS * 4096; i++) {
        buf[i] = (uint8_t)(i / (17 + i / 4096 % 50));
    }
    for (unsigned i = 0; i < CLUSTERS; i++) {
        all[i] = (Packing){ { pack_one, NULL }, block_root(be), i * 4096, buf, 0, &left };
        block_work_submit(&all[i].work);
    }
    LOOP_UNTIL(__atomic_load_n(&left, __ATOMIC_ACQUIRE) == 0);
    for (unsigned i = 0; i < CLUSTERS; i++) {
        ck_assert_int_eq(all[i].error, 0);
    }
    ck_assert(block_read_wait(be, 0, seen, CLUSTERS * 4096, NULL));
    same_bytes("packed", 0, seen, buf, CLUSTERS * 4096);
    close_drive(be);
    be = open_drive(path, &o);
    ck_assert(block_read_wait(be, 0, seen, CLUSTERS * 4096, NULL));
    same_bytes("packed", 0, seen, buf, CLUSTERS * 4096);
    close_drive(be);
    check_clean(path);
    g_free(buf);
    g_free(seen);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2");
    TCase *random = tcase_create("random");

    tcase_add_checked_fixture(random, setup, teardown);
    tcase_set_timeout(random, g_getenv("VMLUA_LONG") ? 1200 : 60);
    tcase_add_loop_test(random, random_operations_match_a_model_and_qemu_img, 0,
                        G_N_ELEMENTS(variants));
    tcase_add_test(random, small_caches_do_not_matter);
    tcase_add_test(random, compressed_clusters_are_written_side_by_side_past_the_hosts_cache);
    tcase_add_test(random, images_whose_workers_wait_for_workers_go_on);
    suite_add_tcase(suite, random);
    return run_suite(suite);
}
