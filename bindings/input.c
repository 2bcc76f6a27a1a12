/* Keys and pointers for scripts: what vm.keyboard and vm.mouse are made of. */
#include "engine/display/input.h"

#include "bindings/binding-priv.h"
#include "engine/machine/machine.h"

/* Attached to the input object. */
typedef struct InputScript {
    Input *in;
    ScriptRef *fn; /* NULL: nobody wants to know */
} InputScript;

static Input *check_input(lua_State *L)
{
    return binding_check_object(L, 1, TYPE_INPUT);
}

static InputKey check_key(lua_State *L, int arg)
{
    GError *error = NULL;
    InputKey key = input_key_from_name(luaL_checkstring(L, arg), &error);

    if (key == INPUT_KEY_COUNT) {
        binding_raise(L, error);
    }
    return key;
}

static int check_int(lua_State *L, int arg)
{
    lua_Integer n = luaL_checkinteger(L, arg);

    luaL_argcheck(L, n >= -1000000 && n <= 1000000, arg, "a number within a million expected");
    return (int)n;
}

static int machine_input(lua_State *L)
{
    binding_push_object(L, input_of(binding_check_object(L, 1, TYPE_MACHINE)));
    return 1;
}

static int l_key(lua_State *L)
{
    Input *in = check_input(L);
    InputKey key = check_key(L, 2);

    luaL_checktype(L, 3, LUA_TBOOLEAN);
    lua_pushboolean(L, input_key(in, key, lua_toboolean(L, 3)));
    return 1;
}

static int l_key_name(lua_State *L)
{
    check_input(L);
    lua_pushstring(L, input_key_name(check_key(L, 2)));
    return 1;
}

static int l_is_down(lua_State *L)
{
    Input *in = check_input(L);

    lua_pushboolean(L, input_key_is_down(in, check_key(L, 2)));
    return 1;
}

static int l_release_all(lua_State *L)
{
    input_release_all(check_input(L));
    return 0;
}

