/*
 * Snapshots of RAM that share pages: a persistent page table a block over reference-counted page
 * copies.
 *
 * A RamTracker follows the RAM blocks of one machine. It knows the snapshot that RAM was last equal
 * to (its base); taking a snapshot copies only pages dirtied since, restoring copies back only
 * pages dirtied since plus those in which base and target differ. Pages of zeros cost nothing.
 * Snapshots may be taken, restored and freed in any order. Engine lock; the machine is paused.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/memory/memory.h"
#include "engine/memory/ram.h"

typedef struct RamTracker RamTracker;
typedef struct RamSnapshot RamSnapshot;

typedef struct RamSnapshotStats {
    uint64_t pages_copied; /* by the last take or restore */
    uint64_t pages_held;   /* distinct page copies that this snapshot references */
    uint64_t bytes_held;   /* host memory of all snapshots of the tracker, shared pages once, tables
                              included */
} RamSnapshotStats;

/* `sync` is called first in take and restore: it brings the dirty bitmaps up to date (address-space
 * log_sync). */
RamTracker *ram_tracker_new(void (*sync)(void *opaque), void *opaque);
void ram_tracker_free(RamTracker *t); /* after its snapshots */
/* `name` identifies the block across machines of the same shape. The tracker switches
 * DIRTY_SNAPSHOT logging on at the first take, and off when its last snapshot is freed. A region
 * without RAM, or one whose block or name is there already, is refused with a warning. Whoever
 * writes to RAM by pointer marks it dirty. The content of a read-only block is not saved. */
void ram_tracker_add(RamTracker *t, const char *name, MemoryRegion *mr);
void ram_tracker_remove(RamTracker *t, MemoryRegion *mr);

/* NULL + error: the host has no room for the copies. */
RamSnapshot *ram_snapshot_take(RamTracker *t, GError **error);
/* false + error when the set of blocks or a size differs from the one at take; then nothing was
 * changed. `s` may be of another tracker (a machine of the same shape): that compares nothing, it
 * costs the copy of all pages that hold something. Other dirty clients see the pages change. */
bool ram_snapshot_restore(RamTracker *t, RamSnapshot *s, GError **error);
void ram_snapshot_free(RamTracker *t, RamSnapshot *s);
void ram_snapshot_stats(RamTracker *t, RamSnapshot *s, RamSnapshotStats *out);
