/* Firmware images: see firmware.h. */
#include "engine/hw/core/firmware.h"

#include <glib/gstdio.h>
#include <stdint.h>
#include <string.h>

#include "engine/core/error.h"

static const char *const folders[] = {
    "/usr/share/seabios",
    "/usr/share/ovmf",
    "/usr/share/OVMF",
    "/usr/lib/ipxe/qemu",
    "/usr/share/vmlua",
    "/usr/share/qemu",
    NULL,
};

static char *in_folder(const char *folder, const char *name)
{
    char *path = g_build_filename(folder, name, NULL);

    if (g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
        return path;
    }
    g_free(path);
    return NULL;
}

char *firmware_find(const char *name, GError **error)
{
    const char *own = g_getenv("VMLUA_FIRMWARE");
    g_auto(GStrv) first = g_strsplit(own ? own : "", ":", -1);
    g_autofree char *all = NULL;
    char *path;

    if (strchr(name, '/') || g_file_test(name, G_FILE_TEST_IS_REGULAR)) {
        return g_strdup(name);
    }
    for (unsigned i = 0; first[i]; i++) {
        if (first[i][0] && (path = in_folder(first[i], name))) {
            return path;
        }
    }
    for (unsigned i = 0; folders[i]; i++) {
        if ((path = in_folder(folders[i], name))) {
            return path;
        }
    }
    all = g_strjoinv(", ", (char **)(uintptr_t)folders);
    error_set(error, ENGINE_ERROR_IO, "firmware '%s' is in none of %s%s%s", name, own ? own : "",
              own ? ", " : "", all);
    return NULL;
}

GBytes *firmware_read(const char *name, gsize limit, GError **error)
{
    g_autofree char *path = firmware_find(name, error);
    g_autofree char *bytes = NULL;
    GStatBuf st;
    gsize size;

    if (!path) {
        return NULL;
    }
    if (g_stat(path, &st) == 0 && (st.st_size == 0 || (guint64)st.st_size > limit)) {
        error_set(error, ENGINE_ERROR_INVALID,
                  "%s: %" G_GINT64_FORMAT " bytes, expected 1 to %" G_GSIZE_FORMAT, path,
                  (gint64)st.st_size, limit);
        return NULL;
    }
    if (!g_file_get_contents(path, &bytes, &size, error)) {
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&bytes), size);
}
