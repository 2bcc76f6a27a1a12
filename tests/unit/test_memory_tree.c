/*
 * Flat views against a model: random trees of regions, changed at random, are compared byte by byte
 * with a model that keeps its own tree and resolves each address by walking it. A listener's idea
 * of the view, built from additions and deletions alone, must stay the same as the view.
 *
 * VMLUA_SEED=n runs the one tree of that seed.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"
#include "tests/unit/run_suite.h"

/* ck_assert writes to a pipe each time it passes: too slow for millions of them. */
#define REQUIRE(cond, ...)             \
    do {                               \
        if (!(cond)) {                 \
            ck_abort_msg(__VA_ARGS__); \
        }                              \
    } while (0)

#define WINDOW 256 /* bytes in which everything happens */
#define NODES  32
#define TREES  4000
#define ROUNDS 12

typedef struct Node Node;
struct Node {
    MemoryRegion mr;
    bool used, enabled, readonly, romd;
    MemoryKind kind;
    uint64_t size;
    Node *parent, *target;
    hwaddr addr, alias_offset;
    int priority;
    unsigned seq; /* rises with each addition: of equal priority the last added wins */
    Node *children[NODES];
    unsigned n_children;
};

typedef struct Shadow {
    MemoryListener listener;
    FlatRange ranges[16 * NODES];
    unsigned n;
    bool open;
    unsigned begins, commits;
} Shadow;

static uint64_t rng_state;
static unsigned long seed;
static unsigned seq;
static Node nodes[NODES];
static MemoryRegion root;
static hwaddr window_at; /* of nodes[0] in root */
static AddressSpace *as;
static RamBlock *shared_block;

static uint32_t rnd(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 20) % below);
}

/* ---- the model --------------------------------------------------------------------------- */

typedef struct Hit {
    const Node *node;
    uint64_t offset;
    bool readonly;
} Hit;

static int by_precedence(const void *pa, const void *pb)
{
    const Node *a = *(Node *const *)pa, *b = *(Node *const *)pb;

    if (a->priority != b->priority) {
        return a->priority > b->priority ? -1 : 1;
    }
    return a->seq > b->seq ? -1 : 1;
}

static bool resolve(const Node *node, __int128 at, bool readonly, Hit *hit)
{
    if (!node->enabled || at < 0 || at >= node->size) {
        return false;
    }
    readonly |= node->readonly;
    if (node->kind == MEMORY_ALIAS) {
        return node->target && resolve(node->target, at + node->alias_offset, readonly, hit);
    }
    if (node->kind == MEMORY_CONTAINER) {
        Node *order[NODES];

        memcpy(order, node->children, sizeof(order));
        qsort(order, node->n_children, sizeof(order[0]), by_precedence);
        for (unsigned i = 0; i < node->n_children; i++) {
            if (resolve(order[i], at - order[i]->addr, readonly, hit)) {
                return true;
            }
        }
        return false;
    }
    *hit = (Hit){ node, (uint64_t)at, readonly || node->kind == MEMORY_ROM };
    return true;
}

/* Whether `what` is `in` or below it, also through aliases. */
static bool reaches(const Node *in, const Node *what)
{
    if (in == what) {
        return true;
    }
    if (in->target && reaches(in->target, what)) {
        return true;
    }
    for (unsigned i = 0; i < in->n_children; i++) {
        if (reaches(in->children[i], what)) {
            return true;
        }
    }
    return false;
}

/* ---- the listener's shadow --------------------------------------------------------------- */

static unsigned shadow_find(const Shadow *s, const FlatRange *r)
{
    for (unsigned i = 0; i < s->n; i++) {
        if (s->ranges[i].addr == r->addr && s->ranges[i].last == r->last &&
            s->ranges[i].mr == r->mr && s->ranges[i].id == r->id &&
            s->ranges[i].offset == r->offset && s->ranges[i].readonly == r->readonly &&
            s->ranges[i].romd == r->romd) {
            return i;
        }
    }
    return UINT_MAX;
}

