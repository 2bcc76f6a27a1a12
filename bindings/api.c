/*
 * vmlua.core.api: everything that bindings/ declares, as data. help(), completion, the script
 * reference and editor annotations come from here. Also the module and userdata-class machinery
 * that makes Lua values from those declarations.
 */
#include <string.h>

#include "bindings/binding-priv.h"
#include "engine/core/error.h"

GArray *script_declarations;

void script_declare(DeclKind kind, const char *name, const char *doc, const ApiFunction *functions,
                    const ApiField *fields)
{
    Declaration d = { kind, name, doc, functions, fields };
    if (!script_declarations) {
        script_declarations = g_array_new(FALSE, FALSE, sizeof(Declaration));
    }
    g_array_append_val(script_declarations, d);
}

/* ---- modules
 * ------------------------------------------------------------------------------------- */

static int module_loader(lua_State *L)
{
    const ApiFunction *functions = lua_touserdata(L, lua_upvalueindex(1));
    lua_newtable(L);
    for (const ApiFunction *f = functions; f && f->name; f++) {
        lua_pushcfunction(L, f->fn);
        lua_setfield(L, -2, f->name);
    }
    return 1;
}

void binding_module(lua_State *L, const char *name, const char *doc, const ApiFunction *functions)
{
    script_declare(DECL_MODULE, name, doc, functions, NULL);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushlightuserdata(L, (void *)(uintptr_t)functions);
    lua_pushcclosure(L, module_loader, 1);
    lua_setfield(L, -2, name);
    lua_pop(L, 1);
}

/* ---- userdata classes
 * ------------------------------------------------------------------------------ */

/* upvalues: methods, getters */
static int userdata_index(lua_State *L)
{
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) {
        return 1;
    }
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(2)) != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        return 1;
    }
    luaL_getmetafield(L, 1, "__name");
    return luaL_error(L, "%s has no member '%s'", lua_tostring(L, -1), luaL_tolstring(L, 2, NULL));
}

static int userdata_newindex(lua_State *L)
{
    lua_pushvalue(L, 2);
    if (lua_rawget(L, lua_upvalueindex(3)) != LUA_TNIL) {
        lua_pushvalue(L, 1);
        lua_pushvalue(L, 3);
        lua_call(L, 2, 0);
        return 0;
    }
    luaL_getmetafield(L, 1, "__name");
    return luaL_error(L, "%s.%s cannot be assigned to", lua_tostring(L, -1),
                      luaL_tolstring(L, 2, NULL));
}

/* upvalues: the metatable, what drops a userdata. Scripts reach metamethods and call them with what
 * they like. */
static int userdata_gc(lua_State *L)
{
    lua_CFunction gc = lua_tocfunction(L, lua_upvalueindex(2));
    lua_settop(L, 1);
    if (lua_type(L, 1) != LUA_TUSERDATA || !lua_getmetatable(L, 1) ||
        !lua_rawequal(L, 2, lua_upvalueindex(1))) {
        return luaL_argerror(L, 1, "a userdata of another class");
    }
    lua_settop(L, 1);
    return gc(L);
}

void binding_userdata_class(lua_State *L, const char *name, const char *doc,
                            const ApiFunction *methods, const ApiField *fields, lua_CFunction gc)
{
    script_declare(DECL_USERDATA, name, doc, methods, fields);
    lua_pushcfunction(L, gc);
    lua_setfield(L, LUA_REGISTRYINDEX, name); /* replaced by the metatable on first use */
}

static const Declaration *find_userdata(const char *name)
{
    for (guint i = 0; i < script_declarations->len; i++) {
        Declaration *d = &g_array_index(script_declarations, Declaration, i);
        if (d->kind == DECL_USERDATA && strcmp(d->name, name) == 0) {
            return d;
        }
    }
    return NULL;
}

