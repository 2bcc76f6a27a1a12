/*
 * Disks as scripts see them: opening images, drives and their media, requests from a script.
 * What boards and users call is in scripts/vmlua/block.lua, which builds on this.
 */
#include "bindings/binding.h"

#include <errno.h>
#include <string.h>

#include "engine/block/block.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

static BlockBackend *check_drive(lua_State *L, int arg)
{
    return binding_check_object(L, arg, TYPE_BLOCK_BACKEND);
}

/* ---- opening --------------------------------------------------------------------------------- */

static int opt_word(lua_State *L, int idx, const char *key, const char *const *words, int def)
{
    int value = def;

    if (binding_get_key(L, idx, key) != LUA_TNIL) {
        const char *word = luaL_checkstring(L, -1);

        value = -1;
        for (int i = 0; words[i]; i++) {
            if (!strcmp(words[i], word)) {
                value = i;
            }
        }
        if (value < 0) {
            luaL_Buffer b;

            luaL_buffinit(L, &b);
            for (int i = 0; words[i]; i++) {
                luaL_addstring(&b, i ? ", " : "");
                luaL_addstring(&b, words[i]);
            }
            luaL_pushresult(&b);
            luaL_error(L, "%s: '%s' is none of %s", key, word, lua_tostring(L, -1));
        }
    }
    lua_pop(L, 1);
    return value;
}

static bool opt_bool(lua_State *L, int idx, const char *key)
{
    bool value;

    binding_get_key(L, idx, key);
    value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static void read_options(lua_State *L, int idx, BlockOpenOptions *o)
{
    static const char *const keys[] = { "format",        "read_only", "auto_read_only",
                                        "cache",         "aio",       "discard",
                                        "detect_zeroes", "locking",   "no_backing",
                                        "for_check",     NULL };
    static const char *const caches[] = { "writeback",  "none",   "writethrough",
                                          "directsync", "unsafe", NULL };
    static const char *const engines[] = { "auto", "io_uring", "threads", "native", NULL };
    static const char *const zeroes[] = { "off", "on", "unmap", NULL };
    static const char *const locks[] = { "auto", "off", NULL };

    binding_check_keys(L, idx, keys, "block.open");
    if (binding_get_key(L, idx, "format") != LUA_TNIL) {
        o->format = luaL_checkstring(L, -1); /* stays anchored in the table */
    }
    lua_pop(L, 1);
    o->read_only = opt_bool(L, idx, "read_only");
    o->auto_read_only = opt_bool(L, idx, "auto_read_only");
    o->discard = opt_bool(L, idx, "discard");
    o->no_backing = opt_bool(L, idx, "no_backing");
    o->for_check = opt_bool(L, idx, "for_check");
    o->cache = (BlockCacheMode)opt_word(L, idx, "cache", caches, 0);
    o->aio = (BlockAioEngine)opt_word(L, idx, "aio", engines, 0);
    o->detect_zeroes = (BlockDetectZeroes)opt_word(L, idx, "detect_zeroes", zeroes, 0);
    o->no_lock = opt_word(L, idx, "locking", locks, 0) == 1;
}

/* Pushes the handle of a node and gives up the reference. */
static int push_node(lua_State *L, BlockNode *node, GError *error)
{
    if (!node) {
        return binding_fail(L, error);
    }
    binding_push_object(L, node);
    object_unref(node);
    return 1;
}

static int open_by(lua_State *L,
                   BlockNode *(*fn)(const char *, const BlockOpenOptions *, GError **))
{
    const char *filename = luaL_checkstring(L, 1);
    BlockOpenOptions o = { 0 };
    GError *error = NULL;
    BlockNode *node;

    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        read_options(L, 2, &o);
    }
    node = fn(filename, &o, &error);
    return push_node(L, node, error);
}

static int l_open(lua_State *L)
{
    return open_by(L, block_open);
}

static int l_open_file(lua_State *L)
{
    return open_by(L, block_open_file);
}

static int l_probe(lua_State *L)
{
    BlockNode *node = binding_check_object(L, 1, TYPE_BLOCK_NODE);
    GError *error = NULL;
    const char *format = block_node_probe(node, &error);

    if (!format) {
        return binding_fail(L, error);
    }
    lua_pushstring(L, format);
    return 1;
}

static int l_node(lua_State *L)
{
    const char *driver = luaL_checkstring(L, 1);
    GError *error = NULL;
    BlockNode *node = block_node_new(driver, &error);

    return push_node(L, node, error);
}

