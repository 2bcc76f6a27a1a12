/* The qcow2 driver: what headers may say, what is refused and how, sizes, status, creation. */
#include "engine/block/qcow2_priv.h"
#include "qcow2_disk.h"
#include "run_suite.h"

static char *path;

static void make(const char *options, uint64_t size)
{
    g_free(path);
    path = g_build_filename(folder, "disk.qcow2", NULL);
    create_image(path, size, options);
}

static void patch(uint64_t offset, uint64_t value, unsigned bytes)
{
    uint64_t be = GUINT64_TO_BE(value << (64 - 8 * bytes));
    int fd = open(path, O_RDWR);

    ck_assert_int_eq(pwrite(fd, &be, bytes, (off_t)offset), (ssize_t)bytes);
    close(fd);
}

static uint64_t peek(uint64_t offset, unsigned bytes)
{
    uint64_t be = 0;
    int fd = open(path, O_RDONLY);

    ck_assert_int_eq(pread(fd, &be, bytes, (off_t)offset), (ssize_t)bytes);
    close(fd);
    return GUINT64_FROM_BE(be) >> (64 - 8 * bytes);
}

static void refused(const BlockOpenOptions *o, const char *why)
{
    GError *error = NULL;

    ck_assert_msg(block_open(path, o, &error) == NULL, "taken, though %s", why);
    ck_assert_msg(strstr(error->message, why) != NULL, "'%s' does not say %s", error->message, why);
    g_error_free(error);
}

/* ---- headers --------------------------------------------------------------------------------- */

static const struct {
    unsigned offset, bytes;
    uint64_t value;
    const char *why;
} wrong[] = {
    { 4, 4, 1, "version" },
    { 4, 4, 4, "version" },
    { 20, 4, 8, "clusters of 2^8" },
    { 20, 4, 22, "clusters of 2^22" },
    { 20, 4, UINT32_MAX, "clusters of" },
    { 32, 4, 1, "encrypted (AES)" },
    { 32, 4, 2, "encrypted (LUKS)" },
    { 36, 4, UINT32_MAX, "L1 table" },
    { 36, 4, 0, "too small" },
    { 40, 8, 0x30001, "L1 table" },
    { 40, 8, UINT64_MAX & ~0xffffULL, "L1 table" },
    { 24, 8, UINT64_MAX, "size" },
    { 24, 8, UINT64_C(1) << 60, "too small" },
    { 48, 8, 0x10200, "refcount table" },
    { 56, 4, UINT32_MAX, "refcount table" },
    { 56, 4, 0, "refcount table" },
    { 60, 4, 70000, "snapshots" },
    { 96, 4, 7, "refcounts of 2^7" },
    { 100, 4, 100, "header of 100" },
    { 100, 4, 0x20000, "header of" },
    { 8, 8, 0xffff0, "backing file" },
};

START_TEST(headers_that_cannot_be_are_refused_with_a_reason)
{
    BlockOpenOptions o = { .format = "qcow2" };

    make("", 64 * MiB);
    if (wrong[_i].offset == 8) {
        patch(16, 200, 4);
    }
    patch(wrong[_i].offset, wrong[_i].value, wrong[_i].bytes);
    refused(&o, wrong[_i].why);
}
END_TEST

START_TEST(an_unknown_incompatible_feature_is_refused_by_its_name)
{
    BlockOpenOptions o = { 0 };
    uint64_t table = 104 + 8;

    make("", MiB);
    ck_assert_uint_eq(peek(104, 4), QCOW2_EXT_FEATURES);
    patch(72, UINT64_C(1) << 40, 8);
    refused(&o, "bit 40");
    patch(table + 1, 40, 1);
    patch(table + 2, 0x7175616e74756d00, 8); /* "quantum" */
    refused(&o, "'quantum'");
}
END_TEST

START_TEST(the_corrupt_bit_allows_reading_only)
{
    BlockOpenOptions rw = { 0 }, ro = { .read_only = true };

    make("", MiB);
    patch(72, QCOW2_INCOMPAT_CORRUPT, 8);
    refused(&rw, "corrupt");
    close_drive(open_drive(path, &ro));
}
END_TEST

