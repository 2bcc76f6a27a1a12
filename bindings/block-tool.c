/*
 * What `vmlua img` and scripts do with images as a whole: create, check, resize, snapshots, where
 * data is. Jobs are in block-job.c.
 */
#include "bindings/binding.h"

#include <string.h>

#include "engine/block/tool.h"
#include "engine/core/error.h"

static BlockNode *check_node(lua_State *L, int arg)
{
    return binding_check_object(L, arg, TYPE_BLOCK_NODE);
}

/* ---- single operations ----------------------------------------------------------------------- */

/* A list of { key, value } at idx; the strings stay anchored in it, the array in a userdata that is
 * pushed. */
static BlockCreateOption *read_pairs(lua_State *L, int idx, unsigned *n)
{
    lua_Integer len;
    BlockCreateOption *options;

    luaL_checktype(L, idx, LUA_TTABLE);
    len = luaL_len(L, idx);
    luaL_argcheck(L, len <= 256, idx, "at most 256 options");
    options = lua_newuserdatauv(L, sizeof(*options) * (size_t)(len + 1), 0);
    for (lua_Integer i = 0; i < len; i++) {
        lua_rawgeti(L, idx, i + 1);
        luaL_argcheck(L, lua_istable(L, -1), idx, "a list of { key, value } expected");
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        luaL_argcheck(L, lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TSTRING, idx,
                      "keys and values are strings");
        options[i].key = lua_tostring(L, -2);
        options[i].value = lua_tostring(L, -1);
        lua_pop(L, 3);
    }
    *n = (unsigned)len;
    return options;
}

static int l_create(lua_State *L)
{
    const char *driver = luaL_checkstring(L, 1), *filename = luaL_checkstring(L, 2);
    unsigned n;
    const BlockCreateOption *options = read_pairs(L, 3, &n);
    GError *error = NULL;

    return binding_result(L, block_image_create(driver, filename, options, n, &error), &error);
}

static int l_amend(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    unsigned n;
    const BlockCreateOption *options = read_pairs(L, 2, &n);
    GError *error = NULL;

    return binding_result(L, block_image_amend(node, options, n, &error), &error);
}

static int l_resize(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    uint64_t bytes = binding_check_u64(L, 2, "size");
    const char *preallocation = luaL_optstring(L, 3, NULL);
    GError *error = NULL;

    return binding_result(L, block_image_resize(node, bytes, preallocation, &error), &error);
}

typedef struct CheckSteps {
    lua_State *L;
    int progress, report; /* their places on the stack; 0: nobody wants to know */
    GError *error;
} CheckSteps;

static bool check_step(void *opaque, uint64_t done, uint64_t total)
{
    CheckSteps *steps = opaque;
    lua_State *L = steps->L;
    bool go_on;

    if (!steps->progress || steps->error || !lua_checkstack(L, 8)) {
        return !steps->error;
    }
    lua_pushvalue(L, steps->progress);
    lua_pushinteger(L, (lua_Integer)done);
    lua_pushinteger(L, (lua_Integer)total);
    if (!binding_call(L, 2, 1, false, "progress of a check", &steps->error)) {
        return false;
    }
    go_on = lua_toboolean(L, -1) || lua_isnil(L, -1);
    lua_pop(L, 1);
    return go_on;
}

/* An error of the script ends the check with its next step. */
static void check_report(void *opaque, const char *line)
{
    CheckSteps *steps = opaque;
    lua_State *L = steps->L;

    if (steps->report && !steps->error && lua_checkstack(L, 8)) {
        lua_pushvalue(L, steps->report);
        lua_pushstring(L, line);
        binding_call(L, 1, 0, false, "finding of a check", &steps->error);
    }
}

static void set_integer(lua_State *L, const char *key, uint64_t value)
{
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, key);
}

static int opt_function(lua_State *L, int arg)
{
    if (lua_isnoneornil(L, arg)) {
        return 0;
    }
    luaL_checktype(L, arg, LUA_TFUNCTION);
    return arg;
}