static int l_keys(lua_State *L)
{
    check_input(L);
    lua_createtable(L, INPUT_KEY_COUNT, 0);
    for (unsigned i = 0; i < INPUT_KEY_COUNT; i++) {
        lua_pushstring(L, input_key_name(i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int l_motion(lua_State *L)
{
    Input *in = check_input(L);
    int dx = check_int(L, 2);

    lua_pushboolean(L, input_motion(in, dx, check_int(L, 3)));
    return 1;
}

static int l_position(lua_State *L)
{
    Input *in = check_input(L);
    unsigned x = (unsigned)binding_check_range(L, 2, 0, INPUT_ABS_MAX, "x");

    lua_pushboolean(
        L, input_position(in, x, (unsigned)binding_check_range(L, 3, 0, INPUT_ABS_MAX, "y")));
    return 1;
}

static int l_set_buttons(lua_State *L)
{
    Input *in = check_input(L);

    lua_pushboolean(
        L, input_buttons(in, (unsigned)binding_check_range(L, 2, 0, INPUT_BUTTONS, "buttons")));
    return 1;
}

static int l_wheel(lua_State *L)
{
    Input *in = check_input(L);

    lua_pushboolean(L, input_wheel(in, check_int(L, 2)));
    return 1;
}

/* ---- being told ---------------------------------------------------------------------------- */

static void script_changed(void *opaque)
{
    InputScript *s = opaque;

    if (s->fn && script_main) {
        binding_invoke(binding_state(), s->fn, 0, true);
    }
}

static void script_free(void *data)
{
    InputScript *s = data;

    script_ref_free(s->fn);
    g_free(s);
}

static InputScript *script_of(lua_State *L, Input *in)
{
    InputScript *s;

    binding_push_data(L, (Object *)in);
    lua_getfield(L, -1, "watch");
    s = lua_touserdata(L, -1);
    if (!s) {
        s = g_new0(InputScript, 1);
        s->in = in;
        object_attach((Object *)in, s, script_free);
        input_add_watch(in, script_changed, s);
        lua_pushlightuserdata(L, s);
        lua_setfield(L, -3, "watch");
    }
    lua_pop(L, 2);
    return s;
}

static int l_on_change(lua_State *L)
{
    Input *in = check_input(L);
    InputScript *s;
    ScriptRef *fn = NULL;

    lua_settop(L, 2);
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TFUNCTION);
    }
    s = script_of(L, in);
    if (!lua_isnil(L, 2)) {
        fn = script_ref_new(L, 2, (Object *)in, "input: on_change");
    }
    script_ref_free(s->fn);
    s->fn = fn;
    return 0;
}

/* ---- fields -------------------------------------------------------------------------------- */

static int l_leds(lua_State *L)
{
    unsigned leds = input_get_leds(check_input(L));

    lua_createtable(L, 0, 3);
    lua_pushboolean(L, leds & INPUT_LED_SCROLL);
    lua_setfield(L, -2, "scroll");
    lua_pushboolean(L, leds & INPUT_LED_NUM);
    lua_setfield(L, -2, "num");
    lua_pushboolean(L, leds & INPUT_LED_CAPS);
    lua_setfield(L, -2, "caps");
    return 1;
}

static int l_buttons(lua_State *L)
{
    lua_pushinteger(L, input_get_buttons(check_input(L)));
    return 1;
}

#define BOOL_FIELD(name, fn)                    \
    static int l_##name(lua_State *L)           \
    {                                           \
        lua_pushboolean(L, fn(check_input(L))); \
        return 1;                               \
    }
BOOL_FIELD(keyboard_room, input_keyboard_room)
BOOL_FIELD(keyboard_idle, input_keyboard_idle)
BOOL_FIELD(pointer_room, input_pointer_room)
BOOL_FIELD(pointer_idle, input_pointer_idle)
BOOL_FIELD(has_keyboard, input_has_keyboard)
BOOL_FIELD(has_pointer, input_has_pointer)
BOOL_FIELD(absolute, input_is_absolute)

static const ApiFunction machine_methods[] = {
    { "input", machine_input, "(self): input",
      "Where keys and pointer events go; vm.keyboard and vm.mouse are the comfortable way." },
    { NULL },
};
static const ApiFunction methods[] = {
    { "key", l_key, "(self, key: string, down: boolean): boolean",
      "A key goes down or up, now. false: there is no keyboard. A full keyboard loses it." },
    { "key_name", l_key_name, "(self, key: string): string",
      "The name of a key that may be spelled otherwise (\"enter\" is \"ret\")." },
    { "is_down", l_is_down, "(self, key: string): boolean", "Whether a key is held." },
    { "release_all", l_release_all, "(self)", "Lets go of all keys and buttons." },
    { "keys", l_keys, "(self): string[]", "The names of all keys." },
    { "motion", l_motion, "(self, dx: integer, dy: integer): boolean",
      "Moves a pointer; right and down are positive. false: there is none that moves." },
    { "position", l_position, "(self, x: integer, y: integer): boolean",
      "Places a pointer, 0 to 32767 from edge to edge. false: there is none that takes places." },
    { "set_buttons", l_set_buttons, "(self, mask: integer): boolean",
      "Which buttons are held: left 1, right 2, middle 4, side 8, extra 16." },
    { "wheel", l_wheel, "(self, steps: integer): boolean",
      "Turns the wheel; towards the user is positive." },
    { "on_change", l_on_change, "(self, fn: fun()|nil)",
      "Called when the guest has taken something, or changed the LEDs; one function." },
    { NULL },
};
static const ApiField fields[] = {
    { "leds", l_leds, NULL, "{ scroll: boolean, num: boolean, caps: boolean }",
      "The keyboard's LEDs, as the guest set them." },
    { "buttons", l_buttons, NULL, "integer", "Which buttons are held." },
    { "keyboard_room", l_keyboard_room, NULL, "boolean", "The next key would not be lost." },
    { "keyboard_idle", l_keyboard_idle, NULL, "boolean", "The guest has taken all keys." },
    { "pointer_room", l_pointer_room, NULL, "boolean", "The next event would not be merged." },
    { "pointer_idle", l_pointer_idle, NULL, "boolean", "The guest has taken all events." },
    { "has_keyboard", l_has_keyboard, NULL, "boolean", "There is a keyboard." },
    { "has_pointer", l_has_pointer, NULL, "boolean", "There is a mouse or tablet." },
    { "absolute", l_absolute, NULL, "boolean", "The pointer takes places instead of motion." },
    { NULL },
};

void binding_open_input(lua_State *L)
{
    binding_class(L, TYPE_MACHINE, NULL, machine_methods, NULL);
    binding_class(L, TYPE_INPUT, "Keys and pointers of a machine.", methods, fields);
}
