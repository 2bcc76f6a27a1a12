/*
 * vmlua.core.edit: libedit's line editor, driven by the main loop instead of blocking in a read.
 *
 * One editor a process (libedit's callback interface keeps its state in globals). The REPL's logic
 * is in scripts/vmlua/repl.lua.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <editline/readline.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"

static struct {
    bool active, hidden, feeding;
    char *prompt;
    GSource *source;
    ScriptRef *on_line, *complete;
} edit;

static void line_done(char *line);

static void install(void)
{
    rl_callback_handler_install(edit.prompt, line_done);
    edit.hidden = false;
}

/* From inside rl_callback_read_char: the script may stop the editor here. */
static void line_done(char *line)
{
    lua_State *L = binding_state();
    if (line) {
        lua_pushstring(L, line);
    } else {
        lua_pushnil(L);
    }
    free(line);
    binding_invoke(L, edit.on_line, 1, false);
}

static gboolean input_ready(int fd, GIOCondition cond, void *opaque)
{
    if (edit.active && !edit.hidden) {
        edit.feeding = true;
        rl_callback_read_char();
        edit.feeding = false;
        fflush(stdout);
    }
    return edit.active ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

static size_t common_prefix(char **words, size_t n)
{
    size_t len = strlen(words[0]);
    for (size_t i = 1; i < n; i++) {
        size_t k = 0;
        while (k < len && words[i][k] == words[0][k]) {
            k++;
        }
        len = k;
    }
    return len;
}

/* libedit frees the vector and its strings with free(). */
static char **complete(const char *text, int start, int end)
{
    lua_State *L = binding_state();
    GError *error = NULL;
    char **out = NULL;

    rl_attempted_completion_over = 1;
    rl_completion_append_character = '\0';
    if (!script_ref_push(L, edit.complete)) {
        return NULL;
    }
    lua_pushstring(L, text);
    lua_pushstring(L, rl_line_buffer);
    lua_pushinteger(L, start + 1);
    if (!binding_call(L, 3, 1, false, "completion", &error)) {
        binding_report(error);
        return NULL;
    }
    size_t n = lua_istable(L, -1) ? lua_rawlen(L, -1) : 0;
    if (n > 0 && n < 10000) {
        out = calloc(n + 2, sizeof(char *));
        size_t k = 0;
        for (size_t i = 1; i <= n; i++) {
            if (lua_rawgeti(L, -1, (lua_Integer)i) == LUA_TSTRING) {
                out[++k] = strdup(lua_tostring(L, -1));
            }
            lua_pop(L, 1);
        }
        if (k == 0) {
            free(out);
            out = NULL;
        } else {
            out[0] = strndup(out[1], common_prefix(out + 1, k));
            if (k == 1) {
                free(out[1]);
                out[1] = NULL;
            }
        }
    }
    lua_pop(L, 1);
    return out;
}

static int l_start(lua_State *L)
{
    const char *prompt = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    if (edit.active) {
        return luaL_error(L, "the line editor is already running");
    }
    ScriptRef *on_line = script_ref_new(L, 2, NULL, "line handler");
    ScriptRef *fn = lua_isfunction(L, 3) ? script_ref_new(L, 3, NULL, "completion") : NULL;
    static bool initialized;
    if (!initialized) {
        initialized = true;
        rl_readline_name = "vmlua";
        rl_catch_signals = 0;
        rl_initialize();
        using_history();
        rl_completer_word_break_characters = (char *)(uintptr_t) " \t\n\"'=+-*%^#<>~(){}[];,|&!";
        rl_attempted_completion_function = complete;
    }
    edit.on_line = on_line;
    edit.complete = fn;
    edit.prompt = g_strdup(prompt);
    edit.active = true;
    install();
    edit.source = main_loop_add_fd(STDIN_FILENO, G_IO_IN | G_IO_HUP, input_ready, NULL);
    return 0;
}

static int l_stop(lua_State *L)
{
    if (edit.active) {
        edit.active = false;
        rl_callback_handler_remove();
        g_source_destroy(edit.source);
        g_source_unref(edit.source);
        edit.source = NULL;
        script_ref_free(edit.on_line);
        script_ref_free(edit.complete);
        edit.on_line = edit.complete = NULL;
        g_free(edit.prompt);
        edit.prompt = NULL;
    }
    return 0;
}

static int l_prompt(lua_State *L)
{
    const char *prompt = luaL_checkstring(L, 1);
    g_free(edit.prompt);
    edit.prompt = g_strdup(prompt);
    if (edit.active) {
        rl_set_prompt(edit.prompt);
        if (!edit.feeding && !edit.hidden) {
            rl_forced_update_display();
        }
    }
    return 0;
}

static int l_hide(lua_State *L)
{
    if (edit.active && !edit.hidden) {
        edit.hidden = true;
        fputs("\r\033[K", stdout);
        fflush(stdout);
    }
    return 0;
}

static int l_show(lua_State *L)
{
    if (edit.active && edit.hidden) {
        edit.hidden = false;
        rl_forced_update_display();
        fflush(stdout);
    }
    return 0;
}

static int l_cancel(lua_State *L)
{
    if (edit.active) {
        rl_callback_handler_remove();
        fputs("^C\n", stdout);
        install();
        rl_forced_update_display();
        fflush(stdout);
    }
    return 0;
}

static int l_line(lua_State *L)
{
    lua_pushstring(L, edit.active && rl_line_buffer ? rl_line_buffer : "");
    return 1;
}

static int l_history_add(lua_State *L)
{
    add_history(luaL_checkstring(L, 1));
    return 0;
}

static int history_result(lua_State *L, int rc, const char *path)
{
    if (rc != 0) {
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %s", path, strerror(rc > 0 ? rc : 5));
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int l_history_load(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    using_history();
    return history_result(L, read_history(path), path);
}

static int l_history_save(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    stifle_history((int)luaL_optinteger(L, 2, 1000));
    return history_result(L, write_history(path), path);
}

static const ApiFunction functions[] = {
    { "start", l_start,
      "(prompt: string, on_line: fun(line: string?), complete: fun(word: string, line: string, "
      "start: integer): string[]?)",
      "Shows the prompt and edits lines from now on; on_line gets each, nil at the end of input." },
    { "stop", l_stop, "()", "Ends editing and puts the terminal back." },
    { "set_prompt", l_prompt, "(prompt: string)", "The prompt from now on." },
    { "hide", l_hide, "()", "Takes prompt and line off the screen, before other output." },
    { "show", l_show, "()", "Puts them back." },
    { "cancel", l_cancel, "()", "Drops the line that is being edited (Ctrl-C)." },
    { "line", l_line, "(): string", "The line as edited so far." },
    { "history_add", l_history_add, "(line: string)", "Appends to the history." },
    { "history_load", l_history_load, "(path: string): boolean?, string?",
      "Reads a history file." },
    { "history_save", l_history_save, "(path: string, max: integer?): boolean?, string?",
      "Writes the last lines of the history to a file." },
    { NULL },
};

void binding_open_edit(lua_State *L)
{
    binding_module(L, "vmlua.core.edit", "A line editor for the REPL.", functions);
}
