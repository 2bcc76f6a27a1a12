/* Memory topology: transactions, listeners, lifetime of owners, dirty logging, eventfds,
 * coalescing, hostile sizes, mistakes of boards, introspection. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/memory/memory.h"
#include "engine/memory/ram.h"

static MemoryRegion root;
static AddressSpace *as;
static const MemoryRegionOps no_ops;

/* ---- a listener that writes down what it is told ----------------------------------------- */

typedef struct Recorder {
    MemoryListener l;
    GString *text;
    char mark;
    bool nops;
} Recorder;

static Recorder *recorder_of(MemoryListener *l)
{
    return l->opaque;
}

static void note(MemoryListener *l, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void note(MemoryListener *l, const char *format, ...)
{
    Recorder *r = recorder_of(l);
    va_list ap;

    if (r->text->len) {
        g_string_append_c(r->text, ' ');
    }
    if (r->mark) {
        g_string_append_c(r->text, r->mark);
    }
    va_start(ap, format);
    g_string_append_vprintf(r->text, format, ap);
    va_end(ap);
}

static void rec_begin(MemoryListener *l)
{
    note(l, "begin");
}

static void rec_add(MemoryListener *l, const MemorySection *s)
{
    note(l, "add:%s@%lx-%lx+%lx", s->range.mr->name, (unsigned long)s->range.addr,
         (unsigned long)s->range.last, (unsigned long)s->range.offset);
}

static void rec_del(MemoryListener *l, const MemorySection *s)
{
    note(l, "del:%s@%lx-%lx", s->range.mr->name, (unsigned long)s->range.addr,
         (unsigned long)s->range.last);
}

static void rec_nop(MemoryListener *l, const MemorySection *s)
{
    if (recorder_of(l)->nops) {
        note(l, "nop:%s@%lx", s->range.mr->name, (unsigned long)s->range.addr);
    }
}

static void rec_log_start(MemoryListener *l, const MemorySection *s, uint8_t o, uint8_t n)
{
    note(l, "log_start:%s:%u>%u", s->range.mr->name, o, n);
}

static void rec_log_stop(MemoryListener *l, const MemorySection *s, uint8_t o, uint8_t n)
{
    note(l, "log_stop:%s:%u>%u", s->range.mr->name, o, n);
}

static void rec_log_sync(MemoryListener *l, const MemorySection *s)
{
    note(l, "sync:%s@%lx", s->range.mr->name, (unsigned long)s->range.addr);
}

static void rec_eventfd_add(MemoryListener *l, const MemorySection *s,
                            const MemoryRegionIoeventfd *e)
{
    note(l, "ev+%lx:%lu:%lx:%d", (unsigned long)e->range.addr, (unsigned long)e->range.size,
         (unsigned long)e->data, e->fd);
}

static void rec_eventfd_del(MemoryListener *l, const MemorySection *s,
                            const MemoryRegionIoeventfd *e)
{
    note(l, "ev-%lx:%lu:%lx:%d", (unsigned long)e->range.addr, (unsigned long)e->range.size,
         (unsigned long)e->data, e->fd);
}

static void rec_coalesced_add(MemoryListener *l, const MemorySection *s, hwaddr addr, uint64_t len)
{
    note(l, "co+%lx:%lx", (unsigned long)addr, (unsigned long)len);
}

static void rec_coalesced_del(MemoryListener *l, const MemorySection *s, hwaddr addr, uint64_t len)
{
    note(l, "co-%lx:%lx", (unsigned long)addr, (unsigned long)len);
}

static void rec_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    note(l, "commit:%u>%u", old_view->n, new_view->n);
}

static void recorder_init(Recorder *r)
{
    *r = (Recorder){ .text = g_string_new(NULL) };
    r->l = (MemoryListener){ .begin = rec_begin,
                             .region_add = rec_add,
                             .region_del = rec_del,
                             .region_nop = rec_nop,
                             .log_start = rec_log_start,
                             .log_stop = rec_log_stop,
                             .log_sync = rec_log_sync,
                             .eventfd_add = rec_eventfd_add,
                             .eventfd_del = rec_eventfd_del,
                             .coalesced_add = rec_coalesced_add,
                             .coalesced_del = rec_coalesced_del,
                             .commit = rec_commit,
                             .opaque = r };
}

#define ck_assert_told(r, expected)                 \
    do {                                            \
        ck_assert_str_eq((r)->text->str, expected); \
        g_string_truncate((r)->text, 0);            \
    } while (0)

static Recorder rec;

static void setup(void)
{
    main_loop_init();
    memory_region_init(&root, NULL, "root", MEMORY_REGION_MAX);
    as = address_space_new(ADDRESS_SPACE_MEMORY, &root, "test");
    recorder_init(&rec);
    memory_listener_register(&rec.l, as);
    ck_assert_told(&rec, "begin commit:0>0");
}

static void teardown(void)
{
    if (as) {
        address_space_free(as);
    }
    memory_region_finalize(&root);
    main_loop_finalize();
    g_string_free(rec.text, TRUE);
}

