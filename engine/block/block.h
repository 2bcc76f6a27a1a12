/*
 * Disks: what a device model talks to (BlockBackend), and the graph of nodes below it (BlockNode)
 * that ends in a file.
 *
 *     ide-hd ──► BlockBackend "hda" ──► throttle ──► qcow2 ──► file        (backing: ──► raw ──►
 * file) device     policy, statistics,    filters      format    protocol limits, medium
 *
 * Locks: every function here needs the engine lock, unless it says otherwise. Requests may be
 * submitted from any thread that holds it (a vCPU's in a device handler). They do not wait for the
 * medium (what the host's cache takes at once is done at once: docs/block.md), and never complete
 * from within the call that submits them: `done` runs later, on the main loop, with the engine lock
 * held. Between the two, system calls run in the kernel (io_uring) or on worker threads, without
 * the lock. Buffers stay valid and, for writes, unchanged until `done`.
 *
 * Errors of requests are errno values (0: fine): a device translates them to its own. docs/block.md
 * has the drivers, their options and what a driver has to provide (block_priv.h).
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/qom/object.h"

#define TYPE_BLOCK_BACKEND "block-backend"
#define TYPE_BLOCK_NODE    "block-node"

#define BLOCK_SECTOR_SIZE 512
#define BLOCK_MAX_BYTES   (UINT64_C(1) << 62) /* of an image: offsets never overflow */
#define BLOCK_MAX_REQUEST                                                       \
    (UINT64_C(1) << 30) /* bytes of one read or write; discards and zeroes have \
                           no limit */
#define BLOCK_MAX_IOV 1024

typedef struct BlockBackend BlockBackend;
typedef struct BlockNode BlockNode;
typedef struct BlockAio BlockAio;

typedef enum {
    BLOCK_OP_READ,
    BLOCK_OP_WRITE,
    BLOCK_OP_FLUSH,
    BLOCK_OP_DISCARD,
    BLOCK_OP_ZERO,
    BLOCK_OP_STATUS,
    BLOCK_OP_COUNT
} BlockOp;
const char *block_op_name(BlockOp op); /* "read", "write", "flush", "discard", "zero", "status" */

enum {                          /* flags of a request */
       BLOCK_FUA = 1 << 0,      /* write, zero: on stable storage before it completes */
       BLOCK_NO_UNMAP = 1 << 1, /* zero: allocate, do not punch a hole */
       BLOCK_MAY_UNMAP =
           1 << 2, /* zero: a hole is welcome, whatever detect-zeroes and discard say */
       BLOCK_NO_FALLBACK = 1 << 3, /* zero: ENOTSUP rather than writing zeroes slowly */
       BLOCK_FRESH = 1 << 4,       /* write: a hint, nothing is there yet */
};

/* ---- requests -------------------------------------------------------------------------------- */

/* `error`: 0 or an errno value. ENOMEDIUM, EROFS, EINVAL and ECANCELED are the layer's own: no
 * medium, a write to what is read-only, a range outside the image, cancelled. */
typedef void (*BlockDoneFn)(void *opaque, int error);

/*
 * The vectors themselves are copied, the memory they point at is not. The result is valid until
 * `done` is called, which happens exactly once, whatever becomes of the medium meanwhile. A range
 * beyond the end of the image is EINVAL (devices check first and have their own word for it).
 */
BlockAio *block_readv(BlockBackend *be, uint64_t offset, const struct iovec *iov, unsigned niov,
                      BlockDoneFn done, void *opaque);
BlockAio *block_writev(BlockBackend *be, uint64_t offset, const struct iovec *iov, unsigned niov,
                       unsigned flags, BlockDoneFn done, void *opaque);
/* The same with one buffer. */
BlockAio *block_read(BlockBackend *be, uint64_t offset, void *buf, size_t len, BlockDoneFn done,
                     void *opaque);
BlockAio *block_write(BlockBackend *be, uint64_t offset, const void *buf, size_t len,
                      unsigned flags, BlockDoneFn done, void *opaque);
/* A read that needs no waiting, as the host has the data in its cache, is done on return: true.
 * False: nothing has happened, and block_read is the way (limits, filters, queues, errors and a
 * cold cache all are). Copies on the calling thread, so nothing large. */
bool block_read_now(BlockBackend *be, uint64_t offset, void *buf, size_t len);
/*
 * A barrier: when it completes without an error, every write, zero and discard that was submitted
 * through this backend before it, completed or not at that time, is on stable storage. What is
 * submitted after it does not wait for it.
 */
