/* Power cuts: see powercut.h. */
#include "powercut.h"

static PowerVersion *latest(PowerRun *run, uint64_t sector)
{
    GArray *h = run->history[sector];

    return &g_array_index(h, PowerVersion, h->len - 1);
}

static void add_version(PowerRun *run, uint64_t sector, uint32_t id, bool optional)
{
    PowerVersion v = { .id = id,
                       .started = memfile_log_length(run->file),
                       .stable = UINT64_MAX,
                       .optional = optional };

    g_array_append_val(run->history[sector], v);
}

static void fill(uint8_t *buf, uint64_t sector, uint32_t id)
{
    for (unsigned i = 0; i < POWER_SECTOR / 8; i++) {
        uint64_t word = id ? (uint64_t)id << 32 | (uint32_t)(sector * 64 + i) : 0;

        memcpy(buf + i * 8, &word, 8);
    }
}

/* ---- the program ----------------------------------------------------------------------------- */

typedef struct PowerOp {
    PowerRun *run;
    uint8_t *buf;
    uint64_t first, n; /* sectors that are stable when it is done (FUA) */
    uint32_t upto;     /* flush: requests up to this id are */
} PowerOp;

static void make_stable(PowerRun *run, uint64_t first, uint64_t n, uint32_t upto)
{
    uint64_t now = memfile_log_length(run->file);

    for (uint64_t s = first; s < first + n; s++) {
        for (unsigned i = 0; i < run->history[s]->len; i++) {
            PowerVersion *v = &g_array_index(run->history[s], PowerVersion, i);

            if (v->stable == UINT64_MAX && v->started <= now && (upto == 0 || i < upto)) {
                v->stable = now;
            }
        }
    }
}

static void op_done(void *opaque, int error)
{
    PowerOp *op = opaque;

    ck_assert_int_eq(error, 0);
    if (op->n > 0) {
        make_stable(op->run, op->first, op->n, 0);
    }
    op->run->in_flight--;
    g_free(op->buf);
    g_free(op);
}

/* A flush remembers how many versions each sector had when it was submitted. */
typedef struct PowerFlush {
    PowerRun *run;
    unsigned counts[];
} PowerFlush;

static void flush_done(void *opaque, int error)
{
    PowerFlush *f = opaque;
    PowerRun *run = f->run;
    uint64_t now = memfile_log_length(run->file);

    ck_assert_int_eq(error, 0);
    for (uint64_t s = 0; s < run->sectors; s++) {
        for (unsigned i = 0; i < f->counts[s]; i++) {
            PowerVersion *v = &g_array_index(run->history[s], PowerVersion, i);

            v->stable = MIN(v->stable, now);
        }
    }
    run->in_flight--;
    g_free(f);
}

static void do_flush(PowerRun *run)
{
    PowerFlush *f = g_malloc(sizeof(*f) + run->sectors * sizeof(unsigned));

    f->run = run;
    for (uint64_t s = 0; s < run->sectors; s++) {
        f->counts[s] = run->history[s]->len;
    }
    run->in_flight++;
    block_flush(run->be, flush_done, f);
}

static void do_request(PowerRun *run, uint64_t first, uint64_t n)
{
    PowerOp *op = g_new0(PowerOp, 1);
    int kind = g_rand_int_range(run->rand, 0, 10);
    bool discard = kind == 8 && run->discards, zero = kind == 9 && !discard;
    bool fua = g_rand_int_range(run->rand, 0, 10) == 0;
    uint32_t id = zero || discard ? 0 : ++run->last_id;
    unsigned flags = fua ? BLOCK_FUA : 0;

    op->run = run;
    for (uint64_t s = first; s < first + n; s++) {
        add_version(run, s, id, discard);
    }
    if (fua && !discard) {
        op->first = first;
        op->n = n;
    }
    run->in_flight++;
    if (discard) {
        block_discard(run->be, first * POWER_SECTOR, n * POWER_SECTOR, op_done, op);
    } else if (zero) {
        flags |= g_rand_boolean(run->rand) ? BLOCK_MAY_UNMAP : 0;
        block_write_zeroes(run->be, first * POWER_SECTOR, n * POWER_SECTOR, flags, op_done, op);
    } else {
        op->buf = g_malloc(n * POWER_SECTOR);
        for (uint64_t i = 0; i < n; i++) {
            fill(op->buf + i * POWER_SECTOR, first + i, id);
        }
        block_write(run->be, first * POWER_SECTOR, op->buf, n * POWER_SECTOR, flags, op_done, op);
    }
}