/* Pushes the metatable, made on first use: most runs need few of the classes. */
static void push_userdata_metatable(lua_State *L, const char *name)
{
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    if (lua_getfield(L, LUA_REGISTRYINDEX, name) == LUA_TTABLE) {
        return;
    }
    const Declaration *d = find_userdata(name);
    lua_CFunction gc = lua_tocfunction(L, -1);
    lua_pop(L, 1);
    lua_createtable(L, 0, 8);
    lua_newtable(L); /* methods */
    lua_newtable(L); /* getters */
    lua_newtable(L); /* setters */
    for (const ApiFunction *f = d->functions; f && f->name; f++) {
        lua_pushcfunction(L, f->fn);
        bool meta = f->name[0] == '_' && f->name[1] == '_';
        lua_setfield(L, meta ? -5 : -4, f->name);
    }
    for (const ApiField *f = d->fields; f && f->name; f++) {
        if (f->get) {
            lua_pushcfunction(L, f->get);
            lua_setfield(L, -3, f->name);
        }
        if (f->set) {
            lua_pushcfunction(L, f->set);
            lua_setfield(L, -2, f->name);
        }
    }
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    lua_pushcclosure(L, userdata_index, 2);
    lua_setfield(L, -5, "__index");
    lua_pushcclosure(L, userdata_newindex, 3);
    lua_setfield(L, -2, "__newindex");
    if (gc) {
        lua_pushvalue(L, -1);
        lua_pushcfunction(L, gc);
        lua_pushcclosure(L, userdata_gc, 2);
        lua_setfield(L, -2, "__gc");
    }
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__name");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, name);
}

void *binding_new_userdata(lua_State *L, const char *name, size_t size)
{
    push_userdata_metatable(L, name);
    void *p = lua_newuserdatauv(L, size, 1);
    memset(p, 0, size);
    lua_insert(L, -2);
    lua_setmetatable(L, -2);
    return p;
}

void *binding_check_userdata(lua_State *L, int arg, const char *name)
{
    return luaL_checkudata(L, arg, name);
}

/* ---- the registry as data
 * ---------------------------------------------------------------------------- */

static const char *const kind_names[] = {
    [DECL_MODULE] = "module",
    [DECL_CLASS] = "class",
    [DECL_USERDATA] = "userdata",
};

static void push_functions(lua_State *L, const ApiFunction *functions)
{
    lua_newtable(L);
    lua_Integer n = 0;
    for (const ApiFunction *f = functions; f && f->name; f++) {
        lua_createtable(L, 0, 4);
        lua_pushstring(L, f->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, f->sig);
        lua_setfield(L, -2, "sig");
        lua_pushstring(L, f->doc);
        lua_setfield(L, -2, "doc");
        lua_pushcfunction(L, f->fn);
        lua_setfield(L, -2, "fn");
        lua_rawseti(L, -2, ++n);
    }
}

static void push_fields(lua_State *L, const ApiField *fields)
{
    lua_newtable(L);
    lua_Integer n = 0;
    for (const ApiField *f = fields; f && f->name; f++) {
        lua_createtable(L, 0, 4);
        lua_pushstring(L, f->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, f->type);
        lua_setfield(L, -2, "type");
        lua_pushstring(L, f->doc);
        lua_setfield(L, -2, "doc");
        lua_pushboolean(L, f->set != NULL);
        lua_setfield(L, -2, "writable");
        lua_rawseti(L, -2, ++n);
    }
}

