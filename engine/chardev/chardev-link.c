/*
 * "link": half of a null-modem cable between two machines (or two ports of one). What one side
 * writes waits in its stage until the main loop's next turn carries it over, so that one machine's
 * vCPU never runs the other machine's device code.
 */
#include <string.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/core/error.h"

#define STAGE_MAX (4 << 10)

typedef struct LinkChardev LinkChardev;
struct LinkChardev {
    Chardev parent;
    LinkChardev *peer; /* not counted: closing either side clears both */
    GByteArray *stage;
    BottomHalf *bh;
    uint64_t staged, moved; /* bytes, ever */
    uint64_t break_at;      /* the break comes after so many bytes */
    bool break_pending, modem_pending;
    unsigned tiocm; /* DTR, RTS as this side drives them */
};
OBJECT_DECLARE_TYPE(LinkChardev, ChardevClass, LINK_CHARDEV, TYPE_CHARDEV_LINK)

static void move_bytes(LinkChardev *s, Chardev *to)
{
    size_t n = MIN(s->stage->len, chardev_receive_room(to));
    uint8_t buf[STAGE_MAX];

    if (s->break_pending) {
        n = MIN(n, s->break_at - s->moved);
    }
    memcpy(buf, s->stage->data, n);
    g_byte_array_remove_range(s->stage, 0, (guint)n);
    s->moved += n;
    if (n > 0) {
        chardev_receive(to, buf, n);
    }
}

static void link_carry(void *opaque)
{
    LinkChardev *s = opaque;
    Chardev *chr = &s->parent;

    object_ref(chr);
    if (s->peer && s->modem_pending) {
        s->modem_pending = false;
        chardev_event(&s->peer->parent, CHARDEV_MODEM);
    }
    if (s->peer && s->stage->len > 0) {
        move_bytes(s, &s->peer->parent);
    }
    if (s->peer && s->break_pending && s->moved >= s->break_at) {
        s->break_pending = false;
        chardev_event(&s->peer->parent, CHARDEV_BREAK);
        if (s->stage->len > 0) {
            bh_schedule(s->bh);
        }
    }
    if (s->stage->len < STAGE_MAX) {
        chardev_can_write_again(chr);
    }
    object_unref(chr);
}

static ssize_t link_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    LinkChardev *s = LINK_CHARDEV(chr);

    len = MIN(len, STAGE_MAX - s->stage->len);
    if (len > 0) {
        g_byte_array_append(s->stage, buf, (guint)len);
        s->staged += len;
        bh_schedule(s->bh);
    }
    return (ssize_t)len;
}

/* This side has room again: the other's stage can move. */
static void link_update_read(Chardev *chr)
{
    LinkChardev *s = LINK_CHARDEV(chr);

    if (s->peer && s->peer->stage->len > 0 && chardev_receive_room(chr) > 0) {
        bh_schedule(s->peer->bh);
    }
}

static void link_set_modem(Chardev *chr, unsigned tiocm)
{
    LinkChardev *s = LINK_CHARDEV(chr);

    if (s->tiocm != tiocm) {
        s->tiocm = tiocm;
        s->modem_pending = true;
        bh_schedule(s->bh);
    }
}

static unsigned link_get_modem(Chardev *chr)
{
    LinkChardev *s = LINK_CHARDEV(chr);
    unsigned theirs = s->peer ? s->peer->tiocm : 0;

    return (theirs & CHARDEV_TIOCM_RTS ? CHARDEV_TIOCM_CTS : 0) |
           (theirs & CHARDEV_TIOCM_DTR ? CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD : 0);
}

static void link_send_break(Chardev *chr, bool on)
{
    LinkChardev *s = LINK_CHARDEV(chr);

    if (on && s->peer) {
        s->break_pending = true;
        s->break_at = s->staged + chardev_queued(chr);
        bh_schedule(s->bh);
    }
}

static bool link_open(Chardev *chr, GError **error)
{
    LinkChardev *s = LINK_CHARDEV(chr);

    s->bh = bh_new(link_carry, s);
    return true;
}

static void link_close(Chardev *chr)
{
    LinkChardev *s = LINK_CHARDEV(chr);
    LinkChardev *peer = s->peer;

    s->peer = NULL;
    s->tiocm = 0;
    s->break_pending = s->modem_pending = false;
    g_byte_array_set_size(s->stage, 0);
    g_clear_pointer(&s->bh, bh_free);
    if (peer) {
        object_ref(peer);
        /* What is on its way is for nobody; what has arrived stays readable. */
        peer->peer = NULL;
        peer->break_pending = false;
        g_byte_array_set_size(peer->stage, 0);
        chardev_event(&peer->parent, CHARDEV_CLOSED);
        chardev_event(&peer->parent, CHARDEV_MODEM);
        object_unref(peer);
    }
}

bool chardev_link(Chardev *a, Chardev *b, GError **error)
{
    Chardev *side[2] = { a, b };
    bool opened[2] = { false, false };

    if (a == b) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s' cannot be linked to itself",
                         chardev_label(a));
    }
    for (int i = 0; i < 2; i++) {
        if (!is_LINK_CHARDEV(side[i])) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "chardev '%s' is a %s: only two of type %s can be linked",
                             chardev_label(side[i]), object_get_typename(OBJECT(side[i])),
                             TYPE_CHARDEV_LINK);
        }
        if (LINK_CHARDEV(side[i])->peer) {
            return error_set(error, ENGINE_ERROR_BUSY, "chardev '%s' is linked already",
                             chardev_label(side[i]));
        }
    }
    for (int i = 0; i < 2; i++) {
        if (!side[i]->opened) {
            if (!chardev_open(side[i], error)) {
                if (opened[0]) {
                    chardev_close(side[0]);
                }
                return false;
            }
            opened[i] = true;
        }
    }
    LINK_CHARDEV(a)->peer = LINK_CHARDEV(b);
    LINK_CHARDEV(b)->peer = LINK_CHARDEV(a);
    for (int i = 0; i < 2; i++) {
        LinkChardev *s = LINK_CHARDEV(side[i]);

        s->staged = s->moved = 0;
        chardev_event(side[i], CHARDEV_OPENED);
        chardev_event(side[i], CHARDEV_MODEM);
    }
    return true;
}

static void link_instance_init(Object *obj)
{
    LINK_CHARDEV(obj)->stage = g_byte_array_new();
}

static void link_instance_finalize(Object *obj)
{
    g_byte_array_free(LINK_CHARDEV(obj)->stage, TRUE);
}

static void link_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->says_when_open = true;
    k->open = link_open;
    k->close = link_close;
    k->write = link_write;
    k->update_read = link_update_read;
    k->set_modem = link_set_modem;
    k->get_modem = link_get_modem;
    k->send_break = link_send_break;
}

static const TypeInfo link_info = {
    .name = TYPE_CHARDEV_LINK,
    .parent = TYPE_CHARDEV,
    .doc = "One end of a null-modem cable to another chardev of this type",
    .instance_size = sizeof(LinkChardev),
    .instance_init = link_instance_init,
    .instance_finalize = link_instance_finalize,
    .class_init = link_class_init,
};

static void register_link(void)
{
    type_register_static(&link_info);
}
type_init(register_link)
