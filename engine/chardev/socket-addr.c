/* Socket addresses and the first steps with them: see socket-addr.h. */
#include "engine/chardev/socket-addr.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/core/error.h"
#include "engine/core/lock.h"

static char *addr_text(const struct sockaddr_storage *sa, socklen_t len)
{
    char host[INET6_ADDRSTRLEN + 1], port[8];

    if (sa->ss_family == AF_UNIX) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)sa;
        bool named = len > offsetof(struct sockaddr_un, sun_path) && un->sun_path[0];

        return named ? g_strdup_printf("unix:%s", un->sun_path) : g_strdup("unix:");
    }
    if (sa->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sa;

        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
            /* A client by IPv4 of a socket for both. */
            const uint8_t *b = in6->sin6_addr.s6_addr + 12;

            return g_strdup_printf("tcp:%u.%u.%u.%u:%u", b[0], b[1], b[2], b[3],
                                   ntohs(in6->sin6_port));
        }
    }
    if (getnameinfo((const struct sockaddr *)sa, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return g_strdup("unknown");
    }
    return g_strdup_printf(strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

char *socket_fd_address(int fd, bool peer)
{
    struct sockaddr_storage sa = { 0 };
    socklen_t len = sizeof(sa) - 1;
    int r = peer ? getpeername(fd, (struct sockaddr *)&sa, &len)
                 : getsockname(fd, (struct sockaddr *)&sa, &len);

    return r == 0 ? addr_text(&sa, len) : NULL;
}

bool socket_addrs_unix(GArray *addrs, const char *path, GError **error)
{
    SocketAddr a = { 0 };
    struct sockaddr_un *un = (struct sockaddr_un *)&a.sa;

    if (strlen(path) >= sizeof(un->sun_path)) {
        return error_set(error, ENGINE_ERROR_INVALID,
                         "path '%s' is longer than the %zu bytes a Unix socket's name may have",
                         path, sizeof(un->sun_path) - 1);
    }
    un->sun_family = AF_UNIX;
    strcpy(un->sun_path, path);
    a.len = sizeof(*un);
    g_array_append_val(addrs, a);
    return true;
}

bool socket_addrs_tcp(GArray *addrs, const char *host, uint16_t port_number, int family,
                      bool passive, GError **error)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_family = family };
    struct addrinfo *list = NULL;
    char port[8];
    int r;

    hints.ai_flags = AI_NUMERICSERV | AI_NUMERICHOST | (passive ? AI_PASSIVE : 0);
    snprintf(port, sizeof(port), "%u", port_number);
    r = getaddrinfo(host, port, &hints, &list);
    if (r == EAI_NONAME && host) {
        hints.ai_flags &= ~AI_NUMERICHOST;
        if (!engine_unlocked_begin(error)) {
            return false;
        }
        r = getaddrinfo(host, port, &hints, &list);
        engine_unlocked_end();
    }
    if (r != 0) {
        return error_set(error, ENGINE_ERROR_IO, "host '%s': %s", host ? host : "",
                         gai_strerror(r));
    }
    for (struct addrinfo *i = list; i; i = i->ai_next) {
        SocketAddr a = { .len = i->ai_addrlen };
        /* One socket can listen on all interfaces of both kinds, and it is IPv6's. */
        bool both = passive && !host && family == AF_UNSPEC && i->ai_family == AF_INET6;

        a.v6only = !both;
        if (i->ai_addrlen <= sizeof(a.sa)) {
            memcpy(&a.sa, i->ai_addr, i->ai_addrlen);
            if (both) {
                g_array_prepend_val(addrs, a);
            } else {
                g_array_append_val(addrs, a);
            }
        }
    }
    freeaddrinfo(list);
    return true;
}

/* A socket file that nobody listens on is left over from a process that crashed. */
static void remove_stale(const SocketAddr *a)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)&a->sa;
    struct stat st;
    int fd;

    if (lstat(un->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) {
        return;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return;
    }
    if (connect(fd, (const struct sockaddr *)&a->sa, a->len) != 0 && errno == ECONNREFUSED) {
        unlink(un->sun_path);
    }
    close(fd);
}

int socket_listen(const SocketAddr *a)
{
    int on = 1, fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return -1;
    }
    if (a->sa.ss_family == AF_UNIX) {
        remove_stale(a);
    } else {
        int v6only = a->v6only;

        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (a->sa.ss_family == AF_INET6) {
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
        }
    }
    if (bind(fd, (const struct sockaddr *)&a->sa, a->len) != 0 || listen(fd, 1) != 0) {
        int saved = errno;

        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

int socket_connect(const SocketAddr *a, bool *pending)
{
    int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    *pending = false;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&a->sa, a->len) == 0) {
        return fd;
    }
    /* A Unix server whose backlog is full gives EAGAIN: there is nothing to wait for, only to try
     * again. */
    if (errno == EINPROGRESS) {
        *pending = true;
        return fd;
    }
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

int socket_error(int fd)
{
    int err = 0;
    socklen_t len = sizeof(err);

    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 ? err : errno;
}
