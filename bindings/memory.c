/*
 * Address spaces as scripts see them: vm.memory and vm.io.
 *
 * Accesses of scripts are real accesses (a device's handler runs); software breakpoints are hidden
 * from what they read.
 */
#include <inttypes.h>
#include <string.h>

#include "bindings/memory-script.h"
#include "engine/accel/accel.h"
#include "engine/core/error.h"
#include "engine/core/rcu.h"
#include "engine/core/units.h"
#include "engine/machine/machine.h"
#include "engine/memory/ram.h"

#define SPACE         "address-space"
#define TREE          "memory-tree"
#define READ_MAX      (1 * GiB)
#define IO_SPACE_SIZE 0x10000
#define FILL_CHUNK    4096

/* ---- address spaces ------------------------------------------------------------------------ */

typedef struct Space {
    Machine *machine; /* one reference */
    bool io;
} Space;

static int space_gc(lua_State *L)
{
    Space *s = lua_touserdata(L, 1);
    if (s->machine) {
        binding_defer_unref(OBJECT(s->machine));
        s->machine = NULL;
    }
    return 0;
}

static Space *check_space(lua_State *L)
{
    Space *s = binding_check_userdata(L, 1, SPACE);
    Object *m = OBJECT(s->machine);
    if (!m || m->gone || !s->machine->memory) {
        luaL_error(L, "%s: is gone", m && m->name ? m->name : "machine");
    }
    return s;
}

static AddressSpace *space_as(const Space *s)
{
    return s->io ? s->machine->io : s->machine->memory;
}

static int push_space(lua_State *L, bool io)
{
    Machine *m = binding_check_object(L, 1, TYPE_MACHINE);
    const char *key = io ? "io" : "memory";
    binding_push_data(L, OBJECT(m));
    if (lua_getfield(L, -1, key) == LUA_TNIL) {
        lua_pop(L, 1);
        Space *s = binding_new_userdata(L, SPACE, sizeof *s);
        s->io = io;
        s->machine = MACHINE(object_ref(m));
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, key);
    }
    return 1;
}

static int machine_memory(lua_State *L)
{
    return push_space(L, false);
}

static int machine_io(lua_State *L)
{
    return push_space(L, true);
}

/* The address in argument `arg`, of `len` bytes that lie below the end of the space. */
static hwaddr check_span(lua_State *L, const Space *s, int arg, uint64_t len)
{
    uint64_t addr = binding_check_u64(L, arg, "address");
    uint64_t end;
    bool wraps = len && __builtin_add_overflow(addr, len - 1, &end);
    if (wraps || (len && s->io && end >= IO_SPACE_SIZE)) {
        char text[96];
        g_snprintf(text, sizeof text,
                   "%#" PRIx64 " + %#" PRIx64 " reaches past the end of the %s space", addr, len,
                   s->io ? "I/O" : "memory");
        luaL_argerror(L, arg, text);
    }
    return addr;
}

static void hide_breakpoints(const Space *s, hwaddr addr, void *buf, uint64_t len)
{
    if (!s->io && s->machine->accel) {
        const AccelClass *ac = ACCEL_GET_CLASS(s->machine->accel);
        if (ac->hide_breakpoints) {
            ac->hide_breakpoints(s->machine->accel, addr, buf, len);
        }
    }
}

/* nil, "memory: nothing is mapped at 0x8000000": the first byte of the span that nothing answers
 * for, else what is at its beginning. */
static int write_failed(lua_State *L, const Space *s, hwaddr addr, uint64_t len)
{
    const char *space = s->io ? "I/O" : "memory";
    hwaddr at = addr;
    bool unassigned = false;
    char text[64];

    rcu_enter();
    const FlatView *view = address_space_flat_view(space_as(s));
    while (len && !unassigned) {
        const FlatRange *r = flat_view_find(view, at);
        if (!r) {
            unassigned = true;
        } else if (r->last - at >= len - 1) {
            len = 0;
        } else {
            len -= r->last - at + 1;
            at = r->last + 1;
        }
    }
    rcu_leave();
    lua_pushnil(L);
    g_snprintf(text, sizeof text, "nothing is mapped at 0x%" PRIx64, at);
    if (unassigned) {
        lua_pushfstring(L, "%s: %s", space, text);
    } else {
        char *what = address_space_describe(space_as(s), addr);
        lua_pushfstring(L, "%s: %s takes no such write", space, what);
        g_free(what);
    }
    return 2;
}

