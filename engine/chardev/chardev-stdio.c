/*
 * "stdio": the process' own standard input and output.
 *
 * A terminal goes into raw mode (tty.c puts it back on every way out), and the escape key (Ctrl-a)
 * keeps a way to the emulator: with 'x' the process ends, 'b' sends a break, 'h' lists the keys,
 * the escape key again sends itself.
 *
 * Descriptors 0 and 1 are shared with the shell and its other children, so their flags stay as they
 * are: terminals and pipes are opened once more, non-blocking; sockets are asked each time; files
 * do not block.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/chardev/chardev_priv.h"
#include "engine/chardev/tty.h"
#include "engine/core/error.h"
#include "engine/core/log.h"

typedef struct StdioChardev {
    Chardev parent;
    char *escape;   /* property */
    bool signals;   /* property */
    int escape_key; /* -1: none */
    bool escaped;   /* it was the last byte */
    bool raw;
    ChardevFd fd;
} StdioChardev;
OBJECT_DECLARE_TYPE(StdioChardev, ChardevClass, STDIO_CHARDEV, TYPE_CHARDEV_STDIO)

static StdioChardev *stdio_user; /* a process has one standard input */
static ChardevEscapeFn escape_fn;
static void *escape_opaque;

void chardev_stdio_set_escape(ChardevEscapeFn fn, void *opaque)
{
    escape_fn = fn;
    escape_opaque = opaque;
}

/* "ctrl-a", "^a", "0x01", one character, "none". */
static bool parse_escape(StdioChardev *s, GError **error)
{
    const char *text = s->escape;
    const char *ctrl = NULL;
    char *end;

    s->escape_key = -1;
    if (!text || !*text || !g_ascii_strcasecmp(text, "none")) {
        return true;
    }
    if (!g_ascii_strncasecmp(text, "ctrl-", 5)) {
        ctrl = text + 5;
    } else if (text[0] == '^' && text[1]) {
        ctrl = text + 1;
    }
    if (ctrl) {
        int c = g_ascii_toupper(*ctrl);

        if (ctrl[1] == '\0' && c >= '@' && c <= '_') {
            s->escape_key = c & 0x1f;
            return true;
        }
    } else if (text[1] == '\0') {
        s->escape_key = (unsigned char)*text;
        return true;
    } else if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        unsigned long v = strtoul(text, &end, 16);

        if (*end == '\0' && end > text + 2 && v <= 0xff) {
            s->escape_key = (int)v;
            return true;
        }
    }
    return error_set(error, ENGINE_ERROR_INVALID,
                     "chardev '%s': escape '%s' is not a key: \"ctrl-a\", a character, a code such "
                     "as 0x1d, or \"none\"",
                     chardev_label(&s->parent), text);
}

static void print_help(const StdioChardev *s)
{
    char key[16];

    if (s->escape_key < 0x20) {
        snprintf(key, sizeof(key), "Ctrl-%c", tolower(s->escape_key | 0x40));
    } else {
        snprintf(key, sizeof(key), "%c", s->escape_key);
    }
    fprintf(stderr,
            "\r\n%s h   this help\r\n%s x   end\r\n%s b   send a break\r\n%s %s   send %s\r\n", key,
            key, key, key, key, key);
}

static void escape_command(StdioChardev *s, uint8_t key)
{
    Chardev *chr = &s->parent;

    if (key == s->escape_key) {
        chardev_receive(chr, &key, 1);
    } else if (key == 'b') {
        chardev_event(chr, CHARDEV_BREAK);
    } else if (key == 'h' || key == '?') {
        print_help(s);
    } else if (escape_fn && escape_fn(chr, (char)key, escape_opaque)) {
        return;
    } else if (key == 'x' && !escape_fn) {
        raise(SIGTERM);
    }
}

static void stdio_received(Chardev *chr, uint8_t *buf, size_t len)
{
    StdioChardev *s = STDIO_CHARDEV(chr);
    size_t from = 0;

    if (s->escape_key < 0 || !s->raw) {
        chardev_receive(chr, buf, len);
        return;
    }
    for (size_t i = 0; i < len && chr->opened; i++) {
        if (s->escaped) {
            s->escaped = false;
            from = i + 1;
            escape_command(s, buf[i]);
        } else if (buf[i] == s->escape_key) {
            s->escaped = true;
            if (i > from) {
                chardev_receive(chr, buf + from, i - from);
            }
            from = i + 1;
        }
    }
    if (from < len && chr->opened) {
        chardev_receive(chr, buf + from, len - from);
    }
}

