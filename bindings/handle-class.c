/*
 * Open tables: methods and fields of a QOM type by name, which bindings declare and scripts add to;
 * and the members of a handle that no table lists.
 */
#include "bindings/handle-priv.h"

#include <string.h>

static GHashTable *type_tables;   /* name -> TypeTables * */
static GHashTable *class_members; /* type name -> const BindingMembers * */

/* ---- tables -------------------------------------------------------------------------------- */

static void fill_tables(lua_State *L, const TypeTables *t, const ApiFunction *methods,
                        const ApiField *fields)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->methods);
    for (const ApiFunction *f = methods; f && f->name; f++) {
        lua_pushcfunction(L, f->fn);
        lua_setfield(L, -2, f->name);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->getters);
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->setters);
    for (const ApiField *f = fields; f && f->name; f++) {
        if (f->get) {
            lua_pushcfunction(L, f->get);
            lua_setfield(L, -3, f->name);
        }
        if (f->set) {
            lua_pushcfunction(L, f->set);
            lua_setfield(L, -2, f->name);
        }
    }
    lua_pop(L, 3);
}

static int new_chained_table(lua_State *L, int parent_ref)
{
    lua_newtable(L);
    if (parent_ref != LUA_NOREF) {
        lua_createtable(L, 0, 1);
        lua_rawgeti(L, LUA_REGISTRYINDEX, parent_ref);
        lua_setfield(L, -2, "__index");
        lua_setmetatable(L, -2);
    }
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

TypeTables *handle_tables(lua_State *L, const char *type)
{
    TypeTables *t = g_hash_table_lookup(type_tables, type);
    if (t) {
        return t;
    }
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    TypeImpl *impl = type_table_get(type);
    TypeImpl *parent_impl = impl ? type_get_parent(impl) : NULL;
    TypeTables *parent = parent_impl ? handle_tables(L, type_get_name(parent_impl)) : NULL;
    int methods = new_chained_table(L, parent ? parent->methods : LUA_NOREF);
    int getters = new_chained_table(L, parent ? parent->getters : LUA_NOREF);
    int setters = new_chained_table(L, parent ? parent->setters : LUA_NOREF);

    t = g_new0(TypeTables, 1);
    t->methods = methods;
    t->getters = getters;
    t->setters = setters;
    g_hash_table_insert(type_tables, g_strdup(type), t);
    for (guint i = 0; i < script_declarations->len; i++) {
        Declaration *d = &g_array_index(script_declarations, Declaration, i);
        if (d->kind == DECL_CLASS && strcmp(d->name, type) == 0) {
            fill_tables(L, t, d->functions, d->fields);
        }
    }
    return t;
}

void binding_class(lua_State *L, const char *qom_type, const char *doc, const ApiFunction *methods,
                   const ApiField *fields)
{
    script_declare(DECL_CLASS, qom_type, doc, methods, fields);
    TypeTables *t = g_hash_table_lookup(type_tables, qom_type);
    if (t) {
        fill_tables(L, t, methods, fields);
    }
}

void binding_class_members(const char *qom_type, const BindingMembers *members)
{
    g_hash_table_insert(class_members, (char *)(uintptr_t)qom_type, (void *)(uintptr_t)members);
}

void binding_push_methods(lua_State *L, const char *qom_type)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, handle_tables(L, qom_type)->methods);
}

void binding_push_getters(lua_State *L, const char *qom_type)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, handle_tables(L, qom_type)->getters);
}

void binding_push_setters(lua_State *L, const char *qom_type)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, handle_tables(L, qom_type)->setters);
}

void handle_find_members(ClassInfo *info, ObjectClass *klass)
{
    unsigned n = 0;
    for (TypeImpl *t = klass->type; t && n < OBJECT_CLASS_DEPTH; t = type_get_parent(t)) {
        const BindingMembers *m = g_hash_table_lookup(class_members, type_get_name(t));
        if (m) {
            info->members[n++] = m;
        }
    }
}

/* ---- listing ------------------------------------------------------------------------------ */

static void list_table(lua_State *L, int ref, const char *what,
                       void (*add)(const char *, const char *, void *), void *opaque)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            add(lua_tostring(L, -2), what, opaque);
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

typedef struct Lister {
    void (*add)(const char *name, const char *what, void *opaque);
    void *opaque;
} Lister;

static void list_property(const Property *p, void *opaque)
{
    Lister *l = opaque;
    if (!(p->flags & PROP_HIDDEN)) {
        l->add(p->name, "property", l->opaque);
    }
}

static void list_member(const char *name, void *opaque)
{
    Lister *l = opaque;
    l->add(name, "field", l->opaque);
}

void script_handle_members(lua_State *L, Object *obj,
                           void (*add)(const char *name, const char *what, void *opaque),
                           void *opaque)
{
    Lister lister = { add, opaque };
    luaL_checkstack(L, LUA_MINSTACK, NULL);
    for (TypeImpl *t = obj->klass->type; t; t = type_get_parent(t)) {
        TypeTables *tables = handle_tables(L, type_get_name(t));
        list_table(L, tables->methods, "method", add, opaque);
        list_table(L, tables->getters, "field", add, opaque);
    }
    ClassInfo *info = handle_class_info(obj->klass);
    for (unsigned i = 0; info && info->members[i]; i++) {
        if (info->members[i]->list) {
            info->members[i]->list(obj, list_member, &lister);
        }
    }
    object_property_foreach(obj, list_property, &lister);
    for (unsigned i = 0; i < object_child_count(obj); i++) {
        add(object_child_at(obj, i)->name, "child", opaque);
    }
}

void handle_classes_open(void)
{
    type_tables = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    class_members = g_hash_table_new(g_str_hash, g_str_equal);
}

void handle_classes_close(void)
{
    g_clear_pointer(&type_tables, g_hash_table_destroy);
    g_clear_pointer(&class_members, g_hash_table_destroy);
}
