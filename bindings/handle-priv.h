/* Between handle.c and handle-class.c. */
#pragma once

#include "bindings/binding-priv.h"

/* The open tables of one type, by name. */
typedef struct TypeTables {
    int methods, getters, setters; /* registry references */
} TypeTables;

/* Made on first use, with the parents'. */
TypeTables *handle_tables(lua_State *L, const char *type);

/* The members of a class and its parents, leaf first; a NULL ends it. Made once a class. */
typedef struct ClassInfo {
    const ObjectClass *klass;
    const BindingMembers *members[OBJECT_CLASS_DEPTH + 1];
    int metatable; /* registry references */
    int self;      /* keeps this userdata, which metamethods have as a bare pointer */
} ClassInfo;

/* handle.c; NULL: no handle of that class was made yet. */
ClassInfo *handle_class_info(ObjectClass *klass);
void handle_find_members(ClassInfo *info, ObjectClass *klass);
void handle_classes_open(void);
void handle_classes_close(void);
