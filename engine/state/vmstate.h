/*
 * Saved state: every device and vCPU declares a table of fields the day it is written.
 *
 * A VMStateDescription has a name, a version and fields; a subsection is written only when its
 * `needed` says so, and may be absent when read: what it holds then stays as it is, so pre_load of
 * the description above it sets the defaults. Values are little-endian in the stream, whatever the
 * host. Older versions down to minimum_version load.
 *
 * Names and kinds of fields are in the stream (once an array of structs), in the order of the
 * table: a table that changed without a new version is an error that names the field.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct VMStateDescription VMStateDescription;
typedef struct VMStateField VMStateField;
typedef struct StateWriter StateWriter; /* state/stream.h */
typedef struct StateReader StateReader;

typedef enum {
    VMS_BOOL,
    VMS_U8,
    VMS_U16,
    VMS_U32,
    VMS_U64,
    VMS_S8,
    VMS_S16,
    VMS_S32,
    VMS_S64,
    VMS_DOUBLE,
    VMS_BYTES,  /* size bytes as they are */
    VMS_STRUCT, /* described by vmsd */
    VMS_TIMER,  /* a Timer: its expiry, armed again after load */
    VMS_CUSTOM, /* put and get */
} VMStateKind;

struct VMStateField {
    const char *name;
    VMStateKind kind;
    size_t offset;
    size_t size;            /* of one element (VMS_BYTES: length) */
    unsigned count;         /* elements of an array; 0 means 1 */
    ptrdiff_t count_offset; /* of a uint32_t that says how many of `count` are used; -1: all. Load
                               sets it, and refuses more than count, in whatever order it comes */
    bool pointer;           /* the field is a pointer to the data; NULL is saved as such, and loads
                               only where it is NULL */
    unsigned since;         /* version in which it appeared; 0: always */
    const VMStateDescription *vmsd;
    bool (*exists)(const void *opaque, unsigned version); /* asked in save and load; a stream in
                                                             which it was otherwise is refused */
    void (*put)(StateWriter *w, const void *field, const VMStateField *f);
    bool (*get)(StateReader *r, void *field, const VMStateField *f, GError **error);
};

struct VMStateDescription {
    const char *name;
    unsigned version, minimum_version;
    void (*pre_save)(void *opaque); /* bring fields up to date */
    bool (*pre_load)(void *opaque, GError **error);
    bool (*post_load)(
        void *opaque, unsigned version,
        GError **error); /* check what a hostile stream may hold; re-derive the rest */
    bool (*needed)(const void *opaque);           /* subsections only */
    const VMStateField *fields;                   /* ends with name NULL */
    const VMStateDescription *const *subsections; /* ends with NULL; may be NULL */
};

#define VMSTATE_F_(_f, _S, _kind, ...)                                                           \
    {                                                                                            \
        .name = #_f, .kind = (_kind), .offset = offsetof(_S, _f), .size = sizeof(((_S *)0)->_f), \
        .count_offset = -1, ##__VA_ARGS__                                                        \
    }
#define VMSTATE_BOOL(f, S)   VMSTATE_F_(f, S, VMS_BOOL)
#define VMSTATE_UINT8(f, S)  VMSTATE_F_(f, S, VMS_U8)
#define VMSTATE_UINT16(f, S) VMSTATE_F_(f, S, VMS_U16)
#define VMSTATE_UINT32(f, S) VMSTATE_F_(f, S, VMS_U32)
#define VMSTATE_UINT64(f, S) VMSTATE_F_(f, S, VMS_U64)
#define VMSTATE_INT32(f, S)  VMSTATE_F_(f, S, VMS_S32)
#define VMSTATE_INT64(f, S)  VMSTATE_F_(f, S, VMS_S64)
#define VMSTATE_TIMER(f, S)  VMSTATE_F_(f, S, VMS_TIMER)
#define VMSTATE_BYTES(f, S)  VMSTATE_F_(f, S, VMS_BYTES) /* a fixed array of bytes */
#define VMSTATE_ARRAY_(f, S, k)                                                            \
    {                                                                                      \
        .name = #f, .kind = (k), .offset = offsetof(S, f), .size = sizeof(((S *)0)->f[0]), \
        .count = G_N_ELEMENTS(((S *)0)->f), .count_offset = -1                             \
    }
