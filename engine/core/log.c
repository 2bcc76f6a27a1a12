/* The log: masks, where lines go, and how many a guest may cause. */
#include "engine/core/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/core_priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/trace.h"
#include "engine/core/units.h"

#define LINES_A_SECOND 100
#define LOG_LIMITED    (LOG_GUEST | LOG_UNIMP | LOG_UNASSIGNED)

const LogItem log_items[] = {
    { LOG_GUEST, "guest", "mistakes of the guest: bad register values, impossible requests" },
    { LOG_UNIMP, "unimp", "what the guest asked for and a model does not do" },
    { LOG_UNASSIGNED, "unassigned", "accesses to ports and addresses where nothing is" },
    { LOG_EXITS, "exits", "every exit of every vCPU" },
    { LOG_MEMORY, "memory", "changes of memory slots and flat views" },
    { LOG_CPU, "cpu", "vCPU state at reset and at errors; registers with int and exec" },
    { LOG_IRQ, "irq", "interrupt lines" },
    { LOG_CHARDEV, "chardev", "character back ends: connections, errors" },
    { LOG_STATE, "state", "saving and restoring" },
    { LOG_SCRIPT, "script", "what scripts log" },
    { LOG_TRACE, "trace", "trace points that are switched on" },
    { LOG_INT, "int", "interrupts and exceptions that the software CPU delivers" },
    { LOG_IN_ASM, "in_asm", "each block of code that the software CPU decodes, disassembled" },
    { LOG_EXEC, "exec", "each block that the software CPU executes" },
    { 0, NULL, NULL },
};

uint32_t log_enabled_mask;
unsigned log_followed_count;
static LogFollower log_follower;

/* A leaf lock over everything below. */
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = STDERR_FILENO;
static LogSink log_sink;
static void *log_sink_opaque;
static LogSite *log_suppressed;
static int64_t log_epoch;

void log_start_time(void)
{
    log_epoch = monotonic_ns();
}

static const char *log_mask_name(LogMask mask)
{
    for (const LogItem *item = log_items; item->name; item++) {
        if (item->mask == mask) {
            return item->name;
        }
    }
    return "log";
}

bool log_parse_mask(const char *text, uint32_t *mask, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);
    uint32_t sum = 0;

    for (char **w = words; *w; w++) {
        const LogItem *item = log_items;
        while (item->name && strcmp(item->name, *w) != 0) {
            item++;
        }
        if (item->name) {
            sum |= item->mask;
        } else if (strcmp(*w, "all") == 0) {
            for (item = log_items; item->name; item++) {
                sum |= item->mask;
            }
        } else if (strcmp(*w, "none") != 0) {
            g_autoptr(GString) known = g_string_new("all none");
            for (item = log_items; item->name; item++) {
                g_string_append_printf(known, " %s", item->name);
            }
            return error_set(error, ENGINE_ERROR_INVALID, "unknown log item '%s' (known: %s)", *w,
                             known->str);
        }
    }
    if (!words[0]) {
        return error_set(error, ENGINE_ERROR_INVALID, "no log item named");
    }
    *mask = sum;
    return true;
}

void log_set_mask(uint32_t mask)
{
    __atomic_store_n(&log_enabled_mask, mask, __ATOMIC_RELAXED);
}

bool log_set_file(const char *path, GError **error)
{
    int fd = STDERR_FILENO;
    if (path) {
        g_auto(GStrv) parts = g_strsplit(path, "%d", -1);
        char pid[16];
        g_snprintf(pid, sizeof(pid), "%d", (int)getpid());
        g_autofree char *full = g_strjoinv(pid, parts);
        fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0) {
            return error_set_errno(error, "log file '%s'", full);
        }
    }
    pthread_mutex_lock(&log_mutex);
    int old = log_fd;
    log_fd = fd;
    pthread_mutex_unlock(&log_mutex);
    if (old != STDERR_FILENO) {
        close(old);
    }
    return true;
}

