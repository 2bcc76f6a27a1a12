/* The binary stream of saved state: writer, bounded reader, checksum. */
#include "engine/state/stream.h"

#include <string.h>

#include "engine/core/error.h"
#include "engine/state/state_priv.h"

#define MAGIC          "VMLUAST" /* with its NUL: 8 bytes */
#define MAGIC_SIZE     8
#define FORMAT_VERSION 1
#define HEADER_SIZE    16
#define TRAILER_SIZE   5 /* end mark, checksum */
enum { TAG_END, TAG_SECTION };

/* ---- checksum ------------------------------------------------------------------------------- */

#define CRC32C_POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t crc32c_table_loop(uint32_t crc, const uint8_t *p, size_t len)
{
    static uint32_t table[256];
    static gsize ready;
    if (g_once_init_enter(&ready)) {
        for (unsigned i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++) {
                c = (c >> 1) ^ (c & 1 ? CRC32C_POLYNOMIAL : 0);
            }
            table[i] = c;
        }
        g_once_init_leave(&ready, 1);
    }
    while (len--) {
        crc = (crc >> 8) ^ table[(crc ^ *p++) & 0xff];
    }
    return crc;
}

#ifdef __x86_64__
static __attribute__((target("sse4.2"))) uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p,
                                                               size_t len)
{
    uint64_t wide = crc;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        wide = __builtin_ia32_crc32di(wide, v);
    }
    crc = (uint32_t)wide;
    while (len--) {
        crc = __builtin_ia32_crc32qi(crc, *p++);
    }
    return crc;
}
#endif

uint32_t state_crc32c(uint32_t crc, const void *data, size_t len)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) {
        return ~crc32c_sse42(~crc, data, len);
    }
#endif
    return ~crc32c_table_loop(~crc, data, len);
}

/* ---- writer --------------------------------------------------------------------------------- */

struct StateWriter {
    uint8_t *data;
    size_t len, capacity;
    size_t section; /* where the length of the open section stands; 0: none is open */
};

uint8_t *state_put_space(StateWriter *w, size_t len)
{
    if (w->capacity - w->len < len) {
        w->capacity = MAX(w->capacity * 2, w->len + len);
        w->data = g_realloc(w->data, w->capacity);
    }
    uint8_t *p = w->data + w->len;
    w->len += len;
    return p;
}

void state_put_bytes(StateWriter *w, const void *data, size_t len)
{
    g_assert(w->section);
    if (len) {
        memcpy(state_put_space(w, len), data, len);
    }
}

#define PUT(type, v, to_le)                    \
    do {                                       \
        type le_ = to_le(v);                   \
        state_put_bytes(w, &le_, sizeof(le_)); \
    } while (0)

void state_put_u8(StateWriter *w, uint8_t v)
{
    PUT(uint8_t, v, );
}

void state_put_u16(StateWriter *w, uint16_t v)
{
    PUT(uint16_t, v, GUINT16_TO_LE);
}

void state_put_u32(StateWriter *w, uint32_t v)
{
    PUT(uint32_t, v, GUINT32_TO_LE);
}

void state_put_u64(StateWriter *w, uint64_t v)
{
    PUT(uint64_t, v, GUINT64_TO_LE);
}

void state_put_str(StateWriter *w, const char *s)
{
    size_t len = strlen(s);
    g_assert(len <= UINT16_MAX);
    state_put_u16(w, (uint16_t)len);
    state_put_bytes(w, s, len);
}

size_t state_length_begin(StateWriter *w)
{
    size_t at = w->len;
    state_put_u32(w, 0);
    return at;
}

void state_length_end(StateWriter *w, size_t at)
{
    size_t n = w->len - at - 4;
    g_assert(n <= UINT32_MAX);
    uint32_t le = GUINT32_TO_LE((uint32_t)n);
    memcpy(w->data + at, &le, 4);
}