START_TEST(a_dirty_image_is_repaired_when_it_is_opened)
{
    BlockOpenOptions o = { .cache = BLOCK_CACHE_UNSAFE };
    uint64_t block;
    BlockBackend *be;
    char buf[4096];

    make("lazy_refcounts=on", MiB);
    be = open_drive(path, &o);
    memset(buf, 7, sizeof(buf));
    ck_assert(block_write_wait(be, 0, buf, sizeof(buf), 0, NULL));
    close_drive(be);
    block = peek(0x10000, 8);
    patch(block + 2 * 5, 0, 2); /* the data cluster's refcount was not written */
    patch(72, QCOW2_INCOMPAT_DIRTY, 8);
    be = open_drive(path, &o);
    ck_assert(block_read_wait(be, 0, buf, sizeof(buf), NULL));
    ck_assert_int_eq(buf[17], 7);
    close_drive(be);
    ck_assert_uint_eq(peek(72, 8), 0);
    check_clean(path);
}
END_TEST

START_TEST(autoclear_bits_and_extensions_are_kept_as_they_should_be)
{
    BlockOpenOptions rw = { .cache = BLOCK_CACHE_UNSAFE }, ro = { .read_only = true };
    BlockCreateOption option = { "lazy_refcounts", "on" };
    GError *error = NULL;
    uint64_t end = 104;
    BlockNode *node;

    make("", MiB);
    while (peek(end, 4)) {
        end += 8 + ((peek(end + 4, 4) + 7) & ~7ULL);
    }
    patch(end, 0x12345678, 4); /* an extension that nobody knows */
    patch(end + 4, 5, 4);
    patch(end + 8, 0x68656c6c6f000000, 8);
    patch(88, UINT64_C(1) << 33, 8);
    close_drive(open_drive(path, &ro));
    ck_assert_uint_eq(peek(88, 8), UINT64_C(1) << 33);
    close_drive(open_drive(path, &rw));
    ck_assert_uint_eq(peek(88, 8), 0);
    node = block_open(path, &rw, &error);
    ck_assert_msg(block_image_amend(node, &option, 1, &error), "%s", error ? error->message : "");
    ck_assert(block_image_close(node, &error));
    object_unref(node);
    ck_assert_uint_eq(peek(80, 8), QCOW2_COMPAT_LAZY);
    for (end = 104; peek(end, 4) != 0x12345678; end += 8 + ((peek(end + 4, 4) + 7) & ~7ULL)) {
        ck_assert_uint_ne(peek(end, 4), 0);
    }
    ck_assert_uint_eq(peek(end + 8, 8), 0x68656c6c6f000000);
    check_clean(path);
}
END_TEST

/* ---- damaged tables -------------------------------------------------------------------------- */

static const struct {
    uint64_t entry;
    bool readable;
} damage[] = {
    { 0x10000 | QCOW2_COPIED, true },  /* the refcount table */
    { 0x00000 | QCOW2_COPIED, true },  /* nothing, with a flag */
    { 0x30000 | QCOW2_COPIED, true },  /* the L1 table */
    { 0x50200 | QCOW2_COPIED, false }, /* between clusters */
};

START_TEST(writes_that_would_hit_metadata_are_refused_and_remembered)
{
    BlockOpenOptions o = { .cache = BLOCK_CACHE_UNSAFE };
    uint64_t l2, before = 0;
    BlockBackend *be;
    char buf[4096] = { 1 };
    bool harmless = damage[_i].entry == QCOW2_COPIED;

    make("", MiB);
    be = open_drive(path, &o);
    ck_assert(block_write_wait(be, 0, buf, sizeof(buf), 0, NULL));
    close_drive(be);
    l2 = peek(peek(40, 8), 8) & QCOW2_OFFSET_MASK;
    patch(l2, damage[_i].entry, 8);
    before = peek(0x10000, 8);
    be = open_drive(path, &o);
    ck_assert(block_read_wait(be, 512, buf, 512, NULL) == damage[_i].readable);
    ck_assert(block_write_wait(be, 0, buf, sizeof(buf), 0, NULL) == harmless);
    ck_assert(block_write_wait(be, 512 * KiB, buf, sizeof(buf), 0, NULL) == harmless);
    close_drive(be);
    ck_assert_uint_eq(peek(0x10000, 8), before);
    ck_assert_uint_eq(peek(72, 8), harmless ? 0 : QCOW2_INCOMPAT_CORRUPT);
}
END_TEST

