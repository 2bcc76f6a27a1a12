/* What address spaces show and listeners are told: transactions, eventfds, coalescing, dirty
 * logging. */
#include "tests/unit/memory_rig.h"

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

int main(void)
{
    Suite *suite = suite_create("memory");
    TCase *tc = tcase_create("all");

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
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
