/* The block layer: files in every cache mode and engine, raw, null, RAM; barriers, limits,
 * policies, media, locks. */
#include <signal.h>
#include <sys/resource.h>

#include "block_rig.h"

/* ---- files ----------------------------------------------------------------------------------- */

typedef struct Mode {
    BlockCacheMode cache;
    BlockAioEngine aio;
    uint32_t unit;
} Mode;
static const Mode modes[] = {
    { BLOCK_CACHE_WRITEBACK, BLOCK_AIO_AUTO, 512 },
    { BLOCK_CACHE_WRITEBACK, BLOCK_AIO_THREADS, 1 },
    { BLOCK_CACHE_NONE, BLOCK_AIO_AUTO, 512 },
    { BLOCK_CACHE_NONE, BLOCK_AIO_THREADS, 4096 },
    { BLOCK_CACHE_NONE, BLOCK_AIO_AUTO, 1 },
    { BLOCK_CACHE_NONE, BLOCK_AIO_NATIVE, 512 },
    { BLOCK_CACHE_NONE, BLOCK_AIO_IO_URING, 512 },
    { BLOCK_CACHE_DIRECTSYNC, BLOCK_AIO_NATIVE, 1 },
    { BLOCK_CACHE_WRITEBACK, BLOCK_AIO_NATIVE, 4096 },
    { BLOCK_CACHE_WRITEBACK, BLOCK_AIO_AUTO, 4096 },
    { BLOCK_CACHE_WRITETHROUGH, BLOCK_AIO_AUTO, 512 },
    { BLOCK_CACHE_DIRECTSYNC, BLOCK_AIO_THREADS, 512 },
    { BLOCK_CACHE_UNSAFE, BLOCK_AIO_AUTO, 512 },
};

START_TEST(random_operations_on_a_file_match_a_model)
{
    const Mode *mode = &modes[_i];
    g_autofree char *path = new_file("disk", 4 * MiB + 512);
    BlockOpenOptions o = {
        .cache = mode->cache, .aio = mode->aio, .format = "raw", .discard = true
    };
    GError *error = NULL;
    BlockNode *node = block_open(path, &o, &error);

    if (!node && g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED)) {
        g_error_free(error); /* a file system without direct I/O */
        return;
    }
    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    BlockBackend *be = drive_on(node);
    model_run(be, mode->unit, 60, true, (uint32_t)_i + 1);
    close_drive(be);
}
END_TEST

/* Where the file system can say that it need not wait. */
static bool reads_at_once(const char *path)
{
    char byte;
    struct iovec iov = { &byte, 1 };
    int fd = open(path, O_RDONLY);
    bool yes = preadv2(fd, &iov, 1, 0, RWF_NOWAIT) == 1;

    close(fd);
    return yes;
}

START_TEST(what_the_host_has_in_its_cache_is_read_at_once)
{
    g_autofree char *path = new_file("disk", MiB);
    BlockBackend *be = open_drive(path, &(BlockOpenOptions){ .format = "raw" });
    BlockBackend *past = open_drive(
        path, &(BlockOpenOptions){
                  .format = "raw", .read_only = true, .no_lock = true, .cache = BLOCK_CACHE_NONE });
    char buf[8192], out[8192];
    BlockStats st;

    memset(buf, 0x5a, sizeof(buf));
    ck_assert(block_write_wait(be, 4096, buf, sizeof(buf), 0, NULL));
    ck_assert(!block_read_now(past, 4096, out, sizeof(out)));
    if (reads_at_once(path)) {
        ck_assert(block_read_now(be, 4096, out, sizeof(out)));
        ck_assert_mem_eq(out, buf, sizeof(buf));
        block_get_stats(be, BLOCK_OP_READ, &st);
        ck_assert_uint_eq(st.count, 1);
        ck_assert_uint_eq(st.bytes, sizeof(buf));
    }
    ck_assert(!block_read_now(be, MiB - 4096, out, sizeof(out)));
    ck_assert(!block_read_now(be, MiB + 4096, out, 512));
    block_quiesce_begin(be);
    ck_assert(!block_read_now(be, 4096, out, sizeof(out)));
    block_quiesce_end(be);
    close_drive(past);
    close_drive(be);
}
END_TEST

