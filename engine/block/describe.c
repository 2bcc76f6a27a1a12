/*
 * Descriptions of nodes in JSON: see describe.h. They come from the headers of foreign images:
 * length and depth are bounded, and what is no description is refused with its place.
 */
#include "engine/block/describe.h"

#include <string.h>

#include "engine/core/error.h"

#define MAX_BYTES (64 << 10)
#define MAX_DEPTH 32
#define MAX_PAIRS 256

typedef struct Pair {
    char *key, *value;
    bool used;
} Pair;

typedef struct Description {
    const char *text, *at;
    GArray *pairs; /* of Pair: keys with points */
    unsigned depth;
    const BlockOpenOptions *options;
    GError **error;
} Description;

static void pair_clear(void *opaque)
{
    g_free(((Pair *)opaque)->key);
    g_free(((Pair *)opaque)->value);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static bool wrong(Description *d, const char *what)
{
    return error_set(d->error, ENGINE_ERROR_INVALID, "json: %s at byte %u", what,
                     (unsigned)(d->at - d->text));
}

static char next_char(Description *d)
{
    d->at += strspn(d->at, " \t\r\n");
    return *d->at;
}

static bool hex4(Description *d, gunichar *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++, d->at++) {
        if (!g_ascii_isxdigit(*d->at)) {
            return wrong(d, "four hexadecimal digits are expected");
        }
        *out = *out << 4 | (gunichar)g_ascii_xdigit_value(*d->at);
    }
    return true;
}

static bool unicode_escape(Description *d, GString *out)
{
    gunichar c, low;

    if (!hex4(d, &c)) {
        return false;
    }
    if (c >= 0xd800 && c < 0xdc00 && d->at[0] == '\\' && d->at[1] == 'u') {
        d->at += 2;
        if (!hex4(d, &low)) {
            return false;
        }
        c = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : 0;
    }
    if (c == 0 || (c >= 0xd800 && c < 0xe000)) {
        return wrong(d, "a character that cannot be");
    }
    g_string_append_unichar(out, c);
    return true;
}

static bool escape(Description *d, GString *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *found = *d->at ? strchr(from, *d->at) : NULL;

    if (found) {
        g_string_append_c(out, to[found - from]);
        d->at++;
        return true;
    }
    if (*d->at != 'u') {
        return wrong(d, "an unknown escape");
    }
    d->at++;
    return unicode_escape(d, out);
}

/* At the opening quote. */
static char *read_string(Description *d)
{
    GString *out = g_string_new(NULL);

    for (d->at++; *d->at != '"';) {
        bool ok = (unsigned char)*d->at >= ' ' || wrong(d, "a string does not end");

        if (ok && *d->at == '\\') {
            d->at++;
            ok = escape(d, out);
        } else if (ok) {
            g_string_append_c(out, *d->at++);
        }
        if (!ok) {
            g_string_free(out, TRUE);
            return NULL;
        }
    }
    d->at++;
    return g_string_free(out, FALSE);
}

static Pair *find(Description *d, const char *key)
{
    for (unsigned i = 0; i < d->pairs->len; i++) {
        Pair *p = &g_array_index(d->pairs, Pair, i);

        if (!strcmp(p->key, key)) {
            return p;
        }
    }
    return NULL;
}

/* Takes both. */
static bool add_pair(Description *d, char *key, char *value)
{
    Pair p = { .key = key, .value = value };

    if (!value || find(d, key) || d->pairs->len >= MAX_PAIRS) {
        bool many = d->pairs->len >= MAX_PAIRS;

        pair_clear(&p);
        return value &&
               wrong(d, many ? "too many properties" : "a property that was given already");
    }
    g_array_append_val(d->pairs, p);
    return true;
}

