/*
 * CPUID policies as scripts see them: what a vCPU's CPUID instruction answers, a list of leaves
 * that can be read, changed by feature name, and handed to machine:add_cpu. Models ("host", "max")
 * and the +feature,-feature notation are Lua: scripts/vmlua/cpuid.lua.
 */
#include "bindings/cpuid.h"

#include <string.h>

#include "engine/accel/accel.h"
#include "engine/core/error.h"

typedef struct PolicyBox {
    CpuidPolicy *policy;
} PolicyBox;

static int policy_gc(lua_State *L)
{
    PolicyBox *box = lua_touserdata(L, 1);
    /* Later: a script may call this from a finaliser or metamethod while somebody reads it. */
    if (box->policy) {
        binding_defer(g_free, box->policy);
        box->policy = NULL;
    }
    return 0;
}

void binding_push_cpuid(lua_State *L, CpuidPolicy *policy)
{
    if (!policy) {
        lua_pushnil(L);
        return;
    }
    PolicyBox *box = binding_new_userdata(L, CPUID_POLICY, sizeof *box);
    box->policy = policy;
}

CpuidPolicy *binding_check_cpuid(lua_State *L, int arg)
{
    PolicyBox *box = binding_check_userdata(L, arg, CPUID_POLICY);
    luaL_argcheck(L, box->policy, arg, "this policy was given away");
    return box->policy;
}

static uint32_t check_u32(lua_State *L, int arg, const char *what)
{
    return (uint32_t)binding_check_range(L, arg, 0, UINT32_MAX, what);
}

static int policy_copy(lua_State *L)
{
    const CpuidPolicy *p = binding_check_cpuid(L, 1);
    PolicyBox *box = binding_new_userdata(L, CPUID_POLICY, sizeof *box);
    box->policy = cpuid_policy_copy(p);
    return 1;
}

static int policy_get(lua_State *L)
{
    const CpuidPolicy *p = binding_check_cpuid(L, 1);
    uint32_t out[4];
    cpuid_policy_query(p, check_u32(L, 2, "function"),
                       lua_isnoneornil(L, 3) ? 0 : check_u32(L, 3, "index"), out);
    for (int i = 0; i < 4; i++) {
        lua_pushinteger(L, out[i]);
    }
    return 4;
}

static const char *const entry_keys[] = { "function", "index", "eax", "ebx", "ecx", "edx", NULL };

static uint32_t entry_field(lua_State *L, int idx, const char *key)
{
    uint32_t v = 0;
    if (binding_get_key(L, idx, key) != LUA_TNIL) {
        v = check_u32(L, lua_gettop(L), key);
    }
    lua_pop(L, 1);
    return v;
}

static CpuidEntry check_entry(lua_State *L, int idx)
{
    luaL_checktype(L, idx, LUA_TTABLE);
    binding_check_keys(L, idx, entry_keys, "CPUID leaf");
    CpuidEntry e = {
        .function = entry_field(L, idx, "function"),
        .index = entry_field(L, idx, "index"),
        .eax = entry_field(L, idx, "eax"),
        .ebx = entry_field(L, idx, "ebx"),
        .ecx = entry_field(L, idx, "ecx"),
        .edx = entry_field(L, idx, "edx"),
    };
    e.has_index = binding_get_key(L, idx, "index") != LUA_TNIL;
    lua_pop(L, 1);
    return e;
}

static int policy_set(lua_State *L)
{
    CpuidPolicy *p = binding_check_cpuid(L, 1);
    const CpuidEntry e = check_entry(L, 2);
    GError *error = NULL;
    return cpuid_policy_set(p, &e, &error) ? 0 : binding_raise(L, error);
}

