/*
 * What all character devices have in common: the two bounded queues, the log file, congestion, and
 * the calls between front end and back end.
 */
#include "engine/chardev/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

#define STALL_NS   NS_PER_SEC
#define MAX_BREAKS 64 /* waiting in the input queue; more are merged with the last */

size_t chardev_queued(const Chardev *chr)
{
    return chr->out->len - chr->priv->out_head;
}

const char *chardev_label(const Chardev *chr)
{
    if (chr->id) {
        return chr->id;
    }
    g_free(chr->priv->label);
    chr->priv->label = object_get_canonical_path(&chr->parent);
    return chr->priv->label ? chr->priv->label : object_get_typename(&chr->parent);
}

static void write_logfile(Chardev *chr, const uint8_t *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = write(chr->log_fd, buf, len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            log_warning("chardev '%s': log file '%s': %s; no longer written", chardev_label(chr),
                        chr->logfile, g_strerror(errno));
            close(chr->log_fd);
            chr->log_fd = -1;
            return;
        }
        buf += n;
        len -= (size_t)n;
    }
}

/* ---- from the guest to the outside -------------------------------------------------------- */

static void consume_out(Chardev *chr, size_t n)
{
    struct ChardevPriv *p = chr->priv;

    p->out_head += n;
    p->taken += n;
    if (p->out_head == chr->out->len) {
        g_byte_array_set_size(chr->out, 0);
        p->out_head = 0;
    } else if (p->out_head > chr->out->len / 2) {
        g_byte_array_remove_range(chr->out, 0, (guint)p->out_head);
        p->out_head = 0;
    }
}

static void drop_out(Chardev *chr)
{
    chr->bytes_dropped += chardev_queued(chr);
    g_byte_array_set_size(chr->out, 0);
    chr->priv->out_head = 0;
}

bool chardev_congested(const Chardev *chr)
{
    return chr && chr->priv->congested && !chr->priv->stalled;
}

static void arm_stall_timer(Chardev *chr)
{
    struct ChardevPriv *p = chr->priv;

    p->taken_mark = p->taken;
    timer_arm(&p->stall_timer, clock_now(clock_realtime()) + STALL_NS);
}

/* Brings the congestion state in line with the queue; tells the front end when it may go on. */
static void update_congestion(Chardev *chr)
{
    struct ChardevPriv *p = chr->priv;
    bool was = chardev_congested(chr);
    size_t queued = chardev_queued(chr);

    if (!p->congested && queued >= CHARDEV_CONGESTED) {
        p->congested = true;
        p->stalled = false;
        arm_stall_timer(chr);
    } else if (p->congested && queued <= CHARDEV_CONGESTED / 2) {
        p->congested = p->stalled = false;
        timer_disarm(&p->stall_timer);
    }
    if (was && !chardev_congested(chr) && chr->fe && chr->fe->writable) {
        chr->fe->writable(chr->fe_opaque);
    }
}

void chardev_stall_timer_fired(void *opaque)
{
    Chardev *chr = opaque;
    struct ChardevPriv *p = chr->priv;

    if (p->taken != p->taken_mark) {
        arm_stall_timer(chr);
        return;
    }
    log_mask(LOG_CHARDEV, "chardev '%s': the other end takes nothing, %zu bytes wait",
             chardev_label(chr), chardev_queued(chr));
    p->stalled = true;
    object_ref(chr);
    if (chr->fe && chr->fe->writable) {
        chr->fe->writable(chr->fe_opaque);
    }
    object_unref(chr);
}

/* As much as the outside takes now. */
void chardev_drain_out(Chardev *chr)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);

    while (chr->opened && chr->open && chardev_queued(chr) > 0) {
        ssize_t n = klass->write(chr, chr->out->data + chr->priv->out_head, chardev_queued(chr));

        if (n < 0) {
            drop_out(chr);
            break;
        }
        if (n == 0) {
            break;
        }
        consume_out(chr, (size_t)n);
    }
}

