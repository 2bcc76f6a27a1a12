/*
 * Socket addresses, Unix and TCP, and non-blocking sockets at them. Descriptors are close-on-exec;
 * on failure they are -1 and errno says why.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

typedef struct SocketAddr {
    struct sockaddr_storage sa;
    socklen_t len;
    bool v6only; /* listening: without IPv4 */
} SocketAddr;

/* Both append to an array of SocketAddr. */
bool socket_addrs_unix(GArray *addrs, const char *path, GError **error);
/* host NULL: this host, or all interfaces when `passive`. A number never asks a name server; a name
 * does, and the engine lock is dropped meanwhile: an error where that is refused. */
bool socket_addrs_tcp(GArray *addrs, const char *host, uint16_t port, int family, bool passive,
                      GError **error);

/* "unix:PATH", "tcp:127.0.0.1:80", "tcp:[::1]:80": this end's, or the other's; NULL without one.
 * The caller frees. */
char *socket_fd_address(int fd, bool peer);

/* A socket file that nobody listens on is replaced. */
int socket_listen(const SocketAddr *a);
/* Connected, or (*pending) on the way: then it becomes writable, and socket_error tells. */
int socket_connect(const SocketAddr *a, bool *pending);
int socket_error(int fd); /* an errno, 0: none */