static int policy_list(lua_State *L)
{
    const CpuidPolicy *p = binding_check_cpuid(L, 1);
    lua_createtable(L, (int)p->n, 0);
    for (unsigned i = 0; i < p->n; i++) {
        const CpuidEntry *e = &p->entries[i];
        const struct {
            const char *key;
            uint32_t value;
        } fields[] = { { "function", e->function }, { "eax", e->eax }, { "ebx", e->ebx },
                       { "ecx", e->ecx },           { "edx", e->edx }, { "index", e->index } };
        lua_createtable(L, 0, 6);
        for (unsigned k = 0; k < G_N_ELEMENTS(fields) - !e->has_index; k++) {
            lua_pushinteger(L, fields[k].value);
            lua_setfield(L, -2, fields[k].key);
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const CpuidFeature *check_feature(lua_State *L, int arg)
{
    const char *name = luaL_checkstring(L, arg);
    const CpuidFeature *f = cpuid_feature_find(name);
    if (f) {
        return f;
    }
    unsigned n;
    const CpuidFeature *all = cpuid_features(&n);
    const char **words = lua_newuserdatauv(L, (n + 1) * sizeof *words, 0);
    for (unsigned i = 0; i < n; i++) {
        words[i] = all[i].name;
    }
    words[n] = NULL;
    const char *near = nearest_word(name, words);
    luaL_error(L,
               near ? "unknown CPU feature '%s' (did you mean '%s'?)" : "unknown CPU feature '%s'",
               name, near);
    return NULL;
}

static int policy_feature(lua_State *L)
{
    CpuidPolicy *p = binding_check_cpuid(L, 1);
    lua_pushboolean(L, cpuid_policy_get_feature(p, check_feature(L, 2)));
    return 1;
}

static int policy_set_feature(lua_State *L)
{
    CpuidPolicy *p = binding_check_cpuid(L, 1);
    const CpuidFeature *f = check_feature(L, 2);
    luaL_checktype(L, 3, LUA_TBOOLEAN);
    cpuid_policy_set_feature(p, f, lua_toboolean(L, 3));
    return 0;
}

static int cpuid_new(lua_State *L)
{
    PolicyBox *box = binding_new_userdata(L, CPUID_POLICY, sizeof *box);
    box->policy = cpuid_policy_new();
    if (lua_isnoneornil(L, 1)) {
        return 1;
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    const lua_Integer n = luaL_len(L, 1);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, 1, i);
        const CpuidEntry e = check_entry(L, lua_gettop(L));
        lua_pop(L, 1);
        GError *error = NULL;
        if (!cpuid_policy_set(box->policy, &e, &error)) {
            return binding_raise(L, error);
        }
    }
    return 1;
}

static int cpuid_supported(lua_State *L)
{
    GError *error = NULL;
    const AccelClass *ac = accel_find(luaL_checkstring(L, 1), &error);
    CpuidPolicy *p = ac && ac->supported_cpuid ? ac->supported_cpuid(&error) : NULL;
    if (!p) {
        if (!error) {
            error_set(&error, ENGINE_ERROR_UNSUPPORTED, "%s has no CPUID to offer",
                      lua_tostring(L, 1));
        }
        return binding_fail(L, error);
    }
    binding_push_cpuid(L, p);
    return 1;
}

static int cpuid_feature_names(lua_State *L)
{
    unsigned n;
    const CpuidFeature *all = cpuid_features(&n);
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        lua_pushstring(L, all[i].name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const ApiFunction policy_methods[] = {
    { "copy", policy_copy, "(): cpuid-policy", "An independent copy." },
    { "get", policy_get, "(leaf: integer, index?: integer): integer, integer, integer, integer",
      "EAX, EBX, ECX, EDX as the guest's CPUID instruction would return them." },
    { "set", policy_set,
      "(leaf: { function: integer, index?: integer, eax?: integer, ebx?: integer, ecx?: integer, "
      "edx?: integer })",
      "Adds or replaces one leaf; registers left out are 0." },
    { "list", policy_list, "(): table[]", "All leaves, as set takes them." },
    { "feature", policy_feature, "(name: string): boolean",
      "Whether a feature is on, by its name in /proc/cpuinfo." },
    { "set_feature", policy_set_feature, "(name: string, on: boolean)", "Switches a feature." },
    { 0 },
};
static const ApiFunction cpuid_functions[] = {
    { "new", cpuid_new, "(leaves?: table[]): cpuid-policy",
      "A policy of the given leaves, as policy:list() returns them." },
    { "supported", cpuid_supported, "(accel: string): cpuid-policy?, string?",
      "The most that an accelerator can do on this host." },
    { "features", cpuid_feature_names, "(): string[]",
      "Names of all features that can be switched." },
    { 0 },
};

void binding_open_cpuid(lua_State *L)
{
    binding_userdata_class(L, CPUID_POLICY, "What a vCPU's CPUID answers.", policy_methods, NULL,
                           policy_gc);
    binding_module(L, "vmlua.core.cpuid", "CPUID policies.", cpuid_functions);
}
