/* Internal snapshots of qcow2 images: made, shown, gone back to and deleted in turns by us and by
 * qemu-img, against plain copies of the disk. */
#include "qcow2_rig.h"

#include "run_suite.h"

#define DISK (2 * MiB)

static const char *const kinds[] = {
    "cluster_size=64k",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=8",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=1k,compat=0.10",
    "cluster_size=2k,refcount_bits=64,compression_type=zstd",
};

typedef struct Saved {
    char *name;
    uint8_t *content;
} Saved;

typedef struct World {
    char *path;
    GRand *rand;
    uint8_t *disk;
    GArray *saved; /* of Saved */
    bool with_qemu;
} World;

static BlockNode *open_image(const char *path)
{
    BlockOpenOptions o = { .format = "qcow2" };
    GError *error = NULL;
    BlockNode *node = block_open(path, &o, &error);

    ck_assert_msg(node != NULL, "%s", error ? error->message : "");
    return node;
}

static void must(bool ok, const char *what, GError *error)
{
    ck_assert_msg(ok, "%s: %s", what, error ? error->message : "");
}

static bool by_qemu(World *w)
{
    return w->with_qemu && g_rand_boolean(w->rand);
}

static void write_some(World *w)
{
    bool zero = g_rand_int_range(w->rand, 0, 5) == 0;
    unsigned sectors = (unsigned)g_rand_int_range(w->rand, 1, 400);
    unsigned at = (unsigned)g_rand_int_range(w->rand, 0, (gint32)(DISK / 512 - sectors)) * 512;
    int pattern = zero ? 0 : g_rand_int_range(w->rand, 1, 256);

    memset(w->disk + at, pattern, sectors * 512);
    if (by_qemu(w)) {
        if (zero) {
            ck_assert_int_eq(run_line(NULL, w->path,
                                      "qemu-io -t unsafe -f qcow2 -c 'write -z %u %u' @", at,
                                      sectors * 512),
                             0);
        } else {
            ck_assert_int_eq(run_line(NULL, w->path,
                                      "qemu-io -t unsafe -f qcow2 -c 'write -P %d %u %u' @",
                                      pattern, at, sectors * 512),
                             0);
        }
    } else {
        BlockBackend *be = drive_on(open_image(w->path));

        ck_assert(zero ? block_zero_wait(be, at, sectors * 512, 0, NULL)
                       : block_write_wait(be, at, w->disk + at, sectors * 512, 0, NULL));
        close_drive(be);
    }
}

static void snapshot(World *w)
{
    Saved s = { .name = g_strdup_printf("s%u", g_rand_int(w->rand)),
                .content = g_memdup2(w->disk, DISK) };

    if (by_qemu(w)) {
        ck_assert_int_eq(run_line(NULL, w->path, "qemu-img snapshot -c %s @", s.name), 0);
    } else {
        BlockNode *node = open_image(w->path);
        BlockSnapshotInfo info = { .icount = UINT64_MAX };
        GError *error = NULL;

        g_strlcpy(info.name, s.name, sizeof(info.name));
        must(BLOCK_NODE_GET_CLASS(node)->snapshot_create(node, &info, &error), "create", error);
        object_unref(node);
    }
    g_array_append_val(w->saved, s);
}

static void go_back(World *w)
{
    const Saved *s = &g_array_index(w->saved, Saved,
                                    (guint)g_rand_int_range(w->rand, 0, (gint32)w->saved->len));

    memcpy(w->disk, s->content, DISK);
    if (by_qemu(w)) {
        ck_assert_int_eq(run_line(NULL, w->path, "qemu-img snapshot -a %s @", s->name), 0);
    } else {
        BlockNode *node = open_image(w->path);
        GError *error = NULL;

        must(BLOCK_NODE_GET_CLASS(node)->snapshot_goto(node, s->name, &error), "goto", error);
        object_unref(node);
    }
}

