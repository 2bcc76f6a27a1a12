/* Pictures to and from PNG files, by libpng's simplified interface: it jumps nowhere. */
#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/display/surface.h"

bool png_write(const char *path, pixman_image_t *image, GError **error)
{
    unsigned width = (unsigned)pixman_image_get_width(image);
    unsigned height = (unsigned)pixman_image_get_height(image);
    g_autofree uint8_t *rgb = g_malloc(3 * (size_t)width * height);
    png_image png = {
        .version = PNG_IMAGE_VERSION, .width = width, .height = height, .format = PNG_FORMAT_RGB
    };
    uint8_t *to = rgb;
    FILE *file;
    bool ok;

    for (unsigned y = 0; y < height; y++) {
        const uint32_t *p = pixman_image_get_data(image) +
                            (size_t)y * ((unsigned)pixman_image_get_stride(image) / 4);

        for (unsigned x = 0; x < width; x++, to += 3) {
            to[0] = (uint8_t)(p[x] >> 16);
            to[1] = (uint8_t)(p[x] >> 8);
            to[2] = (uint8_t)p[x];
        }
    }
    file = fopen(path, "wbe");
    if (!file) {
        return error_set_errno(error, "%s", path);
    }
    ok = png_image_write_to_stdio(&png, file, 0, rgb, 0, NULL);
    if (fclose(file) != 0 && ok) {
        return error_set_errno(error, "%s", path);
    }
    return ok ? true : error_set(error, ENGINE_ERROR_IO, "%s: %s", path, png.message);
}

/* libpng's BGRA is a8r8g8b8 of a little-endian host. */
#if G_BYTE_ORDER == G_LITTLE_ENDIAN
#define FORMAT_ARGB PNG_FORMAT_BGRA
#else
#define FORMAT_ARGB PNG_FORMAT_ARGB
#endif

pixman_image_t *png_read(const char *path, GError **error)
{
    png_image png = { .version = PNG_IMAGE_VERSION };
    pixman_image_t *image = NULL;
    FILE *file = fopen(path, "rbe");

    if (!file) {
        error_set_errno(error, "%s", path);
        return NULL;
    }
    if (!png_image_begin_read_from_stdio(&png, file)) {
        error_set(error, ENGINE_ERROR_CORRUPT, "%s: %s", path, png.message);
    } else if ((uint64_t)png.width * png.height > CONSOLE_MAX_PIXELS) {
        error_set(error, ENGINE_ERROR_LIMIT, "%s: %u x %u pixels are more than %u", path, png.width,
                  png.height, CONSOLE_MAX_PIXELS);
    } else {
        png.format = FORMAT_ARGB;
        image = pixman_image_create_bits(PIXMAN_a8r8g8b8, (int)png.width, (int)png.height, NULL, 0);
        if (!image) {
            error_set(error, ENGINE_ERROR_LIMIT, "%s: no memory for %u x %u pixels", path,
                      png.width, png.height);
        } else if (!png_image_finish_read(&png, NULL, pixman_image_get_data(image),
                                          pixman_image_get_stride(image), NULL)) {
            error_set(error, ENGINE_ERROR_CORRUPT, "%s: %s", path, png.message);
            pixman_image_unref(image);
            image = NULL;
        }
    }
    png_image_free(&png);
    fclose(file);
    return image;
}