void log_set_sink(LogSink sink, void *opaque)
{
    pthread_mutex_lock(&log_mutex);
    log_sink = sink;
    log_sink_opaque = opaque;
    pthread_mutex_unlock(&log_mutex);
}

/* ---- address filter ------------------------------------------------------------------------ */

typedef struct LogFilter {
    unsigned n;
    struct {
        uint64_t first, last;
    } ranges[];
} LogFilter;
static LogFilter *log_filter;        /* atomic */
static GSList *log_filters_replaced; /* readers may still look at them; engine lock */

static bool filter_range(const char *text, uint64_t *first, uint64_t *last)
{
    char *end;
    uint64_t a, b;

    a = g_ascii_strtoull(text, &end, 0);
    if (end == text || (strncmp(end, "..", 2) != 0 && *end != '+' && *end != '-')) {
        return false;
    }
    const char *op = end, *rest = end + (*op == '.' ? 2 : 1);
    b = g_ascii_strtoull(rest, &end, 0);
    if (end == rest || *end) {
        return false;
    }
    switch (*op) {
    case '.':
        *first = a;
        *last = b;
        return a <= b;
    case '+':
        *first = a;
        return b > 0 && !__builtin_add_overflow(a, b - 1, last);
    default:
        *last = a;
        return b > 0 && !__builtin_sub_overflow(a, b - 1, first);
    }
}

bool log_set_filter(const char *text, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text ? text : "", ",", -1);
    unsigned n = g_strv_length(words);
    g_autofree LogFilter *f = n ? g_malloc0(sizeof(*f) + n * sizeof(f->ranges[0])) : NULL;

    for (unsigned i = 0; i < n; i++) {
        if (!filter_range(words[i], &f->ranges[i].first, &f->ranges[i].last)) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "'%s' is no range of addresses (FIRST..LAST, FIRST+LEN, LAST-LEN)",
                             words[i]);
        }
        f->n++;
    }
    if (log_filter) {
        log_filters_replaced = g_slist_prepend(log_filters_replaced, log_filter);
    }
    __atomic_store_n(&log_filter, g_steal_pointer(&f), __ATOMIC_RELEASE);
    return true;
}

bool log_filter_overlaps(uint64_t first, uint64_t last)
{
    const LogFilter *f = __atomic_load_n(&log_filter, __ATOMIC_ACQUIRE);

    for (unsigned i = 0; f && i < f->n; i++) {
        if (f->ranges[i].first <= last && first <= f->ranges[i].last) {
            return true;
        }
    }
    return !f;
}

static void log_write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return; /* a full disk may not stop a machine */
        }
        data += n;
        len -= (size_t)n;
    }
}

/* What a guest put into a message may neither break the line nor talk to the terminal. */
static void log_append_escaped(GString *line, const char *text, bool keep_newlines)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == '\n' && p[1] == '\0') {
            break;
        }
        if ((*p >= 0x20 && *p != 0x7f) || *p == '\t' || (*p == '\n' && keep_newlines)) {
            g_string_append_c(line, (char)*p);
        } else if (*p == '\n') {
            g_string_append(line, "\\n");
        } else {
            g_string_append_printf(line, "\\x%02x", *p);
        }
    }
}

static void log_emit_locked(LogMask mask, const char *text)
{
    g_autoptr(GString) line = g_string_sized_new(160);
    if (log_sink) {
        log_append_escaped(line, text, false);
        log_sink(mask, line->str, log_sink_opaque);
        return;
    }
    g_string_append_printf(line, "%s: ", log_mask_name(mask));
    log_append_escaped(line, text, false);
    g_string_append_c(line, '\n');
    log_write_all(log_fd, line->str, line->len);
}