static void io_init(MemoryRegion *mr, const char *name, uint64_t size)
{
    memory_region_init_io(mr, NULL, &no_ops, NULL, name, size);
}

/* ---- transactions and listeners ---------------------------------------------------------- */

START_TEST(a_transaction_tells_listeners_once_however_deep_it_nests)
{
    MemoryRegion a, b;

    io_init(&a, "a", 0x10);
    io_init(&b, "b", 0x10);
    memory_region_transaction_begin();
    memory_region_add_subregion(&root, 0, &a);
    memory_region_transaction_begin();
    memory_region_add_subregion(&root, 0x20, &b);
    memory_region_transaction_commit();
    ck_assert_told(&rec, "");
    rcu_enter();
    ck_assert_uint_eq(address_space_flat_view(as)->n, 0);
    rcu_leave();
    memory_region_transaction_commit();
    ck_assert_told(&rec, "begin add:a@0-f+0 add:b@20-2f+0 commit:0>2");
    memory_region_finalize(&a);
    memory_region_finalize(&b);
}
END_TEST

START_TEST(what_changes_nothing_that_can_be_seen_tells_nobody_and_keeps_the_view)
{
    MemoryRegion a, hidden, off;
    const FlatView *view;

    io_init(&a, "a", 0x100);
    io_init(&hidden, "hidden", 0x10);
    io_init(&off, "off", 0x10);
    memory_region_add_subregion_overlap(&root, 0, &a, 1);
    rcu_enter();
    view = address_space_flat_view(as);
    g_string_truncate(rec.text, 0);
    memory_region_add_subregion(&root, 0x10, &hidden);
    memory_region_set_address(&hidden, 0x20);
    memory_region_set_enabled(&off, false);
    memory_region_add_subregion(&root, 0x200, &off);
    memory_region_transaction_begin();
    memory_region_set_enabled(&a, false);
    memory_region_set_enabled(&a, true);
    memory_region_transaction_commit();
    ck_assert_told(&rec, "");
    ck_assert_ptr_eq(address_space_flat_view(as), view);
    rcu_leave();
    memory_region_finalize(&a);
    memory_region_finalize(&hidden);
    memory_region_finalize(&off);
}
END_TEST

START_TEST(only_ranges_that_changed_are_deleted_and_added)
{
    MemoryRegion ram, a, b;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x10000, NULL));
    io_init(&a, "a", 0x1000);
    io_init(&b, "b", 0x1000);
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_add_subregion_overlap(&root, 0x20000, &a, 1);
    memory_region_add_subregion_overlap(&root, 0x30000, &b, 1);
    g_string_truncate(rec.text, 0);
    rec.nops = true;
    memory_region_set_address(&a, 0x21000);
    ck_assert_told(&rec, "begin del:a@20000-20fff nop:ram@0 add:a@21000-21fff+0 nop:b@30000 "
                         "commit:3>3");
    memory_region_set_address(&a, 0x4000);
    ck_assert_told(&rec, "begin del:ram@0-ffff del:a@21000-21fff add:ram@0-3fff+0 "
                         "add:a@4000-4fff+0 add:ram@5000-ffff+5000 nop:b@30000 commit:3>4");
    memory_region_set_readonly(&ram, true);
    ck_assert_told(&rec, "begin del:ram@0-3fff del:ram@5000-ffff add:ram@0-3fff+0 nop:a@4000 "
                         "add:ram@5000-ffff+5000 nop:b@30000 commit:4>4");
    memory_region_finalize(&ram);
    memory_region_finalize(&a);
    memory_region_finalize(&b);
}
END_TEST

START_TEST(additions_go_by_rising_priority_of_listeners_and_deletions_by_falling)
{
    Recorder low, high;
    GString *shared = g_string_new(NULL), *own[2];
    MemoryRegion a;

    recorder_init(&low);
    recorder_init(&high);
    own[0] = low.text;
    own[1] = high.text;
    low.mark = 'L';
    high.mark = 'H';
    low.l.priority = -5;
    high.l.priority = 10;
    memory_listener_unregister(&rec.l);
    memory_listener_register(&high.l, as);
    memory_listener_register(&low.l, as);
    low.text = high.text = shared;
    io_init(&a, "a", 0x10);
    memory_region_add_subregion(&root, 0, &a);
    ck_assert_str_eq(shared->str,
                     "Lbegin Hbegin Ladd:a@0-f+0 Hadd:a@0-f+0 Lcommit:0>1 Hcommit:0>1");
    g_string_truncate(shared, 0);
    memory_region_del_subregion(&root, &a);
    ck_assert_str_eq(shared->str, "Lbegin Hbegin Hdel:a@0-f Ldel:a@0-f Lcommit:1>0 Hcommit:1>0");
    memory_listener_unregister(&low.l);
    memory_listener_unregister(&high.l);
    g_string_free(shared, TRUE);
    g_string_free(own[0], TRUE);
    g_string_free(own[1], TRUE);
    memory_region_finalize(&a);
}
END_TEST

