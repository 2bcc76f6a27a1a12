/*
 * qcow2 images on a file that fails: whichever request of a program fails, the one who asked is
 * told, the image stays consistent, and the same requests work when the file does again. And what a
 * drive's policies make of it.
 */
#include "qcow2_rig.h"

#include "run_suite.h"

#define DISK  (192 * KiB)
#define STEPS 26

/* Hundreds of images are opened: threads are not made anew for each. */
static void setup_with_workers(void)
{
    setup();
    block_workers_ref();
}

static void teardown_with_workers(void)
{
    block_workers_unref();
    teardown();
}

static const char *const kinds[] = {
    "cluster_size=4k",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=16k,extended_l2=on",
};

typedef struct FaultRun {
    BlockNode *file, *node;
    BlockBackend *be;
    uint8_t *model;
    unsigned errors; /* that somebody was told */
    int expected;
} FaultRun;

static void start(FaultRun *run, const char *image)
{
    GError *error = NULL;

    memset(run, 0, sizeof(*run));
    run->file = memfile_load(image, 0);
    run->node = qcow2_on((BlockNode *)object_ref(run->file), &error);
    ck_assert_msg(run->node != NULL, "%s", error ? error->message : "");
    run->be = drive_on((BlockNode *)object_ref(run->node));
    run->model = g_malloc0(DISK);
}

typedef struct Answer {
    bool finished;
    int error;
} Answer;

static void on_answer(void *opaque, int error)
{
    Answer *a = opaque;

    a->finished = true;
    a->error = error;
}

/* One request, again until it works: what failed once is allowed to fail, not for ever. */
static void until_it_works(FaultRun *run, BlockOp op, uint64_t at, uint64_t bytes, uint8_t *buf)
{
    for (unsigned tries = 0;; tries++) {
        Answer a = { 0 };

        switch (op) {
        case BLOCK_OP_READ:
            block_read(run->be, at, buf, bytes, on_answer, &a);
            break;
        case BLOCK_OP_WRITE:
            block_write(run->be, at, buf, bytes, 0, on_answer, &a);
            break;
        case BLOCK_OP_ZERO:
            block_write_zeroes(run->be, at, bytes, BLOCK_MAY_UNMAP, on_answer, &a);
            break;
        default:
            block_flush(run->be, on_answer, &a);
        }
        LOOP_UNTIL(a.finished);
        if (a.error == 0) {
            return;
        }
        run->errors++;
        ck_assert_msg(a.error == run->expected || a.error == EIO, "an unexpected error: %s",
                      g_strerror(a.error));
        ck_assert_msg(tries < 12, "%s still fails when nothing is wrong any more",
                      block_op_name(op));
    }
}

static void run_program(FaultRun *run, uint32_t seed)
{
    GRand *rand = g_rand_new_with_seed(seed);
    g_autofree uint8_t *buf = g_malloc(DISK);

    for (unsigned step = 0; step < STEPS; step++) {
        int what = g_rand_int_range(rand, 0, 10);
        uint64_t sectors = 1 + (uint64_t)g_rand_int_range(rand, 0, 60);
        uint64_t at = (uint64_t)g_rand_int_range(rand, 0, (gint32)(DISK / 512 - sectors)) * 512;

        if (what < 5) {
            memset(buf, (int)step + 1, sectors * 512);
            memset(run->model + at, (int)step + 1, sectors * 512);
            until_it_works(run, BLOCK_OP_WRITE, at, sectors * 512, buf);
        } else if (what < 7) {
            until_it_works(run, BLOCK_OP_READ, at, sectors * 512, buf);
            ck_assert_int_eq(memcmp(buf, run->model + at, sectors * 512), 0);
        } else if (what == 7) {
            memset(run->model + at, 0, sectors * 512);
            until_it_works(run, BLOCK_OP_ZERO, at, sectors * 512, NULL);
        } else {
            until_it_works(run, BLOCK_OP_FLUSH, 0, 0, NULL);
        }
    }
    until_it_works(run, BLOCK_OP_FLUSH, 0, 0, NULL);
    g_rand_free(rand);
}

static void assert_model(const FaultRun *run, BlockNode *node, unsigned n)
{
    g_autofree uint8_t *buf = g_malloc(DISK);

    ck_assert_int_eq(block_node_pread(node, 0, buf, DISK), 0);
    for (unsigned i = 0; i < DISK; i += 512) {
        if (memcmp(buf + i, run->model + i, 512)) {
            ck_abort_msg("request %u failed: sector %u differs", n, i / 512);
        }
    }
}

