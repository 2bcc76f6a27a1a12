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

#define STALL_NS       NS_PER_SEC
#define MAX_BREAKS     64  /* waiting in the input queue; more are merged with the last */
#define CLOSE_FLUSH_MS 500 /* how long closing waits for a slow reader */

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

static void stall_timer_fired(void *opaque)
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
static void drain_out(Chardev *chr)
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

    drain_out(chr);
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

static void update_read(Chardev *chr)
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
    update_read(chr);
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

/* ---- life cycle --------------------------------------------------------------------------- */

static bool open_logfile(Chardev *chr, GError **error)
{
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    if (!chr->logfile) {
        return true;
    }
    flags |= chr->logappend ? O_APPEND : O_TRUNC;
    chr->log_fd = open(chr->logfile, flags, 0666);
    if (chr->log_fd < 0) {
        return error_set_errno(error, "chardev '%s': log file '%s'", chardev_label(chr),
                               chr->logfile);
    }
    return true;
}

/* A pipe or socket whose reader went away is an event of one chardev, not the end of the process.
 */
static void ignore_sigpipe(void)
{
    struct sigaction now;

    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
        now.sa_handler = SIG_IGN;
        sigaction(SIGPIPE, &now, NULL);
    }
}

bool chardev_open(Chardev *chr, GError **error)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);

    if (chr->opened) {
        return error_set(error, ENGINE_ERROR_BUSY, "chardev '%s' is open already",
                         chardev_label(chr));
    }
    if (OBJECT(chr)->gone) {
        return error_set(error, ENGINE_ERROR_GONE, "chardev '%s' is gone", chardev_label(chr));
    }
    if (!object_check_required(OBJECT(chr), error)) {
        return false;
    }
    ignore_sigpipe();
    if (!open_logfile(chr, error)) {
        return false;
    }
    chr->opened = true;
    OBJECT(chr)->realized = true;
    if (klass->open && !klass->open(chr, error)) {
        chr->opened = chr->open = false;
        OBJECT(chr)->realized = false;
        if (chr->log_fd >= 0) {
            close(chr->log_fd);
            chr->log_fd = -1;
        }
        return false;
    }
    if (!klass->says_when_open) {
        chardev_event(chr, CHARDEV_OPENED);
    }
    update_read(chr);
    return true;
}

/* The tail of what the guest said is worth a moment: `vmlua … | less`. */
static void flush_at_close(Chardev *chr)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);
    int64_t end = clock_now(clock_realtime()) + CLOSE_FLUSH_MS * NS_PER_MS;

    drain_out(chr);
    while (chr->open && chardev_queued(chr) > 0 && klass->wait_out && !chr->priv->stalled) {
        int64_t left = (end - clock_now(clock_realtime())) / NS_PER_MS;

        if (left <= 0 || !klass->wait_out(chr, (int)left)) {
            break;
        }
        drain_out(chr);
    }
}

void chardev_close(Chardev *chr)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);

    if (!chr->opened) {
        return;
    }
    flush_at_close(chr);
    chr->opened = false;
    if (klass->close) {
        klass->close(chr);
    }
    chardev_event(chr, CHARDEV_CLOSED);
    timer_disarm(&chr->priv->stall_timer);
    chr->priv->congested = chr->priv->stalled = false;
    chr->priv->in_base += chr->in->len;
    g_byte_array_set_size(chr->in, 0);
    g_array_set_size(chr->priv->breaks, 0);
    if (chr->log_fd >= 0) {
        close(chr->log_fd);
        chr->log_fd = -1;
    }
    OBJECT(chr)->realized = false;
}

static void chardev_unparent(Object *obj)
{
    chardev_close(CHARDEV(obj));
}

static void chardev_instance_init(Object *obj)
{
    Chardev *chr = CHARDEV(obj);

    chr->log_fd = -1;
    chr->out = g_byte_array_new();
    chr->in = g_byte_array_new();
    chr->priv = g_new0(struct ChardevPriv, 1);
    chr->priv->breaks = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    timer_setup(&chr->priv->stall_timer, clock_realtime(), stall_timer_fired, chr);
}

static void chardev_instance_finalize(Object *obj)
{
    Chardev *chr = CHARDEV(obj);

    g_slist_free_full(chr->taps, g_free);
    g_byte_array_free(chr->out, TRUE);
    g_byte_array_free(chr->in, TRUE);
    g_array_free(chr->priv->breaks, TRUE);
    g_free(chr->priv->history);
    g_free(chr->priv->label);
    g_free(chr->priv);
}

static bool get_counter(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    Chardev *chr = CHARDEV(obj);
    const char *which = prop->opaque;

    out->kind = PROP_UINT;
    out->uinteger = !strcmp(which, "in")      ? chr->bytes_in
                    : !strcmp(which, "out")   ? chr->bytes_out
                    : !strcmp(which, "queue") ? chardev_queued(chr)
                                              : chr->bytes_dropped;
    return true;
}

static bool get_connected(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    out->kind = PROP_BOOL;
    out->boolean = CHARDEV(obj)->open;
    return true;
}

#define COUNTER(_name, _which, _doc)                                                 \
    {                                                                                \
        .name = (_name), .doc = (_doc), .kind = PROP_UINT, .bits = 64, .offset = -1, \
        .flags = PROP_READ_ONLY, .get = get_counter, .opaque = (_which)              \
    }
static const Property chardev_properties[] = {
    DEFINE_PROP_STRING("id", Chardev, id, "the name that devices refer to it by"),
    DEFINE_PROP_STRING("logfile", Chardev, logfile,
                       "a file that gets a copy of what the guest writes"),
    DEFINE_PROP_BOOL("logappend", Chardev, logappend, false,
                     "keep what the log file holds already"),
    { .name = "connected",
      .doc = "somebody is at the other end",
      .kind = PROP_BOOL,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_connected },
    COUNTER("bytes-out", "out", "bytes the guest has written"),
    COUNTER("bytes-in", "in", "bytes that came from outside"),
    COUNTER("bytes-dropped", "dropped", "bytes lost because nobody took them"),
    COUNTER("bytes-queued", "queue", "bytes the guest wrote that wait to be taken"),
};

static void chardev_class_init(ObjectClass *klass, const void *data)
{
    klass->unparent = chardev_unparent;
    object_class_add_properties(klass, chardev_properties, G_N_ELEMENTS(chardev_properties));
}

static const TypeInfo chardev_info = {
    .name = TYPE_CHARDEV,
    .parent = TYPE_OBJECT,
    .doc = "The outside end of a byte stream that a device in the machine reads and writes",
    .instance_size = sizeof(Chardev),
    .instance_init = chardev_instance_init,
    .instance_finalize = chardev_instance_finalize,
    .class_size = sizeof(ChardevClass),
    .class_init = chardev_class_init,
    .abstract = true,
};

static void register_chardev(void)
{
    type_register_static(&chardev_info);
}
type_init(register_chardev)
