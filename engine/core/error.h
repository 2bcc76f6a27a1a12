/*
 * Error conventions: `bool f(…, GError **error)`; report or return, not both; nothing below main
 * exits.
 *
 * Messages name the object, the property and the value, start in lower case and end without a full
 * stop.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef enum {
    ENGINE_ERROR_INVALID,     /* wrong argument or combination */
    ENGINE_ERROR_UNSUPPORTED, /* this host, accelerator or machine cannot: names the missing
                                 capability */
    ENGINE_ERROR_BUSY,        /* wrong moment: running, locked, in a callback */
    ENGINE_ERROR_IO,          /* the outside world; errno's text is in the message */
    ENGINE_ERROR_CORRUPT,     /* a stream or image */
    ENGINE_ERROR_GONE,        /* the object was closed */
    ENGINE_ERROR_SCRIPT,      /* an error raised in a script */
    ENGINE_ERROR_LIMIT,
} EngineError;
#define ENGINE_ERROR (engine_error_quark())
GQuark engine_error_quark(void);

/* Sets `error` from errno: "PREFIX: strerror". Always returns false, so that `return
 * error_set_errno(…)` reads well. */
bool error_set_errno(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
bool error_set(GError **error, EngineError code, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The entry of `words` (NULL-terminated) nearest to `word` by edit distance, or NULL when none is
 * near. */
const char *nearest_word(const char *word, const char *const *words);
