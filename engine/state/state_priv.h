/* What vmstate.c needs of a stream beyond its public face. */
#pragma once

#include "engine/state/stream.h"

/* A u32 that is filled in later with the number of bytes after it. */
size_t state_length_begin(StateWriter *w);
void state_length_end(StateWriter *w, size_t at);

/* Confines the getters to the next `len` bytes; leave fails when some were not read. */
typedef struct StateWindow {
    size_t outer_end;
} StateWindow;
bool state_window_enter(StateReader *r, size_t len, StateWindow *window);
void state_window_leave(StateReader *r, const StateWindow *window);

/* Makes r fail with this message unless it already did. */
void state_reader_fail(StateReader *r, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* A borrowed view of the next len bytes, NULL on failure. */
const uint8_t *state_get_view(StateReader *r, size_t len);
uint8_t *state_put_space(StateWriter *w, size_t len);
