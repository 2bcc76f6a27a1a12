/*
 * Firmware images: where they are found, and reading them. Images named without a '/' that are not
 * in the current folder are looked for in the folders of VMLUA_FIRMWARE (separated by ':'), then in
 * those where distributions put them.
 */
#pragma once

#include <glib.h>

/* Path of an image; the caller frees. NULL + error naming the folders that were looked through. */
char *firmware_find(const char *name, GError **error);
/* Its bytes, at most `limit`; empty files are refused. NULL + error. */
GBytes *firmware_read(const char *name, gsize limit, GError **error);
