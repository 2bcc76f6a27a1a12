/* Saved state: streams and field tables, with streams that somebody damaged on purpose. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/state/stream.h"
#include "engine/state/vmstate.h"

typedef struct Small {
    uint16_t a;
    uint32_t b[2];
    uint8_t late; /* since version 2 */
} Small;

typedef struct Thing {
    bool flag;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int8_t s8;
    int16_t s16;
    int32_t s32;
    int64_t s64;
    double real;
    uint8_t raw[5];
    uint8_t bytes[3];
    uint16_t words[4];
    uint32_t longs[2];
    uint64_t quads[2];
    bool flags[3];
    uint8_t fifo[16];
    uint32_t fifo_n;
    Small one, several[3];
    Small *pointed;
    uint8_t *buffer, *absent;
    Timer timer, idle;
    char *text;
    uint8_t conditional;
    uint8_t extra, deep_extra;
    unsigned pre_saves, pre_loads, post_loads;
} Thing;

static const VMStateField small_fields[] = {
    VMSTATE_UINT16(a, Small),
    VMSTATE_UINT32_ARRAY(b, Small),
    VMSTATE_F_(late, Small, VMS_U8, .since = 2),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_small = {
    .name = "small", .version = 2, .minimum_version = 1, .fields = small_fields
};

static void put_text(StateWriter *w, const void *field, const VMStateField *f)
{
    state_put_str(w, *(char *const *)field);
}

static bool get_text(StateReader *r, void *field, const VMStateField *f, GError **error)
{
    char *text = state_get_str(r);
    if (text && strlen(text) > 10) {
        g_free(text);
        return error_set(error, ENGINE_ERROR_LIMIT, "more than 10 characters");
    }
    if (text) {
        g_free(*(char **)field);
        *(char **)field = text;
    }
    return text != NULL;
}

static bool conditional_exists(const void *opaque, unsigned version)
{
    return ((const Thing *)opaque)->u8 != 0;
}

static bool extra_needed(const void *opaque)
{
    return ((const Thing *)opaque)->extra != 0;
}

static bool deep_needed(const void *opaque)
{
    return ((const Thing *)opaque)->deep_extra != 0;
}

static void thing_pre_save(void *opaque)
{
    ((Thing *)opaque)->pre_saves++;
}

static bool thing_pre_load(void *opaque, GError **error)
{
    Thing *t = opaque;
    t->pre_loads++;
    t->extra = t->deep_extra = 0;
    return true;
}

static bool thing_post_load(void *opaque, unsigned version, GError **error)
{
    Thing *t = opaque;
    t->post_loads++;
    ck_assert_uint_le(t->fifo_n, sizeof(t->fifo));
    if (t->u16 == 0xdead) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "u16 is dead");
    }
    return true;
}

static const VMStateField deep_fields[] = { VMSTATE_UINT8(deep_extra, Thing), VMSTATE_END() };
static const VMStateDescription vmstate_deep = {
    .name = "deep", .version = 1, .minimum_version = 1, .needed = deep_needed, .fields = deep_fields
};
static const VMStateField extra_fields[] = { VMSTATE_UINT8(extra, Thing), VMSTATE_END() };
static const VMStateDescription *const extra_subsections[] = { &vmstate_deep, NULL };
static const VMStateDescription vmstate_extra = { .name = "extra",
                                                  .version = 1,
                                                  .minimum_version = 1,
                                                  .needed = extra_needed,
                                                  .fields = extra_fields,
                                                  .subsections = extra_subsections };
static const VMStateDescription *const thing_subsections[] = { &vmstate_extra, NULL };

