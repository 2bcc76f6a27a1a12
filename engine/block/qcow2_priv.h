/*
 * Shared by the files of the qcow2 driver.
 *
 *     qcow2.c           header, options, opening, closing, probing
 *     qcow2-header.c    reading the header and its extensions
 *     qcow2-header-write.c  writing them
 *     qcow2-cache.c     slices of L2 tables and refcount blocks in memory
 *     qcow2-meta.c      writing them back in an order that survives a crash
 *     qcow2-map.c       guest offset → where it is
 *     qcow2-refcount.c  which clusters are in use; allocation
 *     qcow2-grow.c      more refcounts
 *     qcow2-overlap.c   which clusters hold metadata
 *     qcow2-io.c        requests: the fast path, the slow path on workers
 *     qcow2-read.c      reading, status
 *     qcow2-cow.c       writes that allocate
 *     qcow2-zero.c      zeroes, discards
 *     qcow2-compress.c  compressed clusters
 *     qcow2-create.c    new images
 *     qcow2-amend.c     other options, another backing file
 *     qcow2-resize.c    growing and shrinking
 *     qcow2-check.c     check and repair; qcow2-snapshot.c, qcow2-bitmap.c: as they say
 *
 * Locks. `lock` guards everything below that is not said to be constant, is taken for work in
 * memory only, and is never held while anything is read or written: a thread that needs a slice
 * that is not there marks it as loading, drops the lock, reads, and takes the lock again. `grow` is
 * taken before it, by workers (or by tools, while there is no request), and held across I/O by
 * whoever changes tables of tables: a new L2 table, a new refcount block, the refcount table, the
 * header. The main loop never waits for `grow`, so a holder may wait for the main loop.
 *
 * Order of writes. In memory, a cluster's refcount is never below the number of references from
 * tables on disk or in memory. Refcounts may be written at any time. An L2 or L1 entry is written
 * only when the refcounts and the data that it needs are on stable storage (one flush for all that
 * are written together), and a cluster is only given back (`frees`) when the entry that pointed at
 * it is gone from stable storage and no request uses the old mapping. So whatever part of what was
 * not flushed is lost, in whatever order, refcounts are never too low, and what was flushed is
 * there.
 */
#pragma once

#include <pthread.h>

#include "engine/block/block_priv.h"

/* ---- on disk; all numbers big-endian --------------------------------------------------------- */

#define QCOW2_MAGIC UINT32_C(0x514649fb) /* "QFI\xfb" */

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_L1_BYTES     (UINT64_C(32) << 20)
#define QCOW2_MAX_RT_BYTES     (UINT64_C(8) << 20)
#define QCOW2_MAX_SNAPSHOTS    65536
#define QCOW2_MAX_NAME         1023

typedef struct Qcow2Header {
    uint32_t magic, version;
    uint64_t backing_offset;
    uint32_t backing_len;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t rt_offset; /* refcount table */
    uint32_t rt_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    /* version 3 */
    uint64_t incompatible, compatible, autoclear;
    uint32_t refcount_order;
    uint32_t header_length;
    uint8_t compression_type;
    uint8_t padding[7];
} __attribute__((packed)) Qcow2Header;
#define QCOW2_HEADER_V2    72
#define QCOW2_HEADER_V3    104
#define QCOW2_HEADER_BYTES ((uint32_t)sizeof(Qcow2Header)) /* 112 */

#define QCOW2_INCOMPAT_DIRTY       (UINT64_C(1) << 0)
#define QCOW2_INCOMPAT_CORRUPT     (UINT64_C(1) << 1)
#define QCOW2_INCOMPAT_DATA_FILE   (UINT64_C(1) << 2)
#define QCOW2_INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define QCOW2_INCOMPAT_EXTL2       (UINT64_C(1) << 4)
#define QCOW2_INCOMPAT_KNOWN       UINT64_C(0x1f)
#define QCOW2_COMPAT_LAZY          (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_BITMAPS    (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA   (UINT64_C(1) << 1)