/* What is in the file is right, after a close that had no error, and without one. */
static void assert_file(const FaultRun *run, const uint8_t *data, uint64_t size, unsigned n,
                        bool ask_qemu)
{
    GError *error = NULL;
    BlockNode *node = qcow2_on(memfile_new(data, size, 0), &error);
    BlockCheckResult r;

    ck_assert_msg(node != NULL, "request %u failed: %s", n, error ? error->message : "");
    assert_model(run, node, n);
    ck_assert(check_node(node, 0, &r, NULL));
    ck_assert_msg(r.corruptions + r.check_errors == 0, "request %u failed: %u corruptions", n,
                  (unsigned)r.corruptions);
    if (ask_qemu) {
        g_autofree char *path = g_build_filename(folder, "faulty.qcow2", NULL);
        Oracle o;

        memfile_save(block_node_file(node), path);
        o = oracle_check(path, "");
        ck_assert_msg(o.status == 0 || o.status == 3, "request %u failed: qemu-img check says %d",
                      n, o.status);
    }
    object_unref(node);
}

static void finish(FaultRun *run, unsigned n, bool ask_qemu)
{
    g_autofree uint8_t *copy = NULL;
    uint64_t size;

    memfile_set_faults(run->file, NULL);
    assert_model(run, run->node, n);
    copy = g_memdup2(memfile_data(run->file), memfile_size(run->file));
    size = memfile_size(run->file);
    assert_file(run, copy, size, n, ask_qemu); /* flushed: it needs no close */
    close_drive(run->be);
    object_unref(run->node);
    assert_file(run, memfile_data(run->file), memfile_size(run->file), n, false);
    object_unref(run->file);
    g_free(run->model);
}

typedef struct Fault {
    int error;
    uint64_t count;
    int64_t torn;
} Fault;
static const Fault faults[] = { { EIO, 1, 0 }, { ENOSPC, 3, 0 }, { EIO, 1, 700 }, { EIO, 5, 0 } };

static bool make_image(char **path, const char *options)
{
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");

    *path = g_build_filename(folder, "image.qcow2", NULL);
    if (!qemu_img) {
        printf("ok - failing files # SKIP there is no qemu-img here\n");
        return false;
    }
    ck_assert_int_eq(run_line(NULL, *path, "qemu-img create -q -f qcow2 -o %s @ 192k", options), 0);
    return true;
}

START_TEST(whichever_request_fails_nothing_is_lost)
{
    g_autofree char *path = NULL;
    const char *options = kinds[_i / G_N_ELEMENTS(faults)];
    const Fault *fault = &faults[_i % G_N_ELEMENTS(faults)];
    unsigned stride = g_getenv("VMLUA_LONG") ? 1 : 7;
    uint64_t all;
    FaultRun run;

    if (!make_image(&path, options)) {
        return;
    }
    for (uint32_t seed = 1; seed <= (g_getenv("VMLUA_LONG") ? 8 : 1); seed++) {
        start(&run, path);
        memfile_set_faults(run.file, NULL);
        run_program(&run, seed);
        all = memfile_requests(run.file);
        ck_assert_uint_gt(all, 20);
        finish(&run, 0, false);
        for (unsigned n = 1 + (unsigned)_i % stride; n <= all; n += stride) {
            MemFaults f = { .first = n,
                            .count = fault->count - 1,
                            .error = fault->error,
                            .torn = fault->torn,
                            .ops = 1 << BLOCK_OP_READ | 1 << BLOCK_OP_WRITE | 1 << BLOCK_OP_FLUSH };

            start(&run, path);
            run.expected = fault->error;
            memfile_set_faults(run.file, &f);
            run_program(&run, seed);
            ck_assert_msg(memfile_failed(run.file) == 0 || run.errors > 0,
                          "request %u failed and nobody was told", n);
            finish(&run, n, n % 31 == 0);
        }
    }
}
END_TEST

/* ---- what tools do ----------------------------------------------------------------------------
 */

static bool act(BlockNode *node, int what, GError **error)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);
    BlockSnapshotInfo info = { .name = "new", .icount = UINT64_MAX };
    BlockCheckResult r;

    switch (what) {
    case 0:
        return klass->snapshot_create(node, &info, error);
    case 1:
        return klass->snapshot_goto(node, "old", error);
    case 2:
        return klass->snapshot_delete(node, "old", error);
    default:
        return klass->check(node, BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS, &r, NULL, NULL, NULL, error);
    }
}

/* The action's request `n` fails: it says so, and then does what it did not. 0: none fails. Returns
 * how many there are. */
static uint64_t act_with_fault(const char *path, int what, unsigned n, bool persistent)
{
    MemFaults f = { .first = n, .count = persistent ? 1000 : 0, .error = n % 2 ? EIO : ENOSPC };
    GError *error = NULL;
    uint64_t requests, failed;
    FaultRun run;
    bool ok;

    start(&run, path);
    memset(run.model, 5, 100 * 1024);
    if (what == 1) { /* as it was when the snapshot was taken */
        memset(run.model, 0, DISK);
        memset(run.model + 50 * 1024, 9, 10 * 1024);
    }
    memfile_set_faults(run.file, &f);
    ok = act(run.node, what, &error);
    requests = memfile_requests(run.file);
    failed = memfile_failed(run.file);
    memfile_set_faults(run.file, NULL);
    ck_assert_msg(ok == !error, "action %d, request %u: an error goes with a failure", what, n);
    ck_assert_msg(ok || failed > 0, "action %d: %s", what, error ? error->message : "");
    g_clear_error(&error);
    if (!ok && !act(run.node, what, &error)) {
        /* When the last flush failed it may have been done all the same. */
        ck_assert_msg(what == 2 && strstr(error->message, "has no snapshot"), "action %d again: %s",
                      what, error->message);
        g_clear_error(&error);
    }
    finish(&run, n, n % 9 == 0);
    return requests;
}

