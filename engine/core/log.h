/*
 * Log masks: what `-d MASK,…` switches on and `-D FILE` redirects. One predictable branch when off.
 *
 * Guest mistakes go to LOG_GUEST, gaps in our models to LOG_UNIMP, unassigned accesses to
 * LOG_UNASSIGNED. Guest-triggered messages are rate-limited a call site (after 100 lines a second:
 * one line that counts the rest), so that a hostile guest cannot fill a disk.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    LOG_GUEST = 1 << 0,
    LOG_UNIMP = 1 << 1,
    LOG_UNASSIGNED = 1 << 2,
    LOG_EXITS = 1 << 3,
    LOG_MEMORY = 1 << 4, /* slots and flat view changes */
    LOG_CPU = 1 << 5,    /* state at reset and on errors */
    LOG_IRQ = 1 << 6,
    LOG_CHARDEV = 1 << 7,
    LOG_STATE = 1 << 8, /* snapshots */
    LOG_SCRIPT = 1 << 9,
    LOG_TRACE = 1 << 10, /* trace points */
    LOG_INT = 1 << 11,   /* what follows: the software CPU */
    LOG_IN_ASM = 1 << 12,
    LOG_EXEC = 1 << 13,
} LogMask;

typedef struct Object Object;
typedef struct LogItem {
    LogMask mask;
    const char *name;
    const char *doc;
} LogItem;
extern const LogItem log_items[]; /* ends with name NULL */

extern uint32_t log_enabled_mask; /* read-only for others; changed under the engine lock, read with
                                     relaxed atomics */
static inline bool log_enabled(LogMask mask)
{
    return G_UNLIKELY(__atomic_load_n(&log_enabled_mask, __ATOMIC_RELAXED) & (uint32_t)mask);
}

/* "guest,unimp" or "all" or "none"; unknown word: error naming it and the known ones. */
bool log_parse_mask(const char *text, uint32_t *mask, GError **error);
void log_set_mask(uint32_t mask);
/* NULL: stderr, the default, where each line starts with its mask's name; %d in the path becomes
 * the process id. On failure the log goes on where it went. */
bool log_set_file(const char *path, GError **error);
/* `-dfilter`: addresses of code that LOG_IN_ASM and LOG_EXEC show: "FIRST..LAST", "FIRST+LEN" or
 * "LAST-LEN", several with commas; NULL or "": all. Engine lock. */
bool log_set_filter(const char *text, GError **error);
bool log_filter_overlaps(uint64_t first, uint64_t last); /* any thread, lock-free */
/* Receives each line instead of the file (tests, `dev:log()` sources, the REPL); NULL removes it.
 * Called under the log's leaf lock: it may not call back into the engine. */
typedef void (*LogSink)(LogMask mask, const char *line, void *opaque);
void log_set_sink(LogSink sink, void *opaque);

typedef struct LogSite {
    int64_t window_start; /* ns, realtime */
    unsigned in_window;
    unsigned suppressed;
    struct LogSite *next; /* of those with suppressed lines */
    LogMask mask;
} LogSite;
/* Writes whatever the mask; a NULL site is never limited. Control characters are escaped. */
void log_write(LogMask mask, LogSite *site, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* A line needs no newline. Any thread. */
#define log_mask(mask, ...)                             \
    do {                                                \
        if (log_enabled(mask)) {                        \
            static LogSite log_site_;                   \
            log_write((mask), &log_site_, __VA_ARGS__); \
        }                                               \
    } while (0)
/* The same, said of an object (a device, what is below it): who follows it (hw/core/device-log.h)
 * is told too, whatever the mask, if the engine lock is held. */
void log_write_of(LogMask mask, LogSite *site, Object *subject, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
#define log_of(subject, mask, ...)                                              \
    do {                                                                        \
        if (log_enabled(mask) || log_followed()) {                              \
            static LogSite log_site_;                                           \
            log_write_of((mask), &log_site_, (Object *)(subject), __VA_ARGS__); \
        }                                                                       \
    } while (0)
/* Told of what is said of objects, without any lock of the log, under the engine lock. Set once;
 * `count` says how many objects are followed: at 0 nobody is called. Engine lock. */
typedef void (*LogFollower)(LogMask mask, Object *subject, const char *text);
void log_set_follower(LogFollower fn, unsigned count);
extern unsigned log_followed_count; /* as log_enabled_mask */
static inline bool log_followed(void)
{
    return G_UNLIKELY(__atomic_load_n(&log_followed_count, __ATOMIC_RELAXED) != 0);
}
/* Messages for the user, always shown, on stderr: "vmlua: warning: …". */
void log_warning(const char *format, ...) G_GNUC_PRINTF(1, 2);
void log_error(const char *format, ...) G_GNUC_PRINTF(1, 2);
