/* Character devices that are sockets. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/core/lock.h"
#include "tests/unit/chardev_rig.h"

/* ---- sockets ------------------------------------------------------------------------------- */

static int connect_unix(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    if (connect(fd, (struct sockaddr *)&un, sizeof(un)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int listen_unix(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    ck_assert_int_eq(listen(fd, 4), 0);
    return fd;
}

START_TEST(a_unix_server_takes_one_client_after_the_other)
{
    g_autofree char *path = in_folder("sock");
    Chardev *chr = make("unix:%s,server=on,wait=off", path);
    Front *f = front_new(chr);
    int a, b;

    put(chr, "too early");
    a = connect_unix(path);
    LOOP_UNTIL(chr->open);
    b = connect_unix(path); /* waits its turn */
    put(chr, "one");
    ck_reads(a, "one");
    send_text(a, "abc");
    LOOP_UNTIL(front_has(f, "abc"));
    close(a);
    LOOP_UNTIL(f->events->len == 3);
    ck_assert_str_eq(f->events->str, "OCO");
    put(chr, "two");
    ck_reads(b, "two");
    send_text(b, "def");
    close(b);
    LOOP_UNTIL(front_has(f, "abcdef") && !chr->open);
    end(chr, f);
    ck_assert(!g_file_test(path, G_FILE_TEST_EXISTS));
}
END_TEST

START_TEST(a_stale_socket_file_is_replaced_and_a_live_one_is_not)
{
    g_autofree char *path = in_folder("sock");
    g_autofree char *text = g_strdup_printf("unix:%s,server,nowait", path);
    g_autofree char *file = in_folder("file");
    g_autofree char *on_file = g_strdup_printf("unix:%s,server,nowait", file);
    Chardev *chr;

    close(listen_unix(path));
    chr = make("%s", text);
    refused(text, path);
    end(chr, NULL);
    ck_assert(g_file_set_contents(file, "precious", -1, NULL));
    refused(on_file, file);
    ck_assert(g_file_test(file, G_FILE_TEST_IS_REGULAR));
}
END_TEST

START_TEST(a_path_too_long_for_a_socket_is_refused)
{
    g_autofree char *name = g_strnfill(200, 'x');
    g_autofree char *text = g_strdup_printf("unix:/tmp/%s,server,nowait", name);

    refused(text, "longer");
}
END_TEST

static int connect_tcp(uint16_t port)
{
    struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons(port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    return fd;
}

START_TEST(a_tcp_port_of_0_is_chosen_and_told)
{
    Chardev *chr = make("tcp:127.0.0.1:0,server=on,wait=off");
    Front *f = front_new(chr);
    uint64_t port = object_property_get_uint(OBJECT(chr), "port", NULL);
    g_autofree char *address = prop(chr, "address");
    g_autofree char *expected = g_strdup_printf("tcp:127.0.0.1:%u", (unsigned)port);
    g_autofree char *peer = NULL;
    Chardev *client;
    int fd;

    ck_assert_uint_ne(port, 0);
    ck_assert_str_eq(address, expected);
    fd = connect_tcp((uint16_t)port);
    LOOP_UNTIL(chr->open);
    peer = prop(chr, "peer");
    ck_assert(g_str_has_prefix(peer, "tcp:127.0.0.1:"));
    put(chr, "x");
    ck_reads(fd, "x");
    close(fd);
    LOOP_UNTIL(!chr->open);
    /* And our own client to our own server. */
    client = make("tcp:127.0.0.1:%u", (unsigned)port);
    LOOP_UNTIL(chr->open && client->open);
    put(client, "from client");
    LOOP_UNTIL(front_has(f, "from client"));
    end(client, NULL);
    end(chr, f);
}
END_TEST

START_TEST(a_client_without_a_server_is_refused)
{
    g_autofree char *path = in_folder("nobody");
    g_autofree char *text = g_strdup_printf("unix:%s", path);

    refused(text, path);
    refused("tcp:127.0.0.1:1", "tcp:127.0.0.1:1");
    refused("tcp::0", "port");
}
END_TEST

START_TEST(a_reconnecting_client_finds_a_server_that_comes_later_and_again)
{
    g_autofree char *path = in_folder("late");
    Chardev *chr = make("socket,path=%s,reconnect-ms=20", path);
    Front *f = front_new(chr);
    int listener, fd;

    ck_assert(!chr->open);
    put(chr, "dropped");
    ck_assert_uint_eq(chr->bytes_dropped, 7);
    listener = listen_unix(path);
    for (int i = 0; i < 2; i++) {
        LOOP_UNTIL(chr->open);
        fd = accept(listener, NULL, NULL);
        put(chr, "here");
        ck_reads(fd, "here");
        close(fd);
        LOOP_UNTIL(!chr->open);
    }
    ck_assert_str_eq(f->events->str, "OCOC");
    close(listener);
    end(chr, f);
}
END_TEST

static bool connects(int family, uint16_t port)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } u = { .sa.sa_family = (sa_family_t)family };
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok;

    if (family == AF_INET) {
        u.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        u.in.sin_port = htons(port);
    } else {
        u.in6.sin6_addr = in6addr_loopback;
        u.in6.sin6_port = htons(port);
    }
    ok = connect(fd, &u.sa, family == AF_INET ? sizeof(u.in) : sizeof(u.in6)) == 0;
    close(fd);
    return ok;
}

static bool has_ipv6(void)
{
    struct sockaddr_in6 sin6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&sin6, sizeof(sin6)) == 0;

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

START_TEST(a_server_without_a_host_listens_on_all_interfaces)
{
    static const struct {
        const char *options;
        bool v4, v6;
    } cases[] = { { "", true, true }, { ",ipv4=off", false, true }, { ",ipv6=off", true, false } };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        Chardev *chr;
        uint16_t port;

        if (cases[i].v6 && !has_ipv6()) {
            continue;
        }
        chr = make("tcp::0,server,nowait%s", cases[i].options);
        port = (uint16_t)object_property_get_uint(OBJECT(chr), "port", NULL);
        ck_assert_msg(connects(AF_INET, port) == cases[i].v4, "'%s'", cases[i].options);
        ck_assert_msg(connects(AF_INET6, port) == cases[i].v6, "'%s'", cases[i].options);
        end(chr, NULL);
    }
}
END_TEST

static void *close_it(void *chr)
{
    engine_lock();
    chardev_close(chr);
    engine_unlock();
    return NULL;
}

START_TEST(a_server_that_waits_for_its_client_can_be_closed)
{
    g_autofree char *path = in_folder("sock");
    g_autofree char *text = g_strdup_printf("unix:%s,server", path);
    g_autoptr(GError) error = NULL;
    Chardev *chr = chardev_parse(text, &error);
    pthread_t thread;

    ck_assert_int_eq(pthread_create(&thread, NULL, close_it, chr), 0);
    /* The lock is ours until the wait begins. */
    ck_assert(!chardev_open(chr, &error));
    ck_assert_msg(strstr(error->message, "was closed") != NULL, "%s", error->message);
    ck_assert(engine_unlocked_begin(NULL));
    pthread_join(thread, NULL);
    engine_unlocked_end();
    object_unref(chr);
}
END_TEST

START_TEST(a_socket_may_be_given_by_number)
{
    Chardev *chr;
    Front *f;
    int sv[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    chr = make("socket,fd=%d", sv[0]);
    f = front_new(chr);
    put(chr, "ping");
    ck_reads(sv[1], "ping");
    send_text(sv[1], "pong");
    LOOP_UNTIL(front_has(f, "pong"));
    close(sv[1]);
    LOOP_UNTIL(!chr->open);
    end(chr, f);
    refused("socket,fd=999", "999");
    refused("socket,fd=0x7fffffff", "fd");
    refused("socket,fd=0,reconnect=1", "reconnect");
    refused("socket,fd=0,server=on", "server");
}
END_TEST

START_TEST(a_peer_that_vanishes_while_bytes_are_written_ends_the_connection_only)
{
    Chardev *chr;
    Front *f;
    int sv[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    chr = make("socket,fd=%d", sv[0]);
    f = front_new(chr);
    close(sv[1]);
    for (int i = 0; i < 100; i++) {
        put(chr, "into the void");
    }
    LOOP_UNTIL(!chr->open);
    put(chr, "still alive");
    ck_assert_str_eq(f->events->str, "OC");
    end(chr, f);
}
END_TEST

static void *late_client(void *path)
{
    int fd = -1;

    while (fd < 0) {
        fd = connect_unix(path);
    }
    return GINT_TO_POINTER(fd);
}

START_TEST(a_server_with_wait_on_waits_for_its_client)
{
    g_autofree char *path = in_folder("sock");
    pthread_t thread;
    Chardev *chr;
    void *fd;

    ck_assert_int_eq(pthread_create(&thread, NULL, late_client, path), 0);
    chr = make("unix:%s,server", path);
    ck_assert(chr->open);
    pthread_join(thread, &fd);
    put(chr, "welcome");
    ck_reads(GPOINTER_TO_INT(fd), "welcome");
    close(GPOINTER_TO_INT(fd));
    end(chr, NULL);
}
END_TEST

START_TEST(a_slow_peer_congests_and_still_gets_every_byte_in_order)
{
    Chardev *chr;
    Front *f;
    size_t sent;
    g_autofree char *got = NULL;
    int sv[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    chr = make("socket,fd=%d", sv[0]);
    f = front_new(chr);
    sent = congest(chr);
    ck_assert(!chardev_flushed(chr));
    ck_assert_uint_eq(f->writable, 0);
    got = read_all(sv[1], sent);
    ck_assert_uint_ge(f->writable, 1);
    ck_assert(chardev_flushed(chr));
    ck_assert(!chardev_congested(chr));
    ck_assert_uint_eq(chr->bytes_dropped, 0);
    for (size_t at = 0; at < sent;) {
        char expected[64];

        snprintf(expected, sizeof(expected), "line %zu\n", at);
        ck_assert_mem_eq(got + at, expected, strlen(expected));
        at += strlen(expected);
    }
    close(sv[1]);
    end(chr, f);
}
END_TEST

START_TEST(a_peer_that_takes_nothing_holds_nobody_up_and_the_queue_is_bounded)
{
    g_autofree uint8_t *big = g_malloc0(CHARDEV_OUT_MAX);
    Chardev *chr;
    Front *f;
    int sv[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    chr = make("socket,fd=%d", sv[0]);
    f = front_new(chr);
    congest(chr);
    LOOP_UNTIL(f->writable > 0); /* the stall is noticed */
    ck_assert(!chardev_congested(chr));
    chardev_write(chr, big, CHARDEV_OUT_MAX);
    ck_assert_uint_eq(object_property_get_uint(OBJECT(chr), "bytes-queued", NULL), CHARDEV_OUT_MAX);
    ck_assert_uint_gt(chr->bytes_dropped, 0);
    close(sv[1]);
    end(chr, f);
}
END_TEST

START_TEST(a_front_end_that_takes_nothing_stops_the_sender)
{
    g_autofree char *big = g_malloc0(1 << 20);
    size_t sent = 0;
    Chardev *chr;
    Front *f;
    int sv[2];

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
    chr = make("socket,fd=%d", sv[0]);
    f = front_new(chr);
    f->room = 0;
    for (int idle = 0; idle < 3;) {
        ssize_t n = write(sv[1], big, 1 << 20);

        sent += n > 0 ? (size_t)n : 0;
        idle = n > 0 ? 0 : idle + 1;
        loop_idle();
    }
    ck_assert_uint_eq(chardev_receive_room(chr), 0);
    f->room = SIZE_MAX;
    chardev_accept_input(chr);
    LOOP_UNTIL(f->got->len == sent);
    ck_assert_uint_eq(chr->bytes_dropped, 0);
    close(sv[1]);
    end(chr, f);
}
END_TEST

static void closing_event(void *opaque, ChardevEvent event)
{
    Chardev *chr = opaque;

    if (event == CHARDEV_OPENED) {
        chardev_close(chr);
    }
}

static void closing_read(void *opaque, const uint8_t *buf, size_t len)
{
    chardev_close(opaque);
}

START_TEST(a_callback_may_close)
{
    static const ChardevHandlers on_event = { .event = closing_event };
    static const ChardevHandlers on_read = { .read = closing_read };
    g_autofree char *path = in_folder("sock");
    Chardev *chr = make("unix:%s,server,nowait", path);
    int fd, sv[2];

    ck_assert(chardev_attach(chr, &on_event, chr, NULL));
    fd = connect_unix(path);
    LOOP_UNTIL(!chr->opened);
    close(fd);
    end(chr, NULL);

    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
    chr = make("socket,fd=%d", sv[0]);
    ck_assert(chardev_attach(chr, &on_read, chr, NULL));
    send_text(sv[1], "bye");
    LOOP_UNTIL(!chr->opened);
    close(sv[1]);
    end(chr, NULL);
}
END_TEST

int main(void)
{
    const CharTest tests[] = {
        a_unix_server_takes_one_client_after_the_other,
        a_stale_socket_file_is_replaced_and_a_live_one_is_not,
        a_path_too_long_for_a_socket_is_refused,
        a_tcp_port_of_0_is_chosen_and_told,
        a_client_without_a_server_is_refused,
        a_reconnecting_client_finds_a_server_that_comes_later_and_again,
        a_server_without_a_host_listens_on_all_interfaces,
        a_server_that_waits_for_its_client_can_be_closed,
        a_socket_may_be_given_by_number,
        a_peer_that_vanishes_while_bytes_are_written_ends_the_connection_only,
        a_server_with_wait_on_waits_for_its_client,
        a_slow_peer_congests_and_still_gets_every_byte_in_order,
        a_peer_that_takes_nothing_holds_nobody_up_and_the_queue_is_bounded,
        a_front_end_that_takes_nothing_stops_the_sender,
        a_callback_may_close,
    };

    return chardev_run("chardev socket", tests, G_N_ELEMENTS(tests), NULL);
}
