/*
 * "nbd": connections: making one, taking what the server offers, making another when it goes.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "engine/block/nbd_priv.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

#define DEFAULT_PORT   "10809"
#define PART_MAX       (32 * MiB) /* what every server has to take */
#define FIRST_RETRY_MS 100
#define LAST_RETRY_MS  5000
#define MAX_TIMEOUT    (24 * 3600)

static bool nbd_failed(const BlockNbd *s, GError **error)
{
    const char *why = libnbd.get_error();

    return error_set(error, ENGINE_ERROR_INVALID, "nbd '%s': %s", block_node_name(&s->parent),
                     why ? why : "failed");
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool set_text(BlockNode *node, const char *key, const char *from, const char *to,
                     GError **error)
{
    char *text = to ? g_strndup(from, (gsize)(to - from)) : g_strdup(from);
    bool ok = object_property_set_str(OBJECT(node), key, text, error);

    g_free(text);
    return ok;
}

/* QEMU's older way: nbd:unix:PATH[:exportname=NAME], nbd:HOST:PORT[:exportname=NAME] */
static bool parse_old(BlockNode *node, const char *rest, GError **error)
{
    const char *name = strstr(rest, ":exportname="), *end = name ? name : rest + strlen(rest);
    const char *colon;

    if (name && !set_text(node, "export", name + strlen(":exportname="), NULL, error)) {
        return false;
    }
    if (g_str_has_prefix(rest, "unix:")) {
        return set_text(node, "server.path", rest + 5, end, error);
    }
    colon = end > rest ? end - 1 : rest;
    while (colon > rest && *colon != ':') {
        colon--;
    }
    if (colon == rest || colon + 1 >= end) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "'nbd:%s': expected nbd:HOST:PORT or nbd:unix:PATH, or a URI as nbd://…",
                         rest);
    }
    if (*rest == '[' && colon[-1] == ']') {
        return set_text(node, "server.host", rest + 1, colon - 1, error) &&
               set_text(node, "server.port", colon + 1, end, error);
    }
    return set_text(node, "server.host", rest, colon, error) &&
           set_text(node, "server.port", colon + 1, end, error);
}

bool nbd_parse_filename(BlockNode *node, const char *filename, GError **error)
{
    bool ok = g_str_has_prefix(filename, "nbd:") && !g_str_has_prefix(filename, "nbd://")
                  ? parse_old(node, filename + 4, error)
                  : object_property_set_str(OBJECT(node), "uri", filename, error);

    if (ok) {
        g_free(node->filename);
        node->filename = g_strdup(filename);
    }
    return ok;
}

/* ---- a connection ---------------------------------------------------------------------------- */

static bool set_up_tls(BlockNbd *s, struct nbd_handle *h)
{
    bool asked = s->tls || s->tls_certificates || s->tls_psk_file;

    return (!asked || libnbd.set_tls(h, LIBNBD_TLS_REQUIRE) == 0) &&
           (!s->tls_certificates || libnbd.set_tls_certificates(h, s->tls_certificates) == 0) &&
           (!s->tls_psk_file || libnbd.set_tls_psk_file(h, s->tls_psk_file) == 0) &&
           (!s->tls_username || libnbd.set_tls_username(h, s->tls_username) == 0) &&
           libnbd.set_tls_verify_peer(h, s->tls_verify_peer) == 0;
}

static bool start_connect(BlockNbd *s, struct nbd_handle *h)
{
    if (s->uri) {
        return libnbd.set_uri_allow_local_file(h, true) == 0 &&
               libnbd.aio_connect_uri(h, s->uri) == 0;
    }
    if (s->path) {
        return libnbd.aio_connect_unix(h, s->path) == 0;
    }
    return libnbd.aio_connect_tcp(h, s->host, s->port ? s->port : DEFAULT_PORT) == 0;
}

struct nbd_handle *nbd_begin(BlockNbd *s, GError **error)
{
    struct nbd_handle *h = libnbd.create();

    if (h && libnbd.add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 &&
        (!s->export_name || libnbd.set_export_name(h, s->export_name) == 0) && set_up_tls(s, h) &&
        start_connect(s, h)) {
        return h;
    }
    nbd_failed(s, error);
    libnbd.close(h);
    return NULL;
}

static uint64_t block_size(struct nbd_handle *h, int which, uint64_t def)
{
    int64_t n = libnbd.get_block_size(h, which);

    return n > 0 ? (uint64_t)n : def;
}