void chardev_can_write_again(Chardev *chr)
{
    uint64_t before = chr->priv->taken;

    chardev_drain_out(chr);
    if (chr->priv->stalled && chr->priv->taken != before) {
        chr->priv->stalled = false;
        if (chr->priv->congested) {
            arm_stall_timer(chr);
        }
    }
    update_congestion(chr);
}

static void write_or_queue(Chardev *chr, const uint8_t *buf, size_t len)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);
    size_t room;

    while (len > 0 && chardev_queued(chr) == 0) {
        ssize_t n = klass->write(chr, buf, len);

        if (n > 0) {
            chr->priv->taken += (size_t)n;
            buf += n;
            len -= (size_t)n;
        }
        if (n < 0 || !chr->opened) {
            chr->bytes_dropped += len;
            return;
        }
        if (n == 0) {
            break;
        }
    }
    room = CHARDEV_OUT_MAX - chardev_queued(chr);
    if (len > room) {
        log_mask(LOG_CHARDEV, "chardev '%s': %zu bytes dropped, its queue is full",
                 chardev_label(chr), len - room);
        chr->bytes_dropped += len - room;
        len = room;
    }
    if (len > 0) {
        g_byte_array_append(chr->out, buf, (guint)len);
        update_congestion(chr);
    }
}

void chardev_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    if (!chr || len == 0) {
        return;
    }
    object_ref(chr); /* a tap may close it and drop the last reference */
    chr->bytes_out += len;
    chardev_history_add(chr->priv, buf, len);
    if (chr->log_fd >= 0) {
        write_logfile(chr, buf, len);
    }
    chardev_call_taps(chr, buf, len, true);
    if (chr->opened && chr->open) {
        write_or_queue(chr, buf, len);
    } else {
        chr->bytes_dropped += len;
    }
    object_unref(chr);
}

bool chardev_flushed(const Chardev *chr)
{
    return !chr || chardev_queued(chr) == 0;
}

/* ---- from the outside to the guest -------------------------------------------------------- */

void chardev_update_read(Chardev *chr)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);

    if (chr->opened && klass->update_read) {
        klass->update_read(chr);
    }
}

static bool break_is_next(const struct ChardevPriv *p)
{
    return p->breaks->len > 0 && g_array_index(p->breaks, uint64_t, 0) <= p->in_base;
}

/* Gives the front end what it takes. A front end that writes from within (an echo over a cable to
 * itself) finds `receiving` set, so that the loop below does the rest and the stack stays flat. */
static void deliver(Chardev *chr)
{
    struct ChardevPriv *p = chr->priv;
    uint8_t buf[CHARDEV_IN_MAX];

    if (p->receiving) {
        return;
    }
    p->receiving = true;
    object_ref(chr);
    while (chr->fe && (chr->in->len > 0 || p->breaks->len > 0)) {
        size_t n = chr->fe->can_read ? chr->fe->can_read(chr->fe_opaque) : CHARDEV_IN_MAX;

        if (n == 0) {
            break;
        }
        if (break_is_next(p)) {
            g_array_remove_index(p->breaks, 0);
            if (chr->fe->event) {
                chr->fe->event(chr->fe_opaque, CHARDEV_BREAK);
            }
            continue;
        }
        n = MIN(n, chr->in->len);
        if (p->breaks->len > 0) {
            n = MIN(n, g_array_index(p->breaks, uint64_t, 0) - p->in_base);
        }
        memcpy(buf, chr->in->data, n);
        g_byte_array_remove_range(chr->in, 0, (guint)n);
        p->in_base += n;
        if (chr->fe->read) {
            chr->fe->read(chr->fe_opaque, buf, n);
        }
    }
    p->receiving = false;
    chardev_update_read(chr);
    object_unref(chr);
}

