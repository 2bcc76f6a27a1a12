/*
 * What tools do with images beyond requests: creating, checking, resizing, snapshots, and jobs that
 * go through whole images on worker threads (copy, compare, measuring speed).
 *
 * Main thread, engine lock, where waiting is allowed, unless it says otherwise. Nodes come from
 * block_open or block_node_new.
 */
#pragma once

#include "engine/block/block.h"

/* ---- single operations ----------------------------------------------------------------------- */

/* Keys and values of a creation, as text ("size" → "10G"); what a driver does not know it refuses.
 */
typedef struct BlockCreateOption {
    const char *key, *value;
} BlockCreateOption;

typedef struct BlockCheckResult {
    uint64_t corruptions, leaks, check_errors, corruptions_fixed, leaks_fixed;
    uint64_t allocated_clusters, total_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;
} BlockCheckResult;
enum { BLOCK_FIX_LEAKS = 1, BLOCK_FIX_ERRORS = 2 };

typedef struct BlockSnapshotInfo {
    char id[64], name[256];
    uint64_t vm_state_size, disk_size, date_sec, vm_clock_ns, icount;
    uint32_t date_nsec;
} BlockSnapshotInfo;

typedef enum {
    BLOCK_BITMAP_ADD,
    BLOCK_BITMAP_REMOVE,
    BLOCK_BITMAP_CLEAR,
    BLOCK_BITMAP_ENABLE,
    BLOCK_BITMAP_DISABLE,
    BLOCK_BITMAP_MERGE,
} BlockBitmapAction;
typedef struct BlockBitmapEdit {
    BlockBitmapAction action;
    const char *name;
    uint64_t granularity;    /* add: bytes; 0: a cluster, 4 KiB at least */
    BlockNode *source;       /* merge: the image with the other bitmap; NULL: the same */
    const char *source_name; /* merge */
} BlockBitmapEdit;

/* Steps of something long: fn(done, total) from time to time; false ends it (ECANCELED). */
typedef bool (*BlockProgressFn)(void *opaque, uint64_t done, uint64_t total);
typedef void (*BlockReportFn)(void *opaque, const char *line);

/* A new image of that driver ("raw", "qcow2", "file"); what was in the file is lost. */
bool block_image_create(const char *driver, const char *filename, const BlockCreateOption *options,
                        unsigned n, GError **error);
/* Those that a driver does not offer fail with ENGINE_ERROR_UNSUPPORTED. */
bool block_image_resize(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error);
/* `report` (may be NULL) gets a line for each finding and each repair. */
bool block_image_check(BlockNode *node, int fix, BlockCheckResult *out, BlockProgressFn progress,
                       BlockReportFn report, void *opaque, GError **error);
bool block_image_can_check(const BlockNode *node);
bool block_image_can_compress(const BlockNode *node);
/* Calls add with what the driver knows of the image, spelled as qemu-img's JSON keys. */
void block_image_info(BlockNode *node,
                      void (*add)(void *opaque, const char *key, const char *value), void *opaque);
bool block_image_snapshot_list(BlockNode *node, GArray *out,
                               GError **error); /* BlockSnapshotInfo */
bool block_image_snapshot_create(BlockNode *node, const BlockSnapshotInfo *info, GError **error);
bool block_image_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error);
bool block_image_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error);
/* Bitmaps that say which parts of a disk were written to. */
bool block_image_bitmap(BlockNode *node, const BlockBitmapEdit *edit, GError **error);
/* NULL: no backing file any more. Contents are not looked at. */
bool block_image_change_backing(BlockNode *node, const char *filename, const char *format,
                                GError **error);
/* It holds nothing any more: everything shows what is below. */
bool block_image_make_empty(BlockNode *node, GError **error);
bool block_image_amend(BlockNode *node, const BlockCreateOption *options, unsigned n,
                       GError **error);

/* What is below, borrowed; NULL: nothing. */
BlockNode *block_image_file(const BlockNode *node);
BlockNode *block_image_backing(const BlockNode *node);
const char *block_image_filename(const BlockNode *node); /* NULL: its bytes are in no file */
/* Bytes that its file takes on the host; -1: nobody knows. */
int64_t block_image_actual_size(BlockNode *node);
/* Flushes it, then closes it and what is only its: it is not to be used afterwards. False: not
 * everything arrived (it is closed all the same). */
