/* Character devices: the core's queues, every back end against a real peer, the text form, the text
 * matcher. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "engine/chardev/chardev.h"
#include "engine/chardev/text-match.h"
#include "engine/core/error.h"
#include "engine/core/main-loop.h"

static char *folder; /* this test's own */

static void setup(void)
{
    main_loop_init();
    folder = g_dir_make_tmp("vmlua-chardev-XXXXXX", NULL);
    ck_assert_ptr_nonnull(folder);
}

static void teardown(void)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        unlink(path);
    }
    g_dir_close(dir);
    rmdir(folder);
    g_clear_pointer(&folder, g_free);
    main_loop_finalize();
}

static char *in_folder(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

/* A hang ends by Check's timeout. */
#define LOOP_UNTIL(cond)         \
    while (!(cond)) {            \
        main_loop_iterate(true); \
    }

static void loop_idle(void)
{
    while (main_loop_iterate(false)) {
    }
}

/* ---- a front end that notes everything ------------------------------------------------------ */

typedef struct Front {
    GByteArray *got;
    GString *events;
    size_t room; /* how many bytes it takes */
    unsigned writable;
} Front;

static size_t front_can_read(void *opaque)
{
    return ((Front *)opaque)->room;
}

static void front_read(void *opaque, const uint8_t *buf, size_t len)
{
    Front *f = opaque;

    ck_assert_uint_le(len, f->room);
    f->room -= len;
    g_byte_array_append(f->got, buf, (guint)len);
}

static void front_event(void *opaque, ChardevEvent event)
{
    Front *f = opaque;

    g_string_append_c(f->events, "OCBM"[event]);
    if (event == CHARDEV_BREAK) {
        g_byte_array_append(f->got, (const uint8_t *)"<break>", 7);
    }
}

static void front_writable(void *opaque)
{
    ((Front *)opaque)->writable++;
}

static const ChardevHandlers front_handlers = {
    .can_read = front_can_read,
    .read = front_read,
    .event = front_event,
    .writable = front_writable,
};

static Front *front_new(Chardev *chr)
{
    Front *f = g_new0(Front, 1);
    g_autoptr(GError) error = NULL;

    f->got = g_byte_array_new();
    f->events = g_string_new(NULL);
    f->room = SIZE_MAX;
    ck_assert(chardev_attach(chr, &front_handlers, f, &error));
    return f;
}

static void front_free(Front *f)
{
    g_byte_array_free(f->got, TRUE);
    g_string_free(f->events, TRUE);
    g_free(f);
}

static bool front_has(const Front *f, const char *text)
{
    return f->got->len == strlen(text) && f->got->len > 0 &&
           memcmp(f->got->data, text, f->got->len) == 0;
}

static Chardev *make(const char *format, ...) G_GNUC_PRINTF(1, 2);
static Chardev *make(const char *format, ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    Chardev *chr;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    chr = chardev_new_from_text(text, &error);
    ck_assert_msg(chr != NULL, "%s: %s", text, error ? error->message : "no error");
    return chr;
}

static Chardev *make_type(const char *type)
{
    Object *obj = object_new(type, NULL);

    ck_assert_ptr_nonnull(obj);
    return CHARDEV(obj);
}

static void refused(const char *text, const char *why)
{
    g_autoptr(GError) error = NULL;
    Chardev *chr = chardev_new_from_text(text, &error);

    ck_assert_msg(chr == NULL, "'%s' was accepted", text);
    ck_assert_ptr_nonnull(error);
    ck_assert_msg(strstr(error->message, why) != NULL, "'%s' gives: %s", text, error->message);
}

static void end(Chardev *chr, Front *f)
{
    chardev_close(chr);
    chardev_detach(chr);
    object_unref(chr);
    if (f) {
        front_free(f);
    }
}

static void put(Chardev *chr, const char *text)
{
    chardev_write(chr, (const uint8_t *)text, strlen(text));
}

static void take(Chardev *chr, const char *text)
{
    chardev_receive(chr, (const uint8_t *)text, strlen(text));
}

static char *prop(Chardev *chr, const char *name)
{
    return object_property_get_str(OBJECT(chr), name, NULL);
}

/* Everything that can be read until `len` bytes are there; the loop runs meanwhile. */
static char *read_all(int fd, size_t len)
{
    char *buf = g_malloc0(len + 1);
    size_t n = 0;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    while (n < len) {
        ssize_t r = read(fd, buf + n, len - n);

        if (r > 0) {
            n += (size_t)r;
        } else {
            ck_assert(r < 0 && errno == EAGAIN);
            main_loop_iterate(false);
        }
    }
    return buf;
}

static void ck_reads(int fd, const char *text)
{
    g_autofree char *got = read_all(fd, strlen(text));

    ck_assert_str_eq(got, text);
}

static void send_text(int fd, const char *text)
{
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* ---- the core ------------------------------------------------------------------------------ */

START_TEST(ring_keeps_the_last_bytes)
{
    Chardev *chr = make("ring:8");
    uint8_t buf[16] = { 0 };

    put(chr, "abcde");
    put(chr, "fghij");
    ck_assert_uint_eq(chardev_ring_count(chr), 8);
    ck_assert_uint_eq(chardev_ring_read(chr, buf, 3), 3);
    ck_assert_str_eq((char *)buf, "cde");
    put(chr, "0123456789");
    ck_assert_uint_eq(chardev_ring_read(chr, buf, sizeof(buf)), 8);
    ck_assert_mem_eq(buf, "23456789", 8);
    ck_assert_uint_eq(chardev_ring_count(chr), 0);
    end(chr, NULL);
}
END_TEST

START_TEST(a_front_end_gets_what_it_takes_and_the_rest_waits)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    ck_assert_str_eq(f->events->str, "O");
    f->room = 3;
    take(chr, "abcdef");
    ck_assert(front_has(f, "abc"));
    f->room = 2;
    chardev_accept_input(chr);
    ck_assert(front_has(f, "abcde"));
    f->room = 100;
    take(chr, "g");
    ck_assert(front_has(f, "abcdefg"));
    end(chr, f);
}
END_TEST

START_TEST(the_input_queue_is_bounded_and_counts_what_it_drops)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);
    g_autofree uint8_t *big = g_malloc0(CHARDEV_IN_MAX + 100);

    f->room = 0;
    ck_assert_uint_eq(chardev_receive_room(chr), CHARDEV_IN_MAX);
    chardev_receive(chr, big, CHARDEV_IN_MAX + 100);
    ck_assert_uint_eq(chardev_receive_room(chr), 0);
    ck_assert_uint_eq(chr->bytes_dropped, 100);
    f->room = SIZE_MAX;
    chardev_accept_input(chr);
    ck_assert_uint_eq(f->got->len, CHARDEV_IN_MAX);
    end(chr, f);
}
END_TEST

