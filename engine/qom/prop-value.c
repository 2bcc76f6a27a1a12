/* Property values: copies, text, conversion to what a property takes. */
#include "engine/qom/prop-value.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- small helpers (core has its own: qom includes nothing of ours) ---------------------- */

bool qom_parse_size(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "BKMGTPE";
    unsigned __int128 value = 0, fraction = 0, scale = 1;
    const char *p = text;
    unsigned shift = 0;
    bool hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');

    if (hex) {
        p += 2;
    }
    if (hex ? !g_ascii_isxdigit(*p) : !g_ascii_isdigit(*p)) {
        return false;
    }
    for (; hex ? g_ascii_isxdigit(*p) : g_ascii_isdigit(*p); p++) {
        value = value * (hex ? 16 : 10) + (unsigned)g_ascii_xdigit_value(*p);
        if (value > UINT64_MAX) {
            return false;
        }
    }
    if (*p == '.' && !hex) {
        unsigned digits = 0;
        for (p++; g_ascii_isdigit(*p); p++) {
            if (++digits > 18) {
                return false;
            }
            fraction = fraction * 10 + (unsigned)g_ascii_digit_value(*p);
            scale *= 10;
        }
        if (!digits) {
            return false;
        }
    }
    if (*p) {
        const char *s = strchr(suffixes, g_ascii_toupper(*p));
        if (!s || p[1]) {
            return false;
        }
        shift = 10 * (unsigned)(s - suffixes);
    } else if (scale > 1) {
        return false; /* half a byte */
    }
    value = (value << shift) + (fraction << shift) / scale;
    if (value > UINT64_MAX) {
        return false;
    }
    *bytes = (uint64_t)value;
    return true;
}

static unsigned edit_distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned row[65];

    if (la > 64 || lb > 64) {
        return UINT_MAX; /* nobody mistypes that: it is near nothing */
    }
    for (size_t j = 0; j <= lb; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[lb];
}