static void settle(PowerRun *run)
{
    LOOP_UNTIL(run->in_flight == 0);
}

static void do_compressed(PowerRun *run)
{
    BlockNodeClass *klass = BLOCK_NODE_GET_CLASS(run->node);
    uint64_t bytes = run->cluster, n = bytes / POWER_SECTOR;
    g_autofree uint8_t *buf = g_malloc(bytes), *packed = g_malloc(bytes);
    uint64_t first = (uint64_t)g_rand_int_range(run->rand, 0, (gint32)(run->size / bytes)) * n;
    uint32_t id = run->last_id + 1;
    size_t len;

    settle(run);
    for (uint64_t i = 0; i < n; i++) {
        fill(buf + i * POWER_SECTOR, first + i, id);
    }
    len = klass->compress(run->node, buf, bytes, packed, bytes);
    if (len == 0) {
        return;
    }
    run->last_id = id;
    for (uint64_t i = 0; i < n; i++) {
        add_version(run, first + i, id, false);
    }
    ck_assert_int_eq(klass->write_packed(run->node, first * POWER_SECTOR, packed, len), 0);
}

static void take_snapshot(PowerRun *run)
{
    PowerSnapshot sn = { .name = g_strdup_printf("s%u", run->saved->len),
                         .ids = g_new(uint32_t, run->sectors),
                         .until = UINT64_MAX };
    BlockSnapshotInfo info = { .icount = UINT64_MAX };
    GError *error = NULL;

    g_strlcpy(info.name, sn.name, sizeof(info.name));
    for (uint64_t s = 0; s < run->sectors; s++) {
        const GArray *h = run->history[s];

        /* What a discard left is not known: such a sector is not compared. */
        sn.ids[s] = h->len > 0 && latest(run, s)->optional ? POWER_ANY
                    : h->len > 0                           ? latest(run, s)->id
                                                           : 0;
    }
    if (!BLOCK_NODE_GET_CLASS(run->node)->snapshot_create(run->node, &info, &error)) {
        ck_abort_msg("%s", error->message);
    }
    make_stable(run, 0, run->sectors, 0);
    sn.from = memfile_log_length(run->file);
    g_array_append_val(run->saved, sn);
}

static void go_back(PowerRun *run, PowerSnapshot *sn)
{
    GError *error = NULL;

    for (uint64_t s = 0; s < run->sectors; s++) {
        add_version(run, s, sn->ids[s], false);
    }
    if (!BLOCK_NODE_GET_CLASS(run->node)->snapshot_goto(run->node, sn->name, &error)) {
        ck_abort_msg("%s", error->message);
    }
    make_stable(run, 0, run->sectors, 0);
}

static void do_snapshot(PowerRun *run)
{
    GError *error = NULL;
    PowerSnapshot *sn = NULL;

    settle(run);
    for (unsigned i = 0; i < run->saved->len; i++) {
        PowerSnapshot *s = &g_array_index(run->saved, PowerSnapshot, i);

        sn = s->until == UINT64_MAX && (!sn || g_rand_boolean(run->rand)) ? s : sn;
    }
    switch (sn ? g_rand_int_range(run->rand, 0, 3) : 0) {
    case 0:
        take_snapshot(run);
        break;
    case 1:
        go_back(run, sn);
        break;
    default:
        sn->until = memfile_log_length(run->file);
        if (!BLOCK_NODE_GET_CLASS(run->node)->snapshot_delete(run->node, sn->name, &error)) {
            ck_abort_msg("%s", error->message);
        }
    }
}