static void delete (World *w)
{
    guint at = (guint)g_rand_int_range(w->rand, 0, (gint32)w->saved->len);
    Saved *s = &g_array_index(w->saved, Saved, at);

    if (by_qemu(w)) {
        ck_assert_int_eq(run_line(NULL, w->path, "qemu-img snapshot -d %s @", s->name), 0);
    } else {
        BlockNode *node = open_image(w->path);
        GError *error = NULL;

        must(BLOCK_NODE_GET_CLASS(node)->snapshot_delete(node, s->name, &error), "delete", error);
        object_unref(node);
    }
    g_free(s->name);
    g_free(s->content);
    g_array_remove_index(w->saved, at);
}

/* ---- what must hold -------------------------------------------------------------------------- */

static void assert_content(BlockNode *node, const uint8_t *expected, const char *what)
{
    g_autofree uint8_t *buf = g_malloc(DISK);

    ck_assert_uint_eq(block_node_length(node), DISK);
    ck_assert_int_eq(block_node_pread(node, 0, buf, DISK), 0);
    for (unsigned i = 0; i < DISK; i += 512) {
        if (memcmp(buf + i, expected + i, 512)) {
            ck_abort_msg("%s: sector %u differs", what, i / 512);
        }
    }
}

static void verify_by_us(World *w)
{
    BlockNode *node = open_image(w->path);
    GArray *list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    BlockCheckResult r;
    GError *error = NULL;

    must(check_node(node, 0, &r, &error), "check", error);
    ck_assert_uint_eq(r.corruptions + r.leaks + r.check_errors, 0);
    assert_content(node, w->disk, "the disk");
    must(BLOCK_NODE_GET_CLASS(node)->snapshot_list(node, list, &error), "list", error);
    ck_assert_uint_eq(list->len, w->saved->len);
    for (unsigned i = 0; i < list->len; i++) {
        ck_assert_str_eq(g_array_index(list, BlockSnapshotInfo, i).name,
                         g_array_index(w->saved, Saved, i).name);
        ck_assert_uint_eq(g_array_index(list, BlockSnapshotInfo, i).disk_size, DISK);
    }
    g_array_free(list, TRUE);
    object_unref(node);
    for (unsigned i = 0; i < w->saved->len; i++) {
        const Saved *s = &g_array_index(w->saved, Saved, i);
        BlockOpenOptions o = { .format = "raw", .read_only = true };
        BlockNode *file = block_open(w->path, &o, &error);

        must(file != NULL, "file", error);
        node = block_node_new("qcow2", NULL);
        ck_assert(object_property_set_str(OBJECT(node), "snapshot", s->name, &error));
        ck_assert(object_property_set_bool(OBJECT(node), "read-only", true, &error));
        ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
        object_unref(file);
        must(block_node_open(node, &error), "open at a snapshot", error);
        ck_assert(block_node_read_only(node));
        assert_content(node, s->content, s->name);
        object_unref(node);
    }
}

static void assert_raw(const char *path, const uint8_t *expected, const char *what)
{
    g_autofree char *content = NULL;
    gsize len;

    ck_assert(g_file_get_contents(path, &content, &len, NULL));
    ck_assert_uint_eq(len, DISK);
    ck_assert_msg(!memcmp(content, expected, DISK), "%s: qemu-img reads something else", what);
}

static void verify_by_qemu(World *w)
{
    g_autofree char *raw = g_build_filename(folder, "raw", NULL);

    ck_assert_int_eq(run_line(NULL, w->path, "qemu-img check -q @"), 0);
    ck_assert_int_eq(run_line(NULL, w->path, "qemu-img convert -f qcow2 -O raw @ %s", raw), 0);
    assert_raw(raw, w->disk, "the disk");
    for (unsigned i = 0; i < w->saved->len; i++) {
        const Saved *s = &g_array_index(w->saved, Saved, i);

        ck_assert_int_eq(run_line(NULL, w->path,
                                  "qemu-img convert -f qcow2 -O raw -l snapshot.name=%s @ %s",
                                  s->name, raw),
                         0);
        assert_raw(raw, s->content, s->name);
    }
}

