/* What devices say: see device-log.h. */
#include "engine/hw/core/device-log.h"

#include <string.h>

#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

typedef struct Line {
    unsigned ref;
    DeviceLogLine pub;
    char text[];
} Line;

typedef struct DeviceLog {
    DeviceState *dev; /* not counted: the log is attached to it */
    GPtrArray *listeners;
    GQueue lines; /* of Line, oldest first */
    uint64_t total;
    BottomHalf *bh;
} DeviceLog;

struct DeviceLogListener {
    DeviceLog *log;
    uint32_t masks;
    char *text, *pause;
    bool at_once;
    uint64_t next; /* the first line that it was not asked of yet */
    DeviceLogFn fn;
    void *opaque;
};

static GHashTable *logs; /* DeviceState * -> DeviceLog * */

/* ---- lines ----------------------------------------------------------------------------------- */

static Line *line_new(DeviceLog *log, LogMask mask, const char *text)
{
    size_t size = strlen(text) + 1;
    Line *line = g_malloc(sizeof(*line) + size);

    memcpy(line->text, text, size);
    line->ref = 1;
    line->pub = (DeviceLogLine){
        .number = log->total++,
        .mask = mask,
        .time = log->dev->machine ? clock_now(log->dev->machine->clock) : 0,
        .text = line->text,
    };
    return line;
}

static void line_unref(Line *line)
{
    if (--line->ref == 0) {
        g_free(line);
    }
}

static bool listener_wants(const DeviceLogListener *l, const DeviceLogLine *line)
{
    return (!l->masks || (l->masks & (uint32_t)line->mask)) &&
           (!l->text || strstr(line->text, l->text));
}

/* A pause here is only asked for: the device is not done. */
static void pause_machine(DeviceLog *log, DeviceLogListener *l)
{
    g_autofree char *reason = g_steal_pointer(&l->pause);

    if (log->dev->machine) {
        engine_no_unlock_begin();
        machine_pause(log->dev->machine, reason);
        engine_no_unlock_end();
    }
}

static void add_line(DeviceLog *log, LogMask mask, const char *text)
{
    Line *line = line_new(log, mask, text);

    g_queue_push_tail(&log->lines, line);
    if (log->lines.length > DEVICE_LOG_KEPT) {
        line_unref(g_queue_pop_head(&log->lines));
    }
    for (guint i = 0; i < log->listeners->len; i++) {
        DeviceLogListener *l = g_ptr_array_index(log->listeners, i);

        if ((l->at_once || l->pause) && listener_wants(l, &line->pub)) {
            if (l->pause) {
                pause_machine(log, l);
            } else {
                l->fn(l->opaque, &line->pub);
            }
        }
    }
    bh_schedule(log->bh);
}

/* The device that the subject is, or is a part of. */
static void follow(LogMask mask, Object *subject, const char *text)
{
    DeviceLog *log;

    while (subject && !object_dynamic_cast(subject, TYPE_DEVICE)) {
        subject = subject->parent;
    }
    log = subject ? g_hash_table_lookup(logs, subject) : NULL;
    if (log) {
        add_line(log, mask, text);
    }
}

/* ---- telling -----------------------------------------------------------------------------------
 */

static Line *line_at(DeviceLog *log, uint64_t number)
{
    uint64_t oldest = log->total - log->lines.length;

    return g_queue_peek_nth(&log->lines, (guint)(MAX(number, oldest) - oldest));
}

/* The next line before `limit` that a listener is to be told of; NULL: no more. */
static DeviceLogListener *next_to_tell(DeviceLog *log, uint64_t limit, Line **line)
{
    for (guint i = 0; i < log->listeners->len; i++) {
        DeviceLogListener *l = g_ptr_array_index(log->listeners, i);

        while (!l->at_once && l->next < limit) {
            *line = line_at(log, l->next);
            l->next = (*line)->pub.number + 1;
            if (listener_wants(l, &(*line)->pub)) {
                return l;
            }
        }
    }
    return NULL;
}

/* What is logged meanwhile waits for the next round: a callback may cause more. */
static void deliver(void *opaque)
{
    DeviceLog *log = opaque;
    uint64_t limit = log->total;
    DeviceLogListener *l;
    Line *line;

    object_ref(log->dev);
    while ((l = next_to_tell(log, limit, &line))) {
        line->ref++;
        l->fn(l->opaque, &line->pub);
        line_unref(line);
    }
    object_unref(log->dev);
}

/* ---- following a device ------------------------------------------------------------------------
 */

/* Who listens holds the device: nobody does any more. */
static void log_free(void *opaque)
{
    DeviceLog *log = opaque;

    g_assert(!log->listeners->len);
    g_hash_table_remove(logs, log->dev);
    log_set_follower(follow, g_hash_table_size(logs));
    bh_free(log->bh);
    g_ptr_array_free(log->listeners, TRUE);
    while (log->lines.length) {
        line_unref(g_queue_pop_head(&log->lines));
    }
    g_free(log);
}

static DeviceLog *log_of_device(DeviceState *dev)
{
    DeviceLog *log;

    ENGINE_LOCK_ASSERT();
    if (!logs) {
        logs = g_hash_table_new(NULL, NULL);
    }
    log = g_hash_table_lookup(logs, dev);
    if (!log) {
        log = g_new0(DeviceLog, 1);
        log->dev = dev;
        log->listeners = g_ptr_array_new();
        g_queue_init(&log->lines);
        log->bh = bh_new(deliver, log);
        g_hash_table_insert(logs, dev, log);
        object_attach(OBJECT(dev), log, log_free);
        log_set_follower(follow, g_hash_table_size(logs));
    }
    return log;
}

uint64_t device_log_keep(DeviceState *dev)
{
    return log_of_device(dev)->total;
}

static DeviceLogListener *listener_new(DeviceState *dev, const DeviceLogFilter *filter,
                                       DeviceLogFn fn, void *opaque)
{
    DeviceLogListener *l = g_new0(DeviceLogListener, 1);

    object_ref(dev);
    l->log = log_of_device(dev);
    l->masks = filter->masks;
    l->text = g_strdup(filter->text);
    l->fn = fn;
    l->opaque = opaque;
    l->next = l->log->total;
    g_ptr_array_add(l->log->listeners, l);
    return l;
}

DeviceLogListener *device_log_listen(DeviceState *dev, const DeviceLogFilter *filter,
                                     uint64_t since, const char *pause, DeviceLogFn fn,
                                     void *opaque)
{
    DeviceLogListener *l = listener_new(dev, filter, fn, opaque);

    l->next = MIN(since, l->next);
    l->pause = g_strdup(pause);
    if (l->next < l->log->total) {
        bh_schedule(l->log->bh);
    }
    return l;
}

DeviceLogListener *device_log_record(DeviceState *dev, const DeviceLogFilter *filter,
                                     DeviceLogFn fn, void *opaque)
{
    DeviceLogListener *l = listener_new(dev, filter, fn, opaque);

    l->at_once = true;
    return l;
}

void device_log_unlisten(DeviceLogListener *listener)
{
    ENGINE_LOCK_ASSERT();
    DeviceState *dev = listener->log->dev;

    g_ptr_array_remove(listener->log->listeners, listener);
    g_free(listener->text);
    g_free(listener->pause);
    g_free(listener);
    object_unref(dev);
}