/* Requests in flight together never share a sector. */
static void do_parallel(PowerRun *run)
{
    unsigned parts = (unsigned)g_rand_int_range(run->rand, 1, 4);
    uint64_t part = run->sectors / parts;

    for (unsigned i = 0; i < parts; i++) {
        uint64_t n = 1 + (uint64_t)g_rand_int_range(run->rand, 0, (gint32)MIN(part, 40));
        uint64_t at = (uint64_t)g_rand_int_range(run->rand, 0, (gint32)(part - MIN(n, part) + 1));

        do_request(run, i * part + at, MIN(n, part));
    }
    if (g_rand_int_range(run->rand, 0, 3) == 0) {
        do_flush(run); /* while they are under way */
    }
    settle(run);
}

static void run_program(PowerRun *run)
{
    for (unsigned step = 0; step < run->steps; step++) {
        int what = g_rand_int_range(run->rand, 0, 20);

        if (what < 2 && run->snapshots) {
            do_snapshot(run);
        } else if (what == 2 && run->compressed) {
            do_compressed(run);
        } else if (what < 5) {
            do_flush(run);
            settle(run);
        } else {
            do_parallel(run);
        }
    }
}

/* ---- what must hold -------------------------------------------------------------------------- */

/* The version that a sector shows: false: none that may be there. */
static bool allowed(const PowerRun *run, uint64_t s, const uint8_t *data, uint64_t cut)
{
    const GArray *h = run->history[s];
    uint8_t expected[POWER_SECTOR];
    uint64_t word;
    uint32_t id;

    memcpy(&word, data, 8);
    id = (uint32_t)(word >> 32);
    fill(expected, s, id);
    if (memcmp(expected, data, POWER_SECTOR)) {
        return false;
    }
    for (unsigned i = h->len; i-- > 0;) {
        const PowerVersion *v = &g_array_index(h, PowerVersion, i);

        if (v->started <= cut && (v->id == id || v->id == POWER_ANY)) {
            return true;
        }
        if (v->stable <= cut && !v->optional) {
            return false;
        }
    }
    return id == 0;
}

/* For who has to find out why. */
static void explain(const PowerRun *run, uint64_t s, const uint8_t *data)
{
    const GArray *h = run->history[s];
    uint64_t word;

    memcpy(&word, data, 8);
    printf("# sector %u shows request %u (of sector %u)\n", (unsigned)s, (unsigned)(word >> 32),
           (unsigned)((uint32_t)word / 64));
    for (unsigned i = 0; i < h->len; i++) {
        const PowerVersion *v = &g_array_index(h, PowerVersion, i);

        printf("# request %u from %u, stable from %d%s\n", v->id, (unsigned)v->started,
               (int)v->stable, v->optional ? ", discard" : "");
    }
}

static void assert_content(PowerRun *run, BlockNode *node, uint64_t cut, unsigned seed)
{
    g_autofree uint8_t *buf = g_malloc(run->size);

    ck_assert_uint_ge(block_node_length(node), run->size);
    ck_assert_int_eq(block_node_pread(node, 0, buf, run->size), 0);
    for (uint64_t s = 0; s < run->sectors; s++) {
        if (allowed(run, s, buf + s * POWER_SECTOR, cut)) {
            continue;
        }
        run->lost++;
        if (!run->drop_flushes) {
            explain(run, s, buf + s * POWER_SECTOR);
            ck_abort_msg("program %u, cut at %u (way %u): sector %u is not as promised", run->seed,
                         (unsigned)cut, seed, (unsigned)s);
        }
    }
}

