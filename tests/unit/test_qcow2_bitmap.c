/* Persistent bitmaps of qcow2 images: what this driver writes is in them as if QEMU had written it.
 */
#include "qcow2_rig.h"

#include "run_suite.h"

#define DISK (3 * MiB)

static uint64_t be(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++) {
        v = v << 8 | p[i];
    }
    return v;
}

typedef struct Bits {
    uint32_t flags;
    unsigned granularity;
    GByteArray *bytes;
} Bits;

static const uint8_t *find_extension(const uint8_t *image)
{
    const uint8_t *at = image + be(image + 100, 4);

    while (be(at, 4) != 0) {
        if (be(at, 4) == 0x23852875) {
            return at + 8;
        }
        at += 8 + (be(at + 4, 4) + 7) / 8 * 8;
    }
    return NULL;
}

/* The bitmap of that name as it lies in the file. */
static Bits read_bits(const char *path, const char *name)
{
    g_autofree char *content = NULL;
    Bits b = { .bytes = g_byte_array_new() };
    const uint8_t *image, *ext, *entry;
    uint64_t cluster;
    gsize len;

    ck_assert(g_file_get_contents(path, &content, &len, NULL));
    image = (const uint8_t *)content;
    ck_assert_uint_eq(be(image + 88, 8) & 1, 1);
    cluster = UINT64_C(1) << be(image + 20, 4);
    ext = find_extension(image);
    ck_assert_ptr_nonnull(ext);
    entry = image + be(ext + 16, 8);
    for (uint64_t i = be(ext, 4);; i--) {
        ck_assert_uint_gt(i, 0);
        if (be(entry + 18, 2) == strlen(name) && !memcmp(entry + 24, name, strlen(name))) {
            break;
        }
        entry += (24 + be(entry + 18, 2) + 7) / 8 * 8;
    }
    b.flags = (uint32_t)be(entry + 12, 4);
    b.granularity = entry[17];
    for (uint64_t i = 0; i < be(entry + 8, 4); i++) {
        uint64_t at = be(image + be(entry, 8) + i * 8, 8);
        guint from = b.bytes->len;

        g_byte_array_set_size(b.bytes, from + (guint)cluster);
        memset(b.bytes->data + from, at == 1 ? 0xff : 0, cluster);
        if (at > 1) {
            memcpy(b.bytes->data + from, image + at, MIN(cluster, len - at));
        }
    }
    /* Bits beyond the end of the disk are not there. */
    g_byte_array_set_size(b.bytes, (guint)(((DISK >> b.granularity) + 7) / 8));
    return b;
}

static void assert_same_bits(const char *a, const char *b, const char *name)
{
    Bits x = read_bits(a, name), y = read_bits(b, name);

    ck_assert_uint_eq(x.flags, y.flags);
    ck_assert_uint_eq(x.bytes->len, y.bytes->len);
    for (guint i = 0; i < x.bytes->len; i++) {
        if (x.bytes->data[i] != y.bytes->data[i]) {
            ck_abort_msg("%s: byte %u is %#x, not %#x", name, i, x.bytes->data[i],
                         y.bytes->data[i]);
        }
    }
    g_byte_array_free(x.bytes, TRUE);
    g_byte_array_free(y.bytes, TRUE);
}

static BlockBackend *open_image(const char *path)
{
    BlockOpenOptions o = { .format = "qcow2", .discard = true };

    return open_drive(path, &o);
}

static const char *const kinds[] = { "cluster_size=64k", "cluster_size=512", "cluster_size=4k" };

static bool make_images(unsigned kind, char **ours, char **theirs)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    g_autofree char *content = NULL;
    gsize len;

    if (!qemu_img) {
        printf("ok - bitmaps # SKIP there is no qemu-img here\n");
        return false;
    }
    *ours = g_build_filename(folder, "ours.qcow2", NULL);
    *theirs = g_build_filename(folder, "theirs.qcow2", NULL);
    ck_assert_int_eq(run_line(NULL, *ours, "qemu-img create -q -f qcow2 -o %s @ 3M", kinds[kind]),
                     0);
    ck_assert_int_eq(run_line(NULL, *ours, "qemu-img bitmap --add -g 512 @ fine"), 0);
    ck_assert_int_eq(run_line(NULL, *ours, "qemu-img bitmap --add -g 64k @ coarse"), 0);
    ck_assert_int_eq(run_line(NULL, *ours, "qemu-img bitmap --add -g 512 @ off"), 0);
    ck_assert_int_eq(run_line(NULL, *ours, "qemu-io -t unsafe -f qcow2 -c 'write 100k 20k' @"), 0);
    ck_assert_int_eq(run_line(NULL, *ours, "qemu-img bitmap --disable @ off"), 0);
    ck_assert(g_file_get_contents(*ours, &content, &len, NULL));
    ck_assert(g_file_set_contents_full(*theirs, content, (gssize)len, G_FILE_SET_CONTENTS_NONE,
                                       0644, NULL));
    return true;
}