static int l_drive(lua_State *L)
{
    Machine *m = binding_opt_object(L, 1, TYPE_MACHINE);
    const char *id = luaL_optstring(L, 2, NULL);
    BlockNode *root = binding_opt_object(L, 3, TYPE_BLOCK_NODE);
    GError *error = NULL;
    BlockBackend *be;

    be = block_backend_new(m ? object_get_container(OBJECT(m), "drives") : NULL, id, root, &error);
    if (!be) {
        return binding_fail(L, error);
    }
    binding_push_object(L, be);
    return 1;
}

/* (m, node, name): the node leaves with the machine. */
static int l_adopt(lua_State *L)
{
    Machine *m = binding_check_object(L, 1, TYPE_MACHINE);
    BlockNode *node = binding_check_object(L, 2, TYPE_BLOCK_NODE);
    const char *name = luaL_checkstring(L, 3);
    GError *error = NULL;

    return binding_result(
        L, object_add_child(object_get_container(OBJECT(m), "nodes"), name, (Object *)node, &error),
        &error);
}

typedef struct DriverList {
    lua_State *L;
    lua_Integer n;
} DriverList;

static void add_driver(const char *driver, ObjectClass *klass, void *opaque)
{
    DriverList *list = opaque;

    lua_pushstring(list->L, object_class_get_name(klass));
    lua_setfield(list->L, -2, driver);
}

static int l_drivers(lua_State *L)
{
    DriverList list = { .L = L };

    lua_newtable(L);
    block_drivers_foreach(add_driver, &list);
    return 1;
}

static int l_drain(lua_State *L)
{
    GError *error = NULL;

    return binding_result(L, block_drain(NULL, &error), &error);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* One request of a script. Freed when it is done. */
typedef struct Call {
    ScriptRef *fn;
    BlockOp op;
    uint8_t *buf;
    size_t len;
    BlockStatus status;
} Call;

static const char *errno_name(int error)
{
    switch (error) {
    case EIO:
        return "EIO";
    case ENOSPC:
        return "ENOSPC";
    case EROFS:
        return "EROFS";
    case ENOMEDIUM:
        return "ENOMEDIUM";
    case EINVAL:
        return "EINVAL";
    case ECANCELED:
        return "ECANCELED";
    case EPERM:
        return "EPERM";
    default:
        return NULL;
    }
}

static void push_status(lua_State *L, const BlockStatus *st)
{
    lua_createtable(L, 0, 6);
    lua_pushinteger(L, (lua_Integer)st->bytes);
    lua_setfield(L, -2, "bytes");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_DATA) != 0);
    lua_setfield(L, -2, "data");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_ZERO) != 0);
    lua_setfield(L, -2, "zero");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_ALLOCATED) != 0);
    lua_setfield(L, -2, "allocated");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_COMPRESSED) != 0);
    lua_setfield(L, -2, "compressed");
    lua_pushinteger(L, st->depth);
    lua_setfield(L, -2, "depth");
    if (st->has_host_offset) {
        lua_pushinteger(L, (lua_Integer)st->host_offset);
        lua_setfield(L, -2, "offset");
    }
}

static void call_free(Call *call)
{
    script_ref_free(call->fn);
    g_free(call->buf);
    g_free(call);
}

static void call_done(void *opaque, int error)
{
    Call *call = opaque;
    lua_State *L = binding_state();
    int n = 1;

    if (!call->fn || !lua_checkstack(L, 8)) {
        call_free(call);
        return;
    }
    if (error) {
        const char *name = errno_name(error);

        lua_pushnil(L);
        lua_pushstring(L, g_strerror(error));
        lua_pushstring(L, name);
        n = 3;
    } else if (call->op == BLOCK_OP_READ) {
        lua_pushlstring(L, (const char *)call->buf, call->len);
    } else if (call->op == BLOCK_OP_STATUS) {
        push_status(L, &call->status);
    } else {
        lua_pushboolean(L, 1);
    }
    binding_invoke(L, call->fn, n, false);
    call_free(call);
}

static const char *const op_words[] = {
    "read", "write", "flush", "discard", "zero", "status", NULL
};

