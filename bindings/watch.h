/*
 * What scripts hold of something that an object does again and again: a watch is a Lua function
 * that is called each time, a ring keeps the last n times without a call into Lua. Chardevs and
 * screens make them; hooks of machines have their own (event.c), as their filters are C's.
 *
 * Both belong to their object, not to the handle: a watch stays armed when its handle is collected,
 * and both are disarmed when the object is gone. Engine lock throughout.
 */
#pragma once

#include "bindings/binding.h"

#include "engine/core/clock.h"

typedef struct BindingWatch BindingWatch;
struct BindingWatch {
    Object *owner; /* one reference while armed; NULL: disarmed */
    ScriptRef *fn;
    unsigned ref;    /* one while armed, one of its handle */
    const char *how; /* how it is served: static */
    uint64_t hits;
    unsigned in_call;
    bool dead; /* to be disarmed when its callback has returned */
    /* Takes it off its source; called once, with `owner` still there. */
    void (*disarm)(BindingWatch *w);
};

/* A zeroed struct of `size` bytes that begins with a BindingWatch, for the function at idx (checked
 * to be one); pushes its handle, a userdata "watch". The caller arms it. `what` names the function
 * in messages. */
void *binding_watch_new(lua_State *L, size_t size, Object *owner, int idx, const char *what,
                        const char *how, void (*disarm)(BindingWatch *w));
/* Around a call: enter counts it and pushes the function, NULL when there is none to call (nothing
 * is pushed and leave is not called); push `nargs` arguments, then leave. An error pauses the
 * machine above the owner, and is reported where there is none. Leave may free the watch. */
lua_State *binding_watch_enter(BindingWatch *w);
void binding_watch_leave(BindingWatch *w, lua_State *L, int nargs);
/* Keeps it armed from pin to unpin, whatever a callback in between does. */
void binding_watch_pin(BindingWatch *w);
void binding_watch_unpin(BindingWatch *w);
void binding_watch_gone(BindingWatch *w); /* its source is: disarms it, and may free it */

typedef struct Occurrence {
    uint64_t value;
    int64_t time;     /* of the machine */
    char *text;       /* NULL: the ring's */
    const char *mask; /* of a line of a log: static; NULL: it is none */
} Occurrence;
typedef struct OccurrenceRing OccurrenceRing;
struct OccurrenceRing {
    Object *owner; /* one reference while armed; NULL: disarmed */
    Clock *clock;  /* NULL: the owner belongs to no machine */
    const char *how;
    void *source; /* the maker's, for disarm */
    void (*disarm)(OccurrenceRing *r);
    uint64_t total;
    unsigned n;
    Occurrence list[];
};

/* Of the text at `text_idx` (a string; nil where each has its own) with the length at `n_idx`
 * (checked); pushes its handle. */
OccurrenceRing *binding_ring_new(lua_State *L, Object *owner, int text_idx, int n_idx,
                                 const char *how, void (*disarm)(OccurrenceRing *r));
void binding_ring_add(OccurrenceRing *r, uint64_t value);
/* A line of a log; the text is copied. */
void binding_ring_add_line(OccurrenceRing *r, uint64_t value, const char *text, const char *mask);
void binding_ring_gone(OccurrenceRing *r); /* its source is: keeps what it holds */

struct Chardev;
/* The function at idx becomes the outside end of a chardev-script (chardev-watch.c). */
void binding_chardev_set_script(lua_State *L, struct Chardev *chr, int idx);