START_TEST(a_refcount_that_is_too_low_does_not_overwrite_a_table)
{
    BlockOpenOptions o = { .cache = BLOCK_CACHE_UNSAFE };
    char buf[4096] = { 1 };
    BlockBackend *be;
    uint64_t l1;

    make("", MiB);
    l1 = peek(40, 8);
    patch(peek(0x10000, 8) + 2 * (l1 >> 16), 0, 2);
    be = open_drive(path, &o);
    ck_assert(!block_write_wait(be, 0, buf, sizeof(buf), 0, NULL));
    close_drive(be);
    ck_assert_uint_eq(peek(l1, 8), 0);
    ck_assert_uint_eq(peek(72, 8), QCOW2_INCOMPAT_CORRUPT);
}
END_TEST

/* ---- chains ---------------------------------------------------------------------------------- */

START_TEST(chains_that_lead_back_or_are_too_long_are_refused)
{
    BlockOpenOptions o = { .depth = BLOCK_MAX_DEPTH - 1 };
    g_autofree char *other = g_build_filename(folder, "other.qcow2", NULL);

    make("backing_file=other.qcow2,backing_fmt=qcow2", MiB);
    create_image(other, MiB, "backing_file=disk.qcow2,backing_fmt=qcow2");
    refused(NULL, "leads back");
    create_image(other, MiB, "backing_file=third.qcow2,backing_fmt=qcow2");
    g_autofree char *third = g_build_filename(folder, "third.qcow2", NULL);
    create_image(third, MiB, "");
    close_drive(open_drive(path, NULL));
    refused(&o, "more than");
    unlink(third);
    refused(NULL, "third.qcow2");
    create_image(path, MiB, "backing_file=disk.qcow2,backing_fmt=qcow2");
    refused(NULL, "leads back");
}
END_TEST

START_TEST(a_backing_file_has_the_format_that_the_image_says)
{
    g_autofree char *below = new_file("below", MiB);
    char buf[512] = "QFI\xfb\0\0\0\3", seen[512];
    BlockBackend *be;
    int fd = open(below, O_WRONLY);

    /* A raw image whose guest made it look like another format. */
    ck_assert_int_eq(pwrite(fd, buf, sizeof(buf), 0), sizeof(buf));
    close(fd);
    make("backing_file=below,backing_fmt=raw", MiB);
    be = open_drive(path, NULL);
    ck_assert(block_read_wait(be, 0, seen, sizeof(seen), NULL));
    ck_assert_int_eq(memcmp(buf, seen, sizeof(buf)), 0);
    close_drive(be);
}
END_TEST

/* ---- sizes ----------------------------------------------------------------------------------- */

static const char *const resizes[] = { "", "cluster_size=512", "extended_l2=on", "compat=0.10",
                                       "refcount_bits=1,cluster_size=4k" };
static const char *const modes[] = { "off", "metadata", "falloc", "full", "off" };

START_TEST(images_grow_and_shrink)
{
    BlockOpenOptions o = { .cache = BLOCK_CACHE_UNSAFE };
    uint64_t sizes[] = { 5 * MiB, 5 * MiB + 512, 700 * KiB, 0, 9 * MiB, 3 * MiB + 1024 }, old = MiB;
    uint8_t *model = g_malloc0(16 * MiB), *seen = g_malloc(16 * MiB);
    GRand *rand = g_rand_new_with_seed(3);

    make(resizes[_i], old);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        GError *error = NULL;
        BlockNode *node = block_open(path, &o, &error);
        uint64_t size = sizes[i], at;

        for (at = 0; at + 3000 < old; at += 300 * KiB) {
            fill_random(rand, model + at, 2560);
            ck_assert(block_image_request(node, BLOCK_OP_WRITE, at, model + at, 2560, 0, NULL));
        }
        ck_assert_msg(block_image_resize(node, size, size > old ? modes[_i] : NULL, &error), "%s",
                      error ? error->message : "");
        ck_assert_uint_eq(block_node_length(node), size);
        if (size < old) {
            memset(model + size, 0, old - size);
        }
        ck_assert(!size || block_image_request(node, BLOCK_OP_READ, 0, seen, size, 0, NULL));
        same_bytes("resized", 0, seen, model, size);
        ck_assert(block_image_close(node, NULL));
        object_unref(node);
        check_clean(path);
        ck_assert_uint_eq(peek(24, 8), size);
        old = size;
    }
    g_rand_free(rand);
    g_free(model);
    g_free(seen);
}
END_TEST