static int space_read(lua_State *L)
{
    const Space *s = check_space(L);
    uint64_t len = binding_check_range(L, 3, 0, READ_MAX, "length");
    hwaddr addr = check_span(L, s, 2, len);
    luaL_Buffer b;
    char *p = luaL_buffinitsize(L, &b, len);
    address_space_read(space_as(s), addr, MEMTXATTRS_NONE, p, len);
    hide_breakpoints(s, addr, p, len);
    luaL_pushresultsize(&b, len);
    return 1;
}

static int space_write(lua_State *L)
{
    const Space *s = check_space(L);
    size_t len;
    const char *bytes = luaL_checklstring(L, 3, &len);
    hwaddr addr = check_span(L, s, 2, len);
    if (address_space_write(space_as(s), addr, MEMTXATTRS_NONE, bytes, len) != MEMTX_OK) {
        return write_failed(L, s, addr, len);
    }
    lua_pushboolean(L, true);
    return 1;
}

static int space_poke(lua_State *L)
{
    const Space *s = check_space(L);
    size_t len;
    const char *bytes = luaL_checklstring(L, 3, &len);
    hwaddr addr = check_span(L, s, 2, len);
    if (address_space_write_rom(space_as(s), addr, bytes, len) != MEMTX_OK) {
        return write_failed(L, s, addr, len);
    }
    lua_pushboolean(L, true);
    return 1;
}

static int read_sized(lua_State *L, unsigned size)
{
    const Space *s = check_space(L);
    hwaddr addr = check_span(L, s, 2, size);
    uint64_t value = address_space_ldn(space_as(s), addr, size, MEMTXATTRS_NONE, NULL);
    if (!s->io) {
        value = GUINT64_TO_LE(value);
        hide_breakpoints(s, addr, &value, size);
        value = GUINT64_FROM_LE(value);
    }
    lua_pushinteger(L, (lua_Integer)value);
    return 1;
}

static int write_sized(lua_State *L, unsigned size)
{
    const Space *s = check_space(L);
    hwaddr addr = check_span(L, s, 2, size);
    /* Values as unsigned, or negative as two's complement of that size. */
    uint64_t value = binding_check_u64(L, 3, "value");
    uint64_t high = size == 8 ? 0 : value >> (8 * size);
    uint64_t high_ones = size == 8 ? 0 : UINT64_MAX >> (8 * size);
    bool negative = size < 8 && high == high_ones && (value >> (8 * size - 1) & 1);
    if (high && !negative) {
        char text[64];
        g_snprintf(text, sizeof text, "%#" PRIx64 " does not fit in %u bits", value, 8 * size);
        return luaL_argerror(L, 3, text);
    }
    MemTxResult res;
    address_space_stn(space_as(s), addr, value, size, MEMTXATTRS_NONE, &res);
    if (res != MEMTX_OK) {
        return write_failed(L, s, addr, size);
    }
    lua_pushboolean(L, true);
    return 1;
}

#define SIZED(bits)                              \
    static int space_read_u##bits(lua_State *L)  \
    {                                            \
        return read_sized(L, (bits) / 8);        \
    }                                            \
    static int space_write_u##bits(lua_State *L) \
    {                                            \
        return write_sized(L, (bits) / 8);       \
    }
SIZED(8)
SIZED(16)
SIZED(32)
SIZED(64)

static int space_fill(lua_State *L)
{
    const Space *s = check_space(L);
    uint64_t len = binding_check_u64(L, 3, "length");
    hwaddr addr = check_span(L, s, 2, len);
    uint8_t chunk[FILL_CHUNK];
    memset(chunk, (int)binding_check_range(L, 4, 0, 255, "byte"), sizeof chunk);
    uint64_t room = len;
    if (!address_space_translate_ram(space_as(s), addr, &room, false) || room < len) {
        return luaL_error(L, "fill: the range is not all RAM");
    }
    while (len) {
        uint64_t n = MIN(len, sizeof chunk);
        if (address_space_write(space_as(s), addr, MEMTXATTRS_NONE, chunk, n) != MEMTX_OK) {
            return write_failed(L, s, addr, len);
        }
        addr += n;
        len -= n;
    }
    lua_pushboolean(L, true);
    return 1;
}

/* The first match in RAM at or after `start`; one that straddles two ranges of the flat view is not
 * seen. */
