/*
 * Character devices as scripts see them: making them from the two command-line spellings or a
 * table, talking to the guest through them. Watching them: chardev-watch.c.
 *
 * A chardev that a script makes is a child of its machine (or of /chardevs): it closes with it.
 * Scripts stand at the outside end: write() is what the guest receives.
 */
#include "bindings/watch.h"

#include <string.h>

#include "engine/chardev/chardev.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

/* ---- making chardevs ------------------------------------------------------------------------ */

static Object *default_parent(void)
{
    return object_get_container(object_get_root(), "chardevs");
}

/* The name it gets in the tree: the one asked for, its id, or chardevN. */
static bool put_in_tree(Chardev *chr, Object *parent, const char *name, GError **error)
{
    char number[32];
    name = name ? name : chr->id;
    for (unsigned i = 0; !name; i++) {
        g_snprintf(number, sizeof number, "chardev%u", i);
        name = object_get_child(parent, number) ? NULL : number;
    }
    return object_add_child(parent, name, OBJECT(chr), error);
}

/* Puts it in the tree and opens it; consumes the reference. NULL + error. */
static Chardev *adopt(Chardev *chr, Object *parent, const char *name, GError **error)
{
    parent = parent ? parent : default_parent();
    if (!parent || !put_in_tree(chr, parent, name, error)) {
        object_unref(OBJECT(chr));
        return NULL;
    }
    if (!chardev_open(chr, error)) {
        object_unparent(OBJECT(chr));
        object_unref(OBJECT(chr));
        return NULL;
    }
    object_unref(OBJECT(chr));
    return chr;
}

/* Properties of the table at 1, apart from "backend". Raises nothing: the error is returned. */
static bool set_properties(lua_State *L, Chardev *chr, GError **error)
{
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        const char *key = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : NULL;
        if (!key) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "chardev: a property's name is expected as the key");
        }
        if (strcmp(key, "backend") != 0) {
            const Property *p = object_find_property(OBJECT(chr), key);
            PropValue v = { 0 };
            bool ok;
            if (lua_type(L, -1) == LUA_TSTRING || !p) {
                /* an unknown name too: the message names the nearest */
                ok = object_property_parse(OBJECT(chr), key,
                                           lua_isstring(L, -1) ? lua_tostring(L, -1) : "", error);
            } else {
                ok = binding_to_prop_value(L, lua_gettop(L), p, &v, error) &&
                     object_property_set(OBJECT(chr), key, &v, error);
                prop_value_clear(&v);
            }
            if (!ok) {
                return false;
            }
        }
        lua_pop(L, 1);
    }
    return true;
}

static Chardev *new_from_table(lua_State *L, const char *backend, GError **error)
{
    Chardev *chr = chardev_parse(backend, error);
    if (chr && !set_properties(L, chr, error)) {
        object_unref(OBJECT(chr));
        return NULL;
    }
    return chr;
}

static int chardev_new(lua_State *L)
{
    Object *parent = binding_opt_object(L, 2, TYPE_OBJECT);
    const char *name = luaL_optstring(L, 3, NULL);
    const char *backend = NULL;
    GError *error = NULL;
    if (lua_istable(L, 1)) {
        binding_get_key(L, 1, "backend");
        backend = luaL_checkstring(L, -1);
    }
    const char *text = backend ? NULL : luaL_checkstring(L, 1);
    Chardev *chr = backend ? new_from_table(L, backend, &error) : chardev_parse(text, &error);
    chr = chr ? adopt(chr, parent, name, &error) : NULL;
    if (!chr) {
        return binding_fail(L, error);
    }
    binding_push_object(L, chr);
    return 1;
}

static int chardev_new_script(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    Object *parent = binding_opt_object(L, 2, TYPE_OBJECT);
    const char *name = luaL_optstring(L, 3, NULL);
    GError *error = NULL;
    Object *obj = object_new(TYPE_CHARDEV_SCRIPT, &error);
    Chardev *chr = obj ? adopt(CHARDEV(obj), parent, name, &error) : NULL;
    if (!chr) {
        return binding_fail(L, error);
    }
    binding_chardev_set_script(L, chr, 1);
    binding_push_object(L, chr);
    return 1;
}

