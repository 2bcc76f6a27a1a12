/*
 * Disks that scripts answer for, and faults that scripts inject: one function a node, called for
 * each request on the main loop. What people call is in scripts/vmlua/block.lua.
 */
#include "bindings/binding.h"

#include <errno.h>
#include <string.h>

#include "engine/block/block.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

#define REQUEST "disk-request"

/* One a node, freed with it. */
typedef struct Hook {
    BlockNode *node;
    ScriptRef *fn;
    bool is_fault;
} Hook;

/* A request in a script's hands. */
typedef struct RequestBox {
    BlockNode *node; /* one reference while the request waits for its answer */
    BlockScriptRequest *r;
} RequestBox;

static const struct {
    const char *name;
    int error;
} errors[] = { { "EIO", EIO },      { "ENOSPC", ENOSPC }, { "EPERM", EPERM },
               { "EROFS", EROFS },  { "ENOMEM", ENOMEM }, { "ETIMEDOUT", ETIMEDOUT },
               { "EINVAL", EINVAL } };

static int error_by_name(lua_State *L, int idx)
{
    const char *name = lua_tostring(L, idx);

    for (unsigned i = 0; name && i < G_N_ELEMENTS(errors); i++) {
        if (!strcmp(errors[i].name, name)) {
            return errors[i].error;
        }
    }
    return -1;
}

static void callback_failed(BlockNode *node, GError *error)
{
    for (Object *o = (Object *)node; o; o = o->parent) {
        if (object_dynamic_cast(o, TYPE_MACHINE)) {
            machine_fail(MACHINE(o), error->message);
            g_error_free(error);
            return;
        }
    }
    binding_report(error);
}

static void box_answer(RequestBox *box, int error)
{
    BlockScriptRequest *r = box->r;
    BlockNode *node = box->node;

    box->r = NULL;
    box->node = NULL;
    block_script_finish(r, error);
    binding_defer_unref((Object *)node);
}

/* ---- what a script says to a request --------------------------------------------------------- */

/* Reads the value at idx as the answer of a script node; -1: none yet. */
static int script_answer(lua_State *L, int idx, BlockScriptRequest *r)
{
    size_t len;
    const char *bytes;

    if (lua_isboolean(L, idx)) {
        return lua_toboolean(L, idx) ? 0 : EIO;
    }
    if (lua_type(L, idx) != LUA_TSTRING) {
        return -1;
    }
    bytes = lua_tolstring(L, idx, &len);
    if (block_script_op(r) != BLOCK_OP_READ) {
        int error = error_by_name(L, idx);

        return error < 0 ? EIO : error;
    }
    if (len != block_script_bytes(r)) {
        return EIO;
    }
    block_script_put(r, bytes, len);
    return 0;
}

static bool opt_number(lua_State *L, int idx, const char *key, lua_Number *out)
{
    bool there;

    lua_pushstring(L, key);
    lua_rawget(L, idx);
    there = lua_isnumber(L, -1);
    if (there) {
        *out = lua_tonumber(L, -1);
    }
    lua_pop(L, 1);
    return there;
}

static void read_fault(lua_State *L, int idx, BlockFault *f)
{
    lua_Number n;

    *f = (BlockFault){ .torn = -1 };
    if (lua_type(L, idx) == LUA_TSTRING) {
        int error = error_by_name(L, idx);

        f->error = error < 0 ? EIO : error;
        return;
    }
    if (!lua_istable(L, idx)) {
        return;
    }
    lua_pushstring(L, "error");
    lua_rawget(L, idx);
    if (lua_isstring(L, -1)) {
        int error = error_by_name(L, -1);

        f->error = error < 0 ? EIO : error;
    }
    lua_pop(L, 1);
    lua_pushstring(L, "power_cut");
    lua_rawget(L, idx);
    f->power_cut = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (opt_number(L, idx, "delay", &n) && n > 0) {
        f->delay_ns = (int64_t)(MIN(n, 3600) * 1e9);
    }
    if (opt_number(L, idx, "torn", &n) && n >= 0) {
        f->torn = (int64_t)n;
    }
    if (opt_number(L, idx, "keep", &n)) {
        f->keep_some = true;
        f->keep_seed = (uint64_t)(int64_t)n;
    }
}

