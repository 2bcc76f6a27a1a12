/*
 * The reader of saved state, over any bytes: as they are, or with the header and checksum made
 * right, so that what lies behind them is reached. What was taken from the sections is chosen by
 * the input too. And a table with every kind of field, loaded from them.
 */
#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/state/stream.h"
#include "engine/state/vmstate.h"
#include "tests/fuzz/fuzz.h"

typedef struct Inner {
    uint8_t a;
    uint32_t b;
} Inner;
typedef struct Outer {
    bool flag;
    uint16_t u16;
    int64_t s64;
    double real;
    uint8_t bytes[7];
    uint32_t n;
    uint32_t some[9];
    uint32_t many;
    Inner inner[3];
    Inner *pointer;
    uint8_t *buffer;
    Timer timer;
    uint64_t sub;
} Outer;

static const VMStateDescription vmstate_inner = {
    .name = "inner",
    .version = 2,
    .minimum_version = 1,
    .fields = (const VMStateField[]){ VMSTATE_UINT8(a, Inner), VMSTATE_UINT32(b, Inner),
                                      VMSTATE_END() },
};

static bool sub_needed(const void *opaque)
{
    return ((const Outer *)opaque)->sub != 0;
}

static const VMStateDescription vmstate_sub = {
    .name = "sub",
    .version = 1,
    .minimum_version = 1,
    .needed = sub_needed,
    .fields = (const VMStateField[]){ VMSTATE_UINT64(sub, Outer), VMSTATE_END() },
};

static bool since_two(const void *opaque, unsigned version)
{
    return version >= 2;
}

static bool custom_get(StateReader *r, void *field, const VMStateField *f, GError **error)
{
    g_autofree char *text = state_get_str(r);

    *(uint16_t *)field = (uint16_t)(text ? strlen(text) : 0);
    return true;
}

static void custom_put(StateWriter *w, const void *field, const VMStateField *f)
{
    g_autofree char *text = g_strnfill(*(const uint16_t *)field, 'x');

    state_put_str(w, text);
}

static const VMStateDescription vmstate_outer = {
    .name = "outer",
    .version = 2,
    .minimum_version = 1,
    .fields = (const VMStateField[]){ VMSTATE_BOOL(flag, Outer),
                                      { .name = "u16",
                                        .kind = VMS_CUSTOM,
                                        .offset = offsetof(Outer, u16),
                                        .size = 2,
                                        .count_offset = -1,
                                        .put = custom_put,
                                        .get = custom_get },
                                      VMSTATE_INT64(s64, Outer),
                                      { .name = "real",
                                        .kind = VMS_DOUBLE,
                                        .offset = offsetof(Outer, real),
                                        .size = 8,
                                        .count_offset = -1,
                                        .exists = since_two },
                                      VMSTATE_BYTES(bytes, Outer),
                                      VMSTATE_UINT32(n, Outer),
                                      VMSTATE_UINT32_VARRAY(some, Outer, many),
                                      VMSTATE_STRUCT_ARRAY(inner, Outer, vmstate_inner),
                                      VMSTATE_STRUCT_POINTER(pointer, Outer, vmstate_inner),
                                      VMSTATE_BUFFER(buffer, Outer, 13),
                                      VMSTATE_TIMER(timer, Outer),
                                      VMSTATE_END() },
    .subsections = (const VMStateDescription *const[]){ &vmstate_sub, NULL },
};

static Clock *machine_clock;

static void timer_fired(void *opaque)
{
}

static void outer_init(Outer *o, bool pointer)
{
    memset(o, 0, sizeof(*o));
    o->pointer = pointer ? g_new0(Inner, 1) : NULL;
    o->buffer = pointer ? g_malloc0(13) : NULL;
    timer_setup(&o->timer, machine_clock, timer_fired, o);
}

static void outer_finalize(Outer *o)
{
    timer_disarm(&o->timer);
    g_free(o->pointer);
    g_free(o->buffer);
}