START_TEST(a_listener_is_told_of_what_is_there_when_it_comes_and_goes)
{
    MemoryRegionIoeventfd ev = { .range = { 4, 2 }, .match_data = true, .data = 7, .fd = 5 };
    Recorder late;
    MemoryRegion ram, a;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x1000, NULL));
    io_init(&a, "a", 0x10);
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_add_subregion(&root, 0x1000, &a);
    memory_region_add_eventfd(&a, &ev);
    memory_region_add_coalescing(&a, 8, 4);
    memory_region_set_log(&ram, true, DIRTY_DISPLAY);
    recorder_init(&late);
    memory_listener_register(&late.l, as);
    ck_assert_told(&late, "begin add:ram@0-fff+0 log_start:ram:0>2 add:a@1000-100f+0 "
                          "ev+1004:2:7:5 co+1008:4 commit:0>2");
    memory_listener_unregister(&late.l);
    ck_assert_told(&late, "begin ev-1004:2:7:5 co-1008:4 del:ram@0-fff del:a@1000-100f commit:2>0");
    memory_listener_register(&late.l, as);
    g_string_truncate(late.text, 0);
    address_space_free(as);
    as = NULL;
    ck_assert_told(&late, "begin ev-1004:2:7:5 co-1008:4 del:ram@0-fff del:a@1000-100f commit:2>0");
    ck_assert_ptr_null(late.l.as);
    g_string_free(late.text, TRUE);
    memory_region_finalize(&ram);
    memory_region_finalize(&a);
}
END_TEST

static void disable_in_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    MemoryRegion *mr = l->opaque;

    memory_region_set_enabled(mr, false);
}

START_TEST(a_change_made_by_a_listener_is_committed_after_the_present_one)
{
    MemoryRegion a, b;
    MemoryListener meddler = { .commit = disable_in_commit, .opaque = &b };

    io_init(&a, "a", 0x10);
    io_init(&b, "b", 0x10);
    memory_region_set_enabled(&b, false);
    memory_region_add_subregion(&root, 0x100, &b);
    memory_listener_register(&meddler, as);
    memory_region_set_enabled(&b, true);
    ck_assert_told(&rec, "begin add:b@100-10f+0 commit:0>1 begin del:b@100-10f commit:1>0");
    memory_region_add_subregion(&root, 0, &a);
    ck_assert_told(&rec, "begin add:a@0-f+0 commit:0>1");
    memory_listener_unregister(&meddler);
    memory_region_finalize(&a);
    memory_region_finalize(&b);
}
END_TEST

START_TEST(only_address_spaces_that_contain_the_change_are_told)
{
    MemoryRegion other_root, shared, window, a, b;
    AddressSpace *other;
    Recorder r;

    memory_region_init(&other_root, NULL, "other", 0x1000);
    memory_region_init(&shared, NULL, "shared", 0x100);
    memory_region_init_alias(&window, NULL, "window", &shared, 0x10, 0x20);
    io_init(&a, "a", 0x10);
    io_init(&b, "b", 0x10);
    other = address_space_new(ADDRESS_SPACE_OTHER, &other_root, "other");
    recorder_init(&r);
    memory_listener_register(&r.l, other);
    memory_region_add_subregion(&root, 0x1000, &shared);
    memory_region_add_subregion(&other_root, 0x200, &window);
    g_string_truncate(r.text, 0);
    memory_region_add_subregion(&shared, 0x18, &a);
    ck_assert_told(&rec, "begin add:a@1018-1027+0 commit:0>1");
    ck_assert_told(&r, "begin add:a@208-217+0 commit:0>1");
    memory_region_add_subregion(&root, 0, &b);
    ck_assert_told(&r, "");
    ck_assert_str_eq(address_space_name(other), "other");
    ck_assert_ptr_eq(address_space_root(other), &other_root);
    ck_assert_int_eq(address_space_kind(other), ADDRESS_SPACE_OTHER);
    memory_region_finalize(&shared); /* with an alias to it and a child in it */
    ck_assert_told(&r, "begin del:a@208-217 commit:1>0");
    address_space_free(other);
    memory_region_finalize(&window);
    memory_region_finalize(&other_root);
    memory_region_finalize(&a);
    memory_region_finalize(&b);
    g_string_free(r.text, TRUE);
}
END_TEST

static void free_in_commit(MemoryListener *l, const FlatView *old_view, const FlatView *new_view)
{
    address_space_free(g_steal_pointer(&l->opaque));
}