StateWriter *state_writer_new(void)
{
    StateWriter *w = g_new0(StateWriter, 1);
    w->capacity = 4096;
    w->data = g_malloc(w->capacity);
    memcpy(state_put_space(w, MAGIC_SIZE), MAGIC, MAGIC_SIZE);
    w->section = 1;
    state_put_u32(w, FORMAT_VERSION);
    state_put_u32(w, 0);
    w->section = 0;
    return w;
}

void state_writer_free(StateWriter *w)
{
    if (w) {
        g_free(w->data);
        g_free(w);
    }
}

void state_section_begin(StateWriter *w, const char *name, uint32_t instance, uint32_t version)
{
    g_assert(!w->section);
    w->section = w->len;
    state_put_u8(w, TAG_SECTION);
    state_put_str(w, name);
    state_put_u32(w, instance);
    state_put_u32(w, version);
    w->section = w->len;
    state_put_u64(w, 0);
}

void state_section_end(StateWriter *w)
{
    g_assert(w->section);
    uint64_t le = GUINT64_TO_LE((uint64_t)(w->len - w->section - 8));
    memcpy(w->data + w->section, &le, 8);
    w->section = 0;
}

GBytes *state_writer_finish(StateWriter *w)
{
    g_assert(!w->section);
    *state_put_space(w, 1) = TAG_END;
    uint32_t crc = GUINT32_TO_LE(state_crc32c(0, w->data, w->len));
    memcpy(state_put_space(w, 4), &crc, 4);
    GBytes *bytes = g_bytes_new_take(w->data, w->len);
    g_free(w);
    return bytes;
}

/* ---- reader --------------------------------------------------------------------------------- */

struct StateReader {
    GBytes *bytes;
    const uint8_t *data;
    size_t pos;
    size_t end;  /* getters stop here: end of the section or of a window in it; pos <= end */
    size_t last; /* where the end mark is */
    char *name;  /* of the section */
    uint32_t instance;
    char *failure;
};

void state_reader_fail(StateReader *r, const char *format, ...)
{
    if (r->failure) {
        return;
    }
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    r->failure = r->name ? g_strdup_printf("section '%s' (instance %u), byte %zu: %s", r->name,
                                           r->instance, r->pos, text)
                         : g_strdup_printf("byte %zu: %s", r->pos, text);
}

static bool reader_check(const uint8_t *data, size_t len, GError **error)
{
    uint32_t version, flags, crc;
    if (len < HEADER_SIZE + TRAILER_SIZE || memcmp(data, MAGIC, MAGIC_SIZE) != 0) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "not a saved state, or cut off (%zu bytes)",
                         len);
    }
    memcpy(&version, data + MAGIC_SIZE, 4);
    memcpy(&flags, data + MAGIC_SIZE + 4, 4);
    memcpy(&crc, data + len - 4, 4);
    if (GUINT32_FROM_LE(version) != FORMAT_VERSION || flags != 0) {
        return error_set(
            error, ENGINE_ERROR_CORRUPT,
            "saved state has format %u with flags %#x; this program reads format %u with flags 0",
            GUINT32_FROM_LE(version), GUINT32_FROM_LE(flags), FORMAT_VERSION);
    }
    uint32_t computed = state_crc32c(0, data, len - 4);
    if (GUINT32_FROM_LE(crc) != computed) {
        return error_set(error, ENGINE_ERROR_CORRUPT,
                         "saved state is damaged or cut off: checksum %08x, should be %08x",
                         computed, GUINT32_FROM_LE(crc));
    }
    if (data[len - TRAILER_SIZE] != TAG_END) {
        return error_set(error, ENGINE_ERROR_CORRUPT, "saved state has no end mark");
    }
    return true;
}

StateReader *state_reader_new(GBytes *bytes, GError **error)
{
    size_t len;
    const uint8_t *data = g_bytes_get_data(bytes, &len);
    if (!reader_check(data, len, error)) {
        return NULL;
    }
    StateReader *r = g_new0(StateReader, 1);
    r->bytes = g_bytes_ref(bytes);
    r->data = data;
    r->pos = r->end = HEADER_SIZE;
    r->last = len - TRAILER_SIZE;
    return r;
}

