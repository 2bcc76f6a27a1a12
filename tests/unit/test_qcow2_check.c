/* Checking and repairing qcow2 images: by the numbers of qemu-img, on images that are right and on
 * images that are damaged everywhere. */
#include "qcow2_rig.h"

#include "run_suite.h"

static unsigned campaign(unsigned few, unsigned many)
{
    return g_getenv("VMLUA_LONG") ? many : few;
}

static bool oracle_missing(void)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    g_autofree char *qemu_io = g_find_program_in_path("qemu-io");

    if (qemu_img && qemu_io) {
        return false;
    }
    printf("ok - comparison with qemu-img # SKIP there is no qemu-img here\n");
    return true;
}

static BlockCheckResult check_path(const char *path, int fix)
{
    GError *error = NULL;
    BlockNode *node = block_node_new("qcow2", NULL), *file = memfile_load(path, 0);
    BlockCheckResult r;

    node->for_check = true;
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    object_unref(file);
    if (!block_node_open(node, &error)) {
        ck_abort_msg("%s", error->message);
    }
    if (!check_node(node, fix, &r, &error)) {
        ck_abort_msg("%s", error->message);
    }
    if (fix) {
        memfile_save(file, path);
    }
    object_unref(node);
    return r;
}

#define SAME(field)                                                                       \
    ck_assert_msg(a->field == b->field, "%s: " #field ": ours %lu, qemu-img's %lu", what, \
                  (unsigned long)a->field, (unsigned long)b->field)

static void assert_same(const char *what, const BlockCheckResult *a, const BlockCheckResult *b)
{
    SAME(check_errors);
    SAME(corruptions);
    SAME(leaks);
    SAME(allocated_clusters);
    SAME(total_clusters);
    SAME(fragmented_clusters);
    SAME(compressed_clusters);
    SAME(image_end_offset);
}

static const char *const kinds[] = {
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=4k,refcount_bits=8,lazy_refcounts=on",
    "cluster_size=2k,refcount_bits=64",
    "cluster_size=16k,extended_l2=on,refcount_bits=32",
    "cluster_size=1k,compat=0.10",
    "cluster_size=8k,compression_type=zstd,refcount_bits=8",
    "cluster_size=64k,preallocation=metadata",
    "cluster_size=512,refcount_bits=2",
};

/* An image with something of everything. */
static char *make_image(unsigned kind, uint32_t seed)
{
    char *path = g_build_filename(folder, "image.qcow2", NULL);
    GRand *rand = g_rand_new_with_seed(seed);
    GString *line = g_string_new("qemu-io -t unsafe -f qcow2");
    bool narrow = strstr(kinds[kind], "refcount_bits=1") || strstr(kinds[kind], "refcount_bits=2");

    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o %s @ 3M", kinds[kind]),
                     0);
    for (unsigned i = 0; i < 12; i++) {
        static const char *const ops[] = { "write",    "write",       "write -c",
                                           "write -z", "write -z -u", "discard" };
        unsigned op = (unsigned)g_rand_int_range(rand, 0, G_N_ELEMENTS(ops));
        unsigned at = (unsigned)g_rand_int_range(rand, 0, 47) * 65536;

        g_string_append_printf(line, " -c '%s %u %u'", ops[op], at,
                               op == 2 ? 65536 : 512 * (unsigned)g_rand_int_range(rand, 1, 200));
    }
    g_string_append(line, " @");
    run_line(NULL, path, "%s", line->str); /* what the kind cannot is refused */
    if (!narrow && seed % 2) {
        run_line(NULL, path, "qemu-img snapshot -c one @");
        run_line(NULL, path, "%s", line->str);
        run_line(NULL, path, "qemu-img snapshot -c two @");
        run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write 1M 300k' -c 'discard 0 256k' @");
    }
    if (seed % 3 == 0 && !strstr(kinds[kind], "0.10")) {
        run_line(NULL, path, "qemu-img bitmap --add -g 512 @ b0");
        run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write 2M 100k' @");
    }
    g_string_free(line, TRUE);
    g_rand_free(rand);
    return path;
}

START_TEST(sound_images_have_the_numbers_of_qemu_img)
{
    g_autofree char *path = NULL;
    BlockCheckResult r;
    Oracle o;

    if (oracle_missing()) {
        return;
    }
    for (uint32_t seed = 0; seed < campaign(1, 12); seed++) {
        g_free(path);
        path = make_image((unsigned)_i, seed * 7 + (uint32_t)_i);
        o = oracle_check(path, "");
        r = check_path(path, 0);
        assert_same(kinds[_i], &r, &o.r);
    }
}
END_TEST