const char *qom_nearest(const char *word, const char *const *words, unsigned n)
{
    const char *best = NULL;
    unsigned least = (unsigned)strlen(word) / 3 + 2; /* farther is another word altogether */

    for (unsigned i = 0; i < n; i++) {
        unsigned d = edit_distance(word, words[i]);
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    return best;
}

/* ---- values ------------------------------------------------------------------------------ */

const char *prop_kind_name(PropKind kind)
{
    static const char *const names[] = {
        [PROP_BOOL] = "bool",     [PROP_INT] = "int",       [PROP_UINT] = "uint",
        [PROP_SIZE] = "size",     [PROP_STRING] = "string", [PROP_ENUM] = "enum",
        [PROP_LINK] = "link",     [PROP_CHILD] = "child",   [PROP_LIST] = "list",
        [PROP_DOUBLE] = "double",
    };

    return (unsigned)kind < G_N_ELEMENTS(names) ? names[kind] : "unknown";
}

char *property_type_string(const Property *prop)
{
    unsigned bits = prop->bits ? prop->bits : 64;

    switch (prop->kind) {
    case PROP_INT:
    case PROP_UINT:
        return g_strdup_printf("%s%u", prop_kind_name(prop->kind), bits);
    case PROP_ENUM: {
        g_autofree char *words = g_strjoinv("|", (char **)(uintptr_t)prop->words);
        return g_strdup_printf("enum(%s)", words);
    }
    case PROP_LINK:
    case PROP_CHILD:
        return g_strdup_printf("%s<%s>", prop_kind_name(prop->kind),
                               prop->link_type ? prop->link_type : TYPE_OBJECT);
    case PROP_LIST: {
        Property element = property_element(prop);
        g_autofree char *of = property_type_string(&element);
        return g_strdup_printf("list<%s>", of);
    }
    default:
        return g_strdup(prop_kind_name(prop->kind));
    }
}

Property property_element(const Property *prop)
{
    return (Property){
        .name = prop->name,
        .kind = prop->element,
        .bits = prop->bits,
        .words = prop->words,
        .link_type = prop->link_type,
        .offset = -1,
    };
}

void prop_value_clear(PropValue *value)
{
    switch (value->kind) {
    case PROP_STRING:
        g_free(value->string);
        break;
    case PROP_LINK:
    case PROP_CHILD:
        object_unref(value->object);
        break;
    case PROP_LIST:
        g_clear_pointer(&value->list, g_ptr_array_unref);
        break;
    default:
        break;
    }
    *value = (PropValue){ 0 };
}

static void prop_value_free(gpointer data)
{
    prop_value_clear(data);
    g_free(data);
}

GPtrArray *prop_list_new(void)
{
    return g_ptr_array_new_with_free_func(prop_value_free);
}

void prop_list_add(GPtrArray *list, const PropValue *element)
{
    PropValue *v = g_new0(PropValue, 1);

    prop_value_copy(v, element);
    g_ptr_array_add(list, v);
}

void prop_value_copy(PropValue *to, const PropValue *from)
{
    *to = *from;
    switch (from->kind) {
    case PROP_STRING:
        to->string = g_strdup(from->string);
        break;
    case PROP_LINK:
    case PROP_CHILD:
        object_ref(to->object);
        break;
    case PROP_LIST:
        to->list = prop_list_new();
        for (unsigned i = 0; from->list && i < from->list->len; i++) {
            prop_list_add(to->list, from->list->pdata[i]);
        }
        break;
    default:
        break;
    }
}

char *prop_value_to_string(const PropValue *value, const Property *prop)
{
    switch (value->kind) {
    case PROP_BOOL:
        return g_strdup(value->boolean ? "on" : "off");
    case PROP_INT:
        return g_strdup_printf("%" G_GINT64_FORMAT, value->integer);
    case PROP_UINT:
    case PROP_SIZE:
        return g_strdup_printf("%" G_GUINT64_FORMAT, value->uinteger);
    case PROP_DOUBLE: {
        char buf[G_ASCII_DTOSTR_BUF_SIZE];
        return g_strdup(g_ascii_dtostr(buf, sizeof(buf), value->number));
    }
    case PROP_STRING:
        return g_strdup(value->string ? value->string : "");
    case PROP_ENUM: {
        unsigned n = prop && prop->words ? g_strv_length((char **)(uintptr_t)prop->words) : 0;
        return (uint64_t)value->integer < n ? g_strdup(prop->words[value->integer])
                                            : g_strdup_printf("%" G_GINT64_FORMAT, value->integer);
    }
    case PROP_LINK:
    case PROP_CHILD: {
        char *path = value->object ? object_get_canonical_path(value->object) : g_strdup("");
        return path ? path : g_strdup(object_get_name(value->object));
    }
    case PROP_LIST: {
        GString *s = g_string_new(NULL);
        Property element = { 0 };
        if (prop) {
            element = property_element(prop);
        }
        for (unsigned i = 0; value->list && i < value->list->len; i++) {
            g_autofree char *one = prop_value_to_string(value->list->pdata[i],
                                                        prop ? &element : NULL);
            g_string_append_printf(s, "%s%s", i ? "," : "", one);
        }
        return g_string_free(s, false);
    }
    }
    return g_strdup("");
}

/* ---- conversion -------------------------------------------------------------------------- */

bool property_bad_value(Object *obj, const Property *prop, GError **error, const char *format, ...)
{
    va_list ap;
    g_autofree char *text = NULL;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    g_set_error(error, OBJECT_ERROR, OBJECT_ERROR_BAD_VALUE, "%s%sproperty '%s': %s",
                obj ? object_get_name(obj) : "", obj ? ": " : "", prop->name, text);
    return false;
}

static bool wrong_kind(Object *obj, const Property *prop, const PropValue *in, GError **error)
{
    g_autofree char *want = property_type_string(prop);
    g_autofree char *text = prop_value_to_string(in, NULL);

    return property_bad_value(obj, prop, error, "%s expected, got %s '%s'", want,
                              prop_kind_name(in->kind), text);
}

/* Whole numbers as sign and magnitude, so that all of int64 and uint64 fit. false: not a whole
 * number. */
static bool whole_number(const PropValue *in, bool *negative, uint64_t *magnitude)
{
    *negative = false;
    switch (in->kind) {
    case PROP_INT:
        *negative = in->integer < 0;
        *magnitude = *negative ? -(uint64_t)in->integer : (uint64_t)in->integer;
        return true;
    case PROP_UINT:
    case PROP_SIZE:
        *magnitude = in->uinteger;
        return true;
    case PROP_DOUBLE:
        *negative = in->number < 0;
        if (in->number != floor(in->number) || fabs(in->number) >= 0x1p64) {
            return false;
        }
        *magnitude = (uint64_t)fabs(in->number);
        return true;
    default:
        return false;
    }
}

static bool convert_int(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                        GError **error)
{
    unsigned bits = prop->bits ? prop->bits : 64;
    int64_t min = -(INT64_C(1) << (bits - 2)) * 2, max = ~min;
    uint64_t magnitude;
    bool negative;

    if (!whole_number(in, &negative, &magnitude)) {
        return wrong_kind(obj, prop, in, error);
    }
    if (magnitude > (uint64_t)max + negative) {
        return property_bad_value(obj, prop, error,
                                  "%s%" G_GUINT64_FORMAT " is out of range (%" G_GINT64_FORMAT
                                  " to %" G_GINT64_FORMAT ")",
                                  negative ? "-" : "", magnitude, min, max);
    }
    out->integer = (int64_t)(negative ? -magnitude : magnitude);
    return true;
}

static bool convert_uint(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                         GError **error)
{
    unsigned bits = prop->kind == PROP_SIZE || !prop->bits ? 64 : prop->bits;
    uint64_t max = UINT64_MAX >> (64 - bits);
    uint64_t magnitude;
    bool negative;

    if (prop->kind == PROP_SIZE && in->kind == PROP_STRING && in->string) {
        if (!qom_parse_size(in->string, &out->uinteger)) {
            return property_bad_value(
                obj, prop, error, "'%s' is not a size (like 4096, 64K, 1.5G, 0x1000)", in->string);
        }
        return true;
    }
    if (!whole_number(in, &negative, &magnitude)) {
        return wrong_kind(obj, prop, in, error);
    }
    if ((negative && magnitude) || magnitude > max) {
        return property_bad_value(obj, prop, error,
                                  "%s%" G_GUINT64_FORMAT " is out of range (0 to %" G_GUINT64_FORMAT
                                  ")",
                                  negative ? "-" : "", magnitude, max);
    }
    out->uinteger = magnitude;
    return true;
}

static bool convert_double(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                           GError **error)
{
    uint64_t magnitude;
    bool negative;

    if (in->kind == PROP_DOUBLE) {
        out->number = in->number;
        return true;
    }
    if (!whole_number(in, &negative, &magnitude)) {
        return wrong_kind(obj, prop, in, error);
    }
    out->number = negative ? -(double)magnitude : (double)magnitude;
    if (out->number >= 0x1p64 || (uint64_t)fabs(out->number) != magnitude) {
        return property_bad_value(obj, prop, error,
                                  "%s%" G_GUINT64_FORMAT " does not fit a double exactly",
                                  negative ? "-" : "", magnitude);
    }
    return true;
}

static bool convert_enum(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                         GError **error)
{
    unsigned n = g_strv_length((char **)(uintptr_t)prop->words);
    g_autofree char *words = NULL;
    const char *near;

    if (in->kind == PROP_ENUM && (uint64_t)in->integer < n) {
        out->integer = in->integer;
        return true;
    }
    if (in->kind != PROP_STRING || !in->string) {
        return wrong_kind(obj, prop, in, error);
    }
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(prop->words[i], in->string) == 0) {
            out->integer = i;
            return true;
        }
    }
    words = g_strjoinv(", ", (char **)(uintptr_t)prop->words);
    near = qom_nearest(in->string, prop->words, n);
    return property_bad_value(obj, prop, error, "'%s' is not one of %s%s%s%s", in->string, words,
                              near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
}

