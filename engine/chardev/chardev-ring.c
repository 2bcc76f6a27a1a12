/* "ring": keeps the last bytes that the guest wrote until somebody reads them. */
#include <inttypes.h>
#include <string.h>

#include "engine/chardev/chardev.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define RING_MAX (256 * MiB)

typedef struct RingChardev {
    Chardev parent;
    uint64_t size; /* property */
    uint8_t *buf;
    size_t start, count;
} RingChardev;
OBJECT_DECLARE_TYPE(RingChardev, ChardevClass, RING_CHARDEV, TYPE_CHARDEV_RING)

static bool ring_open(Chardev *chr, GError **error)
{
    RingChardev *s = RING_CHARDEV(chr);

    if (s->size == 0 || s->size > RING_MAX) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "chardev '%s': size %" PRIu64 " is not between 1 and %" PRIu64,
                         chardev_label(chr), s->size, (uint64_t)RING_MAX);
    }
    s->buf = g_try_malloc(s->size);
    if (!s->buf) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "chardev '%s': no memory for a ring of %" PRIu64 " bytes",
                         chardev_label(chr), s->size);
    }
    s->start = s->count = 0;
    return true;
}

static void ring_close(Chardev *chr)
{
    RingChardev *s = RING_CHARDEV(chr);

    g_clear_pointer(&s->buf, g_free);
    s->start = s->count = 0;
}

static ssize_t ring_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    RingChardev *s = RING_CHARDEV(chr);
    size_t all = len, lost, at, first;

    if (len > s->size) {
        lost = len - s->size;
        chr->bytes_dropped += lost;
        buf += lost;
        len -= lost;
    }
    lost = s->count + len > s->size ? s->count + len - s->size : 0;
    chr->bytes_dropped += lost;
    s->start = (s->start + lost) % s->size;
    s->count -= lost;
    at = (s->start + s->count) % s->size;
    first = MIN(len, s->size - at);
    memcpy(s->buf + at, buf, first);
    memcpy(s->buf, buf + first, len - first);
    s->count += len;
    return (ssize_t)all;
}

size_t chardev_ring_count(Chardev *chr)
{
    return RING_CHARDEV(chr)->count;
}

size_t chardev_ring_read(Chardev *chr, uint8_t *buf, size_t len)
{
    RingChardev *s = RING_CHARDEV(chr);
    size_t first;

    len = MIN(len, s->count);
    if (len == 0) {
        return 0;
    }
    first = MIN(len, s->size - s->start);
    memcpy(buf, s->buf + s->start, first);
    memcpy(buf + first, s->buf, len - first);
    s->start = (s->start + len) % s->size;
    s->count -= len;
    return len;
}

static const Property ring_properties[] = {
    DEFINE_PROP_SIZE("size", RingChardev, size, 64 * KiB, "bytes that are kept"),
};

static void ring_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->alias = "ring";
    k->open = ring_open;
    k->close = ring_close;
    k->write = ring_write;
    object_class_add_properties(klass, ring_properties, G_N_ELEMENTS(ring_properties));
}

static const TypeInfo ring_info = {
    .name = TYPE_CHARDEV_RING,
    .parent = TYPE_CHARDEV,
    .doc = "Keeps the last bytes that the guest wrote, for a script to read",
    .instance_size = sizeof(RingChardev),
    .class_init = ring_class_init,
};

static void register_ring(void)
{
    type_register_static(&ring_info);
}
type_init(register_ring)
