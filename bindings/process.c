/* vmlua.core.process: child processes with their output delivered by the main loop. */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"
#include "engine/core/units.h"

#define PROCESS_CLASS "vmlua.process"
#define INPUT_MAX     (16 * MiB) /* kept for a child that does not read */

/* Lives until the child has ended, both outputs are at their end, and the userdata is collected. */
typedef struct Process {
    GPid pid;
    bool ended;
    bool group; /* it leads a process group that ends with it */
    bool left;  /* something else of that group was still there when it ended */
    int status;
    GByteArray *input; /* for its stdin, not written yet; NULL: nothing */
    bool input_ends;   /* its stdin is closed after that */
    int fd[3];         /* stdin of the child, its stdout and stderr; -1: not ours or closed */
    GSource *source[3];
    GSource *child;
    ScriptRef *out[3]; /* [1], [2] */
    ScriptRef *on_exit;
    bool told, collected;
    unsigned busy;
} Process;

static void process_maybe_free(Process *p)
{
    if (p->collected && p->told && !p->busy) {
        g_free(p);
    }
}

static void close_fd(Process *p, int i)
{
    if (p->source[i]) {
        g_source_destroy(p->source[i]);
        g_source_unref(p->source[i]);
        p->source[i] = NULL;
    }
    if (p->fd[i] >= 0) {
        close(p->fd[i]);
        p->fd[i] = -1;
    }
    if (i == 0) {
        g_clear_pointer(&p->input, g_byte_array_unref);
    }
}

/* Writes of its input what the pipe takes; false: the child reads no more. */
static bool feed(Process *p)
{
    while (p->input->len) {
        ssize_t n = write(p->fd[0], p->input->data, p->input->len);
        if (n < 0) {
            return errno == EAGAIN || errno == EINTR;
        }
        g_byte_array_remove_range(p->input, 0, (guint)n);
    }
    return true;
}

static gboolean input_ready(int fd, GIOCondition cond, void *opaque)
{
    Process *p = opaque;
    if (!feed(p) || (!p->input->len && p->input_ends)) {
        close_fd(p, 0);
        return G_SOURCE_REMOVE;
    }
    if (p->input->len) {
        return G_SOURCE_CONTINUE;
    }
    g_clear_pointer(&p->input, g_byte_array_unref);
    g_source_unref(p->source[0]);
    p->source[0] = NULL;
    return G_SOURCE_REMOVE;
}

/* The exit is told after all output has been. */
static void tell_exit(Process *p)
{
    if (!p->ended || p->fd[1] >= 0 || p->fd[2] >= 0 || p->told) {
        return;
    }
    p->told = true;
    close_fd(p, 0);
    if (p->on_exit) {
        lua_State *L = binding_state();
        bool exited = WIFEXITED(p->status);
        if (exited) {
            lua_pushinteger(L, WEXITSTATUS(p->status));
            lua_pushnil(L);
        } else {
            lua_pushnil(L);
            lua_pushinteger(L, WTERMSIG(p->status));
        }
        lua_pushboolean(L, p->left);
        p->busy++;
        binding_invoke(L, p->on_exit, 3, false);
        p->busy--;
    }
    for (int i = 1; i < 3; i++) {
        script_ref_free(p->out[i]);
        p->out[i] = NULL;
    }
    script_ref_free(p->on_exit);
    p->on_exit = NULL;
    process_maybe_free(p);
}

static gboolean output_ready(int fd, GIOCondition cond, void *opaque)
{
    Process *p = opaque;
    int i = fd == p->fd[1] ? 1 : 2;
    char buf[16384];
    ssize_t n = read(fd, buf, sizeof buf);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
        return G_SOURCE_CONTINUE;
    }
    if (n > 0) {
        if (p->out[i]) {
            lua_State *L = binding_state();
            lua_pushlstring(L, buf, (size_t)n);
            p->busy++;
            binding_invoke(L, p->out[i], 1, false);
            p->busy--;
        }
        return G_SOURCE_CONTINUE;
    }
    close_fd(p, i);
    tell_exit(p);
    return G_SOURCE_REMOVE;
}

