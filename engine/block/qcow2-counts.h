/*
 * Reference counts of an image's clusters in memory, for checks and for changes of all of them at
 * once. A byte a cluster, in pages that appear when they are needed; counts of 255 and more are
 * kept beside. Bounded: foreign images decide how many clusters are touched.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define QCOW2_COUNTS_PAGE 4096 /* clusters */

typedef struct Qcow2Counts Qcow2Counts;

/* Of clusters below `clusters`; at most `limit` bytes. NULL: more clusters than can be counted. */
Qcow2Counts *qcow2_counts_new(uint64_t clusters, uint64_t limit);
void qcow2_counts_free(Qcow2Counts *c);
/* NULL: no memory. */
Qcow2Counts *qcow2_counts_copy(const Qcow2Counts *c);
/* More clusters: those that were there keep their counts. false: too many. */
bool qcow2_counts_grow(Qcow2Counts *c, uint64_t clusters);
uint64_t qcow2_counts_clusters(const Qcow2Counts *c);

uint64_t qcow2_counts_get(const Qcow2Counts *c, uint64_t cluster); /* 0 beyond the end */
/* 0, or ENOMEM; ERANGE beyond the end. */
int qcow2_counts_set(Qcow2Counts *c, uint64_t cluster, uint64_t count);
/* ERANGE also where the result would be below 0. */
int qcow2_counts_add(Qcow2Counts *c, uint64_t cluster, int64_t delta);
/* The first cluster from `cluster` on whose count may not be 0; UINT64_MAX: none. */
uint64_t qcow2_counts_next(const Qcow2Counts *c, uint64_t cluster);
/* One after the last cluster whose count is not 0. */
uint64_t qcow2_counts_end(const Qcow2Counts *c);