#define QCOW2_EXT_END       UINT32_C(0)
#define QCOW2_EXT_BACKING   UINT32_C(0xe2792aca)
#define QCOW2_EXT_FEATURES  UINT32_C(0x6803f857)
#define QCOW2_EXT_CRYPTO    UINT32_C(0x0537be77)
#define QCOW2_EXT_BITMAPS   UINT32_C(0x23852875)
#define QCOW2_EXT_DATA_FILE UINT32_C(0x44415441)

#define QCOW2_COPIED      (UINT64_C(1) << 63)
#define QCOW2_COMPRESSED  (UINT64_C(1) << 62)
#define QCOW2_ZERO        UINT64_C(1) /* standard clusters of version 3 without extended L2 */
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00)

#define QCOW2_ZLIB 0
#define QCOW2_ZSTD 1

/* ---- in memory ------------------------------------------------------------------------------- */

typedef struct Qcow2 Qcow2;

/* A part of an L2 table or a refcount block, as on disk. */
typedef struct Qcow2Slice {
    uint64_t offset; /* in the file; 0: the slot is empty */
    uint8_t *data;
    bool loading, dirty,
        writing; /* writing: what is being written is older than the data or equal */
    bool used;   /* since the hand of the clock was here */
    struct Qcow2Slice *chain;
} Qcow2Slice;

typedef struct Qcow2Cache {
    Qcow2Slice *slots;
    Qcow2Slice **buckets;
    uint32_t bytes; /* of a slice: a power of 2 that divides the cluster size */
    unsigned n, hand, n_buckets, n_dirty;
    bool is_l2;
} Qcow2Cache;

/* Clusters whose last use is over, but not yet on stable storage: one reference each is to be
 * dropped. */
typedef struct Qcow2Free {
    uint64_t offset, clusters;
    uint64_t seq; /* requests up to this one may still use them */
} Qcow2Free;

/* A request while it is here. */
typedef struct Qcow2Op Qcow2Op;
struct Qcow2Op {
    BlockWork work;
    Qcow2 *s;
    BlockReq *req;
    BlockReqFn done; /* of the request, while ours is in its place */
    void *opaque;
    uint64_t seq;
    uint64_t start, end;  /* whole clusters; no two that change the mapping overlap */
    bool changes;         /* it may change the mapping */
    Qcow2Op *prev, *next; /* in `ops` */
    Qcow2Op *queue_next;  /* in a queue: of the image, or of the operation that it waits for */
    Qcow2Op *waiters;
};

typedef struct Qcow2Extension { /* of the header, of a type that is only kept */
    uint32_t type, len;
    uint8_t *data;
} Qcow2Extension;

struct Qcow2 {
    BlockNode parent;
    /* properties */
    uint64_t l2_cache_size, refcount_cache_size, l2_cache_entry_size;
    bool lazy_refcounts;  /* property; has no effect: refcounts are always written in order */
    char *overlap_check;  /* property */
    char *data_file_name; /* property "data-file-name": instead of what the header says */
    char *snapshot;       /* property "snapshot": open that internal snapshot, read-only */

    /* constant while open */
    uint32_t version, cluster_bits, cluster_size;
    uint32_t refcount_order, refcount_bits;
    uint32_t l2_entry_bytes;  /* 8, or 16 with extended L2 */
    uint32_t l2_bits;         /* log2 of the entries of a table */
    uint32_t subclusters;     /* of a cluster: 1 or 32 */
    uint32_t subcluster_size; /* cluster_size / subclusters */
    uint32_t rb_bits;         /* log2 of the refcounts of a block */
    uint8_t compression;
    uint32_t header_length;
    BlockNode *data; /* where data clusters are: the external data file, or the file */
    bool has_data_file, data_raw;
    char *backing_name, *backing_format, *data_name; /* as in the header; NULL: none */
    Qcow2Extension *extensions;                      /* unknown ones, bitmaps, feature names */
    unsigned n_extensions;
    uint32_t extensions_end; /* offset behind them in the file */

    pthread_mutex_t lock, grow;
    pthread_mutex_t header_lock; /* around writes of the header; nothing is taken inside */
    pthread_cond_t changed; /* with `lock`: a slice was loaded, an operation or write-back ended */

