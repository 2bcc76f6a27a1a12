/*
 * The scripts as bytecode, in one file that the build makes (scripts/vmlua/bundle.lua): parsing the
 * launcher and the machine library costs several times what everything else before the first guest
 * instruction does.
 *
 * The sources stay what counts: an entry is used only while its source file still has the size and
 * the time that it had when the bundle was made.
 *
 *   "VMLUABC1", u32 length, version text; then per module: u32 length, module name; u32 length,
 *   path of the source below the scripts folder; i64 its size; i64 its time in ns; u32 length,
 *   bytecode
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bindings/binding-priv.h"

#define MAGIC "VMLUABC1"

static struct {
    const char *data;
    size_t size;
    char *scripts; /* the folder of the sources */
} bundle;

typedef struct Cursor {
    const char *at;
    size_t left;
} Cursor;

static bool take(Cursor *c, void *out, size_t n)
{
    if (c->left < n) {
        return false;
    }
    memcpy(out, c->at, n);
    c->at += n;
    c->left -= n;
    return true;
}

static bool take_text(Cursor *c, const char **text, size_t *len)
{
    uint32_t n;
    if (!take(c, &n, sizeof n) || c->left < n) {
        return false;
    }
    *text = c->at;
    *len = n;
    c->at += n;
    c->left -= n;
    return true;
}

static bool is_current(const char *path, size_t len, int64_t size, int64_t time)
{
    char full[PATH_MAX];
    struct stat st;
    if ((size_t)snprintf(full, sizeof full, "%s/%.*s", bundle.scripts, (int)len, path) >=
        sizeof full) {
        return false;
    }
    return stat(full, &st) == 0 && st.st_size == size &&
           (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec == time;
}

/* A package searcher: the loader, or a string that says why not. */
static int search(lua_State *L)
{
    size_t want_len;
    const char *want = luaL_checklstring(L, 1, &want_len);
    Cursor c = { bundle.data + strlen(MAGIC), bundle.size - strlen(MAGIC) };
    const char *version, *name, *path, *code;
    size_t version_len, name_len, path_len, code_len;

    if (!take_text(&c, &version, &version_len)) {
        return 0;
    }
    while (take_text(&c, &name, &name_len)) {
        int64_t size, time;
        if (!take_text(&c, &path, &path_len) || !take(&c, &size, sizeof size) ||
            !take(&c, &time, sizeof time) || !take_text(&c, &code, &code_len)) {
            return 0;
        }
        if (name_len != want_len || memcmp(name, want, name_len) != 0) {
            continue;
        }
        if (!is_current(path, path_len, size, time) ||
            luaL_loadbufferx(L, code, code_len, want, "b") != LUA_OK) {
            return 0;
        }
        lua_pushlstring(L, path, path_len);
        return 2;
    }
    return 0;
}

static bool map_file(const char *file)
{
    struct stat st;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    if (fstat(fd, &st) == 0 && (size_t)st.st_size > strlen(MAGIC)) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p != MAP_FAILED) {
            bundle.data = p;
            bundle.size = (size_t)st.st_size;
        }
    }
    close(fd);
    return bundle.data != NULL;
}

void bundle_open(lua_State *L, const char *file, const char *scripts, const char *version)
{
    const char *text;
    size_t len;

    if (!map_file(file)) {
        return;
    }
    Cursor c = { bundle.data + strlen(MAGIC), bundle.size - strlen(MAGIC) };
    if (memcmp(bundle.data, MAGIC, strlen(MAGIC)) != 0 || !take_text(&c, &text, &len) ||
        len != strlen(version) || memcmp(text, version, len) != 0) {
        bundle_close();
        return;
    }
    bundle.scripts = g_strdup(scripts);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "searchers");
    for (lua_Integer i = luaL_len(L, -1); i >= 2; i--) { /* the first looks into package.preload */
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushcfunction(L, search);
    lua_rawseti(L, -2, 2);
    lua_pop(L, 2);
}

void bundle_close(void)
{
    if (bundle.data) {
        munmap((void *)(uintptr_t)bundle.data, bundle.size);
    }
    g_free(bundle.scripts);
    memset(&bundle, 0, sizeof bundle);
}