static GBytes *outer_save(Outer *o)
{
    StateWriter *w = state_writer_new();

    state_section_begin(w, "outer", 0, 2);
    vmstate_save(w, &vmstate_outer, o);
    state_section_end(w);
    return state_writer_finish(w);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_engine_init();
    machine_clock = clock_new_virtual();
    return 0;
}

/* Random getters until the section is over or something failed. */
static void read_section(FuzzInput *in, StateReader *r)
{
    for (unsigned i = 0; i < 64 && state_section_left(r) > 0; i++) {
        size_t before = state_section_left(r);
        uint8_t buf[64];

        switch (fuzz_u8(in) % 7) {
        case 0:
            state_get_u8(r);
            break;
        case 1:
            state_get_u16(r);
            break;
        case 2:
            state_get_u32(r);
            break;
        case 3:
            state_get_u64(r);
            break;
        case 4:
            state_get_bytes(r, buf, fuzz_u8(in) % sizeof(buf));
            break;
        case 5:
            g_free(state_get_str(r));
            break;
        case 6:
            state_section_skip(r);
            break;
        }
        FUZZ_CHECK(state_section_left(r) <= before);
    }
}

static void walk(FuzzInput *in, GBytes *bytes, bool table)
{
    GError *error = NULL;
    StateReader *r = state_reader_new(bytes, &error);
    uint32_t instance, version;
    const char *name;

    fuzz_outcome(r != NULL, error);
    if (!r) {
        return;
    }
    while (state_next_section(r, &name, &instance, &version)) {
        FUZZ_CHECK(g_utf8_validate(name, -1, NULL));
        if (table) {
            Outer o;
            bool ok;

            error = NULL;
            outer_init(&o, fuzz_u8(in) & 1);
            ok = vmstate_load(r, &vmstate_outer, &o, &error);
            fuzz_outcome(ok, error);
            if (ok) {
                g_autoptr(GBytes) again = outer_save(&o);

                FUZZ_CHECK(o.many <= G_N_ELEMENTS(o.some));
                FUZZ_CHECK(again);
            }
            outer_finalize(&o);
        } else {
            read_section(in, r);
        }
    }
    error = NULL;
    fuzz_outcome(state_reader_ok(r, &error), error);
    state_reader_free(r);
}

/* The table's own stream with some bytes changed: gets through more checks than any other bytes. */
static GBytes *mutated(FuzzInput *in)
{
    g_autoptr(GBytes) bytes = NULL;
    gsize size;
    guint8 *copy;
    uint32_t crc;
    Outer o;

    outer_init(&o, fuzz_u8(in) & 1);
    o.many = fuzz_u8(in) % 10;
    o.sub = fuzz_u8(in) & 1;
    bytes = outer_save(&o);
    outer_finalize(&o);
    copy = g_memdup2(g_bytes_get_data(bytes, &size), g_bytes_get_size(bytes));
    for (unsigned i = fuzz_u8(in) % 4; i > 0; i--) {
        size_t at = fuzz_u16(in) % size;

        copy[at] = fuzz_u8(in);
    }
    crc = GUINT32_TO_LE(state_crc32c(0, copy, size - 4));
    memcpy(copy + size - 4, &crc, 4);
    return g_bytes_new_take(copy, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzInput in = { data, size };
    uint8_t mode = fuzz_u8(&in);
    g_autoptr(GBytes) bytes = NULL;

    if (mode & 1) {
        bytes = mutated(&in);
    } else if (mode & 2) {
        bytes = g_bytes_new(in.p, in.left);
    } else {
        /* The rest is one section's content, header and checksum are right. */
        StateWriter *w = state_writer_new();

        state_section_begin(w, "outer", 0, 2);
        state_put_bytes(w, in.p, in.left);
        state_section_end(w);
        bytes = state_writer_finish(w);
    }
    walk(&in, bytes, mode & 4);
    return 0;
}
