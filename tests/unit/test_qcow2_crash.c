/*
 * A process that writes to a qcow2 image is killed at any moment, again and again: the image stays
 * free of corruption, and what the process had been told to be flushed is there.
 *
 * The process is this program with other arguments. What it submits and what it has been told is in
 * a file that both map.
 */
#include <signal.h>
#include <sys/mman.h>

#include "qcow2_rig.h"

#include "run_suite.h"

#define DISK    (1 * MiB)
#define SECTORS (DISK / 512)
#define ZEROES  UINT32_C(0x80000000) /* in a number: the sector was zeroed */

typedef struct Sector {
    uint32_t started, stable; /* the last request that wrote it; the last that was flushed */
    uint32_t zeroed;          /* it was zeroed since then */
} Sector;

typedef struct Shared {
    uint32_t last_id;
    uint32_t snapshots; /* that there are, or may be */
    Sector sectors[SECTORS];
} Shared;

static void fill(uint8_t *buf, uint32_t sector, uint32_t id)
{
    for (unsigned i = 0; i < 512 / 8; i++) {
        uint64_t word = id & ZEROES || !id ? 0 : (uint64_t)id << 32 | (sector * 64 + i);

        memcpy(buf + i * 8, &word, 8);
    }
}

static Shared *map_shared(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    Shared *sh;

    if (fd < 0 || ftruncate(fd, sizeof(*sh)) < 0) {
        abort();
    }
    sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return sh == MAP_FAILED ? NULL : sh;
}

/* ---- the process that is killed -------------------------------------------------------------- */

static unsigned in_flight;

static void child_done(void *opaque, int error)
{
    if (error) {
        _exit(3);
    }
    in_flight--;
    g_free(opaque);
}

static void child_request(Shared *sh, BlockBackend *be, GRand *rand, uint32_t first, uint32_t n)
{
    int kind = g_rand_int_range(rand, 0, 10);
    uint32_t id = ++sh->last_id | (kind == 0 ? ZEROES : 0);
    uint8_t *buf = g_malloc(n * 512);

    for (uint32_t i = 0; i < n; i++) {
        sh->sectors[first + i].zeroed |= kind == 0;
        __atomic_store_n(&sh->sectors[first + i].started, id, __ATOMIC_RELEASE);
        fill(buf + i * 512, first + i, id);
    }
    in_flight++;
    if (kind == 0) {
        block_write_zeroes(be, first * UINT64_C(512), n * UINT64_C(512), BLOCK_MAY_UNMAP,
                           child_done, buf);
    } else {
        block_write(be, first * UINT64_C(512), buf, n * 512, 0, child_done, buf);
    }
}

static void child_flush(Shared *sh, BlockBackend *be)
{
    if (!block_flush_wait(be, NULL)) {
        _exit(4);
    }
    for (uint32_t s = 0; s < SECTORS; s++) { /* nothing was in flight */
        __atomic_store_n(&sh->sectors[s].stable, sh->sectors[s].started, __ATOMIC_RELEASE);
        sh->sectors[s].zeroed = (sh->sectors[s].started & ZEROES) != 0;
    }
}

static void child_snapshot(Shared *sh, BlockNode *node)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(node);
    BlockSnapshotInfo info = { .name = "s", .icount = UINT64_MAX };
    bool ok;

    if (sh->snapshots) {
        ok = klass->snapshot_delete(node, "s", NULL);
        sh->snapshots = !ok;
    } else {
        ok = klass->snapshot_create(node, &info, NULL);
        sh->snapshots = 1;
    }
}

static int child_main(const char *image, const char *shared, uint32_t seed)
{
    BlockOpenOptions o = { .format = "qcow2", .discard = true };
    Shared *sh = map_shared(shared);
    GRand *rand = g_rand_new_with_seed(seed);
    BlockBackend *be;
    BlockNode *node;

    main_loop_init();
    node = block_open(image, &o, NULL);
    be = node ? block_backend_new(NULL, NULL, node, NULL) : NULL;
    if (!be || write(STDOUT_FILENO, "o", 1) != 1) {
        return 2;
    }
    for (;;) {
        unsigned parts = (unsigned)g_rand_int_range(rand, 1, 9);

        for (unsigned i = 0; i < parts; i++) {
            uint32_t part = SECTORS / parts;
            uint32_t n = (uint32_t)g_rand_int_range(rand, 1, (gint32)MIN(part, 64) + 1);
            uint32_t at = (uint32_t)g_rand_int_range(rand, 0, (gint32)(part - n) + 1);

            child_request(sh, be, rand, i * part + at, n);
        }
        if (write(STDOUT_FILENO, "r", 1) != 1) {
            return 0;
        }
        LOOP_UNTIL(in_flight == 0);
        if (g_rand_int_range(rand, 0, 4) == 0) {
            child_flush(sh, be);
            if (write(STDOUT_FILENO, "f", 1) != 1) {
                return 0;
            }
        }
        if (g_rand_int_range(rand, 0, 12) == 0) {
            child_snapshot(sh, node);
        }
    }
}

/* ---- the one that kills it ------------------------------------------------------------------- */