static void shadow_begin(MemoryListener *l)
{
    Shadow *s = l->opaque;

    REQUIRE(!s->open, "seed %lu", seed);
    s->open = true;
    s->begins++;
}

static void shadow_add(MemoryListener *l, const MemorySection *sec)
{
    Shadow *s = l->opaque;

    REQUIRE(s->open, "seed %lu", seed);
    for (unsigned i = 0; i < s->n; i++) {
        REQUIRE(sec->range.last < s->ranges[i].addr || sec->range.addr > s->ranges[i].last,
                "seed %lu: an added range overlaps one that is there", seed);
    }
    REQUIRE(s->n < G_N_ELEMENTS(s->ranges), "seed %lu", seed);
    s->ranges[s->n++] = sec->range;
}

static void shadow_del(MemoryListener *l, const MemorySection *sec)
{
    Shadow *s = l->opaque;
    unsigned i = shadow_find(s, &sec->range);

    REQUIRE(s->open, "seed %lu", seed);
    REQUIRE(i != UINT_MAX, "seed %lu: a deleted range was never added", seed);
    s->ranges[i] = s->ranges[--s->n];
}

static void shadow_nop(MemoryListener *l, const MemorySection *sec)
{
    REQUIRE(shadow_find(l->opaque, &sec->range) != UINT_MAX,
            "seed %lu: an unchanged range was never added", seed);
}

static void shadow_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    Shadow *s = l->opaque;

    REQUIRE(s->open, "seed %lu", seed);
    s->open = false;
    s->commits++;
    REQUIRE(s->n == new_view->n, "seed %lu: listener has %u ranges, view %u", seed, s->n,
            new_view->n);
    for (unsigned i = 0; i < new_view->n; i++) {
        REQUIRE(shadow_find(s, &new_view->ranges[i]) != UINT_MAX, "seed %lu", seed);
    }
}

static void shadow_init(Shadow *s)
{
    *s = (Shadow){ .listener = { .begin = shadow_begin,
                                 .region_add = shadow_add,
                                 .region_del = shadow_del,
                                 .region_nop = shadow_nop,
                                 .commit = shadow_commit } };
    s->listener.opaque = s;
}

/* ---- comparing --------------------------------------------------------------------------- */

static void check_byte(const FlatView *view, hwaddr addr)
{
    const FlatRange *r = flat_view_find(view, addr);
    Hit hit = { 0 };
    bool found = resolve(&nodes[0], (__int128)addr - window_at, false, &hit);

    REQUIRE(found == !!r, "seed %lu: at window + %ld: model %s, view %s", seed,
            (long)(addr - window_at), found ? hit.node->mr.name : "nothing",
            r ? r->mr->name : "nothing");
    if (!r) {
        return;
    }
    REQUIRE(r->mr == &hit.node->mr, "seed %lu: at window + %ld: model %s, view %s", seed,
            (long)(addr - window_at), hit.node->mr.name, r->mr->name);
    REQUIRE(r->offset + (addr - r->addr) == hit.offset, "seed %lu: wrong offset in %s", seed,
            r->mr->name);
    REQUIRE(r->readonly == hit.readonly, "seed %lu: readonly differs in %s", seed, r->mr->name);
    REQUIRE(r->romd == (hit.node->kind == MEMORY_ROM_DEVICE && hit.node->romd),
            "seed %lu: romd differs in %s", seed, r->mr->name);
}

static void check_view(void)
{
    const FlatView *view;

    rcu_enter();
    view = address_space_flat_view(as);
    for (unsigned i = 0; i < view->n; i++) {
        const FlatRange *r = &view->ranges[i], *next = r + 1;

        REQUIRE(r->addr <= r->last, "seed %lu", seed);
        if (i + 1 < view->n) {
            REQUIRE(r->last < next->addr, "seed %lu: ranges overlap or are not sorted", seed);
            REQUIRE(r->last + 1 != next->addr || r->mr != next->mr ||
                        r->readonly != next->readonly ||
                        r->offset + (next->addr - r->addr) != next->offset,
                    "seed %lu: equal neighbours were not merged", seed);
        }
    }
    for (unsigned i = 0; i < WINDOW; i++) {
        check_byte(view, window_at + i);
    }
    check_byte(view, window_at - 1); /* wraps to the other end: nothing there */
    check_byte(view, window_at + WINDOW);
    rcu_leave();
}

