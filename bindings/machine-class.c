/*
 * vmlua.core.machine: classes of machines, making one, accelerators to choose from.
 */
#include <string.h>

#include "bindings/binding-priv.h"
#include "engine/accel/accel.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

/* ---- classes -------------------------------------------------------------------------------- */

/* What a script-made class is given to set up its MachineClass; lives as long as the type. */
typedef struct ClassData {
    char *alias;
    bool is_default;
    uint64_t ram_size;
    unsigned cpus, max_cpus;
} ClassData;

static void script_machine_class_init(ObjectClass *klass, const void *data)
{
    MachineClass *mc = (MachineClass *)klass;
    const ClassData *d = data;
    mc->alias = d->alias;
    mc->is_default = d->is_default;
    mc->default_ram_size = d->ram_size;
    mc->default_cpus = d->cpus;
    mc->max_cpus = d->max_cpus;
}

static uint64_t opt_u64_key(lua_State *L, int idx, const char *key, uint64_t def)
{
    uint64_t value = def;
    if (binding_get_key(L, idx, key) != LUA_TNIL) {
        value = binding_check_u64(L, lua_gettop(L), key);
    }
    lua_pop(L, 1);
    return value;
}

static const char *opt_string_key(lua_State *L, int idx, const char *key, const char *def)
{
    const char *value = def;
    int type = binding_get_key(L, idx, key);
    if (type == LUA_TSTRING) {
        value = lua_tostring(L, -1); /* stays anchored in the table */
    } else if (type != LUA_TNIL) {
        luaL_error(L, "%s: a string expected, got %s", key, luaL_typename(L, -1));
    }
    lua_pop(L, 1);
    return value;
}