START_TEST(a_second_front_end_is_refused_by_name)
{
    Chardev *chr = make("null,id=con0");
    Front *f = front_new(chr);
    g_autoptr(GError) error = NULL;

    ck_assert(!chardev_attach(chr, &front_handlers, f, &error));
    ck_assert_ptr_nonnull(strstr(error->message, "con0"));
    chardev_detach(chr);
    ck_assert(chardev_attach(chr, &front_handlers, f, NULL));
    end(chr, f);
}
END_TEST

static void note_tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    g_string_append_printf(opaque, "%c%.*s ", from_guest ? '>' : '<', (int)len, (const char *)buf);
}

static Chardev *one_shot_chr;
static void one_shot_tap(void *opaque, const uint8_t *buf, size_t len, bool from_guest)
{
    (*(unsigned *)opaque)++;
    chardev_remove_tap(one_shot_chr, one_shot_tap, opaque);
}

START_TEST(taps_see_both_ways_and_may_remove_themselves)
{
    Chardev *chr = make("null");
    GString *seen = g_string_new(NULL);
    unsigned hits = 0;

    one_shot_chr = chr;
    chardev_add_tap(chr, one_shot_tap, &hits);
    chardev_add_tap(chr, note_tap, seen);
    put(chr, "out");
    take(chr, "in");
    put(chr, "more");
    ck_assert_str_eq(seen->str, ">out <in >more ");
    ck_assert_uint_eq(hits, 1);
    chardev_remove_tap(chr, note_tap, seen);
    put(chr, "unseen");
    ck_assert_str_eq(seen->str, ">out <in >more ");
    g_string_free(seen, TRUE);
    end(chr, NULL);
}
END_TEST

START_TEST(history_is_the_tail_of_what_the_guest_wrote)
{
    Chardev *chr = make("null");
    g_autoptr(GByteArray) all = g_byte_array_new();
    const uint8_t *history;
    uint8_t piece[70000];
    size_t len;

    ck_assert_ptr_null(chardev_history(chr, &len));
    for (unsigned i = 0; i < 400; i++) {
        size_t n = i == 200 ? sizeof(piece) : i * 7 % 1500;

        for (size_t k = 0; k < n; k++) {
            piece[k] = (uint8_t)(i + k * 3);
        }
        g_byte_array_append(all, piece, (guint)n);
        chardev_write(chr, piece, n);
        history = chardev_history(chr, &len);
        ck_assert_uint_eq(len, MIN(all->len, CHARDEV_HISTORY_MAX));
        if (len > 0) {
            ck_assert_mem_eq(history, all->data + all->len - len, len);
        }
    }
    ck_assert_uint_eq(chr->bytes_out, all->len);
    end(chr, NULL);
}
END_TEST

START_TEST(writing_after_close_is_dropped_and_counted)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    chardev_close(chr);
    chardev_close(chr);
    ck_assert_str_eq(f->events->str, "OC");
    put(chr, "lost");
    ck_assert_uint_eq(chr->bytes_dropped, 4);
    ck_assert(chardev_flushed(chr));
    chardev_write(NULL, (const uint8_t *)"x", 1);
    ck_assert(chardev_flushed(NULL));
    end(chr, f);
}
END_TEST

START_TEST(properties_are_frozen_while_open)
{
    Chardev *chr = make("ring:16");
    g_autoptr(GError) error = NULL;

    ck_assert(!object_property_set_uint(OBJECT(chr), "size", 32, &error));
    chardev_close(chr);
    ck_assert(object_property_set_uint(OBJECT(chr), "size", 32, NULL));
    ck_assert(chardev_open(chr, NULL));
    g_clear_error(&error);
    ck_assert(!chardev_open(chr, &error));
    end(chr, NULL);
}
END_TEST