    uint64_t incompatible, compatible, autoclear;
    bool corrupt; /* found or set: nothing is written any more */
    bool broken;  /* its tables could not be read again: requests fail until they can */

    uint64_t *l1; /* host endian */
    uint32_t l1_entries;
    uint64_t l1_offset;
    uint64_t *l1_dirty; /* a bit for each 64 entries (512 bytes) */
    bool l1_any_dirty;
    uint64_t *rt; /* refcount table, host endian */
    uint32_t rt_entries, rt_clusters;
    uint64_t rt_offset;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset, snapshots_bytes;

    Qcow2Cache l2, rb; /* L2 tables, refcount blocks */

    uint64_t free_hint;           /* cluster index: none below it is free that is not in `reuse` */
    GArray *reuse;                /* Qcow2Free: given back since the image was opened */
    uint64_t fresh_from;          /* offset: the file holds nothing there and has never */
    uint64_t comp_next, comp_end; /* room in a cluster of compressed data: [next, end) */

    GArray *frees;                /* Qcow2Free */
    bool need_order;              /* something was allocated since the last write-back */
    bool writing_back;            /* one at a time */
    uint64_t wb_started, wb_done; /* those that end with a flush */
    uint64_t wb_failed;           /* the number of the last one that failed, with: */
    int wb_error;
    int wb_lost;        /* error of one that nobody asked for: the next flush tells */
    bool rb_writing;    /* refcounts are being written: one at a time */
    Qcow2Header header; /* as on disk */

    uint64_t seq;            /* of the last request */
    Qcow2Op *ops, *ops_last; /* those in flight, oldest first */
    unsigned n_changing;     /* of them, those that change the mapping */

    uint64_t *meta; /* clusters that hold metadata: an open hash of their offsets + 1 */
    uint32_t meta_slots, meta_used;

    uint8_t *comp_buf; /* the cluster decompressed last, and where it came from */
    uint64_t comp_buf_entry;
    unsigned slow_running; /* of this image on workers; others wait in */
    Qcow2Op *slow_first, **slow_last;

    struct Qcow2Bitmaps *bitmaps; /* qcow2-bitmap.c; NULL: none to keep */
};
#define TYPE_BLOCK_QCOW2 "block-qcow2"
OBJECT_DECLARE_TYPE(Qcow2, BlockNodeClass, QCOW2, TYPE_BLOCK_QCOW2)

static inline uint64_t qcow2_clusters(const Qcow2 *s, uint64_t bytes)
{
    return (bytes >> s->cluster_bits) + ((bytes & (s->cluster_size - 1)) != 0);
}
static inline uint64_t qcow2_cluster_start(const Qcow2 *s, uint64_t offset)
{
    return offset & ~(uint64_t)(s->cluster_size - 1);
}
static inline uint64_t qcow2_within(const Qcow2 *s, uint64_t offset)
{
    return offset & (s->cluster_size - 1);
}
/* Guest bytes that one L2 table maps. */
static inline uint32_t qcow2_l2_shift(const Qcow2 *s)
{
    return s->cluster_bits + s->l2_bits;
}

/* Waits for `changed` with `lock`; takes a mutex that is held across I/O. Whom this thread waits
 * for may need a worker: it does not count as one meanwhile. */
void qcow2_wait(Qcow2 *s);
void qcow2_lock_across_io(pthread_mutex_t *mutex);

/* ---- qcow2-cache.c: `lock` is held ----------------------------------------------------------- */

bool qcow2_cache_init(Qcow2Cache *c, uint64_t bytes, uint32_t slice_bytes, bool is_l2);
void qcow2_cache_finalize(Qcow2Cache *c);
/* NULL: not there (or still loading). Valid until `lock` is released. */
Qcow2Slice *qcow2_cache_find(Qcow2Cache *c, uint64_t offset);
/* The slice that holds the byte at `offset`, read if need be: drops `lock` meanwhile, so look again
 * at what you know. Valid until `lock` is released. 0 or errno. */