START_TEST(a_space_that_goes_in_a_commit_costs_no_other_its_turn)
{
    MemoryListener l = { .commit = free_in_commit };
    MemoryRegion roots[3], windows[2], a;
    AddressSpace *spaces[3];

    for (unsigned i = 0; i < 3; i++) {
        memory_region_init(&roots[i], NULL, "root", 0x1000);
        spaces[i] = address_space_new(ADDRESS_SPACE_OTHER, &roots[i], "space");
    }
    io_init(&a, "a", 0x10);
    memory_listener_register(&l, spaces[1]);
    l.opaque = spaces[0];
    memory_region_transaction_begin();
    for (unsigned i = 0; i < 2; i++) {
        memory_region_init_alias(&windows[i], NULL, "window", &a, 0, 0x10);
        memory_region_add_subregion(&roots[i + 1], 0, &windows[i]);
    }
    memory_region_transaction_commit();
    ck_assert_ptr_null(l.opaque);
    ck_assert_uint_eq(address_space_flat_view(spaces[2])->n, 1);
    l.commit = NULL;
    for (unsigned i = 0; i < 3; i++) {
        if (i) {
            address_space_free(spaces[i]);
            memory_region_finalize(&windows[i - 1]);
        }
        memory_region_finalize(&roots[i]);
    }
    memory_region_finalize(&a);
}
END_TEST

START_TEST(a_struct_used_anew_within_one_transaction_is_another_region)
{
    MemoryRegion mr;

    ck_assert(memory_region_init_ram(&mr, NULL, "first", 0x1000, NULL));
    memory_region_add_subregion(&root, 0, &mr);
    g_string_truncate(rec.text, 0);
    memory_region_transaction_begin();
    memory_region_finalize(&mr);
    ck_assert(memory_region_init_ram(&mr, NULL, "second", 0x1000, NULL));
    memory_region_add_subregion(&root, 0, &mr);
    memory_region_transaction_commit();
    ck_assert_told(&rec, "begin del:first@0-fff commit:1>0 begin add:second@0-fff+0 commit:0>1");
    memory_region_finalize(&mr);
}
END_TEST

/* ---- eventfds and coalescing ------------------------------------------------------------- */

START_TEST(eventfds_follow_their_region_and_only_differences_are_told)
{
    MemoryRegionIoeventfd e1 = { .range = { 0, 4 }, .fd = 3 };
    MemoryRegionIoeventfd e2 = { .range = { 0, 4 }, .match_data = true, .data = 9, .fd = 4 };
    MemoryRegionIoeventfd any = { .range = { 8, 0 }, .fd = 5 };
    MemoryRegion a, over;

    io_init(&a, "a", 0x10);
    io_init(&over, "over", 4);
    memory_region_add_subregion(&root, 0x100, &a);
    g_string_truncate(rec.text, 0);
    memory_region_add_eventfd(&a, &e1);
    ck_assert_told(&rec, "begin ev+100:4:0:3 commit:1>1");
    memory_region_transaction_begin();
    memory_region_add_eventfd(&a, &e2);
    memory_region_add_eventfd(&a, &any);
    memory_region_transaction_commit();
    ck_assert_told(&rec, "begin ev+100:4:9:4 ev+108:0:0:5 commit:1>1");
    memory_region_set_address(&a, 0x200);
    ck_assert_told(&rec, "begin ev-100:4:0:3 ev-100:4:9:4 ev-108:0:0:5 del:a@100-10f "
                         "add:a@200-20f+0 ev+200:4:0:3 ev+200:4:9:4 ev+208:0:0:5 commit:1>1");
    /* Half hidden: a doorbell that is not whole does not ring. */
    memory_region_add_subregion_overlap(&root, 0x202, &over, 1);
    ck_assert_told(&rec, "begin ev-200:4:0:3 ev-200:4:9:4 del:a@200-20f add:a@200-201+0 "
                         "add:over@202-205+0 add:a@206-20f+6 commit:1>3");
    memory_region_del_subregion(&root, &over);
    g_string_truncate(rec.text, 0);
    memory_region_del_eventfd(&a, &e1);
    ck_assert_told(&rec, "begin ev-200:4:0:3 commit:1>1");
    memory_region_del_eventfd(&a, &e1);
    ck_assert_told(&rec, "");
    memory_region_set_enabled(&a, false);
    ck_assert_told(&rec, "begin ev-200:4:9:4 ev-208:0:0:5 del:a@200-20f commit:1>0");
    memory_region_finalize(&a);
    memory_region_finalize(&over);
}
END_TEST

START_TEST(coalesced_ranges_are_cut_to_what_is_visible)
{
    MemoryRegion a, over;

    io_init(&a, "a", 0x1000);
    io_init(&over, "over", 0x10);
    memory_region_add_subregion(&root, 0x1000, &a);
    g_string_truncate(rec.text, 0);
    memory_region_add_coalescing(&a, 0x800, UINT64_MAX);
    ck_assert_told(&rec, "begin co+1800:800 commit:1>1");
    memory_region_add_coalescing(&a, 0, 0);
    memory_region_add_coalescing(&a, 0x2000, 0x10);
    ck_assert_told(&rec, "");
    memory_region_add_subregion_overlap(&root, 0x1900, &over, 1);
    ck_assert_told(&rec, "begin co-1800:800 del:a@1000-1fff add:a@1000-18ff+0 "
                         "add:over@1900-190f+0 add:a@1910-1fff+910 co+1800:100 co+1910:6f0 "
                         "commit:1>3");
    memory_region_clear_coalescing(&a);
    ck_assert_told(&rec, "begin co-1800:100 co-1910:6f0 commit:3>3");
    memory_region_finalize(&a);
    memory_region_finalize(&over);
}
END_TEST