START_TEST(what_is_written_is_in_the_bitmaps)
{
    g_autofree char *ours = NULL, *theirs = NULL;
    GString *line = g_string_new("qemu-io -t unsafe -d unmap -f qcow2");
    g_autofree uint8_t *buf = g_malloc0(200 * KiB);
    GRand *rand = g_rand_new_with_seed((uint32_t)_i + 3);
    BlockBackend *drive;

    if (!make_images((unsigned)_i, &ours, &theirs)) {
        return;
    }
    drive = open_image(ours);
    for (unsigned i = 0; i < 20; i++) {
        unsigned n = 512 * (unsigned)g_rand_int_range(rand, 1, 400);
        unsigned at = 512 * (unsigned)g_rand_int_range(rand, 0, (gint32)(DISK - n) / 512);

        if (i % 3) {
            ck_assert(block_write_wait(drive, at, buf, n, 0, NULL));
            g_string_append_printf(line, " -c 'write -P 0 %u %u'", at, n);
        } else {
            ck_assert(block_zero_wait(drive, at, n, 0, NULL));
            g_string_append_printf(line, " -c 'write -z %u %u'", at, n);
        }
    }
    /* In use while it is. */
    {
        Bits b = read_bits(ours, "fine");

        ck_assert_uint_eq(b.flags, 3);
        g_byte_array_free(b.bytes, TRUE);
    }
    close_drive(drive);
    g_string_append(line, " @");
    ck_assert_int_eq(run_line(NULL, theirs, "%s", line->str), 0);
    assert_same_bits(ours, theirs, "fine");
    assert_same_bits(ours, theirs, "coarse");
    assert_same_bits(ours, theirs, "off");
    ck_assert_int_eq(oracle_check(ours, "").status, 0);
    g_string_free(line, TRUE);
    g_rand_free(rand);
}
END_TEST

START_TEST(reading_changes_no_bitmap)
{
    g_autofree char *ours = NULL, *theirs = NULL;
    uint8_t buf[4096];
    BlockBackend *drive;

    if (!make_images(0, &ours, &theirs)) {
        return;
    }
    drive = open_image(ours);
    ck_assert(block_read_wait(drive, 0, buf, sizeof(buf), NULL));
    close_drive(drive);
    assert_same_bits(ours, theirs, "fine");
    assert_same_bits(ours, theirs, "coarse");
    assert_same_bits(ours, theirs, "off");
}
END_TEST

START_TEST(a_damaged_directory_is_given_up)
{
    g_autofree char *ours = NULL, *theirs = NULL, *content = NULL;
    const uint8_t *ext;
    BlockBackend *drive;
    gsize len;

    if (!make_images(0, &ours, &theirs)) {
        return;
    }
    ck_assert(g_file_get_contents(ours, &content, &len, NULL));
    ext = find_extension((const uint8_t *)content);
    content[be(ext + 16, 8) + 18] = 0x7f; /* a name of 32 KiB */
    ck_assert(
        g_file_set_contents_full(ours, content, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0644, NULL));
    drive = open_image(ours);
    ck_assert(block_write_wait(drive, 0, "x", 1, 0, NULL));
    close_drive(drive);
    g_free(content);
    ck_assert(g_file_get_contents(ours, &content, &len, NULL));
    ck_assert_uint_eq(be((const uint8_t *)content + 88, 8) & 1, 0);
    ck_assert_int_ne(oracle_check(ours, "").status, 2); /* leaks, no corruption */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-bitmap");
    TCase *tc = tcase_create("bitmap");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, what_is_written_is_in_the_bitmaps, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, reading_changes_no_bitmap);
    tcase_add_test(tc, a_damaged_directory_is_given_up);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
