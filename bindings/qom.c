/* vmlua.core.qom: types, classes, properties, the tree of objects. */
#include "engine/qom/object.h"

#include <string.h>

#include "bindings/script-type.h"
#include "engine/core/error.h"
#include "engine/machine/machine.h"

/* ---- classes ------------------------------------------------------------------------------- */

static void collect_class(ObjectClass *klass, void *opaque)
{
    g_byte_array_append(opaque, (const guint8 *)&klass, sizeof(klass));
}

/* What C calls of it, and a script may implement. */
static void push_interface_methods(lua_State *L, const InterfaceClass *ic)
{
    lua_Integer n = 0;

    lua_newtable(L);
    for (const InterfaceMethod *m = ic->methods; m && m->name; m++) {
        lua_createtable(L, 0, 4);
        lua_pushstring(L, m->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, m->doc ? m->doc : "");
        lua_setfield(L, -2, "doc");
        lua_pushstring(L, m->signature);
        lua_setfield(L, -2, "signature");
        lua_pushboolean(L, m->required);
        lua_setfield(L, -2, "required");
        lua_rawseti(L, -2, ++n);
    }
}

static void push_class(lua_State *L, ObjectClass *klass)
{
    ObjectClass *parent = object_class_get_parent(klass);
    lua_Integer n = 0;

    lua_createtable(L, 0, 6);
    lua_pushstring(L, object_class_get_name(klass));
    lua_setfield(L, -2, "name");
    lua_pushstring(L, type_get_doc(klass->type) ? type_get_doc(klass->type) : "");
    lua_setfield(L, -2, "doc");
    lua_pushboolean(L, object_class_is_abstract(klass));
    lua_setfield(L, -2, "abstract");
    if (parent) {
        lua_pushstring(L, object_class_get_name(parent));
        lua_setfield(L, -2, "parent");
    }
    if (object_class_dynamic_cast(klass, TYPE_DEVICE)) {
        const DeviceClass *dc = (const DeviceClass *)klass;
        lua_pushboolean(L, dc->user_creatable && !object_class_is_abstract(klass));
        lua_setfield(L, -2, "user_creatable");
    }
    lua_newtable(L);
    for (GSList *l = klass->interfaces; l; l = l->next) {
        const InterfaceClass *ic = l->data;
        lua_pushstring(L, type_get_name(ic->interface_type));
        lua_rawseti(L, -2, ++n);
    }
    lua_setfield(L, -2, "interfaces");
    if (klass->ancestors[0] && strcmp(type_get_name(klass->ancestors[0]), TYPE_INTERFACE) == 0) {
        push_interface_methods(L, (const InterfaceClass *)klass);
        lua_setfield(L, -2, "methods");
    }
}

/* Raises on a type name that nobody knows; NULL is passed through. */
const char *script_check_type_name(lua_State *L, int arg)
{
    const char *name = luaL_optstring(L, arg, NULL);
    GError *error = NULL;

    if (name && !object_class_lookup(name, &error)) {
        binding_raise(L, error);
    }
    return name;
}