bool nbd_take_export(BlockNbd *s, struct nbd_handle *h, bool again, GError **error)
{
    BlockNode *node = &s->parent;
    int64_t size = libnbd.get_size(h);
    uint64_t align = block_size(h, LIBNBD_SIZE_MINIMUM, 1);
    bool read_only = libnbd.is_read_only(h) == 1;

    if (size < 0) {
        return nbd_failed(s, error);
    }
    if ((uint64_t)size > BLOCK_MAX_BYTES || align > 64 * KiB || (align & (align - 1))) {
        return error_set(error, ENGINE_ERROR_LIMIT,
                         "nbd '%s': the server's disk has %" G_GINT64_FORMAT
                         " bytes in blocks of %" G_GUINT64_FORMAT,
                         block_node_name(node), size, align);
    }
    if (again && ((uint64_t)size != block_node_length(node) || (read_only && !node->read_only) ||
                  align > node->align)) {
        return error_set(error, ENGINE_ERROR_INVALID, "nbd '%s': the server has another disk now",
                         block_node_name(node));
    }
    if (read_only && !node->read_only) {
        if (!node->auto_read_only) {
            return error_set(error, ENGINE_ERROR_INVALID, "nbd '%s' is read-only",
                             block_node_name(node));
        }
        node->read_only = true;
    }
    s->can_flush = libnbd.can_flush(h) == 1;
    s->can_fua = libnbd.can_fua(h) == 1;
    s->can_trim = libnbd.can_trim(h) == 1;
    s->can_zero = libnbd.can_zero(h) == 1;
    s->can_fast_zero = libnbd.can_fast_zero(h) == 1;
    s->can_status = libnbd.can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
    if (!again) {
        node->align = (uint32_t)align;
        __atomic_store_n(&node->length, (uint64_t)size, __ATOMIC_RELAXED);
    }
    s->part_max = MAX(CLAMP(block_size(h, LIBNBD_SIZE_MAXIMUM, PART_MAX), 4 * KiB, PART_MAX) &
                          ~(uint64_t)(node->align - 1),
                      node->align);
    return true;
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* One round of libnbd's state machine, by the socket's events. */
static bool move_on(struct nbd_handle *h, short events)
{
    unsigned direction = libnbd.aio_get_direction(h);

    if ((events & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ)) {
        return libnbd.aio_notify_read(h) == 0;
    }
    if ((events & (POLLOUT | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_WRITE)) {
        return libnbd.aio_notify_write(h) == 0;
    }
    return true;
}

static bool wait_for_handshake(BlockNbd *s, struct nbd_handle *h, GError **error)
{
    int64_t until = now_ms() + (int64_t)CLAMP(s->open_timeout, 1, MAX_TIMEOUT) * 1000;

    while (!libnbd.aio_is_ready(h)) {
        unsigned direction = libnbd.aio_get_direction(h);
        struct pollfd p = { .fd = libnbd.aio_get_fd(h) };
        int64_t left = until - now_ms();

        if (libnbd.aio_is_dead(h) || libnbd.aio_is_closed(h)) {
            return nbd_failed(s, error);
        }
        if (left <= 0) {
            return error_set(error, ENGINE_ERROR_INVALID,
                             "nbd '%s': the server has not answered for %u seconds",
                             block_node_name(&s->parent), s->open_timeout);
        }
        p.events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                           (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
        if (poll(&p, 1, (int)MIN(left, 1000)) > 0 && !move_on(h, p.revents)) {
            return nbd_failed(s, error);
        }
    }
    return true;
}

bool nbd_connect_now(BlockNbd *s, GError **error)
{
    bool unlocked = engine_unlocked_begin(NULL);
    struct nbd_handle *h = nbd_begin(s, error);
    bool ok = h && wait_for_handshake(s, h, error);

    if (unlocked) {
        engine_unlocked_end();
    }
    if (!ok || !nbd_take_export(s, h, false, error)) {
        libnbd.close(h);
        return false;
    }
    s->h = h;
    s->state = NBD_UP;
    return true;
}

/* ---- the watch ------------------------------------------------------------------------------- */

static void unwatch(BlockNbd *s)
{
    if (s->watch) {
        g_source_destroy(s->watch);
        g_source_unref(s->watch);
        s->watch = NULL;
    }
}

void nbd_drop(BlockNbd *s)
{
    struct nbd_handle *h = s->h;

    unwatch(s);
    s->h = NULL;
    s->state = NBD_DOWN;
    libnbd.close(h); /* what it still has comes back through the callbacks */
}

static void connected(BlockNbd *s)
{
    GError *error = NULL;

    if (!nbd_take_export(s, s->h, true, &error)) {
        log_warning("%s", error->message);
        g_error_free(error);
        nbd_lost(s, NULL);
        return;
    }
    s->state = NBD_UP;
    s->hopeless = false;
    timer_disarm(&s->give_up);
    log_warning("nbd '%s': connected again", block_node_name(&s->parent));
    nbd_send_waiting(s);
}

static gboolean ready(int fd, GIOCondition cond, void *opaque)
{
    BlockNbd *s = opaque;
    short events = (short)((cond & G_IO_IN ? POLLIN : 0) | (cond & G_IO_OUT ? POLLOUT : 0) |
                           (cond & (G_IO_HUP | G_IO_ERR | G_IO_NVAL) ? POLLHUP : 0));

    if (!s->h) {
        return G_SOURCE_CONTINUE;
    }
    if (!move_on(s->h, events)) {
        nbd_lost(s, libnbd.get_error());
    } else if (libnbd.aio_is_dead(s->h) || libnbd.aio_is_closed(s->h)) {
        nbd_lost(s, NULL);
    } else {
        if (s->state == NBD_CONNECTING && libnbd.aio_is_ready(s->h)) {
            connected(s);
        }
        nbd_rewatch(s);
    }
    return G_SOURCE_CONTINUE;
}

/* What the socket is watched for follows what libnbd wants. The source is made anew only when that
 * changes, which it does when the socket is full. */
void nbd_rewatch(BlockNbd *s)
{
    unsigned direction = s->h ? libnbd.aio_get_direction(s->h) : 0;
    GIOCondition cond = (GIOCondition)((direction & LIBNBD_AIO_DIRECTION_READ ? G_IO_IN : 0) |
                                       (direction & LIBNBD_AIO_DIRECTION_WRITE ? G_IO_OUT : 0));
    int fd = s->h ? libnbd.aio_get_fd(s->h) : -1;

    if (s->watch && s->watching == cond && s->watch_fd == fd) {
        return;
    }
    unwatch(s);
    if (fd >= 0 && cond) {
        s->watching = cond;
        s->watch_fd = fd;
        s->watch = main_loop_add_fd(fd, (GIOCondition)(cond | G_IO_HUP | G_IO_ERR), ready, s);
    }
}

/* ---- again ----------------------------------------------------------------------------------- */

void nbd_lost(BlockNbd *s, const char *why)
{
    if (s->state == NBD_UP) {
        log_warning("nbd '%s': the connection is gone%s%s", block_node_name(&s->parent),
                    why ? ": " : "", why ? why : "");
        s->retry_ms = FIRST_RETRY_MS;
        s->hopeless = s->reconnect_delay == 0;
        if (!s->hopeless) {
            timer_arm(&s->give_up, clock_now(clock_realtime()) +
                                       (int64_t)MIN(s->reconnect_delay, MAX_TIMEOUT) * NS_PER_SEC);
        }
    }
    nbd_drop(s);
    bh_schedule(s->bh);
    timer_arm(&s->retry, clock_now(clock_realtime()) + (int64_t)s->retry_ms * NS_PER_MS);
    s->retry_ms = MIN(s->retry_ms * 2, LAST_RETRY_MS);
}

void nbd_retry_timer(void *opaque)
{
    BlockNbd *s = opaque;

    if (s->state == NBD_CONNECTING) {
        nbd_lost(s, NULL); /* a server that does not answer */
        return;
    }
    s->h = nbd_begin(s, NULL);
    if (!s->h) {
        nbd_lost(s, NULL);
        return;
    }
    s->state = NBD_CONNECTING;
    timer_arm(&s->retry, clock_now(clock_realtime()) +
                             (int64_t)CLAMP(s->open_timeout, 1, MAX_TIMEOUT) * NS_PER_SEC);
    nbd_rewatch(s);
}

void nbd_give_up_timer(void *opaque)
{
    BlockNbd *s = opaque;

    s->hopeless = true;
    nbd_fail_waiting(s);
}
