/* Saved state: streams and field tables. */
#include "tests/unit/state_rig.h"

/* ---- streams ------------------------------------------------------------------------------- */

START_TEST(the_checksum_is_crc32c)
{
    /* The check value of the Castagnoli polynomial, and iSCSI's 32 zero bytes (RFC 3720 B.4). */
    static const uint8_t zeros[32];
    ck_assert_uint_eq(state_crc32c(0, "123456789", 9), 0xe3069283);
    ck_assert_uint_eq(state_crc32c(0, zeros, 32), 0x8a9136aa);
    ck_assert_uint_eq(state_crc32c(state_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    ck_assert_uint_eq(state_crc32c(0, NULL, 0), 0);
}
END_TEST

START_TEST(sections_come_back_as_they_were_written)
{
    StateWriter *w = state_writer_new();
    state_section_begin(w, "first", 0, 1);
    state_put_u8(w, 0x12);
    state_put_u16(w, 0x1234);
    state_put_u32(w, 0x12345678);
    state_put_u64(w, UINT64_C(0x123456789abcdef0));
    state_put_str(w, "h\xc3\xa9");
    state_put_bytes(w, "raw", 3);
    state_put_bytes(w, NULL, 0);
    state_section_end(w);
    state_section_begin(w, "empty", 7, 8);
    state_section_end(w);
    state_section_begin(w, "skipped", 0, 1);
    state_put_u64(w, 1);
    state_section_end(w);
    GBytes *bytes = state_writer_finish(w);
    const uint8_t *data = g_bytes_get_data(bytes, NULL);
    ck_assert_mem_eq(data, "VMLUAST\0\1\0\0\0\0\0\0\0\1\5\0first\0\0\0\0\1\0\0\0", 32);

    const char *name;
    uint32_t instance, version;
    char raw[3];
    StateReader *r = state_reader_new(bytes, NULL);
    g_bytes_unref(bytes);
    ck_assert_uint_eq(state_section_left(r), 0);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ck_assert_str_eq(name, "first");
    ck_assert_uint_eq(state_get_u8(r), 0x12);
    ck_assert_uint_eq(state_get_u16(r), 0x1234);
    ck_assert_uint_eq(state_get_u32(r), 0x12345678);
    ck_assert_uint_eq(state_get_u64(r), UINT64_C(0x123456789abcdef0));
    g_autofree char *text = state_get_str(r);
    ck_assert_str_eq(text, "h\xc3\xa9");
    ck_assert(state_get_bytes(r, raw, 3));
    ck_assert_mem_eq(raw, "raw", 3);
    ck_assert_uint_eq(state_section_left(r), 0);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ck_assert_str_eq(name, "empty");
    ck_assert_uint_eq(instance, 7);
    ck_assert_uint_eq(version, 8);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ck_assert_uint_eq(state_section_left(r), 8);
    state_section_skip(r);
    ck_assert(!state_next_section(r, &name, &instance, &version));
    ck_assert(!state_next_section(r, &name, &instance, &version));
    ck_assert(state_reader_ok(r, NULL));
    state_reader_free(r);
    state_reader_free(NULL);
    state_writer_free(state_writer_new());
    state_writer_free(NULL);
}
END_TEST

START_TEST(reading_beyond_a_section_fails_and_stays_failed)
{
    StateWriter *w = state_writer_new();
    state_section_begin(w, "s", 3, 1);
    state_put_u16(w, 0xffff);
    state_section_end(w);
    state_section_begin(w, "t", 0, 1);
    state_put_u32(w, 0xffffffff);
    state_section_end(w);
    g_autoptr(GBytes) bytes = state_writer_finish(w);
    StateReader *r = state_reader_new(bytes, NULL);
    const char *name;
    uint32_t instance, version;
    uint8_t raw[8] = { 1 };
    ck_assert(state_next_section(r, &name, &instance, &version));
    ck_assert_uint_eq(state_get_u32(r), 0);
    ck_assert_uint_eq(state_get_u8(r), 0);
    ck_assert(!state_get_bytes(r, raw, 8));
    ck_assert_uint_eq(raw[0], 0);
    ck_assert_ptr_null(state_get_str(r));
    ck_assert_uint_eq(state_section_left(r), 0);
    ck_assert(!state_next_section(r, &name, &instance, &version));
    GError *error = NULL;
    ck_assert(!state_reader_ok(r, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "section 's' (instance 3)"));
    g_clear_error(&error);
    state_reader_free(r);

    r = state_reader_new(bytes, NULL);
    ck_assert(state_next_section(r, &name, &instance, &version));
    ck_assert(!state_next_section(r, &name, &instance, &version));
    ck_assert(!state_reader_ok(r, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "2 bytes are left over"));
    g_clear_error(&error);
    state_reader_free(r);
}
END_TEST

START_TEST(a_text_that_is_not_utf8_is_refused)
{
    StateWriter *w = state_writer_new();
    state_section_begin(w, "s", 0, 1);
    state_put_str(w, "\xff\xfe");
    state_section_end(w);
    g_autoptr(GBytes) bytes = state_writer_finish(w);
    StateReader *r = state_reader_new(bytes, NULL);
    const char *name;
    uint32_t instance, version;
    ck_assert(state_next_section(r, &name, &instance, &version));
    ck_assert_ptr_null(state_get_str(r));
    ck_assert(!state_reader_ok(r, NULL));
    state_reader_free(r);
}
END_TEST

START_TEST(other_formats_are_named)
{
    Thing t;
    thing_init(&t);
    g_autoptr(GBytes) good = save(&vmstate_thing, &t);
    size_t len;
    g_autofree uint8_t *data = g_bytes_unref_to_data(g_bytes_ref(good), &len);
    data[8] = 9;
    ck_assert_refused(with_checksum(data, len), &vmstate_thing, &t, "format 9");
    data[8] = 1;
    data[12] = 1;
    ck_assert_refused(with_checksum(data, len), &vmstate_thing, &t, "flags 0x1");
    data[12] = 0;
    data[len - 1] ^= 1;
    ck_assert_refused(g_bytes_new(data, len), &vmstate_thing, &t, "checksum");
    data[len - 5] = 1;
    ck_assert_refused(with_checksum(data, len), &vmstate_thing, &t, "end mark");
    data[0] = 'X';
    ck_assert_refused(with_checksum(data, len), &vmstate_thing, &t, "not a saved state");
    thing_clear(&t);
}
END_TEST

/* ---- tables --------------------------------------------------------------------------------- */

START_TEST(every_kind_of_field_is_saved_and_loaded)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    b.u8 = 0xff; /* `exists` looks at what was loaded before it */
    memset(b.fifo, 0, sizeof(b.fifo));
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    GError *error = NULL;
    ck_assert_msg(load(bytes, &vmstate_thing, &b, &error), "%s", error ? error->message : "");
    check_equal(&a, &b);
    ck_assert_uint_eq(a.pre_saves, 1);
    ck_assert_uint_eq(b.pre_loads, 1);
    ck_assert_uint_eq(b.post_loads, 1);
    ck_assert(timer_armed(&b.timer));
    ck_assert(!timer_armed(&b.idle));
    /* Saving what was loaded gives the same bytes. */
    g_autoptr(GBytes) again = save(&vmstate_thing, &b);
    ck_assert(g_bytes_equal(bytes, again));
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(absent_subsections_and_fields_leave_the_defaults)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    thing_fill(&b);
    a.extra = 0; /* and with it the one inside */
    a.u8 = 0;
    timer_disarm(&a.timer);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    ck_assert(load(bytes, &vmstate_thing, &b, NULL));
    ck_assert_uint_eq(b.extra, 0);
    ck_assert_uint_eq(b.deep_extra, 0);
    ck_assert_uint_eq(b.conditional, 5);
    ck_assert(!timer_armed(&b.timer));
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

static const VMStateField small_v1_fields[] = {
    VMSTATE_UINT16(a, Small),
    VMSTATE_UINT32_ARRAY(b, Small),
    VMSTATE_END(),
};

START_TEST(older_versions_load_down_to_the_minimum_and_newer_ones_do_not)
{
    VMStateDescription v = { .name = "small", .version = 1, .fields = small_v1_fields };
    Small a, b = { .late = 77 };
    small_fill(&a, 3);
    g_autoptr(GBytes) bytes = save(&v, &a);
    ck_assert(load(bytes, &vmstate_small, &b, NULL));
    ck_assert_uint_eq(b.a, a.a);
    ck_assert_uint_eq(b.late, 77);
    v.version = 0;
    ck_assert_refused(save(&v, &a), &vmstate_small, &b, "version 0; versions 1 to 2");
    v.version = 3;
    ck_assert_refused(save(&v, &a), &vmstate_small, &b, "version 3; versions 1 to 2");
}
END_TEST

START_TEST(an_old_struct_inside_a_new_one_loads)
{
    typedef struct Pair {
        Small s[2];
    } Pair;
    const VMStateDescription old_small = { .name = "small",
                                           .version = 1,
                                           .fields = small_v1_fields };
    const VMStateField old_fields[] = { VMSTATE_STRUCT_ARRAY(s, Pair, old_small), VMSTATE_END() };
    const VMStateField new_fields[] = { VMSTATE_STRUCT_ARRAY(s, Pair, vmstate_small),
                                        VMSTATE_END() };
    const VMStateDescription old_pair = { .name = "pair", .version = 1, .fields = old_fields };
    const VMStateDescription new_pair = { .name = "pair", .version = 1, .fields = new_fields };
    Pair a, b = { { { .late = 1 }, { .late = 2 } } };
    small_fill(&a.s[0], 1);
    small_fill(&a.s[1], 2);
    g_autoptr(GBytes) bytes = save(&old_pair, &a);
    ck_assert(load(bytes, &new_pair, &b, NULL));
    ck_assert_uint_eq(b.s[1].a, a.s[1].a);
    ck_assert_uint_eq(b.s[0].late, 1);
    ck_assert_uint_eq(b.s[1].late, 2);
}
END_TEST

START_TEST(a_table_that_changed_is_refused_by_the_name_of_the_field)
{
    static const VMStateField swapped[] = { VMSTATE_UINT32_ARRAY(b, Small),
                                            VMSTATE_UINT16(a, Small), VMSTATE_END() };
    static const VMStateField other_kind[] = { VMSTATE_F_(a, Small, VMS_S16), VMSTATE_END() };
    static const VMStateField fewer[] = { VMSTATE_UINT16(a, Small), VMSTATE_END() };
    static const VMStateField shorter[] = { VMSTATE_UINT16(a, Small),
                                            { .name = "b",
                                              .kind = VMS_U32,
                                              .offset = offsetof(Small, b),
                                              .size = 4,
                                              .count = 1,
                                              .count_offset = -1 },
                                            VMSTATE_UINT8(late, Small),
                                            VMSTATE_END() };
    static const VMStateField more[] = {
        VMSTATE_UINT16(a, Small),
        VMSTATE_UINT32_ARRAY(b, Small),
        VMSTATE_UINT8(late, Small),
        { .name = "new", .kind = VMS_U8, .size = 1, .count_offset = -1 },
        VMSTATE_END()
    };
    VMStateDescription v = { .name = "small", .version = 2, .fields = swapped };
    Small s = { 0 };
    ck_assert_refused(save(&v, &s), &vmstate_small, &s, "field 'b' where 'a' is expected");
    v.fields = other_kind;
    ck_assert_refused(save(&v, &s), &vmstate_small, &s,
                      "field 'a' was saved as int16, it is uint16");
    v.fields = fewer;
    ck_assert_refused(save(&v, &s), &vmstate_small, &s, "field 'b' is missing");
    v.fields = shorter;
    ck_assert_refused(save(&v, &s), &vmstate_small, &s, "small.b: has 1 elements");
    v.fields = more;
    ck_assert_refused(save(&v, &s), &vmstate_small, &s, "unknown field 'new'");
    v.name = "other";
    ck_assert_refused(save(&v, &s), &vmstate_small, &s, "state of 'other', not of 'small'");
}
END_TEST

START_TEST(what_is_refused_is_named_with_its_path)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    a.u16 = 0xdead;
    ck_assert_refused(save(&vmstate_thing, &a), &vmstate_thing, &b, "thing: u16 is dead");
    a.u16 = 0;
    g_free(a.text);
    a.text = g_strdup("much too long a text");
    ck_assert_refused(save(&vmstate_thing, &a), &vmstate_thing, &b,
                      "thing.text: more than 10 characters");
    g_free(a.text);
    a.text = g_strdup("ok");
    *(uint8_t *)&a.flags[2] = 2;
    ck_assert_refused(save(&vmstate_thing, &a), &vmstate_thing, &b, "thing.flags: 2 is not a bool");
    *(uint8_t *)&a.flags[2] = 0;
    a.timer.expire = -2;
    ck_assert_refused(save(&vmstate_thing, &a), &vmstate_thing, &b, "thing.timer: a timer cannot");
    a.timer.expire = -1;
    g_free(b.buffer);
    b.buffer = NULL;
    ck_assert_refused(save(&vmstate_thing, &a), &vmstate_thing, &b,
                      "thing.buffer: is present in the saved state, absent here");
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(a_count_never_exceeds_its_array)
{
    typedef struct Fifo {
        uint32_t n;
        uint8_t data[4];
        uint32_t guard;
    } Fifo;
    /* The count also stands in the stream as a field, before or after the array. */
    const VMStateField count_last[] = { VMSTATE_UINT8_VARRAY(data, Fifo, n),
                                        VMSTATE_UINT32(n, Fifo), VMSTATE_END() };
    const VMStateField longer[] = { { .name = "data",
                                      .kind = VMS_U8,
                                      .offset = offsetof(Fifo, data),
                                      .size = 1,
                                      .count = 8,
                                      .count_offset = offsetof(Fifo, n) },
                                    VMSTATE_UINT32(n, Fifo),
                                    VMSTATE_END() };
    const VMStateField array_only[] = { VMSTATE_UINT8_VARRAY(data, Fifo, n), VMSTATE_END() };
    const VMStateDescription v = { .name = "fifo", .fields = count_last };
    const VMStateDescription wide = { .name = "fifo", .fields = longer };
    const VMStateDescription alone = { .name = "fifo", .fields = array_only };
    Fifo a = { .n = 1000, .data = "abc" }, b = { .guard = 0x55aa };

    ck_assert_refused(save(&v, &a), &v, &b, "1000 elements of 'data' are used, it has 4");
    ck_assert_uint_le(b.n, 4);
    a.n = 5;
    ck_assert_refused(save(&wide, &a), &v, &b, "fifo.data: has 5 elements");
    ck_assert_uint_le(b.n, 4);
    ck_assert_uint_eq(b.guard, 0x55aa);
    a.n = 2;
    b.n = 4;
    g_autoptr(GBytes) bytes = save(&alone, &a);
    ck_assert(load(bytes, &alone, &b, NULL));
    ck_assert_uint_eq(b.n, 2);
}
END_TEST

START_TEST(a_custom_field_must_read_exactly_what_was_written)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    g_autofree uint8_t *data = g_bytes_unref_to_data(g_bytes_ref(bytes), &len);
    /* u32 length of the part, u16 length of the text, text: shorten the text alone. */
    uint8_t *text = memmem(data, len, "\6\0\0\0\4\0text", 10);
    ck_assert_ptr_nonnull(text);
    text[4] = 3;
    ck_assert_refused(with_checksum(data, len), &vmstate_thing, &b, "1 bytes are left over");
    text[4] = 5;
    ck_assert_refused(with_checksum(data, len), &vmstate_thing, &b, "thing.text");
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(unexpected_or_repeated_subsections_are_refused)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    VMStateDescription other = vmstate_extra;
    const VMStateDescription *const subs[] = { &other, NULL };
    const VMStateDescription *const twice[] = { &vmstate_extra, &vmstate_extra, NULL };
    VMStateDescription v = vmstate_thing;
    other.name = "unheard";
    v.subsections = subs;
    ck_assert_refused(save(&v, &a), &vmstate_thing, &b, "unexpected subsection 'unheard'");
    v.subsections = twice;
    ck_assert_refused(save(&v, &a), &vmstate_thing, &b, "unexpected subsection 'extra'");
    v.subsections = thing_subsections;
    VMStateDescription none = vmstate_thing;
    none.subsections = NULL;
    ck_assert_refused(save(&v, &a), &none, &b, "unexpected subsection 'extra'");
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(a_table_that_contains_itself_ends_with_an_error)
{
    typedef struct Loop {
        struct Loop *self;
    } Loop;
    /* Saving such a one would not end; a stream that claims the depth must not either. */
    VMStateDescription v[20];
    VMStateField fields[20][2];
    Loop a = { &a };
    memset(v, 0, sizeof(v));
    memset(fields, 0, sizeof(fields));
    for (int i = 0; i < 20; i++) {
        v[i].name = "loop";
        if (i < 19) {
            fields[i][0] = (VMStateField)VMSTATE_STRUCT_POINTER(self, Loop, v[i + 1]);
            v[i].fields = fields[i];
        }
    }
    ck_assert_refused(save(&v[0], &a), &v[0], &a, "nested too deeply");
}
END_TEST

/* ---- looking at fields ---------------------------------------------------------------------- */

static void list_scalar(const char *path, VMStateKind kind, void *field, size_t size, void *data)
{
    g_string_append_printf(data, "%s:%d:%zu ", path, (int)kind, size);
}

START_TEST(scalars_are_listed_with_their_paths)
{
    Thing t;
    thing_init(&t);
    thing_fill(&t);
    g_autoptr(GString) list = g_string_new(" ");
    vmstate_foreach_scalar(&vmstate_thing, &t, list_scalar, list);
    const char *const expected[] = { " flag:0:1 ",        " raw:10:5 ",
                                     " words[3]:2:2 ",    " fifo[2]:1:1 ",
                                     " one.b[1]:3:4 ",    " several[2].late:1:1 ",
                                     " pointed.a:2:2 ",   " buffer:10:6 ",
                                     " timer:12:",        " conditional:1:1 ",
                                     " extra.extra:1:1 ", " extra.deep.deep_extra:1:1 " };
    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++) {
        ck_assert_msg(strstr(list->str, expected[i]) != NULL, "%s is not in%s", expected[i],
                      list->str);
    }
    ck_assert_ptr_null(strstr(list->str, "fifo[3]"));
    ck_assert_ptr_null(strstr(list->str, "absent"));
    ck_assert_ptr_null(strstr(list->str, "text"));
    ck_assert_uint_eq(t.pre_saves, 1);
    thing_clear(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("state");
    TCase *tc = tcase_create("state");

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_test(tc, the_checksum_is_crc32c);
    tcase_add_test(tc, sections_come_back_as_they_were_written);
    tcase_add_test(tc, reading_beyond_a_section_fails_and_stays_failed);
    tcase_add_test(tc, a_text_that_is_not_utf8_is_refused);
    tcase_add_test(tc, other_formats_are_named);
    tcase_add_test(tc, every_kind_of_field_is_saved_and_loaded);
    tcase_add_test(tc, absent_subsections_and_fields_leave_the_defaults);
    tcase_add_test(tc, older_versions_load_down_to_the_minimum_and_newer_ones_do_not);
    tcase_add_test(tc, an_old_struct_inside_a_new_one_loads);
    tcase_add_test(tc, a_table_that_changed_is_refused_by_the_name_of_the_field);
    tcase_add_test(tc, what_is_refused_is_named_with_its_path);
    tcase_add_test(tc, a_count_never_exceeds_its_array);
    tcase_add_test(tc, a_custom_field_must_read_exactly_what_was_written);
    tcase_add_test(tc, unexpected_or_repeated_subsections_are_refused);
    tcase_add_test(tc, a_table_that_contains_itself_ends_with_an_error);
    tcase_add_test(tc, scalars_are_listed_with_their_paths);
    return run_suite(s);
}
