/* qcow2 images after power cuts: free of corruption, and with all that was flushed. */
#include "powercut.h"

#include "run_suite.h"

typedef struct Kind {
    const char *options;
    unsigned cluster;
    bool snapshots, compressed;
} Kind;

static const Kind kinds[] = {
    { "cluster_size=512", 512, true, false },
    { "cluster_size=4k,refcount_bits=1", 4096, false, false },
    { "cluster_size=4k,lazy_refcounts=on", 4096, true, false },
    { "cluster_size=16k,extended_l2=on", 16384, true, true },
    { "cluster_size=64k", 65536, true, true },
    { "cluster_size=1k,refcount_bits=64", 1024, true, true },
    { "cluster_size=2k,compat=0.10", 2048, true, true },
    { "cluster_size=512,refcount_bits=2,compression_type=zstd", 512, false, true },
};

static PowerRun make_run(unsigned i, uint32_t seed)
{
    PowerRun run = { .folder = folder,
                     .format = "qcow2",
                     .snapshots = kinds[i].snapshots,
                     .compressed = kinds[i].compressed,
                     .cluster = kinds[i].cluster,
                     .discards = true,
                     .size = 256 * KiB,
                     .seed = seed,
                     .steps = 20 };

    return run;
}

START_TEST(what_was_flushed_is_there_after_a_cut_at_any_point)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    bool all = g_getenv("VMLUA_LONG");
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");

    if (!qemu_img) {
        printf("ok - power cuts # SKIP there is no qemu-img here\n");
        return;
    }
    for (uint32_t seed = 0; seed < (all ? 40 : 1); seed++) {
        PowerRun run = make_run((unsigned)_i, seed * 16 + (uint32_t)_i);

        ck_assert_int_eq(
            run_line(NULL, path, "qemu-img create -q -f qcow2 -o %s @ 256k", kinds[_i].options), 0);
        power_run(&run, path, all ? 6 : 2, all ? 61 : 97);
        ck_assert_uint_gt(run.cuts, 20);
    }
}
END_TEST

/* Clusters and refcounts of which a small file needs many: its refcount table becomes too small. */
START_TEST(a_refcount_table_that_grows_survives_a_cut)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    bool all = g_getenv("VMLUA_LONG");
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");

    if (!qemu_img) {
        printf("ok - a growing refcount table # SKIP there is no qemu-img here\n");
        return;
    }
    ck_assert_int_eq(
        run_line(NULL, path,
                 "qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64 @ 3M"),
        0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write 1M 1940k' @"), 0);
    for (uint32_t seed = 0; seed < (all ? 12 : 1); seed++) {
        PowerRun run = make_run(0, seed + 1000);

        run.snapshots = seed % 2;
        run.steps = 8;
        power_run(&run, path, all ? 4 : 1, all ? 61 : 29);
        ck_assert_uint_gt(run.grown, 2 * MiB);
    }
}
END_TEST

/* ---- repairs ----------------------------------------------------------------------------------
 */

static void zero_cluster(char *content, unsigned cluster, unsigned from)
{
    memset(content + cluster * 4096 + from, 0, 4096 - from);
}

/* Refcounts lost, or some of them, or the table's entry. */
static void break_refcounts(const char *path, int how)
{
    g_autofree char *content = NULL;
    gsize len;

    ck_assert(g_file_get_contents(path, &content, &len, NULL));
    if (how == 0) { /* the block: all of it has to be made anew */
        zero_cluster(content, 2, 0);
    } else if (how == 1) { /* the table */
        zero_cluster(content, 1, 0);
    } else { /* counts that are too high and too low, of clusters that are counted */
        content[2 * 4096 + 2 * 6 + 1] = 5;
        content[2 * 4096 + 2 * 7 + 1] = 9;
        content[2 * 4096 + 2 * 100 + 1] = 1;
    }
    ck_assert(
        g_file_set_contents_full(path, content, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0644, NULL));
}