START_TEST(what_a_longer_backing_file_holds_does_not_appear)
{
    g_autofree char *below = new_file("below", 2 * MiB);
    BlockOpenOptions o = { .cache = BLOCK_CACHE_UNSAFE };
    GError *error = NULL;
    BlockNode *node;
    char buf[512];
    int fd = open(below, O_WRONLY);

    memset(buf, 9, sizeof(buf));
    for (unsigned i = 0; i < 4096; i += 64) {
        ck_assert_int_eq(pwrite(fd, buf, 512, i * 512), 512);
    }
    close(fd);
    make("backing_file=below,backing_fmt=raw", MiB);
    node = block_open(path, &o, &error);
    ck_assert(block_image_resize(node, 3 * MiB, NULL, &error));
    ck_assert(block_image_request(node, BLOCK_OP_READ, MiB, buf, 512, 0, NULL));
    ck_assert(block_buf_is_zero(buf, 512));
    ck_assert(block_image_request(node, BLOCK_OP_READ, 0, buf, 512, 0, NULL));
    ck_assert_int_eq(buf[0], 9);
    ck_assert(block_image_make_empty(node, &error));
    ck_assert(block_image_close(node, NULL));
    object_unref(node);
    check_clean(path);
}
END_TEST

/* ---- status ---------------------------------------------------------------------------------- */

static void status_is(BlockBackend *be, uint64_t at, uint64_t bytes, unsigned flags, unsigned depth)
{
    BlockStatus st;

    ck_assert(block_status_wait(be, at, block_length(be) - at, &st, NULL));
    ck_assert_uint_eq(st.bytes, bytes);
    ck_assert_uint_eq(st.flags, flags);
    ck_assert_uint_eq(st.depth, depth);
}

START_TEST(status_says_what_is_where)
{
    BlockOpenOptions o = { .cache = BLOCK_CACHE_UNSAFE, .discard = true };
    g_autofree char *below = g_build_filename(folder, "below.qcow2", NULL);
    char *buf = g_malloc0(256 * KiB);
    BlockNodeClass *klass;
    BlockBackend *be;
    size_t n;

    create_image(below, MiB, "");
    be = open_drive(below, &o);
    memset(buf, 3, 256 * KiB);
    ck_assert(block_write_wait(be, 256 * KiB, buf, 256 * KiB, 0, NULL));
    close_drive(be);
    make("backing_file=below.qcow2,backing_fmt=qcow2", 2 * MiB);
    be = open_drive(path, &o);
    klass = BLOCK_NODE_GET_CLASS(block_root(be));
    ck_assert(block_write_wait(be, 0, buf, 128 * KiB, 0, NULL));
    ck_assert(block_zero_wait(be, 320 * KiB, 64 * KiB, BLOCK_MAY_UNMAP, NULL));
    n = klass->compress(block_root(be), buf, 64 * KiB, buf + 64 * KiB, 64 * KiB);
    ck_assert_uint_gt(n, 0);
    ck_assert_int_eq(klass->write_packed(block_root(be), MiB + 64 * KiB, buf + 64 * KiB, n), 0);
    for (unsigned again = 0; again < 2; again++) {
        status_is(be, 0, 128 * KiB, BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED, 0);
        status_is(be, 128 * KiB, 128 * KiB, BLOCK_STATUS_ZERO, 1);
        status_is(be, 256 * KiB, 64 * KiB, BLOCK_STATUS_DATA, 1);
        status_is(be, 320 * KiB, 64 * KiB, BLOCK_STATUS_ZERO | BLOCK_STATUS_ALLOCATED, 0);
        status_is(be, MiB, 64 * KiB, BLOCK_STATUS_ZERO, 0);
        status_is(be, MiB + 64 * KiB, 64 * KiB,
                  BLOCK_STATUS_DATA | BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_COMPRESSED, 0);
        close_drive(be);
        be = open_drive(path, &o);
    }
    close_drive(be);
    g_free(buf);
}
END_TEST

/* ---- creation -------------------------------------------------------------------------------- */

