/* The class "object": what every handle can do. */
#include <string.h>

#include "bindings/script-type.h"

#define TREE_META "vmlua.object-tree"

/* ---- properties ---------------------------------------------------------------------------- */

static int object_get(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);
    const char *name = luaL_checkstring(L, 2);
    GError *error = NULL;
    PropValue v;

    if (!object_property_get(obj, name, &v, &error)) {
        return binding_raise(L, error);
    }
    binding_push_prop_value(L, &v, object_find_property(obj, name));
    prop_value_clear(&v);
    return 1;
}

static int object_set(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);

    luaL_checkany(L, 3);
    script_set_property(L, obj, luaL_checkstring(L, 2), 3);
    return 0;
}

static int object_parse(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);
    GError *error = NULL;

    if (!object_property_parse(obj, luaL_checkstring(L, 2), luaL_checkstring(L, 3), &error)) {
        return binding_raise(L, error);
    }
    return 0;
}

/* ---- the tree ------------------------------------------------------------------------------ */

static int object_resolve(lua_State *L)
{
    return script_resolve(L, binding_check_object(L, 1, TYPE_OBJECT), 2);
}

static int object_child(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);

    binding_push_object(L, object_get_child(obj, luaL_checkstring(L, 2)));
    return 1;
}

static int object_add(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);
    const char *name = luaL_checkstring(L, 2);
    Object *child = binding_check_object(L, 3, TYPE_OBJECT);
    GError *error = NULL;

    if (!object_add_child(obj, name, child, &error)) {
        return binding_raise(L, error);
    }
    lua_settop(L, 3);
    return 1;
}

/* What the engine itself put into the tree is not for scripts to take out. */
static bool removable(const Object *obj)
{
    static const char *const types[] = { TYPE_DEVICE, "chardev", "device-region", "device-timer" };
    const ScriptType *st;
    TypeImpl *base;

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        if (object_class_dynamic_cast(obj->klass, types[i])) {
            return true;
        }
    }
    st = script_type_of(obj);
    if (!st) {
        return false;
    }
    /* Those below other types (a machine) end in their own way. */
    base = type_get_parent(type_table_get(st->root->name));
    return strcmp(type_get_name(base), TYPE_OBJECT) == 0 ||
           strcmp(type_get_name(base), TYPE_CONTAINER) == 0;
}

static void remove_later(void *data)
{
    object_unparent(data);
    object_unref(data);
}

static int object_remove(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);

    if (!removable(obj)) {
        return luaL_error(L, "%s (%s) cannot be removed by a script", object_get_name(obj),
                          object_get_typename(obj));
    }
    if (binding_in_finaliser(L)) {
        binding_defer(remove_later, object_ref(obj));
    } else {
        object_unparent(obj);
    }
    return 0;
}

static int object_is_a(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);
    const char *type = luaL_checkstring(L, 2);

    script_check_type_name(L, 2);
    lua_pushboolean(L, object_dynamic_cast(obj, type) != NULL);
    return 1;
}

/* Appends obj and what is below it to the list at the top of the stack, as { object, depth }. */
static lua_Integer list_below(lua_State *L, Object *obj, lua_Integer depth, lua_Integer n)
{
    luaL_checkstack(L, 8, NULL);
    lua_createtable(L, 2, 0);
    binding_push_object(L, obj);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, depth);
    lua_rawseti(L, -2, 2);
    lua_rawseti(L, -2, ++n);
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        n = list_below(L, object_child_at(obj, i), depth + 1, n);
    }
    return n;
}

static int walk_next(lua_State *L)
{
    lua_Integer i = lua_tointeger(L, lua_upvalueindex(2)) + 1;

    lua_pushinteger(L, i);
    lua_replace(L, lua_upvalueindex(2));
    if (lua_rawgeti(L, lua_upvalueindex(1), i) == LUA_TNIL) {
        return 1;
    }
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -2, 2);
    return 2;
}

/* Over a list made at the start: the loop may change the tree. */
static int object_walk(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);

    lua_newtable(L);
    list_below(L, obj, 0, 0);
    lua_pushinteger(L, 0);
    lua_pushcclosure(L, walk_next, 2);
    return 1;
}

