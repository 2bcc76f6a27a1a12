/* A file in memory: see memfile.h. */
#include "tests/unit/memfile.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/block/block_priv.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define SECTOR UINT64_C(512)

typedef struct MemFile {
    BlockNode parent;
    pthread_mutex_t mutex; /* guards all but the queue */
    uint8_t *data;
    uint64_t size, room, limit;
    GArray *log;
    bool recording;
    MemFaults faults;
    uint64_t requests, failed;
    /* What waits, under the engine lock. */
    GPtrArray *waiting;
    BottomHalf *bh;
    GRand *rand; /* NULL: in order */
} MemFile;
OBJECT_DECLARE_TYPE(MemFile, BlockNodeClass, MEM_FILE, TYPE_MEMFILE)

static void op_clear(void *opaque)
{
    g_free(((MemOp *)opaque)->data);
}

static int reserve(MemFile *s, uint64_t end)
{
    if (end <= s->size) {
        return 0;
    }
    if (end > s->limit) {
        return ENOSPC;
    }
    if (end > s->room) {
        uint64_t room = MAX(end + end / 4, 64 * KiB);
        uint8_t *data = realloc(s->data, room);

        if (!data) {
            return ENOSPC;
        }
        memset(data + s->room, 0, room - s->room);
        s->data = data;
        s->room = room;
    }
    s->size = end;
    __atomic_store_n(&s->parent.length, end, __ATOMIC_RELAXED);
    return 0;
}

static void record(MemFile *s, const BlockReq *req, uint64_t bytes)
{
    MemOp op = { .op = req->op == BLOCK_OP_DISCARD ? BLOCK_OP_ZERO : req->op,
                 .fua = req->flags & BLOCK_FUA,
                 .offset = req->offset,
                 .bytes = bytes };

    if (!s->recording) {
        return;
    }
    if (req->op == BLOCK_OP_WRITE) {
        op.data = g_memdup2(s->data + req->offset, bytes);
    }
    g_array_append_val(s->log, op);
}

static int change(MemFile *s, BlockReq *req, uint64_t bytes)
{
    uint64_t end = req->offset + bytes;
    int error = req->op == BLOCK_OP_FLUSH ? 0 : reserve(s, end);

    if (error) {
        return error;
    }
    if (req->op == BLOCK_OP_WRITE) {
        block_iov_to_buf(req->iov, req->niov, 0, s->data + req->offset, bytes);
    } else if (req->op != BLOCK_OP_FLUSH) {
        memset(s->data + req->offset, 0, bytes);
    }
    record(s, req, bytes);
    return 0;
}

static void read_some(MemFile *s, BlockReq *req, uint64_t bytes)
{
    uint64_t there = req->offset < s->size ? MIN(s->size - req->offset, bytes) : 0;

    if (there > 0) {
        block_iov_from_buf(req->iov, req->niov, 0, s->data + req->offset, there);
    }
    block_iov_zero(req->iov, req->niov, there, bytes - there);
}

/* true: this one fails. */
static bool fails(MemFile *s, const BlockReq *req)
{
    const MemFaults *f = &s->faults;

    if (req->op == BLOCK_OP_STATUS || (f->ops && !(f->ops >> req->op & 1))) {
        return false;
    }
    s->requests++;
    if (!f->first || s->requests < f->first || s->requests - f->first > f->count) {
        return false;
    }
    s->failed++;
    return true;
}

static int carry_out(MemFile *s, BlockReq *req)
{
    uint64_t torn;

    if (fails(s, req)) {
        torn = MIN((uint64_t)MAX(s->faults.torn, 0), req->bytes);
        if (req->op == BLOCK_OP_WRITE && torn > 0) {
            change(s, req, torn);
        } else if (req->op == BLOCK_OP_READ && torn > 0) {
            read_some(s, req, torn);
        }
        return s->faults.error;
    }
    switch (req->op) {
    case BLOCK_OP_READ:
        read_some(s, req, req->bytes);
        return 0;
    case BLOCK_OP_STATUS:
        req->status->bytes = req->bytes;
        req->status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA;
        return 0;
    case BLOCK_OP_DISCARD:
        if (req->offset >= s->size) {
            return 0;
        }
        return change(s, req, MIN(req->bytes, s->size - req->offset));
    default:
        return change(s, req, req->bytes);
    }
}

static int memfile_sync(BlockNode *node, BlockReq *req)
{
    MemFile *s = MEM_FILE(node);
    int error;

    pthread_mutex_lock(&s->mutex);
    error = carry_out(s, req);
    pthread_mutex_unlock(&s->mutex);
    return error;
}