/* A number, true, false or null, as text. */
static char *read_word(Description *d)
{
    size_t n = strspn(d->at, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");
    g_autofree char *word = g_strndup(d->at, n);
    bool number = g_ascii_isdigit(word[0]) || (word[0] == '-' && g_ascii_isdigit(word[1]));

    if (!number && strcmp(word, "true") != 0 && strcmp(word, "false") != 0 &&
        strcmp(word, "null") != 0) {
        wrong(d, "a string, number, object, true or false is expected");
        return NULL;
    }
    d->at += n;
    return !strcmp(word, "true")    ? g_strdup("on")
           : !strcmp(word, "false") ? g_strdup("off")
                                    : g_steal_pointer(&word);
}

static bool read_object(Description *d, const char *prefix);

static bool read_member(Description *d, const char *prefix)
{
    g_autofree char *name = next_char(d) == '"' ? read_string(d) : NULL, *key = NULL, *inner = NULL;

    if (!name || !*name) {
        return !d->error || *d->error ? false : wrong(d, "a name in quotes is expected");
    }
    key = g_strconcat(prefix, name, NULL);
    if (next_char(d) != ':') {
        return wrong(d, "':' is expected");
    }
    d->at++;
    switch (next_char(d)) {
    case '{':
        inner = g_strconcat(key, ".", NULL);
        return read_object(d, inner);
    case '"':
        return add_pair(d, g_steal_pointer(&key), read_string(d));
    default:
        return add_pair(d, g_steal_pointer(&key), read_word(d));
    }
}

/* At the opening brace. */
static bool read_object(Description *d, const char *prefix)
{
    if (++d->depth > MAX_DEPTH) {
        return wrong(d, "too many objects within each other");
    }
    d->at++;
    if (next_char(d) != '}') {
        for (;;) {
            if (!read_member(d, prefix)) {
                return false;
            }
            if (next_char(d) != ',') {
                break;
            }
            d->at++;
        }
        if (*d->at != '}') {
            return wrong(d, "',' or '}' is expected");
        }
    }
    d->at++;
    d->depth--;
    return true;
}

static bool read_all(Description *d)
{
    if (strlen(d->text) > MAX_BYTES) {
        return wrong(d, "more than 64 KiB");
    }
    if (next_char(d) != '{') {
        return wrong(d, "an object is expected");
    }
    return read_object(d, "") && (!next_char(d) || wrong(d, "something follows"));
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* QEMU's names of drivers that have another here. */
static const char *driver_name(const char *name)
{
    return !strcmp(name, "host_device") || !strcmp(name, "host_cdrom") ? "file"
           : !strcmp(name, "null-co") || !strcmp(name, "null-aio")     ? "null"
                                                                       : name;
}

static bool is_below(const char *key, const char *slot)
{
    size_t n = strlen(slot);

    return !strncmp(key, slot, n) && key[n] == '.';
}

static const char *take(Description *d, const char *prefix, const char *name)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    Pair *p = find(d, key);

    if (p) {
        p->used = true;
    }
    return p ? p->value : NULL;
}

static bool has_below(const Description *d, const char *prefix)
{
    for (unsigned i = 0; i < d->pairs->len; i++) {
        if (g_str_has_prefix(g_array_index(d->pairs, Pair, i).key, prefix)) {
            return true;
        }
    }
    return false;
}

static bool is_on(const char *text)
{
    return text && (!strcmp(text, "on") || !strcmp(text, "yes") || !strcmp(text, "true"));
}

/* What files are opened with where the description does not say it. */
static bool set_defaults(Description *d, BlockNode *node, const char *prefix, bool read_only)
{
    static const char *const modes[] = { "writeback", "none", "writethrough", "directsync",
                                         "unsafe" };
    static const char *const engines[] = { "auto", "io_uring", "threads", "native" };
    const BlockOpenOptions *o = d->options;
    const char *direct = take(d, prefix, "cache.direct");
    const char *no_flush = take(d, prefix, "cache.no-flush");
    bool none = !g_strcmp0(take(d, prefix, "backing"), "null"); /* none is wanted */
    const char *mode = is_on(no_flush) ? "unsafe" : is_on(direct) ? "none" : "writeback";

    if (!object_property_set_bool(OBJECT(node), "read-only", read_only, d->error) ||
        !object_property_set_bool(OBJECT(node), "auto-read-only", o->auto_read_only, d->error) ||
        !object_property_set_str(OBJECT(node), "discard", o->discard ? "unmap" : "ignore",
                                 d->error)) {
        return false;
    }
    node->no_backing = o->no_backing || none;
    node->for_check = o->for_check;
    node->depth = o->depth;
    if (strcmp(block_node_driver(node), "file") != 0) {
        return true;
    }
    return object_property_set_str(OBJECT(node), "cache",
                                   direct || no_flush ? mode : modes[o->cache], d->error) &&
           object_property_set_str(OBJECT(node), "aio", engines[o->aio], d->error) &&
           (!o->no_lock || object_property_set_str(OBJECT(node), "locking", "off", d->error));
}

static bool set_properties(Description *d, BlockNode *node, const char *prefix)
{
    for (unsigned i = 0; i < d->pairs->len; i++) {
        Pair *p = &g_array_index(d->pairs, Pair, i);
        const char *key = p->key + strlen(prefix);

        if (p->used || !g_str_has_prefix(p->key, prefix) || is_below(key, "file") ||
            is_below(key, "backing")) {
            continue;
        }
        if (!strcmp(key, "file") || !strcmp(key, "backing")) {
            return error_set(d->error, ENGINE_ERROR_INVALID,
                             "json: %s: a node is described here, not named", p->key);
        }
        p->used = true;
        if (!object_property_parse(OBJECT(node), key, p->value, d->error)) {
            g_prefix_error(d->error, "json: ");
            return false;
        }
    }
    return true;
}

static BlockNode *build(Description *d, const char *prefix, bool read_only, unsigned depth);

static bool set_child(Description *d, BlockNode *node, const char *prefix, const char *slot,
                      bool read_only, unsigned depth)
{
    g_autofree char *below = g_strconcat(prefix, slot, ".", NULL);
    BlockNode *child;
    bool ok;

    if (!has_below(d, below)) {
        return true;
    }
    child = build(d, below, read_only, depth + 1);
    ok = child && object_property_set_link(OBJECT(node), slot, OBJECT(child), d->error);
    object_unref(child);
    return ok;
}

/* A format on what is described as `file`: that of the options, or what its content looks like. */
static BlockNode *on_file(Description *d, const char *prefix, bool read_only, unsigned depth)
{
    g_autofree char *below = g_strconcat(prefix, "file.", NULL);
    const char *format = *prefix ? NULL : d->options->format;
    BlockNode *file = has_below(d, below) ? build(d, below, read_only, depth + 1) : NULL, *node;

    if (!file) {
        if (!d->error || !*d->error) {
            error_set(d->error, ENGINE_ERROR_INVALID, "json: %sdriver is missing", prefix);
        }
        return NULL;
    }
    format = format ? format : block_probe(file, d->error);
    node = format ? block_node_new(format, d->error) : NULL;
    if (node) {
        node->probed = *prefix || !d->options->format;
        if (!object_property_set_link(OBJECT(node), "file", OBJECT(file), d->error)) {
            object_unref(g_steal_pointer(&node));
        }
    }
    object_unref(file);
    return node;
}

/* The node whose properties begin so; open. */
static BlockNode *build(Description *d, const char *prefix, bool read_only, unsigned depth)
{
    const char *driver = take(d, prefix, "driver"), *own = take(d, prefix, "read-only");
    BlockNode *node;

    if (depth > MAX_DEPTH) {
        wrong(d, "too many nodes within each other");
        return NULL;
    }
    read_only = own ? is_on(own) || d->options->read_only : read_only;
    node = driver ? block_node_new(driver_name(driver), d->error)
                  : on_file(d, prefix, read_only, depth);
    if (node &&
        (!set_defaults(d, node, prefix, read_only) || !set_properties(d, node, prefix) ||
         (driver && !set_child(d, node, prefix, "file", read_only, depth)) ||
         !set_child(d, node, prefix, "backing", true, depth) || !block_node_open(node, d->error))) {
        object_unref(g_steal_pointer(&node));
    }
    return node;
}

BlockNode *block_open_json(const char *name, const BlockOpenOptions *o, GError **error)
{
    const char *text = name + strlen(BLOCK_JSON_PREFIX);
    GError *why = NULL;
    Description d = { .text = text, .at = text, .options = o, .error = &why };
    BlockNode *node = NULL;

    d.pairs = g_array_new(FALSE, FALSE, sizeof(Pair));
    g_array_set_clear_func(d.pairs, pair_clear);
    if (read_all(&d)) {
        node = build(&d, "", o->read_only, 1);
    }
    if (node && o->format && strcmp(block_node_driver(node), o->format) != 0) {
        error_set(&why, ENGINE_ERROR_INVALID, "json: its driver is %s, not %s",
                  block_node_driver(node), o->format);
        object_unref(g_steal_pointer(&node));
    }
    g_array_free(d.pairs, TRUE);
    if (!node) {
        g_propagate_error(error, why);
    }
    return node;
}
