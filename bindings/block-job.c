/*
 * Jobs through whole images, for scripts: copying, comparing, measuring speed.
 */
#include "bindings/binding.h"

#include "engine/block/tool.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

#define JOB_CLASS "vmlua.block-job"

static BlockNode *check_node(lua_State *L, int arg)
{
    return binding_check_object(L, arg, TYPE_BLOCK_NODE);
}

typedef struct Job {
    BlockJob *job;
    ScriptRef *fn;
    bool finished, collected; /* collected: nobody is to be told, and job_done frees it */
    bool muted;               /* nobody is to be told */
} Job;

static Job *check_job(lua_State *L, int arg)
{
    return *(Job **)binding_check_userdata(L, arg, JOB_CLASS);
}

static void job_drop(Job *j)
{
    block_job_free(j->job);
    script_ref_free(j->fn);
    g_free(j);
}

static void job_done(void *opaque, const GError *error)
{
    Job *j = opaque;
    lua_State *L = j->muted ? NULL : binding_state();
    ScriptRef *fn = g_steal_pointer(&j->fn);

    j->finished = true;
    if (L && fn && lua_checkstack(L, 8)) {
        if (error) {
            lua_pushnil(L);
            lua_pushstring(L, error->message);
        } else {
            lua_pushboolean(L, 1);
            lua_pushnil(L);
        }
        binding_invoke(L, fn, 2, false);
    }
    script_ref_free(fn);
    if (j->collected) {
        job_drop(j);
    }
}

static void job_collected(void *data)
{
    Job *j = data;

    j->muted = true;
    if (j->job && !j->finished) {
        block_job_cancel(j->job);
        if (!main_loop_is_main_thread() || !engine_may_unlock()) {
            j->collected = true;
            return;
        }
        /* Its workers end before what they use goes, also at the end of the program. */
        while (!j->finished) {
            main_loop_iterate(true);
        }
    }
    job_drop(j);
}

static int job_gc(lua_State *L)
{
    Job **p = lua_touserdata(L, 1);

    if (*p) {
        binding_defer(job_collected, *p);
        *p = NULL;
    }
    return 0;
}

/* Pushes the userdata; `fn` is at arg. */
static Job *new_job(lua_State *L, int arg)
{
    Job **p, *j;
    ScriptRef *fn;

    luaL_checktype(L, arg, LUA_TFUNCTION);
    p = binding_new_userdata(L, JOB_CLASS, sizeof(Job *));
    fn = script_ref_new(L, arg, NULL, "block job");
    j = g_new0(Job, 1);
    j->fn = fn;
    *p = j;
    return j;
}

static int job_result(lua_State *L, Job *j, BlockJob *job, GError **error)
{
    j->job = job;
    return job ? 1 : binding_fail(L, *error);
}

static uint64_t key_u64(lua_State *L, int idx, const char *key, uint64_t def)
{
    uint64_t value = def;

    if (binding_get_key(L, idx, key) != LUA_TNIL) {
        value = binding_check_u64(L, -1, key);
    }
    lua_pop(L, 1);
    return value;
}