/* (node, fix: nil | "leaks" | "all", progress?, report?) */
static int l_check(lua_State *L)
{
    static const char *const words[] = { "none", "leaks", "all", NULL };
    static const int fixes[] = { 0, BLOCK_FIX_LEAKS, BLOCK_FIX_LEAKS | BLOCK_FIX_ERRORS };
    BlockNode *node = check_node(L, 1);
    int fix = fixes[luaL_checkoption(L, 2, "none", words)];
    CheckSteps steps = { .L = L };
    BlockCheckResult r;
    GError *error = NULL;
    bool ok;

    steps.progress = opt_function(L, 3);
    steps.report = opt_function(L, 4);
    ok = block_image_check(node, fix, &r, check_step, check_report, &steps, &error);
    if (steps.error) {
        g_clear_error(&error);
        return binding_raise(L, steps.error);
    }
    if (!ok) {
        return binding_fail(L, error);
    }
    lua_createtable(L, 0, 10);
    set_integer(L, "corruptions", r.corruptions);
    set_integer(L, "leaks", r.leaks);
    set_integer(L, "check_errors", r.check_errors);
    set_integer(L, "corruptions_fixed", r.corruptions_fixed);
    set_integer(L, "leaks_fixed", r.leaks_fixed);
    set_integer(L, "allocated_clusters", r.allocated_clusters);
    set_integer(L, "total_clusters", r.total_clusters);
    set_integer(L, "fragmented_clusters", r.fragmented_clusters);
    set_integer(L, "compressed_clusters", r.compressed_clusters);
    set_integer(L, "image_end_offset", r.image_end_offset);
    return 1;
}

static void add_pair(void *opaque, const char *key, const char *value)
{
    GPtrArray *pairs = opaque;

    g_ptr_array_add(pairs, g_strdup(key));
    g_ptr_array_add(pairs, g_strdup(value));
}

/* A list of { key, value }. The pairs are collected before Lua is asked for memory. */
static int l_info(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    GByteArray *scratch = binding_scratch(L);
    GPtrArray *pairs = g_ptr_array_new_with_free_func(g_free);
    guint n;
    const char *at;

    block_image_info(node, add_pair, pairs);
    n = pairs->len;
    for (guint i = 0; i < n; i++) {
        g_byte_array_append(scratch, pairs->pdata[i], (guint)strlen(pairs->pdata[i]) + 1);
    }
    g_ptr_array_free(pairs, TRUE);
    lua_createtable(L, (int)(n / 2), 0);
    at = (const char *)scratch->data;
    for (guint i = 0; i < n; i += 2) {
        lua_createtable(L, 2, 0);
        for (int k = 1; k <= 2; k++) {
            lua_pushstring(L, at);
            lua_rawseti(L, -2, k);
            at += strlen(at) + 1;
        }
        lua_rawseti(L, -2, (lua_Integer)(i / 2 + 1));
    }
    return 1;
}