static const char *const bad_options[][2] = {
    { "cluster_size=700", "cluster_size" },
    { "cluster_size=4M", "cluster_size" },
    { "cluster_siz=4k", "cluster_size" },
    { "refcount_bits=3", "refcount_bits" },
    { "refcount_bits=128", "refcount_bits" },
    { "compat=0.10,refcount_bits=8", "compat" },
    { "compat=2.0", "1.1" },
    { "compat=0.10,extended_l2=on", "extended_l2" },
    { "extended_l2=on,cluster_size=4k", "16K" },
    { "preallocation=some", "preallocation" },
    { "compression_type=lzma", "zstd" },
    { "encryption=on", "encrypted" },
    { "encrypt.format=luks", "encrypted" },
    { "backing_file=x", "backing_fmt" },
    { "data_file_raw=on", "data_file" },
    { "lazy_refcounts=maybe", "maybe" },
    { "size=100", "512" },
    { "size=8E", "reach" },
    { "cluster_size=512,size=1T", "reach" },
};

START_TEST(options_that_cannot_be_are_refused_with_a_reason)
{
    g_auto(GStrv) parts = g_strsplit(bad_options[_i][0], ",", -1);
    BlockCreateOption options[8] = { { "size", "1M" } };
    GError *error = NULL;
    unsigned n = 1;

    for (unsigned i = 0; parts[i]; i++) {
        char *eq = strchr(parts[i], '=');

        *eq = '\0';
        options[n++] = (BlockCreateOption){ parts[i], eq + 1 };
    }
    g_autofree char *name = g_build_filename(folder, "new", NULL);
    ck_assert(!block_image_create("qcow2", name, options, n, &error));
    ck_assert_msg(strstr(error->message, bad_options[_i][1]) != NULL, "%s", error->message);
    g_error_free(error);
    ck_assert(!g_file_test(name, G_FILE_TEST_EXISTS));
}
END_TEST

START_TEST(the_l2_cache_keeps_to_its_bound)
{
    GError *error = NULL;
    BlockNode *file = block_node_new("file", &error), *node = block_node_new("qcow2", &error);

    make("", 256 * GiB);
    ck_assert(object_property_set_str(OBJECT(file), "filename", path, &error));
    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), &error));
    ck_assert(object_property_parse(OBJECT(node), "l2-cache-size", "256K", &error));
    object_unref(file);
    BlockBackend *be = drive_on(node);
    ck_assert_uint_eq((uint64_t)QCOW2(block_root(be))->l2.n * QCOW2(block_root(be))->l2.bytes,
                      256 * KiB);
    close_drive(be);
    be = open_drive(path, NULL);
    ck_assert_uint_ge((uint64_t)QCOW2(block_root(be))->l2.n * QCOW2(block_root(be))->l2.bytes,
                      MiB); /* 8 GiB */
    close_drive(be);
}
END_TEST

static void format_teardown(void)
{
    g_clear_pointer(&path, g_free);
    teardown();
}

int main(void)
{
    Suite *suite = suite_create("qcow2-format");
    TCase *t = tcase_create("format");

    tcase_add_checked_fixture(t, setup, format_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, headers_that_cannot_be_are_refused_with_a_reason, 0,
                        G_N_ELEMENTS(wrong));
    tcase_add_test(t, an_unknown_incompatible_feature_is_refused_by_its_name);
    tcase_add_test(t, the_corrupt_bit_allows_reading_only);
    tcase_add_test(t, a_dirty_image_is_repaired_when_it_is_opened);
    tcase_add_test(t, autoclear_bits_and_extensions_are_kept_as_they_should_be);
    tcase_add_loop_test(t, writes_that_would_hit_metadata_are_refused_and_remembered, 0,
                        G_N_ELEMENTS(damage));
    tcase_add_test(t, a_refcount_that_is_too_low_does_not_overwrite_a_table);
    tcase_add_test(t, chains_that_lead_back_or_are_too_long_are_refused);
    tcase_add_test(t, a_backing_file_has_the_format_that_the_image_says);
    tcase_add_loop_test(t, images_grow_and_shrink, 0, G_N_ELEMENTS(resizes));
    tcase_add_test(t, what_a_longer_backing_file_holds_does_not_appear);
    tcase_add_test(t, status_says_what_is_where);
    tcase_add_loop_test(t, options_that_cannot_be_are_refused_with_a_reason, 0,
                        G_N_ELEMENTS(bad_options));
    tcase_add_test(t, the_l2_cache_keeps_to_its_bound);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
