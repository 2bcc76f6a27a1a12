/*
 * A qcow2 image's metadata as it lies in the file, for what works on all of it while no request is
 * in flight: check, repair, snapshots. Past the driver's caches, which are written out before and
 * read again afterwards.
 *
 * Everything comes from a foreign file: sizes are bounded when they are read, offsets when they are
 * used. errno values; 0: fine.
 */
#pragma once

#include "engine/block/qcow2-counts.h"
#include "engine/block/qcow2_priv.h"

#define QCOW2_REFBLOCKS \
    UINT64_C(0xfffffffffffffe00) /* the offset in an entry of the refcount table */

#define QCOW2_COUNTS_MEMORY (UINT64_C(512) << 20) /* of one set of counts */

#define QCOW2_SNAPTABLE_MAX (UINT64_C(64) << 20)
#define QCOW2_EXTRA_MAX     1024
#define QCOW2_BITMAPS_MAX   65535
#define QCOW2_BITMAPDIR_MAX (UINT64_C(64) << 20)

typedef struct Qcow2Tables {
    BlockNode *file;
    uint8_t header[112]; /* as it is there; 72 of them with version 2 */
    unsigned version, cluster_bits, refcount_order;
    uint64_t cluster_size, size, file_bytes;
    bool data_file, extended_l2;
    uint64_t incompatible, autoclear;
    uint64_t l1_offset, reftable_offset, snapshots_offset;
    uint32_t l1_size, reftable_clusters, n_snapshots;
    uint64_t bitmap_dir, bitmap_dir_bytes; /* n_bitmaps 0: none that count */
    uint32_t n_bitmaps;
    uint64_t crypt_offset, crypt_bytes;
    uint64_t *reftable; /* host order */
    uint64_t reftable_entries;
} Qcow2Tables;

/* The header, its extensions and the refcount table of what lies on `file`. */
bool qcow2_tables_load(Qcow2Tables *t, BlockNode *file, GError **error);
void qcow2_tables_clear(Qcow2Tables *t);

/* `entries` big-endian numbers; what is beyond the end of the file is 0. g_free. ENOMEM. */
int qcow2_table_read(const Qcow2Tables *t, uint64_t offset, uint64_t entries, uint64_t **out);
int qcow2_table_write(const Qcow2Tables *t, uint64_t offset, const uint64_t *table,
                      uint64_t entries);

uint64_t qcow2_l2_entries(const Qcow2Tables *t); /* guest clusters that a table maps */
unsigned qcow2_l2_words(const Qcow2Tables *t);   /* 64-bit words an entry: 1 or 2 */
uint64_t qcow2_refblock_entries(const Qcow2Tables *t);
uint64_t qcow2_refcount_max(const Qcow2Tables *t);
/* The host bytes of a compressed cluster, whole sectors. */
void qcow2_compressed_range(const Qcow2Tables *t, uint64_t entry, uint64_t *offset,
                            uint64_t *bytes);
/* Every count as it is stored. EIO also for an entry of the refcount table that leads nowhere. */
int qcow2_counts_load(const Qcow2Tables *t, Qcow2Counts **out);

/* ---- the snapshot table ---------------------------------------------------------------------- */

typedef struct Qcow2Snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_ns, vm_state_size, disk_size, icount;
    uint8_t *extra; /* all of it as it was, those known included */
    uint32_t extra_size;
    char *id, *name;
} Qcow2Snapshot;

/* Of Qcow2Snapshot, in order, with its clear function. *bytes: of the table in the file. */
bool qcow2_snapshots_load(const Qcow2Tables *t, GArray **out, uint64_t *bytes, GError **error);
/* The same up to the first entry that is damaged, of which there are fewer than the header says
 * then. errno. */
int qcow2_snapshots_load_some(const Qcow2Tables *t, GArray **out, uint64_t *bytes);
/* The table's bytes as they are stored. */
GByteArray *qcow2_snapshots_pack(const Qcow2Tables *t, const GArray *snapshots);
