/*
 * "socket": a Unix or TCP stream, as a server for one client at a time or as a client.
 *
 * A server takes the next client when the one before has gone. A client without `reconnect` must
 * reach the server when it is opened; with it, failing and losing the connection are tried again
 * every so often. Names are looked up once, when the chardev is opened.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/chardev/socket-addr.h"
#include "engine/core/error.h"
#include "engine/core/lock.h"
#include "engine/core/log.h"
#include "engine/core/units.h"

#define CONNECT_MS 10000 /* how long opening waits for a server to answer */

typedef struct SocketChardev {
    Chardev parent;
    /* properties */
    char *path, *host;
    uint16_t port;
    bool server, wait, nodelay, ipv4, ipv6;
    uint32_t reconnect, reconnect_ms;
    int32_t given_fd;

    GArray *addrs;
    unsigned next_addr; /* being tried */
    int listen_fd, connect_fd;
    GSource *listen_source, *connect_source;
    dev_t unix_dev; /* of the socket file that we made, to remove only that */
    ino_t unix_ino;
    bool unlink_path;
    Timer retry;
    ChardevFd conn;
    char *peer;
} SocketChardev;
OBJECT_DECLARE_TYPE(SocketChardev, ChardevClass, SOCKET_CHARDEV, TYPE_CHARDEV_SOCKET)

static void try_connect(SocketChardev *s);
static void listen_again(SocketChardev *s);

static char *wanted_address(const SocketChardev *s)
{
    if (s->path) {
        return g_strdup_printf("unix:%s", s->path);
    }
    if (s->given_fd >= 0) {
        return g_strdup_printf("fd:%d", s->given_fd);
    }
    return g_strdup_printf("tcp:%s:%u", s->host ? s->host : "", s->port);
}

/* ---- one connection ------------------------------------------------------------------------ */

static void drop_source(GSource **source)
{
    if (*source) {
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
    }
}

static uint64_t retry_ns(const SocketChardev *s)
{
    return s->reconnect_ms ? (uint64_t)s->reconnect_ms * NS_PER_MS
                           : (uint64_t)s->reconnect * NS_PER_SEC;
}

static void arm_retry(SocketChardev *s)
{
    if (s->parent.opened && retry_ns(s)) {
        timer_arm(&s->retry, clock_now(clock_realtime()) + (int64_t)retry_ns(s));
    }
}

static void disconnected(Chardev *chr)
{
    SocketChardev *s = SOCKET_CHARDEV(chr);

    chardev_fd_stop(&s->conn);
    g_clear_pointer(&s->peer, g_free);
    chardev_event(chr, CHARDEV_CLOSED);
    if (!chr->opened) {
        return;
    }
    if (s->listen_fd >= 0) {
        listen_again(s);
    } else {
        arm_retry(s);
    }
}

/* The caller holds a reference: what the front end does with the news may drop the last other. */
static void connected(SocketChardev *s, int fd)
{
    int on = 1;

    if (s->nodelay) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* refused by Unix sockets */
    }
    s->peer = socket_fd_address(fd, true);
    chardev_fd_start(&s->conn, &s->parent, fd, fd, disconnected, disconnected);
    log_mask(LOG_CHARDEV, "chardev '%s': connected to %s", chardev_label(&s->parent),
             s->peer ? s->peer : "a peer");
    chardev_event(&s->parent, CHARDEV_OPENED);
    chardev_fd_update_read(&s->conn); /* nothing if that has closed it */
}

/* ---- server ------------------------------------------------------------------------------- */

static gboolean client_came(int fd, GIOCondition cond, void *opaque)
{
    SocketChardev *s = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (client < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
            /* Out of descriptors or memory: it stays in the queue, asking again at once is no use.
             */
            log_warning("chardev '%s': a client was not accepted: %s", chardev_label(&s->parent),
                        g_strerror(errno));
            drop_source(&s->listen_source);
            timer_arm(&s->retry, clock_now(clock_realtime()) + NS_PER_SEC);
            return G_SOURCE_REMOVE;
        }
        return G_SOURCE_CONTINUE;
    }
    drop_source(&s->listen_source); /* the next one waits until this one has gone */
    object_ref(s);
    connected(s, client);
    object_unref(s);
    return G_SOURCE_REMOVE;
}

static void listen_again(SocketChardev *s)
{
    if (!s->listen_source) {
        s->listen_source = main_loop_add_fd(s->listen_fd, G_IO_IN, client_came, s);
    }
}

