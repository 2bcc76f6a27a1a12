/* vmlua.core.log: masks, the log file, trace points, a sink for scripts. */
#include "engine/core/log.h"

#include <pthread.h>
#include <string.h>

#include "bindings/binding-priv.h"
#include "engine/core/main-loop.h"
#include "engine/core/trace.h"

/* Lines on their way to the script's sink: the log may not be called back, so that they wait for
 * the main loop. Bounded: a guest that logs faster than the script reads loses lines, counted. */
#define SINK_MAX 4096
static struct {
    pthread_mutex_t mutex;
    GQueue lines; /* of SinkLine * */
    unsigned lost;
    BottomHalf *bh;
    ScriptRef *fn;
} sink = { .mutex = PTHREAD_MUTEX_INITIALIZER, .lines = G_QUEUE_INIT };

typedef struct SinkLine {
    LogMask mask;
    char text[];
} SinkLine;

static const char *mask_name(LogMask mask)
{
    for (const LogItem *item = log_items; item->name; item++) {
        if (item->mask & mask) {
            return item->name;
        }
    }
    return "log";
}

static void sink_deliver(void *opaque)
{
    for (unsigned i = 0; i < SINK_MAX; i++) {
        pthread_mutex_lock(&sink.mutex);
        SinkLine *line = g_queue_pop_head(&sink.lines);
        unsigned lost = sink.lost;
        sink.lost = 0;
        pthread_mutex_unlock(&sink.mutex);
        if (lost) {
            log_warning("%u log lines were lost: the script's sink is too slow", lost);
        }
        if (!line || !script_main) {
            g_free(line);
            break;
        }
        lua_State *L = binding_state();
        lua_pushstring(L, mask_name(line->mask));
        lua_pushstring(L, line->text);
        g_free(line);
        binding_invoke(L, sink.fn, 2, false);
    }
}

static void sink_line(LogMask mask, const char *text, void *opaque)
{
    size_t len = strlen(text) + 1;
    SinkLine *line = g_malloc(sizeof *line + len);
    line->mask = mask;
    memcpy(line->text, text, len);
    pthread_mutex_lock(&sink.mutex);
    if (sink.lines.length >= SINK_MAX) {
        sink.lost++;
        g_free(line);
    } else {
        g_queue_push_tail(&sink.lines, line);
    }
    pthread_mutex_unlock(&sink.mutex);
    bh_schedule(sink.bh);
}

static int l_sink(lua_State *L)
{
    if (!lua_isnoneornil(L, 1)) {
        luaL_checktype(L, 1, LUA_TFUNCTION);
    }
    ScriptRef *fn = lua_isnoneornil(L, 1) ? NULL : script_ref_new(L, 1, NULL, "log sink");
    if (!sink.bh) {
        sink.bh = bh_new(sink_deliver, NULL);
    }
    log_set_sink(fn ? sink_line : NULL, NULL);
    script_ref_free(sink.fn);
    sink.fn = fn;
    return 0;
}

static int l_masks(lua_State *L)
{
    lua_newtable(L);
    lua_Integer n = 0;
    for (const LogItem *item = log_items; item->name; item++) {
        lua_createtable(L, 0, 3);
        lua_pushstring(L, item->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, item->doc);
        lua_setfield(L, -2, "doc");
        lua_pushboolean(L, log_enabled(item->mask));
        lua_setfield(L, -2, "enabled");
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int l_set(lua_State *L)
{
    const char *text = luaL_checkstring(L, 1);
    uint32_t mask = 0;
    GError *error = NULL;
    if (*text && !log_parse_mask(text, &mask, &error)) {
        return binding_fail(L, error);
    }
    log_set_mask(mask);
    lua_pushboolean(L, 1);
    return 1;
}

static int l_file(lua_State *L)
{
    GError *error = NULL;
    if (!log_set_file(luaL_optstring(L, 1, NULL), &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int l_filter(lua_State *L)
{
    GError *error = NULL;
    if (!log_set_filter(luaL_optstring(L, 1, NULL), &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int l_write(lua_State *L)
{
    const char *text = luaL_checkstring(L, 1);
    log_mask(LOG_SCRIPT, "%s", text);
    return 0;
}

static int l_warning(lua_State *L)
{
    log_warning("%s", luaL_checkstring(L, 1));
    return 0;
}

static int l_error(lua_State *L)
{
    log_error("%s", luaL_checkstring(L, 1));
    return 0;
}

static int l_trace(lua_State *L)
{
    const char *pattern = luaL_checkstring(L, 1);
    bool on = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
    unsigned n = trace_enable(pattern, on);
    if (on && n) {
        log_set_mask(log_enabled_mask | LOG_TRACE);
    }
    lua_pushinteger(L, n);
    return 1;
}

static int l_trace_points(lua_State *L)
{
    lua_newtable(L);
    lua_Integer n = 0;
    for (TracePoint *p = trace_first(); p; p = p->next) {
        lua_createtable(L, 0, 4);
        lua_pushstring(L, p->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, p->format);
        lua_setfield(L, -2, "format");
        lua_pushboolean(L, p->enabled);
        lua_setfield(L, -2, "enabled");
        lua_pushinteger(L, (lua_Integer)p->hits);
        lua_setfield(L, -2, "hits");
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static const ApiFunction functions[] = {
    { "masks", l_masks, "(): table[]", "All log masks: name, doc, enabled." },
    { "set", l_set, "(masks: string): boolean?, string?",
      "Switches on exactly the named masks (\"guest,unimp\", \"all\", \"\")." },
    { "file", l_file, "(path: string?): boolean?, string?",
      "Where log lines go; nil: standard error. %d becomes the process id." },
    { "filter", l_filter, "(ranges: string?): boolean?, string?",
      "Code that in_asm and exec show: \"FIRST..LAST\", \"FIRST+LEN\", \"LAST-LEN\", with commas; "
      "nil: "
      "all." },
    { "write", l_write, "(text: string)", "Writes a line under the mask script." },
    { "warning", l_warning, "(text: string)", "Tells the user, on standard error." },
    { "error", l_error, "(text: string)", "Tells the user of an error, on standard error." },
    { "trace", l_trace, "(pattern: string, on: boolean?): integer",
      "Switches trace points whose names match a glob; returns how many." },
    { "trace_points", l_trace_points, "(): table[]",
      "All trace points: name, format, enabled, hits." },
    { "sink", l_sink, "(fn: fun(mask: string, line: string)?)",
      "Gives log lines to a function instead of the file, soon after they were written." },
    { NULL },
};

void binding_open_log(lua_State *L)
{
    binding_module(L, "vmlua.core.log", "Log masks, the log file and trace points.", functions);
}