static const VMStateField thing_fields[] = {
    VMSTATE_BOOL(flag, Thing),
    VMSTATE_UINT8(u8, Thing),
    VMSTATE_UINT16(u16, Thing),
    VMSTATE_UINT32(u32, Thing),
    VMSTATE_UINT64(u64, Thing),
    VMSTATE_F_(s8, Thing, VMS_S8),
    VMSTATE_F_(s16, Thing, VMS_S16),
    VMSTATE_INT32(s32, Thing),
    VMSTATE_INT64(s64, Thing),
    VMSTATE_F_(real, Thing, VMS_DOUBLE),
    VMSTATE_BYTES(raw, Thing),
    VMSTATE_UINT8_ARRAY(bytes, Thing),
    VMSTATE_UINT16_ARRAY(words, Thing),
    VMSTATE_UINT32_ARRAY(longs, Thing),
    VMSTATE_UINT64_ARRAY(quads, Thing),
    VMSTATE_ARRAY_(flags, Thing, VMS_BOOL),
    VMSTATE_UINT8_VARRAY(fifo, Thing, fifo_n),
    VMSTATE_UINT32(fifo_n, Thing),
    VMSTATE_STRUCT(one, Thing, vmstate_small),
    VMSTATE_STRUCT_ARRAY(several, Thing, vmstate_small),
    VMSTATE_STRUCT_POINTER(pointed, Thing, vmstate_small),
    VMSTATE_BUFFER(buffer, Thing, 6),
    VMSTATE_BUFFER(absent, Thing, 6),
    VMSTATE_TIMER(timer, Thing),
    VMSTATE_TIMER(idle, Thing),
    VMSTATE_F_(text, Thing, VMS_CUSTOM, .put = put_text, .get = get_text),
    VMSTATE_F_(conditional, Thing, VMS_U8, .exists = conditional_exists),
    VMSTATE_END(),
};
static const VMStateDescription vmstate_thing = { .name = "thing",
                                                  .version = 3,
                                                  .minimum_version = 2,
                                                  .pre_save = thing_pre_save,
                                                  .pre_load = thing_pre_load,
                                                  .post_load = thing_post_load,
                                                  .fields = thing_fields,
                                                  .subsections = thing_subsections };

static Clock *test_clock;

static void never(void *opaque)
{
    ck_abort_msg("a timer of a clock that stands fired");
}

static void thing_init(Thing *t)
{
    memset(t, 0, sizeof(*t));
    t->pointed = g_new0(Small, 1);
    t->buffer = g_malloc0(6);
    t->text = g_strdup("");
    timer_setup(&t->timer, test_clock, never, NULL);
    timer_setup(&t->idle, test_clock, never, NULL);
}

static void thing_clear(Thing *t)
{
    timer_disarm(&t->timer);
    timer_disarm(&t->idle);
    g_free(t->pointed);
    g_free(t->buffer);
    g_free(t->text);
}

static void small_fill(Small *s, unsigned n)
{
    *s = (Small){ .a = (uint16_t)(0x100 + n), .b = { n, ~n }, .late = (uint8_t)(n + 1) };
}

static void thing_fill(Thing *t)
{
    t->flag = true;
    t->u8 = 0x81;
    t->u16 = 0x8234;
    t->u32 = 0x82345678;
    t->u64 = UINT64_C(0x8123456789abcdef);
    t->s8 = -1;
    t->s16 = -300;
    t->s32 = -70000;
    t->s64 = INT64_MIN;
    t->real = -0.75;
    memcpy(t->raw, "abcde", 5);
    memcpy(t->bytes, "xyz", 3);
    for (int i = 0; i < 4; i++) {
        t->words[i] = (uint16_t)(0xff00 + i);
    }
    t->longs[1] = 7;
    t->quads[0] = UINT64_MAX;
    t->flags[1] = true;
    t->fifo_n = 3;
    memcpy(t->fifo, "\1\2\3", 3);
    small_fill(&t->one, 1);
    for (unsigned i = 0; i < 3; i++) {
        small_fill(&t->several[i], 10 + i);
    }
    small_fill(t->pointed, 99);
    memcpy(t->buffer, "buffer", 6);
    timer_arm(&t->timer, INT64_C(123456789012));
    g_free(t->text);
    t->text = g_strdup("text");
    t->conditional = 5;
    t->extra = 6;
    t->deep_extra = 7;
}

