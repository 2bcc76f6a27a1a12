/*
 * qcow2: the clusters that hold metadata, so that damaged tables cannot lead a guest's data into
 * them. An open hash of cluster numbers.
 */
#include <string.h>

#include "engine/block/qcow2_priv.h"

#define FIRST_SLOTS 256u

static uint32_t slot_of(const Qcow2 *s, uint64_t cluster)
{
    return (uint32_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (s->meta_slots - 1);
}

static uint32_t find_slot(const Qcow2 *s, uint64_t cluster)
{
    uint32_t i = slot_of(s, cluster);

    while (s->meta[i] && s->meta[i] != cluster + 1) {
        i = (i + 1) & (s->meta_slots - 1);
    }
    return i;
}

static bool make_larger(Qcow2 *s)
{
    uint64_t *old = s->meta;
    uint32_t n = s->meta_slots, larger = n ? 2 * n : FIRST_SLOTS;
    uint64_t *meta = g_try_new0(uint64_t, larger);

    if (!meta) {
        return false;
    }
    s->meta = meta;
    s->meta_slots = larger;
    for (uint32_t i = 0; i < n; i++) {
        if (old[i]) {
            s->meta[find_slot(s, old[i] - 1)] = old[i];
        }
    }
    g_free(old);
    return true;
}

bool qcow2_meta_add(Qcow2 *s, uint64_t offset, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++) {
        uint64_t cluster = (offset >> s->cluster_bits) + i;
        uint32_t slot;

        if (s->meta_used >= s->meta_slots / 2 && !make_larger(s)) {
            return false;
        }
        slot = find_slot(s, cluster);
        s->meta_used += !s->meta[slot];
        s->meta[slot] = cluster + 1;
    }
    return true;
}

void qcow2_meta_remove(Qcow2 *s, uint64_t offset, uint64_t clusters)
{
    uint32_t mask = s->meta_slots - 1;

    for (uint64_t i = 0; i < clusters; i++) {
        uint32_t hole = find_slot(s, (offset >> s->cluster_bits) + i), at = hole;

        if (!s->meta[hole]) {
            continue;
        }
        /* What could not lie where it wants to moves up. */
        for (;;) {
            uint32_t home;

            at = (at + 1) & mask;
            if (!s->meta[at]) {
                break;
            }
            home = slot_of(s, s->meta[at] - 1);
            if (((at - home) & mask) >= ((at - hole) & mask)) {
                s->meta[hole] = s->meta[at];
                hole = at;
            }
        }
        s->meta[hole] = 0;
        s->meta_used--;
    }
}

bool qcow2_meta_overlaps(const Qcow2 *s, uint64_t offset, uint64_t bytes)
{
    uint64_t last = (offset + bytes - 1) >> s->cluster_bits;

    for (uint64_t c = offset >> s->cluster_bits; c <= last; c++) {
        if (s->meta[find_slot(s, c)]) {
            return true;
        }
    }
    return false;
}

bool qcow2_meta_build(Qcow2 *s)
{
    bool ok;

    g_clear_pointer(&s->meta, g_free);
    s->meta_slots = s->meta_used = 0;
    ok = qcow2_meta_add(s, 0, 1) &&
         qcow2_meta_add(s, s->l1_offset, qcow2_clusters(s, 8 * (uint64_t)s->l1_entries)) &&
         qcow2_meta_add(s, s->rt_offset, s->rt_clusters) &&
         qcow2_meta_add(s, s->snapshots_offset, qcow2_clusters(s, s->snapshots_bytes));
    for (uint32_t i = 0; i < s->l1_entries && ok; i++) {
        uint64_t table = s->l1[i] & QCOW2_OFFSET_MASK;

        ok = !table || qcow2_meta_add(s, table, 1);
    }
    for (uint32_t i = 0; i < s->rt_entries && ok; i++) {
        ok = !s->rt[i] || qcow2_meta_add(s, s->rt[i], 1);
    }
    return ok;
}
