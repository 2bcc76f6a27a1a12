/* Pictures compared and summed up. */
#include "engine/display/surface.h"

#include <string.h>

static const uint32_t *row_of(pixman_image_t *image, unsigned y)
{
    return pixman_image_get_data(image) +
           (size_t)y * ((unsigned)pixman_image_get_stride(image) / sizeof(uint32_t));
}

static unsigned channel_diff(uint32_t a, uint32_t b)
{
    unsigned worst = 0;

    for (unsigned shift = 0; shift < 24; shift += 8) {
        int d = (int)(a >> shift & 0xff) - (int)(b >> shift & 0xff);

        worst = MAX(worst, (unsigned)(d < 0 ? -d : d));
    }
    return worst;
}

static bool left_out(uint32_t reference, const uint32_t *mask)
{
    return !(reference >> 24) || (mask && (!(*mask >> 24) || !(*mask & 0xffffff)));
}

void picture_compare(pixman_image_t *image, unsigned x, unsigned y, pixman_image_t *reference,
                     pixman_image_t *mask, unsigned tolerance, PictureDiff *diff)
{
    unsigned width = (unsigned)pixman_image_get_width(reference);
    unsigned height = (unsigned)pixman_image_get_height(reference);

    g_assert(x + width <= (unsigned)pixman_image_get_width(image) &&
             y + height <= (unsigned)pixman_image_get_height(image));
    memset(diff, 0, sizeof(*diff));
    for (unsigned j = 0; j < height; j++) {
        const uint32_t *a = row_of(image, y + j) + x, *b = row_of(reference, j);
        const uint32_t *m = mask ? row_of(mask, j) : NULL;

        for (unsigned i = 0; i < width; i++) {
            unsigned d;

            if (left_out(b[i], m ? m + i : NULL)) {
                continue;
            }
            diff->compared++;
            d = channel_diff(a[i], b[i]);
            diff->worst = MAX(diff->worst, d);
            if (d > tolerance && diff->different++ == 0) {
                diff->x = x + i;
                diff->y = y + j;
            }
        }
    }
}

char *picture_hash(pixman_image_t *image, unsigned x, unsigned y, unsigned width, unsigned height)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree uint8_t *line = g_malloc(3 * (size_t)width);
    uint32_t size[2] = { GUINT32_TO_LE(width), GUINT32_TO_LE(height) };

    g_checksum_update(sum, (const guchar *)size, sizeof(size));
    for (unsigned j = 0; j < height; j++) {
        const uint32_t *p = row_of(image, y + j) + x;

        for (unsigned i = 0; i < width; i++) {
            line[3 * i] = (uint8_t)(p[i] >> 16);
            line[3 * i + 1] = (uint8_t)(p[i] >> 8);
            line[3 * i + 2] = (uint8_t)p[i];
        }
        g_checksum_update(sum, line, (gssize)(3 * width));
    }
    return g_strdup(g_checksum_get_string(sum));
}