/* From the object's own surroundings outwards, so that "com1" means the one of this machine. */
static Object *find_link_target(Object *obj, const char *path, bool *ambiguous)
{
    Object *target = NULL;

    *ambiguous = false;
    for (Object *scope = obj; scope && !target && !*ambiguous; scope = scope->parent) {
        target = object_resolve_path_at(scope, path, ambiguous);
    }
    return target || *ambiguous ? target : object_resolve_path(path, ambiguous);
}

static bool convert_link(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                         GError **error)
{
    const char *type = prop->link_type ? prop->link_type : TYPE_OBJECT;
    Object *target;

    if (in->kind == PROP_STRING) {
        bool ambiguous = false;
        const char *path = in->string;

        target = path && *path ? find_link_target(obj, path, &ambiguous) : NULL;
        if (!target && path && *path) {
            return property_bad_value(
                obj, prop, error,
                ambiguous ? "'%s' is ambiguous, give more of its path" : "no object '%s'", path);
        }
    } else if (in->kind == PROP_LINK || in->kind == PROP_CHILD) {
        target = in->object;
    } else {
        return wrong_kind(obj, prop, in, error);
    }
    if (target && !object_dynamic_cast(target, type)) {
        return property_bad_value(obj, prop, error, "'%s' is a '%s', not a '%s'",
                                  object_get_name(target), object_get_typename(target), type);
    }
    if (target && target->gone) {
        return property_bad_value(obj, prop, error, "'%s' is gone", object_get_name(target));
    }
    out->object = object_ref(target);
    return true;
}

static bool convert_list(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                         GError **error)
{
    Property element = property_element(prop);

    if (in->kind != PROP_LIST) {
        return wrong_kind(obj, prop, in, error);
    }
    out->list = prop_list_new();
    for (unsigned i = 0; in->list && i < in->list->len; i++) {
        PropValue v = { 0 };

        if (!object_property_convert(obj, &element, in->list->pdata[i], &v, error)) {
            g_clear_pointer(&out->list, g_ptr_array_unref);
            g_prefix_error(error, "element %u: ", i + 1);
            return false;
        }
        prop_list_add(out->list, &v);
        prop_value_clear(&v);
    }
    return true;
}

