/* vmlua.core.fs: what plain Lua lacks of files, folders and the environment. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"

static int fail_errno(lua_State *L, const char *what)
{
    int e = errno;
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", what, strerror(e));
    lua_pushinteger(L, e);
    return 3;
}

static int done(lua_State *L, int rc, const char *what)
{
    if (rc < 0) {
        return fail_errno(L, what);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int dir_gc(lua_State *L)
{
    DIR **dir = luaL_checkudata(L, 1, "vmlua.dir");
    if (*dir) {
        closedir(*dir);
        *dir = NULL;
    }
    return 0;
}

static int l_listdir(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    DIR **dir = lua_newuserdatauv(L, sizeof(DIR *), 0);
    *dir = NULL;
    if (luaL_newmetatable(L, "vmlua.dir")) {
        lua_pushcfunction(L, dir_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    *dir = opendir(path);
    if (!*dir) {
        return fail_errno(L, path);
    }
    lua_newtable(L);
    lua_Integer n = 0;
    for (struct dirent *e; (e = readdir(*dir));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            lua_pushstring(L, e->d_name);
            lua_rawseti(L, -2, ++n);
        }
    }
    closedir(*dir);
    *dir = NULL;
    return 1;
}

static int l_stat(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct stat st;
    if (stat(path, &st) < 0) {
        return fail_errno(L, path);
    }
    lua_createtable(L, 0, 5);
    lua_pushstring(L, S_ISREG(st.st_mode)    ? "file"
                      : S_ISDIR(st.st_mode)  ? "directory"
                      : S_ISBLK(st.st_mode)  ? "block"
                      : S_ISCHR(st.st_mode)  ? "char"
                      : S_ISFIFO(st.st_mode) ? "fifo"
                      : S_ISSOCK(st.st_mode) ? "socket"
                                             : "other");
    lua_setfield(L, -2, "type");
    lua_pushinteger(L, st.st_size);
    lua_setfield(L, -2, "size");
    lua_pushinteger(L, st.st_mode & 07777);
    lua_setfield(L, -2, "mode");
    lua_pushnumber(L, (double)st.st_mtim.tv_sec + (double)st.st_mtim.tv_nsec * 1e-9);
    lua_setfield(L, -2, "mtime");
    lua_pushinteger(L, (lua_Integer)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
    lua_setfield(L, -2, "mtime_ns");
    return 1;
}

static int l_realpath(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    char buf[PATH_MAX];
    if (!realpath(path, buf)) {
        return fail_errno(L, path);
    }
    lua_pushstring(L, buf);
    return 1;
}

static int l_getcwd(lua_State *L)
{
    char buf[PATH_MAX];
    if (!getcwd(buf, sizeof buf)) {
        return fail_errno(L, "current directory");
    }
    lua_pushstring(L, buf);
    return 1;
}

static int l_unlink(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    return done(L, unlink(path), path);
}

static int l_chmod(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    return done(L, chmod(path, (mode_t)luaL_checkinteger(L, 2) & 07777), path);
}

static int l_mkdir(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    int mode = lua_isnoneornil(L, 2) ? 0777 : (int)binding_check_range(L, 2, 0, 07777, "mode");
    int rc = g_mkdir_with_parents(path, mode);
    return done(L, rc, path);
}

/* ---- temporary folders: only what mkdtemp made here can be removed as a tree -------------------
 */

static GHashTable *own_dirs;

static int l_mkdtemp(lua_State *L)
{
    const char *prefix = luaL_optstring(L, 1, "vmlua");
    const char *tmp = getenv("TMPDIR");
    char path[PATH_MAX];
    luaL_argcheck(L, !strchr(prefix, '/'), 1, "a prefix without '/' expected");
    if ((size_t)snprintf(path, sizeof path, "%s/%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", prefix) >=
        sizeof path) {
        errno = ENAMETOOLONG;
        return fail_errno(L, prefix);
    }
    if (!mkdtemp(path)) {
        return fail_errno(L, path);
    }
    if (!own_dirs) {
        own_dirs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    }
    g_hash_table_add(own_dirs, g_strdup(path));
    lua_pushstring(L, path);
    return 1;
}

