/*
 * Class "device": life cycle, DMA. Ports and MMIO are in device-region.c, lines and timers in
 * device-line.c, the log in device-log.c.
 */
#include "engine/hw/core/device.h"

#include "bindings/binding-priv.h"
#include "bindings/device-script.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define DMA_CLASS "vmlua.dma"
#define DMA_MAX   (1 * GiB)

/* ---- a callback of a device ---------------------------------------------------------------- */

void device_script_failed(DeviceState *dev, GError *error)
{
    if (dev && dev->machine) {
        machine_fail(dev->machine, error->message);
        g_error_free(error);
    } else {
        binding_report(error);
    }
}

/* ---- DMA ----------------------------------------------------------------------------------- */

static DeviceState *dma_device(lua_State *L)
{
    DeviceState *dev;

    binding_check_userdata(L, 1, DMA_CLASS);
    lua_getiuservalue(L, 1, 1);
    dev = binding_check_object(L, -1, TYPE_DEVICE);
    lua_pop(L, 1);
    if (!dev->machine) {
        luaL_error(L, "%s: no DMA before it is realized", object_get_name((Object *)dev));
    }
    return dev;
}

static int dma_result(lua_State *L, DeviceState *dev, const char *what, uint64_t addr, uint64_t len,
                      MemTxResult res)
{
    if (res == MEMTX_OK) {
        return 1;
    }
    lua_pushnil(L);
    lua_pushfstring(L, "%s: DMA %s of %I bytes at %p: %s", object_get_name((Object *)dev), what,
                    (LUAI_UACINT)len, (void *)(uintptr_t)addr,
                    res & MEMTX_DECODE_ERROR ? "nothing answers there" : "refused there");
    return 2;
}

static int dma_read(lua_State *L)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    uint64_t len = binding_check_range(L, 3, 0, DMA_MAX, "length");
    MemTxAttrs attrs;
    AddressSpace *as = device_dma_space(dev, &attrs);
    MemTxResult res;
    luaL_Buffer b;
    char *buf = luaL_buffinitsize(L, &b, len);

    res = address_space_read(as, addr, attrs, buf, len);
    luaL_pushresultsize(&b, len);
    return dma_result(L, dev, "read", addr, len, res);
}

static int dma_write(lua_State *L)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    size_t len;
    const char *bytes = luaL_checklstring(L, 3, &len);
    MemTxAttrs attrs;
    AddressSpace *as = device_dma_space(dev, &attrs);
    MemTxResult res = address_space_write(as, addr, attrs, bytes, len);

    lua_pushboolean(L, 1);
    return dma_result(L, dev, "write", addr, len, res);
}

static int dma_load(lua_State *L, unsigned size)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    MemTxResult res = MEMTX_OK;
    MemTxAttrs attrs;
    AddressSpace *as = device_dma_space(dev, &attrs);

    lua_pushinteger(L, (lua_Integer)address_space_ldn(as, addr, size, attrs, &res));
    return dma_result(L, dev, "read", addr, size, res);
}

static int dma_store(lua_State *L, unsigned size)
{
    DeviceState *dev = dma_device(L);
    uint64_t addr = binding_check_u64(L, 2, "address");
    uint64_t value = (uint64_t)luaL_checkinteger(L, 3);
    MemTxResult res = MEMTX_OK;
    MemTxAttrs attrs;
    AddressSpace *as = device_dma_space(dev, &attrs);

    address_space_stn(as, addr, value, size, attrs, &res);
    lua_pushboolean(L, 1);
    return dma_result(L, dev, "write", addr, size, res);
}

#define DMA_SIZED(bits)                        \
    static int dma_read_u##bits(lua_State *L)  \
    {                                          \
        return dma_load(L, (bits) / 8);        \
    }                                          \
    static int dma_write_u##bits(lua_State *L) \
    {                                          \
        return dma_store(L, (bits) / 8);       \
    }
DMA_SIZED(8)
DMA_SIZED(16)
DMA_SIZED(32)
DMA_SIZED(64)

static int dma_gc(lua_State *L)
{
    return 0;
}

static int field_dma(lua_State *L)
{
    binding_check_object(L, 1, TYPE_DEVICE);
    binding_new_userdata(L, DMA_CLASS, 1);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return 1;
}

/* ---- life cycle ---------------------------------------------------------------------------- */

