/*
 * The file that holds the process id while the process runs: vmlua.core.process.pidfile. It goes on
 * every way out that a process can do anything on, os.exit and the third Ctrl-C among them.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"

static char pidfile[PATH_MAX]; /* absolute: a script may change the folder. Empty: none */
static pid_t pidfile_owner;    /* a child between fork and exec is another */

void script_pidfile_remove(void)
{
    if (pidfile[0] && pidfile_owner == getpid()) {
        unlink(pidfile);
        pidfile[0] = '\0';
    }
}

static bool write_pidfile(const char *path, GError **error)
{
    char text[24];
    const int len = g_snprintf(text, sizeof text, "%d\n", (int)getpid());
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return error_set_errno(error, "%s", path);
    }
    const bool written = write(fd, text, (size_t)len) == len && realpath(path, pidfile);
    if (!written) {
        pidfile[0] = '\0';
        error_set_errno(error, "%s", path);
        unlink(path);
    }
    close(fd);
    return written;
}

/* process.pidfile([path]) */
int script_pidfile(lua_State *L)
{
    static bool registered;
    const char *path = luaL_optstring(L, 1, NULL);
    GError *error = NULL;

    script_pidfile_remove();
    if (path) {
        if (!registered) {
            registered = atexit(script_pidfile_remove) == 0;
        }
        pidfile_owner = getpid();
        if (!write_pidfile(path, &error)) {
            return binding_fail(L, error);
        }
    }
    lua_pushboolean(L, true);
    return 1;
}
