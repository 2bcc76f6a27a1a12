/* Changes of a qcow2 image's header: other names, versions, bitmaps. Whenever the power goes, the
 * image is the old one or the new one; and qemu-img sees the same in it. */
#include "engine/block/qcow2_priv.h"
#include "qcow2_rig.h"

#include "run_suite.h"

static bool tools_missing(void)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");

    if (!qemu_img) {
        printf("ok - headers # SKIP there is no qemu-img here\n");
    }
    return !qemu_img;
}

static BlockNode *open_alone(BlockNode *file)
{
    BlockNode *node = block_node_new("qcow2", NULL);
    GError *error = NULL;

    node->no_backing = true;
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    object_unref(file);
    if (!block_node_open(node, &error)) {
        ck_abort_msg("%s", error->message);
    }
    return node;
}

/* What an image says of itself, as one text. */
static void add_fact(void *opaque, const char *key, const char *value)
{
    GString *out = opaque;

    if (strcmp(key, "full-backing-filename") != 0) {
        g_string_append_printf(out, "%s=%s;", key, value);
    }
    g_string_replace(out, "in-use,", "", 0); /* while it is open */
}

static char *facts_of(BlockNode *node)
{
    GString *out = g_string_new(NULL);

    BLOCK_NODE_GET_CLASS(node)->info(node, add_fact, out);
    g_string_append_printf(out, "size=%" G_GUINT64_FORMAT, block_node_length(node));
    return g_string_free(out, FALSE);
}

static GString *findings;

static void add_finding(void *opaque, const char *line)
{
    g_string_append_printf(findings, "%s\n", line);
}

typedef bool (*ChangeFn)(BlockNode *node, const void *opaque, GError **error);

static void assert_old_or_new(const MemPlatter *p, const char *before, const char *after,
                              const char *what, unsigned cut)
{
    BlockNode *file = memfile_new(p->data, p->size, 0), *node;
    g_autofree char *facts = NULL;
    BlockCheckResult r;

    node = block_node_new("qcow2", NULL);
    node->no_backing = node->read_only = true;
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    object_unref(file);
    ck_assert_msg(block_node_open(node, NULL), "%s: cut %u: it does not open", what, cut);
    facts = facts_of(node);
    ck_assert_msg(!strcmp(facts, before) || !strcmp(facts, after), "%s: cut %u: %s\nwas %s\nis %s",
                  what, cut, facts, before, after);
    g_string_truncate(findings, 0);
    ck_assert(BLOCK_NODE_GET_CLASS(node)->check(node, 0, &r, NULL, add_finding, NULL, NULL));
    ck_assert_msg(r.corruptions + r.check_errors == 0, "%s: cut %u: damaged\n%s", what, cut,
                  findings->str);
    object_unref(node);
}

static void apply_to(MemPlatter *p, const GArray *log, unsigned from, unsigned to)
{
    for (; from < to; from++) {
        const MemOp *op = &g_array_index(log, MemOp, from);

        mem_platter_apply(p, op, 0, op->bytes);
    }
}

/* Makes the change, and cuts the power at each point of it. The image becomes the new one. */
static void cut_everywhere(const char *path, ChangeFn change, const void *opaque, const char *what)
{
    BlockNode *file = memfile_load(path, 0), *node;
    GRand *rand = g_rand_new_with_seed(7);
    g_autofree char *before = NULL, *after = NULL;
    GError *error = NULL;
    MemPlatter start;
    const GArray *log;
    unsigned flushed = 0;

    node = open_alone(file);
    mem_platter_init(&start, memfile_data(file), memfile_size(file));
    memfile_record(file, true);
    before = facts_of(node);
    if (!change(node, opaque, &error)) {
        ck_abort_msg("%s: %s", what, error->message);
    }
    after = facts_of(node);
    memfile_record(file, false);
    log = memfile_log(file);
    ck_assert_uint_gt(log->len, 0);
    for (unsigned cut = 0; cut <= log->len; cut++) {
        for (unsigned way = 0; way < 6; way++) {
            MemPlatter p;

            mem_platter_copy(&p, &start);
            mem_platter_cut(&p, log, flushed, cut, rand);
            assert_old_or_new(&p, before, after, what, cut);
            mem_platter_clear(&p);
        }
        if (cut < log->len && g_array_index(log, MemOp, cut).op == BLOCK_OP_FLUSH) {
            apply_to(&start, log, flushed, cut + 1);
            flushed = cut + 1;
        }
    }
    mem_platter_clear(&start);
    ck_assert(block_node_sync_op(node, BLOCK_OP_FLUSH, 0, 0, 0) == 0);
    object_ref(OBJECT(file));
    object_unref(node);
    memfile_save(file, path);
    object_unref(file);
    g_rand_free(rand);
}