static int device_lua_realize(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);
    Machine *m = binding_check_object(L, 2, TYPE_MACHINE);
    const char *id = luaL_optstring(L, 3, NULL);
    Object *parent = binding_opt_object(L, 4, TYPE_OBJECT);
    GError *error = NULL;

    if (!device_realize_at(dev, m, parent ? parent : (Object *)m, id, &error)) {
        return binding_fail(L, error);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static void unrealize_later(void *data)
{
    device_unrealize(data);
    object_unref(data);
}

static int device_lua_unrealize(lua_State *L)
{
    DeviceState *dev = binding_check_object(L, 1, TYPE_DEVICE);

    if (binding_in_finaliser(L)) {
        binding_defer(unrealize_later, object_ref(dev));
    } else {
        device_unrealize(dev);
    }
    return 0;
}

static int device_lua_reset(lua_State *L)
{
    device_reset(binding_check_object(L, 1, TYPE_DEVICE));
    return 0;
}

void script_device_cleanup(DeviceState *dev)
{
    Object *obj = (Object *)dev;

    script_pci_cleanup(dev);
    for (unsigned i = object_child_count(obj); i-- > 0;) {
        Object *child = object_child_at(obj, i);
        if (child && (object_dynamic_cast(child, TYPE_DEVICE_REGION) ||
                      object_dynamic_cast(child, TYPE_DEVICE_TIMER))) {
            object_unparent(child);
        }
    }
}

static int field_machine(lua_State *L)
{
    binding_push_object(L, ((DeviceState *)binding_check_object(L, 1, TYPE_DEVICE))->machine);
    return 1;
}

static int field_id(lua_State *L)
{
    lua_pushstring(L, ((DeviceState *)binding_check_object(L, 1, TYPE_DEVICE))->id);
    return 1;
}

static int field_realized(lua_State *L)
{
    lua_pushboolean(L, ((Object *)binding_check_object(L, 1, TYPE_DEVICE))->realized);
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "realize", device_lua_realize,
      "(self, machine: machine, id?: string, parent?: object): boolean?, string?",
      "Puts the device into a machine; nil and why when it refuses." },
    { "unrealize", device_lua_unrealize, "(self)",
      "Takes it out of the machine's address spaces, reset and saved state." },
    { "reset", device_lua_reset, "(self)", "Resets this device alone." },
    { NULL },
};
static const ApiField fields[] = {
    { "machine", field_machine, NULL, "machine?", "The machine that it is realized in." },
    { "id", field_id, NULL, "string?", "The name that the user gave it." },
    { "realized", field_realized, NULL, "boolean", "Whether it is part of a machine." },
    { "dma", field_dma, NULL, "vmlua.dma",
      "Access to the machine's memory; a PCI device's, while it may be bus master." },
    { NULL },
};

static const ApiFunction dma_methods[] = {
    { "read", dma_read, "(self, addr: integer|string, len: integer): string?, string?",
      "The bytes there; nil and why when something refused." },
    { "write", dma_write, "(self, addr: integer|string, bytes: string): boolean?, string?",
      "Writes bytes; nil and why when something refused." },
    { "read_u8", dma_read_u8, "(self, addr: integer|string): integer?, string?", "One byte." },
    { "read_u16", dma_read_u16, "(self, addr: integer|string): integer?, string?",
      "Two bytes, little-endian." },
    { "read_u32", dma_read_u32, "(self, addr: integer|string): integer?, string?",
      "Four bytes, little-endian." },
    { "read_u64", dma_read_u64, "(self, addr: integer|string): integer?, string?",
      "Eight bytes, little-endian." },
    { "write_u8", dma_write_u8, "(self, addr: integer|string, value: integer): boolean?, string?",
      "One byte." },
    { "write_u16", dma_write_u16, "(self, addr: integer|string, value: integer): boolean?, string?",
      "Two bytes, little-endian." },
    { "write_u32", dma_write_u32, "(self, addr: integer|string, value: integer): boolean?, string?",
      "Four bytes, little-endian." },
    { "write_u64", dma_write_u64, "(self, addr: integer|string, value: integer): boolean?, string?",
      "Eight bytes, little-endian." },
    { NULL },
};

void binding_open_device(lua_State *L)
{
    binding_class(L, TYPE_DEVICE, "A device of a machine, in C or in Lua.", methods, fields);
    binding_userdata_class(L, DMA_CLASS, "Memory as a device sees it.", dma_methods, NULL, dma_gc);
    device_regions_open(L);
    device_lines_open(L);
    device_log_open(L);
}