static bool small_equal(const Small *a, const Small *b)
{
    return a->a == b->a && memcmp(a->b, b->b, sizeof(a->b)) == 0 && a->late == b->late;
}

static void check_equal(const Thing *a, const Thing *b)
{
    ck_assert_mem_eq(a, b, offsetof(Thing, one));
    ck_assert(small_equal(&a->one, &b->one));
    for (int i = 0; i < 3; i++) {
        ck_assert(small_equal(&a->several[i], &b->several[i]));
    }
    ck_assert(small_equal(a->pointed, b->pointed));
    ck_assert_mem_eq(a->buffer, b->buffer, 6);
    ck_assert_int_eq(a->timer.expire, b->timer.expire);
    ck_assert_int_eq(a->idle.expire, b->idle.expire);
    ck_assert_str_eq(a->text, b->text);
    ck_assert_uint_eq(a->conditional, b->conditional);
    ck_assert_uint_eq(a->extra, b->extra);
    ck_assert_uint_eq(a->deep_extra, b->deep_extra);
}

static GBytes *save(const VMStateDescription *vmsd, void *opaque)
{
    StateWriter *w = state_writer_new();
    state_section_begin(w, "test", 4, 1);
    vmstate_save(w, vmsd, opaque);
    state_section_end(w);
    return state_writer_finish(w);
}

/* Loads the one section of a stream, all of it. */
static bool load(GBytes *bytes, const VMStateDescription *vmsd, void *opaque, GError **error)
{
    const char *name;
    uint32_t instance, version;
    StateReader *r = state_reader_new(bytes, error);
    if (!r) {
        return false;
    }
    bool ok = true;
    if (!state_next_section(r, &name, &instance, &version)) {
        ok = state_reader_ok(r, error) &&
             error_set(error, ENGINE_ERROR_CORRUPT, "there is no section");
    }
    ok = ok && vmstate_load(r, vmsd, opaque, error);
    ok = ok && !state_next_section(r, &name, &instance, &version) && state_reader_ok(r, error);
    state_reader_free(r);
    return ok;
}

/* The same stream with a checksum that fits. */
static GBytes *with_checksum(const uint8_t *data, size_t len)
{
    uint8_t *copy = g_memdup2(data, len);
    uint32_t crc = GUINT32_TO_LE(state_crc32c(0, copy, len - 4));
    memcpy(copy + len - 4, &crc, 4);
    return g_bytes_new_take(copy, len);
}

#define ck_assert_refused(bytes, vmsd, opaque, text)                                            \
    do {                                                                                        \
        GError *error_ = NULL;                                                                  \
        ck_assert(!load((bytes), (vmsd), (opaque), &error_));                                   \
        ck_assert_ptr_nonnull(error_);                                                          \
        ck_assert_int_eq(error_->code, ENGINE_ERROR_CORRUPT);                                   \
        ck_assert_msg(strstr(error_->message, (text)) != NULL, "it says: %s", error_->message); \
        g_clear_error(&error_);                                                                 \
        g_bytes_unref(bytes);                                                                   \
    } while (0)

static void setup(void)
{
    main_loop_init();
    test_clock = clock_new_virtual();
}

static void teardown(void)
{
    clock_free(test_clock);
    main_loop_finalize();
}

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

/* ---- hostile streams --------------------------------------------------------------------------
 */