START_TEST(unparenting_closes)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    ck_assert(object_add_child(object_get_root(), "chr-test", OBJECT(chr), NULL));
    object_unparent(OBJECT(chr));
    ck_assert(!chr->opened);
    ck_assert_str_eq(f->events->str, "OC");
    end(chr, f);
}
END_TEST

START_TEST(a_break_keeps_its_place_among_the_bytes)
{
    Chardev *chr = make("null");
    Front *f = front_new(chr);

    f->room = 0;
    take(chr, "ab");
    chardev_event(chr, CHARDEV_BREAK);
    take(chr, "cd");
    f->room = 1;
    chardev_accept_input(chr);
    ck_assert(front_has(f, "a"));
    f->room = 100;
    chardev_accept_input(chr);
    ck_assert(front_has(f, "ab<break>cd"));
    end(chr, f);
}
END_TEST

START_TEST(the_log_file_gets_what_the_guest_writes)
{
    g_autofree char *path = in_folder("log");
    g_autofree char *text = NULL;
    Chardev *chr = make("null,logfile=%s", path);

    put(chr, "one ");
    end(chr, NULL);
    chr = make("null,logfile=%s,logappend=on", path);
    put(chr, "two");
    take(chr, "not this");
    end(chr, NULL);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_str_eq(text, "one two");
    refused("null,logfile=/nonexistent/folder/log", "/nonexistent/folder/log");
}
END_TEST

static void collect_script(void *opaque, const uint8_t *buf, size_t len)
{
    g_string_append_len(opaque, (const char *)buf, (gssize)len);
}

START_TEST(a_script_gets_the_bytes_and_answers)
{
    Chardev *chr = make_type(TYPE_CHARDEV_SCRIPT);
    GString *seen = g_string_new(NULL);
    Front *f;

    chardev_script_set(chr, collect_script, seen);
    ck_assert(chardev_open(chr, NULL));
    f = front_new(chr);
    put(chr, "question");
    take(chr, "answer");
    ck_assert_str_eq(seen->str, "question");
    ck_assert(front_has(f, "answer"));
    g_string_free(seen, TRUE);
    end(chr, f);
}
END_TEST

/* ---- text ---------------------------------------------------------------------------------- */

START_TEST(mistakes_in_the_text_form_are_named)
{
    refused("fle:/tmp/x", "did you mean 'file'");
    refused("", "unknown chardev ''");
    refused("telnet:localhost:23", "tcp");
    refused("null:x", "takes nothing");
    refused("file:", "needs a path");
    refused("file", "path");
    refused("file,pth=/tmp/x", "did you mean 'path'");
    refused("file,path=/tmp/x,apend=on", "did you mean 'append'");
    refused("file,path=/tmp/x,append=perhaps", "append");
    refused("file,path=/tmp/x,,y,path", "needs a value");
    refused("unix:/tmp/x,srever", "did you mean 'server'");
    refused("tcp:localhost", "HOST:PORT");
    refused("tcp:localhost:99999", "99999");
    refused("tcp:localhost:http", "http");
    refused("socket", "needs a path");
    refused("socket,path=/tmp/a,host=b,port=1", "exclude");
    refused("socket,port=1,server,reconnect=3", "reconnect");
    refused("ring:0", "size 0");
    refused("ring,size=1T", "size");
    refused("null,,,x", "unknown option ',x'");
    refused("null,,", "empty option");
    refused("null,", "empty option");
    refused("stdio,escape=ctrl-alt", "ctrl-alt");
    refused("null,bytes-in=4", "bytes-in");
}
END_TEST

START_TEST(both_spellings_set_the_same_properties)
{
    g_autoptr(GError) error = NULL;
    Chardev *a = chardev_parse("tcp:[::1]:4444,server,nowait,delay", &error);
    Chardev *b = chardev_parse("socket,id=c0,host=::1,port=4444,server=on,wait=off,nodelay=off",
                               &error);
    Chardev *c = chardev_parse("unix:/tmp/a,,b,server=on,wait=off", &error);
    Chardev *both[2] = { a, b };
    g_autofree char *path = NULL, *id = NULL;

    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_nonnull(b);
    ck_assert_ptr_nonnull(c);
    for (int i = 0; i < 2; i++) {
        g_autofree char *host = prop(both[i], "host");

        ck_assert_str_eq(host, "::1");
        ck_assert_uint_eq(object_property_get_uint(OBJECT(both[i]), "port", NULL), 4444);
        ck_assert(object_property_get_bool(OBJECT(both[i]), "server", NULL));
        ck_assert(!object_property_get_bool(OBJECT(both[i]), "wait", NULL));
        ck_assert(!object_property_get_bool(OBJECT(both[i]), "nodelay", NULL));
    }
    id = prop(b, "id");
    ck_assert_str_eq(id, "c0");
    path = prop(c, "path");
    ck_assert_str_eq(path, "/tmp/a,b");
    object_unref(a);
    object_unref(b);
    object_unref(c);
}
END_TEST