static int api_list(lua_State *L)
{
    lua_newtable(L);
    for (guint i = 0; i < script_declarations->len; i++) {
        const Declaration *d = &g_array_index(script_declarations, Declaration, i);
        lua_createtable(L, 0, 5);
        lua_pushstring(L, kind_names[d->kind]);
        lua_setfield(L, -2, "kind");
        lua_pushstring(L, d->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, d->doc);
        lua_setfield(L, -2, "doc");
        push_functions(L, d->functions);
        lua_setfield(L, -2, "functions");
        push_fields(L, d->fields);
        lua_setfield(L, -2, "fields");
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int api_doc(lua_State *L)
{
    lua_CFunction fn = lua_tocfunction(L, 1);
    for (guint i = 0; fn && i < script_declarations->len; i++) {
        const Declaration *d = &g_array_index(script_declarations, Declaration, i);
        for (const ApiFunction *f = d->functions; f && f->name; f++) {
            if (f->fn == fn) {
                lua_createtable(L, 0, 5);
                lua_pushstring(L, f->name);
                lua_setfield(L, -2, "name");
                lua_pushstring(L, f->sig);
                lua_setfield(L, -2, "sig");
                lua_pushstring(L, f->doc);
                lua_setfield(L, -2, "doc");
                lua_pushstring(L, d->name);
                lua_setfield(L, -2, "of");
                lua_pushstring(L, kind_names[d->kind]);
                lua_setfield(L, -2, "kind");
                return 1;
            }
        }
    }
    return 0;
}

typedef struct Collect {
    GByteArray *names; /* what NUL name NUL … */
} Collect;

static void collect(const char *name, const char *what, void *opaque)
{
    Collect *c = opaque;
    g_byte_array_append(c->names, (const guint8 *)what, (guint)strlen(what) + 1);
    g_byte_array_append(c->names, (const guint8 *)name, (guint)strlen(name) + 1);
}

static int api_members(lua_State *L)
{
    Object *obj = binding_check_object(L, 1, TYPE_OBJECT);
    Collect c = { binding_scratch(L) };
    script_handle_members(L, obj, collect, &c);
    lua_newtable(L);
    for (guint at = 0; at < c.names->len;) {
        const char *what = (const char *)c.names->data + at;
        at += (guint)strlen(what) + 1;
        const char *name = (const char *)c.names->data + at;
        at += (guint)strlen(name) + 1;
        lua_pushstring(L, what);
        lua_setfield(L, -2, name);
    }
    return 1;
}

static int api_methods(lua_State *L)
{
    binding_push_methods(L, luaL_checkstring(L, 1));
    return 1;
}

static int api_getters(lua_State *L)
{
    binding_push_getters(L, luaL_checkstring(L, 1));
    return 1;
}

static int api_setters(lua_State *L)
{
    binding_push_setters(L, luaL_checkstring(L, 1));
    return 1;
}

static int api_data(lua_State *L)
{
    binding_push_data(L, binding_check_object(L, 1, TYPE_OBJECT));
    return 1;
}

static int api_nearest(lua_State *L)
{
    const char *word = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer n = luaL_len(L, 2);
    luaL_argcheck(L, n >= 0 && n < 100000, 2, "too many words");
    /* The words stay anchored in the table; the vector is a userdata. */
    const char **words = lua_newuserdatauv(L, sizeof(char *) * ((size_t)n + 1), 0);
    size_t k = 0;
    for (lua_Integer i = 1; i <= n; i++) {
        if (lua_rawgeti(L, 2, i) == LUA_TSTRING) {
            words[k++] = lua_tostring(L, -1);
        }
        lua_pop(L, 1);
    }
    words[k] = NULL;
    lua_pushstring(L, nearest_word(word, words));
    return 1;
}

static int api_is_object(lua_State *L)
{
    lua_pushboolean(L, binding_test_object(L, 1, luaL_optstring(L, 2, TYPE_OBJECT)) != NULL);
    return 1;
}

static const ApiFunction functions[] = {
    { "list", api_list, "(): table[]",
      "Every module and class that C declares: kind, name, doc, functions, fields." },
    { "doc", api_doc, "(fn: function): table?",
      "The declaration of a C function, nil for others." },
    { "members", api_members, "(obj: object): table<string, string>",
      "Names that a handle answers to, with what they are: method, field, property or child." },
    { "methods", api_methods, "(type: string): table<string, function>",
      "The open table of methods of a type; what is added there, handles of the type and its "
      "descendants have." },
    { "getters", api_getters, "(type: string): table<string, function>",
      "The open table of fields of a type: name to function (handle) -> value." },
    { "setters", api_setters, "(type: string): table<string, function>",
      "The open table of assignable fields of a type: name to function (handle, value)." },
    { "data", api_data, "(obj: object): table",
      "A table that belongs to an object and lives until the object is gone." },
    { "nearest", api_nearest, "(word: string, words: string[]): string?",
      "The word of the list that is nearest by edit distance, nil when none is near." },
    { "is_object", api_is_object, "(x: any, type: string?): boolean",
      "Whether x is the handle of a live object (of that type)." },
    { NULL },
};

void binding_open_api(lua_State *L)
{
    binding_module(L, "vmlua.core.api", "What the engine offers to scripts, described.", functions);
}
