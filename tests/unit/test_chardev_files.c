/* Character devices that are files, FIFOs, pseudo terminals, the standard input and output. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/unit/chardev_rig.h"

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

/* Bytes that the guest has not read keep the terminal open for reading; what it writes meanwhile is
 * for nobody, and waiting for room must not keep the main loop busy. */
START_TEST(a_pty_that_was_left_with_full_buffers_does_not_keep_the_loop_busy)
{
    Chardev *chr = make("pty");
    Front *f = front_new(chr);
    g_autofree char *slave = prop(chr, "slave");
    g_autofree char *big = g_strnfill(2 * CHARDEV_IN_MAX, 'x');
    int fd = open(slave, O_RDWR | O_NOCTTY | O_NONBLOCK);
    unsigned rounds = 0;
    ssize_t sent;

    LOOP_UNTIL(chr->open);
    f->room = 0;
    sent = write(fd, big, strlen(big));
    ck_assert_int_gt(sent, CHARDEV_IN_MAX);
    LOOP_UNTIL(chardev_receive_room(chr) == 0);
    congest(chr);
    close(fd);
    while (rounds < 1000 && main_loop_iterate(false)) {
        rounds++;
    }
    ck_assert_uint_lt(rounds, 100);
    ck_assert(chardev_flushed(chr));
    put(chr, "for nobody");
    ck_assert(chardev_flushed(chr));
    f->room = SIZE_MAX;
    chardev_accept_input(chr);
    LOOP_UNTIL(f->got->len == (size_t)sent && !chr->open);
    end(chr, f);
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

START_TEST(the_terminal_is_the_shells_while_the_process_is_stopped)
{
    Terminal t;
    int status;

    terminal_start(&t, leave_by_exit);
    terminal_expect(&t, "ready\r\n");
    kill(t.child, SIGTSTP);
    ck_assert_int_eq(waitpid(t.child, &status, WUNTRACED), t.child);
    ck_assert(WIFSTOPPED(status));
    ck_assert(!terminal_is_raw(&t));
    kill(t.child, SIGCONT);
    while (!terminal_is_raw(&t)) {
        sched_yield(); /* a hang ends by Check's timeout */
    }
    send_text(t.master, "\x03");
    terminal_expect(&t, "\x03");
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

static void add_terminal(Suite *suite)
{
    TCase *terminal = tcase_create("stdio");

    tcase_set_timeout(terminal, 30);
    suite_add_tcase(suite, terminal);
    tcase_add_loop_test(terminal, the_terminal_is_raw_meanwhile_and_put_back_on_every_way_out, 0,
                        4);
    tcase_add_test(terminal, the_terminal_is_the_shells_while_the_process_is_stopped);
    tcase_add_test(terminal, piped_stdio_reads_to_the_end_and_leaves_the_flags_of_the_pipes_alone);
}

int main(void)
{
    const CharTest tests[] = {
        a_file_is_written_replaced_and_appended_to,
        a_file_is_read_at_the_front_ends_speed_to_its_end,
        a_full_disk_is_reported_and_ends_nothing,
        a_pair_of_fifos_carries_both_ways,
        a_file_is_not_taken_for_a_fifo,
        a_pty_follows_who_opens_it,
        a_pty_that_was_left_with_full_buffers_does_not_keep_the_loop_busy,
    };

    return chardev_run("chardev files", tests, G_N_ELEMENTS(tests), add_terminal);
}