static bool find_in_ram(AddressSpace *as, hwaddr start, hwaddr last, const void *needle, size_t n,
                        hwaddr *at)
{
    bool found = false;
    rcu_enter();
    const FlatView *view = address_space_flat_view(as);
    for (unsigned i = 0; i < view->n && !found; i++) {
        const FlatRange *r = &view->ranges[i];
        if (r->last < start || r->addr > last || !memory_region_get_ram_ptr(r->mr)) {
            continue;
        }
        hwaddr from = MAX(r->addr, start), to = MIN(r->last, last);
        uint64_t len = to - from + 1;
        const uint8_t *host = address_space_translate_ram(as, from, &len, false);
        const uint8_t *hit = host ? memmem(host, len, needle, n) : NULL;
        if (hit) {
            *at = from + (uint64_t)(hit - host);
            found = true;
        }
    }
    rcu_leave();
    return found;
}

static int space_find(lua_State *L)
{
    const Space *s = check_space(L);
    size_t n;
    const char *needle = luaL_checklstring(L, 2, &n);
    luaL_argcheck(L, n > 0, 2, "an empty string is everywhere");
    hwaddr start = lua_isnoneornil(L, 3) ? 0 : binding_check_u64(L, 3, "start");
    hwaddr last = UINT64_MAX;
    if (!lua_isnoneornil(L, 4)) {
        uint64_t len = binding_check_u64(L, 4, "length");
        luaL_argcheck(L, len > 0, 4, "zero bytes to search");
        if (__builtin_add_overflow(start, len - 1, &last)) {
            last = UINT64_MAX;
        }
    }
    hwaddr at = 0;
    if (!find_in_ram(space_as(s), start, last, needle, n, &at)) {
        return 0;
    }
    lua_pushinteger(L, (lua_Integer)at);
    return 1;
}

static int space_load(lua_State *L)
{
    const Space *s = check_space(L);
    const char *path = luaL_checkstring(L, 2);
    hwaddr addr = binding_check_u64(L, 3, "address");
    const lua_Integer from = luaL_optinteger(L, 4, 0), length = luaL_optinteger(L, 5, -1);
    GError *error = NULL;
    GMappedFile *file = g_mapped_file_new(path, FALSE, &error);
    if (!file) {
        return binding_fail(L, error);
    }
    const uint64_t all = g_mapped_file_get_length(file);
    if (from < 0 || (uint64_t)from > all || (length >= 0 && (uint64_t)length > all - from)) {
        g_mapped_file_unref(file);
        lua_pushnil(L);
        lua_pushfstring(L, "%s: the file has %I bytes, %I from %I on were expected", path,
                        (lua_Integer)all, length < 0 ? 0 : length, from);
        return 2;
    }
    const uint64_t size = length < 0 ? all - (uint64_t)from : (uint64_t)length;
    const char *bytes = g_mapped_file_get_contents(file); /* NULL when empty */
    uint64_t done = 0;
    bool wraps = false;
    while (done < size && !wraps) {
        uint64_t room = size - done;
        uint64_t n = address_space_translate_ram(space_as(s), addr + done, &room, false) ? room : 0;
        wraps = n == 0 || addr + done < addr;
        if (!wraps) {
            address_space_write_rom(space_as(s), addr + done, bytes + from + done, n);
            done += n;
        }
    }
    g_mapped_file_unref(file);
    if (done < size) {
        char text[64];
        g_snprintf(text, sizeof text, "%#" PRIx64 " to %#" PRIx64 ", RAM ends at %#" PRIx64, addr,
                   addr + size - 1, addr + done);
        lua_pushnil(L);
        lua_pushfstring(L, "%s: %I bytes do not fit: they would reach from %s", path,
                        (lua_Integer)size, text);
        return 2;
    }
    lua_pushinteger(L, (lua_Integer)size);
    return 1;
}

static int space_describe(lua_State *L)
{
    const Space *s = check_space(L);
    char *text = address_space_describe(space_as(s), check_span(L, s, 2, 1));
    lua_pushstring(L, text);
    g_free(text);
    return 1;
}

/* ---- mapping ------------------------------------------------------------------------------- */

static int space_add(lua_State *L)
{
    const Space *s = check_space(L);
    return script_region_add_to(L, address_space_root(space_as(s)),
                                address_space_name(space_as(s)));
}

