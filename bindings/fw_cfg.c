/* fw_cfg for boards and scripts: items and files that firmware reads; where firmware images are. */
#include "engine/hw/fw_cfg/fw_cfg.h"

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/hw/core/firmware.h"

static GBytes *make_bytes(void *opaque, GError **error)
{
    ScriptRef *ref = opaque;
    lua_State *L = binding_state();
    int top = lua_gettop(L);
    GBytes *bytes = NULL;

    if (!script_ref_push(L, ref)) {
        error_set(error, ENGINE_ERROR_GONE, "%s: its board is closed", script_ref_what(ref));
        return NULL;
    }
    if (binding_call(L, 0, 1, true, script_ref_what(ref), error)) {
        size_t len;
        const char *data = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;

        if (data) {
            bytes = g_bytes_new(data, len);
        } else {
            error_set(error, ENGINE_ERROR_SCRIPT, "%s: a string is to be returned, got %s",
                      script_ref_what(ref), luaL_typename(L, -1));
        }
    }
    lua_settop(L, top);
    return bytes;
}

static void free_ref(void *ref)
{
    script_ref_free(ref);
}

static int l_add(lua_State *L)
{
    FWCfg *s = binding_check_object(L, 1, TYPE_FW_CFG);
    const char *name = luaL_checkstring(L, 2);
    GError *error = NULL;
    size_t len;

    if (lua_isfunction(L, 3)) {
        ScriptRef *ref = script_ref_new(L, 3, (Object *)s, "fw_cfg file");

        if (!fw_cfg_add_file_fn(s, name, make_bytes, ref, free_ref, &error)) {
            script_ref_free(ref);
            return binding_raise(L, error);
        }
    } else {
        const char *data = luaL_checklstring(L, 3, &len);
        GBytes *bytes = g_bytes_new(data, len);
        bool ok = fw_cfg_add_file(s, name, bytes, &error);

        g_bytes_unref(bytes);
        if (!ok) {
            return binding_raise(L, error);
        }
    }
    return 0;
}

static int l_set(lua_State *L)
{
    FWCfg *s = binding_check_object(L, 1, TYPE_FW_CFG);
    uint16_t key = (uint16_t)binding_check_range(L, 2, 0, 0xffff, "key");
    size_t len;
    const char *data = luaL_checklstring(L, 3, &len);
    GBytes *bytes = g_bytes_new(data, len);
    GError *error = NULL;
    bool ok = fw_cfg_set(s, key, bytes, &error);

    g_bytes_unref(bytes);
    return ok ? 0 : binding_raise(L, error);
}

static void drop_bytes(void *data)
{
    g_bytes_unref(data);
}

static int l_get(lua_State *L)
{
    FWCfg *s = binding_check_object(L, 1, TYPE_FW_CFG);
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    uint16_t key = name ? 0 : (uint16_t)binding_check_range(L, 2, 0, 0xffff, "key");
    GError *error = NULL;
    GBytes *bytes = fw_cfg_get(s, name, key, &error);
    gsize len;
    const void *data;

    if (error) {
        return binding_raise(L, error);
    }
    if (!bytes) {
        lua_pushnil(L);
        return 1;
    }
    /* Freed by the main loop even if pushing it raises. */
    binding_defer(drop_bytes, bytes);
    data = g_bytes_get_data(bytes, &len);
    lua_pushlstring(L, data ? data : "", len);
    return 1;
}

static int l_files(lua_State *L)
{
    FWCfg *s = binding_check_object(L, 1, TYPE_FW_CFG);

    lua_newtable(L);
    for (unsigned i = 0; i < fw_cfg_file_count(s); i++) {
        lua_pushstring(L, fw_cfg_file_name(s, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static const ApiFunction methods[] = {
    { "add", l_add, "(self, name: string, bytes: string|fun(): string)",
      "Adds a file, or replaces the one of that name. A function is called when firmware reads "
      "the\n"
      "directory and when it selects the file; its first answer fixes the length." },
    { "set", l_set, "(self, key: integer, bytes: string)",
      "Sets one of the numbered items (5: processors, 0x8003: E820 …)." },
    { "read", l_get, "(self, file: string|integer): string?",
      "The bytes of a file, or of the item with that number; nil when there is none." },
    { "files", l_files, "(self): string[]", "Names of the files, in the directory's order." },
    { NULL },
};

static int l_find(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    GError *error = NULL;
    char *path = firmware_find(name, &error);

    if (!path) {
        return binding_fail(L, error);
    }
    lua_pushstring(L, path);
    g_free(path);
    return 1;
}

static const ApiFunction firmware_functions[] = {
    { "find", l_find, "(name: string): string?, string?",
      "The path of a firmware image; names without a slash are looked for in the folders of\n"
      "VMLUA_FIRMWARE and of the system's packages." },
    { NULL },
};

void binding_open_fw_cfg(lua_State *L)
{
    binding_class(L, TYPE_FW_CFG, "What firmware is told about the board.", methods, NULL);
    binding_module(L, "vmlua.core.firmware", "Firmware images.", firmware_functions);
}