static void note_backend(const char *alias, ChardevClass *klass, void *opaque)
{
    g_string_append_printf(opaque, "%s ", alias);
}

START_TEST(the_back_ends_can_be_listed)
{
    GString *list = g_string_new(NULL);

    chardev_backends_foreach(note_backend, list);
    ck_assert_str_eq(list->str, "file null pipe pty ring socket stdio ");
    g_string_free(list, TRUE);
}
END_TEST

/* ---- file and pipe ------------------------------------------------------------------------- */

START_TEST(a_file_is_written_replaced_and_appended_to)
{
    g_autofree char *path = in_folder("out");
    g_autofree char *text = NULL;
    Chardev *chr;

    ck_assert(g_file_set_contents(path, "old", -1, NULL));
    chr = make("file:%s", path);
    put(chr, "new");
    end(chr, NULL);
    chr = make("file,path=%s,append=on", path);
    put(chr, "er");
    end(chr, NULL);
    ck_assert(g_file_get_contents(path, &text, NULL, NULL));
    ck_assert_str_eq(text, "newer");
    refused("file:/nonexistent/x", "/nonexistent/x");
    refused("file:/tmp/x,input-path=/nonexistent/y", "/nonexistent/y");
}
END_TEST

START_TEST(a_file_is_read_at_the_front_ends_speed_to_its_end)
{
    g_autofree char *path = in_folder("in"), *out = in_folder("out");
    g_autofree char *big = g_malloc(20001);
    Chardev *chr;
    Front *f;

    for (unsigned i = 0; i < 20000; i++) {
        big[i] = (char)('a' + i % 23);
    }
    big[20000] = '\0';
    ck_assert(g_file_set_contents(path, big, -1, NULL));
    chr = make("file:%s,input-path=%s", out, path);
    f = front_new(chr);
    f->room = 10;
    loop_idle();
    ck_assert_uint_eq(f->got->len, 10);
    while (f->got->len < 20000) {
        f->room = 777;
        chardev_accept_input(chr);
        loop_idle();
    }
    ck_assert(front_has(f, big));
    loop_idle(); /* the end of the file leaves nothing that spins */
    ck_assert(!main_loop_iterate(false));
    ck_assert_uint_eq(chr->bytes_dropped, 0);
    end(chr, f);
}
END_TEST

START_TEST(a_full_disk_is_reported_and_ends_nothing)
{
    Chardev *chr = make("file:/dev/full");
    Front *f = front_new(chr);

    put(chr, "x");
    LOOP_UNTIL(strchr(f->events->str, 'C'));
    put(chr, "y");
    ck_assert_uint_eq(chr->bytes_dropped, 2);
    end(chr, f);
}
END_TEST

START_TEST(a_pair_of_fifos_carries_both_ways)
{
    g_autofree char *base = in_folder("p");
    g_autofree char *in = in_folder("p.in"), *out = in_folder("p.out");
    Chardev *chr;
    Front *f;
    int in_fd, out_fd;

    refused("pipe:/nonexistent/p", "mkfifo");
    ck_assert_int_eq(mkfifo(in, 0600), 0);
    ck_assert_int_eq(mkfifo(out, 0600), 0);
    chr = make("pipe:%s", base);
    f = front_new(chr);
    put(chr, "kept for a late reader");
    out_fd = open(out, O_RDONLY | O_NONBLOCK);
    ck_reads(out_fd, "kept for a late reader");
    in_fd = open(in, O_WRONLY | O_NONBLOCK);
    send_text(in_fd, "to the guest");
    LOOP_UNTIL(front_has(f, "to the guest"));
    close(in_fd);
    close(out_fd);
    put(chr, "nobody reads, nobody dies");
    end(chr, f);
}
END_TEST

START_TEST(a_file_is_not_taken_for_a_fifo)
{
    g_autofree char *base = in_folder("plain");
    g_autofree char *text = g_strdup_printf("pipe:%s", base);

    ck_assert(g_file_set_contents(base, "x", -1, NULL));
    refused(text, "not a FIFO");
}
END_TEST

/* ---- pty ----------------------------------------------------------------------------------- */

START_TEST(a_pty_follows_who_opens_it)
{
    g_autofree char *link = in_folder("tty");
    Chardev *chr = make("pty,path=%s", link);
    Front *f = front_new(chr);
    g_autofree char *slave = prop(chr, "slave");
    g_autofree char *target = g_file_read_link(link, NULL);
    int fd;

    ck_assert_ptr_nonnull(slave);
    ck_assert_str_eq(slave, target);
    ck_assert_str_eq(f->events->str, "");
    put(chr, "nobody hears this");
    fd = open(slave, O_RDWR | O_NOCTTY);
    ck_assert_int_ge(fd, 0);
    LOOP_UNTIL(chr->open);
    put(chr, "hello\n");
    ck_reads(fd, "hello\n"); /* raw: no carriage return was added */
    send_text(fd, "ls\r");
    LOOP_UNTIL(front_has(f, "ls\r"));
    close(fd);
    LOOP_UNTIL(!chr->open);
    ck_assert_str_eq(f->events->str, "OC");

    fd = open(slave, O_RDWR | O_NOCTTY);
    LOOP_UNTIL(chr->open);
    send_text(fd, "!");
    close(fd);
    LOOP_UNTIL(front_has(f, "ls\r!"));
    LOOP_UNTIL(!chr->open);
    end(chr, f);
    ck_assert(!g_file_test(link, G_FILE_TEST_IS_SYMLINK));
}
END_TEST

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

