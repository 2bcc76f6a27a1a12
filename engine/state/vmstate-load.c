/*
 * Saved state by tables of fields: loading. The stream's form is described in vmstate.c; nothing in
 * it is believed before it was checked.
 */
#include "engine/state/vmstate-priv.h"

#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/state/state_priv.h"

/* The way from the outermost description to here, for messages. */
typedef struct LoadPath {
    const struct LoadPath *up;
    const char *name;
    int index; /* -1: not in an array */
    unsigned depth;
} LoadPath;

static bool load_description(StateReader *r, const VMStateDescription *vmsd, void *opaque,
                             const LoadPath *path, GError **error);
static bool load_record(StateReader *r, const VMStateDescription *vmsd, void *opaque, bool named,
                        const LoadPath *path, GError **error);

static void path_append(GString *s, const LoadPath *path)
{
    if (path->up) {
        path_append(s, path->up);
        g_string_append_c(s, '.');
    }
    g_string_append(s, path->name);
    if (path->index >= 0) {
        g_string_append_printf(s, "[%d]", path->index);
    }
}

static G_GNUC_PRINTF(3, 4) bool load_fail(GError **error, const LoadPath *path, const char *format,
                                          ...)
{
    g_autoptr(GString) s = g_string_new(NULL);
    path_append(s, path);
    g_string_append(s, ": ");
    va_list ap;
    va_start(ap, format);
    g_string_append_vprintf(s, format, ap);
    va_end(ap);
    return error_set(error, ENGINE_ERROR_CORRUPT, "%s", s->str);
}

/* After a getter failed: the reader's message behind our path. */
static bool load_check(StateReader *r, const LoadPath *path, GError **error)
{
    g_autoptr(GError) failure = NULL;
    return state_reader_ok(r, &failure) || load_fail(error, path, "%s", failure->message);
}

static bool load_name(StateReader *r, const VMStateField *f, const LoadPath *path, GError **error)
{
    uint8_t kind = state_get_u8(r);
    if (kind == 0) {
        return load_check(r, path, error) &&
               load_fail(error, path, "field '%s' is missing in the saved state", f->name);
    }
    size_t len = state_get_u8(r);
    const uint8_t *name = state_get_view(r, len);
    if (!name) {
        return load_check(r, path, error);
    }
    if (len != strlen(f->name) || memcmp(name, f->name, len) != 0) {
        g_autofree char *found = g_utf8_make_valid((const char *)name, (gssize)len);
        return load_fail(error, path, "the saved state has field '%s' where '%s' is expected",
                         found, f->name);
    }
    if (kind != 1 + f->kind) {
        return load_fail(error, path, "field '%s' was saved as %s, it is %s", f->name,
                         kind_name(kind - 1u), kind_name(f->kind));
    }
    return true;
}

static bool load_timer(StateReader *r, Timer *timer, const LoadPath *path, GError **error)
{
    int64_t expire = (int64_t)state_get_u64(r);
    if (!load_check(r, path, error)) {
        return false;
    }
    if (expire < -1) {
        return load_fail(error, path, "a timer cannot expire at %" G_GINT64_FORMAT, expire);
    }
    if (expire < 0) {
        timer_disarm(timer);
    } else {
        timer_arm(timer, expire);
    }
    return true;
}

static bool load_custom(StateReader *r, const VMStateField *f, void *field, const LoadPath *path,
                        GError **error)
{
    StateWindow window;
    GError *failure = NULL;
    if (state_window_enter(r, state_get_u32(r), &window)) {
        bool ok = f->get(r, field, f, &failure);
        if (!ok) {
            load_fail(error, path, "%s", failure ? failure->message : "is refused");
            g_clear_error(&failure);
            return false;
        }
        state_window_leave(r, &window);
    }
    return load_check(r, path, error);
}

static bool load_number(StateReader *r, void *field, unsigned width)
{
    switch (width) {
    case 2:
        *(uint16_t *)field = state_get_u16(r);
        break;
    case 4:
        *(uint32_t *)field = state_get_u32(r);
        break;
    default:
        *(uint64_t *)field = state_get_u64(r);
        break;
    }
    return true;
}

