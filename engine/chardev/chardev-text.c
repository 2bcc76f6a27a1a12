/* Back ends from text: the spellings of -serial and of -chardev. */
#include <string.h>

#include "engine/chardev/chardev.h"
#include "engine/core/error.h"

typedef struct Spelling {
    const char *word;
    const char *type;
    const char *positional; /* the property that what follows ':' sets; NULL: nothing may follow */
} Spelling;

static const Spelling spellings[] = {
    { "null", TYPE_CHARDEV_NULL, NULL },      { "stdio", TYPE_CHARDEV_STDIO, NULL },
    { "pty", TYPE_CHARDEV_PTY, "path" },      { "file", TYPE_CHARDEV_FILE, "path" },
    { "pipe", TYPE_CHARDEV_PIPE, "path" },    { "ring", TYPE_CHARDEV_RING, "size" },
    { "ringbuf", TYPE_CHARDEV_RING, "size" }, { "unix", TYPE_CHARDEV_SOCKET, "path" },
    { "tcp", TYPE_CHARDEV_SOCKET, "host" },   { "socket", TYPE_CHARDEV_SOCKET, NULL },
};

static bool unknown_backend(const char *word, GError **error)
{
    const char *words[G_N_ELEMENTS(spellings) + 1] = { NULL };
    const char *near;

    if (!strcmp(word, "telnet")) {
        return error_set(error, ENGINE_ERROR_UNSUPPORTED,
                         "chardev 'telnet': the telnet protocol is not spoken here; 'tcp' passes "
                         "the bytes as they are");
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(spellings); i++) {
        words[i] = spellings[i].word;
    }
    near = nearest_word(word, words);
    return error_set(error, ENGINE_ERROR_INVALID, "unknown chardev '%s'%s%s%s", word,
                     near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static void collect_name(const Property *prop, ObjectClass *owner, void *opaque)
{
    if (!(prop->flags & (PROP_READ_ONLY | PROP_HIDDEN))) {
        g_ptr_array_add(opaque, (void *)(uintptr_t)prop->name);
    }
}

static bool unknown_key(Chardev *chr, const char *word, const char *key, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    object_class_property_foreach(OBJECT(chr)->klass, collect_name, names);
    g_ptr_array_add(names, NULL);
    near = nearest_word(key, (const char *const *)names->pdata);
    return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': unknown option '%s'%s%s%s", word,
                     key, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static const Property *settable(Chardev *chr, const char *key)
{
    const Property *prop = object_find_property(OBJECT(chr), key);

    return prop && !(prop->flags & PROP_READ_ONLY) ? prop : NULL;
}

/* "server" is server=on, "nowait" is wait=off; a key whose own name begins with "no" comes first.
 */
static bool set_switch(Chardev *chr, const char *word, const char *key, GError **error)
{
    const Property *prop = settable(chr, key);
    const char *value = "on";

    if (!prop && g_str_has_prefix(key, "no")) {
        value = "off";
        key += 2;
        prop = settable(chr, key);
        if (!prop) {
            key -= 2;
        }
    } else if (!prop && !strcmp(key, "delay")) {
        key = "nodelay";
        value = "off";
        prop = settable(chr, key);
    }
    if (!prop) {
        return unknown_key(chr, word, key, error);
    }
    if (prop->kind != PROP_BOOL) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': option '%s' needs a value",
                         word, key);
    }
    return object_property_parse(OBJECT(chr), key, value, error);
}

static bool set_option(Chardev *chr, const char *word, const char *option, GError **error)
{
    const char *eq = strchr(option, '=');
    g_autofree char *key = NULL;

    if (!*option) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': empty option", word);
    }
    if (!eq) {
        return set_switch(chr, word, option, error);
    }
    key = g_strndup(option, (gsize)(eq - option));
    if (!settable(chr, key)) {
        return unknown_key(chr, word, key, error);
    }
    if (!object_property_parse(OBJECT(chr), key, eq + 1, error)) {
        g_prefix_error(error, "chardev '%s': ", word);
        return false;
    }
    return true;
}

/* "HOST:PORT", "[V6]:PORT", ":PORT". */
static bool set_host_port(Chardev *chr, const char *text, GError **error)
{
    const char *colon = strrchr(text, ':');
    g_autofree char *host = NULL;

    if (!colon || !colon[1]) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "chardev 'tcp': '%s' is not HOST:PORT (HOST may be empty)", text);
    }
    host = text[0] == '[' && colon > text + 1 && colon[-1] == ']'
               ? g_strndup(text + 1, (gsize)(colon - text - 2))
               : g_strndup(text, (gsize)(colon - text));
    if (!object_property_parse(OBJECT(chr), "port", colon + 1, error)) {
        g_prefix_error(error, "chardev 'tcp': ");
        return false;
    }
    return object_property_set_str(OBJECT(chr), "host", host, error);
}

static bool set_positional(Chardev *chr, const Spelling *sp, const char *text, GError **error)
{
    if (!sp->positional) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s' takes nothing after ':'",
                         sp->word);
    }
    if (!*text) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s:' needs a %s", sp->word,
                         sp->positional);
    }
    if (!strcmp(sp->word, "tcp")) {
        return set_host_port(chr, text, error);
    }
    if (!object_property_parse(OBJECT(chr), sp->positional, text, error)) {
        g_prefix_error(error, "chardev '%s': ", sp->word);
        return false;
    }
    return true;
}

/* Up to the next single comma; two in a row stand for one. Moves *at behind it, or makes it NULL.
 */
static char *next_piece(const char **at)
{
    GString *piece = g_string_new(NULL);
    const char *c = *at;

    for (; *c; c++) {
        if (*c == ',' && *++c != ',') {
            *at = c;
            return g_string_free(piece, FALSE);
        }
        g_string_append_c(piece, *c);
    }
    *at = NULL;
    return g_string_free(piece, FALSE);
}

static bool set_all(Chardev *chr, const Spelling *sp, const char *text, GError **error)
{
    bool first = *text == ':';

    if (!*text) {
        return true;
    }
    for (text++; text; first = false) {
        g_autofree char *piece = next_piece(&text);

        if (!(first ? set_positional(chr, sp, piece, error)
                    : set_option(chr, sp->word, piece, error))) {
            return false;
        }
    }
    return true;
}

Chardev *chardev_parse(const char *text, GError **error)
{
    size_t n = strcspn(text, ":,");
    g_autofree char *word = g_strndup(text, n);
    const Spelling *sp = NULL;
    Object *obj;

    for (unsigned i = 0; i < G_N_ELEMENTS(spellings); i++) {
        if (!strcmp(spellings[i].word, word)) {
            sp = &spellings[i];
        }
    }
    if (!sp) {
        unknown_backend(word, error);
        return NULL;
    }
    obj = object_new(sp->type, error);
    if (obj && !set_all(CHARDEV(obj), sp, text + n, error)) {
        object_unref(obj);
        obj = NULL;
    }
    return obj ? CHARDEV(obj) : NULL;
}

Chardev *chardev_new_from_text(const char *text, GError **error)
{
    Chardev *chr = chardev_parse(text, error);

    if (chr && !chardev_open(chr, error)) {
        object_unref(chr);
        return NULL;
    }
    return chr;
}

void chardev_backends_foreach(void (*fn)(const char *alias, ChardevClass *klass, void *opaque),
                              void *opaque)
{
    GSList *list = object_class_get_list(TYPE_CHARDEV, false);

    for (GSList *l = list; l; l = l->next) {
        ChardevClass *klass = l->data;

        if (klass->alias) {
            fn(klass->alias, klass, opaque);
        }
    }
    g_slist_free(list);
}