static int chardev_new_link(lua_State *L)
{
    Object *parents[2] = { binding_opt_object(L, 1, TYPE_OBJECT),
                           binding_opt_object(L, 2, TYPE_OBJECT) };
    const char *name = luaL_optstring(L, 3, NULL);
    GError *error = NULL;
    Object *ends[2] = { 0 };
    bool ok = true;
    for (int i = 0; i < 2 && ok; i++) {
        ends[i] = object_new(TYPE_CHARDEV_LINK, &error);
        Object *parent = !ends[i] ? NULL : parents[i] ? parents[i] : default_parent();
        ok = parent && put_in_tree(CHARDEV(ends[i]), parent, name, &error);
    }
    ok = ok && chardev_link(CHARDEV(ends[0]), CHARDEV(ends[1]), &error);
    for (int i = 0; i < 2; i++) {
        if (!ok && ends[i] && ends[i]->parent) {
            object_unparent(ends[i]);
        }
        object_unref(ends[i]); /* a good one is held by its parent */
    }
    if (!ok) {
        return binding_fail(L, error);
    }
    binding_push_object(L, ends[0]);
    binding_push_object(L, ends[1]);
    return 2;
}

static void add_backend(const char *alias, ChardevClass *klass, void *opaque)
{
    const char *pair[2] = { alias, object_class_get_name(OBJECT_CLASS(klass)) };
    g_byte_array_append(opaque, (const guint8 *)pair, sizeof pair);
}

static int chardev_backends(lua_State *L)
{
    GByteArray *list = binding_scratch(L);
    chardev_backends_foreach(add_backend, list);
    const char **pairs = (const char **)(void *)list->data;
    lua_newtable(L);
    for (unsigned i = 0; i < list->len / (2 * sizeof *pairs); i++) {
        lua_pushstring(L, pairs[2 * i + 1]);
        lua_setfield(L, -2, pairs[2 * i]);
    }
    return 1;
}

/* ---- methods ------------------------------------------------------------------------------- */

static Chardev *check_chardev(lua_State *L)
{
    return binding_check_object(L, 1, TYPE_CHARDEV);
}

static int chr_write(lua_State *L)
{
    Chardev *chr = check_chardev(L);
    size_t len;
    const char *bytes = luaL_checklstring(L, 2, &len);
    const size_t room = chardev_receive_room(chr);
    len = MIN(len, room);
    if (len) {
        chardev_receive(chr, (const uint8_t *)bytes, len);
    }
    lua_pushinteger(L, (lua_Integer)len);
    return 1;
}

static int chr_send_break(lua_State *L)
{
    chardev_event(check_chardev(L), CHARDEV_BREAK);
    return 0;
}

static int chr_history(lua_State *L)
{
    size_t len = 0;
    const uint8_t *bytes = chardev_history(check_chardev(L), &len);
    lua_pushlstring(L, bytes ? (const char *)bytes : "", len);
    return 1;
}

static int chr_read(lua_State *L)
{
    Chardev *chr = check_chardev(L);
    if (!object_dynamic_cast(OBJECT(chr), TYPE_CHARDEV_RING)) {
        return luaL_error(L, "%s is no ring: only a ring keeps bytes to be read",
                          chardev_label(chr));
    }
    const size_t want = lua_isnoneornil(L, 2)
                            ? chardev_ring_count(chr)
                            : MIN(chardev_ring_count(chr),
                                  (size_t)binding_check_range(L, 2, 0, 1 << 30, "length"));
    luaL_Buffer b;
    uint8_t *p = (uint8_t *)luaL_buffinitsize(L, &b, want);
    luaL_pushresultsize(&b, chardev_ring_read(chr, p, want));
    return 1;
}

static int chr_close(lua_State *L)
{
    chardev_close(check_chardev(L));
    return 0;
}

static int chr_get_open(lua_State *L)
{
    lua_pushboolean(L, check_chardev(L)->open);
    return 1;
}

