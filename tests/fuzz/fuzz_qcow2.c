/*
 * Hostile qcow2 images: a small image with something of everything, damaged as the input says, or
 * the input itself; then opened, read, written, checked, repaired, with snapshots, as it says.
 *
 * The file is in memory and cannot grow past a limit; disks larger than that are hostile enough.
 */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/block/tool.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"
#include "tests/unit/memfile.h"

#define FILE_LIMIT (8 * MiB)
#define MAX_PATCH  12
#define MAX_STEPS  16

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_engine_init();
    block_workers_ref(); /* threads are not made anew for each image */
    return 0;
}

/* ---- an image -------------------------------------------------------------------------------- */

typedef struct Image {
    uint8_t *data;
    uint64_t size, cluster;
    unsigned order; /* of refcounts */
    bool extended;
} Image;

static void put(Image *im, uint64_t at, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++) {
        im->data[at + i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
    }
}

static void count(Image *im, uint64_t cluster, uint64_t refs)
{
    unsigned bits = 1U << im->order;
    uint64_t block = 2 * im->cluster;

    if (bits >= 8) {
        put(im, block + cluster * bits / 8, bits / 8, refs);
    } else {
        im->data[block + cluster * bits / 8] |= (uint8_t)(refs << cluster * bits % 8);
    }
}

static void put_header(Image *im, unsigned version, unsigned cluster_bits, uint64_t features)
{
    uint64_t c = im->cluster;

    put(im, 0, 4, 0x514649fb);
    put(im, 4, 4, version);
    put(im, 20, 4, cluster_bits);
    put(im, 24, 8, 60 * c + 512);
    put(im, 36, 4, 4);
    put(im, 40, 8, 3 * c);
    put(im, 48, 8, c);
    put(im, 56, 4, 1);
    put(im, 60, 4, 1);
    put(im, 64, 8, 7 * c);
    if (version == 3) {
        put(im, 72, 8, features | (im->extended ? 16 : 0));
        put(im, 88, 8, 1);
        put(im, 96, 4, im->order);
        put(im, 100, 4, 104);
        put(im, 104, 4, 0x23852875); /* bitmaps */
        put(im, 108, 4, 24);
        put(im, 112, 4, 1);
        put(im, 120, 8, 32);
        put(im, 128, 8, 9 * c);
    }
}

/* Clusters: header, refcount table, refcount block, L1, L2, data, shared data, snapshot table, its
 * L1, bitmaps' directory, bitmap table, compressed data, the snapshot's L2. */
static void put_content(Image *im)
{
    uint64_t c = im->cluster, entry = im->extended ? 16 : 8;
    uint64_t subclusters = im->extended ? 0xffffffff : 0;
    static const uint8_t deflated[] = { 0x63, 0x60, 0x18, 0x05, 0xc3, 0x1d, 0x00, 0x00 };

    put(im, c, 8, 2 * c);
    put(im, 3 * c, 8, 4 * c | UINT64_C(1) << 63);
    put(im, 4 * c, 8, 5 * c | UINT64_C(1) << 63);
    put(im, 4 * c + entry, 8, 6 * c);
    put(im, 4 * c + 2 * entry, 8, UINT64_C(1) << 62 | 11 * c);
    put(im, 4 * c + 3 * entry, 8, im->extended ? 0 : 1);
    for (unsigned i = 0; im->extended && i < 2; i++) {
        put(im, 4 * c + i * entry + 8, 8, subclusters);
    }
    memset(im->data + 5 * c, 0x55, c);
    memset(im->data + 6 * c, 0x66, c);
    put(im, 7 * c, 8, 8 * c); /* a snapshot */
    put(im, 7 * c + 8, 4, 4);
    put(im, 7 * c + 12, 2, 1);
    put(im, 7 * c + 14, 2, 1);
    put(im, 7 * c + 36, 4, 16);
    put(im, 7 * c + 48, 8, 60 * c + 512);
    memcpy(im->data + 7 * c + 56, "1s", 2);
    put(im, 8 * c, 8, 12 * c);
    put(im, 9 * c, 8, 10 * c); /* a bitmap */
    put(im, 9 * c + 8, 4, 1);
    put(im, 9 * c + 12, 4, 2);
    put(im, 9 * c + 16, 1, 1);
    put(im, 9 * c + 17, 1, 9);
    put(im, 9 * c + 18, 2, 1);
    im->data[9 * c + 24] = 'b';
    memcpy(im->data + 11 * c, deflated, sizeof(deflated));
    put(im, 12 * c + entry, 8, 6 * c);
    if (im->extended) {
        put(im, 12 * c + entry + 8, 8, subclusters);
    }
    for (unsigned i = 0; i < 13; i++) {
        count(im, i, i == 6 && im->order > 0 ? 2 : 1);
    }
}