static int space_remove(lua_State *L)
{
    const Space *s = check_space(L);
    MemoryRegion *mr = script_check_region(L, 2);
    MemoryRegion *root = address_space_root(space_as(s));
    if (mr->container != root) {
        return luaL_error(L, "%s is not mapped directly in %s", mr->name,
                          address_space_name(space_as(s)));
    }
    memory_region_del_subregion(root, mr);
    return 0;
}

/* ---- listings ------------------------------------------------------------------------------ */

/* What a walk collects before anything is pushed: pushing may raise inside the walk. Strings are
 * borrowed from regions, which the engine lock keeps; the paths are owned by the scratch. */
typedef struct Listed {
    hwaddr addr, offset;
    uint64_t size;
    const char *name, *kind;
    Object *owner;
    unsigned depth;
    int priority;
    bool enabled, readonly;
} Listed;

static void list_region(const MemoryRegion *mr, hwaddr addr, unsigned depth, void *opaque)
{
    Listed l = {
        .addr = addr,
        .size = mr->size,
        .offset = mr->kind == MEMORY_ALIAS ? mr->alias_offset : 0,
        .name = mr->name,
        .kind = memory_region_kind_name(mr->kind),
        .owner = mr->owner,
        .depth = depth,
        .priority = mr->priority,
        .enabled = mr->enabled,
        .readonly = mr->readonly,
    };
    g_byte_array_append(opaque, (const guint8 *)&l, sizeof l);
}

static void set_int(lua_State *L, const char *key, uint64_t v)
{
    lua_pushinteger(L, (lua_Integer)v);
    lua_setfield(L, -2, key);
}

static void set_str(lua_State *L, const char *key, const char *v)
{
    lua_pushstring(L, v);
    lua_setfield(L, -2, key);
}