/* A description of our own of what is behind fd, so that O_NONBLOCK is nobody else's matter. */
static int own_descriptor(int fd, int mode, bool *may_block)
{
    struct stat st;
    char name[32];
    int own;

    *may_block = false;
    if (fstat(fd, &st) != 0) {
        return -1;
    }
    if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
        snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
        own = open(name, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (own >= 0) {
            return own;
        }
        *may_block = true;
    }
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static void stdin_ended(Chardev *chr)
{
    StdioChardev *s = STDIO_CHARDEV(chr);

    /* The end of piped input: the guest hears nothing more, but may still speak. */
    if (s->fd.error) {
        log_warning("chardev '%s': standard input: %s", chardev_label(chr),
                    g_strerror(s->fd.error));
    }
}

static void stdout_ended(Chardev *chr)
{
    log_warning("chardev '%s': standard output: %s; what follows is dropped", chardev_label(chr),
                g_strerror(STDIO_CHARDEV(chr)->fd.error));
    chardev_event(chr, CHARDEV_CLOSED);
}

static bool stdio_open(Chardev *chr, GError **error)
{
    StdioChardev *s = STDIO_CHARDEV(chr);
    bool in_may_block, out_may_block;
    int in, out;

    if (stdio_user) {
        return error_set(error, ENGINE_ERROR_BUSY,
                         "chardev '%s': standard input and output are in use by another chardev",
                         chardev_label(chr));
    }
    if (!parse_escape(s, error)) {
        return false;
    }
    in = own_descriptor(STDIN_FILENO, O_RDONLY,
                        &in_may_block); /* closed: the guest hears nothing */
    out = own_descriptor(STDOUT_FILENO, O_WRONLY, &out_may_block);
    if (out < 0) {
        error_set_errno(error, "chardev '%s': standard output", chardev_label(chr));
        if (in >= 0) {
            close(in);
        }
        return false;
    }
    s->escaped = false;
    s->raw = in >= 0 && isatty(in) && tty_enter_raw(in, s->signals, NULL);
    chardev_fd_start(&s->fd, chr, in, out, stdin_ended, stdout_ended);
    s->fd.may_block = out_may_block;
    s->fd.received = stdio_received;
    stdio_user = s;
    return true;
}

static void stdio_close(Chardev *chr)
{
    StdioChardev *s = STDIO_CHARDEV(chr);

    if (s->raw) {
        tty_leave_raw();
        s->raw = false;
    }
    chardev_fd_stop(&s->fd);
    stdio_user = NULL;
}

static ssize_t stdio_write(Chardev *chr, const uint8_t *buf, size_t len)
{
    return chardev_fd_write(&STDIO_CHARDEV(chr)->fd, buf, len);
}

static void stdio_update_read(Chardev *chr)
{
    chardev_fd_update_read(&STDIO_CHARDEV(chr)->fd);
}

static bool stdio_wait_out(Chardev *chr, int ms)
{
    return chardev_fd_wait_out(&STDIO_CHARDEV(chr)->fd, ms);
}

static const Property stdio_properties[] = {
    { .name = "escape",
      .doc = "the key before a command to the emulator: \"ctrl-a\", a character, \"none\"",
      .kind = PROP_STRING,
      .offset = offsetof(StdioChardev, escape),
      .flags = PROP_UNTIL_REALIZED,
      .has_default = true,
      .def = { .kind = PROP_STRING, .string = (char *)(uintptr_t) "ctrl-a" } },
    DEFINE_PROP_BOOL(
        "signal", StdioChardev, signals, false,
        "Ctrl-C, Ctrl-\\ and Ctrl-Z act on the emulator instead of reaching the guest"),
};

static void stdio_class_init(ObjectClass *klass, const void *data)
{
    ChardevClass *k = CHARDEV_CLASS(klass);

    k->alias = "stdio";
    k->open = stdio_open;
    k->close = stdio_close;
    k->write = stdio_write;
    k->update_read = stdio_update_read;
    k->wait_out = stdio_wait_out;
    object_class_add_properties(klass, stdio_properties, G_N_ELEMENTS(stdio_properties));
}

static const TypeInfo stdio_info = {
    .name = TYPE_CHARDEV_STDIO,
    .parent = TYPE_CHARDEV,
    .doc = "Standard input and output of the emulator",
    .instance_size = sizeof(StdioChardev),
    .class_init = stdio_class_init,
};

static void register_stdio(void)
{
    type_register_static(&stdio_info);
}
type_init(register_stdio)