START_TEST(snapshots_keep_what_the_disk_was)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    World w = { .path = g_build_filename(folder, "image.qcow2", NULL),
                .rand = g_rand_new_with_seed((uint32_t)_i + 7),
                .disk = g_malloc0(DISK),
                .saved = g_array_new(FALSE, FALSE, sizeof(Saved)),
                .with_qemu = true };
    unsigned steps = g_getenv("VMLUA_LONG") ? 200 : 8;

    if (!qemu_img) {
        printf("ok - snapshots of either are the other's # SKIP there is no qemu-img here\n");
        return;
    }
    ck_assert_int_eq(run_line(NULL, w.path, "qemu-img create -q -f qcow2 -o %s @ 2M", kinds[_i]),
                     0);
    for (unsigned step = 0; step < steps; step++) {
        int what = g_rand_int_range(w.rand, 0, 10);

        if (what < 5 || (w.saved->len == 0 && what > 7)) {
            write_some(&w);
        } else if (what < 8 && w.saved->len < 6) {
            snapshot(&w);
        } else if (what == 8 && w.saved->len > 0) {
            go_back(&w);
        } else if (w.saved->len > 0) {
            delete (&w);
        }
        if (step % 4 == 3) {
            verify_by_us(&w);
            verify_by_qemu(&w);
        }
    }
    while (w.saved->len > 0) {
        delete (&w);
    }
    verify_by_us(&w);
    verify_by_qemu(&w);
    g_array_free(w.saved, TRUE);
    g_rand_free(w.rand);
    g_free(w.disk);
    g_free(w.path);
}
END_TEST

/* ---- what snapshots say about themselves ----------------------------------------------------- */

static void take(const char *path, const BlockSnapshotInfo *info)
{
    BlockNode *node = open_image(path);
    GError *error = NULL;

    must(BLOCK_NODE_GET_CLASS(node)->snapshot_create(node, info, &error), "create", error);
    object_unref(node);
}

static GArray *list_of(const char *path)
{
    BlockNode *node = open_image(path);
    GArray *list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    GError *error = NULL;

    must(BLOCK_NODE_GET_CLASS(node)->snapshot_list(node, list, &error), "list", error);
    object_unref(node);
    return list;
}

static int qemu_monitor(const char *path, const char *option, const char *command)
{
    g_autofree char *script = g_build_filename(folder, "monitor", NULL);
    g_autofree char *text = g_strdup_printf("%s\nquit\n", command);
    g_autofree char *line = g_strdup_printf(
        "qemu-system-x86_64 -machine pc -m 8 -nodefaults -display none -S %s "
        "-drive file='%s',if=none,id=d -monitor stdio <'%s' 2>&1",
        option, path, script);
    char *argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, line, NULL };
    g_autofree char *out = NULL;
    int status;

    ck_assert(g_file_set_contents(script, text, -1, NULL));
    status = run_argv(argv, &out, NULL);
    return status ? status : strstr(out, "Error") != NULL;
}