int qcow2_cache_get(Qcow2 *s, Qcow2Cache *c, uint64_t offset, Qcow2Slice **out);
void qcow2_cache_dirty(Qcow2Cache *c, Qcow2Slice *slice);
/* Forgets the slices of [offset, offset+bytes), written or not: the cluster is something else now.
 */
void qcow2_cache_forget(Qcow2Cache *c, uint64_t offset, uint64_t bytes);
void qcow2_cache_forget_all(Qcow2Cache *c);

/* ---- qcow2-meta.c: no lock held -------------------------------------------------------------- */

/* Writes back everything that is dirty, in order. `durable`: it and everything that completed
 * before is on stable storage, and what waited for that in `frees` is given back. */
int qcow2_write_back(Qcow2 *s, bool durable);
/* Refcount blocks only: always allowed. */
int qcow2_write_refcounts(Qcow2 *s);
/* Flushes the file and, if there is one, the data file. */
int qcow2_flush_files(Qcow2 *s);
/* Tools, while there is no request: everything on stable storage, caches empty, `frees` done. What
 * follows may read and write the file's tables with block_node_pread and _pwrite; after that
 * qcow2_reload reads header fields, L1 and the refcount table anew and forgets all that was known
 * about free clusters. */
int qcow2_settle(Qcow2 *s);
bool qcow2_reload(Qcow2 *s, GError **error);

/* ---- qcow2-header.c -------------------------------------------------------------------------- */

bool qcow2_header_read(Qcow2 *s, GError **error);
void qcow2_header_free(Qcow2 *s);
/* The data of the extension of that type; NULL: there is to be none. false: too many. */
bool qcow2_set_extension(Qcow2 *s, uint32_t type, const void *data, uint32_t len);
/* Writes header, extensions and backing name from `s` (one cluster at most), and makes them stable.
 * A crash leaves the old or the new ones, unless a small cluster has no room for both. No request.
 */
bool qcow2_header_write(Qcow2 *s, GError **error);
/* Fields of the first sector from `s`: l1, refcount table, snapshots, size, feature bits. Atomic.
 * `size` is parent.length unless a snapshot is open. 0 or errno. */
int qcow2_header_write_fields(Qcow2 *s);
/* Sets the corrupt bit in memory and on disk, says why once. No lock held or `lock` not held. */
void qcow2_mark_corrupt(Qcow2 *s, const char *what, uint64_t offset);

/* ---- qcow2-refcount.c ------------------------------------------------------------------------ */

uint64_t qcow2_refcount_get(const uint8_t *block, uint32_t order, uint64_t index);
void qcow2_refcount_set(uint8_t *block, uint32_t order, uint64_t index, uint64_t value);
/* All with `lock` held; they drop it where they have to read. 0 or errno. */
int qcow2_refcount_of(Qcow2 *s, uint64_t cluster_index, uint64_t *out);
/* Adds delta (which may be negative) to `n` clusters from `offset` on. */
int qcow2_refcount_add(Qcow2 *s, uint64_t offset, uint64_t n, int64_t delta);
/* 1 to `want` clusters in a row that nobody uses, their refcount 1; `exact`: `want` or ENOSPC.
 * *fresh (may be NULL): they read as zeroes. Growing the refcount structures takes `grow`: not held
 * by the caller (the _grow_held variants: held). */
int qcow2_alloc(Qcow2 *s, uint64_t want, bool exact, uint64_t *offset, uint64_t *got, bool *fresh);
int qcow2_alloc_grow_held(Qcow2 *s, uint64_t want, bool exact, uint64_t *offset, uint64_t *got,
                          bool *fresh);
/* Gives back what no table ever pointed at. */
/* A refcount block for cluster `ci`, in a larger table if need be. `held`: so is `grow`. */
int qcow2_refcount_grow(Qcow2 *s, uint64_t ci, bool held);
void qcow2_unalloc(Qcow2 *s, uint64_t offset, uint64_t clusters);
/* A reference is gone from the tables in memory; to be dropped when that is on stable storage. */
void qcow2_free_later(Qcow2 *s, uint64_t offset, uint64_t clusters);
/* No lock held. Those of the frees that nothing needs any more. */
int qcow2_apply_frees(Qcow2 *s, GArray *frees);
/* Bytes of a cluster of compressed data. */
int qcow2_alloc_bytes(Qcow2 *s, uint32_t bytes, uint64_t *offset);

