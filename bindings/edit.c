/*
 * vmlua.core.edit: libedit's line editor, driven by the main loop instead of blocking in a read.
 *
 * One editor a process (libedit's callback interface keeps its state in globals). The REPL's logic
 * is in scripts/vmlua/repl.lua.
 */
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include <editline/readline.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"

static struct {
    bool active, hidden, feeding;
    char *prompt;
    GSource *source;
    ScriptRef *on_line, *complete, *on_escape;
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

/* ---- keys after Ctrl-A -------------------------------------------------------------------------
 */

static const char escape_keys[] = "cxbh?";

static int escape_key(int count, int key)
{
    lua_State *L = binding_state();
    const char c = (char)key;
    lua_pushlstring(L, &c, 1);
    binding_invoke(L, edit.on_escape, 1, false);
    return 0;
}

static void bind_key(const char *before, char key, const char *after)
{
    char line[64];
    g_snprintf(line, sizeof line, "bind %s%c%s", before, key, after);
    rl_parse_and_bind(line);
}

/* Ctrl-A is a prefix, and twice what it is otherwise. libedit finds the function by the last key of
 * a sequence, which it binds to it, too: that is taken back. */
static void bind_escapes(bool on)
{
    char name[16], line[16];

    for (const char *k = escape_keys; *k; k++) {
        if (on) {
            g_snprintf(name, sizeof name, "vmlua-%c", *k);
            rl_add_defun(name, escape_key, *k);
            bind_key("", *k, " ed-insert");
            g_snprintf(line, sizeof line, " vmlua-%c", *k);
            bind_key("^A", *k, line);
        } else {
            bind_key("-r ^A", *k, "");
        }
    }
    if (on) {
        rl_parse_and_bind("bind ^A^A ed-move-to-beg");
    } else {
        rl_parse_and_bind("bind -r ^A^A");
        rl_parse_and_bind("bind ^A ed-move-to-beg");
    }
}

/* Characters beyond ASCII are typed and shown as such. Only where they are UTF-8: classes of single
 * bytes, which Lua's patterns ask the C library for, stay those of ASCII. */
static void use_utf8(void)
{
    if (setlocale(LC_CTYPE, "") && strcmp(nl_langinfo(CODESET), "UTF-8") != 0) {
        setlocale(LC_CTYPE, "C");
    }
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
    ScriptRef *on_escape = lua_isfunction(L, 4) ? script_ref_new(L, 4, NULL, "escape key") : NULL;
    static bool initialized;
    if (!initialized) {
        initialized = true;
        use_utf8();
        rl_readline_name = "vmlua";
        rl_catch_signals = 0;
        rl_initialize();
        using_history();
        rl_completer_word_break_characters = (char *)(uintptr_t) " \t\n\"'=+-*%^#<>~(){}[];,|&!";
        rl_attempted_completion_function = complete;
    }
    edit.on_line = on_line;
    edit.complete = fn;
    edit.on_escape = on_escape;
    edit.prompt = g_strdup(prompt);
    edit.active = true;
    bind_escapes(on_escape != NULL);
    install();
    edit.source = main_loop_add_fd(STDIN_FILENO, G_IO_IN | G_IO_HUP, input_ready, NULL);
    return 0;
}

static int l_stop(lua_State *L)
{
    if (edit.active) {
        edit.active = false;
        bind_escapes(false);
        rl_callback_handler_remove();
        g_source_destroy(edit.source);
        g_source_unref(edit.source);
        edit.source = NULL;
        script_ref_free(edit.on_line);
        script_ref_free(edit.complete);
        script_ref_free(edit.on_escape);
        edit.on_line = edit.complete = edit.on_escape = NULL;
        g_free(edit.prompt);
        edit.prompt = NULL;
    }
    return 0;
}

/* ---- where the cursor is -----------------------------------------------------------------------
 */

static int screen_width(void)
{
    int rows = 0, columns = 0;
    rl_get_screen_size(&rows, &columns);
    return columns > 0 ? columns : 80;
}

/* Columns that libedit needs for one character at that column: it shows what cannot be printed as
 * ^X or as an octal number. */
static int character_width(wchar_t c, int column)
{
    if (c == L'\t') {
        return 8 - column % 8;
    }
    if (c < 0x20 || c == 0x7f) {
        return 2;
    }
    int width = wcwidth(c);
    return width >= 0 ? width : 8;
}

/* The row, counted from the prompt's, on which the first n bytes of text end; `column` goes on. */
static int rows_of(const char *text, size_t n, int *column)
{
    const int width = screen_width();
    mbstate_t state = { 0 };
    int rows = 0;

    while (n > 0) {
        wchar_t c;
        size_t used = mbrtowc(&c, text, n, &state);
        int w = 4; /* a byte that is no character: \ooo */
        if (used == 0 || used > n) {
            used = 1;
            memset(&state, 0, sizeof state);
        } else {
            w = character_width(c, *column);
        }
        *column += w;
        while (*column >= width) { /* a full row wraps at once */
            *column -= width;
            rows++;
        }
        text += used;
        n -= used;
    }
    return rows;
}

/* Puts the cursor where the prompt begins; with `erase` nothing is left from there on. */
static void go_to_prompt(bool erase)
{
    int column = 0;
    int rows = rows_of(edit.prompt, strlen(edit.prompt), &column);
    if (rl_line_buffer) {
        rows += rows_of(rl_line_buffer, (size_t)CLAMP(rl_point, 0, rl_end), &column);
    }
    if (rows > 0) {
        printf("\033[%dA", rows);
    }
    fputs(erase ? "\r\033[J" : "\r", stdout);
}

/* Puts the cursor on the row after the line. */
static void go_behind_line(void)
{
    int to_cursor = 0, behind = 0;
    int rows = 0;

    if (rl_line_buffer) {
        to_cursor = behind = (int)strlen(edit.prompt);
        rows = rows_of(rl_line_buffer, (size_t)rl_end, &behind) -
               rows_of(rl_line_buffer, (size_t)CLAMP(rl_point, 0, rl_end), &to_cursor);
    }
    while (rows-- > 0) {
        putchar('\n');
    }
}

static void redraw(void)
{
    edit.hidden = false;
    rl_forced_update_display();
    fflush(stdout);
}

static int l_prompt(lua_State *L)
{
    const char *prompt = luaL_checkstring(L, 1);
    const bool shown = edit.active && !edit.feeding && !edit.hidden;

    if (shown) {
        go_to_prompt(true);
    }
    g_free(edit.prompt);
    edit.prompt = g_strdup(prompt);
    if (edit.active) {
        rl_set_prompt(edit.prompt);
    }
    if (shown) {
        redraw();
    }
    return 0;
}

static int l_hide(lua_State *L)
{
    if (edit.active && !edit.hidden) {
        go_to_prompt(true);
        fflush(stdout);
        edit.hidden = true;
    }
    return 0;
}

static int l_show(lua_State *L)
{
    if (edit.active && edit.hidden) {
        redraw();
    }
    return 0;
}

static int l_cancel(lua_State *L)
{
    const char *prompt = luaL_optstring(L, 1, NULL);

    if (edit.active) {
        if (!edit.hidden) {
            go_behind_line();
        }
        fputs("^C\n", stdout);
        fflush(stdout);
        rl_callback_handler_remove();
        if (prompt) {
            g_free(edit.prompt);
            edit.prompt = g_strdup(prompt);
        }
        install();
        fflush(stdout);
    }
    return 0;
}

static int l_resized(lua_State *L)
{
    if (edit.active) {
        /* Where the terminal has put the old rows is its own choice: from here on afresh. */
        if (!edit.hidden) {
            fputs("\r\033[J", stdout);
        }
        rl_resize_terminal();
        if (!edit.hidden) {
            redraw();
        }
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
      "start: integer): string[]?, on_escape: fun(key: string)?)",
      "Shows the prompt and edits lines from now on; on_line gets each, nil at the end of input." },
    { "stop", l_stop, "()", "Ends editing and puts the terminal back." },
    { "set_prompt", l_prompt, "(prompt: string)", "The prompt from now on." },
    { "hide", l_hide, "()", "Takes prompt and line off the screen, before other output." },
    { "show", l_show, "()", "Puts them back." },
    { "cancel", l_cancel, "(prompt: string?)",
      "Drops the line that is being edited (Ctrl-C) and begins a fresh one." },
    { "resized", l_resized, "()", "The terminal has another size now." },
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
