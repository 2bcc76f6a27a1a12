/*
 * What a driver of the block layer provides and uses. Only the files of engine/block include this.
 *
 * A driver is a subclass of BlockNode. Requests come to `submit` under the engine lock and are
 * finished with block_req_complete from any thread, or, where a child's `done` calls, with
 * block_req_done. A driver may change the offset of a request and pass the same one to its child
 * (block_node_submit as its last act); it may also make requests of its own.
 *
 * Slow work (allocation, compression, metadata that is not cached) runs on worker threads without
 * the engine lock: block_work_submit. A worker reads and writes children with block_node_sync, and
 * guards what it shares by a mutex of its own image; it takes the engine lock never.
 */
#pragma once

#include "engine/block/block.h"
#include "engine/block/tool.h"

#include "engine/core/clock.h"

typedef struct BlockReq BlockReq;
typedef void (*BlockReqFn)(BlockReq *req);

#define BLOCK_INLINE_IOV 4
#define BLOCK_MAX_DEPTH  200 /* of a chain of nodes */

/* A request to one node. */
struct BlockReq {
    BlockOp op;
    unsigned flags;
    uint64_t offset, bytes;
    struct iovec *iov; /* read, write: sums to `bytes`; not changed by drivers */
    unsigned niov;
    BlockStatus *status; /* BLOCK_OP_STATUS: the answer */
    int error;           /* when done: errno value */
    bool cancelled;      /* a hint; atomic */
    BlockNode *node;     /* that has it now */
    BlockReqFn done;     /* main loop, engine lock; may free the request */
    void *opaque;
    /* For the node that has it: what it needs until it passes it on. */
    BlockReq *next;
    void *priv;
    struct iovec small[BLOCK_INLINE_IOV];
    struct iovec *own_iov; /* freed with the request */
};

struct BlockNode {
    Object parent;
    uint64_t length; /* bytes; atomic: a file's grows on a worker */
    bool opened, opening;
    unsigned users; /* backends, nodes and requests that hold it open */
    bool read_only; /* property; open may set it (auto-read-only) */
    bool auto_read_only;
    bool discard; /* property: unmap */
    int discard_mode;
    int detect_zeroes;
    bool probed;                         /* its format was guessed from the content */
    bool for_check;                      /* opened although it is damaged: to be repaired */
    bool no_backing;                     /* the backing file is not wanted: it is not opened */
    unsigned depth;                      /* nodes above it in its backing chain */
    char *node_name;                     /* property */
    char *filename;                      /* property of those that have one */
    BlockNode *file_node, *backing_node; /* what the links pointed at when it was opened: counted */
    Object *file;                        /* link: the child that filters and formats read */
    Object *backing;                     /* link: what an overlay does not hold */
    unsigned drained; /* atomic: > 0 while somebody drains: nothing may be delayed */
    uint32_t align;   /* of requests to it that need no detour; a power of 2, at least 1 */
};