/* Clusters of metadata, which data may never overlap. `lock` held. */
bool qcow2_meta_add(Qcow2 *s, uint64_t offset, uint64_t clusters);
void qcow2_meta_remove(Qcow2 *s, uint64_t offset, uint64_t clusters);
bool qcow2_meta_overlaps(const Qcow2 *s, uint64_t offset, uint64_t bytes);
/* From what is in memory: header, L1, refcount table, snapshot table, L2 tables, refcount blocks.
 */
bool qcow2_meta_build(Qcow2 *s);

/* ---- qcow2-map.c ----------------------------------------------------------------------------- */

typedef enum {
    QCOW2_UNALLOCATED, /* the backing file's, or zeroes */
    QCOW2_ZERO_PLAIN,
    QCOW2_ZERO_ALLOCATED, /* zeroes, with a place in the file */
    QCOW2_HOLE,           /* unallocated subclusters of a cluster that has a place in the file */
    QCOW2_DATA,
    QCOW2_COMPRESSED_DATA,
    QCOW2_INVALID,
} Qcow2Kind;

typedef struct Qcow2Run {
    Qcow2Kind kind;
    bool copied;    /* every cluster of it has the COPIED flag */
    uint64_t host;  /* of its first byte; compressed: the entry */
    uint64_t bytes; /* so many are alike, and, with a place, in a row */
} Qcow2Run;

/* `lock` held. What is at [offset, offset+bytes): false when that is not in memory. */
bool qcow2_map_cached(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Run *out);
/* The same; reads what is missing (and drops `lock` meanwhile). 0 or errno. */
int qcow2_map(Qcow2 *s, uint64_t offset, uint64_t bytes, Qcow2Run *out);

typedef struct Qcow2Entry {
    uint64_t entry, bitmap; /* bitmap: extended L2; else 0 */
} Qcow2Entry;
/* The entry of the cluster at guest offset `offset`; and for a change, with an L2 table that is
 * there and ours alone (takes `grow`): then the slice may be written to until `lock` is released.
 */
int qcow2_entry_get(Qcow2 *s, uint64_t offset, Qcow2Entry *out);
int qcow2_slice_for_write(Qcow2 *s, uint64_t offset, Qcow2Slice **slice, unsigned *index);
Qcow2Entry qcow2_slice_entry(const Qcow2 *s, const Qcow2Slice *slice, unsigned index);
void qcow2_slice_set(Qcow2 *s, Qcow2Slice *slice, unsigned index, Qcow2Entry e);
Qcow2Kind qcow2_entry_kind(const Qcow2 *s, Qcow2Entry e, unsigned subcluster);

/* ---- qcow2-io.c, qcow2-cow.c, qcow2-compress.c ----------------------------------------------- */

/* No lock held; on a worker, or on the main thread while there is no request. 0 or errno. */
int qcow2_read(Qcow2 *s, uint64_t offset, uint64_t bytes, const struct iovec *iov, unsigned niov,
               uint64_t iov_offset);
int qcow2_write(Qcow2 *s, uint64_t offset, uint64_t bytes, const struct iovec *iov, unsigned niov,
                uint64_t iov_offset);
int qcow2_zero(Qcow2 *s, uint64_t offset, uint64_t bytes, unsigned flags);
int qcow2_discard(Qcow2 *s, uint64_t offset, uint64_t bytes,
                  bool full); /* full: shows what is below */
int qcow2_status(Qcow2 *s, uint64_t offset, uint64_t bytes, BlockStatus *out);
/* What an L2 entry that is replaced pointed at. `lock` held. */
void qcow2_free_entry(Qcow2 *s, uint64_t entry);
/* Decompresses what `entry` points at into a cluster's bytes. */
int qcow2_decompress(Qcow2 *s, uint64_t entry, uint8_t *out);
void qcow2_compressed_extent(const Qcow2 *s, uint64_t entry, uint64_t *offset, uint32_t *bytes);
/* One cluster, packed by compress. It is registered, or there is no request. */
int qcow2_store_packed(Qcow2 *s, uint64_t offset, const void *packed, size_t len);
size_t qcow2_compress(BlockNode *node, const void *buf, size_t len, void *out, size_t room);
int qcow2_write_packed(BlockNode *node, uint64_t offset, const void *packed, size_t len);

