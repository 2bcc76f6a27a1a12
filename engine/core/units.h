/* Sizes and small arithmetic on guest values. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define KiB        (UINT64_C(1) << 10)
#define MiB        (UINT64_C(1) << 20)
#define GiB        (UINT64_C(1) << 30)
#define NS_PER_SEC INT64_C(1000000000)
#define NS_PER_MS  INT64_C(1000000)
#define NS_PER_US  INT64_C(1000)

/* "64K", "1.5G", "0x1000", "123": bytes. Suffixes b K M G T P E, powers of 1024. The whole text
 * must parse. */
bool parse_size(const char *text, uint64_t *bytes, GError **error);