static void learn_port(SocketChardev *s)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    if (getsockname(s->listen_fd, (struct sockaddr *)&sa, &len) != 0) {
        return;
    }
    if (sa.ss_family == AF_INET) {
        s->port = ntohs(((struct sockaddr_in *)&sa)->sin_port);
    } else if (sa.ss_family == AF_INET6) {
        s->port = ntohs(((struct sockaddr_in6 *)&sa)->sin6_port);
    }
}

static bool wait_for_client(SocketChardev *s, GError **error)
{
    struct pollfd p = { .fd = s->listen_fd, .events = POLLIN };
    g_autofree char *address = socket_fd_address(s->listen_fd, false);
    int r, saved;

    log_warning("chardev '%s': waiting for a client on %s", chardev_label(&s->parent), address);
    /* One that went away before it was accepted was none. */
    while (s->parent.opened && !chardev_fd_started(&s->conn) && !timer_armed(&s->retry)) {
        if (!engine_unlocked_begin(error)) {
            g_prefix_error(error,
                           "chardev '%s': cannot wait for a client here (wait=off would not): ",
                           chardev_label(&s->parent));
            return false;
        }
        r = poll(&p, 1, -1);
        saved = errno;
        engine_unlocked_end();
        errno = saved;
        if (r < 0) {
            return error_set_errno(error, "chardev '%s': waiting for a client on %s",
                                   chardev_label(&s->parent), address);
        }
        if (s->listen_fd >= 0) {
            client_came(s->listen_fd, G_IO_IN, s);
        }
    }
    return true;
}

static bool start_server(SocketChardev *s, GError **error)
{
    Chardev *chr = &s->parent;
    struct stat st;

    for (unsigned i = 0; i < s->addrs->len && s->listen_fd < 0; i++) {
        s->listen_fd = socket_listen(&g_array_index(s->addrs, SocketAddr, i));
    }
    if (s->listen_fd < 0) {
        g_autofree char *address = wanted_address(s);

        return error_set_errno(error, "chardev '%s': cannot listen on %s", chardev_label(chr),
                               address);
    }
    if (s->path && stat(s->path, &st) == 0) {
        s->unix_dev = st.st_dev;
        s->unix_ino = st.st_ino;
        s->unlink_path = true;
    }
    learn_port(s);
    if (s->wait && !wait_for_client(s, error)) {
        return false;
    }
    if (s->listen_fd >= 0 && !chardev_fd_started(&s->conn)) {
        listen_again(s);
    }
    return true;
}

/* ---- client ------------------------------------------------------------------------------- */

/* 0, or the errno of the last address that was tried. */
static int connect_now(SocketChardev *s, GError **error)
{
    int last = ENOENT;

    for (unsigned i = 0; i < s->addrs->len; i++) {
        bool pending;
        int fd = socket_connect(&g_array_index(s->addrs, SocketAddr, i), &pending);
        struct pollfd p = { .fd = fd, .events = POLLOUT };

        if (fd < 0) {
            last = errno;
            continue;
        }
        if (pending && poll(&p, 1, 0) == 0) {
            if (!engine_unlocked_begin(error)) {
                close(fd);
                return -1;
            }
            int r = poll(&p, 1, CONNECT_MS);
            int saved = errno;
            engine_unlocked_end();
            if (r <= 0) {
                last = r == 0 ? ETIMEDOUT : saved;
                close(fd);
                continue;
            }
        }
        last = pending ? socket_error(fd) : 0;
        if (last == 0) {
            connected(s, fd);
            return 0;
        }
        close(fd);
    }
    return last;
}

static bool start_client(SocketChardev *s, GError **error)
{
    g_autofree char *address = wanted_address(s);
    int err;

    if (retry_ns(s)) {
        s->next_addr = 0;
        try_connect(s);
        return true;
    }
    err = connect_now(s, error);
    if (err > 0) {
        errno = err;
        return error_set_errno(error, "chardev '%s': cannot connect to %s",
                               chardev_label(&s->parent), address);
    }
    return err == 0;
}

static void connect_failed(SocketChardev *s, int err)
{
    log_mask(LOG_CHARDEV, "chardev '%s': connecting: %s", chardev_label(&s->parent),
             g_strerror(err));
    s->next_addr++;
}

static gboolean connect_done(int fd, GIOCondition cond, void *opaque)
{
    SocketChardev *s = opaque;
    int err = socket_error(fd);

    drop_source(&s->connect_source);
    s->connect_fd = -1;
    object_ref(s);
    if (err == 0) {
        connected(s, fd);
    } else {
        close(fd);
        connect_failed(s, err);
        try_connect(s);
    }
    object_unref(s);
    return G_SOURCE_REMOVE;
}