static bool remove_tree_at(int parent, const char *name, unsigned depth)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    bool ok = dir != NULL && depth < 64;
    if (!dir && fd >= 0) {
        close(fd);
    }
    for (struct dirent *e; ok && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            continue;
        }
        if (unlinkat(fd, e->d_name, 0) < 0) {
            ok = (errno == EISDIR || errno == EPERM) && remove_tree_at(fd, e->d_name, depth + 1);
        }
    }
    if (dir) {
        closedir(dir);
    }
    return ok && unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

static int l_rmtree(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    if (!own_dirs || !g_hash_table_contains(own_dirs, path)) {
        return luaL_error(L, "rmtree: %s was not made by mkdtemp in this process", path);
    }
    bool ok = remove_tree_at(AT_FDCWD, path, 0);
    int e = errno;
    if (ok) {
        g_hash_table_remove(own_dirs, path);
    }
    errno = e;
    return done(L, ok ? 0 : -1, path);
}

static int check_fd(lua_State *L)
{
    return (int)binding_check_range(L, 1, 0, INT32_MAX, "file descriptor");
}

/* ---- environment and descriptors
 * ------------------------------------------------------------------ */

static int l_isatty(lua_State *L)
{
    lua_pushboolean(L, isatty(check_fd(L)));
    return 1;
}

static int l_setenv(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    const char *value = luaL_optstring(L, 2, NULL);
    return done(L, value ? setenv(name, value, 1) : unsetenv(name), name);
}

static int l_read_fd(lua_State *L)
{
    int fd = check_fd(L);
    size_t max = lua_isnoneornil(L, 2)
                     ? 4096
                     : (size_t)binding_check_range(L, 2, 1, 1 << 20, "number of bytes");
    luaL_Buffer b;
    char *p = luaL_buffinitsize(L, &b, max);
    ssize_t n = read(fd, p, max);
    if (n < 0) {
        return fail_errno(L, "read");
    }
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

static int l_write_fd(lua_State *L)
{
    int fd = check_fd(L);
    size_t len;
    const char *p = luaL_checklstring(L, 2, &len);
    ssize_t n = write(fd, p, len);
    if (n < 0) {
        return fail_errno(L, "write");
    }
    lua_pushinteger(L, n);
    return 1;
}

static const ApiFunction functions[] = {
    { "listdir", l_listdir, "(path: string): string[]?, string?",
      "Names in a folder, without . and .., in no order." },
    { "stat", l_stat, "(path: string): table?, string?",
      "type (\"file\", \"directory\", …), size, mode, mtime (seconds), mtime_ns of a file." },
    { "realpath", l_realpath, "(path: string): string?, string?",
      "The absolute path without links." },
    { "getcwd", l_getcwd, "(): string", "The current folder." },
    { "unlink", l_unlink, "(path: string): boolean?, string?", "Removes a file." },
    { "chmod", l_chmod, "(path: string, mode: integer): boolean?, string?",
      "Sets the permission bits of a file." },
    { "mkdir", l_mkdir, "(path: string, mode: integer?): boolean?, string?",
      "Makes a folder and those above it." },
    { "mkdtemp", l_mkdtemp, "(prefix: string?): string?, string?",
      "Makes a fresh folder for temporary files." },
    { "rmtree", l_rmtree, "(path: string): boolean?, string?",
      "Removes a folder that mkdtemp made, with all that is in it." },
    { "isatty", l_isatty, "(fd: integer): boolean",
      "Whether a file descriptor (0, 1, 2) is a terminal." },
    { "setenv", l_setenv, "(name: string, value: string?): boolean?, string?",
      "Sets an environment variable, or removes it." },
    { "read", l_read_fd, "(fd: integer, max: integer?): string?, string?, integer?",
      "Reads what a file descriptor has; \"\" at its end." },
    { "write", l_write_fd, "(fd: integer, data: string): integer?, string?, integer?",
      "Writes to a file descriptor; returns how much it took." },
    { NULL },
};

void binding_open_fs(lua_State *L)
{
    binding_module(L, "vmlua.core.fs", "Files, folders and the environment.", functions);
}