bool block_image_close(BlockNode *node, GError **error);

/* A request of the tool's own, waited for. `op` READ and WRITE take `buf`. */
bool block_image_request(BlockNode *node, BlockOp op, uint64_t offset, void *buf, uint64_t bytes,
                         unsigned flags, GError **error);
bool block_image_status(BlockNode *node, uint64_t offset, uint64_t bytes, BlockStatus *out,
                        GError **error);

/* Up to `limit` extents of [offset, offset+bytes), neighbours of one kind joined, into `out` (of
 * BlockExtent). The last of a full list may go on. */
typedef struct BlockExtent {
    uint64_t start;
    BlockStatus status;
} BlockExtent;
bool block_image_map(BlockNode *node, uint64_t offset, uint64_t bytes, unsigned limit, GArray *out,
                     GError **error);

/* ---- jobs ------------------------------------------------------------------------------------ */

/*
 * A job runs on workers while the main loop goes on. `done` is called once, on the main loop, with
 * NULL or an error (borrowed); the job may be freed from then on. The nodes stay open until then
 * and are used by nobody else.
 */
typedef struct BlockJob BlockJob;
typedef void (*BlockJobFn)(void *opaque, const GError *error);
void block_job_progress(const BlockJob *job, uint64_t *done, uint64_t *total);
/* It ends soon, with ECANCELED if it was not through. */
void block_job_cancel(BlockJob *job);
void block_job_free(BlockJob *job); /* after `done` */

#define BLOCK_JOB_MAX_WORKERS 16

/*
 * Copies what the sources show, one after the other, to the start of `target`.
 *
 * `max_depth` below UINT_MAX: only what lies in the topmost images up to that depth (0: the top one
 * alone). `reference`: only what the source's top image does not hold, and only where the reference
 * shows something else (target and source are one image then).
 */
typedef struct BlockCopySpec {
    BlockNode *const *sources;
    unsigned n_sources;
    BlockNode *target, *reference;
    unsigned max_depth;
    bool target_is_zero; /* zeroes need not be written */
    bool compress;       /* cluster by cluster, of `cluster` bytes */
    bool in_order;       /* the target is written from its beginning to its end */
    bool offload;        /* let the kernel copy, where it can */
    bool salvage;        /* what cannot be read becomes zeroes */
    uint64_t sparse;     /* this many zero bytes become a hole; 0: everything is written */
    uint64_t cluster;    /* of the target: power of two, 0: none */
    uint64_t rate;       /* bytes a second; 0: no limit */
    unsigned workers;    /* 1 to BLOCK_JOB_MAX_WORKERS; 0: 8 */
} BlockCopySpec;
BlockJob *block_copy_start(const BlockCopySpec *spec, BlockJobFn done, void *opaque,
                           GError **error);
uint64_t block_copy_salvaged(const BlockJob *job); /* bytes that could not be read */

/* Compares up to the length of the shorter image, and that the longer one is zero from there on.
 * `strict`: what is allocated counts too. */
typedef enum {
    BLOCK_COMPARE_SAME,
    BLOCK_COMPARE_CONTENT,
    BLOCK_COMPARE_ALLOCATION,
} BlockCompareResult;
BlockJob *block_compare_start(BlockNode *a, BlockNode *b, bool strict, unsigned workers,
                              BlockJobFn done, void *opaque, GError **error);
/* After `done` without an error: what is different first, and where. */
BlockCompareResult block_compare_result(const BlockJob *job, uint64_t *offset);
/* After `done` with an error: which of the two (0, 1) could not be read, and where. */
int block_compare_failed(const BlockJob *job, uint64_t *offset);

/* Requests as a device makes them, so many at a time. */
typedef struct BlockBenchSpec {
    BlockOp op;              /* READ or WRITE */
    uint64_t count, bytes;   /* of requests; bytes of each */
    uint64_t offset, step;   /* where the first begins, and how far the next one is; wraps around */
    uint64_t flush_interval; /* writes between two flushes; 0: none */
    bool drain;              /* a flush waits for what is in flight, and everything for it */
    uint8_t pattern;
    unsigned depth;
} BlockBenchSpec;
BlockJob *block_bench_start(BlockBackend *be, const BlockBenchSpec *spec, BlockJobFn done,
                            void *opaque, GError **error);
