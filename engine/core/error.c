/* Error conventions. */
#include "engine/core/error.h"

#include <errno.h>
#include <string.h>

GQuark engine_error_quark(void)
{
    return g_quark_from_static_string("vmlua-engine-error");
}

bool error_set(GError **error, EngineError code, const char *format, ...)
{
    if (error) {
        va_list ap;
        va_start(ap, format);
        g_propagate_error(error, g_error_new_valist(ENGINE_ERROR, code, format, ap));
        va_end(ap);
    }
    return false;
}

bool error_set_errno(GError **error, const char *format, ...)
{
    int saved = errno;
    if (error) {
        va_list ap;
        va_start(ap, format);
        g_autofree char *prefix = g_strdup_vprintf(format, ap);
        va_end(ap);
        g_set_error(error, ENGINE_ERROR, ENGINE_ERROR_IO, "%s: %s", prefix, g_strerror(saved));
    }
    errno = saved;
    return false;
}

/* Words that people type are short; longer ones are compared by their beginning. */
#define WORD_MAX 64

#define EDIT 8 /* cost of one edit; a difference of case or of separator costs 1 */

/* Edits that turn a into b: insert, delete or change a character, or swap two neighbours. */
static unsigned edit_distance(const char *a, size_t na, const char *b, size_t nb)
{
    unsigned rows[3][WORD_MAX + 1];
    unsigned *before = rows[0], *last = rows[1], *now = rows[2];

    for (size_t j = 0; j <= nb; j++) {
        last[j] = (unsigned)j * EDIT;
        before[j] = 0;
    }
    for (size_t i = 1; i <= na; i++) {
        now[0] = (unsigned)i * EDIT;
        for (size_t j = 1; j <= nb; j++) {
            char ca = a[i - 1], cb = b[j - 1];
            bool alike = g_ascii_tolower(ca) == g_ascii_tolower(cb) ||
                         (strchr("-_.", ca) && strchr("-_.", cb));
            unsigned best = last[j - 1] + (ca == cb ? 0 : alike ? 1 : EDIT);
            best = MIN(best, last[j] + EDIT);
            best = MIN(best, now[j - 1] + EDIT);
            if (i > 1 && j > 1 && ca == b[j - 2] && a[i - 2] == cb) {
                best = MIN(best, before[j - 2] + EDIT);
            }
            now[j] = best;
        }
        unsigned *free_row = before;
        before = last;
        last = now;
        now = free_row;
    }
    return last[nb];
}

const char *nearest_word(const char *word, const char *const *words)
{
    size_t n = MIN(strlen(word), WORD_MAX);
    const char *best = NULL;
    unsigned best_score = UINT_MAX;

    for (; n && *words; words++) {
        size_t m = MIN(strlen(*words), WORD_MAX);
        unsigned score = edit_distance(word, n, *words, m);
        /* A beginning of the word is near, however much is missing. */
        if (n >= 3 && n < m && g_ascii_strncasecmp(word, *words, n) == 0) {
            score = MIN(score, EDIT + 1);
        }
        /* At most a third of the letters may differ, and one is always allowed to. */
        if (score <= MAX(EDIT, EDIT * (unsigned)MAX(n, m) / 3) && score < best_score &&
            score < EDIT * m) {
            best = *words;
            best_score = score;
        }
    }
    return best;
}
