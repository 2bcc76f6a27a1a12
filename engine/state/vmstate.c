/*
 * Saved state by tables of fields.
 *
 * In the stream, a description is a str name and a record; a record is
 *   u32 version
 *   per field  u8 1 + kind, u8 length + name, value
 *   end        u8 0
 *   subsection u8 1, u32 length, description   (repeated)
 *   end        u8 0
 * From the second element of an array of structs on, records stand without the description's name,
 * the fields' kinds and names, and the first end mark. A value is
 *   u8 present (fields with `exists` or `pointer`), u32 count (arrays), u32 size (VMS_BYTES) or
 *   length (VMS_CUSTOM), elements.
 */
#include "engine/state/vmstate.h"

#include <string.h>

#include "engine/core/clock.h"
#include "engine/core/error.h"
#include "engine/state/state_priv.h"
#include "engine/state/vmstate-priv.h"

const VMStateKindInfo vmstate_kinds[VMSTATE_KINDS] = {
    [VMS_BOOL] = { "bool", 1 },     [VMS_U8] = { "uint8", 1 },   [VMS_U16] = { "uint16", 2 },
    [VMS_U32] = { "uint32", 4 },    [VMS_U64] = { "uint64", 8 }, [VMS_S8] = { "int8", 1 },
    [VMS_S16] = { "int16", 2 },     [VMS_S32] = { "int32", 4 },  [VMS_S64] = { "int64", 8 },
    [VMS_DOUBLE] = { "double", 8 }, [VMS_BYTES] = { "bytes" },   [VMS_STRUCT] = { "struct" },
    [VMS_TIMER] = { "timer" },      [VMS_CUSTOM] = { "custom" },
};

/* ---- save ----------------------------------------------------------------------------------- */

static void save_description(StateWriter *w, const VMStateDescription *vmsd, void *opaque);
static void save_record(StateWriter *w, const VMStateDescription *vmsd, void *opaque, bool named);

static void save_name(StateWriter *w, const VMStateField *f)
{
    size_t len = strlen(f->name);
    g_assert(len <= UINT8_MAX);
    uint8_t *p = state_put_space(w, 2 + len);
    p[0] = (uint8_t)(1 + f->kind);
    p[1] = (uint8_t)len;
    memcpy(p + 2, f->name, len);
}

static void save_number(StateWriter *w, const void *field, unsigned width)
{
    switch (width) {
    case 2:
        state_put_u16(w, *(const uint16_t *)field);
        break;
    case 4:
        state_put_u32(w, *(const uint32_t *)field);
        break;
    default:
        state_put_u64(w, *(const uint64_t *)field);
        break;
    }
}

static void save_element(StateWriter *w, const VMStateField *f, void *field, bool named)
{
    switch (f->kind) {
    case VMS_STRUCT:
        if (named) {
            save_description(w, f->vmsd, field);
        } else {
            save_record(w, f->vmsd, field, false);
        }
        break;
    case VMS_TIMER:
        state_put_u64(w, (uint64_t)((const Timer *)field)->expire);
        break;
    case VMS_CUSTOM: {
        size_t at = state_length_begin(w);
        f->put(w, field, f);
        state_length_end(w, at);
        break;
    }
    default:
        save_number(w, field, vmstate_kinds[f->kind].width);
        break;
    }
}

static void save_field(StateWriter *w, const VMStateDescription *vmsd, const VMStateField *f,
                       void *opaque, bool named)
{
    g_assert(!vmstate_kinds[f->kind].width || f->size == vmstate_kinds[f->kind].width);
    if (named) {
        save_name(w, f);
    }
    char *data = field_data(f, opaque);
    if (field_is_optional(f)) {
        bool present = data && (!f->exists || f->exists(opaque, vmsd->version));
        state_put_u8(w, present);
        if (!present) {
            return;
        }
    }
    unsigned n = field_elements(f, opaque);
    if (field_is_array(f)) {
        state_put_u32(w, n);
    }
    if (f->kind == VMS_BYTES) {
        state_put_u32(w, (uint32_t)f->size);
    }
    if (elements_are_plain(f)) {
        state_put_bytes(w, data, n * f->size);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        save_element(w, f, data + i * f->size, named && i == 0);
    }
}