/* Writes until the peer's buffers and CHARDEV_CONGESTED bytes of the queue are full. */
static size_t congest(Chardev *chr)
{
    char piece[64];
    size_t sent = 0;

    while (!chardev_congested(chr)) {
        snprintf(piece, sizeof(piece), "line %zu\n", sent);
        put(chr, piece);
        sent += strlen(piece);
        ck_assert_uint_lt(sent, 16 << 20);
    }
    return sent;
}

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

/* ---- link ---------------------------------------------------------------------------------- */

START_TEST(a_link_carries_bytes_modem_lines_and_breaks)
{
    Chardev *a = make_type(TYPE_CHARDEV_LINK), *b = make_type(TYPE_CHARDEV_LINK);
    Front *fa, *fb;

    ck_assert(chardev_link(a, b, NULL));
    fa = front_new(a);
    fb = front_new(b);
    put(a, "to b");
    put(b, "to a");
    chardev_send_break(a, true);
    put(a, "after");
    LOOP_UNTIL(front_has(fb, "to b<break>after") && front_has(fa, "to a"));
    ck_assert_uint_eq(chardev_get_modem(b), 0);
    chardev_set_modem(a, CHARDEV_TIOCM_DTR);
    ck_assert_uint_eq(chardev_get_modem(b), CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD);
    LOOP_UNTIL(strchr(fb->events->str, 'M'));
    chardev_set_modem(a, CHARDEV_TIOCM_DTR | CHARDEV_TIOCM_RTS);
    ck_assert_uint_eq(chardev_get_modem(b),
                      CHARDEV_TIOCM_DSR | CHARDEV_TIOCM_DCD | CHARDEV_TIOCM_CTS);
    chardev_close(a);
    ck_assert(!b->open);
    ck_assert_uint_eq(chardev_get_modem(b), 0);
    put(b, "nobody there");
    loop_idle();
    end(a, fa);
    end(b, fb);
}
END_TEST

START_TEST(a_link_loses_nothing_when_the_other_side_is_slow)
{
    Chardev *a = make_type(TYPE_CHARDEV_LINK), *b = make_type(TYPE_CHARDEV_LINK);
    size_t sent;
    Front *fb;

    ck_assert(chardev_link(a, b, NULL));
    fb = front_new(b);
    fb->room = 0;
    sent = congest(a);
    while (fb->got->len < sent) {
        fb->room = 100;
        chardev_accept_input(b);
        loop_idle();
    }
    ck_assert_uint_eq(fb->got->len, sent);
    ck_assert_uint_eq(a->bytes_dropped + b->bytes_dropped, 0);
    ck_assert(!chardev_congested(a));
    end(b, fb);
    end(a, NULL);
}
END_TEST

START_TEST(only_two_different_free_link_ends_can_be_linked)
{
    Chardev *a = make_type(TYPE_CHARDEV_LINK), *b = make_type(TYPE_CHARDEV_LINK);
    Chardev *c = make_type(TYPE_CHARDEV_LINK), *n = make("null");

    ck_assert(!chardev_link(a, a, NULL));
    ck_assert(!chardev_link(a, n, NULL));
    ck_assert(chardev_link(a, b, NULL));
    ck_assert(!chardev_link(b, c, NULL));
    end(a, NULL);
    ck_assert(chardev_link(c, b, NULL)); /* b is free again */
    ck_assert(b->open);
    end(b, NULL);
    end(c, NULL);
    end(n, NULL);
}
END_TEST