static int chr_get_room(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)chardev_receive_room(check_chardev(L)));
    return 1;
}

static int chr_get_bytes_out(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_chardev(L)->bytes_out);
    return 1;
}

static int chr_get_bytes_in(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_chardev(L)->bytes_in);
    return 1;
}

static int chr_get_bytes_dropped(lua_State *L)
{
    lua_pushinteger(L, (lua_Integer)check_chardev(L)->bytes_dropped);
    return 1;
}

/* The one function of the process for keys after the escape key. */
static ScriptRef *escape_fn;

static bool on_escape(Chardev *chr, char key, void *opaque)
{
    lua_State *L = binding_state();
    GError *error = NULL;
    if (!script_ref_push(L, escape_fn)) {
        return false;
    }
    lua_pushlstring(L, &key, 1);
    if (!binding_call(L, 1, 1, true, "escape key", &error)) {
        binding_report(error);
        return true;
    }
    const bool known = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return known;
}

static int chardev_on_escape(lua_State *L)
{
    ScriptRef *fn = NULL;
    if (!lua_isnoneornil(L, 1)) {
        luaL_checktype(L, 1, LUA_TFUNCTION);
        fn = script_ref_new(L, 1, NULL, "escape key");
    }
    script_ref_free(escape_fn);
    escape_fn = fn;
    chardev_stdio_set_escape(fn ? on_escape : NULL, NULL);
    return 0;
}

static const ApiFunction chardev_functions[] = {
    { "new", chardev_new, "(spec: string|table, parent?: object, name?: string): chardev?, string?",
      "Makes and opens a back end: \"tcp:127.0.0.1:0,server=on,wait=off\", \"file,path=log.txt\" "
      "or { backend = \"file\", path = \"log.txt\" }. It closes with its parent (a machine, else "
      "/chardevs)." },
    { "script", chardev_new_script,
      "(fn: fun(bytes: string), parent?: object, name?: string): chardev?, string?",
      "A back end that is a function: it gets what the guest writes; answer with :write." },
    { "link", chardev_new_link,
      "(parent_a?: object, parent_b?: object, name?: string): chardev?, chardev|string|nil",
      "The two ends of a null-modem cable." },
    { "backends", chardev_backends, "(): table<string, string>",
      "Short names of all back ends, with their types." },
    { "on_escape", chardev_on_escape, "(fn?: fun(key: string): boolean)",
      "Who is told of a key after the terminal's escape key (Ctrl-a); returns whether it knew the "
      "key." },
    { 0 },
};
static const ApiFunction chardev_methods[] = {
    { "write", chr_write, "(bytes: string): integer",
      "Sends to the guest as if from outside; how many bytes were taken (the rest does not fit "
      "now)." },
    { "send_break", chr_send_break, "()", "A break condition on the line towards the guest." },
    { "history", chr_history, "(): string", "The last bytes that the guest wrote, up to 64 KiB." },
    { "read", chr_read, "(len?: integer): string",
      "Takes the oldest bytes out of a ring back end." },
    { "close", chr_close, "()",
      "Closes it; the guest's end stays attached and writes into nothing." },
    { 0 },
};
static const ApiField chardev_fields[] = {
    { "open", chr_get_open, NULL, "boolean", "Someone is at the other end." },
    { "room", chr_get_room, NULL, "integer", "How many bytes write takes now." },
    { "bytes_out", chr_get_bytes_out, NULL, "integer", "Bytes the guest has written." },
    { "bytes_in", chr_get_bytes_in, NULL, "integer", "Bytes the guest was sent." },
    { "bytes_dropped", chr_get_bytes_dropped, NULL, "integer",
      "Bytes lost because nobody took them." },
    { 0 },
};
void binding_open_chardev(lua_State *L)
{
    binding_class(L, TYPE_CHARDEV, "The outside end of a byte stream.", chardev_methods,
                  chardev_fields);
    binding_module(L, "vmlua.core.chardev", "Character devices.", chardev_functions);
}