START_TEST(zeroes_are_detected)
{
    g_autofree char *path = new_file("disk", MiB);
    BlockOpenOptions o = { .format = "raw",
                           .discard = true,
                           .detect_zeroes = BLOCK_DETECT_ZEROES_UNMAP };
    BlockBackend *be = open_drive(path, &o);
    char *buf = g_malloc0(MiB);
    BlockStatus st;

    memset(buf, 1, MiB);
    ck_assert(block_write_wait(be, 0, buf, MiB, 0, NULL));
    memset(buf, 0, MiB);
    ck_assert(block_write_wait(be, 0, buf, 512 * KiB, 0, NULL));
    ck_assert(block_status_wait(be, 0, MiB, &st, NULL));
    ck_assert(st.flags & BLOCK_STATUS_ZERO);
    ck_assert_uint_eq(st.bytes, 512 * KiB);
    ck_assert(block_status_wait(be, 512 * KiB, 512 * KiB, &st, NULL));
    ck_assert(st.flags & BLOCK_STATUS_DATA);
    g_free(buf);
    close_drive(be);
}
END_TEST

START_TEST(a_file_that_is_written_is_refused_to_a_second_writer)
{
    g_autofree char *path = new_file("disk", MiB);
    BlockOpenOptions o = { .format = "raw" }, ro = { .format = "raw", .read_only = true };
    BlockOpenOptions unlocked = { .format = "raw", .no_lock = true };
    BlockBackend *be = open_drive(path, &o), *second;
    GError *error = NULL;

    ck_assert_ptr_null(block_open(path, &o, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "in use"));
    g_clear_error(&error);
    ck_assert_ptr_null(block_open(path, &ro, &error));
    g_clear_error(&error);
    second = open_drive(path, &unlocked);
    close_drive(second);
    close_drive(be);
    /* Readers do not disturb each other, but keep writers out. */
    be = open_drive(path, &ro);
    second = open_drive(path, &ro);
    ck_assert_ptr_null(block_open(path, &o, &error));
    g_clear_error(&error);
    close_drive(second);
    close_drive(be);
    be = open_drive(path, &o);
    close_drive(be);
}
END_TEST

START_TEST(names_that_cannot_be_opened_are_refused_with_a_reason)
{
    static const char *const names[] = { "/nonexistent/disk", "/dev/null", "/", "ram:0", "null:x" };
    static const char *const reasons[] = { "No such file", "character device", "irectory", "ram",
                                           "x" };
    GError *error = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        ck_assert_ptr_null(block_open(names[i], NULL, &error));
        ck_assert_msg(strstr(error->message, reasons[i]) != NULL, "%s", error->message);
        g_clear_error(&error);
    }
    ck_assert_ptr_null(block_node_new("qcow9", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "qcow9"));
    g_clear_error(&error);
    BlockOpenOptions o = { .format = "file" };
    g_autofree char *path = new_file("disk", 512);
    ck_assert_ptr_null(block_open(path, &o, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "no image format"));
    g_clear_error(&error);
}
END_TEST