/* (drive, op, offset, length or bytes, fn, flags?) */
static int drive_submit(lua_State *L)
{
    BlockBackend *be = check_drive(L, 1);
    BlockOp op = (BlockOp)luaL_checkoption(L, 2, NULL, op_words);
    uint64_t offset = binding_check_u64(L, 3, "offset"), bytes = 0;
    size_t len = 0;
    const char *data = NULL;
    unsigned flags = (unsigned)luaL_optinteger(L, 6, 0);
    Call *call;

    luaL_checktype(L, 5, LUA_TFUNCTION);
    if (op == BLOCK_OP_WRITE) {
        data = luaL_checklstring(L, 4, &len);
    } else if (op != BLOCK_OP_FLUSH) {
        bytes = binding_check_u64(L, 4, "length");
    }
    if (op == BLOCK_OP_READ) {
        luaL_argcheck(L, bytes <= (64 << 20), 4, "at most 64 MiB at a time");
        len = bytes;
    }
    call = g_new0(Call, 1);
    call->op = op;
    call->len = len;
    call->buf = data ? g_memdup2(data, len) : op == BLOCK_OP_READ ? g_malloc(len + 1) : NULL;
    call->fn = script_ref_new(L, 5, NULL, "disk request");
    switch (op) {
    case BLOCK_OP_READ:
        block_read(be, offset, call->buf, len, call_done, call);
        break;
    case BLOCK_OP_WRITE:
        block_write(be, offset, call->buf, len, flags & BLOCK_FUA, call_done, call);
        break;
    case BLOCK_OP_FLUSH:
        block_flush(be, call_done, call);
        break;
    case BLOCK_OP_DISCARD:
        block_discard(be, offset, bytes, call_done, call);
        break;
    case BLOCK_OP_ZERO:
        block_write_zeroes(be, offset, bytes, flags, call_done, call);
        break;
    default:
        block_status(be, offset, bytes, &call->status, call_done, call);
        break;
    }
    return 0;
}

/* ---- drives ---------------------------------------------------------------------------------- */

static int drive_stats(lua_State *L)
{
    BlockBackend *be = check_drive(L, 1);

    lua_createtable(L, 0, BLOCK_OP_COUNT);
    for (BlockOp op = 0; op < BLOCK_OP_COUNT; op++) {
        BlockStats st;

        block_get_stats(be, op, &st);
        lua_createtable(L, 0, 6);
        lua_pushinteger(L, (lua_Integer)st.count);
        lua_setfield(L, -2, "count");
        lua_pushinteger(L, (lua_Integer)st.bytes);
        lua_setfield(L, -2, "bytes");
        lua_pushinteger(L, (lua_Integer)st.errors);
        lua_setfield(L, -2, "errors");
        lua_pushnumber(L, (double)st.total_ns / 1e9);
        lua_setfield(L, -2, "seconds");
        lua_pushnumber(L, (double)st.max_ns / 1e9);
        lua_setfield(L, -2, "max");
        lua_createtable(L, BLOCK_HISTOGRAM_BINS, 0);
        for (int i = 0; i < BLOCK_HISTOGRAM_BINS; i++) {
            lua_pushinteger(L, (lua_Integer)st.histogram[i]);
            lua_rawseti(L, -2, i + 1);
        }
        lua_setfield(L, -2, "latency");
        lua_setfield(L, -2, block_op_name(op));
    }
    return 1;
}

static int drive_reset_stats(lua_State *L)
{
    block_reset_stats(check_drive(L, 1));
    return 0;
}

static int drive_eject(lua_State *L)
{
    BlockBackend *be = check_drive(L, 1);
    bool force = lua_toboolean(L, 2);
    GError *error = NULL;

    return binding_result(L, block_eject(be, force, &error), &error);
}

static int drive_insert(lua_State *L)
{
    BlockBackend *be = check_drive(L, 1);
    BlockNode *node = binding_check_object(L, 2, TYPE_BLOCK_NODE);
    bool force = lua_toboolean(L, 3);
    GError *error = NULL;

    return binding_result(L, block_change_medium(be, node, force, &error), &error);
}

static int drive_drain(lua_State *L)
{
    BlockBackend *be = check_drive(L, 1);
    GError *error = NULL;

    return binding_result(L, block_drain(be, &error), &error);
}

static int drive_get_length(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)block_length(check_drive(L, 1)));
    return 1;
}

static int drive_get_inserted(lua_State *L)
{
    lua_pushboolean(L, block_inserted(check_drive(L, 1)));
    return 1;
}

static int drive_get_read_only(lua_State *L)
{
    lua_pushboolean(L, block_read_only(check_drive(L, 1)));
    return 1;
}

static int drive_get_locked(lua_State *L)
{
    lua_pushboolean(L, block_medium_locked(check_drive(L, 1)));
    return 1;
}