static GPid start_child(const char *image, const char *shared, uint32_t seed, int *from)
{
    g_autofree char *number = g_strdup_printf("%u", seed);
    char *argv[] = { (char[]){ "/proc/self/exe" },
                     (char[]){ "--child" },
                     g_strdup(image),
                     g_strdup(shared),
                     number,
                     NULL };
    GPid pid = 0;
    GError *error = NULL;

    argv[0] = g_file_read_link("/proc/self/exe", NULL);
    if (!g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
                                  NULL, from, NULL, &error)) {
        ck_abort_msg("%s", error->message);
    }
    g_free(argv[0]);
    g_free(argv[2]);
    g_free(argv[3]);
    return pid;
}

/* The kernel gives up a killed process's file locks when its last requests are over. */
static void wait_for_locks(const char *image)
{
    struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int fd = open(image, O_RDWR);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_OFD_SETLKW, &all), 0);
    close(fd);
}

/* Kills it when it has said so many words. */
static void run_and_kill(const char *image, const char *shared, uint32_t seed, unsigned words)
{
    int from, status = 0;
    GPid pid = start_child(image, shared, seed, &from);

    for (unsigned i = 0; i < words; i++) {
        char c;

        ck_assert_msg(read(from, &c, 1) == 1, "the process ended by itself");
    }
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status));
    close(from);
    wait_for_locks(image);
}

static bool allowed(const Sector *s, const uint8_t *data, uint32_t sector)
{
    uint8_t expected[512];
    uint64_t word;
    uint32_t id;

    memcpy(&word, data, 8);
    id = (uint32_t)(word >> 32);
    fill(expected, sector, id);
    if (memcmp(expected, data, 512)) {
        return false;
    }
    if (id == 0) {
        return s->stable == 0 || s->stable & ZEROES || s->zeroed || s->started & ZEROES;
    }
    return id >= (s->stable & ~ZEROES) && id <= (s->started & ~ZEROES);
}

static void examine(const char *image, Shared *sh, unsigned round)
{
    BlockOpenOptions o = { .format = "qcow2" };
    g_autofree uint8_t *buf = g_malloc(DISK);
    Oracle oracle = oracle_check(image, "");
    BlockNode *node = block_open(image, &o, NULL);
    GArray *list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    BlockCheckResult r;

    ck_assert_msg(oracle.status == 0 || oracle.status == 3, "round %u: qemu-img check says %d",
                  round, oracle.status);
    ck_assert_ptr_nonnull(node);
    ck_assert_int_eq(block_node_pread(node, 0, buf, DISK), 0);
    for (uint32_t i = 0; i < SECTORS; i++) {
        Sector *s = &sh->sectors[i];
        uint64_t word;

        if (!allowed(s, buf + i * 512, i)) {
            ck_abort_msg("round %u: sector %u is not as promised", round, i);
        }
        memcpy(&word, buf + i * 512, 8); /* what the next one begins with */
        s->started = s->stable = word ? (uint32_t)(word >> 32) : ZEROES;
        s->zeroed = 0;
    }
    if (!check_node(node, round % 3 ? 0 : BLOCK_FIX_LEAKS, &r, NULL)) {
        ck_abort_msg("round %u: the check fails", round);
    }
    ck_assert_uint_eq(r.corruptions + r.check_errors, 0);
    ck_assert_uint_eq(r.leaks, round % 3 ? oracle.r.leaks : 0);
    ck_assert(BLOCK_NODE_GET_CLASS(node)->snapshot_list(node, list, NULL));
    sh->snapshots = list->len;
    g_array_free(list, TRUE);
    object_unref(node);
}

static const char *const kinds[] = { "cluster_size=64k", "cluster_size=512",
                                     "cluster_size=16k,extended_l2=on",
                                     "cluster_size=4k,refcount_bits=64" };

START_TEST(a_killed_process_leaves_what_it_had_flushed)
{
    g_autofree char *image = g_build_filename(folder, "image.qcow2", NULL);
    g_autofree char *shared = g_build_filename(folder, "shared", NULL);
    g_autofree char *qemu_img = g_find_program_in_path("qemu-img");
    GRand *rand = g_rand_new_with_seed((uint32_t)_i + 1);
    Shared *sh;

    if (!qemu_img) {
        printf("ok - kills # SKIP there is no qemu-img here\n");
        return;
    }
    ck_assert_int_eq(run_line(NULL, image, "qemu-img create -q -f qcow2 -o %s @ 1M", kinds[_i]), 0);
    sh = map_shared(shared);
    for (unsigned round = 0; round < (g_getenv("VMLUA_LONG") ? 150 : 3); round++) {
        run_and_kill(image, shared, g_rand_int(rand), (unsigned)g_rand_int_range(rand, 1, 120));
        examine(image, sh, round);
    }
    ck_assert_uint_gt(sh->last_id, 5);
    munmap(sh, sizeof(*sh));
    g_rand_free(rand);
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite;
    TCase *tc;

    if (argc == 5 && !strcmp(argv[1], "--child")) {
        return child_main(argv[2], argv[3], (uint32_t)g_ascii_strtoull(argv[4], NULL, 10));
    }
    suite = suite_create("qcow2-crash");
    tc = tcase_create("crash");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 3600);
    tcase_add_loop_test(tc, a_killed_process_leaves_what_it_had_flushed, 0, G_N_ELEMENTS(kinds));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