static int l_snapshots(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    GByteArray *scratch = binding_scratch(L);
    GArray *list = g_array_new(FALSE, TRUE, sizeof(BlockSnapshotInfo));
    GError *error = NULL;
    bool ok = block_image_snapshot_list(node, list, &error);
    guint n = list->len;

    g_byte_array_append(scratch, (const guint8 *)list->data, n * (guint)sizeof(BlockSnapshotInfo));
    g_array_free(list, TRUE);
    if (!ok) {
        return binding_fail(L, error);
    }
    lua_createtable(L, (int)n, 0);
    for (guint i = 0; i < n; i++) {
        const BlockSnapshotInfo *s = (const BlockSnapshotInfo *)(const void *)scratch->data + i;

        lua_createtable(L, 0, 8);
        lua_pushstring(L, s->id);
        lua_setfield(L, -2, "id");
        lua_pushstring(L, s->name);
        lua_setfield(L, -2, "name");
        set_integer(L, "vm_state_size", s->vm_state_size);
        set_integer(L, "disk_size", s->disk_size);
        set_integer(L, "date_sec", s->date_sec);
        set_integer(L, "date_nsec", s->date_nsec);
        set_integer(L, "vm_clock_ns", s->vm_clock_ns);
        set_integer(L, "icount", s->icount);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int l_snapshot_create(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    size_t len;
    const char *name = luaL_checklstring(L, 2, &len);
    BlockSnapshotInfo info = { .icount = UINT64_MAX };
    GError *error = NULL;
    gint64 now = g_get_real_time();

    luaL_argcheck(L, len < sizeof(info.name) && !memchr(name, 0, len), 2,
                  "a name of at most 255 bytes expected");
    memcpy(info.name, name, len);
    info.date_sec = (uint64_t)(now / G_USEC_PER_SEC);
    info.date_nsec = (uint32_t)(now % G_USEC_PER_SEC) * 1000;
    return binding_result(L, block_image_snapshot_create(node, &info, &error), &error);
}

/* A function of the tools that takes a node and a name. */
static int with_name(lua_State *L, bool (*fn)(BlockNode *, const char *, GError **))
{
    BlockNode *node = check_node(L, 1);
    const char *name = luaL_checkstring(L, 2);
    GError *error = NULL;

    return binding_result(L, fn(node, name, &error), &error);
}

static int l_snapshot_goto(lua_State *L)
{
    return with_name(L, block_image_snapshot_goto);
}

static int l_snapshot_delete(lua_State *L)
{
    return with_name(L, block_image_snapshot_delete);
}

/* (node, action, name, granularity?, source?, source_name?) */
static int l_bitmap(lua_State *L)
{
    static const char *const words[] = { "add",     "remove", "clear", "enable",
                                         "disable", "merge",  NULL };
    BlockNode *node = check_node(L, 1);
    BlockBitmapEdit edit = { .action = (BlockBitmapAction)luaL_checkoption(L, 2, NULL, words),
                             .name = luaL_checkstring(L, 3) };
    GError *error = NULL;

    edit.granularity = lua_isnoneornil(L, 4) ? 0 : binding_check_u64(L, 4, "granularity");
    edit.source = binding_opt_object(L, 5, TYPE_BLOCK_NODE);
    edit.source_name = edit.action == BLOCK_BITMAP_MERGE ? luaL_checkstring(L, 6) : NULL;
    return binding_result(L, block_image_bitmap(node, &edit, &error), &error);
}

static int l_change_backing(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    const char *filename = luaL_optstring(L, 2, NULL), *format = luaL_optstring(L, 3, NULL);
    GError *error = NULL;

    return binding_result(L, block_image_change_backing(node, filename, format, &error), &error);
}

/* One that takes a node alone. */
static int with_node(lua_State *L, bool (*fn)(BlockNode *, GError **))
{
    BlockNode *node = check_node(L, 1);
    GError *error = NULL;

    return binding_result(L, fn(node, &error), &error);
}

static int l_make_empty(lua_State *L)
{
    return with_node(L, block_image_make_empty);
}

static int l_close(lua_State *L)
{
    return with_node(L, block_image_close);
}

static int l_can(lua_State *L)
{
    static const char *const words[] = { "check", "compress", NULL };
    BlockNode *node = check_node(L, 1);

    lua_pushboolean(L, luaL_checkoption(L, 2, NULL, words) == 0 ? block_image_can_check(node)
                                                                : block_image_can_compress(node));
    return 1;
}

static int l_file(lua_State *L)
{
    binding_push_object(L, block_image_file(check_node(L, 1)));
    return 1;
}

static int l_backing(lua_State *L)
{
    binding_push_object(L, block_image_backing(check_node(L, 1)));
    return 1;
}

static int l_filename(lua_State *L)
{
    lua_pushstring(L, block_image_filename(check_node(L, 1)));
    return 1;
}

static int l_actual_size(lua_State *L)
{
    int64_t bytes = block_image_actual_size(check_node(L, 1));

    if (bytes < 0) {
        lua_pushnil(L);
    } else {
        lua_pushinteger(L, bytes);
    }
    return 1;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* (node, op, offset, data or length, unmap?) */
static int l_request(lua_State *L)
{
    static const char *const words[] = { "read", "write", "flush", "discard", "zero", NULL };
    BlockNode *node = check_node(L, 1);
    BlockOp op = (BlockOp)luaL_checkoption(L, 2, NULL, words);
    uint64_t offset = binding_check_u64(L, 3, "offset"), bytes = 0;
    const char *data = NULL;
    size_t len = 0;
    GByteArray *scratch;
    GError *error = NULL;
    bool ok;

    if (op == BLOCK_OP_WRITE) {
        data = luaL_checklstring(L, 4, &len);
        ok = block_image_request(node, op, offset, (void *)(uintptr_t)data, len, 0, &error);
        return binding_result(L, ok, &error);
    }
    bytes = op == BLOCK_OP_FLUSH ? 0 : binding_check_u64(L, 4, "length");
    if (op != BLOCK_OP_READ) {
        unsigned flags = lua_toboolean(L, 5) ? BLOCK_MAY_UNMAP : 0;

        ok = block_image_request(node, op, offset, NULL, bytes, flags, &error);
        return binding_result(L, ok, &error);
    }
    luaL_argcheck(L, bytes <= (64 << 20), 4, "at most 64 MiB at a time");
    scratch = binding_scratch(L);
    g_byte_array_set_size(scratch, (guint)bytes);
    if (!block_image_request(node, op, offset, scratch->data, bytes, 0, &error)) {
        return binding_fail(L, error);
    }
    lua_pushlstring(L, (const char *)scratch->data, bytes);
    return 1;
}

static void push_extent(lua_State *L, uint64_t start, const BlockStatus *st)
{
    lua_createtable(L, 0, 8);
    set_integer(L, "start", start);
    set_integer(L, "length", st->bytes);
    set_integer(L, "depth", st->depth);
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_DATA) != 0);
    lua_setfield(L, -2, "data");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_ZERO) != 0);
    lua_setfield(L, -2, "zero");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_ALLOCATED) != 0);
    lua_setfield(L, -2, "allocated");
    lua_pushboolean(L, (st->flags & BLOCK_STATUS_COMPRESSED) != 0);
    lua_setfield(L, -2, "compressed");
    if (st->has_host_offset) {
        set_integer(L, "offset", st->host_offset);
    }
}