void state_reader_free(StateReader *r)
{
    if (r) {
        g_bytes_unref(r->bytes);
        g_free(r->name);
        g_free(r->failure);
        g_free(r);
    }
}

bool state_reader_ok(StateReader *r, GError **error)
{
    return !r->failure || error_set(error, ENGINE_ERROR_CORRUPT, "saved state: %s", r->failure);
}

const uint8_t *state_get_view(StateReader *r, size_t len)
{
    if (r->failure || r->end - r->pos < len) {
        state_reader_fail(r, "%zu bytes are wanted, %zu are left", len, r->end - r->pos);
        return NULL;
    }
    const uint8_t *p = r->data + r->pos;
    r->pos += len;
    return p;
}

bool state_get_bytes(StateReader *r, void *data, size_t len)
{
    const uint8_t *p = state_get_view(r, len);
    if (!len) {
        return p != NULL;
    }
    if (!p) {
        memset(data, 0, len);
        return false;
    }
    memcpy(data, p, len);
    return true;
}

uint8_t state_get_u8(StateReader *r)
{
    uint8_t v;
    state_get_bytes(r, &v, sizeof(v));
    return v;
}

uint16_t state_get_u16(StateReader *r)
{
    uint16_t v;
    state_get_bytes(r, &v, sizeof(v));
    return GUINT16_FROM_LE(v);
}

uint32_t state_get_u32(StateReader *r)
{
    uint32_t v;
    state_get_bytes(r, &v, sizeof(v));
    return GUINT32_FROM_LE(v);
}

uint64_t state_get_u64(StateReader *r)
{
    uint64_t v;
    state_get_bytes(r, &v, sizeof(v));
    return GUINT64_FROM_LE(v);
}

char *state_get_str(StateReader *r)
{
    size_t len = state_get_u16(r);
    const uint8_t *p = state_get_view(r, len);
    if (!p) {
        return NULL;
    }
    if (!g_utf8_validate_len((const char *)p, len, NULL)) {
        state_reader_fail(r, "a text of %zu bytes is not UTF-8", len);
        return NULL;
    }
    return g_strndup((const char *)p, len);
}

bool state_window_enter(StateReader *r, size_t len, StateWindow *window)
{
    window->outer_end = r->end;
    if (r->failure || r->end - r->pos < len) {
        state_reader_fail(r, "a part of %zu bytes is announced, %zu are left", len,
                          r->end - r->pos);
        return false;
    }
    r->end = r->pos + len;
    return true;
}

void state_window_leave(StateReader *r, const StateWindow *window)
{
    if (r->pos != r->end) {
        state_reader_fail(r, "%zu bytes are left over", r->end - r->pos);
    }
    r->end = window->outer_end;
}

size_t state_section_left(StateReader *r)
{
    return r->failure ? 0 : r->end - r->pos;
}

void state_section_skip(StateReader *r)
{
    r->pos = r->end;
}

bool state_next_section(StateReader *r, const char **name, uint32_t *instance, uint32_t *version)
{
    if (r->pos != r->end) {
        state_reader_fail(r, "%zu bytes are left over", r->end - r->pos);
    }
    g_clear_pointer(&r->name, g_free);
    if (r->failure || r->pos == r->last) {
        return false;
    }
    r->end = r->last;
    uint8_t tag = state_get_u8(r);
    if (tag != TAG_SECTION) {
        state_reader_fail(r, "unknown mark %u where a section should begin", tag);
        return false;
    }
    r->name = state_get_str(r);
    r->instance = state_get_u32(r);
    *version = state_get_u32(r);
    uint64_t len = state_get_u64(r);
    if (r->failure || len > r->end - r->pos) {
        state_reader_fail(r, "%" G_GUINT64_FORMAT " bytes are announced, %zu are left", len,
                          r->end - r->pos);
        return false;
    }
    r->end = r->pos + len;
    *name = r->name;
    *instance = r->instance;
    return true;
}