static BlockNode *open_damaged(const MemPlatter *p)
{
    GError *error = NULL;
    BlockNode *node = block_node_new("qcow2", NULL), *file = memfile_new(p->data, p->size, 0);

    node->for_check = true;
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    object_unref(file);
    if (!block_node_open(node, &error)) {
        ck_abort_msg("%s", error->message);
    }
    return node;
}

static void assert_repairs(const MemPlatter *p, const uint8_t *content)
{
    g_autofree uint8_t *buf = g_malloc(MiB);
    BlockNode *node = open_damaged(p);
    BlockCheckResult r;

    ck_assert(check_node(node, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS, &r, NULL));
    ck_assert_uint_eq(r.corruptions + r.leaks + r.check_errors, 0);
    ck_assert_int_eq(block_node_pread(node, 0, buf, MiB), 0);
    ck_assert_int_eq(memcmp(buf, content, MiB), 0);
    object_unref(node);
}

START_TEST(a_repair_that_is_cut_can_be_done_again)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    g_autofree uint8_t *content = g_malloc0(MiB);
    GRand *rand = g_rand_new_with_seed((uint32_t)_i);
    MemPlatter start, p;
    BlockNode *node, *file;
    const GArray *log;
    BlockCheckResult r;

    if (!qemu_img) {
        printf("ok - repairs that are cut # SKIP there is no qemu-img here\n");
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o cluster_size=4k @ 1M"),
                     0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write -P 17 64k 700k' @"),
                     0);
    memset(content + 64 * KiB, 17, 700 * KiB);
    break_refcounts(path, _i);
    file = memfile_load(path, 0);
    mem_platter_init(&start, memfile_data(file), memfile_size(file));
    object_unref(file);
    node = open_damaged(&start);
    file = block_node_file(node);
    memfile_record(file, true);
    ck_assert(check_node(node, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS, &r, NULL));
    ck_assert_uint_eq(r.corruptions + r.leaks + r.check_errors, 0);
    ck_assert_uint_gt(r.corruptions_fixed + r.leaks_fixed, 0);
    memfile_record(file, false);
    log = memfile_log(file);
    ck_assert_uint_gt(log->len, 1);
    for (unsigned cut = 0, flushed = 0; cut <= log->len; cut++) {
        for (unsigned way = 0; way < 4; way++) {
            mem_platter_copy(&p, &start);
            mem_platter_cut(&p, log, flushed, cut, rand);
            assert_repairs(&p, content);
            mem_platter_clear(&p);
        }
        if (cut < log->len && g_array_index(log, MemOp, cut).op == BLOCK_OP_FLUSH) {
            for (; flushed <= cut; flushed++) {
                const MemOp *op = &g_array_index(log, MemOp, flushed);

                mem_platter_apply(&start, op, 0, op->bytes);
            }
        }
    }
    mem_platter_clear(&start);
    object_unref(node);
    g_rand_free(rand);
}
END_TEST

START_TEST(a_plain_file_keeps_what_was_flushed)
{
    PowerRun run = { .folder = folder, .format = "raw", .size = 128 * KiB, .seed = 5, .steps = 40 };

    power_run(&run, NULL, 3, 0);
    ck_assert_uint_gt(run.cuts, 100);
}
END_TEST

START_TEST(a_disk_whose_flushes_do_nothing_is_found_out)
{
    PowerRun run = {
        .format = "raw", .size = 128 * KiB, .seed = 6, .steps = 40, .drop_flushes = true
    };

    power_run(&run, NULL, 3, 0);
    ck_assert_uint_gt(run.lost, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-power");
    TCase *tc = tcase_create("power");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 3600);
    tcase_add_test(tc, a_plain_file_keeps_what_was_flushed);
    tcase_add_test(tc, a_disk_whose_flushes_do_nothing_is_found_out);
    tcase_add_loop_test(tc, what_was_flushed_is_there_after_a_cut_at_any_point, 0,
                        G_N_ELEMENTS(kinds));
    tcase_add_test(tc, a_refcount_table_that_grows_survives_a_cut);
    tcase_add_loop_test(tc, a_repair_that_is_cut_can_be_done_again, 0, 3);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