/* (node, offset, length, limit) */
static int l_map(lua_State *L)
{
    BlockNode *node = check_node(L, 1);
    uint64_t offset = binding_check_u64(L, 2, "offset"), bytes = binding_check_u64(L, 3, "length");
    unsigned limit = (unsigned)binding_check_range(L, 4, 1, 1 << 20, "limit"), n;
    GByteArray *scratch = binding_scratch(L);
    GArray *list;
    GError *error = NULL;
    uint64_t end;
    bool ok;

    luaL_argcheck(L, !__builtin_add_overflow(offset, bytes, &end) && end <= BLOCK_MAX_BYTES, 3,
                  "a range within an image expected");
    list = g_array_new(FALSE, TRUE, sizeof(BlockExtent));
    ok = block_image_map(node, offset, bytes, limit, list, &error);
    n = list->len;
    g_byte_array_append(scratch, (const guint8 *)list->data, n * (guint)sizeof(BlockExtent));
    g_array_free(list, TRUE);
    if (!ok) {
        return binding_fail(L, error);
    }
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        const BlockExtent *extent = (const BlockExtent *)(const void *)scratch->data + i;

        push_extent(L, extent->start, &extent->status);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const ApiFunction tool_functions[] = {
    { "create", l_create,
      "(driver: string, filename: string, options: string[][]): boolean?, string?",
      "A new image; what was in the file is lost. Options are pairs: { { \"size\", \"1G\" } }." },
    { "amend", l_amend, "(node: block-node, options: string[][]): boolean?, string?",
      "Changes options that the image was created with." },
    { "resize", l_resize,
      "(node: block-node, bytes: integer|string, preallocation?: string): boolean?, string?",
      "Another length." },
    { "check", l_check,
      "(node: block-node, fix?: \"none\"|\"leaks\"|\"all\", progress?: fun(done: integer, total: "
      "integer): boolean?, report?: fun(finding: string)): table?, string?",
      "Looks through the image's own structures; repairs leaks, or everything. progress may return "
      "false to end it; report is told each finding." },
    { "info", l_info, "(node: block-node): string[][]",
      "What the driver knows of the image, as pairs." },
    { "snapshots", l_snapshots, "(node: block-node): table[]?, string?",
      "The snapshots in the image: id, name, vm_state_size, disk_size, date_sec, date_nsec, "
      "vm_clock_ns, icount." },
    { "snapshot_create", l_snapshot_create, "(node: block-node, name: string): boolean?, string?",
      "Keeps the present contents under that name." },
    { "snapshot_goto", l_snapshot_goto, "(node: block-node, name: string): boolean?, string?",
      "Back to the contents of a snapshot, by id or name." },
    { "snapshot_delete", l_snapshot_delete, "(node: block-node, name: string): boolean?, string?",
      "Forgets a snapshot." },
    { "bitmap", l_bitmap,
      "(node: block-node, action: \"add\"|\"remove\"|\"clear\"|\"enable\"|\"disable\"|\"merge\", "
      "name: string, granularity?: integer|string, source?: block-node, source_name?: string): "
      "boolean?, string?",
      "Changes a bitmap that says which parts of the disk were written to. merge: adds what the "
      "bitmap source_name (of another image: source) says." },
    { "change_backing", l_change_backing,
      "(node: block-node, filename?: string, format?: string): boolean?, string?",
      "Names another backing file, or none. Contents are not looked at." },
    { "make_empty", l_make_empty, "(node: block-node): boolean?, string?",
      "The image holds nothing any more; what is below shows through." },
    { "temporary", binding_temporary_file, "(path: string): vmlua.temporary-file",
      "A file to be made there, which goes with this value, however the program ends, unless it is "
      "kept." },
    { "can", l_can, "(node: block-node, what: \"check\"|\"compress\"): boolean",
      "Whether its driver does that." },
    { "file", l_file, "(node: block-node): block-node?", "The node that holds its bytes." },
    { "backing", l_backing, "(node: block-node): block-node?", "The node that shows through." },
    { "filename", l_filename, "(node: block-node): string?", "The file at the bottom." },
    { "actual_size", l_actual_size, "(node: block-node): integer?",
      "Bytes that the file takes on the host." },
    { "close", l_close, "(node: block-node): boolean?, string?",
      "Flushes and closes it and what is below; it is of no use afterwards." },
    { "request", l_request,
      "(node: block-node, op: \"read\"|\"write\"|\"flush\"|\"discard\"|\"zero\", offset: "
      "integer|string, data: integer|string, unmap?: boolean): boolean|string?, string?",
      "One request, waited for: read returns bytes, write takes them, the others take a length." },
    { "map", l_map,
      "(node: block-node, offset: integer|string, length: integer|string, limit: integer): "
      "table[]?, string?",
      "What is where: extents with start, length, depth, data, zero, allocated, compressed, "
      "offset. At most `limit`." },
    { 0 },
};

void binding_open_block_tool(lua_State *L)
{
    binding_open_temporary_file(L);
    binding_module(L, "vmlua.core.blocktool", "What tools do with disk images.", tool_functions);
}