/* Numbers are as they are in memory; a bool that is neither 0 nor 1 may not get there. */
static bool load_plain(StateReader *r, const VMStateField *f, void *data, unsigned n,
                       const LoadPath *path, GError **error)
{
    const uint8_t *p = state_get_view(r, n * f->size);
    if (!p) {
        return load_check(r, path, error);
    }
    for (unsigned i = 0; f->kind == VMS_BOOL && i < n; i++) {
        if (p[i] > 1) {
            return load_fail(error, path, "%u is not a bool", p[i]);
        }
    }
    if (n) {
        memcpy(data, p, n * f->size);
    }
    return true;
}

static bool load_elements(StateReader *r, const VMStateField *f, char *data, unsigned n, bool named,
                          LoadPath *path, GError **error)
{
    if (elements_are_plain(f)) {
        return load_plain(r, f, data, n, path, error);
    }
    for (unsigned i = 0; i < n; i++) {
        void *field = data + i * f->size;
        bool ok;
        path->index = field_is_array(f) ? (int)i : -1;
        switch (f->kind) {
        case VMS_STRUCT:
            ok = named && i == 0 ? load_description(r, f->vmsd, field, path, error)
                                 : load_record(r, f->vmsd, field, false, path, error);
            break;
        case VMS_TIMER:
            ok = load_timer(r, field, path, error);
            break;
        case VMS_CUSTOM:
            ok = load_custom(r, f, field, path, error);
            break;
        default:
            ok = load_number(r, field, vmstate_kinds[f->kind].width);
            break;
        }
        if (!ok) {
            return false;
        }
    }
    return load_check(r, path, error);
}

static bool load_field(StateReader *r, const VMStateField *f, void *opaque, unsigned version,
                       bool named, const LoadPath *up, GError **error)
{
    LoadPath path = { up, f->name, -1, up->depth + 1 };
    if (named && !load_name(r, f, up, error)) {
        return false;
    }
    char *data = field_data(f, opaque);
    if (field_is_optional(f)) {
        bool saved = state_get_u8(r) != 0;
        bool here = data && (!f->exists || f->exists(opaque, version));
        if (!load_check(r, &path, error)) {
            return false;
        }
        if (saved != here) {
            return load_fail(error, &path, "%s in the saved state, %s here",
                             saved ? "is present" : "is absent", here ? "present" : "absent");
        }
        if (!here) {
            return true;
        }
    }
    unsigned n = 1;
    if (field_is_array(f)) {
        n = state_get_u32(r);
        if (n > f->count || (f->count_offset < 0 && n != f->count)) {
            return load_fail(error, &path, "has %u elements in the saved state, %s%u here", n,
                             f->count_offset < 0 ? "" : "at most ", f->count);
        }
        if (f->count_offset >= 0) {
            *field_count(f, opaque) = n;
        }
    }
    if (f->kind == VMS_BYTES) {
        uint32_t size = state_get_u32(r);
        if (size != f->size) {
            return load_check(r, &path, error) &&
                   load_fail(error, &path, "has %u bytes in the saved state, %zu here", size,
                             f->size);
        }
    }
    return load_elements(r, f, data, n, named, &path, error);
}

static bool load_fields(StateReader *r, const VMStateDescription *vmsd, void *opaque,
                        unsigned version, bool named, const LoadPath *path, GError **error)
{
    for (const VMStateField *f = vmsd->fields; f && f->name; f++) {
        if (f->since <= version && !load_field(r, f, opaque, version, named, path, error)) {
            return false;
        }
    }
    if (named && state_get_u8(r) != 0) {
        size_t len = state_get_u8(r);
        const uint8_t *name = state_get_view(r, len);
        g_autofree char *found = name ? g_utf8_make_valid((const char *)name, (gssize)len) : NULL;
        return load_check(r, path, error) &&
               load_fail(error, path, "the saved state has an unknown field '%s'", found);
    }
    return load_check(r, path, error);
}