START_TEST(a_full_file_system_is_an_error_of_the_request)
{
    g_autofree char *path = new_file("disk", 0);
    GError *error = NULL;
    BlockNode *node = block_node_new("file", &error);
    struct rlimit limit, before;
    char *buf = g_malloc0(MiB);

    /* A limit on the file's size stands for a full disk: EFBIG instead of ENOSPC. */
    ck_assert(object_property_set_str(OBJECT(node), "filename", path, &error));
    ck_assert(block_node_open(node, &error));
    object_unref(node);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 64 * KiB;
    setrlimit(RLIMIT_FSIZE, &limit);
    BlockOpenOptions o = { .format = "raw" };
    g_autofree char *big = g_build_filename(folder, "big", NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    close(open(big, O_CREAT | O_RDWR, 0644));
    ck_assert_int_eq(truncate(big, 1024 * 1024), 0);
    BlockBackend *be = open_drive(big, &o);
    setrlimit(RLIMIT_FSIZE, &limit);
    ck_assert(!block_write_wait(be, 0, buf, MiB, 0, &error));
    ck_assert_ptr_nonnull(error);
    g_clear_error(&error);
    setrlimit(RLIMIT_FSIZE, &before);
    ck_assert(block_write_wait(be, 0, buf, MiB, 0, NULL));
    BlockStats stats;
    block_get_stats(be, BLOCK_OP_WRITE, &stats);
    ck_assert_uint_eq(stats.errors, 1);
    ck_assert_uint_eq(stats.count, 1);
    ck_assert_uint_eq(stats.bytes, MiB);
    g_free(buf);
    close_drive(be);
}
END_TEST

/* ---- raw, null, RAM ---------------------------------------------------------------------------
 */

START_TEST(a_raw_node_shows_a_part_of_a_file)
{
    g_autofree char *path = new_file("disk", 64 * KiB);
    GError *error = NULL;
    BlockNode *file = block_node_new("file", &error), *raw = block_node_new("raw", &error);
    uint8_t buf[512];
    BlockBackend *be;
    int fd;

    ck_assert(object_property_set_str(OBJECT(file), "filename", path, &error));
    ck_assert(object_property_set_link(OBJECT(raw), "file", OBJECT(file), &error));
    ck_assert(object_property_parse(OBJECT(raw), "offset", "4K", &error));
    ck_assert(object_property_parse(OBJECT(raw), "size", "8K", &error));
    object_unref(file);
    be = drive_on(raw);
    ck_assert_uint_eq(block_length(be), 8 * KiB);
    memset(buf, 0x5a, sizeof(buf));
    ck_assert(block_write_wait(be, 512, buf, 512, 0, NULL));
    ck_assert(!block_write_wait(be, 8 * KiB - 256, buf, 512, 0, NULL));
    ck_assert(!block_write_wait(be, UINT64_MAX - 100, buf, 512, 0, NULL));
    close_drive(be);
    fd = open(path, O_RDONLY);
    ck_assert_int_eq(pread(fd, buf, 512, 4096 + 512), 512);
    ck_assert_uint_eq(buf[0], 0x5a);
    ck_assert_int_eq(pread(fd, buf, 512, 4096), 512);
    ck_assert_uint_eq(buf[0], 0);
    close(fd);
    raw = block_node_new("raw", &error);
    file = block_node_new("file", &error);
    ck_assert(object_property_set_str(OBJECT(file), "filename", path, &error));
    ck_assert(object_property_set_link(OBJECT(raw), "file", OBJECT(file), &error));
    ck_assert(object_property_parse(OBJECT(raw), "offset", "60K", &error));
    ck_assert(object_property_parse(OBJECT(raw), "size", "8K", &error));
    ck_assert(!block_node_open(raw, &error));
    g_clear_error(&error);
    object_unref(file);
    object_unref(raw);
}
END_TEST

START_TEST(a_disk_in_memory_matches_a_model)
{
    GError *error = NULL;
    BlockOpenOptions o = { .format = "raw", .discard = true };
    BlockBackend *be = open_drive("ram:3M", &o);

    ck_assert_ptr_null(error);
    model_run(be, 1, 200, true, 77);
    close_drive(be);
}
END_TEST

START_TEST(a_null_disk_answers_zeroes_after_its_latency)
{
    GError *error = NULL;
    BlockNode *node = block_node_new("null", &error);
    uint8_t buf[512];
    Result first = { 0 }, second = { 0 };
    BlockBackend *be;

    ck_assert(object_property_parse(OBJECT(node), "latency-ns", "3000000000", &error));
    be = drive_on(node);
    memset(buf, 1, sizeof(buf));
    BlockAio *aio = block_read(be, 0, buf, sizeof(buf), on_done, &first);
    block_read(be, 0, buf, sizeof(buf), on_done, &second);
    ck_assert_uint_eq(block_in_flight(be), 2);
    block_cancel(aio);
    ck_assert(!first.finished);         /* never from within the call */
    ck_assert(block_drain(be, &error)); /* does not wait three seconds */
    ck_assert(first.finished && second.finished);
    ck_assert_int_eq(first.error, ECANCELED);
    ck_assert_int_eq(second.error, 0);
    ck_assert_uint_eq(buf[0], 0);
    close_drive(be);
}
END_TEST

/* ---- the backend ------------------------------------------------------------------------------
 */

START_TEST(a_flush_waits_for_writes_before_it_and_not_for_those_after)
{
    GError *error = NULL;
    BlockNode *node = block_node_new("null", &error);
    Result w1 = { 0 }, w2 = { 0 }, f = { 0 };
    uint8_t buf[512] = { 0 };
    BlockBackend *be;

    ck_assert(object_property_parse(OBJECT(node), "latency-ns", "1000000", &error));
    be = drive_on(node);
    block_write(be, 0, buf, 512, 0, on_done, &w1);
    block_flush(be, on_done, &f);
    block_write(be, 0, buf, 512, 0, on_done, &w2);
    LOOP_UNTIL(f.finished && w1.finished && w2.finished);
    ck_assert_uint_lt(w1.order, f.order);
    ck_assert_uint_lt(w2.order, f.order); /* it was started at once, the flush had to wait */
    close_drive(be);
}
END_TEST

START_TEST(no_more_requests_than_the_limit_are_below)
{
    GError *error = NULL;
    BlockBackend *be = open_drive("ram:64K", NULL);
    Result r[20] = { { 0 } };
    uint8_t buf[512];

    ck_assert(object_property_parse(OBJECT(be), "max-in-flight", "2", &error));
    ck_assert(!object_property_parse(OBJECT(be), "max-in-flight", "0", &error));
    g_clear_error(&error);
    for (unsigned i = 0; i < 20; i++) {
        block_read(be, 512 * i, buf, 512, on_done, &r[i]);
    }
    LOOP_UNTIL(r[19].finished);
    for (unsigned i = 1; i < 20; i++) {
        ck_assert_int_eq(r[i].error, 0);
        ck_assert_uint_eq(r[i].order, r[i - 1].order + 1);
    }
    close_drive(be);
}
END_TEST

START_TEST(requests_outside_the_medium_or_without_one_fail_by_the_layer)
{
    GError *error = NULL;
    BlockBackend *be = open_drive("ram:64K", NULL), *empty;
    uint8_t buf[1024];
    Result r = { 0 };

    block_read(be, 64 * KiB - 512, buf, 1024, on_done, &r);
    LOOP_UNTIL(r.finished);
    ck_assert_int_eq(r.error, EINVAL);
    empty = block_backend_new(NULL, "empty", NULL, &error);
    ck_assert_ptr_nonnull(empty);
    r = (Result){ 0 };
    block_flush(empty, on_done, &r);
    LOOP_UNTIL(r.finished);
    ck_assert_int_eq(r.error, ENOMEDIUM);
    close_drive(empty);
    close_drive(be);
    BlockOpenOptions o = { .read_only = true };
    be = open_drive("ram:64K", &o);
    r = (Result){ 0 };
    block_write(be, 0, buf, 512, 0, on_done, &r);
    LOOP_UNTIL(r.finished);
    ck_assert_int_eq(r.error, EROFS);
    close_drive(be);
}
END_TEST

START_TEST(quiesced_requests_wait)
{
    BlockBackend *be = open_drive("ram:64K", NULL);
    Result r = { 0 };
    uint8_t buf[512];

    block_quiesce_begin(be);
    block_read(be, 0, buf, 512, on_done, &r);
    ck_assert(block_drain(be, NULL));
    for (unsigned i = 0; i < 10; i++) {
        main_loop_iterate(false);
    }
    ck_assert(!r.finished);
    block_quiesce_end(be);
    LOOP_UNTIL(r.finished);
    ck_assert_int_eq(r.error, 0);
    close_drive(be);
}
END_TEST

typedef struct Device {
    unsigned changes, requests, stops;
    bool loaded;
} Device;

static void dev_changed(void *opaque, bool loaded)
{
    Device *d = opaque;

    d->changes++;
    d->loaded = loaded;
}

static void dev_eject(void *opaque, bool force)
{
    ((Device *)opaque)->requests++;
}

static const BlockDeviceOps removable_ops = { .media_changed = dev_changed,
                                              .eject_request = dev_eject,
                                              .removable = true };
static const BlockDeviceOps fixed_ops = { .media_changed = dev_changed };

START_TEST(media_change_and_a_locked_door)
{
    GError *error = NULL;
    BlockBackend *be = open_drive("ram:64K", NULL);
    BlockNode *other = block_open("ram:128K", NULL, &error);
    Device d = { 0 };

    ck_assert(block_attach(be, &removable_ops, &d, false, &error));
    ck_assert(!block_attach(be, &removable_ops, &d, false, &error));
    g_clear_error(&error);
    block_lock_medium(be, true);
    ck_assert(!block_eject(be, false, &error));
    ck_assert_uint_eq(d.requests, 1);
    g_clear_error(&error);
    ck_assert(block_eject(be, true, &error));
    ck_assert(!d.loaded && d.changes == 1 && !block_inserted(be) && block_tray_open(be));
    ck_assert_uint_eq(block_length(be), 0);
    ck_assert(block_change_medium(be, other, false, &error));
    ck_assert(d.loaded && d.changes == 2 && block_inserted(be));
    ck_assert_uint_eq(block_length(be), 128 * KiB);
    block_detach(be);
    ck_assert(block_attach(be, &fixed_ops, &d, true, &error));
    ck_assert(!block_eject(be, true, &error));
    g_clear_error(&error);
    object_unref(other);
    close_drive(be);
    be = block_backend_new(NULL, "void", NULL, &error);
    ck_assert(!block_attach(be, &fixed_ops, &d, false, &error));
    g_clear_error(&error);
    close_drive(be);
}
END_TEST

START_TEST(a_boot_sector_is_fine_but_a_disguise_as_another_format_is_not)
{
    /* Until another format is here to be guessed, only the harmless half can be seen. */
    g_autofree char *path = new_file("disk", MiB);
    BlockBackend *be = open_drive(path, NULL);
    uint8_t sector[512] = { 0xeb, 0x3c, 0x90 };

    sector[510] = 0x55;
    sector[511] = 0xaa;
    ck_assert(block_write_wait(be, 0, sector, 512, 0, NULL));
    close_drive(be);
}
END_TEST

START_TEST(a_geometry_comes_from_the_partition_table_or_is_made_up)
{
    BlockBackend *be = open_drive("ram:16M", NULL);
    uint8_t sector[512] = { 0 };
    BlockGeometry g;

    block_guess_geometry(be, &g);
    ck_assert_uint_eq(g.heads, 16);
    ck_assert_uint_eq(g.sectors, 63);
    ck_assert_uint_eq(g.cylinders, 32);
    sector[0x1be + 5] = 7;  /* last head */
    sector[0x1be + 6] = 32; /* last sector */
    sector[0x1be + 12] = 1; /* of one sector */
    sector[510] = 0x55;
    sector[511] = 0xaa;
    ck_assert(block_write_wait(be, 0, sector, 512, 0, NULL));
    block_guess_geometry(be, &g);
    ck_assert_uint_eq(g.heads, 8);
    ck_assert_uint_eq(g.sectors, 32);
    ck_assert_uint_eq(g.cylinders, 128);
    close_drive(be);
}
END_TEST

/* ---- against qemu-io --------------------------------------------------------------------------
 */

static bool have(const char *program)
{
    g_autofree char *path = g_find_program_in_path(program);

    return path != NULL;
}

static int run(const char *const *argv)
{
    int status = -1;

    ck_assert(
        g_spawn_sync(NULL, (char **)(uintptr_t)argv, NULL,
                     G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                     NULL, NULL, NULL, NULL, &status, NULL));
    return status;
}

START_TEST(qemu_io_reads_what_was_written_and_respects_the_lock)
{
    g_autofree char *path = new_file("disk", MiB);
    BlockOpenOptions o = { .format = "raw" };
    BlockBackend *be;
    uint8_t buf[4096];
    const char *const reads[] = {
        "qemu-io",          "-f", "raw", "-r", "-c", "read -P 0x42 8k 4k", "-c",
        "read -P 0 12k 4k", path, NULL
    };
    const char *const writes[] = {
        "qemu-io", "-f", "raw", "-c", "write -P 0x77 64k 4k", path, NULL
    };

    if (!have("qemu-io")) {
        return;
    }
    be = open_drive(path, &o);
    memset(buf, 0x42, sizeof(buf));
    ck_assert(block_write_wait(be, 8192, buf, sizeof(buf), BLOCK_FUA, NULL));
    ck_assert_int_ne(run(writes), 0); /* we have it */
    close_drive(be);
    ck_assert_int_eq(run(reads), 0);
    ck_assert_int_eq(run(writes), 0);
    be = open_drive(path, &o);
    ck_assert(block_read_wait(be, 64 * KiB, buf, sizeof(buf), NULL));
    ck_assert_uint_eq(buf[0], 0x77);
    ck_assert_uint_eq(buf[4095], 0x77);
    close_drive(be);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block");
    TCase *tc = tcase_create("block");
    SRunner *sr;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, random_operations_on_a_file_match_a_model, 0, G_N_ELEMENTS(modes));
    tcase_add_test(tc, what_the_host_has_in_its_cache_is_read_at_once);
    tcase_add_test(tc, zeroes_are_detected);
    tcase_add_test(tc, a_file_that_is_written_is_refused_to_a_second_writer);
    tcase_add_test(tc, names_that_cannot_be_opened_are_refused_with_a_reason);
    tcase_add_test(tc, a_full_file_system_is_an_error_of_the_request);
    tcase_add_test(tc, a_raw_node_shows_a_part_of_a_file);
    tcase_add_test(tc, a_disk_in_memory_matches_a_model);
    tcase_add_test(tc, a_null_disk_answers_zeroes_after_its_latency);
    tcase_add_test(tc, a_flush_waits_for_writes_before_it_and_not_for_those_after);
    tcase_add_test(tc, no_more_requests_than_the_limit_are_below);
    tcase_add_test(tc, requests_outside_the_medium_or_without_one_fail_by_the_layer);
    tcase_add_test(tc, quiesced_requests_wait);
    tcase_add_test(tc, media_change_and_a_locked_door);
    tcase_add_test(tc, a_boot_sector_is_fine_but_a_disguise_as_another_format_is_not);
    tcase_add_test(tc, a_geometry_comes_from_the_partition_table_or_is_made_up);
    tcase_add_test(tc, qemu_io_reads_what_was_written_and_respects_the_lock);
    suite_add_tcase(s, tc);
    sr = srunner_create(s);
    srunner_run_all(sr, CK_ENV);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