/* By itself: the names of backing files are made up. */
static void assert_sound(const char *path)
{
    int status = run_line(NULL, path,
                          "qemu-img check 'json:{\"driver\": \"qcow2\", \"backing\": null, "
                          "\"file\": {\"driver\": \"file\", \"filename\": \"%s\"}}'",
                          path);

    ck_assert_msg(status == 0, "%s", run_stderr);
}

/* ---- names ----------------------------------------------------------------------------------- */

typedef struct Names {
    const char *name, *format;
} Names;

static bool change_names(BlockNode *node, const void *opaque, GError **error)
{
    const Names *n = opaque;

    return BLOCK_NODE_GET_CLASS(node)->change_backing(node, n->name, n->format, error);
}

static const char *const kinds[] = {
    "cluster_size=64k",
    "cluster_size=4k",
    "cluster_size=2M,extended_l2=on",
    "compat=0.10",
    "cluster_size=16k,compression_type=zstd",
};

START_TEST(another_backing_file_is_there_as_a_whole_or_not_at_all)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL), *out = NULL;
    g_autofree char *long_name = g_strnfill(900, 'l'), *other = g_strnfill(400, 'o');
    const Names steps[] = { { "short", "raw" }, { long_name, "qcow2" }, { other, "raw" },
                            { "a", "qcow2" },   { other, NULL },        { long_name, "raw" },
                            { NULL, NULL },     { long_name, "raw" },   { "b", "host_device" } };

    if (tools_missing()) {
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o %s @ 1M", kinds[_i]), 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        g_autofree char *what = g_strdup_printf("%s, step %u", kinds[_i], i);

        cut_everywhere(path, change_names, &steps[i], what);
        ck_assert_int_eq(run_line(&out, path, "qemu-img info -f qcow2 @"), 0);
        if (steps[i].name) {
            ck_assert_ptr_nonnull(strstr(out, steps[i].name));
        } else {
            ck_assert_ptr_null(strstr(out, "backing file"));
        }
        g_clear_pointer(&out, g_free);
        assert_sound(path);
    }
}
END_TEST

/* Extensions of others that fill more than a sector stay, and are moved as safely. */
START_TEST(long_headers_are_changed_as_safely)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL), *content = NULL;
    g_autofree char *long_name = g_strnfill(500, 'l');
    const Names steps[] = { { "short", "raw" }, { long_name, "qcow2" }, { NULL, NULL } };
    gsize len;
    char *p;

    if (tools_missing()) {
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o cluster_size=%s @ 1M",
                              _i ? "2k" : "8k"),
                     0);
    ck_assert(g_file_get_contents(path, &content, &len, NULL));
    for (p = content + 112; memcmp(p, "\0\0\0\0", 4) != 0; p += 8 + (uint8_t)p[7] + 256 * p[6]) {
    }
    memcpy(p, "abcd\0\0\1\0", 8); /* 256 bytes of a type that nobody knows */
    memset(p + 8, 'x', 256);
    memset(p + 264, 0, 8);
    ck_assert(
        g_file_set_contents_full(path, content, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0644, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        cut_everywhere(path, change_names, &steps[i], "long header");
        assert_sound(path);
    }
    g_clear_pointer(&content, g_free);
    ck_assert(g_file_get_contents(path, &content, &len, NULL));
    p = content + 112;
    while (memcmp(p, "abcd", 4) != 0) {
        ck_assert_msg(memcmp(p, "\0\0\0\0", 4) != 0, "the extension is gone");
        p += 8 + ((uint8_t)p[7] + 256 * p[6] + 7) / 8 * 8;
    }
    ck_assert_uint_eq((uint8_t)content[103], 112); /* the header has its length again */
}
END_TEST

/* ---- versions -------------------------------------------------------------------------------- */

static bool change_version(BlockNode *node, const void *opaque, GError **error)
{
    const BlockCreateOption option = { "compat", opaque };

    return BLOCK_NODE_GET_CLASS(node)->amend(node, &option, 1, error);
}