static int l_classes(lua_State *L)
{
    const char *parent = script_check_type_name(L, 1);
    bool abstract = lua_toboolean(L, 2);
    GByteArray *found = binding_scratch(L);
    size_t n;

    object_class_foreach(collect_class, parent, abstract, found);
    n = found->len / sizeof(ObjectClass *);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        push_class(L, ((ObjectClass **)(void *)found->data)[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int l_types(lua_State *L)
{
    GByteArray *found = binding_scratch(L);
    size_t n;

    object_class_foreach(collect_class, NULL, true, found);
    n = found->len / sizeof(ObjectClass *);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushstring(L, object_class_get_name(((ObjectClass **)(void *)found->data)[i]));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int l_class(lua_State *L)
{
    GError *error = NULL;
    ObjectClass *klass = object_class_lookup(luaL_checkstring(L, 1), &error);

    if (!klass) {
        return binding_fail(L, error);
    }
    push_class(L, klass);
    return 1;
}

static int l_ancestors(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    ObjectClass *klass;

    script_check_type_name(L, 1);
    klass = object_class_by_name(name);
    lua_newtable(L);
    for (lua_Integer n = 1; klass; klass = object_class_get_parent(klass), n++) {
        lua_pushstring(L, object_class_get_name(klass));
        lua_rawseti(L, -2, n);
    }
    return 1;
}

static int l_methods(lua_State *L)
{
    luaL_checkstring(L, 1);
    script_check_type_name(L, 1);
    binding_push_methods(L, lua_tostring(L, 1));
    return 1;
}

static int l_getters(lua_State *L)
{
    luaL_checkstring(L, 1);
    script_check_type_name(L, 1);
    binding_push_getters(L, lua_tostring(L, 1));
    return 1;
}

/* ---- properties ---------------------------------------------------------------------------- */

typedef struct ListedProp {
    const Property *prop;
    ObjectClass *owner; /* NULL: of the instance */
} ListedProp;

static void collect_class_prop(const Property *p, ObjectClass *owner, void *opaque)
{
    ListedProp entry = { p, owner };
    g_byte_array_append(opaque, (const guint8 *)&entry, sizeof(entry));
}

static void collect_prop(const Property *p, void *opaque)
{
    collect_class_prop(p, NULL, opaque);
}

static void push_flag(lua_State *L, bool set, const char *key)
{
    if (set) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, key);
    }
}

static void push_property(lua_State *L, const ListedProp *entry)
{
    const Property *p = entry->prop;
    char buf[256], *text = property_type_string(p);

    g_strlcpy(buf, text, sizeof(buf));
    g_free(text);
    lua_createtable(L, 0, 10);
    lua_pushstring(L, p->name);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, p->doc ? p->doc : "");
    lua_setfield(L, -2, "doc");
    lua_pushstring(L, prop_kind_name(p->kind));
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, buf);
    lua_setfield(L, -2, "type");
    if (p->has_default) {
        binding_push_prop_value(L, &p->def, p);
        lua_setfield(L, -2, "default");
    }
    if (p->words) {
        lua_newtable(L);
        for (lua_Integer i = 0; p->words[i]; i++) {
            lua_pushstring(L, p->words[i]);
            lua_rawseti(L, -2, i + 1);
        }
        lua_setfield(L, -2, "words");
    }
    if (p->link_type) {
        lua_pushstring(L, p->link_type);
        lua_setfield(L, -2, "link_type");
    }
    if (entry->owner) {
        lua_pushstring(L, object_class_get_name(entry->owner));
        lua_setfield(L, -2, "owner");
    }
    push_flag(L, p->flags & PROP_READ_ONLY || p->kind == PROP_CHILD || (p->get && !p->set),
              "readonly");
    push_flag(L, p->flags & PROP_UNTIL_REALIZED, "until_realized");
    push_flag(L, p->flags & PROP_REQUIRED, "required");
    push_flag(L, p->flags & PROP_HIDDEN, "hidden");
}

