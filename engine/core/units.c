/* Sizes as people write them. */
#include "engine/core/units.h"

#include <string.h>

#include "engine/core/error.h"

#define MAX_DECIMALS 18 /* 10^18 fits in 64 bits */

static int size_shift(char c)
{
    switch (c) {
    case 'b':
    case 'B':
        return 0;
    case 'k':
    case 'K':
        return 10;
    case 'm':
    case 'M':
        return 20;
    case 'g':
    case 'G':
        return 30;
    case 't':
    case 'T':
        return 40;
    case 'p':
    case 'P':
        return 50;
    case 'e':
    case 'E':
        return 60;
    default:
        return -1;
    }
}

bool parse_size(const char *text, uint64_t *bytes, GError **error)
{
    const char *p = text;
    unsigned base = 10;
    unsigned __int128 whole = 0, fraction = 0, scale = 1;

    if (p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
    }
    const char *first = p;
    while (base == 16 ? g_ascii_isxdigit(*p) : g_ascii_isdigit(*p)) {
        whole = whole * base + (unsigned)g_ascii_xdigit_value(*p++);
        if (whole > UINT64_MAX) {
            return error_set(error, ENGINE_ERROR_LIMIT, "size '%s' is larger than 64 bits hold",
                             text);
        }
    }
    bool any = p > first;
    if (base == 10 && *p == '.') {
        const char *point = p++;
        while (g_ascii_isdigit(*p)) {
            if (p - point > MAX_DECIMALS) {
                return error_set(error, ENGINE_ERROR_INVALID, "size '%s' has too many decimals",
                                 text);
            }
            fraction = fraction * 10 + (unsigned)(*p++ - '0');
            scale *= 10;
        }
        any = any && scale > 1;
    }
    int shift = 0;
    if (any && *p) {
        shift = size_shift(*p);
        p += shift >= 0;
    }
    if (!any || shift < 0 || *p) {
        return error_set(
            error, ENGINE_ERROR_INVALID,
            "size '%s' is not a number of bytes, optionally with one of the suffixes b K M G T P E",
            text);
    }
    whole = (whole << shift) + ((fraction << shift) / scale);
    if (whole > UINT64_MAX) {
        return error_set(error, ENGINE_ERROR_LIMIT, "size '%s' is larger than 64 bits hold", text);
    }
    *bytes = (uint64_t)whole;
    return true;
}