/* ---- dirty logging ----------------------------------------------------------------------- */

START_TEST(logging_is_switched_a_client_and_told_in_every_space_that_shows_the_region)
{
    MemoryRegion ram, alias, io;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x4000, NULL));
    memory_region_init_alias(&alias, NULL, "alias", &ram, 0x1000, 0x1000);
    io_init(&io, "io", 0x10);
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_add_subregion(&root, 0x10000, &alias);
    memory_region_add_subregion(&root, 0x20000, &io);
    g_string_truncate(rec.text, 0);
    memory_region_set_log(&alias, true, DIRTY_DISPLAY);
    ck_assert_told(&rec, "begin log_start:ram:0>2 log_start:ram:0>2 commit:3>3");
    memory_region_set_log(&ram, true, DIRTY_DISPLAY);
    ck_assert_told(&rec, "");
    memory_region_set_log(&ram, true, DIRTY_CODE);
    ck_assert_told(&rec, "begin log_start:ram:2>6 log_start:ram:2>6 commit:3>3");
    memory_region_sync_dirty(&alias);
    ck_assert_told(&rec, "sync:ram@0 sync:ram@10000");
    address_space_sync_dirty(as);
    ck_assert_told(&rec, "sync:ram@0 sync:ram@10000");
    memory_region_set_log(&ram, false, DIRTY_DISPLAY);
    ck_assert_told(&rec, "begin log_stop:ram:6>4 log_stop:ram:6>4 commit:3>3");
    memory_region_set_log(&io, true, DIRTY_CODE);
    ck_assert_told(&rec, "");
    memory_region_set_dirty(&ram, 0x3fff, 100);
    ck_assert(memory_region_test_and_clear_dirty(&ram, 0, 0x4000, DIRTY_CODE));
    ck_assert(!memory_region_test_and_clear_dirty(&ram, 0, 0x4000, DIRTY_DISPLAY));
    memory_region_finalize(&alias);
    memory_region_finalize(&ram);
    memory_region_finalize(&io);
}
END_TEST

/* ---- owners ------------------------------------------------------------------------------ */

typedef struct Owner {
    Object parent;
    MemoryRegion mr;
} Owner;

static unsigned owners_finalized;

static void owner_finalize(Object *obj)
{
    Owner *o = (Owner *)obj;

    ck_assert(engine_lock_held() && main_loop_is_main_thread());
    memory_region_finalize(&o->mr);
    owners_finalized++;
}

static const TypeInfo owner_type = {
    .name = "memory-owner",
    .parent = TYPE_OBJECT,
    .instance_size = sizeof(Owner),
    .instance_finalize = owner_finalize,
};

static Owner *owner_new(void)
{
    static bool registered;
    Owner *o;

    if (!registered) {
        type_register_static(&owner_type);
        registered = true;
    }
    owners_finalized = 0;
    o = (Owner *)object_new("memory-owner", NULL);
    memory_region_init_io(&o->mr, &o->parent, &no_ops, o, "owned", 0x10);
    return o;
}

START_TEST(a_view_keeps_the_owner_alive_until_readers_are_gone_and_the_main_loop_has_run)
{
    Owner *o = owner_new();
    const FlatView *view;

    memory_region_add_subregion(&root, 0, &o->mr);
    rcu_enter();
    view = address_space_flat_view(as);
    memory_region_del_subregion(&root, &o->mr);
    object_unref(o);
    ck_assert_str_eq(view->ranges[0].mr->name, "owned");
    ck_assert_uint_eq(owners_finalized, 0);
    rcu_leave();
    while (!owners_finalized) {
        main_loop_iterate(true);
    }
    ck_assert_uint_eq(owners_finalized, 1);
}
END_TEST

START_TEST(an_owner_shown_in_many_ranges_and_views_dies_once_with_the_last)
{
    Owner *o = owner_new();
    MemoryRegion over, alias;
    AddressSpace *second = address_space_new(ADDRESS_SPACE_OTHER, &root, "second");

    io_init(&over, "over", 4);
    memory_region_init_alias(&alias, NULL, "alias", &o->mr, 0, 8);
    memory_region_add_subregion(&root, 0, &o->mr);
    memory_region_add_subregion(&root, 0x100, &alias);
    memory_region_add_subregion_overlap(&root, 4, &over, 1);
    memory_region_set_address(&over, 6);
    memory_region_del_subregion(&root, &o->mr);
    object_unref(o);
    memory_reclaim();
    ck_assert_uint_eq(owners_finalized, 0); /* the alias shows it */
    memory_region_del_subregion(&root, &alias);
    memory_reclaim();
    ck_assert_uint_eq(owners_finalized, 1);
    ck_assert_ptr_null(alias.alias);
    address_space_free(second);
    memory_region_finalize(&alias);
    memory_region_finalize(&over);
}
END_TEST