/* From next_addr on; after the last one, later from the first again. */
static void try_connect(SocketChardev *s)
{
    while (s->next_addr < s->addrs->len) {
        bool pending;
        int fd = socket_connect(&g_array_index(s->addrs, SocketAddr, s->next_addr), &pending);

        if (fd < 0) {
            connect_failed(s, errno);
        } else if (pending) {
            s->connect_fd = fd;
            s->connect_source = main_loop_add_fd(fd, G_IO_OUT | G_IO_ERR | G_IO_HUP, connect_done,
                                                 s);
            return;
        } else {
            connected(s, fd);
            return;
        }
    }
    s->next_addr = 0;
    arm_retry(s);
}

static void retry_fired(void *opaque)
{
    SocketChardev *s = opaque;

    object_ref(s);
    if (s->listen_fd >= 0) {
        listen_again(s);
    } else if (!chardev_fd_started(&s->conn) && s->connect_fd < 0) {
        s->next_addr = 0;
        try_connect(s);
    }
    object_unref(s);
}

/* ---- the chardev -------------------------------------------------------------------------- */

static bool adopt_fd(SocketChardev *s, GError **error)
{
    int listening = 0;
    socklen_t len = sizeof(listening);

    if (getsockopt(s->given_fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) != 0 ||
        !fd_set_nonblock(s->given_fd)) {
        return error_set_errno(error, "chardev '%s': fd %d", chardev_label(&s->parent),
                               s->given_fd);
    }
    if (listening) {
        s->listen_fd = s->given_fd;
        learn_port(s);
        listen_again(s);
    } else {
        connected(s, s->given_fd);
    }
    s->given_fd = -1; /* ours now, and gone when it is closed */
    return true;
}

static bool check_properties(const SocketChardev *s, GError **error)
{
    const char *label = chardev_label(&s->parent);
    int ways = (s->path != NULL) + (s->host != NULL || s->port != 0) + (s->given_fd >= 0);

    if (s->given_fd >= 0 && (s->server || s->reconnect || s->reconnect_ms)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "chardev '%s': %s says nothing about a socket that is open already", label,
                         s->server ? "server" : "reconnect");
    }
    if (ways != 1) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': %s", label,
                         ways ? "path, host and port, and fd exclude each other"
                              : "needs a path, a host and port, or an fd");
    }
    if (s->server && (s->reconnect || s->reconnect_ms)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "chardev '%s': reconnect is for clients, and server is on", label);
    }
    if (!s->ipv4 && !s->ipv6) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': ipv4 and ipv6 are both off",
                         label);
    }
    if (!s->path && s->given_fd < 0 && !s->server && s->port == 0) {
        return error_set(error, ENGINE_ERROR_INVALID, "chardev '%s': a client needs a port", label);
    }
    return true;
}

static bool find_addrs(SocketChardev *s, GError **error)
{
    const char *host = s->host && *s->host ? s->host : NULL;
    int family = !s->ipv6 ? AF_INET : !s->ipv4 ? AF_INET6 : AF_UNSPEC;

    if (s->path ? !socket_addrs_unix(s->addrs, s->path, error)
                : !socket_addrs_tcp(s->addrs, host, s->port, family, s->server, error)) {
        g_prefix_error(error, "chardev '%s': ", chardev_label(&s->parent));
        return false;
    }
    return true;
}

static void socket_close(Chardev *chr)
{
    SocketChardev *s = SOCKET_CHARDEV(chr);
    struct stat st;

    timer_disarm(&s->retry);
    drop_source(&s->listen_source);
    drop_source(&s->connect_source);
    chardev_fd_stop(&s->conn);
    if (s->connect_fd >= 0) {
        close(s->connect_fd);
        s->connect_fd = -1;
    }
    if (s->listen_fd >= 0) {
        shutdown(s->listen_fd, SHUT_RDWR); /* ends a wait for the first client */
        close(s->listen_fd);
        s->listen_fd = -1;
    }
    if (s->unlink_path && lstat(s->path, &st) == 0 && st.st_dev == s->unix_dev &&
        st.st_ino == s->unix_ino) {
        unlink(s->path);
    }
    s->unlink_path = false;
    g_array_set_size(s->addrs, 0);
    g_clear_pointer(&s->peer, g_free);
}