static void run_one(void *opaque)
{
    MemFile *s = opaque;
    BlockReq *req;
    unsigned at = 0;

    if (s->waiting->len == 0) {
        return;
    }
    if (s->rand) {
        at = (unsigned)g_rand_int_range(s->rand, 0, (gint32)s->waiting->len);
    }
    req = g_ptr_array_remove_index(s->waiting, at);
    if (s->waiting->len > 0) {
        bh_schedule(s->bh);
    }
    block_req_complete(req, memfile_sync(&s->parent, req));
}

static void memfile_submit(BlockNode *node, BlockReq *req)
{
    MemFile *s = MEM_FILE(node);

    g_ptr_array_add(s->waiting, req);
    bh_schedule(s->bh);
}

static bool memfile_open(BlockNode *node, GError **error)
{
    MemFile *s = MEM_FILE(node);

    node->length = s->size;
    node->discard = true;
    s->waiting = g_ptr_array_new();
    s->bh = bh_new(run_one, s);
    return true;
}

static void memfile_close(BlockNode *node)
{
    MemFile *s = MEM_FILE(node);

    bh_free(g_steal_pointer(&s->bh));
    g_ptr_array_free(g_steal_pointer(&s->waiting), TRUE);
}

static bool memfile_resize(BlockNode *node, uint64_t bytes, const char *preallocation,
                           GError **error)
{
    MemFile *s = MEM_FILE(node);
    int e;

    pthread_mutex_lock(&s->mutex);
    e = reserve(s, bytes);
    if (!e && bytes < s->size) {
        memset(s->data + bytes, 0, s->size - bytes);
        s->size = bytes;
        __atomic_store_n(&node->length, bytes, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&s->mutex);
    if (e) {
        g_set_error(error, g_quark_from_static_string("test"), 1, "memfile: %s", g_strerror(e));
    }
    return !e;
}

static void memfile_init(Object *obj)
{
    MemFile *s = MEM_FILE(obj);

    pthread_mutex_init(&s->mutex, NULL);
    s->limit = UINT64_C(1) << 40;
    s->log = g_array_new(FALSE, FALSE, sizeof(MemOp));
    g_array_set_clear_func(s->log, op_clear);
}

static void memfile_finalize(Object *obj)
{
    MemFile *s = MEM_FILE(obj);

    pthread_mutex_destroy(&s->mutex);
    g_array_free(s->log, TRUE);
    free(s->data);
    if (s->rand) {
        g_rand_free(s->rand);
    }
}

static void memfile_class_init(ObjectClass *klass, const void *data)
{
    BlockNodeClass *node = BLOCK_NODE_CLASS(klass);

    node->driver = "memfile";
    node->open = memfile_open;
    node->close = memfile_close;
    node->submit = memfile_submit;
    node->sync = memfile_sync;
    node->resize = memfile_resize;
}

static const TypeInfo memfile_info = {
    .name = TYPE_MEMFILE,
    .parent = TYPE_BLOCK_NODE,
    .doc = "A file in memory that tests look at",
    .instance_size = sizeof(MemFile),
    .instance_init = memfile_init,
    .instance_finalize = memfile_finalize,
    .class_init = memfile_class_init,
};

static void register_memfile(void)
{
    type_register_static(&memfile_info);
}
type_init(register_memfile)

/* ---- what tests call ------------------------------------------------------------------------- */

BlockNode *memfile_new(const void *data, uint64_t size, uint32_t seed)
{
    BlockNode *node = block_node_new("memfile", NULL);
    MemFile *s = MEM_FILE(node);

    if (reserve(s, size)) {
        abort();
    }
    if (size > 0) {
        memcpy(s->data, data, size);
    }
    s->rand = seed ? g_rand_new_with_seed(seed) : NULL;
    if (!block_node_open(node, NULL)) {
        abort();
    }
    return node;
}

BlockNode *memfile_load(const char *path, uint32_t seed)
{
    g_autofree char *content = NULL;
    gsize n;

    if (!g_file_get_contents(path, &content, &n, NULL)) {
        abort();
    }
    return memfile_new(content, n, seed);
}

void memfile_save(BlockNode *node, const char *path)
{
    MemFile *s = MEM_FILE(node);

    if (!g_file_set_contents_full(path, (const char *)s->data, (gssize)s->size,
                                  G_FILE_SET_CONTENTS_NONE, 0644, NULL)) {
        abort();
    }
}

void memfile_set_limit(BlockNode *node, uint64_t bytes)
{
    MEM_FILE(node)->limit = bytes;
}

void memfile_set_faults(BlockNode *node, const MemFaults *faults)
{
    static const MemFaults none;
    MemFile *s = MEM_FILE(node);

    pthread_mutex_lock(&s->mutex);
    s->faults = faults ? *faults : none;
    s->requests = s->failed = 0;
    pthread_mutex_unlock(&s->mutex);
}

static uint64_t locked_read(MemFile *s, const uint64_t *field)
{
    uint64_t v;

    pthread_mutex_lock(&s->mutex);
    v = *field;
    pthread_mutex_unlock(&s->mutex);
    return v;
}

uint64_t memfile_requests(BlockNode *node)
{
    return locked_read(MEM_FILE(node), &MEM_FILE(node)->requests);
}

uint64_t memfile_failed(BlockNode *node)
{
    return locked_read(MEM_FILE(node), &MEM_FILE(node)->failed);
}

void memfile_record(BlockNode *node, bool on)
{
    MEM_FILE(node)->recording = on;
}

const GArray *memfile_log(BlockNode *node)
{
    return MEM_FILE(node)->log;
}

uint64_t memfile_log_length(BlockNode *node)
{
    MemFile *s = MEM_FILE(node);
    uint64_t n;

    pthread_mutex_lock(&s->mutex);
    n = s->log->len;
    pthread_mutex_unlock(&s->mutex);
    return n;
}

const uint8_t *memfile_data(BlockNode *node)
{
    return MEM_FILE(node)->data;
}

uint64_t memfile_size(BlockNode *node)
{
    return MEM_FILE(node)->size;
}

/* ---- power cuts ------------------------------------------------------------------------------ */

static void platter_reserve(MemPlatter *p, uint64_t end)
{
    if (end > p->room) {
        uint64_t room = MAX(end + end / 2, 64 * KiB);

        p->data = g_realloc(p->data, room);
        memset(p->data + p->room, 0, room - p->room);
        p->room = room;
    }
    p->size = MAX(p->size, end);
}

void mem_platter_init(MemPlatter *p, const void *data, uint64_t size)
{
    memset(p, 0, sizeof(*p));
    platter_reserve(p, size);
    if (size > 0) {
        memcpy(p->data, data, size);
    }
}

void mem_platter_copy(MemPlatter *p, const MemPlatter *from)
{
    mem_platter_init(p, from->data, from->size);
}

void mem_platter_clear(MemPlatter *p)
{
    g_clear_pointer(&p->data, g_free);
}

void mem_platter_apply(MemPlatter *p, const MemOp *op, uint64_t from, uint64_t to)
{
    if (op->op == BLOCK_OP_FLUSH || from >= to) {
        return;
    }
    platter_reserve(p, op->offset + to);
    if (op->data) {
        memcpy(p->data + op->offset + from, op->data + from, to - from);
    } else {
        memset(p->data + op->offset + from, 0, to - from);
    }
}

/* Sectors are whole: those of the file, not of the request. */
static void apply_sectors(MemPlatter *p, const MemOp *op, GRand *rand)
{
    for (uint64_t at = 0, next; at < op->bytes; at = next) {
        next = MIN(op->bytes, (op->offset + at) / SECTOR * SECTOR + SECTOR - op->offset);
        if (g_rand_boolean(rand)) {
            mem_platter_apply(p, op, at, next);
        }
    }
}

void mem_platter_cut(MemPlatter *p, const GArray *log, unsigned start, unsigned end, GRand *rand)
{
    GArray *order = g_array_new(FALSE, FALSE, sizeof(unsigned));
    unsigned sure = 0; /* the first so many of `order` end with a FUA write */

    for (unsigned i = start; i < end; i++) {
        const MemOp *op = &g_array_index(log, MemOp, i);
        unsigned at = (unsigned)g_rand_int_range(rand, (gint32)sure, (gint32)order->len + 1);

        if (op->fua) {
            g_array_append_val(order, i);
            sure = order->len;
        } else {
            g_array_insert_val(order, at, i);
        }
    }
    for (unsigned i = 0; i < order->len; i++) {
        const MemOp *op = &g_array_index(log, MemOp, g_array_index(order, unsigned, i));
        int how = g_rand_int_range(rand, 0, 5);

        if (op->fua || how < 2) {
            mem_platter_apply(p, op, 0, op->bytes);
        } else if (how == 2) {
            apply_sectors(p, op, rand);
        }
    }
    g_array_free(order, TRUE);
}