START_TEST(a_stream_cut_off_at_any_byte_is_an_error)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    for (size_t cut = 0; cut < len; cut++) {
        /* Copies, so that ASan sees a read beyond the end. */
        g_autoptr(GBytes) plain = g_bytes_new(data, cut);
        GError *error = NULL;
        ck_assert(!load(plain, &vmstate_thing, &b, &error));
        ck_assert_ptr_nonnull(error);
        ck_assert_int_eq(error->code, ENGINE_ERROR_CORRUPT);
        g_clear_error(&error);
        if (cut < 21) {
            continue;
        }
        /* The same with an end mark and a checksum that fit. */
        g_autofree uint8_t *copy = g_memdup2(data, cut);
        copy[cut - 5] = 0;
        g_autoptr(GBytes) sealed = with_checksum(copy, cut);
        ck_assert(!load(sealed, &vmstate_thing, &b, &error));
        g_clear_error(&error);
        ck_assert_uint_le(b.fifo_n, sizeof(b.fifo));
    }
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(a_section_cut_off_at_any_byte_is_an_error)
{
    /* The stream is whole, the section ends early. */
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len, start = 16 + 1 + 2 + 4 + 4 + 4 + 8;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    for (size_t n = 0; n < len - 5 - start; n++) {
        StateWriter *w = state_writer_new();
        state_section_begin(w, "test", 4, 1);
        state_put_bytes(w, data + start, n);
        state_section_end(w);
        state_section_begin(w, "next", 4, 1);
        state_put_bytes(w, data + start, 64);
        state_section_end(w);
        g_autoptr(GBytes) cut = state_writer_finish(w);
        GError *error = NULL;
        ck_assert(!load(cut, &vmstate_thing, &b, &error));
        ck_assert_ptr_nonnull(error);
        g_clear_error(&error);
        ck_assert_uint_le(b.fifo_n, sizeof(b.fifo));
    }
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(any_flipped_bit_is_an_error)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    g_autofree uint8_t *data = g_bytes_unref_to_data(g_bytes_ref(bytes), &len);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        g_autoptr(GBytes) flipped = g_bytes_new_static(data, len);
        ck_assert(!load(flipped, &vmstate_thing, &b, NULL));
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_uint_eq(b.pre_loads, 0);
    thing_clear(&a);
    thing_clear(&b);
}
END_TEST

START_TEST(damage_behind_a_right_checksum_stays_within_bounds)
{
    Thing a, b;
    thing_init(&a);
    thing_init(&b);
    thing_fill(&a);
    g_autoptr(GBytes) bytes = save(&vmstate_thing, &a);
    size_t len;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    unsigned loaded = 0, refused = 0;
    srand(11);
    for (size_t i = 0; i < 16 * len; i++) {
        g_autofree uint8_t *copy = g_memdup2(data, len);
        if (i < 8 * len) {
            copy[i / 8] ^= (uint8_t)(1u << i % 8);
        } else {
            for (int k = rand() % 4; k >= 0; k--) {
                copy[16 + rand() % (len - 16)] = (uint8_t)(rand() % 3 ? rand() : 0xff);
            }
        }
        g_autoptr(GBytes) damaged = with_checksum(copy, len);
        GError *error = NULL;
        if (load(damaged, &vmstate_thing, &b, &error)) {
            loaded++;
        } else {
            ck_assert_ptr_nonnull(error);
            refused++;
        }
        g_clear_error(&error);
        ck_assert_uint_le(b.fifo_n, sizeof(b.fifo));
        ck_assert(*(uint8_t *)&b.flag <= 1);
    }
    ck_assert_uint_gt(loaded, 0); /* values may be anything */
    ck_assert_uint_gt(refused, 0);
    thing_clear(&a);
    thing_clear(&b);
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

static Suite *state_suite(void)
{
    Suite *s = suite_create("state");
    TCase *tc = tcase_create("state");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
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
    tcase_add_test(tc, a_stream_cut_off_at_any_byte_is_an_error);
    tcase_add_test(tc, a_section_cut_off_at_any_byte_is_an_error);
    tcase_add_test(tc, any_flipped_bit_is_an_error);
    tcase_add_test(tc, damage_behind_a_right_checksum_stays_within_bounds);
    tcase_add_test(tc, scalars_are_listed_with_their_paths);
    suite_add_tcase(s, tc);
    return s;
}

int main(void)
{
    SRunner *sr = srunner_create(state_suite());
    srunner_run_all(sr, CK_ENV);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