/* A list of tables from `n` records; the scratch stays on the stack below it. */
static int push_listing(lua_State *L, const GByteArray *list, bool flat)
{
    const Listed *l = (const Listed *)(const void *)list->data;
    const unsigned n = list->len / sizeof *l;
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++, l++) {
        lua_createtable(L, 0, 10);
        set_int(L, "addr", l->addr);
        set_int(L, "size", l->size);
        set_int(L, "last", l->size == MEMORY_REGION_MAX ? UINT64_MAX : l->addr + l->size - 1);
        set_str(L, "name", l->name);
        set_str(L, "kind", l->kind);
        set_int(L, "offset", l->offset);
        lua_pushboolean(L, l->readonly);
        lua_setfield(L, -2, "readonly");
        if (!flat) {
            set_int(L, "depth", l->depth);
            set_int(L, "priority", (uint64_t)(int64_t)l->priority);
            lua_pushboolean(L, l->enabled);
            lua_setfield(L, -2, "enabled");
        }
        if (l->owner) {
            binding_push_object(L, l->owner);
            lua_setfield(L, -2, "owner");
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    luaL_setmetatable(L, TREE);
    return 1;
}

static int space_tree(lua_State *L)
{
    const Space *s = check_space(L);
    GByteArray *list = binding_scratch(L);
    memory_region_tree_foreach(address_space_root(space_as(s)), list_region, list);
    return push_listing(L, list, false);
}

static int space_flat(lua_State *L)
{
    const Space *s = check_space(L);
    GByteArray *list = binding_scratch(L);
    rcu_enter();
    const FlatView *view = address_space_flat_view(space_as(s));
    for (unsigned i = 0; i < view->n; i++) {
        const FlatRange *r = &view->ranges[i];
        Listed l = {
            .addr = r->addr,
            .size = r->addr == 0 && r->last == UINT64_MAX ? MEMORY_REGION_MAX
                                                          : r->last - r->addr + 1,
            .offset = r->offset,
            .name = r->mr->name,
            .kind = memory_region_kind_name(r->mr->kind),
            .owner = r->mr->owner,
            .readonly = r->readonly,
        };
        g_byte_array_append(list, (const guint8 *)&l, sizeof l);
    }
    rcu_leave();
    return push_listing(L, list, true);
}

/* One line an entry, as debuggers print a memory tree. */
static int tree_tostring(lua_State *L)
{
    luaL_Buffer b;
    lua_Integer n = luaL_len(L, 1);
    luaL_buffinit(L, &b);
    for (lua_Integer i = 1; i <= n; i++) {
        /* The buffer may keep a value on the stack: fields are read into locals and popped at once.
         */
        char line[256];
        lua_rawgeti(L, 1, i);
        int t = lua_gettop(L);
        lua_getfield(L, t, "addr");
        lua_getfield(L, t, "last");
        lua_getfield(L, t, "depth");
        lua_getfield(L, t, "priority");
        lua_getfield(L, t, "kind");
        lua_getfield(L, t, "name");
        lua_getfield(L, t, "enabled");
        const bool disabled = lua_isboolean(L, -1) && !lua_toboolean(L, -1);
        const char *kind = lua_tostring(L, t + 5), *name = lua_tostring(L, t + 6);
        g_snprintf(line, sizeof line, "%*s%016" PRIx64 "-%016" PRIx64 " (prio %d, %s): %s%s\n",
                   2 * (int)CLAMP(lua_tointeger(L, t + 3), 0, 32), "",
                   (uint64_t)lua_tointeger(L, t + 1), (uint64_t)lua_tointeger(L, t + 2),
                   (int)lua_tointeger(L, t + 4), kind ? kind : "?", name ? name : "?",
                   disabled ? " [disabled]" : "");
        lua_settop(L, t - 1);
        luaL_addstring(&b, line);
    }
    luaL_pushresult(&b);
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction space_methods[] = {
    { "read", space_read, "(addr: integer|string, len: integer|string): string",
      "The bytes there, through the devices where there is no RAM; unassigned bytes are 0xff." },
    { "write", space_write, "(addr: integer|string, bytes: string): boolean?, string?",
      "Writes as the guest would; nil and a message where ROM or nothing is there." },
    { "poke", space_poke, "(addr: integer|string, bytes: string): boolean?, string?",
      "Writes into RAM and ROM, and never to a device: what loaders and debuggers want." },
    { "read_u8", space_read_u8, "(addr: integer|string): integer", "One byte." },
    { "read_u16", space_read_u16, "(addr: integer|string): integer", "Two bytes, little-endian." },
    { "read_u32", space_read_u32, "(addr: integer|string): integer", "Four bytes, little-endian." },
    { "read_u64", space_read_u64, "(addr: integer|string): integer",
      "Eight bytes, little-endian." },
    { "write_u8", space_write_u8, "(addr: integer|string, value: integer): boolean?, string?",
      "One byte, as the guest would write it." },
    { "write_u16", space_write_u16, "(addr: integer|string, value: integer): boolean?, string?",
      "Two bytes, little-endian." },
    { "write_u32", space_write_u32, "(addr: integer|string, value: integer): boolean?, string?",
      "Four bytes, little-endian." },
    { "write_u64", space_write_u64, "(addr: integer|string, value: integer): boolean?, string?",
      "Eight bytes, little-endian." },
    { "fill", space_fill,
      "(addr: integer|string, len: integer|string, byte: integer): boolean?, string?",
      "Sets a range of RAM to one byte." },
    { "find", space_find, "(bytes: string, start?: integer|string, len?: integer|string): integer?",
      "The address of the first occurrence in RAM, nil when there is none." },
    { "load", space_load,
      "(file: string, addr: integer|string, from?: integer, length?: integer): integer?, string?",
      "Copies a file, or length bytes of it from an offset on, into RAM or ROM; how many, or nil "
      "and "
      "why it does not fit." },
    { "describe", space_describe, "(addr: integer|string): string",
      "What is at an address, for messages." },
    { "add", space_add,
      "(addr: integer|string, region: memory-region, priority?: integer): memory-region",
      "Maps a region. Without a priority an overlap with a neighbour is an error; with one it is "
      "meant." },
    { "remove", space_remove, "(region: memory-region)", "Unmaps a region." },
    { "tree", space_tree, "(): table",
      "Every region below the root, in order: addr, size, last, name, kind, depth, priority, "
      "enabled, owner. tostring() prints it." },
    { "flat", space_flat, "(): table",
      "What the guest sees: disjoint ranges in order of address." },
    { 0 },
};

static const ApiField machine_fields[] = {
    { "memory", machine_memory, NULL, "address-space", "The memory address space." },
    { "io", machine_io, NULL, "address-space", "The I/O port space." },
    { 0 },
};

void binding_open_memory(lua_State *L)
{
    binding_userdata_class(L, SPACE, "An address space of a machine: vm.memory, vm.io.",
                           space_methods, NULL, space_gc);
    luaL_newmetatable(L, TREE);
    lua_pushcfunction(L, tree_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    binding_class(L, TYPE_MACHINE, NULL, NULL, machine_fields);
    binding_open_region(L);
}
