/* Character devices as objects: opening, closing, properties, the log file's descriptor. */
#include "engine/chardev/chardev.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/core/error.h"
#include "engine/core/units.h"

#define CLOSE_FLUSH_MS 500 /* how long closing waits for a slow reader */

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
    chardev_update_read(chr);
    return true;
}

/* The tail of what the guest said is worth a moment: `vmlua … | less`. */
static void flush_at_close(Chardev *chr)
{
    ChardevClass *klass = CHARDEV_GET_CLASS(chr);
    int64_t end = clock_now(clock_realtime()) + CLOSE_FLUSH_MS * NS_PER_MS;

    chardev_drain_out(chr);
    while (chr->open && chardev_queued(chr) > 0 && klass->wait_out && !chr->priv->stalled) {
        int64_t left = (end - clock_now(clock_realtime())) / NS_PER_MS;

        if (left <= 0 || !klass->wait_out(chr, (int)left)) {
            break;
        }
        chardev_drain_out(chr);
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
    timer_setup(&chr->priv->stall_timer, clock_realtime(), chardev_stall_timer_fired, chr);
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