static int drive_get_tray_open(lua_State *L)
{
    lua_pushboolean(L, block_tray_open(check_drive(L, 1)));
    return 1;
}

static int drive_get_node(lua_State *L)
{
    binding_push_object(L, block_root(check_drive(L, 1)));
    return 1;
}

static int drive_get_held_back(lua_State *L)
{
    lua_pushinteger(L, block_held_back(check_drive(L, 1)));
    return 1;
}

static int drive_get_file(lua_State *L)
{
    BlockNode *root = block_root(check_drive(L, 1));

    lua_pushstring(L, root ? block_node_name(root) : NULL);
    return 1;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static int node_open(lua_State *L)
{
    BlockNode *node = binding_check_object(L, 1, TYPE_BLOCK_NODE);
    GError *error = NULL;

    return binding_result(L, block_node_open(node, &error), &error);
}

static const ApiFunction block_functions[] = {
    { "open", l_open, "(filename: string, options?: table): block-node?, string?",
      "Opens an image with all nodes it needs: format (guessed when it is not said), read_only, "
      "auto_read_only, cache, aio, discard, detect_zeroes, locking, no_backing, for_check." },
    { "open_file", l_open_file, "(filename: string, options?: table): block-node?, string?",
      "Only the node that holds its bytes, with the same options." },
    { "probe", l_probe, "(node: block-node): string?, string?",
      "The format that the content of an open node looks like." },
    { "node", l_node, "(driver: string): block-node?, string?",
      "A node of a driver, not opened yet: set its properties first." },
    { "drive", l_drive, "(m?: machine, id?: string, node?: block-node): block-backend?, string?",
      "A drive of a machine (or of none) with that medium." },
    { "adopt", l_adopt, "(m: machine, node: block-node, name: string): boolean?, string?",
      "Puts a node into the machine's tree under that name, so that it goes with the machine." },
    { "drivers", l_drivers, "(): table<string, string>",
      "The drivers there are, each with the name of its type." },
    { "drain", l_drain, "(): boolean?, string?", "Waits until no drive has a request in flight." },
    { 0 },
};
static const ApiFunction drive_methods[] = {
    { "submit", drive_submit,
      "(op: \"read\"|\"write\"|\"flush\"|\"discard\"|\"zero\"|\"status\", offset: integer|string, "
      "data: integer|string, fn: fun(result: any, message?: string, code?: string), flags?: "
      "integer)",
      "One request; fn is called with what came of it. read, write and the others wait for it." },
    { "stats", drive_stats, "(): table<string, table>",
      "For each kind of request: count, bytes, errors, seconds (in all), max, and latency: how "
      "many "
      "took less than 1, 2, 4, … microseconds." },
    { "reset_stats", drive_reset_stats, "()", "Counts from zero again." },
    { "eject", drive_eject, "(force?: boolean): boolean?, string?",
      "Takes the medium out. A door that the guest has locked needs force." },
    { "insert", drive_insert, "(node: block-node, force?: boolean): boolean?, string?",
      "Another medium. drive:change(file) is the way to say it." },
    { "drain", drive_drain, "(): boolean?, string?",
      "Waits until none of its requests is in flight." },
    { 0 },
};
static const ApiField drive_fields[] = {
    { "length", drive_get_length, NULL, "integer", "Bytes of the medium; 0: there is none." },
    { "inserted", drive_get_inserted, NULL, "boolean",
      "There is a medium, and the tray is closed." },
    { "read_only", drive_get_read_only, NULL, "boolean", "The medium cannot be written." },
    { "locked", drive_get_locked, NULL, "boolean", "The guest has locked the door." },
    { "tray_open", drive_get_tray_open, NULL, "boolean", "The tray is out." },
    { "node", drive_get_node, NULL, "block-node?", "The topmost node of its medium." },
    { "file", drive_get_file, NULL, "string?", "The name of what is in it." },
    { "held_back", drive_get_held_back, NULL, "integer",
      "Requests that failed and wait until the machine goes on." },
    { 0 },
};
static const ApiFunction node_methods[] = {
    { "open", node_open, "(): boolean?, string?", "Opens it and what is below." },
    { 0 },
};

void binding_open_block(lua_State *L)
{
    binding_class(L, TYPE_BLOCK_BACKEND, "A drive: what a disk device reads and writes.",
                  drive_methods, drive_fields);
    binding_class(L, TYPE_BLOCK_NODE, "A part of the way from a drive to its file.", node_methods,
                  NULL);
    binding_module(L, "vmlua.core.block", "Disk images and drives.", block_functions);
}