static void child_ended(GPid pid, int status, void *opaque)
{
    Process *p = opaque;
    p->ended = true;
    p->status = status;
    if (p->group) {
        p->left = kill(-pid, SIGKILL) == 0;
    }
    g_source_unref(p->child);
    p->child = NULL;
    tell_exit(p);
}

static void process_collected(void *data)
{
    Process *p = data;
    p->collected = true;
    process_maybe_free(p);
}

static int process_gc(lua_State *L)
{
    Process **p = lua_touserdata(L, 1);
    if (*p) {
        binding_defer(process_collected, *p);
        *p = NULL;
    }
    return 0;
}

/* A NULL-terminated vector over strings of a Lua array (which keeps them), in a userdata. */
static char **check_strings(lua_State *L, int idx, const char *what)
{
    lua_Integer n = luaL_len(L, idx);
    if (n < 0 || n > 10000) {
        luaL_error(L, "%s: too many strings", what);
    }
    char **v = lua_newuserdatauv(L, sizeof(char *) * ((size_t)n + 1), 0);
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_rawgeti(L, idx, i) != LUA_TSTRING) {
            luaL_error(L, "%s[%d]: a string expected, got %s", what, (int)i, luaL_typename(L, -1));
        }
        v[i - 1] = (char *)(uintptr_t)lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    v[n] = NULL;
    return v;
}

static char **check_env(lua_State *L, int idx)
{
    /* { NAME = "value" } over the present environment, as an array of "NAME=value". */
    gchar **names = g_get_environ();
    lua_newtable(L);
    lua_newtable(L);
    int list = lua_gettop(L), seen = list - 1;
    for (char **e = names; e && *e; e++) {
        char *eq = strchr(*e, '=');
        if (eq) {
            lua_pushlstring(L, *e, (size_t)(eq - *e));
            lua_pushstring(L, eq + 1);
            lua_rawset(L, seen);
        }
    }
    g_strfreev(names);
    lua_pushnil(L);
    while (lua_next(L, idx)) {
        if (lua_type(L, -2) != LUA_TSTRING || !lua_isstring(L, -1)) {
            luaL_error(L, "env: names and strings expected");
        }
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, seen);
    }
    lua_Integer n = 0;
    lua_pushnil(L);
    while (lua_next(L, seen)) {
        lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), lua_tostring(L, -1));
        lua_rawseti(L, list, ++n);
        lua_pop(L, 1);
    }
    return check_strings(L, list, "env");
}

static ScriptRef *opt_function(lua_State *L, const char *key, const char *what)
{
    ScriptRef *ref = NULL;
    if (binding_get_key(L, 1, key) == LUA_TFUNCTION) {
        ref = script_ref_new(L, -1, NULL, what);
    }
    lua_pop(L, 1);
    return ref;
}