BlockAio *block_flush(BlockBackend *be, BlockDoneFn done, void *opaque);
/* A hint: the contents become undefined (reads give what was there, or zeroes). Never fails for
 * lack of support. */
BlockAio *block_discard(BlockBackend *be, uint64_t offset, uint64_t bytes, BlockDoneFn done,
                        void *opaque);
/* Reads as zeroes afterwards; without holes where the medium cannot make any. */
BlockAio *block_write_zeroes(BlockBackend *be, uint64_t offset, uint64_t bytes, unsigned flags,
                             BlockDoneFn done, void *opaque);

enum {                                  /* BlockStatus.flags */
       BLOCK_STATUS_DATA = 1 << 0,      /* holds data that is stored somewhere */
       BLOCK_STATUS_ZERO = 1 << 1,      /* reads as zeroes */
       BLOCK_STATUS_ALLOCATED = 1 << 2, /* decided by the top image, not by its backing chain */
       BLOCK_STATUS_COMPRESSED = 1 << 3,
};
typedef struct BlockStatus {
    uint64_t bytes; /* from the offset asked for: so many have these flags; at least 1 */
    unsigned flags;
    unsigned depth;       /* which image of the backing chain holds it, 0: the top */
    bool has_host_offset; /* a plain mapping into the file of the image at that depth */
    uint64_t host_offset;
} BlockStatus;
/* What is known of a range, without reading it. */
BlockAio *block_status(BlockBackend *be, uint64_t offset, uint64_t bytes, BlockStatus *out,
                       BlockDoneFn done, void *opaque);

/*
 * Asks for an early end. `done` is called in any case, and not from within: with ECANCELED when the
 * request had not gone to the kernel yet, with its result otherwise. Cancelling does not wait: a
 * device that must not see the buffer touched any more (reset, DMA stopped) forgets the request and
 * leaves the buffer to `done`, or drains.
 */
void block_cancel(BlockAio *aio);

/* Between the two, requests are collected, and go to the kernel in one batch at the end. Nests. */
void block_plug(void);
void block_unplug(void);

/* For boards, scripts and tools, on the main thread where waiting is allowed (not in a device
 * handler or callback of one): they run the main loop until the request is done. */
bool block_read_wait(BlockBackend *be, uint64_t offset, void *buf, size_t len, GError **error);
bool block_write_wait(BlockBackend *be, uint64_t offset, const void *buf, size_t len,
                      unsigned flags, GError **error);
bool block_flush_wait(BlockBackend *be, GError **error);
bool block_discard_wait(BlockBackend *be, uint64_t offset, uint64_t bytes, GError **error);
bool block_zero_wait(BlockBackend *be, uint64_t offset, uint64_t bytes, unsigned flags,
                     GError **error);
bool block_status_wait(BlockBackend *be, uint64_t offset, uint64_t bytes, BlockStatus *out,
                       GError **error);

/* ---- drain ----------------------------------------------------------------------------------- */

/*
 * Runs the main loop until no request of the backend (NULL: of any) is in flight: throttled and
 * delayed ones go at once, requests submitted meanwhile are waited for too. Those that an error
 * policy holds back (below) are not in flight. For snapshots and before a medium or a machine goes.
 * Where waiting is allowed; false + error otherwise, or when a script's node does not answer within
 * 30 s.
 */
bool block_drain(BlockBackend *be, GError **error);
/* Between them requests wait in the backend's queue instead of being started. Nests. */
void block_quiesce_begin(BlockBackend *be);
void block_quiesce_end(BlockBackend *be);

/* ---- backends -------------------------------------------------------------------------------- */

typedef enum {
    BLOCK_ERROR_REPORT, /* the guest sees it */
    BLOCK_ERROR_IGNORE, /* the guest sees success */
    BLOCK_ERROR_STOP,   /* the machine pauses; the request is tried again when it goes on */
    BLOCK_ERROR_ENOSPC, /* stop on ENOSPC, report everything else */
} BlockErrorPolicy;

/* What a device gives. All may be NULL. Main thread, engine lock. */
typedef struct BlockDeviceOps {
    /* Another medium, or none, is in the drive now, or its length has changed (`loaded`: there is
     * one). Not called for what was there when the device attached. */
    void (*media_changed)(void *opaque, bool loaded);
    /* The user wants the medium out and the guest has locked the door: tell the guest. `force`: it
     * goes anyhow. */
    void (*eject_request)(void *opaque, bool force);
    /* A request failed and its policy says stop: pause the machine, with this as the reason. The
     * request is kept; block_retry starts it again. */
    void (*stop)(void *opaque, const char *reason);
    bool removable; /* there may be no medium; it may change */
} BlockDeviceOps;

