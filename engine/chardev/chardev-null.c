/* "null" takes everything and says nothing; "script" hands what the guest writes to a function. */
#include "engine/chardev/chardev.h"

static ssize_t null_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    return (ssize_t)len;
}

static void null_class_init(ObjectClass *klass, const void *data)
{
    CHARDEV_CLASS(klass)->alias = "null";
    CHARDEV_CLASS(klass)->write = null_write;
}

typedef struct ScriptChardev {
    Chardev parent;
    void (*fn)(void *opaque, const uint8_t *buf, size_t len);
    void *opaque;
} ScriptChardev;
OBJECT_DECLARE_TYPE(ScriptChardev, ChardevClass, SCRIPT_CHARDEV, TYPE_CHARDEV_SCRIPT)

void chardev_script_set(Chardev *chr, void (*fn)(void *opaque, const uint8_t *buf, size_t len),
                        void *opaque)
{
    ScriptChardev *s = SCRIPT_CHARDEV(chr);

    s->fn = fn;
    s->opaque = opaque;
}

static ssize_t script_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    ScriptChardev *s = SCRIPT_CHARDEV(chr);

    if (s->fn) {
        s->fn(s->opaque, buf, len);
    }
    return (ssize_t)len;
}

static void script_close(Chardev *chr)
{
    chardev_script_set(chr, NULL, NULL);
}

static void script_class_init(ObjectClass *klass, const void *data)
{
    CHARDEV_CLASS(klass)->write = script_write;
    CHARDEV_CLASS(klass)->close = script_close;
}

static const TypeInfo types[] = {
    {
        .name = TYPE_CHARDEV_NULL,
        .parent = TYPE_CHARDEV,
        .doc = "Takes everything, says nothing",
        .class_init = null_class_init,
    },
    {
        .name = TYPE_CHARDEV_SCRIPT,
        .parent = TYPE_CHARDEV,
        .doc = "Hands what the guest writes to a script, which answers when it likes",
        .instance_size = sizeof(ScriptChardev),
        .class_init = script_class_init,
    },
};

static void register_types(void)
{
    type_register_static_array(types, G_N_ELEMENTS(types));
}
type_init(register_types)
