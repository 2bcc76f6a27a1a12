/*
 * The device's end of a chardev, for devices in Lua: dev:front(chr, handlers). What a 16550 in C
 * does with chardev_attach, a script does with this.
 *
 * The front belongs to its device: attached memory, let go of when the device leaves the tree.
 */
#include <string.h>

#include "bindings/binding-priv.h"
#include "engine/chardev/chardev.h"
#include "engine/core/error.h"
#include "engine/hw/core/device.h"

#define FRONT_CLASS "vmlua.chardev-front"

typedef struct Front {
    DeviceState *dev;
    Chardev *chr; /* one reference; NULL once detached */
    ScriptRef *room, *receive, *event, *writable;
} Front;
typedef struct FrontHandle {
    Front *front; /* in memory attached to the device, which the user value pins or finds gone */
} FrontHandle;

static void front_failed(Front *f, GError *error)
{
    if (f->dev->machine) {
        machine_fail(f->dev->machine, error->message);
        g_error_free(error);
    } else {
        binding_report(error);
    }
}

/* Calls a handler with the device and nargs more values, which are on the stack above it. */
static bool front_call(Front *f, lua_State *L, ScriptRef *fn, int nargs, int nresults)
{
    GError *error = NULL;

    if (binding_call(L, nargs + 1, nresults, true, script_ref_what(fn), &error)) {
        return true;
    }
    front_failed(f, error);
    return false;
}

/* Pushes function and device; NULL: there is nobody to ask. */
static lua_State *front_begin(Front *f, ScriptRef *fn)
{
    lua_State *L;

    if (!fn || !script_main || ((Object *)f->dev)->gone) {
        return NULL;
    }
    L = binding_state();
    if (!script_ref_push(L, fn)) {
        return NULL;
    }
    binding_push_object(L, f->dev);
    return L;
}

static size_t front_can_read(void *opaque)
{
    Front *f = opaque;
    lua_State *L = front_begin(f, f->room);
    GError *error = NULL;
    lua_Integer n;
    int exact;

    if (!L) {
        return f->room ? 0 : 4096; /* who asks for nothing takes all, and drops what nobody hears */
    }
    if (!front_call(f, L, f->room, 0, 1)) {
        return 0;
    }
    n = lua_tointegerx(L, -1, &exact);
    if (!exact) {
        error_set(&error, ENGINE_ERROR_SCRIPT, "%s: a whole number expected, got a %s",
                  script_ref_what(f->room), luaL_typename(L, -1));
        front_failed(f, error);
    }
    lua_pop(L, 1);
    return n > 0 ? (size_t)n : 0;
}

static void front_read(void *opaque, const uint8_t *buf, size_t len)
{
    Front *f = opaque;
    lua_State *L = front_begin(f, f->receive);

    if (L) {
        lua_pushlstring(L, (const char *)buf, len);
        front_call(f, L, f->receive, 1, 0);
    }
}

static void front_event(void *opaque, ChardevEvent event)
{
    static const char *const names[] = {
        [CHARDEV_OPENED] = "opened",
        [CHARDEV_CLOSED] = "closed",
        [CHARDEV_BREAK] = "break",
        [CHARDEV_MODEM] = "modem",
    };
    Front *f = opaque;
    lua_State *L = front_begin(f, f->event);

    if (L) {
        lua_pushstring(L, names[event]);
        front_call(f, L, f->event, 1, 0);
    }
}

static void front_writable(void *opaque)
{
    Front *f = opaque;
    lua_State *L = front_begin(f, f->writable);

    if (L) {
        front_call(f, L, f->writable, 0, 0);
    }
}

static const ChardevHandlers front_handlers = {
    .can_read = front_can_read,
    .read = front_read,
    .event = front_event,
    .writable = front_writable,
};

static void front_let_go(Front *f)
{
    Chardev *chr = f->chr;

    if (chr) {
        f->chr = NULL;
        chardev_set_modem(chr, 0);
        chardev_detach(chr);
        object_unref(chr);
    }
}