/* Writes something odd over a place that some table is likely to be at. */
static void damage(const char *path, GRand *rand)
{
    g_autofree char *content = NULL;
    gsize len;
    unsigned cluster_bits;
    uint64_t at, word;
    uint8_t *p;

    ck_assert(g_file_get_contents(path, &content, &len, NULL));
    cluster_bits = (uint8_t)content[23];
    for (unsigned tries = 0; tries < 1000; tries++) {
        /* A word that is not 0, of what is not the header. */
        at = (uint64_t)g_rand_int_range(rand, 1 << (cluster_bits - 3), (gint32)(len / 8)) * 8;
        p = (uint8_t *)content + at;
        if (p[0] != 'x' && !(p[0] == 0xcd && p[1] == 0xcd) && memcmp(p, "\0\0\0\0\0\0\0\0", 8)) {
            break;
        }
    }
    memcpy(&word, p, 8);
    word = GUINT64_FROM_BE(word);
    switch (g_rand_int_range(rand, 0, 8)) {
    case 0:
        word ^= UINT64_C(1) << g_rand_int_range(rand, 0, 64);
        break;
    case 1:
        word ^= UINT64_C(1) << 63;
        break;
    case 2:
        word += UINT64_C(1) << cluster_bits;
        break;
    case 3:
        word = 0;
        break;
    case 4:
        word -= UINT64_C(1) << cluster_bits;
        break;
    case 5:
        word ^= UINT64_C(1) << g_rand_int_range(rand, 0, 16);
        break;
    case 6:
        word += 512;
        break;
    default:
        word |= UINT64_C(1) << g_rand_int_range(rand, (gint32)cluster_bits, 40);
    }
    word = GUINT64_TO_BE(word);
    memcpy(p, &word, 8);
    ck_assert(
        g_file_set_contents_full(path, content, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0644, NULL));
}

static bool is_clean(const BlockCheckResult *r)
{
    return !r->corruptions && !r->leaks && !r->check_errors;
}

START_TEST(damaged_images_have_the_numbers_of_qemu_img_and_are_repaired)
{
    GRand *rand = g_rand_new_with_seed((uint32_t)_i + 99);
    unsigned compared = 0;

    if (oracle_missing()) {
        return;
    }
    for (unsigned round = 0; round < campaign(2, 150); round++) {
        g_autofree char *path = make_image((unsigned)_i, g_rand_int(rand));
        g_autofree char *what = NULL;
        BlockCheckResult before, r;
        Oracle o;

        what = g_strdup_printf("%s round %u", kinds[_i], round);
        for (unsigned n = 1 + round % 3; n > 0; n--) {
            damage(path, rand);
        }
        o = oracle_check(path, "");
        if (o.status == 1 || o.status == 63) {
            continue; /* it does not open it */
        }
        before = check_path(path, 0);
        assert_same(what, &before, &o.r);
        compared++;
        check_path(path, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS);
        r = check_path(path, 0);
        o = oracle_check(path, "");
        assert_same(what, &r, &o.r);
        ck_assert_msg(r.corruptions <= before.corruptions, "%s", what);
        ck_assert_msg(is_clean(&r) || before.corruptions, "%s: leaks are left", what);
    }
    ck_assert_uint_gt(compared, 0);
    g_rand_free(rand);
}
END_TEST

/* ---- progress -------------------------------------------------------------------------------- */

typedef struct Steps {
    unsigned n, end_after;
    uint64_t last;
} Steps;

static bool on_step(void *opaque, uint64_t done, uint64_t total)
{
    Steps *s = opaque;

    ck_assert_uint_ge(done, s->last);
    ck_assert_uint_le(done, total);
    s->last = done;
    return ++s->n < s->end_after;
}

START_TEST(a_check_tells_how_far_it_is_and_can_be_ended)
{
    BlockNode *node = block_node_new("qcow2", NULL), *file;
    g_autofree uint8_t *before = NULL;
    g_autofree char *path = NULL;
    Steps steps = { .end_after = UINT_MAX };
    GError *error = NULL;
    BlockCheckResult r;
    uint64_t size;
    bool ok;

    if (oracle_missing()) {
        return;
    }
    path = make_image(1, 5);
    file = memfile_load(path, 0);
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    object_unref(file);
    ck_assert(block_node_open(node, NULL));
    ck_assert(BLOCK_NODE_GET_CLASS(node)->check(node, 0, &r, on_step, NULL, &steps, NULL));
    ck_assert_uint_gt(steps.n, 1);
    size = memfile_size(file);
    before = g_memdup2(memfile_data(file), size);
    steps = (Steps){ .end_after = 1 };
    ok = BLOCK_NODE_GET_CLASS(node)->check(node, BLOCK_FIX_ERRORS, &r, on_step, NULL, &steps,
                                           &error);
    ck_assert(!ok);
    ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    ck_assert_uint_eq(memfile_size(file), size);
    ck_assert_int_eq(memcmp(memfile_data(file), before, size), 0);
    object_unref(node);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-check");
    TCase *tc = tcase_create("check");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 1200);
    tcase_add_loop_test(tc, sound_images_have_the_numbers_of_qemu_img, 0, G_N_ELEMENTS(kinds));
    tcase_add_loop_test(tc, damaged_images_have_the_numbers_of_qemu_img_and_are_repaired, 0,
                        G_N_ELEMENTS(kinds));
    tcase_add_test(tc, a_check_tells_how_far_it_is_and_can_be_ended);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