/* Between fork and exec: only calls that are safe there. */
static void child_of_group(gpointer data)
{
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

static void child_detached(gpointer data)
{
    setsid();
}

static int l_spawn(lua_State *L)
{
    static const char *const keys[] = { "argv",   "env",     "cwd",   "stdin",    "stdout",
                                        "stderr", "on_exit", "group", "detached", NULL };
    static const char *const fns[] = { "stdout", "stderr", "on_exit", NULL };
    binding_check_keys(L, 1, keys, "spawn");
    for (int i = 0; fns[i]; i++) {
        int type = binding_get_key(L, 1, fns[i]);
        if (type != LUA_TNIL && type != LUA_TFUNCTION) {
            return luaL_error(L, "spawn: %s: a function expected, got %s", fns[i],
                              luaL_typename(L, -1));
        }
        lua_pop(L, 1);
    }
    if (binding_get_key(L, 1, "argv") != LUA_TTABLE || luaL_len(L, -1) < 1) {
        return luaL_error(L, "spawn: argv: a list of strings expected");
    }
    char **argv = check_strings(L, lua_gettop(L), "spawn: argv");
    char **env = NULL;
    if (binding_get_key(L, 1, "env") == LUA_TTABLE) {
        env = check_env(L, lua_gettop(L));
    }
    binding_get_key(L, 1, "cwd");
    const char *cwd = luaL_optstring(L, -1, NULL);
    bool want_stdin = binding_get_key(L, 1, "stdin") != LUA_TNIL && lua_toboolean(L, -1);
    bool group = binding_get_key(L, 1, "group") != LUA_TNIL && lua_toboolean(L, -1);
    bool detached = binding_get_key(L, 1, "detached") != LUA_TNIL && lua_toboolean(L, -1);
    Process **ud = binding_new_userdata(L, PROCESS_CLASS, sizeof(Process *));

    Process *p = g_new0(Process, 1);
    *ud = p;
    p->told = true; /* until it runs */
    p->fd[0] = p->fd[1] = p->fd[2] = -1;
    p->out[1] = opt_function(L, "stdout", "stdout handler");
    p->out[2] = opt_function(L, "stderr", "stderr handler");
    p->on_exit = opt_function(L, "on_exit", "exit handler");
    GSpawnFlags flags = G_SPAWN_DO_NOT_REAP_CHILD | G_SPAWN_SEARCH_PATH;
    if (!p->out[1]) {
        flags |= G_SPAWN_CHILD_INHERITS_STDOUT;
    }
    if (!p->out[2]) {
        flags |= G_SPAWN_CHILD_INHERITS_STDERR;
    }
    p->group = group;
    GSpawnChildSetupFunc setup = group ? child_of_group : detached ? child_detached : NULL;
    GError *error = NULL;
    if (!g_spawn_async_with_pipes(cwd, argv, env, flags, setup, NULL, &p->pid,
                                  want_stdin ? &p->fd[0] : NULL, p->out[1] ? &p->fd[1] : NULL,
                                  p->out[2] ? &p->fd[2] : NULL, &error)) {
        for (int i = 1; i < 3; i++) {
            script_ref_free(p->out[i]);
            p->out[i] = NULL;
        }
        script_ref_free(p->on_exit);
        p->on_exit = NULL;
        p->ended = true;
        return binding_fail(L, error);
    }
    p->told = false;
    if (p->fd[0] >= 0) {
        g_unix_set_fd_nonblocking(p->fd[0], TRUE,
                                  NULL); /* a child that does not read stops nobody */
    }
    for (int i = 1; i < 3; i++) {
        if (p->fd[i] >= 0) {
            p->source[i] = main_loop_add_fd(p->fd[i], G_IO_IN | G_IO_HUP | G_IO_ERR, output_ready,
                                            p);
        }
    }
    p->child = g_child_watch_source_new(p->pid);
    g_source_set_callback(p->child, G_SOURCE_FUNC(child_ended), p, NULL);
    g_source_attach(p->child, main_loop_context());
    return 1;
}

static Process *check_process(lua_State *L)
{
    Process **p = binding_check_userdata(L, 1, PROCESS_CLASS);
    return *p;
}

static int l_kill(lua_State *L)
{
    Process *p = check_process(L);
    int sig = lua_isnoneornil(L, 2) ? SIGTERM : (int)binding_check_range(L, 2, 0, 64, "signal");
    /* The child is reaped by its watch only, so that until then the number is its own. */
    lua_pushboolean(L, p && !p->ended && kill(p->group ? -p->pid : p->pid, sig) == 0);
    return 1;
}

static int l_write(lua_State *L)
{
    Process *p = check_process(L);
    size_t len;
    const char *data = luaL_checklstring(L, 2, &len);
    if (!p || p->fd[0] < 0 || p->input_ends) {
        lua_pushnil(L);
        lua_pushliteral(L, "the process has no open standard input");
        return 2;
    }
    bool waiting = p->input != NULL;
    if (!waiting) {
        p->input = g_byte_array_new();
    }
    len = MIN(len, INPUT_MAX - p->input->len);
    g_byte_array_append(p->input, (const guint8 *)data, (guint)len);
    if (!waiting && !feed(p)) {
        int e = errno;
        g_clear_pointer(&p->input, g_byte_array_unref);
        lua_pushnil(L);
        lua_pushstring(L, strerror(e));
        return 2;
    }
    if (!p->input->len) {
        g_clear_pointer(&p->input, g_byte_array_unref);
    } else if (!waiting) {
        p->source[0] = main_loop_add_fd(p->fd[0], G_IO_OUT | G_IO_ERR, input_ready, p);
    }
    lua_pushinteger(L, (lua_Integer)len);
    return 1;
}

static int l_close_stdin(lua_State *L)
{
    Process *p = check_process(L);
    if (p && p->input) {
        p->input_ends = true;
    } else if (p) {
        close_fd(p, 0);
    }
    return 0;
}

static int l_pid(lua_State *L)
{
    Process *p = check_process(L);
    lua_pushinteger(L, p ? p->pid : 0);
    return 1;
}

static int l_running(lua_State *L)
{
    Process *p = check_process(L);
    lua_pushboolean(L, p && !p->ended);
    return 1;
}

static const ApiFunction methods[] = {
    { "kill", l_kill, "(self, signal: integer?): boolean",
      "Sends a signal (15, the request to end, by default)." },
    { "write", l_write, "(self, data: string): integer?, string?",
      "Sends to its standard input, as fast as the program reads; how much of it was taken: up to "
      "16 "
      "MiB\nare kept for a program that does not." },
    { "close_stdin", l_close_stdin, "(self)", "Ends its standard input, after what was written." },
    { NULL },
};
static const ApiField fields[] = {
    { "pid", l_pid, NULL, "integer", "Process id." },
    { "running", l_running, NULL, "boolean", "Whether it has not ended yet." },
    { NULL },
};

static int l_own_pid(lua_State *L)
{
    lua_pushinteger(L, getpid());
    return 1;
}

static int l_own_signal(lua_State *L)
{
    kill(getpid(), (int)binding_check_range(L, 1, 1, 64, "signal"));
    return 0;
}

static int errno_result(lua_State *L, const char *what)
{
    lua_pushnil(L);
    lua_pushfstring(L, "%s: %s", what, strerror(errno));
    return 2;
}

static int l_detach(lua_State *L)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return errno_result(L, "/dev/null");
    }
    setsid(); /* fails only where we lead a session already */
    for (int i = 0; i < 3; i++) {
        dup2(fd, i);
    }
    close(fd);
    lua_pushboolean(L, 1);
    return 1;
}