/* ---- changing ---------------------------------------------------------------------------- */

static const MemoryRegionOps no_ops;

static void node_new(Node *n, unsigned index)
{
    char name[16];

    memset(n, 0, sizeof(*n));
    g_snprintf(name, sizeof(name), "n%u", index);
    n->used = n->enabled = n->romd = true;
    n->size = 1 + rnd(rnd(4) ? 40 : WINDOW);
    switch (rnd(12)) {
    case 0 ... 3:
        n->kind = MEMORY_CONTAINER;
        memory_region_init(&n->mr, NULL, name, n->size);
        break;
    case 4 ... 6:
        n->kind = MEMORY_ALIAS;
        n->target = &nodes[rnd(NODES)];
        if (!n->target->used || n->target == n) {
            n->target = &nodes[0];
        }
        n->alias_offset = rnd(64);
        if (rnd(6) == 0) {
            n->alias_offset = UINT64_MAX - rnd(8); /* far outside of its target */
        }
        memory_region_init_alias(&n->mr, NULL, name, &n->target->mr, n->alias_offset, n->size);
        break;
    case 7:
        n->kind = MEMORY_RAM;
        memory_region_init_ram_block(&n->mr, NULL, name, shared_block);
        memory_region_set_size(&n->mr, n->size);
        break;
    case 8:
        n->kind = MEMORY_ROM;
        REQUIRE(memory_region_init_rom(&n->mr, NULL, name, n->size, NULL), "seed %lu", seed);
        break;
    case 9:
        n->kind = MEMORY_ROM_DEVICE;
        REQUIRE(memory_region_init_rom_device(&n->mr, NULL, &no_ops, NULL, name, n->size, NULL),
                "seed %lu", seed);
        break;
    default:
        n->kind = MEMORY_IO;
        memory_region_init_io(&n->mr, NULL, &no_ops, NULL, name, n->size);
        break;
    }
}

static void node_detach(Node *n)
{
    Node *p = n->parent;

    for (unsigned i = 0; i < p->n_children; i++) {
        if (p->children[i] == n) {
            p->children[i] = p->children[--p->n_children];
            break;
        }
    }
    n->parent = NULL;
    memory_region_del_subregion(&p->mr, &n->mr);
}

static void node_attach(Node *n)
{
    Node *p = &nodes[0];
    hwaddr addr = rnd(rnd(3) ? WINDOW : 32);
    int priority = (int)rnd(4) - 1;
    bool fits, ok;
    GError *error = NULL;

    if (n->parent) {
        return;
    }
    if (rnd(3)) {
        for (unsigned tries = 0; tries < 32; tries++) {
            p = &nodes[rnd(NODES)];
            if (p->used && p->kind == MEMORY_CONTAINER) {
                break;
            }
            p = &nodes[0];
        }
    }
    fits = addr < p->size && !reaches(n, p);
    ok = memory_region_add_subregion_checked(&p->mr, addr, &n->mr, priority, true, &error);
    REQUIRE(ok == fits, "seed %lu: adding %s to %s: %s", seed, n->mr.name, p->mr.name,
            error ? error->message : "accepted");
    g_clear_error(&error);
    if (ok) {
        n->parent = p;
        n->addr = addr;
        n->priority = priority;
        n->seq = ++seq;
        p->children[p->n_children++] = n;
    }
}