/* Random steps of both sides, closing among them; the front end checks what it is given. */
START_TEST(closing_at_any_moment_is_safe)
{
    GRand *rand = g_rand_new_with_seed(7);
    char buf[5000] = { 0 };

    for (unsigned round = 0; round < 60; round++) {
        bool linked = round % 2;
        Chardev *chr = make_type(linked ? TYPE_CHARDEV_LINK : TYPE_CHARDEV_SOCKET), *peer = NULL;
        Front *f;
        int sv[2] = { -1, -1 };

        if (linked) {
            peer = make_type(TYPE_CHARDEV_LINK);
            ck_assert(chardev_link(chr, peer, NULL));
        } else {
            ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv),
                             0);
            ck_assert(object_property_set_int(OBJECT(chr), "fd", sv[0], NULL));
            ck_assert(chardev_open(chr, NULL));
        }
        f = front_new(chr);
        for (unsigned step = 0; step < 60; step++) {
            size_t n = g_rand_int(rand) % sizeof(buf);

            switch (g_rand_int(rand) % 12) {
            case 0:
            case 1:
                chardev_write(chr, (uint8_t *)buf, n);
                break;
            case 2:
            case 3:
                if (peer) {
                    chardev_write(peer, (uint8_t *)buf, n);
                } else if (sv[1] >= 0) {
                    n = (size_t)write(sv[1], buf, n); /* may be refused: what comes, comes */
                }
                break;
            case 4:
                while (sv[1] >= 0 && read(sv[1], buf, sizeof(buf)) > 0) {
                }
                break;
            case 5:
                f->room = g_rand_int(rand) % 3000;
                chardev_accept_input(chr);
                break;
            case 6:
                chardev_send_break(g_rand_boolean(rand) || !peer ? chr : peer, true);
                chardev_set_modem(chr, g_rand_int(rand));
                break;
            case 7:
                if (g_rand_int(rand) % 8 == 0) {
                    chardev_close(g_rand_boolean(rand) || !peer ? chr : peer);
                }
                break;
            case 8:
                if (g_rand_int(rand) % 8 == 0 && sv[1] >= 0) {
                    close(sv[1]);
                    sv[1] = -1;
                }
                break;
            case 9:
                chardev_detach(chr);
                chardev_receive(chr, (uint8_t *)buf, n);
                ck_assert(chardev_attach(chr, &front_handlers, f, NULL));
                break;
            default:
                main_loop_iterate(false);
                break;
            }
            memset(buf, 0, sizeof(buf));
        }
        if (sv[1] >= 0) {
            close(sv[1]);
        }
        if (peer) {
            end(peer, NULL);
        }
        end(chr, f);
        loop_idle();
    }
    g_rand_free(rand);
}
END_TEST

/* ---- text matcher -------------------------------------------------------------------------- */

typedef struct Matches {
    unsigned n;
    uint64_t last;
    TextMatch *free_me;
} Matches;

static void matched(void *opaque, uint64_t at)
{
    Matches *m = opaque;

    m->n++;
    m->last = at;
    if (m->free_me) {
        text_match_free(m->free_me);
        m->free_me = NULL;
    }
}

START_TEST(a_text_is_found_across_the_borders_of_writes)
{
    Chardev *chr = make("null");
    Matches m = { 0 }, in = { 0 };
    TextMatch *t = text_match_new(chr, "login:", true, matched, &m);
    TextMatch *to_guest = text_match_new(chr, "login:", false, matched, &in);

    put(chr, "lolog");
    put(chr, "i");
    put(chr, "n: loginlogin:");
    ck_assert_uint_eq(m.n, 2);
    ck_assert_uint_eq(m.last, 20);
    ck_assert_uint_eq(in.n, 0);
    take(chr, "login:");
    ck_assert_uint_eq(in.n, 1);
    ck_assert_uint_eq(m.n, 2);
    ck_assert_uint_eq(text_match_hits(t), 2);
    text_match_free(t);
    text_match_free(to_guest);
    ck_assert_ptr_null(text_match_new(chr, "", true, matched, &m));
    end(chr, NULL);
}
END_TEST

START_TEST(a_matcher_agrees_with_a_search_of_the_whole)
{
    Chardev *chr = make("null");
    GString *all = g_string_new(NULL);
    uint32_t seed = 1;

    for (unsigned round = 0; round < 200; round++) {
        char needle[8] = { 0 };
        unsigned len, expected = 0;
        Matches m = { 0 };
        TextMatch *t;

        len = 1 + round % 6;
        for (unsigned i = 0; i < len; i++) {
            seed = seed * 1664525 + 1013904223;
            needle[i] = (char)('a' + (seed >> 24) % 2);
        }
        t = text_match_new(chr, needle, true, matched, &m);
        g_string_truncate(all, 0);
        for (unsigned i = 0; i < 100; i++) {
            char piece[4] = { 0 };

            seed = seed * 1664525 + 1013904223;
            for (unsigned k = 0; k < (seed >> 28) % 4; k++) {
                piece[k] = (char)('a' + (seed >> (10 + k)) % 2);
            }
            put(chr, piece);
            g_string_append(all, piece);
        }
        for (const char *at = all->str; (at = strstr(at, needle)); at += len) {
            expected++;
        }
        ck_assert_uint_eq(m.n, expected);
        text_match_free(t);
    }
    g_string_free(all, TRUE);
    end(chr, NULL);
}
END_TEST

START_TEST(looking_back_finds_what_came_before_and_what_begins_there)
{
    Chardev *chr = make("null");
    Matches m = { 0 };
    TextMatch *t;
    uint64_t mark;

    put(chr, "login: ");
    mark = chr->bytes_out;
    put(chr, "pass");
    t = text_match_new(chr, "login:", true, matched, &m);
    ck_assert_uint_eq(text_match_look_back(t, mark), 0);
    ck_assert_uint_eq(text_match_look_back(t, 0), 1);
    ck_assert_uint_eq(m.last, 6);
    text_match_free(t);

    t = text_match_new(chr, "password", true, matched, &m);
    ck_assert_uint_eq(text_match_look_back(t, mark), 0);
    put(chr, "word");
    ck_assert_uint_eq(m.n, 2);
    ck_assert_uint_eq(m.last, chr->bytes_out);
    text_match_free(t);
    end(chr, NULL);
}
END_TEST