START_TEST(an_owner_that_dies_with_a_hidden_region_mapped_takes_it_out)
{
    Owner *o = owner_new();

    memory_region_set_enabled(&o->mr, false);
    memory_region_add_subregion(&root, 0, &o->mr);
    object_unref(o);
    ck_assert_uint_eq(owners_finalized, 1);
    ck_assert_uint_eq(root.subregions->len, 0);
}
END_TEST

START_TEST(freeing_an_address_space_releases_owners_too)
{
    Owner *o = owner_new();
    AddressSpace *second = address_space_new(ADDRESS_SPACE_OTHER, &root, "second");

    memory_region_add_subregion(&root, 0, &o->mr);
    address_space_free(second);
    memory_region_del_subregion(&root, &o->mr);
    object_unref(o);
    memory_reclaim();
    ck_assert_uint_eq(owners_finalized, 1);
}
END_TEST

/* ---- hostile sizes ----------------------------------------------------------------------- */

START_TEST(a_region_of_all_64_bits_covers_the_last_byte)
{
    MemoryRegion all, hole;
    const FlatRange *r;

    io_init(&all, "all", MEMORY_REGION_MAX);
    io_init(&hole, "hole", 1);
    memory_region_add_subregion(&root, 0, &all);
    ck_assert_told(&rec, "begin add:all@0-ffffffffffffffff+0 commit:0>1");
    memory_region_add_subregion_overlap(&root, UINT64_MAX, &hole, 1);
    rcu_enter();
    r = flat_view_find(address_space_flat_view(as), UINT64_MAX);
    ck_assert_ptr_eq(r->mr, &hole);
    r = flat_view_find(address_space_flat_view(as), UINT64_MAX - 1);
    ck_assert_ptr_eq(r->mr, &all);
    ck_assert_uint_eq(r->last, UINT64_MAX - 1);
    rcu_leave();
    memory_region_set_address(&hole, 0);
    g_string_truncate(rec.text, 0);
    memory_region_set_address(&all, UINT64_MAX);
    ck_assert_told(&rec, "begin del:all@1-ffffffffffffffff add:all@ffffffffffffffff-"
                         "ffffffffffffffff+0 commit:2>2");
    memory_region_finalize(&all);
    memory_region_finalize(&hole);
}
END_TEST

START_TEST(what_sticks_out_of_its_container_or_the_space_is_cut_and_does_not_wrap)
{
    MemoryRegion box, big, io, alias, back;

    memory_region_init(&box, NULL, "box", 0x1000);
    io_init(&big, "big", MEMORY_REGION_MAX);
    io_init(&io, "io", 0x100);
    memory_region_init_alias(&alias, NULL, "alias", &io, UINT64_MAX - 3, 0x100);
    memory_region_init_alias(&back, NULL, "back", &io, 0xf8, MEMORY_REGION_MAX);
    memory_region_add_subregion(&root, UINT64_MAX - 0x7ff, &box);
    memory_region_add_subregion(&box, 0x100, &big);
    ck_assert_told(&rec, "begin add:big@fffffffffffff900-ffffffffffffffff+0 commit:0>1");
    /* Beyond its target an alias shows nothing: it does not come round to the target's start. */
    memory_region_add_subregion(&root, 0x1000, &alias);
    ck_assert_told(&rec, "");
    memory_region_add_subregion(&root, 0x2000, &back);
    ck_assert_told(&rec, "begin add:io@2000-2007+f8 commit:1>2");
    memory_region_finalize(&alias);
    memory_region_finalize(&back);
    memory_region_finalize(&box);
    memory_region_finalize(&big);
    memory_region_finalize(&io);
}
END_TEST

START_TEST(ram_is_never_shown_beyond_its_block)
{
    MemoryRegion ram;

    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x1000, NULL));
    memory_region_set_size(&ram, 0x100000);
    ck_assert_uint_eq(ram.size, 0x1000);
    memory_region_set_size(&ram, 0x800);
    memory_region_add_subregion(&root, 0, &ram);
    ck_assert_told(&rec, "begin add:ram@0-7ff+0 commit:0>1");
    memory_region_finalize(&ram);
}
END_TEST