#define VMSTATE_UINT8_ARRAY(f, S)  VMSTATE_ARRAY_(f, S, VMS_U8)
#define VMSTATE_UINT16_ARRAY(f, S) VMSTATE_ARRAY_(f, S, VMS_U16)
#define VMSTATE_UINT32_ARRAY(f, S) VMSTATE_ARRAY_(f, S, VMS_U32)
#define VMSTATE_UINT64_ARRAY(f, S) VMSTATE_ARRAY_(f, S, VMS_U64)
#define VMSTATE_STRUCT(f, S, d)    VMSTATE_F_(f, S, VMS_STRUCT, .vmsd = &(d))
#define VMSTATE_STRUCT_ARRAY(f, S, d)                                                             \
    {                                                                                             \
        .name = #f, .kind = VMS_STRUCT, .offset = offsetof(S, f), .size = sizeof(((S *)0)->f[0]), \
        .count = G_N_ELEMENTS(((S *)0)->f), .count_offset = -1, .vmsd = &(d)                      \
    }
/* The first *_n (a uint32_t member) elements of an array. */
#define VMSTATE_VARRAY_(f, S, k, _n)                                                       \
    {                                                                                      \
        .name = #f, .kind = (k), .offset = offsetof(S, f), .size = sizeof(((S *)0)->f[0]), \
        .count = G_N_ELEMENTS(((S *)0)->f), .count_offset = offsetof(S, _n)                \
    }
#define VMSTATE_UINT8_VARRAY(f, S, n)  VMSTATE_VARRAY_(f, S, VMS_U8, n)
#define VMSTATE_UINT32_VARRAY(f, S, n) VMSTATE_VARRAY_(f, S, VMS_U32, n)
#define VMSTATE_UINT64_VARRAY(f, S, n) VMSTATE_VARRAY_(f, S, VMS_U64, n)
/* A member that is a pointer to _size bytes, allocated before load. */
#define VMSTATE_BUFFER(f, S, _size)                                               \
    {                                                                             \
        .name = #f, .kind = VMS_BYTES, .offset = offsetof(S, f), .size = (_size), \
        .count_offset = -1, .pointer = true                                       \
    }
#define VMSTATE_STRUCT_POINTER(f, S, d)                                                         \
    {                                                                                           \
        .name = #f, .kind = VMS_STRUCT, .offset = offsetof(S, f), .size = sizeof(*((S *)0)->f), \
        .count_offset = -1, .pointer = true, .vmsd = &(d)                                       \
    }
#define VMSTATE_END() \
    {                 \
        .name = NULL  \
    }

/* Writes / reads one description, with its name, version and subsections, inside a section of the
 * stream. Engine lock (timers). After a failed load the object's state is undefined, but within the
 * bounds that the table gives: the caller resets it or refuses the machine. */
void vmstate_save(StateWriter *w, const VMStateDescription *vmsd, void *opaque);
bool vmstate_load(StateReader *r, const VMStateDescription *vmsd, void *opaque, GError **error);
/* Calls fn for each scalar of the description, arrays element by element: name path
 * ("fifo.data[3]"), kind, address. For dev.state in scripts and for naming what differs in tests.
 * pre_save is called first; subsections that are needed follow under their names; VMS_CUSTOM is
 * left out. `path` lives for the call.
 */
void vmstate_foreach_scalar(const VMStateDescription *vmsd, void *opaque,
                            void (*fn)(const char *path, VMStateKind kind, void *field, size_t size,
                                       void *data),
                            void *data);