static void device_gone(Object *obj, void *opaque)
{
    front_let_go(opaque);
}

static void front_free(void *data)
{
    Front *f = data;

    front_let_go(f);
    script_ref_free(f->room);
    script_ref_free(f->receive);
    script_ref_free(f->event);
    script_ref_free(f->writable);
    g_free(f);
}

static ScriptRef *handler(lua_State *L, DeviceState *dev, const char *key)
{
    ScriptRef *ref = NULL;
    char what[96];

    if (binding_get_key(L, 3, key) != LUA_TNIL) {
        g_snprintf(what, sizeof(what), "%.60s: chardev %s", object_get_name((Object *)dev), key);
        ref = script_ref_new(L, -1, (Object *)dev, what);
    }
    lua_pop(L, 1);
    return ref;
}

static int device_front(lua_State *L)
{
    static const char *const keys[] = { "room", "receive", "event", "writable", NULL };
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    Chardev *chr = binding_check_object(L, 2, TYPE_CHARDEV);
    GError *error = NULL;
    FrontHandle *h;
    Front *f;

    luaL_checktype(L, 3, LUA_TTABLE);
    binding_check_keys(L, 3, keys, "dev:front");
    for (int i = 0; keys[i]; i++) {
        int type = binding_get_key(L, 3, keys[i]);
        if (type != LUA_TNIL && type != LUA_TFUNCTION) {
            return luaL_error(L, "dev:front: %s: a function expected, got %s", keys[i],
                              luaL_typename(L, -1));
        }
        lua_pop(L, 1);
    }
    lua_settop(L, 3);
    h = binding_new_userdata(L, FRONT_CLASS, sizeof(*h));
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    f = g_new0(Front, 1);
    f->dev = dev;
    object_attach((Object *)dev, f, front_free);
    h->front = f;
    f->room = handler(L, dev, "room");
    f->receive = handler(L, dev, "receive");
    f->event = handler(L, dev, "event");
    f->writable = handler(L, dev, "writable");
    if (!chardev_attach(chr, &front_handlers, f, &error)) {
        return binding_raise(L, error);
    }
    f->chr = chr;
    object_ref(chr);
    object_add_destroy_notify((Object *)dev, device_gone, f);
    return 1;
}

static Front *check_front(lua_State *L)
{
    FrontHandle *h = binding_check_userdata(L, 1, FRONT_CLASS);

    lua_getiuservalue(L, 1, 1);
    binding_check_object(L, -1, TYPE_DEVICE); /* raises once the device is gone */
    lua_pop(L, 1);
    return h->front;
}

static int front_write(lua_State *L)
{
    Front *f = check_front(L);
    size_t len;
    const char *bytes = luaL_checklstring(L, 2, &len);

    if (f->chr) {
        chardev_write(f->chr, (const uint8_t *)bytes, len);
    }
    return 0;
}

static int front_accept_input(lua_State *L)
{
    Front *f = check_front(L);

    if (f->chr) {
        chardev_accept_input(f->chr);
    }
    return 0;
}

static int front_set_params(lua_State *L)
{
    static const char *const keys[] = { "baud", "data_bits", "parity", "stop_bits", NULL };
    Front *f = check_front(L);
    ChardevSerialParams p;

    luaL_checktype(L, 2, LUA_TTABLE);
    binding_check_keys(L, 2, keys, "front:set_params");
    binding_get_key(L, 2, "baud");
    p.baud = (uint32_t)binding_check_range(L, lua_gettop(L), 1, UINT32_MAX, "baud");
    binding_get_key(L, 2, "data_bits");
    p.data_bits = (uint8_t)binding_check_range(L, lua_gettop(L), 5, 8, "data_bits");
    binding_get_key(L, 2, "stop_bits");
    p.stop_bits = (uint8_t)binding_check_range(L, lua_gettop(L), 1, 2, "stop_bits");
    binding_get_key(L, 2, "parity");
    p.parity = *luaL_checkstring(L, -1);
    if (!p.parity || !strchr("NOEMS", p.parity)) {
        return luaL_error(L, "front:set_params: parity is N, O, E, M or S");
    }
    if (f->chr) {
        chardev_set_serial_params(f->chr, &p);
    }
    return 0;
}