START_TEST(a_tree_that_doubles_at_each_level_is_cut_short_with_a_warning)
{
    enum { LEVELS = 40 };
    MemoryRegion *box = g_new0(MemoryRegion, LEVELS), *alias = g_new0(MemoryRegion, 2 * LEVELS), io;

    io_init(&io, "io", 1);
    memory_region_transaction_begin();
    for (unsigned i = 0; i < LEVELS; i++) {
        memory_region_init(&box[i], NULL, "box", MEMORY_REGION_MAX);
        for (unsigned k = 0; i && k < 2; k++) {
            memory_region_init_alias(&alias[2 * i + k], NULL, "alias", &box[i - 1], 0,
                                     MEMORY_REGION_MAX);
            memory_region_add_subregion_overlap(&box[i], (hwaddr)k << i, &alias[2 * i + k], 0);
        }
    }
    memory_region_add_subregion(&box[0], 0, &io);
    memory_region_add_subregion(&root, 0, &box[LEVELS - 1]);
    memory_region_transaction_commit();
    ck_assert(strstr(rec.text->str, "commit:0>"));
    memory_region_del_subregion(&root, &box[LEVELS - 1]);
    for (unsigned i = 0; i < LEVELS; i++) {
        memory_region_finalize(&box[i]);
        memory_region_finalize(&alias[2 * i]);
        memory_region_finalize(&alias[2 * i + 1]);
    }
    memory_region_finalize(&io);
    g_free(box);
    g_free(alias);
}
END_TEST

/* ---- mistakes of boards ------------------------------------------------------------------ */

static void ck_assert_refused(MemoryRegion *in, hwaddr addr, MemoryRegion *mr, const char *text)
{
    GError *error = NULL;

    ck_assert(!memory_region_add_subregion_checked(in, addr, mr, 0, false, &error));
    ck_assert(g_error_matches(error, ENGINE_ERROR, ENGINE_ERROR_INVALID));
    ck_assert_str_eq(error->message, text);
    g_error_free(error);
}

START_TEST(an_overlap_of_equal_priority_is_refused_with_both_names_unless_meant)
{
    MemoryRegion a, b, soft;
    GError *error = NULL;

    io_init(&a, "com1", 8);
    io_init(&b, "com2", 8);
    io_init(&soft, "soft", 0x1000);
    ck_assert(memory_region_add_subregion_checked(&root, 0x3f8, &a, 0, false, &error));
    ck_assert_refused(&root, 0x3fc, &b,
                      "region 'com2' at 0x3fc..0x403 overlaps region 'com1' at 0x3f8..0x3ff in "
                      "'root'");
    ck_assert_ptr_null(b.container);
    ck_assert(memory_region_add_subregion_checked(&root, 0x3fc, &b, 1, false, &error));
    memory_region_del_subregion(&root, &b);
    ck_assert(memory_region_add_subregion_checked(&root, 0x400, &b, 0, false, &error));
    memory_region_add_subregion_overlap(&root, 0, &soft, 0);
    memory_region_del_subregion(&root, &b);
    memory_region_set_enabled(&a, false);
    ck_assert(memory_region_add_subregion_checked(&root, 0x3f8, &b, 0, false, &error));
    memory_region_finalize(&a);
    memory_region_finalize(&b);
    memory_region_finalize(&soft);
}
END_TEST

START_TEST(shapes_that_no_tree_can_have_are_refused)
{
    MemoryRegion box, inner, alias, io;

    memory_region_init(&box, NULL, "box", 0x1000);
    memory_region_init(&inner, NULL, "inner", 0x1000);
    memory_region_init_alias(&alias, NULL, "alias", &box, 0, 0x1000);
    io_init(&io, "io", 0x10);
    memory_region_add_subregion(&box, 0, &inner);
    ck_assert_refused(&inner, 0, &box,
                      "region 'box' cannot be put into 'inner', which is part of it");
    ck_assert_refused(&box, 0, &box, "region 'box' cannot be put into 'box', which is part of it");
    ck_assert_refused(&inner, 0, &alias,
                      "region 'alias' cannot be put into 'inner', which is part of it");
    ck_assert_refused(&box, 0x10, &inner, "region 'inner' is already in 'box'");
    ck_assert_refused(&io, 0, &alias, "region 'io' is no container but i/o");
    ck_assert_refused(&box, 0x1000, &io,
                      "region 'io' at 0x1000 lies outside of 'box', which ends "
                      "at 0xfff");
    memory_region_add_subregion(&inner, 0, &box); /* warns */
    ck_assert_ptr_null(box.container);
    memory_region_del_subregion(&root, &io); /* warns */
    memory_region_finalize(&alias);
    memory_region_finalize(&inner);
    memory_region_finalize(&box);
    memory_region_finalize(&io);
    memory_region_finalize(&io); /* twice is fine */
}
END_TEST

/* ---- introspection ----------------------------------------------------------------------- */

static void tree_line(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque)
{
    g_string_append_printf(opaque, "%*s%s %s %lx%s\n", (int)depth, "", mr->name,
                           memory_region_kind_name(memory_region_kind(mr)), (unsigned long)addr,
                           mr->enabled ? "" : " off");
}

static void count_spaces(AddressSpace *space, void *opaque)
{
    ++*(unsigned *)opaque;
}

