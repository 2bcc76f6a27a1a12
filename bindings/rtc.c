/* The real-time clock for boards and scripts: bytes of its CMOS RAM, its date. */
#include "engine/hw/timer/rtc.h"

#include "bindings/binding-priv.h"

static unsigned check_index(lua_State *L, int arg)
{
    return (unsigned)binding_check_range(L, arg, 0, RTC_NVRAM_SIZE - 1, "index into the RAM");
}

static DeviceState *check_rtc(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_RTC);

    if (!dev->machine) {
        luaL_error(L, "%s: not realized", object_get_name((Object *)dev));
    }
    return dev;
}

static int l_get_nvram(lua_State *L)
{
    DeviceState *dev = check_rtc(L);

    lua_pushinteger(L, rtc_get_nvram(dev, check_index(L, 2)));
    return 1;
}

static int l_set_nvram(lua_State *L)
{
    DeviceState *dev = check_rtc(L);
    unsigned index = check_index(L, 2);

    rtc_set_nvram(dev, index, (uint8_t)binding_check_range(L, 3, 0, 0xff, "value"));
    return 0;
}

static int l_get_time(lua_State *L)
{
    lua_pushinteger(L, rtc_get_time(check_rtc(L)));
    return 1;
}

static int l_set_time(lua_State *L)
{
    DeviceState *dev = check_rtc(L);

    rtc_set_time(dev, luaL_checkinteger(L, 2));
    return 0;
}

static const ApiFunction methods[] = {
    { "get_nvram", l_get_nvram, "(self, index: integer): integer",
      "A byte of the clock and its RAM as the guest would read it: 0 to 127 those of ports 0x70 "
      "and "
      "0x71,\n128 to 255 those of 0x72 and 0x73." },
    { "set_nvram", l_set_nvram, "(self, index: integer, value: integer)",
      "Writes a byte. The RAM is on a battery: it keeps the byte through resets." },
    { "set_time", l_set_time, "(self, seconds: integer)",
      "Sets its date: seconds since 1970 in the guest's own calendar." },
    { NULL },
};
static const ApiField fields[] = {
    { "time", l_get_time, NULL, "integer",
      "The date that it shows, as seconds since 1970 in the guest's own calendar." },
    { NULL },
};

void binding_open_rtc(lua_State *L)
{
    binding_class(L, TYPE_RTC, "The real-time clock and CMOS RAM of a PC.", methods, fields);
}
