/* What saving and loading by tables share: vmstate.c and vmstate-load.c. */
#pragma once

#include "engine/state/vmstate.h"

#define VMSTATE_MAX_DEPTH 16 /* of structs in structs */

typedef struct VMStateKindInfo {
    const char *name;
    uint8_t width; /* in struct and stream; 0: it depends */
} VMStateKindInfo;
#define VMSTATE_KINDS (VMS_CUSTOM + 1)
extern const VMStateKindInfo vmstate_kinds[VMSTATE_KINDS];

static inline const char *kind_name(unsigned kind)
{
    return kind < VMSTATE_KINDS ? vmstate_kinds[kind].name : "unknown";
}

static inline bool field_is_array(const VMStateField *f)
{
    return f->count > 0;
}

static inline bool field_is_optional(const VMStateField *f)
{
    return f->exists || f->pointer;
}

static inline uint32_t *field_count(const VMStateField *f, void *opaque)
{
    return (uint32_t *)(void *)((char *)opaque + f->count_offset);
}

/* Where the elements are; NULL: a pointer that points nowhere. */
static inline void *field_data(const VMStateField *f, void *opaque)
{
    void *p = (char *)opaque + f->offset;
    return f->pointer ? *(void **)p : p;
}

static inline unsigned field_elements(const VMStateField *f, void *opaque)
{
    if (!field_is_array(f)) {
        return 1;
    }
    return f->count_offset < 0 ? f->count : MIN(*field_count(f, opaque), f->count);
}

/* On a little-endian host an array of numbers is in memory as it is in the stream. */
static inline bool elements_are_plain(const VMStateField *f)
{
    return f->kind == VMS_BYTES || vmstate_kinds[f->kind].width == 1 ||
           (G_BYTE_ORDER == G_LITTLE_ENDIAN && vmstate_kinds[f->kind].width);
}
