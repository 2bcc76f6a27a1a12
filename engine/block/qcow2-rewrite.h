/*
 * A change of all of an image's metadata that either happens or does not: what is new is written to
 * clusters that are free as the image counts them now, then made stable, and the header's first
 * sector, which says where L1, refcount and snapshot table are, is written over in one go.
 */
#pragma once

#include "engine/block/qcow2-tables.h"

typedef struct Qcow2Rewrite {
    const Qcow2Tables *t;
    Qcow2Counts *old; /* not 0: must stay as it is until the header is written */
    Qcow2Counts *now; /* the counts that will be */
    bool fresh;       /* nothing of the old refcount structure is kept */
    uint64_t cursor;
    /* What the header will say; as it is, to begin with. */
    uint64_t size, l1_offset, snapshots_offset;
    uint32_t l1_size, n_snapshots;
    /* commit's */
    uint64_t *table, *replaced; /* entries; bits */
    uint64_t entries, table_offset;
} Qcow2Rewrite;

/* Takes both counts. `fresh`: `now` does not count the refcount structure that is there, and `old`
 * says what is not to be written over. */
void qcow2_rewrite_init(Qcow2Rewrite *rw, const Qcow2Tables *t, Qcow2Counts *old, Qcow2Counts *now,
                        bool fresh);
/* From the counts that are stored. errno. */
int qcow2_rewrite_begin(Qcow2Rewrite *rw, const Qcow2Tables *t);
void qcow2_rewrite_clear(Qcow2Rewrite *rw);
/* Free clusters in a row, counted once from now on. ENOMEM, EFBIG. */
int qcow2_rewrite_alloc(Qcow2Rewrite *rw, uint64_t clusters, uint64_t *offset);
/* For each cluster that [offset, offset+bytes) touches. ERANGE: the stored counts are wrong. */
int qcow2_rewrite_ref(Qcow2Rewrite *rw, uint64_t offset, uint64_t bytes, int64_t delta);
/* The snapshot table anew, from `snapshots` (of Qcow2Snapshot), instead of the old one of so many
 * bytes. */
int qcow2_rewrite_snapshots(Qcow2Rewrite *rw, const GArray *snapshots, uint64_t old_bytes);
/* EOVERFLOW: a count does not fit into the image's refcount width. On failure before the header is
 * written the image is as it was. */
int qcow2_rewrite_commit(Qcow2Rewrite *rw);
/* Gives back to the host what nothing refers to any more. */
void qcow2_rewrite_discard(const Qcow2Rewrite *rw);