static void make_image(FuzzInput *in, Image *im)
{
    uint8_t how = fuzz_u8(in);
    unsigned cluster_bits = how & 1 ? 14 : how & 2 ? 10 : 9;

    im->cluster = UINT64_C(1) << cluster_bits;
    im->extended = cluster_bits == 14 && how & 2;
    im->order = how & 4 ? 4 : how >> 5 > 6 ? 6 : how >> 5;
    im->size = 13 * im->cluster;
    im->data = g_malloc0(im->size);
    put_header(im, how & 8 && im->order == 4 && !im->extended ? 2 : 3, cluster_bits,
               how & 16 ? 1 : 0);
    put_content(im);
}

/* Numbers in the header, in tables, in entries. */
static void damage(FuzzInput *in, Image *im)
{
    for (unsigned n = fuzz_u8(in) % MAX_PATCH; n > 0; n--) {
        uint8_t where = fuzz_u8(in), how = fuzz_u8(in);
        uint64_t at = (where % 14) * im->cluster +
                      (where / 14 < 9 ? where / 14 * 8U : fuzz_u16(in));
        uint64_t v = 0;

        if (where % 14 == 13) { /* the header, finely */
            at = fuzz_u8(in);
        }
        if (at + 8 > im->size) {
            continue;
        }
        for (unsigned i = 0; i < 8; i++) {
            v = v << 8 | im->data[at + i];
        }
        switch (how % 6) {
        case 0:
            v = fuzz_odd(in);
            break;
        case 1: /* a cluster of the image, with flags */
            v = (fuzz_u8(in) % 20) * im->cluster | (uint64_t)fuzz_u8(in) << 56 |
                (how & 0x80 ? 1 : 0);
            break;
        case 2:
            v ^= UINT64_C(1) << (how / 6);
            break;
        case 3:
            v = 0;
            break;
        case 4: /* compressed, anywhere */
            v = UINT64_C(1) << 62 | (uint64_t)fuzz_u8(in) << 54 | fuzz_u32(in);
            break;
        default:
            put(im, at + how % 8, 1, fuzz_u8(in));
            continue;
        }
        put(im, at, 8, v);
    }
}

/* ---- what is done with it -------------------------------------------------------------------- */

static BlockNode *open_image(BlockNode *file, bool for_check)
{
    BlockNode *node = block_node_new("qcow2", NULL);
    GError *error = NULL;
    bool ok = object_property_set_link(OBJECT(node), "file", OBJECT(file), NULL) &&
              object_property_set_str(OBJECT(node), "discard", "unmap", NULL);

    FUZZ_CHECK(ok);
    node->no_backing = true;
    node->for_check = for_check;
    ok = block_node_open(node, &error);
    fuzz_outcome(ok, error);
    if (!ok) {
        object_unref(node);
        return NULL;
    }
    return node;
}

static void access_disk(FuzzInput *in, BlockNode *node, BlockOp op)
{
    static uint8_t buf[96 * KiB];
    uint64_t length = block_node_length(node), at = fuzz_odd(in), len = 1 + fuzz_u16(in);
    uint8_t unit = fuzz_u8(in);

    if (length == 0) {
        return;
    }
    at = unit & 1 ? at % length : (at << 9) % length;
    len = MIN(len, length - at);
    switch (op) {
    case BLOCK_OP_READ:
        block_node_pread(node, at, buf, len);
        break;
    case BLOCK_OP_WRITE:
        memset(buf, unit, len);
        block_node_pwrite(node, at, buf, len, 0);
        break;
    default:
        block_node_sync_op(node, op, at, op == BLOCK_OP_FLUSH ? 0 : len,
                           unit & 2 ? BLOCK_MAY_UNMAP : 0);
    }
}

static void ask_status(FuzzInput *in, BlockNode *node)
{
    uint64_t length = block_node_length(node), at = length ? fuzz_odd(in) % length : 0;
    BlockStatus st = { 0 };
    BlockReq req;
    int e;

    if (length == 0) {
        return;
    }
    block_req_init(&req, BLOCK_OP_STATUS, at, length - at, NULL, 0, 0, 0, NULL, NULL);
    req.status = &st;
    e = block_node_sync(node, &req);
    block_req_clear(&req);
    FUZZ_CHECK(e || (st.bytes > 0 && st.bytes <= length - at));
}

static void check(BlockNode *node, int fix)
{
    GError *error = NULL;
    BlockCheckResult r, again;
    bool ok = block_image_check(node, fix, &r, NULL, NULL, NULL, &error);

    fuzz_outcome(ok, error);
    if (!ok || fix != (BLOCK_FIX_ERRORS | BLOCK_FIX_LEAKS)) {
        return;
    }
    /* What it says is left is what is left. */
    error = NULL;
    ok = block_image_check(node, 0, &again, NULL, NULL, NULL, &error);
    fuzz_outcome(ok, error);
    FUZZ_CHECK(!ok || (again.corruptions == r.corruptions && again.leaks == r.leaks),
               "%u and %u, then %u and %u", (unsigned)r.corruptions, (unsigned)r.leaks,
               (unsigned)again.corruptions, (unsigned)again.leaks);
}