static void node_free(Node *n)
{
    for (unsigned i = 0; i < NODES; i++) {
        if (nodes[i].used && nodes[i].target == n) {
            nodes[i].target = NULL;
        }
    }
    while (n->n_children) {
        n->children[--n->n_children]->parent = NULL;
    }
    if (n->parent) {
        Node *p = n->parent;

        for (unsigned i = 0; i < p->n_children; i++) {
            if (p->children[i] == n) {
                p->children[i] = p->children[--p->n_children];
                break;
            }
        }
    }
    memory_region_finalize(&n->mr);
    n->used = false;
}

static void mutate(void)
{
    unsigned index = 1 + rnd(NODES - 1);
    Node *n = &nodes[index];

    if (!n->used) {
        node_new(n, index);
        node_attach(n);
        return;
    }
    switch (rnd(11)) {
    case 0:
    case 1:
        memory_region_set_enabled(&n->mr, n->enabled = !n->enabled);
        break;
    case 2:
    case 3:
        memory_region_set_address(&n->mr, n->addr = rnd(WINDOW));
        break;
    case 4:
        n->size = 1 + rnd(64);
        if (n->kind == MEMORY_CONTAINER || n->kind == MEMORY_ALIAS || n->kind == MEMORY_IO) {
            memory_region_set_size(&n->mr, n->size);
        } else {
            n->size = n->mr.size;
        }
        break;
    case 5:
        n->alias_offset = rnd(64);
        memory_region_set_alias_offset(&n->mr, n->alias_offset);
        break;
    case 6:
        memory_region_set_readonly(&n->mr, n->readonly = !n->readonly);
        break;
    case 7:
        memory_region_rom_device_set_romd(&n->mr, n->romd = !n->romd);
        break;
    case 8:
        node_free(n);
        break;
    default:
        if (n->parent) {
            node_detach(n);
        } else {
            node_attach(n);
        }
        break;
    }
}

static void run_tree(Shadow *shadow)
{
    rng_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (unsigned i = 0; i < 8; i++) {
        rnd(2);
    }
    memset(nodes, 0, sizeof(nodes));
    window_at = (hwaddr[]){ 0, UINT64_MAX - WINDOW + 1, UINT64_C(1) << 63, 0x1000 }[rnd(4)];
    nodes[0] = (Node){ .used = true, .enabled = true, .kind = MEMORY_CONTAINER, .size = WINDOW };
    memory_region_init(&nodes[0].mr, NULL, "window", WINDOW);
    memory_region_add_subregion(&root, window_at, &nodes[0].mr);
    for (unsigned i = 1 + rnd(1 + rnd(NODES)); i < NODES; i++) {
        node_new(&nodes[i], i);
        node_attach(&nodes[i]);
    }
    check_view();
    for (unsigned round = 0; round < ROUNDS; round++) {
        memory_region_transaction_begin();
        for (unsigned k = rnd(4); k-- > 0;) {
            mutate();
        }
        memory_region_transaction_commit();
        REQUIRE(shadow->begins == shadow->commits, "seed %lu: begin without commit", seed);
        check_view();
    }
    for (unsigned i = NODES; i-- > 0;) {
        if (nodes[i].used) {
            node_free(&nodes[i]);
        }
    }
    ck_assert_uint_eq(shadow->n, 0);
}

START_TEST(random_trees_look_as_the_byte_by_byte_model_says)
{
    const char *only = getenv("VMLUA_SEED");
    Shadow shadow;

    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    as = address_space_new(ADDRESS_SPACE_OTHER, &root, "random");
    shared_block = ram_block_new_anonymous("shared", RAM_PAGE_SIZE, NULL);
    shadow_init(&shadow);
    memory_listener_register(&shadow.listener, as);
    for (seed = only ? strtoul(only, NULL, 0) : 1; seed <= (only ? seed : TREES); seed++) {
        run_tree(&shadow);
        if (only) {
            break;
        }
    }
    address_space_free(as);
    ram_block_unref(shared_block);
    memory_region_finalize(&root);
    main_loop_finalize();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory tree");
    TCase *tc = tcase_create("model");

    tcase_set_timeout(tc, 100);
    tcase_add_test(tc, random_trees_look_as_the_byte_by_byte_model_says);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