START_TEST(versions_change_both_ways_and_a_cut_leaves_one_of_them)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL), *map = NULL;
    g_autofree char *before = NULL;

    if (tools_missing()) {
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o lazy_refcounts=on @ 1M"),
                     0);
    ck_assert_int_eq(
        run_line(NULL, path,
                 "qemu-io -t unsafe -f qcow2 -c 'write -P 3 0 200k' -c 'write -z 64k 64k' "
                 "-c 'write -z -u 512k 128k' @"),
        0);
    ck_assert_int_eq(run_line(&before, path, "qemu-img map --output=json -f qcow2 @"), 0);
    cut_everywhere(path, change_version, "0.10", "down");
    ck_assert_int_eq(oracle_check(path, "").status, 0);
    ck_assert_int_eq(run_line(&map, path, "qemu-img info -f qcow2 @"), 0);
    ck_assert_ptr_nonnull(strstr(map, "compat: 0.10"));
    ck_assert_int_eq(
        run_line(NULL, path,
                 "qemu-io -f qcow2 -c 'read -P 3 0 64k' -c 'read -P 0 64k 64k' -c 'read "
                 "-P 3 128k 72k' -c 'read -P 0 200k 824k' @"),
        0);
    cut_everywhere(path, change_version, "1.1", "up");
    ck_assert_int_eq(oracle_check(path, "").status, 0);
}
END_TEST

static const struct {
    const char *options, *then, *why;
} forbidden[] = {
    { "extended_l2=on", NULL, "extended L2" },
    { "compression_type=zstd", NULL, "zstd" },
    { "refcount_bits=8", NULL, "16 bits" },
    { "cluster_size=64k", "qemu-img snapshot -c s @", "snapshots" },
    { "cluster_size=64k", "qemu-img bitmap --add @ b", "bitmaps" },
};

START_TEST(what_version_2_cannot_be_is_said)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL), *facts = NULL,
                    *now = NULL;
    GError *error = NULL;
    BlockNode *node;

    if (tools_missing()) {
        return;
    }
    ck_assert_int_eq(
        run_line(NULL, path, "qemu-img create -q -f qcow2 -o %s @ 1M", forbidden[_i].options), 0);
    if (forbidden[_i].then) {
        ck_assert_int_eq(run_line(NULL, path, "%s", forbidden[_i].then), 0);
    }
    node = open_alone(memfile_load(path, 0));
    facts = facts_of(node);
    ck_assert(!change_version(node, "0.10", &error));
    ck_assert_msg(strstr(error->message, forbidden[_i].why), "%s", error->message);
    g_error_free(error);
    now = facts_of(node);
    ck_assert_str_eq(facts, now);
    object_unref(node);
}
END_TEST

/* ---- bitmaps --------------------------------------------------------------------------------- */

static bool edit_bitmap(BlockNode *node, const void *opaque, GError **error)
{
    return BLOCK_NODE_GET_CLASS(node)->bitmap_edit(node, opaque, error);
}

static bool resize_to(BlockNode *node, const void *opaque, GError **error)
{
    return BLOCK_NODE_GET_CLASS(node)->resize(node, *(const uint64_t *)opaque, NULL, error);
}

START_TEST(bitmaps_change_as_a_whole_or_not_at_all)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    static const uint64_t more = 40 * MiB, less = 2 * MiB;
    const BlockBitmapEdit edits[] = {
        { .action = BLOCK_BITMAP_ADD, .name = "one", .granularity = 512 },
        { .action = BLOCK_BITMAP_ADD, .name = "two" },
        { .action = BLOCK_BITMAP_MERGE, .name = "two", .source_name = "old" },
        { .action = BLOCK_BITMAP_DISABLE, .name = "one" },
        { .action = BLOCK_BITMAP_CLEAR, .name = "old" },
        { .action = BLOCK_BITMAP_REMOVE, .name = "old" },
        { .action = BLOCK_BITMAP_ENABLE, .name = "one" },
    };

    if (tools_missing()) {
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o cluster_size=%s @ 3M",
                              _i ? "4k" : "64k"),
                     0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img bitmap --add -g 512 @ old"), 0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write 1M 300k' @"), 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(edits); i++) {
        cut_everywhere(path, edit_bitmap, &edits[i], edits[i].name);
        ck_assert_int_eq(oracle_check(path, "").status, 0);
    }
    cut_everywhere(path, resize_to, &more, "grow");
    ck_assert_int_eq(oracle_check(path, "").status, 0);
    cut_everywhere(path, resize_to, &less, "shrink");
    ck_assert_int_eq(oracle_check(path, "").status, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-header");
    TCase *tc = tcase_create("header");
    int status;

    findings = g_string_new(NULL);

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 600);
    tcase_add_loop_test(tc, another_backing_file_is_there_as_a_whole_or_not_at_all, 0,
                        G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, long_headers_are_changed_as_safely, 0, 2);
    tcase_add_test(tc, versions_change_both_ways_and_a_cut_leaves_one_of_them);
    tcase_add_loop_test(tc, what_version_2_cannot_be_is_said, 0, G_N_ELEMENTS(forbidden));
    tcase_add_loop_test(tc, bitmaps_change_as_a_whole_or_not_at_all, 0, 2);
    suite_add_tcase(suite, tc);
    status = run_suite(suite);
    g_string_free(findings, TRUE);
    return status;
}
