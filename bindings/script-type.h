/*
 * Private to bindings/: types that scripts define with qom.type.
 *
 * The chain of a script's type is C types, then script types. The topmost script type carries C
 * trampolines that act for all script types below it; which types those are is found from the
 * object's class. Instances are the C parent's struct, then ScriptInstance, then for each script
 * type its property fields and its declared state.
 */
#pragma once

#include "bindings/binding.h"
#include "engine/hw/core/device.h"
#include "engine/hw/pci/pci.h"

typedef struct ScriptType ScriptType;

typedef struct StateField {
    char *name;
    char *type; /* as the script wrote it */
    VMStateKind kind;
    size_t offset;  /* in the instance */
    size_t size;    /* of one element; of all for VMS_BYTES */
    unsigned count; /* of an array; 0: not an array */
} StateField;

/* Beside each Property that a script declares; its `opaque` points here. */
typedef struct ScriptProp {
    ScriptType *type;
    size_t list_offset; /* PROP_LIST without a getter: of a GPtrArray * in the instance */
    ScriptRef *get, *set;
    char *name, *doc, *link_type;
    char **words;
} ScriptProp;

/* What a PCI device is; of a type without the key `pci`, as its parent is. */
typedef struct ScriptPci {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code;
    uint8_t revision, pin;
    bool express;
} ScriptPci;

typedef struct ScriptInstance {
    bool constructed; /* defaults are in place: from now on setters of scripts are called */
    char *init_error; /* of `init`; told when the object is used */
} ScriptInstance;

struct ScriptType {
    char *name, *doc;
    ScriptType *parent; /* NULL: the parent is a C type */
    ScriptType *root;   /* the topmost script type of the chain */
    bool is_device, is_interface;
    bool user_creatable;
    size_t instance_offset; /* of ScriptInstance; of the root type */
    size_t instance_end;
    GArray *props;        /* of Property */
    GPtrArray *prop_data; /* of ScriptProp *, in the same order */
    GPtrArray *fields;    /* own StateField *, by name */
    GHashTable *state;    /* name -> StateField *, inherited ones too */
    GHashTable *methods;  /* names of its own methods, with those that its interfaces bring */
    GPtrArray *needs;     /* interfaces: method names that implementers must have */
    ScriptRef *init, *realize, *reset, *unrealize, *pre_save, *post_load;
    /* PCI devices: pci-script.c */
    bool is_pci;
    ScriptPci pci;
    ScriptRef *config_read, *config_write;
    uint32_t (*c_config_read)(PCIDevice *dev, uint32_t addr, unsigned len); /* in the root type */
    void (*c_config_write)(PCIDevice *dev, uint32_t addr, uint32_t value, unsigned len);
    /* Of the C parent; in the root type. */
    bool (*c_realize)(DeviceState *dev, GError **error);
    void (*c_unrealize)(DeviceState *dev);
    void (*c_reset)(DeviceState *dev);
    const VMStateDescription *c_vmsd;
    VMStateDescription vmsd;
    GArray *vmsd_fields; /* of VMStateField */
};

/* The script type of an object's class, NULL for C types. */
ScriptType *script_type_of(const Object *obj);
ScriptType *script_type_of_impl(const TypeImpl *type);
ScriptInstance *script_type_instance(const ScriptType *st, Object *obj);
/* The chain from root to `st`; returns its length. */
unsigned script_type_chain(ScriptType *st, ScriptType *chain[OBJECT_CLASS_DEPTH]);
void script_type_free(ScriptType *st);
/* The function qom.type{…}: one table in, nothing out. */
int script_type_define(lua_State *L);

/* qom.c and qom-object.c */
/* Raises on a type name that nobody knows; NULL (nil) is passed through. */
const char *script_check_type_name(lua_State *L, int arg);
int script_list_properties(lua_State *L); /* (type name or handle) -> list */
int script_list_children(lua_State *L);
int script_push_typename(lua_State *L);
/* Sets a property to the value at idx; raises. */
void script_set_property(lua_State *L, Object *obj, const char *name, int idx);
/* The object at the path at arg, of the type at arg + 1; from NULL: anywhere. Two results. */
int script_resolve(lua_State *L, Object *from, int arg);
void script_object_open(lua_State *L);

