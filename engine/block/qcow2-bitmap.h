/*
 * Shared by the files of qcow2's persistent bitmaps: the directory as it lies in the file, and
 * changes of it.
 *
 * A change writes what is new to clusters of its own and then the header, which names the
 * directory, so that a crash leaves the old bitmaps or the new ones. While a change is made no
 * bitmap is marked as in use: there is no request.
 */
#pragma once

#include "engine/block/qcow2-tables.h"

#define QCOW2_BITMAP_IN_USE 1u
#define QCOW2_BITMAP_AUTO   2u          /* enabled: what is written is marked in it */
#define QCOW2_BITMAP_DIRTY  1           /* the one type there is */
#define QCOW2_BITMAP_ONES   UINT64_C(1) /* of a table's entry without a cluster: all bits are set */

#define QCOW2_BITMAP_MIN_GRANULARITY 9 /* log2 of bytes */
#define QCOW2_BITMAP_MAX_GRANULARITY 31
#define QCOW2_BITMAP_MAX_BYTES       (UINT64_C(512) << 20) /* of one bitmap's bits */

typedef struct Qcow2Bitmap {
    uint64_t at; /* of its entry, in the file; 0: it is new */
    uint64_t table_offset;
    uint32_t table_entries, flags;
    uint8_t type, granularity_bits;
    char *name;
    uint8_t *extra; /* not understood; kept */
    uint32_t extra_size;
} Qcow2Bitmap;

/* Of Qcow2Bitmap, with its clear function; empty where there are none that count. errno; EINVAL:
 * the directory is damaged. */
int qcow2_bitmap_dir_load(const Qcow2Tables *t, GArray **out);
/* Whether everything about it is understood and where it can be, for a disk of so many bytes. */
bool qcow2_bitmap_sound(const Qcow2Tables *t, const Qcow2Bitmap *b, uint64_t disk);
/* Entries of the table of a bitmap, 1 at least. */
uint64_t qcow2_bitmap_table_entries(const Qcow2Tables *t, uint64_t disk, unsigned granularity_bits);

/* ---- bits in memory, qcow2-bitmap.c ---------------------------------------------------------- */

/* Index in the table → a cluster of bits; bounded by `room`, which all share that point at it. */
typedef struct Qcow2Bits {
    GHashTable *pages;
    uint64_t *room; /* bytes that more pages may take */
    uint32_t table_entries;
    unsigned granularity_bits;
} Qcow2Bits;
void qcow2_bits_init(Qcow2Bits *bits, uint32_t table_entries, unsigned granularity_bits,
                     uint64_t *room);
void qcow2_bits_clear(Qcow2Bits *bits);
/* The bits of [offset, offset+bytes) of the disk. false: no room. */
bool qcow2_bits_set(Qcow2Bits *bits, uint32_t cluster_size, uint64_t offset, uint64_t bytes);
/* Adds the pages' bits to those of a table's clusters; the table may get new clusters. errno. */
int qcow2_bits_store(Qcow2 *s, const Qcow2Bits *bits, uint64_t *table);

/* ---- changes, qcow2-bitmap-change.c ---------------------------------------------------------- */

typedef struct Qcow2BitmapChange {
    Qcow2 *s;
    Qcow2Tables t;
    GArray *maps;        /* of Qcow2Bitmap: as they will be */
    GArray *made, *drop; /* of Qcow2Free: clusters of the new state only, of the old one only */
    bool prepared;       /* the header in memory is the new one */
} Qcow2BitmapChange;

/* Everything is on stable storage, no bitmap is in use any more. On failure nothing is to be ended.
 */
bool qcow2_bitmap_change_begin(Qcow2BitmapChange *c, Qcow2 *s, GError **error);
/* The tables of all of them for a disk of another length. */
bool qcow2_bitmap_change_length(Qcow2BitmapChange *c, uint64_t bytes, GError **error);
/* The directory is written, and is in the header that is in memory. */
bool qcow2_bitmap_change_prepare(Qcow2BitmapChange *c, GError **error);
/* The header, in which it takes effect; what is not used any more is given back. */
bool qcow2_bitmap_change_commit(Qcow2BitmapChange *c, GError **error);
/* After a commit, or instead of one: then nothing has changed. Bitmaps are in use again. */
bool qcow2_bitmap_change_end(Qcow2BitmapChange *c, bool ok, GError **error);

/* For those who change one of `maps`; errno. */
int qcow2_bitmap_change_alloc(Qcow2BitmapChange *c, uint64_t clusters, uint64_t *offset);
int qcow2_bitmap_change_write(Qcow2BitmapChange *c, const void *data, uint64_t bytes,
                              uint64_t *offset); /* new clusters with that */
void qcow2_bitmap_change_drop(Qcow2BitmapChange *c, uint64_t offset, uint64_t bytes);
int qcow2_bitmap_change_drop_bits(Qcow2BitmapChange *c, const Qcow2Bitmap *b); /* but the table */
/* A new table in place of the one that it has (if any). */
int qcow2_bitmap_change_table(Qcow2BitmapChange *c, Qcow2Bitmap *b, const uint64_t *table,
                              uint64_t entries);
