/*
 * Saves, spoils and restores a machine where it stands: whatever its saved state does not hold is
 * lost by that, and is found by whoever uses it afterwards. The test runner does this at every wait
 * (vmlua test --torture=…).
 */
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/log.h"
#include "engine/machine/machine_priv.h"
#include "engine/state/stream.h"

#define SPOIL_PAGES 64 /* a block */
#define SPOIL_NS    INT64_C(3000000000)

/* ---- spoiling ------------------------------------------------------------------------------ */

typedef struct Spoil {
    RamBlock *block;
    unsigned left;
} Spoil;

/* Some of the pages that hold something, wherever they are. */
static void spoil_pages(uint64_t first, uint64_t n, void *opaque)
{
    Spoil *s = opaque;
    uint64_t step = MAX(1, n / 16);

    for (uint64_t page = first; s->left > 0 && page < first + n; page += step, s->left--) {
        uint8_t *p = s->block->host + page * RAM_PAGE_SIZE;

        for (unsigned i = 0; i < RAM_PAGE_SIZE; i++) {
            p[i] ^= 0xa5;
        }
        ram_block_set_dirty(s->block, page * RAM_PAGE_SIZE, RAM_PAGE_SIZE);
    }
}

static void spoil_ram(Machine *m)
{
    for (unsigned i = 0; i < m->priv->rams->len; i++) {
        MemoryRegion *mr = g_ptr_array_index(m->priv->rams, i);

        if (mr->ram && !mr->ram->readonly) {
            Spoil s = { mr->ram, SPOIL_PAGES };

            ram_block_foreach_populated(mr->ram, spoil_pages, &s);
        }
    }
}

/* As a machine that has lived on and was reset then. */
static bool spoil(Machine *m, TortureKind kind, GError **error)
{
    clock_set(m->clock, clock_now(m->clock) + SPOIL_NS);
    machine_run_resets(m, false);
    if (!machine_reset_accel(m, error)) {
        return false;
    }
    for (unsigned i = 0; i < m->cpus->len; i++) {
        cpu_reset(g_ptr_array_index(m->cpus, i));
    }
    if (kind == TORTURE_SNAPSHOT) {
        spoil_ram(m);
    }
    return true;
}

/* ---- comparing ----------------------------------------------------------------------------- */

typedef struct Section {
    char *name; /* NULL: none is left */
    uint32_t instance;
    guint8 *data;
    size_t len;
} Section;

static void section_clear(Section *s)
{
    g_free(s->name);
    g_free(s->data);
    *s = (Section){ 0 };
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Section, section_clear)

static void next_section(StateReader *r, Section *s)
{
    const char *name;
    uint32_t version;

    section_clear(s);
    if (state_next_section(r, &name, &s->instance, &version)) {
        s->name = g_strdup(name);
        s->len = state_section_left(r);
        s->data = g_malloc(s->len);
        state_get_bytes(r, s->data, s->len);
    }
}

static bool differs(const Section *a, const Section *b, GError **error)
{
    size_t at = 0;

    if (g_strcmp0(a->name, b->name) || a->instance != b->instance) {
        return !error_set(
            error, ENGINE_ERROR_CORRUPT, "after loading, '%s' %u is saved where '%s' %u was",
            b->name ? b->name : "nothing", b->instance, a->name ? a->name : "nothing", a->instance);
    }
    while (at < a->len && at < b->len && a->data[at] == b->data[at]) {
        at++;
    }
    if (at < a->len || at < b->len) {
        return !error_set(error, ENGINE_ERROR_CORRUPT,
                          "'%s' %u saved, loaded and saved again differs from byte %zu of %zu on",
                          a->name, a->instance, at, a->len);
    }
    return false;
}

/* What an accelerator keeps in the kernel goes on by the host's clock: it, and vCPUs whose time
 * stamp counters it drives, are never the same twice. */
static bool compare(Machine *m, GBytes *before, GBytes *after, GError **error)
{
    bool own_time = machine_accel_class(m)->clock_changed != NULL;
    StateReader *r[2] = { state_reader_new(before, error), NULL };
    bool same = false;

    r[1] = r[0] ? state_reader_new(after, error) : NULL;
    if (r[1]) {
        g_auto(Section) a = { 0 }, b = { 0 };

        do {
            next_section(r[0], &a);
            next_section(r[1], &b);
            same = (a.name && own_time &&
                    (!strcmp(a.name, "accelerator") || !strcmp(a.name, "cpu"))) ||
                   !differs(&a, &b, error);
        } while (same && a.name);
    }
    state_reader_free(r[0]);
    state_reader_free(r[1]);
    return same;
}

/* ---- torture ------------------------------------------------------------------------------- */

/* vCPUs are stopped. */
static bool torture_stopped(Machine *m, TortureKind kind, GError **error)
{
    g_autoptr(GBytes) before = machine_save_stopped(m, error), after = NULL;
    bool ok;

    if (!before) {
        return false;
    }
    if (kind == TORTURE_SNAPSHOT) {
        RamSnapshot *old = m->priv->torture;

        /* The old one is freed after: while one is alive, only what was written since is copied. */
        RamSnapshot *fresh = ram_snapshot_take(m->ram_tracker, error);

        if (!fresh) {
            return false;
        }
        m->priv->torture = fresh;
        ram_snapshot_free(m->ram_tracker, old);
    }
    ok = spoil(m, kind, error) &&
         (kind != TORTURE_SNAPSHOT ||
          ram_snapshot_restore(m->ram_tracker, m->priv->torture, error)) &&
         machine_load_stopped(m, before, error);
    /* Requests of devices that were reset; before that there were none. */
    machine_drop_pending(m);
    return ok && (after = machine_save_stopped(m, error)) && compare(m, before, after, error);
}

bool machine_torturing(const Machine *m)
{
    return m->priv->torturing;
}

static bool may_torture(Machine *m)
{
    const MachinePriv *p = m->priv;

    return !p->closing && !p->broken && machine_may_touch_state(m, "save", NULL) &&
           !machine_stepping_cpu(m) && /* it is to end by itself */
           p->pending == PENDING_NONE && !p->pending_reset && !p->pending_shutdown &&
           !p->pending_close;
}

bool machine_torture(Machine *m, TortureKind kind, bool *done, GError **error)
{
    GError *e = NULL;
    bool ok;

    *done = false;
    if (!machine_may_touch_state(m, "save", NULL) || m->priv->broken) {
        return true;
    }
    if (!machine_quiesce_begin(m, error)) {
        return false;
    }
    machine_settle(m); /* nothing half-done may slip in */
    if (!may_torture(m)) {
        machine_quiesce_end(m);
        return true;
    }
    machine_hold(m);
    m->priv->torturing = true;
    ok = torture_stopped(m, kind, &e);
    m->priv->torturing = false;
    if (ok) {
        machine_release(m);
    } else {
        machine_become_broken(m, "torture", e);
        g_propagate_error(error, e);
    }
    machine_quiesce_end(m);
    *done = true;
    return ok;
}