typedef struct BlockNodeClass {
    ObjectClass parent_class;
    const char *driver; /* as -blockdev spells it */
    bool is_format;     /* lies on `file`, may be probed */
    bool is_filter;     /* shows what `file` shows */
    bool own_store;     /* writes do not go to `file`, which may be read-only */
    bool needs_file;    /* `file` has to be set before open */

    /* Engine lock, main thread; may block. Sets length, align, read_only. Children are open. On
     * failure it has undone what it did. */
    bool (*open)(BlockNode *node, GError **error);
    void (*close)(BlockNode *node); /* no request is in flight */
    void (*submit)(BlockNode *node, BlockReq *req);
    /* The same, finished on return with an errno value: any thread, without the engine lock (on the
     * main thread with it). NULL: sync requests take the way through submit. */
    int (*sync)(BlockNode *node, BlockReq *req);
    /* ... only on workers: it may wait for requests that end on the main loop. */
    bool sync_on_workers;
    /* Reads what can be had without waiting for anything; false: not all of it, or not so. Under
     * the engine lock, on any thread. NULL: never. */
    bool (*read_now)(BlockNode *node, uint64_t offset, void *buf, size_t len);
    /* The request, which the node has, should end early; may be NULL. */
    void (*cancel)(BlockNode *node, BlockReq *req);
    /* node->drained has become nonzero: what waits for time or bandwidth goes now. */
    void (*drain)(BlockNode *node);
    /* 0: certainly not; 100: certainly. `len` bytes from the start of the file (up to 2 KiB). */
    int (*probe)(const uint8_t *buf, size_t len, const char *filename);

    /* Protocols whose names begin so ("nbd:"), NULL-terminated; and what such a name says, as
     * properties of a new node. */
    const char *const *prefixes;
    bool (*parse_filename)(BlockNode *node, const char *filename, GError **error);

    /* ---- what tools need; main thread, no request in flight; NULL: not supported ---- */
    /* A new image in `filename` (protocols) or on `file` (formats). */
    bool (*create)(const char *filename, const BlockCreateOption *options, unsigned n,
                   GError **error);
    bool (*resize)(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error);
    bool (*check)(BlockNode *node, int fix, BlockCheckResult *out, BlockProgressFn progress,
                  BlockReportFn report, void *opaque, GError **error);
    /* Adds driver-specific text pairs for `img info`. */
    void (*info)(BlockNode *node, void (*add)(void *opaque, const char *key, const char *value),
                 void *opaque);
    bool (*write_compressed)(BlockNode *node, uint64_t offset, const void *buf, size_t len,
                             GError **error);
    bool (*snapshot_list)(BlockNode *node, GArray *out, GError **error); /* BlockSnapshotInfo */
    bool (*snapshot_create)(BlockNode *node, const BlockSnapshotInfo *info, GError **error);
    bool (*snapshot_goto)(BlockNode *node, const char *id_or_name, GError **error);
    bool (*snapshot_delete)(BlockNode *node, const char *id_or_name, GError **error);
    bool (*bitmap_edit)(BlockNode *node, const BlockBitmapEdit *edit, GError **error);
    bool (*change_backing)(BlockNode *node, const char *filename, const char *format,
                           GError **error);
    bool (*make_empty)(BlockNode *node, GError **error); /* nothing is allocated any more */
    bool (*amend)(BlockNode *node, const BlockCreateOption *options, unsigned n, GError **error);
    /* Compression in two halves, so that workers do the first in parallel. One cluster into `out`:
     * its packed length, 0: it does not get smaller. Any thread. */
    size_t (*compress)(BlockNode *node, const void *buf, size_t len, void *out, size_t room);
    /* What compress gave, to that cluster: errno. A worker, or the main thread. */
    int (*write_packed)(BlockNode *node, uint64_t offset, const void *packed, size_t len);
} BlockNodeClass;
OBJECT_DECLARE_TYPE(BlockNode, BlockNodeClass, BLOCK_NODE, TYPE_BLOCK_NODE)

static inline BlockNode *block_node_file(const BlockNode *node)
{
    return node->file_node;
}
static inline BlockNode *block_node_backing(const BlockNode *node)
{
    return node->backing_node;
}

/* A reference that keeps an open node open when it has left the tree. Nodes are closed when they
 * have left it and the last user is gone. */
BlockNode *block_node_use(BlockNode *node);
void block_node_unuse(BlockNode *node); /* NULL is ignored */
/* For a format's `open` that has set the link `backing` itself: opens that node and keeps it. */
bool block_node_take_backing(BlockNode *node, GError **error);
/* Closes an open node that nobody uses, and with it the nodes that lie below it only; they are gone
 * from the tree then. */
void block_node_shut(BlockNode *node);

/* ---- requests -------------------------------------------------------------------------------- */

/* A request with `niov` vectors copied from `iov`, of which it takes the `bytes` from `iov_offset`
 * on. Freed by block_req_free. */
BlockReq *block_req_new(BlockOp op, uint64_t offset, uint64_t bytes, const struct iovec *iov,
                        unsigned niov, uint64_t iov_offset, unsigned flags, BlockReqFn done,
                        void *opaque);
void block_req_init(BlockReq *req, BlockOp op, uint64_t offset, uint64_t bytes,
                    const struct iovec *iov, unsigned niov, uint64_t iov_offset, unsigned flags,
                    BlockReqFn done, void *opaque);
void block_req_clear(BlockReq *req); /* frees what init allocated */
void block_req_free(BlockReq *req);
/* Engine lock. Checks (read-only, discard, detect-zeroes), then the driver. */
void block_node_submit(BlockNode *node, BlockReq *req);
bool block_node_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len);
void block_req_complete(BlockReq *req, int error); /* any thread: `done` runs on the main loop */
/* The main loop itself, with nothing of the block layer below it: what is completed between the two
 * is told at the second, without another turn of the loop. */
void block_tell_begin(void);
void block_tell_end(void);
void block_req_done(BlockReq *req, int error); /* main loop, from another request's done */
/* The `done` of a status request to the node below, whose answer was for its parent's: what is
 * allocated there is not here, and a level deeper. */
void block_status_below_done(BlockReq *req);
/* Does it here: on a worker without the lock, or on the main thread with it (which may run the main
 * loop). Returns the errno value. `done` is not used. */
int block_node_sync(BlockNode *node, BlockReq *req);
/* With one buffer; 0 or errno. */
int block_node_pread(BlockNode *node, uint64_t offset, void *buf, size_t len);
int block_node_pwrite(BlockNode *node, uint64_t offset, const void *buf, size_t len,
                      unsigned flags);