START_TEST(a_matcher_may_be_freed_by_its_own_match)
{
    Chardev *chr = make("null");
    Matches m = { 0 };

    m.free_me = text_match_new(chr, "x", true, matched, &m);
    put(chr, "xxx");
    ck_assert_uint_eq(m.n, 1);
    m.free_me = text_match_new(chr, "x", true, matched, &m);
    text_match_look_back(m.free_me, 0);
    ck_assert_uint_eq(m.n, 2);
    put(chr, "x");
    ck_assert_uint_eq(m.n, 2);
    end(chr, NULL);
}
END_TEST

/* ---- stdio --------------------------------------------------------------------------------- */

typedef struct Terminal {
    int master;
    pid_t child;
    struct termios before;
    char *slave;
} Terminal;

static void crash(void)
{
    struct rlimit none = { 0, 0 };

    setrlimit(RLIMIT_CORE, &none);
    raise(SIGSEGV);
}

static void leave_by_exit(void)
{
    exit(0);
}

static void leave_by_term(void)
{
    raise(SIGTERM);
}

static bool quit_asked;
static bool note_escape(Chardev *chr, char key, void *opaque)
{
    quit_asked = key == 'x';
    return quit_asked;
}

/* In the child, with the terminal as its standard input and output: the guest echoes what it
 * hears; an escape key and 'x' end it by way of `leave`. */
static void terminal_child(const Terminal *t, void (*leave)(void))
{
    Chardev *chr;
    Front *f;
    size_t echoed = 0;
    int fd;

    signal(SIGTERM, SIG_DFL); /* Check's own handler came with the fork */
    setsid();
    fd = open(t->slave, O_RDWR);
    ioctl(fd, TIOCSCTTY, 0);
    dup2(fd, 0);
    dup2(fd, 1);
    main_loop_init();
    chr = make("stdio");
    chardev_stdio_set_escape(note_escape, NULL);
    f = front_new(chr);
    put(chr, "ready\n");
    while (!quit_asked) {
        main_loop_iterate(true);
        if (f->got->len > echoed) {
            chardev_write(chr, f->got->data + echoed, f->got->len - echoed);
            echoed = f->got->len;
        }
    }
    put(chr, "bye\n");
    leave();
    _exit(99);
}

static void terminal_start(Terminal *t, void (*leave)(void))
{
    int fd;

    t->master = posix_openpt(O_RDWR | O_NOCTTY);
    ck_assert_int_ge(t->master, 0);
    ck_assert_int_eq(grantpt(t->master), 0);
    ck_assert_int_eq(unlockpt(t->master), 0);
    t->slave = g_strdup(ptsname(t->master));
    fd = open(t->slave, O_RDWR | O_NOCTTY); /* stays open: the terminal outlives the child */
    ck_assert_int_eq(tcgetattr(fd, &t->before), 0);
    t->child = fork();
    if (t->child == 0) {
        close(fd);
        terminal_child(t, leave);
    }
    t->before.c_cflag &= ~(tcflag_t)HUPCL;
}

static void terminal_expect(const Terminal *t, const char *text)
{
    g_autoptr(GString) got = g_string_new(NULL);
    char c;

    while (!g_str_has_suffix(got->str, text)) {
        ck_assert_int_eq(read(t->master, &c, 1), 1);
        g_string_append_c(got, c);
    }
}

static bool terminal_is_raw(const Terminal *t)
{
    struct termios now;

    ck_assert_int_eq(tcgetattr(t->master, &now), 0);
    return !(now.c_lflag & (ICANON | ECHO | ISIG)) && !(now.c_iflag & (ICRNL | IXON)) &&
           (now.c_oflag & OPOST);
}

static void terminal_check_restored(Terminal *t)
{
    struct termios now;
    int status;

    ck_assert_int_eq(waitpid(t->child, &status, 0), t->child);
    ck_assert_int_eq(tcgetattr(t->master, &now), 0);
    ck_assert_uint_eq(now.c_iflag, t->before.c_iflag);
    ck_assert_uint_eq(now.c_oflag, t->before.c_oflag);
    ck_assert_uint_eq(now.c_lflag, t->before.c_lflag);
    ck_assert(!(WIFEXITED(status) && WEXITSTATUS(status) == 99));
    close(t->master);
    g_free(t->slave);
}

START_TEST(the_terminal_is_raw_meanwhile_and_put_back_on_every_way_out)
{
    void (*const ways[])(void) = { leave_by_exit, leave_by_term, crash, abort };
    Terminal t;

    terminal_start(&t, ways[_i]);
    terminal_expect(&t, "ready\r\n");
    ck_assert(terminal_is_raw(&t));
    send_text(t.master, "\x03\x01\x01!"); /* Ctrl-C goes to the guest, Ctrl-a Ctrl-a as one */
    terminal_expect(&t, "\x03\x01!");
    send_text(t.master, "\x01x");
    terminal_expect(&t, "bye\r\n");
    terminal_check_restored(&t);
}
END_TEST