static void push_tree(lua_State *L, Object *obj)
{
    char *path = object_get_canonical_path(obj);

    luaL_checkstack(L, 8, NULL);
    lua_createtable(L, (int)object_child_count(obj), 3);
    lua_pushstring(L, path);
    g_free(path);
    lua_setfield(L, -2, "path");
    lua_pushstring(L, obj->name ? obj->name : "/");
    lua_setfield(L, -2, "name");
    lua_pushstring(L, object_get_typename(obj));
    lua_setfield(L, -2, "type");
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        push_tree(L, object_child_at(obj, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    luaL_setmetatable(L, TREE_META);
}

static int object_tree(lua_State *L)
{
    push_tree(L, binding_check_object(L, 1, TYPE_OBJECT));
    return 1;
}

/* The stack top is a node; adds its lines to the list at `out`. The table is a script's by now. */
static lua_Integer tree_lines(lua_State *L, int out, int depth, lua_Integer n)
{
    char indent[129];

    if (depth > OBJECT_TREE_DEPTH) {
        luaL_error(L, "this tree is deeper than any of objects");
    }
    luaL_checkstack(L, 8, NULL);
    memset(indent, ' ', sizeof(indent));
    indent[MIN(2 * depth, 128)] = '\0';
    lua_getfield(L, -1, "name");
    lua_getfield(L, -2, "type");
    lua_pushfstring(L, "%s%s (%s)\n", indent, lua_tostring(L, -2), lua_tostring(L, -1));
    lua_rawseti(L, out, ++n);
    lua_pop(L, 2);
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TTABLE; i++) {
        n = tree_lines(L, out, depth + 1, n);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return n;
}

static int tree_tostring(lua_State *L)
{
    lua_Integer n;
    luaL_Buffer b;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, 1);
    n = tree_lines(L, 2, 0, 0);
    luaL_buffinit(L, &b);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, 2, i);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    return 1;
}

/* ---- fields -------------------------------------------------------------------------------- */

static int field_name(lua_State *L)
{
    lua_pushstring(L, ((Object *)binding_check_object(L, 1, TYPE_OBJECT))->name);
    return 1;
}

static int field_path(lua_State *L)
{
    char *path = object_get_canonical_path(binding_check_object(L, 1, TYPE_OBJECT));

    lua_pushstring(L, path);
    g_free(path);
    return 1;
}

static int field_parent(lua_State *L)
{
    binding_push_object(L, ((Object *)binding_check_object(L, 1, TYPE_OBJECT))->parent);
    return 1;
}

static int field_data(lua_State *L)
{
    binding_push_data(L, binding_check_object(L, 1, TYPE_OBJECT));
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction methods[] = {
    { "properties", script_list_properties, "(self): PropertyInfo[]",
      "Name, kind, type, doc, default and flags of each property." },
    { "get", object_get, "(self, name: string): any",
      "A property by name, also where a method or field hides it." },
    { "set", object_set, "(self, name: string, value: any)", "Sets a property by name." },
    { "parse", object_parse, "(self, name: string, text: string)",
      "Sets a property from text, as the command line does: on, 0x10, 2G, a path." },
    { "children", script_list_children, "(self): object[]", "The children, in order of addition." },
    { "child", object_child, "(self, name: string): object?", "The child of that name." },
    { "add_child", object_add, "(self, name: string, child: object): object",
      "Puts an object below this one." },
    { "remove", object_remove, "(self)",
      "Takes a device, chardev, region, timer or object of a script's type, and all below it, out "
      "of "
      "the\ntree, for good." },
    { "resolve", object_resolve, "(self, path: string, type?: string): object?, string?",
      "As qom.resolve, among what is below this object." },
    { "is_a", object_is_a, "(self, type: string): boolean",
      "Whether it descends from or implements a type." },
    { "walk", object_walk, "(self): fun(): object?, integer",
      "Iterates over the object and all below it, with the depth." },
    { "tree", object_tree, "(self): table",
      "The tree below as nested tables { name, type, path, … }; tostring gives it as text." },
    { NULL },
};

static const ApiField fields[] = {
    { "name", field_name, NULL, "string?", "Its name in the tree." },
    { "path", field_path, NULL, "string?", "Its canonical path; nil when it is in no tree." },
    { "type", script_push_typename, NULL, "string", "The name of its type." },
    { "parent", field_parent, NULL, "object?", "What it is below." },
    { "state", script_state_push_proxy, NULL, "table",
      "Its saved state by name: declared fields of scripts, field tables of C devices." },
    { "data", field_data, NULL, "table",
      "A table for what scripts keep with the object; not saved, gone with the object." },
    { NULL },
};

void script_object_open(lua_State *L)
{
    binding_class(L, TYPE_OBJECT, "Any object: what every handle can do.", methods, fields);
    luaL_newmetatable(L, TREE_META);
    lua_pushcfunction(L, tree_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
}