/* They come in the order of the table, each at most once: *next only goes forward. */
static bool load_subsection(StateReader *r, const VMStateDescription *vmsd, unsigned *next,
                            void *opaque, const LoadPath *path, GError **error)
{
    StateWindow window;
    if (!state_window_enter(r, state_get_u32(r), &window)) {
        return load_check(r, path, error);
    }
    g_autofree char *name = state_get_str(r);
    if (!name) {
        return load_check(r, path, error);
    }
    const VMStateDescription *const *subs = vmsd->subsections;
    while (subs && subs[*next] && strcmp(subs[*next]->name, name) != 0) {
        ++*next;
    }
    if (!subs || !subs[*next]) {
        return load_fail(error, path, "the saved state has an unexpected subsection '%s'", name);
    }
    const VMStateDescription *sub = subs[(*next)++];
    LoadPath sub_path = { path, sub->name, -1, path->depth + 1 };
    if (!load_record(r, sub, opaque, true, &sub_path, error)) {
        return false;
    }
    state_window_leave(r, &window);
    return load_check(r, path, error);
}

static bool load_subsections(StateReader *r, const VMStateDescription *vmsd, void *opaque,
                             const LoadPath *path, GError **error)
{
    unsigned next = 0;
    for (;;) {
        uint8_t more = state_get_u8(r);
        if (!load_check(r, path, error)) {
            return false;
        }
        if (more == 0) {
            return true;
        }
        if (more != 1) {
            return load_fail(error, path, "unknown mark %u where a subsection may begin", more);
        }
        if (!load_subsection(r, vmsd, &next, opaque, path, error)) {
            return false;
        }
    }
}

/* A count may also be a field of its own, and that came from the stream unchecked. Whatever else
 * went wrong, no count may be left beyond its array. */
static bool load_counts_fit(const VMStateDescription *vmsd, void *opaque, const LoadPath *path,
                            GError **error)
{
    const VMStateField *bad = NULL;
    unsigned value = 0;
    for (const VMStateField *f = vmsd->fields; f && f->name; f++) {
        if (field_is_array(f) && f->count_offset >= 0 && *field_count(f, opaque) > f->count) {
            bad = f;
            value = *field_count(f, opaque);
            *field_count(f, opaque) = f->count;
        }
    }
    return !bad || load_fail(error, path, "%u elements of '%s' are used, it has %u", value,
                             bad->name, bad->count);
}

static bool load_record(StateReader *r, const VMStateDescription *vmsd, void *opaque, bool named,
                        const LoadPath *path, GError **error)
{
    unsigned version = state_get_u32(r);
    if (!load_check(r, path, error)) {
        return false;
    }
    if (version > vmsd->version || version < vmsd->minimum_version) {
        return load_fail(error, path, "was saved in version %u; versions %u to %u can be loaded",
                         version, vmsd->minimum_version, vmsd->version);
    }
    if (path->depth > VMSTATE_MAX_DEPTH) {
        return load_fail(error, path, "is nested too deeply");
    }
    GError *refusal = NULL;
    if (vmsd->pre_load && !vmsd->pre_load(opaque, &refusal)) {
        load_fail(error, path, "%s", refusal ? refusal->message : "cannot be loaded now");
        g_clear_error(&refusal);
        return false;
    }
    if (!load_fields(r, vmsd, opaque, version, named, path, error)) {
        load_counts_fit(vmsd, opaque, path, NULL);
        return false;
    }
    if (!load_counts_fit(vmsd, opaque, path, error)) {
        return false;
    }
    bool ok = load_subsections(r, vmsd, opaque, path, error);
    if (!load_counts_fit(vmsd, opaque, path, ok ? error : NULL) || !ok) {
        return false;
    }
    if (vmsd->post_load && !vmsd->post_load(opaque, version, &refusal)) {
        load_fail(error, path, "%s", refusal ? refusal->message : "the state is not possible");
        g_clear_error(&refusal);
        return false;
    }
    return true;
}

static bool load_description(StateReader *r, const VMStateDescription *vmsd, void *opaque,
                             const LoadPath *path, GError **error)
{
    g_autofree char *name = state_get_str(r);
    if (!name) {
        return load_check(r, path, error);
    }
    if (strcmp(name, vmsd->name) != 0) {
        return load_fail(error, path, "holds the state of '%s', not of '%s'", name, vmsd->name);
    }
    return load_record(r, vmsd, opaque, true, path, error);
}

bool vmstate_load(StateReader *r, const VMStateDescription *vmsd, void *opaque, GError **error)
{
    LoadPath path = { NULL, vmsd->name, -1, 0 };
    return load_description(r, vmsd, opaque, &path, error);
}