static bool socket_open(Chardev *chr, GError **error)
{
    SocketChardev *s = SOCKET_CHARDEV(chr);
    bool ok;

    if (!check_properties(s, error)) {
        return false;
    }
    if (s->given_fd >= 0) {
        return adopt_fd(s, error);
    }
    ok = find_addrs(s, error) && (s->server ? start_server(s, error) : start_client(s, error));
    if (ok && !chr->opened) {
        /* Closed by somebody else while the lock was dropped. */
        ok = error_set(error, ENGINE_ERROR_GONE, "chardev '%s' was closed", chardev_label(chr));
    }
    if (!ok) {
        socket_close(chr);
    }
    return ok;
}

static ssize_t socket_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    return chardev_fd_write(&SOCKET_CHARDEV(chr)->conn, buf, len);
}

static void socket_update_read(Chardev *chr)
{
    chardev_fd_update_read(&SOCKET_CHARDEV(chr)->conn);
}

static bool socket_wait_out(Chardev *chr, int ms)
{
    return chardev_fd_wait_out(&SOCKET_CHARDEV(chr)->conn, ms);
}

static bool get_address(Object *obj, const Property *prop, PropValue *out, GError **error)
{
    SocketChardev *s = SOCKET_CHARDEV(obj);

    out->kind = PROP_STRING;
    if (!strcmp(prop->name, "peer")) {
        out->string = g_strdup(s->peer);
    } else {
        out->string = s->listen_fd >= 0 ? socket_fd_address(s->listen_fd, false)
                                        : wanted_address(s);
    }
    return true;
}

static const Property socket_properties[] = {
    DEFINE_PROP_STRING("path", SocketChardev, path, "of a Unix socket"),
    DEFINE_PROP_STRING("host", SocketChardev, host,
                       "name or address; empty: this host (client), all interfaces (server)"),
    DEFINE_PROP_UINT16("port", SocketChardev, port, 0,
                       "TCP port; 0 for a server: chosen by the kernel, then to be read here"),
    DEFINE_PROP_BOOL("server", SocketChardev, server, false, "listen instead of connecting"),
    DEFINE_PROP_BOOL("wait", SocketChardev, wait, true,
                     "a server waits for its first client before anything else happens"),
    DEFINE_PROP_UINT32("reconnect", SocketChardev, reconnect, 0,
                       "seconds after which a client tries again; 0: it does not"),
    DEFINE_PROP_UINT32("reconnect-ms", SocketChardev, reconnect_ms, 0,
                       "the same in milliseconds, and stronger"),
    DEFINE_PROP_BOOL("nodelay", SocketChardev, nodelay, true, "send every byte at once"),
    DEFINE_PROP_BOOL("ipv4", SocketChardev, ipv4, true, "use IPv4"),
    DEFINE_PROP_BOOL("ipv6", SocketChardev, ipv6, true, "use IPv6"),
    DEFINE_PROP_INT32("fd", SocketChardev, given_fd, -1,
                      "a socket that is open already, connected or listening; it is taken over"),
    { .name = "address",
      .doc = "where it listens, or what it connects to",
      .kind = PROP_STRING,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_address },
    { .name = "peer",
      .doc = "who is connected",
      .kind = PROP_STRING,
      .offset = -1,
      .flags = PROP_READ_ONLY,
      .get = get_address },
};

static void socket_instance_init(Object *obj)
{
    SocketChardev *s = SOCKET_CHARDEV(obj);

    s->listen_fd = s->connect_fd = -1;
    s->addrs = g_array_new(FALSE, FALSE, sizeof(SocketAddr));
    timer_setup(&s->retry, clock_realtime(), retry_fired, s);
}

static void socket_instance_finalize(Object *obj)
{
    g_array_free(SOCKET_CHARDEV(obj)->addrs, TRUE);
}

static void socket_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->alias = "socket";
    k->says_when_open = true;
    k->open = socket_open;
    k->close = socket_close;
    k->write = socket_write;
    k->update_read = socket_update_read;
    k->wait_out = socket_wait_out;
    object_class_add_properties(klass, socket_properties, G_N_ELEMENTS(socket_properties));
}

static const TypeInfo socket_info = {
    .name = TYPE_CHARDEV_SOCKET,
    .parent = TYPE_CHARDEV,
    .doc = "A Unix or TCP stream, client or server",
    .instance_size = sizeof(SocketChardev),
    .instance_init = socket_instance_init,
    .instance_finalize = socket_instance_finalize,
    .class_init = socket_class_init,
};

static void register_socket(void)
{
    type_register_static(&socket_info);
}
type_init(register_socket)