static RequestBox *push_request(lua_State *L, Hook *hook, BlockScriptRequest *r)
{
    RequestBox *box = binding_new_userdata(L, REQUEST, sizeof(*box));

    box->node = (BlockNode *)object_ref(hook->node);
    box->r = r;
    return box;
}

static void on_request(void *opaque, BlockScriptRequest *r)
{
    Hook *hook = opaque;
    lua_State *L = binding_state();
    int top = lua_gettop(L);
    GError *error = NULL;
    BlockFault fault = { .torn = -1 };
    RequestBox *box;

    if (!lua_checkstack(L, 16) || !hook->fn || !script_ref_push(L, hook->fn)) {
        if (hook->is_fault) {
            block_fault_resolve(r, &fault);
        } else {
            block_script_finish(r, EIO);
        }
        return;
    }
    box = push_request(L, hook, r);
    lua_pushvalue(L, -1);
    lua_insert(L, top + 1); /* anchored while it is called */
    if (!binding_call(L, 1, 1, false, "disk request", &error)) {
        fault.error = EIO;
        callback_failed(hook->node, error);
        lua_pushboolean(L, 0);
    } else if (hook->is_fault) {
        read_fault(L, lua_gettop(L), &fault);
    }
    if (hook->is_fault) {
        BlockNode *node = box->node;

        box->r = NULL;
        box->node = NULL;
        block_fault_resolve(r, &fault);
        binding_defer_unref((Object *)node);
    } else if (box->r) {
        int answer = script_answer(L, -1, r);

        if (answer >= 0) {
            box_answer(box, answer);
        }
    }
    lua_settop(L, top);
}

static const BlockScriptOps hook_ops = { on_request };

/* ---- requests -------------------------------------------------------------------------------- */

static RequestBox *check_request(lua_State *L)
{
    RequestBox *box = binding_check_userdata(L, 1, REQUEST);

    if (!box->r) {
        luaL_error(L, "disk request: has been answered");
    }
    return box;
}

static int request_data(lua_State *L)
{
    RequestBox *box = check_request(L);
    size_t len = block_script_bytes(box->r);
    luaL_Buffer b;

    if (block_script_op(box->r) != BLOCK_OP_WRITE) {
        lua_pushnil(L);
        return 1;
    }
    block_script_get(box->r, luaL_buffinitsize(L, &b, len), len);
    luaL_pushresultsize(&b, len);
    return 1;
}

static int request_finish(lua_State *L)
{
    RequestBox *box = check_request(L);
    int answer = script_answer(L, 2, box->r);

    if (answer < 0) {
        return luaL_error(L, "disk request: bytes, true, false or the name of an error expected");
    }
    box_answer(box, answer);
    return 0;
}

static int request_get_op(lua_State *L)
{
    lua_pushstring(L, block_op_name(block_script_op(check_request(L)->r)));
    return 1;
}

static int request_get_offset(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)block_script_offset(check_request(L)->r));
    return 1;
}

static int request_get_length(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)block_script_bytes(check_request(L)->r));
    return 1;
}

static int request_get_index(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)block_script_index(check_request(L)->r));
    return 1;
}

/* A request that nobody will answer any more fails, but not from within a collection. */
static void answer_lost(void *data)
{
    RequestBox *box = data;

    block_script_finish(box->r, EIO);
    object_unref(box->node);
    g_free(box);
}

