/*
 * A file in memory for tests of image formats: it grows when it is written, writes down what is
 * done to it and in which order, and fails as it is told.
 *
 * Requests that come through submit are carried out later, on the main loop, one of those that wait
 * at a time, in an order by `seed` (0: as they came): a flush may overtake a write that nobody has
 * seen finished. Those of workers (sync) are carried out at once.
 */
#pragma once

#include "engine/block/block.h"

#define TYPE_MEMFILE "test-memfile"

typedef struct MemOp {
    BlockOp op; /* write, zero, flush */
    bool fua;
    uint64_t offset, bytes;
    uint8_t *data; /* write */
} MemOp;

typedef struct MemFaults {
    uint64_t first; /* the number of the request that fails, from 1; 0: none */
    uint64_t count; /* and so many after it */
    int error;
    int64_t torn; /* of a write, so many bytes arrive all the same; of a read, so many are there */
    unsigned ops; /* bits 1 << BlockOp that are counted; 0: all */
} MemFaults;

/* With a copy of `data`; one reference, opened. */
BlockNode *memfile_new(const void *data, uint64_t size, uint32_t seed);
/* With the file's content. */
BlockNode *memfile_load(const char *path, uint32_t seed);
void memfile_save(BlockNode *node, const char *path);
/* It never gets longer than that: ENOSPC. */
void memfile_set_limit(BlockNode *node, uint64_t bytes);
void memfile_set_faults(BlockNode *node, const MemFaults *faults); /* counts from now; NULL: none */
uint64_t memfile_requests(BlockNode *node);                        /* since faults were set */
uint64_t memfile_failed(BlockNode *node);                          /* how many of them failed */
void memfile_record(BlockNode *node, bool on);
/* Of MemOp; valid while the node lives and nothing runs. */
const GArray *memfile_log(BlockNode *node);
uint64_t memfile_log_length(BlockNode *node); /* any time */
const uint8_t *memfile_data(BlockNode *node);
uint64_t memfile_size(BlockNode *node);

/* What is on a disk's platters after a power cut. */
typedef struct MemPlatter {
    uint8_t *data;
    uint64_t size, room;
} MemPlatter;
void mem_platter_init(MemPlatter *p, const void *data, uint64_t size);
void mem_platter_copy(MemPlatter *p, const MemPlatter *from);
void mem_platter_clear(MemPlatter *p);
void mem_platter_apply(MemPlatter *p, const MemOp *op, uint64_t from, uint64_t to); /* a part */
/*
 * Of log[start, end), none of which has been flushed (no completed flush lies between): each is
 * there as a whole, in sectors, or not, in any order; FUA writes are there, and later ones after
 * them.
 */
void mem_platter_cut(MemPlatter *p, const GArray *log, unsigned start, unsigned end, GRand *rand);
