/* Listening in on a chardev: taps on the bytes as they pass, and the history of what has passed. */
#include <string.h>

#include "engine/chardev/chardev_priv.h"

typedef struct Tap {
    ChardevTap fn; /* NULL: removed while taps were being called */
    void *opaque;
} Tap;

void chardev_add_tap(Chardev *chr, ChardevTap fn, void *opaque)
{
    Tap *tap = g_new(Tap, 1);

    tap->fn = fn;
    tap->opaque = opaque;
    chr->taps = g_slist_append(chr->taps, tap);
}

static void sweep_taps(Chardev *chr)
{
    GSList **at = &chr->taps;

    while (*at) {
        Tap *tap = (*at)->data;

        if (tap->fn) {
            at = &(*at)->next;
        } else {
            *at = g_slist_delete_link(*at, *at);
            g_free(tap);
        }
    }
}

void chardev_remove_tap(Chardev *chr, ChardevTap fn, void *opaque)
{
    for (GSList *l = chr->taps; l; l = l->next) {
        Tap *tap = l->data;

        if (tap->fn == fn && tap->opaque == opaque) {
            tap->fn = NULL;
            if (chr->priv->tap_depth == 0) {
                sweep_taps(chr);
            } else {
                chr->priv->tap_holes = true;
            }
            return;
        }
    }
}

void chardev_call_taps(Chardev *chr, const uint8_t *buf, size_t len, bool from_guest)
{
    GSList *last = g_slist_last(chr->taps);

    if (!last) {
        return;
    }
    chr->priv->tap_depth++;
    /* Those that a tap adds have not asked for these bytes. Nothing leaves the list meanwhile. */
    for (GSList *l = chr->taps;; l = l->next) {
        Tap *tap = l->data;

        if (tap->fn) {
            tap->fn(tap->opaque, buf, len, from_guest);
        }
        if (l == last) {
            break;
        }
    }
    if (--chr->priv->tap_depth == 0 && chr->priv->tap_holes) {
        chr->priv->tap_holes = false;
        sweep_taps(chr);
    }
}

/* The bytes stay in one piece: they move down when the end of a buffer of twice the size is
 * reached, which is a copy of one byte a byte. The buffer grows with the first bytes. */
void chardev_history_add(struct ChardevPriv *p, const uint8_t *buf, size_t len)
{
    size_t keep;

    if (len > CHARDEV_HISTORY_MAX) {
        buf += len - CHARDEV_HISTORY_MAX;
        len = CHARDEV_HISTORY_MAX;
    }
    if (p->history_end + len > p->history_cap) {
        if (p->history_cap < 2 * CHARDEV_HISTORY_MAX) {
            p->history_cap = MAX(p->history_cap * 2, (size_t)1024);
            while (p->history_cap < p->history_end + len &&
                   p->history_cap < 2 * CHARDEV_HISTORY_MAX) {
                p->history_cap *= 2;
            }
            p->history = g_realloc(p->history, p->history_cap);
        }
        if (p->history_end + len > p->history_cap) {
            keep = MIN(p->history_end - p->history_start, CHARDEV_HISTORY_MAX - len);
            memmove(p->history, p->history + p->history_end - keep, keep);
            p->history_start = 0;
            p->history_end = keep;
        }
    }
    memcpy(p->history + p->history_end, buf, len);
    p->history_end += len;
    if (p->history_end - p->history_start > CHARDEV_HISTORY_MAX) {
        p->history_start = p->history_end - CHARDEV_HISTORY_MAX;
    }
}

const uint8_t *chardev_history(Chardev *chr, size_t *len)
{
    *len = chr->priv->history_end - chr->priv->history_start;
    return *len ? chr->priv->history + chr->priv->history_start : NULL;
}
