/* The event that a hook's callback sees: event-object.c. */
#pragma once

#include "bindings/binding-priv.h"

typedef struct EventBox {
    const void *magic;   /* tells it from other userdata with one compare; private */
    EventRecord *record; /* NULL: no callback is running */
    VCpu *cpu;
} EventBox;

/* Pushes this thread's event object, or a new one while that is in use. The caller fills it in, and
 * empties it when the callback has returned. */
EventBox *event_object_push(lua_State *L);
/* Pushes a field that only events of vm:mem have; false: there is none of that name. */
bool event_push_memory_field(lua_State *L, const EventRecord *r, const char *key);
void event_object_open(lua_State *L);