/* A device takes the drive: a second one is refused by name, and so is a drive without a medium
 * when the device is not removable, and a read-only one when `need_write`. detach waits for
 * nothing: requests in flight are told `done` all the same. */
bool block_attach(BlockBackend *be, const BlockDeviceOps *ops, void *opaque, bool need_write,
                  GError **error);
void block_detach(BlockBackend *be);

bool block_inserted(const BlockBackend *be);   /* there is a medium and the tray is closed */
uint64_t block_length(const BlockBackend *be); /* bytes; 0: no medium */
bool block_read_only(const BlockBackend *be);
bool block_write_cache(const BlockBackend *be);        /* writes may be lost before a flush */
void block_set_write_cache(BlockBackend *be, bool on); /* off: every write gets BLOCK_FUA */
bool block_can_discard(const BlockBackend *be);   /* discard=unmap: tell the guest that it may */
const char *block_label(const BlockBackend *be);  /* its id, for messages; valid while it lives */
const char *block_serial(const BlockBackend *be); /* the serial number property; NULL: none */
uint64_t block_in_flight(const BlockBackend *be);

/* Old disks show cylinders, heads and sectors. From the partition table when there is one that
 * implies them, else made up as BIOSes do (16 heads, 63 sectors; at most 16383 cylinders). Reads
 * the first sector: where waiting is allowed, else the made-up one. */
typedef struct BlockGeometry {
    uint32_t cylinders, heads, sectors;
} BlockGeometry;
void block_guess_geometry(BlockBackend *be, BlockGeometry *out);

/* ---- the medium -------------------------------------------------------------------------------
 */

/* The tray as the device sees it: `open` also when the guest asked for it. A locked door is opened
 * by the guest only. */
void block_lock_medium(BlockBackend *be, bool locked); /* device: PREVENT MEDIUM REMOVAL */
bool block_medium_locked(const BlockBackend *be);
void block_set_tray(BlockBackend *be, bool open); /* device: START STOP UNIT with LoEj */
bool block_tray_open(const BlockBackend *be);
/* The user's side. eject: BUSY when the door is locked and not `force` (the guest is told that
 * somebody waits). change: ejects what there is, inserts `root` (takes a reference) and closes the
 * tray. Both drain. */
bool block_eject(BlockBackend *be, bool force, GError **error);
bool block_change_medium(BlockBackend *be, BlockNode *root, bool force, GError **error);

/* Starts again what an error policy held back: the device calls it when its machine goes on. */
void block_retry(BlockBackend *be);
unsigned block_held_back(const BlockBackend *be);
/* Drops what is held back: `done` gets ECANCELED. A reset, or a restored state that has its own. */
void block_forget_held_back(BlockBackend *be);

/* ---- statistics -------------------------------------------------------------------------------
 */

#define BLOCK_HISTOGRAM_BINS \
    24 /* bin n: latency below 2^n microseconds; the last: anything above */
typedef struct BlockStats {
    uint64_t count, bytes, errors;
    uint64_t total_ns, max_ns;
    uint64_t histogram[BLOCK_HISTOGRAM_BINS];
} BlockStats;
void block_get_stats(const BlockBackend *be, BlockOp op, BlockStats *out);
void block_reset_stats(BlockBackend *be);

/* ---- making -----------------------------------------------------------------------------------
 */

/* A backend below `parent` as `id` (a machine, or NULL: /drives). `root` may be NULL (an empty
 * drive). Properties: id, rerror, werror, serial, write-cache, max-in-flight. Borrowed: the tree
 * holds it. */
BlockBackend *block_backend_new(Object *parent, const char *id, BlockNode *root, GError **error);
BlockNode *block_root(const BlockBackend *be); /* borrowed; NULL: no medium */

typedef enum {
    BLOCK_CACHE_WRITEBACK,
    BLOCK_CACHE_NONE,
    BLOCK_CACHE_WRITETHROUGH,
    BLOCK_CACHE_DIRECTSYNC,
    BLOCK_CACHE_UNSAFE
} BlockCacheMode;
typedef enum {
    BLOCK_AIO_AUTO,
    BLOCK_AIO_IO_URING,
    BLOCK_AIO_THREADS,
    BLOCK_AIO_NATIVE
} BlockAioEngine;
typedef enum {
    BLOCK_DETECT_ZEROES_OFF,
    BLOCK_DETECT_ZEROES_ON,
    BLOCK_DETECT_ZEROES_UNMAP
} BlockDetectZeroes;

