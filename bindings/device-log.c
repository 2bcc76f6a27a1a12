/*
 * Scripts that follow what a device says of its guest. The source `dev:log()` is made of _log_watch
 * and _log_ring by scripts/vmlua/event.lua; `dev:log(mask, text)` says something in its name.
 */
#include "engine/hw/core/device-log.h"

#include "bindings/device-script.h"
#include "bindings/watch.h"

#define HOW "lines of its log"

static const char *mask_name(LogMask mask)
{
    const LogItem *item = log_items;

    while (item->name && !(item->mask & mask)) {
        item++;
    }
    return item->name ? item->name : "log";
}

static uint32_t check_masks(lua_State *L, int arg)
{
    const char *text = luaL_optstring(L, arg, NULL);
    uint32_t masks = 0;
    GError *error = NULL;

    if (text && !log_parse_mask(text, &masks, &error)) {
        binding_raise(L, error);
    }
    luaL_argcheck(L, !text || masks, arg, "no mask: nothing would ever match");
    return masks;
}

/* Masks at 2, text at 3; the text stays on the stack. */
static DeviceLogFilter check_filter(lua_State *L)
{
    return (DeviceLogFilter){ check_masks(L, 2), luaL_optstring(L, 3, NULL) };
}

/* ---- saying -----------------------------------------------------------------------------------
 */

/* dev:_log([mask,] text) */
static int device_log(lua_State *L)
{
    static LogSite site;
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const bool with_mask = !lua_isnoneornil(L, 3);
    const char *text = luaL_checkstring(L, with_mask ? 3 : 2);
    const LogMask mask = with_mask ? (LogMask)check_masks(L, 2) : LOG_SCRIPT;

    if (log_enabled(mask) || log_followed()) {
        log_write_of(mask, &site, (Object *)dev, "%s: %s", object_get_name((Object *)dev), text);
    }
    return 0;
}

/* ---- following --------------------------------------------------------------------------------
 */

typedef struct LogWatch {
    BindingWatch watch; /* first */
    DeviceLogListener *source;
} LogWatch;

static void device_gone(Object *obj, void *opaque)
{
    binding_watch_gone(opaque);
}

static void watch_disarm(BindingWatch *w)
{
    object_remove_destroy_notify(w->owner, device_gone, w);
    device_log_unlisten(((LogWatch *)w)->source);
}

static void on_line(void *opaque, const DeviceLogLine *line)
{
    BindingWatch *w = opaque;
    lua_State *L = binding_watch_enter(w);
    if (L) {
        lua_pushstring(L, mask_name(line->mask));
        lua_pushstring(L, line->text);
        lua_pushinteger(L, (lua_Integer)line->number);
        lua_pushinteger(L, line->time);
        binding_watch_leave(w, L, 4);
    }
}

/* dev:_log_watch(masks, text, fn, since, pause) */
static int log_watch(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const DeviceLogFilter filter = check_filter(L);
    const uint64_t since = lua_isnoneornil(L, 5) ? UINT64_MAX : binding_check_u64(L, 5, "since");
    const char *pause = luaL_optstring(L, 6, NULL);
    LogWatch *w = binding_watch_new(L, sizeof *w, (Object *)dev, 4, "device log", HOW,
                                    watch_disarm);

    w->source = device_log_listen(dev, &filter, since, pause, on_line, w);
    object_add_destroy_notify((Object *)dev, device_gone, w);
    return 1;
}

static void ring_device_gone(Object *obj, void *opaque)
{
    binding_ring_gone(opaque);
}

static void ring_disarm(OccurrenceRing *r)
{
    object_remove_destroy_notify(r->owner, ring_device_gone, r);
    device_log_unlisten(r->source);
}

static void ring_line(void *opaque, const DeviceLogLine *line)
{
    binding_ring_add_line(opaque, line->number, line->text, mask_name(line->mask));
}

/* dev:_log_ring(masks, text, n) */
static int log_ring(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    const DeviceLogFilter filter = check_filter(L);
    OccurrenceRing *r = binding_ring_new(L, (Object *)dev, 3, 4, HOW, ring_disarm);

    r->source = device_log_record(dev, &filter, ring_line, r);
    object_add_destroy_notify((Object *)dev, ring_device_gone, r);
    return 1;
}

static int log_keep(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);

    lua_pushinteger(L, (lua_Integer)device_log_keep(dev));
    return 1;
}

static const ApiFunction methods[] = {
    { "_log", device_log, "(self, mask: string, text?: string)",
      "A line in the log in the device's name; dev:log(mask, text) is the way to say it." },
    { "_log_watch", log_watch,
      "(self, masks: string?, text: string?, fn: fun(mask: string, text: string, number: integer, "
      "time: integer), since?: integer, pause?: string): watch",
      "Calls fn for each line, with since from that one on; dev:log{…} is the way to say it." },
    { "_log_ring", log_ring, "(self, masks: string?, text: string?, n: integer): text-ring",
      "Keeps the last n lines; dev:log{…}:trace(n) is the way to say it." },
    { "_log_keep", log_keep, "(self): integer",
      "Lines are kept from now on; the number of the next." },
    { NULL },
};

void device_log_open(lua_State *L)
{
    binding_class(L, TYPE_DEVICE, NULL, methods, NULL);
}
