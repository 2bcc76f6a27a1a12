/* qom.type{ properties = … }: property specifications of scripts become Properties of the class. */
#include <string.h>

#include "bindings/script-type.h"
#include "engine/core/error.h"

static const char *const prop_keys[] = {
    "default", "doc",    "words", "type", "element", "required", "hidden",
    "mutable", "strong", "get",   "set",  "kind",    NULL,
};

/* ---- properties ---------------------------------------------------------------------------- */

static bool parse_kind(const char *text, PropKind *kind, uint8_t *bits)
{
    static const struct {
        const char *name;
        PropKind kind;
        uint8_t bits;
    } kinds[] = {
        { "bool", PROP_BOOL, 0 },    { "uint8", PROP_UINT, 8 },    { "uint16", PROP_UINT, 16 },
        { "uint32", PROP_UINT, 32 }, { "uint64", PROP_UINT, 64 },  { "int8", PROP_INT, 8 },
        { "int16", PROP_INT, 16 },   { "int32", PROP_INT, 32 },    { "int64", PROP_INT, 64 },
        { "size", PROP_SIZE, 64 },   { "string", PROP_STRING, 0 }, { "enum", PROP_ENUM, 0 },
        { "link", PROP_LINK, 0 },    { "list", PROP_LIST, 0 },     { "double", PROP_DOUBLE, 0 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (strcmp(kinds[i].name, text) == 0) {
            *kind = kinds[i].kind;
            *bits = kinds[i].bits;
            return true;
        }
    }
    return false;
}

static void check_kind(lua_State *L, const char *text, const char *what, PropKind *kind,
                       uint8_t *bits)
{
    static const char *const names[] = { "bool",  "uint8", "uint16", "uint32", "uint64", "int8",
                                         "int16", "int32", "int64",  "size",   "string", "enum",
                                         "link",  "list",  "double", NULL };

    if (!parse_kind(text, kind, bits)) {
        const char *near = nearest_word(text, names);
        luaL_error(L, "%s: unknown kind '%s'%s%s%s", what, text, near ? " (did you mean '" : "",
                   near ? near : "", near ? "'?)" : "");
    }
}

static void read_words(lua_State *L, int spec, ScriptProp *sp, const char *what)
{
    lua_Unsigned n;

    if (lua_getfield(L, spec, "words") != LUA_TTABLE || !(n = lua_rawlen(L, -1)) || n > 4096) {
        luaL_error(L, "%s: an enum needs words = { \"one\", \"two\", … }", what);
        return;
    }
    sp->words = g_new0(char *, n + 1);
    for (lua_Unsigned i = 0; i < n; i++) {
        if (lua_rawgeti(L, -1, (lua_Integer)i + 1) != LUA_TSTRING) {
            luaL_error(L, "%s: word %d is a %s, not a string", what, (int)i + 1,
                       luaL_typename(L, -1));
        }
        sp->words[i] = g_strdup(lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* The default, as a value of the property's kind; nothing when the key is absent. */
static void read_default(lua_State *L, int spec, Property *p, const char *what)
{
    GError *error = NULL;
    PropValue raw = { 0 };
    bool ok;

    if (lua_getfield(L, spec, "default") == LUA_TNIL) {
        lua_pop(L, 1);
        return;
    }
    if (p->kind == PROP_LINK || (p->kind == PROP_LIST && p->element == PROP_LINK)) {
        luaL_error(L, "%s: a link has no default", what);
    }
    prop_value_clear(&p->def);
    ok = binding_to_prop_value(L, -1, p, &raw, &error) &&
         object_property_convert(NULL, p, &raw, &p->def, &error);
    prop_value_clear(&raw);
    if (!ok) {
        g_prefix_error(&error, "%s: default: ", what);
        binding_raise(L, error);
    }
    p->has_default = true;
    lua_pop(L, 1);
}

/* A property that the parent has already: same kind and place, another default, doc or lifetime. */
static void repeat_property(lua_State *L, int spec, const Property *inherited, Property *p,
                            ScriptProp *sp, const char *kind_text, const char *what)
{
    static const char *const kept[] = { "words",   "type", "element", "strong",
                                        "mutable", "get",  "set",     NULL };
    PropKind kind;
    uint8_t bits;
    const char *name = p->name, *doc = p->doc;
    unsigned flags = p->flags;

    if (kind_text) {
        check_kind(L, kind_text, what, &kind, &bits);
        if (kind != inherited->kind || (bits && inherited->bits && bits != inherited->bits)) {
            char *is = property_type_string(inherited);
            lua_pushfstring(L, "%s: the parent's property of that name is of kind %s", what, is);
            g_free(is);
            luaL_error(L, "%s", lua_tostring(L, -1));
        }
    }
    *p = *inherited;
    p->def = (PropValue){ 0 };
    prop_value_copy(&p->def, &inherited->def);
    p->name = name;
    p->doc = doc ? doc : inherited->doc;
    p->flags |= flags & (PROP_REQUIRED | PROP_HIDDEN);
    /* A C setter may refuse a default, which then nobody could be told. */
    if (lua_getfield(L, spec, "default") != LUA_TNIL && inherited->set != script_prop_set &&
        (inherited->offset < 0 || inherited->get || inherited->set)) {
        luaL_error(L, "%s: the default of this property of the parent cannot be changed", what);
    }
    lua_pop(L, 1);
    for (const char *const *k = kept; *k; k++) {
        if (lua_getfield(L, spec, *k) != LUA_TNIL) {
            luaL_error(L, "%s: '%s' stays as the parent has it", what, *k);
        }
        lua_pop(L, 1);
    }
}

static void read_property(lua_State *L, int spec, ScriptType *st, ObjectClass *parent,
                          const char *name)
{
    const Property *inherited = object_class_find_property(parent, name);
    char what[256];
    const char *kind_text = NULL, *text;
    ScriptProp *sp = g_new0(ScriptProp, 1);
    Property *p;

    g_snprintf(what, sizeof(what), "type '%s': property '%s'", st->name, name);
    sp->type = st;
    g_ptr_array_add(st->prop_data, sp);
    g_array_set_size(st->props, st->props->len + 1);
    p = &g_array_index(st->props, Property, st->props->len - 1);
    sp->name = g_strdup(name);
    *p = (Property){ .name = sp->name, .offset = -1, .opaque = sp, .flags = PROP_UNTIL_REALIZED };
    if (!script_name_ok(name, true)) {
        luaL_error(L, "%s: a name has letters, digits, '_' and '-' only", what);
    }
    script_check_not_hidden(L, 1, st, object_class_get_name(parent), name, "property");

    if (lua_type(L, spec) == LUA_TSTRING) { /* port = "uint16" */
        kind_text = lua_tostring(L, spec);
        lua_createtable(L, 0, 0);
        lua_replace(L, spec);
    } else if (!lua_istable(L, spec)) {
        luaL_error(L, "%s: a kind or a table { kind, default = …, doc = … } expected, got a %s",
                   what, luaL_typename(L, spec));
    } else {
        if (lua_rawgeti(L, spec, 1) == LUA_TSTRING) {
            kind_text = lua_tostring(L, -1);
        } else if (!lua_isnil(L, -1)) {
            luaL_error(L, "%s: the kind must be a string, not a %s", what, luaL_typename(L, -1));
        }
        lua_pop(L, 1);
        /* The positional kind is not a key to complain about. */
        lua_newtable(L);
        lua_pushnil(L);
        while (lua_next(L, spec)) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            if (lua_isinteger(L, -2) && lua_tointeger(L, -2) == 1) {
                lua_pop(L, 2);
            } else {
                lua_rawset(L, -4);
            }
        }
        lua_replace(L, spec);
        binding_check_keys(L, spec, prop_keys, what);
        text = script_opt_string(L, spec, "kind", what);
        kind_text = kind_text ? kind_text : text;
    }
    sp->doc = g_strdup(script_opt_string(L, spec, "doc", what));
    p->doc = sp->doc;
    p->flags |= script_opt_bool(L, spec, "required", false, what) ? PROP_REQUIRED : 0;
    p->flags |= script_opt_bool(L, spec, "hidden", false, what) ? PROP_HIDDEN : 0;
    if (script_opt_bool(L, spec, "mutable", false, what)) {
        p->flags &= ~(unsigned)PROP_UNTIL_REALIZED;
    }
    if (inherited) {
        repeat_property(L, spec, inherited, p, sp, kind_text, what);
        read_default(L, spec, p, what);
        return;
    }
    if (!kind_text) {
        luaL_error(L, "%s: no kind given, like { \"uint16\", default = 0x510 }", what);
        return;
    }
    check_kind(L, kind_text, what, &p->kind, &p->bits);
    if (p->kind == PROP_LIST) {
        uint8_t bits;
        text = script_opt_string(L, spec, "element", what);
        if (!text) {
            luaL_error(L, "%s: a list needs element = \"kind\"", what);
        }
        check_kind(L, text, what, &p->element, &bits);
        p->bits = bits;
        if (p->element == PROP_LIST) {
            luaL_error(L, "%s: a list of lists is not possible", what);
        }
    }
    if (p->kind == PROP_ENUM || p->element == PROP_ENUM) {
        read_words(L, spec, sp, what);
        p->words = (const char *const *)sp->words;
    }
    if (p->kind == PROP_LINK || p->element == PROP_LINK) {
        text = script_opt_string(L, spec, "type", what);
        sp->link_type = g_strdup(text ? text : TYPE_OBJECT);
        p->link_type = sp->link_type;
        if (strcmp(sp->link_type, st->name) != 0 && !type_table_get(sp->link_type)) {
            const char *near = type_nearest_name(sp->link_type);
            luaL_error(L, "%s: unknown type '%s'%s%s%s", what, sp->link_type,
                       near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
        }
        p->flags |= script_opt_bool(L, spec, "strong", true, what) ? PROP_LINK_STRONG : 0;
    }
    if ((p->flags & PROP_REQUIRED) && p->kind != PROP_LINK && p->kind != PROP_STRING &&
        p->kind != PROP_LIST) {
        luaL_error(L, "%s: only links, strings and lists can be required; give it a default", what);
    }
    sp->get = script_opt_function(L, spec, "get", what);
    sp->set = script_opt_function(L, spec, "set", what);
    if (sp->get) {
        p->get = script_prop_get;
        p->set = sp->set ? script_prop_set : NULL;
        p->flags |= sp->set ? 0 : PROP_READ_ONLY;
        if (lua_getfield(L, spec, "default") != LUA_TNIL) {
            luaL_error(L, "%s: a property with a getter keeps no value, so it has no default",
                       what);
        }
        lua_pop(L, 1);
    } else if (p->kind == PROP_LIST) {
        sp->list_offset = script_lay_out(st, sizeof(GPtrArray *), sizeof(GPtrArray *));
        p->get = script_prop_get;
        p->set = script_prop_set;
    } else {
        size_t bytes = property_field_size(p);
        p->offset = (ptrdiff_t)script_lay_out(st, bytes, bytes);
        p->set = sp->set ? script_prop_set : NULL;
    }
    read_default(L, spec, p, what);
}

void script_read_properties(lua_State *L, int spec, ScriptType *st, ObjectClass *parent)
{
    char what[160];
    int n;

    if (lua_getfield(L, spec, "properties") == LUA_TNIL) {
        lua_pop(L, 1);
        return;
    }
    g_snprintf(what, sizeof(what), "type '%s': properties", st->name);
    if (!lua_istable(L, -1)) {
        luaL_error(L, "%s: a table expected, got a %s", what, luaL_typename(L, -1));
    }
    n = script_sorted_keys(L, -1, what);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        lua_pushvalue(L, -1);
        lua_gettable(L, -4);
        read_property(L, lua_gettop(L), st, parent, lua_tostring(L, -2));
        lua_pop(L, 2);
    }
    lua_pop(L, 2);
}