int block_node_sync_op(BlockNode *node, BlockOp op, uint64_t offset, uint64_t bytes,
                       unsigned flags);
void block_node_drain_begin(BlockNode *node); /* it and all below */
void block_node_drain_end(BlockNode *node);
void block_node_cancel(BlockReq *req);

/* Several requests for one: make them with `opaque` the group and `done` block_group_part_done,
 * submit them, then block_group_end; the parent is finished when all are, with the first error. */
typedef struct BlockGroup BlockGroup;
struct BlockGroup {
    BlockReq *parent;
    unsigned pending;
    int error;
    void (*finish)(BlockGroup *group, int error); /* NULL: block_req_done(parent) */
    void *opaque;
};
BlockGroup *block_group_new(BlockReq *parent, void (*finish)(BlockGroup *, int), void *opaque);
/* Part [offset, offset+bytes) of the parent's buffers, to `node` at `at`. */
void block_group_add(BlockGroup *group, BlockNode *node, BlockOp op, uint64_t at, uint64_t bytes,
                     const struct iovec *iov, unsigned niov, uint64_t iov_offset, unsigned flags);
void block_group_end(BlockGroup *group); /* frees it once finished */

/* ---- vectors --------------------------------------------------------------------------------- */

uint64_t block_iov_bytes(const struct iovec *iov, unsigned niov);
void block_iov_zero(const struct iovec *iov, unsigned niov, uint64_t from, uint64_t bytes);
void block_iov_to_buf(const struct iovec *iov, unsigned niov, uint64_t from, void *buf, size_t len);
void block_iov_from_buf(const struct iovec *iov, unsigned niov, uint64_t from, const void *buf,
                        size_t len);
bool block_iov_is_zero(const struct iovec *iov, unsigned niov);
bool block_buf_is_zero(const void *buf, size_t len);

/* ---- ranges that requests may not share ------------------------------------------------------ */

/* Embedded in a node, zeroed. Engine lock. */
typedef struct BlockRange BlockRange;
typedef struct BlockRanges {
    BlockRange *first;
} BlockRanges;
struct BlockRange {
    uint64_t start, end;
    bool holds, shared;
    void (*acquired)(void *opaque);
    void *opaque;
    BlockRange *next;
};
/* Calls acquired(opaque) when no earlier range overlaps (two shared ones may): now, or from an
 * unlock. */
void block_range_lock(BlockRanges *ranges, BlockRange *range, uint64_t start, uint64_t end,
                      bool shared, void (*acquired)(void *opaque), void *opaque);
void block_range_unlock(BlockRanges *ranges, BlockRange *range);

/* ---- worker threads -------------------------------------------------------------------------- */

/* Reference counted: nodes that use workers hold the pool while they are open. The threads are
 * joined with the last reference. */
void block_workers_ref(void);
void block_workers_unref(void);
typedef struct BlockWork BlockWork;
struct BlockWork {
    void (*run)(BlockWork *work); /* on a worker, no lock; may free it */
    BlockWork *next;
};
void block_work_submit(BlockWork *work); /* any thread; run in order of submission, in parallel */
bool block_work_remove(BlockWork *work); /* true: it had not started and will not */
bool block_on_worker(void);
/* Around a wait for something that another worker may have to do. */
void block_worker_waits(bool begins);

/* ---- io_uring -------------------------------------------------------------------------------- */

typedef struct BlockUringReq BlockUringReq;
bool block_uring_ref(GError **error); /* false: the kernel or the container denies it */
void block_uring_unref(void);
/* A read, write or flush of a file descriptor. Engine lock. Short transfers are continued; a read
 * beyond the end of the file gives zeroes. Finishes the request. */
void block_uring_submit(BlockReq *req, int fd);
void block_uring_cancel(BlockReq *req);
bool block_plugged(void); /* requests are collected: between block_plug and block_unplug */

/* ---- Linux AIO ------------------------------------------------------------------------------- */

/* For files that are opened past the host's cache; the same rules, reads and writes only. The call
 * that submits may have to wait where the file system does. A request cannot be cancelled. */
bool block_aio_ref(GError **error);
void block_aio_unref(void);
void block_aio_submit(BlockReq *req, int fd);
void block_aio_unplugged(void);

/* ---- probing and opening --------------------------------------------------------------------- */

#define BLOCK_PROBE_BYTES 2048
/* The format of an open protocol node's content: "raw" when nothing else fits. *guessed: nothing
 * said so for certain. */
const char *block_probe(BlockNode *file, GError **error);
const char *block_probe_buffer(const uint8_t *buf, size_t len, const char *filename);
BlockNodeClass *block_driver_find(const char *driver, GError **error);

#define TYPE_BLOCK_FILE    "block-file"
#define TYPE_BLOCK_RAW     "block-raw"
#define TYPE_BLOCK_OVERLAY "block-overlay"
