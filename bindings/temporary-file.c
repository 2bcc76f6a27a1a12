/* Files that are not there before they are whole. */
#include "bindings/binding.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define TEMPORARY_CLASS "vmlua.temporary-file"

/* A file that goes with its userdata, however the script ends, unless it was kept. */
typedef struct Temporary {
    char *path;
} Temporary;

static void temporary_forget(Temporary *t)
{
    g_free(t->path);
    t->path = NULL;
}

static int temporary_gc(lua_State *L)
{
    Temporary *t = lua_touserdata(L, 1);

    if (t->path) {
        unlink(t->path);
        temporary_forget(t);
    }
    return 0;
}

int binding_temporary_file(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    Temporary *t = binding_new_userdata(L, TEMPORARY_CLASS, sizeof(*t));

    t->path = g_strdup(path);
    return 1;
}

/* The two change their names, and what was there goes: a plain rename over a file makes some file
 * systems write out the new one first. */
static int take_name(const char *path, const char *name)
{
    if (renameat2(AT_FDCWD, path, AT_FDCWD, name, RENAME_EXCHANGE) == 0) {
        return unlink(path);
    }
    return rename(path, name);
}

/* (t, name): it gets that name, and stays. */
static int temporary_keep(lua_State *L)
{
    Temporary *t = binding_check_userdata(L, 1, TEMPORARY_CLASS);
    const char *name = luaL_checkstring(L, 2);

    luaL_argcheck(L, t->path, 1, "it is gone");
    if (take_name(t->path, name) < 0) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s", name, g_strerror(errno));
        return 2;
    }
    temporary_forget(t);
    lua_pushboolean(L, 1);
    return 1;
}

static int temporary_remove(lua_State *L)
{
    binding_check_userdata(L, 1, TEMPORARY_CLASS);
    return temporary_gc(L);
}

static const ApiFunction temporary_methods[] = {
    { "keep", temporary_keep, "(name: string): boolean?, string?",
      "The file is whole: it gets that name." },
    { "remove", temporary_remove, "()", "The file goes." },
    { "__close", temporary_remove, NULL, NULL },
    { 0 },
};

void binding_open_temporary_file(lua_State *L)
{
    binding_userdata_class(L, TEMPORARY_CLASS, "A file that is not whole yet.", temporary_methods,
                           NULL, temporary_gc);
}