static void save_record(StateWriter *w, const VMStateDescription *vmsd, void *opaque, bool named)
{
    if (vmsd->pre_save) {
        vmsd->pre_save(opaque);
    }
    state_put_u32(w, vmsd->version);
    for (const VMStateField *f = vmsd->fields; f && f->name; f++) {
        save_field(w, vmsd, f, opaque, named);
    }
    if (named) {
        state_put_u8(w, 0);
    }
    for (const VMStateDescription *const *sub = vmsd->subsections; sub && *sub; sub++) {
        if (!(*sub)->needed || (*sub)->needed(opaque)) {
            state_put_u8(w, 1);
            size_t at = state_length_begin(w);
            save_description(w, *sub, opaque);
            state_length_end(w, at);
        }
    }
    state_put_u8(w, 0);
}

static void save_description(StateWriter *w, const VMStateDescription *vmsd, void *opaque)
{
    state_put_str(w, vmsd->name);
    save_record(w, vmsd, opaque, true);
}

void vmstate_save(StateWriter *w, const VMStateDescription *vmsd, void *opaque)
{
    save_description(w, vmsd, opaque);
}

/* ---- looking at fields ------------------------------------------------------------------------
 */

typedef struct Walk {
    void (*fn)(const char *path, VMStateKind kind, void *field, size_t size, void *data);
    void *data;
    GString *path;
} Walk;

static void walk_description(Walk *walk, const VMStateDescription *vmsd, void *opaque,
                             unsigned depth);

static void walk_field(Walk *walk, const VMStateDescription *vmsd, const VMStateField *f,
                       void *opaque, unsigned depth)
{
    char *data = field_data(f, opaque);
    if (!data || f->kind == VMS_CUSTOM || (f->exists && !f->exists(opaque, vmsd->version))) {
        return;
    }
    size_t name_end = walk->path->len;
    g_string_append(walk->path, f->name);
    size_t index_start = walk->path->len;
    unsigned n = field_elements(f, opaque);
    for (unsigned i = 0; i < n; i++) {
        void *field = data + i * f->size;
        if (field_is_array(f)) {
            g_string_truncate(walk->path, index_start);
            g_string_append_printf(walk->path, "[%u]", i);
        }
        if (f->kind != VMS_STRUCT) {
            walk->fn(walk->path->str, f->kind, field, f->size, walk->data);
        } else if (depth < VMSTATE_MAX_DEPTH) {
            size_t dot = walk->path->len;
            g_string_append_c(walk->path, '.');
            walk_description(walk, f->vmsd, field, depth + 1);
            g_string_truncate(walk->path, dot);
        }
    }
    g_string_truncate(walk->path, name_end);
}

static void walk_description(Walk *walk, const VMStateDescription *vmsd, void *opaque,
                             unsigned depth)
{
    if (vmsd->pre_save) {
        vmsd->pre_save(opaque);
    }
    for (const VMStateField *f = vmsd->fields; f && f->name; f++) {
        walk_field(walk, vmsd, f, opaque, depth);
    }
    for (const VMStateDescription *const *sub = vmsd->subsections; sub && *sub; sub++) {
        if (depth < VMSTATE_MAX_DEPTH && (!(*sub)->needed || (*sub)->needed(opaque))) {
            size_t start = walk->path->len;
            g_string_append_printf(walk->path, "%s.", (*sub)->name);
            walk_description(walk, *sub, opaque, depth + 1);
            g_string_truncate(walk->path, start);
        }
    }
}

void vmstate_foreach_scalar(const VMStateDescription *vmsd, void *opaque,
                            void (*fn)(const char *path, VMStateKind kind, void *field, size_t size,
                                       void *data),
                            void *data)
{
    Walk walk = { fn, data, g_string_new(NULL) };
    walk_description(&walk, vmsd, opaque, 0);
    g_string_free(walk.path, TRUE);
}