/* How an image is opened; zeroed: read-write, probed, writeback, discard ignored. */
typedef struct BlockOpenOptions {
    const char *format; /* driver name; NULL: probe */
    bool read_only;
    bool auto_read_only; /* read-only where it cannot be written */
    BlockCacheMode cache;
    BlockAioEngine aio;
    bool discard; /* unmap */
    BlockDetectZeroes detect_zeroes;
    bool no_lock;    /* locking=off */
    bool for_check;  /* opened although it is damaged, to be repaired */
    bool no_backing; /* the image alone, without its backing file */
    unsigned depth;  /* of the backing chain so far: drivers pass theirs plus 1 */
} BlockOpenOptions;
/* Opens FILENAME ("PATH", "file:PATH", "null:SIZE", "ram:SIZE", or "DRIVER:…" as drivers register
 * prefixes) with all nodes it needs. One reference. */
BlockNode *block_open(const char *filename, const BlockOpenOptions *options, GError **error);

/* The lowest node of it alone, which holds the bytes; options of the format do not count. */
BlockNode *block_open_file(const char *filename, const BlockOpenOptions *options, GError **error);
/* The format that the content of an open node looks like; "raw" when it is none of the others. */
const char *block_node_probe(BlockNode *node, GError **error);

/* Piece by piece, as -blockdev does: a node of a driver ("file", "raw", "qcow2" …), its properties
 * set through the object model (children are links: "file", "backing"), then opened. */
BlockNode *block_node_new(const char *driver, GError **error); /* one reference */
bool block_node_open(BlockNode *node, GError **error);
/* A filter or overlay of that driver on top of `node`, whose reference it takes in any case. */
BlockNode *block_node_on_top(const char *driver, BlockNode *node, GError **error);
/* Takes a copy-on-write layer on top that ends with the node: what -snapshot does. */
BlockNode *block_node_snapshot(BlockNode *node, GError **error);
uint64_t block_node_length(const BlockNode *node);
bool block_node_read_only(const BlockNode *node);
const char *block_node_driver(const BlockNode *node); /* "file", "qcow2" */
const char *block_node_name(const BlockNode *node);   /* node-name, else the file's name */
/* Puts a filter of that driver (not opened yet; takes its reference) between a drive and what it
 * has. Drains. */
bool block_insert_filter(BlockBackend *be, BlockNode *filter, GError **error);
/* Calls fn for each driver's name, sorted. */
void block_drivers_foreach(void (*fn)(const char *driver, ObjectClass *klass, void *opaque),
                           void *opaque);

/* ---- nodes that scripts answer -----------------------------------------------------------------
 */

#define TYPE_BLOCK_SCRIPT "block-script" /* driver "script": `request` answers everything */
#define TYPE_BLOCK_FAULT  "block-fault"  /* driver "fault": a filter that `request` may disturb */

typedef struct BlockReq BlockScriptRequest;
typedef struct BlockScriptOps {
    /* Main loop, engine lock, not from within a submission. A script node's is answered with
     * block_script_finish, now or later; a fault filter's with block_fault_resolve. */
    void (*request)(void *opaque, BlockScriptRequest *r);
} BlockScriptOps;
/* Of either type; ops NULL: script nodes answer EIO, fault filters pass everything. */
void block_script_set(BlockNode *node, const BlockScriptOps *ops, void *opaque);
BlockOp block_script_op(const BlockScriptRequest *r);
uint64_t block_script_offset(const BlockScriptRequest *r);
uint64_t block_script_bytes(const BlockScriptRequest *r);
uint64_t block_script_index(const BlockScriptRequest *r); /* of this node, from 1 */
/* What a write brings, what a read is to get. */
void block_script_get(const BlockScriptRequest *r, void *buf, size_t len);
void block_script_put(BlockScriptRequest *r, const void *buf, size_t len);
void block_script_finish(BlockScriptRequest *r, int error);

typedef struct BlockFault {
    int error;        /* the request fails with it; 0: it goes on */
    int64_t delay_ns; /* before anything else happens */
    int64_t torn;     /* write: only so many bytes of it are written; -1: all */
    bool power_cut;   /* from this request on nothing is answered but with EIO */
    bool keep_some;   /* of what was not flushed (volatile=on), some writes arrive all the same: */
    uint64_t keep_seed; /* which ones, by this; without keep_some: none */
} BlockFault;
void block_fault_resolve(BlockScriptRequest *r, const BlockFault *fault);
/* The power comes back: requests are passed again. */
void block_fault_power_on(BlockNode *node);
