/* A struct with a field of every kind, its table, and streams of it. */
#pragma once

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/state/stream.h"
#include "engine/state/vmstate.h"
#include "tests/unit/run_suite.h"

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

static inline void put_text(StateWriter *w, const void *field, const VMStateField *f)
{
    state_put_str(w, *(char *const *)field);
}

static inline bool get_text(StateReader *r, void *field, const VMStateField *f, GError **error)
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

static inline bool conditional_exists(const void *opaque, unsigned version)
{
    return ((const Thing *)opaque)->u8 != 0;
}

static inline bool extra_needed(const void *opaque)
{
    return ((const Thing *)opaque)->extra != 0;
}

static inline bool deep_needed(const void *opaque)
{
    return ((const Thing *)opaque)->deep_extra != 0;
}

static inline void thing_pre_save(void *opaque)
{
    ((Thing *)opaque)->pre_saves++;
}

static inline bool thing_pre_load(void *opaque, GError **error)
{
    Thing *t = opaque;
    t->pre_loads++;
    t->extra = t->deep_extra = 0;
    return true;
}

static inline bool thing_post_load(void *opaque, unsigned version, GError **error)
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

static inline void never(void *opaque)
{
    ck_abort_msg("a timer of a clock that stands fired");
}

static inline void thing_init(Thing *t)
{
    memset(t, 0, sizeof(*t));
    t->pointed = g_new0(Small, 1);
    t->buffer = g_malloc0(6);
    t->text = g_strdup("");
    timer_setup(&t->timer, test_clock, never, NULL);
    timer_setup(&t->idle, test_clock, never, NULL);
}

static inline void thing_clear(Thing *t)
{
    timer_disarm(&t->timer);
    timer_disarm(&t->idle);
    g_free(t->pointed);
    g_free(t->buffer);
    g_free(t->text);
}

static inline void small_fill(Small *s, unsigned n)
{
    *s = (Small){ .a = (uint16_t)(0x100 + n), .b = { n, ~n }, .late = (uint8_t)(n + 1) };
}

static inline void thing_fill(Thing *t)
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

static inline bool small_equal(const Small *a, const Small *b)
{
    return a->a == b->a && memcmp(a->b, b->b, sizeof(a->b)) == 0 && a->late == b->late;
}

static inline void check_equal(const Thing *a, const Thing *b)
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

static inline GBytes *save(const VMStateDescription *vmsd, void *opaque)
{
    StateWriter *w = state_writer_new();
    state_section_begin(w, "test", 4, 1);
    vmstate_save(w, vmsd, opaque);
    state_section_end(w);
    return state_writer_finish(w);
}

/* Loads the one section of a stream, all of it. */
static inline bool load(GBytes *bytes, const VMStateDescription *vmsd, void *opaque, GError **error)
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
static inline GBytes *with_checksum(const uint8_t *data, size_t len)
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

static inline void setup(void)
{
    main_loop_init();
    test_clock = clock_new_virtual();
}

static inline void teardown(void)
{
    clock_free(test_clock);
    main_loop_finalize();
}
