/* Regions: lifetime of owners, hostile sizes and shapes, mistakes of boards, introspection. */
#include "tests/unit/memory_rig.h"

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
    Suite *suite = suite_create("memory regions");
    TCase *tc = tcase_create("all");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
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
    return run_suite(suite);
}