START_TEST(the_state_of_a_machine_stays_with_its_snapshot)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    g_autofree char *qemu = g_find_program_in_path("qemu-system-x86_64");
    BlockSnapshotInfo ours = {
        .name = "ours", .icount = 12345, .vm_clock_ns = 77, .date_sec = 1000000000, .date_nsec = 5
    };
    BlockSnapshotInfo *info;
    GArray *list;
    BlockNode *node;

    if (!qemu) {
        printf("ok - states of machines # SKIP there is no qemu-system-x86_64 here\n");
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 @ 4M"), 0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write 1M 1M' @"), 0);
    ck_assert_int_eq(qemu_monitor(path, "", "savevm state"), 0);
    take(path, &ours);
    node = open_image(path);
    ck_assert(BLOCK_NODE_GET_CLASS(node)->snapshot_goto(node, "state", NULL));
    object_unref(node);
    list = list_of(path);
    ck_assert_uint_eq(list->len, 2);
    info = &g_array_index(list, BlockSnapshotInfo, 0);
    ck_assert_uint_gt(info->vm_state_size, 100000);
    info = &g_array_index(list, BlockSnapshotInfo, 1);
    ck_assert_str_eq(info->id, "2");
    ck_assert_uint_eq(info->icount, 12345);
    ck_assert_uint_eq(info->vm_clock_ns, 77);
    ck_assert_uint_eq(info->date_sec, 1000000000);
    ck_assert_uint_eq(info->date_nsec, 5);
    ck_assert_uint_eq(info->vm_state_size, 0);
    g_array_free(list, TRUE);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img check -q @"), 0);
    ck_assert_int_eq(qemu_monitor(path, "-loadvm state", "info status"), 0);
    ck_assert_int_eq(qemu_monitor(path, "", "delvm ours"), 0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img check -q @"), 0);
}
END_TEST

START_TEST(a_snapshot_brings_its_size_along)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    g_autofree char *out = NULL;
    BlockSnapshotInfo info = { .name = "small", .icount = UINT64_MAX };
    BlockNode *node;

    if (!qemu_img) {
        printf("ok - sizes of snapshots # SKIP there is no qemu-img here\n");
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-img create -q -f qcow2 -o cluster_size=512 @ 2M"),
                     0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write -P 3 0 2M' @"), 0);
    take(path, &info);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img resize -q @ 5M"), 0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write -P 4 1M 4M' @"), 0);
    node = open_image(path);
    ck_assert_uint_eq(block_node_length(node), 5 * MiB);
    ck_assert(BLOCK_NODE_GET_CLASS(node)->snapshot_goto(node, "1", NULL));
    ck_assert_uint_eq(block_node_length(node), 2 * MiB);
    object_unref(node);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img check -q @"), 0);
    ck_assert_int_eq(run_line(&out, path, "qemu-img info --output=json @"), 0);
    ck_assert_uint_eq(json_number(out, "virtual-size"), 2 * MiB);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -f qcow2 -c 'read -P 3 0 2M' @"), 0);
}
END_TEST

START_TEST(what_cannot_be_done_is_refused_by_name)
{
    g_autofree char *path = g_build_filename(folder, "image.qcow2", NULL);
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    BlockSnapshotInfo info = { .name = "s", .icount = UINT64_MAX };
    GError *error = NULL;
    BlockNodeClass *klass;
    BlockNode *node;

    if (!qemu_img) {
        printf("ok - refusals of snapshots # SKIP there is no qemu-img here\n");
        return;
    }
    ck_assert_int_eq(
        run_line(NULL, path, "qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=1 @ 2M"),
        0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write -P 3 0 64k' @"), 0);
    node = open_image(path);
    klass = BLOCK_NODE_GET_CLASS(node);
    ck_assert(!klass->snapshot_create(node, &info, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "too narrow"));
    g_clear_error(&error);
    ck_assert(!klass->snapshot_goto(node, "nobody", &error));
    ck_assert_ptr_nonnull(strstr(error->message, "'nobody'"));
    g_clear_error(&error);
    ck_assert(!klass->snapshot_delete(node, "nobody", &error));
    g_clear_error(&error);
    ck_assert_int_eq(block_node_pwrite(node, 512, "abc", 3, 0), 0); /* it is as it was */
    object_unref(node);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img check -q @"), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-snapshot");
    TCase *tc = tcase_create("snapshot");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 1200);
    tcase_add_loop_test(tc, snapshots_keep_what_the_disk_was, 0, G_N_ELEMENTS(kinds));
    tcase_add_test(tc, the_state_of_a_machine_stays_with_its_snapshot);
    tcase_add_test(tc, a_snapshot_brings_its_size_along);
    tcase_add_test(tc, what_cannot_be_done_is_refused_by_name);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
