/* Shared by copy-job.c, which hands out pieces, and copy-piece.c, which copies one. */
#pragma once

#include "engine/block/job_priv.h"

typedef enum { COPY_DATA, COPY_ZERO, COPY_NOTHING } CopyKind;

typedef struct CopyPiece {
    CopyKind kind;
    BlockNode *source;
    uint64_t from, at, bytes; /* in the source; in the target */
    uint64_t turn;
    bool has_host; /* the source's file has these bytes at `host` */
    uint64_t host;
} CopyPiece;

/* Of each grain of a piece. */
enum { COPY_NEEDS_NOTHING, COPY_NEEDS_ZEROES, COPY_NEEDS_DATA };

/* Where a piece is while it is on its way. */
typedef struct CopyRoom CopyRoom;
struct CopyRoom {
    CopyPiece p;
    char *data, *other, *packed;
    uint8_t *needs;     /* of each grain */
    size_t *packed_len; /* of each cluster; 0: not smaller */
    bool done;          /* the kernel has copied it */
    CopyRoom *next;
};

#define COPY_MAX_ROOMS (BLOCK_JOB_MAX_WORKERS + 4)

typedef struct CopyJob {
    BlockJob job;
    BlockCopySpec spec;
    GPtrArray *sources; /* those of spec.sources */
    uint64_t piece, grain;
    /* Under the mutex: what is handed out next. */
    unsigned source;
    uint64_t source_start, position; /* in the target */
    uint64_t known_end;              /* up to here `known` tells what there is */
    CopyPiece known;
    uint64_t next_turn, turn; /* the next that is handed out; that is written, in order */
    bool exhausted, writing;
    unsigned sleeping, n_free;
    CopyRoom *free, *ready[COPY_MAX_ROOMS]; /* ready: by turn */
    uint64_t salvaged;                      /* atomic */
    bool no_offload;                        /* atomic: the kernel does not want to */
    /* With a reference: from here on the target has nothing below, so zeroing what it does not hold
     * would change nothing, and the reference would show through later. */
    uint64_t zeroes_below;
    CopyRoom rooms[COPY_MAX_ROOMS];
    unsigned n_rooms;
    char *memory[3]; /* data, other, packed of all rooms */
} CopyJob;

/* What the source has, packed where it is to be, and what each grain needs; false: the job has
 * failed. Any worker, a room is one worker's. */
bool copy_read(CopyJob *c, CopyRoom *room);
bool copy_write(CopyJob *c, CopyRoom *room);