static BlockNode *top_on(PowerRun *run, BlockNode *file, const char *snapshot)
{
    BlockNode *node = block_node_new(run->format, NULL);
    GError *error = NULL;

    ck_assert(object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL));
    ck_assert(object_property_set_str(OBJECT(node), "discard", "unmap", NULL));
    if (snapshot) {
        ck_assert(object_property_set_str(OBJECT(node), "snapshot", snapshot, NULL));
        ck_assert(object_property_set_bool(OBJECT(node), "read-only", true, NULL));
    }
    if (!block_node_open(node, &error)) {
        ck_abort_msg("program %u: %s", run->seed, error->message);
    }
    return node;
}

static void assert_snapshots(PowerRun *run, const MemPlatter *p, uint64_t cut)
{
    g_autofree uint8_t *buf = g_malloc(run->size);

    for (unsigned i = 0; i < run->saved->len; i++) {
        const PowerSnapshot *sn = &g_array_index(run->saved, PowerSnapshot, i);
        uint8_t expected[POWER_SECTOR];
        BlockNode *file, *node;

        if (cut < sn->from || cut > sn->until) {
            continue;
        }
        file = memfile_new(p->data, p->size, 0);
        node = top_on(run, file, sn->name);
        ck_assert_int_eq(block_node_pread(node, 0, buf, run->size), 0);
        for (uint64_t s = 0; s < run->sectors; s++) {
            fill(expected, s, sn->ids[s]);
            if (sn->ids[s] != POWER_ANY && memcmp(buf + s * POWER_SECTOR, expected, POWER_SECTOR)) {
                ck_abort_msg("program %u, cut at %u: sector %u of snapshot %s", run->seed,
                             (unsigned)cut, (unsigned)s, sn->name);
            }
        }
        object_unref(node);
        object_unref(file);
    }
}

static void ask_oracle(PowerRun *run, const MemPlatter *p, uint64_t cut, unsigned seed)
{
    g_autofree char *path = g_build_filename(run->folder, "cut.qcow2", NULL);
    Oracle o;

    ck_assert(g_file_set_contents_full(path, (const char *)p->data, (gssize)p->size,
                                       G_FILE_SET_CONTENTS_NONE, 0644, NULL));
    o = oracle_check(path, "");
    ck_assert_msg(o.status == 0 || o.status == 3,
                  "program %u, cut at %u (way %u): qemu-img check says %d, %u corruptions",
                  run->seed, (unsigned)cut, seed, o.status, (unsigned)o.r.corruptions);
    run->oracle_checks++;
}

static void check_and_repair(PowerRun *run, BlockNode *node, uint64_t cut, unsigned seed)
{
    GError *error = NULL;
    BlockCheckResult r;

    if (!check_node(node, 0, &r, &error)) {
        ck_abort_msg("%s", error->message);
    }
    ck_assert_msg(r.corruptions == 0 && r.check_errors == 0,
                  "program %u, cut at %u (way %u): %u corruptions", run->seed, (unsigned)cut, seed,
                  (unsigned)r.corruptions);
    run->leaks += r.leaks;
    if (r.leaks > 0) {
        ck_assert(check_node(node, BLOCK_FIX_LEAKS, &r, NULL));
        ck_assert_uint_eq(r.leaks + r.corruptions, 0);
        assert_content(run, node, cut, seed);
    }
}

static void examine(PowerRun *run, const MemPlatter *p, uint64_t cut, unsigned seed, bool oracle)
{
    BlockNode *file = memfile_new(p->data, p->size, 0);
    BlockNode *node = top_on(run, file, NULL);

    run->cuts++;
    assert_content(run, node, cut, seed);
    if (BLOCK_NODE_GET_CLASS(node)->check) {
        check_and_repair(run, node, cut, seed);
    }
    object_unref(node);
    object_unref(file);
    if (seed == 0) {
        assert_snapshots(run, p, cut);
    }
    if (oracle) {
        ask_oracle(run, p, cut, seed);
    }
}

