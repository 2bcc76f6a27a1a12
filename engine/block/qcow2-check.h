/* Shared by check and repair: what was found. */
#pragma once

#include "engine/block/qcow2-rewrite.h"

/* An L2 table that is not aligned. */
typedef struct Qcow2OddTable {
    uint64_t offset;
    bool active;
} Qcow2OddTable;

typedef struct Qcow2Check {
    BlockNode *node;
    Qcow2Tables t;
    BlockCheckResult r; /* of this pass */
    int fix;            /* what may be repaired in this pass (BLOCK_FIX_…) */
    uint64_t clusters;  /* of the file, a part of one counts */
    Qcow2Counts *refs;  /* references that were found */
    Qcow2Counts *plain; /* without those of the refcount structure; only when `fix` */
    Qcow2Counts *stored;
    Qcow2Counts *l2, *active; /* references to L2 tables: from all L1 tables, from the active one */
    uint64_t *l1;             /* the active one */
    GArray *snapshots;        /* of Qcow2Snapshot: those before the first that is damaged */
    uint32_t lost_snapshots;  /* what they refer to nobody can say: nothing is taken for a leak */
    uint64_t snapshots_bytes;
    GArray *odd;     /* of Qcow2OddTable */
    uint64_t tables; /* bytes that were read of those, and of tables of snapshots and bitmaps */
    uint64_t reported;
    bool rebuild; /* the refcount structure is no good */
    BlockProgressFn progress;
    BlockReportFn report; /* NULL: only the log is told */
    void *opaque;
    uint64_t done, total;
} Qcow2Check;

/* So many references to each cluster of [offset, offset+bytes); beyond the end of the file: a
 * corruption. errno. */
int qcow2_check_mark(Qcow2Check *ck, uint64_t offset, uint64_t bytes, uint64_t times,
                     const char *what);
/* Sees each L2 table once, as it is in the file; `cluster`: its number in the file. errno. */
typedef int (*Qcow2CheckVisit)(Qcow2Check *ck, uint64_t cluster, uint64_t *words);
int qcow2_check_visit(Qcow2Check *ck, Qcow2CheckVisit visit);
int qcow2_check_l2(Qcow2Check *ck, uint64_t cluster, uint64_t *words); /* a Qcow2CheckVisit */
int qcow2_check_odd(Qcow2Check *ck);                                   /* the tables in ck->odd */
/* All that is wrong; entries that nothing but an entry's own content decides are put right when
 * `fix` has errors. errno: ECANCELED, ENOMEM, EIO. */
int qcow2_check_pass(Qcow2Check *ck);
void qcow2_check_clear(Qcow2Check *ck);
/* What was found is put right, as far as ck->fix allows. errno. */
int qcow2_check_repair(Qcow2Check *ck);
/* Progress by `steps`; false: it is to end. */
bool qcow2_check_step(Qcow2Check *ck, uint64_t steps);
void qcow2_check_report(Qcow2Check *ck, const char *format, ...) G_GNUC_PRINTF(2, 3);
void qcow2_check_report_rest(Qcow2Check *ck); /* how many more there were than were told */