START_TEST(piped_stdio_reads_to_the_end_and_leaves_the_flags_of_the_pipes_alone)
{
    int in[2], out[2], status;
    pid_t child;

    ck_assert_int_eq(pipe(in), 0);
    ck_assert_int_eq(pipe(out), 0);
    send_text(in[1], "input\x01x");
    close(in[1]);
    child = fork();
    if (child == 0) {
        Chardev *chr, *second;
        Front *f;

        dup2(in[0], 0);
        dup2(out[1], 1);
        main_loop_init();
        chr = make("stdio");
        f = front_new(chr);
        second = chardev_new_from_text("stdio", NULL);
        LOOP_UNTIL(front_has(f, "input\x01x"));
        put(chr, second ? "two?" : "done");
        loop_idle();
        _exit(fcntl(0, F_GETFL) & O_NONBLOCK || fcntl(1, F_GETFL) & O_NONBLOCK);
    }
    close(out[1]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_reads(out[0], "done");
    close(in[0]);
    close(out[0]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("chardev");
    TCase *core = tcase_create("core"), *text = tcase_create("text");
    TCase *files = tcase_create("files"), *sockets = tcase_create("sockets");
    TCase *links = tcase_create("link"), *match = tcase_create("match");
    TCase *terminal = tcase_create("stdio");
    TCase *with_loop[] = { core, text, files, sockets, links, match };
    SRunner *runner;
    int failed;

    for (unsigned i = 0; i < G_N_ELEMENTS(with_loop); i++) {
        tcase_add_checked_fixture(with_loop[i], setup, teardown);
        tcase_set_timeout(with_loop[i], 30);
        suite_add_tcase(suite, with_loop[i]);
    }
    tcase_set_timeout(terminal, 30);
    suite_add_tcase(suite, terminal);
    tcase_add_test(core, ring_keeps_the_last_bytes);
    tcase_add_test(core, a_front_end_gets_what_it_takes_and_the_rest_waits);
    tcase_add_test(core, the_input_queue_is_bounded_and_counts_what_it_drops);
    tcase_add_test(core, a_second_front_end_is_refused_by_name);
    tcase_add_test(core, taps_see_both_ways_and_may_remove_themselves);
    tcase_add_test(core, history_is_the_tail_of_what_the_guest_wrote);
    tcase_add_test(core, writing_after_close_is_dropped_and_counted);
    tcase_add_test(core, properties_are_frozen_while_open);
    tcase_add_test(core, unparenting_closes);
    tcase_add_test(core, a_break_keeps_its_place_among_the_bytes);
    tcase_add_test(core, the_log_file_gets_what_the_guest_writes);
    tcase_add_test(core, a_script_gets_the_bytes_and_answers);
    tcase_add_test(text, mistakes_in_the_text_form_are_named);
    tcase_add_test(text, both_spellings_set_the_same_properties);
    tcase_add_test(text, the_back_ends_can_be_listed);
    tcase_add_test(files, a_file_is_written_replaced_and_appended_to);
    tcase_add_test(files, a_file_is_read_at_the_front_ends_speed_to_its_end);
    tcase_add_test(files, a_full_disk_is_reported_and_ends_nothing);
    tcase_add_test(files, a_pair_of_fifos_carries_both_ways);
    tcase_add_test(files, a_file_is_not_taken_for_a_fifo);
    tcase_add_test(files, a_pty_follows_who_opens_it);
    tcase_add_test(sockets, a_unix_server_takes_one_client_after_the_other);
    tcase_add_test(sockets, a_stale_socket_file_is_replaced_and_a_live_one_is_not);
    tcase_add_test(sockets, a_path_too_long_for_a_socket_is_refused);
    tcase_add_test(sockets, a_tcp_port_of_0_is_chosen_and_told);
    tcase_add_test(sockets, a_client_without_a_server_is_refused);
    tcase_add_test(sockets, a_reconnecting_client_finds_a_server_that_comes_later_and_again);
    tcase_add_test(sockets, a_socket_may_be_given_by_number);
    tcase_add_test(sockets, a_peer_that_vanishes_while_bytes_are_written_ends_the_connection_only);
    tcase_add_test(sockets, a_server_with_wait_on_waits_for_its_client);
    tcase_add_test(sockets, a_slow_peer_congests_and_still_gets_every_byte_in_order);
    tcase_add_test(sockets, a_peer_that_takes_nothing_holds_nobody_up_and_the_queue_is_bounded);
    tcase_add_test(sockets, a_front_end_that_takes_nothing_stops_the_sender);
    tcase_add_test(sockets, a_callback_may_close);
    tcase_add_test(links, a_link_carries_bytes_modem_lines_and_breaks);
    tcase_add_test(links, a_link_loses_nothing_when_the_other_side_is_slow);
    tcase_add_test(links, only_two_different_free_link_ends_can_be_linked);
    tcase_add_test(links, closing_at_any_moment_is_safe);
    tcase_add_test(match, a_text_is_found_across_the_borders_of_writes);
    tcase_add_test(match, a_matcher_agrees_with_a_search_of_the_whole);
    tcase_add_test(match, looking_back_finds_what_came_before_and_what_begins_there);
    tcase_add_test(match, a_matcher_may_be_freed_by_its_own_match);
    tcase_add_loop_test(terminal, the_terminal_is_raw_meanwhile_and_put_back_on_every_way_out, 0,
                        4);
    tcase_add_test(terminal, piped_stdio_reads_to_the_end_and_leaves_the_flags_of_the_pipes_alone);

    runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
