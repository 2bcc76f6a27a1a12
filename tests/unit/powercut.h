/*
 * Power cuts: a random program of requests runs on a disk over a file in memory that writes down
 * what reaches it; then, for every point of that record, what was not flushed is dropped, torn or
 * reordered, and the image has to hold what the disk had promised.
 *
 * A sector is filled with the number of the request that wrote it, so that reading it says which
 * version is there. A version is allowed when nothing newer had been made stable at that point and
 * its request had been submitted by then.
 */
#pragma once

#include "qcow2_rig.h"

#define POWER_SECTOR 512
#define POWER_ANY    UINT32_MAX /* a version that nobody knows: a snapshot of discarded sectors */

typedef struct PowerVersion {
    uint32_t id;      /* what the sector says; 0: zeroes */
    uint64_t started; /* length of the record when it was submitted */
    uint64_t stable;  /* and when a flush that covers it had ended; UINT64_MAX: never */
    bool optional;    /* a discard: what was there before is as good */
} PowerVersion;

typedef struct PowerSnapshot {
    char *name;
    uint32_t *ids;        /* a sector */
    uint64_t from, until; /* it is there for certain at these lengths of the record */
} PowerSnapshot;

typedef struct PowerRun {
    /* set by the test */
    const char *folder;
    const char *format;
    bool snapshots, compressed, discards, quick;
    uint64_t size; /* of the part of the disk that is used; it reads as zeroes at first */
    uint64_t cluster;
    uint32_t seed;
    unsigned steps;
    bool drop_flushes; /* the record without its flushes: there must be something to find */
    /* the run's */
    GRand *rand;
    BlockNode *file, *node;
    BlockBackend *be;
    uint8_t *start; /* the file before it */
    uint64_t start_size;
    uint64_t sectors;
    GArray **history; /* a sector: of PowerVersion */
    GArray *saved;    /* of PowerSnapshot */
    uint32_t last_id;
    unsigned in_flight;
    /* results */
    unsigned cuts, oracle_checks, lost;
    uint64_t leaks, grown; /* the file's length at the end */
} PowerRun;

/* Runs the program on a copy of `image`, then all cuts, each in `seeds` ways; every `sample`th is
 * also given to qemu-img (0: none). */
void power_run(PowerRun *run, const char *image, unsigned seeds, unsigned sample);