static int front_set_modem(lua_State *L)
{
    Front *f = check_front(L);
    unsigned tiocm = (lua_toboolean(L, 2) ? CHARDEV_TIOCM_DTR : 0) |
                     (lua_toboolean(L, 3) ? CHARDEV_TIOCM_RTS : 0);

    if (f->chr) {
        chardev_set_modem(f->chr, tiocm);
    }
    return 0;
}

static int front_modem(lua_State *L)
{
    Front *f = check_front(L);
    unsigned tiocm = f->chr ? chardev_get_modem(f->chr) : 0;

    lua_pushboolean(L, tiocm & CHARDEV_TIOCM_CTS);
    lua_pushboolean(L, tiocm & CHARDEV_TIOCM_DSR);
    lua_pushboolean(L, tiocm & CHARDEV_TIOCM_RI);
    lua_pushboolean(L, tiocm & CHARDEV_TIOCM_DCD);
    return 4;
}

static int front_send_break(lua_State *L)
{
    Front *f = check_front(L);

    if (f->chr) {
        chardev_send_break(f->chr, lua_toboolean(L, 2));
    }
    return 0;
}

static int front_detach(lua_State *L)
{
    front_let_go(check_front(L));
    return 0;
}

static int front_get_congested(lua_State *L)
{
    Front *f = check_front(L);

    lua_pushboolean(L, f->chr && chardev_congested(f->chr));
    return 1;
}

static int front_get_attached(lua_State *L)
{
    lua_pushboolean(L, check_front(L)->chr != NULL);
    return 1;
}

static int front_gc(lua_State *L)
{
    return 0;
}

static const ApiFunction device_methods[] = {
    { "front", device_front,
      "(self, chr: chardev, handlers: { room?: fun(dev: device): integer, receive?: fun(dev: "
      "device, bytes: string), event?: fun(dev: device, what: string), writable?: fun(dev: device) "
      "}): vmlua.chardev-front",
      "The device's end of a chardev. room says how many bytes receive takes now; event is told\n"
      "\"opened\", \"closed\", \"break\" and \"modem\"; writable, that the outside takes bytes "
      "again." },
    { NULL },
};
static const ApiFunction methods[] = {
    { "write", front_write, "(self, bytes: string)", "What the guest sends." },
    { "accept_input", front_accept_input, "(self)", "There is room for bytes again." },
    { "set_params", front_set_params,
      "(self, params: { baud: integer, data_bits: integer, parity: string, stop_bits: integer })",
      "The line's speed and format." },
    { "set_modem", front_set_modem, "(self, dtr: boolean, rts: boolean)",
      "What the guest drives." },
    { "modem", front_modem, "(self): boolean, boolean, boolean, boolean",
      "CTS, DSR, RI and DCD as the outside drives them." },
    { "send_break", front_send_break, "(self, on: boolean)", "Holds the line low, or lets it go." },
    { "detach", front_detach, "(self)", "Lets go of the chardev; fine to call twice." },
    { NULL },
};
static const ApiField fields[] = {
    { "congested", front_get_congested, NULL, "boolean",
      "The outside is slower than the guest: hold what comes." },
    { "attached", front_get_attached, NULL, "boolean", "Whether it still has its chardev." },
    { NULL },
};

void binding_open_chardev_front(lua_State *L)
{
    binding_class(L, TYPE_DEVICE, NULL, device_methods, NULL);
    binding_userdata_class(L, FRONT_CLASS, "The device's end of a chardev.", methods, fields,
                           front_gc);
}
