/*
 * The program `vmlua`: sets up the engine and Lua, finds the scripts, hands the command line to
 * vmlua.launcher.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/main-loop.h"
#include "engine/machine/machine.h"
#include "engine/qom/module.h"

/* The folder that holds scripts/ and machines/: beside the build tree for an uninstalled binary,
 * ../share/vmlua for an installed one. NULL when neither is there. */
static char *find_share(void)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) {
        return NULL;
    }
    exe[n] = '\0';
    const char *env = getenv("VMLUA_SHARE");
    if (env && *env) {
        return g_strdup(env);
    }
    size_t build_len = strlen(VMLUA_BUILD_ROOT);
    if (strncmp(exe, VMLUA_BUILD_ROOT, build_len) == 0 && exe[build_len] == '/' &&
        access(VMLUA_SOURCE_ROOT "/scripts/vmlua/launcher.lua", R_OK) == 0) {
        return g_strdup(VMLUA_SOURCE_ROOT);
    }
    char *dir = g_path_get_dirname(exe);
    char *share = g_build_filename(dir, "..", "share", "vmlua", NULL);
    char *probe = g_build_filename(share, "scripts", "vmlua", "launcher.lua", NULL);
    bool ok = access(probe, R_OK) == 0;
    g_free(probe);
    g_free(dir);
    if (!ok) {
        g_free(share);
        return NULL;
    }
    char *canonical = g_canonicalize_filename(share, NULL);
    g_free(share);
    return canonical;
}

/* package.path: ours first, so that a module of the same name elsewhere cannot stand in. */
static void set_paths(lua_State *L, const char *share)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/scripts/?.lua;%s/scripts/?/init.lua;%s", share, share,
                    lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);
}

static void use_bundle(lua_State *L, const char *share)
{
    bool uninstalled = strcmp(share, VMLUA_SOURCE_ROOT) == 0;
    char *scripts = g_build_filename(share, "scripts", NULL);
    char *file = uninstalled ? g_strdup(VMLUA_BUILD_ROOT "/bindings/scripts.bundle")
                             : g_build_filename(share, "scripts-installed.bundle", NULL);
    bundle_open(L, file, scripts, VMLUA_VERSION " " LUA_RELEASE);
    g_free(file);
    g_free(scripts);
}

/* (share, version, argument...) -> status */
static int run_launcher(lua_State *L)
{
    int nargs = lua_gettop(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "vmlua.launcher");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "main");
    lua_createtable(L, nargs, 2);
    for (int i = 3; i <= nargs; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i - 2);
    }
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "share");
    lua_pushvalue(L, 2);
    lua_setfield(L, -2, "version");
    lua_call(L, 1, 1);
    if (lua_isboolean(L, -1)) {
        lua_pushinteger(L, lua_toboolean(L, -1) ? EXIT_SUCCESS : EXIT_FAILURE);
    } else if (lua_isnil(L, -1)) {
        lua_pushinteger(L, EXIT_SUCCESS);
    }
    return 1;
}

static int run(lua_State *L, const char *share, int argc, char **argv)
{
    GError *error = NULL;
    int status = EXIT_FAILURE;

    luaL_checkstack(L, argc + LUA_MINSTACK, NULL);
    lua_pushcfunction(L, run_launcher);
    lua_pushstring(L, share);
    lua_pushliteral(L, VMLUA_VERSION);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
    }
    if (binding_call(L, argc + 1, 1, false, NULL, &error)) {
        status = (int)lua_tointeger(L, -1) & 0xff;
        lua_pop(L, 1);
    } else {
        log_error("%s", error->message);
        g_error_free(error);
    }
    return status;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN); /* a reader that is gone is an error of the write, not our end */
    main_loop_init();
    module_call_init(MODULE_INIT_QOM);
    machine_set_thread_hooks(bindings_thread_begin, bindings_thread_end);

    char *share = find_share();
    if (!share) {
        log_error("the scripts are not where they should be (../share/vmlua beside the program); "
                  "set VMLUA_SHARE to the folder that holds scripts/");
        return EXIT_FAILURE;
    }
    lua_State *L = bindings_open(argc, argv);
    if (!L) {
        log_error("not enough memory for Lua");
        return EXIT_FAILURE;
    }
    binding_install_sigint();
    set_paths(L, share);
    use_bundle(L, share);
    int status = run(L, share, argc, argv);
    bindings_close();
    bundle_close();
    main_loop_finalize();
    g_free(share);
    return status;
}