START_TEST(trees_and_addresses_can_be_looked_at)
{
    MemoryRegion box, ram, io, alias;
    GString *text = g_string_new(NULL);
    unsigned spaces = 0;
    char *what;

    memory_region_init(&box, NULL, "box", 0x1000);
    ck_assert(memory_region_init_ram(&ram, NULL, "ram", 0x1000, NULL));
    io_init(&io, "com1", 8);
    memory_region_init_alias(&alias, NULL, "low", &ram, 0x100, 0x10);
    memory_region_add_subregion(&root, 0x10000, &box);
    memory_region_add_subregion(&root, 0, &ram);
    memory_region_add_subregion_overlap(&box, 0x3f8, &io, 1);
    memory_region_add_subregion(&box, 0x500, &alias);
    memory_region_set_enabled(&alias, false);
    memory_region_tree_foreach(&root, tree_line, text);
    ck_assert_str_eq(text->str, "root container 0\n"
                                " ram ram 0\n"
                                " box container 10000\n"
                                "  com1 i/o 103f8\n"
                                "  low alias 10500 off\n");
    what = address_space_describe(as, 0x103fa);
    ck_assert_str_eq(what, "com1 @ 0x103fa");
    g_free(what);
    what = address_space_describe(as, 0x9999);
    ck_assert_str_eq(what, "unassigned");
    g_free(what);
    ck_assert_ptr_eq(memory_region_get_ram_ptr(&alias), ram.ram->host + 0x100);
    ck_assert_ptr_null(memory_region_get_ram_ptr(&io));
    address_space_foreach(count_spaces, &spaces);
    ck_assert_uint_eq(spaces, 1);
    g_string_free(text, TRUE);
    memory_region_finalize(&alias);
    memory_region_finalize(&box);
    memory_region_finalize(&ram);
    memory_region_finalize(&io);
}
END_TEST

static void note_deepest(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque)
{
    unsigned *deepest = opaque;

    *deepest = MAX(*deepest, depth);
}

START_TEST(a_tree_that_is_deeper_than_the_stack_is_walked)
{
    const unsigned n = 250000;
    MemoryRegion *chain = g_new0(MemoryRegion, n);
    unsigned deepest = 0;

    /* From the inside out: a change costs as much as there are levels above it. */
    for (unsigned i = 0; i < n; i++) {
        memory_region_init(&chain[i], NULL, "link", 4096);
        if (i) {
            memory_region_add_subregion(&chain[i], 0, &chain[i - 1]);
        }
    }
    memory_region_tree_foreach(&chain[n - 1], note_deepest, &deepest);
    ck_assert_uint_eq(deepest, n - 1);
    for (unsigned i = n; i-- > 0;) {
        memory_region_finalize(&chain[i]);
    }
    g_free(chain);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *tc = tcase_create("all");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, a_transaction_tells_listeners_once_however_deep_it_nests);
    tcase_add_test(tc, what_changes_nothing_that_can_be_seen_tells_nobody_and_keeps_the_view);
    tcase_add_test(tc, only_ranges_that_changed_are_deleted_and_added);
    tcase_add_test(tc, additions_go_by_rising_priority_of_listeners_and_deletions_by_falling);
    tcase_add_test(tc, a_listener_is_told_of_what_is_there_when_it_comes_and_goes);
    tcase_add_test(tc, a_change_made_by_a_listener_is_committed_after_the_present_one);
    tcase_add_test(tc, only_address_spaces_that_contain_the_change_are_told);
    tcase_add_test(tc, a_space_that_goes_in_a_commit_costs_no_other_its_turn);
    tcase_add_test(tc, a_struct_used_anew_within_one_transaction_is_another_region);
    tcase_add_test(tc, eventfds_follow_their_region_and_only_differences_are_told);
    tcase_add_test(tc, coalesced_ranges_are_cut_to_what_is_visible);
    tcase_add_test(tc, logging_is_switched_a_client_and_told_in_every_space_that_shows_the_region);
    tcase_add_test(tc,
                   a_view_keeps_the_owner_alive_until_readers_are_gone_and_the_main_loop_has_run);
    tcase_add_test(tc, an_owner_shown_in_many_ranges_and_views_dies_once_with_the_last);
    tcase_add_test(tc, an_owner_that_dies_with_a_hidden_region_mapped_takes_it_out);
    tcase_add_test(tc, freeing_an_address_space_releases_owners_too);
    tcase_add_test(tc, a_region_of_all_64_bits_covers_the_last_byte);
    tcase_add_test(tc, what_sticks_out_of_its_container_or_the_space_is_cut_and_does_not_wrap);
    tcase_add_test(tc, ram_is_never_shown_beyond_its_block);
    tcase_add_test(tc, a_tree_that_doubles_at_each_level_is_cut_short_with_a_warning);
    tcase_add_test(tc, an_overlap_of_equal_priority_is_refused_with_both_names_unless_meant);
    tcase_add_test(tc, shapes_that_no_tree_can_have_are_refused);
    tcase_add_test(tc, trees_and_addresses_can_be_looked_at);
    tcase_add_test(tc, a_tree_that_is_deeper_than_the_stack_is_walked);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