bool object_property_convert(Object *obj, const Property *prop, const PropValue *in, PropValue *out,
                             GError **error)
{
    bool ok = true;

    *out = (PropValue){ .kind = prop->kind };
    switch (prop->kind) {
    case PROP_BOOL:
        ok = in->kind == PROP_BOOL ? true : wrong_kind(obj, prop, in, error);
        out->boolean = ok && in->boolean;
        break;
    case PROP_INT:
        ok = convert_int(obj, prop, in, out, error);
        break;
    case PROP_UINT:
    case PROP_SIZE:
        ok = convert_uint(obj, prop, in, out, error);
        break;
    case PROP_DOUBLE:
        ok = convert_double(obj, prop, in, out, error);
        break;
    case PROP_STRING:
        ok = in->kind == PROP_STRING ? true : wrong_kind(obj, prop, in, error);
        out->string = ok ? g_strdup(in->string) : NULL;
        break;
    case PROP_ENUM:
        ok = convert_enum(obj, prop, in, out, error);
        break;
    case PROP_LINK:
    case PROP_CHILD:
        ok = convert_link(obj, prop, in, out, error);
        break;
    case PROP_LIST:
        ok = convert_list(obj, prop, in, out, error);
        break;
    }
    if (!ok) {
        *out = (PropValue){ 0 };
    }
    return ok;
}

/* ---- text -------------------------------------------------------------------------------- */

static bool parse_bool(const char *text, bool *value)
{
    static const char *const words[][2] = {
        { "off", "on" }, { "false", "true" }, { "no", "yes" }, { "n", "y" }, { "0", "1" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
        for (unsigned v = 0; v < 2; v++) {
            if (strcmp(text, words[i][v]) == 0) {
                *value = v;
                return true;
            }
        }
    }
    return false;
}

/* Decimal or 0x…; no octal: "010" is ten, as everywhere outside C. */
static bool parse_whole(const char *text, PropValue *out)
{
    const char *p = text + (*text == '-' || *text == '+');
    bool hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    uint64_t magnitude;
    char *end;

    p += hex ? 2 : 0;
    if (hex ? !g_ascii_isxdigit(*p) : !g_ascii_isdigit(*p)) {
        return false;
    }
    errno = 0;
    magnitude = g_ascii_strtoull(p, &end, hex ? 16 : 10);
    if (*end || errno) {
        return false;
    }
    if (*text != '-') {
        *out = (PropValue){ .kind = PROP_UINT, .uinteger = magnitude };
        return true;
    }
    if (magnitude > UINT64_C(1) << 63) {
        return false;
    }
    *out = (PropValue){ .kind = PROP_INT, .integer = (int64_t)-magnitude };
    return true;
}

static bool parse_list(Object *obj, const Property *prop, const char *text, PropValue *out,
                       GError **error)
{
    Property element = property_element(prop);
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);

    *out = (PropValue){ .kind = PROP_LIST, .list = prop_list_new() };
    for (unsigned i = 0; *text && parts[i]; i++) {
        PropValue v = { 0 };

        if (!property_value_parse(obj, &element, g_strstrip(parts[i]), &v, error)) {
            prop_value_clear(out);
            g_prefix_error(error, "element %u: ", i + 1);
            return false;
        }
        prop_list_add(out->list, &v);
        prop_value_clear(&v);
    }
    return true;
}

bool property_value_parse(Object *obj, const Property *prop, const char *text, PropValue *out,
                          GError **error)
{
    char *end = NULL;

    *out = (PropValue){ .kind = prop->kind };
    switch (prop->kind) {
    case PROP_BOOL:
        if (!parse_bool(text, &out->boolean)) {
            return property_bad_value(obj, prop, error, "'%s' is neither on nor off", text);
        }
        return true;
    case PROP_INT:
    case PROP_UINT:
        if (!parse_whole(text, out)) {
            return property_bad_value(obj, prop, error, "'%s' is not a whole number of 64 bits",
                                      text);
        }
        return true;
    case PROP_DOUBLE:
        out->number = g_ascii_strtod(text, &end);
        if (end == text || *end) {
            return property_bad_value(obj, prop, error, "'%s' is not a number", text);
        }
        return true;
    case PROP_LIST:
        return parse_list(obj, prop, text, out, error);
    default: /* sizes, enums, links and strings convert from strings anyway */
        *out = (PropValue){ .kind = PROP_STRING, .string = g_strdup(text) };
        return true;
    }
}