static void log_count_suppressed_locked(LogSite *site)
{
    if (site->suppressed) {
        char text[64];
        g_snprintf(text, sizeof(text), "(%u more lines like the above)", site->suppressed);
        log_emit_locked(site->mask, text);
        site->suppressed = 0;
        LogSite **p = &log_suppressed;
        while (*p != site) {
            p = &(*p)->next;
        }
        *p = site->next;
    }
}

void log_flush_suppressed(void)
{
    pthread_mutex_lock(&log_mutex);
    while (log_suppressed) {
        log_count_suppressed_locked(log_suppressed);
    }
    pthread_mutex_unlock(&log_mutex);
}

static bool log_site_allows_locked(LogSite *site, LogMask mask)
{
    int64_t now = monotonic_ns();
    if (now - site->window_start >= NS_PER_SEC || site->window_start == 0) {
        log_count_suppressed_locked(site);
        site->window_start = now;
        site->in_window = 0;
    }
    if (site->in_window < LINES_A_SECOND) {
        site->in_window++;
        return true;
    }
    if (site->suppressed++ == 0) {
        site->mask = mask;
        site->next = log_suppressed;
        log_suppressed = site;
    }
    return false;
}

static bool log_allows(LogMask mask, LogSite *site)
{
    if (!site || !(mask & LOG_LIMITED)) {
        return true;
    }
    pthread_mutex_lock(&log_mutex);
    bool allowed = log_site_allows_locked(site, mask);
    pthread_mutex_unlock(&log_mutex);
    return allowed;
}

static void log_emit(LogMask mask, const char *text)
{
    pthread_mutex_lock(&log_mutex);
    log_emit_locked(mask, text);
    pthread_mutex_unlock(&log_mutex);
}

void log_write(LogMask mask, LogSite *site, const char *format, ...)
{
    if (!log_allows(mask, site)) {
        return;
    }
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    log_emit(mask, text);
}

/* ---- what is said of objects --------------------------------------------------------------- */

void log_set_follower(LogFollower fn, unsigned count)
{
    ENGINE_LOCK_ASSERT();
    log_follower = fn;
    __atomic_store_n(&log_followed_count, count, __ATOMIC_RELAXED);
}

void log_write_of(LogMask mask, LogSite *site, Object *subject, const char *format, ...)
{
    bool follow = subject && log_followed() && engine_lock_held();
    bool show = log_enabled(mask) && log_allows(mask, site);
    if (!follow && !show) {
        return;
    }
    va_list ap;
    va_start(ap, format);
    g_autofree char *text = g_strdup_vprintf(format, ap);
    va_end(ap);
    if (follow) {
        log_follower(mask, subject, text);
    }
    if (show) {
        log_emit(mask, text);
    }
}

/* ---- messages for the user ------------------------------------------------------------------ */

static G_GNUC_PRINTF(2, 0) void log_tell(const char *what, const char *format, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(format, ap);
    g_autoptr(GString) line = g_string_new("vmlua: ");
    g_string_append(line, what);
    log_append_escaped(line, text, true);
    g_string_append_c(line, '\n');
    log_write_all(STDERR_FILENO, line->str, line->len);
}

void log_warning(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    log_tell("warning: ", format, ap);
    va_end(ap);
}

void log_error(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    log_tell("", format, ap);
    va_end(ap);
}

/* ---- trace points write here too ---------------------------------------------------------- */

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* checked by TRACE */
void trace_emit(TracePoint *point, ...)
{
    static __thread int thread_id;
    if (!thread_id) {
        thread_id = gettid();
    }
    __atomic_add_fetch(&point->hits, 1, __ATOMIC_RELAXED);
    int64_t us = (monotonic_ns() - log_epoch) / 1000;
    va_list ap;
    va_start(ap, point);
    g_autofree char *text = g_strdup_vprintf(point->format, ap);
    va_end(ap);
    log_write(LOG_TRACE, NULL, "%" PRId64 ".%06d [%d] %s: %s", us / 1000000, (int)(us % 1000000),
              thread_id, point->name, text);
}
#pragma GCC diagnostic pop