START_TEST(an_action_that_fails_changes_nothing)
{
    g_autofree char *path = NULL;
    uint64_t all;

    if (!make_image(&path, kinds[_i / 8])) {
        return;
    }
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write -P 9 50k 10k' @"),
                     0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-img snapshot -c old @"), 0);
    ck_assert_int_eq(run_line(NULL, path, "qemu-io -t unsafe -f qcow2 -c 'write -P 5 0 100k' @"),
                     0);
    all = act_with_fault(path, _i / 2 % 4, 0, false);
    ck_assert_uint_gt(all, 2);
    for (unsigned n = 1; n <= all; n += g_getenv("VMLUA_LONG") ? 1 : 1 + (unsigned)all / 7) {
        act_with_fault(path, _i / 2 % 4, n, _i % 2);
    }
}
END_TEST

/* ---- policies of a drive --------------------------------------------------------------------- */

static unsigned stops;

static void on_stop(void *opaque, const char *reason)
{
    ck_assert_ptr_nonnull(reason);
    stops++;
}

typedef struct Policy {
    const char *key, *word;
    int error;
    bool stops, reported;
} Policy;

static const Policy policies[] = {
    { "werror", "report", ENOSPC, false, true }, { "werror", "ignore", EIO, false, false },
    { "werror", "stop", EIO, true, false },      { "werror", "enospc", ENOSPC, true, false },
    { "werror", "enospc", EIO, false, true },    { "rerror", "report", EIO, false, true },
    { "rerror", "ignore", EIO, false, false },   { "rerror", "stop", EIO, true, false },
};

START_TEST(a_drive_does_with_errors_what_its_policy_says)
{
    static const BlockDeviceOps ops = { .stop = on_stop };
    const Policy *p = &policies[_i];
    bool read = p->key[0] == 'r';
    g_autofree char *path = NULL;
    g_autofree uint8_t *buf = g_malloc(64 * KiB);
    MemFaults f = { .first = 1, .count = 1000, .error = p->error };
    Answer a = { 0 };
    FaultRun run;

    if (!make_image(&path, "cluster_size=4k")) {
        return;
    }
    start(&run, path);
    stops = 0;
    memset(buf, 0x77, 64 * KiB);
    memset(run.model, 0x77, 64 * KiB);
    ck_assert(block_write_wait(run.be, 0, buf, 64 * KiB, 0, NULL));
    ck_assert(block_flush_wait(run.be, NULL));
    ck_assert(object_property_set_str(OBJECT(run.be), p->key, p->word, NULL));
    ck_assert(block_attach(run.be, &ops, NULL, true, NULL));
    memfile_set_faults(run.file, &f);
    if (read) {
        block_read(run.be, 0, buf, 64 * KiB, on_answer, &a);
    } else { /* where nothing is allocated yet */
        memset(run.model + 64 * KiB, 0x77, p->reported || !p->stops ? 0 : 64 * KiB);
        block_write(run.be, 64 * KiB, buf, 64 * KiB, 0, on_answer, &a);
    }
    LOOP_UNTIL(a.finished || block_held_back(run.be) > 0);
    ck_assert_uint_eq(stops, p->stops);
    ck_assert_int_eq(a.finished, !p->stops);
    ck_assert_int_eq(a.error, p->reported ? p->error : 0);
    memfile_set_faults(run.file, NULL);
    if (p->stops) { /* the machine goes on: so does the request */
        block_retry(run.be);
        LOOP_UNTIL(a.finished);
        ck_assert_int_eq(a.error, 0);
        if (read) {
            ck_assert_int_eq(memcmp(buf, run.model, 64 * KiB), 0);
        }
    }
    if (!p->stops && !read) { /* some of it may have been written: it is written again */
        memset(run.model + 64 * KiB, 0x77, 64 * KiB);
        ck_assert(block_write_wait(run.be, 64 * KiB, buf, 64 * KiB, 0, NULL));
    }
    until_it_works(&run, BLOCK_OP_FLUSH, 0, 0, NULL);
    block_detach(run.be);
    finish(&run, 0, true);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qcow2-faults");
    TCase *tc = tcase_create("faults");

    tcase_add_checked_fixture(tc, setup_with_workers, teardown_with_workers);
    tcase_set_timeout(tc, 3600);
    tcase_add_loop_test(tc, whichever_request_fails_nothing_is_lost, 0,
                        G_N_ELEMENTS(kinds) * G_N_ELEMENTS(faults));
    tcase_add_loop_test(tc, an_action_that_fails_changes_nothing, 0, G_N_ELEMENTS(kinds) * 8);
    tcase_add_loop_test(tc, a_drive_does_with_errors_what_its_policy_says, 0,
                        G_N_ELEMENTS(policies));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