/* ---- the cuts -------------------------------------------------------------------------------- */

static void all_cuts(PowerRun *run, const GArray *log, unsigned seeds, unsigned sample)
{
    GRand *rand = g_rand_new_with_seed(run->seed ^ 0x5eed);
    unsigned flushed = 0, n = 0;
    MemPlatter stable;

    mem_platter_init(&stable, run->start, run->start_size);
    for (unsigned cut = 0; cut <= log->len; cut++) {
        for (unsigned seed = 0; seed < seeds; seed++, n++) {
            MemPlatter p;

            mem_platter_copy(&p, &stable);
            if (seed == 0 && cut % 2 == 0) { /* all of it has arrived */
                for (unsigned i = flushed; i < cut; i++) {
                    const MemOp *op = &g_array_index(log, MemOp, i);

                    mem_platter_apply(&p, op, 0, op->bytes);
                }
            } else if (seed > 0 || cut % 4 == 1) { /* else: nothing has */
                mem_platter_cut(&p, log, flushed, cut, rand);
            } else {
                for (unsigned i = flushed; i < cut; i++) {
                    const MemOp *op = &g_array_index(log, MemOp, i);

                    mem_platter_apply(&p, op, 0, op->fua ? op->bytes : 0);
                }
            }
            examine(run, &p, cut, seed, sample && n % sample == 0);
            mem_platter_clear(&p);
        }
        if (cut < log->len && g_array_index(log, MemOp, cut).op == BLOCK_OP_FLUSH &&
            !run->drop_flushes) {
            for (; flushed <= cut; flushed++) {
                const MemOp *op = &g_array_index(log, MemOp, flushed);

                mem_platter_apply(&stable, op, 0, op->bytes);
            }
        }
    }
    mem_platter_clear(&stable);
    g_rand_free(rand);
}

static void start(PowerRun *run, const char *image)
{
    run->rand = g_rand_new_with_seed(run->seed);
    run->sectors = run->size / POWER_SECTOR;
    run->history = g_new(GArray *, run->sectors);
    for (uint64_t s = 0; s < run->sectors; s++) {
        run->history[s] = g_array_new(FALSE, FALSE, sizeof(PowerVersion));
    }
    run->saved = g_array_new(FALSE, FALSE, sizeof(PowerSnapshot));
    g_autofree void *zeroes = image ? NULL : g_malloc0(run->size);
    run->file = image ? memfile_load(image, run->seed + 1)
                      : memfile_new(zeroes, run->size, run->seed + 1);
    run->start_size = memfile_size(run->file);
    run->start = g_memdup2(memfile_data(run->file), run->start_size);
    memfile_record(run->file, true);
    run->node = top_on(run, run->file, NULL);
    run->be = block_backend_new(NULL, NULL, run->node, NULL);
    ck_assert_ptr_nonnull(run->be);
}

static void finish(PowerRun *run)
{
    for (uint64_t s = 0; s < run->sectors; s++) {
        g_array_free(run->history[s], TRUE);
    }
    g_free(run->history);
    for (unsigned i = 0; i < run->saved->len; i++) {
        g_free(g_array_index(run->saved, PowerSnapshot, i).name);
        g_free(g_array_index(run->saved, PowerSnapshot, i).ids);
    }
    g_array_free(run->saved, TRUE);
    g_free(run->start);
    g_rand_free(run->rand);
    object_unref(run->file);
}

void power_run(PowerRun *run, const char *image, unsigned seeds, unsigned sample)
{
    block_workers_ref(); /* thousands of images are opened: threads are not made anew for each */
    start(run, image);
    run_program(run);
    close_drive(run->be); /* what closing writes is part of the record */
    object_unref(run->node);
    memfile_record(run->file, false);
    run->grown = memfile_size(run->file);
    all_cuts(run, memfile_log(run->file), seeds, sample);
    finish(run);
    block_workers_unref();
}