static int l_runas(lua_State *L)
{
    const char *user = luaL_checkstring(L, 1);
    errno = 0;
    const struct passwd *pw = getpwnam(user);
    if (!pw) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s", user, errno ? strerror(errno) : "no such user");
        return 2;
    }
    if (initgroups(user, pw->pw_gid) || setgid(pw->pw_gid) || setuid(pw->pw_uid)) {
        return errno_result(L, user);
    }
    if (pw->pw_uid != 0 && setuid(0) == 0) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: root could be taken back", user);
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}

static const ApiFunction functions[] = {
    { "spawn", l_spawn,
      "(options: {argv: string[], env?: table, cwd?: string, stdin?: boolean, stdout?: function, "
      "stderr?: function, on_exit?: fun(code: integer?, signal: integer?, left: boolean), "
      "group?: boolean, detached?: boolean}): process?, string?",
      "Starts a program; output and end are told to functions from the main loop. A group is "
      "signalled "
      "as a whole, and ends with its leader (left says that others had to be ended) and with us; a "
      "detached program outlives us." },
    { "pid", l_own_pid, "(): integer", "The process id of this program." },
    { "signal", l_own_signal, "(number: integer)", "Sends a signal to this program itself." },
    { "detach", l_detach, "(): boolean?, string?",
      "Leaves the terminal: a session of its own, standard streams on /dev/null." },
    { "runas", l_runas, "(user: string): boolean?, string?",
      "Gives up root for good and becomes this user." },
    { "pidfile", script_pidfile, "(path?: string): boolean?, string?",
      "Writes the process id to a file that goes when the process ends, on any way out; nil: it "
      "goes "
      "now." },
    { "sandbox", script_sandbox,
      "(deny: { spawn?: boolean, elevateprivileges?: boolean, resourcecontrol?: boolean }?): "
      "boolean?, string?",
      "From now on the kernel refuses system calls that change the host or look into other "
      "processes; those of the groups named in `deny`, too. For good, and for all threads." },
    { NULL },
};

void binding_open_process(lua_State *L)
{
    binding_module(L, "vmlua.core.process", "Child processes.", functions);
    binding_userdata_class(L, PROCESS_CLASS, "A child process.", methods, fields, process_gc);
}