size_t chardev_receive_room(Chardev *chr)
{
    return CHARDEV_IN_MAX - chr->in->len;
}

void chardev_receive(Chardev *chr, const uint8_t *buf, size_t len)
{
    size_t room;

    object_ref(chr);
    chardev_call_taps(chr, buf, len, false);
    while (len > 0) {
        room = chardev_receive_room(chr);
        if (room == 0 || !chr->opened) {
            log_mask(LOG_CHARDEV, "chardev '%s': %zu received bytes dropped", chardev_label(chr),
                     len);
            chr->bytes_dropped += len;
            break;
        }
        room = MIN(room, len);
        g_byte_array_append(chr->in, buf, (guint)room);
        chr->bytes_in += room;
        buf += room;
        len -= room;
        deliver(chr);
    }
    object_unref(chr);
}

void chardev_accept_input(Chardev *chr)
{
    if (chr) {
        deliver(chr);
    }
}

void chardev_event(Chardev *chr, ChardevEvent event)
{
    uint64_t at = chr->priv->in_base + chr->in->len;

    switch (event) {
    case CHARDEV_BREAK:
        if (chr->priv->breaks->len < MAX_BREAKS && chr->fe) {
            g_array_append_val(chr->priv->breaks, at);
            deliver(chr);
        }
        return;
    case CHARDEV_OPENED:
        if (chr->open) {
            return;
        }
        chr->open = true;
        break;
    case CHARDEV_CLOSED:
        if (!chr->open) {
            return;
        }
        chr->open = false;
        drop_out(chr);
        update_congestion(chr);
        break;
    case CHARDEV_MODEM:
        break;
    }
    if (chr->fe && chr->fe->event) {
        chr->fe->event(chr->fe_opaque, event);
    }
}

/* ---- front ends --------------------------------------------------------------------------- */

bool chardev_attach(Chardev *chr, const ChardevHandlers *handlers, void *opaque, GError **error)
{
    if (!handlers) {
        chardev_detach(chr);
        return true;
    }
    if (OBJECT(chr)->gone) {
        return error_set(error, ENGINE_ERROR_GONE, "chardev '%s' is gone", chardev_label(chr));
    }
    if (chr->fe) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "chardev '%s' is in use already: one device at a time",
                         chardev_label(chr));
    }
    chr->fe = handlers;
    chr->fe_opaque = opaque;
    if (chr->open && handlers->event) {
        handlers->event(opaque, CHARDEV_OPENED);
    }
    deliver(chr);
    return true;
}

void chardev_detach(Chardev *chr)
{
    chr->fe = NULL;
    chr->fe_opaque = NULL;
    g_array_set_size(chr->priv->breaks, 0);
}

void chardev_set_serial_params(Chardev *chr, const ChardevSerialParams *p)
{
    if (chr && chr->opened && CHARDEV_GET_CLASS(chr)->set_params) {
        CHARDEV_GET_CLASS(chr)->set_params(chr, p);
    }
}

void chardev_set_modem(Chardev *chr, unsigned tiocm)
{
    if (chr && chr->opened && CHARDEV_GET_CLASS(chr)->set_modem) {
        CHARDEV_GET_CLASS(chr)->set_modem(chr, tiocm & (CHARDEV_TIOCM_DTR | CHARDEV_TIOCM_RTS));
    }
}

unsigned chardev_get_modem(Chardev *chr)
{
    if (!chr || !chr->opened) {
        return 0;
    }
    if (CHARDEV_GET_CLASS(chr)->get_modem) {
        return CHARDEV_GET_CLASS(chr)->get_modem(chr);
    }
    return CHARDEV_TIOCM_CTS | CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD;
}

void chardev_send_break(Chardev *chr, bool on)
{
    if (chr && chr->opened && CHARDEV_GET_CLASS(chr)->send_break) {
        CHARDEV_GET_CLASS(chr)->send_break(chr, on);
    }
}
