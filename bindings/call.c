/*
 * Calling Lua from C: the one wrapper with its traceback handler, coroutines that keep track of
 * which one runs, one round of the main loop. What ends a call that runs too long is in
 * interrupt.c.
 */
#include <lualib.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/main-loop.h"

#define TRACEBACK_LEVEL_OWN 1

/* ---- the one way in ------------------------------------------------------------------------ */

/* Turns any error value into text with a traceback. */
static int message_handler(lua_State *L)
{
    const char *msg = lua_tostring(L, 1);
    if (!msg) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING) {
            msg = lua_tostring(L, -1);
        } else {
            msg = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
        }
    }
    luaL_traceback(L, L, msg, TRACEBACK_LEVEL_OWN);
    return 1;
}

bool binding_call(lua_State *L, int nargs, int nresults, bool in_handler, const char *what,
                  GError **error)
{
    ScriptThread *st = script_self();
    int base = lua_gettop(L) - nargs; /* where the function is */
    g_assert(base >= 1);
    lua_State *saved_running = NULL;
    int saved_poll = 0, saved_shield = 0;
    bool watched = false;

    if (!lua_checkstack(L, LUA_MINSTACK + (nresults > 0 ? nresults : 0))) {
        lua_settop(L, base - 1);
        return error_set(error, ENGINE_ERROR_SCRIPT, "%s: the Lua stack is full", what);
    }
    lua_pushcfunction(L, message_handler);
    lua_insert(L, base);
    if (st) {
        saved_running = st->running;
        saved_poll = st->in_poll;
        saved_shield = st->shield;
        /* In this order: a signal between finds either the poll or the shield. */
        st->shield = script_is_shielded(L, base + 1);
        st->running = L;
        st->in_poll = 0;
        st->depth++;
        watched = in_handler && script_watch_enter(st);
    }
    if (in_handler) {
        engine_no_unlock_begin();
    }
    int status = lua_pcall(L, nargs, nresults, base);
    if (in_handler) {
        engine_no_unlock_end();
    }
    if (st) {
        if (watched) {
            script_watch_leave(st);
        }
        st->in_poll = saved_poll;
        if (G_UNLIKELY(st->interrupt != RUN_ON) && (watched || st->depth <= st->interrupt_depth)) {
            lua_sethook(L, NULL, 0, 0);
            script_interrupt_over(st, status != LUA_OK);
        }
        st->depth--;
        st->running = saved_running;
        script_shield_set(st, saved_shield);
    }
    lua_remove(L, base);
    if (G_LIKELY(status == LUA_OK)) {
        return true;
    }
    const char *msg = lua_tostring(L, -1);
    g_set_error(error, ENGINE_ERROR, ENGINE_ERROR_SCRIPT, "%s%s%s", what ? what : "",
                what ? ": " : "", msg ? msg : "(an error without a message)");
    lua_settop(L, base - 1);
    return false;
}

/* ---- coroutines: Lua's own, keeping track of which one runs --------------------------------- */

static int resume_tracked(lua_State *L, lua_State *co, int nargs)
{
    ScriptThread *st = script_self();
    lua_State *saved = NULL;
    int saved_shield = 0, nresults;

    if (!lua_checkstack(co, nargs)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, nargs);
    if (st) {
        saved = st->running;
        saved_shield = st->shield;
        st->running = co;
        st->shield = 0;
    }
    int status = lua_resume(co, L, nargs, &nresults);
    if (st) {
        st->shield = saved_shield;
        st->running = saved;
        script_interrupt_after_coroutine(st, status != LUA_OK && status != LUA_YIELD);
    }
    if (status == LUA_OK || status == LUA_YIELD) {
        if (!lua_checkstack(L, nresults + 1)) {
            lua_pop(co, nresults);
            lua_pushliteral(L, "too many results to resume");
            return -1;
        }
        lua_xmove(co, L, nresults);
        return nresults;
    }
    lua_xmove(co, L, 1);
    return -1;
}

static int co_resume(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "thread");
    int n = resume_tracked(L, co, lua_gettop(L) - 1);
    if (n < 0) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushboolean(L, 1);
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int co_wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = resume_tracked(L, co, lua_gettop(L));
    if (n >= 0) {
        return n;
    }
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        /* Closes its pending variables; the error they may raise replaces the first. */
        status = lua_resetthread(co);
        if (status != LUA_OK) {
            lua_xmove(co, L, 1);
        }
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int co_wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, co_wrapped, 1);
    return 1;
}

void script_coroutines_open(lua_State *L)
{
    lua_getglobal(L, "coroutine");
    lua_pushcfunction(L, co_resume);
    lua_setfield(L, -2, "resume");
    lua_pushcfunction(L, co_wrap);
    lua_setfield(L, -2, "wrap");
    lua_pop(L, 1);
}

/* ---- waiting -------------------------------------------------------------------------------- */

bool binding_iterate(lua_State *L, bool block, GError **error)
{
    ScriptThread *st = script_self();
    if (!main_loop_is_main_thread() || !engine_may_unlock()) {
        return error_set(
            error, ENGINE_ERROR_BUSY,
            "waiting is refused inside a callback from the engine and in a finaliser: start a task "
            "(sched.spawn) that waits");
    }
    st->in_poll = 1;
    if (!script_signal_pending()) {
        main_loop_iterate(block);
    }
    st->in_poll = 0;
    return true;
}