static int request_gc(lua_State *L)
{
    RequestBox *box = lua_touserdata(L, 1);

    if (box->r) {
        binding_defer(answer_lost, g_memdup2(box, sizeof(*box)));
        box->r = NULL;
        box->node = NULL;
    }
    return 0;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static void hook_free(void *data)
{
    Hook *hook = data;

    script_ref_free(hook->fn);
    g_free(hook);
}

static Hook *new_hook(BlockNode *node, bool is_fault)
{
    Hook *hook = g_new0(Hook, 1);

    hook->node = node;
    hook->is_fault = is_fault;
    object_attach((Object *)node, hook, hook_free);
    return hook;
}

static int l_script(lua_State *L)
{
    uint64_t size = binding_check_u64(L, 1, "size");
    GError *error = NULL;
    BlockNode *node;
    Hook *hook;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    node = block_node_new("script", &error);
    if (!node || !object_property_set_uint((Object *)node, "size", size, &error) ||
        !block_node_open(node, &error)) {
        object_unref(node);
        return binding_fail(L, error);
    }
    hook = new_hook(node, false);
    binding_push_object(L, node);
    object_unref(node);
    hook->fn = script_ref_new(L, 2, (Object *)node, "disk");
    block_script_set(node, &hook_ops, hook);
    return 1;
}

/* (drive, fn, volatile): puts the filter on top; fn decides about every request. */
static int l_fault(lua_State *L)
{
    BlockBackend *be = binding_check_object(L, 1, TYPE_BLOCK_BACKEND);
    bool is_volatile = lua_toboolean(L, 3);
    GError *error = NULL;
    BlockNode *node;
    Hook *hook;

    luaL_checktype(L, 2, LUA_TFUNCTION);
    node = block_node_new("fault", &error);
    if (!node || !object_property_set_bool((Object *)node, "volatile", is_volatile, &error)) {
        object_unref(node);
        return binding_fail(L, error);
    }
    object_ref(node);
    if (!block_insert_filter(be, node, &error)) {
        object_unref(node);
        return binding_fail(L, error);
    }
    hook = new_hook(node, true);
    binding_push_object(L, node);
    object_unref(node);
    hook->fn = script_ref_new(L, 2, (Object *)node, "disk fault");
    block_script_set(node, &hook_ops, hook);
    return 1;
}

static int l_power_on(lua_State *L)
{
    block_fault_power_on(binding_check_object(L, 1, TYPE_BLOCK_FAULT));
    return 0;
}

static const ApiFunction functions[] = {
    { "script", l_script,
      "(size: integer|string, fn: fun(r: disk-request): string|boolean?): block-node?, string?",
      "A disk whose every request fn answers: bytes for a read, true or the name of an error "
      "(\"EIO\") otherwise; nothing: r:finish will. block.script is the way to say it." },
    { "fault", l_fault,
      "(drive: block-backend, fn: fun(r: disk-request): string|table?, volatile?: boolean): "
      "block-node?, string?",
      "A filter on top of a drive: fn says what becomes of each request. drive:on_read and its kin "
      "are the way to say it." },
    { "power_on", l_power_on, "(filter: block-node)",
      "The power comes back after a power cut of a fault filter." },
    { 0 },
};
static const ApiFunction request_methods[] = {
    { "data", request_data, "(): string?", "What a write brings." },
    { "finish", request_finish, "(answer: string|boolean)",
      "Answers it: bytes for a read, true, or the name of an error." },
    { 0 },
};
static const ApiField request_fields[] = {
    { "op", request_get_op, NULL, "string", "read, write, flush, discard or zero." },
    { "offset", request_get_offset, NULL, "integer", "Where it begins." },
    { "length", request_get_length, NULL, "integer", "How many bytes." },
    { "index", request_get_index, NULL, "integer", "Which request of this node it is, from 1." },
    { 0 },
};

void binding_open_block_script(lua_State *L)
{
    binding_userdata_class(L, REQUEST, "A request to a disk that a script sees.", request_methods,
                           request_fields, request_gc);
    binding_module(L, "vmlua.core.blockscript", "Disks and faults made by scripts.", functions);
}