bool script_bool_key(lua_State *L, int idx, const char *key)
{
    binding_get_key(L, idx, key);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static int l_register(lua_State *L)
{
    static const char *const keys[] = { "name", "doc",  "parent",   "alias", "default",
                                        "ram",  "cpus", "max_cpus", NULL };
    binding_check_keys(L, 1, keys, "machine class");
    const char *name = opt_string_key(L, 1, "name", NULL);
    const char *doc = opt_string_key(L, 1, "doc", "");
    const char *parent = opt_string_key(L, 1, "parent", TYPE_MACHINE);
    const char *alias = opt_string_key(L, 1, "alias", NULL);
    bool is_default = script_bool_key(L, 1, "default");
    uint64_t ram = opt_u64_key(L, 1, "ram", 0);
    uint64_t cpus = opt_u64_key(L, 1, "cpus", 1);
    uint64_t max_cpus = opt_u64_key(L, 1, "max_cpus", 255);
    if (!name || !*name || strchr(name, '/')) {
        return luaL_error(L, "machine class: a name without '/' is required");
    }
    if (strlen(name) > OBJECT_TYPE_MAX) {
        return luaL_error(L, "machine class: a name has at most %d bytes", OBJECT_TYPE_MAX);
    }
    if (cpus < 1 || max_cpus > 4096 || cpus > max_cpus) {
        return luaL_error(L, "machine class %s: 1 <= cpus <= max_cpus <= 4096 expected", name);
    }

    ClassData *data = g_new0(ClassData, 1);
    *data = (ClassData){ g_strdup(alias), is_default, ram, (unsigned)cpus, (unsigned)max_cpus };
    const TypeInfo info = {
        .name = name,
        .parent = parent,
        .doc = doc,
        .class_init = script_machine_class_init,
        .class_data = data,
    };
    GError *error = NULL;
    TypeImpl *type = type_register_checked(&info, &error);
    if (!type || !type_initialize(type, &error)) {
        if (!type) {
            g_free(data->alias);
            g_free(data);
        }
        return binding_raise(L, error);
    }
    return 0;
}

static int list_gc(lua_State *L)
{
    GSList **list = luaL_checkudata(L, 1, "vmlua.class-list");
    g_slist_free(*list);
    *list = NULL;
    return 0;
}

/* The list as a userdata, so that raises cannot lose it. */
static GSList **push_class_list(lua_State *L, const char *type)
{
    GSList **list = lua_newuserdatauv(L, sizeof(GSList *), 0);
    *list = NULL;
    if (luaL_newmetatable(L, "vmlua.class-list")) {
        lua_pushcfunction(L, list_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    *list = object_class_get_list(type, false);
    return list;
}

static int l_classes(lua_State *L)
{
    GSList **list = push_class_list(L, TYPE_MACHINE);
    lua_newtable(L);
    lua_Integer n = 0;
    for (GSList *l = *list; l; l = l->next) {
        ObjectClass *klass = l->data;
        MachineClass *mc = MACHINE_CLASS(klass);
        lua_createtable(L, 0, 7);
        lua_pushstring(L, object_class_get_name(klass));
        lua_setfield(L, -2, "name");
        lua_pushstring(L, type_get_doc(klass->type));
        lua_setfield(L, -2, "doc");
        lua_pushstring(L, mc->alias);
        lua_setfield(L, -2, "alias");
        lua_pushboolean(L, mc->is_default);
        lua_setfield(L, -2, "default");
        lua_pushinteger(L, (lua_Integer)mc->default_ram_size);
        lua_setfield(L, -2, "ram");
        lua_pushinteger(L, mc->default_cpus);
        lua_setfield(L, -2, "cpus");
        lua_pushinteger(L, mc->max_cpus);
        lua_setfield(L, -2, "max_cpus");
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int l_select(lua_State *L)
{
    GError *error = NULL;
    MachineClass *mc = select_machine(luaL_optstring(L, 1, NULL), &error);
    if (!mc) {
        return binding_fail(L, error);
    }
    lua_pushstring(L, object_class_get_name(OBJECT_CLASS(mc)));
    return 1;
}

static int l_new(lua_State *L)
{
    const char *type = luaL_checkstring(L, 1);
    const char *id = luaL_optstring(L, 2, NULL);
    GError *error = NULL;
    Machine *m = machine_new(type, id, &error);
    if (!m) {
        return binding_fail(L, error);
    }
    binding_push_object(L, m);
    return 1;
}

static int l_list(lua_State *L)
{
    Object *dir = object_get_child(object_get_root(), "machines");
    lua_newtable(L);
    lua_Integer n = 0;
    for (unsigned i = 0; dir && i < object_child_count(dir); i++) {
        Object *obj = object_child_at(dir, i);
        if (object_dynamic_cast(obj, TYPE_MACHINE)) {
            binding_push_object(L, obj);
            lua_rawseti(L, -2, ++n);
        }
    }
    return 1;
}

/* ---- accelerators --------------------------------------------------------------------------- */

static int l_accels(lua_State *L)
{
    GSList **list = push_class_list(L, TYPE_ACCEL);
    lua_newtable(L);
    lua_Integer n = 0;
    for (GSList *l = *list; l; l = l->next) {
        AccelClass *ac = ACCEL_CLASS(l->data);
        GError *error = NULL;
        char reason[256] = "";
        bool available = !ac->available || ac->available(&error);
        if (error) {
            g_strlcpy(reason, error->message, sizeof reason);
            g_clear_error(&error);
        }
        lua_createtable(L, 0, 5);
        lua_pushstring(L, ac->short_name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, type_get_doc(OBJECT_CLASS(ac)->type));
        lua_setfield(L, -2, "doc");
        lua_pushboolean(L, available);
        lua_setfield(L, -2, "available");
        lua_pushboolean(L, available && ac->preferred && ac->preferred());
        lua_setfield(L, -2, "preferred");
        if (!available) {
            lua_pushstring(L, reason);
            lua_setfield(L, -2, "reason");
        }
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

static int l_select_accel(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_Integer n = luaL_len(L, 1);
    luaL_argcheck(L, n >= 1 && n <= 32, 1, "1 to 32 names of accelerators expected");
    const char **names = lua_newuserdatauv(L, sizeof(char *) * ((size_t)n + 1), 0);
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_rawgeti(L, 1, i) != LUA_TSTRING) {
            return luaL_argerror(L, 1, "names of accelerators expected");
        }
        names[i - 1] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    names[n] = NULL;
    char *why = NULL, text[512];
    GError *error = NULL;
    AccelClass *ac = accel_select(names, &why, &error);
    g_strlcpy(text, why ? why : "", sizeof text);
    g_free(why);
    if (!ac) {
        return binding_fail(L, error);
    }
    lua_pushstring(L, ac->short_name);
    lua_pushstring(L, text);
    return 2;
}

static const ApiFunction functions[] = {
    { "register", l_register,
      "(class: {name: string, doc?: string, parent?: string, alias?: string, default?: boolean, "
      "ram?: integer|string, cpus?: integer, max_cpus?: integer})",
      "Registers a machine class below \"machine\"." },
    { "classes", l_classes, "(): table[]", "Machine classes that can be made, by name." },
    { "select", l_select, "(name: string?): string?, string?",
      "The class that a name or alias means; nil: the default one." },
    { "new", l_new, "(class: string, id: string?): machine?, string?",
      "A machine in state \"building\", without accelerator or vCPUs." },
    { "list", l_list, "(): machine[]", "Machines that are not closed." },
    { "accels", l_accels, "(): table[]",
      "Accelerators: name, doc, available, reason if not, preferred." },
    { "select_accel", l_select_accel, "(names: string[]): string?, string",
      "The first of the named accelerators that works here (\"auto\" among them), and why." },
    { NULL },
};

void binding_open_machine_class(lua_State *L)
{
    binding_module(L, "vmlua.core.machine", "Machines: classes, making, accelerators.", functions);
}