/* Readers of the table at `spec`, which raise with `what`; strings are held by the table. */
const char *script_opt_string(lua_State *L, int spec, const char *key, const char *what);
bool script_opt_bool(lua_State *L, int spec, const char *key, bool fallback, const char *what);
ScriptRef *script_opt_function(lua_State *L, int spec, const char *key, const char *what);
bool script_name_ok(const char *name, bool dashes);
/* Raises when a field or method of handles would hide the member `name`. */
void script_check_not_hidden(lua_State *L, int spec, const ScriptType *st, const char *parent,
                             const char *name, const char *what);
/* Pushes the string keys of the table at idx as a sorted list; returns their number. */
int script_sorted_keys(lua_State *L, int idx, const char *what);
/* Room in the instance; its offset. */
size_t script_lay_out(ScriptType *st, size_t size, size_t align);
/* qom-prop.c: the key `properties` of the table at `spec`, which is at index 1 of the stack. */
void script_read_properties(lua_State *L, int spec, ScriptType *st, ObjectClass *parent);

/* qom-trampoline.c: what C calls of script types. */
void script_type_fill_info(ScriptType *st, TypeInfo *info);
void script_type_register_class(lua_State *L, ScriptType *st, TypeImpl *impl);
bool script_prop_get(Object *obj, const Property *p, PropValue *out, GError **error);
bool script_prop_set(Object *obj, const Property *p, const PropValue *in, GError **error);
/* Calls ref(handle, …nargs values already pushed) with nresults. false + error; true without a call
 * and results when there is no such function. */
bool script_call_object(ScriptRef *ref, Object *obj, GError **error);

/* qom-interface.c: function pointers of C interfaces */
void script_interfaces_fill(const ScriptType *st, ObjectClass *klass);
/* Copies functions of the table at `from` to the one at `to`; with `keep`, only names that neither
 * `to` nor the parent's methods have. */
void script_merge_methods(lua_State *L, int from, int to, int parent_methods, bool keep,
                          const char *what);
/* Reads `interfaces`: names, or name = { methods }. Fills `names` and the merged methods. */
unsigned script_read_interfaces(lua_State *L, int spec, ScriptType *st, int merged,
                                int parent_methods, InterfaceInfo *names, unsigned max);
void script_finish_interfaces(lua_State *L, ScriptType *st, const InterfaceInfo *names, unsigned n,
                              int merged, int parent_methods);
void script_read_needs(lua_State *L, int spec, ScriptType *st);
void script_interface_check(lua_State *L, const ScriptType *st, ObjectClass *iface, int merged,
                            int parent_methods);

/* qom-state.c */
/* Parses "uint8[16]", "bytes:64", …; raises with `what`. Sets kind, size, count; the caller lays it
 * out. */
void script_state_parse(lua_State *L, const char *text, const char *what, StateField *out);
size_t script_state_bytes(const StateField *f);
/* Pushes the value of a scalar; false and nothing when its kind has none. */
bool script_state_push(lua_State *L, VMStateKind kind, const void *at, size_t size);
/* Stores the value at idx; raises with object, name and range when it does not fit. */
void script_state_store(lua_State *L, Object *obj, const char *name, VMStateKind kind, void *at,
                        size_t size, int idx);
extern const BindingMembers script_state_members;
int script_state_push_proxy(lua_State *L); /* (handle) -> proxy: the field `state` of objects */
void script_state_open(lua_State *L);
void script_state_proxy_open(lua_State *L); /* qom-state-proxy.c */

/* pci-script.c */
void script_pci_read(lua_State *L, int spec, ScriptType *st, ObjectClass *parent);
void script_pci_class_init(ScriptType *st, ObjectClass *klass);
void script_pci_realize(const ScriptType *st, DeviceState *dev); /* after the parent in C did */
void script_pci_cleanup(DeviceState *dev);                       /* before its regions go */
void script_pci_open(lua_State *L);

/* device.c */
/* Takes regions, timers and lines of a device away: at the end of unrealize, or when realize
 * failed. */
void script_device_cleanup(DeviceState *dev);
extern const VMStateField script_timers_field; /* a VMS_CUSTOM over the instance */