/* Of a handle or of a class by name. */
int script_list_properties(lua_State *L)
{
    GByteArray *found;
    size_t n;

    if (lua_type(L, 1) == LUA_TSTRING) {
        GError *error = NULL;
        ObjectClass *klass = object_class_lookup(lua_tostring(L, 1), &error);

        if (!klass) {
            return binding_fail(L, error);
        }
        found = binding_scratch(L);
        object_class_property_foreach(klass, collect_class_prop, found);
    } else {
        Object *obj = binding_check_object(L, 1, TYPE_OBJECT);
        found = binding_scratch(L);
        object_property_foreach(obj, collect_prop, found);
    }
    n = found->len / sizeof(ListedProp);
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        push_property(L, &((ListedProp *)(void *)found->data)[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

void script_set_property(lua_State *L, Object *obj, const char *name, int idx)
{
    const Property *p = object_find_property(obj, name);
    GError *error = NULL;
    PropValue v = { 0 };
    bool ok;

    if (!p) { /* for the message with the nearest name */
        object_property_get(obj, name, &v, &error);
        binding_raise(L, error);
    }
    ok = binding_to_prop_value(L, idx, p, &v, &error);
    if (!ok) {
        g_prefix_error(&error, "%s: property '%s': ", object_get_name(obj), name);
    }
    ok = ok && object_property_set(obj, name, &v, &error);
    prop_value_clear(&v);
    if (!ok) {
        binding_raise(L, error);
    }
}

/* ---- making objects ------------------------------------------------------------------------ */

/* Objects that are parts of something which the engine puts together, and have no meaning without
 * it. */
static void check_stands_alone(lua_State *L, const char *type)
{
    static const char *const parts[] = { "accel",         TYPE_VCPU,       "console",
                                         "input",         "block-backend", "block-node",
                                         "ide-channel",   "pci-bus",       "smbus",
                                         "device-region", "device-timer",  "machines",
                                         "memory-region" };
    ObjectClass *klass = object_class_by_name(type);

    if (!klass || object_class_is_abstract(klass)) {
        return; /* that is said elsewhere */
    }
    if (object_class_dynamic_cast(klass, TYPE_MACHINE)) {
        luaL_error(L, "%s: machines are made by machine.new", type);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (object_class_dynamic_cast(klass, parts[i])) {
            luaL_error(L, "%s: only the engine makes objects of this type", type);
        }
    }
}

static int l_new(lua_State *L)
{
    const char *type = luaL_checkstring(L, 1);
    GError *error = NULL;
    ScriptType *st;
    Object *obj;

    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
    }
    lua_settop(L, 2);
    check_stands_alone(L, type);
    obj = object_new(type, &error);
    if (!obj) {
        return binding_raise(L, error);
    }
    binding_push_object(L, obj); /* the handle holds it from here on */
    object_unref(obj);
    st = script_type_of(obj);
    if (st && script_type_instance(st, obj)->init_error) {
        return luaL_error(L, "%s", script_type_instance(st, obj)->init_error);
    }
    if (lua_istable(L, 2)) {
        lua_pushnil(L);
        while (lua_next(L, 2)) {
            if (lua_type(L, -2) != LUA_TSTRING) {
                return luaL_error(L, "%s: properties are named, got a value with a %s key", type,
                                  luaL_typename(L, -2));
            }
            script_set_property(L, obj, lua_tostring(L, -2), lua_gettop(L));
            lua_pop(L, 1);
        }
    }
    return 1;
}

/* ---- the tree ------------------------------------------------------------------------------ */

static int l_root(lua_State *L)
{
    binding_push_object(L, object_get_root());
    return 1;
}

int script_resolve(lua_State *L, Object *from, int arg)
{
    const char *path = luaL_checkstring(L, arg);
    const char *type = script_check_type_name(L, arg + 1);
    bool ambiguous = false;
    Object *obj = from   ? object_resolve_path_at(from, path, &ambiguous)
                  : type ? object_resolve_path_type(path, type, &ambiguous)
                         : object_resolve_path(path, &ambiguous);

    if (obj && type && !object_dynamic_cast(obj, type)) {
        obj = NULL;
    }
    if (!obj) {
        lua_pushnil(L);
        lua_pushfstring(
            L, ambiguous ? "'%s' is ambiguous, give more of its path" : "no object '%s'", path);
        return 2;
    }
    binding_push_object(L, obj);
    return 1;
}

static int l_resolve(lua_State *L)
{
    return script_resolve(L, NULL, 1);
}

static int l_container(lua_State *L)
{
    GError *error = NULL;
    Object *container = object_make_container(object_get_root(), luaL_checkstring(L, 1), &error);

    if (!container) {
        return binding_raise(L, error);
    }
    binding_push_object(L, container);
    return 1;
}

int script_push_typename(lua_State *L)
{
    lua_pushstring(L, object_get_typename(binding_check_object(L, 1, TYPE_OBJECT)));
    return 1;
}

int script_list_children(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);

    lua_createtable(L, (int)object_child_count(obj), 0);
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        binding_push_object(L, object_child_at(obj, i));
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

/* ---- declarations -------------------------------------------------------------------------- */

static const ApiFunction functions[] = {
    { "type", script_type_define, "(spec: TypeSpec)",
      "Registers a type: name, parent, doc, abstract, properties, state, interfaces, methods, "
      "init,\nrealize, reset, unrealize, pre_save, post_load." },
    { "new", l_new, "(type: string, props?: table): object",
      "An instance that is in no tree yet; its handle holds it." },
    { "types", l_types, "(): string[]", "The names of all types, sorted." },
    { "classes", l_classes, "(parent?: string, abstract?: boolean): ClassInfo[]",
      "The classes that descend from or implement a type, sorted by name." },
    { "class", l_class, "(name: string): ClassInfo?, string?", "What is known of one class." },
    { "ancestors", l_ancestors, "(name: string): string[]",
      "The type, its parent, and so on up to the root." },
    { "properties", script_list_properties, "(x: string|object): PropertyInfo[]?, string?",
      "The properties of a type or of an object." },
    { "methods", l_methods, "(type: string): table<string, function>",
      "The open table of a type's methods: what is added there, handles have." },
    { "getters", l_getters, "(type: string): table<string, function>",
      "The open table of a type's fields: functions (handle) -> value." },
    { "typename", script_push_typename, "(x: object): string", "The name of an object's type." },
    { "children", script_list_children, "(x: object): object[]",
      "The children, in order of addition." },
    { "resolve", l_resolve, "(path: string, type?: string): object?, string?",
      "The object at an absolute path, or at a partial one that is unique in the tree." },
    { "root", l_root, "(): object", "The object \"/\"." },
    { "container", l_container, "(path: string): object",
      "The object at a path, made of containers where it is missing." },
    { NULL },
};

void binding_open_qom(lua_State *L)
{
    binding_module(L, "vmlua.core.qom", "Types, classes, and the tree of objects.", functions);
    script_object_open(L);
    script_state_open(L);
}