static bool key_bool(lua_State *L, int idx, const char *key)
{
    bool value;

    binding_get_key(L, idx, key);
    value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static BlockNode *key_node(lua_State *L, int idx, const char *key)
{
    BlockNode *node;

    binding_get_key(L, idx, key);
    node = lua_isnil(L, -1) ? NULL : check_node(L, lua_gettop(L));
    lua_pop(L, 1); /* anchored in the table */
    return node;
}

static void read_copy_spec(lua_State *L, BlockCopySpec *spec)
{
    static const char *const keys[] = { "sources",        "target",   "reference", "max_depth",
                                        "target_is_zero", "compress", "in_order",  "offload",
                                        "salvage",        "sparse",   "cluster",   "rate",
                                        "workers",        NULL };
    lua_Integer n;
    BlockNode **nodes;

    luaL_checktype(L, 1, LUA_TTABLE);
    binding_check_keys(L, 1, keys, "copy");
    spec->target = key_node(L, 1, "target");
    luaL_argcheck(L, spec->target, 1, "a target expected");
    spec->reference = key_node(L, 1, "reference");
    spec->max_depth = (unsigned)MIN(key_u64(L, 1, "max_depth", UINT_MAX), UINT_MAX);
    spec->target_is_zero = key_bool(L, 1, "target_is_zero");
    spec->compress = key_bool(L, 1, "compress");
    spec->in_order = key_bool(L, 1, "in_order");
    spec->offload = key_bool(L, 1, "offload");
    spec->salvage = key_bool(L, 1, "salvage");
    spec->sparse = key_u64(L, 1, "sparse", 4096);
    spec->cluster = key_u64(L, 1, "cluster", 0);
    spec->rate = key_u64(L, 1, "rate", 0);
    spec->workers = (unsigned)MIN(key_u64(L, 1, "workers", 0), BLOCK_JOB_MAX_WORKERS);
    binding_get_key(L, 1, "sources");
    luaL_argcheck(L, lua_istable(L, -1), 1, "sources: a list of nodes expected");
    n = luaL_len(L, -1);
    luaL_argcheck(L, n > 0 && n <= 4096, 1, "sources: 1 to 4096 nodes expected");
    nodes = lua_newuserdatauv(L, sizeof(*nodes) * (size_t)n, 0);
    for (lua_Integer i = 0; i < n; i++) {
        lua_rawgeti(L, -2, i + 1);
        nodes[i] = check_node(L, lua_gettop(L));
        lua_pop(L, 1);
    }
    spec->sources = nodes;
    spec->n_sources = (unsigned)n;
}

static int l_copy(lua_State *L)
{
    BlockCopySpec spec = { 0 };
    GError *error = NULL;
    Job *j;

    read_copy_spec(L, &spec);
    j = new_job(L, 2);
    return job_result(L, j, block_copy_start(&spec, job_done, j, &error), &error);
}

/* (a, b, strict, workers, fn) */
static int l_compare(lua_State *L)
{
    BlockNode *a = check_node(L, 1), *b = check_node(L, 2);
    bool strict = lua_toboolean(L, 3);
    unsigned workers = (unsigned)binding_check_range(L, 4, 0, BLOCK_JOB_MAX_WORKERS, "workers");
    Job *j = new_job(L, 5);
    GError *error = NULL;

    return job_result(L, j, block_compare_start(a, b, strict, workers, job_done, j, &error),
                      &error);
}

/* (drive, spec, fn) */
static int l_bench(lua_State *L)
{
    static const char *const keys[] = { "write", "count", "bytes",   "offset", "step",
                                        "depth", "drain", "pattern", "flush",  NULL };
    BlockBackend *be = binding_check_object(L, 1, TYPE_BLOCK_BACKEND);
    BlockBenchSpec spec = { 0 };
    GError *error = NULL;
    Job *j;

    luaL_checktype(L, 2, LUA_TTABLE);
    binding_check_keys(L, 2, keys, "bench");
    spec.op = key_bool(L, 2, "write") ? BLOCK_OP_WRITE : BLOCK_OP_READ;
    spec.count = key_u64(L, 2, "count", 75000);
    spec.bytes = key_u64(L, 2, "bytes", 4096);
    spec.offset = key_u64(L, 2, "offset", 0);
    spec.step = key_u64(L, 2, "step", 0);
    spec.depth = (unsigned)MIN(key_u64(L, 2, "depth", 64), 1 << 20);
    spec.drain = key_bool(L, 2, "drain");
    spec.pattern = (uint8_t)key_u64(L, 2, "pattern", 0);
    spec.flush_interval = key_u64(L, 2, "flush", 0);
    j = new_job(L, 3);
    return job_result(L, j, block_bench_start(be, &spec, job_done, j, &error), &error);
}

static int job_progress(lua_State *L)
{
    Job *j = check_job(L, 1);
    uint64_t done = 0, total = 0;

    if (j->job) {
        block_job_progress(j->job, &done, &total);
    }
    lua_pushinteger(L, (lua_Integer)done);
    lua_pushinteger(L, (lua_Integer)total);
    return 2;
}

static int job_cancel(lua_State *L)
{
    Job *j = check_job(L, 1);

    if (j->job && !j->finished) {
        block_job_cancel(j->job);
    }
    return 0;
}

/* Cancels it and waits: the images may be closed afterwards. */
static int job_close(lua_State *L)
{
    Job *j = check_job(L, 1);

    if (!j->job || j->finished) {
        return 0;
    }
    block_job_cancel(j->job);
    if (!main_loop_is_main_thread() || !engine_may_unlock()) {
        return 0; /* in a handler: it ends by itself, and the images with it */
    }
    while (!j->finished) {
        main_loop_iterate(true); /* also while a signal waits to be told */
    }
    return 0;
}

static int job_salvaged(lua_State *L)
{
    Job *j = check_job(L, 1);

    lua_pushinteger(L, j->job ? (lua_Integer)block_copy_salvaged(j->job) : 0);
    return 1;
}

static int job_difference(lua_State *L)
{
    static const char *const words[] = { "same", "content", "allocation" };
    Job *j = check_job(L, 1);
    uint64_t offset = 0;
    BlockCompareResult r = j->job ? block_compare_result(j->job, &offset) : BLOCK_COMPARE_SAME;

    lua_pushstring(L, words[r]);
    lua_pushinteger(L, (lua_Integer)offset);
    return 2;
}

static const ApiFunction job_methods[] = {
    { "progress", job_progress, "(): integer, integer",
      "How much is done, and how much there is to do." },
    { "cancel", job_cancel, "()", "It ends soon." },
    { "close", job_close, "()", "Ends it, and returns when it has ended." },
    { "__close", job_close, NULL, NULL },
    { "salvaged", job_salvaged, "(): integer",
      "Bytes that a copy could not read and took for zeroes." },
    { "difference", job_difference, "(): \"same\"|\"content\"|\"allocation\", integer",
      "What a comparison has found first, and where." },
    { 0 },
};

static const ApiFunction job_functions[] = {
    { "copy", l_copy,
      "(spec: table, fn: fun(ok: boolean?, message?: string)): vmlua.block-job?, string?",
      "Copies images: sources, target; max_depth, reference, target_is_zero, compress, in_order, "
      "offload, salvage, sparse, cluster, rate, workers. fn is called at the end." },
    { "compare", l_compare,
      "(a: block-node, b: block-node, strict: boolean, workers: integer, fn: fun(ok: boolean?, "
      "message?: string)): vmlua.block-job?, string?",
      "Compares two images; the job's difference() tells what came of it." },
    { "bench", l_bench,
      "(drive: block-backend, spec: table, fn: fun(ok: boolean?, message?: string)): "
      "vmlua.block-job?, string?",
      "Makes requests as a device does: write, count, bytes, offset, step, depth, flush, drain, "
      "pattern." },
    { 0 },
};

void binding_open_block_job(lua_State *L)
{
    binding_userdata_class(L, JOB_CLASS, "Work through whole images.", job_methods, NULL, job_gc);
    binding_module(L, "vmlua.core.blockjob", "Jobs through whole disk images.", job_functions);
}