static void snapshots(FuzzInput *in, BlockNode *node)
{
    static const char *const names[] = { "1", "s", "2", "new", "" };
    const char *name = names[fuzz_u8(in) % G_N_ELEMENTS(names)];
    BlockSnapshotInfo info = { .name = "new", .icount = fuzz_u8(in) };
    GArray *list = g_array_new(FALSE, TRUE, sizeof(info));
    GError *error = NULL;
    bool ok = false;

    switch (fuzz_u8(in) % 4) {
    case 0:
        ok = block_image_snapshot_create(node, &info, &error);
        break;
    case 1:
        ok = block_image_snapshot_goto(node, name, &error);
        break;
    case 2:
        ok = block_image_snapshot_delete(node, name, &error);
        break;
    case 3:
        ok = block_image_snapshot_list(node, list, &error);
        break;
    }
    fuzz_outcome(ok, error);
    g_array_free(list, TRUE);
}

static void backing_and_size(FuzzInput *in, BlockNode *node)
{
    GError *error = NULL;
    bool ok = fuzz_u8(in) & 1
                  ? block_image_change_backing(node, "base", fuzz_u8(in) & 1 ? "raw" : NULL, &error)
                  : block_image_resize(node, (uint64_t)fuzz_u16(in) << 9, NULL, &error);

    fuzz_outcome(ok, error);
}

static void bitmaps(FuzzInput *in, BlockNode *node)
{
    static const char *const names[] = { "b", "bitmap0", "new", "" };
    BlockBitmapEdit edit = { .action = (BlockBitmapAction)(fuzz_u8(in) % 6),
                             .name = names[fuzz_u8(in) % G_N_ELEMENTS(names)],
                             .granularity = UINT64_C(512) << fuzz_u8(in) % 12,
                             .source_name = names[fuzz_u8(in) % G_N_ELEMENTS(names)] };
    GError *error = NULL;
    bool ok = block_image_bitmap(node, &edit, &error);

    fuzz_outcome(ok, error);
}

static void amend(FuzzInput *in, BlockNode *node)
{
    BlockCreateOption option = { "compat", fuzz_u8(in) & 1 ? "0.10" : "1.1" };
    GError *error = NULL;
    bool ok = block_image_amend(node, &option, 1, &error);

    fuzz_outcome(ok, error);
}

/* Takes the file's reference. */
static void run_steps(FuzzInput *in, BlockNode *file)
{
    BlockNode *node = open_image(file, fuzz_u8(in) & 1), *again;

    for (unsigned i = 0; node && i < MAX_STEPS && in->left > 0; i++) {
        uint8_t what = fuzz_u8(in);

        switch (what % 14) {
        case 12:
            bitmaps(in, node);
            break;
        case 13:
            amend(in, node);
            break;
        case 0:
        case 1:
            access_disk(in, node, BLOCK_OP_READ);
            break;
        case 2:
        case 3:
            access_disk(in, node, BLOCK_OP_WRITE);
            break;
        case 4:
            access_disk(in, node, BLOCK_OP_ZERO);
            break;
        case 5:
            access_disk(in, node, BLOCK_OP_DISCARD);
            break;
        case 6:
            access_disk(in, node, BLOCK_OP_FLUSH);
            break;
        case 7:
            check(node, what / 12 % 4);
            break;
        case 8:
            snapshots(in, node);
            break;
        case 9:
            ask_status(in, node);
            break;
        case 10:
            backing_and_size(in, node);
            break;
        case 11:
            object_unref(node);
            again = memfile_new(memfile_data(file), memfile_size(file), 0);
            memfile_set_limit(again, FILE_LIMIT);
            object_unref(file); /* it went with what was on it */
            file = again;
            node = open_image(file, what & 0x80);
            break;
        }
    }
    object_unref(node);
    object_unref(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    BlockNode *file;
    Image im = { 0 };

    if (fuzz_u8(&in) == 0xff) {
        size_t len = in.left;
        const uint8_t *p = fuzz_take(&in, &len);

        FUZZ_CHECK(block_probe_buffer(p, len, NULL)); /* whatever it is, it is something */
        file = memfile_new(p, len, 0);
        in = (FuzzInput){ data, size };
    } else {
        make_image(&in, &im);
        damage(&in, &im);
        file = memfile_new(im.data, im.size, 0);
        g_free(im.data);
    }
    memfile_set_limit(file, FILE_LIMIT);
    run_steps(&in, file);
    while (main_loop_iterate(false)) {
    }
    return 0;
}