/* How much of a range without data the backing file shows; the rest is zeroes. */
uint64_t qcow2_backed_bytes(const Qcow2 *s, uint64_t offset, uint64_t bytes);
/* Whether the guest sees nothing but zeroes there. `lock` held. 0 or errno. */
int qcow2_sees_zeroes(Qcow2 *s, uint64_t from, uint64_t to, bool *zero);
/* The bits of the subclusters of the cluster at `cluster` that [from, to) covers. */
uint32_t qcow2_covered(const Qcow2 *s, uint64_t cluster, uint64_t from, uint64_t to);
/* Engine lock. False: something has to be read first. */
bool qcow2_fast_status(Qcow2 *s, BlockReq *req);

void qcow2_submit(BlockNode *node, BlockReq *req);
int qcow2_sync(BlockNode *node, BlockReq *req);
bool qcow2_read_now(BlockNode *node, uint64_t offset, void *buf, size_t len);

/* ---- tools ----------------------------------------------------------------------------------- */

bool qcow2_create(const char *filename, const BlockCreateOption *options, unsigned n,
                  GError **error);
bool qcow2_resize(BlockNode *node, uint64_t bytes, const char *preallocation, GError **error);
/* Gives the clusters of [from, to) a place: "metadata", "falloc", "full". 0 or errno. */
int qcow2_preallocate(Qcow2 *s, uint64_t from, uint64_t to, const char *mode);
bool qcow2_make_empty(BlockNode *node, GError **error);
bool qcow2_amend(BlockNode *node, const BlockCreateOption *options, unsigned n, GError **error);

/* qcow2-check.c */
bool qcow2_check(BlockNode *node, int fix, BlockCheckResult *out, BlockProgressFn progress,
                 BlockReportFn report, void *opaque, GError **error);
/* From open, read-write, when the dirty bit is set: repairs refcounts, clears the bit. L1, refcount
 * table and caches are there; no request is. */
bool qcow2_repair_dirty(Qcow2 *s, GError **error);

/* qcow2-snapshot.c */
bool qcow2_snapshot_list(BlockNode *node, GArray *out, GError **error);
bool qcow2_snapshot_create(BlockNode *node, const BlockSnapshotInfo *info, GError **error);
bool qcow2_snapshot_goto(BlockNode *node, const char *id_or_name, GError **error);
bool qcow2_snapshot_delete(BlockNode *node, const char *id_or_name, GError **error);
/* From open: replaces l1, l1_entries, parent.length by those of the snapshot; the node is
 * read-only. */
bool qcow2_snapshot_open(Qcow2 *s, const char *id_or_name, GError **error);
/* From open: checks the table's place and size, sets snapshots_bytes. */
bool qcow2_snapshots_check(Qcow2 *s, GError **error);
bool qcow2_change_backing(BlockNode *node, const char *filename, const char *format,
                          GError **error);

/* qcow2-bitmap.c: persistent bitmaps stay true */
bool qcow2_bitmaps_open(Qcow2 *s, GError **error); /* from open, read-write, autoclear bit set */
void qcow2_bitmaps_written(Qcow2 *s, uint64_t offset, uint64_t bytes); /* any thread, before it */
void qcow2_bitmaps_close(Qcow2 *s);                                    /* stores them */
/* qcow2-bitmap-edit.c: tools, no request in flight */
bool qcow2_bitmap_edit(BlockNode *node, const BlockBitmapEdit *edit, GError **error);
/* They are for a disk of so many bytes now. */
bool qcow2_bitmaps_fit(Qcow2 *s, uint64_t bytes, GError **error);
void qcow2_bitmaps_info(Qcow2 *s, void (*add_pair)(void *, const char *, const char *),
                        void *opaque);
